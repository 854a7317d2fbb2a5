package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
)

// counted is a registry on loopback that counts the bytes that come in. A blob
// is known only in the repositories that it was pushed or mounted to, as in any
// registry with access rules.
type counted struct {
	*httptest.Server
	in atomic.Int64

	mu  sync.Mutex
	has map[string]bool // repository and digest
}

func newRegistry(t *testing.T) *counted {
	c := &counted{has: map[string]bool{}}
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &countedBody{r.Body, &c.in}
		repository, blob, isBlob := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
		q := r.URL.Query()
		switch {
		case isBlob && r.Method == http.MethodHead:
			c.mu.Lock()
			known := c.has[repository+" "+blob]
			c.mu.Unlock()
			if !known {
				http.NotFound(w, r)
				return
			}
		case isBlob && r.Method == http.MethodPost && q.Get("mount") != "":
			c.mu.Lock()
			known := c.has[q.Get("from")+" "+q.Get("mount")]
			c.mu.Unlock()
			if known { // distribution-spec, "Mounting a blob from another repository"
				c.mu.Lock()
				c.has[repository+" "+q.Get("mount")] = true
				c.mu.Unlock()
				w.Header().Set("Location", "/v2/"+repository+"/blobs/"+q.Get("mount"))
				w.Header().Set("Docker-Content-Digest", q.Get("mount"))
				w.WriteHeader(http.StatusCreated)
				return
			}
		}
		status := &statusWriter{w, 200}
		h.ServeHTTP(status, r)
		if digest := q.Get("digest"); isBlob && status.code == http.StatusCreated && digest != "" {
			c.mu.Lock()
			c.has[repository+" "+digest] = true
			c.mu.Unlock()
		}
	}))
	t.Cleanup(c.Close)
	return c
}

type statusWriter struct {
	http.ResponseWriter
	code int
}

func (w *statusWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

func (c *counted) host() string { return strings.TrimPrefix(c.URL, "http://") }

// TestPush sends the images to a registry: production after development sends
// only what development did not bring, and pushing again sends nothing.
func TestPush(t *testing.T) {
	for _, name := range examples {
		t.Run(name, func(t *testing.T) {
			e := example(t, name)
			r := newRegistry(t)
			to := r.host() + "/shop/" + name
			first().ok(t, e.dir, "build", "development", "--output", to)
			development := r.in.Swap(0)
			first().ok(t, e.dir, "build", "production", "--output", to)
			production := r.in.Swap(0)
			first().ok(t, e.dir, "build", "production", "--output", to)
			again := r.in.Swap(0)

			var size, other int64 // compressed, of this machine's platform and of the others
			store := e.store(t)
			for _, i := range e.report.Images {
				if i.Zone != oci.Production {
					continue
				}
				raw, err := store.ReadBlob(i.Manifest)
				if err != nil {
					t.Fatal(err)
				}
				m, err := oci.ParseManifest(raw)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range m.Layers {
					if i.Platform == e.host(t, oci.Production).Platform {
						size += l.Size
					} else {
						other += l.Size
					}
				}
			}
			t.Logf("development %.1f MB; production of this platform has %.1f MB, of others %.1f; sent for both %.1f, again %.1f", mb(development), mb(size), mb(other), mb(production), mb(again))
			// Layers of other platforms have no twin in the development image.
			if rest := production - other; rest > size*sharedLimit[name]/100 {
				t.Errorf("%.1f of %.1f MB were sent again after development", mb(rest), mb(size))
			}
			if again > 64<<10 {
				t.Errorf("%d bytes were sent for an image that was there", again)
			}

			// The referrers that explain it came along.
			d := e.host(t, oci.Production).Manifest.Digest
			body, err := get(fmt.Sprintf("%s/v2/shop/%s/referrers/%s", r.URL, name, d))
			var referrers struct{ Manifests []oci.Descriptor }
			if err != nil || json.Unmarshal([]byte(body), &referrers) != nil || len(referrers.Manifests) != 1 {
				t.Fatalf("referrers of %s: %q, %v", d, body, err)
			}
			body, err = get(fmt.Sprintf("%s/v2/shop/%s/manifests/%s", r.URL, name, referrers.Manifests[0].Digest))
			if err != nil || !strings.Contains(body, `"artifactType":"application/vnd.twinhull.origins.v1+json"`) {
				t.Errorf("referrer of %s: %q, %v", d, body, err)
			}
			if tool(t, "skopeo") {
				out, err := exec.Command("skopeo", "inspect", "--tls-verify=false", "--raw", "docker://"+to+":latest").CombinedOutput()
				if err != nil || !strings.Contains(string(out), string(d)) {
					t.Errorf("skopeo: %v\n%s", err, tail(string(out), 2000))
				}
				out, err = exec.Command("skopeo", "inspect", "--tls-verify=false", "--override-arch", "arm64", "docker://"+to+":latest").CombinedOutput()
				if err != nil || !strings.Contains(string(out), `"Architecture": "arm64"`) || !strings.Contains(string(out), `"dev.twinhull.zone": "production"`) {
					t.Errorf("skopeo: %v\n%s", err, tail(string(out), 2000))
				}
			}
			if tool(t, "crane") {
				if out, err := exec.Command("crane", "validate", "--insecure", "--remote", to+":latest").CombinedOutput(); err != nil {
					t.Errorf("crane: %v\n%s", err, out)
				}
			}
		})
	}
}

// sharedLimit is how many percent of a production image may be sent after the
// development image, with the documents that explain it. The Go service is its
// own binary and little else: all that is new.
var sharedLimit = map[string]int64{"node-api": 15, "python-model": 15, "go-service": 115}

func mb(n int64) float64 { return float64(n) / 1e6 }

func tool(t *testing.T, name string) bool {
	_, err := exec.LookPath(name)
	if err != nil {
		t.Logf("%s is not installed; its check is left out", name)
	}
	return err == nil
}

// TestOutputs writes layouts and archives in all compressions and reads them
// with other people's tools.
func TestOutputs(t *testing.T) {
	const name = "go-service"
	e := example(t, name)
	dir, err := os.MkdirTemp(work.dir, "out-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var trees []map[string]string
	for _, codec := range []string{"gzip", "zstd", "estargz"} {
		layout := filepath.Join(dir, codec)
		archive := filepath.Join(dir, codec+".tar")
		first().ok(t, e.dir, "build", "production", "--compress", codec, "--output", "oci:"+layout, "--output", "docker-archive:"+archive)
		img, err := image.Open(t.Context(), oci.Ref{Kind: oci.LayoutRef, Path: layout, Tag: "production"}, image.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		tree := map[string]string{}
		for n := range img.Manifest.Layers {
			for _, entry := range readLayer(t, img, n, func(string) bool { return false }) {
				h := entry.header
				tree[h.Name] = fmt.Sprint(h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, h.ModTime.Unix(), entry.sha256)
			}
		}
		img.Close()
		delete(tree, "stargz.index.json") // the index that estargz is about
		trees = append(trees, tree)
		if tool(t, "skopeo") {
			out, err := exec.Command("skopeo", "inspect", "oci:"+layout+":production").CombinedOutput()
			if err != nil || !strings.Contains(string(out), `"dev.twinhull.zone": "production"`) {
				t.Errorf("%s: skopeo: %v\n%s", codec, err, tail(string(out), 2000))
			}
			// A copy reads and verifies every layer.
			if out, err := exec.Command("skopeo", "copy", "--insecure-policy", "oci:"+layout+":production", "dir:"+filepath.Join(dir, codec+"-copy")).CombinedOutput(); err != nil {
				t.Errorf("%s: skopeo copy: %v\n%s", codec, err, out)
			}
			out, err = exec.Command("skopeo", "inspect", "--config", "docker-archive:"+archive).CombinedOutput()
			var config struct{ Config struct{ User string } }
			if err != nil || json.Unmarshal(out, &config) != nil || config.Config.User != "65532:65532" {
				t.Errorf("%s: skopeo: %v\n%s", codec, err, tail(string(out), 2000))
			}
		}
	}
	for i, tree := range trees[1:] {
		if fmt.Sprint(tree) != fmt.Sprint(trees[0]) {
			t.Errorf("compression %d holds other files", i+1)
		}
	}
	// The project's own tag is of the last compression; set it back for others.
	first().ok(t, e.dir, "build", "production")
	if os.Getuid() == 0 {
		p := newPodman(t)
		for _, codec := range []string{"gzip", "zstd", "estargz"} {
			if out, err := p.command("pull", "-q", "oci:"+filepath.Join(dir, codec)+":production").CombinedOutput(); err != nil {
				t.Errorf("%s: podman pull: %v\n%s", codec, err, out)
			}
		}
	}
}
