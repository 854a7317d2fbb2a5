package deb

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
)

// Index is the content of one package index and where it came from.
type Index struct {
	Archive  string // "debian/trixie"
	Suite    string // "trixie-updates"
	Packages []Package
}

// Universe is what one architecture can install: the packages of several
// indexes by name. It does not change once made and may be used by several
// goroutines at once.
type Universe struct {
	Arch string

	indexes  []Index
	byName   map[string][]*Package  // highest version first
	provides map[string][]provision // by the provided name; owners in index order

	rankOnce sync.Once
	rankOf   map[string]int32 // see rank
}

// provision is one entry of a package's Provides.
type provision struct {
	owner   *Package
	version string // "" when the entry has none; it then meets unversioned relations only (Policy 7.5)
}

// NewUniverse joins indexes for one architecture. The order of the indexes is
// part of the meaning: of two packages of the same name, version and
// architecture, the one of the earlier index is kept. A package of another
// architecture, or one stanza twice in one index, is an error.
//
// The packages' Archive and Suite are set in place.
func NewUniverse(arch string, indexes ...Index) (*Universe, error) {
	n := 0
	for _, ix := range indexes {
		n += len(ix.Packages)
	}
	u := &Universe{
		Arch:     arch,
		indexes:  indexes,
		byName:   make(map[string][]*Package, n),
		provides: make(map[string][]provision),
	}
	// One backing array for the usual case of one version a name.
	backing := make([]*Package, n)
	for _, ix := range indexes {
		for i := range ix.Packages {
			p := &ix.Packages[i]
			if p.Arch != arch && p.Arch != "all" {
				return nil, fmt.Errorf("deb: index of %s, line %d: package %s is for %s, but the index is of %s", ix.Suite, p.Line, p.Name, p.Arch, arch)
			}
			p.Archive, p.Suite = ix.Archive, ix.Suite
			known := u.byName[p.Name]
			if known == nil {
				backing[0] = p
				u.byName[p.Name] = backing[:1:1]
				backing = backing[1:]
				continue
			}
			at, twin := len(known), false
			for k, q := range known {
				if q.Version == p.Version && q.Arch == p.Arch {
					if q.Suite == p.Suite {
						return nil, fmt.Errorf("deb: index of %s, line %d: package %s %s for %s is listed twice (first in line %d)", ix.Suite, p.Line, p.Name, p.Version, p.Arch, q.Line)
					}
					twin = true
					break
				}
				// Equal versions keep the order of the indexes.
				if CompareVersions(p.Version, q.Version) > 0 {
					at = min(at, k)
				}
			}
			if !twin {
				u.byName[p.Name] = slices.Insert(known, at, p)
			}
		}
	}
	for _, ix := range indexes {
		for i := range ix.Packages {
			p := &ix.Packages[i]
			if p.Provides == "" || !slices.Contains(u.byName[p.Name], p) {
				continue
			}
			groups, err := ParseRelations(p.Provides)
			if err != nil {
				return nil, fmt.Errorf("deb: index of %s, line %d: package %s: Provides: %w", ix.Suite, p.Line, p.Name, err)
			}
			for _, g := range groups {
				r := g[0]
				if len(g) > 1 || r.Op != "" && r.Op != "=" {
					return nil, fmt.Errorf("deb: index of %s, line %d: package %s: Provides: %q is not a name or name (= version)", ix.Suite, p.Line, p.Name, g)
				}
				u.provides[r.Name] = append(u.provides[r.Name], provision{p, r.Version})
			}
		}
	}
	return u, nil
}

// Len is the number of package names.
func (u *Universe) Len() int { return len(u.byName) }

// Candidate is the package that a bare name means, nil when there is none.
func (u *Universe) Candidate(name string) *Package {
	if v := u.byName[name]; len(v) > 0 {
		return v[0]
	}
	return nil
}

// Versions lists the packages of a name, highest version first.
func (u *Universe) Versions(name string) []*Package { return slices.Clone(u.byName[name]) }

// Lookup finds a package by name, version and architecture, nil when absent.
func (u *Universe) Lookup(name, version, arch string) *Package {
	for _, p := range u.byName[name] {
		if p.Version == version && p.Arch == arch {
			return p
		}
	}
	return nil
}

// Providers lists the packages that provide a virtual name, sorted by name.
func (u *Universe) Providers(name string) []*Package {
	var out []*Package
	for _, v := range u.provides[name] {
		out = append(out, v.owner)
	}
	sortPackages(out)
	return slices.Compact(out)
}

// Essential lists the names of the packages that every Debian system has: the
// candidates marked Essential or of priority "required", sorted. apt, which an
// installable system needs besides, is added when the archive has it.
func (u *Universe) Essential() []string {
	var names []string
	for name, versions := range u.byName {
		if p := versions[0]; p.Essential || p.Priority == Required || name == "apt" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// rank tells in which order apt would have met a package name for the first
// time when reading the same indexes. apt prefers the later one between
// otherwise equal providers ("unable to decide" in its CompareProviders); that
// is arbitrary, but it is what users get, and it is deterministic. It costs a
// pass over all relationship fields, so it happens only when two providers are
// otherwise equal.
func (u *Universe) rank(name string) int32 {
	u.rankOnce.Do(func() {
		u.rankOf = make(map[string]int32, 2*len(u.byName))
		meet := func(name string) {
			if _, ok := u.rankOf[name]; !ok {
				u.rankOf[name] = int32(len(u.rankOf))
			}
		}
		for _, ix := range u.indexes {
			for i := range ix.Packages {
				p := &ix.Packages[i]
				meet(p.Name)
				for _, f := range [...]string{p.PreDepends, p.Depends, p.Conflicts, p.Breaks, p.Recommends, p.Suggests, p.Replaces, p.Enhances, p.Provides} {
					eachName(f, meet)
				}
			}
		}
	})
	r, ok := u.rankOf[name]
	if !ok {
		return -1
	}
	return r
}

// eachName calls meet for each package name of a relationship field without
// judging it.
func eachName(field string, meet func(string)) {
	for field != "" {
		var part string
		if i := strings.IndexAny(field, ",|"); i < 0 {
			part, field = field, ""
		} else {
			part, field = field[:i], field[i+1:]
		}
		part = strings.TrimLeft(part, " \t\n")
		n := 0
		for n < len(part) && isRelationNameByte(part[n]) {
			n++
		}
		if n > 0 {
			meet(part[:n])
		}
	}
}

func sortPackages(ps []*Package) {
	slices.SortFunc(ps, func(a, b *Package) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		if c := CompareVersions(a.Version, b.Version); c != 0 {
			return c
		}
		return strings.Compare(a.ID(), b.ID())
	})
}

// nearest gives up to three names of the universe that are close to name: for
// error messages.
func (u *Universe) nearest(name string) []string {
	type near struct {
		name string
		d    int
	}
	limit := max(2, len(name)/4)
	var found []near
	consider := func(n string) {
		d := distance(name, n, limit)
		// "nodejs" for "node": a name that continues what was typed is close.
		if d > limit && len(name) >= 4 && strings.HasPrefix(n, name) && len(n)-len(name) <= 4 {
			d = limit
		}
		if d <= limit {
			found = append(found, near{n, d})
		}
	}
	for n := range u.byName {
		consider(n)
	}
	slices.SortFunc(found, func(a, b near) int {
		if a.d != b.d {
			return a.d - b.d
		}
		return strings.Compare(a.name, b.name)
	})
	if len(found) > 3 {
		found = found[:3]
	}
	var out []string
	for _, f := range found {
		out = append(out, f.name)
	}
	return out
}

// distance is the Levenshtein distance, or limit+1 as soon as it exceeds limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	prev, cur := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		best := cur[0]
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			best = min(best, cur[j])
		}
		if best > limit {
			return limit + 1
		}
		prev, cur = cur, prev
	}
	return prev[len(b)]
}
