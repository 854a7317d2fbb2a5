package deb

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Request asks for a package set of one architecture.
type Request struct {
	// Packages are demanded: "name" or "name=version". A name that no package
	// bears is accepted when exactly one package provides it. Their order is
	// apt's: the dependencies of the first are followed first.
	Packages []string

	// Essential adds what every installable system has (Universe.Essential)
	// before Packages: for the development zone.
	Essential bool

	// Exclude maps the names of packages that are left out although something
	// depends on them to the reason. Excluding a demanded package is an error.
	Exclude map[string]string

	// Omit says whether a package is left out when only dependencies ask for
	// it, and why; nil omits nothing. A package in Packages is never omitted,
	// nor is one that another needs in exactly one version ("="), which makes it
	// a part of the same software. MaintenanceOnly is the built-in table for the
	// production zone.
	//
	// An omission stands for the dependency: no other alternative is drawn in
	// instead, and what the omitted package depends on is not followed.
	Omit func(name string) (reason string, ok bool)
}

// Solution is a package set that meets a Request.
type Solution struct {
	Packages []*Package // sorted by name
	Omitted  []Omission // sorted by name, then by who needed it
}

// Omission is a package that a dependency asks for and that was left out.
type Omission struct {
	Name     string // the package, or the virtual name that the dependency uses
	Reason   string
	NeededBy string // the package whose dependency it was; EssentialSet for a member of that set
}

// EssentialSet stands in Omission.NeededBy for the set that Request.Essential
// asks for.
const EssentialSet = "(essential)"

// UnknownPackageError is a demanded name that no package bears or provides.
type UnknownPackageError struct {
	Name      string
	Arch      string
	Nearest   []string // names that are close, best first
	Providers []string // several packages provide the name: one must be chosen
}

func (e *UnknownPackageError) Error() string {
	if len(e.Providers) > 0 {
		return fmt.Sprintf("deb: %s is a virtual package: name the one you want of %s", e.Name, strings.Join(e.Providers, ", "))
	}
	s := fmt.Sprintf("deb: no package is called %q on %s", e.Name, e.Arch)
	if len(e.Nearest) > 0 {
		s += ": did you mean " + strings.Join(e.Nearest, ", ") + "?"
	}
	return s
}

// UnknownVersionError is a demanded version that the archive does not have.
type UnknownVersionError struct {
	Name, Version, Arch string
	Versions            []string // what there is, highest first
}

func (e *UnknownVersionError) Error() string {
	return fmt.Sprintf("deb: there is no %s=%s on %s: ask for one of %s, or for %s alone", e.Name, e.Version, e.Arch, strings.Join(e.Versions, ", "), e.Name)
}

// UnsolvableError says which demands contradict each other. Every line of
// Because is one broken rule with the chains of demands that lead to it;
// together they are a smallest contradiction: without any one of them there
// would be a solution.
type UnsolvableError struct {
	Because []string
}

func (e *UnsolvableError) Error() string {
	return "deb: no set of packages meets all demands:\n  " + strings.Join(e.Because, "\n  ") +
		"\nask for other packages or versions, or exclude one of these with a reason"
}

// Resolve chooses the package set for a request by the rules of the package
// comment. The same universe and request always give the same solution. The
// error is one of *UnknownPackageError, *UnknownVersionError, *UnsolvableError,
// a join of several of the first two, or says what is wrong with the request or
// with a relationship field of the index.
func Resolve(u *Universe, req Request) (*Solution, error) {
	demands, omitted, err := readDemands(u, req)
	if err != nil {
		return nil, err
	}
	unlocked := map[*Package]bool{}
	for {
		s := newSolver(u, req, demands, unlocked)
		err := s.solve()
		if errors.Is(err, errUnlocked) {
			// Choices computed before the version was allowed lack it: begin
			// again. Each turn allows at least one more version, so this ends.
			continue
		}
		if err != nil {
			return nil, err
		}
		sol := s.solution()
		sol.Omitted = append(sol.Omitted, omitted...)
		slices.SortFunc(sol.Omitted, func(a, b Omission) int {
			if c := strings.Compare(a.Name, b.Name); c != 0 {
				return c
			}
			return strings.Compare(a.NeededBy, b.NeededBy)
		})
		sol.Omitted = slices.Compact(sol.Omitted)
		return sol, nil
	}
}

// demand is one thing asked for, with the package that it means.
type demand struct {
	text string // as asked
	pkg  *Package
}

func readDemands(u *Universe, req Request) ([]demand, []Omission, error) {
	var (
		demands []demand
		omitted []Omission
		errs    []error
	)
	add := func(d demand) {
		for i, old := range demands {
			if old.pkg == d.pkg {
				return
			}
			if old.pkg.Name == d.pkg.Name {
				// A pin replaces what the essential set asked for.
				if !strings.Contains(old.text, "=") {
					demands[i] = d
					return
				}
				if strings.Contains(d.text, "=") {
					errs = append(errs, fmt.Errorf("deb: %s and %s are both demanded: only one version can be installed", old.text, d.text))
				}
				return
			}
		}
		demands = append(demands, d)
	}
	if req.Essential {
		for _, name := range u.Essential() {
			if reason, ok := req.Exclude[name]; ok {
				omitted = append(omitted, Omission{name, reason, EssentialSet})
				continue
			}
			add(demand{name, u.Candidate(name)})
		}
	}
	for _, text := range req.Packages {
		name, version, pinned := strings.Cut(text, "=")
		if !validRelationName(name) || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._") != "" {
			errs = append(errs, fmt.Errorf("deb: %.80q is not a package name or name=version", text))
			continue
		}
		if _, ok := req.Exclude[name]; ok {
			errs = append(errs, fmt.Errorf("deb: %s is both demanded and excluded: remove one of the two", name))
			continue
		}
		versions := u.byName[name]
		switch {
		case len(versions) == 0 && !pinned:
			providers := candidatesOnly(u, u.Providers(name))
			if len(providers) == 1 {
				add(demand{text, providers[0]})
				continue
			}
			e := &UnknownPackageError{Name: name, Arch: u.Arch}
			for _, p := range providers {
				e.Providers = append(e.Providers, p.Name)
			}
			if len(providers) == 0 {
				e.Nearest = u.nearest(name)
			}
			errs = append(errs, e)
		case len(versions) == 0:
			errs = append(errs, &UnknownPackageError{Name: name, Arch: u.Arch, Nearest: u.nearest(name)})
		case !pinned:
			add(demand{text, versions[0]})
		default:
			i := slices.IndexFunc(versions, func(p *Package) bool { return p.Version == version })
			if i < 0 {
				e := &UnknownVersionError{Name: name, Version: version, Arch: u.Arch}
				for _, p := range versions {
					e.Versions = append(e.Versions, p.Version)
				}
				errs = append(errs, e)
				continue
			}
			add(demand{text, versions[i]})
		}
	}
	if len(errs) == 1 {
		return nil, nil, errs[0]
	}
	if len(errs) > 1 {
		return nil, nil, errors.Join(errs...)
	}
	return demands, omitted, nil
}

func candidatesOnly(u *Universe, ps []*Package) []*Package {
	return slices.DeleteFunc(ps, func(p *Package) bool { return u.Candidate(p.Name) != p })
}

// The solver is a conflict-driven search (decide, propagate, learn, jump back)
// whose decisions come from a walk over the dependencies in apt's order. Where
// no conflict arises, the walk alone decides and the result is apt's. Where one
// does, the learned clauses keep the walk from running into it again, and since
// every learned clause follows from the rules of the archive, the search either
// ends in a set or proves that there is none.
//
// Clauses of a package are added when it is first assumed to be installed: only
// the closure is looked at, not the archive.
type solver struct {
	u       *Universe
	req     Request
	demands []demand

	pinned   map[string]*Package
	unlocked map[*Package]bool // versions below the candidate that may be chosen; shared over restarts
	restart  bool

	vars  map[*Package]int
	nodes []*node // by variable

	clauses []clause
	occurs  map[lit][]int // clauses by literal
	trail   []lit
	head    int   // of the propagation queue in trail
	levels  []int // length of the trail at each decision
	err     error // a relationship field that cannot be read

	// The walk.
	selected map[int]bool
	stack    []frame
}

type node struct {
	pkg      *Package
	value    int8 // 1 installed, -1 not, 0 open
	level    int
	reason   int // clause, -1 for a decision
	expanded bool
	deps     []dependency
}

// dependency is one group of Pre-Depends or Depends with what can meet it.
type dependency struct {
	group   Group
	choices []choice
}

// choice is a package, or its omission: then the dependency is left alone unless
// something else brings the package in.
type choice struct {
	v            int // of the package; -1 for the omission of a mere name
	omit         bool
	name, reason string // of the omission
}

type frame struct{ v, dep int }

// lit is a variable and a sign: v<<1 for "installed", v<<1|1 for "not".
type lit int

func yesLit(v int) lit      { return lit(v << 1) }
func noLit(v int) lit       { return lit(v<<1 | 1) }
func (l lit) variable() int { return int(l) >> 1 }
func (l lit) negated() bool { return l&1 == 1 }

type clause struct {
	lits    []lit
	why     rule
	parents []int // of a learned clause
}

// rule is where a clause comes from.
type rule struct {
	kind  ruleKind
	pkg   *Package // whose field it is; the demanded one
	other *Package // of a conflict or a clash of versions
	field string   // "depends", "pre-depends", "conflicts", "breaks"
	text  string   // the relation, or the demand as asked
	hint  string   // for a dependency that nothing meets: what there is
}

type ruleKind uint8

const (
	learned ruleKind = iota
	demanded
	depends
	conflicts
	oneVersion
)

var (
	errUnlocked = errors.New("deb: a version was allowed")
	errBudget   = errors.New("deb: the demands are too entangled to solve (100000 conflicts tried): pin versions with name=version, or exclude packages, to narrow them")
)

const conflictBudget = 100_000

func newSolver(u *Universe, req Request, demands []demand, unlocked map[*Package]bool) *solver {
	s := &solver{
		u: u, req: req, demands: demands,
		pinned:   map[string]*Package{},
		unlocked: unlocked,
		vars:     map[*Package]int{},
		occurs:   map[lit][]int{},
	}
	for _, d := range demands {
		s.pinned[d.pkg.Name] = d.pkg
	}
	return s
}

// candidate is the version that a bare name means in this request.
func (s *solver) candidate(name string) *Package {
	if p := s.pinned[name]; p != nil {
		return p
	}
	return s.u.Candidate(name)
}

func (s *solver) allowed(p *Package) bool { return s.candidate(p.Name) == p || s.unlocked[p] }

// omission says whether a relation's dependency on name (its own, or a
// provider's) is left out.
//
// Omit does not apply to a relation to exactly one version: that is how one
// piece of software is cut into packages (perl needs perl-base (= its own
// version)), and when one part is there the others serve it and not
// installation. Exclude always applies: the user knows.
func (s *solver) omission(name string, r Relation) (string, bool) {
	if s.pinned[name] != nil {
		return "", false
	}
	if reason, ok := s.req.Exclude[name]; ok {
		return reason, true
	}
	if s.req.Omit != nil && r.Op != "=" {
		return s.req.Omit(name)
	}
	return "", false
}

func (s *solver) variable(p *Package) int {
	v, ok := s.vars[p]
	if !ok {
		v = len(s.nodes)
		s.vars[p] = v
		s.nodes = append(s.nodes, &node{pkg: p, reason: -1})
	}
	return v
}

func (s *solver) value(l lit) int8 {
	if l.negated() {
		return -s.nodes[l.variable()].value
	}
	return s.nodes[l.variable()].value
}

func (s *solver) assign(l lit, reason int) {
	n := s.nodes[l.variable()]
	n.value, n.level, n.reason = 1, len(s.levels), reason
	if l.negated() {
		n.value = -1
	}
	s.trail = append(s.trail, l)
}

// add stores a clause and applies it at once. It returns the clause when it is
// violated, else -1.
func (s *solver) add(c clause) int {
	i := len(s.clauses)
	s.clauses = append(s.clauses, c)
	for _, l := range c.lits {
		s.occurs[l] = append(s.occurs[l], i)
	}
	return s.apply(i)
}

// apply assigns the last open literal of a clause whose others are false. It
// returns the clause when all are false, else -1.
func (s *solver) apply(i int) int {
	var open lit
	n := 0
	for _, l := range s.clauses[i].lits {
		switch s.value(l) {
		case 1:
			return -1
		case 0:
			open = l
			n++
			if n > 1 {
				return -1
			}
		}
	}
	if n == 0 {
		return i
	}
	s.assign(open, i)
	return -1
}

// propagate follows all consequences. It returns a violated clause or -1.
func (s *solver) propagate() int {
	for s.head < len(s.trail) {
		l := s.trail[s.head]
		s.head++
		if !l.negated() {
			if bad := s.expand(l.variable()); bad >= 0 {
				return bad
			}
		}
		for _, i := range s.occurs[l^1] {
			if bad := s.apply(i); bad >= 0 {
				return bad
			}
		}
	}
	return -1
}

// expand adds the rules of a package that is assumed to be installed. All are
// added even when an earlier one is violated: expand runs once a package.
func (s *solver) expand(v int) int {
	n := s.nodes[v]
	if n.expanded {
		return -1
	}
	n.expanded = true
	p := n.pkg
	bad := -1
	add := func(c clause) {
		if b := s.add(c); bad < 0 {
			bad = b
		}
	}
	for _, q := range s.u.byName[p.Name] {
		if q != p && s.allowed(q) {
			add(clause{lits: []lit{noLit(v), noLit(s.variable(q))}, why: rule{kind: oneVersion, pkg: p, other: q}})
		}
	}
	for _, f := range [...]struct{ name, value string }{{"pre-depends", p.PreDepends}, {"depends", p.Depends}} {
		for _, g := range s.parse(p, f.name, f.value) {
			d := dependency{group: g, choices: s.choices(g)}
			n.deps = append(n.deps, d)
			c := clause{lits: []lit{noLit(v)}, why: rule{kind: depends, pkg: p, field: f.name, text: g.String()}}
			free := false
			for _, ch := range d.choices {
				if ch.omit {
					free = true // an omission meets it: no rule
					break
				}
				c.lits = append(c.lits, yesLit(ch.v))
			}
			if free {
				continue
			}
			if len(d.choices) == 0 {
				c.why.hint = s.whatExists(g)
			}
			add(c)
		}
	}
	for _, f := range [...]struct{ name, value string }{{"conflicts", p.Conflicts}, {"breaks", p.Breaks}} {
		for _, g := range s.parse(p, f.name, f.value) {
			for _, r := range g {
				for _, q := range s.hitBy(p, r) {
					add(clause{lits: []lit{noLit(v), noLit(s.variable(q))}, why: rule{kind: conflicts, pkg: p, other: q, field: f.name, text: r.String()}})
				}
			}
		}
	}
	return bad
}

// parse reads a relationship field and drops what is for other architectures.
func (s *solver) parse(p *Package, field, value string) []Group {
	groups, err := ParseRelations(value)
	if err != nil {
		if s.err == nil {
			s.err = fmt.Errorf("deb: index of %s, line %d: package %s %s: %s: %w", p.Suite, p.Line, p.Name, p.Version, field, err)
		}
		return nil
	}
	out := groups[:0]
	for _, g := range groups {
		g = slices.DeleteFunc(g, func(r Relation) bool { return !r.AppliesTo(s.u.Arch) })
		if len(g) > 0 {
			out = append(out, g)
		}
	}
	return out
}

// choices lists what can meet a dependency, best first.
func (s *solver) choices(g Group) []choice {
	var out []choice
	have := map[int]bool{}
	take := func(r Relation, ps []*Package) {
		for _, p := range ps {
			if reason, ok := s.omission(p.Name, r); ok {
				out = append(out, choice{s.variable(p), true, p.Name, reason})
				continue
			}
			if v := s.variable(p); !have[v] {
				have[v] = true
				out = append(out, choice{v: v})
			}
		}
	}
	type below struct {
		r Relation
		p *Package
	}
	var lower []below
	for _, r := range g {
		// The name itself may be omitted without being a package: a virtual one,
		// or one that this archive no longer has.
		if reason, ok := s.omission(r.Name, r); ok {
			out = append(out, choice{-1, true, r.Name, reason})
		}
		meet := s.meeting(r)
		var best []*Package
		for _, p := range meet {
			if s.candidate(p.Name) == p {
				best = append(best, p)
			} else {
				lower = append(lower, below{r, p})
			}
		}
		s.prefer(best, r.Name)
		take(r, best)
	}
	if len(out) == 0 {
		for _, l := range lower {
			if !s.unlocked[l.p] {
				s.unlocked[l.p] = true
				s.restart = true
			}
		}
	}
	for _, l := range lower {
		if s.unlocked[l.p] {
			take(l.r, []*Package{l.p})
		}
	}
	return out
}

// meeting lists the packages of the universe that meet a relation: those of the
// name, highest version first, then providers in index order.
func (s *solver) meeting(r Relation) []*Package {
	var out []*Package
	for _, p := range s.u.byName[r.Name] {
		if r.Admits(p.Version) && archMeets(r, p, s.u.Arch) {
			out = append(out, p)
		}
	}
	for _, pr := range s.u.provides[r.Name] {
		if pr.owner.Name == r.Name || r.Op != "" && (pr.version == "" || !r.Admits(pr.version)) || !archMeets(r, pr.owner, s.u.Arch) {
			continue
		}
		if !slices.Contains(out, pr.owner) {
			out = append(out, pr.owner)
		}
	}
	return out
}

// archMeets applies an architecture qualifier within one architecture: ":any"
// asks for Multi-Arch: allowed, as dpkg does.
func archMeets(r Relation, p *Package, arch string) bool {
	switch r.Arch {
	case "", "native", arch:
		return true
	case "any":
		return p.MultiArch == MultiArchAllowed
	}
	return false
}

// prefer sorts the candidates for one alternative by apt's preferences.
func (s *solver) prefer(ps []*Package, name string) {
	if len(ps) < 2 {
		return
	}
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	slices.SortStableFunc(ps, func(a, b *Package) int {
		if c := first(a.Name == name, b.Name == name); c != 0 {
			return c
		}
		if c := first(a.Essential, b.Essential); c != 0 {
			return c
		}
		if c := first(a.Protected, b.Protected); c != 0 {
			return c
		}
		if c := int(a.Priority) - int(b.Priority); c != 0 {
			return c
		}
		return int(s.u.rank(b.Name)) - int(s.u.rank(a.Name))
	})
}

// hitBy lists the allowed packages that p may not be installed with by one
// relation of its Conflicts or Breaks. A package never conflicts with itself
// or with what it provides itself (Policy 7.4).
func (s *solver) hitBy(p *Package, r Relation) []*Package {
	var out []*Package
	for _, q := range s.u.byName[r.Name] {
		if q.Name != p.Name && r.Admits(q.Version) && s.allowed(q) {
			out = append(out, q)
		}
	}
	for _, pr := range s.u.provides[r.Name] {
		q := pr.owner
		if q.Name == p.Name || !s.allowed(q) || r.Op != "" && (pr.version == "" || !r.Admits(pr.version)) || slices.Contains(out, q) {
			continue
		}
		out = append(out, q)
	}
	return out
}

func (s *solver) whatExists(g Group) string {
	var parts []string
	for _, r := range g {
		versions := s.u.byName[r.Name]
		var have []string
		for _, p := range versions {
			have = append(have, p.Version)
		}
		switch {
		case len(have) == 0 && len(s.u.provides[r.Name]) == 0:
			parts = append(parts, "there is no "+r.Name)
		case len(have) == 0:
			parts = append(parts, "no provider of "+r.Name+" fits")
		case r.Arch != "" && r.Admits(have[0]):
			parts = append(parts, r.Name+" is not for architecture \""+r.Arch+"\"")
		default:
			parts = append(parts, "there is only "+r.Name+" "+strings.Join(have, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

func (s *solver) solve() error {
	bad := -1
	for _, d := range s.demands {
		b := s.add(clause{
			lits: []lit{yesLit(s.variable(d.pkg))},
			why:  rule{kind: demanded, pkg: d.pkg, text: d.text},
		})
		if bad < 0 {
			bad = b
		}
	}
	s.rewind()
	for n := 0; ; {
		if bad < 0 {
			bad = s.propagate()
		}
		switch {
		case s.err != nil:
			return s.err
		case s.restart:
			return errUnlocked
		case bad >= 0:
			if n++; n > conflictBudget {
				return errBudget
			}
			if !s.learn(bad) {
				return s.explain(bad)
			}
			bad = s.recheck()
			s.rewind()
			continue
		}
		v, err := s.walk()
		if err != nil {
			return err
		}
		if v < 0 {
			return nil
		}
		s.levels = append(s.levels, len(s.trail))
		s.assign(yesLit(v), -1)
	}
}

// recheck applies all clauses once: after a jump back a clause that was added
// deeper may be unit or violated without a new assignment having touched it.
func (s *solver) recheck() int {
	for i := range s.clauses {
		if bad := s.apply(i); bad >= 0 {
			return bad
		}
	}
	return -1
}

// learn derives from a violated clause the one that would have kept the search
// away (first unique implication point), jumps back to where it would have
// acted and adds it. It is false when the contradiction holds without any
// decision.
func (s *solver) learn(bad int) bool {
	// The violated clause may lie wholly below the newest decision, as clauses
	// come late: go there first.
	top := 0
	for _, l := range s.clauses[bad].lits {
		top = max(top, s.nodes[l.variable()].level)
	}
	if top == 0 {
		return false
	}
	s.backjump(top)
	seen := map[int]bool{}
	out := clause{why: rule{kind: learned}}
	count, back := 0, 0
	reason := bad
	at := len(s.trail)
	for {
		out.parents = append(out.parents, reason)
		for _, l := range s.clauses[reason].lits {
			v := l.variable()
			n := s.nodes[v]
			if seen[v] || n.level == 0 || s.value(l) != -1 {
				continue
			}
			seen[v] = true
			if n.level == top {
				count++
			} else {
				out.lits = append(out.lits, l)
				back = max(back, n.level)
			}
		}
		for {
			at--
			if seen[s.trail[at].variable()] {
				break
			}
		}
		l := s.trail[at]
		count--
		if count == 0 {
			out.lits = append(out.lits, l^1)
			break
		}
		reason = s.nodes[l.variable()].reason
	}
	s.backjump(back)
	s.add(out)
	return true
}

// backjump undoes all assignments above level.
func (s *solver) backjump(level int) {
	if len(s.levels) <= level {
		return
	}
	cut := s.levels[level]
	for _, l := range s.trail[cut:] {
		n := s.nodes[l.variable()]
		n.value, n.reason, n.level = 0, -1, 0
	}
	s.trail = s.trail[:cut]
	s.levels = s.levels[:level]
	s.head = min(s.head, cut)
}

// rewind starts the walk from the demands.
func (s *solver) rewind() {
	s.selected = make(map[int]bool, len(s.demands))
	s.stack = s.stack[:0]
	for _, d := range slices.Backward(s.demands) {
		v := s.variable(d.pkg)
		s.selected[v] = true
		s.stack = append(s.stack, frame{v: v})
	}
}

// walk goes on along the dependencies in apt's order and returns the next
// package to decide on, or -1 when every dependency is met.
func (s *solver) walk() (int, error) {
	for len(s.stack) > 0 {
		f := &s.stack[len(s.stack)-1]
		n := s.nodes[f.v]
		if f.dep == len(n.deps) {
			s.stack = s.stack[:len(s.stack)-1]
			continue
		}
		d := n.deps[f.dep]
		if s.met(d) {
			f.dep++
			continue
		}
		const none, omit = -2, -1
		next := none
		for _, ch := range d.choices {
			if ch.omit {
				next = omit
				break
			}
			if s.nodes[ch.v].value >= 0 {
				next = ch.v
				break
			}
		}
		switch {
		case next == none:
			// Propagation leaves no rule violated, so this is a fault of the
			// solver, not of the demands.
			return 0, fmt.Errorf("deb: internal error: %s of %s has no choice left", d.group, n.pkg.ID())
		case next == omit:
			f.dep++
		case s.nodes[next].value == 0:
			return next, nil
		default:
			f.dep++
			s.selected[next] = true
			s.stack = append(s.stack, frame{v: next})
		}
	}
	return -1, nil
}

func (s *solver) met(d dependency) bool {
	for _, ch := range d.choices {
		if ch.v >= 0 && s.selected[ch.v] {
			return true
		}
	}
	return false
}

// solution is what the walk selected, with the omissions that its dependencies
// rest on.
func (s *solver) solution() *Solution {
	sol := &Solution{}
	for v := range maps.Keys(s.selected) {
		n := s.nodes[v]
		sol.Packages = append(sol.Packages, n.pkg)
		for _, d := range n.deps {
			if s.met(d) {
				continue
			}
			for _, ch := range d.choices {
				if ch.omit {
					sol.Omitted = append(sol.Omitted, Omission{ch.name, ch.reason, n.pkg.Name})
					break
				}
			}
		}
	}
	sortPackages(sol.Packages)
	return sol
}
