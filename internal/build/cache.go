package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
)

// cache keeps what was made, by Key: records of actions, output files by
// their content, and folders. Losing it costs time, never correctness; a
// record that cannot be read is as good as none.
type cache struct {
	dir string
}

func (c cache) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

// record reads what an action left, into v. It reports whether there was one.
func (c cache) record(kind string, k Key, v any) bool {
	b, err := os.ReadFile(c.path("records", kind, string(k)+".json"))
	return err == nil && json.Unmarshal(b, v) == nil
}

// keep writes an action's record, after everything that it refers to.
func (c cache) keep(kind string, k Key, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	p := c.path("records", kind, string(k)+".json")
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(p, append(b, '\n'), 0o644)
}

func (c cache) filePath(d oci.Digest) string {
	h := d.Encoded()
	return c.path("files", h[:2], h)
}

// putFile stores a file's bytes under their SHA-256 and returns it.
func (c cache) putFile(from string) (oci.Digest, int64, error) {
	f, err := os.Open(from)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if err := os.MkdirAll(c.path("files"), 0o755); err != nil {
		return "", 0, err
	}
	tmp, err := os.CreateTemp(c.path("files"), ".new-*")
	if err != nil {
		return "", 0, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, h), f)
	if err != nil {
		return "", 0, fmt.Errorf("keeping %s: %w", filepath.Base(from), err)
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(h.Sum(nil)))
	to := c.filePath(d)
	if fi, err := os.Stat(to); err == nil && fi.Size() == n {
		return d, n, nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", 0, err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return "", 0, err
	}
	// Outputs can be made again, so their bytes are not synchronised one by
	// one; the size check above and the hash check on use catch a torn file.
	if err := tmp.Close(); err != nil {
		return "", 0, err
	}
	return d, n, os.Rename(tmp.Name(), to)
}

// hasFile tells whether bytes of this digest and size are kept.
func (c cache) hasFile(d oci.Digest, size int64) bool {
	fi, err := os.Stat(c.filePath(d))
	return err == nil && fi.Size() == size
}

// scratch makes a folder for work in progress, on the cache's file system so
// that results can be renamed into place. The caller removes it.
func (c cache) scratch(name string) (string, error) {
	if err := os.MkdirAll(c.path("tmp"), 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(c.path("tmp"), name+"-")
}

// folder returns the kept folder of a key, and whether it is there.
func (c cache) folder(kind string, k Key) (string, bool) {
	p := c.path(kind, string(k))
	fi, err := os.Stat(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, false
	}
	return p, err == nil && fi.IsDir()
}
