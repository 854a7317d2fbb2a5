package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
)

// hdr is a tar member written by archive/tar, for hostile layers.
type hdr struct {
	name, link, body string
	typ              byte
	mode             int64
}

func layerOf(t testing.TB, members ...hdr) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if m.typ == 0 {
			m.typ = tar.TypeReg
		}
		if m.mode == 0 {
			m.mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: m.name, Linkname: m.link, Typeflag: m.typ, Mode: m.mode, Size: int64(len(m.body)), ModTime: time.Unix(testTime, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// imageOf stores an image of raw tar layers.
func imageOf(t testing.TB, mediaType string, layers ...[]byte) *Image {
	t.Helper()
	store, err := oci.CreateLayout(filepath.Join(t.TempDir(), "l"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(mt string, b []byte) oci.Descriptor {
		d, err := store.PutBytes(mt, b)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	cfg := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(l))
		if mediaType == ocispec.MediaTypeImageLayerGzip {
			l = gz(t, l)
		}
		m.Layers = append(m.Layers, put(mediaType, l))
	}
	text, _ := json.Marshal(cfg)
	m.Config = put(ocispec.MediaTypeImageConfig, text)
	text, _ = json.Marshal(m)
	img, err := OpenDescriptor(store, put(ocispec.MediaTypeImageManifest, text), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// below lists what a folder holds, "path" or "path=content".
func below(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	if err := filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			rel += "=" + string(b)
		}
		out = append(out, rel)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestUnpackLayers(t *testing.T) {
	d := func(name string) hdr { return hdr{name: name, typ: tar.TypeDir} }
	f := func(name, body string) hdr { return hdr{name: name, body: body} }
	for _, c := range []struct {
		name   string
		layers [][]hdr
		want   string
	}{
		{"replace", [][]hdr{{d("a"), f("a/b", "1")}, {f("a/b", "2")}}, "a a/b=2"},
		{"whiteout", [][]hdr{{f("a", "1"), f("b", "1")}, {f(".wh.a", "")}}, "b=1"},
		{"whiteout of a folder", [][]hdr{{d("a"), f("a/b", "1")}, {f(".wh.a", "")}}, ""},
		{"whiteout of nothing there", [][]hdr{{f(".wh.a", "")}}, ""},
		{"whiteout after its replacement", [][]hdr{{f("a", "1")}, {f("a", "2"), f(".wh.a", "")}}, "a=2"},
		{"whiteout before its replacement", [][]hdr{{d("a"), f("a/b", "1")}, {f(".wh.a", ""), f("a", "2")}}, "a=2"},
		{"opaque", [][]hdr{{d("a"), f("a/b", "1"), d("a/c"), f("a/c/d", "1")}, {d("a"), f("a/.wh..wh..opq", ""), f("a/e", "2")}}, "a a/e=2"},
		{"opaque last", [][]hdr{{d("a"), f("a/b", "1"), d("a/c"), f("a/c/d", "1")}, {d("a"), f("a/c/e", "2"), f("a/.wh..wh..opq", "")}}, "a a/c a/c/e=2"},
		{"folder over file", [][]hdr{{f("a", "1")}, {d("a"), f("a/b", "2")}}, "a a/b=2"},
		{"file over folder", [][]hdr{{d("a"), f("a/b", "1")}, {f("a", "2")}}, "a=2"},
		{"file over link", [][]hdr{{f("t", "1"), {name: "a", typ: tar.TypeSymlink, link: "t"}}, {f("a", "2")}}, "a=2 t=1"},
		{"through a link of the image", [][]hdr{{d("usr"), d("usr/lib"), {name: "lib", typ: tar.TypeSymlink, link: "/usr/lib"}}, {f("lib/x", "1")}}, "lib usr usr/lib usr/lib/x=1"},
		{"folder keeps a link to a folder away", [][]hdr{{d("usr"), {name: "lib", typ: tar.TypeSymlink, link: "usr"}}, {d("lib"), f("lib/x", "1")}}, "lib lib/x=1 usr"},
		{"no folders named", [][]hdr{{f("a/b/c", "1")}}, "a a/b a/b/c=1"},
		{"leading slash and dot", [][]hdr{{f("/a", "1"), f("./b", "2")}}, "a=1 b=2"},
		{"read-only folder", [][]hdr{{{name: "a", typ: tar.TypeDir, mode: 0o555}, f("a/b", "1")}, {f("a/c", "2")}}, "a a/b=1 a/c=2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, layerOf(t, l...))
			}
			dir := filepath.Join(t.TempDir(), "root")
			t.Cleanup(func() { os.Chmod(filepath.Join(dir, "a"), 0o755) })
			if err := Unpack(context.Background(), imageOf(t, ocispec.MediaTypeImageLayerGzip, layers...), dir, UnpackOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := below(t, dir); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Hostile layers: an error, or everything stays inside.
func TestUnpackHostile(t *testing.T) {
	sl := func(name, to string) hdr { return hdr{name: name, typ: tar.TypeSymlink, link: to} }
	for _, c := range []struct {
		name    string
		members []hdr
		refused bool
	}{
		{"climbing name", []hdr{{name: "../outside", body: "x"}}, true},
		{"climbing inside a name", []hdr{{name: "a/../../outside", body: "x"}}, true},
		{"absolute name", []hdr{{name: "/../outside", body: "x"}}, true},
		{"write through an absolute link", []hdr{sl("a", "OUTSIDE"), {name: "a/outside", body: "x"}}, false},
		{"write through a climbing link", []hdr{sl("a", "../../.."), {name: "a/outside", body: "x"}}, false},
		{"write over a link", []hdr{sl("a", "OUTSIDE/canary"), {name: "a", body: "x"}}, false},
		{"chain of links", []hdr{sl("a", ".."), sl("b", "a/.."), {name: "b/outside", body: "x"}}, false},
		{"links in a circle", []hdr{sl("a", "b"), sl("b", "a"), {name: "a/x", body: "x"}}, true},
		{"hard link out", []hdr{{name: "a", typ: tar.TypeLink, link: "../canary"}}, true},
		{"hard link through a link", []hdr{sl("a", "OUTSIDE"), {name: "b", typ: tar.TypeLink, link: "a/canary"}}, true},
		{"hard link to a link, then write", []hdr{sl("a", "OUTSIDE/canary"), {name: "b", typ: tar.TypeLink, link: "a"}, {name: "b", body: "x"}}, false},
		{"hard link to a folder", []hdr{{name: "a", typ: tar.TypeDir}, {name: "b", typ: tar.TypeLink, link: "a"}}, true},
		{"device", []hdr{{name: "a", typ: tar.TypeChar}}, true},
		{"FIFO", []hdr{{name: "a", typ: tar.TypeFifo}}, true},
		{"whiteout through a link", []hdr{sl("a", "OUTSIDE"), {name: "a/.wh.canary"}}, false},
		{"whiteout that climbs", []hdr{{name: ".wh..."}}, true},
		{"opaque through a link", []hdr{sl("a", "OUTSIDE"), {name: "a/.wh..wh..opq"}}, false},
		{"below a file", []hdr{{name: "a", body: "x"}, {name: "a/b", body: "x"}}, true},
		{"root as a file", []hdr{{name: "./", typ: tar.TypeSymlink, link: "/"}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			outside := t.TempDir()
			canary := filepath.Join(outside, "canary")
			writeFile(t, canary, []byte("alive"))
			dir := filepath.Join(outside, "deep", "root")
			for i := range c.members {
				c.members[i].link = strings.ReplaceAll(c.members[i].link, "OUTSIDE", outside)
			}
			err := Unpack(context.Background(), imageOf(t, ocispec.MediaTypeImageLayer, layerOf(t, c.members...)), dir, UnpackOptions{})
			if (err != nil) != c.refused {
				t.Errorf("refused: %v, want %v", err, c.refused)
			}
			if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
				t.Errorf("canary: %q %v", b, err)
			}
			if fi, err := os.Lstat(canary); err != nil || fi.Mode().Perm() != 0o644 {
				t.Errorf("canary: %v %v", fi, err)
			}
			for _, d := range []string{outside, filepath.Join(outside, "deep")} {
				names, err := os.ReadDir(d)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range names {
					if n.Name() != "canary" && n.Name() != "deep" && n.Name() != "root" {
						t.Errorf("%s was written outside", n.Name())
					}
				}
			}
		})
	}
}

func TestUnpackLimits(t *testing.T) {
	ctx := context.Background()
	small := func(img *Image, l Limits) error {
		return Unpack(ctx, img, filepath.Join(t.TempDir(), "root"), UnpackOptions{Limits: l})
	}
	img := imageOf(t, ocispec.MediaTypeImageLayerGzip, layerOf(t, hdr{name: "a", body: "12345"}, hdr{name: "b", body: "12345"}))
	if err := small(img, Limits{}); err != nil {
		t.Error(err)
	}
	if err := small(img, Limits{MaxBytes: 9}); !errors.Is(err, ErrLimit) {
		t.Error("size:", err)
	}
	if err := small(img, Limits{MaxEntries: 1}); !errors.Is(err, ErrLimit) {
		t.Error("entries:", err)
	}
	bomb := imageOf(t, ocispec.MediaTypeImageLayerGzip, layerOf(t, hdr{name: "zeros", body: string(make([]byte, ratioFree+10<<20))}))
	if err := small(bomb, Limits{}); !errors.Is(err, ErrLimit) {
		t.Error("bomb:", err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "x"), nil)
	if err := Unpack(ctx, img, dir, UnpackOptions{}); err == nil {
		t.Error("unpacked into a folder that is not empty")
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := Unpack(done, img, filepath.Join(t.TempDir(), "root"), UnpackOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Manifests that do not fit their blobs.
func TestOpenRefuses(t *testing.T) {
	layer := layerOf(t, hdr{name: "a", body: "x"})
	for _, c := range []struct {
		name   string
		change func(m *ocispec.Manifest, cfg *ocispec.Image)
		late   bool // noticed when the layer is read
	}{
		{"brotli", func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].MediaType = ocispec.MediaTypeImageLayer + "+br"
		}, false},
		{"foreign layer", func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}, false},
		{"not gzip", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].MediaType = ocispec.MediaTypeImageLayerGzip }, true},
		{"not zstd", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].MediaType = ocispec.MediaTypeImageLayerZstd }, true},
		{"layer size", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Size-- }, true},
		{"layer missing", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Digest = digest.FromString("?") }, true},
		{"DiffID", func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[0] = digest.FromString("?") }, true},
		{"bad DiffID", func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[0] = "sha256:../x" }, false},
		{"too few DiffIDs", func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs = nil }, false},
		{"artifact", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Config.MediaType = ocispec.MediaTypeEmptyJSON }, false},
		{"digest that climbs", func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Digest = "sha256:../../../../etc/passwd" }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, err := oci.CreateLayout(filepath.Join(t.TempDir(), "l"))
			if err != nil {
				t.Fatal(err)
			}
			ld, _ := store.PutBytes(ocispec.MediaTypeImageLayer, layer)
			cfg := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{ld.Digest}}}
			m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []oci.Descriptor{ld},
				Config: oci.Descriptor{MediaType: ocispec.MediaTypeImageConfig}}
			c.change(&m, &cfg)
			text, _ := json.Marshal(cfg)
			cd, _ := store.PutBytes(m.Config.MediaType, text)
			m.Config = cd
			text, _ = json.Marshal(m)
			md, _ := store.PutBytes(ocispec.MediaTypeImageManifest, text)
			img, err := OpenDescriptor(store, md, OpenOptions{})
			if c.late && err == nil {
				err = Unpack(context.Background(), img, filepath.Join(t.TempDir(), "root"), UnpackOptions{})
			}
			if err == nil {
				t.Error("accepted")
			}
		})
	}
}

// Whatever bytes a layer has, unpacking ends, stays inside and does not panic.
func FuzzUnpack(f *testing.F) {
	f.Add(layerOf(f, hdr{name: "a/b", body: "x"}, hdr{name: "c", typ: tar.TypeSymlink, link: "/etc"}, hdr{name: "c/d", body: "y"}))
	f.Add(layerOf(f, hdr{name: "a", typ: tar.TypeDir}, hdr{name: "a/.wh..wh..opq"}, hdr{name: "b", typ: tar.TypeLink, link: "a/../c"}))
	f.Add(layerOf(f, hdr{name: "../x", body: "x"}))
	f.Add([]byte("not a tar"))
	f.Fuzz(func(t *testing.T, layer []byte) {
		outside := t.TempDir()
		dir := filepath.Join(outside, "d", "root")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		u := newUnpacker(context.Background(), root, UnpackOptions{Limits: Limits{MaxBytes: 1 << 20, MaxEntries: 1000}})
		if u.layer(bytes.NewReader(layer)) == nil {
			u.finish()
		}
		defer filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error { // for TempDir's own clean-up
			if fi != nil && fi.IsDir() {
				os.Chmod(p, 0o700)
			}
			return nil
		})
		for _, d := range []string{outside, filepath.Join(outside, "d")} {
			if names, err := os.ReadDir(d); err != nil || len(names) != 1 {
				t.Fatalf("outside: %v %v", names, err)
			}
		}
	})
}

// Whatever an archive holds, opening it ends in an image or an error.
func FuzzOpenDockerArchive(f *testing.F) {
	cfg := []byte(`{"rootfs":{"type":"layers","diff_ids":["` + string(digest.FromString("")) + `"]}}`)
	name := fmt.Sprintf("%x.json", sha256.Sum256(cfg))
	f.Add(layerOf(f, hdr{name: name, body: string(cfg)}, hdr{name: "l.tar", body: ""},
		hdr{name: "manifest.json", body: `[{"Config":"` + name + `","RepoTags":["a:b"],"Layers":["l.tar"]}]`}))
	f.Add(layerOf(f, hdr{name: "manifest.json", body: `[]`}))
	f.Add(layerOf(f, hdr{name: "manifest.json", typ: tar.TypeSymlink, link: "manifest.json"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := filepath.Join(t.TempDir(), "a.tar")
		writeFile(t, p, b)
		img, err := Open(context.Background(), oci.Ref{Kind: oci.DockerArchiveRef, Path: p}, OpenOptions{})
		if err != nil {
			return
		}
		defer img.Close()
		Unpack(context.Background(), img, filepath.Join(t.TempDir(), "root"), UnpackOptions{Limits: Limits{MaxBytes: 1 << 20, MaxEntries: 100}})
	})
}
