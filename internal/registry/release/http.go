package release

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/catalog"
)

// Who tells who asks, or refuses him with a *registry.Error: verb is one of the
// Verb constants, repository is "" when it is about the server as a whole.
type Who func(r *http.Request, verb, repository string) (audit.Actor, error)

// The verbs that the interface asks for.
const (
	VerbPull     = "pull"
	VerbPush     = "push"
	VerbPin      = "pin"
	VerbRelease  = "release"
	VerbRevoke   = "revoke"
	VerbRollBack = "roll-back"
	VerbErase    = "erase"
	VerbAudit    = "audit"
	VerbOperate  = "operate"
)

// maxBody bounds a request, in bytes: an erasure brings two bundles.
const maxBody = 4 << 20

// Handler answers below Prefix. challenge is the WWW-Authenticate header of a
// refusal to somebody who may sign in.
func Handler(s *Service, who Who, challenge string) http.Handler {
	h := &handler{s, who, challenge}
	m := http.NewServeMux()
	get := func(name string, f func(*http.Request) (any, error)) {
		m.HandleFunc("GET "+Prefix+name, h.answer(f))
	}
	get("server", func(r *http.Request) (any, error) { return s.Info(r.Context()) })
	get("repositories", h.repositories)
	get("versions", h.versions)
	get("tags", h.tags)
	get("history", h.history)
	get("why", h.why)
	post(m, h, "release", func(r *http.Request, q Request) (any, error) {
		a, err := who(r, VerbRelease, q.Repository)
		if err != nil {
			return nil, err
		}
		return s.Release(r.Context(), q, a)
	})
	post(m, h, "judge", func(r *http.Request, q JudgeRequest) (any, error) {
		// It costs as much as reading an image: not for everybody who may pull.
		_, home := catalog.Of(q.Repository)
		if _, err := who(r, VerbPush, home+"/candidate"); err != nil {
			if _, also := who(r, VerbRelease, home); also != nil {
				return nil, err
			}
		}
		return s.Judge(r.Context(), q)
	})
	post(m, h, "revoke", func(r *http.Request, q RevokeRequest) (any, error) {
		a, err := who(r, VerbRevoke, q.Repository)
		if err != nil {
			return nil, err
		}
		return s.Revoke(r.Context(), q, a)
	})
	post(m, h, "rollback", func(r *http.Request, q OrderRequest) (any, error) {
		a, err := who(r, VerbRollBack, q.Repository)
		if err != nil {
			return nil, err
		}
		return s.RollBack(r.Context(), q, a)
	})
	post(m, h, "erase", func(r *http.Request, q OrderRequest) (any, error) {
		a, err := who(r, VerbErase, q.Repository)
		if err != nil {
			return nil, err
		}
		return s.Erase(r.Context(), q, a)
	})
	post(m, h, "pin", func(r *http.Request, q PinRequest) (any, error) {
		a, err := who(r, VerbPin, q.Repository)
		if err != nil {
			return nil, err
		}
		if err := s.c.Registry.Pin(r.Context(), q.Repository, q.Reference, q.Pinned, a); err != nil {
			return nil, err
		}
		return q, nil
	})
	post(m, h, "collect", func(r *http.Request, q CollectRequest) (any, error) {
		if _, err := who(r, VerbOperate, ""); err != nil {
			return nil, err
		}
		return s.c.Registry.Collect(r.Context(), q.DryRun)
	})
	post(m, h, "compare", func(r *http.Request, q CompareRequest) (any, error) {
		a, err := who(r, VerbAudit, "")
		if err != nil {
			return nil, err
		}
		return s.Compare(r.Context(), q.To, a)
	})
	m.HandleFunc(Prefix, func(w http.ResponseWriter, r *http.Request) {
		h.problem(w, r, problemf(http.StatusNotFound, registry.Unsupported, BadRequest, "there is no %s %s", r.Method, clip(r.URL.Path)))
	})
	return m
}

type handler struct {
	s         *Service
	who       Who
	challenge string
}

func post[T any](m *http.ServeMux, h *handler, name string, f func(*http.Request, T) (any, error)) {
	m.HandleFunc("POST "+Prefix+name, h.answer(func(r *http.Request) (any, error) {
		// A page in somebody's browser can send forms and text anywhere, but not
		// this type without being asked first.
		if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
			return nil, problemf(http.StatusUnsupportedMediaType, registry.Unsupported, BadRequest, "want Content-Type: application/json")
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil {
			return nil, bad("the request could not be read to its end")
		}
		if len(body) > maxBody {
			return nil, problemf(http.StatusRequestEntityTooLarge, registry.SizeInvalid, BadRequest, "the request has more than %d bytes", maxBody)
		}
		var q T
		if err := strictjson.Unmarshal(body, &q); err != nil {
			return nil, bad("the request: %v", err)
		}
		return f(r, q)
	}))
}

func (h *handler) answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// Reading an image may take longer than other answers.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		out, err := f(r)
		if err != nil {
			h.problem(w, r, err)
			return
		}
		write(w, http.StatusOK, out)
	}
}

func write(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		status, raw = http.StatusInternalServerError, []byte(`{"code":"UNAVAILABLE","message":"the answer could not be written"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n')) // a client that went away needs no answer
}

func (h *handler) problem(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // nobody listens
	}
	p := ProblemOf(err)
	if p.Status >= 500 || p.Err != nil {
		h.s.c.Logger.Error("request failed", "path", r.URL.Path, "request", p.ID, "message", p.Message, "error", p.Err)
	}
	if p.Status == http.StatusUnauthorized && h.challenge != "" {
		w.Header().Set("WWW-Authenticate", h.challenge)
	}
	write(w, p.Status, p)
}

// named checks the repository that a reading request is about.
func (h *handler) named(r *http.Request) (string, error) {
	name := r.URL.Query().Get("repository")
	if !catalog.ValidName(name) {
		return "", bad("repository %q is no repository's name", clip(name))
	}
	_, err := h.who(r, VerbPull, name)
	return name, err
}

func (h *handler) repositories(r *http.Request) (any, error) {
	out := struct {
		Repositories []string `json:"repositories"`
	}{[]string{}}
	for page := (registry.Page{Limit: 500}); ; {
		names, more, err := h.s.c.Registry.Repositories(r.Context(), page)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			_, err := h.who(r, VerbPull, n)
			if err == nil {
				out.Repositories = append(out.Repositories, n)
				continue
			}
			// Who is known and may not is denied, so these credentials are wrong:
			// an empty list would hide it, and asking again costs as much each time.
			if e, ok := errors.AsType[*registry.Error](err); ok && e.Code == registry.Unauthorized && r.Header.Get("Authorization") != "" {
				return nil, err
			}
		}
		if !more || len(names) == 0 {
			return out, nil
		}
		page.After = names[len(names)-1]
	}
}

func (h *handler) versions(r *http.Request) (any, error) {
	name, err := h.named(r)
	if err != nil {
		return nil, err
	}
	all, err := h.s.c.Registry.Versions(r.Context(), name)
	if all == nil {
		all = []registry.Released{}
	}
	return struct {
		Versions []registry.Released `json:"versions"`
	}{all}, err
}

func (h *handler) tags(r *http.Request) (any, error) {
	name, err := h.named(r)
	if err != nil {
		return nil, err
	}
	out := struct {
		Tags []registry.Tag `json:"tags"`
	}{[]registry.Tag{}}
	for page := (registry.Page{Limit: 500, After: r.URL.Query().Get("after")}); len(out.Tags) < 10_000; {
		names, more, err := h.s.c.Registry.Tags(r.Context(), name, page)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			t, err := h.s.c.Registry.TagOf(r.Context(), name, n)
			if unknown(err) {
				continue // deleted since
			}
			if err != nil {
				return nil, err
			}
			out.Tags = append(out.Tags, t)
		}
		if !more || len(names) == 0 {
			break
		}
		page.After = names[len(names)-1]
	}
	return out, nil
}

func (h *handler) history(r *http.Request) (any, error) {
	name, err := h.named(r)
	if err != nil {
		return nil, err
	}
	tag := r.URL.Query().Get("tag")
	if err := oci.ValidTag(tag); err != nil {
		return nil, bad("%v", err)
	}
	limit := 100
	if s := r.URL.Query().Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > 10_000 {
			return nil, bad("limit %q: want 1 to 10000", clip(s))
		}
	}
	all, err := h.s.c.Registry.History(r.Context(), name, tag, limit)
	if all == nil {
		all = []registry.Event{}
	}
	return struct {
		Events []registry.Event `json:"events"`
	}{all}, err
}

func (h *handler) why(r *http.Request) (any, error) {
	name, err := h.named(r)
	if err != nil {
		return nil, err
	}
	d := oci.Digest(r.URL.Query().Get("digest"))
	if err := d.Validate(); err != nil {
		return nil, bad("digest %q: %v", clip(string(d)), err)
	}
	return h.s.c.Registry.Why(r.Context(), name, d)
}
