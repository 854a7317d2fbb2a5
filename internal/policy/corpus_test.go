package policy

import (
	"errors"
	"os"
	"slices"
	"sync"
	"testing"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
)

// wholeCorpus in the environment judges the images that need real programs from
// their bytes too. Package inspect reads them in every run of the tests, which
// takes minutes; TestFoundCorpus judges what must be found in them.
const wholeCorpus = "TWINHULL_WHOLE_CORPUS"

// shared are the programs of all images: what was downloaded once is enough.
var shared = sync.OnceValues(func() (*corpus.Tools, error) {
	dir, err := os.MkdirTemp("", "twinhull-corpus-")
	if err != nil {
		return nil, err
	}
	return corpus.NewTools(dir), os.Chmod(dir, 0o755)
})

func TestMain(m *testing.M) {
	if os.Getenv(wholeCorpus) == "" {
		if err := os.Setenv("PATH", "/nonexistent"); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if tools, err := shared(); err == nil {
		_ = os.RemoveAll(tools.Dir()) // a folder of temporary files
	}
	os.Exit(code)
}

// TestFoundCorpus: what inspection must find in each bad image refuses it, by
// every rule that is named.
func TestFoundCorpus(t *testing.T) {
	for _, c := range corpus.Bad() {
		list, err := c.Expected()
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 && !c.OpenFails {
			t.Errorf("%s: nothing is expected", c.Name)
		}
		in := perfect(sample())
		for _, e := range list {
			in.Facts.Findings = append(in.Facts.Findings, inspect.Finding{Rule: e.Rule, Subject: e.Subject, Path: e.Path, Inside: e.Inside, Hidden: e.Hidden})
		}
		if c.Rule == inspect.RuleNoPasswd {
			in.Facts.Config.UID = -1
		}
		v := Evaluate(in)
		if c.OpenFails {
			continue
		}
		if v.Allowed || !slices.Contains(refusing(v), c.Rule) {
			t.Errorf("%s: allowed: %v; refused by %q, want %s", c.Name, v.Allowed, refusing(v), c.Rule)
		}
	}
}

// judgeCase judges an image of the corpus that has every claim one could want,
// so that nothing but its bytes can refuse it. ok is false when it did not open.
func judgeCase(t *testing.T, c corpus.Case) (v Verdict, archive, ok bool) {
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
		return v, false, false
	}
	defer img.Close()
	f, err := inspect.Inspect(t.Context(), img, inspect.Options{Tree: true})
	if err != nil {
		t.Fatal(err)
	}
	return Evaluate(perfect(f)), ref.Kind == oci.DockerArchiveRef, true
}

// TestBadCorpus: every bad image is refused, by the rule that it breaks.
func TestBadCorpus(t *testing.T) {
	for _, c := range corpus.Bad() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			v, _, ok := judgeCase(t, c)
			if !ok {
				return // it does not even open, which is a refusal
			}
			if v.Allowed || !slices.Contains(refusing(v), c.Rule) {
				t.Errorf("allowed: %v; refused by %q, want %s", v.Allowed, refusing(v), c.Rule)
			}
		})
	}
}

// TestCleanCorpus: no clean image is refused. One that docker save wrote has no
// manifest, and what that means is told once.
func TestCleanCorpus(t *testing.T) {
	for _, c := range corpus.Clean() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			v, archive, ok := judgeCase(t, c)
			if !ok {
				t.Fatal("it does not open")
			}
			bad := refusing(v)
			if archive {
				bad = slices.DeleteFunc(bad, func(id string) bool { return id == RuleZone })
			}
			for _, id := range bad {
				t.Errorf("refused: %s", text(result(t, v, id)))
			}
			if !archive && !v.Allowed {
				t.Error("not allowed")
			}
		})
	}
}
