package build

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
)

// projectFile is a project that compiles and tests, in the words of testdata/tiny.
func projectFile(change ...string) string {
	text := `name: demo
platforms: [linux/` + runtime.GOARCH + `]
development:
  archive: debian/trixie
  packages: [app-base]
build:
  steps:
    compile:
      run: |
        net 127.0.0.1:80
        copy src/a.txt dist/a.txt
        program dist/run go
        link a.txt dist/b.txt
      inputs: [src/**]
      outputs: {dist: artifact}
    test:
      run: |
        copy dist/a.txt seen
        time junit.xml
      after: [compile]
      outputs: {junit.xml: junit, seen: report}
production:
  archive: debian/trixie
  packages: [app-base]
  artifacts: {dist: /opt/app}
  files: {conf: /etc/demo}
  user: {name: app, id: 65532}
  workdir: /opt/app
  entrypoint: [/usr/bin/app]
  writable: [/var/run/demo]
`
	for i := 0; i+1 < len(change); i += 2 {
		if !strings.Contains(text, change[i]) {
			panic("no " + change[i])
		}
		text = strings.ReplaceAll(text, change[i], change[i+1])
	}
	return text
}

func demo(change ...string) map[string]string {
	return map[string]string{
		"twinhull.yaml": projectFile(change...), "src/a.txt": "one\n", "src/deep/b.txt": "two\n", "conf/demo.conf": "x=1\n", "conf/link": "-> demo.conf",
	}
}

func TestBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	l := w.lock()
	first, err := w.build(l, bothZones...)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Images) != 2 || len(first.Steps) != 2 {
		t.Fatalf("%d images, %d steps", len(first.Images), len(first.Steps))
	}
	asked := w.asked
	again, err := w.build(l, bothZones...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range again.Images {
		if !again.Images[i].Cached || again.Images[i].Manifest.Digest != first.Images[i].Manifest.Digest {
			t.Errorf("image %d was made again", i)
		}
	}
	if w.asked != asked {
		t.Errorf("%d requests although nothing was missing", w.asked-asked)
	}

	prod := first.Images[1]
	o := w.origins(prod)
	have := map[string]PathOrigin{}
	for _, p := range o.Paths {
		have[p.Path] = p
		if p.Origin.Kind == "" || p.Origin.Digest.Validate() != nil || !w.vault.Has(p.Origin.Digest) {
			t.Errorf("/%s: origin %+v cannot be checked", p.Path, p.Origin)
		}
	}
	for p, kind := range map[string]string{
		"usr/bin/app": filetree.FromPackage, "usr/share/app/greeting": filetree.FromPackage, "opt/app/a.txt": filetree.FromArtifact,
		"opt/app/run": filetree.FromArtifact, "opt/app/b.txt": filetree.FromArtifact, "etc/demo/demo.conf": filetree.FromSource, "etc/demo/link": filetree.FromSource,
		"etc/passwd": filetree.FromGenerated, "run/demo": filetree.FromGenerated, "var/lib/dpkg/status.d/app-base": filetree.FromGenerated,
		"usr/share/doc/app-base/copyright": filetree.FromPackage,
	} {
		if have[p].Origin.Kind != kind {
			t.Errorf("/%s: %q, want %q", p, have[p].Origin.Kind, kind)
		}
	}
	for _, p := range []string{"usr/bin/sh", "usr/bin/dash", "usr/bin/dpkg", "usr/bin/tool", "usr/share/man/man1/app.1", "usr/share/doc/app-base/README", "seen", "junit.xml"} {
		if _, ok := have[p]; ok {
			t.Errorf("/%s is in the production image", p)
		}
	}
	if have["opt/app/run"].Mode != "755" || have["opt/app/a.txt"].Mode != "644" || have["opt/app/b.txt"].Link != "a.txt" {
		t.Errorf("modes or link: %+v %+v %+v", have["opt/app/run"], have["opt/app/a.txt"], have["opt/app/b.txt"])
	}
	if have["run/demo"].UID != 65532 {
		t.Errorf("the writable path belongs to %d", have["run/demo"].UID)
	}
	dev := w.origins(first.Images[0])
	if i := slices.IndexFunc(dev.Paths, func(p PathOrigin) bool { return p.Path == "usr/bin/sh" }); i < 0 {
		t.Error("the development image has no shell")
	}

	// The test's report is where people look, and names a time; the image does
	// not depend on it.
	report, err := os.ReadFile(filepath.Join(w.dir, stateDir, "reports/test/junit.xml"))
	if err != nil || len(report) < 10 {
		t.Errorf("report: %q, %v", report, err)
	}
	if log, err := os.ReadFile(filepath.Join(w.dir, stateDir, "logs/step-compile.log")); err != nil || !bytes.Contains(log, []byte("network: ")) {
		t.Errorf("log: %q, %v", log, err)
	}
	if names, _ := os.ReadDir(filepath.Join(w.cache, "tmp")); len(names) > 0 {
		t.Errorf("left in the cache's scratch folder: %v", names)
	}
}

// What a step reports (durations, for one) reaches neither the image's digest
// nor its key.
func TestReportsDoNotReachImages(t *testing.T) {
	files := demo("link a.txt dist/b.txt", "link a.txt dist/b.txt\n        time took", "outputs: {dist: artifact}", "outputs: {dist: artifact, took: report}")
	w := newWorld(t, nil, files)
	l := w.lock()
	rep, err := w.build(l, oci.Production)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.builder(l)
	if err != nil {
		t.Fatal(err)
	}
	b.FreshSteps = true
	fresh, err := b.Build(t.Context(), []oci.Zone{oci.Production})
	if err != nil {
		t.Fatal(err)
	}
	if fresh.Steps[1].Outputs[0].SHA256 == rep.Steps[1].Outputs[0].SHA256 {
		t.Fatal("the test step did not run again, or its report has no time: the test tests nothing")
	}
	if !fresh.Images[0].Cached || fresh.Images[0].Manifest.Digest != rep.Images[0].Manifest.Digest {
		t.Errorf("the image was made again: %+v", fresh.Images[0])
	}
	// In another place, with another clock and umask, from nothing.
	defer unix.Umask(unix.Umask(0o077))
	other := newWorld(t, nil, files)
	there, err := other.build(nil, oci.Production)
	if err != nil {
		t.Fatal(err)
	}
	if there.Images[0].Manifest.Digest != rep.Images[0].Manifest.Digest {
		t.Errorf("elsewhere the image is %s, here %s", there.Images[0].Manifest.Digest, rep.Images[0].Manifest.Digest)
	}
}

func TestUmask(t *testing.T) {
	was := unix.Umask(0)
	defer unix.Umask(was)
	yaml := projectFile("time junit.xml", "mode junit.xml", "program dist/run go", "mode dist/deep/modes", "copy src/a.txt dist/a.txt", "copy src/a.txt dist/deep/a.txt", "copy dist/a.txt seen", "copy dist/deep/a.txt seen", "link a.txt dist/b.txt", "true")
	var digests []oci.Digest
	for _, mask := range []int{0o000, 0o077} {
		unix.Umask(mask)
		files := demo()
		files["twinhull.yaml"] = yaml
		w := newWorld(t, nil, files)
		rep, err := w.build(nil, bothZones...)
		if err != nil {
			t.Fatalf("umask %03o: %v", mask, err)
		}
		for _, i := range rep.Images {
			digests = append(digests, i.Manifest.Digest)
		}
		data, err := os.ReadFile(filepath.Join(w.dir, stateDir, "reports/test/junit.xml"))
		if err != nil || string(data) != "drwxr-xr-x drwxr-xr-x\n" {
			t.Errorf("umask %03o: modes that a step sees: %q, %v", mask, data, err)
		}
	}
	if digests[0] != digests[2] || digests[1] != digests[3] {
		t.Errorf("digests differ: %v", digests)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change []string          // of the project file
		files  map[string]string // further files
		pkgs   []pkg
		want   []string
	}{
		{"no entry point", []string{"/usr/bin/app]", "/usr/bin/nothing]"}, nil, nil,
			[]string{"production.entrypoint: /usr/bin/nothing is not in the image"}},
		{"entry point is a script", []string{"/usr/bin/app]", "/opt/app/run]", "program dist/run go", "program dist/run #!/usr/bin/perl"}, nil, nil,
			[]string{"is a script for /usr/bin/perl"}},
		{"entry point is a folder", []string{"/usr/bin/app]", "/opt/app]"}, nil, nil, []string{"/opt/app is a folder"}},
		{"over a package's file", []string{"/etc/demo}", "/etc/app.conf}", "files: {conf", "files: {conf/demo.conf"}, nil, nil,
			[]string{"production.files would put /etc/app.conf (source conf/demo.conf)", "(package app-data)"}},
		{"over what Twinhull makes", []string{"files: {conf: /etc/demo}", "files: {conf/demo.conf: /etc/passwd}"}, nil, nil,
			[]string{"/etc/passwd is brought by the project (source conf/demo.conf)", "effect users"}},
		{"below a link of the image", []string{"files: {conf: /etc/demo}", "files: {conf: /usr/share/linked/demo}"}, nil,
			[]pkg{{name: "app-data", files: map[string]string{"usr/share/linked": "-> /etc"}}},
			[]string{"lies below /usr/share/linked, which is not a folder (package app-data)"}},
		{"a link out of the image", []string{"link a.txt dist/b.txt", "link ../../../../etc/shadow dist/b.txt"}, nil, nil,
			[]string{"/opt/app/b.txt (artifact compile:dist) is a link to ../../../../etc/shadow, which is not in the image"}},
		{"an absolute link", []string{"link a.txt dist/b.txt", "link /root/.ssh/id dist/b.txt"}, nil, nil, []string{"/root/.ssh/id, which is not in the image"}},
		{"a link of the project out of it", nil, map[string]string{"conf/out": "-> ../../x"}, nil, []string{"conf/out: a link to ../../x, which is outside the project"}},
		{"no output", []string{"outputs: {dist: artifact}", "outputs: {dits: artifact}", "{dist: /opt", "{dits: /opt", "copy dist/a.txt seen", "true"}, nil, nil,
			[]string{"step compile ended well but left no dits, which it declares as artifact"}},
		{"empty output", []string{"copy src/a.txt dist/a.txt", "mkdir dist", "program dist/run go", "true", "link a.txt dist/b.txt", "true", "copy dist/a.txt seen", "true"}, nil, nil,
			[]string{"output folder dist is empty"}},
		{"a pipe as output", []string{"link a.txt dist/b.txt", "pipe dist/b.txt"}, nil, nil, []string{"output dist/b.txt is a pipe"}},
		{"a failing step", []string{"program dist/run go", "fail the reason"}, nil, nil,
			[]string{"step compile", "failed: exit", "the reason", "all of its output: ", "step-compile.log", "--shell-on-failure"}},
		{"an input that is not there", []string{"inputs: [src/**]", "inputs: [src/**, lib/**]"}, nil, nil,
			[]string{`build.steps.compile.inputs: "lib/**" names no file`}},
		{"a failing configuration", nil, nil, []pkg{{name: "app-data", scripts: map[string]string{"preinst": "#!/bin/sh\nfail no way\n"}}},
			[]string{"no way", "configure-development.log"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := demo(c.change...)
			for k, v := range c.files {
				files[k] = v
			}
			w := newWorldWith(t, c.pkgs, files)
			_, err := w.build(nil, oci.Production)
			wantError(t, err, c.want...)
			if names, _ := os.ReadDir(filepath.Join(w.cache, "tmp")); len(names) > 0 {
				t.Errorf("left in the cache's scratch folder: %v", names)
			}
			if _, err := os.Stat(filepath.Join(w.dir, stateDir, "store/index.json")); err == nil {
				store, err := oci.OpenLayout(filepath.Join(w.dir, stateDir, "store"))
				if err == nil {
					if _, err := store.Tag("production"); err == nil {
						t.Error("a refused image has a tag")
					}
				}
			}
		})
	}
}

// newWorldWith publishes packages in place of the base packages of their names.
func newWorldWith(t *testing.T, pkgs []pkg, files map[string]string) *world {
	w := newWorld(t, nil, files)
	if len(pkgs) == 0 {
		return w
	}
	replaced := basePackages(t)
	for _, p := range pkgs {
		i := slices.IndexFunc(replaced, func(q pkg) bool { return q.name == p.name })
		for k, v := range p.files {
			if replaced[i].files == nil {
				replaced[i].files = map[string]string{}
			}
			replaced[i].files[k] = v
		}
		replaced[i].scripts = p.scripts
	}
	w.republish(replaced)
	return w
}

// A library that nothing brings is named with who needs it.
func TestMissingLibrary(t *testing.T) {
	t.Parallel()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if f, err := entryELF(entry("x", string(exe))); err != nil || f == nil || len(f.Needed) == 0 {
		t.Skip("the test's own program is static; run with -race, or with cgo, to try a dynamic one")
	}
	w := newWorldWith(t, []pkg{{name: "app-data", files: map[string]string{"usr/bin/dynamic": "x:" + string(exe)}}}, demo())
	_, err = w.build(nil, oci.Production)
	wantError(t, err, "would not run", "/usr/bin/dynamic (package app-data): needs libc.so.6", "add the package that ships it", "program interpreter", "add libc6")
}

func TestStaleLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	l := w.lock()
	w.write(map[string]string{"twinhull.yaml": projectFile("packages: [app-base]\n  artifacts", "packages: [app-base, app-data]\n  artifacts")})
	_, err := w.build(l, oci.Production)
	stale, ok := errors.AsType[*StaleError](err)
	if !ok || len(stale.Reasons) != 1 {
		t.Fatalf("got %v", err)
	}
	wantError(t, err, "does not fit the project", "run `twinhull lock`")

	// A lock of another project, and of another assembler.
	other := newWorld(t, nil, demo("name: demo", "name: other", "packages: [app-base]", "packages: [app-data]", "/usr/bin/app]", "/opt/app/run]"))
	_, err = w.build(other.lock(), oci.Production)
	wantError(t, err, "does not fit the project")
	l = w.lock()
	l.Assembler++
	_, err = w.build(l, oci.Production)
	wantError(t, err, fmt.Sprintf("made for assembler %d", image.Assembler+1))

	// Nothing was built meanwhile.
	if _, err := os.Stat(filepath.Join(w.dir, stateDir)); err == nil {
		t.Error("a refused lock left something in the project")
	}
}

// A lock whose closures name what it does not describe.
func TestTornLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	l := w.lock()
	l.Packages = l.Packages[1:]
	_, err := w.build(l, oci.Production)
	wantError(t, err, "which it does not describe: run `twinhull lock`")
}

// The vault holds wrong bytes under a right name: a disk that forgets.
func TestWrongBytesInVault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	l := w.lock()
	for _, p := range l.Packages {
		if p.Name == "app-data" {
			if err := w.vault.Put(t.Context(), p.SHA256, p.Size, bytes.NewReader(w.files["debian/"+p.Path])); err != nil {
				t.Fatal(err)
			}
			at := w.vault.Path(p.SHA256)
			b, err := os.ReadFile(at)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			_ = os.Chmod(at, 0o644)
			if err := os.WriteFile(at, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := w.build(l, oci.Production)
	wantError(t, err, "SHA-256", "is wanted")
}

// A package that is not what the lock says.
func TestWrongPackage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	l := w.lock()
	for i := range l.Packages {
		p := &l.Packages[i]
		if p.Name == "app-data" {
			p.Version = "2.0-1"
		}
	}
	for i := range l.Closures {
		for j, id := range l.Closures[i].Packages {
			l.Closures[i].Packages[j] = strings.Replace(id, "app-data_1.0-1", "app-data_2.0-1", 1)
		}
	}
	_, err := w.build(l, oci.Production)
	wantError(t, err, "says that it is app-data_1.0-1_all, but the lock says app-data_2.0-1_all")
}

// What the cache keeps may be torn or wrong: the build mends it.
func TestDamagedCache(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, w *world)
		twice  bool // the first build after it may fail, and says so
	}{
		{"records emptied", func(t *testing.T, w *world) { eachFile(t, w.cache+"/records", func(p string) { truncate(t, p, 0) }) }, false},
		{"outputs gone", func(t *testing.T, w *world) { remove(t, w.cache+"/files") }, false},
		{"outputs cut", func(t *testing.T, w *world) {
			eachFile(t, w.cache+"/files", func(p string) { truncate(t, p, 1) })
		}, false},
		{"outputs changed", func(t *testing.T, w *world) {
			eachFile(t, w.cache+"/files", flip(t))
			remove(t, w.cache+"/layers")
		}, true},
		{"packages changed", func(t *testing.T, w *world) {
			eachFile(t, w.cache+"/debs", func(p string) {
				if filepath.Base(p) == "data.tar" {
					flip(t)(p)
				}
			})
			remove(t, w.cache+"/layers")
		}, true},
		{"trees gone", func(t *testing.T, w *world) { remove(t, w.cache+"/roots") }, false},
		{"store gone", func(t *testing.T, w *world) { remove(t, w.dir+"/"+stateDir+"/store") }, false},
		{"hashes damaged", func(t *testing.T, w *world) { write(t, memoPath(w.dir), "{") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil, demo())
			l := w.lock()
			first, err := w.build(l, oci.Production)
			if err != nil {
				t.Fatal(err)
			}
			c.damage(t, w)
			remove(t, w.cache+"/records/images")
			remove(t, w.dir+"/"+stateDir+"/store")
			again, err := w.build(l, oci.Production)
			if c.twice && err != nil {
				wantError(t, err, "build again")
				again, err = w.build(l, oci.Production)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := again.Images[0].Manifest.Digest, first.Images[0].Manifest.Digest; got != want {
				t.Errorf("the image is %s, was %s", got, want)
			}
		})
	}
}

func eachFile(t *testing.T, dir string, do func(string)) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
			do(p)
		}
		return err
	})
	if err != nil || n == 0 {
		t.Fatalf("%s: %d files, %v", dir, n, err)
	}
}

func truncate(t *testing.T, p string, n int64) {
	t.Helper()
	if err := os.Truncate(p, n); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, p, data string) {
	t.Helper()
	if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, p string) {
	t.Helper()
	if err := os.RemoveAll(p); err != nil {
		t.Fatal(err)
	}
}

// flip changes one bit in the middle of what a file says.
func flip(t *testing.T) func(string) {
	return func(p string) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for i := len(b) / 2; i < len(b); i++ {
			if b[i] > ' ' { // text, and not the padding of an archive
				b[i] ^= 1
				break
			}
		}
		write(t, p, string(b))
	}
}

// An input changes between being hashed and being used.
func TestInputChangesDuringBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	b, err := w.builder(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.source.file("src/a.txt"); err != nil {
		t.Fatal(err)
	}
	ws, err := b.work([]oci.Zone{oci.Production})
	if err != nil {
		t.Fatal(err)
	}
	sw, err := b.prepareStep(ws.steps[0], oci.Platform{}, ws.tools, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.write(map[string]string{"src/a.txt": "changed\n"})
	wantError(t, b.placeInputs(t.TempDir(), sw.record), "step compile: placing input src/a.txt", "changed while the build ran: build again")

	in, err := b.source.tree("conf/demo.conf")
	if err != nil {
		t.Fatal(err)
	}
	w.write(map[string]string{"conf/demo.conf": "y=2\n"})
	wantError(t, b.keepSource(t.Context(), in[0]), "conf/demo.conf", "changed while the build ran")
}

// The folder for results leads elsewhere: a trap in somebody's project.
func TestStateFolderLeadsElsewhere(t *testing.T) {
	t.Parallel()
	for _, p := range []string{stateDir, stateDir + "/logs", stateDir + "/reports", stateDir + "/store", stateDir + "/store/blobs"} {
		w := newWorld(t, nil, demo())
		l := w.lock()
		target := t.TempDir()
		w.write(map[string]string{p: "-> " + target})
		_, err := w.build(l, oci.Production)
		wantError(t, err, p, "remove it")
		if names, _ := os.ReadDir(target); len(names) > 0 {
			t.Errorf("%s: written through the link: %v", p, names)
		}
	}
	// Single files are replaced and not followed.
	w := newWorld(t, nil, demo())
	victim := filepath.Join(t.TempDir(), "victim")
	write(t, victim, "precious")
	w.write(map[string]string{
		stateDir + "/logs/step-compile.log": "-> " + victim, stateDir + "/reports/test/seen": "-> " + victim,
		stateDir + "/hashes.json": "-> " + victim, stateDir + "/reports/test/junit.xml": "-> ../../../src/a.txt",
	})
	if _, err := w.build(nil, oci.Production); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{victim: "precious", w.dir + "/src/a.txt": "one\n"} {
		if got, err := os.ReadFile(p); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
}

// Links of the project to the outside are not read, wherever they are named.
func TestProjectLinksOutside(t *testing.T) {
	t.Parallel()
	secret := t.TempDir()
	write(t, secret+"/key", "secret")
	w := newWorld(t, nil, demo("files: {conf: /etc/demo}", "files: {out/key: /etc/demo/key}"))
	w.write(map[string]string{"out": "-> " + secret})
	_, err := w.build(nil, oci.Production)
	if err == nil || strings.Contains(err.Error(), "secret\n") {
		t.Fatalf("got %v", err)
	}
	if _, err := readProjectFile(w.dir, "out/key"); err == nil {
		t.Error("a file outside of the project was read")
	}
}

// Two builds of one project at once: one works, the other finds.
func TestTwoBuildsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	l := w.lock()
	reports := make([]*Report, 3)
	var wg sync.WaitGroup
	for i := range reports {
		b, err := w.builder(l)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if reports[i], err = b.Build(t.Context(), bothZones); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	made := 0
	for _, r := range reports {
		if d := cmp.Diff(digests(reports[0]), digests(r)); d != "" {
			t.Error(d)
		}
		if !r.Images[0].Cached {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d builds made the image", made)
	}
}

// Two projects that share a cache, and everything in it.
func TestTwoProjectsShareACache(t *testing.T) {
	t.Parallel()
	a := newWorld(t, nil, demo())
	b := newWorld(t, nil, demo())
	b.cache, b.vault, b.fetch, b.site = a.cache, a.vault, a.fetch, a.site
	l := a.lock()
	var wg sync.WaitGroup
	var reports [2]*Report
	for i, w := range []*world{a, b} {
		builder, err := w.builder(l)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			var err error
			if reports[i], err = builder.Build(t.Context(), bothZones); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	if d := cmp.Diff(digests(reports[0]), digests(reports[1])); d != "" {
		t.Error(d)
	}
}

func digests(r *Report) []oci.Digest {
	var out []oci.Digest
	for _, i := range r.Images {
		out = append(out, i.Manifest.Digest)
	}
	return out
}

// An interrupt, wherever it comes, leaves nothing wrong: the next build makes
// the same image.
func TestInterrupt(t *testing.T) {
	w := newWorld(t, nil, demo())
	l := w.lock()
	clean := newWorld(t, nil, demo())
	want, err := clean.build(clean.lock(), bothZones...)
	if err != nil {
		t.Fatal(err)
	}
	interrupted := 0
	for _, after := range []time.Duration{0, 3, 10, 25, 40, 60, 90, 130} {
		ctx, cancel := contextAfter(t, after*time.Millisecond)
		b, err := w.builder(l)
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Build(ctx, bothZones)
		cancel()
		if err != nil {
			interrupted++
		}
		if names, _ := os.ReadDir(filepath.Join(w.cache, "tmp")); len(names) > 0 {
			t.Errorf("interrupted after %v ms: left %v", after, names)
		}
	}
	if interrupted == 0 {
		t.Error("no build was interrupted: the test tests nothing")
	}
	got, err := w.build(l, bothZones...)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(digests(want), digests(got)); d != "" {
		t.Error(d)
	}
}

// A collection of the vault waits for a build, and a build for it.
func TestCollectionWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	b, err := w.builder(nil)
	if err != nil {
		t.Fatal(err)
	}
	release, err := b.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextAfter(t, 30*time.Millisecond)
	defer cancel()
	if _, err := w.vault.GC(ctx, func(oci.Digest) bool { return false }, false); err == nil {
		t.Error("a collection ran while a build held the vault")
	}
	release()
	if _, err := w.vault.GC(t.Context(), func(oci.Digest) bool { return true }, false); err != nil {
		t.Error(err)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	l := w.lock()
	b, err := w.builder(l)
	if err != nil {
		t.Fatal(err)
	}
	states := func(actions []Action) map[string]string {
		ids := map[string]string{}
		for _, a := range actions {
			for _, n := range a.Needs {
				if ids[n] == "" {
					t.Errorf("%s needs %s, which does not come before it", a.ID, n)
				}
			}
			ids[a.ID] = a.State
		}
		return ids
	}
	before, err := b.Plan(t.Context(), bothZones)
	if err != nil {
		t.Fatal(err)
	}
	plat := "linux/" + runtime.GOARCH
	want := map[string]string{
		"fetch": "to do", "tree:development": "to do", "step:compile": "to do", "step:test": "depends",
		"image:development/" + plat: "to do", "image:production/" + plat: "depends",
	}
	if d := cmp.Diff(want, states(before)); d != "" {
		t.Error(d)
	}
	if _, err := w.build(l, bothZones...); err != nil {
		t.Fatal(err)
	}
	for _, b := range []bool{true, false} {
		builder, err := w.builder(l)
		if err != nil {
			t.Fatal(err)
		}
		if !b {
			w.write(map[string]string{"src/a.txt": "three\n"})
		}
		after, err := builder.Plan(t.Context(), bothZones)
		if err != nil {
			t.Fatal(err)
		}
		for id, s := range states(after) {
			want := "done"
			if !b && (id == "step:compile") {
				want = "to do"
			}
			if !b && (id == "step:test" || id == "image:production/"+plat) {
				want = "depends"
			}
			if s != want {
				t.Errorf("changed %v: %s is %q, want %q", !b, id, s, want)
			}
		}
	}
}

// Only what a change reaches is made again.
func TestChangedSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, demo())
	l := w.lock()
	first, err := w.build(l, bothZones...)
	if err != nil {
		t.Fatal(err)
	}
	w.write(map[string]string{"src/a.txt": "changed\n", "src/deep/new": "and new\n"})
	second, err := w.build(l, bothZones...)
	if err != nil {
		t.Fatal(err)
	}
	if !second.Images[0].Cached {
		t.Error("the development image does not hold the source, but was made again")
	}
	if second.Images[1].Manifest.Digest == first.Images[1].Manifest.Digest {
		t.Error("the production image did not change")
	}
	o := w.origins(second.Images[1])
	x := Explain(o, "/opt/app/a.txt", w.vault.Has)
	if x.Step == nil || x.Step.Step != "compile" || len(x.Step.Inputs) != 3 || !x.InVault {
		t.Errorf("explanation: %+v", x)
	}
	var out bytes.Buffer
	x.Write(&out)
	for _, part := range []string{"artifact compile:dist, output file dist/a.txt", "src/a.txt ", "src/deep/new ", "in the vault"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("the answer lacks %q:\n%s", part, out.String())
		}
	}
}

// A full disk at any moment: a clear error, and the next build is right.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	w := newWorld(t, nil, demo())
	l := w.lock()
	want, err := w.build(l, bothZones...)
	if err != nil {
		t.Fatal(err)
	}
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	defer func() { _ = unix.Unmount(small, unix.MNT_DETACH) }()
	refused := 0
	for _, size := range []string{"1m", "2m", "4m", "7m", "10m", "14m", "19m", "25m", "128m"} {
		if err := unix.Mount("", small, "", unix.MS_REMOUNT, "size="+size); err != nil {
			t.Fatal(err)
		}
		b, err := w.builder(l)
		if err != nil {
			t.Fatal(err)
		}
		b.cache, b.CacheDir = newCache(small), small
		b.cache.syncFS = func(int) error { return nil }
		got, err := b.Build(t.Context(), bothZones)
		b.cache.settled.Wait()
		remove(t, w.dir+"/"+stateDir+"/store") // so that every image is made again
		if err == nil {
			if d := cmp.Diff(digests(want), digests(got)); d != "" {
				t.Errorf("with %s: %s", size, d)
			}
			continue
		}
		refused++
		if size == "128m" {
			t.Fatalf("with %s: %v", size, err)
		}
		wantError(t, err, "no space left", "--cache-dir")
	}
	if refused < 3 {
		t.Errorf("only %d builds met a full disk", refused)
	}
}

func TestReportJSON(t *testing.T) {
	b, err := json.Marshal(ImageReport{Zone: oci.Production, LeftOut: []LeftOut{{"manuals", 2, 30}}})
	if err != nil || !strings.Contains(string(b), `"leftOut":[{"reason":"manuals","files":2,"bytes":30}]`) {
		t.Errorf("%s, %v", b, err)
	}
}
