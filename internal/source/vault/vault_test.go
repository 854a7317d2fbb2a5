package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/progress"
)

var ctx = context.Background()

func open(t testing.TB) *Vault {
	t.Helper()
	v, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func put(t testing.TB, v *Vault, content string) oci.Digest {
	t.Helper()
	d, err := v.PutBytes([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func put512(t testing.TB, v *Vault, content string) oci.Digest {
	t.Helper()
	d := digest.SHA512.FromString(content)
	if err := v.Put(ctx, d, -1, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return d
}

// files lists every regular file below the vault but its lock.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" {
			rel, _ := filepath.Rel(dir, p)
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPutAndOpen(t *testing.T) {
	v := open(t)
	for _, a := range algorithms {
		d := a.FromString("hello")
		if v.Has(d) {
			t.Fatalf("%s is there before", d)
		}
		for range 2 {
			if err := v.Put(ctx, d, 5, strings.NewReader("hello")); err != nil {
				t.Fatal(err)
			}
		}
		f, err := v.Open(d)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(f)
		f.Close()
		st, err := os.Stat(v.Path(d))
		if string(got) != "hello" || err != nil || st.Mode().Perm() != 0o444 {
			t.Errorf("%q %v %v", got, st.Mode(), err)
		}
		if data, err := v.ReadFile(d, 5); err != nil || string(data) != "hello" {
			t.Errorf("%q %v", data, err)
		}
		if _, err := v.ReadFile(d, 4); err == nil {
			t.Error("a limit of 4 lets 5 bytes through")
		}
	}
	want := filepath.Join(v.Dir(), "sha256", "2c", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
	if got := v.Path(digest.FromString("hello")); got != want {
		t.Errorf("path %s, want %s", got, want)
	}
}

func TestPutRefuses(t *testing.T) {
	d := digest.FromString("hello")
	for name, c := range map[string]struct {
		size int64
		r    io.Reader
	}{
		"wrong":                {5, strings.NewReader("hallo")},
		"wrong, unknown size":  {-1, strings.NewReader("hallo")},
		"short":                {5, strings.NewReader("hell")},
		"long":                 {5, strings.NewReader("hello!")},
		"endless":              {5, iotest.OneByteReader(endless{})},
		"right but other size": {6, strings.NewReader("hello")},
		"failing":              {5, io.MultiReader(strings.NewReader("hel"), iotest.ErrReader(errors.New("cut off")))},
	} {
		v := open(t)
		err := v.Put(ctx, d, c.size, c.r)
		var m *MismatchError
		if err == nil || errors.As(err, &m) == (name == "failing") {
			t.Errorf("%s: %v", name, err)
		}
		if left := files(t, v.Dir()); len(left) > 0 {
			t.Errorf("%s leaves %v", name, left)
		}
		if v.Has(d) {
			t.Errorf("%s: the vault has it", name)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestPutEndsWithItsContext(t *testing.T) {
	v := open(t)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := v.Put(ctx, digest.FromString("x"), -1, endless{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if left := files(t, v.Dir()); len(left) > 0 {
		t.Errorf("leaves %v", left)
	}
}

func TestHostileDigests(t *testing.T) {
	v := open(t)
	for _, d := range []oci.Digest{
		"", "sha256:", "sha256:..", "sha256:../../../../etc/passwd", "sha384:" + oci.Digest(strings.Repeat("a", 96)),
		"../x:" + oci.Digest(strings.Repeat("a", 64)), "sha256:" + oci.Digest(strings.Repeat("A", 64)), "md5:d41d8cd98f00b204e9800998ecf8427e",
	} {
		if p := v.Path(d); p != "" {
			t.Errorf("%q has path %s", d, p)
		}
		if v.Has(d) {
			t.Errorf("has %q", d)
		}
		if _, err := v.Open(d); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %q: %v", d, err)
		}
		if err := v.Put(ctx, d, -1, strings.NewReader("")); err == nil {
			t.Errorf("put %q succeeds", d)
		}
		if _, err := v.Resume(ctx, d, -1); err == nil {
			t.Errorf("resume %q succeeds", d)
		}
	}
}

func TestNotFound(t *testing.T) {
	v := open(t)
	d := digest.FromString("absent")
	_, err := v.Open(d)
	var nf *NotFoundError
	if !errors.As(err, &nf) || nf.Digest != d || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), d.String()) {
		t.Errorf("%v", err)
	}
}

// TestConcurrentPuts uses several vaults of one folder, as processes do.
func TestConcurrentPuts(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("x", 1<<20)
	d := digest.FromString(content)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			v, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			if i%2 == 0 {
				err = v.Put(ctx, d, -1, strings.NewReader(content))
			} else {
				var p *Partial
				if p, err = v.Resume(ctx, d, int64(len(content))); err == nil {
					_, err = io.Copy(p, strings.NewReader(content[p.Size():]))
					err = errors.Join(err, p.Commit(), p.Close())
				} else if errors.Is(err, ErrPresent) {
					err = nil
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v, _ := Open(dir)
	if got, err := v.ReadFile(d, 2<<20); err != nil || len(got) != len(content) {
		t.Error(len(got), err)
	}
	if all := files(t, v.Dir()); len(all) != 1 {
		t.Errorf("files: %v", all)
	}
}

func TestResume(t *testing.T) {
	v := open(t)
	d := digest.FromString("hello world")
	write := func(p *Partial, s string) {
		t.Helper()
		if _, err := io.WriteString(p, s); err != nil {
			t.Fatal(err)
		}
	}
	p, err := v.Resume(ctx, d, 11)
	if err != nil {
		t.Fatal(err)
	}
	write(p, "hello")
	var m *MismatchError
	if err := p.Commit(); !errors.As(err, &m) {
		t.Errorf("commit of a part: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if v.Has(d) {
		t.Fatal("a part is in the vault")
	}

	p, err = v.Resume(ctx, d, 11)
	if err != nil {
		t.Fatal(err)
	}
	if p.Size() != 5 {
		t.Fatalf("%d bytes are left", p.Size())
	}
	if _, err := io.WriteString(p, " world and more"); !errors.As(err, &m) {
		t.Errorf("too many bytes: %v", err)
	}
	write(p, " world")
	if err := errors.Join(p.Commit(), p.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := v.ReadFile(d, 100); err != nil || string(got) != "hello world" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := v.Resume(ctx, d, 11); !errors.Is(err, ErrPresent) {
		t.Errorf("resume of what is there: %v", err)
	}
	if all := files(t, v.Dir()); len(all) != 1 {
		t.Errorf("files: %v", all)
	}
	if st, _ := os.Stat(v.Path(d)); st.Mode().Perm() != 0o444 {
		t.Errorf("mode %v", st.Mode())
	}
}

func TestResumeOfWrongBytes(t *testing.T) {
	v := open(t)
	d := digest.FromString("hello")
	path := filepath.Join(v.partialDir(), "sha256-"+d.Encoded())
	// What a disk that lost a write, or another version, may leave; also
	// unwritable, as a crash between the last steps of Commit leaves it.
	if err := os.WriteFile(path, []byte("hal"), 0o444); err != nil {
		t.Fatal(err)
	}
	p, err := v.Resume(ctx, d, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := io.WriteString(p, "lo"); err != nil {
		t.Fatal(err)
	}
	var m *MismatchError
	if err := p.Commit(); !errors.As(err, &m) || v.Has(d) {
		t.Fatalf("commit: %v", err)
	}
	if p.Size() != 0 {
		t.Errorf("%d wrong bytes are kept", p.Size())
	}
	if _, err := io.WriteString(p, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}

	d = digest.FromString("abc")
	path = filepath.Join(v.partialDir(), "sha256-"+d.Encoded())
	if err := os.WriteFile(path, []byte("longer than it is"), 0o600); err != nil {
		t.Fatal(err)
	}
	q, err := v.Resume(ctx, d, 3)
	if err != nil || q.Size() != 0 {
		t.Fatalf("too long a part: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty part stays: %v", err)
	}
}

func TestVerify(t *testing.T) {
	v := open(t)
	good := put(t, v, "good")
	good512 := put512(t, v, "good")
	bad := put(t, v, "bad")
	short := put512(t, v, "short")
	for d, content := range map[oci.Digest]string{bad: "bat", short: "shor"} {
		if err := os.Chmod(v.Path(d), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(v.Path(d), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stray := filepath.Join(v.Dir(), "sha256", "stray")
	if err := os.WriteFile(stray, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	res, err := v.Verify(ctx, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if res.Files != 2 || res.Bytes != 8 || len(res.Damaged) != 3 {
		t.Errorf("%+v", res)
	}
	for _, d := range res.Damaged {
		if _, err := os.Stat(d.Moved); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(d.Path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", d.Path, err)
		}
	}
	if !v.Has(good) || !v.Has(good512) || v.Has(bad) || v.Has(short) {
		t.Error("the wrong ones were moved")
	}
	put(t, v, "bad") // can be brought anew
	if res, err = v.Verify(ctx, progress.Discard); err != nil || len(res.Damaged) != 0 || res.Files != 3 {
		t.Errorf("%+v %v", res, err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := v.Verify(done, progress.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestReadFileNoticesDamage(t *testing.T) {
	v := open(t)
	d := put(t, v, "good")
	if err := errors.Join(os.Chmod(v.Path(d), 0o644), os.WriteFile(v.Path(d), []byte("evil"), 0o644)); err != nil {
		t.Fatal(err)
	}
	var m *MismatchError
	if _, err := v.ReadFile(d, 10); !errors.As(err, &m) {
		t.Errorf("%v", err)
	}
}

func TestGC(t *testing.T) {
	v := open(t)
	keep, drop := put(t, v, "keep"), put512(t, v, "drop")
	p, err := v.Resume(ctx, digest.FromString("interrupted"), -1)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(p, "inter")
	p.Close()
	live, err := v.Resume(ctx, digest.FromString("live"), -1)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	io.WriteString(live, "li")
	wants := func(d oci.Digest) bool { return d == keep }

	want := Freed{Kept: 1, Files: 2, Bytes: 9, Removed: []Entry{{drop, 4}}}
	got, err := v.GC(ctx, wants, true)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("dry run (-want +got):\n%s", d)
	}
	if !v.Has(drop) {
		t.Fatal("a dry run removes")
	}
	if got, err = v.GC(ctx, wants, false); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if v.Has(drop) || !v.Has(keep) || len(files(t, v.Dir())) != 2 {
		t.Errorf("after: %v", files(t, v.Dir()))
	}

	release, err := v.Hold(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := v.GC(short, wants, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a collection while the vault is held: %v", err)
	}
}

func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, f := range files(t, dir) {
		data, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		out[f] = string(data)
	}
	return out
}

func TestExportImport(t *testing.T) {
	v := open(t)
	a, b := put(t, v, "package"), put512(t, v, "tarball")
	bundle := Bundle{Name: "app", Lock: []byte(`{"version":1}`), Inputs: []Input{{a, "package.deb"}, {b, ""}, {a, ""}}}
	dir := filepath.Join(t.TempDir(), "layout")
	if err := v.ExportBundle(ctx, dir, bundle); err != nil {
		t.Fatal(err)
	}
	first := tree(t, dir)

	// The same bytes from another order, another vault and a second time.
	bundle.Inputs = []Input{{b, ""}, {a, ""}, {a, "package.deb"}}
	w := open(t)
	put512(t, w, "tarball")
	put(t, w, "package")
	dir2 := filepath.Join(t.TempDir(), "layout")
	for range 2 {
		if err := w.ExportBundle(ctx, dir2, bundle); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(first, tree(t, dir2)); d != "" {
		t.Errorf("another export differs (-first +second):\n%s", d)
	}

	empty := open(t)
	got, err := empty.Import(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Imported{{Name: "app", Lock: bundle.Lock, Inputs: []oci.Digest{a, b}, New: 2, Bytes: 14}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("import (-want +got):\n%s", d)
	}
	for _, d := range []oci.Digest{a, b} {
		if _, err := empty.ReadFile(d, 100); err != nil {
			t.Error(err)
		}
	}
	if got, err = empty.Import(ctx, dir); err != nil || got[0].New != 0 {
		t.Errorf("again: %+v %v", got, err)
	}
}

func TestExportIntoExistingLayout(t *testing.T) {
	v := open(t)
	a, b := put(t, v, "a"), put(t, v, "b")
	dir := t.TempDir()
	for _, e := range []struct {
		name string
		d    oci.Digest
	}{{"one", a}, {"two", b}, {"one", b}} {
		if err := v.Export(ctx, dir, []oci.Digest{e.d}, e.name); err != nil {
			t.Fatal(err)
		}
	}
	got, err := open(t).Import(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Imported{{Name: "two", Inputs: []oci.Digest{b}, New: 1, Bytes: 1}, {Name: "one", Inputs: []oci.Digest{b}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}

	// A layout of others keeps what it has.
	var index ocispec.Index
	data, _ := os.ReadFile(filepath.Join(dir, "index.json"))
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	foreign := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("x"), Size: 1}
	index.Manifests = append(index.Manifests, foreign)
	data, _ = json.Marshal(index)
	if err := os.WriteFile(filepath.Join(dir, "index.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := v.Export(ctx, dir, nil, "three"); err != nil {
		t.Fatal(err)
	}
	data, _ = os.ReadFile(filepath.Join(dir, "index.json"))
	if !bytes.Contains(data, []byte(foreign.Digest)) {
		t.Error("another's manifest is gone")
	}
	if got, err := open(t).Import(ctx, dir); err != nil || len(got) != 3 || len(got[2].Inputs) != 0 {
		t.Errorf("with an empty bundle: %+v %v", got, err)
	}

	// A folder that is not a layout is not made one.
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "index.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := v.Export(ctx, other, nil, "x"); err == nil {
		t.Error("exports over a stranger's index.json")
	}
}

func TestExportOfDamagedOrMissing(t *testing.T) {
	v := open(t)
	d := put(t, v, "good")
	dir := t.TempDir()
	var nf *NotFoundError
	if err := v.Export(ctx, dir, []oci.Digest{d, digest.FromString("absent")}, "x"); !errors.As(err, &nf) {
		t.Errorf("missing: %v", err)
	}
	if err := errors.Join(os.Chmod(v.Path(d), 0o644), os.WriteFile(v.Path(d), []byte("evil"), 0o644)); err != nil {
		t.Fatal(err)
	}
	var m *MismatchError
	for range 2 {
		if err := v.Export(ctx, dir, []oci.Digest{d}, "x"); !errors.As(err, &m) {
			t.Errorf("damaged: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an index names what is not there: %v", err)
	}
}

// hostile makes a valid layout and lets a test spoil it.
func hostile(t testing.TB) (dir string, d oci.Digest) {
	t.Helper()
	v := open(t)
	d = put(t, v, "content")
	dir = filepath.Join(t.TempDir(), "layout")
	if err := v.Export(ctx, dir, []oci.Digest{d}, "app"); err != nil {
		t.Fatal(err)
	}
	return dir, d
}

func replace(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// withManifest makes a layout's only manifest m, digests kept right.
func withManifest(t testing.TB, dir string, m []byte) {
	t.Helper()
	d := digest.FromBytes(m)
	replace(t, filepath.Join(dir, "blobs", "sha256", d.Encoded()), m)
	replace(t, filepath.Join(dir, "index.json"), fmt.Appendf(nil,
		`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, ocispec.MediaTypeImageManifest, d, len(m)))
}

func manifest(config, layer string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":%s,"layers":[%s]}`,
		ocispec.MediaTypeImageManifest, ArtifactType, config, layer)
}

func TestImportOfHostileLayouts(t *testing.T) {
	emptyConfig := `{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}`
	layer := func(d string, size int64) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, InputMediaType, d, size)
	}
	for name, spoil := range map[string]func(dir string, d oci.Digest){
		"blob changed": func(dir string, d oci.Digest) { replace(t, filepath.Join(dir, blobPath(d)), []byte("CONTENT")) },
		"blob short":   func(dir string, d oci.Digest) { replace(t, filepath.Join(dir, blobPath(d)), []byte("cont")) },
		"blob long": func(dir string, d oci.Digest) {
			replace(t, filepath.Join(dir, blobPath(d)), []byte("content, and more"))
		},
		"blob gone": func(dir string, d oci.Digest) { os.Remove(filepath.Join(dir, blobPath(d))) },
		"blob is a link out of the layout": func(dir string, d oci.Digest) {
			p := filepath.Join(dir, blobPath(d))
			replace(t, filepath.Join(dir, "..", "secret"), []byte("content"))
			os.Remove(p)
			os.Symlink("../../../secret", p)
		},
		"blob is an absolute link": func(dir string, d oci.Digest) {
			p := filepath.Join(dir, blobPath(d))
			os.Remove(p)
			os.Symlink("/etc/hostname", p)
		},
		"blob is a pipe": func(dir string, d oci.Digest) {
			p := filepath.Join(dir, blobPath(d))
			os.Remove(p)
			if err := unix.Mkfifo(p, 0o644); err != nil {
				t.Skip(err)
			}
		},
		"blob is a folder": func(dir string, d oci.Digest) {
			p := filepath.Join(dir, blobPath(d))
			os.Remove(p)
			os.Mkdir(p, 0o755)
		},
		"no oci-layout": func(dir string, d oci.Digest) { os.Remove(filepath.Join(dir, "oci-layout")) },
		"another version": func(dir string, d oci.Digest) {
			replace(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"9"}`))
		},
		"index is not JSON": func(dir string, d oci.Digest) { replace(t, filepath.Join(dir, "index.json"), []byte("<")) },
		"index is empty": func(dir string, d oci.Digest) {
			replace(t, filepath.Join(dir, "index.json"), []byte(`{"schemaVersion":2}`))
		},
		"manifest not JSON": func(dir string, d oci.Digest) { withManifest(t, dir, []byte("{")) },
		"another media type": func(dir string, d oci.Digest) {
			withManifest(t, dir, []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","artifactType":"`+ArtifactType+`"}`))
		},
		"path in a digest": func(dir string, d oci.Digest) {
			withManifest(t, dir, manifest(emptyConfig, layer("sha256:../../../../etc/passwd", 1)))
		},
		"negative size": func(dir string, d oci.Digest) { withManifest(t, dir, manifest(emptyConfig, layer(d.String(), -1))) },
		"huge lock": func(dir string, d oci.Digest) {
			withManifest(t, dir, manifest(strings.Replace(layer(d.String(), 1<<60), InputMediaType, LockMediaType, 1), ""))
		},
		"strange layer": func(dir string, d oci.Digest) {
			withManifest(t, dir, manifest(emptyConfig, strings.Replace(layer(d.String(), 7), InputMediaType, "text/plain", 1)))
		},
		"strange config": func(dir string, d oci.Digest) { withManifest(t, dir, manifest(layer(d.String(), 7), "")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, d := hostile(t)
			spoil(dir, d)
			v := open(t)
			got, err := v.Import(ctx, dir)
			if err == nil {
				t.Errorf("accepted: %+v", got)
			}
			if left := files(t, v.Dir()); len(left) > 0 {
				t.Errorf("leaves %v", left)
			}
		})
	}
}

func FuzzImport(f *testing.F) {
	dir, _ := hostile(f)
	var index ocispec.Index
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		f.Fatal(err)
	}
	if err := json.Unmarshal(data, &index); err != nil {
		f.Fatal(err)
	}
	m, err := os.ReadFile(filepath.Join(dir, blobPath(index.Manifests[0].Digest)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, m)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../.."}]}`), []byte("{}"))
	// One layout and one vault for all inputs: making them costs more than
	// reading them, and a worker runs one input at a time.
	v := open(f)
	f.Fuzz(func(t *testing.T, index, m []byte) {
		check := func() {
			if _, err := v.Import(ctx, dir); err == nil {
				// Whatever came in is what its name says.
				res, err := v.Verify(ctx, progress.Discard)
				if err != nil || len(res.Damaged) > 0 {
					t.Errorf("%+v %v", res, err)
				}
			}
		}
		replace(t, filepath.Join(dir, "index.json"), index)
		check()
		withManifest(t, dir, m)
		check()
		os.Remove(filepath.Join(dir, blobPath(digest.FromBytes(m))))
	})
}

func TestDefaultDir(t *testing.T) {
	t.Setenv("HOME", "/home/someone")
	t.Setenv("XDG_CACHE_HOME", "")
	if got, err := DefaultDir(); err != nil || got != "/home/someone/.cache/twinhull" {
		t.Error(got, err)
	}
	t.Setenv("XDG_CACHE_HOME", "relative")
	if got, _ := DefaultDir(); got != "/home/someone/.cache/twinhull" {
		t.Error(got)
	}
	t.Setenv("XDG_CACHE_HOME", "/cache")
	if got, _ := DefaultDir(); got != "/cache/twinhull" {
		t.Error(got)
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	if _, err := DefaultDir(); err == nil {
		t.Error("a cache without a home")
	}
}
