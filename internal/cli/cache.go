package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/sandbox"
)

// madeFolders are the parts of the cache folder that hold what was made and can
// be made again. The vault, which holds inputs, is not among them.
var madeFolders = []string{
	"compilers", "debs", "demo", "deps", "files", "images", "layers", "npm-scripts", "npm-tables", "records", "roots", "tarballs", "tmp", "tools", "trees",
}

func cacheCommand() *Command {
	return &Command{
		Name: "cache", Short: "measure and clear what was made and can be made again",
		Long: `The cache folder holds, beside the vault, everything that builds made: unpacked
packages, configured trees, outputs of steps, layers, unpacked images. Clearing
it costs the next build its time and changes no bit of its result. The inputs
in the vault stay, and so does the vulnerability database: see twinhull vault gc
and twinhull vulndb.`,
		Sub: []*Command{cacheSize(), cacheClear()},
	}
}

func cacheSize() *Command {
	return &Command{
		Name: "size", Short: "say how much disk each part takes",
		Long:     "Prints the folder, and for each part the bytes that its files take on disk.\nFiles with several names are counted once.",
		Examples: "twinhull cache size",
		Run: func(ctx context.Context, env *Env, args []string) error {
			dir, err := env.CacheDir()
			if err != nil {
				return err
			}
			seen := map[fileID]bool{}
			var total int64
			fmt.Fprintln(env.Stdout, dir)
			for _, name := range append([]string{"vault", "vulnerabilities"}, madeFolders...) {
				n, err := diskUse(ctx, filepath.Join(dir, name), seen)
				if err != nil {
					return err
				}
				if n > 0 {
					fmt.Fprintf(env.Stdout, "%10.1f MB  %s\n", float64(n)/1e6, name)
				}
				total += n
			}
			fmt.Fprintf(env.Stdout, "%10.1f MB  in all\n", float64(total)/1e6)
			return nil
		},
	}
}

func cacheClear() *Command {
	var dry bool
	return &Command{
		Name: "clear", Short: "remove all but the vault and vulnerability data",
		Long:     "Removes what builds made from the cache folder, once no build is under way.\nThe inputs in the vault, the vulnerability database and the projects' own\nstores stay.",
		Examples: "twinhull cache clear --dry-run\ntwinhull cache clear",
		Flags:    func(f *pflag.FlagSet) { f.BoolVar(&dry, "dry-run", false, "say what would go and remove nothing") },
		Run: func(ctx context.Context, env *Env, args []string) error {
			v, err := openVault(env)
			if err != nil {
				return err
			}
			// Builds hold the vault while they work, and use the rest of the
			// cache no longer than that.
			release, err := v.Alone(ctx, func() { env.Talkf("waiting for builds to end") })
			if err != nil {
				return err
			}
			defer release()
			dir, err := env.CacheDir()
			if err != nil {
				return err
			}
			seen := map[fileID]bool{}
			var total int64
			for _, name := range madeFolders {
				part := filepath.Join(dir, name)
				n, err := diskUse(ctx, part, seen)
				if err != nil {
					return err
				}
				total += n
				if dry {
					continue
				}
				if err := sandbox.RemoveAll(part); err != nil {
					return err
				}
			}
			word := "removed"
			if dry {
				word = "would remove"
			} else if err := durable.SyncDir(dir); err != nil {
				return err
			}
			fmt.Fprintf(env.Stdout, "%s %.1f MB\n", word, float64(total)/1e6)
			return nil
		},
	}
}

// diskUse sums the blocks of the files below a folder, each file once.
func diskUse(ctx context.Context, dir string, seen map[fileID]bool) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if os.IsNotExist(err) || os.IsPermission(err) {
				return nil // gone meanwhile, or a folder of a tree that its mode closes
			}
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return nil
		}
		id, blocks := statOf(fi)
		if !seen[id] {
			seen[id] = true
			total += blocks * 512
		}
		return nil
	})
	return total, err
}
