package api

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func newAPI(perSecond int) *API {
	clock := func() time.Time { return time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC) }
	return New(slog.New(slog.DiscardHandler), clock, perSecond)
}

func call(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader(body)))
	return rec
}

func TestAnswers(t *testing.T) {
	a := newAPI(100)
	for _, c := range []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"alive", "GET", "/health", "", 200, `{"status":"ok"}`},
		{"ready", "GET", "/ready", "", 200, `{"status":"ready"}`},
		{"time", "GET", "/time/Europe/Paris", "", 200, `{"time":"2026-07-01T14:00:00+02:00","zone":"CEST","offsetSeconds":7200}`},
		{"no such zone", "GET", "/time/Mars", "", 404, `unknown time zone`},
		{"zone outside", "GET", "/time/../../etc/passwd", "", 404, `error`},
		{"meeting", "POST", "/meetings",
			`{"day":"2026-01-14","people":[{"name":"a","zone":"Europe/Paris","from":9,"to":17},{"name":"b","zone":"America/New_York","from":9,"to":17}]}`,
			200, `{"slots":[{"start":"2026-01-14T14:00:00Z","end":"2026-01-14T16:00:00Z"}]}`},
		{"no time in common", "POST", "/meetings",
			`{"day":"2026-01-17","people":[{"name":"a","zone":"UTC","from":9,"to":17}]}`, 200, `{"slots":[]}`},
		{"nobody", "POST", "/meetings", `{"day":"2026-01-14","people":[]}`, 422, `want 1 to 50 people`},
		{"no day", "POST", "/meetings", `{"people":[]}`, 422, `day: want a date`},
		{"unknown key", "POST", "/meetings", `{"date":"2026-01-14"}`, 400, `unknown field`},
		{"not JSON", "POST", "/meetings", `day=1`, 400, `invalid character`},
		{"too large", "POST", "/meetings", `{"day":"` + strings.Repeat("x", maxBody) + `"}`, 413, `too large`},
		{"wrong method", "GET", "/meetings", "", 405, `not allowed`},
		{"nowhere", "GET", "/nowhere", "", 404, `no such path`},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := call(a, c.method, c.path, c.body)
			if rec.Code != c.code || !strings.Contains(rec.Body.String(), c.want) {
				t.Errorf("got %d %s, want %d …%s…", rec.Code, rec.Body, c.code, c.want)
			}
			if got := rec.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("Content-Type %q", got)
			}
		})
	}
}

func TestDrainTurnsReadyOff(t *testing.T) {
	a := newAPI(100)
	a.Drain()
	if rec := call(a, "GET", "/ready", ""); rec.Code != 503 {
		t.Errorf("/ready while draining: %d, want 503", rec.Code)
	}
	if rec := call(a, "GET", "/time/UTC", ""); rec.Code != 200 {
		t.Errorf("/time while draining: %d, want 200", rec.Code)
	}
}

func TestLimit(t *testing.T) {
	a := newAPI(1)
	var codes []int
	for range 3 {
		codes = append(codes, call(a, "GET", "/time/UTC", "").Code)
	}
	if codes[1] != 200 || codes[2] != 429 {
		t.Errorf("got %v, want the third refused", codes)
	}
	if rec := call(a, "GET", "/health", ""); rec.Code != 200 {
		t.Error("a probe was limited")
	}
}
