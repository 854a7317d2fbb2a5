package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Key names repeatable work by the hash of its complete description: the kind
// of work, the version of the code that does it, and everything that it reads.
// Work with the same key gives the same bytes, so a key that is known is work
// that need not be done.
type Key string

// keyOf hashes a description. Descriptions are plain structs of strings,
// numbers, slices and maps; encoding/json writes those in one way only.
func keyOf(kind string, version int, description any) Key {
	b, err := json.Marshal(description)
	if err != nil {
		panic(fmt.Sprintf("build: description of %s cannot be encoded: %v", kind, err)) // a programming error: descriptions are plain data
	}
	h := sha256.New()
	fmt.Fprintf(h, "twinhull %s %d\n", kind, version)
	h.Write(b)
	return Key(hex.EncodeToString(h.Sum(nil)))
}
