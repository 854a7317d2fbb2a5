package build

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"twinhull.dev/twinhull/internal/sandbox"
)

// stepLog keeps the complete output of a sandboxed command in the project's
// state folder and its last lines in memory, for the message when it fails.
type stepLog struct {
	mu   sync.Mutex
	file *os.File
	also io.Writer
	tail []byte
}

const tailBytes = 4 << 10

func (b *Builder) openLog(name string) (*stepLog, error) {
	dir := filepath.Join(b.dir, stateDir, "logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
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
	return l.file.Write(p)
}

func (l *stepLog) Close() error { return l.file.Close() }

// StepError is a sandboxed command that did not succeed.
type StepError struct {
	What   string // "step compile (npx tsc)"
	Result sandbox.Result
	Tail   string // its last output, at most 20 lines
	Log    string // path of the file with all of it
}

func (e *StepError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s failed: %s", e.What, e.Result)
	if e.Tail != "" {
		for line := range strings.Lines(e.Tail) {
			b.WriteString("\n    " + strings.TrimRight(line, "\n"))
		}
	}
	fmt.Fprintf(&b, "\nall of its output: %s\nhint: `twinhull build --shell-on-failure` opens a shell where it failed", e.Log)
	return b.String()
}

func (l *stepLog) failure(what string, res sandbox.Result) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := bytes.Split(bytes.TrimRight(l.tail, "\n"), []byte("\n"))
	if len(lines) > 20 {
		lines = lines[len(lines)-20:]
	}
	return &StepError{What: what, Result: res, Tail: string(bytes.Join(lines, []byte("\n"))), Log: l.file.Name()}
}
