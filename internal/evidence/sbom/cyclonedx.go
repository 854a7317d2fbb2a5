package sbom

import (
	"cmp"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/oci"
)

// The part of CycloneDX 1.6 (cyclonedx.org/docs/1.6/json) that is written.
type cdxDocument struct {
	Format       string          `json:"bomFormat"`
	SpecVersion  string          `json:"specVersion"`
	SerialNumber string          `json:"serialNumber"`
	Version      int             `json:"version"`
	Metadata     cdxMetadata     `json:"metadata"`
	Components   []cdxComponent  `json:"components"`
	Dependencies []cdxDependency `json:"dependencies"`
}

type cdxMetadata struct {
	Timestamp string       `json:"timestamp"`
	Tools     cdxTools     `json:"tools"`
	Component cdxComponent `json:"component"`
}

type cdxTools struct {
	Components []cdxComponent `json:"components"`
}

type cdxComponent struct {
	Type       string        `json:"type"`
	Ref        string        `json:"bom-ref,omitempty"`
	Name       string        `json:"name"`
	Version    string        `json:"version,omitempty"`
	Scope      string        `json:"scope,omitempty"`
	Hashes     []cdxHash     `json:"hashes,omitempty"`
	PURL       string        `json:"purl,omitempty"`
	Properties []cdxProperty `json:"properties,omitempty"`
}

type cdxHash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type cdxProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type cdxDependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn,omitempty"`
}

// CycloneDX encodes the document as CycloneDX 1.6 JSON.
func CycloneDX(d Document) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	d.sort()
	root := cdxComponent{Type: "container", Ref: d.purl(), Name: cmp.Or(d.Name, "image"), Version: d.Image.String(), PURL: d.purl(), Hashes: cdxHashes(d.Image)}
	if d.Platform != "" {
		root.Properties = []cdxProperty{{"twinhull:platform", d.Platform}}
	}
	out := cdxDocument{
		Format: "CycloneDX", SpecVersion: "1.6", SerialNumber: "urn:uuid:" + serial("cyclonedx", d), Version: 1,
		Metadata: cdxMetadata{Timestamp: d.Created.UTC().Format(time.RFC3339), Component: root,
			Tools: cdxTools{[]cdxComponent{{Type: "application", Name: "twinhull", Version: d.tool()}}}},
		Components: []cdxComponent{},
	}
	dep := cdxDependency{Ref: root.Ref}
	for _, p := range d.Packages {
		c := cdxComponent{Type: "library", Ref: p.ref(), Name: p.Name, Version: p.Version, PURL: p.PURL, Hashes: cdxHashes(p.Digest)}
		if p.How == Compiled {
			c.Scope = "optional"
			c.Properties = append(c.Properties, cdxProperty{"twinhull:how", Compiled})
		}
		if p.Source != "" {
			c.Properties = append(c.Properties, cdxProperty{"twinhull:source", p.Source})
		}
		out.Components = append(out.Components, c)
		dep.DependsOn = append(dep.DependsOn, c.Ref)
	}
	for _, f := range d.Files {
		out.Components = append(out.Components, cdxComponent{Type: "file", Ref: "file:/" + plainName(f.Path), Name: "/" + plainName(f.Path), Hashes: cdxHashes(f.SHA256),
			Properties: []cdxProperty{{"twinhull:from", f.From}}})
	}
	out.Dependencies = []cdxDependency{dep}
	return evidence.Encode(out)
}

func cdxHashes(d oci.Digest) []cdxHash {
	if d.Validate() != nil {
		return nil
	}
	return []cdxHash{{strings.Replace(strings.ToUpper(d.Algorithm().String()), "SHA", "SHA-", 1), d.Encoded()}}
}
