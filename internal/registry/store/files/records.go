package files

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/overlay"
)

// The buckets of the file, and what it says about itself.
var (
	recordsBucket = []byte("records")
	aboutBucket   = []byte("about")
	formatKey     = []byte("format")
	format        = []byte("twinhull records 1")
)

const (
	// Updates that share one commit, and the bytes that they write. More would make
	// the first wait for what it does not need.
	maxBatch      = 256
	maxBatchBytes = 8 << 20

	// The file is mapped at this size from the start (address space, not memory):
	// growing the map waits for all readers, and a backup reads for long.
	mapSize = 16 << 30
)

// records are the keys and values in one bucket.
//
// Updates take turns: each runs in the goroutine that called it, writing into an
// overlay over the one bbolt transaction of its batch, and goes into that when it
// succeeds. The last in line commits for all; those who come meanwhile are the next
// batch. So a single update waits for nobody, and many share the cost.
type records struct {
	path string
	db   *bolt.DB

	waiting atomic.Int32 // for turn
	turn    sync.Mutex   // guards all that follows
	batch   *batch       // nil: none has begun
	changed bool         // something was written since the file was opened
	broken  error        // why nothing can be written any more
	stuck   bool         // bbolt's writer is lost; closing would wait for it
}

type batch struct {
	tx     *bolt.Tx
	bucket *bolt.Bucket
	n      int   // updates in it
	bytes  int   // that they write
	failed error // why it cannot be committed

	done chan struct{}
	err  error // what all of them are told
}

func openRecords(path string, readOnly bool) (r *records, err error) {
	r = &records{path: path}
	defer func() {
		if err == nil {
			return
		}
		if r.db != nil {
			_ = guard(path, r.db.Close)
		}
		r = nil
	}()
	if err := verifyFile(path); err != nil {
		return r, err
	}
	err = guard(path, func() (err error) {
		r.db, err = bolt.Open(path, 0o640, &bolt.Options{
			ReadOnly:        readOnly,
			Timeout:         2 * time.Second, // the folder's lock is ours, so this is for other tools
			FreelistType:    bolt.FreelistMapType,
			InitialMmapSize: mapSize,
			NoStatistics:    true,
			// After a large collection the list of free pages is long, and every commit
			// would write all of it. close writes it, once; where there is none, bbolt
			// finds the free pages by walking the others.
			NoFreelistSync: true,
		})
		return err
	})
	switch {
	case errors.Is(err, bolt.ErrTimeout):
		return r, fmt.Errorf("%s: another program has it open: end that one", path)
	case errors.Is(err, bolt.ErrInvalid), errors.Is(err, bolt.ErrChecksum), errors.Is(err, bolt.ErrVersionMismatch),
		err != nil && strings.HasPrefix(err.Error(), "file size too small"):
		return r, damaged(path, err)
	case err != nil:
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, guard(path, func() error {
		if readOnly {
			return r.db.View(r.checkFormat)
		}
		// A transaction that changes nothing is written all the same: first look.
		if err := r.db.View(r.checkFormat); !errors.Is(err, errEmpty) {
			return err
		}
		return r.db.Update(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists(recordsBucket)
			if err != nil {
				return err
			}
			about, err := tx.CreateBucketIfNotExists(aboutBucket)
			if err != nil {
				return err
			}
			return about.Put(formatKey, format)
		})
	})
}

// verifyFile verifies what bbolt walks when it opens the file: the list of free
// pages, or all other pages when there is none, because its server did not come to
// its end.
func verifyFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return explain(err)
	}
	defer f.Close()
	if m, ok := readMeta(f); ok && m.freelist == noFreelist {
		err = verifyPages(f)
	} else {
		err = verifyFreelist(f)
	}
	if err != nil {
		return damaged(path, err)
	}
	return nil
}

// listFreePages writes which pages are free, so that whoever opens the file next
// need not find out. Nothing is lost without it, so nobody is told of a failure.
func (r *records) listFreePages() {
	_ = guard(r.path, func() error {
		r.db.NoFreelistSync = false
		return r.db.Update(func(*bolt.Tx) error { return nil })
	})
}

var errEmpty = errors.New("it holds nothing")

func (r *records) checkFormat(tx *bolt.Tx) error {
	about := tx.Bucket(aboutBucket)
	switch {
	case about == nil && tx.Bucket(recordsBucket) == nil:
		return errEmpty
	case about == nil || tx.Bucket(recordsBucket) == nil:
		return damaged(r.path, errors.New("a part of it is missing"))
	case !bytes.Equal(about.Get(formatKey), format):
		return fmt.Errorf("%s: its format is %q, this program knows %q: use the program that wrote it", r.path, about.Get(formatKey), format)
	}
	return nil
}

func (r *records) close() error {
	r.turn.Lock() // the last in line commits before it gives this back
	defer r.turn.Unlock()
	sound := r.broken == nil
	if sound {
		r.broken = fmt.Errorf("%s: %w", r.path, store.ErrClosed)
	}
	if r.stuck {
		return nil // the process's end frees the file
	}
	if sound && r.changed { // after a failed synchronisation nothing more is written
		r.listFreePages()
	}
	return guard(r.path, r.db.Close)
}

func (r *records) View(ctx context.Context, f func(store.Reader) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	var tx *bolt.Tx
	in := &reader{path: r.path}
	err = guard(r.path, func() (err error) {
		if tx, err = r.db.Begin(false); err == nil {
			in.bucket = tx.Bucket(recordsBucket)
		}
		return err
	})
	if err != nil {
		return explain(err)
	}
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		v := recover()
		_ = tx.Rollback()
		if v != nil {
			err = faulted(r.path, v) // or panics on
		}
	}()
	return f(in)
}

func (r *records) Update(ctx context.Context, f func(store.Transaction) error) error {
	b, err := r.takeTurn(ctx, f)
	if b == nil {
		return err
	}
	<-b.done
	if b.err != nil {
		return b.err
	}
	return err
}

// takeTurn runs f when it is its turn. The batch, if there is one, must be waited
// for: f is part of it, or has seen what is.
func (r *records) takeTurn(ctx context.Context, f func(store.Transaction) error) (_ *batch, err error) {
	r.waiting.Add(1)
	r.turn.Lock()
	r.waiting.Add(-1)
	defer r.endTurn() // also when f panics or ends its goroutine
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if r.broken != nil {
		return nil, r.broken
	}
	if r.batch == nil {
		if r.batch, err = r.begin(); err != nil {
			return nil, err
		}
	}
	b := r.batch
	tx := overlay.Over(&reader{r.path, b.bucket})
	if err := r.run(f, tx); err != nil || tx.Empty() {
		if b.n == 0 {
			return nil, err
		}
		return b, err
	}
	b.n++
	if err := b.apply(r.path, tx); err != nil && b.failed == nil {
		b.failed = err // halfway in: nobody's can be committed
	}
	return b, nil
}

func (r *records) run(f func(store.Transaction) error, tx *overlay.Transaction) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if v := recover(); v != nil {
			err = faulted(r.path, v)
		}
	}()
	return f(tx)
}

func (r *records) begin() (*batch, error) {
	b := &batch{done: make(chan struct{})}
	err := guard(r.path, func() (err error) {
		if b.tx, err = r.db.Begin(true); err != nil {
			return err
		}
		b.bucket = b.tx.Bucket(recordsBucket)
		return nil
	})
	switch {
	case errors.Is(err, bolt.ErrDatabaseReadOnly):
		return nil, fmt.Errorf("%s: %w", r.path, store.ErrReadOnly)
	case err != nil:
		return nil, explain(err)
	}
	return b, nil
}

// endTurn commits the batch when nobody waits who could still come into it.
func (r *records) endTurn() {
	defer r.turn.Unlock()
	b := r.batch
	if b == nil || r.waiting.Load() > 0 && b.failed == nil && b.n < maxBatch && b.bytes < maxBatchBytes {
		return
	}
	r.batch = nil
	b.err = r.commit(b)
	close(b.done)
}

func (r *records) commit(b *batch) error {
	if b.n == 0 || b.failed != nil {
		if err := guard(r.path, b.tx.Rollback); err != nil {
			r.broken, r.stuck = err, true
			return err
		}
		return b.failed
	}
	var finished bool
	err := guard(r.path, func() error {
		err := b.tx.Commit()
		finished = true
		return err
	})
	if err == nil {
		r.changed = true
		return nil
	}
	err = explain(fmt.Errorf("%s: %w", r.path, err))
	if !finished { // a panic: bbolt met what cannot be
		r.broken = err
		r.stuck = guard(r.path, b.tx.Rollback) != nil
		return err
	}
	// A write that failed left what is there untouched, and bbolt has gone back: a
	// full disk may have room again. Any other failure is one of synchronising, after
	// which nobody knows what is on the disk.
	var path *fs.PathError
	if !errors.As(err, &path) && !strings.Contains(err.Error(), "file resize error") {
		r.broken = fmt.Errorf("records cannot be written since this failed: %w; start the server again and check the disk", err)
	}
	return err
}

// reader reads in a transaction of bbolt.
type reader struct {
	path   string
	bucket *bolt.Bucket
}

func (r *reader) Get(key []byte) (value []byte, ok bool, err error) {
	err = guard(r.path, func() error {
		sealed := r.bucket.Get(key)
		if sealed == nil {
			return nil
		}
		ok = true
		value, err = open(key, sealed)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return value, ok, nil
}

func (r *reader) Scan(prefix, after []byte) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		var c *bolt.Cursor
		var rec store.Record
		// One function for all records: a listing has thousands.
		step := func() (err error) {
			var k, sealed []byte
			if c == nil {
				c = r.bucket.Cursor()
				k, sealed = c.Seek(overlay.First(prefix, after))
			} else {
				k, sealed = c.Next()
			}
			if rec.Key = k; k == nil || !bytes.HasPrefix(k, prefix) {
				rec = store.Record{}
				return nil
			}
			rec.Value, err = open(k, sealed)
			return err
		}
		for {
			err := guard(r.path, step)
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			if rec.Key == nil || !yield(rec, nil) {
				return
			}
		}
	}
}

// apply writes a transaction's changes into the batch.
func (b *batch) apply(path string, tx *overlay.Transaction) error {
	return guard(path, func() error {
		for k, v := range tx.Changes() {
			key := []byte(k)
			var err error
			if v == nil {
				err = b.bucket.Delete(key)
			} else {
				err = b.bucket.Put(key, seal(key, v))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		b.bytes += tx.Bytes()
		return nil
	})
}

// A sealed value ends with the CRC-32C of key and value, so that a rotten byte, or a
// page in the wrong place, is not taken for a record.
const sealSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

func seal(key, value []byte) []byte {
	sealed := make([]byte, 0, len(value)+sealSize)
	return binary.LittleEndian.AppendUint32(append(sealed, value...), checksum(key, value))
}

func open(key, sealed []byte) ([]byte, error) {
	n := len(sealed) - sealSize
	if n < 0 || binary.LittleEndian.Uint32(sealed[n:]) != checksum(key, sealed[:n]) {
		return nil, fmt.Errorf("the record %.200q has a wrong checksum: %w", key, store.ErrDamaged)
	}
	return sealed[:n:n], nil
}

// damaged is what bbolt cannot read.
func damaged(path string, err error) error {
	if errors.Is(err, store.ErrDamaged) {
		return err
	}
	return fmt.Errorf("%s: %w: %w: stop the server, keep a copy of the folder, and restore a backup", path, store.ErrDamaged, err)
}

// guard runs f, in which there is nothing but bbolt, whose answer to damage is
// often a panic, or a fault where the disk cannot give a page.
func guard(path string, f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if v := recover(); v != nil {
			err = damaged(path, fmt.Errorf("%v", v))
		}
	}()
	if err := f(); err != nil {
		if errors.Is(err, store.ErrDamaged) {
			return damaged(path, err)
		}
		return err
	}
	return nil
}

// faulted tells a fault in the mapped file, which whoever reads a value may meet,
// from a panic of the caller's, and panics on with that.
func faulted(path string, v any) error {
	fault, ok := v.(interface {
		runtime.Error
		Addr() uintptr
	})
	const firstPage = 4096 // nil pointers
	if ok && fault.Addr() >= firstPage {
		return damaged(path, fault)
	}
	panic(v)
}

func (r *records) backup(ctx context.Context, w io.Writer) error {
	err := guard(r.path, func() error {
		return r.db.View(func(tx *bolt.Tx) error {
			_, err := tx.WriteTo(contextWriter{ctx, w})
			return err
		})
	})
	return explain(err)
}

type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(b)
}

// check reads all pages and all records.
func (r *records) check(ctx context.Context) error {
	var errs []error
	add := func(err error) {
		if len(errs) < 20 { // damage is seldom alone
			errs = append(errs, err)
		}
	}
	err := guard(r.path, func() error {
		return r.db.View(func(tx *bolt.Tx) error {
			// Pages that were in use when this transaction began are not written to
			// while it lasts, nor are those of later ones.
			f, err := os.Open(r.path)
			if err != nil {
				return explain(err)
			}
			defer f.Close()
			if err := verifyPages(f); err != nil {
				return fmt.Errorf("%w: %w", store.ErrDamaged, err) // nothing of bbolt's can walk it
			}
			c := tx.Bucket(recordsBucket).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				if err := ctx.Err(); err != nil {
					return err
				}
				if _, err := open(k, v); err != nil {
					add(err)
				}
			}
			for err := range tx.Check() {
				add(fmt.Errorf("%w: %w", store.ErrDamaged, err))
			}
			return nil
		})
	})
	if err != nil {
		add(err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	return nil
}
