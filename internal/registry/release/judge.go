package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/trust"
)

// Rules is what the server judges by at one moment.
type Rules struct {
	Policy   *policy.Policy // nil: policy.Default()
	Trust    *trust.Policy  // nil: nobody is believed
	Database gate.Database  // nil: there is none, which refuses

	DatabaseDigest oci.Digest // names the database in the audit log
}

// judgement is what the gate says of an image or an index, with everything that
// a release needs of it.
type judgement struct {
	home       string // production repository without a host
	repository string // HOST/NAME that it was judged for
	from       string // repository that has the content
	class      catalog.Class
	images     *gate.Images
	reports    []*gate.Report // of images.Images, in their order
	joined     *gate.Report   // of the index; nil for a single image
	place      *place
	seen       []oci.Digest // every manifest that refers to one of the closure
	rules      Rules
}

func (j *judgement) allowed() bool {
	return len(j.reports) > 0 && !slices.ContainsFunc(j.reports, func(r *gate.Report) bool { return !r.Verdict.Allowed })
}

func (j *judgement) results() *gate.Results {
	var all []gate.Judged
	for _, r := range j.reports {
		all = append(all, gate.Judged{Name: j.repository + "@" + string(j.images.Root.Digest), Report: r})
	}
	out := gate.Document(all)
	return &out
}

// claims are the believed ones of all images.
func (j *judgement) claims() (out []oci.Digest) {
	for _, r := range j.reports {
		out = append(out, r.Inputs...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// judged are the images that the gate was asked about, and the indexes that lead
// to them: nothing else that runs may come along.
func (j *judgement) judged() []oci.Digest {
	out := append([]oci.Digest{j.images.Root.Digest}, j.images.Indexes...)
	for _, d := range j.images.Images {
		out = append(out, d.Digest)
	}
	return out
}

// look lists everything that is said about the image, its parts and what is said
// of them, beyond what the gate looked at: the release takes it along, and is
// refused when there is anything else by then. What the gate listed must still be
// the same.
func (j *judgement) look(ctx context.Context, r Registry) error {
	all, _, err := r.Closure(ctx, j.from, j.images.Root.Digest)
	if err != nil {
		return err
	}
	judged := j.judged()
	for _, d := range all {
		if _, err := j.place.List(ctx, d); err != nil {
			return err
		}
		if slices.Contains(judged, d) {
			continue
		}
		// The registry's own transaction refuses it too; a foreign registry would not.
		m, err := r.Manifest(ctx, j.from, string(d))
		if err != nil {
			return err
		}
		if registry.Runs(m) {
			return problemf(http.StatusUnprocessableEntity, registry.Denied, registry.NotJudged,
				"%s would come along, which is an image or index itself and which nobody judged", d).
				remedy("delete from %s what refers to the candidate and is no claim; of an index, list only images that are judged", j.from)
		}
	}
	j.place.mu.Lock()
	defer j.place.mu.Unlock()
	for _, list := range j.place.seen {
		j.seen = append(j.seen, list...)
	}
	slices.Sort(j.seen)
	j.seen = slices.Compact(j.seen)
	return nil
}

// find looks where the server has the digest: among the candidates, then among
// what was released, then in the development catalog, whose images are judged so
// that the refusal names every reason.
func (s *Service) find(ctx context.Context, home string, d oci.Digest) (repository string, class catalog.Class, root oci.Descriptor, err error) {
	for _, c := range []struct {
		repository string
		class      catalog.Class
	}{{home + "/candidate", catalog.Candidate}, {home, catalog.Production}, {home + "/dev", catalog.Development}} {
		m, err := s.c.Registry.Manifest(ctx, c.repository, string(d))
		if unknown(err) {
			if e, ok := errors.AsType[*registry.Error](err); ok && e.Reason != "" {
				return "", 0, root, err // a tombstone
			}
			continue
		}
		if err != nil {
			return "", 0, root, err
		}
		root = oci.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(m.Content))}
		return c.repository, c.class, root, nil
	}
	p := problemf(http.StatusNotFound, registry.ManifestUnknown, NotACandidate, "%s has no candidate %s", home, d).
		remedy("push it: `twinhull publish` sends it to %s/candidate; candidates are kept for a limited time", home)
	return "", 0, root, p
}

// judge asks the gate about a digest for a production repository.
func (s *Service) judge(ctx context.Context, home, repository string, d oci.Digest) (*judgement, error) {
	from, class, root, err := s.find(ctx, home, d)
	if err != nil {
		return nil, err
	}
	rules, err := s.c.Rules(ctx)
	if err != nil {
		return nil, undecided(fmt.Errorf("what to judge by: %w", err))
	}
	j := &judgement{home: home, repository: repository, from: from, class: class, rules: rules}
	c := content{ctx, s.c.Registry, from}
	j.place = &place{content: c, seen: map[oci.Digest][]oci.Digest{}}
	if j.images, err = gate.FindImages(root, oci.Platform{}, c.ReadBlob); err != nil {
		return nil, unreadable(ctx, err)
	}
	if j.images.Strange {
		return nil, problemf(http.StatusUnprocessableEntity, registry.ManifestInvalid, RefusedByGate,
			"the index %s lists manifests that call themselves artifacts and that runtimes could take for images", d).
			remedy("keep claims as referrers; release one image by its digest")
	}
	if len(j.images.Images) == 0 {
		return nil, problemf(http.StatusUnprocessableEntity, registry.ManifestInvalid, RefusedByGate, "the index %s holds no image", d)
	}
	now := s.c.Now()
	for _, desc := range j.images.Images {
		facts, img, err := s.facts(ctx, c, desc)
		if err != nil {
			return nil, unreadable(ctx, fmt.Errorf("%s: %w", desc.Digest, err))
		}
		req := gate.Request{Image: img, Place: j.place, Says: j.images.Says, Zone: oci.Production, Repository: repository, Now: now,
			Trust: rules.Trust, Policy: rules.Policy, Database: rules.Database, Facts: facts}
		if oci.IsIndex(root.MediaType) {
			req.Index = root.Digest
		}
		r, err := gate.Judge(ctx, req)
		if err != nil {
			if e, ok := errors.AsType[*registry.Error](err); ok {
				return nil, e
			}
			return nil, undecided(fmt.Errorf("%s: %w", desc.Digest, err))
		}
		j.reports = append(j.reports, r)
	}
	if oci.IsIndex(root.MediaType) {
		j.joined = gate.Join(root.Digest, j.reports)
	}
	return j, j.look(ctx, s.c.Registry)
}

// unreadable tells content that is wrong, which will be as wrong the next time,
// from a server that cannot read now.
func unreadable(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*registry.Error](err); ok && !errors.Is(err, oci.ErrNotFound) || ctx.Err() != nil {
		return err
	}
	p := problemf(http.StatusUnprocessableEntity, registry.ManifestInvalid, RefusedByGate, "the image cannot be read: %v", err)
	return p
}

// facts returns what the bytes of an image show, which never changes, and the
// opened image. An image that is read by two requests at once is read once.
func (s *Service) facts(ctx context.Context, c content, d oci.Descriptor) (*inspect.Facts, *image.Image, error) {
	img, err := image.OpenDescriptor(c, d, image.OpenOptions{})
	if err != nil {
		return nil, nil, err
	}
	for {
		f, wait, mine := s.known.get(d.Digest)
		switch {
		case f != nil:
			return f, img, nil
		case mine:
			f, err := s.inspect(ctx, img)
			s.known.set(d.Digest, f)
			return f, img, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

func (s *Service) inspect(ctx context.Context, img *image.Image) (*inspect.Facts, error) {
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return inspect.Inspect(ctx, img, inspect.Options{Tree: true, Limits: s.c.Limits})
}

// knownFacts keeps the facts of the images that were read last. Only what was
// read whole is kept: the rest may have been the disk's fault.
type knownFacts struct {
	mu      sync.Mutex
	most    int // paths in all of them together
	paths   int
	list    []*inspect.Facts // the latest used last
	reading map[oci.Digest]chan struct{}
}

// get returns the facts; or a channel that is closed when somebody else has
// read them; or mine, when the caller must read and then call set.
func (k *knownFacts) get(d oci.Digest) (f *inspect.Facts, wait chan struct{}, mine bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.IndexFunc(k.list, func(f *inspect.Facts) bool { return f.Digest == d }); i >= 0 {
		f = k.list[i]
		k.list = append(slices.Delete(k.list, i, i+1), f)
		return f, nil, false
	}
	if wait, ok := k.reading[d]; ok {
		return nil, wait, false
	}
	if k.reading == nil {
		k.reading = map[oci.Digest]chan struct{}{}
	}
	k.reading[d] = make(chan struct{})
	return nil, nil, true
}

func (k *knownFacts) set(d oci.Digest, f *inspect.Facts) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.reading[d])
	delete(k.reading, d)
	if f == nil || !f.Complete || f.Digest != d || len(f.Tree) > k.most {
		return
	}
	k.list = append(k.list, f)
	k.paths += len(f.Tree)
	for k.paths > k.most {
		k.paths -= len(k.list[0].Tree)
		k.list[0] = nil
		k.list = k.list[1:]
	}
}

func platformOf(d oci.Descriptor, f *inspect.Facts) string {
	if d.Platform != nil {
		return d.Platform.OS + "/" + cmp.Or(d.Platform.Architecture, f.Platform.Architecture) + variant(d.Platform)
	}
	return f.Platform.String()
}

func variant(p *ocispec.Platform) string {
	if p.Variant == "" {
		return ""
	}
	return "/" + p.Variant
}
