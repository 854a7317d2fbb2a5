package deb

import (
	"fmt"
	"strings"
)

// Relation is one alternative of a relationship field: a package name with an
// optional architecture qualifier, version constraint and architecture list.
type Relation struct {
	Name    string
	Arch    string   // qualifier after the colon: "any", "native", an architecture; "" for none
	Op      string   // "<<", "<=", "=", ">=", ">>"; "" without a version
	Version string   // strict by ParseVersion; "" exactly when Op is
	Archs   []string // the bracketed list, each possibly with a leading "!"; nil for all
}

// Group is a dependency: alternatives in order of preference, never empty.
type Group []Relation

// String writes the relation in its canonical form: "name:any (>= 1.0) [amd64]".
func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	if r.Archs != nil {
		s += " [" + strings.Join(r.Archs, " ") + "]"
	}
	return s
}

func (g Group) String() string {
	parts := make([]string, len(g))
	for i, r := range g {
		parts[i] = r.String()
	}
	return strings.Join(parts, " | ")
}

// Admits says whether version meets the constraint. Without a constraint every
// version does.
func (r Relation) Admits(version string) bool {
	if r.Op == "" {
		return true
	}
	c := CompareVersions(version, r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	case ">>":
		return c > 0
	}
	return false
}

// AppliesTo says whether the relation's architecture list includes arch. A list
// of negated names includes every architecture that it does not name.
func (r Relation) AppliesTo(arch string) bool {
	if r.Archs == nil {
		return true
	}
	negated := strings.HasPrefix(r.Archs[0], "!")
	for _, a := range r.Archs {
		if strings.TrimPrefix(a, "!") == arch || a == "any" {
			return !negated
		}
	}
	return negated
}

// ParseRelations reads the value of Depends, Pre-Depends, Conflicts, Breaks,
// Provides and their like (Policy 7.1). An empty value gives no groups. Folded
// values are accepted; build profiles ("<!nocheck>") belong to source packages
// and are refused.
func ParseRelations(s string) ([]Group, error) {
	p := relationParser{s: s}
	p.space()
	if p.end() {
		return nil, nil
	}
	// One comma more than groups is the common case.
	groups := make([]Group, 0, strings.Count(s, ",")+1)
	for {
		var g Group
		for {
			r, err := p.relation()
			if err != nil {
				return nil, err
			}
			g = append(g, r)
			if !p.accept('|') {
				break
			}
		}
		groups = append(groups, g)
		if p.end() {
			return groups, nil
		}
		if !p.accept(',') {
			return nil, p.errorf("expected a comma")
		}
		// dpkg tolerates a comma at the end and so do archives in the field.
		if p.end() {
			return groups, nil
		}
	}
}

type relationParser struct {
	s string
	i int
}

func (p *relationParser) errorf(format string, args ...any) error {
	at := p.s[p.i:]
	if len(at) > 40 {
		at = at[:40]
	}
	return fmt.Errorf("deb: relation %.120q, byte %d (%q): %s", p.s, p.i, at, fmt.Sprintf(format, args...))
}

func (p *relationParser) end() bool { return p.i >= len(p.s) }

func (p *relationParser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n':
			p.i++
		default:
			return
		}
	}
}

// accept consumes c and the white space after it.
func (p *relationParser) accept(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		p.space()
		return true
	}
	return false
}

// word consumes bytes that ok allows.
func (p *relationParser) word(ok func(byte) bool) string {
	from := p.i
	for p.i < len(p.s) && ok(p.s[p.i]) {
		p.i++
	}
	return p.s[from:p.i]
}

func (p *relationParser) relation() (Relation, error) {
	var r Relation
	r.Name = p.word(isRelationNameByte)
	if !validRelationName(r.Name) {
		return r, p.errorf("expected a package name")
	}
	if p.i < len(p.s) && p.s[p.i] == ':' {
		p.i++
		if r.Arch = p.word(isArchByte); r.Arch == "" {
			return r, p.errorf("expected an architecture after the colon")
		}
	}
	p.space()
	if p.accept('(') {
		op := p.word(func(c byte) bool { return c == '<' || c == '>' || c == '=' })
		switch op {
		case "<<", "<=", "=", ">=", ">>":
			r.Op = op
		case "<": // obsolete spellings of <= and >=, which they mean
			r.Op = "<="
		case ">":
			r.Op = ">="
		default:
			return r, p.errorf("expected one of << <= = >= >>")
		}
		p.space()
		r.Version = p.word(func(c byte) bool { return c > ' ' && c != ')' })
		if _, err := ParseVersion(r.Version); err != nil {
			return r, p.errorf("%v", err)
		}
		p.space()
		if !p.accept(')') {
			return r, p.errorf("expected a closing parenthesis")
		}
	}
	if p.accept('[') {
		for !p.accept(']') {
			from := p.i
			if p.i < len(p.s) && p.s[p.i] == '!' {
				p.i++
			}
			if p.word(isArchByte) == "" {
				return r, p.errorf("expected an architecture")
			}
			r.Archs = append(r.Archs, p.s[from:p.i])
			p.space()
		}
		if r.Archs == nil {
			return r, p.errorf("empty architecture list")
		}
		negated := strings.HasPrefix(r.Archs[0], "!")
		for _, a := range r.Archs {
			if strings.HasPrefix(a, "!") != negated {
				return r, p.errorf("architecture list mixes negated and plain names")
			}
		}
	}
	return r, nil
}

func isArchByte(c byte) bool { return 'a' <= c && c <= 'z' || isDigit(c) || c == '-' }

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || isDigit(c) || c == '+' || c == '-' || c == '.'
}

// Virtual package names in the field use capitals and underscores
// (Haskell's and R's generated ones), which Policy 5.6.1 forbids to real ones.
func isRelationNameByte(c byte) bool { return isNameByte(c) || 'A' <= c && c <= 'Z' || c == '_' }

// validName follows Policy 5.6.1: at least two characters, the first a letter
// or a digit.
func validName(s string) bool {
	if len(s) < 2 || s[0] == '+' || s[0] == '-' || s[0] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return true
}

func validRelationName(s string) bool {
	return len(s) >= 2 && (isDigit(s[0]) || isAlpha(s[0]))
}
