package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/progress"
	"twinhull.dev/twinhull/internal/source/vault"
)

var ctx = context.Background()

// pseudo is n bytes that do not repeat, so that a piece out of place shows.
func pseudo(n int) []byte {
	out := make([]byte, 0, n+32)
	sum := sha256.Sum256([]byte("seed"))
	for len(out) < n {
		sum = sha256.Sum256(sum[:])
		out = append(out, sum[:]...)
	}
	return out[:n]
}

type fixture struct {
	*Fetcher
	v      *vault.Vault
	slept  atomic.Int64 // nanoseconds asked for
	sleeps atomic.Int32
}

// newFixture is a Fetcher whose pauses take no time.
func newFixture(t testing.TB, change func(*Config)) *fixture {
	t.Helper()
	v, err := vault.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{v: v}
	cfg := Config{
		Vault:       v,
		Client:      &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}},
		IdleTimeout: 10 * time.Second,
		Sleep: func(ctx context.Context, d time.Duration) error {
			f.slept.Add(int64(d))
			f.sleeps.Add(1)
			return ctx.Err()
		},
		Random: func() float64 { return 0.5 },
	}
	if change != nil {
		change(&cfg)
	}
	f.Fetcher = New(cfg)
	t.Cleanup(cfg.Client.CloseIdleConnections)
	return f
}

func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

func item(content []byte, urls ...string) Item {
	return Item{Digest: digest.FromBytes(content), Size: int64(len(content)), URLs: urls}
}

// content serves bytes with ranges, as mirrors do.
func content(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func (f *fixture) wantHeld(t testing.TB, data []byte) {
	t.Helper()
	got, err := f.v.ReadFile(digest.FromBytes(data), int64(len(data)))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("the vault holds %d bytes: %v", len(got), err)
	}
}

// hijack sends a raw beginning of a response and cuts the connection.
func hijack(w http.ResponseWriter, length int, body []byte) {
	conn, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(buf, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", length)
	buf.Write(body)
	buf.Flush()
	conn.Close()
}

func TestFetchManyInParallel(t *testing.T) {
	const n = 300
	var now, most atomic.Int32
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if k := now.Add(1); k > most.Load() {
			most.Store(k)
		}
		defer now.Add(-1)
		time.Sleep(time.Millisecond)
		io.WriteString(w, "content of "+r.URL.Path)
	})
	rep := &recorder{}
	f := newFixture(t, func(c *Config) { c.Reporter = rep })
	var items []Item
	var total int64
	for i := range n {
		data := fmt.Appendf(nil, "content of /%d", i)
		items = append(items, item(data, fmt.Sprintf("%s/%d", url, i)))
		total += int64(len(data))
	}
	items = append(items, items[0]) // twice in the list, once on the wire
	if err := f.Fetch(ctx, items); err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if !f.v.Has(it.Digest) {
			t.Errorf("%s is missing", it.URLs[0])
		}
	}
	if m := most.Load(); m < 2 || m > 8 {
		t.Errorf("%d transfers at once", m)
	}
	if rep.total != total || rep.added.Load() != total || rep.begun != 1 || rep.done != 1 {
		t.Errorf("progress: %d of %d bytes, %d tasks, %d done; want %d", rep.added.Load(), rep.total, rep.begun, rep.done, total)
	}
	// Everything is there: no server is asked, no task is shown.
	before := rep.begun
	for i := range items {
		items[i].URLs = []string{"http://127.0.0.1:1/"}
	}
	if err := f.Fetch(ctx, items); err != nil || rep.begun != before {
		t.Errorf("again: %v", err)
	}
}

type recorder struct {
	mu          sync.Mutex
	total       int64
	begun, done int
	added       atomic.Int64
}

func (r *recorder) Task(name string, total int64) progress.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total = total
	r.begun++
	return r
}
func (r *recorder) Printf(string, ...any) {}
func (r *recorder) Add(n int64)           { r.added.Add(n) }
func (r *recorder) Done(error)            { r.mu.Lock(); r.done++; r.mu.Unlock() }

func TestConnectionCutIsResumed(t *testing.T) {
	data := pseudo(300_000)
	var ranges []string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) == 1 {
			hijack(w, len(data), data[:100_000])
			return
		}
		content(data)(w, r)
	})
	rep := &recorder{}
	f := newFixture(t, func(c *Config) { c.Reporter = rep })
	if err := f.Fetch(ctx, []Item{item(data, url)}); err != nil {
		t.Fatal(err)
	}
	f.wantHeld(t, data)
	if len(ranges) != 2 || ranges[0] != "" || ranges[1] != "bytes=100000-" {
		t.Errorf("requests: %q", ranges)
	}
	if rep.added.Load() != int64(len(data)) {
		t.Errorf("progress counts %d", rep.added.Load())
	}
}

func TestServerThatIgnoresRange(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, data []byte){
		"200": func(w http.ResponseWriter, data []byte) { w.Write(data) },
		"another range": func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data)
		},
		"416": func(w http.ResponseWriter, data []byte) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) },
	} {
		t.Run(name, func(t *testing.T) {
			data := pseudo(200_000)
			n := 0
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				switch n++; {
				case n == 1:
					hijack(w, len(data), data[:50_000])
				case r.Header.Get("Range") != "":
					answer(w, data)
				default:
					w.Write(data)
				}
			})
			rep := &recorder{}
			f := newFixture(t, func(c *Config) { c.Reporter = rep })
			if err := f.Fetch(ctx, []Item{item(data, url)}); err != nil {
				t.Fatal(err)
			}
			f.wantHeld(t, data)
			if rep.added.Load() != int64(len(data)) {
				t.Errorf("progress counts %d", rep.added.Load())
			}
		})
	}
}

// TestMirrorGoneHalfWay: the first mirror dies for good, the second continues.
func TestMirrorGoneHalfWay(t *testing.T) {
	data := pseudo(200_000)
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hijack(w, len(data), data[:120_000])
	}))
	t.Cleanup(first.Close)
	l := first.Listener
	second := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Range"); got != "bytes=120000-" {
			t.Errorf("range %q", got)
		}
		content(data)(w, r)
	})
	f := newFixture(t, func(c *Config) {
		next := c.Sleep
		c.Sleep = func(ctx context.Context, d time.Duration) error { l.Close(); return next(ctx, d) }
	})
	if err := f.Fetch(ctx, []Item{item(data, first.URL, second)}); err != nil {
		t.Fatal(err)
	}
	f.wantHeld(t, data)

	// With no second mirror: an error with the reason, and the part stays.
	other := append(pseudo(199_000), "end"...)
	third := serve(t, func(w http.ResponseWriter, r *http.Request) { hijack(w, len(other), other[:10]) })
	it := item(other, third+"/other.deb")
	err := f.Fetch(ctx, []Item{it})
	if err == nil || !strings.Contains(err.Error(), "other.deb") {
		t.Errorf("%v", err)
	}
	p, err := f.v.Resume(ctx, it.Digest, it.Size)
	if err != nil || p.Size() == 0 {
		t.Fatalf("the part is gone: %v", err)
	}
	p.Close()
}

func TestRetries(t *testing.T) {
	data := []byte("content")
	for _, c := range []struct {
		name    string
		codes   []int
		retries int
		ok      bool
		asked   int
	}{
		{"passing failures", []int{503, 500, 502, 429, 200}, 0, true, 5},
		{"lasting failure", []int{503, 503, 503, 503, 503, 503, 503}, 0, false, 5},
		{"none wanted", []int{503, 200}, -1, false, 1},
		{"missing", []int{404, 200}, 0, false, 1},
		{"gone", []int{410, 200}, 0, false, 1},
		{"forbidden", []int{403, 200}, 0, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := 0
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				code := c.codes[asked]
				asked++
				w.WriteHeader(code)
				if code == 200 {
					w.Write(data)
				}
			})
			for _, get := range []bool{false, true} {
				asked = 0
				f := newFixture(t, func(cfg *Config) { cfg.Retries = c.retries })
				var err error
				if get {
					_, err = f.Get(ctx, url, 100)
				} else {
					err = f.Fetch(ctx, []Item{item(data, url)})
				}
				if (err == nil) != c.ok || asked != c.asked {
					t.Errorf("get %v: asked %d times: %v", get, asked, err)
				}
				if last := c.codes[asked-1]; err != nil && IsNotFound(err) != (last == 404 || last == 410) {
					t.Errorf("IsNotFound: %v", err)
				}
				if int(f.sleeps.Load()) != asked-1 {
					t.Errorf("%d pauses for %d requests", f.sleeps.Load(), asked)
				}
			}
		})
	}
}

func TestBackOffGrowsAndHeedsTheServer(t *testing.T) {
	n := 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 4 {
			w.Header().Set("Retry-After", "20")
		}
		w.WriteHeader(503)
	})
	var pauses []time.Duration
	f := newFixture(t, func(c *Config) {
		c.Sleep = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
	})
	if _, err := f.Get(ctx, url, 10); err == nil {
		t.Fatal("no error")
	}
	want := []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 20 * time.Second}
	if fmt.Sprint(pauses) != fmt.Sprint(want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
}

func TestFallBackToTheNextURL(t *testing.T) {
	data := pseudo(1000)
	missing := serve(t, http.NotFound)
	wrong := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(bytes.Repeat([]byte("x"), len(data))) })
	short := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(data[:10]) })
	right := serve(t, content(data))
	f := newFixture(t, nil)
	if err := f.Fetch(ctx, []Item{item(data, missing, wrong, short, "ftp://x/", ":", right)}); err != nil {
		t.Fatal(err)
	}
	f.wantHeld(t, data)
}

func TestWrongContent(t *testing.T) {
	data, other := []byte("what the lock names"), []byte("what the mirror has")
	asked := 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { asked++; w.Write(other) })
	for _, size := range []int64{int64(len(data)), -1} {
		f := newFixture(t, nil)
		asked = 0
		it := item(data, url+"/pkg.deb")
		it.Size = size
		err := f.Fetch(ctx, []Item{it})
		var wrong *WrongContentError
		if !errors.As(err, &wrong) {
			t.Fatal(err)
		}
		for _, want := range []string{"pkg.deb", digest.FromBytes(data).String(), digest.FromBytes(other).String(), "twinhull lock"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in %v", want, err)
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times for the same wrong bytes", asked)
		}
		left, _ := os.ReadDir(filepath.Join(f.v.Dir(), "partial"))
		if f.v.Has(it.Digest) || len(left) > 0 {
			t.Errorf("leaves %v", left)
		}
	}
	// A length that cannot be right is not transferred at all.
	f := newFixture(t, nil)
	long := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000000")
		w.WriteHeader(200)
	})
	var wrong *WrongContentError
	if err := f.Fetch(ctx, []Item{item(data, long)}); !errors.As(err, &wrong) {
		t.Errorf("%v", err)
	}
	// And an endless one without a length is cut.
	endless := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	if err := f.Fetch(ctx, []Item{item(data, endless)}); !errors.As(err, &wrong) {
		t.Errorf("%v", err)
	}
}

// TestWrongBytesBeforeTheCut: what an earlier transfer left is wrong, so the
// joined whole is; one more attempt from nothing mends it.
func TestWrongBytesBeforeTheCut(t *testing.T) {
	data := pseudo(100_000)
	url := serve(t, content(data))
	f := newFixture(t, nil)
	it := item(data, url)
	p, err := f.v.Resume(ctx, it.Digest, it.Size)
	if err != nil {
		t.Fatal(err)
	}
	p.Write(bytes.Repeat([]byte("x"), 5000))
	p.Close()
	if err := f.Fetch(ctx, []Item{it}); err != nil {
		t.Fatal(err)
	}
	f.wantHeld(t, data)
}

func TestWholePartNeedsNoServer(t *testing.T) {
	data := pseudo(1000)
	f := newFixture(t, nil)
	it := item(data, "http://127.0.0.1:1/gone")
	p, err := f.v.Resume(ctx, it.Digest, it.Size)
	if err != nil {
		t.Fatal(err)
	}
	p.Write(data)
	p.Close()
	if err := f.Fetch(ctx, []Item{it}); err != nil {
		t.Fatal(err)
	}
	f.wantHeld(t, data)
}

func TestHangingServer(t *testing.T) {
	data := pseudo(100_000)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	n := 0
	var mu sync.Mutex
	hang := func(r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		k := n
		mu.Unlock()
		switch k {
		case 1: // no answer at all
			hang(r)
		case 2: // stops in the middle
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.Write(data[:40_000])
			w.(http.Flusher).Flush()
			hang(r)
		default:
			content(data)(w, r)
		}
	})
	f := newFixture(t, func(c *Config) { c.IdleTimeout = 50 * time.Millisecond })
	if err := f.Fetch(ctx, []Item{item(data, url)}); err != nil {
		t.Fatal(err)
	}
	f.wantHeld(t, data)
	if n != 3 {
		t.Errorf("%d requests", n)
	}

	silent := serve(t, func(w http.ResponseWriter, r *http.Request) { hang(r) })
	f = newFixture(t, func(c *Config) { c.IdleTimeout, c.Retries = 20*time.Millisecond, -1 })
	if _, err := f.Get(ctx, silent, 10); err == nil || !strings.Contains(err.Error(), "no data for 20ms") {
		t.Errorf("%v", err)
	}
}

// TestSlowServerIsNotIdle: a trickle that lasts longer than the idle timeout.
func TestSlowServerIsNotIdle(t *testing.T) {
	data := pseudo(20)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range data {
			w.Write(data[i : i+1])
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	f := newFixture(t, func(c *Config) { c.IdleTimeout, c.Retries = 300*time.Millisecond, -1 })
	if err := f.Fetch(ctx, []Item{item(data, url)}); err != nil {
		t.Fatal(err)
	}
	f.wantHeld(t, data)
}

func TestCancelAndResume(t *testing.T) {
	data := pseudo(500_000)
	started := make(chan struct{}, 16)
	stop := make(chan struct{})
	var slow atomic.Bool
	slow.Store(true)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !slow.Load() {
			if r.Header.Get("Range") != "bytes=200000-" {
				t.Errorf("range %q", r.Header.Get("Range"))
			}
			content(data)(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write(data[:200_000])
		w.(http.Flusher).Flush()
		started <- struct{}{}
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	})
	defer close(stop)
	f := newFixture(t, nil)
	it := item(data, url)
	c, cancel := context.WithCancelCause(ctx)
	why := errors.New("interrupted by the user")
	go func() {
		<-started
		// The client may not have read everything yet that was sent.
		path := filepath.Join(f.v.Dir(), "partial", "sha256-"+it.Digest.Encoded())
		for range 1000 {
			if st, err := os.Stat(path); err == nil && st.Size() == 200_000 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		cancel(why)
	}()
	begin := time.Now()
	if err := f.Fetch(c, []Item{it, item([]byte("other"), url)}); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	if d := time.Since(begin); d > 8*time.Second {
		t.Errorf("took %v to stop", d)
	}
	slow.Store(false)
	if err := f.Fetch(ctx, []Item{it}); err != nil {
		t.Fatal(err)
	}
	f.wantHeld(t, data)
}

func TestCancelDuringAPause(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	v, err := vault.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := New(Config{Vault: v})
	c, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := f.Fetch(c, []Item{item([]byte("x"), url)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("took %v to stop", d)
	}
}

func TestAllFailuresAtOnce(t *testing.T) {
	data := []byte("good")
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/good" {
			w.Write(data)
			return
		}
		http.NotFound(w, r)
	})
	f := newFixture(t, nil)
	items := []Item{item([]byte("a"), url+"/a"), item(data, url+"/good"), item([]byte("b"), url+"/b"), {Digest: digest.FromString("c"), Name: "nowhere"}}
	err := f.Fetch(ctx, items)
	var failed *FailedError
	if !errors.As(err, &failed) || len(failed.Errs) != 3 || failed.Left != 0 || failed.Total != 4 {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"3 of 4", "a: ", "b: ", "nowhere", "404 Not Found"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	f.wantHeld(t, data)

	items = nil
	for i := range 200 {
		items = append(items, item(fmt.Append(nil, i), url+"/x"))
	}
	err = f.Fetch(ctx, items)
	if !errors.As(err, &failed) || len(failed.Errs) > maxFailures+8 || failed.Left+len(failed.Errs) != 200 {
		t.Errorf("%d failures and %d left", len(failed.Errs), failed.Left)
	}
}

func TestOffline(t *testing.T) {
	asked := false
	url := serve(t, func(http.ResponseWriter, *http.Request) { asked = true })
	f := newFixture(t, func(c *Config) { c.Offline = true })
	have, err := f.v.PutBytes([]byte("have"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Fetch(ctx, []Item{{Digest: have, URLs: []string{url}}}); err != nil {
		t.Errorf("nothing is missing: %v", err)
	}
	if data, err := f.Blob(ctx, have, 4, nil); err != nil || string(data) != "have" {
		t.Errorf("%q %v", data, err)
	}
	err = f.Fetch(ctx, []Item{{Digest: have}, item([]byte("x"), url+"/one.deb"), {Digest: digest.FromString("y"), Name: "two"}})
	var off *OfflineError
	if !errors.As(err, &off) || fmt.Sprint(off.Missing) != "[one.deb two]" {
		t.Errorf("%v", err)
	}
	if _, err := f.Get(ctx, "http://user:secret@127.0.0.1:1/x", 10); !errors.As(err, &off) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	if asked {
		t.Error("the network was used")
	}
}

func TestGetLimit(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chunked" {
			w.(http.Flusher).Flush()
		}
		io.WriteString(w, "12345")
	})
	f := newFixture(t, nil)
	for _, p := range []string{"/", "/chunked"} {
		if data, err := f.Get(ctx, url+p, 5); err != nil || string(data) != "12345" {
			t.Errorf("%q %v", data, err)
		}
		if _, err := f.Get(ctx, url+p, 4); err == nil {
			t.Error("5 bytes within a limit of 4")
		}
	}
}

func TestGetFirst(t *testing.T) {
	missing := serve(t, http.NotFound)
	broken := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) })
	right := serve(t, content([]byte("x")))
	f := newFixture(t, nil)
	if data, from, err := f.GetFirst(ctx, []string{missing, broken, right}, 10); err != nil || string(data) != "x" || from != right {
		t.Errorf("%q %s %v", data, from, err)
	}
	if _, _, err := f.GetFirst(ctx, []string{missing, missing}, 10); !IsNotFound(err) {
		t.Errorf("%v", err)
	}
	if _, _, err := f.GetFirst(ctx, []string{missing, broken}, 10); err == nil || IsNotFound(err) {
		t.Errorf("a mirror that refuses may have it: %v", err)
	}
	if _, _, err := f.GetFirst(ctx, nil, 10); err == nil {
		t.Error("no mirror, no error")
	}
}

func TestRedirects(t *testing.T) {
	data := []byte("content")
	plain := serve(t, content(data))
	moved := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain, http.StatusFound) })
	asked := 0
	circle := serve(t, func(w http.ResponseWriter, r *http.Request) { asked++; http.Redirect(w, r, "/again", http.StatusFound) })
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(plain, "http://", "http://user:secret@", 1), http.StatusFound)
	}))
	t.Cleanup(secure.Close)
	f := newFixture(t, func(c *Config) { c.Client = secure.Client() })
	if got, err := f.Get(ctx, moved, 10); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%q %v", got, err)
	}
	if _, err := f.Get(ctx, circle, 10); err == nil || asked > maxRedirects+1 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	_, err := f.Get(ctx, secure.URL, 10)
	if err == nil || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "secret") {
		t.Errorf("https to http: %v", err)
	}
	if f.sleeps.Load() != 0 {
		t.Error("refused redirects are retried")
	}
	// An unknown authority is not a passing failure, and says what to do.
	g := newFixture(t, nil)
	if _, err := g.Get(ctx, secure.URL, 10); err == nil || !strings.Contains(err.Error(), "NODE_EXTRA_CA_CERTS") || g.sleeps.Load() != 0 {
		t.Errorf("%v after %d pauses", err, g.sleeps.Load())
	}
}

func TestNoCredentialsInErrors(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) })
	secret := func(u string) string {
		return strings.Replace(u, "http://", "http://me:hunter2@", 1) + "/f?token=hunter2"
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()
	f := newFixture(t, nil)
	for _, u := range []string{secret(url), secret(closed), "http://me:hunter2@[bad/", "ftp://me:hunter2@x/"} {
		_, err := f.Get(ctx, u, 10)
		err2 := f.Fetch(ctx, []Item{item([]byte("x"), u)})
		if err == nil || err2 == nil || strings.Contains(fmt.Sprint(err, err2), "hunter2") {
			t.Errorf("%v\n%v", err, err2)
		}
	}
}

func TestNoTransparentDecompression(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if e := r.Header.Get("Accept-Encoding"); e != "identity" {
			t.Errorf("Accept-Encoding %q", e)
		}
		w.Header().Set("Content-Encoding", "gzip") // as some servers label .gz files
		w.Write([]byte("\x1f\x8bnot really"))
	})
	f := newFixture(t, nil)
	if got, err := f.Get(ctx, url, 100); err != nil || string(got) != "\x1f\x8bnot really" {
		t.Errorf("%q %v", got, err)
	}
}

func TestBlob(t *testing.T) {
	data := pseudo(5000)
	url := serve(t, content(data))
	f := newFixture(t, nil)
	for _, size := range []int64{5000, -1} {
		got, err := f.Blob(ctx, digest.FromBytes(data), size, []string{url})
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: %v", len(got), err)
		}
	}
	for _, d := range []digest.Digest{"", "x", "sha256:x"} {
		if err := f.Fetch(ctx, []Item{{Digest: d, URLs: []string{url + "/x"}}}); err == nil {
			t.Errorf("a malformed digest %q is fetched", d)
		}
	}
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("FETCH_TEST_FULL"); dir != "" {
		childFull(dir)
		return
	}
	os.Exit(m.Run())
}

// TestDiskFull runs in a user namespace with a small tmpfs as the cache.
func TestDiskFull(t *testing.T) {
	data := pseudo(200_000)
	asked := atomic.Int32{}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1); content(data)(w, r) })
	cmd := exec.Command(os.Args[0], url)
	cmd.Env = append(os.Environ(), "FETCH_TEST_FULL="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil && len(out) == 0, bytes.HasPrefix(out, []byte("skip:")):
		t.Skipf("no user namespaces or tmpfs here: %v %s", err, out)
	case err != nil || string(out) != "ok\n":
		t.Fatalf("%v: %s", err, out)
	}
	if n := asked.Load(); n > 2 {
		t.Errorf("a full disk makes %d requests", n)
	}
}

func childFull(dir string) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=96k"); err != nil {
		fmt.Println("skip:", err)
		return
	}
	fail := func(args ...any) { fmt.Println(args...); os.Exit(1) }
	data := pseudo(200_000)
	v, err := vault.Open(dir)
	if err != nil {
		fail(err)
	}
	it := item(data, os.Args[1])
	f := New(Config{Vault: v, Client: &http.Client{Transport: &http.Transport{}}})
	err = f.Fetch(ctx, []Item{it})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "--cache-dir") {
		fail("full disk:", err)
	}
	if _, err := os.Lstat(v.Path(it.Digest)); !errors.Is(err, fs.ErrNotExist) || v.Has(it.Digest) {
		fail("the vault has it:", err)
	}
	// With room it goes on from where it was.
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		fail("remount:", err)
	}
	p, err := v.Resume(ctx, it.Digest, it.Size)
	if err != nil || p.Size() == 0 {
		fail("no part is kept:", err)
	}
	p.Close()
	if err := f.Fetch(ctx, []Item{it}); err != nil {
		fail("with room:", err)
	}
	if got, err := v.ReadFile(it.Digest, it.Size); err != nil || !bytes.Equal(got, data) {
		fail("content:", err)
	}
	fmt.Println("ok")
}

func BenchmarkFetch300(b *testing.B) {
	url := serve(b, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat(r.URL.Path, 20_000/len(r.URL.Path)))
	})
	for b.Loop() {
		f := newFixture(b, nil)
		var items []Item
		for i := range 300 {
			p := fmt.Sprintf("/%03d", i)
			items = append(items, item([]byte(strings.Repeat(p, 20_000/len(p))), url+p))
		}
		if err := f.Fetch(ctx, items); err != nil {
			b.Fatal(err)
		}
	}
}
