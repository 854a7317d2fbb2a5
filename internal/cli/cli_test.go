package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// try runs one command of a table of its own.
func try(t *testing.T, ctx context.Context, c *Command, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Dir: t.TempDir(), Getenv: func(string) string { return "" }}
	env.commands = []*Command{c}
	err := dispatch(ctx, env, args)
	return report(ctx, env, err), out.String(), errs.String()
}

func failing(err error) *Command {
	return &Command{Name: "do", Max: -1, Run: func(context.Context, *Env, []string) error { return err }}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"done", nil, 0, ""},
		{"any error", errors.New("disk full"), 1, "error: disk full\n"},
		{"refused", Refusedf("no").WithHint("try %s", "again"), 1, "error: no\nhint: try again\n"},
		{"misused", Usagef("what?"), 2, "error: what?\n"},
		{"undecided", Undecidedf("no index"), 3, "error: no index\n"},
		{"wrapped", fmt.Errorf("check: %w", Undecidedf("no index").WithHint("fetch it")), 3, "error: check: no index\nhint: fetch it\n"},
		{"what was run", Status(42), 42, ""},
		{"what was run, done", Status(0), 0, ""},
		{"hint in the text", errors.New("f:1: bad\n  hint: mend it"), 1, "error: f:1: bad\nhint: mend it\n"},
		{"several lines", errors.New("f:1: bad\n  because"), 1, "error: f:1: bad\n  because\n"},
		{"several errors", errors.Join(errors.New("a\n  hint: b"), errors.New("c")), 1, "error: a\nhint: b\nerror: c\n"},
		{"several with words between", fmt.Errorf("%w after %w", io.EOF, io.ErrNoProgress), 1, "error: EOF after multiple Read calls return no data or error\n"},
		{"escape sequences", errors.New("bad name \x1b[2J\r"), 1, "error: bad name \ufffd[2J\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := try(t, t.Context(), failing(c.err), "do")
			if code != c.code || stdout != "" {
				t.Errorf("code %d, stdout %q; want %d and nothing", code, stdout, c.code)
			}
			if diff := cmp.Diff(c.want, stderr); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestInterrupted(t *testing.T) {
	for signal, want := range map[os.Signal]int{os.Interrupt: 130, syscall.SIGTERM: 143} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(Interrupted{Signal: signal})
		code, _, stderr := try(t, ctx, failing(fmt.Errorf("fetch: %w", ctx.Err())), "do")
		if code != want || stderr != "error: interrupted\n" {
			t.Errorf("%v: code %d, %q; want %d", signal, code, stderr, want)
		}
		if code, _, _ := try(t, ctx, failing(nil), "do"); code != 0 {
			t.Errorf("%v: what was done all the same exits %d", signal, code)
		}
	}
}

func TestFlagsAnywhere(t *testing.T) {
	type seen struct {
		Args, N         []string
		Quiet           bool
		CacheDir, Where string
	}
	for _, c := range []struct {
		line string
		want seen
	}{
		{"do", seen{Args: []string{}, CacheDir: "/home/u/.cache/twinhull", Where: "."}},
		{"-q do a --n=1 b", seen{Args: []string{"a", "b"}, N: []string{"1"}, Quiet: true, CacheDir: "/home/u/.cache/twinhull", Where: "."}},
		{"do a -n 1 -n 2 --quiet", seen{Args: []string{"a"}, N: []string{"1", "2"}, Quiet: true, CacheDir: "/home/u/.cache/twinhull", Where: "."}},
		{"--cache-dir /c do", seen{Args: []string{}, CacheDir: "/c", Where: "."}},
		{"--cache-dir /c do --cache-dir /d", seen{Args: []string{}, CacheDir: "/d", Where: "."}},
		{"do -C sub --cache-dir c", seen{Args: []string{}, CacheDir: "sub/c", Where: "sub"}},
		{"-C sub do", seen{Args: []string{}, CacheDir: "/home/u/.cache/twinhull", Where: "sub"}},
		{"do a -- -n --quiet", seen{Args: []string{"a", "-n", "--quiet"}, CacheDir: "/home/u/.cache/twinhull", Where: "."}},
	} {
		t.Run(c.line, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sub"), 0o777); err != nil {
				t.Fatal(err)
			}
			var got seen
			env := &Env{Stdout: io.Discard, Stderr: io.Discard, Dir: dir, Getenv: func(name string) string {
				return map[string]string{"HOME": "/home/u", "XDG_CACHE_HOME": "relative/ignored"}[name]
			}}
			env.commands = []*Command{{
				Name: "do", Max: -1,
				Flags: func(fs *pflag.FlagSet) { fs.StringArrayVarP(&got.N, "number", "n", nil, "a `NUMBER`") },
				Run: func(_ context.Context, env *Env, args []string) error {
					cache, err := env.CacheDir()
					if rel, e := filepath.Rel(dir, cache); e == nil && !strings.HasPrefix(rel, "..") {
						cache = rel
					}
					got.Args, got.Quiet, got.CacheDir = args, env.Quiet, cache
					got.Where, _ = filepath.Rel(dir, env.Dir)
					if env.Progress == nil {
						t.Error("no progress reporter")
					}
					return err
				},
			}}
			if err := dispatch(t.Context(), env, strings.Fields(strings.ReplaceAll(c.line, "--n=", "--number="))); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNoCacheFolder(t *testing.T) {
	env := &Env{Dir: "/d", Getenv: func(string) string { return "" }}
	if _, err := env.CacheDir(); exitCode(t.Context(), err) != Misused {
		t.Errorf("got %v, want a usage error", err)
	}
}

func TestSubcommands(t *testing.T) {
	ran := ""
	sub := func(name string) *Command {
		return &Command{Name: name, Short: name + " it", Run: func(context.Context, *Env, []string) error { ran = name; return nil }}
	}
	vault := &Command{Name: "vault", Short: "keep", Sub: []*Command{sub("verify"), sub("gc")}}
	if code, _, _ := try(t, t.Context(), vault, "vault", "gc"); code != 0 || ran != "gc" {
		t.Errorf("code %d, ran %q", code, ran)
	}
	for args, want := range map[string]string{
		"vault":        "error: vault: which one?\nhint: twinhull vault verify|gc\n",
		"vault verfiy": "error: unknown command \"vault verfiy\"\nhint: did you mean `twinhull vault verify`?\n",
		"vault gc now": "error: vault gc: unexpected argument \"now\"\nhint: usage: twinhull vault gc\n",
	} {
		if code, _, stderr := try(t, t.Context(), vault, strings.Fields(args)...); code != Misused || stderr != want {
			t.Errorf("%s: code %d\n%s", args, code, cmp.Diff(want, stderr))
		}
	}
	if _, stdout, _ := try(t, t.Context(), vault, "vault", "--help"); !strings.Contains(stdout, "  verify  verify it\n") {
		t.Errorf("help of a group does not list it:\n%s", stdout)
	}
	table := []*Command{vault}
	if got := candidates(table, []string{"vault", "v"}); !slices.Equal(got, []string{"verify\tverify it"}) {
		t.Errorf("completion of a group: %q", got)
	}
	var pages []string
	for _, p := range manPages(table, "devel") {
		pages = append(pages, p.name)
	}
	if want := []string{"twinhull.1", "twinhull-vault.1", "twinhull-vault-verify.1", "twinhull-vault-gc.1"}; !slices.Equal(pages, want) {
		t.Errorf("pages %q", pages)
	}
}

// TestTable holds every command to what help, completion and the manual expect.
func TestTable(t *testing.T) {
	var check func(table []*Command, path string)
	check = func(table []*Command, path string) {
		seen := map[string]bool{}
		for _, c := range table {
			name := strings.TrimSpace(path + " " + c.Name)
			fault := func(format string, args ...any) { t.Errorf(name+": "+format, args...) }
			if seen[c.Name] {
				fault("twice in the table")
			}
			seen[c.Name] = true
			if !regexp.MustCompile(`^(__)?[a-z][a-z-]*$`).MatchString(c.Name) {
				fault("not a lower-case word")
			}
			if (c.Run == nil) == (c.Sub == nil) {
				fault("want exactly one of Run and Sub")
			}
			if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Short[0] < 'a' || c.Short[0] > 'z' || len(c.Short) > 60 {
				fault("Short %q: want a short lower-case line without a full stop", c.Short)
			}
			if c.Long == "" && !c.Hidden {
				fault("no Long")
			}
			for _, line := range strings.Split(c.Long+"\n"+c.Examples, "\n") {
				if len(line) > 90 || strings.ContainsRune(line, '\t') {
					fault("line too long or with a tab: %q", line)
				}
			}
			if c.Max >= 0 && c.Min > c.Max {
				fault("Min %d above Max %d", c.Min, c.Max)
			}
			if (c.Max != 0) != (c.Args != "") {
				fault("Args %q does not fit Max %d", c.Args, c.Max)
			}
			// A flag that is declared here and for all would panic.
			commandFlags(c, new(globals).flags()).VisitAll(func(f *pflag.Flag) {
				if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
					fault("--%s: usage %q", f.Name, f.Usage)
				}
			})
			check(c.Sub, name)
		}
	}
	check(Commands(), "")
}

func TestNearest(t *testing.T) {
	all := []string{"build", "version", "run", "vault"}
	for word, want := range map[string]string{
		"biuld": "build", "verison": "version", "rnu": "run", "valt": "vault", "x": "", "": "", "deploy": "",
		strings.Repeat("v", 1000): "",
	} {
		if got := nearest(word, all); got != want {
			t.Errorf("nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
}

func TestVersion(t *testing.T) {
	info := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: settings}
	}
	for want, b := range map[string]*debug.BuildInfo{
		"devel":  nil,
		"v1.2.3": info("v1.2.3"),
		"devel-0123456789ab+dirty": info("(devel)", debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef"},
			debug.BuildSetting{Key: "vcs.modified", Value: "true"}),
	} {
		if got := Version(b); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestManTextIsNeverARequest(t *testing.T) {
	r := new(roff)
	r.text(".so /etc/passwd\n'so x\n\\fBbold --flag")
	if diff := cmp.Diff("\\&.so /etc/passwd\n\\(aqso x\n\\efBbold \\-\\-flag\n", r.String()); diff != "" {
		t.Error(diff)
	}
}

func FuzzCandidates(f *testing.F) {
	f.Add("version", "--q")
	f.Add("--cache-dir", "")
	f.Add("-C", "--")
	f.Fuzz(func(t *testing.T, a, b string) {
		candidates(Commands(), []string{a, b})
		nearest(a, []string{b})
	})
}
