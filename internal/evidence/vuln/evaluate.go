package vuln

import (
	"fmt"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/evidence/vuln/version"
)

// verdict is whether a version is affected.
type verdict int

const (
	unaffected verdict = iota
	affected
	cannotTell
)

// installed is a version of an ecosystem, read once.
type installed struct {
	text      string
	ecosystem string
}

// parseAs reads a version for ranges of a type: SEMVER ranges are semantic
// versions in any ecosystem.
func (v installed) parseAs(kind, text string) (version.Version, error) {
	scheme, ok := version.Of(v.ecosystem)
	if kind == "S" {
		scheme, ok = version.SemVer, true
	}
	if !ok {
		return version.Version{}, fmt.Errorf("this program does not know the order of versions of %s", v.ecosystem)
	}
	return version.Parse(scheme, text)
}

// affects tells whether the record is about the version (OSV schema,
// "Evaluation"), and when it cannot tell, why.
func (e *entry) affects(v installed) (verdict, string) {
	result, why := unaffected, ""
	for i := range e.Affected {
		switch got, because := e.Affected[i].has(v); got {
		case affected:
			return affected, ""
		case cannotTell:
			result, why = cannotTell, because
		}
	}
	return result, why
}

func (s *scope) has(v installed) (verdict, string) {
	if len(s.Versions) == 0 && len(s.Ranges) == 0 {
		return cannotTell, "the record names the package and no version"
	}
	if s.lists(v) {
		return affected, ""
	}
	answered, git, why := false, false, ""
	for i := range s.Ranges {
		g := &s.Ranges[i]
		if g.Type == "G" {
			git = true
			continue
		}
		in, err := g.has(v)
		switch {
		case err != nil:
			why = err.Error()
		case in:
			return affected, ""
		default:
			answered = true
		}
	}
	switch {
	// A list of versions is whole where there is one (OSV schema,
	// affected[].versions), so a range that cannot be read beside it only
	// repeats it. That the installed version cannot be read is no obstacle
	// then: it was compared as text.
	case len(s.Versions) > 0:
		return unaffected, ""
	case why != "":
		return cannotTell, why
	case !answered && git:
		return cannotTell, "the record names commits, not versions"
	}
	return unaffected, ""
}

// lists tells whether the version is among those that are enumerated.
func (s *scope) lists(v installed) bool {
	if slices.Contains(s.Versions, v.text) {
		return true
	}
	if len(s.Versions) == 0 {
		return false
	}
	own, err := v.parseAs("E", public(v.ecosystem, v.text))
	if err != nil {
		return false
	}
	for _, text := range s.Versions {
		if other, err := v.parseAs("E", text); err == nil && version.Compare(own, other) == 0 {
			return true
		}
	}
	return false
}

// public is a Python version without its local part ("1.0+cu118" is a build of
// 1.0, with the same defects); other versions are given back as they are.
func public(ecosystem, text string) string {
	if ecosystem == "PyPI" {
		text, _, _ = strings.Cut(text, "+")
	}
	return text
}

// event is an event with its version read; from the beginning when first.
type event struct {
	kind  byte // 'f', 'i', 'l'
	first bool
	at    version.Version
}

// has tells whether a version is in the range (OSV schema, "Evaluation":
// the last event that is not later than the version decides).
func (g *span) has(v installed) (bool, error) {
	if g.Type != "S" && g.Type != "E" {
		return false, fmt.Errorf("the record has a range of a type that is not known")
	}
	own, err := v.parseAs(g.Type, public(v.ecosystem, v.text))
	if err != nil {
		return false, fmt.Errorf("the installed version cannot be compared: %w", err)
	}
	events := make([]event, 0, len(g.Events))
	begins := false
	for _, e := range g.Events {
		var x event
		switch e[0] {
		case "i":
			begins = true
			x = event{kind: 'i', first: e[1] == "0"}
		case "f", "l":
			x = event{kind: e[0][0]}
		default:
			return false, fmt.Errorf("the record has a range with a limit")
		}
		if !x.first {
			if x.at, err = v.parseAs(g.Type, e[1]); err != nil {
				return false, fmt.Errorf("a range of the record cannot be compared: %w", err)
			}
		}
		events = append(events, x)
	}
	if !begins {
		return false, fmt.Errorf("the record has a range without a beginning")
	}
	slices.SortStableFunc(events, func(a, b event) int {
		switch {
		case a.first && b.first:
			return 0
		case a.first:
			return -1
		case b.first:
			return 1
		}
		if c := version.Compare(a.at, b.at); c != 0 {
			return c
		}
		// At one version what ends comes before what begins, so that it is
		// affected; that it is the last one counts for what is later only.
		return strings.IndexByte("fil", a.kind) - strings.IndexByte("fil", b.kind)
	})
	in := false
	for _, e := range events {
		c := 1
		if !e.first {
			c = version.Compare(own, e.at)
		}
		switch {
		case e.kind == 'i' && c >= 0:
			in = true
		case e.kind == 'f' && c >= 0, e.kind == 'l' && c > 0:
			in = false
		}
	}
	return in, nil
}

// fixedIn is the lowest version that is later than the installed one and that
// none of the entries affects, "" when none is named.
func fixedIn(entries []*entry, v installed) string {
	own, err := v.parseAs("E", public(v.ecosystem, v.text))
	if err != nil {
		return ""
	}
	var later []version.Version
	for _, e := range entries {
		for _, s := range e.Affected {
			for _, g := range s.Ranges {
				for _, x := range g.Events {
					if x[0] != "f" {
						continue
					}
					if f, err := v.parseAs("E", x[1]); err == nil && version.Compare(f, own) > 0 {
						later = append(later, f)
					}
				}
			}
		}
	}
	slices.SortFunc(later, version.Compare)
	// Each is held against every record: no more of them than a person would
	// look at.
	for _, f := range later[:min(len(later), 64)] {
		if !slices.ContainsFunc(entries, func(e *entry) bool {
			got, _ := e.affects(installed{f.String(), v.ecosystem})
			return got != unaffected
		}) {
			return f.String()
		}
	}
	return ""
}
