// Package cli is the command line: a table of commands, a file each, and the
// little that they share (flags, help, completion, manual pages, errors, exit
// codes).
//
// It is wiring, by hand and in sight. A command reads its flags, calls the
// packages that do the work and prints what they return; it holds no logic that
// a server or a test would want too. Results go to standard output, talk and
// progress to standard error, so that a pipe carries results only.
//
// To add a command, write a file with a function that returns a *Command and
// add a line to Commands. Help, completion and the manual page follow from the
// fields.
package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/progress"
)

// Command is one verb. A Command is made fresh for each run of the program, so
// that Flags may bind to variables that Run reads.
type Command struct {
	Name     string // lower-case word
	Args     string // what follows the flags: "[IMAGE] [PATH]"
	Min, Max int    // how many arguments; Max -1 for no limit. A command with Sub takes none of its own
	Short    string // one line, imperative, no full stop: "check every input against its digest"
	Long     string // paragraphs, wrapped by hand at 80 columns
	Examples string // lines as typed, without a prompt; a # begins a remark

	// Words are completed for the first argument, "word" or "word\tmeaning".
	// File names are completed when there are none.
	Words []string

	// Flags declares the command's own flags; nil for none.
	Flags func(*pflag.FlagSet)

	// Run does the work. args are what is neither a flag nor a flag's value;
	// everything after "--" is among them unread. The error decides the exit
	// code (see Error); ctx is cancelled by the first interrupt.
	Run func(ctx context.Context, env *Env, args []string) error

	Sub    []*Command // second words ("vault verify"); Run is then nil
	Hidden bool       // for programs: not in help, completion or manual
}

// Env is the world as a command sees it. Commands take everything from here
// and nothing from package os, so that tests can run them side by side.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer // results
	Stderr io.Writer // talk

	Progress progress.Reporter        // discards with --quiet
	Now      func() time.Time         // for what a person sees, never for what is built
	Dir      string                   // absolute working folder, after --directory
	Getenv   func(name string) string // "" for what is not set
	Quiet    bool                     // --quiet: results and errors only
	cacheDir string                   // --cache-dir as given
	commands []*Command               // the table, for help and completion
}

// CacheDir returns the absolute folder of everything that can be fetched or
// made again: --cache-dir, else TWINHULL_CACHE_DIR, else the user's cache folder
// by the XDG base directory specification. It may not exist yet.
func (e *Env) CacheDir() (string, error) {
	for _, given := range []string{e.cacheDir, e.Getenv("TWINHULL_CACHE_DIR")} {
		if given != "" {
			return e.Path(given), nil
		}
	}
	// A relative XDG_CACHE_HOME must be ignored (specification, "Environment
	// variables"): it would mean another cache in every folder.
	if xdg := e.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(xdg) {
		return filepath.Join(xdg, "twinhull"), nil
	}
	if home := e.Getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".cache", "twinhull"), nil
	}
	return "", Usagef("no cache folder: neither XDG_CACHE_HOME nor HOME is an absolute path").
		WithHint("say where with --cache-dir DIR")
}

// Path makes a path that a user gave absolute: relative ones are below Dir.
func (e *Env) Path(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(e.Dir, path)
}

// Talkf writes a line to standard error, unless --quiet.
func (e *Env) Talkf(format string, args ...any) {
	if !e.Quiet {
		fmt.Fprintf(e.Stderr, format+"\n", args...)
	}
}
