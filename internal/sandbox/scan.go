package sandbox

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is one path of a tree as root would see it in an image.
type Entry struct {
	Path    string            // relative, slash-separated, clean
	Type    byte              // a tar.Type… constant; a hard link is TypeReg with Links > 1; a socket is 's'
	Mode    int64             // permission bits with set-user-id, set-group-id and sticky (07777)
	UID     int               // recorded owner, 0 when none is
	GID     int               // recorded group, 0 when none is
	Size    int64             // bytes, regular files only
	ModTime int64             // Unix seconds
	Nanos   int64             // the rest of the modification time
	Link    string            // target of a symbolic link
	Links   uint64            // names of the file
	Dev     uint64            // with Inode: which names are the same file
	Inode   uint64            //
	Xattrs  map[string]string // without overlay's marks and our own; security.capability in its version 2

	Whiteout bool // upper folder of an overlay: the path is deleted (Type is TypeChar)
	Opaque   bool // upper folder of an overlay: nothing of the lower folder shows through

	lister lister
}

// Open returns the bytes of a regular file, also of one that its mode forbids
// the owner to read. It is valid until Scan returns.
func (e Entry) Open() (*os.File, error) {
	if e.Type != tar.TypeReg {
		return nil, &os.PathError{Op: "open", Path: e.Path, Err: errors.New("not a regular file")}
	}
	return e.lister.open(e.Path)
}

// Scan walks a tree that was written under FakeOwners, or is the upper folder
// of an overlay, and calls fn for each path but the top, a folder before what
// is in it, names of one folder in byte order. Folders and files without
// permissions for their owner are read too. fn's error ends the walk and is
// returned; fs.SkipDir for a folder passes over what is in it. Nothing in the
// tree is changed or followed.
func Scan(ctx context.Context, dir string, fn func(Entry) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	root := os.NewFile(uintptr(fd), dir)
	defer root.Close()
	l := &bothLister{local: localLister{root}}
	defer l.close()
	var walk func(rel string) error
	walk = func(rel string) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		entries, err := l.list(rel)
		if err != nil {
			return fmt.Errorf("scanning %s: %w", path.Join(dir, rel), err)
		}
		for _, e := range entries {
			e.lister = l
			if err := fn(e); err == fs.SkipDir && e.Type == tar.TypeDir {
				continue
			} else if err != nil {
				return err
			}
			if e.Type == tar.TypeDir {
				if err := walk(e.Path); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return walk("")
}

// lister is how a scan reaches the tree: directly, or through a helper in a
// user namespace where modes do not stop the owner.
type lister interface {
	list(rel string) ([]Entry, error)
	open(rel string) (*os.File, error)
}

type localLister struct{ root *os.File }

func (l localLister) at(rel string, flags uint64) (*os.File, error) {
	if rel == "" {
		rel = "."
	}
	fd, err := unix.Openat2(int(l.root.Fd()), rel, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: rel, Err: err}
	}
	return os.NewFile(uintptr(fd), rel), nil
}

func (l localLister) open(rel string) (*os.File, error) {
	// Not blocking on a pipe that stands where the file was.
	return l.at(rel, unix.O_RDONLY|unix.O_NONBLOCK)
}

func (l localLister) list(rel string) ([]Entry, error) {
	d, err := l.at(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	entries := make([]Entry, 0, len(names))
	for _, name := range names {
		e, err := readEntry(int(d.Fd()), path.Join(rel, name), name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func readEntry(dir int, rel, name string) (Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Entry{}, err
	}
	e := Entry{
		Path: rel, Mode: int64(st.Mode & 0o7777), ModTime: st.Mtim.Sec, Nanos: st.Mtim.Nsec,
		Links: uint64(st.Nlink), Dev: uint64(st.Dev), Inode: st.Ino,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		e.Type = tar.TypeDir
	case unix.S_IFLNK:
		e.Type = tar.TypeSymlink
		b := make([]byte, max(st.Size, 255)+1)
		n, err := unix.Readlinkat(dir, name, b)
		if err != nil {
			return Entry{}, err
		}
		e.Link = string(b[:n])
	case unix.S_IFIFO:
		e.Type = tar.TypeFifo
	case unix.S_IFCHR:
		e.Type, e.Whiteout = tar.TypeChar, st.Rdev == 0
	case unix.S_IFBLK:
		e.Type = tar.TypeBlock
	default:
		e.Type = 's'
	}
	if e.Type == tar.TypeReg || e.Type == tar.TypeDir {
		return e, readXattrs(fdPath(dir)+"/"+name, &e)
	}
	return e, nil
}

func readXattrs(p string, e *Entry) error {
	names := make([]byte, 512)
	n, err := unix.Llistxattr(p, names)
	if err == unix.ERANGE {
		names = make([]byte, 64<<10)
		n, err = unix.Llistxattr(p, names)
	}
	if err == unix.EOPNOTSUPP {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		ours := name == OwnerXattr || name == "user.overlay.opaque" || name == "user.overlay.whiteout"
		switch {
		case name == "", name == "security.selinux", name == "security.ima", name == "security.evm", strings.HasPrefix(name, "system."),
			strings.HasPrefix(name, "trusted."), !ours && (strings.HasPrefix(name, "user.overlay.") || strings.HasPrefix(name, "user.twinhull.")):
			continue // marks of the machine or of the way here, not content
		}
		b := make([]byte, 256)
		n, err := unix.Lgetxattr(p, name, b)
		if err == unix.ERANGE {
			b = make([]byte, 64<<10)
			n, err = unix.Lgetxattr(p, name, b)
		}
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b = b[:n]
		switch name {
		case OwnerXattr:
			if e.UID, e.GID, err = ParseOwner(b); err != nil {
				return err
			}
			continue
		case "user.overlay.opaque":
			e.Opaque = e.Type == tar.TypeDir && string(b) == "y"
			continue
		case "user.overlay.whiteout":
			e.Type, e.Whiteout = tar.TypeChar, true
			continue
		case "security.capability":
			if b, err = capabilityV2(b); err != nil {
				return err
			}
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = string(b)
	}
	return nil
}

// capabilityV2 turns a file capability that is bound to a user namespace
// (version 3, which is what setcap writes inside one) into the unbound form
// that it has in an image.
func capabilityV2(b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, errors.New("security.capability is too short")
	}
	magic := binary.LittleEndian.Uint32(b)
	switch {
	case magic>>24 == 2 && len(b) == 20:
		return b, nil
	case magic>>24 == 3 && len(b) == 24:
		v2 := slices.Clone(b[:20])
		binary.LittleEndian.PutUint32(v2, 2<<24|magic&0xffffff)
		return v2, nil
	}
	return nil, fmt.Errorf("security.capability of version %d and %d bytes is unknown", magic>>24, len(b))
}

// bothLister asks directly first and starts a helper at the first refusal.
type bothLister struct {
	local  localLister
	helper *net.UnixConn
	wait   func()
}

func refusedToOwner(err error) bool {
	return os.Geteuid() != 0 && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM))
}

func (l *bothLister) list(rel string) ([]Entry, error) {
	entries, err := l.local.list(rel)
	if err == nil || !refusedToOwner(err) {
		return entries, err
	}
	f, err := l.ask("list", rel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries = nil
	if err := gob.NewDecoder(f).Decode(&entries); err != nil {
		return nil, err
	}
	return entries, nil
}

func (l *bothLister) open(rel string) (*os.File, error) {
	f, err := l.local.open(rel)
	if err == nil || !refusedToOwner(err) {
		return f, err
	}
	return l.ask("open", rel)
}

type scanRequest struct {
	Kind string
	Path []byte // not a string: JSON would change bytes that are not UTF-8
}

type scanAnswer struct {
	Err   string
	Errno int
}

func (l *bothLister) ask(kind, rel string) (*os.File, error) {
	if l.helper == nil {
		if err := l.start(); err != nil {
			return nil, err
		}
	}
	if err := send(l.helper, scanRequest{kind, []byte(rel)}, -1); err != nil {
		return nil, err
	}
	var a scanAnswer
	f, err := receive(l.helper, &a)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, &remoteError{a.Err, unix.Errno(a.Errno)}
	}
	return f, nil
}

func (l *bothLister) start() error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	cmd := command("scan", 0, 0, 0)
	// Its end of the socket ends it; the death of one of our threads must not.
	cmd.SysProcAttr.Pdeathsig = 0
	cmd.ExtraFiles = []*os.File{theirs, l.local.root}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		ours.Close()
		return &Error{Stage: "reading folders without permissions", Err: err, Remedy: namespaceRemedy(err)}
	}
	l.helper, l.wait = ours, func() { _ = cmd.Wait() }
	return nil
}

func (l *bothLister) close() {
	if l.helper != nil {
		l.helper.Close()
		l.wait()
	}
}

// scanHelper is the helper's main: root in a user namespace of its own, over
// the one folder that it was given.
func scanHelper(c *net.UnixConn) {
	l := localLister{os.NewFile(4, "root")}
	for {
		var req scanRequest
		if f, err := receive(c, &req); err != nil {
			os.Exit(0)
		} else if f != nil {
			f.Close()
		}
		var f *os.File
		var err error
		switch req.Kind {
		case "open":
			f, err = l.open(string(req.Path))
		case "list":
			var entries []Entry
			if entries, err = l.list(string(req.Path)); err == nil {
				f, err = inMemory(entries)
			}
		default:
			err = unix.EINVAL
		}
		a, fd := scanAnswer{}, -1
		if err != nil {
			a = scanAnswer{err.Error(), errnoOf(err)}
		} else {
			fd = int(f.Fd())
		}
		err = send(c, a, fd)
		f.Close()
		if err != nil {
			os.Exit(1)
		}
	}
}

// inMemory writes a value to an unnamed file and rewinds it.
func inMemory(v any) (*os.File, error) {
	fd, err := unix.MemfdCreate("entries", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "entries")
	if err = gob.NewEncoder(f).Encode(v); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
