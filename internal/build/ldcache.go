package build

import (
	"debug/elf"
	"encoding/binary"
	"path"
	"sort"
	"strings"

	"twinhull.dev/twinhull/internal/elfclosure"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// The dynamic linker searches the folders of ld.so.conf.d only through the
// cache that ldconfig makes. This file makes it, when such a folder holds a
// library; an image without one needs none, because the linker's own folders
// are searched in any case.

// cachedLibrary is one line of the cache.
type cachedLibrary struct {
	soname string
	path   string // absolute
}

// cacheLibraries lists the libraries in the folders of ld.so.conf.d by soname.
// Of two with one name the first folder's counts, as for ldconfig.
func cacheLibraries(t *filetree.Tree, p oci.Platform, all binaries) []cachedLibrary {
	var out []cachedLibrary
	seen := map[string]bool{}
	entries := t.Sorted()
	for _, dir := range confFolders(t, p) {
		real := t.Resolve(dir)
		if real == nil || !real.IsDir() {
			continue
		}
		for _, e := range entries {
			base := path.Base(e.Path)
			if path.Dir(e.Path) != real.Path || !strings.Contains(base, ".so") || e.IsDir() {
				continue
			}
			target := t.Resolve(e.Path)
			if target == nil {
				continue
			}
			f := all[target.Path]
			if f == nil || f.Machine != elfclosure.Machine(p) || f.Class != elf.ELFCLASS64 {
				continue
			}
			name := f.SONAME
			if name == "" {
				name = base
			}
			// The linker opens the path under the soname; a file of another
			// name counts only when nothing has that name.
			if base != name && t.Resolve(real.Path+"/"+name) != nil || seen[name] {
				continue
			}
			seen[name] = true
			out = append(out, cachedLibrary{name, "/" + e.Path})
		}
	}
	return out
}

// ldCache writes /etc/ld.so.cache in glibc's format "glibc-ld.so.cache1.1"
// (glibc, sysdeps/generic/dl-cache.h: struct cache_file_new): a header of 48
// bytes, entries of 24 bytes in falling order of their names, then the strings.
// Offsets count from the beginning of the file.
func ldCache(libs []cachedLibrary, p oci.Platform) []byte {
	const headerSize, entrySize = 48, 24
	const littleEndian = 2  // cache_file_new_flags_endian_little
	flags := uint32(0x0303) // FLAG_ELF_LIBC6 | FLAG_X8664_LIB64
	if elfclosure.Machine(p) == elf.EM_AARCH64 {
		flags = 0x0a03 // FLAG_ELF_LIBC6 | FLAG_AARCH64_LIB64
	}
	libs = append([]cachedLibrary{}, libs...)
	sort.SliceStable(libs, func(i, j int) bool { return compareLibraries(libs[i].soname, libs[j].soname) > 0 })
	le := binary.LittleEndian
	base := headerSize + entrySize*len(libs)
	var entries, names []byte
	text := func(s string) uint32 {
		at := base + len(names)
		names = append(append(names, s...), 0)
		return uint32(at)
	}
	for _, l := range libs {
		entries = le.AppendUint32(entries, flags)
		entries = le.AppendUint32(entries, text(l.soname))
		entries = le.AppendUint32(entries, text(l.path))
		entries = le.AppendUint32(entries, 0) // osversion, unused
		entries = le.AppendUint64(entries, 0) // hwcap: for every processor
	}
	out := []byte("glibc-ld.so.cache1.1")
	out = le.AppendUint32(out, uint32(len(libs)))
	out = le.AppendUint32(out, uint32(len(names)))
	out = append(out, littleEndian, 0, 0, 0)
	out = append(out, make([]byte, 16)...) // no extensions; unused
	return append(append(out, entries...), names...)
}

// compareLibraries is the order in which the linker searches the cache: by
// characters, but numbers by their value (glibc, elf/dl-cache.c:
// _dl_cache_libcmp).
func compareLibraries(a, b string) int {
	digit := func(s string, i int) bool { return i < len(s) && s[i] >= '0' && s[i] <= '9' }
	at := func(s string, i int) int {
		if i < len(s) {
			return int(s[i])
		}
		return 0
	}
	i, j := 0, 0
	for i < len(a) {
		switch {
		case digit(a, i) && digit(b, j):
			x, y := 0, 0
			for ; digit(a, i); i++ {
				x = x*10 + int(a[i]-'0')
			}
			for ; digit(b, j); j++ {
				y = y*10 + int(b[j]-'0')
			}
			if x != y {
				return x - y
			}
		case digit(a, i):
			return 1
		case digit(b, j):
			return -1
		case at(a, i) != at(b, j):
			return at(a, i) - at(b, j)
		default:
			i++
			j++
		}
	}
	return at(a, i) - at(b, j)
}
