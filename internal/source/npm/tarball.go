package npm

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// Limits bound what one tarball may hold, so that a few kilobytes cannot fill
// a disk. The zero Limits means DefaultLimits.
type Limits struct {
	Bytes int64 // sum of all file sizes
	Files int   // entries of every type
	Path  int   // bytes of one path
}

// DefaultLimits leave room for the largest packages of the public registry:
// browsers and compilers of some 300 MB, icon sets of some 60,000 files.
var DefaultLimits = Limits{Bytes: 2 << 30, Files: 500_000, Path: 1024}

// maxManifest bounds a package.json, which is held in memory.
const maxManifest = 8 << 20

// FileSum is one regular file as npm unpacks it.
type FileSum struct {
	SHA256 oci.Digest `json:"sha256"`
	Size   int64      `json:"size"`
	Mode   int64      `json:"mode"` // 0644 or 0755: what npm gives with umask 022
	// Member is the file's name in the tarball.
	Member string `json:"member"`
	// Unix is the SHA-256 after npm has removed the carriage return from the
	// first line, which it does when the file is linked as a command; empty
	// when there is none to remove. UnixSize is the size then.
	Unix     oci.Digest `json:"unix,omitempty"`
	UnixSize int64      `json:"unixSize,omitempty"`
}

// Contents is what a tarball unpacks to: a table of sums, without the bytes.
type Contents struct {
	Files    map[string]FileSum `json:"files"`    // by path below the package's folder
	Folders  []string           `json:"folders"`  // every folder, named or implied, sorted
	Manifest json.RawMessage    `json:"manifest"` // package.json as it is
}

// Files reads a tarball (.tgz, or the same uncompressed) into its table of
// sums. The rules are npm's (pacote): the first path component is dropped,
// links are not unpacked, .gitignore becomes .npmignore unless there is one.
// Stricter than npm, it refuses members that climb out or are absolute, links
// that point out of the package, devices, and more than the limits.
func Files(r io.Reader, limits Limits) (*Contents, error) {
	return read(r, limits, nil)
}

// Unpack is Files with the bytes: every file's content is appended to keep and
// the entries, sorted by path and relative to the package's folder, refer to
// it as keepPath, which must name the same file once it is read. Owners are 0,
// times are 0: npm keeps neither.
func Unpack(r io.Reader, limits Limits, keep io.Writer, keepPath string) ([]*filetree.Entry, *Contents, error) {
	at := make(map[string]int64)
	k := &keeper{w: keep, at: at}
	c, err := read(r, limits, k)
	if err != nil {
		return nil, nil, err
	}
	tree := filetree.NewTree()
	for _, d := range c.Folders {
		tree.Set(&filetree.Entry{Path: d, Type: tar.TypeDir, Mode: 0o755})
	}
	for p, f := range c.Files {
		e := &filetree.Entry{Path: p, Type: tar.TypeReg, Mode: f.Mode, Size: f.Size, Digest: f.SHA256}
		if f.Size > 0 {
			e.Content = filetree.Content{File: keepPath, Offset: at[p]}
		}
		tree.Set(e)
	}
	return tree.Sorted(), c, nil
}

// keeper is where Unpack's bytes go; nil when only sums are wanted.
type keeper struct {
	w    io.Writer
	n    int64
	at   map[string]int64
	fail error
}

func (k *keeper) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	k.n += int64(n)
	if err != nil {
		k.fail = err
	}
	return n, err
}

func read(r io.Reader, limits Limits, keep *keeper) (*Contents, error) {
	if limits == (Limits{}) {
		limits = DefaultLimits
	}
	tr, err := tarReader(r)
	if err != nil {
		return nil, err
	}
	c := &Contents{Files: make(map[string]FileSum)}
	folders := make(map[string]bool)
	ignores := make(map[string]bool) // folders where .npmignore was seen
	left := limits.Bytes
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("tarball is damaged: %w", err)
		}
		if n >= limits.Files {
			return nil, fmt.Errorf("tarball has more than %d entries", limits.Files)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // git archive's comment
		}
		p, err := memberPath(h.Name, limits.Path)
		if err != nil {
			return nil, err
		}
		switch h.Typeflag {
		case tar.TypeSymlink, tar.TypeLink:
			// npm skips links. One that points out has no honest use, so its
			// tarball is not to be trusted with anything else.
			if err := checkLink(h); err != nil {
				return nil, err
			}
			continue
		case tar.TypeDir:
			addFolder(folders, p)
			continue
		case tar.TypeReg, tar.TypeCont:
			if strings.HasSuffix(h.Name, "/") {
				return nil, fmt.Errorf("tarball member %q is a file with a folder's name", h.Name)
			}
		default:
			return nil, fmt.Errorf("tarball member %q is neither file, folder nor link (type %q): npm packages hold nothing else", h.Name, h.Typeflag)
		}
		if h.Size > left {
			return nil, fmt.Errorf("tarball unpacks to more than %d bytes", limits.Bytes)
		}
		left -= h.Size
		if p == "" {
			continue // at the top, beside the package's folder: stripped away
		}
		switch path.Base(p) {
		case ".npmignore":
			ignores[path.Dir(p)] = true
		case ".gitignore":
			if ignores[path.Dir(p)] {
				continue
			}
			p = path.Join(path.Dir(p), ".npmignore")
		}
		f := FileSum{Size: h.Size, Member: h.Name, Mode: 0o644 | h.Mode&0o755}
		var into io.Writer
		if keep != nil {
			keep.at[p] = keep.n
			into = keep
		}
		head, err := sum(tr, into, &f, p == "package.json")
		if err != nil {
			if keep != nil && keep.fail != nil {
				return nil, fmt.Errorf("keeping %s: %w", h.Name, keep.fail)
			}
			return nil, fmt.Errorf("tarball member %q is damaged: %w", h.Name, err)
		}
		if p == "package.json" {
			c.Manifest = head
		}
		addFolder(folders, path.Dir(p))
		c.Files[p] = f // a second member of the name replaces the first, as on disk
	}
	for p := range c.Files {
		if folders[p] {
			return nil, fmt.Errorf("tarball has %q both as a file and as a folder", p)
		}
	}
	if c.Manifest == nil {
		return nil, fmt.Errorf("tarball has no package.json in its first folder: it is not an npm package")
	}
	m, err := readManifest(c.Manifest)
	if err != nil {
		return nil, err
	}
	for _, p := range m.commands(c) {
		if f, ok := c.Files[p]; ok {
			f.Mode = 0o755
			c.Files[p] = f
		}
	}
	c.Folders = slices.Sorted(maps.Keys(folders))
	return c, nil
}

// tarReader undoes gzip when there is any.
func tarReader(r io.Reader) (*tar.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	if magic, _ := b.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return tar.NewReader(b), nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("tarball is damaged: %w", err)
	}
	return tar.NewReader(z), nil
}

// memberPath drops a member's first component, whatever it is called. "" means
// that nothing is left.
func memberPath(name string, limit int) (string, error) {
	switch {
	case len(name) > limit:
		return "", fmt.Errorf("tarball has a path of %d bytes: more than the %d that are unpacked", len(name), limit)
	case strings.HasPrefix(name, "/"):
		return "", fmt.Errorf("tarball member %q is absolute", name)
	case strings.ContainsAny(name, "\\"):
		// On Windows a separator; nobody should depend on what it is here.
		return "", fmt.Errorf("tarball member %q holds a backslash", name)
	}
	if _, err := filetree.Clean(name); err != nil {
		return "", fmt.Errorf("tarball: %w", err)
	}
	// npm counts components as they stand, so "./package/x" loses the dot.
	_, rest, _ := strings.Cut(name, "/")
	return filetree.Clean(rest)
}

func checkLink(h *tar.Header) error {
	target := h.Linkname
	if h.Typeflag == tar.TypeSymlink {
		target = path.Join(path.Dir(h.Name), h.Linkname)
	}
	if strings.HasPrefix(h.Linkname, "/") || path.Clean(target) == ".." || strings.HasPrefix(path.Clean(target), "../") {
		return fmt.Errorf("tarball member %q is a link out of the package, to %q", h.Name, h.Linkname)
	}
	return nil
}

// addFolder adds a folder and those around it; the package's own is not in.
func addFolder(all map[string]bool, p string) {
	for p != "." && p != "" && !all[p] {
		all[p] = true
		p = path.Dir(p)
	}
}

// scriptHead is how far npm looks for the end of a first line (bin-links,
// fix-bin.js).
const scriptHead = 2048

// windowsLine is a first line that npm repairs.
var windowsLine = regexp.MustCompile(`^#![^\n]+\r\n`)

// sum reads one file: its hash, the hash of what npm makes of it as a command,
// and (whole) its bytes.
func sum(r io.Reader, into io.Writer, f *FileSum, whole bool) ([]byte, error) {
	all := sha256.New()
	var w io.Writer = all
	if into != nil {
		w = io.MultiWriter(all, into)
	}
	if whole {
		if f.Size > maxManifest {
			return nil, fmt.Errorf("package.json is %d bytes: more than the %d that are read", f.Size, maxManifest)
		}
		b, err := io.ReadAll(io.TeeReader(r, w))
		f.SHA256 = hexSum(all.Sum(nil))
		return b, err
	}
	head := make([]byte, min(f.Size, scriptHead))
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	if line := windowsLine.Find(head); line != nil {
		unix := sha256.New()
		unix.Write(line[:len(line)-2])
		unix.Write([]byte("\n"))
		unix.Write(head[len(line):])
		if _, err := io.Copy(io.MultiWriter(w, unix), r); err != nil {
			return nil, err
		}
		f.Unix, f.UnixSize = hexSum(unix.Sum(nil)), f.Size-1
	} else if _, err := io.Copy(w, r); err != nil {
		return nil, err
	}
	f.SHA256 = hexSum(all.Sum(nil))
	return nil, nil
}

func hexSum(b []byte) oci.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(b))
}

// manifest is what is read of a package.json.
type manifest struct {
	Name    string
	Version string
	Bin     map[string]string // command → path below the package
	binDir  string            // directories.bin: every file in it is a command
	raw     object
}

// readManifest reads the package.json of a tarball. It is the publisher's, not
// the user's: odd values of keys that do not matter here are left alone, since
// npm installs such packages.
func readManifest(data []byte) (*manifest, error) {
	o, err := parseJSON("package.json", data)
	if err != nil {
		// A publisher's duplicate key is no one's fault here; npm takes the
		// last. Only what is not JSON at all is refused.
		var loose map[string]any
		if json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &loose) != nil {
			return nil, fmt.Errorf("tarball: %w", err)
		}
		o = loosen(loose)
	}
	m := &manifest{raw: o, Bin: make(map[string]string)}
	m.Name, _ = o.str("name")
	m.Version, _ = o.str("version")
	add := func(name string, target any) {
		t, ok := target.(string)
		if ok && t != "" && path.Base(name) != "." {
			m.Bin[path.Base(name)] = strings.TrimPrefix(path.Join("/", t), "/")
		}
	}
	switch bin := o["bin"].(type) {
	case string:
		add(m.Name, bin)
	case object:
		for k, v := range bin {
			add(k, v)
		}
	case []any:
		for _, v := range bin {
			if s, ok := v.(string); ok {
				add(s, s)
			}
		}
	case nil:
		if dirs, _ := o.object("directories"); dirs != nil {
			d, _ := dirs.str("bin")
			m.binDir = strings.TrimPrefix(path.Join("/", d), "/")
		}
	}
	return m, nil
}

// loosen turns encoding/json's maps into objects.
func loosen(m map[string]any) object {
	o := make(object, len(m))
	for k, v := range m {
		o[k] = loosenValue(v)
	}
	return o
}

func loosenValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return loosen(v)
	case []any:
		for i := range v {
			v[i] = loosenValue(v[i])
		}
	}
	return v
}

// commands lists the files that npm links as commands, sorted.
func (m *manifest) commands(c *Contents) []string {
	all := slices.Collect(maps.Values(m.Bin))
	if m.binDir != "" {
		for p := range c.Files {
			if strings.HasPrefix(p, m.binDir+"/") {
				all = append(all, p)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// links maps command names to files, as in node_modules/.bin.
func (m *manifest) links(c *Contents) map[string]string {
	if m.binDir == "" {
		return m.Bin
	}
	all := make(map[string]string)
	for _, p := range m.commands(c) {
		all[path.Base(p)] = p
	}
	return all
}
