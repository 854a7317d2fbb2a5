// Package elfclosure answers one question about a set of ELF files: would the
// dynamic linker find everything that they ask for?
//
// Read takes from one file what the linker reads (program headers and the
// dynamic segment, never section headers, which a stripped or hostile file may
// lack or falsify), Check resolves a whole set of them against each other. The
// package knows no image and no file system: package build asks it about trees
// that it makes, package inspect about images of anybody.
package elfclosure

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// File is what the dynamic linker will ask of one ELF file.
type File struct {
	Type    elf.Type
	Machine elf.Machine
	Class   elf.Class
	Interp  string              // PT_INTERP, "" for a library or a static program
	Dynamic bool                // it has a dynamic segment
	SONAME  string              // DT_SONAME
	Needed  []string            // DT_NEEDED in order
	RunPath []string            // DT_RUNPATH, or DT_RPATH when there is none; $ORIGIN kept
	Defines []string            // symbol versions that it defines (DT_VERDEF)
	Wants   map[string][]string // library → symbol versions that it must define (DT_VERNEED, without the weak ones)
}

// Loadable says whether a kernel or a dynamic linker would load the file: an
// object file or a core dump is neither.
func (f *File) Loadable() bool { return f.Type == elf.ET_EXEC || f.Type == elf.ET_DYN }

// Bounds of what is believed of a file. Real ones are far below.
const (
	maxProgs   = 1024
	maxDynamic = 1 << 20
	maxString  = 4096
	maxVersion = 1 << 14
	maxNeeded  = 4096
)

var errShort = errors.New("file ends before what its headers name")

// Segment is a program header: where a part of the file goes in memory.
type Segment struct {
	Type   elf.ProgType
	Flags  elf.ProgFlag
	Offset int64 // in the file, bytes
	Vaddr  uint64
	Size   int64 // in the file, bytes
}

// Header is the beginning of an ELF file.
type Header struct {
	Type     elf.Type
	Machine  elf.Machine
	Class    elf.Class
	Order    binary.ByteOrder
	Segments []Segment
}

// IsELF tells whether b begins as an ELF file.
func IsELF(b []byte) bool { return len(b) >= 4 && string(b[:4]) == elf.ELFMAG }

// ReadHeader reads the file header and the program headers. A file that begins
// as ELF but cannot be one is an error.
func ReadHeader(r io.ReaderAt) (*Header, error) {
	var b [64]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && (err != io.EOF || n < 52) {
		return nil, fmt.Errorf("file header: %w", unexpected(err))
	}
	if !IsELF(b[:]) {
		return nil, errors.New("no ELF file")
	}
	h := &Header{Class: elf.Class(b[elf.EI_CLASS])}
	switch elf.Data(b[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
		h.Order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		h.Order = binary.BigEndian
	default:
		return nil, fmt.Errorf("unknown byte order %d", b[elf.EI_DATA])
	}
	h.Type = elf.Type(h.Order.Uint16(b[16:]))
	h.Machine = elf.Machine(h.Order.Uint16(b[18:]))
	var off int64
	var size, count, want int
	switch h.Class {
	case elf.ELFCLASS64:
		if n < 64 {
			return nil, fmt.Errorf("file header: %w", errShort)
		}
		off, size, count, want = int64(h.Order.Uint64(b[32:])), int(h.Order.Uint16(b[54:])), int(h.Order.Uint16(b[56:])), 56
	case elf.ELFCLASS32:
		off, size, count, want = int64(h.Order.Uint32(b[28:])), int(h.Order.Uint16(b[42:])), int(h.Order.Uint16(b[44:])), 32
	default:
		return nil, fmt.Errorf("unknown class %d", b[elf.EI_CLASS])
	}
	if count == 0 {
		return h, nil
	}
	if size < want || count > maxProgs || off < 0 {
		return nil, fmt.Errorf("%d program headers of %d bytes at %d", count, size, off)
	}
	table := make([]byte, size*count)
	if _, err := r.ReadAt(table, off); err != nil {
		return nil, fmt.Errorf("program headers: %w", unexpected(err))
	}
	for i := range count {
		p := table[i*size:]
		s := Segment{Type: elf.ProgType(h.Order.Uint32(p))}
		if h.Class == elf.ELFCLASS64 {
			s.Flags = elf.ProgFlag(h.Order.Uint32(p[4:]))
			s.Offset, s.Vaddr, s.Size = int64(h.Order.Uint64(p[8:])), h.Order.Uint64(p[16:]), int64(h.Order.Uint64(p[32:]))
		} else {
			s.Offset, s.Vaddr, s.Size = int64(h.Order.Uint32(p[4:])), uint64(h.Order.Uint32(p[8:])), int64(h.Order.Uint32(p[16:]))
			s.Flags = elf.ProgFlag(h.Order.Uint32(p[24:]))
		}
		if s.Offset < 0 || s.Size < 0 {
			return nil, fmt.Errorf("program header %d: offset %d, size %d", i, s.Offset, s.Size)
		}
		h.Segments = append(h.Segments, s)
	}
	return h, nil
}

func unexpected(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF || err == nil {
		return errShort
	}
	return err
}

// Read reads the facts of a file. It returns nil without an error when the file
// is not ELF, and an error when it begins as one but cannot be read: a broken
// binary is never passed over.
func Read(r io.ReaderAt, size int64) (*File, error) {
	var magic [4]byte
	if size < 52 {
		return nil, nil
	}
	if _, err := r.ReadAt(magic[:], 0); err != nil || !IsELF(magic[:]) {
		return nil, err
	}
	h, err := ReadHeader(r)
	if err != nil {
		return nil, err
	}
	return h.read(r)
}

// dynamic is a file whose dynamic segment is being read.
type dynamic struct {
	*Header
	r       io.ReaderAt
	strtab  uint64
	strsize uint64
}

func (h *Header) read(r io.ReaderAt) (*File, error) {
	f := &File{Type: h.Type, Machine: h.Machine, Class: h.Class}
	if !f.Loadable() {
		return f, nil
	}
	d := &dynamic{Header: h, r: r}
	var table []byte
	for _, s := range h.Segments {
		switch s.Type {
		case elf.PT_INTERP:
			if s.Size > maxString {
				return nil, fmt.Errorf("program interpreter of %d bytes", s.Size)
			}
			b := make([]byte, s.Size)
			if _, err := r.ReadAt(b, s.Offset); err != nil {
				return nil, fmt.Errorf("program interpreter: %w", unexpected(err))
			}
			f.Interp = string(bytes.TrimRight(b, "\x00"))
		case elf.PT_DYNAMIC:
			if s.Size == 0 || f.Dynamic {
				continue
			}
			if s.Size > maxDynamic {
				return nil, fmt.Errorf("dynamic segment of %d bytes", s.Size)
			}
			f.Dynamic = true
			table = make([]byte, s.Size)
			if _, err := r.ReadAt(table, s.Offset); err != nil {
				return nil, fmt.Errorf("dynamic segment: %w", unexpected(err))
			}
		}
	}
	if !f.Dynamic {
		return f, nil
	}
	var needed, runpath, rpath, soname []uint64
	var verneed, verdef, verneedNum, verdefNum uint64
	word := 8
	if h.Class == elf.ELFCLASS32 {
		word = 4
	}
	for ; len(table) >= 2*word; table = table[2*word:] {
		tag, val := elf.DynTag(h.word(table)), h.word(table[word:])
		if tag == elf.DT_NULL {
			break
		}
		switch tag {
		case elf.DT_STRTAB:
			d.strtab = val
		case elf.DT_STRSZ:
			d.strsize = val
		case elf.DT_NEEDED:
			needed = append(needed, val)
		case elf.DT_SONAME:
			soname = append(soname, val)
		case elf.DT_RUNPATH:
			runpath = append(runpath, val)
		case elf.DT_RPATH:
			rpath = append(rpath, val)
		case elf.DT_VERNEED:
			verneed = val
		case elf.DT_VERNEEDNUM:
			verneedNum = val
		case elf.DT_VERDEF:
			verdef = val
		case elf.DT_VERDEFNUM:
			verdefNum = val
		}
	}
	if len(needed) > maxNeeded {
		return nil, fmt.Errorf("%d needed libraries", len(needed))
	}
	for _, n := range needed {
		s, err := d.str(n)
		if err != nil {
			return nil, fmt.Errorf("needed libraries: %w", err)
		}
		f.Needed = append(f.Needed, s)
	}
	if len(soname) > 0 {
		s, err := d.str(soname[0])
		if err != nil {
			return nil, fmt.Errorf("name of the library: %w", err)
		}
		f.SONAME = s
	}
	if len(runpath) == 0 {
		runpath = rpath
	}
	for _, n := range runpath {
		s, err := d.str(n)
		if err != nil {
			return nil, fmt.Errorf("run path: %w", err)
		}
		f.RunPath = append(f.RunPath, strings.Split(s, ":")...)
	}
	if verdef != 0 {
		if err := d.versionsDefined(f, verdef, verdefNum); err != nil {
			return nil, fmt.Errorf("versions defined: %w", err)
		}
	}
	if verneed != 0 {
		if err := d.versionsNeeded(f, verneed, verneedNum); err != nil {
			return nil, fmt.Errorf("versions needed: %w", err)
		}
	}
	return f, nil
}

func (h *Header) word(b []byte) uint64 {
	if h.Class == elf.ELFCLASS32 {
		return uint64(h.Order.Uint32(b))
	}
	return h.Order.Uint64(b)
}

// at reads n bytes at a virtual address.
func (d *dynamic) at(addr uint64, b []byte) error {
	for _, s := range d.Segments {
		if s.Type != elf.PT_LOAD || addr < s.Vaddr || addr-s.Vaddr >= uint64(s.Size) {
			continue
		}
		if uint64(len(b)) > uint64(s.Size)-(addr-s.Vaddr) {
			return errShort
		}
		if _, err := d.r.ReadAt(b, s.Offset+int64(addr-s.Vaddr)); err != nil {
			return unexpected(err)
		}
		return nil
	}
	return fmt.Errorf("address %#x is in no segment", addr)
}

// str reads a string of the dynamic string table.
func (d *dynamic) str(off uint64) (string, error) {
	if d.strtab == 0 || off >= d.strsize {
		return "", fmt.Errorf("string %d is outside the string table of %d bytes", off, d.strsize)
	}
	var out []byte
	for len(out) < maxString {
		n := min(uint64(64), d.strsize-off-uint64(len(out)))
		if n == 0 {
			break
		}
		b := make([]byte, n)
		if err := d.at(d.strtab+off+uint64(len(out)), b); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return string(append(out, b[:i]...)), nil
		}
		out = append(out, b...)
	}
	return "", errors.New("string without an end")
}

// versionsDefined walks DT_VERDEF (gABI extension of the LSB, "Symbol
// Versioning"): the records are the same for both classes.
func (d *dynamic) versionsDefined(f *File, addr, count uint64) error {
	for i := uint64(0); i < count; i++ {
		if i >= maxVersion {
			return fmt.Errorf("%d of them", count)
		}
		var rec [20]byte
		if err := d.at(addr, rec[:]); err != nil {
			return err
		}
		aux, next := d.Order.Uint32(rec[12:]), d.Order.Uint32(rec[16:])
		var name [8]byte
		if err := d.at(addr+uint64(aux), name[:]); err != nil {
			return err
		}
		s, err := d.str(uint64(d.Order.Uint32(name[:])))
		if err != nil {
			return err
		}
		f.Defines = append(f.Defines, s)
		if next == 0 {
			break
		}
		addr += uint64(next)
	}
	return nil
}

func (d *dynamic) versionsNeeded(f *File, addr, count uint64) error {
	f.Wants = map[string][]string{}
	total := 0
	for i := uint64(0); i < count; i++ {
		if i >= maxNeeded {
			return fmt.Errorf("of %d libraries", count)
		}
		var rec [16]byte
		if err := d.at(addr, rec[:]); err != nil {
			return err
		}
		naux := d.Order.Uint16(rec[2:])
		lib, err := d.str(uint64(d.Order.Uint32(rec[4:])))
		if err != nil {
			return err
		}
		at := addr + uint64(d.Order.Uint32(rec[8:]))
		for range naux {
			if total++; total > maxVersion {
				return errors.New("too many of them")
			}
			var aux [16]byte
			if err := d.at(at, aux[:]); err != nil {
				return err
			}
			s, err := d.str(uint64(d.Order.Uint32(aux[8:])))
			if err != nil {
				return err
			}
			if elf.DynamicVersionFlag(d.Order.Uint16(aux[4:]))&elf.VER_FLG_WEAK == 0 {
				f.Wants[lib] = append(f.Wants[lib], s)
			}
			next := d.Order.Uint32(aux[12:])
			if next == 0 {
				break
			}
			at += uint64(next)
		}
		next := d.Order.Uint32(rec[12:])
		if next == 0 {
			break
		}
		addr += uint64(next)
	}
	return nil
}
