package inspect_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
)

func facts(t *testing.T, s corpus.Spec, opt inspect.Options) *inspect.Facts {
	t.Helper()
	return inspectCase(t, corpus.Case{Name: t.Name(), Spec: func(*corpus.Tools) (corpus.Spec, error) { return s, nil }}, opt)
}

func TestFacts(t *testing.T) {
	s := corpus.With(
		corpus.File{Name: "var/lib/dpkg/status", Body: []byte("Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.41-12)\nVersion: 2.41-12+b1\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n")},
		corpus.File{Name: "lib/apk/db/installed", Body: []byte("C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\n\n")},
		corpus.File{Name: "app/node_modules/@scope/pkg/package.json", Body: []byte(`{"name":"@scope/pkg","version":"1.2.3","license":"MIT"}`)},
		corpus.File{Name: "app/node_modules/@scope/pkg/lib/package.json", Body: []byte(`{"type":"module"}`)},
		corpus.File{Name: "app/site-packages/Foo_Bar-1.0.dist-info/METADATA", Body: []byte("Name: Foo_Bar\nVersion: 1.0\n\n")},
		corpus.File{Name: "app/vendor/composer/installed.json", Body: []byte(`{"packages":[{"name":"monolog/monolog","version":"v3.1.0"}]}`)},
		corpus.File{Name: "usr/lib/ruby/specifications/rack-3.0.1.gemspec", Body: []byte("Gem::Specification.new do |s|\n  s.name = \"rack\"\n  s.version = \"3.0.1\"\nend\n")},
		corpus.File{Name: "app/guava-33.0.jar", Body: []byte("PK\x05\x06" + strings.Repeat("\x00", 18))},
	)
	f := facts(t, s, inspect.Options{Tree: true})
	var purls []string
	for _, p := range f.Packages {
		purls = append(purls, p.PURL)
	}
	want := []string{
		"pkg:apk/debian/musl@1.2.5-r0?arch=x86_64&distro=debian-13",
		"pkg:composer/monolog/monolog@3.1.0",
		"pkg:deb/debian/libc6@2.41-12%2Bb1?arch=amd64&distro=debian-13",
		"pkg:gem/rack@3.0.1",
		"pkg:maven/guava@33.0",
		"pkg:npm/%40scope/pkg@1.2.3",
		"pkg:pypi/foo-bar@1.0",
	}
	if d := cmp.Diff(want, purls); d != "" {
		t.Errorf("packages (-want +got):\n%s", d)
	}
	if f.Config.UID != 65532 || f.Config.GID != 65532 || f.Ready.PasswdName != "app" || f.Ready.Program != "/app/server" || !f.Ready.Static {
		t.Errorf("%+v %+v", f.Config, f.Ready)
	}
	if f.Zone != (inspect.ZoneMarkers{Label: "production", Annotation: "production", Agree: true}) {
		t.Errorf("zone: %+v", f.Zone)
	}
	if f.OS != (inspect.OSRelease{ID: "debian", VersionID: "13", Name: "Debian GNU/Linux 13 (trixie)"}) {
		t.Errorf("system: %+v", f.OS)
	}
	i := slices.IndexFunc(f.Tree, func(x inspect.File) bool { return x.Path == "app/server" })
	if i < 0 || f.Tree[i].SHA256.Validate() != nil || f.Tree[i].Mode != 0o755 {
		t.Errorf("tree has %+v", f.Tree[max(i, 0)])
	}
	for _, p := range f.Packages {
		if p.Name == "libc6" && p.Source != "glibc 2.41-12" {
			t.Errorf("source %q", p.Source)
		}
	}
}

// TestFactsAreDeterministic wants equal facts from equal bytes, however the
// layers are shared among goroutines.
func TestFactsAreDeterministic(t *testing.T) {
	for _, name := range []string{"bash-renamed", "rsa-key-in-json", "debian-packages", "many-files"} {
		for _, c := range slices.Concat(corpus.Bad(), corpus.Clean()) {
			if c.Name != name {
				continue
			}
			t.Run(name, func(t *testing.T) {
				var first string
				for _, workers := range []int{1, 2, 4, 1} {
					b, err := json.Marshal(inspectCase(t, c, inspect.Options{Workers: workers}))
					if err != nil {
						t.Fatal(err)
					}
					if first == "" {
						first = string(b)
					} else if d := cmp.Diff(first, string(b)); d != "" {
						t.Fatalf("with %d workers:\n%s", workers, d)
					}
				}
			})
		}
	}
}

func TestHidden(t *testing.T) {
	s := corpus.With(corpus.File{Name: "app/a", Body: make([]byte, 1000)})
	s.Layers = append(s.Layers, corpus.Layer{Files: []corpus.File{corpus.Whiteout("app", "a")}})
	f := facts(t, s, inspect.Options{})
	if got := f.Layers[2].Hidden; got != 1000 {
		t.Errorf("hidden bytes of the layer: %d", got)
	}
}

// TestSecretsOfConfigurationAreRedacted looks for the value in all that is
// written down.
func TestSecretsOfConfigurationAreRedacted(t *testing.T) {
	s := corpus.Base()
	const value = "c0rrect-Horse-battery-5taple"
	s.Config.Env = append(s.Config.Env, "DB_PASSWORD="+value)
	s.Config.Labels["org.example.api_token"] = value
	s.Layers[0].History = "|1 ADMIN_PASSWORD=" + value + " /bin/sh -c make"
	s.Config.Entrypoint = []string{"/app/server", "--database=postgres://app:" + value + "@db/app"}
	b, err := json.Marshal(facts(t, s, inspect.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), value) {
		t.Errorf("the facts tell the secret: %s", b)
	}
}

func TestLimits(t *testing.T) {
	var files []corpus.File
	for i := range 200 {
		files = append(files, corpus.File{Name: fmt.Sprintf("app/%d", i), Body: []byte("x")})
	}
	f := facts(t, corpus.With(files...), inspect.Options{Limits: image.Limits{MaxEntries: 100}})
	if f.Complete || !slices.ContainsFunc(f.Findings, func(x inspect.Finding) bool { return x.Rule == inspect.RuleUnreadable }) {
		t.Error("200 files under a limit of 100 entries are complete")
	}
	f = facts(t, corpus.With(corpus.File{Name: "app/a", Body: make([]byte, 5000)}), inspect.Options{Limits: image.Limits{MaxBytes: 4096}})
	if f.Complete {
		t.Error("5000 bytes under a limit of 4096 are complete")
	}
}

func TestContextEnds(t *testing.T) {
	layout, err := corpus.Write(t.TempDir(), corpus.Base())
	if err != nil {
		t.Fatal(err)
	}
	img, err := corpus.Open(t.Context(), layout)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := inspect.Inspect(ctx, img, inspect.Options{}); !errors.Is(err, why) {
		t.Errorf("error %v, want the context's cause", err)
	}
}

// TestManyTinyFiles bounds what a file costs while it is remembered.
func TestManyTinyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	const n = 150_000
	var b strings.Builder
	files := make([]corpus.File, n)
	for i := range files {
		b.Reset()
		fmt.Fprintf(&b, "data/%d/%d/file-%d.txt", i%100, i%7, i)
		files[i] = corpus.File{Name: b.String()}
	}
	layout, err := corpus.Write(t.TempDir(), corpus.With(files...))
	if err != nil {
		t.Fatal(err)
	}
	files = nil
	img, err := corpus.Open(t.Context(), layout)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := inspect.Inspect(t.Context(), img, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if f.Files < n {
		t.Errorf("%d files", f.Files)
	}
	if each := (after.TotalAlloc - before.TotalAlloc) / n; each > 3000 {
		t.Errorf("%d bytes are allocated for each tiny file", each)
	}
}

func TestCompare(t *testing.T) {
	a := facts(t, corpus.With(corpus.File{Name: "app/a", Body: []byte("1")}, corpus.File{Name: "app/b", Body: []byte("1")}, corpus.File{Name: "app/node_modules/x/package.json", Body: []byte(`{"name":"x","version":"1.0.0"}`)}), inspect.Options{Tree: true})
	s := corpus.With(corpus.File{Name: "app/b", Body: []byte("2")}, corpus.File{Name: "app/c", Type: tar.TypeSymlink, Link: "b"}, corpus.File{Name: "app/node_modules/x/package.json", Body: []byte(`{"name":"x","version":"1.1.0"}`)}, corpus.File{Name: "app/node_modules/y/package.json", Body: []byte(`{"name":"y","version":"2.0.0"}`)})
	s.Config.User, s.Config.Labels[oci.ZoneKey] = "0", string(oci.Development)
	b := facts(t, s, inspect.Options{Tree: true})
	d := inspect.Compare(a, b, 1)
	if got := []int{d.FilesAdded.Total, d.FilesRemoved.Total, d.FilesChanged.Total}; !slices.Equal(got, []int{2, 1, 2}) {
		t.Errorf("files added, removed, changed: %v", got)
	}
	if len(d.FilesAdded.Paths) != 1 || d.FilesAdded.Paths[0] != "app/c" || d.FilesRemoved.Paths[0] != "app/a" {
		t.Errorf("%+v %+v", d.FilesAdded, d.FilesRemoved)
	}
	want := []inspect.PackageChange{{Type: "npm", Name: "x", A: "1.0.0", B: "1.1.0"}}
	if diff := cmp.Diff(want, d.PackagesChanged); diff != "" {
		t.Error(diff)
	}
	if len(d.PackagesAdded) != 1 || len(d.PackagesRemoved) != 0 || d.Findings[inspect.RuleRootUser] != [2]int{0, 1} {
		t.Errorf("%+v", d)
	}
	names := []string{}
	for _, c := range d.Config {
		names = append(names, c.Name)
	}
	if !slices.Contains(names, "user") || !slices.Contains(names, "zone") {
		t.Errorf("configuration: %v", names)
	}
}
