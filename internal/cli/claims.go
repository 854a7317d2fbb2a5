package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// claimed is an IMAGE argument with the place where claims about it are.
type claimed struct {
	name       string // for people and for the subject's name
	repository string // HOST/NAME; "" outside a registry
	place      referrers.Place
	store      *oci.Layout      // nil in a registry
	remote     bool             // in a registry, where others may write too
	root       oci.Descriptor   // what the argument names: an image or an index
	images     []oci.Descriptor // the images of it, those of the platform that was asked for
	whole      bool             // images are all that there are
	strange    bool             // the index has further manifests that a runtime might take for images
	says       []string         // zones that the indexes say they are of
}

// subjects are the digests that can be signed: the index too, because a tag
// leads to it.
func (c *claimed) subjects() []oci.Descriptor {
	if oci.IsIndex(c.root.MediaType) {
		return append([]oci.Descriptor{c.root}, c.images...)
	}
	return c.images
}

// openClaimed finds an image for signing or verifying. plat chooses one image of
// an index; the zero platform means all.
func openClaimed(ctx context.Context, env *Env, arg, repository string, plat oci.Platform) (*claimed, error) {
	c := &claimed{repository: repository}
	var store *oci.Layout
	ref := oci.Ref{}
	if _, err := oci.ParseZone(arg); err == nil {
		file, err := project.Find(env.Dir)
		if err != nil {
			return nil, &Error{Code: Misused, Err: err}
		}
		ref = oci.Ref{Kind: oci.LayoutRef, Path: filepath.Join(filepath.Dir(file), ".twinhull", "store"), Tag: arg}
		if store, err = oci.OpenLayout(ref.Path); err == nil {
			_, err = store.Tag(arg)
		}
		if err != nil {
			return nil, Refusedf("the project has no %s image yet", arg).WithHint("`twinhull build %s` makes it", arg)
		}
	} else if ref, err = oci.ParseRef(arg); err != nil {
		return nil, Usagef("%w", err).WithHint("an IMAGE is `development`, `production`, oci:DIR[:TAG] or HOST/NAME[:TAG]")
	}
	read := func(d oci.Descriptor) ([]byte, error) { return c.place.Read(ctx, d, oci.MaxManifest) }
	switch ref.Kind {
	case oci.LayoutRef:
		if store == nil {
			var err error
			if store, err = oci.OpenLayout(env.Path(ref.Path)); err != nil {
				return nil, err
			}
		}
		var err error
		if c.root, err = store.Tag(ref.Tag); err != nil {
			return nil, err
		}
		c.place, c.store = referrers.InLayout(store), store
		c.name = ref.Tag
	case oci.RegistryRef:
		var err error
		if c.place, err = referrers.InRegistry(ref, referrers.RegistryOptions{}); err != nil {
			return nil, err
		}
		n, err := image.RegistryName(ref)
		if err != nil {
			return nil, err
		}
		got, err := remote.Get(n, image.RegistryOptions(ctx, nil, nil)...)
		if err != nil {
			return nil, err
		}
		c.root = oci.Descriptor{MediaType: string(got.MediaType), Digest: oci.Digest(got.Digest.String()), Size: got.Size}
		c.name, c.remote = ref.Host+"/"+ref.Name, true
		if c.repository == "" {
			c.repository = c.name
		}
	default:
		return nil, Usagef("%s holds an image and no claims", ref).WithHint("use an OCI layout or a registry: `twinhull build --output oci:DIR`")
	}
	found, err := gate.FindImages(c.root, plat, read)
	if err != nil {
		return nil, err
	}
	c.images, c.whole, c.strange, c.says = found.Images, found.Whole, found.Strange, found.Says
	if len(c.images) == 0 {
		return nil, Refusedf("%s has no image for %s", arg, plat)
	}
	if !c.remote {
		m, err := c.manifest(ctx, c.images[0])
		if err != nil {
			return nil, err
		}
		c.name = cmp.Or(m.Annotations[ocispec.AnnotationTitle], c.name)
	}
	return c, nil
}

// manifest reads an image's manifest.
func (c *claimed) manifest(ctx context.Context, d oci.Descriptor) (ocispec.Manifest, error) {
	raw, err := c.place.Read(ctx, d, oci.MaxManifest)
	if err != nil {
		return ocispec.Manifest{}, err
	}
	return oci.ParseManifest(raw)
}

// rawOrigins finds an image's origins document. Only the project's own store is
// asked when the image is in a registry: signing a document that anybody with
// access there could have put there would be lending him the key.
func (c *claimed) rawOrigins(ctx context.Context, env *Env, d oci.Digest) ([]byte, *build.Origins, error) {
	var places []referrers.Place
	if file, err := project.Find(env.Dir); err == nil {
		if own, err := oci.OpenLayout(filepath.Join(filepath.Dir(file), ".twinhull", "store")); err == nil {
			places = append(places, referrers.InLayout(own))
		}
	}
	if !c.remote {
		places = append(places, c.place)
	}
	for _, p := range places {
		list, err := p.List(ctx, d)
		if err != nil {
			return nil, nil, err
		}
		for _, m := range list {
			if m.ArtifactType != build.OriginsType {
				continue // a layout's list always says what an entry is
			}
			raw, err := p.Read(ctx, m, oci.MaxManifest)
			if err != nil {
				return nil, nil, err
			}
			parsed, err := oci.ParseManifest(raw)
			if err != nil {
				return nil, nil, err
			}
			if parsed.Subject == nil || parsed.Subject.Digest != d || len(parsed.Layers) != 1 {
				return nil, nil, fmt.Errorf("the origins of %s are about another image", d)
			}
			doc, err := p.Read(ctx, parsed.Layers[0], referrers.MaxDocument)
			if err != nil {
				return nil, nil, err
			}
			o, err := build.ParseOrigins(doc, d)
			return doc, o, err
		}
	}
	return nil, nil, Refusedf("the builder's record of %s is not on this machine", d).
		WithHint("attest where the image was built, in the project's folder; or give a document with --type and --predicate")
}

// put signs a statement and stores the claim, unless the same key has made the
// same claim already: statements about one build are the same bytes.
func (c *claimed) put(ctx context.Context, env *Env, subject oci.Descriptor, signer trust.Signer, predicateType string, predicate any, doc *referrers.Blob) (fresh bool, err error) {
	statement, err := evidence.New(c.name, subject.Digest, predicateType, predicate)
	if err != nil {
		return false, err
	}
	mine, err := trust.KeyPolicy(signer.PublicKey())
	if err != nil {
		return false, err
	}
	parsed, err := evidence.Parse(statement)
	if err != nil {
		return false, err
	}
	found, err := referrers.Claims(ctx, c.place, subject.Digest)
	if err != nil {
		return false, err
	}
	if doc != nil {
		// The document first: a claim must not refer to what is not there yet.
		if _, err := referrers.AttachDocument(ctx, c.place, subject, *doc); err != nil {
			return false, err
		}
	}
	for _, f := range found {
		o, err := trust.Open(f.Bundle, subject.Digest, mine, c.repository, env.Now())
		if err == nil && o.PredicateType() == predicateType && string(o.Predicate()) == string(parsed.Predicate) {
			return false, nil
		}
	}
	bundle, err := trust.Sign(ctx, statement, signer)
	if err != nil {
		return false, err
	}
	_, err = referrers.Attach(ctx, c.place, subject, bundle, predicateType, env.Now())
	return err == nil, err
}

// splitKinds reads a list of kinds of claims.
func splitKinds(flag string, values []string) ([]evidence.Kind, error) {
	var out []evidence.Kind
	for _, v := range values {
		for s := range strings.SplitSeq(v, ",") {
			if s = strings.TrimSpace(s); s == "" || s == "none" {
				continue
			}
			k, err := evidence.ParseKind(s)
			if err != nil {
				return nil, Usagef("--%s: %w", flag, err)
			}
			out = append(out, k)
		}
	}
	return out, nil
}

// undecided makes an error that kept us from looking one of "could not decide".
func undecided(err error) error {
	if _, typed := errors.AsType[*Error](err); typed || err == nil {
		return err
	}
	return Undecidedf("%w", err)
}
