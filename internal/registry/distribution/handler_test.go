package distribution_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/distribution"
	"twinhull.dev/twinhull/internal/registry/distribution/conformance"
	"twinhull.dev/twinhull/internal/registry/store"
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

func TestConformance(t *testing.T) {
	for _, s := range []struct {
		name string
		open func(t *testing.T) store.Store
	}{
		{"memory", func(t *testing.T) store.Store { return memory.New() }},
	} {
		t.Run(s.name, func(t *testing.T) {
			srv := serve(t, distribution.Options{Registry: newRegistry(t, s.open(t))})
			conformance.Run(t, conformance.Target{URL: srv.URL, Client: srv.Client(), Repository: development})
		})
	}
}
