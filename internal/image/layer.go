package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
)

// whiteoutPrefix begins the names that delete something of a lower layer
// (image-spec layer.md, "Whiteouts"). Images made here never delete, so a file
// with such a name would be a trap: it is refused.
const whiteoutPrefix = ".wh."

// Key names a layer before it is written: the SHA-256, in hexadecimal, of a
// canonical description of every header, every content digest, the assembler's
// version and the codec. Where contents are kept and why they are there
// (Entry.Content, Entry.Origin) do not count. Equal keys mean equal bytes.
//
// The order of entries does not matter. Entries that cannot be in a layer are
// an error: see order.
func Key(entries []*filetree.Entry, codec Codec) (string, error) {
	sorted, err := order(entries)
	if err != nil {
		return "", err
	}
	return key(sorted, codec)
}

func key(sorted []*filetree.Entry, codec Codec) (string, error) {
	if err := codec.valid(); err != nil {
		return "", err
	}
	h := sha256.New()
	b := make([]byte, 0, 64<<10)
	b = append(b, "twinhull layer\nassembler "...)
	b = strconv.AppendInt(b, Assembler, 10)
	b = append(b, "\ncodec "...)
	b = append(b, codec...)
	b = append(b, '\n')
	// Strings are preceded by their length, so that no two descriptions of
	// different layers can be the same text.
	text := func(s string) {
		b = strconv.AppendInt(b, int64(len(s)), 10)
		b = append(b, ':')
		b = append(b, s...)
		b = append(b, ' ')
	}
	number := func(n int64) {
		b = strconv.AppendInt(b, n, 10)
		b = append(b, ' ')
	}
	for _, e := range sorted {
		b = append(b, e.Type, ' ')
		text(e.Path)
		number(e.Mode)
		number(int64(e.UID))
		number(int64(e.GID))
		number(e.ModTime)
		text(e.Link)
		number(e.DevMajor)
		number(e.DevMinor)
		number(int64(len(e.Xattrs)))
		if len(e.Xattrs) > 0 {
			names := make([]string, 0, len(e.Xattrs))
			for n := range e.Xattrs {
				names = append(names, n)
			}
			sort.Strings(names)
			for _, n := range names {
				text(n)
				text(e.Xattrs[n])
			}
		}
		if e.IsReg() {
			d, err := contentDigest(e)
			if err != nil {
				return "", err
			}
			number(e.Size)
			b = append(b, d...)
		}
		b = append(b, '\n')
		if len(b) > 60<<10 {
			h.Write(b)
			b = b[:0]
		}
	}
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// order returns the entries as they stand in a layer: in byte order of their
// paths, except that a hard link whose name comes before its target's follows
// the target. It refuses what no layer may hold: an unclean path, a path twice,
// a child of something that is no directory, a whiteout name, a hard link whose
// target is not a regular file of the same layer, an unknown type.
func order(entries []*filetree.Entry) ([]*filetree.Entry, error) {
	sorted := make([]*filetree.Entry, len(entries))
	copy(sorted, entries)
	slices.SortFunc(sorted, func(a, b *filetree.Entry) int { return strings.Compare(a.Path, b.Path) })
	byPath := make(map[string]*filetree.Entry, len(sorted))
	for _, e := range sorted {
		if byPath[e.Path] != nil {
			return nil, pathError(e.Path, "is there twice")
		}
		byPath[e.Path] = e
	}
	var early map[string][]*filetree.Entry // target → links with smaller names
	for _, e := range sorted {
		if err := checkEntry(e); err != nil {
			return nil, err
		}
		if i := strings.LastIndexByte(e.Path, '/'); i > 0 {
			if up := byPath[e.Path[:i]]; up != nil && !up.IsDir() {
				return nil, pathError(e.Path, "lies below %q, which is no directory", up.Path)
			}
		}
		if e.Type == tar.TypeLink {
			target := byPath[e.Link]
			if target == nil || !target.IsReg() {
				return nil, pathError(e.Path, "is a hard link to %q, which is no regular file of the same layer", e.Link)
			}
			if e.Path < e.Link {
				if early == nil {
					early = make(map[string][]*filetree.Entry)
				}
				early[e.Link] = append(early[e.Link], e)
			}
		}
	}
	if early == nil {
		return sorted, nil
	}
	out := make([]*filetree.Entry, 0, len(sorted))
	for _, e := range sorted {
		if e.Type == tar.TypeLink && e.Path < e.Link {
			continue
		}
		out = append(out, e)
		out = append(out, early[e.Path]...)
	}
	return out, nil
}

func checkEntry(e *filetree.Entry) error {
	// What filetree.Clean would make of the path, without making it: this runs
	// for every entry of every build, changed or not.
	if strings.IndexByte(e.Path, 0) >= 0 {
		return pathError(e.Path, "holds a NUL byte")
	}
	for rest, more := e.Path, true; more; {
		var part string
		part, rest, more = strings.Cut(rest, "/")
		if part == "" || part == "." || part == ".." {
			return pathError(e.Path, "want a clean relative path")
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return pathError(e.Path, "names that begin with %q delete files when an image is unpacked", whiteoutPrefix)
		}
	}
	if e.Mode&^0o7777 != 0 || e.Mode < 0 {
		return pathError(e.Path, "mode %o has bits beyond 7777", e.Mode)
	}
	if e.UID < 0 || e.GID < 0 {
		return pathError(e.Path, "owner %d:%d is negative", e.UID, e.GID)
	}
	if strings.ContainsRune(e.Link, 0) {
		return pathError(e.Path, "link target holds a NUL byte")
	}
	for k := range e.Xattrs {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			return pathError(e.Path, "extended attribute name %q", k)
		}
	}
	switch e.Type {
	case tar.TypeReg:
		if e.Size < 0 {
			return pathError(e.Path, "size %d", e.Size)
		}
	case tar.TypeSymlink, tar.TypeLink:
		if e.Link == "" {
			return pathError(e.Path, "is a link to nothing")
		}
	case tar.TypeDir, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if e.Link != "" {
			return pathError(e.Path, "has a link target but is no link")
		}
	default:
		return pathError(e.Path, "type %q is not known", e.Type)
	}
	if !e.IsReg() && e.Size != 0 {
		return pathError(e.Path, "has a size but is no regular file")
	}
	return nil
}

// WithParents returns the entries with every folder above them. A folder comes
// from entries, else from tree (which may be nil), else it is made up: mode
// 0755, owner 0:0, modified at the epoch. A layer should name its folders, or
// whoever unpacks it makes up modes and times.
func WithParents(entries []*filetree.Entry, tree *filetree.Tree) ([]*filetree.Entry, error) {
	have := make(map[string]bool, len(entries))
	for _, e := range entries {
		have[e.Path] = true
	}
	out := append([]*filetree.Entry(nil), entries...)
	for _, e := range entries {
		for p := path.Dir(e.Path); p != "." && p != "/" && !have[p]; p = path.Dir(p) {
			have[p] = true
			var dir *filetree.Entry
			if tree != nil {
				dir = tree.Get(p)
			}
			if dir == nil {
				dir = &filetree.Entry{Path: p, Type: tar.TypeDir, Mode: 0o755,
					Origin: filetree.Origin{Kind: filetree.FromGenerated, Name: "folder", Note: "above " + e.Path}}
			}
			if !dir.IsDir() {
				return nil, pathError(e.Path, "lies below %q, which is no directory", p)
			}
			out = append(out, dir)
		}
	}
	return out, nil
}
