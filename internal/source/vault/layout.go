package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
)

// Media types of an exported vault.
const (
	ArtifactType   = "application/vnd.twinhull.vault.v1"     // of the manifest
	InputMediaType = "application/vnd.twinhull.input.v1"     // of each layer
	LockMediaType  = "application/vnd.twinhull.lock.v1+json" // of the config, when there is a lock
)

// Limits for layouts, which may come from anyone.
const (
	maxIndex    = 16 << 20 // bytes of index.json
	maxManifest = 64 << 20 // bytes of a manifest
	maxLock     = 64 << 20 // bytes of a lock file
	maxInputs   = 200_000
)

// Bundle is what an export holds.
type Bundle struct {
	Name   string  // tag of the manifest in the layout (org.opencontainers.image.ref.name)
	Lock   []byte  // the lock file, kept as the manifest's config; nil for none
	Inputs []Input // in any order; a digest given twice is written once
}

// Input is one input of a Bundle.
type Input struct {
	Digest oci.Digest
	Name   string // title annotation for people and registry clients; "" for none
}

// Export is ExportBundle for inputs without names and without a lock.
func (v *Vault) Export(ctx context.Context, dir string, digests []oci.Digest, name string) error {
	b := Bundle{Name: name}
	for _, d := range digests {
		b.Inputs = append(b.Inputs, Input{Digest: d})
	}
	return v.ExportBundle(ctx, dir, b)
}

// ExportBundle writes an OCI image layout whose one manifest of the bundle's
// name holds the lock as its config and every input as a layer. The same bundle
// gives the same bytes. Into an existing layout it adds the manifest beside the
// others, or in place of the one with its name. Inputs are verified again on
// the way. Files are hard links into the vault where the file system allows it,
// copies elsewhere: do not write to them. The index is written last, so an
// interrupted export leaves blobs that nothing names and is repeated at leisure.
func (v *Vault) ExportBundle(ctx context.Context, dir string, b Bundle) error {
	if b.Name == "" {
		return errors.New("vault export: a name is needed, for instance the project's")
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("vault export: %w", err)
	}
	// The folder itself is the lock: a lock file would be a stranger in it.
	folder, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("vault export: %w", err)
	}
	defer folder.Close()
	if err := durable.Flock(ctx, folder, true, nil); err != nil {
		return fmt.Errorf("vault export: wait for another export to %s: %w", dir, err)
	}
	index, err := openLayout(dir)
	if err != nil {
		return fmt.Errorf("vault export: %w", err)
	}

	config := ocispec.DescriptorEmptyJSON
	configData := config.Data
	config.Data = nil
	if b.Lock != nil {
		configData = b.Lock
		config = ocispec.Descriptor{MediaType: LockMediaType, Digest: digest.FromBytes(b.Lock), Size: int64(len(b.Lock))}
	}
	manifest := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: ArtifactType,
		Config:       config,
		Layers:       []ocispec.Descriptor{},
	}
	inputs := append([]Input(nil), b.Inputs...)
	sort.Slice(inputs, func(i, j int) bool {
		a, b := inputs[i], inputs[j]
		return a.Digest < b.Digest || a.Digest == b.Digest && a.Name > b.Name
	})
	if err := writeBlob(dir, config.Digest, configData); err != nil {
		return fmt.Errorf("vault export: %w", err)
	}
	for i, in := range inputs {
		if i > 0 && inputs[i-1].Digest == in.Digest {
			continue // the first of them has the name, if any has
		}
		size, err := v.exportBlob(ctx, dir, in.Digest)
		if err != nil {
			return fmt.Errorf("vault export: %w", err)
		}
		layer := ocispec.Descriptor{MediaType: InputMediaType, Digest: in.Digest, Size: size}
		if in.Name != "" {
			layer.Annotations = map[string]string{ocispec.AnnotationTitle: in.Name}
		}
		manifest.Layers = append(manifest.Layers, layer)
	}
	if len(manifest.Layers) == 0 {
		// "layers … MUST have at least one entry" for portability: the empty
		// descriptor stands in (image-spec manifest.md, "layers").
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeEmptyJSON, Digest: ocispec.DescriptorEmptyJSON.Digest, Size: ocispec.DescriptorEmptyJSON.Size,
		})
		if err := writeBlob(dir, ocispec.DescriptorEmptyJSON.Digest, ocispec.DescriptorEmptyJSON.Data); err != nil {
			return fmt.Errorf("vault export: %w", err)
		}
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return fmt.Errorf("vault export: %w", err)
	}
	desc := ocispec.Descriptor{
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: ArtifactType,
		Digest:       digest.FromBytes(data),
		Size:         int64(len(data)),
		Annotations:  map[string]string{ocispec.AnnotationRefName: b.Name},
	}
	if err := writeBlob(dir, desc.Digest, data); err != nil {
		return fmt.Errorf("vault export: %w", err)
	}
	kept := index.Manifests[:0]
	for _, m := range index.Manifests {
		if m.Annotations[ocispec.AnnotationRefName] != b.Name {
			kept = append(kept, m)
		}
	}
	index.Manifests = append(kept, desc)
	data, err = json.Marshal(index)
	if err != nil {
		return fmt.Errorf("vault export: %w", err)
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return fmt.Errorf("vault export: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), layout, 0o644); err != nil {
		return fmt.Errorf("vault export: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), data, 0o644); err != nil {
		return fmt.Errorf("vault export: %w", err)
	}
	return nil
}

// openLayout reads the index of an existing layout, or returns an empty one for
// a folder that is empty. It refuses a folder that holds something else.
func openLayout(dir string) (*ocispec.Index, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	index := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	_, err = root.Lstat(ocispec.ImageLayoutFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := root.Lstat(ocispec.ImageIndexFile); err == nil {
			return nil, fmt.Errorf("%s holds an index.json but no oci-layout file: use another folder", dir)
		}
		return index, nil
	}
	return readIndex(root, dir)
}

func readIndex(root *os.Root, dir string) (*ocispec.Index, error) {
	data, err := readSmall(root, ocispec.ImageLayoutFile, 1<<16)
	if err != nil {
		return nil, fmt.Errorf("%s is not an OCI image layout: %w", dir, err)
	}
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(data, &layout); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", dir, ocispec.ImageLayoutFile, err)
	}
	if layout.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%s: image layout version %q: want %s", dir, layout.Version, ocispec.ImageLayoutVersion)
	}
	data, err = readSmall(root, ocispec.ImageIndexFile, maxIndex)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", dir, ocispec.ImageIndexFile, err)
	}
	if index.SchemaVersion != 2 {
		return nil, fmt.Errorf("%s: %s: schema version %d: want 2", dir, ocispec.ImageIndexFile, index.SchemaVersion)
	}
	return &index, nil
}

// blobPath is a blob's path in a layout, slash-separated. check has passed d.
func blobPath(d oci.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func writeBlob(dir string, d oci.Digest, data []byte) error {
	to := filepath.Join(dir, filepath.FromSlash(blobPath(d)))
	if err := durable.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(to, data, 0o644)
}

// exportBlob puts one input into the layout and returns its size.
func (v *Vault) exportBlob(ctx context.Context, dir string, d oci.Digest) (int64, error) {
	f, err := v.Open(d)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	to := filepath.Join(dir, filepath.FromSlash(blobPath(d)))
	if err := durable.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 0, err
	}
	h := d.Algorithm().Hash()
	if have, err := os.Lstat(to); err == nil {
		if mine, err := f.Stat(); err == nil && os.SameFile(mine, have) {
			n, err := copyBounded(ctx, io.Discard, h, f, -1)
			if err != nil {
				return n, err
			}
			return n, verdict(d, h, -1, n)
		}
	}
	// A link is made under a temporary name first: link refuses to replace.
	temp, err := durable.TempDir(filepath.Dir(to))
	if err != nil {
		return 0, err
	}
	defer durable.RemoveAll(temp)
	linked := filepath.Join(temp, "blob")
	if err := os.Link(f.Name(), linked); err == nil {
		n, err := copyBounded(ctx, io.Discard, h, f, -1)
		if err != nil {
			return n, err
		}
		if err := verdict(d, h, -1, n); err != nil {
			return n, fmt.Errorf("%w; run `twinhull vault verify`", err)
		}
		return n, durable.CommitFile(linked, to)
	}
	out, err := durable.Create(to, 0o444)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	n, err := copyBounded(ctx, out, h, f, -1)
	if err != nil {
		return n, fmt.Errorf("%s: %w", d, err)
	}
	if err := verdict(d, h, -1, n); err != nil {
		return n, fmt.Errorf("%w; run `twinhull vault verify`", err)
	}
	return n, out.Commit()
}

// Imported is what an Import brought.
type Imported struct {
	Name   string       // tag of the manifest, "" when it has none
	Lock   []byte       // the lock file of the bundle, nil when it has none
	Inputs []oci.Digest // every input of the bundle, sorted
	New    int          // how many of them the vault did not hold before
	Bytes  int64        // their size
}

// Import reads the bundles of a layout back into the vault and returns one
// Imported for each, in the order of the layout's index. Every byte is verified
// against its digest before it gets its name; nothing outside the layout's
// folder is read, whatever links are in it. Manifests of other kinds are
// skipped; a layout without a bundle is an error. Bytes are copied, not linked:
// whoever owns the layout could change them afterwards.
func (v *Vault) Import(ctx context.Context, dir string) ([]Imported, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("vault import: %w", err)
	}
	defer root.Close()
	index, err := readIndex(root, dir)
	if err != nil {
		return nil, fmt.Errorf("vault import: %w", err)
	}
	var all []Imported
	for i, desc := range index.Manifests {
		if desc.MediaType != ocispec.MediaTypeImageManifest {
			continue
		}
		if desc.ArtifactType != "" && desc.ArtifactType != ArtifactType {
			continue
		}
		got, err := v.importManifest(ctx, root, desc)
		if errors.Is(err, errOtherKind) {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("vault import: %s: manifest %d of index.json: %w", dir, i, err)
		}
		all = append(all, got)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("vault import: %s holds no exported vault (no manifest of type %s)", dir, ArtifactType)
	}
	return all, nil
}

var errOtherKind = errors.New("not an exported vault")

func (v *Vault) importManifest(ctx context.Context, root *os.Root, desc ocispec.Descriptor) (Imported, error) {
	data, err := readBlob(root, desc, maxManifest)
	if err != nil {
		return Imported{}, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Imported{}, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	if m.ArtifactType != ArtifactType {
		return Imported{}, errOtherKind
	}
	// A manifest that says another media type inside than outside is the
	// confusion attack that the field exists against (image-spec manifest.md).
	if m.SchemaVersion != 2 || m.MediaType != ocispec.MediaTypeImageManifest {
		return Imported{}, fmt.Errorf("%s: schema version %d and media type %q: want 2 and %s", desc.Digest, m.SchemaVersion, m.MediaType, ocispec.MediaTypeImageManifest)
	}
	if len(m.Layers) > maxInputs {
		return Imported{}, fmt.Errorf("%s: %d inputs: at most %d", desc.Digest, len(m.Layers), maxInputs)
	}
	got := Imported{Name: desc.Annotations[ocispec.AnnotationRefName]}
	switch m.Config.MediaType {
	case LockMediaType:
		if got.Lock, err = readBlob(root, m.Config, maxLock); err != nil {
			return Imported{}, fmt.Errorf("lock: %w", err)
		}
	case ocispec.MediaTypeEmptyJSON:
	default:
		return Imported{}, fmt.Errorf("config of type %q: want %s", m.Config.MediaType, LockMediaType)
	}
	seen := make(map[oci.Digest]bool, len(m.Layers))
	for _, l := range m.Layers {
		if l.MediaType == ocispec.MediaTypeEmptyJSON {
			continue
		}
		if l.MediaType != InputMediaType {
			return got, fmt.Errorf("layer %s of type %q: want %s", l.Digest, l.MediaType, InputMediaType)
		}
		if err := check(l.Digest); err != nil {
			return got, err
		}
		if l.Size < 0 {
			return got, fmt.Errorf("layer %s: size %d", l.Digest, l.Size)
		}
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		if !v.Has(l.Digest) {
			if err := v.importBlob(ctx, root, l); err != nil {
				return got, err
			}
			got.New++
			got.Bytes += l.Size
		}
		got.Inputs = append(got.Inputs, l.Digest)
	}
	sort.Slice(got.Inputs, func(i, j int) bool { return got.Inputs[i] < got.Inputs[j] })
	return got, nil
}

func (v *Vault) importBlob(ctx context.Context, root *os.Root, desc ocispec.Descriptor) error {
	f, err := openRegular(root, blobPath(desc.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	return v.Put(ctx, desc.Digest, desc.Size, f)
}

// readBlob reads and verifies a blob that has to be held in memory.
func readBlob(root *os.Root, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := check(desc.Digest); err != nil {
		return nil, err
	}
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("%s: size %d: at most %d bytes", desc.Digest, desc.Size, limit)
	}
	data, err := readSmall(root, blobPath(desc.Digest), desc.Size)
	if err != nil {
		return nil, err
	}
	h := desc.Digest.Algorithm().Hash()
	h.Write(data)
	if err := verdict(desc.Digest, h, desc.Size, int64(len(data))); err != nil {
		return nil, err
	}
	return data, nil
}

func readSmall(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%s: longer than %d bytes", name, limit)
	}
	return buf.Bytes(), nil
}

// openRegular opens a regular file below root. Without O_NONBLOCK a named pipe
// in a hostile layout would hold the import for ever.
func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	return f, nil
}
