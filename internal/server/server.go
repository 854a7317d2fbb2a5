package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/access"
	"twinhull.dev/twinhull/internal/registry/distribution"
	"twinhull.dev/twinhull/internal/registry/release"
	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/trust"
)

// Options is the world as a server sees it. The zero value is complete.
type Options struct {
	Version string                   // of the program; "": devel
	Getenv  func(name string) string // nil: os.Getenv
	Stderr  io.Writer                // where the log goes; nil: nowhere
	Now     func() time.Time         // nil: time.Now

	// Reload gives the configuration anew, at a signal; its access section and the
	// files that it names are used from then on. Whatever else it says waits for
	// the next start. nil: nothing is read again but files that change by themselves.
	Reload func() (Config, error)

	// Again tells that everything should be read again; nil: nobody does.
	Again <-chan struct{}

	// signer signs summaries in place of the configured key: opening a key file
	// costs a second by design.
	signer trust.Signer

	// Listening is told where the server listens, once it does.
	Listening func(Doors)
}

// Doors is what a server that has begun tells the operator.
type Doors struct {
	URL       string   // of the registry
	Metrics   string   // URL of metrics, when they have an address of their own
	Host      string   // the name in summaries
	Open      []string // what strangers may do; nil: nothing
	Key       string   // fingerprint of the key that signs summaries
	KeyMade   bool     // on this start
	LogKey    string   // verifier key of the audit log; "" without a log
	Releases  string   // why nothing can be released; "" when something can
	PlainHTTP bool     // others reach it without TLS
}

// Server is an open registry.
type Server struct {
	c       Config
	opt     Options
	log     *slog.Logger
	metrics *metrics
	store   *opened
	reg     *registry.Registry
	audit   *audit.Log // nil: another server has it
	release *release.Service
	rules   *rules
	guard   atomic.Pointer[access.Guard]
	cert    *certificate
	public  []byte // PEM of the key that signs summaries
	doors   Doors

	listener net.Listener

	access   sync.Mutex // one reload at a time
	accessAt string     // state of the files that the guard was made from
	closers  []func() error

	ready    probe
	stopping atomic.Bool
	busy     sync.Mutex   // one back-up or check at a time
	gate     sync.RWMutex // held while a back-up takes records and log of one moment
}

// Open opens everything that the configuration names, in the order in which one
// stands on the other, and finishes what a crash has left. Close undoes it.
func Open(ctx context.Context, c Config, opt Options) (_ *Server, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	s := newServer(c, opt)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()

	// The address first: its port may be chosen by the kernel, and it is part of the
	// name that summaries are signed for. Who connects meanwhile waits.
	if s.listener, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	s.closers = append(s.closers, func() error { s.listener.Close(); return nil })
	s.c.Listen = s.listener.Addr().String()
	if host, _, _ := net.SplitHostPort(c.Listen); host == "" || host == "localhost" {
		_, port, _ := net.SplitHostPort(s.c.Listen)
		s.c.Listen = net.JoinHostPort(host, port) // as it was asked for
	}
	// What can be wrong with files comes next: nothing was begun then.
	if c.TLS.Certificate != "" {
		if s.cert, err = newCertificate(c.TLS, s.log, s.opt.Now); err != nil {
			return nil, err
		}
	}
	if err := s.openAccess(c); err != nil {
		return nil, err
	}
	if !c.Audit.Elsewhere { // read again, and kept, when the log can be told of them
		if _, _, err := readRules(c.Release); err != nil {
			return nil, err
		}
	}
	if err := s.openCore(ctx); err != nil {
		return nil, err
	}
	if s.audit != nil {
		if err := s.openRelease(ctx); err != nil {
			return nil, err
		}
	}
	s.gauges()
	s.ready = probe{check: s.probe, now: s.opt.Now}
	return s, nil
}

func newServer(c Config, opt Options) *Server {
	opt.Version = cmp.Or(opt.Version, "devel")
	if opt.Getenv == nil {
		opt.Getenv = os.Getenv
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Stderr == nil {
		opt.Stderr = io.Discard
	}
	return &Server{c: c, opt: opt, log: newLogger(c.Log, opt.Stderr), metrics: newMetrics(opt.Version)}
}

// openCore opens the store, the audit log and the registry over both.
func (s *Server) openCore(ctx context.Context) (err error) {
	c := s.c
	if err := durable.MkdirAll(c.Data, 0o750); err != nil {
		return err
	}
	// The store's lock keeps a second server out of the folder: all else is ours.
	if s.store, err = openStore(ctx, c, s.opt.Getenv); err != nil {
		return err
	}
	s.closers = append(s.closers, s.store.close)
	o := registry.Options{Now: s.opt.Now, Logger: s.log, Metrics: s.metrics, Replicas: c.Storage.Postgres.used(), Retain: registry.Retention{
		Development: c.Retention.Development, Candidate: c.Retention.Candidate, Unreferenced: c.Retention.Unreferenced, Keep: c.Retention.Keep,
	}}
	if !c.Audit.Elsewhere {
		if err := s.openAudit(); err != nil {
			return err
		}
		o.Log = s.decisions()
	}
	s.reg, err = registry.New(ctx, s.store.Store, o)
	return err
}

// decisions is the audit log as those see it who decide.
func (s *Server) decisions() registry.Log {
	return countedLog{gatedLog{s.audit, s}, s.metrics}
}

func newLogger(c Log, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // Check has looked
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func (s *Server) openAudit() (err error) {
	o := audit.Options{Installation: s.c.Audit.Name, Quorum: s.c.Audit.Quorum, Now: s.opt.Now, Logger: s.log}
	for _, w := range s.c.Audit.Witnesses {
		o.Witnesses = append(o.Witnesses, audit.WitnessServer{URL: w.URL, Key: w.Key})
	}
	for _, a := range s.c.Audit.Anchors {
		raw, err := readLimited(a, 1<<20)
		if err != nil {
			return fmt.Errorf("audit.anchors: %w", err)
		}
		o.Anchors = append(o.Anchors, audit.Anchor{Name: a, Raw: raw})
	}
	if s.audit, err = audit.Open(s.c.logDir(), o); err != nil {
		return err
	}
	s.closers = append(s.closers, s.audit.Close)
	s.doors.LogKey = s.audit.Keys()[0]
	return nil
}

func (s *Server) openRelease(ctx context.Context) error {
	log := s.decisions()
	signer, made := s.opt.signer, false
	if signer == nil {
		var err error
		if signer, made, err = openKey(ctx, s.c, s.opt.Getenv); err != nil {
			return err
		}
		if _, plain := signer.(plainKey); !plain {
			debug.FreeOSMemory() // decrypting takes 64 MiB, once: more than serving does
		}
	}
	var err error
	if s.public, err = trust.PublicPEM(signer.PublicKey()); err != nil {
		return err
	}
	if s.doors.Key, err = trust.KeyID(signer.PublicKey()); err != nil {
		return err
	}
	s.doors.KeyMade, s.doors.Host = made, s.c.host()
	a, err := openAnnouncer(s.c.Data, log, s.opt.Now)
	if err != nil {
		return err
	}
	if err := a.say(ctx, announced{Key: s.doors.Key, Configuration: configurationDigest(s.c)}); err != nil {
		return fmt.Errorf("the audit log cannot say what this server runs with: %w", err)
	}
	s.rules = &rules{c: s.c, announce: a.say}
	if _, err := s.rules.now(ctx); err != nil {
		return err
	}
	switch {
	case s.c.Release.Trust == "":
		s.doors.Releases = "release.trust names nobody who is believed"
	case s.c.Release.Vulnerabilities == "":
		s.doors.Releases = "release.vulnerabilities names no database"
	case s.rules.db == nil:
		s.doors.Releases = "there is no database in " + s.c.Release.Vulnerabilities + " yet: `twinhull vulndb import PATH… --vulnerabilities` with that folder makes one"
	}
	s.release, err = release.New(release.Config{
		Registry: s.reg, Log: log, Rules: s.rules.now, Signer: signer, Host: s.c.host(), Version: s.opt.Version,
		Checkpoint: s.audit.Checkpoint, LogKey: s.doors.LogKey,
		Foreign: release.Foreign{Hosts: s.c.Release.Foreign}, Entries: s.entries, Now: s.opt.Now, Logger: s.log,
	})
	return err
}

// entries reads the log as a client would, up to its newest checkpoint.
func (s *Server) entries(ctx context.Context, from uint64, f func(uint64, audit.Entry) error) error {
	size, err := s.audit.Size(ctx)
	if err != nil || size == 0 {
		return err
	}
	if _, err := s.audit.Await(ctx, size-1); err != nil {
		return err
	}
	r := s.audit.Reader()
	c, err := r.Checkpoint(ctx)
	if err != nil {
		return err
	}
	for rec, err := range r.Entries(ctx, c, from, c.Size) {
		if err != nil {
			return err
		}
		if rec.Err != nil {
			continue // of a later version: nothing that this one knows
		}
		if err := f(rec.Index, rec.Entry); err != nil {
			return err
		}
	}
	return nil
}

// openAccess makes the guard of a configuration and puts it in force.
func (s *Server) openAccess(c Config) error {
	a := access.Config{
		Tokens: c.Access.Tokens, Grants: c.grants(), Requests: c.Limits.Requests, Burst: c.Limits.Burst,
		Proxies: c.Access.Proxies, Now: s.opt.Now, Logger: s.log,
	}
	files := accessFiles(c)
	state := fileState(files...)
	if c.Access.Users != "" {
		data, err := readLimited(c.Access.Users, access.MaxUsersFile)
		if err == nil {
			a.Users, err = access.ReadUsers(c.Access.Users, data)
		}
		if err != nil {
			return fmt.Errorf("access.users: %w", err)
		}
	}
	for _, i := range c.Access.Issuers {
		one := i.Issuer
		if i.KeysFile != "" {
			data, err := readLimited(i.KeysFile, 1<<20)
			if err == nil {
				one.Keys, err = access.ReadKeys(data)
			}
			if err != nil {
				return fmt.Errorf("access.issuers.%s.keysFile: %w", i.Name, err)
			}
		} else {
			one.Keys = &access.RemoteKeys{Issuer: i.URL, URL: i.KeysURL, Now: s.opt.Now}
		}
		a.Issuers = append(a.Issuers, one)
	}
	g, err := access.New(a)
	if err != nil {
		return fmt.Errorf("access: %w", err)
	}
	s.guard.Store(g)
	s.accessAt = state
	s.c.Access = c.Access
	return nil
}

func accessFiles(c Config) (out []string) {
	if c.Access.Users != "" {
		out = append(out, c.Access.Users)
	}
	for _, i := range c.Access.Issuers {
		if i.KeysFile != "" {
			out = append(out, i.KeysFile)
		}
	}
	return out
}

// refresh reads again what has changed on the disk. What cannot be used leaves
// what was there.
func (s *Server) refresh() {
	s.access.Lock()
	defer s.access.Unlock()
	if s.cert != nil {
		s.cert.refresh()
	}
	if fileState(accessFiles(s.c)...) == s.accessAt {
		return
	}
	if err := s.openAccess(s.c); err != nil {
		s.log.Error("the changed users or keys cannot be used, the old ones stay", "error", err)
		return
	}
	s.log.Info("users and keys read again")
}

// reload takes the access section of a configuration that was read anew.
func (s *Server) reload(ctx context.Context) {
	if s.opt.Reload == nil {
		return
	}
	c, err := s.opt.Reload()
	if err == nil {
		err = c.Check()
	}
	if err != nil {
		s.log.Error("the configuration cannot be used, the old one stays", "error", err)
		return
	}
	s.access.Lock()
	defer s.access.Unlock()
	next := s.c
	next.Access, next.Limits.Requests, next.Limits.Burst = c.Access, c.Limits.Requests, c.Limits.Burst
	if s.audit != nil {
		// Before it is in force, as everything that the log must know.
		a, err := openAnnouncer(s.c.Data, s.decisions(), s.opt.Now)
		if err == nil {
			err = a.say(ctx, announced{Configuration: configurationDigest(next)})
		}
		if err != nil {
			s.log.Error("the configuration has changed, and the audit log cannot say so: the old one stays", "error", err)
			return
		}
	}
	if err := s.openAccess(next); err != nil {
		s.log.Error("the configuration cannot be used, the old one stays", "error", err)
		return
	}
	s.c.Limits.Requests, s.c.Limits.Burst = next.Limits.Requests, next.Limits.Burst
	s.log.Info("access read again; everything else waits for the next start")
}

// Handler answers everything that the public address does.
func (s *Server) Handler() http.Handler {
	m := http.NewServeMux()
	v2 := distribution.New(distribution.Options{
		Registry: s.reg, Judge: s.judge, Visible: s.visible, Logger: s.log,
		Limits:    distribution.Limits{Blob: s.c.Limits.Blob, Stall: stall(s.c.Limits.Stall)},
		RequestID: func(r *http.Request) string { return seenOf(r).id },
	})
	m.Handle("/v2", v2)
	m.Handle("/v2/", v2)
	if s.release != nil {
		m.Handle(release.Prefix, release.Handler(s.release, s.who, access.Challenge))
		m.Handle("GET "+release.Prefix+"log/", http.StripPrefix(release.Prefix+"log", s.allow(access.Audit, s.audit.Handler())))
		m.HandleFunc("GET "+release.Prefix+"key", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-pem-file")
			w.Write(s.public)
		})
	} else {
		m.HandleFunc(release.Prefix, func(w http.ResponseWriter, _ *http.Request) {
			writeProblem(w, &registry.Error{Code: registry.Unavailable, Message: "this server does not release: another one has the audit log"})
		})
	}
	m.Handle("GET /metrics", s.allow(access.Operate, s.metrics.handler()))
	s.health(m)
	// A browser that has credentials for us must not send them for another page.
	return s.observe(http.NewCrossOriginProtection().Handler(m))
}

// MetricsHandler answers what the separate address for metrics does, to anybody
// who reaches it.
func (s *Server) MetricsHandler() http.Handler {
	m := http.NewServeMux()
	m.Handle("GET /metrics", s.metrics.handler())
	s.health(m)
	return m
}

func stall(d time.Duration) time.Duration {
	if d == 0 {
		return -1 // for ever, in the words of package distribution
	}
	return d
}

// verbs are what the protocol's verbs are in grants.
var verbs = map[distribution.Verb]access.Verb{
	distribution.Read: access.Pull, distribution.Write: access.Push, distribution.Delete: access.Delete,
}

// judge is the one door for the distribution protocol.
func (s *Server) judge(_ context.Context, r *http.Request, q distribution.Request) (audit.Actor, error) {
	if o := seenOf(r); o != nil {
		o.route = q.Kind.String()
	}
	refuse := func(err error) (audit.Actor, error) {
		if e, ok := errors.AsType[*registry.Error](err); ok && e.Code == registry.Unauthorized {
			return audit.Actor{}, &distribution.Refusal{Err: e, Challenges: []string{access.Challenge}}
		}
		return audit.Actor{}, err
	}
	id, err := s.identify(r)
	if err != nil {
		return refuse(err)
	}
	g := s.guard.Load()
	switch v := q.Kind.Verb(); v {
	case distribution.Ping:
		// Several clients send credentials only when this request was refused without
		// them, and none later. So where anybody can sign in it is; those that have
		// none go on all the same, but for the old Docker engine (doc/registry.md).
		if id.Anonymous() && g.Knows() {
			return refuse(&registry.Error{Code: registry.Unauthorized, Message: "sign in, or go on without"})
		}
	case distribution.List:
		if !g.Reads(id) {
			return refuse(g.Judge(id, access.Pull, ""))
		}
	default:
		verb, ok := verbs[v]
		if !ok {
			return refuse(&registry.Error{Code: registry.Denied, Message: "nobody may do this here"})
		}
		if err := g.Judge(id, verb, q.Repository); err != nil {
			return refuse(err)
		}
	}
	return id.Who(), nil
}

func (s *Server) visible(_ context.Context, r *http.Request, repository string) bool {
	id, err := s.identify(r)
	return err == nil && s.guard.Load().Judge(id, access.Pull, repository) == nil
}

// who is the one door for the release service.
func (s *Server) who(r *http.Request, verb, repository string) (audit.Actor, error) {
	id, err := s.identify(r)
	if err != nil {
		return audit.Actor{}, err
	}
	if err := s.guard.Load().Judge(id, access.Verb(verb), repository); err != nil {
		return audit.Actor{}, err
	}
	return id.Who(), nil
}

// allow lets through who may do something with the server as a whole.
func (s *Server) allow(v access.Verb, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.who(r, string(v), ""); err != nil {
			writeProblem(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// writeProblem answers a refusal in the form of the release service.
func writeProblem(w http.ResponseWriter, err error) {
	p := release.ProblemOf(err)
	if p.Code == registry.Unauthorized {
		w.Header().Set("WWW-Authenticate", access.Challenge)
	}
	writeJSON(w, p.Status, p)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

// health mounts the probes: alive says that the process answers, ready that it
// can do its work.
func (s *Server) health(m *http.ServeMux) {
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		io.WriteString(w, "ok\n")
	})
	m.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if s.stopping.Load() {
			writeJSON(w, http.StatusServiceUnavailable, map[string]string{"server": "is stopping"})
			return
		}
		found := s.ready.look(r.Context())
		status := http.StatusOK
		for _, v := range found {
			if v != "ok" {
				status = http.StatusServiceUnavailable
			}
		}
		writeJSON(w, status, found)
	})
}

// probe asks at most every two seconds, whoever asks for it: the question costs a
// write.
type probe struct {
	check func(ctx context.Context) map[string]string
	now   func() time.Time

	mu   sync.Mutex
	at   time.Time
	last map[string]string
}

const (
	probeEvery   = 2 * time.Second
	probeTimeout = 5 * time.Second
)

func (p *probe) look(ctx context.Context) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if age := p.now().Sub(p.at); p.last == nil || age >= probeEvery || age < 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
		defer cancel()
		p.last, p.at = p.check(ctx), p.now()
	}
	return p.last
}

// probe tries what every push and release need. What is wrong goes to the log;
// strangers learn only what is.
func (s *Server) probe(ctx context.Context) map[string]string {
	out := map[string]string{}
	note := func(name string, err error) {
		out[name] = "ok"
		if err != nil {
			s.log.Error("not ready", "part", name, "error", err)
			out[name] = "failed; see the server's log"
		}
	}
	note("store", s.store.Records.Update(ctx, func(tx store.Transaction) error {
		// A key of ours, beside the registry's: written so that a full or read-only
		// disk is seen.
		return tx.Put([]byte("\xffserver\x00probe"), []byte(audit.Timestamp(s.opt.Now())))
	}))
	if s.audit != nil {
		note("audit", s.auditHealth(ctx))
	}
	if s.cert != nil {
		var err error
		if !s.opt.Now().Before(s.cert.expires()) {
			err = errors.New("the TLS certificate has expired")
		}
		note("certificate", err)
	}
	return out
}

// auditBehind is how long a checkpoint may stay behind: longer, and witnesses do
// not answer or the log refuses to sign.
const auditBehind = 30 * time.Second

func (s *Server) auditHealth(ctx context.Context) error {
	st, err := s.audit.Stats(ctx)
	if err != nil {
		return err
	}
	if st.Published < st.Size && s.opt.Now().Sub(st.At) > auditBehind {
		return fmt.Errorf("the checkpoint covers %d of %d entries since %s", st.Published, st.Size, st.At.UTC().Format(time.RFC3339))
	}
	return nil
}

// gauges are what is read when metrics are asked for.
func (s *Server) gauges() {
	if s.audit != nil {
		s.metrics.gauge("twinhull_audit_entries", "Entries of the audit log.", func() (float64, bool) {
			n, err := s.audit.Size(context.Background())
			return float64(n), err == nil
		})
		s.metrics.gauge("twinhull_audit_published_entries", "Entries that the newest checkpoint covers.", func() (float64, bool) {
			st, err := s.audit.Stats(context.Background())
			return float64(st.Published), err == nil
		})
	}
	if s.rules != nil {
		s.metrics.gauge("twinhull_vulnerability_database_age_seconds", "Age of the newest record of the oldest source.", func() (float64, bool) {
			age, ok := s.rules.databaseAge(s.opt.Now())
			return age.Seconds(), ok
		})
	}
	if s.cert != nil {
		s.metrics.gauge("twinhull_certificate_expires_timestamp_seconds", "When the TLS certificate expires.", func() (float64, bool) {
			return float64(s.cert.expires().Unix()), true
		})
	}
	s.metrics.gauge("twinhull_disk_free_bytes", "Room on the disk of the data folder for this server.", func() (float64, bool) {
		var st unix.Statfs_t
		if err := unix.Statfs(s.c.Data, &st); err != nil {
			return 0, false
		}
		return float64(st.Bavail) * float64(st.Bsize), true
	})
}

// Close closes what Open opened. It is safe to call more than once.
func (s *Server) Close() error {
	var errs []error
	for len(s.closers) > 0 {
		last := len(s.closers) - 1
		errs = append(errs, s.closers[last]())
		s.closers = s.closers[:last]
	}
	return errors.Join(errs...)
}

// Bounds of connections. There is neither a read nor a write timeout: a large
// blob over a slow line takes hours, and package distribution ends those who send
// or take nothing.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// Run opens a server and serves until ctx ends: then it stops to listen, lets
// requests that run end within Limits.Shutdown, and closes.
func Run(ctx context.Context, c Config, opt Options) error {
	s, err := Open(ctx, c, opt)
	if err != nil {
		return err
	}
	err = s.Serve(ctx)
	return errors.Join(err, s.Close())
}

// Serve listens and serves until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	l := s.listener
	defer l.Close()
	var ml net.Listener
	var err error
	if s.c.Metrics != "" {
		if ml, err = net.Listen("tcp", s.c.Metrics); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		defer ml.Close()
		s.doors.Metrics = "http://" + ml.Addr().String()
	}
	control, err := s.listenControl()
	if err != nil {
		return err
	}
	defer control.Close()

	server := func(h http.Handler) *http.Server {
		return &http.Server{
			Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
			ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // TLS handshakes of strangers, mostly
		}
	}
	main := server(s.Handler())
	s.doors.URL = "http://" + l.Addr().String()
	if s.cert != nil {
		main.TLSConfig = s.cert.config()
		s.doors.URL = "https://" + l.Addr().String()
	}
	loopback, _ := checkAddress("listen", l.Addr().String())
	s.doors.PlainHTTP = !loopback && s.cert == nil
	s.doors.Open = s.openDoors()
	all := []*http.Server{main}
	failed := make(chan error, 3)
	serve := func(hs *http.Server, l net.Listener) {
		err := error(nil)
		if hs.TLSConfig != nil {
			err = hs.ServeTLS(l, "", "")
		} else {
			err = hs.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}
	go serve(main, l)
	if ml != nil {
		m := server(s.MetricsHandler())
		all = append(all, m)
		go serve(m, ml)
	}
	c := server(s.controlHandler())
	all = append(all, c)
	go serve(c, control)

	working, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { s.background(working) })
	if s.opt.Listening != nil {
		s.opt.Listening(s.doors)
	}
	s.log.Info("serving", "url", s.doors.URL, "data", s.c.Data, "version", s.opt.Version)

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.stopping.Store(true)
	s.log.Info("stopping", "within", s.c.Limits.Shutdown)
	stop()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.c.Limits.Shutdown)
	defer cancel()
	var closing sync.WaitGroup
	for _, hs := range all {
		closing.Go(func() {
			if hs.Shutdown(ending) != nil {
				s.log.Warn("requests were cut off: their uploads can be resumed")
				_ = hs.Close()
			}
		})
	}
	closing.Wait()
	work.Wait()
	return err
}

// openDoors says what strangers may do.
func (s *Server) openDoors() (out []string) {
	for _, g := range s.c.grants() {
		for _, to := range g.To {
			if to != access.Anybody {
				continue
			}
			var may []string
			for _, m := range g.May {
				may = append(may, m.String())
			}
			out = append(out, strings.Join(may, ", ")+" in "+strings.Join(g.Repositories, ", ")+" to everybody")
		}
	}
	return out
}

// How often files are looked at, and the store is counted.
const (
	refreshEvery = 5 * time.Second
	countEvery   = time.Hour
)

// background does what nobody asks for, until ctx ends.
func (s *Server) background(ctx context.Context) {
	refresh := time.NewTicker(refreshEvery)
	defer refresh.Stop()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { s.counting(ctx) })
	if s.c.Retention.Every > 0 && s.audit != nil {
		work.Go(func() { s.collecting(ctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-refresh.C:
			s.refresh()
		case <-s.opt.Again: // nil blocks for ever
			s.reload(ctx)
			s.refresh()
		}
	}
}

func (s *Server) collecting(ctx context.Context) {
	every := time.NewTicker(s.c.Retention.Every)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		start := s.opt.Now()
		got, err := s.reg.Collect(ctx, false)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.metrics.failures.WithLabelValues("collection").Inc()
			s.log.Error("collection failed", "error", err)
			continue
		}
		s.metrics.lastDone.Store(s.opt.Now().Unix())
		if got.Looked > 0 || got.Contents > 0 || got.Uploads > 0 {
			s.log.Info("collected", "tags", got.Tags, "manifests", got.Manifests, "blobs", got.Contents, "uploads", got.Uploads, "took", s.opt.Now().Sub(start))
		}
	}
}

func (s *Server) counting(ctx context.Context) {
	every := time.NewTicker(countEvery)
	defer every.Stop()
	for {
		var n, size int64
		err := error(nil)
		for i, e := range s.store.Blobs.List(ctx) {
			if err = e; err != nil {
				break
			}
			n, size = n+1, size+i.Size
		}
		if err == nil {
			s.metrics.storeBytes.Store(size)
			s.metrics.storeItems.Store(n)
		} else if ctx.Err() == nil {
			s.metrics.failures.WithLabelValues("count").Inc()
			s.log.Warn("the store's size could not be counted", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}
