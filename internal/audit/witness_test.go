package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func newWitness(t testing.TB, dir, name string, logs ...string) *Witness {
	t.Helper()
	path := filepath.Join(dir, "witness.key")
	key, err := os.ReadFile(path)
	if err != nil {
		private, _, err := GenerateKey(name)
		if err != nil {
			t.Fatal(err)
		}
		key = []byte(private)
		if err := os.WriteFile(path, key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w, err := OpenWitness(WitnessOptions{Dir: dir, Key: string(key), Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// TestWitnessedLog runs a log with three witnesses of which two must sign.
func TestWitnessedLog(t *testing.T) {
	ctx := t.Context()
	private, public, err := GenerateKey(Origin("w"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "log.key"), []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	var servers []WitnessServer
	var keys []string
	var witnesses []*Witness
	for i := range 3 {
		w := newWitness(t, t.TempDir(), fmt.Sprintf("witness.example/%d", i), public)
		witnesses = append(witnesses, w)
		url := serve(t, http.StripPrefix("/w", w)) + "/w"
		if i == 2 {
			url = "http://127.0.0.1:1" // nobody is there
		}
		servers = append(servers, WitnessServer{URL: url, Key: w.Key()})
		keys = append(keys, w.Key())
	}
	l := open(t, dir, Options{Witnesses: servers, Quorum: 2})
	trust, err := NewTrust(l.Keys(), keys, 2)
	if err != nil {
		t.Fatal(err)
	}
	var raw []byte
	for i := range 3 {
		if raw, err = l.Await(ctx, add(t, l, fmt.Sprint("e", i))); err != nil {
			t.Fatal(err)
		}
	}
	c, err := trust.Open(raw)
	if err != nil || c.Size != 3 || len(c.Witnesses) != 2 {
		t.Fatalf("%+v, %v", c, err)
	}
	r := mustVerify(t, Dir(dir), trust, VerifyOptions{})
	if len(r.Witnesses) != 2 {
		t.Errorf("witnesses %q", r.Witnesses)
	}
	// A proof carries the cosignatures.
	p, err := NewReader(Dir(dir), trust).Prove(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, c, err := p.Verify(trust, nil); err != nil || len(c.Witnesses) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	// Three of three is too much.
	all, err := NewTrust(l.Keys(), keys, 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := all.Open(raw); !errors.Is(err, ErrQuorum) {
		t.Errorf("a quorum of three: %v", err)
	}
	if p := verify(t, Dir(dir), all); len(p) != 1 || p[0].Kind != Unwitnessed {
		t.Errorf("%v", p)
	}
	l.Close()

	// The witnesses find what the log's files alone cannot show: a history that
	// was rolled back with everything that belongs to it.
	anchor, err := witnesses[0].Last(Origin("w"))
	if err != nil || anchor == nil {
		t.Fatal(err)
	}
	forged := t.TempDir()
	if err := os.WriteFile(filepath.Join(forged, "log.key"), []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, forged, Options{Witnesses: servers, Quorum: 2, WitnessTimeout: time.Second, CloseTimeout: 100 * time.Millisecond})
	i := add(t, f, "another history", "of", "four", "entries")
	ended, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := f.Await(ended, i); err == nil {
		t.Error("the witnesses cosigned a fork")
	}
	if p := verify(t, Dir(dir), trust, Anchor{"the witness", anchor}); len(p) > 0 {
		t.Errorf("%v", p)
	}
}

// TestWitnessesWithoutQuorum publishes also when nobody answers.
func TestWitnessesWithoutQuorum(t *testing.T) {
	_, key, err := GenerateKey("nobody.example")
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, t.TempDir(), Options{Witnesses: []WitnessServer{{"http://127.0.0.1:1", key}}, WitnessTimeout: 100 * time.Millisecond})
	raw, err := l.Await(t.Context(), add(t, l, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trustOf(t, l).Open(raw); err != nil {
		t.Error(err)
	}
	for what, opt := range map[string]Options{
		"a quorum of more":   {Witnesses: []WitnessServer{{"http://127.0.0.1:1", key}}, Quorum: 2},
		"a URL without one":  {Witnesses: []WitnessServer{{"127.0.0.1:1", key}}},
		"a key that is none": {Witnesses: []WitnessServer{{"http://127.0.0.1:1", "x"}}},
		"one twice":          {Witnesses: []WitnessServer{{"http://127.0.0.1:1", key}, {"http://127.0.0.1:2", key}}, Quorum: 2},
	} {
		if l, err := Open(t.TempDir(), opt); err == nil {
			l.Close()
			t.Errorf("%s: opened", what)
		}
	}
}

// submission writes the body of add-checkpoint.
func submission(old uint64, p []Hash, checkpoint []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "old %d\n", old)
	for _, h := range p {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	return b.String() + "\n" + string(checkpoint)
}

// TestWitnessByClause asks what tlog-witness says, clause by clause.
func TestWitnessByClause(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	w := newWitness(t, dir, "witness.example/w", f.vkey(t))
	url := serve(t, w)
	early, err := f.trust.Open(f.early)
	if err != nil {
		t.Fatal(err)
	}
	r := NewReader(Dir(f.dir), f.trust)
	late, err := r.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.Consistency(t.Context(), late, early.Size)
	if err != nil {
		t.Fatal(err)
	}
	forged := f.fork(t, 30)
	forgedLate := f.fork(t, 556)
	foreign := newFixtureLog(t, "elsewhere")

	post := func(body string) (int, http.Header, string) {
		t.Helper()
		resp, err := http.Post(url+"/add-checkpoint", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header, string(b)
	}
	own, err := NewTrust([]string{f.vkey(t)}, []string{w.Key()}, 1)
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(what, body string, status int) {
		t.Helper()
		before, _ := w.Last(f.trust.Origin())
		got, _, text := post(body)
		if got != status || strings.Contains(text, "—") {
			t.Errorf("%s: %d %q, want %d", what, got, text, status)
		}
		if after, _ := w.Last(f.trust.Origin()); !bytes.Equal(before, after) {
			t.Errorf("%s: the witness remembers something else", what)
		}
	}
	take := func(what, body string, checkpoint []byte, size uint64) {
		t.Helper()
		got, _, text := post(body)
		c, err := own.Open(append(bytes.Clone(checkpoint), text...))
		if got != 200 || err != nil || c.Size != size {
			t.Errorf("%s: %d %q: %v", what, got, text, err)
		}
		if last, err := w.Last(f.trust.Origin()); err != nil || !bytes.HasSuffix(last, []byte(text)) {
			t.Errorf("%s: not remembered: %q, %v", what, last, err)
		}
	}
	stale := func(what, body, size string) {
		t.Helper()
		got, header, text := post(body)
		if got != 409 || header.Get("Content-Type") != "text/x.tlog.size" || text != size+"\n" {
			t.Errorf("%s: %d %s %q", what, got, header.Get("Content-Type"), text)
		}
	}

	refuse("origin unknown", submission(0, nil, foreign), 404)
	refuse("no trusted signature", submission(0, nil, bytes.Replace(f.early, []byte("— twinhull"), []byte("— someone"), 1)), 403)
	refuse("a bad signature", submission(0, nil, bytes.Replace(f.early, []byte("\n30\n"), []byte("\n31\n"), 1)), 403)
	refuse("old size above the checkpoint's", submission(31, nil, f.early), 400)
	stale("old size not that of the last", submission(10, nil, f.early), "0")
	refuse("a proof from nothing", submission(0, p, f.early), 422)
	for what, body := range map[string]string{
		"nothing": "", "no old": "new 0\n\n" + string(f.early), "a leading zero": "old 00\n\n" + string(f.early), "a sign": "old +0\n\n" + string(f.early),
		"no empty line": "old 0\n" + string(f.early), "a line that is no hash": "old 0\nAAAA\n\n" + string(f.early), "no checkpoint": "old 0\n\n",
		"64 lines": submission(0, make([]Hash, 64), f.early), "large": "old 0\n\n" + strings.Repeat("x", maxSubmission),
	} {
		refuse(what, body, 400)
	}
	take("the first", submission(0, nil, f.early), f.early, 30)
	take("the same again", submission(30, nil, f.early), f.early, 30)
	stale("after the first", submission(0, nil, f.late), "30")
	refuse("no proof", submission(30, nil, f.late), 422)
	wrong := append([]Hash{}, p...)
	wrong[0][0] ^= 1
	refuse("a wrong proof", submission(30, wrong, f.late), 422)
	refuse("another root of the same size", submission(30, nil, forged), 409)
	refuse("a fork", submission(30, p, forgedLate), 422)
	take("the next", submission(30, p, f.late), f.late, 556)
	stale("backwards", submission(30, nil, f.early), "556")
	refuse("a larger old size than the checkpoint's", submission(556, nil, f.early), 400)

	// What contradicts is kept: the log signed it.
	kept, err := filepath.Glob(filepath.Join(dir, "*.refused"))
	if err != nil || len(kept) != 1 {
		t.Errorf("evidence: %q, %v", kept, err)
	}
	resp, err := http.Get(url + "/checkpoint?origin=" + f.trust.Origin())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
		t.Errorf("%s, %v", resp.Status, err)
	} else if c, err := own.Open(b); err != nil || c.Size != 556 {
		t.Errorf("%+v, %v", c, err)
	}

	// It is the same witness after a restart.
	w.Close()
	again := newWitness(t, dir, "witness.example/w", f.vkey(t))
	if _, err := again.Submit(0, nil, f.early); err == nil {
		t.Error("the witness has forgotten")
	} else if s, ok := errors.AsType[*SubmitError](err); !ok || s.Size != 556 {
		t.Errorf("%v", err)
	}
	if _, err := OpenWitness(WitnessOptions{Dir: dir, Key: "x", Logs: []string{f.vkey(t)}}); err == nil {
		t.Error("a key that is none")
	}
	again.Close()
	path := filepath.Join(dir, witnessFile(f.trust.Origin()))
	if err := os.WriteFile(path, f.early, 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "witness.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenWitness(WitnessOptions{Dir: dir, Key: string(key), Logs: []string{f.vkey(t)}}); err == nil || !strings.Contains(err.Error(), "cannot be believed") {
		t.Errorf("a memory that it did not sign: %v", err)
	}
}

func (f *fixture) vkey(t testing.TB) string {
	t.Helper()
	s, err := parseSigner(f.key)
	if err != nil {
		t.Fatal(err)
	}
	return s.verifier
}

// fork signs another history of n entries with the log's key.
func (f *fixture) fork(t testing.TB, n int) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "log.key"), []byte(f.key), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir, Options{})
	grow(t, l, n, "fork")
	raw, err := l.Await(context.Background(), uint64(n-1))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return raw
}

// newFixtureLog is a checkpoint of another log.
func newFixtureLog(t testing.TB, name string) []byte {
	t.Helper()
	l := open(t, t.TempDir(), Options{Installation: name})
	raw, err := l.Await(context.Background(), add(t, l, "x"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestWitnessRace submits two growing histories at once: every size is cosigned
// with one root only, and never a smaller one after a larger.
func TestWitnessRace(t *testing.T) {
	f := newFixture(t)
	w := newWitness(t, t.TempDir(), "witness.example/w", f.vkey(t))
	forged := f.fork(t, 30)
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := map[string]bool{}
	for _, raw := range [][]byte{f.early, forged} {
		for range 8 {
			wg.Go(func() {
				if _, err := w.Submit(0, nil, raw); err == nil {
					mu.Lock()
					taken[string(raw)] = true
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if len(taken) != 1 {
		t.Errorf("%d histories were cosigned", len(taken))
	}
}

// TestLook is the witness without a connection.
func TestLook(t *testing.T) {
	f := newFixture(t)
	w := newWitness(t, t.TempDir(), "witness.example/w", f.vkey(t))
	own, err := NewTrust([]string{f.vkey(t)}, []string{w.Key()}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Submit(0, nil, f.early); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		raw, err := w.Look(t.Context(), f.trust.Origin(), Dir(f.dir))
		if err != nil {
			t.Fatal(err)
		}
		if c, err := own.Open(raw); err != nil || c.Size != 556 {
			t.Errorf("%+v, %v", c, err)
		}
	}
	older := filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(older, os.DirFS(f.dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(older, "checkpoint"), f.early, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = w.Look(t.Context(), f.trust.Origin(), Dir(older))
	if p, ok := Damage(err); !ok || p.Kind != Truncated {
		t.Errorf("rolled back: %v", err)
	}
	if _, err := w.Look(t.Context(), "twinhull/other/audit", Dir(f.dir)); err == nil {
		t.Error("a log that is not watched")
	}
}

func FuzzSubmission(f *testing.F) {
	fx := newFixture(f)
	f.Add([]byte(submission(0, nil, fx.early)))
	f.Add([]byte(submission(30, make([]Hash, 3), fx.late)))
	w := newWitness(f, f.TempDir(), "witness.example/w", fx.vkey(f))
	f.Fuzz(func(t *testing.T, body []byte) {
		rw := httptest.NewRecorder()
		w.ServeHTTP(rw, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(body)))
		if rw.Code == 500 {
			t.Fatalf("%q: %s", body, rw.Body)
		}
	})
}
