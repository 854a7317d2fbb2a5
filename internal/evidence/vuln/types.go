package vuln

import (
	"fmt"
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// Level is a severity in one word: the qualitative scale of CVSS v3.1, section
// 5. LevelUnknown is a level of its own, not a low one: nobody has said how bad
// the vulnerability is, or only in a way that this program cannot read.
type Level string

// The levels. The zero Level is not one of them.
const (
	LevelUnknown  Level = "unknown"
	LevelNone     Level = "none"
	LevelLow      Level = "low"
	LevelMedium   Level = "medium"
	LevelHigh     Level = "high"
	LevelCritical Level = "critical"
)

// ParseLevel reads a level's name.
func ParseLevel(s string) (Level, error) {
	switch l := Level(s); l {
	case LevelUnknown, LevelNone, LevelLow, LevelMedium, LevelHigh, LevelCritical:
		return l, nil
	}
	return "", fmt.Errorf("severity %.40q: want none, low, medium, high, critical or unknown", s)
}

// rank orders what is known; LevelUnknown has no place in it and gives -1.
func (l Level) rank() int {
	switch l {
	case LevelNone:
		return 0
	case LevelLow:
		return 1
	case LevelMedium:
		return 2
	case LevelHigh:
		return 3
	case LevelCritical:
		return 4
	}
	return -1
}

// AtLeast tells whether the level is as high as the threshold. An unknown level
// may be any, so it is.
func (l Level) AtLeast(threshold Level) bool { return l.rank() < 0 || l.rank() >= threshold.rank() }

// Severity is how bad a vulnerability is, and who said so in which way.
type Severity struct {
	Level  Level   `json:"level"`
	Score  float64 `json:"score,omitempty"`  // CVSS base score, 0.1 to 10.0; 0 when there is none that was computed or told
	Vector string  `json:"vector,omitempty"` // the CVSS vector, also of a version whose score is not computed here (v4)
	Method string  `json:"method,omitempty"` // "CVSS_V3", "CVSS_V2", "GHSA", "Debian urgency" …; "" for LevelUnknown
}

// Finding is one vulnerability in one package of one version. The same
// vulnerability under several names (GHSA, CVE, PYSEC) is one Finding, the same
// package in several places too.
type Finding struct {
	ID        string    `json:"id"`                  // the CVE where it has one, else the database's own
	Aliases   []string  `json:"aliases,omitempty"`   // its other names, sorted; ID is not among them
	Type      string    `json:"type"`                // of the package, as inspect.Package.Type; "" when a report does not say
	Package   string    `json:"package"`             // its name as the image has it; "" when a report does not say
	Version   string    `json:"version"`             // installed
	PURL      string    `json:"purl,omitempty"`      // package URL as inspect.Package.PURL or as the report has it
	Upstream  string    `json:"upstream,omitempty"`  // source package by which it was matched, when that has another name
	Ecosystem string    `json:"ecosystem,omitempty"` // "npm", "Debian:13"; "" from a report
	Locations []string  `json:"locations,omitempty"` // files that name the package, sorted
	Fixed     string    `json:"fixed,omitempty"`     // the lowest later version that is not affected; "" when none is known
	Severity  Severity  `json:"severity"`
	Summary   string    `json:"summary,omitempty"` // one line
	Published time.Time `json:"published,omitzero"`
	Modified  time.Time `json:"modified,omitzero"`
	Source    string    `json:"source"` // who says so: SourceOSV, or the scanner of a report: "grype 0.104.1"
}

// SourceOSV is the Source of findings of DB.Match.
const SourceOSV = "osv"

// IDs are all names of the vulnerability, ID first.
func (f Finding) IDs() []string { return append([]string{f.ID}, f.Aliases...) }

// Answer tells whether one ecosystem of the image could be answered.
type Answer struct {
	Ecosystem string    `json:"ecosystem"` // "npm", "Debian:13"; a package type when no ecosystem could be told
	Packages  int       `json:"packages"`  // of the image, in this ecosystem
	Answered  bool      `json:"answered"`
	Why       string    `json:"why,omitempty"`   // it was not answered, and what to do
	Newest    time.Time `json:"newest,omitzero"` // date of the data
}

// Undecided is a record that names a package of the image and of which it
// cannot be told whether it is about the installed version.
type Undecided struct {
	ID      string `json:"id"`
	Package string `json:"package"`
	Version string `json:"version"`
	PURL    string `json:"purl,omitempty"`
	Why     string `json:"why"`
}

// Result is what a database knows of an image's packages.
type Result struct {
	Database   Status      `json:"database"`
	Scanned    time.Time   `json:"scanned"`
	Ecosystems []Answer    `json:"ecosystems"` // each of the image, by name
	Findings   []Finding   `json:"findings"`   // by package, version, ID
	Undecided  []Undecided `json:"undecided,omitempty"`

	// Complete says that every ecosystem of the image was answered from data
	// that is young enough and that nothing is Undecided. Without it the absence
	// of findings means nothing. The zero value refuses.
	Complete bool `json:"complete"`
}

// Status is what a database holds.
type Status struct {
	Digest   oci.Digest `json:"digest"`   // of everything in it
	Imported time.Time  `json:"imported"` // when it was made
	Sources  []Source   `json:"sources"`  // by name
	Records  int        `json:"records"`  // of all sources, withdrawn ones not counted
	Packages int        `json:"packages"` // names that can be looked up
	Size     int64      `json:"size"`     // bytes of the file
}

// Source is one set of records that was imported: a zip or a folder.
type Source struct {
	Name       string     `json:"name"`               // its last path elements: "npm/all.zip"
	SHA256     oci.Digest `json:"sha256"`             // of the zip; of a folder, over its files' names and digests
	Ecosystems []string   `json:"ecosystems"`         // that it holds whole: "npm", "Debian:12"
	Releases   []string   `json:"releases,omitempty"` // of those with releases, the ones that it has records of: "Debian:12"
	Records    int        `json:"records"`
	Withdrawn  int        `json:"withdrawn"` // left out

	// Newest is the date of the data: the newest `modified` of its records
	// (dates after the import are not counted). Zero when no record has a date.
	Newest time.Time `json:"newest,omitzero"`
	// Stated says that Newest is the word of the one who imported, because the
	// records have no dates.
	Stated bool `json:"stated,omitempty"`
}

// DefaultMaxAge is how old the data of an ecosystem may be, by its own date.
// OSV publishes daily; a week leaves room for a mirror that is filled at
// weekends and for ecosystems in which nothing happens for days.
const DefaultMaxAge = 7 * 24 * time.Hour
