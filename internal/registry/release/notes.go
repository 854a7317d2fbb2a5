package release

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/evidence/vuln"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// Media types of release notes: the manifest's artifact type, which is its first
// layer's too, and the same for a person.
const (
	NotesType    = "application/vnd.twinhull.release-notes.v1+json"
	NotesText    = "text/markdown"
	notesVersion = 1
)

// maxNotes bounds each list of the notes.
const maxNotes = 500

// Notes is what changed from one released version to the next: by the bytes of
// both, and by what the server's vulnerability database knows of both today.
type Notes struct {
	Form       int          `json:"version"` // 1
	Repository string       `json:"repository"`
	Release    string       `json:"release"`
	Digest     oci.Digest   `json:"digest"`
	Previous   string       `json:"previous,omitempty"` // the next lower released version; "" for the first
	Since      oci.Digest   `json:"previousDigest,omitempty"`
	Database   oci.Digest   `json:"database,omitempty"`
	Images     []ImageNotes `json:"images"`
}

// ImageNotes are those of one platform.
type ImageNotes struct {
	Platform string     `json:"platform"`
	Digest   oci.Digest `json:"digest"`
	Packages int        `json:"packages"`
	Size     int64      `json:"size"`     // bytes as stored
	Unpacked int64      `json:"unpacked"` // bytes

	// Difference is absent when the previous version has no image for the
	// platform. Paths of files are counted and not listed.
	Difference *inspect.Difference `json:"difference,omitempty"`

	Fixed     []KnownVulnerability `json:"fixed,omitempty"`   // the previous version has them
	New       []KnownVulnerability `json:"new,omitempty"`     // the previous version has not
	Remaining int                  `json:"remaining"`         // both have
	Unasked   string               `json:"unasked,omitempty"` // why the database could not tell
}

// KnownVulnerability is a known vulnerability of a package.
type KnownVulnerability struct {
	ID       string `json:"id"`
	Severity string `json:"severity,omitempty"`
	Package  string `json:"package"`
	Version  string `json:"version"`
}

// side is one version of a comparison.
type side struct {
	facts    *inspect.Facts
	platform string
	found    map[string]KnownVulnerability // by id and package
	complete bool
	why      string
}

func (s *Service) side(ctx context.Context, rules Rules, f *inspect.Facts, platform string) side {
	out := side{facts: f, platform: platform, found: map[string]KnownVulnerability{}}
	if rules.Database == nil {
		out.why = "there is no vulnerability database"
		return out
	}
	res, err := rules.Database.Match(ctx, f.Packages, f.OS, vuln.MatchOptions{Now: s.c.Now()})
	if err != nil {
		out.why = "the vulnerability database cannot be read"
		return out
	}
	if out.complete = res.Complete; !res.Complete {
		out.why = "the vulnerability database does not answer for all packages"
	}
	for _, x := range res.Findings {
		out.found[x.ID+"\x00"+x.Package] = KnownVulnerability{ID: x.ID, Severity: strings.ToLower(string(x.Severity.Level)), Package: x.Package, Version: x.Version}
	}
	return out
}

// notes compares the judged images with those of the previous version. What
// cannot be compared is left out: notes are for reading, and no release waits
// for them.
func (s *Service) notes(ctx context.Context, j *judgement, version, previous string, since oci.Digest) (*Notes, error) {
	n := &Notes{Form: notesVersion, Repository: j.repository, Release: version, Digest: j.images.Root.Digest, Previous: previous, Since: since, Database: j.rules.DatabaseDigest}
	before := map[string]side{}
	if previous != "" {
		list, err := s.released(ctx, j, since)
		if err != nil {
			return nil, err
		}
		for _, b := range list {
			before[b.platform] = b
		}
	}
	for i, r := range j.reports {
		now := s.side(ctx, j.rules, r.Facts, platformOf(j.images.Images[i], r.Facts))
		x := ImageNotes{Platform: now.platform, Digest: r.Facts.Digest, Packages: len(r.Facts.Packages), Size: r.Facts.Size, Unpacked: r.Facts.Unpacked, Unasked: now.why}
		old, ok := before[now.platform]
		if ok {
			x.Difference = inspect.Compare(old.facts, r.Facts, 0)
			// What a build stamps on every image is no news.
			x.Difference.Config = slices.DeleteFunc(x.Difference.Config, func(c inspect.Changed) bool {
				return strings.HasPrefix(c.Name, "label org.opencontainers.image.") && (strings.HasSuffix(c.Name, ".created") || strings.HasSuffix(c.Name, ".revision"))
			})
			x.Unasked = cmp.Or(x.Unasked, old.why)
		}
		for _, k := range slices.Sorted(maps.Keys(now.found)) {
			if _, both := old.found[k]; both {
				x.Remaining++
			} else {
				x.New = append(x.New, now.found[k])
			}
		}
		for _, k := range slices.Sorted(maps.Keys(old.found)) {
			if _, both := now.found[k]; !both {
				x.Fixed = append(x.Fixed, old.found[k])
			}
		}
		x.New, x.Fixed = x.New[:min(len(x.New), maxNotes)], x.Fixed[:min(len(x.Fixed), maxNotes)]
		n.Images = append(n.Images, x)
	}
	return n, nil
}

// released reads the images of a released version.
func (s *Service) released(ctx context.Context, j *judgement, d oci.Digest) (out []side, _ error) {
	m, err := s.c.Registry.Manifest(ctx, j.home, string(d))
	if err != nil {
		return nil, err
	}
	c := content{ctx, s.c.Registry, j.home}
	found, err := findImages(oci.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(m.Content))}, c)
	if err != nil {
		return nil, err
	}
	for _, desc := range found.Images {
		f, _, err := s.facts(ctx, c, desc)
		if err != nil {
			return nil, err
		}
		out = append(out, s.side(ctx, j.rules, f, platformOf(desc, f)))
	}
	return out, nil
}

// attachment makes the referrer that holds the notes in both forms.
func (n *Notes) attachment(ctx context.Context, to *collected, subject oci.Descriptor, now time.Time) (oci.Descriptor, string, error) {
	raw, err := json.Marshal(n)
	if err != nil {
		return oci.Descriptor{}, "", err
	}
	text := n.Markdown(now)
	empty := referrers.Blob{MediaType: ocispec.MediaTypeEmptyJSON, Data: []byte("{}")}
	blobs := []referrers.Blob{{MediaType: NotesType, Data: raw}, {MediaType: NotesText, Data: []byte(text)}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: NotesType,
		Config:      oci.Descriptor{MediaType: empty.MediaType, Digest: digest.FromBytes(empty.Data), Size: int64(len(empty.Data))},
		Subject:     &oci.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{ocispec.AnnotationCreated: now.UTC().Format(time.RFC3339), ocispec.AnnotationVersion: n.Release}}
	for _, b := range blobs {
		m.Layers = append(m.Layers, oci.Descriptor{MediaType: b.MediaType, Digest: digest.FromBytes(b.Data), Size: int64(len(b.Data))})
	}
	d, err := to.Put(ctx, m, append(blobs, empty)...)
	return d, text, err
}

// Markdown writes the notes for a person.
func (n *Notes) Markdown(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s %s\n\n%s, `%s`.\n", text(n.Repository), text(n.Release), now.UTC().Format(time.DateOnly), n.Digest)
	if n.Previous == "" {
		b.WriteString("The first release of its line.\n")
	} else {
		fmt.Fprintf(&b, "Compared with %s, `%s`.\n", text(n.Previous), n.Since)
	}
	// Platforms that differ in nothing but their digests are told once.
	type told struct{ heads, body string }
	var all []told
	for _, x := range n.Images {
		body := x.markdown(n.Previous)
		if i := slices.IndexFunc(all, func(t told) bool { return t.body == body }); i >= 0 {
			all[i].heads += ", " + text(x.Platform)
			continue
		}
		all = append(all, told{text(x.Platform), body})
	}
	for _, t := range all {
		fmt.Fprintf(&b, "\n## %s\n\n%s", t.heads, t.body)
	}
	return b.String()
}

func (x *ImageNotes) markdown(previous string) string {
	var b strings.Builder
	d := x.Difference
	size := func(what string, old, now int64) {
		if d == nil {
			fmt.Fprintf(&b, "- %s: %s\n", what, mib(now))
		} else {
			fmt.Fprintf(&b, "- %s: %s → %s (%+.1f MiB)\n", what, mib(old), mib(now), float64(now-old)/(1<<20))
		}
	}
	var old [2]int64
	if d != nil {
		old = [2]int64{d.Size[0], d.Unpacked[0]}
	}
	size("stored", old[0], x.Size)
	size("unpacked", old[1], x.Unpacked)
	fmt.Fprintf(&b, "- packages: %d\n", x.Packages)
	if d == nil && previous != "" {
		fmt.Fprintf(&b, "- %s has no image for this platform\n", text(previous))
	}
	if d != nil {
		fmt.Fprintf(&b, "- files: %d added, %d removed, %d changed, %d the same\n", d.FilesAdded.Total, d.FilesRemoved.Total, d.FilesChanged.Total, d.FilesSame)
		changes := func(title string, list []inspect.PackageChange) {
			if len(list) == 0 {
				return
			}
			fmt.Fprintf(&b, "\n### %s\n\n| package | before | now |\n|---|---|---|\n", title)
			for _, c := range list[:min(len(list), maxNotes)] {
				fmt.Fprintf(&b, "| %s %s | %s | %s |\n", text(c.Type), text(c.Name), text(c.A), text(c.B))
			}
		}
		changes("Packages changed", d.PackagesChanged)
		changes("Packages added", d.PackagesAdded)
		changes("Packages removed", d.PackagesRemoved)
		if len(d.Config) > 0 {
			b.WriteString("\n### Configuration\n\n| | before | now |\n|---|---|---|\n")
			for _, c := range d.Config[:min(len(d.Config), maxNotes)] {
				fmt.Fprintf(&b, "| %s | %s | %s |\n", text(c.Name), text(c.A), text(c.B))
			}
		}
	}
	b.WriteString("\n### Known vulnerabilities\n\n")
	if x.Unasked != "" {
		fmt.Fprintf(&b, "Incomplete: %s.\n\n", text(x.Unasked))
	}
	if d == nil {
		fmt.Fprintf(&b, "%d known.\n", len(x.New)+x.Remaining)
		return b.String()
	}
	fmt.Fprintf(&b, "%d fixed, %d new, %d in both.\n", len(x.Fixed), len(x.New), x.Remaining)
	for _, l := range []struct {
		word string
		list []KnownVulnerability
	}{{"fixed", x.Fixed}, {"new", x.New}} {
		for i, v := range l.list {
			if i == 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "- %s: %s in %s %s%s\n", l.word, text(v.ID), text(v.Package), text(v.Version), severity(v.Severity))
		}
	}
	return b.String()
}

func severity(s string) string {
	if s == "" {
		return ""
	}
	return " (" + text(s) + ")"
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// text makes what stands in an image harmless in Markdown: no table, link, tag
// or line of its own.
func text(s string) string {
	if r := []rune(s); len(r) > 300 {
		s = string(r[:299]) + "…"
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case strings.ContainsRune("\\`*_[]<>|#!~", r):
			b.WriteRune('\\')
			b.WriteRune(r)
		case !unicode.IsPrint(r):
			b.WriteRune(unicode.ReplacementChar)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
