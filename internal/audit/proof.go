package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// proofHeader is the first line of a proof (tlog-proof, "Format").
const proofHeader = "c2sp.org/tlog-proof@v1"

// maxProofHashes is how many hashes the longest path of a tree has.
const maxProofHashes = 63

// MaxProof is the largest proof file that is read, in bytes.
const MaxProof = 4*MaxEntry/3 + 64*64 + maxCheckpoint + 1<<10

// Proof shows offline that an entry is in a log: the entry, its path in the tree,
// and the signed checkpoint with the cosignatures of witnesses. It is a file by
// C2SP tlog-proof whose extra data is the entry.
type Proof struct {
	Index      uint64
	Entry      []byte // canonical JSON; nil for a proof that travels without it
	Hashes     []Hash
	Checkpoint []byte // signed note
}

// Prove makes the proof of an entry by the newest checkpoint.
func (r *Reader) Prove(ctx context.Context, index uint64) (*Proof, error) {
	c, err := r.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := r.Entry(ctx, c, index)
	if err != nil {
		return nil, err
	}
	h, err := r.Inclusion(ctx, c, index)
	if err != nil {
		return nil, err
	}
	p := &Proof{index, rec.Raw, h, c.Raw}
	// What cannot be verified is not handed out.
	if _, _, err := p.Verify(r.trust, nil); err != nil {
		return nil, err
	}
	return p, nil
}

// Marshal writes the proof file.
func (p *Proof) Marshal() []byte {
	var b bytes.Buffer
	b.WriteString(proofHeader + "\n")
	if p.Entry != nil {
		b.WriteString("extra " + base64.StdEncoding.EncodeToString(p.Entry) + "\n")
	}
	fmt.Fprintf(&b, "index %d\n", p.Index)
	for _, h := range p.Hashes {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteByte('\n')
	b.Write(p.Checkpoint)
	return b.Bytes()
}

// ParseProof reads a proof file, in the one form that Marshal writes. Nothing in
// it is believed yet.
func ParseProof(data []byte) (*Proof, error) {
	bad := func(format string, a ...any) (*Proof, error) {
		return nil, fmt.Errorf("not a proof of a log (C2SP tlog-proof): "+format, a...)
	}
	if len(data) > MaxProof {
		return bad("%d bytes, at most %d are read", len(data), MaxProof)
	}
	head, checkpoint, ok := strings.Cut(string(data), "\n\n")
	if !ok {
		return bad("no empty line")
	}
	lines := strings.Split(head, "\n")
	if lines[0] != proofHeader {
		return bad("it does not begin with %s", proofHeader)
	}
	lines = lines[1:]
	p := &Proof{Checkpoint: []byte(checkpoint)}
	if len(lines) > 0 {
		if extra, ok := strings.CutPrefix(lines[0], "extra "); ok {
			var err error
			if p.Entry, err = base64.StdEncoding.DecodeString(extra); err != nil || p.Entry == nil {
				return bad("extra data that is not base64")
			}
			lines = lines[1:]
		}
	}
	if len(lines) == 0 {
		return bad("no index")
	}
	index, ok := strings.CutPrefix(lines[0], "index ")
	n, err := strconv.ParseUint(index, 10, 63)
	if !ok || err != nil {
		return bad("no index")
	}
	p.Index = n
	if len(lines) > 1+maxProofHashes {
		return bad("%d hashes, at most %d", len(lines)-1, maxProofHashes)
	}
	for _, l := range lines[1:] {
		h, err := decodeHash(l)
		if err != nil {
			return bad("%v", err)
		}
		p.Hashes = append(p.Hashes, h)
	}
	// One form only: two files are the same proof when they are the same bytes.
	if !bytes.Equal(p.Marshal(), data) {
		return bad("not in canonical form")
	}
	return p, nil
}

func decodeHash(s string) (Hash, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != len(Hash{}) || base64.StdEncoding.EncodeToString(b) != s {
		return Hash{}, fmt.Errorf("%q is not a hash", s)
	}
	return Hash(b), nil
}

// ErrNoEntry is returned for a proof without its entry when none is given.
var ErrNoEntry = errors.New("the proof does not hold the entry, and none was given")

// Verify believes a proof when trust believes its checkpoint and the entry is in
// that tree. entry is compared with the one in the proof; nil when the proof's
// own is all there is. Nothing but the arguments is needed.
func (p *Proof) Verify(trust *Trust, entry []byte) (Record, *Checkpoint, error) {
	raw := p.Entry
	switch {
	case raw == nil && entry == nil:
		return Record{}, nil, ErrNoEntry
	case raw == nil:
		raw = entry
	case entry != nil && !bytes.Equal(entry, raw):
		return Record{}, nil, errors.New("the proof is of another entry than the one given")
	}
	c, err := trust.Open(p.Checkpoint)
	if err != nil {
		return Record{}, nil, err
	}
	if err := VerifyInclusion(c, p.Index, raw, p.Hashes); err != nil {
		return Record{}, nil, err
	}
	rec := Record{Index: p.Index, Raw: raw}
	rec.Entry, rec.Err = Parse(raw)
	if rec.Err != nil && !errors.Is(rec.Err, ErrEntryType) {
		return Record{}, nil, rec.Err
	}
	return rec, c, nil
}
