package gate

import (
	"encoding/json"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
)

// MaxImages is how many images of an index are judged, and how many indexes are
// followed: releases are for a dozen platforms.
const MaxImages = 256

// Images is what is to be judged of an image or an index.
type Images struct {
	Root    oci.Descriptor   // what was asked for
	Images  []oci.Descriptor // the images of it, of the platform that was asked for
	Indexes []oci.Digest     // that lead to them, Root among them when it is one
	Whole   bool             // Images are all that there are
	Strange bool             // an index has further manifests that a runtime might take for images
	Says    []string         // zones that the indexes say they are of (Request.Says)
}

// FindImages finds the images of root, which is one or is an index of some. The
// zero platform means all. read returns a manifest, verified.
func FindImages(root oci.Descriptor, plat oci.Platform, read func(oci.Descriptor) ([]byte, error)) (*Images, error) {
	out := &Images{Root: root, Whole: true}
	return out, out.find(root, plat, read, map[oci.Digest]bool{}, 0)
}

func (c *Images) find(d oci.Descriptor, plat oci.Platform, read func(oci.Descriptor) ([]byte, error), seen map[oci.Digest]bool, depth int) error {
	switch {
	case depth > 4:
		return fmt.Errorf("index %s: nested too deeply", c.Root.Digest)
	case oci.IsManifest(d.MediaType):
		if len(c.Images) == MaxImages {
			return fmt.Errorf("index %s: more than %d images", c.Root.Digest, MaxImages)
		}
		c.Images = append(c.Images, d)
		return nil
	case !oci.IsIndex(d.MediaType):
		return fmt.Errorf("%s has media type %q: no image", d.Digest, d.MediaType)
	}
	// An index that is listed many times, each time with many, would never end.
	if seen[d.Digest] {
		return nil
	}
	if seen[d.Digest] = true; len(seen) > MaxImages {
		return fmt.Errorf("index %s: more than %d indexes", c.Root.Digest, MaxImages)
	}
	c.Indexes = append(c.Indexes, d.Digest)
	raw, err := read(d)
	if err != nil {
		return err
	}
	idx, err := oci.ParseIndex(raw)
	if err == nil {
		// Of a repeated name, or one in another case, others may take the other.
		var same struct {
			ocispec.Index
			Layers json.RawMessage `json:"layers"`
			Config json.RawMessage `json:"config"`
		}
		if err = strictjson.UnmarshalLarge(raw, &same, oci.MaxManifest); err == nil && (same.Layers != nil || same.Config != nil) {
			err = errors.New("it is an image at the same time")
		}
	}
	if err != nil {
		return fmt.Errorf("index %s: %w", d.Digest, err)
	}
	c.Says = append(c.Says, idx.Annotations[oci.ZoneKey], d.Annotations[oci.ZoneKey])
	for _, m := range idx.Manifests {
		if unknown := m.Platform != nil && m.Platform.OS == "unknown"; m.ArtifactType != "" || unknown {
			// Attestations of other tools, listed as if they were images. No
			// runtime asks for the platform "unknown"; but some look at the
			// platform only and would run what calls itself an artifact.
			c.Strange = c.Strange || !unknown
			continue
		}
		if plat != (oci.Platform{}) && m.Platform != nil && (m.Platform.OS != plat.OS || m.Platform.Architecture != plat.Architecture) {
			c.Whole = false
			continue
		}
		if err := c.find(m, plat, read, seen, depth+1); err != nil {
			return err
		}
	}
	return nil
}
