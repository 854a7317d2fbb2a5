package server

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

// BenchmarkManifest is what a manifest by its tag costs without the network: with
// the log of requests at its default level, and without.
func BenchmarkManifest(b *testing.B) {
	for _, level := range []string{"info", "warn"} {
		b.Run("log="+level, func(b *testing.B) {
			c := Default()
			c.Data, c.Listen, c.Log.Level, c.Access.AnonymousDevelopment = b.TempDir(), "127.0.0.1:0", level, true
			opt := testOptions()
			opt.Stderr = io.Discard
			s, err := Open(b.Context(), c, opt)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			h := s.Handler()
			m, _ := artifact("hello")
			send := func(method, path string, body []byte) int {
				r := httptest.NewRequest(method, path, bytes.NewReader(body))
				r.Header.Set("Content-Type", manifestType)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Code
			}
			for _, blob := range []string{"hello", "{}"} {
				send("POST", "/v2/a/dev/blobs/uploads/?digest="+digest.FromString(blob).String(), []byte(blob))
			}
			if code := send("PUT", "/v2/a/dev/manifests/main", m); code != http.StatusCreated {
				b.Fatal(code)
			}
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					w := httptest.NewRecorder()
					h.ServeHTTP(w, httptest.NewRequest("GET", "/v2/a/dev/manifests/main", nil))
					if w.Code != http.StatusOK {
						b.Error(w.Code)
					}
				}
			})
		})
	}
}
