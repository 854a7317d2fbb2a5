package npm

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// CheckEngine tells whether a version, as Debian or npm writes it, is in a
// node-semver range ("engines" of package.json; `^ ~ || - x` and comparisons).
// Debian's epoch, revision and repacking suffix are not part of the version:
// "1:18.20.4+dfsg-1~deb12u1" is 18.20.4. The error names both, or says that
// one cannot be read, which counts as not fitting.
func CheckEngine(constraint, version string) error {
	v, err := upstream(version)
	if err != nil {
		return err
	}
	ok, err := inRange(constraint, v)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s is not in the range %q", v, constraint)
	}
	return nil
}

var debianSuffix = regexp.MustCompile(`[+-].*$`)
var prerelease = regexp.MustCompile(`^(alpha|beta|rc|pre|dev)[.]?([0-9]*)`)

// upstream reduces a Debian version to the semantic version of its upstream.
func upstream(version string) (*semver.Version, error) {
	s := version
	if epoch, rest, ok := strings.Cut(s, ":"); ok && strings.Trim(epoch, "0123456789") == "" {
		s = rest
	}
	s, tilde, _ := strings.Cut(s, "~")
	s = debianSuffix.ReplaceAllString(s, "")
	// Debian sorts "20.0.0~rc1" before 20.0.0; other words behind a tilde
	// ("~ds1", "~deb12u1", "~bpo12") say how it was packed.
	if m := prerelease.FindStringSubmatch(tilde); m != nil {
		s += "-" + m[1] + "." + strings.TrimLeft(m[2], "0")
		s = strings.TrimSuffix(s, ".")
	}
	v, err := semver.NewVersion(s)
	if err != nil {
		return nil, fmt.Errorf("version %q cannot be read as a semantic version", version)
	}
	return v, nil
}

// One word of a range: an operator and a version of which parts may be left
// out or be wildcards.
const partial = `[v=\s]*(?:x|X|\*|[0-9]+)(?:\.(?:x|X|\*|[0-9]+)(?:\.(?:x|X|\*|[0-9]+)(?:-?[0-9A-Za-z-][0-9A-Za-z.-]*)?(?:\+[0-9A-Za-z.-]+)?)?)?`

var (
	hyphenRange = regexp.MustCompile(`^\s*(` + partial + `)\s+-\s+(` + partial + `)\s*$`)
	comparator  = regexp.MustCompile(`^(>=|<=|~>|>|<|=|~|\^)?(` + partial + `)$`)
	loose       = regexp.MustCompile(`(>=|<=|~>|>|<|=|~|\^)\s+`)
	version     = regexp.MustCompile(`^[v=\s]*([0-9xX*]+)(?:\.([0-9xX*]+)(?:\.([0-9xX*]+)(?:-?([0-9A-Za-z-][0-9A-Za-z.-]*))?)?)?`)
)

// inRange evaluates a node-semver range with prereleases included, as npm's
// engine check does. The grammar is npm's; each word becomes plain
// comparisons, which leaves nothing to the dialect of a library: in the
// dialects at hand, commas, `!=` and prereleases mean other things.
func inRange(constraint string, v *semver.Version) (bool, error) {
	if len(constraint) > 1024 {
		return false, fmt.Errorf("range of %d characters is longer than the 1024 that are read", len(constraint))
	}
	any := false
	for alternative := range strings.SplitSeq(constraint, "||") {
		ok, err := inAll(strings.TrimSpace(alternative), v)
		if err != nil {
			return false, fmt.Errorf("range %q: %w", constraint, err)
		}
		any = any || ok
	}
	return any, nil
}

func inAll(set string, v *semver.Version) (bool, error) {
	if m := hyphenRange.FindStringSubmatch(set); m != nil {
		low, err := bounds("-", m[1])
		if err != nil {
			return false, err
		}
		high, err := bounds("- ", m[2])
		if err != nil {
			return false, err
		}
		return low.holds(v) && high.holds(v), nil
	}
	all := true
	for word := range strings.FieldsSeq(loose.ReplaceAllString(set, "$1")) {
		m := comparator.FindStringSubmatch(word)
		if m == nil {
			return false, fmt.Errorf("%q is not a comparison that npm knows", word)
		}
		b, err := bounds(m[1], m[2])
		if err != nil {
			return false, err
		}
		all = all && b.holds(v)
	}
	return all, nil
}

// interval is low ≤ v < high; nil means no bound. none holds nothing.
type interval struct {
	low, high *semver.Version
	above     bool // low < v
	upTo      bool // v ≤ high
	none      bool
}

// half keeps the lower bound for the left end of a hyphen range, the upper for
// the right.
func (i interval) half(end string) interval {
	if end == "-" {
		i.high = nil
	} else {
		i.low = nil
	}
	return i
}

func (i interval) holds(v *semver.Version) bool {
	if i.none {
		return false
	}
	if i.low != nil {
		if c := v.Compare(i.low); c < 0 || c == 0 && i.above {
			return false
		}
	}
	if i.high != nil {
		if c := v.Compare(i.high); c > 0 || c == 0 && !i.upTo {
			return false
		}
	}
	return true
}

// first is the lowest prerelease of a release.
func first(n [3]uint64) *semver.Version { return semver.New(n[0], n[1], n[2], "0", "") }

// bounds turns one comparison into an interval (node-semver README,
// "Advanced Range Syntax"). An upper bound that comes from a missing part ends
// before the next version's prereleases ("<2.0.0-0").
func bounds(op, s string) (interval, error) {
	m := version.FindStringSubmatch(s)
	if m == nil {
		return interval{}, fmt.Errorf("%q is not a version", s)
	}
	given := 0 // parts before the first wildcard
	var n [3]uint64
	for i := range 3 {
		if m[i+1] == "" || strings.ContainsAny(m[i+1], "xX*") {
			break
		}
		if len(m[i+1]) > 15 {
			return interval{}, fmt.Errorf("%q is not a version: the number is too large", s)
		}
		for _, c := range m[i+1] {
			n[i] = n[i]*10 + uint64(c-'0')
		}
		given++
	}
	pre := ""
	if given == 3 {
		pre = m[4]
	}
	at := func(major, minor, patch uint64, pre string) (*semver.Version, error) {
		text := fmt.Sprintf("%d.%d.%d", major, minor, patch)
		if pre != "" {
			text += "-" + pre
		}
		return semver.StrictNewVersion(text)
	}
	// With prereleases included, an incomplete version begins before its own
	// prereleases.
	lowPre := pre
	if given < 3 {
		lowPre = "0"
	}
	low, err := at(n[0], n[1], n[2], lowPre)
	if err != nil {
		return interval{}, fmt.Errorf("%q is not a version", s)
	}
	next := func(part int) *semver.Version { // first version after everything that shares parts 0…part
		var v *semver.Version
		switch part {
		case 0:
			v, _ = at(n[0]+1, 0, 0, "0")
		case 1:
			v, _ = at(n[0], n[1]+1, 0, "0")
		default:
			v, _ = at(n[0], n[1], n[2]+1, "0")
		}
		return v
	}
	if given == 0 {
		return interval{none: op == "<" || op == ">"}, nil
	}
	whole := given == 3 && pre == "" // a complete release
	switch op {
	case "-", "- ":
		// The ends of a hyphen range take a release's prereleases in, at both
		// ends.
		if whole {
			return interval{low: first(n), high: next(2)}.half(op), nil
		}
		if given == 3 {
			return interval{low: low, high: low, upTo: true}.half(op), nil
		}
		return interval{low: low, high: next(given - 1)}.half(op), nil
	case "^":
		part := 0
		for part < given-1 && n[part] == 0 {
			part++
		}
		return interval{low: low, high: next(part)}, nil
	case "~", "~>":
		return interval{low: low, high: next(min(given-1, 1))}, nil
	case ">=":
		return interval{low: low}, nil
	case "<":
		return interval{high: low}, nil
	case ">":
		if given < 3 {
			after, err := at(n[0], n[1]+1, 0, "0")
			if given == 1 {
				after, err = at(n[0]+1, 0, 0, "0")
			}
			return interval{low: after}, err
		}
		return interval{low: low, above: true}, nil
	case "<=":
		if given < 3 {
			return interval{high: next(given - 1)}, nil
		}
		return interval{high: low, upTo: true}, nil
	}
	if given < 3 {
		return interval{low: low, high: next(given - 1)}, nil
	}
	return interval{low: low, high: low, upTo: true}, nil
}
