package durable

import (
	"crypto/rand"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// system is what a durable write asks of the operating system, one method for
// each step, so that tests can fail or kill at every one of them.
type system interface {
	create(path string, perm os.FileMode) (handle, error)
	rename(from, to string) error    // replaces
	renameNew(from, to string) error // fs.ErrExist when to exists
	remove(path string) error
	syncDir(dir string) error
	syncFS(dir string) error
}

// handle is an open temporary.
type handle interface {
	io.WriteCloser
	Sync() error
}

// disk is the real file system.
type disk struct{}

func (disk) create(path string, perm os.FileMode) (handle, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	// The lock tells Sweep that the writer lives. File systems without locks
	// are served all the same; there only the age protects the temporary.
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return f, nil
}

func (disk) rename(from, to string) error { return os.Rename(from, to) }

func (disk) renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system without the flag. Plain rename refuses to replace a
		// folder that holds anything, which is the case that matters.
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (disk) remove(path string) error { return os.Remove(path) }

func (disk) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil // a file system that has no such notion
	}
	return err
}

func (disk) syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return nil
}

func tempName() string { return TempPrefix + rand.Text() }
