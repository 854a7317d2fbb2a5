package debfile

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzAr(f *testing.F) {
	f.Add(ar("debian-binary", "2.0\n", "_x", "odd"))
	f.Add([]byte(arMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := newArReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		total := int64(len(arMagic))
		for {
			name, size, err := a.next()
			if err == io.EOF {
				if total != int64(len(b)) {
					t.Fatalf("the members take %d of %d bytes", total, len(b))
				}
				return
			}
			if err != nil {
				return
			}
			if name == "" || strings.ContainsAny(name, "/ \x00\n") || size < 0 {
				t.Fatalf("member %q of %d bytes", name, size)
			}
			got, err := io.ReadAll(a)
			if err != nil {
				return
			}
			if int64(len(got)) != size {
				t.Fatalf("member %s gives %d of %d bytes", name, len(got), size)
			}
			total += 60 + size + size%2
		}
	})
}

func FuzzControl(f *testing.F) {
	f.Add([]byte(helloControl))
	f.Add([]byte("a:\n b\n .\n# c\n\td\nX: y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseControl(b)
		if err != nil {
			return
		}
		again, err := ParseControl([]byte(s.String()))
		if err != nil {
			t.Fatalf("%q, rendered as %q, is refused: %v", b, s.String(), err)
		}
		if d := cmp.Diff(s, again); d != "" {
			t.Fatalf("%q reads otherwise once rendered:\n%s", b, d)
		}
		if name, version, arch, err := identity(s); err == nil {
			if p := filepath.Join("info", name+":"+arch+"."+version); !filepath.IsLocal(p) || strings.ContainsAny(p, "\n ") || strings.Count(p, "/") != 1 {
				t.Fatalf("identity %q %q %q", name, version, arch)
			}
		}
	})
}

// FuzzTar takes the input for the data archive of a package.
func FuzzTar(f *testing.F) {
	f.Add(makeTar(f, []tar.Header{dir("./"), reg("./a", "x"), link(tar.TypeLink, "./b", "./a"), link(tar.TypeSymlink, "./c", "../x")}))
	f.Add(makeTar(f, []tar.Header{dir("./" + strings.Repeat("long/", 30)), reg("./etc/hello", strings.Repeat("y", 700))}))
	d := deb{scripts: map[string]string{"conffiles": "/etc/hello\n"}}
	head := []string{"debian-binary", "2.0\n", "control.tar", string(d.controlTar(f)), "data.tar"}
	f.Fuzz(func(t *testing.T, b []byte) {
		var data bytes.Buffer
		in := ar(append(head[:5:5], string(b))...)
		c, err := unpack(bytes.NewReader(in), &data)
		if err != nil {
			return
		}
		if !bytes.Equal(data.Bytes(), b) || c.size != int64(len(b)) {
			t.Fatalf("%d bytes written of %d", data.Len(), len(b))
		}
		folder := t.TempDir()
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(os.WriteFile(filepath.Join(folder, dataName), b, 0o644))
		must(os.WriteFile(filepath.Join(folder, indexName), c.encode(), 0o644))
		p, err := load(folder, digestOf(in))
		if err != nil {
			t.Fatalf("accepted, but the index is not: %v", err)
		}
		for i, e := range p.Entries {
			if !filepath.IsLocal(e.Path) || filepath.Clean(e.Path) != e.Path || e.Path == "." {
				t.Fatalf("path %q", e.Path)
			}
			if e.Type == tar.TypeLink && !filepath.IsLocal(e.Link) {
				t.Fatalf("hard link to %q", e.Link)
			}
			if e.IsReg() {
				r, err := e.Open()
				must(err)
				got, err := io.ReadAll(r)
				must(err)
				r.Close()
				if digestOf(got) != e.Digest || int64(len(got)) != e.Size {
					t.Fatalf("%s: the bytes are not those of its digest", e.Path)
				}
			}
			if w := c.entries[i]; w.Path != e.Path || w.Mode != e.Mode || w.ModTime != e.ModTime || w.UID != e.UID || w.Link != e.Link {
				t.Fatalf("entry %+v became %+v", w, e)
			}
		}
		if _, err := UsrMerge(p.Entries); err == nil {
			ListFile(p)
			StatusStanza(p, Installed)
		}
	})
}

// FuzzIndex takes the input for an index whose checksum is right.
func FuzzIndex(f *testing.F) {
	c := &contents{control: []byte(helloControl), md5sums: []byte("x"), members: []Member{{"postinst", 0o755, []byte("#!")}}}
	f.Add(c.encode()[len(indexMagic)+32:])
	f.Fuzz(func(t *testing.T, b []byte) {
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, dataName), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, indexName), seal(b), 0o644); err != nil {
			t.Fatal(err)
		}
		load(folder, digestOf(nil))
	})
}
