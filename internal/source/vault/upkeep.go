package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/progress"
)

// Entry is one input in the vault.
type Entry struct {
	Digest oci.Digest
	Size   int64 // bytes
}

// List returns what the vault holds, sorted by digest. Files that do not belong
// there are not in it; Verify reports them.
func (v *Vault) List() ([]Entry, error) {
	var all []Entry
	err := v.walk(func(path string, d oci.Digest, st fs.FileInfo) {
		if d != "" && st.Mode().IsRegular() {
			all = append(all, Entry{d, st.Size()})
		}
	})
	if err != nil {
		return nil, err
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Digest < all[j].Digest })
	return all, nil
}

// walk visits everything below the two algorithm folders; d is "" for what is
// not at the place of a digest.
func (v *Vault) walk(visit func(path string, d oci.Digest, st fs.FileInfo)) error {
	for _, a := range algorithms {
		root := filepath.Join(v.dir, a.String())
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if e.IsDir() {
				return nil
			}
			st, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			d := digest.NewDigestFromEncoded(a, e.Name())
			if v.Path(d) != path {
				d = ""
			}
			visit(path, d, st)
			return nil
		})
		if err != nil {
			return fmt.Errorf("vault: %w", err)
		}
	}
	return nil
}

// Result is what Verify found.
type Result struct {
	Files   int   // inputs that are what their names say
	Bytes   int64 // their total
	Damaged []Damage
}

// Damage is one file that is not what its name says.
type Damage struct {
	Path   string // where it was
	Moved  string // where it is now
	Reason string
}

// Verify hashes every input again, in parallel. A file that is not what its
// name says is moved to the damaged folder, so that the next fetch brings it
// anew, and is listed in the Result; the error is for what kept Verify from
// looking.
func (v *Vault) Verify(ctx context.Context, report progress.Reporter) (Result, error) {
	type job struct {
		path string
		d    oci.Digest
		st   fs.FileInfo
	}
	var jobs []job
	var total int64
	err := v.walk(func(path string, d oci.Digest, st fs.FileInfo) {
		jobs = append(jobs, job{path, d, st})
		total += st.Size()
	})
	if err != nil {
		return Result{}, err
	}
	task := report.Task(fmt.Sprintf("verify %d inputs", len(jobs)), total)
	var (
		mu  sync.Mutex
		res Result
	)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, j := range jobs {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			reason := "its name is not a digest"
			switch {
			case !j.st.Mode().IsRegular():
				reason = "not a regular file"
			case j.d != "":
				var err error
				if reason, err = v.examine(ctx, j.d, task); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if reason == "" {
				res.Files++
				res.Bytes += j.st.Size()
				return nil
			}
			moved, err := v.setAside(j.path)
			if err != nil {
				return err
			}
			res.Damaged = append(res.Damaged, Damage{Path: j.path, Moved: moved, Reason: reason})
			report.Printf("damaged: %s: %s; moved to %s", j.path, reason, moved)
			return nil
		})
	}
	err = g.Wait()
	task.Done(err)
	sort.Slice(res.Damaged, func(i, j int) bool { return res.Damaged[i].Path < res.Damaged[j].Path })
	return res, err
}

// examine says what is wrong with the bytes of d, "" when nothing is.
func (v *Vault) examine(ctx context.Context, d oci.Digest, task progress.Task) (string, error) {
	f, err := v.Open(d)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := d.Algorithm().Hash()
	if _, err := copyBounded(ctx, counter{task}, h, f, -1); err != nil {
		if errors.Is(err, unix.EIO) {
			return "cannot be read: " + err.Error(), nil
		}
		return "", fmt.Errorf("vault: read %s: %w", d, err)
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return "its content is " + got.String(), nil
	}
	return "", nil
}

type counter struct{ t progress.Task }

func (c counter) Write(p []byte) (int, error) {
	c.t.Add(int64(len(p)))
	return len(p), nil
}

// setAside moves a file to the damaged folder.
func (v *Vault) setAside(path string) (string, error) {
	if err := durable.MkdirAll(v.damagedDir(), 0o755); err != nil {
		return "", fmt.Errorf("vault: %w", err)
	}
	rel, err := filepath.Rel(v.dir, path)
	if err != nil {
		return "", fmt.Errorf("vault: %w", err)
	}
	to := filepath.Join(v.damagedDir(), flat(rel))
	if err := os.Rename(path, to); err != nil {
		return "", fmt.Errorf("vault: %w", err)
	}
	return to, durable.SyncDir(filepath.Dir(path))
}

// flat makes one name of a path ("sha256-ab-abcd").
func flat(rel string) string {
	out := []byte(rel)
	for i := range out {
		if out[i] == filepath.Separator {
			out[i] = '-'
		}
	}
	return string(out)
}

// Freed is what a collection removed, or would.
type Freed struct {
	Kept    int // inputs that stay
	Files   int // files removed, inputs and left-overs
	Bytes   int64
	Removed []Entry // the inputs among them, sorted
}

// GC removes the inputs that keep does not want, interrupted transfers, and
// what Verify moved aside. It waits until nobody holds the vault, and keeps
// others waiting meanwhile. With dryRun it removes nothing and says what it
// would. Space that a file shares with an exported layout by a hard link is
// counted although it stays in use.
func (v *Vault) GC(ctx context.Context, keep func(oci.Digest) bool, dryRun bool) (Freed, error) {
	unlock, err := durable.Lock(ctx, filepath.Join(v.dir, "lock"), nil)
	if err != nil {
		return Freed{}, fmt.Errorf("vault gc: %w", err)
	}
	defer unlock()
	all, err := v.List()
	if err != nil {
		return Freed{}, err
	}
	var freed Freed
	remove := func(path string, size int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		freed.Files++
		freed.Bytes += size
		if dryRun {
			return nil
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("vault gc: %w", err)
		}
		return nil
	}
	for _, e := range all {
		if keep(e.Digest) {
			freed.Kept++
			continue
		}
		if err := remove(v.Path(e.Digest), e.Size); err != nil {
			return freed, err
		}
		freed.Removed = append(freed.Removed, e)
	}
	for _, dir := range []string{v.partialDir(), v.damagedDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed, fmt.Errorf("vault gc: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			st, err := e.Info()
			if err != nil || !st.Mode().IsRegular() || inUse(path) {
				continue
			}
			if err := remove(path, st.Size()); err != nil {
				return freed, err
			}
		}
	}
	return freed, nil
}

// inUse tells whether a process has a transfer open that did not Hold the vault.
func inUse(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

var _ io.Writer = counter{}
