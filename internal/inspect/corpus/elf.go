package corpus

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// Program is a static ELF program for amd64 that ends at once.
func Program() []byte { return ELF(nil) }

// ELF is a static program for amd64 with further strings among its constants,
// in a segment that is not code, as linkers lay programs out today.
func ELF(texts []string) []byte {
	code := []byte{0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // exit(0)
	data := []byte("twinhull corpus\x00" + strings.Join(texts, "\x00") + "\x00")
	const base, page = 0x400000, 0x1000
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: base + page, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	seg := func(off uint64, n int, flags elf.ProgFlag) elf.Prog64 {
		return elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(flags), Off: off, Vaddr: base + off, Paddr: base + off, Filesz: uint64(n), Memsz: uint64(n), Align: page}
	}
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // to a buffer
	put(h)
	put(seg(0, 64+3*56, elf.PF_R))
	put(seg(page, len(code), elf.PF_R|elf.PF_X))
	put(seg(2*page, len(data), elf.PF_R))
	b.Write(make([]byte, page-b.Len()))
	b.Write(code)
	b.Write(make([]byte, 2*page-b.Len()))
	b.Write(data)
	return b.Bytes()
}

// Unlinked returns a dynamic program as if it had been linked statically: it
// asks for no dynamic linker and no library, so that nothing but what it is can
// be found wrong with it.
func Unlinked(b []byte) []byte {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil || f.Class != elf.ELFCLASS64 || f.ByteOrder != binary.LittleEndian {
		return b
	}
	b = bytes.Clone(b)
	at := binary.LittleEndian.Uint64(b[32:]) // e_phoff
	for i, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			binary.LittleEndian.PutUint32(b[at+uint64(i)*56:], uint32(elf.PT_NULL))
		}
	}
	return b
}

// Core is the beginning of a core dump.
func Core() []byte {
	b := ELF(nil)
	binary.LittleEndian.PutUint16(b[16:], uint16(elf.ET_CORE))
	return b
}

// Object is an object file.
func Object() []byte {
	b := ELF(nil)
	binary.LittleEndian.PutUint16(b[16:], uint16(elf.ET_REL))
	return b
}
