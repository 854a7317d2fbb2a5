package overlay

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/registry/store"
)

// fixed is what lies below: a map, and an error behind so many records.
type fixed struct {
	m     map[string]string
	fails int // 0: never
}

var errBelow = errors.New("below")

func (f fixed) Get(key []byte) ([]byte, bool, error) {
	v, ok := f.m[string(key)]
	return []byte(v), ok, nil
}

func (f fixed) Scan(prefix, after []byte) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		for n, k := range slices.Sorted(maps.Keys(f.m)) {
			if f.fails > 0 && n >= f.fails {
				yield(store.Record{}, errBelow)
				return
			}
			if strings.HasPrefix(k, string(prefix)) && (after == nil || k > string(after)) &&
				!yield(store.Record{Key: []byte(k), Value: []byte(f.m[k])}, nil) {
				return
			}
		}
	}
}

// FuzzTransaction holds a transaction against a map. The input is operations of
// three bytes: what, and a key of two letters.
func FuzzTransaction(f *testing.F) {
	f.Add("aaapaapabdaapba")
	f.Add("pazdazpaz")
	f.Add("baabbbbccdaadbbpaa")
	f.Fuzz(func(t *testing.T, ops string) {
		below := fixed{m: map[string]string{}}
		want := map[string]string{}
		tx := Over(below)
		written := map[string]bool{}
		for i := 0; i+3 <= len(ops); i += 3 {
			key, value := ops[i+1:i+3], fmt.Sprint(i)
			var err error
			switch {
			case ops[i] == 'b' && !written[key]: // it was there before
				below.m[key], want[key] = value, value
			case ops[i] == 'd':
				err = tx.Delete([]byte(key))
				delete(want, key)
				written[key] = true
			case ops[i] == 'p':
				err = tx.Put([]byte(key), []byte(value))
				want[key] = value
				written[key] = true
			}
			if err != nil {
				t.Fatal(err)
			}
			if v, ok, err := tx.Get([]byte(key)); err != nil || ok != (want[key] != "") || string(v) != want[key] {
				t.Fatalf("Get %q: %q, %t, %v; want %q", key, v, ok, err, want[key])
			}
			for _, prefix := range []string{"", key[:1], key} {
				for _, after := range []string{"", key[:1], key, "zz"} {
					var from []byte
					if after != "" {
						from = []byte(after)
					}
					wanted, got := []string{}, []string{}
					for _, k := range slices.Sorted(maps.Keys(want)) {
						if strings.HasPrefix(k, prefix) && k > after {
							wanted = append(wanted, k+want[k])
						}
					}
					scan := tx.Scan([]byte(prefix), from)
					for range scan { // it can be used again
						break
					}
					for rec, err := range scan {
						if err != nil {
							t.Fatal(err)
						}
						got = append(got, string(rec.Key)+string(rec.Value))
					}
					if d := cmp.Diff(wanted, got); d != "" {
						t.Fatalf("scan %q after %q (-want +got):\n%s", prefix, after, d)
					}
				}
			}
		}
		result := maps.Clone(below.m)
		for k, v := range tx.Changes() {
			delete(result, k)
			if v != nil {
				result[k] = string(v)
			}
		}
		if d := cmp.Diff(want, result); d != "" {
			t.Errorf("the changes make another thing (-want +got):\n%s", d)
		}
	})
}

func TestErrorBelow(t *testing.T) {
	for fails := 1; fails < 3; fails++ {
		tx := Over(fixed{m: map[string]string{"a": "1", "c": "2", "e": "3"}, fails: fails})
		for _, k := range []string{"b", "z"} {
			if err := tx.Put([]byte(k), nil); err != nil {
				t.Fatal(err)
			}
		}
		var last error
		for _, err := range tx.Scan(nil, nil) {
			if last != nil {
				t.Error("something comes behind the error")
			}
			last = err
		}
		if last != errBelow {
			t.Errorf("the scan ends with %v", last)
		}
	}
}

func TestFirst(t *testing.T) {
	after := make([]byte, 1, 10)
	after[0] = 'b'
	for _, tc := range []struct{ prefix, after, want string }{{"a", "", "a"}, {"b", "", "b"}, {"a", "b", "b\x00"}, {"b", "b", "b\x00"}, {"c", "b", "c"}} {
		var from []byte
		if tc.after != "" {
			from = after
		}
		if got := First([]byte(tc.prefix), from); string(got) != tc.want {
			t.Errorf("First(%q, %q) = %q, want %q", tc.prefix, tc.after, got, tc.want)
		}
	}
	if after[:2][1] != 0 {
		t.Error("the caller's bytes were written to")
	}
}
