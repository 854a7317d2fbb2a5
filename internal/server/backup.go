package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/registry"
)

// BackedUp is what a back-up holds.
type BackedUp struct {
	Dir     string    `json:"dir"`
	At      time.Time `json:"at"`
	Entries uint64    `json:"entries"` // of the audit log
	Version string    `json:"version"` // of the program
	Partial string    `json:"partial,omitempty"`
}

// Backup copies everything that is in the data folder into a folder on this
// machine, which can be served as a data folder itself. A server that runs goes
// on: it does the copying, and only decisions (releases and the like) wait for the
// last seconds of it. A second back-up into the same folder copies what is new.
func Backup(ctx context.Context, c Config, opt Options, dir string) (out BackedUp, err error) {
	if err := c.Check(); err != nil {
		return out, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return out, err
	}
	err = ask(ctx, c.Data, "backup", backupRequest{dir}, &out)
	if !errors.Is(err, errNoServer) {
		return out, err
	}
	s, err := openStopped(ctx, c, opt)
	if err != nil {
		return out, err
	}
	out, err = s.backup(ctx, dir)
	return out, errors.Join(err, s.Close())
}

// backup copies in two passes. The first takes what there is, for as long as it
// takes. The second takes what has come since while no decision can enter the
// audit log: so the records and the log that are copied are of one moment, and a
// decision that was between its entry and its effect is finished by whoever opens
// the copy, as after a crash.
func (s *Server) backup(ctx context.Context, dir string) (out BackedUp, err error) {
	done, err := s.oneAtATime()
	if err != nil {
		return out, err
	}
	defer done()
	if !filepath.IsAbs(dir) {
		return out, fmt.Errorf("back up to %s: want an absolute path", dir)
	}
	for _, ours := range []string{s.c.Data, s.c.logDir()} {
		if within(dir, ours) || within(ours, dir) {
			return out, fmt.Errorf("back up to %s: is where the server keeps its own: want a folder outside %s, best on another disk", dir, ours)
		}
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return out, err
	}
	out = BackedUp{Dir: dir, Version: s.opt.Version}
	// Whoever opens the copy must find the back-up complete: what says so is
	// written last and taken away first.
	about := filepath.Join(dir, "backup.json")
	if err := os.Remove(about); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	pass := func(last bool) error {
		if s.store.files != nil {
			if err := s.store.files.Backup(ctx, filepath.Join(dir, "store")); err != nil {
				return err
			}
		}
		if s.store.rest != "" {
			out.Partial = s.store.rest + ": back up with its own tools, after this"
		}
		if s.audit == nil {
			return nil
		}
		return s.backupLog(ctx, filepath.Join(dir, "log"), last)
	}
	if err := pass(false); err != nil {
		return out, err
	}
	s.gate.Lock()
	err = func() error {
		defer s.gate.Unlock()
		out.At = s.opt.Now().UTC()
		if s.audit != nil {
			if out.Entries, err = s.audit.Size(ctx); err != nil {
				return err
			}
		}
		return pass(true)
	}()
	if err != nil {
		return out, err
	}
	for _, name := range []string{"keys", "announced.json"} {
		if err := copyTree(ctx, filepath.Join(s.c.Data, name), filepath.Join(dir, name), func(string) bool { return true }); err != nil {
			return out, err
		}
	}
	if err := syncTree(dir); err != nil {
		return out, err
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return out, err
	}
	if err := durable.WriteFile(about, append(b, '\n'), 0o600); err != nil {
		return out, err
	}
	s.log.Info("backed up", "dir", dir, "entries", out.Entries)
	return out, nil
}

// within tells whether path is dir or below it.
func within(path, dir string) bool {
	for _, p := range []*string{&path, &dir} {
		if real, err := filepath.EvalSymlinks(*p); err == nil {
			*p = real
		}
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// awaitCheckpoint is how long a back-up waits for a checkpoint that covers all. A
// log whose witnesses do not answer is copied with an older one.
const awaitCheckpoint = 5 * time.Second

// backupLog copies the log. Tiles never change and are copied once; what does
// change is copied last, when nothing is appended: so it is never ahead of the
// tiles.
func (s *Server) backupLog(ctx context.Context, to string, last bool) error {
	from := s.c.logDir()
	changes := func(rel string) bool {
		return rel == "checkpoint" || strings.HasPrefix(rel, ".state/") || !strings.HasPrefix(rel, "tile/")
	}
	if last {
		if n, err := s.audit.Size(ctx); err == nil && n > 0 {
			wait, cancel := context.WithTimeout(ctx, awaitCheckpoint)
			_, _ = s.audit.Await(wait, n-1)
			cancel()
		}
	}
	if err := copyTree(ctx, from, to, func(rel string) bool { return !changes(rel) }); err != nil || !last {
		return err
	}
	return copyTree(ctx, from, to, func(rel string) bool { return changes(rel) && rel != "lock" && !strings.HasSuffix(rel, ".lock") })
}

// copyTree copies the regular files that take names, and those that are there
// already with the same size only when they may have changed (not below tile/).
// What goes away meanwhile is left out; a folder that is not there is nothing.
func copyTree(ctx context.Context, from, to string, take func(rel string) bool) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		if !d.Type().IsRegular() || rel != "." && !take(filepath.ToSlash(rel)) {
			return nil
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if have, err := os.Stat(target); err == nil && have.Size() == fi.Size() && strings.HasPrefix(filepath.ToSlash(rel), "tile/") {
			return nil
		}
		return copyFile(path, target, fi.Mode().Perm())
	})
}

// copyFile copies a file that appears under its name when it is complete. It does
// not synchronise: there are thousands of small ones, and all are together before
// the back-up says that it is one.
func copyFile(from, to string, perm fs.FileMode) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	temp := filepath.Join(filepath.Dir(to), durable.TempPrefix+"copy")
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(perm), out.Close()); err == nil {
		err = os.Rename(temp, to)
	}
	return err
}

// gatedLog lets no entry in while a back-up takes the records and the log of one
// moment.
type gatedLog struct {
	registry.Log
	s *Server
}

func (l gatedLog) Append(ctx context.Context, e audit.Entry) (uint64, error) {
	l.s.gate.RLock()
	defer l.s.gate.RUnlock()
	return l.Log.Append(ctx, e)
}
