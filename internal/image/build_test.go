package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// noKeys keeps tests away from the user's credentials.
var noKeys = authn.NewMultiKeychain()

func TestBuild(t *testing.T) {
	b := newBuilder(t)
	r := mustBuild(t, b, sampleSpec(Gzip))
	if len(r.Layers) != 2 || r.Layers[0].Reused {
		t.Fatalf("%+v", r.Layers)
	}
	img, err := OpenDescriptor(b.Store, r.Manifest, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if z, err := img.Zone(); err != nil || z != oci.Production {
		t.Error(z, err)
	}
	if got := img.Config.History[0].CreatedBy; got != "twinhull 1: production: debian packages: glibc" {
		t.Error(got)
	}
	want := map[string]string{oci.ZoneKey: "production", "org.example": "yes",
		ocispec.AnnotationCreated: "2023-11-14T22:13:20Z", ocispec.AnnotationTitle: "app"}
	if diff := cmp.Diff(want, img.Manifest.Annotations); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"A=<1>", "PATH=/usr/bin"}, img.Config.Config.Env); diff != "" {
		t.Error(diff)
	}
	// Nothing changed: nothing is written.
	again := mustBuild(t, b, sampleSpec(Gzip))
	if again.Manifest.Digest != r.Manifest.Digest || !again.Layers[0].Reused || !again.Layers[1].Reused {
		t.Errorf("%+v", again)
	}
	// The other zone shares the layers and nothing else.
	spec := sampleSpec(Gzip)
	spec.Zone = oci.Development
	dev := mustBuild(t, b, spec)
	if dev.Config.Digest == r.Config.Digest || dev.Layers[0].Digest != r.Layers[0].Digest {
		t.Error("zones do not show in the configuration, or show in a layer")
	}

	spec = sampleSpec(Gzip)
	spec.Platform.Architecture = "arm64"
	arm := mustBuild(t, b, spec)
	one, err := BuildIndex(b.Store, []Result{r, arm}, nil)
	if err != nil {
		t.Fatal(err)
	}
	two, err := BuildIndex(b.Store, []Result{arm, r}, nil)
	if err != nil || one.Digest != two.Digest {
		t.Error("the order of results changes the index", err)
	}
	if got, err := OpenDescriptor(b.Store, one, OpenOptions{Platform: oci.Platform{OS: "linux", Architecture: "arm64"}}); err != nil || got.Descriptor.Digest != arm.Manifest.Digest {
		t.Error("arm64 of the index:", err)
	}
	if _, err := BuildIndex(b.Store, []Result{r, dev}, nil); err == nil {
		t.Error("an index of two zones was accepted")
	}
	if _, err := BuildIndex(b.Store, []Result{r, r}, nil); err == nil {
		t.Error("an index with a platform twice was accepted")
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"no zone":      func(s *Spec) { s.Zone = "" },
		"platform":     func(s *Spec) { s.Platform.OS = "plan9" },
		"no time":      func(s *Spec) { s.Created = s.Created.Add(1) },
		"zone label":   func(s *Spec) { s.Config.Labels[oci.ZoneKey] = "development" },
		"zone note":    func(s *Spec) { s.Annotations[oci.ZoneKey] = "development" },
		"port":         func(s *Spec) { s.Config.ExposedPorts = []int{0} },
		"folder":       func(s *Spec) { s.Config.WorkingDir = "app" },
		"environment":  func(s *Spec) { s.Config.Env["A=B"] = "" },
		"bad entry":    func(s *Spec) { s.Layers[0].Entries = []*filetree.Entry{file("../x", "")} },
		"unknown code": func(s *Spec) { s.Layers[0].Codec = "lzma" },
	} {
		spec := sampleSpec(Gzip)
		change(&spec)
		if _, err := newBuilder(t).Build(context.Background(), spec); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := newBuilder(t).Build(ctx, sampleSpec(Gzip)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// unpacked reads a folder back as members, for comparison with entries.
func unpacked(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		s := fi.Mode().String()
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s += " " + string(b)
		case fi.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			out[rel] = "-> " + target
			return nil
		}
		out[rel] = s + " " + fi.ModTime().UTC().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// An image is the same from its store, from a copied layout, from a docker
// archive and from a registry.
func TestDeliverAndUnpack(t *testing.T) {
	for _, codec := range []Codec{Gzip, Zstd, EStargz} {
		t.Run(string(codec), func(t *testing.T) {
			b := newBuilder(t)
			spec := sampleSpec(codec)
			spec.Layers[0].Entries = plainTree()
			r := mustBuild(t, b, spec)
			ctx := context.Background()
			dir := t.TempDir()

			layout := filepath.Join(dir, "layout")
			if err := CopyLayout(ctx, b.Store, r.Manifest, layout, "v1"); err != nil {
				t.Fatal(err)
			}
			img, err := OpenDescriptor(b.Store, r.Manifest, OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			archive := filepath.Join(dir, "image.tar")
			if err := WriteDockerArchive(ctx, img, archive, []string{"registry.example/app:1"}); err != nil {
				t.Fatal(err)
			}
			again := filepath.Join(dir, "again.tar")
			if err := WriteDockerArchive(ctx, img, again, []string{"registry.example/app:1"}); err != nil {
				t.Fatal(err)
			}
			one, _ := os.ReadFile(archive)
			two, _ := os.ReadFile(again)
			if !bytes.Equal(one, two) {
				t.Error("two archives of one image differ")
			}
			host := testRegistry(t, nil)
			ref := oci.Ref{Kind: oci.RegistryRef, Host: host, Name: "app", Tag: "v1"}
			if _, err := Push(ctx, b.Store, r.Manifest, ref, PushOptions{Keychain: noKeys}); err != nil {
				t.Fatal(err)
			}

			var first map[string]string
			for _, s := range []string{"oci:" + layout + ":v1", "docker-archive:" + archive, "docker-archive:" + archive + ":registry.example/app:1", ref.String(), ref.Host + "/app@" + string(r.Manifest.Digest)} {
				where, err := oci.ParseRef(s)
				if err != nil {
					t.Fatal(err)
				}
				img, err := Open(ctx, where, OpenOptions{Keychain: noKeys})
				if err != nil {
					t.Fatalf("%s: %v", s, err)
				}
				if z, err := img.Zone(); err != nil || z != oci.Production {
					t.Error(s, z, err)
				}
				to := filepath.Join(t.TempDir(), "root")
				if err := Unpack(ctx, img, to, UnpackOptions{}); err != nil {
					t.Fatalf("%s: %v", s, err)
				}
				if err := img.Close(); err != nil {
					t.Error(err)
				}
				got := unpacked(t, to)
				if first == nil {
					first = got
					checkUnpacked(t, to, got)
				} else if diff := cmp.Diff(first, got); diff != "" {
					t.Errorf("%s: %s", s, diff)
				}
			}
		})
	}
}

func checkUnpacked(t *testing.T, dir string, got map[string]string) {
	t.Helper()
	for _, e := range append(plainTree(), file("app/main.js", words(3, 5000)), folder("app")) {
		if _, ok := got[e.Path]; !ok {
			t.Errorf("%s is missing", e.Path)
		}
		delete(got, e.Path)
	}
	for p := range got {
		if p != "usr/share" && !strings.Contains(p, "very-long") { // folders that the tree did not name
			t.Errorf("%s is too much", p)
		}
	}
	a, err := os.Stat(filepath.Join(dir, "usr/bin/big"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := os.Stat(filepath.Join(dir, "usr/bin/z-link"))
	if err != nil || !os.SameFile(a, z) {
		t.Error("hard link", err)
	}
	su, err := os.Stat(filepath.Join(dir, "usr/bin/su"))
	if err != nil || su.Mode()&os.ModeSetuid != 0 || su.Mode().Perm() != 0o755 || su.ModTime().Unix() != testTime {
		t.Error("su:", su, err)
	}
	clear(got)
	for p, s := range unpacked(t, dir) {
		got[p] = s
	}
}

func testRegistry(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := http.Handler(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// A push of production after development uploads only what is not shared.
func TestPushSharesLayers(t *testing.T) {
	b := newBuilder(t)
	ctx := context.Background()
	prodSpec := sampleSpec(Gzip)
	devSpec := sampleSpec(Gzip)
	devSpec.Zone = oci.Development
	devSpec.Layers[2].Entries = []*filetree.Entry{file("usr/bin/gcc", words(7, 1<<20))}
	prod, dev := mustBuild(t, b, prodSpec), mustBuild(t, b, devSpec)
	// The test registry has one store for all repositories and cannot mount; a
	// real one does not show app what only app/dev has until it is mounted
	// (distribution-spec, "Mounting a blob from another repository").
	mounted := 0
	separate := true
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if separate && req.Method == http.MethodHead && strings.HasPrefix(req.URL.Path, "/v2/app/blobs/") {
				http.NotFound(w, req)
				return
			}
			if q := req.URL.Query(); req.Method == http.MethodPost && q.Get("mount") == string(prod.Layers[0].Digest) && q.Get("from") == "app/dev" {
				mounted++
				w.Header().Set("Location", "/v2/app/blobs/"+q.Get("mount"))
				w.WriteHeader(http.StatusCreated)
				return
			}
			h.ServeHTTP(w, req)
		})
	})
	ref := func(name string) oci.Ref { return oci.Ref{Kind: oci.RegistryRef, Host: host, Name: name, Tag: "1"} }
	first, err := Push(ctx, b.Store, dev.Manifest, ref("app/dev"), PushOptions{Keychain: noKeys})
	if err != nil {
		t.Fatal(err)
	}
	if min := dev.Layers[0].Size + dev.Layers[1].Size; first.Uploaded < min {
		t.Errorf("development: %d bytes uploaded, want at least %d", first.Uploaded, min)
	}
	second, err := Push(ctx, b.Store, prod.Manifest, ref("app"), PushOptions{Keychain: noKeys, MountFrom: []string{"app/dev"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := prod.Layers[1].Size + prod.Config.Size + prod.Manifest.Size; second.Uploaded != want {
		t.Errorf("production: %d bytes uploaded, want %d (application layer, configuration, manifest)", second.Uploaded, want)
	}
	if mounted != 1 {
		t.Errorf("the shared layer was asked for %d times, want once", mounted)
	}
	separate = false
	third, err := Push(ctx, b.Store, prod.Manifest, ref("app"), PushOptions{Keychain: noKeys})
	if err != nil || third.Uploaded > prod.Manifest.Size {
		t.Errorf("again: %d bytes uploaded, %v", third.Uploaded, err)
	}
	idx, err := BuildIndex(b.Store, []Result{prod}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Push(ctx, b.Store, idx, ref("app"), PushOptions{Keychain: noKeys}); err != nil {
		t.Fatal(err)
	}
	img, err := Open(ctx, ref("app"), OpenOptions{Keychain: noKeys})
	if err != nil || img.Descriptor.Digest != prod.Manifest.Digest {
		t.Error("image of the pushed index:", err)
	}
	bad := ref("app")
	bad.Digest = prod.Config.Digest
	if _, err := Push(ctx, b.Store, prod.Manifest, bad, PushOptions{Keychain: noKeys}); err == nil {
		t.Error("a push under another digest was accepted")
	}
}

// A registry that gives other bytes is noticed.
func TestRemoteDamage(t *testing.T) {
	b := newBuilder(t)
	ctx := context.Background()
	spec := sampleSpec(Gzip)
	spec.Layers[0].Entries = plainTree()
	r := mustBuild(t, b, spec)
	damage := false
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if damage && strings.HasSuffix(req.URL.Path, string(r.Layers[1].Digest)) {
				http.ServeFile(w, req, b.Cache.BlobPath(r.Layers[0].Digest))
				return
			}
			h.ServeHTTP(w, req)
		})
	})
	ref := oci.Ref{Kind: oci.RegistryRef, Host: host, Name: "app", Tag: "1"}
	if _, err := Push(ctx, b.Store, r.Manifest, ref, PushOptions{Keychain: noKeys}); err != nil {
		t.Fatal(err)
	}
	damage = true
	img, err := Open(ctx, ref, OpenOptions{Keychain: noKeys})
	if err != nil {
		t.Fatal(err)
	}
	if err := Unpack(ctx, img, filepath.Join(t.TempDir(), "root"), UnpackOptions{}); err == nil {
		t.Error("a layer with other bytes was unpacked")
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{"127.0.0.1:5000": true, "localhost": true, "localhost:1": true, "[::1]:80": true, "127.1.2.3": true,
		"10.0.0.1:5000": false, "registry.example": false, "127.0.0.1.example": false, "localhost.example:5000": false} {
		if loopback(host) != want {
			t.Errorf("loopback(%q) = %v", host, !want)
		}
	}
	if _, err := (tlsOnly{http.DefaultTransport}).RoundTrip(httptest.NewRequest("GET", "http://10.0.0.1/v2/", nil)); err == nil {
		t.Error("plain HTTP to another machine")
	}
}

// What the tools of others make of our images.
func TestOtherTools(t *testing.T) {
	b := newBuilder(t)
	ctx := context.Background()
	spec := sampleSpec(Gzip)
	spec.Layers[0].Entries = plainTree()
	r := mustBuild(t, b, spec)
	dir := t.TempDir()
	layout, archive := filepath.Join(dir, "layout"), filepath.Join(dir, "image.tar")
	if err := CopyLayout(ctx, b.Store, r.Manifest, layout, "v1"); err != nil {
		t.Fatal(err)
	}
	img, err := OpenDescriptor(b.Store, r.Manifest, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteDockerArchive(ctx, img, archive, []string{"localhost/app:1"}); err != nil {
		t.Fatal(err)
	}
	t.Run("skopeo", func(t *testing.T) {
		if _, err := exec.LookPath("skopeo"); err != nil {
			t.Skip("skopeo is not installed (Debian package skopeo)")
		}
		for _, s := range []string{"oci:" + layout + ":v1", "docker-archive:" + archive} {
			out, err := exec.Command("skopeo", "inspect", "--config", "--raw", s).Output()
			if err != nil {
				t.Fatalf("%s: %v", s, err)
			}
			var cfg ocispec.Image
			if err := json.Unmarshal(out, &cfg); err != nil || cfg.Config.Labels[oci.ZoneKey] != "production" {
				t.Errorf("%s: %v\n%s", s, err, out)
			}
			if out, err := exec.Command("skopeo", "copy", "--insecure-policy", s, "dir:"+filepath.Join(t.TempDir(), "copy")).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", s, err, out)
			}
		}
	})
	t.Run("podman", func(t *testing.T) {
		if _, err := exec.LookPath("podman"); err != nil {
			t.Skip("podman is not installed (Debian package podman)")
		}
		if os.Getuid() != 0 {
			t.Skip("podman may not give files to every owner of the sample unless it runs as root")
		}
		root := t.TempDir()
		podman := func(args ...string) string {
			args = append([]string{"--root", filepath.Join(root, "root"), "--runroot", filepath.Join(root, "run"), "--storage-driver", "vfs"}, args...)
			out, err := exec.Command("podman", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("podman %v: %v\n%s", args, err, out)
			}
			return string(out)
		}
		podman("load", "-i", archive)
		if out := podman("image", "inspect", "localhost/app:1", "--format", "{{index .Labels \"dev.twinhull.zone\"}}"); strings.TrimSpace(out) != "production" {
			t.Error(out)
		}
		podman("rmi", "-f", "localhost/app:1")
	})
}
