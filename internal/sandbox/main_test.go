package sandbox

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The command of most tests is the test binary itself: it is there on every
// machine. Inside it is /probe and does one of the things in probes.
const probeVariable = "TWINHULL_SANDBOX_PROBE"

// asUser marks the second run of the tests, as an ordinary user.
const asUser = "TWINHULL_SANDBOX_AS_USER"

func TestMain(m *testing.M) {
	Init()
	if name := os.Getenv(probeVariable); name != "" {
		if err := probes[name](os.Args[1:]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	for _, dir := range []string{base.dir, plain.dir} {
		if dir != "" {
			_ = RemoveAll(dir)
		}
	}
	os.Exit(code)
}

var base struct {
	once sync.Once
	dir  string
	err  error
}

// lower returns a folder with the probe, and with the C library if the test
// binary needs one, as it does under the race detector.
func lower(t testing.TB) string {
	t.Helper()
	base.once.Do(func() { base.dir, base.err = makeBase() })
	if base.err != nil {
		t.Fatal(base.err)
	}
	return base.dir
}

var plain struct {
	once sync.Once
	dir  string
	err  error
}

// plainBinary returns these tests without the race detector.
func plainBinary(t testing.TB) string {
	t.Helper()
	if !raceDetector {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		return exe
	}
	plain.once.Do(func() {
		if plain.dir, plain.err = os.MkdirTemp("", "twinhull-plain-"); plain.err != nil {
			return
		}
		cmd := exec.Command("go", "test", "-c", "-o", plain.dir+"/sandbox.test", ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			plain.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if plain.err != nil {
		t.Fatal(plain.err)
	}
	return plain.dir + "/sandbox.test"
}

func makeBase() (string, error) {
	dir, err := os.MkdirTemp("", "twinhull-probe-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	exe, err := os.Executable()
	if err != nil {
		return dir, err
	}
	if err := copyFile(exe, filepath.Join(dir, "probe")); err != nil {
		return dir, err
	}
	return dir, copyLibraries(exe, dir, map[string]bool{})
}

func copyLibraries(file, dir string, seen map[string]bool) error {
	f, err := elf.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(p.Open())
			if err != nil {
				return err
			}
			name := string(bytes.TrimRight(b, "\x00"))
			if err := copyFile(name, filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	libs, _ := f.ImportedLibraries()
	for _, l := range libs {
		if seen[l] {
			continue
		}
		seen[l] = true
		found := ""
		for _, pattern := range []string{"/lib/*-linux-gnu/", "/usr/lib/*-linux-gnu/", "/lib64/", "/lib/", "/usr/lib64/", "/usr/lib/"} {
			if m, _ := filepath.Glob(pattern + l); len(m) > 0 {
				found = m[0]
				break
			}
		}
		if found == "" {
			return fmt.Errorf("library %s of the test binary not found", l)
		}
		if err := copyFile(found, filepath.Join(dir, "lib", l)); err != nil {
			return err
		}
		if err := copyLibraries(found, dir, seen); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// spec is a run of a probe with a fresh upper folder.
func spec(t testing.TB, probe string, args ...string) Spec {
	t.Helper()
	upper := filepath.Join(tempDir(t), "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	return Spec{
		Lower: []string{lower(t)}, Upper: upper, Args: append([]string{"/probe"}, args...),
		Env: []string{probeVariable + "=" + probe, "LD_LIBRARY_PATH=/lib"}, Timeout: time.Minute, Grace: time.Second,
	}
}

// tempDir is t.TempDir, except that it can remove what an overlay leaves.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "twinhull-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// run runs it and returns what it wrote on both outputs.
func run(t testing.TB, s Spec) (Result, string) {
	t.Helper()
	var out bytes.Buffer
	s.Stdout, s.Stderr = &out, &out
	r, err := Run(t.Context(), s)
	if err != nil {
		t.Fatalf("%v\noutput: %s", err, out.String())
	}
	return r, out.String()
}

// ok runs it and fails the test unless it returns 0.
func ok(t testing.TB, s Spec) string {
	t.Helper()
	r, out := run(t, s)
	if !r.Success() {
		t.Fatalf("%s: %s\n%s", s.Env[0], r, out)
	}
	return out
}

// TestAsOrdinaryUser runs all the other tests again without privileges.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the tests run as an ordinary user already")
	}
	if testing.Short() {
		t.Skip("short")
	}
	dir := tempDir(t)
	if err := copyFile(plainBinary(t), filepath.Join(dir, "sandbox.test")); err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(dir, "tmp")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(work, 0o755), os.Chown(work, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "sandbox.test"), "-test.v", "-test.timeout=9m")
	cmd.Dir = work
	cmd.Env = []string{asUser + "=1", "TMPDIR=" + work, "PATH=" + defaultPath, "HOME=" + work}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as user 1000: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "PASS: TestExit") {
		t.Errorf("the tests did not run:\n%s", out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "SKIP") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
