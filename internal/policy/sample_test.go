package policy

import (
	"archive/tar"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func sum(s string) oci.Digest { return digest.FromString(s) }

// sample are the facts of a production image with nothing wrong.
func sample() *inspect.Facts {
	layer := sum("layer")
	return &inspect.Facts{
		Version: inspect.FactsVersion, Digest: sum("image"), Complete: true, Platform: oci.Platform{OS: "linux", Architecture: "amd64"},
		Zone:   inspect.ZoneMarkers{Label: "production", Annotation: "production", Agree: true},
		Config: inspect.Config{Digest: sum("config"), User: "65532", UID: 65532, GID: 65532, Entrypoint: []string{"/app/server"}, Labels: map[string]string{"team": "shop"}},
		Layers: []inspect.Layer{{Digest: layer, DiffID: sum("diff"), Size: 100, Files: 2}}, Files: 2, Unpacked: 1000,
		Packages: []inspect.Package{
			{Type: inspect.Deb, Name: "libc6", Version: "2.41-12", Arch: "amd64", PURL: "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13", Location: "/var/lib/dpkg/status.d/libc6", Layer: layer},
			{Type: inspect.NPM, Name: "ms", Version: "2.1.3", PURL: "pkg:npm/ms@2.1.3", Location: "/app/node_modules/ms/package.json", Layer: layer},
		},
		Tree: []inspect.File{
			{Path: "app", Type: tar.TypeDir, Mode: 0o755},
			{Path: "app/link", Type: tar.TypeSymlink, Link: "server"},
			{Path: "app/server", Type: tar.TypeReg, Mode: 0o755, SHA256: sum("server")},
		},
	}
}

// perfect is everything that can be wanted of an image with these facts, so
// that what a test breaks is the only thing that is wrong.
func perfect(f *inspect.Facts) Input {
	who := Source{By: "release", Signer: "key", Claim: sum("claim")}
	in := Input{Facts: f, Zone: oci.Production, Repository: "registry.example/shop/app", Now: now, Policy: Default()}
	e := &in.Evidence
	e.Trusted = true
	e.Signatures = []Source{who}
	e.Provenance = []Provenance{{Source: who, Builder: "https://build.example/v1", Inputs: 3, Zone: oci.Production, Known: true, Hermetic: true, Parameterless: true, DependenciesComplete: true}}
	e.Tests = []Tests{{Source: who, Result: "PASSED", Counted: true, Tests: 10, Passed: 10, Coverage: []Coverage{{"lines", true, 91.5}}}}
	bill := SBOM{Source: who, Format: "SPDX-2.3"}
	seen := map[string]bool{}
	for _, p := range f.Packages {
		bill.Packages = append(bill.Packages, Component{p.Name, p.Version, p.PURL})
		seen[p.Type] = true
	}
	e.SBOMs = []SBOM{bill}
	o := Origins{Source: who, Zone: oci.Production}
	for _, x := range f.Tree {
		o.Paths = append(o.Paths, Path{Path: x.Path, Type: typeNames[x.Type], SHA256: x.SHA256, Link: x.Link, Kind: "artifact", Name: "build:dist"})
	}
	e.Origins = []Origins{o}
	e.Scan = &Scan{Database: sum("database"), Complete: true}
	for kind := range seen {
		e.Scan.Ecosystems = append(e.Scan.Ecosystems, Ecosystem{Name: kind, Packages: 1, Answered: true, Newest: now.Add(-24 * time.Hour)})
	}
	return in
}

func result(t *testing.T, v Verdict, rule string) Result {
	t.Helper()
	for _, r := range v.Rules {
		if r.Rule == rule {
			return r
		}
	}
	t.Fatalf("the verdict has no rule %s", rule)
	return Result{}
}

func text(r Result) string {
	var b strings.Builder
	b.WriteString(string(r.Outcome) + " " + r.Because)
	for _, x := range r.Reasons {
		b.WriteString("\n" + string(x.Outcome) + " " + x.Subject + " | " + x.Message + " | " + x.Remedy)
	}
	return b.String()
}

// refusing lists the rules that refuse.
func refusing(v Verdict) (ids []string) {
	for _, r := range v.Rules {
		if r.Outcome.Refuses() {
			ids = append(ids, r.Rule)
		}
	}
	return ids
}
