// Package image makes OCI images out of file trees and reads them back.
//
// Its first half turns entries of package filetree into layers: a tar stream
// that depends on nothing but the entries (tar.go), compressed by a fixed
// compressor (codec.go), named before it is written (Key) and kept so that an
// unchanged layer is never written twice (Cache). Plan divides two trees into
// layers so that the images share what they have in common; Builder.Build adds
// configuration and manifest; CopyLayout, WriteDockerArchive and Push deliver
// the result. Its second half opens an image wherever it is (Open) and unpacks
// it without trusting it (Unpack).
//
// It does not decide what belongs in an image, reads no clock, and never holds
// a layer in memory. doc/images.md has the format and the rules of determinism.
package image

import (
	"errors"
	"fmt"
)

// Assembler is the version of the rules that turn entries into bytes. It is
// part of every layer's Key and pinned in the lock; golden digests guard it.
// Whatever changes the bytes of any layer, manifest or configuration (tar
// encoding, compressor, level, block size, field order) raises it.
const Assembler = 1

// ErrCacheDamaged is matched by content that no longer is what it was when its
// digest was recorded.
var ErrCacheDamaged = errors.New("cache damaged: run `twinhull vault verify`")

// ErrLimit is matched when an image exceeds a limit of the reader.
var ErrLimit = errors.New("limit exceeded")

// A pathError says which path of a tree cannot be in a layer, and why.
func pathError(path, format string, a ...any) error {
	return fmt.Errorf("image path %q: %s", path, fmt.Sprintf(format, a...))
}
