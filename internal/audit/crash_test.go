package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// childVariable makes the test binary a writer: "DIR ENTRIES WRITERS RUN".
const childVariable = "TWINHULL_AUDIT_TEST_WRITER"

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		writer(text)
		return
	}
	dir, err := os.MkdirTemp("", "twinhull-audit-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fixtures.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// writer appends entries and prints "INDEX ID" for each that was acknowledged.
func writer(text string) {
	var dir, run string
	var entries, writers int
	if _, err := fmt.Sscan(text, &dir, &entries, &writers, &run); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	l, err := Open(dir, Options{Installation: "crash"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	fmt.Println("open")
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed := false
	for w := range writers {
		wg.Go(func() {
			for i := range entries / writers {
				id := fmt.Sprintf("%s-%d-%d", run, w, i)
				index, err := l.Append(context.Background(), Entry{ID: id, Action: Collect, Verdict: Allowed, Actor: Actor{Name: "server"}})
				mu.Lock()
				if err != nil {
					failed = true
					fmt.Fprintln(os.Stderr, err)
				} else {
					fmt.Println(index, id)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(5)
	}
	if failed {
		os.Exit(4)
	}
	fmt.Println("closed")
}

// history is what was acknowledged over all runs on one folder.
type history struct {
	dir     string
	acked   map[uint64]string
	anchor  []byte // the newest checkpoint that was seen
	origin  string
	anchors int
}

// read takes acknowledgements from a writer's output.
func (h *history) read(t *testing.T, out string) (n int) {
	t.Helper()
	s := bufio.NewScanner(strings.NewReader(out))
	for s.Scan() {
		index, id, ok := strings.Cut(s.Text(), " ")
		i, err := strconv.ParseUint(index, 10, 64)
		if !ok || err != nil || !strings.HasSuffix(out, "\n") && strings.HasSuffix(out, s.Text()) {
			continue // a line that was cut off was not acknowledged
		}
		if old, twice := h.acked[i]; twice {
			t.Errorf("index %d was given to %s and to %s", i, old, id)
		}
		h.acked[i] = id
		n++
	}
	return n
}

// check opens the log as a server that starts again, and wants it whole, with
// all that was acknowledged and everything that a checkpoint covered.
func (h *history) check(t *testing.T, what string) {
	t.Helper()
	opt := Options{Installation: "crash"}
	if h.anchor != nil {
		opt.Anchors = []Anchor{{"the last run", h.anchor}}
	}
	l, err := Open(h.dir, opt)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer l.Close()
	size, err := l.Size(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if size > 0 {
		if h.anchor, err = l.Await(t.Context(), size-1); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	got := map[uint64]string{}
	v := VerifyOptions{Anchors: opt.Anchors, Each: func(r Record) error { got[r.Index] = r.Entry.ID; return r.Err }}
	r, err := Verify(t.Context(), Dir(h.dir), trustOf(t, l), v)
	if err != nil || len(r.Problems) > 0 || r.Pending != 0 {
		t.Fatalf("%s: %+v, %v", what, r, err)
	}
	seen := map[string]uint64{}
	for i, id := range got {
		if j, twice := seen[id]; twice {
			t.Errorf("%s: %s is at %d and at %d", what, id, j, i)
		}
		seen[id] = i
	}
	for i, id := range h.acked {
		if got[i] != id {
			t.Fatalf("%s: %s was acknowledged at %d, where %q is", what, id, i, got[i])
		}
	}
}

func child(ctx context.Context, h *history, entries, writers, run int, prefix ...string) *exec.Cmd {
	args := append(prefix, os.Args[0])
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d run%d", childVariable, h.dir, entries, writers, run))
	return c
}

func runs(t *testing.T, usual int) int {
	if n, err := strconv.Atoi(os.Getenv("TWINHULL_AUDIT_CUTS")); err == nil && n > 0 {
		return n
	}
	if testing.Short() {
		return max(usual/5, 2)
	}
	return usual
}

// TestKill ends the writer at random moments, under load and not, and goes on
// with the same log. TWINHULL_AUDIT_CUTS says how often.
func TestKill(t *testing.T) {
	h := &history{dir: filepath.Join(t.TempDir(), "log"), acked: map[uint64]string{}}
	rng := rand.New(rand.NewPCG(3, 4))
	cuts := runs(t, 25)
	acked := 0
	for run := range cuts {
		writers := []int{1, 8, 300}[run%3]
		c := child(t.Context(), h, 1_000_000, writers, run)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		c.Stderr = &errs
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		// Some die while they open the log, the others at any moment of their work.
		var said bytes.Buffer
		r := bufio.NewReader(out)
		pause := time.Duration(rng.IntN(20)) * time.Millisecond
		if run%4 != 0 {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("run %d: %v: %s", run, err, errs.String())
			}
			said.WriteString(line)
			pause = time.Duration(rng.IntN(250)) * time.Millisecond
		}
		done := make(chan struct{})
		go func() { io.Copy(&said, r); close(done) }()
		time.Sleep(pause)
		c.Process.Signal(syscall.SIGKILL)
		<-done
		c.Wait()
		acked += h.read(t, said.String())
		h.check(t, fmt.Sprintf("run %d, killed after %v, with %d writers", run, pause, writers))
	}
	t.Logf("%d cuts, %d acknowledged entries, all there", cuts, acked)
	if acked == 0 {
		t.Error("nothing was acknowledged")
	}
}

// changing are the system calls that change what a disk holds, or that its
// durability hangs on.
var changing = []string{"openat", "write", "fsync", "renameat", "mkdirat", "unlinkat", "linkat", "close"}

// TestSteps makes each of the writer's system calls the last one, and makes each
// fail: the n-th of every thread, for n from 1 until there is no n-th any more.
// The order in which threads get their calls differs between runs, which a
// test of many runs turns into more cases.
func TestSteps(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: no faults can be injected into system calls")
	}
	if out, err := exec.Command(strace, "-f", "-qq", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		t.Skipf("strace does not run here: %v: %s", err, out)
	}
	// How many of each kind, spread over the first forty; TWINHULL_AUDIT_CUTS=40
	// does each of those, of all calls, and takes its time.
	most, calls := 1, []string{"write", "renameat", "fsync"}
	if n, err := strconv.Atoi(os.Getenv("TWINHULL_AUDIT_CUTS")); err == nil && n > 0 {
		most, calls = n, changing
	}
	cut, failed, acked := 0, 0, 0
	for _, how := range []string{"signal=KILL", "error=EIO", "error=ENOSPC"} {
		for _, call := range calls {
			h := &history{dir: filepath.Join(t.TempDir(), "log"), acked: map[uint64]string{}}
			// The log is there already, so that its making is not all that is cut.
			if how == "signal=KILL" && call == "mkdirat" {
				os.RemoveAll(h.dir)
			} else if out, err := child(t.Context(), h, 3, 1, 0).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			} else {
				h.read(t, string(out))
			}
			step := max(1, 40/most)
			for n, idle := 1+step/8, 0; n <= most*step && idle < 3; n += step {
				// Only what happens in the log's folder: the program's own start is
				// nobody's fault.
				trace := filepath.Join(t.TempDir(), "trace")
				c := child(t.Context(), h, 12, 3, n, strace, "-f", "-qq", "-o", trace,
					"-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", call, how, n))
				var said, errs bytes.Buffer
				c.Stdout, c.Stderr = &said, &errs
				timer := time.AfterFunc(20*time.Second, func() { c.Process.Signal(syscall.SIGKILL) })
				c.WaitDelay = 5 * time.Second
				err := c.Run()
				timer.Stop()
				acked += h.read(t, said.String())
				what := fmt.Sprintf("%s %s:when=%d", call, how, n)
				text, _ := os.ReadFile(trace)
				switch {
				case how == "signal=KILL" && bytes.Contains(text, []byte("killed by SIGKILL")):
					cut++
					idle = 0
				case bytes.Contains(text, []byte("(INJECTED)")):
					failed++
					idle = 0
				default:
					idle++ // there were not so many
				}
				if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() == 2 && !strings.Contains(errs.String(), "panic")) {
					// 2 is also what a panic of the storage exits with, which is as good
					// as a crash.
					t.Logf("%s: %v: %.300s", what, err, errs.String())
				}
				if _, err := os.Lstat(h.dir); err != nil {
					continue // cut before anything was made
				}
				h.check(t, what)
			}
		}
	}
	t.Logf("%d cuts, %d failed calls, %d acknowledged entries, all there", cut, failed, acked)
	if cut == 0 || failed == 0 {
		t.Error("nothing was injected")
	}
}

// TestReadOnly is a disk that became read-only.
func TestReadOnly(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere; TestFullDisk has a file system of its own")
	}
	dir := t.TempDir()
	l := open(t, dir, Options{})
	add(t, l, "a")
	protect(t, dir, 0o500)
	if _, err := l.Append(t.Context(), sample("b")); err == nil {
		t.Error("written to a read-only folder")
	}
	protect(t, dir, 0o700)
	if i := add(t, l, "c"); i != 1 {
		t.Errorf("index %d", i)
	}
}

func protect(t *testing.T, dir string, mode os.FileMode) {
	t.Helper()
	for _, sub := range []string{"lock", ".state", "tile/0", "tile/0/000.p", "tile/entries", "tile/entries/000.p", "tile", "."} {
		m := mode
		if sub == "lock" {
			m &^= 0o100
		}
		if err := os.Chmod(filepath.Join(dir, sub), m); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDisk fills a small file system of its own, and then mounts it
// read-only: appends fail, nothing that was acknowledged is lost, and the log
// goes on when there is room again.
func TestFullDisk(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("unshare is not installed")
	}
	script := `set -e
mount -t tmpfs -o size=300k,mode=0700 none "$1"
export TWINHULL_AUDIT_TEST_WRITER="$1/log 3 1 before"
"$2" || exit 21
dd if=/dev/zero of="$1/filler" bs=1k 2>/dev/null || :
export TWINHULL_AUDIT_TEST_WRITER="$1/log 4 2 full"
if "$2"; then exit 22; fi
rm "$1/filler"
export TWINHULL_AUDIT_TEST_WRITER="$1/log 3 1 after"
"$2" || exit 23
mount -o remount,bind,ro "$1"
export TWINHULL_AUDIT_TEST_WRITER="$1/log 3 1 readonly"
if "$2"; then exit 24; fi
if find "$1/log" | grep -E '[0-9]{7}$'; then exit 25; fi
cp -a "$1/log" "$3"
`
	tmp := t.TempDir()
	mnt, copied := filepath.Join(tmp, "mnt"), filepath.Join(tmp, "copy")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(unshare, "-rm", "true").CombinedOutput(); err != nil {
		t.Skipf("no namespaces here: %v: %s", err, out)
	}
	c := exec.Command(unshare, "-rm", "sh", "-c", script, "sh", mnt, os.Args[0], copied)
	var said, errs bytes.Buffer
	c.Stdout, c.Stderr = &said, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, said.String(), errs.String())
	}
	h := &history{dir: copied, acked: map[uint64]string{}}
	if n := h.read(t, said.String()); n < 6 {
		t.Errorf("only %d were acknowledged:\n%s%s", n, said.String(), errs.String())
	}
	if !strings.Contains(errs.String(), "no space left") || !strings.Contains(errs.String(), "read-only file system") {
		t.Errorf("the errors say:\n%s", errs.String())
	}
	h.check(t, "full disk")
}
