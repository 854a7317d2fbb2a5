package release

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
)

// Prefix begins the paths of the interface (doc/releases.md).
const Prefix = "/twinhull/v1/"

// Request asks for a release.
type Request struct {
	ID         string     `json:"id,omitempty"` // whoever repeats a request repeats its id; "": the server makes one
	Repository string     `json:"repository"`   // the production repository, without a host
	Digest     oci.Digest `json:"digest"`       // of the candidate: an image or an index
	Version    string     `json:"version"`      // 1.4.2
	To         string     `json:"to,omitempty"` // HOST/NAME of another registry; "": into this one
	DryRun     bool       `json:"dryRun,omitempty"`
}

// Answer is what came of a release.
type Answer struct {
	ID         string        `json:"id"`
	Repository string        `json:"repository"` // HOST/NAME
	Version    string        `json:"version,omitempty"`
	Digest     oci.Digest    `json:"digest"`
	Moves      []audit.Move  `json:"moves,omitempty"`
	Entry      *uint64       `json:"entry,omitempty"` // index in the audit log; absent of a dry run
	Repeated   bool          `json:"repeated,omitempty"`
	Again      bool          `json:"again,omitempty"` // it was released before with this digest: claims were added
	DryRun     bool          `json:"dryRun,omitempty"`
	Summaries  []oci.Digest  `json:"summaries,omitempty"` // bundles: of the images and of the index
	Notes      string        `json:"notes,omitempty"`     // release notes, Markdown
	Verdict    *gate.Results `json:"verdict,omitempty"`
}

// JudgeRequest asks what the gate says, without any effect.
type JudgeRequest struct {
	Repository string     `json:"repository"` // production repository, or the one that has the image (NAME/dev, NAME/candidate)
	Digest     oci.Digest `json:"digest"`
	To         string     `json:"to,omitempty"`
}

// RevokeRequest asks that a digest is not admitted from now on.
type RevokeRequest struct {
	ID         string     `json:"id,omitempty"`
	Repository string     `json:"repository"`
	Version    string     `json:"version,omitempty"` // either this
	Digest     oci.Digest `json:"digest,omitempty"`  // or this
	Reason     string     `json:"reason"`
}

// Revoked is what came of it.
type Revoked struct {
	ID         string       `json:"id"`
	Repository string       `json:"repository"`
	Digest     oci.Digest   `json:"digest"`
	Entry      uint64       `json:"entry"`
	Repeated   bool         `json:"repeated,omitempty"`
	Summaries  []oci.Digest `json:"summaries,omitempty"` // bundles that say FAILED
	Versions   []string     `json:"versions,omitempty"`  // that the digest is
	Tags       []string     `json:"tags,omitempty"`      // convenience tags that still point to it
}

// OrderRequest carries signed orders: one to roll back, two to erase. The
// repository is repeated for the access rules and must be that of the orders.
type OrderRequest struct {
	Repository string     `json:"repository"`
	Digest     oci.Digest `json:"digest"` // that the orders are about
	Orders     []string   `json:"orders"` // Sigstore bundles, as text: their bytes are the signers'
}

// PinRequest keeps something from collection, or lets it go again.
type PinRequest struct {
	Repository string `json:"repository"` // with its catalog: NAME/dev
	Reference  string `json:"reference"`  // a tag or a digest
	Pinned     bool   `json:"pinned"`
}

// CollectRequest asks for a collection now.
type CollectRequest struct {
	DryRun bool `json:"dryRun,omitempty"`
}

// CompareRequest asks what a foreign registry has made of what was released to it.
type CompareRequest struct {
	To string `json:"to"` // HOST/NAME
}

// Server is what a client must know to verify what the server signs.
type Server struct {
	Host      string     `json:"host"`             // its public name
	Verifier  string     `json:"verifier"`         // as its summaries name it
	PublicKey string     `json:"publicKey"`        // PEM: signs summaries
	LogKey    string     `json:"logKey,omitempty"` // verifier key of the audit log (golang.org/x/mod/sumdb/note)
	Policy    oci.Digest `json:"policy"`
	Trust     oci.Digest `json:"trust,omitempty"`
	Database  oci.Digest `json:"database,omitempty"`
	Version   string     `json:"version"` // of the program
}

// Reason is one reason of a refusal.
type Reason struct {
	Reason  registry.Reason `json:"reason"` // for programs
	Message string          `json:"message"`
	Remedy  string          `json:"remedy,omitempty"`
}

// RefusedByGate is the reason of a release whose verdict refuses; the verdict
// has the reasons one by one.
const RefusedByGate registry.Reason = "refused-by-gate"

// Further reasons of this package.
const (
	NotACandidate  registry.Reason = "not-a-candidate" // the digest is in the development catalog, or in none
	BadOrder       registry.Reason = "order-not-believed"
	BadRequest     registry.Reason = "bad-request"
	CannotDecide   registry.Reason = "could-not-be-decided"
	ForeignVersion registry.Reason = "foreign-tag-exists" // the version's tag is taken in the foreign registry
)

// Problem is a refusal or a failure as the interface answers it, with every
// reason at once.
type Problem struct {
	Status  int           `json:"-"`    // of HTTP
	Code    registry.Code `json:"code"` // as in the distribution specification
	Message string        `json:"message"`
	Reasons []Reason      `json:"reasons,omitempty"`
	Verdict *gate.Results `json:"verdict,omitempty"` // when the gate was asked
	Entry   *uint64       `json:"entry,omitempty"`   // of the audit log, which records the refusal
	ID      string        `json:"id,omitempty"`      // of the request
	Err     error         `json:"-"`                 // what lies below, for the server's log only
}

func (p *Problem) Error() string {
	text := p.Message
	for _, r := range p.Reasons {
		if r.Message == p.Message {
			continue
		}
		text += "\n  " + r.Message
	}
	if p.Err != nil {
		text += ": " + p.Err.Error()
	}
	return text
}

func (p *Problem) Unwrap() error { return p.Err }

// Refuses tells a no from "could not be decided".
func (p *Problem) Refuses() bool {
	return p.Status >= 400 && p.Status < 500 && p.Code != registry.TooManyRequests
}

func problemf(status int, code registry.Code, reason registry.Reason, format string, a ...any) *Problem {
	p := &Problem{Status: status, Code: code, Message: fmt.Sprintf(format, a...)}
	p.Reasons = []Reason{{Reason: reason, Message: p.Message}}
	return p
}

func (p *Problem) remedy(format string, a ...any) *Problem {
	p.Reasons[len(p.Reasons)-1].Remedy = fmt.Sprintf(format, a...)
	return p
}

func bad(format string, a ...any) *Problem {
	return problemf(http.StatusBadRequest, registry.NameInvalid, BadRequest, format, a...)
}

// undecided is a failure that is neither yes nor no.
func undecided(err error) *Problem {
	p := problemf(http.StatusServiceUnavailable, registry.Unavailable, CannotDecide, "it could not be decided now").remedy("repeat the request with the same id")
	p.Err = err
	return p
}

// ProblemOf makes any error one that a client may see, with every reason that
// was joined to it.
func ProblemOf(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	all := refusals(err)
	if len(all) == 0 {
		return undecided(err)
	}
	p := &Problem{Status: statusOf(all[0]), Code: all[0].Code, Message: all[0].Message}
	if len(all) > 1 {
		p.Message = fmt.Sprintf("refused for %d reasons", len(all))
	}
	for _, e := range all {
		p.Reasons = append(p.Reasons, Reason{cmp.Or(e.Reason, registry.Reason(strings.ToLower(strings.ReplaceAll(string(e.Code), "_", "-")))), e.Message, e.Remedy})
		if e.Logged {
			p.Entry = &e.Entry
		}
		p.Err = errors.Join(p.Err, e.Err)
	}
	return p
}

// refusals are the registry's errors in an error, those that were joined too.
func refusals(err error) (out []*registry.Error) {
	if e, ok := err.(*registry.Error); ok {
		return []*registry.Error{e}
	}
	switch x := err.(type) {
	case interface{ Unwrap() []error }:
		for _, e := range x.Unwrap() {
			out = append(out, refusals(e)...)
		}
	case interface{ Unwrap() error }:
		out = refusals(x.Unwrap())
	}
	return out
}

func statusOf(e *registry.Error) int {
	switch e.Reason {
	case registry.VersionExists, registry.VersionErased, registry.CandidateChanged, registry.RequestReused, registry.AlreadyRevoked:
		if e.Code != registry.ManifestUnknown {
			return http.StatusConflict
		}
	}
	return status(e.Code)
}

func status(c registry.Code) int {
	switch c {
	case registry.BlobUnknown, registry.ManifestUnknown, registry.NameUnknown, registry.BlobUploadUnknown, registry.ManifestBlobUnknown:
		return http.StatusNotFound
	case registry.Unauthorized:
		return http.StatusUnauthorized
	case registry.Denied:
		return http.StatusForbidden
	case registry.Unsupported:
		return http.StatusMethodNotAllowed
	case registry.TooManyRequests:
		return http.StatusTooManyRequests
	case registry.Conflict:
		return http.StatusConflict
	case registry.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}
