package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

const testTime = 1_700_000_000

// file, folder and symlink make entries for tests.
func file(path, content string) *filetree.Entry {
	return &filetree.Entry{Path: path, Type: tar.TypeReg, Mode: 0o644, ModTime: testTime,
		Size: int64(len(content)), Digest: digest.FromString(content), Content: filetree.Content{Data: []byte(content)}}
}

func folder(path string) *filetree.Entry {
	return &filetree.Entry{Path: path, Type: tar.TypeDir, Mode: 0o755, ModTime: testTime}
}

func symlink(path, target string) *filetree.Entry {
	return &filetree.Entry{Path: path, Type: tar.TypeSymlink, Mode: 0o777, ModTime: testTime, Link: target}
}

func hardlink(path, target string) *filetree.Entry {
	return &filetree.Entry{Path: path, Type: tar.TypeLink, Mode: 0o644, ModTime: testTime, Link: target}
}

// words is reproducible text that compresses like program text does.
func words(seed uint64, n int) string {
	type args struct {
		seed uint64
		n    int
	}
	if s, ok := wordsMade.Load(args{seed, n}); ok {
		return s.(string)
	}
	r := rand.New(rand.NewPCG(seed, 1))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "%x %s ", r.Uint32()>>18, []string{"the", "file", "import", "return", "function"}[r.IntN(5)])
	}
	s := string(b.Bytes()[:n])
	wordsMade.Store(args{seed, n}, s)
	return s
}

// wordsMade remembers words: making them takes longer than compressing them.
var wordsMade sync.Map

// sampleTree has one of everything that a layer can hold, and enough text for
// several compressor blocks.
func sampleTree() []*filetree.Entry {
	long := "usr/share/" + string(bytes.Repeat([]byte("very-long-folder-name/"), 9)) + "file"
	setuid := file("usr/bin/su", "suid")
	setuid.Mode = 0o4755
	caps := file("usr/bin/ping", "ping")
	caps.Xattrs = map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20" + string(make([]byte, 14)), "user.a": "b"}
	owner := file("home/app/owner", "mine")
	owner.UID, owner.GID = 5_000_000, 1000
	old := file("usr/old", "old")
	old.ModTime = -5
	return []*filetree.Entry{
		folder("usr"), folder("usr/bin"), folder("usr/share"), folder("home"), folder("home/app"), folder("tmp"),
		file("usr/bin/big", words(1, 2<<20+100_000)), file("usr/share/text", words(2, 70_000)), file("usr/share/empty", ""),
		file(long, "long"), file("usr/"+string(bytes.Repeat([]byte("x"), 180)), "one part"),
		symlink("bin", "usr/bin"), symlink("usr/share/far", string(bytes.Repeat([]byte("../x/"), 40))),
		hardlink("usr/bin/a-link", "usr/bin/big"), hardlink("usr/bin/z-link", "usr/bin/big"),
		setuid, caps, owner, old, file("usr/share/ümläut", "utf-8"),
		{Path: "dev0", Type: tar.TypeChar, Mode: 0o666, ModTime: testTime, DevMajor: 1, DevMinor: 3},
	}
}

// plainTree is sampleTree without what Unpack refuses or does not keep.
func plainTree() []*filetree.Entry {
	var out []*filetree.Entry
	for _, e := range sampleTree() {
		if e.Type != tar.TypeChar {
			out = append(out, e)
		}
	}
	return out
}

func mustLayer(t testing.TB, c *Cache, entries []*filetree.Entry, codec Codec) LayerBlob {
	t.Helper()
	blob, _, err := c.Layer(context.Background(), entries, codec, nil)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func newBuilder(t testing.TB) *Builder {
	t.Helper()
	dir := t.TempDir()
	c, err := OpenCache(filepath.Join(dir, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := oci.CreateLayout(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	return &Builder{Cache: c, Store: l}
}

func sampleSpec(codec Codec) Spec {
	return Spec{
		Platform: oci.Platform{OS: "linux", Architecture: "amd64"}, Zone: oci.Production, Title: "app",
		Layers: []LayerSpec{
			{Name: "base", Comment: "debian packages: glibc", Entries: sampleTree(), Codec: codec},
			{Name: "nothing", Codec: codec},
			{Name: "app", Entries: []*filetree.Entry{folder("app"), file("app/main.js", words(3, 5000))}, Codec: codec},
		},
		Config: Config{Env: map[string]string{"PATH": "/usr/bin", "A": "<1>"}, User: "1000:1000", WorkingDir: "/app",
			Entrypoint: []string{"/usr/bin/big"}, Cmd: []string{"--x"}, ExposedPorts: []int{8080, 443},
			Labels: map[string]string{"b": "2", "a": "1"}, StopSignal: "SIGTERM"},
		Annotations: map[string]string{"org.example": "yes"},
		Created:     time.Unix(testTime, 0),
	}
}

func mustBuild(t testing.TB, b *Builder, spec Spec) Result {
	t.Helper()
	r, err := b.Build(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// member is what a test compares of a tar member.
type member struct {
	Path, Link   string
	Type         byte
	Mode         int64
	UID, GID     int
	MTime        int64
	Size         int64
	Digest       string
	Xattrs       map[string]string
	Major, Minor int64
}

func memberOf(e *filetree.Entry) member {
	m := member{Path: e.Path, Link: e.Link, Type: e.Type, Mode: e.Mode, UID: e.UID, GID: e.GID, MTime: e.ModTime,
		Size: e.Size, Major: e.DevMajor, Minor: e.DevMinor}
	if e.IsReg() {
		m.Digest = string(e.Digest)
	}
	if len(e.Xattrs) > 0 {
		m.Xattrs = e.Xattrs
	}
	return m
}

// readTar reads a layer with the standard library, an independent reader.
func readTar(t testing.TB, r io.Reader) []member {
	t.Helper()
	var out []member
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := filetree.Clean(h.Name)
		if err != nil {
			t.Fatal(err)
		}
		m := member{Path: p, Link: h.Linkname, Type: h.Typeflag, Mode: h.Mode, UID: h.Uid, GID: h.Gid, MTime: h.ModTime.Unix(),
			Size: h.Size, Major: h.Devmajor, Minor: h.Devminor}
		if h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: names %q %q", p, h.Uname, h.Gname)
		}
		for k, v := range h.PAXRecords {
			if k, ok := cutPrefix(k, "SCHILY.xattr."); ok {
				if m.Xattrs == nil {
					m.Xattrs = make(map[string]string)
				}
				m.Xattrs[k] = v
			}
		}
		if h.Typeflag == tar.TypeReg {
			d, err := digest.FromReader(tr)
			if err != nil {
				t.Fatal(err)
			}
			m.Digest = string(d)
		}
		out = append(out, m)
	}
}

func cutPrefix(s, p string) (string, bool) {
	if len(s) >= len(p) && s[:len(p)] == p {
		return s[len(p):], true
	}
	return s, false
}

// members returns entries as they should come out of a layer, by path.
func members(entries []*filetree.Entry) []member {
	var out []member
	for _, e := range entries {
		out = append(out, memberOf(e))
	}
	sortMembers(out)
	return out
}

func sortMembers(m []member) { sort.Slice(m, func(i, j int) bool { return m[i].Path < m[j].Path }) }

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
