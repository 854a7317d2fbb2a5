package evidence

import (
	"net/url"
	"strings"
)

// Package URLs (purl-spec, "Rules for each purl component"): the names by which
// documents of different tools meet.

// DebURL names a package of an archive ("debian/trixie", suite
// "trixie-security"). Suites of one release share the distribution's name.
func DebURL(archive, suite, name, version, arch string) string {
	vendor, release, ok := strings.Cut(archive, "/")
	if !ok {
		release = suite
	}
	if vendor == "" {
		vendor = "debian"
	}
	return "pkg:deb/" + purlPart(vendor) + "/" + purlPart(name) + "@" + purlPart(version) +
		"?arch=" + purlPart(arch) + "&distro=" + purlPart(strings.ToLower(vendor)+"-"+release)
}

// NPMURL names an npm package; the scope is a namespace.
func NPMURL(name, version string) string {
	if scope, base, ok := strings.Cut(name, "/"); ok {
		return "pkg:npm/" + purlPart(scope) + "/" + purlPart(base) + "@" + purlPart(version)
	}
	return "pkg:npm/" + purlPart(name) + "@" + purlPart(version)
}

// GoURL names a Go module.
func GoURL(path, version string) string {
	parts := strings.Split(strings.ToLower(path), "/")
	for i, p := range parts {
		parts[i] = purlPart(p)
	}
	return "pkg:golang/" + strings.Join(parts, "/") + "@" + purlPart(version)
}

// OCIURL names an image by digest, as VEX statements and scanners do. name is
// its last part, repository the whole, without a tag; repository may be empty.
func OCIURL(name, digest, repository string) string {
	u := "pkg:oci/" + purlPart(strings.ToLower(name)) + "@" + purlPart(digest)
	if repository != "" {
		u += "?repository_url=" + purlPart(repository)
	}
	return u
}

// purlPart percent-encodes everything but the unreserved characters and the
// colon, which the specification leaves as it is.
func purlPart(s string) string {
	s = url.PathEscape(s)
	r := strings.NewReplacer("+", "%2B", "@", "%40", "&", "%26", "=", "%3D", "$", "%24", "%3A", ":", ";", "%3B", ",", "%2C")
	return r.Replace(s)
}
