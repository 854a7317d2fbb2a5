package inspect

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"
	"github.com/zricethezav/gitleaks/v8/config"
)

// Secrets are found by the rules of gitleaks, whose configuration is a library
// here, and by some of our own for files that only images have. What gitleaks
// does with a rule's expression over a whole file is done here with a window
// around each of its keywords, after a cheap look at whether the window can
// match at all: the same findings (TestAgreesWithGitleaks), fifty times faster.

// secretRule is one rule.
type secretRule struct {
	id       string
	keywords []string // lower case
	entropy  float64
	group    int
	path     *regexp.Regexp
	shape    shape
	literal  string // keyword as the expression has it, when case matters
	precise  bool   // known by a form of its own, so that it is believed in dependencies too
	before   int    // bytes before the secret that the expression may want
	app      bool   // our own rules of files outside dependencies only
	source   string
	allow    []allowlist
	once     func() *compiledRule
}

// shape says how an expression surrounds its keyword, which decides the window.
type shape int

const (
	around     shape = iota // the secret has the keyword in it
	assignment              // keyword, operator, secret
	region                  // anything near the keyword
	pem                     // handled by code
)

type compiledRule struct {
	regex *regexp.Regexp
	allow []*config.Allowlist
}

// allowlist is gitleaks' allowlist as its file has it.
type allowlist struct {
	Condition   string
	Paths       []string
	RegexTarget string
	Regexes     []string
	StopWords   []string
}

func (a allowlist) compile() *config.Allowlist {
	c := &config.Allowlist{RegexTarget: a.RegexTarget, StopWords: a.StopWords}
	if c.RegexTarget == "secret" {
		c.RegexTarget = ""
	}
	if strings.EqualFold(a.Condition, "AND") {
		c.MatchCondition = config.AllowlistMatchAnd
	}
	for _, p := range a.Paths {
		c.Paths = append(c.Paths, regexp.MustCompile(p))
	}
	for _, r := range a.Regexes {
		c.Regexes = append(c.Regexes, regexp.MustCompile(r))
	}
	_ = c.Validate() // joins the expressions; an empty list allows nothing either way
	return c
}

// secretRules are all rules with the matcher of their keywords.
type secretRules struct {
	rules  []*secretRule
	all    keywords
	strict keywords // of rules that are believed in dependencies
	global []*config.Allowlist
	sigs   []signature
}

// keywords are a matcher and what its patterns mean.
type keywords struct {
	m    *matcher
	hits []textHit
}

// newKeywords takes those of the rules that want names, and all signatures.
func newKeywords(rules []*secretRule, sigs []signature, want func(*secretRule) bool) keywords {
	var k keywords
	byKeyword := map[string]int{}
	var patterns []string
	pattern := func(text string) *textHit {
		i, ok := byKeyword[text]
		if !ok {
			i = len(patterns)
			byKeyword[text] = i
			patterns = append(patterns, text)
			k.hits = append(k.hits, textHit{sig: -1, keyword: text})
		}
		return &k.hits[i]
	}
	for n, r := range rules {
		if want(r) {
			for _, text := range r.keywords {
				h := pattern(text)
				h.rules = append(h.rules, n)
			}
		}
	}
	for i, sig := range sigs {
		for j, text := range sig.strings {
			h := pattern(text)
			h.sig, h.bit = i, 1<<j
		}
	}
	k.m = newMatcher(patterns, true)
	return k
}

// textHit is what a pattern of the text matcher means.
type textHit struct {
	rules   []int // indexes of rules
	sig     int   // index of a script signature, or -1
	bit     uint32
	keyword string
}

const templateMark = `(?:[ \t\w.-]{0,20})[\s'"]{0,3}`

// ownRules are files that gitleaks does not know, or knows only in source
// trees.
var ownRules = []struct {
	id, regex, path string
	keywords        []string
	entropy         float64
}{
	{"npmrc-token", `(?i)_authToken[ \t]*=[ \t]*["']?([^\s"'${}]{8,})`, "", []string{"_authtoken"}, 2},
	{"npmrc-password", `(?i)(?:^|\n|:)_(?:auth|password)[ \t]*=[ \t]*["']?([A-Za-z0-9+/=]{8,})`, `(?:^|/)\.?npmrc$`, []string{"_auth", "_password"}, 2},
	{"kubeconfig-key", `(?i)client-key-data:[ \t]*["']?([A-Za-z0-9+/=]{64,})`, "", []string{"client-key-data"}, 3},
	{"kubeconfig-token", `(?m)^[ \t]+token:[ \t]*["']?([\w.=-]{16,})`, `(?:^|/)(?:\.kube/config|kubeconfig[^/]*|[^/]*\.kubeconfig)$`, []string{"token"}, 3},
	{"docker-config-auth", `"auth"[ \t]*:[ \t]*"([A-Za-z0-9+/]{8,}={0,2})"`, `(?:^|/)(?:\.docker/config\.json|\.dockercfg|\.dockerconfigjson|auth\.json)$`, []string{`"auth"`}, 2},
	{"netrc-password", `(?i)\bpassword[ \t\n]+(\S{4,})`, `(?:^|/)[._]netrc$`, []string{"password"}, 0},
	{"git-credentials", `https?://[^\s:@/]+:([^\s:@/]{4,})@`, `(?:^|/)\.git-credentials$`, []string{"://"}, 0},
	{"aws-secret-key", `(?i)aws_secret_access_key["']?[ \t]*[=:][ \t]*["']?([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+]|$)`, "", []string{"aws_secret_access_key"}, 3.5},
	{"pypirc-password", `(?im)^[ \t]*password[ \t]*[:=][ \t]*(\S{6,})`, `(?:^|/)\.pypirc$`, []string{"password"}, 0},
	{"pgpass-password", `(?m)^[^#\n:]+:[^\n:]*:[^\n:]*:[^\n:]*:(\S{4,})$`, `(?:^|/)\.pgpass$`, []string{":"}, 0},
	{"password-hash", `(?m)^[\w.-]+:(\$[0-9a-z]{1,3}\$[^:\n]{8,}):`, `(?:^|/)etc/(?:shadow|gshadow)-?$`, []string{":$"}, 0},
	{"database-url", `(?i)\b(?:postgres(?:ql)?|mysql|mariadb|mongodb(?:\+srv)?|rediss?|amqps?)(?:\+\w+)?://[^\s:@/"'<>{}$]*:([^\s:@/"'<>{}$%]{5,})@[\w.-]+`, "", []string{"postgres", "mysql", "mariadb", "mongodb", "redis", "amqp"}, 2.3},
}

var curlFlag = regexp.MustCompile(`-[Hu]|--(?:header|user)`)

// regionRules are gitleaks' rules whose expression spans more than the words
// around the keyword.
var regionRules = map[string]bool{
	"curl-auth-header": true, "curl-auth-user": true, "kubernetes-secret-yaml": true, "nuget-config-password": true, "freemius-secret-key": true,
	"airtable-personnal-access-token": true, "facebook-access-token": true, "cloudflare-origin-ca-key": true, "sourcegraph-access-token": true, "sidekiq-sensitive-url": true, "microsoft-teams-webhook": true,
}

// beginnings say of rules whose keyword is short and common what must follow it
// before an expression is tried, and that it begins a word (the expressions
// begin with \b). TestAgreesWithGitleaks holds them against the expressions.
var beginnings = map[string]struct {
	after    int  // letters, digits, - and _ that must follow
	boundary bool // no such character may stand before
	upper    bool // all of them are capitals and digits, the keyword's too
}{
	"vault-service-token":                {24, true, false},
	"aws-access-token":                   {16, true, true},
	"jwt":                                {17, true, false},
	"square-access-token":                {22, true, false},
	"authress-service-client-access-key": {5, true, false},
	"harness-api-key":                    {22, false, false},
	"twilio-api-key":                     {32, false, false},
	"facebook-page-access-token":         {100, true, false},
	"npm-access-token":                   {36, true, false},
	"octopus-deploy-api-key":             {26, true, true},
	"stripe-access-token":                {10, true, false},
}

// begins judges a keyword by the rule's line in beginnings.
func (r *secretRule) begins(b []byte, start, end int) bool {
	g, ok := beginnings[r.id]
	if !ok {
		return true
	}
	if g.boundary && start > 0 && isWord(b[start-1]) {
		return false
	}
	if g.upper {
		start = max(start, 0)
	} else {
		start = end
	}
	n := 0
	for i := start; i < len(b) && i-end < g.after; i++ {
		c := b[i]
		if !isWord(c) && c != '-' || g.upper && c >= 'a' && c <= 'z' {
			return false
		}
		if i >= end {
			n++
		}
	}
	return n >= g.after
}

// valueRules look like an assignment whose keyword is not in the name but in
// the value.
var valueRules = map[string]bool{"lob-api-key": true, "lob-pub-api-key": true, "new-relic-browser-api-token": true, "new-relic-insert-key": true, "new-relic-user-api-key": true}

// loadSecretRules reads the rules once. The expressions of a rule are compiled
// when one of its keywords is first seen: most never are.
var loadSecretRules = sync.OnceValues(func() (*secretRules, error) {
	var file struct {
		Allowlist  allowlist
		Allowlists []allowlist
		Rules      []struct {
			ID          string
			Path        string
			Regex       string
			SecretGroup int
			Entropy     float64
			Keywords    []string
			Allowlists  []allowlist
		}
	}
	if err := toml.Unmarshal([]byte(config.DefaultConfig), &file); err != nil {
		return nil, fmt.Errorf("rules of gitleaks: %w", err)
	}
	s := &secretRules{sigs: scriptSignatures}
	// Of the global paths those stay out that name folders of dependencies:
	// gitleaks looks at sources, where they are not committed, but in an image
	// they are what runs.
	global := file.Allowlist
	global.Paths = slices.DeleteFunc(slices.Clone(global.Paths), func(p string) bool {
		return strings.Contains(p, "node_modules") || strings.Contains(p, "python") || strings.Contains(p, "dist-info") || strings.Contains(p, "virtualenv") || strings.Contains(p, "vendor")
	})
	for _, a := range append([]allowlist{global}, file.Allowlists...) {
		if len(a.Paths)+len(a.Regexes)+len(a.StopWords) > 0 {
			s.global = append(s.global, a.compile())
		}
	}
	add := func(r *secretRule) {
		r.once = sync.OnceValue(func() *compiledRule {
			c := &compiledRule{regex: regexp.MustCompile(r.source)}
			for _, a := range r.allow {
				c.allow = append(c.allow, a.compile())
			}
			return c
		})
		s.rules = append(s.rules, r)
	}
	for _, f := range file.Rules {
		if f.Regex == "" || len(f.Keywords) == 0 {
			continue // rules of paths alone: see leftovers.go
		}
		r := &secretRule{id: f.ID, entropy: f.Entropy, group: f.SecretGroup, allow: f.Allowlists, source: f.Regex}
		for _, k := range f.Keywords {
			r.keywords = append(r.keywords, strings.ToLower(k))
		}
		if f.Path != "" {
			r.path = regexp.MustCompile(f.Path)
		}
		switch {
		case f.ID == "private-key":
			r.shape, r.precise = pem, true
		case regionRules[f.ID]:
			r.shape = region
		case strings.Contains(f.Regex, templateMark):
			r.shape = assignment
			if valueRules[f.ID] {
				r.shape, r.before = around, 120
			}
		default:
			r.precise = f.ID != "jwt" && f.ID != "jwt-base64" && len(r.keywords[0]) > 2
			if !strings.HasPrefix(f.Regex, "(?i)") && len(r.keywords) == 1 {
				if i := strings.Index(strings.ToLower(f.Regex), r.keywords[0]); i >= 0 {
					r.literal = f.Regex[i : i+len(r.keywords[0])]
				}
			}
		}
		add(r)
	}
	for _, o := range ownRules {
		r := &secretRule{id: o.id, source: o.regex, keywords: o.keywords, entropy: o.entropy, shape: region, app: true}
		if o.path != "" {
			r.path = regexp.MustCompile(o.path)
		}
		add(r)
	}
	s.all = newKeywords(s.rules, s.sigs, func(*secretRule) bool { return true })
	s.strict = newKeywords(s.rules, s.sigs, func(r *secretRule) bool { return r.precise })
	return s, nil
})

// secret is a secret that was found. It never holds the secret itself.
type secret struct {
	rule        string
	fingerprint string // of the secret; the same secret has the same one everywhere
	line        int    // 1-based, 0 when unknown
	generic     bool   // known by the words around it only
	rank        int    // how little the rule says of what it is, see dedupe
	from, to    int64  // where it is in the file
	inside      string // path inside an archive
	tail        string // what may be shown: kind and length
}

func (s secret) evidence() string {
	text := s.tail + ", fingerprint " + s.fingerprint
	if s.line > 0 {
		text = fmt.Sprintf("line %d: %s", s.line, text)
	}
	return text
}

// fingerprint names a secret without telling it: 64 bits of a hash with the
// rule's name in it, enough to recognise it and too few to confirm a guess at
// leisure for anything but a secret that was guessable anyway.
func fingerprint(rule, secret string) string {
	h := sha256.Sum256([]byte("twinhull secret\x00" + rule + "\x00" + secret))
	return hex.EncodeToString(h[:8])
}

// Sizes of the text window, bytes.
const (
	textBehind = 4 << 10  // kept before what is looked at
	textAhead  = 20 << 10 // wanted after a keyword: a PEM key of 16384 bits
	maxSecrets = 50       // of one file; more are counted, not kept
)

// textScan is one text file under the rules. Use newTextScan.
type textScan struct {
	s        *secretRules
	path     string // relative
	restrict bool   // a dependency: precise rules only
	skip     bool   // a dependency's example
	judged   bool   // pathOK is known
	pathOK   bool   // allowed by its path
	state    uint32
	bits     []uint32
	touched  []int
	last     []int64 // by rule: end of the last window, in the file
	used     []int
	paths    map[int]bool // rule → whether its path is this file's
	base     int64        // offset of buf[0] in the file
	line     int          // lines before buf[0]
	found    []secret
	more     int
	seen     map[string]bool
	pending  []textMatch
}

type textMatch struct {
	hit   int32
	start int64 // of the keyword, in the file
	end   int64
}

func newTextScan(s *secretRules) *textScan {
	t := &textScan{s: s, bits: make([]uint32, len(s.sigs)), last: make([]int64, len(s.rules)), seen: map[string]bool{}, paths: map[int]bool{}}
	for i := range t.last {
		t.last[i] = -1
	}
	return t
}

// reset begins a text. dependency says that it belongs to an installed
// dependency whatever its path.
func (t *textScan) reset(path string, dependency bool) {
	for _, i := range t.touched {
		t.bits[i] = 0
	}
	for _, i := range t.used {
		t.last[i] = -1
	}
	t.touched, t.used, t.pending, t.found = t.touched[:0], t.used[:0], t.pending[:0], nil
	clear(t.seen)
	clear(t.paths)
	t.state, t.base, t.line, t.more = 0, 0, 0, 0
	t.path = path
	t.restrict = dependency || isDependency(path)
	t.skip = t.restrict && isExample(path)
	t.judged = false
}

// words are what is looked for in the text.
func (t *textScan) words() *keywords {
	if t.restrict {
		return &t.s.strict
	}
	return &t.s.all
}

// allowedPath tells whether gitleaks passes the whole file over. It is asked
// only when there is something to pass over: most files have nothing.
func (t *textScan) allowedPath() bool {
	if !t.judged {
		t.judged, t.pathOK = true, false
		for _, a := range t.s.global {
			t.pathOK = t.pathOK || a.PathAllowed(t.path)
		}
	}
	return t.pathOK
}

// feed looks at window[from:], where window is a piece of the file that begins
// at offset base with what was looked at before. With last, the file ends
// there; otherwise the caller keeps the last textBehind+textAhead bytes at the
// beginning of the next window.
func (t *textScan) feed(window []byte, base int64, from int, last bool) {
	t.base = base
	if from < len(window) {
		at := base + int64(from)
		words := t.words()
		t.state = words.m.scan(t.state, window[from:], func(id int32, end int) {
			h := &words.hits[id]
			if h.sig >= 0 {
				if t.bits[h.sig] == 0 {
					t.touched = append(t.touched, h.sig)
				}
				t.bits[h.sig] |= h.bit
			}
			if len(h.rules) == 0 || t.skip {
				return
			}
			e := at + int64(end)
			m := textMatch{hit: id, start: e - int64(len(h.keyword)), end: e}
			if last || e+textAhead <= base+int64(len(window)) {
				t.look(window, m)
				return
			}
			t.pending = append(t.pending, m)
		})
	}
	kept := t.pending[:0]
	for _, m := range t.pending {
		if m.start < base { // cannot be: the caller keeps textAhead
			continue
		}
		if last || m.end+textAhead <= base+int64(len(window)) {
			t.look(window, m)
		} else {
			kept = append(kept, m)
		}
	}
	t.pending = kept
}

// look runs the rules of one keyword.
func (t *textScan) look(b []byte, m textMatch) {
	start, end := int(m.start-t.base), int(m.end-t.base)
	h := &t.words().hits[m.hit]
	assigned, value := -1, 0 // of assignment: 0 unknown, see below
	for _, i := range h.rules {
		r := t.s.rules[i]
		if r.path != nil {
			ok, known := t.paths[i]
			if !known {
				ok = r.path.MatchString(t.path)
				t.paths[i] = ok
			}
			if !ok {
				continue
			}
		}
		if t.restrict && !r.precise {
			continue
		}
		lo, hi := 0, 0
		switch r.shape {
		case pem:
			t.privateKey(b, start)
			continue
		case assignment:
			if assigned == -1 {
				assigned, value = assignedValue(b, end)
			}
			if assigned == 0 || r.entropy > 0 && float64(distinct(b[assigned:value])) < math.Exp2(r.entropy) {
				continue
			}
			if r.id == "generic-api-key" && !hasDigitOrSymbol(b[assigned:value]) {
				continue
			}
			lo, hi = max(start-60, 0), min(value+8, len(b))
		case region:
			lo, hi = max(start-300, 0), min(end+1000, len(b))
		case around:
			if r.literal != "" && string(b[start:end]) != r.literal || !r.begins(b, start, end) {
				continue
			}
			lo, hi = start, end
			for lo > 0 && start-lo < 400 && isToken(b[lo-1]) {
				lo--
			}
			for hi < len(b) && hi-end < 2000 && isToken(b[hi]) {
				hi++
			}
			if hi-lo < 12 {
				continue
			}
			lo, hi = max(lo-8-r.before, 0), min(hi+8, len(b))
		}
		if t.last[i] >= t.base+int64(start) && r.shape == region {
			continue // the window before has covered it
		}
		if strings.HasPrefix(r.id, "curl-") && !curlFlag.Match(b[end:hi]) {
			continue
		}
		if t.last[i] < 0 {
			t.used = append(t.used, i)
		}
		t.last[i] = max(t.last[i], t.base+int64(hi)-200)
		t.match(r, b, lo, hi)
	}
}

// match runs a rule's expression over a window and judges what it finds as
// gitleaks does.
func (t *textScan) match(r *secretRule, b []byte, lo, hi int) {
	c := r.once()
	for at := lo; at < hi; {
		loc := c.regex.FindSubmatchIndex(b[at:hi])
		if loc == nil {
			return
		}
		match := strings.Trim(string(b[at+loc[0]:at+loc[1]]), "\n")
		value := match
		if r.group > 0 && 2*r.group+1 < len(loc) && loc[2*r.group] >= 0 {
			value = string(b[at+loc[2*r.group] : at+loc[2*r.group+1]])
		} else {
			for g := 2; g+1 < len(loc); g += 2 {
				if loc[g] >= 0 && loc[g+1] > loc[g] {
					value = string(b[at+loc[g] : at+loc[g+1]])
					break
				}
			}
		}
		if (r.entropy == 0 || entropy(value) > r.entropy) && !t.allowed(c, r, match, value, b, at+loc[0]) {
			t.add(r, value, b, at+loc[0])
		}
		at += max(loc[1], loc[0]+1)
	}
}

func (t *textScan) allowed(c *compiledRule, r *secretRule, match, value string, b []byte, at int) bool {
	line := lineAround(b, at)
	if strings.Contains(line, "gitleaks:allow") {
		return true
	}
	if r.app && r.id != "password-hash" && placeholder(value) { // a hash begins with $
		return true
	}
	for _, list := range [][]*config.Allowlist{t.s.global, c.allow} {
		for _, a := range list {
			target := value
			switch a.RegexTarget {
			case "match":
				target = match
			case "line":
				target = line
			}
			stop, _ := a.ContainsStopWord(value)
			if a.MatchCondition != config.AllowlistMatchAnd {
				if a.RegexAllowed(target) || stop {
					return true
				}
				continue
			}
			all := true
			if len(a.Paths) > 0 {
				all = all && a.PathAllowed(t.path)
			}
			if len(a.Regexes) > 0 {
				all = all && a.RegexAllowed(target)
			}
			if len(a.StopWords) > 0 {
				all = all && stop
			}
			if all {
				return true
			}
		}
	}
	return false
}

func (t *textScan) add(r *secretRule, value string, b []byte, at int) {
	if t.allowedPath() {
		return
	}
	fp := fingerprint(r.id, value)
	if t.seen[fp] {
		return
	}
	t.seen[fp] = true
	if len(t.found) >= maxSecrets {
		t.more++
		return
	}
	line := 0
	if t.base == 0 {
		line = 1 + bytes.Count(b[:at], []byte("\n"))
	}
	from := t.base + int64(at+max(bytes.Index(b[at:], []byte(value)), 0))
	t.found = append(t.found, secret{rule: r.id, fingerprint: fp, line: line, generic: r.shape == assignment, rank: r.rank(), from: from, to: from + int64(len(value)), tail: fmt.Sprintf("%s of %d characters", r.id, len(value))})
}

// rank orders rules by what they know of a secret: a form of its own, words
// around it, nothing but that it looks random.
func (r *secretRule) rank() int {
	switch {
	case r.id == "generic-api-key":
		return 3
	case r.precise:
		return 0
	case r.shape == assignment:
		return 2
	}
	return 1
}

// dedupe keeps of secrets that lie over each other in one text the one whose
// rule says most: a token is one secret, however many rules know it.
func dedupe(list []secret) []secret {
	if len(list) < 2 {
		return list
	}
	order := slices.Clone(list)
	slices.SortStableFunc(order, func(a, b secret) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(b.to-b.from, a.to-a.from), strings.Compare(a.rule, b.rule))
	})
	var kept []secret
	for _, s := range order {
		if !slices.ContainsFunc(kept, func(k secret) bool { return k.inside == s.inside && s.from < k.to && k.from < s.to }) {
			kept = append(kept, s)
		}
	}
	slices.SortStableFunc(kept, func(a, b secret) int {
		return cmp.Or(strings.Compare(a.inside, b.inside), cmp.Compare(a.from, b.from))
	})
	return kept
}

var pemBegin = regexp.MustCompile(`^(?i)-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----`)

// privateKey looks at a PEM block. What stands between its lines must be a key:
// documentation is full of blocks with three dots in them.
func (t *textScan) privateKey(b []byte, start int) {
	window := b[start:min(start+textAhead, len(b))]
	loc := pemBegin.FindIndex(window[:min(160, len(window))])
	if loc == nil {
		return
	}
	body := window[loc[1]:]
	end := bytes.Index(body, []byte("-----"))
	if end < 0 {
		return
	}
	var text []byte
	// In JSON and in source text the lines are "\n" in a string.
	unescaped := strings.NewReplacer(`\r`, "", `\n`, "\n").Replace(string(body[:end]))
	for line := range strings.SplitSeq(unescaped, "\n") {
		line = strings.Trim(line, " \t\r\"'+,;|>*#\\")
		if strings.Contains(line, ":") || strings.HasPrefix(line, "=") {
			continue // RFC 1421 and RFC 4880 headers; the armour's checksum
		}
		text = append(text, line...)
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(string(text), "="))
	if err != nil || len(raw) < 32 || distinct(raw) < 12 {
		return
	}
	kind := strings.ToLower(strings.Trim(string(window[:loc[1]]), "- "))
	r := &secretRule{id: "private-key"}
	t.add(r, string(raw), b, start)
	if n := len(t.found); n > 0 && t.found[n-1].rule == r.id {
		t.found[n-1].tail = strings.TrimPrefix(kind, "begin ") + fmt.Sprintf(" of %d bytes", len(raw))
		t.found[n-1].to = t.found[n-1].from + int64(loc[1]+end)
	}
}

// tools says which programs of text the file was.
func (t *textScan) tools() []tool {
	var out []tool
	slices.Sort(t.touched)
	for _, i := range t.touched {
		sig := &t.s.sigs[i]
		var found []string
		for j, text := range sig.strings {
			if t.bits[i]&(1<<j) != 0 {
				found = append(found, text)
			}
		}
		if len(found) >= sig.need {
			out = append(out, tool{rule: sig.rule, name: sig.name, evidence: "contains " + quoteAll(found)})
		}
	}
	return out
}

// assignedValue looks at what follows a keyword as gitleaks' generated
// expressions do: more of the name, quotes, an operator, quotes, a value. It
// returns the value's place, or 0 when there is none worth a regular
// expression.
func assignedValue(b []byte, at int) (from, to int) {
	i := at
	for n := 0; i < len(b) && n < 48 && (isWord(b[i]) || b[i] == '.' || b[i] == '-' || b[i] == ' ' || b[i] == '\t'); n++ {
		i++
	}
	for n := 0; i < len(b) && n < 3 && (isSpace(b[i]) || b[i] == '\'' || b[i] == '"'); n++ {
		i++
	}
	op := i
	for i < len(b) && i-op < 4 && (b[i] == '=' || b[i] == '>' || b[i] == ':' || b[i] == '|' || b[i] == '?' || b[i] == ',') {
		i++
	}
	if i == op {
		return 0, 0
	}
	for n := 0; i < len(b) && n < 6 && (isSpace(b[i]) || b[i] == '\'' || b[i] == '"' || b[i] == '`' || b[i] == '='); n++ {
		i++
	}
	from = i
	for i < len(b) && i-from < 400 && isToken(b[i]) {
		i++
	}
	if i-from < 8 {
		return 0, 0
	}
	// A value ends at a quote, a space, a semicolon or the end.
	if i < len(b) && !isSpace(b[i]) && b[i] != '\'' && b[i] != '"' && b[i] != '`' && b[i] != ';' && b[i] != '\\' {
		return 0, 0
	}
	return from, i
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func isToken(c byte) bool {
	return tokenBytes[c]
}

// tokenBytes are what the values of gitleaks' rules are made of.
var tokenBytes = func() (t [256]bool) {
	for c := range 256 {
		t[c] = isWord(byte(c)) || strings.IndexByte("-.+/=~|%:@!\\", byte(c)) >= 0
	}
	return t
}()

func hasDigitOrSymbol(b []byte) bool {
	for _, c := range b {
		if c >= '0' && c <= '9' || c == '+' || c == '/' || c == '=' {
			return true
		}
	}
	return false
}

func distinct(b []byte) int {
	var seen [256]bool
	n := 0
	for _, c := range b {
		if !seen[c] {
			seen[c] = true
			n++
		}
	}
	return n
}

// entropy is Shannon's, in bits for each character.
func entropy(s string) float64 {
	if s == "" {
		return 0
	}
	var count [256]int
	for i := range len(s) {
		count[s[i]]++
	}
	var e float64
	for _, n := range count {
		if n > 0 {
			f := float64(n) / float64(len(s))
			e -= f * math.Log2(f)
		}
	}
	return e
}

func lineAround(b []byte, at int) string {
	lo := max(bytes.LastIndexByte(b[max(at-500, 0):at], '\n')+1+max(at-500, 0), 0)
	hi := bytes.IndexByte(b[at:min(at+1000, len(b))], '\n')
	if hi < 0 {
		hi = min(1000, len(b)-at)
	}
	return string(b[lo : at+hi])
}

var placeholders = regexp.MustCompile(`(?i)^(?:\$.*|<.*>|\{.*\}|\[.*\]|%.*%|x{3,}|\*{3,}|\.{3,}|-+|_+|0+|true|false|null|none|nil|undefined|change[_-]?me.*|your[_-].*|my[_-]?.*password|example.*|placeholder.*|dummy.*|redacted.*|secret|password|passwd|pass|test|user|token|file:.*|/.*|none|todo.*|replace.*|insert.*|default|localhost|hidden|unset|disabled|enabled|env|vault:.*|secretsmanager:.*|arn:aws:.*|op://.*)$`)

// placeholder tells a value that stands for a secret from a secret.
func placeholder(v string) bool { return placeholders.MatchString(strings.Trim(v, `"' `)) }

// scanText looks at a short text that is no file: an environment variable, a
// label, a history entry.
func scanText(s *secretRules, name, text string) []secret {
	t := newTextScan(s)
	t.reset(name, false)
	t.restrict, t.skip = false, false
	t.feed([]byte(text), 0, 0, true)
	for i := range t.found {
		t.found[i].line = 0
	}
	return dedupe(t.found)
}

var (
	secretName    = regexp.MustCompile(`(?i)(?:pass(?:word|wd|phrase)?|secret|token|api_?key|private_?key|access_?key|credentials?|auth)$`)
	notSecretName = regexp.MustCompile(`(?i)(?:public|_file$|_path$|_dir$|_url$|gpg_key|sha(?:256|512)|_id$|expir|ttl|length|size|header|name$|type$|issuer|method)`)
)

// secretVariable tells whether a variable's name and value make a secret,
// although no form gives it away.
func secretVariable(name, value string) bool {
	if !secretName.MatchString(name) || notSecretName.MatchString(name) {
		return false
	}
	value = strings.Trim(value, `"'`)
	if len(value) < 4 || placeholder(value) || !hasLetterOrLong(value) {
		return false
	}
	return true
}

func hasLetterOrLong(v string) bool {
	if len(v) >= 10 {
		return true
	}
	for i := range len(v) {
		if c := v[i] | 0x20; c >= 'a' && c <= 'z' {
			return true
		}
	}
	return false
}
