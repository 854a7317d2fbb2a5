package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/vex"
)

// skew is how far ahead another machine's clock may be.
const skew = 5 * time.Minute

// fresh says why a database that is as old as at cannot be used; "" when it
// can.
func (j *judge) fresh(at time.Time) string {
	age := j.in.Now.Sub(at)
	switch limit := j.policy.Vulnerabilities.DatabaseAge; {
	case at.IsZero():
		return "how old it is cannot be told"
	case age < -skew:
		return fmt.Sprintf("it is of the future, %s", at.UTC().Format(time.DateOnly))
	case age > limit:
		return fmt.Sprintf("it is of %s, older than the %s that the policy allows", at.UTC().Format(time.DateOnly), days(limit))
	}
	return ""
}

func days(d time.Duration) string {
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}

// known lists every vulnerability that anybody told of, each once: the
// database's first, then what only reports have. Of several ratings of one the
// worst counts: a report must not take away what another knows.
func (j *judge) known() []Vulnerability {
	var out []Vulnerability
	seen := map[string]int{} // name and package → place in out
	add := func(v Vulnerability) {
		names := append([]string{v.ID}, v.Aliases...)
		pkg, ok := purlKey(v.Package)
		if !ok {
			pkg = v.Name + "@" + v.Version
		}
		told := false
		for _, n := range names {
			i, ok := seen[strings.ToUpper(n)+"\x00"+pkg]
			if !ok {
				continue
			}
			told = true
			// Who has no rating waits for a worse one than the policy lets pass.
			if o := &out[i]; v.Severity.Rank() > o.Severity.Rank() && (j.matters(v) || !j.matters(*o)) {
				o.Severity, o.Score = v.Severity, v.Score
			}
		}
		if told {
			return
		}
		for _, n := range names {
			seen[strings.ToUpper(n)+"\x00"+pkg] = len(out)
		}
		out = append(out, v)
	}
	if s := j.in.Evidence.Scan; s != nil {
		for _, v := range s.Found {
			add(v)
		}
	}
	for _, r := range j.in.Evidence.Reports {
		for _, v := range r.Found {
			add(v)
		}
	}
	return out
}

func (j *judge) documents() (docs []vex.Document) {
	for _, d := range j.in.Evidence.VEX {
		docs = append(docs, d.Document)
	}
	return docs
}

func (j *judge) ask(docs []vex.Document, v Vulnerability) vex.Answer {
	if len(docs) == 0 {
		return vex.Answer{}
	}
	q := vex.Query{Vulnerability: append([]string{v.ID}, v.Aliases...), Image: j.facts.Digest, Package: v.Package, Now: j.in.Now}
	a := vex.Ask(docs, q)
	// Whoever writes a statement takes the name from the bill of materials,
	// whose qualifiers may be others than those that inspection gives.
	for _, other := range j.listedAs(v.Package) {
		q.Package = other
		b := vex.Ask(docs, q)
		if b.Said && (!a.Said || a.Silenced && !b.Silenced) {
			a = b
		}
	}
	return a
}

// listedAs are the package URLs by which believed bills of materials know a
// package, other than its own.
func (j *judge) listedAs(purl string) (out []string) {
	key, ok := purlKey(purl)
	if !ok {
		return nil
	}
	if j.listed == nil {
		j.listed = map[string][]string{}
		for _, s := range j.in.Evidence.SBOMs {
			for _, c := range s.Packages {
				if k, ok := purlKey(c.PURL); ok && !slices.Contains(j.listed[k], c.PURL) {
					j.listed[k] = append(j.listed[k], c.PURL)
				}
			}
		}
	}
	for _, p := range j.listed[key] {
		if p != purl {
			out = append(out, p)
		}
	}
	return out
}

// matters tells whether a vulnerability is at the policy's threshold or above.
// One that nobody has rated may be anything.
func (j *judge) matters(v Vulnerability) bool {
	if v.Severity.Rank() == 0 {
		return !j.policy.Vulnerabilities.IgnoreUnrated
	}
	return v.Severity.Rank() >= j.policy.Vulnerabilities.Refuse.Rank()
}

func (j *judge) vulnerabilities() {
	s := j.in.Evidence.Scan
	answered := slices.IndexFunc(j.in.Evidence.Reports, func(r Report) bool {
		return r.Complete && r.Packages == len(j.facts.Packages) && j.fresh(r.Database) == ""
	})
	switch {
	case s == nil && answered < 0:
		j.add(CannotTell, Reason{Subject: "database", Unknown: true, Message: "there is no vulnerability database to ask", Remedy: databaseRemedy})
		if len(j.in.Evidence.Reports) == 0 {
			return
		}
	case s == nil:
		r := j.in.Evidence.Reports[answered]
		j.because("asked by %s, data of %s", r.By, r.Database.UTC().Format(time.DateOnly))
	default:
		for _, e := range s.Ecosystems {
			switch why := j.fresh(e.Newest); {
			case e.Packages == 0:
			case !e.Answered:
				j.add(CannotTell, Reason{Subject: e.Name, Count: e.Packages, Unknown: true, Message: fmt.Sprintf("%s of %s could not be looked up: %s", plural(e.Packages, "package"), e.Name, cmp.Or(e.Why, "nobody says why")), Remedy: databaseRemedy})
			case why != "":
				j.add(CannotTell, Reason{Subject: e.Name, Count: e.Packages, Unknown: true, Message: fmt.Sprintf("what the database knows of %s is of no use: %s", e.Name, why), Remedy: databaseRemedy})
			}
		}
	}
	j.troubled(evidence.Vulnerabilities)
	for _, r := range j.in.Evidence.Reports {
		// A report stands beside the database: when it is old it still tells of
		// what it found, and proves nothing by what it did not find.
		if why := j.fresh(r.Database); why != "" {
			j.notef(r.Scanner, "the report of %s that %s signed: %s", r.Scanner, r.By, why)
		} else if s == nil && r.Complete && r.Packages != len(j.facts.Packages) {
			// It does not name the image, and nothing keeps a scan of one from being
			// attested to another.
			j.notef(r.Scanner, "the report of %s that %s signed does not stand in for a database: it is about %s, the image has %d", r.Scanner, r.By, plural(r.Packages, "package"), len(j.facts.Packages))
		}
	}
	docs := j.documents()
	below := map[Severity]int{}
	all := j.known()
	for _, v := range all {
		if !j.matters(v) {
			below[v.Severity]++
			continue
		}
		reason := Reason{Subject: v.ID, Path: v.Path, Package: v.Package, Message: describe(v)}
		switch a := j.ask(docs, v); {
		case a.Silenced:
			reason.Message += "; " + a.Statement.Author + " says: " + a.Why
			j.add(Noted, reason)
		default:
			if a.Why != "" {
				reason.Message += "; OpenVEX: " + a.Why
			}
			if len(v.Fixed) > 0 {
				reason.Remedy = fmt.Sprintf("update %s to %s", v.Name, strings.Join(v.Fixed, " or "))
			}
			j.add(Fail, reason)
		}
	}
	unclear := []Vulnerability{}
	if s != nil {
		unclear = append(unclear, s.Undecided...)
	}
	for _, r := range j.in.Evidence.Reports {
		unclear = append(unclear, r.Undecided...)
	}
	for _, v := range unclear {
		if a := j.ask(docs, v); a.Silenced {
			j.add(Noted, Reason{Subject: v.ID, Path: v.Path, Package: v.Package, Message: fmt.Sprintf("%s in %s %s; %s says: %s", v.ID, v.Name, v.Version, a.Statement.Author, a.Why)})
			continue
		}
		j.add(CannotTell, Reason{Subject: v.ID, Path: v.Path, Package: v.Package, Message: fmt.Sprintf("whether %s is about %s %s cannot be told: %s", v.ID, v.Name, v.Version, cmp.Or(v.Why, "nobody says why"))})
	}
	if s != nil {
		if !s.Complete && !slices.ContainsFunc(j.res.Reasons, func(r Reason) bool { return r.Outcome == CannotTell }) {
			j.add(CannotTell, Reason{Subject: "database", Unknown: true, Message: "the vulnerability database did not answer everything, and does not say what", Remedy: databaseRemedy})
		}
	}
	var parts []string
	for _, x := range []Severity{Critical, High, Medium, Low, Unknown} {
		if n := below[x]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, cmp.Or(x, "unrated")))
		}
	}
	if len(parts) > 0 {
		j.notef("", "below the threshold (%s): %s", j.policy.Vulnerabilities.Refuse, strings.Join(parts, ", "))
	}
	if s != nil {
		oldest := time.Time{}
		for _, e := range s.Ecosystems {
			if oldest.IsZero() || e.Newest.Before(oldest) {
				oldest = e.Newest
			}
		}
		text := fmt.Sprintf("%d known in %s", len(all), plural(len(s.Ecosystems), "ecosystem"))
		if !oldest.IsZero() {
			text += ", data of " + oldest.UTC().Format(time.DateOnly)
		}
		j.because("%s", text)
	}
}

const databaseRemedy = "import recent data for every ecosystem of the image: `twinhull vulndb import PATH`"

func describe(v Vulnerability) string {
	text := fmt.Sprintf("%s, %s, in %s %s", v.ID, cmp.Or(v.Severity, "not rated"), v.Name, v.Version)
	if v.Score > 0 {
		text = fmt.Sprintf("%s, %s (%.1f), in %s %s", v.ID, cmp.Or(v.Severity, "not rated"), v.Score, v.Name, v.Version)
	}
	if len(v.Fixed) == 0 {
		return text + ", not fixed yet"
	}
	return text + ", fixed in " + strings.Join(v.Fixed, ", ")
}

// vex hears what is said about vulnerabilities below the threshold; those at it
// are told by the rule vulnerabilities.
func (j *judge) vex() {
	j.troubled(evidence.VEX)
	docs := j.documents()
	all := j.known()
	said := 0
	for _, v := range all {
		a := j.ask(docs, v)
		if a.Said {
			said++
		}
		if !a.Said || a.Silenced || j.matters(v) {
			continue
		}
		switch a.Statement.Status {
		case vex.Affected, vex.UnderInvestigation:
			j.add(Fail, Reason{Subject: v.ID, Path: v.Path, Package: v.Package, Message: fmt.Sprintf("%s; %s says: %s", describe(v), a.Statement.Author, strings.ReplaceAll(string(a.Statement.Status), "_", " "))})
		}
	}
	switch {
	case len(j.res.Reasons) > 0:
	case len(docs) > 0:
		j.because("%s, about %d of %d known", plural(len(docs), "document"), said, len(all))
	case j.in.Evidence.Scan == nil && len(j.in.Evidence.Reports) == 0:
		j.cannotTellf("", "what there is to be said about cannot be told: see %s", RuleVulnerabilities)
	case len(all) == 0:
		j.outcome(NotApplicable, "no vulnerability is known")
	default:
		j.because("nothing is said about %d known", len(all))
	}
}
