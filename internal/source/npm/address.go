package npm

import (
	"net/url"
	"path"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/fetch"
)

// TarballPath is the registry-relative address of a package version's
// tarball: "express/-/express-4.19.2.tgz", "@types/node/-/node-20.1.0.tgz".
// Build metadata is not part of the address, as it is not part of a version's
// identity.
func TarballPath(name, version string) string {
	version, _, _ = strings.Cut(version, "+")
	return name + "/-/" + path.Base(name) + "-" + version + ".tgz"
}

// TarballURL is the address of a package version's tarball on a registry.
func TarballURL(registry, name, version string) string {
	return join(registry, TarballPath(name, version))
}

func join(registry, p string) string {
	return strings.TrimRight(registry, "/") + "/" + p
}

// documentURL is the address of one version's document. Registries take a
// scoped name's slash only when escaped.
func documentURL(registry, name, version string) string {
	return join(registry, strings.Replace(url.PathEscape(name), "%40", "@", 1)+"/"+url.PathEscape(version))
}

// Items lists the downloads of packages, each tarball once, in the packages'
// order. registry gives the base address for a package name (scopes may have
// registries of their own; site.Site.NPMFor is one), or an error that says
// how to set it. resolved (from Resolved, may be nil) is a second place, tried
// when the registry lacks the bytes: the digest decides what is accepted, not
// the address.
func Items(registry func(name string) (string, error), pkgs []project.NPMPackage, resolved map[string]string) ([]fetch.Item, error) {
	seen := make(map[oci.Digest]bool)
	var items []fetch.Item
	for _, p := range pkgs {
		if seen[p.Integrity] {
			continue
		}
		seen[p.Integrity] = true
		base, err := registry(p.Name)
		if err != nil {
			return nil, err
		}
		id := p.Name + "@" + p.Version
		it := fetch.Item{Digest: p.Integrity, Size: -1, Name: id, URLs: []string{TarballURL(base, p.Name, p.Version)}}
		if r := resolved[id]; r != "" && r != it.URLs[0] {
			it.URLs = append(it.URLs, r)
		}
		items = append(items, it)
	}
	return items, nil
}

// ToolItems lists the downloads of those pinned tools that come from the npm
// registry.
func ToolItems(registry string, tools []project.Tool) []fetch.Item {
	var items []fetch.Item
	for _, t := range tools {
		if fromRegistry(t) {
			items = append(items, fetch.Item{Digest: t.Digest, Size: -1, Name: t.Name + "@" + t.Version, URLs: []string{join(registry, t.Path)}})
		}
	}
	return items
}

// fromRegistry tells whether a tool is one that this package pins.
func fromRegistry(t project.Tool) bool {
	return t.Name == "npm" || t.Name == "pnpm" || t.Name == "yarn"
}
