package registry

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
)

// The media types of manifests that are stored. Others are refused: what nobody
// here can read could refer to blobs that a collection would delete.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// document is what a manifest or index says, as far as a registry must know.
type document struct {
	facts
	image      oci.Digest // configuration of an image that a runtime could run; "" of an artifact or index
	imageSize  int64
	blobs      []oci.Descriptor // that must be there
	manifests  []oci.Descriptor // of an index
	annotation string           // the zone that it says
	referrer   oci.Descriptor   // as a list of referrers shows it, when it has a subject
}

// readManifest reads a manifest's bytes. d is its digest.
func readManifest(contentType string, content []byte, d oci.Digest) (*document, error) {
	var m struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        *oci.Descriptor   `json:"config"`
		Layers        descriptors       `json:"layers"`
		Manifests     descriptors       `json:"manifests"`
		Subject       *oci.Descriptor   `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
		FSLayers      json.RawMessage   `json:"fsLayers"`
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	if err := dec.Decode(&m); err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return nil, e
		}
		return nil, errorf(ManifestInvalid, "the manifest is no JSON that can be read: %v", err)
	}
	if dec.More() {
		return nil, errorf(ManifestInvalid, "something follows the manifest's JSON")
	}
	// image-spec manifest.md: "mediaType … SHOULD be used"; when both are there
	// they must agree, or two clients would read two things.
	media := cmp.Or(contentType, m.MediaType)
	if m.MediaType != "" && media != m.MediaType {
		return nil, errorf(ManifestInvalid, "the Content-Type header says %s and the manifest says %s", clip(contentType), clip(m.MediaType))
	}
	doc := &document{annotation: m.Annotations[oci.ZoneKey]}
	doc.MediaType, doc.Size = media, int64(len(content))
	switch media {
	case ocispec.MediaTypeImageManifest, dockerManifest:
		if m.Config == nil || m.Manifests != nil || m.FSLayers != nil {
			return nil, errorf(ManifestInvalid, "an image manifest has a config, and neither manifests nor fsLayers")
		}
		doc.blobs = append(doc.blobs, *m.Config)
		for _, l := range m.Layers {
			if !foreign(l) {
				doc.blobs = append(doc.blobs, l)
			}
		}
		if t := m.Config.MediaType; t == ocispec.MediaTypeImageConfig || t == dockerConfig {
			doc.image, doc.imageSize = m.Config.Digest, m.Config.Size
		}
	case ocispec.MediaTypeImageIndex, dockerList:
		if m.Config != nil || m.Layers != nil || m.FSLayers != nil {
			return nil, errorf(ManifestInvalid, "an index has manifests, and neither config, layers nor fsLayers")
		}
		doc.manifests = m.Manifests
	case "":
		return nil, errorf(ManifestInvalid, "neither the Content-Type header nor the manifest says a media type")
	default:
		return nil, errorf(ManifestInvalid, "manifests of the type %s are not kept here", clip(media)).
			because("", "push an OCI image manifest or index, or Docker's schema 2")
	}
	for _, x := range slices.Concat(doc.blobs, doc.manifests) {
		if err := usable(x); err != nil { // of the config too
			return nil, err
		}
		doc.Children = append(doc.Children, x.Digest)
	}
	slices.Sort(doc.Children)
	doc.Children = slices.Compact(doc.Children)
	if m.Subject != nil {
		if err := ValidDigest(m.Subject.Digest); err != nil {
			return nil, errorf(ManifestInvalid, "the manifest's subject has no usable digest: %v", err)
		}
		if m.Subject.Digest == d {
			return nil, errorf(ManifestInvalid, "the manifest is its own subject")
		}
		doc.Subject = m.Subject.Digest
		// Distribution specification, "Listing Referrers": artifactType is the
		// manifest's, or its config's media type when it has none.
		doc.referrer = oci.Descriptor{MediaType: media, Digest: d, Size: doc.Size, ArtifactType: m.ArtifactType, Annotations: m.Annotations}
		if m.ArtifactType == "" && m.Config != nil {
			doc.referrer.ArtifactType = m.Config.MediaType
		}
	}
	return doc, nil
}

// descriptors are read one by one, each judged before the next: a list of a
// million empty ones, three bytes each, would take several hundred times as much
// memory.
type descriptors []oci.Descriptor

func (l *descriptors) UnmarshalJSON(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil {
		return err
	} else if t == nil {
		return nil
	} else if t != json.Delim('[') {
		return errorf(ManifestInvalid, "the manifest has something else in the place of a list of descriptors")
	}
	*l = descriptors{}
	for dec.More() {
		var d oci.Descriptor
		if err := dec.Decode(&d); err != nil {
			return err
		}
		if err := usable(d); err != nil {
			return err
		}
		*l = append(*l, d)
	}
	return nil
}

// usable checks what every descriptor must have.
func usable(d oci.Descriptor) error {
	if err := ValidDigest(d.Digest); err != nil {
		return errorf(ManifestInvalid, "the manifest refers to something without a usable digest: %v", err)
	}
	if d.Size < 0 {
		return errorf(ManifestInvalid, "the manifest says that %s has a negative size", d.Digest)
	}
	return nil
}

// foreign layers are fetched from elsewhere and need not be here.
func foreign(d oci.Descriptor) bool {
	switch d.MediaType {
	case ocispec.MediaTypeImageLayerNonDistributable, ocispec.MediaTypeImageLayerNonDistributableGzip, ocispec.MediaTypeImageLayerNonDistributableZstd, dockerForeign: //nolint:staticcheck // still pushed
		return true
	}
	return false
}

// ValidDigest accepts sha256 and sha512 digests.
func ValidDigest(d oci.Digest) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if a := d.Algorithm(); a != "sha256" && a != "sha512" {
		return fmt.Errorf("digests of %s are not supported", a)
	}
	return nil
}

// configZone reads the zone that an image's configuration says.
func configZone(content []byte) (string, error) {
	var c struct {
		Config struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return "", err
	}
	return c.Config.Labels[oci.ZoneKey], nil
}

// clip bounds what clients say in what they are told.
func clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}
