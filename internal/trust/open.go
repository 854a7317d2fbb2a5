package trust

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/oci"
)

// Reasons why a claim is not believed, for errors.Is. They are asked in this
// order.
var (
	ErrForm       = errors.New("not a claim in the one form that is read")
	ErrSignature  = errors.New("not signed by anybody whom the trust policy knows")
	ErrSubject    = errors.New("about something else")
	ErrNotAllowed = errors.New("the signer may not make this claim about this repository")
	ErrTime       = errors.New("not valid at this time")
)

// refusal is a reason with its detail; the sentence is the detail.
type refusal struct {
	reason error
	detail string
}

func (r *refusal) Error() string { return r.detail }
func (r *refusal) Unwrap() error { return r.reason }

func refuse(reason error, format string, a ...any) error {
	return &refusal{reason, fmt.Sprintf(format, a...)}
}

// skew is how far ahead another machine's clock may be.
const skew = 5 * time.Minute

// Opened is a claim that may be believed: its signature, signer, subject, kind
// and time were checked by Open, which alone can make one. The zero Opened says
// nothing: Valid is false and every accessor returns nothing.
type Opened struct {
	valid      bool
	statement  evidence.Statement
	kind       evidence.Kind
	subject    oci.Digest
	repository string
	identity   string
	signer     string
	signed     time.Time
	digest     oci.Digest
}

// Valid tells an opened claim from the zero value.
func (o Opened) Valid() bool { return o.valid }

// Kind is what the claim is about.
func (o Opened) Kind() evidence.Kind { return o.kind }

// PredicateType is the type of the predicate, a URI.
func (o Opened) PredicateType() string { return o.statement.PredicateType }

// Predicate returns a copy of the predicate's JSON.
func (o Opened) Predicate() []byte { return slices.Clone(o.statement.Predicate) }

// Subject is the digest that was asked for and that the claim is about.
func (o Opened) Subject() oci.Digest { return o.subject }

// Repository is the repository for which the claim was believed.
func (o Opened) Repository() string { return o.repository }

// Identity is the signer's name in the trust policy.
func (o Opened) Identity() string { return o.identity }

// Signer says who signed: "key ID", or "SUBJECT (ISSUER)" of a certificate.
func (o Opened) Signer() string { return o.signer }

// Signed is when the claim was signed, as somebody else than the signer vouches
// for. ok is false for claims signed with a key: nobody vouches for their time.
func (o Opened) Signed() (t time.Time, ok bool) { return o.signed, !o.signed.IsZero() }

// Digest is that of the bundle, by which a verification summary lists it.
func (o Opened) Digest() oci.Digest { return o.digest }

// Open checks a bundle and returns the claim in it. subject is the digest of
// the image that is being judged, repository its HOST/NAME (empty when it is in
// no registry), now the time at which it is judged.
//
// Everything is verified before anything is believed: the form (version 0.3
// only, one signature over one statement), the signature by an identity of the
// policy, the subject, that this identity may make this kind of claim about
// this repository, and the time. On any doubt the error says which (ErrForm,
// ErrSignature, ErrSubject, ErrNotAllowed, ErrTime) and the Opened is zero.
func Open(bundle []byte, subject oci.Digest, p *Policy, repository string, now time.Time) (Opened, error) {
	env, err := parseBundle(bundle)
	if err != nil {
		return Opened{}, refuse(ErrForm, "%v", err)
	}
	if err := subject.Validate(); err != nil {
		return Opened{}, refuse(ErrSubject, "no image to compare with: digest %q: %v", subject, err)
	}
	if p == nil {
		return Opened{}, refuse(ErrSignature, "there is no trust policy: nobody is believed")
	}
	signers, err := p.whoSigned(env, bundle, subject)
	if err != nil {
		return Opened{}, err
	}
	// From here on the bytes are known to be the signer's own.
	s, err := evidence.Parse(env.payload)
	if err != nil {
		return Opened{}, refuse(ErrForm, "%v", err)
	}
	if !s.About(subject) {
		return Opened{}, refuse(ErrSubject, "the claim is about %s, not about %s", subjects(s), subject)
	}
	kind, err := s.Kind()
	if err != nil {
		return Opened{}, refuse(ErrForm, "%v", err)
	}
	var first error
	for _, by := range signers {
		err := p.allows(by, s, kind, repository, now)
		if err == nil {
			return Opened{
				valid: true, statement: s, kind: kind, subject: subject, repository: repository,
				identity: by.id.name, signer: by.signer, signed: by.signed, digest: digest.FromBytes(bundle),
			}, nil
		}
		// Of two names for one key, the one that comes closest says more.
		if first == nil || errors.Is(err, ErrTime) {
			first = err
		}
	}
	return Opened{}, first
}

func subjects(s evidence.Statement) string {
	var all []string
	for _, r := range s.Subject[:min(len(s.Subject), 3)] {
		if d, err := r.OCIDigest(); err == nil {
			all = append(all, d.String())
		}
	}
	if len(all) == 0 {
		return "nothing that has a digest"
	}
	if len(s.Subject) > len(all) {
		all = append(all, "…")
	}
	return strings.Join(all, ", ")
}

// signedBy is an identity whose signature was verified.
type signedBy struct {
	id     *identity
	signer string
	signed time.Time
}

// whoSigned returns the identities that the signature is proved to be of. The
// hint in the bundle chooses words, never keys: every key is tried.
func (p *Policy) whoSigned(env *envelope, bundle []byte, subject oci.Digest) (out []signedBy, _ error) {
	broken, why := "", ""
	for _, id := range p.identities {
		switch {
		case id.key != nil && !env.certificate:
			if verifySignature(id.key, env.message, env.sig) {
				out = append(out, signedBy{id: id, signer: "key " + id.keyID})
			} else if env.hint == id.keyID {
				broken = id.name
			}
		case id.roots != nil && env.certificate:
			res, err := id.verifyKeyless(bundle, subject)
			if err != nil {
				why = fmt.Sprintf("%s: %v", id.name, err)
				continue
			}
			out = append(out, signedBy{id, fmt.Sprintf("%s (%s)", res.subject, res.issuer), res.signed})
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case broken != "":
		return nil, refuse(ErrSignature, "the signature is wrong: it names the key of %s, which did not sign these bytes", broken)
	case env.certificate && why != "":
		return nil, refuse(ErrSignature, "the certificate or its signature is not believed: %s", why)
	case env.certificate:
		return nil, refuse(ErrSignature, "signed with a certificate, and the trust policy names no issuer")
	case env.hint != "":
		return nil, refuse(ErrSignature, "signed with key %q, which the trust policy does not know", clip(env.hint))
	}
	return nil, refuse(ErrSignature, "signed with a key that the trust policy does not know")
}

func clip(s string) string {
	const most = 80
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// allows finds a rule under which an identity may make the claim, and checks
// the times.
func (p *Policy) allows(by signedBy, s evidence.Statement, kind evidence.Kind, repository string, now time.Time) error {
	name := by.id.name
	if now.IsZero() {
		return refuse(ErrTime, "the time is not known")
	}
	// A key's signature has no time that anybody vouches for: the identity must
	// be valid when the claim is used, or an old key could sign new claims.
	at := now
	if !by.signed.IsZero() {
		at = by.signed
		if at.After(now.Add(skew)) {
			return refuse(ErrTime, "it was signed in the future, at %s", at.UTC().Format(time.RFC3339))
		}
	}
	if !by.id.since.IsZero() && at.Before(by.id.since) {
		return refuse(ErrTime, "%s is believed since %s only", name, by.id.since.Format(time.RFC3339))
	}
	if !by.id.until.IsZero() && !at.Before(by.id.until) {
		return refuse(ErrTime, "%s was believed until %s", name, by.id.until.Format(time.RFC3339))
	}
	made, dated := s.Time()
	if dated && made.After(now.Add(skew)) {
		return refuse(ErrTime, "it says that it was made in the future, at %s", made.UTC().Format(time.RFC3339))
	}
	// The older of the two: a claim is not fresh because it was signed again.
	if !by.signed.IsZero() && (!dated || by.signed.Before(made)) {
		made, dated = by.signed, true
	}
	mayKind, mayRepository := false, false
	var stale error
	for _, r := range p.rules {
		if !slices.Contains(r.identities, name) {
			continue
		}
		// A rule without kinds is KeyPolicy's: every kind.
		kindFits := r.kinds == nil || slices.Contains(r.kinds, kind)
		repositoryFits := slices.ContainsFunc(r.repositories, func(p pattern) bool { return p.matches(repository) })
		mayKind = mayKind || kindFits
		mayRepository = mayRepository || repositoryFits
		if !kindFits || !repositoryFits {
			continue
		}
		switch {
		case r.maxAge == 0:
			return nil
		case !dated:
			stale = refuse(ErrTime, "its age cannot be told, and %s is believed for %s only", name, r.maxAge)
		case now.Sub(made) > r.maxAge:
			stale = refuse(ErrTime, "made at %s, which is more than %s ago", made.UTC().Format(time.RFC3339), r.maxAge)
		default:
			return nil
		}
	}
	switch where := repository; {
	case stale != nil:
		return stale
	case !mayKind:
		return refuse(ErrNotAllowed, "%s signed it, and may not make %s claims", name, kind)
	case where == "":
		return refuse(ErrNotAllowed, "%s may not make %s claims about an image that is in no registry", name, kind)
	default:
		return refuse(ErrNotAllowed, "%s may not make %s claims about %s", name, kind, where)
	}
}
