package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// collector is a step that has ended, with what it left in upper and what it
// was given in lower.
type collector struct {
	t            *testing.T
	b            *Builder
	w            *stepWork
	upper, lower string
}

func newCollector(t *testing.T, outputs ...string) *collector {
	c := &collector{t: t, upper: t.TempDir(), lower: t.TempDir()}
	c.b = &Builder{cache: testCache(t), file: &project.File{Development: project.Spec{Workdir: "/app/src"}}}
	c.w = &stepWork{step: project.Step{Name: "s"}}
	for _, o := range outputs {
		c.w.step.Outputs = append(c.w.step.Outputs, project.Output{Path: o, Kind: project.KindArtifact})
	}
	if err := makeFolders(c.lower, "app/src"); err != nil {
		t.Fatal(err)
	}
	return c
}

// left puts a file into upper, as the step would; "-> TARGET" is a link.
func (c *collector) left(p, data string) {
	c.t.Helper()
	at := filepath.Join(c.upper, p)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		c.t.Fatal(err)
	}
	var err error
	switch {
	case strings.HasPrefix(data, "-> "):
		err = os.Symlink(data[3:], at)
	case data == "deleted":
		// The form in which an unprivileged overlay notes it, where a device
		// cannot be made.
		if err = unix.Mknod(at, unix.S_IFCHR, 0); err != nil {
			if err = os.WriteFile(at, nil, 0o644); err == nil {
				err = unix.Setxattr(at, "user.overlay.whiteout", []byte("y"), 0)
			}
		}
	case data == "opaque":
		if err = os.MkdirAll(at, 0o755); err == nil {
			err = unix.Setxattr(at, "user.overlay.opaque", []byte("y"), 0)
		}
	case data == "pipe":
		err = unix.Mkfifo(at, 0o644)
	case data == "device":
		if err = unix.Mknod(at, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))); err != nil {
			c.t.Skip("making a device: ", err)
		}
	default:
		err = os.WriteFile(at, []byte(data), 0o644)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// given makes an input of the step.
func (c *collector) given(p, data string) {
	c.t.Helper()
	at := filepath.Join(c.lower, "app/src", p)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		c.t.Fatal(err)
	}
	write(c.t, at, data)
	e := entry(p, data)
	c.w.record.Inputs = append(c.w.record.Inputs, InputFile{Path: p, Size: e.Size, SHA256: e.Digest})
}

func (c *collector) collect() (map[string]string, error) {
	out, err := c.b.collect(c.t.Context(), c.w, c.upper, c.lower)
	got := map[string]string{}
	for _, o := range out {
		got[o.Path] = "-> " + o.Link
		if o.Link == "" {
			b, err := os.ReadFile(c.b.cache.filePath(o.SHA256))
			if err != nil {
				c.t.Fatal(err)
			}
			got[o.Path] = string(b)
		}
	}
	return got, err
}

func TestCollect(t *testing.T) {
	c := newCollector(t, "dist", "report.txt")
	c.given("dist/kept", "as it was")
	c.given("dist/changed", "old")
	c.given("dist/deleted", "old")
	c.given("dist/emptied/x", "old")
	c.given("dist/replaced/x", "old")
	c.given("dist/gone/x", "old")
	c.given("dist/now-a-folder", "old")
	c.given("other/input", "old")
	c.left("app/src/dist/changed", "new")
	c.left("app/src/dist/made/deep", "made")
	c.left("app/src/dist/deleted", "deleted")
	c.left("app/src/dist/emptied", "opaque")
	c.left("app/src/dist/replaced", "a file now")
	c.left("app/src/dist/gone", "deleted")
	c.left("app/src/dist/now-a-folder/in", "in")
	c.left("app/src/dist/link", "-> ../../../../etc/passwd")
	c.left("app/src/report.txt", "report")
	c.left("app/src/dist-other", "not declared")
	c.left("app/src/other/input", "changed, not declared")
	c.left("etc/passwd", "not declared")
	got, err := c.collect()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"dist/kept": "as it was", "dist/changed": "new", "dist/made/deep": "made", "dist/replaced": "a file now",
		"dist/now-a-folder/in": "in", "dist/link": "-> ../../../../etc/passwd", "report.txt": "report",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// An output that the step left as it was given.
func TestCollectUnchanged(t *testing.T) {
	c := newCollector(t, "a/file")
	c.given("a/file", "same")
	if got, err := c.collect(); err != nil || got["a/file"] != "same" {
		t.Errorf("%v, %v", got, err)
	}
	for _, hide := range []func(c *collector){
		func(c *collector) { c.left("app", "deleted") },
		func(c *collector) { c.left("app", "opaque") },
		func(c *collector) { c.left("app/src", "opaque") },
		func(c *collector) { c.left("app/src/a", "deleted") },
		func(c *collector) { c.left("app/src/a", "opaque") },
		func(c *collector) { c.left("app/src/a/file", "deleted") },
	} {
		c := newCollector(t, "a/file")
		c.given("a/file", "hidden")
		hide(c)
		got, err := c.collect()
		wantError(t, err, "left no a/file")
		if len(got) > 0 {
			t.Errorf("collected %v", got)
		}
	}
}

// A hostile step puts links where folders should be, and other things where
// files should be. Nothing outside of upper may be read.
func TestCollectHostile(t *testing.T) {
	outside := t.TempDir()
	write(t, outside+"/secret", "secret")
	if err := os.MkdirAll(outside+"/src/dist/a", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, outside+"/src/dist/a/secret", "secret")
	for _, f := range []struct {
		path, data string
		want       []string // of the error; none when the output is there
	}{
		{"app", "-> " + outside, []string{"a link to " + outside + " where the folder /app should be"}},
		{"app/src", "-> " + outside + "/src", []string{"where the folder /app/src should be"}},
		{"app/src/dist", "-> " + outside + "/src/dist", []string{"where the folder /app/src/dist should be"}},
		{"app/src/dist/a", "-> " + outside + "/src/dist/a", nil}, // the output is a link: no bytes cross
		{"app", "a file", []string{"a file where the folder /app should be"}},
		{"app/src/dist/a", "pipe", []string{"output dist/a is a pipe"}},
		{"app/src/dist/a/x", "pipe", []string{"output dist/a/x is a pipe"}},
		{"app/src/dist/a", "device", []string{"output dist/a is a device"}},
		{"app/src/dist/a/\xff", "x", []string{"a name that is not UTF-8"}},
		{"app/src/dist/a/x", "-> \xff", []string{"a name that is not UTF-8"}},
		{"app/src/dist/a/x/y/z", "opaque", []string{"output folder dist/a is empty"}},
	} {
		t.Run(f.path+" "+f.data, func(t *testing.T) {
			c := newCollector(t, "dist/a")
			c.left(f.path, f.data)
			got, err := c.collect()
			if len(f.want) > 0 {
				wantError(t, err, f.want...)
			} else if err != nil {
				t.Fatal(err)
			}
			for p, data := range got {
				if strings.Contains(data, "secret") {
					t.Errorf("%s holds %q", p, data)
				}
			}
		})
	}
}

// A step's input that its mode hides from whoever is not root.
func TestCollectUnreadable(t *testing.T) {
	c := newCollector(t, "dist")
	c.left("app/src/dist/shut/file", "x")
	if err := os.Chmod(c.upper+"/app/src/dist/shut/file", 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.upper+"/app/src/dist/shut", 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(c.upper+"/app/src/dist/shut", 0o755) })
	if got, err := c.collect(); err != nil || got["dist/shut/file"] != "x" {
		t.Errorf("%v, %v", got, err)
	}
}

// Artifacts of earlier steps cannot lead the placing of others out of the
// step's folder.
func TestPlaceInputsHostile(t *testing.T) {
	outside := t.TempDir()
	w := newWorld(t, nil, demo())
	b, err := w.builder(nil)
	if err != nil {
		t.Fatal(err)
	}
	d, n, err := b.cache.putFile(strings.NewReader("evil"), 4)
	if err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 12)
	for _, link := range []string{outside, up + outside[1:]} {
		rec := StepRecord{Step: "s", After: []OutputFile{
			{Output: "gen", Path: "gen", Link: link},
			{Output: "gen/x", Path: "gen/x", SHA256: d, Size: n},
		}}
		wantError(t, b.placeInputs(t.TempDir(), rec), "step s: placing the artifact gen/x")
		rec.After[1].Path = "gen"
		wantError(t, b.placeInputs(t.TempDir(), rec), "step s: placing the artifact gen")
	}
	if names, _ := os.ReadDir(outside); len(names) > 0 {
		t.Errorf("written outside: %v", names)
	}
}

func TestAfter(t *testing.T) {
	arm, amd := oci.Platform{OS: "linux", Architecture: "arm64"}, oci.Platform{OS: "linux", Architecture: "amd64"}
	records := []StepRecord{
		{Step: "compile", Outputs: []OutputFile{{Output: "dist", Kind: "artifact", Path: "dist/a"}, {Output: "junit", Kind: "junit", Path: "junit"}}},
		{Step: "lib", Platform: amd, Outputs: []OutputFile{{Output: "lib", Kind: "artifact", Path: "lib/x", Size: 1}}},
		{Step: "lib", Platform: arm, Outputs: []OutputFile{{Output: "lib", Kind: "artifact", Path: "lib/x", Size: 2}}},
		{Step: "test"},
	}
	for _, c := range []struct {
		after []string
		plat  oci.Platform
		want  []int64 // sizes, which tell the platforms apart
		err   string
	}{
		{[]string{"compile"}, oci.Platform{}, []int64{0}, ""},
		{[]string{"compile", "compile:dist"}, oci.Platform{}, []int64{0}, ""},
		{[]string{"test"}, oci.Platform{}, nil, ""},
		{[]string{"lib"}, arm, []int64{2}, ""},
		{[]string{"lib"}, amd, []int64{1}, ""},
		{[]string{"lib"}, oci.Platform{}, nil, "comes from lib for linux/amd64 and from lib for linux/arm64"},
		{[]string{"compile:junit"}, oci.Platform{}, nil, "compile:junit left no artifact"},
	} {
		w := &stepWork{step: project.Step{Name: "s", After: c.after}, plat: c.plat}
		err := w.addAfter(records)
		if c.err != "" {
			wantError(t, err, c.err)
			continue
		}
		var sizes []int64
		for _, o := range w.record.After {
			sizes = append(sizes, o.Size)
		}
		if d := cmp.Diff(c.want, sizes); err != nil || d != "" {
			t.Errorf("%v on %s: %v %s", c.after, c.plat, err, d)
		}
	}
}
