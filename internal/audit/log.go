package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"

	"twinhull.dev/twinhull/internal/durable"
)

// CheckpointInterval is how often a log that grows signs a checkpoint, at most.
// It is the shortest that the storage takes.
const CheckpointInterval = 100 * time.Millisecond

// Batching: entries that arrive while others are written are written together
// next (see group). The storage waits batchAge for more of a batch that is not
// full, which a lonely entry pays.
const (
	batchAge  = time.Millisecond
	batchSize = 4 * width
)

// sweepInterval is how often a log tidies up after failed appends.
const sweepInterval = 10 * time.Second

// The files of a log that are not of the tree.
const (
	privateFile = "log.key"
	oldFile     = "log.old.key"
	publicFile  = "log.pub"
	lockFile    = "lock"
	stateDir    = ".state"
	stateFile   = stateDir + "/treeState"
)

// Options is how a log is kept. The zero value is complete.
type Options struct {
	// Installation names the server in the log's origin; "" lets Open invent a
	// name for a new log. A log keeps the name that it has.
	Installation string

	// KeyFile is where the private key is; "" for log.key in the log's folder. It
	// is made, with mode 0600, with a new log and never with an old one.
	KeyFile string

	// OldKeyFiles are keys that also sign until every verifier knows the new one.
	// log.old.key in the log's folder is one where it is there.
	OldKeyFiles []string

	// Witnesses are asked to cosign every checkpoint. Quorum of them must have
	// done so before it is published; with 0 a checkpoint is published also when
	// none of them answers within WitnessTimeout (0: two seconds).
	Witnesses      []WitnessServer
	Quorum         int
	WitnessTimeout time.Duration
	Client         *http.Client // for witnesses; nil: one of our own

	// CloseTimeout is how long Close waits for the last checkpoint; 0: five
	// seconds.
	CloseTimeout time.Duration

	// Anchors are signed checkpoints that are known from elsewhere: Open refuses
	// a log that does not have what they cover, so that an old backup does not
	// become a second history.
	Anchors []Anchor

	Now    func() time.Time // for entries without a time; nil: time.Now
	Logger *slog.Logger     // nil: discards
}

// WitnessServer is a witness that a log asks (tlog-witness).
type WitnessServer struct {
	URL string // submission prefix: add-checkpoint is below it
	Key string // its verifier key, NAME+HASH+KEY
}

// ErrInUse is matched when another process, or another Log of this one, has the
// folder.
var ErrInUse = errors.New("the audit log is in use by another process")

// ErrClosed is what a closed log returns.
var ErrClosed = errors.New("the audit log is closed")

// Log is an audit log that this process writes. Its methods may be called by
// many at once.
type Log struct {
	dir    string
	opt    Options
	logger *slog.Logger
	trust  *Trust // the keys that this log signs with
	known  *Trust // those before them, too: for anchors
	public []string
	src    Source

	appender *tessera.Appender
	queue    chan waiting
	shutdown func(context.Context) error
	cancel   context.CancelFunc
	unlock   func()
	stopped  chan struct{} // the publisher's helper has ended

	mu     sync.RWMutex // held for reading while an entry is appended
	closed bool
}

// Open opens the log in a folder, or begins one there. It refuses a folder that
// another process has open (ErrInUse), a log whose newest part is not what its
// checkpoint says, one that lacks what an anchor covers, and one whose key is
// missing. It reads the right edge of the tree only: Verify reads all.
func Open(dir string, opt Options) (l *Log, err error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.CloseTimeout == 0 {
		opt.CloseTimeout = 5 * time.Second
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := tryLock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	l = &Log{dir: dir, opt: opt, logger: opt.Logger, unlock: unlock, src: Dir(dir), stopped: make(chan struct{}), queue: make(chan waiting, batchSize)}

	signers, err := l.keys()
	if err != nil {
		return nil, err
	}
	if err := l.sweep("."); err != nil {
		return nil, err
	}
	if err := l.begin(signers[0]); err != nil {
		return nil, err
	}
	last, err := l.examine(context.Background())
	if err != nil {
		return nil, err
	}
	if err := l.tidy(context.Background()); err != nil {
		return nil, err
	}
	g := &guard{log: l, last: last}
	o := tessera.NewAppendOptions().
		WithBatching(batchSize, batchAge).
		WithCheckpointInterval(CheckpointInterval).
		WithShutdownTimeout(opt.CloseTimeout).
		// The guard is asked once for each checkpoint, before the other keys sign.
		WithCheckpointSigner(&guarded{signers[0], g}, noteSigners(signers[1:])...)
	if o, err = l.withWitnesses(o); err != nil {
		return nil, err
	}
	quietKlog()
	ctx, cancel := context.WithCancel(context.Background())
	driver, err := posix.New(ctx, posix.Config{Path: dir, HTTPClient: l.client()})
	if err == nil {
		l.appender, l.shutdown, _, err = tessera.NewAppender(ctx, driver, o)
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open the audit log %s: %w", dir, err)
	}
	l.cancel = cancel
	go l.group(ctx)
	go l.watch(ctx)
	if err := l.announceKeys(signers); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// tryLock takes the lock or says that somebody has it.
func tryLock(path string) (func(), error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	unlock, err := durable.Lock(ctx, path, cancel)
	if errors.Is(err, context.Canceled) {
		return nil, fmt.Errorf("%s: %w\nhint: two servers cannot share one folder; stop the other one, or read with `twinhull audit list --log DIR`", filepath.Dir(path), ErrInUse)
	}
	return unlock, err
}

// quietKlog sends what the storage library says to slog, at the level of debug.
// The library has one logger for the whole process, so it is set once, before
// the library is first used.
var quietKlog = sync.OnceFunc(func() { klog.SetSlogLogger(slog.New(below{})) })

// below passes records on to the default logger one level lower than they come.
// What fails for a caller is returned to it as an error.
type below struct{ slog.Handler }

func (below) Enabled(ctx context.Context, l slog.Level) bool {
	return slog.Default().Enabled(ctx, l-4)
}
func (below) Handle(ctx context.Context, r slog.Record) error {
	r.Level -= 4
	return slog.Default().Handler().Handle(ctx, r)
}
func (b below) WithAttrs([]slog.Attr) slog.Handler { return b }
func (b below) WithGroup(string) slog.Handler      { return b }

func noteSigners(all []*signer) []note.Signer {
	var s []note.Signer
	for _, x := range all {
		s = append(s, x)
	}
	return s
}

// keys reads the log's keys, or makes the first one of a new log.
func (l *Log) keys() ([]*signer, error) {
	file := l.opt.KeyFile
	if file == "" {
		file = filepath.Join(l.dir, privateFile)
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if !l.empty() {
			return nil, fmt.Errorf("the audit log in %s has entries, but its key %s is not there\nhint: restore the key from the backup; a log that goes on with another key without saying so is a forged one", l.dir, file)
		}
		if text, err = l.newKey(file); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	first, err := parseSigner(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if want := l.opt.Installation; want != "" && first.Name() != Origin(want) {
		return nil, fmt.Errorf("%s: the log is %s, and the configuration names the installation %q\nhint: a log keeps its name; take %q out of the configuration or give another folder", file, first.Name(), want, want)
	}
	signers := []*signer{first}
	olds := slices.Clone(l.opt.OldKeyFiles)
	if old := filepath.Join(l.dir, oldFile); l.opt.KeyFile != old {
		if _, err := os.Lstat(old); err == nil {
			olds = append(olds, old)
		}
	}
	for _, old := range olds {
		text, err := os.ReadFile(old)
		if err != nil {
			return nil, err
		}
		s, err := parseSigner(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", old, err)
		}
		if s.Name() != first.Name() {
			return nil, fmt.Errorf("%s: a key of %s, want one of %s", old, s.Name(), first.Name())
		}
		if !slices.ContainsFunc(signers, func(k *signer) bool { return k.verifier == s.verifier }) {
			signers = append(signers, s)
		}
	}
	for _, s := range signers {
		l.public = append(l.public, s.verifier)
	}
	if l.trust, err = NewTrust(l.public, nil, 0); err != nil {
		return nil, err
	}
	// Anchors may be older than the keys in use. log.pub, which whoever can write
	// to the folder can change, is asked for them only: a key too many there makes
	// another anchor readable, and never another checkpoint.
	known := l.public
	if f, err := os.ReadFile(filepath.Join(l.dir, publicFile)); err == nil {
		earlier, err := ReadKeys(bytes.NewReader(f))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(l.dir, publicFile), err)
		}
		for _, k := range earlier {
			if !slices.Contains(known, k) {
				known = append(slices.Clone(known), k)
			}
		}
	}
	l.known, err = NewTrust(known, nil, 0)
	return signers, err
}

// empty tells whether there is no tree in the folder yet.
func (l *Log) empty() bool {
	for _, name := range []string{"checkpoint", "tile", stateFile} {
		if _, err := os.Lstat(filepath.Join(l.dir, name)); err == nil {
			return false
		}
	}
	return true
}

func (l *Log) newKey(file string) ([]byte, error) {
	name := l.opt.Installation
	if name == "" {
		var b [8]byte
		if _, err := io.ReadFull(rand.Reader, b[:]); err != nil {
			return nil, err
		}
		name = hex.EncodeToString(b[:])
	}
	private, _, err := GenerateKey(Origin(name))
	if err != nil {
		return nil, err
	}
	text := []byte(private + "\n")
	if err := durable.WriteFile(file, text, 0o600); err != nil {
		return nil, fmt.Errorf("make the audit log's key: %w", err)
	}
	l.logger.Info("made the audit log's key", "file", file, "origin", Origin(name))
	return text, nil
}

// begin writes the checkpoint of the empty tree for a new log, so that from then
// on a log without a checkpoint is a damaged one. The storage would do the same,
// but would ask the witnesses first, who have nothing to say about nothing.
func (l *Log) begin(s *signer) error {
	if !l.empty() {
		return nil
	}
	c := &Checkpoint{Origin: s.Name(), Root: emptyRoot}
	raw, err := note.Sign(&note.Note{Text: c.body()}, s)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(l.dir, "checkpoint"), raw, 0o644)
}

// parseState reads the storage's state, in the one form in which it is written.
func parseState(raw []byte) (*state, error) {
	var s struct {
		Size uint64 `json:"size"`
		Root []byte `json:"root"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("not the state of a writer: %v", err)
	}
	again, err := json.Marshal(s)
	if err != nil || !bytes.Equal(raw, again) || len(s.Root) != len(Hash{}) {
		return nil, errors.New("not the state of a writer")
	}
	return &state{s.Size, Hash(s.Root)}, nil
}

// examine compares the checkpoint, the state and the tiles at the right edge of
// the tree, and the anchors with all of them. It returns the checkpoint.
func (l *Log) examine(ctx context.Context) (*Checkpoint, error) {
	refuse := func(err error) (*Checkpoint, error) {
		return nil, fmt.Errorf("the audit log in %s cannot be gone on with: %w\nhint: `twinhull audit verify --log DIR` tells all that is wrong; restore the newest backup, which must not be older than any anchor", l.dir, err)
	}
	c, err := NewReader(l.src, l.trust).Checkpoint(ctx)
	if errors.Is(err, ErrUnsigned) {
		return nil, fmt.Errorf("the audit log in %s cannot be gone on with: %w\nhint: after a change of keys the old key signs, too, until the new one has signed once: keep it as log.old.key beside log.key", l.dir, err)
	}
	if err != nil {
		return refuse(err)
	}
	s := &state{root: emptyRoot}
	raw, err := l.src.ReadFile(ctx, stateFile, 1<<10)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.Size == 0:
		// The crash came between the first checkpoint and the first state.
	case errors.Is(err, fs.ErrNotExist):
		return refuse(fmt.Errorf("%s is not there, and the checkpoint covers %d entries", stateFile, c.Size))
	case err != nil:
		return nil, err
	default:
		if s, err = parseState(raw); err != nil {
			return refuse(fmt.Errorf("%s: %w", stateFile, err))
		}
	}
	same := func(name string, size uint64, root Hash) error {
		if size > s.size {
			return fmt.Errorf("%s covers %d entries, and the log has %d", name, size, s.size)
		}
		got, err := tiledRoot(ctx, l.src, size, s.size)
		if err != nil {
			return err
		}
		if got != root {
			return fmt.Errorf("%s: its %d entries are not those that the log has", name, size)
		}
		return nil
	}
	if err := same(stateFile, s.size, s.root); err != nil {
		return refuse(err)
	}
	if err := same("checkpoint", c.Size, c.Root); err != nil {
		return refuse(err)
	}
	for _, a := range l.opt.Anchors {
		ac, err := l.known.Open(a.Raw)
		if err != nil {
			return refuse(fmt.Errorf("%s: %w", a.Name, err))
		}
		if err := same(a.Name, ac.Size, ac.Root); err != nil {
			return refuse(err)
		}
	}
	return c, nil
}

// sweep removes what interrupted writes of the storage left: files under names
// with a random number behind them, which no reader asks for.
func (l *Log) sweep(below string) error {
	top := filepath.Join(l.dir, below)
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if path == top && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(l.dir, path)
		if err != nil {
			return err
		}
		if rel = filepath.ToSlash(rel); !isTemporary(rel) {
			return nil
		}
		l.logger.Info("removed what an interrupted write left", "file", path)
		return os.Remove(path)
	})
}

// tidy removes what interrupted and failed appends left under names of the tree:
// bundles and tiles beyond the recorded size, and partial ones that what was
// appended afterwards does not begin with. No checkpoint ever needed them.
func (l *Log) tidy(ctx context.Context) error {
	s, err := l.state(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was appended yet
	}
	if err != nil {
		return err
	}
	top := filepath.Join(l.dir, "tile")
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == top {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(l.dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		level, index, partial, ok := parseTile(rel)
		if !ok {
			return nil
		}
		at, has := uint64(max(level, 0)), wideAt(uint64(max(level, 0)), index, s.size)
		if has > 0 && partial == layout.PartialTileSize(at, index, s.size) || has == width && partial == 0 {
			return nil // the tree's own
		}
		if begins, err := beginning(ctx, l.src, rel, level, index, partial, s.size); err != nil || begins {
			return err
		}
		l.logger.Info("removed what an interrupted append left", "file", path)
		return os.Remove(path)
	})
}

// isTemporary tells the storage's temporary files: a name of its own and digits.
func isTemporary(path string) bool {
	if ours(path) {
		return false
	}
	if durable.IsTemp(filepath.Base(path)) {
		return true
	}
	bare := strings.TrimRight(path, "0123456789")
	if bare == path {
		return false
	}
	if ours(bare) {
		return true
	}
	_, _, _, valid := parseTile(path)
	return !valid && strings.HasPrefix(path, "tile/")
}

// guard looks at every checkpoint before it is signed: a log that has signed two
// histories cannot be mended, one that has stopped signing can.
type guard struct {
	log  *Log
	mu   sync.Mutex
	last *Checkpoint
}

// guarded is the log's signer behind its guard.
type guarded struct {
	*signer
	guard *guard
}

func (g *guarded) Sign(msg []byte) ([]byte, error) {
	c, err := parseBody(string(msg))
	if err == nil {
		err = g.guard.allow(c)
	}
	if err != nil {
		err = fmt.Errorf("not signed: %w", err)
		g.guard.log.logger.Error("the audit log refuses to sign a checkpoint", "err", err)
		return nil, err
	}
	return g.signer.Sign(msg)
}

// allow wants a tree that its tiles have and that begins with the one which was
// signed before.
func (g *guard) allow(c *Checkpoint) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx := context.Background()
	if c.Size < g.last.Size {
		return fmt.Errorf("%d entries after %d were signed", c.Size, g.last.Size)
	}
	root, err := tiledRoot(ctx, g.log.src, c.Size, c.Size)
	if err != nil {
		return err
	}
	if root != c.Root {
		return fmt.Errorf("the tiles of %d entries have another root", c.Size)
	}
	p, err := consistency(ctx, tiles(g.log.src, c.Size), g.last.Size, c.Size)
	if err != nil {
		return err
	}
	if err := VerifyConsistency(g.last, c, p); err != nil {
		return err
	}
	g.last = c
	return nil
}

// withWitnesses adds the witnesses to the storage's options.
func (l *Log) withWitnesses(o *tessera.AppendOptions) (*tessera.AppendOptions, error) {
	n := len(l.opt.Witnesses)
	if l.opt.Quorum < 0 || l.opt.Quorum > n {
		return nil, fmt.Errorf("a quorum of %d witnesses of %d", l.opt.Quorum, n)
	}
	if n == 0 {
		// Without a witness's time in it, a checkpoint of the same tree is the
		// same bytes.
		return o.WithCheckpointRepublishInterval(0), nil
	}
	timeout := l.opt.WitnessTimeout
	if timeout == 0 {
		timeout = 2 * time.Second
	}
	// With no quorum one signature ends the waiting, and none is no failure.
	group := tessera.WitnessGroup{N: max(l.opt.Quorum, 1)}
	names := map[string]bool{}
	for _, w := range l.opt.Witnesses {
		v, err := parseWitnessKey(w.Key)
		if err != nil {
			return nil, err
		}
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fmt.Errorf("witness %s: URL %q: want http(s)://HOST/PATH", v.Name(), w.URL)
		}
		if names[v.Name()] || names[u.String()] {
			return nil, fmt.Errorf("witness %s stands twice in the list: it is one witness all the same", v.Name())
		}
		names[v.Name()], names[u.String()] = true, true
		group.Components = append(group.Components, tessera.Witness{Key: v, URL: u.JoinPath("add-checkpoint").String()})
	}
	return o.WithWitnesses(group, &tessera.WitnessOptions{Timeout: timeout, FailOpen: l.opt.Quorum == 0}).
		WithCheckpointRepublishInterval(10 * time.Minute), nil
}

// client asks witnesses: it follows no redirects and reads short answers only.
func (l *Log) client() *http.Client {
	c := &http.Client{Timeout: 10 * time.Second}
	if l.opt.Client != nil {
		clone := *l.opt.Client
		c = &clone
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	next := c.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	c.Transport = &shortAnswers{next, l.logger}
	return c
}

type shortAnswers struct {
	next   http.RoundTripper
	logger *slog.Logger
}

func (s *shortAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.next.RoundTrip(r)
	switch {
	case err != nil && !errors.Is(err, context.Canceled):
		s.logger.Warn("a witness did not answer", "url", r.URL.String(), "err", err)
	case err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusConflict:
		s.logger.Warn("a witness refused a checkpoint", "url", r.URL.String(), "status", resp.StatusCode)
	}
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{io.LimitReader(resp.Body, 64<<10), resp.Body}
	return resp, nil
}

type limitedBody struct {
	io.Reader
	io.Closer
}

// announceKeys writes log.pub, and an entry when the log goes on with a key that
// it did not have before: a change of keys is a decision like others.
func (l *Log) announceKeys(signers []*signer) error {
	path := filepath.Join(l.dir, publicFile)
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var before []string
	if len(old) > 0 {
		if before, err = ReadKeys(bytes.NewReader(old)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if !slices.Contains(before, signers[0].verifier) {
		if len(before) > 0 {
			_, err := l.Append(context.Background(), Entry{
				ID: "key " + signers[0].verifier, Action: KeyChange, Verdict: Allowed,
				Actor:  Actor{Name: "server", Method: "server"},
				Detail: map[string]string{"key": signers[0].verifier, "before": before[0], "of": "audit log"},
			})
			if err != nil {
				return err
			}
		}
		before = append([]string{signers[0].verifier}, before...)
		text := strings.Join(before, "\n") + "\n"
		if err := durable.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// watch keeps checkpoints coming when the machine's clock was set back: the
// storage takes the age of the published checkpoint from its file's time and
// would wait until that time is reached again.
func (l *Log) watch(ctx context.Context) {
	defer close(l.stopped)
	path := filepath.Join(l.dir, "checkpoint")
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if info, err := os.Stat(path); err == nil {
			if now := time.Now(); info.ModTime().After(now.Add(CheckpointInterval)) {
				l.logger.Warn("the clock was set back: the audit log's checkpoint is from the future", "by", info.ModTime().Sub(now))
				if err := os.Chtimes(path, now, now); err != nil {
					l.logger.Error("cannot set the time of the audit log's checkpoint", "err", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Append writes an entry and returns its index when it is durably in the tree:
// after a crash the next checkpoint covers it. An empty type and time are filled
// in. Strings that are not UTF-8 are made so.
//
// ctx is looked at before the entry is queued only: what was queued is waited
// for. After an error that is not of the entry itself (ErrEntry) it may or may
// not be in the log; Find tells.
func (l *Log) Append(ctx context.Context, e Entry) (index uint64, err error) {
	if e.Type == "" {
		e.Type = EntryType
	}
	if e.Time == "" {
		e.Time = Timestamp(l.opt.Now())
	}
	data, err := Marshal(sanitize(e))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return 0, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := l.writable(); err != nil {
		return 0, fmt.Errorf("append to the audit log: %w", err)
	}
	w := waiting{tessera.NewEntry(data), make(chan written, 1)}
	l.queue <- w
	done := <-w.done
	if done.err != nil {
		return 0, fmt.Errorf("append to the audit log: %w", done.err)
	}
	return done.index, nil
}

// waiting is an entry that somebody waits for.
type waiting struct {
	entry *tessera.Entry
	done  chan written
}

type written struct {
	index uint64
	err   error
}

// group hands entries to the storage: all that came while the last ones were
// written, at once. The storage alone would cut them by time into batches as
// small as its waiting is short, and write every one of them.
func (l *Log) group(ctx context.Context) {
	last := 1
	var swept time.Time
	for {
		var batch []waiting
		select {
		case <-ctx.Done():
			return
		case w := <-l.queue:
			batch = append(batch, w)
		}
		// Those whose entries were just written are about to come with the next:
		// as many as there were are waited for, but not long. Who is alone waits
		// for nobody.
		patience := time.NewTimer(2 * time.Millisecond)
		for more := true; more && len(batch) < batchSize; {
			select {
			case w := <-l.queue:
				batch = append(batch, w)
				continue
			default:
			}
			if more = len(batch) < last; more {
				select {
				case w := <-l.queue:
					batch = append(batch, w)
				case <-patience.C:
					more = false
				}
			}
		}
		patience.Stop()
		last = len(batch)
		futures := make([]tessera.IndexFuture, len(batch))
		for i, w := range batch {
			futures[i] = l.appender.Add(ctx, w.entry)
		}
		results := make([]written, len(batch))
		failed := false
		for i := range batch {
			at, err := futures[i]()
			results[i] = written{at.Index, err}
			failed = failed || err != nil
		}
		// A full disk makes the storage leave its temporary files. Nothing is being
		// written below tile now, so they can go, and with them what they fill.
		if failed && time.Since(swept) > sweepInterval {
			swept = time.Now()
			if err := l.sweep("tile"); err != nil {
				l.logger.Warn("cannot tidy up after a failed append", "err", err)
			}
		}
		for i, w := range batch {
			w.done <- results[i]
		}
	}
}

// ErrEntry is matched by Append's error when the entry itself is at fault and
// was not written.
var ErrEntry = errors.New("this cannot be logged")

// writable finds out early what the storage would end the process for: that its
// lock file cannot be opened, on a read-only disk or without descriptors left.
func (l *Log) writable() error {
	// Our own lock file, not the storage's: closing a file gives up all fcntl locks
	// that the process has on it.
	f, err := os.OpenFile(filepath.Join(l.dir, lockFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Size is how many entries are durably in the tree. A checkpoint may cover fewer
// for a moment.
func (l *Log) Size(ctx context.Context) (uint64, error) {
	s, err := l.state(ctx)
	if err != nil {
		return 0, err
	}
	return s.size, nil
}

func (l *Log) state(ctx context.Context) (*state, error) {
	raw, err := l.src.ReadFile(ctx, stateFile, 1<<10)
	if err != nil {
		return nil, err
	}
	return parseState(raw)
}

// Checkpoint returns the newest published checkpoint, a signed note with the
// cosignatures of witnesses. It covers the entries that were appended up to two
// CheckpointIntervals ago; Await waits for one that covers more.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	return l.src.ReadFile(ctx, "checkpoint", maxCheckpoint)
}

// Await returns the first checkpoint that covers an entry, waiting until one is
// published or ctx ends.
func (l *Log) Await(ctx context.Context, index uint64) ([]byte, error) {
	for {
		raw, err := l.Checkpoint(ctx)
		if err != nil {
			return nil, err
		}
		c, err := l.trust.Open(raw)
		if err != nil {
			return nil, err
		}
		if c.Size > index {
			return raw, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no checkpoint covers entry %d of the audit log yet: %w", index, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Entry returns the entry at an index, of those that are durably in the tree.
func (l *Log) Entry(ctx context.Context, index uint64) (Entry, error) {
	size, err := l.Size(ctx)
	if err != nil {
		return Entry{}, err
	}
	if index >= size {
		return Entry{}, fmt.Errorf("the log has %d entries, so there is no entry %d: %w", size, index, fs.ErrNotExist)
	}
	all, err := readBundle(ctx, l.src, index/width, size)
	if err != nil {
		return Entry{}, err
	}
	return Parse(all[index%width])
}

// Find looks for the entry with an ID among those from an index on, and returns
// the first.
func (l *Log) Find(ctx context.Context, from uint64, id string) (index uint64, found bool, err error) {
	size, err := l.Size(ctx)
	if err != nil {
		return 0, false, err
	}
	needle, err := appendString([]byte(`"id":`), id)
	if err != nil {
		return 0, false, err
	}
	for i := from; i < size; {
		all, err := readBundle(ctx, l.src, i/width, size)
		if err != nil {
			return 0, false, err
		}
		for ; i < size && i%width < uint64(len(all)); i++ {
			raw := all[i%width]
			if bytes.Contains(raw, needle) {
				if e, err := Parse(raw); err == nil && e.ID == id {
					return i, true, nil
				}
			}
			if i%width == width-1 {
				i++
				break
			}
		}
	}
	return 0, false, nil
}

// Reader reads the log as a client would: what checkpoints cover.
func (l *Log) Reader() *Reader { return NewReader(l.src, l.trust) }

// Origin is the log's name.
func (l *Log) Origin() string { return l.trust.Origin() }

// Keys are the verifier keys of the log's signatures, the current one first.
func (l *Log) Keys() []string { return slices.Clone(l.public) }

// Handler serves the log to readers; see Handler.
func (l *Log) Handler() http.Handler { return Handler(l.dir) }

// Stats is what an operator watches.
type Stats struct {
	Size      uint64    // entries that are durably in the tree
	Published uint64    // entries that the newest checkpoint covers
	At        time.Time // when that checkpoint was published, by its file's time
}

// Stats reads the sizes. Published staying behind Size for more than some seconds
// means that witnesses do not answer or that the log refuses to sign.
func (l *Log) Stats(ctx context.Context) (Stats, error) {
	raw, err := l.Checkpoint(ctx)
	if err != nil {
		return Stats{}, err
	}
	c, err := l.trust.Open(raw)
	if err != nil {
		return Stats{}, err
	}
	info, err := os.Stat(filepath.Join(l.dir, "checkpoint"))
	if err != nil {
		return Stats{}, err
	}
	size, err := l.Size(ctx)
	return Stats{size, c.Size, info.ModTime()}, err
}

// Close waits for the appends that are under way and, for up to CloseTimeout, for
// a checkpoint that covers all. The log is closed whatever it returns.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	err := l.shutdown(context.Background())
	l.cancel()
	<-l.stopped
	l.unlock()
	if err != nil {
		return fmt.Errorf("close the audit log: its newest entries are in the tree, but no checkpoint covers them yet: %w", err)
	}
	return nil
}
