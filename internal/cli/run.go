package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/progress"
)

// Main runs the program with the process's own arguments and streams and
// returns its exit code.
//
// The first SIGINT or SIGTERM cancels the context, so that work can be put
// down in order; a second one has the signal's usual effect and ends the
// process at once.
func Main() int { return process(Commands()) }

func process(table []*Command) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-signals
		signal.Stop(signals)
		cancel(Interrupted{Signal: s})
	}()

	dir, err := os.Getwd()
	if err != nil {
		printError(os.Stderr, Usagef("the working folder cannot be told: %w", err))
		return Misused
	}
	env := &Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Now: time.Now, Dir: dir, Getenv: os.Getenv,
		commands: table,
	}
	return report(ctx, env, dispatch(ctx, env, os.Args[1:]))
}

// Run runs one command line in a world that the caller made and returns its
// exit code. Where env.Progress is nil, progress is reported on standard error
// when that is a file and discarded otherwise.
func Run(ctx context.Context, env *Env, args []string) int {
	env.commands = Commands()
	return report(ctx, env, dispatch(ctx, env, args))
}

// report tells an error and gives its exit code.
func report(ctx context.Context, env *Env, err error) int {
	code := exitCode(ctx, err)
	switch {
	case err == nil:
	case code > 128 && context.Cause(ctx) != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(env.Stderr, "error: interrupted") // where exactly does not matter
	default:
		printError(env.Stderr, err)
	}
	return code
}

// globals are the flags of every command.
type globals struct {
	quiet     bool
	cacheDir  string
	directory string
	help      bool
}

func (g *globals) flags() *pflag.FlagSet {
	fs := newFlagSet("twinhull")
	fs.StringVarP(&g.directory, "directory", "C", "", "work as if started in `DIR`")
	fs.StringVar(&g.cacheDir, "cache-dir", "", "keep what can be fetched or made again in `DIR` (default: TWINHULL_CACHE_DIR, else the user's cache folder)")
	fs.BoolVarP(&g.quiet, "quiet", "q", false, "say nothing but results and errors")
	fs.BoolVarP(&g.help, "help", "h", false, "explain the command")
	return fs
}

func newFlagSet(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SetOutput(io.Discard) // printError tells what is wrong
	fs.Usage = func() {}
	fs.SortFlags = false
	return fs
}

// commandFlags are the flags that a command accepts: its own and the global.
func commandFlags(c *Command, global *pflag.FlagSet) *pflag.FlagSet {
	fs := newFlagSet(c.Name)
	if c.Flags != nil {
		c.Flags(fs)
	}
	fs.AddFlagSet(global)
	return fs
}

// dispatch runs one command of env.commands.
func dispatch(ctx context.Context, env *Env, args []string) error {
	var g globals

	// Flags before the command's name are global ones. They are the same flags
	// after it: declaring them anew would set them back.
	global := g.flags()
	before := newFlagSet("twinhull")
	before.AddFlagSet(global)
	showVersion := before.Bool("version", false, "print the version")
	before.SetInterspersed(false)
	if err := before.Parse(args); err != nil {
		return flagError(err, before, "twinhull help")
	}
	args = before.Args()
	switch {
	case *showVersion:
		return printVersion(env.Stdout)
	case g.help && len(args) == 0:
		return overview(env.Stdout, env.commands)
	case len(args) == 0:
		_ = overview(env.Stderr, env.commands)
		return &Error{Code: Misused}
	}

	c, name, rest, err := find(env.commands, args)
	if err != nil {
		return err
	}
	fs := commandFlags(c, global)
	return start(ctx, env, c, name, fs, &g, rest)
}

// find looks the command up by its first words. name is how it was called:
// "vault verify".
func find(table []*Command, args []string) (c *Command, name string, rest []string, err error) {
	for {
		if len(args) == 0 || strings.HasPrefix(args[0], "-") {
			return c, name, args, nil // of a group, which start explains
		}
		i := slices.IndexFunc(table, func(c *Command) bool { return c.Name == args[0] })
		if i < 0 {
			e := Usagef("unknown command %q", strings.TrimSpace(name+" "+args[0]))
			if near := nearest(args[0], names(table)); near != "" {
				return nil, "", nil, e.WithHint("did you mean `twinhull %s`?", strings.TrimSpace(name+" "+near))
			}
			return nil, "", nil, e.WithHint("`twinhull help` lists the commands")
		}
		c = table[i]
		name = strings.TrimSpace(name + " " + c.Name)
		args = args[1:]
		if c.Sub == nil {
			return c, name, args, nil
		}
		table = c.Sub
	}
}

func start(ctx context.Context, env *Env, c *Command, name string, fs *pflag.FlagSet, g *globals, args []string) error {
	if err := fs.Parse(args); err != nil {
		return flagError(err, fs, "twinhull help "+name)
	}
	args = fs.Args()
	switch {
	case g.help:
		return explain(env.Stdout, c, name)
	case c.Sub != nil:
		return Usagef("%s: which one?", name).WithHint("twinhull %s %s", name, strings.Join(names(c.Sub), "|"))
	case len(args) < c.Min:
		return Usagef("%s: too few arguments", name).WithHint("usage: %s", usage(c, name))
	case c.Max >= 0 && len(args) > c.Max:
		return Usagef("%s: unexpected argument %q", name, args[c.Max]).WithHint("usage: %s", usage(c, name))
	}

	if g.directory != "" {
		dir := env.Path(g.directory)
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return Usagef("--directory %s: no such folder", g.directory)
		}
		env.Dir = dir
	}
	env.cacheDir, env.Quiet = g.cacheDir, g.quiet
	if f, ok := env.Stderr.(*os.File); env.Quiet {
		env.Progress = progress.Discard
	} else if env.Progress == nil && ok {
		env.Progress = progress.New(f, false)
	} else if env.Progress == nil {
		env.Progress = progress.Discard
	}
	return c.Run(ctx, env, args)
}

// flagError says what pflag says, with the flag that was probably meant.
func flagError(err error, fs *pflag.FlagSet, help string) error {
	e := Usagef("%w", err)
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && len(unknown.GetSpecifiedName()) > 1 {
		var all []string
		fs.VisitAll(func(f *pflag.Flag) { all = append(all, f.Name) })
		if near := nearest(unknown.GetSpecifiedName(), all); near != "" {
			return e.WithHint("did you mean --%s?", near)
		}
	}
	return e.WithHint("`%s` lists the flags", help)
}

// names are those of the commands for people.
func names(table []*Command) []string {
	var all []string
	for _, c := range table {
		if !c.Hidden {
			all = append(all, c.Name)
		}
	}
	return all
}
