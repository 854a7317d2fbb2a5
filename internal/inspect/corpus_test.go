package inspect_test

import (
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
)

var update = flag.Bool("update", false, "write corpus/expected.txt")

// shared are the tools of all tests: what was downloaded once is enough.
var shared = sync.OnceValues(func() (*corpus.Tools, error) {
	dir, err := os.MkdirTemp("", "twinhull-corpus-")
	if err != nil {
		return nil, err
	}
	return corpus.NewTools(dir), os.Chmod(dir, 0o755)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if tools, err := shared(); err == nil {
		_ = os.RemoveAll(tools.Dir()) // a folder of temporary files
	}
	os.Exit(code)
}

// inspectCase writes a case and reads it; nil facts mean that it did not open.
func inspectCase(t *testing.T, c corpus.Case, opt inspect.Options) *inspect.Facts {
	t.Helper()
	tools, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := c.Store(t.TempDir(), tools)
	if errors.Is(err, corpus.ErrNoTool) {
		t.Skipf("needs a real program: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Open(t.Context(), ref, image.OpenOptions{Platform: oci.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		if !c.OpenFails {
			t.Fatal(err)
		}
		return nil
	}
	defer img.Close()
	if c.OpenFails {
		t.Fatal("the image opens")
	}
	f, err := inspect.Inspect(t.Context(), img, opt)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func describe(list []inspect.Finding) string {
	var b strings.Builder
	for _, f := range list {
		b.WriteString("\n  " + f.Rule + " " + f.Subject + " " + f.Path + " " + f.Inside + " | " + f.Detail + " | " + f.Evidence)
	}
	return b.String()
}

func TestBadImages(t *testing.T) {
	cases := corpus.Bad()
	if len(cases) < 60 {
		t.Errorf("the corpus has %d bad images", len(cases))
	}
	seen := map[string]bool{}
	var mu sync.Mutex
	written := map[string]string{}
	t.Cleanup(func() {
		if *update {
			var b strings.Builder
			for _, c := range cases {
				b.WriteString(written[c.Name])
			}
			for _, c := range corpus.Clean() { // stays as it was
				list, err := c.Expected()
				if err != nil {
					t.Error(err)
				}
				b.WriteString(corpus.Lines(c.Name, list))
			}
			if err := os.WriteFile("corpus/expected.txt", []byte(b.String()), 0o644); err != nil {
				t.Error(err)
			}
		}
	})
	for n, c := range cases {
		if seen[c.Name] {
			t.Errorf("two cases are called %s", c.Name)
		}
		seen[c.Name] = true
		t.Run(c.Name, func(t *testing.T) {
			if testing.Short() && n%8 != 0 && !*update {
				t.Skip("with -short, every eighth")
			}
			t.Parallel()
			f := inspectCase(t, c, inspect.Options{})
			if f == nil {
				return
			}
			got := corpus.Expectations(f)
			if *update {
				mu.Lock()
				written[c.Name] = corpus.Lines(c.Name, got)
				mu.Unlock()
				return
			}
			want, err := c.Expected()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(want, func(e corpus.Expectation) bool { return e.Rule == c.Rule }) {
				t.Errorf("expected.txt has no finding of rule %s", c.Rule)
			}
			if d := cmp.Diff(corpus.Lines(c.Name, want), corpus.Lines(c.Name, got)); d != "" {
				t.Errorf("findings (-want +got):\n%s\nall:%s", d, describe(f.Findings))
			}
			if layer := slices.ContainsFunc(f.Findings, func(x inspect.Finding) bool {
				return x.Rule == inspect.RuleUnreadable && x.Subject == "layer"
			}); layer == f.Complete {
				t.Errorf("complete is %v", f.Complete)
			}
		})
	}
}

func TestCleanImages(t *testing.T) {
	cases := corpus.Clean()
	if len(cases) < 15 {
		t.Errorf("the corpus has %d clean images", len(cases))
	}
	for n, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			if testing.Short() && n%8 != 0 {
				t.Skip("with -short, every eighth")
			}
			t.Parallel()
			f := inspectCase(t, c, inspect.Options{})
			if !f.Complete || len(f.Errors) > 0 {
				t.Errorf("not complete: %q", f.Errors)
			}
			want, err := c.Expected()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(corpus.Lines(c.Name, want), corpus.Lines(c.Name, corpus.Expectations(f))); d != "" {
				t.Errorf("findings (-want +got):\n%s\nall:%s", d, describe(f.Findings))
			}
		})
	}
}
