package audit

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
)

// fixture is a closed log of 2*256+44 entries with an older checkpoint.
type fixture struct {
	dir   string
	trust *Trust
	early []byte // covers 30 entries
	late  []byte
	key   string // private
}

// fixtures is a folder for what several tests read and none changes.
var fixtures struct {
	dir string // TestMain makes and removes it
	log sync.Once
	got *fixture
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	fixtures.log.Do(func() { fixtures.got = makeFixture(t) })
	if fixtures.got == nil {
		t.Fatal("there is no fixture")
	}
	return fixtures.got
}

func makeFixture(t testing.TB) *fixture {
	t.Helper()
	dir := filepath.Join(fixtures.dir, "log")
	l := open(t, dir, Options{Installation: "fixture"})
	grow(t, l, 30, "early")
	early, err := l.Await(context.Background(), 29)
	if err != nil {
		t.Fatal(err)
	}
	grow(t, l, 500, "middle")
	grow(t, l, 26, "late")
	late, err := l.Await(context.Background(), 555)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "log.key"))
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{dir, trustOf(t, l), early, late, strings.TrimSpace(string(key))}
}

// files is the log in memory, as everything that a verifier can see.
func (f *fixture) files(t testing.TB) fstest.MapFS {
	t.Helper()
	m := fstest.MapFS{}
	for _, name := range treeOf(t, f.dir) {
		if name == "log.key" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(f.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		m[name] = &fstest.MapFile{Data: data, Mode: 0o644}
	}
	return m
}

func treeOf(t testing.TB, dir string) (all []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func verify(t testing.TB, src Source, trust *Trust, anchors ...Anchor) []Problem {
	t.Helper()
	r, err := Verify(context.Background(), src, trust, VerifyOptions{Anchors: anchors})
	if err != nil {
		t.Fatal(err)
	}
	return r.Problems
}

func TestVerify(t *testing.T) {
	f := newFixture(t)
	n := 0
	server := httptest.NewServer(http.StripPrefix("/log", Handler(f.dir)))
	defer server.Close()
	u, _ := url.Parse(server.URL + "/log")
	for what, src := range map[string]Source{"folder": Dir(f.dir), "memory": FS(f.files(t)), "server": Remote(u, server.Client())} {
		n = 0
		r, err := Verify(context.Background(), src, f.trust, VerifyOptions{
			Anchors: []Anchor{{"early", f.early}, {"late", f.late}},
			Each: func(r Record) error {
				if r.Index != uint64(n) {
					t.Errorf("%s: entry %d came as %d", what, r.Index, n)
				}
				n++
				return r.Err
			},
		})
		if err != nil {
			t.Fatal(what, err)
		}
		if len(r.Problems) > 0 || len(r.Notes) > 0 || r.Size != 556 || n != 556 || r.Anchors != 2 || r.Pending != 0 {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

// TestVerifyFindsEveryChange changes one byte at a time: every byte of every
// file of a small log, and samples of each file of one with two levels.
func TestVerifyFindsEveryChange(t *testing.T) {
	small := t.TempDir()
	l := open(t, small, Options{})
	for _, id := range []string{"a", "b", "c"} {
		if _, err := l.Append(t.Context(), Entry{ID: id, Action: Collect, Verdict: Allowed, Actor: Actor{Name: "server"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Await(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	l.Close()
	large := newFixture(t)
	flips := 0
	for _, f := range []*fixture{{dir: small, trust: trustOf(t, l)}, large} {
		files := f.files(t)
		rng := rand.New(rand.NewPCG(1, 2))
		for _, name := range slices.Sorted(mapKeys(files)) {
			data := files[name].Data
			if len(data) == 0 || name == ".state/gcState" {
				continue // locks, and what only tells what was tidied up
			}
			var at []int
			switch {
			case f != large:
				for i := range data {
					at = append(at, i)
				}
			case strings.HasPrefix(name, "tile/"):
				// The length of the first entry, the first byte, the last, and chance.
				at = []int{0, 1, 2, len(data) - 1, rng.IntN(len(data)), rng.IntN(len(data))}
			}
			for _, i := range at {
				flips++
				changed := slices.Clone(data)
				changed[i] ^= 1 << rng.IntN(8)
				files[name] = &fstest.MapFile{Data: changed, Mode: 0o644}
				if !noticed(t, files, f.trust, name) {
					t.Errorf("%s: byte %d changed from %q to %q, and nothing found", name, i, data[i], changed[i])
				}
			}
			files[name] = &fstest.MapFile{Data: data, Mode: 0o644}
		}
		if p := verify(t, FS(files), f.trust); len(p) > 0 {
			t.Errorf("the fixture itself: %v", p)
		}
	}
	t.Logf("%d changes of one byte", flips)
	if flips < 1000 {
		t.Errorf("only %d bytes were changed", flips)
	}
}

// noticed wants a problem, or a note where a file is at stake that no checkpoint
// known to the verifier needs: a partial tile of a smaller tree.
func noticed(t *testing.T, files fstest.MapFS, trust *Trust, name string) bool {
	t.Helper()
	r, err := Verify(context.Background(), FS(files), trust, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	older := strings.Contains(name, ".p/") && !isEdge(name) && !strings.HasSuffix(name, ".p/3")
	return len(r.Problems) > 0 || older && len(r.Notes) > 0
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// TestVerifyFindsMissingAndCutFiles removes each file, and cuts each.
func TestVerifyFindsMissingAndCutFiles(t *testing.T) {
	f := newFixture(t)
	files := f.files(t)
	for _, name := range slices.Sorted(mapKeys(files)) {
		keep := files[name]
		if len(keep.Data) == 0 || name == ".state/gcState" {
			continue
		}
		// A smaller partial tile that is gone is no fault: they may be deleted.
		needed := name == "checkpoint" || strings.HasPrefix(name, "tile/") && !(strings.Contains(name, ".p/") && !isEdge(name))
		if needed {
			delete(files, name)
			if p := verify(t, FS(files), f.trust); len(p) == 0 {
				t.Errorf("%s removed, and nothing found", name)
			}
		}
		for _, n := range []int{0, 1, len(keep.Data) / 2, len(keep.Data) - 1} {
			if n == len(keep.Data) {
				continue
			}
			files[name] = &fstest.MapFile{Data: keep.Data[:n], Mode: 0o644}
			if !noticed(t, files, f.trust, name) {
				t.Errorf("%s cut to %d bytes, and nothing found", name, n)
			}
		}
		files[name] = &fstest.MapFile{Data: append(slices.Clone(keep.Data), 'x'), Mode: 0o644}
		if !noticed(t, files, f.trust, name) {
			t.Errorf("%s made longer, and nothing found", name)
		}
		files[name] = keep
	}
}

// isEdge tells the partial files that the tree of 556 entries has.
func isEdge(name string) bool {
	return slices.Contains([]string{"tile/0/002.p/44", "tile/1/000.p/2", "tile/entries/002.p/44"}, name)
}

func TestVerifyNames(t *testing.T) {
	f := newFixture(t)
	for what, c := range map[string]struct {
		change  func(fstest.MapFS)
		anchors []Anchor
		want    string
	}{
		"an entry": {func(m fstest.MapFS) {
			b := m["tile/entries/001"]
			// A letter of the 256th entry's ID.
			i := strings.Index(string(b.Data), "middle")
			d := slices.Clone(b.Data)
			d[i] = 'M'
			m["tile/entries/001"] = &fstest.MapFile{Data: d}
		}, nil, "altered: tile/entries/001: entries 256 are not those that were logged"},
		"a tile": {func(m fstest.MapFS) {
			d := slices.Clone(m["tile/0/001"].Data)
			d[33] ^= 1
			m["tile/0/001"] = &fstest.MapFile{Data: d}
		}, nil, "altered: tile/0/001: not the hashes of entries 257"},
		"an upper tile": {func(m fstest.MapFS) {
			d := slices.Clone(m["tile/1/000.p/2"].Data)
			d[33] ^= 1
			m["tile/1/000.p/2"] = &fstest.MapFile{Data: d}
		}, nil, "altered: tile/1/000.p/2: not the hashes that the entries have"},
		"a missing bundle": {func(m fstest.MapFS) { delete(m, "tile/entries/001") }, nil, "missing: tile/entries/001: entries from 256 on are not there"},
		"no checkpoint":    {func(m fstest.MapFS) { delete(m, "checkpoint") }, nil, "missing: checkpoint: the log has no checkpoint"},
		"an older checkpoint": {func(m fstest.MapFS) { m["checkpoint"] = &fstest.MapFile{Data: f.early} },
			[]Anchor{{"the release of 1.0", f.late}}, "truncated: checkpoint: it covers 30 entries, but the release of 1.0 covers 556: at least 526 are gone or hidden"},
		"an older log": {func(m fstest.MapFS) {
			for name := range m {
				if strings.HasPrefix(name, "tile/") && !strings.HasSuffix(name, "/000.p/30") || strings.HasPrefix(name, ".state") {
					delete(m, name)
				}
			}
			m["checkpoint"] = &fstest.MapFile{Data: f.early}
		}, []Anchor{{"the release of 1.0", f.late}}, "truncated: checkpoint: it covers 30 entries, but the release of 1.0 covers 556: at least 526 are gone or hidden"},
		"a state of less": {func(m fstest.MapFS) {
			m[".state/treeState"] = &fstest.MapFile{Data: []byte(`{"size":0,"root":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}`)}
		}, nil, "truncated: .state/treeState: the writer would go on after 0 entries, and the checkpoint covers 556"},
		"another key": {func(m fstest.MapFS) {
			m["checkpoint"] = &fstest.MapFile{Data: []byte(strings.Replace(string(f.late), "\u2014 twinhull", "\u2014 twinhill", 1))}
		}, nil, "unsigned: checkpoint: checkpoint: not signed by a key of this log (" + keyNames(f.trust.Log) + ")"},
	} {
		m := f.files(t)
		c.change(m)
		p := verify(t, FS(m), f.trust, c.anchors...)
		if len(p) != 1 || p[0].String() != c.want {
			t.Errorf("%s: %q, want %q", what, p, c.want)
		}
	}
	// Without an anchor a log that was cut off whole is a shorter log.
	m := f.files(t)
	for name := range m {
		if strings.HasPrefix(name, "tile/") && !strings.HasSuffix(name, "/000.p/30") || strings.HasPrefix(name, ".state") {
			delete(m, name)
		}
	}
	m["checkpoint"] = &fstest.MapFile{Data: f.early}
	if p := verify(t, FS(m), f.trust); len(p) != 0 {
		t.Errorf("cut off whole: %v", p)
	}
}

// TestVerifyFork makes a second history with the log's own key.
func TestVerifyFork(t *testing.T) {
	f := newFixture(t)
	dir := filepath.Join(t.TempDir(), "other")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log.key"), []byte(f.key), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir, Options{})
	grow(t, l, 556, "other")
	forged, err := l.Await(t.Context(), 555)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	// Whole by itself; not with what was signed before.
	mustVerify(t, Dir(dir), f.trust, VerifyOptions{})
	for what, c := range map[string]struct {
		anchors []Anchor
		want    []Kind
	}{
		"a smaller anchor": {[]Anchor{{"early", f.early}}, []Kind{Forked}},
		"the same size":    {[]Anchor{{"late", f.late}}, []Kind{Forked}},
		"two anchors":      {[]Anchor{{"forged", forged}, {"late", f.late}}, []Kind{Forked, Forked}},
	} {
		var kinds []Kind
		for _, p := range verify(t, Dir(dir), f.trust, c.anchors...) {
			kinds = append(kinds, p.Kind)
		}
		if d := cmp.Diff(c.want, kinds); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	r := NewReader(Dir(dir), f.trust)
	early, err := f.trust.Open(f.early)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Follows(t.Context(), early); err == nil {
		t.Error("Follows: nothing found")
	} else if p, ok := Damage(err); !ok || p.Kind != Forked {
		t.Errorf("Follows: %v", err)
	}
	r = NewReader(Dir(f.dir), f.trust)
	if c, err := r.Follows(t.Context(), early); err != nil || c.Size != 556 {
		t.Errorf("Follows: %+v, %v", c, err)
	}
}

func TestVerifyUndecided(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	if _, err := Verify(ctx, Dir(t.TempDir()), f.trust, VerifyOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
	if _, err := Verify(ctx, Dir(f.dir), &Trust{}, VerifyOptions{}); err == nil {
		t.Error("no key: verified")
	}
	if _, err := Verify(ctx, Dir(f.dir), f.trust, VerifyOptions{Anchors: []Anchor{{"slip", []byte("junk")}}}); err == nil {
		t.Error("an anchor that is none: verified")
	}
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/tile/entries/001" {
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		Handler(f.dir).ServeHTTP(w, r)
	}))
	defer broken.Close()
	u, _ := url.Parse(broken.URL)
	if _, err := Verify(ctx, Remote(u, nil), f.trust, VerifyOptions{}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a server that fails: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Verify(cancelled, Dir(f.dir), f.trust, VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// A pipe in place of a file must not hold the reader.
	m := filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(m, os.DirFS(f.dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if err := mkfifo(filepath.Join(m, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(ctx, Dir(m), f.trust, VerifyOptions{}); err == nil {
		t.Error("a pipe: verified")
	}
}

// TestVerifyPending verifies what a crash leaves between the state and the
// checkpoint.
func TestVerifyPending(t *testing.T) {
	f := newFixture(t)
	m := f.files(t)
	m["checkpoint"] = &fstest.MapFile{Data: f.early}
	r, err := Verify(context.Background(), FS(m), f.trust, VerifyOptions{Anchors: []Anchor{{"early", f.early}}})
	if err != nil || len(r.Problems) > 0 || r.Size != 30 || r.Pending != 526 || r.Anchors != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	// And a change behind the checkpoint is found, too.
	d := slices.Clone(m["tile/entries/001"].Data)
	d[40] ^= 1
	m["tile/entries/001"] = &fstest.MapFile{Data: d}
	if p := verify(t, FS(m), f.trust); len(p) == 0 {
		t.Error("nothing found")
	}
}

// TestVerifySizes holds the verifier against logs of many sizes: at the
// edges of tiles and off them.
func TestVerifySizes(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	trust := trustOf(t, l)
	var anchors []Anchor
	size := 0
	for _, n := range []int{0, 1, 1, 253, 1, 1, 255, 1, 512} {
		grow(t, l, n, "x")
		size += n
		if size > 0 {
			raw, err := l.Await(t.Context(), uint64(size-1))
			if err != nil {
				t.Fatal(err)
			}
			anchors = append(anchors, Anchor{"kept", raw})
		}
		r := mustVerify(t, Dir(dir), trust, VerifyOptions{Anchors: anchors})
		if r.Size != uint64(size) || r.Anchors != len(anchors) {
			t.Errorf("%d entries: %+v", size, r)
		}
		for _, a := range anchors {
			c, err := trust.Open(a.Raw)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.Reader().Follows(t.Context(), c); err != nil {
				t.Errorf("%d after %d: %v", size, c.Size, err)
			}
		}
		for _, i := range []int{0, size / 2, size - 1} {
			if i < 0 || i >= size {
				continue
			}
			p, err := l.Reader().Prove(t.Context(), uint64(i))
			if err != nil {
				t.Fatalf("%d of %d: %v", i, size, err)
			}
			if _, _, err := p.Verify(trust, nil); err != nil {
				t.Errorf("%d of %d: %v", i, size, err)
			}
		}
	}
}

// TestReaderFindsChanges reads entries of a log that was changed.
func TestReaderFindsChanges(t *testing.T) {
	f := newFixture(t)
	m := f.files(t)
	d := slices.Clone(m["tile/entries/001"].Data)
	d[40] ^= 1
	m["tile/entries/001"] = &fstest.MapFile{Data: d}
	r := NewReader(FS(m), f.trust)
	c, err := r.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Entry(t.Context(), c, 300); err == nil {
		t.Error("entry 300 of a changed bundle was believed")
	} else if p, ok := Damage(err); !ok || p.Kind != Altered {
		t.Errorf("%v", err)
	}
	if rec, err := r.Entry(t.Context(), c, 3); err != nil || rec.Index != 3 || rec.Entry.ID == "" {
		t.Errorf("entry 3: %+v, %v", rec, err)
	}
	if _, err := r.Entry(t.Context(), c, 556); err == nil {
		t.Error("entry 556 of 556")
	}
	n := 0
	for rec, err := range r.Entries(t.Context(), c, 250, 600) {
		if err != nil {
			break
		}
		if rec.Index != uint64(250+n) {
			t.Errorf("index %d", rec.Index)
		}
		n++
	}
	if n != 6 {
		t.Errorf("%d entries before the changed bundle, want 6", n)
	}
}

func TestTrust(t *testing.T) {
	private, public, err := GenerateKey("twinhull/a/audit")
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := GenerateKey("twinhull/b/audit")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewTrust([]string{public, other}, nil, 0); err == nil {
		t.Error("keys of two logs")
	}
	if _, err := NewTrust(nil, nil, 0); err == nil {
		t.Error("no key")
	}
	if _, err := NewTrust([]string{public}, nil, 1); err == nil {
		t.Error("a quorum of nobody")
	}
	parts := strings.SplitN(public, "+", 3)
	for _, hash := range []string{strings.ToUpper(parts[1]), "0" + parts[1]} {
		if hash == parts[1] {
			continue // all digits
		}
		if _, err := NewTrust([]string{parts[0] + "+" + hash + "+" + parts[2]}, nil, 0); err == nil {
			t.Error("a key in another form")
		}
	}
	if _, err := NewTrust([]string{private}, nil, 0); err == nil {
		t.Error("a private key")
	}
	if _, err := NewTrust([]string{public}, []string{"x+1+2"}, 0); err == nil {
		t.Error("a witness key that is none")
	}
	if _, _, err := GenerateKey("with space"); err == nil {
		t.Error("a name with a space")
	}
	tr, err := NewTrust([]string{public}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	root := "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	for text, ok := range map[string]bool{
		"twinhull/a/audit\n0\n" + root + "\n":                   true,
		"twinhull/a/audit\n0\n" + root + "\nextended\n":         true,
		"twinhull/b/audit\n0\n" + root + "\n":                   false,
		"twinhull/a/audit\n00\n" + root + "\n":                  false,
		"twinhull/a/audit\n+1\n" + root + "\n":                  false,
		"twinhull/a/audit\n-1\n" + root + "\n":                  false,
		"twinhull/a/audit\n9223372036854775808\n" + root + "\n": false,
		"twinhull/a/audit\n0\n" + root[:40] + "\n":              false,
		"twinhull/a/audit\n0\n" + root[:42] + "V=\n":            false,
		"twinhull/a/audit\n0\n":                                 false,
		"\n":                                                    false,
	} {
		raw, err := note.Sign(&note.Note{Text: text}, s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Open(raw); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzCheckpoint wants no panic, and nothing believed that the key has not signed.
func FuzzCheckpoint(f *testing.F) {
	private, public, err := GenerateKey("twinhull/a/audit")
	if err != nil {
		f.Fatal(err)
	}
	tr, err := NewTrust([]string{public}, nil, 0)
	if err != nil {
		f.Fatal(err)
	}
	s, err := note.NewSigner(private)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := note.Sign(&note.Note{Text: "twinhull/a/audit\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"}, s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("a\n1\nx\n\n— b c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := tr.Open(data); err == nil && (c.Size != 0 || c.Root != emptyRoot) {
			t.Fatalf("believed %q", data)
		}
	})
}

// FuzzVerify gives the verifier a log whose files somebody wrote: no panic, and
// nothing but the true root is believed.
func FuzzVerify(f *testing.F) {
	fx := newFixture(f)
	files := fx.files(f)
	names := slices.Sorted(mapKeys(files))
	for i, n := range names {
		if len(files[n].Data) < 1<<13 {
			f.Add(uint8(i), files[n].Data)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		m := fstest.MapFS{}
		for k, v := range files {
			m[k] = v
		}
		name := names[int(which)%len(names)]
		same := string(m[name].Data) == string(data)
		m[name] = &fstest.MapFile{Data: data, Mode: 0o644}
		r, err := Verify(context.Background(), FS(m), fx.trust, VerifyOptions{})
		if err != nil {
			return
		}
		if len(r.Problems)+len(r.Notes) == 0 && !same && name != "log.pub" && !strings.HasSuffix(name, ".lock") && name != "lock" && name != ".state/gcState" {
			t.Fatalf("%s changed, and nothing found", name)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	f := newFixture(b)
	src := FS(f.files(b))
	b.ResetTimer()
	for range b.N {
		mustVerify(b, src, f.trust, VerifyOptions{})
	}
	b.ReportMetric(float64(556*b.N)/b.Elapsed().Seconds(), "entries/s")
}
