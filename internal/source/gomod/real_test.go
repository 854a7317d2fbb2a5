package gomod_test

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/modfile"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/fetch"
	"twinhull.dev/twinhull/internal/source/gomod"
	"twinhull.dev/twinhull/internal/source/site"
	"twinhull.dev/twinhull/internal/source/vault"
)

// TestRealGo locks a small program's modules through the machine's module
// proxy, builds it with the machine's go from the mirror alone, and compares
// the binary with the lock.
func TestRealGo(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a module proxy")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("go is not installed")
	}
	s, err := site.Load(site.Options{})
	if err != nil {
		t.Skip("no site configuration: ", err)
	}
	list, err := s.GoProxy()
	if err != nil {
		t.Skip("no module proxy is configured: ", err)
	}
	proxies, err := gomod.ParseProxies(strings.Join(list, ","))
	if err != nil {
		t.Fatal(err)
	}
	client, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	work := t.TempDir()
	v, err := vault.Open(filepath.Join(work, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	fetcher := fetch.New(fetch.Config{Vault: v, Client: client})
	get := func(ctx context.Context, url string) ([]byte, error) { return fetcher.Get(ctx, url, 512<<20) }

	// The same modules that this program is built with, so that go.sum is at
	// hand without asking a checksum database.
	app := filepath.Join(work, "app")
	ours, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := modfile.ParseLax("go.mod", ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, r := range parsed.Require {
		if slices.Contains([]string{"github.com/Masterminds/semver/v3", "github.com/google/go-cmp", "golang.org/x/sync"}, r.Mod.Path) {
			used = append(used, r.Mod.Path+" "+r.Mod.Version)
		}
	}
	mod := "module example.com/app\n\ngo " + parsed.Go.Version + "\n\nrequire (\n\t" + strings.Join(used, "\n\t") + "\n)\n"
	write(t, filepath.Join(app, "go.mod"), mod)
	write(t, filepath.Join(app, "main.go"), `package main

import (
	"fmt"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

func main() {
	var g errgroup.Group
	g.Go(func() error { fmt.Println(semver.MustParse("v1.2.3"), cmp.Equal(1, 1)); return nil })
	g.Wait()
}
`)
	own, err := os.ReadFile("../../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	var sum bytes.Buffer
	for line := range strings.Lines(string(own)) {
		for _, m := range used {
			if strings.HasPrefix(line, m+" ") || strings.HasPrefix(line, m+"/go.mod ") {
				sum.WriteString(line)
			}
		}
	}
	write(t, filepath.Join(app, "go.sum"), sum.String())

	m, err := gomod.Read([]byte(mod), sum.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	modules, err := gomod.Lock(ctx, get, proxies, v.PutBytes, m.Sums)
	if err != nil {
		t.Skip("the module proxy does not answer: ", err)
	}
	items, err := gomod.Items(proxies, modules)
	if err != nil {
		t.Fatal(err)
	}
	// A second vault is filled by digest alone.
	v2, err := vault.Open(filepath.Join(work, "second"))
	if err != nil {
		t.Fatal(err)
	}
	if err := fetch.New(fetch.Config{Vault: v2, Client: client}).Fetch(ctx, items); err != nil {
		t.Fatal(err)
	}

	build := func(modules []project.GoModule) (string, gomod.Record, error) {
		mirror := gomod.NewMirror(v2, modules)
		srv := httptest.NewServer(mirror)
		defer srv.Close()
		cache := t.TempDir()
		cmd := exec.CommandContext(ctx, tool, "build", "-o", filepath.Join(work, "app.bin"), ".")
		cmd.Dir = app
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cache, "CGO_ENABLED=0"}
		for k, val := range gomod.Environment(srv.URL, cache) {
			cmd.Env = append(cmd.Env, k+"="+val)
		}
		// The standard library need not be compiled again for this test.
		if b, err := exec.Command(tool, "env", "GOCACHE").Output(); err == nil {
			cmd.Env = append(cmd.Env, "GOCACHE="+strings.TrimSpace(string(b)))
		}
		out, err := cmd.CombinedOutput()
		return string(out), mirror.Record(), err
	}
	out, rec, err := build(modules)
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if len(rec.Served) != 3 {
		t.Errorf("served: %+v", rec)
	}
	bin, err := gomod.ReadBinary(filepath.Join(work, "app.bin"), modules)
	if err != nil {
		t.Fatal(err)
	}
	if bin.Main != "example.com/app" || len(bin.Modules) != 3 {
		t.Errorf("%+v", bin)
	}
	changed := append([]project.GoModule(nil), modules...)
	changed[0].Sum = modules[1].Sum
	if err := gomod.CheckBinary(filepath.Join(work, "app.bin"), changed); err == nil || !strings.Contains(err.Error(), "but the lock says") {
		t.Errorf("a changed module: %v", err)
	}
	if err := gomod.CheckBinary(filepath.Join(work, "app.bin"), modules[1:]); err == nil || !strings.Contains(err.Error(), "not in the lock") {
		t.Errorf("an unlocked module: %v", err)
	}
	if err := gomod.CheckBinary(filepath.Join(app, "go.mod"), modules); err == nil {
		t.Error("go.mod passes for a program")
	}
	if out, rec, err := build(modules[1:]); err == nil || !strings.Contains(out, "is not in the lock") {
		t.Errorf("built without a locked module: %s %+v", out, rec)
	}
}

// TestRealToolchain unpacks a real Go release and runs it.
func TestRealToolchain(t *testing.T) {
	if os.Getenv("TWINHULL_TEST_TOOLCHAIN") == "" {
		t.Skip("downloads some 80 MB: set TWINHULL_TEST_TOOLCHAIN to a release (1.24.3) to run it")
	}
	s, err := site.Load(site.Options{})
	if err != nil {
		t.Skip("no site configuration: ", err)
	}
	list, err := s.GoProxy()
	if err != nil {
		t.Skip("no module proxy is configured: ", err)
	}
	client, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	proxies, _ := gomod.ParseProxies(strings.Join(list, ","))
	work := t.TempDir()
	v, err := vault.Open(work)
	if err != nil {
		t.Fatal(err)
	}
	fetcher := fetch.New(fetch.Config{Vault: v, Client: client})
	get := func(ctx context.Context, url string) ([]byte, error) { return fetcher.Get(ctx, url, 512<<20) }
	platform := hostPlatform()
	start := time.Now()
	tool, err := gomod.ResolveToolchain(t.Context(), get, proxies, v.PutBytes, gomod.ToolchainPin{Version: os.Getenv("TWINHULL_TEST_TOOLCHAIN"), PinnedBy: "test"}, platform, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v in %v", tool, time.Since(start))
	start = time.Now()
	keep, err := os.Create(filepath.Join(work, "keep"))
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	entries, err := gomod.UnpackToolchain(tool, v.Path(tool.Digest), keep, keep.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d entries in %v", len(entries), time.Since(start))
	root := filepath.Join(work, "root")
	for _, e := range entries {
		p := filepath.Join(root, e.Path)
		switch {
		case e.IsDir():
			err = os.MkdirAll(p, 0o755)
		case e.IsLink():
			err = os.Symlink(e.Link, p)
		default:
			data := make([]byte, e.Size)
			if e.Size > 0 {
				_, err = keep.ReadAt(data, e.Content.Offset)
			}
			if err == nil {
				err = os.WriteFile(p, data, os.FileMode(e.Mode))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(work, "m/go.mod"), "module m\n\ngo 1.21\n")
	write(t, filepath.Join(work, "m/main.go"), "package main\n\nfunc main() { println(\"runs\") }\n")
	cmd := exec.Command(filepath.Join(root, "usr/local/bin/go"), "run", ".")
	cmd.Dir = filepath.Join(work, "m")
	cmd.Env = []string{"HOME=" + work, "PATH=/usr/bin:/bin", "GOTOOLCHAIN=local", "CGO_ENABLED=0", "GOCACHE=" + filepath.Join(work, "build")}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "runs") {
		t.Errorf("go run: %v\n%s", err, out)
	}
}

func hostPlatform() oci.Platform { return oci.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH} }

func write(t *testing.T, name, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}
