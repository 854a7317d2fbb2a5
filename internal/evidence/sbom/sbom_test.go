package sbom

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	digest "github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

func sum(s string) oci.Digest { return digest.FromString(s) }

// sample is an image with a package of each kind.
func sample(zone oci.Zone) (*build.Origins, *project.Lock) {
	sum512 := func(s string) oci.Digest { return digest.SHA512.FromString(s) }
	libc := project.Package{Name: "libc6", Version: "2:2.41-12+deb13u1", Arch: "amd64", Source: "glibc", SourceVersion: "2.41-12", Archive: "debian/trixie", Suite: "trixie-security", SHA256: sum("libc6")}
	l := &project.Lock{Version: 1, Packages: []project.Package{libc},
		NPM: []project.NPMTree{{Lockfile: "package-lock.json", SHA256: sum("pl"), Packages: []project.NPMPackage{
			{Location: "node_modules/@scope/used", Name: "@scope/used", Version: "1.0.0", Integrity: sum512("used")},
			{Location: "node_modules/bundled", Name: "bundled", Version: "2.0.0", Integrity: sum512("bundled")},
			{Location: "node_modules/jest", Name: "jest", Version: "3.0.0", Integrity: sum512("jest"), Dev: true},
		}}},
		Go: []project.GoModule{{Path: "Example.test/Mod", Version: "v1.2.3", Zip: sum("zip"), Mod: sum("mod")}, {Path: "example.test/unused", Version: "v1.0.0", Zip: sum("unused")}},
	}
	o := &build.Origins{Version: 1, Image: sum("image"), Name: "shop", Zone: zone, Platform: oci.Platform{OS: "linux", Architecture: "amd64"},
		AsOf: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Packages: []project.Package{libc},
		Steps: []build.StepRecord{
			{Step: "compile", Digest: sum("record"), Deps: []oci.Digest{sum512("bundled"), sum512("jest"), sum("zip"), sum("mod")}},
			{Step: "test", Digest: sum("other"), Deps: []oci.Digest{sum("unused")}},
		},
		Paths: []build.PathOrigin{
			{Path: "app", Type: "folder", Origin: filetree.Origin{Kind: filetree.FromGenerated, Name: "workdir"}},
			{Path: "app/a \"quoted\".js", Type: "file", SHA256: sum("a.js"), Origin: filetree.Origin{Kind: filetree.FromArtifact, Name: "compile:dist", Digest: sum("record")}},
			{Path: "app/node_modules/@scope/used/i.js", Type: "file", SHA256: sum("i.js"), Origin: filetree.Origin{Kind: filetree.FromModule, Name: "@scope/used", Version: "1.0.0", Digest: sum512("used")}},
			{Path: "usr/lib/libc.so.6", Type: "file", SHA256: sum("libc.so"), Origin: filetree.Origin{Kind: filetree.FromPackage, Name: "libc6", Version: libc.Version, Digest: sum("libc6")}},
			{Path: "usr/lib/libc.so", Type: "symlink", Link: "libc.so.6", Origin: filetree.Origin{Kind: filetree.FromPackage, Name: "libc6", Version: libc.Version, Digest: sum("libc6")}},
		}}
	return o, l
}

func TestFromOrigins(t *testing.T) {
	o, l := sample(oci.Production)
	d := FromOrigins(o, l, "1.0")
	var got []string
	for _, p := range d.Packages {
		got = append(got, p.PURL+" "+p.How)
		if _, err := packageurl.FromString(p.PURL); err != nil {
			t.Errorf("%s: %v", p.PURL, err)
		}
	}
	want := []string{
		"pkg:deb/debian/libc6@2:2.41-12%2Bdeb13u1?arch=amd64&distro=debian-trixie ",
		"pkg:golang/example.test/mod@v1.2.3 compiled",
		"pkg:npm/%40scope/used@1.0.0 installed",
		"pkg:npm/bundled@2.0.0 compiled",
	}
	if !slices.Equal(got, want) {
		t.Errorf("packages:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(d.Files) != 3 || d.Files[0].From != "artifact compile:dist" || d.Files[2].From != d.Packages[0].PURL {
		t.Errorf("files: %+v", d.Files)
	}
	// A Go toolchain that an artifact may have been made with is in it as the
	// standard library.
	l.Tools = []project.Tool{{Name: "go", Version: "1.26.8", Digest: sum("go")}}
	if d := FromOrigins(o, l, "1.0"); len(d.Packages) != 5 || !slices.ContainsFunc(d.Packages, func(p Package) bool { return p.PURL == "pkg:golang/stdlib@1.26.8" && p.How == Compiled }) {
		t.Errorf("with a Go toolchain: %+v", d.Packages)
	}
	o.Zone = oci.Development
	if d := FromOrigins(o, l, "1.0"); len(d.Files) != 0 {
		t.Errorf("a development image lists %d files", len(d.Files))
	}
}

// TestSPDX: SPDX's own library reads what we write, and finds it whole.
func TestSPDX(t *testing.T) {
	o, l := sample(oci.Production)
	b, err := SPDX(FromOrigins(o, l, "1.0"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spdxjson.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	if doc.SPDXVersion != "SPDX-2.3" || len(doc.Packages) != 5 || len(doc.Files) != 3 || doc.CreationInfo.Created != "2026-11-01T00:00:00Z" {
		t.Errorf("%s, %d packages, %d files, %+v", doc.SPDXVersion, len(doc.Packages), len(doc.Files), doc.CreationInfo)
	}
	seen := map[string]bool{}
	for _, p := range doc.Packages {
		seen[string(p.PackageSPDXIdentifier)] = true
	}
	for _, f := range doc.Files {
		seen[string(f.FileSPDXIdentifier)] = true
	}
	for _, r := range doc.Relationships {
		if !seen[string(r.RefB.ElementRefID)] && r.RefB.ElementRefID != "DOCUMENT" {
			t.Errorf("relationship to %v, which is nowhere", r.RefB)
		}
	}
	listing, err := Read(evidence.MediaSPDX, b)
	if err != nil || len(listing.Components) != 7 {
		t.Errorf("we read %+v, %v", listing, err)
	}
}

func TestCycloneDX(t *testing.T) {
	o, l := sample(oci.Production)
	b, err := CycloneDX(FromOrigins(o, l, "1.0"))
	if err != nil {
		t.Fatal(err)
	}
	var doc cdx.BOM
	d := cdx.NewBOMDecoder(bytes.NewReader(b), cdx.BOMFileFormatJSON)
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if doc.SpecVersion != cdx.SpecVersion1_6 || len(*doc.Components) != 7 || doc.Metadata.Component.Version != string(sum("image")) || doc.Metadata.Timestamp != "2026-11-01T00:00:00Z" {
		t.Errorf("%+v", doc)
	}
	refs := map[string]bool{doc.Metadata.Component.BOMRef: true}
	for _, c := range *doc.Components {
		if refs[c.BOMRef] {
			t.Errorf("two components are %s", c.BOMRef)
		}
		refs[c.BOMRef] = true
	}
	for _, dep := range *doc.Dependencies {
		for _, r := range append(*dep.Dependencies, dep.Ref) {
			if !refs[r] {
				t.Errorf("dependency on %s, which is nowhere", r)
			}
		}
	}
	listing, err := Read(evidence.MediaCycloneDX, b)
	if err != nil || len(listing.Components) != 7 {
		t.Errorf("we read %+v, %v", listing, err)
	}
}

// TestSameBytes: order of the input, run and clock change nothing; content does.
func TestSameBytes(t *testing.T) {
	for name, write := range map[string]func(Document) ([]byte, error){"SPDX": SPDX, "CycloneDX": CycloneDX} {
		o, l := sample(oci.Production)
		a, err := write(FromOrigins(o, l, "1.0"))
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(o.Paths)
		slices.Reverse(l.NPM[0].Packages)
		b, err := write(FromOrigins(o, l, "1.0"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two runs differ", name)
		}
		o.Paths[0].SHA256 = sum("changed")
		o.Paths[0].Type = "file"
		c, err := write(FromOrigins(o, l, "1.0"))
		if err != nil {
			t.Fatal(err)
		}
		id := func(b []byte) string {
			var d struct{ SerialNumber, DocumentNamespace string }
			if err := json.Unmarshal(b, &d); err != nil {
				t.Fatal(err)
			}
			return d.SerialNumber + d.DocumentNamespace
		}
		if id(a) == id(c) || id(a) == "" {
			t.Errorf("%s: other content has the same name %s", name, id(a))
		}
		if _, err := write(Document{}); err == nil {
			t.Errorf("%s: a document about nothing", name)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	o, l := sample(oci.Production)
	spdx, err := SPDX(FromOrigins(o, l, "1.0"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := CycloneDX(FromOrigins(o, l, "1.0"))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]struct{ media, doc string }{
		"other type":       {"text/plain", string(spdx)},
		"swapped":          {evidence.MediaCycloneDX, string(spdx)},
		"swapped back":     {evidence.MediaSPDX, string(c)},
		"SPDX 3":           {evidence.MediaSPDX, strings.Replace(string(spdx), "SPDX-2.3", "SPDX-3.0", 1)},
		"CycloneDX 9":      {evidence.MediaCycloneDX, strings.Replace(string(c), `"1.6"`, `"9"`, 1)},
		"empty SPDX":       {evidence.MediaSPDX, `{"spdxVersion":"SPDX-2.3"}`},
		"empty CycloneDX":  {evidence.MediaCycloneDX, `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[]}`},
		"components twice": {evidence.MediaCycloneDX, strings.Replace(string(c), `"components":`, `"components":[],"components":`, 1)},
		"truncated":        {evidence.MediaSPDX, string(spdx[:len(spdx)/2])},
		"deep":             {evidence.MediaCycloneDX, `{"bomFormat":"CycloneDX","specVersion":"1.6","components":` + strings.Repeat(`[{"components":`, 100) + `[]` + strings.Repeat(`}]`, 100) + `}`},
	} {
		if l, err := Read(bad.media, []byte(bad.doc)); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

func FuzzRead(f *testing.F) {
	o, l := sample(oci.Production)
	spdx, err := SPDX(FromOrigins(o, l, "1.0"))
	if err != nil {
		f.Fatal(err)
	}
	c, err := CycloneDX(FromOrigins(o, l, "1.0"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(spdx)
	f.Add(c)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range []string{evidence.MediaSPDX, evidence.MediaCycloneDX} {
			if l, err := Read(m, data); err == nil && len(l.Components) == 0 {
				t.Fatal("read a document that lists nothing")
			}
		}
	})
}
