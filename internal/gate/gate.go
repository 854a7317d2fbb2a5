package gate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/evidence/vuln"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// Database answers which known vulnerabilities the packages of an image have:
// a *vuln.DB.
type Database interface {
	Match(ctx context.Context, packages []inspect.Package, os inspect.OSRelease, opt vuln.MatchOptions) (vuln.Result, error)
}

// Request is one image to be judged. Image and Now must be set.
type Request struct {
	Image *image.Image

	// Place is where claims about the image are kept; nil when there is none
	// (a docker-archive). Index is the index through which the image was
	// reached, whose claims count too; "" for none.
	Place referrers.Place
	Index oci.Digest

	// Says are the zones that indexes around the image say it is of, in their
	// own annotations or in their entries. None must say another than the image.
	Says []string

	Zone       oci.Zone // to judge for; "": what the image says of itself, production when it says nothing clear
	Repository string   // HOST/NAME that it is judged for; "" when nobody says
	Now        time.Time

	Trust    *trust.Policy  // nil: nobody is believed
	Policy   *policy.Policy // nil: policy.Default()
	Database Database       // nil: there is none, which refuses
	Inspect  inspect.Options

	// Facts are what an earlier inspection of the very same bytes found, with
	// inspect.Options.Tree; nil: the image is read now. They are not changed.
	Facts *inspect.Facts
}

// Report is a verdict with what it stands on.
type Report struct {
	Verdict  policy.Verdict
	Facts    *inspect.Facts
	Inputs   []oci.Digest      // every believed claim that was decided by: digests of the bundles
	Rejected []policy.Rejected // claims that are not believed
	policy   *policy.Policy
	trust    oci.Digest // of the trust policy; "" without
}

// Judge judges an image. An error says why nothing could be decided; it is a
// refusal. What the image or its claims lack is no error, it is in the verdict.
func Judge(ctx context.Context, r Request) (*Report, error) {
	if r.Image == nil || r.Now.IsZero() {
		return nil, errors.New("gate: no image or no time")
	}
	facts, err := r.facts(ctx)
	if err != nil {
		return nil, err
	}
	p := r.Policy
	if p == nil {
		p = policy.Default()
	}
	facts.Findings = append(slices.Clone(facts.Findings), ambiguous(r)...)
	out := &Report{Facts: facts, policy: p}
	in := policy.Input{Facts: facts, Zone: r.Zone, Repository: r.Repository, Now: r.Now, Policy: p}
	if in.Zone == "" {
		in.Zone = OwnZone(facts)
	}
	g := &gathering{r: r, e: &in.Evidence, out: out, seen: map[string]bool{}}
	if in.Evidence.Trusted = r.Trust != nil; r.Trust != nil {
		out.trust = r.Trust.Digest()
	}
	if r.Place != nil {
		subjects := []oci.Digest{r.Image.Descriptor.Digest}
		if r.Index != "" && r.Index != subjects[0] {
			subjects = append(subjects, r.Index)
		}
		for _, subject := range subjects {
			if err := g.claims(ctx, subject); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(out.Inputs)
	out.Inputs = slices.Compact(out.Inputs)
	in.Evidence.Rejected = out.Rejected
	if r.Database != nil {
		res, err := r.Database.Match(ctx, facts.Packages, facts.OS, vuln.MatchOptions{Now: r.Now, MaxAge: p.Vulnerabilities.DatabaseAge})
		if err != nil {
			return nil, fmt.Errorf("asking the vulnerability database: %w", err)
		}
		in.Evidence.Scan = scan(&res)
	}
	out.Verdict = policy.Evaluate(in)
	return out, nil
}

// facts reads the image, unless somebody has. The copy may be changed on its
// first level.
func (r Request) facts(ctx context.Context) (*inspect.Facts, error) {
	if f := r.Facts; f != nil {
		if f.Digest != r.Image.Descriptor.Digest || f.Tree == nil {
			return nil, fmt.Errorf("gate: the facts are about %s, not about %s, or lack its files", cmp.Or(f.Digest, "no image"), r.Image.Descriptor.Digest)
		}
		c := *f
		return &c, nil
	}
	opt := r.Inspect
	opt.Tree = true // files are explained one by one
	return inspect.Inspect(ctx, r.Image, opt)
}

// ambiguous finds what one program would read differently from another:
// manifests and configurations with repeated names, or names that differ in
// case only, of which the standard decoder takes the last; a manifest that is a
// list at the same time; an index that says another zone than its image.
func ambiguous(r Request) (out []inspect.Finding) {
	add := func(subject, format string, a ...any) {
		out = append(out, inspect.Finding{Rule: inspect.RuleInconsistent, Subject: subject, Detail: fmt.Sprintf(format, a...)})
	}
	if raw := r.Image.RawManifest; raw != nil {
		var m struct {
			ocispec.Manifest
			Manifests json.RawMessage `json:"manifests"`
			FSLayers  json.RawMessage `json:"fsLayers"`
		}
		switch err := strictjson.UnmarshalLarge(raw, &m, oci.MaxManifest); {
		case err != nil:
			add("manifest", "the manifest can be read in more than one way: %v", err)
		case m.Manifests != nil || m.FSLayers != nil:
			add("manifest", "the manifest is an index, or one of an older form, at the same time")
		}
	}
	var c ocispec.Image
	if err := strictjson.UnmarshalLarge(r.Image.RawConfig, &c, oci.MaxManifest); err != nil {
		add("configuration", "the configuration can be read in more than one way: %v", err)
	}
	told := map[string]bool{r.Image.Config.Config.Labels[oci.ZoneKey]: true, "": true}
	for _, z := range append(slices.Clone(r.Says), r.Image.Descriptor.Annotations[oci.ZoneKey]) {
		if !told[z] {
			told[z] = true
			add("zone", "the index around the image says %q, its label %q", clip(z, 60), clip(r.Image.Config.Config.Labels[oci.ZoneKey], 60))
		}
	}
	return out
}

// OwnZone is the zone that an image says it is of. One that says nothing, or
// two things, is judged as production.
func OwnZone(f *inspect.Facts) oci.Zone {
	if z, err := oci.ParseZone(f.Zone.Label); err == nil && f.Zone.Agree {
		return z
	}
	return oci.Production
}

// scan turns the database's answer into what the policy reads.
func scan(r *vuln.Result) *policy.Scan {
	s := &policy.Scan{Database: r.Database.Digest, Complete: r.Complete}
	for _, e := range r.Ecosystems {
		s.Ecosystems = append(s.Ecosystems, policy.Ecosystem{Name: e.Ecosystem, Packages: e.Packages, Answered: e.Answered, Why: e.Why, Newest: e.Newest})
	}
	for _, f := range r.Findings {
		s.Found = append(s.Found, vulnerability(f))
	}
	for _, u := range r.Undecided {
		s.Undecided = append(s.Undecided, undecided(u))
	}
	return s
}

func undecided(u vuln.Undecided) policy.Vulnerability {
	return policy.Vulnerability{ID: u.ID, Package: u.PURL, Name: u.Package, Version: u.Version, Why: u.Why}
}

func vulnerability(f vuln.Finding) policy.Vulnerability {
	v := policy.Vulnerability{ID: f.ID, Aliases: f.Aliases, Package: f.PURL, Name: f.Package, Version: f.Version, Score: f.Severity.Score}
	switch f.Severity.Level {
	case vuln.LevelNone, vuln.LevelLow:
		v.Severity = policy.Low
	case vuln.LevelMedium:
		v.Severity = policy.Medium
	case vuln.LevelHigh:
		v.Severity = policy.High
	case vuln.LevelCritical:
		v.Severity = policy.Critical
	}
	if f.Fixed != "" {
		v.Fixed = []string{f.Fixed}
	}
	if len(f.Locations) > 0 {
		v.Path = f.Locations[0]
	}
	return v
}

// gathering collects believed claims as evidence.
type gathering struct {
	r   Request
	e   *policy.Evidence
	out *Report

	seen map[string]bool // claims that were read
}

// claims opens what is kept beside the subject, which is the image or the index
// around it.
func (g *gathering) claims(ctx context.Context, subject oci.Digest) error {
	found, err := referrers.Claims(ctx, g.r.Place, subject)
	if err != nil {
		return err
	}
	for _, f := range found {
		says := cmp.Or(f.Says, "?")
		if k, err := evidence.ParseKind(f.Says); err == nil {
			says = string(k)
		}
		if f.Err != nil {
			g.reject(says, f.Manifest.Digest, f.Err)
			continue
		}
		o, err := trust.Open(f.Bundle, subject, g.r.Trust, g.r.Repository, g.r.Now)
		if err != nil {
			g.reject(says, f.Manifest.Digest, err)
			continue
		}
		// Whoever may push can add a signed claim once more, under other manifests
		// and in other bytes around the same statement: it is read once.
		key := fmt.Sprintf("%s %s %s %s", subject, o.Identity(), o.PredicateType(), digest.FromBytes(o.Predicate()))
		if g.seen[key] {
			continue
		}
		g.seen[key] = true
		if err := g.take(ctx, subject, o); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// Its signer is believed, and what he says cannot be read: that is
			// neither his claim nor none.
			g.e.Problems = append(g.e.Problems, policy.Problem{Source: source(o), Kind: string(o.Kind()), Why: err.Error()})
			g.out.Inputs = append(g.out.Inputs, o.Digest())
		}
	}
	return nil
}

func (g *gathering) reject(kind string, d oci.Digest, err error) {
	// Without anybody to believe all are rejected for that one reason, which
	// the verdict tells anyway.
	if g.r.Trust == nil {
		err = errors.New("nobody was named who may be believed")
	}
	g.out.Rejected = append(g.out.Rejected, policy.Rejected{Kind: clip(kind, 200), Claim: d, Why: clip(err.Error(), 600)})
}

// clip bounds what strangers' claims say.
func clip(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func source(o trust.Opened) policy.Source {
	return policy.Source{By: o.Identity(), Signer: o.Signer(), Claim: o.Digest()}
}
