// Package xz reads the .xz format (version 1.2.1 of its specification, "the
// specification" below) as Debian's archive uses it: LZMA2, any number of
// blocks and concatenated streams, checks CRC32, CRC64 and SHA-256.
//
// Every check that the format offers is made: headers, blocks, index and
// footer. The other filters of the format (delta and the branch converters) are
// refused by name, and so is the older .lzma format. It does not write.
package xz

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
)

// MaxDict is the largest dictionary that NewReader accepts, in bytes: that of
// xz -9. A reader holds its stream's dictionary and at most 16 MiB more, and
// the dictionary once again for a moment while it grows.
const MaxDict = 64 << 20

// NewReader returns a reader of the uncompressed bytes of r, which it reads to
// its end. Reads fail with an error that says "xz:" and what is wrong;
// io.ErrUnexpectedEOF is wrapped when the input ends too soon.
func NewReader(r io.Reader) (io.Reader, error) {
	z := &reader{in: input{r: bufio.NewReaderSize(r, 64<<10)}, dec: new(decoder)}
	if err := z.streamHeader(); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, wrap(err)
	}
	return z, nil
}

// input counts what is read.
type input struct {
	r *bufio.Reader
	n int64
}

func (in *input) full(b []byte) error {
	n, err := io.ReadFull(in.r, b)
	in.n += int64(n)
	if err == io.EOF && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (in *input) ReadByte() (byte, error) {
	b, err := in.r.ReadByte()
	if err == nil {
		in.n++
	} else if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// decoder is everything of a reader that is large and kept from block to block.
type decoder struct {
	lzma lzma
	in   [inSize]byte
}

type reader struct {
	in  input
	dec *decoder
	err error

	// The window holds the dictionary and the bytes not yet given out.
	window []byte
	given  int // bytes of the window before it are given out
	pos    int // end of the bytes decoded

	check   byte // of the stream
	inBlock bool
	block   blockState
	records []record
}

type record struct{ unpadded, plain int64 }

type blockState struct {
	begin      int64 // input position of its header
	data       int64 // input position of its data
	compressed int64 // from its header, or -1
	plain      int64 // from its header, or -1
	n          int64 // bytes decoded
	sum        hash.Hash
	needDict   bool
	needProps  bool
}

func wrap(err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("xz: the input is truncated: %w", io.ErrUnexpectedEOF)
	}
	return err
}

func (z *reader) Read(b []byte) (int, error) {
	for z.given == z.pos {
		if z.err != nil {
			return 0, z.err
		}
		if err := z.more(); err != nil {
			z.err = wrap(err)
			z.dec = nil
		}
	}
	n := copy(b, z.window[z.given:z.pos])
	z.given += n
	return n, nil
}

// more decodes one chunk, or passes one piece of the container.
func (z *reader) more() error {
	if z.inBlock {
		return z.chunk()
	}
	b, err := z.in.ReadByte()
	if err != nil {
		return err
	}
	if b != 0 {
		return z.blockHeader(b)
	}
	if err := z.index(); err != nil {
		return err
	}
	return z.nextStream()
}

var streamMagic = []byte{0xfd, '7', 'z', 'X', 'Z', 0}

var checkSize = [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}

// streamHeader reads a stream header (specification 2.1.1).
func (z *reader) streamHeader() error {
	var h [12]byte
	n, err := io.ReadFull(z.in.r, h[:])
	z.in.n += int64(n)
	if err != nil {
		if n > 0 && !bytes.HasPrefix(streamMagic, h[:min(n, 6)]) {
			return errors.New("xz: this is not an .xz file")
		}
		return err
	}
	if !bytes.Equal(h[:6], streamMagic) {
		return errors.New("xz: this is not an .xz file")
	}
	if crc32.ChecksumIEEE(h[6:8]) != binary.LittleEndian.Uint32(h[8:]) {
		return fmt.Errorf("xz: the stream header is corrupt")
	}
	if h[6] != 0 || h[7] > 15 {
		return fmt.Errorf("xz: unknown stream flags %x", h[6:8])
	}
	switch h[7] {
	case 0, 1, 4, 10:
	default:
		return fmt.Errorf("xz: unknown check type %d", h[7])
	}
	z.check = h[7]
	z.records = z.records[:0]
	return nil
}

// nextStream passes the padding after a stream (2.2) and begins the next one,
// or says io.EOF.
func (z *reader) nextStream() error {
	for n := 0; ; n++ {
		b, err := z.in.r.Peek(1)
		if err == io.EOF {
			if n%4 != 0 {
				return errors.New("xz: stream padding has no multiple of four bytes")
			}
			return io.EOF
		}
		if err != nil {
			return err
		}
		if b[0] != 0 {
			if n%4 != 0 {
				return errors.New("xz: stream padding has no multiple of four bytes")
			}
			return z.streamHeader()
		}
		z.in.r.Discard(1)
		z.in.n++
	}
}

// blockHeader reads the rest of a block header (3.1) whose first byte is size.
func (z *reader) blockHeader(size byte) error {
	begin := z.in.n - 1
	var buf [1024]byte
	h := buf[:(int(size)+1)*4]
	h[0] = size
	if err := z.in.full(h[1:]); err != nil {
		return err
	}
	end := len(h) - 4
	if crc32.ChecksumIEEE(h[:end]) != binary.LittleEndian.Uint32(h[end:]) {
		return errors.New("xz: a block header is corrupt")
	}
	flags := h[1]
	if flags&0x3c != 0 {
		return fmt.Errorf("xz: unknown block flags %#x", flags)
	}
	v := vli{b: h[2:end]}
	b := blockState{begin: begin, compressed: -1, plain: -1, needDict: true, needProps: true}
	if flags&0x40 != 0 {
		if b.compressed = v.next(); b.compressed == 0 {
			v.bad = true
		}
	}
	if flags&0x80 != 0 {
		b.plain = v.next()
	}
	filters := int(flags&3) + 1
	for i := range filters {
		id, n := v.next(), v.next()
		if v.bad || n > int64(len(v.b)) {
			return errors.New("xz: a block header is corrupt")
		}
		props := v.b[:n]
		v.b = v.b[n:]
		if id != 0x21 {
			return fmt.Errorf("xz: the filter %s is not supported, only LZMA2", filterName(id))
		}
		if i != filters-1 || n != 1 {
			return errors.New("xz: a block header is corrupt")
		}
		dict, err := dictSize(props[0])
		if err != nil {
			return err
		}
		z.dec.lzma.dict = dict
	}
	for _, c := range v.b {
		if c != 0 {
			v.bad = true
		}
	}
	if v.bad {
		return errors.New("xz: a block header is corrupt")
	}
	b.data = z.in.n
	switch z.check {
	case 1:
		b.sum = crc32.NewIEEE()
	case 4:
		b.sum = crc64.New(ecma)
	case 10:
		b.sum = sha256.New()
	}
	z.block, z.inBlock = b, true
	return nil
}

var ecma = crc64.MakeTable(crc64.ECMA)

func filterName(id int64) string {
	names := map[int64]string{3: "delta", 4: "x86", 5: "PowerPC", 6: "IA-64", 7: "ARM", 8: "ARM-Thumb", 9: "SPARC", 10: "ARM64", 11: "RISC-V"}
	if n := names[id]; n != "" {
		return n
	}
	return fmt.Sprintf("%#x", id)
}

// dictSize decodes the LZMA2 property (5.3.1).
func dictSize(b byte) (uint32, error) {
	if b > 40 {
		return 0, errors.New("xz: a block header is corrupt")
	}
	size := uint64(1<<32 - 1)
	if b < 40 {
		size = (2 | uint64(b)&1) << (b/2 + 11)
	}
	if size > MaxDict {
		return 0, fmt.Errorf("xz: the stream needs a dictionary of %d MiB, at most %d are allowed", size>>20, MaxDict>>20)
	}
	return uint32(size), nil
}

// vli reads the format's variable-length integers (1.2).
type vli struct {
	b   []byte
	bad bool
}

func (v *vli) next() int64 {
	var n int64
	for i := range 9 {
		if i >= len(v.b) {
			break
		}
		c := v.b[i]
		n |= int64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				break
			}
			v.b = v.b[i+1:]
			return n
		}
	}
	v.bad, v.b = true, nil
	return 0
}

// chunk decodes one LZMA2 chunk (5.3.1), or ends the block.
func (z *reader) chunk() error {
	control, err := z.in.ReadByte()
	if err != nil {
		return err
	}
	b, d := &z.block, &z.dec.lzma
	if control == 0 {
		return z.endBlock()
	}
	if control > 2 && control < 0x80 {
		return errCorrupt
	}
	var h [5]byte
	n := 2
	if control >= 0x80 {
		n = 4
	}
	if control >= 0xc0 {
		n = 5
	}
	if err := z.in.full(h[:n]); err != nil {
		return err
	}
	plain := int(h[0])<<8 + int(h[1]) + 1
	if control >= 0x80 {
		plain += int(control&0x1f) << 16
	}
	if b.plain >= 0 && b.n+int64(plain) > b.plain {
		return errors.New("xz: a block is longer than its header says")
	}
	z.room(plain)
	if control == 1 || control >= 0xe0 {
		b.needDict, b.needProps = false, true
		d.start = z.pos
	}
	if b.needDict {
		return errCorrupt
	}
	limit := z.pos + plain
	if control < 0x80 {
		if err := z.in.full(z.window[z.pos:limit]); err != nil {
			return err
		}
	} else {
		packed := int(h[2])<<8 + int(h[3]) + 1
		if control >= 0xc0 {
			if err := d.setProps(h[4]); err != nil {
				return err
			}
			b.needProps = false
		}
		if b.needProps {
			return errCorrupt
		}
		if control >= 0xa0 {
			d.reset()
		}
		if packed < 5 {
			return errCorrupt
		}
		if err := z.in.full(z.dec.in[:packed]); err != nil {
			return err
		}
		if err := d.decode(z.window, z.pos, limit, &z.dec.in, uint32(packed)); err != nil {
			return err
		}
	}
	if b.compressed >= 0 && z.in.n-b.data > b.compressed {
		return errors.New("xz: a block is longer than its header says")
	}
	if b.sum != nil {
		b.sum.Write(z.window[z.pos:limit])
	}
	b.n += int64(plain)
	z.pos = limit
	return nil
}

// room makes place for n more bytes behind pos. All bytes before pos have been
// given out.
func (z *reader) room(n int) {
	need := z.pos + n + copySlack
	if need <= len(z.window) {
		return
	}
	dict := int(z.dec.lzma.dict)
	// Room for as much new data as dictionary, within bounds: at least two of the
	// largest chunks, and no more than makes sliding cheap beside decoding.
	most := dict + min(max(dict, 4<<20), 16<<20) + copySlack + 16
	if need <= most {
		w := make([]byte, min(max(need, 2*len(z.window)), most))
		copy(w, z.window[:z.pos])
		z.window = w
		return
	}
	// A multiple of 16 keeps positions modulo 2^pb and 2^lp what they are.
	slide := (z.pos - dict) &^ 15
	copy(z.window, z.window[slide:z.pos])
	z.pos -= slide
	z.given -= slide
	z.dec.lzma.start -= slide
	if len(z.window) < z.pos+n+copySlack {
		w := make([]byte, most)
		copy(w, z.window[:z.pos])
		z.window = w
	}
}

// endBlock checks the block against its header and its check (3.3, 3.4).
func (z *reader) endBlock() error {
	b := &z.block
	packed := z.in.n - b.data
	if b.compressed >= 0 && packed != b.compressed || b.plain >= 0 && b.n != b.plain {
		return errors.New("xz: a block has another size than its header says")
	}
	unpadded := z.in.n - b.begin + int64(checkSize[z.check])
	var tail [3 + 64]byte
	pad := int(-packed & 3)
	t := tail[:pad+checkSize[z.check]]
	if err := z.in.full(t); err != nil {
		return err
	}
	for _, c := range t[:pad] {
		if c != 0 {
			return errors.New("xz: a block's padding is not zero")
		}
	}
	if b.sum != nil {
		got := b.sum.Sum(nil)
		if z.check != 10 {
			// The format stores CRCs little-endian, the hash gives them big-endian.
			for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
				got[i], got[j] = got[j], got[i]
			}
		}
		if !bytes.Equal(got, t[pad:]) {
			return errors.New("xz: a block's check does not match its data")
		}
	}
	z.records = append(z.records, record{unpadded, b.n})
	z.inBlock = false
	return nil
}

// index reads the index (4) after its first byte, and the stream footer (2.1.2).
func (z *reader) index() error {
	begin := z.in.n - 1
	sum := crc32.NewIEEE()
	sum.Write([]byte{0})
	number := func() (int64, error) {
		var b [9]byte
		for i := range b {
			c, err := z.in.ReadByte()
			if err != nil {
				return 0, err
			}
			b[i] = c
			if c < 0x80 {
				sum.Write(b[:i+1])
				v := vli{b: b[:i+1]}
				n := v.next()
				if v.bad {
					return 0, errIndex
				}
				return n, nil
			}
		}
		return 0, errIndex
	}
	count, err := number()
	if err != nil {
		return err
	}
	if count != int64(len(z.records)) {
		return errIndex
	}
	for _, want := range z.records {
		unpadded, err := number()
		if err != nil {
			return err
		}
		plain, err := number()
		if err != nil {
			return err
		}
		if unpadded != want.unpadded || plain != want.plain {
			return errIndex
		}
	}
	for (z.in.n-begin)%4 != 0 {
		c, err := z.in.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return errIndex
		}
		sum.Write([]byte{0})
	}
	var tail [16]byte // CRC32 of the index, then the footer
	if err := z.in.full(tail[:4]); err != nil {
		return err
	}
	if sum.Sum32() != binary.LittleEndian.Uint32(tail[:]) {
		return errIndex
	}
	size := z.in.n - begin
	f := tail[4:]
	if err := z.in.full(f); err != nil {
		return err
	}
	switch {
	case crc32.ChecksumIEEE(f[4:10]) != binary.LittleEndian.Uint32(f),
		(int64(binary.LittleEndian.Uint32(f[4:]))+1)*4 != size,
		f[8] != 0 || f[9] != z.check,
		f[10] != 'Y' || f[11] != 'Z':
		return errors.New("xz: the stream footer is corrupt")
	}
	return nil
}

var errIndex = errors.New("xz: the index does not fit the blocks")
