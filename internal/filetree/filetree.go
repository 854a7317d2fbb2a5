// Package filetree is a file tree as data: every path with its complete header,
// where its bytes are and why it is there.
//
// Sources produce trees, package build composes them, package image writes them
// as layers and package sandbox puts them on disk. The package neither reads
// nor walks a file system, and it does not decide which files belong anywhere.
package filetree

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
)

// Content says where the bytes of a regular file are. Exactly one of Data and
// File is meaningful: Data when File is empty (an empty file has neither).
type Content struct {
	Data   []byte `json:"data,omitempty"`
	File   string `json:"file,omitempty"`   // absolute path of a file that holds the bytes
	Offset int64  `json:"offset,omitempty"` // where they begin in File
}

// Kind of an Origin.
const (
	FromPackage   = "package"   // a locked archive package (Debian)
	FromModule    = "module"    // a locked language dependency (npm tarball, Go module)
	FromArtifact  = "artifact"  // a declared output of a step
	FromSource    = "source"    // a file of the project named in the project file
	FromGenerated = "generated" // made by Twinhull itself
)

// Origin says why a path is in an image: exactly one source, with a hash that
// can be checked against the vault.
type Origin struct {
	Kind    string     `json:"kind"`              // one of the From constants
	Name    string     `json:"name"`              // package, module, "step:output", project path or generator
	Version string     `json:"version,omitempty"` // of the package or module
	Arch    string     `json:"arch,omitempty"`    // Debian architecture of the package
	Digest  oci.Digest `json:"digest,omitempty"`  // of the .deb, tarball, artifact or file bytes in the vault
	Path    string     `json:"path,omitempty"`    // path inside that source
	Note    string     `json:"note,omitempty"`    // why, for generated files; the step's command for artifacts
}

// Entry is one path of a tree: a tar header reduced to what an image keeps.
type Entry struct {
	Path     string            `json:"path"`            // relative, clean, slash-separated; never "." or absolute
	Type     byte              `json:"type"`            // a tar.Type… constant: Reg, Dir, Symlink, Link, Char, Block, Fifo
	Mode     int64             `json:"mode"`            // permission bits with set-user-id, set-group-id and sticky (07777)
	UID      int               `json:"uid"`             // numeric owner
	GID      int               `json:"gid"`             // numeric group
	ModTime  int64             `json:"mtime"`           // Unix seconds
	Size     int64             `json:"size,omitempty"`  // bytes, regular files only
	Link     string            `json:"link,omitempty"`  // symlink target, or the path (relative, like Path) of the first name of a hard link
	Xattrs   map[string]string `json:"xattr,omitempty"` // extended attributes by full name ("security.capability")
	Digest   oci.Digest        `json:"sha256,omitempty"`
	Content  Content           `json:"content,omitzero"`
	Origin   Origin            `json:"origin,omitzero"`
	DevMajor int64             `json:"devmajor,omitempty"`
	DevMinor int64             `json:"devminor,omitempty"`
}

// IsReg, IsDir and IsLink tell the entry's type.
func (e *Entry) IsReg() bool  { return e.Type == tar.TypeReg }
func (e *Entry) IsDir() bool  { return e.Type == tar.TypeDir }
func (e *Entry) IsLink() bool { return e.Type == tar.TypeSymlink }

// Open returns the bytes of a regular file, for reading in order or in place.
// The caller closes the result.
func (e *Entry) Open() (*Bytes, error) {
	if e.Content.File == "" {
		r := bytes.NewReader(e.Content.Data)
		return &Bytes{Reader: r, at: r, size: int64(len(e.Content.Data))}, nil
	}
	f, err := os.Open(e.Content.File)
	if err != nil {
		return nil, fmt.Errorf("bytes of %s: %w", e.Path, err)
	}
	r := io.NewSectionReader(f, e.Content.Offset, e.Size)
	return &Bytes{Reader: r, at: r, size: e.Size, file: f}, nil
}

// Bytes are the opened bytes of an entry. Read goes on where it stopped; ReadAt
// reads in place and may be used by several goroutines.
type Bytes struct {
	io.Reader
	at   io.ReaderAt
	size int64
	file *os.File
}

// ReadAt implements io.ReaderAt within the entry's bytes.
func (b *Bytes) ReadAt(p []byte, off int64) (int, error) { return b.at.ReadAt(p, off) }

// Size is the number of bytes.
func (b *Bytes) Size() int64 { return b.size }

// Close releases the file, if there is one.
func (b *Bytes) Close() error {
	if b.file == nil {
		return nil
	}
	return b.file.Close()
}

// Clean turns a tar member name into an Entry path. It refuses names that are
// absolute in disguise, that climb out of the tree, or that carry a NUL; a
// leading "./" or "/" is dropped as dpkg does. The root itself is "".
func Clean(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("path %q holds a NUL byte", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("path %q climbs out of the tree", name)
		}
	}
	p := strings.TrimPrefix(path.Clean("/"+name), "/")
	return p, nil
}

// Tree is a file tree by path. The zero Tree is not ready: use NewTree. A Tree
// is not safe for use by several goroutines at once while one of them writes.
type Tree struct {
	entries map[string]*Entry
}

// NewTree returns an empty tree.
func NewTree() *Tree { return &Tree{entries: make(map[string]*Entry)} }

// Len is the number of paths.
func (t *Tree) Len() int { return len(t.entries) }

// Get returns the entry at a path, or nil.
func (t *Tree) Get(p string) *Entry { return t.entries[p] }

// Set adds the entry or replaces what is at its path.
func (t *Tree) Set(e *Entry) { t.entries[e.Path] = e }

// Delete removes one path; what is below it stays.
func (t *Tree) Delete(p string) { delete(t.entries, p) }

// Sorted returns the entries in byte order of their paths, so parents come
// before children.
func (t *Tree) Sorted() []*Entry {
	all := make([]*Entry, 0, len(t.entries))
	for _, e := range t.entries {
		all = append(all, e)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Path < all[j].Path })
	return all
}

// Resolve follows symbolic links inside the tree as a process with this root
// would, and returns the entry that p finally names, or nil when it names
// nothing or the links run in a circle (more than 40 steps, as Linux).
func (t *Tree) Resolve(p string) *Entry {
	rest := strings.Split(strings.Trim(p, "/"), "/")
	cur := ""
	for steps := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			cur = path.Dir(cur)
			if cur == "." {
				cur = ""
			}
			continue
		}
		next := part
		if cur != "" {
			next = cur + "/" + part
		}
		e := t.entries[next]
		if e != nil && e.IsLink() {
			if steps++; steps > 40 {
				return nil
			}
			if strings.HasPrefix(e.Link, "/") {
				cur = ""
			}
			rest = append(strings.Split(strings.Trim(e.Link, "/"), "/"), rest...)
			continue
		}
		cur = next
	}
	return t.entries[cur]
}
