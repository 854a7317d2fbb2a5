package inspect

import (
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// FactsVersion is the version of Facts as JSON.
const FactsVersion = 1

// Facts is what the bytes of one image show. It is plain data: equal bytes give
// equal Facts.
type Facts struct {
	Version  int           `json:"version"` // FactsVersion
	Digest   oci.Digest    `json:"digest"`  // of the manifest; of the configuration for a docker-archive, which has no manifest
	Platform oci.Platform  `json:"platform"`
	Created  *time.Time    `json:"created,omitempty"` // as the configuration says
	Zone     ZoneMarkers   `json:"zone"`
	Config   Config        `json:"config"`
	Layers   []Layer       `json:"layers"`   // bottom first
	Size     int64         `json:"size"`     // bytes of the layers as they are stored
	Files    int           `json:"files"`    // regular files of the final file system; further names of one count once
	Unpacked int64         `json:"unpacked"` // their bytes
	OS       OSRelease     `json:"os,omitzero"`
	Ready    Readiness     `json:"ready"`
	Packages []Package     `json:"packages"`     // by type, name, version, location
	Runtimes []Interpreter `json:"interpreters"` // of the final file system, by path
	Findings []Finding     `json:"findings"`     // by rule, path, subject

	// Errors says what could not be read; each is a Finding of RuleUnreadable
	// too. Complete says that every byte of every layer was read and had its
	// digest: its zero value must refuse.
	Errors   []string `json:"errors,omitempty"`
	Complete bool     `json:"complete"`

	// Tree is the final file system by path, when Options.Tree asked for it.
	Tree []File `json:"-"`
}

// ZoneMarkers are the places in an image that name its zone. "" means that the
// place says nothing. A docker-archive has no annotation.
type ZoneMarkers struct {
	Label      string `json:"label"`      // config label oci.ZoneKey
	Annotation string `json:"annotation"` // manifest annotation oci.ZoneKey
	History    string `json:"history"`    // as Twinhull's own history entries say; "mixed" when they differ
	Agree      bool   `json:"agree"`      // label and annotation name the same zone, and history does not name another
}

// Config is the part of the image's configuration that decides how it runs
// (image-spec config.md).
type Config struct {
	Digest     oci.Digest        `json:"digest,omitempty"`
	User       string            `json:"user"`
	UID        int               `json:"uid"` // resolved by the image's /etc/passwd; -1 when it cannot be
	GID        int               `json:"gid"` // -1 when it cannot be resolved
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        []string          `json:"env,omitempty"` // secrets in it are replaced by "[redacted]"
	Ports      []string          `json:"ports,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	StopSignal string            `json:"stopSignal,omitempty"`
	Volumes    []string          `json:"volumes,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"` // secrets redacted, as in Env
	History    []string          `json:"history,omitempty"`
	// Writable are the paths of the label dev.twinhull.writable.
	Writable []string `json:"writable,omitempty"`
}

// Layer is one layer of the image.
type Layer struct {
	Digest   oci.Digest `json:"digest"`
	DiffID   oci.Digest `json:"diffID"`
	Size     int64      `json:"size"`     // bytes as stored
	Unpacked int64      `json:"unpacked"` // bytes of the tar stream
	Files    int        `json:"files"`    // regular files that it brings
	Bytes    int64      `json:"bytes"`    // of those files
	Hidden   int64      `json:"hidden"`   // of those, bytes that higher layers delete or replace
	Created  string     `json:"createdBy,omitempty"`
}

// OSRelease is what /etc/os-release says.
type OSRelease struct {
	ID        string `json:"id,omitempty"` // "debian", "alpine"
	VersionID string `json:"versionID,omitempty"`
	Name      string `json:"name,omitempty"` // PRETTY_NAME
}

// Readiness are facts about running, for a reader to weigh; what is wrong is a
// Finding as well.
type Readiness struct {
	Program    string `json:"program,omitempty"`     // the file that the runtime starts, links followed; "" when there is none
	Script     string `json:"script,omitempty"`      // the file that the interpreter is told to run, when it could be told
	Runtime    string `json:"interpreter,omitempty"` // the interpreter that the program is: "node"; "" for a compiled program
	Static     bool   `json:"static,omitempty"`      // the program needs no dynamic linker
	CABundle   string `json:"caBundle,omitempty"`    // its path
	TimeZones  bool   `json:"timeZones"`
	PasswdName string `json:"passwdName,omitempty"` // the run user's name in /etc/passwd
	Programs   int    `json:"programs"`             // ELF programs whose closure was checked
	Libraries  int    `json:"libraries"`
}

// Interpreter is a program that runs programs.
type Interpreter struct {
	Name       string     `json:"name"` // "node", "python", "perl"
	Path       string     `json:"path"`
	Layer      oci.Digest `json:"layer"`
	Entrypoint bool       `json:"entrypoint,omitempty"` // the entry point runs on it
}

// Types of Package, as package URLs name them.
const (
	Deb      = "deb"
	Apk      = "apk"
	RPM      = "rpm"
	NPM      = "npm"
	PyPI     = "pypi"
	Golang   = "golang"
	Cargo    = "cargo"
	Gem      = "gem"
	Composer = "composer"
	Maven    = "maven"
)

// Package is an installed package or a module that was linked in.
type Package struct {
	Type     string     `json:"type"` // one of the constants above
	Name     string     `json:"name"` // "@scope/name", "group:artifact", "vendor/name" as the ecosystem writes it
	Version  string     `json:"version"`
	Arch     string     `json:"arch,omitempty"`
	Source   string     `json:"source,omitempty"` // Debian: source package, with its version when that differs: "glibc 2.36-9"
	Licence  string     `json:"licence,omitempty"`
	PURL     string     `json:"purl"`
	Location string     `json:"location"` // absolute path of the file that names it
	Layer    oci.Digest `json:"layer"`
	Size     int64      `json:"size,omitempty"` // bytes of its files in the image, when they are known
}

// File is one path of the final file system.
type File struct {
	Path   string     `json:"path"` // relative, clean
	Type   byte       `json:"type"` // a tar.Type… constant; hard links are tar.TypeLink for all names but the first
	Mode   int64      `json:"mode"` // permission bits with set-user-id, set-group-id and sticky
	UID    int        `json:"uid"`
	GID    int        `json:"gid"`
	Size   int64      `json:"size,omitempty"`
	Link   string     `json:"link,omitempty"`   // symlink target, or path of the first name
	SHA256 oci.Digest `json:"sha256,omitempty"` // regular files
	Layer  int        `json:"layer"`            // index in Facts.Layers
}
