package conformance

import (
	"bytes"
	"net/http"
	"slices"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
)

// Released is what a production repository has: a version, made by a release.
type Released struct {
	Repository string
	Version    string   // its tag
	Tags       []string // all tags of the repository, in order
	Manifest   []byte   // of the version, an image manifest
	Blob       []byte   // one of its blobs

	// The repository's development catalog, where everything may be written, and its
	// candidate catalog.
	Development, Candidate string
}

// RunProduction holds a production repository against the specification, as far
// as one that nobody writes to can be: all pulls work, and every way to write
// answers as documented. It is not the specification's but uses what it leaves
// open: deletes MAY be refused with 405, and writes denied with 403 and DENIED.
func RunProduction(t *testing.T, x Target, have Released) {
	for _, test := range []struct {
		name string
		run  func(s suite, have Released)
	}{
		{"pull", productionPull},
		{"refuses-uploads", productionUploads},
		{"refuses-manifests", productionManifests},
		{"refuses-deletes", productionDeletes},
		{"candidate-by-digest", candidateTags},
		{"is-as-it-was", productionPull},
	} {
		t.Run("production/"+test.name, func(t *testing.T) {
			test.run(suite{T: t, x: x, repo: have.Repository}, have)
		})
	}
}

func productionPull(s suite, have Released) {
	d := digest.FromBytes(have.Manifest)
	for _, ref := range []string{have.Version, d.String()} {
		r := s.want(http.StatusOK, "GET", s.url("manifests/%s", ref), nil)
		s.header(r, "Docker-Content-Digest", d.String())
		s.header(r, "Content-Type", ocispec.MediaTypeImageManifest)
		if !bytes.Equal(r.Body, have.Manifest) {
			s.Errorf("%s: %s", ref, clip(r.Body))
		}
		s.want(http.StatusOK, "HEAD", s.url("manifests/%s", ref), nil)
	}
	r := s.want(http.StatusOK, "GET", s.url("blobs/%s", digest.FromBytes(have.Blob)), nil)
	if !bytes.Equal(r.Body, have.Blob) {
		s.Errorf("%s", clip(r.Body))
	}
	r = s.want(http.StatusPartialContent, "GET", s.url("blobs/%s", digest.FromBytes(have.Blob)), nil, "Range", "bytes=1-")
	if !bytes.Equal(r.Body, have.Blob[1:]) {
		s.Errorf("%s", clip(r.Body))
	}
	if got := s.tags(s.url("tags/list")); !slices.Equal(got, have.Tags) {
		s.Errorf("tags %v, want %v", got, have.Tags)
	}
	s.referrersOf(d, "")
}

// denied expects a refusal with its reason and its remedy, and that HEAD of
// nothing changed is the caller's to look at.
func (s suite) denied(status int, reason, method, target string, body []byte, header ...string) {
	s.Helper()
	r := s.refused(status, "DENIED", method, target, body, header...)
	if r.Reason() != reason {
		s.Errorf("%s %s: reason %q in %s, want %s", method, target, r.Reason(), clip(r.Body), reason)
	}
	if !bytes.Contains(r.Body, []byte(`"remedy":"`)) {
		s.Errorf("%s %s: no remedy in %s", method, target, clip(r.Body))
	}
	if status == http.StatusMethodNotAllowed && r.Header.Get("Allow") == "" {
		s.Errorf("%s %s: no Allow header with 405", method, target)
	}
}

func productionUploads(s suite, have Released) {
	content := []byte("by hand")
	d := digest.FromBytes(content)
	s.denied(http.StatusForbidden, "production-by-release-only", "POST", s.url("blobs/uploads/"), nil)
	s.denied(http.StatusForbidden, "production-by-release-only", "POST", s.url("blobs/uploads/?digest=%s", d), content)
	// What is there already, too; and what another catalog has.
	s.denied(http.StatusForbidden, "production-by-release-only", "POST", s.url("blobs/uploads/?digest=%s", digest.FromBytes(have.Blob)), have.Blob)
	dev := suite{s.T, s.x, have.Development}
	dev.blob(content)
	s.denied(http.StatusForbidden, "production-by-release-only", "POST", s.url("blobs/uploads/?mount=%s&from=%s", d, have.Development), nil)
	s.denied(http.StatusForbidden, "production-by-release-only", "POST", s.url("blobs/uploads/?mount=%s", digest.FromBytes(have.Blob)), nil)
	s.want(http.StatusNotFound, "HEAD", s.url("blobs/%s", d), nil)
	// An upload that was begun elsewhere does not end here.
	id := dev.begin()
	id = id[bytes.LastIndexByte([]byte(id), '/')+1:]
	s.refused(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "PATCH", s.url("blobs/uploads/%s", id), content)
	s.refused(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "PUT", withQuery(s.url("blobs/uploads/%s", id), "digest", d.String()), content)
}

func productionManifests(s suite, have Released) {
	oct := []string{"Content-Type", ocispec.MediaTypeImageManifest}
	d := digest.FromBytes(have.Manifest)
	other := bytes.Replace(have.Manifest, []byte(`{`), []byte(`{ `), 1)
	for _, test := range []struct {
		reason, ref string
		content     []byte
	}{
		{"production-by-release-only", have.Version, have.Manifest}, // the same again
		{"production-by-release-only", have.Version, other},         // another under its name
		{"production-by-release-only", "9.9.9", have.Manifest},      // a version by hand
		{"production-by-release-only", "main", have.Manifest},
		{"production-by-release-only", d.String(), have.Manifest},
		{"production-by-release-only", digest.FromBytes(other).String(), other},
		{"production-by-release-only", d.String() + "?tag=9.9.9", have.Manifest},
		{"convenience-tag-is-computed", "latest", have.Manifest},
		{"convenience-tag-is-computed", "1", other},
		{"convenience-tag-is-computed", d.String() + "?tag=latest", have.Manifest},
		{"production-by-release-only", "x", []byte("no manifest at all")},
	} {
		s.denied(http.StatusForbidden, test.reason, "PUT", s.url("manifests/%s", test.ref), test.content, oct...)
	}
	// An artifact beside the image is a write too.
	s.denied(http.StatusForbidden, "production-by-release-only", "PUT", s.url("manifests/x"),
		Manifest(ocispec.DescriptorEmptyJSON, []ocispec.Descriptor{}, func(m *ocispec.Manifest) {
			m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(have.Manifest))}
		}), oct...)
}

// "405 Method Not Allowed" is how a registry says that it deletes nothing.
func productionDeletes(s suite, have Released) {
	for _, target := range []string{
		s.url("manifests/%s", have.Version), s.url("manifests/latest"), s.url("manifests/%s", digest.FromBytes(have.Manifest)), s.url("blobs/%s", digest.FromBytes(have.Blob)),
		// Nothing is said about what is not there.
		s.url("manifests/nothing"), s.url("manifests/%s", digest.FromString("nothing")), s.url("blobs/%s", digest.FromString("nothing")),
	} {
		s.denied(http.StatusMethodNotAllowed, "production-is-permanent", "DELETE", target, nil)
	}
}

// Candidates have no tags, and the catalogs do not take each other's images.
func candidateTags(s suite, have Released) {
	oct := []string{"Content-Type", ocispec.MediaTypeImageManifest}
	c := suite{s.T, s.x, have.Candidate}
	c.denied(http.StatusForbidden, "candidate-by-digest", "PUT", c.url("manifests/latest"), have.Manifest, oct...)
	c.want(http.StatusCreated, "PUT", c.url("manifests/%s", digest.FromBytes(have.Manifest)), have.Manifest, oct...)

	// The production image in the development catalog.
	dev := suite{s.T, s.x, have.Development}
	for _, d := range descriptors(have.Manifest) {
		dev.want(http.StatusCreated, "POST", dev.url("blobs/uploads/?mount=%s&from=%s", d.Digest, have.Repository), nil)
	}
	dev.denied(http.StatusForbidden, "wrong-zone", "PUT", dev.url("manifests/latest"), have.Manifest, oct...)

	// An image that says nothing is no candidate.
	config := c.blob([]byte(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`))
	config.MediaType = ocispec.MediaTypeImageConfig
	m := Manifest(config, []ocispec.Descriptor{}, nil)
	c.denied(http.StatusForbidden, "wrong-zone", "PUT", c.url("manifests/%s", digest.FromBytes(m)), m, oct...)
}

func descriptors(manifest []byte) []oci.Descriptor {
	m, err := oci.ParseManifest(manifest)
	if err != nil {
		panic(err) // the caller's own
	}
	return append(m.Layers, m.Config)
}
