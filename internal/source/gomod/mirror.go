package gomod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// maxRefused bounds how many different refused requests a Mirror remembers.
const maxRefused = 1000

// Mirror is a module proxy of locked bytes, for the loopback interface of a
// step. To everything that is not in the lock, to checksum databases and to
// other methods it answers 404 with the reason: go.sum vouches for every byte
// already, so no database is needed. It listens nowhere by itself and checks
// no caller: bind it to 127.0.0.1 inside the sandbox.
type Mirror struct {
	vault   Vault
	modules map[string]map[string]project.GoModule // path → version

	mu      sync.Mutex
	served  map[string]bool
	refused map[string]bool
}

// NewMirror returns the proxy of the modules.
func NewMirror(vault Vault, modules []project.GoModule) *Mirror {
	m := &Mirror{
		vault:   vault,
		modules: make(map[string]map[string]project.GoModule),
		served:  make(map[string]bool),
		refused: make(map[string]bool),
	}
	for _, g := range modules {
		if m.modules[g.Path] == nil {
			m.modules[g.Path] = make(map[string]project.GoModule)
		}
		m.modules[g.Path][g.Version] = g
	}
	return m
}

// Record is what a step asked of a mirror, for the record of the build. Both
// lists are sorted and hold each request once: their order varies from run to
// run.
type Record struct {
	Served  []string `json:"served"`            // "path@version" of the zips read
	Refused []string `json:"refused,omitempty"` // "METHOD path", at most 1000
}

// Record returns what was asked so far.
func (m *Mirror) Record() Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Record{Served: slices.Sorted(maps.Keys(m.served)), Refused: slices.Sorted(maps.Keys(m.refused))}
}

func (m *Mirror) refuse(w http.ResponseWriter, r *http.Request, status int, format string, args ...any) {
	m.mu.Lock()
	if len(m.refused) < maxRefused {
		m.refused[r.Method+" "+r.URL.EscapedPath()] = true
	}
	m.mu.Unlock()
	http.Error(w, fmt.Sprintf(format, args...), status) // the go command shows a plain text body
}

// ServeHTTP answers the module proxy protocol
// (https://go.dev/ref/mod#goproxy-protocol).
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		m.refuse(w, r, http.StatusMethodNotAllowed, "this module proxy takes nothing")
		return
	}
	p := strings.TrimPrefix(r.URL.Path, "/")
	if strings.HasPrefix(p, "sumdb/") {
		m.refuse(w, r, http.StatusNotFound, "no checksum database here: go.sum has the hash of everything that the lock names")
		return
	}
	escaped, file, ok := strings.Cut(p, "/@")
	path, err := module.UnescapePath(escaped)
	if !ok || err != nil {
		m.refuse(w, r, http.StatusNotFound, "%s is no address of a module proxy", p)
		return
	}
	versions := m.modules[path]
	if versions == nil {
		m.refuse(w, r, http.StatusNotFound, "%s is not in the lock: run go mod tidy and twinhull lock", path)
		return
	}
	file, inVersions := strings.CutPrefix(file, "v/")
	switch {
	case !inVersions && file == "latest":
		if v := highest(versions); v != "" {
			m.info(w, versions[v])
			return
		}
		m.refuse(w, r, http.StatusNotFound, "only go.mod files of %s are in the lock", path)
		return
	case inVersions && file == "list":
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		for _, v := range slices.Sorted(maps.Keys(versions)) {
			if versions[v].Zip != "" && !module.IsPseudoVersion(v) {
				fmt.Fprintln(w, v)
			}
		}
		return
	}
	dot := strings.LastIndexByte(file, '.')
	if !inVersions || dot < 0 {
		m.refuse(w, r, http.StatusNotFound, "%s is no address of a module proxy", p)
		return
	}
	version, err := module.UnescapeVersion(file[:dot])
	g, locked := versions[version]
	if err != nil || !locked {
		m.refuse(w, r, http.StatusNotFound, "%s@%s is not in the lock, which has %s: run go mod tidy and twinhull lock", path, version, strings.Join(slices.Sorted(maps.Keys(versions)), ", "))
		return
	}
	switch file[dot:] {
	case ".info":
		if g.Info == "" {
			m.info(w, g)
			return
		}
		m.file(w, r, g, g.Info, "application/json")
	case ".mod":
		m.file(w, r, g, g.Mod, "text/plain; charset=UTF-8")
	case ".zip":
		if g.Zip == "" {
			m.refuse(w, r, http.StatusNotFound, "go.sum has only the go.mod hash of %s@%s: run go mod tidy and twinhull lock", path, version)
			return
		}
		m.file(w, r, g, g.Zip, "application/zip")
	default:
		m.refuse(w, r, http.StatusNotFound, "%s is no address of a module proxy", p)
	}
}

func highest(versions map[string]project.GoModule) string {
	best := ""
	for _, v := range slices.Sorted(maps.Keys(versions)) {
		if versions[v].Zip != "" && (best == "" || semver.Compare(v, best) > 0) {
			best = v
		}
	}
	return best
}

// info makes the .info document. Its time is that of a pseudo-version; for
// others nothing that is locked tells it, and the go command does without.
func (m *Mirror) info(w http.ResponseWriter, g project.GoModule) {
	doc := struct {
		Version string
		Time    *time.Time `json:",omitempty"`
	}{Version: g.Version}
	if module.IsPseudoVersion(g.Version) {
		if t, err := module.PseudoVersionTime(g.Version); err == nil {
			doc.Time = &t
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc)
}

func (m *Mirror) file(w http.ResponseWriter, r *http.Request, g project.GoModule, d oci.Digest, kind string) {
	f, err := m.vault.Open(d)
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, fs.ErrNotExist) {
			status = http.StatusNotFound
		}
		m.refuse(w, r, status, "%s@%s: %v", g.Path, g.Version, err)
		return
	}
	defer f.Close()
	if d == g.Zip {
		m.mu.Lock()
		m.served[g.Path+"@"+g.Version] = true
		m.mu.Unlock()
	}
	w.Header().Set("Content-Type", kind)
	http.ServeContent(w, r, "", time.Time{}, f)
}

// Environment is what the go command needs to build from the mirror at an
// address ("http://127.0.0.1:3000") and nothing else: no checksum database, no
// version control, no other toolchain. cache is an absolute folder that is
// thrown away.
func Environment(address, cache string) map[string]string {
	return map[string]string{
		"GOPROXY":     address,
		"GONOPROXY":   "none", // GOPRIVATE of the user's settings would go around the proxy
		"GOPRIVATE":   "",
		"GOSUMDB":     "off",
		"GOVCS":       "*:off",
		"GOTOOLCHAIN": "local",
		"GOENV":       "off",
		"GOTELEMETRY": "off",
		"GOMODCACHE":  cache + "/mod",
		"GOCACHE":     cache + "/build",
		"GOFLAGS":     "-mod=readonly -modcacherw -buildvcs=false -trimpath",
	}
}
