package vuln

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/evidence/vuln/version"
	"twinhull.dev/twinhull/internal/inspect"
)

// realData is a folder of records that OSV's sources published, named by the
// machine: they are too large to keep here, and belong to others.
func realData(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TWINHULL_TEST_OSV")
	if dir == "" {
		// Beside the checkout, where a build machine may keep it.
		dir = filepath.Join("..", "..", "..", "..", "shared", "osv")
	}
	if _, err := os.Stat(filepath.Join(dir, "Go", "all.zip")); err != nil {
		t.Skip("no OSV records here: name a folder with Go/all.zip, PyPI/all.zip … in TWINHULL_TEST_OSV")
	}
	return dir
}

// TestRealData asks what is known of versions whose vulnerabilities are known.
func TestRealData(t *testing.T) {
	db := mustOpen(t, ImportOptions{Now: time.Now(), AsOf: time.Date(2026, 8, 21, 0, 0, 0, 0, time.UTC)}, realData(t))
	s := db.Status()
	if s.Records < 6000 || len(s.Sources) != 4 {
		t.Errorf("%+v", s)
	}
	for _, tt := range []struct {
		pkg  inspect.Package
		id   string
		want bool
	}{
		{inspect.Package{Type: inspect.NPM, Name: "ws", Version: "8.17.0"}, "CVE-2024-37890", true},
		{inspect.Package{Type: inspect.NPM, Name: "ws", Version: "8.17.1"}, "CVE-2024-37890", false},
		{inspect.Package{Type: inspect.NPM, Name: "node-fetch", Version: "2.6.6"}, "CVE-2022-0235", true},
		{inspect.Package{Type: inspect.NPM, Name: "socket.io-parser", Version: "3.4.2"}, "CVE-2023-32695", true},
		{inspect.Package{Type: inspect.NPM, Name: "socket.io-parser", Version: "3.4.3"}, "CVE-2023-32695", false},
		{inspect.Package{Type: inspect.PyPI, Name: "Django", Version: "4.2.15"}, "CVE-2024-45230", true},
		{inspect.Package{Type: inspect.PyPI, Name: "django", Version: "4.2.16"}, "CVE-2024-45230", false},
		{inspect.Package{Type: inspect.PyPI, Name: "requests", Version: "2.31.0"}, "CVE-2023-32681", false},
		{inspect.Package{Type: inspect.PyPI, Name: "requests", Version: "2.30.0"}, "CVE-2023-32681", true},
		{inspect.Package{Type: inspect.Golang, Name: "golang.org/x/net", Version: "v0.16.0"}, "CVE-2023-39325", true},
		{inspect.Package{Type: inspect.Golang, Name: "golang.org/x/net", Version: "v0.17.0"}, "CVE-2023-39325", false},
		{inspect.Package{Type: inspect.Golang, Name: "stdlib", Version: "1.21.2"}, "CVE-2023-39325", true},
		{inspect.Package{Type: inspect.Golang, Name: "stdlib", Version: "1.21.3"}, "CVE-2023-39325", false},
		{inspect.Package{Type: inspect.Golang, Name: "github.com/miekg/dns", Version: "v1.0.3"}, "CVE-2017-15133", true},
		{inspect.Package{Type: inspect.Deb, Name: "binutils", Version: "2.40-2"}, "CVE-2023-1972", true},
	} {
		tt.pkg.PURL = "pkg:" + tt.pkg.Type + "/" + tt.pkg.Name + "@" + tt.pkg.Version
		r, err := db.Match(t.Context(), []inspect.Package{tt.pkg}, inspect.OSRelease{ID: "debian", VersionID: "12"}, MatchOptions{Now: time.Now(), MaxAge: 100 * 365 * 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range r.Findings {
			if f.ID == tt.id {
				n++
			}
		}
		if (n == 1) != tt.want || n > 1 {
			t.Errorf("%s %s: %s found %d times, want %v: %v", tt.pkg.Name, tt.pkg.Version, tt.id, n, tt.want, ids(r.Findings))
		}
		if len(r.Undecided) > 0 {
			t.Errorf("%s: %+v", tt.pkg.Name, r.Undecided)
		}
	}
}

// TestRealDecidable: of the versions that records list, next to none are beyond
// this program, and the order of versions agrees with the lists.
func TestRealDecidable(t *testing.T) {
	path := filepath.Join(realData(t), "PyPI", "all.zip")
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	total, unread, disagree := 0, 0, 0
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		_, err = b.ReadFrom(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		rec, err := parseRecord(b.Bytes())
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		for _, l := range rec.packages {
			for _, s := range l.entry.Affected {
				ranges := scope{Ranges: slices.DeleteFunc(slices.Clone(s.Ranges), func(g span) bool { return g.Type == "G" })}
				if len(ranges.Ranges) == 0 {
					continue
				}
				for i := 0; i < len(s.Versions); i += 10 {
					v := s.Versions[i]
					total++
					if _, err := version.Parse(version.PyPI, v); err != nil {
						unread++
						continue
					}
					if got, _ := ranges.has(installed{v, "PyPI"}); got != affected {
						disagree++
					}
				}
			}
		}
	}
	t.Logf("%d versions are listed; %d are no versions of PEP 440, %d are in no range", total, unread, disagree)
	if total < 10_000 || unread*1000 > total || disagree*200 > total {
		t.Error("too many of them")
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, critical)), "1.0.0")
	f.Add([]byte(rec("DSA-1-1", "Debian:13", "glibc", `{"introduced":"0"},{"last_affected":"2.41"}`, `,"upstream":["CVE-1","CVE-2"]`)), "2.41-1")
	f.Add([]byte(`{"id":"A-1","affected":[{"package":{"ecosystem":"PyPI","name":"A_b"},"versions":["1.0"],"ranges":[{"type":"GIT"},{"type":"SEMVER","events":[{"limit":"*"}]}]}]}`), "1.0+x")
	f.Fuzz(func(t *testing.T, data []byte, v string) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		for _, l := range r.packages {
			b, err := json.Marshal(l.entry)
			if err != nil {
				t.Fatal(err)
			}
			var back entry
			if err := json.Unmarshal(b, &back); err != nil {
				t.Fatal(err)
			}
			in := installed{v, l.ecosystem}
			got, why := l.entry.affects(in)
			if again, _ := back.affects(in); again != got {
				t.Errorf("%v before and %v after it was kept: %s", got, again, b)
			}
			if (got == cannotTell) != (why != "") {
				t.Errorf("verdict %v, because %q", got, why)
			}
			fixedIn([]*entry{&back}, in)
			group([]*entry{&back, &l.entry})
		}
	})
}

func FuzzZip(f *testing.F) {
	f.Add(forge([]member{{name: "A-1.json", data: one("A-1"), method: 8, size: -1}}, -1))
	f.Add(forge([]member{{name: "A-1.json", data: one("A-1"), size: -1}, {name: "A-2.json", data: one("A-2"), method: 8, size: -1}}, -1))
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := openZip(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for range 100 {
			m, err := z.next(1 << 16)
			if err != nil {
				return
			}
			if len(m.data) > 1<<16 || len(m.name) > maxZipName {
				t.Errorf("%d bytes in %q", len(m.data), m.name)
			}
		}
	})
}

func FuzzDatabase(f *testing.F) {
	dir := f.TempDir()
	if _, err := importInto(f, dir, ImportOptions{}, feed(f, map[string][]byte{"npm": zipOf(f, rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, critical))})); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		// Give what is behind the digest a chance to be reached.
		db, err := read(bytes.NewReader(reseal(data)), int64(len(data)))
		if err != nil {
			return
		}
		defer db.Close()
		_, _ = db.Match(t.Context(), []inspect.Package{npm("left", "1.0.0")}, inspect.OSRelease{}, MatchOptions{Now: now})
	})
}

func FuzzReport(f *testing.F) {
	for _, name := range []string{"grype", "trivy", "sarif"} {
		f.Add(report(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseReport(data)
		if err != nil {
			return
		}
		if r.Scanner == "" {
			t.Error("a report of nobody")
		}
		for _, x := range r.Findings {
			if x.ID == "" || x.Source == "" {
				t.Errorf("%+v", x)
			}
			if _, err := ParseLevel(string(x.Severity.Level)); err != nil {
				t.Error(err)
			}
		}
		Merge(r.Findings, r.Findings)
	})
}

func FuzzPredicate(f *testing.F) {
	p, err := Make(scanned(f), "1", now)
	if err != nil {
		f.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("https://in-toto.io/attestation/vulns/v0.2", data)
		if err == nil && c.Complete && len(c.Undecided) > 0 {
			t.Error("complete, and undecided")
		}
	})
}

func FuzzVector(f *testing.F) {
	f.Add("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H")
	f.Add("AV:N/AC:L/Au:N/C:C/I:C/A:C")
	f.Fuzz(func(t *testing.T, v string) {
		s := ofVector(v)
		if s.Score < 0 || s.Score > 10 || s.Level == "" {
			t.Errorf("%q: %+v", v, s)
		}
	})
}
