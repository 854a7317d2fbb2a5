package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/evidence/vuln"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/release"
	"twinhull.dev/twinhull/internal/trust"
)

// rules are what candidates are judged by: files, which are read again when they
// change. A change is in the audit log before anything is judged by it; files
// that cannot be read make that nothing is decided.
type rules struct {
	c        Config
	announce func(ctx context.Context, a announced) error

	mu     sync.Mutex
	policy *policy.Policy
	trust  *trust.Policy
	db     *vuln.DB
	dbAt   string // state of the folder that db was opened in
}

// maxPolicy bounds the policy file, in bytes.
const maxPolicy = policy.MaxFile

// closeAfter is how long a database that was replaced stays open for judgements
// that began with it.
const closeAfter = time.Hour

func (r *rules) now(ctx context.Context) (release.Rules, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Read each time: that costs nothing beside a judgement, and the trust policy
	// names further files, whose dates would have to be watched too.
	p, t, err := readRules(r.c.Release)
	if err != nil {
		return release.Rules{}, err
	}
	if r.policy == nil || p.Digest() != r.policy.Digest() || digestOf(t) != digestOf(r.trust) {
		if err := r.announce(ctx, announced{Policy: p.Digest(), Trust: digestOf(t)}); err != nil {
			return release.Rules{}, fmt.Errorf("the policy has changed, and the audit log cannot say so: %w", err)
		}
		r.policy, r.trust = p, t
	}
	out := release.Rules{Policy: r.policy, Trust: r.trust}
	if dir := r.c.Release.Vulnerabilities; dir != "" {
		if err := r.database(dir); err != nil {
			return release.Rules{}, err
		}
		if r.db != nil {
			out.Database, out.DatabaseDigest = r.db, r.db.Status().Digest
		}
	}
	return out, nil
}

// database opens what twinhull vulndb import has put in place since.
func (r *rules) database(dir string) error {
	// An import renames a file into the folder, which changes the folder.
	state := fileState(dir)
	if state == r.dbAt {
		return nil
	}
	db, err := vuln.Open(dir)
	switch {
	case errors.Is(err, vuln.ErrNoDatabase):
		db = nil // which the verdict tells
	case err != nil:
		return err
	}
	r.dbAt = state
	if r.db != nil && db != nil && r.db.Status().Digest == db.Status().Digest {
		return db.Close()
	}
	if old := r.db; old != nil {
		time.AfterFunc(closeAfter, func() { _ = old.Close() })
	}
	r.db = db
	return nil
}

// databaseAge is how old the newest record of the oldest source is; false when
// there is none that says.
func (r *rules) databaseAge(now time.Time) (time.Duration, bool) {
	if r.c.Release.Vulnerabilities == "" {
		return 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db == nil {
		return 0, false
	}
	var oldest time.Time
	for _, s := range r.db.Status().Sources {
		if s.Newest.IsZero() {
			return 0, false
		}
		if oldest.IsZero() || s.Newest.Before(oldest) {
			oldest = s.Newest
		}
	}
	return now.Sub(oldest), !oldest.IsZero()
}

func readRules(c Release) (*policy.Policy, *trust.Policy, error) {
	p := policy.Default()
	if c.Policy != "" {
		data, err := readLimited(c.Policy, maxPolicy)
		if err == nil {
			p, err = policy.Read(c.Policy, data)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("release.policy: %w", err)
		}
	}
	if c.Trust == "" {
		return p, nil, nil
	}
	t, err := trust.LoadPolicy(c.Trust)
	if err != nil {
		return nil, nil, fmt.Errorf("release.trust: %w", err)
	}
	return p, t, nil
}

func digestOf(t *trust.Policy) oci.Digest {
	if t == nil {
		return ""
	}
	return t.Digest()
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}

// announced is what the audit log knows of what the server runs with. It is kept
// beside the log; a crash between the two makes the log say it twice.
type announced struct {
	Policy        oci.Digest `json:"policy,omitempty"`
	Trust         oci.Digest `json:"trust,omitempty"`
	Configuration oci.Digest `json:"configuration,omitempty"`
	Key           string     `json:"key,omitempty"` // trust.KeyID of the server's key
}

// announcer writes changes of what the server runs with to the audit log.
type announcer struct {
	file string
	log  registry.Log
	now  func() time.Time

	mu   sync.Mutex
	last announced
}

func openAnnouncer(dir string, log registry.Log, now func() time.Time) (*announcer, error) {
	a := &announcer{file: filepath.Join(dir, "announced.json"), log: log, now: now}
	b, err := os.ReadFile(a.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a, nil
	case err != nil:
		return nil, err
	}
	if err := json.Unmarshal(b, &a.last); err != nil {
		// What the log was told is in the log; telling it once more does no harm.
		a.last = announced{}
	}
	return a, nil
}

// say tells the log what has changed. Empty fields have not; a trust policy that
// is gone is told with its policy.
func (a *announcer) say(ctx context.Context, n announced) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.last
	server := audit.Actor{Name: "server", Method: "server"}
	at := audit.Timestamp(a.now())
	entry := func(action audit.Action, detail map[string]string) audit.Entry {
		return audit.Entry{Type: audit.EntryType, ID: release.NewID(), Time: at, Action: action, Actor: server, Verdict: audit.Allowed, Detail: detail}
	}
	was := func(detail map[string]string, name, before string) {
		if before != "" {
			detail[name] = before
		}
	}
	var entries []audit.Entry
	if n.Policy != "" && (n.Policy != a.last.Policy || n.Trust != a.last.Trust) {
		detail := map[string]string{}
		was(detail, "policyBefore", string(a.last.Policy))
		was(detail, "trustBefore", string(a.last.Trust))
		e := entry(audit.PolicyChange, detail)
		e.Policy, e.Trust = n.Policy, n.Trust
		entries = append(entries, e)
		next.Policy, next.Trust = n.Policy, n.Trust
	}
	if n.Configuration != "" && n.Configuration != a.last.Configuration {
		detail := map[string]string{"configuration": string(n.Configuration)}
		was(detail, "configurationBefore", string(a.last.Configuration))
		entries = append(entries, entry(audit.PolicyChange, detail))
		next.Configuration = n.Configuration
	}
	if n.Key != "" && n.Key != a.last.Key {
		detail := map[string]string{"use": "summaries", "key": n.Key}
		was(detail, "keyBefore", a.last.Key)
		entries = append(entries, entry(audit.KeyChange, detail))
		next.Key = n.Key
	}
	for _, e := range entries {
		if len(e.Detail) == 0 {
			e.Detail = nil
		}
		if _, err := a.log.Append(ctx, e); err != nil {
			return err
		}
	}
	if len(entries) == 0 {
		return nil
	}
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(a.file, append(b, '\n'), 0o640); err != nil {
		return err
	}
	a.last = next
	return nil
}

// configurationDigest names the configuration as it is in force.
func configurationDigest(c Config) oci.Digest {
	d := digest.SHA256.Digester()
	_ = c.Print(d.Hash()) // a hash takes everything
	return d.Digest()
}
