package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"

	"twinhull.dev/twinhull/internal/audit"
	twinhull "twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/distribution"
	"twinhull.dev/twinhull/internal/registry/distribution/conformance"
	"twinhull.dev/twinhull/internal/registry/store/memory"
)

// ours serves our registry from memory until the test ends. Everybody may do what
// the catalogs allow; the repositories of the test are development catalogs, which
// allow most.
func ours(t testing.TB) *httptest.Server {
	t.Helper()
	r, err := twinhull.New(t.Context(), memory.New(), twinhull.Options{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(distribution.New(distribution.Options{
		Registry: r,
		Judge: func(context.Context, *http.Request, distribution.Request) (audit.Actor, error) {
			return audit.Actor{Name: "test", Method: "password"}, nil
		},
		Visible: func(context.Context, *http.Request, string) bool { return true },
	}))
	t.Cleanup(srv.Close)
	return srv
}

// TestDifferential sends the same generated requests to our registry and to
// olareg, and compares the answers. What may differ is in the tables below.
func TestDifferential(t *testing.T) {
	o, x := ours(t), oracle(t)
	us := conformance.Target{URL: o.URL, Client: o.Client()}
	them := conformance.Target{URL: x.URL, Client: x.Client()}
	var run, requests atomic.Int64
	used := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := &world{T: t, us: us, them: them, prefix: fmt.Sprintf("r%d", run.Add(1)), used: used, deleted: map[string]bool{}, indexed: map[string]bool{}}
		for range rapid.IntRange(5, 60).Draw(t, "requests") {
			w.step()
			requests.Add(1)
		}
		w.compareAll()
	})
	t.Logf("%d sequences, %d steps", run.Load(), requests.Load())
	for _, name := range slices.Sorted(maps.Keys(used)) {
		t.Logf("allowed %5d times: %s", used[name], name)
	}
}

// exchange is one request with both answers.
type exchange struct {
	method, path string
	kind         string // what the step is
	ours, theirs conformance.Reply
	w            *world
}

// differences are the answers that may differ, each with its reason. The first
// that matches excuses the whole exchange.
var differences = []struct {
	name, why string
	ok        func(e *exchange) bool
}{
	{"unknown upload: 404, 400", "the table of end-points (end-5, end-6, end-13) has 404",
		func(e *exchange) bool {
			return e.ours.Status == 404 && e.theirs.Status == 400 && e.ours.ErrorCode() == "BLOB_UPLOAD_UNKNOWN" && (e.method == "HEAD" || e.theirs.ErrorCode() == "BLOB_UPLOAD_UNKNOWN")
		}},
	{"wrong digest: DIGEST_INVALID, BLOB_UPLOAD_INVALID", "code-4 DIGEST_INVALID is \"provided digest did not match uploaded content\"",
		func(e *exchange) bool {
			return e.ours.Status == 400 && e.theirs.Status == 400 && e.ours.ErrorCode() == "DIGEST_INVALID" && e.theirs.ErrorCode() == "BLOB_UPLOAD_INVALID"
		}},
	{"out of order: RANGE_INVALID, SIZE_INVALID", "the table of codes has none for 416; ours is Docker's",
		func(e *exchange) bool {
			return e.ours.Status == 416 && e.theirs.Status == 416 && e.ours.ErrorCode() == "RANGE_INVALID" && e.theirs.ErrorCode() == "SIZE_INVALID" && e.diff() == "error code"
		}},
	{"no digest at the end of an upload", "olareg takes the digest of a missing parameter for one that does not match",
		func(e *exchange) bool {
			return e.kind == "finish" && e.ours.Status == 400 && e.theirs.Status == 400 && e.ours.ErrorCode() == "DIGEST_INVALID"
		}},
	{"known blob pushed with other bytes: 400, 201", "olareg does not read what it has already; we verify all that is sent",
		func(e *exchange) bool {
			return e.kind == "push-post" && e.ours.Status == 400 && e.theirs.Status == 201 && e.ours.ErrorCode() == "DIGEST_INVALID"
		}},
	{"tags of an unknown repository: 404, 200", "end-8 has 404, and NAME_UNKNOWN is \"repository name not known to registry\"; olareg lists nothing",
		func(e *exchange) bool {
			return e.kind == "tags" && e.ours.Status == 404 && e.ours.ErrorCode() == "NAME_UNKNOWN" && e.theirs.Status == 200 && bytes.Contains(e.theirs.Body, []byte(`"tags":[]`))
		}},
	{"page number that is none: 400, 200", "olareg lists everything when it cannot read n",
		func(e *exchange) bool {
			return e.kind == "tags" && e.ours.Status == 400 && e.ours.ErrorCode() == "PAGINATION_NUMBER_INVALID" && e.theirs.Status == 200
		}},
	{"referrers of an invalid digest: 400, 200", "\"a <digest> with an invalid syntax, a 400 Bad Request MUST be returned\"",
		func(e *exchange) bool {
			return e.kind == "referrers" && e.ours.Status == 400 && e.ours.ErrorCode() == "DIGEST_INVALID" && e.theirs.Status == 200
		}},
	{"bad reference to a manifest: 400, 404", "a delete by a reference that nothing can have is a bad request (end-9: 404, 400); both refuse",
		func(e *exchange) bool {
			return e.method == "DELETE" && e.ours.Status == 400 && e.theirs.Status == 404
		}},
	{"bad tag: TAG_INVALID, DIGEST_INVALID", "olareg calls every reference that is no tag a digest",
		func(e *exchange) bool {
			return e.method == "PUT" && e.ours.Status == 400 && e.theirs.Status == 400 && e.ours.ErrorCode() == "TAG_INVALID" && (e.theirs.ErrorCode() == "DIGEST_INVALID" || e.theirs.ErrorCode() == "UNSUPPORTED")
		}},
	{"bad repository name: 400, 404", "code-6 NAME_INVALID; olareg answers 404 without a body",
		func(e *exchange) bool {
			return e.kind == "name" && e.ours.Status/100 == 4 && e.theirs.Status == 404
		}},
	{"path with an encoded slash or dot segments: refused, cleaned", "olareg cleans the path and answers what remains; we refuse a path that two readers could read as two",
		func(e *exchange) bool { return e.kind == "dirty path" && e.ours.Status/100 == 4 }},
	{"HEAD with a Range: 200, 206 or 416", "\"A server MUST ignore a Range header field received with a request method … for which range handling is not defined\" (RFC 9110, 14.2); it is defined for GET only",
		func(e *exchange) bool {
			return e.kind == "head range" && e.ours.Status == 200 && (e.theirs.Status == 206 || e.theirs.Status == 416)
		}},
	{"Range of an unknown unit: 200, 416", "\"An origin server MUST ignore a Range header field that contains a range unit it does not understand\" (RFC 9110, 14.2)",
		func(e *exchange) bool { return e.kind == "unit" && e.ours.Status == 200 && e.theirs.Status == 416 }},
	{"manifest as a blob: 404, 200", "olareg keeps manifests among the blobs; the specification has two end-points, and a blob that nobody pushed is BLOB_UNKNOWN",
		func(e *exchange) bool {
			return strings.HasPrefix(e.kind, "manifest as blob") && e.ours.Status == 404 && (e.theirs.Status == 200 || e.theirs.Status == 202)
		}},
	{"wrong method below uploads", "olareg looks for an upload or digest of that name before the method",
		func(e *exchange) bool {
			return e.kind == "method" && e.ours.Status == 405 && (e.theirs.Status == 405 || e.theirs.Status == 400 || e.theirs.Status == 404)
		}},
}

// oursOnly are refusals of ours after which the same request is not made to
// olareg, because it would do it, and all that follows would differ.
var oursOnly = []struct {
	name, why string
	ok        func(r conformance.Reply) bool
}{
	{"delete of what is still referred to", "olareg deletes a blob or manifest that others need; end-9 and end-10 allow 405, and an image that was pushed stays whole",
		func(r conformance.Reply) bool { return r.Status == 405 && r.Reason() == "still-referred-to" }},
}

// world is one sequence: two registries that should be in the same state.
type world struct {
	*rapid.T
	us, them conformance.Target
	prefix   string
	used     map[string]int
	uploads  []*upload
	deleted  map[string]bool // "repository digest" of manifests that were deleted once

	// indexed are repositories with an index of something. In them nothing is
	// deleted: olareg then loses more. M pushed as tag a, N by digest, an index of N
	// as tag b, and tag a deleted: it has forgotten b too.
	indexed map[string]bool

	pushed []string // "repository digest" of all manifests, for comparing at the end
}

// upload is one upload at both sides.
type upload struct {
	repo         string
	ours, theirs string // the Location that each last gave
	content      []byte
	algorithm    digest.Algorithm
	gone         bool
}

var (
	contents = [][]byte{{}, []byte("a"), []byte("0123456789"), bytes.Repeat([]byte("blob"), 5000), conformance.Empty, []byte(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`)}
	tags     = []string{"latest", "main", "v1", "B", "a_very-long.tag"}
)

func (w *world) repo() string {
	return w.prefix + rapid.SampledFrom([]string{"/app/dev", "/blobs/dev/uploads", "/dev"}).Draw(w.T, "repository")
}

func (w *world) content() []byte {
	return contents[rapid.IntRange(0, len(contents)-1).Draw(w.T, "content")]
}

func (w *world) algorithm() digest.Algorithm {
	return rapid.SampledFrom([]digest.Algorithm{digest.SHA256, digest.SHA256, digest.SHA256, digest.SHA512}).Draw(w.T, "algorithm")
}

// both sends one request to both and compares. paths are two when each side named
// its own.
func (w *world) both(kind, method, oursPath, theirsPath string, body []byte, header ...string) *exchange {
	w.Helper()
	send := func(x conformance.Target, path string) conformance.Reply {
		var r io.Reader
		if body != nil {
			r = bytes.NewReader(body)
		}
		reply, err := x.Try(method, path, r, header...)
		if err != nil {
			w.Fatalf("%s %s %s: %v", kind, method, path, err)
		}
		return reply
	}
	e := &exchange{method: method, path: oursPath, kind: kind, w: w}
	e.ours = send(w.us, oursPath)
	for _, o := range oursOnly {
		if o.ok(e.ours) {
			w.used[o.name]++
			e.theirs = e.ours
			return e
		}
	}
	e.theirs = send(w.them, theirsPath)
	w.Logf("%s %s %v: %d, %d", method, oursPath, header, e.ours.Status, e.theirs.Status)
	diff := e.diff()
	if diff == "" {
		return e
	}
	for _, d := range differences {
		if d.ok(e) {
			w.used[d.name]++
			return e
		}
	}
	w.Fatalf("%s: %s %s %v: %s\nours   %d %v %s\ntheirs %d %v %s", kind, method, oursPath, header, diff,
		e.ours.Status, e.ours.Header, clip(e.ours.Body), e.theirs.Status, e.theirs.Header, clip(e.theirs.Body))
	return nil
}

func (w *world) same(kind, method, path string, body []byte, header ...string) *exchange {
	w.Helper()
	return w.both(kind, method, path, path, body, header...)
}

func clip(b []byte) string {
	if len(b) > 400 {
		b = b[:400]
	}
	return fmt.Sprintf("%q", b)
}

// diff says in what the two answers differ, "" for nothing.
func (e *exchange) diff() string {
	a, b := e.ours, e.theirs
	if a.Status != b.Status {
		return "status"
	}
	if a.Status >= 400 {
		// The words of an error, its details and the media type of its JSON are each
		// registry's own (olareg sends none, and text/plain is guessed).
		if e.method != "HEAD" && b.ErrorCode() != "" && a.ErrorCode() != b.ErrorCode() {
			return "error code"
		}
		// How far an upload is, after a chunk out of order: the specification says it
		// for GET. One that has nothing has 0-0 with us, 0--1 with olareg.
		if a.Status == 416 && a.Header.Get("Range") != "" && rangeOf(a) != rangeOf(b) {
			return "Range"
		}
		return ""
	}
	for _, name := range []string{"Docker-Content-Digest", "Content-Range", "OCI-Subject", "Docker-Distribution-API-Version"} {
		if !slices.Equal(a.Header.Values(name), b.Header.Values(name)) {
			return name
		}
	}
	// Tags of the query, which it says are understood; olareg says it of the path's too.
	if strings.Contains(e.path, "tag=") && !slices.Equal(a.Header.Values("OCI-Tag"), b.Header.Values("OCI-Tag")) {
		return "OCI-Tag"
	}
	if a.Status == 200 || a.Status == 206 {
		if t := a.Header.Get("Content-Type"); t != b.Header.Get("Content-Type") && !strings.HasPrefix(t, "multipart/byteranges") {
			return "Content-Type"
		}
	}
	if rangeOf(a) != rangeOf(b) {
		return "Range"
	}
	if d := location(a.Header.Get("Location"), b.Header.Get("Location")); d != "" {
		return d
	}
	switch e.kind {
	case "tags":
		return listDiff(a, b)
	case "referrers":
		return referrersDiff(a, b)
	case "manifest", "blob", "head range", "unit":
		if a.Header.Get("Content-Length") != b.Header.Get("Content-Length") && !strings.HasPrefix(a.Header.Get("Content-Type"), "multipart/") {
			return "Content-Length"
		}
		if !bytes.Equal(boundary.ReplaceAll(a.Body, nil), boundary.ReplaceAll(b.Body, nil)) {
			return "body"
		}
	}
	return ""
}

// boundary is what separates the parts of an answer with several ranges; it is
// random.
var boundary = regexp.MustCompile(`--[0-9a-f]{60}(--)?`)

// rangeOf is the Range header; an empty upload's has two spellings, and none with
// the answer that begins one is a third.
func rangeOf(r conformance.Reply) string {
	if s := r.Header.Get("Range"); s != "0--1" && s != "0-0" {
		return s
	}
	return ""
}

var uploadPath = regexp.MustCompile(`/blobs/uploads/[^/?]+(\?.*)?$`)

// location compares addresses: equal, but for the name of an upload.
func location(a, b string) string {
	if uploadPath.ReplaceAllString(a, "/UPLOAD") != uploadPath.ReplaceAllString(b, "/UPLOAD") {
		return "Location"
	}
	return ""
}

func listDiff(a, b conformance.Reply) string {
	var x, y struct {
		Name string
		Tags []string
	}
	if json.Unmarshal(a.Body, &x) != nil || json.Unmarshal(b.Body, &y) != nil || x.Name != y.Name || !slices.Equal(x.Tags, y.Tags) {
		return "list"
	}
	if next(a) != next(b) {
		return "Link"
	}
	return ""
}

var link = regexp.MustCompile(`^<([^>]+)>; *rel="?next"?$`)

// next is after what the next page begins.
func next(r conformance.Reply) string {
	m := link.FindStringSubmatch(r.Header.Get("Link"))
	if m == nil {
		return ""
	}
	u, err := url.Parse(m[1])
	if err != nil {
		return "unreadable"
	}
	return u.Query().Get("last") + " " + u.Query().Get("n")
}

func referrersDiff(a, b conformance.Reply) string {
	read := func(r conformance.Reply) (ocispec.Index, bool) {
		var i ocispec.Index
		err := json.Unmarshal(r.Body, &i)
		slices.SortFunc(i.Manifests, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
		return i, err == nil
	}
	x, ok1 := read(a)
	y, ok2 := read(b)
	if !ok1 || !ok2 || x.SchemaVersion != y.SchemaVersion || x.MediaType != y.MediaType {
		return "index"
	}
	if j, k := marshal(x.Manifests), marshal(y.Manifests); !bytes.Equal(j, k) {
		return fmt.Sprintf("referrers: %s and %s", j, k)
	}
	// Of an empty list olareg does not say that it was filtered.
	if f := b.Header.Get("OCI-Filters-Applied"); len(x.Manifests) > 0 && f != a.Header.Get("OCI-Filters-Applied") {
		return "OCI-Filters-Applied"
	}
	return ""
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// step makes one request, or the few that belong together.
func (w *world) step() {
	steps := []struct {
		name   string
		weight int
		do     func()
	}{
		{"push-put", 10, w.pushPut}, {"push-post", 6, w.pushPost},
		{"begin", 5, w.begin}, {"patch", 10, w.patch}, {"finish", 5, w.finish}, {"status", 3, w.status}, {"cancel", 1, w.cancel},
		{"mount", 5, w.mount},
		{"put", 14, w.putManifest}, {"get", 6, w.getManifest}, {"blob", 6, w.getBlob},
		{"tags", 4, w.listTags}, {"referrers", 5, w.referrers},
		{"delete", 5, w.delete}, {"odd", 4, w.odd},
	}
	var names []string
	for _, s := range steps {
		for range s.weight {
			names = append(names, s.name)
		}
	}
	name := rapid.SampledFrom(names).Draw(w.T, "step")
	for _, s := range steps {
		if s.name == name {
			s.do()
		}
	}
}

func query(location, name, value string) string {
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	return location + sep + name + "=" + url.QueryEscape(value)
}

func (w *world) newUpload(repo string, a digest.Algorithm) *upload {
	path := "/v2/" + repo + "/blobs/uploads/"
	if a != digest.SHA256 {
		path += "?digest-algorithm=" + a.String()
	}
	e := w.same("begin", "POST", path, nil)
	return &upload{repo: repo, ours: e.ours.Header.Get("Location"), theirs: e.theirs.Header.Get("Location"), algorithm: a}
}

func (w *world) pushPut() {
	content, a := w.content(), w.algorithm()
	u := w.newUpload(w.repo(), a)
	d := a.FromBytes(content)
	w.both("push-put", "PUT", query(u.ours, "digest", d.String()), query(u.theirs, "digest", d.String()), content, "Content-Type", "application/octet-stream")
}

func (w *world) pushPost() {
	content := w.content()
	d := w.algorithm().FromBytes(content)
	if rapid.IntRange(0, 5).Draw(w.T, "wrong") == 0 {
		content = append(slices.Clone(content), '!')
	}
	w.same("push-post", "POST", "/v2/"+w.repo()+"/blobs/uploads/?digest="+url.QueryEscape(d.String()), content)
}

func (w *world) begin() { w.uploads = append(w.uploads, w.newUpload(w.repo(), w.algorithm())) }

func (w *world) anUpload() *upload {
	if len(w.uploads) == 0 {
		w.begin()
	}
	return w.uploads[rapid.IntRange(0, len(w.uploads)-1).Draw(w.T, "upload")]
}

// where makes a Content-Range of one of several kinds.
func (w *world) where(u *upload, part []byte) (header []string) {
	size := len(u.content)
	switch k := rapid.SampledFrom([]string{"none", "right", "right", "gap", "again", "malformed"}).Draw(w.T, "range"); {
	case k == "right" && len(part) > 0:
		return []string{"Content-Range", fmt.Sprintf("%d-%d", size, size+len(part)-1)}
	case k == "gap" && len(part) > 0:
		return []string{"Content-Range", fmt.Sprintf("%d-%d", size+1, size+len(part))}
	case k == "again" && size > 0 && len(part) > 0:
		return []string{"Content-Range", fmt.Sprintf("%d-%d", size-1, size+len(part)-2)}
	case k == "malformed" && !u.gone:
		return []string{"Content-Range", rapid.SampledFrom([]string{"x", "1", "-", "a-b"}).Draw(w.T, "malformed")}
	}
	return nil
}

// moved takes over what an answer says about an upload.
func (u *upload) moved(e *exchange) {
	if l := e.ours.Header.Get("Location"); l != "" && e.ours.Status < 300 {
		u.ours = l
	}
	if l := e.theirs.Header.Get("Location"); l != "" && e.theirs.Status < 300 {
		u.theirs = l
	}
}

func (w *world) patch() {
	u, part := w.anUpload(), w.content()
	e := w.both("patch", "PATCH", u.ours, u.theirs, part, w.where(u, part)...)
	if e.ours.Status == 202 {
		u.content = append(u.content, part...)
		u.moved(e)
	}
}

func (w *world) finish() {
	u := w.anUpload()
	var last []byte
	var header []string
	if rapid.Bool().Draw(w.T, "with last") {
		last = w.content()
		header = w.where(u, last)
	}
	d := u.algorithm.FromBytes(append(slices.Clone(u.content), last...)).String()
	switch rapid.IntRange(0, 7).Draw(w.T, "digest") {
	case 0:
		d = u.algorithm.FromString("something else").String()
	case 1:
		if len(header) == 0 { // two faults at once: which is told first is not specified
			d = rapid.SampledFrom([]string{"", "sha256:12", "md5:d41d8cd98f00b204e9800998ecf8427e"}).Draw(w.T, "bad digest")
		}
	}
	if u.gone && !strings.HasPrefix(d, "sha") {
		return
	}
	e := w.both("finish", "PUT", query(u.ours, "digest", d), query(u.theirs, "digest", d), last, header...)
	switch {
	case u.gone:
	case e.ours.Status == 201:
		u.gone = true
	case e.ours.Status == 400:
		// Of an upload that had the wrong digest olareg keeps nothing, we keep it
		// until it is given up; and bytes that came with a digest that nobody can read
		// are taken by neither.
		w.us.Try("DELETE", u.ours, nil)
		w.them.Try("DELETE", u.theirs, nil)
		u.gone = true
	}
}

func (w *world) status() {
	u := w.anUpload()
	w.both("status", "GET", u.ours, u.theirs, nil)
}

func (w *world) cancel() {
	u := w.anUpload()
	w.both("cancel", "DELETE", u.ours, u.theirs, nil)
	u.gone = true
}

func (w *world) mount() {
	to, from, d := w.repo(), w.repo(), w.algorithm().FromBytes(w.content())
	path := "/v2/" + to + "/blobs/uploads/?mount=" + url.QueryEscape(d.String())
	if rapid.IntRange(0, 4).Draw(w.T, "anonymous") > 0 {
		path += "&from=" + url.QueryEscape(from)
	}
	e := w.same("mount", "POST", path, nil)
	if e.ours.Status == 202 { // an upload, which olareg keeps for this digest
		w.us.Try("DELETE", e.ours.Header.Get("Location"), nil)
		w.them.Try("DELETE", e.theirs.Header.Get("Location"), nil)
	}
}

// descriptor is of a content, whether it was pushed or not.
func descriptor(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// manifest makes one of a few manifests, so that the same come again.
func (w *world) manifest(depth int) (mediaType string, content []byte) {
	var subject *ocispec.Descriptor
	if depth > 0 && rapid.IntRange(0, 2).Draw(w.T, "subject") == 0 {
		t, b := w.manifest(depth - 1)
		d := descriptor(t, b)
		subject = &d
	}
	var annotations map[string]string
	if rapid.IntRange(0, 3).Draw(w.T, "annotated") == 0 {
		annotations = map[string]string{"n": "1"}
	}
	artifact := rapid.SampledFrom([]string{"", "application/vnd.example.a", "application/vnd.example.b+json"}).Draw(w.T, "artifactType")
	if rapid.IntRange(0, 3).Draw(w.T, "index") == 0 {
		i := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}, Subject: subject, Annotations: annotations, ArtifactType: artifact}
		i.SchemaVersion = 2
		if depth > 0 {
			for range rapid.IntRange(0, 2).Draw(w.T, "children") {
				i.Manifests = append(i.Manifests, descriptor(w.manifest(depth-1)))
			}
		}
		return i.MediaType, marshal(i)
	}
	config := descriptor(ocispec.MediaTypeEmptyJSON, conformance.Empty)
	if artifact == "" {
		config = descriptor(ocispec.MediaTypeImageConfig, contents[5])
	}
	layers := []ocispec.Descriptor{}
	for range rapid.IntRange(0, 2).Draw(w.T, "layers") {
		layers = append(layers, descriptor(ocispec.MediaTypeImageLayer, w.content()))
	}
	if rapid.IntRange(0, 9).Draw(w.T, "foreign") == 0 {
		layers = append(layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerNonDistributableGzip, Digest: digest.FromString("elsewhere"), Size: 9, URLs: []string{"https://layers.example/x"}})
	}
	return ocispec.MediaTypeImageManifest, conformance.Manifest(config, layers, func(m *ocispec.Manifest) {
		m.ArtifactType, m.Subject, m.Annotations = artifact, subject, annotations
	})
}

// children are the manifests of an index.
func children(content []byte) (list []digest.Digest) {
	var i ocispec.Index
	if json.Unmarshal(content, &i) == nil {
		for _, d := range i.Manifests {
			list = append(list, d.Digest)
		}
	}
	return list
}

func (w *world) putManifest() {
	repo := w.repo()
	mediaType, content := w.manifest(2)
	for _, c := range children(content) {
		// olareg keeps the bytes of a deleted manifest until a collection, and lets
		// an index refer to them; with us it must be pushed again.
		if w.deleted[repo+" "+c.String()] {
			return
		}
	}
	// Half of the time all that it needs is there.
	if rapid.Bool().Draw(w.T, "complete") {
		w.complete(repo, content)
	}
	k := rapid.IntRange(0, 19).Draw(w.T, "reference")
	if k > 1 { // of two faults at once nobody says which is told first
		switch rapid.IntRange(0, 19).Draw(w.T, "form") {
		case 0:
			content = []byte("{")
		case 1:
			mediaType = "text/plain"
		case 2:
			mediaType += "; charset=utf-8"
		}
	}
	a := w.algorithm()
	d := a.FromBytes(content).String()
	path := "/v2/" + repo + "/manifests/"
	switch {
	case k == 0:
		path += a.FromString("something else").String()
	case k == 1:
		path += rapid.SampledFrom([]string{".bad", "sha256:12", strings.Repeat("x", 129), "md5:d41d8cd98f00b204e9800998ecf8427e"}).Draw(w.T, "bad reference")
	case k < 8:
		path += d
	case k < 10:
		path += d + "?tag=" + rapid.SampledFrom(tags).Draw(w.T, "tag") + "&tag=" + rapid.SampledFrom(tags).Draw(w.T, "tag 2")
	default:
		path += rapid.SampledFrom(tags).Draw(w.T, "tag")
		d = digest.FromBytes(content).String()
	}
	e := w.same("put", "PUT", path, content, "Content-Type", mediaType)
	if e.ours.Status == 201 {
		w.pushed = append(w.pushed, repo+" "+d)
		delete(w.deleted, repo+" "+d)
		if len(children(content)) > 0 {
			w.indexed[repo] = true
		}
	}
}

// complete pushes what a manifest refers to.
func (w *world) complete(repo string, content []byte) {
	for _, c := range contents {
		if d := digest.FromBytes(c); bytes.Contains(content, []byte(d)) {
			w.same("push-post", "POST", "/v2/"+repo+"/blobs/uploads/?digest="+url.QueryEscape(d.String()), c)
		}
	}
}

// aManifest is a reference to one that was pushed, mostly.
func (w *world) aManifest() (repo, ref string) {
	if len(w.pushed) > 0 && rapid.IntRange(0, 2).Draw(w.T, "by digest") == 0 {
		repo, ref, _ = strings.Cut(rapid.SampledFrom(w.pushed).Draw(w.T, "manifest"), " ")
		return repo, ref
	}
	return w.repo(), rapid.SampledFrom(append([]string{"nothing", digest.FromString("nothing").String(), ".bad"}, tags...)).Draw(w.T, "reference")
}

func (w *world) getManifest() {
	repo, ref := w.aManifest()
	method := rapid.SampledFrom([]string{"GET", "HEAD"}).Draw(w.T, "method")
	w.same("manifest", method, "/v2/"+repo+"/manifests/"+ref, nil)
}

func (w *world) getBlob() {
	d := w.algorithm().FromBytes(w.content()).String()
	if rapid.IntRange(0, 9).Draw(w.T, "bad") == 0 {
		d = rapid.SampledFrom([]string{"sha256:12", "x", "sha256:" + strings.Repeat("F", 64)}).Draw(w.T, "bad digest")
	}
	kind, method := "blob", rapid.SampledFrom([]string{"GET", "HEAD"}).Draw(w.T, "method")
	var header []string
	if r := rapid.SampledFrom([]string{"", "", "bytes=0-0", "bytes=2-4", "bytes=5-", "bytes=-3", "bytes=1-2,4-", "bytes=99999999-", "bytes=4-2", "bytes=", "lines=1-2"}).Draw(w.T, "range"); r != "" {
		header = []string{"Range", r}
		switch {
		case method == "HEAD":
			kind = "head range"
		case strings.HasPrefix(r, "lines"):
			kind = "unit"
		}
	}
	w.same(kind, method, "/v2/"+w.repo()+"/blobs/"+d, nil, header...)
}

func (w *world) listTags() {
	q := url.Values{}
	// Not 0: olareg panics. Our own tests have it.
	if n := rapid.SampledFrom([]string{"", "1", "2", "3", "100", "x"}).Draw(w.T, "n"); n != "" {
		q.Set("n", n)
	}
	if l := rapid.SampledFrom([]string{"", "main", "n", "zzz", "A"}).Draw(w.T, "last"); l != "" {
		q.Set("last", l)
	}
	path := "/v2/" + w.repo() + "/tags/list"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	w.same("tags", "GET", path, nil)
}

func (w *world) referrers() {
	repo := w.repo()
	d := digest.FromString("nothing").String()
	if rapid.IntRange(0, 5).Draw(w.T, "known") > 0 {
		d = digest.FromBytes(second(w.manifest(1))).String()
	} else if rapid.Bool().Draw(w.T, "bad") {
		d = "sha256:12"
	}
	path := "/v2/" + repo + "/referrers/" + d
	if t := rapid.SampledFrom([]string{"", "application/vnd.example.a", "application/vnd.example.b+json", ocispec.MediaTypeImageConfig}).Draw(w.T, "artifactType"); t != "" {
		path += "?artifactType=" + url.QueryEscape(t)
	}
	w.same("referrers", "GET", path, nil)
}

func second[A, B any](_ A, b B) B { return b }

func (w *world) delete() {
	switch rapid.SampledFrom([]string{"tag", "tag", "manifest", "blob"}).Draw(w.T, "what") {
	case "tag":
		repo := w.repo()
		if w.indexed[repo] {
			return
		}
		w.same("delete tag", "DELETE", "/v2/"+repo+"/manifests/"+rapid.SampledFrom(append([]string{".bad"}, tags...)).Draw(w.T, "tag"), nil)
	case "manifest":
		repo, ref := w.aManifest()
		if w.indexed[repo] {
			return
		}
		e := w.same("delete manifest", "DELETE", "/v2/"+repo+"/manifests/"+ref, nil)
		if e.ours.Status == 202 {
			w.deleted[repo+" "+ref] = true
		}
	case "blob":
		w.same("delete blob", "DELETE", "/v2/"+w.repo()+"/blobs/"+w.algorithm().FromBytes(w.content()).String(), nil)
	}
}

// odd is what no client should send.
func (w *world) odd() {
	repo, d := w.repo(), digest.FromString("a").String()
	type odd struct{ kind, method, path string }
	o := rapid.SampledFrom([]odd{
		{"path", "GET", "/v2/x"}, {"path", "GET", "/v2/" + repo + "/nothing/x"}, {"base", "GET", "/v2/"}, {"base", "HEAD", "/v2/"},
		{"method", "POST", "/v2/" + repo + "/manifests/x"}, {"method", "PATCH", "/v2/" + repo + "/blobs/" + d}, {"method", "PUT", "/v2/" + repo + "/blobs/" + d},
		{"method", "DELETE", "/v2/" + repo + "/tags/list"}, {"method", "PUT", "/v2/" + repo + "/referrers/" + d}, {"method", "POST", "/v2/" + repo + "/blobs/uploads/x"},
		{"name", "GET", "/v2/UPPER/dev/manifests/latest"}, {"name", "GET", "/v2/a..b/dev/tags/list"}, {"name", "POST", "/v2/a_/dev/blobs/uploads/"}, {"name", "GET", "/v2/a%00b/dev/manifests/x"},
		{"dirty path", "GET", "/v2/" + repo + "/../x/manifests/latest"}, {"dirty path", "GET", "/v2/" + strings.Replace(repo, "/", "%2F", 1) + "/manifests/latest"}, {"dirty path", "GET", "/v2//" + repo + "/manifests/latest"},
		{"dirty path", "GET", "/v2/" + repo + "/manifests/latest/"}, {"dirty path", "GET", "/v2/" + repo + "/tags/list/"},
		{"unknown upload", "GET", "/v2/" + repo + "/blobs/uploads/nobody-began-this"}, {"unknown upload", "PATCH", "/v2/" + repo + "/blobs/uploads/nobody-began-this"}, {"unknown upload", "DELETE", "/v2/" + repo + "/blobs/uploads/nobody-began-this"},
		{"mount", "POST", "/v2/" + repo + "/blobs/uploads/?digest-algorithm=md5"},
	}).Draw(w.T, "odd")
	w.same(o.kind, o.method, o.path, nil)
	if len(w.pushed) > 0 {
		repo, ref, _ := strings.Cut(rapid.SampledFrom(w.pushed).Draw(w.T, "manifest"), " ")
		w.same("manifest as blob", "GET", "/v2/"+repo+"/blobs/"+ref, nil)
	}
}

// compareAll reads everything at both sides: what was pushed, and all lists.
func (w *world) compareAll() {
	repos := map[string]bool{}
	for _, p := range w.pushed {
		repo, ref, _ := strings.Cut(p, " ")
		repos[repo] = true
		w.same("manifest", "GET", "/v2/"+repo+"/manifests/"+ref, nil)
		w.same("referrers", "GET", "/v2/"+repo+"/referrers/"+ref, nil)
	}
	for _, repo := range slices.Sorted(maps.Keys(repos)) {
		w.same("tags", "GET", "/v2/"+repo+"/tags/list", nil)
		for _, c := range contents {
			for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				w.same("blob", "GET", "/v2/"+repo+"/blobs/"+a.FromBytes(c).String(), nil)
			}
		}
		for _, tag := range tags {
			w.same("manifest", "HEAD", "/v2/"+repo+"/manifests/"+tag, nil)
		}
	}
}
