package files

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

const (
	// How much of an upload is read at once, and how much is handed to the disk
	// while more arrives, so that Commit has little left to wait for.
	bufferSize    = 256 << 10
	writebackSize = 8 << 20
)

var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// content is the blobs, and through uploads what is arriving.
type content struct {
	dir      string
	readOnly bool
	folders  folders
	buffers  sync.Pool

	appending atomic.Int32 // how many uploads receive bytes

	mu      sync.Mutex
	working map[string]*upload // what this process knows of uploads, by identifier
	made    map[string]bool    // folders of blobs that are durable; those of other algorithms when they are first needed
}

// upload is what is known beside its file.
type upload struct {
	busy       bool       // guarded by content.mu; whoever set it owns what follows
	committing oci.Digest // guarded by content.mu, too
	sum        hash.Hash  // sha256 of its first bytes; nil: not known
	summed     int64      // how many these are
	finished   bool       // Commit went to its end in this process
}

func openContent(dir string, readOnly bool) (*content, error) {
	c := &content{dir: dir, readOnly: readOnly, working: map[string]*upload{}, made: map[string]bool{}}
	c.folders = folders{sync: durable.SyncDir, all: map[string]*folder{}}
	c.buffers.New = func() any { return new([bufferSize]byte) }
	if !readOnly {
		for _, a := range algorithms {
			if err := durable.MkdirAll(filepath.Join(dir, "blobs", string(a)), 0o750); err != nil {
				return nil, err
			}
		}
		// All folders of the usual algorithm at once: made when first needed, each
		// would be a push that waits for one more synchronisation.
		usual := filepath.Join(dir, "blobs", string(digest.SHA256))
		entries, err := os.ReadDir(usual)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			c.made[filepath.Join(usual, e.Name())] = true
		}
		for i := range 256 {
			d := filepath.Join(usual, fmt.Sprintf("%02x", i))
			if c.made[d] {
				continue
			}
			if err := os.Mkdir(d, 0o750); err != nil {
				return nil, err
			}
			c.made[d] = true
		}
		// Who made them may not have come so far.
		for _, d := range []string{dir, filepath.Join(dir, "blobs"), usual} {
			if err := durable.SyncDir(d); err != nil {
				return nil, err
			}
		}
	}
	// What was committed is found by its identifier, which is a part of its name.
	for u, err := range c.uploads(context.Background()) {
		if err != nil {
			return nil, err
		}
		if u.Committing != "" {
			c.working[u.ID] = &upload{committing: u.Committing}
		}
	}
	return c, nil
}

// makeFolder makes the folder that content of a digest goes to, when it is first
// needed in this process. It is durable for everybody who goes on from here.
func (c *content) makeFolder(d oci.Digest) error {
	dir := filepath.Dir(c.path(d))
	c.mu.Lock()
	made := c.made[dir]
	c.mu.Unlock()
	if made {
		return nil
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Also when it was there: who made it may not have come so far.
	if err := c.folders.syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made[dir] = true
	return nil
}

// path is where content lies, of a digest that was checked.
func (c *content) path(d oci.Digest) string {
	return filepath.Join(c.dir, "blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded())
}

func (c *content) Open(_ context.Context, d oci.Digest) (*store.Blob, error) {
	if err := store.CheckDigest(d); err != nil {
		return nil, fmt.Errorf("content: %w: %w", store.ErrNotFound, err)
	}
	f, err := os.OpenFile(c.path(d), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, contentError(d, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = notRegular(d)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &store.Blob{Content: f, Size: st.Size()}, nil
}

func (c *content) Size(_ context.Context, d oci.Digest) (int64, error) {
	if err := store.CheckDigest(d); err != nil {
		return 0, fmt.Errorf("content: %w: %w", store.ErrNotFound, err)
	}
	st, err := os.Lstat(c.path(d))
	if err != nil {
		return 0, contentError(d, err)
	}
	if !st.Mode().IsRegular() {
		return 0, notRegular(d)
	}
	return st.Size(), nil
}

func contentError(d oci.Digest, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("content %s: %w", d, store.ErrNotFound)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		return notRegular(d)
	}
	return fmt.Errorf("content %s: %w", d, explain(err))
}

func notRegular(d oci.Digest) error {
	return fmt.Errorf("content %s: %w: what has its name is no regular file: remove that", d, store.ErrDamaged)
}

// deleters are how many folders are deleted from at once. A file system that tells
// the disk of every block that it frees waits with each file; more would leave pushes
// little of the disk.
const deleters = 2

func (c *content) Delete(ctx context.Context, ds ...oci.Digest) error {
	byFolder := map[string][]string{}
	for _, d := range ds {
		if store.CheckDigest(d) == nil { // of others there is nothing
			path := c.path(d)
			byFolder[filepath.Dir(path)] = append(byFolder[filepath.Dir(path)], path)
		}
	}
	var (
		mu   sync.Mutex
		errs []error
		work errgroup.Group
	)
	work.SetLimit(deleters)
	for dir, paths := range byFolder {
		work.Go(func() error {
			if err := c.deleteIn(ctx, dir, paths); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = work.Wait() // the errors are in errs, all of them
	return errors.Join(errs...)
}

// deleteIn deletes files of one folder.
func (c *content) deleteIn(ctx context.Context, dir string, paths []string) error {
	var errs []error
	changed := false
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		switch err := os.Remove(path); {
		case err == nil:
			changed = true
		case errors.Is(err, fs.ErrNotExist):
			// Perhaps since a moment ago: durable for this caller, too.
			if _, err := os.Lstat(dir); err == nil {
				changed = true
			}
		default:
			errs = append(errs, fmt.Errorf("delete content %s: %w", filepath.Base(path), explain(err)))
		}
	}
	if changed {
		if err := c.folders.syncDir(dir); err != nil {
			errs = append(errs, explain(err))
		}
	}
	return errors.Join(errs...)
}

func (c *content) List(ctx context.Context) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		for _, a := range algorithms {
			for i := range 256 {
				dir := filepath.Join(c.dir, "blobs", string(a), fmt.Sprintf("%02x", i))
				entries, err := os.ReadDir(dir)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					yield(store.Info{}, fmt.Errorf("list content: %w", err))
					return
				}
				for _, e := range entries {
					d := digest.NewDigestFromEncoded(a, e.Name())
					if store.CheckDigest(d) != nil || e.Name()[:2] != filepath.Base(dir) {
						continue // not ours
					}
					st, err := e.Info()
					if errors.Is(err, fs.ErrNotExist) {
						continue // deleted meanwhile
					}
					if err == nil && !st.Mode().IsRegular() {
						err = notRegular(d)
					}
					if err != nil {
						yield(store.Info{}, fmt.Errorf("list content: %w", err))
						return
					}
					if !yield(store.Info{Digest: d, Size: st.Size(), Stored: st.ModTime()}, nil) {
						return
					}
				}
			}
		}
	}
}

// copyTo copies what to has not. Content never changes, so its size tells.
func (c *content) copyTo(ctx context.Context, to *content) error {
	for info, err := range c.List(ctx) {
		if err != nil {
			return err
		}
		if n, err := to.Size(ctx, info.Digest); err == nil && n == info.Size {
			continue
		}
		if err := c.copyOne(ctx, to, info.Digest); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (c *content) copyOne(ctx context.Context, to *content, d oci.Digest) error {
	from, err := c.Open(ctx, d)
	if err != nil {
		return err
	}
	defer from.Content.Close()
	if err := to.makeFolder(d); err != nil {
		return err
	}
	out, err := durable.CreateIn(filepath.Join(to.dir, "tmp"), to.path(d), 0o640)
	if err != nil {
		return err
	}
	defer out.Close()
	verify := d.Verifier()
	if _, err := io.Copy(io.MultiWriter(contextWriter{ctx, out}, verify), from.Content); err != nil {
		return err
	}
	if !verify.Verified() {
		return fmt.Errorf("content %s: %w: its bytes have another digest", d, store.ErrDamaged)
	}
	return out.Commit()
}

// uploads is content as store.Uploads.
type uploads struct{ *content }

func (c *content) uploadsDir() string { return filepath.Join(c.dir, "uploads") }

// uploadPath is where an upload lies; "" says that it was not committed.
func (c *content) uploadPath(id string, committing oci.Digest) string {
	if committing != "" {
		id += "@" + string(committing)
	}
	return filepath.Join(c.uploadsDir(), id)
}

func uploadError(id string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("upload %s: %w", id, store.ErrNotFound)
	}
	return fmt.Errorf("upload %s: %w", id, explain(err))
}

func (u uploads) Create(context.Context) (string, error) {
	id := store.NewID()
	if u.readOnly {
		return "", fmt.Errorf("upload: %w", store.ErrReadOnly)
	}
	f, err := os.OpenFile(u.uploadPath(id, ""), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return "", uploadError(id, err)
	}
	if err := f.Close(); err != nil {
		return "", uploadError(id, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.working[id] = &upload{sum: sha256.New()}
	return id, nil
}

// work takes an upload for one worker, until done is called.
func (c *content) work(id string) (_ *upload, done func(), err error) {
	if err := store.CheckID(id); err != nil {
		return nil, nil, err
	}
	if c.readOnly {
		return nil, nil, fmt.Errorf("upload %s: %w", id, store.ErrReadOnly)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.working[id]
	if u == nil {
		// Of another process that ended. Under the lock: nobody takes it as well.
		if _, err := os.Lstat(c.uploadPath(id, "")); err != nil {
			return nil, nil, uploadError(id, err)
		}
		u = &upload{}
		c.working[id] = u
	}
	if u.busy {
		return nil, nil, fmt.Errorf("upload %s: %w", id, store.ErrBusy)
	}
	u.busy = true
	return u, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		u.busy = false
	}, nil
}

func (u uploads) Append(ctx context.Context, id string, at int64, r io.Reader) (int64, error) {
	up, done, err := u.work(id)
	if err != nil {
		return 0, err
	}
	defer done()
	if up.committing != "" {
		return 0, fmt.Errorf("upload %s: %w", id, store.ErrCommitted)
	}
	f, err := os.OpenFile(u.uploadPath(id, ""), os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, uploadError(id, err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, uploadError(id, err)
	}
	if at != size {
		return size, fmt.Errorf("upload %s has %d bytes, not %d: %w", id, size, at, store.ErrOffset)
	}
	if up.sum == nil && size == 0 {
		up.sum, up.summed = sha256.New(), 0
	}
	if up.summed != size {
		up.sum = nil
	}
	u.appending.Add(1)
	defer u.appending.Add(-1)
	s := summing{sum: up.sum}
	// One buffer is summed while the other is filled and written.
	var bufs [2]*[bufferSize]byte
	defer func() {
		s.end() // it reads them
		for _, b := range bufs {
			if b != nil {
				u.buffers.Put(b)
			}
		}
	}()
	for i, synced := 0, size; ; i++ {
		if bufs[i%2] == nil {
			bufs[i%2] = u.buffers.Get().(*[bufferSize]byte)
		}
		buf := bufs[i%2]
		n, readErr := fill(ctx, r, buf[:])
		// With a processor that has nothing else to do, beside the writing: else it
		// would only be moved about.
		s.add(buf[:n], readErr == nil && int(u.appending.Load()) < runtime.GOMAXPROCS(0))
		m, err := f.Write(buf[:n])
		up.summed += int64(m)
		size += int64(m)
		if m < n {
			up.sum = nil // it has seen more than there is
		}
		if err != nil {
			return size, uploadError(id, err)
		}
		if size-synced >= writebackSize || readErr == io.EOF && size > synced {
			// Only begins to write, and what fails is told by the synchronisation. At the
			// end, too: the client's next request is on its way meanwhile.
			_ = unix.SyncFileRange(int(f.Fd()), synced, size-synced, unix.SYNC_FILE_RANGE_WRITE)
			synced = size
		}
		if readErr == io.EOF {
			return size, nil
		}
		if readErr != nil {
			return size, fmt.Errorf("upload %s: %w", id, readErr)
		}
	}
}

// summing sums bytes in order, each buffer in its caller or beside it.
type summing struct {
	sum     hash.Hash // nil: nothing is summed
	work    chan []byte
	done    chan struct{}
	pending bool // a buffer is being summed
}

// add sums b. With beside it returns before that is done, and b must not change
// until the next call returns.
func (s *summing) add(b []byte, beside bool) {
	if s.sum == nil {
		return
	}
	s.wait()
	if !beside {
		s.sum.Write(b)
		return
	}
	if s.work == nil {
		s.work, s.done = make(chan []byte, 1), make(chan struct{}, 1)
		go func() {
			for b := range s.work {
				s.sum.Write(b)
				s.done <- struct{}{}
			}
		}()
	}
	s.pending = true
	s.work <- b
}

func (s *summing) wait() {
	if s.pending {
		<-s.done
		s.pending = false
	}
}

// end waits until all is summed.
func (s *summing) end() {
	s.wait()
	if s.work != nil {
		close(s.work)
	}
}

// fill reads until the buffer is full: few and large writes.
func fill(ctx context.Context, r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err != nil {
			return n, err
		}
		if err := ctx.Err(); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (u uploads) Status(_ context.Context, id string) (store.Upload, error) {
	if err := store.CheckID(id); err != nil {
		return store.Upload{}, err
	}
	u.mu.Lock() // its name does not change meanwhile
	defer u.mu.Unlock()
	var committing oci.Digest
	if up := u.working[id]; up != nil {
		committing = up.committing
	}
	st, err := os.Lstat(u.uploadPath(id, committing))
	if err != nil {
		return store.Upload{}, uploadError(id, err)
	}
	return store.Upload{ID: id, Size: st.Size(), Changed: st.ModTime(), Committing: committing}, nil
}

func (u uploads) Commit(ctx context.Context, id string, d oci.Digest) (int64, error) {
	up, done, err := u.work(id)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := store.CheckDigest(d); err != nil {
		return 0, fmt.Errorf("upload %s: %w", id, err)
	}
	if up.committing != "" && up.committing != d {
		return 0, fmt.Errorf("upload %s as %s: %w", id, up.committing, store.ErrCommitted)
	}
	f, err := os.OpenFile(u.uploadPath(id, up.committing), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, uploadError(id, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, uploadError(id, err)
	}
	size := st.Size()
	there := u.has(d, size)
	if up.finished && there {
		return size, nil
	}
	if err := u.verify(ctx, up, f, size, d); err != nil {
		return 0, uploadError(id, err)
	}

	// The steps of the package comment.
	if up.committing == "" {
		u.mu.Lock()
		err := os.Rename(u.uploadPath(id, ""), u.uploadPath(id, d))
		if err == nil {
			up.committing = d
		}
		u.mu.Unlock()
		if err != nil {
			return 0, uploadError(id, err)
		}
		// It may have been deleted before it could be seen that this needs it.
		there = u.has(d, size)
	}
	if !there {
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			// The kernel may have dropped what it could not write, and would tell the
			// next one that all is well.
			u.forget(id, up)
			return 0, fmt.Errorf("upload %s cannot be synchronised and is gone: %w", id, explain(err))
		}
	}
	if err := u.folders.syncDir(u.uploadsDir()); err != nil {
		return 0, uploadError(id, err)
	}
	path := u.path(d)
	if err := u.makeFolder(d); err != nil {
		return 0, uploadError(id, err)
	}
	if !there {
		if err := u.link(u.uploadPath(id, d), path, size); err != nil {
			return 0, uploadError(id, err)
		}
	}
	if err := u.folders.syncDir(filepath.Dir(path)); err != nil {
		return 0, uploadError(id, err)
	}
	up.finished = true
	return size, nil
}

// has tells whether content is there, at least by its size: what was cut off
// is replaced by whoever pushes it again.
func (c *content) has(d oci.Digest, size int64) bool {
	st, err := os.Lstat(c.path(d))
	return err == nil && st.Mode().IsRegular() && st.Size() == size
}

func (c *content) link(from, to string, size int64) error {
	err := os.Link(from, to)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	st, err := os.Lstat(to)
	if err != nil || st.Mode().IsRegular() && st.Size() == size {
		return err // somebody else was quicker
	}
	temp := filepath.Join(c.dir, "tmp", durable.TempPrefix+store.NewID())
	if err := os.Link(from, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, to); err != nil {
		_ = os.Remove(temp)
		return err
	}
	return nil
}

// verify compares the upload's digest with d; it reads the upload again only when
// this process has not summed all of it.
func (c *content) verify(ctx context.Context, up *upload, f *os.File, size int64, d oci.Digest) error {
	if up.sum == nil || up.summed != size || d.Algorithm() != digest.SHA256 {
		sum := d.Algorithm().Hash()
		buf := c.buffers.Get().(*[bufferSize]byte)
		defer c.buffers.Put(buf)
		in := io.NewSectionReader(f, 0, size)
		for {
			n, err := fill(ctx, in, buf[:])
			sum.Write(buf[:n])
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
		return sameDigest(digest.NewDigest(d.Algorithm(), sum), d)
	}
	return sameDigest(digest.NewDigest(digest.SHA256, up.sum), d)
}

func sameDigest(got, want oci.Digest) error {
	if got != want {
		return fmt.Errorf("%w: %s, not %s", store.ErrDigest, got, want)
	}
	return nil
}

func (u uploads) Discard(_ context.Context, id string) error {
	up, done, err := u.work(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer done()
	if err := u.forget(id, up); err != nil {
		return uploadError(id, err)
	}
	return nil
}

// forget removes an upload that the caller works on.
func (c *content) forget(id string, up *upload) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := os.Remove(c.uploadPath(id, up.committing)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(c.working, id)
	return nil
}

func (u uploads) Uploads(ctx context.Context) iter.Seq2[store.Upload, error] {
	return u.content.uploads(ctx)
}

func (c *content) uploads(ctx context.Context) iter.Seq2[store.Upload, error] {
	return func(yield func(store.Upload, error) bool) {
		entries, err := os.ReadDir(c.uploadsDir())
		if c.readOnly && errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(store.Upload{}, fmt.Errorf("list uploads: %w", err))
			return
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				yield(store.Upload{}, err)
				return
			}
			id, as, committed := strings.Cut(e.Name(), "@")
			d := oci.Digest(as)
			if store.CheckID(id) != nil || committed && store.CheckDigest(d) != nil {
				continue // not ours
			}
			st, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				// Discarded, or committed, which gives it another name.
				u, err := uploads{c}.Status(ctx, id)
				if errors.Is(err, store.ErrNotFound) {
					continue
				}
				if !yield(u, err) || err != nil {
					return
				}
				continue
			}
			if err != nil {
				yield(store.Upload{}, fmt.Errorf("list uploads: %w", err))
				return
			}
			if !yield(store.Upload{ID: id, Size: st.Size(), Changed: st.ModTime(), Committing: d}, nil) {
				return
			}
		}
	}
}
