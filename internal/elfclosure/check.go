package elfclosure

import (
	"debug/elf"
	"path"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
)

// Item is one file of the set. Path is relative to the root and names the file
// itself, not a link to it.
type Item struct {
	Path       string
	Executable bool // one of its execute bits is set
	*File
}

// Kind says what is wrong with an Item.
type Kind string

// The kinds of Problem.
const (
	WrongMachine Kind = "machine" // a program for another processor
	NoInterp     Kind = "interpreter"
	NoLibrary    Kind = "library"
	NoVersion    Kind = "version"
)

// Problem is something that the dynamic linker would not find.
type Problem struct {
	Item    Item
	Kind    Kind
	Name    string // the interpreter, library or version that is missing
	Library string // NoVersion: the library that should define Name
	File    string // NoVersion: the path of the file that was found for Library
	// Passed says that nobody need care: the file is a library for another C
	// library that a dependency carries along, or one that finds what it needs
	// in a program that has loaded it before (a file of that SONAME is in the
	// set, outside the folders that the linker searches).
	Passed bool
	// Program is the path of a program that cannot start for it: the item
	// itself, or the first program of the set that needs the item, directly or
	// through other libraries. It is "" for a library that no program of the
	// set is linked with.
	Program string
}

// IsLibrary tells a file that is loaded from a program that is started.
func (it Item) IsLibrary() bool {
	return it.Interp == "" && (it.SONAME != "" || !it.Executable || strings.HasSuffix(it.Path, ".node") || strings.Contains(path.Base(it.Path), ".so"))
}

// forMusl tells a file that was linked for the C library musl.
func (it Item) forMusl() bool {
	return slices.ContainsFunc(it.Needed, func(n string) bool {
		return strings.HasPrefix(n, "libc.musl-") || strings.HasPrefix(n, "ld-musl-")
	})
}

// Set is the world of a check.
type Set struct {
	Items []Item
	// Resolve follows the links in a path as a process with this root would and
	// returns the path that it finally names; ok is false when it names nothing.
	Resolve func(path string) (real string, ok bool)
	// Folders are further folders of the linker's search path, relative to the
	// root: those of ld.so.conf and of LD_LIBRARY_PATH.
	Folders  []string
	Platform oci.Platform
}

// Triplet is Debian's multi-arch folder of a platform.
func Triplet(p oci.Platform) string {
	if p.Architecture == "arm64" {
		return "aarch64-linux-gnu"
	}
	return "x86_64-linux-gnu"
}

// Machine is the ELF machine of a platform.
func Machine(p oci.Platform) elf.Machine {
	if p.Architecture == "arm64" {
		return elf.EM_AARCH64
	}
	return elf.EM_X86_64
}

// Check finds every problem of the set: for each file that can be loaded its
// interpreter, every needed library (by run path, then in Folders, as the
// linker's cache holds them, then in its built-in folders as Debian compiles
// them) and every symbol version that
// it binds to. Problems come in the order of the items.
func (s *Set) Check() []Problem {
	byPath := make(map[string]*File, len(s.Items))
	sonames := make(map[string]bool)
	for _, it := range s.Items {
		byPath[it.Path] = it.File
		sonames[it.SONAME] = true
	}
	triplet := Triplet(s.Platform)
	system := append(slices.Clone(s.Folders),
		"lib/"+triplet, "usr/lib/"+triplet, "lib", "usr/lib", "lib64", "usr/lib64")
	find := func(lib string, from Item) string {
		matches := func(p string) (string, bool) {
			real, ok := s.Resolve(p)
			if !ok {
				return "", false
			}
			g := byPath[real]
			return real, g != nil && g.Machine == from.Machine && g.Class == from.Class
		}
		if strings.Contains(lib, "/") {
			real, _ := matches(strings.TrimPrefix(lib, "/"))
			return real
		}
		dir := "/" + path.Dir(from.Path)
		tokens := strings.NewReplacer("$ORIGIN", dir, "${ORIGIN}", dir, "$LIB", "lib/"+triplet, "${LIB}", "lib/"+triplet)
		for _, d := range from.RunPath {
			d = tokens.Replace(d)
			if !strings.HasPrefix(d, "/") { // depends on the working directory
				continue
			}
			if real, ok := matches(strings.TrimPrefix(d, "/") + "/" + lib); ok {
				return real
			}
		}
		for _, d := range system {
			if real, ok := matches(d + "/" + lib); ok {
				return real
			}
		}
		return ""
	}
	var out []Problem
	needs := map[string][]string{} // what was found for each item's libraries
	for _, it := range s.Items {
		if !it.Loadable() {
			continue
		}
		if it.Machine != Machine(s.Platform) {
			// Data for other machines (a .node of an optional package for
			// another system) is never loaded here; a program is.
			if !it.IsLibrary() {
				out = append(out, Problem{Item: it, Kind: WrongMachine, Name: it.Machine.String()})
			}
			continue
		}
		if it.Interp != "" {
			if _, ok := s.Resolve(strings.TrimPrefix(it.Interp, "/")); !ok {
				out = append(out, Problem{Item: it, Kind: NoInterp, Name: it.Interp})
			}
		}
		for _, lib := range it.Needed {
			real := find(lib, it)
			if real == "" {
				passed := it.IsLibrary() && (sonames[lib] || it.forMusl())
				out = append(out, Problem{Item: it, Kind: NoLibrary, Name: lib, Passed: passed})
				continue
			}
			needs[it.Path] = append(needs[it.Path], real)
			g := byPath[real]
			if g == nil { // a library named by its path that is no ELF file
				out = append(out, Problem{Item: it, Kind: NoLibrary, Name: lib})
				continue
			}
			for _, v := range it.Wants[lib] {
				if !slices.Contains(g.Defines, v) {
					out = append(out, Problem{Item: it, Kind: NoVersion, Name: v, Library: lib, File: real})
				}
			}
		}
	}
	// Which program does it keep from starting?
	program := map[string]string{}
	for _, it := range s.Items {
		if !it.Loadable() || it.IsLibrary() {
			continue
		}
		for stack := []string{it.Path}; len(stack) > 0; {
			p := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if _, seen := program[p]; !seen {
				program[p] = it.Path
				stack = append(stack, needs[p]...)
			}
		}
	}
	for i := range out {
		out[i].Program = program[out[i].Item.Path]
	}
	return out
}
