package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/sandbox"
	"twinhull.dev/twinhull/internal/source/site"
)

// small is a project whose images are made in seconds and still have
// everything: configured packages, a step, both zones.
const small = `
name: small
platforms: [linux/ARCH]
development:
  archive: debian/trixie
  packages: [dash]
  workdir: /src
build:
  steps:
    make:
      run: [/bin/sh, -c, "cat in > out; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]
      inputs: [in]
      outputs: {out: artifact}
production:
  archive: debian/trixie
  packages: [ca-certificates, libc-bin]
  artifacts: {out: /app/out}
  user: {name: app, id: 65532}
  entrypoint: [/usr/bin/getent]
`

func smallProject(t *testing.T) string {
	t.Helper()
	begin(t)
	needMirrors(t, "small")
	dir, err := os.MkdirTemp(work.dir, "small-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(small, "ARCH", runtime.GOARCH)
	for name, content := range map[string]string{"twinhull.yaml": text, "in": "given\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func sameImages(t *testing.T, what string, want, got build.Report) {
	t.Helper()
	if w, g := fmt.Sprint(digests(want)), fmt.Sprint(digests(got)); w != g {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

func cleanVault(t *testing.T, w world, dir string) {
	t.Helper()
	if r := w.run(t.Context(), dir, "vault", "verify"); r.code != 0 || !strings.Contains(r.stdout, " 0 damaged") {
		t.Error(r)
	}
}

// TestKilled kills builds without a warning at random moments. What is left
// must never be taken for whole: the next build gives the same images.
func TestKilled(t *testing.T) {
	dir := smallProject(t)
	w := world{Cache: filepath.Join(dir, "cache")}
	if err := linkVault(first().Cache, w.Cache); err != nil {
		t.Fatal(err)
	}
	w.ok(t, dir, "lock")
	began := time.Now()
	want := w.build(t, dir)
	took := time.Since(began)
	t.Logf("a build takes %.1f s", took.Seconds())
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	again := world{Cache: filepath.Join(dir, "cache2")}
	if err := linkVault(w.Cache, again.Cache); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".twinhull")); err != nil {
		t.Fatal(err)
	}
	killed := 0
	for range 8 {
		after := time.Duration(r.Int64N(int64(took)))
		cmd := again.command(context.Background(), dir, "build")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		_ = cmd.Process.Signal(syscall.SIGKILL)
		if err := cmd.Wait(); err == nil {
			// It ended before: what it made would make the next ones too
			// quick to be killed.
			for _, made := range []string{"roots", "records", "debs", "layers"} {
				if err := sandbox.RemoveAll(filepath.Join(again.Cache, made)); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		t.Logf("killed after %.2f s", after.Seconds())
		if killed++; killed == 5 {
			break
		}
	}
	if killed == 0 {
		t.Error("no build was killed")
	}
	got := again.build(t, dir)
	sameImages(t, "after kills", want, got)
	cleanVault(t, again, dir)
	// Nothing goes on, and nothing is left in the way.
	left, err := os.ReadDir(filepath.Join(again.Cache, "tmp"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Logf("%d temporary folders of killed builds are left", len(left))
	}
}

// TestInterrupted stops builds with SIGINT in each phase and builds again.
func TestInterrupted(t *testing.T) {
	dir := smallProject(t)
	w := world{Cache: filepath.Join(dir, "cache")}
	if err := linkVault(first().Cache, w.Cache); err != nil {
		t.Fatal(err)
	}
	w.ok(t, dir, "lock")
	for _, phase := range []string{"unpacking", "laying out", "configuring", "step make", "layer"} {
		cmd := w.command(context.Background(), dir, "build")
		r := start(t, cmd)
		r.await(t, phase, 2*time.Minute, func() error {
			if !strings.Contains(r.said.String(), phase) {
				return errors.New("not yet")
			}
			return nil
		})
		began := time.Now()
		_ = cmd.Process.Signal(os.Interrupt)
		<-r.done
		if code := cmd.ProcessState.ExitCode(); code != 130 && code != 0 {
			t.Errorf("%s: exit code %d\n%s", phase, code, tail(r.said.String(), 2000))
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("%s: %v to stop", phase, took)
		}
		if left, _ := os.ReadDir(filepath.Join(w.Cache, "tmp")); len(left) > 0 {
			t.Errorf("%s: %s is left in the cache", phase, left[0].Name())
		}
	}
	got := w.build(t, dir)
	fresh := world{Cache: filepath.Join(dir, "cache2")}
	if err := linkVault(w.Cache, fresh.Cache); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".twinhull")); err != nil {
		t.Fatal(err)
	}
	sameImages(t, "after interrupts", fresh.build(t, dir, "--offline"), got)
	cleanVault(t, w, dir)
}

// TestTwoBuilds runs two builds of one project at once, from nothing.
func TestTwoBuilds(t *testing.T) {
	dir := smallProject(t)
	w := world{Cache: filepath.Join(dir, "cache")}
	if err := linkVault(first().Cache, w.Cache); err != nil {
		t.Fatal(err)
	}
	w.ok(t, dir, "lock")
	results := make(chan result, 2)
	for range 2 {
		go func() { results <- w.run(context.Background(), dir, "build", "--json") }()
	}
	a, b := <-results, <-results
	if a.code != 0 || b.code != 0 {
		t.Fatalf("%s\n%s", a, b)
	}
	strip := func(s string) string { return strings.ReplaceAll(s, `"cached": true`, `"cached": false`) }
	if strip(a.stdout) != strip(b.stdout) {
		t.Errorf("two builds at once: %s\n%s", a.stdout, b.stdout)
	}
	if !strings.Contains(a.stderr+b.stderr, "waiting for another build") {
		t.Logf("neither waited:\n%s\n%s", a.stderr, b.stderr)
	}
	cleanVault(t, w, dir)
}

// faulty stands before this machine's mirror and fails as it is told.
type faulty struct {
	*httptest.Server
	fault   atomic.Value // string: "", truncate, 404, wrong, gone
	after   atomic.Int64 // requests that still pass
	touched atomic.Int64 // answers that were spoilt
}

func newFaulty(t *testing.T, base string) *faulty {
	to, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	s, err := site.Load(site.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{}
	f.fault.Store("")
	proxy := &httputil.ReverseProxy{
		Transport:    c.Transport,
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { w.WriteHeader(http.StatusBadGateway) },
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = to.Host
		},
		ModifyResponse: func(res *http.Response) error {
			fault := f.fault.Load().(string)
			if fault == "" || !strings.HasSuffix(res.Request.URL.Path, ".deb") || f.after.Add(-1) >= 0 {
				return nil
			}
			f.touched.Add(1)
			switch fault {
			case "404":
				res.StatusCode, res.Status = 404, "404 Not Found"
			case "truncate", "gone", "wrong":
				res.Body = &spoilt{ReadCloser: res.Body, fault: fault, left: res.ContentLength / 2}
			}
			return nil
		},
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.fault.Load() == "gone" && f.after.Load() < 0 {
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				c.Close()
			}
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	return f
}

// spoilt is a body that ends half-way, or has another byte in the middle.
type spoilt struct {
	io.ReadCloser
	fault string
	left  int64
}

func (s *spoilt) Read(p []byte) (int, error) {
	if s.left <= 0 && s.fault != "wrong" {
		return 0, net.ErrClosed
	}
	n, err := s.ReadCloser.Read(p)
	before := s.left
	if s.left -= int64(n); s.left <= 0 && before > 0 && n > 0 {
		if s.fault == "wrong" {
			p[n-1] ^= 1
		} else {
			n = int(before)
		}
	}
	return n, err
}

// TestMirrorFails puts a mirror that fails before this machine's: half-way
// through a build it goes away, forgets files, sends less, or other bytes.
func TestMirrorFails(t *testing.T) {
	dir := smallProject(t)
	s, err := site.Load(site.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Debian()
	if err != nil {
		t.Fatal(err)
	}
	f := newFaulty(t, m.Main[0])
	security := m.Main[0]
	if len(m.Security) > 0 {
		security = m.Security[0]
	}
	g := newFaulty(t, security)
	w := world{Cache: filepath.Join(dir, "cache"), Env: map[string]string{
		"TWINHULL_DEBIAN_MIRROR": f.URL, "TWINHULL_DEBIAN_SECURITY_MIRROR": g.URL, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
	}}
	w.ok(t, dir, "lock")
	for _, fault := range []string{"truncate", "404", "wrong", "gone"} {
		f.after.Store(12)
		g.after.Store(1 << 30)
		f.fault.Store(fault)
		began := time.Now()
		r := w.run(t.Context(), dir, "build")
		if r.code != 1 || !strings.HasPrefix(lastError(r.stderr), "error: ") || !strings.Contains(r.stderr, "\nhint: ") {
			t.Errorf("%s: want a refusal with its reason and what to do: %s", fault, r)
		}
		if f.touched.Swap(0) == 0 && fault != "gone" {
			t.Errorf("%s: nothing was spoilt", fault)
		}
		t.Logf("%s: %.1f s: %s", fault, time.Since(began).Seconds(), firstLine(lastError(r.stderr)))
		if _, err := os.Stat(filepath.Join(dir, ".twinhull/store/index.json")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is a store: %v", fault, err)
		}
		cleanVault(t, w, dir)
	}
	f.fault.Store("")
	got := w.build(t, dir)
	cleanVault(t, w, dir)
	direct := world{Cache: filepath.Join(dir, "cache2")}
	if err := linkVault(w.Cache, direct.Cache); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".twinhull")); err != nil {
		t.Fatal(err)
	}
	sameImages(t, "after a mirror's faults", direct.build(t, dir, "--offline"), got)
}

func lastError(s string) string {
	if i := strings.LastIndex(s, "error: "); i >= 0 {
		return s[i:]
	}
	return s
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// TestDiskFull builds in caches that are too small, each a little larger, until
// it succeeds: a clear word every time, nothing wrong afterwards.
func TestDiskFull(t *testing.T) {
	dir := smallProject(t)
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	plain := world{Cache: filepath.Join(dir, "cache")}
	if err := linkVault(first().Cache, plain.Cache); err != nil {
		t.Fatal(err)
	}
	plain.ok(t, dir, "lock")
	want := plain.build(t, dir)
	mount := filepath.Join(dir, "small-disk")
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=12m,mode=0755"); err != nil {
		t.Skipf("no small file system: %v", err)
	}
	defer func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	w := world{Cache: filepath.Join(mount, "cache")}
	if err := os.RemoveAll(filepath.Join(dir, ".twinhull")); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{12, 40, 90, 160, 240, 330} {
		if err := unix.Mount("tmpfs", mount, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%dm,mode=0755", size)); err != nil {
			t.Fatal(err)
		}
		r := w.run(t.Context(), dir, "build")
		if r.code == 0 {
			t.Logf("%d MiB: enough", size)
			break
		}
		if r.code != 1 || !strings.Contains(r.stderr, "no space left on device") {
			t.Errorf("%d MiB: want the reason: %s", size, r)
		}
		t.Logf("%d MiB: %s", size, firstLine(lastError(r.stderr)))
		cleanVault(t, w, dir)
	}
	if err := unix.Mount("tmpfs", mount, "tmpfs", unix.MS_REMOUNT, "size=2g,mode=0755"); err != nil {
		t.Fatal(err)
	}
	sameImages(t, "after full disks", want, w.build(t, dir))
	cleanVault(t, w, dir)
}

// TestAirGap carries the inputs of a whole example to a cache that has
// nothing, and builds there without a network.
func TestAirGap(t *testing.T) {
	dir := smallProject(t)
	w := first()
	w.ok(t, dir, "lock")
	want := w.build(t, dir)
	w.ok(t, dir, "vault", "export", "oci:carried")
	if err := os.RemoveAll(filepath.Join(dir, ".twinhull")); err != nil {
		t.Fatal(err)
	}
	there := world{Cache: filepath.Join(dir, "there"), Env: map[string]string{"TWINHULL_DEBIAN_MIRROR": "http://127.0.0.1:1/none", "TWINHULL_DEBIAN_SECURITY_MIRROR": "http://127.0.0.1:1/none"}}
	there.ok(t, dir, "vault", "import", "oci:carried")
	sameImages(t, "behind the air gap", want, there.build(t, dir, "--offline"))
	there.ok(t, dir, "lock", "--offline")
}
