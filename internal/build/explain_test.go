package build

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

func testOrigins() *Origins {
	d := oci.Digest("sha256:" + strings.Repeat("a", 64))
	at := func(p, typ string, o filetree.Origin) PathOrigin {
		o.Digest = d
		return PathOrigin{Path: p, Type: typ, Mode: "755", Size: 3, SHA256: d, Origin: o}
	}
	link := at("bin", "symlink", filetree.Origin{Kind: filetree.FromGenerated, Name: "base", Note: "merged /usr"})
	link.Link = "usr/bin"
	return &Origins{
		Version: 1, Name: "demo", Zone: oci.Production, Platform: amd64, Image: d, Lock: d, AsOf: day,
		Packages: []project.Package{{Name: "nodejs", Version: "20-1", Arch: "amd64", Source: "nodejs-src", SourceVersion: "20-1", Suite: "trixie", Path: "pool/main/n/node.deb", SHA256: d}},
		Omitted:  []project.OmittedItem{{Name: "openssl", Reason: "the command line program", Needed: "ca-certificates"}, {Name: "perl-base", Reason: "the interpreter of maintainer scripts", Needed: "adduser"}},
		Steps:    []StepRecord{{Step: "compile", Run: []string{"tsc", "-p", "."}, Digest: d, Inputs: manyInputs(20), Packages: []oci.Digest{d}, Tree: "tree", Deps: []oci.Digest{d}}},
		Kept:     []string{"usr/share/doc/kept/**"},
		Paths: []PathOrigin{
			at("app", "folder", filetree.Origin{Kind: filetree.FromGenerated, Name: "folders", Note: "leads to declared files"}),
			at("app/dist/a.js", "file", filetree.Origin{Kind: filetree.FromArtifact, Name: "compile:dist", Path: "dist/a.js"}),
			at("app/node_modules/pino/lib/x.js", "file", filetree.Origin{Kind: filetree.FromModule, Name: "pino", Version: "9.0.0", Path: "lib/x.js"}),
			at("app/node_modules/pino", "folder", filetree.Origin{Kind: filetree.FromModule, Name: "pino", Version: "9.0.0"}),
			at("app/package.json", "file", filetree.Origin{Kind: filetree.FromSource, Name: "package.json"}),
			link,
			at("usr", "folder", filetree.Origin{Kind: filetree.FromPackage, Name: "nodejs", Version: "20-1", Arch: "amd64"}),
			at("usr/bin", "folder", filetree.Origin{Kind: filetree.FromPackage, Name: "nodejs", Version: "20-1", Arch: "amd64"}),
			at("usr/bin/node", "file", filetree.Origin{Kind: filetree.FromPackage, Name: "nodejs", Version: "20-1", Arch: "amd64", Path: "usr/bin/node"}),
		},
	}
}

func manyInputs(n int) []InputFile {
	var out []InputFile
	for i := range n {
		out = append(out, InputFile{Path: fmt.Sprintf("src/%02d.ts", i), SHA256: "sha256:0123456789abcdef"})
	}
	return out
}

// Every question gets an answer of one screen, with what to do about it.
func TestExplain(t *testing.T) {
	o := testOrigins()
	for _, c := range []struct {
		path string
		want []string
	}{
		{"/usr/bin/node", []string{"from        package nodejs 20-1 (amd64)", "source      nodejs-src 20-1", "lock entry  nodejs_20-1_amd64 in trixie, pool/main/n/node.deb", "in the vault"}},
		{"/bin/node", []string{"leads to    /usr/bin/node", "package nodejs"}},
		{"usr/bin/../bin/node", []string{"package nodejs"}},
		{"/bin", []string{"symlink     to usr/bin", "effect base", "merged /usr"}},
		{"/app/dist/a.js", []string{"artifact compile:dist, output file dist/a.js", "step        compile: tsc -p .", "read        src/00.ts", "… and 8 more", "1 locked dependencies"}},
		{"/app/node_modules/pino/lib/x.js", []string{"from        pino@9.0.0, member lib/x.js"}},
		{"/app/package.json", []string{"the project's file package.json"}},
		{"/bin/sh", []string{"/bin/sh is not in the image", "holds no shell", "package dash would bring it"}},
		{"/usr/bin/bash", []string{"holds no shell", "package bash would bring it"}},
		{"apt-get", []string{"no package manager", "package apt"}},
		{"/usr/bin/gcc", []string{"no compiler"}},
		{"/usr/bin/strace", []string{"no debugger", "development image"}},
		{"/usr/bin/openssl", []string{"package openssl is left out of production: the command line program (ca-certificates depends on it)", "command line is a tool"}},
		{"/usr/bin/perl", []string{"package perl-base is left out of production"}},
		{"/etc/shadow", []string{"nobody logs into"}},
		{"/usr/share/doc/nodejs/README", []string{"left out of production: documentation", `production.keep: ["usr/share/doc/nodejs/README"] keeps it`}},
		{"/usr/share/doc/kept/README", []string{"nothing that the project file names brings it"}},
		{"/lib/x86_64-linux-gnu/gconv/UTF-7.so", []string{"character set converters", `["usr/lib/x86_64-linux-gnu/gconv/UTF-7.so"]`}},
		{"/usr/lib/x86_64-linux-gnu/libmvec.so.1", []string{reasonSpare}},
		{"/app/node_modules/pino/test/x.js", []string{reasonTests, "near        /app/node_modules/pino/lib/x.js"}},
		{"/app/node_modules/pino/pino.d.ts", []string{reasonTypes}},
		{"/app/node_modules/other/test/x.js", []string{"nothing that the project file names brings it", "the folder /app is there"}},
		{"/usr/lib/x86_64-linux-gnu/perl-base/strict.pm", []string{"package perl-base is left out of production", "package perl-base would bring it"}},
		{"/opt/thing", []string{"nothing that the project file names brings it", "twinhull explain development /opt/thing"}},
	} {
		var out bytes.Buffer
		Explain(o, c.path, func(oci.Digest) bool { return true }).Write(&out)
		for _, w := range c.want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: no %q in\n%s", c.path, w, out.String())
			}
		}
		if n := strings.Count(out.String(), "\n"); n > 24 {
			t.Errorf("%s: %d lines are more than a screen", c.path, n)
		}
	}
	// A development image keeps everything, and leaves nothing out.
	o.Zone = oci.Development
	if x := Explain(o, "/usr/share/doc/x/README", func(oci.Digest) bool { return false }); strings.Contains(x.Absent, "left out") {
		t.Errorf("%+v", x)
	}
}

// Every rule of trimming gives a reason that explain finds again.
func TestExplainKnowsEveryRule(t *testing.T) {
	o := testOrigins()
	o.Kept = nil
	for _, r := range append(append([]trimRule{}, trimRules...), trimPatterns...) {
		p := strings.NewReplacer("3.*", "3.13", "*", "x").Replace(r.under)
		if r.under != "usr/share/doc" {
			p += "/file"
		} else {
			p += "/x/file"
		}
		x := Explain(o, p, func(oci.Digest) bool { return false })
		if !strings.Contains(x.Absent, r.reason) || !strings.Contains(x.Remedy, "production.keep") {
			t.Errorf("%s: %q, %q", p, x.Absent, x.Remedy)
		}
	}
}

func TestReadOriginsRefuses(t *testing.T) {
	store, err := oci.CreateLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	image, err := store.PutBytes("application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOrigins(store, image.Digest); !errors.Is(err, ErrNoOrigins) {
		t.Errorf("got %v", err)
	}
	o := testOrigins()
	put := func() {
		t.Helper()
		doc, err := store.PutBytes(OriginsType, mustLine(o))
		if err != nil {
			t.Fatal(err)
		}
		if err := putReferrer(store, image, doc); err != nil {
			t.Fatal(err)
		}
	}
	put() // about another image
	if _, err := ReadOrigins(store, image.Digest); err == nil || errors.Is(err, ErrNoOrigins) {
		t.Errorf("got %v", err)
	}
	o.Image = image.Digest
	put() // replaces it
	got, err := ReadOrigins(store, image.Digest)
	if err != nil || len(got.Paths) != len(o.Paths) {
		t.Fatalf("%v", err)
	}
	all, err := AllOrigins(store)
	if err != nil || len(all) != 1 {
		t.Errorf("%d documents, %v", len(all), err)
	}
	o.Version = 2
	put()
	_, err = ReadOrigins(store, image.Digest)
	wantError(t, err, "version 2", "update twinhull")
	// Another kind of document stays beside it.
	other, err := store.PutBytes("application/x", []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if err := putReferrer(store, image, other); err != nil {
		t.Fatal(err)
	}
	o.Version = 1
	put()
	if _, err := ReadOrigins(store, image.Digest); err != nil {
		t.Error(err)
	}
	// Bytes that are not what their digest says.
	for _, d := range []string{"sha256"} {
		dir := store.Dir() + "/blobs/" + d
		names, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			_ = os.Chmod(dir+"/"+n.Name(), 0o644)
			flip(t)(dir + "/" + n.Name())
		}
	}
	if _, err := ReadOrigins(store, image.Digest); err == nil {
		t.Error("damaged blobs were believed")
	}
}

// The document that is written path by path is the one that would be written at
// once.
func TestWriteOrigins(t *testing.T) {
	tree := treeOf(map[string]string{"usr/bin/a": "x:a", "usr/bin/b": "-> a", "usr/bin/c": "=> usr/bin/a", "etc/<&>": "html"})
	o := *testOrigins()
	for _, entries := range [][]*filetree.Entry{nil, tree.Sorted()[:1], tree.Sorted()} {
		var got bytes.Buffer
		if err := writeOrigins(&got, o, entries); err != nil {
			t.Fatal(err)
		}
		want := o
		want.Paths = []PathOrigin{}
		for _, e := range entries {
			want.Paths = append(want.Paths, PathOrigin{Path: e.Path, Type: typeNames[e.Type], Mode: fmt.Sprintf("%o", e.Mode), UID: e.UID, GID: e.GID, Size: e.Size, Link: e.Link, SHA256: e.Digest, Origin: e.Origin})
		}
		if got.String() != string(mustLine(want)) {
			t.Errorf("%d entries:\n%s\n%s", len(entries), got.String(), mustLine(want))
		}
	}
}
