package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/sandbox"
	"twinhull.dev/twinhull/internal/source/gomod"
	"twinhull.dev/twinhull/internal/source/npm"
)

// A depTree is a language's dependencies as an overlay folder that lies above
// the root of every step. Like a root, it has its key before it is made.
type depTree struct {
	key     Key
	name    string
	digests []oci.Digest // of the locked bytes
	lower   string
	env     []string
	alone   bool                                        // make neither reads nor changes anything of the builder that realise does
	make    func(ctx context.Context, dir string) error // fills a new folder
}

// depVersion is part of every dependency tree's key.
const depVersion = 1

// Where the loopback mirrors answer inside the sandbox.
const (
	npmPort = 9011
	goPort  = 9012
)

// realiseDep makes a dependency folder, or finds it.
func (b *Builder) realiseDep(ctx context.Context, d *depTree) error {
	if _, ok := b.cache.folder("deps", d.key, nil); ok {
		return nil
	}
	unlock, err := b.cache.lock(ctx, "deps", d.key, func() { b.progress.Printf("waiting for another build that installs %s", d.name) })
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := b.cache.folder("deps", d.key, nil); ok {
		return nil
	}
	tmp, done, err := b.cache.scratch("deps")
	if err != nil {
		return err
	}
	defer done()
	t := b.progress.Task("installing "+d.name, 0)
	err = d.make(ctx, tmp)
	t.Done(err)
	if err != nil {
		return fmt.Errorf("installing %s: %w", d.name, err)
	}
	return b.cache.keepFolder("deps", d.key, tmp, nil)
}

// npmTree finds the locked tree of a zone's package-lock.json.
func (b *Builder) npmTree(n *project.NPM) (*project.NPMTree, error) {
	for i := range b.lock.NPM {
		if b.lock.NPM[i].Lockfile == n.Lockfile {
			return &b.lock.NPM[i], nil
		}
	}
	return nil, fmt.Errorf("the lock does not know %s: run `twinhull lock`", n.Lockfile)
}

// npmEntries are the installed packages of one zone on a platform, each with
// its origin, relative to the folder that holds node_modules. What needs an
// install script is built in the sandbox over the root; everything else is
// laid out from the locked tarballs without running npm.
func (b *Builder) npmEntries(ctx context.Context, n *project.NPM, plat oci.Platform, r *root) ([]*filetree.Entry, error) {
	tree, err := b.npmTree(n)
	if err != nil {
		return nil, err
	}
	pkgs, err := npm.Subset(tree, n.Development, plat)
	if err != nil {
		return nil, err
	}
	entries, err := npm.Install(ctx, b.vault, b.CacheDir, pkgs, b.mtime())
	if err != nil {
		return nil, err
	}
	var scripts []string
	for _, p := range pkgs {
		if p.Scripts {
			scripts = append(scripts, p.Name)
		}
	}
	if len(scripts) == 0 {
		return entries, nil
	}
	return b.npmScripts(ctx, n, plat, r, pkgs, entries, scripts)
}

// npmScripts runs the install scripts of the packages that have one, with the
// real npm, and traces every file that they made or changed to that step.
func (b *Builder) npmScripts(ctx context.Context, n *project.NPM, plat oci.Platform, r *root, pkgs []project.NPMPackage, entries []*filetree.Entry, scripts []string) ([]*filetree.Entry, error) {
	if plat != b.host() {
		return nil, fmt.Errorf("the packages %s have install scripts, which must run on %s, but this machine is %s: build this platform on such a machine, or use packages without install scripts", strings.Join(scripts, ", "), plat, b.host())
	}
	if err := b.realise(ctx, r); err != nil {
		return nil, err
	}
	rec := StepRecord{Step: "npm-rebuild", Platform: plat, Run: append([]string{"npm", "rebuild", "--foreground-scripts"}, scripts...),
		Workdir: b.stepDir(), Env: map[string]string{}, Tree: r.key, Version: stepVersion}
	for _, p := range r.pkgs {
		rec.Packages = append(rec.Packages, p.SHA256)
	}
	for _, p := range pkgs {
		rec.Deps = append(rec.Deps, p.Integrity)
	}
	for _, kv := range append(b.fixedEnvironment("/home/build"), npmEnvironment()...) {
		k, v, _ := strings.Cut(kv, "=")
		rec.Env[k] = v
	}
	manifest, err := b.source.file(path.Join(path.Dir(n.Lockfile), "package.json"))
	if err != nil {
		return nil, err
	}
	rec.Inputs = []InputFile{manifest}
	rec.Key = keyOf("npm-scripts", depVersion, struct {
		Rec  StepRecord
		Tree []project.NPMPackage
	}{rec, pkgs})

	dir, err := b.runScripts(ctx, rec, r, entries, scripts)
	if err != nil {
		return nil, err
	}
	changed, err := b.readUpper(ctx, dir)
	if err != nil {
		return nil, err
	}
	t := filetree.NewTree()
	for _, e := range entries {
		t.Set(e)
	}
	rec.Digest, err = b.vault.PutBytes(mustJSON(rec))
	if err != nil {
		return nil, err
	}
	var made []upperEntry
	for _, c := range changed {
		// What scripts leave outside node_modules is no dependency; npm's own
		// list of what is installed is made new by every npm.
		if c.Path == npm.HiddenLock || c.Path != "node_modules" && !strings.HasPrefix(c.Path, "node_modules/") {
			continue
		}
		c.UID, c.GID, c.ModTime, c.Xattrs = 0, 0, b.mtime(), nil
		made = append(made, c)
	}
	applyUpper(t, made, func(old *filetree.Entry, c *upperEntry) bool {
		return !(old.IsDir() && c.IsDir() || old.Digest == c.Digest && old.Type == c.Type && old.Link == c.Link && old.Mode == c.Mode)
	})
	all := t.Sorted()
	proof, err := npm.Prove(ctx, npm.NewTable(b.vault, filepath.Join(b.CacheDir, "npm-tables")), pkgs, all)
	if err != nil {
		return nil, err
	}
	if len(proof.Unexplained) > 0 {
		var errs []error
		for _, u := range proof.Unexplained {
			errs = append(errs, fmt.Errorf("%s: %s", u.Path, u.Reason))
		}
		return nil, fmt.Errorf("node_modules holds files that nothing explains:\n%w", errors.Join(errs...))
	}
	for _, e := range all {
		if o, ok := proof.Origins[e.Path]; ok {
			e.Origin = o
		} else if m, ok := proof.Scripts[e.Path]; ok {
			e.Origin = filetree.Origin{Kind: filetree.FromArtifact, Name: "npm-rebuild:" + m.By, Digest: rec.Digest, Path: e.Path, Note: "made by the install script of " + m.By}
		}
	}
	b.extra = append(b.extra, rec)
	return all, nil
}

// runScripts runs a rebuild step over the installed packages, or finds the
// folder of what it changed. The scripts are strangers' programs: what they
// put in the place of the working folder is not followed.
func (b *Builder) runScripts(ctx context.Context, rec StepRecord, r *root, entries []*filetree.Entry, scripts []string) (string, error) {
	if dir, ok := b.cache.folder("npm-scripts", rec.Key, nil); ok {
		return dir, nil
	}
	unlock, err := b.cache.lock(ctx, "npm-scripts", rec.Key, func() { b.progress.Printf("waiting for another build that runs the same install scripts") })
	if err != nil {
		return "", err
	}
	defer unlock()
	if dir, ok := b.cache.folder("npm-scripts", rec.Key, nil); ok {
		return dir, nil
	}
	tmp, done, err := b.cache.scratch("npm")
	if err != nil {
		return "", err
	}
	defer done()
	work := strings.TrimPrefix(b.stepDir(), "/")
	lower, upper := filepath.Join(tmp, "lower"), filepath.Join(tmp, "upper")
	if err := makeFolders(tmp, "upper", path.Join("lower", work), "lower/home/build"); err != nil {
		return "", err
	}
	if err := materialise(ctx, filepath.Join(lower, work), entries); err != nil {
		return "", err
	}
	if err := b.placeInputs(filepath.Join(lower, work), StepRecord{Step: rec.Step, Inputs: rec.Inputs}); err != nil {
		return "", err
	}
	log, err := b.openLog(rec.Step)
	if err != nil {
		return "", err
	}
	defer log.Close()
	env := []string{}
	for _, k := range sortedKeys(rec.Env) {
		env = append(env, k+"="+rec.Env[k])
	}
	res, err := sandbox.Run(ctx, sandbox.Spec{
		Lower: append([]string{lower}, r.lowers...), Upper: upper, FakeOwners: true, NoSync: true,
		Args: rec.Run, Env: env, Dir: b.stepDir(), Serve: b.services(),
		Mounts: []sandbox.Mount{{Target: "/tmp", Tmpfs: true, Mode: 0o1777}, {Target: "/run", Tmpfs: true, Mode: 0o755}},
		Stdout: log, Stderr: log, Timeout: 15 * time.Minute, Limits: sandbox.Limits{PIDs: 4096},
	})
	if err != nil {
		return "", err
	}
	if !res.Success() {
		return "", log.failure("the install scripts of "+strings.Join(scripts, ", "), res)
	}
	made, err := realFolder(upper, work)
	if errors.Is(err, fs.ErrNotExist) {
		err = makeFolders(upper, work) // the scripts changed nothing
		made = filepath.Join(upper, work)
	}
	if err != nil {
		return "", fmt.Errorf("the install scripts of %s: %w", strings.Join(scripts, ", "), err)
	}
	return b.cache.folderPath("npm-scripts", rec.Key), b.cache.keepFolder("npm-scripts", rec.Key, made, nil)
}

func npmEnvironment() []string {
	return []string{
		fmt.Sprintf("npm_config_registry=http://127.0.0.1:%d/", npmPort),
		"npm_config_audit=false", "npm_config_fund=false", "npm_config_update_notifier=false",
		"npm_config_cache=/tmp/npm-cache", "npm_config_logs_max=0", "npm_config_loglevel=warn", "COREPACK_ENABLE_NETWORK=0",
	}
}

// npmDep is the development zone's node_modules, for steps.
func (b *Builder) npmDep(r *root) (*depTree, error) {
	n := b.file.Development.Dependencies.NPM
	if n == nil {
		return nil, nil
	}
	tree, err := b.npmTree(n)
	if err != nil {
		return nil, err
	}
	pkgs, err := npm.Subset(tree, n.Development, r.plat)
	if err != nil {
		return nil, err
	}
	d := &depTree{name: fmt.Sprintf("%d npm packages", len(pkgs)), env: npmEnvironment()}
	var key struct {
		Packages []project.NPMPackage
		Into     string
		Root     Key
		AsOf     int64
	}
	key.Packages, key.Into, key.AsOf = pkgs, n.Into, b.mtime()
	for _, p := range pkgs {
		d.digests = append(d.digests, p.Integrity)
		if p.Scripts {
			key.Root = r.key
		}
	}
	d.alone = key.Root == ""
	d.key = keyOf("npm", depVersion, key)
	d.lower = b.cache.folderPath("deps", d.key)
	d.make = func(ctx context.Context, dir string) error {
		entries, err := b.npmEntries(ctx, n, r.plat, r)
		if err != nil {
			return err
		}
		into := strings.TrimPrefix(n.Into, "/")
		if err := makeFolders(dir, into); err != nil {
			return err
		}
		return materialise(ctx, filepath.Join(dir, into), entries)
	}
	return d, nil
}

// goEnvironment makes Go builds the same everywhere: the pinned toolchain, the
// locked modules, no path and no version control in the binary.
func goEnvironment() []string {
	return []string{
		"GOPATH=/go", "GOMODCACHE=/go/pkg/mod", "GOCACHE=/home/build/.cache/go-build", "GOENV=off", "GOTOOLCHAIN=local",
		"GOFLAGS=-trimpath -buildvcs=false", "GOSUMDB=off", "GONOSUMDB=*", "GOTELEMETRY=off",
		fmt.Sprintf("GOPROXY=http://127.0.0.1:%d", goPort),
	}
}

// goDep is the module cache, for steps: the real go command fills it from the
// loopback mirror of locked modules.
func (b *Builder) goDep(r *root) (*depTree, error) {
	g := b.file.Development.Dependencies.Go
	if g == nil {
		return nil, nil
	}
	d := &depTree{name: fmt.Sprintf("%d Go modules", len(b.lock.Go)), env: goEnvironment()}
	var inputs []InputFile
	sum := path.Join(path.Dir(g.Module), "go.sum")
	for _, rel := range []string{g.Module, sum} {
		f, err := b.source.file(rel)
		if err != nil {
			if rel == sum && len(b.lock.Go) == 0 {
				continue // a module without dependencies has no go.sum
			}
			return nil, err
		}
		inputs = append(inputs, f)
	}
	for _, m := range b.lock.Go {
		d.digests = append(d.digests, m.Mod)
		if m.Zip != "" {
			d.digests = append(d.digests, m.Zip)
		}
	}
	d.key = keyOf("go", depVersion, struct {
		Modules []project.GoModule
		Inputs  []InputFile
		Root    Key
	}{b.lock.Go, inputs, r.key})
	d.lower = b.cache.folderPath("deps", d.key)
	d.make = func(ctx context.Context, dir string) error {
		if err := b.realise(ctx, r); err != nil {
			return err
		}
		if err := makeFolders(dir, "go"); err != nil || len(b.lock.Go) == 0 {
			return err
		}
		modules := filepath.Join(dir, "go")
		tmp, done, err := b.cache.scratch("gomod")
		if err != nil {
			return err
		}
		defer done()
		lower, upper := filepath.Join(tmp, "lower"), filepath.Join(tmp, "upper")
		work := strings.TrimPrefix(b.stepDir(), "/")
		if err := makeFolders(tmp, "upper", path.Join("lower", work), "lower/home/build", "lower/go"); err != nil {
			return err
		}
		if err := b.placeInputs(filepath.Join(lower, work), StepRecord{Step: "go mod download", Inputs: inputs}); err != nil {
			return err
		}
		log, err := b.openLog("go-modules")
		if err != nil {
			return err
		}
		defer log.Close()
		res, err := sandbox.Run(ctx, sandbox.Spec{
			Lower: append([]string{lower}, r.lowers...), Upper: upper, FakeOwners: true, NoSync: true,
			Args: []string{"go", "mod", "download"}, Env: append(b.fixedEnvironment("/home/build"), goEnvironment()...),
			Dir: path.Join(b.stepDir(), path.Dir(g.Module)), Serve: b.services(),
			Mounts: []sandbox.Mount{{Target: "/tmp", Tmpfs: true, Mode: 0o1777}, {Target: "/go", Source: modules}},
			Stdout: log, Stderr: log, Timeout: 15 * time.Minute,
		})
		if err != nil {
			return err
		}
		if !res.Success() {
			return log.failure("go mod download", res)
		}
		return nil
	}
	return d, nil
}

// stepDeps are the dependency folders of every step.
func (b *Builder) stepDeps(r *root) ([]depTree, error) {
	var out []depTree
	for _, f := range []func(*root) (*depTree, error){b.npmDep, b.goDep} {
		d, err := f(r)
		if err != nil {
			return nil, err
		}
		if d != nil {
			out = append(out, *d)
		}
	}
	return out, nil
}

// services are the loopback mirrors: they serve the locked bytes and nothing
// else, so that a step may call its package manager.
func (b *Builder) services() []sandbox.Service {
	var out []sandbox.Service
	serve := func(port int, h http.Handler) { out = append(out, sandbox.Service{Port: port, Handler: h}) }
	var pkgs []project.NPMPackage
	for _, t := range b.lock.NPM {
		pkgs = append(pkgs, t.Packages...)
	}
	if len(pkgs) > 0 {
		serve(npmPort, npm.NewMirror(npm.NewTable(b.vault, filepath.Join(b.CacheDir, "npm-tables")), pkgs, b.lock.Tools))
	}
	if len(b.lock.Go) > 0 {
		serve(goPort, gomod.NewMirror(b.vault, b.lock.Go))
	}
	return out
}

// stepCaches are folders that a compiler keeps between runs. Only Go's build
// cache is one: its entries are addressed by the hash of all inputs, so that
// they can make a step faster and not different.
func (b *Builder) stepCaches(w *stepWork) []sandbox.Mount {
	if b.file.Development.Dependencies.Go == nil || b.FreshSteps {
		return nil
	}
	// A folder for each project: whoever can run a step can put wrong results
	// into what it keeps, and must not reach another project's.
	key := keyOf("compilers", depVersion, struct {
		Tree    Key
		Project string
	}{w.record.Tree, b.dir})
	dir := b.cache.path("compilers", string(key))
	if os.MkdirAll(dir, 0o755) != nil {
		return nil
	}
	return []sandbox.Mount{{Target: "/home/build/.cache/go-build", Source: dir}}
}
