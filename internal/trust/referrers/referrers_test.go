package referrers

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/trust"
)

var quiet = log.New(io.Discard, "", 0)

// places are the three ways of keeping claims; all behave alike.
func places(t *testing.T) map[string]func() (oci.Descriptor, Place) {
	return map[string]func() (oci.Descriptor, Place){
		"layout": func() (oci.Descriptor, Place) {
			l, err := oci.CreateLayout(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			d, err := l.PutBytes(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2}`))
			if err != nil {
				t.Fatal(err)
			}
			return d, InLayout(l)
		},
		"registry": func() (oci.Descriptor, Place) {
			_, d, p := someImage(t, registry.WithReferrersSupport(true))
			return d, p
		},
		"registry without referrers": func() (oci.Descriptor, Place) {
			_, d, p := someImage(t)
			return d, p
		},
	}
}

func TestPlaces(t *testing.T) {
	k, err := trust.Generate(trust.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range places(t) {
		t.Run(name, func(t *testing.T) {
			subject, p := open()
			if found, err := Claims(t.Context(), p, subject.Digest); err != nil || len(found) != 0 {
				t.Fatalf("before: %v, %v", found, err)
			}
			first := attach(t, p, k, subject, evidence.TypeSignature, struct{}{})
			doc := Blob{evidence.MediaSPDX, []byte(`{"spdxVersion":"SPDX-2.3"}`)}
			for range 2 { // the second changes nothing
				if _, err := AttachDocument(t.Context(), p, subject, doc); err != nil {
					t.Fatal(err)
				}
			}
			ref := evidence.Refer("sbom", doc.MediaType, digest.FromBytes(doc.Data))
			attach(t, p, k, subject, evidence.TypeReference, ref)

			found, err := Claims(t.Context(), p, subject.Digest)
			if err != nil || len(found) != 2 {
				t.Fatalf("%d claims, %v", len(found), err)
			}
			says := map[string]bool{}
			for _, f := range found {
				says[f.Says] = true
				if f.Err != nil || f.Says == evidence.TypeSignature && string(f.Bundle) != string(first) {
					t.Errorf("%+v", f)
				}
			}
			if !says[evidence.TypeSignature] || !says[evidence.TypeReference] {
				t.Errorf("%v", says)
			}
			b, err := Document(t.Context(), p, subject.Digest, ref.References[0])
			if err != nil || string(b) != string(doc.Data) {
				t.Errorf("document %q, %v", b, err)
			}
			missing := evidence.Refer("sbom", doc.MediaType, digest.FromString("gone"))
			if _, err := Document(t.Context(), p, subject.Digest, missing.References[0]); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("missing document: %v", err)
			}
			// Another image has none of it.
			if found, err := Claims(t.Context(), p, digest.FromString("other")); err != nil || len(found) != 0 {
				t.Errorf("of another image: %v, %v", found, err)
			}
			if _, err := Claims(t.Context(), p, "sha256:../../x"); err == nil {
				t.Error("a broken digest")
			}
			list, err := p.List(t.Context(), subject.Digest)
			if err != nil || len(list) != 3 {
				t.Errorf("%d referrers, %v", len(list), err)
			}
		})
	}
}

// TestHostileReferrers: what others put beside an image is listed with what is
// wrong with it, and never read as something else.
func TestHostileReferrers(t *testing.T) {
	for name, open := range places(t) {
		t.Run(name, func(t *testing.T) {
			subject, p := open()
			empty := Blob{ocispec.MediaTypeEmptyJSON, []byte("{}")}
			put := func(m ocispec.Manifest, blobs ...Blob) {
				t.Helper()
				if _, err := p.Put(t.Context(), m, append(blobs, empty)...); err != nil {
					t.Fatal(err)
				}
			}
			a, b := Blob{trust.BundleType, []byte(`{"a":1}`)}, Blob{trust.BundleType, []byte(`{"b":1}`)}
			two := artifact(subject, trust.BundleType, a, nil)
			two.Layers = append(two.Layers, b.descriptor())
			put(two, a, b)
			text := Blob{"text/plain", []byte("hello")}
			put(artifact(subject, trust.BundleType, text, nil), text)
			put(artifact(subject, "application/vnd.example.other", text, nil), text)
			put(artifact(subject, trust.BundleType, a, map[string]string{annotationPredicate: evidence.TypeSummary}), a)
			none := artifact(subject, trust.BundleType, a, map[string]string{"n": "none"})
			none.Layers = []oci.Descriptor{}
			put(none)

			found, err := Claims(t.Context(), p, subject.Digest)
			if err != nil {
				t.Fatal(err)
			}
			var problems []string
			good := 0
			for _, f := range found {
				if f.Err != nil {
					problems = append(problems, f.Err.Error())
				} else if good++; string(f.Bundle) != `{"a":1}` || f.Says != evidence.TypeSummary {
					t.Errorf("%+v", f)
				}
			}
			all := strings.Join(problems, "; ")
			if good != 1 || len(problems) != 3 || !strings.Contains(all, "2 layers") || strings.Count(all, "holds no bundle") != 2 {
				t.Errorf("%d good; %s", good, all)
			}
		})
	}
}

// lying is a place that gives other bytes than were asked for.
type lying struct{ Place }

func (l lying) Read(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	if d.MediaType != ocispec.MediaTypeImageManifest {
		return l.Place.Read(ctx, d, limit)
	}
	raw, err := l.Place.Read(ctx, d, limit)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	m.Subject.Digest = digest.FromString("development")
	return json.Marshal(m)
}

func TestSubjectOfTheManifest(t *testing.T) {
	k, err := trust.Generate(trust.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	subject, p := places(t)["layout"]()
	attach(t, p, k, subject, evidence.TypeSignature, struct{}{})
	found, err := Claims(t.Context(), lying{p}, subject.Digest)
	if err != nil || len(found) != 1 || found[0].Err == nil || found[0].Bundle != nil {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestLiesAboutDocuments: whoever may push can name a document with another
// size, or say a megabyte of nothing; neither keeps the document from being read.
func TestLiesAboutDocuments(t *testing.T) {
	subject, p := places(t)["layout"]()
	doc := Blob{evidence.MediaSPDX, []byte(`{"spdxVersion":"SPDX-2.3"}`)}
	if _, err := AttachDocument(t.Context(), p, subject, doc); err != nil {
		t.Fatal(err)
	}
	for i := range 8 { // some of them are listed before the true one
		m := artifact(subject, doc.MediaType, doc, map[string]string{"n": strings.Repeat("x", i)})
		m.Layers[0].Size++
		if _, err := p.Put(t.Context(), m, doc, Blob{ocispec.MediaTypeEmptyJSON, []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	ref := evidence.Resource{MediaType: doc.MediaType, Digest: evidence.DigestSet(digest.FromBytes(doc.Data))}
	got, err := Document(t.Context(), p, subject.Digest, ref)
	if err != nil || string(got) != string(doc.Data) {
		t.Errorf("%q, %v", got, err)
	}
	bundle := Blob{trust.BundleType, []byte(`{"a":1}`)}
	huge := artifact(subject, trust.BundleType, bundle, map[string]string{annotationPredicate: "https://" + strings.Repeat("x", 1<<20)})
	if _, err := p.Put(t.Context(), huge, bundle, Blob{ocispec.MediaTypeEmptyJSON, []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	huge.Layers[0].Size = 1 << 50
	if _, err := p.Put(t.Context(), huge, bundle); err != nil {
		t.Fatal(err)
	}
	found, err := Claims(t.Context(), p, subject.Digest)
	if err != nil || len(found) != 2 {
		t.Fatalf("%d claims, %v", len(found), err)
	}
	for _, f := range found {
		if len(f.Says) > maxSays {
			t.Errorf("%d bytes are kept of what a manifest says", len(f.Says))
		}
	}
}

func TestTooMany(t *testing.T) {
	all := make([]oci.Descriptor, MaxReferrers+1)
	if _, err := tidy(digest.FromString("x"), all); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error(err)
	}
	if _, err := tidy(digest.FromString("x"), []oci.Descriptor{{MediaType: "x", Digest: "sha256:../x", Size: 1}}); err == nil {
		t.Error("a broken digest in the list")
	}
}

func TestDamagedBundle(t *testing.T) {
	l, err := oci.CreateLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	subject, err := l.PutBytes(ocispec.MediaTypeImageManifest, []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	p := InLayout(l)
	// The descriptor says another size than the blob has.
	m := artifact(subject, trust.BundleType, Blob{trust.BundleType, []byte("12345")}, nil)
	m.Layers[0].Size = 4
	if _, err := p.Put(t.Context(), m, Blob{trust.BundleType, []byte("12345")}); err != nil {
		t.Fatal(err)
	}
	// Another is larger than any bundle that is read.
	big := artifact(subject, trust.BundleType, Blob{trust.BundleType, []byte("67890")}, nil)
	big.Layers[0].Size = trust.MaxBundle + 1
	if _, err := p.Put(t.Context(), big, Blob{trust.BundleType, []byte("67890")}); err != nil {
		t.Fatal(err)
	}
	found, err := Claims(t.Context(), p, subject.Digest)
	if err != nil || len(found) != 2 || found[0].Err == nil || found[1].Err == nil {
		t.Errorf("%+v, %v", found, err)
	}
}
