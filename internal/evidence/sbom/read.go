package sbom

import (
	"fmt"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
)

// MaxDocument is the largest bill of materials that is read, in bytes.
const MaxDocument = 64 << 20

// Component is one entry of a bill of materials that somebody wrote.
type Component struct {
	Name    string
	Version string
	PURL    string // may be empty
	File    bool   // a file and no package
}

// Listing is what decisions need of a bill of materials.
type Listing struct {
	Format     string // "SPDX-2.3", "CycloneDX 1.6"
	Subject    string // name of what it describes, for people
	Components []Component
}

// Read reads a document by its media type (evidence.MediaSPDX or
// MediaCycloneDX). A document that lists nothing at all is an error: it cannot
// be told from one that was never filled.
func Read(mediaType string, data []byte) (Listing, error) {
	var l Listing
	var err error
	switch mediaType {
	case evidence.MediaSPDX:
		l, err = readSPDX(data)
	case evidence.MediaCycloneDX:
		l, err = readCycloneDX(data)
	default:
		return l, fmt.Errorf("bill of materials of media type %q: want %s or %s", mediaType, evidence.MediaSPDX, evidence.MediaCycloneDX)
	}
	if err == nil && len(l.Components) == 0 {
		err = fmt.Errorf("bill of materials lists nothing")
	}
	return l, err
}

func readSPDX(data []byte) (Listing, error) {
	var d struct {
		SPDXVersion string `json:"spdxVersion"`
		Name        string `json:"name"`
		Packages    []struct {
			ID           string `json:"SPDXID"`
			Name         string `json:"name"`
			VersionInfo  string `json:"versionInfo"`
			Purpose      string `json:"primaryPackagePurpose"`
			ExternalRefs []struct {
				Type    string `json:"referenceType"`
				Locator string `json:"referenceLocator"`
			} `json:"externalRefs"`
		} `json:"packages"`
		Files []struct {
			Name string `json:"fileName"`
		} `json:"files"`
		Relationships []struct {
			Element string `json:"spdxElementId"`
			Type    string `json:"relationshipType"`
			Related string `json:"relatedSpdxElement"`
		} `json:"relationships"`
		Describes []string `json:"documentDescribes"`
	}
	if err := strictjson.UnmarshalLarge(data, &d, MaxDocument); err != nil {
		return Listing{}, fmt.Errorf("SPDX: %w", err)
	}
	switch d.SPDXVersion {
	case "SPDX-2.2", "SPDX-2.3":
	default:
		return Listing{}, fmt.Errorf("SPDX: version %q, this program reads SPDX-2.3", d.SPDXVersion)
	}
	described := map[string]bool{}
	for _, id := range d.Describes {
		described[id] = true
	}
	for _, r := range d.Relationships {
		if r.Element == "SPDXRef-DOCUMENT" && r.Type == "DESCRIBES" {
			described[r.Related] = true
		}
	}
	l := Listing{Format: d.SPDXVersion, Subject: d.Name}
	for _, p := range d.Packages {
		if described[p.ID] && (p.Purpose == "CONTAINER" || len(described) == 1 && len(d.Packages) > 1) {
			continue // what the document is about, not what is in it
		}
		c := Component{Name: p.Name, Version: p.VersionInfo}
		for _, r := range p.ExternalRefs {
			if r.Type == "purl" {
				c.PURL = r.Locator
				break
			}
		}
		l.Components = append(l.Components, c)
	}
	for _, f := range d.Files {
		l.Components = append(l.Components, Component{Name: f.Name, File: true})
	}
	return l, nil
}

type cdxRead struct {
	Type       string    `json:"type"`
	Name       string    `json:"name"`
	Group      string    `json:"group"`
	Version    string    `json:"version"`
	PURL       string    `json:"purl"`
	Components []cdxRead `json:"components"`
}

func readCycloneDX(data []byte) (Listing, error) {
	var d struct {
		Format      string `json:"bomFormat"`
		SpecVersion string `json:"specVersion"`
		Metadata    struct {
			Component cdxRead `json:"component"`
		} `json:"metadata"`
		Components []cdxRead `json:"components"`
	}
	if err := strictjson.UnmarshalLarge(data, &d, MaxDocument); err != nil {
		return Listing{}, fmt.Errorf("CycloneDX: %w", err)
	}
	switch d.SpecVersion {
	case "1.4", "1.5", "1.6", "1.7":
	default:
		return Listing{}, fmt.Errorf("CycloneDX: version %q, this program reads 1.4 to 1.7", d.SpecVersion)
	}
	if d.Format != "CycloneDX" {
		return Listing{}, fmt.Errorf("CycloneDX: bomFormat %q", d.Format)
	}
	l := Listing{Format: "CycloneDX " + d.SpecVersion, Subject: d.Metadata.Component.Name}
	var add func([]cdxRead)
	add = func(all []cdxRead) { // nesting is bounded by strictjson
		for _, c := range all {
			name := c.Name
			if c.Group != "" {
				name = c.Group + "/" + name
			}
			l.Components = append(l.Components, Component{Name: name, Version: c.Version, PURL: c.PURL, File: c.Type == "file"})
			add(c.Components)
		}
	}
	add(d.Components)
	return l, nil
}
