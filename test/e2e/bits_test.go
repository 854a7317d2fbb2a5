package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
)

const ordinaryUser = 1000

// second is an environment in which everything that must not matter is
// different from the first. What cannot be varied here is the wall clock that
// programs inside the sandbox read: Linux has no namespace for it. The two
// builds happen minutes apart, which shows anything that counts in seconds, and
// TestOrigins looks for dates.
func second(t testing.TB, name string, n int) (w world, dir string) {
	t.Helper()
	base := filepath.Join(work.dir, "b", name)
	deep := filepath.Join(base, "some where", "else", "çà-và")
	umask, cpu := 0o077, n%runtime.NumCPU()
	w = world{
		Cache: filepath.Join(base, "cache"), Home: filepath.Join(base, "home"), Temp: filepath.Join(base, "t"),
		Host: "another-host", Umask: &umask, CPU: &cpu, Clock: 400 * 24 * time.Hour, Cleared: true,
		Env: map[string]string{
			"TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr", "GOMAXPROCS": "3", "GOGC": "50",
			"USER": "someone", "LOGNAME": "someone", "SOURCE_DATE_EPOCH": "1", "NODE_OPTIONS": "--no-warnings", "PYTHONHASHSEED": "77",
			"GOFLAGS": "-mod=mod", "COLUMNS": "40", "TERM": "xterm-256color", "DEBIAN_FRONTEND": "readline", "npm_config_loglevel": "silly",
		},
	}
	dir = filepath.Join(deep, "project of "+name)
	for _, d := range []string{w.Cache, w.Home, w.Temp, dir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkout(name, dir); err != nil {
		t.Fatal(err)
	}
	if err := linkVault(first().Cache, w.Cache); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		w.User = ordinaryUser
	}
	// Another checkout has other times, and groups and others have what the
	// umask of whoever made it left them.
	long := time.Date(2003, 2, 1, 4, 5, 6, 7, time.UTC)
	err := filepath.WalkDir(base, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if fi, err := d.Info(); err == nil && strings.HasPrefix(p, dir) {
			if err := os.Chmod(p, fi.Mode().Perm()&^0o077); err != nil {
				return err
			}
			if err := os.Chtimes(p, long, long); err != nil {
				return err
			}
		}
		if w.User != 0 && (d.IsDir() || !strings.HasPrefix(p, w.Cache)) { // the vault's files are shared
			return os.Lchown(p, w.User, w.User)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return w, dir
}

// TestSameBits builds both images of every example a second time, from nothing
// but the locked inputs, in an environment that differs in everything that must
// not matter, and wants the same manifests.
func TestSameBits(t *testing.T) {
	for n, name := range examples {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each has a processor of its own
			a := example(t, name)
			w, dir := second(t, name, n)
			if err := copyFile(filepath.Join(a.dir, "twinhull.lock"), filepath.Join(dir, "twinhull.lock"), 0o644); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			b := w.build(t, dir, "--offline", "--fresh-steps")
			t.Logf("built in %.1f s here, in %.1f s there", a.took.Seconds(), time.Since(began).Seconds())
			da, db := digests(a.report), digests(b)
			if len(da) == 0 || len(da) != len(db) {
				t.Fatalf("images here %v, there %v", da, db)
			}
			for _, image := range sortedKeys(da) {
				if da[image] != db[image] {
					t.Errorf("%s: %s here, %s there\n%s", image, da[image], db[image],
						explainDifference(t, filepath.Join(a.dir, ".twinhull/store"), da[image], filepath.Join(dir, ".twinhull/store"), db[image]))
				} else {
					t.Logf("%s: %s", image, da[image])
				}
			}
			if diff := cmp.Diff(stepOutputs(a.report), stepOutputs(b)); diff != "" {
				t.Errorf("steps left other things (-here +there):\n%s", diff)
			}
		})
	}
}

// stepOutputs are what steps left, without what only serves a person: the
// reports of tests and coverage say when and how long they ran.
func stepOutputs(r build.Report) map[string]string {
	out := map[string]string{}
	for _, s := range r.Steps {
		for _, o := range s.Outputs {
			if o.Kind == "artifact" {
				out[s.Step+" "+s.Platform.String()+" "+o.Path] = string(o.SHA256) + o.Link
			}
		}
	}
	return out
}

// tarEntry is what a layer says of one path.
type tarEntry struct {
	header  tar.Header
	sha256  string
	content []byte // of small files
}

const showContent = 256 << 10

// readLayer reads a layer, and keeps the content of the small files that keep
// (nil: all) wants.
func readLayer(t testing.TB, img *image.Image, n int, keep func(path string) bool) []tarEntry {
	t.Helper()
	rc, err := img.OpenLayer(context.Background(), n, image.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	var out []tarEntry
	r := tar.NewReader(rc)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		e := tarEntry{header: *h}
		hash := sha256.New()
		var content bytes.Buffer
		var to io.Writer = hash
		if h.Size <= showContent && (keep == nil || keep(path.Clean(h.Name))) {
			to = io.MultiWriter(hash, &content)
		}
		if _, err := io.Copy(to, r); err != nil {
			t.Fatal(err)
		}
		e.sha256, e.content = hex.EncodeToString(hash.Sum(nil)), content.Bytes()
		out = append(out, e)
	}
	if _, err := io.Copy(io.Discard, rc); err != nil { // verifies
		t.Fatal(err)
	}
	return out
}

func openManifest(t testing.TB, store string, d oci.Digest) (*image.Image, *build.Origins) {
	t.Helper()
	l, err := oci.OpenLayout(store)
	if err != nil {
		t.Fatal(err)
	}
	n, err := l.Stat(d)
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.OpenDescriptor(l, oci.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: d, Size: n}, image.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o, err := build.ReadOrigins(l, d)
	if err != nil {
		t.Fatal(err)
	}
	return img, o
}

// explainDifference says which layers and which paths make two images differ,
// and what those paths come from.
func explainDifference(t testing.TB, storeA string, a oci.Digest, storeB string, b oci.Digest) string {
	t.Helper()
	ia, oa := openManifest(t, storeA, a)
	defer ia.Close()
	ib, ob := openManifest(t, storeB, b)
	defer ib.Close()
	var out strings.Builder
	if diff := cmp.Diff(ia.Config, ib.Config); diff != "" {
		fmt.Fprintf(&out, "configuration (-here +there):\n%s", diff)
	}
	origin := func(o *build.Origins, p string) string {
		i := slices.IndexFunc(o.Paths, func(x build.PathOrigin) bool { return x.Path == p })
		if i < 0 {
			return "no origin"
		}
		x := o.Paths[i].Origin
		return fmt.Sprintf("%s %s %s %s", x.Kind, x.Name, x.Version, x.Note)
	}
	shown := 0
	for n := range max(len(ia.Manifest.Layers), len(ib.Manifest.Layers)) {
		if n >= len(ia.Manifest.Layers) || n >= len(ib.Manifest.Layers) {
			fmt.Fprintf(&out, "layer %d is in one of them only\n", n)
			continue
		}
		if ia.Manifest.Layers[n].Digest == ib.Manifest.Layers[n].Digest {
			continue
		}
		fmt.Fprintf(&out, "layer %d (%s)\n", n, ia.Config.History[n].CreatedBy)
		if ia.Config.RootFS.DiffIDs[n] == ib.Config.RootFS.DiffIDs[n] {
			fmt.Fprintf(&out, "  the archives are equal, their compression differs\n")
			continue
		}
		la, lb := readLayer(t, ia, n, nil), readLayer(t, ib, n, nil)
		byPath := map[string]tarEntry{}
		for _, e := range lb {
			byPath[e.header.Name] = e
		}
		found := false
		say := func(format string, args ...any) {
			found = true
			if shown++; shown <= 40 {
				fmt.Fprintf(&out, format+"\n", args...)
			}
		}
		for _, e := range la {
			p := path.Clean(e.header.Name)
			o, ok := byPath[e.header.Name]
			delete(byPath, e.header.Name)
			if !ok {
				say("  %s: only here (%s)", p, origin(oa, p))
				continue
			}
			if diff := cmp.Diff(e.header, o.header); diff != "" {
				say("  %s (%s): header (-here +there):\n%s", p, origin(oa, p), diff)
			}
			if e.sha256 != o.sha256 {
				say("  %s (%s): content%s", p, origin(oa, p), contentDifference(e.content, o.content))
			}
		}
		for _, p := range sortedKeys(byPath) {
			say("  %s: only there (%s)", p, origin(ob, path.Clean(p)))
		}
		if !found {
			fmt.Fprintf(&out, "  the same entries in another order or encoding\n")
		}
	}
	if shown > 40 {
		fmt.Fprintf(&out, "  … and %d more\n", shown-40)
	}
	return out.String()
}

// contentDifference shows the first place where two files differ.
func contentDifference(a, b []byte) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	if len(a) == 0 || len(b) == 0 {
		return ""
	}
	show := func(s []byte) string { return fmt.Sprintf("%q", s[max(0, n-60):min(len(s), n+60)]) }
	return fmt.Sprintf(" at byte %d:\n    here  %s\n    there %s", n, show(a), show(b))
}
