package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/progress"
)

// CopyLayout copies what desc reaches from one layout into the layout in dir,
// which is made when absent, and tags it there. Blobs are hard-linked where
// both are on one file system. The tag is set last, under the layout's lock.
func CopyLayout(ctx context.Context, from *oci.Layout, desc oci.Descriptor, dir, tag string) error {
	if err := oci.ValidTag(tag); err != nil {
		return err
	}
	to, err := oci.CreateLayout(dir)
	if err != nil {
		return err
	}
	return to.Update(ctx, func(u *oci.Update) error {
		err := from.Walk(desc, func(d oci.Descriptor) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			path, err := from.BlobPath(d.Digest)
			if err != nil {
				return err
			}
			if size, err := from.Stat(d.Digest); err != nil {
				return err
			} else if size != d.Size {
				return fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, size, d.Size, oci.ErrDamaged)
			}
			return to.LinkBlob(d.Digest, path)
		})
		if err != nil {
			return err
		}
		return u.SetTag(tag, desc)
	})
}

// WriteDockerArchive writes the image to a file that `docker load` and `podman
// load` read, complete or absent. tags are NAME:TAG and may be none. gzip
// layers go in as they are; zstd layers go in uncompressed, because Docker
// before 23 cannot read them. Equal images and tags give equal files.
func WriteDockerArchive(ctx context.Context, img *Image, file string, tags []string) error {
	for _, t := range tags {
		if r, err := oci.ParseRef("docker-archive:x:" + t); err != nil || r.Tag != t || !strings.Contains(t, ":") {
			return fmt.Errorf("docker archive: tag %q: want NAME:TAG", t)
		}
	}
	f, err := durable.Create(file, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, copySize)
	member := func(name string, size int64, content io.Reader) error {
		head, err := appendHeader(nil, &filetree.Entry{Path: name, Type: tar.TypeReg, Mode: 0o644, Size: size})
		if err != nil {
			return err
		}
		if _, err := w.Write(head); err != nil {
			return err
		}
		if n, err := io.Copy(w, content); err != nil {
			return err
		} else if n != size {
			return fmt.Errorf("%s has %d bytes instead of %d", name, n, size)
		}
		_, err = w.Write(zeros[:pad(size)])
		return err
	}
	manifest := dockerManifest{Config: img.Manifest.Config.Digest.Encoded() + ".json", RepoTags: append([]string{}, tags...), Layers: []string{}}
	if err := member(manifest.Config, int64(len(img.RawConfig)), bytes.NewReader(img.RawConfig)); err != nil {
		return fmt.Errorf("docker archive: %w", err)
	}
	written := make(map[string]bool)
	for n, l := range img.Manifest.Layers {
		layerName, err := func() (string, error) {
			if kind, err := compressionOf(l.MediaType); err != nil {
				return "", err
			} else if kind == gzipped {
				name := l.Digest.Encoded() + ".tar.gz"
				if written[name] {
					return name, nil
				}
				written[name] = true
				r, err := img.OpenBlob(ctx, l)
				if err != nil {
					return "", err
				}
				defer r.Close()
				return name, member(name, l.Size, r)
			}
			name := img.Config.RootFS.DiffIDs[n].Encoded() + ".tar"
			if written[name] {
				return name, nil
			}
			written[name] = true
			// A tar member is preceded by its size, which only reading tells.
			size, err := layerSize(ctx, img, n)
			if err != nil {
				return "", err
			}
			r, err := img.OpenLayer(ctx, n, Limits{})
			if err != nil {
				return "", err
			}
			defer r.Close()
			return name, member(name, size, r)
		}()
		if err != nil {
			return fmt.Errorf("docker archive: layer %d: %w", n, err)
		}
		manifest.Layers = append(manifest.Layers, layerName)
	}
	text, err := json.Marshal([]dockerManifest{manifest})
	if err != nil {
		return err
	}
	if err := member("manifest.json", int64(len(text)), bytes.NewReader(text)); err != nil {
		return fmt.Errorf("docker archive: %w", err)
	}
	if _, err := w.Write(zeros[:2*tarBlock]); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Commit()
}

func layerSize(ctx context.Context, img *Image, n int) (int64, error) {
	r, err := img.OpenLayer(ctx, n, Limits{})
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return io.Copy(io.Discard, r)
}

// PushOptions says how to push. The zero value is ready.
type PushOptions struct {
	// MountFrom are repositories of the same registry ("app/dev") that may
	// hold some of the layers already; the registry is asked to take them from
	// there. The first is tried.
	MountFrom []string
	Keychain  authn.Keychain    // nil: the usual Docker configuration
	Transport http.RoundTripper // nil: http.DefaultTransport
	Report    progress.Reporter // nil: silent
}

// PushResult says what a push did.
type PushResult struct {
	Digest   oci.Digest // of what the reference names now
	Uploaded int64      // bytes of request bodies: what really went over the wire
}

// Push sends what desc reaches to a registry and names it by ref's tag, or by
// its digest alone when ref has no tag. Blobs that the repository has are not
// sent. The manifest goes last, so that an interrupted push leaves no image
// without layers. Registries on a loopback address are spoken to without TLS.
func Push(ctx context.Context, from Content, desc oci.Descriptor, ref oci.Ref, opt PushOptions) (PushResult, error) {
	if ref.Kind != oci.RegistryRef {
		return PushResult{}, fmt.Errorf("push to %s: want a registry reference", ref)
	}
	if ref.Digest != "" && ref.Digest != desc.Digest {
		return PushResult{}, fmt.Errorf("push to %s: the image has digest %s", ref, desc.Digest)
	}
	target, err := remoteName(oci.Ref{Kind: oci.RegistryRef, Host: ref.Host, Name: ref.Name, Tag: ref.Tag, Digest: tagOrDigest(ref, desc)})
	if err != nil {
		return PushResult{}, err
	}
	report := opt.Report
	if report == nil {
		report = progress.New(nil, true)
	}
	total := int64(0)
	if err := oci.Walk(from.ReadBlob, desc, func(d oci.Descriptor) error { total += d.Size; return nil }); err != nil {
		return PushResult{}, err
	}
	task := report.Task("push "+ref.String(), total)
	counting := &countingTransport{base: opt.Transport, task: task}
	if counting.base == nil {
		counting.base = http.DefaultTransport
	}
	options := remoteOptions(ctx, opt.Keychain, counting)
	pusher, err := remote.NewPusher(options...)
	if err == nil {
		err = push(ctx, pusher, target, from, desc, ref, opt)
	}
	task.Done(err)
	result := PushResult{Digest: desc.Digest, Uploaded: counting.sent.Load()}
	if err != nil {
		return result, fmt.Errorf("push to %s: %w", ref, err)
	}
	return result, nil
}

func tagOrDigest(ref oci.Ref, desc oci.Descriptor) oci.Digest {
	if ref.Tag != "" {
		return "" // go-containerregistry would ignore the tag beside a digest
	}
	return desc.Digest
}

func push(ctx context.Context, pusher *remote.Pusher, target name.Reference, from Content, desc oci.Descriptor, ref oci.Ref, opt PushOptions) error {
	blobs := pushBlobs{from: from}
	if len(opt.MountFrom) > 0 {
		m, err := remoteName(oci.Ref{Kind: oci.RegistryRef, Host: ref.Host, Name: opt.MountFrom[0], Tag: "latest"})
		if err != nil {
			return err
		}
		blobs.mount = m
	}
	switch {
	case oci.IsIndex(desc.MediaType):
		return pusher.Push(ctx, target, &pushIndex{pushBlobs: blobs, desc: desc})
	case oci.IsManifest(desc.MediaType):
		return pusher.Push(ctx, target, &pushImage{pushBlobs: blobs, desc: desc})
	}
	return fmt.Errorf("%s has media type %q: neither an image nor an index", desc.Digest, desc.MediaType)
}

// remoteName translates a reference for go-containerregistry. Plain HTTP is
// allowed for loopback hosts only: the library itself would fall back to it
// for every private address.
func remoteName(ref oci.Ref) (name.Reference, error) {
	var options []name.Option
	if loopback(ref.Host) {
		options = append(options, name.Insecure)
	}
	return name.ParseReference(ref.String(), append(options, name.StrictValidation)...)
}

// loopback reports whether a registry's host is this machine.
func loopback(host string) bool {
	h := host
	if s, _, err := net.SplitHostPort(host); err == nil {
		h = s
	}
	h = strings.Trim(h, "[]")
	if h == "localhost" {
		return true
	}
	ip := net.ParseIP(h)
	return ip != nil && ip.IsLoopback()
}

func remoteOptions(ctx context.Context, keys authn.Keychain, transport http.RoundTripper) []remote.Option {
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(keys), remote.WithUserAgent("twinhull"), remote.WithJobs(4)}
	if transport == nil {
		transport = http.DefaultTransport
	}
	return append(options, remote.WithTransport(tlsOnly{transport}))
}

// tlsOnly refuses to speak without TLS to another machine.
type tlsOnly struct{ base http.RoundTripper }

func (t tlsOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !loopback(r.URL.Host) {
		return nil, fmt.Errorf("%s is not encrypted: only a registry on a loopback address may be", r.URL.Redacted())
	}
	return t.base.RoundTrip(r)
}

// countingTransport counts the bytes of request bodies as they are read for
// sending.
type countingTransport struct {
	base http.RoundTripper
	sent atomic.Int64
	task progress.Task
}

func (c *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.Clone(r.Context())
		body := r.Body
		r.Body = readCloser{readerFunc(func(p []byte) (int, error) {
			n, err := body.Read(p)
			c.sent.Add(int64(n))
			c.task.Add(int64(n))
			return n, err
		}), body.Close}
	}
	return c.base.RoundTrip(r)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// pushBlobs, pushImage, pushIndex and pushLayer show content to
// go-containerregistry without reading more than manifests into memory.
type pushBlobs struct {
	from  Content
	mount name.Reference
}

func (b pushBlobs) layer(d oci.Descriptor) v1.Layer {
	l := &pushLayer{from: b.from, desc: d}
	if b.mount != nil {
		return &remote.MountableLayer{Layer: l, Reference: b.mount}
	}
	return l
}

type pushImage struct {
	pushBlobs
	desc oci.Descriptor
}

func (i *pushImage) manifest() (ocispec.Manifest, error) {
	b, err := i.from.ReadBlob(i.desc)
	if err != nil {
		return ocispec.Manifest{}, err
	}
	return oci.ParseManifest(b)
}

func (i *pushImage) RawManifest() ([]byte, error) { return i.from.ReadBlob(i.desc) }
func (i *pushImage) Size() (int64, error)         { return i.desc.Size, nil }
func (i *pushImage) Digest() (v1.Hash, error)     { return v1.NewHash(string(i.desc.Digest)) }
func (i *pushImage) MediaType() (types.MediaType, error) {
	return types.MediaType(i.desc.MediaType), nil
}

func (i *pushImage) Manifest() (*v1.Manifest, error) {
	b, err := i.RawManifest()
	if err != nil {
		return nil, err
	}
	return v1.ParseManifest(bytes.NewReader(b))
}

func (i *pushImage) RawConfigFile() ([]byte, error) {
	m, err := i.manifest()
	if err != nil {
		return nil, err
	}
	return i.from.ReadBlob(m.Config)
}

func (i *pushImage) ConfigName() (v1.Hash, error) {
	m, err := i.manifest()
	if err != nil {
		return v1.Hash{}, err
	}
	return v1.NewHash(string(m.Config.Digest))
}

func (i *pushImage) ConfigFile() (*v1.ConfigFile, error) {
	b, err := i.RawConfigFile()
	if err != nil {
		return nil, err
	}
	return v1.ParseConfigFile(bytes.NewReader(b))
}

// ConfigLayer lets the library send the configuration like a layer.
func (i *pushImage) ConfigLayer() (v1.Layer, error) {
	m, err := i.manifest()
	if err != nil {
		return nil, err
	}
	return &pushLayer{from: i.from, desc: m.Config}, nil
}

func (i *pushImage) Layers() ([]v1.Layer, error) {
	m, err := i.manifest()
	if err != nil {
		return nil, err
	}
	out := make([]v1.Layer, 0, len(m.Layers))
	for _, d := range m.Layers {
		out = append(out, i.layer(d))
	}
	return out, nil
}

func (i *pushImage) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	m, err := i.manifest()
	if err != nil {
		return nil, err
	}
	for _, d := range append([]oci.Descriptor{m.Config}, m.Layers...) {
		if string(d.Digest) == h.String() {
			return i.layer(d), nil
		}
	}
	return nil, fmt.Errorf("layer %s: %w", h, oci.ErrNotFound)
}

func (i *pushImage) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	return nil, fmt.Errorf("layer with DiffID %s: %w", h, oci.ErrNotFound)
}

type pushIndex struct {
	pushBlobs
	desc oci.Descriptor
}

func (i *pushIndex) RawManifest() ([]byte, error) { return i.from.ReadBlob(i.desc) }
func (i *pushIndex) Size() (int64, error)         { return i.desc.Size, nil }
func (i *pushIndex) Digest() (v1.Hash, error)     { return v1.NewHash(string(i.desc.Digest)) }
func (i *pushIndex) MediaType() (types.MediaType, error) {
	return types.MediaType(i.desc.MediaType), nil
}

func (i *pushIndex) IndexManifest() (*v1.IndexManifest, error) {
	b, err := i.RawManifest()
	if err != nil {
		return nil, err
	}
	return v1.ParseIndexManifest(bytes.NewReader(b))
}

func (i *pushIndex) child(h v1.Hash) (oci.Descriptor, error) {
	b, err := i.RawManifest()
	if err != nil {
		return oci.Descriptor{}, err
	}
	idx, err := oci.ParseIndex(b)
	if err != nil {
		return oci.Descriptor{}, err
	}
	for _, d := range idx.Manifests {
		if string(d.Digest) == h.String() {
			return d, nil
		}
	}
	return oci.Descriptor{}, fmt.Errorf("manifest %s: %w", h, oci.ErrNotFound)
}

func (i *pushIndex) Image(h v1.Hash) (v1.Image, error) {
	d, err := i.child(h)
	if err != nil {
		return nil, err
	}
	return &pushImage{pushBlobs: i.pushBlobs, desc: d}, nil
}

func (i *pushIndex) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	d, err := i.child(h)
	if err != nil {
		return nil, err
	}
	return &pushIndex{pushBlobs: i.pushBlobs, desc: d}, nil
}

type pushLayer struct {
	from Content
	desc oci.Descriptor
}

func (l *pushLayer) Digest() (v1.Hash, error) { return v1.NewHash(string(l.desc.Digest)) }
func (l *pushLayer) Size() (int64, error)     { return l.desc.Size, nil }
func (l *pushLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.desc.MediaType), nil
}
func (l *pushLayer) Compressed() (io.ReadCloser, error) {
	r, _, err := l.from.Blob(l.desc.Digest)
	return r, err
}
func (l *pushLayer) DiffID() (v1.Hash, error) {
	return v1.Hash{}, fmt.Errorf("DiffID of %s is not known here", l.desc.Digest)
}
func (l *pushLayer) Uncompressed() (io.ReadCloser, error) {
	return nil, fmt.Errorf("%s is only read as it is stored", l.desc.Digest)
}
