package inspect_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
)

func raw(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// patched changes bytes of the first header and makes its checksum right again.
func patched(b []byte, at int, with string) []byte {
	b = bytes.Clone(b)
	copy(b[at:], with)
	copy(b[148:156], "        ")
	n := 0
	for _, c := range b[:512] {
		n += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", n))
	return b
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b) // to memory
	_ = w.Close()
	return out.Bytes()
}

func zstandard(t *testing.T, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// TestHostileLayers gives Inspect layers that no builder makes: each ends in
// the right result or in a clear word, and nothing is believed on an error.
func TestHostileLayers(t *testing.T) {
	file := func(name string) *tar.Header { return &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 3} }
	link := func(name, to string, typ byte) *tar.Header {
		return &tar.Header{Name: name, Linkname: to, Typeflag: typ}
	}
	long := strings.Repeat("x", 200) + "/"
	tests := []struct {
		name   string
		layer  corpus.Layer
		change func(*ocispec.Manifest, *ocispec.Image)
		rule   string // of a finding that must be there; "" for none at all
		detail string // part of its detail or path
		broken bool   // the layer cannot be believed: Facts are not complete
		has    string // a path that the final file system must have
		lacks  string // and one that it must not have
	}{
		{name: "absolute path", layer: corpus.Layer{Raw: raw(t, file("/app/x"))}, has: "app/x"},
		{name: "two slashes and dots", layer: corpus.Layer{Raw: raw(t, file(".//app/./x"))}, has: "app/x"},
		{name: "climbing out", layer: corpus.Layer{Raw: raw(t, file("../../app/x"))}, rule: inspect.RuleHostile, detail: "climbs", has: "app/x"},
		{name: "climbing by a link", layer: corpus.Layer{Raw: raw(t, link("app/up", "../../../..", tar.TypeSymlink), file("app/up/app/x"))}, has: "app/x"},
		{name: "path of 9000 bytes", layer: corpus.Layer{Raw: raw(t, file(strings.Repeat(long, 45)+"x"))}, rule: inspect.RuleHostile, detail: "9046 bytes"},
		{name: "folders 3000 deep", layer: corpus.Layer{Raw: raw(t, file(strings.Repeat("d/", 3000)+"x"))}, rule: inspect.RuleHostile, detail: "deeper"},
		{name: "zero byte in a name", layer: corpus.Layer{Raw: slices.Concat(paxRecord("path", "app/x\x00y"), raw(t, file("app/z")))}, rule: inspect.RuleUnreadable, detail: "entry 0", broken: true},
		{name: "names that differ in case", layer: corpus.Layer{Raw: raw(t, file("app/A"), file("app/a"))}, has: "app/A"},
		{name: "the root as a file", layer: corpus.Layer{Raw: raw(t, file("."))}},
		{name: "the root as a link", layer: corpus.Layer{Raw: raw(t, link("/", "/app", tar.TypeSymlink))}, has: "app/server"},
		{name: "file where a folder was", layer: corpus.Layer{Raw: raw(t, file("etc/ssl"))}, rule: inspect.RuleNoCABundle, has: "etc/ssl", lacks: "etc/ssl/certs/ca-certificates.crt"},
		{name: "the same path twice", layer: corpus.Layer{Raw: raw(t, file("app/x"), link("app/x", "server", tar.TypeSymlink))}, has: "app/x"},
		{name: "hard link to nothing", layer: corpus.Layer{Raw: raw(t, link("app/x", "app/gone", tar.TypeLink))}, rule: inspect.RuleHostile, detail: "not there", lacks: "app/x"},
		{name: "hard link to itself", layer: corpus.Layer{Raw: raw(t, link("app/x", "app/x", tar.TypeLink))}, rule: inspect.RuleHostile, detail: "not there", lacks: "app/x"},
		{name: "hard links in a circle", layer: corpus.Layer{Raw: raw(t, link("app/x", "app/y", tar.TypeLink), link("app/y", "app/x", tar.TypeLink))}, rule: inspect.RuleHostile, detail: "not there", lacks: "app/y"},
		{name: "hard link to a folder", layer: corpus.Layer{Raw: raw(t, link("app/x", "etc", tar.TypeLink))}, rule: inspect.RuleHostile, detail: "not there"},
		{name: "hard link out of the root", layer: corpus.Layer{Raw: raw(t, link("app/x", "../../../app/server", tar.TypeLink))}, has: "app/x"},
		{name: "hard link to a link", layer: corpus.Layer{Raw: raw(t, link("app/l", "server", tar.TypeSymlink), link("app/x", "app/l", tar.TypeLink))}, has: "app/x"},
		{name: "link to itself", layer: corpus.Layer{Raw: raw(t, link("app/x", "x", tar.TypeSymlink))}, has: "app/x"},
		{name: "file below a link to itself", layer: corpus.Layer{Raw: raw(t, link("app/x", "x", tar.TypeSymlink), file("app/x/y"))}, rule: inspect.RuleHostile, detail: "circle"},
		{name: "forty links in a row", layer: corpus.Layer{Raw: raw(t, func() (l []*tar.Header) {
			for i := range 60 {
				l = append(l, link(fmt.Sprintf("app/l%d", i), fmt.Sprintf("l%d", i+1), tar.TypeSymlink))
			}
			return append(l, file("app/l0/x"))
		}()...)}, rule: inspect.RuleHostile, detail: "circle"},
		{name: "whiteout with contents", layer: corpus.Layer{Raw: raw(t, file("app/.wh.x"))}, rule: inspect.RuleHostile, detail: "whiteout with 3 bytes"},
		{name: "metadata of aufs with contents", layer: corpus.Layer{Raw: raw(t, file("app/.wh..wh.secret"))}, rule: inspect.RuleHostile, detail: "whiteout with 3 bytes"},
		{name: "whiteout of nothing", layer: corpus.Layer{Raw: raw(t, &tar.Header{Name: "app/.wh.", Typeflag: tar.TypeReg})}, rule: inspect.RuleHostile, detail: "whiteout of nothing"},
		{name: "whiteout of a whiteout", layer: corpus.Layer{Raw: raw(t, &tar.Header{Name: "app/.wh..wh.server", Typeflag: tar.TypeReg})}, has: "app/server"},
		{name: "whiteout of the parent", layer: corpus.Layer{Raw: raw(t, &tar.Header{Name: "app/.wh...", Typeflag: tar.TypeReg})}, has: "app/server"},
		{name: "whiteout of the folder that it lies in", layer: corpus.Layer{Raw: raw(t, &tar.Header{Name: "app/.wh..", Typeflag: tar.TypeReg})}, has: "app/server"},
		{name: "opaque root", layer: corpus.Layer{Raw: raw(t, &tar.Header{Name: ".wh..wh..opq", Typeflag: tar.TypeReg}, &tar.Header{Name: "app/x", Typeflag: tar.TypeReg, Size: 3})}, rule: inspect.RuleBrokenEntrypoint, has: "app/x", lacks: "app/server"},
		{name: "unknown type", layer: corpus.Layer{Raw: patched(raw(t, file("app/x")), 156, "Z")}, rule: inspect.RuleHostile, detail: "unknown type", lacks: "app/x"},
		{name: "global header", layer: corpus.Layer{Raw: raw(t, &tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "app/server"}}, file("app/x"))}, has: "app/x"},
		{name: "size of 8 EiB", layer: corpus.Layer{Raw: patched(raw(t, file("app/x")), 124, "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff")}, rule: inspect.RuleUnreadable, broken: true},
		{name: "negative size", layer: corpus.Layer{Raw: patched(raw(t, file("app/x")), 124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe")}, rule: inspect.RuleUnreadable, broken: true},
		{name: "size beyond the end", layer: corpus.Layer{Raw: patched(raw(t, file("app/x")), 124, "00000077777\x00")}, rule: inspect.RuleUnreadable, detail: "unexpected EOF", broken: true},
		{name: "wrong checksum", layer: corpus.Layer{Raw: append([]byte("y"), raw(t, file("app/x"))[1:]...)}, rule: inspect.RuleUnreadable, detail: "invalid tar header", broken: true},
		{name: "sparse file of PAX", layer: corpus.Layer{Raw: slices.Concat(paxRecord("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "app/x", "GNU.sparse.realsize", "9999999999"), patched(raw(t, &tar.Header{Name: "s", Typeflag: tar.TypeReg, Size: 512}), 0, "s"))}, rule: inspect.RuleUnreadable, broken: true},
		{name: "no end of the archive", layer: corpus.Layer{Raw: raw(t, file("app/x"))[:1024]}, has: "app/x"},
		{name: "half a header", layer: corpus.Layer{Raw: raw(t, file("app/x"))[:1024+100]}, rule: inspect.RuleUnreadable, broken: true},
		{name: "empty layer", layer: corpus.Layer{Raw: make([]byte, 1024)}},
		{name: "layer of nothing", layer: corpus.Layer{Raw: []byte{}, Blob: gzipped(nil)}},
		{name: "second archive behind the first", layer: corpus.Layer{Raw: slices.Concat(raw(t, file("app/x")), raw(t, file("app/y")))}, rule: inspect.RuleHostile, detail: "behind the end", lacks: "app/y"},

		// What is stored is not what is said.
		{name: "gzip called plain", layer: corpus.Layer{MediaType: ocispec.MediaTypeImageLayer, Blob: gzipped(raw(t, file("app/x"))), Raw: raw(t, file("app/x"))}, rule: inspect.RuleUnreadable, broken: true},
		{name: "plain called gzip", layer: corpus.Layer{Blob: raw(t, file("app/x")), Raw: raw(t, file("app/x"))}, rule: inspect.RuleUnreadable, detail: "gzip", broken: true},
		{name: "zstd called gzip", layer: corpus.Layer{Blob: zstandard(t, raw(t, file("app/x"))), Raw: raw(t, file("app/x"))}, rule: inspect.RuleUnreadable, detail: "gzip", broken: true},
		{name: "gzip called zstd", layer: corpus.Layer{MediaType: ocispec.MediaTypeImageLayerZstd, Blob: gzipped(raw(t, file("app/x"))), Raw: raw(t, file("app/x"))}, rule: inspect.RuleUnreadable, broken: true},
		{name: "truncated zstd", layer: corpus.Layer{MediaType: ocispec.MediaTypeImageLayerZstd, Blob: zstandard(t, raw(t, file("app/x")))[:60], Raw: raw(t, file("app/x"))}, rule: inspect.RuleUnreadable, broken: true},
		{name: "bytes behind gzip", layer: corpus.Layer{Blob: append(gzipped(raw(t, file("app/x"))), "hidden"...), Raw: raw(t, file("app/x"))}, rule: inspect.RuleUnreadable, broken: true},
		{name: "another size", layer: corpus.Layer{Raw: raw(t, file("app/x"))}, change: func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[2].Size++ }, rule: inspect.RuleUnreadable, detail: "bytes", broken: true},
		{name: "another DiffID", layer: corpus.Layer{Raw: raw(t, file("app/x"))}, change: func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[2] = c.RootFS.DiffIDs[0]
		}, rule: inspect.RuleInconsistent, broken: true},
		{name: "layers in another order", layer: corpus.Layer{Raw: raw(t, file("app/x"))}, change: func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[1], m.Layers[2] = m.Layers[2], m.Layers[1]
		}, rule: inspect.RuleInconsistent, broken: true},
		{name: "a blob that is not there", layer: corpus.Layer{Raw: raw(t, file("app/x"))}, change: func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[2].Digest = oci.Digest("sha256:" + strings.Repeat("0", 64))
		}, rule: inspect.RuleUnreadable, broken: true},
		{name: "gzip bomb", layer: corpus.Layer{Raw: raw(t, &tar.Header{Name: "app/x", Typeflag: tar.TypeReg, Size: 90 << 20})}, rule: inspect.RuleUnreadable, detail: "400 times", broken: true},
		{name: "zstd bomb", layer: corpus.Layer{MediaType: ocispec.MediaTypeImageLayerZstd, Raw: raw(t, &tar.Header{Name: "app/x", Typeflag: tar.TypeReg, Size: 90 << 20})}, rule: inspect.RuleUnreadable, detail: "400 times", broken: true},
		{name: "history tells of more layers", layer: corpus.Layer{Raw: raw(t, file("app/x"))}, change: func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.History = append(c.History, ocispec.History{CreatedBy: "one more"})
		}, rule: inspect.RuleInconsistent, detail: "4 layers"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := corpus.Base()
			s.Layers = append(s.Layers, tt.layer)
			s.Change = tt.change
			f := facts(t, s, inspect.Options{Tree: true})
			if f.Complete == tt.broken || tt.broken == (len(f.Errors) == 0) {
				t.Errorf("complete is %v, errors %q", f.Complete, f.Errors)
			}
			if tt.rule == "" && len(f.Findings) > 0 {
				t.Errorf("findings:%s", describe(f.Findings))
			}
			if tt.rule != "" && !slices.ContainsFunc(f.Findings, func(x inspect.Finding) bool {
				return x.Rule == tt.rule && strings.Contains(x.Detail, tt.detail)
			}) {
				t.Errorf("no finding of %s with %q, only:%s", tt.rule, tt.detail, describe(f.Findings))
			}
			in := func(p string) bool {
				return slices.ContainsFunc(f.Tree, func(x inspect.File) bool { return x.Path == p })
			}
			if tt.has != "" && !in(tt.has) {
				t.Errorf("%s is not there", tt.has)
			}
			if tt.lacks != "" && in(tt.lacks) {
				t.Errorf("%s is there", tt.lacks)
			}
		})
	}
}

// paxRecord is an extended header of its own (pax(1)) that package tar would
// refuse to write.
func paxRecord(pairs ...string) []byte {
	var text string
	for i := 0; i < len(pairs); i += 2 {
		body := " " + pairs[i] + "=" + pairs[i+1] + "\n"
		n := len(body) + 1
		for len(fmt.Sprint(n))+len(body) > n {
			n++
		}
		text += fmt.Sprint(n) + body
	}
	var h [512]byte
	copy(h[:], "PaxHeaders/x")
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", len(text)))
	copy(h[136:], "00000000000\x00")
	h[156] = tar.TypeXHeader
	copy(h[257:], "ustar\x0000")
	return slices.Concat(patched(h[:], 0, "P"), []byte(text), make([]byte, (512-len(text)%512)%512))
}

// BenchmarkManyFiles shows that ten times as many files take ten times as long.
func BenchmarkManyFiles(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			files := make([]corpus.File, n)
			for i := range files { // one folder, links among them, every tenth a duplicate
				files[i] = corpus.File{Name: fmt.Sprintf("data/%d", i-i%10/9)}
				if i%3 == 1 {
					files[i].Type, files[i].Link = tar.TypeSymlink, fmt.Sprint(i-1)
				}
			}
			layout, err := corpus.Write(b.TempDir(), corpus.With(files...))
			if err != nil {
				b.Fatal(err)
			}
			img, err := corpus.Open(b.Context(), layout)
			if err != nil {
				b.Fatal(err)
			}
			defer img.Close()
			for b.Loop() {
				if _, err := inspect.Inspect(b.Context(), img, inspect.Options{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/file")
		})
	}
}

// TestMissingBlobIsNotSilence deletes a layer from the layout: the facts say
// so and are not complete.
func TestMissingBlobIsNotSilence(t *testing.T) {
	s := corpus.Base()
	s.Spoil = func(l *oci.Layout, m ocispec.Manifest) error {
		p, err := l.BlobPath(m.Layers[0].Digest)
		if err != nil {
			return err
		}
		return os.Remove(p)
	}
	layout, err := corpus.Write(t.TempDir(), s)
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Open(t.Context(), oci.Ref{Kind: oci.LayoutRef, Path: layout.Dir(), Tag: corpus.Tag}, image.OpenOptions{Platform: oci.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	f, err := inspect.Inspect(t.Context(), img, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if f.Complete || len(f.Errors) != 1 {
		t.Errorf("complete %v, errors %q", f.Complete, f.Errors)
	}
}
