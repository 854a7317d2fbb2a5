package referrers

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
)

// TestPages: a list in parts is read whole, or not at all.
func TestPages(t *testing.T) {
	subject := digest.FromString("image")
	for _, c := range []struct {
		name  string
		link  func(page int) string // Link header of a page
		want  int
		error string
	}{
		{"one page", func(int) string { return "" }, 1, ""},
		{"three pages", func(n int) string {
			if n == 3 {
				return ""
			}
			return fmt.Sprintf(`<?n=%d>; rel="next"`, n+1)
		}, 3, ""},
		{"another relation", func(int) string { return `</elsewhere>; rel="first"` }, 1, ""},
		{"without an end", func(n int) string { return fmt.Sprintf(`<?n=%d>; rel=next`, n+1) }, 0, "more than 100 pages"},
		{"another host", func(int) string { return `<http://127.0.0.1:1/v2/x>; rel="next"` }, 0, "leads elsewhere"},
		{"missing page", func(int) string { return `</v2/gone>; rel="next"` }, 0, "404"},
		{"no JSON", func(int) string { return `</v2/shop/app/referrers/text>; rel="next"` }, 0, "page 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/v2/":
				case strings.HasSuffix(r.URL.Path, "/referrers/text"):
					fmt.Fprint(w, "<html>")
				case strings.HasSuffix(r.URL.Path, "/referrers/"+subject.String()):
					page := 1
					fmt.Sscanf(r.URL.Query().Get("n"), "%d", &page)
					if l := c.link(page); l != "" {
						w.Header().Set("Link", l)
					}
					w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
					fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":1}]}`, ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, digest.FromString(fmt.Sprint(page)))
				default:
					http.NotFound(w, r)
				}
			}))
			defer server.Close()
			p, err := InRegistry(oci.Ref{Kind: oci.RegistryRef, Host: strings.TrimPrefix(server.URL, "http://"), Name: "shop/app"}, RegistryOptions{})
			if err != nil {
				t.Fatal(err)
			}
			list, err := p.List(t.Context(), subject)
			if len(list) != c.want || (err == nil) != (c.error == "") || err != nil && !strings.Contains(err.Error(), c.error) {
				t.Errorf("%d referrers, %v", len(list), err)
			}
		})
	}
}
