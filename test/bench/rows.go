package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// contender is one competitor of a row. prepare is not timed.
type contender struct {
	name    string // "" for Twinhull
	prepare func(ctx context.Context, round int) error
	run     func(ctx context.Context, round int) (built, error)
}

// race lets contenders take turns and returns each one's runs. A peer that
// fails is out of this race; Twinhull's failure is an error.
func (b *bench) race(ctx context.Context, what string, rounds int, all ...contender) (map[string][]built, error) {
	got := map[string][]built{}
	out := map[string]bool{}
	for round := range rounds {
		for _, c := range all {
			if out[c.name] {
				continue
			}
			err := ctx.Err()
			if err == nil && c.prepare != nil {
				err = c.prepare(ctx, round)
			}
			var r built
			if err == nil {
				r, err = c.run(ctx, round)
			}
			label := c.name
			if label == "" {
				label = "twinhull"
			}
			switch {
			case err == nil:
				b.say("%s: %s %.2f s", what, label, r.seconds)
				got[c.name] = append(got[c.name], r)
			case c.name == "" || ctx.Err() != nil:
				return nil, fmt.Errorf("%s: %w", what, err)
			default:
				first, _, _ := strings.Cut(err.Error(), "\n")
				b.say("%s: %s is out: %v", what, label, err)
				b.results.Skipped = append(b.results.Skipped, fmt.Sprintf("%s failed at %q: %s", label, what, first))
				out[c.name] = true
				delete(got, c.name)
			}
		}
	}
	return got, nil
}

// figure takes one number from each run.
func figure(runs []built, of func(built) float64) Figure {
	var f Figure
	var cpu []float64
	for _, r := range runs {
		f.Runs = append(f.Runs, of(r))
		cpu = append(cpu, r.cpu)
	}
	f.Median, f.CPU = median(f.Runs), median(cpu)
	return f
}

// row makes a row of a race.
func (b *bench) row(id, what string, got map[string][]built, of func(built) float64) *Row {
	row := &Row{ID: id, What: what, Unit: "s", Peers: map[string]Figure{}}
	for name, runs := range got {
		f := figure(runs, of)
		if name == "" {
			row.Ours = &f
			continue
		}
		f.CPU = 0 // a client's; the work is the daemon's
		row.Peers[name] = f
	}
	return row
}

func whole(r built) float64  { return r.seconds }
func beyond(r built) float64 { return r.seconds - r.compile }

func (r *Row) atMost(limit float64, unit string) *Row {
	r.Target = fmt.Sprintf("< %g %s", limit, unit)
	r.meets = func(r *Row) bool { return r.Ours.Median < limit }
	return r
}

// lab is everything that rows share.
type lab struct {
	*bench
	arch     string
	node     *project // this platform, tests run
	same     *project // and without the tests: the same work as the peers
	full     *project // as the example is
	base     *project // the peers' base images
	service  *project // compiled only, as ko does
	tested   *project // the tests run too
	docker   []dockerfilePeer
	ko       *ko
	registry *registry
	digests  map[string]map[string][]string // row, contender: every digest seen
	alone    bool                           // without peers
}

func (b *bench) wants(id string) bool { return b.only.MatchString(id) }

func (b *bench) run(ctx context.Context, alone bool) error {
	b.results.Machine = machine()
	b.results.Machine.Versions["twinhull"] = firstLine(twinhullProgram, "version")
	l := &lab{bench: b, arch: runtime.GOARCH, digests: map[string]map[string][]string{}, alone: alone}
	if err := l.setUp(ctx, alone); err != nil {
		return err
	}
	defer l.tearDown()
	for _, rows := range []func(context.Context) error{l.size, l.nodeCold, l.nodePrepared, l.development, l.unchanged, l.line, l.goService, l.memory, l.push, l.reproducible, l.gate, l.served} {
		if err := rows(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) setUp(ctx context.Context, alone bool) error {
	one := onePlatform(l.arch)
	for _, p := range []struct {
		at            **project
		name, example string
		change        func(string) string
		peers         bool
		rows          []string // that need it
	}{
		{&l.node, "node", "node-api", one, false,
			[]string{"node.production.size", "node.production.cold", "node.development.cold", "node.unchanged", "node.line.tests", "node.push", "gate.development", "gate.production", "registry.release"}},
		{&l.same, "node-compile-only", "node-api", func(s string) string { return withoutTests(one(s)) }, false,
			[]string{"node.production.cold.same-work", "node.production.unpacked", "node.production.base-ready", "node.line", "reproducible"}},
		{&l.full, "node-all-platforms", "node-api", func(s string) string { return s }, false,
			[]string{"node.production.cold.all-platforms", "node.memory"}},
		{&l.base, "node-base", "node-api", func(s string) string { return baseOnly(one(s)) }, true,
			[]string{"node.production.cold.same-work", "node.production.base-ready", "node.unchanged", "node.line", "reproducible"}},
		{&l.service, "go-compile-only", "go-service", func(s string) string { return withoutTests(one(s)) }, false,
			[]string{"go.production.cold", "go.line", "reproducible"}},
		{&l.tested, "go", "go-service", one, false, []string{"go.line.tests"}},
	} {
		if p.peers && alone || !slices.ContainsFunc(p.rows, l.wants) {
			continue
		}
		var err error
		if *p.at, err = l.newProject(ctx, p.name, p.example, p.change); err != nil {
			return err
		}
	}
	var err error
	if l.registry, err = startRegistry(l.path("registry")); err != nil {
		return err
	}
	if alone {
		return nil
	}
	skip := func(name string, err error) {
		first, _, _ := strings.Cut(err.Error(), "\n")
		l.results.Skipped = append(l.results.Skipped, name+" is left out: "+first)
		l.say("%s is left out: %v", name, err)
	}
	if l.base != nil {
		w, err := l.nodeWork()
		if err != nil {
			return err
		}
		if k, err := l.newBuildkit(ctx, w); err != nil {
			skip("BuildKit", err)
		} else {
			l.docker = append(l.docker, k)
		}
		if h, err := l.newBuildah(ctx, w); err != nil {
			skip("buildah", err)
		} else {
			l.docker = append(l.docker, h)
		}
	}
	if l.service == nil {
		return nil
	}
	_, r, err := l.service.build(ctx, l.warm(), "production")
	if err != nil {
		return err
	}
	if err := l.registry.serve("base/go", layout(filepath.Join(l.service.dir, ".twinhull", "store")), r.digest("production")); err != nil {
		return err
	}
	if err := copyTree(l.service.dir, l.path("ko"), ".twinhull"); err != nil {
		return err
	}
	if l.ko, err = l.newKo(ctx, l.registry.addr+"/base/go", l.path("ko")); err != nil {
		skip("ko", err)
	}
	return nil
}

func (l *lab) tearDown() {
	for _, d := range l.docker {
		d.close()
	}
	l.registry.close()
}

// nodeWork lays out what the peers are given.
func (l *lab) nodeWork() (*nodeWork, error) {
	w := &nodeWork{bases: layout(l.path("bases")), npm: l.path("npm"), sources: l.path("sources")}
	if err := copyTree(filepath.Join(l.base.dir, ".twinhull", "store"), string(w.bases)); err != nil {
		return nil, err
	}
	var err error
	if w.dev, err = w.bases.tag("development"); err != nil {
		return nil, err
	}
	if w.prod, err = w.bases.tag("production"); err != nil {
		return nil, err
	}
	w.epoch = "1700000000" // any will do
	if err := copyTree(filepath.Join(l.root, "examples", "node-api"), w.sources, ".twinhull", "node_modules", "dist", "coverage", "junit.xml", "twinhull.lock", "twinhull.yaml", "test"); err != nil {
		return nil, err
	}
	if err := nameTarballs(filepath.Join(w.sources, "package-lock.json")); err != nil {
		return nil, err
	}
	// npm finds a tarball in its cache by the digest that package-lock.json
	// names: content-v2/sha512/ab/cd/…, the layout of its content store.
	files, err := filepath.Glob(filepath.Join(l.warm(), "vault", "sha512", "??", "*"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		name := filepath.Base(f)
		if _, err := hex.DecodeString(name); err != nil || !l.base.inputs[name] {
			continue
		}
		if err := copyFile(f, filepath.Join(w.npm, "_cacache", "content-v2", "sha512", name[:2], name[2:4], name[4:])); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// nameTarballs gives every package of a package-lock.json an address, which the
// examples leave out. Without one npm asks the registry where a tarball is,
// with one it looks for the digest in its cache first and never asks.
func nameTarballs(file string) error {
	var lock map[string]any
	if err := readJSON(file, &lock); err != nil {
		return err
	}
	packages, _ := lock["packages"].(map[string]any)
	for at, v := range packages {
		p, _ := v.(map[string]any)
		if p == nil || p["integrity"] == nil || p["resolved"] != nil {
			continue
		}
		name := at[strings.LastIndex(at, "node_modules/")+len("node_modules/"):]
		version, _ := p["version"].(string)
		p["resolved"] = "http://registry.invalid/" + name + "/-/" + filepath.Base(name) + "-" + version + ".tgz"
	}
	text, err := json.MarshalIndent(lock, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// ours is Twinhull's part of a race: a build from a cache in a state.
func (l *lab) ours(p *project, s state, zones ...string) contender {
	zone := "production"
	if len(zones) > 0 {
		zone = zones[0]
	}
	var cache string
	return contender{
		prepare: func(ctx context.Context, round int) error {
			if cache != "" {
				emptyTree(cache)
			}
			var err error
			cache, err = l.cacheAt(ctx, p, s, zone)
			return err
		},
		run: func(ctx context.Context, round int) (built, error) {
			o, r, err := p.build(ctx, cache, zones...)
			return built{outcome: o, digest: r.digest(zone), compile: stepSeconds(o.lines, "compile")}, err
		},
	}
}

// saw keeps the digests of a race for the row about equal bits.
func (l *lab) saw(id string, got map[string][]built) {
	if l.digests[id] == nil {
		l.digests[id] = map[string][]string{}
	}
	for name, runs := range got {
		for _, r := range runs {
			l.digests[id][name] = append(l.digests[id][name], r.digest)
		}
	}
}

// size is the unpacked size, from the report and again from the layers.
func (l *lab) size(ctx context.Context) error {
	if !l.wants("node.production.size") {
		return nil
	}
	_, r, err := l.node.build(ctx, l.warm(), "production")
	if err != nil {
		return err
	}
	store := layout(filepath.Join(l.node.dir, ".twinhull", "store"))
	n, err := store.unpacked(r.digest("production"))
	if err != nil {
		return err
	}
	mib := float64(n) / (1 << 20)
	row := &Row{ID: "node.production.size", What: "node: production image, unpacked", Unit: "MiB", Ours: &Figure{Median: mib, Runs: []float64{mib}}, Target: "<= 115 MiB"}
	row.meets = func(r *Row) bool { return r.Ours.Median <= 115 }
	row.Notes = append(row.Notes, fmt.Sprintf("%d files; the sum of all regular files in the layers, read again by the benchmark; the reference image has 187 MB", r.Images[0].Files))
	if r.Images[0].Unpacked != n {
		row.Notes = append(row.Notes, fmt.Sprintf("the build's own report says %.1f MiB", float64(r.Images[0].Unpacked)/(1<<20)))
	}
	m, err := store.manifest(r.digest("production"))
	if err != nil {
		return err
	}
	var packed int64
	for _, d := range m.Layers {
		packed += d.Size
	}
	row.Notes = append(row.Notes, fmt.Sprintf("%.1f MiB compressed in %d layers", float64(packed)/(1<<20), len(m.Layers)))
	l.results.add(row)
	return nil
}

// nodeCold is the production image from nothing but its inputs.
func (l *lab) nodeCold(ctx context.Context) error {
	if id := "node.production.cold"; l.wants(id) {
		got, err := l.race(ctx, "production, cold, with tests", l.slow, l.ours(l.node, inputs, "production"))
		if err != nil {
			return err
		}
		l.saw(id, got)
		row := l.results.add(l.row(id, "node: production, cold, tests run too", got, whole).atMost(8, "s"))
		row.Notes = append(row.Notes, fmt.Sprintf("%.1f processor seconds; the two steps (tsc, jest) take %.1f s of it one after the other", row.Ours.CPU, median(each(got[""], func(r built) float64 {
			return stepSeconds(r.lines, "compile") + stepSeconds(r.lines, "test")
		}))))
	}
	if id := "node.production.cold.all-platforms"; l.wants(id) {
		got, err := l.race(ctx, "production, cold, as the example is", 2, l.ours(l.full, inputs, "production"))
		if err != nil {
			return err
		}
		l.saw(id, got)
		l.results.add(l.row(id, "node: the same for amd64 and arm64", got, whole))
	}
	if id := "node.production.cold.same-work"; l.wants(id) {
		all := []contender{l.ours(l.same, inputs, "production")}
		for _, d := range l.docker {
			all = append(all, contender{name: d.name(),
				prepare: func(ctx context.Context, round int) error { return d.fresh(ctx) },
				run:     func(ctx context.Context, round int) (built, error) { return d.build(ctx, false, false) },
			})
		}
		got, err := l.race(ctx, "production, cold", l.slow, all...)
		if err != nil {
			return err
		}
		l.saw(id, got)
		row := l.results.add(l.row(id, "node: production, cold, the same work", got, whole))
		row.Notes = append(row.Notes, "npm ci, tsc, image, without tests; the peers begin with both base images as files, Twinhull with single packages and makes what the bases are to the others")
	}
	return nil
}

func each(runs []built, of func(built) float64) []float64 {
	var out []float64
	for _, r := range runs {
		out = append(out, of(r))
	}
	return out
}

// nodePrepared is the production image with more and more prepared.
func (l *lab) nodePrepared(ctx context.Context) error {
	if id := "node.production.unpacked"; l.wants(id) {
		got, err := l.race(ctx, "production, packages unpacked", l.slow, l.ours(l.same, unpacked, "production"))
		if err != nil {
			return err
		}
		l.saw(id, got)
		l.results.add(l.row(id, "node: production, packages unpacked before", got, whole))
	}
	if id := "node.production.base-ready"; l.wants(id) {
		all := []contender{l.ours(l.same, tree, "production")}
		for _, d := range l.docker {
			all = append(all, contender{name: d.name(),
				prepare: func(ctx context.Context, round int) error {
					if err := d.fresh(ctx); err != nil {
						return err
					}
					return d.unpackBases(ctx)
				},
				run: func(ctx context.Context, round int) (built, error) { return d.build(ctx, false, false) },
			})
		}
		got, err := l.race(ctx, "production, base ready", l.slow, all...)
		if err != nil {
			return err
		}
		l.saw(id, got)
		row := l.results.add(l.row(id, "node: production, base ready to use", got, whole))
		row.Notes = append(row.Notes, "the peers have both base images unpacked, Twinhull its configured tree and node_modules")
	}
	return nil
}

func (l *lab) development(ctx context.Context) error {
	id := "node.development.cold"
	if !l.wants(id) {
		return nil
	}
	got, err := l.race(ctx, "development, cold", l.slow, l.ours(l.node, inputs, "development"))
	if err != nil {
		return err
	}
	l.saw(id, got)
	row := l.results.add(l.row(id, "node: development, cold", got, whole).atMost(20, "s"))
	row.Notes = append(row.Notes, fmt.Sprintf("%.1f processor seconds; no peer: a Dockerfile would install the packages from a network", row.Ours.CPU))
	return nil
}

// unchanged builds again what is there.
func (l *lab) unchanged(ctx context.Context) error {
	id := "node.unchanged"
	if !l.wants(id) {
		return nil
	}
	cache := l.warm()
	if _, _, err := l.node.build(ctx, cache); err != nil {
		return err
	}
	all := []contender{{run: func(ctx context.Context, round int) (built, error) {
		o, r, err := l.node.build(ctx, cache)
		for _, i := range r.Images {
			if !i.Cached {
				return built{}, fmt.Errorf("the %s image was made again though nothing had changed", i.Zone)
			}
		}
		return built{outcome: o}, err
	}}}
	for _, d := range l.docker {
		all = append(all, contender{name: d.name(), prepare: l.primed(d), run: func(ctx context.Context, round int) (built, error) { return d.build(ctx, false, false) }})
	}
	got, err := l.race(ctx, "nothing changed", l.rounds+2, all...)
	if err != nil {
		return err
	}
	row := l.results.add(l.row(id, "node: nothing changed, both images", got, whole).atMost(0.2, "s"))
	row.Notes = append(row.Notes, "the peers: the production image alone")
	return nil
}

// primed makes a peer build once, so that its cache is full.
func (l *lab) primed(d dockerfilePeer) func(context.Context, int) error {
	return func(ctx context.Context, round int) error {
		if round > 0 {
			return nil
		}
		_, err := d.build(ctx, false, false)
		return err
	}
}

// line changes one line of the source.
func (l *lab) line(ctx context.Context) error {
	if id := "node.line"; l.wants(id) {
		cache := l.warm()
		if _, _, err := l.same.build(ctx, cache, "production"); err != nil {
			return err
		}
		all := []contender{l.edited(l.same)}
		for _, d := range l.docker {
			all = append(all, contender{name: d.name(),
				prepare: func(ctx context.Context, round int) error {
					if err := l.primed(d)(ctx, round); err != nil {
						return err
					}
					return changeLine(l.path("sources"), 2*round+len(d.name()))
				},
				run: func(ctx context.Context, round int) (built, error) { return d.build(ctx, false, false) },
			})
		}
		got, err := l.race(ctx, "one line changed", l.rounds, all...)
		if err != nil {
			return err
		}
		row := l.row(id, "node: one line changed, production ready", got, whole)
		row.Notes = append(row.Notes, fmt.Sprintf("the compile itself: Twinhull %.2f s, BuildKit %.2f s", median(each(got[""], func(r built) float64 { return r.compile })), median(each(got["BuildKit"], func(r built) float64 { return r.compile }))))
		l.results.add(row)

		delete(got, "buildah") // does not tell how long the compile took
		row = l.row(id+".beyond", "node: the same, beyond the compile", got, beyond)
		row.Target = "< 1 s and 5x"
		if len(row.Peers) == 0 {
			row.Target = "< 1 s"
		}
		row.meets = func(r *Row) bool { return r.Ours.Median < 1 && (len(r.Peers) == 0 || r.Ratio >= 5) }
		l.results.add(row)
	}
	if id := "node.line.tests"; l.wants(id) {
		cache := l.warm()
		if _, _, err := l.node.build(ctx, cache, "production"); err != nil {
			return err
		}
		got, err := l.race(ctx, "one line changed, with tests", l.rounds, l.edited(l.node))
		if err != nil {
			return err
		}
		l.results.add(l.row(id, "node: one line changed, tests run too", got, whole))
		l.results.add(l.row(id+".beyond", "node: the same, beyond compile and tests", got, beyond))
	}
	return nil
}

// edited is Twinhull's part of a race about one changed line.
func (l *lab) edited(p *project) contender {
	return contender{
		prepare: func(ctx context.Context, round int) error { return changeLine(p.dir, round) },
		run: func(ctx context.Context, round int) (built, error) {
			o, r, err := p.build(ctx, l.warm(), "production")
			return built{outcome: o, digest: r.digest("production"), compile: stepSeconds(o.lines, "compile") + stepSeconds(o.lines, "test")}, err
		},
	}
}

// goService is the Go example, beside ko.
func (l *lab) goService(ctx context.Context) error {
	if id := "go.production.cold"; l.wants(id) {
		all := []contender{l.ours(l.service, inputs, "production")}
		if l.ko != nil {
			all = append(all, contender{name: "ko",
				prepare: func(ctx context.Context, round int) error {
					return removeAll(l.path("gocache-cold"))
				},
				run: func(ctx context.Context, round int) (built, error) {
					return l.ko.build(ctx, l.path("gocache-cold"), l.arch)
				}})
		}
		got, err := l.race(ctx, "go, cold", min(2, l.slow), all...)
		if err != nil {
			return err
		}
		l.saw(id, got)
		row := l.results.add(l.row(id, "go: production, cold", got, whole))
		row.Notes = append(row.Notes, "both compile the standard library; Twinhull also unpacks the Go toolchain and configures the tree that it runs in, ko uses the machine's Go")
	}
	if id := "go.line"; l.wants(id) {
		cache := l.warm()
		if _, _, err := l.service.build(ctx, cache, "production"); err != nil {
			return err
		}
		all := []contender{l.edited(l.service)}
		if l.ko != nil {
			all = append(all, contender{name: "ko",
				prepare: func(ctx context.Context, round int) error {
					if round == 0 {
						if _, err := l.ko.build(ctx, l.path("gocache"), l.arch); err != nil {
							return err
						}
					}
					return changeLine(l.ko.dir, round)
				},
				run: func(ctx context.Context, round int) (built, error) {
					return l.ko.build(ctx, l.path("gocache"), l.arch)
				}})
		}
		got, err := l.race(ctx, "go, one line changed", l.rounds, all...)
		if err != nil {
			return err
		}
		row := l.row(id, "go: one line changed, warm Go cache", got, whole)
		row.Notes = append(row.Notes, fmt.Sprintf("go build itself takes %.2f s of it", median(each(got[""], func(r built) float64 { return r.compile }))))
		l.results.add(row)
	}
	if id := "go.line.tests"; l.wants(id) {
		if _, _, err := l.tested.build(ctx, l.warm(), "production"); err != nil {
			return err
		}
		got, err := l.race(ctx, "go, one line changed, with tests", l.rounds, l.edited(l.tested))
		if err != nil {
			return err
		}
		l.results.add(l.row(id, "go: one line changed, tests run too", got, whole))
		l.results.add(l.row(id+".beyond", "go: the same, beyond compile and tests", got, beyond))
	}
	return nil
}

// memory watches the largest build there is.
func (l *lab) memory(ctx context.Context) error {
	if !l.wants("node.memory") {
		return nil
	}
	cache, err := l.cacheAt(ctx, l.full, inputs, "development")
	if err != nil {
		return err
	}
	var m memory
	c := l.full.command(cache, "build", "--offline")
	c.seen = m.watch
	o, err := run(ctx, c)
	if err != nil {
		return err
	}
	l.say("memory: %.0f MiB alone, %.0f MiB with children", m.self, m.tree)
	row := (&Row{ID: "node.memory", What: "node: peak memory, both images cold", Unit: "MiB", Ours: &Figure{Median: m.self, Runs: []float64{m.self}}}).atMost(512, "MiB")
	row.Notes = append(row.Notes, fmt.Sprintf("the program alone (resident, high-water mark); with the compiler, tests and package scripts that it runs %.0f MiB at the same time (shared pages once); the largest single process %.0f MiB", m.tree, o.largest))
	l.results.add(row)
	return nil
}

// push sends the development image and then the production image.
func (l *lab) push(ctx context.Context) error {
	if !l.wants("node.push") {
		return nil
	}
	repo := l.registry.addr + "/shop/node"
	cache := l.warm()
	if _, _, err := l.node.build(ctx, cache, "development", "--output", repo); err != nil {
		return err
	}
	before := l.registry.received.Load()
	o, r, err := l.node.build(ctx, cache, "production", "--output", repo)
	if err != nil {
		return err
	}
	sent := float64(l.registry.received.Load() - before)
	store := layout(filepath.Join(l.node.dir, ".twinhull", "store"))
	m, err := store.manifest(r.digest("production"))
	if err != nil {
		return err
	}
	total := float64(m.Config.Size)
	for _, d := range m.Layers {
		total += float64(d.Size)
	}
	l.say("push: %.0f of %.0f bytes", sent, total)
	row := &Row{ID: "node.push", What: "node: push of production after development", Unit: "share",
		Ours: &Figure{Median: sent / total, Runs: []float64{sent, total}, Detail: fmt.Sprintf("%.1f of %.1f MB", sent/1e6, total/1e6)}}
	row.Notes = append(row.Notes, fmt.Sprintf("bytes of blobs that a registry received, the document of origins among them; %.2f s on the loopback interface", o.seconds))
	l.results.add(row)
	return nil
}

// reproducible compares the digests of all runs from different caches, and
// gives the peers what they have for equal bits.
func (l *lab) reproducible(ctx context.Context) error {
	if !l.wants("reproducible") {
		return nil
	}
	row := &Row{ID: "reproducible", What: "equal digests in two builds", Unit: "yes", Peers: map[string]Figure{}}
	best := &Row{ID: "reproducible.asked", What: "equal digests, when asked for", Unit: "yes", Peers: map[string]Figure{}}
	equal := func(all []string) Figure {
		f := Figure{Median: 1}
		for _, d := range all {
			if d == "" || d != all[0] {
				f.Median = 0
			}
		}
		f.Runs = []float64{f.Median}
		return f
	}
	ours := []string{}
	together := Figure{Median: 1}
	for _, seen := range l.digests {
		if len(seen[""]) > 1 {
			ours = append(ours, seen[""]...)
			if equal(seen[""]).Median == 0 {
				together.Median = 0
			}
		}
	}
	if len(ours) == 0 {
		for range 2 {
			c := l.ours(l.same, inputs, "production")
			if err := c.prepare(ctx, 0); err != nil {
				return err
			}
			r, err := c.run(ctx, 0)
			if err != nil {
				return err
			}
			ours = append(ours, r.digest)
		}
		together = equal(ours)
	}
	together.Runs = []float64{together.Median}
	row.Ours, best.Ours = &together, &together
	row.Notes = append(row.Notes, fmt.Sprintf("Twinhull: %d builds from different caches, each compared with the others of its kind", len(ours)))
	for _, d := range l.docker {
		for _, asked := range []bool{false, true} {
			var digests []string
			for range 2 {
				r, err := d.build(ctx, asked, true)
				if err != nil {
					l.say("reproducible: %s: %v", d.name(), err)
					digests = nil
					break
				}
				digests = append(digests, r.digest)
			}
			switch {
			case len(digests) == 0:
			case asked:
				best.Peers[d.name()] = equal(digests)
			default:
				row.Peers[d.name()] = equal(digests)
			}
		}
	}
	if l.ko != nil {
		var digests []string
		for i := range 2 {
			dir := l.path(fmt.Sprintf("gocache-r%d", i))
			r, err := l.ko.build(ctx, dir, l.arch)
			os.RemoveAll(dir)
			if err != nil {
				l.say("reproducible: ko: %v", err)
				digests = nil
				break
			}
			digests = append(digests, r.digest)
		}
		if len(digests) > 0 {
			row.Peers["ko"], best.Peers["ko"] = equal(digests), equal(digests)
		}
	}
	best.Notes = append(best.Notes, "BuildKit with SOURCE_DATE_EPOCH and rewrite-timestamp, buildah with --timestamp; no step cached")
	row.Target = "yes"
	row.meets = func(r *Row) bool { return r.Ours.Median == 1 }
	l.results.add(row)
	l.results.add(best)
	return nil
}
