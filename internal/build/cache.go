package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/sandbox"
)

// cache keeps what was made, by Key: records of actions, output files by
// their content, and folders. Losing it costs time, never correctness; a
// record that cannot be read, or that is not what was written, is as good as
// none.
type cache struct {
	dir      string
	settling *sync.Map       // kind/key of folders that are being written out
	settled  *sync.WaitGroup // their writers
	syncFS   func(fd int) error
}

func newCache(dir string) cache { return cache{dir, &sync.Map{}, &sync.WaitGroup{}, unix.Syncfs} }

func (c cache) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

// kept is the form of a record on disk. The sum is over the record's bytes, so
// that a damaged record, or one under another's name, is not believed.
type kept struct {
	Kind   string          `json:"kind"`
	Key    Key             `json:"key"`
	SHA256 string          `json:"sha256"`
	Record json.RawMessage `json:"record"`
}

func sumOf(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// record reads what an action left, into v. It reports whether there was one.
func (c cache) record(kind string, k Key, v any) bool {
	b, err := os.ReadFile(c.path("records", kind, string(k)+".json"))
	if err != nil {
		return false
	}
	var r kept
	if json.Unmarshal(b, &r) != nil || r.Kind != kind || r.Key != k || r.SHA256 != sumOf(r.Record) {
		return false
	}
	return json.Unmarshal(r.Record, v) == nil
}

// keep writes an action's record, after everything that it refers to.
func (c cache) keep(kind string, k Key, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b, err := json.Marshal(kept{kind, k, sumOf(body), body})
	if err != nil {
		return err
	}
	p := c.path("records", kind, string(k)+".json")
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(p, append(b, '\n'), 0o644)
}

// forget removes an action's record, so that the action is done again.
func (c cache) forget(kind string, k Key) {
	_ = os.Remove(c.path("records", kind, string(k)+".json"))
}

func (c cache) filePath(d oci.Digest) string {
	h := d.Encoded()
	return c.path("files", h[:2], h)
}

// putFile stores the bytes of r, at most limit of them, under their SHA-256. A
// file that is there is replaced by equal bytes, which mends a damaged one.
func (c cache) putFile(r io.Reader, limit int64) (oci.Digest, int64, error) {
	tmp, done, err := c.scratchFile("file")
	if err != nil {
		return "", 0, err
	}
	defer done()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, h), io.LimitReader(r, limit+1))
	if err != nil {
		return "", 0, err
	}
	if n > limit {
		return "", 0, fmt.Errorf("more than %d bytes", limit)
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(h.Sum(nil)))
	to := c.filePath(d)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", 0, err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return "", 0, err
	}
	// Outputs can be made again, so their bytes are not synchronised one by
	// one; hasFile's size check and the hash check on use catch a torn file.
	return d, n, os.Rename(tmp.Name(), to)
}

// hasFile tells whether bytes of this digest and size are kept.
func (c cache) hasFile(d oci.Digest, size int64) bool {
	if d.Validate() != nil {
		return false
	}
	fi, err := os.Lstat(c.filePath(d))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size
}

// scratch makes a folder for work in progress, on the cache's file system so
// that results can be renamed into place. done removes it, or what is left of
// it. While this process lives the folder is locked, which keeps sweep away.
func (c cache) scratch(name string) (dir string, done func(), err error) {
	if err := os.MkdirAll(c.path("tmp"), 0o755); err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(c.path("tmp"), name+"-"); err != nil {
		return "", nil, err
	}
	// Modes are set and not inherited from the caller's umask, here and
	// everywhere below: they can be seen by what runs in the sandbox.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, err
	}
	f, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
	}
	if err != nil {
		return "", nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return dir, func() { _ = sandbox.RemoveAll(dir); f.Close() }, nil
}

func (c cache) scratchFile(name string) (*os.File, func(), error) {
	if err := os.MkdirAll(c.path("tmp"), 0o755); err != nil {
		return nil, nil, err
	}
	f, err := os.CreateTemp(c.path("tmp"), name+"-")
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, func() { _ = os.Remove(f.Name()); f.Close() }, nil
}

// sweep removes scratch folders whose process is gone: killed builds leave
// them. One that was made less than a minute ago may not be locked yet.
func (c cache) sweep(now time.Time) {
	entries, err := os.ReadDir(c.path("tmp"))
	if err != nil {
		return
	}
	for _, e := range entries {
		p := c.path("tmp", e.Name())
		var st unix.Stat_t
		if unix.Lstat(p, &st) != nil || now.Sub(time.Unix(st.Ctim.Unix())) < time.Minute {
			continue
		}
		f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = sandbox.RemoveAll(p) // what cannot be removed now is tried again next time
		}
		f.Close()
	}
}

// A kept folder is trees of many small files. To synchronise them before the
// folder counts would cost more than making it, so a folder is believed at once
// by builds of the same boot, whose view of it cannot be torn, and by later
// boots when it was written out behind the builder's back (settle).
type folderRecord struct {
	Boot  string          `json:"boot,omitempty"` // the boot that made it, until it has settled
	Value json.RawMessage `json:"value,omitempty"`
}

// bootID names this boot of the machine, "" when the kernel does not say.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (c cache) folderPath(kind string, k Key) string { return c.path(kind, string(k)) }

// folder returns the kept folder of a key, and whether it is there and whole.
// What was kept with it is read into v, which may be nil.
func (c cache) folder(kind string, k Key, v any) (string, bool) {
	p := c.folderPath(kind, k)
	fi, err := os.Lstat(p)
	if err != nil || !fi.IsDir() {
		return p, false
	}
	var r folderRecord
	if !c.record(kind, k, &r) {
		return p, false
	}
	if r.Boot != "" {
		if r.Boot != bootID() {
			return p, false
		}
		c.settle(kind, k, r.Value)
	}
	return p, v == nil || json.Unmarshal(r.Value, v) == nil
}

// keepFolder moves a finished scratch folder to its place and records it. What
// an interrupted build left at the place is removed. The caller holds the lock
// of the key.
func (c cache) keepFolder(kind string, k Key, tmp string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.forget(kind, k)
	p := c.folderPath(kind, k)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := sandbox.RemoveAll(p); err != nil {
		return err
	}
	boot := bootID()
	if boot == "" {
		if err := durable.CommitDir(tmp, p); err != nil {
			return err
		}
	} else if err := os.Rename(tmp, p); err != nil {
		return err
	}
	if err := c.keep(kind, k, folderRecord{Boot: boot, Value: value}); err != nil {
		return err
	}
	if boot != "" {
		c.settle(kind, k, value)
	}
	return nil
}

// settle writes a folder out to disk while the build goes on, and then records
// that it will be whole after any restart. A process that ends before only
// leaves this to the next one.
func (c cache) settle(kind string, k Key, value json.RawMessage) {
	if _, begun := c.settling.LoadOrStore(kind+"/"+string(k), true); begun {
		return
	}
	c.settled.Go(func() {
		f, err := os.Open(c.folderPath(kind, k))
		if err != nil {
			return
		}
		defer f.Close()
		if c.syncFS(int(f.Fd())) == nil {
			_ = c.keep(kind, k, folderRecord{Value: value})
		}
	})
}

// lock takes turns with other builds that make the same folder. The lock's
// file stays: removing it would let two builders in.
func (c cache) lock(ctx context.Context, kind string, k Key, waiting func()) (func(), error) {
	p := c.folderPath(kind, k) + ".lock"
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return nil, err
	}
	return durable.Lock(ctx, p, waiting)
}

// heal finds the cache entry that holds a file and removes it when its bytes
// are not those of the digest. It returns the entry's path, "" when the file
// is sound or not the cache's.
func (c cache) heal(file string, offset, size int64, want oci.Digest) string {
	rel, err := filepath.Rel(c.dir, file)
	if err != nil || !filepath.IsLocal(rel) || strings.HasPrefix(rel, "vault"+string(filepath.Separator)) {
		return ""
	}
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, io.NewSectionReader(f, offset, size))
		if err == nil && n == size && digest.NewDigest(digest.SHA256, h) == want {
			return ""
		}
	} else if errors.Is(err, fs.ErrPermission) {
		return ""
	}
	parts := strings.Split(rel, string(filepath.Separator))
	entry := file
	if parts[0] != "files" && len(parts) > 2 {
		entry = c.path(parts[0], parts[1])
		c.forget(parts[0], Key(parts[1]))
	}
	if sandbox.RemoveAll(entry) != nil {
		return ""
	}
	return entry
}
