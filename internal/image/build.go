package image

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/progress"
)

// LayerSpec is one layer of an image to be built.
type LayerSpec struct {
	Name    string            // short: "packages 1", "application"
	Comment string            // what is in it, for the history: "debian packages: glibc"
	Entries []*filetree.Entry // in any order; see order for what is refused
	Codec   Codec             // Gzip when empty
}

// Config is what a runtime needs to know (image-spec config.md).
type Config struct {
	Env          map[string]string
	User         string // numeric "UID:GID" for images made here; empty means root
	WorkingDir   string // absolute, or empty for /
	Entrypoint   []string
	Cmd          []string
	ExposedPorts []int // TCP
	Labels       map[string]string
	StopSignal   string // "SIGTERM"; empty leaves the choice to the runtime
}

// Spec is an image, completely described. Equal specs give equal digests.
type Spec struct {
	Platform    oci.Platform
	Zone        oci.Zone
	Title       string      // org.opencontainers.image.title; usually the project's name
	Layers      []LayerSpec // bottom first; a layer without entries is left out
	Config      Config
	Annotations map[string]string // of the manifest, beside the zone, the title and the creation time
	Created     time.Time         // whole seconds; from the lock, never from the clock
}

// Builder makes images: layers through Cache, everything of an image in Store.
type Builder struct {
	Cache  *Cache
	Store  *oci.Layout
	Report progress.Reporter // nil: silent
}

// Result is an image in the Store.
type Result struct {
	Zone     oci.Zone
	Manifest oci.Descriptor // with its platform
	Config   oci.Descriptor
	Layers   []Layer // bottom first
}

// Layer is one layer of a Result.
type Layer struct {
	Name string
	LayerBlob
	Reused bool // it was in the Cache and has not been written
}

// Build writes the layers that are not in the cache, several at a time, and
// stores configuration and manifest. It names nothing: the caller gives the
// manifest a tag (Layout.Update or SetTag), which protects it from Layout.GC.
func (b *Builder) Build(ctx context.Context, spec Spec) (Result, error) {
	if err := spec.check(); err != nil {
		return Result{}, err
	}
	report := b.Report
	if report == nil {
		report = progress.New(nil, true)
	}
	var specs []LayerSpec
	for _, l := range spec.Layers {
		if len(l.Entries) > 0 {
			specs = append(specs, l)
		}
	}
	layers := make([]Layer, len(specs))
	// The largest first, so that no long layer is left for the end; the order
	// of writing does not show in the bits.
	byWork := make([]int, len(specs))
	for i := range byWork {
		byWork[i] = i
	}
	sizes := make([]int64, len(specs))
	for i, l := range specs {
		sizes[i] = contentSize(l.Entries)
	}
	sort.SliceStable(byWork, func(i, j int) bool { return sizes[byWork[i]] > sizes[byWork[j]] })

	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * cap(b.Cache.slot)) // keys are hashed beside layers being written
	for _, i := range byWork {
		g.Go(func() error {
			l := specs[i]
			if l.Codec == "" {
				l.Codec = Gzip
			}
			// A task begins with its first byte: reused layers are not news.
			var task progress.Task
			blob, hit, err := b.Cache.Layer(gctx, l.Entries, l.Codec, func(n int64) {
				if task == nil {
					task = report.Task(fmt.Sprintf("%s layer %s", spec.Zone, l.Name), sizes[i])
				}
				task.Add(n)
			})
			if task != nil {
				task.Done(err)
			}
			if err != nil {
				return fmt.Errorf("layer %s: %w", l.Name, err)
			}
			layers[i] = Layer{Name: l.Name, LayerBlob: blob, Reused: hit}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	for _, l := range layers {
		if err := b.Store.LinkBlob(l.Digest, b.Cache.BlobPath(l.Digest)); err != nil {
			return Result{}, fmt.Errorf("layer %s: %w", l.Name, err)
		}
	}
	return b.describe(spec, specs, layers)
}

// contentSize is the sum of the files' sizes.
func contentSize(entries []*filetree.Entry) int64 {
	n := int64(0)
	for _, e := range entries {
		n += e.Size
	}
	return n
}

func (s *Spec) check() error {
	if _, err := oci.ParseZone(string(s.Zone)); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if _, err := oci.ParsePlatform(s.Platform.String()); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if s.Created.IsZero() || s.Created.Nanosecond() != 0 {
		return fmt.Errorf("image: creation time %v: want whole seconds, from the lock", s.Created)
	}
	for _, m := range []map[string]string{s.Config.Labels, s.Annotations} {
		if z, ok := m[oci.ZoneKey]; ok && z != string(s.Zone) {
			return fmt.Errorf("image: %s says %q but the image is %s: the name belongs to Twinhull", oci.ZoneKey, z, s.Zone)
		}
	}
	for _, p := range s.Config.ExposedPorts {
		if p < 1 || p > 65535 {
			return fmt.Errorf("image: port %d: want 1 to 65535", p)
		}
	}
	if d := s.Config.WorkingDir; d != "" && (!strings.HasPrefix(d, "/") || path.Clean(d) != d) {
		return fmt.Errorf("image: working directory %q: want a clean absolute path", d)
	}
	for k := range s.Config.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			return fmt.Errorf("image: environment name %q", k)
		}
	}
	return nil
}

// createdBy is a history entry's text: which assembler, which zone, what.
func createdBy(spec Spec, l LayerSpec) string {
	what := l.Comment
	if what == "" {
		what = l.Name
	}
	return "twinhull " + strconv.Itoa(Assembler) + ": " + string(spec.Zone) + ": " + what
}

// describe stores configuration and manifest. Both are encoded by
// encoding/json from structures with a fixed field order; maps come out sorted.
func (b *Builder) describe(spec Spec, specs_ []LayerSpec, layers []Layer) (Result, error) {
	created := spec.Created.UTC()
	cfg := ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{OS: spec.Platform.OS, Architecture: spec.Platform.Architecture},
		Config: ocispec.ImageConfig{
			User:       spec.Config.User,
			Entrypoint: spec.Config.Entrypoint,
			Cmd:        spec.Config.Cmd,
			WorkingDir: spec.Config.WorkingDir,
			StopSignal: spec.Config.StopSignal,
			Labels:     map[string]string{oci.ZoneKey: string(spec.Zone)},
		},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	for k, v := range spec.Config.Env {
		cfg.Config.Env = append(cfg.Config.Env, k+"="+v)
	}
	sort.Strings(cfg.Config.Env)
	for _, p := range spec.Config.ExposedPorts {
		if cfg.Config.ExposedPorts == nil {
			cfg.Config.ExposedPorts = make(map[string]struct{})
		}
		cfg.Config.ExposedPorts[strconv.Itoa(p)+"/tcp"] = struct{}{}
	}
	for k, v := range spec.Config.Labels {
		cfg.Config.Labels[k] = v
	}
	manifest := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Layers:      []oci.Descriptor{},
		Annotations: make(map[string]string),
	}
	for i, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.DiffID)
		cfg.History = append(cfg.History, ocispec.History{Created: &created, CreatedBy: createdBy(spec, specs_[i])})
		manifest.Layers = append(manifest.Layers, l.Descriptor())
	}
	for k, v := range spec.Annotations {
		manifest.Annotations[k] = v
	}
	manifest.Annotations[oci.ZoneKey] = string(spec.Zone)
	manifest.Annotations[ocispec.AnnotationCreated] = created.Format(time.RFC3339)
	if spec.Title != "" {
		manifest.Annotations[ocispec.AnnotationTitle] = spec.Title
	}

	text, err := json.Marshal(cfg)
	if err != nil {
		return Result{}, err
	}
	result := Result{Zone: spec.Zone, Layers: layers}
	if result.Config, err = b.Store.PutBytes(ocispec.MediaTypeImageConfig, text); err != nil {
		return Result{}, err
	}
	manifest.Config = result.Config
	if text, err = json.Marshal(manifest); err != nil {
		return Result{}, err
	}
	if len(text) > oci.MaxManifest {
		return Result{}, fmt.Errorf("image: manifest of %d bytes: readers take at most %d", len(text), oci.MaxManifest)
	}
	if result.Manifest, err = b.Store.PutBytes(ocispec.MediaTypeImageManifest, text); err != nil {
		return Result{}, err
	}
	result.Manifest.Platform = &ocispec.Platform{OS: spec.Platform.OS, Architecture: spec.Platform.Architecture}
	return result, nil
}

// BuildIndex stores an index of one zone's images, one for each platform, and
// returns its descriptor. It holds images only: attestations are referrers, or
// the index would not be reproducible. The order of results does not matter.
func BuildIndex(store *oci.Layout, results []Result, annotations map[string]string) (oci.Descriptor, error) {
	if len(results) == 0 {
		return oci.Descriptor{}, fmt.Errorf("index: no images")
	}
	idx := ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageIndex,
		Annotations: map[string]string{},
	}
	for k, v := range annotations {
		idx.Annotations[k] = v
	}
	zone := results[0].Zone
	if z, ok := annotations[oci.ZoneKey]; ok && z != string(zone) {
		return oci.Descriptor{}, fmt.Errorf("index: %s says %q but its images are %s", oci.ZoneKey, z, zone)
	}
	idx.Annotations[oci.ZoneKey] = string(zone)
	seen := make(map[string]bool)
	for _, r := range results {
		if r.Zone != zone {
			return oci.Descriptor{}, fmt.Errorf("index: a %s image beside a %s one: an index has one zone", r.Zone, zone)
		}
		if r.Manifest.Platform == nil {
			return oci.Descriptor{}, fmt.Errorf("index: image %s has no platform", r.Manifest.Digest)
		}
		p := platformOf(r.Manifest)
		if seen[p] {
			return oci.Descriptor{}, fmt.Errorf("index: two images for %s", p)
		}
		seen[p] = true
		idx.Manifests = append(idx.Manifests, r.Manifest)
	}
	sort.Slice(idx.Manifests, func(i, j int) bool { return platformOf(idx.Manifests[i]) < platformOf(idx.Manifests[j]) })
	text, err := json.Marshal(idx)
	if err != nil {
		return oci.Descriptor{}, err
	}
	return store.PutBytes(ocispec.MediaTypeImageIndex, text)
}

func platformOf(d oci.Descriptor) string {
	if d.Platform == nil {
		return ""
	}
	return d.Platform.OS + "/" + d.Platform.Architecture
}
