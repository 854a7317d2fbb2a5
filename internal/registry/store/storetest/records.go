package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/registry/store"
)

var recordsTests = []test{
	{name: "PutGetDelete", run: testPutGetDelete},
	{name: "Order", run: testOrder},
	{name: "ScanPrefixAfter", run: testScanPrefixAfter},
	{name: "ScanEndsEarly", run: testScanEndsEarly},
	{name: "OwnWrites", run: testOwnWrites},
	{name: "ErrorChangesNothing", run: testErrorChangesNothing},
	{name: "PanicChangesNothing", run: testPanicChangesNothing},
	{name: "Limits", run: testLimits},
	{name: "LargeValues", run: testLargeValues},
	{name: "SlicesAreCopied", run: testSlicesAreCopied},
	{name: "ViewIsOneMoment", run: testViewIsOneMoment},
	{name: "CounterIsSerial", run: testCounter},
	{name: "WriteSkew", run: testWriteSkew},
	{name: "PhantomsInScans", run: testPhantoms},
	{name: "ErrorsBesideOthers", run: testErrorsBesideOthers},
	{name: "EndedContext", run: testEndedContext},
	{name: "RecordsSurvive", run: testRecordsSurvive},
	{name: "LikeAMap", run: testLikeAMap},
	{name: "Replicas", run: testRecordsReplicas, replicas: true},
}

func update(t *testing.T, r store.Records, f func(store.Transaction) error) {
	t.Helper()
	if err := r.Update(t.Context(), f); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func view(t *testing.T, r store.Records, f func(store.Reader) error) {
	t.Helper()
	if err := r.View(t.Context(), f); err != nil {
		t.Fatalf("View: %v", err)
	}
}

func put(t *testing.T, r store.Records, pairs ...string) {
	t.Helper()
	update(t, r, func(tx store.Transaction) error { return putIn(tx, pairs...) })
}

func putIn(tx store.Transaction, pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if err := tx.Put([]byte(pairs[i]), []byte(pairs[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// scan lists "key=value" of a scan.
func scan(r store.Reader, prefix, after string) ([]string, error) {
	var from []byte
	if after != "" {
		from = []byte(after)
	}
	got := []string{}
	for rec, err := range r.Scan([]byte(prefix), from) {
		if err != nil {
			return nil, err
		}
		got = append(got, string(rec.Key)+"="+string(rec.Value))
	}
	return got, nil
}

func wantScan(t *testing.T, r store.Reader, prefix, after string, want ...string) {
	t.Helper()
	got, err := scan(r, prefix, after)
	if err != nil {
		t.Errorf("scan %q after %q: %v", prefix, after, err)
		return
	}
	if d := cmp.Diff(append([]string{}, want...), got); d != "" {
		t.Errorf("scan %q after %q (-want +got):\n%s", prefix, after, d)
	}
}

func wantAll(t *testing.T, r store.Records, want ...string) {
	t.Helper()
	view(t, r, func(tx store.Reader) error {
		wantScan(t, tx, "", "", want...)
		return nil
	})
}

func wantGet(t *testing.T, r store.Reader, key, want string, there bool) {
	t.Helper()
	v, ok, err := r.Get([]byte(key))
	if err != nil || ok != there || string(v) != want {
		t.Errorf("Get(%q) = %.100q, %t, %v; want %.100q, %t", key, v, ok, err, want, there)
	}
}

func testPutGetDelete(t *testing.T, p *place) {
	put(t, p.Records, "a", "1", "b", "", "c", "3")
	view(t, p.Records, func(r store.Reader) error {
		wantGet(t, r, "a", "1", true)
		wantGet(t, r, "b", "", true) // empty is not absent
		wantGet(t, r, "d", "", false)
		wantGet(t, r, "", "", false)
		return nil
	})
	update(t, p.Records, func(tx store.Transaction) error {
		return errors.Join(tx.Delete([]byte("a")), tx.Delete([]byte("absent")), tx.Put([]byte("c"), []byte("4")))
	})
	wantAll(t, p.Records, "b=", "c=4")
	update(t, p.Records, func(tx store.Transaction) error { return tx.Put([]byte("b"), nil) })
	wantAll(t, p.Records, "b=", "c=4")
}

func testOrder(t *testing.T, p *place) {
	keys := []string{"\x00", "\x00\x00", "\x00a", "a", "a\x00", "a\x00b", "a/b", "aa", "b", "\x7f", "\x80", "é", "\xff", "\xff\x00", "\xff\xff"}
	slices.Sort(keys)
	var want []string
	for _, i := range rand.Perm(len(keys)) {
		put(t, p.Records, keys[i], strconv.Itoa(i))
	}
	for i, k := range keys {
		want = append(want, k+"="+strconv.Itoa(i))
	}
	wantAll(t, p.Records, want...)
	view(t, p.Records, func(r store.Reader) error {
		wantScan(t, r, "\xff", "", want[len(want)-3:]...)
		wantScan(t, r, "\xff\xff", "", want[len(want)-1:]...)
		wantScan(t, r, "\xff\xff", "\xff\xff")
		wantScan(t, r, "\x00", "", want[:3]...)
		return nil
	})
}

func testScanPrefixAfter(t *testing.T, p *place) {
	put(t, p.Records, "r/a", "1", "r/b", "2", "r/b/c", "3", "r/d", "4", "s", "5", "q", "0")
	view(t, p.Records, func(r store.Reader) error {
		wantScan(t, r, "r/", "", "r/a=1", "r/b=2", "r/b/c=3", "r/d=4")
		wantScan(t, r, "r/", "r/b", "r/b/c=3", "r/d=4")
		wantScan(t, r, "r/", "r/bb", "r/d=4") // need not be there
		wantScan(t, r, "r/", "r/d")
		wantScan(t, r, "r/", "a", "r/a=1", "r/b=2", "r/b/c=3", "r/d=4") // before the prefix
		wantScan(t, r, "r/", "z")                                       // behind it
		wantScan(t, r, "r/b", "r/b", "r/b/c=3")
		wantScan(t, r, "none", "")
		wantScan(t, r, "", "r/d", "s=5")
		return nil
	})
}

func testScanEndsEarly(t *testing.T, p *place) {
	update(t, p.Records, func(tx store.Transaction) error {
		for i := range 3000 {
			if err := tx.Put(fmt.Appendf(nil, "k%05d", i), []byte("v")); err != nil {
				return err
			}
		}
		return nil
	})
	// Ended early, one in another, and then to the end, over any page that an
	// implementation may have.
	view(t, p.Records, func(r store.Reader) error {
		for range r.Scan([]byte("k"), nil) {
			break
		}
		n := 0
		for rec, err := range r.Scan([]byte("k"), []byte("k00009")) {
			if err != nil {
				return err
			}
			if want := fmt.Sprintf("k%05d", n+10); string(rec.Key) != want {
				t.Fatalf("got %q, want %q", rec.Key, want)
			}
			if n%500 == 0 {
				wantGet(t, r, "k00001", "v", true)
				for inner, err := range r.Scan(rec.Key, nil) {
					if err != nil || !bytes.Equal(inner.Key, rec.Key) {
						t.Errorf("a scan in a scan: %q, %v", inner.Key, err)
					}
				}
			}
			n++
		}
		if n != 2990 {
			t.Errorf("%d records, want 2990", n)
		}
		return nil
	})
}

func testOwnWrites(t *testing.T, p *place) {
	put(t, p.Records, "a", "1", "b", "2", "c", "3", "e", "5")
	update(t, p.Records, func(tx store.Transaction) error {
		if err := errors.Join(
			putIn(tx, "b", "two", "d", "4", "a0", "new"),
			tx.Delete([]byte("c")), tx.Delete([]byte("e")), putIn(tx, "e", "again"),
			putIn(tx, "f", "6"), tx.Delete([]byte("f")),
		); err != nil {
			return err
		}
		wantGet(t, tx, "a", "1", true)
		wantGet(t, tx, "b", "two", true)
		wantGet(t, tx, "c", "", false)
		wantGet(t, tx, "d", "4", true)
		wantGet(t, tx, "f", "", false)
		wantScan(t, tx, "", "", "a=1", "a0=new", "b=two", "d=4", "e=again")
		wantScan(t, tx, "a", "", "a=1", "a0=new")
		wantScan(t, tx, "", "b", "d=4", "e=again")
		// Collected, then changed.
		for _, k := range []string{"a", "a0"} {
			if err := tx.Delete([]byte(k)); err != nil {
				return err
			}
		}
		wantScan(t, tx, "", "", "b=two", "d=4", "e=again")
		return nil
	})
	wantAll(t, p.Records, "b=two", "d=4", "e=again")
}

func testErrorChangesNothing(t *testing.T, p *place) {
	put(t, p.Records, "a", "1")
	mine := errors.New("mine")
	err := p.Records.Update(t.Context(), func(tx store.Transaction) error {
		if err := errors.Join(putIn(tx, "a", "2", "b", "3"), tx.Delete([]byte("a"))); err != nil {
			return err
		}
		return mine
	})
	if err != mine {
		t.Errorf("Update gave %v, want the error itself", err)
	}
	wantAll(t, p.Records, "a=1")
	if err := p.Records.View(t.Context(), func(store.Reader) error { return mine }); err != mine {
		t.Errorf("View gave %v, want the error itself", err)
	}
	put(t, p.Records, "b", "2")
	wantAll(t, p.Records, "a=1", "b=2")
}

func testPanicChangesNothing(t *testing.T, p *place) {
	put(t, p.Records, "a", "1")
	for _, f := range []func(){
		func() {
			_ = p.Records.Update(t.Context(), func(tx store.Transaction) error {
				_ = putIn(tx, "a", "2")
				panic("mine")
			})
		},
		func() { _ = p.Records.View(t.Context(), func(store.Reader) error { panic("mine") }) },
	} {
		func() {
			defer func() {
				if v := recover(); v != "mine" {
					t.Errorf("recovered %v, want the panic itself", v)
				}
			}()
			f()
		}()
	}
	put(t, p.Records, "b", "2")
	wantAll(t, p.Records, "a=1", "b=2")
}

func testLimits(t *testing.T, p *place) {
	longest := strings.Repeat("k", store.MaxKey)
	put(t, p.Records, longest, "v")
	for _, tc := range []struct {
		name       string
		key, value []byte
	}{
		{"no key", nil, []byte("v")},
		{"key", []byte(longest + "k"), []byte("v")},
		{"value", []byte("a"), make([]byte, store.MaxValue+1)},
	} {
		err := p.Records.Update(t.Context(), func(tx store.Transaction) error { return tx.Put(tc.key, tc.value) })
		if !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%s: %v, want ErrTooLarge", tc.name, err)
		}
	}
	wantAll(t, p.Records, longest+"=v")
}

func testLargeValues(t *testing.T, p *place) {
	large := make([]byte, store.MaxValue)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(large); i += 8 {
		copy(large[i:], fmt.Appendf(nil, "%08x", r.Uint32()))
	}
	update(t, p.Records, func(tx store.Transaction) error {
		return errors.Join(tx.Put([]byte("large"), large), putIn(tx, "l", "1", "m", "2"))
	})
	p.reopen()
	view(t, p.Records, func(r store.Reader) error {
		v, ok, err := r.Get([]byte("large"))
		if err != nil || !ok || !bytes.Equal(v, large) {
			t.Errorf("a value of %d bytes comes back as %d, %t, %v", len(large), len(v), ok, err)
		}
		for rec, err := range r.Scan([]byte("l"), []byte("l")) {
			if err != nil || !bytes.Equal(rec.Value, large) {
				t.Errorf("a value of %d bytes is scanned as %d, %v", len(large), len(rec.Value), err)
			}
		}
		return nil
	})
	put(t, p.Records, "large", "small")
	wantAll(t, p.Records, "l=1", "large=small", "m=2")
}

func testSlicesAreCopied(t *testing.T, p *place) {
	key, value := []byte("key"), []byte("value")
	update(t, p.Records, func(tx store.Transaction) error {
		if err := tx.Put(key, value); err != nil {
			return err
		}
		copy(value, "VALUE")
		wantGet(t, tx, "key", "value", true)
		copy(key, "KEY")
		if err := tx.Put([]byte("gone"), nil); err != nil {
			return err
		}
		gone := []byte("gone")
		if err := tx.Delete(gone); err != nil {
			return err
		}
		copy(gone, "kept")
		wantScan(t, tx, "", "", "key=value")
		return nil
	})
	wantAll(t, p.Records, "key=value")
}

func testViewIsOneMoment(t *testing.T, p *place) {
	put(t, p.Records, "a", "1", "b", "1")
	view(t, p.Records, func(r store.Reader) error {
		wantGet(t, r, "a", "1", true)
		// Another's transaction is committed meanwhile: an implementation neither
		// shows it to this one nor waits for it.
		done := make(chan error)
		go func() {
			done <- p.Records.Update(context.WithoutCancel(t.Context()), func(tx store.Transaction) error {
				return errors.Join(putIn(tx, "a", "2", "c", "2"), tx.Delete([]byte("b")))
			})
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		wantGet(t, r, "a", "1", true)
		wantGet(t, r, "b", "1", true)
		wantScan(t, r, "", "", "a=1", "b=1")
		return nil
	})
	wantAll(t, p.Records, "a=2", "c=2")
}

// add adds to a decimal number.
func add(tx store.Transaction, key string, n int) error {
	v, _, err := tx.Get([]byte(key))
	if err != nil {
		return err
	}
	old, _ := strconv.Atoi(string(v))
	return tx.Put([]byte(key), strconv.AppendInt(nil, int64(old+n), 10))
}

func testCounter(t *testing.T, p *place) { counter(t, p.Records, p.Records) }

func counter(t *testing.T, all ...store.Records) {
	const each = 25
	var wg sync.WaitGroup
	for i := range 8 {
		r := all[i%len(all)]
		wg.Go(func() {
			for range each {
				if err := r.Update(t.Context(), func(tx store.Transaction) error { return add(tx, "n", 1) }); err != nil {
					t.Errorf("Update: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantAll(t, all[0], fmt.Sprintf("n=%d", 8*each))
}

// testWriteSkew: two transactions that each read what the other writes. Snapshot
// isolation alone lets both through.
func testWriteSkew(t *testing.T, p *place) {
	for round := range 20 {
		put(t, p.Records, "x", "1", "y", "1")
		var wg sync.WaitGroup
		for _, mine := range []string{"x", "y"} {
			wg.Go(func() {
				err := p.Records.Update(t.Context(), func(tx store.Transaction) error {
					sum := 0
					for _, k := range []string{"x", "y"} {
						v, _, err := tx.Get([]byte(k))
						if err != nil {
							return err
						}
						n, _ := strconv.Atoi(string(v))
						sum += n
					}
					if sum < 2 {
						return nil // one must stay
					}
					return putIn(tx, mine, "0")
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		view(t, p.Records, func(r store.Reader) error {
			x, _, _ := r.Get([]byte("x"))
			y, _, _ := r.Get([]byte("y"))
			if string(x) == "0" && string(y) == "0" {
				t.Fatalf("round %d: both were taken", round)
			}
			return nil
		})
	}
}

// testPhantoms: each adds a record if its scan finds none.
func testPhantoms(t *testing.T, p *place) {
	for round := range 20 {
		prefix := fmt.Sprintf("round%02d/", round)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				err := p.Records.Update(t.Context(), func(tx store.Transaction) error {
					for _, err := range tx.Scan([]byte(prefix), nil) {
						return err
					}
					return putIn(tx, fmt.Sprint(prefix, i), "")
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		view(t, p.Records, func(r store.Reader) error {
			if got, err := scan(r, prefix, ""); err != nil || len(got) != 1 {
				t.Fatalf("%q, %v: want exactly one", got, err)
			}
			return nil
		})
	}
}

// testErrorsBesideOthers: of transactions at the same time every second fails.
func testErrorsBesideOthers(t *testing.T, p *place) {
	mine := errors.New("mine")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				fails := (i+j)%2 == 0
				err := p.Records.Update(t.Context(), func(tx store.Transaction) error {
					if err := errors.Join(add(tx, "n", 1), putIn(tx, fmt.Sprintf("k%d.%d", i, j), "")); err != nil {
						return err
					}
					if fails {
						return mine
					}
					return nil
				})
				if fails != (err == mine) || !fails && err != nil {
					t.Errorf("Update: %v, should fail: %t", err, fails)
				}
			}
		})
	}
	wg.Wait()
	view(t, p.Records, func(r store.Reader) error {
		wantGet(t, r, "n", "40", true)
		if got, err := scan(r, "k", ""); err != nil || len(got) != 40 {
			t.Errorf("%d records, %v; want 40", len(got), err)
		}
		return nil
	})
}

func testEndedContext(t *testing.T, p *place) {
	put(t, p.Records, "a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Records.Update(ctx, func(tx store.Transaction) error { return putIn(tx, "a", "2") }); !errors.Is(err, context.Canceled) {
		t.Errorf("Update: %v, want context.Canceled", err)
	}
	if err := p.Records.View(ctx, func(store.Reader) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("View: %v, want context.Canceled", err)
	}
	wantAll(t, p.Records, "a=1")
}

func testRecordsSurvive(t *testing.T, p *place) {
	put(t, p.Records, "a", "1", "b", "2")
	p.reopen()
	wantAll(t, p.Records, "a=1", "b=2")
	update(t, p.Records, func(tx store.Transaction) error { return tx.Delete([]byte("a")) })
	p.reopen()
	wantAll(t, p.Records, "b=2")
}

// testLikeAMap runs random transactions beside a map.
func testLikeAMap(t *testing.T, p *place) {
	r := rand.New(rand.NewPCG(3, 4))
	model := map[string]string{}
	key := func() string { return fmt.Sprintf("%c%c", 'a'+r.IntN(4), 'a'+r.IntN(20)) }
	for round := range 60 {
		next := map[string]string{}
		for k, v := range model {
			next[k] = v
		}
		fail := r.IntN(4) == 0
		type op struct {
			kind       int
			key, value string
		}
		ops := make([]op, r.IntN(20))
		for i := range ops {
			ops[i] = op{r.IntN(4), key(), strconv.Itoa(r.Int())}
		}
		err := p.Records.Update(t.Context(), func(tx store.Transaction) error {
			clear(next)
			for k, v := range model {
				next[k] = v
			}
			for _, o := range ops {
				var err error
				switch o.kind {
				case 0, 1:
					err = tx.Put([]byte(o.key), []byte(o.value))
					next[o.key] = o.value
				case 2:
					err = tx.Delete([]byte(o.key))
					delete(next, o.key)
				case 3:
					wantScan(t, tx, o.key[:1], o.key, expected(next, o.key[:1], o.key)...)
				}
				if err != nil {
					return err
				}
			}
			if fail {
				return context.DeadlineExceeded
			}
			return nil
		})
		if fail {
			if err != context.DeadlineExceeded {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		} else {
			model = next
		}
		if round%20 == 19 {
			p.reopen()
		}
		wantAll(t, p.Records, expected(model, "", "")...)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

func expected(m map[string]string, prefix, after string) []string {
	var all []string
	for k, v := range m {
		if strings.HasPrefix(k, prefix) && k > after {
			all = append(all, k+"="+v)
		}
	}
	slices.Sort(all)
	return all
}

func testRecordsReplicas(t *testing.T, p *place) {
	other := p.second(t)
	counter(t, p.Records, other.Records)
	wantAll(t, other.Records, "n=200")
}
