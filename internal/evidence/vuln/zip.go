package vuln

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/klauspost/compress/flate"
)

// zipReader reads the members of a zip one after the other, in the order of its
// central directory, and holds one member at a time.
//
// The standard library's reader first builds a list of all members, which for a
// database of some hundred thousand records is more memory than reading them
// takes. This one is narrower too: members are stored or deflated, lie one
// behind the other without sharing bytes, and have equal names in both places
// where a zip names them, so that no two programs read two different databases
// out of one file (APPNOTE.TXT 6.3.10 allows all of that).
type zipReader struct {
	r       io.ReaderAt
	dir     *bufio.Reader // central directory
	left    uint64        // members to come
	dirFrom int64         // where the directory begins: members end before it
	end     int64         // of the member before
	inflate io.ReadCloser
	buf     *bufio.Reader
	data    bytes.Buffer
}

// zipMember is one file of a zip. Its data is only good until the next one.
type zipMember struct {
	name string
	data []byte
}

const (
	zipEOCD      = 0x06054b50
	zip64EOCD    = 0x06064b50
	zip64Locator = 0x07064b50
	zipCentral   = 0x02014b50
	zipLocal     = 0x04034b50
	maxMembers   = 20_000_000
	maxZipName   = 256
)

var le = binary.LittleEndian

// openZip finds the central directory.
func openZip(r io.ReaderAt, size int64) (*zipReader, error) {
	// The end record is 22 bytes and a comment of up to 65535.
	tail := make([]byte, min(size, 22+65535))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	at := -1
	for i := len(tail) - 22; i >= 0; i-- {
		if le.Uint32(tail[i:]) == zipEOCD && i+22+int(le.Uint16(tail[i+20:])) == len(tail) {
			at = i
			break
		}
	}
	if at < 0 {
		return nil, errors.New("not a zip, or one that is cut off: it has no end record")
	}
	eocd := tail[at:]
	eocdAt := size - int64(len(tail)) + int64(at)
	disk, dirDisk := le.Uint16(eocd[4:]), le.Uint16(eocd[6:])
	count, length, from := uint64(le.Uint16(eocd[10:])), uint64(le.Uint32(eocd[12:])), uint64(le.Uint32(eocd[16:]))
	dirEnd := eocdAt
	if count == 0xffff || length == 0xffffffff || from == 0xffffffff {
		var loc [20]byte
		if eocdAt >= 20 {
			if _, err := r.ReadAt(loc[:], eocdAt-20); err != nil {
				return nil, err
			}
		}
		if le.Uint32(loc[:]) == zip64Locator {
			at64 := le.Uint64(loc[8:])
			var rec [56]byte
			if at64 > uint64(eocdAt) || int64(at64)+56 > eocdAt-20 {
				return nil, errors.New("the zip64 end record lies outside of the file")
			}
			if _, err := r.ReadAt(rec[:], int64(at64)); err != nil {
				return nil, err
			}
			if le.Uint32(rec[:]) != zip64EOCD {
				return nil, errors.New("the zip64 end record is not where it should be")
			}
			count, length, from = le.Uint64(rec[32:]), le.Uint64(rec[40:]), le.Uint64(rec[48:])
			dirEnd = int64(at64)
		}
	} else if disk != 0 || dirDisk != 0 {
		return nil, errors.New("a zip in several parts")
	}
	if count > maxMembers {
		return nil, fmt.Errorf("%d members, more than %d", count, maxMembers)
	}
	if from > uint64(dirEnd) || length != uint64(dirEnd)-from {
		return nil, errors.New("the central directory is not where the end record says")
	}
	return &zipReader{
		r: r, left: count, dirFrom: int64(from), buf: bufio.NewReaderSize(nil, 32<<10),
		dir: bufio.NewReaderSize(io.NewSectionReader(r, int64(from), int64(length)), 64<<10),
	}, nil
}

// next returns the next member, or io.EOF behind the last. limit is how many
// bytes it may have.
func (z *zipReader) next(limit int) (zipMember, error) {
	if z.left == 0 {
		if _, err := z.dir.ReadByte(); !errors.Is(err, io.EOF) {
			return zipMember{}, errors.New("the central directory names more members than the end record")
		}
		return zipMember{}, io.EOF
	}
	z.left--
	var h [46]byte
	if _, err := io.ReadFull(z.dir, h[:]); err != nil {
		return zipMember{}, fmt.Errorf("central directory: %w", cut(err))
	}
	if le.Uint32(h[:]) != zipCentral {
		return zipMember{}, errors.New("central directory: no member where one should be")
	}
	flags, method, sum := le.Uint16(h[8:]), le.Uint16(h[10:]), le.Uint32(h[16:])
	packed, size, from := uint64(le.Uint32(h[20:])), uint64(le.Uint32(h[24:])), uint64(le.Uint32(h[42:]))
	rest := make([]byte, int(le.Uint16(h[28:]))+int(le.Uint16(h[30:]))+int(le.Uint16(h[32:])))
	if _, err := io.ReadFull(z.dir, rest); err != nil {
		return zipMember{}, fmt.Errorf("central directory: %w", cut(err))
	}
	rawName, rest := rest[:le.Uint16(h[28:])], rest[le.Uint16(h[28:]):]
	if len(rawName) > maxZipName {
		return zipMember{}, fmt.Errorf("a member's name has %d bytes, more than %d", len(rawName), maxZipName)
	}
	m := zipMember{name: string(rawName)}
	fail := func(format string, a ...any) (zipMember, error) {
		return zipMember{}, fmt.Errorf("%.80q: "+format, append([]any{m.name}, a...)...)
	}
	if err := zip64Sizes(rest[:le.Uint16(h[30:])], &size, &packed, &from); err != nil {
		return fail("%w", err)
	}
	switch {
	case flags&1 != 0:
		return fail("encrypted")
	case method != 0 && method != 8:
		return fail("compressed by method %d: only deflate is read", method)
	case size > uint64(limit):
		return fail("%d bytes, more than the %d that a record may have", size, limit)
	// Deflate makes 1032 bytes of one at most.
	case method == 8 && size > 1032*packed+1024, method == 0 && size != packed:
		return fail("%d bytes cannot come out of %d", size, packed)
	case from > uint64(z.dirFrom) || int64(from) < z.end:
		return fail("lies over another member or out of order")
	}
	var l [30]byte
	if _, err := z.r.ReadAt(l[:], int64(from)); err != nil {
		return fail("%w", cut(err))
	}
	if le.Uint32(l[:]) != zipLocal || le.Uint16(l[8:]) != method {
		return fail("is not where the central directory says")
	}
	name := make([]byte, le.Uint16(l[26:]))
	data := int64(from) + 30 + int64(len(name)) + int64(le.Uint16(l[28:]))
	if len(name) != len(rawName) || packed > uint64(z.dirFrom) || data+int64(packed) > z.dirFrom {
		return fail("reaches into what follows it, or has another name there")
	}
	if _, err := z.r.ReadAt(name, int64(from)+30); err != nil {
		return fail("%w", cut(err))
	}
	if !bytes.Equal(name, rawName) {
		return fail("is called %.80q where it lies", name)
	}
	z.end = data + int64(packed)
	section := io.NewSectionReader(z.r, data, int64(packed))
	z.buf.Reset(section)
	var src io.Reader = z.buf
	if method == 8 {
		if z.inflate == nil {
			z.inflate = flate.NewReader(z.buf)
		} else if err := z.inflate.(flate.Resetter).Reset(z.buf, nil); err != nil {
			return fail("%w", err)
		}
		src = z.inflate
	}
	z.data.Reset()
	// One byte more than it says, to notice what is longer.
	n, err := io.Copy(&z.data, io.LimitReader(src, int64(size)+1))
	if err != nil {
		return fail("%w", cut(err))
	}
	if uint64(n) != size {
		return fail("does not have the %d bytes that the directory says", size)
	}
	if got := crc32.ChecksumIEEE(z.data.Bytes()); got != sum {
		return fail("wrong CRC %08x, want %08x: the file is damaged", got, sum)
	}
	m.data = z.data.Bytes()
	if z.data.Cap() > 4<<20 {
		z.data = bytes.Buffer{} // one large record should not be kept for all small ones
	}
	return m, nil
}

// zip64Sizes takes the values that do not fit in 32 bits from the extra field
// (APPNOTE.TXT 4.5.3).
func zip64Sizes(extra []byte, size, packed, from *uint64) error {
	for len(extra) >= 4 {
		id, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		extra = extra[4:]
		if n > len(extra) {
			return errors.New("extra field is cut off")
		}
		field := extra[:n]
		extra = extra[n:]
		if id != 1 {
			continue
		}
		for _, v := range []*uint64{size, packed, from} {
			if *v != 0xffffffff {
				continue
			}
			if len(field) < 8 {
				return errors.New("zip64 field is cut off")
			}
			*v, field = le.Uint64(field), field[8:]
		}
	}
	for _, v := range []uint64{*size, *packed, *from} {
		if v > 1<<62 {
			return errors.New("a size that cannot be")
		}
	}
	return nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// recordName gives the id that a file's name stands for. Nothing is ever written
// under the name, but a path in it means that this is not what OSV publishes.
func recordName(name string) (id string, err error) {
	id, ok := strings.CutSuffix(name, ".json")
	if !ok || !idForm.MatchString(id) {
		return "", fmt.Errorf("%.80q: want only files ID.json, at the top", name)
	}
	return id, nil
}
