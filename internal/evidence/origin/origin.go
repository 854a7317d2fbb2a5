// Package origin makes the claim that an origins document tells the truth about
// an image, and checks a document against such a claim.
//
// The document has some megabytes and is a referrer of the image already: the
// claim signs its digest. What the document says, package build defines.
package origin

import (
	"encoding/json"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/oci"
)

// Predicate returns the predicate for the bytes of an origins document.
func Predicate(document []byte) evidence.Reference {
	return evidence.Refer("origins", build.OriginsType, digest.FromBytes(document))
}

// Parse returns the digest of the origins document that a predicate refers to.
func Parse(predicate json.RawMessage) (oci.Digest, error) {
	r, err := evidence.ParseReference(predicate)
	if err != nil {
		return "", err
	}
	if len(r.References) != 1 || r.References[0].MediaType != build.OriginsType {
		return "", fmt.Errorf("origins predicate: want one reference of type %s", build.OriginsType)
	}
	return r.References[0].OCIDigest()
}

// Read checks a document against the predicate of an opened claim and reads it.
// image is the digest that the claim is about.
func Read(predicate json.RawMessage, image oci.Digest, document []byte) (*build.Origins, error) {
	want, err := Parse(predicate)
	if err != nil {
		return nil, err
	}
	if got := want.Algorithm().FromBytes(document); got != want {
		return nil, fmt.Errorf("origins document has digest %s, the claim says %s", got, want)
	}
	return build.ParseOrigins(document, image)
}
