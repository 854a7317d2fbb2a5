package audit

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Hash is a node of the tree (RFC 6962 2.1, SHA-256).
type Hash = [sha256.Size]byte

// maxCheckpoint is the largest checkpoint that is read, in bytes: three lines
// and a hundred signatures.
const maxCheckpoint = 64 << 10

// Checkpoint is what a log says of itself at one moment: how many entries it has
// and what their tree hashes to (tlog-checkpoint).
type Checkpoint struct {
	Origin    string
	Size      uint64
	Root      Hash
	Witnesses []string // names of those of Trust.Witnesses who cosigned it
	Raw       []byte   // the signed note
}

// emptyRoot is the hash of a tree without entries (RFC 6962 2.1).
var emptyRoot = sha256.Sum256(nil)

// ErrUnsigned is matched by a checkpoint that nobody who is believed has signed.
var ErrUnsigned = errors.New("not signed by a key of this log")

// ErrQuorum is matched by a checkpoint that too few witnesses have cosigned.
var ErrQuorum = errors.New("too few witnesses")

// Open reads a signed checkpoint and believes it when one of the log's keys and
// a quorum of the witnesses signed it. Everything that is not in the one form
// that signed-note and tlog-checkpoint give is refused.
func (t *Trust) Open(raw []byte) (*Checkpoint, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if len(raw) > maxCheckpoint {
		return nil, fmt.Errorf("a checkpoint of %d bytes: at most %d are read", len(raw), maxCheckpoint)
	}
	n, err := note.Open(raw, note.VerifierList(slices.Concat(t.Log, t.Witnesses)...))
	if _, unsigned := errors.AsType[*note.UnverifiedNoteError](err); unsigned {
		return nil, fmt.Errorf("checkpoint: %w (%s)", ErrUnsigned, keyNames(t.Log))
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := parseBody(n.Text)
	if err != nil {
		return nil, err
	}
	// base64 of a signature has bits that no decoder looks at.
	for _, s := range n.Sigs {
		b, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || base64.StdEncoding.EncodeToString(b) != s.Base64 {
			return nil, fmt.Errorf("checkpoint: the signature of %q is not in canonical base64", s.Name)
		}
	}
	signed := func(v note.Verifier) bool {
		return slices.ContainsFunc(n.Sigs, func(s note.Signature) bool { return s.Name == v.Name() && s.Hash == v.KeyHash() })
	}
	if !slices.ContainsFunc(t.Log, signed) {
		return nil, fmt.Errorf("checkpoint: %w (%s)", ErrUnsigned, keyNames(t.Log))
	}
	if c.Origin != t.Origin() {
		return nil, fmt.Errorf("checkpoint of %q, want one of %s", c.Origin, t.Origin())
	}
	for _, w := range t.Witnesses {
		if signed(w) && !slices.Contains(c.Witnesses, w.Name()) {
			c.Witnesses = append(c.Witnesses, w.Name())
		}
	}
	if len(c.Witnesses) < t.Quorum {
		return nil, fmt.Errorf("checkpoint of %d entries: %w: %d signed, want %d of %s", c.Size, ErrQuorum, len(c.Witnesses), t.Quorum, keyNames(t.Witnesses))
	}
	c.Raw = slices.Clone(raw)
	return c, nil
}

func keyNames(all []note.Verifier) string {
	var names []string
	for _, v := range all {
		names = append(names, fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash()))
	}
	return strings.Join(names, ", ")
}

// parseBody reads the text of a checkpoint. Extension lines are allowed and
// ignored: they say nothing about the tree (tlog-checkpoint, "Note text" 4).
func parseBody(text string) (*Checkpoint, error) {
	bad := func(format string, a ...any) (*Checkpoint, error) {
		return nil, fmt.Errorf("not a checkpoint: "+format, a...)
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" {
		return bad("want at least three lines")
	}
	if slices.Contains(lines[:len(lines)-1], "") {
		return bad("an empty line")
	}
	c := &Checkpoint{Origin: lines[0]}
	var err error
	if c.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || strconv.FormatUint(c.Size, 10) != lines[1] {
		return bad("tree size %q", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != len(c.Root) || base64.StdEncoding.EncodeToString(root) != lines[2] {
		return bad("root hash %q", lines[2])
	}
	c.Root = Hash(root)
	return c, nil
}

// body is the text that is signed.
func (c *Checkpoint) body() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}
