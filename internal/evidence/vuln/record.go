package vuln

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"twinhull.dev/twinhull/internal/evidence/strictjson"
)

// Bounds of one record. The largest ones list every version and every binary
// package of a kernel, some megabytes.
const (
	maxRecord   = 16 << 20 // bytes of JSON
	maxValues   = 500_000  // values in it: what a byte of JSON may cost in memory
	maxNames    = 1000     // aliases and upstream together
	maxAffected = 50_000   // packages
	maxName     = 512      // bytes of a package's name
	maxSummary  = 240      // bytes of a summary that are kept
)

// wireRecord is the part of an OSV record that is read (OSV schema 1.7).
type wireRecord struct {
	SchemaVersion    string          `json:"schema_version"`
	ID               string          `json:"id"`
	Modified         string          `json:"modified"`
	Published        string          `json:"published"`
	Withdrawn        string          `json:"withdrawn"`
	Aliases          []string        `json:"aliases"`
	Upstream         []string        `json:"upstream"`
	Summary          string          `json:"summary"`
	Details          string          `json:"details"`
	Severity         []wireSeverity  `json:"severity"`
	Affected         []wireAffected  `json:"affected"`
	DatabaseSpecific json.RawMessage `json:"database_specific"`
}

type wireSeverity struct {
	Type  string `json:"type"`
	Score string `json:"score"`
}

type wireAffected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
	} `json:"package"`
	Severity          []wireSeverity  `json:"severity"`
	Ranges            []wireRange     `json:"ranges"`
	Versions          []string        `json:"versions"`
	EcosystemSpecific json.RawMessage `json:"ecosystem_specific"`
	DatabaseSpecific  json.RawMessage `json:"database_specific"`
}

type wireRange struct {
	Type   string      `json:"type"`
	Events []wireEvent `json:"events"`
}

type wireEvent struct {
	Introduced   string `json:"introduced"`
	Fixed        string `json:"fixed"`
	LastAffected string `json:"last_affected"`
	Limit        string `json:"limit"`
}

// entry is what the database keeps of a record about one package.
type entry struct {
	ID        string   `json:"i"`
	Aliases   []string `json:"a,omitempty"` // sorted; ID is not among them
	Upstream  []string `json:"u,omitempty"` // vulnerabilities that this record repeats for a distribution
	Summary   string   `json:"s,omitempty"`
	Published int64    `json:"p,omitempty"` // Unix seconds
	Modified  int64    `json:"m,omitempty"`
	Severity  Severity `json:"v"`
	Affected  []scope  `json:"f"`
}

// scope is one set of versions of the package; the package is affected when any
// of its scopes has the version.
type scope struct {
	Ranges   []span   `json:"r,omitempty"`
	Versions []string `json:"v,omitempty"`
}

// span is a range. Events are "i", "f", "l" or "x" (a limit) and the version.
type span struct {
	Type   string      `json:"t"` // "S" SEMVER, "E" ECOSYSTEM, "G" GIT, "?" one that is not known
	Events [][2]string `json:"e,omitempty"`
}

// located is an entry with the package that it is about.
type located struct {
	ecosystem, name string // the name as lookups have it: normalName
	entry           entry
}

// record is a record as it goes into the database.
type record struct {
	id         string
	modified   time.Time // zero when the record does not say
	withdrawn  bool
	ecosystems []string // with their releases, sorted, each once
	packages   []located
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}$`)

// plain tells whether a text may be part of a key: printable, not too long.
func plain(s string, most int) bool {
	return s != "" && len(s) <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// countValues tells whether the JSON text has at most most values, give or take
// a few, without reading them.
func countValues(data []byte, most int) bool {
	n, quoted := 1, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '{' || c == '['):
			n++
		}
	}
	return n <= most
}

// parseRecord reads one record.
func parseRecord(data []byte) (*record, error) {
	if len(data) > maxRecord {
		return nil, fmt.Errorf("%d bytes, more than the %d that a record may have", len(data), maxRecord)
	}
	if !countValues(data, maxValues) {
		return nil, fmt.Errorf("more than %d values in one record", maxValues)
	}
	var w wireRecord
	if err := strictjson.UnmarshalLarge(data, &w, maxRecord); err != nil {
		return nil, err
	}
	if !idForm.MatchString(w.ID) {
		return nil, fmt.Errorf("id %.60q", w.ID)
	}
	if len(w.Aliases)+len(w.Upstream) > maxNames || len(w.Affected) > maxAffected {
		return nil, fmt.Errorf("%d aliases and upstream names and %d packages, more than %d and %d", len(w.Aliases)+len(w.Upstream), len(w.Affected), maxNames, maxAffected)
	}
	modified, err := when("modified", w.Modified)
	published, err2 := when("published", w.Published)
	withdrawn, err3 := when("withdrawn", w.Withdrawn)
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	r := &record{id: w.ID, modified: modified, withdrawn: !withdrawn.IsZero()}
	if w.SchemaVersion != "" && !strings.HasPrefix(w.SchemaVersion, "1.") {
		return nil, fmt.Errorf("schema_version %.20q: only version 1 is read", w.SchemaVersion)
	}
	whole := severityOf(w.Severity, field(w.DatabaseSpecific, "severity"), "")
	base := entry{
		ID: w.ID, Aliases: others(w.ID, w.Aliases), Upstream: others(w.ID, w.Upstream),
		Summary: oneLine(w.Summary, w.Details), Published: unix(published), Modified: unix(modified),
	}
	at := map[[2]string]int{}
	for i, a := range w.Affected {
		eco, name := a.Package.Ecosystem, a.Package.Name
		if eco == "" && name == "" {
			continue // only commits
		}
		if !plain(eco, 128) || !plain(name, maxName) {
			return nil, fmt.Errorf("affected[%d]: package %.60q of ecosystem %.60q", i, name, eco)
		}
		r.ecosystems = append(r.ecosystems, eco)
		s := scope{Versions: slices.DeleteFunc(a.Versions, func(v string) bool { return v == "" })}
		for _, g := range a.Ranges {
			s.Ranges = append(s.Ranges, g.span())
		}
		key := [2]string{eco, normalName(eco, name)}
		n, seen := at[key]
		if !seen {
			n = len(r.packages)
			at[key] = n
			e := base
			e.Severity = Severity{Level: LevelUnknown}
			r.packages = append(r.packages, located{key[0], key[1], e})
		}
		e := &r.packages[n].entry
		e.Affected = append(e.Affected, s)
		word := field(a.EcosystemSpecific, "urgency")
		method := "Debian urgency"
		if word == "" {
			word, method = field(a.EcosystemSpecific, "severity"), ""
		}
		own := severityOf(a.Severity, word, method)
		if own.Level == LevelUnknown {
			own = worse(whole, own)
		}
		e.Severity = worse(e.Severity, own)
	}
	slices.Sort(r.ecosystems)
	r.ecosystems = slices.Compact(r.ecosystems)
	return r, nil
}

// when reads a time. Missing times and the zero time of a program that had none
// are the same.
func when(name, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %.40q: want an RFC 3339 time", name, s)
	}
	return t.UTC(), nil
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fromUnix(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

func (g wireRange) span() span {
	s := span{Type: "?"}
	switch g.Type {
	case "SEMVER":
		s.Type = "S"
	case "ECOSYSTEM":
		s.Type = "E"
	case "GIT":
		return span{Type: "G"} // commits cannot be compared without the repository
	}
	for _, e := range g.Events {
		for _, x := range [][2]string{{"i", e.Introduced}, {"f", e.Fixed}, {"l", e.LastAffected}, {"x", e.Limit}} {
			if x[1] != "" {
				s.Events = append(s.Events, x)
			}
		}
	}
	return s
}

// severityOf chooses among what a record says: a CVSS base score that is
// computed from its vector, the higher of several, else the word of whoever
// wrote the record.
func severityOf(list []wireSeverity, word, method string) Severity {
	best := Severity{Level: LevelUnknown}
	for _, s := range list {
		switch {
		case strings.HasPrefix(s.Type, "CVSS_"):
			best = worse(best, ofVector(s.Score))
		case s.Type == "Ubuntu" && word == "":
			word, method = s.Score, "Ubuntu priority"
		}
	}
	if best.Level != LevelUnknown {
		return best
	}
	if l := levelWord(word); l != LevelUnknown {
		if method == "" {
			method = "database"
		}
		return Severity{Level: l, Vector: best.Vector, Method: method}
	}
	return best
}

// field is a text in an object whose form nobody fixes, "" when there is none.
func field(object json.RawMessage, name string) string {
	if len(object) == 0 || object[0] != '{' {
		return ""
	}
	var fields map[string]json.RawMessage
	var s string
	if json.Unmarshal(object, &fields) != nil || len(fields[name]) == 0 || fields[name][0] != '"' || json.Unmarshal(fields[name], &s) != nil {
		return ""
	}
	return s
}

// others sorts names and leaves out the id, what is there twice and what is no
// name: databases hold a few with a comma too many, and without one name a
// vulnerability still is one.
func others(id string, names []string) []string {
	var out []string
	for _, n := range names {
		if n = strings.Trim(n, " ,;"); n != id && idForm.MatchString(n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// oneLine is the first of the texts that says something, in one short line.
func oneLine(texts ...string) string {
	for _, t := range texts {
		for line := range strings.Lines(t) {
			line = strings.Join(strings.FieldsFunc(strings.TrimLeft(line, "#> "), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
			if line == "" {
				continue
			}
			if len(line) > maxSummary {
				cut := maxSummary
				for !utf8.RuneStart(line[cut]) {
					cut--
				}
				line = line[:cut] + "…"
			}
			return line
		}
	}
	return ""
}

var pypiRun = regexp.MustCompile(`[-_.]+`)

// normalName is the name under which a package is kept and looked up: where an
// ecosystem has several spellings of one name, its normal one.
func normalName(ecosystem, name string) string {
	base, _, _ := strings.Cut(ecosystem, ":")
	switch base {
	case "PyPI": // PEP 503
		return strings.ToLower(pypiRun.ReplaceAllString(name, "-"))
	case "Packagist", "NuGet":
		return strings.ToLower(name)
	}
	return name
}
