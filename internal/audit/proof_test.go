package audit

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tproof "github.com/transparency-dev/formats/proof"
)

func TestProof(t *testing.T) {
	f := newFixture(t)
	r := NewReader(Dir(f.dir), f.trust)
	p, err := r.Prove(t.Context(), 300)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.tlog-proof")
	if err := WriteProof(path, p); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseProof(data)
	if err != nil {
		t.Fatal(err)
	}
	rec, c, err := back.Verify(f.trust, nil)
	if err != nil || rec.Index != 300 || c.Size != 556 || rec.Entry.ID == "" {
		t.Fatalf("%+v, %+v, %v", rec, c, err)
	}
	// Others read it, too.
	var theirs tproof.TLogProof
	if err := theirs.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	if theirs.Index != 300 || !bytes.Equal(theirs.ExtraData, rec.Raw) || !bytes.Equal(theirs.Checkpoint, p.Checkpoint) || !bytes.Equal(theirs.Marshal(), data) {
		t.Error("another reader of tlog-proof reads something else")
	}
	// Without the entry in it.
	bare := &Proof{Index: p.Index, Hashes: p.Hashes, Checkpoint: p.Checkpoint}
	if bare, err = ParseProof(bare.Marshal()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := bare.Verify(f.trust, nil); err != ErrNoEntry {
		t.Errorf("no entry: %v", err)
	}
	if _, _, err := bare.Verify(f.trust, rec.Raw); err != nil {
		t.Error(err)
	}
	if _, _, err := p.Verify(f.trust, full(t)); err == nil {
		t.Error("another entry than the proof's")
	}

	other, err := r.Prove(t.Context(), 301)
	if err != nil {
		t.Fatal(err)
	}
	for what, q := range map[string]*Proof{
		"another index":      {301, p.Entry, p.Hashes, p.Checkpoint},
		"an index beyond":    {556, p.Entry, p.Hashes, p.Checkpoint},
		"another entry":      {300, other.Entry, p.Hashes, p.Checkpoint},
		"another path":       {300, p.Entry, other.Hashes, p.Checkpoint},
		"a shorter path":     {300, p.Entry, p.Hashes[1:], p.Checkpoint},
		"no path":            {300, p.Entry, nil, p.Checkpoint},
		"an older tree":      {300, p.Entry, p.Hashes, f.early},
		"nobody's signature": {300, p.Entry, p.Hashes, bytes.Replace(p.Checkpoint, []byte("— twinhull"), []byte("— twinhulk"), 1)},
	} {
		if _, _, err := q.Verify(f.trust, nil); err == nil {
			t.Errorf("%s: believed", what)
		}
	}
	// Every byte of the file matters.
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= 1
		q, err := ParseProof(changed)
		if err != nil {
			continue
		}
		if _, _, err := q.Verify(f.trust, nil); err == nil {
			t.Errorf("byte %d changed from %q to %q, and believed", i, data[i], changed[i])
		}
	}
}

func FuzzProof(f *testing.F) {
	fx := newFixture(f)
	p, err := NewReader(Dir(fx.dir), fx.trust).Prove(f.Context(), 555)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Marshal())
	f.Add([]byte(proofHeader + "\nindex 0\n\nx"))
	want := string(p.Entry)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProof(data)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Marshal(), data) {
			t.Fatal("two forms of one proof")
		}
		if rec, _, err := p.Verify(fx.trust, nil); err == nil && string(rec.Raw) != want {
			t.Fatalf("believed %q", rec.Raw)
		}
	})
}

func TestHandler(t *testing.T) {
	f := newFixture(t)
	h := Handler(f.dir)
	for path, want := range map[string]int{
		"/checkpoint": 200, "/key": 200, "/tile/0/000": 200, "/tile/entries/002.p/44": 200, "/tile/1/000.p/2": 200,
		"/": 404, "/log.key": 404, "/log.pub": 404, "/lock": 404, "/.state/treeState": 404, "/tile": 404, "/tile/0/": 404,
		"/tile/0/../../log.key": 404, "/tile/0/x000/000": 404, "/tile/00/000": 404, "/tile/0/000.p/0": 404, "/tile/0/009": 404,
		"/tile/0/000.p/256": 404, "/tile/0/000%2f..%2f..%2f..%2flog.key": 404, "/tile/64/000": 404, "//checkpoint": 404,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
		if strings.Contains(w.Body.String(), "PRIVATE+KEY") {
			t.Errorf("%s gives the key away", path)
		}
		if w.Code == 404 && w.Header().Get("Cache-Control") != "" {
			t.Errorf("%s: what is not there is cached", path)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/checkpoint", strings.NewReader("x")))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("PUT: %d", w.Code)
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/checkpoint", nil))
	if got := w.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("checkpoint is %s (tlog-tiles, \"Checkpoints\")", got)
	}
}
