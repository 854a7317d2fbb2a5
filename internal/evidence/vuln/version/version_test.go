package version

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// ascending are versions in strictly ascending order; those that a line joins
// by "=" mean the same.
var ascending = map[Scheme][]string{
	// Debian Policy 5.6.12: "~~", "~~a", "~", the empty part, "a".
	Debian: {"1.0~~", "1.0~~a", "1.0~", "1.0 = 0:1.0 = 1.0-0", "1.0-1", "1.0-1+b1", "1.0-1+deb13u1", "1.0a", "1.0+dfsg", "1.1", "1.10", "1:0.1"},
	// apk-package(5) and the comparison of apk-tools.
	Alpine: {"1.0_alpha", "1.0_alpha1", "1.0_beta1", "1.0_pre1", "1.0_rc1", "1.0_rc1-r1", "1.0", "1.0-r0", "1.0-r1 = 1.0-r01", "1.0-r10", "1.0_git20200101", "1.0_p1", "1.0_p1-r1", "1.0b", "1.0.01", "1.0.1", "1.0.10", "1.1", "10"},
	// semver.org item 11, then Go's pseudo-versions and what databases write.
	SemVer: {
		"0 = 0.0.0", "1.0.0-0.3.7", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
		"1.0.0 = v1.0.0 = 1.0 = 1.0.0+build", "1.0.4-0.20180125103619-43913f2f4fbd", "1.0.4-0.20190125103619-43913f2f4fbd", "1.0.4-rc.1", "1.0.4-rc.1.0.20180125103619-43913f2f4fbd", "1.0.4",
		"2.0.0+incompatible = 2.0.0", "2.0.0.1", "2.1.0", "10.0.0", "123456789012345678901234567890.0.0",
	},
	// PEP 440, "Summary of permitted suffixes and relative ordering".
	PyPI: {
		"1.dev0", "1.0.dev456", "1.0a1", "1.0a2.dev456", "1.0a12.dev456", "1.0a12", "1.0b1.dev456", "1.0b2", "1.0b2.post345.dev456", "1.0b2.post345",
		"1.0rc1.dev456", "1.0rc1 = 1.0c1 = 1.0-preview_1", "1.0 = 1 = v1.0.0 = 0!1", "1.0+abc.5", "1.0+abc.7", "1.0+5 = 1.0+05", "1.0.post456.dev34", "1.0.post456 = 1.0-456 = 1.0.rev456", "1.0.15", "1.1.dev1", "2", "1!0.1",
	},
	// POM reference, "Version Order Specification", and its examples.
	Maven: {
		"1-alpha1 = 1-a1", "1-beta", "1-milestone1 = 1-m1", "1-rc = 1-cr", "1-snapshot", "1 = 1.0 = 1.0.0 = 1-ga = 1.final = 1-release = 1.0.ga", "1-sp", "1-foo2", "1-foo10", "1-xyz", "1-1", "1.0.1", "1.1", "1.2", "1.10",
	},
	RubyGems: {"1.0.a.1", "1.0.b", "1.0-2 = 1.0.pre.2", "1.0.0.rc1 = 1.0.rc1", "1.0 = 1 = 1.0.0", "1.0.1.a", "1.0.1", "1.10"},
}

func parse(t testing.TB, s Scheme, text string) Version {
	t.Helper()
	v, err := Parse(s, text)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return v
}

func TestOrder(t *testing.T) {
	for s, lines := range ascending {
		t.Run(string(s), func(t *testing.T) {
			for i, a := range lines {
				for j, b := range lines {
					for a := range strings.SplitSeq(a, " = ") {
						for b := range strings.SplitSeq(b, " = ") {
							got, want := Compare(parse(t, s, a), parse(t, s, b)), i-j
							if sign(got) != sign(want) {
								t.Errorf("Compare(%q, %q) = %d, want %d", a, b, sign(got), sign(want))
							}
						}
					}
				}
			}
		})
	}
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

// TestNoVersion: text that is none must not get a place in the order.
func TestNoVersion(t *testing.T) {
	for s, texts := range map[Scheme][]string{
		Debian:   {"", "a", "1 0", "1.0-", "x:1", "1_0"},
		Alpine:   {"", "a", "1.0_foo1", "1.0-1", "1..0", "1.0 ", "1.0p1"},
		SemVer:   {"", "latest", "(devel)", "1.x", "1..2", "1.0.0-", "1.0.0-a..b", "1 .0", "git+https://example"},
		PyPI:     {"", "1.0-bulbasaur", "1.0.*", "release", "1.0+", ">=1"},
		Maven:    {"", "1 0", "1\n", strings.Repeat("1a", 100)},
		RubyGems: {"", "a", "1..0", "1_0"},
	} {
		for _, text := range append(texts, strings.Repeat("1.", 200)+"1") {
			if v, err := Parse(s, text); err == nil {
				t.Errorf("%s took %q as %v", s, text, v)
			}
		}
	}
	if _, err := Parse("none", "1"); err == nil {
		t.Error("an unknown scheme read a version")
	}
}

// forms draw versions that are likely to be near each other.
var forms = map[Scheme]string{
	Debian:   `([01]:)?[0-2]([.+~a-][0-2a~]{1,3}){0,3}[0-1]`,
	Alpine:   `[0-2](\.(0?[0-2])){0,3}[ab]?(_(alpha|rc|p|git|pre)[0-2]?){0,2}(~[ab])?(-r[0-2])?`,
	SemVer:   `v?[0-2](\.[0-2]){0,3}(-(0|1|10|a|b|a1)(\.(0|2|10|a)){0,2})?(\+x)?`,
	PyPI:     `([01]!)?[0-2](\.[0-2]){0,2}((a|b|rc)[0-2]?)?(\.post[0-2]?)?(\.dev[0-2]?)?(\+[a0-2](\.[a0-2])?)?`,
	RubyGems: `[0-2](\.[0-2ab]){0,3}(-a)?`,
	// Without a component that is a word in front of another after a dot, and
	// without zeros that are not at the end: there Maven's own order has circles.
	Maven: `[1-2](\.[1-2]){0,2}(-(alpha|beta|rc|snapshot|sp|ga|x|1|2))?`,
}

// TestTotalOrder holds every scheme to the laws of an order.
func TestTotalOrder(t *testing.T) {
	for s, form := range forms {
		t.Run(string(s), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				draw := rapid.StringMatching(form).Filter(func(text string) bool {
					_, err := Parse(s, text)
					return err == nil
				})
				var v [3]Version
				for i := range v {
					var err error
					if v[i], err = Parse(s, draw.Draw(t, "version")); err != nil {
						t.Fatal(err)
					}
				}
				a, b, c := v[0], v[1], v[2]
				if Compare(a, a) != 0 {
					t.Fatalf("%v differs from itself", a)
				}
				if sign(Compare(a, b)) != -sign(Compare(b, a)) {
					t.Fatalf("%v and %v: %d one way, %d the other", a, b, Compare(a, b), Compare(b, a))
				}
				if Compare(a, b) <= 0 && Compare(b, c) <= 0 && Compare(a, c) > 0 {
					t.Fatalf("%v ≤ %v ≤ %v, but %v > %v", a, b, c, a, c)
				}
				if Compare(a, b) == 0 && sign(Compare(a, c)) != sign(Compare(b, c)) {
					t.Fatalf("%v = %v, but %v is between", a, b, c)
				}
			})
		})
	}
}

func TestOf(t *testing.T) {
	for eco, want := range map[string]Scheme{"Debian:13": Debian, "Alpine:v3.20": Alpine, "npm": SemVer, "Go": SemVer, "crates.io": SemVer, "PyPI": PyPI, "Maven": Maven, "Ubuntu:24.04:LTS": Debian, "Bitnami": "", "": ""} {
		if got, ok := Of(eco); got != want || ok != (want != "") {
			t.Errorf("Of(%q) = %q, %v", eco, got, ok)
		}
	}
}

func FuzzCompare(f *testing.F) {
	for _, lines := range ascending {
		for i := 1; i < len(lines); i++ {
			f.Add(lines[i-1], lines[i])
		}
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for s := range ascending {
			va, err := Parse(s, a)
			if err != nil {
				continue
			}
			vb, err := Parse(s, b)
			if err != nil {
				continue
			}
			if Compare(va, va) != 0 || sign(Compare(va, vb)) != -sign(Compare(vb, va)) {
				t.Errorf("%s: %q and %q have no order", s, a, b)
			}
		}
	})
}
