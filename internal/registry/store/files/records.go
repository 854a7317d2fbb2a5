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
	"runtime"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"twinhull.dev/twinhull/internal/registry/store"
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
	err = guard(path, func() (err error) {
		r.db, err = bolt.Open(path, 0o640, &bolt.Options{
			ReadOnly:        readOnly,
			Timeout:         2 * time.Second, // the folder's lock is ours, so this is for other tools
			FreelistType:    bolt.FreelistMapType,
			InitialMmapSize: mapSize,
			NoStatistics:    true,
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
	if r.broken == nil {
		r.broken = fmt.Errorf("%s: %w", r.path, store.ErrClosed)
	}
	if r.stuck {
		return nil // the process's end frees the file
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
	tx := &transaction{reader: reader{r.path, b.bucket}, changes: map[string]change{}}
	if err := r.run(f, tx); err != nil || len(tx.changes) == 0 {
		if b.n == 0 {
			return nil, err
		}
		return b, err
	}
	b.n++
	if err := tx.apply(b); err != nil && b.failed == nil {
		b.failed = err // halfway in: nobody's can be committed
	}
	return b, nil
}

func (r *records) run(f func(store.Transaction) error, tx *transaction) (err error) {
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
		c := r.cursor(prefix, after)
		for c.key != nil {
			if !yield(store.Record{Key: c.key, Value: c.value}, nil) {
				return
			}
			c.next()
		}
		if c.err != nil {
			yield(store.Record{}, c.err)
		}
	}
}

// cursor goes through a range; key is nil at its end, and after an error.
type cursor struct {
	path       string
	c          *bolt.Cursor
	prefix     []byte
	key, value []byte
	err        error
}

func (r *reader) cursor(prefix, after []byte) *cursor {
	c := &cursor{path: r.path, prefix: prefix}
	c.move(func() ([]byte, []byte) {
		c.c = r.bucket.Cursor()
		if after == nil || bytes.Compare(after, prefix) < 0 {
			return c.c.Seek(prefix)
		}
		k, v := c.c.Seek(after)
		if bytes.Equal(k, after) {
			return c.c.Next()
		}
		return k, v
	})
	return c
}

func (c *cursor) next() { c.move(c.c.Next) }

func (c *cursor) move(step func() (k, sealed []byte)) {
	c.err = guard(c.path, func() (err error) {
		var sealed []byte
		c.key, sealed = step()
		if c.key == nil || !bytes.HasPrefix(c.key, c.prefix) {
			c.key = nil
			return nil
		}
		c.value, err = open(c.key, sealed)
		return err
	})
	if c.err != nil {
		c.key = nil
	}
}

// transaction is an overlay over what the batch has so far.
type transaction struct {
	reader
	changes map[string]change
	sorted  []string // the keys of changes; nil: not sorted yet
	bytes   int
}

type change struct {
	sealed []byte // nil: deleted
}

func (tx *transaction) Get(key []byte) ([]byte, bool, error) {
	if c, ok := tx.changes[string(key)]; ok {
		return c.value(), c.sealed != nil, nil
	}
	return tx.reader.Get(key)
}

func (c change) value() []byte {
	if c.sealed == nil {
		return nil
	}
	n := len(c.sealed) - sealSize
	return c.sealed[:n:n]
}

func (tx *transaction) Put(key, value []byte) error {
	if err := store.CheckRecord(key, value); err != nil {
		return err
	}
	tx.change(key, change{seal(key, value)})
	return nil
}

func (tx *transaction) Delete(key []byte) error {
	if len(key) > 0 {
		tx.change(key, change{})
	}
	return nil
}

func (tx *transaction) change(key []byte, c change) {
	n := len(tx.changes)
	tx.changes[string(key)] = c
	// What was sorted stays sorted: a long transaction that scans between its changes
	// would otherwise sort them all each time.
	if len(tx.changes) > n && tx.sorted != nil {
		i := sort.SearchStrings(tx.sorted, string(key))
		tx.sorted = slices.Insert(tx.sorted, i, string(key))
	}
	tx.bytes += len(key) + len(c.sealed)
}

func (tx *transaction) keys() []string {
	if tx.sorted == nil {
		tx.sorted = make([]string, 0, len(tx.changes))
		for k := range tx.changes {
			tx.sorted = append(tx.sorted, k)
		}
		slices.Sort(tx.sorted)
	}
	return tx.sorted
}

// Scan merges the transaction's own changes with what lies below.
func (tx *transaction) Scan(prefix, after []byte) iter.Seq2[store.Record, error] {
	if len(tx.changes) == 0 {
		return tx.reader.Scan(prefix, after)
	}
	return func(yield func(store.Record, error) bool) {
		own := tx.keys()
		from := string(prefix)
		if after != nil && string(after) >= from {
			from = string(after) + "\x00" // the next key that there can be
		}
		own = own[sort.SearchStrings(own, from):]
		below := tx.cursor(prefix, after)
		for {
			mine := len(own) > 0 && strings.HasPrefix(own[0], string(prefix))
			var rec store.Record
			switch {
			case below.err != nil:
				yield(store.Record{}, below.err)
				return
			case mine && (below.key == nil || own[0] <= string(below.key)):
				c := tx.changes[own[0]]
				rec = store.Record{Key: []byte(own[0]), Value: c.value()}
				if own[0] == string(below.key) {
					below.next()
				}
				own = own[1:]
				if c.sealed == nil {
					continue
				}
			case below.key != nil:
				rec = store.Record{Key: below.key, Value: below.value}
				below.next()
			default:
				return
			}
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// apply writes the changes into the batch.
func (tx *transaction) apply(b *batch) error {
	return guard(tx.path, func() error {
		for _, k := range tx.keys() {
			c := tx.changes[k]
			var err error
			if c.sealed == nil {
				err = b.bucket.Delete([]byte(k))
			} else {
				err = b.bucket.Put([]byte(k), c.sealed)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", tx.path, err)
			}
		}
		b.bytes += tx.bytes
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
			// bbolt checks in a goroutine of its own, whose panics would end the
			// process; walking all records first meets what would panic, here.
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
