// Package summary is the SLSA verification summary (VSA) v1: the one signed
// answer that everything after the gate trusts.
//
// It is data and its checks. The gate fills it and signs it, failed ones too;
// whoever relies on one must have opened it with package trust and then ask
// Accepts, which asks every question of the specification that the signature
// does not answer (slsa.dev/spec/v1.1/verification_summary, "How to verify").
package summary

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
)

// The two results.
const (
	Passed = "PASSED"
	Failed = "FAILED"
)

// Predicate is the verification summary predicate.
type Predicate struct {
	Verifier           Verifier         `json:"verifier"`
	TimeVerified       string           `json:"timeVerified"` // RFC 3339
	ResourceURI        string           `json:"resourceUri"`
	Policy             Descriptor       `json:"policy"`
	InputAttestations  []Descriptor     `json:"inputAttestations,omitempty"` // all that the decision stood on, or none
	VerificationResult string           `json:"verificationResult"`
	VerifiedLevels     []string         `json:"verifiedLevels"`
	DependencyLevels   map[string]int64 `json:"dependencyLevels,omitempty"`
	SLSAVersion        string           `json:"slsaVersion,omitempty"`
	Reasons            []string         `json:"twinhull_reasons,omitempty"` // why it failed, or what was waived
	Trust              *Descriptor      `json:"twinhull_trust,omitempty"`   // the trust policy by which attestations were believed; nil: nobody was
	Log                *Anchor          `json:"twinhull_log,omitempty"`     // how far the verifier's audit log was
}

// Anchor is a signed checkpoint of the audit log in which the verifier's
// decisions are. Whoever keeps the summary keeps it too, outside the log, so that
// a log that was cut or written anew can be told from the one of that day.
type Anchor struct {
	Origin     string `json:"origin"`     // the log's name: the checkpoint's first line
	Checkpoint string `json:"checkpoint"` // the signed note (c2sp.org/tlog-checkpoint), whole
}

// maxCheckpoint is more than a checkpoint with some dozen witnesses needs.
const maxCheckpoint = 16 << 10

// Verifier is who decided.
type Verifier struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// Descriptor names a policy or an attestation.
type Descriptor struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// VerifierID is the gate of this program, when whoever runs it gave no other.
const VerifierID = "https://twinhull.dev/gate/v1"

// Input is what Make needs.
type Input struct {
	Verifier    string // VerifierID when empty
	Version     string // of this program
	Time        time.Time
	Repository  string     // the production repository, HOST/NAME without tag: it becomes the resourceUri
	Policy      oci.Digest // of the policy's text
	Trust       oci.Digest // of the trust policy; "" when nobody was believed
	PolicyURI   string     // where it is; "" for a policy that is known by digest alone
	Attestation []oci.Digest
	Passed      bool
	Levels      []string // as earned, in any order; for a failed one none
	Reasons     []string
}

// ResourceURI is how a repository is written in a summary.
func ResourceURI(repository string) string { return "oci://" + repository }

// Make returns the predicate of a decision.
func Make(in Input) (Predicate, error) {
	if in.Repository == "" || in.Time.IsZero() {
		return Predicate{}, fmt.Errorf("verification summary: no repository or no time")
	}
	if err := in.Policy.Validate(); err != nil {
		return Predicate{}, fmt.Errorf("verification summary: policy %q: %w", in.Policy, err)
	}
	p := Predicate{
		Verifier: Verifier{ID: in.Verifier}, TimeVerified: in.Time.UTC().Format(time.RFC3339), ResourceURI: ResourceURI(in.Repository),
		Policy: Descriptor{in.PolicyURI, evidence.DigestSet(in.Policy)}, VerificationResult: Failed,
		VerifiedLevels: []string{}, SLSAVersion: "1.1", Reasons: in.Reasons,
	}
	if p.Verifier.ID == "" {
		p.Verifier.ID = VerifierID
	}
	if p.Policy.URI == "" {
		p.Policy.URI = "urn:twinhull:policy:" + in.Policy.String()
	}
	if in.Trust != "" {
		if err := in.Trust.Validate(); err != nil {
			return Predicate{}, fmt.Errorf("verification summary: trust policy %q: %w", in.Trust, err)
		}
		p.Trust = &Descriptor{Digest: evidence.DigestSet(in.Trust)}
	}
	if in.Version != "" {
		p.Verifier.Version = map[string]string{"twinhull": in.Version}
	}
	for _, d := range slices.Sorted(slices.Values(in.Attestation)) {
		if err := d.Validate(); err != nil {
			return Predicate{}, fmt.Errorf("verification summary: attestation %q: %w", d, err)
		}
		p.InputAttestations = append(p.InputAttestations, Descriptor{Digest: evidence.DigestSet(d)})
	}
	if in.Passed {
		p.VerificationResult = Passed
		p.VerifiedLevels = append(p.VerifiedLevels, slices.Compact(slices.Sorted(slices.Values(in.Levels)))...)
		if len(p.VerifiedLevels) == 0 {
			// "verifiedLevels" of a passed summary says what was verified; the
			// lowest level claims nothing.
			p.VerifiedLevels = []string{"SLSA_BUILD_LEVEL_0"}
		}
	}
	return p, p.check()
}

// Anchored returns the summary with a checkpoint of the verifier's audit log, a
// signed note whose first line names the log; nil leaves the summary as it is.
func (p Predicate) Anchored(checkpoint []byte) (Predicate, error) {
	if checkpoint != nil {
		origin, _, _ := strings.Cut(string(checkpoint), "\n")
		p.Log = &Anchor{Origin: origin, Checkpoint: string(checkpoint)}
	}
	return p, p.check()
}

// levels that the specification defines; what else begins with SLSA_ is
// reserved (SlsaResult: "Users MUST NOT use custom values starting with SLSA_").
func knownLevel(l string) bool {
	switch rest, ok := strings.CutPrefix(l, "SLSA_"); {
	case !ok:
		return l != "" && !strings.ContainsAny(l, " \n")
	default:
		return slices.Contains([]string{
			"BUILD_LEVEL_0", "BUILD_LEVEL_1", "BUILD_LEVEL_2", "BUILD_LEVEL_3", "BUILD_LEVEL_UNEVALUATED", "BUILD_REPRODUCED",
			"SOURCE_LEVEL_0", "SOURCE_LEVEL_1", "SOURCE_LEVEL_2", "SOURCE_LEVEL_3", "SOURCE_LEVEL_4", "SOURCE_LEVEL_UNEVALUATED", "SOURCE_TWO_PARTY_REVIEWED",
		}, rest)
	}
}

func (p Predicate) check() error {
	if p.Verifier.ID == "" {
		return fmt.Errorf("verification summary: no verifier")
	}
	if _, err := time.Parse(time.RFC3339, p.TimeVerified); err != nil {
		return fmt.Errorf("verification summary: timeVerified %q: want an RFC 3339 time", p.TimeVerified)
	}
	if p.ResourceURI == "" {
		return fmt.Errorf("verification summary: no resourceUri")
	}
	if u, err := url.Parse(p.Policy.URI); err != nil || u.Scheme == "" {
		return fmt.Errorf("verification summary: policy uri %q", p.Policy.URI)
	}
	if p.VerificationResult != Passed && p.VerificationResult != Failed {
		return fmt.Errorf("verification summary: result %q", p.VerificationResult)
	}
	if p.VerificationResult == Passed && len(p.VerifiedLevels) == 0 {
		return fmt.Errorf("verification summary: passed, with no level")
	}
	for _, l := range p.VerifiedLevels {
		if !knownLevel(l) && l != "FAILED" {
			return fmt.Errorf("verification summary: level %q is not one that the specification knows", l)
		}
	}
	if l := p.Log; l != nil {
		if origin, _, ok := strings.Cut(l.Checkpoint, "\n"); !ok || origin == "" || origin != l.Origin || len(l.Checkpoint) > maxCheckpoint {
			return fmt.Errorf("verification summary: twinhull_log is no checkpoint of the log %q", l.Origin)
		}
	}
	for i, d := range p.InputAttestations {
		if len(d.Digest) == 0 {
			return fmt.Errorf("verification summary: inputAttestations[%d] has no digest", i)
		}
	}
	return nil
}

// Parse reads and checks a predicate.
func Parse(predicate json.RawMessage) (Predicate, error) {
	var p Predicate
	if err := strictjson.UnmarshalOpen(predicate, &p); err != nil {
		return Predicate{}, fmt.Errorf("verification summary: %w", err)
	}
	if err := p.check(); err != nil {
		return Predicate{}, err
	}
	return p, nil
}

// Wanted is what one who relies on a summary expects.
type Wanted struct {
	Verifiers  []string      // ids that the signer may use; none accepts none
	Repository string        // HOST/NAME that the image is to be used from
	Policies   []oci.Digest  // policies whose verdict counts; empty: any
	MaxAge     time.Duration // since timeVerified; 0: no limit
	Levels     []string      // all of which must be verified
	Now        time.Time
}

// skew is how far ahead another machine's clock may be.
const skew = 5 * time.Minute

// Accepts returns every reason why the summary does not allow what is wanted,
// none when it does. The signature, the subject's digest and whether the signer
// may make summaries at all were checked when the claim was opened.
func (p Predicate) Accepts(w Wanted) (reasons []string) {
	no := func(format string, a ...any) { reasons = append(reasons, fmt.Sprintf(format, a...)) }
	if !slices.Contains(w.Verifiers, p.Verifier.ID) {
		no("verifier %q is not one of those that are accepted from this signer", p.Verifier.ID)
	}
	if w.Repository == "" || p.ResourceURI != ResourceURI(w.Repository) {
		no("it is about %q, not about %q", p.ResourceURI, ResourceURI(w.Repository))
	}
	if p.VerificationResult != Passed {
		no("the verification result is %q", p.VerificationResult)
	}
	for _, l := range w.Levels {
		if !slices.Contains(p.VerifiedLevels, l) {
			no("level %s was not verified", l)
		}
	}
	if len(w.Policies) > 0 && !slices.ContainsFunc(w.Policies, func(d oci.Digest) bool {
		return d.Validate() == nil && p.Policy.Digest[d.Algorithm().String()] == d.Encoded()
	}) {
		no("it was decided by another policy")
	}
	t, err := time.Parse(time.RFC3339, p.TimeVerified)
	switch {
	case err != nil || w.Now.IsZero():
		no("its age cannot be told")
	case t.After(w.Now.Add(skew)):
		no("it was verified in the future, at %s", p.TimeVerified)
	case w.MaxAge > 0 && w.Now.Sub(t) > w.MaxAge:
		no("it was verified at %s, more than %s ago", p.TimeVerified, w.MaxAge)
	}
	return reasons
}
