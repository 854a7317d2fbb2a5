package gate

import (
	"context"
	"fmt"
	"strings"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/absence"
	"twinhull.dev/twinhull/internal/evidence/origin"
	"twinhull.dev/twinhull/internal/evidence/provenance"
	"twinhull.dev/twinhull/internal/evidence/sbom"
	"twinhull.dev/twinhull/internal/evidence/testresult"
	"twinhull.dev/twinhull/internal/evidence/vex"
	"twinhull.dev/twinhull/internal/evidence/vuln"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// take reads the predicate of an opened claim. On error nothing of it is kept.
func (g *gathering) take(ctx context.Context, subject oci.Digest, o trust.Opened) error {
	if !o.Valid() {
		return fmt.Errorf("it was never opened")
	}
	s, e := source(o), g.e
	switch o.Kind() {
	case evidence.Signature:
		e.Signatures = append(e.Signatures, s)
	case evidence.Provenance:
		p, err := readProvenance(o.Predicate())
		if err != nil {
			return err
		}
		p.Source = s
		e.Provenance = append(e.Provenance, p)
	case evidence.SBOM:
		list, err := g.sboms(ctx, subject, o)
		if err != nil {
			return err
		}
		e.SBOMs = append(e.SBOMs, list...)
	case evidence.Tests:
		p, err := testresult.Parse(o.Predicate())
		if err != nil {
			return err
		}
		t := policy.Tests{Source: s, Result: p.Result}
		if n, ok := p.Totals(); ok {
			t.Counted, t.Tests, t.Passed, t.Failed, t.Skipped = true, n.Tests, n.Passed, n.Failed, n.Skipped
		}
		for _, c := range p.Coverage {
			percent, ok := c.Percent()
			t.Coverage = append(t.Coverage, policy.Coverage{Unit: c.Unit, Measured: ok, Percent: percent})
		}
		e.Tests = append(e.Tests, t)
	case evidence.VEX:
		d, err := vex.Parse(o.Predicate())
		if err != nil {
			return err
		}
		e.VEX = append(e.VEX, policy.VEX{Source: s, Document: d})
	case evidence.Origins:
		p, err := g.origins(ctx, subject, o)
		if err != nil {
			return err
		}
		e.Origins = append(e.Origins, p)
	case evidence.Absence:
		p, err := absence.Parse(o.Predicate())
		if err != nil {
			return err
		}
		a := policy.Absence{Source: s, Zone: p.Zone, Found: map[string]int{}}
		for _, l := range p.Layers {
			a.Layers = append(a.Layers, l.Digest)
		}
		for _, r := range p.Rules {
			a.Found[r.ID] = r.Found
		}
		e.Absence = append(e.Absence, a)
	case evidence.Vulnerabilities:
		r, err := readReport(o.PredicateType(), o.Predicate())
		if err != nil {
			return err
		}
		r.Source = s
		e.Reports = append(e.Reports, r)
	default:
		// A summary is what the gate makes, not what it decides by; of kinds that
		// this program does not know nothing depends.
		return nil
	}
	g.out.Inputs = append(g.out.Inputs, o.Digest())
	return nil
}

func readProvenance(predicate []byte) (policy.Provenance, error) {
	a, err := provenance.ParseAny(predicate)
	if err != nil {
		return policy.Provenance{}, err
	}
	p := policy.Provenance{BuildType: a.BuildType, Builder: a.Builder}
	for _, d := range a.Dependencies {
		if !named(d) {
			p.Unnamed++
		} else {
			p.Inputs++
		}
	}
	if a.BuildType != provenance.BuildType {
		return p, nil
	}
	own, err := provenance.Parse(predicate)
	if err != nil {
		return policy.Provenance{}, err
	}
	p.Zone = own.BuildDefinition.ExternalParameters.Zone
	q := own.RunDetails.Metadata.Properties
	p.Known, p.Hermetic, p.Parameterless, p.DependenciesComplete, p.Reproduced, p.Missing = true, q.Hermetic, q.Parameterless, q.DependenciesComplete, q.Reproduced, q.Missing
	return p, nil
}

// named tells whether an input has a hash that could be one: of a commit, or
// longer.
func named(r evidence.Resource) bool {
	for _, h := range r.Digest {
		if len(h) >= 40 && !strings.ContainsAny(h, " \t\r\n") {
			return true
		}
	}
	return false
}

// sboms reads the documents of a claim: the predicate itself, or those that it
// refers to.
func (g *gathering) sboms(ctx context.Context, subject oci.Digest, o trust.Opened) (out []policy.SBOM, _ error) {
	type document struct {
		mediaType string
		data      []byte
	}
	var docs []document
	switch o.PredicateType() {
	case evidence.TypeReference:
		r, err := evidence.ParseReference(o.Predicate())
		if err != nil {
			return nil, err
		}
		for _, ref := range r.References {
			data, err := referrers.Document(ctx, g.r.Place, subject, ref)
			if err != nil {
				return nil, err
			}
			docs = append(docs, document{ref.MediaType, data})
		}
	case evidence.TypeSPDX:
		docs = append(docs, document{evidence.MediaSPDX, o.Predicate()})
	default:
		docs = append(docs, document{evidence.MediaCycloneDX, o.Predicate()})
	}
	for _, d := range docs {
		l, err := sbom.Read(d.mediaType, d.data)
		if err != nil {
			return nil, err
		}
		s := policy.SBOM{Source: source(o), Format: l.Format}
		for _, c := range l.Components {
			if !c.File {
				s.Packages = append(s.Packages, policy.Component{Name: c.Name, Version: c.Version, PURL: c.PURL})
			}
		}
		out = append(out, s)
	}
	return out, nil
}

func (g *gathering) origins(ctx context.Context, subject oci.Digest, o trust.Opened) (policy.Origins, error) {
	r, err := evidence.ParseReference(o.Predicate())
	if err != nil {
		return policy.Origins{}, err
	}
	if len(r.References) != 1 {
		return policy.Origins{}, fmt.Errorf("it refers to %d documents, want one", len(r.References))
	}
	data, err := referrers.Document(ctx, g.r.Place, subject, r.References[0])
	if err != nil {
		return policy.Origins{}, err
	}
	// The document names the image that it is about, not the index around it.
	doc, err := origin.Read(o.Predicate(), g.r.Image.Descriptor.Digest, data)
	if err != nil {
		return policy.Origins{}, err
	}
	out := policy.Origins{Source: source(o), Zone: doc.Zone, Paths: make([]policy.Path, len(doc.Paths))}
	for i, p := range doc.Paths {
		out.Paths[i] = policy.Path{Path: p.Path, Type: p.Type, SHA256: p.SHA256, Link: p.Link, Kind: p.Origin.Kind, Name: p.Origin.Name}
		if i > 0 && doc.Paths[i-1].Path >= p.Path {
			return policy.Origins{}, fmt.Errorf("origins document: paths are not in order at %q", p.Path)
		}
	}
	return out, nil
}

// readReport reads what somebody's scan found. It adds to what the database
// knows and takes nothing away.
func readReport(predicateType string, predicate []byte) (policy.Report, error) {
	c, err := vuln.Parse(predicateType, predicate)
	if err != nil {
		return policy.Report{}, err
	}
	r := policy.Report{Scanner: c.Scanner, Database: c.Data, Complete: c.Complete, Packages: c.Packages}
	for _, f := range c.Findings {
		r.Found = append(r.Found, vulnerability(f))
	}
	for _, u := range c.Undecided {
		r.Undecided = append(r.Undecided, undecided(u))
	}
	return r, nil
}
