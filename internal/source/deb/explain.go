package deb

import (
	"fmt"
	"slices"
	"strings"
)

// explain turns the contradiction at clause bad, which holds without any
// decision, into an UnsolvableError: the original rules that it rests on,
// reduced to a smallest set, each broken one with the chain of demands that
// leads to it.
func (s *solver) explain(bad int) error {
	core := s.minimal(s.restsOn(bad))
	byPkg := map[*Package][]int{} // rules that lead on from a package
	from := map[*Package]string{} // chain that makes a package installed
	var queue []*Package
	var broken []int
	for _, i := range core {
		switch w := s.clauses[i].why; w.kind {
		case demanded:
			if _, ok := from[w.pkg]; !ok {
				from[w.pkg] = "demanded: " + w.text
				if name, _, _ := strings.Cut(w.text, "="); name != w.pkg.Name {
					from[w.pkg] += " → " + w.pkg.Name
				}
				queue = append(queue, w.pkg)
			}
		case depends:
			if len(s.clauses[i].lits) > 1 {
				byPkg[w.pkg] = append(byPkg[w.pkg], i)
			} else {
				broken = append(broken, i)
			}
		default:
			broken = append(broken, i)
		}
	}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		for _, i := range byPkg[p] {
			c := s.clauses[i]
			for _, l := range c.lits[1:] {
				q := s.nodes[l.variable()].pkg
				if _, ok := from[q]; ok {
					continue
				}
				from[q] = from[p] + " → " + c.why.field + " " + c.why.text
				if len(c.lits) > 2 || !strings.HasPrefix(c.why.text, q.Name) {
					from[q] += " → " + q.Name
				}
				queue = append(queue, q)
			}
		}
	}
	chain := func(p *Package) string {
		if c, ok := from[p]; ok {
			return c
		}
		return p.Name
	}
	e := &UnsolvableError{}
	for _, i := range broken {
		w := s.clauses[i].why
		var line string
		switch w.kind {
		case depends:
			line = fmt.Sprintf("%s → %s %s, but %s", chain(w.pkg), w.field, w.text, w.hint)
		case conflicts:
			line = fmt.Sprintf("%s; %s, and %s %s %s %s", chain(w.other), chain(w.pkg), w.pkg.Name, w.pkg.Version, w.field, w.text)
			if name, _, _ := strings.Cut(w.text, " "); name != w.other.Name {
				line += ", which " + w.other.Name + " provides"
			}
		case oneVersion:
			line = fmt.Sprintf("%s; %s, but only one of %s %s and %s can be installed", chain(w.pkg), chain(w.other), w.pkg.Name, w.pkg.Version, w.other.Version)
		}
		e.Because = append(e.Because, line)
	}
	slices.Sort(e.Because)
	e.Because = slices.Compact(e.Because)
	return e
}

// restsOn lists the original clauses from which the violation of clause bad was
// derived, in the order in which they were added.
func (s *solver) restsOn(bad int) []int {
	seen := map[int]bool{}
	var core []int
	todo := []int{bad}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if i < 0 || seen[i] {
			continue
		}
		seen[i] = true
		c := s.clauses[i]
		if c.why.kind != learned {
			core = append(core, i)
		}
		todo = append(todo, c.parents...)
		for _, l := range c.lits {
			if n := s.nodes[l.variable()]; n.value != 0 && n.level == 0 {
				todo = append(todo, n.reason)
			}
		}
	}
	slices.Sort(core)
	return core
}

// minimal drops every clause without which the rest is still contradictory.
// Where the trials cost too much the clause stays: the explanation is then
// longer than it need be, never wrong.
func (s *solver) minimal(core []int) []int {
	if len(core) > 600 {
		return core
	}
	// Later rules first, demands last: what is left explains itself from the
	// demands that the user wrote.
	for k := len(core) - 1; k >= 0; k-- {
		without := slices.Delete(slices.Clone(core), k, k+1)
		budget := 2000
		if !s.satisfiable(without, map[int]int8{}, &budget) {
			core = without
		}
	}
	return core
}

// satisfiable is a plain search over a few clauses; "yes" when the budget of
// trials is spent.
func (s *solver) satisfiable(clauses []int, values map[int]int8, budget *int) bool {
	if *budget--; *budget < 0 {
		return true
	}
	for changed := true; changed; {
		changed = false
		for _, i := range clauses {
			var open lit
			n, done := 0, false
			for _, l := range s.clauses[i].lits {
				v := values[l.variable()]
				if l.negated() {
					v = -v
				}
				if v == 1 {
					done = true
					break
				}
				if v == 0 {
					open = l
					n++
				}
			}
			if done {
				continue
			}
			switch n {
			case 0:
				return false
			case 1:
				values[open.variable()] = 1
				if open.negated() {
					values[open.variable()] = -1
				}
				changed = true
			}
		}
	}
	// Branch on the first clause that is still open.
	for _, i := range clauses {
		done := false
		var open []lit
		for _, l := range s.clauses[i].lits {
			v := values[l.variable()]
			if l.negated() {
				v = -v
			}
			if v == 1 {
				done = true
				break
			}
			if v == 0 {
				open = append(open, l)
			}
		}
		if done || len(open) == 0 {
			continue
		}
		for _, l := range open {
			try := make(map[int]int8, len(values)+1)
			for k, v := range values {
				try[k] = v
			}
			try[l.variable()] = 1
			if l.negated() {
				try[l.variable()] = -1
			}
			if s.satisfiable(clauses, try, budget) {
				return true
			}
		}
		return false
	}
	return true
}
