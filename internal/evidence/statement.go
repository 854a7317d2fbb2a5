// Package evidence makes and reads statements about images: in-toto Statement
// v1 documents, whose predicates are in the subpackages.
//
// A statement here is only text: it says something about a digest and proves
// nothing. Package trust signs statements and is the only way to get one back
// that may be believed. The types are our own and small, not the protobuf
// messages of github.com/in-toto/attestation: protojson deliberately changes
// its spacing from build to build, so that equal evidence would not be equal
// bytes, and it accepts every name in two spellings, so that two readers could
// differ. The tests compare both.
package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
)

// PayloadType is the DSSE payload type of a statement (in-toto attestation
// framework v1, "Envelope").
const PayloadType = "application/vnd.in-toto+json"

// The two statement types that are read. Only StatementV1 is written; cosign
// 3.1 still writes the other, whose fields are the same.
const (
	StatementV1  = "https://in-toto.io/Statement/v1"
	StatementV01 = "https://in-toto.io/Statement/v0.1"
)

// Predicate types.
const (
	TypeSignature   = "https://sigstore.dev/cosign/sign/v1" // "I approve of this digest": what `cosign verify` looks for
	TypeProvenance  = "https://slsa.dev/provenance/v1"
	TypeSPDX        = "https://spdx.dev/Document"
	TypeCycloneDX   = "https://cyclonedx.org/bom"
	TypeTests       = "https://in-toto.io/attestation/test-result/v0.1"
	TypeReference   = "https://in-toto.io/attestation/reference/v0.1"
	TypeVEX         = "https://openvex.dev/ns"
	TypeVEX020      = "https://openvex.dev/ns/v0.2.0"
	TypeSummary     = "https://slsa.dev/verification_summary/v1"
	TypeAbsence     = "https://twinhull.dev/absence/v1"
	TypeVulns       = "https://in-toto.io/attestation/vulns/v0.2"
	TypeVulnsCosign = "https://cosign.sigstore.dev/attestation/vuln/v1"
)

// Media types of documents that a reference leads to.
const (
	MediaSPDX      = "application/spdx+json"
	MediaCycloneDX = "application/vnd.cyclonedx+json"
	MediaOrigins   = "application/vnd.twinhull.origins.v1+json"
)

// Kind is what a claim is about, in one word, whatever the predicate type that
// carries it. A predicate type that this program does not know is its own Kind.
type Kind string

// The kinds.
const (
	Signature       Kind = "signature"
	Provenance      Kind = "provenance"
	SBOM            Kind = "sbom"
	Tests           Kind = "tests"
	Origins         Kind = "origins"
	Absence         Kind = "absence"
	Vulnerabilities Kind = "vulnerabilities"
	VEX             Kind = "vex"
	Summary         Kind = "summary"
)

// Kinds lists the kinds that have a name, in the order in which they are shown.
func Kinds() []Kind {
	return []Kind{Signature, Provenance, SBOM, Tests, Origins, Absence, Vulnerabilities, VEX, Summary}
}

var kinds = map[string]Kind{
	TypeSignature: Signature, TypeProvenance: Provenance, TypeSPDX: SBOM, TypeCycloneDX: SBOM, TypeTests: Tests,
	TypeAbsence: Absence, TypeVulns: Vulnerabilities, TypeVulnsCosign: Vulnerabilities, TypeVEX: VEX, TypeVEX020: VEX,
	TypeSummary: Summary,
}

var mediaKinds = map[string]Kind{MediaSPDX: SBOM, MediaCycloneDX: SBOM, MediaOrigins: Origins}

// ParseKind reads a kind's name, or the URI of a predicate type.
func ParseKind(s string) (Kind, error) {
	if slices.Contains(Kinds(), Kind(s)) {
		return Kind(s), nil
	}
	if s == TypeReference {
		return "", fmt.Errorf("%q says nothing of what is referred to: name the kind of document (%s)", s, names())
	}
	if k, ok := kinds[s]; ok {
		return k, nil
	}
	if strings.Contains(s, "://") {
		return Kind(s), nil
	}
	return "", fmt.Errorf("unknown claim %q: want %s, or the URI of a predicate type", s, names())
}

func names() string {
	var all []string
	for _, k := range Kinds() {
		all = append(all, string(k))
	}
	return strings.Join(all, ", ")
}

// Resource is an in-toto ResourceDescriptor v1. A resource that is a subject
// or a reference must have a digest.
type Resource struct {
	Name             string            `json:"name,omitempty"`
	URI              string            `json:"uri,omitempty"`
	Digest           map[string]string `json:"digest,omitempty"` // "sha256" → lower-case hexadecimal
	Content          []byte            `json:"content,omitempty"`
	DownloadLocation string            `json:"downloadLocation,omitempty"`
	MediaType        string            `json:"mediaType,omitempty"`
	Annotations      map[string]any    `json:"annotations,omitempty"`
}

// DigestSet is the digest of a Resource.
func DigestSet(d oci.Digest) map[string]string {
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

// Statement is an in-toto statement.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Resource      `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// New returns the bytes of a statement about one digest. name is the image's
// name for people and may be empty: only the digest counts. Equal arguments
// give equal bytes.
func New(name string, subject oci.Digest, predicateType string, predicate any) ([]byte, error) {
	if err := subject.Validate(); err != nil {
		return nil, fmt.Errorf("statement about %q: %w", subject, err)
	}
	p, err := Encode(predicate)
	if err != nil {
		return nil, fmt.Errorf("%s predicate: %w", predicateType, err)
	}
	s := Statement{Type: StatementV1, Subject: []Resource{{Name: name, Digest: DigestSet(subject)}}, PredicateType: predicateType, Predicate: p}
	b, err := Encode(s)
	if err != nil {
		return nil, err
	}
	// What is written must be readable: a predicate that a caller brought may
	// hold duplicate names.
	if _, err := Parse(b); err != nil {
		return nil, err
	}
	return b, nil
}

// Encode writes compact JSON in one way only and leaves <, > and & as they are.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// maxSubjects bounds a statement: provenance of a release names some dozens.
const maxSubjects = 1024

// Parse reads a statement and checks its form. Fields that the specification
// does not know are ignored, as it asks; duplicate names are refused.
func Parse(payload []byte) (Statement, error) {
	var s Statement
	if err := strictjson.UnmarshalOpen(payload, &s); err != nil {
		return Statement{}, fmt.Errorf("statement: %w", err)
	}
	if s.Type != StatementV1 && s.Type != StatementV01 {
		return Statement{}, fmt.Errorf("statement has type %q, want %q", s.Type, StatementV1)
	}
	if s.PredicateType == "" {
		return Statement{}, fmt.Errorf("statement has no predicateType")
	}
	if n := len(s.Subject); n == 0 || n > maxSubjects {
		return Statement{}, fmt.Errorf("statement has %d subjects, want 1 to %d", n, maxSubjects)
	}
	for i, r := range s.Subject {
		if err := r.check(); err != nil {
			return Statement{}, fmt.Errorf("subject[%d]: %w", i, err)
		}
	}
	if p := bytes.TrimSpace(s.Predicate); len(p) > 0 && p[0] != '{' && !bytes.Equal(p, []byte("null")) {
		return Statement{}, fmt.Errorf("predicate is no JSON object")
	}
	return s, nil
}

func (r Resource) check() error {
	if len(r.Digest) == 0 {
		return fmt.Errorf("no digest")
	}
	for alg, hex := range r.Digest {
		if alg != "sha256" && alg != "sha512" {
			continue // other algorithms may be there and are never compared
		}
		if err := oci.Digest(alg + ":" + hex).Validate(); err != nil {
			return fmt.Errorf("digest %s:%s: %w", alg, hex, err)
		}
	}
	return nil
}

// Is tells whether the resource has exactly this digest.
func (r Resource) Is(d oci.Digest) bool {
	return d.Validate() == nil && r.Digest[d.Algorithm().String()] == d.Encoded()
}

// About tells whether one of the subjects is the digest.
func (s Statement) About(d oci.Digest) bool {
	return slices.ContainsFunc(s.Subject, func(r Resource) bool { return r.Is(d) })
}

// Kind returns what the statement is about. It is an error when a reference
// leads to documents of several kinds or of none that is known: a rule that
// allows one kind must not let another through.
func (s Statement) Kind() (Kind, error) {
	if s.PredicateType == TypeReference {
		ref, err := ParseReference(s.Predicate)
		if err != nil {
			return "", err
		}
		return ref.Kind()
	}
	if k, ok := kinds[s.PredicateType]; ok {
		return k, nil
	}
	return Kind(s.PredicateType), nil
}

// Time is when the statement says that it was made, for the predicates that
// carry such a time and are only worth something while fresh. The time is the
// signer's word. ok is false when the predicate has no such time.
func (s Statement) Time() (t time.Time, ok bool) {
	switch s.PredicateType {
	case TypeSummary, TypeVulns, TypeVulnsCosign, TypeProvenance, TypeAbsence:
	default:
		return time.Time{}, false
	}
	var p struct {
		TimeVerified string `json:"timeVerified"` // verification summary
		Metadata     struct {
			ScanFinishedOn string `json:"scanFinishedOn"` // vulnerabilities
		} `json:"metadata"`
		RunDetails struct {
			Metadata struct {
				FinishedOn string `json:"finishedOn"` // provenance
			} `json:"metadata"`
		} `json:"runDetails"`
		Inspected string `json:"inspected"` // absence
	}
	if json.Unmarshal(s.Predicate, &p) != nil {
		return time.Time{}, false
	}
	text := ""
	switch s.PredicateType {
	case TypeSummary:
		text = p.TimeVerified
	case TypeVulns, TypeVulnsCosign:
		text = p.Metadata.ScanFinishedOn
	case TypeProvenance:
		text = p.RunDetails.Metadata.FinishedOn
	case TypeAbsence:
		text = p.Inspected
	}
	t, err := time.Parse(time.RFC3339, text)
	return t, err == nil
}
