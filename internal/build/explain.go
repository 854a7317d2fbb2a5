package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// ErrNoOrigins is matched when nothing explains an image: it was not built
// here, or it came without its referrers.
var ErrNoOrigins = errors.New("no origins document")

// maxOrigins bounds an origins document; one of a development image with
// 60,000 paths has some 20 MB.
const maxOrigins = 256 << 20

// ReadOrigins finds the document that explains an image of a layout. The
// digest in the document must be the image's own.
func ReadOrigins(store *oci.Layout, manifest oci.Digest) (*Origins, error) {
	desc, err := store.Tag(ReferrersTag(manifest))
	if err != nil {
		return nil, fmt.Errorf("%w for %s", ErrNoOrigins, manifest)
	}
	raw, err := store.ReadBlob(desc)
	if err != nil {
		return nil, err
	}
	idx, err := oci.ParseIndex(raw)
	if err != nil {
		return nil, err
	}
	for _, d := range idx.Manifests {
		if d.ArtifactType != OriginsType {
			continue
		}
		raw, err := store.ReadBlob(d)
		if err != nil {
			return nil, err
		}
		m, err := oci.ParseManifest(raw)
		if err != nil {
			return nil, err
		}
		if m.Subject == nil || m.Subject.Digest != manifest || len(m.Layers) != 1 {
			return nil, fmt.Errorf("the origins of %s are about another image", manifest)
		}
		rc, size, err := store.Blob(m.Layers[0].Digest)
		if err != nil {
			return nil, err
		}
		defer rc.Close()
		if size > maxOrigins {
			return nil, fmt.Errorf("the origins of %s are larger than %d bytes", manifest, int64(maxOrigins))
		}
		raw, err = io.ReadAll(oci.VerifyReader(rc, m.Layers[0].Digest, size))
		if err != nil {
			return nil, err
		}
		return ParseOrigins(raw, manifest)
	}
	return nil, fmt.Errorf("%w for %s", ErrNoOrigins, manifest)
}

// AllOrigins reads every origins document of a layout.
func AllOrigins(store *oci.Layout) ([]*Origins, error) {
	idx, err := store.Index()
	if err != nil {
		return nil, err
	}
	var out []*Origins
	for _, d := range idx.Manifests {
		hex, ok := strings.CutPrefix(d.Annotations[ocispec.AnnotationRefName], "sha256-")
		if !ok {
			continue
		}
		o, err := ReadOrigins(store, digest.NewDigestFromEncoded(digest.SHA256, hex))
		if errors.Is(err, ErrNoOrigins) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// ParseOrigins reads an origins document about an image.
func ParseOrigins(raw []byte, manifest oci.Digest) (*Origins, error) {
	var o Origins
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("origins document: %w", err)
	}
	if o.Version != 1 {
		return nil, fmt.Errorf("origins document has version %d, this program knows 1: update twinhull", o.Version)
	}
	if o.Image != manifest {
		return nil, fmt.Errorf("the origins document is about %s, not about %s", o.Image, manifest)
	}
	return &o, nil
}

// Explanation answers why a path is, or is not, in an image.
type Explanation struct {
	Path    string        `json:"path"`              // as asked, absolute
	Through []string      `json:"through,omitempty"` // symbolic links that led to the file
	Found   *PathOrigin   `json:"found,omitempty"`
	Package *packageFacts `json:"package,omitempty"`
	Step    *StepRecord   `json:"step,omitempty"`
	InVault bool          `json:"inVault"`
	Absent  string        `json:"absent,omitempty"` // why there is nothing, as near as can be told
	Near    []string      `json:"near,omitempty"`   // paths that come closest
	origins *Origins
}

type packageFacts struct {
	ID            string     `json:"id"`
	Source        string     `json:"source"`
	SourceVersion string     `json:"sourceVersion"`
	Suite         string     `json:"suite"`
	Pool          string     `json:"pool"`
	SHA256        oci.Digest `json:"sha256"`
}

// Explain answers for one path of an image. inVault tells whether bytes are
// still kept.
func Explain(o *Origins, p string, inVault func(oci.Digest) bool) *Explanation {
	x := &Explanation{Path: path.Join("/", p), origins: o}
	byPath := map[string]*PathOrigin{}
	t := filetree.NewTree()
	for i := range o.Paths {
		po := &o.Paths[i]
		byPath[po.Path] = po
		e := &filetree.Entry{Path: po.Path, Link: po.Link, Type: '5'}
		switch po.Type {
		case "symlink":
			e.Type = '2'
		case "file", "hardlink":
			e.Type = '0'
		}
		t.Set(e)
	}
	rel := strings.TrimPrefix(x.Path, "/")
	found := byPath[rel]
	if found == nil {
		if e := t.Resolve(rel); e != nil {
			found = byPath[e.Path]
			x.Through = []string{x.Path}
		}
	}
	if found == nil {
		x.Absent, x.Near = absent(o, rel, byPath)
		return x
	}
	x.Found = found
	x.InVault = found.Origin.Digest != "" && inVault(found.Origin.Digest)
	switch found.Origin.Kind {
	case filetree.FromPackage:
		for _, q := range o.Packages {
			if q.Name == found.Origin.Name && q.Version == found.Origin.Version {
				x.Package = &packageFacts{q.ID(), q.Source, q.SourceVersion, q.Suite, q.Path, q.SHA256}
			}
		}
	case filetree.FromArtifact:
		for i := range o.Steps {
			if o.Steps[i].Digest == found.Origin.Digest {
				x.Step = &o.Steps[i]
			}
		}
	}
	return x
}

func absent(o *Origins, rel string, byPath map[string]*PathOrigin) (string, []string) {
	why := "nothing that the project file names brings it"
	if o.Zone == oci.Production {
		if reason, yes := trimmed(usrMerged(rel)); yes {
			why = "left out of production: " + reason
		}
		base := path.Base(rel)
		for _, om := range o.Omitted {
			if om.Name == base || strings.HasPrefix(base, om.Name) {
				why = fmt.Sprintf("package %s is left out of production (%s); %s depends on it", om.Name, om.Reason, om.Needed)
			}
		}
	}
	var near []string
	for p := range byPath {
		if path.Base(p) == path.Base(rel) {
			near = append(near, "/"+p)
		}
	}
	sort.Strings(near)
	if len(near) > 5 {
		near = near[:5]
	}
	return why, near
}

// Write prints the answer for people, in one screen.
func (x *Explanation) Write(w io.Writer) {
	o := x.origins
	row := func(k, format string, a ...any) { fmt.Fprintf(w, "%-11s %s\n", k, fmt.Sprintf(format, a...)) }
	if x.Found == nil {
		fmt.Fprintf(w, "%s is not in the image\n", x.Path)
		row("why", "%s", x.Absent)
		for _, n := range x.Near {
			row("near", "%s", n)
		}
		return
	}
	f := x.Found
	fmt.Fprintf(w, "%s\n", x.Path)
	if len(x.Through) > 0 {
		row("leads to", "/%s", f.Path)
	}
	switch f.Type {
	case "file":
		row("file", "%d bytes, mode %s, owner %d:%d, %s", f.Size, f.Mode, f.UID, f.GID, f.SHA256)
	case "symlink", "hardlink":
		row(f.Type, "to %s", f.Link)
	default:
		row(f.Type, "mode %s, owner %d:%d", f.Mode, f.UID, f.GID)
	}
	kept := "in the vault"
	if !x.InVault {
		kept = "not in this machine's vault"
	}
	switch f.Origin.Kind {
	case filetree.FromPackage:
		row("from", "package %s %s (%s)", f.Origin.Name, f.Origin.Version, f.Origin.Arch)
		if p := x.Package; p != nil {
			row("source", "%s %s", p.Source, p.SourceVersion)
			row("lock entry", "%s in %s, %s", p.ID, p.Suite, p.Pool)
		}
		row("bytes", "%s, %s", f.Origin.Digest, kept)
	case filetree.FromModule:
		row("from", "%s@%s, member %s", f.Origin.Name, f.Origin.Version, f.Origin.Path)
		row("bytes", "%s, %s", f.Origin.Digest, kept)
	case filetree.FromSource:
		row("from", "the project's file %s", f.Origin.Name)
		row("bytes", "%s, %s", f.Origin.Digest, kept)
	case filetree.FromArtifact:
		row("from", "artifact %s, output file %s", f.Origin.Name, f.Origin.Path)
		if f.Origin.Note != "" {
			row("", "%s", f.Origin.Note)
		}
		if s := x.Step; s != nil {
			row("step", "%s: %s", s.Step, strings.Join(s.Run, " "))
			row("ran over", "%d packages, tree %s", len(s.Packages), clip(string(s.Tree), 12))
			if len(s.Deps) > 0 {
				row("with", "%d locked dependencies", len(s.Deps))
			}
			for i, in := range s.Inputs {
				if i == 12 {
					row("", "… and %d more", len(s.Inputs)-i)
					break
				}
				k := ""
				if i == 0 {
					k = "read"
				}
				row(k, "%s %s", in.Path, clip(strings.TrimPrefix(string(in.SHA256), "sha256:"), 12))
			}
		}
		row("record", "%s, %s", f.Origin.Digest, kept)
	case filetree.FromGenerated:
		row("from", "Twinhull itself: effect %s", f.Origin.Name)
		row("because", "%s", f.Origin.Note)
		row("bytes", "%s, %s", f.Origin.Digest, kept)
	}
	row("image", "%s %s, %s %s", o.Name, o.Image, o.Zone, o.Platform)
	row("lock", "%s as of %s", clip(strings.TrimPrefix(string(o.Lock), "sha256:"), 12), o.AsOf.Format("2006-01-02"))
}
