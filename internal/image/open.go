package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
)

// maxLayers is more than any runtime can stack (Docker: 127).
const maxLayers = 512

// Image is an image that was opened for reading: manifest and configuration
// are read, verified and agree about the layers; layers are opened on demand.
type Image struct {
	Descriptor  oci.Descriptor // of the manifest
	Manifest    ocispec.Manifest
	Config      ocispec.Image
	RawManifest []byte // nil for a docker-archive, which has none
	RawConfig   []byte

	blob  func(context.Context, oci.Descriptor) (io.ReadCloser, error) // verifying
	close func() error
}

// Close gives back what Open took. Readers of layers must be closed before.
func (i *Image) Close() error {
	if i.close == nil {
		return nil
	}
	return i.close()
}

// Zone is the zone that the image says it has. An image whose label and
// annotation differ, or that has neither, has no zone and is refused with an
// error; a docker-archive has the label only.
func (i *Image) Zone() (oci.Zone, error) {
	label := i.Config.Config.Labels[oci.ZoneKey]
	if i.RawManifest != nil && i.Manifest.Annotations[oci.ZoneKey] != label {
		return "", fmt.Errorf("image says %q in its label %s and %q in its annotation", label, oci.ZoneKey, i.Manifest.Annotations[oci.ZoneKey])
	}
	return oci.ParseZone(label)
}

// OpenOptions says how to find an image. The zero value is ready.
type OpenOptions struct {
	Platform oci.Platform   // which image of an index; this machine's when empty
	Keychain authn.Keychain // nil: the usual Docker configuration
}

// Open opens the image that ref names.
func Open(ctx context.Context, ref oci.Ref, opt OpenOptions) (*Image, error) {
	switch ref.Kind {
	case oci.LayoutRef:
		l, err := oci.OpenLayout(ref.Path)
		if err != nil {
			return nil, err
		}
		desc, err := l.Tag(ref.Tag)
		if err != nil {
			return nil, err
		}
		return OpenDescriptor(l, desc, opt)
	case oci.DockerArchiveRef:
		return openDockerArchive(ref)
	case oci.RegistryRef:
		return openRemote(ctx, ref, opt)
	}
	return nil, fmt.Errorf("open image: %s", ref)
}

// wanted is the platform to take from an index.
func (o OpenOptions) wanted() oci.Platform {
	if o.Platform == (oci.Platform{}) {
		return oci.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	return o.Platform
}

// Content is where manifests and blobs are: a layout (*oci.Layout), or what a
// registry keeps. What is read must be verified by its digest, and readers at
// their end at the latest (oci.VerifyReader).
type Content interface {
	ReadBlob(desc oci.Descriptor) ([]byte, error)
	Blob(d oci.Digest) (content io.ReadCloser, size int64, err error)
}

// OpenDescriptor opens an image of a layout, or of other content, by the
// descriptor of its manifest or of an index that holds it.
func OpenDescriptor(l Content, desc oci.Descriptor, opt OpenOptions) (*Image, error) {
	for depth := 0; oci.IsIndex(desc.MediaType); depth++ {
		if depth > 4 {
			return nil, fmt.Errorf("index %s: nested too deeply", desc.Digest)
		}
		b, err := l.ReadBlob(desc)
		if err != nil {
			return nil, err
		}
		idx, err := oci.ParseIndex(b)
		if err != nil {
			return nil, fmt.Errorf("index %s: %w", desc.Digest, err)
		}
		if desc, err = choose(idx, opt.wanted()); err != nil {
			return nil, fmt.Errorf("index %s: %w", desc.Digest, err)
		}
	}
	if !oci.IsManifest(desc.MediaType) {
		return nil, fmt.Errorf("%s has media type %q: no image manifest", desc.Digest, desc.MediaType)
	}
	raw, err := l.ReadBlob(desc)
	if err != nil {
		return nil, err
	}
	m, err := oci.ParseManifest(raw)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	rawConfig, err := l.ReadBlob(m.Config)
	if err != nil {
		return nil, err
	}
	img := &Image{Descriptor: desc, Manifest: m, RawManifest: raw, RawConfig: rawConfig,
		blob: func(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
			r, size, err := l.Blob(d.Digest)
			if err == nil && size != d.Size {
				r.Close()
				return nil, fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, size, d.Size, oci.ErrDamaged)
			}
			return r, err
		}}
	return img, img.finish()
}

// choose takes the one image of a platform from an index. An index with a
// single image of unnamed platform is taken at its word.
func choose(idx ocispec.Index, want oci.Platform) (oci.Descriptor, error) {
	var have []string
	for _, d := range idx.Manifests {
		p := platformOf(d)
		if p == want.String() || p == "" && len(idx.Manifests) == 1 {
			return d, nil
		}
		have = append(have, p)
	}
	return oci.Descriptor{}, fmt.Errorf("no image for %s (it has %s)", want, strings.Join(have, ", "))
}

// finish parses the configuration and checks that it fits the manifest.
func (i *Image) finish() error {
	if err := json.Unmarshal(i.RawConfig, &i.Config); err != nil {
		return fmt.Errorf("configuration %s: %w", i.Manifest.Config.Digest, err)
	}
	switch i.Manifest.Config.MediaType {
	case ocispec.MediaTypeImageConfig, oci.MediaTypeDockerConfig:
	default:
		return fmt.Errorf("configuration has media type %q: this is an artifact and no image", i.Manifest.Config.MediaType)
	}
	if n := len(i.Manifest.Layers); n > maxLayers {
		return fmt.Errorf("%d layers: at most %d are read: %w", n, maxLayers, ErrLimit)
	}
	if len(i.Config.RootFS.DiffIDs) != len(i.Manifest.Layers) {
		return fmt.Errorf("configuration names %d layers, the manifest %d", len(i.Config.RootFS.DiffIDs), len(i.Manifest.Layers))
	}
	for _, d := range i.Config.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("configuration: DiffID %q: %w", string(d), err)
		}
	}
	for _, l := range i.Manifest.Layers {
		if _, err := compressionOf(l.MediaType); err != nil {
			return err
		}
	}
	return nil
}

// compression of a layer blob.
type compression int

const (
	plain compression = iota
	gzipped
	zstandard
)

// compressionOf knows the layer media types that are read; anything else is
// refused, foreign layers (whose bytes are elsewhere) included.
func compressionOf(mediaType string) (compression, error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, "application/vnd.docker.image.rootfs.diff.tar":
		return plain, nil
	case ocispec.MediaTypeImageLayerGzip, oci.MediaTypeDockerLayer:
		return gzipped, nil
	case ocispec.MediaTypeImageLayerZstd:
		return zstandard, nil
	}
	return 0, fmt.Errorf("layer media type %q is not known: want an OCI or Docker tar layer, plain, gzip or zstd", mediaType)
}

// OpenBlob opens a blob of the image as it is stored. Its last Read verifies
// digest and size (oci.VerifyReader).
func (i *Image) OpenBlob(ctx context.Context, desc oci.Descriptor) (io.ReadCloser, error) {
	r, err := i.blob(ctx, desc)
	if err != nil {
		return nil, err
	}
	return readCloser{readerWithContext{ctx, r}, r.Close}, nil
}

type readCloser struct {
	io.Reader
	close func() error
}

func (r readCloser) Close() error { return r.close() }

// OpenLayer opens the uncompressed tar stream of layer n, bottom layer 0. Its
// last Read verifies the blob's digest and size and the DiffID; at most
// limits.MaxBytes come out, and no more than limits.MaxRatio times what went in.
func (i *Image) OpenLayer(ctx context.Context, n int, limits Limits) (io.ReadCloser, error) {
	desc := i.Manifest.Layers[n]
	kind, err := compressionOf(desc.MediaType)
	if err != nil {
		return nil, err
	}
	blob, err := i.OpenBlob(ctx, desc)
	if err != nil {
		return nil, err
	}
	in := &countingReader{r: blob}
	var out io.Reader
	closer := blob.Close
	buffered := bufio.NewReaderSize(in, 64<<10)
	switch kind {
	case plain:
		out = buffered
	case gzipped:
		out, err = gzip.NewReader(buffered)
	case zstandard:
		var d *zstd.Decoder
		d, err = zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
		if err == nil {
			out = d
			closer = func() error { d.Close(); return blob.Close() }
		}
	}
	if err != nil {
		blob.Close()
		return nil, fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	limited := &limitReader{r: out, in: in, limits: limits.orDefault(), name: desc.Digest, end: func() error {
		// What follows the compressed stream belongs to the blob too: reading
		// to its end lets OpenBlob's reader verify it.
		_, err := io.Copy(io.Discard, buffered)
		return err
	}}
	return oci.VerifyReader(readCloser{limited, closer}, i.Config.RootFS.DiffIDs[n], -1), nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// Limits protect a reader from an image made to fill its disk. A zero field
// means the default.
type Limits struct {
	MaxBytes   int64 // uncompressed bytes of one layer and of all files of an image; 32 GiB
	MaxRatio   int64 // uncompressed bytes for each compressed byte, counted from 64 MiB on; 400
	MaxEntries int   // paths in all layers together; 4 million
}

func (l Limits) orDefault() Limits {
	if l.MaxBytes == 0 {
		l.MaxBytes = 32 << 30
	}
	if l.MaxRatio == 0 {
		l.MaxRatio = 400
	}
	if l.MaxEntries == 0 {
		l.MaxEntries = 4_000_000
	}
	return l
}

// ratioFree is how many bytes may come out before their ratio is looked at:
// short runs of zeros are not bombs.
const ratioFree = 64 << 20

type limitReader struct {
	r      io.Reader
	in     *countingReader
	limits Limits
	name   oci.Digest
	n      int64
	end    func() error
}

func (l *limitReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.n += int64(n)
	if l.n > l.limits.MaxBytes {
		return 0, fmt.Errorf("layer %s: more than %d bytes when uncompressed: %w", l.name, l.limits.MaxBytes, ErrLimit)
	}
	if l.n > ratioFree && l.n/max(l.in.n, 1) > l.limits.MaxRatio {
		return 0, fmt.Errorf("layer %s: grows more than %d times when uncompressed: %w", l.name, l.limits.MaxRatio, ErrLimit)
	}
	if err == io.EOF {
		if eerr := l.end(); eerr != nil {
			return n, eerr
		}
	}
	return n, err
}

// openRemote opens an image in a registry. Its manifest is read now, layers
// when they are opened.
func openRemote(ctx context.Context, ref oci.Ref, opt OpenOptions) (*Image, error) {
	if ref.Tag == "" && ref.Digest == "" {
		return nil, fmt.Errorf("%s: say which image: add :TAG or @DIGEST", ref)
	}
	name, err := remoteName(ref)
	if err != nil {
		return nil, err
	}
	want := opt.wanted()
	options := remoteOptions(ctx, opt.Keychain, nil)
	got, err := remote.Get(name, append(options, remote.WithPlatform(v1.Platform{OS: want.OS, Architecture: want.Architecture}))...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	ri, err := got.Image()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	raw, err := ri.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	rawConfig, err := ri.RawConfigFile()
	if err != nil {
		return nil, fmt.Errorf("%s: configuration: %w", ref, err)
	}
	if len(raw) > oci.MaxManifest || len(rawConfig) > oci.MaxManifest {
		return nil, fmt.Errorf("%s: manifest or configuration larger than %d bytes: %w", ref, oci.MaxManifest, ErrLimit)
	}
	m, err := oci.ParseManifest(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: manifest: %w", ref, err)
	}
	if got := digest.FromBytes(rawConfig); m.Config.Digest.Algorithm() == digest.SHA256 && got != m.Config.Digest {
		return nil, fmt.Errorf("%s: configuration has digest %s, its manifest says %s: %w", ref, got, m.Config.Digest, oci.ErrDamaged)
	}
	mediaType := m.MediaType
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageManifest
	}
	img := &Image{
		Descriptor: oci.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))},
		Manifest:   m, RawManifest: raw, RawConfig: rawConfig,
		blob: func(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
			h, err := v1.NewHash(string(d.Digest))
			if err != nil {
				return nil, err
			}
			l, err := ri.LayerByDigest(h)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", ref, err)
			}
			r, err := l.Compressed()
			if err != nil {
				return nil, fmt.Errorf("%s: blob %s: %w", ref, d.Digest, err)
			}
			return oci.VerifyReader(r, d.Digest, d.Size), nil
		},
	}
	return img, img.finish()
}

// openDockerArchive opens a file as `docker save` writes it. The file is read
// once to find and hash its members; layers are then read in place.
func openDockerArchive(ref oci.Ref) (_ *Image, err error) {
	f, err := os.Open(ref.Path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			err = fmt.Errorf("docker archive %s: %w", ref.Path, err)
		}
	}()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("no regular file")
	}
	type member struct {
		offset, size int64
		digest       oci.Digest
		kind         compression
		link         string
	}
	members := make(map[string]member)
	in := &countingReader{r: f}
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w (a compressed archive must be uncompressed first)", err)
		}
		if len(members) > 100_000 {
			return nil, fmt.Errorf("more than 100000 members: %w", ErrLimit)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			m := member{offset: in.n, size: h.Size}
			head := make([]byte, min(4, h.Size))
			if _, err := io.ReadFull(tr, head); err != nil {
				return nil, err
			}
			switch {
			case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
				m.kind = gzipped
			case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
				m.kind = zstandard
			}
			m.digest, err = digest.FromReader(io.MultiReader(bytes.NewReader(head), tr))
			if err != nil {
				return nil, err
			}
			members[name] = m
		case tar.TypeSymlink, tar.TypeLink:
			// Older Dockers store a layer once and link to it.
			target := h.Linkname
			if h.Typeflag == tar.TypeSymlink {
				target = path.Join(path.Dir(name), target)
			}
			members[name] = member{link: path.Clean(target)}
		}
	}
	find := func(name string) (member, error) {
		m, ok := members[path.Clean(name)]
		if ok && m.link != "" {
			m, ok = members[m.link]
		}
		if !ok || m.link != "" {
			return member{}, fmt.Errorf("member %q is missing", name)
		}
		return m, nil
	}
	read := func(name string) ([]byte, member, error) {
		m, err := find(name)
		if err != nil {
			return nil, m, err
		}
		if m.size > oci.MaxManifest {
			return nil, m, fmt.Errorf("member %q has %d bytes: %w", name, m.size, ErrLimit)
		}
		b := make([]byte, m.size)
		_, err = f.ReadAt(b, m.offset)
		return b, m, err
	}
	text, _, err := read("manifest.json")
	if err != nil {
		return nil, err
	}
	var list []dockerManifest
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	entry, err := chooseDocker(list, ref.Tag)
	if err != nil {
		return nil, err
	}
	if len(entry.Layers) > maxLayers {
		return nil, fmt.Errorf("%d layers: %w", len(entry.Layers), ErrLimit)
	}
	rawConfig, cm, err := read(entry.Config)
	if err != nil {
		return nil, err
	}
	img := &Image{RawConfig: rawConfig, close: f.Close}
	img.Manifest = ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    oci.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: cm.digest, Size: cm.size},
	}
	places := make(map[oci.Digest]member)
	for _, name := range entry.Layers {
		m, err := find(name)
		if err != nil {
			return nil, err
		}
		mediaType := map[compression]string{plain: ocispec.MediaTypeImageLayer, gzipped: ocispec.MediaTypeImageLayerGzip, zstandard: ocispec.MediaTypeImageLayerZstd}[m.kind]
		img.Manifest.Layers = append(img.Manifest.Layers, oci.Descriptor{MediaType: mediaType, Digest: m.digest, Size: m.size})
		places[m.digest] = m
	}
	img.blob = func(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
		m, ok := places[d.Digest]
		if !ok {
			return nil, fmt.Errorf("blob %s: %w", d.Digest, oci.ErrNotFound)
		}
		return oci.VerifyReader(io.NopCloser(io.NewSectionReader(f, m.offset, m.size)), d.Digest, d.Size), nil
	}
	return img, img.finish()
}

// dockerManifest is an element of manifest.json in a docker archive.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func chooseDocker(list []dockerManifest, tag string) (dockerManifest, error) {
	if tag == "" {
		if len(list) == 1 {
			return list[0], nil
		}
		return dockerManifest{}, errors.New("it holds several images (or none): say which, as in docker-archive:FILE:NAME:TAG")
	}
	for _, m := range list {
		for _, t := range m.RepoTags {
			if t == tag || strings.HasSuffix(t, ":"+tag) && !strings.Contains(tag, ":") {
				return m, nil
			}
		}
	}
	return dockerManifest{}, fmt.Errorf("no image %q: %w", tag, oci.ErrNotFound)
}
