package inspect

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// wantsWhole tells by a file's path whether it is one that is read as a whole:
// a package's description, or a file that the system is configured by.
func (f *opened) wantsWhole() bool { return wholeKind(f.info.path) != "" }

// wholeKind names what a path is read for, "" for nothing.
func wholeKind(p string) string {
	dir, base := path.Split(p)
	switch p {
	case "var/lib/dpkg/status", "usr/lib/dpkg/status":
		return "dpkg"
	case "lib/apk/db/installed", "usr/lib/apk/db/installed":
		return "apk"
	case "var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/Packages.db", "var/lib/rpm/Packages", "usr/lib/sysimage/rpm/Packages.db":
		return "rpm"
	case "etc/passwd", "etc/group", "etc/os-release", "usr/lib/os-release", "etc/ld.so.conf":
		return "keep"
	}
	switch {
	case dir == "var/lib/dpkg/status.d/":
		if strings.HasSuffix(base, ".md5sums") {
			return "md5sums"
		}
		return "dpkg"
	case dir == "var/lib/dpkg/info/" && strings.HasSuffix(base, ".md5sums"):
		return "md5sums"
	case dir == "etc/ld.so.conf.d/" && strings.HasSuffix(base, ".conf"):
		return "keep"
	case base == "package.json" && strings.Contains("/"+dir, "/node_modules/"):
		// Only the description of the package itself, not one of its folders.
		parts := strings.Split(strings.Trim(dir, "/"), "/")
		if n := len(parts); n >= 2 && parts[n-2] == "node_modules" && !strings.HasPrefix(parts[n-1], "@") || n >= 3 && parts[n-3] == "node_modules" && strings.HasPrefix(parts[n-2], "@") {
			return "npm"
		}
		return ""
	case base == "package.json":
		return "npmroot"
	case base == "METADATA" && strings.HasSuffix(dir, ".dist-info/"), base == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info/"), strings.HasSuffix(base, ".egg-info"):
		return "pypi"
	case strings.HasSuffix(base, ".gemspec") && strings.Contains(p, "specifications/"):
		return "gem"
	case base == "installed.json" && strings.HasSuffix(dir, "vendor/composer/"):
		return "composer"
	}
	return ""
}

// database reads a file that wantsWhole chose.
func (f *opened) database() error {
	kind := wholeKind(f.info.path)
	limit := smallLimit
	if kind == "dpkg" || kind == "apk" {
		limit = keepLimit
	}
	if kind == "rpm" {
		// The database is Berkeley DB, ndb or SQLite; the list of names in it is
		// no list of what was installed. See doc.
		f.c.errs = append(f.c.errs, "an RPM database: its packages cannot be listed")
		return nil
	}
	b, whole, err := f.readAll(limit)
	if err != nil {
		return err
	}
	if !whole {
		f.c.errs = append(f.c.errs, "a package description larger than is read")
		return nil
	}
	switch kind {
	case "dpkg":
		f.c.pkgs = dpkgStatus(b)
	case "apk":
		f.c.pkgs = apkInstalled(b)
	case "npm", "npmroot":
		f.npmPackage(b, kind == "npm")
	case "pypi":
		if p, ok := pythonMetadata(b); ok {
			f.c.pkgs = []Package{p}
			switch p.Name {
			case "pip", "poetry", "pipenv", "uv", "conda":
				f.c.tools = append(f.c.tools, tool{rule: RulePackageManager, name: p.Name, evidence: "is described as the package " + p.Name})
			case "debugpy":
				f.c.tools = append(f.c.tools, tool{rule: RuleDebugger, name: p.Name, evidence: "is described as the package " + p.Name})
			}
		}
	case "gem":
		if p, ok := gemspec(path.Base(f.info.path), b); ok {
			f.c.pkgs = []Package{p}
		}
	case "composer":
		f.c.pkgs = composerInstalled(b)
	case "md5sums", "keep":
		f.c.keep = bytes.Clone(b)
	}
	// A description can carry a secret too: feed it as text.
	if isText(b) && kind != "md5sums" && len(b) < smallLimit {
		t := f.w.text
		t.reset(f.info.path, f.info.dependency)
		t.feed(b, 0, 0, true)
		f.c.secrets = append(f.c.secrets, t.found...)
		f.c.more = t.more
	}
	return nil
}

// npmTools are packages that are tools of development.
var npmTools = map[string]string{
	"npm": RulePackageManager, "yarn": RulePackageManager, "pnpm": RulePackageManager, "corepack": RulePackageManager, "@yarnpkg/cli": RulePackageManager,
	"typescript": RuleCompiler, "esbuild": RuleBuildTool, "webpack": RuleBuildTool, "rollup": RuleBuildTool, "vite": RuleBuildTool, "parcel": RuleBuildTool, "gulp": RuleBuildTool, "grunt": RuleBuildTool, "turbo": RuleBuildTool, "nx": RuleBuildTool, "node-gyp": RuleBuildTool, "nodemon": RuleBuildTool, "ts-node": RuleBuildTool, "tsx": RuleBuildTool, "eslint": RuleBuildTool, "jest": RuleBuildTool, "mocha": RuleBuildTool, "vitest": RuleBuildTool, "@babel/core": RuleBuildTool,
}

func (f *opened) npmPackage(b []byte, installed bool) {
	var doc struct {
		Name    string          `json:"name"`
		Version string          `json:"version"`
		License json.RawMessage `json:"license"`
		Bin     json.RawMessage `json:"bin"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Name == "" {
		return
	}
	if rule := npmTools[doc.Name]; rule != "" && (len(doc.Bin) > 0 || doc.Name == "npm") && doc.Version != "" {
		f.c.tools = append(f.c.tools, tool{rule: rule, name: doc.Name, evidence: "is described as the package " + doc.Name + " " + doc.Version})
	}
	if !installed || doc.Version == "" {
		return
	}
	p := Package{Type: NPM, Name: doc.Name, Version: doc.Version}
	if len(doc.License) > 1 && doc.License[0] == '"' {
		_ = json.Unmarshal(doc.License, &p.Licence) // a description, not a fact to fail on
	}
	f.c.pkgs = []Package{p}
}

// dpkgStatus reads stanzas of a status file (deb-control(5)).
func dpkgStatus(b []byte) []Package {
	var out []Package
	for len(b) > 0 {
		var stanza []byte
		if i := bytes.Index(b, []byte("\n\n")); i >= 0 {
			stanza, b = b[:i], b[i+2:]
		} else {
			stanza, b = b, nil
		}
		p := Package{Type: Deb}
		installed := true
		for line := range bytes.Lines(stanza) {
			if len(line) == 0 || line[0] == ' ' || line[0] == '\t' {
				continue
			}
			k, v, ok := strings.Cut(strings.TrimSpace(string(line)), ":")
			if !ok {
				continue
			}
			v = strings.TrimSpace(v)
			switch k {
			case "Package":
				p.Name = v
			case "Version":
				p.Version = v
			case "Architecture":
				p.Arch = v
			case "Source":
				p.Source = strings.NewReplacer(" (", " ", ")", "").Replace(v)
			case "Status":
				installed = strings.HasSuffix(v, " installed") || strings.HasSuffix(v, "unpacked") || strings.HasSuffix(v, "half-configured") || strings.HasSuffix(v, "triggers-pending") || strings.HasSuffix(v, "triggers-awaited")
			}
		}
		if p.Name != "" && p.Version != "" && installed {
			out = append(out, p)
		}
	}
	return out
}

// apkInstalled reads Alpine's database (apk-tools, "installed" format).
func apkInstalled(b []byte) []Package {
	var out []Package
	p := Package{Type: Apk}
	for line := range bytes.Lines(b) {
		text := strings.TrimSpace(string(line))
		if text == "" {
			if p.Name != "" {
				out = append(out, p)
			}
			p = Package{Type: Apk}
			continue
		}
		k, v, ok := strings.Cut(text, ":")
		if !ok {
			continue
		}
		switch k {
		case "P":
			p.Name = v
		case "V":
			p.Version = v
		case "A":
			p.Arch = v
		case "o":
			p.Source = v
		case "L":
			p.Licence = v
		}
	}
	if p.Name != "" {
		out = append(out, p)
	}
	return out
}

// pythonMetadata reads the head of a METADATA or PKG-INFO file (PEP 566).
func pythonMetadata(b []byte) (Package, bool) {
	p := Package{Type: PyPI}
	for line := range bytes.Lines(b) {
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			break
		}
		k, v, _ := strings.Cut(text, ":")
		switch v = strings.TrimSpace(v); k {
		case "Name":
			p.Name = v
		case "Version":
			p.Version = v
		case "License", "License-Expression":
			if p.Licence == "" && len(v) < 100 && v != "UNKNOWN" {
				p.Licence = v
			}
		}
	}
	return p, p.Name != "" && p.Version != ""
}

var (
	gemField = regexp.MustCompile(`(?m)^\s*s\.(name|version)\s*=\s*["']([^"']+)["']`)
	gemFile  = regexp.MustCompile(`^(.+?)-(\d[^-]*)(?:-.*)?\.gemspec$`)
)

func gemspec(base string, b []byte) (Package, bool) {
	p := Package{Type: Gem}
	for _, m := range gemField.FindAllSubmatch(b, 8) {
		switch string(m[1]) {
		case "name":
			p.Name = string(m[2])
		case "version":
			p.Version = string(m[2])
		}
	}
	if m := gemFile.FindStringSubmatch(base); m != nil {
		if p.Name == "" {
			p.Name = m[1]
		}
		if p.Version == "" {
			p.Version = m[2]
		}
	}
	return p, p.Name != "" && p.Version != ""
}

// composerInstalled reads vendor/composer/installed.json of Composer 1 and 2.
func composerInstalled(b []byte) []Package {
	type item struct{ Name, Version string }
	var two struct{ Packages []item }
	var items []item
	if json.Unmarshal(b, &two) == nil && len(two.Packages) > 0 {
		items = two.Packages
	} else if json.Unmarshal(b, &items) != nil {
		return nil
	}
	var out []Package
	for _, i := range items {
		if i.Name != "" {
			out = append(out, Package{Type: Composer, Name: i.Name, Version: strings.TrimPrefix(i.Version, "v")})
		}
	}
	return out
}

func pomProperties(b []byte) (Package, bool) {
	var group, artifact, version string
	for line := range bytes.Lines(b) {
		k, v, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		switch v = strings.TrimSpace(v); strings.TrimSpace(k) {
		case "groupId":
			group = v
		case "artifactId":
			artifact = v
		case "version":
			version = v
		}
	}
	return Package{Type: Maven, Name: group + ":" + artifact, Version: version}, group != "" && artifact != "" && version != ""
}

var jarFile = regexp.MustCompile(`^(.+?)-(\d[\w.+-]*)\.[jw]ar$`)

func jarFileName(base string) (Package, bool) {
	m := jarFile.FindStringSubmatch(base)
	if m == nil {
		return Package{}, false
	}
	return Package{Type: Maven, Name: m[1], Version: m[2]}, true
}

// purl writes a package URL (package-url specification, types apk, cargo,
// composer, deb, gem, golang, maven, npm, pypi, rpm).
func purl(p Package, os OSRelease) string {
	esc := func(s string) string { return strings.ReplaceAll(url.PathEscape(s), ":", "%3A") }
	version := ""
	if p.Version != "" {
		version = "@" + strings.ReplaceAll(esc(p.Version), "+", "%2B")
	}
	var q []string
	name := esc(p.Name)
	switch p.Type {
	case Deb, Apk, RPM:
		ns := os.ID
		if ns == "" {
			ns = map[string]string{Deb: "debian", Apk: "alpine", RPM: "redhat"}[p.Type]
		}
		name = esc(ns) + "/" + name
		if p.Arch != "" {
			q = append(q, "arch="+url.QueryEscape(p.Arch))
		}
		if os.ID != "" && os.VersionID != "" {
			q = append(q, "distro="+url.QueryEscape(os.ID+"-"+os.VersionID))
		}
	case NPM:
		if scope, base, ok := strings.Cut(p.Name, "/"); ok && strings.HasPrefix(scope, "@") {
			name = "%40" + esc(scope[1:]) + "/" + esc(base)
		}
	case PyPI:
		name = esc(strings.ToLower(pypiRun.ReplaceAllString(p.Name, "-")))
	case Golang:
		parts := strings.Split(p.Name, "/")
		for i := range parts {
			parts[i] = esc(parts[i])
		}
		name = strings.Join(parts, "/")
	case Composer:
		name = strings.ReplaceAll(name, "%2F", "/")
	case Maven:
		if g, a, ok := strings.Cut(p.Name, ":"); ok {
			name = esc(g) + "/" + esc(a)
		}
	}
	out := "pkg:" + p.Type + "/" + name + version
	if len(q) > 0 {
		out += "?" + strings.Join(q, "&")
	}
	return out
}

var pypiRun = regexp.MustCompile(`[-_.]+`)

// md5Line is one line of a md5sums file.
type md5Line struct {
	sum  [16]byte
	path string
}

// md5sums reads the list of a package's files (deb-md5sums(5)).
func md5sums(b []byte, see func(md5Line)) error {
	for line := range bytes.Lines(b) {
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			continue
		}
		var l md5Line
		if len(text) < 35 {
			return io.ErrUnexpectedEOF
		}
		if _, err := hex.Decode(l.sum[:], []byte(text[:32])); err != nil {
			return err
		}
		l.path = strings.TrimPrefix(path.Clean("/"+strings.TrimLeft(text[32:], " *")), "/")
		see(l)
	}
	return nil
}
