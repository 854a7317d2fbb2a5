package durable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	oldContent = "old content"
	newContent = "new content, which is longer"
)

// stepper is the disk with something happening before the n-th step.
type stepper struct {
	disk
	left   int // steps until before is called
	before func(step string) error
}

func (s *stepper) step(name string) error {
	s.left--
	if s.left == 0 {
		return s.before(name)
	}
	return nil
}

func (s *stepper) create(path string, perm os.FileMode) (handle, error) {
	if err := s.step("create"); err != nil {
		return nil, err
	}
	h, err := s.disk.create(path, perm)
	if err != nil {
		return nil, err
	}
	return &stepHandle{h, s}, nil
}

func (s *stepper) rename(from, to string) error {
	if err := s.step("rename"); err != nil {
		return err
	}
	return s.disk.rename(from, to)
}

func (s *stepper) renameNew(from, to string) error {
	if err := s.step("rename"); err != nil {
		return err
	}
	return s.disk.renameNew(from, to)
}

func (s *stepper) remove(path string) error {
	if err := s.step("remove"); err != nil {
		return err
	}
	return s.disk.remove(path)
}

func (s *stepper) syncDir(dir string) error {
	if err := s.step("syncDir"); err != nil {
		return err
	}
	return s.disk.syncDir(dir)
}

func (s *stepper) syncFS(dir string) error {
	if err := s.step("syncFS"); err != nil {
		return err
	}
	return s.disk.syncFS(dir)
}

type stepHandle struct {
	handle
	s *stepper
}

func (h *stepHandle) Write(p []byte) (int, error) {
	if err := h.s.step("write"); err != nil {
		// A full disk takes a part first.
		n, _ := h.handle.Write(p[:len(p)/2])
		return n, err
	}
	return h.handle.Write(p)
}

func (h *stepHandle) Sync() error {
	if err := h.s.step("sync"); err != nil {
		return err
	}
	return h.handle.Sync()
}

func (h *stepHandle) Close() error {
	if err := h.s.step("close"); err != nil {
		h.handle.Close()
		return err
	}
	return h.handle.Close()
}

func TestMain(m *testing.M) {
	switch os.Getenv("DURABLE_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "file", "dir":
		childKilled()
	case "lock":
		if _, err := Lock(context.Background(), os.Getenv("DURABLE_TEST_PATH"), nil); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		time.Sleep(time.Minute)
	case "full":
		childFull()
	}
	os.Exit(0)
}

// childKilled writes and kills itself before the given step.
func childKilled() {
	n, _ := strconv.Atoi(os.Getenv("DURABLE_TEST_STEP"))
	path := os.Getenv("DURABLE_TEST_PATH")
	s := &stepper{left: n, before: func(string) error {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}}
	var err error
	if os.Getenv("DURABLE_TEST_CHILD") == "file" {
		err = writeFile(s, path, []byte(newContent), 0o644)
	} else {
		var tmp string
		if tmp, err = TempDir(filepath.Dir(path)); err == nil {
			err = os.WriteFile(filepath.Join(tmp, "f"), []byte(newContent), 0o644)
		}
		if err == nil {
			err = commitDir(s, tmp, path)
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func child(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// TestKilledAtEveryStep kills a writer before each step: the name has the old
// bytes or the new ones, and a later Sweep removes the rest.
func TestKilledAtEveryStep(t *testing.T) {
	for _, kind := range []string{"file", "dir"} {
		finished := false
		for step := 1; !finished; step++ {
			if step > 20 {
				t.Fatal("the writer never finishes")
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "target")
			read := path
			if kind == "dir" {
				read = filepath.Join(path, "f")
			} else if err := os.WriteFile(path, []byte(oldContent), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := child(t, "DURABLE_TEST_CHILD="+kind, "DURABLE_TEST_PATH="+path, "DURABLE_TEST_STEP="+strconv.Itoa(step)).CombinedOutput()
			finished = err == nil
			var exit *exec.ExitError
			if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
				t.Fatalf("%s step %d: %v %s", kind, step, err, out)
			}
			got, err := os.ReadFile(read)
			absent := kind == "dir" && errors.Is(err, fs.ErrNotExist)
			if err != nil && !absent {
				t.Fatal(err)
			}
			if !absent && string(got) != newContent && (string(got) != oldContent || kind == "dir") {
				t.Errorf("%s killed before step %d: %q", kind, step, got)
			}
			if finished && string(got) != newContent {
				t.Errorf("%s finished with %q", kind, got)
			}
			if err := Sweep(dir, 0); err != nil {
				t.Error(err)
			}
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{true: 0, false: 1}[absent]; len(left) != want {
				t.Errorf("%s killed before step %d leaves %v", kind, step, left)
			}
			if finished && step < 4 {
				t.Errorf("%s: only %d steps seen", kind, step)
			}
		}
	}
}

// TestFailureAtEveryStep fails each step: an error, the old bytes or complete
// new ones, and nothing left behind but where removing is what failed.
func TestFailureAtEveryStep(t *testing.T) {
	for step, finished := 1, false; !finished; step++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "target")
		if err := os.WriteFile(path, []byte(oldContent), 0o600); err != nil {
			t.Fatal(err)
		}
		failed := ""
		s := &stepper{left: step, before: func(name string) error { failed = name; return unix.ENOSPC }}
		err := writeFile(s, path, []byte(newContent), 0o644)
		finished = failed == ""
		got, _ := os.ReadFile(path)
		switch failed {
		case "", "close", "syncDir":
			if string(got) != newContent {
				t.Errorf("after %q failed: %q", failed, got)
			}
		default:
			if string(got) != oldContent {
				t.Errorf("after %s failed: %q", failed, got)
			}
		}
		if failed != "" && failed != "close" && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s failed: error %v", failed, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("%s failed: leaves %v", failed, left)
		}
	}
}

func TestWriteAfterFailureIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := create(&stepper{left: 2, before: func(string) error { return unix.ENOSPC }}, filepath.Dir(path), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write([]byte("first")); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("first write: %v", err)
	}
	if _, err := f.Write([]byte("second")); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("second write: %v", err)
	}
	if err := f.Commit(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("commit publishes a file with a hole: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
}

// childFull writes to a tmpfs of 64 KiB in a mount namespace of its own.
func childFull() {
	dir := os.Getenv("DURABLE_TEST_PATH")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		fmt.Println("skip:", err)
		os.Exit(0)
	}
	path := filepath.Join(dir, "f")
	if err := WriteFile(path, []byte(oldContent), 0o644); err != nil {
		fmt.Println("small file:", err)
		os.Exit(1)
	}
	err := WriteFile(path, bytes.Repeat([]byte("x"), 1<<20), 0o644)
	if !errors.Is(err, unix.ENOSPC) {
		fmt.Println("large file:", err)
		os.Exit(1)
	}
	got, _ := os.ReadFile(path)
	left, _ := os.ReadDir(dir)
	if string(got) != oldContent || len(left) != 1 {
		fmt.Printf("after a full disk: %q and %v\n", got, left)
		os.Exit(1)
	}
	fmt.Println("ok")
}

func TestFullDisk(t *testing.T) {
	cmd := child(t, "DURABLE_TEST_CHILD=full", "DURABLE_TEST_PATH="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil && len(out) == 0:
		t.Skipf("no user namespaces here: %v", err)
	case err != nil:
		t.Fatalf("%v: %s", err, out)
	case bytes.HasPrefix(out, []byte("skip:")):
		t.Skipf("no tmpfs here: %s", out)
	case string(out) != "ok\n":
		t.Fatalf("%s", out)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("outside", path); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("a"), 0o444); err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o222 != 0 {
		t.Errorf("mode %v", st.Mode())
	}
	if got, _ := os.ReadFile(outside); string(got) != "untouched" {
		t.Errorf("the link was followed: %q", got)
	}
	if err := WriteFile(filepath.Join(dir, "absent", "f"), nil, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
}

func TestCloseWithoutCommit(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "f"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Commit(); err == nil {
		t.Error("commit after close succeeds")
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("leaves %v", left)
	}
}

func TestCommitDirKeepsTheFirst(t *testing.T) {
	parent := t.TempDir()
	final := filepath.Join(parent, "tree")
	var wg sync.WaitGroup
	for i := range 8 {
		tmp, err := TempDir(parent)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tmp, "f"), []byte{byte(i)}, 0o644); err != nil {
			t.Fatal(err)
		}
		// A folder without write permission, as unpacked trees hold.
		if err := os.MkdirAll(filepath.Join(tmp, "closed", "inner"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(tmp, "closed"), 0o500); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := CommitDir(tmp, final); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	before, err := os.ReadFile(filepath.Join(final, "f"))
	if err != nil {
		t.Fatal(err)
	}
	tmp, err := TempDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := CommitDir(tmp, final); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(filepath.Join(final, "f")); !bytes.Equal(before, after) {
		t.Error("a later commit replaced the folder")
	}
	if left, _ := os.ReadDir(parent); len(left) != 1 {
		t.Errorf("leaves %v", left)
	}
	if err := RemoveAll(final); err != nil {
		t.Error(err)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	live, err := Create(filepath.Join(dir, "f"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	mustWrite := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mustWrite(TempPrefix + "stale")
	mustWrite("ordinary")
	if err := os.Mkdir(filepath.Join(dir, TempPrefix+"folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("ordinary", filepath.Join(dir, TempPrefix+"link")); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(dir, time.Hour); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadDir(dir); len(got) != 5 {
		t.Errorf("young temporaries are gone: %v", got)
	}
	if err := Sweep(dir, 0); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadDir(dir); len(got) != 2 {
		t.Errorf("want the ordinary file and the one being written: %v", got)
	}
	if err := live.Commit(); err != nil {
		t.Errorf("the file being written was swept: %v", err)
	}
	if err := Sweep(filepath.Join(dir, "absent"), 0); err != nil {
		t.Error(err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	ctx := context.Background()
	var inside, waited atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			unlock, err := Lock(ctx, path, func() { waited.Add(1) })
			if err != nil {
				t.Error(err)
				return
			}
			if inside.Add(1) != 1 {
				t.Error("two holders")
			}
			time.Sleep(2 * time.Millisecond)
			inside.Add(-1)
			unlock()
			unlock()
		})
	}
	wg.Wait()
	if n := waited.Load(); n == 0 || n > 7 {
		t.Errorf("waiting was told %d times", n)
	}

	r1, err := RLock(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r1()
	r2, err := RLock(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r2()
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := Lock(short, path, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("exclusive beside shared: %v", err)
	}
}

// TestLockDiesWithItsProcess kills a holder: nobody has to clean up.
func TestLockDiesWithItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd := child(t, "DURABLE_TEST_CHILD=lock", "DURABLE_TEST_PATH="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 6)
	if _, err := out.Read(buf); err != nil || string(buf) != "locked" {
		t.Fatalf("child: %q %v", buf, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	unlock, err := Lock(ctx, path, func() { _ = cmd.Process.Kill() })
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	_ = cmd.Wait()
}
