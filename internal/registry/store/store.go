// Package store is where a registry keeps what it keeps, as three narrow
// interfaces: records in transactions (Records), content by its digest (Blobs),
// and content that is still arriving (Uploads).
//
// It knows no repository, tag or rule: package registry writes those as records,
// once, so that every implementation governs alike. Implementations are the
// packages below it (memory, files, postgres, s3), and all of them pass package
// storetest. What an implementation acknowledges is durable, as its package says.
package store

import (
	"context"
	"crypto/rand"
	_ "crypto/sha256" // digests are of these two
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
)

// Errors that every implementation returns, possibly wrapped.
var (
	ErrNotFound   = errors.New("not found")               // no such content or upload
	ErrOffset     = errors.New("not where the upload is") // Append at another offset than the upload's size
	ErrDigest     = errors.New("content has another digest")
	ErrBusy       = errors.New("upload is being written") // two writers of one upload
	ErrCommitted  = errors.New("upload was committed")    // Append to it, or Commit as something else
	ErrReadOnly   = errors.New("store is read-only")
	ErrFull       = errors.New("no space left in the store")
	ErrDamaged    = errors.New("stored data is damaged")
	ErrConflict   = errors.New("transaction was overtaken")  // only when repeating did not help
	ErrUnusableID = errors.New("not an upload's identifier") // always together with ErrNotFound
	ErrTooLarge   = errors.New("key or value is too large, or the key is empty")
	ErrClosed     = errors.New("store is closed")
)

// Limits of Records, in bytes.
const (
	MaxKey   = 1500
	MaxValue = 16 << 20
)

// Records is an ordered map from keys to values, changed in transactions that
// are serializable: each sees the outcome of those that were committed before
// it, and nothing of others.
//
// Keys are 1 to MaxKey bytes of anything and are ordered bytewise; values are at
// most MaxValue bytes (ErrTooLarge).
type Records interface {
	// View calls f with a view of one moment. f must not keep the transaction, nor
	// any slice that it got from it.
	View(ctx context.Context, f func(Reader) error) error

	// Update calls f and, when f returns nil, makes its changes durable together
	// before it returns. An error of f is returned as it is and nothing changes.
	// f may be called more than once (an implementation may find at the end that
	// it was overtaken) and must set, not accumulate, what it hands out.
	Update(ctx context.Context, f func(Transaction) error) error

	Close() error
}

// Reader reads in a transaction.
type Reader interface {
	// Get returns the value of a key and whether there is one. The slice is valid
	// until the transaction ends and must not be changed.
	Get(key []byte) ([]byte, bool, error)

	// Scan goes through the records whose keys begin with prefix and are greater
	// than after (nil: from the first), in order. It must not be used while the
	// transaction writes; collect first. An error ends it.
	Scan(prefix, after []byte) iter.Seq2[Record, error]
}

// Record is a key and its value; both are valid until the transaction ends.
type Record struct{ Key, Value []byte }

// Transaction reads and writes. It reads what it wrote. The store copies what it
// is given.
type Transaction interface {
	Reader
	Put(key, value []byte) error
	Delete(key []byte) error // of a key that is absent: nothing
}

// Blobs is content by its digest, sha256 or sha512; of any other digest there is
// no content. There is only content whose digest was verified when it was
// committed.
//
// Delete beside a Commit of the same digest happens before it or after it. Whoever
// deletes must know that nobody is about to refer to the content.
type Blobs interface {
	// Open returns the content; ErrNotFound when there is none.
	Open(ctx context.Context, d oci.Digest) (*Blob, error)

	// Size is the size of the content in bytes; ErrNotFound when there is none.
	Size(ctx context.Context, d oci.Digest) (int64, error)

	// Delete removes contents, durably when it returns; nothing for those that
	// there are not. Whoever reads one at this moment may read on. It takes many,
	// so that a collection pays for durability once a folder and not once a file.
	Delete(ctx context.Context, ds ...oci.Digest) error

	// List goes through all content in no particular order. What is committed or
	// deleted meanwhile may be in it or not.
	List(ctx context.Context) iter.Seq2[Info, error]
}

// Blob is opened content. Content is an *os.File where there is one, so that the
// kernel can send it.
type Blob struct {
	Content io.ReadSeekCloser
	Size    int64

	// URL is where a client may fetch the content itself for a short time; "" when
	// only the server can read it.
	URL string
}

// Info is one content of a listing.
type Info struct {
	Digest oci.Digest
	Size   int64
	Stored time.Time // when it was committed, as exactly as the store knows
}

// Uploads is content that arrives in parts. An upload is named by an identifier
// that nobody can guess; it outlives the process. After a power cut an upload that
// was not committed may be shorter or gone: Status tells, and clients resume there.
//
// One at a time works on an upload: the others get ErrBusy.
type Uploads interface {
	// Create begins an upload.
	Create(ctx context.Context) (id string, err error)

	// Append adds what r gives at offset at, which must be the upload's size
	// (ErrOffset otherwise, with nothing read), and returns the new size. When r
	// fails, what was read before is kept and the new size is returned with the
	// error, as the specification's resumed uploads need it.
	Append(ctx context.Context, id string, at int64, r io.Reader) (size int64, err error)

	// Status tells how far an upload is.
	Status(ctx context.Context, id string) (Upload, error)

	// Commit verifies that the upload's bytes have the digest (ErrDigest otherwise;
	// the upload stays) and makes them content, durably. The upload stays too, with
	// Upload.Committing set, until Discard: the caller refers to the content first.
	// So content that nobody refers to after a crash is always found through its
	// upload. Committing twice is as once; a committed upload takes nothing more and
	// becomes nothing else (ErrCommitted).
	Commit(ctx context.Context, id string, d oci.Digest) (size int64, err error)

	// Discard forgets an upload; nothing when there is none.
	Discard(ctx context.Context, id string) error

	// Uploads goes through all uploads.
	Uploads(ctx context.Context) iter.Seq2[Upload, error]
}

// Upload is how far one upload is.
type Upload struct {
	ID         string
	Size       int64
	Changed    time.Time  // when it was last written
	Committing oci.Digest // what it was committed as; "" when it was not. A crash may leave it before the content is there
}

// Store is all three of one installation. Records and content may be kept in
// different places (PostgreSQL and a bucket).
type Store struct {
	Records Records
	Blobs   Blobs
	Uploads Uploads
}

// CheckDigest tells whether content may have the digest, as an error that is
// ErrDigest.
func CheckDigest(d oci.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%w: %q: %w", ErrDigest, string(d), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("%w: %q: want sha256 or sha512", ErrDigest, string(d))
	}
	return nil
}

// NewID makes an identifier of an upload that nobody can guess.
func NewID() string { return rand.Text() }

// CheckID refuses what NewID cannot have made, so that no identifier is ever a
// path. The error is ErrUnusableID and ErrNotFound.
func CheckID(id string) error {
	ok := len(id) >= 26 && len(id) <= 64
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = 'A' <= c && c <= 'Z' || '2' <= c && c <= '7' // RFC 4648 base32, section 6
	}
	if !ok {
		return fmt.Errorf("upload: %w: %w", ErrNotFound, ErrUnusableID)
	}
	return nil
}

// CheckRecord refuses keys and values beyond the limits.
func CheckRecord(key, value []byte) error {
	if len(key) == 0 || len(key) > MaxKey {
		return fmt.Errorf("%w: a key of %d bytes, want 1 to %d", ErrTooLarge, len(key), MaxKey)
	}
	if len(value) > MaxValue {
		return fmt.Errorf("%w: a value of %d bytes for %.100q, want at most %d", ErrTooLarge, len(value), key, MaxValue)
	}
	return nil
}
