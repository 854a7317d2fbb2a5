package oci

import (
	"bytes"
	"context"
	_ "crypto/sha256" // go-digest knows an algorithm only when its code is linked in
	_ "crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"syscall"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/durable"
)

// MaxManifest is the largest manifest, index or configuration that is read, in
// bytes. Registries refuse more than 4 MiB; the rest is room for our own.
const MaxManifest = 8 << 20

// maxDepth bounds nested indexes, so that a hostile layout ends in an error.
const maxDepth = 8

// ErrNotFound is matched (errors.Is) by a blob or tag that a layout lacks.
var ErrNotFound = errors.New("not found")

// ErrDamaged is matched by content that is not what its digest or size says.
var ErrDamaged = errors.New("content does not match its digest")

// Layout is an OCI image layout: a folder as image-spec image-layout.md
// describes it. Blobs are named by their digest, so writers need no lock for
// them; index.json is rewritten whole under an advisory lock (Update). A Layout
// may be used by several goroutines and processes at once.
type Layout struct{ dir string }

// OpenLayout opens an existing layout. It refuses a folder without a valid
// oci-layout file, or of a later layout version.
func OpenLayout(dir string) (*Layout, error) {
	path := filepath.Join(dir, ocispec.ImageLayoutFile)
	b, err := readLimited(path, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no OCI image layout: it has no %s file: %w", dir, ocispec.ImageLayoutFile, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	var l ocispec.ImageLayout
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if l.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%s: layout version %q, this program reads %q", path, l.Version, ocispec.ImageLayoutVersion)
	}
	return &Layout{dir: dir}, nil
}

// CreateLayout opens the layout in dir, or makes an empty one there. A folder
// that holds something else is refused rather than mixed with blobs.
func CreateLayout(dir string) (*Layout, error) {
	if l, err := OpenLayout(dir); err == nil {
		return l, l.ensureIndex()
	} else if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	if names, err := os.ReadDir(dir); err == nil {
		for _, n := range names {
			// "blobs" and lock files are what an interrupted creation leaves.
			if n.Name() != ocispec.ImageBlobsDir && n.Name() != ocispec.ImageIndexFile && !strings.HasPrefix(n.Name(), ".") {
				return nil, fmt.Errorf("%s holds %q and is no OCI image layout: choose an empty or a new folder", dir, n.Name())
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, ocispec.ImageBlobsDir, string(digest.SHA256)), 0o755); err != nil {
		return nil, err
	}
	l := &Layout{dir: dir}
	if err := l.ensureIndex(); err != nil {
		return nil, err
	}
	// The marker comes last: with it the layout is complete.
	b, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	return l, durable.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), b, 0o644)
}

// ensureIndex writes an empty index.json when there is none.
func (l *Layout) ensureIndex() error {
	return l.Update(context.Background(), func(u *Update) error {
		_, err := os.Lstat(l.indexPath())
		if errors.Is(err, fs.ErrNotExist) {
			u.dirty = true
			return nil
		}
		return err
	})
}

// Dir is the layout's folder.
func (l *Layout) Dir() string { return l.dir }

func (l *Layout) indexPath() string { return filepath.Join(l.dir, ocispec.ImageIndexFile) }

// BlobPath is where the blob is or would be. The digest must be valid: a
// digest is checked before it becomes part of a path.
func (l *Layout) BlobPath(d Digest) (string, error) {
	if err := checkDigest(d); err != nil {
		return "", err
	}
	return filepath.Join(l.dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// checkDigest accepts sha256 and sha512 with the right number of lower-case
// hexadecimal digits, nothing else.
func checkDigest(d Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", string(d), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("digest %q: want sha256 or sha512", string(d))
	}
	return nil
}

// Stat returns a blob's size in bytes without reading it.
func (l *Layout) Stat(d Digest) (int64, error) {
	p, err := l.BlobPath(d)
	if err != nil {
		return 0, err
	}
	fi, err := os.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("blob %s in %s: %w", d, l.dir, ErrNotFound)
	}
	if err != nil {
		return 0, err
	}
	if !fi.Mode().IsRegular() {
		// A link could lead out of the layout.
		return 0, fmt.Errorf("blob %s in %s is no regular file: %w", d, l.dir, ErrDamaged)
	}
	return fi.Size(), nil
}

// Blob opens a blob and tells its size. The reader verifies: its last Read
// returns ErrDamaged in place of io.EOF when the bytes do not have the digest.
func (l *Layout) Blob(d Digest) (io.ReadCloser, int64, error) {
	size, err := l.Stat(d)
	if err != nil {
		return nil, 0, err
	}
	p, _ := l.BlobPath(d)
	f, err := os.OpenFile(p, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	return VerifyReader(f, d, size), size, nil
}

// VerifyReader passes bytes through and compares them with the digest and, when
// it is not negative, the size. The Read that would return io.EOF returns
// ErrDamaged instead when they differ; more bytes than size are never passed.
func VerifyReader(r io.ReadCloser, d Digest, size int64) io.ReadCloser {
	return &verifyReader{r: r, want: d, left: size, bounded: size >= 0, digester: d.Algorithm().Digester()}
}

type verifyReader struct {
	r        io.ReadCloser
	want     Digest
	left     int64
	bounded  bool
	digester digest.Digester
	err      error
}

func (v *verifyReader) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	if v.bounded && int64(n) > v.left {
		v.err = fmt.Errorf("blob %s is longer than its size says: %w", v.want, ErrDamaged)
		return 0, v.err
	}
	v.left -= int64(n)
	v.digester.Hash().Write(p[:n])
	if err == io.EOF {
		switch {
		case v.bounded && v.left != 0:
			err = fmt.Errorf("blob %s is %d bytes short: %w", v.want, v.left, ErrDamaged)
		case v.digester.Digest() != v.want:
			err = fmt.Errorf("blob %s holds content of %s: %w", v.want, v.digester.Digest(), ErrDamaged)
		}
	}
	v.err = err
	return n, err
}

func (v *verifyReader) Close() error { return v.r.Close() }

// ReadBlob returns the whole verified content that desc names. It is for
// manifests and configurations: more than MaxManifest bytes are refused.
func (l *Layout) ReadBlob(desc Descriptor) ([]byte, error) {
	if desc.Size < 0 || desc.Size > MaxManifest {
		return nil, fmt.Errorf("%s says it has %d bytes: at most %d are read", desc.Digest, desc.Size, MaxManifest)
	}
	r, size, err := l.Blob(desc.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size != desc.Size {
		return nil, fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", desc.Digest, size, desc.Size, ErrDamaged)
	}
	return io.ReadAll(r)
}

// PutBlob stores what r gives under digest d and returns its size. The bytes
// are verified first: content that does not match is an error (ErrDamaged) and
// leaves nothing behind. A blob that is there already is not read again.
func (l *Layout) PutBlob(d Digest, r io.Reader) (int64, error) {
	if size, err := l.Stat(d); err == nil {
		return size, nil
	} else if !errors.Is(err, ErrNotFound) {
		return 0, err
	}
	p, _ := l.BlobPath(d)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return 0, err
	}
	f, err := durable.Create(p, 0o444)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	digester := d.Algorithm().Digester()
	n, err := io.Copy(io.MultiWriter(f, digester.Hash()), r)
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", d, err)
	}
	if got := digester.Digest(); got != d {
		return 0, fmt.Errorf("blob %s: its content has digest %s: %w", d, got, ErrDamaged)
	}
	return n, f.Commit()
}

// PutBytes stores b under its SHA-256 digest and returns a descriptor of it.
func (l *Layout) PutBytes(mediaType string, b []byte) (Descriptor, error) {
	d := digest.FromBytes(b)
	n, err := l.PutBlob(d, bytes.NewReader(b))
	if err == nil && n != int64(len(b)) {
		err = fmt.Errorf("blob %s in %s has %d bytes, want %d: %w", d, l.dir, n, len(b), ErrDamaged)
	}
	return Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}, err
}

// LinkBlob makes the file at from the blob d: a hard link where the two share
// a file system, else a verified copy. A linked file is not read, so from must
// be a file that was verified when it was written and is never changed.
func (l *Layout) LinkBlob(d Digest, from string) error {
	if _, err := l.Stat(d); err == nil || !errors.Is(err, ErrNotFound) {
		return err
	}
	p, _ := l.BlobPath(d)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if fi, err := os.Lstat(from); err != nil {
		return err
	} else if !fi.Mode().IsRegular() {
		return fmt.Errorf("blob %s: %s is no regular file", d, from)
	}
	err := os.Link(from, p)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = l.PutBlob(d, f)
	return err
}

// Index reads index.json. It may be read without the lock: it is replaced
// whole.
func (l *Layout) Index() (ocispec.Index, error) {
	b, err := readLimited(l.indexPath(), MaxManifest)
	if err != nil {
		return ocispec.Index{}, err
	}
	idx, err := ParseIndex(b)
	if err != nil {
		return ocispec.Index{}, fmt.Errorf("%s: %w", l.indexPath(), err)
	}
	return idx, nil
}

// ParseIndex reads an image index and checks every descriptor in it.
func ParseIndex(b []byte) (ocispec.Index, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return ocispec.Index{}, err
	}
	if idx.SchemaVersion != 2 {
		return ocispec.Index{}, fmt.Errorf("schemaVersion %d, want 2", idx.SchemaVersion)
	}
	if idx.MediaType != "" && idx.MediaType != ocispec.MediaTypeImageIndex && idx.MediaType != MediaTypeDockerList {
		return ocispec.Index{}, fmt.Errorf("media type %q is no image index", idx.MediaType)
	}
	for i, d := range idx.Manifests {
		if err := CheckDescriptor(d); err != nil {
			return ocispec.Index{}, fmt.Errorf("manifests[%d]: %w", i, err)
		}
	}
	return idx, nil
}

// Docker's media types, which registries still hold; they are read, never
// written.
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// IsIndex and IsManifest tell what a media type names.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerList
}

// IsManifest reports whether the media type is that of an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest
}

// ParseManifest reads an image manifest and checks every descriptor in it.
func ParseManifest(b []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return ocispec.Manifest{}, err
	}
	if m.SchemaVersion != 2 {
		return ocispec.Manifest{}, fmt.Errorf("schemaVersion %d, want 2", m.SchemaVersion)
	}
	if m.MediaType != "" && !IsManifest(m.MediaType) {
		return ocispec.Manifest{}, fmt.Errorf("media type %q is no image manifest", m.MediaType)
	}
	if err := CheckDescriptor(m.Config); err != nil {
		return ocispec.Manifest{}, fmt.Errorf("config: %w", err)
	}
	for i, d := range m.Layers {
		if err := CheckDescriptor(d); err != nil {
			return ocispec.Manifest{}, fmt.Errorf("layers[%d]: %w", i, err)
		}
	}
	return m, nil
}

// CheckDescriptor refuses a descriptor whose digest or size cannot be right.
func CheckDescriptor(d Descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("%s: size %d", d.Digest, d.Size)
	}
	if d.MediaType == "" {
		return fmt.Errorf("%s: no media type", d.Digest)
	}
	return nil
}

// Tag finds a manifest or index by its tag. The empty tag means "the only
// one": it is an error, which lists the tags, when the layout holds several.
func (l *Layout) Tag(tag string) (Descriptor, error) {
	idx, err := l.Index()
	if err != nil {
		return Descriptor{}, err
	}
	if tag == "" {
		if len(idx.Manifests) == 1 {
			return idx.Manifests[0], nil
		}
		return Descriptor{}, fmt.Errorf("%s holds %d images: say which, as in oci:%s:TAG (%s): %w", l.dir, len(idx.Manifests), l.dir, tagList(idx), errNoTag)
	}
	for _, d := range idx.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == tag {
			return d, nil
		}
	}
	return Descriptor{}, fmt.Errorf("%s has no tag %q (%s): %w", l.dir, tag, tagList(idx), ErrNotFound)
}

func tagList(idx ocispec.Index) string {
	var tags []string
	for _, d := range idx.Manifests {
		if t := d.Annotations[ocispec.AnnotationRefName]; t != "" {
			tags = append(tags, t)
		}
	}
	if len(tags) == 0 {
		return "it has no tags"
	}
	sort.Strings(tags)
	const most = 20
	if len(tags) > most {
		return "it has " + strings.Join(tags[:most], ", ") + ", …"
	}
	return "it has " + strings.Join(tags, ", ")
}

// SetTag makes tag name desc, whose blobs must be stored already. An earlier
// meaning of the tag is replaced.
func (l *Layout) SetTag(tag string, desc Descriptor) error {
	return l.Update(context.Background(), func(u *Update) error { return u.SetTag(tag, desc) })
}

// Update is a change of a layout's index while its lock is held.
type Update struct {
	l     *Layout
	index ocispec.Index
	dirty bool
}

// Update holds the layout's lock while fn runs, then replaces index.json when
// fn changed a tag and returned nil. Storing blobs inside fn keeps them from a
// garbage collection that runs between PutBlob and SetTag.
func (l *Layout) Update(ctx context.Context, fn func(*Update) error) error {
	// The folder itself is locked: a lock file would be a stranger in a layout
	// that is handed on.
	dir, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer dir.Close() // gives the lock back
	if err := durable.Flock(ctx, dir, true, nil); err != nil {
		return fmt.Errorf("lock %s: %w", l.dir, err)
	}
	u := &Update{l: l}
	u.index, err = l.Index()
	if errors.Is(err, fs.ErrNotExist) {
		u.index = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	} else if err != nil {
		return err
	}
	if err := fn(u); err != nil || !u.dirty {
		return err
	}
	sortIndex(&u.index)
	b, err := json.MarshalIndent(u.index, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(l.indexPath(), append(b, '\n'), 0o644)
}

// SetTag is Layout.SetTag inside an Update.
func (u *Update) SetTag(tag string, desc Descriptor) error {
	if err := ValidTag(tag); err != nil {
		return err
	}
	if err := CheckDescriptor(desc); err != nil {
		return err
	}
	if size, err := u.l.Stat(desc.Digest); err != nil {
		return fmt.Errorf("tag %s: %w", tag, err)
	} else if size != desc.Size {
		return fmt.Errorf("tag %s: blob %s has %d bytes, its descriptor says %d: %w", tag, desc.Digest, size, desc.Size, ErrDamaged)
	}
	annotations := map[string]string{ocispec.AnnotationRefName: tag}
	for k, v := range desc.Annotations {
		if k != ocispec.AnnotationRefName {
			annotations[k] = v
		}
	}
	desc.Annotations = annotations
	for _, d := range u.index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == tag && reflect.DeepEqual(d, desc) {
			return nil // says so already: an unchanged build writes nothing
		}
	}
	u.RemoveTag(tag)
	u.index.Manifests = append(u.index.Manifests, desc)
	u.dirty = true
	return nil
}

// RemoveTag forgets a tag; its blobs stay until GC.
func (u *Update) RemoveTag(tag string) {
	kept := u.index.Manifests[:0]
	for _, d := range u.index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == tag {
			u.dirty = true
			continue
		}
		kept = append(kept, d)
	}
	u.index.Manifests = kept
}

// sortIndex orders entries by tag, then digest, so that the file depends only
// on what it says.
func sortIndex(idx *ocispec.Index) {
	if idx.Manifests == nil {
		idx.Manifests = []Descriptor{} // "manifests" is required (image-index.md)
	}
	key := func(d Descriptor) string { return d.Annotations[ocispec.AnnotationRefName] + "\x00" + string(d.Digest) }
	sort.SliceStable(idx.Manifests, func(i, j int) bool { return key(idx.Manifests[i]) < key(idx.Manifests[j]) })
}

// Walk calls fn for every blob reachable from desc, itself first: indexes,
// manifests, configurations and layers, each once. Manifests are read and
// verified; configurations and layers are only named. A media type that is
// neither an index nor a manifest is a leaf.
func (l *Layout) Walk(desc Descriptor, fn func(Descriptor) error) error {
	return Walk(l.ReadBlob, desc, fn)
}

// Walk is Layout.Walk for content that read returns, verified, wherever it is.
func Walk(read func(Descriptor) ([]byte, error), desc Descriptor, fn func(Descriptor) error) error {
	return walk(read, desc, make(map[Digest]bool), 0, fn)
}

func walk(read func(Descriptor) ([]byte, error), desc Descriptor, seen map[Digest]bool, depth int, fn func(Descriptor) error) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: indexes nested deeper than %d", desc.Digest, maxDepth)
	}
	if seen[desc.Digest] {
		return nil
	}
	seen[desc.Digest] = true
	if err := CheckDescriptor(desc); err != nil {
		return err
	}
	if err := fn(desc); err != nil {
		return err
	}
	switch {
	case IsIndex(desc.MediaType):
		b, err := read(desc)
		if err != nil {
			return err
		}
		idx, err := ParseIndex(b)
		if err != nil {
			return fmt.Errorf("index %s: %w", desc.Digest, err)
		}
		for _, d := range idx.Manifests {
			if err := walk(read, d, seen, depth+1, fn); err != nil {
				return err
			}
		}
	case IsManifest(desc.MediaType):
		b, err := read(desc)
		if err != nil {
			return err
		}
		m, err := ParseManifest(b)
		if err != nil {
			return fmt.Errorf("manifest %s: %w", desc.Digest, err)
		}
		for _, d := range append([]Descriptor{m.Config}, m.Layers...) {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				if err := fn(d); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// GC removes every blob that no tag reaches and returns how many there were and
// how many bytes they had (a blob that is hard-linked elsewhere frees nothing
// until its other name goes too). A layout with an unreadable manifest is left
// as it is: what that manifest reaches cannot be known.
func (l *Layout) GC(ctx context.Context) (removed int, bytes int64, err error) {
	err = l.Update(ctx, func(u *Update) error {
		keep := make(map[Digest]bool)
		for _, d := range u.index.Manifests {
			if err := l.Walk(d, func(d Descriptor) error { keep[d.Digest] = true; return nil }); err != nil {
				return fmt.Errorf("nothing was removed: %w", err)
			}
		}
		for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			dir := filepath.Join(l.dir, ocispec.ImageBlobsDir, alg.String())
			names, err := os.ReadDir(dir)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			for _, n := range names {
				if err := ctx.Err(); err != nil {
					return err
				}
				d := digest.NewDigestFromEncoded(alg, n.Name())
				// A name that is no digest is a temporary file of a writer
				// that may still run, or not ours: it is left alone.
				if keep[d] || checkDigest(d) != nil {
					continue
				}
				if fi, err := n.Info(); err == nil {
					bytes += fi.Size()
				}
				if err := os.Remove(filepath.Join(dir, n.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				removed++
			}
		}
		return nil
	})
	return removed, bytes, err
}

// readLimited reads a small file and refuses one that is larger, or no regular
// file (a device or FIFO could block for ever).
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, nil
}
