package sandbox

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestExit(t *testing.T) {
	for _, c := range []struct {
		probe, arg string
		code       int
		sig        syscall.Signal
	}{
		{"exit", "0", 0, 0}, {"exit", "3", 3, 0}, {"exit", "255", 255, 0},
		{"kill", "9", 137, syscall.SIGKILL}, {"kill", "15", 143, syscall.SIGTERM},
	} {
		r, out := run(t, spec(t, c.probe, c.arg))
		if r.ExitCode != c.code || r.Signal != c.sig || r.TimedOut || r.Duration <= 0 || r.MaxRSS <= 0 {
			t.Errorf("%s %s: %+v %s", c.probe, c.arg, r, out)
		}
	}
}

func TestCannotRun(t *testing.T) {
	s := spec(t, "true")
	for _, c := range []struct {
		name string
		edit func(*Spec)
		want string
	}{
		{"not there", func(s *Spec) { s.Args[0] = "/nothing" }, "/nothing: no such file"},
		{"not in PATH", func(s *Spec) { s.Args[0] = "nothing" }, "not found in PATH=" + defaultPath},
		{"no working directory", func(s *Spec) { s.Dir = "/nowhere" }, "working directory /nowhere"},
		{"no command", func(s *Spec) { s.Args = nil }, "no command"},
		{"no tree", func(s *Spec) { s.Lower = nil; s.Upper = "" }, "neither Root nor Lower"},
		{"two trees", func(s *Spec) { s.Root = s.Upper }, "both Root and Lower"},
		{"no upper", func(s *Spec) { s.Upper = "" }, "needs Upper"},
		{"upper of a read-only tree", func(s *Spec) { s.ReadOnly = true }, "takes no Upper"},
		{"missing lower", func(s *Spec) { s.Lower = []string{"/no/such"} }, "/no/such"},
		{"relative target", func(s *Spec) { s.Mounts = []Mount{{Target: "x", Tmpfs: true}} }, "not an absolute path"},
		{"root as target", func(s *Spec) { s.Mounts = []Mount{{Target: "/x/..", Tmpfs: true}} }, "not an absolute path"},
		{"target in proc", func(s *Spec) { s.Mounts = []Mount{{Target: "/proc/sys", Tmpfs: true}} }, "sandbox's own"},
		{"two kinds", func(s *Spec) { s.Mounts = []Mount{{Target: "/x", Tmpfs: true, Source: "/etc"}} }, "exactly one"},
		{"missing source", func(s *Spec) { s.Mounts = []Mount{{Target: "/x", Source: "/no/such"}} }, "/no/such"},
		{"file on folder", func(s *Spec) { s.Mounts = []Mount{{Target: "/probe", Source: s.Lower[0]}} }, "cannot be mounted on each other"},
		{"owners for a user", func(s *Spec) { s.FakeOwners, s.UID = true, 1 }, "needs user id 0"},
		{"port", func(s *Spec) { s.Serve = []Service{{Port: 70000, Handler: http.NotFoundHandler()}} }, "out of range"},
		{"NUL", func(s *Spec) { s.Args = append(s.Args, "a\x00b") }, "NUL"},
		{"services with the host's network", func(s *Spec) { s.Network = Host; s.Forward = []Forward{{"127.0.0.1:0", 1}} }, "network of the sandbox's own"},
	} {
		s := s
		s.Args = slices.Clone(s.Args)
		c.edit(&s)
		_, err := Run(t.Context(), s)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if e, _ := os.ReadDir(filepath.Dir(s.Upper)); len(e) != 1 {
		t.Errorf("scratch is left beside the upper folder: %v", e)
	}
}

func TestOutput(t *testing.T) {
	s := spec(t, "flood", strconv.Itoa(8<<20))
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr = &out, &errs
	if r, err := Run(t.Context(), s); err != nil || !r.Success() || out.Len() != 8<<20 || errs.Len() != 8<<20 {
		t.Errorf("%v %v: %d and %d bytes", r, err, out.Len(), errs.Len())
	}
	// A writer that fails is reported and does not hang the command.
	s = spec(t, "flood", strconv.Itoa(4<<20))
	s.Stdout = failingWriter{}
	if r, err := Run(t.Context(), s); err == nil || !strings.Contains(err.Error(), "disk full") || r.ExitCode != 0 {
		t.Errorf("failing writer: %v %v", r, err)
	}
	s = spec(t, "cat")
	s.Stdin = strings.NewReader(strings.Repeat("in", 1<<20))
	if out := ok(t, s); len(out) != 2<<20 {
		t.Errorf("%d bytes came back", len(out))
	}
	// Standard input that never ends does not keep the run from ending.
	r, w := io.Pipe()
	defer w.Close()
	s = spec(t, "true")
	s.Stdin = r
	ok(t, s)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestIdentity(t *testing.T) {
	// What the caller has must not come through.
	t.Setenv("SECRET", "caller's")
	defer unix.Umask(unix.Umask(0o077))
	leak, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0) // not closed on exec, as if inherited
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)

	var mask uint64
	for _, c := range keptCapabilities {
		mask |= 1 << c
	}
	caps := fmt.Sprintf("%016x", mask)
	for _, c := range []struct {
		edit func(*Spec)
		want string
	}{
		{func(s *Spec) {}, "host=twinhull cwd=/ uid=0 gid=0 groups=[] <nil> umask=022 pid=PID ppid=1 sid=PID persona=40000 fds=[0 1 2] core=0 nnp=1 seccomp=2 caps=" + caps + " bnd=" + caps},
		{func(s *Spec) {
			s.UID, s.GID, s.Groups, s.Hostname, s.Dir, s.Randomize = 1234, 2345, []int{7, 99999}, "other", "/dev/shm", true
		}, "host=other cwd=/dev/shm uid=1234 gid=2345 groups=[7 99999] <nil> umask=022 pid=PID ppid=1 sid=PID persona=0 fds=[0 1 2] core=0 nnp=1 seccomp=2 caps=0000000000000000 bnd=0000000000000000"},
	} {
		s := spec(t, "id")
		c.edit(&s)
		out := ok(t, s)
		line, env, _ := strings.Cut(out, "\n")
		pid := "100"
		if _, err := os.Stat("/proc/sys/kernel/ns_last_pid"); err != nil {
			_, rest, _ := strings.Cut(line, "pid=")
			pid, _, _ = strings.Cut(rest, " ")
		}
		if diff := cmp.Diff(strings.ReplaceAll(c.want, "PID", pid), line); diff != "" {
			t.Error(diff)
		}
		want := fmt.Sprintf("env=%q\n", []string{"HOME=/", "LD_LIBRARY_PATH=/lib", "PATH=" + defaultPath, probeVariable + "=id"})
		if diff := cmp.Diff(want, env); diff != "" {
			t.Error(diff)
		}
	}
}

func TestProcAndDev(t *testing.T) {
	for _, uid := range []int{0, 1000} {
		s := spec(t, "proc")
		s.UID, s.GID = uid, uid
		ok(t, s)
	}
}

func TestTracing(t *testing.T) {
	for _, uid := range []int{0, 1000} {
		s := spec(t, "trace")
		s.UID = uid
		ok(t, s)
	}
}

func TestNoNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	abstract := "@twinhull-test-" + strconv.Itoa(os.Getpid())
	u, err := net.Listen("unix", abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	s := spec(t, "net", l.Addr().String(), abstract, "192.0.2.1:80")
	want := "interface lo true\ndial " + l.Addr().String() + " false\ndial " + abstract + " false\ndial 192.0.2.1:80 false\n"
	if diff := cmp.Diff(want, ok(t, s)); diff != "" {
		t.Error(diff)
	}
	s = spec(t, "net", l.Addr().String())
	s.Network = Host
	if out := ok(t, s); !strings.Contains(out, "dial "+l.Addr().String()+" true") {
		t.Errorf("with the host's network: %s", out)
	}
}

func TestServe(t *testing.T) {
	s := spec(t, "get", "http://127.0.0.1:8081/x", "http://127.0.0.1:8082/y")
	say := func(what string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, what, r.URL.Path) })
	}
	s.Serve = []Service{{8081, say("one")}, {8082, say("two")}}
	if diff := cmp.Diff("200 OK one/x <nil>\n200 OK two/y <nil>\n", ok(t, s)); diff != "" {
		t.Error(diff)
	}
	if c, err := net.DialTimeout("tcp", "127.0.0.1:8081", time.Second); err == nil {
		c.Close()
		t.Error("the mirror listens on the host too")
	}
}

// lines is a writer that hands out whole lines.
type lines struct {
	w *io.PipeWriter
	*bufio.Scanner
}

func newLines() *lines {
	r, w := io.Pipe()
	return &lines{w, bufio.NewScanner(r)}
}

func (l *lines) Write(p []byte) (int, error) { return l.w.Write(p) }

func TestForward(t *testing.T) {
	s := spec(t, "listen", "3000")
	out := newLines()
	s.Stdout = out
	s.Forward = []Forward{{"127.0.0.1:0", 3000}, {"127.0.0.1:0", 3001}}
	p, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if !out.Scan() || out.Text() != "ready" {
		t.Fatal(out.Text(), out.Err())
	}
	for range 5 {
		r, err := http.Get("http://" + p.Addr(0) + "/path")
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if string(b) != "inside /path" {
			t.Errorf("got %q", b)
		}
	}
	if r, err := http.Get("http://" + p.Addr(1)); err == nil {
		r.Body.Close()
		t.Error("a port on which nobody listens answered")
	}
	go func() {
		for out.Scan() {
		}
	}()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if r, err := p.Wait(); err != nil || r.Signal != syscall.SIGKILL {
		t.Errorf("%v %v", r, err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("signal after the end: %v", err)
	}
	if c, err := net.DialTimeout("tcp", p.Addr(0), time.Second); err == nil {
		c.Close()
		t.Error("the forward outlives the run")
	}
}

func TestMounts(t *testing.T) {
	host := tempDir(t)
	for _, d := range []string{"ro/sub", "rw", "evil/target"} {
		if err := os.MkdirAll(filepath.Join(host, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(host, "secret")
	for _, f := range []string{"ro/in", "secret", "file"} {
		if err := os.WriteFile(filepath.Join(host, f), []byte("host's "+f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A tree whose links try to lead mounts out of it.
	hostile := filepath.Join(host, "hostile")
	for from, to := range map[string]string{
		"var/run": "/run", "up": "../../../../..", "abs": "/evil", "outside": host + "/evil", "loop": "loop", "proc-link": "/proc/1/root",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(hostile, from)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(hostile, from)); err != nil {
			t.Fatal(err)
		}
	}
	s := spec(t, "write", "/ro/in", "/ro/sub/x", "/rw/x", "/tmp/x", "/over/in", "/over/new", "/kept/new", "/one", "/top", "/noparent/x", "/run/deep/x")
	kept := filepath.Join(host, "kept")
	if err := os.Mkdir(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Lower = append([]string{hostile}, s.Lower...)
	s.Mounts = []Mount{
		{Target: "/ro", Source: filepath.Join(host, "ro"), ReadOnly: true},
		{Target: "/rw", Source: filepath.Join(host, "rw")},
		{Target: "/tmp", Tmpfs: true, Mode: 0o1777, SizeBytes: 1 << 20},
		{Target: "/tmp/inner/deep", Tmpfs: true},
		{Target: "/over", Lower: []string{filepath.Join(host, "ro")}},
		{Target: "/kept", Lower: []string{filepath.Join(host, "ro")}, Upper: kept},
		{Target: "/one", Source: filepath.Join(host, "file"), ReadOnly: true},
		{Target: "/var/run/deep", Tmpfs: true},
		{Target: "/up/climbed", Tmpfs: true},
		{Target: "/abs/target", Tmpfs: true},
	}
	want := fmt.Sprintf("/ro/in %d\n/ro/sub/x %d\n/rw/x 0\n/tmp/x 0\n/over/in 0\n/over/new 0\n/kept/new 0\n/one %d\n/top 0\n/noparent/x %d\n/run/deep/x 0\n",
		unix.EROFS, unix.EROFS, unix.EROFS, unix.ENOENT)
	if diff := cmp.Diff(want, ok(t, s)); diff != "" {
		t.Error(diff)
	}
	read := func(p string) string { b, _ := os.ReadFile(filepath.Join(host, p)); return string(b) }
	for p, want := range map[string]string{"ro/in": "host's ro/in", "rw/x": "written inside", "file": "host's file", "kept/new": "written inside", "ro/new": ""} {
		if got := read(p); got != want {
			t.Errorf("%s on the host: %q, want %q", p, got, want)
		}
	}
	// Mount targets leave nothing in the upper folder, nor in the lower ones,
	// and no scratch stays beside them.
	var got []string
	if err := Scan(t.Context(), s.Upper, func(e Entry) error { got = append(got, e.Path); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"top"}, got); diff != "" {
		t.Error(diff)
	}
	for _, d := range []string{hostile, filepath.Join(host, "evil/target"), filepath.Dir(s.Upper), host} {
		e, _ := os.ReadDir(d)
		for _, f := range e {
			if f.Name() == "climbed" || f.Name() == "run" || strings.Contains(f.Name(), "work") {
				t.Errorf("%s appeared in %s", f.Name(), d)
			}
		}
	}
	o := spec(t, "write", "/outside/target/x")
	o.Lower = append([]string{hostile}, o.Lower...)
	o.Mounts = []Mount{{Target: "/outside/target", Tmpfs: true}}
	if diff := cmp.Diff("/outside/target/x 0\n", ok(t, o)); diff != "" {
		t.Error(diff)
	}
	if e, err := os.ReadDir(filepath.Join(host, "evil/target")); err != nil || len(e) > 0 {
		t.Errorf("a link led a mount out of the tree: %v %v", e, err)
	}
	for _, target := range []string{"/loop/x", "/ro/missing", "/probe/x"} {
		s := spec(t, "true")
		s.Lower = append([]string{hostile}, s.Lower...)
		s.Mounts = []Mount{{Target: "/ro", Source: filepath.Join(host, "ro")}, {Target: target, Tmpfs: true}}
		if _, err := Run(t.Context(), s); err == nil {
			t.Errorf("a mount on %s succeeded", target)
		}
	}
	// What was not given cannot be seen, by any way out.
	s = spec(t, "stat", secret, "/.."+secret, "/up"+secret, "/proc-link"+secret, "/proc/1/root"+secret, "/proc/self/root"+secret)
	s.Lower = append([]string{hostile}, s.Lower...)
	for line := range strings.Lines(ok(t, s)) {
		if !strings.HasSuffix(line, " none\n") {
			t.Errorf("visible: %s", line)
		}
	}
}

func TestReadOnly(t *testing.T) {
	s := spec(t, "write", "/x", "/tmp/x", "/dev/shm/x", "/etc/x")
	s.Upper, s.ReadOnly = "", true
	s.Mounts = []Mount{{Target: "/tmp", Tmpfs: true}}
	want := fmt.Sprintf("/x %d\n/tmp/x 0\n/dev/shm/x 0\n/etc/x %d\n", unix.EROFS, unix.ENOENT)
	if diff := cmp.Diff(want, ok(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestRoot(t *testing.T) {
	root := tempDir(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(copyFile(exe, filepath.Join(root, "probe")), copyLibraries(exe, root, map[string]bool{})); err != nil {
		t.Fatal(err)
	}
	s := spec(t, "write", "/x", "/tmp/a/x")
	s.Lower, s.Upper, s.Root = nil, "", root
	s.Mounts = []Mount{{Target: "/tmp/a", Tmpfs: true}}
	if diff := cmp.Diff("/x 0\n/tmp/a/x 0\n", ok(t, s)); diff != "" {
		t.Error(diff)
	}
	for _, gone := range []string{"proc", "dev", "tmp"} {
		if _, err := os.Lstat(filepath.Join(root, gone)); err == nil {
			t.Errorf("/%s was made for the run and is left", gone)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(root, "x")); string(b) != "written inside" {
		t.Errorf("x holds %q", b)
	}
	s.ReadOnly, s.Mounts = true, nil
	s.Args = []string{"/probe", "/x"}
	if diff := cmp.Diff(fmt.Sprintf("/x %d\n", unix.EROFS), ok(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestRefusedCalls(t *testing.T) {
	for _, uid := range []int{0, 1000} {
		s := spec(t, "calls")
		s.UID = uid
		ok(t, s)
	}
}

func TestTimeout(t *testing.T) {
	s := spec(t, "sleep", "stubborn")
	s.Timeout, s.Grace = 300*time.Millisecond, 200*time.Millisecond
	begin := time.Now()
	r, _ := run(t, s)
	if !r.TimedOut || r.Signal != syscall.SIGKILL || time.Since(begin) > 10*time.Second || time.Since(begin) < 500*time.Millisecond {
		t.Errorf("stubborn: %+v after %s", r, time.Since(begin))
	}
	s = spec(t, "sleep", "polite")
	s.Timeout, s.Grace = 500*time.Millisecond, 20*time.Second
	begin = time.Now()
	r, out := run(t, s)
	if !r.TimedOut || r.ExitCode != 7 || time.Since(begin) > 15*time.Second || !strings.Contains(out, "asked to end") {
		t.Errorf("polite: %+v after %s: %s", r, time.Since(begin), out)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := spec(t, "sleep", "stubborn")
	s.Grace = 100 * time.Millisecond
	out := newLines()
	s.Stdout = out
	p, err := Start(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	out.Scan()
	why := errors.New("because")
	cancel(why)
	if _, err := p.Wait(); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if err := unix.Kill(p.PID(), 0); err != unix.ESRCH {
		t.Errorf("process 1 is still there: %v", err)
	}
	if _, err := Run(ctx, spec(t, "true")); !errors.Is(err, why) {
		t.Errorf("with an ended context: %v", err)
	}
}

// What a command leaves in the background dies with it and holds nothing up.
func TestBackground(t *testing.T) {
	begin := time.Now()
	ok(t, spec(t, "spawn"))
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("took %s", d)
	}
	if out := ok(t, spec(t, "orphans")); out != "no zombies\n" {
		t.Error(out)
	}
}

func TestParentDeath(t *testing.T) {
	upper := filepath.Join(tempDir(t), "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, lower(t), upper)
	cmd.Env = append(os.Environ(), probeVariable+"=parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	pid, ready := 0, false
	for (pid == 0 || !ready) && sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), "pid "); ok {
			pid, _ = strconv.Atoi(v)
		} else if sc.Text() == "ready" {
			ready = true
		} else {
			t.Log(sc.Text())
		}
	}
	if pid == 0 {
		t.Fatal("no sandbox was started")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the sandbox outlives its parent")
		}
	}
}

func TestUpper(t *testing.T) {
	below := tempDir(t)
	if err := errors.Join(
		os.WriteFile(filepath.Join(below, "gone"), nil, 0o644),
		os.Mkdir(filepath.Join(below, "emptied"), 0o755),
		os.WriteFile(filepath.Join(below, "emptied/old"), nil, 0o644),
	); err != nil {
		t.Fatal(err)
	}
	s := spec(t, "tree")
	s.Lower = append([]string{below}, s.Lower...)
	ok(t, s)
	type row struct {
		Path     string
		Type     byte
		Mode     string
		Link     string
		Links    uint64
		Whiteout bool
		Opaque   bool
		Size     int64
	}
	var got []row
	inodes := map[string]uint64{}
	content := ""
	err := Scan(t.Context(), s.Upper, func(e Entry) error {
		r := row{e.Path, e.Type, fmt.Sprintf("%04o", e.Mode), e.Link, e.Links, e.Whiteout, e.Opaque, e.Size}
		if e.Type != tar.TypeReg {
			r.Links = 0
		}
		if e.Whiteout || e.Type == tar.TypeSymlink {
			r.Mode = ""
		}
		got = append(got, r)
		inodes[e.Path] = e.Inode
		if e.UID != 0 || e.GID != 0 || e.ModTime == 0 {
			t.Errorf("%+v", e)
		}
		if e.Path == "closed/inner/file" {
			f, err := e.Open()
			if err != nil {
				return err
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			content = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []row{
		{Path: "a", Type: tar.TypeReg, Mode: "0644", Links: 2, Size: 6},
		{Path: "b", Type: tar.TypeReg, Mode: "0644", Links: 2, Size: 6},
		{Path: "c", Type: tar.TypeSymlink, Link: "a"},
		{Path: "closed", Type: tar.TypeDir, Mode: "0111"},
		{Path: "closed/inner", Type: tar.TypeDir, Mode: "0000"},
		{Path: "closed/inner/file", Type: tar.TypeReg, Mode: "0000", Links: 1, Size: 1},
		{Path: "emptied", Type: tar.TypeDir, Mode: "0755", Opaque: true},
		{Path: "emptied/new", Type: tar.TypeReg, Mode: "0644", Links: 1, Size: 1},
		{Path: "gone", Type: tar.TypeChar, Whiteout: true},
		{Path: "pipe", Type: tar.TypeFifo, Mode: "0600"},
		{Path: "setuid", Type: tar.TypeReg, Mode: "6755", Links: 1, Size: 1},
		{Path: "sticky", Type: tar.TypeDir, Mode: "1777"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if inodes["a"] != inodes["b"] {
		t.Error("the hard link is lost")
	}
	if content != "f" {
		t.Errorf("the unreadable file holds %q", content)
	}
	// And an upper folder can be the lower of the next run.
	next := spec(t, "stat", "/gone", "/emptied/old", "/emptied/new")
	next.Lower = append([]string{s.Upper, below}, next.Lower...)
	if diff := cmp.Diff("/gone none\n/emptied/old none\n/emptied/new -rw-r--r-- n\n", ok(t, next)); diff != "" {
		t.Error(diff)
	}
	stop := errors.New("enough")
	if err := Scan(t.Context(), s.Upper, func(Entry) error { return stop }); err != stop {
		t.Errorf("fn's error: %v", err)
	}
	if err := RemoveAll(s.Upper); err != nil {
		t.Error(err)
	}
	if err := RemoveAll(s.Upper); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestFakeOwners(t *testing.T) {
	below, ro := tempDir(t), tempDir(t)
	shipped := filepath.Join(below, "shipped")
	if err := errors.Join(
		os.WriteFile(shipped, nil, 0o644), unix.Setxattr(shipped, OwnerXattr, FormatOwner(66, 1), 0),
		os.WriteFile(filepath.Join(ro, "file"), nil, 0o644),
	); err != nil {
		t.Fatal(err)
	}
	s := spec(t, "owners")
	s.FakeOwners = true
	s.Lower = append([]string{below}, s.Lower...)
	s.Mounts = []Mount{{Target: "/readonly", Source: ro, ReadOnly: true}}
	ok(t, s)
	got := map[string]string{}
	caps := ""
	if err := Scan(t.Context(), s.Upper, func(e Entry) error {
		if e.Type == tar.TypeReg || e.Type == tar.TypeDir {
			got[e.Path] = fmt.Sprintf("%d:%d %04o", e.UID, e.GID, e.Mode)
		}
		if e.Path == "capable" {
			caps = fmt.Sprintf("%x", e.Xattrs["security.capability"])
		} else if len(e.Xattrs) > 0 {
			t.Errorf("%s has %q", e.Path, e.Xattrs)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"f1": "34:44 0755", "f2": "33:45 0755", "f3": "0:0 0755", "f4": "12:13 0755", "d": "100:100 0755", "d/e": "101:103 2775",
		"d/f5": "10:11 0755", "shipped": "66:77 0644", "f6": "1:1 0755", "f7": "0:0 0755",
		"jail": "0:0 0755", "jail/sub": "0:0 0755", "jail/jail-secret": "51:50 0755", "jail-secret": "0:0 0755", "capable": "0:0 0755",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if caps != "0100000200040000000000000000000000000000" {
		t.Errorf("capability %s", caps)
	}
	if n, err := unix.Getxattr(filepath.Join(s.Upper, "f3"), OwnerXattr, nil); err != unix.ENODATA {
		t.Errorf("a file given back to 0:0 still has a record: %d %v", n, err)
	}
}

// The machine's own programs, where it has them: their C library uses calls
// that Go does not.
func TestRealPrograms(t *testing.T) {
	for _, p := range []string{"/usr/bin/bash", "/usr/bin/install", "/usr/bin/tar", "/usr/bin/chown", "/usr/bin/id"} {
		if _, err := os.Stat(p); err != nil {
			t.Skip(err)
		}
	}
	tree := tempDir(t)
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if to, err := os.Readlink("/" + d); err == nil {
			if err := os.Symlink(to, filepath.Join(tree, d)); err != nil {
				t.Fatal(err)
			}
		} else if _, err := os.Stat("/" + d); err == nil {
			t.Skip("this machine's /" + d + " is not a link into /usr")
		}
	}
	s := spec(t, "")
	s.Env, s.FakeOwners, s.NoSync = nil, true, true
	s.Lower = []string{tree}
	s.Mounts = []Mount{{Target: "/usr", Source: "/usr", ReadOnly: true}, {Target: "/tmp", Tmpfs: true, Mode: 0o1777}}
	s.Args = []string{"bash", "-euc", `
		[ "$(id -u):$(id -g):$(id -G)" = 0:0:0 ]
		mkdir in; echo x >in/a; ln in/a in/b; ln -s a in/c; chmod 4750 in/a
		chown -R 12:34 in; chown -h 1:1 in/c
		tar --numeric-owner --owner=55 --group=66 -cf /tmp/t.tar in
		mkdir out; tar -C out --same-owner -xpf /tmp/t.tar
		install -D -o 7 -g 8 -m 2755 in/a sub/installed
		sync
		for i in 1 2 3; do (sleep 0.01 &) ; done
		echo $$ | cat`}
	if out := ok(t, s); out != "100\n" && out != "" {
		t.Logf("process id %s", out)
	}
	got := map[string]string{}
	if err := Scan(t.Context(), s.Upper, func(e Entry) error {
		got[e.Path] = fmt.Sprintf("%d:%d %04o", e.UID, e.GID, e.Mode)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// chown cleared the set-id bit; tar sets modes after owners, and so keeps it.
	want := map[string]string{
		"in": "12:34 0755", "in/a": "12:34 0750", "in/b": "12:34 0750", "in/c": "0:0 0777",
		"out": "0:0 0755", "out/in": "55:66 0755", "out/in/a": "55:66 0750", "out/in/b": "55:66 0750", "out/in/c": "0:0 0777",
		"sub": "0:0 0755", "sub/installed": "7:8 2755",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLimits(t *testing.T) {
	s := spec(t, "cpus")
	s.Limits = Limits{CPUs: 1, FileBytes: 1 << 20}
	r, out := run(t, s)
	if out != "1\n" || !slices.Equal(r.Limits, []string{"file size 1048576: RLIMIT_FSIZE", "processors 1: affinity"}) {
		t.Errorf("%q %q", out, r.Limits)
	}
	s = spec(t, "bomb")
	s.Limits.PIDs = 16
	r, out = run(t, s)
	if len(r.Limits) != 1 {
		t.Errorf("limits: %q", r.Limits)
	} else if strings.Contains(r.Limits[0], "NOT enforced") {
		t.Log(r.Limits[0])
	} else if strings.Contains(out, "started 80") {
		t.Errorf("the bomb went off with %q: %s", r.Limits, out)
	}
}

func TestLimitMemory(t *testing.T) {
	if raceDetector {
		// The detector reserves more address space at its start than a limit
		// that means anything leaves to it.
		out, err := exec.CommandContext(t.Context(), plainBinary(t), "-test.v", "-test.run=^TestLimitMemory$").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestLimitMemory") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	s := spec(t, "alloc")
	s.Limits.MemoryBytes = 256 << 20
	r, out := run(t, s)
	if !strings.Contains(out, "stopped after") {
		t.Errorf("memory: %s %v %q", out, r, r.Limits)
	}
}

func TestTerminal(t *testing.T) {
	s := spec(t, "tty", "read")
	s.TTY = true
	in, typing := io.Pipe()
	defer typing.Close()
	out := newLines()
	s.Stdin, s.Stdout = in, out
	p, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = p.Wait()
		out.w.Close()
	}()
	var got []string
	for out.Scan() {
		line := out.Text()
		if line == "typed" {
			continue // the echo
		}
		got = append(got, line)
		if strings.HasPrefix(line, "job") {
			go func() { _, _ = io.WriteString(typing, "typed\n") }()
		}
	}
	want := []string{
		"tty /dev/pts/0 <nil> foreground true <nil> session true <nil>",
		"job <nil> <nil>",
		"read \"typed\\n\" <nil>",
	}
	if r, err := p.Wait(); err != nil || !r.Success() {
		t.Errorf("%v %v", r, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestManyAtOnce(t *testing.T) {
	done := make(chan error)
	const n = 8
	for range n {
		s := spec(t, "exit", "5")
		go func() {
			r, err := Run(t.Context(), s)
			if err == nil && r.ExitCode != 5 {
				err = fmt.Errorf("%v", r)
			}
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestNoLeaks(t *testing.T) {
	count := func() int { e, _ := os.ReadDir("/proc/self/fd"); return len(e) }
	ok(t, spec(t, "true"))
	s := spec(t, "nothing")
	s.Args[0] = "/nothing"
	before := count()
	for range 5 {
		ok(t, spec(t, "true"))
		_, _ = Run(t.Context(), s)
	}
	time.Sleep(50 * time.Millisecond)
	if after := count(); after > before+2 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// The program file of whoever runs the sandbox is out of reach for writing,
// even where the command gets the kernel to execute it inside.
func TestProgramFile(t *testing.T) {
	s := spec(t, "own-program")
	if err := os.WriteFile(filepath.Join(s.Upper, "script"), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Args = []string{"/script"}
	if diff := cmp.Diff("read-only file system\n", ok(t, s)); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkRunTrue is what a sandbox costs beyond what runs in it; the
// processor time is the figure to compare on a busy machine.
func BenchmarkRunTrue(b *testing.B) {
	s := spec(b, "true")
	before := processorTime()
	for b.Loop() {
		if r, err := Run(b.Context(), s); err != nil || !r.Success() {
			b.Fatal(r, err)
		}
	}
	b.ReportMetric(float64((processorTime()-before).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
}

// BenchmarkExecTrue is the same command without a sandbox.
func BenchmarkExecTrue(b *testing.B) {
	before := processorTime()
	for b.Loop() {
		cmd := exec.Command(filepath.Join(lower(b), "probe"))
		cmd.Env = []string{probeVariable + "=true"}
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((processorTime()-before).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
}

func processorTime() (d time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var ru unix.Rusage
		if unix.Getrusage(who, &ru) == nil {
			d += time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
		}
	}
	return d
}

// BenchmarkChown is what one recorded chown costs.
func BenchmarkChown(b *testing.B) {
	s := spec(b, "chowns", strconv.Itoa(b.N))
	s.FakeOwners = true
	if r, err := Run(b.Context(), s); err != nil || !r.Success() {
		b.Fatal(r, err)
	}
}
