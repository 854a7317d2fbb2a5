package deb

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Check proves that a solution meets its request. It is written against the
// same specification as Resolve but shares no code with the search: it reads
// the packages' fields, the solution and the request, and nothing that Resolve
// computed on the way. The error joins everything that is wrong.
//
// It proves: every package is one of the universe, for its architecture, once
// by name; every demand is there in the version asked for; with Essential, every
// package of the essential set is there or excluded; nothing excluded is there;
// every Pre-Depends and Depends is met inside the set, or one of its
// alternatives was omitted with the reason that the request gives; every
// omission is needed by a package of the set; no Conflicts or Breaks holds
// between two packages of the set.
//
// It does not prove that the set is the one that apt would choose, nor that it
// is smallest.
func Check(u *Universe, sol *Solution, req Request) error {
	if sol == nil {
		return errors.New("deb: check: there is no solution")
	}
	c := checker{u: u, sol: sol, req: req, byName: map[string]*Package{}, provided: map[string][]provision{}, demanded: map[string]bool{}}
	c.set()
	c.demands()
	c.relations()
	c.omissions()
	if len(c.errs) > 0 {
		return fmt.Errorf("deb: the package set fails its check: %w", errors.Join(c.errs...))
	}
	return nil
}

type checker struct {
	u        *Universe
	sol      *Solution
	req      Request
	byName   map[string]*Package
	provided map[string][]provision
	demanded map[string]bool // names of Request.Packages
	used     map[Omission]bool
	errs     []error
}

func (c *checker) wrong(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// set indexes the packages and checks each by itself.
func (c *checker) set() {
	for _, p := range c.sol.Packages {
		if twin := c.byName[p.Name]; twin != nil {
			c.wrong("%s and %s are both in the set", twin.ID(), p.ID())
			continue
		}
		c.byName[p.Name] = p
		known := false
		for i := range c.u.indexes {
			for j := range c.u.indexes[i].Packages {
				if p == &c.u.indexes[i].Packages[j] {
					known = true
				}
			}
			if known {
				break
			}
		}
		if !known {
			c.wrong("%s is not a package of the indexes", p.ID())
		}
		if p.Arch != "all" && p.Arch != c.u.Arch {
			c.wrong("%s is for %s, the set is for %s", p.ID(), p.Arch, c.u.Arch)
		}
		if reason, ok := c.req.Exclude[p.Name]; ok {
			c.wrong("%s is in the set although it is excluded (%s)", p.Name, reason)
		}
		groups, err := ParseRelations(p.Provides)
		if err != nil {
			c.wrong("%s: Provides: %w", p.ID(), err)
		}
		for _, g := range groups {
			for _, r := range g {
				c.provided[r.Name] = append(c.provided[r.Name], provision{p, r.Version})
			}
		}
	}
}

func (c *checker) demands() {
	for _, d := range c.req.Packages {
		name, version, pinned := strings.Cut(d, "=")
		c.demanded[name] = true
		p := c.byName[name]
		switch {
		case p == nil && !pinned && len(c.provided[name]) > 0:
			for _, pr := range c.provided[name] {
				c.demanded[pr.owner.Name] = true
			}
		case p == nil:
			c.wrong("%s is demanded and not in the set", d)
		case pinned && p.Version != version:
			c.wrong("%s is demanded, the set has %s", d, p.Version)
		}
	}
	if !c.req.Essential {
		return
	}
	for i := range c.u.indexes {
		for j := range c.u.indexes[i].Packages {
			p := &c.u.indexes[i].Packages[j]
			if !p.Essential && p.Priority != Required && p.Name != "apt" || c.byName[p.Name] != nil {
				continue
			}
			// A lower version that was essential once does not count.
			superseded := false
			for k := range c.u.byName[p.Name] {
				superseded = superseded || CompareVersions(c.u.byName[p.Name][k].Version, p.Version) > 0
			}
			reason, excluded := c.req.Exclude[p.Name]
			if superseded || excluded && slices.Contains(c.sol.Omitted, Omission{p.Name, reason, EssentialSet}) {
				continue
			}
			c.wrong("%s belongs to every installable system and is not in the set", p.Name)
		}
	}
}

// fits says whether p, or what it provides under another name, is what r names.
func (c *checker) fits(r Relation, p *Package, ignoreArch bool) bool {
	if !ignoreArch && r.Arch != "" && r.Arch != "native" && r.Arch != c.u.Arch {
		if r.Arch != "any" || p.MultiArch != MultiArchAllowed {
			return false
		}
	}
	if p.Name == r.Name && r.Admits(p.Version) {
		return true
	}
	for _, pr := range c.provided[r.Name] {
		if pr.owner == p && (r.Op == "" || pr.version != "" && r.Admits(pr.version)) {
			return true
		}
	}
	return false
}

// holders lists the packages of the set that could fit a relation.
func (c *checker) holders(name string) []*Package {
	var out []*Package
	if p := c.byName[name]; p != nil {
		out = append(out, p)
	}
	for _, pr := range c.provided[name] {
		out = append(out, pr.owner)
	}
	return out
}

func (c *checker) relations() {
	c.used = map[Omission]bool{}
	for _, p := range c.sol.Packages {
		for _, f := range []struct{ name, value string }{{"Pre-Depends", p.PreDepends}, {"Depends", p.Depends}} {
			groups, err := ParseRelations(f.value)
			if err != nil {
				c.wrong("%s: %s: %w", p.ID(), f.name, err)
			}
			for _, g := range groups {
				if !c.met(p, g) {
					c.wrong("%s: %s: %s is not met", p.ID(), f.name, g)
				}
			}
		}
		for _, f := range []struct{ name, value string }{{"Conflicts", p.Conflicts}, {"Breaks", p.Breaks}} {
			groups, err := ParseRelations(f.value)
			if err != nil {
				c.wrong("%s: %s: %w", p.ID(), f.name, err)
			}
			for _, g := range groups {
				for _, r := range g {
					if !r.AppliesTo(c.u.Arch) {
						continue
					}
					for _, q := range c.holders(r.Name) {
						if q != p && c.fits(r, q, true) {
							c.wrong("%s: %s: %s holds for %s", p.ID(), f.name, r, q.ID())
						}
					}
				}
			}
		}
	}
}

func (c *checker) met(p *Package, g Group) bool {
	applies, met := false, false
	for _, r := range g {
		if !r.AppliesTo(c.u.Arch) {
			continue
		}
		applies = true
		for _, q := range c.holders(r.Name) {
			met = met || c.fits(r, q, false)
		}
	}
	if !applies || met {
		return true
	}
	// Not inside the set: one alternative must be among the omissions that the
	// set owns up to, for a reason that the request gives.
	for _, o := range c.sol.Omitted {
		if o.NeededBy != p.Name || o.Reason == "" || c.demanded[o.Name] {
			continue
		}
		for _, r := range g {
			if !r.AppliesTo(c.u.Arch) || !c.names(o.Name, r) {
				continue
			}
			reason, ok := c.req.Exclude[o.Name]
			if !ok && c.req.Omit != nil && r.Op != "=" {
				reason, ok = c.req.Omit(o.Name)
			}
			if ok && reason == o.Reason {
				c.used[o] = true
				met = true
			}
		}
	}
	return met
}

// names says whether an omitted name is the one of a relation or of a package
// of the indexes that provides it.
func (c *checker) names(omitted string, r Relation) bool {
	if omitted == r.Name {
		return true
	}
	for _, p := range c.u.byName[omitted] {
		groups, _ := ParseRelations(p.Provides)
		for _, g := range groups {
			if g[0].Name == r.Name {
				return true
			}
		}
	}
	return false
}

// omissions refuses one that nothing rests on: a lock would list a package as
// left out that nobody asked for.
func (c *checker) omissions() {
	for _, o := range c.sol.Omitted {
		switch {
		case o.Reason == "":
			c.wrong("%s is omitted without a reason", o.Name)
		case o.NeededBy == EssentialSet:
			if !c.req.Essential || c.req.Exclude[o.Name] != o.Reason {
				c.wrong("%s is omitted from an essential set that the request does not ask for", o.Name)
			}
		case !c.used[o]:
			c.wrong("%s is omitted, but %s does not need it", o.Name, o.NeededBy)
		}
	}
}
