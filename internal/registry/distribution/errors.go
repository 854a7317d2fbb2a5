package distribution

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Codes that only the protocol needs. "All client implementations SHOULD treat
// unknown error codes as UNKNOWN".
const (
	codeUnknown    registry.Code = "UNKNOWN"     // Docker's word for everything else
	codeNotFound   registry.Code = "NOT_FOUND"   // no such end-point
	codeBadRequest registry.Code = "BAD_REQUEST" // a query that nobody can read
	codePagination registry.Code = "PAGINATION_NUMBER_INVALID"
	codeTimeout    registry.Code = "REQUEST_TIMEOUT" // the client stopped sending
)

// status is the one table from what went wrong to a status. Two codes are more
// than one status (see statusOf).
var status = map[registry.Code]int{
	registry.BlobUnknown:         http.StatusNotFound,
	registry.BlobUploadInvalid:   http.StatusBadRequest,
	registry.BlobUploadUnknown:   http.StatusNotFound,
	registry.DigestInvalid:       http.StatusBadRequest,
	registry.ManifestBlobUnknown: http.StatusBadRequest,
	registry.ManifestInvalid:     http.StatusBadRequest,
	registry.ManifestUnknown:     http.StatusNotFound,
	registry.NameInvalid:         http.StatusBadRequest,
	registry.NameUnknown:         http.StatusNotFound,
	registry.SizeInvalid:         http.StatusBadRequest,
	registry.RangeInvalid:        http.StatusRequestedRangeNotSatisfiable,
	registry.TagInvalid:          http.StatusBadRequest,
	registry.Unauthorized:        http.StatusUnauthorized,
	registry.Denied:              http.StatusForbidden,
	registry.Unsupported:         http.StatusMethodNotAllowed,
	registry.TooManyRequests:     http.StatusTooManyRequests,
	registry.Conflict:            http.StatusConflict,
	registry.Unavailable:         http.StatusServiceUnavailable,

	codeUnknown:    http.StatusInternalServerError,
	codeNotFound:   http.StatusNotFound,
	codeBadRequest: http.StatusBadRequest,
	codePagination: http.StatusBadRequest,
	codeTimeout:    http.StatusRequestTimeout,
}

// statusOf is the status of a refusal.
//
// A delete that a rule of the catalogs refuses is 405, as the specification
// answers deletes that a registry does not do ("Deleting tags", "Deleting
// manifests", "Deleting blobs"); one that access refuses stays 403: somebody else
// may. A write that a rule refuses is 403, a released tag that is overwritten too,
// and not 409: nothing that the client could wait for or look up again would let
// it through. podman, skopeo and crane show the same words with 403, 405 and 409
// and repeat with none of them, so that the meaning decides.
func statusOf(k Kind, e *registry.Error, judged bool) int {
	switch {
	case e.Code == registry.Denied && k.Verb() == Delete && !judged:
		return http.StatusMethodNotAllowed
	case e.Reason == registry.ManifestTooLarge || e.Reason == blobTooLarge:
		return http.StatusRequestEntityTooLarge // end-7: "413"
	}
	if s, ok := status[e.Code]; ok {
		return s
	}
	return http.StatusBadRequest
}

// Refusal is how a judge refuses: an error with what HTTP wants beside it. A
// judge may also return a *registry.Error alone.
type Refusal struct {
	Err        *registry.Error
	Challenges []string      // of code UNAUTHORIZED: values of WWW-Authenticate, at least one (RFC 9110, 15.5.2)
	RetryAfter time.Duration // of TOOMANYREQUESTS and UNAVAILABLE; 0: a second
}

func (r *Refusal) Error() string { return r.Err.Error() }

func (r *Refusal) Unwrap() error { return r.Err }

// MethodError is a method that a path of the specification does not have.
type MethodError struct {
	Allow string // those that it has, as the header of the same name
}

func (e *MethodError) Error() string { return "this path has the methods " + e.Allow + " only" }

func refuse(c registry.Code, message string) *registry.Error {
	return &registry.Error{Code: c, Message: message}
}

// body is the specification's JSON of errors ("Error Codes").
type body struct {
	Errors []bodyError `json:"errors"`
}

type bodyError struct {
	Code    registry.Code `json:"code"`
	Message string        `json:"message"`
	Detail  *bodyDetail   `json:"detail,omitempty"`
}

// bodyDetail is for programs. Reason is one of registry.Reason; Entry is the
// index of the entry of the audit log that records the refusal.
type bodyDetail struct {
	Reason  registry.Reason `json:"reason,omitempty"`
	Remedy  string          `json:"remedy,omitempty"`
	Entry   *uint64         `json:"entry,omitempty"`
	Request string          `json:"request,omitempty"` // of what the server's log explains
}

// fail answers with an error. judged: it is the judge's.
func (h *handler) fail(w *response, r *http.Request, k Kind, err error, judged bool) {
	if w.status != 0 {
		// The answer has begun; all that can be done is not to end it well. The
		// connection is not usable any more, and net/http must know.
		if !errors.Is(err, errGone) {
			h.log.Debug("answer broken off", slog.String("kind", k.String()), slog.Any("error", err))
		}
		panic(http.ErrAbortHandler)
	}
	hd := w.Header()
	var (
		e       *registry.Error
		refusal *Refusal
		method  *MethodError
		retry   time.Duration
		code    int
		request string
	)
	switch {
	case errors.As(err, &method):
		hd.Set("Allow", method.Allow)
		e = refuse(registry.Unsupported, method.Error())
		code = http.StatusMethodNotAllowed
	case errors.As(err, &refusal):
		e, retry = refusal.Err, refusal.RetryAfter
		for _, c := range refusal.Challenges {
			hd.Add("WWW-Authenticate", c)
		}
		code = statusOf(k, e, judged)
	case errors.As(err, &e):
		code = statusOf(k, e, judged)
	case errors.Is(err, store.ErrFull):
		// The store's own errors are the server's, but these say what to do.
		e = &registry.Error{Code: registry.Unavailable, Message: "the registry has no space left", Remedy: "ask its operator for space, then push again"}
		code = http.StatusInsufficientStorage
		h.log.Error("no space left", slog.String("kind", k.String()), slog.Any("error", err))
	case errors.Is(err, store.ErrReadOnly):
		e = &registry.Error{Code: registry.Unavailable, Message: "the registry is read-only now", Remedy: "push again later"}
		code = http.StatusServiceUnavailable
		h.log.Error("store is read-only", slog.String("kind", k.String()), slog.Any("error", err))
	case errors.Is(err, store.ErrBusy):
		e = &registry.Error{Code: registry.Conflict, Message: "another request is writing this upload", Remedy: "ask for its status (GET) and go on from there"}
		code = http.StatusConflict
	default:
		// Nothing of an error that nobody named goes to the client: a path, an
		// address or a query may be in it.
		request = h.requestID(r)
		hd.Set("X-Request-Id", request)
		e = refuse(codeUnknown, "internal error; the server's log explains it under request "+request)
		code = http.StatusInternalServerError
		if r.Context().Err() == nil { // else the client has gone, and that is why
			h.log.Error("request failed", slog.String("request", request), slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
		}
	}
	switch code {
	case http.StatusMethodNotAllowed:
		if hd.Get("Allow") == "" {
			hd.Set("Allow", "GET, HEAD") // RFC 9110, 15.5.6: a list MUST be there
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		hd.Set("Retry-After", strconv.Itoa(max(1, int((retry+time.Second-1)/time.Second))))
	}
	hd.Set("Content-Type", "application/json")
	if r.Method == http.MethodHead {
		w.WriteHeader(code)
		return
	}
	// docker, podman, skopeo and containerd show the message and nothing of the
	// detail: the remedy has to be in both.
	out := bodyError{Code: e.Code, Message: e.Message}
	if e.Remedy != "" {
		out.Message += "; " + e.Remedy
	}
	if d := (bodyDetail{Reason: e.Reason, Remedy: e.Remedy, Request: request}); d != (bodyDetail{}) || e.Logged {
		if e.Logged {
			d.Entry = &e.Entry
		}
		out.Detail = &d
	}
	b, err := json.Marshal(body{Errors: []bodyError{out}})
	if err != nil {
		b = []byte(`{"errors":[{"code":"UNKNOWN","message":"internal error"}]}`)
	}
	hd.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(code)
	w.Write(b)
}

func (h *handler) requestID(r *http.Request) string {
	if h.opt.RequestID != nil {
		if id := h.opt.RequestID(r); id != "" {
			return id
		}
	}
	var b [8]byte
	rand.Read(b[:]) // never fails (package crypto/rand)
	return hex.EncodeToString(b[:])
}
