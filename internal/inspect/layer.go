package inspect

import (
	"archive/tar"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"twinhull.dev/twinhull/internal/image"
)

// Types of an entry beside those of package tar.
const (
	typeWhiteout = 'W' // deletes path
	typeOpaque   = 'O' // deletes what lower layers have below path
)

// entry is one path of one layer.
type entry struct {
	path string // relative, clean
	link string // as written for a symbolic link, clean for a hard link
	caps string // security.capability
	c    *content
	sums *sums
	size int64
	uid  int32
	gid  int32
	mode uint16 // 07777
	typ  byte
	refs int32 // names in the final file system
}

type sums struct {
	sha256 [32]byte
	md5    [16]byte
}

// layerScan is what reading one layer gave.
type layerScan struct {
	entries  []entry
	unpacked int64
	files    int
	bytes    int64
	marks    []layerMark // findings about the tar stream
	err      error
}

type layerMark struct {
	rule, path, detail string
}

// scanOptions says what to compute of every file.
type scanOptions struct {
	limits  image.Limits
	entries int64 // how many entries all layers together may have
	sha256  bool
	md5     bool
}

// readAhead lets one goroutine uncompress and hash while another looks at what
// came out. It stops when the context is done; close waits for the goroutine.
type readAhead struct {
	ch     chan chunk
	free   chan []byte
	cancel context.CancelFunc
	cur    chunk
	off    int
	n      int64
}

type chunk struct {
	b   []byte
	err error
}

// aheadBuffers of chunkSize bytes are between the two goroutines of a worker.
const aheadBuffers = 6

// newReadAhead reads r ahead into buffers, which belong to it until it is
// closed.
func newReadAhead(ctx context.Context, r io.Reader, buffers [][]byte) *readAhead {
	ctx, cancel := context.WithCancel(ctx)
	a := &readAhead{ch: make(chan chunk, len(buffers)), free: make(chan []byte, len(buffers)), cancel: cancel}
	for _, b := range buffers {
		a.free <- b
	}
	go func() {
		defer close(a.ch)
		for {
			var b []byte
			select {
			case b = <-a.free:
			case <-ctx.Done():
				return
			}
			n := 0
			var err error
			for n < len(b) && err == nil {
				var m int
				m, err = r.Read(b[n:])
				n += m
			}
			select {
			case a.ch <- chunk{b[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return a
}

func (a *readAhead) Read(p []byte) (int, error) {
	for a.off == len(a.cur.b) {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.b != nil {
			a.free <- a.cur.b[:chunkSize]
		}
		next, ok := <-a.ch
		if !ok {
			return 0, context.Canceled
		}
		a.cur, a.off = next, 0
	}
	n := copy(p, a.cur.b[a.off:])
	a.off += n
	a.n += int64(n)
	return n, nil
}

// close ends the goroutine and waits for it.
func (a *readAhead) close() {
	a.cancel()
	for range a.ch {
	}
}

// summing hashes what a detector reads.
type summing struct {
	r      io.Reader
	sha256 hash.Hash // nil: not wanted
	md5    hash.Hash
	n      int64
}

func (s *summing) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.sha256 != nil {
		s.sha256.Write(p[:n])
	}
	if s.md5 != nil {
		s.md5.Write(p[:n])
	}
	return n, err
}

// maxSparse is the largest file with holes that is read, in bytes.
const maxSparse = 256 << 20

// maxPath is longer than any path that a Linux kernel takes (PATH_MAX is 4096).
const maxPath = 8192

// scanLayer reads layer n. What it returns is complete only when err is nil;
// what was seen before an error is returned with it.
func (w *worker) scanLayer(img *image.Image, n int, opt scanOptions, count func() error) *layerScan {
	l := &layerScan{}
	rc, err := img.OpenLayer(w.ctx, n, opt.limits)
	if err != nil {
		l.err = err
		return l
	}
	defer rc.Close()
	if w.ahead == nil {
		for range aheadBuffers {
			w.ahead = append(w.ahead, make([]byte, chunkSize))
		}
	}
	ahead := newReadAhead(w.ctx, rc, w.ahead)
	defer ahead.close()
	l.err = w.scanTar(l, ahead, opt, count)
	l.unpacked = ahead.n
	return l
}

func (w *worker) scanTar(l *layerScan, stream io.Reader, opt scanOptions, count func() error) error {
	r := tar.NewReader(stream)
	seen := 0
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", seen, err)
		}
		seen++
		if err := count(); err != nil {
			return err
		}
		if err := w.entry(l, h, r, opt); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	// What lies behind the archive's end is part of the layer's digest and no
	// runtime looks at it: a place to hide bytes.
	buf := w.buf[:chunkSize]
	behind := false
	for {
		n, err := stream.Read(buf)
		for _, c := range buf[:n] {
			behind = behind || c != 0
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if behind {
		l.mark(RuleHostile, "", "bytes other than zero lie behind the end of the archive, where no runtime sees them")
	}
	return nil
}

func (l *layerScan) mark(rule, path, detail string) {
	const limit = 100
	if len(l.marks) < limit {
		l.marks = append(l.marks, layerMark{rule, path, detail})
	}
}

// entry reads one entry of the tar stream.
func (w *worker) entry(l *layerScan, h *tar.Header, r io.Reader, opt scanOptions) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if strings.IndexByte(h.Name, 0) >= 0 || len(h.Name) > maxPath {
		l.mark(RuleHostile, "", fmt.Sprintf("an entry's name has %d bytes or holds a zero byte", len(h.Name)))
		return nil
	}
	// A runtime cleans the name below its root, so that ".." stays inside; a
	// builder writes no such name.
	if strings.Contains(h.Name, "..") {
		for part := range strings.SplitSeq(h.Name, "/") {
			if part == ".." {
				l.mark(RuleHostile, h.Name, "the entry's name climbs upwards")
				break
			}
		}
	}
	p := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if p == "" {
		return nil // the root itself
	}
	dir, base := path.Split(p)
	if strings.HasPrefix(base, ".wh.") {
		if h.Size > 0 && (h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse || h.Typeflag == tar.TypeCont) {
			l.mark(RuleHostile, p, fmt.Sprintf("a whiteout with %d bytes in it, which no runtime shows", h.Size))
		}
		switch {
		case base == ".wh..wh..opq":
			l.entries = append(l.entries, entry{path: strings.TrimSuffix(dir, "/"), typ: typeOpaque})
		case strings.HasPrefix(base, ".wh..wh."):
			// Metadata of aufs, which runtimes pass over.
		case base == ".wh.":
			l.mark(RuleHostile, p, "a whiteout of nothing")
		default:
			l.entries = append(l.entries, entry{path: dir + base[len(".wh."):], typ: typeWhiteout})
		}
		return nil
	}
	e := entry{path: p, typ: h.Typeflag, mode: uint16(h.Mode & 0o7777), size: h.Size, uid: int32(h.Uid), gid: int32(h.Gid), caps: h.PAXRecords["SCHILY.xattr.security.capability"]}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		e.typ = tar.TypeReg
		// Asked before the bytes are read: a file with holes has a size that
		// nobody had to store.
		if isSparse(h) && h.Size > maxSparse {
			return fmt.Errorf("a sparse file of %d bytes: %w", h.Size, image.ErrLimit)
		}
		if opt.limits.MaxBytes > 0 && l.bytes+h.Size > opt.limits.MaxBytes {
			return fmt.Errorf("more than %d bytes of files: %w", opt.limits.MaxBytes, image.ErrLimit)
		}
		s := &summing{r: r}
		if opt.sha256 {
			s.sha256 = sha256.New()
		}
		if opt.md5 && packaged(p) {
			s.md5 = md5.New()
		}
		c, err := w.file(fileInfo{path: p, size: h.Size, mode: h.Mode}, s)
		if err != nil {
			return err
		}
		if s.n != h.Size && h.Size > 0 {
			return fmt.Errorf("%d of %d bytes: %w", s.n, h.Size, io.ErrUnexpectedEOF)
		}
		if s.sha256 != nil || s.md5 != nil {
			e.sums = &sums{}
			if s.sha256 != nil {
				s.sha256.Sum(e.sums.sha256[:0])
			}
			if s.md5 != nil {
				s.md5.Sum(e.sums.md5[:0])
			}
		}
		if lo, ok := leftoverOf(p, c.text); ok {
			c.marks = append(c.marks, mark{rule: lo.rule, subject: lo.subject, folder: lo.folder})
		}
		if !c.empty() {
			e.c = c
		}
		l.files++
		l.bytes += h.Size
	case tar.TypeDir, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		e.size = 0
	case tar.TypeSymlink:
		e.link, e.size = h.Linkname, 0
	case tar.TypeLink:
		e.link, e.size = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"), 0
	default:
		l.mark(RuleHostile, p, fmt.Sprintf("an entry of the unknown type %q", h.Typeflag))
		return nil
	}
	l.entries = append(l.entries, e)
	return nil
}

// packaged tells whether a distribution's package may own the path and have its
// MD5 recorded.
func packaged(p string) bool {
	top, _, _ := strings.Cut(p, "/")
	switch top {
	case "usr", "bin", "sbin", "lib", "lib64", "lib32", "libx32", "opt":
		return true
	}
	return false
}

// isSparse tells a file with holes: its size in the header is not what the
// stream holds.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}
