// Package referrers keeps claims beside the image that they are about: as
// referrers (OCI image specification 1.1, "subject") in a layout or a registry,
// in the form in which cosign 3 writes and finds them.
//
// Nothing that comes out of this package is believed: it finds bytes, and
// trust.Open judges them. It lists what others put there too, and whoever may
// push to a repository may put anything there.
package referrers

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/trust"
)

// Annotations of a claim's manifest, as cosign 3 writes them.
const (
	annotationContent   = "dev.sigstore.bundle.content"
	annotationPredicate = "dev.sigstore.bundle.predicateType"
)

// MaxReferrers is how many manifests may refer to one image.
const MaxReferrers = 2000

// Limits of what is read of one image.
const (
	maxTotal = 256 << 20 // bytes of all claims, with their manifests
	maxSays  = 200       // bytes of the type that a manifest says
)

// MaxDocument is the largest document beside a claim that Document reads, in
// bytes.
const MaxDocument = 256 << 20

// Place is where an image and what refers to it are kept.
type Place interface {
	// List returns the manifests that say of themselves that they refer to the
	// digest. None is no error.
	List(ctx context.Context, subject oci.Digest) ([]oci.Descriptor, error)
	// Read returns a manifest or blob of at most limit bytes, verified. It
	// matches oci.ErrNotFound when there is none.
	Read(ctx context.Context, desc oci.Descriptor, limit int64) ([]byte, error)
	// Put stores a manifest with the blobs that it names, the manifest last,
	// and lists it among the referrers of its subject.
	Put(ctx context.Context, manifest ocispec.Manifest, blobs ...Blob) (oci.Descriptor, error)
}

// Blob is content with its media type.
type Blob struct {
	MediaType string
	Data      []byte
}

func (b Blob) descriptor() oci.Descriptor {
	return oci.Descriptor{MediaType: b.MediaType, Digest: digest.FromBytes(b.Data), Size: int64(len(b.Data))}
}

// Attach stores a bundle as a claim about the subject. created is when, for
// people; a claim's real time is in the claim.
func Attach(ctx context.Context, p Place, subject oci.Descriptor, bundle []byte, predicateType string, created time.Time) (oci.Descriptor, error) {
	return p.Put(ctx, artifact(subject, trust.BundleType, Blob{trust.BundleType, bundle}, map[string]string{
		annotationContent:         "dsse-envelope",
		annotationPredicate:       predicateType,
		ocispec.AnnotationCreated: created.UTC().Format(time.RFC3339),
	}), Blob{ocispec.MediaTypeEmptyJSON, []byte("{}")}, Blob{trust.BundleType, bundle})
}

// AttachDocument stores a document that a claim refers to. Equal documents are
// one manifest.
func AttachDocument(ctx context.Context, p Place, subject oci.Descriptor, doc Blob) (oci.Descriptor, error) {
	return p.Put(ctx, artifact(subject, doc.MediaType, doc, nil), Blob{ocispec.MediaTypeEmptyJSON, []byte("{}")}, doc)
}

func artifact(subject oci.Descriptor, artifactType string, doc Blob, annotations map[string]string) ocispec.Manifest {
	s := oci.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	return ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: Blob{ocispec.MediaTypeEmptyJSON, []byte("{}")}.descriptor(), Layers: []oci.Descriptor{doc.descriptor()},
		Subject: &s, Annotations: annotations,
	}
}

// Found is a claim that nobody has opened.
type Found struct {
	Manifest oci.Descriptor
	Says     string // predicate type that its annotation claims; may be wrong or empty
	Bundle   []byte
	Err      error // why there is no Bundle
}

// Claims returns what looks like a claim about the digest, in the order of the
// manifests' digests. One that cannot be read is listed with its error, so that
// a damaged claim is seen and not missing.
func Claims(ctx context.Context, p Place, subject oci.Digest) ([]Found, error) {
	list, err := p.List(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("claims about %s: %w", subject, err)
	}
	var out []Found
	total := int64(0)
	for _, d := range list {
		if !unknownType(d) && !strings.HasPrefix(d.ArtifactType, bundlePrefix) {
			continue
		}
		// Manifests count too: whoever may push can make them large, and
		// thousands of them.
		total += counted(d.Size, oci.MaxManifest)
		f := Found{Manifest: d, Says: clip(d.Annotations[annotationPredicate])}
		layer, says, isClaim, err := claimLayer(ctx, p, d, subject)
		if err == nil && !isClaim {
			continue
		}
		if says != "" {
			f.Says = says
		}
		if err == nil {
			total += counted(layer.Size, trust.MaxBundle)
		}
		if total > maxTotal {
			return nil, fmt.Errorf("claims about %s: more than %d bytes", subject, maxTotal)
		}
		if err == nil {
			f.Bundle, err = p.Read(ctx, layer, trust.MaxBundle)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		f.Err = err
		out = append(out, f)
	}
	return out, nil
}

// clip cuts what a manifest says of itself; the rest of the manifest need not
// stay in memory for it.
func clip(s string) string {
	return strings.ToValidUTF8(strings.Clone(s[:min(len(s), maxSays)]), "")
}

// counted is what a part costs: nothing of one that says it is larger than what
// is read.
func counted(size, limit int64) int64 {
	if size > limit {
		return 0
	}
	return size
}

// bundlePrefix begins the media types of all bundle formats: older ones are
// found too, so that they are refused and not overlooked.
const bundlePrefix = "application/vnd.dev.sigstore.bundle"

// unknownType tells that a list does not say what a manifest is. Some registries
// leave the type out, some give the configuration's, which claims do not have.
func unknownType(d oci.Descriptor) bool {
	return d.ArtifactType == "" || d.ArtifactType == ocispec.MediaTypeEmptyJSON
}

func claimLayer(ctx context.Context, p Place, d oci.Descriptor, subject oci.Digest) (layer oci.Descriptor, says string, isClaim bool, _ error) {
	raw, err := p.Read(ctx, d, oci.MaxManifest)
	if err != nil {
		return layer, "", true, err
	}
	m, err := oci.ParseManifest(raw)
	if err != nil {
		return layer, "", true, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	says = clip(m.Annotations[annotationPredicate])
	if len(m.Layers) == 0 || !strings.HasPrefix(m.Layers[0].MediaType, bundlePrefix) {
		if unknownType(d) && !strings.HasPrefix(m.ArtifactType, bundlePrefix) {
			return layer, says, false, nil // something else
		}
		return layer, says, true, fmt.Errorf("manifest %s holds no bundle", d.Digest)
	}
	switch {
	case m.Subject == nil || m.Subject.Digest != subject:
		return layer, says, true, fmt.Errorf("manifest %s refers to another image", d.Digest)
	case len(m.Layers) != 1:
		return layer, says, true, fmt.Errorf("manifest %s has %d layers, want one bundle", d.Digest, len(m.Layers))
	}
	return m.Layers[0], says, true, nil
}

// Document reads a document that an opened claim refers to. It is verified by
// the digest of the claim, wherever it was found.
func Document(ctx context.Context, p Place, subject oci.Digest, ref evidence.Resource) ([]byte, error) {
	d, err := ref.OCIDigest()
	if err != nil {
		return nil, err
	}
	// Its size stands in the manifest that brought it. Anybody who may push can
	// add a manifest that names the document and lies about it: another one may
	// still tell the truth.
	list, err := p.List(ctx, subject)
	if err != nil {
		return nil, err
	}
	var lie error
	total := int64(0)
	for _, m := range list {
		if !unknownType(m) && m.ArtifactType != ref.MediaType {
			continue
		}
		if total += counted(m.Size, oci.MaxManifest); total > maxTotal {
			return nil, fmt.Errorf("document %s of %s: more than %d bytes of manifests to look for it", d, subject, maxTotal)
		}
		raw, err := p.Read(ctx, m, oci.MaxManifest)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			continue // somebody else's, perhaps; the document may still be there
		}
		parsed, err := oci.ParseManifest(raw)
		if err != nil {
			continue
		}
		for _, l := range parsed.Layers {
			if l.Digest != d {
				continue
			}
			doc, err := p.Read(ctx, l, MaxDocument)
			if err == nil || ctx.Err() != nil {
				return doc, err
			}
			lie = cmp.Or(lie, err)
			break
		}
	}
	if lie != nil {
		return nil, lie
	}
	return nil, fmt.Errorf("document %s (%s) of %s: %w", d, ref.MediaType, subject, oci.ErrNotFound)
}

// InLayout is a layout as a Place. It lists the referrers tag (distribution
// specification, "Referrers Tag Schema") and what index.json itself names.
func InLayout(l *oci.Layout) Place { return layout{l} }

type layout struct{ l *oci.Layout }

func (p layout) List(_ context.Context, subject oci.Digest) ([]oci.Descriptor, error) {
	if err := subject.Validate(); err != nil {
		return nil, err
	}
	idx, err := p.l.Index()
	if err != nil {
		return nil, err
	}
	var all []oci.Descriptor
	for _, d := range idx.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == build.ReferrersTag(subject) {
			if !oci.IsIndex(d.MediaType) {
				return nil, fmt.Errorf("referrers of %s: the tag names no index", subject)
			}
			raw, err := p.l.ReadBlob(d)
			if err != nil {
				return nil, err
			}
			refs, err := oci.ParseIndex(raw)
			if err != nil {
				return nil, fmt.Errorf("referrers of %s: %w", subject, err)
			}
			all = append(all, refs.Manifests...)
			continue
		}
		// Tools that copy an image with its referrers list them beside it.
		if d.ArtifactType != "" && oci.IsManifest(d.MediaType) {
			if raw, err := p.l.ReadBlob(d); err == nil {
				if m, err := oci.ParseManifest(raw); err == nil && m.Subject != nil && m.Subject.Digest == subject {
					d.Annotations = map[string]string{annotationPredicate: clip(m.Annotations[annotationPredicate])}
					all = append(all, d)
				}
			}
		}
	}
	return tidy(subject, all)
}

// tidy bounds and orders a list.
func tidy(subject oci.Digest, all []oci.Descriptor) ([]oci.Descriptor, error) {
	if len(all) > MaxReferrers {
		return nil, fmt.Errorf("%d manifests refer to %s: at most %d are read", len(all), subject, MaxReferrers)
	}
	for _, d := range all {
		if err := oci.CheckDescriptor(d); err != nil {
			return nil, fmt.Errorf("referrers of %s: %w", subject, err)
		}
	}
	slices.SortFunc(all, func(a, b oci.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return slices.CompactFunc(all, func(a, b oci.Descriptor) bool { return a.Digest == b.Digest }), nil
}

func (p layout) Read(_ context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("%s says it has %d bytes: at most %d are read", d.Digest, d.Size, limit)
	}
	r, size, err := p.l.Blob(d.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size != d.Size {
		return nil, fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, size, d.Size, oci.ErrDamaged)
	}
	return io.ReadAll(r)
}

func (p layout) Put(ctx context.Context, m ocispec.Manifest, blobs ...Blob) (oci.Descriptor, error) {
	raw, desc, err := encode(m)
	if err != nil {
		return desc, err
	}
	tag := build.ReferrersTag(m.Subject.Digest)
	return desc, p.l.Update(ctx, func(u *oci.Update) error {
		for _, b := range append(blobs, Blob{ocispec.MediaTypeImageManifest, raw}) {
			if _, err := p.l.PutBytes(b.MediaType, b.Data); err != nil {
				return err
			}
		}
		idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
		old, err := p.l.Tag(tag)
		switch {
		case err == nil:
			b, err := p.l.ReadBlob(old)
			if err != nil {
				return err
			}
			if idx, err = oci.ParseIndex(b); err != nil {
				return fmt.Errorf("referrers of %s: %w", m.Subject.Digest, err)
			}
		case !errors.Is(err, oci.ErrNotFound):
			return err
		}
		if slices.ContainsFunc(idx.Manifests, func(d oci.Descriptor) bool { return d.Digest == desc.Digest }) {
			return nil
		}
		idx.Manifests = append(idx.Manifests, desc)
		slices.SortFunc(idx.Manifests, func(a, b oci.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
		b, err := json.Marshal(idx)
		if err != nil {
			return err
		}
		d, err := p.l.PutBytes(ocispec.MediaTypeImageIndex, append(b, '\n'))
		if err != nil {
			return err
		}
		return u.SetTag(tag, d)
	})
}

// encode returns the manifest's bytes and its entry in a list of referrers.
func encode(m ocispec.Manifest) ([]byte, oci.Descriptor, error) {
	if m.Subject == nil {
		return nil, oci.Descriptor{}, errors.New("referrer without a subject")
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, oci.Descriptor{}, err
	}
	d := Blob{ocispec.MediaTypeImageManifest, raw}.descriptor()
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	return raw, d, nil
}

// RegistryOptions says how to speak to a registry. The zero value is ready.
type RegistryOptions struct {
	Keychain  authn.Keychain    // nil: the usual Docker configuration
	Transport http.RoundTripper // nil: http.DefaultTransport
}

// InRegistry is a repository of a registry as a Place; tag and digest of the
// reference do not matter. Registries without the referrers interface are
// served by the referrers tag.
func InRegistry(ref oci.Ref, opt RegistryOptions) (Place, error) {
	if ref.Kind != oci.RegistryRef {
		return nil, fmt.Errorf("%s is no registry reference", ref)
	}
	// The library wants a tag or digest; only the repository is used.
	n, err := image.RegistryName(oci.Ref{Kind: oci.RegistryRef, Host: ref.Host, Name: ref.Name, Tag: "latest"})
	if err != nil {
		return nil, err
	}
	return repository{n.Context(), opt}, nil
}

type repository struct {
	repo name.Repository
	opt  RegistryOptions
}

func (p repository) options(ctx context.Context) []remote.Option {
	base := p.opt.Transport
	if base == nil {
		base = http.DefaultTransport
	}
	return image.RegistryOptions(ctx, p.opt.Keychain, allPages{base})
}

func (p repository) List(ctx context.Context, subject oci.Digest) ([]oci.Descriptor, error) {
	if err := subject.Validate(); err != nil {
		return nil, err
	}
	idx, err := remote.Referrers(p.repo.Digest(string(subject)), p.options(ctx)...)
	if err != nil {
		return nil, err
	}
	raw, err := idx.RawManifest()
	if err != nil {
		return nil, err
	}
	if len(raw) > oci.MaxManifest {
		return nil, fmt.Errorf("the list of referrers has %d bytes: at most %d are read", len(raw), oci.MaxManifest)
	}
	parsed, err := oci.ParseIndex(raw)
	if err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", subject, err)
	}
	return tidy(subject, parsed.Manifests)
}

func (p repository) Read(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("%s says it has %d bytes: at most %d are read", d.Digest, d.Size, limit)
	}
	var r io.ReadCloser
	ref := p.repo.Digest(string(d.Digest))
	if oci.IsManifest(d.MediaType) || oci.IsIndex(d.MediaType) {
		got, err := remote.Get(ref, p.options(ctx)...)
		if err != nil {
			return nil, missing(err)
		}
		r = io.NopCloser(bytes.NewReader(got.Manifest))
	} else {
		l, err := remote.Layer(ref, p.options(ctx)...)
		if err != nil {
			return nil, missing(err)
		}
		if r, err = l.Compressed(); err != nil {
			return nil, missing(err)
		}
	}
	defer r.Close()
	return io.ReadAll(oci.VerifyReader(r, d.Digest, d.Size))
}

func missing(err error) error {
	if t, ok := errors.AsType[*transport.Error](err); ok && t.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %w", oci.ErrNotFound, err)
	}
	return err
}

func (p repository) Put(ctx context.Context, m ocispec.Manifest, blobs ...Blob) (oci.Descriptor, error) {
	raw, desc, err := encode(m)
	if err != nil {
		return desc, err
	}
	for _, b := range blobs {
		if err := remote.WriteLayer(p.repo, static.NewLayer(b.Data, types.MediaType(b.MediaType)), p.options(ctx)...); err != nil {
			return desc, fmt.Errorf("push to %s: %w", p.repo, err)
		}
	}
	// The library adds it to the referrers tag where the registry does not
	// list referrers by itself.
	if err := remote.Put(p.repo.Digest(string(desc.Digest)), taggable{raw}, p.options(ctx)...); err != nil {
		return desc, fmt.Errorf("push to %s: %w", p.repo, err)
	}
	return desc, nil
}

type taggable struct{ raw []byte }

func (t taggable) RawManifest() ([]byte, error)        { return t.raw, nil }
func (t taggable) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (t taggable) Digest() (v1.Hash, error)            { return v1.NewHash(string(digest.FromBytes(t.raw))) }
func (t taggable) Size() (int64, error)                { return int64(len(t.raw)), nil }
