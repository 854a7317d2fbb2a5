package oci

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseRef(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Ref
	}{
		{"oci:dir", Ref{Kind: LayoutRef, Path: "dir"}},
		{"oci:dir:v1", Ref{Kind: LayoutRef, Path: "dir", Tag: "v1"}},
		{"oci:/a:b/c", Ref{Kind: LayoutRef, Path: "/a:b/c"}},
		{"oci:/a:b/c:v1", Ref{Kind: LayoutRef, Path: "/a:b/c", Tag: "v1"}},
		{"docker-archive:x.tar", Ref{Kind: DockerArchiveRef, Path: "x.tar"}},
		{"docker-archive:/d/x.tar:v1", Ref{Kind: DockerArchiveRef, Path: "/d/x.tar", Tag: "v1"}},
		{"docker-archive:/d/x.tar:app:v1", Ref{Kind: DockerArchiveRef, Path: "/d/x.tar", Tag: "app:v1"}},
		{"docker-archive:/d/x.tar:registry.example/a/app:v1", Ref{Kind: DockerArchiveRef, Path: "/d/x.tar", Tag: "registry.example/a/app:v1"}},
		{"registry.example/app", Ref{Kind: RegistryRef, Host: "registry.example", Name: "app"}},
		{"registry.example:5000/a/b-c__d:1.0", Ref{Kind: RegistryRef, Host: "registry.example:5000", Name: "a/b-c__d", Tag: "1.0"}},
		{"localhost/app:1", Ref{Kind: RegistryRef, Host: "localhost", Name: "app", Tag: "1"}},
		{"127.0.0.1:80/app:1@" + someDigest, Ref{Kind: RegistryRef, Host: "127.0.0.1:80", Name: "app", Tag: "1", Digest: someDigest}},
		{"[::1]:80/app@" + someDigest, Ref{Kind: RegistryRef, Host: "[::1]:80", Name: "app", Digest: someDigest}},
	} {
		got, err := ParseRef(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.in, diff)
		}
		if got.String() != c.in {
			t.Errorf("String() = %s, want %s", got, c.in)
		}
	}
	for in, says := range map[string]string{
		"":                                    "names no registry",
		"app":                                 "names no registry",
		"library/app:1":                       "names no registry",
		"oci:":                                "names no folder",
		"oci::v1":                             "names no folder",
		"oci:dir:a b":                         "tag",
		"oci:dir:" + strings.Repeat("a", 129): "tag",
		"docker-archive:":                     "names no file",
		"docker-archive:x.tar:a b":            "tag",
		"registry.example/App":                "repository name",
		"registry.example/":                   "repository name",
		"registry.example/../x":               "repository name",
		"registry.example/a//b":               "repository name",
		"registry.example/app:":               "tag",
		"registry.example/app@sha256:ab":      "digest",
		"registry.example/app@md5:ab":         "digest",
		"registry..example/app":               "no registry host",
		"registry.example:99999999/app":       "no registry host",
		"user@registry.example/app":           "digest",
		"https://registry.example/app":        "no registry host",
		"registry.example/app\n":              "control character",
	} {
		if got, err := ParseRef(in); err == nil {
			t.Errorf("%q accepted as %+v", in, got)
		} else if !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q in it", in, err, says)
		}
	}
}

// What is accepted has one spelling.
func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"oci:d:t", "docker-archive:f:a:b", "h.example/n:t@" + someDigest, "[::1]:1/a", "localhost/a__b/c.d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		again, err := ParseRef(r.String())
		if err != nil || again != r {
			t.Errorf("%q → %+v → %q → %+v, %v", s, r, r, again, err)
		}
	})
}
