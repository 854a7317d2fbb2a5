package vuln

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/s2"
)

// spool sorts more pairs of key and value than fit in memory: runs that are
// sorted and written to a folder, then merged.
type spool struct {
	dir   string
	limit int // bytes of pairs that are held
	arena []byte
	pairs []pair
	runs  []string
	n     int
}

type pair struct{ from, key, end int } // arena[from:key] is the key, arena[key:end] the value

const (
	arenaSize = 24 << 20
	maxRuns   = 64       // that are merged at once: each takes some 200 KiB
	runBlock  = 64 << 10 // of a run's compression
)

func newSpool(dir string) *spool { return &spool{dir: dir, limit: arenaSize} }

// add copies the pair.
func (s *spool) add(key, value []byte) error {
	if len(s.arena) > 0 && len(s.arena)+len(key)+len(value) > s.limit {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if s.arena == nil {
		s.arena = make([]byte, 0, s.limit)
	}
	from := len(s.arena)
	s.arena = append(append(s.arena, key...), value...)
	s.pairs = append(s.pairs, pair{from, from + len(key), len(s.arena)})
	return nil
}

// flush writes what is held as a run.
func (s *spool) flush() error {
	slices.SortStableFunc(s.pairs, func(a, b pair) int {
		return bytes.Compare(s.arena[a.from:a.key], s.arena[b.from:b.key])
	})
	if err := s.write(func(yield func(kv, error) bool) {
		for _, p := range s.pairs {
			if !yield(kv{s.arena[p.from:p.key], s.arena[p.key:p.end]}, nil) {
				return
			}
		}
	}); err != nil {
		return err
	}
	s.arena, s.pairs = s.arena[:0], s.pairs[:0]
	if cap(s.arena) > s.limit {
		s.arena = nil // one large pair
	}
	if len(s.runs) < maxRuns {
		return nil
	}
	// Many runs become one, so that the number of open files stays bounded.
	old := s.runs
	s.runs = nil
	if err := s.write(merge(old)); err != nil {
		return err
	}
	for _, r := range old {
		if err := os.Remove(r); err != nil {
			return err
		}
	}
	return nil
}

type kv struct{ key, value []byte }

func (s *spool) write(pairs iter.Seq2[kv, error]) (err error) {
	s.n++
	name := filepath.Join(s.dir, fmt.Sprintf("run%d", s.n))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := s2.NewWriter(f, s2.WriterBlockSize(runBlock), s2.WriterConcurrency(1))
	var head []byte
	for p, err := range pairs {
		if err != nil {
			return err
		}
		head = binary.AppendUvarint(head[:0], uint64(len(p.key)))
		head = binary.AppendUvarint(head, uint64(len(p.value)))
		for _, b := range [][]byte{head, p.key, p.value} {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
	}
	s.runs = append(s.runs, name)
	return w.Close()
}

// sorted gives all pairs by key; pairs of equal keys in the order in which they
// were added. A pair is good until the next one. Nothing may be added later.
func (s *spool) sorted() iter.Seq2[kv, error] {
	return func(yield func(kv, error) bool) {
		if len(s.pairs) > 0 {
			if err := s.flush(); err != nil {
				yield(kv{}, err)
				return
			}
		}
		s.arena, s.pairs = nil, nil
		merge(s.runs)(yield)
	}
}

// run is one sorted file that is being read. Only the key of its next pair is
// held: values may be large, and there are many runs.
type run struct {
	n      int // in order of age
	r      *bufio.Reader
	key    []byte
	length int // of the value that comes next
}

// next reads the next key. io.EOF between two pairs is the end.
func (r *run) next() error {
	k, err := binary.ReadUvarint(r.r)
	if err != nil {
		return err
	}
	v, err := binary.ReadUvarint(r.r)
	if err != nil {
		return cut(err)
	}
	// Runs are our own, but a full disk has more than one way to show.
	if k > maxKey || v > maxEntry {
		return errors.New("a temporary file is damaged")
	}
	r.key, r.length = slices.Grow(r.key[:0], int(k))[:k], int(v)
	_, err = io.ReadFull(r.r, r.key)
	return cut(err)
}

type runHeap []*run

func (h runHeap) Len() int { return len(h) }
func (h runHeap) Less(i, j int) bool {
	return cmp.Or(bytes.Compare(h[i].key, h[j].key), cmp.Compare(h[i].n, h[j].n)) < 0
}
func (h runHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(x any)   { *h = append(*h, x.(*run)) }
func (h *runHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func merge(names []string) iter.Seq2[kv, error] {
	return func(yield func(kv, error) bool) {
		var h runHeap
		var open []*os.File
		defer func() {
			for _, f := range open {
				f.Close()
			}
		}()
		for i, name := range names {
			f, err := os.Open(name)
			if err != nil {
				yield(kv{}, err)
				return
			}
			open = append(open, f)
			r := &run{n: i, r: bufio.NewReaderSize(s2.NewReader(f, s2.ReaderMaxBlockSize(runBlock)), 16<<10)}
			switch err := r.next(); err {
			case nil:
				h = append(h, r)
			case io.EOF:
			default:
				yield(kv{}, err)
				return
			}
		}
		heap.Init(&h)
		var value []byte
		for len(h) > 0 {
			r := h[0]
			if cap(value) > 1<<20 {
				value = nil
			}
			value = slices.Grow(value[:0], r.length)[:r.length]
			if _, err := io.ReadFull(r.r, value); err != nil {
				yield(kv{}, cut(err))
				return
			}
			if !yield(kv{r.key, value}, nil) {
				return
			}
			switch err := r.next(); err {
			case nil:
				heap.Fix(&h, 0)
			case io.EOF:
				heap.Pop(&h)
			default:
				yield(kv{}, err)
				return
			}
		}
	}
}
