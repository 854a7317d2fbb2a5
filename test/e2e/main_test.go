// Package e2e tests the whole tool as users meet it: the real program on the
// real examples, with this machine's mirrors, images that run, and drills in
// which the machine fails. What can be shown offline and in a second is shown by
// the scripts of cmd/twinhull instead.
//
// The tests take a while and a few gigabytes of disk; with -short there are
// none. What the machine lacks (a mirror, podman, root) skips a test and says
// so. Two variables of the environment help on a slow line:
// TWINHULL_E2E_VAULT names a folder with a vault of earlier runs, from which
// inputs are hard-linked (default: the user's own cache), TWINHULL_E2E_DIR the
// folder to work in (default: the temporary folder). Two more are for those who
// change the tests: with TWINHULL_E2E_KEEP the working folder stays, and
// TWINHULL_E2E_REUSE names one that did.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/cli"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/sandbox"
	"twinhull.dev/twinhull/internal/source/site"
)

var examples = []string{"go-service", "node-api", "python-model"}

func TestMain(m *testing.M) {
	// The test binary is also the program: with another clock, or behind a
	// launcher that enters another environment first.
	sandbox.Init()
	if w := os.Getenv(launchVariable); w != "" {
		launch(w)
	}
	if by := os.Getenv(clockVariable); by != "" {
		os.Exit(shifted(by))
	}
	code := m.Run()
	if work.dir != "" && os.Getenv("TWINHULL_E2E_KEEP") == "" && os.Getenv("TWINHULL_E2E_REUSE") == "" {
		if err := sandbox.RemoveAll(work.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	} else if work.dir != "" {
		fmt.Fprintln(os.Stderr, "kept", work.dir)
	}
	os.Exit(code)
}

// work is what all tests share: one folder, which an ordinary user may enter,
// with the program, and the examples as built in the first environment.
var work struct {
	once sync.Once
	err  error
	dir  string
	exe  string // the program
	self string // the test binary, where everyone may read it

	mu    sync.Mutex
	built map[string]*made
}

// made is an example that was locked and built.
type made struct {
	once   sync.Once
	err    error
	skip   string
	dir    string
	report build.Report
	took   time.Duration
}

func begin(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("a long test: run it without -short")
	}
	if runtime.GOOS != "linux" {
		t.Skip("images are built on Linux")
	}
	work.once.Do(func() { work.err = prepare() })
	if work.err != nil {
		t.Fatal(work.err)
	}
}

func prepare() (err error) {
	if work.dir = os.Getenv("TWINHULL_E2E_REUSE"); work.dir == "" {
		if work.dir, err = os.MkdirTemp(os.Getenv("TWINHULL_E2E_DIR"), "twinhull-e2e-"); err != nil {
			return err
		}
	}
	if err := os.Chmod(work.dir, 0o755); err != nil {
		return err
	}
	work.built = map[string]*made{}
	work.exe, work.self = filepath.Join(work.dir, "twinhull"), filepath.Join(work.dir, "e2e.test")
	if out, err := exec.Command("go", "build", "-o", work.exe, "twinhull.dev/twinhull/cmd/twinhull").CombinedOutput(); err != nil {
		return fmt.Errorf("building the program: %w\n%s", err, out)
	}
	me, err := os.Executable()
	if err != nil {
		return err
	}
	if err := copyFile(me, work.self, 0o755); err != nil {
		return err
	}
	if err := seed(filepath.Join(work.dir, "cache")); err != nil {
		return err
	}
	return nil
}

// seed links the inputs of earlier runs into a new cache, so that a test run
// costs the mirrors nothing. They are verified when they are used.
func seed(cache string) error {
	from := os.Getenv("TWINHULL_E2E_VAULT")
	if from == "" {
		own, err := os.UserCacheDir()
		if err != nil {
			return nil
		}
		if from = os.Getenv("TWINHULL_CACHE_DIR"); from == "" {
			from = filepath.Join(own, "twinhull")
		}
	}
	return linkVault(from, cache)
}

// linkVault gives a cache folder the inputs of another.
func linkVault(from, to string) error {
	for _, algorithm := range []string{"sha256", "sha512"} {
		top := filepath.Join(from, "vault", algorithm)
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				if p == top && errors.Is(err, fs.ErrNotExist) {
					return filepath.SkipDir
				}
				return err
			}
			rel, err := filepath.Rel(from, p)
			if err != nil {
				return err
			}
			if d.IsDir() {
				return os.MkdirAll(filepath.Join(to, rel), 0o755)
			}
			if err := os.Link(p, filepath.Join(to, rel)); err != nil && !errors.Is(err, fs.ErrExist) {
				return copyFile(p, filepath.Join(to, rel), 0o444)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close(), os.Chmod(to, mode))
}

// checkout copies an example as git would have it: without what is made.
func checkout(name, to string) error {
	from := filepath.Join("..", "..", "examples", name)
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		switch d.Name() {
		case "node_modules", ".twinhull", "dist", "coverage", "build", "bin", "__pycache__", "twinhull.lock":
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		return copyFile(p, filepath.Join(to, rel), fi.Mode().Perm())
	})
}

// needMirrors skips a test when this machine cannot lock an example.
func needMirrors(t testing.TB, name string) {
	t.Helper()
	if why := reachable(name); why != "" {
		t.Skip(why)
	}
}

var servers struct {
	sync.Mutex
	said map[string]string
}

func reachable(name string) string {
	servers.Lock()
	defer servers.Unlock()
	if servers.said == nil {
		servers.said = map[string]string{}
	}
	s, err := site.Load(site.Options{})
	if err != nil {
		return err.Error()
	}
	client, err := s.Client()
	if err != nil {
		return err.Error()
	}
	answers := func(what, url string) string {
		why, asked := servers.said[url]
		if !asked {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
			if err != nil {
				return err.Error()
			}
			if res, err := client.Do(req); err != nil {
				why = what + " cannot be reached: " + err.Error()
			} else {
				res.Body.Close()
			}
			servers.said[url] = why
		}
		return why
	}
	m, err := s.Debian()
	if err != nil {
		return err.Error()
	}
	if why := answers("the Debian mirror", m.Main[0]+"/dists/trixie/InRelease"); why != "" {
		return why
	}
	if name == "node-api" {
		u, err := s.NPM()
		if err != nil {
			return err.Error()
		}
		return answers("the npm registry", u)
	}
	if name == "go-service" {
		list, err := s.GoProxy()
		if err != nil {
			return err.Error()
		}
		return answers("the Go module proxy", list[0])
	}
	return ""
}

// first is the first environment: whoever runs the tests, with everything as
// this machine has it.
func first() world { return world{Cache: filepath.Join(work.dir, "cache")} }

// example returns an example that was locked and built in the first
// environment, once for all tests.
func example(t testing.TB, name string) *made {
	t.Helper()
	begin(t)
	work.mu.Lock()
	e := work.built[name]
	if e == nil {
		e = &made{dir: filepath.Join(work.dir, "a", name)}
		work.built[name] = e
	}
	work.mu.Unlock()
	e.once.Do(func() {
		if e.skip = reachable(name); e.skip != "" {
			return
		}
		if e.err = checkout(name, e.dir); e.err != nil {
			return
		}
		if r := first().run(context.Background(), e.dir, "lock"); r.code != 0 {
			e.err = fmt.Errorf("%s: %s", name, r)
			return
		}
		began := time.Now()
		r := first().run(context.Background(), e.dir, "build", "--json")
		if e.took = time.Since(began); r.code != 0 {
			e.err = fmt.Errorf("%s: %s", name, r)
			return
		}
		e.err = json.Unmarshal([]byte(r.stdout), &e.report)
	})
	if e.skip != "" {
		t.Skip(e.skip)
	}
	if e.err != nil {
		t.Fatal(e.err)
	}
	return e
}

// store opens the project's own layout.
func (e *made) store(t testing.TB) *oci.Layout {
	t.Helper()
	l, err := oci.OpenLayout(filepath.Join(e.dir, ".twinhull", "store"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// host is the image of a zone for this machine's platform.
func (e *made) host(t testing.TB, zone oci.Zone) build.ImageReport {
	t.Helper()
	for _, i := range e.report.Images {
		if i.Zone == zone && i.Platform.Architecture == runtime.GOARCH {
			return i
		}
	}
	t.Fatalf("no %s image for %s", zone, runtime.GOARCH)
	panic("unreachable")
}

// result is how a command of the program ended.
type result struct {
	args           []string
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("twinhull %s: exit code %d\n%s%s", strings.Join(r.args, " "), r.code, tail(r.stdout, 3000), tail(r.stderr, 6000))
}

func tail(s string, n int) string {
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return s
}

// run runs the program in a world, in a folder.
func (w world) run(ctx context.Context, dir string, args ...string) result {
	r := result{args: args}
	var stdout, stderr bytes.Buffer
	cmd := w.command(ctx, dir, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	r.stdout, r.stderr, r.code = stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		r.code, r.stderr = -1, r.stderr+err.Error()
	}
	return r
}

// ok runs the program and wants exit code 0.
func (w world) ok(t testing.TB, dir string, args ...string) result {
	t.Helper()
	r := w.run(t.Context(), dir, args...)
	if r.code != 0 {
		t.Fatal(r)
	}
	return r
}

// build runs twinhull build with --json.
func (w world) build(t testing.TB, dir string, args ...string) build.Report {
	t.Helper()
	r := w.ok(t, dir, append([]string{"build", "--json"}, args...)...)
	var rep build.Report
	if err := json.Unmarshal([]byte(r.stdout), &rep); err != nil {
		t.Fatal(err)
	}
	return rep
}

// shifted runs the program in this process with another clock.
func shifted(by string) int {
	d, err := time.ParseDuration(by)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	return cli.Run(context.Background(), &cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Dir: dir, Getenv: os.Getenv,
		Now: func() time.Time { return time.Now().Add(d) },
	}, os.Args[1:])
}

// digests lists the manifests of a report by zone and platform.
func digests(r build.Report) map[string]oci.Digest {
	out := map[string]oci.Digest{}
	for _, i := range r.Images {
		out[string(i.Zone)+" "+i.Platform.String()] = i.Manifest.Digest
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
