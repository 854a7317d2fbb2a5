// Package version orders the versions of packages as each ecosystem does:
// Debian, Alpine, semantic versions (npm, Go, crates), PEP 440 (PyPI), Maven and
// RubyGems.
//
// It knows nothing of vulnerabilities and ranges. Each scheme but two turns a
// version into a list of elements that are compared one after the other, so
// that its order is total and transitive by construction. Text that is no
// version of its ecosystem is an error, never an early or a late version: who
// asks must be able to say "cannot tell".
package version

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"twinhull.dev/twinhull/internal/source/deb"
)

// maxLength bounds a version. Debian's longest have some sixty bytes, Go's
// pseudo-versions fifty.
const maxLength = 256

// Scheme is a way to order versions.
type Scheme string

// The schemes.
const (
	Debian   Scheme = "Debian" // Debian Policy 5.6.12
	Alpine   Scheme = "Alpine" // apk-tools, version.c
	SemVer   Scheme = "SemVer" // Semantic Versioning 2.0.0, item 11, read leniently
	PyPI     Scheme = "PyPI"   // PEP 440
	Maven    Scheme = "Maven"  // POM reference, "Version Order Specification"
	RubyGems Scheme = "RubyGems"
)

// Of returns the scheme of an OSV ecosystem, with or without a release
// ("Debian:13"). ok is false for one whose order this program does not know.
func Of(ecosystem string) (s Scheme, ok bool) {
	base, _, _ := strings.Cut(ecosystem, ":")
	switch base {
	case "Debian", "Ubuntu", "Echo":
		return Debian, true
	case "Alpine", "Wolfi", "Chainguard", "Alpaquita", "MinimOS":
		return Alpine, true
	case "npm", "Go", "crates.io", "Hex", "Pub":
		return SemVer, true
	case "PyPI":
		return PyPI, true
	case "Maven":
		return Maven, true
	case "RubyGems":
		return RubyGems, true
	}
	return "", false
}

// Version is a version that was read. Versions of one scheme compare; the zero
// Version is of none.
type Version struct {
	scheme Scheme
	text   string
	key    []element  // of the schemes that have one
	maven  *mavenList // of Maven
}

// String gives the version as it was written.
func (v Version) String() string { return v.text }

// element is one step of a comparison: class first, then the number, then the
// text. A list that ends sorts before one that goes on.
type element struct {
	class  int8
	number string // decimal digits without leading zeros: numbers of any length
	text   string
}

func number(class int8, digits string) element {
	return element{class: class, number: strings.TrimLeft(digits, "0")}
}

func (a element) compare(b element) int {
	if c := cmp.Compare(a.class, b.class); c != 0 {
		return c
	}
	if c := compareNumbers(a.number, b.number); c != 0 {
		return c
	}
	return strings.Compare(a.text, b.text)
}

func compareNumbers(a, b string) int {
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

// Compare orders two versions of one scheme: negative when a is earlier, 0 when
// they mean the same, positive when a is later. It panics on versions of
// different schemes, which is a mistake of the caller.
func Compare(a, b Version) int {
	if a.scheme != b.scheme || a.scheme == "" {
		panic("version: " + string(a.scheme) + " compared with " + string(b.scheme))
	}
	switch a.scheme {
	case Debian:
		return deb.CompareVersions(a.text, b.text)
	case Maven:
		return a.maven.compare(b.maven)
	}
	for i := range min(len(a.key), len(b.key)) {
		if c := a.key[i].compare(b.key[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a.key), len(b.key))
}

// Parse reads a version.
func Parse(s Scheme, text string) (Version, error) {
	v := Version{scheme: s, text: text}
	var err error
	switch {
	case text == "":
		return Version{}, fmt.Errorf("no version")
	case len(text) > maxLength:
		return Version{}, fmt.Errorf("version %.40q… has %d bytes, more than %d", text, len(text), maxLength)
	case s == Debian:
		_, err = deb.ParseVersion(text)
	case s == Alpine:
		v.key, err = alpine(text)
	case s == SemVer:
		v.key, err = semver(text)
	case s == PyPI:
		v.key, err = pypi(text)
	case s == Maven:
		v.maven, err = maven(text)
	case s == RubyGems:
		v.key, err = rubygems(text)
	default:
		err = fmt.Errorf("unknown scheme %q", s)
	}
	if err != nil {
		return Version{}, err
	}
	return v, nil
}

func bad(what, text string) error { return fmt.Errorf("%.80q is no version of %s", text, what) }

// Classes of semantic versions. A version that goes on where another is a
// release has more components (a fourth one, as some publish) and is later.
const (
	semNumeric = iota // identifier of a pre-release that is a number
	semWord           // any other identifier
	semRelease        // no pre-release
	semMore           // major, minor, patch and what follows
)

// The hyphen before a pre-release may be missing when a letter follows, as in
// node-semver's loose form: databases hold such versions.
var semverForm = regexp.MustCompile(`^[v=]?(\d+(?:\.\d+)*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)|([A-Za-z][0-9A-Za-z-]*(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.+-]*)?$`)

// semver reads more than the specification allows: databases write "1.0" for
// 1.0.0, and Go writes a "v" before it.
func semver(text string) ([]element, error) {
	m := semverForm.FindStringSubmatch(text)
	if m == nil {
		return nil, bad("the form MAJOR.MINOR.PATCH", text)
	}
	key := numbers(semMore, m[1], 3)
	pre := m[2] + m[3]
	if pre == "" {
		return append(key, element{class: semRelease}), nil
	}
	for id := range strings.SplitSeq(pre, ".") {
		if allDigits(id) {
			key = append(key, number(semNumeric, id))
		} else {
			key = append(key, element{class: semWord, text: id})
		}
	}
	return key, nil
}

// numbers are dotted numbers, at least least of them and beyond that without
// zeros at the end.
func numbers(class int8, dotted string, least int) []element {
	var key []element
	for n := range strings.SplitSeq(dotted, ".") {
		key = append(key, number(class, n))
	}
	for len(key) < least {
		key = append(key, number(class, "0"))
	}
	for len(key) > least && key[len(key)-1].number == "" {
		key = key[:len(key)-1]
	}
	return key
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// PEP 440, appendix B.
var pypiForm = regexp.MustCompile(`^v?(?:(\d+)!)?(\d+(?:\.\d+)*)` +
	`(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?(\d*))?` +
	`(?:-(\d+)|[-_.]?(post|rev|r)[-_.]?(\d*))?` +
	`(?:[-_.]?(dev)[-_.]?(\d*))?` +
	`(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?$`)

// Classes where the release ends: what has no pre-release is later than what
// has one, and a development version without either comes before both.
const (
	pypiDev = iota
	pypiAlpha
	pypiBeta
	pypiCandidate
	pypiFinal
	pypiMore // one more number in the release
)

// pypi orders as PEP 440 says in "Summary of permitted suffixes and relative
// ordering".
func pypi(text string) ([]element, error) {
	m := pypiForm.FindStringSubmatch(strings.ToLower(strings.TrimSpace(text)))
	if m == nil {
		return nil, bad("Python (PEP 440)", text)
	}
	epoch, release, pre, preN, post1, post, postN, dev, devN, local := m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8], m[9], m[10]
	hasPost := post1 != "" || post != ""
	key := append([]element{number(0, epoch)}, numbers(pypiMore, release, 1)...)
	switch pre {
	case "":
		class := int8(pypiFinal)
		if !hasPost && dev != "" {
			class = pypiDev
		}
		key = append(key, element{class: class})
	case "a", "alpha":
		key = append(key, number(pypiAlpha, preN))
	case "b", "beta":
		key = append(key, number(pypiBeta, preN))
	default:
		key = append(key, number(pypiCandidate, preN))
	}
	if hasPost {
		key = append(key, number(1, post1+postN))
	} else {
		key = append(key, element{class: 0})
	}
	if dev != "" {
		key = append(key, number(0, devN))
	} else {
		key = append(key, element{class: 1})
	}
	if local != "" {
		for _, part := range strings.FieldsFunc(local, func(r rune) bool { return strings.ContainsRune("-_.", r) }) {
			if allDigits(part) {
				key = append(key, number(1, part))
			} else {
				key = append(key, element{class: 0, text: part})
			}
		}
	}
	return key, nil
}

var (
	alpineForm   = regexp.MustCompile(`^(\d+)((?:\.\d+)*)([a-z])?((?:_[a-z]+\d*)*)(?:~([0-9a-f]+))?(?:-r(\d+))?$`)
	alpineSuffix = regexp.MustCompile(`_([a-z]+)(\d*)`)
)

// Classes of what may stand at one place of an Alpine version, the earliest
// first. apk compares kinds of token when values are equal so far
// (apk_version_compare): what goes on is later than what ends, except for a
// suffix of a pre-release.
const (
	apkBefore    = iota // _alpha _beta _pre _rc
	apkEnd              // nothing more
	apkRevision         // -r1
	apkHash             // ~0123abc
	apkSuffixNo         // the number of a suffix
	apkAfter            // _cvs _svn _git _hg _p
	apkLetter           // the letter behind the numbers
	apkZeroed           // a number with a zero before it: compared as text, "1.01" before "1.1"
	apkComponent        // a number
)

func alpine(text string) ([]element, error) {
	m := alpineForm.FindStringSubmatch(text)
	if m == nil {
		return nil, bad("Alpine", text)
	}
	key := []element{number(apkComponent, m[1])}
	for n := range strings.SplitSeq(strings.TrimPrefix(m[2], "."), ".") {
		switch {
		case n == "":
		case n[0] == '0':
			key = append(key, element{class: apkZeroed, text: n})
		default:
			key = append(key, number(apkComponent, n))
		}
	}
	if m[3] != "" {
		key = append(key, element{class: apkLetter, text: m[3]})
	}
	for _, s := range alpineSuffix.FindAllStringSubmatch(m[4], -1) {
		class, text := int8(apkAfter), ""
		switch s[1] {
		case "alpha", "beta", "pre", "rc":
			class, text = apkBefore, s[1] // in alphabetical order, as it happens
		case "cvs":
			text = "1"
		case "svn":
			text = "2"
		case "git":
			text = "3"
		case "hg":
			text = "4"
		case "p":
			text = "5"
		default:
			return nil, bad("Alpine", m[0])
		}
		key = append(key, element{class: class, text: text})
		if s[2] != "" {
			key = append(key, number(apkSuffixNo, s[2]))
		}
	}
	if m[5] != "" {
		key = append(key, element{class: apkHash, text: m[5]})
	}
	if m[6] != "" {
		key = append(key, number(apkRevision, m[6]))
	}
	return append(key, element{class: apkEnd}), nil
}

var (
	gemForm  = regexp.MustCompile(`^\d[0-9A-Za-z]*(?:\.[0-9A-Za-z]+)*(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?$`)
	gemParts = regexp.MustCompile(`\d+|[A-Za-z]+`)
)

// rubygems orders as Gem::Version does: words come before the end, numbers
// after it, and zeros before a word or the end say nothing. A hyphen stands for
// ".pre.".
func rubygems(text string) ([]element, error) {
	if !gemForm.MatchString(text) {
		return nil, bad("RubyGems", text)
	}
	const word, end, num = 0, 1, 2
	var key []element
	trim := func() {
		for len(key) > 0 && key[len(key)-1].class == num && key[len(key)-1].number == "" {
			key = key[:len(key)-1]
		}
	}
	words := false
	for _, p := range gemParts.FindAllString(strings.ReplaceAll(text, "-", ".pre."), -1) {
		if allDigits(p) {
			key = append(key, number(num, p))
			continue
		}
		if !words { // only the zeros before the first word
			trim()
			words = true
		}
		key = append(key, element{class: word, text: p})
	}
	trim()
	return append(key, element{class: end}), nil
}
