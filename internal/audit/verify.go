package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
)

// Kind is what sort of fault was found in a log. It is stable.
type Kind string

// The kinds.
const (
	Altered     Kind = "altered"     // a file is not what the tree says
	Missing     Kind = "missing"     // a file of the tree is not there
	Truncated   Kind = "truncated"   // the log is shorter than it was
	Forked      Kind = "forked"      // the log has signed two histories
	Unsigned    Kind = "unsigned"    // the checkpoint is nobody's who is believed
	Unwitnessed Kind = "unwitnessed" // fewer witnesses than the quorum signed the checkpoint
	Malformed   Kind = "malformed"   // an entry of the tree is not one that a log of ours writes
)

// Problem is one fault of a log.
type Problem struct {
	Kind Kind   `json:"kind"`
	Path string `json:"path"` // the file, or the entries, that it was found in
	What string `json:"what"`
}

func (p Problem) String() string { return fmt.Sprintf("%s: %s: %s", p.Kind, p.Path, p.What) }

// Anchor is a signed checkpoint that was kept outside the log: in a release's
// verification summary, by a witness, on a slip of paper.
type Anchor struct {
	Name string // where it is from, for messages
	Raw  []byte // the signed note
}

// VerifyOptions is what Verify is given besides the log. The zero value is
// complete.
type VerifyOptions struct {
	// Anchors are what the log cannot take back. Without any, a log whose newest
	// part was cut off together with its checkpoint looks like a shorter log.
	Anchors []Anchor
	// Each is given every entry in order; nil for nobody. An error ends Verify.
	Each func(Record) error
}

// Report is what Verify found.
type Report struct {
	Origin    string    `json:"origin"`
	Size      uint64    `json:"size"`                // entries that the checkpoint covers
	Root      string    `json:"root,omitempty"`      // of their tree, in hexadecimal
	Pending   uint64    `json:"pending"`             // entries of a folder that no checkpoint covers yet
	Witnesses []string  `json:"witnesses,omitempty"` // who cosigned the checkpoint
	Anchors   int       `json:"anchors"`             // given checkpoints that the log agrees with
	Problems  []Problem `json:"problems"`            // none: the log is whole
	Notes     []string  `json:"notes,omitempty"`     // what is no fault
}

// maxProblems is where a report ends.
const maxProblems = 100

var errEnough = errors.New("too many problems")

// Verify recomputes a log from its entries: every tile, the root that the
// checkpoint signs, the roots of all anchors, and, in a folder, the state that
// the writer goes on from. It needs the files and the log's public key alone.
//
// An error means that it could not be decided; a report without problems, that
// nothing was changed, removed or taken back, as far as the anchors reach.
func Verify(ctx context.Context, src Source, trust *Trust, opt VerifyOptions) (*Report, error) {
	if err := trust.check(); err != nil {
		return nil, err
	}
	v := &verifier{ctx: ctx, src: src, trust: trust, opt: opt, want: map[uint64][]expected{}}
	v.report = &Report{Origin: trust.Origin(), Problems: []Problem{}}
	err := v.run()
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return v.report, nil
}

// expected is a root that a tree must have at some size.
type expected struct {
	root Hash
	kind Kind
	path string
	what string
	met  func()
}

type verifier struct {
	ctx    context.Context
	src    Source
	trust  *Trust
	opt    VerifyOptions
	report *Report
	want   map[uint64][]expected

	levels  [][]node // of each level the hashes of the tile that is being filled
	filled  []uint64 // of each level how many tiles were filled
	byEntry *compact.Range
	byTile  *compact.Range
	differ  []difference
	signed  side
	last    time.Time
}

// node is a hash of the tree, by the entries and by the stored tiles of level 0.
// The two differ above a bundle that is not what its tile says; a tile of a
// higher level is at fault itself only when it agrees with neither.
type node struct{ entries, tiles Hash }

// difference is a bundle and a tile of hashes that should be those of its
// entries. side is what the signed root speaks for; nobody knows before a root
// was met.
type difference struct{ bundle, tile, at string }

type side int

const (
	byEntries side = iota + 1
	byTiles
)

func (v *verifier) found(kind Kind, path, format string, a ...any) error {
	p := Problem{kind, path, fmt.Sprintf(format, a...)}
	if !slices.Contains(v.report.Problems, p) {
		v.report.Problems = append(v.report.Problems, p)
	}
	if len(v.report.Problems) >= maxProblems {
		v.report.Notes = append(v.report.Notes, "there may be more problems: the search ended here")
		return errEnough
	}
	return nil
}

// or records damage as a problem and passes other errors on.
func (v *verifier) or(err error) error {
	if d, ok := errors.AsType[*damage](err); ok {
		return v.found(d.Kind, d.Path, "%s", d.What)
	}
	return err
}

func (v *verifier) note(format string, a ...any) {
	const most = 20
	if len(v.report.Notes) < most {
		v.report.Notes = append(v.report.Notes, fmt.Sprintf(format, a...))
	}
}

func (v *verifier) run() error {
	anchors, err := v.anchors()
	if err != nil {
		return err
	}
	raw, err := v.src.ReadFile(v.ctx, "checkpoint", maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		if v.isLog() {
			return v.found(Missing, "checkpoint", "the log has no checkpoint")
		}
		return fmt.Errorf("there is no log here: %w", err)
	}
	if errors.Is(err, errTooLarge) {
		return v.found(Altered, "checkpoint", "larger than a checkpoint can be")
	}
	if err != nil {
		return err
	}
	// The log's own signature first, so that what is signed can be recomputed
	// although witnesses are missing.
	cp, err := v.logOnly().Open(raw)
	if err != nil {
		kind := Altered
		if errors.Is(err, ErrUnsigned) {
			kind = Unsigned
		}
		return v.found(kind, "checkpoint", "%v", err)
	}
	if full, err := v.trust.Open(raw); err != nil {
		kind := Altered
		if errors.Is(err, ErrQuorum) {
			kind = Unwitnessed
		}
		if err := v.found(kind, "checkpoint", "%v", err); err != nil {
			return err
		}
	} else {
		cp = full
	}
	v.report.Size, v.report.Root, v.report.Witnesses = cp.Size, fmt.Sprintf("%x", cp.Root), cp.Witnesses
	v.expect(cp.Size, expected{root: cp.Root, kind: Altered, path: "checkpoint", what: "the entries do not have the root that it signs"})

	total := cp.Size
	state, err := v.state(cp.Size)
	if err != nil {
		return err
	}
	if state != nil && state.size > total {
		total = state.size
		v.report.Pending = state.size - cp.Size
		v.expect(state.size, expected{root: state.root, kind: Altered, path: stateFile, what: "the entries do not have the root that the writer would go on from"})
	}
	for _, a := range anchors {
		if a.Size > cp.Size {
			if err := v.found(Truncated, "checkpoint", "it covers %d entries, but %s covers %d: at least %d are gone or hidden", cp.Size, a.name, a.Size, a.Size-cp.Size); err != nil {
				return err
			}
		}
		if a.Size <= total {
			v.expect(a.Size, expected{root: a.Root, kind: Forked, path: a.name,
				what: fmt.Sprintf("its %d entries are not those that the log has now", a.Size), met: func() { v.report.Anchors++ }})
		}
	}
	whole, err := v.recompute(cp.Size, total)
	if err != nil {
		return err
	}
	return v.folder(total, whole)
}

func (v *verifier) logOnly() *Trust {
	t := *v.trust
	t.Quorum, t.Witnesses = 0, nil
	return &t
}

func (v *verifier) expect(size uint64, e expected) { v.want[size] = append(v.want[size], e) }

type namedCheckpoint struct {
	*Checkpoint
	name string
}

// anchors opens what must be believed, and compares the anchors with each other:
// two histories that the log has signed are a fork whatever the files say.
func (v *verifier) anchors() ([]namedCheckpoint, error) {
	var all []namedCheckpoint
	for _, a := range v.opt.Anchors {
		c, err := v.logOnly().Open(a.Raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Name, err)
		}
		for _, b := range all {
			if b.Size == c.Size && b.Root != c.Root {
				if err := v.found(Forked, a.Name, "the log has signed another root of %d entries in %s", c.Size, b.name); err != nil {
					return nil, err
				}
			}
		}
		all = append(all, namedCheckpoint{c, a.Name})
	}
	return all, nil
}

// recompute goes through all entries up to total. It reports false when it had
// to stop before.
func (v *verifier) recompute(covered, total uint64) (bool, error) {
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	v.byEntry, v.byTile = f.NewEmptyRange(0), f.NewEmptyRange(0)
	if err := v.reached(0); err != nil {
		return false, err
	}
	for bundle := uint64(0); bundle*width < total; bundle++ {
		if err := v.ctx.Err(); err != nil {
			return false, err
		}
		entries, err := readBundle(v.ctx, v.src, bundle, total)
		if err != nil {
			return false, v.or(err)
		}
		if err := v.bundle(bundle, entries, covered, total); err != nil {
			return false, err
		}
	}
	if err := v.edge(total); err != nil {
		return false, err
	}
	for _, d := range v.differ {
		p := Problem{Altered, d.bundle, "differs from " + d.tile + " at entries " + d.at}
		switch v.signed {
		case byEntries:
			p.Path, p.What = d.tile, "not the hashes of entries "+d.at
		case byTiles:
			p.What = "entries " + d.at + " are not those that were logged"
		}
		if err := v.found(p.Kind, p.Path, "%s", p.What); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (v *verifier) bundle(index uint64, entries [][]byte, covered, total uint64) error {
	partial := layout.PartialTileSize(0, index, total)
	own := make([]Hash, len(entries))
	for i, e := range entries {
		own[i] = leafHash(e)
	}
	stored := own
	path := layout.TilePath(0, index, partial)
	tile, err := tiles(v.src, total)(v.ctx, 0, index, 0)
	if err == nil && len(tile) < len(own)*32 {
		err = damaged(Altered, path, "%d bytes, want %d", len(tile), len(own)*32)
	}
	if err != nil {
		if err := v.or(err); err != nil {
			return err
		}
	} else if tile = tile[:len(own)*32]; !equalHashes(tile, own) {
		stored = make([]Hash, len(own))
		for i := range stored {
			copy(stored[i][:], tile[i*32:])
		}
		v.different(index, partial, own, stored)
	}
	for i, e := range entries {
		at := index*width + uint64(i)
		rec := Record{Index: at, Raw: e}
		if rec.Entry, rec.Err = Parse(e); rec.Err != nil && !errors.Is(rec.Err, ErrEntryType) {
			if err := v.found(Malformed, fmt.Sprintf("entry %d", at), "%v", rec.Err); err != nil {
				return err
			}
		}
		v.clock(rec)
		if v.opt.Each != nil {
			if err := v.opt.Each(rec); err != nil {
				return err
			}
		}
		if err := errors.Join(v.byEntry.Append(own[i][:], nil), v.byTile.Append(stored[i][:], nil)); err != nil {
			return err
		}
		v.push(0, node{own[i], stored[i]})
		if err := v.fill(); err != nil {
			return err
		}
		if at+1 == covered && at+1 != total {
			if err := v.edge(covered); err != nil {
				return err
			}
			if err := v.smaller(index, entries[:i+1], covered); err != nil {
				return err
			}
		}
		if err := v.reached(at + 1); err != nil {
			return err
		}
	}
	return nil
}

// different notes where a bundle and its tile disagree. Which of them was
// changed the root tells later.
func (v *verifier) different(index uint64, partial uint8, own, stored []Hash) {
	var at []string
	for i := range own {
		if own[i] != stored[i] {
			at = append(at, strconv.FormatUint(index*width+uint64(i), 10))
		}
	}
	if len(at) > 8 {
		at = append(at[:8], "…")
	}
	v.differ = append(v.differ, difference{layout.EntriesPath(index, partial), layout.TilePath(0, index, partial), strings.Join(at, ", ")})
}

// clock notes where the server's clock went back: the order of the log is that of
// the tree, not of the times.
func (v *verifier) clock(r Record) {
	const much = time.Minute
	t, err := time.Parse(time.RFC3339Nano, r.Entry.Time)
	if err != nil {
		return
	}
	if t.Before(v.last.Add(-much)) {
		v.note("the server's clock went back by %v before entry %d", v.last.Sub(t).Round(time.Second), r.Index)
	}
	v.last = t
}

func (v *verifier) push(level int, h node) {
	if level == len(v.levels) {
		v.levels, v.filled = append(v.levels, nil), append(v.filled, 0)
	}
	v.levels[level] = append(v.levels[level], h)
}

// fill moves full tiles up: each is one hash of the level above.
func (v *verifier) fill() error {
	for level := 0; level < len(v.levels) && len(v.levels[level]) == width; level++ {
		if level > 0 { // those of level 0 were compared with their bundles
			if err := v.tile(level, v.filled[level], 0); err != nil {
				return err
			}
		}
		up := node{entries: subtree(v.levels[level], node.byEntries)}
		if up.tiles = up.entries; len(v.differ) > 0 {
			up.tiles = subtree(v.levels[level], node.byTiles)
		}
		v.levels[level] = v.levels[level][:0]
		v.filled[level]++
		v.push(level+1, up)
	}
	return nil
}

func (n node) byEntries() Hash { return n.entries }
func (n node) byTiles() Hash   { return n.tiles }

// subtree is the root of a full tile (RFC 6962 2.1).
func subtree(tile []node, side func(node) Hash) Hash {
	level := make([]Hash, len(tile))
	for i, n := range tile {
		level[i] = side(n)
	}
	for ; len(level) > 1; level = level[:len(level)/2] {
		for i := range len(level) / 2 {
			level[i] = Hash(rfc6962.DefaultHasher.HashChildren(level[2*i][:], level[2*i+1][:]))
		}
	}
	return level[0]
}

// edge compares the tiles at the right edge of a tree of some size, which is how
// far the entries were read.
func (v *verifier) edge(size uint64) error {
	for level := range v.levels {
		n := len(v.levels[level])
		if n == 0 || n == width {
			continue
		}
		if err := v.tile(level, v.filled[level], uint8(n)); err != nil {
			return err
		}
	}
	return nil
}

// tile compares the tile that is being filled with its file.
func (v *verifier) tile(level int, index uint64, partial uint8) error {
	want := v.levels[level]
	path := layout.TilePath(uint64(level), index, partial)
	data, err := readWide(v.ctx, v.src, func(p uint8) string { return layout.TilePath(uint64(level), index, p) }, partial, maxTile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return v.found(Missing, path, "a tile of the tree is not there")
	case errors.Is(err, errTooLarge):
		return v.found(Altered, path, "larger than a tile can be")
	case err != nil:
		return err
	}
	if len(data) > len(want)*32 && len(data) == maxTile { // the full one
		data = data[:len(want)*32]
	}
	var entries, tiles []Hash
	for _, n := range want {
		entries, tiles = append(entries, n.entries), append(tiles, n.tiles)
	}
	// At level 0 the bundle compared the tile: what differs was noted there.
	if !equalHashes(data, entries) && !equalHashes(data, tiles) {
		return v.found(Altered, path, "not the hashes that the entries have")
	}
	return nil
}

// smaller compares the bundle of a smaller tree with that of the larger.
func (v *verifier) smaller(index uint64, entries [][]byte, size uint64) error {
	if layout.PartialTileSize(0, index, size) == 0 {
		return nil
	}
	got, err := readBundle(v.ctx, v.src, index, size)
	if err != nil {
		return v.or(err)
	}
	if !slices.EqualFunc(got, entries, bytes.Equal) {
		return v.found(Altered, layout.EntriesPath(index, layout.PartialTileSize(0, index, size)), "not the entries of the larger bundle")
	}
	return nil
}

// reached judges the roots that are expected at a size.
func (v *verifier) reached(size uint64) error {
	for _, e := range v.want[size] {
		byEntry, byTile := emptyRoot, emptyRoot
		if size > 0 {
			a, err := v.byEntry.GetRootHash(nil)
			if err != nil {
				return err
			}
			b, err := v.byTile.GetRootHash(nil)
			if err != nil {
				return err
			}
			byEntry, byTile = Hash(a), Hash(b)
		}
		switch {
		case byEntry == e.root:
			v.signed = byEntries
			if e.met != nil {
				e.met()
			}
		case byTile == e.root:
			// The tiles are what was signed, so some entry is not; recompute
			// tells which.
			v.signed = byTiles
		default:
			if err := v.found(e.kind, e.path, "%s", e.what); err != nil {
				return err
			}
		}
	}
	return nil
}

// isLog tells whether what has no checkpoint looks like a log all the same.
func (v *verifier) isLog() bool {
	for _, name := range []string{stateFile, layout.EntriesPath(0, 0), layout.TilePath(0, 0, 0)} {
		if _, err := v.src.ReadFile(v.ctx, name, maxBundle); err == nil {
			return true
		}
	}
	if fsys, err := v.files(); err == nil && fsys != nil {
		if e, err := fs.ReadDir(fsys, "tile"); err == nil && len(e) > 0 {
			return true
		}
	}
	return false
}

// files is the source as a file system, nil for a server.
func (v *verifier) files() (fs.FS, error) {
	switch s := v.src.(type) {
	case folder:
		root, err := os.OpenRoot(string(s))
		if err != nil {
			return nil, err
		}
		fsys := root.FS()
		// The descriptor is closed when the file system is no longer used.
		return fsys, nil
	case fsSource:
		return s.FS, nil
	}
	return nil, nil
}

type state struct {
	size uint64
	root Hash
}

// state reads what a writer would go on from, where the log is a folder.
func (v *verifier) state(covered uint64) (*state, error) {
	if fsys, err := v.files(); err != nil || fsys == nil {
		return nil, err
	}
	raw, err := v.src.ReadFile(v.ctx, stateFile, 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		v.note("%s is not there: this is a copy that was made for reading, or no writer can go on with it", stateFile)
		return nil, nil
	}
	if errors.Is(err, errTooLarge) {
		return nil, v.found(Altered, stateFile, "not the state of a writer")
	}
	if err != nil {
		return nil, err
	}
	s, err := parseState(raw)
	if err != nil {
		return nil, v.found(Altered, stateFile, "%v", err)
	}
	if s.size < covered {
		return nil, v.found(Truncated, stateFile, "the writer would go on after %d entries, and the checkpoint covers %d", s.size, covered)
	}
	if s.size == covered { // larger ones are expected by the caller
		v.expect(s.size, expected{root: s.root, kind: Altered, path: stateFile, what: "the entries do not have the root that the writer would go on from"})
	}
	return s, nil
}

// folder looks at the files that a reader would not ask for: smaller partial
// tiles, which a reader of an older checkpoint may still ask for, and strangers.
func (v *verifier) folder(total uint64, whole bool) error {
	fsys, err := v.files()
	if err != nil || fsys == nil {
		return err
	}
	strays := 0
	err = fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := v.ctx.Err(); err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return nil
		case ours(path):
			return v.own(path)
		case !whole && strings.HasPrefix(path, "tile/"):
			return nil // there is nothing to compare it with
		}
		level, index, partial, ok := parseTile(path)
		if !ok {
			strays++
			return nil
		}
		return v.older(path, level, index, partial, total, &strays)
	})
	if strays > 0 {
		v.note("%d files belong to no tree that was signed: left by interrupted appends, or put there; no reader asks for them", strays)
	}
	return err
}

// ours tells the files of a log besides the tree.
func ours(path string) bool {
	switch path {
	case "checkpoint", publicFile, privateFile, oldFile, lockFile:
		return true
	}
	dir, name, _ := strings.Cut(path, "/")
	return dir == stateDir && (slices.Contains([]string{"treeState", "gcState", "version"}, name) || strings.HasSuffix(name, ".lock"))
}

// own checks a file that the caller has not read.
func (v *verifier) own(path string) error {
	switch path {
	case publicFile:
		raw, err := v.src.ReadFile(v.ctx, path, 1<<20)
		if err != nil {
			return err
		}
		keys, err := ReadKeys(bytes.NewReader(raw))
		if err != nil {
			return v.found(Altered, path, "%v", err)
		}
		t, err := NewTrust(keys, nil, 0)
		if err != nil {
			return v.found(Altered, path, "%v", err)
		}
		if string(raw) != strings.Join(keys, "\n")+"\n" {
			return v.found(Altered, path, "not one key to a line")
		}
		if t.Origin() != v.trust.Origin() {
			return v.found(Altered, path, "keys of %s, want those of %s", t.Origin(), v.trust.Origin())
		}
	case stateDir + "/version":
		raw, err := v.src.ReadFile(v.ctx, path, 1<<10)
		if err != nil {
			return err
		}
		if string(raw) != "1" {
			return v.found(Altered, path, "version %q of the writer's files, want 1", raw)
		}
	}
	return nil
}

// parseTile reads the path of a tile or bundle; level is -1 for bundles.
func parseTile(path string) (level int, index uint64, partial uint8, ok bool) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok {
		return 0, 0, 0, false
	}
	l, name, _ := strings.Cut(rest, "/")
	index, partial, err := layout.ParseTileIndexPartial(name)
	if err != nil {
		return 0, 0, 0, false
	}
	again := layout.EntriesPath(index, partial)
	level = -1
	if l != "entries" {
		n, err := layout.ParseTileLevel(l)
		if err != nil {
			return 0, 0, 0, false
		}
		level, again = int(n), layout.TilePath(n, index, partial)
	}
	// One path only for each: nothing that a reader would not ask for.
	return level, index, partial, path == again
}

// older judges a file that the tree of total entries does not need. Smaller
// partial tiles are beginnings of larger ones where a tree had that size. Where
// none had, an append may have been interrupted or have failed, and what was
// written next is something else: nobody asks for such a file, because no
// checkpoint signs it.
func (v *verifier) older(path string, level int, index uint64, partial uint8, total uint64, strays *int) error {
	if partial == layout.PartialTileSize(uint64(max(level, 0)), index, total) {
		return nil // read already
	}
	place := layout.TilePath(uint64(max(level, 0)), index, layout.PartialTileSize(uint64(max(level, 0)), index, total))
	if level < 0 {
		place = layout.EntriesPath(index, layout.PartialTileSize(0, index, total))
	}
	if slices.ContainsFunc(v.report.Problems, func(p Problem) bool { return p.Path == place }) {
		return nil // nothing to compare with
	}
	begins, err := beginning(v.ctx, v.src, path, level, index, partial, total)
	if err != nil || begins {
		return err
	}
	for size := range v.want {
		if partial != 0 && partial == layout.PartialTileSize(uint64(max(level, 0)), index, size) && wideAt(uint64(max(level, 0)), index, size) > 0 {
			return v.found(Altered, path, "not the beginning of %s, and a checkpoint of %d entries needs it", place, size)
		}
	}
	*strays++
	return nil
}

// beginning tells whether a file is the beginning of the one that a tree of total
// entries has at its place. A file that is gone meanwhile is.
func beginning(ctx context.Context, src Source, path string, level int, index uint64, partial uint8, total uint64) (bool, error) {
	l := uint64(max(level, 0))
	has, w := wideAt(l, index, total), int(partial)
	if w == 0 {
		w = width
	}
	if w > has {
		return false, nil // beyond the tree
	}
	at := layout.PartialTileSize(l, index, total)
	name := layout.TilePath(l, index, at)
	if level < 0 {
		name = layout.EntriesPath(index, at)
	}
	part, err := src.ReadFile(ctx, path, maxBundle)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if errors.Is(err, errTooLarge) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	whole, err := src.ReadFile(ctx, name, maxBundle)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errTooLarge) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	n := w * 32
	if level < 0 {
		got, err := splitBundle(part)
		if err != nil || len(got) != w {
			return false, nil
		}
		n = len(part)
	}
	return len(part) == n && bytes.HasPrefix(whole, part), nil
}

// wideAt is how many hashes a tree of some size has in a tile.
func wideAt(level, index, size uint64) int {
	if level > 7 {
		return 0 // 256^8 entries do not exist
	}
	n := size >> (8 * level)
	if index > n/width {
		return 0
	}
	return int(min(n-index*width, width))
}
