package image

import (
	"archive/tar"
	"fmt"
	"io"
	"sort"
	"strconv"

	"twinhull.dev/twinhull/internal/filetree"
)

// The tar format is written here and not by archive/tar, because its bytes are
// part of our format: archive/tar may choose another encoding of the same
// header in a later Go release, and then every digest would change with the
// compiler.
//
// Each member is POSIX.1-1988 (USTAR); a POSIX.1-2001 extended header precedes
// it only when a value does not fit. User and group names are empty, so that
// the reader's own accounts do not matter.

const tarBlock = 512

// Offsets and widths of the USTAR header (POSIX.1-2017, pax, "ustar Interchange
// Format").
const (
	offName, lenName         = 0, 100
	offMode                  = 100
	offUID                   = 108
	offGID                   = 116
	offSize                  = 124
	offMtime                 = 136
	offChecksum              = 148
	offType                  = 156
	offLink, lenLink         = 157, 100
	offMagic                 = 257
	offDevMajor, offDevMinor = 329, 337
	offPrefix, lenPrefix     = 345, 155

	lenNumber     = 8  // mode, uid, gid, device numbers: 7 octal digits
	lenLongNumber = 12 // size, mtime: 11 octal digits

	maxNumber     = 1<<21 - 1
	maxLongNumber = 1<<33 - 1
)

// paxName is the name of every extended header: it must not differ between
// entries that are otherwise the same, and no reader extracts it.
const paxName = "././@PaxHeader"

// appendHeader appends the complete header of e, one block or more. size is
// the number of content bytes that follow.
func appendHeader(b []byte, e *filetree.Entry) ([]byte, error) {
	name := e.Path
	if e.IsDir() {
		name += "/"
	}
	var pax []string
	record := func(key, value string) { pax = append(pax, paxRecord(key, value)) }
	number := func(key string, v, most int64) int64 {
		if v < 0 || v > most {
			record(key, strconv.FormatInt(v, 10))
			return 0
		}
		return v
	}
	size := int64(0)
	if e.IsReg() {
		size = e.Size
	}
	uid := number("uid", int64(e.UID), maxNumber)
	gid := number("gid", int64(e.GID), maxNumber)
	octalSize := number("size", size, maxLongNumber)
	mtime := number("mtime", e.ModTime, maxLongNumber)

	prefix, base := "", name
	if len(name) > lenName {
		var ok bool
		if prefix, base, ok = splitName(name); !ok {
			record("path", name)
			prefix, base = "", name[:lenName]
		}
	}
	link := e.Link
	if len(link) > lenLink {
		record("linkpath", link)
		link = link[:lenLink]
	}
	for k, v := range e.Xattrs {
		record("SCHILY.xattr."+k, v)
	}
	if len(pax) > 0 {
		// Sorted by key. Records begin with their length, so the text after
		// the first space is compared.
		sort.Slice(pax, func(i, j int) bool { return paxKey(pax[i]) < paxKey(pax[j]) })
		n := 0
		for _, r := range pax {
			n += len(r)
		}
		b = appendBlock(b, block{name: paxName, mode: 0o644, size: int64(n), typ: tar.TypeXHeader})
		for _, r := range pax {
			b = append(b, r...)
		}
		b = append(b, zeros[:pad(int64(n))]...)
	}
	if e.DevMajor > maxNumber || e.DevMinor > maxNumber || e.DevMajor < 0 || e.DevMinor < 0 {
		return nil, pathError(e.Path, "device number %d:%d does not fit a tar header", e.DevMajor, e.DevMinor)
	}
	return appendBlock(b, block{
		name: base, prefix: prefix, mode: e.Mode, uid: uid, gid: gid, size: octalSize, mtime: mtime,
		typ: e.Type, link: link, major: e.DevMajor, minor: e.DevMinor,
	}), nil
}

type block struct {
	name, prefix, link string
	mode, uid, gid     int64
	size, mtime        int64
	major, minor       int64
	typ                byte
}

func appendBlock(b []byte, h block) []byte {
	start := len(b)
	b = append(b, zeros[:tarBlock]...)
	p := b[start:]
	copy(p[offName:offName+lenName], h.name)
	octal(p[offMode:offMode+lenNumber], h.mode)
	octal(p[offUID:offUID+lenNumber], h.uid)
	octal(p[offGID:offGID+lenNumber], h.gid)
	octal(p[offSize:offSize+lenLongNumber], h.size)
	octal(p[offMtime:offMtime+lenLongNumber], h.mtime)
	p[offType] = h.typ
	copy(p[offLink:offLink+lenLink], h.link)
	copy(p[offMagic:], "ustar\x0000")
	octal(p[offDevMajor:offDevMajor+lenNumber], h.major)
	octal(p[offDevMinor:offDevMinor+lenNumber], h.minor)
	copy(p[offPrefix:offPrefix+lenPrefix], h.prefix)
	// The checksum counts its own field as spaces; it is six digits, a NUL and
	// a space.
	sum := int64(' ') * 8
	for _, c := range p {
		sum += int64(c)
	}
	octal(p[offChecksum:offChecksum+7], sum)
	p[offChecksum+7] = ' '
	return b
}

// octal writes v with leading zeros and a NUL at the end.
func octal(p []byte, v int64) {
	for i := len(p) - 2; i >= 0; i-- {
		p[i] = '0' + byte(v&7)
		v >>= 3
	}
	p[len(p)-1] = 0
}

// splitName divides a name between the prefix and name fields at the last
// slash that leaves a prefix of at most 155 bytes.
func splitName(name string) (prefix, base string, ok bool) {
	end := len(name) - 1 // a directory's last slash cannot divide
	if end > lenPrefix+1 {
		end = lenPrefix + 1
	}
	for i := end - 1; i > 0; i-- {
		if name[i] == '/' {
			rest := name[i+1:]
			return name[:i], rest, len(rest) > 0 && len(rest) <= lenName
		}
	}
	return "", "", false
}

// paxRecord is "LENGTH KEY=VALUE\n", where LENGTH counts itself.
func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3 // space, equals sign, newline
	total := n + len(strconv.Itoa(n))
	if t := n + len(strconv.Itoa(total)); t != total {
		total = t
	}
	return strconv.Itoa(total) + " " + key + "=" + value + "\n"
}

func paxKey(record string) string {
	for i := range len(record) {
		if record[i] == ' ' {
			return record[i:]
		}
	}
	return record
}

// pad is how many bytes fill n up to a whole block.
func pad(n int64) int64 { return -n & (tarBlock - 1) }

var zeros [2 * tarBlock]byte

// writeTar writes the entries, which must be in order (see order), as one tar
// stream that ends with two blocks of zeros. Contents are compared with their
// recorded digests on the way; written is told how many bytes of them passed.
func writeTar(w io.Writer, entries []*filetree.Entry, contents *contentReader) error {
	var head []byte
	for _, e := range entries {
		var err error
		if head, err = appendHeader(head[:0], e); err != nil {
			return err
		}
		if _, err := w.Write(head); err != nil {
			return err
		}
		if !e.IsReg() || e.Size == 0 {
			if e.IsReg() {
				if err := contents.checkEmpty(e); err != nil {
					return err
				}
			}
			continue
		}
		if err := contents.copyTo(w, e); err != nil {
			return err
		}
		if n := pad(e.Size); n > 0 {
			if _, err := w.Write(zeros[:n]); err != nil {
				return err
			}
		}
	}
	if _, err := w.Write(zeros[:2*tarBlock]); err != nil {
		return fmt.Errorf("end of archive: %w", err)
	}
	return nil
}
