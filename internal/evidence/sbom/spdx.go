package sbom

import (
	"cmp"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/oci"
)

// The part of SPDX 2.3 (spdx.github.io/spdx-spec/v2.3) that is written.
type spdxDocument struct {
	SPDXVersion       string             `json:"spdxVersion"`
	DataLicense       string             `json:"dataLicense"`
	ID                string             `json:"SPDXID"`
	Name              string             `json:"name"`
	DocumentNamespace string             `json:"documentNamespace"`
	CreationInfo      spdxCreation       `json:"creationInfo"`
	Packages          []spdxPackage      `json:"packages"`
	Files             []spdxFile         `json:"files,omitempty"`
	Relationships     []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"name"`
	VersionInfo      string         `json:"versionInfo,omitempty"`
	DownloadLocation string         `json:"downloadLocation"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	Checksums        []spdxChecksum `json:"checksums,omitempty"`
	SourceInfo       string         `json:"sourceInfo,omitempty"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	CopyrightText    string         `json:"copyrightText"`
	ExternalRefs     []spdxRef      `json:"externalRefs,omitempty"`
	Purpose          string         `json:"primaryPackagePurpose,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxFile struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"fileName"`
	Checksums        []spdxChecksum `json:"checksums"`
	LicenseConcluded string         `json:"licenseConcluded"`
	CopyrightText    string         `json:"copyrightText"`
	Comment          string         `json:"comment,omitempty"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const noAssertion = "NOASSERTION"

// SPDX encodes the document as SPDX 2.3 JSON. Files have their SHA-256 only:
// the builder records no SHA-1, which section 8.4 asks for and the JSON schema
// does not.
func SPDX(d Document) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	d.sort()
	const root = "SPDXRef-image"
	name := cmp.Or(d.Name, "image")
	out := spdxDocument{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: name,
		DocumentNamespace: "https://twinhull.dev/spdx/" + d.Image.Encoded() + "/" + serial("spdx", d),
		CreationInfo:      spdxCreation{d.Created.UTC().Format(time.RFC3339), []string{"Tool: twinhull-" + d.tool()}},
		Packages: []spdxPackage{{ID: root, Name: name, VersionInfo: d.Image.String(), DownloadLocation: noAssertion, Checksums: spdxSums(d.Image),
			LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion, Purpose: "CONTAINER",
			ExternalRefs: []spdxRef{{"PACKAGE-MANAGER", "purl", d.purl()}}}},
		Relationships: []spdxRelationship{{"SPDXRef-DOCUMENT", "DESCRIBES", root}},
	}
	ids := map[string]string{}
	for _, p := range d.Packages {
		id := hashID("package", p.ref())
		ids[p.ref()] = id
		q := spdxPackage{ID: id, Name: p.Name, VersionInfo: p.Version, DownloadLocation: noAssertion, Checksums: spdxSums(p.Digest),
			LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion}
		if p.PURL != "" {
			q.ExternalRefs = []spdxRef{{"PACKAGE-MANAGER", "purl", p.PURL}}
		}
		if p.Source != "" {
			q.SourceInfo = "built package from: " + p.Source
		}
		out.Packages = append(out.Packages, q)
		if p.How == Compiled {
			out.Relationships = append(out.Relationships, spdxRelationship{id, "BUILD_DEPENDENCY_OF", root})
		} else {
			out.Relationships = append(out.Relationships, spdxRelationship{root, "CONTAINS", id})
		}
	}
	for _, f := range d.Files {
		id := hashID("file", f.Path)
		q := spdxFile{ID: id, Name: "./" + plainName(f.Path), Checksums: spdxSums(f.SHA256), LicenseConcluded: noAssertion, CopyrightText: noAssertion}
		in := root
		if pkg, ok := ids[f.From]; ok {
			in = pkg
		} else {
			q.Comment = f.From
		}
		out.Files = append(out.Files, q)
		out.Relationships = append(out.Relationships, spdxRelationship{in, "CONTAINS", id})
	}
	return evidence.Encode(out)
}

func spdxSums(d oci.Digest) []spdxChecksum {
	if d.Validate() != nil {
		return nil
	}
	return []spdxChecksum{{strings.ToUpper(d.Algorithm().String()), d.Encoded()}}
}
