package image

import (
	"archive/tar"
	"fmt"
	"path"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"twinhull.dev/twinhull/internal/filetree"
)

func from(kind, name string, e *filetree.Entry) *filetree.Entry {
	e.Origin = filetree.Origin{Kind: kind, Name: name}
	return e
}

func sized(e *filetree.Entry, n int64) *filetree.Entry {
	e.Size = n // plans look at sizes and digests only
	return e
}

// stack flattens layers as a runtime does: later headers win, nothing deletes.
func stack(t interface{ Fatalf(string, ...any) }, layers []LayerSpec) map[string]member {
	out := make(map[string]member)
	for _, l := range layers {
		sorted, err := order(l.Entries)
		if err != nil {
			t.Fatalf("layer %s: %v", l.Name, err)
		}
		have := make(map[string]bool)
		for _, e := range sorted {
			if up := path.Dir(e.Path); up != "." && !have[up] {
				t.Fatalf("layer %s: %s comes before its folder", l.Name, e.Path)
			}
			have[e.Path] = true
			if old, ok := out[e.Path]; ok && old.Type == tar.TypeDir && e.Type != tar.TypeDir {
				t.Fatalf("layer %s: %s replaces a folder", l.Name, e.Path)
			}
			out[e.Path] = memberOf(e)
		}
	}
	return out
}

func tree(entries []*filetree.Entry) map[string]member {
	out := make(map[string]member)
	for _, e := range entries {
		out[e.Path] = memberOf(e)
	}
	return out
}

func layerNames(layers []LayerSpec) []string {
	var out []string
	for _, l := range layers {
		out = append(out, l.Name)
	}
	return out
}

// A small world: what must be shared is shared, and a change of the development
// tree changes nothing in production.
func TestPlanSharing(t *testing.T) {
	pkg := func(name string, e *filetree.Entry) *filetree.Entry { return from(filetree.FromPackage, name, e) }
	both := func() []*filetree.Entry {
		return []*filetree.Entry{
			pkg("libc6", folder("usr")), pkg("libc6", folder("usr/lib")), pkg("libc6", folder("etc")),
			pkg("libc6", sized(file("usr/lib/libc.so", "c"), 12<<20)), pkg("libc-bin", file("usr/lib/gconv", "g")),
			pkg("node", sized(file("usr/lib/node", "n"), 60<<20)), pkg("zlib", file("usr/lib/libz.so", "z")),
			pkg("libc6", file("etc/ld.so.conf", "conf")),
		}
	}
	production := append(both(), from(filetree.FromArtifact, "compile:dist", file("app/main.js", "js")),
		from(filetree.FromGenerated, "accounts", file("etc/passwd", "app")))
	develop := func() []*filetree.Entry {
		return append(both(), pkg("gcc", folder("usr/bin")), pkg("gcc", sized(file("usr/bin/gcc", "cc"), 50<<20)), pkg("libc6", folder("usr/share")),
			pkg("libc6", file("usr/share/README", "doc")), from(filetree.FromGenerated, "accounts", file("etc/passwd", "dev")))
	}
	opt := PlanOptions{Source: func(o filetree.Origin) string {
		if strings.HasPrefix(o.Name, "libc") {
			return "glibc"
		}
		return o.Name
	}}
	development := develop()
	development[1].ModTime++ // a folder's time does not matter
	prod, dev, err := Plan(production, development, opt)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"glibc", "node", "packages 1", "package configuration", "generated", "application"}, layerNames(prod)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"glibc", "node", "packages 1", "package configuration", "gcc", "packages 1", "generated"}, layerNames(dev)); diff != "" {
		t.Error(diff)
	}
	for i := range 4 {
		a, _ := Key(prod[i].Entries, Gzip)
		b, _ := Key(dev[i].Entries, Gzip)
		if a != b {
			t.Errorf("layer %d differs", i)
		}
	}
	// The parents are there, with production's headers where the tree has them.
	if !strings.Contains(prod[0].Comment, "glibc") {
		t.Error(prod[0].Comment)
	}

	changed := develop()
	*changed[3] = *pkg("libc6", sized(file("usr/lib/libc.so", "patched"), 12<<20))
	prod2, dev2, err := Plan(production, changed, opt)
	if err != nil {
		t.Fatal(err)
	}
	for i := range prod {
		a, _ := Key(prod[i].Entries, Gzip)
		b, _ := Key(prod2[i].Entries, Gzip)
		if a != b {
			t.Errorf("the development tree changed production layer %d", i)
		}
	}
	if got := stack(t, dev2)["usr/lib/libc.so"].Digest; got != string(changed[3].Digest) {
		t.Error("the development image has production's file")
	}
	if dev2[0].Name != "node" {
		t.Errorf("layers of the changed development image: %v", layerNames(dev2))
	}
}

// Stacking the layers of an image gives exactly its tree, whatever the trees
// are; no layer restates production for development; plans do not depend on
// the order of entries.
func TestPlanProperty(t *testing.T) {
	kinds := []string{filetree.FromPackage, filetree.FromPackage, filetree.FromModule, filetree.FromArtifact, filetree.FromGenerated, filetree.FromSource}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) []*filetree.Entry {
			var entries []*filetree.Entry
			have := make(map[string]*filetree.Entry)
			add := func(e *filetree.Entry) {
				if have[e.Path] == nil {
					have[e.Path] = e
					entries = append(entries, e)
				}
			}
			origin := func(e *filetree.Entry) *filetree.Entry {
				e.Origin = filetree.Origin{Kind: rapid.SampledFrom(kinds).Draw(t, label+" kind"), Name: fmt.Sprintf("p%d", rapid.IntRange(0, 9).Draw(t, label+" name"))}
				return e
			}
			for range rapid.IntRange(0, 25).Draw(t, label+" entries") {
				dir := rapid.SampledFrom([]string{"usr", "etc", "usr/lib", "var/lib", "app"}).Draw(t, label+" dir")
				for d := dir; d != "."; d = path.Dir(d) {
					e := folder(d)
					e.ModTime += int64(rapid.IntRange(0, 1).Draw(t, label+" time"))
					add(origin(e))
				}
				p := dir + "/" + rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, label+" base")
				switch rapid.IntRange(0, 5).Draw(t, label+" type") {
				case 0:
					add(origin(symlink(p, "x")))
				case 1:
					var targets []string
					for q, e := range have {
						if e.IsReg() {
							targets = append(targets, q)
						}
					}
					if len(targets) > 0 {
						sort.Strings(targets)
						add(origin(hardlink(p, rapid.SampledFrom(targets).Draw(t, label+" target"))))
					}
				default:
					e := file(p, rapid.SampledFrom([]string{"1", "2"}).Draw(t, label+" content"))
					e.Size = int64(rapid.SampledFrom([]int{1, 2 << 20, 30 << 20}).Draw(t, label+" size"))
					add(origin(e))
				}
			}
			return entries
		}
		production := draw("prod")
		development := draw("dev")
		if rapid.Bool().Draw(t, "alike") {
			// Trees that have much in common: development is production and more.
			have := make(map[string]bool)
			more := append([]*filetree.Entry(nil), production...)
			for _, e := range production {
				have[e.Path] = true
			}
			for _, e := range development {
				if !have[e.Path] && (e.Type != tar.TypeLink || have[e.Link] && tree(production)[e.Link].Type == tar.TypeReg) {
					have[e.Path] = true
					more = append(more, e)
				}
			}
			development = more
		}
		prod, dev, err := Plan(production, development, PlanOptions{})
		if err != nil {
			t.Fatalf("%v", err)
		}
		if diff := cmp.Diff(tree(production), stack(t, prod)); diff != "" {
			t.Fatalf("production: %s", diff)
		}
		if diff := cmp.Diff(tree(development), stack(t, dev)); diff != "" {
			t.Fatalf("development: %s", diff)
		}
		if len(prod) > 14 || len(dev) > 40 {
			t.Fatalf("%d and %d layers", len(prod), len(dev))
		}
		for i, j := 0, len(production)-1; i < j; i, j = i+1, j-1 {
			production[i], production[j] = production[j], production[i]
		}
		again, err := PlanProduction(production, PlanOptions{})
		if err != nil {
			t.Fatalf("%v", err)
		}
		if diff := cmp.Diff(prod, again); diff != "" {
			t.Fatalf("another order, another plan: %s", diff)
		}
	})
}

func TestPlanRefuses(t *testing.T) {
	if _, err := PlanProduction([]*filetree.Entry{symlink("lib", "usr/lib"), file("lib/deep/x", "x")}, PlanOptions{}); err == nil {
		t.Error("a file below a symbolic link was accepted")
	}
}
