package deb

import (
	"bytes"
	"fmt"

	"twinhull.dev/twinhull/internal/source/xz"
)

// decompress reads an xz file of at most limit bytes when decompressed.
func decompress(data []byte, limit int64) ([]byte, error) {
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("it is not an xz file: %w", err)
	}
	return readAtMost(r, limit)
}
