// Package known makes the claims that follow from what the builder recorded
// about an image: bills of materials, provenance, test results and origins.
//
// It only puts the predicates together; nothing is signed here and nothing is
// read but what the caller gives.
package known

import (
	"errors"
	"fmt"
	"io"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/origin"
	"twinhull.dev/twinhull/internal/evidence/provenance"
	"twinhull.dev/twinhull/internal/evidence/sbom"
	"twinhull.dev/twinhull/internal/evidence/testresult"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// Claim is a claim that nobody has signed yet.
type Claim struct {
	Kind          evidence.Kind
	Name          string // for people: "sbom (SPDX)"
	PredicateType string
	Predicate     any
	Document      []byte // that the predicate refers to, or nil
	MediaType     string // of the document
}

// InlineMost is the size up to which a document is signed whole, in bytes. A
// larger one is a blob of its own, and the claim signs its digest: whoever only
// wants to know that it is there need not read it.
const InlineMost = 256 << 10

// Input is what the claims are made from.
type Input struct {
	Origins *build.Origins
	Raw     []byte        // the origins document's bytes
	Lock    *project.Lock // that Origins names
	Layers  []string      // media types of the image's layers, bottom first
	Version string        // of this program
	Builder string        // provenance's builder id; the default when empty
	Inline  bool          // sign bills of materials whole, whatever their size
	Output  func(build.OutputFile) (io.ReadCloser, error)
}

// Make returns the claims of the kinds, all that are known when kinds is nil.
// Kinds that a build does not give are an error when they are asked for by name;
// an image without test reports simply has no claim about tests.
func Make(in Input, kinds []evidence.Kind) ([]Claim, error) {
	if got := in.Lock; got == nil || in.Origins == nil {
		return nil, errors.New("claims of the builder need its origins and its lock")
	}
	want := func(k evidence.Kind) bool { return kinds == nil || slices.Contains(kinds, k) }
	for _, k := range kinds {
		if !slices.Contains([]evidence.Kind{evidence.SBOM, evidence.Provenance, evidence.Tests, evidence.Origins}, k) {
			return nil, fmt.Errorf("the builder knows nothing of kind %s", k)
		}
	}
	var out []Claim
	if want(evidence.SBOM) {
		doc := sbom.FromOrigins(in.Origins, in.Lock, in.Version)
		spdx, err := sbom.SPDX(doc)
		if err != nil {
			return nil, err
		}
		cdx, err := sbom.CycloneDX(doc)
		if err != nil {
			return nil, err
		}
		out = append(out, document("sbom (SPDX)", evidence.TypeSPDX, evidence.MediaSPDX, spdx, in.Inline),
			document("sbom (CycloneDX)", evidence.TypeCycloneDX, evidence.MediaCycloneDX, cdx, in.Inline))
	}
	if want(evidence.Provenance) {
		p, err := provenance.Make(provenance.Input{Origins: in.Origins, Lock: in.Lock, Layers: in.Layers, Version: in.Version, Builder: in.Builder})
		if err != nil {
			return nil, err
		}
		out = append(out, Claim{Kind: evidence.Provenance, Name: "provenance (SLSA v1)", PredicateType: evidence.TypeProvenance, Predicate: p})
	}
	if want(evidence.Tests) {
		outputs := map[oci.Digest]build.OutputFile{}
		for _, s := range in.Origins.Steps {
			for _, o := range s.Outputs {
				outputs[o.SHA256] = o
			}
		}
		p, err := testresult.Make(in.Origins.Steps, func(d oci.Digest) (io.ReadCloser, error) { return in.Output(outputs[d]) })
		switch {
		case errors.Is(err, testresult.ErrNone) && kinds == nil:
		case err != nil:
			return nil, err
		default:
			out = append(out, Claim{Kind: evidence.Tests, Name: "tests", PredicateType: evidence.TypeTests, Predicate: p})
		}
	}
	if want(evidence.Origins) {
		if _, err := build.ParseOrigins(in.Raw, in.Origins.Image); err != nil {
			return nil, err
		}
		out = append(out, Claim{Kind: evidence.Origins, Name: "origins", PredicateType: evidence.TypeReference, Predicate: origin.Predicate(in.Raw), Document: in.Raw, MediaType: build.OriginsType})
	}
	return out, nil
}

// document signs a bill of materials whole or by reference.
func document(name, predicateType, mediaType string, data []byte, inline bool) Claim {
	c := Claim{Kind: evidence.SBOM, Name: name, PredicateType: predicateType, Predicate: rawJSON(data)}
	if len(data) > InlineMost && !inline {
		c.PredicateType, c.Document, c.MediaType = evidence.TypeReference, data, mediaType
		c.Predicate = evidence.Refer(name, mediaType, digest.FromBytes(data))
	}
	return c
}

// rawJSON is JSON that is encoded already.
type rawJSON []byte

func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }
