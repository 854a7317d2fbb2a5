package vuln

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	vulns "github.com/in-toto/attestation/go/predicates/vulns/v02"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

func report(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReports(t *testing.T) {
	const (
		config   = oci.Digest("sha256:1111111111111111111111111111111111111111111111111111111111111111")
		manifest = oci.Digest("sha256:2222222222222222222222222222222222222222222222222222222222222222")
		repo     = oci.Digest("sha256:3333333333333333333333333333333333333333333333333333333333333333")
	)
	ws := Finding{ID: "CVE-2024-37890", Aliases: []string{"GHSA-3h5v-q93c-6h6q"}, Type: "npm", Package: "ws", Version: "8.17.0", PURL: "pkg:npm/ws@8.17.0", Locations: []string{"/app/node_modules/ws/package.json"}}
	libc := Finding{ID: "CVE-2024-2961", Type: "deb", Package: "libc6", Version: "2.41-12", PURL: "pkg:deb/debian/libc6@2.41-12?arch=amd64"}
	change := func(f Finding, by func(*Finding)) Finding { by(&f); return f }
	for name, want := range map[string]Report{
		"grype": {Format: "grype", Scanner: "grype 0.104.1", Created: time.Date(2026, 11, 21, 10, 0, 0, 5e8, time.UTC), Data: time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC), Images: []oci.Digest{config, manifest, repo}, Findings: []Finding{
			change(libc, func(f *Finding) {
				f.Upstream, f.Locations, f.Severity = "glibc", []string{"/var/lib/dpkg/status"}, Severity{Level: LevelUnknown}
			}),
			change(ws, func(f *Finding) {
				f.Fixed, f.Summary, f.Severity = "8.17.1", "ws affected by a DoS", Severity{LevelHigh, 7.5, "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H", "CVSS_V3"}
			}),
		}},
		"trivy": {Format: "trivy", Scanner: "trivy 0.74.0", Created: time.Date(2026, 11, 21, 9, 0, 0, 123456789, time.UTC), Images: []oci.Digest{config, repo}, Findings: []Finding{
			change(libc, func(f *Finding) {
				f.Fixed, f.Summary, f.Severity = "2.41-13", "glibc: out of bounds", Severity{LevelHigh, 7.8, "CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", "CVSS_V3"}
				f.Published, f.Modified = time.Date(2024, 4, 17, 18, 15, 15, 0, time.UTC), time.Date(2024, 7, 1, 0, 0, 0, 0, time.UTC)
			}),
			change(ws, func(f *Finding) { f.Fixed, f.Severity = "5.2.4", Severity{Level: LevelHigh, Method: "report"} }),
		}},
		"sarif": {Format: "sarif", Scanner: "trivy 0.74.0", Images: []oci.Digest{config}, Findings: []Finding{
			change(ws, func(f *Finding) {
				f.Aliases, f.Type, f.PURL, f.Fixed, f.Summary, f.Severity = nil, "", "", "8.17.1", "nodejs-ws: denial of service", Severity{Level: LevelHigh, Score: 7.5, Method: "report"}
			}),
			change(libc, func(f *Finding) {
				f.Summary, f.Severity = "libc6 vulnerability", Severity{Level: LevelHigh, Score: 8.8, Method: "report"}
			}),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseReport(report(t, name))
			if err != nil {
				t.Fatal(err)
			}
			for i := range want.Findings {
				want.Findings[i].Source = want.Scanner
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !got.About(config) || got.About(oci.Digest("sha256:"+strings.Repeat("4", 64))) || (Report{}).About(config) {
				t.Error("the report is about something else")
			}
		})
	}
}

func TestBadReports(t *testing.T) {
	edit := func(name, old, new string) []byte {
		text := string(report(t, name))
		if !strings.Contains(text, old) {
			t.Fatalf("%s has no %q", name, old)
		}
		return []byte(strings.ReplaceAll(text, old, new))
	}
	for _, tt := range []struct {
		name, want string
		data       []byte
	}{
		{"empty", "EOF", nil},
		{"another document", "no known kind", []byte(`{}`)},
		{"two kinds", "no known kind", edit("grype", `"matches"`, `"runs":[],"matches"`)},
		{"cut off", "", report(t, "trivy")[:500]},
		{"grype without its end", "descriptor", []byte(`{"matches":[]}`)},
		{"duplicate key", "duplicate", edit("grype", `"severity": "High"`, `"severity":"Low","severity":"High"`)},
		{"trivy of another version", "SchemaVersion 1", edit("trivy", `"SchemaVersion": 2`, `"SchemaVersion": 1`)},
		{"SARIF of another version", "2.0.0", edit("sarif", `"version": "2.1.0"`, `"version": "2.0.0"`)},
		{"SARIF without a run", "nothing was scanned", []byte(`{"version":"2.1.0","runs":[]}`)},
		{"SARIF of a linter", "no vulnerability", edit("sarif", `CVE-2024-37890`, `no-unused-vars`)},
		{"id that is none", "not a name", edit("trivy", `"CVE-2024-2961"`, `"CVE 2024; rm"`)},
		{"version with a line break", "no name or version", edit("trivy", `"InstalledVersion": "8.17.0"`, `"InstalledVersion": "8\n17"`)},
		{"too many values", "values", []byte(`{"matches":[` + strings.Repeat("{},", maxReportValues) + `{}]}`)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r, err := ParseReport(tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v (%d findings), want %q", err, len(r.Findings), tt.want)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	first := []Finding{{ID: "GHSA-3h5v-q93c-6h6q", Aliases: []string{"CVE-2024-37890"}, Type: "npm", Package: "ws", Version: "8.17.0", Severity: Severity{Level: LevelUnknown}, Source: SourceOSV}}
	r, err := ParseReport(report(t, "trivy"))
	if err != nil {
		t.Fatal(err)
	}
	got := Merge(first, r.Findings)
	if len(got) != 2 || got[0].ID != "CVE-2024-2961" || got[1].Source != "osv, trivy 0.74.0" || got[1].Severity.Level != LevelHigh {
		t.Errorf("%+v", got)
	}
	if first[0].Source != SourceOSV {
		t.Error("the first list was changed")
	}
	if again := Merge(got, r.Findings); len(again) != 2 || again[1].Source != got[1].Source {
		t.Errorf("merged twice: %+v", again)
	}
}

// scanned is a result with one finding.
func scanned(t testing.TB) Result {
	db := mustOpen(t, ImportOptions{}, feed(t, map[string][]byte{"npm": zipOf(t, rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, critical+`,"aliases":["CVE-2026-1001"]`))}))
	return match(t, db, inspect.OSRelease{}, npm("left", "1.0.0"))
}

func TestPredicate(t *testing.T) {
	r := scanned(t)
	p, err := Make(r, "1.2.3", now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	st, err := evidence.New("app", oci.Digest("sha256:"+strings.Repeat("1", 64)), evidence.TypeVulns, p)
	if err != nil {
		t.Fatal(err)
	}
	read, err := evidence.Parse(st)
	if err != nil {
		t.Fatal(err)
	}
	if at, ok := read.Time(); !ok || !at.Equal(now.Add(time.Minute)) {
		t.Errorf("the statement's time is %v, %v", at, ok)
	}
	c, err := Parse(read.PredicateType, read.Predicate)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Findings, c.Findings); diff != "" {
		t.Errorf("findings (-made +read):\n%s", diff)
	}
	if !c.Complete || c.Scanner != ScannerURI || c.Version != "1.2.3" || !c.Data.Equal(r.Ecosystems[0].Newest) || c.Database != r.Database.Digest.String() {
		t.Errorf("%+v", c)
	}
	// What others read is the specification's own form.
	var foreign vulns.Vulns
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(read.Predicate, &foreign); err != nil {
		t.Fatal(err)
	}
	if got := foreign.GetScanner().GetResult(); len(got) != 1 || got[0].GetId() != "CVE-2026-1001" || got[0].GetSeverity()[1].GetScore() != "9.8" {
		t.Errorf("another reader sees %v", got)
	}
	again, _ := Make(scanned(t), "1.2.3", now.Add(time.Minute))
	a, _ := json.Marshal(p)
	b, _ := json.Marshal(again)
	if string(a) != string(b) {
		t.Error("equal results have different predicates")
	}
	for _, bad := range []Result{{}, {Scanned: now}} {
		if _, err := Make(bad, "", now); err == nil {
			t.Error("a result of nothing became a claim")
		}
	}
	if _, err := Make(r, "", now.Add(-time.Second)); err == nil {
		t.Error("a scan ended before it began")
	}
}

func TestBadPredicates(t *testing.T) {
	p, err := Make(scanned(t), "1.2.3", now)
	if err != nil {
		t.Fatal(err)
	}
	good, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{`"level","score":"critical"`, `"level","score":"low"`, "twinhull_finding"},
		{`"id":"CVE-2026-1001","severity"`, `"id":"CVE-2026-1002","severity"`, "twinhull_finding"},
		{`"annotations"`, `"notes"`, "no twinhull_finding"},
		{`"answered":true`, `"answered":false`, "said to be complete"},
		{`"lastUpdate":"2026`, `"lastUpdate":"in 2026`, "RFC 3339"},
		{`"scanFinishedOn"`, `"x"`, "RFC 3339"},
		{`"twinhull_complete":true`, `"twinhull_complete":true,"twinhull_undecided":[{"id":"X-1","package":"p"}]`, "was not decided"},
		{`"scanner":{`, `"scanner":{"uri":"x",`, "duplicate"},
		{`"source":"osv"`, `"source":""`, "no source"},
		{`"version":"sha256:`, `"version":"sha9:`, "database"},
	} {
		text := strings.Replace(string(good), tt.old, tt.new, 1)
		if text == string(good) {
			t.Fatalf("%q is not there in %s", tt.old, good)
		}
		if _, err := Parse(evidence.TypeVulns, json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.new, err, tt.want)
		}
	}
	if _, err := Parse(evidence.TypeVEX, good); err == nil {
		t.Error("a VEX document was read as a scan")
	}
	// Another scanner cannot say that it is complete, nor speak as osv.
	foreign := strings.Replace(string(good), ScannerURI, "https://scanner.example", 1)
	c, err := Parse(evidence.TypeVulns, json.RawMessage(foreign))
	if err != nil || c.Complete || c.Findings[0].Source != "https://scanner.example" || c.Findings[0].Severity.Level != LevelCritical {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestCosignPredicate reads the older form, in which the result is a scanner's
// report.
func TestCosignPredicate(t *testing.T) {
	text := `{"invocation":{},"scanner":{"uri":"pkg:github/aquasecurity/trivy@0.74.0","version":"0.74.0","db":{"uri":"","version":"","lastUpdate":"2026-11-20T00:00:00Z"},"result":` + string(report(t, "trivy")) + `},"metadata":{"scanStartedOn":"2026-11-21T09:00:00Z","scanFinishedOn":"2026-11-21T09:00:05Z"}}`
	c, err := Parse(evidence.TypeVulnsCosign, json.RawMessage(text))
	if err != nil {
		t.Fatal(err)
	}
	if c.Complete || !slices.Equal(ids(c.Findings), []string{"CVE-2024-2961", "CVE-2024-37890"}) {
		t.Errorf("%+v", c)
	}
	if _, err := Parse(evidence.TypeVulnsCosign, json.RawMessage(`{"scanner":{"uri":"x","db":{"lastUpdate":"2026-11-20T00:00:00Z"},"result":[]},"metadata":{"scanFinishedOn":"2026-11-21T09:00:05Z"}}`)); err == nil {
		t.Error("a result of no known form was read as no findings")
	}
}

func TestSeverity(t *testing.T) {
	// Scores as first.org's calculators give them.
	for vector, want := range map[string]Severity{
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H":          {Level: LevelCritical, Score: 9.8, Method: "CVSS_V3"},
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H":          {Level: LevelCritical, Score: 10, Method: "CVSS_V3"},
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N":          {Level: LevelMedium, Score: 6.1, Method: "CVSS_V3"},
		"CVSS:3.0/AV:L/AC:H/PR:L/UI:N/S:U/C:L/I:N/A:N":          {Level: LevelLow, Score: 2.5, Method: "CVSS_V3"},
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N":          {Level: LevelNone, Score: 0, Method: "CVSS_V3"},
		"CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:H/I:H/A:N/E:P/RL:O": {Level: LevelCritical, Score: 9.6, Method: "CVSS_V3"},
		"AV:N/AC:L/Au:N/C:C/I:C/A:C":                            {Level: LevelCritical, Score: 10, Method: "CVSS_V2"},
		"(AV:N/AC:M/Au:N/C:P/I:N/A:N)":                          {Level: LevelMedium, Score: 4.3, Method: "CVSS_V2"},
	} {
		want.Vector = vector
		if diff := cmp.Diff(want, ofVector(vector)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", vector, diff)
		}
	}
	v4 := "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"
	if got := ofVector(v4); got.Level != LevelUnknown || got.Vector != v4 {
		t.Errorf("v4: %+v", got)
	}
	for _, bad := range []string{"", "CVSS:3.1", "CVSS:3.1/AV:N", "CVSS:3.1/AV:N/AV:L/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H/ZZ:1", "CVSS:9/AV:N", "high"} {
		if got := ofVector(bad); got.Level != LevelUnknown || got.Score != 0 {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	// The word of the database counts when nothing can be computed, and an
	// unknown level is at least anything.
	if got := severityOf([]wireSeverity{{"CVSS_V4", v4}}, "HIGH", ""); got.Level != LevelHigh || got.Vector != v4 {
		t.Errorf("%+v", got)
	}
	if got := severityOf(nil, "not yet assigned", "Debian urgency"); got.Level != LevelUnknown || !got.Level.AtLeast(LevelCritical) {
		t.Errorf("%+v", got)
	}
	if LevelMedium.AtLeast(LevelHigh) || !LevelHigh.AtLeast(LevelHigh) || !Level("").AtLeast(LevelCritical) {
		t.Error("levels are in another order")
	}
}
