package vuln

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

// MaxReport is the largest report of another scanner that is read, in bytes.
const MaxReport = 64 << 20

// maxReportValues bounds what a report may cost in memory.
const maxReportValues = 4_000_000

// Report is what another scanner said. Nothing in it was checked: a second
// opinion can add to what is known, never take away.
type Report struct {
	Format   string       // "grype", "trivy", "sarif"
	Scanner  string       // "grype 0.104.1"
	Created  time.Time    // zero when it does not say
	Data     time.Time    // date of its database; zero when it does not say
	Images   []oci.Digest // digests by which it names the image: manifest, configuration, repository digest. Empty: it does not say
	Findings []Finding    // by package, version, ID
}

// About tells whether the report names one of the digests. A report that names
// no image is about none.
func (r Report) About(digests ...oci.Digest) bool {
	return slices.ContainsFunc(digests, func(d oci.Digest) bool { return slices.Contains(r.Images, d) })
}

// ParseReport reads the JSON of grype, the JSON of trivy, or SARIF 2.1.0.
func ParseReport(data []byte) (Report, error) {
	if len(data) > MaxReport {
		return Report{}, fmt.Errorf("a report of %d bytes: at most %d are read", len(data), MaxReport)
	}
	if !countValues(data, maxReportValues) {
		return Report{}, fmt.Errorf("a report of more than %d values", maxReportValues)
	}
	var form struct {
		Matches       json.RawMessage `json:"matches"`       // grype
		SchemaVersion json.RawMessage `json:"SchemaVersion"` // trivy
		Runs          json.RawMessage `json:"runs"`          // SARIF
		Version       json.RawMessage `json:"version"`       // SARIF
	}
	if err := strictjson.UnmarshalLarge(data, &form, MaxReport); err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	given := 0
	for _, part := range []json.RawMessage{form.Matches, form.SchemaVersion, form.Runs} {
		if part != nil {
			given++
		}
	}
	if given != 1 {
		return Report{}, errors.New("a report of no known kind: want JSON of grype (matches), of trivy (SchemaVersion) or SARIF (runs)")
	}
	var r Report
	var err error
	switch {
	case form.Matches != nil:
		r, err = parseGrype(data)
	case form.SchemaVersion != nil:
		r, err = parseTrivy(data)
	default:
		r, err = parseSARIF(data)
	}
	if err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Source = r.Scanner
		if err := f.tidy(); err != nil {
			return Report{}, fmt.Errorf("report: %w", err)
		}
	}
	Sort(r.Findings)
	r.Findings = joinEqual(r.Findings)
	slices.Sort(r.Images)
	r.Images = slices.Compact(r.Images)
	return r, nil
}

// joinEqual makes one of findings of the same vulnerability in the same package
// that lie beside each other, with all their locations.
func joinEqual(list []Finding) []Finding {
	out := list[:0]
	for _, f := range list {
		if n := len(out); n > 0 && out[n-1].ID == f.ID && out[n-1].Package == f.Package && out[n-1].Version == f.Version && out[n-1].PURL == f.PURL && out[n-1].Type == f.Type {
			o := &out[n-1]
			o.Locations = append(o.Locations, f.Locations...)
			slices.Sort(o.Locations)
			o.Locations = slices.Compact(o.Locations)
			o.Severity = worse(o.Severity, f.Severity)
			o.Fixed = cmp.Or(o.Fixed, f.Fixed)
			o.ID, o.Aliases = nameOf(append(o.IDs(), f.IDs()...))
			continue
		}
		out = append(out, f)
	}
	return out
}

// tidy bounds and checks what came from a report.
func (f *Finding) tidy() error {
	names := append([]string{f.ID}, f.Aliases...)
	if len(names) > maxNames {
		return fmt.Errorf("%.60q has %d names", f.ID, len(names))
	}
	for _, n := range names {
		if !idForm.MatchString(n) {
			return fmt.Errorf("vulnerability %.60q: not a name", n)
		}
	}
	f.ID, f.Aliases = nameOf(names)
	for _, s := range []string{f.Package, f.Version, f.PURL, f.Fixed} {
		if s != "" && !plain(s, 2048) {
			return fmt.Errorf("%s: %.60q is no name or version", f.ID, s)
		}
	}
	if len(f.Locations) > 100 {
		f.Locations = f.Locations[:100]
	}
	f.Summary = oneLine(f.Summary)
	if f.Severity.Level == "" {
		f.Severity = Severity{Level: LevelUnknown}
	}
	return nil
}

// types are what scanners call the types of packages.
var types = map[string]string{
	"deb": inspect.Deb, "debian": inspect.Deb, "ubuntu": inspect.Deb, "dpkg": inspect.Deb,
	"apk": inspect.Apk, "alpine": inspect.Apk, "wolfi": inspect.Apk, "chainguard": inspect.Apk,
	"rpm": inspect.RPM, "redhat": inspect.RPM, "centos": inspect.RPM, "rocky": inspect.RPM, "alma": inspect.RPM, "amazon": inspect.RPM, "oracle": inspect.RPM, "fedora": inspect.RPM,
	"npm": inspect.NPM, "node-pkg": inspect.NPM, "yarn": inspect.NPM, "pnpm": inspect.NPM,
	"python": inspect.PyPI, "pypi": inspect.PyPI, "python-pkg": inspect.PyPI, "pip": inspect.PyPI, "pipenv": inspect.PyPI, "poetry": inspect.PyPI, "uv": inspect.PyPI,
	"go-module": inspect.Golang, "golang": inspect.Golang, "gobinary": inspect.Golang, "gomod": inspect.Golang,
	"rust-crate": inspect.Cargo, "cargo": inspect.Cargo, "rustbinary": inspect.Cargo,
	"gem": inspect.Gem, "gemspec": inspect.Gem, "bundler": inspect.Gem,
	"php-composer": inspect.Composer, "composer": inspect.Composer, "composer-vendor": inspect.Composer,
	"java-archive": inspect.Maven, "maven": inspect.Maven, "jar": inspect.Maven, "pom": inspect.Maven, "gradle": inspect.Maven,
}

// typeOf is a package's type, by its package URL when there is one.
func typeOf(purl, word string) string {
	if rest, ok := strings.CutPrefix(purl, "pkg:"); ok {
		kind, _, _ := strings.Cut(rest, "/")
		if t, ok := types[strings.ToLower(kind)]; ok {
			return t
		}
	}
	return types[strings.ToLower(word)]
}

var digestRE = regexp.MustCompile(`sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}`)

func digestsIn(texts ...string) []oci.Digest {
	var out []oci.Digest
	for _, t := range texts {
		if d := oci.Digest(digestRE.FindString(t)); d.Validate() == nil {
			out = append(out, d)
		}
	}
	return out
}

// timeOr reads a time that a report may leave out or write in its own way.
func timeOr(texts ...string) time.Time {
	for _, s := range texts {
		if t, err := time.Parse(time.RFC3339, s); err == nil && t.Year() > 1970 {
			return t.UTC()
		}
	}
	return time.Time{}
}

// scored is a severity that a report gives as a vector, a score and a word.
func scored(vector string, score float64, word string) Severity {
	s := ofVector(vector)
	if s.Level == LevelUnknown && score > 0 && score <= 10 {
		s.Level, s.Score, s.Method = levelOf(score), score, "report"
	}
	// A scanner's word may be the distribution's, which knows its own builds; the
	// more worrying one counts.
	if l := levelWord(word); l != LevelUnknown {
		s = worse(s, Severity{Level: l, Vector: s.Vector, Method: "report"})
	}
	return s
}

func parseGrype(data []byte) (Report, error) {
	type vulnerability struct {
		ID          string `json:"id"`
		Severity    string `json:"severity"`
		Description string `json:"description"`
		CVSS        []struct {
			Vector  string `json:"vector"`
			Metrics struct {
				BaseScore float64 `json:"baseScore"`
			} `json:"metrics"`
		} `json:"cvss"`
		Fix struct {
			Versions []string `json:"versions"`
		} `json:"fix"`
	}
	var w struct {
		Matches []struct {
			Vulnerability vulnerability   `json:"vulnerability"`
			Related       []vulnerability `json:"relatedVulnerabilities"`
			Artifact      struct {
				Name      string `json:"name"`
				Version   string `json:"version"`
				Type      string `json:"type"`
				PURL      string `json:"purl"`
				Locations []struct {
					Path string `json:"path"`
				} `json:"locations"`
				Upstreams []struct {
					Name string `json:"name"`
				} `json:"upstreams"`
			} `json:"artifact"`
		} `json:"matches"`
		Source struct {
			Target json.RawMessage `json:"target"`
		} `json:"source"`
		Descriptor struct {
			Name      string `json:"name"`
			Version   string `json:"version"`
			Timestamp string `json:"timestamp"`
			DB        struct {
				Built  string `json:"built"`
				Status struct {
					Built string `json:"built"`
				} `json:"status"`
			} `json:"db"`
		} `json:"descriptor"`
	}
	if err := strictjson.UnmarshalLarge(data, &w, MaxReport); err != nil {
		return Report{}, err
	}
	if w.Descriptor.Version == "" {
		return Report{}, errors.New("a grype report without a descriptor: is it cut off?")
	}
	r := Report{
		Format: "grype", Scanner: scanner(cmp.Or(w.Descriptor.Name, "grype"), w.Descriptor.Version),
		Created: timeOr(w.Descriptor.Timestamp), Data: timeOr(w.Descriptor.DB.Status.Built, w.Descriptor.DB.Built),
	}
	var target struct {
		ImageID        string   `json:"imageID"`
		ManifestDigest string   `json:"manifestDigest"`
		RepoDigests    []string `json:"repoDigests"`
	}
	if len(w.Source.Target) > 0 && w.Source.Target[0] == '{' { // a path otherwise
		if err := strictjson.UnmarshalLarge(w.Source.Target, &target, MaxReport); err != nil {
			return Report{}, err
		}
		r.Images = digestsIn(append(target.RepoDigests, target.ImageID, target.ManifestDigest)...)
	}
	if len(w.Matches) > maxResults {
		return Report{}, fmt.Errorf("%d matches, more than %d", len(w.Matches), maxResults)
	}
	for _, m := range w.Matches {
		f := Finding{
			ID: m.Vulnerability.ID, Package: m.Artifact.Name, Version: m.Artifact.Version, PURL: m.Artifact.PURL,
			Type: typeOf(m.Artifact.PURL, m.Artifact.Type), Summary: m.Vulnerability.Description,
		}
		severity := scored("", 0, m.Vulnerability.Severity)
		for _, c := range m.Vulnerability.CVSS {
			severity = worse(severity, scored(c.Vector, c.Metrics.BaseScore, ""))
		}
		for _, v := range m.Related {
			if v.ID != "" {
				f.Aliases = append(f.Aliases, v.ID)
			}
			f.Summary = cmp.Or(f.Summary, v.Description)
			if severity.Level == LevelUnknown {
				severity = scored("", 0, v.Severity)
			}
		}
		f.Severity = severity
		if len(m.Vulnerability.Fix.Versions) > 0 {
			f.Fixed = m.Vulnerability.Fix.Versions[0]
		}
		if len(m.Artifact.Upstreams) > 0 && m.Artifact.Upstreams[0].Name != f.Package {
			f.Upstream = m.Artifact.Upstreams[0].Name
		}
		for _, l := range m.Artifact.Locations {
			f.Locations = append(f.Locations, l.Path)
		}
		r.Findings = append(r.Findings, f)
	}
	return r, nil
}

// scanner names a program and its version.
func scanner(name, version string) string {
	return strings.TrimSpace(oneLine(name) + " " + oneLine(version))
}

func parseTrivy(data []byte) (Report, error) {
	var w struct {
		SchemaVersion int    `json:"SchemaVersion"`
		CreatedAt     string `json:"CreatedAt"`
		Trivy         struct {
			Version string `json:"Version"`
		} `json:"Trivy"`
		Metadata struct {
			ImageID     string   `json:"ImageID"`
			RepoDigests []string `json:"RepoDigests"`
		} `json:"Metadata"`
		Results []struct {
			Type            string `json:"Type"`
			Vulnerabilities []struct {
				VulnerabilityID string   `json:"VulnerabilityID"`
				VendorIDs       []string `json:"VendorIDs"`
				PkgName         string   `json:"PkgName"`
				PkgPath         string   `json:"PkgPath"`
				PkgIdentifier   struct {
					PURL string `json:"PURL"`
				} `json:"PkgIdentifier"`
				InstalledVersion string `json:"InstalledVersion"`
				FixedVersion     string `json:"FixedVersion"`
				Title            string `json:"Title"`
				Description      string `json:"Description"`
				Severity         string `json:"Severity"`
				CVSS             map[string]struct {
					V2Vector string  `json:"V2Vector"`
					V3Vector string  `json:"V3Vector"`
					V3Score  float64 `json:"V3Score"`
				} `json:"CVSS"`
				PublishedDate    string `json:"PublishedDate"`
				LastModifiedDate string `json:"LastModifiedDate"`
			} `json:"Vulnerabilities"`
		} `json:"Results"`
	}
	if err := strictjson.UnmarshalLarge(data, &w, MaxReport); err != nil {
		return Report{}, err
	}
	if w.SchemaVersion != 2 {
		return Report{}, fmt.Errorf("trivy's SchemaVersion %d, want 2", w.SchemaVersion)
	}
	r := Report{
		Format: "trivy", Scanner: scanner("trivy", w.Trivy.Version), Created: timeOr(w.CreatedAt),
		Images: digestsIn(append(w.Metadata.RepoDigests, w.Metadata.ImageID)...),
	}
	for _, res := range w.Results {
		if len(r.Findings)+len(res.Vulnerabilities) > maxResults {
			return Report{}, fmt.Errorf("more than %d vulnerabilities", maxResults)
		}
		for _, v := range res.Vulnerabilities {
			f := Finding{
				ID: v.VulnerabilityID, Package: v.PkgName, Version: v.InstalledVersion, PURL: v.PkgIdentifier.PURL,
				Type: typeOf(v.PkgIdentifier.PURL, res.Type), Summary: cmp.Or(v.Title, v.Description),
				Published: timeOr(v.PublishedDate), Modified: timeOr(v.LastModifiedDate),
			}
			// Several versions are separated by commas: one per line of releases.
			f.Fixed, _, _ = strings.Cut(v.FixedVersion, ",")
			f.Fixed = strings.TrimSpace(f.Fixed)
			f.Severity = scored("", 0, v.Severity)
			for _, name := range slices.Sorted(mapKeys(v.CVSS)) {
				c := v.CVSS[name]
				f.Severity = worse(f.Severity, scored(cmp.Or(c.V3Vector, c.V2Vector), c.V3Score, ""))
			}
			// Vendors' advisories cover several vulnerabilities; only names of
			// this one are aliases.
			for _, n := range v.VendorIDs {
				if strings.HasPrefix(n, "GHSA-") {
					f.Aliases = append(f.Aliases, n)
				}
			}
			if v.PkgPath != "" {
				f.Locations = []string{"/" + strings.TrimPrefix(v.PkgPath, "/")}
			}
			r.Findings = append(r.Findings, f)
		}
	}
	return r, nil
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// known ids begin rule ids: scanners add the package's name behind them.
var vulnerabilityID = regexp.MustCompile(`^(?:CVE-\d{4}-\d{4,}|GHSA(?:-[0-9a-z]{4}){3}|(?:GO|PYSEC|RUSTSEC|MAL|OSV)-\d{4}-\d+|(?:DSA|DLA|USN|ALPINE|DEBIAN|UBUNTU)-[0-9A-Za-z-]*\d|[A-Z]{2,10}-\d{4}[:-][0-9A-Z-]*\d)`)

func parseSARIF(data []byte) (Report, error) {
	type properties struct {
		Security string   `json:"security-severity"`
		PURLs    []string `json:"purls"`
		PURL     string   `json:"purl"`
	}
	var w struct {
		Version string `json:"version"`
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name            string `json:"name"`
					Version         string `json:"version"`
					SemanticVersion string `json:"semanticVersion"`
					Rules           []struct {
						ID    string `json:"id"`
						Short struct {
							Text string `json:"text"`
						} `json:"shortDescription"`
						Properties properties `json:"properties"`
					} `json:"rules"`
				} `json:"driver"`
			} `json:"tool"`
			Properties struct {
				ImageID     string   `json:"imageID"`
				RepoDigests []string `json:"repoDigests"`
			} `json:"properties"`
			Results []struct {
				RuleID string `json:"ruleId"`
				Kind   string `json:"kind"`
				Level  string `json:"level"`
				Rule   struct {
					ID    string `json:"id"`
					Index *int   `json:"index"`
				} `json:"rule"`
				RuleIndex *int `json:"ruleIndex"`
				Message   struct {
					Text string `json:"text"`
				} `json:"message"`
				Locations []struct {
					Physical struct {
						Artifact struct {
							URI string `json:"uri"`
						} `json:"artifactLocation"`
					} `json:"physicalLocation"`
				} `json:"locations"`
				Properties properties `json:"properties"`
			} `json:"results"`
		} `json:"runs"`
	}
	if err := strictjson.UnmarshalLarge(data, &w, MaxReport); err != nil {
		return Report{}, err
	}
	if w.Version != "2.1.0" {
		return Report{}, fmt.Errorf("SARIF version %.20q, want 2.1.0", w.Version)
	}
	r := Report{Format: "sarif"}
	var names []string
	for i, run := range w.Runs {
		d := run.Tool.Driver
		if d.Name == "" {
			return Report{}, fmt.Errorf("runs[%d] names no tool", i)
		}
		names = append(names, scanner(strings.ToLower(d.Name), cmp.Or(d.SemanticVersion, d.Version)))
		r.Images = append(r.Images, digestsIn(append(run.Properties.RepoDigests, run.Properties.ImageID)...)...)
		rules := map[string]int{}
		for j, rule := range d.Rules {
			rules[rule.ID] = j
		}
		for j, res := range run.Results {
			if res.Kind == "pass" || res.Kind == "notApplicable" {
				continue
			}
			n, id := -1, cmp.Or(res.RuleID, res.Rule.ID)
			if index := cmp.Or(res.RuleIndex, res.Rule.Index); index != nil && *index >= 0 && *index < len(d.Rules) {
				n = *index
				id = cmp.Or(id, d.Rules[n].ID)
			} else if at, ok := rules[id]; ok {
				n = at
			}
			f := Finding{ID: vulnerabilityID.FindString(id)}
			if f.ID == "" {
				return Report{}, fmt.Errorf("runs[%d].results[%d]: rule %.60q is no vulnerability: only reports of vulnerabilities are read", i, j, id)
			}
			p := res.Properties
			if n >= 0 {
				rule := d.Rules[n]
				p.Security = cmp.Or(p.Security, rule.Properties.Security)
				p.PURL = cmp.Or(p.PURL, rule.Properties.PURL)
				if len(p.PURLs) == 0 {
					p.PURLs = rule.Properties.PURLs
				}
				f.Summary = rule.Short.Text
			}
			if p.PURL == "" && len(p.PURLs) == 1 {
				p.PURL = p.PURLs[0]
			}
			f.PURL = p.PURL
			f.Type = typeOf(f.PURL, "")
			messageFields(&f, res.Message.Text)
			if f.Package == "" || f.Version == "" {
				name, version := purlNameVersion(f.PURL)
				f.Package, f.Version = cmp.Or(f.Package, name), cmp.Or(f.Version, version)
			}
			f.Summary = cmp.Or(f.Summary, res.Message.Text)
			score, _ := parseScore(p.Security)
			word := ""
			if f.Severity.Level != "" {
				word = string(f.Severity.Level)
			}
			f.Severity = scored("", score, word)
			for _, l := range res.Locations {
				if u := l.Physical.Artifact.URI; u != "" {
					f.Locations = append(f.Locations, "/"+strings.TrimPrefix(u, "/"))
				}
			}
			if r.Findings = append(r.Findings, f); len(r.Findings) > maxResults {
				return Report{}, fmt.Errorf("more than %d results", maxResults)
			}
		}
	}
	if len(names) == 0 {
		return Report{}, errors.New("SARIF without a run: nothing was scanned")
	}
	slices.Sort(names)
	r.Scanner = strings.Join(slices.Compact(names), ", ")
	return r, nil
}

// messageFields reads the lines "Package: …" that trivy writes into messages.
func messageFields(f *Finding, text string) {
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		switch v = strings.TrimSpace(v); strings.TrimSpace(k) {
		case "Package":
			f.Package = v
		case "Installed Version":
			f.Version = v
		case "Fixed Version":
			f.Fixed, _, _ = strings.Cut(v, ",")
		case "Severity":
			f.Severity.Level = levelWord(v)
		}
	}
}

// purlNameVersion reads the name and version that a package URL ends with.
func purlNameVersion(purl string) (name, version string) {
	purl, _, _ = strings.Cut(purl, "?")
	purl, _, _ = strings.Cut(purl, "#")
	rest, ok := strings.CutPrefix(purl, "pkg:")
	if !ok {
		return "", ""
	}
	_, rest, _ = strings.Cut(rest, "/")
	if i := strings.LastIndexByte(rest, '@'); i > 0 {
		rest, version = rest[:i], rest[i+1:]
	}
	if strings.HasPrefix(purl, "pkg:deb/") || strings.HasPrefix(purl, "pkg:apk/") || strings.HasPrefix(purl, "pkg:rpm/") {
		rest = rest[strings.LastIndexByte(rest, '/')+1:]
	}
	return unescape(rest), unescape(version)
}

func unescape(s string) string {
	if t, err := url.PathUnescape(s); err == nil {
		return t
	}
	return s
}
