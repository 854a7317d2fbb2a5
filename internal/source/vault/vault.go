// Package vault is the content-addressed store of every input byte: signed
// indexes, packages, dependency tarballs, module archives, each under its own
// digest, so that a lock and a vault are enough to build a project again.
//
// A file under its digest's name has been verified while it was written and is
// complete; a crash or a full disk leaves nothing there. Verify hashes
// everything again for the case that the disk lied later. The vault does not
// fetch (package fetch does), and holds nothing that was built: what can be
// made from inputs belongs to a cache of its own.
//
// The layout below the vault's folder, which is shared by all projects and by
// concurrent processes:
//
//	vault/sha256/ab/abcd…   a verified input, mode 0444
//	vault/sha512/ab/abcd…
//	vault/partial/          transfers under way or interrupted, and temporaries
//	vault/damaged/          what Verify found wrong and moved aside
//	vault/lock              held shared by users (Hold), exclusively by GC
package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "crypto/sha512" // so that go-digest can hash sha512
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
)

// Vault is an open vault. It is safe for use by several goroutines, and several
// processes may have the same vault open.
type Vault struct {
	dir string // …/vault, absolute
}

// DefaultDir is the cache folder that holds the vault when the user names none:
// $XDG_CACHE_HOME/twinhull, else ~/.cache/twinhull.
func DefaultDir() (string, error) {
	// A relative XDG_CACHE_HOME is to be ignored (XDG base directory
	// specification, "Basics").
	if dir := os.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "twinhull"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) {
		return "", errors.New("no folder for the cache: set HOME or XDG_CACHE_HOME, or use --cache-dir")
	}
	return filepath.Join(home, ".cache", "twinhull"), nil
}

// Open opens the vault in the cache folder dir and makes it when absent.
func Open(dir string) (*Vault, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	v := &Vault{dir: filepath.Join(abs, "vault")}
	if err := durable.MkdirAll(v.partialDir(), 0o755); err != nil {
		return nil, fmt.Errorf("open vault: %w; use --cache-dir to place it elsewhere", err)
	}
	// What crashed writers left. Not worth failing for.
	_ = durable.Sweep(v.partialDir(), 24*time.Hour)
	return v, nil
}

// Dir is the folder that holds the vault's files ("…/vault").
func (v *Vault) Dir() string { return v.dir }

func (v *Vault) partialDir() string { return filepath.Join(v.dir, "partial") }
func (v *Vault) damagedDir() string { return filepath.Join(v.dir, "damaged") }

// algorithms are the digests that inputs come with: sha256 from Debian and OCI,
// sha512 from npm.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// check refuses what is not a well-formed digest of a kind that the vault
// keeps; after it the digest is safe in a path.
func check(d oci.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", string(d), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("digest %q: want sha256 or sha512", string(d))
	}
	return nil
}

// Path is where the bytes of d are or would be; "" for a malformed digest,
// which no open call accepts. Use it to hand large files to readers that want a
// name; never write to it.
func (v *Vault) Path(d oci.Digest) string {
	if check(d) != nil {
		return ""
	}
	hex := d.Encoded()
	return filepath.Join(v.dir, d.Algorithm().String(), hex[:2], hex)
}

// Has tells whether the vault holds d. It looks at the name only: names are
// given after verification, and Verify is there for disks that forget.
func (v *Vault) Has(d oci.Digest) bool {
	st, err := os.Lstat(v.Path(d))
	return err == nil && st.Mode().IsRegular()
}

// NotFoundError says that the vault does not hold an input. It matches
// fs.ErrNotExist.
type NotFoundError struct {
	Digest oci.Digest
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("the vault does not hold %s: fetch it with `twinhull lock` or `twinhull build`, or bring it with `twinhull vault import`", e.Digest)
}

// Is makes errors.Is(err, fs.ErrNotExist) true.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// MismatchError says that bytes are not those that a digest names.
type MismatchError struct {
	Want     oci.Digest
	Got      oci.Digest // of the bytes seen; "" when they were not read to their end
	WantSize int64      // -1 when unknown
	GotSize  int64      // bytes seen
}

func (e *MismatchError) Error() string {
	switch {
	case e.WantSize >= 0 && e.GotSize > e.WantSize:
		return fmt.Sprintf("%s: longer than the expected %d bytes", e.Want, e.WantSize)
	case e.WantSize >= 0 && e.GotSize < e.WantSize:
		return fmt.Sprintf("%s: %d bytes where %d were expected", e.Want, e.GotSize, e.WantSize)
	default:
		return fmt.Sprintf("wrong content: expected %s, actual %s", e.Want, e.Got)
	}
}

// Open opens the bytes of d for reading. A missing one is a *NotFoundError.
func (v *Vault) Open(d oci.Digest) (*os.File, error) {
	if err := check(d); err != nil {
		return nil, err
	}
	f, err := os.Open(v.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NotFoundError{Digest: d}
	}
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return f, nil
}

// ReadFile returns the bytes of d, verified again, for the small inputs that
// decisions hang on (release files, locks). limit bounds their number.
func (v *Vault) ReadFile(d oci.Digest, limit int64) ([]byte, error) {
	f, err := v.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("vault: read %s: %w", d, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("vault: %s is longer than %d bytes", d, limit)
	}
	if got := d.Algorithm().FromBytes(data); got != d {
		return nil, fmt.Errorf("vault: %w; run `twinhull vault verify`", &MismatchError{Want: d, Got: got, WantSize: -1, GotSize: int64(len(data))})
	}
	return data, nil
}

// Put stores what r gives under d, which it must hash to; size is its length,
// or -1 when unknown. Bytes that are wrong, too few or too many are a
// *MismatchError and leave nothing behind, as does any other failure. When the
// vault holds d already nothing is read. Concurrent calls with one digest, also
// from other processes, are fine: the last to finish replaces equal bytes.
func (v *Vault) Put(ctx context.Context, d oci.Digest, size int64, r io.Reader) error {
	if err := check(d); err != nil {
		return err
	}
	if v.Has(d) {
		return nil
	}
	f, err := v.create(d)
	if err != nil {
		return err
	}
	defer f.Close()
	h := d.Algorithm().Hash()
	n, err := copyBounded(ctx, f, h, r, size)
	if err != nil {
		return fmt.Errorf("store %s: %w", d, err)
	}
	if err := verdict(d, h, size, n); err != nil {
		return err
	}
	return f.Commit()
}

// PutBytes stores data under its SHA-256, which it returns.
func (v *Vault) PutBytes(data []byte) (oci.Digest, error) {
	d := digest.NewDigestFromBytes(digest.SHA256, sum256(data))
	return d, v.Put(context.Background(), d, int64(len(data)), bytes.NewReader(data))
}

func sum256(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}

// create begins the file of d. Its temporary is in the partial folder, where
// Open sweeps, and not in one of 512 folders that nobody looks into.
func (v *Vault) create(d oci.Digest) (*durable.File, error) {
	path := v.Path(d)
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("store %s: %w", d, err)
	}
	return durable.CreateIn(v.partialDir(), path, 0o444)
}

// copyBounded copies r to w and h, stopping one byte beyond size (when known)
// and when ctx ends. It returns the bytes read.
func copyBounded(ctx context.Context, w io.Writer, h hash.Hash, r io.Reader, size int64) (int64, error) {
	if size >= 0 {
		r = io.LimitReader(r, size+1)
	}
	buf := make([]byte, 128<<10)
	var n int64
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		k, err := r.Read(buf)
		if k > 0 {
			n += int64(k)
			h.Write(buf[:k])
			if _, err := w.Write(buf[:k]); err != nil {
				return n, err
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// verdict says whether n bytes that were hashed into h are those of d.
func verdict(d oci.Digest, h hash.Hash, size, n int64) error {
	if size >= 0 && n > size {
		return &MismatchError{Want: d, WantSize: size, GotSize: n}
	}
	got := digest.NewDigest(d.Algorithm(), h)
	if got != d || (size >= 0 && n != size) {
		return &MismatchError{Want: d, Got: got, WantSize: size, GotSize: n}
	}
	return nil
}

// Hold keeps GC away until release is called. Every process that puts or uses
// inputs holds the vault while it works, because an input is unreferenced
// between being fetched and being named in a lock. waiting (may be nil) is
// called once when a collection is under way.
func (v *Vault) Hold(ctx context.Context, waiting func()) (release func(), err error) {
	return durable.RLock(ctx, filepath.Join(v.dir, "lock"), waiting)
}

// Alone waits until nobody holds the vault and keeps others waiting until
// release is called: for upkeep of what lies beside it in the cache folder.
// waiting (may be nil) is called once when it has to wait.
func (v *Vault) Alone(ctx context.Context, waiting func()) (release func(), err error) {
	return durable.Lock(ctx, filepath.Join(v.dir, "lock"), waiting)
}
