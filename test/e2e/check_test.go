package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/oci"
)

const checkStep = `
    check:
      run: [/bin/sh, -ec, 'grep -q in-order want; cp want report']
      inputs: [want]
      after: [make]
      outputs: {report: report}
production:`

// TestCheck has a step that no image holds anything of. It decides whether the
// images are named, and changes none of them.
func TestCheck(t *testing.T) {
	dir := smallProject(t)
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(filepath.Join(dir, "twinhull.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write("twinhull.yaml", strings.Replace(string(file), "\nproduction:", checkStep, 1))
	write("want", "in-order\n")
	w := first()
	w.ok(t, dir, "lock")
	one := w.build(t, dir)
	production := func(r build.Report) build.ImageReport {
		t.Helper()
		i := slices.IndexFunc(r.Images, func(i build.ImageReport) bool { return i.Zone == oci.Production })
		if i < 0 {
			t.Fatal("no production image")
		}
		return r.Images[i]
	}
	checked := func(d oci.Digest) oci.Digest {
		t.Helper()
		img, o := openManifest(t, filepath.Join(dir, ".twinhull/store"), d)
		defer img.Close()
		for _, s := range o.Steps {
			if s.Step == "check" {
				return s.Outputs[0].SHA256
			}
		}
		t.Fatal("the image's record does not tell of the check")
		return ""
	}
	before := checked(production(one).Manifest.Digest)

	write("want", "in-order, and more\n")
	two := w.build(t, dir)
	sameImages(t, "another test", one, two)
	if !production(two).Cached {
		t.Error("another test made the image anew")
	}
	if after := checked(production(two).Manifest.Digest); after == before {
		t.Error("the image's record tells of the old test")
	}

	tag := func() oci.Digest {
		t.Helper()
		l, err := oci.OpenLayout(filepath.Join(dir, ".twinhull/store"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Tag("production")
		if err != nil {
			t.Fatal(err)
		}
		return d.Digest
	}
	named := tag()
	write("in", "something else\n")
	write("want", "out of order\n")
	if r := w.run(t.Context(), dir, "build"); r.code != 1 || !strings.Contains(r.stderr, "step check") {
		t.Errorf("a failing check: %s", r)
	}
	if now := tag(); now != named {
		t.Errorf("a failing check: production is %s now, was %s", now, named)
	}
	write("want", "in-order\n")
	if three := w.build(t, dir); production(three).Manifest.Digest == named || tag() == named {
		t.Error("the corrected check: production is what it was")
	}
}
