package build

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
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
		return facts, nil
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

// checkELF proves that the dynamic linker will find everything: for each ELF
// file of the tree its interpreter, every needed library (by run path, then
// the linker's built-in folders as Debian compiles them, then the folders of
// ld.so.conf.d) and every symbol version that it binds to. All failures are
// returned at once.
func checkELF(t *filetree.Tree, p oci.Platform) error {
	type item struct {
		entry *filetree.Entry
		facts *elfFacts
	}
	facts := map[string]*elfFacts{} // by path
	var items []item
	var errs []error
	for _, e := range t.Sorted() {
		if !e.IsReg() || e.Size < 52 {
			continue
		}
		f, err := entryELF(e)
		if err != nil {
			errs = append(errs, fmt.Errorf("/%s: begins as an ELF file but cannot be read: %w", e.Path, err))
			continue
		}
		if f == nil {
			continue
		}
		facts[e.Path] = f
		items = append(items, item{e, f})
	}
	system := append([]string{
		"lib/" + triplet(p), "usr/lib/" + triplet(p), "lib", "usr/lib", "lib64", "usr/lib64",
	}, confFolders(t)...)
	find := func(lib string, from *filetree.Entry, f *elfFacts) *filetree.Entry {
		var dirs []string
		for _, r := range f.runpath {
			dirs = append(dirs, strings.NewReplacer("$ORIGIN", "/"+path.Dir(from.Path), "${ORIGIN}", "/"+path.Dir(from.Path)).Replace(r))
		}
		if strings.Contains(lib, "/") {
			return t.Resolve(lib)
		}
		for _, d := range append(dirs, system...) {
			got := t.Resolve(path.Join(strings.TrimPrefix(d, "/"), lib))
			if got == nil {
				continue
			}
			if g := facts[got.Path]; g != nil && g.machine == f.machine && g.class == f.class {
				return got
			}
		}
		return nil
	}
	for _, it := range items {
		e, f := it.entry, it.facts
		if f.machine != machineOf(p) {
			// Data for other machines (a .node of an optional package for
			// another system) is never loaded here; a program is.
			if f.interp != "" || e.Mode&0o111 != 0 && f.soname == "" {
				errs = append(errs, fmt.Errorf("/%s: is for %v, but the image is for %s", e.Path, f.machine, p))
			}
			continue
		}
		if f.interp != "" && t.Resolve(f.interp) == nil {
			errs = append(errs, fmt.Errorf("/%s: its program interpreter %s is not in the image%s", e.Path, f.interp, providedBy(f.interp)))
		}
		for _, lib := range f.needed {
			got := find(lib, e, f)
			if got == nil {
				errs = append(errs, fmt.Errorf("/%s: needs %s, which is not in the image (%s): add the package that ships it to production.packages, or leave this file out", e.Path, lib, originName(e)))
				continue
			}
			g := facts[got.Path]
			for _, v := range f.wants[lib] {
				if !g.defines[v] {
					errs = append(errs, fmt.Errorf("/%s: needs version %s of %s, which /%s does not define: the two come from different releases", e.Path, v, lib, got.Path))
				}
			}
		}
	}
	return errors.Join(errs...)
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

// confFolders are the folders that ld.so.conf.d names, as ldconfig would add
// them to its cache.
func confFolders(t *filetree.Tree) []string {
	var dirs []string
	for _, e := range t.Sorted() {
		if !e.IsReg() || !strings.HasPrefix(e.Path, "etc/ld.so.conf.d/") || !strings.HasSuffix(e.Path, ".conf") {
			continue
		}
		rc, err := e.Open()
		if err != nil {
			continue // the layer writer will report it; here it only means fewer folders
		}
		b, _ := io.ReadAll(io.LimitReader(rc, 1<<16))
		rc.Close()
		for line := range strings.Lines(string(b)) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
			if strings.HasPrefix(line, "/") {
				dirs = append(dirs, strings.TrimPrefix(strings.TrimSpace(line), "/"))
			}
		}
	}
	sort.Strings(dirs)
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
