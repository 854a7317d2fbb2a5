package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// sample is an entry with everything in it.
func sample(id string) Entry {
	d := func(s string) oci.Digest { return oci.Digest("sha256:" + strings.Repeat(s, 64)) }
	return Entry{
		ID: id, Action: Release, Verdict: Allowed,
		Actor:   Actor{Name: "ci", Method: "oidc", Issuer: "https://issuer.example"},
		Object:  Object{Repository: "team/app", Tag: "1.4.2", Digest: d("a")},
		Reasons: []string{"because \"quotes\", <html> & \u2028 π 😀\n"},
		Moves:   []Move{{Tag: "1.4", From: d("b"), To: d("a")}, {Tag: "latest", To: d("a")}},
		Digests: []oci.Digest{d("a")}, Claims: []oci.Digest{d("c"), d("d")},
		Summary: d("e"), Policy: d("f"), Trust: d("0"), Database: d("1"),
		Detail: map[string]string{"z": "1", "a": "2", "\ufb33": "3", "😀": "4"},
	}
}

func open(t testing.TB, dir string, opt Options) *Log {
	t.Helper()
	l, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func add(t testing.TB, l *Log, ids ...string) (last uint64) {
	t.Helper()
	for _, id := range ids {
		i, err := l.Append(context.Background(), sample(id))
		if err != nil {
			t.Fatal(err)
		}
		last = i
	}
	return last
}

// grow appends n entries at once.
func grow(t testing.TB, l *Log, n int, prefix string) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { _, errs[i] = l.Append(context.Background(), sample(fmt.Sprintf("%s-%d", prefix, i))) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func trustOf(t testing.TB, l *Log) *Trust {
	t.Helper()
	tr, err := NewTrust(l.Keys(), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func mustVerify(t testing.TB, src Source, trust *Trust, opt VerifyOptions) *Report {
	t.Helper()
	r, err := Verify(context.Background(), src, trust, opt)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) > 0 {
		t.Fatalf("problems: %v", r.Problems)
	}
	return r
}

func TestAppend(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "audit")
	clock := time.Date(2026, 11, 22, 18, 0, 0, 5e8, time.UTC)
	l := open(t, dir, Options{Installation: "test", Now: func() time.Time { return clock }})
	if l.Origin() != "twinhull/test/audit" {
		t.Errorf("origin %s", l.Origin())
	}
	for i := range 3 {
		if got := add(t, l, fmt.Sprint("r", i)); got != uint64(i) {
			t.Errorf("index %d, want %d", got, i)
		}
	}
	if n, err := l.Size(ctx); n != 3 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	e, err := l.Entry(ctx, 1)
	if err != nil || e.ID != "r1" || e.Type != EntryType || e.Time != "2026-11-22T18:00:00.5Z" {
		t.Errorf("entry 1: %+v, %v", e, err)
	}
	if _, err := l.Entry(ctx, 3); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("entry 3: %v", err)
	}
	raw, err := l.Await(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	c, err := trustOf(t, l).Open(raw)
	if err != nil || c.Size != 3 {
		t.Errorf("checkpoint %+v, %v", c, err)
	}
	// What was logged before is there after a restart, with the same key.
	keys := l.Keys()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(ctx, sample("late")); !errors.Is(err, ErrClosed) {
		t.Errorf("append to a closed log: %v", err)
	}
	l = open(t, dir, Options{Anchors: []Anchor{{"kept", raw}}})
	if l.Keys()[0] != keys[0] {
		t.Error("another key after a restart")
	}
	if got := add(t, l, "r3"); got != 3 {
		t.Errorf("index %d after a restart", got)
	}
	info, err := os.Stat(filepath.Join(dir, "log.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	if _, err := l.Await(ctx, 3); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, Dir(dir), trustOf(t, l), VerifyOptions{Anchors: []Anchor{{"kept", raw}}})
}

func TestAppendOfBadEntries(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	for what, change := range map[string]func(*Entry){
		"no id":        func(e *Entry) { e.ID = "" },
		"no actor":     func(e *Entry) { e.Actor.Name = "" },
		"no verdict":   func(e *Entry) { e.Verdict = "" },
		"odd action":   func(e *Entry) { e.Action = "Drop Table" },
		"odd digest":   func(e *Entry) { e.Policy = "sha256:zz" },
		"odd time":     func(e *Entry) { e.Time = "yesterday" },
		"too large":    func(e *Entry) { e.Reasons = []string{strings.Repeat("x", MaxEntry)} },
		"another type": func(e *Entry) { e.Type = "x" },
	} {
		e := sample("x")
		change(&e)
		if _, err := l.Append(t.Context(), e); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// What somebody sent is logged, whatever it was.
	e := sample("bytes")
	e.Object.Tag = "a\xffb"
	i, err := l.Append(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := l.Entry(t.Context(), i); err != nil || got.Object.Tag != "a\uFFFDb" {
		t.Errorf("%+v, %v", got, err)
	}
	if e.Object.Tag != "a\xffb" {
		t.Error("the caller's entry was changed")
	}
}

func TestFind(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	add(t, l, "first", "same", "other", "same", `quo"te`)
	grow(t, l, 300, "many")
	last := add(t, l, "last")
	for _, c := range []struct {
		id    string
		from  uint64
		index uint64
		found bool
	}{
		{"first", 0, 0, true}, {"first", 1, 0, false}, {"same", 0, 1, true}, {"same", 2, 3, true},
		{`quo"te`, 0, 4, true}, {"absent", 0, 0, false}, {"last", 0, last, true}, {"last", last, last, true},
		{"last", last + 1, 0, false}, {"ci", 0, 0, false},
	} {
		i, ok, err := l.Find(t.Context(), c.from, c.id)
		if err != nil || i != c.index || ok != c.found {
			t.Errorf("Find(%d, %q) = %d, %v, %v", c.from, c.id, i, ok, err)
		}
	}
}

func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second writer: %v", err)
	}
	l.Close()
	l = open(t, dir, Options{})
	add(t, l, "again")
}

func TestOpenRefuses(t *testing.T) {
	ctx := context.Background()
	base := t.TempDir()
	l := open(t, base, Options{Installation: "x"})
	add(t, l, "a", "b")
	early, err := l.Await(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	earlyDir := t.TempDir()
	if err := os.CopyFS(earlyDir+"/d", os.DirFS(base)); err != nil {
		t.Fatal(err)
	}
	add(t, l, "c", "d", "e")
	late, err := l.Await(ctx, 4)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()

	write := func(name, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600) }
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
	}
	for what, c := range map[string]struct {
		change func(dir string) error
		opt    Options
		want   string
	}{
		"nothing":             {func(string) error { return nil }, Options{Anchors: []Anchor{{"early", early}, {"late", late}}}, ""},
		"no key":              {remove("log.key"), Options{}, "its key"},
		"a broken key":        {write("log.key", "PRIVATE+KEY+x"), Options{}, "not a private key"},
		"another name":        {func(string) error { return nil }, Options{Installation: "y"}, "a log keeps its name"},
		"no checkpoint":       {remove("checkpoint"), Options{}, "there is no log here"},
		"an empty checkpoint": {write("checkpoint", ""), Options{}, "checkpoint"},
		"no state":            {remove(stateFile), Options{}, "treeState is not there"},
		"a broken state":      {write(stateFile, "{}"), Options{}, "not the state"},
		"a smaller state":     {write(stateFile, `{"size":0,"root":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}`), Options{}, "covers 5 entries, and the log has 0"},
		"another root":        {write(stateFile, `{"size":5,"root":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}`), Options{}, "are not those that the log has"},
		"no tile":             {remove("tile/0"), Options{}, "missing: tile/0/000.p/5"},
		"a foreign anchor":    {func(string) error { return nil }, Options{Anchors: []Anchor{{"slip", []byte("x")}}}, "slip"},
		"an old backup": {func(dir string) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return os.CopyFS(dir, os.DirFS(earlyDir+"/d"))
		}, Options{Anchors: []Anchor{{"the release of e", late}}}, "the release of e covers 5 entries, and the log has 2"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "l")
			if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
				t.Fatal(err)
			}
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			l, err := Open(dir, c.opt)
			if err == nil {
				l.Close()
			}
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}

// TestClockSetBack puts the checkpoint's file into the future, as a clock that is
// set back does.
func TestClockSetBack(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	add(t, l, "before")
	if _, err := l.Await(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	ahead := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "checkpoint"), ahead, ahead); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	i := add(t, l, "after")
	if _, err := l.Await(ctx, i); err != nil {
		t.Fatal(err)
	}
}

func TestClockInEntries(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := open(t, dir, Options{Now: func() time.Time { return now }})
	add(t, l, "a")
	now = now.Add(-time.Hour)
	i := add(t, l, "b")
	if _, err := l.Await(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	r := mustVerify(t, Dir(dir), trustOf(t, l), VerifyOptions{})
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "clock went back by 1h0m0s before entry 1") {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestKeyRotation(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	l := open(t, dir, Options{Installation: "x"})
	first := trustOf(t, l)
	raw1, err := l.Await(ctx, add(t, l, "a"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	key, old := filepath.Join(dir, "log.key"), filepath.Join(dir, "old.key")
	if err := os.Rename(key, old); err != nil {
		t.Fatal(err)
	}
	private, _, err := GenerateKey(first.Origin())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrUnsigned) {
		t.Fatalf("a new key without the old one: %v", err)
	}
	l = open(t, dir, Options{OldKeyFiles: []string{old}})
	l.Close()
	if err := os.Rename(old, filepath.Join(dir, "log.old.key")); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Options{}) // found by its name, too
	raw, err := l.Await(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := l.Entry(ctx, 1); err != nil || e.Action != KeyChange {
		t.Errorf("entry 1: %+v, %v", e, err)
	}
	second, err := NewTrust(l.Keys()[:1], nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for what, tr := range map[string]*Trust{"old": first, "new": second} {
		if _, err := tr.Open(raw); err != nil {
			t.Errorf("%s key: %v", what, err)
		}
	}
	l.Close()
	if err := os.Remove(filepath.Join(dir, "log.old.key")); err != nil {
		t.Fatal(err)
	}
	// Now the old one can go, and anchors that it signed still count.
	l = open(t, dir, Options{Anchors: []Anchor{{"before", raw1}}})
	i := add(t, l, "b")
	if raw, err = l.Await(ctx, i); err != nil {
		t.Fatal(err)
	}
	if i != 2 {
		t.Errorf("the change of keys was logged again")
	}
	if _, err := first.Open(raw); !errors.Is(err, ErrUnsigned) {
		t.Errorf("old key: %v", err)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	grow(t, l, 3, "x")
	l.Close()
	for _, name := range []string{"checkpoint123456", ".state/treeState42", "tile/0/0009999", "tile/entries/000.p/3123456", ".state/gcState7"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, dir)
	l = open(t, dir, Options{})
	l.Close()
	after := tree(t, dir)
	if len(before)-len(after) != 5 {
		t.Errorf("before %q, after %q", before, after)
	}
	mustVerify(t, Dir(dir), trustOf(t, l), VerifyOptions{})
}

// tree lists the files of a folder.
func tree(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l := open(b, b.TempDir(), Options{})
			took := make([]time.Duration, b.N)
			work := make(chan int)
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for n := range work {
						start := time.Now()
						if _, err := l.Append(context.Background(), sample(fmt.Sprint("bench-", n))); err != nil {
							b.Error(err)
						}
						took[n] = time.Since(start)
					}
				})
			}
			for n := range b.N {
				work <- n
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
			quantiles(b, took)
		})
	}
}

// BenchmarkAwait is an append with the checkpoint that covers it.
func BenchmarkAwait(b *testing.B) {
	l := open(b, b.TempDir(), Options{})
	took := make([]time.Duration, b.N)
	for n := range b.N {
		start := time.Now()
		if _, err := l.Await(context.Background(), add(b, l, fmt.Sprint("bench-", n))); err != nil {
			b.Fatal(err)
		}
		took[n] = time.Since(start)
	}
	quantiles(b, took)
}

func quantiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
