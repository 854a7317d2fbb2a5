// Package memory keeps a registry in memory: the twin of the stores that keep it,
// with the same behaviour, for tests and for trying things out.
//
// It is complete and safe for use by many at once, but nothing of it is durable:
// what it acknowledges lives as long as the process does.
package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

// New makes an empty store. Closing its Records does nothing.
func New() store.Store {
	c := &content{blobs: map[oci.Digest]blob{}, uploads: map[string]*upload{}}
	return store.Store{Records: &records{}, Blobs: c, Uploads: c}
}

// records are a tree that is never changed in place: a view keeps the root of its
// moment, and a transaction builds a new root beside it.
type records struct {
	writing sync.Mutex // held by the one transaction that writes, so all are serial
	root    atomic.Pointer[node]
}

func (r *records) View(ctx context.Context, f func(store.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f(&transaction{root: r.root.Load()})
}

func (r *records) Update(ctx context.Context, f func(store.Transaction) error) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	tx := &transaction{root: r.root.Load()}
	if err := f(tx); err != nil {
		return err
	}
	r.root.Store(tx.root)
	return nil
}

func (r *records) Close() error { return nil }

type transaction struct{ root *node }

func (tx *transaction) Get(key []byte) ([]byte, bool, error) {
	if n := tx.root.find(key); n != nil {
		return n.value, true, nil
	}
	return nil, false, nil
}

func (tx *transaction) Scan(prefix, after []byte) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		tx.root.scan(prefix, after, func(n *node) bool {
			return yield(store.Record{Key: n.key, Value: n.value}, nil)
		})
	}
}

func (tx *transaction) Put(key, value []byte) error {
	if err := store.CheckRecord(key, value); err != nil {
		return err
	}
	tx.root = tx.root.put(&node{key: bytes.Clone(key), value: append([]byte{}, value...), weight: weigh(key)})
	return nil
}

func (tx *transaction) Delete(key []byte) error {
	if tx.root.find(key) != nil {
		tx.root = tx.root.remove(key)
	}
	return nil
}

// content is both the blobs and the uploads. Finished content is never changed, so
// readers share its bytes.
type content struct {
	mu      sync.Mutex
	blobs   map[oci.Digest]blob
	uploads map[string]*upload
}

type blob struct {
	bytes  []byte
	stored time.Time
}

type upload struct {
	working    sync.Mutex // whoever appends or commits; content.mu guards the fields
	bytes      []byte
	changed    time.Time
	committing oci.Digest
}

type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

func (c *content) get(d oci.Digest) (blob, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.blobs[d]
	if !ok {
		return blob{}, fmt.Errorf("content %q: %w", string(d), store.ErrNotFound)
	}
	return b, nil
}

func (c *content) Open(_ context.Context, d oci.Digest) (*store.Blob, error) {
	b, err := c.get(d)
	if err != nil {
		return nil, err
	}
	return &store.Blob{Content: reader{bytes.NewReader(b.bytes)}, Size: int64(len(b.bytes))}, nil
}

func (c *content) Size(_ context.Context, d oci.Digest) (int64, error) {
	b, err := c.get(d)
	return int64(len(b.bytes)), err
}

func (c *content) Delete(_ context.Context, ds ...oci.Digest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range ds {
		delete(c.blobs, d)
	}
	return nil
}

func (c *content) List(ctx context.Context) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		c.mu.Lock()
		all := maps.Clone(c.blobs)
		c.mu.Unlock()
		for d, b := range all {
			if !yield(store.Info{Digest: d, Size: int64(len(b.bytes)), Stored: b.stored}, nil) {
				return
			}
		}
	}
}

func (c *content) Create(context.Context) (string, error) {
	id := store.NewID()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uploads[id] = &upload{changed: time.Now()}
	return id, nil
}

// work takes an upload for one worker, until done.
func (c *content) work(id string) (u *upload, done func(), err error) {
	if err := store.CheckID(id); err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	u, ok := c.uploads[id]
	if !ok {
		return nil, nil, fmt.Errorf("upload %s: %w", id, store.ErrNotFound)
	}
	if !u.working.TryLock() {
		return nil, nil, fmt.Errorf("upload %s: %w", id, store.ErrBusy)
	}
	return u, u.working.Unlock, nil
}

func (c *content) Append(ctx context.Context, id string, at int64, r io.Reader) (int64, error) {
	u, done, err := c.work(id)
	if err != nil {
		return 0, err
	}
	defer done()
	size := int64(len(u.bytes))
	if u.committing != "" {
		return size, fmt.Errorf("upload %s: %w", id, store.ErrCommitted)
	}
	if at != size {
		return size, fmt.Errorf("upload %s has %d bytes, not %d: %w", id, size, at, store.ErrOffset)
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		c.mu.Lock()
		// A listing reads the length only, so what lies behind it may change.
		u.bytes = append(u.bytes, buf[:n]...)
		u.changed = time.Now()
		size = int64(len(u.bytes))
		c.mu.Unlock()
		if err == io.EOF {
			return size, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return size, fmt.Errorf("upload %s: %w", id, err)
		}
	}
}

func (c *content) Status(_ context.Context, id string) (store.Upload, error) {
	if err := store.CheckID(id); err != nil {
		return store.Upload{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	u, ok := c.uploads[id]
	if !ok {
		return store.Upload{}, fmt.Errorf("upload %s: %w", id, store.ErrNotFound)
	}
	return u.status(id), nil
}

func (u *upload) status(id string) store.Upload {
	return store.Upload{ID: id, Size: int64(len(u.bytes)), Changed: u.changed, Committing: u.committing}
}

func (c *content) Commit(_ context.Context, id string, d oci.Digest) (int64, error) {
	u, done, err := c.work(id)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := store.CheckDigest(d); err != nil {
		return 0, fmt.Errorf("upload %s: %w", id, err)
	}
	if u.committing != "" && u.committing != d {
		return 0, fmt.Errorf("upload %s as %s: %w", id, u.committing, store.ErrCommitted)
	}
	if got := d.Algorithm().FromBytes(u.bytes); got != d {
		return 0, fmt.Errorf("upload %s: %w: %s, not %s", id, store.ErrDigest, got, d)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	u.committing = d
	if _, ok := c.blobs[d]; !ok {
		c.blobs[d] = blob{u.bytes, time.Now()}
	}
	return int64(len(u.bytes)), nil
}

func (c *content) Discard(_ context.Context, id string) error {
	_, done, err := c.work(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer done()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.uploads, id)
	return nil
}

func (c *content) Uploads(context.Context) iter.Seq2[store.Upload, error] {
	return func(yield func(store.Upload, error) bool) {
		c.mu.Lock()
		all := make([]store.Upload, 0, len(c.uploads))
		for id, u := range c.uploads {
			all = append(all, u.status(id))
		}
		c.mu.Unlock()
		for _, u := range all {
			if !yield(u, nil) {
				return
			}
		}
	}
}
