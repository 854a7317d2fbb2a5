package deb

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// world builds a universe from lines "name version; Field: value; …".
func world(t testing.TB, lines ...string) *Universe {
	t.Helper()
	var text strings.Builder
	for _, l := range lines {
		parts := strings.Split(l, "; ")
		name, version, _ := strings.Cut(parts[0], " ")
		text.WriteString(stanza(name, version, parts[1:]...))
	}
	ps, err := ScanPackages([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	u, err := NewUniverse("amd64", Index{"debian/trixie", "trixie", ps})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestResolve(t *testing.T) {
	table := func(names ...string) func(string) (string, bool) {
		return func(n string) (string, bool) { return "reason", slices.Contains(names, n) }
	}
	tests := []struct {
		name    string
		world   []string
		req     Request
		want    string // "name=version …"
		omitted string // "name<neededBy …"
	}{
		{"cycle", []string{"aa 1; Depends: bb", "bb 1; Depends: cc", "cc 1; Depends: aa"}, Request{Packages: []string{"aa"}}, "aa=1 bb=1 cc=1", ""},
		{"highest version", []string{"aa 1.9", "aa 1.10", "aa 1.10~rc1"}, Request{Packages: []string{"aa"}}, "aa=1.10", ""},
		{"pinned version", []string{"aa 1", "aa 2"}, Request{Packages: []string{"aa=1"}}, "aa=1", ""},
		{"pinned version needs its library", []string{"aa 1; Depends: ll (= 1)", "aa 2; Depends: ll (= 2)", "ll 1", "ll 2", "bb 1; Depends: ll"},
			Request{Packages: []string{"bb", "aa=1"}}, "aa=1 bb=1 ll=1", ""},
		{"first alternative", []string{"aa 1; Depends: cc | bb", "bb 1", "cc 1"}, Request{Packages: []string{"aa"}}, "aa=1 cc=1", ""},
		{"selected alternative", []string{"aa 1; Depends: cc | bb", "bb 1", "cc 1"}, Request{Packages: []string{"aa", "bb"}}, "aa=1 bb=1", ""},
		{"real before virtual", []string{"aa 1; Depends: vv", "bb 1; Provides: vv; Priority: required", "vv 1"}, Request{Packages: []string{"aa"}}, "aa=1 vv=1", ""},
		{"provider by priority", []string{"aa 1; Depends: vv", "bb 1; Provides: vv; Priority: optional", "cc 1; Provides: vv; Priority: standard"}, Request{Packages: []string{"aa"}}, "aa=1 cc=1", ""},
		{"essential provider", []string{"aa 1; Depends: vv", "bb 1; Provides: vv; Priority: required", "cc 1; Provides: vv; Essential: yes"}, Request{Packages: []string{"aa"}}, "aa=1 cc=1", ""},
		{"equal providers: the later", []string{"aa 1; Depends: vv", "bb 1; Provides: vv", "cc 1; Provides: vv"}, Request{Packages: []string{"aa"}}, "aa=1 cc=1", ""},
		{"equal providers: the later met", []string{"aa 1; Depends: vv; Suggests: cc", "bb 1; Provides: vv", "cc 1; Provides: vv"}, Request{Packages: []string{"aa"}}, "aa=1 bb=1", ""},
		{"versioned provides", []string{"aa 1; Depends: vv (>= 2)", "bb 1; Provides: vv (= 1)", "cc 1; Provides: vv (= 2)", "dd 1; Provides: vv"}, Request{Packages: []string{"aa"}}, "aa=1 cc=1", ""},
		{"demanded virtual", []string{"bb 1; Provides: vv"}, Request{Packages: []string{"vv"}}, "bb=1", ""},
		{"any needs allowed", []string{"aa 1; Depends: bb:any | cc:any", "bb 1", "cc 1; Multi-Arch: allowed"}, Request{Packages: []string{"aa"}}, "aa=1 cc=1", ""},
		{"architecture list", []string{"aa 1; Depends: bb [arm64] | cc [amd64], dd [!amd64]", "bb 1", "cc 1"}, Request{Packages: []string{"aa"}}, "aa=1 cc=1", ""},
		{"conflict takes the second", []string{"aa 1; Depends: bb | cc", "bb 1; Conflicts: dd", "cc 1", "dd 1"}, Request{Packages: []string{"aa", "dd"}}, "aa=1 cc=1 dd=1", ""},
		{"conflict found late", []string{"aa 1; Depends: bb | cc, ee", "bb 1; Depends: b2", "b2 1; Depends: b3", "b3 1; Breaks: ee", "cc 1", "ee 1"}, Request{Packages: []string{"aa"}}, "aa=1 cc=1 ee=1", ""},
		{"own virtual name", []string{"aa 1; Provides: vv; Conflicts: vv; Replaces: vv", "bb 1"}, Request{Packages: []string{"aa", "bb"}}, "aa=1 bb=1", ""},
		{"unversioned provides escapes a versioned breaks", []string{"aa 1; Breaks: vv (<< 2)", "bb 1; Provides: vv"}, Request{Packages: []string{"aa", "bb"}}, "aa=1 bb=1", ""},
		{"alternative whose own dependency is missing", []string{"aa 1; Depends: bb | cc", "bb 1; Depends: nothing", "cc 1"}, Request{Packages: []string{"aa"}}, "aa=1 cc=1", ""},
		{"essential", []string{"aa 1", "bb 1; Essential: yes", "cc 1; Priority: required", "apt 1", "dd 1"}, Request{Packages: []string{"dd"}, Essential: true}, "apt=1 bb=1 cc=1 dd=1", ""},
		{"essential, excluded", []string{"bb 1; Essential: yes", "dd 1"}, Request{Packages: []string{"dd"}, Essential: true, Exclude: map[string]string{"bb": "why"}}, "dd=1", "bb<(essential)"},
		{"omitted", []string{"aa 1; Depends: debconf (>= 0.5) | debconf-2.0", "debconf 1; Depends: pp", "pp 1", "cdebconf 1; Provides: debconf-2.0"},
			Request{Packages: []string{"aa"}, Omit: MaintenanceOnly}, "aa=1", "debconf<aa"},
		{"omitted virtual name", []string{"aa 1; Depends: debconf-2.0", "cc 1; Provides: debconf-2.0"}, Request{Packages: []string{"aa"}, Omit: MaintenanceOnly}, "aa=1", "debconf-2.0<aa"},
		{"demanded is not omitted", []string{"aa 1; Depends: bash", "bash 1; Depends: dash", "dash 1"}, Request{Packages: []string{"aa", "bash"}, Omit: MaintenanceOnly}, "aa=1 bash=1", "dash<bash"},
		{"exactly one version is a part", []string{"perl 1; Depends: perl-base (= 1), libperl", "perl-base 1; Depends: dpkg", "libperl 1; Depends: perl-base", "dpkg 1"},
			Request{Packages: []string{"perl"}, Omit: MaintenanceOnly}, "libperl=1 perl-base=1 perl=1", "dpkg<perl-base"},
		{"omission met by another", []string{"aa 1; Depends: oo | bb, bb", "bb 1"}, Request{Packages: []string{"aa"}, Omit: table("oo")}, "aa=1 bb=1", ""},
		{"excluded", []string{"aa 1; Depends: bb (= 1)", "bb 1; Depends: cc", "cc 1"}, Request{Packages: []string{"aa"}, Exclude: map[string]string{"bb": "why"}}, "aa=1", "bb<aa"},
		{"excluded and unknown", []string{"aa 1; Depends: gone"}, Request{Packages: []string{"aa"}, Exclude: map[string]string{"gone": "why"}}, "aa=1", "gone<aa"},
		{"nothing", []string{"aa 1"}, Request{}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := world(t, tt.world...)
			sol, err := Resolve(u, tt.req)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(names(sol), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			var omitted []string
			for _, o := range sol.Omitted {
				omitted = append(omitted, o.Name+"<"+o.NeededBy)
			}
			if got := strings.Join(omitted, " "); got != tt.omitted {
				t.Errorf("omitted %q, want %q", got, tt.omitted)
			}
			if err := Check(u, sol, tt.req); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestResolveRefuses(t *testing.T) {
	tests := []struct {
		name  string
		world []string
		req   Request
		want  []string // parts of the message
	}{
		{"unknown", []string{"nodejs 1", "node-ws 1"}, Request{Packages: []string{"nodesj"}}, []string{`no package is called "nodesj"`, "did you mean nodejs?"}},
		{"version", []string{"nodejs 2", "nodejs 1"}, Request{Packages: []string{"nodejs=3"}}, []string{"no nodejs=3", "one of 2, 1"}},
		{"virtual", []string{"aa 1; Provides: vv", "bb 1; Provides: vv"}, Request{Packages: []string{"vv"}}, []string{"virtual package", "aa, bb"}},
		{"all at once", []string{"aa 1"}, Request{Packages: []string{"xx", "yy=1"}}, []string{`"xx"`, `"yy"`}},
		{"syntax", []string{"aa 1"}, Request{Packages: []string{"aa bb"}}, []string{"not a package name"}},
		{"both", []string{"aa 1"}, Request{Packages: []string{"aa"}, Exclude: map[string]string{"aa": "x"}}, []string{"both demanded and excluded"}},
		{"two versions", []string{"aa 1", "aa 2"}, Request{Packages: []string{"aa=1", "aa=2"}}, []string{"aa=1 and aa=2"}},
		{"conflict", []string{"aa 1; Depends: bb (>= 2)", "bb 2", "cc 1; Conflicts: bb", "zz 1"}, Request{Packages: []string{"zz", "aa", "cc"}},
			[]string{"demanded: aa → depends bb (>= 2); demanded: cc, and cc 1 conflicts bb"}},
		{"missing", []string{"aa 1; Depends: bb", "bb 1; Pre-Depends: cc (>= 2)", "cc 1"}, Request{Packages: []string{"aa"}},
			[]string{"demanded: aa → depends bb → pre-depends cc (>= 2), but there is only cc 1"}},
		{"missing at all", []string{"aa 1; Depends: bb"}, Request{Packages: []string{"aa"}}, []string{"but there is no bb"}},
		{"both alternatives", []string{"aa 1; Depends: bb | cc", "bb 1", "cc 1", "dd 1; Breaks: bb, vv", "cc 2; Provides: vv"}, Request{Packages: []string{"aa", "dd"}},
			[]string{"dd 1 breaks bb", "dd 1 breaks vv, which cc provides"}},
		{"versions clash", []string{"aa 1; Depends: ll (= 1)", "bb 1; Depends: ll (= 2)", "ll 1", "ll 2"}, Request{Packages: []string{"aa", "bb"}}, []string{"only one of ll"}},
		{"bad field", []string{"aa 1; Depends: bb ((1)"}, Request{Packages: []string{"aa"}}, []string{"line 1: package aa 1: depends"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Resolve(world(t, tt.world...), tt.req)
			if err == nil {
				t.Fatal("it was solved")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\nwant %q in it", err, w)
				}
			}
			if strings.Contains(err.Error(), "zz") {
				t.Errorf("what has no part in it is named: %v", err)
			}
		})
	}
}

// randomWorld is small and dense, so that conflicts are the rule.
func randomWorld(r *rand.Rand) []string {
	n := 3 + r.IntN(6)
	name := func() string { return fmt.Sprintf("p%d", r.IntN(n)) }
	relation := func() string {
		s := name()
		if r.IntN(5) == 0 {
			s = fmt.Sprintf("v%d", r.IntN(2))
		}
		if r.IntN(4) == 0 {
			s += fmt.Sprintf(" (%s %d)", []string{"<<", "<=", "=", ">=", ">>"}[r.IntN(5)], 1+r.IntN(3))
		}
		return s
	}
	var out []string
	for i := range n {
		for v := 1; v <= 1+r.IntN(2); v++ {
			l := fmt.Sprintf("p%d %d", i, v)
			var deps []string
			for range r.IntN(3) {
				d := relation()
				for range r.IntN(3) {
					d += " | " + relation()
				}
				deps = append(deps, d)
			}
			if deps != nil {
				l += "; Depends: " + strings.Join(deps, ", ")
			}
			if r.IntN(3) == 0 {
				l += "; Conflicts: " + relation()
			}
			if r.IntN(4) == 0 {
				l += fmt.Sprintf("; Provides: v%d", r.IntN(2))
				if r.IntN(2) == 0 {
					l += fmt.Sprintf(" (= %d)", 1+r.IntN(3))
				}
			}
			out = append(out, l)
		}
	}
	return out
}

// TestResolveComplete compares with trying out every set of candidates: what
// can be solved must be solved, and what is solved must pass the check.
func TestResolveComplete(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	solved, refused := 0, 0
	for i := range 4000 {
		lines := randomWorld(r)
		u := world(t, lines...)
		req := Request{Packages: []string{"p0", "p1"}}
		sol, err := Resolve(u, req)
		if err == nil {
			solved++
			if err := Check(u, sol, req); err != nil {
				t.Fatalf("%d: %v\n%s", i, err, strings.Join(lines, "\n"))
			}
			again, err := Resolve(u, req)
			if err != nil || !cmp.Equal(names(sol), names(again)) {
				t.Fatalf("%d: the second time: %v %v", i, names(again), err)
			}
			continue
		}
		refused++
		var un *UnsolvableError
		if !errors.As(err, &un) || len(un.Because) == 0 {
			t.Fatalf("%d: %v", i, err)
		}
		var candidates []*Package
		for n := range u.byName {
			candidates = append(candidates, u.Candidate(n))
		}
		for set := range 1 << len(candidates) {
			try := &Solution{}
			for k, p := range candidates {
				if set>>k&1 == 1 {
					try.Packages = append(try.Packages, p)
				}
			}
			if Check(u, try, req) == nil {
				t.Fatalf("%d: %v is a solution, but: %v\n%s", i, names(try), err, strings.Join(lines, "\n"))
			}
		}
	}
	if solved < 500 || refused < 500 {
		t.Errorf("%d solved and %d refused: the worlds are too easy or too hard", solved, refused)
	}
}

// TestCheckComplains changes good solutions and wants each change noticed.
func TestCheckComplains(t *testing.T) {
	lines := []string{
		"aa 1; Depends: bb (>= 2), debconf, vv", "bb 2; Pre-Depends: ll", "bb 1", "ll 1", "cc 1; Provides: vv; Conflicts: dd", "dd 1", "debconf 1",
		"ee 1; Essential: yes", "ff 1; Breaks: bb (<< 2)", "mm 1; Depends: nn:any", "nn 1; Multi-Arch: allowed", "oo 1",
	}
	u := world(t, lines...)
	req := Request{Packages: []string{"aa", "bb=2", "ff", "mm"}, Essential: true, Omit: MaintenanceOnly, Exclude: map[string]string{"oo": "not wanted"}}
	good, err := Resolve(u, req)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(u, good, req); err != nil {
		t.Fatal(err)
	}
	if len(good.Omitted) != 1 {
		t.Fatal(good.Omitted)
	}
	// Every package of this set is needed.
	for i := range good.Packages {
		bad := &Solution{Packages: slices.Delete(slices.Clone(good.Packages), i, i+1), Omitted: good.Omitted}
		if Check(u, bad, req) == nil {
			t.Errorf("the set without %s passes", good.Packages[i].ID())
		}
	}
	foreign := *u.Candidate("ll")
	foreign.Arch = "arm64"
	change := func(f func(s *Solution)) error {
		s := &Solution{Packages: slices.Clone(good.Packages), Omitted: slices.Clone(good.Omitted)}
		f(s)
		return Check(u, s, req)
	}
	swap := func(from string, to *Package) func(*Solution) {
		return func(s *Solution) {
			for i, p := range s.Packages {
				if p.Name == from {
					s.Packages[i] = to
				}
			}
		}
	}
	tests := []struct {
		name string
		f    func(*Solution)
		want string
	}{
		{"conflicting package", func(s *Solution) { s.Packages = append(s.Packages, u.Candidate("dd")) }, "Conflicts: dd holds for dd_1_amd64"},
		{"second version", func(s *Solution) { s.Packages = append(s.Packages, u.Lookup("bb", "1", "amd64")) }, "are both in the set"},
		{"older version", swap("bb", u.Lookup("bb", "1", "amd64")), "bb=2 is demanded, the set has 1"},
		{"older version breaks", swap("bb", u.Lookup("bb", "1", "amd64")), "ff_1_amd64: Breaks: bb (<< 2) holds"},
		{"foreign", swap("ll", &foreign), "is for arm64"},
		{"not in the indexes", swap("ll", &foreign), "not a package of the indexes"},
		{"excluded", func(s *Solution) { s.Packages = append(s.Packages, u.Candidate("oo")) }, "although it is excluded (not wanted)"},
		{"omission not told", func(s *Solution) { s.Omitted = nil }, "Depends: debconf is not met"},
		{"omission without a reason", func(s *Solution) { s.Omitted[0].Reason = "" }, "without a reason"},
		{"omission with another reason", func(s *Solution) { s.Omitted[0].Reason = "because" }, "debconf is not met"},
		{"omission of what is not omitted", func(s *Solution) {
			s.Packages = slices.DeleteFunc(s.Packages, func(p *Package) bool { return p.Name == "cc" })
			s.Omitted = append(s.Omitted, Omission{"cc", "because", "aa"})
		}, "Depends: vv is not met"},
		{"omission nobody needs", func(s *Solution) { s.Omitted = append(s.Omitted, Omission{"dpkg", forInstalling, "aa"}) }, "aa does not need it"},
	}
	for _, tt := range tests {
		if err := change(tt.f); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	notAllowed := world(t, "mm 1; Depends: nn:any", "nn 1")
	if err := Check(notAllowed, &Solution{Packages: []*Package{notAllowed.Candidate("mm"), notAllowed.Candidate("nn")}}, Request{Packages: []string{"mm"}}); err == nil {
		t.Error(":any is met by a package that is not Multi-Arch: allowed")
	}
	if Check(u, nil, req) == nil {
		t.Error("no solution passes")
	}
}

func TestMaintenanceOnly(t *testing.T) {
	for _, n := range []string{"dpkg", "debconf", "debconf-2.0", "perl-base", "dash", "npm", "apt"} {
		if r, ok := MaintenanceOnly(n); !ok || r == "" {
			t.Errorf("%s: %q %t", n, r, ok)
		}
	}
	for _, n := range []string{"libc-bin", "tzdata", "python3-minimal", "media-types", "libpam0g", "ca-certificates", "perl", "nodejs", "libc6"} {
		if r, ok := MaintenanceOnly(n); ok {
			t.Errorf("%s is left out: %s", n, r)
		}
	}
}
