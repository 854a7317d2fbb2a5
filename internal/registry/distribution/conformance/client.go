// Package conformance holds a registry against the OCI distribution specification
// 1.1, from outside: it knows an address and nothing else, so that any registry
// can be held against it.
//
// It is for tests only. Each test is named after the end-point of the
// specification (its table "Endpoints") and the clause that it asks for. What the
// specification leaves open is not tested here.
package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
)

// Target is the registry that is tested.
type Target struct {
	URL    string       // without a slash at its end
	Client *http.Client // nil: http.DefaultClient

	// Repository makes the name of a repository that nothing was pushed to yet and
	// where everything may be written and deleted. nil: the word itself.
	Repository func(word string) string

	// Lenient asks for no more than the specification: not which code an error has,
	// and not that its body is marked as JSON.
	Lenient bool

	// Deviations are tests that the registry is known not to pass, with the reason.
	Deviations map[string]string
}

// Reply is an answer, read to its end.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends a request to a path (or to the address of a Location header) and reads
// the answer. header is a list of names and values. It follows no redirect.
func (x Target) Do(t testing.TB, method, target string, body io.Reader, header ...string) Reply {
	t.Helper()
	r, err := x.Try(method, target, body, header...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return r
}

// Try is Do that returns the error.
func (x Target) Try(method, target string, body io.Reader, header ...string) (Reply, error) {
	base, err := url.Parse(x.URL)
	if err != nil {
		return Reply{}, err
	}
	u, err := base.Parse(target)
	if err != nil {
		return Reply{}, err
	}
	req, err := http.NewRequest(method, u.String(), body)
	if err != nil {
		return Reply{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	client := x.Client
	if client == nil {
		client = http.DefaultClient
	}
	c := *client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Do(req)
	if err != nil {
		return Reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return Reply{}, fmt.Errorf("reading the answer (%d): %w", resp.StatusCode, err)
	}
	return Reply{Status: resp.StatusCode, Header: resp.Header, Body: b}, nil
}

// ErrorCode is the first code of the specification's JSON of errors, and "" when
// the body is something else.
func (r Reply) ErrorCode() string {
	var b struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(r.Body, &b) != nil || len(b.Errors) == 0 {
		return ""
	}
	return b.Errors[0].Code
}

// Reason is the first error's detail.reason, which is not the specification's.
func (r Reply) Reason() string {
	var b struct {
		Errors []struct {
			Detail struct {
				Reason string `json:"reason"`
			} `json:"detail"`
		} `json:"errors"`
	}
	if json.Unmarshal(r.Body, &b) != nil || len(b.Errors) == 0 {
		return ""
	}
	return b.Errors[0].Detail.Reason
}

// suite is one test: a target and a repository of its own.
type suite struct {
	*testing.T
	x    Target
	repo string
}

func (s suite) url(format string, a ...any) string {
	return "/v2/" + s.repo + "/" + fmt.Sprintf(format, a...)
}

// want sends a request and expects a status.
func (s suite) want(status int, method, target string, body []byte, header ...string) Reply {
	s.Helper()
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	got := s.x.Do(s.T, method, target, r, header...)
	if got.Status != status {
		s.Fatalf("%s %s: %d %s, want %d", method, target, got.Status, clip(got.Body), status)
	}
	return got
}

// refused sends a request and expects an error with a body of the specification.
func (s suite) refused(status int, code, method, target string, body []byte, header ...string) Reply {
	s.Helper()
	got := s.want(status, method, target, body, header...)
	if s.x.Lenient {
		return got
	}
	if c := got.ErrorCode(); c != code {
		s.Errorf("%s %s: code %q in %s, want %s", method, target, c, clip(got.Body), code)
	}
	// "If the response body is in JSON format, it MUST have the following format"
	if ct := got.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/json") {
		s.Errorf("%s %s: Content-Type %q", method, target, ct)
	}
	return got
}

func (s suite) header(r Reply, name, want string) {
	s.Helper()
	if got := r.Header.Get(name); got != want {
		s.Errorf("%s: %q, want %q", name, got, want)
	}
}

// location is the Location header; it "MUST" be there.
func (s suite) location(r Reply) string {
	s.Helper()
	l := r.Header.Get("Location")
	if l == "" {
		s.Fatal("no Location header")
	}
	return l
}

// withQuery adds a parameter to the address of a Location header, which clients
// must keep as it is.
func withQuery(location, name, value string) string {
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	return location + sep + name + "=" + url.QueryEscape(value)
}

// begin is end-4a.
func (s suite) begin() string {
	s.Helper()
	return s.location(s.want(http.StatusAccepted, "POST", s.url("blobs/uploads/"), nil))
}

// blob pushes content by POST and PUT.
func (s suite) blob(content []byte) ocispec.Descriptor {
	s.Helper()
	d := digest.FromBytes(content)
	s.want(http.StatusCreated, "PUT", withQuery(s.begin(), "digest", d.String()), content, "Content-Type", "application/octet-stream")
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(content))}
}

// Manifest makes an artifact's manifest with one blob, which has to be pushed;
// change may change it.
func Manifest(config ocispec.Descriptor, layers []ocispec.Descriptor, change func(*ocispec.Manifest)) []byte {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers}
	m.SchemaVersion = 2
	if change != nil {
		change(&m)
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and numbers can always be written
	}
	return b
}

// Empty is the content of the specification's empty descriptor.
var Empty = []byte(`{}`)

// artifact pushes a manifest whose only content is the empty descriptor's.
func (s suite) artifact(ref string, change func(*ocispec.Manifest)) ([]byte, oci.Digest) {
	s.Helper()
	config := s.blob(Empty)
	config.MediaType = ocispec.MediaTypeEmptyJSON
	b := Manifest(config, []ocispec.Descriptor{config}, func(m *ocispec.Manifest) {
		m.ArtifactType = "application/vnd.example.thing"
		if change != nil {
			change(m)
		}
	})
	d := digest.FromBytes(b)
	if ref == "" {
		ref = d.String()
	}
	s.want(http.StatusCreated, "PUT", s.url("manifests/%s", ref), b, "Content-Type", ocispec.MediaTypeImageManifest)
	return b, d
}

func clip(b []byte) string {
	if len(b) > 300 {
		return fmt.Sprintf("%q…", b[:300])
	}
	return fmt.Sprintf("%q", b)
}
