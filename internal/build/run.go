package build

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/fetch"
	"twinhull.dev/twinhull/internal/source/gomod"
	"twinhull.dev/twinhull/internal/source/npm"
)

// StoreDir is the project's own OCI layout.
func (b *Builder) StoreDir() string { return filepath.Join(b.dir, stateDir, "store") }

// Build makes the images of the zones on the platforms of the project file, as
// far as they are not made, and tags them in the project's store: "production"
// and "development", an index of all platforms when there are several. Builds
// of one project take turns; the second finds what the first made.
func (b *Builder) Build(ctx context.Context, zones []oci.Zone) (*Report, error) {
	rep, err := b.build(ctx, zones)
	return rep, b.told(err)
}

func (b *Builder) build(ctx context.Context, zones []oci.Zone) (*Report, error) {
	release, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	w, err := b.work(zones)
	if err != nil {
		return nil, err
	}
	if err := b.fetchInputs(ctx, w); err != nil {
		return nil, err
	}
	if b.layers, err = image.OpenCache(b.cache.path("layers")); err != nil {
		return nil, err
	}
	b.ahead = newAhead(ctx, w)
	defer b.ahead.end()
	made, checks := w.divide()
	var deps []depTree
	if len(w.steps) > 0 {
		if deps, err = b.stepDeps(w.tools); err != nil {
			return nil, err
		}
	}
	steps, _, err := b.runSteps(ctx, w, made, nil, deps, false)
	if err != nil {
		return nil, err
	}
	all, images, err := b.assemble(ctx, w, steps, checks, deps)
	if err != nil {
		return nil, err
	}
	rep := &Report{Steps: all}
	byZone := map[oci.Zone][]image.Result{}
	for _, m := range images {
		r, err := b.explainImage(w, m, all)
		if err != nil {
			return nil, err
		}
		rep.Images = append(rep.Images, r)
		byZone[r.Zone] = append(byZone[r.Zone], image.Result{Zone: r.Zone, Manifest: r.Manifest})
	}
	if err := b.tag(ctx, byZone); err != nil {
		return nil, err
	}
	return rep, b.source.save()
}

// assemble makes the images while it runs the steps that no image holds
// anything of: tests, as a rule. Nothing is named before all of them have
// passed.
func (b *Builder) assemble(ctx context.Context, w *work, steps []StepRecord, checks []stepRun, deps []depTree) ([]StepRecord, []madeImage, error) {
	all, checks, err := b.runSteps(ctx, w, checks, steps, deps, true)
	if err != nil {
		return nil, nil, err
	}
	if len(checks) > 0 {
		// What steps run over is made by one goroutine, and then only read.
		if err := b.ready(ctx, w.tools, deps); err != nil {
			return nil, nil, err
		}
	}
	if b.ShellOnFailure != nil { // the terminal may be the step's
		if all, _, err = b.runSteps(ctx, w, checks, all, deps, false); err != nil {
			return nil, nil, err
		}
		checks = nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		var err error
		all, _, err = b.runSteps(ctx, w, checks, all, deps, false)
		return err
	})
	var images []madeImage
	c := b
	if len(checks) > 0 {
		c = b.apart()
	}
	g.Go(func() error {
		for _, zone := range w.zones {
			for _, plat := range w.platforms(zone) {
				var m madeImage
				var err error
				if zone == oci.Production {
					m, err = c.buildProduction(ctx, plat, steps, w.tools)
				} else {
					m, err = c.buildDevelopment(ctx, w.development, steps)
				}
				if err != nil {
					return err
				}
				images = append(images, m)
			}
		}
		return nil
	})
	err = g.Wait()
	return all, images, err
}

// begin takes what a build needs to itself: the project's turn, and the vault
// against a collection. It also removes what killed builds left.
func (b *Builder) begin(ctx context.Context) (release func(), err error) {
	if err := makeFolders(b.dir, stateDir); err != nil {
		return nil, fmt.Errorf("the project's folder for results: %w", err)
	}
	turn, err := durable.Lock(ctx, filepath.Join(b.dir, stateDir, "build.lock"), func() { b.progress.Printf("waiting for another build of this project") })
	if err != nil {
		return nil, err
	}
	hold, err := b.vault.Hold(ctx, func() { b.progress.Printf("waiting for a collection of the vault") })
	if err != nil {
		turn()
		return nil, err
	}
	b.cache.sweep(b.Now)
	return func() { hold(); turn() }, nil
}

// told completes an error with what to do about the machine's state.
func (b *Builder) told(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w\nhint: the disk of %s or of %s is full: free some space, or keep the cache on another disk with --cache-dir; what was finished so far is kept and the next build goes on from there", err, b.CacheDir, b.dir)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w\nhint: %s and %s must be writable", err, b.CacheDir, filepath.Join(b.dir, stateDir))
	}
	return err
}

// tag names the images in the project's store.
func (b *Builder) tag(ctx context.Context, byZone map[oci.Zone][]image.Result) error {
	store, err := oci.CreateLayout(b.StoreDir())
	if err != nil {
		return err
	}
	return store.Update(ctx, func(u *oci.Update) error {
		for zone, results := range byZone {
			if len(results) == 1 {
				if err := u.SetTag(string(zone), results[0].Manifest); err != nil {
					return err
				}
				continue
			}
			idx, err := image.BuildIndex(store, results, nil)
			if err != nil {
				return err
			}
			if err := u.SetTag(string(zone), idx); err != nil {
				return err
			}
			for _, r := range results {
				p := r.Manifest.Platform
				if err := u.SetTag(string(zone)+"-"+p.OS+"-"+p.Architecture, r.Manifest); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// work is what a build will do, described and not begun.
type work struct {
	b           *Builder
	zones       []oci.Zone
	tools       *root // what steps run over
	development *root
	steps       []project.Step
	everything  bool // inputs of other platforms too
}

func (w *work) platforms(zone oci.Zone) []oci.Platform {
	if zone == oci.Development {
		return []oci.Platform{w.b.host()}
	}
	return w.b.file.Platforms
}

// stepPlatforms are the platforms that a step runs for; its command always
// runs on this machine.
func (w *work) stepPlatforms(s project.Step) []oci.Platform {
	if s.Platform == "each" {
		return w.b.file.Platforms
	}
	return []oci.Platform{{}}
}

func (b *Builder) work(zones []oci.Zone) (*work, error) {
	w := &work{b: b, zones: zones, steps: orderSteps(b.file.Build.Steps)}
	if len(w.steps) == 0 && len(zones) == 1 && zones[0] == oci.Production && !b.needsScripts() {
		return w, nil
	}
	host := b.host()
	var pinned []project.Tool
	for _, t := range b.lock.Tools {
		if t.Platform == (oci.Platform{}) || t.Platform == host {
			pinned = append(pinned, t)
		}
	}
	dev, _, err := b.closure("development", host)
	if err != nil {
		return nil, fmt.Errorf("%w; the development image and the steps need this machine's platform among `platforms`", err)
	}
	if len(b.file.Build.Tools) == 0 {
		w.development = b.describeRoot("development", host, dev, pinned, nil)
		w.tools = w.development
		return w, nil
	}
	tools, _, err := b.closure("tools", host)
	if err != nil {
		return nil, err
	}
	w.tools = b.describeRoot("tools", host, tools, pinned, nil)
	w.development = b.describeRoot("development", host, dev, pinned, w.tools)
	return w, nil
}

// needsScripts tells whether production has packages with install scripts.
func (b *Builder) needsScripts() bool {
	n := b.file.Production.Dependencies.NPM
	if n == nil {
		return false
	}
	tree, err := b.npmTree(n)
	if err != nil {
		return true
	}
	for _, p := range tree.Packages {
		if p.Scripts && (!p.Dev || n.Development) {
			return true
		}
	}
	return false
}

// orderSteps puts every step behind those that it follows, and otherwise keeps
// the file's order. The parser has refused circles.
func orderSteps(steps []project.Step) []project.Step {
	var out []project.Step
	done := map[string]bool{}
	byName := map[string]project.Step{}
	for _, s := range steps {
		byName[s.Name] = s
	}
	var visit func(s project.Step)
	visit = func(s project.Step) {
		if done[s.Name] {
			return
		}
		done[s.Name] = true
		for _, a := range s.After {
			name, _, _ := strings.Cut(a, ":")
			if before, ok := byName[name]; ok {
				visit(before)
			}
		}
		out = append(out, s)
	}
	for _, s := range steps {
		visit(s)
	}
	return out
}

// stepRun is one run of a step.
type stepRun struct {
	step project.Step
	plat oci.Platform // zero for this machine
}

// divide lists the runs that the zones need: those whose artifacts an image
// holds, with all that they follow, and the others.
func (w *work) divide() (made, checks []stepRun) {
	needed, held := w.neededSteps(), w.heldSteps(w.zones...)
	for _, s := range w.steps {
		for _, plat := range w.stepPlatforms(s) {
			switch {
			case held[s.Name]:
				made = append(made, stepRun{s, plat})
			case needed[s.Name]:
				checks = append(checks, stepRun{s, plat})
			}
		}
	}
	return made, checks
}

// runSteps runs what was not run before, and adds the records to those of
// earlier steps. With known it stops at the first that must run, and returns
// what is left to do.
func (b *Builder) runSteps(ctx context.Context, w *work, runs []stepRun, records []StepRecord, deps []depTree, known bool) ([]StepRecord, []stepRun, error) {
	records = slices.Clone(records)
	for i, run := range runs {
		sw, err := b.prepareStep(run.step, run.plat, w.tools, deps, records)
		if err != nil {
			return nil, nil, err
		}
		rec, ok := b.stepKnown(sw)
		if !ok || b.FreshSteps && !b.fresh[sw.record.Key] {
			if known {
				return records, runs[i:], nil
			}
			if err := b.ready(ctx, w.tools, deps); err != nil {
				return nil, nil, err
			}
			before := rec
			b.workAhead(nil)
			if rec, err = b.runStep(ctx, sw, w.tools); err != nil {
				return nil, nil, err
			}
			b.fresh[rec.Key] = true
			if ok {
				b.compare(before, rec)
			}
		}
		if err := b.placeReports(rec); err != nil {
			return nil, nil, err
		}
		records = append(records, rec)
	}
	return records, nil, nil
}

// ready makes what steps run over: the configured tree and the dependencies.
// Those that need no program of the tree are laid out while it is configured.
func (b *Builder) ready(ctx context.Context, r *root, deps []depTree) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.realise(gctx, r) })
	g.Go(func() error {
		for i := range deps {
			if deps[i].alone {
				if err := b.realiseDep(gctx, &deps[i]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range deps {
		if err := b.realiseDep(ctx, &deps[i]); err != nil {
			return err
		}
	}
	return nil
}

// compare tells when a step that ran again left other artifacts from the same
// inputs: such a step is not reproducible, and neither is an image that holds
// what it makes. Reports hold durations, and differ always.
func (b *Builder) compare(before, after StepRecord) {
	was := map[string]OutputFile{}
	for _, o := range before.Outputs {
		was[o.Path] = o
	}
	for _, o := range after.Outputs {
		if old := was[o.Path]; o.Kind == project.KindArtifact && old != o {
			b.progress.Printf("note: step %s is not reproducible: it left another %s than before from the same inputs", after.Step, o.Path)
			return
		}
	}
}

// neededSteps are those whose outputs a zone's image or record needs: all of
// them for production, for tests and coverage are part of its record.
func (w *work) neededSteps() map[string]bool {
	if slices.Contains(w.zones, oci.Production) {
		needed := map[string]bool{}
		for _, s := range w.steps {
			needed[s.Name] = true
		}
		return needed
	}
	return w.heldSteps(w.zones...)
}

// heldSteps are those whose artifacts the zones' images hold, and those that
// they follow.
func (w *work) heldSteps(zones ...oci.Zone) map[string]bool {
	held := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if held[name] {
			return
		}
		for _, s := range w.steps {
			if s.Name == name {
				held[name] = true
				for _, a := range s.After {
					before, _, _ := strings.Cut(a, ":")
					add(before)
				}
			}
		}
	}
	for _, z := range zones {
		spec := &w.b.file.Production
		if z == oci.Development {
			spec = &w.b.file.Development
		}
		for artifact := range spec.Artifacts {
			step, _, qualified := strings.Cut(artifact, ":")
			for _, s := range w.steps {
				for _, o := range s.Outputs {
					if qualified && s.Name == step || !qualified && o.Path == artifact {
						add(s.Name)
					}
				}
			}
		}
	}
	return held
}

// placeReports puts test results and coverage where people look for them.
// Nothing in the state folder, which came with the project, can lead the
// writing elsewhere.
func (b *Builder) placeReports(rec StepRecord) error {
	var root *os.Root
	for _, o := range rec.Outputs {
		if o.Kind == project.KindArtifact || o.Link != "" {
			continue
		}
		if root == nil {
			if err := makeFolders(b.dir, stateDir+"/reports"); err != nil {
				return fmt.Errorf("reports of step %s: %w", rec.Step, err)
			}
			var err error
			if root, err = os.OpenRoot(filepath.Join(b.dir, stateDir, "reports")); err != nil {
				return err
			}
			defer root.Close()
		}
		to := path.Join(rec.Step, o.Path)
		if f, err := root.Open(to); err == nil {
			d, n, err := hashOf(f)
			f.Close()
			if err == nil && n == o.Size && d == o.SHA256 {
				continue
			}
		}
		if err := placeReport(root, to, b.cache.filePath(o.SHA256)); err != nil {
			return fmt.Errorf("report %s of step %s: %w", o.Path, rec.Step, err)
		}
	}
	return nil
}

func placeReport(root *os.Root, to, from string) error {
	if err := makeFoldersIn(root, path.Dir(to)); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	// A new file and not the old one's content: what is at the place may be a
	// link, or be read by someone just now.
	if err := root.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Close()
}

// Items lists every input that a build of the zones needs, with the addresses
// that this machine's configuration gives. Inputs that the vault holds are
// listed too: the fetcher passes over them.
func (b *Builder) Items(zones []oci.Zone) ([]fetch.Item, error) {
	w, err := b.work(zones)
	if err != nil {
		return nil, err
	}
	return b.items(w)
}

// AllItems lists every input that the lock names and the vault lacks, for all
// zones and platforms and whatever machine this is: what an export carries.
func (b *Builder) AllItems() ([]fetch.Item, error) {
	all := &root{pkgs: b.lock.Packages}
	items, err := b.items(&work{b: b, tools: all, development: all, everything: true})
	if err != nil {
		return nil, err
	}
	for _, a := range b.lock.Archives {
		m, err := b.Site.Debian()
		if err != nil {
			return nil, err
		}
		bases, err := m.For(a.Suite)
		if err != nil {
			return nil, err
		}
		for _, i := range a.Indexes {
			if b.vault.Has(i.SHA256) {
				continue
			}
			it := fetch.Item{Digest: i.SHA256, Size: i.Size, Name: a.Suite + " " + i.Path}
			for _, base := range bases {
				it.URLs = append(it.URLs, base+"/dists/"+a.Suite+"/"+path.Dir(i.Path)+"/by-hash/SHA256/"+i.SHA256.Encoded())
			}
			items = append(items, it)
		}
	}
	return items, nil
}

func (b *Builder) items(w *work) ([]fetch.Item, error) {
	var items []fetch.Item
	seen := map[oci.Digest]bool{}
	addDebs := func(pkgs []project.Package) error {
		for _, p := range pkgs {
			if seen[p.SHA256] || b.vault.Has(p.SHA256) {
				continue
			}
			seen[p.SHA256] = true
			urls, err := b.debURLs(p)
			if err != nil {
				return err
			}
			items = append(items, fetch.Item{Digest: p.SHA256, Size: p.Size, URLs: urls, Name: p.ID()})
		}
		return nil
	}
	for _, r := range []*root{w.tools, w.development} {
		if r != nil && (r != w.development || w.needsDevelopment()) {
			if err := addDebs(r.pkgs); err != nil {
				return nil, err
			}
		}
	}
	for _, plat := range b.file.Platforms {
		for _, z := range w.zones {
			if z == oci.Development && plat != b.host() {
				continue
			}
			pkgs, _, err := b.closure("production", plat)
			if err != nil {
				return nil, err
			}
			if err := addDebs(pkgs); err != nil {
				return nil, err
			}
		}
	}
	var more []fetch.Item
	for _, tree := range b.lock.NPM {
		var missing []project.NPMPackage
		for _, p := range tree.Packages {
			if !b.vault.Has(p.Integrity) {
				missing = append(missing, p)
			}
		}
		if len(missing) == 0 {
			continue
		}
		data, err := readProjectFile(b.dir, tree.Lockfile)
		if err != nil {
			return nil, err
		}
		resolved, err := npm.Resolved(tree.Lockfile, data)
		if err != nil {
			return nil, err
		}
		got, err := npm.Items(b.Site.NPMFor, missing, resolved)
		if err != nil {
			return nil, err
		}
		more = append(more, got...)
	}
	var goTools, npmTools []project.Tool
	for _, t := range b.lock.Tools {
		if b.vault.Has(t.Digest) || t.Platform != (oci.Platform{}) && t.Platform != b.host() && !w.everything {
			continue
		}
		if t.Name == "go" {
			goTools = append(goTools, t)
		} else {
			npmTools = append(npmTools, t)
		}
	}
	if len(npmTools) > 0 {
		registry, err := b.Site.NPM()
		if err != nil {
			return nil, err
		}
		more = append(more, npm.ToolItems(registry, npmTools)...)
	}
	var modules []project.GoModule
	for _, m := range b.lock.Go {
		if !b.vault.Has(m.Mod) || m.Zip != "" && !b.vault.Has(m.Zip) {
			modules = append(modules, m)
		}
	}
	if len(goTools) > 0 || len(modules) > 0 {
		list, err := b.Site.GoProxy()
		if err != nil {
			return nil, err
		}
		proxies, err := gomod.ParseProxies(strings.Join(list, ","))
		if err != nil {
			return nil, err
		}
		got, err := gomod.Items(proxies, modules)
		if err != nil {
			return nil, err
		}
		more = append(append(more, got...), gomod.ToolItems(proxies, goTools)...)
	}
	for _, it := range more {
		if !seen[it.Digest] {
			seen[it.Digest] = true
			items = append(items, it)
		}
	}
	return items, nil
}

func (w *work) needsDevelopment() bool {
	if w.development == w.tools {
		return true
	}
	for _, z := range w.zones {
		if z == oci.Development {
			return true
		}
	}
	return false
}

func (b *Builder) debURLs(p project.Package) ([]string, error) {
	m, err := b.Site.Debian()
	if err != nil {
		return nil, err
	}
	bases, err := m.For(p.Suite)
	if err != nil {
		return nil, err
	}
	var urls []string
	for _, base := range bases {
		urls = append(urls, base+"/"+p.Path)
	}
	return urls, nil
}

// fetchInputs brings what the build needs into the vault. When nothing is
// missing the machine's configuration is not even read.
func (b *Builder) fetchInputs(ctx context.Context, w *work) error {
	items, err := b.items(w)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return nil
	}
	if err := b.Fetch.Fetch(ctx, items); err != nil {
		if _, offline := errors.AsType[*fetch.OfflineError](err); offline || ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w\nhint: what arrived whole is kept; build again, or name another server (`twinhull doctor` says which are used)", err)
	}
	return nil
}

// toolEntries lays out a pinned tool.
func (b *Builder) toolEntries(ctx context.Context, t project.Tool) ([]*filetree.Entry, error) {
	dir := b.cache.path("tools", t.Digest.Encoded()[:64])
	data, index := filepath.Join(dir, "data"), filepath.Join(dir, "index.json")
	var entries []*filetree.Entry
	if raw, err := os.ReadFile(index); err != nil || json.Unmarshal(raw, &entries) != nil || !toolWhole(entries, data) {
		task := b.progress.Task("unpacking "+t.Name+" "+t.Version, 0)
		entries, err = b.unpackTool(t, dir)
		task.Done(err)
		if err != nil {
			return nil, err
		}
	}
	// Registries keep no times; the lock's date stands for them.
	for _, e := range entries {
		if e.ModTime == 0 {
			e.ModTime = b.mtime()
		}
	}
	return entries, nil
}

func toolWhole(entries []*filetree.Entry, data string) bool {
	fi, err := os.Stat(data)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if e.Content.File != "" {
			e.Content.File = data
			if e.Content.Offset+e.Size > fi.Size() {
				return false
			}
		}
	}
	return true
}

func (b *Builder) unpackTool(t project.Tool, dir string) ([]*filetree.Entry, error) {
	tmp, done, err := b.cache.scratch("tool")
	if err != nil {
		return nil, err
	}
	defer done()
	f, err := os.Create(filepath.Join(tmp, "data"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	keep := bufio.NewWriterSize(f, 1<<20)
	data := filepath.Join(dir, "data")
	var entries []*filetree.Entry
	if t.Name == "go" {
		entries, err = gomod.UnpackToolchain(t, b.vault.Path(t.Digest), keep, data)
	} else {
		var src io.ReadCloser
		if src, err = b.vault.Open(t.Digest); err == nil {
			entries, err = npm.ToolTree(t, src, keep, data)
			src.Close()
		}
	}
	// Two large files: to synchronise them is cheap.
	if err := errors.Join(err, keep.Flush(), f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("unpacking %s %s: %w", t.Name, t.Version, err)
	}
	raw, err := json.Marshal(entries)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(filepath.Join(tmp, "index.json"), raw, 0o644); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	// Another build may have made the same meanwhile: its folder is as good.
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return nil, err
	}
	return entries, nil
}

func readEntry(e *filetree.Entry) ([]byte, error) {
	rc, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}
