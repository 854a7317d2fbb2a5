package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// emptyDigest is the SHA-256 of no bytes.
var emptyDigest = digest.FromBytes(nil)

// contentReader copies the bytes of entries. Entries of a layer lie in a few
// cached tar files, so it keeps some of them open and reads at offsets.
type contentReader struct {
	ctx    context.Context
	passed func(n int64) // told about every piece; may be nil
	files  map[string]*os.File
	oldest []string // names in the order in which they were opened
	buf    []byte
	hash   hash.Hash
}

// maxOpenFiles bounds the files that one layer keeps open.
const maxOpenFiles = 16

// copySize is the buffer of one layer's copying, in bytes.
const copySize = 256 << 10

func newContentReader(ctx context.Context, passed func(int64)) *contentReader {
	return &contentReader{ctx: ctx, passed: passed, files: make(map[string]*os.File), buf: make([]byte, copySize), hash: sha256.New()}
}

func (c *contentReader) close() {
	for _, f := range c.files {
		f.Close()
	}
	clear(c.files)
}

func (c *contentReader) open(name string) (*os.File, error) {
	if f := c.files[name]; f != nil {
		return f, nil
	}
	if len(c.oldest) >= maxOpenFiles {
		c.files[c.oldest[0]].Close()
		delete(c.files, c.oldest[0])
		c.oldest = c.oldest[1:]
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	c.files[name] = f
	c.oldest = append(c.oldest, name)
	return f, nil
}

// copyTo writes exactly e.Size bytes and compares them with e.Digest.
func (c *contentReader) copyTo(w io.Writer, e *filetree.Entry) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.hash.Reset()
	if e.Content.File == "" {
		if int64(len(e.Content.Data)) != e.Size {
			return pathError(e.Path, "has %d bytes, its header says %d", len(e.Content.Data), e.Size)
		}
		c.hash.Write(e.Content.Data)
		if err := c.check(e); err != nil {
			return err
		}
		_, err := w.Write(e.Content.Data)
		c.tell(e.Size)
		return err
	}
	f, err := c.open(e.Content.File)
	if err != nil {
		return fmt.Errorf("bytes of %s: %w: %w", e.Path, err, ErrCacheDamaged)
	}
	for done := int64(0); done < e.Size; {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		p := c.buf[:min(int64(len(c.buf)), e.Size-done)]
		n, err := f.ReadAt(p, e.Content.Offset+done)
		if n < len(p) {
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("bytes of %s: %s ends after %d of %d: %w", e.Path, e.Content.File, done+int64(n), e.Size, ErrCacheDamaged)
			}
			return fmt.Errorf("bytes of %s: %w", e.Path, err)
		}
		if e.Digest != "" {
			c.hash.Write(p)
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
		c.tell(int64(n))
		done += int64(n)
	}
	return c.check(e)
}

func (c *contentReader) tell(n int64) {
	if c.passed != nil {
		c.passed(n)
	}
}

// check compares what was hashed with the recorded digest.
func (c *contentReader) check(e *filetree.Entry) error {
	if e.Digest == "" {
		return nil
	}
	if got := digest.NewDigest(digest.SHA256, c.hash); got != e.Digest {
		where := e.Content.File
		if where == "" {
			where = "memory"
		}
		return fmt.Errorf("bytes of %s in %s have digest %s, recorded is %s: %w", e.Path, where, got, e.Digest, ErrCacheDamaged)
	}
	return nil
}

func (c *contentReader) checkEmpty(e *filetree.Entry) error {
	if e.Content.File == "" && len(e.Content.Data) != 0 {
		return pathError(e.Path, "has %d bytes, its header says 0", len(e.Content.Data))
	}
	c.hash.Reset()
	return c.check(e)
}

// contentDigest is the SHA-256 of a regular file: the recorded one, else that
// of its bytes.
func contentDigest(e *filetree.Entry) (oci.Digest, error) {
	switch {
	case e.Digest != "":
		if !isSHA256(e.Digest) {
			return "", pathError(e.Path, "recorded digest %q is no SHA-256 digest", string(e.Digest))
		}
		return e.Digest, nil
	case e.Content.File == "":
		return digest.FromBytes(e.Content.Data), nil
	case e.Size == 0:
		return emptyDigest, nil
	}
	r, err := e.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	d, err := digest.FromReader(r)
	if err != nil {
		return "", fmt.Errorf("bytes of %s: %w", e.Path, err)
	}
	return d, nil
}

// isSHA256 reports whether d is "sha256:" and 64 lower-case hexadecimal digits;
// go-digest's Validate runs a regular expression, for every file of a build.
func isSHA256(d oci.Digest) bool {
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	if !ok || len(hex) != 64 {
		return false
	}
	for i := range len(hex) {
		if c := hex[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}
