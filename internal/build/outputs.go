package build

import (
	"io"
	"os"

	"twinhull.dev/twinhull/internal/oci"
)

// OpenOutput opens a file that a step left, by its digest, from the cache folder
// of Config.CacheDir. The reader verifies (oci.VerifyReader). It matches
// fs.ErrNotExist when the cache lost it: the step then has to run again.
func OpenOutput(cacheDir string, o OutputFile) (io.ReadCloser, error) {
	if err := o.SHA256.Validate(); err != nil {
		return nil, err
	}
	f, err := os.Open(newCache(cacheDir).filePath(o.SHA256))
	if err != nil {
		return nil, err
	}
	return oci.VerifyReader(f, o.SHA256, o.Size), nil
}
