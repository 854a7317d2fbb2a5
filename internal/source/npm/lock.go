package npm

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/Masterminds/semver/v3"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// maxPackages bounds what a lock may ask for. npm's own largest public locks
// hold some 5,000 packages.
const maxPackages = 100_000

// ReadLock reads a package-lock.json (lockfileVersion 2 or 3; its `packages`
// map) and checks that it agrees with the package.json beside it. name is the
// project path of the lock, for messages and NPMTree.Lockfile.
//
// Every package of the result has a sha512 and a version; those that travel
// inside another package's tarball (inBundle) have no tarball of their own and
// are not listed. Sources that no registry tarball stands for (git, file:,
// link:, workspaces, tarball addresses) are refused, each error with the entry
// and what to do.
func ReadLock(name string, data, packageJSON []byte) (*project.NPMTree, error) {
	doc, err := parseJSON(name, data)
	if err != nil {
		return nil, err
	}
	switch v, _ := doc["lockfileVersion"].(json.Number); v {
	case "2", "3":
	case "1":
		return nil, fmt.Errorf("%s has lockfileVersion 1, which records too little: run `npm install --package-lock-only` with npm 7 or newer", name)
	case "":
		return nil, fmt.Errorf("%s has no lockfileVersion: it is not a package-lock.json", name)
	default:
		return nil, fmt.Errorf("%s has lockfileVersion %s: versions 2 and 3 are understood", name, v)
	}
	pkgs, err := doc.object("packages")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	root, ok := pkgs[""].(object)
	if !ok {
		return nil, fmt.Errorf("%s has no packages[\"\"] entry: run npm install", name)
	}
	if len(pkgs) > maxPackages {
		return nil, fmt.Errorf("%s lists %d packages: more than the %d that are read", name, len(pkgs), maxPackages)
	}
	if err := checkRoot(name, root, packageJSON); err != nil {
		return nil, err
	}

	tree := &project.NPMTree{Lockfile: name, SHA256: digest.FromBytes(data), Packages: []project.NPMPackage{}}
	byVersion := make(map[string]project.NPMPackage)
	for _, location := range slices.Sorted(maps.Keys(pkgs)) {
		if location == "" {
			continue
		}
		entry, ok := pkgs[location].(object)
		if !ok {
			return nil, fmt.Errorf("%s: packages[%q] is not an object", name, location)
		}
		p, err := readEntry(location, entry)
		if err != nil {
			return nil, fmt.Errorf("%s: packages[%q] %w", name, location, err)
		}
		if p == nil {
			if !bundledInside(pkgs, location) {
				return nil, fmt.Errorf("%s: packages[%q] says inBundle, but no package around it has a tarball: run npm install", name, location)
			}
			continue
		}
		// One name and version is one tarball: the loopback registry and every
		// record address it so.
		id := p.Name + "@" + p.Version
		if o, seen := byVersion[id]; seen && o.Integrity != p.Integrity {
			return nil, fmt.Errorf("%s: %s has two different integrities, at %q and %q: run npm install", name, id, o.Location, location)
		}
		byVersion[id] = *p
		tree.Packages = append(tree.Packages, *p)
	}
	sort.Slice(tree.Packages, func(i, j int) bool { return tree.Packages[i].Location < tree.Packages[j].Location })
	inheritPlatforms(pkgs, tree.Packages)
	for _, kind := range []string{"dependencies", "devDependencies"} {
		deps, err := root.stringMap(kind)
		if err != nil {
			return nil, fmt.Errorf("%s: packages[\"\"]: %w", name, err)
		}
		for _, dep := range slices.Sorted(maps.Keys(deps)) {
			if _, ok := pkgs["node_modules/"+dep]; !ok {
				return nil, stale(name, fmt.Sprintf("%s of package.json is not in it", dep))
			}
		}
	}
	return tree, nil
}

func stale(lock, why string) error {
	return fmt.Errorf("%s is stale: run npm install (%s)", lock, why)
}

// dependencyKinds are the maps of package.json that the lock's root entry
// repeats.
var dependencyKinds = []string{"dependencies", "devDependencies", "optionalDependencies", "peerDependencies"}

// checkRoot compares package.json with the root entry of the lock and refuses
// dependencies that name no registry package.
func checkRoot(lock string, root object, packageJSON []byte) error {
	file := path.Join(path.Dir(lock), "package.json")
	pj, err := parseJSON(file, packageJSON)
	if err != nil {
		return err
	}
	for _, o := range []object{pj, root} {
		if w, given := o["workspaces"]; given && w != nil {
			return fmt.Errorf("%s has workspaces, which have no tarballs: name the package.json and package-lock.json of one package instead", file)
		}
	}
	asked, err := rootDependencies(pj)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	locked, err := rootDependencies(root)
	if err != nil {
		return fmt.Errorf("%s: packages[\"\"]: %w", lock, err)
	}
	for _, kind := range dependencyKinds {
		a, l := asked[kind], locked[kind]
		for _, dep := range slices.Sorted(maps.Keys(a)) {
			if err := checkSpec(a[dep]); err != nil {
				return fmt.Errorf("%s: %s of %s is %w", file, dep, kind, err)
			}
			switch r, ok := l[dep]; {
			case !ok:
				return stale(lock, fmt.Sprintf("%s of package.json's %s is not in it", dep, kind))
			case r != a[dep]:
				return stale(lock, fmt.Sprintf("package.json's %s ask for %s %q, the lock was made for %q", kind, dep, a[dep], r))
			}
		}
		for _, dep := range slices.Sorted(maps.Keys(l)) {
			if _, ok := a[dep]; !ok {
				return stale(lock, fmt.Sprintf("%s is no longer in package.json's %s", dep, kind))
			}
		}
	}
	return nil
}

func rootDependencies(o object) (map[string]map[string]string, error) {
	all := make(map[string]map[string]string)
	for _, kind := range dependencyKinds {
		m, err := o.stringMap(kind)
		if err != nil {
			return nil, err
		}
		all[kind] = m
	}
	// npm reads a name that is in both as optional only, and writes the lock
	// so.
	for dep := range all["optionalDependencies"] {
		delete(all["dependencies"], dep)
	}
	return all, nil
}

// checkSpec refuses dependency values that are not ranges, tags or aliases of
// registry packages.
func checkSpec(spec string) error {
	const remedy = "publish it to a registry and ask for a version"
	switch scheme, _, ok := strings.Cut(spec, ":"); {
	case ok && scheme == "npm":
		return nil
	case ok:
		return fmt.Errorf("%q: only registry packages can be locked (no git, file:, link:, workspace: or tarball address); %s", spec, remedy)
	}
	if strings.ContainsAny(spec, "/\\") {
		return fmt.Errorf("%q: a folder or a repository, and only registry packages can be locked; %s", spec, remedy)
	}
	return nil
}

// readEntry reads one entry of the packages map; nil means that its files
// travel in another package's tarball.
func readEntry(location string, e object) (*project.NPMPackage, error) {
	folder, err := splitLocation(location)
	if err != nil {
		return nil, err
	}
	link, err := e.boolean("link")
	if err != nil {
		return nil, err
	}
	resolved, err := e.str("resolved")
	if err != nil {
		return nil, err
	}
	if link {
		return nil, fmt.Errorf("is a link to %q: only registry packages can be locked; publish it and ask for a version", resolved)
	}
	if extraneous, err := e.boolean("extraneous"); err != nil {
		return nil, err
	} else if extraneous {
		return nil, fmt.Errorf("is extraneous: nothing asks for it; run npm install")
	}
	bundled, err := e.boolean("inBundle")
	if err != nil {
		return nil, err
	}
	p := &project.NPMPackage{Location: location}
	if p.Name, err = e.str("name"); err != nil {
		return nil, err
	}
	if p.Name == "" {
		p.Name = folder
	} else if !validName(p.Name) {
		return nil, fmt.Errorf("has the name %q, which is no package name", p.Name)
	}
	if p.Version, err = e.str("version"); err != nil {
		return nil, err
	}
	if len(p.Version) > 256 {
		return nil, fmt.Errorf("has a version of %d characters", len(p.Version))
	}
	if _, err := semver.StrictNewVersion(p.Version); err != nil {
		return nil, fmt.Errorf("has the version %q, which is not a semantic version", p.Version)
	}
	if bundled {
		return nil, nil
	}
	if resolved != "" {
		if !strings.HasPrefix(resolved, "https://") && !strings.HasPrefix(resolved, "http://") {
			return nil, fmt.Errorf("comes from %q: only registry tarballs can be locked (no git, file: or link:); publish it to a registry and ask for a version", resolved)
		}
	}
	integrity, err := e.str("integrity")
	if err != nil {
		return nil, err
	}
	if p.Integrity, err = ParseIntegrity(integrity); err != nil {
		return nil, err
	}
	dev, err := e.boolean("dev")
	if err != nil {
		return nil, err
	}
	optional, err := e.boolean("optional")
	if err != nil {
		return nil, err
	}
	devOptional, err := e.boolean("devOptional")
	if err != nil {
		return nil, err
	}
	// devOptional: needed by a development dependency and by an optional one,
	// so a production install still has it where it can.
	p.Dev = dev
	p.Optional = optional || devOptional
	if p.Scripts, err = e.boolean("hasInstallScript"); err != nil {
		return nil, err
	}
	if p.OS, err = e.words("os"); err != nil {
		return nil, err
	}
	if p.CPU, err = e.words("cpu"); err != nil {
		return nil, err
	}
	if p.Libc, err = e.words("libc"); err != nil {
		return nil, err
	}
	return p, nil
}

// packageName is what a registry name may hold. Old packages have capitals
// ("JSONStream"); none begins with a dot, and none holds what a path or an
// address would read as something else.
var packageName = regexp.MustCompile(`^(@[A-Za-z0-9~_-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~_!'()*-][A-Za-z0-9._~!'()*-]*$`)

func validName(s string) bool {
	return len(s) <= 214 && packageName.MatchString(s) && path.Base(s) != "node_modules"
}

// splitLocation checks a key of the packages map and returns the name of the
// folder that it is, with its scope.
func splitLocation(location string) (string, error) {
	if len(location) > 4096 {
		return "", fmt.Errorf("is a path of %d characters", len(location))
	}
	rest, ok := "/"+location, false
	var name string
	for rest != "" {
		if rest, ok = strings.CutPrefix(rest, "/node_modules/"); !ok {
			return "", fmt.Errorf("is not a folder of node_modules: workspaces and local folders have no tarball; publish the package and ask for a version")
		}
		parts := strings.SplitN(rest, "/", 3)
		name, rest = parts[0], strings.TrimPrefix(rest, parts[0])
		if strings.HasPrefix(name, "@") && len(parts) > 1 {
			name += "/" + parts[1]
			rest = strings.TrimPrefix(rest, "/"+parts[1])
		}
		if !validName(name) {
			return "", fmt.Errorf("has the folder %q, which is no package name", name)
		}
	}
	return name, nil
}

// around returns the location of the package whose folder holds this one, or
// "" for the project itself.
func around(location string) string {
	i := strings.LastIndex(location, "/node_modules/")
	if i < 0 {
		return ""
	}
	return location[:i]
}

// inheritPlatforms gives an optional package without os, cpu and libc lists
// those of the packages that need it, when they all have the same: when npm
// leaves out a package for another system, it also leaves out what only that
// one needs (a WebAssembly build's runtime, for example). Packages that are
// needed by several kinds keep no list and are installed everywhere.
func inheritPlatforms(pkgs object, all []project.NPMPackage) {
	byLocation := make(map[string]*project.NPMPackage, len(all))
	for i := range all {
		byLocation[all[i].Location] = &all[i]
	}
	needed := make(map[string][]string) // location → locations that need it
	for location, v := range pkgs {
		e, ok := v.(object)
		if !ok {
			continue
		}
		kinds := dependencyKinds
		if location != "" {
			kinds = []string{"dependencies", "optionalDependencies", "peerDependencies"}
		}
		for _, kind := range kinds {
			deps, _ := e.object(kind)
			for dep := range deps {
				if to := resolve(pkgs, location, dep); to != "" {
					needed[to] = append(needed[to], location)
				}
			}
		}
	}
	platform := func(p *project.NPMPackage) string { return fmt.Sprintf("%q %q %q", p.OS, p.CPU, p.Libc) }
	none := platform(&project.NPMPackage{})
	for changed := true; changed; {
		changed = false
		for i := range all {
			p := &all[i]
			if !p.Optional || platform(p) != none || len(needed[p.Location]) == 0 {
				continue
			}
			var from *project.NPMPackage
			for _, by := range needed[p.Location] {
				q := byLocation[by]
				if q == nil || platform(q) == none || from != nil && platform(q) != platform(from) {
					from = nil
					break
				}
				from = q
			}
			if from != nil {
				p.OS, p.CPU, p.Libc = from.OS, from.CPU, from.Libc
				changed = true
			}
		}
	}
}

// resolve finds what a package at a location gets for a dependency's name, as
// Node looks for it: in its own node_modules, then in each around it.
func resolve(pkgs object, location, dep string) string {
	for {
		at := "node_modules/" + dep
		if location != "" {
			at = location + "/" + at
		}
		if _, ok := pkgs[at]; ok {
			return at
		}
		if location == "" {
			return ""
		}
		location = around(location)
	}
}

func bundledInside(pkgs object, location string) bool {
	for l := around(location); l != ""; l = around(l) {
		if e, ok := pkgs[l].(object); ok {
			if in, _ := e.boolean("inBundle"); !in {
				return true
			}
		}
	}
	return false
}

// ParseIntegrity reads a Subresource Integrity string ("sha512-…", W3C SRI
// 3.1 with npm's lists) and returns its sha512. Weaker hashes beside it are
// not looked at; alone they are refused, because a sha1 can be forged.
func ParseIntegrity(s string) (oci.Digest, error) {
	if strings.TrimSpace(s) == "" {
		return "", fmt.Errorf("has no integrity: remove node_modules and package-lock.json and run npm install")
	}
	var found oci.Digest
	var others []string
	for word := range strings.FieldsSeq(s) {
		algorithm, value, _ := strings.Cut(word, "-")
		if algorithm != "sha512" {
			others = append(others, algorithm)
			continue
		}
		value, _, _ = strings.Cut(value, "?") // options, SRI 3.1
		raw, err := base64.StdEncoding.Strict().DecodeString(value)
		if err != nil || len(raw) != 64 {
			return "", fmt.Errorf("has an integrity that is damaged: %q", word)
		}
		d := digest.NewDigestFromEncoded(digest.SHA512, hex.EncodeToString(raw))
		if found != "" && found != d {
			return "", fmt.Errorf("has two different sha512 integrities: %q", s)
		}
		found = d
	}
	if found == "" {
		return "", fmt.Errorf("has only a %s integrity, and sha512 is required: remove this entry's \"integrity\" and run npm install, or ask for a newer version", strings.Join(others, ", "))
	}
	return found, nil
}

// Integrity is the Subresource Integrity string of a digest, as npm writes it.
func Integrity(d oci.Digest) string {
	raw, err := hex.DecodeString(d.Encoded())
	if err != nil {
		return ""
	}
	return d.Algorithm().String() + "-" + base64.StdEncoding.EncodeToString(raw)
}

// Resolved lists the tarball addresses that a lock records, by "name@version".
// They are hints of where bytes may be and never enter twinhull.lock, which
// names no registry.
func Resolved(name string, data []byte) (map[string]string, error) {
	doc, err := parseJSON(name, data)
	if err != nil {
		return nil, err
	}
	pkgs, err := doc.object("packages")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	all := make(map[string]string)
	// Sorted, so that the same lock gives the same hints: two locations of one
	// version may record two addresses.
	for _, location := range slices.Sorted(maps.Keys(pkgs)) {
		e, ok := pkgs[location].(object)
		if !ok || location == "" {
			continue
		}
		folder, err := splitLocation(location)
		if err != nil {
			continue // ReadLock says so
		}
		n, _ := e.str("name")
		if n == "" {
			n = folder
		}
		v, _ := e.str("version")
		r, _ := e.str("resolved")
		if strings.HasPrefix(r, "https://") || strings.HasPrefix(r, "http://") {
			if _, seen := all[n+"@"+v]; !seen {
				all[n+"@"+v] = r
			}
		}
	}
	return all, nil
}

// WithoutResolved returns the lock with every `resolved` address of registry
// packages removed, so that npm asks whatever registry it is given: with the
// addresses, npm would go to the machine where the lock was made. The order of
// keys becomes alphabetical, which npm does not mind.
func WithoutResolved(name string, data []byte) ([]byte, error) {
	doc, err := parseJSON(name, data)
	if err != nil {
		return nil, err
	}
	pkgs, err := doc.object("packages")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for location, v := range pkgs {
		if e, ok := v.(object); ok && location != "" {
			delete(e, "resolved")
		}
	}
	delete(doc, "dependencies") // the lockfileVersion 1 half of version 2, which repeats the addresses
	out, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return append(out, '\n'), nil
}
