package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/oci"
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
		if !r.Waivable {
			reason.Remedy = ""
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

// covers compares the pattern with each name of a reason, and with subject and
// package together: "CVE-2026-1 pkg:deb/*".
func (w *Waiver) covers(r *Reason) bool {
	names := []string{r.Subject, r.Path, r.Package, r.Subject + " " + r.Package, r.Subject + " " + r.Path}
	return slices.ContainsFunc(names, func(n string) bool {
		n = strings.TrimSpace(n)
		return n != "" && glob(w.Subject, n) || n == "" && w.Subject == "*" && r.Subject == "" && r.Path == "" && r.Package == ""
	})
}

// glob matches * with any letters, and nothing else specially.
func glob(p, s string) bool {
	first, rest, star := strings.Cut(p, "*")
	if !star {
		return p == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}
