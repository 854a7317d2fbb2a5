package vuln

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
)

// Predicate is the in-toto vulnerability predicate v0.2 (evidence.TypeVulns).
// What the specification has no place for is in fields that begin with
// "twinhull_", which other readers ignore.
type Predicate struct {
	Scanner  Scanner  `json:"scanner"`
	Metadata Metadata `json:"metadata"`
}

// Scanner is who looked, with which data, and what it found.
type Scanner struct {
	URI     string            `json:"uri"`
	Version string            `json:"version,omitempty"`
	DB      Database          `json:"db"`
	Result  []PredicateResult `json:"result"`

	// Complete, Ecosystems and Undecided are those of Result: an empty result
	// says nothing without them.
	Complete   bool        `json:"twinhull_complete,omitempty"`
	Ecosystems []Answer    `json:"twinhull_ecosystems,omitempty"`
	Undecided  []Undecided `json:"twinhull_undecided,omitempty"`
}

// Database is the data that was used.
type Database struct {
	URI        string   `json:"uri,omitempty"`
	Version    string   `json:"version,omitempty"` // the database's digest
	LastUpdate string   `json:"lastUpdate"`        // RFC 3339; of ours, of the oldest data that answered
	Sources    []Source `json:"twinhull_sources,omitempty"`
}

// PredicateResult is one vulnerability.
type PredicateResult struct {
	ID          string              `json:"id"`
	Severity    []PredicateSeverity `json:"severity"`
	Annotations []Annotation        `json:"annotations,omitempty"`
}

// PredicateSeverity is a severity by some method: "level", "cvss_score".
type PredicateSeverity struct {
	Method string `json:"method"`
	Score  string `json:"score"`
}

// Annotation holds the whole Finding.
type Annotation struct {
	Finding *Finding `json:"twinhull_finding,omitempty"`
}

// Metadata are the times of the scan, RFC 3339.
type Metadata struct {
	ScanStartedOn  string `json:"scanStartedOn"`
	ScanFinishedOn string `json:"scanFinishedOn"`
}

// ScannerURI is this program as a scanner.
const ScannerURI = "https://twinhull.dev/scanner/v1"

// databaseURI begins the name of a database: its digest follows.
const databaseURI = "urn:twinhull:vulnerabilities:"

// Make returns the predicate of a result. version is that of the program. Equal
// arguments give equal predicates.
func Make(r Result, version string, finished time.Time) (Predicate, error) {
	if r.Scanned.IsZero() || finished.Before(r.Scanned) {
		return Predicate{}, fmt.Errorf("vulnerabilities: scanned at %v, finished at %v", r.Scanned, finished)
	}
	if err := r.Database.Digest.Validate(); err != nil {
		return Predicate{}, fmt.Errorf("vulnerabilities: database: %w", err)
	}
	oldest := r.Database.Imported
	for _, a := range r.Ecosystems {
		if a.Answered && a.Newest.Before(oldest) {
			oldest = a.Newest
		}
	}
	p := Predicate{
		Scanner: Scanner{
			URI: ScannerURI, Version: version,
			DB: Database{
				URI: databaseURI + r.Database.Digest.String(), Version: r.Database.Digest.String(),
				LastUpdate: oldest.UTC().Format(time.RFC3339), Sources: r.Database.Sources,
			},
			Result: []PredicateResult{}, Complete: r.Complete, Ecosystems: r.Ecosystems, Undecided: r.Undecided,
		},
		Metadata: Metadata{r.Scanned.UTC().Format(time.RFC3339), finished.UTC().Format(time.RFC3339)},
	}
	for i := range r.Findings {
		f := r.Findings[i]
		p.Scanner.Result = append(p.Scanner.Result, PredicateResult{f.ID, severities(f.Severity), []Annotation{{&f}}})
	}
	_, err := p.Claim()
	return p, err
}

// severities are a severity as the predicate has it.
func severities(s Severity) []PredicateSeverity {
	out := []PredicateSeverity{{"level", string(s.Level)}}
	if s.Score > 0 {
		out = append(out, PredicateSeverity{"cvss_score", strconv.FormatFloat(s.Score, 'f', 1, 64)})
	}
	return out
}

// Claim is what a predicate says, of whatever scanner.
type Claim struct {
	Scanner   string    // its URI
	Version   string    // of the scanner
	Database  string    // URI or version of its data, "" when it does not say
	Data      time.Time // of its data
	Started   time.Time
	Finished  time.Time
	Findings  []Finding
	Undecided []Undecided
	Packages  int // that this program's own scanner was asked about; 0 for others, which do not say

	// Complete is Result.Complete of this program's own scanner. Others do not
	// say what they could not answer, so for them it is false.
	Complete bool
}

// maxResults bounds the findings of a claim or a report.
const maxResults = 200_000

// Claim checks a predicate and gives what it says.
func (p Predicate) Claim() (Claim, error) {
	s := p.Scanner
	c := Claim{Scanner: s.URI, Version: s.Version, Database: s.DB.Version, Findings: []Finding{}, Undecided: s.Undecided}
	if c.Database == "" {
		c.Database = s.DB.URI
	}
	if s.URI == "" {
		return Claim{}, fmt.Errorf("vulnerabilities: no scanner")
	}
	for _, t := range []struct {
		name, text string
		to         *time.Time
		need       bool
	}{
		{"scanner.db.lastUpdate", s.DB.LastUpdate, &c.Data, true},
		{"metadata.scanStartedOn", p.Metadata.ScanStartedOn, &c.Started, false},
		{"metadata.scanFinishedOn", p.Metadata.ScanFinishedOn, &c.Finished, true},
	} {
		if t.text == "" && !t.need {
			continue
		}
		var err error
		if *t.to, err = time.Parse(time.RFC3339, t.text); err != nil {
			return Claim{}, fmt.Errorf("vulnerabilities: %s %.40q: want an RFC 3339 time", t.name, t.text)
		}
	}
	if len(s.Result) > maxResults {
		return Claim{}, fmt.Errorf("vulnerabilities: %d results, more than %d", len(s.Result), maxResults)
	}
	own := s.URI == ScannerURI
	for i, r := range s.Result {
		f, err := r.finding(own)
		if err != nil {
			return Claim{}, fmt.Errorf("vulnerabilities: result[%d]: %w", i, err)
		}
		if !own {
			f.Source = s.URI
		}
		c.Findings = append(c.Findings, f)
	}
	if own {
		if err := oci.Digest(s.DB.Version).Validate(); err != nil {
			return Claim{}, fmt.Errorf("vulnerabilities: database %.80q: %w", s.DB.Version, err)
		}
		for _, a := range s.Ecosystems {
			if a.Packages < 0 || a.Packages > maxResults*10 {
				return Claim{}, fmt.Errorf("vulnerabilities: %d packages of %s", a.Packages, a.Ecosystem)
			}
			c.Packages += a.Packages
			if s.Complete && !a.Answered {
				return Claim{}, fmt.Errorf("vulnerabilities: said to be complete, but %s was not answered", a.Ecosystem)
			}
		}
		if s.Complete && len(s.Undecided) > 0 {
			return Claim{}, fmt.Errorf("vulnerabilities: said to be complete, but %s in %s was not decided", s.Undecided[0].ID, s.Undecided[0].Package)
		}
		c.Complete = s.Complete
	}
	return c, nil
}

func (r PredicateResult) finding(own bool) (Finding, error) {
	if !idForm.MatchString(r.ID) {
		return Finding{}, fmt.Errorf("id %.60q", r.ID)
	}
	said := Severity{Level: LevelUnknown}
	for _, s := range r.Severity {
		one := Severity{Level: levelWord(s.Score), Method: s.Method}
		if score, ok := parseScore(s.Score); ok {
			one.Level, one.Score = levelOf(score), score
		}
		said = worse(said, one)
	}
	var f *Finding
	for _, a := range r.Annotations {
		if a.Finding != nil && own {
			f = a.Finding
		}
	}
	if f == nil {
		if own {
			return Finding{}, fmt.Errorf("%s: no twinhull_finding", r.ID)
		}
		return Finding{ID: r.ID, Severity: said}, nil
	}
	if _, err := ParseLevel(string(f.Severity.Level)); err != nil {
		return Finding{}, fmt.Errorf("%s: %w", r.ID, err)
	}
	// What everybody reads and what this program reads must be the same.
	if f.ID != r.ID || !slices.Equal(r.Severity, severities(f.Severity)) {
		return Finding{}, fmt.Errorf("%s of severity %v, but its twinhull_finding is %s of level %s, score %.1f", r.ID, r.Severity, f.ID, f.Severity.Level, f.Severity.Score)
	}
	if f.Source == "" || f.Package == "" {
		return Finding{}, fmt.Errorf("%s: no package or no source", r.ID)
	}
	for _, n := range f.Aliases {
		if !idForm.MatchString(n) {
			return Finding{}, fmt.Errorf("%s: alias %.60q", r.ID, n)
		}
	}
	return *f, nil
}

// Parse reads a predicate of type evidence.TypeVulns or
// evidence.TypeVulnsCosign. The second has the same fields but leaves open what
// a result is: of that, only the report of a scanner that ParseReport knows is
// read.
func Parse(predicateType string, predicate json.RawMessage) (Claim, error) {
	switch predicateType {
	case evidence.TypeVulns:
		var p Predicate
		if err := strictjson.UnmarshalOpen(predicate, &p); err != nil {
			return Claim{}, fmt.Errorf("vulnerabilities: %w", err)
		}
		return p.Claim()
	case evidence.TypeVulnsCosign:
		var p struct {
			Scanner struct {
				URI     string          `json:"uri"`
				Version string          `json:"version"`
				DB      Database        `json:"db"`
				Result  json.RawMessage `json:"result"`
			} `json:"scanner"`
			Metadata Metadata `json:"metadata"`
		}
		if err := strictjson.UnmarshalOpen(predicate, &p); err != nil {
			return Claim{}, fmt.Errorf("vulnerabilities: %w", err)
		}
		c, err := Predicate{Scanner: Scanner{URI: p.Scanner.URI, Version: p.Scanner.Version, DB: p.Scanner.DB}, Metadata: p.Metadata}.Claim()
		if err != nil {
			return Claim{}, err
		}
		if c.Scanner == ScannerURI {
			return Claim{}, fmt.Errorf("vulnerabilities: this program does not write predicates of type %s", predicateType)
		}
		report, err := ParseReport(p.Scanner.Result)
		if err != nil {
			return Claim{}, fmt.Errorf("vulnerabilities: result: %w", err)
		}
		c.Findings = report.Findings
		return c, nil
	}
	return Claim{}, fmt.Errorf("vulnerabilities: predicate type %q", predicateType)
}
