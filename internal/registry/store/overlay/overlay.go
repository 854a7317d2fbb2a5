// Package overlay collects what a transaction writes, over a reader of what is
// there, so that the transaction reads its own writes, and its writes can be made
// all at once at its end, or dropped.
//
// It is a part of the stores of records and stores nothing itself.
package overlay

import (
	"bytes"
	"iter"
	"slices"
	"sort"
	"strings"

	"twinhull.dev/twinhull/internal/registry/store"
)

// Transaction is a store.Transaction whose writes stay in memory.
type Transaction struct {
	below   store.Reader
	changes map[string][]byte // nil: deleted
	sorted  []string          // keys of changes; never changed in place, since a scan may be going on
	fresh   []string          // the others, in no order
	bytes   int
}

var _ store.Transaction = (*Transaction)(nil)

// Over begins a transaction that reads what below does.
func Over(below store.Reader) *Transaction {
	return &Transaction{below: below, changes: map[string][]byte{}}
}

// Empty tells whether it has written nothing.
func (tx *Transaction) Empty() bool { return len(tx.changes) == 0 }

// Bytes is the size of all that was written, in bytes.
func (tx *Transaction) Bytes() int { return tx.bytes }

// Changes goes through what was written, in the order of the keys. A deleted key
// has a nil value; an empty value is not nil.
func (tx *Transaction) Changes() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, k := range tx.keys() {
			if !yield(k, tx.changes[k]) {
				return
			}
		}
	}
}

// Get implements store.Reader.
func (tx *Transaction) Get(key []byte) ([]byte, bool, error) {
	if v, ok := tx.changes[string(key)]; ok {
		return v, v != nil, nil
	}
	return tx.below.Get(key)
}

// Put implements store.Transaction.
func (tx *Transaction) Put(key, value []byte) error {
	if err := store.CheckRecord(key, value); err != nil {
		return err
	}
	tx.change(key, append(make([]byte, 0, len(value)), value...))
	return nil
}

// Delete implements store.Transaction.
func (tx *Transaction) Delete(key []byte) error {
	if len(key) > 0 {
		tx.change(key, nil)
	}
	return nil
}

func (tx *Transaction) change(key, value []byte) {
	n := len(tx.changes)
	tx.changes[string(key)] = value
	if len(tx.changes) > n {
		tx.fresh = append(tx.fresh, string(key))
	}
	tx.bytes += len(key) + len(value)
}

// keys are the keys of changes in order, until the next write. Who scans after
// each write, as a collection does, pays only for what is new since.
func (tx *Transaction) keys() []string {
	if len(tx.fresh) == 0 {
		return tx.sorted
	}
	if len(tx.fresh) < 16 {
		for _, k := range tx.fresh {
			i := sort.SearchStrings(tx.sorted, k)
			tx.sorted = slices.Insert(tx.sorted, i, k)
		}
		tx.fresh = tx.fresh[:0]
		return tx.sorted
	}
	slices.Sort(tx.fresh)
	all := make([]string, 0, len(tx.sorted)+len(tx.fresh))
	a, b := tx.sorted, tx.fresh
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			all, a = append(all, a[0]), a[1:]
		} else {
			all, b = append(all, b[0]), b[1:]
		}
	}
	tx.sorted, tx.fresh = append(append(all, a...), b...), tx.fresh[:0]
	return tx.sorted
}

// First is the least key that a scan can give.
func First(prefix, after []byte) []byte {
	if after == nil || bytes.Compare(after, prefix) < 0 {
		return prefix
	}
	return append(slices.Clip(after), 0) // nothing lies between
}

// Scan implements store.Reader: what lies below, merged with its own writes.
func (tx *Transaction) Scan(prefix, after []byte) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		own := tx.keys()
		own = own[sort.SearchStrings(own, string(First(prefix, after))):]
		own = own[:sort.Search(len(own), func(i int) bool { return !strings.HasPrefix(own[i], string(prefix)) })]
		if len(own) == 0 {
			tx.below.Scan(prefix, after)(yield)
			return
		}
		next, stop := iter.Pull2(tx.below.Scan(prefix, after))
		defer stop()
		below, err, there := next()
		for there || len(own) > 0 {
			if there && err != nil {
				yield(store.Record{}, err)
				return
			}
			rec := below
			if len(own) > 0 && (!there || own[0] <= string(below.Key)) {
				v := tx.changes[own[0]]
				rec = store.Record{Key: []byte(own[0]), Value: v}
				if there && own[0] == string(below.Key) {
					below, err, there = next()
				}
				own = own[1:]
				if v == nil {
					continue
				}
			} else {
				below, err, there = next()
			}
			if !yield(rec, nil) {
				return
			}
		}
	}
}
