package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
)

// width is how many entries a bundle and how many hashes a tile has when full.
const width = layout.TileWidth

// The largest files: 256 hashes; 256 entries with their lengths.
const (
	maxTile   = width * 32
	maxBundle = width * (2 + MaxEntry)
)

func leafHash(entry []byte) Hash { return Hash(rfc6962.DefaultHasher.HashLeaf(entry)) }

// splitBundle returns the entries of a bundle, which share its memory.
func splitBundle(data []byte) ([][]byte, error) {
	var all [][]byte
	for len(data) > 0 {
		if len(data) < 2 {
			return nil, errors.New("ends inside the length of an entry")
		}
		n := int(binary.BigEndian.Uint16(data))
		if data = data[2:]; len(data) < n {
			return nil, errors.New("ends inside an entry")
		}
		if len(all) == width {
			return nil, fmt.Errorf("more than %d entries", width)
		}
		all = append(all, data[:n:n])
		data = data[n:]
	}
	return all, nil
}

// readWide reads the bundle or tile that a tree of some size has at a place: the
// one of that width, or the full one, which may have replaced it (tlog-tiles,
// "Partial Tiles").
func readWide(ctx context.Context, src Source, path func(partial uint8) string, partial uint8, limit int64) ([]byte, error) {
	data, err := src.ReadFile(ctx, path(partial), limit)
	if partial == 0 || !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	full, err2 := src.ReadFile(ctx, path(0), limit)
	if errors.Is(err2, fs.ErrNotExist) {
		return nil, err // names the file that should be there
	}
	return full, err2
}

// damage is a fault of the log's files, as opposed to one of reading them.
type damage struct{ Problem }

func (d *damage) Error() string { return d.Problem.String() }

func damaged(kind Kind, path, format string, a ...any) error {
	return &damage{Problem{Kind: kind, Path: path, What: fmt.Sprintf(format, a...)}}
}

// readBundle reads the entries that a tree of some size has in a bundle.
func readBundle(ctx context.Context, src Source, index, size uint64) ([][]byte, error) {
	partial := layout.PartialTileSize(0, index, size)
	path := layout.EntriesPath(index, partial)
	data, err := readWide(ctx, src, func(p uint8) string { return layout.EntriesPath(index, p) }, partial, maxBundle)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, damaged(Missing, path, "entries from %d on are not there", index*width)
	case errors.Is(err, errTooLarge):
		return nil, damaged(Altered, path, "larger than a bundle can be")
	case err != nil:
		return nil, err
	}
	all, err := splitBundle(data)
	if err != nil {
		return nil, damaged(Altered, path, "not a bundle of entries: %v", err)
	}
	want := width
	if partial != 0 {
		want = int(partial)
	}
	if len(all) < want {
		return nil, damaged(Altered, path, "%d entries, want %d", len(all), want)
	}
	return all[:want], nil
}

// tiles fetches tiles as a tree of some size has them, for the proofs of
// smaller trees too: their tiles are beginnings of those of a larger one.
func tiles(src Source, size uint64) client.TileFetcherFunc {
	return func(ctx context.Context, level, index uint64, _ uint8) ([]byte, error) {
		partial := layout.PartialTileSize(level, index, size)
		path := layout.TilePath(level, index, partial)
		data, err := readWide(ctx, src, func(p uint8) string { return layout.TilePath(level, index, p) }, partial, maxTile)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, damaged(Missing, path, "a tile of the tree is not there")
		case errors.Is(err, errTooLarge), err == nil && len(data)%32 != 0:
			return nil, damaged(Altered, path, "not a tile")
		}
		return data, err
	}
}

// tiledRoot computes the root of the first n entries of a tree of some size from
// its tiles.
func tiledRoot(ctx context.Context, src Source, n, size uint64) (Hash, error) {
	if n == 0 {
		return emptyRoot, nil
	}
	if n > size {
		return Hash{}, fmt.Errorf("the root of %d entries in a tree of %d", n, size)
	}
	var get kept
	nodes, err := client.FetchRangeNodes(ctx, n, get.keep(tiles(src, size)))
	if err != nil {
		return Hash{}, get.why(err)
	}
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r, err := f.NewRange(0, n, nodes)
	if err != nil {
		return Hash{}, err
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		return Hash{}, err
	}
	return Hash(root), nil
}

// kept remembers why a tile was not had: the proof builder keeps the text of
// such an error only.
type kept struct{ err error }

func (k *kept) keep(get client.TileFetcherFunc) client.TileFetcherFunc {
	return func(ctx context.Context, level, index uint64, p uint8) ([]byte, error) {
		data, err := get(ctx, level, index, p)
		if err != nil && k.err == nil {
			k.err = err
		}
		return data, err
	}
}

func (k *kept) why(err error) error {
	if k.err != nil {
		return k.err
	}
	return damaged(Altered, "tile", "%v", err)
}

// inclusion builds the proof that an entry is in a tree (RFC 6962 2.1.1).
func inclusion(ctx context.Context, get client.TileFetcherFunc, index, size uint64) ([]Hash, error) {
	var k kept
	b, err := client.NewProofBuilder(ctx, size, k.keep(get))
	if err != nil {
		return nil, err
	}
	p, err := b.InclusionProof(ctx, index)
	if err != nil {
		return nil, k.why(err)
	}
	return hashes(p), nil
}

// consistency builds the proof that a tree begins with a smaller one (RFC 6962
// 2.1.2). From 0 entries it is empty.
func consistency(ctx context.Context, get client.TileFetcherFunc, from, size uint64) ([]Hash, error) {
	if from == 0 || from == size {
		return nil, nil
	}
	var k kept
	b, err := client.NewProofBuilder(ctx, size, k.keep(get))
	if err != nil {
		return nil, err
	}
	p, err := b.ConsistencyProof(ctx, from, size)
	if err != nil {
		return nil, k.why(err)
	}
	return hashes(p), nil
}

func hashes(p [][]byte) []Hash {
	all := make([]Hash, len(p))
	for i, h := range p {
		copy(all[i][:], h)
	}
	return all
}

func unhash(p []Hash) [][]byte {
	all := make([][]byte, len(p))
	for i := range p {
		all[i] = p[i][:]
	}
	return all
}

// VerifyInclusion says whether a proof shows that an entry's bytes stand at an
// index of the tree of a checkpoint.
func VerifyInclusion(c *Checkpoint, index uint64, entry []byte, p []Hash) error {
	if index >= c.Size {
		return fmt.Errorf("entry %d is not among the %d entries of the checkpoint", index, c.Size)
	}
	leaf := leafHash(entry)
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, leaf[:], unhash(p), c.Root[:]); err != nil {
		return fmt.Errorf("the proof does not show that this entry has index %d: %w", index, err)
	}
	return nil
}

// VerifyConsistency says whether a proof shows that the tree of the older
// checkpoint is the beginning of that of the newer one.
func VerifyConsistency(older, newer *Checkpoint, p []Hash) error {
	switch {
	case older.Size > newer.Size:
		return fmt.Errorf("%d entries cannot follow %d", newer.Size, older.Size)
	case older.Size == newer.Size:
		if older.Root != newer.Root {
			return fmt.Errorf("two trees of %d entries with different roots", older.Size)
		}
		if len(p) > 0 {
			return errors.New("a proof where none is needed")
		}
		return nil
	case older.Size == 0:
		// Every tree begins with the empty one, which has one root only.
		if older.Root != emptyRoot {
			return errors.New("an empty tree with another root than the empty one")
		}
		if len(p) > 0 {
			return errors.New("a proof where none is needed")
		}
		return nil
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, older.Size, newer.Size, unhash(p), older.Root[:], newer.Root[:])
}

func equalHashes(tile []byte, want []Hash) bool {
	if len(tile) != len(want)*32 {
		return false
	}
	for i := range want {
		if !bytes.Equal(tile[i*32:(i+1)*32], want[i][:]) {
			return false
		}
	}
	return true
}
