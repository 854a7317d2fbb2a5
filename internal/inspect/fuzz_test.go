package inspect

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"twinhull.dev/twinhull/internal/image"
)

func tarOf(t testing.TB, entries ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzLayer reads any bytes as a layer and stacks what came out twice.
func FuzzLayer(f *testing.F) {
	f.Add(tarOf(f, &tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Size: 10, Mode: 0o755}, &tar.Header{Name: "a/.wh.b", Typeflag: tar.TypeReg}, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../l"}))
	f.Add(tarOf(f, &tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "nothing"}, &tar.Header{Name: "d/.wh..wh..opq", Typeflag: tar.TypeReg}, &tar.Header{Name: "../../x", Typeflag: tar.TypeReg, Size: 600}))
	s := rules(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWorker(context.Background(), s)
		tree := newTree()
		for i := range 2 {
			l := &layerScan{}
			_ = w.scanTar(l, bytes.NewReader(b), scanOptions{limits: image.Limits{MaxBytes: 1 << 22}, sha256: true, md5: true}, func() error { return nil }) // an error is a fact, not a failure
			tree.apply(i, l)
		}
		tree.each(func(p string, n *node) {
			if n.e != nil && n.e.refs < 1 {
				t.Errorf("%q is there, although nothing refers to it", p)
			}
			if strings.HasPrefix(p, "/") || strings.Contains("/"+p+"/", "/../") {
				t.Errorf("path %q", p)
			}
		})
	})
}

// FuzzFile gives any bytes to the detectors under names that choose each.
func FuzzFile(f *testing.F) {
	var z bytes.Buffer
	w := zip.NewWriter(&z)
	m, _ := w.Create("META-INF/maven/g/a/pom.properties")
	_, _ = m.Write([]byte("groupId=g\nartifactId=a\nversion=1\n"))
	_ = w.Close()
	var g bytes.Buffer
	gw := gzip.NewWriter(&g)
	_, _ = gw.Write(tarOf(f, &tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 3}))
	_ = gw.Close()
	for i := range uint8(12) {
		f.Add([]byte("Package: a\nVersion: 1\n\n"), i)
		f.Add(z.Bytes(), i)
		f.Add(g.Bytes(), i)
		f.Add([]byte("070701"+strings.Repeat("0", 104)+"TRAILER!!!"), i)
		f.Add([]byte("\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 9)+"\x03\x00\x3e\x00"+strings.Repeat("\x01", 60)), i)
	}
	names := []string{"var/lib/dpkg/status", "lib/apk/db/installed", "app/node_modules/x/package.json", "app/x.dist-info/METADATA", "usr/lib/specifications/x-1.gemspec", "app/vendor/composer/installed.json", "var/lib/dpkg/info/x.md5sums", "app/a.jar", "app/.env", "app/file", "bin/sh", "etc/passwd"}
	s := rules(f)
	f.Fuzz(func(t *testing.T, b []byte, which uint8) {
		w := newWorker(context.Background(), s)
		name := names[int(which)%len(names)]
		c, err := w.file(fileInfo{path: name, size: int64(len(b)), mode: 0o755}, bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// Read again without knowing the size: the same content.
		d, err := w.file(fileInfo{path: name, size: -1, mode: 0o755}, bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(c.tools) != len(d.tools) || len(c.pkgs) != len(d.pkgs) || len(c.secrets) != len(d.secrets) {
			t.Errorf("%s: %+v and %+v", name, c, d)
		}
		_ = md5sums(b, func(md5Line) {}) // any bytes
	})
}
