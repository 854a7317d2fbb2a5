// Package sbom writes software bills of materials as SPDX 2.3 and CycloneDX
// 1.6 JSON, from what the builder knows of its own images or from a list that
// somebody made of a foreign one, and reads the part of such documents that
// decisions need.
//
// Equal content gives equal bytes: ids and serial numbers derive from the
// image's digest, times come from the lock, and nothing is random. The package
// does not look into images (package inspect does) and knows no
// vulnerabilities.
package sbom

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// Document is the content of a bill of materials, before it has a format.
type Document struct {
	Name     string // of the image, without a tag
	Image    oci.Digest
	Platform string // "linux/amd64"
	Created  time.Time
	Tool     string // version of this program
	Packages []Package
	Files    []File // none: the document lists packages only
}

// How a package is in the image.
const (
	Installed = "installed" // its files are there
	Compiled  = "compiled"  // it was in place when an artifact of the image was made, and may be part of it
)

// Package is a component with a version.
type Package struct {
	Type    string // deb, npm, golang, ... as in a package URL
	Name    string
	Version string
	Arch    string
	PURL    string
	Source  string     // "glibc 2.36-9": what it was built from; "" when it is its own source
	Digest  oci.Digest // of the package file
	How     string     // Installed when empty
}

// File is one regular file.
type File struct {
	Path   string // relative to the root
	SHA256 oci.Digest
	From   string // PURL of its package, or why else it is there: "artifact build:dist"
}

// FromOrigins lists what an image of ours holds. Files are listed for
// production images only: of a development image they would be a hundred
// thousand, all from packages.
func FromOrigins(o *build.Origins, l *project.Lock, tool string) Document {
	d := Document{Name: o.Name, Image: o.Image, Platform: o.Platform.String(), Created: o.AsOf.UTC(), Tool: tool}
	byDigest := map[oci.Digest]string{}
	for _, p := range o.Packages {
		q := Package{Type: "deb", Name: p.Name, Version: p.Version, Arch: p.Arch, Digest: p.SHA256,
			PURL: evidence.DebURL(p.Archive, p.Suite, p.Name, p.Version, p.Arch)}
		if p.Source != p.Name || p.SourceVersion != p.Version {
			q.Source = p.Source + " " + p.SourceVersion
		}
		d.Packages = append(d.Packages, q)
		byDigest[p.SHA256] = q.PURL
	}
	type module struct {
		Package
		dev bool
	}
	modules := map[oci.Digest]module{}
	for _, t := range l.NPM {
		for _, p := range t.Packages {
			modules[p.Integrity] = module{Package{Type: "npm", Name: p.Name, Version: p.Version, Digest: p.Integrity, PURL: evidence.NPMURL(p.Name, p.Version)}, p.Dev}
		}
	}
	for _, t := range l.Tools {
		if t.Name != "go" {
			modules[t.Digest] = module{Package{Type: "npm", Name: t.Name, Version: t.Version, Digest: t.Digest, PURL: evidence.NPMURL(t.Name, t.Version)}, true}
		} else {
			// What of a toolchain ends in a program is its standard library, and
			// under that name scanners and vulnerability databases know it.
			modules[t.Digest] = module{Package{Type: "golang", Name: "stdlib", Version: t.Version, Digest: t.Digest, PURL: evidence.GoURL("stdlib", t.Version)}, true}
		}
	}
	for _, m := range l.Go {
		if m.Zip != "" {
			modules[m.Zip] = module{Package{Type: "golang", Name: m.Path, Version: m.Version, Digest: m.Zip, PURL: evidence.GoURL(m.Path, m.Version)}, false}
		}
	}
	used := map[oci.Digest]string{}   // modules of the image, and how
	artifact := map[oci.Digest]bool{} // step records whose artifacts are there
	for _, p := range o.Paths {
		switch p.Origin.Kind {
		case filetree.FromModule:
			used[p.Origin.Digest] = Installed
			if _, known := modules[p.Origin.Digest]; !known {
				modules[p.Origin.Digest] = module{Package{Type: "generic", Name: p.Origin.Name, Version: p.Origin.Version, Digest: p.Origin.Digest,
					PURL: "pkg:generic/" + p.Origin.Name + "@" + p.Origin.Version}, false}
			}
		case filetree.FromArtifact:
			artifact[p.Origin.Digest] = true
		}
	}
	// A compiler or bundler copies dependencies into what it writes. Which of
	// them, the records do not tell; leaving them out could hide one that is
	// there.
	for _, s := range o.Steps {
		if !artifact[s.Digest] {
			continue
		}
		for _, dep := range s.Deps {
			if m, known := modules[dep]; known && !m.dev && used[dep] == "" {
				used[dep] = Compiled
			}
		}
	}
	for _, t := range l.Tools {
		if t.Name == "go" && len(artifact) > 0 && used[t.Digest] == "" {
			used[t.Digest] = Compiled
		}
	}
	for dg, how := range used {
		m := modules[dg].Package
		m.How = how
		d.Packages = append(d.Packages, m)
		byDigest[dg] = m.PURL
	}
	if o.Zone == oci.Production {
		for _, p := range o.Paths {
			if p.SHA256 == "" || p.Type != "file" {
				continue
			}
			from := byDigest[p.Origin.Digest]
			if from == "" || p.Origin.Kind == filetree.FromArtifact {
				from = p.Origin.Kind + " " + p.Origin.Name
			}
			d.Files = append(d.Files, File{Path: p.Path, SHA256: p.SHA256, From: from})
		}
	}
	d.sort()
	return d
}

// sort puts everything in one order and each package once.
func (d *Document) sort() {
	slices.SortFunc(d.Packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Arch, b.Arch),
			cmp.Compare(a.PURL, b.PURL), cmp.Compare(a.How, b.How), cmp.Compare(a.Digest, b.Digest))
	})
	d.Packages = slices.CompactFunc(d.Packages, func(a, b Package) bool { return a.ref() == b.ref() })
	slices.SortFunc(d.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	d.Files = slices.CompactFunc(d.Files, func(a, b File) bool { return a.Path == b.Path })
}

// ref is the package's name inside a document.
func (p Package) ref() string {
	if p.PURL != "" {
		return p.PURL
	}
	return "pkg:generic/" + p.Name + "@" + p.Version + "?type=" + p.Type
}

// hashID makes an id of what it names, in the letters that SPDX allows.
func hashID(kind, what string) string {
	s := sha256.Sum256([]byte(what))
	return "SPDXRef-" + kind + "-" + hex.EncodeToString(s[:10])
}

// serial is a UUID of version 8 (RFC 9562, "custom") made from the image's
// digest and everything that the document says.
func serial(kind string, d Document) string {
	h := sha256.New()
	fmt.Fprintf(h, "twinhull %s\n%s\n%s\n%s\n", kind, d.Image, d.Created.UTC().Format(time.RFC3339), d.Tool)
	for _, p := range d.Packages {
		fmt.Fprintf(h, "%q %q %q %q\n", p.ref(), p.Digest, p.Source, p.How)
	}
	for _, f := range d.Files {
		fmt.Fprintf(h, "%q %s %q\n", f.Path, f.SHA256, f.From)
	}
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func (d Document) check() error {
	if err := d.Image.Validate(); err != nil {
		return fmt.Errorf("bill of materials of %q: %w", d.Image, err)
	}
	if d.Created.IsZero() {
		return fmt.Errorf("bill of materials of %s: no time", d.Image)
	}
	return nil
}

func (d Document) purl() string {
	return evidence.OCIURL(path.Base(cmp.Or(d.Name, "image")), d.Image.String(), "")
}

func (d Document) tool() string { return cmp.Or(d.Tool, "unknown") }

func plainName(s string) string { return strings.TrimPrefix(s, "/") }
