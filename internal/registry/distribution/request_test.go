package distribution

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/catalog"
)

var (
	d256 = digest.FromString("a")
	d512 = digest.SHA512.FromString("a")
)

func parse(t *testing.T, method, target string, header ...string) (Request, error) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return Parse(method, u, h)
}

func TestParse(t *testing.T) {
	a, b := string(d256), string(d512)
	for _, test := range []struct {
		method, target string
		header         []string
		want           Request
	}{
		{"GET", "/v2/", nil, Request{Kind: Base}},
		{"HEAD", "/v2/", nil, Request{Kind: Base, Head: true}},
		{"GET", "/v2", nil, Request{Kind: Base}},
		{"GET", "/v2/app/blobs/" + a, nil, Request{Kind: GetBlob, Repository: "app", Digest: d256}},
		{"HEAD", "/v2/app/blobs/" + b, nil, Request{Kind: GetBlob, Head: true, Repository: "app", Digest: d512}},
		{"GET", "/v2/app/blobs/" + strings.Replace(a, ":", "%3A", 1), nil, Request{Kind: GetBlob, Repository: "app", Digest: d256}},
		{"GET", "/v2/team/app/dev/manifests/1.4.2", nil, Request{Kind: GetManifest, Repository: "team/app/dev", Tag: "1.4.2"}},
		{"GET", "/v2/app/manifests/list", nil, Request{Kind: GetManifest, Repository: "app", Tag: "list"}},
		{"HEAD", "/v2/app/manifests/" + a, nil, Request{Kind: GetManifest, Head: true, Repository: "app", Digest: d256}},
		{"PUT", "/v2/app/manifests/latest", nil, Request{Kind: PutManifest, Repository: "app", Tag: "latest", Tags: []string{"latest"}}},
		{"PUT", "/v2/app/manifests/latest?digest=" + b, nil, Request{Kind: PutManifest, Repository: "app", Tag: "latest", Tags: []string{"latest"}, Digest: d512}},
		{"PUT", "/v2/app/manifests/" + a, nil, Request{Kind: PutManifest, Repository: "app", Digest: d256}},
		{"PUT", "/v2/app/manifests/" + a + "?tag=x&tag=y", nil, Request{Kind: PutManifest, Repository: "app", Digest: d256, Tags: []string{"x", "y"}}},
		{"DELETE", "/v2/app/manifests/latest", nil, Request{Kind: DeleteTag, Repository: "app", Tag: "latest"}},
		{"DELETE", "/v2/app/manifests/" + a, nil, Request{Kind: DeleteManifest, Repository: "app", Digest: d256}},
		{"DELETE", "/v2/app/blobs/" + a, nil, Request{Kind: DeleteBlob, Repository: "app", Digest: d256}},
		{"POST", "/v2/app/blobs/uploads/", nil, Request{Kind: StartUpload, Repository: "app"}},
		{"POST", "/v2/app/blobs/uploads", nil, Request{Kind: StartUpload, Repository: "app"}},
		{"POST", "/v2/app/blobs/uploads/?digest-algorithm=sha512", nil, Request{Kind: StartUpload, Repository: "app"}},
		{"POST", "/v2/app/blobs/uploads/?digest=" + a, nil, Request{Kind: PushBlob, Repository: "app", Digest: d256}},
		{"POST", "/v2/app/blobs/uploads/?mount=" + a + "&from=other/dev", nil, Request{Kind: MountBlob, Repository: "app", Digest: d256, From: "other/dev"}},
		{"POST", "/v2/app/blobs/uploads/?mount=" + a, nil, Request{Kind: MountBlob, Repository: "app", Digest: d256}},
		{"PATCH", "/v2/app/blobs/uploads/Id_-1.x", nil, Request{Kind: AppendUpload, Repository: "app", Upload: "Id_-1.x"}},
		{"PATCH", "/v2/app/blobs/uploads/1", []string{"Content-Range", "5-9"}, Request{Kind: AppendUpload, Repository: "app", Upload: "1", Chunk: &Chunk{5, 9}}},
		{"PUT", "/v2/app/blobs/uploads/1?digest=" + a, []string{"Content-Range", "0-0"}, Request{Kind: FinishUpload, Repository: "app", Upload: "1", Digest: d256, Chunk: &Chunk{0, 0}}},
		{"GET", "/v2/app/blobs/uploads/1", nil, Request{Kind: UploadStatus, Repository: "app", Upload: "1"}},
		{"DELETE", "/v2/app/blobs/uploads/1", nil, Request{Kind: CancelUpload, Repository: "app", Upload: "1"}},
		{"GET", "/v2/app/tags/list", nil, Request{Kind: ListTags, Repository: "app"}},
		{"GET", "/v2/app/tags/list?n=3&last=b", nil, Request{Kind: ListTags, Repository: "app", Page: registry.Page{After: "b", Limit: 3}}},
		{"GET", "/v2/app/tags/list?n=0", nil, Request{Kind: ListTags, Repository: "app", Page: registry.Page{Limit: -1}}},
		{"GET", "/v2/app/referrers/" + a + "?artifactType=application/x&last=" + b, nil, Request{Kind: ListReferrers, Repository: "app", Digest: d256, ArtifactType: "application/x", Page: registry.Page{After: b}}},
		{"GET", "/v2/_catalog?n=2", nil, Request{Kind: ListCatalog, Page: registry.Page{Limit: 2}}},

		// The words of the interface as components of names.
		{"GET", "/v2/blobs/manifests/tags/list", nil, Request{Kind: ListTags, Repository: "blobs/manifests"}},
		{"GET", "/v2/tags/tags/list", nil, Request{Kind: ListTags, Repository: "tags"}},
		{"GET", "/v2/a/tags/list/manifests/list", nil, Request{Kind: GetManifest, Repository: "a/tags/list", Tag: "list"}},
		{"GET", "/v2/a/blobs/uploads/manifests/x", nil, Request{Kind: GetManifest, Repository: "a/blobs/uploads", Tag: "x"}},
		{"POST", "/v2/blobs/uploads/blobs/uploads/", nil, Request{Kind: StartUpload, Repository: "blobs/uploads"}},
		{"PATCH", "/v2/a/blobs/blobs/uploads/1", nil, Request{Kind: AppendUpload, Repository: "a/blobs", Upload: "1"}},
		{"GET", "/v2/uploads/blobs/" + a, nil, Request{Kind: GetBlob, Repository: "uploads", Digest: d256}},
		{"GET", "/v2/v2/blobs/" + a, nil, Request{Kind: GetBlob, Repository: "v2", Digest: d256}},
	} {
		got, err := parse(t, test.method, test.target, test.header...)
		if err != nil {
			t.Errorf("%s %s: %v", test.method, test.target, err)
		} else if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", test.method, test.target, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	a := string(d256)
	for _, test := range []struct {
		method, target string
		header         []string
		want           registry.Code // "" for a *MethodError
	}{
		{"GET", "/", nil, codeNotFound},
		{"GET", "/v1/", nil, codeNotFound},
		{"GET", "/v2/app", nil, codeNotFound},
		{"GET", "/v2/app/", nil, codeNotFound},
		{"GET", "/v2/manifests/latest", nil, codeNotFound}, // no name
		{"POST", "/v2/blobs/uploads/", nil, codeNotFound},
		{"GET", "/v2/tags/list", nil, codeNotFound},
		{"GET", "/v2//manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/app/manifests/", nil, codeNotFound},
		{"GET", "/v2/app/tags/list/", nil, codeNotFound},
		{"GET", "/v2/_catalog/", nil, codeNotFound},
		{"GET", "/v2/app/other/latest", nil, codeNotFound},

		{"POST", "/v2/", nil, ""},
		{"POST", "/v2/app/manifests/latest", nil, ""},
		{"PUT", "/v2/app/blobs/" + a, nil, ""},
		{"GET", "/v2/app/blobs/uploads/", nil, ""},
		{"POST", "/v2/app/blobs/uploads/1", nil, ""},
		{"DELETE", "/v2/app/tags/list", nil, ""},
		{"DELETE", "/v2/app/referrers/" + a, nil, ""},
		{"DELETE", "/v2/_catalog", nil, ""},
		{"TRACE", "/v2/app/manifests/latest", nil, ""},

		{"GET", "/v2/APP/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/../manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/a/../b/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/a/./b/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/%2e%2e/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/a%2Fb/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/a/b%2fmanifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/a%00b/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/a%25b/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/a//b/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/a\\b/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/" + strings.Repeat("a", 256) + "/manifests/latest", nil, registry.NameInvalid},
		{"GET", "/v2/-a/tags/list", nil, registry.NameInvalid},
		{"POST", "/v2/a./blobs/uploads/", nil, registry.NameInvalid},
		{"POST", "/v2/a/blobs/uploads/?mount=" + a + "&from=../b", nil, registry.NameInvalid},

		// "404 Not Found" for manifests that cannot be there.
		{"GET", "/v2/app/manifests/.INVALID", nil, registry.ManifestUnknown},
		{"HEAD", "/v2/app/manifests/sha256:00", nil, registry.ManifestUnknown},
		{"GET", "/v2/app/manifests/a%00", nil, registry.ManifestUnknown},
		{"PUT", "/v2/app/manifests/.INVALID", nil, registry.TagInvalid},
		{"PUT", "/v2/app/manifests/" + strings.Repeat("t", 129), nil, registry.TagInvalid},
		{"DELETE", "/v2/app/manifests/sha256:00", nil, registry.DigestInvalid},
		{"PUT", "/v2/app/manifests/md5:0123", nil, registry.DigestInvalid},
		{"PUT", "/v2/app/manifests/" + a + "?tag=.x", nil, registry.TagInvalid},
		{"PUT", "/v2/app/manifests/" + a + "?tag=" + strings.Join(strings.Split("abcdefghijk", ""), "&tag="), nil, registry.TagInvalid},
		{"PUT", "/v2/app/manifests/x?tag=y", nil, registry.TagInvalid},
		{"PUT", "/v2/app/manifests/" + a + "?digest=" + string(d512), nil, registry.DigestInvalid},

		{"GET", "/v2/app/blobs/sha256:00", nil, registry.DigestInvalid},
		{"GET", "/v2/app/blobs/" + strings.ToUpper(a), nil, registry.DigestInvalid},
		{"GET", "/v2/app/blobs/uploads", nil, registry.DigestInvalid},
		{"GET", "/v2/app/referrers/x", nil, registry.DigestInvalid},
		{"POST", "/v2/app/blobs/uploads/?digest=", nil, registry.DigestInvalid},
		{"POST", "/v2/app/blobs/uploads/?digest-algorithm=md5", nil, registry.DigestInvalid},
		{"POST", "/v2/app/blobs/uploads/?mount=x", nil, registry.DigestInvalid},
		{"PUT", "/v2/app/blobs/uploads/1", nil, registry.DigestInvalid},
		{"PATCH", "/v2/app/blobs/uploads/..", nil, registry.BlobUploadUnknown},
		{"PATCH", "/v2/app/blobs/uploads/a%00", nil, registry.BlobUploadUnknown},
		{"PATCH", "/v2/app/blobs/uploads/" + strings.Repeat("1", 129), nil, registry.BlobUploadUnknown},
		{"PATCH", "/v2/app/blobs/uploads/1", []string{"Content-Range", "9-5"}, registry.RangeInvalid},
		{"PATCH", "/v2/app/blobs/uploads/1", []string{"Content-Range", "bytes 0-5/6"}, registry.RangeInvalid},
		{"PATCH", "/v2/app/blobs/uploads/1", []string{"Content-Range", "0-99999999999999999999"}, registry.RangeInvalid},
		{"PATCH", "/v2/app/blobs/uploads/1", []string{"Content-Range", "-5"}, registry.RangeInvalid},

		{"GET", "/v2/app/tags/list?n=-1", nil, codePagination},
		{"GET", "/v2/app/tags/list?n=x", nil, codePagination},
		{"GET", "/v2/app/tags/list?n=4294967296", nil, codePagination},
		{"GET", "/v2/app/tags/list?last=%00", nil, codePagination},
		{"GET", "/v2/app/tags/list?last=" + strings.Repeat("x", 256), nil, codePagination},
		{"GET", "/v2/app/tags/list?n=%zz", nil, codeBadRequest},
		{"GET", "/v2/app/tags/list?" + strings.Repeat("x", 5000), nil, codeBadRequest},
		{"GET", "/v2/app/referrers/" + a + "?last=x", nil, registry.DigestInvalid},
		{"GET", "/v2/app/referrers/" + a + "?artifactType=%0a", nil, codeBadRequest},
	} {
		_, err := parse(t, test.method, test.target, test.header...)
		var method *MethodError
		if test.want == "" {
			if !errors.As(err, &method) || method.Allow == "" {
				t.Errorf("%s %s: %v, want a *MethodError", test.method, test.target, err)
			}
			continue
		}
		var e *registry.Error
		if !errors.As(err, &e) || e.Code != test.want {
			t.Errorf("%s %s: %#v, want %s", test.method, test.target, err, test.want)
		}
	}
}

// Every kind has a name of its own and a verb: a new one that has none would be
// judged as nothing.
func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for k := Base; k <= ListCatalog; k++ {
		if k.Verb() == 0 || k.String() == "none" || seen[k.String()] {
			t.Errorf("kind %d: verb %s, name %s", k, k.Verb(), k)
		}
		seen[k.String()] = true
	}
	if k := ListCatalog + 1; k.String() != "none" || k.Verb() != 0 {
		t.Errorf("kind %d is %s", k, k)
	}
}

var (
	nameRE   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestRE = regexp.MustCompile(`^(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$`)
)

// Grammars by hand and by the specification's regular expressions are the same.
func FuzzGrammar(f *testing.F) {
	for _, s := range []string{"", "a", "a/b", "a..b", "a__b", "a___b", "a--b", "a-", "-a", "a/", "/a", "a//b", "a.b_c", "A", "latest", ".x", "a\n", string(d256), string(d512), "sha256:", strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("T", 128)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := validName(s), len(s) <= 255 && nameRE.MatchString(s); got != want || got != catalog.ValidName(s) {
			t.Errorf("validName(%q) = %v", s, got)
		}
		if got := validTag(s); got != tagRE.MatchString(s) || got != (oci.ValidTag(s) == nil) {
			t.Errorf("validTag(%q) = %v", s, got)
		}
		if _, got := parseDigest(s); got != digestRE.MatchString(s) {
			t.Errorf("parseDigest(%q) = %v", s, got)
		}
	})
}

// Whatever comes, what Parse lets through is well-formed: nothing behind it looks
// again.
func FuzzParse(f *testing.F) {
	for _, m := range []string{"GET", "PUT", "POST", "PATCH", "DELETE"} {
		f.Add(m, "/v2/a/b/manifests/latest", "tag=x", "0-5")
		f.Add(m, "/v2/a/blobs/uploads/1", "digest="+string(d256), "")
		f.Add(m, "/v2/a/blobs/uploads/", "mount="+string(d256)+"&from=b", "")
		f.Add(m, "/v2/a%2fb/tags/list", "n=1&last=b", "")
		f.Add(m, "/v2/a/../blobs/"+string(d512), "", "")
		f.Add(m, "/v2/a/referrers/"+string(d512), "artifactType=x", "")
	}
	f.Fuzz(func(t *testing.T, method, path, query, contentRange string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		u.RawQuery = query
		r, err := Parse(method, u, http.Header{"Content-Range": {contentRange}})
		if err != nil {
			var e *registry.Error
			var m *MethodError
			if !errors.As(err, &e) && !errors.As(err, &m) {
				t.Fatalf("%s %q: an error of another type: %v", method, path, err)
			}
			return
		}
		if r.Kind.Verb() == 0 {
			t.Fatalf("%s %q: %+v: no verb", method, path, r)
		}
		named := r.Kind != Base && r.Kind != ListCatalog
		if named != (r.Repository != "") || named && !nameRE.MatchString(r.Repository) || len(r.Repository) > 255 {
			t.Fatalf("%s %q: repository %q", method, path, r.Repository)
		}
		if named && !strings.HasPrefix(u.Path, "/v2/"+r.Repository+"/") {
			t.Fatalf("%s %q: repository %q is not where it stands", method, path, r.Repository)
		}
		if r.Digest != "" && !digestRE.MatchString(string(r.Digest)) {
			t.Fatalf("%s %q: digest %q", method, path, r.Digest)
		}
		for _, tag := range append(r.Tags, r.Tag) {
			if tag != "" && !tagRE.MatchString(tag) {
				t.Fatalf("%s %q: tag %q", method, path, tag)
			}
		}
		switch r.Kind {
		case GetBlob, PushBlob, FinishUpload, DeleteManifest, DeleteBlob, MountBlob, ListReferrers:
			if r.Digest == "" {
				t.Fatalf("%s %q: %s without a digest", method, path, r.Kind)
			}
		case GetManifest, PutManifest:
			if r.Digest == "" && r.Tag == "" {
				t.Fatalf("%s %q: no reference", method, path)
			}
		case DeleteTag:
			if r.Tag == "" {
				t.Fatalf("%s %q: no tag", method, path)
			}
		}
		if strings.ContainsAny(r.Upload+r.From+r.Page.After+r.ArtifactType, "\x00\n\r") {
			t.Fatalf("%s %q: control characters in %+v", method, path, r)
		}
		if r.Chunk != nil && (r.Chunk.First < 0 || r.Chunk.Size() < 1) {
			t.Fatalf("%s %q: chunk %+v", method, path, *r.Chunk)
		}
	})
}
