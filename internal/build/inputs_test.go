package build

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func testSource(t *testing.T, files map[string]string) *source {
	w := &world{t: t, dir: t.TempDir()}
	w.write(files)
	return openSource(w.dir, time.Now().Add(time.Hour)) // as if the files were old
}

func paths(files []InputFile) []string {
	var out []string
	for _, f := range files {
		out = append(out, f.Path)
	}
	return out
}

func TestMatch(t *testing.T) {
	s := testSource(t, map[string]string{
		"src/a.ts": "a", "src/deep/b.ts": "b", "src/deep/b.test.ts": "t", "README.md": "r", ".git/config": "g", "node_modules/x/i.js": "x", "src/node_modules/y": "y",
		stateDir + "/store/x": "s", "src/link": "-> deep/b.ts", "src/..odd": "o", "src/to-odd": "-> ..odd",
	})
	if err := unix.Mkfifo(filepath.Join(s.dir, "src/pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		patterns, want []string
		err            string
	}{
		{[]string{"src/**"}, []string{"src/..odd", "src/a.ts", "src/deep/b.test.ts", "src/deep/b.ts", "src/link", "src/to-odd"}, ""},
		{[]string{"src/**/*.ts", "!**/*.test.ts"}, []string{"src/a.ts", "src/deep/b.ts"}, ""},
		{[]string{"**"}, []string{"README.md", "src/..odd", "src/a.ts", "src/deep/b.test.ts", "src/deep/b.ts", "src/link", "src/to-odd"}, ""},
		{[]string{"src/a.ts", "lib/*"}, nil, `build.steps.s.inputs: "lib/*" names no file of the project`},
		{[]string{"node_modules/x/i.js"}, nil, "names no file"},
		{[]string{"../x"}, nil, "leaves the project"},
	} {
		got, err := s.match("s", c.patterns)
		if c.err != "" {
			wantError(t, err, c.err)
			continue
		}
		if d := cmp.Diff(c.want, paths(got)); err != nil || d != "" {
			t.Errorf("%v: %v %s", c.patterns, err, d)
		}
	}
}

// A folder that cannot be read concerns only those who ask for what is in it.
func TestUnreadableFolder(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads every folder")
	}
	s := testSource(t, map[string]string{"src/a": "a", "shut/b": "b"})
	if err := os.Chmod(s.dir+"/shut", 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(s.dir+"/shut", 0o755) })
	if _, err := s.match("s", []string{"src/**"}); err != nil {
		t.Error(err)
	}
	_, err := s.match("s", []string{"**"})
	wantError(t, err, "shut may hold inputs", `"!shut"`)
}

func TestSourceFileHostile(t *testing.T) {
	secret := t.TempDir()
	write(t, secret+"/key", "secret")
	s := testSource(t, map[string]string{
		"abs": "-> /etc/passwd", "up": "-> ../x", "deep/up": "-> ../../x", "ok": "-> deep/../a", "a": "a", "dir/x": "x", "bad\xff": "x", "badlink": "-> \xff", "out": "-> " + secret, "dotdot": "-> ..",
	})
	for rel, want := range map[string]string{
		"abs": "outside the project", "up": "outside the project", "deep/up": "outside the project", "dotdot": "outside the project", "bad\xff": "not UTF-8", "badlink": "not UTF-8",
		"out": "outside the project", "out/key": "escapes", "none": "it is not there", "dir": "not a regular file",
	} {
		f, err := s.file(rel)
		if err == nil {
			t.Errorf("%s: read as %+v", rel, f)
			continue
		}
		wantError(t, err, want)
	}
	if f, err := s.file("ok"); err != nil || f.Link != "deep/../a" {
		t.Errorf("%+v %v", f, err)
	}
	if _, err := readProjectFile(s.dir, "dir"); err == nil {
		t.Error("a folder was read as a file")
	}
}

// Hashes are remembered, but never over a change that could go unseen.
func TestMemory(t *testing.T) {
	s := testSource(t, map[string]string{"a": "one", "b": "two"})
	hash := func(s *source, rel string) string {
		t.Helper()
		f, err := s.file(rel)
		if err != nil {
			t.Fatal(err)
		}
		return string(f.SHA256)
	}
	one := hash(s, "a")
	hash(s, "b")
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	again := openSource(s.dir, time.Now().Add(time.Hour))
	if len(again.memo) != 2 {
		t.Fatalf("remembers %v", again.memo)
	}
	// The memory is used: a wrong hash in it is believed as long as nothing of
	// the file seems to have changed.
	m := again.memo["a"]
	m.SHA256 = again.memo["b"].SHA256
	again.memo["a"] = m
	if hash(again, "a") == one {
		t.Error("the file was hashed again")
	}
	// Same size, same modification time: the change time tells.
	at := time.Unix(1e9, 0)
	if err := os.Chtimes(s.dir+"/a", at, at); err != nil {
		t.Fatal(err)
	}
	third := openSource(s.dir, time.Now().Add(time.Hour))
	write(t, s.dir+"/a", "uno")
	if err := os.Chtimes(s.dir+"/a", at, at); err != nil {
		t.Fatal(err)
	}
	if hash(third, "a") == one {
		t.Error("a change was not seen")
	}
	// A mode, a replacement by another file of the same content.
	if err := os.Chmod(s.dir+"/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if f, err := third.file("b"); err != nil || !f.Exec {
		t.Errorf("%+v %v", f, err)
	}
	// What changed just now is not remembered: the next change could have the
	// same times.
	fresh := openSource(s.dir, time.Now())
	write(t, s.dir+"/a", "new")
	hash(fresh, "a")
	if err := fresh.save(); err != nil {
		t.Fatal(err)
	}
	if _, ok := openSource(s.dir, time.Now()).memo["a"]; ok {
		t.Error("a file that changed this very moment is remembered")
	}
	// A damaged memory costs hashing again.
	write(t, memoPath(s.dir), "\x00{")
	if got := hash(openSource(s.dir, time.Now()), "a"); got != string(entry("a", "new").Digest) {
		t.Error(got)
	}
}
