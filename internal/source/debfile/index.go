package debfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// The index of a cache entry:
//
//	magic line, with the format's number
//	SHA-256 of everything after it (32 bytes)
//	size of data.tar
//	control, number of members, each: name, mode, data
//	md5sums
//	number of conffiles, each: path, MD5, remove
//	number of entries, each: type (one byte), mode, uid, gid, mtime (zigzag),
//	    path, link, and for a regular file: size, offset, digest
//
// Numbers are varints, strings are their length and their bytes. Digests stand
// as text, so that reading an index makes no string: all are parts of one.
const indexMagic = "twinhull package index 1\n"

var errIndex = errors.New("damaged package index")

func (c *contents) encode() []byte {
	b := make([]byte, 0, 4096+len(c.control)+160*len(c.entries))
	num := func(v int64) { b = binary.AppendUvarint(b, uint64(v)) }
	str := func(s string) { num(int64(len(s))); b = append(b, s...) }
	num(c.size)
	str(string(c.control))
	num(int64(len(c.members)))
	for _, m := range c.members {
		str(m.Name)
		num(m.Mode)
		str(string(m.Data))
	}
	str(string(c.md5sums))
	num(int64(len(c.conffiles)))
	for _, f := range c.conffiles {
		str(f.Path)
		str(f.MD5)
		if f.Remove {
			num(1)
		} else {
			num(0)
		}
	}
	num(int64(len(c.entries)))
	for i := range c.entries {
		e := &c.entries[i]
		b = append(b, e.Type)
		num(e.Mode)
		num(int64(e.UID))
		num(int64(e.GID))
		b = binary.AppendVarint(b, e.ModTime)
		str(e.Path)
		str(e.Link)
		if e.IsReg() {
			num(e.Size)
			num(e.Content.Offset)
			str(string(e.Digest))
		}
	}
	return seal(b)
}

// seal puts the magic line and the checksum before the rest of an index.
func seal(b []byte) []byte {
	sum := sha256.Sum256(b)
	out := make([]byte, 0, len(indexMagic)+len(sum)+len(b))
	out = append(out, indexMagic...)
	out = append(out, sum[:]...)
	return append(out, b...)
}

// decoder reads an index. After the first damage it yields zeros, so that one
// look at bad at the end is enough; lengths are checked where they are used.
type decoder struct {
	s   string
	bad bool
}

func (d *decoder) num() int64 {
	var v uint64
	for shift := 0; ; shift += 7 {
		if shift > 56 || len(d.s) == 0 {
			d.bad, d.s = true, ""
			return 0
		}
		c := d.s[0]
		d.s = d.s[1:]
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return int64(v)
		}
	}
}

func (d *decoder) str() string {
	n := d.num()
	if n > int64(len(d.s)) {
		d.bad, d.s = true, ""
		return ""
	}
	s := d.s[:n]
	d.s = d.s[n:]
	return s
}

// count reads the length of a list whose items take at least one byte each.
func (d *decoder) count() int {
	n := d.num()
	if n > int64(len(d.s)) {
		d.bad, d.s = true, ""
		return 0
	}
	return int(n)
}

// load reads the cache entry in folder dir.
func load(dir string, digest oci.Digest) (*Package, error) {
	raw, err := os.ReadFile(filepath.Join(dir, indexName))
	if err != nil {
		return nil, err
	}
	head := len(indexMagic) + sha256.Size
	if len(raw) < head || string(raw[:len(indexMagic)]) != indexMagic {
		return nil, errIndex
	}
	if sum := sha256.Sum256(raw[head:]); !bytes.Equal(sum[:], raw[len(indexMagic):head]) {
		return nil, errIndex
	}
	d := &decoder{s: string(raw[head:])}
	p := &Package{Digest: digest, DataFile: filepath.Join(dir, dataName)}
	p.DataSize = d.num()
	// The data archive is not read again: whoever uses a file's bytes has its
	// digest. Its length catches a copy that was cut off.
	fi, err := os.Lstat(p.DataFile)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() != p.DataSize {
		return nil, fmt.Errorf("%s is %d bytes long, want %d", p.DataFile, fi.Size(), p.DataSize)
	}
	if p.Control, err = ParseControl([]byte(d.str())); err != nil {
		return nil, err
	}
	if p.Name, p.Version, p.Arch, err = identity(p.Control); err != nil {
		return nil, err
	}
	p.Members = make([]Member, d.count())
	for i := range p.Members {
		p.Members[i] = Member{Name: d.str(), Mode: d.num(), Data: []byte(d.str())}
	}
	p.MD5Sums = []byte(d.str())
	p.Conffiles = make([]Conffile, d.count())
	for i := range p.Conffiles {
		p.Conffiles[i] = Conffile{Path: d.str(), MD5: d.str(), Remove: d.num() == 1}
	}
	if p.Triggers, err = parseTriggers(p.Member("triggers")); err != nil {
		return nil, err
	}
	p.Entries = make([]filetree.Entry, d.count())
	origin := filetree.Origin{Kind: filetree.FromPackage, Name: p.Name, Version: p.Version, Arch: p.Arch, Digest: digest}
	for i := range p.Entries {
		e := &p.Entries[i]
		if len(d.s) == 0 {
			return nil, errIndex
		}
		e.Type, d.s = d.s[0], d.s[1:]
		e.Mode, e.UID, e.GID = d.num(), int(d.num()), int(d.num())
		mtime := uint64(d.num())
		e.ModTime = int64(mtime>>1) ^ -int64(mtime&1)
		e.Path, e.Link = d.str(), d.str()
		if e.IsReg() {
			e.Size = d.num()
			e.Content = filetree.Content{File: p.DataFile, Offset: d.num()}
			e.Digest = oci.Digest(d.str())
			if e.Content.Offset > p.DataSize-e.Size {
				return nil, errIndex
			}
			if e.Size == 0 {
				e.Content = filetree.Content{}
			}
		}
		e.Origin = origin
		e.Origin.Path = e.Path
	}
	if d.bad || len(d.s) > 0 {
		return nil, errIndex
	}
	return p, nil
}
