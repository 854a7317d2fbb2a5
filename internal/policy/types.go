package policy

import (
	"time"

	"twinhull.dev/twinhull/internal/evidence/vex"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

// Input is everything that a decision stands on. Nothing of it is changed.
type Input struct {
	Facts      *inspect.Facts // with its Tree: what explains files needs it
	Evidence   Evidence
	Zone       oci.Zone  // that the image is judged for, whatever it says of itself
	Repository string    // HOST/NAME that it is judged for; "" when nobody says
	Now        time.Time // at which it is judged
	Policy     *Policy   // nil: Default()
}

// Evidence is what believed claims say about the image, as plain data. Who
// fills it must have opened every claim with package trust for this image and
// this repository: here a claim is a fact.
type Evidence struct {
	// Trusted says that somebody was named who may be believed (a trust policy,
	// or a key). Without, every list below is empty because nobody was asked.
	Trusted bool

	Signatures []Source
	Provenance []Provenance
	SBOMs      []SBOM
	Tests      []Tests
	VEX        []VEX
	Origins    []Origins
	Absence    []Absence
	Scan       *Scan    // what the vulnerability database knows; nil: there is none
	Reports    []Report // of other scanners

	Problems []Problem  // believed claims that could not be read
	Rejected []Rejected // claims that are not believed; they only explain what is missing
}

// Source is who made a claim, and the claim.
type Source struct {
	By     string     `json:"by"`     // identity of the trust policy
	Signer string     `json:"signer"` // key or certificate
	Claim  oci.Digest `json:"claim"`  // of the bundle
}

// Provenance is a claim about how the image was built.
type Provenance struct {
	Source
	BuildType string
	Builder   string
	Inputs    int      // resolved dependencies, each by digest
	Unnamed   int      // resolved dependencies without a digest
	Zone      oci.Zone // "" when the build type has none
	// Properties are the build's properties that were earned; known is false
	// for builders that do not say.
	Known                                                     bool
	Hermetic, Parameterless, DependenciesComplete, Reproduced bool
	Missing                                                   []string // why a property was not earned
}

// SBOM is a bill of materials.
type SBOM struct {
	Source
	Format   string
	Packages []Component
}

// Component is a package of a bill of materials.
type Component struct {
	Name, Version, PURL string
}

// Tests are the totals of test cases and coverage.
type Tests struct {
	Source
	Result                         string // "PASSED", "FAILED"
	Counted                        bool   // whether the totals say something
	Tests, Passed, Failed, Skipped int
	Coverage                       []Coverage
}

// Coverage is how much of the code the tests ran.
type Coverage struct {
	Unit     string  // "lines", "statements"
	Measured bool    // whether Percent says something
	Percent  float64 // rounded down to a hundredth
}

// VEX is a document about vulnerabilities that do not matter, or do.
type VEX struct {
	Source
	Document vex.Document
}

// Origins says why each path of the image is there.
type Origins struct {
	Source
	Zone  oci.Zone
	Paths []Path // in byte order of Path
}

// Path is one path of an image with its reason.
type Path struct {
	Path   string // relative, clean
	Type   string // "file", "dir", "symlink", "hardlink"
	SHA256 oci.Digest
	Link   string
	Kind   string // package, module, artifact, source, generated
	Name   string
}

// Absence is somebody's inspection of the image, signed.
type Absence struct {
	Source
	Zone   oci.Zone
	Layers []oci.Digest   // that were read, bottom first
	Found  map[string]int // by rule; a rule that is missing was not applied
}

// Scan is what a vulnerability database knows about the packages of the image.
type Scan struct {
	Database   oci.Digest
	Ecosystems []Ecosystem // each of the image
	Found      []Vulnerability
	Undecided  []Vulnerability // records of which it cannot be told whether they are about the version
	Complete   bool            // everything was answered; its zero value refuses
}

// Ecosystem says what a Scan is worth for some of the packages.
type Ecosystem struct {
	Name     string // "npm", "Debian:13"
	Packages int    // of the image
	Answered bool
	Why      string    // it was not answered
	Newest   time.Time // date of the data
}

// Vulnerability is a known vulnerability in a package of the image.
type Vulnerability struct {
	ID       string   // the name that is shown: a CVE's where there is one
	Aliases  []string // all other names
	Package  string   // package URL
	Name     string   // of the package, for people
	Version  string
	Severity Severity // Unknown when nobody has rated it
	Score    float64  // CVSS base score, 0 when there is none
	Fixed    []string // versions without it; none: not fixed yet
	Path     string   // in the image; "" when it is not known
	Why      string   // of an undecided one: why it cannot be told
}

// Report is what another scanner found, as a believed claim.
type Report struct {
	Source
	Scanner  string
	Database time.Time // date of its data; zero when it does not say
	Complete bool      // it says that every package was answered, as this program's own scanner can
	Packages int       // how many packages that were
	Found    []Vulnerability

	Undecided []Vulnerability
}

// Problem is a believed claim that could not be read.
type Problem struct {
	Source
	Kind string
	Why  string
}

// Rejected is a claim that is not believed.
type Rejected struct {
	Kind  string     `json:"kind"` // that it says it is
	Claim oci.Digest `json:"claim"`
	Why   string     `json:"why"`
}

// Severity is how bad a vulnerability, or what a rule finds, is.
type Severity string

// The severities, the worst last. Unknown is no severity: nobody has said.
const (
	Unknown  Severity = ""
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Rank orders severities; Unknown is 0.
func (s Severity) Rank() int {
	switch s {
	case Low:
		return 1
	case Medium:
		return 2
	case High:
		return 3
	case Critical:
		return 4
	}
	return 0
}

// Outcome is what came of a rule or a reason.
type Outcome string

// The outcomes. The zero Outcome refuses, as CannotTell does.
const (
	Pass          Outcome = "pass"
	Fail          Outcome = "fail"
	CannotTell    Outcome = "cannot-tell"
	Waived        Outcome = "waived"
	Noted         Outcome = "noted" // something was found that does not refuse in this zone
	NotApplicable Outcome = "not-applicable"
)

// Refuses tells whether an image with this outcome is refused.
func (o Outcome) Refuses() bool {
	switch o {
	case Pass, Waived, Noted, NotApplicable:
		return false
	}
	return true
}

// weight orders outcomes: a rule has that of its worst reason.
func (o Outcome) weight() int {
	switch o {
	case NotApplicable:
		return 0
	case Pass:
		return 1
	case Noted:
		return 2
	case Waived:
		return 3
	case CannotTell:
		return 4
	}
	return 5
}

// Verdict is the decision. Its zero value refuses.
type Verdict struct {
	Allowed    bool       `json:"allowed"`
	Image      oci.Digest `json:"image"`
	Zone       oci.Zone   `json:"zone"` // that the image was judged for
	Repository string     `json:"repository,omitempty"`
	Time       time.Time  `json:"time"`
	Policy     oci.Digest `json:"policy"`
	Rules      []Result   `json:"rules"`                   // every rule of the zone, in the order of the table
	Unused     []Waiver   `json:"unusedWaivers,omitempty"` // waivers that excused nothing
	Levels     []string   `json:"levels,omitempty"`        // what was verified, for the summary; none when refused
}

// Result is what came of one rule.
type Result struct {
	Rule    string   `json:"rule"`
	Title   string   `json:"title"`
	Outcome Outcome  `json:"outcome"`
	Because string   `json:"because,omitempty"` // of a pass or of "not applicable": what it rests on, in a few words
	Reasons []Reason `json:"reasons,omitempty"` // each stands once in a verdict
	Remedy  string   `json:"remedy,omitempty"`  // of a rule that refuses
}

// Reason is one thing that is wrong, or excused, or worth noting.
type Reason struct {
	Outcome Outcome     `json:"outcome"`
	Subject string      `json:"subject,omitempty"` // what: "bash", "CVE-2026-1", "label"
	Path    string      `json:"path,omitempty"`    // in the image
	Package string      `json:"package,omitempty"` // package URL
	Layer   oci.Digest  `json:"layer,omitempty"`
	Hidden  bool        `json:"hidden,omitempty"` // in a lower layer, where a container does not see it
	Count   int         `json:"count,omitempty"`  // of files, when there are several
	Message string      `json:"message"`
	Remedy  string      `json:"remedy,omitempty"` // when it is another than the rule's
	Waiver  *UsedWaiver `json:"waiver,omitempty"` // that excuses it, or would have

	// Unknown says that it is not one thing that is wrong, but that nobody could
	// look: a waiver for it would excuse whatever there may be.
	Unknown bool `json:"-"`
}

// UsedWaiver is the waiver that a reason met.
type UsedWaiver struct {
	Reason  string `json:"reason"`
	Owner   string `json:"owner"`
	Expires string `json:"expires"` // a date, or a time
}

// Refusals counts the reasons and rules that refuse.
func (v Verdict) Refusals() (rules, reasons int) {
	for _, r := range v.Rules {
		if !r.Outcome.Refuses() {
			continue
		}
		rules++
		for _, x := range r.Reasons {
			if x.Outcome.Refuses() {
				reasons++
			}
		}
	}
	return rules, reasons
}
