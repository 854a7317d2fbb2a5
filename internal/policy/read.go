package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// MaxFile is the largest policy file, in bytes.
const MaxFile = 1 << 20

// Read reads a policy.yaml:
//
//	version: 1
//	name: shop
//	coverage: 85                     # percent
//	vulnerabilities:
//	  refuse: high                   # and above: low, medium, high, critical
//	  unrated: refuse                # or note
//	  databaseAge: 72h
//	provenance:
//	  require: [dependencies-complete, hermetic, parameterless, reproduced]
//	  builders:
//	    - {id: https://ci.example/builder/v1, level: 3, by: [ci]} # identities of the trust policy
//	base:
//	  systemPackages: 40
//	  size: 300MiB
//	rules:
//	  - id: has-team
//	    title: Says which team it belongs to
//	    expression: '"org.example.team" in facts.config.labels'
//	    message: the label org.example.team is missing
//	    fix: set the label
//	waivers:
//	  - rule: source-map
//	    subject: /app/public/*.map
//	    reason: shown to customers
//	    owner: web@shop.example
//	    expires: 2027-03-01
//
// Unknown and repeated keys, rules that do not exist and expressions that do not
// have the right types are errors with their place. name is for messages. The
// error is project.Errors.
func Read(name string, data []byte) (*Policy, error) {
	if len(data) > MaxFile {
		return nil, project.Errors{{File: name, Message: fmt.Sprintf("a policy has at most %d bytes", MaxFile)}}
	}
	doc, err := project.ReadYAML(name, data)
	if err != nil {
		return nil, err
	}
	r := &reader{file: name}
	p := r.policy(doc)
	if len(r.errs) > 0 {
		slices.SortStableFunc(r.errs, func(a, b *project.Error) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
		return nil, r.errs
	}
	p.digest = digest.FromBytes(p.Encode())
	return &p, nil
}

// reader collects every mistake of a file.
type reader struct {
	file string
	errs project.Errors
}

func (r *reader) fail(at project.YAML, key, format string, a ...any) {
	message, hint, _ := strings.Cut(fmt.Sprintf(format, a...), "\nhint: ")
	r.errs = append(r.errs, &project.Error{File: r.file, Line: at.Line, Column: at.Column, Key: key, Message: message, Hint: hint})
}

func join(key, name string) string { return strings.TrimPrefix(key+"."+name, ".") }

// fields returns the entries of a mapping by key; unknown ones are mistakes.
func (r *reader) fields(v project.YAML, key string, known ...string) map[string]project.YAML {
	if v.Kind != project.YAMLMap {
		r.fail(v, key, "want a mapping, found %s", v.Describe())
		return nil
	}
	out := map[string]project.YAML{}
	for _, e := range v.Entries {
		at := project.YAML{Line: e.Line, Column: e.Column}
		switch near := project.Nearest(e.Key, known); {
		case slices.Contains(known, e.Key):
			out[e.Key] = e.Value
		case near != "":
			r.fail(at, join(key, e.Key), "unknown key: did you mean %q?", near)
		default:
			r.fail(at, join(key, e.Key), "unknown key: want %s", strings.Join(known, ", "))
		}
	}
	return out
}

func (r *reader) text(v project.YAML, key string) string {
	if v.Kind != project.YAMLText || strings.TrimSpace(v.Text) == "" {
		r.fail(v, key, "want text, found %s", v.Describe())
		return ""
	}
	return strings.TrimSpace(v.Text)
}

// oneOf reads one of several words.
func (r *reader) oneOf(v project.YAML, key string, words ...string) string {
	s := r.text(v, key)
	if s == "" || slices.Contains(words, s) {
		return s
	}
	if near := project.Nearest(s, words); near != "" {
		r.fail(v, key, "unknown %q: did you mean %q?", s, near)
	} else {
		r.fail(v, key, "unknown %q: want %s", s, strings.Join(words, ", "))
	}
	return ""
}

func (r *reader) number(v project.YAML, key string, least, most float64) float64 {
	n, err := strconv.ParseFloat(v.Text, 64)
	if v.Kind != project.YAMLNumber || err != nil || !(n >= least && n <= most) {
		r.fail(v, key, "want a number from %g to %g, found %s", least, most, v.Describe())
		return least
	}
	return n
}

func (r *reader) whole(v project.YAML, key string, least, most int) int {
	n := r.number(v, key, float64(least), float64(most))
	if n != float64(int(n)) {
		r.fail(v, key, "want a whole number, found %s", v.Describe())
	}
	return int(n)
}

func (r *reader) list(v project.YAML, key string) []project.YAML {
	if v.Kind != project.YAMLList {
		r.fail(v, key, "want a list, found %s", v.Describe())
		return nil
	}
	return v.List
}

func severities() []string {
	return []string{string(Low), string(Medium), string(High), string(Critical)}
}

func (r *reader) policy(doc project.YAML) Policy {
	p := defaults()
	top := r.fields(doc, "", "version", "name", "coverage", "vulnerabilities", "provenance", "base", "rules", "waivers")
	if top == nil {
		return p
	}
	if v, ok := top["version"]; !ok {
		r.fail(doc, "version", "is missing: want version: 1")
	} else if v.Kind != project.YAMLNumber || v.Text != "1" {
		r.fail(v, "version", "want version: 1, found %s", v.Describe())
	}
	p.Name = "policy"
	if v, ok := top["name"]; ok {
		p.Name = r.text(v, "name")
	}
	if v, ok := top["coverage"]; ok {
		p.Coverage = r.number(v, "coverage", 0, 100)
	}
	if v, ok := top["vulnerabilities"]; ok {
		r.vulnerabilities(v, &p.Vulnerabilities)
	}
	if v, ok := top["provenance"]; ok {
		r.provenance(v, &p.Provenance)
	}
	if v, ok := top["base"]; ok {
		r.base(v, &p.Base)
	}
	if v, ok := top["rules"]; ok {
		for i, v := range r.list(v, "rules") {
			r.custom(v, fmt.Sprintf("rules[%d]", i), &p)
		}
	}
	if v, ok := top["waivers"]; ok {
		for i, v := range r.list(v, "waivers") {
			r.waiver(v, fmt.Sprintf("waivers[%d]", i), &p)
		}
	}
	return p
}

func (r *reader) vulnerabilities(v project.YAML, out *Vulnerabilities) {
	const key = "vulnerabilities"
	f := r.fields(v, key, "refuse", "unrated", "databaseAge")
	if v, ok := f["refuse"]; ok {
		out.Refuse = Severity(r.oneOf(v, key+".refuse", severities()...))
	}
	if v, ok := f["unrated"]; ok {
		out.IgnoreUnrated = r.oneOf(v, key+".unrated", "refuse", "note") == "note"
	}
	if v, ok := f["databaseAge"]; ok {
		d, err := time.ParseDuration(v.Text)
		if v.Kind != project.YAMLText || err != nil || d <= 0 {
			r.fail(v, key+".databaseAge", "want a duration as 72h, found %s", v.Describe())
		}
		out.DatabaseAge = d
	}
}

func (r *reader) provenance(v project.YAML, out *Build) {
	const key = "provenance"
	f := r.fields(v, key, "require", "builders")
	if v, ok := f["require"]; ok {
		out.Require = nil
		for i, v := range r.list(v, key+".require") {
			if s := r.oneOf(v, fmt.Sprintf("%s.require[%d]", key, i), Hermetic, Parameterless, DependenciesComplete, Reproduced); s != "" && !slices.Contains(out.Require, s) {
				out.Require = append(out.Require, s)
			}
		}
	}
	if v, ok := f["builders"]; ok {
		list := r.list(v, key+".builders")
		if len(list) == 0 && v.Kind == project.YAMLList {
			r.fail(v, key+".builders", "names nobody: leave it out to accept any builder, at no level")
		}
		for i, v := range list {
			k := fmt.Sprintf("%s.builders[%d]", key, i)
			f := r.fields(v, k, "id", "level", "by")
			b := Builder{Level: 1}
			if id, ok := f["id"]; !ok {
				if f != nil {
					r.fail(v, k, "id is missing")
				}
			} else if b.ID = r.text(id, k+".id"); b.ID != "" && (strings.Trim(b.ID, "*/") == "" || strings.ContainsAny(b.ID, `[]?\`)) {
				r.fail(id, k+".id", "want a builder's id, with * for letters between slashes")
			}
			if l, ok := f["level"]; ok {
				b.Level = r.whole(l, k+".level", 0, 3)
			}
			if by, ok := f["by"]; ok {
				b.By = r.identities(by, k+".by")
			} else if f != nil {
				r.fail(v, k, "by is missing\nhint: provenance names its builder itself: say which identities of the trust policy may sign for this one")
			}
			out.Builders = append(out.Builders, b)
		}
	}
}

// identities reads names of the trust policy.
func (r *reader) identities(v project.YAML, key string) (names []string) {
	list := r.list(v, key)
	if len(list) == 0 && v.Kind == project.YAMLList {
		r.fail(v, key, "names nobody")
	}
	for i, v := range list {
		k := fmt.Sprintf("%s[%d]", key, i)
		switch name := r.text(v, k); {
		case name == "":
		case strings.Contains(name, "*"):
			r.fail(v, k, "%q: want the name of an identity, not a pattern", name)
		case slices.Contains(names, name):
			r.fail(v, k, "%q stands twice", name)
		default:
			names = append(names, name)
		}
	}
	return names
}

var sizeRE = regexp.MustCompile(`^([0-9]{1,9})(KiB|MiB|GiB)$`)

func (r *reader) base(v project.YAML, out *Base) {
	const key = "base"
	f := r.fields(v, key, "systemPackages", "size")
	if v, ok := f["systemPackages"]; ok {
		out.SystemPackages = r.whole(v, key+".systemPackages", 0, 100_000)
	}
	if v, ok := f["size"]; ok {
		m := sizeRE.FindStringSubmatch(v.Text)
		if m == nil || strings.Trim(m[1], "0") == "" {
			r.fail(v, key+".size", "want a size as 300MiB, found %s", v.Describe())
			return
		}
		n, _ := strconv.ParseInt(m[1], 10, 64) // nine digits
		out.Size = n << map[string]int{"KiB": 10, "MiB": 20, "GiB": 30}[m[2]]
	}
}

var idRE = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

func (r *reader) custom(v project.YAML, key string, p *Policy) {
	f := r.fields(v, key, "id", "title", "expression", "message", "why", "fix", "severity", "zones")
	if f == nil {
		return
	}
	c := Custom{Severity: High, Zones: []oci.Zone{oci.Production}}
	for _, x := range []struct {
		name string
		to   *string
		must bool
	}{{"id", &c.ID, true}, {"title", &c.Title, true}, {"expression", &c.Expression, true}, {"message", &c.Message, true}, {"fix", &c.Fix, true}, {"why", &c.Why, false}} {
		if w, ok := f[x.name]; ok {
			*x.to = r.text(w, key+"."+x.name)
		} else if x.must {
			r.fail(v, key, "%s is missing", x.name)
		}
	}
	_, taken := FindRule(c.ID)
	taken = taken || owned[c.ID] || slices.ContainsFunc(p.Rules, func(d Custom) bool { return d.ID == c.ID })
	switch {
	case c.ID == "":
	case !idRE.MatchString(c.ID):
		r.fail(f["id"], key+".id", "%q: want lower-case words joined by -", c.ID)
	case taken:
		r.fail(f["id"], key+".id", "a rule is called %q already", c.ID)
	}
	if w, ok := f["severity"]; ok {
		c.Severity = Severity(r.oneOf(w, key+".severity", severities()...))
	}
	if w, ok := f["zones"]; ok {
		c.Zones = nil
		list := r.list(w, key+".zones")
		if len(list) == 0 && w.Kind == project.YAMLList {
			r.fail(w, key+".zones", "a rule of no zone decides nothing")
		}
		for i, w := range list {
			if s := r.oneOf(w, fmt.Sprintf("%s.zones[%d]", key, i), string(oci.Development), string(oci.Production)); s != "" {
				c.Zones = append(c.Zones, oci.Zone(s))
			}
		}
	}
	if c.Expression != "" {
		if err := c.compile(); err != nil {
			r.fail(f["expression"], key+".expression", "%v", err)
		}
	}
	p.Rules = append(p.Rules, c)
}

func (r *reader) waiver(v project.YAML, key string, p *Policy) {
	f := r.fields(v, key, "rule", "subject", "reason", "owner", "expires")
	if f == nil {
		return
	}
	var w Waiver
	for _, x := range []struct {
		name string
		to   *string
	}{{"rule", &w.Rule}, {"subject", &w.Subject}, {"reason", &w.Reason}, {"owner", &w.Owner}} {
		if at, ok := f[x.name]; ok {
			*x.to = r.text(at, key+"."+x.name)
		} else {
			r.fail(v, key, "%s is missing: a waiver says what it excuses, why, who answers for it and until when", x.name)
		}
	}
	if at, ok := f["expires"]; !ok {
		r.fail(v, key, "expires is missing: a waiver says what it excuses, why, who answers for it and until when")
	} else if w.Expires = at.Text; at.Kind != project.YAMLText && at.Kind != project.YAMLNumber {
		r.fail(at, key+".expires", "want a date as 2027-01-31 or a time as 2027-01-31T12:00:00Z, found %s", at.Describe())
	} else if w.until, ok = parseTime(w.Expires); !ok {
		r.fail(at, key+".expires", "want a date as 2027-01-31 or a time as 2027-01-31T12:00:00Z, found %s", at.Describe())
	}
	if w.Rule != "" {
		rule, ok := FindRule(w.Rule)
		if !ok {
			for _, c := range p.Rules {
				if c.ID == w.Rule {
					rule, ok = c.rule(), true
				}
			}
		}
		switch {
		case !ok:
			var ids []string
			for _, q := range Rules() {
				ids = append(ids, q.ID)
			}
			if near := project.Nearest(w.Rule, ids); near != "" {
				r.fail(f["rule"], key+".rule", "no rule is called %q: did you mean %q?", w.Rule, near)
			} else {
				r.fail(f["rule"], key+".rule", "no rule is called %q\nhint: `twinhull rules` lists them", w.Rule)
			}
		case !rule.Waivable:
			r.fail(f["rule"], key+".rule", "the rule %s cannot be waived", w.Rule)
		case w.Subject != "":
			if why := w.wide(); why != "" {
				r.fail(f["subject"], key+".subject", "%q excuses whatever may still come: name what is excused\nhint: %s", w.Subject, why)
			}
		}
	}
	p.Waivers = append(p.Waivers, w)
}
