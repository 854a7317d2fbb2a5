package vex

import (
	"bytes"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	govex "github.com/openvex/go-vex/pkg/vex"

	"twinhull.dev/twinhull/internal/evidence"
)

var (
	image = digest.FromString("image")
	said  = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	now   = said.Add(24 * time.Hour)
	pkg   = evidence.DebURL("debian/trixie", "trixie", "libssl3", "3.0.15-1~deb12u1+b1", "amd64")
)

// document is made by the library, so that what we read is what others write.
func document(t testing.TB, change func(*govex.VEX)) []byte {
	t.Helper()
	d := govex.New()
	d.ID, d.Author, d.Timestamp = "https://example.test/vex/1", "security@example.test", &said
	d.Statements = []govex.Statement{{
		Vulnerability: govex.Vulnerability{Name: "CVE-2026-0001", Aliases: []govex.VulnerabilityID{"GHSA-xxxx-yyyy-zzzz"}},
		Status:        govex.StatusNotAffected, Justification: govex.VulnerableCodeNotInExecutePath,
		Products: []govex.Product{{
			Component:     govex.Component{ID: evidence.OCIURL("app", string(image), "registry.example/app")},
			Subcomponents: []govex.Subcomponent{{Component: govex.Component{ID: pkg}}},
		}},
	}}
	if change != nil {
		change(&d)
	}
	var b bytes.Buffer
	if err := d.ToJSON(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func query() Query {
	return Query{Vulnerability: []string{"DEBIAN-CVE-2026-0001", "cve-2026-0001"}, Image: image, Package: pkg, Now: now}
}

func TestAsk(t *testing.T) {
	first := func(d *govex.VEX) *govex.Statement { return &d.Statements[0] }
	again := func(d *govex.VEX, at time.Time, status govex.Status) {
		s := d.Statements[0]
		s.Status, s.Justification, s.Timestamp = status, "", &at
		if status == govex.StatusAffected {
			s.ActionStatement = "update"
		}
		d.Statements = append(d.Statements, s)
	}
	for _, c := range []struct {
		name           string
		change         func(*govex.VEX)
		query          func(*Query)
		said, silenced bool
	}{
		{"exact", nil, nil, true, true},
		{"by alias", nil, func(q *Query) { q.Vulnerability = []string{"GHSA-XXXX-yyyy-zzzz"} }, true, true},
		{"product by its hash", func(d *govex.VEX) {
			first(d).Products[0].Component = govex.Component{Hashes: map[govex.Algorithm]govex.Hash{govex.SHA256: govex.Hash(image.Encoded())}}
		}, nil, true, true},
		{"product by digest", func(d *govex.VEX) { first(d).Products[0].ID = string(image) }, nil, true, true},
		{"subcomponent without qualifiers", func(d *govex.VEX) {
			first(d).Products[0].Subcomponents[0].ID = "pkg:deb/debian/libssl3@3.0.15-1~deb12u1%2Bb1"
		}, nil, true, true},
		{"fixed", func(d *govex.VEX) { first(d).Status, first(d).Justification = govex.StatusFixed, "" }, nil, true, true},

		{"other vulnerability", nil, func(q *Query) { q.Vulnerability = []string{"CVE-2026-00011"} }, false, false},
		{"no vulnerability", nil, func(q *Query) { q.Vulnerability = []string{""} }, false, false},
		{"other image", nil, func(q *Query) { q.Image = digest.FromString("development") }, false, false},
		{"no image", nil, func(q *Query) { q.Image = "" }, false, false},
		{"other package", nil, func(q *Query) { q.Package = strings.Replace(pkg, "libssl3", "libssl", 1) }, false, false},
		{"other version", nil, func(q *Query) { q.Package = strings.Replace(pkg, "3.0.15", "3.0.14", 1) }, false, false},
		{"other architecture", nil, func(q *Query) { q.Package = strings.Replace(pkg, "amd64", "arm64", 1) }, false, false},
		{"no product", func(d *govex.VEX) { first(d).Products = nil }, nil, false, false},
		{"no subcomponent", func(d *govex.VEX) { first(d).Products[0].Subcomponents = nil }, nil, false, false},
		{"product without a version", func(d *govex.VEX) { first(d).Products[0].ID = "pkg:oci/app?repository_url=registry.example/app" }, nil, false, false},
		{"product by tag", func(d *govex.VEX) { first(d).Products[0].ID = "pkg:oci/app@1.0" }, nil, false, false},
		{"subcomponent without a version", func(d *govex.VEX) { first(d).Products[0].Subcomponents[0].ID = "pkg:deb/debian/libssl3" }, nil, false, false},
		{"another distribution", func(d *govex.VEX) {
			first(d).Products[0].Subcomponents[0].ID = strings.Replace(pkg, "distro=debian-trixie", "distro=debian-bookworm", 1)
		}, nil, false, false},
		{"from the future", nil, func(q *Query) { q.Now = said.Add(-time.Hour) }, false, false},
		{"no clock", nil, func(q *Query) { q.Now = time.Time{} }, false, false},
		{"impact statement alone", func(d *govex.VEX) { first(d).Justification, first(d).ImpactStatement = "", "trust me" }, nil, true, false},
		{"affected later", func(d *govex.VEX) { again(d, said.Add(time.Hour), govex.StatusAffected) }, nil, true, false},
		{"affected earlier", func(d *govex.VEX) { again(d, said.Add(-time.Hour), govex.StatusAffected) }, nil, true, true},
		{"investigated at the same time", func(d *govex.VEX) { again(d, said, govex.StatusUnderInvestigation) }, nil, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Parse(document(t, c.change))
			if err != nil {
				t.Fatal(err)
			}
			q := query()
			if c.query != nil {
				c.query(&q)
			}
			a := Ask([]Document{d}, q)
			if a.Said != c.said || a.Silenced != c.silenced || a.Why == "" {
				t.Errorf("%+v", a)
			}
		})
	}
	if a := Ask(nil, query()); a.Silenced {
		t.Error("nothing silences")
	}
}

func TestParse(t *testing.T) {
	good := string(document(t, nil))
	for name, c := range map[string][2]string{
		"older version":       {"https://openvex.dev/ns/v0.2.0", "https://openvex.dev/ns/v0.0.1"},
		"no author":           {`"author": "security@example.test"`, `"author": ""`},
		"unknown status":      {`"not_affected"`, `"not_affected "`},
		"own justification":   {"vulnerable_code_not_in_execute_path", "because"},
		"no justification":    {`"justification": "vulnerable_code_not_in_execute_path"`, `"justification": ""`},
		"fixed, justified":    {`"not_affected"`, `"fixed"`},
		"affected, no action": {`"status": "not_affected",`, `"status": "affected",`},
		"status twice":        {`"status": "not_affected"`, `"status": "affected", "status": "not_affected"`},
		"status in capitals":  {`"status":`, `"Status":`},
		"no name":             {`"CVE-2026-0001"`, `""`},
		"no time":             {`"2026-11-01T00:00:00Z"`, `"yesterday"`},
		"no statements":       {good[strings.Index(good, `"statements"`):], `"statements": []}`},
		"truncated":           {good[len(good)/2:], ""},
	} {
		bad := strings.Replace(good, c[0], c[1], 1)
		if bad == good {
			t.Fatalf("%s changes nothing in %s", name, good)
		}
		if d, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(document(f, nil))
	f.Add([]byte(`{"@context":"https://openvex.dev/ns","@id":"x","author":"x","timestamp":"2026-11-01T00:00:00Z","statements":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data)
		if err != nil {
			return
		}
		if Ask([]Document{d}, Query{Now: now}).Silenced {
			t.Fatal("silenced a finding without a name")
		}
	})
}
