package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/inspect"
)

func diffCommand() *Command {
	var asJSON bool
	var limit int
	var platform string
	return &Command{
		Name: "diff", Args: "A B", Min: 2, Max: 2, Words: []string{"development", "production"},
		Short: "compare two images: packages, files, configuration, size",
		Long: `Reads both images and prints what B has that A has not, what it lacks, and what
is different: packages, findings, files by content, configuration and size.
Compares a development image with its production image as well as two releases.

Exits with 0 whether they differ or not.`,
		Examples: "twinhull diff production development\ntwinhull diff oci:v1:production oci:v2:production --files 1000",
		Flags: func(f *pflag.FlagSet) {
			f.BoolVar(&asJSON, "json", false, "print the differences as JSON")
			f.IntVar(&limit, "files", 20, "list at most `N` files of each kind; -1 for all")
			f.StringVar(&platform, "platform", "", "of images for several: linux/amd64 or linux/arm64 (default: linux/amd64)")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			var facts [2]*inspect.Facts
			for i, a := range args {
				f, err := inspectArgument(ctx, env, a, platform, inspect.Options{Tree: true})
				if err != nil {
					return err
				}
				if !f.Complete {
					return Undecidedf("%s could not be read completely: %s", a, strings.Join(f.Errors, "; "))
				}
				facts[i] = f
			}
			d := inspect.Compare(facts[0], facts[1], limit)
			if asJSON {
				return writeJSON(env, d)
			}
			return writeDifference(env.Stdout, d)
		},
	}
}

func writeDifference(w io.Writer, d *inspect.Difference) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "A\t%s\nB\t%s\n", d.A, d.B)
	size := func(name string, a, b int64) {
		fmt.Fprintf(t, "%s\t%s → %s\n", name, byteCount(a), byteCount(b))
	}
	size("layers", d.Size[0], d.Size[1])
	size("files", d.Unpacked[0], d.Unpacked[1])
	if err := t.Flush(); err != nil {
		return err
	}
	if len(d.Config) > 0 {
		fmt.Fprintln(w, "\nconfiguration")
		for _, c := range d.Config {
			fmt.Fprintf(w, "  %s: %s → %s\n", printable(c.Name), printable(orNone(c.A)), printable(orNone(c.B)))
		}
	}
	fmt.Fprintf(w, "\npackages: %d added, %d removed, %d changed\n", len(d.PackagesAdded), len(d.PackagesRemoved), len(d.PackagesChanged))
	for _, p := range d.PackagesAdded {
		fmt.Fprintf(w, "  + %s %s %s\n", p.Type, printable(p.Name), printable(p.B))
	}
	for _, p := range d.PackagesRemoved {
		fmt.Fprintf(w, "  - %s %s %s\n", p.Type, printable(p.Name), printable(p.A))
	}
	for _, p := range d.PackagesChanged {
		fmt.Fprintf(w, "  ~ %s %s %s → %s\n", p.Type, printable(p.Name), printable(p.A), printable(p.B))
	}
	rules := slices.Sorted(maps.Keys(d.Findings))
	if len(rules) > 0 {
		fmt.Fprintln(w, "\nfindings")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, r := range rules {
			fmt.Fprintf(t, "  %s\t%d → %d\n", r, d.Findings[r][0], d.Findings[r][1])
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nfiles: %d added, %d removed, %d changed, %d the same\n", d.FilesAdded.Total, d.FilesRemoved.Total, d.FilesChanged.Total, d.FilesSame)
	for _, k := range []struct {
		sign string
		list inspect.FileList
	}{{"+", d.FilesAdded}, {"-", d.FilesRemoved}, {"~", d.FilesChanged}} {
		for _, p := range k.list.Paths {
			fmt.Fprintf(w, "  %s /%s\n", k.sign, printable(p))
		}
		if n := k.list.Total - len(k.list.Paths); n > 0 {
			fmt.Fprintf(w, "  %s %d more (--files)\n", k.sign, n)
		}
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
