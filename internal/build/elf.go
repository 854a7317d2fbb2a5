package build

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// elfFacts is what the dynamic linker will ask of one ELF file.
type elfFacts struct {
	machine elf.Machine
	class   elf.Class
	interp  string   // PT_INTERP, "" for a library or a static program
	soname  string   // DT_SONAME
	needed  []string // DT_NEEDED in order
	runpath []string // DT_RUNPATH, or DT_RPATH when there is none; $ORIGIN kept
	defines map[string]bool
	wants   map[string][]string // library → symbol versions that must be defined by it
	iconv   bool                // it calls iconv_open, which loads character set converters
}

// readELF reads the facts of a regular file. It returns nil without an error
// when the file is not ELF, and an error when it begins as one but cannot be
// read: a broken binary in production is never passed over.
func readELF(r io.ReaderAt, size int64) (*elfFacts, error) {
	var magic [4]byte
	if size < 52 {
		return nil, nil
	}
	if _, err := r.ReadAt(magic[:], 0); err != nil || string(magic[:]) != elf.ELFMAG {
		return nil, err
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	facts := &elfFacts{machine: f.Machine, class: f.Class, defines: map[string]bool{}, wants: map[string][]string{}}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return nil, nil // an object file or a core: nothing loads it
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
			if err != nil {
				return nil, fmt.Errorf("program interpreter: %w", err)
			}
			facts.interp = string(bytes.TrimRight(b, "\x00"))
		}
	}
	if f.SectionByType(elf.SHT_DYNAMIC) == nil {
		for _, p := range f.Progs {
			if p.Type == elf.PT_DYNAMIC && facts.interp != "" {
				return nil, errors.New("its section headers are gone, so that nothing can tell which libraries it needs: build it without sstrip or a packer")
			}
		}
		return facts, nil
	}
	if names := f.Section(".dynstr"); names != nil && names.Size < maxDynstr {
		if b, err := names.Data(); err == nil {
			facts.iconv = bytes.Contains(b, []byte("\x00iconv_open\x00"))
		}
	}
	if facts.needed, err = f.DynString(elf.DT_NEEDED); err != nil {
		return nil, fmt.Errorf("needed libraries: %w", err)
	}
	if so, err := f.DynString(elf.DT_SONAME); err == nil && len(so) > 0 {
		facts.soname = so[0]
	}
	run, err := f.DynString(elf.DT_RUNPATH)
	if err != nil || len(run) == 0 {
		run, _ = f.DynString(elf.DT_RPATH)
	}
	for _, r := range run {
		facts.runpath = append(facts.runpath, strings.Split(r, ":")...)
	}
	defs, err := f.DynamicVersions()
	if err == nil {
		for _, d := range defs {
			facts.defines[d.Name] = true
		}
	}
	needs, err := f.DynamicVersionNeeds()
	if err == nil {
		for _, n := range needs {
			for _, d := range n.Needs {
				if d.Flags&elf.VER_FLG_WEAK == 0 {
					facts.wants[n.Name] = append(facts.wants[n.Name], d.Dep)
				}
			}
		}
	}
	return facts, nil
}

// maxDynstr bounds the names that are searched; libnode.so has 4 MB of them.
const maxDynstr = 64 << 20

// triplet is Debian's multi-arch folder of an architecture.
func triplet(p oci.Platform) string {
	switch p.Architecture {
	case "arm64":
		return "aarch64-linux-gnu"
	default:
		return "x86_64-linux-gnu"
	}
}

func machineOf(p oci.Platform) elf.Machine {
	if p.Architecture == "arm64" {
		return elf.EM_AARCH64
	}
	return elf.EM_X86_64
}

// binaries are the ELF files of a tree by path.
type binaries map[string]*elfFacts

// readBinaries reads the ELF files of a tree. known, which may be nil, holds
// the facts of contents that were read before and takes new ones.
func readBinaries(t *filetree.Tree, known map[oci.Digest]*elfFacts) (binaries, error) {
	all := binaries{}
	var errs []error
	for _, e := range t.Sorted() {
		if !e.IsReg() || e.Size < 52 {
			continue
		}
		f, ok := known[e.Digest]
		if !ok {
			var err error
			if f, err = entryELF(e); err != nil {
				errs = append(errs, fmt.Errorf("/%s (%s): begins as an ELF file but cannot be read: %w", e.Path, originName(e), err))
				continue
			}
			if known != nil && e.Digest != "" {
				known[e.Digest] = f
			}
		}
		if f != nil {
			all[e.Path] = f
		}
	}
	return all, errors.Join(errs...)
}

// systemFolders are where Debian's dynamic linker looks when neither a run path
// nor its cache names a library (`ld.so --list-diagnostics`, path.system_dirs).
func systemFolders(p oci.Platform) []string {
	return []string{"lib/" + triplet(p), "usr/lib/" + triplet(p), "lib", "usr/lib"}
}

// checkELF proves that the dynamic linker will find everything: for each ELF
// file of the tree its interpreter, every needed library (by run path, then by
// the cache of the folders of ld.so.conf.d, then in the linker's own folders)
// and every symbol version that it binds to. All failures are returned at once.
//
// What a program loads by name while it runs (dlopen) is in no header and
// cannot be proved; extension modules of Python and Node are libraries like any
// other here, so that theirs is.
//
// notes tell of what was passed over: libraries for another C library or
// machine that a dependency carries along, and libraries of packages that find
// what they need only in a program that has loaded it before.
func checkELF(t *filetree.Tree, p oci.Platform, all binaries) (notes []string, err error) {
	var errs []error
	dirs := append(confFolders(t, p), systemFolders(p)...)
	sonames := map[string]bool{}
	for _, f := range all {
		sonames[f.soname] = true
	}
	find := func(lib string, from *filetree.Entry, f *elfFacts) *filetree.Entry {
		if strings.Contains(lib, "/") {
			return t.Resolve(lib)
		}
		var first []string
		for _, r := range f.runpath {
			r = strings.NewReplacer("$ORIGIN", "/"+path.Dir(from.Path), "${ORIGIN}", "/"+path.Dir(from.Path), "$LIB", "lib/"+triplet(p), "${LIB}", "lib/"+triplet(p)).Replace(r)
			if strings.HasPrefix(r, "/") { // a relative one depends on the working directory
				first = append(first, r)
			}
		}
		for _, d := range append(first, dirs...) {
			got := t.Resolve(strings.TrimPrefix(d, "/") + "/" + lib)
			if got == nil {
				continue
			}
			if g := all[got.Path]; g != nil && g.machine == f.machine && g.class == f.class {
				return got
			}
		}
		return nil
	}
	for _, e := range t.Sorted() {
		f := all[e.Path]
		if f == nil {
			continue
		}
		library := f.interp == "" && (f.soname != "" || e.Mode&0o111 == 0 || strings.HasSuffix(e.Path, ".node") || strings.Contains(path.Base(e.Path), ".so"))
		if f.machine != machineOf(p) {
			// Data for other machines (a .node of an optional package for
			// another system) is never loaded here; a program is.
			if !library {
				errs = append(errs, fmt.Errorf("/%s (%s): is for %v, but the image is for %s: build it for that platform (`platform: each`), or leave it out", e.Path, originName(e), f.machine, p))
			}
			continue
		}
		if library && forMusl(f) && e.Origin.Kind == filetree.FromModule {
			notes = append(notes, fmt.Sprintf("/%s (%s) is for another C library and cannot be loaded; packages carry such files for other systems", e.Path, originName(e)))
			continue
		}
		if f.interp != "" && t.Resolve(f.interp) == nil {
			errs = append(errs, fmt.Errorf("/%s (%s): its program interpreter %s is not in the image%s", e.Path, originName(e), f.interp, providedBy(f.interp)))
		}
		for _, lib := range f.needed {
			got := find(lib, e, f)
			if got == nil {
				if library && sonames[lib] && e.Origin.Kind == filetree.FromPackage {
					notes = append(notes, fmt.Sprintf("/%s (%s) needs %s, which is in no folder that the linker searches: it works in programs that have loaded it before", e.Path, originName(e), lib))
					continue
				}
				errs = append(errs, fmt.Errorf("/%s (%s): needs %s, which is not in the image: add the package that ships it to production.packages, or leave this file out", e.Path, originName(e), lib))
				continue
			}
			g := all[got.Path]
			if g == nil {
				errs = append(errs, fmt.Errorf("/%s (%s): needs %s, but /%s is no library", e.Path, originName(e), lib, got.Path))
				continue
			}
			for _, v := range f.wants[lib] {
				if !g.defines[v] {
					errs = append(errs, fmt.Errorf("/%s (%s): needs version %s of %s, which /%s (%s) does not define: the two come from different releases; build it in the development image of this project", e.Path, originName(e), v, lib, got.Path, originName(got)))
				}
			}
		}
	}
	return notes, errors.Join(errs...)
}

func forMusl(f *elfFacts) bool {
	for _, n := range f.needed {
		if strings.HasPrefix(n, "libc.musl-") || strings.HasPrefix(n, "ld-musl-") {
			return true
		}
	}
	return false
}

// entryELF reads an entry's facts from wherever its bytes are.
func entryELF(e *filetree.Entry) (*elfFacts, error) {
	rc, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return readELF(rc, rc.Size())
}

// confFolders are the folders that ld.so.conf.d names and that the linker does
// not search by itself, in the order in which ldconfig reads them.
func confFolders(t *filetree.Tree, p oci.Platform) []string {
	own := map[string]bool{}
	for _, d := range systemFolders(p) {
		own[usrMerged(d)] = true
	}
	var dirs []string
	for _, e := range t.Sorted() {
		if !e.IsReg() || path.Dir(e.Path) != "etc/ld.so.conf.d" || !strings.HasSuffix(e.Path, ".conf") {
			continue
		}
		rc, err := e.Open()
		if err != nil {
			continue // the layer writer will report it; here it only means fewer folders
		}
		b, _ := io.ReadAll(io.LimitReader(rc, 1<<16))
		rc.Close()
		for line := range strings.Lines(string(b)) {
			line, _, _ = strings.Cut(line, "#")
			line = strings.TrimSpace(line)
			if dir := usrMerged(strings.TrimPrefix(path.Clean(line), "/")); strings.HasPrefix(line, "/") && !own[dir] {
				own[dir] = true
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

func providedBy(interp string) string {
	if strings.Contains(path.Base(interp), "ld-linux") {
		return ": add libc6 to production.packages, or link the program statically"
	}
	if strings.Contains(interp, "musl") {
		return ": the program was linked for musl; use the glibc build of the dependency"
	}
	return ""
}

func originName(e *filetree.Entry) string {
	o := e.Origin
	switch o.Kind {
	case filetree.FromPackage:
		return "package " + o.Name
	case filetree.FromModule:
		return "module " + o.Name + "@" + o.Version
	case filetree.FromArtifact:
		return "artifact " + o.Name
	case "":
		return "no origin"
	}
	return o.Kind + " " + o.Name
}
