package registry

import (
	"context"
	"errors"
	"fmt"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

// TestWiper deletes more contents than are handed over at once: all of them, or, when
// that fails on the way, those whose marks are gone.
func TestWiper(t *testing.T) {
	const all = 2*mostGone + 1234
	for name, fail := range map[string]bool{"to the end": false, "interrupted": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var ds []oci.Digest
			if err := w.r.store.Records.Update(ctx, func(tx store.Transaction) error {
				for i := range all {
					ds = append(ds, digest.FromString(fmt.Sprint(i)))
					if err := tx.Put(key(kDeleting, string(ds[i])), nil); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			x := w.r.wiper(ctx)
			var err error
			for i := 0; i < all && err == nil; i += 500 {
				err = x.add(ds[i:min(i+500, all)])
				if fail && i >= mostGone {
					cancel()
				}
			}
			n, endErr := x.end()
			if err = errors.Join(err, endErr); fail != errors.Is(err, context.Canceled) || !fail && (err != nil || n != all) {
				t.Errorf("%d of %d deleted: %v", n, all, err)
			}
			var marks []string
			if err := w.r.store.Records.View(t.Context(), func(tx store.Reader) (err error) {
				marks, err = keysOf(tx, []byte{kDeleting}, 0)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if n+len(marks) != all {
				t.Errorf("%d deleted, %d marked, of %d", n, len(marks), all)
			}
			if n, err := x.end(); fail == (err == nil) || n+len(marks) != all {
				t.Errorf("ended twice: %d, %v", n, err)
			}
		})
	}
}
