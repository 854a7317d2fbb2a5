package gomod

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/mod/module"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

func h1(s string) string {
	return "h1:" + base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf("%-32.32s", s)))
}

func TestRead(t *testing.T) {
	gomod := `module example.com/app
go 1.24.0
toolchain go1.24.3
require example.com/a v1.0.0
require example.com/local v0.0.0
require example.com/old v1.0.0
replace example.com/local => ./local
replace example.com/old => example.com/New v1.1.0
`
	gosum := "example.com/a v1.0.0 " + h1("az") + "\nexample.com/a v1.0.0/go.mod " + h1("am") +
		"\n\nexample.com/New v1.1.0 " + h1("nz") + "\nexample.com/New v1.1.0/go.mod " + h1("nm") +
		"\nexample.com/b v0.0.0-20200101000000-0123456789ab/go.mod " + h1("bm") +
		"\ngolang.org/toolchain v0.0.1-go1.24.3.linux-amd64 " + h1("tz") + "\n"
	m, err := Read([]byte(gomod), []byte(gosum))
	if err != nil {
		t.Fatal(err)
	}
	want := &Module{Path: "example.com/app", Go: "1.24.0", Toolchain: "go1.24.3", Sums: []Sum{
		{"example.com/New", "v1.1.0", h1("nz"), h1("nm")},
		{"example.com/a", "v1.0.0", h1("az"), h1("am")},
		{"example.com/b", "v0.0.0-20200101000000-0123456789ab", "", h1("bm")},
	}, Toolchains: map[string]string{"v0.0.1-go1.24.3.linux-amd64": h1("tz")}}
	if d := cmp.Diff(want, m); d != "" {
		t.Error(d)
	}
}

func TestReadRefuses(t *testing.T) {
	const mod = "module example.com/app\n"
	for _, c := range []struct{ name, mod, sum, want string }{
		{"no module", "go 1.24\n", "", "no module line"},
		{"bad go.mod", "modul x\n", "", "go.mod:1"},
		{"words", mod, "example.com/a v1.0.0\n", "go.sum:1: want a module path"},
		{"algorithm", mod, "\nexample.com/a v1.0.0 h2:" + h1("a")[3:] + "\n", `go.sum:2: example.com/a@v1.0.0: hash algorithm "h2"`},
		{"sha256", mod, "example.com/a v1.0.0 sha256:00\n", "want h1"},
		{"damaged", mod, "example.com/a v1.0.0 h1:AAAA\n", "damaged"},
		{"two hashes", mod, "example.com/a v1.0.0/go.mod " + h1("a") + "\nexample.com/a v1.0.0/go.mod " + h1("b") + "\n", "second, different hash"},
		{"escape", mod, "../../etc v1.0.0 " + h1("a") + "\n", "go.sum:1: malformed module path"},
		{"version", mod, "example.com/a v1 " + h1("a") + "\n", "go.sum:1"},
		{"major", mod, "example.com/a/v2 v1.0.0 " + h1("a") + "\n", "go.sum:1"},
		{"zip without go.mod", mod, "example.com/a v1.0.0 " + h1("a") + "\n", "no hash of the go.mod of example.com/a@v1.0.0"},
		{"stale", mod + "require example.com/a v1.0.0\n", "", "stale"},
		{"many lines", mod, strings.Repeat("\n", maxLines+1), "more than"},
	} {
		if _, err := Read([]byte(c.mod), []byte(c.sum)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestToolchainPin(t *testing.T) {
	for _, c := range []struct{ goLine, toolchain, want, by string }{
		{"1.24.2", "", "1.24.2", "go.mod go"},
		{"1.24", "", "1.24.0", "go.mod go"},
		{"1.21", "", "1.21.0", "go.mod go"},
		{"1.20", "", "1.20", "go.mod go"},
		{"1.25rc1", "", "1.25rc1", "go.mod go"},
		{"1.24", "go1.24.3", "1.24.3", "go.mod toolchain"},
		{"1.24.5", "go1.24.3", "1.24.5", "go.mod go"},
		{"1.24.1", "default", "1.24.1", "go.mod go"},
		{"", "go1.24.3", "1.24.3", "go.mod toolchain"},
		{"", "", "", ""},
		{"1.24", "go1.24.3-custom", "error", ""},
		{"x", "", "error", ""},
	} {
		pin, ok, err := (&Module{Go: c.goLine, Toolchain: c.toolchain}).ToolchainPin()
		switch {
		case c.want == "error":
			if err == nil {
				t.Errorf("%+v: accepted as %+v", c, pin)
			}
		case err != nil || ok != (c.want != "") || pin.Version != c.want || pin.PinnedBy != c.by:
			t.Errorf("%+v: %+v %v %v", c, pin, ok, err)
		}
	}
}

func TestParseProxies(t *testing.T) {
	p, err := ParseProxies("https://a.example/x/,http://b.example|direct,https://never.example")
	want := Proxies{{"https://a.example/x", false}, {"http://b.example", true}, {"direct", false}}
	if err != nil || cmp.Diff(want, p) != "" {
		t.Errorf("%v %v", p, err)
	}
	for _, bad := range []string{"", ",", "file:///tmp", "a.example", "://"} {
		if _, err := ParseProxies(bad); err == nil {
			t.Errorf("ParseProxies(%q) accepts", bad)
		}
	}
}

// memory is a vault in a folder of the test's.
type memory struct{ dir string }

func (m memory) Open(d oci.Digest) (*os.File, error) {
	return os.Open(filepath.Join(m.dir, d.Encoded()))
}
func (m memory) put(data []byte) (oci.Digest, error) {
	d := digest.FromBytes(data)
	return d, os.WriteFile(filepath.Join(m.dir, d.Encoded()), data, 0o644)
}

type file struct{ name, data string }

func zipOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		m, err := w.CreateHeader(&zip.FileHeader{Name: f.name, Method: zip.Deflate})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(m, f.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func hashOf(t testing.TB, v module.Version, data []byte) string {
	t.Helper()
	h, err := hashZip(v, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestZipRefuses(t *testing.T) {
	v := module.Version{Path: "example.com/a", Version: "v1.0.0"}
	const p = "example.com/a@v1.0.0/"
	// A member whose header says 3 bytes and whose stream holds 10 MB.
	lying := zipOf(t, file{p + "x", strings.Repeat("0", 10<<20)})
	patchSizes(t, lying, 10<<20, 3)
	huge := zipOf(t, file{p + "x", "abc"})
	patchSizes(t, huge, 3, 600<<20)
	symlink := func() []byte {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		h := &zip.FileHeader{Name: p + "l"}
		h.SetMode(fs.ModeSymlink | 0o777)
		m, _ := w.CreateHeader(h)
		io.WriteString(m, "/etc/passwd")
		w.Close()
		return b.Bytes()
	}()
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"dot dot", zipOf(t, file{p + "../../x", "x"}), "zip of example.com/a@v1.0.0"},
		{"other prefix", zipOf(t, file{"example.com/b@v1.0.0/x", "x"}), "not below"},
		{"absolute", zipOf(t, file{"/etc/passwd", "x"}), "not below"},
		{"duplicate", zipOf(t, file{p + "x", "1"}, file{p + "x", "2"}), "one name"},
		{"duplicate by case", zipOf(t, file{p + "x", "1"}, file{p + "X", "2"}), "one name"},
		{"symlink", symlink, "not a regular file"},
		{"reserved", zipOf(t, file{p + "a:b", "1"}), "zip of"},
		{"bomb", lying, "damaged"},
		{"declared huge", huge, "unpacks to more than"},
		{"truncated", zipOf(t, file{p + "x", "abc"})[:30], "damaged"},
		{"not a zip", []byte("<html>"), "damaged"},
	} {
		_, err := hashZip(v, bytes.NewReader(c.data), int64(len(c.data)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := openZip(v, bytes.NewReader(nil), 1<<40); err == nil {
		t.Error("a zip of a terabyte was opened")
	}
}

// patchSizes changes the uncompressed size in the zip's central directory.
func patchSizes(t *testing.T, data []byte, from, to uint32) {
	t.Helper()
	i := bytes.LastIndex(data, []byte("PK\x01\x02"))
	if i < 0 {
		t.Fatal("no central directory")
	}
	at := data[i+24:]
	if got := uint32(at[0]) | uint32(at[1])<<8 | uint32(at[2])<<16 | uint32(at[3])<<24; got != from {
		t.Fatalf("size %d, want %d", got, from)
	}
	for k := range 4 {
		at[k] = byte(to >> (8 * k))
	}
}

// proxy is a module proxy in memory.
func proxy(files map[string][]byte) Get {
	return func(_ context.Context, url string) ([]byte, error) {
		if strings.HasPrefix(url, "http://broken.example/") {
			return nil, errors.New("503 Service Unavailable")
		}
		if b, ok := files[url]; ok {
			return b, nil
		}
		return nil, fmt.Errorf("%s: %w", url, fs.ErrNotExist)
	}
}

func TestLock(t *testing.T) {
	v := memory{t.TempDir()}
	mod := []byte("module example.com/A\n")
	modSum, _ := hashMod(mod)
	mv := module.Version{Path: "example.com/A", Version: "v1.0.0"}
	z := zipOf(t, file{"example.com/A@v1.0.0/go.mod", string(mod)}, file{"example.com/A@v1.0.0/a.go", "package a"})
	files := map[string][]byte{
		"http://p.example/example.com/!a/@v/v1.0.0.mod":    mod,
		"http://p.example/example.com/!a/@v/v1.0.0.zip":    z,
		"http://evil.example/example.com/!a/@v/v1.0.0.mod": []byte("module evil\n"),
		"http://evil.example/example.com/!a/@v/v1.0.0.zip": z,
		"http://swap.example/example.com/!a/@v/v1.0.0.mod": mod,
		"http://swap.example/example.com/!a/@v/v1.0.0.zip": zipOf(t, file{"example.com/A@v1.0.0/a.go", "package evil"}),
	}
	sums := []Sum{{"example.com/A", "v1.0.0", hashOf(t, mv, z), modSum}, {"example.com/A", "v1.0.0", "", modSum}}
	want := project.GoModule{Path: "example.com/A", Version: "v1.0.0", Sum: sums[0].Zip, ModSum: modSum, Zip: digest.FromBytes(z), Mod: digest.FromBytes(mod)}
	for list, reason := range map[string]string{
		"http://p.example":                       "",
		"http://empty.example,http://p.example":  "",
		"http://broken.example|http://p.example": "",
		"http://p.example,direct":                "",
		"http://broken.example,http://p.example": "503",
		"http://empty.example,direct":            "version control",
		"off":                                    "GOPROXY is off",
		"http://empty.example":                   "no module proxy gives it",
		"http://evil.example":                    "but go.sum says",
		"http://swap.example":                    "zip of example.com/A@v1.0.0 has the hash",
	} {
		proxies, err := ParseProxies(list)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Lock(t.Context(), proxy(files), proxies, v.put, sums)
		if reason != "" {
			if err == nil || !strings.Contains(err.Error(), reason) {
				t.Errorf("%s: %v, want %q", list, err, reason)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", list, err)
			continue
		}
		if got[0] != want || got[1].Zip != "" || got[1].Mod != want.Mod {
			t.Errorf("%s: %+v", list, got)
		}
	}
	proxies, _ := ParseProxies("http://p.example,http://q.example|direct")
	items, err := Items(proxies, []project.GoModule{want})
	if err != nil || len(items) != 2 || items[1].URLs[1] != "http://q.example/example.com/!a/@v/v1.0.0.zip" || len(items[1].URLs) != 2 {
		t.Errorf("%+v %v", items, err)
	}
}

// TestLockManyAtOnce is for the race detector, and for the order.
func TestLockManyAtOnce(t *testing.T) {
	files := make(map[string][]byte)
	var sums []Sum
	for i := range 50 {
		mod := fmt.Appendf(nil, "module example.com/m%02d\n", i)
		files[fmt.Sprintf("http://p.example/example.com/m%02d/@v/v1.0.0.mod", i)] = mod
		h, _ := hashMod(mod)
		sums = append(sums, Sum{fmt.Sprintf("example.com/m%02d", i), "v1.0.0", "", h})
	}
	var mu sync.Mutex
	n := 0
	got, err := Lock(t.Context(), proxy(files), Proxies{{URL: "http://p.example"}}, func(b []byte) (oci.Digest, error) {
		mu.Lock()
		defer mu.Unlock()
		n++
		return digest.FromBytes(b), nil
	}, sums)
	if err != nil || n != 50 {
		t.Fatal(n, err)
	}
	for i, m := range got {
		if m.Path != sums[i].Path {
			t.Errorf("%d: %s", i, m.Path)
		}
	}
}

func toolchainZip(t testing.TB) []byte {
	const p = "golang.org/toolchain@v0.0.1-go1.24.3.linux-amd64/"
	return zipOf(t, file{p + "bin/go", "ELF go"}, file{p + "bin/gofmt", "ELF fmt"}, file{p + "pkg/tool/linux_amd64/compile", "ELF"},
		file{p + "lib/wasm/go_js_wasm_exec", "#!"}, file{p + "lib/time/zoneinfo.zip", "z"}, file{p + "src/_go.mod", "module std"}, file{p + "src/empty.go", ""})
}

func TestToolchain(t *testing.T) {
	v := memory{t.TempDir()}
	z := toolchainZip(t)
	get := proxy(map[string][]byte{"http://p.example/golang.org/toolchain/@v/v0.0.1-go1.24.3.linux-amd64.zip": z})
	proxies := Proxies{{URL: "http://p.example"}}
	platform := oci.Platform{OS: "linux", Architecture: "amd64"}
	pin := ToolchainPin{"1.24.3", "go.mod toolchain"}
	tool, err := ResolveToolchain(t.Context(), get, proxies, v.put, pin, platform, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := project.Tool{Name: "go", Version: "1.24.3", Platform: platform, PinnedBy: "go.mod toolchain",
		Path: "golang.org/toolchain/@v/v0.0.1-go1.24.3.linux-amd64.zip", Digest: digest.FromBytes(z), Size: int64(len(z)),
		Sum: hashOf(t, module.Version{Path: toolchainModule, Version: "v0.0.1-go1.24.3.linux-amd64"}, z)}
	if tool != want {
		t.Errorf("%+v", tool)
	}
	if _, err := ResolveToolchain(t.Context(), get, proxies, v.put, pin, platform, map[string]string{"v0.0.1-go1.24.3.linux-amd64": h1("other")}); err == nil {
		t.Error("a toolchain with another hash than go.sum's was taken")
	}
	if _, err := ResolveToolchain(t.Context(), get, proxies, v.put, ToolchainPin{"1.24.4", "go.mod go"}, platform, nil); err == nil || !strings.Contains(err.Error(), "Go 1.24.4 (go.mod go)") {
		t.Error(err)
	}
	keep := filepath.Join(t.TempDir(), "keep")
	f, err := os.Create(keep)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries, err := UnpackToolchain(tool, filepath.Join(v.dir, tool.Digest.Encoded()), f, keep)
	if err != nil {
		t.Fatal(err)
	}
	tree := filetree.NewTree()
	for _, e := range entries {
		tree.Set(e)
		if e.Origin.Kind == "" {
			t.Errorf("%s has no origin", e.Path)
		}
	}
	for p, mode := range map[string]int64{"bin/go": 0o755, "pkg/tool/linux_amd64/compile": 0o755, "lib/wasm/go_js_wasm_exec": 0o755, "lib/time/zoneinfo.zip": 0o644, "src/go.mod": 0o644, "src/_go.mod": 0o644} {
		e := tree.Get("usr/local/go/" + p)
		if e == nil || e.Mode != mode {
			t.Errorf("%s: %+v", p, e)
			continue
		}
		r, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r)
		r.Close()
		if digest.FromBytes(b) != e.Digest {
			t.Errorf("%s: other bytes than its digest says", p)
		}
	}
	if e := tree.Resolve("usr/local/bin/go"); e == nil || e.Path != "usr/local/go/bin/go" {
		t.Errorf("usr/local/bin/go: %+v", e)
	}
	const p = "golang.org/toolchain@v0.0.1-go1.24.3.linux-amd64/"
	for name, bad := range map[string][]byte{
		"file and folder": zipOf(t, file{p + "bin/go", "x"}, file{p + "bin/go/x", "y"}),
		"folder and file": zipOf(t, file{p + "bin/go/x", "y"}, file{p + "bin/go", "x"}),
		"no go":           zipOf(t, file{p + "bin/gofmt", "x"}),
		"escape":          zipOf(t, file{p + "../../bin/go", "x"}),
	} {
		d, _ := v.put(bad)
		if _, err := UnpackToolchain(tool, filepath.Join(v.dir, d.Encoded()), io.Discard, "keep"); err == nil {
			t.Errorf("%s: unpacked", name)
		}
	}
}

func TestMirror(t *testing.T) {
	v := memory{t.TempDir()}
	mod, _ := v.put([]byte("module x\n"))
	z, _ := v.put([]byte("zip bytes"))
	modules := []project.GoModule{
		{Path: "example.com/A", Version: "v1.0.0", Mod: mod, Zip: z},
		{Path: "example.com/A", Version: "v1.2.0", Mod: mod},
		{Path: "example.com/A", Version: "v1.1.1-0.20200102030405-0123456789ab", Mod: mod, Zip: z},
		{Path: "example.com/gone", Version: "v1.0.0", Mod: digest.FromString("gone"), Zip: digest.FromString("gone")},
	}
	m := NewMirror(v, modules)
	srv := httptest.NewServer(m)
	defer srv.Close()
	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/example.com/!a/@v/list", 200, "v1.0.0\n"},
		{"GET", "/example.com/!a/@v/v1.0.0.mod", 200, "module x\n"},
		{"GET", "/example.com/!a/@v/v1.0.0.zip", 200, "zip bytes"},
		{"GET", "/example.com/!a/@v/v1.0.0.info", 200, `{"Version":"v1.0.0"}`},
		{"GET", "/example.com/!a/@v/v1.1.1-0.20200102030405-0123456789ab.info", 200, `"Time":"2020-01-02T03:04:05Z"`},
		{"GET", "/example.com/!a/@latest", 200, `"v1.1.1-0.2020`},
		{"GET", "/example.com/!a/@v/v1.2.0.zip", 404, "only the go.mod hash"},
		{"GET", "/example.com/!a/@v/v1.3.0.mod", 404, "is not in the lock, which has v1.0.0"},
		{"GET", "/example.com/A/@v/v1.0.0.mod", 404, "no address of a module proxy"},
		{"GET", "/example.com/a/@v/v1.0.0.mod", 404, "example.com/a is not in the lock"},
		{"GET", "/example.com/b/@v/list", 404, "not in the lock"},
		{"GET", "/example.com/!a/@v/master.info", 404, "not in the lock"},
		{"GET", "/example.com/!a/@v/v1.0.0.ziphash", 404, "no address"},
		{"GET", "/example.com/gone/@v/v1.0.0.zip", 404, "example.com/gone@v1.0.0"},
		{"GET", "/sumdb/sum.example/supported", 404, "no checksum database"},
		{"GET", "/", 404, "no address"},
		{"GET", "/../../etc/passwd", 404, ""},
		{"POST", "/example.com/!a/@v/list", 405, "takes nothing"},
	} {
		r, _ := http.NewRequest(c.method, srv.URL+c.path, nil)
		res, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != c.status || !strings.Contains(string(b), c.want) {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, res.StatusCode, b, c.status, c.want)
		}
	}
	if rec := m.Record(); strings.Join(rec.Served, " ") != "example.com/A@v1.0.0" || len(rec.Refused) < 8 {
		t.Errorf("%+v", rec)
	}
	b, err := json.Marshal(m.Record())
	if err != nil || !strings.Contains(string(b), "sumdb") {
		t.Error(string(b), err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("module example.com/a\ngo 1.24\n"), []byte("example.com/a v1.0.0 "+h1("z")+"\nexample.com/a v1.0.0/go.mod "+h1("m")+"\n"))
	f.Add([]byte("module x\ntoolchain go1.24.3\nrequire (\n example.com/a v1.0.0\n)\nreplace example.com/a => ./a\n"), []byte("golang.org/toolchain v0.0.1-go1.24.3.linux-amd64 "+h1("t")+"\n"))
	f.Fuzz(func(t *testing.T, gomod, gosum []byte) {
		m, err := Read(gomod, gosum)
		if err != nil {
			return
		}
		for _, s := range m.Sums {
			v := module.Version{Path: s.Path, Version: s.Version}
			at, err := address(v, "mod")
			if err != nil || strings.Contains(at, "..") && strings.Contains("/"+at, "/../") {
				t.Errorf("%s: address %q, %v", v, at, err)
			}
		}
		_, _, _ = m.ToolchainPin()
	})
}

func FuzzZip(f *testing.F) {
	f.Add(toolchainZip(f))
	f.Add(zipOf(f, file{"golang.org/toolchain@v0.0.1-go1.24.3.linux-amd64/bin/", ""}, file{"golang.org/toolchain@v0.0.1-go1.24.3.linux-amd64/bin/go", "x"}))
	dir := f.TempDir()
	tool := project.Tool{Name: "go", Version: "1.24.3", Platform: oci.Platform{OS: "linux", Architecture: "amd64"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		v := module.Version{Path: toolchainModule, Version: "v0.0.1-go1.24.3.linux-amd64"}
		if _, err := hashZip(v, bytes.NewReader(data), int64(len(data))); err != nil {
			return
		}
		p := filepath.Join(dir, fmt.Sprint(time.Now().UnixNano()))
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(p)
		entries, err := UnpackToolchain(tool, p, io.Discard, "keep")
		if err != nil {
			return
		}
		for _, e := range entries {
			if c, err := filetree.Clean(e.Path); err != nil || c != e.Path || !strings.HasPrefix(e.Path, "usr") {
				t.Errorf("path %q", e.Path)
			}
		}
	})
}
