package release

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/trust"
)

// Predicate types of signed orders. A trust policy names them like kinds of
// claims, and so says whose orders are followed, and for which repositories.
const (
	TypeRollBack = "https://twinhull.dev/order/roll-back/v1"
	TypeErase    = "https://twinhull.dev/order/erase/v1"
)

// Order is the predicate of a signed order. Its subject is the digest that the
// tags shall point to, or that is erased.
type Order struct {
	ID         string       `json:"id"`         // request id: an order is carried out once
	Time       string       `json:"time"`       // RFC 3339, when it was signed
	Repository string       `json:"repository"` // HOST/NAME
	Version    string       `json:"version,omitempty"`
	Moves      []audit.Move `json:"moves,omitempty"` // of a roll-back: from where to where
	Reason     string       `json:"reason,omitempty"`
}

// How long an order may be on its way. An erasure needs two people.
const (
	rollBackAge = 24 * time.Hour
	eraseAge    = 14 * 24 * time.Hour
	orderSkew   = 5 * time.Minute
)

// maxReasonText bounds what a person gives as a reason, in bytes.
const maxReasonText = 2000

func (o Order) check(kind string) error {
	if !registry.ValidRequestID(o.ID) {
		return fmt.Errorf("id %q: want 8 to 100 letters, digits, dots, hyphens and underscores", clip(o.ID))
	}
	if _, err := time.Parse(time.RFC3339, o.Time); err != nil {
		return fmt.Errorf("time %q: want an RFC 3339 time", clip(o.Time))
	}
	if kind == TypeErase && (len(o.Moves) > 0 || o.Version != "" || strings.TrimSpace(o.Reason) == "" || len(o.Reason) > maxReasonText) {
		return fmt.Errorf("an erasure has a reason of at most %d bytes, and no moves", maxReasonText)
	}
	if kind == TypeRollBack {
		if _, err := catalog.ParseVersion(o.Version); err != nil {
			return err
		}
		if len(o.Moves) == 0 {
			return fmt.Errorf("it moves no tag")
		}
		for i, m := range o.Moves {
			if catalog.KindOf(m.Tag) != catalog.ConvenienceTag {
				return fmt.Errorf("%s is no convenience tag: only 1.4, 1 and latest can be rolled back", clip(m.Tag))
			}
			if m.From.Validate() != nil || m.To.Validate() != nil || m.To != o.Moves[0].To {
				return fmt.Errorf("moves[%d]: want from and to as digests, and one to", i)
			}
		}
	}
	return nil
}

// SignOrder makes a signed order, a Sigstore bundle.
func SignOrder(ctx context.Context, s trust.Signer, kind string, subject oci.Digest, o Order) ([]byte, error) {
	if err := o.check(kind); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	statement, err := evidence.New(o.Repository, subject, kind, o)
	if err != nil {
		return nil, err
	}
	return trust.Sign(ctx, statement, s)
}

// openOrder believes an order when the trust policy lets its signer give it.
func (s *Service) openOrder(bundle []byte, kind string, subject oci.Digest, repository string, rules Rules, most time.Duration) (Order, trust.Opened, error) {
	no := func(format string, a ...any) (Order, trust.Opened, error) {
		return Order{}, trust.Opened{}, problemf(http.StatusForbidden, registry.Denied, BadOrder, "the order is not followed: "+format, a...).
			remedy("the server's trust policy says who may sign claims of type %s about %s", kind, repository)
	}
	now := s.c.Now()
	opened, err := trust.Open(bundle, subject, rules.Trust, repository, now)
	if err != nil {
		return no("%v", err)
	}
	if opened.PredicateType() != kind {
		return no("it is of type %s, want %s", clip(opened.PredicateType()), kind)
	}
	var o Order
	if err := strictjson.Unmarshal(opened.Predicate(), &o); err != nil {
		return no("%v", err)
	}
	if err := o.check(kind); err != nil {
		return no("%v", err)
	}
	at, _ := time.Parse(time.RFC3339, o.Time)
	switch {
	case o.Repository != repository:
		return no("it is about %s, not about %s", clip(o.Repository), repository)
	case at.After(now.Add(orderSkew)):
		return no("it was signed in the future, at %s", o.Time)
	case now.Sub(at) > most:
		return no("it was signed at %s, more than %s ago", o.Time, most)
	}
	return o, opened, nil
}

// RollBack moves convenience tags to an older version by one signed order.
func (s *Service) RollBack(ctx context.Context, req OrderRequest, actor audit.Actor) (*Answer, error) {
	if err := production(req.Repository); err != nil {
		return nil, err
	}
	if len(req.Orders) != 1 {
		return nil, bad("%d orders: a roll-back is one", len(req.Orders))
	}
	rules, err := s.c.Rules(ctx)
	if err != nil {
		return nil, undecided(err)
	}
	repository := s.c.Host + "/" + req.Repository
	o, opened, err := s.openOrder([]byte(req.Orders[0]), TypeRollBack, req.Digest, repository, rules, rollBackAge)
	if err != nil {
		return nil, err
	}
	var tags []string
	changed := ""
	for _, m := range o.Moves {
		if m.To != req.Digest {
			return nil, withID(bad("the order moves tags to %s and is about %s", m.To, req.Digest), o.ID)
		}
		tags = append(tags, m.Tag)
		at, err := s.c.Registry.TagOf(ctx, req.Repository, m.Tag)
		if err != nil && !unknown(err) {
			return nil, withID(err, o.ID)
		}
		if at.Digest != m.From && changed == "" {
			changed = fmt.Sprintf("%s points to %s now, and to %s when the order was signed", m.Tag, cmp.Or(at.Digest, "nothing"), m.From)
		}
	}
	// Tags move by decisions only, one at a time, and an order that was followed is
	// answered by its id: between this look and the decision nobody but another
	// decision about the same second could come.
	order := registry.RollBackOrder{RequestID: o.ID, Repository: req.Repository, Version: o.Version, Tags: tags, Reason: o.Reason, Entry: s.ordered(audit.RollBack, o, actor, rules, opened)}
	if v, err := s.version(ctx, req.Repository, o.Version); err != nil {
		return nil, withID(err, o.ID)
	} else if v.Digest != req.Digest {
		return nil, withID(problemf(http.StatusConflict, registry.Conflict, BadOrder, "%s is %s, and the order is about %s", o.Version, v.Digest, req.Digest), o.ID)
	}
	done, err := s.rollBack(ctx, order, changed)
	if err != nil {
		return nil, withID(err, o.ID)
	}
	return &Answer{ID: o.ID, Repository: repository, Version: o.Version, Digest: req.Digest, Moves: done.Moves, Entry: &done.Entry, Repeated: done.Repeated}, nil
}

// Erase erases a digest by two orders that say the same, signed with two keys by
// two identities.
func (s *Service) Erase(ctx context.Context, req OrderRequest, actor audit.Actor) (*Answer, error) {
	if err := production(req.Repository); err != nil {
		return nil, err
	}
	rules, err := s.c.Rules(ctx)
	if err != nil {
		return nil, undecided(err)
	}
	few := func(why string) error {
		return problemf(http.StatusForbidden, registry.Denied, registry.NeedsTwoKeys, "an erasure needs two orders of two identities with two keys: %s", why).
			remedy("let a second person sign the same order: `twinhull erase --order FILE --key KEY`")
	}
	if len(req.Orders) != 2 {
		return nil, few(fmt.Sprintf("there are %d", len(req.Orders)))
	}
	repository := s.c.Host + "/" + req.Repository
	var orders []Order
	var opened []trust.Opened
	for _, b := range req.Orders {
		o, op, err := s.openOrder([]byte(b), TypeErase, req.Digest, repository, rules, eraseAge)
		if err != nil {
			return nil, err
		}
		orders, opened = append(orders, o), append(opened, op)
	}
	switch {
	case opened[0].Identity() == opened[1].Identity():
		return nil, few("both are of " + opened[0].Identity())
	case opened[0].Signer() == opened[1].Signer():
		return nil, few("both are signed by " + opened[0].Signer())
	case !bytes.Equal(opened[0].Predicate(), opened[1].Predicate()):
		return nil, few("they do not say the same")
	}
	o := orders[0]
	done, err := s.c.Registry.Erase(ctx, registry.EraseOrder{RequestID: o.ID, Repository: req.Repository, Digest: req.Digest, Reason: o.Reason,
		Keys: []string{opened[0].Identity(), opened[1].Identity()}, Entry: s.ordered(audit.Erase, o, actor, rules, opened...)})
	if err != nil {
		return nil, withID(err, o.ID)
	}
	return &Answer{ID: o.ID, Repository: repository, Digest: req.Digest, Entry: &done.Entry}, nil
}

// version finds a released version.
func (s *Service) version(ctx context.Context, repository, version string) (registry.Released, error) {
	all, err := s.c.Registry.Versions(ctx, repository)
	if err != nil {
		return registry.Released{}, err
	}
	for _, v := range all {
		if v.Version == version {
			return v, nil
		}
	}
	return registry.Released{}, problemf(http.StatusNotFound, registry.ManifestUnknown, registry.NotReleased, "%s %s was never released", repository, clip(version)).
		remedy("see what there is: `twinhull catalog list %s/%s`", s.c.Host, repository)
}

func (s *Service) ordered(a audit.Action, o Order, actor audit.Actor, rules Rules, opened ...trust.Opened) audit.Entry {
	e := audit.Entry{Type: audit.EntryType, ID: o.ID, Time: audit.Timestamp(s.c.Now()), Action: a, Actor: actor, Verdict: audit.Allowed, Detail: map[string]string{"host": s.c.Host}}
	var by []string
	for _, op := range opened {
		e.Claims = append(e.Claims, op.Digest())
		by = append(by, op.Identity())
	}
	slices.Sort(e.Claims)
	e.Detail["orderedBy"] = strings.Join(by, ", ")
	if rules.Trust != nil {
		e.Trust = rules.Trust.Digest()
	}
	return e
}

// Revoke marks what was released as not to be admitted from now on, and signs
// summaries that say FAILED, of the images and of the index. Its bytes stay.
func (s *Service) Revoke(ctx context.Context, req RevokeRequest, actor audit.Actor) (*Revoked, error) {
	id, err := requestID(req.ID)
	if err != nil {
		return nil, err
	}
	if err := production(req.Repository); err != nil {
		return nil, withID(err, id)
	}
	reason := strings.TrimSpace(req.Reason)
	switch {
	case reason == "" || len(reason) > maxReasonText:
		return nil, withID(bad("a revocation needs a reason, of at most %d bytes", maxReasonText), id)
	case (req.Version == "") == (req.Digest == ""):
		return nil, withID(bad("say what is revoked, either by its version or by its digest"), id)
	}
	d := req.Digest
	if req.Version != "" {
		v, err := catalog.ParseVersion(req.Version)
		if err != nil {
			return nil, withID(bad("%v", err), id)
		}
		m, err := s.c.Registry.Manifest(ctx, req.Repository, v.String())
		if err != nil {
			return nil, withID(err, id)
		}
		d = m.Digest
	} else if err := d.Validate(); err != nil {
		return nil, withID(bad("digest %q: %v", clip(string(d)), err), id)
	}
	m, err := s.c.Registry.Manifest(ctx, req.Repository, string(d))
	if err != nil {
		return nil, withID(err, id)
	}
	rules, err := s.c.Rules(ctx)
	if err != nil {
		return nil, withID(undecided(err), id)
	}
	root := oci.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(m.Content))}
	c := content{ctx, s.c.Registry, req.Repository}
	// What cannot be read as an image can be revoked all the same.
	subjects := []oci.Descriptor{root}
	if images, err := findImages(root, c); err == nil && oci.IsIndex(root.MediaType) {
		for _, i := range images.Images {
			subjects = append(subjects, plain(i))
		}
	}
	out := &Revoked{ID: id, Repository: s.c.Host + "/" + req.Repository, Digest: d}
	to := &collected{}
	now := s.c.Now()
	var trusted oci.Digest
	if rules.Trust != nil {
		trusted = rules.Trust.Digest()
	}
	checkpoint, err := s.checkpoint(ctx)
	if err != nil {
		return nil, withID(err, id)
	}
	for _, subject := range subjects {
		p, err := summary.Make(summary.Input{Verifier: s.c.Verifier, Version: s.c.Version, Time: now, Repository: out.Repository, Policy: policyOf(rules).Digest(), Trust: trusted,
			Reasons: []string{"revoked: " + reason}})
		if err == nil {
			p, err = p.Anchored(checkpoint)
		}
		if err != nil {
			return nil, withID(undecided(err), id)
		}
		bundle, err := s.claim(ctx, to, out.Repository, subject, evidence.TypeSummary, p, now)
		if err != nil {
			return nil, withID(undecided(err), id)
		}
		out.Summaries = append(out.Summaries, bundle)
	}
	e := audit.Entry{Type: audit.EntryType, ID: id, Time: audit.Timestamp(now), Action: audit.Revoke, Actor: actor, Verdict: audit.Allowed,
		Summary: out.Summaries[0], Policy: policyOf(rules).Digest(), Trust: trusted, Detail: map[string]string{"host": s.c.Host}}
	if checkpoint != nil {
		e.Detail["checkpoint"] = string(digest.FromBytes(checkpoint))
	}
	done, err := s.c.Registry.Revoke(ctx, registry.RevokeOrder{RequestID: id, Repository: req.Repository, Digest: d, Reason: reason, Attach: to.list, Entry: e})
	if err != nil {
		return nil, withID(err, id)
	}
	out.Entry, out.Repeated, out.Versions, out.Tags = done.Entry, done.Repeated, done.Versions, done.Tags
	if done.Repeated {
		out.Summaries = nil // others were stored the first time
	}
	return out, nil
}

// rollBack refuses an order whose tags moved since it was signed, but for one
// that was followed already: then they moved because of it.
func (s *Service) rollBack(ctx context.Context, o registry.RollBackOrder, changed string) (registry.Released, error) {
	if changed == "" {
		return s.c.Registry.RollBack(ctx, o)
	}
	_, found, err := s.c.Log.Find(ctx, 0, o.RequestID)
	if err != nil {
		return registry.Released{}, undecided(err)
	}
	if !found {
		return registry.Released{}, problemf(http.StatusConflict, registry.Conflict, BadOrder, "the order is not followed: %s", changed).remedy("sign a new order")
	}
	return s.c.Registry.RollBack(ctx, o)
}
