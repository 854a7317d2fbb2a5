package image

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// Cache keeps layers by Key: blobs/sha256/HEX are the layers' bytes,
// keys/KEY.json says which blob a key means. Both are complete or absent, the
// blob first, so that a key that can be read leads to a whole layer. Several
// processes may use one folder: they write the same bytes under the same names.
type Cache struct {
	dir  string
	slot chan struct{} // one for each layer being written

	mu      sync.Mutex
	running map[string]*writing
}

type writing struct {
	done chan struct{}
	blob LayerBlob
	err  error
}

// OpenCache makes or opens the cache in dir, which must be on a local file
// system. A folder shared with a Layout's file system makes LinkBlob cheap.
func OpenCache(dir string) (*Cache, error) {
	for _, sub := range []string{"keys", "blobs/sha256"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("layer cache: %w", err)
		}
	}
	return &Cache{dir: dir, slot: make(chan struct{}, runtime.GOMAXPROCS(0)), running: make(map[string]*writing)}, nil
}

// BlobPath is the file of a layer that Layer returned.
func (c *Cache) BlobPath(d oci.Digest) string {
	return filepath.Join(c.dir, "blobs", "sha256", d.Encoded())
}

func (c *Cache) keyPath(key string) string { return filepath.Join(c.dir, "keys", key+".json") }

// Lookup finds a layer by its key. A key whose blob is gone or has another
// size counts as absent; contents are checked by Verify and by every reader,
// not here, because an unchanged build must not read what it does not write.
func (c *Cache) Lookup(key string) (LayerBlob, bool) {
	b, err := os.ReadFile(c.keyPath(key))
	if err != nil {
		return LayerBlob{}, false
	}
	var blob LayerBlob
	if json.Unmarshal(b, &blob) != nil || blob.check() != nil {
		return LayerBlob{}, false
	}
	fi, err := os.Lstat(c.BlobPath(blob.Digest))
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != blob.Size {
		return LayerBlob{}, false
	}
	return blob, true
}

// check refuses a record that was not written by this program.
func (b LayerBlob) check() error {
	for _, d := range []oci.Digest{b.DiffID, b.Digest} {
		if err := d.Validate(); err != nil {
			return err
		}
		if d.Algorithm() != digest.SHA256 {
			return fmt.Errorf("%s: want sha256", d)
		}
	}
	return b.Codec.valid()
}

// Layer returns the layer of the entries, written now when the cache does not
// have it; hit says that it did. wrote, which may be nil, is called with the
// number of content bytes as they pass. Two callers with the same key share the
// work.
func (c *Cache) Layer(ctx context.Context, entries []*filetree.Entry, codec Codec, wrote func(int64)) (blob LayerBlob, hit bool, err error) {
	sorted, err := order(entries)
	if err != nil {
		return LayerBlob{}, false, err
	}
	k, err := key(sorted, codec)
	if err != nil {
		return LayerBlob{}, false, err
	}
	for {
		if blob, ok := c.Lookup(k); ok {
			return blob, true, nil
		}
		c.mu.Lock()
		w, mine := c.running[k], false
		if w == nil {
			w, mine = &writing{done: make(chan struct{})}, true
			c.running[k] = w
		}
		c.mu.Unlock()
		if mine {
			w.blob, w.err = c.write(ctx, k, sorted, codec, wrote)
			c.mu.Lock()
			delete(c.running, k)
			c.mu.Unlock()
			close(w.done)
			return w.blob, false, w.err
		}
		select {
		case <-ctx.Done():
			return LayerBlob{}, false, ctx.Err()
		case <-w.done:
		}
		// The other caller's interrupt is not ours: begin again.
		if w.err == nil || !(errors.Is(w.err, context.Canceled) || errors.Is(w.err, context.DeadlineExceeded)) {
			return w.blob, false, w.err
		}
	}
}

func (c *Cache) write(ctx context.Context, key string, sorted []*filetree.Entry, codec Codec, wrote func(int64)) (LayerBlob, error) {
	select {
	case c.slot <- struct{}{}:
		defer func() { <-c.slot }()
	case <-ctx.Done():
		return LayerBlob{}, ctx.Err()
	}
	// The blob's name is known only when it is complete.
	f, err := os.CreateTemp(filepath.Join(c.dir, "blobs", "sha256"), durable.TempPrefix+"*")
	if err != nil {
		return LayerBlob{}, fmt.Errorf("layer cache: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	// The lock tells durable.Sweep that the temporary is in use.
	if err := durable.Flock(ctx, f, true, nil); err != nil {
		return LayerBlob{}, fmt.Errorf("layer cache: %w", err)
	}
	contents := newContentReader(ctx, wrote)
	defer contents.close()
	buf := bufio.NewWriterSize(f, copySize)
	blob, err := assemble(buf, sorted, codec, contents)
	if err == nil {
		err = buf.Flush()
	}
	if err == nil {
		err = f.Chmod(0o444) // linked into layouts: never changed again
	}
	if err != nil {
		return LayerBlob{}, fmt.Errorf("write a layer: %w", err)
	}
	if err := durable.CommitFile(f.Name(), c.BlobPath(blob.Digest)); err != nil {
		return LayerBlob{}, fmt.Errorf("layer cache: %w", err)
	}
	b, err := json.Marshal(blob)
	if err != nil {
		return LayerBlob{}, err
	}
	if err := durable.WriteFile(c.keyPath(key), append(b, '\n'), 0o644); err != nil {
		return LayerBlob{}, fmt.Errorf("layer cache: %w", err)
	}
	return blob, nil
}

// Verify reads every layer and removes those whose bytes do not have their
// digest, and keys that lead nowhere; the next build writes them again. It
// returns what it removed.
func (c *Cache) Verify(ctx context.Context) (removed []string, err error) {
	dir := filepath.Join(c.dir, "blobs", "sha256")
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		want := digest.NewDigestFromEncoded(digest.SHA256, n.Name())
		if want.Validate() != nil {
			continue // a temporary of a writer
		}
		path := filepath.Join(dir, n.Name())
		f, err := os.Open(path)
		if err != nil {
			return removed, err
		}
		got, err := digest.FromReader(readerWithContext{ctx, f})
		f.Close()
		if err != nil {
			return removed, err
		}
		if got != want {
			if err := os.Remove(path); err != nil {
				return removed, err
			}
			removed = append(removed, path)
		}
	}
	return c.prune(removed, func(string, LayerBlob) bool { return true })
}

// Prune removes the layers whose keys are not wanted and blobs that no key
// leads to. Layouts that linked a blob keep it. Other processes that write
// layers at the same moment may have to write one again.
func (c *Cache) Prune(wanted func(key string) bool) error {
	_, err := c.prune(nil, func(key string, _ LayerBlob) bool { return wanted(key) })
	if err != nil {
		return err
	}
	keep := make(map[string]bool)
	keys, err := os.ReadDir(filepath.Join(c.dir, "keys"))
	if err != nil {
		return err
	}
	for _, n := range keys {
		if blob, ok := c.Lookup(strings.TrimSuffix(n.Name(), ".json")); ok {
			keep[blob.Digest.Encoded()] = true
		}
	}
	dir := filepath.Join(c.dir, "blobs", "sha256")
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if durable.IsTemp(n.Name()) || keep[n.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(dir, n.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// prune removes keys that lead nowhere or are not wanted.
func (c *Cache) prune(removed []string, wanted func(string, LayerBlob) bool) ([]string, error) {
	names, err := os.ReadDir(filepath.Join(c.dir, "keys"))
	if err != nil {
		return removed, err
	}
	for _, n := range names {
		key, ok := strings.CutSuffix(n.Name(), ".json")
		if !ok || durable.IsTemp(n.Name()) {
			continue
		}
		if blob, ok := c.Lookup(key); ok && wanted(key, blob) {
			continue
		}
		if err := os.Remove(c.keyPath(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		removed = append(removed, c.keyPath(key))
	}
	return removed, nil
}

// readerWithContext ends a long read when its context does.
type readerWithContext struct {
	ctx context.Context
	r   io.Reader
}

func (r readerWithContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
