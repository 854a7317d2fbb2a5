package build

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"twinhull.dev/twinhull/internal/elfclosure"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// elfFacts is what is asked of one ELF file.
type elfFacts struct {
	*elfclosure.File
	iconv bool // it names iconv_open, which loads character set converters
}

// maxDynstr bounds the names that are searched; libnode.so has 4 MB of them.
const maxDynstr = 64 << 20

// entryELF reads an entry's facts from wherever its bytes are. It returns nil
// without an error when the file is not ELF or nothing loads it, and an error
// when it begins as one but cannot be read: a broken binary in production is
// never passed over.
func entryELF(e *filetree.Entry) (*elfFacts, error) {
	rc, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	var magic [4]byte
	if _, err := rc.ReadAt(magic[:], 0); err != nil || !elfclosure.IsELF(magic[:]) {
		return nil, err
	}
	f, err := elfclosure.Read(rc, rc.Size())
	if err != nil || !f.Loadable() {
		return nil, err
	}
	facts := &elfFacts{File: f}
	if f.Dynamic {
		facts.iconv = true // unless the names say otherwise
		if file, err := elf.NewFile(rc); err == nil {
			if names := file.Section(".dynstr"); names != nil && names.Size < maxDynstr {
				if b, err := names.Data(); err == nil {
					facts.iconv = bytes.Contains(b, []byte("\x00iconv_open\x00"))
				}
			}
		}
	}
	return facts, nil
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
	return []string{"lib/" + elfclosure.Triplet(p), "usr/lib/" + elfclosure.Triplet(p), "lib", "usr/lib"}
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
// notes tell of what was passed over: libraries for another C library that a
// dependency carries along, and libraries of packages that find what they need
// only in a program that has loaded it before.
func checkELF(t *filetree.Tree, p oci.Platform, all binaries) (notes []string, err error) {
	set := elfclosure.Set{Folders: confFolders(t, p), Platform: p}
	set.Resolve = func(at string) (string, bool) {
		e := t.Resolve(at)
		if e == nil || e.IsDir() {
			return "", false
		}
		return e.Path, true
	}
	for _, name := range sortedKeys(all) {
		set.Items = append(set.Items, elfclosure.Item{Path: name, Executable: t.Get(name).Mode&0o111 != 0, File: all[name].File})
	}
	var errs []error
	for _, pr := range set.Check() {
		e := t.Get(pr.Item.Path)
		who := fmt.Sprintf("/%s (%s)", e.Path, originName(e))
		switch pr.Kind {
		case elfclosure.WrongMachine:
			errs = append(errs, fmt.Errorf("%s: is for %s, but the image is for %s: build it for that platform (`platform: each`), or leave it out", who, pr.Name, p))
		case elfclosure.NoInterp:
			errs = append(errs, fmt.Errorf("%s: its program interpreter %s is not in the image%s", who, pr.Name, providedBy(pr.Name)))
		case elfclosure.NoVersion:
			errs = append(errs, fmt.Errorf("%s: needs version %s of %s, which /%s (%s) does not define: the two come from different releases; build it in the development image of this project", who, pr.Name, pr.Library, pr.File, originName(t.Get(pr.File))))
		default:
			// What is passed over of a dependency or a package, which others
			// have tested, is not for a file of the project's own.
			switch musl := strings.Contains(pr.Name, "musl"); {
			case pr.Passed && musl && e.Origin.Kind == filetree.FromModule:
				notes = append(notes, who+" is for another C library and cannot be loaded here; packages carry such files for other systems")
			case pr.Passed && !musl && e.Origin.Kind == filetree.FromPackage:
				notes = append(notes, fmt.Sprintf("%s needs %s, which is in no folder that the linker searches: it works in programs that have loaded it before", who, pr.Name))
			default:
				errs = append(errs, fmt.Errorf("%s: needs %s, which is not in the image: add the package that ships it to production.packages, or leave this file out", who, pr.Name))
			}
		}
	}
	return notes, errors.Join(errs...)
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
