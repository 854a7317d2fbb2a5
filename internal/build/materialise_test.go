package build

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/sandbox"
)

// What materialise writes is what a scan reads back, whatever the umask.
func TestMaterialise(t *testing.T) {
	big := filepath.Join(t.TempDir(), "data")
	write(t, big, "0123456789")
	set := func(e *filetree.Entry, mode int64, uid, gid int, at int64) *filetree.Entry {
		e.Mode, e.UID, e.GID, e.ModTime = mode, uid, gid, at
		return e
	}
	part := set(entry("d/part", "3456"), 0o600, 3, 4, 1e9)
	part.Content = filetree.Content{File: big, Offset: 3}
	entries := []*filetree.Entry{
		set(entry("d", "/"), 0o755, 0, 0, 7), set(entry("d/empty", ""), 0o644, 0, 0, 1), set(entry("d/exec", "x:run"), 0o755, 0, 0, 2), set(entry("d/hard", "=> d/exec"), 0, 0, 0, 0), part,
		set(entry("d/setuid", "s"), 0o4755, 0, 42, 3), set(entry("d/shut", "secret"), 0o000, 0, 0, 4), set(entry("d/soft", "-> /nowhere/at all"), 0o777, 0, 0, 5),
		set(entry("shut", "/"), 0o000, 0, 0, 8), set(entry("shut/in", "in"), 0o400, 0, 0, 6), set(entry("sticky", "/"), 0o1777, 1000, 1000, 9), set(entry("z", "/"), 0o2775, 0, 5, 10),
	}
	for _, mask := range []int{0o000, 0o022, 0o027, 0o077} {
		dir := t.TempDir()
		was := unix.Umask(mask)
		err := materialise(t.Context(), dir, entries)
		unix.Umask(was)
		t.Cleanup(func() { _ = sandbox.RemoveAll(filepath.Join(dir, "shut")) })
		if err != nil {
			t.Fatalf("umask %03o: %v", mask, err)
		}
		i := 0
		err = sandbox.Scan(t.Context(), dir, func(s sandbox.Entry) error {
			want := entries[i]
			i++
			if s.Path != want.Path {
				t.Fatalf("found %s, want %s", s.Path, want.Path)
			}
			if want.Type == tar.TypeLink {
				if s.Type != tar.TypeReg || s.Links != 2 {
					t.Errorf("%s: type %c, %d names", s.Path, s.Type, s.Links)
				}
				return nil
			}
			got := filetree.Entry{Path: s.Path, Type: s.Type, Mode: s.Mode, UID: s.UID, GID: s.GID, ModTime: s.ModTime, Size: s.Size, Link: s.Link}
			if d := cmp.Diff(filetree.Entry{Path: want.Path, Type: want.Type, Mode: want.Mode, UID: want.UID, GID: want.GID, ModTime: want.ModTime, Size: want.Size, Link: want.Link}, got); d != "" {
				t.Errorf("umask %03o: %s", mask, d)
			}
			if s.Type == tar.TypeReg {
				f, err := s.Open()
				if err != nil {
					return err
				}
				defer f.Close()
				if d, n, err := hashOf(f); err != nil || n != want.Size || d != want.Digest {
					t.Errorf("%s: %s, %d bytes, %v", s.Path, d, n, err)
				}
			}
			return nil
		})
		if err != nil || i != len(entries) {
			t.Fatalf("%d of %d entries, %v", i, len(entries), err)
		}
	}
}

// Entries that would lead out of the folder, or that no tree may hold.
func TestMaterialiseHostile(t *testing.T) {
	outside := t.TempDir()
	short := filepath.Join(t.TempDir(), "short")
	write(t, short, "12")
	torn := entry("f", "12345")
	torn.Content = filetree.Content{File: short}
	device := entry("dev", "")
	device.Type = tar.TypeChar
	for name, entries := range map[string][]*filetree.Entry{
		"climbs":             {entry("../x", "x")},
		"absolute":           {entry(outside+"/x", "x")},
		"through a link":     {entry("l", "-> "+outside), entry("l/x", "x")},
		"hard link outside":  {entry("h", "=> ../../../etc/hostname")},
		"no parent":          {entry("a/b", "x")},
		"twice":              {entry("a", "x"), entry("a", "y")},
		"below a file":       {entry("a", "x"), entry("a/b", "y")},
		"device":             {device},
		"bytes are missing":  {torn},
		"hard link to none":  {entry("h", "=> none")},
		"folder over a file": {entry("a", "x"), entry("a", "/"), entry("a/x", "x")},
	} {
		if err := materialise(t.Context(), t.TempDir(), entries); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if names, _ := os.ReadDir(outside); len(names) > 0 {
		t.Errorf("written outside: %v", names)
	}
}

// Any tree comes back as it was.
func TestMaterialiseProperty(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(r *rapid.T) {
		tree := filetree.NewTree()
		for range rapid.IntRange(0, 12).Draw(r, "n") {
			p := strings.Join(rapid.SliceOfN(rapid.StringMatching(`[a-c\xe9 .-]{1,3}x`), 1, 3).Draw(r, "path"), "/")
			free := tree.Get(p) == nil
			for d := filepath.Dir(p); d != "."; d = filepath.Dir(d) {
				if e := tree.Get(d); e != nil && !e.IsDir() {
					free = false
				}
			}
			if !free {
				continue
			}
			e := entry(p, rapid.SampledFrom([]string{"/", "", "data", "x:run", "-> some/where"}).Draw(r, "what"))
			e.ModTime = rapid.Int64Range(0, 1<<33).Draw(r, "time")
			tree.Set(e)
			if err := addParents(tree, 1); err != nil {
				r.Fatal(err)
			}
		}
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			r.Fatal(err)
		}
		if err := materialise(t.Context(), dir, tree.Sorted()); err != nil {
			r.Fatal(err)
		}
		n := 0
		err = sandbox.Scan(t.Context(), dir, func(s sandbox.Entry) error {
			n++
			e := tree.Get(s.Path)
			if e == nil || e.Type != s.Type || e.Mode != s.Mode || e.ModTime != s.ModTime || e.Link != s.Link {
				r.Fatalf("%+v, want %+v", s, e)
			}
			if e.IsReg() {
				f, err := s.Open()
				if err != nil {
					return err
				}
				defer f.Close()
				b, err := io.ReadAll(f)
				if err != nil || string(b) != string(e.Content.Data) {
					r.Fatalf("%s: %q %v", s.Path, b, err)
				}
			}
			return nil
		})
		if err != nil || n != tree.Len() {
			r.Fatalf("%d of %d, %v", n, tree.Len(), err)
		}
	})
}
