// Package fetch brings inputs from the network into the vault.
//
// It transfers bytes and believes none of them: an input is asked for by its
// digest and the vault verifies it, so mirrors, proxies and caches between are
// trusted for being there and for nothing else. It knows nothing of archives
// and registries; whoever does makes the URLs. Which servers those are, with
// which certificates and credentials, is package site's.
package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/progress"
	"twinhull.dev/twinhull/internal/source/site"
	"twinhull.dev/twinhull/internal/source/vault"
)

// Config is everything that a Fetcher needs. It must be complete before New and
// is not read again afterwards.
type Config struct {
	Vault    *vault.Vault      // where inputs go; needed by all but Get
	Client   *http.Client      // http.DefaultClient when nil; its redirect policy is replaced
	Reporter progress.Reporter // progress.Discard when nil
	Offline  bool              // never touch the network

	Parallel    int           // transfers at once; 8 when zero
	Retries     int           // further attempts on one URL after a passing failure; 4 when zero, none when negative
	IdleTimeout time.Duration // longest wait for the next byte; 30 s when zero

	// Sleep waits between attempts; a timer when nil. Random gives [0,1) for
	// the jitter; math/rand when nil. Both are for tests.
	Sleep  func(ctx context.Context, d time.Duration) error
	Random func() float64
}

// Fetcher fetches. It is safe for use by several goroutines.
type Fetcher struct {
	cfg    Config
	client *http.Client
}

// New returns a Fetcher.
func New(cfg Config) *Fetcher {
	if cfg.Client == nil {
		cfg.Client = http.DefaultClient
	}
	if cfg.Reporter == nil {
		cfg.Reporter = progress.Discard
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 8
	}
	switch {
	case cfg.Retries == 0:
		cfg.Retries = 4
	case cfg.Retries < 0:
		cfg.Retries = 0
	}
	if cfg.IdleTimeout <= 0 {
		cfg.IdleTimeout = 30 * time.Second
	}
	if cfg.Sleep == nil {
		cfg.Sleep = sleep
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	client := *cfg.Client
	client.CheckRedirect = checkRedirect
	return &Fetcher{cfg: cfg, client: &client}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

const maxRedirects = 5

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return permanent(fmt.Errorf("more than %d redirects", maxRedirects))
	}
	if last := via[len(via)-1]; last.URL.Scheme == "https" && req.URL.Scheme != "https" {
		return permanent(fmt.Errorf("redirected from https to %s: refused", site.Redact(req.URL.String())))
	}
	return nil
}

// Item is one input to bring into the vault.
type Item struct {
	Digest oci.Digest
	Size   int64    // bytes, -1 when unknown
	URLs   []string // tried in order
	Name   string   // for messages; the end of the first URL when empty
}

func (it Item) name() string {
	if it.Name != "" {
		return it.Name
	}
	if len(it.URLs) > 0 {
		if u, err := url.Parse(it.URLs[0]); err == nil {
			base := path.Base(u.Path)
			if strings.HasSuffix(string(it.Digest), ":"+base) { // a by-hash address says nothing
				return base[:min(12, len(base))] + "…"
			}
			return base
		}
	}
	return string(it.Digest)
}

// StatusError says that a server answered with a status that is no success.
type StatusError struct {
	URL  string // redacted
	Code int

	after time.Duration // Retry-After
}

func (e *StatusError) Error() string {
	msg := fmt.Sprintf("%s: %d %s", e.URL, e.Code, http.StatusText(e.Code))
	if e.Code == http.StatusUnauthorized || e.Code == http.StatusForbidden {
		msg += " (credentials for it belong in ~/.netrc, ~/.npmrc or apt's auth.conf)"
	}
	return msg
}

// IsNotFound tells whether a server said that it does not have the resource
// (404 or 410), rather than failing. It is meant for errors of Get and GetFirst.
func IsNotFound(err error) bool {
	var s *StatusError
	return errors.As(err, &s) && (s.Code == http.StatusNotFound || s.Code == http.StatusGone)
}

// WrongContentError says that every server that has an input serves other bytes
// than its digest names.
type WrongContentError struct {
	Name string
	URL  string // redacted, of the last server
	Err  *vault.MismatchError
}

func (e *WrongContentError) Error() string {
	return fmt.Sprintf("%s from %s: %v; the mirror and the lock disagree: run `twinhull lock`", e.Name, e.URL, e.Err)
}

func (e *WrongContentError) Unwrap() error { return e.Err }

// OfflineError says what was needed from the network while it was forbidden.
type OfflineError struct {
	Missing []string // names, in the order asked for
}

func (e *OfflineError) Error() string {
	return fmt.Sprintf("offline, but not in the vault: %s; run once without --offline, or bring them with `twinhull vault import`", someOf(e.Missing, 10))
}

func someOf(names []string, limit int) string {
	if len(names) <= limit {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), len(names)-limit)
}

// maxFailures is after how many failed items Fetch gives up on the others: a
// mirror that is gone fails for all of them alike.
const maxFailures = 16

// FailedError lists all items that could not be fetched.
type FailedError struct {
	Errs  []error // one for each item that failed, in the order asked for
	Left  int     // items not tried any more
	Total int     // items that were to be fetched
}

func (e *FailedError) Error() string {
	if e.Total == 1 {
		return fmt.Sprintf("fetch %v", e.Errs[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "fetch: %d of %d inputs failed", len(e.Errs), e.Total)
	if e.Left > 0 {
		fmt.Fprintf(&b, ", %d were not tried", e.Left)
	}
	b.WriteByte(':')
	for _, err := range e.Errs {
		fmt.Fprintf(&b, "\n\t%v", err)
	}
	return b.String()
}

func (e *FailedError) Unwrap() []error { return e.Errs }

// Fetch brings every item into the vault that it does not hold yet. Failures do
// not stop the others; they come back together in a *FailedError. When ctx ends
// Fetch returns soon with its cause, and what was transferred is continued from
// by the next Fetch. A disk that is full or may not be written ends it at once.
func (f *Fetcher) Fetch(ctx context.Context, items []Item) error {
	todo, total, err := f.missing(items)
	if err != nil || len(todo) == 0 {
		return err
	}
	if f.cfg.Offline {
		e := &OfflineError{}
		for _, it := range todo {
			e.Missing = append(e.Missing, it.name())
		}
		return e
	}
	what := fmt.Sprintf("fetch %d files", len(todo))
	if len(todo) == 1 {
		what = "fetch " + todo[0].name()
	}
	task := f.cfg.Reporter.Task(what, total)
	err = f.fetchAll(ctx, todo, task)
	task.Done(err)
	return err
}

// missing returns the items to fetch, each digest once, and their known size.
func (f *Fetcher) missing(items []Item) (todo []Item, total int64, err error) {
	at := make(map[oci.Digest]int)
	for _, it := range items {
		if f.cfg.Vault.Path(it.Digest) == "" {
			return nil, 0, fmt.Errorf("fetch %s: %q is not a sha256 or sha512 digest", it.name(), string(it.Digest))
		}
		if f.cfg.Vault.Has(it.Digest) {
			continue
		}
		if i, ok := at[it.Digest]; ok {
			todo[i].URLs = append(todo[i].URLs[:len(todo[i].URLs):len(todo[i].URLs)], it.URLs...)
			continue
		}
		at[it.Digest] = len(todo)
		todo = append(todo, it)
		total += max(0, it.Size)
	}
	return todo, total, nil
}

func (f *Fetcher) fetchAll(ctx context.Context, todo []Item, task progress.Task) error {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make([]error, len(todo))
	var (
		mu     sync.Mutex
		failed int
		left   int
		g      errgroup.Group
	)
	g.SetLimit(f.cfg.Parallel)
	for i, it := range todo {
		g.Go(func() error {
			mu.Lock()
			stop := failed >= maxFailures || ctx.Err() != nil
			if stop {
				left++
			}
			mu.Unlock()
			if stop {
				return nil
			}
			err := f.fetchOne(ctx, it, task)
			if err == nil {
				return nil
			}
			var local *localError
			if errors.As(err, &local) {
				cancel(local)
			}
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() == nil {
				errs[i] = err
				failed++
			}
			return nil
		})
	}
	_ = g.Wait() // the failures are in errs
	if outer.Err() != nil {
		return fmt.Errorf("fetch: %w", context.Cause(outer))
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("fetch: %w", cause)
	}
	if failed == 0 {
		return nil
	}
	e := &FailedError{Left: left, Total: len(todo)}
	for _, err := range errs {
		if err != nil {
			e.Errs = append(e.Errs, err)
		}
	}
	return e
}

// localError is a failure on this side of the network, which no other server
// and no further attempt will mend.
type localError struct{ err error }

func (e *localError) Error() string {
	if errors.Is(e.err, unix.ENOSPC) || errors.Is(e.err, unix.EDQUOT) {
		return e.err.Error() + ": make room, or place the cache elsewhere with --cache-dir; what was transferred is kept"
	}
	return e.err.Error()
}

func (e *localError) Unwrap() error { return e.err }

// permanentError is a failure that a further attempt at the same URL will not
// mend.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

func permanent(err error) error { return &permanentError{err} }

// fetchOne tries an item's URLs in order.
func (f *Fetcher) fetchOne(ctx context.Context, it Item, task progress.Task) error {
	if len(it.URLs) == 0 {
		return fmt.Errorf("%s (%s): no address to fetch it from", it.name(), it.Digest)
	}
	p, err := f.cfg.Vault.Resume(ctx, it.Digest, it.Size)
	if errors.Is(err, vault.ErrPresent) {
		task.Add(max(0, it.Size))
		return nil
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &localError{err}
	}
	defer p.Close()
	t := &transfer{f: f, p: p, it: it, task: task}
	t.count(p.Size())
	var errs []error
	for _, u := range it.URLs {
		err := t.from(ctx, u)
		if err == nil {
			return nil
		}
		var local *localError
		if errors.As(err, &local) || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	// Wrong bytes are worse news than an absent file: they come last, where the
	// remedy is.
	for i := len(errs) - 1; i >= 0; i-- {
		var m *vault.MismatchError
		if errors.As(errs[i], &m) {
			wrong := &WrongContentError{Name: it.name(), URL: site.Redact(it.URLs[i]), Err: m}
			return joined(append(errs[:i:i], errs[i+1:]...), wrong)
		}
	}
	return fmt.Errorf("%s: %w", it.name(), joined(errs[:len(errs)-1], errs[len(errs)-1]))
}

// joined is errors.Join on one line.
func joined(before []error, last error) error {
	if len(before) == 0 {
		return last
	}
	return &oneLine{append(before[:len(before):len(before)], last)}
}

type oneLine struct{ errs []error }

func (e *oneLine) Error() string {
	var parts []string
	for _, err := range e.errs {
		parts = append(parts, err.Error())
	}
	return strings.Join(parts, "; ")
}

func (e *oneLine) Unwrap() []error { return e.errs }

// transfer is one item under way.
type transfer struct {
	f       *Fetcher
	p       *vault.Partial
	it      Item
	task    progress.Task
	counted int64 // bytes told to task
}

// count tells the task that n bytes of the item are there.
func (t *transfer) count(n int64) {
	t.task.Add(n - t.counted)
	t.counted = n
}

// enough is the gain that makes an attempt count as a success for the number of
// retries: a connection that breaks every few megabytes still gets there.
const enough = 1 << 20

// from transfers the item from one URL, with retries.
func (t *transfer) from(ctx context.Context, u string) error {
	for attempt := 0; ; attempt++ {
		had := t.p.Size()
		err := t.attempt(ctx, u)
		t.count(t.p.Size())
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var (
			mismatch *vault.MismatchError
			local    *localError
			perm     *permanentError
		)
		switch {
		case errors.As(err, &local), errors.As(err, &perm):
			return err
		case errors.As(err, &mismatch):
			if had == 0 {
				return err
			}
			// The bytes that were there already may be the wrong ones, from a
			// disk that lost a write or from another server: once more from
			// nothing. The vault has dropped them.
			if err := t.p.Restart(); err != nil {
				return &localError{err}
			}
			t.count(0)
			continue
		}
		if t.p.Size()-had >= enough {
			attempt = -1
			continue
		}
		if attempt >= t.f.cfg.Retries {
			return err
		}
		if err := t.f.pause(ctx, attempt, err); err != nil {
			return err
		}
	}
}

// pause waits before the next attempt: half a second, doubled each time, at
// most 15 s, with a jitter so that parallel transfers do not return together;
// as long as the server asks when it does, within half a minute.
func (f *Fetcher) pause(ctx context.Context, attempt int, err error) error {
	d := min(500*time.Millisecond<<min(attempt, 10), 15*time.Second)
	d = d/2 + time.Duration(f.cfg.Random()*float64(d))
	var s *StatusError
	if errors.As(err, &s) && s.after > 0 {
		d = min(max(d, s.after), 30*time.Second)
	}
	return f.cfg.Sleep(ctx, d)
}

// attempt is one request for what is missing, and the commit when it is all
// there.
//
// No If-Range is sent. It guards against joining halves of two versions, by a
// validator that differs between mirrors of the same bytes; here the digest
// guards, and a transfer may go on from another mirror.
func (t *transfer) attempt(ctx context.Context, u string) error {
	have := t.p.Size()
	if t.it.Size >= 0 && have == t.it.Size {
		return t.commit()
	}
	header := make(http.Header)
	if have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := t.f.do(ctx, u, header)
	if err != nil {
		var s *StatusError
		if errors.As(err, &s) && s.Code == http.StatusRequestedRangeNotSatisfiable && have > 0 {
			if err := t.p.Restart(); err != nil {
				return &localError{err}
			}
			return fmt.Errorf("%s: the server has less than was transferred already", s.URL)
		}
		return err
	}
	defer resp.Body.Close()
	expect := t.it.Size
	if have > 0 {
		if start, ok := rangeStart(resp); resp.StatusCode == http.StatusPartialContent && ok && start == have {
			expect = max(-1, expect-have)
		} else {
			// The server ignored the range (200) or gave another one.
			if err := t.p.Restart(); err != nil {
				return &localError{err}
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: answered another range than asked for", site.Redact(u))
			}
		}
		t.count(t.p.Size())
	}
	if t.it.Size >= 0 && resp.ContentLength >= 0 && resp.ContentLength != expect {
		// Not worth transferring. A wrong page of a portal ends here, too.
		return &vault.MismatchError{Want: t.it.Digest, WantSize: t.it.Size, GotSize: t.it.Size - expect + resp.ContentLength}
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, werr := t.p.Write(buf[:n]); werr != nil {
				var m *vault.MismatchError
				if errors.As(werr, &m) {
					return werr
				}
				return &localError{werr}
			}
			t.count(t.p.Size())
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", site.Redact(u), cause(err))
		}
	}
	if t.it.Size >= 0 && t.p.Size() < t.it.Size {
		return fmt.Errorf("%s: ended after %d of %d bytes", site.Redact(u), t.p.Size(), t.it.Size)
	}
	return t.commit()
}

func (t *transfer) commit() error {
	err := t.p.Commit()
	var m *vault.MismatchError
	if err != nil && !errors.As(err, &m) {
		return &localError{err}
	}
	return err
}

// rangeStart reads "bytes 100-199/200" (RFC 9110, section 14.4).
func rangeStart(resp *http.Response) (int64, bool) {
	rest, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes ")
	if !ok {
		return 0, false
	}
	first, _, ok := strings.Cut(rest, "-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(first, 10, 64)
	return n, err == nil
}

// do sends one request and returns a response with status 200 or 206, whose
// body fails when no byte comes for the idle timeout.
func (f *Fetcher) do(ctx context.Context, u string, header http.Header) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	idle := &idleBody{timeout: f.cfg.IdleTimeout, cancel: cancel}
	idle.timer = time.AfterFunc(f.cfg.IdleTimeout, func() { cancel(errIdle(f.cfg.IdleTimeout)) })
	fail := func(err error) (*http.Response, error) {
		idle.timer.Stop()
		cancel(nil)
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil || req.URL.Host == "" || (req.URL.Scheme != "http" && req.URL.Scheme != "https") {
		return fail(permanent(fmt.Errorf("%s: not a URL that can be fetched", site.Redact(u))))
	}
	for k, v := range header {
		req.Header[k] = v
	}
	// The bytes as they are stored, and no decompression by the transport.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "twinhull")
	resp, err := f.client.Do(req)
	if err != nil {
		var certificate *tls.CertificateVerificationError
		switch {
		case context.Cause(ctx) != nil: // the idle timeout or the caller
			err = context.Cause(ctx)
		case errors.As(err, &certificate):
			err = permanent(fmt.Errorf("%w; further certificate authorities belong under ca in twinhull's config file or in NODE_EXTRA_CA_CERTS", cause(err)))
		default:
			err = cause(err)
		}
		return fail(fmt.Errorf("%s: %w", site.Redact(u), err))
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent && header.Get("Range") != "" {
		idle.body, idle.ctx = resp.Body, ctx
		resp.Body = idle
		return resp, nil
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
	resp.Body.Close()
	s := &StatusError{URL: site.Redact(u), Code: resp.StatusCode}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		s.after = time.Duration(min(n, 3600)) * time.Second
	}
	switch c := resp.StatusCode; {
	case c >= 500, c == http.StatusRequestTimeout, c == http.StatusTooEarly, c == http.StatusTooManyRequests,
		c == http.StatusRequestedRangeNotSatisfiable && header.Get("Range") != "":
		return fail(s)
	}
	return fail(permanent(s))
}

// cause takes the URL, which may hold credentials, off an error of net/http.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

type errIdle time.Duration

func (e errIdle) Error() string {
	return fmt.Sprintf("no data for %s", time.Duration(e))
}

// idleBody ends a body that gives nothing for too long.
type idleBody struct {
	body    io.ReadCloser
	ctx     context.Context
	timeout time.Duration
	timer   *time.Timer
	cancel  context.CancelCauseFunc
}

func (b *idleBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if n > 0 {
		b.timer.Reset(b.timeout)
	}
	if err != nil && err != io.EOF {
		if c := context.Cause(b.ctx); c != nil {
			err = c
		}
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	err := b.body.Close()
	b.cancel(nil)
	return err
}

// Get returns the body of a resource that has no digest yet (a signed index),
// at most limit bytes. Passing failures are retried. IsNotFound tells a missing
// one; offline it is an *OfflineError.
func (f *Fetcher) Get(ctx context.Context, u string, limit int64) ([]byte, error) {
	if f.cfg.Offline {
		return nil, &OfflineError{Missing: []string{site.Redact(u)}}
	}
	for attempt := 0; ; attempt++ {
		data, err := f.getOnce(ctx, u, limit)
		if err == nil {
			return data, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("fetch: %w", context.Cause(ctx))
		}
		var perm *permanentError
		if errors.As(err, &perm) || attempt >= f.cfg.Retries {
			return nil, fmt.Errorf("fetch %w", err)
		}
		if err := f.pause(ctx, attempt, err); err != nil {
			return nil, fmt.Errorf("fetch: %w", err)
		}
	}
}

func (f *Fetcher) getOnce(ctx context.Context, u string, limit int64) ([]byte, error) {
	resp, err := f.do(ctx, u, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.ContentLength > limit {
		return nil, permanent(fmt.Errorf("%s: %d bytes where at most %d are expected", site.Redact(u), resp.ContentLength, limit))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", site.Redact(u), cause(err))
	}
	if int64(len(data)) > limit {
		return nil, permanent(fmt.Errorf("%s: more than the expected %d bytes", site.Redact(u), limit))
	}
	return data, nil
}

// GetFirst is Get over mirrors of one resource: the first that gives it wins,
// and its URL is returned too. The error matches IsNotFound only when all of
// them said so; else it is that of the first that failed otherwise.
func (f *Fetcher) GetFirst(ctx context.Context, urls []string, limit int64) ([]byte, string, error) {
	var errs []error
	for _, u := range urls {
		data, err := f.Get(ctx, u, limit)
		if err == nil {
			return data, u, nil
		}
		if ctx.Err() != nil {
			return nil, "", err
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, "", errors.New("fetch: no address given")
	}
	for _, err := range errs {
		if !IsNotFound(err) {
			return nil, "", err
		}
	}
	return nil, "", errs[0]
}

// maxBlob bounds Blob for inputs of unknown size.
const maxBlob = 1 << 30

// Blob is Fetch for one input that is needed in memory. size is -1 when unknown.
func (f *Fetcher) Blob(ctx context.Context, d oci.Digest, size int64, urls []string) ([]byte, error) {
	if err := f.Fetch(ctx, []Item{{Digest: d, Size: size, URLs: urls}}); err != nil {
		return nil, err
	}
	limit := size
	if limit < 0 {
		limit = maxBlob
	}
	return f.cfg.Vault.ReadFile(d, limit)
}
