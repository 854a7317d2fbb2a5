package build

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/elfclosure"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

var amd64 = oci.Platform{OS: "linux", Architecture: "amd64"}

const pemOne, pemTwo = "-----BEGIN CERTIFICATE-----\none\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\ntwo\n-----END CERTIFICATE-----\n\n"

func effects(t *testing.T, files map[string]string, s *project.Spec, alts ...alternative) (*filetree.Tree, error) {
	t.Helper()
	tree := treeOf(files)
	if s == nil {
		s = &project.Spec{User: project.User{Name: "app", ID: 1000, GID: 1000, Group: "app"}}
	}
	err := productionEffects(tree, s, amd64, alts, nil, 42)
	if err == nil {
		err = addParents(tree, 42)
	}
	return tree, err
}

func content(tree *filetree.Tree, p string) string {
	e := tree.Resolve(p)
	if e == nil {
		return "(none)"
	}
	return string(e.Content.Data)
}

func TestEffects(t *testing.T) {
	// As bookworm has it: no package brings the links of a merged /usr.
	tree, err := effects(t, map[string]string{
		"usr/bin/x": "x", "usr/lib/y": "y", "usr/lib64/ld.so": "l", "usr/share/zoneinfo/Etc/UTC": "utc",
		"usr/share/ca-certificates/mozilla/b.crt": pemTwo, "usr/share/ca-certificates/mozilla/a.crt": pemOne, "usr/local/share/ca-certificates/corp.crt": pemOne,
		"usr/lib/libblas.so.3.1": "blas",
	}, nil, alternative{link: "/usr/lib/libblas.so.3", name: "libblas.so.3", path: "/usr/lib/libblas.so.3.1", pkg: "libblas3"})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run", "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
		"usr/lib/libblas.so.3": "/etc/alternatives/libblas.so.3", "etc/alternatives/libblas.so.3": "/usr/lib/libblas.so.3.1",
		"usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",
	} {
		if e := tree.Get(p); e == nil || e.Link != want || e.ModTime != 42 {
			t.Errorf("/%s: %+v, want a link to %s", p, e, want)
		}
	}
	for p, want := range map[string]string{
		"etc/passwd":                        "root:x:0:0:root:/root:/usr/sbin/nologin\napp:x:1000:1000::/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"etc/group":                         "root:x:0:\napp:x:1000:\nnogroup:x:65534:\n",
		"etc/ssl/certs/ca-certificates.crt": strings.TrimRight(pemOne, "\n") + "\n" + strings.TrimRight(pemTwo, "\n") + "\n" + pemOne,
		"etc/timezone":                      "Etc/UTC\n",
		"usr/lib/libblas.so.3":              "blas",
		"lib/libblas.so.3":                  "blas",
	} {
		if got := content(tree, p); got != want {
			t.Errorf("/%s:\n%s", p, cmp.Diff(want, got))
		}
	}
	for p, mode := range map[string]int64{"tmp": 0o1777, "var/tmp": 0o1777, "proc": 0o555, "dev": 0o755} {
		if e := tree.Get(p); e == nil || !e.IsDir() || e.Mode != mode {
			t.Errorf("/%s: %+v", p, e)
		}
	}
	if tree.Get("sbin") != nil {
		t.Error("/sbin, although there is no /usr/sbin")
	}
	// As trixie has it: base-files brings the links.
	tree, err = effects(t, map[string]string{"usr/bin/x": "x", "bin": "-> usr/bin"}, nil)
	if err != nil || tree.Get("bin").Origin.Name != "p" {
		t.Errorf("%v %+v", err, tree.Get("bin"))
	}
}

func TestEffectsUsers(t *testing.T) {
	for _, c := range []struct {
		user          project.User
		passwd, group string
	}{
		{project.User{Name: "app", ID: 70000 - 10000, Group: "web", GID: 33, Groups: []int{4, 33, 0, 65534}}, "app:x:60000:33:", "group4:x:4:app\nweb:x:33:\n"},
		{project.User{Name: "nobody", ID: 65534, Group: "nogroup", GID: 65534}, "nobody:x:65534:65534:nobody:", "nogroup:x:65534:\n"},
		{project.User{Name: "nobody", ID: 9, Group: "nogroup", GID: 9}, "nobody:x:9:9:", "nogroup:x:9:\n"},
	} {
		tree, err := effects(t, nil, &project.Spec{User: c.user})
		if err != nil {
			t.Fatal(err)
		}
		passwd, group := content(tree, "etc/passwd"), content(tree, "etc/group")
		if !strings.Contains(passwd, "\n"+c.passwd) || !strings.HasSuffix(group, c.group) && !strings.Contains(group, c.group) {
			t.Errorf("%+v:\n%s%s", c.user, passwd, group)
		}
		names := map[string]bool{}
		for line := range strings.Lines(passwd) {
			name, _, _ := strings.Cut(line, ":")
			if names[name] {
				t.Errorf("%+v: %s twice", c.user, name)
			}
			names[name] = true
		}
	}
}

func TestEffectsWritable(t *testing.T) {
	user := project.User{Name: "app", ID: 7, Group: "app", GID: 8}
	for _, c := range []struct {
		writable, at string
		err          string
	}{
		{"/var/lib/app", "var/lib/app", ""},
		{"/var/run/app", "run/app", ""}, // through the image's link
		{"/lib/app", "usr/lib/app", ""},
		{"/tmp", "tmp", ""},
		{"/data/link/deep", "srv/real/deep", ""},
		{"/data/file", "", "/data/file is not a folder in the image (package p)"},
		{"/data/file/x", "", "/data/file (package p) is no folder"},
		{"/data/loop/x", "", "leads in a circle"},
	} {
		tree, err := effects(t, map[string]string{"usr/lib/x": "x", "data/file": "f", "data/link": "-> ../srv/real", "data/loop": "-> loop"}, &project.Spec{User: user, Writable: []string{c.writable}})
		if c.err != "" {
			wantError(t, err, "production.writable: "+c.writable, c.err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		uid := 7
		if c.at == "tmp" {
			uid = 0
		}
		if e := tree.Get(c.at); e == nil || !e.IsDir() || e.UID != uid {
			t.Errorf("%s: %+v", c.writable, e)
		}
	}
}

func TestEffectsConflict(t *testing.T) {
	own := filetree.Origin{Kind: filetree.FromSource, Name: "conf/x", Digest: "sha256:" + oci.Digest(strings.Repeat("0", 64))}
	for _, p := range []string{"etc/passwd", "etc/group", "etc/ssl/certs/ca-certificates.crt", "etc/alternatives/x"} {
		tree := treeOf(map[string]string{p: "mine", "usr/share/ca-certificates/mozilla/a.crt": pemOne, "usr/bin/y": "y"})
		tree.Get(p).Origin = own
		err := productionEffects(tree, &project.Spec{}, amd64, []alternative{{link: "/usr/bin/x", name: "x", path: "/usr/bin/y"}}, nil, 0)
		wantError(t, err, "/"+p+" is brought by the project (source conf/x)")
		if content(tree, p) != "mine" {
			t.Errorf("/%s was replaced", p)
		}
	}
	// These stand.
	for _, p := range []string{"etc/nsswitch.conf", "etc/localtime"} {
		tree := treeOf(map[string]string{p: "mine", "usr/share/zoneinfo/Etc/UTC": "utc"})
		tree.Get(p).Origin = own
		if err := productionEffects(tree, &project.Spec{}, amd64, nil, nil, 0); err != nil || content(tree, p) != "mine" {
			t.Errorf("/%s: %v", p, err)
		}
	}
	if _, err := effects(t, map[string]string{"usr/share/ca-certificates/mozilla/a.crt": "not PEM"}, nil); err == nil {
		t.Error("a certificate that is none")
	}
}

func TestCheckLinks(t *testing.T) {
	mine := func(p, to string) *filetree.Entry {
		e := entry(p, "-> "+to)
		e.Origin.Kind = filetree.FromArtifact
		return e
	}
	s := &project.Spec{Writable: []string{"/var/lib/app"}}
	for to, ok := range map[string]bool{
		"b": true, "/opt/b": true, "../../../opt/b": true, "/tmp/x": true, "/proc/self/fd/1": true, "/var/lib/app/db": true, "../var/lib/app": true,
		"c": false, "/etc/shadow": false, "../../etc/hostname": false, "/var/lib/apples": false, "a": false, "/root": false,
	} {
		tree := treeOf(map[string]string{"opt/b": "b"})
		tree.Set(mine("opt/a", to))
		if err := checkLinks(tree, s); (err == nil) != ok {
			t.Errorf("%s: %v", to, err)
		}
	}
}

func TestCheckEntrypoint(t *testing.T) {
	tree := treeOf(map[string]string{
		"usr/bin/node": "x:node", "usr/bin/python3": "-> python3.13", "usr/bin/python3.13": "x:py", "usr/bin/plain": "no", "app/dist/server.js": "js", "app/lib/index.js": "js",
		"app/mod/__main__.py": "py", "app/run": "x:#!/usr/bin/node\n", "app/sh": "x:#!/bin/sh\n", "app/env": "x:#!/usr/bin/env node\n", "usr/local/bin/own": "x:own",
	})
	for _, c := range []struct {
		argv []string
		err  string
	}{
		{[]string{"/usr/bin/node", "dist/server.js"}, ""},
		{[]string{"node", "dist/server"}, ""},
		{[]string{"node", "lib"}, ""},
		{[]string{"node", "--inspect", "none.js"}, ""}, // what follows options is not followed
		{[]string{"node"}, ""},
		{[]string{"node", "dist/main.js"}, "would run /app/dist/main.js, which is not in the image"},
		{[]string{"node", "/app/dist"}, "would run /app/dist"},
		{[]string{"node", "/data/plugin.js"}, ""},
		{[]string{"/usr/bin/python3", "-m", "app"}, ""},
		{[]string{"/usr/bin/python3", "mod"}, ""},
		{[]string{"/usr/bin/python3", "app.py"}, "would run /app/app.py"},
		{[]string{"own"}, ""}, {[]string{"./run"}, ""}, {[]string{"/app/env"}, ""},
		{[]string{"/app/sh"}, "is a script for /bin/sh"},
		{[]string{"/usr/bin/plain"}, "not an executable file"},
		{[]string{"/usr/bin"}, "is a folder"},
		{[]string{"bash"}, "bash is not in the image"},
	} {
		err := checkEntrypoint(tree, &project.Spec{Entrypoint: c.argv[:1], Command: c.argv[1:], Workdir: "/app", Writable: []string{"/data"}})
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%v: %v, want %q", c.argv, err, c.err)
		}
	}
}

func library(soname string, needed ...string) *elfFacts {
	return &elfFacts{File: &elfclosure.File{Type: elf.ET_DYN, Machine: elf.EM_X86_64, Class: elf.ELFCLASS64, SONAME: soname, Needed: needed, Dynamic: true}}
}

// Folders of ld.so.conf.d are searched through the cache only.
func TestLibraryCache(t *testing.T) {
	tree := treeOf(map[string]string{
		"etc/ld.so.conf.d/a.conf": "# local\n/usr/local/lib # here\n/lib/x86_64-linux-gnu\n", "etc/ld.so.conf.d/b.conf": "/opt/l\n", "etc/ld.so.conf.d/c": "/opt/no\n",
		"usr/local/lib/liba.so.1": "-> liba.so.1.2", "usr/local/lib/liba.so.1.2": "a", "opt/l/liba.so.1": "second", "opt/l/libb.so": "b", "opt/l/data.so.txt": "t", "opt/no/libc.so": "c",
	})
	all := binaries{"usr/local/lib/liba.so.1.2": library("liba.so.1"), "opt/l/liba.so.1": library("liba.so.1"), "opt/l/libb.so": library(""), "opt/no/libc.so": library("libc.so")}
	want := []cachedLibrary{{"liba.so.1", "/usr/local/lib/liba.so.1"}, {"libb.so", "/opt/l/libb.so"}}
	got := cacheLibraries(tree, amd64, all)
	if d := cmp.Diff(want, got, cmp.AllowUnexported(cachedLibrary{})); d != "" {
		t.Error(d)
	}
	// What needs one is refused without the folder and proved with it.
	tree.Set(entry("usr/bin/app", "x:app"))
	all["usr/bin/app"] = library("", "liba.so.1")
	if _, err := checkELF(tree, amd64, all); err != nil {
		t.Error(err)
	}
	tree.Delete("etc/ld.so.conf.d/a.conf")
	tree.Delete("etc/ld.so.conf.d/b.conf")
	_, err := checkELF(tree, amd64, all)
	all["usr/bin/app"].Interp = "/lib64/ld.so"
	if _, err = checkELF(tree, amd64, all); err == nil {
		t.Error("a library in a folder that nothing searches was found")
	}
}

// The cache as ldconfig reads it, and in the order in which the linker searches.
func TestLdCache(t *testing.T) {
	var libs []cachedLibrary
	for _, n := range []string{"libz.so.1", "liba.so.10", "liba.so.9", "libab.so", "lib-a.so", "liba.so", "libA.so.2", "lib10.so", "lib9.so"} {
		libs = append(libs, cachedLibrary{n, "/usr/local/lib/" + n})
	}
	for _, p := range []oci.Platform{amd64, {OS: "linux", Architecture: "arm64"}} {
		b := ldCache(libs, p)
		if string(b[:20]) != "glibc-ld.so.cache1.1" || binary.LittleEndian.Uint32(b[20:]) != uint32(len(libs)) || len(b) != 48+24*len(libs)+int(binary.LittleEndian.Uint32(b[24:])) {
			t.Fatalf("header %x", b[:48])
		}
		text := func(at int) string {
			o := binary.LittleEndian.Uint32(b[at:])
			s, _, _ := strings.Cut(string(b[o:]), "\x00")
			return s
		}
		var names []string
		for i := range libs {
			names = append(names, text(48+24*i+4))
			if text(48+24*i+8) != "/usr/local/lib/"+names[i] {
				t.Errorf("%s is at %s", names[i], text(48+24*i+8))
			}
		}
		if !slices.IsSortedFunc(names, func(a, b string) int { return compareLibraries(b, a) }) {
			t.Errorf("order %v", names)
		}
		if slices.Index(names, "liba.so.10") > slices.Index(names, "liba.so.9") {
			t.Errorf("numbers by their digits: %v", names)
		}
	}
	ldconfig, err := exec.LookPath("ldconfig")
	if err != nil {
		if ldconfig = "/sbin/ldconfig"; !exists(ldconfig) {
			t.Skip("no ldconfig to ask")
		}
	}
	at := filepath.Join(t.TempDir(), "cache")
	if err := os.WriteFile(at, ldCache(libs, amd64), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(ldconfig, "-p", "-C", at).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "9 libs found") || !strings.Contains(string(out), "liba.so.10 (libc6,x86-64) => /usr/local/lib/liba.so.10") {
		t.Errorf("%v\n%s", err, out)
	}
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

func TestCheckELF(t *testing.T) {
	tree := treeOf(map[string]string{
		"usr/bin/app": "x:", "usr/lib/x86_64-linux-gnu/libc.so.6": "", "usr/lib/jvm/libjvm.so": "", "usr/lib/jvm/libjava.so": "",
		"app/node_modules/n/musl.node": "", "app/node_modules/n/arm.node": "x:", "lib": "-> usr/lib", "opt/tool": "x:", "opt/lib.so": "",
	})
	module := func(p string) {
		tree.Get(p).Origin = filetree.Origin{Kind: filetree.FromModule, Name: "n", Version: "1"}
	}
	module("app/node_modules/n/musl.node")
	module("app/node_modules/n/arm.node")
	mine := func(p string) { tree.Get(p).Origin = filetree.Origin{Kind: filetree.FromArtifact, Name: "compile:out"} }
	mine("opt/tool")
	mine("opt/lib.so")
	libc := library("libc.so.6")
	libc.Defines = []string{"GLIBC_2.36"}
	app := library("", "libc.so.6")
	app.Interp, app.Wants = "/lib64/ld.so", map[string][]string{"libc.so.6": {"GLIBC_2.36", "GLIBC_2.99"}}
	arm := library("")
	arm.Machine = elf.EM_AARCH64
	tool := library("")
	tool.Machine, tool.Interp = elf.EM_AARCH64, "/lib/ld"
	all := binaries{
		"usr/bin/app": app, "usr/lib/x86_64-linux-gnu/libc.so.6": libc, "usr/lib/jvm/libjvm.so": library("libjvm.so"), "usr/lib/jvm/libjava.so": library("libjava.so", "libjvm.so"),
		"app/node_modules/n/musl.node": library("", "libc.musl-x86_64.so.1"), "app/node_modules/n/arm.node": arm, "opt/tool": tool, "opt/lib.so": library("lib.so", "libjvm.so"),
	}
	notes, err := checkELF(tree, amd64, all)
	wantError(t, err,
		"/usr/bin/app (package p): its program interpreter /lib64/ld.so is not in the image",
		"/usr/bin/app (package p): needs version GLIBC_2.99 of libc.so.6, which /usr/lib/x86_64-linux-gnu/libc.so.6 (package p) does not define",
		"/opt/tool (artifact compile:out): is for EM_AARCH64, but the image is for linux/amd64",
		"/opt/lib.so (artifact compile:out): needs libjvm.so, which is not in the image")
	if strings.Contains(err.Error(), "GLIBC_2.36 ") || strings.Contains(err.Error(), "node_modules") || len(notes) != 2 {
		t.Errorf("%v\n%q", err, notes)
	}
}

func TestDropSpare(t *testing.T) {
	for _, needs := range []bool{false, true} {
		tree := treeOf(map[string]string{
			"usr/lib/x86_64-linux-gnu/libmvec.so.1": "m", "usr/lib/x86_64-linux-gnu/libicutu.so.76": "-> libicutu.so.76.1", "usr/lib/x86_64-linux-gnu/libicutu.so.76.1": "t",
			"usr/lib/x86_64-linux-gnu/gconv/A.so": "g", "usr/lib/x86_64-linux-gnu/gconv/gconv-modules": "g", "usr/bin/app": "x:app", "opt/libmvec.so.1": "not where packages put it",
		})
		app := library("", "libc.so.6")
		if needs {
			app = library("", "libmvec.so.1", "libicutu.so.76")
			app.iconv = true
		}
		own := library("libicutu.so.76", "libmvec.so.1") // what is spare itself keeps nothing
		if !needs {
			own = library("libicutu.so.76", "libicutu.so.76")
		}
		c := newComposed()
		c.tree = tree
		dropSpare(c, trimmer{}, binaries{"usr/bin/app": app, "usr/lib/x86_64-linux-gnu/libicutu.so.76.1": own, "libc": {File: &elfclosure.File{SONAME: "libc.so.6"}, iconv: true}})
		for _, p := range []string{"usr/lib/x86_64-linux-gnu/libmvec.so.1", "usr/lib/x86_64-linux-gnu/libicutu.so.76", "usr/lib/x86_64-linux-gnu/libicutu.so.76.1", "usr/lib/x86_64-linux-gnu/gconv/A.so", "usr/lib/x86_64-linux-gnu/gconv/gconv-modules"} {
			if got := tree.Get(p) != nil; got != needs {
				t.Errorf("needed %v: /%s is there: %v", needs, p, got)
			}
		}
		if tree.Get("opt/libmvec.so.1") == nil {
			t.Error("a library of elsewhere went")
		}
	}
}

func TestAddParents(t *testing.T) {
	tree := filetree.NewTree()
	tree.Set(entry("a/b/c", "x"))
	tree.Set(entry("l", "-> a"))
	if err := addParents(tree, 9); err != nil || tree.Get("a/b") == nil || tree.Get("a").ModTime != 9 {
		t.Errorf("%v %+v", err, tree.Get("a"))
	}
	tree.Set(entry("l/x", "x"))
	wantError(t, addParents(tree, 9), "/l/x (package p) lies below /l, which is not a folder (package p)")
}
