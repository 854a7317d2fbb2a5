package deb

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRelations(t *testing.T) {
	tests := []struct {
		in   string
		want []Group
	}{
		{"", nil},
		{"  \n ", nil},
		{"libc6", []Group{{{Name: "libc6"}}}},
		{"libc6 (>= 2.36)", []Group{{{Name: "libc6", Op: ">=", Version: "2.36"}}}},
		{"libc6(>=2.36)", []Group{{{Name: "libc6", Op: ">=", Version: "2.36"}}}},
		{"a1 (<< 1), b1 (= 1:2-3) | c1 , d1 (>> 0~),", []Group{
			{{Name: "a1", Op: "<<", Version: "1"}}, {{Name: "b1", Op: "=", Version: "1:2-3"}, {Name: "c1"}}, {{Name: "d1", Op: ">>", Version: "0~"}}}},
		{"python3:any (>= 3.5~)", []Group{{{Name: "python3", Arch: "any", Op: ">=", Version: "3.5~"}}}},
		{"gcc:native, foo:amd64", []Group{{{Name: "gcc", Arch: "native"}}, {{Name: "foo", Arch: "amd64"}}}},
		{"aa [amd64 arm64] | bb [!i386]", []Group{{{Name: "aa", Archs: []string{"amd64", "arm64"}}, {Name: "bb", Archs: []string{"!i386"}}}}},
		{"aa (< 1), bb (> 1)", []Group{{{Name: "aa", Op: "<=", Version: "1"}}, {{Name: "bb", Op: ">=", Version: "1"}}}},
		{" aa,\n bb |\n\tcc", []Group{{{Name: "aa"}}, {{Name: "bb"}, {Name: "cc"}}}},
	}
	for _, tt := range tests {
		got, err := ParseRelations(tt.in)
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q:\n%s", tt.in, diff)
		}
	}
	for _, in := range []string{",", "|", "aa |", "aa bb", "aa (", "aa ()", "aa (1)", "aa (>= )", "aa (>= 1", "aa (>= x)", "aa (== 1)", "aa:", "aa []", "aa [", "aa [!i386 amd64]",
		"aa <!nocheck>", "-aa", "aa,,bb", "é", "aa (>= 1) (<< 2)", "${misc:Depends}"} {
		if g, err := ParseRelations(in); err == nil {
			t.Errorf("%q is accepted as %v", in, g)
		}
	}
}

func TestAppliesTo(t *testing.T) {
	g, err := ParseRelations("aa [amd64] | bb [!amd64] | cc")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ amd64, arm64 bool }{{true, false}, {false, true}, {true, true}} {
		if got := g[0][i].AppliesTo("amd64"); got != want.amd64 {
			t.Errorf("%s applies to amd64: %t", g[0][i], got)
		}
		if got := g[0][i].AppliesTo("arm64"); got != want.arm64 {
			t.Errorf("%s applies to arm64: %t", g[0][i], got)
		}
	}
}

func FuzzRelation(f *testing.F) {
	for _, s := range []string{"", "libc6 (>= 2.36), a1 | b1:any [amd64 arm64]", "a1 (<< 1),", "aa [!i386]", "\n aa", "a(b)c", "aa (>= 1) | "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		groups, err := ParseRelations(s)
		if err != nil {
			return
		}
		var parts []string
		for _, g := range groups {
			if len(g) == 0 {
				t.Fatalf("%q has an empty group", s)
			}
			parts = append(parts, g.String())
		}
		again, err := ParseRelations(strings.Join(parts, ", "))
		if err != nil {
			t.Fatalf("%q: its canonical form is refused: %v", s, err)
		}
		if diff := cmp.Diff(groups, again); diff != "" {
			t.Fatalf("%q:\n%s", s, diff)
		}
	})
}
