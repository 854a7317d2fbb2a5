// Package gomod knows Go's words for dependencies: go.mod, go.sum, the module
// proxy protocol, module zips and the toolchain module. It turns a go.sum into
// project.GoModule entries whose every byte was checked against it, serves the
// locked bytes to the real go command as a loopback module proxy, and compares
// the modules in a built binary with the lock.
//
// It selects no versions: go.sum names them and the go command builds. It runs
// no version control program, so GOPROXY's "direct" ends in an explained
// error, and it opens no connection itself: the caller brings the download
// function and the store (packages fetch and vault).
package gomod

import (
	"errors"
	"io/fs"
	"os"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/source/fetch"
)

// Vault is what this package needs of the content-addressed store: the
// verified bytes of a digest. Package vault is one.
type Vault interface {
	Open(d oci.Digest) (*os.File, error)
}

// Put keeps bytes and returns their sha256. Package vault's PutBytes is one.
type Put func(data []byte) (oci.Digest, error)

// notFound tells the answers that let a comma in GOPROXY go on to the next
// proxy: 404 and 410, or a file that is not there.
func notFound(err error) bool {
	return fetch.IsNotFound(err) || errors.Is(err, fs.ErrNotExist)
}
