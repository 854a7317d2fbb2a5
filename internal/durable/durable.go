// Package durable writes files that are complete or absent after a crash.
//
// A write goes to a temporary file in the target's folder, is synchronised,
// renamed into place, and the folder is synchronised; so a reader sees the old
// file or the new one, and an acknowledged write survives a power cut. It also
// holds the advisory folder lock that keeps two processes from doing the same
// work at once. It is not a store: names and meaning belong to the caller.
//
// The steps of a write, and what a crash just after each of them leaves:
//
//  1. create the temporary: an empty file that Sweep recognises;
//  2. write: the same file, longer;
//  3. fsync the temporary: a complete file under a temporary name;
//  4. rename: the new file under its name for every process; after a power cut
//     the old one or the new one, both complete, because step 3 came before;
//  5. fsync the folder: the new file, also after a power cut.
//
// Success is reported after step 5 only. Nothing before step 4 is visible under
// the target's name, and no step leaves a partial file there.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// TempPrefix begins the name of every temporary file and folder of this
// package, so that Sweep, backups and directory walks can tell them.
const TempPrefix = ".twinhull-tmp-"

// IsTemp tells whether a base name is that of a temporary of this package.
func IsTemp(name string) bool { return strings.HasPrefix(name, TempPrefix) }

// WriteFile makes data the content of the file at path, or changes nothing.
// perm is the mode before the umask, as in os.WriteFile, and also replaces the
// mode of an existing file. A symbolic link at path is replaced, not followed.
// The folder must exist.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return writeFile(disk{}, path, data, perm)
}

func writeFile(sys system, path string, data []byte, perm os.FileMode) error {
	f, err := create(sys, filepath.Dir(path), path, perm)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

// File is a file being written. It appears under its name at Commit and never
// before. Use it from one goroutine at a time.
type File struct {
	sys  system
	f    handle
	temp string
	path string
	err  error // the first failed write: Commit must not publish what is left
	done bool  // renamed into place
}

// Create begins a file that will be at path. perm is the mode before the umask.
// The caller must call Close, usually deferred, and Commit before it.
func Create(path string, perm os.FileMode) (*File, error) {
	return create(disk{}, filepath.Dir(path), path, perm)
}

// CreateIn is Create with the temporary in another folder of the same file
// system, for callers that want all of their temporaries in one place.
func CreateIn(dir, path string, perm os.FileMode) (*File, error) {
	return create(disk{}, dir, path, perm)
}

func create(sys system, dir, path string, perm os.FileMode) (*File, error) {
	for range 100 {
		temp := filepath.Join(dir, tempName())
		f, err := sys.create(temp, perm)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
		return &File{sys: sys, f: f, temp: temp, path: path}, nil
	}
	return nil, fmt.Errorf("write %s: no free temporary name in %s", path, dir)
}

// Write appends p. After an error nothing more can be written or committed.
func (f *File) Write(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.f.Write(p)
	if err != nil {
		f.err = fmt.Errorf("write %s: %w", f.path, err)
		return n, f.err
	}
	return n, nil
}

// Name is the path that Commit will give the file.
func (f *File) Name() string { return f.path }

// Commit publishes the file under its name and returns when it would survive a
// power cut. It replaces a file that is there. After an error from the rename
// or before, nothing has changed under the name; an error that synchronising
// the folder gave means that the file is there and complete but may be gone
// after a power cut.
func (f *File) Commit() error {
	if f.err != nil {
		return f.err
	}
	if f.done {
		return fmt.Errorf("write %s: already committed", f.path)
	}
	f.err = commit(f.sys, f.f, f.temp, f.path, func() { f.done = true })
	return f.err
}

// commit is steps 3 to 5 of the package comment.
func commit(sys system, f handle, temp, path string, renamed func()) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: synchronise: %w", path, err)
	}
	if err := sys.rename(temp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	renamed()
	if err := sys.syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: synchronise its folder: %w", path, err)
	}
	return nil
}

// Close ends the writing. A file that was not committed is removed and leaves
// nothing behind. It is safe to call more than once and after Commit.
func (f *File) Close() error {
	if f.f == nil {
		return nil
	}
	var err error
	if !f.done {
		// Removed while still open, so that the lock on it keeps Sweep away.
		err = f.sys.remove(f.temp)
	}
	err = errors.Join(err, f.f.Close())
	f.f = nil
	if f.err == nil {
		f.err = fmt.Errorf("write %s: %w", f.path, fs.ErrClosed)
	}
	return err
}

// CommitFile publishes a file that the caller wrote under another name of the
// same file system: steps 3 to 5 of the package comment. temp is gone
// afterwards. On error temp stays.
func CommitFile(temp, path string) error {
	f, err := os.Open(temp)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer f.Close()
	return commit(disk{}, f, temp, path, func() {})
}

// TempDir makes an empty folder with a recognisable temporary name in parent,
// to be filled and given to CommitDir, or removed by the caller.
func TempDir(parent string) (string, error) {
	for range 100 {
		dir := filepath.Join(parent, tempName())
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("temporary folder: %w", err)
		}
		return dir, nil
	}
	return "", fmt.Errorf("no free temporary name in %s", parent)
}

// CommitDir publishes a finished folder: everything on its file system is
// written out, tmp is renamed to final and the parent is synchronised, so a
// folder under its final name is complete, also after a power cut.
//
// When final exists already it is kept as it is and tmp is removed: folders
// committed here are named by what they hold, so the first to finish wins and
// whoever is reading it is not disturbed. Both must be on one file system.
func CommitDir(tmp, final string) error { return commitDir(disk{}, tmp, final) }

func commitDir(sys system, tmp, final string) error {
	if _, err := os.Lstat(final); err == nil {
		return discardDir(tmp, final)
	}
	// One syncfs instead of an fsync for each of tens of thousands of files.
	// A crash before the rename leaves a temporary folder that Sweep removes.
	if err := sys.syncFS(tmp); err != nil {
		return fmt.Errorf("finish folder %s: synchronise: %w", final, err)
	}
	err := sys.renameNew(tmp, final)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return discardDir(tmp, final)
	}
	if err != nil {
		return fmt.Errorf("finish folder %s: %w", final, err)
	}
	if err := sys.syncDir(filepath.Dir(final)); err != nil {
		return fmt.Errorf("finish folder %s: synchronise its parent: %w", final, err)
	}
	return nil
}

func discardDir(tmp, final string) error {
	if err := RemoveAll(tmp); err != nil {
		return fmt.Errorf("folder %s exists already; remove the second copy: %w", final, err)
	}
	return nil
}

// RemoveAll is os.RemoveAll that also removes folders which their mode protects
// from their own owner, as unpacked trees may hold.
func RemoveAll(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) // WalkDir reads the folder after this call
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// MkdirAll makes a folder and its missing parents and synchronises each parent
// that gained one, so that files committed below survive a power cut.
func MkdirAll(dir string, perm os.FileMode) error {
	if st, err := os.Stat(dir); err == nil {
		if st.IsDir() {
			return nil
		}
		return fmt.Errorf("make folder %s: %w", dir, unix.ENOTDIR)
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder: %w", err)
	}
	return SyncDir(filepath.Dir(dir))
}

// SyncDir makes renames and removals in a folder survive a power cut.
func SyncDir(dir string) error { return disk{}.syncDir(dir) }

// Sweep removes what crashed writers left in dir: temporaries of this package
// whose inode has not changed for longer than olderThan. It does not descend
// into folders. A temporary file that a process still writes is locked by it
// and is left alone whatever its age; for folders only the age speaks, so give
// more than the longest time that filling one takes. A missing dir is no error.
func Sweep(dir string, olderThan time.Duration) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	var errs []error
	for _, e := range entries {
		if !IsTemp(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := sweepOne(path, olderThan); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("sweep %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

func sweepOne(path string, olderThan time.Duration) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	// The change time, not the modification time: unpacking sets the latter.
	if time.Since(time.Unix(st.Ctim.Unix())) < olderThan {
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return RemoveAll(path)
	case unix.S_IFREG:
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrPermission) {
			return nil // another user's
		}
		if err != nil {
			return err
		}
		defer f.Close()
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return nil // its writer lives
		}
	}
	return os.Remove(path)
}
