package inspect_test

import (
	"fmt"
	"os"
	"testing"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
)

func TestZZ(t *testing.T) {
	out, _ := os.Create("/tmp/insp/zz.txt")
	for _, c := range corpus.Bad() {
		t.Run(c.Name, func(t *testing.T) {
			f := inspectCase(t, c, inspect.Options{})
			if f == nil {
				return
			}
			fmt.Fprintf(out, "%s [%s] %s\n", c.Name, c.Rule, c.Hides)
			for _, x := range f.Findings {
				l := -1
				for i, y := range f.Layers {
					if y.Digest == x.Layer {
						l = i
					}
				}
				mark := " "
				if x.Rule != c.Rule {
					mark = "*"
				}
				fmt.Fprintf(out, "  %s %s sub=%q path=%q in=%q layer=%d hidden=%v count=%d\n", mark, x.Rule, x.Subject, x.Path, x.Inside, l, x.Hidden, x.Count)
			}
		})
	}
}
