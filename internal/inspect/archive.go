package inspect

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Bounds of looking into one archive that lies in an image. What is beyond them
// is not looked at, and that is told.
const (
	archiveBytes   = 512 << 20 // when unpacked
	archiveMembers = 100_000
	archiveRatio   = 1000 // from archiveFree on
	archiveFree    = 64 << 20
	xzBytes        = 128 << 20 // xz unpacks at some 25 MB/s
	archiveDepth   = 5         // archives in archives; a jar in a zip in a tar.gz is three and a half
	nestedWhole    = 8 << 20   // zip archives in archives up to this size are held whole
)

var errBound = errors.New("more than is looked into")

// budget is what may still come out of an archive and of all archives in it.
type budget struct {
	bytes   int64
	members int
}

// bounded is a reader under a budget.
type bounded struct {
	r io.Reader
	b *budget
}

func (r bounded) Read(p []byte) (int, error) {
	if r.b.bytes <= 0 {
		return 0, errBound
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.b.bytes)])
	r.b.bytes -= int64(n)
	return n, err
}

// archive looks into an archive. Failures are facts about it, not errors: the
// layer goes on.
func (f *opened) archive(kind string) error {
	left := f.w.left
	if f.w.depth == 0 {
		left = &budget{bytes: archiveBytes, members: archiveMembers}
	}
	if f.w.depth >= archiveDepth {
		f.c.errs = append(f.c.errs, fmt.Sprintf("archives lie in archives more than %d deep", archiveDepth))
		return nil
	}
	f.w.within(left)
	source := &faulty{r: f.rest()}
	var err error
	switch kind {
	case "zip":
		limit := wholeLimit
		if f.w.depth > 0 {
			limit = nestedWhole
		}
		b, whole, rerr := f.readAll(limit)
		switch {
		case rerr != nil:
			return rerr
		case whole:
			err = f.zip(b, left)
		case b != nil:
			source.r = io.MultiReader(bytes.NewReader(bytes.Clone(b)), f.r)
			err = f.zipStream(source, left)
		default:
			err = f.zipStream(source, left)
		}
	case "tar":
		err = f.tar(source, left)
	case "cpio":
		err = f.cpio(source, left)
	default:
		err = f.compressed(kind, source, left)
	}
	if source.err != nil { // the layer itself cannot be read
		return source.err
	}
	if err != nil {
		f.c.errs = append(f.c.errs, fmt.Sprintf("%s archive is not wholly looked into: %v", kind, err))
	}
	return nil
}

// appended looks for a zip archive behind a program or a script, where
// self-extracting archives and Python's zip applications have it. b is the whole
// file.
func (f *opened) appended(b []byte) {
	const most = 22 + 65535 // the directory's end with the longest comment (APPNOTE.TXT 4.3.16)
	tail := b[max(len(b)-most, 0):]
	if i := bytes.Index(tail, []byte("PK\x05\x06")); i < 0 || len(tail)-i < 22 || f.w.depth >= archiveDepth {
		return
	}
	if _, err := zip.NewReader(bytes.NewReader(b), int64(len(b))); err != nil {
		return // the four bytes were something else
	}
	left := f.w.left
	if f.w.depth == 0 {
		left = &budget{bytes: archiveBytes, members: archiveMembers}
	}
	f.w.within(left)
	if err := f.zip(b, left); err != nil {
		f.c.errs = append(f.c.errs, fmt.Sprintf("the zip archive at its end is not wholly looked into: %v", err))
	}
}

// faulty remembers an error of the reader below, so that it is not taken for
// one of the archive.
type faulty struct {
	r   io.Reader
	err error
}

func (r *faulty) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// member looks at one file of the archive.
func (f *opened) member(name string, size, mode int64, r io.Reader, left *budget) error {
	if left.members--; left.members < 0 {
		return errBound
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	c, err := f.w.inner.file(fileInfo{path: name, size: size, mode: mode, dependency: f.info.isDependency()}, r)
	if err != nil {
		return err
	}
	f.take(name, c)
	return nil
}

// take adds what was found in a member.
func (f *opened) take(name string, c *content) {
	const limit = 200 // of each; a hostile archive could repeat itself
	for _, t := range c.tools {
		if len(f.c.tools) < limit {
			t.inside = path.Join(name, t.inside)
			f.c.tools = append(f.c.tools, t)
		}
	}
	for _, s := range c.secrets {
		if len(f.c.secrets) < limit {
			s.inside = path.Join(name, s.inside)
			f.c.secrets = append(f.c.secrets, s)
		} else {
			f.c.more++
		}
	}
	f.c.more += c.more
	for _, m := range c.marks {
		if len(f.c.marks) < limit && m.rule != RuleHeaders {
			m.inside = path.Join(name, m.inside)
			f.c.marks = append(f.c.marks, m)
		}
	}
	for _, p := range c.pkgs {
		if len(f.c.pkgs) < 10_000 {
			f.c.pkgs = append(f.c.pkgs, p)
		}
	}
	for _, e := range c.errs {
		if len(f.c.errs) < 20 {
			f.c.errs = append(f.c.errs, "in "+name+": "+e)
		}
	}
}

// unpackers are the buffers and decompressors of a worker, made when they are
// first needed: an image has thousands of small compressed files.
type unpackers struct {
	in, out *bufio.Reader
	gzip    *gzip.Reader
	zstd    *zstd.Decoder
	flate   io.ReadCloser
}

// compressed unpacks a stream: an archive in it, or a single file.
func (f *opened) compressed(kind string, source io.Reader, left *budget) error {
	var r io.Reader
	var err error
	u := &f.w.unpack
	if u.in == nil {
		u.in, u.out = bufio.NewReaderSize(nil, 64<<10), bufio.NewReaderSize(nil, 64<<10)
	}
	count := &counted{r: source}
	u.in.Reset(count)
	switch kind {
	case "gzip":
		if u.gzip == nil {
			u.gzip = new(gzip.Reader)
		}
		err = u.gzip.Reset(u.in)
		r = u.gzip
	case "zstd":
		if u.zstd == nil {
			u.zstd, err = zstd.NewReader(u.in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(32<<20))
		} else {
			err = u.zstd.Reset(u.in)
		}
		r = u.zstd
	case "xz":
		left.bytes = min(left.bytes, xzBytes)
		r, err = xz.ReaderConfig{DictCap: 64 << 20}.NewReader(u.in)
	case "bzip2":
		left.bytes = min(left.bytes, xzBytes)
		r = bzip2.NewReader(u.in)
	}
	if err != nil {
		return err
	}
	out := u.out
	out.Reset(&ratioReader{r: bounded{r, left}, in: count})
	head, err := out.Peek(512)
	if err != nil && err != io.EOF {
		return err
	}
	switch {
	case isTar(head):
		return f.tar(out, left)
	case bytes.HasPrefix(head, []byte("070701")), bytes.HasPrefix(head, []byte("070702")):
		return f.cpio(out, left)
	}
	if f.info.isDependency() && isExample(f.info.path) && isText(head) {
		return nil // a manual page or a list of changes: text that nothing is looked for in
	}
	name := path.Base(f.info.path)
	name = strings.TrimSuffix(name, path.Ext(name))
	return f.member(name, -1, f.info.mode, out, left)
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

type ratioReader struct {
	r  io.Reader
	in *counted
	n  int64
}

func (r *ratioReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	if r.n > archiveFree && r.n/max(r.in.n, 1) > archiveRatio {
		return 0, fmt.Errorf("it grows more than %d times: %w", archiveRatio, errBound)
	}
	return n, err
}

func (f *opened) tar(source io.Reader, left *budget) error {
	r := tar.NewReader(bounded{source, left})
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			if left.members--; left.members < 0 {
				return errBound
			}
			continue
		}
		if h.Size > left.bytes {
			return errBound // a sparse file can say anything
		}
		if err := f.member(h.Name, h.Size, h.Mode, r, left); err != nil {
			return err
		}
	}
}

// cpio reads the "new" format (cpio(5), newc): 110 bytes of hexadecimal header,
// name and data filled up to four bytes.
func (f *opened) cpio(source io.Reader, left *budget) error {
	r := bounded{source, left}
	var h [110]byte
	for {
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return fmt.Errorf("cpio header: %w", err)
		}
		if m := string(h[:6]); m != "070701" && m != "070702" {
			return fmt.Errorf("cpio header %q", m)
		}
		field := func(i int) (int64, error) { return strconv.ParseInt(string(h[6+8*i:14+8*i]), 16, 64) }
		mode, err1 := field(1)
		size, err2 := field(6)
		length, err3 := field(11)
		if err := errors.Join(err1, err2, err3); err != nil {
			return fmt.Errorf("cpio header: %w", err)
		}
		if length < 1 || length > 4096 {
			return fmt.Errorf("cpio name of %d bytes", length)
		}
		name := make([]byte, length+(4-(110+length)%4)%4)
		if _, err := io.ReadFull(r, name); err != nil {
			return fmt.Errorf("cpio name: %w", err)
		}
		text := string(bytes.TrimRight(name[:length], "\x00"))
		if text == "TRAILER!!!" {
			return nil
		}
		data := &io.LimitedReader{R: r, N: size}
		if mode&0o170000 == 0o100000 {
			if err := f.member(text, size, mode&0o7777, data, left); err != nil {
				return err
			}
		}
		if _, err := io.CopyN(io.Discard, r, data.N+(4-size%4)%4); err != nil {
			return err
		}
	}
}

// zip looks into a zip archive that is held whole.
func (f *opened) zip(b []byte, left *budget) error {
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	z.RegisterDecompressor(zip.Deflate, f.w.unpack.inflate)
	var errs []error
	for _, m := range z.File {
		if m.FileInfo().IsDir() {
			continue
		}
		if m.Flags&1 != 0 {
			errs = append(errs, fmt.Errorf("%s is encrypted", m.Name))
			continue
		}
		if m.UncompressedSize64 > uint64(left.bytes) {
			return errBound
		}
		r, err := m.Open()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
			continue
		}
		err = f.zipMember(m.Name, int64(m.UncompressedSize64), int64(m.Mode().Perm()), bounded{r, left}, left)
		r.Close()
		if errors.Is(err, errBound) {
			return err
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		}
		if len(errs) > 5 {
			break
		}
	}
	f.jarName()
	return errors.Join(errs...)
}

// inflate is the decompressor of zip archives; one member is open at a time.
func (u *unpackers) inflate(r io.Reader) io.ReadCloser {
	if u.flate == nil {
		u.flate = flate.NewReader(r)
	} else if err := u.flate.(flate.Resetter).Reset(r, nil); err != nil {
		return flate.NewReader(r)
	}
	return io.NopCloser(u.flate)
}

// zipMember looks at a file of a zip archive, which may be a Java archive with
// a description of what it is.
func (f *opened) zipMember(name string, size, mode int64, r io.Reader, left *budget) error {
	switch {
	case strings.HasPrefix(name, "META-INF/maven/") && path.Base(name) == "pom.properties":
		b, err := io.ReadAll(io.LimitReader(r, 64<<10))
		if err != nil {
			return err
		}
		if p, ok := pomProperties(b); ok {
			f.c.pkgs = append(f.c.pkgs, p)
		}
		return nil
	case strings.HasSuffix(name, ".dist-info/METADATA"), path.Base(name) == "PKG-INFO":
		return nil // of a wheel that is not installed
	}
	return f.member(name, size, mode, r, left)
}

// jarName names a Java archive without a description after its file.
func (f *opened) jarName() {
	if ext := path.Ext(f.info.path); ext != ".jar" && ext != ".war" {
		return
	}
	for _, p := range f.c.pkgs {
		if p.Type == Maven {
			return
		}
	}
	if p, ok := jarFileName(path.Base(f.info.path)); ok {
		f.c.pkgs = append(f.c.pkgs, p)
	}
}

// zipStream reads a zip archive too large to be held by its local headers
// (APPNOTE.TXT 4.3.7), in order.
func (f *opened) zipStream(source io.Reader, left *budget) error {
	r := bufio.NewReaderSize(source, 64<<10)
	for {
		var sig [4]byte
		if _, err := io.ReadFull(r, sig[:]); err != nil {
			return err
		}
		switch string(sig[:]) {
		case "PK\x03\x04":
		case "PK\x01\x02", "PK\x05\x06", "PK\x06\x06": // the directory: all members are read
			f.jarName()
			return nil
		default:
			return fmt.Errorf("no zip header where one is due")
		}
		var h [26]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return err
		}
		flags, method := binary.LittleEndian.Uint16(h[2:]), binary.LittleEndian.Uint16(h[4:])
		packed, size := int64(binary.LittleEndian.Uint32(h[14:])), int64(binary.LittleEndian.Uint32(h[18:]))
		name := make([]byte, binary.LittleEndian.Uint16(h[22:]))
		extra := make([]byte, binary.LittleEndian.Uint16(h[24:]))
		if _, err := io.ReadFull(r, name); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, extra); err != nil {
			return err
		}
		if flags&1 != 0 {
			return fmt.Errorf("%s is encrypted", name)
		}
		if size == 0xffffffff || packed == 0xffffffff {
			for e := extra; len(e) >= 4; {
				id, n := binary.LittleEndian.Uint16(e), int(binary.LittleEndian.Uint16(e[2:]))
				if n > len(e)-4 {
					break
				}
				if id == 1 && n >= 16 {
					size, packed = int64(binary.LittleEndian.Uint64(e[4:])), int64(binary.LittleEndian.Uint64(e[12:]))
				}
				e = e[4+n:]
			}
		}
		described := flags&8 != 0 // sizes come behind the data
		var data io.Reader
		switch {
		case method == zip.Deflate:
			d := flate.NewReader(r)
			defer d.Close()
			data, size = d, -1
		case method == zip.Store && !described:
			data = &io.LimitedReader{R: r, N: packed}
		default:
			return fmt.Errorf("%s is stored in a way that is not read (method %d)", name, method)
		}
		data = bounded{data, left}
		if strings.HasSuffix(string(name), "/") {
			if _, err := io.Copy(io.Discard, data); err != nil {
				return err
			}
		} else if err := f.zipMember(string(name), size, 0o644, data, left); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, data); err != nil {
			return err
		}
		if described {
			b, err := r.Peek(4)
			if err != nil {
				return err
			}
			n := 12
			if string(b) == "PK\x07\x08" {
				n = 16
			}
			if _, err := r.Discard(n); err != nil {
				return err
			}
			if b, err := r.Peek(8); err == nil && !bytes.HasPrefix(b, []byte("PK")) {
				if _, err := r.Discard(8); err != nil { // eight bytes for each size (zip64)
					return err
				}
			}
		}
	}
}
