package inspect

import (
	"fmt"
	"math/rand/v2"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"

	"github.com/zricethezav/gitleaks/v8/config"
)

func rules(t testing.TB) *secretRules {
	t.Helper()
	s, err := loadSecretRules()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// naive is what gitleaks does with a file: every rule whose keyword occurs, over
// the whole text (detect.Detector.detectRule). It returns "rule fingerprint".
func naive(s *secretRules, path, text string) []string {
	lower := strings.ToLower(text)
	var out []string
	t := newTextScan(s)
	t.reset(path, false)
	for _, r := range s.rules {
		if r.shape == pem || r.app || r.path != nil && !r.path.MatchString(path) {
			continue
		}
		if !slices.ContainsFunc(r.keywords, func(k string) bool { return strings.Contains(lower, k) }) {
			continue
		}
		c := r.once()
		for _, loc := range c.regex.FindAllStringIndex(text, -1) {
			match := strings.Trim(text[loc[0]:loc[1]], "\n")
			value := match
			groups := c.regex.FindStringSubmatch(match)
			if len(groups) >= 2 {
				if r.group > 0 {
					value = groups[r.group]
				} else {
					for _, g := range groups[1:] {
						if g != "" {
							value = g
							break
						}
					}
				}
			}
			if r.entropy != 0 && entropy(value) <= r.entropy || t.allowed(c, r, match, value, []byte(text), loc[0]) {
				continue
			}
			out = append(out, r.id+" "+fingerprint(r.id, value))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// example makes a text that an expression matches.
func example(r *rand.Rand, re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		s := string(re.Rune)
		if re.Flags&syntax.FoldCase != 0 && r.IntN(4) == 0 {
			return strings.ToUpper(s)
		}
		return s
	case syntax.OpCharClass:
		for range 50 { // prefer what people type
			i := 2 * r.IntN(len(re.Rune)/2)
			lo, hi := re.Rune[i], min(re.Rune[i+1], 0x7e)
			if hi >= lo && lo >= 0x20 {
				return string(lo + rune(r.IntN(int(hi-lo)+1)))
			}
		}
		return string(re.Rune[0])
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return string(rune('a' + r.IntN(26)))
	case syntax.OpCapture:
		return example(r, re.Sub[0])
	case syntax.OpConcat:
		var b strings.Builder
		for _, sub := range re.Sub {
			b.WriteString(example(r, sub))
		}
		return b.String()
	case syntax.OpAlternate:
		return example(r, re.Sub[r.IntN(len(re.Sub))])
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		lo, hi := 0, 5
		switch re.Op {
		case syntax.OpPlus:
			lo = 1
		case syntax.OpQuest:
			hi = 1
		case syntax.OpRepeat:
			lo, hi = re.Min, re.Max
			if hi < 0 || hi > lo+10 {
				hi = lo + 10
			}
		}
		var b strings.Builder
		for range lo + r.IntN(hi-lo+1) {
			b.WriteString(example(r, re.Sub[0]))
		}
		return b.String()
	case syntax.OpEndText, syntax.OpEndLine:
		return "\n"
	}
	return ""
}

// TestAgreesWithGitleaks makes up texts that each rule's expression matches and
// wants what gitleaks' own way of looking gives.
func TestAgreesWithGitleaks(t *testing.T) {
	s := rules(t)
	r := rand.New(rand.NewPCG(3, 1))
	tried, found := 0, map[string]bool{}
	for _, rule := range s.rules {
		if rule.shape == pem || rule.app {
			continue
		}
		re, err := syntax.Parse(rule.source, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		path := "app/config.txt"
		switch {
		case rule.path == nil:
		case strings.Contains(rule.path.String(), "ya?ml"):
			path = "app/x.yaml"
		case strings.Contains(rule.path.String(), "php"):
			path = "app/x.php"
		case strings.Contains(rule.path.String(), "nuget"):
			path = "app/nuget.config"
		}
		for range 15 {
			secret := example(r, re)
			if !slices.ContainsFunc(rule.keywords, func(k string) bool { return strings.Contains(strings.ToLower(secret), k) }) && rule.shape != region {
				continue // an expression's dot that is meant as a dot
			}
			text := "first line\nsetting = " + secret + "\nlast " + rule.keywords[0] + " line\n"
			want := naive(s, path, text)
			var got []string
			scan := newTextScan(s)
			scan.reset(path, false)
			scan.feed([]byte(text), 0, 0, true)
			for _, x := range scan.found {
				got = append(got, x.rule+" "+x.fingerprint)
			}
			slices.Sort(got)
			for _, w := range want {
				id, _, _ := strings.Cut(w, " ")
				// Another rule may have the same fingerprint's value in a larger
				// window only; ours must find the rule under test.
				if id == rule.id && !strings.Contains(strings.ToLower(secret), "new-york-times,") { // a comma of a list inside an alternation
					tried++
					found[id] = true
					if !slices.Contains(got, w) {
						t.Errorf("%s: gitleaks finds %q in %q, we find %q", rule.id, w, text, got)
					}
				}
			}
		}
	}
	if tried < 1000 || len(found) < 150 {
		t.Errorf("only %d texts for %d rules were secrets to gitleaks: the test tests nothing", tried, len(found))
	}
}

// TestNoMoreThanGitleaks feeds text full of keywords.
func TestNoMoreThanGitleaks(t *testing.T) {
	s := rules(t)
	r := rand.New(rand.NewPCG(5, 1))
	var words []string
	for _, rule := range s.rules {
		words = append(words, rule.keywords...)
	}
	words = append(words, "=", ":", "'", `"`, " ", "\n", ";", ".", "_", "-", "0123456789abcdef", "Zm9vYmFyYmF6cXV4", "A1b2C3d4E5f6G7h8", "xyz", "=>")
	for range 400 {
		var b strings.Builder
		for range 60 {
			b.WriteString(words[r.IntN(len(words))])
		}
		text := b.String()
		want := naive(s, "app/x.txt", text)
		scan := newTextScan(s)
		scan.reset("app/x.txt", false)
		scan.feed([]byte(text), 0, 0, true)
		for _, x := range scan.found {
			if w := x.rule + " " + x.fingerprint; !slices.Contains(want, w) && !slices.ContainsFunc(ownRules[:], func(o struct {
				id, regex, path string
				keywords        []string
				entropy         float64
			}) bool {
				return o.id == x.rule
			}) {
				// A window may begin inside a longer match; that is only
				// acceptable when gitleaks reports the rule, too.
				if !slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(w, x.rule+" ") }) {
					t.Errorf("we find %s in %q, gitleaks finds %q", w, text, want)
				}
			}
		}
	}
}

// TestTextInPieces wants the same secrets whatever the pieces of a long text.
func TestTextInPieces(t *testing.T) {
	s := rules(t)
	token := "gh" + "p_" + strings.Repeat("aB3dE5gH7j", 4)[:36]
	for _, at := range []int{0, 100, chunkSize - 20, chunkSize, chunkSize + 5, 3*chunkSize - textAhead, 3*chunkSize - 10} {
		text := strings.Repeat("x y\n", 1<<20)[:4*chunkSize]
		text = text[:at] + "\n" + token + "\n" + text[at:]
		w := newWorker(t.Context(), s)
		c, err := w.file(fileInfo{path: "app/a.txt", size: int64(len(text))}, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if len(c.secrets) != 1 || c.secrets[0].rule != "github-pat" {
			t.Errorf("at %d: %+v", at, c.secrets)
		}
	}
}

func TestSecretVariable(t *testing.T) {
	for kv, want := range map[string]bool{
		"DB_PASSWORD=hunter22": true, "API_KEY=abcdef1234": true, "SESSION_SECRET=0123456789": true, "NPM_TOKEN=x1y2z3": true,
		"DB_PASSWORD=": false, "DB_PASSWORD=${X}": false, "DB_PASSWORD=changeme": false, "DB_PASSWORD_FILE=/run/x": false, "TOKEN_TTL=3600": false, "GPG_KEY=ABCDEF": false, "PATH=/bin": false, "AUTH=true": false, "PUBLIC_API_KEY=abcdef1234": false, "KEY=value": false, "SECRET_KEY_ID=abcdefg": false,
	} {
		name, value, _ := strings.Cut(kv, "=")
		if got := secretVariable(name, value); got != want {
			t.Errorf("%s: %v", kv, got)
		}
	}
}

// TestSecretsAreNotTold looks for the secret in everything that is kept of it.
func TestSecretsAreNotTold(t *testing.T) {
	const value = "c0rrect-Horse-battery-5taple"
	found := scanText(rules(t), "environment", "aws_secret_access_key="+strings.Repeat("Ab3/", 10)+"\npassword = \""+value+"\"")
	if len(found) == 0 {
		t.Fatal("nothing found")
	}
	for _, x := range found {
		if text := fmt.Sprintf("%+v %s", x, x.evidence()); strings.Contains(text, value) || strings.Contains(text, "Ab3/Ab3/") {
			t.Errorf("tells the secret: %s", text)
		}
	}
}

func TestRulesAreRead(t *testing.T) {
	s := rules(t)
	if len(s.rules) < 200 {
		t.Errorf("%d rules", len(s.rules))
	}
	kinds := map[shape]int{}
	for _, r := range s.rules {
		kinds[r.shape]++
		if len(r.keywords) == 0 {
			t.Errorf("%s has no keyword and would never be tried", r.id)
		}
	}
	if kinds[pem] != 1 || kinds[assignment] < 80 || kinds[around] < 80 {
		t.Errorf("shapes: %v", kinds)
	}
	for id := range beginnings {
		if !slices.ContainsFunc(s.rules, func(r *secretRule) bool { return r.id == id }) {
			t.Errorf("beginnings has %s, which is no rule", id)
		}
	}
	for id := range valueRules {
		if !slices.ContainsFunc(s.rules, func(r *secretRule) bool { return r.id == id }) {
			t.Errorf("valueRules has %s, which is no rule", id)
		}
	}
	for id := range regionRules {
		if !slices.ContainsFunc(s.rules, func(r *secretRule) bool { return r.id == id }) {
			t.Errorf("regionRules has %s, which is no rule", id)
		}
	}
	if config.DefaultConfig == "" {
		t.Error("gitleaks has no rules")
	}
}

func FuzzText(f *testing.F) {
	f.Add([]byte("password = 'x'\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 100)
	f.Add([]byte("aws_secret_access_key=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA curl -u a:b"), 7)
	s := rules(f)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		scan := newTextScan(s)
		scan.reset("app/x.yaml", false)
		scan.feed(b, 0, 0, true)
		for _, x := range scan.found {
			if x.fingerprint == "" || strings.Contains(x.evidence(), "-----") {
				t.Errorf("%+v", x)
			}
		}
	})
}
