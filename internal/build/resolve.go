package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/progress"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/deb"
	"twinhull.dev/twinhull/internal/source/fetch"
	"twinhull.dev/twinhull/internal/source/gomod"
	"twinhull.dev/twinhull/internal/source/npm"
	"twinhull.dev/twinhull/internal/source/site"
	"twinhull.dev/twinhull/internal/source/vault"
)

// ResolveConfig is everything that Resolve needs.
type ResolveConfig struct {
	File     *project.File
	Old      *project.Lock // the present lock, or nil: a mirror that went back in time is refused
	Vault    *vault.Vault
	Fetch    *fetch.Fetcher
	Site     *site.Site
	Progress progress.Reporter
	Now      time.Time // at which signatures and Valid-Until are judged
	Offline  bool      // resolve again from the indexes that Old names, which the vault keeps
}

// productionBase is in every production image: it says which system the files
// come from (/etc/os-release) and makes the folders that every program expects.
const productionBase = "base-files"

// Resolve turns what the project file asks for into a lock that names every
// input by hash. It writes nothing but the vault.
func Resolve(ctx context.Context, c ResolveConfig) (*project.Lock, error) {
	// What is fetched is named by no lock until the caller has written one; a
	// caller that writes it holds the vault itself, too.
	release, err := c.Vault.Hold(ctx, func() { c.Progress.Printf("waiting for a collection of the vault") })
	if err != nil {
		return nil, err
	}
	defer release()
	f := c.File
	l := &project.Lock{Version: project.LockVersion, Assembler: image.Assembler, Project: f.Asked()}
	snapshots := map[string]*deb.Snapshot{}
	for _, name := range []string{f.Development.Archive, f.Production.Archive} {
		if snapshots[name] != nil {
			continue
		}
		t := c.Progress.Task("reading "+name, 0)
		s, err := c.snapshot(ctx, name)
		t.Done(err)
		if err != nil {
			return nil, err
		}
		snapshots[name] = s
		l.Archives = append(l.Archives, s.Archives...)
		if s.AsOf.After(l.AsOf) {
			l.AsOf = s.AsOf
		}
	}
	l.AsOf = l.AsOf.UTC().Truncate(time.Second)
	packages := map[string]project.Package{}
	var errs []error
	for _, plat := range f.Platforms {
		for _, set := range closureSets(f) {
			u := snapshots[set.archive].Universes[plat.Debian()]
			closure, solution, err := resolveSet(u, set, plat)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s on %s: %w", set.name, plat, err))
				continue
			}
			l.Closures = append(l.Closures, closure)
			for _, p := range solution.Packages {
				lp := deb.LockPackage(p)
				packages[lp.ID()] = lp
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, p := range packages {
		l.Packages = append(l.Packages, p)
	}
	l.Sort()
	if err := checkTools(l, f); err != nil {
		return nil, err
	}
	if err := c.languages(ctx, l); err != nil {
		return nil, err
	}
	l.Sort()
	return l, l.Check()
}

// snapshot reads an archive's indexes from a mirror, or offline from the vault.
func (c ResolveConfig) snapshot(ctx context.Context, name string) (*deb.Snapshot, error) {
	keys, err := c.keyring()
	if err != nil {
		return nil, err
	}
	if c.Offline {
		var records []project.Archive
		if c.Old != nil {
			for _, a := range c.Old.Archives {
				if a.Name == name {
					records = append(records, a)
				}
			}
		}
		return deb.Restore(c.Vault, keys, records)
	}
	m, err := c.Site.Debian()
	if err != nil {
		return nil, err
	}
	var arches []string
	for _, p := range c.File.Platforms {
		arches = append(arches, p.Debian())
	}
	s, err := deb.Fetch(ctx, deb.Config{
		Archive: name, Architectures: arches, Main: m.Main, Security: m.Security,
		Keyring: keys, Now: c.Now, Downloader: c.Fetch, Vault: c.Vault,
	})
	if err != nil {
		return nil, err
	}
	if c.Old != nil {
		if err := deb.CheckRollback(c.Old.Archives, s.Archives); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (c ResolveConfig) keyring() (deb.Keyring, error) {
	keys, err := c.Site.Keys()
	if err != nil {
		return deb.Keyring{}, err
	}
	var all deb.Keyring
	for _, k := range keys {
		one, err := deb.ParseKeyring(k.Data)
		if err != nil {
			return deb.Keyring{}, fmt.Errorf("keyring %s: %w", k.Name, err)
		}
		all = all.Join(one)
	}
	return all, nil
}

// closureSet is one package set to resolve.
type closureSet struct {
	name    string // Closure.Set
	archive string
	req     deb.Request
}

func closureSets(f *project.File) []closureSet {
	dev, prod := &f.Development, &f.Production
	sets := []closureSet{{"development", dev.Archive, deb.Request{
		Packages: append([]string{"apt"}, dev.Packages...), Essential: true, Exclude: dev.Exclude,
	}}}
	if len(f.Build.Tools) > 0 {
		// Versions that the development zone pins hold for tools too.
		var names []string
		for _, tool := range f.Build.Tools {
			for _, p := range dev.Packages {
				if n, _ := project.PackageName(p); n == tool {
					tool = p
				}
			}
			names = append(names, tool)
		}
		sets = append(sets, closureSet{"tools", dev.Archive, deb.Request{Packages: names, Essential: true, Exclude: dev.Exclude}})
	}
	return append(sets, closureSet{"production", prod.Archive, deb.Request{
		Packages: append([]string{productionBase}, prod.Packages...), Exclude: prod.Exclude, Omit: deb.MaintenanceOnly,
	}})
}

func resolveSet(u *deb.Universe, set closureSet, plat oci.Platform) (project.Closure, *deb.Solution, error) {
	c := project.Closure{Set: set.name, Platform: plat}
	s, err := deb.Resolve(u, set.req)
	if err != nil {
		return c, nil, err
	}
	// The checker shares no code with the resolver: a mistake in one of them
	// does not become an image.
	if err := deb.Check(u, s, set.req); err != nil {
		return c, nil, fmt.Errorf("the resolved set does not hold together: %w", err)
	}
	for _, p := range s.Packages {
		c.Packages = append(c.Packages, p.ID())
	}
	if set.name == "production" {
		c.Omitted = deb.LockOmissions(s)
	}
	return c, s, nil
}

// checkTools proves that what steps may see is part of the development image.
func checkTools(l *project.Lock, f *project.File) error {
	for _, plat := range f.Platforms {
		dev := map[string]bool{}
		var tools []string
		for _, c := range l.Closures {
			if c.Platform != plat {
				continue
			}
			for _, id := range c.Packages {
				switch c.Set {
				case "development":
					dev[id] = true
				case "tools":
					tools = append(tools, id)
				}
			}
		}
		var extra []string
		for _, id := range tools {
			if !dev[id] {
				extra = append(extra, id)
			}
		}
		if len(extra) > 0 {
			return fmt.Errorf("build.tools resolve to packages that the development image has not (%s): name in development.packages which alternative you want, so that steps run with what developers have", strings.Join(extra, ", "))
		}
	}
	return nil
}

// languages locks language dependencies and pinned tools.
func (c ResolveConfig) languages(ctx context.Context, l *project.Lock) error {
	f := c.File
	dir := filepath.Dir(f.Path)
	read := func(rel string) ([]byte, error) {
		b, err := readProjectFile(dir, rel)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: the project file asks for its dependencies, but it is not there", rel)
		}
		return b, err
	}
	seen := map[string]bool{}
	for _, d := range []project.Dependencies{f.Development.Dependencies, f.Production.Dependencies} {
		if d.NPM != nil && !seen[d.NPM.Lockfile] {
			seen[d.NPM.Lockfile] = true
			if err := c.npm(ctx, l, d.NPM.Lockfile, read); err != nil {
				return err
			}
		}
		if d.Go != nil && !seen[d.Go.Module] {
			seen[d.Go.Module] = true
			if err := c.golang(ctx, l, d.Go.Module, read); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c ResolveConfig) npm(ctx context.Context, l *project.Lock, lockfile string, read func(string) ([]byte, error)) error {
	data, err := read(lockfile)
	if err != nil {
		return fmt.Errorf("%w; `npm install` writes it", err)
	}
	manifest, err := read(path.Join(path.Dir(lockfile), "package.json"))
	if err != nil {
		return err
	}
	tree, err := npm.ReadLock(lockfile, data, manifest)
	if err != nil {
		return err
	}
	l.NPM = append(l.NPM, *tree)
	pins, err := npm.PinnedTools(manifest)
	if err != nil {
		return err
	}
	installed := map[string]string{}
	for _, pin := range pins {
		if pin.Version == "" || pin.Tool == "node" {
			continue
		}
		if installed[pin.Tool] != "" {
			continue
		}
		registry, err := c.Site.NPMFor(pin.Tool)
		if err != nil {
			return err
		}
		if c.Offline {
			tool, ok := oldTool(c.Old, pin.Tool, pin.Version, oci.Platform{})
			if !ok {
				return fmt.Errorf("%s@%s (%s) is not in the present lock: run `twinhull lock` with a network", pin.Tool, pin.Version, pin.PinnedBy)
			}
			l.Tools = append(l.Tools, tool)
			installed[pin.Tool] = pin.Version
			continue
		}
		tool, err := npm.ResolveTool(ctx, func(ctx context.Context, u string) ([]byte, error) { return c.Fetch.Get(ctx, u, 16<<20) }, registry, pin)
		if err != nil {
			return err
		}
		l.Tools = append(l.Tools, tool)
		installed[pin.Tool] = tool.Version
	}
	// Ranges are demands on what the closures hold: a tool that does not fit
	// is skew, found here and not in production.
	for _, pin := range pins {
		have := installed[pin.Tool]
		for _, p := range l.Packages {
			if pin.Tool == "node" && p.Name == "nodejs" || have == "" && p.Name == pin.Tool {
				if err := pin.Check(p.Version); err != nil {
					return fmt.Errorf("package %s: %w", p.ID(), err)
				}
			}
		}
		if have != "" && pin.Version == "" {
			if err := pin.Check(have); err != nil {
				return err
			}
		}
	}
	return nil
}

func oldTool(l *project.Lock, name, version string, plat oci.Platform) (project.Tool, bool) {
	if l != nil {
		for _, t := range l.Tools {
			if t.Name == name && t.Version == version && t.Platform == plat {
				return t, true
			}
		}
	}
	return project.Tool{}, false
}

func (c ResolveConfig) golang(ctx context.Context, l *project.Lock, module string, read func(string) ([]byte, error)) error {
	mod, err := read(module)
	if err != nil {
		return err
	}
	sums, err := readProjectFile(filepath.Dir(c.File.Path), path.Join(path.Dir(module), "go.sum"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // no dependencies, no go.sum
		return err
	}
	m, err := gomod.Read(mod, sums)
	if err != nil {
		return err
	}
	get := func(ctx context.Context, u string) ([]byte, error) { return c.Fetch.Get(ctx, u, 512<<20) }
	pin, pinned, err := m.ToolchainPin()
	if err != nil {
		return err
	}
	var proxies gomod.Proxies
	if !c.Offline {
		list, err := c.Site.GoProxy()
		if err != nil {
			return err
		}
		if proxies, err = gomod.ParseProxies(strings.Join(list, ",")); err != nil {
			return err
		}
	}
	// What the present lock knows, and the vault holds, need not be fetched
	// again: the sums decide.
	have := map[string]project.GoModule{}
	if c.Old != nil {
		for _, g := range c.Old.Go {
			if c.Vault.Has(g.Mod) && (g.Zip == "" || c.Vault.Has(g.Zip)) {
				have[g.Path+"@"+g.Version+" "+g.Sum+" "+g.ModSum] = g
			}
		}
	}
	var missing []gomod.Sum
	for _, s := range m.Sums {
		if g, ok := have[s.Path+"@"+s.Version+" "+s.Zip+" "+s.Mod]; ok {
			l.Go = append(l.Go, g)
		} else {
			missing = append(missing, s)
		}
	}
	if len(missing) > 0 {
		if c.Offline {
			return fmt.Errorf("%d modules of go.sum are not in the present lock: run `twinhull lock` with a network", len(missing))
		}
		t := c.Progress.Task(fmt.Sprintf("reading %d Go modules", len(missing)), 0)
		got, err := gomod.Lock(ctx, get, proxies, c.Vault.PutBytes, missing)
		t.Done(err)
		if err != nil {
			return err
		}
		l.Go = append(l.Go, got...)
	}
	if !pinned {
		return nil
	}
	for _, plat := range c.File.Platforms {
		if tool, ok := oldTool(c.Old, "go", pin.Version, plat); ok && (c.Offline || c.Vault.Has(tool.Digest)) {
			l.Tools = append(l.Tools, tool)
			continue
		}
		if c.Offline {
			return fmt.Errorf("Go %s (%s) for %s is not in the present lock: run `twinhull lock` with a network", pin.Version, pin.PinnedBy, plat)
		}
		t := c.Progress.Task(fmt.Sprintf("reading Go %s for %s", pin.Version, plat), 0)
		tool, err := gomod.ResolveToolchain(ctx, get, proxies, c.Vault.PutBytes, pin, plat, m.Toolchains)
		t.Done(err)
		if err != nil {
			return err
		}
		l.Tools = append(l.Tools, tool)
	}
	return nil
}

// Stale compares a lock with the project as it is and lists what does not fit.
// It needs no network.
func Stale(f *project.File, l *project.Lock) ([]string, error) {
	var out []string
	if l.Project != f.Asked() {
		out = append(out, "the project file asks for other packages, exclusions, tools, platforms or dependencies than the lock was made for")
	}
	if l.Assembler != image.Assembler {
		out = append(out, fmt.Sprintf("the lock was made for assembler %d, this program is assembler %d", l.Assembler, image.Assembler))
	}
	dir := filepath.Dir(f.Path)
	locked := map[string]bool{}
	for _, t := range l.NPM {
		locked[t.Lockfile] = true
		data, err := readProjectFile(dir, t.Lockfile)
		if err != nil {
			out = append(out, "cannot be read: "+err.Error())
			continue
		}
		if digest.FromBytes(data) != t.SHA256 {
			out = append(out, t.Lockfile+" has changed since it was locked")
		}
		manifest, err := readProjectFile(dir, path.Join(path.Dir(t.Lockfile), "package.json"))
		if err == nil {
			if _, err := npm.ReadLock(t.Lockfile, data, manifest); err != nil {
				out = append(out, err.Error())
			}
			if pins, err := npm.PinnedTools(manifest); err == nil {
				for _, p := range pins {
					if _, ok := oldTool(l, p.Tool, p.Version, oci.Platform{}); !ok && p.Version != "" && p.Tool != "node" {
						out = append(out, fmt.Sprintf("%s asks for %s@%s, which is not locked", p.PinnedBy, p.Tool, p.Version))
					}
				}
			}
		}
	}
	for _, d := range []project.Dependencies{f.Development.Dependencies, f.Production.Dependencies} {
		if d.NPM != nil && !locked[d.NPM.Lockfile] {
			locked[d.NPM.Lockfile] = true
			out = append(out, d.NPM.Lockfile+" is not locked")
		}
		if d.Go == nil {
			continue
		}
		mod, err := readProjectFile(dir, d.Go.Module)
		if err != nil {
			out = append(out, fmt.Sprintf("development.dependencies.go: %v", err))
			continue
		}
		sums, err := readProjectFile(dir, path.Join(path.Dir(d.Go.Module), "go.sum"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		m, err := gomod.Read(mod, sums)
		if err != nil {
			return nil, err
		}
		have := map[string]bool{}
		for _, g := range l.Go {
			have[g.Path+"@"+g.Version+" "+g.Sum+" "+g.ModSum] = true
		}
		n := 0
		for _, s := range m.Sums {
			if !have[s.Path+"@"+s.Version+" "+s.Zip+" "+s.Mod] {
				n++
			}
		}
		if n > 0 || len(m.Sums) != len(l.Go) {
			out = append(out, "go.sum has changed since it was locked")
		}
		if pin, ok, err := m.ToolchainPin(); err != nil {
			return nil, err
		} else if ok {
			if _, ok := oldTool(l, "go", pin.Version, f.Platforms[0]); !ok {
				out = append(out, fmt.Sprintf("%s asks for Go %s, which is not locked", pin.PinnedBy, pin.Version))
			}
		}
	}
	sort.Strings(out)
	return out, nil
}

// StaleError refuses to build with a lock that does not fit the project.
type StaleError struct{ Reasons []string }

func (e *StaleError) Error() string {
	return "twinhull.lock does not fit the project: " + strings.Join(e.Reasons, "; ") +
		"\nhint: run `twinhull lock`, and commit the lock together with the change"
}

func (b *Builder) fits() error {
	reasons, err := Stale(b.file, b.lock)
	if err != nil {
		return err
	}
	if len(reasons) > 0 {
		return &StaleError{reasons}
	}
	return nil
}
