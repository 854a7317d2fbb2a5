package project

import (
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// LockVersion is the format that this program writes. A lock with a higher
// version is refused.
const LockVersion = 1

// Lock names every input of a project by hash. Two runs of `twinhull lock`
// over the same project file and the same archives write the same bytes.
type Lock struct {
	Version   int        `json:"version"`
	Assembler int        `json:"assembler"` // image.Assembler that made the golden digests
	Project   oci.Digest `json:"project"`   // of what the project file asks (File.Asked): a lock that does not fit is refused
	AsOf      time.Time  `json:"asOf"`      // newest date of the indexes used; the images' creation time (UTC, whole seconds)
	Archives  []Archive  `json:"archives"`
	Closures  []Closure  `json:"closures"`
	Packages  []Package  `json:"packages"` // sorted by name, architecture, version; each once
	NPM       []NPMTree  `json:"npm,omitempty"`
	Go        []GoModule `json:"go,omitempty"`
	Tools     []Tool     `json:"tools,omitempty"`
}

// Archive is one signed release that indexes were taken from. It names no
// mirror: pool paths and hashes are the same on all of them.
type Archive struct {
	Name       string     `json:"name"`  // "debian/trixie"
	Suite      string     `json:"suite"` // "trixie", "trixie-updates", "trixie-security"
	InRelease  oci.Digest `json:"inRelease"`
	SignedBy   []string   `json:"signedBy"` // fingerprints of the primary keys whose signatures were verified, upper-case hex
	Date       time.Time  `json:"date"`
	ValidUntil *time.Time `json:"validUntil,omitempty"`
	Indexes    []Index    `json:"indexes"`
}

// Index is one package index as the release lists it.
type Index struct {
	Path   string     `json:"path"` // "main/binary-amd64/Packages.xz"
	SHA256 oci.Digest `json:"sha256"`
	Size   int64      `json:"size"`
}

// Closure is the resolved package set of one zone on one platform.
type Closure struct {
	Set      string        `json:"set"` // "development", "tools" or "production"
	Platform oci.Platform  `json:"platform"`
	Packages []string      `json:"packages" lock:"lines"` // Package.ID values, sorted
	Omitted  []OmittedItem `json:"omitted,omitempty"`     // production only, sorted
}

// OmittedItem is a package that the closure would hold by its dependencies but
// does not.
type OmittedItem struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
	Needed string `json:"neededBy"` // the package whose dependency it was
}

// Package is one archive package by hash.
type Package struct {
	Name          string     `json:"name"`
	Version       string     `json:"version"`
	Arch          string     `json:"arch"` // amd64, arm64 or all
	Source        string     `json:"source"`
	SourceVersion string     `json:"sourceVersion"`
	Archive       string     `json:"archive"` // Archive.Name
	Suite         string     `json:"suite"`
	Path          string     `json:"path"` // pool path relative to the archive's root
	Size          int64      `json:"size"`
	SHA256        oci.Digest `json:"sha256"`
}

// ID is the package's name in a Closure: "name_version_arch".
func (p Package) ID() string { return p.Name + "_" + p.Version + "_" + p.Arch }

// NPMTree is what one package-lock.json asks for.
type NPMTree struct {
	Lockfile string       `json:"lockfile"` // project path
	SHA256   oci.Digest   `json:"sha256"`   // of the lock file's bytes
	Packages []NPMPackage `json:"packages"` // sorted by Location
}

// NPMPackage is one folder of node_modules.
type NPMPackage struct {
	Location  string     `json:"location"` // "node_modules/express"
	Name      string     `json:"name"`
	Version   string     `json:"version"`
	Integrity oci.Digest `json:"integrity"` // sha512:… as hex
	Dev       bool       `json:"dev,omitempty"`
	Optional  bool       `json:"optional,omitempty"`
	Scripts   bool       `json:"scripts,omitempty"` // has an install script
	OS        []string   `json:"os,omitempty"`
	CPU       []string   `json:"cpu,omitempty"`
	Libc      []string   `json:"libc,omitempty"`
}

// GoModule is one module version with everything a module proxy serves for it.
type GoModule struct {
	Path    string     `json:"path"`
	Version string     `json:"version"`
	Sum     string     `json:"sum,omitempty"` // h1:… of the zip as go.sum has it; empty when only the go.mod is needed
	ModSum  string     `json:"modSum"`        // h1:… of the go.mod
	Zip     oci.Digest `json:"zip,omitempty"`
	Mod     oci.Digest `json:"mod"`
	Info    oci.Digest `json:"info,omitempty"`
}

// Tool is a tool whose version the project pins and that comes from a language
// registry instead of the archive.
type Tool struct {
	Name     string       `json:"name"`    // "npm", "pnpm", "yarn", "go"
	Version  string       `json:"version"` // exact
	Platform oci.Platform `json:"platform,omitzero"`
	PinnedBy string       `json:"pinnedBy"` // "package.json packageManager", "go.mod toolchain"
	Path     string       `json:"path"`     // registry-relative address: "npm/-/npm-10.9.2.tgz", "golang.org/toolchain/@v/….zip"
	Digest   oci.Digest   `json:"digest"`   // sha512 of an npm tarball, sha256 of a module zip
	Size     int64        `json:"size,omitempty"`
	Sum      string       `json:"sum,omitempty"` // h1: of a module zip
}
