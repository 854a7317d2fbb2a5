package build

import (
	"testing"

	"twinhull.dev/twinhull/internal/filetree"
)

func TestMergePackages(t *testing.T) {
	for _, c := range []struct {
		name string
		pkgs []pkg
		want map[string]string // path → package
		err  string
	}{
		{"apart", []pkg{{name: "aa", files: map[string]string{"usr/a": "a"}}, {name: "bb", files: map[string]string{"usr/b": "b"}}}, map[string]string{"usr": "aa", "usr/a": "aa", "usr/b": "bb"}, ""},
		{"clash", []pkg{{name: "aa", files: map[string]string{"usr/x": "a"}}, {name: "bb", files: map[string]string{"usr/x": "b"}}}, nil, "packages aa and bb both ship /usr/x"},
		{"same bytes", []pkg{{name: "aa", files: map[string]string{"usr/x": "a"}}, {name: "bb", files: map[string]string{"usr/x": "a"}}}, map[string]string{"usr/x": "aa"}, ""},
		{"replaces", []pkg{{name: "aa", files: map[string]string{"usr/x": "a"}}, {name: "bb", fields: "Replaces: zz, aa (<< 2)\n", files: map[string]string{"usr/x": "b"}}}, map[string]string{"usr/x": "bb"}, ""},
		{"is replaced", []pkg{{name: "aa", fields: "Replaces: bb:any\n", files: map[string]string{"usr/x": "a"}}, {name: "bb", files: map[string]string{"usr/x": "b"}}}, map[string]string{"usr/x": "aa"}, ""},
		{"link and file", []pkg{{name: "aa", files: map[string]string{"usr/x": "-> y"}}, {name: "bb", files: map[string]string{"usr/x": "b"}}}, nil, "both ship /usr/x"},
		{"file and folder", []pkg{{name: "aa", files: map[string]string{"usr/x": "a"}}, {name: "bb", files: map[string]string{"usr/x/y": "b"}}}, nil, "both ship /usr/x"},
		{"merged", []pkg{{name: "aa", files: map[string]string{"bin/x": "a"}}, {name: "bb", files: map[string]string{"usr/bin/y": "b"}}}, map[string]string{"usr/bin/x": "aa", "usr/bin/y": "bb"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree, err := mergePackages(packages(t, c.pkgs...))
			if c.err != "" {
				wantError(t, err, c.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for p, name := range c.want {
				if e := tree.Get(p); e == nil || e.Origin.Name != name {
					t.Errorf("/%s: %+v, want it from %s", p, e, name)
				}
			}
		})
	}
}

func TestApplyUpper(t *testing.T) {
	base := treeOf(map[string]string{
		"etc/kept": "k", "etc/changed": "old", "etc/deleted": "d", "gone/a/b": "x", "opaque/old": "x", "opaque/again/x": "x", "file": "a file", "dir/x": "x", "link": "-> etc",
	})
	up := func(p, data string) upperEntry { return upperEntry{Entry: *entry(p, data)} }
	del := func(p string) upperEntry { return upperEntry{Entry: filetree.Entry{Path: p}, Deleted: true} }
	opaque := up("opaque", "/")
	opaque.Opaque = true
	changed := []upperEntry{
		up("dir", "now a file"), del("etc/deleted"), up("etc/changed", "new"), up("etc/made", "m"), up("file", "/"), up("file/in", "in"),
		del("gone"), opaque, up("opaque/again", "/"), up("opaque/new", "n"),
	}
	applyUpper(base, changed, nil)
	got := map[string]string{}
	for _, e := range base.Sorted() {
		if e.IsReg() {
			got[e.Path] = string(e.Content.Data)
		}
	}
	want := map[string]string{"etc/kept": "k", "etc/changed": "new", "etc/made": "m", "file/in": "in", "opaque/new": "n", "dir": "now a file"}
	for p, data := range want {
		if got[p] != data {
			t.Errorf("/%s: %q, want %q", p, got[p], data)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	if base.Get("gone/a") != nil || base.Get("dir/x") != nil || !base.Get("file").IsDir() {
		t.Error("what was below a deleted or replaced folder is there")
	}
}

func TestBelow(t *testing.T) {
	b := &root{shipped: treeOf(map[string]string{"usr/same": "s", "usr/changed": "old", "usr/lib/x": "x", "usr/first": "f"})}
	tree := treeOf(map[string]string{"usr/same": "s", "usr/changed": "new", "usr/lib/x": "x", "usr/lib/y/z": "z", "usr/first": "f", "usr/second": "=> usr/first"})
	var got []string
	for _, e := range below(tree, b) {
		got = append(got, e.Path)
	}
	want := []string{"usr", "usr/changed", "usr/first", "usr/lib", "usr/lib/y", "usr/lib/y/z", "usr/second"}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if n := len(below(tree, nil)); n != tree.Len() {
		t.Errorf("without a base %d of %d", n, tree.Len())
	}
}
