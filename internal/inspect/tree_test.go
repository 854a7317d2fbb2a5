package inspect_test

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
)

// TestStacksAsUnpackDoes makes up layers full of whiteouts, links, hard links
// and replaced files, and compares the final file system with what unpacking
// them puts on disk.
func TestStacksAsUnpackDoes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	names := []string{"a", "b", "c", "d"}
	name := func() string {
		var parts []string
		for range 1 + r.IntN(3) {
			parts = append(parts, names[r.IntN(len(names))])
		}
		return strings.Join(parts, "/")
	}
	compared, refused := 0, 0
	for i := range 300 {
		s := corpus.Spec{Platform: corpus.Base().Platform}
		for l := range 1 + r.IntN(4) {
			var files []corpus.File
			for f := range 1 + r.IntN(8) {
				n := name()
				switch r.IntN(10) {
				case 0, 1, 2, 3:
					files = append(files, corpus.File{Name: n, Body: fmt.Appendf(nil, "%d %d", l, f)})
				case 4, 5:
					files = append(files, corpus.Dir(n))
				case 6:
					to := name()
					if r.IntN(2) == 0 {
						to = "/" + to
					}
					files = append(files, corpus.Link(n, to))
				case 7:
					if l > 0 {
						files = append(files, corpus.File{Name: filepath.Join(filepath.Dir(n), ".wh."+filepath.Base(n))})
					}
				case 8:
					if l > 0 {
						files = append(files, corpus.File{Name: n + "/.wh..wh..opq"})
					}
				case 9:
					var regular []string
					for _, f := range files {
						if f.Type == 0 && !strings.Contains(f.Name, ".wh.") {
							regular = append(regular, f.Name)
						}
					}
					if len(regular) > 0 {
						files = append(files, corpus.File{Name: n, Type: tar.TypeLink, Link: regular[r.IntN(len(regular))]})
					}
				}
			}
			s.Layers = append(s.Layers, corpus.Layer{Files: files})
		}
		layout, err := corpus.Write(t.TempDir(), s)
		if err != nil {
			t.Fatal(err)
		}
		img, err := corpus.Open(t.Context(), layout)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "root")
		uerr := image.Unpack(t.Context(), img, dir, image.UnpackOptions{})
		f, err := inspect.Inspect(t.Context(), img, inspect.Options{Tree: true})
		if err != nil {
			t.Fatal(err)
		}
		img.Close()
		if uerr != nil { // Unpack refuses some of what a runtime would do
			refused++
			continue
		}
		compared++
		var want, got []string
		err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err != nil || p == dir {
				return err
			}
			rel, _ := filepath.Rel(dir, p)
			switch {
			case e.IsDir():
			case e.Type()&fs.ModeSymlink != 0:
				to, err := os.Readlink(p)
				if err != nil {
					return err
				}
				want = append(want, rel+" -> "+to)
			default:
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				want = append(want, fmt.Sprintf("%s %d", rel, len(b)))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		sizes := map[string]int64{}
		for _, x := range f.Tree {
			sizes[x.Path] = x.Size
		}
		for _, x := range f.Tree {
			switch x.Type {
			case tar.TypeSymlink:
				got = append(got, x.Path+" -> "+x.Link)
			case tar.TypeReg:
				got = append(got, fmt.Sprintf("%s %d", x.Path, x.Size))
			case tar.TypeLink:
				got = append(got, fmt.Sprintf("%s %d", x.Path, sizes[x.Link]))
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			for l, layer := range s.Layers {
				for _, x := range layer.Files {
					t.Logf("layer %d: %c %s %s", l, x.Type|'-'&0x7f, x.Name, x.Link)
				}
			}
			t.Fatalf("image %d: unpacked (-) and inspected (+):\n%s", i, d)
		}
	}
	if compared < 50 {
		t.Errorf("only %d of 300 images could be compared, %d were refused", compared, refused)
	}
}
