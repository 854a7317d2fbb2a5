package files

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
)

// This file reads the pages of bbolt's file (version 2) with suspicion. bbolt itself
// follows whatever a page says: at damage it panics, reads behind the end of the
// file, or runs in a circle, and where it looks at all pages it does so in a
// goroutine of its own, so that nobody can recover. What verifyPages finds sound,
// bbolt can walk.

// Layout: a page begins with its number (8 bytes), flags (2), count of elements (2)
// and the number of pages that it goes on for (4); elements follow, which say where
// behind themselves their keys and values are. All in the machine's byte order.
const (
	pageHeader  = 16
	elementSize = 16
	bucketSize  = 16 // page number of a bucket's root, sequence

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketFlag   = 0x01 // of a leaf's element

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 64
	noFreelist  = math.MaxUint64

	mostPages = 1 << 32 // 16 TiB, of which a bit each is kept

	// A tree of pages of 4 KiB with two keys each is not as high, and 2^48 bytes long.
	maxHeight = 48
)

var order = binary.NativeEndian

// fileMeta is one of the two first pages: where the tree begins.
type fileMeta struct {
	pageSize              int64
	root, freelist, pages uint64 // pages: how many the file has, at least
	txid                  uint64
}

// readMeta reads the newer of the meta pages that are whole. ok is false when none
// is, which bbolt says better.
func readMeta(f io.ReaderAt) (m fileMeta, ok bool) {
	var b [metaSize]byte
	at := func(off int64) {
		if _, err := f.ReadAt(b[:], off+pageHeader); err != nil || order.Uint32(b[0:]) != metaMagic || order.Uint32(b[4:]) != metaVersion {
			return
		}
		sum := fnv.New64a()
		sum.Write(b[:56])
		if sum.Sum64() != order.Uint64(b[56:]) {
			return
		}
		x := fileMeta{int64(order.Uint32(b[8:])), order.Uint64(b[16:]), order.Uint64(b[32:]), order.Uint64(b[40:]), order.Uint64(b[48:])}
		if !ok || x.txid > m.txid {
			m, ok = x, true
		}
	}
	at(0)
	for size := int64(1 << 10); size <= 64<<10; size *= 2 { // the first may be the broken one
		at(size)
	}
	if m.pageSize < 1<<10 || m.pageSize > 64<<10 {
		return m, false
	}
	return m, ok
}

// pageWalk is one look at all pages.
type pageWalk struct {
	f    io.ReaderAt
	meta fileMeta
	seen []uint64 // a bit for each page
	bufs [][]byte // a page for each height: only the way down to one is needed at once
}

// verifyPages reads all pages that are in use: each is what it says, lies within the
// file, is used once, and has keys in order that are within its pages. Nil too for
// what has no meta page.
func verifyPages(f io.ReaderAt) error {
	m, ok := readMeta(f)
	if !ok {
		return nil
	}
	if m.pages > mostPages || m.root >= m.pages {
		return fmt.Errorf("its root is page %d of %d", m.root, m.pages)
	}
	w := &pageWalk{f: f, meta: m}
	// The file may be cut off: no memory for what it has not.
	if _, err := f.ReadAt(make([]byte, 1), int64(m.pages-1)*m.pageSize); err != nil && m.pages > 1<<20 {
		return fmt.Errorf("it ends before page %d: %w", m.pages-1, err)
	}
	w.seen = make([]uint64, m.pages/64+1)
	_, err := w.page(m.root, nil, nil, 0)
	return err
}

// verifyFreelist reads the list of free pages, when there is one.
func verifyFreelist(f io.ReaderAt) error {
	m, ok := readMeta(f)
	if !ok || m.freelist == noFreelist {
		return nil
	}
	if m.pages > mostPages || m.freelist < 2 || m.freelist >= m.pages {
		return fmt.Errorf("its list of free pages is page %d of %d", m.freelist, m.pages)
	}
	fail := func(format string, a ...any) error {
		return fmt.Errorf("page %d, the list of free pages: %w", m.freelist, fmt.Errorf(format, a...))
	}
	b := make([]byte, pageHeader+8)
	if _, err := f.ReadAt(b, int64(m.freelist)*m.pageSize); err != nil {
		return fail("%w", err)
	}
	if order.Uint64(b) != m.freelist || order.Uint16(b[8:]) != freelistPage {
		return fail("it is something else")
	}
	room := int64(order.Uint32(b[12:]))*m.pageSize + m.pageSize - pageHeader
	from, count := int64(0), uint64(order.Uint16(b[10:]))
	if count == math.MaxUint16 { // too many for the field: the first element
		from, count = 8, order.Uint64(b[pageHeader:])
	}
	if count > uint64(room-from)/8 {
		return fail("it has no room for %d pages", count)
	}
	in := bufio.NewReader(io.NewSectionReader(f, int64(m.freelist)*m.pageSize+pageHeader+from, int64(count)*8))
	for range count {
		if _, err := io.ReadFull(in, b[:8]); err != nil {
			return fail("%w", err)
		}
		if id := order.Uint64(b); id < 2 || id >= m.pages {
			return fail("page %d is outside of the file's %d", id, m.pages)
		}
	}
	return nil
}

func (w *pageWalk) mark(id uint64) error {
	if id < 2 || id >= w.meta.pages {
		return fmt.Errorf("page %d is outside of the file's %d", id, w.meta.pages)
	}
	if w.seen[id/64]&(1<<(id%64)) != 0 {
		return fmt.Errorf("page %d is used twice", id)
	}
	w.seen[id/64] |= 1 << (id % 64)
	return nil
}

// page reads a page, whose keys are to be from least (nil: any) to below limit (nil:
// any), and all below it. It returns the last key, until the next page of its height
// is read.
func (w *pageWalk) page(id uint64, least, limit []byte, height int) ([]byte, error) {
	if height > maxHeight {
		return nil, fmt.Errorf("page %d lies deeper than pages can", id)
	}
	if err := w.mark(id); err != nil {
		return nil, err
	}
	for len(w.bufs) <= height {
		w.bufs = append(w.bufs, make([]byte, w.meta.pageSize))
	}
	b := w.bufs[height][:w.meta.pageSize]
	if _, err := w.f.ReadAt(b, int64(id)*w.meta.pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if order.Uint64(b) != id {
		return nil, fmt.Errorf("page %d says that it is page %d", id, order.Uint64(b))
	}
	if more := uint64(order.Uint32(b[12:])); more > 0 {
		for i := range more {
			if err := w.mark(id + 1 + i); err != nil {
				return nil, fmt.Errorf("page %d goes on for %d pages: %w", id, more, err)
			}
		}
		// Not more memory than the file has bytes for.
		rest, err := io.ReadAll(io.NewSectionReader(w.f, int64(id+1)*w.meta.pageSize, int64(more)*w.meta.pageSize))
		if err == nil && int64(len(rest)) < int64(more)*w.meta.pageSize {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
		b = append(b, rest...)
		w.bufs[height] = b
	}
	last, err := w.elements(b, least, limit, height)
	if err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return last, nil
}

// elements reads what a page lists.
func (w *pageWalk) elements(b, least, limit []byte, height int) (last []byte, err error) {
	flags, count := order.Uint16(b[8:]), int(order.Uint16(b[10:]))
	if flags != branchPage && flags != leafPage {
		return nil, fmt.Errorf("it is of the kind %#x, neither branch nor leaf", flags)
	}
	if pageHeader+count*elementSize > len(b) {
		return nil, fmt.Errorf("it has no room for its %d elements", count)
	}
	if flags == branchPage && count == 0 {
		return nil, errors.New("a branch without leaves")
	}
	// keyOf gives the key of an element, and what follows that.
	keyOf := func(i int) (key, rest []byte, err error) {
		at := pageHeader + i*elementSize
		pos, size := uint64(order.Uint32(b[at:])), uint64(order.Uint32(b[at+4:]))
		if flags == leafPage {
			pos, size = uint64(order.Uint32(b[at+4:])), uint64(order.Uint32(b[at+8:]))
		}
		from := uint64(at) + pos
		if pos < elementSize || from+size > uint64(len(b)) {
			return nil, nil, fmt.Errorf("element %d lies outside of it", i)
		}
		return b[from : from+size], b[from+size:], nil
	}
	for i := range count {
		key, rest, err := keyOf(i)
		if err != nil {
			return nil, err
		}
		if i == 0 && least != nil && bytes.Compare(key, least) < 0 || i > 0 && bytes.Compare(key, last) <= 0 || limit != nil && bytes.Compare(key, limit) >= 0 {
			return nil, fmt.Errorf("element %d is not in order", i)
		}
		last = key
		at := pageHeader + i*elementSize
		if flags == branchPage {
			below := limit
			if i+1 < count {
				if below, _, err = keyOf(i + 1); err != nil {
					return nil, err
				}
			}
			if last, err = w.page(order.Uint64(b[at+8:]), key, below, height+1); err != nil {
				return nil, err
			}
			continue
		}
		size := uint64(order.Uint32(b[at+12:]))
		if size > uint64(len(rest)) {
			return nil, fmt.Errorf("the value of element %d lies outside of it", i)
		}
		if order.Uint32(b[at:])&bucketFlag != 0 {
			if err := w.bucket(rest[:size], height); err != nil {
				return nil, fmt.Errorf("the bucket %.40q: %w", key, err)
			}
		}
	}
	return last, nil
}

// bucket reads a bucket: a page of its own, or one within the value.
func (w *pageWalk) bucket(value []byte, height int) error {
	if len(value) < bucketSize {
		return errors.New("it is cut off")
	}
	if root := order.Uint64(value); root != 0 {
		_, err := w.page(root, nil, nil, height+1)
		return err
	}
	if len(value) < bucketSize+pageHeader {
		return errors.New("it is cut off")
	}
	if order.Uint16(value[bucketSize+8:]) != leafPage {
		return errors.New("it is no leaf")
	}
	_, err := w.elements(value[bucketSize:], nil, nil, height+1)
	return err
}
