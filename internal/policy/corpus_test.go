package policy

import (
	"errors"
	"os"
	"slices"
	"testing"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
)

// TestMain hides this machine's programs: images of the corpus that need a real
// one are read by the tests of package inspect, which take minutes; here
// TestFoundCorpus judges what those tests hold must be found in them.
func TestMain(m *testing.M) {
	if err := os.Setenv("PATH", "/nonexistent"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
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
	ref, err := c.Store(t.TempDir(), corpus.NewTools(t.TempDir()))
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
