package main

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"twinhull.dev/twinhull/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init() // the scripts' twinhull is this test binary
	testscript.Main(m, map[string]func(){"twinhull": main})
}

// TestScripts runs testdata/script: what the tool does, told as a user would
// type it. Each script has a folder, a home and a cache of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "mirror": mirrorCommand, "soon": soon, "eventually": eventually, "auditlog": auditLog, "alter": alter},
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, ".home")
			env.Setenv("HOME", home)
			env.Setenv("XDG_CACHE_HOME", filepath.Join(home, ".cache"))
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
			if err := os.MkdirAll(home, 0o700); err != nil {
				return err
			}
			m, err := newMirror(home)
			if err != nil {
				return err
			}
			env.Defer(func() { m.server.CloseClientConnections(); m.server.Close() })
			env.Values[mirrorKey{}] = m
			env.Setenv("TWINHULL_DEBIAN_MIRROR", m.server.URL+"/debian")
			env.Setenv("TWINHULL_DEBIAN_SECURITY_MIRROR", m.server.URL+"/security")
			env.Setenv("TWINHULL_DEBIAN_KEYRING", filepath.Join(home, "archive.gpg"))
			env.Setenv("NO_PROXY", "127.0.0.1")
			return nil
		},
	})
}

// exits CODE COMMAND... is exec for a command that must end with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// eventually COMMAND... repeats a command until it succeeds, for half a minute at most.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: eventually COMMAND...")
	}
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); err == nil {
			return
		}
	}
	ts.Fatalf("%v", err)
}

// soon replaces @SOON@ in files by a date that is thirty days ahead.
func soon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: soon FILE...")
	}
	date := time.Now().UTC().AddDate(0, 0, 30).Format(time.DateOnly)
	for _, name := range args {
		text := strings.ReplaceAll(ts.ReadFile(name), "@SOON@", date)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}
