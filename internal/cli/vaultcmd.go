package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/vault"
)

func vaultCommand() *Command {
	return &Command{
		Name: "vault", Short: "keep, check, carry and clear the input bytes",
		Long: `The vault holds every input of every project by its hash: packages, indexes,
tarballs, modules, tools. It is a cache folder of this machine and can be
carried to another, so that a project builds without a network or in five years.`,
		Sub: []*Command{vaultVerify(), vaultGC(), vaultExport(), vaultImport()},
	}
}

func openVault(env *Env) (*vault.Vault, error) {
	dir, err := env.CacheDir()
	if err != nil {
		return nil, err
	}
	return vault.Open(dir)
}

func vaultVerify() *Command {
	return &Command{
		Name: "verify", Short: "hash every input again",
		Long:     "Hashes every input of the vault and moves what is wrong aside, so that it is\nfetched again when it is needed. Exits with 1 when something was wrong.",
		Examples: "twinhull vault verify",
		Run: func(ctx context.Context, env *Env, args []string) error {
			v, err := openVault(env)
			if err != nil {
				return err
			}
			r, err := v.Verify(ctx, env.Progress)
			if err != nil {
				return err
			}
			fmt.Fprintf(env.Stdout, "%d inputs, %.1f MB, %d damaged\n", r.Files, float64(r.Bytes)/1e6, len(r.Damaged))
			for _, d := range r.Damaged {
				fmt.Fprintf(env.Stdout, "%s: %s; moved to %s\n", d.Path, d.Reason, d.Moved)
			}
			if len(r.Damaged) > 0 {
				return Refusedf("%d inputs were damaged and have been moved aside", len(r.Damaged)).WithHint("the next build fetches them again")
			}
			return nil
		},
	}
}

// lockedDigests are all inputs that a lock names.
func lockedDigests(l *project.Lock) []oci.Digest {
	var out []oci.Digest
	for _, a := range l.Archives {
		out = append(out, a.InRelease)
		for _, i := range a.Indexes {
			out = append(out, i.SHA256)
		}
	}
	for _, p := range l.Packages {
		out = append(out, p.SHA256)
	}
	for _, t := range l.NPM {
		for _, p := range t.Packages {
			out = append(out, p.Integrity)
		}
	}
	for _, g := range l.Go {
		for _, d := range []oci.Digest{g.Mod, g.Zip, g.Info} {
			if d != "" {
				out = append(out, d)
			}
		}
	}
	for _, t := range l.Tools {
		out = append(out, t.Digest)
	}
	return out
}

func vaultGC() *Command {
	var keep []string
	var dry bool
	return &Command{
		Name: "gc", Short: "remove inputs that no lock names",
		Long:     "Removes every input that is named by none of the given locks (--keep), nor by\nthe lock of the project here. Refuses to run without any lock.",
		Examples: "twinhull vault gc --keep ../other/twinhull.lock --dry-run",
		Flags: func(f *pflag.FlagSet) {
			f.StringArrayVar(&keep, "keep", nil, "keep what the `LOCK` names; may be repeated")
			f.BoolVar(&dry, "dry-run", false, "say what would go and remove nothing")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			v, err := openVault(env)
			if err != nil {
				return err
			}
			if p, err := project.Find(env.Dir); err == nil && fileExists(filepath.Join(filepath.Dir(p), "twinhull.lock")) {
				keep = append(keep, filepath.Join(filepath.Dir(p), "twinhull.lock"))
			}
			if len(keep) == 0 {
				return Usagef("no lock given: everything would go").WithHint("name the locks whose inputs stay with --keep, or run in a project")
			}
			wanted := map[oci.Digest]bool{}
			for _, k := range keep {
				l, err := project.ReadLock(env.Path(k))
				if err != nil {
					return err
				}
				for _, d := range lockedDigests(l) {
					wanted[d] = true
				}
				if err := keepOrigins(filepath.Dir(env.Path(k)), wanted); err != nil {
					return err
				}
			}
			freed, err := v.GC(ctx, func(d oci.Digest) bool { return wanted[d] }, dry)
			if err != nil {
				return err
			}
			word := "removed"
			if dry {
				word = "would remove"
			}
			fmt.Fprintf(env.Stdout, "%s %d inputs, %.1f MB\n", word, len(freed.Removed), float64(freed.Bytes)/1e6)
			return nil
		},
	}
}

// keepOrigins adds what explains the images of a project's store.
func keepOrigins(dir string, wanted map[oci.Digest]bool) error {
	store, err := oci.OpenLayout(filepath.Join(dir, ".twinhull", "store"))
	if err != nil {
		return nil // nothing was built there
	}
	all, err := build.AllOrigins(store)
	if err != nil {
		return err
	}
	for _, o := range all {
		wanted[o.Lock] = true
		for _, s := range o.Steps {
			wanted[s.Digest] = true
		}
		for i := range o.Paths {
			wanted[o.Paths[i].Origin.Digest] = true
		}
	}
	return nil
}

func vaultExport() *Command {
	var offline bool
	return &Command{
		Name: "export", Args: "oci:DIR", Min: 1, Max: 1, Short: "write what the project's lock names to an OCI layout",
		Long: `Writes the lock and every input that it names, for all platforms, into an OCI
image layout, fetching what is missing first. The layout can be copied to a
registry with any OCI tool. On another machine, vault import reads it, and
build --offline needs nothing else.`,
		Examples: "twinhull vault export oci:inputs\ntwinhull vault import oci:inputs   # on the other machine",
		Flags: func(f *pflag.FlagSet) {
			f.BoolVar(&offline, "offline", false, "fetch nothing; what is missing is an error")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			dir, err := layoutDir(env, args[0])
			if err != nil {
				return err
			}
			w, err := openWorkspace(env, offline)
			if err != nil {
				return err
			}
			l, err := w.lock()
			if err != nil {
				return err
			}
			b, err := w.builder(nil)
			if err != nil {
				return err
			}
			release, err := w.vault.Hold(ctx, nil)
			if err != nil {
				return err
			}
			defer release()
			items, err := b.AllItems()
			if err != nil {
				return err
			}
			if err := w.fetch.Fetch(ctx, items); err != nil {
				return err
			}
			raw, err := os.ReadFile(w.lockPath())
			if err != nil {
				return err
			}
			bundle := vault.Bundle{Name: w.file.Name, Lock: raw}
			seen := map[oci.Digest]bool{}
			for _, d := range lockedDigests(l) {
				if !seen[d] {
					seen[d] = true
					bundle.Inputs = append(bundle.Inputs, vault.Input{Digest: d})
				}
			}
			if err := w.vault.ExportBundle(ctx, dir, bundle); err != nil {
				return err
			}
			env.Talkf("wrote %d inputs to %s", len(bundle.Inputs), args[0])
			return nil
		},
	}
}

func vaultImport() *Command {
	return &Command{
		Name: "import", Args: "oci:DIR", Min: 1, Max: 1, Short: "read inputs from an OCI layout that vault export wrote",
		Long:     "Reads every input of the layout into the vault, checking each against its hash.",
		Examples: "twinhull vault import oci:inputs",
		Run: func(ctx context.Context, env *Env, args []string) error {
			dir, err := layoutDir(env, args[0])
			if err != nil {
				return err
			}
			v, err := openVault(env)
			if err != nil {
				return err
			}
			release, err := v.Hold(ctx, nil)
			if err != nil {
				return err
			}
			defer release()
			got, err := v.Import(ctx, dir)
			if err != nil {
				return err
			}
			n := 0
			for _, g := range got {
				n += len(g.Inputs)
			}
			env.Talkf("read %d inputs", n)
			return nil
		},
	}
}

func layoutDir(env *Env, arg string) (string, error) {
	dir, ok := strings.CutPrefix(arg, "oci:")
	if !ok || dir == "" {
		return "", Usagef("%s: want oci:DIR", arg)
	}
	return env.Path(dir), nil
}
