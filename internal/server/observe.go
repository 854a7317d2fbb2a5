package server

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"twinhull.dev/twinhull/internal/registry/access"
)

// seen is what is noted about one request: for the log, for metrics, and so that
// credentials are looked at once and count once.
type seen struct {
	http.ResponseWriter
	status int
	out    int64
	in     countedBody

	id    string // names the request in logs and to the client
	route string // for metrics

	once     sync.Once
	identity access.Identity
	refused  error
}

type seenKey struct{}

// observe gives each request a name, counts it, and logs one line about it. The
// line has no header, no query and no body: tokens and upload addresses are there.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := s.opt.Now()
		o := &seen{ResponseWriter: w, id: rand.Text()[:16], route: routeOf(r.URL.Path)}
		r = r.WithContext(context.WithValue(r.Context(), seenKey{}, o))
		if r.Body != nil && r.Body != http.NoBody {
			o.in.ReadCloser = r.Body
			r.Body = &o.in
		}
		w.Header()["X-Request-Id"] = []string{o.id}
		s.metrics.active.Inc()
		panicked := true
		defer func() {
			s.metrics.active.Dec()
			took := s.opt.Now().Sub(start)
			s.metrics.request(o.route, r.Method, o.status, o.in.n, o.out, took)
			level := slog.LevelInfo
			switch {
			case panicked && o.status == 0, o.status >= 500 && o.status != http.StatusServiceUnavailable:
				level = slog.LevelError
			case o.route == "health":
				level = slog.LevelDebug
			}
			if !s.log.Enabled(r.Context(), level) {
				return
			}
			s.log.LogAttrs(r.Context(), level, "request",
				slog.String("method", clip(r.Method, 20)), slog.String("path", clip(r.URL.Path, 512)), slog.Int("status", o.status),
				slog.Int64("in", o.in.n), slog.Int64("out", o.out), slog.Duration("took", took),
				slog.String("by", o.identity.String()), slog.String("from", s.guard.Load().Address(r).String()),
				slog.String("agent", clip(r.UserAgent(), 120)), slog.String("id", o.id))
		}()
		next.ServeHTTP(o, r)
		panicked = false
	})
}

// seenOf is what observe notes about a request.
func seenOf(r *http.Request) *seen {
	o, _ := r.Context().Value(seenKey{}).(*seen)
	return o
}

// identify says who asks, once for each request.
func (s *Server) identify(r *http.Request) (access.Identity, error) {
	o := seenOf(r)
	if o == nil {
		return s.guard.Load().Identify(r)
	}
	o.once.Do(func() { o.identity, o.refused = s.guard.Load().Identify(r) })
	return o.identity, o.refused
}

// routeOf groups paths for metrics. The distribution handler says more exactly.
func routeOf(path string) string {
	switch {
	case path == "/healthz", path == "/readyz":
		return "health"
	case path == "/metrics":
		return "metrics"
	case path == "/v2" || strings.HasPrefix(path, "/v2/"):
		return "v2"
	case strings.HasPrefix(path, "/twinhull/v1/log/"):
		return "log"
	case strings.HasPrefix(path, "/twinhull/v1/"):
		return "api"
	}
	return "none"
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

func (o *seen) WriteHeader(status int) {
	if o.status == 0 && status >= 200 { // 1xx go before the answer
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *seen) Write(p []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	n, err := o.ResponseWriter.Write(p)
	o.out += int64(n)
	return n, err
}

// ReadFrom passes files on to the connection, so that the kernel sends them.
func (o *seen) ReadFrom(r io.Reader) (int64, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	var n int64
	var err error
	if rf, ok := o.ResponseWriter.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(r)
	} else {
		n, err = io.Copy(struct{ io.Writer }{o.ResponseWriter}, r)
	}
	o.out += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (o *seen) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// countedBody counts what the client sent.
type countedBody struct {
	io.ReadCloser
	n int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}
