package access

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/registry"
)

func scope(t testing.TB, all ...string) (out []Scope) {
	t.Helper()
	for _, s := range all {
		one, err := ParseScope(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, one)
	}
	return out
}

func compile(t testing.TB, all ...Grant) Grants {
	t.Helper()
	g, err := Compile(all)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func user(name string) Identity {
	return Identity{Actor: audit.Actor{Name: name, Method: "password"}, subjects: []string{"user:" + name}}
}

func TestJudge(t *testing.T) {
	g := compile(t,
		Grant{To: []string{Anybody}, May: scope(t, "pull:production"), Repositories: []string{"**"}},
		Grant{To: []string{Authenticated}, May: scope(t, "pull"), Repositories: []string{"shop/*"}},
		Grant{To: []string{"user:dev"}, May: scope(t, "push:development", "delete:development"), Repositories: []string{"shop/**"}},
		Grant{To: []string{"user:ci"}, May: scope(t, "push:candidate"), Repositories: []string{"shop/api", "shop/web-*"}},
		Grant{To: []string{"user:boss"}, May: scope(t, "release", "revoke", "roll-back"), Repositories: []string{"shop/api"}},
		Grant{To: []string{"user:op"}, May: scope(t, "audit", "operate", "pin"), Repositories: []string{"**"}},
		Grant{To: []string{"user:halfop"}, May: scope(t, "audit", "operate"), Repositories: []string{"shop/**"}},
	)
	const yes, sign, no = "", registry.Unauthorized, registry.Denied
	for _, c := range []struct {
		who        string
		verb       Verb
		repository string
		want       registry.Code
	}{
		{"", Pull, "shop/api", yes},
		{"", Pull, "shop/api/dev", sign},
		{"", Pull, "shop/api/candidate", sign},
		{"", Push, "shop/api/dev", sign},
		{"", Push, "shop/api", sign},
		{"", Delete, "shop/api", sign},
		{"", Audit, "", sign},
		{"", Release, "shop/api", sign},

		{"any", Pull, "shop/api/dev", yes},
		{"any", Pull, "shop/api/candidate", yes},
		{"any", Pull, "shop/api/deeper/dev", no}, // * is one part
		{"any", Pull, "other/api/dev", no},
		{"any", Push, "shop/api/dev", no},
		{"any", Push, "shop/api", no},
		{"any", Delete, "shop/api", no},
		{"any", Pin, "shop/api/dev", no},

		{"dev", Push, "shop/api/dev", yes},
		{"dev", Push, "shop/api/dev/feature", yes},
		{"dev", Push, "shop/a/b/dev", yes},
		{"dev", Pull, "shop/a/b/dev", yes}, // who may push may pull
		{"dev", Pull, "shop/a/b/candidate", no},
		{"dev", Delete, "shop/api/dev", yes},
		{"dev", Push, "shop/api/candidate", no},
		{"dev", Delete, "shop/api/candidate", no},
		{"dev", Push, "other/dev", no},
		{"dev", Release, "shop/api", no},
		{"dev", Push, "shop/api", yes}, // to the rule that refuses everybody
		{"dev", Delete, "shop/api", yes},
		{"dev", Push, "other/api", no},

		{"ci", Push, "shop/api/candidate", yes},
		{"ci", Push, "shop/web-1/candidate", yes},
		{"ci", Push, "shop/web/candidate", no},
		{"ci", Push, "shop/api/dev", no},
		{"ci", Release, "shop/api", no},
		{"ci", Revoke, "shop/api", no},

		{"boss", Release, "shop/api", yes},
		{"boss", Revoke, "shop/api", yes},
		{"boss", RollBack, "shop/api", yes},
		{"boss", Erase, "shop/api", no},
		{"boss", Release, "shop/web-1", no},
		{"boss", Push, "shop/api/candidate", no},
		{"boss", Push, "shop/api", yes}, // as above
		{"boss", Operate, "", no},

		{"op", Audit, "", yes},
		{"op", Operate, "", yes},
		{"op", Pin, "shop/api/dev", yes},
		{"op", Push, "shop/api/dev", no},
		{"op", Delete, "shop/api", no}, // changes nothing of the project
		{"op", Audit, "shop/api", no},  // is of the whole server
		{"halfop", Audit, "", no},      // for all repositories or not at all
		{"op", Pull, "", no},
		{"dev", Push, "shop/../api/dev", no},
		{"dev", Push, "Shop/api/dev", no},
		{"dev", "", "shop/api/dev", no},
	} {
		var id Identity
		if c.who != "" {
			id = user(c.who)
		}
		err := g.Judge(id, c.verb, c.repository)
		var e *registry.Error
		if errors.As(err, &e); (err == nil) != (c.want == yes) || e != nil && e.Code != c.want {
			t.Errorf("%s, %s %q: %v, want %q", id, c.verb, c.repository, err, c.want)
		}
	}
}

func TestZeroGrantsAllowNothing(t *testing.T) {
	for _, v := range []Verb{Pull, Push, Delete, Pin, Release, Revoke, RollBack, Erase, Audit, Operate} {
		for _, repository := range []string{"", "a", "a/dev", "a/candidate"} {
			for _, id := range []Identity{{}, user("a")} {
				if err := (Grants{}).Judge(id, v, repository); err == nil {
					t.Errorf("%s may %s %q", id, v, repository)
				}
			}
		}
	}
}

// TestNothingWritableWithoutGrant draws grants and asks: whatever is granted to
// others, or to read, or elsewhere, gives nobody a right to change anything.
func TestNothingWritableWithoutGrant(t *testing.T) {
	words := []string{"a", "b", "ab", "dev", "candidate"}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 1, 4).Draw(t, "parts"), "/")
		})
		patterns := rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*", "a*", "**"}), 1, 3).Draw(t, "pattern"), "/")
		})
		subjects := rapid.SampledFrom([]string{Anybody, Authenticated, "user:a", "user:b", "token:a", "oidc:a/a"})
		var all []Grant
		for range rapid.IntRange(0, 4).Draw(t, "grants") {
			var may []Scope
			for _, s := range rapid.SliceOfN(rapid.SampledFrom(Scopes()), 1, 3).Draw(t, "may") {
				one, _ := ParseScope(s)
				may = append(may, one)
			}
			all = append(all, Grant{To: []string{subjects.Draw(t, "to")}, May: may, Repositories: []string{patterns.Draw(t, "where")}})
		}
		g, err := Compile(all)
		if err != nil {
			t.Fatal(err)
		}
		id := user(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "who"))
		if rapid.Bool().Draw(t, "anonymous") {
			id = Identity{}
		}
		repository := name.Draw(t, "repository")
		for _, v := range []Verb{Push, Delete, Pin, Release, Revoke, RollBack, Erase} {
			if g.Judge(id, v, repository) != nil {
				continue
			}
			// There is a grant to it that names something which changes.
			found := false
			for _, one := range all {
				for _, s := range one.May {
					found = found || id.isAmong(one.To) && s.Verb != Pull && s.Verb != Audit && s.Verb != Operate
				}
			}
			if !found {
				t.Fatalf("%s may %s in %s by %+v", id, v, repository, all)
			}
		}
		// And what is not granted at all is allowed to nobody: the verb itself must
		// be there, but for the two that production's own rule refuses.
		for _, v := range []Verb{Pin, Release, Revoke, RollBack, Erase, Audit, Operate} {
			granted := false
			for _, one := range all {
				for _, s := range one.May {
					granted = granted || s.Verb == v
				}
			}
			if !granted && (g.Judge(id, v, repository) == nil || g.Judge(id, v, "") == nil) {
				t.Fatalf("%s without a grant for it", v)
			}
		}
	})
}

func TestReads(t *testing.T) {
	g := compile(t,
		Grant{To: []string{"user:dev"}, May: scope(t, "push:development"), Repositories: []string{"a"}},
		Grant{To: []string{"user:reader"}, May: scope(t, "pull:production"), Repositories: []string{"a"}},
		Grant{To: []string{"user:op"}, May: scope(t, "operate", "audit", "release"), Repositories: []string{"**"}},
	)
	for name, want := range map[string]bool{"dev": true, "reader": true, "op": false, "other": false} {
		if g.Reads(user(name)) != want {
			t.Errorf("%s reads something: %v", name, !want)
		}
	}
	if g.Reads(Identity{}) {
		t.Error("strangers read something")
	}
}

func TestParseScope(t *testing.T) {
	for _, s := range Scopes() {
		if got, err := ParseScope(s); err != nil || got.String() != s {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{
		"push":              "say where",
		"delete":            "say where",
		"push:production":   "by a release only",
		"delete:production": "nothing is deleted",
		"relase":            `did you mean "release"?`,
		"push:":             "say where",
		"pull:":             "unknown scope",
		"pull:dev":          "unknown scope",
		"":                  "unknown scope",
		"release:candidate": "unknown scope",
	} {
		if _, err := ParseScope(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	pull := []Scope{{Pull, ""}}
	for want, g := range map[string]Grant{
		"lacks whom":       {May: pull, Repositories: []string{"**"}},
		"lacks whom, what": {To: []string{Anybody}, Repositories: []string{"**"}},
		"what or where":    {To: []string{Anybody}, May: pull},
		"is nobody":        {To: []string{"alice"}, May: pull, Repositories: []string{"**"}},
		`"user:"`:          {To: []string{"user:"}, May: pull, Repositories: []string{"**"}},
		`"oidc:a"`:         {To: []string{"oidc:a"}, May: pull, Repositories: []string{"**"}},
		"cannot be granted": {To: []string{Anybody}, May: []Scope{{Push, "production"}},
			Repositories: []string{"**"}},
		`want the production repository, "shop/*"`: {To: []string{Anybody}, May: pull, Repositories: []string{"shop/*/dev"}},
		`repository pattern "host:5000/a"`:         {To: []string{Anybody}, May: pull, Repositories: []string{"host:5000/a"}},
		`repository pattern "a//b"`:                {To: []string{Anybody}, May: pull, Repositories: []string{"a//b"}},
		`repository pattern "a**/b"`:               {To: []string{Anybody}, May: pull, Repositories: []string{"a**/b"}},
		`repository pattern "A"`:                   {To: []string{Anybody}, May: pull, Repositories: []string{"A"}},
	} {
		if _, err := Compile([]Grant{g}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a/b", false},
		{"*", "a", true}, {"*", "a/b", false},
		{"**", "a", true}, {"**", "a/b/c", true},
		{"a/**", "a", true}, {"a/**", "a/b/c", true}, {"a/**", "ab", false},
		{"a/**/c", "a/c", true}, {"a/**/c", "a/b/b/c", true}, {"a/**/c", "a/b", false},
		{"web-*", "web-1", true}, {"web-*", "web", false}, {"web-*", "web-/x", false},
	} {
		p, err := parsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.matches(c.name); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.name, got)
		}
	}
}

func ExampleGrants_Judge() {
	g, _ := Compile([]Grant{{To: []string{"user:ci"}, May: []Scope{{Push, "candidate"}}, Repositories: []string{"shop/**"}}})
	ci := Identity{Actor: audit.Actor{Name: "ci", Method: "password"}, subjects: []string{"user:ci"}}
	fmt.Println(g.Judge(ci, Push, "shop/api/candidate"))
	fmt.Println(g.Judge(ci, Release, "shop/api"))
	fmt.Println(g.Judge(Identity{}, Push, "shop/api/candidate"))
	// Output:
	// <nil>
	// user:ci may not release in shop/api
	// sign in to push to shop/api/candidate
}
