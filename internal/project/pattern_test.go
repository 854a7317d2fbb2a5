package project

import (
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		patterns string // separated by blanks
		yes, no  string
	}{
		{"", "", "a a/b"},
		{"src", "src src/a src/a/b.ts", "srcs a/src src2/a"},
		{"src/", "src/a", "srcs"},
		{"src/**", "src/a src/a/b", "src2 a/src/b"},
		{"*.json", "package.json .json", "a/package.json package.jsonx"},
		{"**/*.go", "a.go a/b.go a/b/c.go", "a.gox a/b"},
		{"**", "a a/b .env", ".git/config a/.git/config node_modules/x/y a/node_modules/b .twinhull/x a/.twinhull/x"},
		{"a/**/b", "a/b a/x/b a/x/y/b a/b/c", "a a/x b"},
		{"a/**/**/b", "a/b a/x/y/b", "a/x"},
		{"a/*/c", "a/b/c a/b/c/d", "a/c a/b/b/c"},
		{"a?c", "abc aéc", "ac abbc a/c"},
		{"[a-c]x [!a-c]y", "ax dy", "dx ay by"},
		{"src !src/old", "src/a src/older", "src/old src/old/a"},
		{"src !src/old src/old/keep", "src/old/keep src/old/keep/x", "src/old/drop"},
		{"src !**/*_test.go", "src/a.go", "src/a_test.go src/b/c_test.go"},
		{"** !**", "", "a a/b"},
		{"node_modules/a .git", "node_modules/a/b .git/HEAD", "node_modules/b a/.git/HEAD node_modules/a/node_modules/c"},
		{"web/node_modules/*", "web/node_modules/a", "web/node_modules/a/b"},
		{"** !a/node_modules", "a/b", "a/node_modules/b"},
		{"packages/*/src", "packages/a/src packages/a/src/b", "packages/a packages/src"},
		{"[*]", "*", "a"},
	} {
		ps, err := ParsePatterns(strings.Fields(c.patterns))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.Fields(c.yes) {
			if !ps.Match(name) {
				t.Errorf("%q does not match %q", c.patterns, name)
			}
			for dir := path.Dir(name); ; dir = path.Dir(dir) {
				if !ps.MayContain(dir) {
					t.Errorf("%q: MayContain(%q) is false, but %q matches", c.patterns, dir, name)
				}
				if dir == "." {
					break
				}
			}
		}
		for _, name := range strings.Fields(c.no) {
			if ps.Match(name) {
				t.Errorf("%q matches %q", c.patterns, name)
			}
		}
	}
}

func TestMayContain(t *testing.T) {
	for _, c := range []struct{ patterns, yes, no string }{
		{"", "", ". a"},
		{"src", ". src src/a", "lib"},
		{"src/*.ts", ". src", "src/a lib"},
		{"src/**/*.ts", ". src src/a src/a/b", "lib src/node_modules"},
		{"**", ". a a/b", ".git a/node_modules .twinhull"},
		{"** !dist", ". a", "dist dist/a"},
		{"** !dist/**", ". a", "dist dist/a"},
		{"** !dist dist/keep", ". dist dist/keep dist/keep/a", "dist/drop"},
		{"a/node_modules/b", ". a a/node_modules a/node_modules/b", "node_modules a/node_modules/c"},
	} {
		ps, err := ParsePatterns(strings.Fields(c.patterns))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range strings.Fields(c.yes) {
			if !ps.MayContain(dir) {
				t.Errorf("%q: MayContain(%q) is false", c.patterns, dir)
			}
		}
		for _, dir := range strings.Fields(c.no) {
			if ps.MayContain(dir) {
				t.Errorf("%q: MayContain(%q) is true", c.patterns, dir)
			}
		}
	}
}

// A walk that trusts MayContain finds everything that Match accepts.
func TestPruningLosesNothing(t *testing.T) {
	part := rapid.SampledFrom([]string{"a", "b", "ab", "*", "a*", "?", "[ab]", "**", "node_modules", ".git", ".twinhull"})
	name := rapid.SampledFrom([]string{"a", "b", "ab", "c", "node_modules", ".git", ".twinhull"})
	rapid.Check(t, func(t *rapid.T) {
		var list []string
		for _, parts := range rapid.SliceOfN(rapid.SliceOfN(part, 1, 4), 1, 4).Draw(t, "patterns") {
			p := strings.Join(parts, "/")
			if rapid.Bool().Draw(t, "exclude") {
				p = "!" + p
			}
			list = append(list, p)
		}
		ps, err := ParsePatterns(list)
		if err != nil {
			t.Skip(err)
		}
		file := strings.Join(rapid.SliceOfN(name, 1, 5).Draw(t, "name"), "/")
		if !ps.Match(file) {
			return
		}
		for dir := path.Dir(file); ; dir = path.Dir(dir) {
			if !ps.MayContain(dir) {
				t.Fatalf("%q match %q, but MayContain(%q) is false", list, file, dir)
			}
			if dir == "." {
				return
			}
		}
	})
}

func FuzzPatterns(f *testing.F) {
	f.Add("src/**/*.ts", "src/a/b.ts")
	f.Add("!a[!b-c]?", "abc")
	f.Add("**/**", "a/b")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		ps, err := ParsePatterns([]string{pattern})
		if err != nil {
			return
		}
		if ps.Match(name) && !ps.MayContain(path.Dir(name)) && name == path.Clean(name) {
			t.Fatalf("%q matches %q, but MayContain(%q) is false", pattern, name, path.Dir(name))
		}
	})
}
