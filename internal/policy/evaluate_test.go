package policy

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/evidence/vex"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

func TestZeroRefuses(t *testing.T) {
	if (Verdict{}).Allowed || !Outcome("").Refuses() || !CannotTell.Refuses() || !Fail.Refuses() {
		t.Error("a zero value allows")
	}
	for name, in := range map[string]Input{
		"nothing":        {},
		"no zone":        {Facts: sample(), Now: now},
		"another zone":   {Facts: sample(), Now: now, Zone: "staging"},
		"no facts":       {Zone: oci.Development, Now: now},
		"empty facts":    {Facts: &inspect.Facts{}, Zone: oci.Development, Now: now},
		"no time":        {Facts: sample(), Zone: oci.Production},
		"another format": {Facts: &inspect.Facts{Version: 99, Digest: sum("x"), Complete: true}, Zone: oci.Development, Now: now},
	} {
		v := Evaluate(in)
		rules, reasons := v.Refusals()
		if v.Allowed || rules == 0 || reasons == 0 {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestPerfect(t *testing.T) {
	v := Evaluate(perfect(sample()))
	if !v.Allowed || len(refusing(v)) > 0 || v.Image != sum("image") || v.Policy != Default().Digest() {
		t.Fatalf("refused: %q", refusing(v))
	}
	if want := []string{"SLSA_BUILD_LEVEL_0", "TWINHULL_DEPENDENCIES_COMPLETE", "TWINHULL_HERMETIC", "TWINHULL_PARAMETERLESS"}; !slices.Equal(v.Levels, want) {
		t.Errorf("levels %q, want %q", v.Levels, want)
	}
	if d := cmp.Diff(v, Evaluate(perfect(sample()))); d != "" {
		t.Errorf("equal inputs, other verdicts: %s", d)
	}
	ids := map[string]bool{}
	for _, r := range v.Rules {
		ids[r.Rule] = true
	}
	for _, r := range Rules() {
		if !ids[r.ID] {
			t.Errorf("the verdict leaves out %s", r.ID)
		}
	}
}

// TestNothingPassesUnread: of an image that was not read whole no rule about
// its contents passes, and of an image without claims none about claims.
func TestNothingPassesUnread(t *testing.T) {
	f := sample()
	f.Complete, f.Errors = false, []string{"layer 0: truncated"}
	for _, r := range Evaluate(perfect(f)).Rules {
		rule, _ := FindRule(r.Rule)
		if len(rule.Findings) > 0 && rule.Production == Refuses && !r.Outcome.Refuses() {
			t.Errorf("%s: %s of an image that was not read", r.Rule, r.Outcome)
		}
	}
	in := perfect(sample())
	in.Evidence = Evidence{}
	for _, trusted := range []bool{false, true} {
		in.Evidence.Trusted = trusted
		v := Evaluate(in)
		for _, id := range []string{RuleZone, RuleSignature, RuleProvenance, RuleSBOM, RuleExplained, RuleVulnerabilities, RuleVEX, RuleTests, RuleTestCoverage} {
			if r := result(t, v, id); !r.Outcome.Refuses() {
				t.Errorf("%s: %s without claims", id, r.Outcome)
			}
		}
	}
}

func TestRulesOneByOne(t *testing.T) {
	vulnerable := func(in *Input, s Severity) {
		in.Evidence.Scan.Found = []Vulnerability{{ID: "CVE-2026-1", Aliases: []string{"GHSA-x"}, Package: "pkg:npm/ms@2.1.3", Name: "ms", Version: "2.1.3", Severity: s, Fixed: []string{"2.1.4"}}}
	}
	say := func(in *Input, status vex.Status, image oci.Digest, pkg string) {
		in.Evidence.VEX = []VEX{{Document: vex.Document{ID: "d", Author: "sec", Timestamp: now, Statements: []vex.Statement{{Author: "sec", Vulnerability: []string{"CVE-2026-1"}, Time: now.Add(-time.Hour),
			Status: status, Justification: "vulnerable_code_not_in_execute_path", Products: []vex.Product{{Component: vex.Component{ID: image.String()}, Subcomponents: []vex.Component{{ID: pkg}}}}}}}}}
	}
	for _, c := range []struct {
		name    string
		rule    string
		outcome Outcome // of the rule; the only one that refuses when it does
		says    string
		change  func(in *Input)
	}{
		{"label missing", RuleZone, Fail, "does not say", func(in *Input) { in.Facts.Zone.Label = "" }},
		{"annotation of development", RuleZone, Fail, `says "development"`, func(in *Input) { in.Facts.Zone.Annotation = "development" }},
		{"development repository", RuleZone, Fail, "repository for development images", func(in *Input) { in.Repository += "/dev" }},
		{"candidate repository", RuleZone, Pass, "", func(in *Input) { in.Repository += "/candidate" }},
		{"no repository", RuleZone, CannotTell, "--repository", func(in *Input) { in.Repository = "" }},
		{"claim of development", RuleZone, Fail, "provenance that release signed", func(in *Input) { in.Evidence.Provenance[0].Zone = oci.Development }},
		{"no claim of a zone", RuleZone, CannotTell, "no believed claim", func(in *Input) { in.Evidence.Provenance[0].Zone, in.Evidence.Origins[0].Zone = "", "" }},
		{"docker-archive", RuleZone, CannotTell, "no manifest", func(in *Input) { in.Facts.Config.Digest = in.Facts.Digest }},

		{"rejected signature", RuleSignature, Fail, "not believed: another key", func(in *Input) {
			in.Evidence.Signatures, in.Evidence.Rejected = nil, []Rejected{{Kind: "signature", Why: "another key"}}
		}},
		{"no inputs", RuleProvenance, Fail, "no input", func(in *Input) { in.Evidence.Provenance[0].Inputs = 0 }},
		{"input without hash", RuleProvenance, Fail, "without a hash", func(in *Input) { in.Evidence.Provenance[0].Unnamed = 2 }},
		{"incomplete dependencies", RuleProvenance, Fail, "not dependencies-complete: 3 things", func(in *Input) {
			in.Evidence.Provenance[0].DependenciesComplete, in.Evidence.Provenance[0].Missing = false, []string{"dependencies complete: 3 things"}
		}},
		{"foreign builder", RuleProvenance, CannotTell, "does not say", func(in *Input) {
			in.Evidence.Provenance[0].Known, in.Evidence.Provenance[0].DependenciesComplete = false, false
		}},
		{"second provenance is good", RuleProvenance, Pass, "", func(in *Input) {
			in.Evidence.Provenance = append([]Provenance{{Source: Source{By: "x"}, Builder: "b:x"}}, in.Evidence.Provenance...)
		}},
		{"package not in the bill", RuleSBOM, Fail, "does not list ms 2.1.3", func(in *Input) { in.Evidence.SBOMs[0].Packages = in.Evidence.SBOMs[0].Packages[:1] }},
		{"another version in the bill", RuleSBOM, Fail, "does not list ms 2.1.3", func(in *Input) { in.Evidence.SBOMs[0].Packages[1].PURL = "pkg:npm/ms@2.1.2" }},
		{"another version in the bill of a module that is explained", RuleSBOM, Fail, "does not list ms 2.1.3", func(in *Input) {
			in.Evidence.SBOMs[0].Packages[1].PURL = "pkg:npm/ms@2.1.2"
			in.Evidence.Origins[0].Paths = append(in.Evidence.Origins[0].Paths[:1:1], append([]Path{{Path: "app/node_modules/ms/package.json", Type: "file", SHA256: sum("ms"), Kind: "module", Name: "ms"}}, in.Evidence.Origins[0].Paths[1:]...)...)
			in.Facts.Tree = append(in.Facts.Tree, inspect.File{Path: "app/node_modules/ms/package.json", Type: tar.TypeReg, SHA256: sum("ms")})
			slices.SortFunc(in.Facts.Tree, func(a, b inspect.File) int { return strings.Compare(a.Path, b.Path) })
			slices.SortFunc(in.Evidence.Origins[0].Paths, func(a, b Path) int { return strings.Compare(a.Path, b.Path) })
		}},
		{"package of the bill not there", RuleSBOM, Fail, "not in the image", func(in *Input) {
			in.Evidence.SBOMs[0].Packages = append(in.Evidence.SBOMs[0].Packages, Component{"zlib1g", "1", "pkg:deb/debian/zlib1g@1"})
		}},
		{"second bill is short", RuleSBOM, Noted, "does not list", func(in *Input) {
			in.Evidence.SBOMs = append(in.Evidence.SBOMs, SBOM{Source: Source{By: "other"}, Format: "CycloneDX 1.6"})
		}},
		{"unreadable bill", RuleSBOM, CannotTell, "cannot be read", func(in *Input) {
			in.Evidence.SBOMs, in.Evidence.Problems = nil, []Problem{{Kind: "sbom", Why: "truncated"}}
		}},

		{"unexplained path", RuleExplained, Fail, "nothing explains", func(in *Input) {
			in.Facts.Tree = append(in.Facts.Tree, inspect.File{Path: "tmp/x", Type: tar.TypeReg, SHA256: sum("x")})
		}},
		{"other contents", RuleExplained, Fail, "contents", func(in *Input) { in.Facts.Tree[2].SHA256 = sum("evil") }},
		{"other link", RuleExplained, Fail, "leads to", func(in *Input) { in.Facts.Tree[1].Link = "/bin/sh" }},
		{"hard link to something else", RuleExplained, Fail, "another name", func(in *Input) {
			in.Facts.Tree = append(in.Facts.Tree, inspect.File{Path: "app/x", Type: tar.TypeLink, Link: "app/server", SHA256: sum("server")}, inspect.File{Path: "app/y", Type: tar.TypeReg, SHA256: sum("y")})
			in.Evidence.Origins[0].Paths = append(in.Evidence.Origins[0].Paths, Path{Path: "app/x", Type: "hardlink", Link: "app/y", Kind: "artifact", Name: "a"}, Path{Path: "app/y", Type: "file", SHA256: sum("y"), Kind: "artifact", Name: "a"})
		}},
		{"other type", RuleExplained, Fail, "something else", func(in *Input) { in.Facts.Tree[0].Type = tar.TypeReg }},
		{"missing path", RuleExplained, Fail, "not in the image", func(in *Input) { in.Facts.Tree = in.Facts.Tree[:2] }},
		{"no reason", RuleExplained, Fail, "no reason", func(in *Input) { in.Evidence.Origins[0].Paths[2].Kind = "found" }},
		{"no tree", RuleExplained, CannotTell, "did not keep", func(in *Input) { in.Facts.Tree = nil }},

		{"no database", RuleVulnerabilities, CannotTell, "no vulnerability database", func(in *Input) { in.Evidence.Scan = nil }},
		{"old database", RuleVulnerabilities, CannotTell, "older than", func(in *Input) { in.Evidence.Scan.Ecosystems[0].Newest = now.Add(-8 * 24 * time.Hour) }},
		{"undated database", RuleVulnerabilities, CannotTell, "cannot be told", func(in *Input) { in.Evidence.Scan.Ecosystems[0].Newest = time.Time{} }},
		{"database of the future", RuleVulnerabilities, CannotTell, "future", func(in *Input) { in.Evidence.Scan.Ecosystems[0].Newest = now.Add(time.Hour) }},
		{"ecosystem not there", RuleVulnerabilities, CannotTell, "could not be looked up", func(in *Input) { in.Evidence.Scan.Ecosystems[0].Answered = false }},
		{"incomplete without a word", RuleVulnerabilities, CannotTell, "did not answer everything", func(in *Input) { in.Evidence.Scan.Complete = false }},
		{"undecided record", RuleVulnerabilities, CannotTell, "cannot be told", func(in *Input) { in.Evidence.Scan.Undecided = []Vulnerability{{ID: "CVE-1", Name: "ms"}} }},
		{"high", RuleVulnerabilities, Fail, "update ms to 2.1.4", func(in *Input) { vulnerable(in, High) }},
		{"not rated", RuleVulnerabilities, Fail, "not rated", func(in *Input) { vulnerable(in, Unknown) }},
		{"medium", RuleVulnerabilities, Noted, "below the threshold (high): 1 medium", func(in *Input) { vulnerable(in, Medium) }},
		{"answered by VEX", RuleVulnerabilities, Noted, "vulnerable_code_not_in_execute_path", func(in *Input) {
			vulnerable(in, Critical)
			say(in, vex.NotAffected, in.Facts.Digest, "pkg:npm/ms@2.1.3")
		}},
		{"VEX about another image", RuleVulnerabilities, Fail, "OpenVEX", func(in *Input) {
			vulnerable(in, Critical)
			say(in, vex.NotAffected, sum("development"), "pkg:npm/ms@2.1.3")
		}},
		{"VEX about another version", RuleVulnerabilities, Fail, "CVE-2026-1", func(in *Input) {
			vulnerable(in, Critical)
			say(in, vex.NotAffected, in.Facts.Digest, "pkg:npm/ms@2.1.2")
		}},
		{"VEX by the bill's name", RuleVulnerabilities, Noted, "not_in_execute", func(in *Input) {
			vulnerable(in, High)
			in.Evidence.Scan.Found[0].Package = "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13"
			in.Evidence.SBOMs[0].Packages[0].PURL = "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-trixie"
			say(in, vex.NotAffected, in.Facts.Digest, in.Evidence.SBOMs[0].Packages[0].PURL)
		}},
		{"only another scanner knows", RuleVulnerabilities, Fail, "CVE-2026-9", func(in *Input) {
			in.Evidence.Reports = []Report{{Scanner: "grype", Found: []Vulnerability{{ID: "CVE-2026-9", Name: "ms", Version: "2.1.3", Severity: Critical}}}}
		}},
		{"a complete report instead of a database", RuleVulnerabilities, Pass, "", func(in *Input) {
			in.Evidence.Scan, in.Evidence.Reports = nil, []Report{{Scanner: "own", Complete: true, Packages: 2, Database: now.Add(-time.Hour)}}
		}},
		{"a complete report about other packages", RuleVulnerabilities, CannotTell, "it is about 1 package, the image has 2", func(in *Input) {
			in.Evidence.Scan, in.Evidence.Reports = nil, []Report{{Scanner: "own", Complete: true, Packages: 1, Database: now.Add(-time.Hour)}}
		}},
		{"a report that rates higher than the database", RuleVulnerabilities, Fail, "CVE-2026-1, critical", func(in *Input) {
			vulnerable(in, Low)
			in.Evidence.Reports = []Report{{Scanner: "grype", Found: []Vulnerability{{ID: "GHSA-X", Package: "pkg:npm/ms@2.1.3", Name: "ms", Version: "2.1.3", Severity: Critical}}}}
		}},
		{"a report that rates lower than another", RuleVulnerabilities, Fail, "critical", func(in *Input) {
			v := Vulnerability{ID: "CVE-2026-1", Package: "pkg:npm/ms@2.1.3", Name: "ms", Version: "2.1.3", Severity: Low}
			w := v
			w.Severity = Critical
			in.Evidence.Reports = []Report{{Scanner: "a", Found: []Vulnerability{v}}, {Scanner: "b", Found: []Vulnerability{w}}}
		}},
		{"a report that rates what the database does not", RuleVulnerabilities, Fail, "not rated", func(in *Input) {
			vulnerable(in, Unknown)
			in.Evidence.Reports = []Report{{Scanner: "grype", Found: []Vulnerability{{ID: "CVE-2026-1", Package: "pkg:npm/ms@2.1.3", Name: "ms", Version: "2.1.3", Severity: Low}}}}
		}},
		{"an old report instead of a database", RuleVulnerabilities, CannotTell, "no vulnerability database", func(in *Input) {
			in.Evidence.Scan, in.Evidence.Reports = nil, []Report{{Scanner: "own", Complete: true, Packages: 2, Database: now.Add(-1000 * time.Hour)}}
		}},
		{"another scanner's report instead of a database", RuleVulnerabilities, CannotTell, "no vulnerability database", func(in *Input) {
			in.Evidence.Scan, in.Evidence.Reports = nil, []Report{{Scanner: "grype", Database: now.Add(-time.Hour)}}
		}},
		{"affected below the threshold", RuleVEX, Fail, "affected", func(in *Input) {
			vulnerable(in, Low)
			say(in, vex.Affected, in.Facts.Digest, "pkg:npm/ms@2.1.3")
		}},
		{"unreadable VEX", RuleVEX, CannotTell, "cannot be read", func(in *Input) { in.Evidence.Problems = []Problem{{Kind: "vex", Why: "x"}} }},

		{"no tests at all", RuleTests, Fail, "no test that passed", func(in *Input) { in.Evidence.Tests[0].Tests, in.Evidence.Tests[0].Passed = 0, 0 }},
		{"a result that counts nothing and ran nothing", RuleTests, Fail, "no test that passed", func(in *Input) {
			who := in.Evidence.Tests[0].Source
			in.Evidence.Tests = append(in.Evidence.Tests, Tests{Source: who, Result: "PASSED"})
		}},
		{"a second result of skipped tests", RuleTests, Fail, "other signed has no test that passed", func(in *Input) {
			in.Evidence.Tests = append(in.Evidence.Tests, Tests{Source: Source{By: "other"}, Result: "PASSED", Counted: true, Tests: 3, Skipped: 3})
		}},
		{"code that tests ran", RuleTests, Pass, "", func(in *Input) {
			in.Evidence.Tests[0] = Tests{Source: in.Evidence.Tests[0].Source, Result: "PASSED", Coverage: []Coverage{{"statements", true, 90}}}
		}},
		{"failed test", RuleTests, Fail, "1 of 10 tests failed", func(in *Input) { in.Evidence.Tests[0].Failed = 1 }},
		{"failed result", RuleTests, Fail, `"FAILED"`, func(in *Input) { in.Evidence.Tests[0].Result = "FAILED" }},
		{"no test ran", RuleTests, Fail, "no test that passed", func(in *Input) {
			in.Evidence.Tests[0].Tests, in.Evidence.Tests[0].Passed, in.Evidence.Tests[0].Skipped = 10, 0, 10
		}},
		{"coverage too low", RuleTestCoverage, Fail, "79.99 % of lines", func(in *Input) { in.Evidence.Tests[0].Coverage[0].Percent = 79.99 }},
		{"coverage just enough", RuleTestCoverage, Pass, "", func(in *Input) { in.Evidence.Tests[0].Coverage[0].Percent = 80 }},
		{"second unit too low", RuleTestCoverage, Fail, "12.00 % of statements", func(in *Input) {
			in.Evidence.Tests[0].Coverage = append(in.Evidence.Tests[0].Coverage, Coverage{"statements", true, 12})
		}},
		{"not measured", RuleTestCoverage, CannotTell, "measured coverage", func(in *Input) { in.Evidence.Tests[0].Coverage = nil }},

		{"agreeing inspection", RuleAbsence, Pass, "", func(in *Input) {
			in.Evidence.Absence = []Absence{{Layers: []oci.Digest{sum("layer")}, Zone: oci.Production}}
		}},
		{"inspection of other layers", RuleAbsence, Fail, "other layers", func(in *Input) { in.Evidence.Absence = []Absence{{Layers: []oci.Digest{sum("other")}}} }},
		{"inspection that saw more", RuleAbsence, Fail, "found shell 2 times", func(in *Input) {
			in.Evidence.Absence = []Absence{{Layers: []oci.Digest{sum("layer")}, Found: map[string]int{"shell": 2}}}
		}},

		{"whole system", RuleMinimalBase, Fail, "coreutils belongs to a whole system", func(in *Input) {
			p := inspect.Package{Type: inspect.Deb, Name: "coreutils", Version: "9", PURL: "pkg:deb/debian/coreutils@9"}
			in.Facts.Packages = append(in.Facts.Packages, p)
			in.Evidence.SBOMs[0].Packages = append(in.Evidence.SBOMs[0].Packages, Component{p.Name, p.Version, p.PURL})
		}},
		{"many packages", RuleMinimalBase, Fail, "101 system packages", func(in *Input) {
			for i := range 100 {
				p := inspect.Package{Type: inspect.Apk, Name: fmt.Sprintf("lib%d", i), Version: "1", PURL: fmt.Sprintf("pkg:apk/alpine/lib%d@1", i)}
				in.Facts.Packages = append(in.Facts.Packages, p)
				in.Evidence.SBOMs[0].Packages = append(in.Evidence.SBOMs[0].Packages, Component{p.Name, p.Version, p.PURL})
			}
		}},

		{"root", inspect.RuleRootUser, Fail, "as root", func(in *Input) {
			in.Facts.Findings = []inspect.Finding{{Rule: inspect.RuleRootUser, Detail: "the image runs as root"}}
		}},
		{"hidden shell", inspect.RuleShell, Fail, "everybody who pulls", func(in *Input) {
			in.Facts.Findings = []inspect.Finding{{Rule: inspect.RuleShell, Subject: "bash", Path: "/x", Hidden: true, Evidence: "contains bash"}}
		}},
		{"tests of the application", inspect.RuleTestFiles, Fail, "tests", func(in *Input) {
			in.Facts.Findings = []inspect.Finding{{Rule: inspect.RuleTestFiles, Subject: "tests", Path: "/app/test"}}
		}},
		{"tests of a dependency", inspect.RuleTestFiles, Noted, "tests", func(in *Input) {
			in.Facts.Findings = []inspect.Finding{{Rule: inspect.RuleTestFiles, Subject: "tests", Path: "/app/node_modules/x/test", Dependency: true}}
		}},
		{"number without a name", inspect.RuleNoPasswd, Noted, "", func(in *Input) { in.Facts.Findings = []inspect.Finding{{Rule: inspect.RuleNoPasswd}} }},
		{"name without a number", inspect.RuleNoPasswd, Fail, "", func(in *Input) {
			in.Facts.Config.UID, in.Facts.Findings = -1, []inspect.Finding{{Rule: inspect.RuleNoPasswd}}
		}},
		{"no certificates", inspect.RuleNoCABundle, Noted, "", func(in *Input) { in.Facts.Findings = []inspect.Finding{{Rule: inspect.RuleNoCABundle}} }},
		{"unreadable archive", inspect.RuleUnreadable, CannotTell, "encrypted", func(in *Input) {
			in.Facts.Findings = []inspect.Finding{{Rule: inspect.RuleUnreadable, Path: "/a.zip", Detail: "encrypted"}}
		}},
		{"a finding of tomorrow", inspect.RuleInconsistent, Fail, "quantum", func(in *Input) {
			in.Facts.Findings = []inspect.Finding{{Rule: "quantum-tool", Subject: "quantum"}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := perfect(sample())
			c.change(&in)
			v := Evaluate(in)
			r := result(t, v, c.rule)
			if r.Outcome != c.outcome || !strings.Contains(text(r), c.says) {
				t.Errorf("want %s with %q, got %s", c.outcome, c.says, text(r))
			}
			if bad := refusing(v); c.outcome.Refuses() != (len(bad) > 0) || v.Allowed == c.outcome.Refuses() {
				t.Errorf("refused by %q", bad)
			} else if len(bad) > 1 {
				// A claim that several rules stand on may be missing for all of them.
				for _, id := range bad {
					if id != c.rule && !strings.Contains(text(result(t, v, id)), ": see "+c.rule) {
						t.Errorf("%s refuses as well: %s", id, text(result(t, v, id)))
					}
				}
			}
			if r.Outcome.Refuses() && r.Remedy == "" {
				t.Error("no remedy")
			}
		})
	}
}

// TestReasonsOnce: the same finding told twice is one reason.
func TestReasonsOnce(t *testing.T) {
	in := perfect(sample())
	f := inspect.Finding{Rule: inspect.RuleShell, Subject: "sh", Path: "/bin/sh", Evidence: "x"}
	in.Facts.Findings = []inspect.Finding{f, f, f}
	if r := result(t, Evaluate(in), inspect.RuleShell); len(r.Reasons) != 1 {
		t.Errorf("%+v", r.Reasons)
	}
}

// TestWorseStays: of two reasons that say the same the worse outcome decides,
// whichever comes first.
func TestWorseStays(t *testing.T) {
	r := Reason{Subject: "s", Message: "m"}
	noted, failed := r, r
	noted.Outcome, failed.Outcome = Noted, Fail
	for _, list := range [][]Reason{{noted, failed}, {failed, noted}} {
		if got := unique(list); len(got) != 1 || got[0].Outcome != Fail {
			t.Errorf("%+v", got)
		}
	}
}

func TestDevelopment(t *testing.T) {
	f := sample()
	f.Zone = inspect.ZoneMarkers{Label: "development", Annotation: "development", Agree: true}
	f.Findings = []inspect.Finding{{Rule: inspect.RuleShell, Subject: "bash"}, {Rule: inspect.RuleRootUser}, {Rule: inspect.RuleSecret, Subject: "key"}, {Rule: inspect.RuleUnreadable, Path: "/x.zip"}}
	in := Input{Facts: f, Zone: oci.Development, Now: now}
	v := Evaluate(in)
	if !v.Allowed || len(v.Levels) > 0 || result(t, v, inspect.RuleSecret).Outcome != Noted {
		t.Errorf("refused: %q", refusing(v))
	}
	// The one thing that is always asked.
	for name, change := range map[string]func(){
		"production label":      func() { f.Zone.Label = "production" },
		"no label":              func() { f.Zone.Label = "" },
		"no annotation":         func() { f.Zone.Annotation = "" },
		"production repository": func() { in.Repository = "registry.example/shop/app" },
		"not read":              func() { f.Complete = false },
	} {
		old, oldIn := *f, in
		change()
		if Evaluate(in).Allowed {
			t.Errorf("%s: allowed", name)
		}
		*f, in = old, oldIn
	}
	in.Repository = "registry.example/shop/app/dev"
	if v := Evaluate(in); !v.Allowed {
		t.Errorf("refused: %q", refusing(v))
	}
	// Judged as production it is refused whatever it says of itself.
	in.Zone = oci.Production
	if v := Evaluate(in); v.Allowed || !slices.Contains(refusing(v), RuleZone) || !slices.Contains(refusing(v), inspect.RuleShell) {
		t.Errorf("refused: %q", refusing(v))
	}
}

func TestCatalog(t *testing.T) {
	for repository, want := range map[string][2]string{
		"r.example/a/dev": {"development", "r.example/a"}, "r.example/a/candidate": {"production", "r.example/a"},
		"r.example/a": {"production", "r.example/a"}, "r.example/dev/a": {"production", "r.example/dev/a"}, "r.example/adev": {"production", "r.example/adev"},
		"r.example/a/dev/candidate": {"development", "r.example/a"},
	} {
		if z, p := Catalog(repository); string(z) != want[0] || p != want[1] {
			t.Errorf("%s: %s %s", repository, z, p)
		}
	}
}

// BenchmarkEvaluate judges an image as large as a real production image: 3000
// paths, 120 packages, 40 vulnerabilities, ten findings.
func BenchmarkEvaluate(b *testing.B) {
	in := large()
	if v := Evaluate(in); !v.Allowed {
		b.Fatalf("refused: %q", refusing(v))
	}
	b.ReportAllocs()
	for b.Loop() {
		Evaluate(in)
	}
}

func large() Input {
	f := sample()
	f.Tree = f.Tree[:0]
	for i := range 3000 {
		f.Tree = append(f.Tree, inspect.File{Path: fmt.Sprintf("app/node_modules/p%03d/file%04d.js", i/25, i), Type: tar.TypeReg, SHA256: sum(fmt.Sprint(i))})
	}
	for i := range 120 {
		kind, purl := inspect.NPM, fmt.Sprintf("pkg:npm/%%40scope/package%d@1.%d.0", i, i)
		if i < 40 {
			kind, purl = inspect.Deb, fmt.Sprintf("pkg:deb/debian/lib%d@1:2.%d%%2Bdeb13u1?arch=amd64&distro=debian-13", i, i)
		}
		f.Packages = append(f.Packages, inspect.Package{Type: kind, Name: fmt.Sprintf("package%d", i), Version: "1", PURL: purl, Location: fmt.Sprintf("/app/node_modules/p%d/package.json", i)})
	}
	for i := range 10 {
		f.Findings = append(f.Findings, inspect.Finding{Rule: inspect.RuleTestFiles, Subject: "tests", Path: fmt.Sprint("/app/node_modules/", i), Dependency: true})
	}
	in := perfect(f)
	for i := range 40 {
		in.Evidence.Scan.Found = append(in.Evidence.Scan.Found, Vulnerability{ID: fmt.Sprintf("CVE-2026-%d", i), Aliases: []string{fmt.Sprintf("GHSA-%d", i)}, Package: f.Packages[i].PURL, Name: f.Packages[i].Name, Version: "1", Severity: Medium})
	}
	return in
}
