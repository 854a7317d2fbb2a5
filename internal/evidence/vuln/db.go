package vuln

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
)

// The file, so that a look-up reads one place of it:
//
//	magic
//	blocks   sorted pairs, some 64 KiB of them together, each block compressed
//	index    for each block: where it is, its SHA-256, its first key
//	status   JSON
//	footer   where index and status are, and the SHA-256 of both together
//
// That last digest stands for the whole file: it covers the index, which covers
// every block. A pair is a key (ecosystem, name, id, each ended by a zero byte)
// and an entry as JSON.
const (
	fileName   = "osv.db"
	magic      = "twinhull osv 1\n\x00"
	footerSize = 8*4 + sha256.Size + len(magic)
	blockSize  = 64 << 10  // of pairs, before compression
	maxEntry   = 24 << 20  // bytes of an entry: a record and what repeating it costs
	maxKey     = 2 << 10   // bytes of a key
	maxBlock   = 64 << 20  // bytes of a block, unpacked: one pair may be larger than blockSize
	maxIndex   = 128 << 20 // bytes of the index
	maxStatus  = 4 << 20   // bytes of the status
)

// ErrNoDatabase is part of the error of Open when nothing was imported.
var ErrNoDatabase = errors.New("no vulnerability database")

func makeKey(ecosystem, name, id string) []byte {
	return []byte(ecosystem + "\x00" + name + "\x00" + id + "\x00")
}

// block is a line of the index.
type block struct {
	first    []byte // key of its first pair
	at       int64
	length   int // as stored
	unpacked int
	sum      [sha256.Size]byte
}

// fileWriter writes the file front to back.
type fileWriter struct {
	w     io.Writer
	at    int64
	zstd  *zstd.Encoder
	pairs []byte // of the block that is being filled
	first []byte
	index []byte
	names int
	last  []byte // package of the last key
}

func newFileWriter(w io.Writer) (*fileWriter, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	f := &fileWriter{w: w, zstd: enc}
	return f, f.write([]byte(magic))
}

func (f *fileWriter) write(b []byte) error {
	n, err := f.w.Write(b)
	f.at += int64(n)
	return err
}

func (f *fileWriter) add(key, value []byte) error {
	if len(key) > maxKey || len(value) > maxEntry {
		return fmt.Errorf("%q: %d bytes, more than %d", printableKey(key), len(value), maxEntry)
	}
	if i := bytes.LastIndexByte(key[:len(key)-1], 0); !bytes.Equal(f.last, key[:i]) {
		f.last = append(f.last[:0], key[:i]...)
		f.names++
	}
	if len(f.pairs) > 0 && len(f.pairs)+len(key)+len(value) > blockSize {
		if err := f.endBlock(); err != nil {
			return err
		}
	}
	if len(f.pairs) == 0 {
		f.first = append(f.first[:0], key...)
	}
	f.pairs = binary.AppendUvarint(f.pairs, uint64(len(key)))
	f.pairs = binary.AppendUvarint(f.pairs, uint64(len(value)))
	f.pairs = append(append(f.pairs, key...), value...)
	return nil
}

func (f *fileWriter) endBlock() error {
	if len(f.pairs) == 0 {
		return nil
	}
	at := f.at
	packed := f.zstd.EncodeAll(f.pairs, nil)
	sum := sha256.Sum256(packed)
	if err := f.write(packed); err != nil {
		return err
	}
	f.index = binary.AppendUvarint(f.index, uint64(at))
	f.index = binary.AppendUvarint(f.index, uint64(len(packed)))
	f.index = binary.AppendUvarint(f.index, uint64(len(f.pairs)))
	f.index = append(f.index, sum[:]...)
	f.index = binary.AppendUvarint(f.index, uint64(len(f.first)))
	f.index = append(f.index, f.first...)
	if len(f.index) > maxIndex {
		return fmt.Errorf("more records than one database holds")
	}
	f.pairs = f.pairs[:0]
	if cap(f.pairs) > 1<<20 {
		f.pairs = nil
	}
	return nil
}

// finish writes what comes behind the blocks and gives the whole file's digest.
func (f *fileWriter) finish(s Status) (oci.Digest, error) {
	if err := f.endBlock(); err != nil {
		return "", err
	}
	status, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	indexAt := f.at
	if err := f.write(f.index); err != nil {
		return "", err
	}
	statusAt := f.at
	if err := f.write(status); err != nil {
		return "", err
	}
	footer := make([]byte, 0, footerSize)
	for _, n := range []int64{indexAt, int64(len(f.index)), statusAt, int64(len(status))} {
		footer = le.AppendUint64(footer, uint64(n))
	}
	h := sha256.New()
	h.Write(f.index)
	h.Write(status)
	footer = append(h.Sum(footer), magic...)
	return digest.NewDigest(digest.SHA256, h), f.write(footer)
}

// DB is a database that is open for reading. Several goroutines may use it.
type DB struct {
	f      io.ReaderAt
	closer io.Closer
	zstd   *zstd.Decoder
	index  []block
	status Status
}

// Open opens the database in a folder. It reads the index and checks its digest;
// blocks are checked when they are read. The error is ErrNoDatabase when there is
// none: no database is not a database without findings.
func Open(dir string) (*DB, error) {
	path := filepath.Join(dir, fileName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s\nhint: import one: twinhull vulndb import PATH", ErrNoDatabase, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("vulnerability database: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("vulnerability database: %w", err)
	}
	db, err := read(f, fi.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w\nhint: import the database again: twinhull vulndb import PATH", path, err)
	}
	db.closer = f
	return db, nil
}

func read(r io.ReaderAt, size int64) (*DB, error) {
	if size < int64(len(magic)+footerSize) {
		return nil, errors.New("not a vulnerability database: too short")
	}
	head, footer := make([]byte, len(magic)), make([]byte, footerSize)
	if _, err := r.ReadAt(head, 0); err != nil {
		return nil, cut(err)
	}
	if _, err := r.ReadAt(footer, size-int64(footerSize)); err != nil {
		return nil, cut(err)
	}
	if string(head) != magic || string(footer[footerSize-len(magic):]) != magic {
		return nil, errors.New("not a vulnerability database of this version of the program")
	}
	var n [4]int64
	for i := range n {
		v := le.Uint64(footer[8*i:])
		if v > uint64(size) {
			return nil, errors.New("damaged: its footer points outside of the file")
		}
		n[i] = int64(v)
	}
	if n[1] > maxIndex || n[3] > maxStatus || n[0] < int64(len(magic)) || n[0]+n[1] != n[2] || n[2]+n[3]+int64(footerSize) != size {
		return nil, errors.New("damaged: its footer does not fit the file")
	}
	both := make([]byte, n[1]+n[3])
	if _, err := r.ReadAt(both, n[0]); err != nil {
		return nil, cut(err)
	}
	if sum := sha256.Sum256(both); !bytes.Equal(sum[:], footer[32:32+sha256.Size]) {
		return nil, errors.New("damaged: its index does not have its digest")
	}
	db := &DB{f: r}
	if err := strictjson.Unmarshal(both[n[1]:], &db.status); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	db.status.Digest = digest.FromBytes(both)
	db.status.Size = size
	if err := db.readIndex(both[:n[1]], n[0]); err != nil {
		return nil, err
	}
	var err error
	db.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderLowmem(true))
	return db, err
}

func (db *DB) readIndex(b []byte, end int64) error {
	damaged := errors.New("damaged: its index cannot be read")
	at := int64(len(magic))
	for len(b) > 0 {
		var v [4]uint64
		for i := range v {
			if i == 3 {
				if len(b) < sha256.Size {
					return damaged
				}
				// The digest stands before the key's length.
				db.index[len(db.index)-1].sum = [sha256.Size]byte(b)
				b = b[sha256.Size:]
			}
			x, k := binary.Uvarint(b)
			if k <= 0 {
				return damaged
			}
			v[i], b = x, b[k:]
			if i == 2 {
				if v[0] != uint64(at) || v[1] > uint64(end-at) || v[2] > maxBlock {
					return damaged
				}
				at += int64(v[1])
				db.index = append(db.index, block{at: int64(v[0]), length: int(v[1]), unpacked: int(v[2])})
			}
		}
		if v[3] == 0 || v[3] > maxKey || v[3] > uint64(len(b)) {
			return damaged
		}
		last := &db.index[len(db.index)-1]
		last.first, b = b[:v[3]], b[v[3]:]
		if n := len(db.index); n > 1 && bytes.Compare(db.index[n-2].first, last.first) >= 0 {
			return damaged
		}
	}
	if at != end {
		return damaged
	}
	return nil
}

// Close ends the reading.
func (db *DB) Close() error {
	db.zstd.Close()
	if db.closer == nil {
		return nil
	}
	return db.closer.Close()
}

// Status says what the database holds.
func (db *DB) Status() Status {
	s := db.status
	s.Sources = slices.Clone(s.Sources)
	return s
}

// Verify reads every block and checks its digest.
func (db *DB) Verify(ctx context.Context) error {
	for i := range db.index {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := db.block(i); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) block(i int) ([]byte, error) {
	b := &db.index[i]
	packed := make([]byte, b.length)
	if _, err := db.f.ReadAt(packed, b.at); err != nil {
		return nil, fmt.Errorf("vulnerability database: %w", cut(err))
	}
	if sha256.Sum256(packed) != b.sum {
		return nil, errors.New("vulnerability database: a block does not have its digest\nhint: import the database again: twinhull vulndb import PATH")
	}
	out, err := db.zstd.DecodeAll(packed, make([]byte, 0, b.unpacked))
	if err != nil || len(out) != b.unpacked {
		return nil, fmt.Errorf("vulnerability database: a block cannot be unpacked: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return out, nil
}

// reader looks packages up. Look-ups in the order of their keys unpack each
// block once. It is for one goroutine.
type reader struct {
	db    *DB
	at    int // of the block that is held, -1 for none
	pairs []byte
}

func (db *DB) reader() *reader { return &reader{db: db, at: -1} }

// entries gives all that is known of a package.
func (r *reader) entries(ecosystem, name string) iter.Seq2[*entry, error] {
	return func(yield func(*entry, error) bool) {
		prefix := []byte(ecosystem + "\x00" + name + "\x00")
		// The first pair may be in the last block that begins before it.
		i, exact := slices.BinarySearchFunc(r.db.index, prefix, func(b block, key []byte) int { return bytes.Compare(b.first, key) })
		if !exact && i > 0 {
			i--
		}
		for ; i < len(r.db.index); i++ {
			if bytes.Compare(r.db.index[i].first, prefix) > 0 && !bytes.HasPrefix(r.db.index[i].first, prefix) {
				return
			}
			if r.at != i {
				pairs, err := r.db.block(i)
				if err != nil {
					yield(nil, err)
					return
				}
				r.at, r.pairs = i, pairs
			}
			for rest := r.pairs; len(rest) > 0; {
				k, n := binary.Uvarint(rest)
				v, m := binary.Uvarint(rest[max(n, 0):])
				if n <= 0 || m <= 0 || k > uint64(len(rest)-n-m) || v > uint64(len(rest)-n-m)-k {
					yield(nil, errors.New("vulnerability database: a block cannot be read"))
					return
				}
				key := rest[n+m:][:k]
				value := rest[n+m:][k:][:v]
				rest = rest[n+m:][k+v:]
				if !bytes.HasPrefix(key, prefix) {
					if bytes.Compare(key, prefix) > 0 {
						return
					}
					continue
				}
				e := new(entry)
				if err := json.Unmarshal(value, e); err != nil {
					err = fmt.Errorf("vulnerability database: %s: %w", printableKey(key), err)
					yield(nil, err)
					return
				}
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

func printableKey(key []byte) string {
	return string(bytes.ReplaceAll(bytes.TrimRight(key, "\x00"), []byte{0}, []byte(" ")))
}
