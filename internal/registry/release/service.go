// Package release is the release service: the only writer of production
// catalogs. It asks the gate about a candidate, signs the answer, writes the
// release notes and hands all of it to the registry as one order; and it revokes,
// rolls back, erases and sends releases to other registries.
//
// It decides nothing by itself: package gate judges images, package trust whom to
// believe, package catalog which tags move, and package registry makes a decision
// durable, in the audit log first, all or nothing. It keeps facts about bytes,
// which never change, and never a verdict, which depends on the day: claims come,
// waivers and databases get old. Handler is its HTTP interface and package client
// the other end of it; who may ask is the caller's to know.
package release

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// Config is a release service. Registry, Log, Rules, Signer and Host must be set.
type Config struct {
	Registry Registry
	Log      registry.Log
	Rules    func(context.Context) (Rules, error) // in force now; called for each judgement

	// Signer signs summaries. Whoever relies on them believes this key.
	Signer trust.Signer

	// Host is the public name of this registry, with a port where clients need
	// one: HOST in HOST/NAME, for which images are judged and claims believed.
	Host     string
	Verifier string // names this server in summaries; "": summary.VerifierID
	Version  string // of the program

	// Checkpoint returns the newest signed checkpoint of the audit log, which each
	// summary holds; nil, and a nil checkpoint: none does.
	Checkpoint func(context.Context) ([]byte, error)
	LogKey     string // public key of the log, for Server.LogKey

	Foreign Foreign
	Entries Entries // what was logged, for comparing foreign registries; nil: nothing is compared

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: discards
	Limits image.Limits     // of the images that are judged

	// KnownPaths is how many files of images, together, are remembered between
	// the judgement of a candidate and its release, some 250 bytes each; 0: 200,000.
	KnownPaths int
}

// Service releases. Its methods may be called by many at once.
type Service struct {
	c       Config
	known   knownFacts
	reading chan struct{} // images that are read at once
	sending keyed         // foreign repositories that are released to
}

// New makes a service.
func New(c Config) (*Service, error) {
	switch {
	case c.Registry == nil || c.Log == nil || c.Rules == nil || c.Signer == nil:
		return nil, fmt.Errorf("release service: no registry, log, rules or signer")
	case !validHost(c.Host):
		return nil, fmt.Errorf("release service: %q is no registry's host name: want the one by which clients reach it, with a dot or a port, as in registry.example or 127.0.0.1:5000", c.Host)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Verifier = cmp.Or(c.Verifier, summary.VerifierID)
	// Reading an image takes every processor it gets; pushes and pulls need some.
	return &Service{c: c, known: knownFacts{most: cmp.Or(c.KnownPaths, 200_000)}, reading: make(chan struct{}, 2)}, nil
}

func validHost(host string) bool {
	ref, err := oci.ParseRef(host + "/x")
	return err == nil && ref.Kind == oci.RegistryRef && ref.Host == host && ref.Name == "x"
}

// requestID checks a request's id, or makes one.
func requestID(id string) (string, error) {
	if id == "" {
		return NewID(), nil
	}
	if !registry.ValidRequestID(id) {
		return "", bad("request id %q: want 8 to 100 letters, digits, dots, hyphens and underscores", clip(id))
	}
	return id, nil
}

// NewID makes a request id that nobody else has.
func NewID() string { return "req-" + strings.ToLower(rand.Text()) }

func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// checked is a request whose form is right.
type checked struct {
	id, home string
	version  catalog.Version
	digest   oci.Digest
}

func (s *Service) check(id, repository, version string, d oci.Digest) (c checked, err error) {
	if c.id, err = requestID(id); err != nil {
		return c, err
	}
	if err := production(repository); err != nil {
		return c, err
	}
	c.home = repository
	if err := d.Validate(); err != nil {
		return c, bad("digest %q: %v", clip(string(d)), err).remedy("name the candidate by its digest: NAME@sha256:…")
	}
	c.digest = d
	if c.version, err = catalog.ParseVersion(version); err != nil {
		return c, problemf(http.StatusBadRequest, registry.TagInvalid, BadRequest, "%v", err)
	}
	return c, nil
}

// production wants the name of a production repository, without a host.
func production(repository string) error {
	if !catalog.ValidName(repository) {
		return bad("%q is no repository's name", clip(repository))
	}
	if class, home := catalog.Of(repository); class != catalog.Production {
		return bad("%s is a %s catalog: versions are released to %s", repository, class, home).remedy("name the production repository: %s", home)
	}
	return nil
}

// Release makes a candidate a version of production, or refuses with every
// reason. A request whose id was answered before is answered alike, without a
// second effect; a version that is released already gets the claims that came
// since.
func (s *Service) Release(ctx context.Context, req Request, actor audit.Actor) (*Answer, error) {
	c, err := s.check(req.ID, req.Repository, req.Version, req.Digest)
	if err != nil {
		return nil, err
	}
	if req.To != "" {
		return s.releaseTo(ctx, c, req, actor)
	}
	repository := s.c.Host + "/" + c.home
	order := registry.ReleaseOrder{RequestID: c.id, Repository: c.home, Digest: c.digest, Version: c.version.String()}
	if !req.DryRun {
		done, ok, err := s.c.Registry.RequestDone(ctx, order)
		if err != nil {
			return nil, withID(err, c.id)
		}
		if ok {
			return &Answer{ID: c.id, Repository: repository, Version: done.Version, Digest: done.Digest, Moves: done.Moves, Entry: &done.Entry, Repeated: true, Again: done.Again}, nil
		}
	}
	versions, err := s.c.Registry.Versions(ctx, c.home)
	if err != nil && !unknown(err) {
		return nil, withID(err, c.id)
	}
	j, err := s.judge(ctx, c.home, repository, c.digest)
	if err != nil {
		return nil, s.refused(ctx, req, c, actor, nil, nil, err)
	}
	reasons := s.reasons(j, c, versions)
	if len(reasons) > 0 {
		return nil, s.refused(ctx, req, c, actor, j, reasons, nil)
	}
	previous, since := before(versions, c.version)
	w, err := s.write(ctx, j, c.version.String(), previous, since)
	if err != nil {
		return nil, withID(err, c.id)
	}
	out := &Answer{ID: c.id, Repository: repository, Version: c.version.String(), Digest: c.digest, Summaries: w.summaries, Notes: w.text, Verdict: j.results()}
	if req.DryRun {
		out.DryRun = true
		return out, nil
	}
	order.Attach, order.Seen, order.Judged = w.attach, j.seen, j.judged()
	if order.Seen == nil {
		order.Seen = []oci.Digest{} // none were seen, which is to be compared too
	}
	order.Entry = s.entry(j, c, actor, audit.Object{Repository: c.home, Tag: c.version.String(), Digest: c.digest}, w)
	done, err := s.c.Registry.Release(ctx, order)
	if err != nil {
		return nil, s.refused(ctx, req, c, actor, j, nil, err)
	}
	out.Moves, out.Entry, out.Repeated, out.Again = done.Moves, &done.Entry, done.Repeated, done.Again
	s.c.Logger.Info("released", "repository", c.home, "version", out.Version, "digest", c.digest, "by", actor.Name, "entry", done.Entry, "request", c.id)
	return out, nil
}

func reused(id string) *Problem {
	return problemf(http.StatusConflict, registry.Conflict, registry.RequestReused, "request id %s was used for another request", id).
		remedy("use another id for another request")
}

// reasons are those besides the gate's why the candidate cannot become the
// version, and the gate's verdict as one of them.
func (s *Service) reasons(j *judgement, c checked, versions []registry.Released) (out []Reason) {
	if j.class == catalog.Development {
		out = append(out, Reason{NotACandidate, fmt.Sprintf("%s is in the development catalog %s: only a candidate can be released", c.digest, j.from),
			fmt.Sprintf("push the production image to %s/candidate: `twinhull publish`", c.home)})
	}
	for _, v := range versions {
		if v.Version == c.version.String() && v.Erased {
			out = append(out, Reason{registry.VersionErased, fmt.Sprintf("version %s was erased, and its number is not given again", v.Version), "release under a new version"})
		} else if v.Version == c.version.String() && v.Digest != c.digest {
			out = append(out, Reason{registry.VersionExists, fmt.Sprintf("version %s is released already, with digest %s", v.Version, v.Digest), "release under a new version: what is released never changes"})
		}
		if v.Digest == c.digest && v.Revoked != nil {
			out = append(out, Reason{registry.AlreadyRevoked, fmt.Sprintf("%s is version %s, which was revoked: %s", c.digest, v.Version, v.Revoked.Reason), "build and release a corrected image"})
		}
	}
	if !j.allowed() {
		rules, n := 0, 0
		for _, r := range j.reports {
			a, b := r.Verdict.Refusals()
			rules, n = max(rules, a), n+b
		}
		out = append(out, Reason{RefusedByGate, fmt.Sprintf("the gate refuses %s for production: %d rules refuse, %d reasons", c.digest, rules, n),
			"the verdict names each reason and its remedy"})
	}
	return out
}

// before is the version that notes compare with: the highest lower one.
func before(versions []registry.Released, v catalog.Version) (previous string, d oci.Digest) {
	var best catalog.Version
	for _, x := range versions {
		p, err := catalog.ParseVersion(x.Version)
		if err == nil && !x.Erased && p.Compare(v) < 0 && (previous == "" || p.Compare(best) > 0) {
			best, previous, d = p, x.Version, x.Digest
		}
	}
	return previous, d
}

// written is what a release signs and writes beside the image.
type written struct {
	attach    []registry.Attachment
	summaries []oci.Digest // bundles
	root      oci.Digest   // the bundle about what was released
	notes     oci.Digest   // manifest of the notes; "" without
	text      string
	since     string
	anchor    oci.Digest // of the checkpoint that the summaries hold; "" without
}

// write signs the verdict about each image and about the index that a tag will
// name, and the inspections, and writes the notes.
func (s *Service) write(ctx context.Context, j *judgement, version, previous string, since oci.Digest) (*written, error) {
	w := &written{since: previous}
	to := &collected{}
	now := s.c.Now()
	checkpoint, err := s.checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	if checkpoint != nil {
		w.anchor = digest.FromBytes(checkpoint)
	}
	sign := func(subject oci.Descriptor, r *gate.Report) error {
		p, err := r.Summary(s.c.Verifier, s.c.Version)
		if err != nil {
			return undecided(err)
		}
		if p.VerificationResult != summary.Passed {
			// The repository would be none of production, which was checked.
			return undecided(fmt.Errorf("the summary about %s says %s", subject.Digest, p.VerificationResult))
		}
		if p, err = p.Anchored(checkpoint); err != nil {
			return undecided(err)
		}
		bundle, err := s.claim(ctx, to, j.repository, subject, evidence.TypeSummary, p, now)
		if err != nil {
			return undecided(err)
		}
		w.summaries = append(w.summaries, bundle)
		w.root = bundle
		return nil
	}
	for i, r := range j.reports {
		desc := plain(j.images.Images[i])
		if err := sign(desc, r); err != nil {
			return nil, err
		}
		if a, err := r.Absence(s.c.Version, now); err == nil {
			if _, err := s.claim(ctx, to, j.repository, desc, evidence.TypeAbsence, a, now); err != nil {
				return nil, undecided(err)
			}
		}
	}
	if j.joined != nil {
		if err := sign(plain(j.images.Root), j.joined); err != nil {
			return nil, err
		}
	}
	n, err := s.notes(ctx, j, version, previous, since)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		// Notes are for reading; a damaged old version must not stop a new one.
		s.c.Logger.Warn("release notes without a comparison", "repository", j.home, "previous", previous, "error", err)
		if n, err = s.notes(ctx, j, version, "", ""); err != nil {
			return nil, undecided(err)
		}
	}
	d, text, err := n.attachment(ctx, to, plain(j.images.Root), now)
	if err != nil {
		return nil, undecided(err)
	}
	w.attach, w.notes, w.text = to.list, d.Digest, text
	return w, nil
}

func plain(d oci.Descriptor) oci.Descriptor {
	return oci.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

func (s *Service) checkpoint(ctx context.Context) ([]byte, error) {
	if s.c.Checkpoint == nil {
		return nil, nil
	}
	c, err := s.c.Checkpoint(ctx)
	if err != nil {
		return nil, undecided(fmt.Errorf("the audit log's checkpoint: %w", err))
	}
	return c, nil
}

// claim signs a statement and puts it among what is stored; it returns the
// digest of the bundle.
func (s *Service) claim(ctx context.Context, to *collected, name string, subject oci.Descriptor, predicateType string, predicate any, now time.Time) (oci.Digest, error) {
	statement, err := evidence.New(name, subject.Digest, predicateType, predicate)
	if err != nil {
		return "", err
	}
	bundle, err := trust.Sign(ctx, statement, s.c.Signer)
	if err != nil {
		return "", err
	}
	if _, err := referrers.Attach(ctx, to, subject, bundle, predicateType, now); err != nil {
		return "", err
	}
	return digest.FromBytes(bundle), nil
}

// entry is what the audit log will say of the release. The registry adds what
// only it knows: the moves of tags and every digest.
func (s *Service) entry(j *judgement, c checked, actor audit.Actor, o audit.Object, w *written) audit.Entry {
	e := audit.Entry{Type: audit.EntryType, ID: c.id, Time: audit.Timestamp(s.c.Now()), Action: audit.Release, Actor: actor, Object: o, Verdict: audit.Allowed,
		Claims: j.claims(), Summary: w.root, Policy: policyOf(j.rules).Digest(), Database: j.rules.DatabaseDigest, Detail: map[string]string{"host": s.c.Host}}
	if j.rules.Trust != nil {
		e.Trust = j.rules.Trust.Digest()
	}
	for k, v := range map[string]string{"notes": string(w.notes), "previous": w.since, "checkpoint": string(w.anchor)} {
		if v != "" {
			e.Detail[k] = v
		}
	}
	return e
}

func policyOf(r Rules) *policy.Policy {
	if r.Policy == nil {
		return policy.Default()
	}
	return r.Policy
}

// Limits of what an entry says of a refusal: the client has all of it.
const (
	maxReasons = 40
	maxReason  = 400 // bytes
)

// refused records a refusal in the audit log and returns it as a Problem. What
// could not be decided is no refusal and is recorded by the server's log only.
func (s *Service) refused(ctx context.Context, req Request, c checked, actor audit.Actor, j *judgement, reasons []Reason, cause error) error {
	var p *Problem
	if cause != nil {
		p = withID(cause, c.id)
		if j != nil {
			p.Verdict = j.results()
		}
	} else {
		code, code2 := registry.Denied, http.StatusUnprocessableEntity
		if reasons[0].Reason == registry.VersionExists && len(reasons) == 1 {
			code, code2 = registry.Conflict, http.StatusConflict
		}
		p = &Problem{Status: code2, Code: code, ID: c.id, Reasons: reasons, Verdict: j.results(),
			Message: fmt.Sprintf("%s is not released as %s", c.digest, c.version)}
	}
	if !p.Refuses() || req.DryRun || p.Entry != nil {
		if !p.Refuses() {
			s.c.Logger.Error("release could not be decided", "repository", c.home, "version", c.version, "digest", c.digest, "request", c.id, "error", p)
		}
		return p
	}
	// Not the request's own id: whoever repeats the request may be allowed then,
	// and that entry must be the one that its id finds.
	e := audit.Entry{Type: audit.EntryType, ID: c.id + "#refused", Time: audit.Timestamp(s.c.Now()), Action: audit.Release, Actor: actor, Verdict: audit.Refused,
		Object: audit.Object{Repository: cmp.Or(req.To, c.home), Tag: c.version.String(), Digest: c.digest}, Reasons: refusalReasons(p, j)}
	if j != nil {
		e.Policy, e.Database, e.Claims = policyOf(j.rules).Digest(), j.rules.DatabaseDigest, j.claims()
		if j.rules.Trust != nil {
			e.Trust = j.rules.Trust.Digest()
		}
	}
	i, err := s.c.Log.Append(ctx, e)
	if err != nil {
		// Nothing was released, so that nothing hangs on the entry.
		s.c.Logger.Error("a refusal is not in the audit log", "request", c.id, "error", err)
		return p
	}
	p.Entry = &i
	return p
}

func refusalReasons(p *Problem, j *judgement) (out []string) {
	add := func(s string) {
		if len(s) > maxReason {
			s = strings.ToValidUTF8(s[:maxReason], "") + "…"
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, r := range p.Reasons {
		add(string(r.Reason) + ": " + r.Message)
	}
	if j != nil {
		for _, r := range j.reports {
			for _, x := range r.Verdict.Rules {
				if !x.Outcome.Refuses() {
					continue
				}
				because := x.Because
				for _, y := range x.Reasons {
					if y.Outcome.Refuses() {
						because = y.Message
						break
					}
				}
				add(x.Rule + ": " + cmp.Or(because, x.Title))
			}
		}
	}
	if n := len(out) - maxReasons; n > 0 {
		out = append(out[:maxReasons], fmt.Sprintf("and %d more", n))
	}
	return out
}

func withID(err error, id string) *Problem {
	p := *ProblemOf(err)
	p.ID = id
	return &p
}

// Judge says what the gate would say now. It reads the image, and remembers what
// it read: the release that follows is quick.
func (s *Service) Judge(ctx context.Context, req JudgeRequest) (*gate.Results, error) {
	if !catalog.ValidName(req.Repository) {
		return nil, bad("%q is no repository's name", clip(req.Repository))
	}
	if err := req.Digest.Validate(); err != nil {
		return nil, bad("digest %q: %v", clip(string(req.Digest)), err)
	}
	_, home := catalog.Of(req.Repository)
	repository := s.c.Host + "/" + home
	if req.To != "" {
		if _, err := s.foreign(req.To); err != nil {
			return nil, err
		}
		repository = req.To
	}
	j, err := s.judge(ctx, home, repository, req.Digest)
	if err != nil {
		return nil, err
	}
	// The notes will compare with the newest version.
	if versions, err := s.c.Registry.Versions(ctx, home); err == nil && req.To == "" {
		if list := slices.DeleteFunc(versions, func(v registry.Released) bool { return v.Erased }); len(list) > 0 {
			last := slices.MaxFunc(list, func(a, b registry.Released) int { return a.At.Compare(b.At) })
			if _, err := s.released(ctx, j, last.Digest); err != nil {
				s.c.Logger.Warn("the newest version cannot be read", "repository", home, "version", last.Version, "error", err)
			}
		}
	}
	return j.results(), nil
}

// findImages is gate.FindImages over a repository of ours.
func findImages(root oci.Descriptor, c content) (*gate.Images, error) {
	return gate.FindImages(root, oci.Platform{}, c.ReadBlob)
}

// Info is what clients must know of the server.
func (s *Service) Info(ctx context.Context) (*Server, error) {
	pem, err := trust.PublicPEM(s.c.Signer.PublicKey())
	if err != nil {
		return nil, err
	}
	out := &Server{Host: s.c.Host, Verifier: s.c.Verifier, PublicKey: string(pem), LogKey: s.c.LogKey, Version: s.c.Version}
	r, err := s.c.Rules(ctx)
	if err != nil {
		return nil, undecided(err)
	}
	out.Policy, out.Database = policyOf(r).Digest(), r.DatabaseDigest
	if r.Trust != nil {
		out.Trust = r.Trust.Digest()
	}
	return out, nil
}
