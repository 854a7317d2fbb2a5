package build

import (
	"archive/tar"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/filetree"
)

func TestTrimReason(t *testing.T) {
	for _, c := range []struct {
		path string
		typ  byte
		want string // "" stays
	}{
		{"usr/share/doc/libfoo/README", tar.TypeReg, reasonDocs},
		{"usr/share/doc/libfoo1.2/copyright", tar.TypeReg, ""},
		{"usr/share/doc/libfoo1.2", tar.TypeDir, ""},
		{"usr/share/doc/libfoo/NOTICE.gz", tar.TypeReg, ""},
		{"usr/share/doc/libfoo", tar.TypeSymlink, ""},
		{"usr/share/doc/libfoo/examples/a", tar.TypeReg, reasonDocs},
		{"usr/share/documentation", tar.TypeReg, ""},
		{"usr/share/man", tar.TypeDir, "manuals"},
		{"usr/share/manifest", tar.TypeReg, ""},
		{"usr/share/man/man1/ls.1.gz", tar.TypeReg, "manuals"},
		{"usr/lib/x86_64-linux-gnu/libfoo.a", tar.TypeReg, "static libraries"},
		{"usr/lib/x86_64-linux-gnu/libfoo.so.1", tar.TypeReg, ""},
		{"usr/lib/python3.13/test/support/x.py", tar.TypeReg, reasonTests},
		{"usr/lib/python3.13/unittest/case.py", tar.TypeReg, ""},
		{"usr/lib/python3/dist-packages/numpy/tests/test_x.py", tar.TypeReg, ""},
		{"usr/lib/python3/dist-packages/numpy/__init__.pyi", tar.TypeReg, "type declarations"},
		{"usr/lib/python3/dist-packages/a/__pycache__/x.pyc", tar.TypeReg, "caches"},
		{"usr/share/nodejs/@types/node/fs.d.ts", tar.TypeReg, reasonTypes},
		{"usr/share/nodejs/@types/node/package.json", tar.TypeReg, reasonTypes},
		{"usr/share/nodejs/@types/node", tar.TypeDir, reasonTypes},
		{"usr/share/nodejs/undici/index.d.ts", tar.TypeReg, reasonTypes},
		{"usr/share/nodejs/undici/index.js", tar.TypeReg, ""},
		{"usr/share/nodejs/undici/index.js.map", tar.TypeReg, reasonMaps},
		{"usr/share/nodejs/undici/README.md", tar.TypeReg, reasonDocs},
		{"usr/share/nodejs/undici/lib/README.md", tar.TypeReg, ""},
		{"usr/share/nodejs/undici/LICENSE.md", tar.TypeReg, ""},
		{"usr/share/nodejs/typescript/lib/lib.d.ts", tar.TypeReg, ""},
		{"usr/share/nodejs/a/node_modules/b/x.d.ts", tar.TypeReg, reasonTypes},
		{"etc/ssl/openssl.cnf", tar.TypeReg, ""},
	} {
		if got := trimReason(&filetree.Entry{Path: c.path, Type: c.typ}); got != c.want {
			t.Errorf("%s: %q, want %q", c.path, got, c.want)
		}
	}
}

func TestKeep(t *testing.T) {
	trim, err := newTrimmer([]string{"usr/share/doc/libfoo/**", "!usr/share/doc/libfoo/*.gz", "usr/lib/*/gconv", "app/node_modules/pino/test"})
	if err != nil {
		t.Fatal(err)
	}
	for p, stays := range map[string]bool{
		"usr/share/doc/libfoo/README": true, "usr/share/doc/libfoo/x.gz": false, "usr/share/doc/bar/README": false, "usr/share/man/man1/x": false,
	} {
		if got := trim.reason(&filetree.Entry{Path: p, Type: tar.TypeReg}) == ""; got != stays {
			t.Errorf("%s stays: %v, want %v", p, got, stays)
		}
	}
	if !trim.kept("usr/lib/x86_64-linux-gnu/gconv/UTF-7.so", false) || !trim.kept("app/node_modules", true) || trim.kept("app/node_modules", false) {
		t.Error("patterns with wildcards or folders")
	}
	if _, err := newTrimmer([]string{"/usr"}); err == nil || !strings.Contains(err.Error(), "production.keep") {
		t.Errorf("got %v", err)
	}
}

func TestTrimModules(t *testing.T) {
	files := map[string]string{
		"app/node_modules":                              "/",
		"app/node_modules/a":                            "/",
		"app/node_modules/a/package.json":               `{"main":"index.js"}`,
		"app/node_modules/a/index.js":                   "module.exports = 'a test of ./tests'",
		"app/node_modules/a/index.d.ts":                 "x",
		"app/node_modules/a/test":                       "/",
		"app/node_modules/a/test/a.js":                  "x",
		"app/node_modules/a/lib/test/kept.js":           "only folders of the package itself go",
		"app/node_modules/b/package.json":               `{"exports":{"./t":"./test/index.js"},"scripts":{"x":"mocha"}}`,
		"app/node_modules/b/test/index.js":              "named by the manifest",
		"app/node_modules/c/package.json":               `{"scripts":{"test":"node test/run.js"},"files":["test/"]}`,
		"app/node_modules/c/lib/main.js":                "require('../test/fixture')",
		"app/node_modules/c/test/fixture.js":            "named by the code",
		"app/node_modules/@s/d/package.json":            `{"scripts":{"test":"node test/run.js"},"files":["test/"]}`,
		"app/node_modules/@s/d/tests/run.js":            "x",
		"app/node_modules/@s/d/README.md":               "x",
		"app/node_modules/@s/d/node_modules/e/test/x":   "x",
		"app/node_modules/@s/d/node_modules/e/index.js": "x",
		"app/node_modules/f/package.json":               "not JSON",
		"app/node_modules/f/test/x.js":                  "x",
		"app/node_modules/@types/g/index.d.ts":          "x",
		"app/node_modules/.bin/a":                       "-> ../a/index.js",
		"app/node_modules/test/index.js":                "a package of that name",
		"app/node_modules/keep/test/x.js":               "x",
	}
	var entries []*filetree.Entry
	for _, p := range sortedKeys(files) {
		entries = append(entries, entry(p, files[p]))
	}
	trim, err := newTrimmer([]string{"app/node_modules/keep/test"})
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]string{}
	out, err := trim.trimModules(entries, func(reason string, e *filetree.Entry) { left[e.Path] = reason })
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"app/node_modules/a/index.d.ts": reasonTypes, "app/node_modules/a/test": reasonTests, "app/node_modules/a/test/a.js": reasonTests,
		"app/node_modules/@s/d/tests/run.js": reasonTests, "app/node_modules/@s/d/README.md": reasonDocs,
		"app/node_modules/@s/d/node_modules/e/test/x": reasonTests, "app/node_modules/@types/g/index.d.ts": reasonTypes,
	}
	// A folder "test" that only the manifest's scripts name goes with them.
	if d := cmp.Diff(want, left); d != "" {
		t.Error(d)
	}
	if len(out)+len(left) != len(entries) {
		t.Errorf("%d stay, %d go, of %d", len(out), len(left), len(entries))
	}
}

func TestSplitModule(t *testing.T) {
	for rel, want := range map[string][2]string{
		"a/x/y": {"a", "x/y"}, "@s/a/x": {"@s/a", "x"}, "a": {"a", ""}, "@s": {"@s", ""}, "@s/a": {"@s/a", ""},
		"node_modules/a/x": {"a", "x"}, "node_modules/a/node_modules/@s/b/c": {"@s/b", "c"}, "": {"", ""},
	} {
		name, inside, root := splitModule(rel)
		if name != want[0] || inside != want[1] || root > len(rel) || !strings.HasSuffix(rel[:root], name) {
			t.Errorf("%q: %q %q %d", rel, name, inside, root)
		}
	}
}

// packages lays out test packages as production does.
func packages(t *testing.T, pkgs ...pkg) []unpacked {
	t.Helper()
	w := newWorld(t, nil, nil)
	var out []unpacked
	for _, p := range pkgs {
		out = append(out, w.unpack(p))
	}
	return out
}

func TestPackageTree(t *testing.T) {
	pkgs := packages(t,
		pkg{name: "tools", files: map[string]string{
			"usr/bin/perl-tool": "x:#!/usr/bin/perl\n", "usr/bin/hard": "=> usr/bin/perl-tool", "usr/bin/soft": "-> perl-tool", "usr/bin/softer": "-> soft",
			"usr/bin/env-tool": "x:#!/usr/bin/env -S perl -w\n", "usr/bin/wrapped": "x:#!/usr/bin/perl-tool\n", "usr/bin/program": "x:\x7fELFnot", "usr/bin/kept": "x:#!/usr/bin/perl\n",
			"usr/lib/python3/dist-packages/m.py": "x:#!/usr/bin/env python\n", "usr/lib/tools/helper": "x:#!/bin/sh\n", "usr/bin/node-tool": "x:#!/usr/bin/env node\n",
		}},
		pkg{name: "node", files: map[string]string{"usr/bin/node": "x:node"}},
		pkg{name: "docs", files: map[string]string{
			"usr/share/man/man1/a.1": "a page", "usr/share/man/man1/b.1": "=> usr/share/man/man1/a.1", "usr/share/a-first": "=> usr/share/man/man1/a.1", "usr/share/b-second": "=> usr/share/man/man1/a.1",
			"usr/share/doc/docs/copyright": "free", "usr/share/doc/docs/README": "x", "usr/share/doc/elsewhere": "-> nowhere", "usr/share/doc/same": "-> docs", "usr/share/doc/only-text/README": "x",
			"usr/share/empty/x": "-> y", "var/lib/docs/": "",
		}},
	)
	b := &Builder{lock: lockOf(day)}
	trim, err := newTrimmer([]string{"usr/bin/kept"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.packageTree(pkgs, trim)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range c.tree.Sorted() {
		if !e.IsDir() {
			got = append(got, e.Path)
		}
	}
	want := []string{
		"usr/bin/kept", "usr/bin/node", "usr/bin/node-tool", "usr/bin/program", "usr/lib/python3/dist-packages/m.py",
		"usr/share/a-first", "usr/share/b-second", "usr/share/doc/docs/copyright", "usr/share/doc/same", "usr/share/empty/x",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if first, second := c.tree.Get("usr/share/a-first"), c.tree.Get("usr/share/b-second"); first.Type != tar.TypeReg || first.Size != 6 || second.Link != "usr/share/a-first" {
		t.Errorf("hard links: %+v %+v", first, second)
	}
	for _, p := range []string{"usr/share/man", "usr/share/doc/only-text"} {
		if c.tree.Get(p) != nil {
			t.Errorf("/%s is there, and empty", p)
		}
	}
	for _, l := range c.leftOut() {
		if l.Reason == reasonScripts && l.Files != 7 {
			t.Errorf("%+v", l)
		}
	}
	if !slices.IsSortedFunc(c.leftOut(), func(a, b LeftOut) int { return strings.Compare(a.Reason, b.Reason) }) {
		t.Error("what is left out is in no order")
	}
}
