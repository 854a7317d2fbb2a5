// Package project is what is asked: the project file (twinhull.yaml) and the
// lock (twinhull.lock) that names every input by hash.
//
// Reading is strict: an unknown or duplicated key, a wrong type or a value out
// of range is an error with file, line, column and the nearest right key, and
// a File or Lock that was returned is complete and valid. The package knows
// nothing of archives, images or the network; resolving a File into a Lock is
// the work of package build.
package project

import (
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// File is a project file. The two zones share one vocabulary (Spec) and
// inherit nothing from each other; Build between them names the steps whose
// declared artifacts are the only bytes that may cross.
type File struct {
	Path        string // where it was read from; its folder is the project's
	Name        string // repository name, [a-z0-9] separated by . _ - /
	Platforms   []oci.Platform
	Development Spec
	Build       Build
	Production  Spec
}

// Spec is the closed specification of one zone's image.
type Spec struct {
	Archive      string            // "debian/bookworm" or "debian/trixie"
	Packages     []string          // names, or name=version
	Exclude      map[string]string // package → reason: left out although something depends on it
	Dependencies Dependencies
	Artifacts    map[string]string // step output ("compile:dist" or "dist") → absolute path in the image
	Files        map[string]string // project path → absolute path in the image
	Environment  map[string]string
	User         User
	Workdir      string // absolute; also where the source is mounted in development
	Entrypoint   []string
	Command      []string
	Ports        []int    // TCP, 1-65535
	Writable     []string // absolute paths that stay writable under a read-only root
	Health       string   // HTTP path of the liveness probe, "" for none
	Ready        string   // HTTP path of the readiness probe, "" for none
	Labels       map[string]string

	// Production only; the parser refuses it in development.
	Keep []string // patterns of image paths, without the leading slash, that are kept although trimming leaves them out

	// Development only; the parser refuses them in production.
	Debugger int      // TCP port of the debugger, 0 for none
	Reload   []string // command of `twinhull run development`; Entrypoint and Command when empty
}

// User is the numeric identity that an image runs as. The zero User is root.
type User struct {
	Name   string // name in /etc/passwd
	ID     int    // 0-65534
	Group  string // name in /etc/group; Name when empty
	GID    int    // ID when the project file gives none
	Groups []int  // further numeric groups
}

// Dependencies are language dependencies, by the project's own lock files.
type Dependencies struct {
	NPM *NPM
	Go  *GoModules
}

// NPM asks for the packages of a package-lock.json (lockfileVersion 2 or 3).
type NPM struct {
	Lockfile    string // project path; package.json is its neighbour
	Development bool   // with devDependencies
	Into        string // absolute folder that receives node_modules
}

// GoModules asks for the modules of a go.sum. They are for steps: an image
// carries no module cache.
type GoModules struct {
	Module string // project path of go.mod; go.sum is its neighbour
}

// Build names the steps between the zones.
type Build struct {
	// Tools are those packages of the development zone that steps may see,
	// with what they depend on; every package of the zone when empty. A
	// smaller set makes steps independent of editors and debuggers: adding one
	// neither slows them nor runs them again.
	Tools []string
	Steps []Step // in the order of the file
}

// Step is one command run in the development image without a network.
type Step struct {
	Name        string
	Run         []string          // argument vector; a string in the file becomes {"/bin/sh", "-ec", string}
	Inputs      []string          // project paths or patterns (** crosses folders); a leading ! excludes
	After       []string          // "step:output" or "step": artifacts of earlier steps put at their project paths
	Outputs     []Output          // in byte order of their paths
	Environment map[string]string // added to the fixed environment
	Timeout     time.Duration     // 10 minutes when the file gives none
	Platform    string            // "host" (default): result serves every platform; "each": run once a platform with TWINHULL_OS, TWINHULL_ARCH
}

// Output is a declared output of a step.
type Output struct {
	Path string // project path, a file or a folder
	Kind string // artifact, coverage, junit, report
}

// Output kinds.
const (
	KindArtifact = "artifact" // may be placed in an image
	KindCoverage = "coverage" // lcov, Cobertura or Go cover profile
	KindJUnit    = "junit"    // JUnit XML
	KindReport   = "report"   // anything else worth keeping
)
