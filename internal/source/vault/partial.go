package vault

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
)

// Partial is an input on its way into the vault, whose bytes outlive an
// interrupted transfer. Its bytes are not to be trusted until Commit, which
// verifies all of them, those of earlier transfers included. One process at a
// time has the Partial of a digest; use it from one goroutine at a time.
type Partial struct {
	v    *Vault
	d    oci.Digest
	want int64 // -1 when unknown
	path string
	f    *os.File
	h    hash.Hash
	n    int64
}

// ErrPresent says that the vault came to hold the digest in the meantime: there
// is nothing to transfer.
var ErrPresent = errors.New("already in the vault")

// Resume opens what earlier transfers of d left, or begins a new one. size is
// the length of the whole, -1 when unknown. When another process is
// transferring the same digest Resume waits for it to end and then continues
// from there, or returns ErrPresent when there is nothing left to do.
func (v *Vault) Resume(ctx context.Context, d oci.Digest, size int64) (*Partial, error) {
	if err := check(d); err != nil {
		return nil, err
	}
	path := filepath.Join(v.partialDir(), d.Algorithm().String()+"-"+d.Encoded())
	for {
		if v.Has(d) {
			return nil, ErrPresent
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrPermission) && os.Chmod(path, 0o600) == nil {
			// Stopped between the last two steps of Commit.
			f, err = os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("vault: resume %s: %w", d, err)
		}
		if err := durable.Flock(ctx, f, true, nil); err != nil {
			f.Close()
			return nil, fmt.Errorf("vault: wait for another transfer of %s: %w", d, err)
		}
		// The holder before us may have renamed the file into the vault or
		// removed it; writing to it then would change an input.
		if !sameFile(f, path) {
			f.Close()
			continue
		}
		p := &Partial{v: v, d: d, want: size, path: path, f: f}
		if err := p.reload(); err != nil {
			f.Close()
			return nil, err
		}
		return p, nil
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// reload hashes what is there already.
func (p *Partial) reload() error {
	p.h = p.d.Algorithm().Hash()
	n, err := io.Copy(p.h, p.f)
	if err != nil {
		return fmt.Errorf("vault: resume %s: %w", p.d, err)
	}
	p.n = n
	if p.want >= 0 && n > p.want {
		return p.Restart()
	}
	return nil
}

// Size is the number of bytes that are there.
func (p *Partial) Size() int64 { return p.n }

// Write appends. Bytes beyond the known size are refused with a *MismatchError.
func (p *Partial) Write(b []byte) (int, error) {
	if p.want >= 0 && p.n+int64(len(b)) > p.want {
		return 0, &MismatchError{Want: p.d, WantSize: p.want, GotSize: p.n + int64(len(b))}
	}
	n, err := p.f.Write(b)
	p.h.Write(b[:n])
	p.n += int64(n)
	if err != nil {
		return n, fmt.Errorf("vault: store %s: %w", p.d, err)
	}
	return n, nil
}

// Restart forgets the bytes that are there.
func (p *Partial) Restart() error {
	if err := p.f.Truncate(0); err != nil {
		return fmt.Errorf("vault: resume %s: %w", p.d, err)
	}
	if _, err := p.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("vault: resume %s: %w", p.d, err)
	}
	p.h.Reset()
	p.n = 0
	return nil
}

// Commit verifies the bytes and gives them their name in the vault. Wrong bytes
// are a *MismatchError and are forgotten, except when there are too few of
// them: those stay for the next attempt.
func (p *Partial) Commit() error {
	if p.want >= 0 && p.n < p.want {
		return &MismatchError{Want: p.d, WantSize: p.want, GotSize: p.n}
	}
	if err := verdict(p.d, p.h, p.want, p.n); err != nil {
		return errors.Join(err, p.Restart())
	}
	if err := p.f.Chmod(0o444); err != nil {
		return fmt.Errorf("vault: store %s: %w", p.d, err)
	}
	path := p.v.Path(p.d)
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("vault: store %s: %w", p.d, err)
	}
	return durable.CommitFile(p.path, path)
}

// Close ends the transfer. Bytes that were not committed stay for the next
// Resume; an empty file does not. It is safe to call more than once.
func (p *Partial) Close() error {
	if p.f == nil {
		return nil
	}
	var err error
	if p.n == 0 && sameFile(p.f, p.path) {
		if err = os.Remove(p.path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	err = errors.Join(err, p.f.Close())
	p.f = nil
	return err
}
