package client

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/release"
)

const digest = oci.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

type keys struct{ authn.Authenticator }

func (k keys) Resolve(authn.Resource) (authn.Authenticator, error) { return k.Authenticator, nil }

func serve(t *testing.T, a authn.Authenticator, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" { // whether it has TLS
			return
		}
		h(w, r)
	}))
	t.Cleanup(s.Close)
	c, err := New(strings.TrimPrefix(s.URL, "http://"), Options{Keychain: keys{a}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCredentials(t *testing.T) {
	for _, x := range []struct {
		a    authn.Authenticator
		want string
	}{
		{authn.Anonymous, ""},
		{&authn.Basic{Username: "ann", Password: "p:w"}, "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:p:w"))},
		{&authn.Bearer{Token: "t"}, "Bearer t"},
		{authn.FromConfig(authn.AuthConfig{Auth: "YTpi"}), "Basic YTpi"},
	} {
		got := "?"
		c := serve(t, x.a, func(w http.ResponseWriter, r *http.Request) {
			got = r.Header.Get("Authorization")
			_ = json.NewEncoder(w).Encode(release.Server{Host: "here.example"})
		})
		if s, err := c.Server(t.Context()); err != nil || s.Host != "here.example" || got != x.want {
			t.Errorf("%q, want %q; %v", got, x.want, err)
		}
	}
}

// TestRepeat: what could not be decided is asked again, with the same id; a
// refusal is not.
func TestRepeat(t *testing.T) {
	var ids []string
	answers := []int{503, 503, 200}
	c := serve(t, authn.Anonymous, func(w http.ResponseWriter, r *http.Request) {
		var q release.Request
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		ids = append(ids, q.ID)
		w.WriteHeader(answers[len(ids)-1])
		if answers[len(ids)-1] != 200 {
			_ = json.NewEncoder(w).Encode(release.Problem{Code: registry.Unavailable, Message: "not now"})
			return
		}
		_ = json.NewEncoder(w).Encode(release.Answer{ID: q.ID, Digest: q.Digest})
	})
	a, err := c.Release(t.Context(), release.Request{ID: "request-1", Repository: "app", Digest: digest, Version: "1.0.0"})
	if err != nil || a.Digest != digest || len(ids) != 3 || ids[0] != ids[2] {
		t.Errorf("%+v, %v, %q", a, err, ids)
	}
	ids, answers = nil, []int{409, 200}
	_, err = c.Release(t.Context(), release.Request{ID: "request-2"})
	if p, ok := errors.AsType[*release.Problem](err); !ok || p.Status != 409 || !p.Refuses() || len(ids) != 1 {
		t.Errorf("%v, %q", err, ids)
	}
}

// TestOthers: what is no answer of this interface, and an answer that leads
// elsewhere.
func TestOthers(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"not found": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"a page":    func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		},
		"its errors": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(404)
			_, _ = w.Write([]byte(`{"errors":[{"code":"NAME_UNKNOWN","message":"x"}]}`))
		},
	} {
		c := serve(t, authn.Anonymous, h)
		if _, err := c.Versions(t.Context(), "app"); !errors.Is(err, ErrNoService) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := serve(t, authn.Anonymous, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502) })
	if _, err := c.Versions(t.Context(), "app"); err == nil || errors.Is(err, ErrNoService) {
		t.Errorf("a proxy without its server: %v", err)
	}
	for _, host := range []string{"127.0.0.1:1", "[::1]:1", "registry.example"} {
		if _, err := New(host, Options{}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, host := range []string{"", "a b", "registry.example/x", "user@registry.example", "http://registry.example"} {
		if _, err := New(host, Options{}); err == nil {
			t.Errorf("%q is taken", host)
		}
	}
}
