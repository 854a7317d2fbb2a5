package build

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/sandbox"
)

// stepLog keeps the complete output of a sandboxed command in the project's
// state folder and its last lines in memory, for the message when it fails.
type stepLog struct {
	mu   sync.Mutex
	file *os.File
	also io.Writer
	tail []byte
	err  error // the first failed write
}

const tailBytes = 4 << 10

func (b *Builder) openLog(name string) (*stepLog, error) {
	if err := makeFolders(b.dir, stateDir+"/logs"); err != nil {
		return nil, fmt.Errorf("the log of %s: %w", name, err)
	}
	p := filepath.Join(b.dir, stateDir, "logs", name+".log")
	// A new file each time: whoever still reads the old one keeps it, and a
	// link in its place leads nowhere.
	if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the log of %s: %w", name, err)
	}
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("the log of %s: %w", name, err)
	}
	return &stepLog{file: f, also: b.Log}, nil
}

func (l *stepLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if n := len(l.tail) - tailBytes; n > tailBytes {
		l.tail = append(l.tail[:0], l.tail[n:]...)
	}
	if l.also != nil {
		_, _ = l.also.Write(p) // watching is a courtesy; the file is the record
	}
	// A log that cannot be written does not stop the step, which would fail
	// with a word about a closed pipe; failure tells of it.
	if l.err == nil {
		_, l.err = l.file.Write(p)
	}
	return len(p), nil
}

func (l *stepLog) Close() error { return l.file.Close() }

// StepError is a sandboxed command that did not succeed.
type StepError struct {
	What   string // "step compile (npx tsc)"
	Result sandbox.Result
	Tail   string // its last output, at most 20 lines
	Log    string // path of the file with all of it
	Err    error  // why Log is not complete, or nil
	Cause  error  // what the output tells of the machine's state, or nil
}

// Unwrap returns what kept the log from being written, and what its end tells
// of the machine's state.
func (e *StepError) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Err, e.Cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func (e *StepError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s failed: %s", e.What, e.Result)
	if e.Tail != "" {
		for line := range strings.Lines(e.Tail) {
			b.WriteString("\n    " + strings.TrimRight(line, "\n"))
		}
	}
	if e.Err != nil {
		fmt.Fprintf(&b, "\nthe log is not complete: %v", e.Err)
	}
	if e.Cause != nil {
		fmt.Fprintf(&b, "\nits output says: %v", e.Cause)
	}
	fmt.Fprintf(&b, "\nall of its output: %s\nhint: `twinhull build --shell-on-failure` opens a shell where it failed", e.Log)
	return b.String()
}

func (l *stepLog) failure(what string, res sandbox.Result) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Programs report a full disk in the C library's words; C.UTF-8 is the
	// locale of every step.
	var cause error
	if bytes.Contains(l.tail, []byte("No space left on device")) {
		cause = unix.ENOSPC
	}
	lines := bytes.Split(bytes.TrimRight(l.tail, "\n"), []byte("\n"))
	if len(lines) > 20 {
		lines = lines[len(lines)-20:]
	}
	return &StepError{What: what, Result: res, Tail: string(bytes.Join(lines, []byte("\n"))), Log: l.file.Name(), Err: l.err, Cause: cause}
}
