package vuln

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/inspect"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// zipOf makes a zip as OSV publishes it.
func zipOf(t testing.TB, records ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, r := range records {
		var id struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal([]byte(r), &id); err != nil {
			t.Fatalf("%v: %s", err, r)
		}
		f, err := w.Create(id.ID + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(r)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// feed writes sources into a folder, one per ecosystem.
func feed(t testing.TB, ecosystems map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for eco, data := range ecosystems {
		if err := os.MkdirAll(filepath.Join(dir, eco), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, eco, "all.zip"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// rec is a record about one range of one package.
func rec(id, ecosystem, name, events, more string) string {
	return fmt.Sprintf(`{"id":%q,"modified":"2026-11-20T10:00:00Z","summary":"about %s","affected":[{"package":{"ecosystem":%q,"name":%q},"ranges":[{"type":"ECOSYSTEM","events":[%s]}]}]%s}`, id, name, ecosystem, name, events, more)
}

const (
	from0to2 = `{"introduced":"0"},{"fixed":"2.0.0"}`
	critical = `,"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]`
)

func importInto(t testing.TB, dir string, opt ImportOptions, paths ...string) (Status, error) {
	t.Helper()
	if opt.Now.IsZero() {
		opt.Now = now
	}
	return Import(t.Context(), dir, paths, opt)
}

func mustOpen(t testing.TB, opt ImportOptions, paths ...string) *DB {
	t.Helper()
	dir := t.TempDir()
	want, err := importInto(t, dir, opt, paths...)
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if diff := cmp.Diff(want, db.Status()); diff != "" {
		t.Errorf("what Import returned is not what is there (-returned +there):\n%s", diff)
	}
	if err := db.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.Name() != fileName && e.Name() != "lock" {
			t.Errorf("the import left %s", e.Name())
		}
	}
	return db
}

func match(t testing.TB, db *DB, os inspect.OSRelease, packages ...inspect.Package) Result {
	t.Helper()
	r, err := db.Match(t.Context(), packages, os, MatchOptions{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func npm(name, version string) inspect.Package {
	return inspect.Package{Type: inspect.NPM, Name: name, Version: version, PURL: "pkg:npm/" + name + "@" + version, Location: "/app/node_modules/" + name + "/package.json"}
}

func ids(list []Finding) []string {
	out := []string{}
	for _, f := range list {
		out = append(out, f.ID)
	}
	return out
}

func TestMatch(t *testing.T) {
	db := mustOpen(t, ImportOptions{}, feed(t, map[string][]byte{
		"npm": zipOf(t,
			rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, critical+`,"aliases":["CVE-2026-1001"],"published":"2026-11-01T00:00:00Z"`),
			rec("GHSA-bbbb-bbbb-bbbb", "npm", "left", `{"introduced":"0"},{"fixed":"2.5.0"}`, `,"aliases":["CVE-2026-1001"]`),
			rec("GHSA-cccc-cccc-cccc", "npm", "left", from0to2, `,"withdrawn":"2026-11-02T00:00:00Z"`),
			rec("GHSA-dddd-dddd-dddd", "npm", "right", `{"introduced":"1.0.0"},{"last_affected":"1.4.0"},{"introduced":"3.0.0"},{"fixed":"3.0.1"}`, `,"database_specific":{"severity":"MODERATE"}`),
		),
		"Debian": zipOf(t,
			rec("DEBIAN-CVE-2026-2001", "Debian:13", "glibc", `{"introduced":"0"},{"fixed":"2.41-12+deb13u1"}`, `,"upstream":["CVE-2026-2001"]`),
			rec("DEBIAN-CVE-2026-2002", "Debian:13", "glibc", `{"introduced":"0"}`, `,"upstream":["CVE-2026-2002"]`),
			rec("DSA-9999-1", "Debian:13", "glibc", `{"introduced":"0"},{"fixed":"2.41-12+deb13u1"}`, `,"upstream":["CVE-2026-2001","CVE-2026-2003"]`),
			rec("DEBIAN-CVE-2026-2004", "Debian:12", "glibc", `{"introduced":"0"}`, ``),
		),
	}))
	debian := inspect.OSRelease{ID: "debian", VersionID: "13", Name: "Debian GNU/Linux 13 (trixie)"}
	libc := inspect.Package{Type: inspect.Deb, Name: "libc6", Version: "2.41-12", Source: "glibc", PURL: "pkg:deb/debian/libc6@2.41-12", Location: "/var/lib/dpkg/status.d/libc6"}
	again := npm("left", "1.0.0")
	again.Location = "/app/node_modules/x/node_modules/left/package.json"
	r := match(t, db, debian, npm("left", "1.0.0"), again, npm("left", "2.0.0"), npm("right", "1.4.0"), npm("right", "1.4.1"), npm("right", "3.0.0"), libc)
	if !r.Complete {
		t.Errorf("not complete: %+v %+v", r.Ecosystems, r.Undecided)
	}
	got := []string{}
	for _, f := range r.Findings {
		got = append(got, strings.Join([]string{f.ID, f.Package, f.Version, f.Fixed, string(f.Severity.Level)}, " "))
	}
	want := []string{
		"CVE-2026-2001 libc6 2.41-12 2.41-12+deb13u1 unknown",
		"CVE-2026-2002 libc6 2.41-12  unknown",
		"CVE-2026-2003 libc6 2.41-12 2.41-12+deb13u1 unknown",
		"CVE-2026-1001 left 1.0.0 2.5.0 critical",
		"CVE-2026-1001 left 2.0.0 2.5.0 unknown",
		"GHSA-dddd-dddd-dddd right 1.4.0 3.0.1 medium",
		"GHSA-dddd-dddd-dddd right 3.0.0 3.0.1 medium",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	left := r.Findings[3]
	wantLeft := Finding{
		ID: "CVE-2026-1001", Aliases: []string{"GHSA-aaaa-aaaa-aaaa", "GHSA-bbbb-bbbb-bbbb"}, Type: "npm", Package: "left", Version: "1.0.0",
		PURL: "pkg:npm/left@1.0.0", Ecosystem: "npm", Locations: []string{"/app/node_modules/left/package.json", "/app/node_modules/x/node_modules/left/package.json"},
		Fixed: "2.5.0", Severity: Severity{LevelCritical, 9.8, "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "CVSS_V3"}, Summary: "about left",
		Published: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Modified: time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC), Source: SourceOSV,
	}
	if diff := cmp.Diff(wantLeft, left); diff != "" {
		t.Errorf("finding (-want +got):\n%s", diff)
	}
	if up := r.Findings[0].Upstream; up != "glibc" {
		t.Errorf("upstream %q", up)
	}
}

// TestCannotTell: whatever is missing, the result is not complete.
func TestCannotTell(t *testing.T) {
	npmOnly := feed(t, map[string][]byte{"npm": zipOf(t,
		rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, ""),
		`{"id":"GHSA-gggg-gggg-gggg","modified":"2026-11-20T10:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"git"},"ranges":[{"type":"GIT","repo":"https://example.com","events":[{"introduced":"0"}]}]}]}`,
		`{"id":"GHSA-hhhh-hhhh-hhhh","modified":"2026-11-20T10:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"bare"}}]}`,
		rec("GHSA-iiii-iiii-iiii", "npm", "odd", `{"introduced":"0"},{"fixed":"next tuesday"}`, ""),
		rec("GHSA-jjjj-jjjj-jjjj", "npm", "limited", `{"introduced":"0"},{"limit":"3.0.0"}`, ""),
		`{"id":"GHSA-kkkk-kkkk-kkkk","modified":"2026-11-20T10:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"listed"},"versions":["1.0.0"],"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"next tuesday"}]}]},{"package":{"ecosystem":"Maven","name":"org.example:two"},"versions":["1.0"]}]}`,
	)})
	debian := zipOf(t, rec("DEBIAN-CVE-2026-2004", "Debian:12", "glibc", `{"introduced":"0"}`, ""))
	trixie := inspect.OSRelease{ID: "debian", VersionID: "13"}
	deb := inspect.Package{Type: inspect.Deb, Name: "libc6", Version: "2.41-12", Source: "glibc"}
	for _, tt := range []struct {
		name     string
		feed     string
		os       inspect.OSRelease
		packages []inspect.Package
		want     string // in what is said
	}{
		{"ecosystem that is not held", npmOnly, inspect.OSRelease{}, []inspect.Package{{Type: inspect.PyPI, Name: "django", Version: "1.0"}}, "does not hold PyPI"},
		{"ecosystem that others' records name", npmOnly, inspect.OSRelease{}, []inspect.Package{{Type: inspect.Maven, Name: "org.example:two", Version: "1.0"}}, "does not hold Maven"},
		{"release that is not held", feed(t, map[string][]byte{"Debian": debian}), trixie, []inspect.Package{deb}, "does not hold Debian:13"},
		{"no os-release", feed(t, map[string][]byte{"Debian": debian}), inspect.OSRelease{}, []inspect.Package{deb}, "no os-release"},
		{"release without a number", feed(t, map[string][]byte{"Debian": debian}), inspect.OSRelease{ID: "debian"}, []inspect.Package{deb}, "which release"},
		{"distribution of which nothing is known", npmOnly, inspect.OSRelease{ID: "kali", VersionID: "2026"}, []inspect.Package{deb}, `packages of "kali"`},
		{"list of packages is missing", feed(t, map[string][]byte{"Debian": debian}), inspect.OSRelease{ID: "debian", VersionID: "12"}, nil, "list of packages is missing"},
		{"rpm", npmOnly, inspect.OSRelease{ID: "fedora", VersionID: "43"}, nil, "RPM"},
		{"unknown type", npmOnly, inspect.OSRelease{}, []inspect.Package{{Type: "conda", Name: "x", Version: "1"}}, "conda"},
		{"jar without a group", npmOnly, inspect.OSRelease{}, []inspect.Package{{Type: inspect.Maven, Name: "commons-io", Version: "1", Location: "/a.jar"}}, "/a.jar says no group"},
		{"installed version", npmOnly, inspect.OSRelease{}, []inspect.Package{npm("left", "file:../left")}, "cannot be compared"},
		{"commits only", npmOnly, inspect.OSRelease{}, []inspect.Package{npm("git", "1.0.0")}, "commits"},
		{"no versions", npmOnly, inspect.OSRelease{}, []inspect.Package{npm("bare", "1.0.0")}, "no version"},
		{"range", npmOnly, inspect.OSRelease{}, []inspect.Package{npm("odd", "1.0.0")}, "next tuesday"},
		{"limit", npmOnly, inspect.OSRelease{}, []inspect.Package{npm("limited", "1.0.0")}, "limit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := match(t, mustOpen(t, ImportOptions{}, tt.feed), tt.os, tt.packages...)
			said := ""
			for _, a := range r.Ecosystems {
				said += a.Why + "\n"
			}
			for _, u := range r.Undecided {
				said += u.Why + "\n"
			}
			if r.Complete || !strings.Contains(said, tt.want) || len(r.Findings) > 0 {
				t.Errorf("complete %v, findings %v, said %q, want %q", r.Complete, ids(r.Findings), said, tt.want)
			}
		})
	}
	t.Run("a list decides beside a range that cannot be read", func(t *testing.T) {
		r := match(t, mustOpen(t, ImportOptions{}, npmOnly), inspect.OSRelease{}, npm("listed", "1.0.0"), npm("listed", "1.0.1"))
		if !r.Complete || len(r.Findings) != 1 || r.Findings[0].Version != "1.0.0" {
			t.Errorf("complete %v, findings %+v, undecided %+v", r.Complete, r.Findings, r.Undecided)
		}
	})
	t.Run("nothing installed", func(t *testing.T) {
		if r := match(t, mustOpen(t, ImportOptions{}, npmOnly), inspect.OSRelease{}); !r.Complete || len(r.Ecosystems) != 0 {
			t.Errorf("%+v", r)
		}
	})
	if (Result{}).Complete {
		t.Error("the zero Result is complete")
	}
}

func TestAge(t *testing.T) {
	dir := feed(t, map[string][]byte{"npm": zipOf(t, rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, ""))})
	modified := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		now    time.Time
		max    time.Duration
		answer bool
		want   string
	}{
		{modified.Add(DefaultMaxAge), 0, true, ""},
		{modified.Add(DefaultMaxAge + time.Second), 0, false, "import newer data"},
		{modified.Add(DefaultMaxAge + time.Second), 30 * 24 * time.Hour, true, ""},
		{modified.Add(time.Hour + time.Second), time.Hour, false, "import newer data"},
		{modified.Add(-time.Hour), 0, false, "in the future"},
	} {
		db := mustOpen(t, ImportOptions{}, dir)
		r, err := db.Match(t.Context(), []inspect.Package{npm("left", "1.0.0")}, inspect.OSRelease{}, MatchOptions{Now: tt.now, MaxAge: tt.max})
		if err != nil {
			t.Fatal(err)
		}
		if r.Complete != tt.answer || r.Ecosystems[0].Answered != tt.answer || !strings.Contains(r.Ecosystems[0].Why, tt.want) || (len(r.Findings) == 1) != tt.answer {
			t.Errorf("at %v, at most %v: %+v", tt.now, tt.max, r)
		}
	}
	db := mustOpen(t, ImportOptions{}, dir)
	for _, opt := range []MatchOptions{{}, {Now: now, MaxAge: -1}} {
		if _, err := db.Match(t.Context(), nil, inspect.OSRelease{}, opt); err == nil {
			t.Errorf("%+v was taken", opt)
		}
	}

	t.Run("a date in the future does not make data young", func(t *testing.T) {
		future := strings.Replace(rec("GHSA-bbbb-bbbb-bbbb", "npm", "left", from0to2, ""), "2026-11-20", "2999-01-01", 1)
		db := mustOpen(t, ImportOptions{}, feed(t, map[string][]byte{"npm": zipOf(t, rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, ""), future)}))
		if got := db.Status().Sources[0].Newest; !got.Equal(modified) {
			t.Errorf("newest %v, want %v", got, modified)
		}
	})
	t.Run("no dates", func(t *testing.T) {
		undated := feed(t, map[string][]byte{"Go": zipOf(t, strings.Replace(rec("GO-2026-0001", "Go", "example.com/m", from0to2, ""), "2026-11-20T10:00:00Z", "0001-01-01T00:00:00Z", 1))})
		p := inspect.Package{Type: inspect.Golang, Name: "example.com/m", Version: "v1.2.3"}
		if r := match(t, mustOpen(t, ImportOptions{}, undated), inspect.OSRelease{}, p); r.Complete || !strings.Contains(r.Ecosystems[0].Why, "--as-of") {
			t.Errorf("%+v", r)
		}
		db := mustOpen(t, ImportOptions{AsOf: now.Add(-24 * time.Hour)}, undated)
		if r := match(t, db, inspect.OSRelease{}, p); !r.Complete || len(r.Findings) != 1 || !db.Status().Sources[0].Stated {
			t.Errorf("%+v", r)
		}
		if _, err := importInto(t, t.TempDir(), ImportOptions{AsOf: now.Add(time.Hour)}, undated); err == nil {
			t.Error("data as of tomorrow was taken")
		}
		// What has dates keeps them.
		if s := mustOpen(t, ImportOptions{AsOf: now}, dir).Status().Sources[0]; !s.Newest.Equal(modified) || s.Stated {
			t.Errorf("%+v", s)
		}
	})
}

func TestNoDatabase(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNoDatabase) {
		t.Errorf("no database: %v", err)
	}
	dir := t.TempDir()
	if _, err := importInto(t, dir, ImportOptions{}, feed(t, map[string][]byte{"npm": zipOf(t, rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, ""))})); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, fileName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A failed import leaves the database as it is.
	if _, err := importInto(t, dir, ImportOptions{}, filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent path was imported")
	}
	if now, _ := os.ReadFile(path); !bytes.Equal(now, good) {
		t.Error("a failed import changed the database")
	}
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 0x10
		checkBroken(t, bad, fmt.Sprintf("byte %d changed", i))
		if i%7 == 0 {
			checkBroken(t, good[:i], fmt.Sprintf("cut at %d", i))
		}
	}
}

// checkBroken wants an error, when opening or when looking up.
func checkBroken(t *testing.T, data []byte, what string) {
	t.Helper()
	db, err := read(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return
	}
	defer db.Close()
	if r, err := db.Match(t.Context(), []inspect.Package{npm("left", "1.0.0")}, inspect.OSRelease{}, MatchOptions{Now: now}); err == nil {
		t.Errorf("%s: nobody noticed: %+v", what, r.Findings)
	}
}

func TestReproducible(t *testing.T) {
	dir := feed(t, map[string][]byte{"npm": zipOf(t, rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, critical)), "PyPI": zipOf(t, rec("PYSEC-2026-1", "PyPI", "Under_Score.x", from0to2, ""))})
	a, b := mustOpen(t, ImportOptions{}, dir).Status(), mustOpen(t, ImportOptions{}, dir).Status()
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("two imports differ:\n%s", diff)
	}
	r := match(t, mustOpen(t, ImportOptions{}, dir), inspect.OSRelease{}, inspect.Package{Type: inspect.PyPI, Name: "under-score_X", Version: "1.0+cu118"})
	if !slices.Equal(ids(r.Findings), []string{"PYSEC-2026-1"}) {
		t.Errorf("%+v", r)
	}
}
