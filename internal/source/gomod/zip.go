package gomod

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"
)

// maxZipFiles bounds the number of files in a module zip. The Go toolchain has
// some 15,000.
const maxZipFiles = 200_000

// hashZip checks a module zip (golang.org/x/mod/zip, package comment: names
// below PATH@VERSION/, no two equal under case folding, sizes) and returns its
// h1 hash. archive/zip stops a member that is longer than its header says, so a
// bomb costs no more than modzip.MaxZipFile bytes of hashing.
func hashZip(v module.Version, r io.ReaderAt, size int64) (string, error) {
	z, err := openZip(v, r, size)
	if err != nil {
		return "", err
	}
	byName := make(map[string]*zip.File, len(z.File))
	names := make([]string, 0, len(z.File))
	for _, f := range z.File {
		// Folders too: dirhash counts every name in the zip.
		names = append(names, f.Name)
		byName[f.Name] = f
	}
	h, err := dirhash.Hash1(names, func(name string) (io.ReadCloser, error) { return byName[name].Open() })
	if err != nil {
		return "", fmt.Errorf("zip of %s is damaged: %w", v, err)
	}
	return h, nil
}

// openZip opens a module zip and checks names and declared sizes.
func openZip(v module.Version, r io.ReaderAt, size int64) (*zip.Reader, error) {
	fail := func(format string, args ...any) (*zip.Reader, error) {
		return nil, fmt.Errorf("zip of %s: %s", v, fmt.Sprintf(format, args...))
	}
	if size > modzip.MaxZipFile {
		return fail("%d bytes are more than the %d of a module", size, int64(modzip.MaxZipFile))
	}
	z, err := zip.NewReader(r, size)
	if err != nil {
		return fail("it is damaged: %v", err)
	}
	if len(z.File) > maxZipFiles {
		return fail("it has more than %d files", maxZipFiles)
	}
	prefix := v.Path + "@" + v.Version + "/"
	seen := make(map[string]string, len(z.File))
	left := uint64(modzip.MaxZipFile)
	for _, f := range z.File {
		rel, ok := strings.CutPrefix(f.Name, prefix)
		if !ok {
			return fail("%q is not below %s", f.Name, prefix)
		}
		name, isDir := strings.CutSuffix(rel, "/")
		if rel == "" {
			return fail("it names the module's own folder")
		}
		if err := module.CheckFilePath(name); err != nil {
			return fail("%v", err)
		}
		if isDir {
			if f.UncompressedSize64 != 0 {
				return fail("folder %q has bytes", f.Name)
			}
			continue
		}
		if !f.Mode().IsRegular() {
			return fail("%q is not a regular file", f.Name)
		}
		fold := strings.ToLower(strings.ToUpper(name))
		if other, twice := seen[fold]; twice {
			return fail("%q and %q are one name where case does not count", other, name)
		}
		seen[fold] = name
		if f.UncompressedSize64 > left {
			return fail("it unpacks to more than %d bytes", int64(modzip.MaxZipFile))
		}
		left -= f.UncompressedSize64
	}
	return z, nil
}

// hashMod is the h1 hash of a go.mod file, as go.sum has it.
func hashMod(data []byte) (string, error) {
	return dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
}
