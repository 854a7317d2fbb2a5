package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/filetree"
)

// UnpackOptions says how to unpack. The zero value is ready.
type UnpackOptions struct {
	Limits Limits
	// KeepSetID keeps set-user-id and set-group-id bits. They are dropped
	// otherwise, because the files belong to whoever unpacks: as root, an
	// image could place a root shell for every user who reaches the folder.
	KeepSetID bool
}

// opaqueMarker hides everything that lower layers have in its folder
// (image-spec layer.md, "Opaque Whiteout").
const opaqueMarker = whiteoutPrefix + whiteoutPrefix + ".opq"

// Unpack applies the layers of an image, bottom first, to the folder dir, which
// is made with mode 0700 when absent and must be empty. The image is not
// trusted: nothing is read or written outside dir whatever paths and links say
// (links inside the image are followed as a process with that root would),
// device nodes and FIFOs are refused, limits hold, and every layer must have
// its digest and DiffID. Files belong to the caller and have the modes and
// times of the image; owners and extended attributes are not applied.
//
// After an error, dir has an unknown part of the image and should be removed.
func Unpack(ctx context.Context, img *Image, dir string, opt UnpackOptions) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fmt.Errorf("unpack: %s is not empty", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := newUnpacker(ctx, root, opt)
	for n, l := range img.Manifest.Layers {
		err := func() error {
			r, err := img.OpenLayer(ctx, n, opt.Limits)
			if err != nil {
				return err
			}
			defer r.Close()
			if err := u.layer(r); err != nil {
				return err
			}
			// To the end, so that digests are compared.
			_, err = io.Copy(io.Discard, r)
			return err
		}()
		if err != nil {
			return fmt.Errorf("unpack layer %d (%s): %w", n, l.Digest, err)
		}
	}
	return u.finish()
}

type unpacker struct {
	ctx     context.Context
	root    *os.Root
	opt     UnpackOptions
	limits  Limits
	bytes   int64
	entries int
	mine    map[string]bool     // resolved paths that the current layer made
	above   map[string]bool     // folders that hold one of them, at any depth
	dirs    map[string]dirState // headers of folders, applied at the end
	buf     []byte
}

type dirState struct {
	mode  fs.FileMode
	mtime time.Time
}

func newUnpacker(ctx context.Context, root *os.Root, opt UnpackOptions) *unpacker {
	return &unpacker{ctx: ctx, root: root, opt: opt, limits: opt.Limits.orDefault(), dirs: make(map[string]dirState), buf: make([]byte, copySize)}
}

// layer applies one uncompressed layer.
func (u *unpacker) layer(r io.Reader) error {
	u.mine, u.above = make(map[string]bool), make(map[string]bool)
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := u.ctx.Err(); err != nil {
			return err
		}
		if u.entries++; u.entries > u.limits.MaxEntries {
			return fmt.Errorf("more than %d paths: %w", u.limits.MaxEntries, ErrLimit)
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil // applies to nothing that is unpacked here
	}
	p, err := filetree.Clean(h.Name)
	if err != nil {
		return err
	}
	if p == "" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root is no directory")
		}
		return nil // dir itself keeps its mode: it protects what is in it
	}
	parent, base := path.Split(p)
	if parent, err = u.resolve(path.Clean(parent)); err != nil {
		return err
	}
	p = path.Join(parent, base)

	if base == opaqueMarker {
		return u.hideLower(parent)
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		if hidden == "" || hidden == "." || hidden == ".." {
			return errors.New("whiteout of nothing")
		}
		return u.remove(path.Join(parent, hidden), true)
	}

	old, err := u.root.Lstat(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	exists := err == nil
	if exists && !(old.IsDir() && h.Typeflag == tar.TypeDir) {
		if err := u.remove(p, false); err != nil {
			return err
		}
	}
	mode := h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSticky)
	if u.opt.KeepSetID {
		mode |= h.FileInfo().Mode() & (fs.ModeSetuid | fs.ModeSetgid)
	}
	mtime := h.ModTime
	switch h.Typeflag {
	case tar.TypeDir:
		if !exists || !old.IsDir() {
			if err := u.root.Mkdir(p, 0o700); err != nil {
				return err
			}
		}
		u.dirs[p] = dirState{mode, mtime}
	case tar.TypeReg, '\x00':
		if u.bytes += h.Size; u.bytes > u.limits.MaxBytes {
			return fmt.Errorf("files of more than %d bytes: %w", u.limits.MaxBytes, ErrLimit)
		}
		// O_EXCL: nothing is there any more, and nothing is followed.
		f, err := u.root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{f}, content, u.buf)
		if err == nil {
			err = f.Chmod(mode)
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		if err := u.root.Chtimes(p, mtime, mtime); err != nil {
			return err
		}
	case tar.TypeSymlink:
		// The target may say anything: it is text. Root never follows it out.
		if err := u.root.Symlink(h.Linkname, p); err != nil {
			return err
		}
	case tar.TypeLink:
		target, err := filetree.Clean(h.Linkname)
		if err != nil {
			return err
		}
		dir, name := path.Split(target)
		if dir, err = u.resolve(path.Clean(dir)); err != nil {
			return err
		}
		target = path.Join(dir, name)
		fi, err := u.root.Lstat(target)
		if err != nil {
			return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
		}
		if fi.IsDir() {
			return fmt.Errorf("hard link to folder %q", h.Linkname)
		}
		if err := u.root.Link(target, p); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return errors.New("device nodes and FIFOs are not unpacked")
	default:
		return fmt.Errorf("type %q is not known", h.Typeflag)
	}
	u.made(p)
	return nil
}

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

// resolve follows symbolic links in the folder p as a process with this root
// would, makes folders that are missing, and returns a path without links.
// os.Root refuses absolute links, which images have; so they are followed here,
// and Root still guards every step.
func (u *unpacker) resolve(p string) (string, error) {
	rest := strings.Split(p, "/")
	cur := "."
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			cur = path.Dir(cur)
			continue
		}
		next := path.Join(cur, part)
		fi, err := u.root.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			if err := u.root.Mkdir(next, 0o755); err != nil {
				return "", err
			}
			u.made(next)
			u.dirs[next] = dirState{0o755, time.Unix(0, 0)}
			cur = next
			continue
		}
		if err != nil {
			return "", err
		}
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", fmt.Errorf("%q: symbolic links in a circle", p)
			}
			target, err := u.root.Readlink(next)
			if err != nil {
				return "", err
			}
			if strings.HasPrefix(target, "/") {
				cur = "."
			}
			rest = append(strings.Split(target, "/"), rest...)
		case fi.IsDir():
			cur = next
		default:
			return "", fmt.Errorf("%q lies below %q, which is no directory", p, next)
		}
	}
	return cur, nil
}

// remove deletes what is at p. A whiteout deletes only what lower layers put
// there; what this layer made stays (image-spec layer.md: whiteouts apply to
// lower layers only).
func (u *unpacker) remove(p string, lowerOnly bool) error {
	if lowerOnly {
		fi, err := u.root.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if u.mine[p] {
			if fi.IsDir() {
				return u.hideLower(p)
			}
			return nil
		}
		if fi.IsDir() && u.above[p] {
			return u.hideLower(p)
		}
	}
	delete(u.mine, p)
	return u.root.RemoveAll(p)
}

// made notes a path that the current layer made, and that it lies in the
// folders above it.
func (u *unpacker) made(p string) {
	u.mine[p] = true
	for p = path.Dir(p); p != "." && !u.above[p]; p = path.Dir(p) {
		u.above[p] = true
	}
}

// hideLower removes from a folder everything that this layer did not make.
func (u *unpacker) hideLower(dir string) error {
	d, err := u.root.Open(dir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := u.remove(path.Join(dir, n), true); err != nil {
			return err
		}
	}
	return nil
}

// finish gives folders their modes and times: after everything was put into
// them, because a folder may be read-only and writing changes its time.
func (u *unpacker) finish() error {
	for p, s := range u.dirs {
		// A folder that was replaced later is not forgotten in dirs at once:
		// looking for what lay below it would take quadratic time.
		if fi, err := u.root.Lstat(p); err != nil || !fi.IsDir() {
			delete(u.dirs, p)
			continue
		}
		if err := u.root.Chtimes(p, s.mtime, s.mtime); err != nil {
			return err
		}
	}
	// Modes last and deepest first: a folder without x hides those below it.
	for _, p := range deepestFirst(u.dirs) {
		if err := u.root.Chmod(p, u.dirs[p].mode); err != nil {
			return err
		}
	}
	return nil
}

func deepestFirst(dirs map[string]dirState) []string {
	out := make([]string, 0, len(dirs))
	for p := range dirs {
		out = append(out, p)
	}
	// A child is longer than its parent.
	sort.Slice(out, func(i, j int) bool { return len(out[i]) > len(out[j]) })
	return out
}
