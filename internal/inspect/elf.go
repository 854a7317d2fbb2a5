package inspect

import (
	"bytes"
	"compress/zlib"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"runtime/debug"
	"strings"

	"twinhull.dev/twinhull/internal/elfclosure"
)

// sparse is a file of which some ranges were kept as it streamed by.
type sparse struct {
	parts []part
}

type part struct {
	off  int64
	data []byte
	want int64 // bytes of the range
}

var errNotKept = errors.New("that part of a large file was not kept")

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	for _, r := range s.parts {
		if off >= r.off && off+int64(len(p)) <= r.off+int64(len(r.data)) {
			return copy(p, r.data[off-r.off:]), nil
		}
	}
	return 0, errNotKept
}

// see keeps what of b, which lies at offset at of the file, is wanted.
func (s *sparse) see(b []byte, at int64) {
	for i := range s.parts {
		r := &s.parts[i]
		next := r.off + int64(len(r.data)) // ranges fill in order
		if int64(len(r.data)) == r.want || next < at || next >= at+int64(len(b)) {
			continue
		}
		from := b[next-at:]
		n := min(int64(len(from)), r.want-int64(len(r.data)))
		r.data = append(r.data, from[:n]...)
	}
}

// Ranges of a file too large to be held.
const (
	sparseHead    = 20 << 20 // of the first segment, with the dynamic string table
	sparseSegment = 2 << 20  // of each further segment that is not code
	goInfoLimit   = 512 << 10
)

// elfFile reads an ELF file: strings of tools from everything but code, and
// what the dynamic linker would ask of it.
func (f *opened) elfFile() error {
	c := f.c
	h, err := elfclosure.ReadHeader(bytes.NewReader(f.head))
	if err != nil && f.ended {
		c.errs = append(c.errs, "begins as an ELF file and cannot be read: "+err.Error())
		return nil
	}
	if err != nil { // its program headers are not at the beginning
		h = &elfclosure.Header{}
	}
	scan := f.w.tools
	scan.reset()
	skipped := codeOnly(h.Segments)
	feed := func(b []byte, at int64) {
		for len(b) > 0 {
			n, code := len(b), false
			for _, s := range skipped {
				switch {
				case at >= s.Offset && at < s.Offset+s.Size:
					n, code = int(min(int64(len(b)), s.Offset+s.Size-at)), true
				case at < s.Offset && s.Offset-at < int64(n) && !code:
					n = int(s.Offset - at)
				}
			}
			if code {
				scan.skip(n)
			} else {
				scan.feed(b[:n])
			}
			b, at = b[n:], at+int64(n)
		}
	}
	var at io.ReaderAt
	size := f.info.size
	if b, whole, err := f.readAllSeeing(wholeLimit, feed); err != nil {
		return err
	} else if whole {
		f.appended(b)
		at, size = bytes.NewReader(b), int64(len(b))
	} else {
		s := &sparse{}
		if cap(f.w.whole) < sparseHead {
			f.w.whole = make([]byte, 0, sparseHead)
		}
		s.parts = append(s.parts, part{off: 0, data: f.w.whole[:0], want: sparseHead})
		for _, seg := range h.Segments {
			switch {
			case seg.Offset+min(seg.Size, sparseSegment) <= sparseHead:
			case seg.Type == elf.PT_DYNAMIC, seg.Type == elf.PT_INTERP:
				s.parts = append(s.parts, part{off: seg.Offset, want: min(seg.Size, sparseSegment)})
			case seg.Type == elf.PT_LOAD && seg.Flags&elf.PF_X == 0 && len(s.parts) < 8:
				s.parts = append(s.parts, part{off: seg.Offset, want: min(seg.Size, sparseSegment)})
			}
		}
		see := func(b []byte, at int64) {
			before := scan.goInfo
			feed(b, at)
			if before < 0 && scan.goInfo >= 0 {
				s.parts = append(s.parts, part{off: max(scan.goInfo, at), want: goInfoLimit})
			}
			s.see(b, at)
		}
		if b != nil { // longer than its header said; from the beginning again
			read := int64(len(b))
			scan.reset()
			see(bytes.Clone(b), 0)
			if err := f.streamFrom(read, func(b []byte, at int64) { see(b, at); read = at + int64(len(b)) }); err != nil {
				return err
			}
			size = read
		} else if err := f.stream(see); err != nil {
			return err
		}
		f.w.whole = s.parts[0].data[:0] // it may have grown
		at = s
	}
	file, err := elfclosure.Read(at, size)
	if err != nil {
		c.errs = append(c.errs, "begins as an ELF file and cannot be read: "+err.Error())
		c.tools = append(c.tools, scan.tools(nil, true)...)
		return nil
	}
	if file == nil {
		return nil
	}
	switch file.Type {
	case elf.ET_CORE:
		c.marks = append(c.marks, mark{rule: RuleCoreDump, subject: "core dump"})
		return nil
	case elf.ET_REL:
		if !strings.HasSuffix(f.info.path, ".ko") {
			c.marks = append(c.marks, mark{rule: RuleHeaders, subject: "object file"})
		}
		return nil
	case elf.ET_EXEC, elf.ET_DYN:
	default:
		return nil
	}
	c.elf = file
	program := file.Interp != "" || file.Type == elf.ET_EXEC || f.info.mode&0o111 != 0 && file.SONAME == ""
	c.static = program && file.Interp == "" && len(file.Needed) == 0
	c.tools = append(c.tools, scan.tools(file.Needed, program)...)
	if scan.goInfo >= 0 {
		f.goFacts(at, scan.goInfo, size)
	}
	if scan.audit && size <= wholeLimit {
		c.pkgs = append(c.pkgs, cargoAuditable(at)...)
	}
	return nil
}

// codeOnly are the segments that hold code and no strings: where a linker has
// separated the two, the strings are in a segment that is not executable.
func codeOnly(segments []elfclosure.Segment) []elfclosure.Segment {
	var code []elfclosure.Segment
	constants := false
	for _, s := range segments {
		if s.Type != elf.PT_LOAD {
			continue
		}
		if s.Flags&elf.PF_X != 0 && s.Flags&elf.PF_W == 0 && s.Offset > 0 {
			code = append(code, s)
		}
		// A read-only segment behind the first is where constants are.
		if s.Flags&(elf.PF_X|elf.PF_W) == 0 && s.Offset > 0 {
			constants = true
		}
	}
	if !constants {
		return nil
	}
	return code
}

// goFacts reads a Go program's build information: which program it is and the
// modules that were linked in.
func (f *opened) goFacts(r io.ReaderAt, offset, size int64) {
	var info *debug.BuildInfo
	if size <= wholeLimit {
		got, err := buildinfo.Read(r)
		if err != nil {
			return // the words occur in Go's own tools too
		}
		info = got
	} else {
		got, err := inlineBuildInfo(r, offset)
		if err != nil {
			return
		}
		info = got
	}
	for _, p := range goPrograms {
		if strings.HasPrefix(info.Path, p.prefix) {
			f.c.tools = append(f.c.tools, tool{rule: p.rule, name: p.name, evidence: "Go's build information says " + info.Path})
		}
	}
	add := func(path, version string) {
		if path == "" {
			return
		}
		f.c.pkgs = append(f.c.pkgs, Package{Type: Golang, Name: path, Version: version})
	}
	add("stdlib", strings.TrimPrefix(strings.Fields(info.GoVersion + " ")[0], "go"))
	add(info.Main.Path, info.Main.Version)
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		add(d.Path, d.Version)
	}
}

// inlineBuildInfo reads the form that Go has written since 1.18 (debug/buildinfo):
// 32 bytes of header, then two strings with their length before them.
func inlineBuildInfo(r io.ReaderAt, at int64) (*debug.BuildInfo, error) {
	var b []byte
	for n := int64(goInfoLimit); n >= 4096; n /= 2 {
		b = make([]byte, n)
		if _, err := r.ReadAt(b, at); err == nil {
			break
		}
		b = nil
	}
	if len(b) < 64 || b[15]&2 == 0 {
		return nil, errors.New("no build information")
	}
	b = b[32:]
	str := func() (string, error) {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > uint64(len(b)-k) {
			return "", errors.New("no build information")
		}
		s := string(b[k : k+int(n)])
		b = b[k+int(n):]
		return s, nil
	}
	version, err := str()
	if err != nil {
		return nil, err
	}
	text, err := str()
	if err != nil {
		return nil, err
	}
	if len(text) >= 33 && text[len(text)-17] == '\n' {
		text = text[16 : len(text)-16]
	} else {
		text = ""
	}
	info, err := debug.ParseBuildInfo(text)
	if err != nil {
		return nil, err
	}
	info.GoVersion = version
	return info, nil
}

// cargoAuditable reads the section that cargo-auditable writes: JSON under zlib
// (github.com/rust-secure-code/cargo-auditable, PARSING.md).
func cargoAuditable(r io.ReaderAt) []Package {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil
	}
	s := f.Section(".dep-v0")
	if s == nil || s.Size > smallLimit {
		return nil
	}
	z, err := zlib.NewReader(s.Open())
	if err != nil {
		return nil
	}
	var doc struct {
		Packages []struct{ Name, Version, Source, Kind string }
	}
	if err := json.NewDecoder(io.LimitReader(z, 8<<20)).Decode(&doc); err != nil {
		return nil
	}
	var out []Package
	for _, p := range doc.Packages {
		if p.Kind == "build" || p.Name == "" {
			continue
		}
		out = append(out, Package{Type: Cargo, Name: p.Name, Version: p.Version})
	}
	return out
}
