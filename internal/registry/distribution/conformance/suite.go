package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
)

// tests are all clauses, in the order of the table of end-points.
var tests = []struct {
	name string
	run  func(s suite)
}{
	{"end-1/version-check", versionCheck},
	{"end-2/pull-blob", pullBlob},
	{"end-2/blob-ranges", blobRanges},
	{"end-2/blob-unknown", blobUnknown},
	{"end-2/conditional", blobConditional},
	{"end-3/pull-manifest", pullManifest},
	{"end-3/manifest-unknown", manifestUnknown},
	{"end-3/conditional", manifestConditional},
	{"end-4a/post-then-put", postThenPut},
	{"end-4a/sha512", sha512Blob},
	{"end-4b/single-post", singlePost},
	{"end-5/chunks", chunks},
	{"end-5/stream", stream},
	{"end-5/out-of-order", outOfOrder},
	{"end-5/resume", resume},
	{"end-6/wrong-digest", wrongDigest},
	{"end-6/unknown-upload", unknownUpload},
	{"end-7/push-manifest", pushManifest},
	{"end-7/push-index", pushIndex},
	{"end-7/docker", pushDocker},
	{"end-7/sha512", sha512Manifest},
	{"end-7/refused", manifestRefused},
	{"end-7/foreign-layers", foreignLayers},
	{"end-7/large", largeManifest},
	{"end-7/overwrite-tag", overwriteTag},
	{"end-7/tags-in-query", tagsInQuery},
	{"end-8/list-tags", listTags},
	{"end-8/unknown-repository", tagsOfNothing},
	{"end-9/delete-tag", deleteTag},
	{"end-9/delete-manifest", deleteManifest},
	{"end-10/delete-blob", deleteBlob},
	{"end-11/mount", mount},
	{"end-11/mount-fails", mountFails},
	{"end-12/referrers", referrers},
	{"end-12/filter", referrersFilter},
	{"end-12/nothing", referrersOfNothing},
	{"end-12/deleted", referrersDeleted},
	{"end-12/many", referrersMany},
	{"end-13/status", uploadStatus},
	{"uploads/cancel", cancelUpload},
	{"uploads/of-another-repository", uploadOfAnother},
	{"names/words-of-the-interface", namesOfWords},
	{"names/refused", namesRefused},
	{"errors/unknown-path", unknownPath},
	{"errors/method", wrongMethod},
	{"errors/head-has-no-body", headHasNoBody},
	{"http/continue", expectContinue},
}

// Run holds the target against the whole specification.
func Run(t *testing.T, x Target) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if why, ok := x.Deviations[test.name]; ok {
				t.Skip("known deviation: " + why)
			}
			word := strings.NewReplacer("/", "-").Replace(test.name)
			test.run(suite{T: t, x: x, repo: x.repository(word)})
		})
	}
}

func (x Target) repository(word string) string {
	if x.Repository == nil {
		return word
	}
	return x.Repository(word)
}

// "Determining Support": GET /v2/ MUST be 200 (or 401, when credentials are asked).
func versionCheck(s suite) {
	r := s.want(http.StatusOK, "GET", "/v2/", nil)
	// Not in the specification any more, and asked by Docker's clients.
	s.header(r, "Docker-Distribution-API-Version", "registry/2.0")
	s.want(http.StatusOK, "HEAD", "/v2/", nil)
}

// "Pulling blobs".
func pullBlob(s suite) {
	for _, content := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("0123456789"), 200_000)} {
		d := s.blob(content)
		r := s.want(http.StatusOK, "GET", s.url("blobs/%s", d.Digest), nil)
		if !bytes.Equal(r.Body, content) {
			s.Errorf("%d bytes of %d came, or others", len(r.Body), len(content))
		}
		s.header(r, "Docker-Content-Digest", d.Digest.String())
		s.header(r, "Content-Length", fmt.Sprint(len(content)))
		// "Checking if content exists in the registry": HEAD MUST be 200 with the
		// headers of GET.
		r = s.want(http.StatusOK, "HEAD", s.url("blobs/%s", d.Digest), nil)
		s.header(r, "Docker-Content-Digest", d.Digest.String())
		s.header(r, "Content-Length", fmt.Sprint(len(content)))
	}
}

// "A registry SHOULD support the Range request header in accordance with RFC 9110."
func blobRanges(s suite) {
	content := []byte("0123456789abcdefghij")
	target := s.url("blobs/%s", s.blob(content).Digest)
	for _, test := range []struct{ ask, want, contentRange string }{
		{"bytes=0-0", "0", "bytes 0-0/20"},
		{"bytes=5-9", "56789", "bytes 5-9/20"},
		{"bytes=15-", "fghij", "bytes 15-19/20"},
		{"bytes=15-999", "fghij", "bytes 15-19/20"},
		{"bytes=-3", "hij", "bytes 17-19/20"},
		{"bytes=-999", string(content), "bytes 0-19/20"},
	} {
		r := s.want(http.StatusPartialContent, "GET", target, nil, "Range", test.ask)
		if string(r.Body) != test.want {
			s.Errorf("%s: %q", test.ask, r.Body)
		}
		s.header(r, "Content-Range", test.contentRange)
	}
	r := s.want(http.StatusRequestedRangeNotSatisfiable, "GET", target, nil, "Range", "bytes=20-")
	s.header(r, "Content-Range", "bytes */20")

	r = s.want(http.StatusPartialContent, "GET", target, nil, "Range", "bytes=1-2,18-")
	mt, param, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mt != "multipart/byteranges" {
		s.Fatalf("two ranges: Content-Type %q", r.Header.Get("Content-Type"))
	}
	var parts []string
	for mr := multipart.NewReader(bytes.NewReader(r.Body), param["boundary"]); ; {
		p, err := mr.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			s.Fatal(err)
		}
		b, _ := io.ReadAll(p)
		parts = append(parts, p.Header.Get("Content-Range")+" "+string(b))
	}
	if diff := cmp.Diff([]string{"bytes 1-2/20 12", "bytes 18-19/20 ij"}, parts); diff != "" {
		s.Error(diff)
	}
	// RFC 9110, 14.2: a unit that nobody knows MUST be ignored.
	s.want(http.StatusOK, "GET", target, nil, "Range", "lines=1-2")
}

// "If the blob is not found in the registry, the response code MUST be 404."
func blobUnknown(s suite) {
	s.blob([]byte("x"))
	d := digest.FromString("not there")
	s.refused(http.StatusNotFound, "BLOB_UNKNOWN", "GET", s.url("blobs/%s", d), nil)
	s.want(http.StatusNotFound, "HEAD", s.url("blobs/%s", d), nil)
	s.want(http.StatusNotFound, "GET", "/v2/"+s.x.repository("nothing-here")+"/blobs/"+d.String(), nil)
	s.refused(http.StatusBadRequest, "DIGEST_INVALID", "GET", s.url("blobs/sha256:00"), nil)
}

// Entity tags are RFC 9110's; clients behind caches ask with them.
func blobConditional(s suite) {
	target := s.url("blobs/%s", s.blob([]byte("0123456789")).Digest)
	tag := s.want(http.StatusOK, "GET", target, nil).Header.Get("ETag")
	if tag == "" {
		s.Fatal("no ETag")
	}
	s.want(http.StatusNotModified, "GET", target, nil, "If-None-Match", tag)
	s.want(http.StatusNotModified, "HEAD", target, nil, "If-None-Match", `"x", W/`+tag)
	s.want(http.StatusOK, "GET", target, nil, "If-None-Match", `"x"`)
	s.want(http.StatusPartialContent, "GET", target, nil, "If-Range", tag, "Range", "bytes=0-1")
	s.want(http.StatusOK, "GET", target, nil, "If-Range", `"x"`, "Range", "bytes=0-1")
}

// "Pulling manifests".
func pullManifest(s suite) {
	b, d := s.artifact("v1", nil)
	for _, ref := range []string{"v1", d.String()} {
		for _, method := range []string{"GET", "HEAD"} {
			r := s.want(http.StatusOK, method, s.url("manifests/%s", ref), nil, "Accept", ocispec.MediaTypeImageManifest, "Accept", ocispec.MediaTypeImageIndex)
			s.header(r, "Content-Type", ocispec.MediaTypeImageManifest)
			s.header(r, "Docker-Content-Digest", d.String())
			s.header(r, "Content-Length", fmt.Sprint(len(b)))
			if method == "GET" && !bytes.Equal(r.Body, b) {
				s.Errorf("%s: %s", ref, clip(r.Body))
			}
		}
	}
}

// "If the manifest is not found in the registry, the response code MUST be 404."
func manifestUnknown(s suite) {
	s.artifact("v1", nil)
	for _, ref := range []string{"v2", ".INVALID_MANIFEST_NAME", digest.FromString("not there").String()} {
		s.refused(http.StatusNotFound, "MANIFEST_UNKNOWN", "GET", s.url("manifests/%s", ref), nil)
		s.want(http.StatusNotFound, "HEAD", s.url("manifests/%s", ref), nil)
	}
	s.want(http.StatusNotFound, "GET", "/v2/"+s.x.repository("nothing-here")+"/manifests/v1", nil)
	// A blob is no manifest.
	s.want(http.StatusNotFound, "GET", s.url("manifests/%s", digest.FromBytes(Empty)), nil)
}

func manifestConditional(s suite) {
	s.artifact("v1", nil)
	tag := s.want(http.StatusOK, "GET", s.url("manifests/v1"), nil).Header.Get("ETag")
	if tag == "" {
		s.Fatal("no ETag")
	}
	s.want(http.StatusNotModified, "GET", s.url("manifests/v1"), nil, "If-None-Match", tag)
	s.artifact("v1", func(m *ocispec.Manifest) { m.ArtifactType = "application/vnd.example.other" })
	s.want(http.StatusOK, "GET", s.url("manifests/v1"), nil, "If-None-Match", tag)
}

// "POST then PUT": 202 with a Location, 201 with the Location of the blob.
func postThenPut(s suite) {
	content := []byte("monolithic")
	d := digest.FromBytes(content)
	l := s.location(s.want(http.StatusAccepted, "POST", s.url("blobs/uploads/"), nil, "Content-Length", "0"))
	r := s.want(http.StatusCreated, "PUT", withQuery(l, "digest", d.String()), content, "Content-Type", "application/octet-stream")
	r = s.want(http.StatusOK, "GET", s.location(r), nil)
	if !bytes.Equal(r.Body, content) {
		s.Errorf("%s", clip(r.Body))
	}
	// The upload has ended.
	if r := s.x.Do(s.T, "PUT", withQuery(l, "digest", d.String()), bytes.NewReader(content)); r.Status/100 == 2 {
		s.Errorf("the same upload ended twice: %d", r.Status)
	}
}

// "digest: … sha512": registered algorithms of the image specification.
func sha512Blob(s suite) {
	content := []byte("by sha512")
	d := digest.SHA512.FromBytes(content)
	l := s.location(s.want(http.StatusAccepted, "POST", s.url("blobs/uploads/?digest-algorithm=sha512"), nil))
	s.want(http.StatusCreated, "PUT", withQuery(l, "digest", d.String()), content)
	r := s.want(http.StatusOK, "GET", s.url("blobs/%s", d), nil)
	s.header(r, "Docker-Content-Digest", d.String())
	if !bytes.Equal(r.Body, content) {
		s.Errorf("%s", clip(r.Body))
	}
	// Without the parameter, which is not in 1.1.
	content = []byte("by sha512 too")
	d = digest.SHA512.FromBytes(content)
	s.want(http.StatusCreated, "PUT", withQuery(s.begin(), "digest", d.String()), content)
	s.want(http.StatusOK, "HEAD", s.url("blobs/%s", d), nil)
}

// "Single POST": 201, or 202 from a registry that does not support it.
func singlePost(s suite) {
	for _, content := range [][]byte{[]byte("in one"), {}} {
		d := digest.FromBytes(content)
		r := s.want(http.StatusCreated, "POST", s.url("blobs/uploads/?digest=%s", url.QueryEscape(d.String())), content, "Content-Type", "application/octet-stream")
		s.want(http.StatusOK, "GET", s.location(r), nil)
		s.want(http.StatusOK, "HEAD", s.url("blobs/%s", d), nil)
	}
	s.refused(http.StatusBadRequest, "DIGEST_INVALID", "POST", s.url("blobs/uploads/?digest=%s", digest.FromString("other")), []byte("in one"))
	s.want(http.StatusNotFound, "HEAD", s.url("blobs/%s", digest.FromString("other")), nil)
	s.refused(http.StatusBadRequest, "DIGEST_INVALID", "POST", s.url("blobs/uploads/?digest=sha256:0"), []byte("in one"))
}

// "Pushing a blob in chunks": 202 with Location and Range for each, and the last
// one with the PUT or before it.
func chunks(s suite) {
	for _, lastInPut := range []bool{true, false} {
		content := []byte(fmt.Sprintf("0123456789abcdefghij%v", lastInPut))
		l := s.begin()
		at := 0
		for at < 20 {
			r := s.want(http.StatusAccepted, "PATCH", l, content[at:at+10], "Content-Type", "application/octet-stream", "Content-Range", fmt.Sprintf("%d-%d", at, at+9))
			at += 10
			s.header(r, "Range", fmt.Sprintf("0-%d", at-1))
			l = s.location(r)
		}
		last := content[at:]
		if !lastInPut {
			r := s.want(http.StatusAccepted, "PATCH", l, last, "Content-Range", fmt.Sprintf("%d-%d", at, len(content)-1))
			l, last = s.location(r), nil
		}
		header := []string{}
		if last != nil {
			header = []string{"Content-Range", fmt.Sprintf("%d-%d", at, len(content)-1)}
		}
		r := s.want(http.StatusCreated, "PUT", withQuery(l, "digest", digest.FromBytes(content).String()), last, header...)
		if r = s.want(http.StatusOK, "GET", s.location(r), nil); !bytes.Equal(r.Body, content) {
			s.Errorf("%s", clip(r.Body))
		}
	}
}

// A PATCH without Content-Range streams: Docker and containerd push so, without a
// Content-Length.
func stream(s suite) {
	content := bytes.Repeat([]byte("stream"), 100_000)
	r := s.x.Do(s.T, "PATCH", s.begin(), struct{ io.Reader }{bytes.NewReader(content)})
	if r.Status != http.StatusAccepted {
		s.Fatalf("PATCH: %d %s", r.Status, clip(r.Body))
	}
	s.header(r, "Range", fmt.Sprintf("0-%d", len(content)-1))
	r = s.want(http.StatusCreated, "PUT", withQuery(s.location(r), "digest", digest.FromBytes(content).String()), nil)
	if r = s.want(http.StatusOK, "GET", s.location(r), nil); !bytes.Equal(r.Body, content) {
		s.Error("other bytes came back")
	}
}

// "If a blob chunk is uploaded out of order … the registry MUST respond with a 416
// Requested Range Not Satisfiable code."
func outOfOrder(s suite) {
	l := s.begin()
	s.want(http.StatusRequestedRangeNotSatisfiable, "PATCH", l, []byte("late"), "Content-Range", "5-8")
	l = s.location(s.want(http.StatusAccepted, "PATCH", l, []byte("01234"), "Content-Range", "0-4"))
	for _, cr := range []string{"0-4", "3-7", "6-10"} { // again, overlapping, with a gap
		r := s.want(http.StatusRequestedRangeNotSatisfiable, "PATCH", l, []byte("56789"), "Content-Range", cr)
		s.header(r, "Range", "0-4")
	}
	s.want(http.StatusRequestedRangeNotSatisfiable, "PUT", withQuery(l, "digest", digest.FromString("0123456789").String()), []byte("56789"), "Content-Range", "0-4")
	// Nothing of that was taken, and the upload goes on.
	l = s.location(s.want(http.StatusAccepted, "PATCH", l, []byte("56789"), "Content-Range", "5-9"))
	s.want(http.StatusCreated, "PUT", withQuery(l, "digest", digest.FromString("0123456789").String()), nil)
}

// "To get the current status after a 416 error, issue a GET request … the response
// MUST be 204 No Content, with Location and Range."
func resume(s suite) {
	l := s.location(s.want(http.StatusAccepted, "PATCH", s.begin(), []byte("01234"), "Content-Range", "0-4"))
	s.want(http.StatusRequestedRangeNotSatisfiable, "PATCH", l, []byte("x"), "Content-Range", "9-9")
	r := s.want(http.StatusNoContent, "GET", l, nil)
	s.header(r, "Range", "0-4")
	l = s.location(s.want(http.StatusAccepted, "PATCH", s.location(r), []byte("56789"), "Content-Range", "5-9"))
	s.want(http.StatusCreated, "PUT", withQuery(l, "digest", digest.FromString("0123456789").String()), nil)
}

func uploadStatus(s suite) {
	r := s.want(http.StatusNoContent, "GET", s.begin(), nil)
	s.location(r)
	if len(r.Body) > 0 {
		s.Errorf("a body with 204: %s", clip(r.Body))
	}
}

// The digest is verified: "DIGEST_INVALID".
func wrongDigest(s suite) {
	d := digest.FromString("what was promised")
	s.refused(http.StatusBadRequest, "DIGEST_INVALID", "PUT", withQuery(s.begin(), "digest", d.String()), []byte("something else"))
	s.want(http.StatusNotFound, "HEAD", s.url("blobs/%s", d), nil)
	s.refused(http.StatusBadRequest, "DIGEST_INVALID", "PUT", s.begin(), []byte("something"))
	s.refused(http.StatusBadRequest, "DIGEST_INVALID", "PUT", withQuery(s.begin(), "digest", "sha256:zz"), []byte("something"))
}

func unknownUpload(s suite) {
	l := s.url("blobs/uploads/nobody-began-this")
	for _, method := range []string{"PATCH", "GET", "DELETE"} {
		s.refused(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", method, l, nil)
	}
	s.refused(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "PUT", withQuery(l, "digest", digest.FromString("x").String()), []byte("x"))
}

func cancelUpload(s suite) {
	l := s.location(s.want(http.StatusAccepted, "PATCH", s.begin(), []byte("01234"), "Content-Range", "0-4"))
	s.want(http.StatusNoContent, "DELETE", l, nil)
	s.want(http.StatusNotFound, "GET", l, nil)
	s.want(http.StatusNotFound, "PATCH", l, []byte("56789"))
}

// An upload belongs to the repository that it was begun in: whoever may push to
// another one must not reach it.
func uploadOfAnother(s suite) {
	l := s.begin()
	other := s.x.repository("other-one")
	if !strings.Contains(l, s.repo+"/blobs/uploads/") {
		s.Skip("the address of an upload does not name its repository")
	}
	l = strings.Replace(l, s.repo+"/blobs/uploads/", other+"/blobs/uploads/", 1)
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		if r := s.x.Do(s.T, method, l, nil); r.Status != http.StatusNotFound {
			s.Errorf("%s: %d", method, r.Status)
		}
	}
}

// "Pushing Manifests": 201, a Location that can be pulled; blobs first.
func pushManifest(s suite) {
	config, layer := s.blob([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{}}`)), s.blob([]byte("layer"))
	config.MediaType, layer.MediaType = ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayer
	b := Manifest(config, []ocispec.Descriptor{layer}, nil)
	d := digest.FromBytes(b)
	for _, ref := range []string{d.String(), "v1"} {
		r := s.want(http.StatusCreated, "PUT", s.url("manifests/%s", ref), b, "Content-Type", ocispec.MediaTypeImageManifest)
		s.header(r, "Docker-Content-Digest", d.String())
		s.header(r, "OCI-Subject", "")
		if r := s.want(http.StatusOK, "GET", s.location(r), nil); !bytes.Equal(r.Body, b) {
			s.Errorf("%s: %s", ref, clip(r.Body))
		}
	}
	// The longest tag.
	s.want(http.StatusCreated, "PUT", s.url("manifests/%s", strings.Repeat("A", 128)), b, "Content-Type", ocispec.MediaTypeImageManifest)
	// Parameters of a media type and the white space of a manifest are the client's.
	indented := append(slices.Clone(b), '\n')
	s.want(http.StatusCreated, "PUT", s.url("manifests/v2"), indented, "Content-Type", ocispec.MediaTypeImageManifest+"; charset=utf-8")
	if r := s.want(http.StatusOK, "GET", s.url("manifests/v2"), nil); !bytes.Equal(r.Body, indented) {
		s.Errorf("changed: %s", clip(r.Body))
	}
}

func pushIndex(s suite) {
	b, d := s.artifact("", nil)
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(b))}}}
	index.SchemaVersion = 2
	out, _ := json.Marshal(index)
	r := s.want(http.StatusCreated, "PUT", s.url("manifests/v1"), out, "Content-Type", ocispec.MediaTypeImageIndex)
	r = s.want(http.StatusOK, "GET", s.location(r), nil)
	s.header(r, "Content-Type", ocispec.MediaTypeImageIndex)
	// "Image index … without manifests" is an index too.
	index.Manifests = []ocispec.Descriptor{}
	out, _ = json.Marshal(index)
	s.want(http.StatusCreated, "PUT", s.url("manifests/empty"), out, "Content-Type", ocispec.MediaTypeImageIndex)
}

// Docker's manifests (schema 2) are what Docker still pushes.
func pushDocker(s suite) {
	config, layer := s.blob([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{}}`)), s.blob([]byte("docker layer"))
	config.MediaType, layer.MediaType = oci.MediaTypeDockerConfig, oci.MediaTypeDockerLayer
	b := Manifest(config, []ocispec.Descriptor{layer}, func(m *ocispec.Manifest) { m.MediaType = oci.MediaTypeDockerManifest })
	s.want(http.StatusCreated, "PUT", s.url("manifests/v1"), b, "Content-Type", oci.MediaTypeDockerManifest)
	s.header(s.want(http.StatusOK, "GET", s.url("manifests/v1"), nil), "Content-Type", oci.MediaTypeDockerManifest)
	list, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeDockerList,
		"manifests": []ocispec.Descriptor{{MediaType: oci.MediaTypeDockerManifest, Digest: digest.FromBytes(b), Size: int64(len(b))}}})
	s.want(http.StatusCreated, "PUT", s.url("manifests/list"), list, "Content-Type", oci.MediaTypeDockerList)
	s.header(s.want(http.StatusOK, "GET", s.url("manifests/list"), nil), "Content-Type", oci.MediaTypeDockerList)
}

func sha512Manifest(s suite) {
	b, _ := s.artifact("v1", func(m *ocispec.Manifest) { m.ArtifactType = "application/vnd.example.sha512" })
	d := digest.SHA512.FromBytes(b)
	r := s.want(http.StatusCreated, "PUT", s.url("manifests/%s", d), b, "Content-Type", ocispec.MediaTypeImageManifest)
	s.header(r, "Docker-Content-Digest", d.String())
	r = s.want(http.StatusOK, "GET", s.url("manifests/%s", d), nil)
	s.header(r, "Docker-Content-Digest", d.String())
	if !bytes.Equal(r.Body, b) {
		s.Errorf("%s", clip(r.Body))
	}
}

// What cannot be stored, and what is not what it says.
func manifestRefused(s suite) {
	b, _ := s.artifact("v1", nil)
	oct := []string{"Content-Type", ocispec.MediaTypeImageManifest}
	s.refused(http.StatusBadRequest, "DIGEST_INVALID", "PUT", s.url("manifests/%s", digest.FromString("other")), b, oct...)
	s.refused(http.StatusBadRequest, "MANIFEST_INVALID", "PUT", s.url("manifests/v2"), []byte("no JSON"), oct...)
	s.refused(http.StatusBadRequest, "MANIFEST_INVALID", "PUT", s.url("manifests/v2"), nil, oct...)
	s.refused(http.StatusBadRequest, "MANIFEST_INVALID", "PUT", s.url("manifests/v2"), b, "Content-Type", "text/plain")
	s.want(http.StatusBadRequest, "PUT", s.url("manifests/.bad"), b, oct...)
	s.want(http.StatusBadRequest, "PUT", s.url("manifests/%s", strings.Repeat("A", 129)), b, oct...)
	// "MANIFEST_BLOB_UNKNOWN: manifest references a manifest or blob unknown to registry".
	missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("never pushed"), Size: 12}
	m := Manifest(ocispec.DescriptorEmptyJSON, []ocispec.Descriptor{missing}, nil)
	s.refused(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "PUT", s.url("manifests/v2"), m, oct...)
	index, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex,
		"manifests": []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("never pushed"), Size: 12}}})
	s.refused(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "PUT", s.url("manifests/v2"), index, "Content-Type", ocispec.MediaTypeImageIndex)
	s.want(http.StatusNotFound, "GET", s.url("manifests/v2"), nil)
}

// Layers that are fetched from elsewhere need not be there.
func foreignLayers(s suite) {
	config := s.blob(Empty)
	config.MediaType = ocispec.MediaTypeEmptyJSON
	layers := []ocispec.Descriptor{
		{MediaType: ocispec.MediaTypeImageLayerNonDistributableGzip, Digest: digest.FromString("elsewhere"), Size: 9, URLs: []string{"https://layers.example/x"}},
		{MediaType: ocispec.MediaTypeImageLayerNonDistributable, Digest: digest.FromString("elsewhere too"), Size: 13},
	}
	s.want(http.StatusCreated, "PUT", s.url("manifests/v1"), Manifest(config, layers, nil), "Content-Type", ocispec.MediaTypeImageManifest)
}

// "If the manifest has exceeded the registry's size limit: 413"; "a registry
// SHOULD support manifests of 4 MiB".
func largeManifest(s suite) {
	const limit = 4 << 20
	s.blob(Empty)
	make := func(n int) []byte {
		return Manifest(ocispec.DescriptorEmptyJSON, []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, func(m *ocispec.Manifest) {
			m.ArtifactType = "application/vnd.example.large"
			m.Annotations = map[string]string{"x": strings.Repeat("x", n)}
		})
	}
	b := make(limit - len(make(0)))
	if len(b) != limit {
		s.Fatalf("the test's manifest has %d bytes", len(b))
	}
	s.want(http.StatusCreated, "PUT", s.url("manifests/v1"), b, "Content-Type", ocispec.MediaTypeImageManifest)
	if r := s.want(http.StatusOK, "GET", s.url("manifests/v1"), nil); len(r.Body) != limit {
		s.Errorf("%d bytes came back", len(r.Body))
	}
	big := make(3 * limit)
	s.want(http.StatusRequestEntityTooLarge, "PUT", s.url("manifests/v2"), big, "Content-Type", ocispec.MediaTypeImageManifest)
	// Without a Content-Length it is noticed while it comes; whether the answer
	// still reaches a client that goes on sending is the network's.
	r, err := s.x.Try("PUT", s.url("manifests/v2"), struct{ io.Reader }{bytes.NewReader(big)}, "Content-Type", ocispec.MediaTypeImageManifest)
	if err == nil && r.Status != http.StatusRequestEntityTooLarge {
		s.Errorf("without a length: %d", r.Status)
	}
	s.want(http.StatusNotFound, "GET", s.url("manifests/v2"), nil)
}

func overwriteTag(s suite) {
	_, d1 := s.artifact("moving", nil)
	_, d2 := s.artifact("moving", func(m *ocispec.Manifest) { m.ArtifactType = "application/vnd.example.second" })
	s.header(s.want(http.StatusOK, "HEAD", s.url("manifests/moving"), nil), "Docker-Content-Digest", d2.String())
	s.want(http.StatusOK, "HEAD", s.url("manifests/%s", d1), nil)
}

// Tags beside a digest: of the specification after 1.1; whoever knows them says so
// with OCI-Tag.
func tagsInQuery(s suite) {
	b, d := s.artifact("", nil)
	r := s.want(http.StatusCreated, "PUT", s.url("manifests/%s?tag=one&tag=two", d), b, "Content-Type", ocispec.MediaTypeImageManifest)
	if diff := cmp.Diff([]string{"one", "two"}, r.Header.Values("OCI-Tag")); diff != "" {
		s.Fatal(diff)
	}
	for _, tag := range []string{"one", "two"} {
		s.header(s.want(http.StatusOK, "HEAD", s.url("manifests/%s", tag), nil), "Docker-Content-Digest", d.String())
	}
}

// "Listing Tags": in lexical order, n and last, Link to the next page.
func listTags(s suite) {
	b, d := s.artifact("", nil)
	// A repository without tags.
	if got := s.tags(s.url("tags/list")); len(got) != 0 {
		s.Errorf("without tags: %v", got)
	}
	var want []string
	for i := range 12 {
		want = append(want, fmt.Sprintf("t%02d", 11-i))
		s.want(http.StatusCreated, "PUT", s.url("manifests/%s", want[i]), b, "Content-Type", ocispec.MediaTypeImageManifest)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, s.tags(s.url("tags/list"))); diff != "" {
		s.Error(diff)
	}
	for _, n := range []int{1, 5, 11, 12, 13} {
		if diff := cmp.Diff(want, s.tags(s.url("tags/list?n=%d", n))); diff != "" {
			s.Errorf("n=%d: %s", n, diff)
		}
	}
	// "<int> … MUST NOT exceed"; "If fewer … MUST NOT include the Link header".
	r := s.want(http.StatusOK, "GET", s.url("tags/list?n=12"), nil)
	s.header(r, "Link", "")
	// "last … MUST be … tags … after": exclusive, and it need not exist.
	for after, i := range map[string]int{"t03": 4, "t035": 4, "t11": 12, "zz": 12, "A": 0} {
		if got := s.tags(s.url("tags/list?last=%s", after)); !slices.Equal(got, want[i:]) {
			s.Errorf("last=%s: %v", after, got)
		}
		if got := s.tags(s.url("tags/list?n=2&last=%s", after)); !slices.Equal(got, want[i:]) {
			s.Errorf("n=2&last=%s: %v", after, got)
		}
	}
	// "When n is zero, this endpoint MUST return an empty list, and MUST NOT include
	// a Link header."
	r = s.want(http.StatusOK, "GET", s.url("tags/list?n=0"), nil)
	s.header(r, "Link", "")
	if !bytes.Contains(r.Body, []byte(`"tags":[]`)) {
		s.Errorf("n=0: %s", clip(r.Body))
	}
	s.want(http.StatusOK, "GET", s.url("manifests/%s", d), nil)
}

var nextLink = regexp.MustCompile(`^<([^>]+)>; *rel="?next"?$`)

// tags follows the pages of a listing.
func (s suite) tags(target string) []string {
	s.Helper()
	var all []string
	for range 100 {
		r := s.want(http.StatusOK, "GET", target, nil)
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
			s.Errorf("Content-Type %q", r.Header.Get("Content-Type"))
		}
		var list struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(r.Body, &list); err != nil || list.Name != s.repo || list.Tags == nil {
			s.Fatalf("%s: %s: %v", target, clip(r.Body), err)
		}
		all = append(all, list.Tags...)
		l := r.Header.Get("Link")
		if l == "" {
			return all
		}
		m := nextLink.FindStringSubmatch(l)
		if m == nil {
			s.Fatalf("Link %q", l)
		}
		target = m[1]
	}
	s.Fatal("the pages do not end")
	return nil
}

func tagsOfNothing(s suite) {
	s.refused(http.StatusNotFound, "NAME_UNKNOWN", "GET", s.url("tags/list"), nil)
}

// "Deleting tags": 202, or 400 or 405 where it is not supported.
func deleteTag(s suite) {
	b, d := s.artifact("gone", nil)
	s.want(http.StatusCreated, "PUT", s.url("manifests/stays"), b, "Content-Type", ocispec.MediaTypeImageManifest)
	s.want(http.StatusAccepted, "DELETE", s.url("manifests/gone"), nil)
	s.want(http.StatusNotFound, "GET", s.url("manifests/gone"), nil)
	s.want(http.StatusOK, "GET", s.url("manifests/stays"), nil)
	s.want(http.StatusOK, "GET", s.url("manifests/%s", d), nil)
	if got := s.tags(s.url("tags/list")); !slices.Equal(got, []string{"stays"}) {
		s.Errorf("tags: %v", got)
	}
	s.want(http.StatusNotFound, "DELETE", s.url("manifests/gone"), nil)
}

// "Deleting manifests": 202; then it and the tags that pointed to it are 404.
func deleteManifest(s suite) {
	_, d := s.artifact("one", nil)
	b, _ := s.artifact("two", nil)
	_, other := s.artifact("other", func(m *ocispec.Manifest) { m.ArtifactType = "application/vnd.example.other" })
	s.want(http.StatusAccepted, "DELETE", s.url("manifests/%s", d), nil)
	for _, ref := range []string{d.String(), "one", "two"} {
		s.want(http.StatusNotFound, "GET", s.url("manifests/%s", ref), nil)
	}
	s.want(http.StatusOK, "GET", s.url("manifests/%s", other), nil)
	s.want(http.StatusNotFound, "DELETE", s.url("manifests/%s", d), nil)
	// It can come again.
	s.want(http.StatusCreated, "PUT", s.url("manifests/one"), b, "Content-Type", ocispec.MediaTypeImageManifest)
	s.want(http.StatusOK, "GET", s.url("manifests/one"), nil)
}

// "Deleting Blobs": 202; then it is 404.
func deleteBlob(s suite) {
	content := []byte("to be deleted")
	d := s.blob(content)
	s.want(http.StatusAccepted, "DELETE", s.url("blobs/%s", d.Digest), nil)
	s.want(http.StatusNotFound, "GET", s.url("blobs/%s", d.Digest), nil)
	s.want(http.StatusNotFound, "DELETE", s.url("blobs/%s", d.Digest), nil)
	s.blob(content)
	s.want(http.StatusOK, "GET", s.url("blobs/%s", d.Digest), nil)
}

// "Mounting a blob from another repository": 201 with the Location of the blob.
func mount(s suite) {
	from := suite{s.T, s.x, s.x.repository("mount-from")}
	content := []byte("mounted")
	d := from.blob(content)
	r := s.want(http.StatusCreated, "POST", s.url("blobs/uploads/?mount=%s&from=%s", d.Digest, url.QueryEscape(from.repo)), nil)
	if r := s.want(http.StatusOK, "GET", s.location(r), nil); !bytes.Equal(r.Body, content) {
		s.Errorf("%s", clip(r.Body))
	}
	s.want(http.StatusOK, "HEAD", s.url("blobs/%s", d.Digest), nil)
	// They are two: deleted in one, it stays in the other.
	s.want(http.StatusAccepted, "DELETE", s.url("blobs/%s", d.Digest), nil)
	from.want(http.StatusOK, "GET", from.url("blobs/%s", d.Digest), nil)
}

// "… or is unable to mount the requested blob, it SHOULD return a 202 … an upload".
func mountFails(s suite) {
	content := []byte("nowhere yet")
	d := digest.FromBytes(content)
	for i, from := range []string{"&from=" + url.QueryEscape(s.x.repository("nothing-here")), "&from=" + url.QueryEscape(s.repo), ""} {
		content := append(slices.Clone(content), byte('0'+i))
		d = digest.FromBytes(content)
		l := s.location(s.want(http.StatusAccepted, "POST", s.url("blobs/uploads/?mount=%s", d)+from, nil))
		s.want(http.StatusCreated, "PUT", withQuery(l, "digest", d.String()), content)
		s.want(http.StatusOK, "HEAD", s.url("blobs/%s", d), nil)
	}
}

// referrersOf follows the pages of a list of referrers.
func (s suite) referrersOf(d oci.Digest, query string) (list []ocispec.Descriptor, r Reply) {
	s.Helper()
	target := s.url("referrers/%s%s", d, query)
	for range 100 {
		r = s.want(http.StatusOK, "GET", target, nil)
		// "Content-Type … MUST be application/vnd.oci.image.index.v1+json"
		s.header(r, "Content-Type", ocispec.MediaTypeImageIndex)
		if len(r.Body) > 4<<20 {
			s.Errorf("a page of %d bytes", len(r.Body))
		}
		var index ocispec.Index
		if err := json.Unmarshal(r.Body, &index); err != nil || index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex || index.Manifests == nil {
			s.Fatalf("%s: %v", clip(r.Body), err)
		}
		list = append(list, index.Manifests...)
		l := r.Header.Get("Link")
		if l == "" {
			slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
			return list, r
		}
		m := nextLink.FindStringSubmatch(l)
		if m == nil {
			s.Fatalf("Link %q", l)
		}
		target = m[1]
	}
	s.Fatal("the pages do not end")
	return nil, r
}

// "Listing Referrers" and "Pushing Manifests with Subject".
func referrers(s suite) {
	b, subject := s.artifact("v1", nil)
	about := &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: int64(len(b))}
	config := s.blob([]byte(`{"c":1}`))
	config.MediaType = "application/vnd.example.config"
	var want []ocispec.Descriptor
	push := func(mediaType string, content []byte, d ocispec.Descriptor) {
		d.MediaType, d.Digest, d.Size = mediaType, digest.FromBytes(content), int64(len(content))
		r := s.want(http.StatusCreated, "PUT", s.url("manifests/%s", d.Digest), content, "Content-Type", mediaType)
		// "the registry … MUST respond with … OCI-Subject: <subject digest>"
		s.header(r, "OCI-Subject", subject.String())
		want = append(want, d)
	}
	push(ocispec.MediaTypeImageManifest, Manifest(ocispec.DescriptorEmptyJSON, []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, func(m *ocispec.Manifest) {
		m.ArtifactType, m.Subject, m.Annotations = "application/vnd.example.sbom", about, map[string]string{"org.example.format": "json"}
	}), ocispec.Descriptor{ArtifactType: "application/vnd.example.sbom", Annotations: map[string]string{"org.example.format": "json"}})
	// "If the artifactType is empty or missing in an image manifest, the value of
	// artifactType MUST be set to the config descriptor mediaType value."
	push(ocispec.MediaTypeImageManifest, Manifest(config, []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, func(m *ocispec.Manifest) {
		m.Subject = about
	}), ocispec.Descriptor{ArtifactType: "application/vnd.example.config"})
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}, Subject: about, ArtifactType: "application/vnd.example.index"}
	index.SchemaVersion = 2
	out, _ := json.Marshal(index)
	push(ocispec.MediaTypeImageIndex, out, ocispec.Descriptor{ArtifactType: "application/vnd.example.index"})
	// "If the artifactType is empty or missing in an index, the artifactType MUST be
	// omitted."
	index.ArtifactType, index.Annotations = "", map[string]string{"n": "2"}
	out, _ = json.Marshal(index)
	push(ocispec.MediaTypeImageIndex, out, ocispec.Descriptor{Annotations: map[string]string{"n": "2"}})

	slices.SortFunc(want, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	got, r := s.referrersOf(subject, "")
	if diff := cmp.Diff(want, got); diff != "" {
		s.Errorf("referrers (-want +got):\n%s", diff)
	}
	s.header(r, "OCI-Filters-Applied", "")
	// Pushing one again changes nothing.
	s.want(http.StatusCreated, "PUT", s.url("manifests/again"), out, "Content-Type", ocispec.MediaTypeImageIndex)
	if got, _ := s.referrersOf(subject, ""); len(got) != len(want) {
		s.Errorf("%d referrers after one was pushed again", len(got))
	}
	s.want(http.StatusOK, "HEAD", s.url("referrers/%s", subject), nil)
}

// "The registry SHOULD support filtering on artifactType … MUST include the header
// OCI-Filters-Applied."
func referrersFilter(s suite) {
	b, subject := s.artifact("v1", nil)
	for i := range 6 {
		s.artifact("", func(m *ocispec.Manifest) {
			m.ArtifactType = fmt.Sprintf("application/vnd.example.t%d+json", i%2)
			m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: int64(len(b))}
			m.Annotations = map[string]string{"i": fmt.Sprint(i)}
		})
	}
	for i := range 3 {
		ty := fmt.Sprintf("application/vnd.example.t%d+json", i)
		got, r := s.referrersOf(subject, "?artifactType="+url.QueryEscape(ty))
		if want := []int{3, 3, 0}[i]; len(got) != want {
			s.Errorf("%d of type %s", len(got), ty)
		}
		// Nothing to filter is not worth a header to all registries.
		if len(got) > 0 {
			s.header(r, "OCI-Filters-Applied", "artifactType")
		}
		for _, d := range got {
			if d.ArtifactType != ty {
				s.Errorf("%s among %s", d.ArtifactType, ty)
			}
		}
	}
}

// "The registry … MUST NOT return a 404 … an empty list": for a subject that is
// not there, too; and referrers may come before their subject.
func referrersOfNothing(s suite) {
	s.blob([]byte("so that the repository is there"))
	d := digest.FromString("not there")
	if got, _ := s.referrersOf(d, ""); len(got) != 0 {
		s.Errorf("referrers of nothing: %v", got)
	}
	r := s.want(http.StatusOK, "GET", "/v2/"+s.x.repository("nothing-here")+"/referrers/"+d.String(), nil)
	s.header(r, "Content-Type", ocispec.MediaTypeImageIndex)
	// "a <digest> with an invalid syntax, a 400 Bad Request MUST be returned"
	s.want(http.StatusBadRequest, "GET", s.url("referrers/sha256:00"), nil)
	// "the registry MUST accept … a subject that does not exist"
	s.artifact("", func(m *ocispec.Manifest) {
		m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 9}
	})
	if got, _ := s.referrersOf(d, ""); len(got) != 1 {
		s.Errorf("%d referrers of a subject that is not there", len(got))
	}
}

// "When deleting a manifest … with a subject field, the registry MUST remove it
// from the referrers list."
func referrersDeleted(s suite) {
	b, subject := s.artifact("v1", nil)
	_, d := s.artifact("", func(m *ocispec.Manifest) {
		m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: int64(len(b))}
	})
	if got, _ := s.referrersOf(subject, ""); len(got) != 1 {
		s.Fatalf("%d referrers", len(got))
	}
	s.want(http.StatusAccepted, "DELETE", s.url("manifests/%s", d), nil)
	if got, _ := s.referrersOf(subject, ""); len(got) != 0 {
		s.Errorf("%d referrers after it was deleted", len(got))
	}
}

// Pages of referrers: large ones, so that few are many.
func referrersMany(s suite) {
	b, subject := s.artifact("v1", nil)
	want := map[oci.Digest]bool{}
	for i := range 7 {
		_, d := s.artifact("", func(m *ocispec.Manifest) {
			m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: int64(len(b))}
			m.Annotations = map[string]string{"i": fmt.Sprint(i), "large": strings.Repeat("x", 1<<20)}
		})
		want[d] = true
	}
	got, _ := s.referrersOf(subject, "")
	for _, d := range got {
		if !want[d.Digest] {
			s.Errorf("%s is in the list twice, or not ours", d.Digest)
		}
		delete(want, d.Digest)
	}
	if len(want) > 0 {
		s.Errorf("%d are on no page", len(want))
	}
	if got, _ := s.referrersOf(subject, "?artifactType="+url.QueryEscape("application/vnd.example.thing")); len(got) != 7 {
		s.Errorf("%d with a filter", len(got))
	}
}

// A name may have the interface's own words.
func namesOfWords(s suite) {
	for _, word := range []string{"blobs", "manifests", "tags/list", "blobs/uploads", "referrers", "v2", "manifests/latest"} {
		n := suite{s.T, s.x, s.x.repository(word)}
		_, d := n.artifact("list", nil)
		n.want(http.StatusOK, "GET", n.url("manifests/list"), nil)
		n.want(http.StatusOK, "GET", n.url("blobs/%s", digest.FromBytes(Empty)), nil)
		if got := n.tags(n.url("tags/list")); !slices.Equal(got, []string{"list"}) {
			s.Errorf("%s: tags %v", n.repo, got)
		}
		n.referrersOf(d, "")
	}
}

// Names and paths that must reach nothing, by whatever spelling. 400 or 404.
func namesRefused(s suite) {
	d := digest.FromString("x").String()
	for _, target := range []string{
		"/v2/UPPER/manifests/x", "/v2/a..b/manifests/x", "/v2/-a/manifests/x", "/v2/a%2Fb/manifests/x", "/v2/a%00/manifests/x",
		"/v2/%2e%2e/%2e%2e/etc/manifests/x", "/v2/a%5c..%5cb/manifests/x", "/v2/" + strings.Repeat("a", 256) + "/manifests/x",
		"/v2/a/blobs/" + d + "%00", "/v2/a/blobs/..%2f..%2fetc%2fpasswd", "/v2/a/manifests/%2e%2e",
	} {
		r := s.x.Do(s.T, "GET", target, nil)
		if r.Status != http.StatusBadRequest && r.Status != http.StatusNotFound {
			s.Errorf("%s: %d", target, r.Status)
		}
		if r.ErrorCode() == "" && !s.x.Lenient {
			s.Errorf("%s: %s is no error of the specification", target, clip(r.Body))
		}
		r = s.x.Do(s.T, "PUT", target, strings.NewReader("{}"))
		if r.Status/100 != 4 {
			s.Errorf("PUT %s: %d", target, r.Status)
		}
	}
}

func unknownPath(s suite) {
	for _, target := range []string{"/v2/x", "/v2/x/y/z", s.url("other/x"), s.url("manifests/x/y")} {
		s.want(http.StatusNotFound, "GET", target, nil)
	}
}

// RFC 9110, 15.5.6: 405 MUST come with Allow.
func wrongMethod(s suite) {
	for _, test := range [][2]string{
		{"POST", s.url("manifests/x")}, {"PATCH", s.url("blobs/%s", digest.FromString("x"))}, {"PUT", s.url("tags/list")}, {"POST", s.url("referrers/%s", digest.FromString("x"))},
	} {
		if r := s.refused(http.StatusMethodNotAllowed, "UNSUPPORTED", test[0], test[1], nil); r.Header.Get("Allow") == "" {
			s.Errorf("%s %s: no Allow header", test[0], test[1])
		}
	}
}

func headHasNoBody(s suite) {
	s.artifact("v1", nil)
	for _, target := range []string{s.url("manifests/v1"), s.url("manifests/nothing"), s.url("blobs/%s", digest.FromBytes(Empty)), s.url("blobs/%s", digest.FromString("nothing")), s.url("tags/list")} {
		if r := s.x.Do(s.T, "HEAD", target, nil); len(r.Body) != 0 {
			s.Errorf("HEAD %s: %s", target, clip(r.Body))
		}
	}
}

// RFC 9110, 10.1.1: clients that ask first whether to send.
func expectContinue(s suite) {
	if s.x.Client != nil {
		if tr, ok := s.x.Client.Transport.(*http.Transport); ok {
			tr = tr.Clone()
			tr.ExpectContinueTimeout = 30 * time.Second // longer than an answer takes: this client does not send unasked
			defer tr.CloseIdleConnections()
			s.x.Client = &http.Client{Transport: tr}
		}
	}
	content := bytes.Repeat([]byte("x"), 1<<20)
	s.want(http.StatusCreated, "PUT", withQuery(s.begin(), "digest", digest.FromBytes(content).String()), content, "Expect", "100-continue")
	s.refused(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "PUT", withQuery(s.url("blobs/uploads/nobody-began-this"), "digest", digest.FromBytes(content).String()), content, "Expect", "100-continue")
}
