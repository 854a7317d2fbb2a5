package debfile

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"sort"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/source/xz"
)

// Bounds on what a package may hold. They are far above anything in Debian's
// archive and far below what would hurt the machine.
const (
	maxData    = 8 << 30   // bytes of the uncompressed data archive
	maxControl = 64 << 20  // bytes of the uncompressed control archive
	maxRatio   = 1000      // uncompressed bytes per compressed byte …
	ratioFloor = 64 << 20  // … looked at only above this many uncompressed bytes
	maxEntries = 1_000_000 // paths
	maxMembers = 1000      // control files
	maxPath    = 4096      // bytes of a path or of a link's target (PATH_MAX)
	maxPart    = 255       // bytes of one part of a path (NAME_MAX)
)

// contents is what unpack finds in a package: a Package before it knows where
// its data lies.
type contents struct {
	control   []byte
	members   []Member
	conffiles []Conffile
	md5sums   []byte
	entries   []filetree.Entry // Content.Offset is set, Content.File is not
	size      int64            // bytes of the data archive
}

// unpack reads a .deb and writes its data archive, uncompressed, to data.
func unpack(r io.Reader, data io.Writer) (*contents, error) {
	ar, err := newArReader(bufio.NewReaderSize(r, 256<<10))
	if err != nil {
		return nil, err
	}
	c := new(contents)
	var stanza Stanza
	// deb(5) fixes the order. Members whose name begins with an underscore are
	// for others and skipped; anything else out of turn is an error.
	for want := 0; ; {
		name, size, err := ar.next()
		if err == io.EOF {
			if want < 3 {
				return nil, fmt.Errorf("the package has no member %s", [...]string{"debian-binary", "control.tar", "data.tar"}[want])
			}
			return c, nil
		}
		if err != nil {
			return nil, err
		}
		switch {
		case strings.HasPrefix(name, "_"):
			continue
		case want == 0 && name == "debian-binary":
			if err := checkFormat(ar, size); err != nil {
				return nil, err
			}
		case want == 1 && strings.HasPrefix(name, "control.tar"):
			if stanza, err = c.readControl(ar, name, size); err != nil {
				return nil, fmt.Errorf("member %s: %w", name, err)
			}
		case want == 2 && strings.HasPrefix(name, "data.tar"):
			if err := c.readData(ar, name, size, data); err != nil {
				return nil, fmt.Errorf("%s: member %s: %w", stanza.Get("Package"), name, err)
			}
		default:
			return nil, fmt.Errorf("unexpected member %q: want debian-binary, control.tar and data.tar, each once and in this order", name)
		}
		want++
	}
}

func checkFormat(r io.Reader, size int64) error {
	if size > 1024 {
		return fmt.Errorf("member debian-binary is %d bytes long", size)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	line, _, ok := strings.Cut(string(b), "\n")
	if !ok || !strings.HasPrefix(line, "2.") || len(line) < 3 || !only(line[2:], "0123456789") {
		return fmt.Errorf("package format %.20q: want 2.x", line)
	}
	return nil
}

// decompress returns the plain bytes of a member named stem plus a compressor's
// suffix.
func decompress(r io.Reader, name, stem string) (io.Reader, func(), error) {
	none := func() {}
	switch suffix := strings.TrimPrefix(name, stem); suffix {
	case "":
		return r, none, nil
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, compressed(err)
		}
		return z, none, nil
	case ".xz":
		z, err := xz.NewReader(r)
		if err != nil {
			return nil, nil, compressed(err)
		}
		return z, none, nil
	case ".zst":
		// One goroutine: OpenAll already keeps every processor busy. The window
		// bound is zstd's own for streams without --long.
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, compressed(err)
		}
		return z, z.Close, nil
	case ".bz2":
		return bzip2.NewReader(r), none, nil
	default:
		return nil, nil, fmt.Errorf("unknown compression %q: want none, .gz, .xz, .zst or .bz2", suffix)
	}
}

func compressed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the compressed data is truncated: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("the compressed data is damaged: %w", err)
}

// stream is the uncompressed side of a member: it counts, enforces the bounds
// and copies what passes to out. It must not implement io.Seeker, or the tar
// reader would skip over bytes that out needs.
type stream struct {
	r     io.Reader
	out   io.Writer // may be nil
	n     int64     // bytes passed
	max   int64
	small int64 // compressed length of the member
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.n += int64(n)
	if s.n > s.max {
		return 0, fmt.Errorf("it grows beyond %d bytes: refused as a decompression bomb", s.max)
	}
	if s.n > ratioFloor && s.n/maxRatio > s.small {
		return 0, fmt.Errorf("%d compressed bytes grow beyond %d: refused as a decompression bomb", s.small, s.n)
	}
	if s.out != nil && n > 0 {
		if _, err := s.out.Write(b[:n]); err != nil {
			return 0, fmt.Errorf("package cache: %w", err)
		}
	}
	if err != nil && err != io.EOF {
		err = compressed(err)
	}
	return n, err
}

// archive reads a tar member by member: the parts that both members share.
type archive struct {
	s   *stream
	tr  *tar.Reader
	end int64 // where the last member, with its padding, ends
}

// next returns the next member's header and checks what no dpkg archive has.
// After the last it reads the stream to its end, so that the compressor's own
// check is made, and returns io.EOF.
func (a *archive) next() (*tar.Header, error) {
	h, err := a.tr.Next()
	if err == io.EOF {
		// archive/tar takes an archive without its end mark for complete, so a
		// cut at a member's border would pass for a shorter package.
		if a.s.n-a.end < 1024 {
			return nil, fmt.Errorf("the tar archive is truncated: its end mark is missing: %w", io.ErrUnexpectedEOF)
		}
		return nil, a.drain()
	}
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("the tar archive is truncated: %w", err)
		}
		return nil, fmt.Errorf("the tar archive is damaged: %w", err)
	}
	// dpkg refuses pax headers, and archive/tar would expand sparse files, whose
	// bytes are then not in the archive as they are in the file.
	if h.Typeflag == tar.TypeXGlobalHeader || len(h.PAXRecords) > 0 || h.Typeflag == tar.TypeGNUSparse {
		return nil, fmt.Errorf("%.200q has a pax or sparse header, which dpkg does not know", h.Name)
	}
	if h.Size < 0 || h.Size > maxData {
		return nil, fmt.Errorf("%.200q is %d bytes long", h.Name, h.Size)
	}
	a.end = a.s.n
	if h.Typeflag == tar.TypeReg {
		a.end += (h.Size + 511) &^ 511
	}
	return h, nil
}

// drain reads what follows the end mark: zeros up to the archive's block size.
func (a *archive) drain() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := a.s.Read(buf)
		for _, c := range buf[:n] {
			if c != 0 {
				return errors.New("the tar archive has bytes after its end mark")
			}
		}
		if err != nil {
			return err
		}
	}
}

func (c *contents) readControl(r io.Reader, name string, size int64) (Stanza, error) {
	plain, closer, err := decompress(r, name, "control.tar")
	if err != nil {
		return nil, err
	}
	defer closer()
	s := &stream{r: plain, max: maxControl, small: size}
	a := &archive{s: s, tr: tar.NewReader(s)}
	seen := make(map[string]bool)
	for {
		h, err := a.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		p, err := filetree.Clean(h.Name)
		if err != nil {
			return nil, err
		}
		if p == "" && h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg || p == "" || strings.Contains(p, "/") || len(p) > maxPart {
			return nil, fmt.Errorf("%.200q is not a plain file at the archive's top", h.Name)
		}
		// It becomes a line's end and a file name in /var/lib/dpkg/info.
		if strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return nil, fmt.Errorf("%.200q is no name for a control file", h.Name)
		}
		if seen[p] {
			return nil, fmt.Errorf("%s is there twice", p)
		}
		seen[p] = true
		if len(seen) > maxMembers {
			return nil, fmt.Errorf("it holds more than %d files", maxMembers)
		}
		b, err := io.ReadAll(a.tr)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		if p == "control" {
			c.control = b
			continue
		}
		c.members = append(c.members, Member{Name: p, Mode: h.Mode & 0o7777, Data: b})
	}
	if !seen["control"] {
		return nil, errors.New("it has no file named control")
	}
	stanza, err := ParseControl(c.control)
	if err != nil {
		return nil, err
	}
	if _, _, _, err := identity(stanza); err != nil {
		return nil, err
	}
	for _, m := range c.members {
		switch m.Name {
		case "conffiles":
			if c.conffiles, err = parseConffiles(m.Data); err != nil {
				return nil, err
			}
		case "triggers":
			if _, err := parseTriggers(m.Data); err != nil {
				return nil, err
			}
		case "md5sums":
			c.md5sums = m.Data
		}
	}
	return stanza, nil
}

func (c *contents) readData(r io.Reader, name string, size int64, data io.Writer) error {
	plain, closer, err := decompress(r, name, "data.tar")
	if err != nil {
		return err
	}
	defer closer()
	out := bufio.NewWriterSize(data, 512<<10)
	s := &stream{r: plain, out: out, max: maxData, small: size}
	a := &archive{s: s, tr: tar.NewReader(s)}

	conffile := make(map[string]int, len(c.conffiles))
	for i, f := range c.conffiles {
		conffile[f.Path] = i
	}
	makeSums := true
	for _, m := range c.members {
		if m.Name == "md5sums" {
			makeSums = false
		}
	}
	var sums bytes.Buffer
	sha, md := sha256.New(), md5.New()
	buf := make([]byte, 128<<10)
	at := make(map[string]int) // path: index into c.entries
	for {
		h, err := a.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		e, err := entry(h)
		if err != nil {
			return err
		}
		if e.Path == "" {
			continue
		}
		if e.Type == tar.TypeReg {
			e.Content.Offset, e.Size = s.n, h.Size
			sha.Reset()
			var w io.Writer = sha
			i, isConf := conffile[e.Path]
			if isConf || makeSums {
				md.Reset()
				w = io.MultiWriter(sha, md)
			}
			if err := copyExactly(w, a.tr, h.Size, buf); err != nil {
				return fmt.Errorf("%s: %w", e.Path, err)
			}
			e.Digest = oci.Digest("sha256:" + hex.EncodeToString(sha.Sum(nil)))
			switch {
			case isConf:
				c.conffiles[i].MD5 = sum(md)
			case makeSums:
				fmt.Fprintf(&sums, "%s  %s\n", sum(md), e.Path)
			}
		}
		if e.Type == tar.TypeLink {
			first, ok := at[e.Link]
			if !ok {
				return fmt.Errorf("%s is a hard link to %s, which does not come before it in the archive", e.Path, e.Link)
			}
			switch t := &c.entries[first]; t.Type {
			case tar.TypeReg:
			case tar.TypeLink, tar.TypeSymlink:
				// A link to a link is a link to what that names, or one more
				// symbolic link with the same text.
				e.Type, e.Link = t.Type, t.Link
			default:
				return fmt.Errorf("%s is a hard link to %s, which is no file", e.Path, e.Link)
			}
		}
		if i, ok := at[e.Path]; ok {
			// dpkg lets the last one win; only folders come twice in archives
			// that were made in good faith.
			if e.Type != tar.TypeDir || c.entries[i].Type != tar.TypeDir {
				return fmt.Errorf("%s is in the archive twice", e.Path)
			}
			c.entries[i] = e
			continue
		}
		if len(c.entries) >= maxEntries {
			return fmt.Errorf("it holds more than %d paths", maxEntries)
		}
		at[e.Path] = len(c.entries)
		c.entries = append(c.entries, e)
	}
	// A path below something that is not a folder could only be reached by
	// following a link, which is how an archive writes outside its tree.
	for i := range c.entries {
		for p := path.Dir(c.entries[i].Path); p != "."; p = path.Dir(p) {
			if j, ok := at[p]; ok {
				if c.entries[j].Type != tar.TypeDir {
					return fmt.Errorf("%s lies below %s, which is not a folder", c.entries[i].Path, p)
				}
				break // its own parents are looked at in their turn
			}
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("package cache: %w", err)
	}
	if makeSums {
		c.md5sums = sortLines(sums.Bytes())
	}
	c.size = s.n
	return nil
}

// entry turns a header into an Entry without content. The archive's root has
// the empty path.
func entry(h *tar.Header) (filetree.Entry, error) {
	e := filetree.Entry{
		Type:    h.Typeflag,
		Mode:    h.Mode & 0o7777,
		UID:     resolveID(staticUsers, h.Uname, h.Uid),
		GID:     resolveID(staticGroups, h.Gname, h.Gid),
		ModTime: h.ModTime.Unix(),
	}
	var err error
	if e.Path, err = cleanPath(h.Name); err != nil {
		return e, err
	}
	if e.UID < 0 || e.GID < 0 || int64(e.UID) > 1<<32-2 || int64(e.GID) > 1<<32-2 {
		return e, fmt.Errorf("%s belongs to user %d and group %d, which are no ids", e.Path, e.UID, e.GID)
	}
	if e.Path == "" && e.Type != tar.TypeDir {
		return e, fmt.Errorf("%.200q names the root of the tree and is not a folder", h.Name)
	}
	switch e.Type {
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeSymlink:
		// Kept as text: where it points is for those to judge who resolve it.
		if h.Linkname == "" || len(h.Linkname) >= maxPath || strings.ContainsAny(h.Linkname, "\x00\n") {
			return e, fmt.Errorf("%s is a symbolic link to %.200q, which is no path", e.Path, h.Linkname)
		}
		e.Link, e.Mode = h.Linkname, 0o777
	case tar.TypeLink:
		if e.Link, err = cleanPath(h.Linkname); err != nil {
			return e, fmt.Errorf("%s is a hard link: %w", e.Path, err)
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return e, fmt.Errorf("%s is a device node or a pipe, which no package may bring", e.Path)
	default:
		return e, fmt.Errorf("%s has the unknown tar type %q", e.Path, e.Type)
	}
	return e, nil
}

func cleanPath(name string) (string, error) {
	p, err := filetree.Clean(name)
	if err != nil {
		return "", err
	}
	if len(p) >= maxPath {
		return "", fmt.Errorf("path %.80q… is %d bytes long", p, len(p))
	}
	// dpkg's file lists are lines: a newline in a name would forge an entry.
	if strings.Contains(p, "\n") {
		return "", fmt.Errorf("path %.200q holds a newline", p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > maxPart {
			return "", fmt.Errorf("path %.80q… has a part of %d bytes", p, len(part))
		}
	}
	return p, nil
}

// copyExactly copies n bytes through buf.
func copyExactly(w io.Writer, r io.Reader, n int64, buf []byte) error {
	for n > 0 {
		b := buf[:min(int64(len(buf)), n)]
		if _, err := io.ReadFull(r, b); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("the tar archive is truncated: %w", io.ErrUnexpectedEOF)
			}
			return err
		}
		w.Write(b) // a hash: never fails
		n -= int64(len(b))
	}
	return nil
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// sortLines orders "md5  path" lines by path.
func sortLines(b []byte) []byte {
	lines := strings.SplitAfter(string(b), "\n")
	lines = lines[:len(lines)-1]
	sort.Slice(lines, func(i, j int) bool { return lines[i][34:] < lines[j][34:] })
	return []byte(strings.Join(lines, ""))
}
