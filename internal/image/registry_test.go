package image

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRegistryScheme(t *testing.T) {
	var seen []string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.URL.Path+r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusUnauthorized)
	})
	plain, secure := httptest.NewServer(h), httptest.NewTLSServer(h)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	_, plainPort, _ := strings.Cut(plain.Listener.Addr().String(), ":")
	_, securePort, _ := strings.Cut(secure.Listener.Addr().String(), ":")
	for host, want := range map[string]string{
		"127.0.0.1:" + plainPort:  "http",
		"localhost:" + plainPort:  "http",
		"127.0.0.1:" + securePort: "https",
		"127.0.0.1:1":             "http",
		"registry.example":        "https", // and is not asked
		"10.0.0.1:5000":           "https",
		"127.evil.example":        "https",
	} {
		if got := RegistryScheme(t.Context(), host, nil); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
	if len(seen) != 2 || seen[0] != "/v2/" || seen[1] != "/v2/" {
		t.Errorf("the servers saw %q, want two questions without credentials", seen)
	}
}
