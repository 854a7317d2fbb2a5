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
	"errors"
	"io"
	"iter"
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// Errors that every implementation returns, possibly wrapped.
var (
	ErrNotFound   = errors.New("not found")               // no such content or upload
	ErrOffset     = errors.New("not where the upload is") // Append at another offset than the upload's size
	ErrDigest     = errors.New("content has another digest")
	ErrBusy       = errors.New("upload is being written") // two writers of one upload
	ErrReadOnly   = errors.New("store is read-only")
	ErrFull       = errors.New("no space left in the store")
	ErrDamaged    = errors.New("stored data is damaged")
	ErrConflict   = errors.New("transaction was overtaken") // only when repeating did not help
	ErrUnusableID = errors.New("not an upload's identifier")
)

// Records is an ordered map from keys to values, changed in transactions that
// are serializable: each sees the outcome of those that were committed before
// it, and nothing of others.
//
// Keys are 1 to 1,500 bytes of anything and are ordered bytewise; values are at
// most 16 MiB.
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

// Blobs is content by its digest, sha256 or sha512. There is only content whose
// digest was verified when it was committed.
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
// that nobody can guess; it outlives the process.
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
	// upload. Committing twice is as once.
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
	Committing oci.Digest // what it was last committed as; "" when it never was
}

// Store is all three of one installation. Records and content may be kept in
// different places (PostgreSQL and a bucket).
type Store struct {
	Records Records
	Blobs   Blobs
	Uploads Uploads
}
