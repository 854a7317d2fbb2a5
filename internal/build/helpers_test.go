package build

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/progress"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/sandbox"
	"twinhull.dev/twinhull/internal/source/debfile"
	"twinhull.dev/twinhull/internal/source/fetch"
	"twinhull.dev/twinhull/internal/source/site"
	"twinhull.dev/twinhull/internal/source/vault"
)

func TestMain(m *testing.M) {
	sandbox.Init() // the sandbox's own processes are this test binary
	code := m.Run()
	if tiny.dir != "" {
		_ = os.RemoveAll(tiny.dir)
	}
	os.Exit(code)
}

// tiny is a static program that stands for the shell, dpkg and everything that
// steps run: testdata/tiny says what it can do.
var tiny struct {
	once sync.Once
	dir  string
	data []byte
	err  error
}

func tinyProgram(t testing.TB) []byte {
	t.Helper()
	tiny.once.Do(func() {
		if tiny.dir, tiny.err = os.MkdirTemp("", "twinhull-tiny-"); tiny.err != nil {
			return
		}
		to := filepath.Join(tiny.dir, "tiny")
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", to, ".")
		cmd.Dir = filepath.Join("testdata", "tiny")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			tiny.err = fmt.Errorf("%w: %s", err, out)
			return
		}
		tiny.data, tiny.err = os.ReadFile(to)
	})
	if tiny.err != nil {
		t.Fatal(tiny.err)
	}
	return tiny.data
}

// A pkg is a package to be made.
type pkg struct {
	name, arch, fields string
	files              map[string]string // path → content; "-> TARGET" a link, "=> PATH" a hard link, "x:CONTENT" executable
	scripts            map[string]string // postinst, preinst
}

var day = time.Date(2026, 2, 28, 12, 0, 0, 0, time.UTC)

func (p pkg) deb(t testing.TB) []byte {
	t.Helper()
	if p.arch == "" {
		p.arch = "all"
	}
	control := fmt.Sprintf("Package: %s\nVersion: 1.0-1\nArchitecture: %s\nMaintainer: x <x@example.org>\n%sDescription: for tests\n", p.name, p.arch, p.fields)
	members := map[string]string{"control": control}
	for k, v := range p.scripts {
		members[k] = "x:" + v
	}
	b := []byte("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", tarOf(t, members)}, {"data.tar", tarOf(t, p.files)}} {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(m.data))
		if b = append(b, m.data...); len(m.data)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{}
	put := func(h tar.Header, data string) {
		h.Name, h.ModTime, h.Size, h.Format = "./"+h.Name, day.AddDate(-1, 0, 0), int64(len(data)), tar.FormatGNU
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(data))
	}
	names := sortedKeys(files)
	slices.SortStableFunc(names, func(a, b string) int { // hard links behind what they are names of
		return cmp.Compare(strings.Count(files[a], "=> "), strings.Count(files[b], "=> "))
	})
	for _, p := range names {
		parts := strings.Split(p, "/")
		for i := 1; i < len(parts); i++ {
			if d := strings.Join(parts[:i], "/"); !made[d] {
				made[d] = true
				put(tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}, "")
			}
		}
		data := files[p]
		if strings.HasSuffix(p, "/") {
			continue
		}
		if to, ok := strings.CutPrefix(data, "-> "); ok {
			put(tar.Header{Typeflag: tar.TypeSymlink, Name: p, Linkname: to, Mode: 0o777}, "")
		} else if to, ok := strings.CutPrefix(data, "=> "); ok {
			put(tar.Header{Typeflag: tar.TypeLink, Name: p, Linkname: "./" + to, Mode: 0o644}, "")
		} else if data, ok := strings.CutPrefix(data, "x:"); ok {
			put(tar.Header{Typeflag: tar.TypeReg, Name: p, Mode: 0o755}, data)
		} else {
			put(tar.Header{Typeflag: tar.TypeReg, Name: p, Mode: 0o644}, data)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// basePackages are what every test archive holds: a system in which the tiny
// program is the shell and dpkg.
func basePackages(t testing.TB) []pkg {
	prog := "x:" + string(tinyProgram(t))
	return []pkg{
		{name: "base-files", fields: "Essential: yes\n", files: map[string]string{
			"usr/lib/os-release": "ID=test\n", "etc/os-release": "-> ../usr/lib/os-release", "usr/share/doc/base-files/copyright": "free\n",
		}},
		{name: "apt", files: map[string]string{"usr/share/doc/apt/copyright": "free\n"}},
		{name: "dash", fields: "Essential: yes\n", files: map[string]string{"usr/bin/dash": prog, "usr/bin/sh": "-> dash", "usr/bin/dpkg": "-> dash"}},
		{name: "app-base", fields: "Depends: app-data, dash\n", files: map[string]string{
			"usr/bin/app": prog, "usr/bin/tool": "x:#!/bin/sh\ntrue\n", "usr/share/man/man1/app.1": "a page\n", "usr/share/doc/app-base/copyright": "free\n", "usr/share/doc/app-base/README": "read me\n",
		}},
		{name: "app-data", files: map[string]string{"usr/share/app/greeting": "good day\n", "etc/app.conf": "loud=no\n"}},
	}
}

var signingKey = sync.OnceValues(func() (*openpgp.Entity, error) {
	c := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return day.AddDate(-1, 0, 0) }}
	e, err := openpgp.NewEntity("archive", "", "archive@example.org", c)
	if err == nil {
		err = e.AddSigningSubkey(c)
	}
	return e, err
})

// world is a machine: an archive on loopback, configuration, a cache.
type world struct {
	t     testing.TB
	dir   string // the project's folder
	cache string
	site  *site.Site
	vault *vault.Vault
	fetch *fetch.Fetcher
	files map[string][]byte // of the mirror
	asked int               // requests to the mirror
	mu    sync.Mutex
}

// newWorld publishes packages beside basePackages, in suite trixie, and makes a
// project of the files.
func newWorld(t testing.TB, more []pkg, files map[string]string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), cache: t.TempDir(), files: map[string][]byte{}}
	if files != nil {
		w.republish(append(basePackages(t), more...))
	}
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	key, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	var ring bytes.Buffer
	if err := key.Serialize(&ring); err != nil {
		t.Fatal(err)
	}
	ringFile := filepath.Join(w.cache, "archive.gpg")
	if err := os.WriteFile(ringFile, ring.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"HOME": t.TempDir(), "NO_PROXY": "127.0.0.1", "TWINHULL_DEBIAN_MIRROR": server.URL + "/debian",
		"TWINHULL_DEBIAN_SECURITY_MIRROR": server.URL + "/security", "TWINHULL_DEBIAN_KEYRING": ringFile,
	}
	if w.site, err = site.Load(site.Options{Root: t.TempDir(), Home: env["HOME"], Getenv: func(k string) string { return env[k] }}); err != nil {
		t.Fatal(err)
	}
	if w.vault, err = vault.Open(w.cache); err != nil {
		t.Fatal(err)
	}
	w.fetch = fetch.New(fetch.Config{Vault: w.vault, Client: server.Client(), Retries: -1})
	w.write(files)
	return w
}

// republish makes the packages all that the archive has.
func (w *world) republish(pkgs []pkg) {
	w.t.Helper()
	index := ""
	for _, p := range pkgs {
		deb := p.deb(w.t)
		pool := fmt.Sprintf("pool/main/%s-%x.deb", p.name, sha256.Sum256(deb))
		w.files["debian/"+pool] = deb
		arch := p.arch
		if arch == "" {
			arch = "all"
		}
		index += fmt.Sprintf("Package: %s\nVersion: 1.0-1\nArchitecture: %s\nMaintainer: x <x@example.org>\n%sFilename: %s\nSize: %d\nSHA256: %x\nDescription: for tests\n\n",
			p.name, arch, p.fields, pool, len(deb), sha256.Sum256(deb))
	}
	w.publish("debian/dists/trixie/", "trixie", index)
	w.publish("debian/dists/trixie-updates/", "trixie-updates", "")
	w.publish("security/dists/trixie-security/", "trixie-security", "")
}

func contextAfter(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	data, ok := w.files[strings.TrimPrefix(r.URL.Path, "/")]
	w.asked++
	w.mu.Unlock()
	if !ok {
		http.NotFound(rw, r)
		return
	}
	http.ServeContent(rw, r, r.URL.Path, time.Time{}, bytes.NewReader(data))
}

func (w *world) publish(top, suite, index string) {
	w.t.Helper()
	text := fmt.Sprintf("Codename: %s\nDate: %s\nAcquire-By-Hash: yes\nArchitectures: amd64 arm64\nComponents: main\nSHA256:\n", suite, day.Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	for _, arch := range []string{"amd64", "arm64"} {
		var packed bytes.Buffer
		x, err := xz.NewWriter(&packed)
		if err != nil {
			w.t.Fatal(err)
		}
		_, _ = x.Write([]byte(index))
		if err := x.Close(); err != nil {
			w.t.Fatal(err)
		}
		sum := sha256.Sum256(packed.Bytes())
		dir := "main/binary-" + arch + "/"
		text += fmt.Sprintf(" %x %d %sPackages\n %x %d %sPackages.xz\n", sha256.Sum256([]byte(index)), len(index), dir, sum, packed.Len(), dir)
		w.files[fmt.Sprintf("%s%sby-hash/SHA256/%x", top, dir, sum)] = packed.Bytes()
	}
	key, err := signingKey()
	if err != nil {
		w.t.Fatal(err)
	}
	signing, ok := key.SigningKey(day)
	if !ok {
		w.t.Fatal("the key cannot sign")
	}
	var signed bytes.Buffer
	s, err := clearsign.Encode(&signed, signing.PrivateKey, &packet.Config{Time: func() time.Time { return day }})
	if err != nil {
		w.t.Fatal(err)
	}
	_, _ = s.Write([]byte(text))
	if err := s.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.files[top+"InRelease"] = append(signed.Bytes(), '\n')
}

// write puts files into the project's folder; "-> TARGET" is a link.
func (w *world) write(files map[string]string) {
	w.t.Helper()
	for p, data := range files {
		at := filepath.Join(w.dir, p)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			w.t.Fatal(err)
		}
		_ = os.Remove(at)
		var err error
		if to, ok := strings.CutPrefix(data, "-> "); ok {
			err = os.Symlink(to, at)
		} else {
			err = os.WriteFile(at, []byte(data), 0o644)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) file() *project.File {
	w.t.Helper()
	f, err := project.Load(filepath.Join(w.dir, project.FileName))
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) lock() *project.Lock {
	w.t.Helper()
	l, err := Resolve(w.t.Context(), ResolveConfig{File: w.file(), Vault: w.vault, Fetch: w.fetch, Site: w.site, Progress: progress.Discard, Now: day})
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// builder returns a builder of the project with a lock made now.
func (w *world) builder(l *project.Lock) (*Builder, error) {
	w.t.Helper()
	if l == nil {
		l = w.lock()
	}
	b, err := New(Config{
		File: w.file(), Lock: l, Vault: w.vault, Fetch: w.fetch, Site: w.site, CacheDir: w.cache,
		Progress: progress.Discard, Now: time.Now(), Codec: image.Gzip,
	})
	if err == nil {
		// To write out all of the machine's disk is not what is tested.
		b.cache.syncFS = func(int) error { return nil }
		w.t.Cleanup(b.cache.settled.Wait)
	}
	return b, err
}

var bothZones = []oci.Zone{oci.Development, oci.Production}

func (w *world) build(l *project.Lock, zones ...oci.Zone) (*Report, error) {
	w.t.Helper()
	b, err := w.builder(l)
	if err != nil {
		return nil, err
	}
	return b.Build(w.t.Context(), zones)
}

// origins reads what explains an image of the project's store.
func (w *world) origins(i ImageReport) *Origins {
	w.t.Helper()
	store, err := oci.OpenLayout(filepath.Join(w.dir, stateDir, "store"))
	if err != nil {
		w.t.Fatal(err)
	}
	o, err := ReadOrigins(store, i.Manifest.Digest)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// treeOf makes a tree of files with the origin of package p; the values are
// as in pkg.
func treeOf(files map[string]string) *filetree.Tree {
	t := filetree.NewTree()
	for _, p := range sortedKeys(files) {
		e := entry(p, files[p])
		t.Set(e)
	}
	if err := addParents(t, 0); err != nil {
		panic(err)
	}
	return t
}

func entry(p, data string) *filetree.Entry {
	e := &filetree.Entry{Path: p, Type: tar.TypeReg, Mode: 0o644, Origin: filetree.Origin{Kind: filetree.FromPackage, Name: "p", Digest: oci.Digest("sha256:" + strings.Repeat("0", 64))}}
	switch {
	case data == "/":
		e.Type, e.Mode = tar.TypeDir, 0o755
		return e
	case strings.HasPrefix(data, "-> "):
		e.Type, e.Mode, e.Link = tar.TypeSymlink, 0o777, data[3:]
		return e
	case strings.HasPrefix(data, "=> "):
		e.Type, e.Link = tar.TypeLink, data[3:]
		return e
	case strings.HasPrefix(data, "x:"):
		e.Mode, data = 0o755, data[2:]
	}
	e.Content.Data, e.Size = []byte(data), int64(len(data))
	e.Digest = oci.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(data))))
	return e
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error lacks %q:\n%v", p, err)
		}
	}
}

// unpack opens a test package as the builder does.
func (w *world) unpack(p pkg) unpacked {
	w.t.Helper()
	data := p.deb(w.t)
	d := oci.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
	at := filepath.Join(w.cache, p.name+".deb")
	if err := os.WriteFile(at, data, 0o644); err != nil {
		w.t.Fatal(err)
	}
	deb, err := debfile.Open(w.t.Context(), w.cache, at, d)
	if err != nil {
		w.t.Fatal(err)
	}
	entries, err := debfile.UsrMerge(deb.Entries)
	if err != nil {
		w.t.Fatal(err)
	}
	return unpacked{lock: project.Package{Name: p.name, Version: "1.0-1", Arch: deb.Arch, SHA256: d}, deb: deb, entries: entries}
}

func lockOf(at time.Time) *project.Lock { return &project.Lock{AsOf: at} }
