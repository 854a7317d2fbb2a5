package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
)

// imageFacts is what the bytes of an image show. Nothing of it comes from a
// project file or a lock.
//
// Tools are known by the names of programs (ELF files and scripts), wherever
// they lie. A shell under another name is not noticed: this is a comparison for
// people, not a proof of absence.
type imageFacts struct {
	Zone         string
	Unpacked     int64 // bytes of all files
	Compressed   int64 // bytes of all layers as they are stored
	Packages     int   // that the dpkg database of the image names
	NPM          int   // folders of node_modules with a package.json
	Files        int   // regular files and further names of them
	SetID        int   // programs with set-user-id or set-group-id bits
	Tools        map[toolKind][]string
	User         string
	Root         bool
	ReadOnlyRoot string // what is known of running on a read-only root
	Layers       []oci.Descriptor
}

// toolKind is a kind of program, as it is called in a table.
type toolKind string

const (
	shells          toolKind = "shell"
	packageManagers toolKind = "package manager"
	compilers       toolKind = "compiler"
	debuggers       toolKind = "debugger"
	editors         toolKind = "editor"
	networkTools    toolKind = "network tool"
	interpreters    toolKind = "interpreter"
)

var allKinds = []toolKind{shells, packageManagers, compilers, debuggers, editors, networkTools, interpreters}

// toolNames are lower-case names without a version and without the prefix of a
// target ("gcc" stands for x86_64-linux-gnu-gcc-14).
var toolNames = map[toolKind]string{
	shells:          "sh bash rbash dash ash zsh ksh mksh csh tcsh fish busybox toybox pwsh",
	packageManagers: "apt apt-get aptitude dpkg apk rpm dnf yum zypper npm npx yarn pnpm corepack pip pipx uv poetry conda gem bundle cargo composer",
	compilers:       "cc c++ gcc g++ cc1 cc1plus c89 c99 clang tcc gfortran as ld go rustc javac ghc tsc",
	debuggers:       "gdb gdbserver lldb dlv strace ltrace perf valgrind rr pdb debugpy",
	editors:         "vi vim vim.basic vim.tiny nvim nano ed emacs",
	networkTools:    "curl wget nc nc.openbsd nc.traditional ncat netcat socat telnet ssh scp sftp dig nslookup host tcpdump",
	interpreters:    "node deno bun python perl ruby php lua java",
}

var (
	targetPrefix  = regexp.MustCompile(`^[a-z0-9_]+-linux-(gnu|musl)[a-z0-9]*-`)
	versionSuffix = regexp.MustCompile(`(^|[a-z+])-?[0-9]+(\.[0-9]+)*$`)
	npmPackage    = regexp.MustCompile(`(^|/)node_modules/(@[^/]+/)?[^/@.][^/]*/package\.json$`)
)

// kindOf tells what kind of tool a program's name stands for, and the name
// without version and target.
func kindOf(name string) (toolKind, string) {
	for kind, list := range toolNames {
		for _, n := range strings.Fields(list) {
			if n == name {
				return kind, n
			}
		}
	}
	short := targetPrefix.ReplaceAllString(name, "")
	short = versionSuffix.ReplaceAllString(short, "$1")
	if short == name || short == "" {
		return "", ""
	}
	return kindOf(short)
}

// readImageFacts reads every layer of an image once.
func readImageFacts(ctx context.Context, img *image.Image) (*imageFacts, error) {
	f := &imageFacts{Tools: map[toolKind][]string{}, ReadOnlyRoot: "not tried", Layers: img.Manifest.Layers}
	zone, err := img.Zone()
	if err != nil {
		return nil, err
	}
	f.Zone = string(zone)
	f.User = img.Config.Config.User
	id, _, _ := strings.Cut(f.User, ":")
	f.Root = id == "" || id == "0" || id == "root"
	if f.Root {
		f.User = "root"
	}
	tree := filetree.NewTree()
	programs := map[string]bool{} // regular files that a kernel would start
	packages := map[string]int{}  // by file of the database
	for n, layer := range img.Manifest.Layers {
		f.Compressed += layer.Size
		if err := readLayer(ctx, img, n, tree, programs, packages); err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
	}
	found := map[toolKind]map[string]bool{}
	for _, e := range tree.Sorted() {
		f.Packages += packages[e.Path]
		target := e
		switch {
		case e.IsReg(), e.Type == tar.TypeLink:
			f.Files++
			f.Unpacked += e.Size
			if npmPackage.MatchString(e.Path) {
				f.NPM++
			}
			if e.Type == tar.TypeLink {
				target = tree.Get(e.Link)
			}
			if programs[e.Path] && e.Mode&0o6000 != 0 {
				f.SetID++
			}
		case e.IsLink():
			target = tree.Resolve(e.Path)
		default:
			continue
		}
		if target == nil || !programs[target.Path] {
			continue
		}
		if kind, name := kindOf(path.Base(e.Path)); kind != "" {
			if found[kind] == nil {
				found[kind] = map[string]bool{}
			}
			found[kind][name] = true
		}
	}
	for kind, names := range found {
		for name := range names {
			f.Tools[kind] = append(f.Tools[kind], name)
		}
		slices.Sort(f.Tools[kind])
	}
	return f, nil
}

// readLayer adds a layer to the tree.
func readLayer(ctx context.Context, img *image.Image, n int, tree *filetree.Tree, programs map[string]bool, packages map[string]int) error {
	rc, err := img.OpenLayer(ctx, n, image.Limits{})
	if err != nil {
		return err
	}
	defer rc.Close()
	r := tar.NewReader(rc)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		p := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if p == "" {
			continue
		}
		if strings.HasPrefix(path.Base(p), ".wh.") {
			return fmt.Errorf("/%s deletes something of a layer below: images of Twinhull have no such entries", p)
		}
		tree.Set(&filetree.Entry{Path: p, Type: h.Typeflag, Mode: h.Mode, Size: h.Size, UID: h.Uid, GID: h.Gid,
			Link: linkOf(h)})
		delete(programs, p)
		delete(packages, p)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		head := make([]byte, min(h.Size, 4))
		if _, err := io.ReadFull(r, head); err != nil {
			return fmt.Errorf("/%s: %w", p, err)
		}
		programs[p] = h.Mode&0o111 != 0 && (bytes.HasPrefix(head, []byte("\x7fELF")) || bytes.HasPrefix(head, []byte("#!")))
		dir, base := path.Split(p)
		if p == "var/lib/dpkg/status" || dir == "var/lib/dpkg/status.d/" && !strings.HasSuffix(base, ".md5sums") {
			rest, err := io.ReadAll(io.LimitReader(r, 64<<20))
			if err != nil {
				return fmt.Errorf("/%s: %w", p, err)
			}
			packages[p] = bytes.Count(append([]byte("\n"), append(head, rest...)...), []byte("\nPackage: "))
		}
	}
	// The reader verifies the layer's digests at its end, which lies behind
	// that of the archive.
	_, err = io.Copy(io.Discard, rc)
	return err
}

// linkOf is the target of a link as package filetree has it: as written for a
// symbolic link, a path of the tree for a hard link.
func linkOf(h *tar.Header) string {
	if h.Typeflag == tar.TypeLink {
		return strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
	}
	return h.Linkname
}
