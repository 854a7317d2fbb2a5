package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"twinhull.dev/twinhull/internal/durable"
)

// maxSubmission is the largest request that a witness reads, in bytes: a line,
// 63 hashes and a checkpoint.
const maxSubmission = 64*64 + maxCheckpoint

// WitnessOptions is what a witness needs. Dir, Key and Logs must be set.
type WitnessOptions struct {
	// Dir is where the witness remembers, for each log, the newest checkpoint
	// that it has cosigned. Whoever can change it can make the witness forget.
	Dir string
	// Key is the witness's private key, as GenerateKey makes it. It must sign
	// nothing else (tlog-cosignature).
	Key string
	// Logs are verifier keys of the logs that it watches; several of one name
	// are keys of one log.
	Logs   []string
	Logger *slog.Logger // nil: discards
}

// Witness remembers what logs have signed and cosigns nothing that contradicts
// it: C2SP tlog-witness over HTTP, with cosignature/v1 of Ed25519. Its methods
// may be called by many at once.
type Witness struct {
	opt    WitnessOptions
	signer note.Signer
	key    string // verifier key of its cosignatures
	logs   map[string]*watched
	unlock func()
}

// watched is one log.
type watched struct {
	trust *Trust
	path  string // of its newest checkpoint

	mu   sync.Mutex
	last *Checkpoint // nil before the first
}

// SubmitError is why a witness does not cosign.
type SubmitError struct {
	Status int    // of HTTP, as tlog-witness gives it
	Size   uint64 // of the checkpoint that was cosigned last, with StatusConflict about the old size
	Stale  bool   // Size is set: submit again with a proof from there
	Err    error
}

func (e *SubmitError) Error() string { return e.Err.Error() }
func (e *SubmitError) Unwrap() error { return e.Err }

func refused(status int, format string, a ...any) *SubmitError {
	return &SubmitError{Status: status, Err: fmt.Errorf(format, a...)}
}

// OpenWitness starts a witness. It refuses to start when what it remembers cannot
// be read: a witness that has forgotten must be replaced, with another key.
func OpenWitness(opt WitnessOptions) (w *Witness, err error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := parseSigner(opt.Key)
	if err != nil {
		return nil, fmt.Errorf("the witness's key: %w", err)
	}
	w = &Witness{opt: opt, logs: map[string]*watched{}}
	if w.signer, err = fnote.NewSignerForCosignatureV1(s.text); err != nil {
		return nil, fmt.Errorf("the witness's key: %w", err)
	}
	if w.key, err = fnote.VKeyToCosignatureV1(s.verifier); err != nil {
		return nil, fmt.Errorf("the witness's key: %w", err)
	}
	if err := durable.MkdirAll(opt.Dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := tryLock(filepath.Join(opt.Dir, lockFile))
	if err != nil {
		if errors.Is(err, ErrInUse) {
			err = fmt.Errorf("%s: another witness uses this folder", opt.Dir)
		}
		return nil, err
	}
	w.unlock = unlock
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if len(opt.Logs) == 0 {
		return nil, errors.New("a witness of no log")
	}
	names := map[string][]string{}
	for _, k := range opt.Logs {
		t, err := NewTrust([]string{k}, nil, 0)
		if err != nil {
			return nil, err
		}
		names[t.Origin()] = append(names[t.Origin()], k)
	}
	for origin, keys := range names {
		t, err := NewTrust(keys, nil, 0)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(t.Log, func(v note.Verifier) bool { return v.Name() == w.signer.Name() && v.KeyHash() == w.signer.KeyHash() }) {
			return nil, errors.New("a log cannot be its own witness")
		}
		l := &watched{trust: t, path: filepath.Join(opt.Dir, witnessFile(origin))}
		raw, err := os.ReadFile(l.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			// Its own signature first: only what this witness has written counts.
			own, err := NewTrust(keys, []string{w.key}, 1)
			if err == nil {
				l.last, err = own.Open(raw)
			}
			if err != nil {
				return nil, fmt.Errorf("what the witness remembers of %s cannot be believed: %s: %w\nhint: restore the file; a witness without it must be replaced by one with another key", origin, l.path, err)
			}
		}
		w.logs[origin] = l
	}
	return w, nil
}

// witnessFile is where the checkpoint of a log is; names of logs hold slashes.
func witnessFile(origin string) string {
	return fmt.Sprintf("%x.checkpoint", sha256.Sum256([]byte(origin)))
}

// Key is the verifier key of the witness's cosignatures.
func (w *Witness) Key() string { return w.key }

// Close lets another process have the folder. No method may be called after it.
func (w *Witness) Close() { w.unlock() }

// Last returns the newest checkpoint of a log that the witness has cosigned, and
// nil before the first: what an Anchor is made of.
func (w *Witness) Last(origin string) ([]byte, error) {
	l, ok := w.logs[origin]
	if !ok {
		return nil, fmt.Errorf("this witness does not watch %q", origin)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		return nil, nil
	}
	return slices.Clone(l.last.Raw), nil
}

// Submit is add-checkpoint of tlog-witness: it returns a signature line when the
// checkpoint follows the one of old entries that was cosigned last. The new one
// is durable before Submit returns. Errors are of type *SubmitError.
func (w *Witness) Submit(old uint64, p []Hash, raw []byte) ([]byte, error) {
	// The body tells whose keys are to be tried; nothing of it is believed.
	text, _, ok := strings.Cut(string(raw), "\n\n")
	if !ok || len(raw) > maxCheckpoint {
		return nil, refused(http.StatusBadRequest, "not a signed checkpoint")
	}
	said, err := parseBody(text + "\n")
	if err != nil {
		return nil, refused(http.StatusBadRequest, "%w", err)
	}
	l, ok := w.logs[said.Origin]
	if !ok {
		return nil, refused(http.StatusNotFound, "this witness does not watch %q", said.Origin)
	}
	c, err := l.trust.Open(raw)
	if errors.Is(err, ErrUnsigned) {
		return nil, refused(http.StatusForbidden, "%w", err)
	}
	if err != nil {
		// A bad signature of a known key is no signature either.
		if _, bad := errors.AsType[*note.InvalidSignatureError](err); bad {
			return nil, refused(http.StatusForbidden, "%w", err)
		}
		return nil, refused(http.StatusBadRequest, "%w", err)
	}
	if old > c.Size {
		return nil, refused(http.StatusBadRequest, "from %d entries to %d", old, c.Size)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var size uint64
	root := emptyRoot
	if l.last != nil {
		size, root = l.last.Size, l.last.Root
	}
	if old != size {
		return nil, &SubmitError{Status: http.StatusConflict, Size: size, Stale: true,
			Err: fmt.Errorf("%d entries were cosigned last, not %d", size, old)}
	}
	if old == c.Size && root != c.Root {
		w.evidence(l, c, "another root of the same size")
		return nil, refused(http.StatusConflict, "another tree of %d entries was cosigned", size)
	}
	if err := follows(size, root, c, p); err != nil {
		w.evidence(l, c, err.Error())
		return nil, refused(http.StatusUnprocessableEntity, "the proof does not show that the %d entries begin with the %d cosigned last: %w", c.Size, size, err)
	}
	signed, sig, err := w.cosign(c)
	if err != nil {
		return nil, refused(http.StatusInternalServerError, "%w", err)
	}
	if err := durable.WriteFile(l.path, signed.Raw, 0o644); err != nil {
		// It may be on the disk all the same: larger, signed by the log, and
		// consistent. What is in memory stays the older one, which asks for a
		// longer proof next time, and never for less.
		return nil, refused(http.StatusInternalServerError, "remember the checkpoint: %w", err)
	}
	l.last = signed
	return sig, nil
}

// follows verifies a proof from what was cosigned last. The proof must be empty
// when nothing was, or when nothing is new.
func follows(size uint64, root Hash, c *Checkpoint, p []Hash) error {
	if size == 0 || size == c.Size {
		if len(p) > 0 {
			return errors.New("a proof where none is needed")
		}
		if c.Size == 0 && c.Root != emptyRoot {
			return errors.New("an empty tree with another root than the empty one")
		}
		return nil
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, size, c.Size, unhash(p), root[:], c.Root[:])
}

// cosign adds the witness's signature to a checkpoint and drops those of others
// but the log's.
func (w *Witness) cosign(c *Checkpoint) (signed *Checkpoint, line []byte, err error) {
	n, err := note.Open(c.Raw, note.VerifierList(w.logs[c.Origin].trust.Log...))
	if err != nil {
		return nil, nil, err
	}
	n.UnverifiedSigs = nil
	bare, err := note.Sign(n) // as it came, with the log's signatures only
	if err != nil {
		return nil, nil, err
	}
	own, err := note.Sign(&note.Note{Text: n.Text}, w.signer)
	if err != nil {
		return nil, nil, err
	}
	_, line, _ = bytes.Cut(own, []byte("\n\n"))
	with := *c
	with.Raw = append(bare, line...)
	return &with, line, nil
}

// evidence keeps the first contradiction that a log has signed: the two
// checkpoints together show it to anybody. A second one adds nothing.
func (w *Witness) evidence(l *watched, c *Checkpoint, why string) {
	path := strings.TrimSuffix(l.path, ".checkpoint") + ".refused"
	w.opt.Logger.Error("refused a checkpoint that its log has signed", "log", c.Origin, "size", c.Size, "why", why, "kept", path)
	if _, err := os.Lstat(path); err == nil {
		return
	}
	if err := durable.WriteFile(path, c.Raw, 0o644); err != nil {
		w.opt.Logger.Error("cannot keep it", "err", err)
	}
}

// ServeHTTP answers POST …/add-checkpoint (tlog-witness), and GET
// …/checkpoint?origin=ORIGIN with the newest checkpoint that the witness has
// cosigned, for those who want an anchor.
func (w *Witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case name == "add-checkpoint" && r.Method == http.MethodPost:
		w.add(rw, r)
	case name == "checkpoint" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		raw, err := w.Last(r.URL.Query().Get("origin"))
		if err != nil || raw == nil {
			http.Error(rw, "nothing was cosigned for this origin", http.StatusNotFound)
			return
		}
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		rw.Header().Set("Cache-Control", "no-cache")
		rw.Write(raw)
	case name == "add-checkpoint":
		rw.Header().Set("Allow", "POST")
		http.Error(rw, "want POST", http.StatusMethodNotAllowed)
	default:
		http.NotFound(rw, r)
	}
}

func (w *Witness) add(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxSubmission))
	if err != nil {
		http.Error(rw, "the request is too large or was cut off", http.StatusBadRequest)
		return
	}
	old, p, raw, err := parseSubmission(body)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	line, err := w.Submit(old, p, raw)
	if err != nil {
		status := http.StatusInternalServerError
		if s, ok := errors.AsType[*SubmitError](err); ok {
			status = s.Status
			if s.Stale {
				rw.Header().Set("Content-Type", "text/x.tlog.size")
				rw.WriteHeader(status)
				fmt.Fprintf(rw, "%d\n", s.Size)
				return
			}
		}
		if status == http.StatusInternalServerError {
			w.opt.Logger.Error("cannot cosign", "err", err)
			err = errors.New("the witness cannot write now")
		}
		http.Error(rw, err.Error(), status)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Write(line)
}

// parseSubmission reads the body of add-checkpoint: the old size, the proof, an
// empty line, the checkpoint.
func parseSubmission(body []byte) (old uint64, p []Hash, checkpoint []byte, err error) {
	head, rest, ok := strings.Cut(string(body), "\n\n")
	if !ok {
		return 0, nil, nil, errors.New("no empty line behind the proof")
	}
	lines := strings.Split(head, "\n")
	text, ok := strings.CutPrefix(lines[0], "old ")
	old, err = strconv.ParseUint(text, 10, 63)
	if !ok || err != nil || strconv.FormatUint(old, 10) != text {
		return 0, nil, nil, errors.New("the first line is not \"old SIZE\"")
	}
	if len(lines)-1 > maxProofHashes {
		return 0, nil, nil, fmt.Errorf("%d hashes, at most %d", len(lines)-1, maxProofHashes)
	}
	for _, l := range lines[1:] {
		h, err := decodeHash(l)
		if err != nil {
			return 0, nil, nil, err
		}
		p = append(p, h)
	}
	return old, p, []byte(rest), nil
}

// Look reads the newest checkpoint of a log and its proof from the log's own
// files and cosigns it: a witness without a connection from the log. It returns
// the cosigned checkpoint.
func (w *Witness) Look(ctx context.Context, origin string, src Source) ([]byte, error) {
	l, ok := w.logs[origin]
	if !ok {
		return nil, fmt.Errorf("this witness does not watch %q", origin)
	}
	r := NewReader(src, l.trust)
	c, err := r.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	last, err := w.Last(origin)
	if err != nil {
		return nil, err
	}
	var old *Checkpoint
	if last != nil {
		if old, err = l.trust.Open(last); err != nil {
			return nil, err
		}
		if old.Size > c.Size {
			return nil, damaged(Truncated, "checkpoint", "it covers %d entries, and this witness has cosigned %d", c.Size, old.Size)
		}
	}
	var p []Hash
	var size uint64
	if old != nil {
		size = old.Size
		if p, err = r.Consistency(ctx, c, size); err != nil {
			return nil, err
		}
	}
	if _, err := w.Submit(size, p, c.Raw); err != nil {
		s, ok := errors.AsType[*SubmitError](err)
		if ok && (s.Status == http.StatusUnprocessableEntity || s.Status == http.StatusConflict && !s.Stale) {
			return nil, damaged(Forked, "checkpoint", "%v", err)
		}
		return nil, err
	}
	return w.Last(origin)
}
