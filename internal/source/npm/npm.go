// Package npm knows the npm registry's words: package-lock.json, package
// versions and their tarballs, tool pins and engine ranges. It reads a lock
// into project.NPMTree, says which packages an `npm ci` installs, serves the
// locked bytes to the real npm through a loopback registry, and proves
// afterwards that installed files are the bytes of the locked tarballs.
//
// It is not a package manager and never resolves a range to a version: npm
// does the installing, in the sandbox, and what npm made is checked here. It
// makes no connection of its own; whoever calls it brings the download
// function and the store. Package fetch downloads, package vault keeps,
// package build puts the parts together.
package npm

import (
	_ "crypto/sha512" // so that go-digest knows sha512
	"os"

	"twinhull.dev/twinhull/internal/oci"
)

// Vault is what this package needs of the content-addressed store: the
// verified bytes of a digest. Package vault is one.
type Vault interface {
	Open(d oci.Digest) (*os.File, error)
}
