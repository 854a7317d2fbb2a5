package gate

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
)

// Judged is a report with the name by which the image was given.
type Judged struct {
	Name   string
	Report *Report
}

// Result is a report as JSON.
type Result struct {
	Name     string            `json:"name"`
	Platform string            `json:"platform"`
	Verdict  policy.Verdict    `json:"verdict"`
	Claims   []oci.Digest      `json:"claims"`                // believed, that were decided by
	Rejected []policy.Rejected `json:"notBelieved,omitempty"` // claims that are not believed
}

// Results are the reports of one run as JSON.
type Results struct {
	Version int      `json:"version"` // 1
	Allowed bool     `json:"allowed"` // all of them
	Images  []Result `json:"images"`
}

// Document puts the reports into one document.
func Document(all []Judged) Results {
	out := Results{Version: 1, Allowed: len(all) > 0, Images: []Result{}}
	for _, j := range all {
		r := j.Report
		claims := append([]oci.Digest{}, r.Inputs...)
		out.Images = append(out.Images, Result{Name: j.Name, Platform: r.Facts.Platform.String(), Verdict: r.Verdict, Claims: claims, Rejected: r.Rejected})
		out.Allowed = out.Allowed && r.Verdict.Allowed
	}
	return out
}

// The parts of SARIF 2.1.0 that are written.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		Results     []sarifResult     `json:"results"`
		Invocations []sarifInvocation `json:"invocations"`
		Properties  map[string]any    `json:"properties"`
	}
	sarifInvocation struct {
		ExecutionSuccessful bool `json:"executionSuccessful"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifRule struct {
		ID                   string            `json:"id"`
		Name                 string            `json:"name"`
		ShortDescription     sarifText         `json:"shortDescription"`
		FullDescription      sarifText         `json:"fullDescription"`
		Help                 sarifText         `json:"help"`
		DefaultConfiguration map[string]string `json:"defaultConfiguration"`
		Properties           map[string]any    `json:"properties"`
	}
	sarifResult struct {
		RuleID              string             `json:"ruleId"`
		RuleIndex           int                `json:"ruleIndex"`
		Kind                string             `json:"kind"`
		Level               string             `json:"level"`
		Message             sarifText          `json:"message"`
		Locations           []sarifLocation    `json:"locations"`
		PartialFingerprints map[string]string  `json:"partialFingerprints"`
		Suppressions        []sarifSuppression `json:"suppressions,omitempty"`
	}
	sarifLocation struct {
		PhysicalLocation struct {
			ArtifactLocation struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				StartLine int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
		LogicalLocations []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
		Kind               string `json:"kind"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Status        string `json:"status"`
		Justification string `json:"justification"`
	}
)

// securitySeverity is the figure by which code hosts sort, for a rule's
// severity.
var securitySeverity = map[policy.Severity]string{policy.Critical: "9.5", policy.High: "8.0", policy.Medium: "5.5", policy.Low: "2.5"}

// WriteSARIF writes every reason as a result of SARIF 2.1.0: refusals as
// errors, waived ones suppressed, the rest as notes. What passed is left out.
func WriteSARIF(w io.Writer, all []Judged) error {
	log := sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0"}
	for _, j := range all {
		run := sarifRun{Results: []sarifResult{}, Invocations: []sarifInvocation{{ExecutionSuccessful: true}}}
		run.Properties = map[string]any{"image": j.Report.Verdict.Image, "zone": j.Report.Verdict.Zone, "allowed": j.Report.Verdict.Allowed, "policy": j.Report.Verdict.Policy}
		run.Tool.Driver = sarifDriver{Name: "twinhull", InformationURI: "https://twinhull.dev"}
		index := map[string]int{}
		for i, r := range j.Report.policy.Table() {
			index[r.ID] = i
			level := "error"
			if r.Effect(j.Report.Verdict.Zone) != policy.Refuses {
				level = "note"
			}
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{ID: r.ID, Name: r.ID, ShortDescription: sarifText{r.Title}, FullDescription: sarifText{r.Proves},
				Help: sarifText{"Why: " + r.Why + "\nFix: " + r.Fix + "\nWaive: " + r.Waive}, DefaultConfiguration: map[string]string{"level": level},
				Properties: map[string]any{"security-severity": securitySeverity[r.Severity], "tags": []string{"security", r.Group}}})
		}
		for _, r := range j.Report.Verdict.Rules {
			reasons := r.Reasons
			if r.Outcome.Refuses() && !refuses(reasons) {
				reasons = append(slices.Clone(reasons), policy.Reason{Outcome: r.Outcome, Message: r.Because})
			}
			for _, x := range reasons {
				run.Results = append(run.Results, sarifOf(j, r, x, index[r.Rule]))
			}
		}
		log.Runs = append(log.Runs, run)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(log)
}

// refuses tells whether one of the reasons does. What refuses without, because
// the image was not read whole, may have others that are only notes.
func refuses(all []policy.Reason) bool {
	return slices.ContainsFunc(all, func(x policy.Reason) bool { return x.Outcome.Refuses() })
}

func sarifOf(j Judged, r policy.Result, x policy.Reason, index int) sarifResult {
	out := sarifResult{RuleID: r.Rule, RuleIndex: index, Kind: "fail", Level: "error", Message: sarifText{x.Message}}
	switch {
	case x.Outcome == policy.Waived:
		out.Suppressions = []sarifSuppression{{Kind: "external", Status: "accepted", Justification: fmt.Sprintf("%s (%s, until %s)", x.Waiver.Reason, x.Waiver.Owner, x.Waiver.Expires)}}
	case !x.Outcome.Refuses():
		out.Kind, out.Level = "informational", "none"
	default:
		if fix := cmp.Or(x.Remedy, r.Remedy); fix != "" {
			out.Message.Text += "\nFix: " + fix
		}
	}
	path := strings.TrimPrefix(x.Path, "/")
	path, inside, _ := strings.Cut(path, "!")
	var l sarifLocation
	// A result without a file is shown by nobody: what is about the whole image
	// is about its configuration.
	l.PhysicalLocation.ArtifactLocation.URI = cmp.Or(escapePath(path), "image-configuration")
	l.PhysicalLocation.Region.StartLine = 1
	for _, n := range []struct{ name, kind string }{{inside, "member"}, {x.Package, "module"}, {string(x.Layer), "object"}} {
		if n.name != "" {
			l.LogicalLocations = append(l.LogicalLocations, sarifLogical{n.name, n.kind})
		}
	}
	out.Locations = []sarifLocation{l}
	out.PartialFingerprints = map[string]string{"twinhull/v1": strings.Join([]string{r.Rule, x.Subject, x.Path, x.Package}, "|")}
	return out
}

// escapePath makes a path a relative reference of RFC 3986.
func escapePath(p string) string {
	var b strings.Builder
	for _, c := range []byte(p) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/+@=,", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// The parts of JUnit's XML that are written.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string       `xml:"classname,attr"`
		Name    string       `xml:"name,attr"`
		Failure *junitReason `xml:"failure"`
		Error   *junitReason `xml:"error"`
		Skipped *junitReason `xml:"skipped"`
		Out     string       `xml:"system-out,omitempty"`
	}
	junitReason struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes every rule as a test case: what refuses has failed, what
// cannot be told is an error, what is not applicable is skipped.
func WriteJUnit(w io.Writer, all []Judged) error {
	var doc junitSuites
	for _, j := range all {
		v := j.Report.Verdict
		s := junitSuite{Name: fmt.Sprintf("twinhull check %s %s", j.Name, v.Image), Tests: len(v.Rules), Timestamp: v.Time.UTC().Format(time.RFC3339)}
		for _, r := range v.Rules {
			c := junitCase{Class: "twinhull." + string(v.Zone), Name: r.Rule + ": " + r.Title}
			var bad, rest []string
			for _, x := range r.Reasons {
				line := x.Message
				if x.Path != "" && !strings.Contains(line, x.Path) {
					line = x.Path + ": " + line
				}
				if x.Waiver != nil && x.Outcome == policy.Waived {
					line += fmt.Sprintf(" (waived by %s until %s: %s)", x.Waiver.Owner, x.Waiver.Expires, x.Waiver.Reason)
				}
				if !x.Outcome.Refuses() {
					rest = append(rest, string(x.Outcome)+": "+line)
					continue
				}
				if x.Remedy != "" {
					line += "\n  fix: " + x.Remedy
				}
				bad = append(bad, line)
			}
			if len(bad) == 0 && r.Because != "" {
				bad = append(bad, r.Because)
			}
			text := strings.Join(bad, "\n")
			switch {
			case r.Outcome == policy.Fail:
				s.Failures++
				c.Failure = &junitReason{first(text), text + "\nfix: " + r.Remedy}
			case r.Outcome.Refuses():
				s.Errors++
				c.Error = &junitReason{first(text), text + "\nfix: " + r.Remedy}
			case r.Outcome == policy.NotApplicable:
				s.Skipped++
				c.Skipped = &junitReason{r.Because, ""}
			}
			c.Out = strings.Join(rest, "\n")
			s.Cases = append(s.Cases, c)
		}
		doc.Suites = append(doc.Suites, s)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(doc); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func first(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
