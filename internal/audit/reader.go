package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
)

// Record is an entry with its place in the log.
type Record struct {
	Index uint64
	Entry Entry  // the zero Entry when Err is set
	Raw   []byte // its canonical JSON
	Err   error  // matches ErrEntryType for entries of a later version
}

// Reader reads a log and believes what a signed checkpoint covers.
type Reader struct {
	src   Source
	trust *Trust
}

// NewReader reads from a source what is covered by checkpoints that trust
// believes.
func NewReader(src Source, trust *Trust) *Reader { return &Reader{src, trust} }

// Checkpoint reads the newest checkpoint. That it is the newest only a witness or
// an earlier checkpoint can tell.
func (r *Reader) Checkpoint(ctx context.Context) (*Checkpoint, error) {
	raw, err := r.src.ReadFile(ctx, "checkpoint", maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no log here: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return r.trust.Open(raw)
}

// Entry reads one entry and verifies that it stands at its index in the tree of
// the checkpoint.
func (r *Reader) Entry(ctx context.Context, c *Checkpoint, index uint64) (Record, error) {
	for rec, err := range r.Entries(ctx, c, index, index+1) {
		return rec, err
	}
	return Record{}, fmt.Errorf("the log has %d entries, so there is no entry %d", c.Size, index)
}

// Entries reads the entries of indexes from up to, not including, to; each is
// verified to stand at its index in the tree of the checkpoint. It ends at the
// checkpoint's size, and after the first error.
func (r *Reader) Entries(ctx context.Context, c *Checkpoint, from, to uint64) iter.Seq2[Record, error] {
	to = min(to, c.Size)
	return func(yield func(Record, error) bool) {
		for from < to {
			bundle := from / width
			raw, err := r.bundle(ctx, c, bundle)
			if err != nil {
				yield(Record{}, err)
				return
			}
			for ; from < to && from/width == bundle; from++ {
				rec := Record{Index: from, Raw: raw[from%width]}
				rec.Entry, rec.Err = Parse(rec.Raw)
				if rec.Err != nil && !errors.Is(rec.Err, ErrEntryType) {
					yield(rec, fmt.Errorf("entry %d: %w", from, rec.Err))
					return
				}
				if !yield(rec, nil) {
					return
				}
			}
		}
	}
}

// bundle reads and verifies the entries of a bundle. The proof for the bundle's
// first entry goes over all others of the bundle, so that one proof is enough.
func (r *Reader) bundle(ctx context.Context, c *Checkpoint, index uint64) ([][]byte, error) {
	raw, err := readBundle(ctx, r.src, index, c.Size)
	if err != nil {
		return nil, err
	}
	get := withTile(tiles(r.src, c.Size), index, raw)
	p, err := inclusion(ctx, get, index*width, c.Size)
	if err != nil {
		return nil, err
	}
	if err := VerifyInclusion(c, index*width, raw[0], p); err != nil {
		return nil, damaged(Altered, fmt.Sprintf("entries %d to %d", index*width, index*width+uint64(len(raw))-1), "not what the checkpoint of %d entries covers", c.Size)
	}
	return raw, nil
}

// withTile gives the tile of a bundle's hashes from the bundle itself.
func withTile(get client.TileFetcherFunc, index uint64, entries [][]byte) client.TileFetcherFunc {
	return func(ctx context.Context, level, i uint64, p uint8) ([]byte, error) {
		if level != 0 || i != index {
			return get(ctx, level, i, p)
		}
		var t api.HashTile
		for _, e := range entries {
			h := leafHash(e)
			t.Nodes = append(t.Nodes, h[:])
		}
		return t.MarshalText()
	}
}

// Inclusion builds the proof that an entry is in the tree of the checkpoint.
func (r *Reader) Inclusion(ctx context.Context, c *Checkpoint, index uint64) ([]Hash, error) {
	if index >= c.Size {
		return nil, fmt.Errorf("the checkpoint covers %d entries, so not entry %d", c.Size, index)
	}
	return inclusion(ctx, tiles(r.src, c.Size), index, c.Size)
}

// Consistency builds the proof that the tree of the checkpoint begins with its
// own first from entries.
func (r *Reader) Consistency(ctx context.Context, c *Checkpoint, from uint64) ([]Hash, error) {
	if from > c.Size {
		return nil, fmt.Errorf("the checkpoint covers %d entries, fewer than %d", c.Size, from)
	}
	return consistency(ctx, tiles(r.src, c.Size), from, c.Size)
}

// Follows says whether the newest checkpoint follows an older one of the same
// log: that nothing which the older covers was changed or removed since. Both
// must be believed. It reads a few tiles; Verify reads all.
func (r *Reader) Follows(ctx context.Context, older *Checkpoint) (*Checkpoint, error) {
	c, err := r.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	if older.Size > c.Size {
		return c, damaged(Truncated, "checkpoint", "it covers %d entries, and an earlier checkpoint covers %d", c.Size, older.Size)
	}
	p, err := r.Consistency(ctx, c, older.Size)
	if err != nil {
		return c, err
	}
	if err := VerifyConsistency(older, c, p); err != nil {
		return c, damaged(Forked, "checkpoint", "the %d entries that it covers do not begin with the %d of an earlier checkpoint: %v", c.Size, older.Size, err)
	}
	return c, nil
}

// Damage returns what is wrong with a log when an error of a Reader says so, and
// false when the error is one of reading it.
func Damage(err error) (Problem, bool) {
	if d, ok := errors.AsType[*damage](err); ok {
		return d.Problem, true
	}
	return Problem{}, false
}
