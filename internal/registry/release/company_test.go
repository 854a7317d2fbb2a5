package release

import (
	"encoding/json"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
)

// TestCompany: an image that nobody judged comes into production neither as
// something that refers to the candidate nor as a part of an index that is passed
// over when images are looked for.
func TestCompany(t *testing.T) {
	// other is another image of the same bytes, whatever they are.
	other := func(y *yard, subject *oci.Descriptor) oci.Descriptor {
		t.Helper()
		raw, err := y.store.ReadBlob(y.image)
		if err != nil {
			t.Fatal(err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		m.Annotations["other"], m.Subject = "yes", subject
		if raw, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		d, err := y.store.PutBytes(ocispec.MediaTypeImageManifest, raw)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for name, make := range map[string]func(y *yard) (root, company oci.Descriptor){
		"referrer": func(y *yard) (root, company oci.Descriptor) {
			return y.image, other(y, &oci.Descriptor{MediaType: y.image.MediaType, Digest: y.image.Digest, Size: y.image.Size})
		},
		"platform that no runtime asks for": func(y *yard) (root, company oci.Descriptor) {
			company = other(y, nil)
			listed, good := company, y.image
			listed.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
			good.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
			m := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []oci.Descriptor{good, listed}}
			m.SchemaVersion = 2
			raw, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if root, err = y.store.PutBytes(ocispec.MediaTypeImageIndex, raw); err != nil {
				t.Fatal(err)
			}
			return root, company
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			y := w.build(corpus.Base()).sign()
			root, company := make(y)
			y.push(app+"/candidate", company, root)
			_, err := w.s.Release(t.Context(), w.request(root.Digest, "1.0.0"), ann)
			w.refused(err, registry.NotJudged)
			if _, err := w.registry.Manifest(t.Context(), app, string(company.Digest)); err == nil {
				t.Error("an image that nobody judged is in production")
			}
		})
	}
}
