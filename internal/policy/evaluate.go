package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

// Evaluate decides. It goes through every rule of the zone, so that all reasons
// are told at once, and allows only what no rule refuses.
func Evaluate(in Input) Verdict {
	p := in.Policy
	if p == nil {
		p = Default()
	}
	v := Verdict{Zone: in.Zone, Repository: in.Repository, Time: in.Now, Policy: p.Digest()}
	j := &judge{in: in, policy: p, facts: in.Facts, table: table}
	if why := j.impossible(); why != "" {
		// Nothing can be judged; one rule says so, and no other would add to it.
		v.Rules = []Result{{Rule: inspect.RuleUnreadable, Title: "Every byte was read", Outcome: CannotTell,
			Reasons: []Reason{{Outcome: CannotTell, Message: why}}, Remedy: "inspect the image with the version of this program that judges it"}}
		return v
	}
	v.Image = j.facts.Digest
	j.index()
	w := newExcuses(p.Waivers, in.Zone, in.Now)
	refused, ran := false, 0
	for _, r := range table {
		effect := r.Effect(in.Zone)
		if effect == Off {
			continue
		}
		ran++
		j.begin(r, effect)
		r.check(j)
		res := j.end(w)
		refused = refused || res.Outcome.Refuses()
		v.Rules = append(v.Rules, res)
	}
	for i := range p.Rules {
		c := &p.Rules[i]
		if !c.applies(in.Zone) {
			continue
		}
		j.begin(c.rule(), Refuses)
		c.check(j)
		res := j.end(w)
		refused = refused || res.Outcome.Refuses()
		v.Rules = append(v.Rules, res)
	}
	v.Unused = w.unused()
	v.Allowed = ran > 0 && !refused
	if v.Allowed && in.Zone == oci.Production {
		v.Levels = j.levels()
	}
	return v
}

// judge goes through the rules. It holds the rule that is being asked.
type judge struct {
	in     Input
	policy *Policy
	facts  *inspect.Facts
	byRule map[string][]*inspect.Finding
	table  []Rule
	listed map[string][]string // package URLs of bills of materials, by purlKey
	vars   map[string]any      // of CEL expressions, made for the first one

	rule   Rule
	effect Effect
	res    Result
}

// impossible says why nothing at all can be judged; "" when it can.
func (j *judge) impossible() string {
	switch {
	case j.in.Zone != oci.Production && j.in.Zone != oci.Development:
		return fmt.Sprintf("no zone %q to judge for: want %s or %s", j.in.Zone, oci.Production, oci.Development)
	case j.facts == nil || j.facts.Digest.Validate() != nil:
		return "there are no facts of the image"
	case j.facts.Version != inspect.FactsVersion:
		return fmt.Sprintf("the facts have version %d, this program reads %d", j.facts.Version, inspect.FactsVersion)
	case j.in.Now.IsZero():
		return "the time is not known"
	}
	return ""
}

func (j *judge) index() {
	j.byRule = make(map[string][]*inspect.Finding, 16)
	for i := range j.facts.Findings {
		f := &j.facts.Findings[i]
		id := f.Rule
		if !owned[id] {
			// A finding that no rule owns must not be lost: it is of the bytes.
			id = inspect.RuleInconsistent
		}
		j.byRule[id] = append(j.byRule[id], f)
	}
}

// owned are the finding ids that rules of the table own.
var owned = func() map[string]bool {
	m := map[string]bool{}
	for _, r := range table {
		for _, id := range r.Findings {
			m[id] = true
		}
	}
	return m
}()

func (j *judge) begin(r Rule, e Effect) {
	j.rule, j.effect = r, e
	j.res = Result{Rule: r.ID, Title: r.Title}
}

// end gives the rule its outcome: that of its worst reason.
func (j *judge) end(w *excuses) Result {
	res := j.res
	res.Reasons = unique(res.Reasons)
	worst := res.Outcome
	for i := range res.Reasons {
		r := &res.Reasons[i]
		if r.Outcome.Refuses() {
			if j.effect == Notes {
				r.Outcome = Noted
			} else {
				w.excuse(j.rule, r)
			}
		}
		if worst == "" || r.Outcome.weight() > worst.weight() {
			worst = r.Outcome
		}
	}
	if j.effect == Notes && worst.Refuses() && worst != "" {
		worst = Noted
	}
	res.Outcome = cmp.Or(worst, Pass)
	if res.Outcome.Refuses() {
		res.Remedy = j.rule.Fix
	}
	return res
}

// unique drops reasons that say the same; of two outcomes the worse one stays.
func unique(all []Reason) []Reason {
	type key struct{ subject, path, pkg, layer, message string }
	seen := make(map[key]int, len(all))
	out := all[:0]
	for _, r := range all {
		k := key{r.Subject, r.Path, r.Package, string(r.Layer), r.Message}
		if i, ok := seen[k]; ok {
			if r.Outcome.weight() > out[i].Outcome.weight() {
				out[i].Outcome = r.Outcome
			}
			continue
		}
		seen[k] = len(out)
		out = append(out, r)
	}
	return out
}

func (j *judge) add(o Outcome, r Reason) {
	r.Outcome = o
	j.res.Reasons = append(j.res.Reasons, r)
}

// failf is a reason about a subject, without a place in the image.
func (j *judge) failf(subject, format string, a ...any) {
	j.add(Fail, Reason{Subject: subject, Message: fmt.Sprintf(format, a...)})
}

func (j *judge) cannotTellf(subject, format string, a ...any) {
	j.add(CannotTell, Reason{Subject: subject, Message: fmt.Sprintf(format, a...)})
}

func (j *judge) notef(subject, format string, a ...any) {
	j.add(Noted, Reason{Subject: subject, Message: fmt.Sprintf(format, a...)})
}

// because says what a pass, or the whole outcome, rests on.
func (j *judge) because(format string, a ...any) { j.res.Because = fmt.Sprintf(format, a...) }

// outcome sets an outcome that no reason gives.
func (j *judge) outcome(o Outcome, format string, a ...any) {
	j.res.Outcome = o
	j.because(format, a...)
}

// all lists what inspection found of the rule.
func (j *judge) all() (list []*inspect.Finding) {
	for _, id := range j.rule.Findings {
		list = append(list, j.byRule[id]...)
	}
	return list
}

// findings is the check of rules that refuse what inspection finds.
func (j *judge) findings() {
	for _, f := range j.all() {
		j.add(Fail, reasonOf(f))
	}
	j.whole()
}

// whole makes a rule that found nothing in an image that was not read whole one
// that cannot tell.
func (j *judge) whole() {
	if !j.facts.Complete && !slices.ContainsFunc(j.res.Reasons, func(r Reason) bool { return r.Outcome.Refuses() }) {
		j.outcome(CannotTell, "not every byte of the image was read: see %s", inspect.RuleUnreadable)
	}
}

// reasonOf tells a finding.
func reasonOf(f *inspect.Finding) Reason {
	r := Reason{Subject: f.Subject, Path: f.Path, Layer: f.Layer, Hidden: f.Hidden, Count: f.Count}
	if f.Inside != "" {
		r.Path += "!" + f.Inside
	}
	var b strings.Builder
	b.WriteString(f.Detail)
	if f.Detail == "" {
		b.WriteString(cmp.Or(f.Subject, f.Rule))
		if f.Evidence != "" {
			b.WriteString(": " + f.Evidence)
		}
	} else if f.Evidence != "" {
		b.WriteString(" (" + f.Evidence + ")")
	}
	if f.Hidden {
		b.WriteString("; a higher layer deletes or replaces it, and everybody who pulls the image still has it")
	}
	r.Message = b.String()
	return r
}

func (j *judge) unreadable() {
	// A development image may hold archives that nobody can read, as test data
	// of its tools; its layers must have been read all the same.
	o := CannotTell
	if j.in.Zone == oci.Development && j.facts.Complete {
		o = Noted
	}
	for _, f := range j.all() {
		j.add(o, reasonOf(f))
	}
	if !j.facts.Complete && len(j.res.Reasons) == 0 {
		j.cannotTellf("", "the inspection did not read every byte, and does not say which")
	}
	for _, e := range j.facts.Errors {
		if !slices.ContainsFunc(j.res.Reasons, func(r Reason) bool { return strings.Contains(r.Message, e) }) {
			j.cannotTellf("", "%s", e)
		}
	}
	if len(j.res.Reasons) == 0 {
		j.because("%d layers, %d files", len(j.facts.Layers), j.facts.Files)
	}
}

// application refuses what the application has and only notes what the packages
// of its dependencies bring: they are locked, and as their authors released
// them.
func (j *judge) application() {
	for _, f := range j.all() {
		o := Fail
		if f.Dependency {
			o = Noted
		}
		j.add(o, reasonOf(f))
	}
	j.whole()
}

// passwd only notes a number without a name: it starts.
func (j *judge) passwd() {
	for _, f := range j.all() {
		o := Fail
		if j.facts.Config.UID >= 0 {
			o = Noted
		}
		j.add(o, reasonOf(f))
	}
	j.whole()
}
