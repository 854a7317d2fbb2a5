package policy

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

const whole = `version: 1
name: shop
coverage: 85.5
vulnerabilities:
  refuse: medium
  unrated: note
  databaseAge: 72h
provenance:
  require: [dependencies-complete, hermetic]
  builders:
    - {id: "https://build.example/*", level: 3, by: [release]}
base:
  systemPackages: 40
  size: 300MiB
rules:
  - id: has-team
    title: Says which team it belongs to
    expression: '"team" in facts.config.labels && facts.config.labels["team"] != ""'
    message: the label team is missing
    fix: set the label team
    severity: low
    zones: [production, development]
waivers:
  - rule: source-map
    subject: /app/public/*.map
    reason: shown to customers
    owner: web@shop.example
    expires: 2027-03-01
  - {rule: has-team, subject: has-team, reason: r, owner: o, expires: "2027-01-01T00:00:00Z"}
`

func mustRead(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Read("policy.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRead(t *testing.T) {
	p := mustRead(t, whole)
	if p.Name != "shop" || p.Coverage != 85.5 || p.Vulnerabilities != (Vulnerabilities{Medium, true, 72 * time.Hour}) || p.Base != (Base{40, 300 << 20}) ||
		len(p.Provenance.Require) != 2 || !reflect.DeepEqual(p.Provenance.Builders, []Builder{{"https://build.example/*", 3, []string{"release"}}}) || len(p.Rules) != 1 || len(p.Waivers) != 2 {
		t.Errorf("%+v", p)
	}
	if d := mustRead(t, "version: 1\nname: default\n"); d.Digest() != Default().Digest() {
		t.Error("a policy that changes nothing has another digest than the default one")
	}
	in := perfect(sample())
	in.Policy = p
	in.Evidence.Provenance[0].Builder = "https://build.example/v1"
	v := Evaluate(in)
	if !v.Allowed || v.Policy != p.Digest() || v.Levels[0] != "SLSA_BUILD_LEVEL_3" || len(v.Unused) != 2 {
		t.Errorf("refused: %q; %+v", refusing(v), v)
	}
	in.Evidence.Provenance[0].Builder = "https://build.example/v1/x"
	if r := result(t, Evaluate(in), RuleProvenance); r.Outcome != Fail || !strings.Contains(text(r), "not one that the policy names") {
		t.Error(text(r))
	}
}

// TestDigest: whatever decides is in the digest.
func TestDigest(t *testing.T) {
	seen := map[oci.Digest]string{Default().Digest(): "default"}
	for _, change := range []string{"", "coverage: 85.5|coverage: 85", "refuse: medium|refuse: high", "unrated: note|unrated: refuse", "72h|73h", ", hermetic|", "level: 3|level: 2", "by: [release]|by: [release, ci]", "systemPackages: 40|systemPackages: 41",
		"300MiB|301MiB", `!= ""|!= "x"`, "zones: [production, development]|zones: [production]", "/*.map|/*", "2027-03-01|2027-03-02", "shown to customers|else"} {
		old, new, _ := strings.Cut(change, "|")
		d := mustRead(t, strings.Replace(whole, old, new, 1)).Digest()
		if seen[d] != "" {
			t.Errorf("%q has the digest of %q", change, seen[d])
		}
		seen[d] = change + " "
	}
}

func TestReadErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "is empty"}, {"- a\n", "want a mapping"},
		{"version: 2\n", "policy.yaml:1:10: version: want version: 1"},
		{"name: x\n", "version: is missing"},
		{"version: 1\ncovrage: 80\n", `policy.yaml:2:1: covrage: unknown key: did you mean "coverage"?`},
		{"version: 1\ncoverage: 80\ncoverage: 0\n", "policy.yaml:3:1"},
		{"version: 1\ncoverage: 180\n", "from 0 to 100"},
		{"version: 1\ncoverage: .nan\n", "from 0 to 100"},
		{"version: 1\ncoverage: eighty\n", "policy.yaml:2:11"},
		{"version: 1\nvulnerabilities: {refuse: hihg}\n", `did you mean "high"?`},
		{"version: 1\nvulnerabilities: {databaseAge: -1h}\n", "duration"},
		{"version: 1\nvulnerabilities: {databaseAge: 5}\n", "duration"},
		{"version: 1\nprovenance: {require: [reproducible]}\n", "reproduc"},
		{"version: 1\nprovenance: {builders: []}\n", "names nobody"},
		{"version: 1\nprovenance: {builders: [{id: '*'}]}\n", "want a builder's id"},
		{"version: 1\nprovenance: {builders: [{id: 'a:b', level: 4}]}\n", "from 0 to 3"},
		{"version: 1\nprovenance: {builders: [{id: 'a:b', level: 3}]}\n", "policy.yaml:2:25: provenance.builders[0]: by is missing"},
		{"version: 1\nprovenance: {builders: [{id: 'a:b', by: ci}]}\n", "want a list"},
		{"version: 1\nprovenance: {builders: [{id: 'a:b', by: []}]}\n", "names nobody"},
		{"version: 1\nprovenance: {builders: [{id: 'a:b', by: ['*']}]}\n", "not a pattern"},
		{"version: 1\nprovenance: {builders: [{id: 'a:b', by: [ci, ci]}]}\n", "stands twice"},
		{"version: 1\nbase: {size: 300MB}\n", "300MiB"},
		{"version: 1\nbase: {size: 0MiB}\n", "300MiB"},
		{"version: 1\nrules: [{id: x, title: t, message: m, fix: f}]\n", "expression is missing"},
		{"version: 1\nrules: [{id: shell, title: t, message: m, fix: f, expression: 'true'}]\n", "called \"shell\" already"},
		{"version: 1\nrules: [{id: X y, title: t, message: m, fix: f, expression: 'true'}]\n", "lower-case"},
		{"version: 1\nrules:\n  - id: x\n    title: t\n    message: m\n    fix: f\n    expression: facts.config.usr == ''\n", "policy.yaml:7:17: rules[0].expression: line 1, column 13 of the expression: undefined field 'usr'"},
		{"version: 1\nrules: [{id: x, title: t, message: m, fix: f, expression: 'facts.size'}]\n", "gives int, want bool"},
		{"version: 1\nrules: [{id: x, title: t, message: m, fix: f, expression: 'facts.size > \"a\"'}]\n", "no matching overload"},
		{"version: 1\nrules: [{id: x, title: t, message: m, fix: f, expression: 'secrets.all'}]\n", "undeclared reference"},
		{"version: 1\nrules: [{id: x, title: t, message: m, fix: f, expression: 'true', zones: []}]\n", "no zone"},
		{"version: 1\nwaivers: [{rule: source-map, subject: x, owner: o, expires: 2027-01-01}]\n", "reason is missing"},
		{"version: 1\nwaivers: [{rule: source-map, subject: x, reason: r, expires: 2027-01-01}]\n", "owner is missing"},
		{"version: 1\nwaivers: [{rule: source-map, reason: r, owner: o, expires: 2027-01-01}]\n", "subject is missing"},
		{"version: 1\nwaivers: [{rule: source-map, subject: x, reason: r, owner: o}]\n", "expires is missing"},
		{"version: 1\nwaivers: [{rule: source-map, subject: x, reason: r, owner: o, expires: never}]\n", "want a date"},
		{"version: 1\nwaivers: [{rule: source-map, subject: x, reason: ' ', owner: o, expires: 2027-01-01}]\n", "want text"},
		{"version: 1\nwaivers: [{rule: sorce-map, subject: x, reason: r, owner: o, expires: 2027-01-01}]\n", `did you mean "source-map"?`},
		{"version: 1\nwaivers: [{rule: zone, subject: x, reason: r, owner: o, expires: 2027-01-01}]\n", "cannot be waived"},
		{"version: 1\nwaivers: [{rule: signature, subject: x, reason: r, owner: o, expires: 2027-01-01}]\n", "cannot be waived"},
		{"version: 1\nwaivers: [{rule: vulnerabilities, subject: '**', reason: r, owner: o, expires: 2027-01-01}]\n", "name what is excused"},
		{"version: 1\nwaivers: [{rule: secret, subject: '*', reason: r, owner: o, expires: 2027-01-01}]\n", "name what is excused"},
		{"a: &x 1\nb: *x\n", "policy.yaml"},
		{strings.Repeat("#", MaxFile+1), "bytes"},
	} {
		p, err := Read("policy.yaml", []byte(c.text))
		if p != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80q: %v, want %q", c.text, err, c.want)
		}
		if _, ok := errors.AsType[*project.Error](err); err != nil && !ok {
			t.Errorf("%.80q: the error has no place", c.text)
		}
	}
}

// TestEveryMistake tells all of them at once, in the order of the file.
func TestEveryMistake(t *testing.T) {
	_, err := Read("p", []byte("version: 1\nwaivers: [{rule: nope}]\ncoverage: 200\nrules: [{}]\n"))
	list, ok := errors.AsType[project.Errors](err)
	if !ok || len(list) < 8 {
		t.Fatalf("%v", err)
	}
	for i := 1; i < len(list); i++ {
		if list[i].Line < list[i-1].Line {
			t.Errorf("not in order: %v", err)
		}
	}
}

func TestWaivers(t *testing.T) {
	waive := func(rule, subject, expires string) *Policy {
		return mustRead(t, "version: 1\nwaivers: [{rule: "+rule+", subject: '"+subject+"', reason: shown to customers, owner: web@shop.example, expires: "+expires+"}]\n")
	}
	broken := func() Input {
		in := perfect(sample())
		in.Facts.Findings = []inspect.Finding{{Rule: inspect.RuleSourceMap, Subject: "source map", Path: "/app/public/a.js.map"}}
		return in
	}
	for _, c := range []struct {
		name, rule, subject, expires string
		outcome                      Outcome
		says                         string
	}{
		{"by path", "source-map", "/app/public/*.map", "2027-03-01", Waived, ""},
		{"by subject", "source-map", "source map", "2027-03-01", Waived, ""},
		{"of another path", "source-map", "/app/*.js", "2027-03-01", Fail, ""},
		{"of another rule", "shell", "*", "2027-03-01", Fail, ""},
		{"expired", "source-map", "*", "2026-11-22", Fail, "the waiver of web@shop.example expired on 2026-11-22"},
		{"expires in a moment", "source-map", "*", "2026-11-22T12:00:01Z", Waived, ""},
		{"expires too far ahead", "source-map", "*", "2030-01-01", Fail, "more than a year ahead"},
	} {
		in := broken()
		in.Policy = waive(c.rule, c.subject, c.expires)
		v := Evaluate(in)
		r := result(t, v, inspect.RuleSourceMap)
		if r.Outcome != c.outcome || v.Allowed != (c.outcome == Waived) || !strings.Contains(text(r), c.says) {
			t.Errorf("%s: %s", c.name, text(r))
		}
		if c.outcome == Waived {
			w := r.Reasons[0].Waiver
			if w == nil || w.Reason != "shown to customers" || w.Owner != "web@shop.example" || w.Expires != c.expires || len(v.Unused) != 0 {
				t.Errorf("%s: the waiver is not in the verdict: %+v", c.name, r)
			}
		}
		if (c.says == "" && c.outcome == Fail) != (len(v.Unused) == 1) {
			t.Errorf("%s: unused: %+v", c.name, v.Unused)
		}
	}

	// Of two waivers the valid one counts, and what the other lacks is not told.
	in := broken()
	in.Policy = mustRead(t, "version: 1\nwaivers:\n- {rule: source-map, subject: '*', reason: r, owner: a, expires: 2026-01-01}\n- {rule: source-map, subject: '*', reason: r, owner: b, expires: 2027-01-01}\n")
	if r := result(t, Evaluate(in), inspect.RuleSourceMap); r.Outcome != Waived || strings.Contains(text(r), "expired") || strings.Contains(text(r), "decide again") || r.Reasons[0].Waiver.Owner != "b" {
		t.Errorf("%s", text(r))
	}

	// A waiver excuses what it names and nothing else of the rule.
	in = broken()
	in.Facts.Findings = append(in.Facts.Findings, inspect.Finding{Rule: inspect.RuleSourceMap, Subject: "source map", Path: "/app/private.map"})
	in.Policy = waive("source-map", "/app/public/*", "2027-03-01")
	if v := Evaluate(in); v.Allowed || result(t, v, inspect.RuleSourceMap).Outcome != Fail {
		t.Error("one waiver excused two things")
	}

	// Vulnerabilities by name, and by name and package.
	for subject, want := range map[string]bool{"CVE-2026-1": true, "CVE-2026-1 pkg:npm/ms@*": true, "CVE-2026-1 pkg:npm/other@*": false, "CVE-2026-2": false, "CVE-2026-1 *": true, "pkg:npm/ms@*": true, "pkg:npm/other@*": false} {
		in := perfect(sample())
		in.Evidence.Scan.Found = []Vulnerability{{ID: "CVE-2026-1", Package: "pkg:npm/ms@2.1.3", Name: "ms", Version: "2.1.3", Severity: Critical}}
		in.Policy = waive("vulnerabilities", subject, "2026-12-01")
		if v := Evaluate(in); v.Allowed != want {
			t.Errorf("%s: allowed %v", subject, v.Allowed)
		}
	}

	// What nobody could look up is excused by no waiver, not even by one that
	// was made by hand.
	for name, broken := range map[string]func(*Evidence){
		"database": func(e *Evidence) { e.Scan = nil },
		"npm": func(e *Evidence) {
			for i := range e.Scan.Ecosystems {
				e.Scan.Ecosystems[i].Name, e.Scan.Ecosystems[i].Answered = "npm", false
			}
		},
	} {
		in := perfect(sample())
		broken(&in.Evidence)
		p := *Default()
		p.Waivers = []Waiver{{Rule: RuleVulnerabilities, Subject: name, Reason: "r", Owner: "o", Expires: "2027-01-01", until: now.Add(time.Hour)}}
		in.Policy = &p
		if v := Evaluate(in); v.Allowed || !strings.Contains(text(result(t, v, RuleVulnerabilities)), "nobody could look up cannot be waived") {
			t.Errorf("%s was waived: %s", name, text(result(t, v, RuleVulnerabilities)))
		}
	}

	// Rules that cannot be waived are not, even when a policy was made by hand.
	in = perfect(sample())
	in.Facts.Zone.Label = ""
	p := *Default()
	p.Waivers = []Waiver{{Rule: RuleZone, Subject: "*", Reason: "r", Owner: "o", Expires: "2027-01-01", until: now.Add(time.Hour)}}
	in.Policy = &p
	if v := Evaluate(in); v.Allowed || !strings.Contains(text(result(t, v, RuleZone)), "cannot be waived") {
		t.Error("the zone was waived")
	}
}

// TestWideWaivers: a wildcard comes behind enough to name one thing.
func TestWideWaivers(t *testing.T) {
	for _, c := range []struct {
		rule, subject string
		good          bool
	}{
		{"vulnerabilities", "CVE-2026-1", true},
		{"vulnerabilities", "CVE-2026-1 *", true},
		{"vulnerabilities", "CVE-2026-1 pkg:npm/*", true},
		{"vulnerabilities", "RHSA-2026:12 pkg:rpm/*", true},
		{"vulnerabilities", "pkg:npm/ms@2.1.3", true},
		{"vulnerabilities", "pkg:npm/ms@*", true},
		{"vulnerabilities", "pkg:npm/@angular/core@*", true},
		{"vulnerabilities", "pkg:npm/%40angular/core@1*", true},
		{"vulnerabilities", "pkg:golang/github.com/a/b@*", true},
		{"vulnerabilities", "pkg:deb/debian/libc6@*", true},
		{"vulnerabilities", "CVE-*", false},
		{"vulnerabilities", "CVE-2026-*", false},
		{"vulnerabilities", "C*", false},
		{"vulnerabilities", "* *", false},
		{"vulnerabilities", "*pkg:npm/ms@2.1.3", false},
		{"vulnerabilities", "* pkg:npm/ms@*", false},
		{"vulnerabilities", "pkg:*", false},
		{"vulnerabilities", "pkg:npm/*", false},
		{"vulnerabilities", "pkg:npm/@*", false},
		{"vulnerabilities", "pkg:npm/m*", false},
		{"vulnerabilities", "pkg:deb/debian/*", false},
		{"vulnerabilities", "pkg:golang/github.com/*@*", false},
		{"vulnerabilities", "/app/*", false},
		{"vulnerabilities", "/app/node_modules/ms/*", false},
		{"vulnerabilities", "/ *", false},
		{"vulnerabilities", "database", false},
		{"vulnerabilities", "npm", false},
		{"vulnerabilities", "Debian:13", false},
		{"secret", "/app/testdata/*", true},
		{"secret", "/app/testdata/k.pem", true},
		{"secret", "/app/k*.pem", true},
		{"secret", "private-key /app/testdata/*", true},
		{"secret", "label variable", true},
		{"secret", "/*", false},
		{"secret", "/a*", false},
		{"secret", "/app/*", false},
		{"secret", "//*", false},
		{"secret", "private*", false},
		{"secret", "private-key *", false},
		{"secret", "private-key /app/*", false},
		{"secret", "*.pem", false},
		{"source-map", "*", true},
	} {
		p, err := Read("policy.yaml", []byte("version: 1\nwaivers: [{rule: "+c.rule+", subject: '"+c.subject+"', reason: r, owner: o, expires: 2027-01-01}]\n"))
		if (err == nil) != c.good {
			t.Errorf("%s %s: %v, %v", c.rule, c.subject, p, err)
		} else if err != nil && !strings.Contains(err.Error(), "excuses whatever may still come") {
			t.Errorf("%s %s: %v", c.rule, c.subject, err)
		}
	}
	// Nor does one that was made by hand.
	in := perfect(sample())
	in.Evidence.Scan.Found = []Vulnerability{{ID: "CVE-2026-1", Package: "pkg:npm/ms@2.1.3", Name: "ms", Version: "2.1.3", Severity: Critical}}
	p := *Default()
	p.Waivers = []Waiver{{Rule: RuleVulnerabilities, Subject: "CVE-*", Reason: "r", Owner: "o", Expires: "2027-01-01", until: now.Add(time.Hour)}}
	in.Policy = &p
	if v := Evaluate(in); v.Allowed {
		t.Error("CVE-* waived a vulnerability")
	}
}

// TestBuilders: who may sign provenance may not name any builder.
func TestBuilders(t *testing.T) {
	const builders = "version: 1\nprovenance:\n  builders:\n" +
		"    - {id: 'https://ci.example/hardened', level: 3, by: [ci]}\n" +
		"    - {id: 'https://ci.example/*', level: 2, by: [release, ci]}\n"
	for _, c := range []struct {
		name, policy, by, builder string
		outcome                   Outcome
		says, level               string
	}{
		{"bound", builders, "ci", "https://ci.example/hardened", Pass, "", "SLSA_BUILD_LEVEL_3"},
		{"bound by a later entry", builders, "release", "https://ci.example/hardened", Pass, "", "SLSA_BUILD_LEVEL_2"},
		{"another identity", builders, "laptop", "https://ci.example/hardened", Fail, "laptop signed it, and may not speak for the builder", ""},
		{"nobody", builders, "", "https://ci.example/hardened", Fail, "may not speak", ""},
		{"another builder", builders, "ci", "https://ci.example.evil/hardened", Fail, "not one that the policy names", ""},
		{"without a list", "version: 1\n", "laptop", "https://ci.example/hardened", Pass, "", "SLSA_BUILD_LEVEL_0"},
	} {
		in := perfect(sample())
		in.Policy = mustRead(t, c.policy)
		p := &in.Evidence.Provenance[0]
		p.By, p.Builder, p.Reproduced = c.by, c.builder, true
		v := Evaluate(in)
		if r := result(t, v, RuleProvenance); r.Outcome != c.outcome || !strings.Contains(text(r), c.says) {
			t.Errorf("%s: %s", c.name, text(r))
		}
		level := ""
		for _, l := range v.Levels {
			if strings.HasPrefix(l, "SLSA_BUILD_LEVEL_") {
				level += l
			}
		}
		// That somebody else built the same is worth what the builder's name is.
		if level != c.level || slices.Contains(v.Levels, "SLSA_BUILD_REPRODUCED") != (level > "SLSA_BUILD_LEVEL_0") {
			t.Errorf("%s: levels %q, want %q", c.name, v.Levels, c.level)
		}
	}
	// Of two provenances only the one that is bound gives a level.
	in := perfect(sample())
	in.Policy = mustRead(t, builders)
	in.Evidence.Provenance[0].By, in.Evidence.Provenance[0].Builder = "release", "https://ci.example/plain"
	stranger := in.Evidence.Provenance[0]
	stranger.By, stranger.Builder = "laptop", "https://ci.example/hardened"
	in.Evidence.Provenance = append(in.Evidence.Provenance, stranger)
	if v := Evaluate(in); !v.Allowed || !slices.Contains(v.Levels, "SLSA_BUILD_LEVEL_2") {
		t.Errorf("levels %q", v.Levels)
	}
	// A builder of a policy that was made by hand, for which nobody may speak.
	p := *Default()
	p.Provenance.Builders = []Builder{{ID: "https://build.example/v1", Level: 3}}
	in = perfect(sample())
	in.Policy = &p
	if Evaluate(in).Allowed {
		t.Error("somebody spoke for a builder of nobody")
	}
}

func TestCustomRules(t *testing.T) {
	rule := func(expression string) *Policy {
		return mustRead(t, "version: 1\nrules:\n  - id: own\n    title: Own\n    message: it is not so\n    fix: make it so\n    expression: >-\n      "+strings.ReplaceAll(expression, "\n", "\n      ")+"\n")
	}
	for expression, want := range map[string]Outcome{
		`true`:                           Pass,
		`false`:                          Fail,
		`facts.config.uid > 1000`:        Pass,
		`facts.digest.startsWith("sha")`: Pass,
		`facts.packages.all(p, p.type != "npm" || p.version != "2.1.3")`:                   Fail,
		`facts.packages.exists(p, p.name == "libc6")`:                                      Pass,
		`facts.findings.size() == 0 && facts.zone.label == zone`:                           Pass,
		`repository.startsWith("registry.example/")`:                                       Pass,
		`claims.signatures.exists(s, s.by == "release")`:                                   Pass,
		`claims.provenance.all(p, p.hermetic && p.builder.startsWith("https://build."))`:   Pass,
		`claims.tests.all(t, t.coverage >= 95.0)`:                                          Fail,
		`claims.vulnerabilities.size() == 0 && claims.vex == 0 && claims.sboms.size() > 0`: Pass,
		`now < timestamp("2027-01-01T00:00:00Z")`:                                          Pass,
		`facts.config.labels["team"] == "shop"`:                                            Pass,
		// What fails while it runs refuses.
		`facts.config.labels["none"] == "x"`: CannotTell,
		`facts.layers[7].size == 0`:          CannotTell,
		`1 / (facts.files - 2) == 0`:         CannotTell,
		// And so does what would take too long.
		`[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, a+b+c+d+e+f > 0))))))`: CannotTell,
	} {
		in := perfect(sample())
		in.Policy = rule(expression)
		begin := time.Now()
		v := Evaluate(in)
		if r := result(t, v, "own"); r.Outcome != want || v.Allowed == want.Refuses() {
			t.Errorf("%s: %s", expression, text(r))
		} else if want.Refuses() && r.Remedy != "make it so" {
			t.Errorf("%s: remedy %q", expression, r.Remedy)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("%s took %s", expression, d)
		}
	}
	// Rules of production say nothing about development.
	in := perfect(sample())
	in.Policy, in.Zone = rule("false"), oci.Development
	for _, r := range Evaluate(in).Rules {
		if r.Rule == "own" {
			t.Error("a rule of production was applied to development")
		}
	}
	// Of an image that was not read whole an expression proves nothing.
	in = perfect(sample())
	in.Policy, in.Facts.Complete = rule("facts.findings.size() == 0"), false
	if r := result(t, Evaluate(in), "own"); r.Outcome != CannotTell {
		t.Error(text(r))
	}
	// One that was never compiled refuses.
	p := *Default()
	p.Rules = []Custom{{ID: "own", Zones: []oci.Zone{oci.Production}}}
	in = perfect(sample())
	in.Policy = &p
	if Evaluate(in).Allowed {
		t.Error("an empty expression allows")
	}
	if all := mustRead(t, whole).Table(); all[len(all)-1].ID != "has-team" || all[len(all)-1].Development != Refuses {
		t.Errorf("%+v", all[len(all)-1])
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("version: 1\nrules: [{id: x, title: t, message: m, fix: f, expression: 'facts.size > 1'}]\n"))
	f.Add([]byte("version: 1\nwaivers: [{rule: zone}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Read("p", data)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v, %v", p, err)
		}
		if p == nil {
			return
		}
		in := perfect(sample())
		in.Policy = p
		Evaluate(in)
		if p.Digest().Validate() != nil {
			t.Errorf("digest %q", p.Digest())
		}
	})
}
