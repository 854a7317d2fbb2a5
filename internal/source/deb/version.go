package deb

import (
	"fmt"
	"strings"
)

// Version is a Debian version in its three parts (Policy 5.6.12).
type Version struct {
	Epoch    string // decimal digits; "" means 0
	Upstream string
	Revision string // "" when the version has none, which compares like "0"
}

// String gives the version back as it was written.
func (v Version) String() string {
	s := v.Upstream
	if v.Epoch != "" {
		s = v.Epoch + ":" + s
	}
	if v.Revision != "" {
		s += "-" + v.Revision
	}
	return s
}

// ParseVersion reads a version strictly: an epoch is digits, the upstream part
// begins with a digit and holds only [A-Za-z0-9.+~:-], the revision only
// [A-Za-z0-9.+~], and no part is empty.
func ParseVersion(s string) (Version, error) {
	v := split(s)
	bad := func(why string) (Version, error) {
		return Version{}, fmt.Errorf("deb: version %.80q: %s (Debian Policy 5.6.12)", s, why)
	}
	if s == "" {
		return bad("empty")
	}
	hasEpoch := strings.IndexByte(s, ':') >= 0
	if hasEpoch {
		if v.Epoch == "" {
			return bad("empty epoch")
		}
		// dpkg holds the epoch in an int.
		if len(strings.TrimLeft(v.Epoch, "0")) > 9 {
			return bad("epoch out of range")
		}
		for i := 0; i < len(v.Epoch); i++ {
			if !isDigit(v.Epoch[i]) {
				return bad("epoch is not a number")
			}
		}
	}
	if v.Upstream == "" {
		return bad("no upstream version")
	}
	if !isDigit(v.Upstream[0]) {
		return bad("does not begin with a digit")
	}
	for i := 0; i < len(v.Upstream); i++ {
		switch c := v.Upstream[i]; {
		case isDigit(c), isAlpha(c), c == '.', c == '+', c == '~', c == '-':
		case c == ':' && hasEpoch:
		default:
			return bad(fmt.Sprintf("character %q is not allowed", c))
		}
	}
	if strings.HasSuffix(s, "-") {
		return bad("empty revision")
	}
	for i := 0; i < len(v.Revision); i++ {
		switch c := v.Revision[i]; {
		case isDigit(c), isAlpha(c), c == '.', c == '+', c == '~':
		default:
			return bad(fmt.Sprintf("character %q is not allowed in the revision", c))
		}
	}
	return v, nil
}

// split cuts a version at its first colon and its last hyphen.
func split(s string) Version {
	var v Version
	if i := strings.IndexByte(s, ':'); i >= 0 {
		v.Epoch, s = s[:i], s[i+1:]
	}
	if i := strings.LastIndexByte(s, '-'); i >= 0 {
		s, v.Revision = s[:i], s[i+1:]
	}
	v.Upstream = s
	return v
}

// CompareVersions orders two versions as dpkg does: negative when a is earlier
// than b, 0 when they are equal in meaning ("1.0" and "0:1.0-0" are), positive
// when a is later. It accepts any string; use ParseVersion where the text is
// not known to be a version. It allocates nothing.
func CompareVersions(a, b string) int {
	if a == b {
		return 0
	}
	va, vb := split(a), split(b)
	if c := compareNumbers(va.Epoch, vb.Epoch); c != 0 {
		return c
	}
	if c := comparePart(va.Upstream, vb.Upstream); c != 0 {
		return c
	}
	return comparePart(va.Revision, vb.Revision)
}

// comparePart compares by turns a run of non-digits, in the order of weight,
// and a run of digits, as numbers of any length.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !isDigit(a[0])) || (b != "" && !isDigit(b[0])) {
			wa, wb := weight(a), weight(b)
			if wa != wb {
				return sign(wa - wb)
			}
			// Equal weights that are not the end mean equal bytes on both sides.
			a, b = a[1:], b[1:]
		}
		na, nb := digits(a), digits(b)
		if c := compareNumbers(a[:na], b[:nb]); c != 0 {
			return c
		}
		a, b = a[na:], b[nb:]
	}
	return 0
}

// weight of the next byte in a non-digit run: a tilde sorts before the end of
// the part, letters before everything else. A digit ends the run and weighs as
// the end does.
func weight(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case isAlpha(s[0]):
		return int(s[0])
	}
	return int(s[0]) + 256
}

func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return sign(len(a) - len(b))
	}
	return strings.Compare(a, b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isAlpha(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
