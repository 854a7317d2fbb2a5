package twinhull

import (
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackageComments wants every package to open with a comment that says what
// it is and, in a second sentence at least, what it is not, what it stands on
// or where to look next.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		var comments, in []string
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Error(err)
				continue
			}
			if f.Doc != nil {
				comments, in = append(comments, f.Doc.Text()), append(in, file)
			}
		}
		begin := "Package " + p.Name + " "
		if p.Name == "main" {
			begin = "Command " + filepath.Base(p.Dir) + " "
		}
		switch {
		case len(comments) == 0:
			t.Errorf("%s has no opening comment: begin one file with \"// %s…\"", p.room(), begin)
		case len(comments) > 1:
			t.Errorf("%s opens %d times, in %s: readers see them run together", p.room(), len(comments), strings.Join(in, ", "))
		case !strings.HasPrefix(comments[0], begin):
			t.Errorf("%s: the opening comment does not begin with %q", p.room(), begin)
		default:
			text := strings.TrimSpace(comments[0])
			if first := new(doc.Package).Synopsis(text); len(text) <= len(first)+1 {
				t.Errorf("%s: the opening comment is one sentence: say also what the package is not, or where to look next", p.room())
			}
		}
	}
}
