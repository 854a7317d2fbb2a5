package catalog

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestOf(t *testing.T) {
	for name, want := range map[string]struct {
		class      Class
		production string
	}{
		"shop/app":               {Production, "shop/app"},
		"shop/app/dev":           {Development, "shop/app"},
		"shop/app/dev/cache":     {Development, "shop/app"},
		"shop/app/dev/candidate": {Development, "shop/app"},
		"shop/app/candidate":     {Candidate, "shop/app"},
		"shop/app/candidate/x":   {Production, "shop/app/candidate/x"},
		"app/dev":                {Development, "app"},
		"dev":                    {Production, "dev"},
		"dev/app":                {Production, "dev/app"},
		"dev/dev":                {Development, "dev"},
		"dev/x/dev":              {Development, "dev/x"},
		"candidate":              {Production, "candidate"},
		"shop/development":       {Production, "shop/development"},
		"shop/app-dev":           {Production, "shop/app-dev"},
		"":                       {Production, ""},
	} {
		if class, production := Of(name); class != want.class || production != want.production {
			t.Errorf("%q: %s of %q, want %s of %q", name, class, production, want.class, want.production)
		}
	}
	if (Class(0)) != Production {
		t.Error("the zero class must be the strictest")
	}
}

func TestKindOf(t *testing.T) {
	for tag, want := range map[string]TagKind{
		"1.4.2": VersionTag, "0.0.0": VersionTag, "2.0.0-rc.1": VersionTag, "10.20.30": VersionTag,
		"latest": ConvenienceTag, "1": ConvenienceTag, "1.4": ConvenienceTag, "0": ConvenienceTag, "20261122": ConvenienceTag,
		"v1.4.2": OtherTag, "1.4.2.1": OtherTag, "01.2.3": OtherTag, "1.02": OtherTag, "main": OtherTag, "Latest": OtherTag, "1.4.": OtherTag, "1.4.2+build": OtherTag, "": OtherTag,
	} {
		if got := KindOf(tag); got != want {
			t.Errorf("%q is %d, want %d", tag, got, want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for _, bad := range []string{"", "1", "1.2", "v1.2.3", " 1.2.3", "1.2.3 ", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.-3", "99999999999999999999.0.0", "1.2.3+x", "1.2.3-" + strings.Repeat("a", 200)} {
		if v, err := ParseVersion(bad); err == nil {
			t.Errorf("%q was read as %s", bad, v)
		}
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "a/b": true, "a-b_c.d/e__f/g--h": true, "0/1": true,
		"": false, "A": false, "a/": false, "/a": false, "a//b": false, "a..b": false, "a_": false, "-a": false, "a/../b": false, "a b": false, "a___b": false, "ä": false, "a\x00b": false,
		strings.Repeat("a", 255): true, strings.Repeat("a", 256): false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// TestMovesNeverGoBackwards: whatever is released in whatever order, a convenience
// tag points to the highest version that competes for it.
func TestMovesNeverGoBackwards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var released []Version
		at := map[string]Version{}
		for range rapid.IntRange(1, 25).Draw(t, "releases") {
			text := rapid.StringMatching(`[0-2]\.[0-2]\.[0-3](-rc\.[0-2])?`).Draw(t, "version")
			v, err := ParseVersion(text)
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(released, func(w Version) bool { return w.String() == text }) {
				continue
			}
			for _, tag := range Moves(v, released, at) {
				if have, ok := at[tag]; ok && v.Compare(have) <= 0 {
					t.Fatalf("%s went from %s to %s", tag, have, v)
				}
				if v.Prerelease() {
					t.Fatalf("the pre-release %s moved %s", v, tag)
				}
				at[tag] = v
			}
			released = append(released, v)
			want := Highest(released)
			if len(want) != len(at) {
				t.Fatalf("%d tags, want %d", len(at), len(want))
			}
			for tag, v := range want {
				if at[tag].String() != v.String() {
					t.Fatalf("%s is %s, want %s", tag, at[tag], v)
				}
			}
		}
	})
}

// TestMovesAfterRollBack: an older line's patch does not undo a roll-back.
func TestMovesAfterRollBack(t *testing.T) {
	parse := func(s string) Version {
		v, err := ParseVersion(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	released := []Version{parse("1.4.2"), parse("1.5.0")}
	at := map[string]Version{"1.4": parse("1.4.2"), "1.5": parse("1.5.0"), "1": parse("1.4.2"), "latest": parse("1.4.2")} // rolled back
	for version, want := range map[string]string{"1.4.3": "1.4", "1.5.1": "1.5 1 latest", "1.4.1": "", "0.1.0": "0.1 0"} {
		if got := strings.Join(Moves(parse(version), released, at), " "); got != want {
			t.Errorf("%s moves %q, want %q", version, got, want)
		}
	}
}
