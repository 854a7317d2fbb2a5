package npm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// memory is a vault in a folder of the test's.
type memory struct{ dir string }

func (m memory) Open(d oci.Digest) (*os.File, error) {
	return os.Open(filepath.Join(m.dir, d.Encoded()))
}

func (m memory) put(t testing.TB, data []byte) oci.Digest {
	t.Helper()
	d := digest.SHA512.FromBytes(data)
	if err := os.WriteFile(filepath.Join(m.dir, d.Encoded()), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return d
}

func reg(name, data string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), Uname: data}
}

// tgz packs members; a regular file's bytes travel in Uname.
func tgz(t testing.TB, members ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range members {
		data := h.Uname
		h.Uname = ""
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func manifestOf(name, more string) tar.Header {
	return reg("package/package.json", fmt.Sprintf(`{"name":%q,"version":"1.0.0"%s}`, name, more))
}

func TestUnpack(t *testing.T) {
	exec := reg("package/tool.sh", "#!/bin/sh\n")
	exec.Mode = 0o6775
	data := tgz(t,
		tar.Header{Name: "pax_global_header", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}},
		tar.Header{Name: "package/", Typeflag: tar.TypeDir, Mode: 0o700},
		manifestOf("a", `,"bin":{"a":"./cli.js"}`),
		reg("other/lib/x.js", "x"),
		reg("package/cli.js", "#!/usr/bin/env node\r\nline\r\n"),
		exec,
		reg("package/sub/.gitignore", "from git"),
		reg("package/both/.npmignore", "npm"),
		reg("package/both/.gitignore", "git"),
		reg("beside", "dropped"),
		tar.Header{Name: "package/empty/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "package/link", Typeflag: tar.TypeSymlink, Linkname: "cli.js"},
		reg("package/lib/x.js", "again"),
	)
	keep := filepath.Join(t.TempDir(), "keep")
	f, err := os.Create(keep)
	if err != nil {
		t.Fatal(err)
	}
	entries, c, err := Unpack(bytes.NewReader(data), Limits{}, f, keep)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		line := fmt.Sprintf("%c %04o %s", e.Type, e.Mode, e.Path)
		if e.IsReg() && e.Path != "package.json" {
			r, err := e.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(r)
			r.Close()
			if digest.FromBytes(b) != e.Digest {
				t.Errorf("%s: the bytes are not those of its digest", e.Path)
			}
			line += fmt.Sprintf(" %q", b)
		}
		got = append(got, line)
	}
	want := []string{
		"5 0755 both", `0 0644 both/.npmignore "npm"`, `0 0755 cli.js "#!/usr/bin/env node\r\nline\r\n"`, "5 0755 empty",
		"5 0755 lib", `0 0644 lib/x.js "again"`, "0 0644 package.json", "5 0755 sub", `0 0644 sub/.npmignore "from git"`, `0 0755 tool.sh "#!/bin/sh\n"`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	unix := digest.FromString("#!/usr/bin/env node\nline\r\n")
	if s := c.Files["cli.js"]; s.Unix != unix || s.UnixSize != 26 {
		t.Errorf("the repaired first line: %+v, want %s", s, unix)
	}
}

// bomb is a tarball of a few kilobytes that unpacks to 64 MiB.
func bomb(t testing.TB) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "package/zero", Typeflag: tar.TypeReg, Mode: 0o644, Size: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	zero := make([]byte, 1<<20)
	for range 64 {
		w.Write(zero)
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

func TestTarballRefuses(t *testing.T) {
	good := manifestOf("a", "")
	many := []tar.Header{good}
	for i := range 20 {
		many = append(many, reg(fmt.Sprintf("package/%d", i), ""))
	}
	whole := tgz(t, good, reg("package/x", strings.Repeat("random", 1000)))
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"escape", tgz(t, good, reg("package/../../etc/passwd", "x")), "climbs out"},
		{"first component", tgz(t, good, reg("../x", "x")), "climbs out"},
		{"absolute", tgz(t, good, reg("/etc/passwd", "x")), "absolute"},
		{"backslash", tgz(t, good, reg(`package/..\..\x`, "x")), "backslash"},
		{"symlink out", tgz(t, good, tar.Header{Name: "package/l", Typeflag: tar.TypeSymlink, Linkname: "../../x"}), "link out of the package"},
		{"symlink absolute", tgz(t, good, tar.Header{Name: "package/l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}), "link out of the package"},
		{"hard link out", tgz(t, good, tar.Header{Name: "package/l", Typeflag: tar.TypeLink, Linkname: "../x"}), "link out of the package"},
		{"device", tgz(t, good, tar.Header{Name: "package/d", Typeflag: tar.TypeChar, Devmajor: 1}), "neither file, folder nor link"},
		{"fifo", tgz(t, good, tar.Header{Name: "package/d", Typeflag: tar.TypeFifo}), "neither file, folder nor link"},
		{"bomb", bomb(t), "more than 1048576 bytes"},
		{"many", tgz(t, many...), "more than 10 entries"},
		{"long path", tgz(t, good, reg("package/"+strings.Repeat("x", 200), "")), "path of"},
		{"file and folder", tgz(t, good, reg("package/x", "x"), reg("package/x/y", "y")), "both as a file and as a folder"},
		{"no package.json", tgz(t, reg("package/x", "x")), "no package.json"},
		{"package.json is not JSON", tgz(t, reg("package/package.json", "no")), "package.json:1"},
		{"truncated", whole[:len(whole)/2], "damaged"},
		{"not a tarball", []byte("<html>sign in</html>"), "damaged"},
		{"empty", nil, "no package.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Files(bytes.NewReader(c.data), Limits{Bytes: 1 << 20, Files: 10, Path: 100})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestUnpackFullDisk(t *testing.T) {
	_, _, err := Unpack(bytes.NewReader(tgz(t, manifestOf("a", ""), reg("package/x", "xyz"))), Limits{}, failing{}, "x")
	if err == nil || !strings.Contains(err.Error(), "no space") {
		t.Error(err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, fmt.Errorf("no space left on device") }

func FuzzTarball(f *testing.F) {
	f.Add(tgz(f, manifestOf("a", `,"bin":"x"`), reg("package/x", "#!x\r\ny"), reg("package/.gitignore", "")))
	f.Add(tgz(f, manifestOf("a", `,"directories":{"bin":"b"}`), reg("package/b/c", "x"), tar.Header{Name: "package/l", Typeflag: tar.TypeSymlink, Linkname: "b"}))
	var plain bytes.Buffer
	z, _ := gzip.NewReader(bytes.NewReader(tgz(f, manifestOf("a", ""))))
	io.Copy(&plain, z)
	f.Add(plain.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		var keep bytes.Buffer
		entries, c, err := Unpack(bytes.NewReader(data), Limits{Bytes: 1 << 20, Files: 1000, Path: 200}, &keep, "keep")
		if err != nil {
			return
		}
		for _, e := range entries {
			if p, err := filetree.Clean(e.Path); err != nil || p != e.Path || p == "" {
				t.Errorf("path %q", e.Path)
			}
			if e.Mode != 0o755 && (e.Mode != 0o644 || e.IsDir()) {
				t.Errorf("%s has the mode %o", e.Path, e.Mode)
			}
			if !e.IsReg() {
				continue
			}
			b := keep.Bytes()[e.Content.Offset : e.Content.Offset+e.Size]
			if h := sha256.Sum256(b); hexSum(h[:]) != e.Digest {
				t.Errorf("%s: kept bytes are not those of its digest", e.Path)
			}
		}
		if m, err := readManifest(c.Manifest); err == nil {
			m.links(c)
		}
	})
}

// scene is two installed packages: a with a command, s with an install script.
func scene(t *testing.T) (memory, []project.NPMPackage, map[string]*filetree.Entry) {
	v := memory{t.TempDir()}
	native := strings.Repeat("native code ", 10)
	pkgs := []project.NPMPackage{
		{Location: "node_modules/@s/native", Name: "@s/native", Version: "1.0.0", Optional: true,
			Integrity: v.put(t, tgz(t, manifestOf("@s/native", ""), reg("package/bin/run", native)))},
		{Location: "node_modules/a", Name: "a", Version: "1.0.0",
			Integrity: v.put(t, tgz(t, manifestOf("a", `,"bin":"cli.js"`), reg("package/cli.js", "#!/usr/bin/env node\r\ngo()"), reg("package/lib/x.js", "let x = 1"), reg("package/node_modules/inside/i.js", "i")))},
		{Location: "node_modules/s", Name: "s", Version: "1.0.0", Scripts: true,
			Integrity: v.put(t, tgz(t, manifestOf("s", ""), reg("package/install.js", "copy()"), reg("package/run", "placeholder")))},
	}
	var m []*filetree.Entry
	add := func(path, data string) {
		m = append(m, &filetree.Entry{Path: path, Type: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), Content: filetree.Content{Data: []byte(data)}})
	}
	add("node_modules/@s/native/package.json", `{"name":"@s/native","version":"1.0.0"}`)
	add("node_modules/@s/native/bin/run", native)
	add("node_modules/a/package.json", `{"name":"a","version":"1.0.0","bin":"cli.js"}`)
	add("node_modules/a/cli.js", "#!/usr/bin/env node\ngo()")
	add("node_modules/a/lib/x.js", "let x = 1")
	add("node_modules/a/node_modules/inside/i.js", "i")
	add("node_modules/s/package.json", `{"name":"s","version":"1.0.0"}`)
	add("node_modules/s/install.js", "copy()")
	add("node_modules/s/run", native)
	add("node_modules/s/build/made.node", "compiled")
	add("node_modules/.package-lock.json", "{}")
	all := make(map[string]*filetree.Entry)
	for _, e := range m {
		all[e.Path] = e
		for d := filepath.Dir(e.Path); d != "."; d = filepath.Dir(d) {
			all[d] = &filetree.Entry{Path: d, Type: tar.TypeDir, Mode: 0o755}
		}
	}
	all["node_modules/.bin"] = &filetree.Entry{Path: "node_modules/.bin", Type: tar.TypeDir, Mode: 0o755}
	all["node_modules/.bin/a"] = &filetree.Entry{Path: "node_modules/.bin/a", Type: tar.TypeSymlink, Link: "../a/cli.js"}
	return v, pkgs, all
}

func prove(t *testing.T, v Vault, cache string, pkgs []project.NPMPackage, all map[string]*filetree.Entry) *Proof {
	t.Helper()
	var list []*filetree.Entry
	for _, e := range all {
		list = append(list, e)
	}
	p, err := Prove(t.Context(), NewTable(v, cache), pkgs, list)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(p.Origins) + len(p.Scripts) + len(p.Unexplained); n != len(all) {
		t.Errorf("%d paths are accounted for, of %d", n, len(all))
	}
	return p
}

func TestProve(t *testing.T) {
	v, pkgs, all := scene(t)
	cache := filepath.Join(t.TempDir(), "tables")
	for _, run := range []string{"cold", "warm"} {
		p := prove(t, v, cache, pkgs, all)
		for _, u := range p.Unexplained {
			t.Errorf("%s: %s", run, u)
		}
		if len(p.Absent) > 0 {
			t.Errorf("absent: %v", p.Absent)
		}
		for path, want := range map[string]filetree.Origin{
			"node_modules/a/lib/x.js":                 {Kind: filetree.FromModule, Name: "a", Version: "1.0.0", Digest: pkgs[1].Integrity, Path: "package/lib/x.js"},
			"node_modules/a/cli.js":                   {Kind: filetree.FromModule, Name: "a", Version: "1.0.0", Digest: pkgs[1].Integrity, Path: "package/cli.js", Note: "npm removed the carriage return from the command's first line"},
			"node_modules/a/node_modules/inside/i.js": {Kind: filetree.FromModule, Name: "a", Version: "1.0.0", Digest: pkgs[1].Integrity, Path: "package/node_modules/inside/i.js"},
			"node_modules/s/run":                      {Kind: filetree.FromModule, Name: "@s/native", Version: "1.0.0", Digest: pkgs[0].Integrity, Path: "package/bin/run", Note: "put in place by the install script of s@1.0.0"},
			"node_modules/.bin/a":                     {Kind: filetree.FromGenerated, Name: "npm", Note: "link to a command of a@1.0.0"},
		} {
			if p.Origins[path] != want {
				t.Errorf("%s: %s: %+v", run, path, p.Origins[path])
			}
		}
		if m := p.Scripts["node_modules/s/build/made.node"]; m.By != "s@1.0.0" {
			t.Errorf("made by %+v", m)
		}
		// Without the vault, the second run must live from the cache.
		v.dir = t.TempDir()
	}
}

func TestProveRefuses(t *testing.T) {
	file := func(path, data string) *filetree.Entry {
		return &filetree.Entry{Path: path, Type: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), Content: filetree.Content{Data: []byte(data)}}
	}
	link := func(path, to string) *filetree.Entry {
		return &filetree.Entry{Path: path, Type: tar.TypeSymlink, Link: to}
	}
	suid := file("node_modules/a/lib/x.js", "let x = 1")
	suid.Mode = 0o4755
	for _, c := range []struct {
		name string
		e    *filetree.Entry
		want string
	}{
		{"changed byte", file("node_modules/a/lib/x.js", "let x = 2"), "differs from a@1.0.0's lib/x.js: 1 byte changed, at offset 8"},
		{"changed bytes", file("node_modules/a/lib/x.js", "LET x = 1"), "3 bytes changed, the first at offset 0"},
		{"other size", file("node_modules/a/lib/x.js", "let x = 10"), "10 bytes instead of 9"},
		{"carriage return in no command", file("node_modules/a/lib/x.js", "let x = \n"), "differs"},
		{"added", file("node_modules/a/lib/y.js", "new"), "is not in the tarball of a@1.0.0"},
		{"added copy", file("node_modules/a/lib/y.js", "copy()"), "its bytes are those of s@1.0.0's install.js"},
		{"no package", file("node_modules/evil/index.js", "x"), "no locked package"},
		{"outside", file("index.js", "x"), "outside node_modules"},
		{"in .bin", file("node_modules/.bin/sh", "x"), "no locked package"},
		{"suid", suid, "set-user-id"},
		{"device", &filetree.Entry{Path: "node_modules/a/dev", Type: tar.TypeChar}, "neither file"},
		{"link in a package", link("node_modules/a/l", "lib/x.js"), "links in .bin folders only"},
		{"command link out", link("node_modules/.bin/b", "../../../../etc/passwd"), "out of the node_modules"},
		{"command link absolute", link("node_modules/.bin/b", "/bin/sh"), "out of the node_modules"},
		{"command link to another file", link("node_modules/.bin/a", "../a/lib/x.js"), `has no command "a" there`},
		{"hard link to nothing", &filetree.Entry{Path: "node_modules/a/h", Type: tar.TypeLink, Link: "etc/shadow"}, "not installed"},
		{"folder", &filetree.Entry{Path: "node_modules/a/more", Type: tar.TypeDir}, "does not have"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, pkgs, all := scene(t)
			all[c.e.Path] = c.e
			p := prove(t, v, "", pkgs, all)
			found := false
			for _, u := range p.Unexplained {
				found = found || u.Path == c.e.Path && strings.Contains(u.Reason, c.want)
			}
			if !found {
				t.Errorf("want %s: %q, got %v", c.e.Path, c.want, p.Unexplained)
			}
		})
	}
	t.Run("absent", func(t *testing.T) {
		v, pkgs, all := scene(t)
		for p := range all {
			if strings.HasPrefix(p, "node_modules/a") || strings.HasPrefix(p, "node_modules/@s") || strings.HasSuffix(p, ".bin/a") {
				delete(all, p)
			}
		}
		if p := prove(t, v, "", pkgs, all); len(p.Absent) != 1 || p.Absent[0] != "node_modules/a" {
			t.Errorf("absent: %v", p.Absent)
		}
	})
	t.Run("tarball gone", func(t *testing.T) {
		_, pkgs, _ := scene(t)
		if _, err := Prove(t.Context(), NewTable(memory{t.TempDir()}, ""), pkgs, nil); err == nil {
			t.Error("a proof without the tarballs")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		v, pkgs, _ := scene(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Prove(ctx, NewTable(v, ""), pkgs, nil); err == nil {
			t.Error("cancelled, and yet a proof")
		}
	})
}

func TestMirror(t *testing.T) {
	v, pkgs, _ := scene(t)
	pkgs = append(pkgs, project.NPMPackage{Location: "node_modules/other-platform", Name: "other-platform", Version: "1.0.0", Integrity: sriDigest(t, "absent")})
	tool := project.Tool{Name: "npm", Version: "1.0.0", Digest: v.put(t, tgz(t, manifestOf("npm", `,"bin":{"npm":"n.js"}`), reg("package/n.js", "n")))}
	m := NewMirror(NewTable(v, ""), pkgs, []project.Tool{tool, {Name: "go", Version: "1.24.0"}})
	srv := httptest.NewServer(m)
	defer srv.Close()
	do := func(method, path, accept string) (int, http.Header, []byte) {
		t.Helper()
		r, _ := http.NewRequest(method, srv.URL+path, nil)
		r.Header.Set("Accept", accept)
		res, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, res.Header, b
	}
	for _, path := range []string{"/@s%2fnative", "/@s%2Fnative", "/@s/native"} {
		status, h, body := do("GET", path, install+"; q=1.0, application/json; q=0.8, */*")
		var doc struct {
			Tags     map[string]string `json:"dist-tags"`
			Versions map[string]struct {
				Dist struct{ Integrity, Tarball string }
			}
		}
		if err := json.Unmarshal(body, &doc); err != nil || status != 200 || h.Get("Content-Type") != install {
			t.Fatalf("%s: %d %s %v", path, status, body, err)
		}
		d := doc.Versions["1.0.0"].Dist
		if doc.Tags["latest"] != "1.0.0" || d.Integrity != Integrity(pkgs[0].Integrity) || d.Tarball != srv.URL+"/@s/native/-/native-1.0.0.tgz" {
			t.Errorf("%s: %s", path, body)
		}
	}
	if status, _, body := do("GET", "/@s/native/-/native-1.0.0.tgz", ""); status != 200 || digest.SHA512.FromBytes(body) != pkgs[0].Integrity {
		t.Errorf("tarball: %d", status)
	}
	if status, _, body := do("GET", "/s/latest", ""); status != 200 || !strings.Contains(string(body), `"hasInstallScript":true`) {
		t.Errorf("latest: %d %s", status, body)
	}
	if status, _, _ := do("HEAD", "/npm/-/npm-1.0.0.tgz", ""); status != 200 {
		t.Errorf("tool: %d", status)
	}
	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/left-pad", 404, "left-pad is not in the lock"},
		{"GET", "/@s/other", 404, "@s/other is not in the lock"},
		{"GET", "/a/2.0.0", 404, "a@2.0.0 is not in the lock: it has a 1.0.0"},
		{"GET", "/a/-/a-2.0.0.tgz", 404, "a-2.0.0.tgz is not in the lock"},
		{"GET", "/a/-/../../secret", 404, "is not in the lock"},
		{"GET", "/other-platform", 404, "no tarball of it was fetched"},
		{"GET", "/other-platform/-/other-platform-1.0.0.tgz", 404, "no such file"},
		{"GET", "/go", 404, "not in the lock"},
		{"GET", "/", 404, "not in the lock"},
		{"GET", "/-/ping", 404, "not in the lock"},
		{"GET", "/a/-/..%2f..%2f..%2fetc%2fpasswd", 404, "not in the lock"},
		{"POST", "/-/npm/v1/security/advisories/bulk", 404, "takes nothing"},
		{"PUT", "/a", 405, "takes nothing"},
	} {
		status, h, body := do(c.method, c.path, "")
		var e struct{ Error string }
		if json.Unmarshal(body, &e) != nil || status != c.status || !strings.Contains(e.Error, c.want) || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d %s, want %d %q", c.method, c.path, status, body, c.status, c.want)
		}
	}
	rec := m.Record()
	if strings.Join(rec.Served, " ") != "@s/native@1.0.0 npm@1.0.0" || len(rec.Refused) < 10 {
		t.Errorf("%+v", rec)
	}
}

func TestToolTree(t *testing.T) {
	data := tgz(t, reg("package/package.json", `{"name":"npm","version":"10.9.2","bin":{"npm":"bin/npm-cli.js"}}`), reg("package/bin/npm-cli.js", "#!/usr/bin/env node\n"))
	tool := project.Tool{Name: "npm", Version: "10.9.2", Digest: digest.SHA512.FromBytes(data)}
	entries, err := ToolTree(tool, bytes.NewReader(data), io.Discard, "keep")
	if err != nil {
		t.Fatal(err)
	}
	tree := filetree.NewTree()
	for _, e := range entries {
		if e.Origin.Kind == "" {
			t.Errorf("%s has no origin", e.Path)
		}
		tree.Set(e)
	}
	if e := tree.Resolve("usr/local/bin/npm"); e == nil || e.Path != "usr/local/lib/node_modules/npm/bin/npm-cli.js" || e.Mode != 0o755 || e.Origin.Path != "package/bin/npm-cli.js" {
		t.Errorf("%+v", e)
	}
	tool.Version = "10.9.3"
	if _, err := ToolTree(tool, bytes.NewReader(data), io.Discard, "keep"); err == nil {
		t.Error("a tarball of another version was taken")
	}
}

func TestNormaliseHiddenLock(t *testing.T) {
	a, errA := NormaliseHiddenLock([]byte(`{"packages":{"node_modules/a":{"version":"1","resolved":"http://127.0.0.1:1/a.tgz"}}}`))
	b, errB := NormaliseHiddenLock([]byte(`{"packages":{"node_modules/a":{"resolved":"http://127.0.0.1:2/a.tgz","version":"1"}}}`))
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("%s %s %v %v", a, b, errA, errB)
	}
}
