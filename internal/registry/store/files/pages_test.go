package files

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"twinhull.dev/twinhull/internal/registry/store"
)

// TestFreePagesAreListedOnce: by the close of what was changed, and not after a
// failure that leaves unknown what is on the disk.
func TestFreePagesAreListedOnce(t *testing.T) {
	for name, broken := range map[string]error{"sound": nil, "after a failure": errors.New("fdatasync: input/output error")} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "records.db")
			r, err := openRecords(path, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Update(t.Context(), func(tx store.Transaction) error { return tx.Put([]byte("k"), nil) }); err != nil {
				t.Fatal(err)
			}
			r.broken = broken
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.close(); err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			m, ok := readMeta(bytes.NewReader(after))
			if listed := ok && m.freelist != noFreelist; listed == (broken != nil) {
				t.Errorf("listed: %t", listed)
			}
			if broken != nil && !bytes.Equal(before, after) {
				t.Error("something was written")
			}
		})
	}
}

// FuzzPages: no file of records ends the process, neither when it is opened nor when
// all of it is read; most seeds have no list of free pages, so that bbolt walks it.
func FuzzPages(f *testing.F) {
	for _, n := range []int{0, 1, 200} {
		path := filepath.Join(f.TempDir(), "records.db")
		r, err := openRecords(path, false)
		if err != nil {
			f.Fatal(err)
		}
		if err := r.Update(f.Context(), func(tx store.Transaction) error {
			for i := range n {
				if err := tx.Put(fmt.Appendf(nil, "key%05d", i), make([]byte, 1+i%60*i%60*3)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if err := verifyPages(bytes.NewReader(b)); err != nil {
			f.Errorf("a sound file: %v", err)
		}
		last := len(bytes.TrimRight(b, "\x00"))/4096*4096 + 4096
		f.Add(b[:min(last, len(b))], uint32(0), byte(0))
		f.Add(b[:min(last, len(b))], uint32(8192+10), byte(3)) // a count
		if err := r.close(); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint32, with byte) {
		b = b[:min(len(b), 1<<20)]
		if len(b) > 8192 {
			b[8192+int(at)%(len(b)-8192)] ^= with // the meta pages have a checksum
		}
		path := filepath.Join(t.TempDir(), "records.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := openRecords(path, false)
		if err != nil {
			return // it must only not end the process
		}
		defer r.close()
		if err := r.check(t.Context()); err != nil && !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%v; want ErrDamaged", err)
		}
	})
}
