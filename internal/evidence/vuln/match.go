package vuln

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/inspect"
)

// MatchOptions are the time and the patience of a comparison.
type MatchOptions struct {
	Now    time.Time     // required
	MaxAge time.Duration // of an ecosystem's data, by its own date; 0 for DefaultMaxAge
}

// subject is a package of the image as it is looked up.
type subject struct {
	ecosystem string // "" when it could not be told
	name      string // normalName
	version   string
	upstream  string // source package, when that has another name
	pkg       inspect.Package
	places    []string
}

// Match compares an image's packages with the database. os is what the image
// says of its system: a distribution's records are about one release.
//
// The error is for a database that cannot be read and for a call without a
// time; everything that could not be answered is in the Result.
func (db *DB) Match(ctx context.Context, packages []inspect.Package, os inspect.OSRelease, opt MatchOptions) (Result, error) {
	if opt.Now.IsZero() || opt.MaxAge < 0 {
		return Result{}, errors.New("match vulnerabilities: no time is given, or a negative age")
	}
	maxAge := cmp.Or(opt.MaxAge, DefaultMaxAge)
	r := Result{Database: db.Status(), Scanned: opt.Now.UTC(), Findings: []Finding{}, Ecosystems: []Answer{}, Complete: true}
	answers := map[string]*Answer{}
	answer := func(eco string) *Answer {
		a := answers[eco]
		if a == nil {
			a = &Answer{Ecosystem: eco, Answered: true}
			answers[eco] = a
		}
		return a
	}
	no := func(a *Answer, format string, args ...any) {
		if a.Answered {
			a.Answered, a.Why = false, fmt.Sprintf(format, args...)
		}
	}
	subjects := map[[4]string]*subject{}
	for _, p := range packages {
		s, why := placeOf(p, os)
		a := answer(cmp.Or(s.ecosystem, p.Type))
		a.Packages++
		if why != "" {
			no(a, "%s", why)
			continue
		}
		key := [4]string{s.ecosystem, p.Name, p.Version, p.PURL}
		if old := subjects[key]; old != nil {
			s = old
		} else {
			subjects[key] = s
		}
		if p.Location != "" && !slices.Contains(s.places, p.Location) {
			s.places = append(s.places, p.Location)
		}
	}
	// A distribution's image that names no package of it has lost its list.
	if kind, ok := distributions[os.ID]; ok && !slices.ContainsFunc(packages, func(p inspect.Package) bool { return p.Type == kind }) {
		eco, why := distribution(kind, os)
		no(answer(cmp.Or(eco, kind)), "%s", cmp.Or(why, "the image says that it is "+cmp.Or(os.Name, os.ID)+" and lists no package of it: its list of packages is missing"))
	}
	for eco, a := range answers {
		if !a.Answered {
			continue
		}
		i := slices.IndexFunc(r.Database.Sources, func(s Source) bool { return s.covers(eco) })
		if i < 0 {
			no(a, "the database does not hold %s: import %s/all.zip", eco, base(eco))
			continue
		}
		src := &r.Database.Sources[i]
		a.Newest = src.Newest
		switch age := opt.Now.Sub(src.Newest); {
		case base(eco) != eco && !slices.Contains(src.Releases, eco):
			no(a, "the database has no record of %s, only of %s", eco, orNone(src.Releases))
		case src.Newest.IsZero():
			no(a, "the records of %s have no dates, so their age cannot be told: import them with --as-of DATE", base(eco))
		case age > maxAge:
			no(a, "the newest record of %s is of %s, and %s is as old as data may be: import newer data", base(eco), src.Newest.Format(time.DateOnly), days(maxAge))
		case age < -skew:
			no(a, "the data of %s is of %s, which is in the future: the clock is wrong, here or where it was imported", base(eco), src.Newest.Format(time.RFC3339))
		}
	}
	var list []*subject
	for _, s := range subjects {
		if answers[s.ecosystem].Answered {
			slices.Sort(s.places)
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *subject) int {
		return cmp.Or(cmp.Compare(a.ecosystem, b.ecosystem), cmp.Compare(a.name, b.name), cmp.Compare(a.pkg.Name, b.pkg.Name), cmp.Compare(a.pkg.Version, b.pkg.Version), cmp.Compare(a.pkg.PURL, b.pkg.PURL))
	})
	in := db.reader()
	var known []*entry // of the package that was looked up last
	for i, s := range list {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		if i == 0 || list[i-1].ecosystem != s.ecosystem || list[i-1].name != s.name {
			known = known[:0]
			for e, err := range in.entries(s.ecosystem, s.name) {
				if err != nil {
					return Result{}, err
				}
				known = append(known, e)
			}
		}
		found, open := s.match(known)
		r.Findings = append(r.Findings, found...)
		r.Undecided = append(r.Undecided, open...)
	}
	for _, eco := range slices.Sorted(keys(answers)) {
		r.Ecosystems = append(r.Ecosystems, *answers[eco])
		r.Complete = r.Complete && answers[eco].Answered
	}
	r.Complete = r.Complete && len(r.Undecided) == 0
	Sort(r.Findings)
	return r, nil
}

func keys(m map[string]*Answer) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func days(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// Sort puts findings in the order of Result.Findings.
func Sort(list []Finding) {
	slices.SortStableFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version), cmp.Compare(a.PURL, b.PURL), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Source, b.Source))
	})
}

// languages are the ecosystems of packages that no distribution made.
var languages = map[string]string{
	inspect.NPM: "npm", inspect.PyPI: "PyPI", inspect.Golang: "Go", inspect.Cargo: "crates.io",
	inspect.Gem: "RubyGems", inspect.Composer: "Packagist", inspect.Maven: "Maven",
}

// distributions are the systems whose packages are of the given type.
var distributions = map[string]string{
	"debian": inspect.Deb, "ubuntu": inspect.Deb, "alpine": inspect.Apk, "wolfi": inspect.Apk, "chainguard": inspect.Apk,
	"fedora": inspect.RPM, "rhel": inspect.RPM, "centos": inspect.RPM, "rocky": inspect.RPM, "almalinux": inspect.RPM, "amzn": inspect.RPM,
	"ol": inspect.RPM, "opensuse-leap": inspect.RPM, "opensuse-tumbleweed": inspect.RPM, "sles": inspect.RPM, "azurelinux": inspect.RPM, "mariner": inspect.RPM,
}

var (
	twoNumbers   = regexp.MustCompile(`^(\d+\.\d+)(?:\.\d+)?$`)
	ubuntuNumber = regexp.MustCompile(`^(\d\d)\.(\d\d)$`)
)

// distribution is the OSV ecosystem of a release, or why there is none.
func distribution(kind string, os inspect.OSRelease) (ecosystem, why string) {
	switch {
	case os.ID == "":
		return "", "the image does not say which distribution it is: it has no os-release file"
	case kind == inspect.RPM:
		return "", "records about RPM packages are not compared"
	case distributions[os.ID] != kind:
		return "", fmt.Sprintf("no records are known of packages of %q", os.ID)
	}
	switch os.ID {
	case "debian":
		major, _, _ := strings.Cut(os.VersionID, ".")
		if major == "" || strings.Trim(major, "0123456789") != "" {
			return "", "the image does not say which release of Debian it is"
		}
		return "Debian:" + major, ""
	case "ubuntu":
		m := ubuntuNumber.FindStringSubmatch(os.VersionID)
		if m == nil {
			return "", "the image does not say which release of Ubuntu it is"
		}
		// April's releases of even years have long-term support, and a name of
		// their own in OSV.
		if m[2] == "04" && (m[1][1]-'0')%2 == 0 {
			return "Ubuntu:" + os.VersionID + ":LTS", ""
		}
		return "Ubuntu:" + os.VersionID, ""
	case "alpine":
		m := twoNumbers.FindStringSubmatch(os.VersionID)
		if m == nil {
			return "", "the image does not say which release of Alpine it is"
		}
		return "Alpine:v" + m[1], ""
	case "wolfi":
		return "Wolfi", ""
	}
	return "Chainguard", ""
}

// goPreview is a version of Go before its release: "1.22rc1".
var goPreview = regexp.MustCompile(`^(\d+\.\d+)(rc|beta|alpha)(\d+)$`)

// placeOf tells where a package is looked up, or why it cannot be.
func placeOf(p inspect.Package, os inspect.OSRelease) (s *subject, why string) {
	s = &subject{ecosystem: languages[p.Type], name: p.Name, version: p.Version, pkg: p}
	switch p.Type {
	case inspect.Deb, inspect.Apk:
		if s.ecosystem, why = distribution(p.Type, os); why != "" {
			return s, why
		}
		// Distributions' records are about source packages.
		if name, v, _ := strings.Cut(p.Source, " "); name != "" {
			s.name = name
			if v != "" {
				s.version = v
			}
			if name != p.Name {
				s.upstream = name
			}
		}
	case inspect.RPM:
		_, why = distribution(p.Type, os)
		return s, cmp.Or(why, "records about RPM packages are not compared")
	case inspect.Golang:
		if p.Name == "stdlib" {
			s.version = goPreview.ReplaceAllString(strings.TrimPrefix(p.Version, "go"), "$1.0-$2.$3")
			// Experiments are written behind it: "1.26.1-X:nodwarf5".
			s.version, _, _ = strings.Cut(s.version, "-X:")
		}
	case inspect.Maven:
		if !strings.Contains(p.Name, ":") {
			return s, fmt.Sprintf("%s says no group, so %s cannot be looked up", p.Location, p.Name)
		}
	default:
		if s.ecosystem == "" {
			return s, fmt.Sprintf("no records are known of packages of type %q", p.Type)
		}
	}
	s.name = normalName(s.ecosystem, s.name)
	return s, ""
}

// match holds the records of a package against its version.
func (s *subject) match(known []*entry) (findings []Finding, open []Undecided) {
	v := installed{s.version, s.ecosystem}
	var hits []*entry
	for _, e := range known {
		switch got, why := e.affects(v); got {
		case affected:
			hits = append(hits, e)
		case cannotTell:
			open = append(open, Undecided{ID: e.ID, Package: s.pkg.Name, Version: s.pkg.Version, PURL: s.pkg.PURL, Why: why})
		}
	}
	groups := group(hits)
	for _, g := range groups {
		findings = append(findings, s.finding(g, v))
	}
	return findings, open
}

// group joins the records that are about one vulnerability: those that share a
// name, over any number of steps. A distribution's record that repeats one
// vulnerability of others (its upstream) has that name too. An advisory about
// several vulnerabilities stands for those of them that no other record found,
// each for itself: a name of one must not silence another.
func group(hits []*entry) [][]*entry {
	var groups [][]*entry
	names := func(e *entry) []string {
		n := append([]string{e.ID}, e.Aliases...)
		if len(e.Upstream) == 1 {
			n = append(n, e.Upstream...)
		}
		return n
	}
	at := map[string]int{} // name → group
	join := func(e *entry) {
		target := -1
		for _, n := range names(e) {
			g, ok := at[n]
			if !ok || g == target {
				continue
			}
			if target < 0 {
				target = g
				continue
			}
			from := max(g, target)
			target = min(g, target)
			groups[target] = append(groups[target], groups[from]...)
			groups[from] = nil
			for name, x := range at {
				if x == from {
					at[name] = target
				}
			}
		}
		if target < 0 {
			target = len(groups)
			groups = append(groups, nil)
		}
		groups[target] = append(groups[target], e)
		for _, n := range names(e) {
			at[n] = target
		}
	}
	for _, e := range hits {
		if len(e.Upstream) < 2 {
			join(e)
		}
	}
	for _, e := range hits {
		if len(e.Upstream) < 2 {
			continue
		}
		for _, u := range e.Upstream {
			if _, found := at[u]; !found {
				one := *e
				one.ID, one.Aliases, one.Upstream = u, nil, nil
				one.Summary = oneLine(e.ID + ": " + e.Summary)
				join(&one)
			}
		}
	}
	return slices.DeleteFunc(groups, func(g []*entry) bool { return len(g) == 0 })
}

// finding makes one finding of records about one vulnerability.
func (s *subject) finding(g []*entry, v installed) Finding {
	f := Finding{
		Type: s.pkg.Type, Package: s.pkg.Name, Version: s.pkg.Version, PURL: s.pkg.PURL, Upstream: s.upstream, Ecosystem: s.ecosystem,
		Locations: s.places, Fixed: fixedIn(g, v), Severity: Severity{Level: LevelUnknown}, Source: SourceOSV,
	}
	var names []string
	for _, e := range g {
		names = append(append(append(names, e.ID), e.Aliases...), e.Upstream...)
		f.Severity = worse(f.Severity, e.Severity)
		if f.Summary == "" {
			f.Summary = e.Summary
		}
		if p := fromUnix(e.Published); !p.IsZero() && (f.Published.IsZero() || p.Before(f.Published)) {
			f.Published = p
		}
		if m := fromUnix(e.Modified); m.After(f.Modified) {
			f.Modified = m
		}
	}
	f.ID, f.Aliases = nameOf(names)
	return f
}

// nameOf chooses the name that most people know: a CVE, else the first of the
// names that were given.
func nameOf(names []string) (id string, others []string) {
	id = names[0]
	all := slices.Compact(slices.Sorted(slices.Values(names)))
	for _, n := range all {
		if strings.HasPrefix(n, "CVE-") {
			id = n
			break
		}
	}
	if others = slices.DeleteFunc(all, func(n string) bool { return n == id }); len(others) == 0 {
		others = nil
	}
	return id, others
}

// Merge adds the findings of a second opinion. One that names the same
// vulnerability in the same package of the same version as one that is there
// makes that worse, when it is, and adds its names; the others are added, with
// their own Source.
func Merge(first, second []Finding) []Finding {
	type pkg struct{ name, version string }
	out := slices.Clone(first)
	at := map[pkg][]int{}
	for i, f := range out {
		at[pkg{f.Package, f.Version}] = append(at[pkg{f.Package, f.Version}], i)
	}
	for _, f := range second {
		key := pkg{f.Package, f.Version}
		n := slices.IndexFunc(at[key], func(i int) bool { return out[i].same(f) })
		if n < 0 {
			at[key] = append(at[key], len(out))
			out = append(out, f)
			continue
		}
		o := &out[at[key][n]]
		o.Severity = worse(o.Severity, f.Severity)
		o.Fixed = cmp.Or(o.Fixed, f.Fixed)
		o.Summary = cmp.Or(o.Summary, f.Summary)
		o.ID, o.Aliases = nameOf(append(o.IDs(), f.IDs()...))
		if !slices.Contains(strings.Split(o.Source, ", "), f.Source) {
			o.Source += ", " + f.Source
		}
	}
	Sort(out)
	return out
}

// same tells whether two findings are about one vulnerability in one package.
// Reports name packages by their distribution's name and write their package
// URLs in ways of their own, so the name and version decide.
func (f Finding) same(o Finding) bool {
	if f.Package != o.Package || f.Version != o.Version || f.Type != "" && o.Type != "" && f.Type != o.Type {
		return false
	}
	return slices.ContainsFunc(f.IDs(), func(id string) bool { return slices.Contains(o.IDs(), id) })
}
