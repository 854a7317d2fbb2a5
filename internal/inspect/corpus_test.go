package inspect_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
)

// shared are the tools of all tests: what was downloaded once is enough.
var shared = sync.OnceValues(func() (*corpus.Tools, error) {
	dir, err := os.MkdirTemp("", "twinhull-corpus-")
	if err != nil {
		return nil, err
	}
	return corpus.NewTools(dir), os.Chmod(dir, 0o755)
})

// inspectCase writes a case and reads it; nil facts mean that it did not open.
func inspectCase(t *testing.T, c corpus.Case, opt inspect.Options) *inspect.Facts {
	t.Helper()
	tools, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := c.Spec(tools)
	if errors.Is(err, corpus.ErrNoTool) {
		t.Skipf("needs a real program: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	layout, err := corpus.Write(t.TempDir(), spec)
	if err != nil {
		t.Fatal(err)
	}
	img, err := corpus.Open(t.Context(), layout)
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
	for _, c := range cases {
		if seen[c.Name] {
			t.Errorf("two cases are called %s", c.Name)
		}
		seen[c.Name] = true
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			f := inspectCase(t, c, inspect.Options{})
			if f == nil {
				return
			}
			if !slices.ContainsFunc(f.Findings, func(x inspect.Finding) bool { return x.Rule == c.Rule }) {
				t.Errorf("no finding of rule %s, only:%s", c.Rule, describe(f.Findings))
			}
			if c.Rule == inspect.RuleUnreadable && f.Complete && !slices.ContainsFunc(f.Findings, func(x inspect.Finding) bool { return x.Rule == c.Rule && x.Subject != "layer" }) {
				t.Error("complete, although a layer could not be read")
			}
			for _, x := range f.Findings {
				if x.Hidden != (c.Hides == "lower layer") && x.Rule == c.Rule && c.Name != "shell-hard-link" {
					t.Errorf("hidden is %v: %+v", x.Hidden, x)
				}
			}
		})
	}
}

func TestCleanImages(t *testing.T) {
	cases := corpus.Clean()
	if len(cases) < 15 {
		t.Errorf("the corpus has %d clean images", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			f := inspectCase(t, c, inspect.Options{})
			if !f.Complete || len(f.Errors) > 0 {
				t.Errorf("not complete: %q", f.Errors)
			}
			if len(f.Findings) > 0 {
				t.Errorf("findings:%s", describe(f.Findings))
			}
		})
	}
}
