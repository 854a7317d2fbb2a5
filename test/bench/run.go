package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// outcome is what is known of a command that ran.
type outcome struct {
	seconds float64
	cpu     float64 // user and system seconds of the process and its children
	largest float64 // MiB: the largest process of them (what wait4 reports)
	stdout  []byte
	lines   []stamped // of standard error, with the time when each came
}

// stamped is a line and when it came, in seconds since the start.
type stamped struct {
	at   float64
	text string
}

// command is one program to run. Env is added to a small fixed environment.
type command struct {
	dir  string
	env  []string
	args []string
	seen func(pid int) (stop func()) // watches the process while it runs; may be nil
}

// run runs a command to its end. Everything dirty is written out first, so
// that no command pays for the one before it.
func run(ctx context.Context, c command) (outcome, error) {
	var o outcome
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(environment(), c.env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	// A pipe of our own: Wait may only be called when it has been read.
	pr, pw, err := os.Pipe()
	if err != nil {
		return o, err
	}
	defer pr.Close()
	cmd.Stderr = pw
	syscall.Sync()
	began := time.Now()
	if err := cmd.Start(); err != nil {
		pw.Close()
		return o, err
	}
	pw.Close()
	stop := func() {}
	if c.seen != nil {
		stop = c.seen(cmd.Process.Pid)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		s := bufio.NewScanner(pr)
		s.Buffer(nil, 16<<20)
		for s.Scan() {
			o.lines = append(o.lines, stamped{time.Since(began).Seconds(), s.Text()})
		}
	}()
	err = cmd.Wait()
	o.seconds = time.Since(began).Seconds()
	stop()
	select {
	case <-read:
	case <-time.After(5 * time.Second): // a child kept the pipe
		pr.Close()
		<-read
	}
	o.stdout = stdout.Bytes()
	if s := cmd.ProcessState; s != nil {
		o.cpu = (s.UserTime() + s.SystemTime()).Seconds()
		if ru, ok := s.SysUsage().(*syscall.Rusage); ok {
			o.largest = float64(ru.Maxrss) / 1024
		}
	}
	if err != nil {
		last := ""
		for _, l := range o.lines {
			if strings.TrimSpace(l.text) != "" {
				last = strings.TrimSpace(l.text)
			}
		}
		return o, fmt.Errorf("%s: %w: %s\n    %s\n%s", filepath.Base(c.args[0]), err, last, strings.Join(c.args, " "), tail(o.lines, 25))
	}
	return o, nil
}

// environment is what every contender gets: nothing of the caller's that could
// change what is built.
func environment() []string {
	var out []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOPROXY", "GONOSUMDB", "GONOSUMCHECK", "GOSUMDB", "GOFLAGS", "GOPATH", "GOMODCACHE", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"} {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return append(out, "LANG=C.UTF-8", "TZ=UTC")
}

func tail(lines []stamped, n int) string {
	var b strings.Builder
	for _, l := range lines[max(0, len(lines)-n):] {
		b.WriteString("    " + l.text + "\n")
	}
	return b.String()
}

// memory is the peak of a process and of all that it starts.
type memory struct {
	mu    sync.Mutex
	self  float64 // MiB resident at the most, of the process alone
	tree  float64 // MiB at the most of the process and its descendants together, shared pages counted once
	count int     // samples
}

// watch samples a process and its descendants until stop is called. It costs
// some processor time, so runs that are watched are not timed.
func (m *memory) watch(pid int) (stop func()) {
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		t := time.NewTicker(40 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			self := field(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
			var tree float64
			for _, p := range descendants(pid) {
				tree += field(fmt.Sprintf("/proc/%d/smaps_rollup", p), "Pss:")
			}
			m.mu.Lock()
			m.self, m.tree = max(m.self, self/1024), max(m.tree, tree/1024)
			m.count++
			m.mu.Unlock()
		}
	}()
	return func() { close(done); <-gone }
}

// field reads a number of kilobytes from a file of /proc; 0 when it is gone.
func field(file, name string) float64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return n
		}
	}
	return 0
}

// descendants lists a process and all that it started.
func descendants(pid int) []int {
	out := []int{pid}
	for i := 0; i < len(out); i++ {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", out[i]))
		for _, t := range tasks {
			b, err := os.ReadFile(t)
			if err != nil {
				continue
			}
			for f := range strings.FieldsSeq(string(b)) {
				if n, err := strconv.Atoi(f); err == nil {
					out = append(out, n)
				}
			}
		}
	}
	return out
}

// linkTree makes to a tree of hard links to the files of from.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		at := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(at, 0o755)
		}
		return os.Link(p, at)
	})
}

// copyTree copies a folder without what skip names.
func copyTree(from, to string, skip ...string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, s := range skip {
			if d.Name() == s {
				if d.IsDir() {
					return filepath.SkipDir
				}
				return nil
			}
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		at := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(at, 0o755)
		}
		return copyFile(p, at)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fi.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// emptyTree gives back the space of a tree that is done with and keeps its
// inodes: ext4 passes over inodes that were freed within the last minutes one by
// one, so that whatever makes many files just after a removal spends seconds
// looking for free ones. Files with other names elsewhere are left alone.
func emptyTree(dir string) {
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if fi, err := d.Info(); err == nil && fi.Sys().(*syscall.Stat_t).Nlink == 1 {
			os.Truncate(p, 0)
		}
		return nil
	})
}

// removeAll removes a tree whatever the modes of its folders are.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
