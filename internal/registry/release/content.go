package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// Reader is what a release reads of a registry: *registry.Registry.
type Reader interface {
	Manifest(ctx context.Context, repository, ref string) (registry.Manifest, error)
	Blob(ctx context.Context, repository string, d oci.Digest) (*store.Blob, error)
	Referrers(ctx context.Context, repository string, subject oci.Digest, artifactType string, p registry.Page) ([]oci.Descriptor, bool, error)
}

// content is a repository of the server's own as the image package and the
// claims' place read it: straight from the store, verified.
type content struct {
	ctx        context.Context
	from       Reader
	repository string
}

// ReadBlob implements image.Content.
func (c content) ReadBlob(d oci.Descriptor) ([]byte, error) {
	return c.read(c.ctx, d, oci.MaxManifest)
}

// Blob implements image.Content.
func (c content) Blob(d oci.Digest) (io.ReadCloser, int64, error) {
	b, err := c.from.Blob(c.ctx, c.repository, d)
	if err != nil {
		return nil, 0, missing(err)
	}
	return oci.VerifyReader(b.Content, d, b.Size), b.Size, nil
}

func (c content) read(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("%s says it has %d bytes: at most %d are read", d.Digest, d.Size, limit)
	}
	if oci.IsManifest(d.MediaType) || oci.IsIndex(d.MediaType) {
		m, err := c.from.Manifest(ctx, c.repository, string(d.Digest))
		if err != nil {
			return nil, missing(err)
		}
		if int64(len(m.Content)) != d.Size || d.Digest.Algorithm().FromBytes(m.Content) != d.Digest {
			return nil, fmt.Errorf("manifest %s is not what its descriptor says: %w", d.Digest, oci.ErrDamaged)
		}
		return m.Content, nil
	}
	b, err := c.from.Blob(ctx, c.repository, d.Digest)
	if err != nil {
		return nil, missing(err)
	}
	r := oci.VerifyReader(b.Content, d.Digest, d.Size)
	defer r.Close()
	if b.Size != d.Size {
		return nil, fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, b.Size, d.Size, oci.ErrDamaged)
	}
	return io.ReadAll(r)
}

// missing makes the registry's "unknown" what readers of claims understand.
func missing(err error) error {
	if unknown(err) {
		return fmt.Errorf("%w: %w", oci.ErrNotFound, err)
	}
	return err
}

func unknown(err error) bool {
	e, ok := errors.AsType[*registry.Error](err)
	return ok && (e.Code == registry.ManifestUnknown || e.Code == registry.BlobUnknown || e.Code == registry.NameUnknown)
}

// place is a repository as a place of claims. It remembers every referrer that
// was listed, so that the release can be refused when others came or went
// before it was made.
type place struct {
	content
	mu   sync.Mutex
	seen map[oci.Digest][]oci.Digest // by subject
}

// List implements referrers.Place.
func (p *place) List(ctx context.Context, subject oci.Digest) ([]oci.Descriptor, error) {
	if err := subject.Validate(); err != nil {
		return nil, err
	}
	var all []oci.Descriptor
	for page := (registry.Page{Limit: 500}); ; {
		list, more, err := p.from.Referrers(ctx, p.repository, subject, "", page)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
		if len(all) > referrers.MaxReferrers {
			return nil, fmt.Errorf("more than %d manifests refer to %s", referrers.MaxReferrers, subject)
		}
		if !more || len(list) == 0 {
			break
		}
		page.After = string(list[len(list)-1].Digest)
	}
	digests := make([]oci.Digest, len(all))
	for i, d := range all {
		digests[i] = d.Digest
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if before, ok := p.seen[subject]; ok && !sameDigests(before, digests) {
		// Two lists of one judgement differ: claims came while it was made.
		return nil, &registry.Error{Code: registry.Conflict, Reason: registry.CandidateChanged,
			Message: "claims about " + string(subject) + " came or went while it was judged", Remedy: "repeat the request with the same id"}
	}
	p.seen[subject] = digests
	return all, nil
}

func sameDigests(a, b []oci.Digest) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Read implements referrers.Place.
func (p *place) Read(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	return p.read(ctx, d, limit)
}

// Put implements referrers.Place: judging writes nothing.
func (p *place) Put(context.Context, ocispec.Manifest, ...referrers.Blob) (oci.Descriptor, error) {
	return oci.Descriptor{}, errors.New("a place that is only read")
}

// collected is a place that keeps what is put there for the transaction of the
// release, which stores all of it or nothing.
type collected struct{ list []registry.Attachment }

func (c *collected) List(context.Context, oci.Digest) ([]oci.Descriptor, error) { return nil, nil }
func (c *collected) Read(context.Context, oci.Descriptor, int64) ([]byte, error) {
	return nil, oci.ErrNotFound
}

// Put implements referrers.Place.
func (c *collected) Put(_ context.Context, m ocispec.Manifest, blobs ...referrers.Blob) (oci.Descriptor, error) {
	if m.Subject == nil {
		return oci.Descriptor{}, errors.New("referrer without a subject")
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return oci.Descriptor{}, err
	}
	a := registry.Attachment{MediaType: ocispec.MediaTypeImageManifest, Manifest: raw}
	for _, b := range blobs {
		a.Blobs = append(a.Blobs, b.Data)
	}
	c.list = append(c.list, a)
	return oci.Descriptor{MediaType: a.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw)), ArtifactType: m.ArtifactType, Annotations: m.Annotations}, nil
}
