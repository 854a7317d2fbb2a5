package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// RemoveAll removes a tree that may hold folders without write permission,
// which os.RemoveAll leaves behind for an ordinary user. Symbolic links are
// removed, not followed. A missing tree is no error.
func RemoveAll(dir string) error {
	dir = filepath.Clean(dir)
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if dir == "/" || dir == "." {
		return err
	}
	parent, err := unix.Open(filepath.Dir(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(dir), Err: err}
	}
	defer unix.Close(parent)
	if err := openFolders(parent, filepath.Base(dir)); err != nil {
		return &os.PathError{Op: "chmod", Path: dir, Err: err}
	}
	return os.RemoveAll(dir)
}

// openFolders gives the owner every right to the folder and those below it.
func openFolders(parent int, name string) error {
	// O_PATH needs no permission on the folder itself; the mode is changed
	// through the descriptor, so a link swapped in meanwhile is not followed.
	p, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		if err == unix.ENOTDIR || err == unix.ELOOP || err == unix.ENOENT {
			return nil
		}
		return err
	}
	defer unix.Close(p)
	if err := unix.Chmod(fdPath(p), 0o700); err != nil {
		return err
	}
	fd, err := unix.Openat(p, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	for {
		entries, err := f.ReadDir(1024)
		for _, e := range entries {
			if e.IsDir() {
				if err := openFolders(fd, e.Name()); err != nil {
					return err
				}
			}
		}
		if len(entries) == 0 {
			if errors.Is(err, os.ErrClosed) {
				return err
			}
			return nil
		}
	}
}
