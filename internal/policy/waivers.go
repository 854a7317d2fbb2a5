package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// Waiver excuses what one rule finds about some subjects, for a while.
type Waiver struct {
	Rule    string `json:"rule"`
	Subject string `json:"subject"` // * stands for any letters; compared with subject, path and package of a reason
	Reason  string `json:"reason"`  // why it is excused
	Owner   string `json:"owner"`   // who answers for it
	Expires string `json:"expires"` // as written: 2027-01-31 (its first moment, UTC) or an RFC 3339 time

	until time.Time
}

// maxWaiver is how far ahead a waiver may expire: one that nobody has to look
// at again is a hole.
const maxWaiver = 366 * 24 * time.Hour

// excuses are the waivers of one verdict.
type excuses struct {
	list []Waiver
	used []bool
	now  time.Time
}

func newExcuses(list []Waiver, _ oci.Zone, now time.Time) *excuses {
	return &excuses{list, make([]bool, len(list)), now}
}

// excuse changes a reason that refuses to one that is waived, or says why its
// waiver does not count.
func (e *excuses) excuse(r Rule, reason *Reason) {
	told := *reason
	for i := range e.list {
		w := &e.list[i]
		if w.Rule != r.ID || !w.covers(reason) {
			continue
		}
		e.used[i] = true
		bad := ""
		switch {
		case !r.Waivable:
			bad = "this rule cannot be waived"
		case told.Unknown:
			bad = "what nobody could look up cannot be waived"
		case w.wide() != "":
			bad = fmt.Sprintf("the waiver of %s excuses whatever may still come", w.Owner)
		case w.until.IsZero() || !e.now.Before(w.until):
			bad = fmt.Sprintf("the waiver of %s expired on %s", w.Owner, w.Expires)
		case w.until.Sub(e.now) > maxWaiver:
			bad = fmt.Sprintf("the waiver of %s expires on %s, more than a year ahead", w.Owner, w.Expires)
		}
		if bad == "" {
			// What another waiver lacks does not matter then.
			*reason = told
			reason.Outcome, reason.Waiver = Waived, &UsedWaiver{w.Reason, w.Owner, w.Expires}
			return
		}
		reason.Waiver = &UsedWaiver{w.Reason, w.Owner, w.Expires}
		if !strings.HasSuffix(reason.Message, bad) {
			reason.Message += "; " + bad
		}
		reason.Remedy = "deal with it, or decide again: a waiver needs a new date and somebody who answers for it"
		switch {
		case !r.Waivable:
			reason.Remedy = ""
		case told.Unknown:
			reason.Remedy = told.Remedy
		}
	}
}

func (e *excuses) unused() (out []Waiver) {
	for i, w := range e.list {
		if !e.used[i] {
			out = append(out, w)
		}
	}
	return out
}

// What a waiver for a vulnerability or a secret must have in front of its first
// *: as much as names one of them. Whatever is missing from it, the next leak or
// the next hole is excused before anybody has seen it.
var (
	// wholeID is a vulnerability's identifier to its end, of which the rest says
	// where: "CVE-2026-1 pkg:npm/*".
	wholeID = regexp.MustCompile(`^[^ /]*[0-9A-Za-z] `)
	// wholePackage is a package URL to the end of the name: "pkg:npm/@a/b@*".
	wholePackage = regexp.MustCompile(`^pkg:[^/@]+/(@?[^/@]+/)*[^/@]+@`)
	// deepPath is a folder and at least the beginning of a name in it, perhaps
	// behind what was found there: "/app/testdata/*", "private-key /app/t*".
	deepPath = regexp.MustCompile(`^([^/]* )?/[^/]+/[^/]+`)
)

// wide says what a subject lacks that excuses more than somebody can answer for;
// "" when it is narrow enough. Of other rules every subject is.
func (w *Waiver) wide() string {
	literal, _, star := strings.Cut(w.Subject, "*")
	switch w.Rule {
	case RuleVulnerabilities:
		if star && !wholeID.MatchString(literal) && !wholePackage.MatchString(literal) {
			return "a * must come behind a vulnerability's whole name and a space (CVE-2026-1 *) or behind a package's whole name and @ (pkg:npm/ms@*)"
		}
		// A database that nobody asked, or an ecosystem of it, is no finding.
		if !strings.HasPrefix(literal, "pkg:") && !strings.ContainsAny(literal, "-/") {
			return "want a vulnerability (CVE-2026-1), a package (pkg:npm/ms@2.1.3), or both with a space between"
		}
	case inspect.RuleSecret:
		if star && !deepPath.MatchString(literal) {
			return "a * must come behind a folder and a name in it (/app/testdata/*)"
		}
	}
	return ""
}

// covers compares the pattern with each name of a reason, and with subject and
// package together: "CVE-2026-1 pkg:deb/*".
func (w *Waiver) covers(r *Reason) bool {
	names := []string{r.Subject, r.Path, r.Package, r.Subject + " " + r.Package, r.Subject + " " + r.Path}
	return slices.ContainsFunc(names, func(n string) bool {
		n = strings.TrimSpace(n)
		return n != "" && project.Wildcard(w.Subject, n) || n == "" && w.Subject == "*" && r.Subject == "" && r.Path == "" && r.Package == ""
	})
}
