package gate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/evidence/absence"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
)

// ErrNoSummary is matched when there is nothing that a summary could say.
var ErrNoSummary = errors.New("no verification summary")

// maxReasons bounds the reasons of a summary; the report has all of them.
const maxReasons = 100

// Summary returns the verification summary of the verdict, passed or failed. It
// is about production only: its resource is the production repository, so that
// a development image can never hold a passed one.
func (r *Report) Summary(verifier, version string) (summary.Predicate, error) {
	v := r.Verdict
	if v.Zone != oci.Production {
		return summary.Predicate{}, fmt.Errorf("%w: the image was judged for %s", ErrNoSummary, v.Zone)
	}
	zone, repository := policy.Catalog(v.Repository)
	if repository == "" {
		return summary.Predicate{}, fmt.Errorf("%w: nobody says which repository the image is for", ErrNoSummary)
	}
	return summary.Make(summary.Input{
		Verifier: verifier, Version: version, Time: v.Time, Repository: repository, Policy: v.Policy, Trust: r.trust, Attestation: r.Inputs,
		Passed: v.Allowed && zone == oci.Production, Levels: v.Levels, Reasons: reasons(v),
	})
}

// Join is the verdict about an index: that of its images together. All of them
// must have been judged for the same.
func Join(index oci.Digest, all []*Report) *Report {
	out := &Report{}
	for i, r := range all {
		v := r.Verdict
		if i == 0 {
			out.policy, out.trust, out.Verdict = r.policy, r.trust, policy.Verdict{Allowed: true, Image: index, Zone: v.Zone, Repository: v.Repository, Time: v.Time, Policy: v.Policy, Levels: slices.Clone(v.Levels)}
		}
		same := v.Zone == out.Verdict.Zone && v.Repository == out.Verdict.Repository && v.Policy == out.Verdict.Policy && r.trust == out.trust
		out.Verdict.Allowed = out.Verdict.Allowed && v.Allowed && same
		out.Verdict.Rules = append(out.Verdict.Rules, v.Rules...)
		out.Verdict.Levels = slices.DeleteFunc(out.Verdict.Levels, func(l string) bool { return !slices.Contains(v.Levels, l) })
		out.Inputs = append(out.Inputs, r.Inputs...)
	}
	slices.Sort(out.Inputs)
	out.Inputs = slices.Compact(out.Inputs)
	return out
}

// reasons tells why it failed, or what was waived.
func reasons(v policy.Verdict) (out []string) {
	for _, r := range v.Rules {
		for _, x := range r.Reasons {
			if !x.Outcome.Refuses() && x.Outcome != policy.Waived {
				continue
			}
			text := r.Rule + ": " + x.Message
			if x.Waiver != nil && x.Outcome == policy.Waived {
				text += fmt.Sprintf(" (waived by %s until %s: %s)", x.Waiver.Owner, x.Waiver.Expires, x.Waiver.Reason)
			}
			if !slices.Contains(out, text) {
				out = append(out, text)
			}
		}
		if r.Outcome.Refuses() && !refuses(r.Reasons) {
			if text := r.Rule + ": " + cmp.Or(r.Because, string(r.Outcome)); !slices.Contains(out, text) {
				out = append(out, text)
			}
		}
	}
	if n := len(out) - maxReasons; n > 0 {
		out = append(out[:maxReasons], fmt.Sprintf("and %d more", n))
	}
	return out
}

// Absence returns the inspection as a claim: which rules were applied and what
// they found. An image that was not read whole has none.
func (r *Report) Absence(version string, now time.Time) (absence.Predicate, error) {
	f := r.Facts
	if f == nil || !f.Complete {
		return absence.Predicate{}, errors.New("an image that was not read to its end has no signed inspection")
	}
	p := absence.Predicate{Inspector: absence.Inspector{Name: "twinhull", Version: version, Rules: policy.RulesVersion},
		Platform: f.Platform.String(), Files: f.Files, Bytes: f.Unpacked}
	if z, err := oci.ParseZone(f.Zone.Label); err == nil && f.Zone.Agree {
		p.Zone = z
	}
	for _, l := range f.Layers {
		p.Layers = append(p.Layers, absence.Layer{Digest: l.Digest, DiffID: l.DiffID, Files: l.Files})
	}
	by := map[string]*absence.Rule{}
	for _, id := range inspect.Rules() {
		by[id] = &absence.Rule{ID: id}
	}
	for _, x := range f.Findings {
		a := by[x.Rule]
		if a == nil {
			a = &absence.Rule{ID: x.Rule}
			by[x.Rule] = a
		}
		n := max(x.Count, 1)
		a.Found += n
		if x.Hidden {
			a.Hidden += n
		}
		if where := strings.TrimSpace(cmp.Or(x.Path, x.Subject)); where != "" && !slices.Contains(a.Examples, where) {
			a.Examples = append(a.Examples, where)
		}
	}
	for _, a := range by {
		p.Rules = append(p.Rules, *a)
	}
	return absence.Make(p, now)
}
