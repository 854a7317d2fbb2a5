package npm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// maxRefused bounds how many different refused requests a Mirror remembers.
const maxRefused = 1000

// Mirror is a read-only npm registry of locked bytes, for the loopback
// interface of a step. It serves the documents and tarballs of the packages it
// was given and answers 404, with the reason, to everything else: a step
// cannot reach what the lock does not name. The documents are generated from
// each tarball's own package.json, so nothing but the tarballs is trusted, and
// versions of which the vault has no tarball (other platforms) are not listed.
//
// It listens nowhere by itself and checks no caller: bind it to 127.0.0.1
// inside the sandbox.
type Mirror struct {
	table    *Table
	packages map[string]map[string]locked // name → version

	mu      sync.Mutex
	served  map[string]bool
	refused map[string]bool
}

type locked struct {
	integrity oci.Digest
	scripts   bool
}

// NewMirror returns the registry of pkgs (a tree's packages, or a Subset) and
// of those tools that come from an npm registry.
func NewMirror(table *Table, pkgs []project.NPMPackage, tools []project.Tool) *Mirror {
	m := &Mirror{
		table:    table,
		packages: make(map[string]map[string]locked),
		served:   make(map[string]bool),
		refused:  make(map[string]bool),
	}
	add := func(name, version string, l locked) {
		if m.packages[name] == nil {
			m.packages[name] = make(map[string]locked)
		}
		m.packages[name][version] = l
	}
	// Tools first: where a project depends on the version of npm that it pins,
	// the lock's entry is the one that its integrity was checked for.
	for _, t := range tools {
		if fromRegistry(t) {
			add(t.Name, t.Version, locked{integrity: t.Digest})
		}
	}
	for _, p := range pkgs {
		add(p.Name, p.Version, locked{integrity: p.Integrity, scripts: p.Scripts})
	}
	return m
}

// Record is what a step asked of a mirror, for the record of the build. Both
// lists are sorted and hold each request once, because the order and number of
// a package manager's requests vary from run to run.
type Record struct {
	Served  []string `json:"served"`            // "name@version" of the tarballs read
	Refused []string `json:"refused,omitempty"` // "METHOD path", at most 1000
}

// Record returns what was asked so far.
func (m *Mirror) Record() Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Record{
		Served:  slices.Sorted(maps.Keys(m.served)),
		Refused: slices.Sorted(maps.Keys(m.refused)),
	}
}

// refuse answers with npm's error form, an object with "error".
func (m *Mirror) refuse(w http.ResponseWriter, r *http.Request, status int, why string) {
	m.mu.Lock()
	if len(m.refused) < maxRefused {
		m.refused[r.Method+" "+r.URL.EscapedPath()] = true
	}
	m.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": why})
}

// ServeHTTP answers GET and HEAD of:
//
//	/NAME                   all locked versions of a package
//	/NAME/VERSION           one of them (or "latest", the highest)
//	/NAME/-/FILE.tgz        its tarball
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		status := http.StatusMethodNotAllowed
		if strings.HasPrefix(r.URL.Path, "/-/") {
			status = http.StatusNotFound // audits and the like: npm goes on without
		}
		m.refuse(w, r, status, "this registry serves the locked packages and takes nothing")
		return
	}
	name, rest := splitRequest(r.URL)
	versions := m.packages[name]
	if versions == nil {
		what := name
		if what == "" || what == "-" {
			what = r.URL.Path
		}
		m.refuse(w, r, http.StatusNotFound, fmt.Sprintf("%s is not in the lock: add it to package.json, then run npm install and twinhull lock", what))
		return
	}
	switch {
	case rest == "":
		m.document(w, r, name, versions)
	case strings.HasPrefix(rest, "-/"):
		for v, l := range versions {
			if TarballPath(name, v) == name+"/"+rest {
				m.tarball(w, r, name, v, l)
				return
			}
		}
		m.refuse(w, r, http.StatusNotFound, fmt.Sprintf("%s is not in the lock: it has %s %s", path.Base(rest), name, known(versions)))
	default:
		v := rest
		if v == "latest" {
			v = latest(slices.Collect(maps.Keys(versions)))
		}
		l, ok := versions[v]
		if !ok {
			m.refuse(w, r, http.StatusNotFound, fmt.Sprintf("%s@%s is not in the lock: it has %s %s", name, rest, name, known(versions)))
			return
		}
		d, err := m.version(r, name, v, l, false)
		m.answer(w, r, "application/json", d, err)
	}
}

// splitRequest finds the package name in a request, scoped names with their
// slash escaped or not. The name is "" for the root.
func splitRequest(u *url.URL) (name, rest string) {
	p, err := url.PathUnescape(u.EscapedPath())
	if err != nil {
		return "", ""
	}
	parts := strings.Split(strings.TrimPrefix(p, "/"), "/")
	n := 1
	if strings.HasPrefix(parts[0], "@") && len(parts) > 1 {
		n = 2
	}
	return strings.Join(parts[:n], "/"), strings.Join(parts[n:], "/")
}

func known(versions map[string]locked) string {
	return strings.Join(slices.Sorted(maps.Keys(versions)), ", ")
}

// latest is the highest release, or the highest prerelease when there is no
// release.
func latest(versions []string) string {
	best, bestVersion := "", (*semver.Version)(nil)
	slices.Sort(versions)
	for _, s := range versions {
		v, err := semver.StrictNewVersion(s)
		if err != nil {
			continue
		}
		if bestVersion == nil || (bestVersion.Prerelease() != "") == (v.Prerelease() != "") && v.GreaterThan(bestVersion) ||
			bestVersion.Prerelease() != "" && v.Prerelease() == "" {
			best, bestVersion = s, v
		}
	}
	return best
}

// abbreviated are the keys of package.json that an install document has
// (npm registry, package-metadata.md, "abbreviated version object").
var abbreviated = []string{
	"name", "version", "dependencies", "optionalDependencies", "devDependencies", "bundleDependencies",
	"bundledDependencies", "peerDependencies", "peerDependenciesMeta", "acceptDependencies", "bin", "directories",
	"engines", "os", "cpu", "libc", "funding", "deprecated",
}

// install is the media type that npm asks abbreviated documents with.
const install = "application/vnd.npm.install-v1+json"

// version is one version's document.
func (m *Mirror) version(r *http.Request, name, version string, l locked, short bool) (object, error) {
	c, err := m.table.Contents(l.integrity)
	if err != nil {
		return nil, err
	}
	man, err := readManifest(c.Manifest)
	if err != nil {
		return nil, err
	}
	d := make(object)
	if short {
		for _, k := range abbreviated {
			if v, ok := man.raw[k]; ok {
				d[k] = v
			}
		}
	} else {
		maps.Copy(d, man.raw)
	}
	// What the lock says goes over what the publisher wrote: npm compares.
	d["name"], d["version"], d["_id"] = name, version, name+"@"+version
	if len(man.Bin) > 0 {
		d["bin"] = man.Bin
	}
	if l.scripts {
		d["hasInstallScript"] = true
	}
	if _, ok := c.Files["npm-shrinkwrap.json"]; ok {
		d["_hasShrinkwrap"] = true
	}
	d["dist"] = map[string]string{
		"integrity": Integrity(l.integrity),
		"tarball":   "http://" + r.Host + "/" + TarballPath(name, version),
	}
	return d, nil
}

func (m *Mirror) document(w http.ResponseWriter, r *http.Request, name string, versions map[string]locked) {
	short := strings.Contains(r.Header.Get("Accept"), install)
	docs := make(map[string]object)
	for v, l := range versions {
		d, err := m.version(r, name, v, l, short)
		if errors.Is(err, fs.ErrNotExist) {
			continue // locked for another platform and not fetched
		}
		if err != nil {
			m.answer(w, r, "", nil, fmt.Errorf("%s@%s: %w", name, v, err))
			return
		}
		docs[v] = d
	}
	if len(docs) == 0 {
		m.refuse(w, r, http.StatusNotFound, fmt.Sprintf("%s is in the lock (%s) but no tarball of it was fetched: it is for other platforms or for development only", name, known(versions)))
		return
	}
	doc := object{
		"_id": name, "name": name, "versions": docs,
		"dist-tags": map[string]string{"latest": latest(slices.Collect(maps.Keys(docs)))},
	}
	kind := "application/json"
	if short {
		delete(doc, "_id")
		kind = install
	}
	m.answer(w, r, kind, doc, nil)
}

func (m *Mirror) answer(w http.ResponseWriter, r *http.Request, kind string, d object, err error) {
	var body []byte
	if err == nil {
		body, err = json.Marshal(d)
	}
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, fs.ErrNotExist) {
			status = http.StatusNotFound
		}
		m.refuse(w, r, status, err.Error())
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

func (m *Mirror) tarball(w http.ResponseWriter, r *http.Request, name, version string, l locked) {
	f, err := m.table.vault.Open(l.integrity)
	if err != nil {
		m.answer(w, r, "", nil, fmt.Errorf("%s@%s: %w", name, version, err))
		return
	}
	defer f.Close()
	m.mu.Lock()
	m.served[name+"@"+version] = true
	m.mu.Unlock()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
}
