package gomod

import (
	"encoding/base64"
	"fmt"
	"go/version"
	"maps"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

// Limits of the two files. Public monorepos stay below 10,000 lines of go.sum.
const (
	maxFile  = 32 << 20
	maxLines = 200_000
)

// toolchainModule is the module that the go command downloads toolchains as.
const toolchainModule = "golang.org/toolchain"

// Module is what a go.mod and its go.sum say.
type Module struct {
	Path      string // of the main module
	Go        string // "1.24.0"; "" when go.mod has no go line
	Toolchain string // "go1.24.3"; "" when go.mod has no toolchain line
	Sums      []Sum  // sorted by path and version
	// Toolchains are the h1 hashes of toolchain zips that go.sum has, by
	// version ("v0.0.1-go1.24.3.linux-amd64").
	Toolchains map[string]string
}

// Sum is one module version of go.sum.
type Sum struct {
	Path    string
	Version string
	Zip     string // h1 of the zip; "" when only the go.mod is needed
	Mod     string // h1 of the go.mod
}

// Read reads a go.mod and the go.sum beside it. It is stricter than the go
// command: a damaged line, a hash that is not h1, or two hashes for one thing
// are errors, since one of two readers would be misled. Errors begin with
// "go.mod:" or "go.sum:LINE:".
func Read(gomod, gosum []byte) (*Module, error) {
	if len(gomod) > maxFile || len(gosum) > maxFile {
		return nil, fmt.Errorf("go.mod or go.sum is larger than the %d bytes that are read", maxFile)
	}
	f, err := modfile.Parse("go.mod", gomod, nil)
	if err != nil {
		return nil, err
	}
	if f.Module == nil {
		return nil, fmt.Errorf("go.mod: no module line: run go mod init")
	}
	m := &Module{Path: f.Module.Mod.Path}
	if f.Go != nil {
		m.Go = f.Go.Version
	}
	if f.Toolchain != nil {
		m.Toolchain = f.Toolchain.Name
	}
	if err := m.readSums(string(gosum)); err != nil {
		return nil, err
	}
	// What go.mod asks for directly must be hashed, or go.sum is of an older
	// go.mod. What else is needed the go command finds out when it builds.
	have := make(map[module.Version]bool, len(m.Sums))
	for _, s := range m.Sums {
		have[module.Version{Path: s.Path, Version: s.Version}] = true
	}
	replaced := make(map[module.Version]module.Version)
	for _, r := range f.Replace {
		replaced[r.Old] = r.New
	}
	for _, r := range f.Require {
		v := r.Mod
		if n, ok := replaced[v]; ok {
			v = n
		} else if n, ok := replaced[module.Version{Path: v.Path}]; ok {
			v = n
		}
		if v.Version == "" {
			continue // replaced by a folder: source, not a dependency
		}
		if !have[v] {
			return nil, fmt.Errorf("go.sum is stale: it has no hash of %s, which go.mod requires: run go mod tidy", v)
		}
	}
	return m, nil
}

func (m *Module) readSums(text string) error {
	type sums struct{ zip, mod string }
	all := make(map[module.Version]*sums)
	m.Toolchains = make(map[string]string)
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		if n > maxLines {
			return fmt.Errorf("go.sum: more than %d lines", maxLines)
		}
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 3 {
			return fmt.Errorf("go.sum:%d: want a module path, a version and a hash, not %d words; run go mod tidy", n, len(fields))
		}
		v := module.Version{Path: fields[0], Version: fields[1]}
		ver, isMod := strings.CutSuffix(v.Version, "/go.mod")
		v.Version = ver
		if err := module.Check(v.Path, v.Version); err != nil {
			return fmt.Errorf("go.sum:%d: %w", n, err)
		}
		if module.CanonicalVersion(v.Version) != v.Version {
			return fmt.Errorf("go.sum:%d: %s is not a canonical version", n, v)
		}
		if err := checkH1(fields[2]); err != nil {
			return fmt.Errorf("go.sum:%d: %s: %w", n, v, err)
		}
		s := all[v]
		if s == nil {
			s = new(sums)
			all[v] = s
		}
		at := &s.zip
		if isMod {
			at = &s.mod
		}
		if *at != "" && *at != fields[2] {
			return fmt.Errorf("go.sum:%d: %s has a second, different hash: find out which is right, then run go mod tidy", n, v)
		}
		*at = fields[2]
	}
	for _, v := range slices.SortedFunc(maps.Keys(all), compareVersions) {
		s := all[v]
		if v.Path == toolchainModule {
			m.Toolchains[v.Version] = s.zip
			continue
		}
		if s.mod == "" {
			return fmt.Errorf("go.sum has no hash of the go.mod of %s: run go mod tidy", v)
		}
		m.Sums = append(m.Sums, Sum{Path: v.Path, Version: v.Version, Zip: s.zip, Mod: s.mod})
	}
	return nil
}

func compareVersions(a, b module.Version) int {
	if c := strings.Compare(a.Path, b.Path); c != 0 {
		return c
	}
	return strings.Compare(a.Version, b.Version)
}

// checkH1 accepts the one hash form that go.sum has: h1 and 32 bytes.
func checkH1(s string) error {
	value, ok := strings.CutPrefix(s, "h1:")
	if !ok {
		algorithm, _, _ := strings.Cut(s, ":")
		return fmt.Errorf("hash algorithm %q is not known; want h1", algorithm)
	}
	if raw, err := base64.StdEncoding.Strict().DecodeString(value); err != nil || len(raw) != 32 {
		return fmt.Errorf("hash %q is damaged", s)
	}
	return nil
}

// ToolchainPin is the Go release that a go.mod asks for.
type ToolchainPin struct {
	Version  string // "1.24.3"
	PinnedBy string // "go.mod toolchain" or "go.mod go"
}

// ToolchainPin says which release builds the module. A toolchain line is
// taken exactly. Without one ("toolchain default" is none) the go line names
// the oldest release that may build the module and that one is taken, because
// any newer would be a choice that changes with the day: "go 1.24.2" is go1.24.2,
// "go 1.24" is go1.24.0 (before 1.21 the first release had no zero: "go 1.20" is
// go1.20). Of both lines the higher counts, as for the go command. ok is false
// when there is neither.
func (m *Module) ToolchainPin() (pin ToolchainPin, ok bool, err error) {
	var byGo, byLine string
	if m.Go != "" {
		byGo = "go" + m.Go
		if !version.IsValid(byGo) {
			return pin, false, fmt.Errorf("go.mod: go %s is not a Go version", m.Go)
		}
		if version.Lang(byGo) == byGo && version.Compare(byGo, "go1.21") >= 0 {
			byGo += ".0"
		}
	}
	if m.Toolchain != "" && m.Toolchain != "default" {
		byLine = m.Toolchain
		if !version.IsValid(byLine) || strings.ContainsAny(byLine, "-+ ") {
			return pin, false, fmt.Errorf("go.mod: toolchain %s is not a Go release: a changed toolchain cannot be fetched; name a release, such as go1.24.3", byLine)
		}
	}
	switch {
	case byLine != "" && version.Compare(byLine, byGo) >= 0:
		return ToolchainPin{strings.TrimPrefix(byLine, "go"), "go.mod toolchain"}, true, nil
	case byGo != "":
		return ToolchainPin{strings.TrimPrefix(byGo, "go"), "go.mod go"}, true, nil
	}
	return pin, false, nil
}
