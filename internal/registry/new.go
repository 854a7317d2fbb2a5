package registry

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Registry is one registry. Its methods may be called by many at once.
type Registry struct {
	store  store.Store
	opt    Options
	secret []byte // that upload names are made with
	began  time.Time
	owner  string // this server among replicas, for this run

	large    chan struct{} // a place for each large manifest that is read
	refusals *refusals

	deciding sync.Mutex // one intent at a time
	removing sync.Mutex // one deletion of contents at a time
}

// New opens a registry over a store and finishes what a crash interrupted. An
// error means that the registry must not serve.
func New(ctx context.Context, s store.Store, opt Options) (*Registry, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&opt.Retain.Development, 7*24*time.Hour)
	def(&opt.Retain.Candidate, 30*24*time.Hour)
	def(&opt.Retain.Unreferenced, 24*time.Hour)
	if opt.Retain.Keep == nil {
		opt.Retain.Keep = []string{"main"}
	}
	if opt.Steady == nil {
		start := time.Now()
		opt.Steady = func() time.Duration { return time.Since(start) }
	}
	r := &Registry{store: s, opt: opt, large: make(chan struct{}, largeAtOnce), refusals: newRefusals(opt.Now), began: opt.Now().Round(0), owner: rand.Text()}
	err := s.Records.Update(ctx, func(tx store.Transaction) error {
		raw, ok, err := tx.Get(key(kGlobal, "uploads"))
		if err != nil {
			return err
		}
		if ok {
			r.secret = append([]byte(nil), raw...)
			return nil
		}
		r.secret = make([]byte, 32)
		rand.Read(r.secret)
		return tx.Put(key(kGlobal, "uploads"), r.secret)
	})
	if err != nil {
		return nil, fmt.Errorf("opening the registry's records: %w", err)
	}
	if err := r.recover(ctx); err != nil {
		return nil, fmt.Errorf("finishing what was interrupted: %w", err)
	}
	if err := r.reschedule(ctx); err != nil {
		return nil, fmt.Errorf("applying another retention: %w", err)
	}
	return r, nil
}

// reschedule has everything looked at that is not permanent, when the retention is
// not that of the last start: what is due was computed by the old one.
func (r *Registry) reschedule(ctx context.Context) error {
	want := fingerprint(r.opt.Retain)
	same := false
	err := r.store.Records.View(ctx, func(tx store.Reader) error {
		raw, _, err := tx.Get(key(kGlobal, "retention"))
		same = string(raw) == want
		return err
	})
	if err != nil || same {
		return err
	}
	for _, part := range []struct {
		kind byte
		due  string
	}{{kTag, dueTag}, {kFacts, dueManifest}, {kBlob, dueBlob}} {
		var after []byte
		for done := false; !done; {
			var next []byte
			err := r.store.Records.Update(ctx, func(tx store.Transaction) error {
				var keys [][]byte
				for rec, err := range tx.Scan([]byte{part.kind}, after) {
					if err != nil {
						return err
					}
					if keys = append(keys, slices.Clone(rec.Key)); len(keys) == 1000 {
						break
					}
				}
				for _, k := range keys {
					f := fields(k)
					if class, _ := catalog.Of(f[0]); class == catalog.Production || len(f) != 2 {
						continue
					}
					if err := tx.Put(dueKey(r.opt.Now(), part.due, f[0], f[1]), nil); err != nil {
						return err
					}
				}
				if done = len(keys) < 1000; !done {
					next = keys[len(keys)-1]
				}
				return nil
			})
			if err != nil {
				return err
			}
			after = next
		}
	}
	return r.store.Records.Update(ctx, func(tx store.Transaction) error { return tx.Put(key(kGlobal, "retention"), []byte(want)) })
}

// uploadName is what a client calls an upload: the store's name for it and a
// proof that it was begun in the repository, so that uploads need no record.
func (r *Registry) uploadName(repo, id string) string {
	m := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(m, "%s\x00%s", repo, id)
	return id + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:18])
}

func (r *Registry) uploadID(repo, name string) (string, bool) {
	id, _, ok := strings.Cut(name, ".")
	return id, ok && hmac.Equal([]byte(name), []byte(r.uploadName(repo, id)))
}

// refuse records in the audit log that a rule refused somebody, and returns the
// refusal. The refusal does not depend on the log: without it, it is told to the
// server's own log.
func (r *Registry) refuse(ctx context.Context, e *Error, action audit.Action, a audit.Actor, o audit.Object) error {
	if e.Reason == CandidateByDigest || r.opt.Log == nil {
		return e
	}
	logged, unlogged := r.refusals.take(a)
	if !logged {
		return e
	}
	// A client that goes away must not keep its attempt out of the log.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	entry := audit.Entry{
		Type: audit.EntryType, ID: rand.Text(), Time: audit.Timestamp(r.opt.Now()), Action: action, Actor: a, Object: o,
		Verdict: "refused", Reasons: []string{string(e.Reason) + ": " + e.Message},
	}
	if unlogged > 0 {
		entry.Detail = map[string]string{"unlogged": strconv.Itoa(unlogged)}
	}
	index, err := r.opt.Log.Append(ctx, entry)
	if err != nil {
		r.opt.Logger.Error("a refusal could not be written to the audit log", "repository", o.Repository, "actor", a.Name, "reason", e.Reason, "error", err)
		return e
	}
	c := *e
	c.Entry, c.Logged = index, true
	return &c
}

// Refusals that one actor may have in the log: so many at once, and one more each
// so often. The others are counted in the next one: an audit log that anybody
// with a token could fill would be an audit log that anybody could end.
const (
	refusalsAtOnce = 50
	refusalEvery   = 10 * time.Second
	mostRefused    = 10_000 // actors that are told apart
)

// refusals bounds what refused actors may write.
type refusals struct {
	now func() time.Time
	mu  sync.Mutex
	of  map[audit.Actor]*refused
}

type refused struct {
	limit    *rate.Limiter
	unlogged int
}

func newRefusals(now func() time.Time) *refusals {
	return &refusals{now: now, of: map[audit.Actor]*refused{}}
}

// take tells whether a refusal is logged, and how many before it were not.
func (r *refusals) take(a audit.Actor) (logged bool, unlogged int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.of[a]
	if x == nil {
		if len(r.of) >= mostRefused {
			clear(r.of)
		}
		x = &refused{limit: rate.NewLimiter(rate.Every(refusalEvery), refusalsAtOnce)}
		r.of[a] = x
	}
	if !x.limit.AllowN(r.now(), 1) {
		x.unlogged++
		return false, 0
	}
	unlogged, x.unlogged = x.unlogged, 0
	return true, unlogged
}

// retention is how long a manifest of the class is kept after its push.
func (r *Registry) retention(c catalog.Class) time.Duration {
	if c == catalog.Candidate {
		return r.opt.Retain.Candidate
	}
	return r.opt.Retain.Development
}

// tagExpires is when a tag goes; the zero time for never.
func (r *Registry) tagExpires(repo, tag string, t tagRecord) time.Time {
	class, _ := catalog.Of(repo)
	if class == catalog.Production || t.Pinned != nil {
		return time.Time{}
	}
	for _, p := range r.opt.Retain.Keep {
		if project.Wildcard(p, tag) {
			return time.Time{}
		}
	}
	return t.Pushed.Add(r.retention(class))
}

// Tombstone stands where an erased manifest was.
type Tombstone struct {
	Digest oci.Digest  `json:"digest"`
	At     time.Time   `json:"at"`
	Reason string      `json:"reason"`
	By     audit.Actor `json:"by"`
	Entry  uint64      `json:"entry"`

	Stays []oci.Digest `json:"stays,omitempty"` // what another version has too: erase that as well
}
