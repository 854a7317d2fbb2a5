package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
)

var update = flag.Bool("update", false, "write the golden digests anew: only together with a new Assembler version")

// decompress opens a layer blob without our own reader.
func decompress(t testing.TB, path string, codec Codec) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader
	if codec == Zstd {
		d, err := zstd.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		r = d
	} else if r, err = gzip.NewReader(f); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A layer holds exactly the entries, seen by archive/tar, with every codec.
func TestLayerRoundTrip(t *testing.T) {
	for _, codec := range []Codec{Gzip, Zstd, EStargz} {
		t.Run(string(codec), func(t *testing.T) {
			b := newBuilder(t)
			entries := sampleTree()
			blob := mustLayer(t, b.Cache, entries, codec)
			raw := decompress(t, b.Cache.BlobPath(blob.Digest), codec)
			if got := digest.FromBytes(raw); got != blob.DiffID {
				t.Errorf("DiffID %s, content has %s", blob.DiffID, got)
			}
			if int64(len(raw)) != blob.Uncompressed {
				t.Errorf("Uncompressed %d, content has %d bytes", blob.Uncompressed, len(raw))
			}
			got := readTar(t, bytes.NewReader(raw))
			// In order, but for the early hard link.
			for i := 1; i < len(got); i++ {
				if got[i].Path < got[i-1].Path && got[i].Type != tar.TypeLink {
					// what follows an early link continues the order of its target
					if got[i-1].Type != tar.TypeLink {
						t.Errorf("%s after %s", got[i].Path, got[i-1].Path)
					}
				}
			}
			sortMembers(got)
			if diff := cmp.Diff(members(entries), got); diff != "" {
				t.Error(diff)
			}
			fi, err := os.Stat(b.Cache.BlobPath(blob.Digest))
			if err != nil || fi.Size() != blob.Size {
				t.Errorf("size %d, file has %v (%v)", blob.Size, fi, err)
			}
		})
	}
}

// Other tar programs read our headers too.
func TestLayerWithGNUTar(t *testing.T) {
	gnutar, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("tar is not installed")
	}
	b := newBuilder(t)
	blob := mustLayer(t, b.Cache, sampleTree(), Gzip)
	out, err := exec.Command(gnutar, "-tzf", b.Cache.BlobPath(blob.Digest)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, want := bytes.Count(out, []byte("\n")), len(sampleTree()); got != want || bytes.Contains(out, []byte("tar:")) {
		t.Errorf("%d lines, want %d:\n%s", got, want, out)
	}
}

// eStargz readers find and verify every file through the index, and runtimes
// that unpack the layer find no file that was not asked for.
func TestEStargz(t *testing.T) {
	b := newBuilder(t)
	blob := mustLayer(t, b.Cache, sampleTree(), EStargz)
	f, err := os.Open(b.Cache.BlobPath(blob.Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := estargz.Open(io.NewSectionReader(f, 0, blob.Size))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.VerifyTOC(blob.TOC); err != nil {
		t.Error(err)
	}
	sr, err := r.OpenFile("usr/bin/big")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(sr)
	if err != nil || digest.FromBytes(got) != digest.FromString(words(1, 2<<20+100_000)) {
		t.Errorf("usr/bin/big read through the index: %d bytes, %v", len(got), err)
	}
	d := blob.Descriptor()
	if d.Annotations[estargz.TOCJSONDigestAnnotation] != string(blob.TOC) {
		t.Errorf("annotations %v", d.Annotations)
	}
	if _, err := Key([]*filetree.Entry{file(estargz.TOCTarName, "x")}, EStargz); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Cache.Layer(context.Background(), []*filetree.Entry{file(estargz.TOCTarName, "x")}, EStargz, nil); err == nil {
		t.Error("a file with the index's name was accepted")
	}
}

// golden is testdata/golden.json: what assembler 1 makes of sampleSpec.
type golden struct {
	Assembler int               `json:"assembler"`
	Digests   map[string]string `json:"digests"`
}

func goldenDigests(t *testing.T) map[string]string {
	got := make(map[string]string)
	for _, codec := range []Codec{Gzip, Zstd, EStargz} {
		r := mustBuild(t, newBuilder(t), sampleSpec(codec))
		c := string(codec)
		got[c+" manifest"] = string(r.Manifest.Digest)
		got[c+" config"] = string(r.Config.Digest)
		for _, l := range r.Layers {
			got[c+" layer "+l.Name] = string(l.Digest)
			got[c+" diffID "+l.Name] = string(l.DiffID)
		}
		k, err := Key(sampleTree(), codec)
		if err != nil {
			t.Fatal(err)
		}
		got[c+" key"] = k
	}
	return got
}

// The golden digests guard the assembler. When this test fails, bits have
// changed for everyone: raise Assembler, say so in doc/images.md, and only then
// write the digests anew with -update.
func TestGolden(t *testing.T) {
	got := golden{Assembler, goldenDigests(t)}
	path := filepath.Join("testdata", "golden.json")
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, append(b, '\n'))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want golden
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("assembler %d makes other bits (-want +got):\n%s", Assembler, diff)
	}
}

// The environment does not show in the bits.
func TestSameBitsEverywhere(t *testing.T) {
	if *update {
		t.Skip("golden digests are being written")
	}
	t.Run("GOMAXPROCS", func(t *testing.T) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
		for _, n := range []int{1, 2, 8} {
			runtime.GOMAXPROCS(n)
			TestGolden(t)
		}
	})
	t.Run("umask", func(t *testing.T) {
		defer syscall.Umask(syscall.Umask(0o077))
		TestGolden(t)
	})
	// The rest of the environment can be changed for another process only.
	if os.Getenv("TWINHULL_TEST_CHILD") == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		for _, env := range [][]string{{"TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8", "USER=someone", "HOSTNAME=elsewhere"}, {"TZ=America/St_Johns", "GOMAXPROCS=3"}} {
			cmd := exec.Command(self, "-test.run=^TestGolden$")
			tmp := t.TempDir()
			cmd.Env = append(os.Environ(), append(env, "TWINHULL_TEST_CHILD=1", "TMPDIR="+tmp)...)
			if os.Getuid() == 0 {
				if err := os.Chmod(tmp, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", env, err, out)
			}
		}
	}
}

// The order of entries, where bytes are kept and origins do not change a key;
// everything that is in a header does.
func TestKey(t *testing.T) {
	base := func() []*filetree.Entry {
		return []*filetree.Entry{folder("a"), file("a/b", "text"), symlink("c", "a")}
	}
	want, err := Key(base(), Gzip)
	if err != nil {
		t.Fatal(err)
	}
	stored := filepath.Join(t.TempDir(), "stored")
	writeFile(t, stored, []byte("..text.."))
	same := map[string]func(e []*filetree.Entry){
		"order":  func(e []*filetree.Entry) { e[0], e[2] = e[2], e[0] },
		"origin": func(e []*filetree.Entry) { e[1].Origin = filetree.Origin{Kind: filetree.FromPackage, Name: "x"} },
		"place": func(e []*filetree.Entry) {
			e[1].Content = filetree.Content{File: stored, Offset: 2}
		},
		"digest not recorded":          func(e []*filetree.Entry) { e[1].Digest = "" },
		"place and no recorded digest": func(e []*filetree.Entry) { e[1].Digest = ""; e[1].Content = filetree.Content{File: stored, Offset: 2} },
	}
	for name, change := range same {
		e := base()
		change(e)
		if got, err := Key(e, Gzip); err != nil || got != want {
			t.Errorf("%s changes the key (%v)", name, err)
		}
	}
	other := map[string]func(e []*filetree.Entry){
		"mode": func(e []*filetree.Entry) { e[0].Mode = 0o700 }, "uid": func(e []*filetree.Entry) { e[0].UID = 1 },
		"gid": func(e []*filetree.Entry) { e[0].GID = 1 }, "mtime": func(e []*filetree.Entry) { e[0].ModTime++ },
		"content": func(e []*filetree.Entry) { *e[1] = *file("a/b", "tExt") }, "link": func(e []*filetree.Entry) { e[2].Link = "b" },
		"xattr": func(e []*filetree.Entry) { e[0].Xattrs = map[string]string{"user.a": ""} },
		"path":  func(e []*filetree.Entry) { e[2].Path = "d" },
	}
	for name, change := range other {
		e := base()
		change(e)
		if got, err := Key(e, Gzip); err != nil || got == want {
			t.Errorf("%s does not change the key (%v)", name, err)
		}
	}
	if got, _ := Key(base(), Zstd); got == want {
		t.Error("the codec does not change the key")
	}
}

func TestRefusedEntries(t *testing.T) {
	with := func(f func(*filetree.Entry)) []*filetree.Entry {
		e := file("a", "x")
		f(e)
		return []*filetree.Entry{e}
	}
	for name, entries := range map[string][]*filetree.Entry{
		"absolute":        {file("/a", "x")},
		"climbs":          {file("../a", "x")},
		"root":            {folder(".")},
		"empty":           {folder("")},
		"unclean":         {file("a//b", "x")},
		"trailing slash":  {folder("a/")},
		"NUL":             {file("a\x00b", "x")},
		"twice":           {file("a", "x"), file("a", "y")},
		"below a file":    {file("a", "x"), file("a/b", "y")},
		"below a link":    {symlink("a", "b"), file("a/b", "y")},
		"whiteout":        {file("usr/.wh.bin", "")},
		"in a whiteout":   {file(".wh.a/b", "")},
		"no target":       {hardlink("a", "b")},
		"link to link":    {symlink("a", "b"), hardlink("c", "a")},
		"empty link":      {symlink("a", "")},
		"mode":            with(func(e *filetree.Entry) { e.Mode = 0o100644 }),
		"owner":           with(func(e *filetree.Entry) { e.UID = -1 }),
		"type":            with(func(e *filetree.Entry) { e.Type = 'g' }),
		"xattr name":      with(func(e *filetree.Entry) { e.Xattrs = map[string]string{"a=b": "c"} }),
		"negative size":   with(func(e *filetree.Entry) { e.Size = -1 }),
		"digest":          with(func(e *filetree.Entry) { e.Digest = "sha256:abc" }),
		"size of folder":  with(func(e *filetree.Entry) { e.Type = tar.TypeDir }),
		"link of regular": with(func(e *filetree.Entry) { e.Link = "b"; e.Type = tar.TypeDir; e.Size = 0 }),
	} {
		if _, err := Key(entries, Gzip); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Key(nil, "brotli"); err == nil {
		t.Error("unknown codec accepted")
	}
}

// Bytes that are no longer what their digest says never become a layer.
func TestDamagedContent(t *testing.T) {
	dir := t.TempDir()
	stored := filepath.Join(dir, "stored")
	content := words(9, 600_000)
	for name, b := range map[string][]byte{
		"changed":   append([]byte("X"), content[1:]...),
		"truncated": []byte(content[:500_000]),
		"missing":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			os.Remove(stored)
			if b != nil {
				writeFile(t, stored, b)
			}
			b := newBuilder(t)
			for _, codec := range []Codec{Gzip, Zstd, EStargz} {
				e := file("a", content)
				e.Content = filetree.Content{File: stored}
				_, _, err := b.Cache.Layer(context.Background(), []*filetree.Entry{e}, codec, nil)
				if !errors.Is(err, ErrCacheDamaged) || !strings.Contains(err.Error(), "vault verify") {
					t.Errorf("%s: %v", codec, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(b.Cache.dir, "*", "*", "*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if left, _ := os.ReadDir(filepath.Join(b.Cache.dir, "keys")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	e := file("a", "xy")
	e.Size = 3
	if _, _, err := newBuilder(t).Cache.Layer(context.Background(), []*filetree.Entry{e}, Gzip, nil); err == nil {
		t.Error("size that is not the content's accepted")
	}
}

func TestCache(t *testing.T) {
	b := newBuilder(t)
	ctx := context.Background()
	entries := []*filetree.Entry{file("a", words(4, 2<<20))}
	first, hit, err := b.Cache.Layer(ctx, entries, Gzip, nil)
	if err != nil || hit {
		t.Fatal(hit, err)
	}
	second, hit, err := b.Cache.Layer(ctx, entries, Gzip, func(int64) { t.Error("content was read again") })
	if err != nil || !hit || second != first {
		t.Fatal(second, hit, err)
	}
	// Callers with one key share the work, also when one of them gives up.
	other := []*filetree.Entry{file("a", words(5, 2<<20))}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c, cancel := context.WithCancel(ctx)
			defer cancel()
			if i == 0 {
				cancel()
			}
			_, _, err := b.Cache.Layer(c, other, Gzip, nil)
			// The one that gives up may still find the layer in the cache.
			if i > 0 && err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	wg.Wait()

	// A blob with another size is written again; one with other bytes is found
	// by Verify.
	path := b.Cache.BlobPath(first.Digest)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, []byte("short"))
	if again := mustLayer(t, b.Cache, entries, Gzip); again != first {
		t.Errorf("%v", again)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good[len(good)/2] ^= 1
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, good)
	removed, err := b.Cache.Verify(ctx)
	if err != nil || len(removed) != 2 {
		t.Errorf("Verify removed %v, %v", removed, err)
	}
	if _, hit, err := b.Cache.Layer(ctx, entries, Gzip, nil); err != nil || hit {
		t.Error("a damaged layer was reused", err)
	}
	key, _ := Key(entries, Gzip)
	if err := b.Cache.Prune(func(k string) bool { return k == key }); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Cache.Lookup(key); !ok {
		t.Error("Prune removed a wanted layer")
	}
	if files, _ := os.ReadDir(filepath.Join(b.Cache.dir, "blobs", "sha256")); len(files) != 1 {
		t.Errorf("Prune left %v", files)
	}
}

func TestPaxRecordLength(t *testing.T) {
	for n := range 1200 {
		r := paxRecord("k", strings.Repeat("v", n))
		var length int
		if _, err := fmt.Sscanf(r, "%d ", &length); err != nil || length != len(r) {
			t.Fatalf("record of %d bytes says %d (%v)", len(r), length, err)
		}
	}
}
