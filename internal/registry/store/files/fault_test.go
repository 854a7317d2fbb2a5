package files

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Children of the tests do their work in processes of their own, so that these can
// be killed, traced, or given a small disk.
func TestMain(m *testing.M) {
	dir := os.Getenv("FILES_TEST_DIR")
	var err error
	switch os.Getenv("FILES_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "steps":
		err = childSteps(dir)
	case "load":
		err = childLoad(dir)
	case "full":
		err = childFull(dir)
	case "readonly":
		err = childReadOnly(dir)
	case "hold":
		if _, err = Open(dir, Options{}); err == nil {
			fmt.Println("open")
			_, _ = io.Copy(io.Discard, os.Stdin) // until the parent ends it, or ends
		}
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(t *testing.T, what, dir string, before ...string) *exec.Cmd {
	t.Helper()
	args := append(before, os.Args[0])
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "FILES_TEST_CHILD="+what, "FILES_TEST_DIR="+dir, "GORACE=atexit_sleep_ms=0", "GODEBUG=asyncpreemptoff=1")
	return cmd
}

// tell acknowledges to the parent, by a system call that nobody injects faults into.
func tell(format string, a ...any) {
	_, _ = unix.Writev(1, [][]byte{fmt.Appendf(nil, format+"\n", a...)})
}

// The content of the scripted child.
var (
	oldBlob, newBlob, thirdBlob = []byte("old content"), bytes.Repeat([]byte("new content "), 50_000), []byte("third")
	oldDigest, newDigest        = digest.FromBytes(oldBlob), digest.FromBytes(newBlob)
	thirdDigest                 = digest.SHA512.FromBytes(thirdBlob)
)

// prepare makes a store that holds something, and ends its use.
func prepare(t *testing.T, dir string) {
	t.Helper()
	f := openFiles(t, dir)
	s := f.Store()
	ctx := t.Context()
	pushTo(t, s, oldBlob, oldDigest)
	pushTo(t, s, oldBlob, digest.SHA512.FromBytes(oldBlob)) // its folders are there
	err := s.Records.Update(ctx, func(tx store.Transaction) error {
		return errors.Join(tx.Put([]byte("a"), []byte("old")), tx.Put([]byte("b"), []byte("old")), tx.Put([]byte("blob/"+oldDigest), nil),
			tx.Put([]byte("blob/"+digest.SHA512.FromBytes(oldBlob)), nil))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func pushTo(t *testing.T, s store.Store, b []byte, d oci.Digest) {
	t.Helper()
	ctx := context.Background()
	id, err := s.Uploads.Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Uploads.Append(ctx, id, 0, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Uploads.Commit(ctx, id, d); err != nil {
		t.Fatal(err)
	}
	if err := s.Uploads.Discard(ctx, id); err != nil {
		t.Fatal(err)
	}
}

// childSteps does each thing once, and tells what was acknowledged. It goes on after
// errors, as a server does. All of it is in one thread, because strace counts the
// calls of each thread on its own.
func childSteps(dir string) error {
	runtime.LockOSThread()
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	st := s.Store()
	ctx := context.Background()
	tell("opened")
	did := func(what string, err error) bool {
		if err != nil {
			tell("failed %s: %v", what, err)
			return false
		}
		tell("did %s", what)
		return true
	}
	did("update", st.Records.Update(ctx, func(tx store.Transaction) error {
		return errors.Join(tx.Put([]byte("a"), []byte("new")), tx.Put([]byte("b"), []byte("new")))
	}))
	one := func(b []byte, d oci.Digest) {
		id, err := st.Uploads.Create(ctx)
		if err != nil {
			did("create", err)
			return
		}
		if _, err := st.Uploads.Append(ctx, id, 0, bytes.NewReader(b)); err != nil {
			did("append", err)
			return
		}
		_, err = st.Uploads.Commit(ctx, id, d)
		if !did("commit "+string(d), err) {
			return
		}
		if !did("refer "+string(d), st.Records.Update(ctx, func(tx store.Transaction) error {
			return tx.Put([]byte("blob/"+d), nil)
		})) {
			return
		}
		did("discard", st.Uploads.Discard(ctx, id))
	}
	one(newBlob, newDigest)
	one(thirdBlob, thirdDigest)
	if did("drop", st.Records.Update(ctx, func(tx store.Transaction) error { return tx.Delete([]byte("blob/" + oldDigest)) })) {
		did("delete", st.Blobs.Delete(ctx, oldDigest))
	}
	did("close", s.Close())
	return nil
}

// judge opens what a child has left and compares it with what that has told.
func judge(t *testing.T, dir, told string) {
	t.Helper()
	did := func(what string) bool { return strings.Contains(told, "did "+what+"\n") }
	f, err := Open(dir, Options{})
	if err != nil {
		t.Errorf("open: %v", err)
		return
	}
	defer f.Close()
	s := f.Store()
	ctx := context.Background()
	if err := f.Check(ctx); err != nil {
		t.Errorf("check: %v", err)
	}
	referred := map[oci.Digest]bool{}
	err = s.Records.View(ctx, func(r store.Reader) error {
		a, _, err := r.Get([]byte("a"))
		if err != nil {
			return err
		}
		b, _, err := r.Get([]byte("b"))
		if err != nil {
			return err
		}
		if string(a) != string(b) || string(a) != "new" && (string(a) != "old" || did("update")) {
			t.Errorf("records are %q and %q, update acknowledged: %t", a, b, did("update"))
		}
		for rec, err := range r.Scan([]byte("blob/"), nil) {
			if err != nil {
				return err
			}
			referred[oci.Digest(strings.TrimPrefix(string(rec.Key), "blob/"))] = true
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if did("drop") && referred[oldDigest] {
		t.Error("a record that was deleted is there")
	}
	for _, d := range []oci.Digest{newDigest, thirdDigest} {
		if did("refer "+string(d)) && !referred[d] {
			t.Errorf("the record of %s is lost", d)
		}
		if _, err := s.Blobs.Size(ctx, d); did("commit "+string(d)) && err != nil {
			t.Errorf("content that was acknowledged is lost: %v", err)
		}
	}
	for d := range referred {
		if _, err := s.Blobs.Size(ctx, d); err != nil {
			t.Errorf("records refer to what is not there: %v", err)
		}
	}
	if _, err := s.Blobs.Size(ctx, oldDigest); did("delete") && !errors.Is(err, store.ErrNotFound) {
		t.Errorf("content that was deleted is there: %v", err)
	}
	pending := map[oci.Digest]bool{}
	for u, err := range s.Uploads.Uploads(ctx) {
		if err != nil {
			t.Error(err)
		}
		pending[u.Committing] = true
	}
	for info, err := range s.Blobs.List(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if !referred[info.Digest] && !pending[info.Digest] && info.Digest != oldDigest {
			t.Errorf("nobody would ever find %s", info.Digest)
		}
		blob, err := s.Blobs.Open(ctx, info.Digest)
		if err != nil {
			t.Fatal(err)
		}
		v := info.Digest.Verifier()
		_, err = io.Copy(v, blob.Content)
		blob.Content.Close()
		if err != nil || !v.Verified() {
			t.Errorf("%s is incomplete: %v", info.Digest, err)
		}
	}
	// And it goes on.
	pushTo(t, s, []byte("after"), digest.FromString("after"))
	if err := s.Records.Update(ctx, func(tx store.Transaction) error { return tx.Put([]byte("c"), nil) }); err != nil {
		t.Error(err)
	}
}

// steps are the system calls that change what is on the disk.
const steps = "?mkdir,mkdirat,fsync,fdatasync,pwrite64,write,ftruncate,sync_file_range,?rename,renameat,renameat2,?link,linkat,?unlink,unlinkat"

func strace(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("strace is missing; in CI nothing is skipped (tools/prepare-tests)")
		}
		t.Skip("strace is missing (tools/prepare-tests gets it)")
	}
	// Some containers forbid tracing, whatever is installed.
	if out, err := exec.Command(path, "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace does not run here: %v: %s", err, out)
	}
	return path
}

// TestEveryStep cuts after each step that changes the disk, in a process that is
// killed there, and lets each step fail with an input-output error and with a full
// disk. The order of the steps is tested, too: killing keeps what is in the kernel,
// a power cut does not.
func TestEveryStep(t *testing.T) {
	tool := strace(t)
	template := t.TempDir()
	prepare(t, template)
	run := func(t *testing.T, options ...string) (dir, told, trace string) {
		t.Helper()
		dir = t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
			t.Fatal(err)
		}
		log := filepath.Join(t.TempDir(), "trace")
		cmd := child(t, "steps", dir, append([]string{tool, "-f", "-y", "-qq", "-s", "0", "-o", log}, options...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return dir, string(out), string(b)
	}

	dir, told, trace := run(t, "-e", "trace="+steps+",writev")
	judge(t, dir, told)
	if !strings.HasSuffix(told, "did close\n") || strings.Contains(told, "failed") {
		t.Fatalf("without a fault the child says:\n%s%s", told, trace)
	}
	t.Run("Order", func(t *testing.T) { judgeOrder(t, trace) })

	total := map[string]int{} // calls of the thread that does the work
	main := ""
	lines := strings.Split(trace, "\n")
	for _, line := range lines {
		if strings.Contains(line, "writev(1<") {
			main, _, _ = strings.Cut(line, " ")
		}
	}
	for _, line := range lines {
		if thread, call, ok := strings.Cut(line, " "); ok && thread == main && strings.Contains(call, "(") {
			name, _, _ := strings.Cut(strings.TrimSpace(call), "(")
			total[name]++
		}
	}
	delete(total, "writev")
	all := 0
	for _, n := range total {
		all += n
	}
	if all < 20 || total["fdatasync"] < 6 || total["linkat"]+total["link"] != 2 {
		t.Fatalf("these calls are too few: %v\n%s", total, trace)
	}
	t.Logf("%d steps: %v", all, total)
	for _, fault := range []string{"signal=KILL", "error=EIO", "error=ENOSPC"} {
		for call, n := range total {
			t.Run(fault+"/"+call, func(t *testing.T) {
				t.Parallel()
				for i := 1; i <= n; i++ {
					inject := fmt.Sprintf("inject=%s:%s:when=%d", call, fault, i)
					dir, told, trace := run(t, "-e", "trace="+call, "-e", inject)
					if !strings.Contains(trace, "INJECTED") && !strings.Contains(trace, "killed by SIGKILL") {
						t.Errorf("%s: nothing was injected:\n%s", inject, trace)
					}
					judge(t, dir, told)
					if t.Failed() {
						t.Fatalf("%s; it said:\n%s", inject, told)
					}
				}
			})
		}
	}
}

// judgeOrder holds the calls of the trace against the package comment.
func judgeOrder(t *testing.T, trace string) {
	last := -1
	want := func(what, pattern string) {
		t.Helper()
		re := regexp.MustCompile(pattern)
		for i, line := range strings.Split(trace, "\n") {
			if i > last && re.MatchString(line) {
				last = i
				return
			}
		}
		t.Fatalf("no %s where it should be in:\n%s", what, trace)
	}
	told := func() { t.Helper(); want("acknowledgement", `writev\(1<`) }
	told() // opened
	update := func() {
		t.Helper()
		want("pages", `pwrite64\(.*records\.db`)
		want("synchronisation of pages", `fdatasync\(.*records\.db`)
		want("root", `pwrite64\(.*records\.db`)
		want("synchronisation of the root", `fdatasync\(.*records\.db`)
		told()
	}
	update()
	for _, d := range []oci.Digest{newDigest, thirdDigest} {
		folder := `blobs/` + string(d.Algorithm()) + `/` + d.Encoded()[:2]
		name := string(d)
		want("rename", `rename(at2?)?\(.*uploads/[A-Z2-7]+", .*uploads/[A-Z2-7]+@`+name)
		want("synchronisation of the upload", `fdatasync\(.*uploads/[A-Z2-7]+`)
		want("synchronisation of uploads", `fsync\([0-9]+<.*/uploads>\)`)
		want("link", `link(at)?\(.*uploads/[A-Z2-7]+@`+name+`.*`+folder)
		want("synchronisation of the folder", `fsync\([0-9]+<.*`+folder+`>\)`)
		told()
		update() // refer
		want("discard", `unlink(at)?\(.*uploads/[A-Z2-7]+@`)
		told()
	}
	update() // drop
	want("delete", `unlink(at)?\(.*`+oldDigest.Encoded())
	want("synchronisation of the folder", `fsync\([0-9]+<.*blobs/sha256/`+oldDigest.Encoded()[:2]+`>\)`)
	told()
}

// childLoad works on the store with many at once until it is killed. Worker w's
// n-th round pushes content, refers to it, and deletes that of round n-2.
func childLoad(dir string) error {
	f, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	s := f.Store()
	ctx := context.Background()
	start := map[int]int{}
	err = s.Records.View(ctx, func(r store.Reader) error {
		for w := range workers {
			n, err := roundOf(r, w)
			if err != nil {
				return err
			}
			start[w] = n
		}
		return nil
	})
	if err != nil {
		return err
	}
	tell("opened")
	failed := make(chan error)
	for w := range workers {
		go func() {
			for n := start[w] + 1; ; n++ {
				if err := loadRound(ctx, s, w, n); err != nil {
					failed <- fmt.Errorf("worker %d, round %d: %w", w, n, err)
				}
			}
		}()
	}
	return <-failed
}

const workers = 12

func roundOf(r store.Reader, w int) (int, error) {
	v, ok, err := r.Get(fmt.Appendf(nil, "round/%d", w))
	if err != nil || !ok {
		return 0, err
	}
	return strconv.Atoi(string(v))
}

func loadContent(w, n int) []byte {
	b := make([]byte, 1+(w*7919+n*104729)%60_000)
	_, _ = rand.NewChaCha8([32]byte{byte(w), byte(n), byte(n >> 8)}).Read(b)
	return b
}

func loadRound(ctx context.Context, s store.Store, w, n int) error {
	b := loadContent(w, n)
	d := digest.FromBytes(b)
	id, err := s.Uploads.Create(ctx)
	if err != nil {
		return err
	}
	if _, err := s.Uploads.Append(ctx, id, 0, bytes.NewReader(b)); err != nil {
		return err
	}
	if _, err := s.Uploads.Commit(ctx, id, d); err != nil {
		return err
	}
	tell("commit %d %d", w, n)
	err = s.Records.Update(ctx, func(tx store.Transaction) error {
		if n > 2 {
			if err := tx.Delete([]byte("blob/" + digest.FromBytes(loadContent(w, n-2)))); err != nil {
				return err
			}
		}
		return errors.Join(
			tx.Put(fmt.Appendf(nil, "round/%d", w), strconv.AppendInt(nil, int64(n), 10)),
			tx.Put([]byte("blob/"+d), fmt.Appendf(nil, "%d %d", w, n)),
		)
	})
	if err != nil {
		return err
	}
	tell("refer %d %d", w, n)
	if err := s.Uploads.Discard(ctx, id); err != nil {
		return err
	}
	if n > 2 {
		if err := s.Blobs.Delete(ctx, digest.FromBytes(loadContent(w, n-2))); err != nil {
			return err
		}
		tell("delete %d %d", w, n-2)
	}
	return nil
}

// TestKilledUnderLoad kills a server at random moments, again and again, and
// compares what is left with what it acknowledged.
func TestKilledUnderLoad(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	dir := t.TempDir()
	acknowledged, deaths := 0, 0
	for range rounds {
		cmd := child(t, "load", dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		committed, referred, deleted := map[int]int{}, map[int]int{}, map[int]int{}
		opened := false
		kill := 40 + rand.IntN(400) // acknowledgements, not time
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var what string
			var w, n int
			if _, err := fmt.Sscan(lines.Text(), &what, &w, &n); err != nil {
				if opened = lines.Text() == "opened"; !opened {
					t.Errorf("the child says: %s", lines.Text())
				}
				continue
			}
			switch what {
			case "commit":
				committed[w] = max(committed[w], n)
			case "refer":
				referred[w] = max(referred[w], n)
			case "delete":
				deleted[w] = max(deleted[w], n)
			}
			acknowledged++
			if kill--; kill == 0 {
				_ = cmd.Process.Kill()
				deaths++
			}
		}
		_ = cmd.Wait()
		if !opened {
			t.Fatal("the child did not come so far")
		}

		f, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s := f.Store()
		ctx := t.Context()
		if err := f.Check(ctx); err != nil {
			t.Error(err)
		}
		refs := map[oci.Digest]bool{}
		err = s.Records.View(ctx, func(r store.Reader) error {
			for w := range workers {
				n, err := roundOf(r, w)
				if err != nil {
					return err
				}
				if n < referred[w] || n > committed[w]+1 && committed[w] > 0 {
					t.Errorf("worker %d: round %d, though it acknowledged %d", w, n, referred[w])
				}
				for i := max(n-1, 1); i <= n; i++ { // those two are to be there
					d := digest.FromBytes(loadContent(w, i))
					if _, ok, err := r.Get([]byte("blob/" + d)); err != nil || !ok {
						t.Errorf("worker %d: the record of round %d is lost: %v", w, i, err)
					}
				}
			}
			for rec, err := range r.Scan([]byte("blob/"), nil) {
				if err != nil {
					return err
				}
				refs[oci.Digest(strings.TrimPrefix(string(rec.Key), "blob/"))] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for w := range workers {
			if d := digest.FromBytes(loadContent(w, committed[w])); committed[w] > 0 && committed[w] > deleted[w] {
				if _, err := s.Blobs.Size(ctx, d); err != nil {
					t.Errorf("worker %d: content of round %d was acknowledged: %v", w, committed[w], err)
				}
			}
			if d := digest.FromBytes(loadContent(w, deleted[w])); deleted[w] > 0 {
				if _, err := s.Blobs.Size(ctx, d); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("worker %d: content of round %d was deleted: %v", w, deleted[w], err)
				}
			}
		}
		for d := range refs {
			blob, err := s.Blobs.Open(ctx, d)
			if err != nil {
				t.Errorf("a record refers to it: %v", err)
				continue
			}
			v := d.Verifier()
			_, err = io.Copy(v, blob.Content)
			blob.Content.Close()
			if err != nil || !v.Verified() {
				t.Errorf("%s is incomplete: %v", d, err)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d acknowledgements, %d deaths, nothing lost", acknowledged, deaths)
}

// namespaced runs a child as root of a user namespace with mounts of its own.
func namespaced(t *testing.T, what string) {
	t.Helper()
	cmd := child(t, what, t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	skip := func(why string) {
		if os.Getenv("CI") == "true" {
			t.Fatal(why, "; in CI nothing is skipped")
		}
		t.Skip(why)
	}
	switch {
	case err != nil && len(out) == 0:
		skip(fmt.Sprint("no user namespaces here: ", err))
	case err != nil:
		t.Fatalf("%v: %s", err, out)
	case bytes.HasPrefix(out, []byte("skip:")):
		skip(fmt.Sprintf("no tmpfs here: %s", out))
	case !bytes.HasSuffix(out, []byte("ok\n")):
		t.Fatalf("%s", out)
	}
}

func TestFullDisk(t *testing.T)     { namespaced(t, "full") }
func TestReadOnlyDisk(t *testing.T) { namespaced(t, "readonly") }

func mountTmpfs(dir string) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		fmt.Println("skip:", err)
		os.Exit(0)
	}
}

func oneRecord(s store.Store, key string, size int) error {
	return s.Records.Update(context.Background(), func(tx store.Transaction) error {
		return tx.Put([]byte(key), bytes.Repeat([]byte("v"), size))
	})
}

func hasRecord(s store.Store, key string) (ok bool, err error) {
	err = s.Records.View(context.Background(), func(r store.Reader) error {
		_, ok, err = r.Get([]byte(key))
		return err
	})
	return ok, err
}

// childFull fills a disk, with an upload and with records, makes room and goes on.
func childFull(dir string) error {
	mountTmpfs(dir)
	f, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	s := f.Store()
	ctx := context.Background()
	if err := oneRecord(s, "first", 100); err != nil {
		return err
	}
	id, err := s.Uploads.Create(ctx)
	if err != nil {
		return err
	}
	b := make([]byte, 16<<20)
	n, err := s.Uploads.Append(ctx, id, 0, bytes.NewReader(b))
	if !errors.Is(err, store.ErrFull) || n == 0 {
		return fmt.Errorf("Append to a full disk: %d, %w; want what fitted and ErrFull", n, err)
	}
	if u, err := s.Uploads.Status(ctx, id); err != nil || u.Size != n {
		return fmt.Errorf("Status: %+v, %w; want %d", u, err, n)
	}
	var full error
	stored := 0
	for full == nil && stored < 100 {
		if full = oneRecord(s, fmt.Sprint("more", stored), 200_000); full == nil {
			stored++
		}
	}
	if !errors.Is(full, store.ErrFull) {
		return fmt.Errorf("Update on a full disk: %w; want ErrFull", full)
	}
	if ok, err := hasRecord(s, fmt.Sprint("more", stored)); ok || err != nil {
		return fmt.Errorf("a record that found no room is there: %t, %w", ok, err)
	}
	if ok, err := hasRecord(s, "first"); !ok || err != nil {
		return fmt.Errorf("the first record: %t, %w", ok, err)
	}
	// What was kept can be committed without room: nothing is copied.
	d := digest.FromBytes(b[:n])
	if _, err := s.Uploads.Commit(ctx, id, d); err != nil {
		return fmt.Errorf("Commit on a full disk: %w", err)
	}
	if err := errors.Join(s.Uploads.Discard(ctx, id), s.Blobs.Delete(ctx, d)); err != nil {
		return err
	}
	if err := oneRecord(s, "after", 200_000); err != nil {
		return fmt.Errorf("Update once there is room: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	if f, err = Open(dir, Options{}); err != nil {
		return err
	}
	defer f.Close()
	for _, key := range []string{"first", "after"} {
		if ok, err := hasRecord(f.Store(), key); !ok || err != nil {
			return fmt.Errorf("record %s: %t, %w", key, ok, err)
		}
	}
	if err := f.Check(ctx); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}

// childReadOnly starts on a disk that is read-only.
func childReadOnly(dir string) error {
	mountTmpfs(dir)
	f, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	s := f.Store()
	ctx := context.Background()
	if err := oneRecord(s, "first", 100); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, store.ErrReadOnly) {
		return fmt.Errorf("Open: %w; want ErrReadOnly", err)
	}
	f, err = Open(dir, Options{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("Open for reading: %w", err)
	}
	defer f.Close()
	s = f.Store()
	if ok, err := hasRecord(s, "first"); !ok || err != nil {
		return fmt.Errorf("reading: %t, %w", ok, err)
	}
	_, created := s.Uploads.Create(ctx)
	for what, err := range map[string]error{"Update": oneRecord(s, "second", 1), "Create": created} {
		if !errors.Is(err, store.ErrReadOnly) {
			return fmt.Errorf("%s: %w; want ErrReadOnly", what, err)
		}
	}
	if err := f.Check(ctx); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}

func TestSecondServer(t *testing.T) {
	dir := t.TempDir()
	cmd := child(t, "hold", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "open\n" {
		t.Fatalf("%q, %v", line, err)
	}
	for _, readOnly := range []bool{false, true} {
		_, err = Open(dir, Options{ReadOnly: readOnly})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", cmd.Process.Pid)) {
			t.Errorf("a second server, read-only %t: %v; want who has it", readOnly, err)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	s := openFiles(t, dir)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if err := oneRecord(s.Store(), "k", 1); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Update when closed: %v", err)
	}
	if _, err := hasRecord(s.Store(), "k"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("View when closed: %v", err)
	}
}

// TestDamaged breaks the file of records in many ways: it is told, and nothing
// crashes, and no wrong value is given out. One that was not closed is read in other
// ways, because its free pages have to be found.
func TestDamaged(t *testing.T) {
	template := t.TempDir()
	f := openFiles(t, template)
	const n = 2000
	err := f.Store().Records.Update(t.Context(), func(tx store.Transaction) error {
		for i := range n {
			if err := tx.Put(fmt.Appendf(nil, "key%05d", i), fmt.Appendf(nil, "value of %05d", i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(listed bool) []byte {
		b, err := os.ReadFile(filepath.Join(template, "records.db"))
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := readMeta(bytes.NewReader(b)); !ok || (m.freelist != noFreelist) != listed {
			t.Errorf("%+v, %t; want the free pages listed: %t", m, ok, listed)
		}
		return b
	}
	unclosed := read(false)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	closed := read(true)
	t.Run("not closed", func(t *testing.T) { testDamaged(t, unclosed, n) })
	t.Run("closed", func(t *testing.T) { testDamaged(t, closed, n) })
}

func testDamaged(t *testing.T, good []byte, n int) {
	used := bytes.LastIndex(good, []byte("value of")) + 4096
	r := rand.New(rand.NewPCG(5, 6))
	breaks := map[string]func(b []byte) []byte{
		"empty":     func([]byte) []byte { return []byte{0} },
		"not bbolt": func([]byte) []byte { return bytes.Repeat([]byte("text "), 10_000) },
		"one page":  func(b []byte) []byte { return b[:4096] },
		"cut off":   func(b []byte) []byte { return b[:5*4096] },
		"cut in a page": func(b []byte) []byte {
			return b[:used/2&^4095+100]
		},
		"roots": func(b []byte) []byte { clear(b[16:8192]); return b },
	}
	for i := range 60 {
		breaks[fmt.Sprintf("page %d", i)] = func(b []byte) []byte {
			at := 8192 + r.IntN(used-8192)&^4095
			clear(b[at : at+4096])
			return b
		}
		breaks[fmt.Sprintf("bytes %d", i)] = func(b []byte) []byte {
			for range 20 {
				b[8192+r.IntN(used-8192)] ^= byte(1 + r.IntN(255))
			}
			return b
		}
	}
	told, unharmed := 0, 0
	for name, f := range breaks {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "records.db"), f(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		err := readDamaged(t.Context(), dir, n)
		switch {
		case err == nil:
			unharmed++
		case errors.Is(err, store.ErrDamaged):
			told++
		default:
			t.Errorf("%s: %v; want ErrDamaged", name, err)
		}
		if i := strings.IndexByte(name, ' '); i < 0 && err == nil {
			t.Errorf("%s: nobody noticed", name)
		}
	}
	t.Logf("%d were told, %d hit nothing that is read", told, unharmed)
	if told < len(breaks)/2 {
		t.Errorf("only %d of %d were told", told, len(breaks))
	}
}

func readDamaged(ctx context.Context, dir string, n int) error {
	r, err := openRecords(filepath.Join(dir, "records.db"), false)
	if err != nil {
		return err
	}
	defer r.close()
	err = r.View(ctx, func(tx store.Reader) error {
		i := 0
		for rec, err := range tx.Scan(nil, nil) {
			if err != nil {
				return err
			}
			if string(rec.Key) != fmt.Sprintf("key%05d", i) || string(rec.Value) != fmt.Sprintf("value of %05d", i) {
				// Keys that a lost page took with it are for Check to find.
				if !bytes.Equal(rec.Key[3:], rec.Value[9:]) {
					return fmt.Errorf("%q has the value %q", rec.Key, rec.Value)
				}
			}
			i++
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = r.Update(ctx, func(tx store.Transaction) error {
		return errors.Join(tx.Put([]byte("key00010a"), []byte("value of 00010a")), tx.Put([]byte("key01000a"), []byte("value of 01000a")))
	})
	if err != nil {
		return err
	}
	return r.check(ctx)
}

func TestBackup(t *testing.T) {
	dir, to := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	f := openFiles(t, dir)
	s := f.Store()
	ctx := t.Context()
	var all []oci.Digest
	add := func(i int) {
		b := fmt.Appendf(nil, "content %d", i)
		d := digest.FromBytes(b)
		all = append(all, d)
		pushTo(t, s, b, d)
		if err := oneRecord(s, "blob/"+string(d), 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		add(i)
	}
	// It is served meanwhile.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 100; ; i++ {
			select {
			case <-stop:
				return
			default:
				add(i)
			}
		}
	})
	for range 2 { // the second copies what is new
		if err := f.Backup(ctx, to); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	copied := openFiles(t, to)
	if err := copied.Check(ctx); err != nil {
		t.Error(err)
	}
	n := 0
	err := copied.Store().Records.View(ctx, func(r store.Reader) error {
		for rec, err := range r.Scan([]byte("blob/"), nil) {
			if err != nil {
				return err
			}
			n++
			if _, err := copied.Store().Blobs.Size(ctx, oci.Digest(strings.TrimPrefix(string(rec.Key), "blob/"))); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	if err != nil || n < 20 || n > len(all) {
		t.Errorf("%d records, %v", n, err)
	}
	if left, _ := os.ReadDir(filepath.Join(to, "tmp")); len(left) != 0 {
		t.Errorf("leaves %v", left)
	}

	// Content that has rotted is not handed on.
	path := filepath.Join(dir, "blobs", "sha256", all[0].Encoded()[:2], all[0].Encoded())
	if err := os.WriteFile(path, []byte("rotten"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Backup(ctx, filepath.Join(t.TempDir(), "second")); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("backup of rotten content: %v; want ErrDamaged", err)
	}
	// Whoever pushes it again mends what has another size.
	pushTo(t, s, []byte("content 0"), all[0])
	if err := f.Backup(ctx, filepath.Join(t.TempDir(), "third")); err != nil {
		t.Error(err)
	}
	if err := f.Backup(ctx, dir); err == nil {
		t.Error("a backup into the folder itself succeeds")
	}
}

// TestSharedSync: a call is answered by a synchronisation that began after it.
func TestSharedSync(t *testing.T) {
	var mu sync.Mutex
	begun, made := 0, 0
	fs := folders{all: map[string]*folder{}, sync: func(string) error {
		mu.Lock()
		begun = made // what this one makes durable
		n := made
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		begun = max(begun, n)
		return nil
	}}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			mu.Lock()
			made++
			mine := made
			mu.Unlock()
			if err := fs.syncDir("d"); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if begun < mine {
				t.Errorf("change %d was answered when %d were durable", mine, begun)
			}
		})
	}
	wg.Wait()

	broken := errors.New("broken")
	fs.sync = func(string) error { return broken }
	if err := fs.syncDir("d"); !errors.Is(err, broken) {
		t.Error(err)
	}
	fs.sync = func(string) error { return nil }
	if err := fs.syncDir("d"); !errors.Is(err, broken) {
		t.Errorf("after a failure: %v; want it to stay", err)
	}
	if err := fs.syncDir("other"); err != nil {
		t.Errorf("another folder: %v", err)
	}
}

// TestLeftovers: what a crash leaves in tmp goes at the next start, and foreign
// files are nobody's content.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	f := openFiles(t, dir)
	pushTo(t, f.Store(), oldBlob, oldDigest)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tmp/.twinhull-tmp-X", "blobs/sha256/README", "blobs/sha256/" + oldDigest.Encoded()[:2] + "/" + digest.FromString("x").Encoded(), "uploads/note", "uploads/" + store.NewID() + "@sha256:short"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f = openFiles(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "tmp/.twinhull-tmp-X")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a temporary file stays: %v", err)
	}
	n := 0
	for _, err := range f.Store().Blobs.List(t.Context()) {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d contents, want 1", n)
	}
	for u, err := range f.Store().Uploads.Uploads(t.Context()) {
		t.Errorf("upload %+v, %v", u, err)
	}
}
