package distribution_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/distribution"
	"twinhull.dev/twinhull/internal/registry/distribution/conformance"
	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/files"
	"twinhull.dev/twinhull/internal/registry/store/memory"
)

// anybody lets everybody do everything that the catalogs allow.
func anybody(context.Context, *http.Request, distribution.Request) (audit.Actor, error) {
	return audit.Actor{Name: "somebody", Method: "password"}, nil
}

func everything(context.Context, *http.Request, string) bool { return true }

func newRegistry(t testing.TB, s store.Store) *registry.Registry {
	t.Helper()
	r, err := registry.New(t.Context(), s, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// serve serves a registry until the test ends.
func serve(t testing.TB, opt distribution.Options) *httptest.Server {
	t.Helper()
	if opt.Judge == nil {
		opt.Judge = anybody
	}
	if opt.Visible == nil {
		opt.Visible = everything
	}
	srv := httptest.NewServer(distribution.New(opt))
	t.Cleanup(srv.Close)
	return srv
}

func development(word string) string { return "team/" + word + "/dev" }

// The whole specification in development catalogs, and all refusals in a production
// repository that has one release.
func TestConformance(t *testing.T) {
	for _, s := range stores {
		t.Run(s.name, func(t *testing.T) {
			r, err := registry.New(t.Context(), s.open(t), registry.Options{Log: &entries{}})
			if err != nil {
				t.Fatal(err)
			}
			srv := serve(t, distribution.Options{Registry: r})
			x := conformance.Target{URL: srv.URL, Client: srv.Client(), Repository: development}
			conformance.Run(t, x)
			conformance.RunProduction(t, x, released(t, r, x))
		})
	}
}

// released pushes a production image as a candidate, over the protocol, and
// releases it.
func released(t *testing.T, r *registry.Registry, x conformance.Target) conformance.Released {
	t.Helper()
	const repo = "team/shop"
	blob := func(content []byte) ocispec.Descriptor {
		d := digest.FromBytes(content)
		if got := x.Do(t, "POST", "/v2/"+repo+"/candidate/blobs/uploads/?digest="+d.String(), bytes.NewReader(content)); got.Status != http.StatusCreated {
			t.Fatalf("%d %s", got.Status, got.Body)
		}
		return ocispec.Descriptor{Digest: d, Size: int64(len(content))}
	}
	config := blob([]byte(`{"architecture":"amd64","os":"linux","config":{"Labels":{"dev.twinhull.zone":"production"}},"rootfs":{"type":"layers","diff_ids":[]}}`))
	layer := blob([]byte("a layer"))
	config.MediaType, layer.MediaType = ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayer
	m := conformance.Manifest(config, []ocispec.Descriptor{layer}, func(m *ocispec.Manifest) {
		m.Annotations = map[string]string{"dev.twinhull.zone": "production"}
	})
	d := digest.FromBytes(m)
	if got := x.Do(t, "PUT", "/v2/"+repo+"/candidate/manifests/"+d.String(), bytes.NewReader(m), "Content-Type", ocispec.MediaTypeImageManifest); got.Status != http.StatusCreated {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	_, err := r.Release(t.Context(), registry.ReleaseOrder{RequestID: "request-1", Repository: repo, Digest: d, Version: "1.4.2",
		Entry: audit.Entry{Actor: audit.Actor{Name: "releaser"}}})
	if err != nil {
		t.Fatal(err)
	}
	return conformance.Released{Repository: repo, Version: "1.4.2", Tags: []string{"1", "1.4", "1.4.2", "latest"}, Manifest: m, Blob: []byte("a layer"),
		Development: repo + "/dev", Candidate: repo + "/candidate"}
}

// entries is an audit log that keeps nothing for long.
type entries struct {
	mu  sync.Mutex
	all []audit.Entry
}

func (l *entries) Append(_ context.Context, e audit.Entry) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
	return uint64(len(l.all) - 1), nil
}

func (l *entries) Size(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.all)), nil
}

func (l *entries) Find(_ context.Context, from uint64, id string) (uint64, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := from; i < uint64(len(l.all)); i++ {
		if l.all[i].ID == id {
			return i, true, nil
		}
	}
	return 0, false, nil
}

// stores are where a registry can be kept.
var stores = []struct {
	name string
	open func(t testing.TB) store.Store
}{
	{"memory", func(testing.TB) store.Store { return memory.New() }},
	{"files", func(t testing.TB) store.Store {
		f, err := files.Open(t.TempDir(), files.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s := f.Store()
		t.Cleanup(func() { s.Records.Close() })
		return s
	}},
}
