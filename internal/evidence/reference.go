package evidence

import (
	"encoding/json"
	"fmt"
	"strings"

	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
)

// Reference is the predicate that stands for documents which are too large to
// be signed whole (TypeReference v0.1). The document is a blob beside the
// image; signing its digest is signing it.
type Reference struct {
	Attester   Attester   `json:"attester"`
	References []Resource `json:"references"`
}

// Attester names the system that provides the documents.
type Attester struct {
	ID string `json:"id"`
}

// AttesterID is this program as an Attester.
const AttesterID = "https://twinhull.dev/attester/v1"

// blobLocation begins the location of a document that is a blob of the
// repository or layout in which the claim is found, wherever that is copied to.
const blobLocation = "oci:blobs/"

// Refer returns the predicate for one document.
func Refer(name, mediaType string, d oci.Digest) Reference {
	return Reference{Attester: Attester{AttesterID}, References: []Resource{{
		Name: name, MediaType: mediaType, Digest: DigestSet(d),
		DownloadLocation: blobLocation + strings.Replace(d.String(), ":", "/", 1),
	}}}
}

// ParseReference reads the predicate.
func ParseReference(predicate json.RawMessage) (Reference, error) {
	var r Reference
	if err := strictjson.UnmarshalOpen(predicate, &r); err != nil {
		return Reference{}, fmt.Errorf("reference predicate: %w", err)
	}
	if n := len(r.References); n == 0 || n > maxSubjects {
		return Reference{}, fmt.Errorf("reference predicate has %d references, want 1 to %d", n, maxSubjects)
	}
	for i, ref := range r.References {
		if err := ref.check(); err != nil {
			return Reference{}, fmt.Errorf("references[%d]: %w", i, err)
		}
		if _, err := ref.OCIDigest(); err != nil {
			return Reference{}, fmt.Errorf("references[%d]: %w", i, err)
		}
		if ref.MediaType == "" {
			return Reference{}, fmt.Errorf("references[%d]: no mediaType", i)
		}
	}
	return r, nil
}

// Kind is the kind that all documents have.
func (r Reference) Kind() (Kind, error) {
	var kind Kind
	for _, ref := range r.References {
		k, ok := mediaKinds[ref.MediaType]
		if !ok {
			return "", fmt.Errorf("refers to a document of media type %q, of which this program knows nothing", ref.MediaType)
		}
		if kind != "" && k != kind {
			return "", fmt.Errorf("refers to documents of several kinds (%s, %s): one claim is of one kind", kind, k)
		}
		kind = k
	}
	if kind == "" {
		return "", fmt.Errorf("refers to nothing")
	}
	return kind, nil
}

// OCIDigest is the digest by which the resource is found: sha256, else sha512.
func (r Resource) OCIDigest() (oci.Digest, error) {
	for _, alg := range []string{"sha256", "sha512"} {
		if hex, ok := r.Digest[alg]; ok {
			d := oci.Digest(alg + ":" + hex)
			return d, d.Validate()
		}
	}
	return "", fmt.Errorf("neither a sha256 nor a sha512 digest")
}
