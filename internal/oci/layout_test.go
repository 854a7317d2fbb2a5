package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func newLayout(t testing.TB) *Layout {
	t.Helper()
	l, err := CreateLayout(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// putImage stores an image of one layer.
func putImage(t testing.TB, l *Layout, layer string) Descriptor {
	t.Helper()
	put := func(mt string, b []byte) Descriptor {
		d, err := l.PutBytes(mt, b)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers: []Descriptor{put(ocispec.MediaTypeImageLayer, []byte(layer))}}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return put(ocispec.MediaTypeImageManifest, b)
}

func TestLayout(t *testing.T) {
	l := newLayout(t)
	one, two := putImage(t, l, "one"), putImage(t, l, "two")
	for tag, d := range map[string]Descriptor{"b": one, "a": two, "c": one} {
		if err := l.SetTag(tag, d); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.SetTag("b", two); err != nil { // replaced
		t.Fatal(err)
	}
	before, _ := os.Stat(l.indexPath())
	if err := l.SetTag("b", two); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(l.indexPath()); !os.SameFile(before, after) {
		t.Error("an unchanged tag rewrote index.json")
	}
	idx, err := l.Index()
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, d := range idx.Manifests {
		tags = append(tags, d.Annotations[ocispec.AnnotationRefName])
	}
	if strings.Join(tags, " ") != "a b c" {
		t.Errorf("tags %v", tags)
	}
	if d, err := l.Tag("b"); err != nil || d.Digest != two.Digest {
		t.Error(d, err)
	}
	if _, err := l.Tag("nope"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "a, b, c") {
		t.Error(err)
	}
	if _, err := l.Tag(""); err == nil || !strings.Contains(err.Error(), "a, b, c") {
		t.Error(err)
	}
	// Collection keeps what tags reach.
	if err := l.Update(context.Background(), func(u *Update) error { u.RemoveTag("c"); return nil }); err != nil {
		t.Fatal(err)
	}
	removed, size, err := l.GC(context.Background())
	if err != nil || removed != 2 || size != one.Size+3 { // manifest and layer; the configuration is shared
		t.Errorf("GC: %d blobs, %d bytes, %v", removed, size, err)
	}
	if err := l.Walk(two, func(d Descriptor) error { _, err := l.Stat(d.Digest); return err }); err != nil {
		t.Error(err)
	}
	if _, err := OpenLayout(l.Dir()); err != nil {
		t.Error(err)
	}
	names, _ := os.ReadDir(l.Dir())
	if len(names) != 3 {
		t.Errorf("strangers in the layout: %v", names)
	}
}

func TestLayoutConcurrent(t *testing.T) {
	l := newLayout(t)
	d := putImage(t, l, "x")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			other, err := OpenLayout(l.Dir())
			if err == nil {
				err = other.SetTag("t"+string(rune('a'+i)), d)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if idx, err := l.Index(); err != nil || len(idx.Manifests) != 20 {
		t.Errorf("%d tags, %v", len(idx.Manifests), err)
	}
}

func TestPutBlob(t *testing.T) {
	l := newLayout(t)
	for _, c := range []struct {
		d  Digest
		ok bool
	}{
		{digest.FromString("x"), true},
		{digest.SHA512.FromString("x"), true},
		{digest.FromString("y"), false},
		{"sha256:../../../../tmp/x", false},
		{"sha256:" + Digest(strings.Repeat("A", 64)), false},
		{digest.SHA384.FromString("x"), false},
		{"", false},
	} {
		_, err := l.PutBlob(c.d, strings.NewReader("x"))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.d, err)
		}
	}
	if _, err := l.PutBlob(digest.FromString("long"), io.MultiReader(strings.NewReader("lo"), errReader{})); err == nil {
		t.Error("a broken reader made a blob")
	}
	count := 0
	filepath.Walk(filepath.Join(l.dir, "blobs"), func(p string, fi os.FileInfo, err error) error {
		if !fi.IsDir() {
			count++
			if fi.Mode().Perm()&0o222 != 0 {
				t.Errorf("%s can be written", p)
			}
		}
		return nil
	})
	if count != 2 {
		t.Errorf("%d files, want 2", count)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestLinkBlob(t *testing.T) {
	l := newLayout(t)
	from := filepath.Join(t.TempDir(), "from")
	if err := os.WriteFile(from, []byte("x"), 0o444); err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("x")
	for range 2 {
		if err := l.LinkBlob(d, from); err != nil {
			t.Fatal(err)
		}
	}
	p, _ := l.BlobPath(d)
	a, _ := os.Stat(from)
	if b, err := os.Stat(p); err != nil || !os.SameFile(a, b) {
		t.Error("no hard link", err)
	}
	if err := l.LinkBlob(digest.FromString("y"), filepath.Dir(from)); err == nil {
		t.Error("a folder became a blob")
	}
}

// Blobs that are not what they say: noticed by the reader.
func TestDamagedBlob(t *testing.T) {
	for name, damage := range map[string]func(p string) error{
		"changed":   func(p string) error { return os.WriteFile(p, []byte("hellO"), 0o644) },
		"truncated": func(p string) error { return os.Truncate(p, 3) },
		"longer":    func(p string) error { return os.WriteFile(p, []byte("hello!"), 0o644) },
		"a link":    func(p string) error { return os.Symlink("/etc/passwd", p) },
		"a folder":  func(p string) error { return os.Mkdir(p, 0o755) },
	} {
		l := newLayout(t)
		d, err := l.PutBytes("text/plain", []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		p, _ := l.BlobPath(d.Digest)
		if name == "a link" || name == "a folder" || os.Chmod(p, 0o644) != nil {
			os.Remove(p)
		}
		if err := damage(p); err != nil {
			t.Fatal(err)
		}
		if b, err := l.ReadBlob(d); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: read %q, %v", name, b, err)
		}
		if err := l.SetTag("t", d); name != "changed" && err == nil {
			t.Errorf("%s: tagged", name)
		}
	}
}

// Layouts made to harm.
func TestHostileLayout(t *testing.T) {
	index := func(s string) func(t *testing.T, l *Layout) {
		return func(t *testing.T, l *Layout) {
			if err := os.WriteFile(l.indexPath(), []byte(s), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]func(t *testing.T, l *Layout){
		"no JSON":     index("{"),
		"no schema":   index(`{"manifests":[]}`),
		"bad digest":  index(`{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha256:../../x","size":1}]}`),
		"bad size":    index(`{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"` + someDigest + `","size":-1}]}`),
		"no type":     index(`{"schemaVersion":2,"manifests":[{"digest":"` + someDigest + `","size":1}]}`),
		"wrong type":  index(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`),
		"too large":   index(`{"schemaVersion":2,"manifests":[` + strings.Repeat(" ", MaxManifest) + `]}`),
		"a directory": func(t *testing.T, l *Layout) { os.Remove(l.indexPath()); os.Mkdir(l.indexPath(), 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLayout(t)
			c(t, l)
			if _, err := l.Index(); err == nil {
				t.Error("accepted")
			}
			if _, _, err := l.GC(context.Background()); err == nil {
				t.Error("collected")
			}
		})
	}
	t.Run("index in a circle", func(t *testing.T) {
		// A digest cannot name itself, but indexes can be deep.
		l := newLayout(t)
		d := putImage(t, l, "x")
		for range maxDepth + 2 {
			b, _ := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []Descriptor{d}})
			d, _ = l.PutBytes(ocispec.MediaTypeImageIndex, b)
		}
		if err := l.Walk(d, func(Descriptor) error { return nil }); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("large manifest", func(t *testing.T) {
		l := newLayout(t)
		d, err := l.PutBytes(ocispec.MediaTypeImageManifest, bytes.Repeat([]byte(" "), MaxManifest+1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.ReadBlob(d); err == nil {
			t.Error("read")
		}
	})
	t.Run("collection with a manifest missing", func(t *testing.T) {
		l := newLayout(t)
		d := putImage(t, l, "x")
		if err := l.SetTag("t", d); err != nil {
			t.Fatal(err)
		}
		p, _ := l.BlobPath(d.Digest)
		os.Remove(p)
		if n, _, err := l.GC(context.Background()); err == nil || n != 0 {
			t.Errorf("removed %d blobs, %v", n, err)
		}
	})
}

func TestOpenLayoutRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenLayout(dir); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"2.0.0"}`), 0o644)
	if _, err := OpenLayout(dir); err == nil {
		t.Error("a later version was opened")
	}
	if _, err := CreateLayout(dir); err == nil {
		t.Error("a later version was replaced")
	}
	other := t.TempDir()
	os.WriteFile(filepath.Join(other, "precious"), nil, 0o644)
	if _, err := CreateLayout(other); err == nil {
		t.Error("a layout was mixed with other files")
	}
}

// Whatever index.json and a manifest say, reading ends without a panic, and
// what is accepted names blobs inside the layout only.
func FuzzManifests(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + someDigest + `","size":0}]}`))
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + someDigest + `","size":0},"layers":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &Layout{dir: "/layout"}
		check := func(d Descriptor) {
			p, err := l.BlobPath(d.Digest)
			if err != nil || !strings.HasPrefix(filepath.Clean(p), "/layout/blobs/sha") || d.Size < 0 {
				t.Errorf("%+v accepted: %s, %v", d, p, err)
			}
		}
		if idx, err := ParseIndex(b); err == nil {
			for _, d := range idx.Manifests {
				check(d)
			}
		}
		if m, err := ParseManifest(b); err == nil {
			check(m.Config)
			for _, d := range m.Layers {
				check(d)
			}
		}
	})
}
