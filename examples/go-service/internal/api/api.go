// Package api is the HTTP face of the planner: routes, limits and answers. It
// does not listen; main does.
package api

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"golang.org/x/time/rate"

	"example.org/go-service/internal/planner"
)

const maxBody = 64 << 10 // bytes of one request

// API is an http.Handler. Make it with New.
type API struct {
	http.Handler
	log      *slog.Logger
	now      func() time.Time
	limit    *rate.Limiter
	draining atomic.Bool
}

// New returns the interface. perSecond is how many requests a second are
// answered, probes not counted; bursts may reach twice that.
func New(log *slog.Logger, now func() time.Time, perSecond int) *API {
	a := &API{log: log, now: now, limit: rate.NewLimiter(rate.Limit(perSecond), 2*perSecond)}
	r := chi.NewRouter()
	r.Get("/health", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, status{"ok"}) })
	r.Get("/ready", a.ready)
	r.Group(func(r chi.Router) {
		r.Use(a.logged, middleware.Recoverer, a.limited)
		r.Get("/time/*", a.time)
		r.Post("/meetings", a.meetings)
	})
	r.NotFound(func(w http.ResponseWriter, _ *http.Request) { fail(w, http.StatusNotFound, "no such path") })
	r.MethodNotAllowed(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusMethodNotAllowed, "method not allowed here")
	})
	a.Handler = r
	return a
}

// Drain makes /ready answer 503 from now on; everything else still works.
func (a *API) Drain() { a.draining.Store(true) }

type status struct {
	Status string `json:"status"`
}

func (a *API) ready(w http.ResponseWriter, _ *http.Request) {
	if a.draining.Load() {
		fail(w, http.StatusServiceUnavailable, "shutting down")
		return
	}
	answer(w, 200, status{"ready"})
}

// time answers GET /time/Europe/Paris.
func (a *API) time(w http.ResponseWriter, r *http.Request) {
	loc, err := planner.Zone(chi.URLParam(r, "*"))
	if err != nil {
		fail(w, http.StatusNotFound, err.Error())
		return
	}
	t := a.now().In(loc)
	zone, offset := t.Zone()
	answer(w, 200, struct {
		Time    string `json:"time"`
		Zone    string `json:"zone"`
		Seconds int    `json:"offsetSeconds"`
	}{t.Format(time.RFC3339), zone, offset})
}

func (a *API) meetings(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Day    string           `json:"day"` // 2006-01-02
		People []planner.Person `json:"people"`
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&ask); err != nil {
		code := http.StatusBadRequest
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			code = http.StatusRequestEntityTooLarge
		}
		fail(w, code, err.Error())
		return
	}
	day, err := time.Parse(time.DateOnly, ask.Day)
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, "day: want a date such as 2026-01-14")
		return
	}
	slots, err := planner.Overlap(day, ask.People)
	switch {
	case errors.Is(err, planner.ErrInvalid):
		fail(w, http.StatusUnprocessableEntity, err.Error())
	case err != nil:
		a.log.Error("cannot plan", "err", err)
		fail(w, http.StatusInternalServerError, "internal error")
	default:
		answer(w, 200, struct {
			Slots []planner.Slot `json:"slots"`
		}{slots})
	}
}

func (a *API) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.limit.Allow() {
			w.Header().Set("Retry-After", "1")
			fail(w, http.StatusTooManyRequests, "too many requests")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *API) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := a.now()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(ww, r)
		a.log.Info("request", "method", r.Method, "path", r.URL.Path, "status", ww.Status(), "took", a.now().Sub(began))
	})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // fails only when the client has gone
}

func fail(w http.ResponseWriter, code int, why string) {
	answer(w, code, struct {
		Error string `json:"error"`
	}{why})
}
