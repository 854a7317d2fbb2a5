package project

import (
	"fmt"
	"path"
	"strings"
)

// Pattern is one pattern of a step's inputs.
//
// It is a project path whose parts may hold * (any text), ? (one character) and
// [a-z] or [!a-z] (one of a set); the part ** stands for any number of folders,
// none included. When the last part holds none of these, the pattern means that
// file or everything in that folder. A leading ! excludes.
//
// Wildcards never stand for a part named .git or node_modules, which a broad
// pattern would otherwise drag in from the developer's disk; such a part has to
// be written out. No pattern reaches .twinhull. Exclusions know no such reserve.
type Pattern struct {
	Exclude bool
	parts   []string // "**" or a pattern of path.Match
	open    bool     // matches everything below what it matches
}

// Patterns is a list of patterns. A path belongs to it when the last pattern
// that matches the path is not an exclusion. The zero Patterns matches nothing.
type Patterns []Pattern

// ParsePatterns reads patterns in order. The error says which one is wrong and
// why; it is never a matter of what is on disk.
func ParsePatterns(list []string) (Patterns, error) {
	ps := make(Patterns, 0, len(list))
	for _, s := range list {
		p, wrong, hint := parsePattern(s)
		if wrong != "" {
			if hint != "" {
				wrong += ": " + hint
			}
			return nil, fmt.Errorf("pattern %q: %s", shorten(s), wrong)
		}
		ps = append(ps, p)
	}
	return ps, nil
}

func checkPattern(s string) (wrong, hint string) {
	_, wrong, hint = parsePattern(s)
	return wrong, hint
}

func parsePattern(s string) (p Pattern, wrong, hint string) {
	rest, exclude := strings.CutPrefix(s, "!")
	p.Exclude = exclude
	rest, folder := strings.CutSuffix(rest, "/")
	switch {
	case rest == "":
		return p, "is empty", ""
	case hasControl(rest):
		return p, "holds a control character", ""
	case strings.ContainsRune(rest, '\\'):
		return p, "holds a backslash", "folders are separated by /; a wildcard that stands for itself is written [*]"
	case rest[0] == '/':
		return p, "is absolute", "write the path from the project's folder"
	case rest == ".":
		return p, "is the whole project", `write "**" for everything`
	case strings.ContainsAny(rest, "{}"):
		return p, "holds braces", "write one pattern for each alternative"
	case len(rest) > 4095:
		return p, "is longer than 4095 bytes", ""
	}
	for part := range strings.SplitSeq(rest, "/") {
		switch {
		case part == "..":
			return p, "leaves the project", "only what lies in the project's folder can be used"
		case part == "" || part == ".":
			return p, "is not a clean path", fmt.Sprintf("write %q", shorten(path.Clean(rest)))
		case part == "**":
			if n := len(p.parts); n > 0 && p.parts[n-1] == "**" {
				continue // twice says nothing more
			}
		case strings.Contains(part, "**"):
			return p, "** must stand alone between slashes", "write * inside a name, **/ for any number of folders"
		default:
			part = strings.ReplaceAll(part, "[!", "[^")
			if _, err := path.Match(part, ""); err != nil {
				return p, "has a [ without its ]", "a set is written [a-z]; the sign itself [[]"
			}
		}
		p.parts = append(p.parts, part)
	}
	if p.parts[0] == ownFolder && !exclude {
		return p, "reaches into " + ownFolder + ", Twinhull's own folder", ""
	}
	last := p.parts[len(p.parts)-1]
	p.open = folder || last == "**" || !strings.ContainsAny(last, "*?[")
	return p, "", ""
}

// step says whether one part of a pattern (not **) stands for one part of a path.
func (p *Pattern) step(part, name string) bool {
	if !strings.ContainsAny(part, "*?[") {
		return part == name
	}
	if !p.Exclude && reserved(name) {
		return false
	}
	ok, err := path.Match(part, name)
	return ok && err == nil
}

func reserved(name string) bool { return name == ".git" || name == "node_modules" }

// walk follows the pattern along a path and returns two facts: whether the
// pattern matches the path or all that lies below some folder of it, and
// whether it might match something deeper.
func (p *Pattern) walk(names []string) (match, deeper bool) {
	// at[i]: the first i parts of the pattern stand for the names read so far.
	at := make([]bool, len(p.parts)+1)
	next := make([]bool, len(p.parts)+1)
	at[0] = true
	skip := func(set []bool) { // ** may stand for nothing
		for i, part := range p.parts {
			if set[i] && part == "**" {
				set[i+1] = true
			}
		}
	}
	skip(at)
	below := false // an open pattern has matched a folder above, and nothing reserved came since
	for _, name := range names {
		below = below && (p.Exclude || !reserved(name))
		clear(next)
		for i, part := range p.parts {
			switch {
			case !at[i]:
			case part == "**":
				if p.Exclude || !reserved(name) {
					next[i] = true
				}
			case p.step(part, name):
				next[i+1] = true
			}
		}
		skip(next)
		at, next = next, at
		below = below || p.open && at[len(p.parts)]
	}
	match = below || at[len(p.parts)]
	deeper = below
	for i := range p.parts {
		deeper = deeper || at[i]
	}
	return match, deeper
}

// covers tells whether an exclusion takes away everything below the folder.
func (p *Pattern) covers(names []string) bool {
	if !p.open {
		return false
	}
	match, _ := p.walk(names)
	return match
}

func split(name string) []string {
	if name == "" || name == "." {
		return nil
	}
	return strings.Split(name, "/")
}

func own(names []string) bool {
	for _, n := range names {
		if n == ownFolder {
			return true
		}
	}
	return false
}

// Match tells whether a file belongs to the patterns. The name is a clean
// project path with slashes.
func (ps Patterns) Match(name string) bool {
	names := split(name)
	if len(names) == 0 || own(names) {
		return false
	}
	for i := len(ps) - 1; i >= 0; i-- {
		if match, _ := ps[i].walk(names); match {
			return !ps[i].Exclude
		}
	}
	return false
}

// MayContain tells whether something below the folder could match, so that a
// walk can leave the folder out when it returns false. "" and "." are the
// project's folder. It may err towards true, never towards false.
func (ps Patterns) MayContain(dir string) bool {
	names := split(dir)
	if own(names) {
		return false
	}
	for i := len(ps) - 1; i >= 0; i-- {
		if ps[i].Exclude {
			if ps[i].covers(names) {
				return false // what earlier patterns say of it no longer counts
			}
			continue
		}
		if _, deeper := ps[i].walk(names); deeper {
			return true
		}
	}
	return false
}
