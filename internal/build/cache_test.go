package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testCache(t *testing.T) cache {
	c := newCache(t.TempDir())
	c.syncFS = func(int) error { return errors.New("not now") }
	t.Cleanup(c.settled.Wait)
	return c
}

// A record is believed only as it was written, under its own name.
func TestRecords(t *testing.T) {
	c := testCache(t)
	type rec struct{ A, B string }
	if err := c.keep("kind", "key", rec{"<a>", "b"}); err != nil {
		t.Fatal(err)
	}
	at := c.path("records", "kind", "key.json")
	whole, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	var got rec
	if !c.record("kind", "key", &got) || got != (rec{"<a>", "b"}) {
		t.Fatalf("got %+v", got)
	}
	bad := []string{"", "{", "{}", "null", "[]", `{"kind":"kind","key":"key","record":{"A":"x"}}`}
	for i := range whole {
		bad = append(bad, string(whole[:i]))
	}
	bad = append(bad, strings.Replace(string(whole), `"b"`, `"c"`, 1))
	for _, b := range bad {
		write(t, at, b)
		if c.record("kind", "key", &rec{}) && strings.TrimSpace(b) != strings.TrimSpace(string(whole)) {
			t.Errorf("believed %q", b)
		}
	}
	write(t, c.path("records", "kind", "other.json"), string(whole))
	if c.record("kind", "other", &rec{}) {
		t.Error("believed a record under another's name")
	}
}

// A folder that was not written out is believed by the same boot only.
func TestFolderAfterRestart(t *testing.T) {
	c := testCache(t)
	make := func() {
		tmp, done, err := c.scratch("x")
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		write(t, tmp+"/file", "x")
		if err := c.keepFolder("roots", "k", tmp, "value"); err != nil {
			t.Fatal(err)
		}
	}
	make()
	var v string
	if dir, ok := c.folder("roots", "k", &v); !ok || v != "value" || dir != c.path("roots", "k") {
		t.Fatalf("%q %v %q", dir, ok, v)
	}
	if err := c.keep("roots", "k", folderRecord{Boot: "another boot", Value: []byte(`"value"`)}); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.folder("roots", "k", nil); ok {
		t.Error("believed a folder of another boot that was never written out")
	}
	make() // replaces it
	if b, err := os.ReadFile(c.path("roots", "k", "file")); err != nil || string(b) != "x" {
		t.Fatalf("%q %v", b, err)
	}
	c.settled.Wait()
	synced := newCache(c.dir)
	synced.syncFS = func(int) error { return nil }
	if _, ok := synced.folder("roots", "k", nil); !ok {
		t.Fatal("the folder is not believed")
	}
	synced.settled.Wait()
	var r folderRecord
	if !c.record("roots", "k", &r) || r.Boot != "" {
		t.Errorf("after it was written out the record says %+v", r)
	}
	if err := os.RemoveAll(c.path("roots", "k")); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.folder("roots", "k", nil); ok {
		t.Error("believed a record without its folder")
	}
}

// What killed builds left is swept; what a living one has is not.
func TestSweep(t *testing.T) {
	c := testCache(t)
	_, done, err := c.scratch("living")
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	file, doneFile, err := c.scratchFile("living")
	if err != nil {
		t.Fatal(err)
	}
	defer doneFile()
	for _, d := range []string{"dead-1", "dead-2/deep/deeper", "young"} {
		if err := os.MkdirAll(c.path("tmp", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, c.path("tmp", "dead-2/deep/file"), "x")
	if err := os.Chmod(c.path("tmp", "dead-2/deep"), 0o500); err != nil {
		t.Fatal(err)
	}
	write(t, c.path("tmp", "dead-file"), "x")
	c.sweep(time.Now())
	if names, _ := os.ReadDir(c.path("tmp")); len(names) != 6 {
		t.Errorf("young folders went: %v", names)
	}
	c.sweep(time.Now().Add(2 * time.Minute))
	var left []string
	names, _ := os.ReadDir(c.path("tmp"))
	for _, n := range names {
		left = append(left, n.Name())
	}
	if len(left) != 2 || !strings.HasPrefix(left[0], "living-") || !strings.HasPrefix(left[1], "living-") {
		t.Errorf("left %v", left)
	}
	if _, err := os.Stat(file.Name()); err != nil {
		t.Error(err)
	}
	done()
	doneFile()
	if names, _ := os.ReadDir(c.path("tmp")); len(names) != 0 {
		t.Errorf("left %v", names)
	}
}

func TestPutFile(t *testing.T) {
	c := testCache(t)
	d, n, err := c.putFile(strings.NewReader("hello"), 5)
	if err != nil || n != 5 || !c.hasFile(d, 5) || c.hasFile(d, 4) || c.hasFile("", 0) || c.hasFile("sha256:../../x", 5) {
		t.Fatalf("%s %d %v", d, n, err)
	}
	if _, _, err := c.putFile(strings.NewReader("hello!"), 5); err == nil {
		t.Error("a file longer than the limit was kept")
	}
	// A damaged one is mended by the next that has the same bytes, and found
	// by heal.
	write(t, c.filePath(d), "jello")
	if _, _, err := c.putFile(strings.NewReader("hello"), 5); err != nil {
		t.Fatal(err)
	}
	if c.heal(c.filePath(d), 0, 5, d) != "" {
		t.Error("a sound file is called damaged")
	}
	write(t, c.filePath(d), "jello")
	if got := c.heal(c.filePath(d), 0, 5, d); got != c.filePath(d) || c.hasFile(d, 5) {
		t.Errorf("healed %q", got)
	}
	// What is not the cache's is left alone.
	other := filepath.Join(t.TempDir(), "f")
	write(t, other, "jello")
	write(t, c.path("vault"), "jello")
	for _, p := range []string{other, c.path("vault"), c.path("..", "x")} {
		if got := c.heal(p, 0, 5, d); got != "" && p != c.path("vault") {
			t.Errorf("%s: removed %s", p, got)
		}
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}

func TestMakeFolders(t *testing.T) {
	was := unix.Umask(0o077)
	defer unix.Umask(was)
	dir, outside := t.TempDir(), t.TempDir()
	if err := makeFolders(dir, "a/b/c", "a/d", ".", "a/b"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"a", "a/b", "a/b/c", "a/d"} {
		if fi, err := os.Stat(filepath.Join(dir, p)); err != nil || fi.Mode() != os.ModeDir|0o755 {
			t.Errorf("%s: %v %v", p, fi.Mode(), err)
		}
	}
	if err := os.Symlink(outside, dir+"/out"); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/file", "")
	for _, p := range []string{"out/x", "file/x", "file", "../x"} {
		if err := makeFolders(dir, p); err == nil {
			t.Errorf("%s was made", p)
		}
	}
	if names, _ := os.ReadDir(outside); len(names) > 0 {
		t.Errorf("made outside: %v", names)
	}
	if _, err := realFolder(dir, "a/b"); err != nil {
		t.Error(err)
	}
	for _, p := range []string{"out", "file", "none", "out/x"} {
		if _, err := realFolder(dir, p); err == nil {
			t.Errorf("%s is taken for a folder", p)
		}
	}
}
