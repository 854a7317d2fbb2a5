package distribution_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/distribution"
	"twinhull.dev/twinhull/internal/registry/distribution/conformance"
	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/memory"
)

// The same over HTTP/2, where deadlines belong to streams and there is no
// sendfile.
func TestConformanceHTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(distribution.New(distribution.Options{Registry: newRegistry(t, memory.New()), Judge: anybody, Visible: everything}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	r, err := srv.Client().Get(srv.URL + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.ProtoMajor != 2 {
		t.Fatalf("protocol %s", r.Proto)
	}
	conformance.Run(t, conformance.Target{URL: srv.URL, Client: srv.Client(), Repository: development})
}

// fake is a registry of which a test replaces single methods.
type fake struct {
	distribution.Registry
	manifest     func(repo, ref string) (registry.Manifest, error)
	blob         func() (*store.Blob, error)
	repositories func(registry.Page) ([]string, bool, error)
	appendUpload func(at int64, r io.Reader) (int64, error)
	start        func() (string, error)
	deleteTag    func() error
}

func (f *fake) Manifest(_ context.Context, repo, ref string) (registry.Manifest, error) {
	return f.manifest(repo, ref)
}
func (f *fake) Blob(context.Context, string, oci.Digest) (*store.Blob, error) { return f.blob() }
func (f *fake) Repositories(_ context.Context, p registry.Page) ([]string, bool, error) {
	return f.repositories(p)
}
func (f *fake) AppendUpload(_ context.Context, _, _ string, at int64, r io.Reader) (int64, error) {
	return f.appendUpload(at, r)
}
func (f *fake) StartUpload(context.Context, string, audit.Actor) (string, error) { return f.start() }
func (f *fake) DeleteTag(context.Context, string, string, audit.Actor) error     { return f.deleteTag() }

// get asks a handler without a network.
func get(opt distribution.Options, method, target string, header ...string) *httptest.ResponseRecorder {
	if opt.Judge == nil {
		opt.Judge = anybody
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	distribution.New(opt).ServeHTTP(w, r)
	return w
}

// Who has no judge is refused everything, and what a judge refuses reaches no
// registry (here there is none to reach).
func TestJudge(t *testing.T) {
	w := httptest.NewRecorder()
	distribution.New(distribution.Options{}).ServeHTTP(w, httptest.NewRequest("GET", "/v2/", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("without a judge: %d", w.Code)
	}

	for _, test := range []struct {
		err        error
		status     int
		header     string
		want, code string
	}{
		{&distribution.Refusal{Err: &registry.Error{Code: registry.Unauthorized, Message: "who are you?"}, Challenges: []string{`Basic realm="twinhull"`, `Bearer realm="twinhull"`}},
			401, "Www-Authenticate", `[Basic realm="twinhull" Bearer realm="twinhull"]`, "UNAUTHORIZED"},
		{&registry.Error{Code: registry.Denied, Message: "not you"}, 403, "Allow", "[]", "DENIED"},
		{fmt.Errorf("wrapped: %w", &registry.Error{Code: registry.Denied, Message: "not you"}), 403, "Allow", "[]", "DENIED"},
		{&distribution.Refusal{Err: &registry.Error{Code: registry.TooManyRequests, Message: "slower"}, RetryAfter: 1500 * time.Millisecond}, 429, "Retry-After", "[2]", "TOOMANYREQUESTS"},
		{&registry.Error{Code: registry.TooManyRequests, Message: "slower"}, 429, "Retry-After", "[1]", "TOOMANYREQUESTS"},
		{&registry.Error{Code: registry.Unavailable, Message: "cannot ask now"}, 503, "Retry-After", "[1]", "UNAVAILABLE"},
	} {
		var asked []distribution.Request
		judge := func(_ context.Context, _ *http.Request, q distribution.Request) (audit.Actor, error) {
			asked = append(asked, q)
			return audit.Actor{}, test.err
		}
		// A delete, too: what access refuses is 403, since somebody else may.
		for _, r := range [][2]string{{"GET", "/v2/team/app/manifests/x"}, {"DELETE", "/v2/team/app/manifests/x"}, {"POST", "/v2/team/app/blobs/uploads/"}} {
			w := get(distribution.Options{Judge: judge}, r[0], r[1])
			if w.Code != test.status || fmt.Sprint(w.Header()[test.header]) != test.want || !strings.Contains(w.Body.String(), `"code":"`+test.code+`"`) {
				t.Errorf("%v: %s: %d %v %s", test.err, r, w.Code, w.Header(), w.Body)
			}
		}
		if len(asked) != 3 || asked[0].Kind != distribution.GetManifest || asked[1].Kind.Verb() != distribution.Delete || asked[2].Repository != "team/app" {
			t.Errorf("asked %+v", asked)
		}
	}
	// Who is not well-formed is not asked about.
	judge := func(context.Context, *http.Request, distribution.Request) (audit.Actor, error) {
		t.Error("asked")
		return audit.Actor{}, nil
	}
	get(distribution.Options{Judge: judge}, "GET", "/v2/UPPER/manifests/x")
}

// The table from codes to statuses, as a client sees it.
func TestStatuses(t *testing.T) {
	for _, test := range []struct {
		err          *registry.Error
		read, delete int
	}{
		{&registry.Error{Code: registry.ManifestUnknown}, 404, 404},
		{&registry.Error{Code: registry.NameUnknown}, 404, 404},
		{&registry.Error{Code: registry.Denied, Reason: registry.PermanentVersion}, 403, 405},
		{&registry.Error{Code: registry.Denied, Reason: registry.StillReferred}, 403, 405},
		{&registry.Error{Code: registry.Unsupported}, 405, 405},
		{&registry.Error{Code: registry.Conflict}, 409, 409},
		{&registry.Error{Code: registry.Unavailable, Reason: registry.Recovering}, 503, 503},
		{&registry.Error{Code: registry.SizeInvalid, Reason: registry.ManifestTooLarge}, 413, 413},
		{&registry.Error{Code: "SOMETHING_NEW"}, 400, 400},
	} {
		f := &fake{manifest: func(string, string) (registry.Manifest, error) { return registry.Manifest{}, test.err }, deleteTag: func() error { return test.err }}
		for method, want := range map[string]int{"GET": test.read, "DELETE": test.delete} {
			w := get(distribution.Options{Registry: f}, method, "/v2/team/app/manifests/x")
			if w.Code != want {
				t.Errorf("%s of %s: %d, want %d", method, test.err.Code, w.Code, want)
			}
			if want == 405 && w.Header().Get("Allow") == "" {
				t.Errorf("%s of %s: no Allow", method, test.err.Code)
			}
		}
	}
	e := &registry.Error{Code: registry.Denied, Reason: registry.ByReleaseOnly, Message: "no", Remedy: "release it", Entry: 0, Logged: true, Err: errors.New("/srv/secret")}
	f := &fake{start: func() (string, error) { return "", e }}
	w := get(distribution.Options{Registry: f}, "POST", "/v2/team/app/blobs/uploads/")
	const want = `{"errors":[{"code":"DENIED","message":"no; release it","detail":{"reason":"production-by-release-only","remedy":"release it","entry":0}}]}`
	if w.Body.String() != want {
		t.Errorf("body %s", w.Body)
	}
}

// What nobody named is the server's own: the client learns a number, the log the
// rest.
func TestInternalErrors(t *testing.T) {
	var log bytes.Buffer
	f := &fake{manifest: func(string, string) (registry.Manifest, error) {
		return registry.Manifest{}, errors.New("open /srv/registry/records.db: input/output error")
	}}
	w := get(distribution.Options{Registry: f, Logger: slog.New(slog.NewTextHandler(&log, nil))}, "GET", "/v2/team/app/manifests/x")
	id := w.Header().Get("X-Request-Id")
	if w.Code != 500 || id == "" || !strings.Contains(w.Body.String(), id) || strings.Contains(w.Body.String(), "srv") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if !strings.Contains(log.String(), id) || !strings.Contains(log.String(), "records.db") {
		t.Errorf("log: %s", log.String())
	}
	w = get(distribution.Options{Registry: f, RequestID: func(*http.Request) string { return "given" }}, "GET", "/v2/team/app/manifests/x")
	if w.Header().Get("X-Request-Id") != "given" {
		t.Errorf("%v", w.Header())
	}
	for _, test := range []struct {
		err  error
		want int
	}{{store.ErrFull, 507}, {store.ErrReadOnly, 503}, {store.ErrBusy, 409}, {store.ErrDamaged, 500}} {
		f.manifest = func(string, string) (registry.Manifest, error) {
			return registry.Manifest{}, fmt.Errorf("/srv: %w", test.err)
		}
		if w := get(distribution.Options{Registry: f}, "GET", "/v2/team/app/manifests/x"); w.Code != test.want || strings.Contains(w.Body.String(), "srv") {
			t.Errorf("%v: %d %s", test.err, w.Code, w.Body)
		}
	}
}

// The catalog has what the caller may read, and nothing, not even a Link, tells of
// the rest.
func TestCatalog(t *testing.T) {
	r := newRegistry(t, memory.New())
	for i := range 30 {
		repo := fmt.Sprintf("team/%s%02d/dev", []string{"open", "hidden", "open"}[i%3], i)
		if _, err := r.PutManifest(t.Context(), registry.Put{Repository: repo, MediaType: ocispec.MediaTypeImageIndex,
			Content: []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)}); err != nil {
			t.Fatal(err)
		}
	}
	opt := distribution.Options{Registry: r, Visible: func(_ context.Context, _ *http.Request, repo string) bool { return strings.Contains(repo, "open") }}
	for _, n := range []string{"", "?n=1", "?n=7", "?n=20", "?n=100"} {
		found := 0
		target := "/v2/_catalog" + n
		for target != "" {
			w := get(opt, "GET", target)
			if w.Code != 200 || strings.Contains(w.Body.String()+w.Header().Get("Link"), "hidden") {
				t.Fatalf("%s: %d %v %s", target, w.Code, w.Header(), w.Body)
			}
			found += strings.Count(w.Body.String(), "team/open")
			target, _, _ = strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "<"), ">")
		}
		if found != 20 {
			t.Errorf("%s: %d repositories", n, found)
		}
	}
	if w := get(opt, "GET", "/v2/_catalog?n=0"); w.Body.String() != `{"repositories":[]}` || w.Header().Get("Link") != "" {
		t.Errorf("n=0: %s %v", w.Body, w.Header())
	}
	opt.Visible = nil
	if w := get(opt, "GET", "/v2/_catalog"); w.Body.String() != `{"repositories":[]}` {
		t.Errorf("nobody may read: %s", w.Body)
	}
}

// A blob of a repository that the caller may not read is as one that is not there.
func TestMountOfWhatIsHidden(t *testing.T) {
	srv := serve(t, distribution.Options{Registry: newRegistry(t, memory.New()),
		Visible: func(_ context.Context, _ *http.Request, repo string) bool { return !strings.Contains(repo, "hidden") }})
	x := conformance.Target{URL: srv.URL, Client: srv.Client()}
	d := digest.FromString("secret").String()
	for _, repo := range []string{"team/hidden/dev", "team/open/dev"} {
		if r := x.Do(t, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d, strings.NewReader("secret")); r.Status != 201 {
			t.Fatalf("%d %s", r.Status, r.Body)
		}
	}
	for from, want := range map[string]int{"team/hidden/dev": 202, "team/open/dev": 201, "": 202} {
		repo := "team/to" + strings.ReplaceAll(from, "/", "") + "/dev"
		r := x.Do(t, "POST", "/v2/"+repo+"/blobs/uploads/?mount="+d+"&from="+from, nil)
		if r.Status != want {
			t.Errorf("from %q: %d %s", from, r.Status, r.Body)
		}
		// What the repository has itself needs no other.
		if want == 201 {
			if r := x.Do(t, "POST", "/v2/"+repo+"/blobs/uploads/?mount="+d+"&from=team/hidden/dev", nil); r.Status != 201 {
				t.Errorf("what is there: %d %s", r.Status, r.Body)
			}
		}
	}
}

type content struct{ *bytes.Reader }

func (content) Close() error { return nil }

func TestRedirect(t *testing.T) {
	f := &fake{blob: func() (*store.Blob, error) {
		return &store.Blob{Content: content{bytes.NewReader([]byte("x"))}, Size: 1, URL: "https://bucket.example/blob?signed"}, nil
	}}
	w := get(distribution.Options{Registry: f}, "GET", "/v2/team/app/blobs/"+digest.FromString("x").String())
	if w.Code != 307 || w.Header().Get("Location") != "https://bucket.example/blob?signed" || w.Body.Len() != 0 || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

// fileWriter is a connection that takes files from the kernel: it notes what it is
// given.
type fileWriter struct {
	*httptest.ResponseRecorder
	given []string
}

func (w *fileWriter) ReadFrom(r io.Reader) (int64, error) {
	lr, ok := r.(*io.LimitedReader)
	if !ok {
		w.given = append(w.given, fmt.Sprintf("%T", r))
		return io.Copy(w.ResponseRecorder, r)
	}
	w.given = append(w.given, fmt.Sprintf("%T %d", lr.R, lr.N))
	return io.Copy(w.ResponseRecorder, r)
}

// sendfile needs an *os.File in one io.LimitedReader, and nothing else around it.
func TestFilesReachTheKernel(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 80<<10) // 1.25 MiB
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f := &fake{blob: func() (*store.Blob, error) {
		f, err := os.Open(path)
		return &store.Blob{Content: f, Size: int64(len(data))}, err
	}}
	h := distribution.New(distribution.Options{Registry: f, Judge: anybody})
	for _, test := range []struct {
		header string
		want   []string
		body   []byte
	}{
		{"", []string{"*os.File 1048576", "*os.File 262144"}, data},
		{"bytes=10-19", []string{"*os.File 10"}, data[10:20]},
		{"bytes=-1048577", []string{"*os.File 1048576", "*os.File 1"}, data[len(data)-1048577:]},
	} {
		w := &fileWriter{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("GET", "/v2/team/app/blobs/"+digest.FromBytes(data).String(), nil)
		if test.header != "" {
			r.Header.Set("Range", test.header)
		}
		h.ServeHTTP(w, r)
		if !slices.Equal(w.given, test.want) || !bytes.Equal(w.Body.Bytes(), test.body) {
			t.Errorf("%q: %q, %d bytes", test.header, w.given, w.Body.Len())
		}
	}
}

// pipes is a listener whose connections are in memory, so that they live by the
// clock of package synctest.
type pipes struct {
	c    chan net.Conn
	done chan struct{}
	once sync.Once
}

func newPipes() *pipes { return &pipes{c: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.c:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.c <- a
	return b
}

// inBubble runs a test with a registry that is served by a clock of its own.
func inBubble(t *testing.T, opt distribution.Options, test func(t *testing.T, p *pipes, r *registry.Registry)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t, memory.New())
		if opt.Registry == nil {
			opt.Registry = r
		}
		opt.Judge, opt.Visible = anybody, everything
		p := newPipes()
		srv := &http.Server{Handler: distribution.New(opt), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		go srv.Serve(p)
		defer srv.Close()
		test(t, p, r)
	})
}

// patch begins a PATCH that promises a number of bytes.
func patch(t *testing.T, c net.Conn, id string, promised int) {
	t.Helper()
	if _, err := fmt.Fprintf(c, "PATCH /v2/team/app/dev/blobs/uploads/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", id, promised); err != nil {
		t.Fatal(err)
	}
}

// A client that sends nothing for a minute is cut off. What came is kept.
func TestStalledUpload(t *testing.T) {
	inBubble(t, distribution.Options{}, func(t *testing.T, p *pipes, r *registry.Registry) {
		id, err := r.StartUpload(t.Context(), "team/app/dev", audit.Actor{})
		if err != nil {
			t.Fatal(err)
		}
		c := p.dial()
		defer c.Close()
		patch(t, c, id, 10)
		io.WriteString(c, "0123")
		start := time.Now()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusRequestTimeout || resp.Header.Get("Range") != "0-3" || resp.Header.Get("Location") == "" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		if took := time.Since(start); took < 50*time.Second || took > 70*time.Second {
			t.Errorf("it took %s", took)
		}
		io.Copy(io.Discard, resp.Body)
		if size, err := r.UploadStatus(t.Context(), "team/app/dev", id); size != 4 || err != nil {
			t.Errorf("%d bytes kept, %v", size, err)
		}
		// And it goes on.
		d := digest.FromString("0123456789")
		if err := r.FinishUpload(t.Context(), id, registry.Finish{Repository: "team/app/dev", Digest: d, Last: strings.NewReader("456789"), At: 4}, audit.Actor{}); err != nil {
			t.Error(err)
		}
	})
}

// A slow one may take as long as it wants, and its connection is good afterwards.
func TestSlowUpload(t *testing.T) {
	inBubble(t, distribution.Options{}, func(t *testing.T, p *pipes, r *registry.Registry) {
		id, err := r.StartUpload(t.Context(), "team/app/dev", audit.Actor{})
		if err != nil {
			t.Fatal(err)
		}
		c := p.dial()
		defer c.Close()
		in := bufio.NewReader(c)
		for range 2 {
			patch(t, c, id, 30)
			for range 30 {
				time.Sleep(45 * time.Second)
				if _, err := io.WriteString(c, "x"); err != nil {
					t.Fatal(err)
				}
			}
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusAccepted {
				t.Fatalf("%d", resp.StatusCode)
			}
			time.Sleep(time.Hour) // no deadline is left behind
		}
		if size, _ := r.UploadStatus(t.Context(), "team/app/dev", id); size != 60 {
			t.Errorf("%d bytes", size)
		}
	})
}

// A client that goes leaves what it sent.
func TestVanishedUpload(t *testing.T) {
	inBubble(t, distribution.Options{}, func(t *testing.T, p *pipes, r *registry.Registry) {
		id, err := r.StartUpload(t.Context(), "team/app/dev", audit.Actor{})
		if err != nil {
			t.Fatal(err)
		}
		c := p.dial()
		patch(t, c, id, 10)
		io.WriteString(c, "0123456")
		c.Close()
		synctest.Wait()
		if size, err := r.UploadStatus(t.Context(), "team/app/dev", id); size != 7 || err != nil {
			t.Errorf("%d bytes kept, %v", size, err)
		}
	})
}

// A body that is refused before it is read holds nobody for ever.
func TestStalledRefusedBody(t *testing.T) {
	inBubble(t, distribution.Options{}, func(t *testing.T, p *pipes, _ *registry.Registry) {
		c := p.dial()
		defer c.Close()
		fmt.Fprintf(c, "PUT /v2/UPPER/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
		start := time.Now()
		b, _ := io.ReadAll(c) // until the server ends it
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("it took %s", took)
		}
		if len(b) > 0 && !bytes.Contains(b, []byte("400 Bad Request")) {
			t.Errorf("%q", b)
		}
	})
}

// A client that takes nothing for a minute is cut off; a slow one is not.
func TestStalledDownload(t *testing.T) {
	inBubble(t, distribution.Options{}, func(t *testing.T, p *pipes, r *registry.Registry) {
		data := bytes.Repeat([]byte("x"), 1<<20)
		id, err := r.StartUpload(t.Context(), "team/app/dev", audit.Actor{})
		if err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(data)
		if err := r.FinishUpload(t.Context(), id, registry.Finish{Repository: "team/app/dev", Digest: d, Last: bytes.NewReader(data)}, audit.Actor{}); err != nil {
			t.Fatal(err)
		}
		ask := func() (net.Conn, *http.Response) {
			c := p.dial()
			fmt.Fprintf(c, "GET /v2/team/app/dev/blobs/%s HTTP/1.1\r\nHost: x\r\n\r\n", d)
			resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
			if err != nil {
				t.Fatal(err)
			}
			return c, resp
		}
		c, resp := ask()
		time.Sleep(2 * time.Minute)
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil || n == int64(len(data)) {
			t.Errorf("%d bytes after two minutes of nothing, %v", n, err)
		}
		c.Close()

		c, resp = ask()
		defer c.Close()
		for at := 0; at < len(data); at += 32 << 10 {
			time.Sleep(40 * time.Second)
			if _, err := io.CopyN(io.Discard, resp.Body, 32<<10); err != nil {
				t.Fatalf("at %d: %v", at, err)
			}
		}
		// The connection is good for another request, much later.
		time.Sleep(time.Hour)
		fmt.Fprintf(c, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("the next request: %v", err)
		}
	})
}

// What Content-Range, Content-Length and the limits say must hold.
func TestLengths(t *testing.T) {
	srv := serve(t, distribution.Options{Registry: newRegistry(t, memory.New()), Limits: distribution.Limits{Blob: 100, Manifest: 200}})
	x := conformance.Target{URL: srv.URL, Client: srv.Client()}
	const repo = "/v2/team/app/dev"
	begin := func() string {
		return x.Do(t, "POST", repo+"/blobs/uploads/", nil).Header.Get("Location")
	}
	unknown := func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} } // without a length
	for _, test := range []struct {
		name   string
		body   io.Reader
		ranges string
		status int
		kept   string
	}{
		{"right", strings.NewReader("0123456789"), "0-9", 202, "0-9"},
		{"longer than the range says", strings.NewReader("0123456789"), "0-4", 400, "0-0"},
		{"shorter than the range says", strings.NewReader("01234"), "0-9", 400, "0-0"},
		{"longer, no length", unknown("0123456789"), "0-4", 400, "0-4"},
		{"shorter, no length", unknown("01234"), "0-9", 400, "0-4"},
		{"right, no length", unknown("0123456789"), "0-9", 202, "0-9"},
		{"as large as may be", strings.NewReader(strings.Repeat("x", 100)), "", 202, "0-99"},
		{"too large", strings.NewReader(strings.Repeat("x", 101)), "", 413, "0-0"},
		{"too large, no length", unknown(strings.Repeat("x", 101)), "", 413, "0-99"},
		{"too large, by its range", strings.NewReader("x"), "100-100", 413, "0-0"},
	} {
		l := begin()
		var header []string
		if test.ranges != "" {
			header = []string{"Content-Range", test.ranges}
		}
		if r := x.Do(t, "PATCH", l, test.body, header...); r.Status != test.status {
			t.Errorf("%s: %d %s", test.name, r.Status, r.Body)
		}
		if r := x.Do(t, "GET", l, nil); r.Header.Get("Range") != test.kept {
			t.Errorf("%s: %s kept, want %s", test.name, r.Header.Get("Range"), test.kept)
		}
	}
	// In one request, and in several that are too much together.
	big := strings.Repeat("x", 101)
	d := digest.FromString(big).String()
	if r := x.Do(t, "POST", repo+"/blobs/uploads/?digest="+d, strings.NewReader(big)); r.Status != 413 {
		t.Errorf("POST: %d %s", r.Status, r.Body)
	}
	if r := x.Do(t, "POST", repo+"/blobs/uploads/?digest="+d, unknown(big)); r.Status != 413 {
		t.Errorf("POST without a length: %d %s", r.Status, r.Body)
	}
	l := begin()
	x.Do(t, "PATCH", l, strings.NewReader(big[:60]))
	if r := x.Do(t, "PUT", l+"?digest="+d, strings.NewReader(big[60:])); r.Status != 413 {
		t.Errorf("PUT: %d %s", r.Status, r.Body)
	}
	if r := x.Do(t, "PUT", repo+"/manifests/x", strings.NewReader(strings.Repeat(" ", 201)), "Content-Type", ocispec.MediaTypeImageManifest); r.Status != 413 {
		t.Errorf("manifest: %d %s", r.Status, r.Body)
	}
}

// Each request is told once, with what went in and out.
func TestObserve(t *testing.T) {
	var mu sync.Mutex
	var all []distribution.Observation
	srv := serve(t, distribution.Options{Registry: newRegistry(t, memory.New()), Observe: func(o distribution.Observation) {
		mu.Lock()
		defer mu.Unlock()
		o.Took = 0
		all = append(all, o)
	}})
	x := conformance.Target{URL: srv.URL, Client: srv.Client()}
	d := digest.FromString("12345").String()
	x.Do(t, "POST", "/v2/team/app/dev/blobs/uploads/?digest="+d, strings.NewReader("12345"))
	x.Do(t, "GET", "/v2/team/app/dev/blobs/"+d, nil)
	x.Do(t, "HEAD", "/v2/team/app/dev/blobs/"+d, nil)
	x.Do(t, "GET", "/v2/UPPER/blobs/"+d, nil)
	srv.Close() // so that all have ended
	mu.Lock()
	defer mu.Unlock()
	want := []distribution.Observation{
		{Kind: distribution.PushBlob, Status: 201, In: 5},
		{Kind: distribution.GetBlob, Status: 200, Out: 5},
		{Kind: distribution.GetBlob, Status: 200},
	}
	if len(all) != 4 || !slices.Equal(all[:3], want) || all[3].Kind != 0 || all[3].Status != 400 {
		t.Errorf("%+v", all)
	}
}
