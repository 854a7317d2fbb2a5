package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/trust"
)

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	y := w.candidate(corpus.Base())
	w.release(y.image.Digest, "1.0.0")
	req := RevokeRequest{ID: NewID(), Repository: app, Version: "1.0.0", Reason: "CVE-2026-1 is exploited"}
	r, err := w.s.Revoke(t.Context(), req, ann)
	if err != nil || r.Digest != y.image.Digest || !slices.Equal(r.Versions, []string{"1.0.0"}) || !slices.Contains(r.Tags, "latest") {
		t.Fatalf("%+v, %v", r, err)
	}
	// The bytes and tags stay; a failed summary says what nobody may admit.
	if w.tag("1.0.0") != y.image.Digest {
		t.Error("the version is gone")
	}
	var failed []summary.Predicate
	for _, s := range w.summaries(y.image.Digest) {
		if s.VerificationResult == summary.Failed {
			failed = append(failed, s)
		}
	}
	if len(failed) != 1 || !slices.Equal(failed[0].Reasons, []string{"revoked: CVE-2026-1 is exploited"}) || failed[0].ResourceURI != "oci://"+host+"/"+app {
		t.Errorf("%+v", failed)
	}
	e := w.entries()[r.Entry]
	if e.Action != audit.Revoke || e.Actor != ann || e.Object.Digest != y.image.Digest || !slices.Contains(e.Reasons, req.Reason) || e.Summary != r.Summaries[0] {
		t.Errorf("%+v", e)
	}
	again, err := w.s.Revoke(t.Context(), req, ann)
	if err != nil || !again.Repeated || again.Entry != r.Entry {
		t.Errorf("%+v, %v", again, err)
	}
	req.ID = NewID()
	_, err = w.s.Revoke(t.Context(), req, ann)
	w.refused(err, registry.AlreadyRevoked)
	// What was revoked is not released under another number.
	_, err = w.s.Release(t.Context(), w.request(y.image.Digest, "1.0.1"), ann)
	w.refused(err, registry.AlreadyRevoked)

	for _, bad := range []RevokeRequest{
		{Repository: app, Version: "1.0.0"},
		{Repository: app, Reason: "x"},
		{Repository: app, Version: "1.0.0", Digest: y.image.Digest, Reason: "x"},
		{Repository: app, Version: "latest", Reason: "x"},
		{Repository: app + "/dev", Version: "1.0.0", Reason: "x"},
		{Repository: app, Version: "1.0.0", Reason: strings.Repeat("x", maxReasonText+1)},
	} {
		_, err := w.s.Revoke(t.Context(), bad, ann)
		w.refused(err, BadRequest)
	}
}

// order makes the order to roll back to a version.
func (w *world) order(to oci.Digest, version string, tags ...string) Order {
	o := Order{ID: NewID(), Time: time.Now().UTC().Format(time.RFC3339), Repository: host + "/" + app, Version: version, Reason: "it is slow"}
	for _, t := range tags {
		o.Moves = append(o.Moves, audit.Move{Tag: t, From: w.tag(t), To: to})
	}
	return o
}

func (w *world) signed(k trust.Signer, kind string, d oci.Digest, o Order) string {
	w.t.Helper()
	b, err := SignOrder(w.t.Context(), k, kind, d, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

func TestRollBack(t *testing.T) {
	w := newWorld(t)
	old, next := w.candidate(corpus.Base()), w.candidate(another(1))
	w.release(old.image.Digest, "1.0.0")
	w.release(next.image.Digest, "1.0.1")
	d := old.image.Digest
	ask := func(bundle string) (*Answer, error) {
		return w.s.RollBack(t.Context(), OrderRequest{Repository: app, Digest: d, Orders: []string{bundle}}, ann)
	}
	o := w.order(d, "1.0.0", "latest", "1")
	refuse := func(bundle string, reason registry.Reason) {
		t.Helper()
		_, err := ask(bundle)
		w.refused(err, reason)
	}
	refuse("{}", BadOrder)
	refuse(w.signed(w.key, TypeRollBack, d, o), BadOrder)     // the builder
	refuse(w.signed(newKey(t), TypeRollBack, d, o), BadOrder) // nobody
	refuse(w.signed(w.ops[0], TypeRollBack, next.image.Digest, o), BadOrder)
	other := o
	other.Repository = host + "/shop/other"
	refuse(w.signed(w.ops[0], TypeRollBack, d, other), BadOrder)
	late := o
	late.Time = time.Now().Add(-25 * time.Hour).UTC().Format(time.RFC3339)
	refuse(w.signed(w.ops[0], TypeRollBack, d, late), BadOrder)
	early := o
	early.Time = time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	refuse(w.signed(w.ops[0], TypeRollBack, d, early), BadOrder)
	refuse(w.signed(w.ops[0], TypeErase, d, Order{ID: NewID(), Time: o.Time, Repository: o.Repository, Reason: "x"}), BadOrder)
	stale := o
	stale.Moves = []audit.Move{{Tag: "latest", From: d, To: d}}
	refuse(w.signed(w.ops[0], TypeRollBack, d, stale), BadOrder)
	wrong := o
	wrong.Version = "1.0.1"
	refuse(w.signed(w.ops[0], TypeRollBack, d, wrong), BadOrder)
	if w.tag("latest") != next.image.Digest {
		t.Fatal("a refused order was followed")
	}

	bundle := w.signed(w.ops[0], TypeRollBack, d, o)
	a, err := ask(bundle)
	if err != nil || len(a.Moves) != 2 || a.Entry == nil {
		t.Fatalf("%+v, %v", a, err)
	}
	if w.tag("latest") != d || w.tag("1") != d || w.tag("1.0") != next.image.Digest || w.tag("1.0.1") != next.image.Digest {
		t.Error("the tags")
	}
	e := w.entries()[*a.Entry]
	if e.Action != audit.RollBack || e.Detail["orderedBy"] == "" || len(e.Claims) != 1 || !slices.Contains(e.Reasons, "it is slow") {
		t.Errorf("%+v", e)
	}
	// The order is carried out once: when its answer was lost it is told again,
	// and it does not come back after other decisions.
	again, err := ask(bundle)
	if err != nil || !again.Repeated || *again.Entry != *a.Entry {
		t.Errorf("%+v, %v", again, err)
	}
	third := w.candidate(another(2))
	w.release(third.image.Digest, "1.0.2")
	if w.tag("latest") != third.image.Digest {
		t.Error("a version higher than all does not take latest back")
	}
	if again, err := ask(bundle); err != nil || !again.Repeated || w.tag("latest") != third.image.Digest {
		t.Errorf("the old order moved the tags again: %+v, %v", again, err)
	}
}

func TestErase(t *testing.T) {
	w := newWorld(t)
	y := w.candidate(corpus.Base())
	w.release(y.image.Digest, "1.0.0")
	d := y.image.Digest
	o := Order{ID: NewID(), Time: time.Now().UTC().Format(time.RFC3339), Repository: host + "/" + app, Reason: "court order 12/2026"}
	one, two := w.signed(w.ops[0], TypeErase, d, o), w.signed(w.ops[1], TypeErase, d, o)
	other := o
	other.Reason = "another"
	for name, c := range map[string]struct {
		orders []string
		reason registry.Reason
	}{
		"one":             {[]string{one}, registry.NeedsTwoKeys},
		"the same twice":  {[]string{one, one}, registry.NeedsTwoKeys},
		"signed again":    {[]string{one, w.signed(w.ops[0], TypeErase, d, o)}, registry.NeedsTwoKeys},
		"three":           {[]string{one, two, two}, registry.NeedsTwoKeys},
		"another text":    {[]string{one, w.signed(w.ops[1], TypeErase, d, other)}, registry.NeedsTwoKeys},
		"not believed":    {[]string{one, w.signed(w.key, TypeErase, d, o)}, BadOrder},
		"another subject": {[]string{one, w.signed(w.ops[1], TypeErase, d[:len(d)-1]+"0", o)}, BadOrder},
	} {
		if name == "another subject" && strings.HasSuffix(string(d), "0") {
			continue
		}
		_, err := w.s.Erase(t.Context(), OrderRequest{Repository: app, Digest: d, Orders: c.orders}, ann)
		if err == nil {
			t.Fatalf("%s: erased", name)
		}
		w.refused(err, c.reason)
	}
	a, err := w.s.Erase(t.Context(), OrderRequest{Repository: app, Digest: d, Orders: []string{one, two}}, ann)
	if err != nil || a.Entry == nil {
		t.Fatalf("%+v, %v", a, err)
	}
	if w.tag("1.0.0") != "" {
		t.Error("it is still there")
	}
	e := w.entries()[*a.Entry]
	if e.Action != audit.Erase || len(e.Claims) != 2 || e.Detail["orderedBy"] != "one, two" || !slices.Contains(e.Reasons, o.Reason) {
		t.Errorf("%+v", e)
	}
	// The number stays taken.
	next := w.candidate(another(1))
	_, err = w.s.Release(t.Context(), w.request(next.image.Digest, "1.0.0"), ann)
	w.refused(err, registry.VersionErased)
}

// foreign is another registry on this machine.
func foreign(t *testing.T) (host string, h *switchable) {
	t.Helper()
	h = &switchable{next: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true))}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), h
}

// switchable refuses what a test wants.
type switchable struct {
	next   http.Handler
	refuse func(r *http.Request) bool
}

func (s *switchable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.refuse != nil && s.refuse(r) {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	s.next.ServeHTTP(w, r)
}

func TestForeign(t *testing.T) {
	other, door := foreign(t)
	w := newWorld(t, func(c *Config) { c.Foreign = Foreign{Hosts: []string{other}} })
	to := other + "/their/app"
	ref, err := oci.ParseRef(to)
	if err != nil {
		t.Fatal(err)
	}
	y := w.candidate(corpus.Base())
	send := func(y *yard, version, id string) (*Answer, error) {
		return w.s.Release(t.Context(), Request{ID: id, Repository: app, Digest: y.image.Digest, Version: version, To: to}, ann)
	}
	at := func(tag string) oci.Digest {
		t.Helper()
		d, err := w.s.tagThere(t.Context(), ref, tag)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}

	// The tags fail after the log has the entry: the request is repeated.
	door.refuse = func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/latest")
	}
	id := NewID()
	if _, err := send(y, "1.0.0", id); err == nil || ProblemOf(err).Refuses() {
		t.Fatalf("%v", err)
	}
	if at("1.0.0") == "" || at("latest") != "" {
		t.Error("version first, latest last")
	}
	door.refuse = nil
	a, err := send(y, "1.0.0", id)
	if err != nil || !a.Repeated || len(a.Moves) != 4 {
		t.Fatalf("%+v, %v", a, err)
	}
	e := w.entries()[*a.Entry]
	if e.Object.Repository != to || e.Object.Tag != "1.0.0" || len(e.Digests) < 8 {
		t.Errorf("%+v", e)
	}
	for _, tag := range []string{"1.0.0", "1.0", "1", "latest"} {
		if at(tag) != y.image.Digest {
			t.Errorf("%s points to %q", tag, at(tag))
		}
	}
	repository, err := w.s.repository(ref)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := remote.Referrers(repository.Digest(string(y.image.Digest)), w.s.remote(t.Context())...)
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil || len(m.Manifests) != 9 { // six of the builder, three of the server
		t.Errorf("%d referrers there, %v", len(m.Manifests), err)
	}
	if len(w.versions()) != 0 {
		t.Error("it was released here too")
	}
	compare := func(kinds ...string) *Comparison {
		t.Helper()
		c, err := w.s.Compare(t.Context(), to, ann)
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, d := range c.Divergences {
			have = append(have, d.Kind)
		}
		if !slices.Equal(have, kinds) {
			t.Errorf("diverges: %q, want %q: %+v", have, kinds, c.Divergences)
		}
		return c
	}
	if c := compare(); c.Versions != 1 || c.Entry != nil {
		t.Errorf("%+v", c)
	}
	patch := w.candidate(another(1))
	if _, err := send(patch, "1.0.1", NewID()); err != nil {
		t.Fatal(err)
	}
	if at("latest") != patch.image.Digest || at("1.0.0") != y.image.Digest {
		t.Error("tags after the second release")
	}
	// A lower version takes nothing back.
	third := w.candidate(another(2))
	if _, err := send(third, "0.9.0", NewID()); err != nil {
		t.Fatal(err)
	}
	if at("latest") != patch.image.Digest || at("0.9") != third.image.Digest {
		t.Error("tags after an older line's release")
	}

	// What such a registry cannot prevent is found, and logged once.
	d, err := remote.Get(repository.Digest(string(third.image.Digest)), w.s.remote(t.Context())...)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"1.0.0", "evil"} {
		if err := remote.Put(repository.Tag(tag), taggable{d.MediaType, d.Manifest}, w.s.remote(t.Context())...); err != nil {
			t.Fatal(err)
		}
	}
	if err := remote.Delete(repository.Tag("0.9"), w.s.remote(t.Context())...); err != nil {
		t.Fatal(err)
	}
	c := compare(TagDeleted, TagMoved, ForeignTag)
	if c.Entry == nil || w.entries()[*c.Entry].Action != audit.Diverge || len(w.entries()[*c.Entry].Reasons) != 3 {
		t.Fatalf("%+v", c)
	}
	if again := compare(TagDeleted, TagMoved, ForeignTag); *again.Entry != *c.Entry {
		t.Error("the same divergence is logged twice")
	}
	if err := remote.Delete(repository.Digest(string(patch.image.Digest)), w.s.remote(t.Context())...); err != nil {
		t.Fatal(err)
	}
	if c := compare(TagDeleted, TagMoved, ManifestDeleted, ForeignTag); c == nil {
		t.Error("nothing")
	}

	// The same gate, and the same rules.
	bad := w.build(another(3))
	bad.push(app + "/candidate")
	_, err = send(bad, "2.0.0", NewID())
	w.refused(err, RefusedByGate)
	_, err = send(third, "1.0.0", NewID())
	w.refused(err, registry.VersionExists)
	if err := remote.Put(repository.Tag("3.0.0"), taggable{d.MediaType, d.Manifest}, w.s.remote(t.Context())...); err != nil {
		t.Fatal(err)
	}
	_, err = send(y, "3.0.0", NewID())
	w.refused(err, ForeignVersion)
	for to, reason := range map[string]registry.Reason{
		"unknown.example/app": registry.UnknownForeign, host + "/app": BadRequest, other + "/app/dev": BadRequest, other + "/app:1": BadRequest, "app": BadRequest,
	} {
		_, err := w.s.Release(t.Context(), Request{Repository: app, Digest: y.image.Digest, Version: "1.0.0", To: to}, ann)
		w.refused(err, reason)
	}
}

func TestHandler(t *testing.T) {
	w := newWorld(t)
	h := w.handler()
	y := w.candidate(corpus.Base())
	do := func(user, method, path, contentType, body string) (int, map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, h.URL+Prefix+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if contentType != "" {
			req.Header.Set("Content-Type", contentType)
		}
		if user != "" {
			req.SetBasicAuth(user, "x")
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		var out map[string]any
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, raw)
		}
		if res.StatusCode == 401 && res.Header.Get("WWW-Authenticate") == "" {
			t.Error("401 without a challenge")
		}
		if res.Header.Get("Cache-Control") != "no-store" {
			t.Error("it may be cached")
		}
		return res.StatusCode, out
	}
	const js = "application/json"
	release := fmt.Sprintf(`{"id":"request-1","repository":%q,"digest":%q,"version":"1.0.0"}`, app, y.image.Digest)
	for _, c := range []struct {
		user, method, path, contentType, body string
		status                                int
	}{
		{"", "POST", "release", js, release, 401},
		{"push", "POST", "release", js, release, 403},
		{"release", "POST", "release", "text/plain", release, 415},
		{"release", "POST", "release", js, release + release, 400},
		{"release", "POST", "release", js, strings.Replace(release, `"id"`, `"ID":"x","id"`, 1), 400},
		{"release", "POST", "release", js, strings.Replace(release, `"id"`, `"force":true,"id"`, 1), 400},
		{"release", "POST", "release", js, `[]`, 400},
		{"release", "POST", "release", js, strings.Repeat(" ", maxBody+1), 413},
		{"release", "GET", "release", "", "", 404},
		{"root", "GET", "nothing", "", "", 404},
		{"pull", "POST", "judge", js, fmt.Sprintf(`{"repository":%q,"digest":%q}`, app, y.image.Digest), 403},
		{"push", "POST", "judge", js, fmt.Sprintf(`{"repository":%q,"digest":%q}`, app, y.image.Digest), 200},
		{"release", "POST", "release", js, release, 200},
		{"release", "POST", "release", js, release, 200},
		{"", "GET", "server", "", "", 200},
		{"pull", "GET", "versions?repository=" + app, "", "", 200},
		{"", "GET", "versions?repository=" + app, "", "", 401},
		{"pull", "GET", "versions?repository=Nope", "", "", 400},
		{"pull", "GET", "tags?repository=" + app, "", "", 200},
		{"pull", "GET", "history?repository=" + app + "&tag=latest", "", "", 200},
		{"pull", "GET", "history?repository=" + app + "&tag=a/b", "", "", 400},
		{"pull", "GET", "history?repository=" + app + "&tag=latest&limit=-1", "", "", 400},
		{"pull", "GET", "why?repository=" + app + "&digest=" + string(y.image.Digest), "", "", 200},
		{"pull", "GET", "why?repository=" + app + "&digest=x", "", "", 400},
		{"pull", "GET", "repositories", "", "", 200},
		{"pin", "POST", "pin", js, fmt.Sprintf(`{"repository":%q,"reference":%q,"pinned":true}`, app+"/candidate", y.image.Digest), 200},
		{"pin", "POST", "pin", js, fmt.Sprintf(`{"repository":%q,"reference":%q,"pinned":true}`, app, y.image.Digest), 405},
		{"release", "POST", "collect", js, `{"dryRun":true}`, 403},
		{"operate", "POST", "collect", js, `{"dryRun":true}`, 200},
		{"release", "POST", "revoke", js, `{}`, 403},
		{"revoke", "POST", "revoke", js, `{}`, 400},
		{"roll-back", "POST", "rollback", js, fmt.Sprintf(`{"repository":%q,"digest":%q,"orders":["{}"]}`, app, y.image.Digest), 403},
		{"erase", "POST", "erase", js, fmt.Sprintf(`{"repository":%q,"digest":%q,"orders":["{}"]}`, app, y.image.Digest), 403},
		{"audit", "POST", "compare", js, `{"to":"other.example/app"}`, 403},
	} {
		status, out := do(c.user, c.method, c.path, c.contentType, c.body)
		if status != c.status {
			t.Errorf("%s %s as %q: %d, want %d: %v", c.method, c.path, c.user, status, c.status, out)
		}
		if status >= 400 && (out["message"] == "" || out["code"] == "") {
			t.Errorf("%s %s: %v", c.method, c.path, out)
		}
	}
	if got := w.versions(); !slices.Equal(got, []string{"1.0.0"}) {
		t.Errorf("%q", got)
	}
}

func TestProblemOf(t *testing.T) {
	err := errors.Join(&registry.Error{Code: registry.Denied, Reason: registry.VersionExists, Message: "a", Remedy: "x"}, fmt.Errorf("b: %w", &registry.Error{Code: registry.ManifestUnknown, Message: "c"}))
	p := ProblemOf(fmt.Errorf("wrapped: %w", err))
	if p.Status != 409 || len(p.Reasons) != 2 || p.Reasons[1].Reason != "manifest-unknown" {
		t.Errorf("%+v", p)
	}
	if p := ProblemOf(errors.New("secret")); p.Refuses() || strings.Contains(p.Message, "secret") || bytes.Contains(must(json.Marshal(p)), []byte("secret")) {
		t.Errorf("%+v", p)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// FuzzOrder: whatever somebody who may sign puts into an order, it is refused or
// is an order.
func FuzzOrder(f *testing.F) {
	d := oci.Digest("sha256:" + strings.Repeat("0", 64))
	for _, o := range []Order{
		{ID: "request-1", Time: "2026-11-22T12:00:00Z", Repository: "registry.example/app", Version: "1.0.0", Moves: []audit.Move{{Tag: "latest", From: d, To: d}}},
		{ID: "request-1", Time: "2026-11-22T12:00:00Z", Repository: "registry.example/app", Reason: "x"},
	} {
		raw, err := json.Marshal(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var o Order
		if strictjson.Unmarshal(raw, &o) != nil {
			return
		}
		if o.check(TypeRollBack) == nil && (len(o.Moves) == 0 || o.Version == "" || !registry.ValidRequestID(o.ID)) {
			t.Errorf("a roll-back: %+v", o)
		}
		if o.check(TypeErase) == nil && (len(o.Moves) > 0 || strings.TrimSpace(o.Reason) == "") {
			t.Errorf("an erasure: %+v", o)
		}
	})
}
