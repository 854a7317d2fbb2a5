// Package files keeps a registry in one folder of this machine: records in a
// transactional file (bbolt), content in files that are named by their digests.
//
//	DIR/lock                           held by the one server that uses the folder
//	DIR/records.db                     all records
//	DIR/blobs/sha256/ab/abcdef…        content
//	DIR/uploads/ID                     content that is arriving
//	DIR/uploads/ID@sha256:abcdef…      the same, committed as that
//	DIR/tmp                            what may be removed when nobody runs
//
// It is one server's: a second one on the same folder is refused. It needs a local
// file system with hard links, flock and fsync that means it (ext4, XFS, Btrfs);
// network file systems are none. Replicas use packages postgres and s3.
//
// # Durability
//
// What returned without an error survives the end of the process at any moment
// and, if the disk keeps what it confirmed, a power cut:
//
//   - Update: bbolt writes the changed pages, synchronises, writes the new root,
//     synchronises. A crash leaves the old root or the new one. Updates that wait
//     at the same time share this.
//   - Commit, in this order: the upload's bytes are verified; the upload is renamed
//     to ID@DIGEST; its data is synchronised; its folder is; it is linked into
//     blobs; that folder is synchronised. So a name in blobs is complete content
//     whenever it can be seen, and what a crash leaves there without a record is
//     found through the upload. Commits at the same time share the
//     synchronisations of folders.
//   - Delete: unlinked, its folder synchronised.
//
// Create, Append and Discard synchronise nothing: they survive the process, but
// after a power cut an upload may be shorter, gone or, if it was discarded, there
// again. What it holds is then verified from its first byte at Commit.
//
// A synchronisation that fails is never repeated as if nothing had happened, since
// the kernel may have dropped the data: the upload is gone, records refuse changes
// until the server starts again.
//
// # Damage
//
// Each record carries a CRC-32C of its key and value, each content is checked by
// whoever reads it against its digest. bbolt's own pages have no checksums; Check
// walks them, and so does Open when the last server did not come to its end. Reading
// what the disk cannot give is ErrDamaged and not a crash.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Options is how a folder is opened. The zero value is complete.
type Options struct {
	// ReadOnly opens it for reading, beside other readers but not beside a server:
	// for checking, and for disks that are read-only. Nothing is made or mended.
	ReadOnly bool
}

// Files is an opened folder.
type Files struct {
	dir      string
	readOnly bool
	lock     *os.File
	records  *records
	content  *content
	close    func() error
}

// Open opens a folder, making what is missing in it. The error says so when another
// server has it, when it is damaged (store.ErrDamaged), and when it cannot be
// written (store.ErrReadOnly, store.ErrFull).
func Open(dir string, opt Options) (_ *Files, err error) {
	s := &Files{dir: dir, readOnly: opt.ReadOnly}
	s.close = sync.OnceValue(s.closeAll)
	defer func() {
		if err != nil {
			err = fmt.Errorf("store %s: %w", dir, errors.Join(err, s.close()))
		}
	}()
	if !s.readOnly {
		for _, sub := range []string{"", "tmp", "uploads"} {
			if err := durable.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
				return nil, explain(err)
			}
		}
	}
	if s.lock, err = lockFolder(dir, s.readOnly); err != nil {
		return nil, err
	}
	if !s.readOnly {
		// Nobody else is here, so nothing of this is still being written.
		if err := durable.Sweep(filepath.Join(dir, "tmp"), 0); err != nil {
			return nil, explain(err)
		}
	}
	if s.content, err = openContent(dir, s.readOnly); err != nil {
		return nil, explain(err)
	}
	if s.records, err = openRecords(filepath.Join(dir, "records.db"), s.readOnly); err != nil {
		return nil, explain(err)
	}
	return s, nil
}

// Store is the folder as package registry needs it. Closing its Records closes the
// folder.
func (s *Files) Store() store.Store {
	return store.Store{Records: closer{s.records, s}, Blobs: s.content, Uploads: uploads{s.content}}
}

type closer struct {
	*records
	s *Files
}

func (c closer) Close() error { return c.s.Close() }

// Close ends the use of the folder, after the transactions that are going on. More
// calls do nothing.
func (s *Files) Close() error { return s.close() }

func (s *Files) closeAll() error {
	var errs []error
	if s.records != nil {
		errs = append(errs, s.records.close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close()) // which unlocks
	}
	return errors.Join(errs...)
}

// lockFolder keeps a second server out until the file is closed, or the process ends.
func lockFolder(dir string, readOnly bool) (*os.File, error) {
	flag, how := os.O_RDWR|os.O_CREATE, unix.LOCK_EX
	if readOnly {
		flag, how = os.O_RDONLY, unix.LOCK_SH
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, flag, 0o640)
	if readOnly && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no store is here: %w", err)
	}
	if err != nil {
		return nil, explain(err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		who := ""
		if b, err := io.ReadAll(io.LimitReader(f, 20)); err == nil && len(b) > 0 {
			who = " (process " + strings.TrimSpace(string(b)) + ")"
		}
		return nil, fmt.Errorf("another server uses this folder%s: stop it, or give this one a folder of its own", who)
	}
	if !readOnly {
		// For the message above only.
		if err := f.Truncate(0); err == nil {
			_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
		}
	}
	return f, nil
}

// explain adds which of the store's errors an error of the system is.
func explain(err error) error {
	if err == nil {
		return nil
	}
	for _, kind := range []error{store.ErrReadOnly, store.ErrFull, store.ErrDamaged, store.ErrClosed} {
		if errors.Is(err, kind) {
			return err
		}
	}
	text := err.Error() // bbolt keeps the text of some errors only
	is := func(e unix.Errno) bool { return errors.Is(err, e) || strings.HasSuffix(text, e.Error()) }
	switch {
	case is(unix.EROFS):
		return fmt.Errorf("%w: %w: make its disk writable and start the server again", store.ErrReadOnly, err)
	case is(unix.ENOSPC), is(unix.EDQUOT):
		return fmt.Errorf("%w: %w: make room on its disk", store.ErrFull, err)
	case errors.Is(err, bolt.ErrDatabaseNotOpen):
		return fmt.Errorf("%w: %w", store.ErrClosed, err)
	}
	return err
}

// folders synchronises folders. Callers at the same time share one fsync: each is
// answered by one that began after its call.
type folders struct {
	sync func(dir string) error // durable.SyncDir

	mu  sync.Mutex
	all map[string]*folder
}

type folder struct {
	mu      sync.Mutex // guards next and failed
	next    *syncing   // what whoever comes now waits for; nil: nobody waits
	failed  error      // a failure stays: the kernel tells it once only
	running sync.Mutex
}

type syncing struct {
	done chan struct{}
	err  error
}

func (fs *folders) syncDir(dir string) error {
	fs.mu.Lock()
	f := fs.all[dir]
	if f == nil {
		f = &folder{}
		fs.all[dir] = f
	}
	fs.mu.Unlock()

	f.mu.Lock()
	s, mine := f.next, false
	if s == nil {
		s, mine = &syncing{done: make(chan struct{})}, true
		f.next = s
	}
	f.mu.Unlock()
	if mine {
		f.running.Lock()
		f.mu.Lock()
		f.next = nil // who comes from now on needs another one
		s.err = f.failed
		f.mu.Unlock()
		if s.err == nil {
			if s.err = fs.sync(dir); s.err != nil {
				s.err = fmt.Errorf("synchronise %s: %w", dir, s.err)
				f.mu.Lock()
				f.failed = fmt.Errorf("%w (earlier; start the server again and check the disk)", s.err)
				f.mu.Unlock()
			}
		}
		f.running.Unlock()
		close(s.done)
	}
	<-s.done
	return s.err
}

// Check reads everything that bbolt and the checksums of records can tell; package
// registry checks what the records mean, and content against its digests. The
// error lists what is wrong, as store.ErrDamaged.
func (s *Files) Check(ctx context.Context) error { return s.records.check(ctx) }

// Backup copies a running store into a folder, which Open then opens. Content that
// the folder has already is not copied again, so a second backup into it is quick;
// content that it has in excess stays. Uploads are not part of it. One backup at a
// time may write to a folder.
//
// The order is: content, records, and then what content has come meanwhile.
// Records alone first would miss content that is collected before its turn; records
// last would refer to content that came behind the copy. This way all that the
// records of their moment refer to is there: it was there at the first round, or
// it came later, and then nothing collects it for Retention.Unreferenced (a day).
// Content whose digest is wrong ends the backup with store.ErrDamaged.
func (s *Files) Backup(ctx context.Context, dir string) error {
	fail := func(err error) error { return fmt.Errorf("back up %s to %s: %w", s.dir, dir, explain(err)) }
	to, err := Open(dir, Options{}) // as a server does: nobody serves it meanwhile
	if err != nil {
		return fail(err)
	}
	// The records are replaced as a file, so they are not open; the lock stays.
	err = to.records.close()
	to.records = nil
	defer to.Close()
	if err != nil {
		return fail(err)
	}
	if err := s.content.copyTo(ctx, to.content); err != nil {
		return fail(err)
	}
	out, err := durable.CreateIn(filepath.Join(dir, "tmp"), filepath.Join(dir, "records.db"), 0o640)
	if err != nil {
		return fail(err)
	}
	defer out.Close()
	if err := s.BackupRecords(ctx, out); err != nil {
		return fail(err)
	}
	// Records come to the folder last: what they refer to is there.
	if err := s.content.copyTo(ctx, to.content); err != nil {
		return fail(err)
	}
	if err := out.Commit(); err != nil {
		return fail(err)
	}
	return nil
}

// BackupRecords writes the records of one moment as a file that bbolt opens, while
// others go on. See Backup for what has to be copied before and after.
func (s *Files) BackupRecords(ctx context.Context, w io.Writer) error {
	return s.records.backup(ctx, w)
}
