package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sort"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/project"
)

func lockCommand() *Command {
	var check, offline bool
	return &Command{
		Name: "lock", Short: "name every input of the project by hash",
		Long: `Resolves the packages of both zones, the language dependencies and the pinned
tools, and writes twinhull.lock: names, versions, sizes and hashes, the indexes
and keys that they were taken from, and the date that the images will carry.
Commit the lock. It names no mirror: every machine uses its own.

With --check nothing is written: the command says what is stale, both against
the project's files and against the archive, and exits with 1 when anything is.`,
		Examples: "twinhull lock\ntwinhull lock --check\ntwinhull lock --offline   # from the indexes of the present lock",
		Flags: func(f *pflag.FlagSet) {
			f.BoolVar(&check, "check", false, "say what is stale and change nothing")
			f.BoolVar(&offline, "offline", false, "resolve again from the indexes in the vault")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			w, err := openWorkspace(env, offline)
			if err != nil {
				return err
			}
			old, err := project.ReadLock(w.lockPath())
			if errors.Is(err, fs.ErrNotExist) {
				old = nil
			} else if err != nil {
				if check {
					return err
				}
				env.Talkf("the present lock cannot be read and is made anew: %v", err)
				old = nil
			}
			if check && old == nil {
				return Refusedf("the project has no twinhull.lock").WithHint("`twinhull lock` makes it")
			}
			var stale []string
			if check {
				if stale, err = build.Stale(w.file, old); err != nil {
					return err
				}
			}
			// Until the lock is written nothing names what was fetched for it.
			release, err := w.vault.Hold(ctx, nil)
			if err != nil {
				return err
			}
			defer release()
			l, err := build.Resolve(ctx, build.ResolveConfig{
				File: w.file, Old: old, Vault: w.vault, Fetch: w.fetch, Site: w.site,
				Progress: env.Progress, Now: env.Now(), Offline: offline,
			})
			if err != nil {
				return err
			}
			changes := lockChanges(old, l)
			if check {
				for _, s := range stale {
					fmt.Fprintln(env.Stdout, s)
				}
				for _, c := range changes {
					fmt.Fprintln(env.Stdout, c)
				}
				if len(stale) > 0 || len(changes) > 0 {
					return Refusedf("twinhull.lock is stale").WithHint("`twinhull lock` brings it up to date")
				}
				env.Talkf("twinhull.lock is up to date (as of %s)", l.AsOf.Format("2006-01-02"))
				return nil
			}
			if old != nil && string(old.Encode()) == string(l.Encode()) {
				env.Talkf("twinhull.lock is up to date (as of %s)", l.AsOf.Format("2006-01-02"))
				return nil
			}
			if err := project.WriteLock(w.lockPath(), l); err != nil {
				return err
			}
			for _, c := range changes {
				fmt.Fprintln(env.Stdout, c)
			}
			modules := len(l.Go)
			for _, t := range l.NPM {
				modules += len(t.Packages)
			}
			env.Talkf("locked %d packages, %d language dependencies and %d tools as of %s", len(l.Packages), modules, len(l.Tools), l.AsOf.Format("2006-01-02"))
			return nil
		},
	}
}

// lockChanges lists what a new lock changes, a line each. Nothing is listed
// for a first lock.
func lockChanges(old, l *project.Lock) []string {
	if old == nil {
		return nil
	}
	versions := func(l *project.Lock) map[string]string {
		m := map[string]string{}
		for _, p := range l.Packages {
			m["package "+p.Name+" ("+p.Arch+")"] = p.Version
		}
		for _, t := range l.NPM {
			for _, p := range t.Packages {
				m["npm "+p.Location] = p.Version
			}
		}
		for _, g := range l.Go {
			m["module "+g.Path] = g.Version
		}
		for _, t := range l.Tools {
			m["tool "+t.Name] = t.Version
		}
		return m
	}
	was, is := versions(old), versions(l)
	var out []string
	for k, v := range is {
		switch w, ok := was[k]; {
		case !ok:
			out = append(out, fmt.Sprintf("+ %s %s", k, v))
		case w != v:
			out = append(out, fmt.Sprintf("~ %s %s, was %s", k, v, w))
		}
	}
	for k, v := range was {
		if _, ok := is[k]; !ok {
			out = append(out, fmt.Sprintf("- %s %s", k, v))
		}
	}
	sort.Strings(out)
	return out
}
