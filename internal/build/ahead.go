package build

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/source/debfile"
	"twinhull.dev/twinhull/internal/source/npm"
)

// ahead does work early that the build will surely or probably need, while the
// build itself waits for something that keeps one processor busy: packages that
// are configured, a compiler, tests. All that it leaves is in caches under keys
// that say what it is (unpacked packages, layers, bytes of generated files), so
// it can be wrong or fail without consequence: what is needed and not there is
// made as ever, and what was made in vain is never read.
type ahead struct {
	w      *work
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
	mu     sync.Mutex
	begun  map[string]bool // by what was asked
}

func newAhead(ctx context.Context, w *work) *ahead {
	a := &ahead{w: w, begun: map[string]bool{}}
	a.ctx, a.cancel = context.WithCancel(ctx)
	return a
}

// end stops what is still under way and waits for it.
func (a *ahead) end() {
	a.cancel()
	a.group.Wait()
}

// do runs f in the background, once for each name. On one processor there is
// none to spare and nothing is done.
func (a *ahead) do(name string, f func(ctx context.Context)) {
	if a == nil || runtime.GOMAXPROCS(0) < 2 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun[name] {
		return
	}
	a.begun[name] = true
	a.group.Go(func() { f(a.ctx) })
}

// apart is a copy of the builder for another goroutine: it shares what is safe
// for several (vault, layer cache, project files, progress) and opens
// everything else anew.
func (b *Builder) apart() *Builder {
	c := *b
	c.opened = map[string]*debfile.Package{}
	c.binaries = map[oci.Digest]*elfFacts{}
	c.extra = nil
	return &c
}

// aside is a builder for work ahead. It leaves a processor to what the build
// waits for.
func (b *Builder) aside() *Builder {
	c := b.apart()
	c.ahead = nil
	c.parallel = max(1, runtime.GOMAXPROCS(0)-1)
	return c
}

// workAhead begins what can be done while one processor is busy for a while.
// laid is a tree that is about to be configured, or nil.
func (b *Builder) workAhead(laid *root) {
	if b.ahead == nil {
		return
	}
	for _, z := range b.ahead.w.zones {
		switch {
		case z == oci.Production:
			b.productionAhead(b.ahead.w.platforms(z))
		case laid != nil && laid == b.ahead.w.development:
			b.developmentAhead(laid)
		}
	}
}

// productionAhead unpacks the packages of the production images and writes the
// layers of them.
func (b *Builder) productionAhead(platforms []oci.Platform) {
	c := b.aside()
	b.ahead.do("production", func(ctx context.Context) {
		for _, plat := range platforms {
			layers, err := c.sharedLayers(ctx, plat)
			if err == nil {
				err = c.writeAhead(ctx, layers)
			}
			if err != nil {
				return // the build itself meets it again, and says so
			}
		}
	})
}

// developmentAhead writes the layers of the development image as they are if
// configuration changes none of their files; most layers come out so.
func (b *Builder) developmentAhead(r *root) {
	// Copies: the build goes on to complete the entries of its own tree.
	t := filetree.NewTree()
	for _, e := range r.shipped.Sorted() {
		if !noise(e.Path, e.IsDir()) {
			c := *e
			t.Set(&c)
		}
	}
	c := b.aside()
	b.ahead.do("development", func(ctx context.Context) {
		if err := c.keepGenerated(ctx, t); err != nil {
			return
		}
		if err := c.modulesAhead(ctx, t, r.plat); err != nil {
			return
		}
		shared, err := c.sharedLayers(ctx, r.plat)
		if err != nil {
			shared = nil // production has no such platform
		}
		layers, err := image.PlanDevelopment(t.Sorted(), shared, image.PlanOptions{Source: c.sourceOf(), Codec: c.Codec})
		if err == nil {
			_ = c.writeAhead(ctx, layers)
		}
	})
}

// modulesAhead places the development zone's npm packages in a tree, unless
// they need install scripts, which run over the finished tree only.
func (b *Builder) modulesAhead(ctx context.Context, t *filetree.Tree, plat oci.Platform) error {
	n := b.file.Development.Dependencies.NPM
	if n == nil {
		return nil
	}
	tree, err := b.npmTree(n)
	if err != nil {
		return err
	}
	pkgs, err := npm.Subset(tree, n.Development, plat)
	if err != nil {
		return err
	}
	for _, p := range pkgs {
		if p.Scripts {
			return nil
		}
	}
	entries, err := npm.Install(ctx, b.vault, b.CacheDir, pkgs, b.mtime())
	if err != nil {
		return err
	}
	if entries, err = relocate(entries, n.Into); err != nil {
		return err
	}
	for _, e := range entries {
		if old := t.Get(e.Path); old == nil || !(old.IsDir() && e.IsDir()) {
			t.Set(e)
		}
	}
	return addParents(t, b.mtime())
}

// sharedLayers plans the layers of the production packages of a platform.
func (b *Builder) sharedLayers(ctx context.Context, plat oci.Platform) ([]image.LayerSpec, error) {
	pkgs, _, err := b.closure("production", plat)
	if err != nil {
		return nil, err
	}
	up, err := b.open(ctx, pkgs)
	if err != nil {
		return nil, err
	}
	c, err := b.sharedTree(up)
	if err != nil {
		return nil, err
	}
	return image.PlanProduction(c.tree.Sorted(), image.PlanOptions{Source: b.sourceOf(), Codec: b.Codec})
}

// writeAhead writes the layers whose files come from packages, one after the
// other: each uses several processors by itself. The others are not complete.
func (b *Builder) writeAhead(ctx context.Context, layers []image.LayerSpec) error {
	for _, l := range layers {
		small := true
		for _, e := range l.Entries {
			if e.Origin.Kind == filetree.FromPackage || e.Origin.Kind == filetree.FromModule {
				small = false
			}
		}
		if small {
			continue
		}
		codec := l.Codec
		if codec == "" {
			codec = image.Gzip
		}
		if _, _, err := b.layers.Layer(ctx, l.Entries, codec, nil); err != nil {
			return err
		}
	}
	return nil
}

// keepGenerated puts the bytes of generated files into the vault, where their
// origins will refer to them. It changes no entry.
func (b *Builder) keepGenerated(ctx context.Context, t *filetree.Tree) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16) // they wait for the disk
	for _, e := range t.Sorted() {
		if e.Origin.Kind != filetree.FromGenerated || e.Origin.Digest != "" || !e.IsReg() {
			continue
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			data, err := readEntry(e)
			if err == nil {
				_, err = b.vault.PutBytes(data)
			}
			return err
		})
	}
	return g.Wait()
}
