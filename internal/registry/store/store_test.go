package store_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"twinhull.dev/twinhull/internal/registry/store"
)

// FuzzCheckID: what passes is one plain element of a path, on any system.
func FuzzCheckID(f *testing.F) {
	for _, s := range []string{"", "..", "../" + store.NewID(), store.NewID(), strings.Repeat("A", 64), strings.Repeat("A", 65), store.NewID() + "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		err := store.CheckID(id)
		if err != nil {
			if !errors.Is(err, store.ErrUnusableID) || !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%q: %v", id, err)
			}
			return
		}
		if filepath.Base(id) != id || strings.ContainsAny(id, "./\\@~%\x00 ") || len(id) < 26 {
			t.Errorf("%q passes", id)
		}
	})
}

func TestNewID(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := store.NewID()
		if err := store.CheckID(id); err != nil || seen[id] {
			t.Fatalf("%q: %v, seen before: %t", id, err, seen[id])
		}
		seen[id] = true
	}
}
