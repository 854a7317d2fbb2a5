package deb

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	pault "pault.ag/go/debian/version"
)

func TestCompareVersions(t *testing.T) {
	// Ascending; equal ones share a line.
	ladder := [][]string{
		{"0~~", "0:0~~-0"},
		{"0~~a"},
		{"0~"},
		{"0", "00", "0-0", "0:0"},
		{"0+"},
		{"1.0~beta1~svn1245"},
		{"1.0~beta1"},
		{"1.0", "1.00", "01.0", "1.0-0", "0:1.0"},
		{"1.0-0.1"},
		{"1.0-1~bpo1"},
		{"1.0-1", "1.0-01"},
		{"1.0-1+b1"},
		{"1.0-1+deb12u1"},
		{"1.0-1.1"},
		{"1.0a-1"},
		{"1.0+dfsg-1"},
		{"1.0.1-1"},
		{"1.2-3-1"},
		{"1.10-1"},
		{"99999999999999999999999999"},
		{"100000000000000000000000000"},
		{"1:0.1"},
		{"2:0"},
		{"10:0"},
	}
	for i, a := range ladder {
		for j, b := range ladder {
			for _, va := range a {
				for _, vb := range b {
					if got := CompareVersions(va, vb); got != sign(i-j) {
						t.Errorf("CompareVersions(%q, %q) = %d, want %d", va, vb, got, sign(i-j))
					}
				}
			}
		}
	}
}

func TestParseVersion(t *testing.T) {
	for _, s := range []string{"1", "0", "1.0-1", "2:1.0-1", "1:2:3-4", "1.0-2-3", "1~rc1+dfsg.2", "0.0~git20200101.abc-1~bpo12+1"} {
		v, err := ParseVersion(s)
		if err != nil {
			t.Errorf("ParseVersion(%q): %v", s, err)
		} else if v.String() != s {
			t.Errorf("ParseVersion(%q) gives back %q", s, v)
		}
	}
	for _, s := range []string{"", "a", ":1", "x:1", "1:", "1:-1", "-1", "1-", "1.0 1", "1_0", "1.0-1_2", "9999999999:1", "1/2", "1.0é", "-1:1", "1\n"} {
		if _, err := ParseVersion(s); err == nil {
			t.Errorf("ParseVersion(%q) accepts it", s)
		}
	}
}

// randomVersion draws from few characters so that near misses are common.
func randomVersion(r *rand.Rand) string {
	part := func(alphabet string, n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte(alphabet[r.IntN(len(alphabet))])
		}
		return b.String()
	}
	s := fmt.Sprint(r.IntN(3)) + part("01.~+aZ", r.IntN(6))
	if r.IntN(3) == 0 {
		s += "-" + part("01.~+aZ", 1+r.IntN(3))
	}
	if r.IntN(4) == 0 {
		s = fmt.Sprint(r.IntN(3)) + ":" + s
	}
	return s
}

func TestVersionLikeOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	_, noDpkg := exec.LookPath("dpkg")
	if noDpkg != nil {
		t.Log("there is no dpkg on this machine: comparing with the library only")
	}
	for i := range 20000 {
		a, b := randomVersion(r), randomVersion(r)
		got := CompareVersions(a, b)
		va, errA := pault.Parse(a)
		vb, errB := pault.Parse(b)
		if errA != nil || errB != nil {
			t.Fatalf("%q %q: %v %v", a, b, errA, errB)
		}
		if want := sign(pault.Compare(va, vb)); got != want {
			t.Fatalf("CompareVersions(%q, %q) = %d, pault.ag says %d", a, b, got, want)
		}
		if noDpkg != nil || i >= 300 {
			continue
		}
		op := map[int]string{-1: "lt", 0: "eq", 1: "gt"}[got]
		if err := exec.Command("dpkg", "--compare-versions", a, op, b).Run(); err != nil {
			t.Errorf("CompareVersions(%q, %q) = %d, dpkg says otherwise", a, b, got)
		}
	}
}

func FuzzVersion(f *testing.F) {
	for _, s := range []string{"1:1.0-1", "1.0~rc1", "", "0-", "a:b-c", "~", "1.0-1+b1", "00001"} {
		f.Add(s, "1.0-1", "2")
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba := CompareVersions(a, b), CompareVersions(b, a)
		if ab != -ba {
			t.Fatalf("%q %q: %d and %d", a, b, ab, ba)
		}
		if CompareVersions(a, a) != 0 {
			t.Fatalf("%q is not equal to itself", a)
		}
		if ab <= 0 && CompareVersions(b, c) <= 0 && CompareVersions(a, c) > 0 {
			t.Fatalf("%q <= %q <= %q, but not the first and the last", a, b, c)
		}
		v, err := ParseVersion(a)
		if err == nil && v.String() != a {
			t.Fatalf("%q gives back %q", a, v)
		}
		if w, perr := pault.Parse(a); err == nil && perr == nil {
			if x, err := pault.Parse(b); err == nil {
				if _, err := ParseVersion(b); err == nil && sign(pault.Compare(w, x)) != ab && len(a) < 15 && len(b) < 15 {
					t.Fatalf("%q %q: %d, pault.ag %d", a, b, ab, pault.Compare(w, x))
				}
			}
		}
	})
}
