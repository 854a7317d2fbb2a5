package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// OriginsType is the artifact type of the document that explains an image's
// files; it is stored as a referrer of the image (image-spec manifest.md,
// subject), never inside it.
const OriginsType = "application/vnd.twinhull.origins.v1+json"

// Origins says of every path of an image why it is there.
type Origins struct {
	Version  int          `json:"version"` // 1
	Image    oci.Digest   `json:"image"`   // of the manifest
	Name     string       `json:"name"`
	Zone     oci.Zone     `json:"zone"`
	Platform oci.Platform `json:"platform"`
	AsOf     time.Time    `json:"asOf"`
	Project  oci.Digest   `json:"project"` // Lock.Project
	Lock     oci.Digest   `json:"lock"`    // of the lock's bytes, which the vault keeps

	Packages []project.Package     `json:"packages"`
	Omitted  []project.OmittedItem `json:"omitted,omitempty"`
	Steps    []StepRecord          `json:"steps,omitempty"`
	LeftOut  []LeftOut             `json:"leftOut,omitempty"`
	Kept     []string              `json:"kept,omitempty"` // production.keep: what trimming was told to leave alone
	Notes    []string              `json:"notes,omitempty"`
	Paths    []PathOrigin          `json:"paths"` // in byte order
}

// PathOrigin is one path of an image.
type PathOrigin struct {
	Path   string          `json:"path"`
	Type   string          `json:"type"` // file, folder, symlink, hardlink
	Mode   string          `json:"mode"` // octal
	UID    int             `json:"uid,omitempty"`
	GID    int             `json:"gid,omitempty"`
	Size   int64           `json:"size,omitempty"`
	Link   string          `json:"link,omitempty"`
	SHA256 oci.Digest      `json:"sha256,omitempty"`
	Origin filetree.Origin `json:"origin"`
}

var typeNames = map[byte]string{tar.TypeReg: "file", tar.TypeDir: "folder", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink"}

// imageDescription is what an image's key is made of. It is known without
// opening a package.
type imageDescription struct {
	Assembler int
	Name      string
	Zone      oci.Zone
	Platform  oci.Platform
	Spec      project.Spec
	Packages  []oci.Digest
	Shared    []oci.Digest // development: the production packages whose layers it may share,
	SharedBy  int          // how they are trimmed (productionVersion),
	SharedAs  []string     // and what is kept of them (production.keep)
	Root      Key          // development
	Tools     []oci.Digest
	Modules   []project.NPMPackage
	Go        []project.GoModule `json:",omitempty"` // development
	Artifacts []artifactInput
	Files     []InputFile
	Codec     image.Codec
	AsOf      int64
	LayerPlan int
}

// artifactInput is what an image takes from a step.
type artifactInput struct {
	Step  string
	Key   Key
	Files []OutputFile
}

// layerPlanVersion is raised when image.Plan divides trees otherwise.
const layerPlanVersion = 1

// host is the platform that steps run on: this machine's.
func (b *Builder) host() oci.Platform {
	return oci.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

func (b *Builder) description(zone oci.Zone, s *project.Spec, plat oci.Platform, pkgs []project.Package, steps []StepRecord) (imageDescription, error) {
	d := imageDescription{Assembler: b.lock.Assembler, Name: b.file.Name, Zone: zone, Platform: plat, Spec: *s, Codec: b.Codec, AsOf: b.mtime(), LayerPlan: layerPlanVersion}
	for _, p := range pkgs {
		d.Packages = append(d.Packages, p.SHA256)
	}
	for _, name := range sortedKeys(s.Artifacts) {
		rec, output, err := findArtifact(steps, name, plat)
		if err != nil {
			return d, fmt.Errorf("%s.artifacts.%s: %w", zone, name, err)
		}
		// Not the whole record: what a step reports besides, such as how long
		// its tests took, is not in the image.
		in := artifactInput{Step: rec.Step, Key: rec.Key}
		for _, o := range rec.Outputs {
			if o.Output == output {
				in.Files = append(in.Files, o)
			}
		}
		d.Artifacts = append(d.Artifacts, in)
	}
	for _, from := range sortedKeys(s.Files) {
		in, err := b.source.tree(from)
		if err != nil {
			return d, fmt.Errorf("%s.files: %w", zone, err)
		}
		d.Files = append(d.Files, in...)
	}
	if n := s.Dependencies.NPM; n != nil {
		tree, err := b.npmTree(n)
		if err != nil {
			return d, err
		}
		d.Modules = tree.Packages
	}
	if zone == oci.Development && s.Dependencies.Go != nil {
		d.Go = b.lock.Go
	}
	return d, nil
}

// madeImage is an image in the store whose record is not complete: steps that
// it holds nothing of, such as tests, may still run.
type madeImage struct {
	imageRecord
	key Key

	// Of an image that was not there before.
	origins Origins
	entries []*filetree.Entry
}

// imageRecord is what is kept of an image.
type imageRecord struct {
	ImageReport
	Steps []oci.Digest // records that its origins tell of
}

// finish writes an image of a complete tree into the store.
func (b *Builder) finish(ctx context.Context, key Key, zone oci.Zone, s *project.Spec, plat oci.Platform, c *composed, layers []image.LayerSpec, closure *project.Closure, pkgs []project.Package) (madeImage, error) {
	labels := map[string]string{oci.ZoneKey: string(zone)}
	for k, v := range s.Labels {
		labels[k] = v
	}
	if len(s.Writable) > 0 {
		labels["dev.twinhull.writable"] = strings.Join(s.Writable, ",")
	}
	if s.Health != "" {
		labels["dev.twinhull.health"] = s.Health
	}
	if s.Ready != "" {
		labels["dev.twinhull.ready"] = s.Ready
	}
	ports := append([]int{}, s.Ports...)
	if s.Debugger != 0 {
		ports = append(ports, s.Debugger)
	}
	cfg := image.Config{
		Env: b.imageEnvironment(zone, s), User: userOf(s), WorkingDir: s.Workdir,
		Entrypoint: s.Entrypoint, Cmd: s.Command, ExposedPorts: ports, Labels: labels, StopSignal: "SIGTERM",
	}
	if zone == oci.Development && len(cfg.Entrypoint) == 0 && len(cfg.Cmd) == 0 {
		if cfg.Cmd = s.Reload; len(cfg.Cmd) == 0 {
			cfg.Cmd = []string{"/bin/bash"}
		}
	}
	store, err := oci.CreateLayout(b.StoreDir())
	if err != nil {
		return madeImage{}, err
	}
	ib := &image.Builder{Cache: b.layers, Store: store, Report: b.progress}
	res, err := ib.Build(ctx, image.Spec{
		Platform: plat, Zone: zone, Title: b.file.Name, Layers: layers, Config: cfg, Created: b.lock.AsOf,
	})
	if errors.Is(err, image.ErrCacheDamaged) {
		return madeImage{}, b.mend(c.tree, err)
	}
	if err != nil {
		return madeImage{}, err
	}
	rep := ImageReport{Zone: zone, Platform: plat, Manifest: res.Manifest, Packages: len(pkgs), LeftOut: c.leftOut(), Notes: c.notes}
	if closure != nil {
		rep.Omissions = closure.Omitted
	}
	o := Origins{Version: 1, Image: res.Manifest.Digest, Name: b.file.Name, Zone: zone, Platform: plat, AsOf: b.lock.AsOf,
		Project: b.lock.Project, Packages: pkgs, Omitted: rep.Omissions, Steps: b.extra, LeftOut: c.leftOut(), Kept: s.Keep, Notes: c.notes}
	if o.Lock, err = b.vault.PutBytes(b.lock.Encode()); err != nil {
		return madeImage{}, err
	}
	entries := c.tree.Sorted()
	for _, e := range entries {
		rep.Files++
		rep.Unpacked += e.Size
	}
	return madeImage{imageRecord: imageRecord{ImageReport: rep}, key: key, origins: o, entries: entries}, nil
}

// explainImage completes the record of an image with all steps that ran for it,
// and writes the document that explains it, unless it is there and tells of the
// same steps.
func (b *Builder) explainImage(w *work, m madeImage, steps []StepRecord) (ImageReport, error) {
	store, err := oci.CreateLayout(b.StoreDir())
	if err != nil {
		return ImageReport{}, err
	}
	if m.Zone == oci.Development {
		held := w.heldSteps(oci.Development)
		steps = slices.DeleteFunc(slices.Clone(steps), func(r StepRecord) bool { return !held[r.Step] })
	}
	var digests []oci.Digest
	for _, r := range steps {
		digests = append(digests, r.Digest)
	}
	rep := m.ImageReport
	rep.Cached = false
	var doc oci.Descriptor
	switch {
	case m.entries != nil:
		m.origins.Steps = append(slices.Clone(steps), m.origins.Steps...)
		doc, err = b.putOrigins(store, m.origins, m.entries)
	case !slices.Equal(m.Steps, digests):
		doc, err = b.renewOrigins(store, m, steps)
	default:
		return m.ImageReport, nil
	}
	if err == nil {
		rep.Origins = doc.Digest
		err = putReferrer(store, rep.Manifest, doc)
	}
	if err == nil {
		err = b.cache.keep("images", m.key, imageRecord{rep, digests})
	}
	if err != nil {
		return rep, fmt.Errorf("writing the origins of the %s image: %w", rep.Zone, err)
	}
	rep.Cached = m.Cached
	return rep, nil
}

// renewOrigins writes the document of an image that was there before with the
// records of other runs of its steps.
func (b *Builder) renewOrigins(store *oci.Layout, m madeImage, steps []StepRecord) (oci.Descriptor, error) {
	o, err := ReadOrigins(store, m.Manifest.Digest)
	if err != nil {
		return oci.Descriptor{}, err
	}
	// Install scripts are no steps of the project; what they left is as it was.
	own := slices.DeleteFunc(o.Steps, func(r StepRecord) bool {
		return slices.ContainsFunc(b.file.Build.Steps, func(s project.Step) bool { return s.Name == r.Step })
	})
	o.Steps = append(slices.Clone(steps), own...)
	if o.Lock, err = b.vault.PutBytes(b.lock.Encode()); err != nil {
		return oci.Descriptor{}, err
	}
	raw := mustLine(o)
	d := digest.FromBytes(raw)
	n, err := store.PutBlob(d, bytes.NewReader(raw))
	return oci.Descriptor{MediaType: OriginsType, Digest: d, Size: n}, err
}

// mend removes the cache entries whose bytes are not what they were, so that
// the next build makes them again.
func (b *Builder) mend(t *filetree.Tree, err error) error {
	var gone []string
	for _, e := range t.Sorted() {
		if !e.IsReg() || e.Content.File == "" {
			continue
		}
		if entry := b.cache.heal(e.Content.File, e.Content.Offset, e.Size, e.Digest); entry != "" && !slices.Contains(gone, entry) {
			gone = append(gone, entry)
		}
	}
	if len(gone) == 0 {
		return err
	}
	return fmt.Errorf("%w\nhint: damaged entries of the cache have been removed (%s): build again; when it happens again, check the disk", err, strings.Join(gone, ", "))
}

func mustLine(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("build: " + err.Error()) // plain data
	}
	return append(b, '\n')
}

// ReferrersTag is the tag under which a layout keeps the index of what refers
// to a digest: the tag schema of the distribution specification, which readers
// without a referrers API use.
func ReferrersTag(d oci.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

// putOrigins stores an origins document, whose paths are those of the entries.
// It is written path by path: the document of a development image has 20 MB,
// and in memory it would stand there several times over.
func (b *Builder) putOrigins(store *oci.Layout, o Origins, entries []*filetree.Entry) (oci.Descriptor, error) {
	tmp, done, err := b.cache.scratchFile("origins")
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer done()
	h := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(tmp, h), 1<<18)
	if err := writeOrigins(w, o, entries); err != nil {
		return oci.Descriptor{}, err
	}
	if err := w.Flush(); err != nil {
		return oci.Descriptor{}, err
	}
	d := digest.NewDigest(digest.SHA256, h)
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return oci.Descriptor{}, err
	}
	n, err := store.PutBlob(d, tmp)
	return oci.Descriptor{MediaType: OriginsType, Digest: d, Size: n}, err
}

// writeOrigins writes the line of JSON that mustLine would.
func writeOrigins(w io.Writer, o Origins, entries []*filetree.Entry) error {
	o.Paths = []PathOrigin{}
	head, ok := bytes.CutSuffix(mustLine(o), []byte("]}\n"))
	if !ok {
		panic("build: paths are not the last field of Origins")
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for i, e := range entries {
		line, err := json.Marshal(PathOrigin{Path: e.Path, Type: typeNames[e.Type], Mode: strconv.FormatInt(e.Mode, 8), UID: e.UID, GID: e.GID,
			Size: e.Size, Link: e.Link, SHA256: e.Digest, Origin: e.Origin})
		if err != nil {
			return err
		}
		if i > 0 {
			line = append([]byte(","), line...)
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "]}\n")
	return err
}

// putReferrer makes a stored document a referrer of an image. Its media type is
// the artifact's type; an older referrer of the same type is replaced.
func putReferrer(store *oci.Layout, subject, blob oci.Descriptor) error {
	artifactType := blob.MediaType
	empty, err := store.PutBytes(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		return err
	}
	subject = oci.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: empty, Layers: []oci.Descriptor{blob}, Subject: &subject}
	desc, err := store.PutBytes(ocispec.MediaTypeImageManifest, mustLine(m))
	if err != nil {
		return err
	}
	desc.ArtifactType = artifactType
	tag := ReferrersTag(subject.Digest)
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []oci.Descriptor{desc}}
	if old, err := store.Tag(tag); err == nil {
		b, err := store.ReadBlob(old)
		if err != nil {
			return err
		}
		was, err := oci.ParseIndex(b)
		if err != nil {
			return err
		}
		for _, d := range was.Manifests {
			if d.ArtifactType != artifactType {
				idx.Manifests = append(idx.Manifests, d)
			}
		}
		sort.Slice(idx.Manifests, func(i, j int) bool { return idx.Manifests[i].Digest < idx.Manifests[j].Digest })
	}
	d, err := store.PutBytes(ocispec.MediaTypeImageIndex, mustLine(idx))
	if err != nil {
		return err
	}
	return store.SetTag(tag, d)
}

func userOf(s *project.Spec) string {
	if s.User.ID == 0 && s.User.GID == 0 {
		return "0:0"
	}
	return fmt.Sprintf("%d:%d", s.User.ID, s.User.GID)
}

// imageEnvironment is a zone's environment with the search path that its tree
// needs; the project file may set it otherwise.
func (b *Builder) imageEnvironment(zone oci.Zone, s *project.Spec) map[string]string {
	env := map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin"}
	if zone == oci.Development {
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		env["LANG"] = "C.UTF-8"
		for _, t := range b.lock.Tools {
			if t.Name == "go" {
				env["PATH"] = "/usr/local/go/bin:" + env["PATH"]
				env["GOTOOLCHAIN"] = "local"
			}
		}
		if s.Dependencies.Go != nil {
			env["GOPROXY"] = "file://" + GoModules + ",direct"
		}
		if n := s.Dependencies.NPM; n != nil {
			env["PATH"] += ":" + path.Join(n.Into, "node_modules/.bin")
		}
	}
	for k, v := range s.Environment {
		env[k] = v
	}
	return env
}

// known looks an image up by its key.
func (b *Builder) known(key Key) (madeImage, bool) {
	rep := madeImage{key: key}
	if !b.cache.record("images", key, &rep.imageRecord) {
		return rep, false
	}
	store, err := oci.OpenLayout(b.StoreDir())
	if err != nil {
		return rep, false
	}
	whole := true
	check := func(d oci.Descriptor) error {
		if n, err := store.Stat(d.Digest); err != nil || n != d.Size {
			whole = false
			return errors.New("missing")
		}
		return nil
	}
	if check(rep.Manifest) != nil || store.Walk(rep.Manifest, check) != nil || !whole {
		return rep, false
	}
	if _, err := store.Stat(rep.Origins); err != nil {
		return rep, false
	}
	if _, err := store.Tag(ReferrersTag(rep.Manifest.Digest)); err != nil {
		return rep, false
	}
	rep.Cached = true
	return rep, true
}

// sourceOf names the source package of a package's origin, by which layers are
// grouped.
func (b *Builder) sourceOf() func(filetree.Origin) string {
	src := map[string]string{}
	for _, p := range b.lock.Packages {
		src[p.Name] = p.Source
	}
	return func(o filetree.Origin) string {
		if s := src[o.Name]; s != "" && o.Kind == filetree.FromPackage {
			return s
		}
		return o.Name
	}
}

// imageKey names the image of a zone and platform without making it.
func (b *Builder) imageKey(zone oci.Zone, plat oci.Platform, steps []StepRecord, w *work) (Key, error) {
	prod, _, err := b.closure("production", plat)
	if zone == oci.Production {
		if err != nil {
			return "", err
		}
		return b.productionKey(plat, prod, steps, w.tools)
	}
	return b.developmentKey(w.development, prod, steps)
}

func (b *Builder) productionKey(plat oci.Platform, pkgs []project.Package, steps []StepRecord, tools *root) (Key, error) {
	s := &b.file.Production
	d, err := b.description(oci.Production, s, plat, pkgs, steps)
	if err != nil {
		return "", err
	}
	if n := s.Dependencies.NPM; n != nil {
		for _, m := range d.Modules {
			if m.Scripts && (n.Development || !m.Dev) {
				d.Root = tools.key // install scripts run over it
			}
		}
	}
	return keyOf("production", productionVersion, d), nil
}

func (b *Builder) developmentKey(r *root, shared []project.Package, steps []StepRecord) (Key, error) {
	d, err := b.description(oci.Development, &b.file.Development, r.plat, r.pkgs, steps)
	if err != nil {
		return "", err
	}
	d.Root = r.key
	for _, p := range shared {
		d.Shared = append(d.Shared, p.SHA256)
	}
	d.SharedBy, d.SharedAs = productionVersion, b.file.Production.Keep
	return keyOf("development", developmentVersion, d), nil
}

// buildProduction makes or finds the production image of a platform.
func (b *Builder) buildProduction(ctx context.Context, plat oci.Platform, steps []StepRecord, tools *root) (madeImage, error) {
	s := &b.file.Production
	pkgs, closure, err := b.closure("production", plat)
	if err != nil {
		return madeImage{}, err
	}
	key, err := b.productionKey(plat, pkgs, steps, tools)
	if err != nil {
		return madeImage{}, err
	}
	if rep, ok := b.known(key); ok {
		return rep, nil
	}
	b.extra = nil
	up, err := b.open(ctx, pkgs)
	if err != nil {
		return madeImage{}, err
	}
	var modules []*filetree.Entry
	if n := s.Dependencies.NPM; n != nil {
		if modules, err = b.npmEntries(ctx, n, plat, tools); err != nil {
			return madeImage{}, err
		}
		if modules, err = relocate(modules, n.Into); err != nil {
			return madeImage{}, err
		}
	}
	c, err := b.compose(ctx, plat, up, modules, steps)
	if err != nil {
		return madeImage{}, err
	}
	layers, err := image.PlanProduction(c.tree.Sorted(), image.PlanOptions{Source: b.sourceOf(), Codec: b.Codec})
	if err != nil {
		return madeImage{}, err
	}
	return b.finish(ctx, key, oci.Production, s, plat, c, layers, closure, pkgs)
}

// relocate moves entries below a folder of the image.
func relocate(entries []*filetree.Entry, into string) ([]*filetree.Entry, error) {
	to := usrMerged(strings.TrimPrefix(into, "/"))
	out := make([]*filetree.Entry, len(entries))
	for i, e := range entries {
		c := *e
		c.Path = path.Join(to, e.Path)
		if c.Type == tar.TypeLink {
			c.Link = path.Join(to, e.Link)
		}
		out[i] = &c
	}
	return out, nil
}

// developmentVersion is part of every development image's key.
const developmentVersion = 2

// buildDevelopment makes or finds the development image for this machine's
// platform: its packages are configured by running their own scripts, which
// needs the platform itself.
func (b *Builder) buildDevelopment(ctx context.Context, r *root, steps []StepRecord) (madeImage, error) {
	s := &b.file.Development
	prodPkgs, _, err := b.closure("production", r.plat)
	if err != nil {
		prodPkgs = nil // this machine's platform is not one of production's: nothing to share
	}
	key, err := b.developmentKey(r, prodPkgs, steps)
	if err != nil {
		return madeImage{}, err
	}
	if rep, ok := b.known(key); ok {
		return rep, nil
	}
	b.extra = nil
	if err := b.realise(ctx, r); err != nil {
		return madeImage{}, err
	}
	if err := b.layOut(ctx, r); err != nil {
		return madeImage{}, err
	}
	c := &composed{tree: r.tree()}
	place := func(entries []*filetree.Entry) {
		for _, e := range entries {
			if old := c.tree.Get(e.Path); old == nil || !(old.IsDir() && e.IsDir()) {
				c.tree.Set(e)
			}
		}
	}
	if n := s.Dependencies.NPM; n != nil {
		modules, err := b.npmEntries(ctx, n, r.plat, r)
		if err != nil {
			return madeImage{}, err
		}
		if modules, err = relocate(modules, n.Into); err != nil {
			return madeImage{}, err
		}
		place(modules)
	}
	if s.Dependencies.Go != nil {
		modules, err := b.goModuleEntries()
		if err != nil {
			return madeImage{}, err
		}
		place(modules)
	}
	for _, name := range sortedKeys(s.Artifacts) {
		rec, output, err := findArtifact(steps, name, r.plat)
		if err != nil {
			return madeImage{}, err
		}
		place(b.artifactEntries(rec, output, s.Artifacts[name]))
	}
	files, err := b.projectFiles(ctx, s.Files)
	if err != nil {
		return madeImage{}, err
	}
	place(files)
	g := generator{tree: c.tree, mtime: b.mtime()}
	if w := strings.TrimPrefix(s.Workdir, "/"); w != "" && c.tree.Get(w) == nil {
		g.dir(w, 0o755, s.User.ID, s.User.GID, "workdir", "the working directory")
	}
	if err := b.developmentUser(c.tree); err != nil {
		return madeImage{}, err
	}
	if err := addParents(c.tree, b.mtime()); err != nil {
		return madeImage{}, err
	}
	if err := b.keepGenerated(ctx, c.tree); err != nil {
		return madeImage{}, err
	}
	if err := b.explainAll(c.tree); err != nil {
		return madeImage{}, err
	}
	var shared []image.LayerSpec
	if len(prodPkgs) > 0 {
		up, err := b.open(ctx, prodPkgs)
		if err != nil {
			return madeImage{}, err
		}
		pc, err := b.sharedTree(up)
		if err != nil {
			return madeImage{}, err
		}
		if shared, err = image.PlanProduction(pc.tree.Sorted(), image.PlanOptions{Source: b.sourceOf(), Codec: b.Codec}); err != nil {
			return madeImage{}, err
		}
	}
	layers, err := image.PlanDevelopment(c.tree.Sorted(), shared, image.PlanOptions{Source: b.sourceOf(), Codec: b.Codec})
	if err != nil {
		return madeImage{}, err
	}
	return b.finish(ctx, key, oci.Development, s, r.plat, c, layers, nil, r.pkgs)
}

// developmentUser adds the project's user to the accounts of the tree.
func (b *Builder) developmentUser(t *filetree.Tree) error {
	u := b.file.Development.User
	if u.ID == 0 {
		return nil
	}
	add := func(p, line, prefix string) error {
		e := t.Get(p)
		if e == nil {
			return nil
		}
		data, err := readEntry(e)
		if err != nil {
			return err
		}
		for l := range strings.Lines(string(data)) {
			f := strings.Split(l, ":")
			if len(f) > 2 && (f[2] == prefix) {
				return nil // the id has a name already
			}
		}
		data = append(data, line...)
		c := *e
		c.Content, c.Size, c.Digest = filetree.Content{Data: data}, int64(len(data)), digest.FromBytes(data)
		c.Origin = generatedOrigin("users", "development.user")
		t.Set(&c)
		return nil
	}
	home := "/home/" + u.Name
	if err := add("etc/passwd", fmt.Sprintf("%s:x:%d:%d::%s:/bin/bash\n", u.Name, u.ID, u.GID, home), strconv.Itoa(u.ID)); err != nil {
		return err
	}
	group := u.Group
	if group == "" {
		group = u.Name
	}
	if err := add("etc/group", fmt.Sprintf("%s:x:%d:\n", group, u.GID), strconv.Itoa(u.GID)); err != nil {
		return err
	}
	if t.Get(home[1:]) == nil {
		generator{tree: t, mtime: b.mtime()}.dir(home[1:], 0o755, u.ID, u.GID, "users", "home of development.user")
	}
	return nil
}
