package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/sandbox"
)

// materialise writes entries below dir, a new folder, as the calling user.
// Owners other than root are recorded in an extended attribute, as the sandbox
// records a chown, so the tree is the same whoever makes it. Entries must be
// in byte order with their parents among them.
func materialise(ctx context.Context, dir string, entries []*filetree.Entry) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	top, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer top.Close()
	var dirs, files, links []*filetree.Entry
	for _, e := range entries {
		switch e.Type {
		case tar.TypeDir:
			if err := root.Mkdir(e.Path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			dirs = append(dirs, e)
		case tar.TypeReg:
			files = append(files, e)
		case tar.TypeSymlink, tar.TypeLink:
			links = append(links, e)
		default:
			return fmt.Errorf("/%s (%s): a device, pipe or socket cannot be part of a tree", e.Path, originName(e))
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	next := make(chan *filetree.Entry, 64)
	g.Go(func() error {
		defer close(next)
		// By place, so that each cached archive is read from front to back.
		sort.SliceStable(files, func(i, j int) bool {
			a, b := files[i].Content, files[j].Content
			if a.File != b.File {
				return a.File < b.File
			}
			return a.Offset < b.Offset
		})
		for _, e := range files {
			select {
			case next <- e:
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return nil
	})
	open := &openFiles{files: map[string]*os.File{}}
	defer open.close()
	for range max(2, runtime.NumCPU()) {
		g.Go(func() error {
			for e := range next {
				if err := writeFile(root, top, e, open); err != nil {
					return fmt.Errorf("writing /%s: %w", e.Path, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, e := range links {
		var err error
		if e.Type == tar.TypeSymlink {
			err = root.Symlink(e.Link, e.Path)
			if err == nil {
				ts := []unix.Timespec{unix.NsecToTimespec(e.ModTime * 1e9), unix.NsecToTimespec(e.ModTime * 1e9)}
				err = unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, e.Path), ts, unix.AT_SYMLINK_NOFOLLOW)
			}
		} else {
			err = root.Link(e.Link, e.Path)
		}
		if err != nil {
			return fmt.Errorf("writing /%s: %w", e.Path, err)
		}
	}
	// Deepest first, so that a folder's time and mode are set after its
	// content.
	for i := len(dirs) - 1; i >= 0; i-- {
		e := dirs[i]
		full := filepath.Join(dir, e.Path)
		if err := recordOwner(full, e); err != nil {
			return err
		}
		if err := unix.Chmod(full, uint32(e.Mode)); err != nil {
			return fmt.Errorf("mode of /%s: %w", e.Path, err)
		}
		ts := []unix.Timespec{unix.NsecToTimespec(e.ModTime * 1e9), unix.NsecToTimespec(e.ModTime * 1e9)}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, full, ts, 0); err != nil {
			return fmt.Errorf("time of /%s: %w", e.Path, err)
		}
	}
	return nil
}

// createFile makes a new file. os.Root opens the folders above it one by one;
// the kernel can do the same at once, and a tree has tens of thousands of files.
func createFile(root *os.Root, top *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(top.Fd()), name, &unix.OpenHow{
		Flags: unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC | unix.O_NOFOLLOW, Mode: 0o600,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	switch err {
	case nil:
		return os.NewFile(uintptr(fd), name), nil
	case unix.ENOSYS, unix.EPERM, unix.EINTR, unix.EAGAIN: // an old kernel, a filter, a signal, a rename meanwhile
		return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	return nil, &os.PathError{Op: "open", Path: name, Err: err}
}

func writeFile(root *os.Root, top *os.File, e *filetree.Entry, open *openFiles) error {
	f, err := createFile(root, top, e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if e.Content.File == "" {
		if _, err := f.Write(e.Content.Data); err != nil {
			return err
		}
	} else if e.Size > 0 {
		src, err := open.get(e.Content.File)
		if err != nil {
			return err
		}
		if err := copyRange(f, src, e.Content.Offset, e.Size); err != nil {
			return err
		}
	}
	fd := int(f.Fd())
	if e.UID != 0 || e.GID != 0 {
		if err := unix.Fsetxattr(fd, sandbox.OwnerXattr, ownerValue(e), 0); err != nil {
			return ownerError(err)
		}
	}
	if err := unix.Fchmod(fd, uint32(e.Mode)); err != nil { // whatever the umask is
		return err
	}
	return setTimes(fd, e.ModTime)
}

// setTimes is futimens(3): utimensat with a null path, which package unix has
// no words for. Its Futimes goes through /proc, at several times the cost.
func setTimes(fd int, seconds int64) error {
	ts := [2]unix.Timespec{unix.NsecToTimespec(seconds * 1e9), unix.NsecToTimespec(seconds * 1e9)}
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// copyRange lets the kernel move the bytes where it can.
func copyRange(dst, src *os.File, off, n int64) error {
	for n > 0 {
		m, err := unix.CopyFileRange(int(src.Fd()), &off, int(dst.Fd()), nil, int(min(n, 1<<30)), 0)
		if err != nil || m == 0 {
			break // another file system, or a kernel that will not: copy by hand
		}
		n -= int64(m)
	}
	if n == 0 {
		return nil
	}
	if m, err := io.Copy(dst, io.NewSectionReader(src, off, n)); err != nil || m != n {
		return fmt.Errorf("copied %d of %d bytes: %w", m, n, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return nil
}

func recordOwner(full string, e *filetree.Entry) error {
	if e.UID == 0 && e.GID == 0 {
		return nil
	}
	if err := unix.Lsetxattr(full, sandbox.OwnerXattr, ownerValue(e), 0); err != nil {
		return fmt.Errorf("/%s: %w", e.Path, ownerError(err))
	}
	return nil
}

func ownerValue(e *filetree.Entry) []byte {
	return []byte(strconv.Itoa(e.UID) + ":" + strconv.Itoa(e.GID))
}

func ownerError(err error) error {
	return fmt.Errorf("recording the owner in an extended attribute: %w (put the cache on ext4, xfs, btrfs or tmpfs of Linux 6.6 or later, with --cache-dir)", err)
}

// openFiles keeps the cached archives open while a tree is written.
type openFiles struct {
	mu    sync.Mutex
	files map[string]*os.File
}

func (o *openFiles) get(name string) (*os.File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.files[name]; f != nil {
		return f, nil
	}
	f, err := os.Open(name)
	if err == nil {
		o.files[name] = f
	}
	return f, err
}

func (o *openFiles) close() {
	for _, f := range o.files {
		f.Close()
	}
}
