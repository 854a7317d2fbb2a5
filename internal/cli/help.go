package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

func helpCommand() *Command {
	return &Command{
		Name: "help", Args: "[COMMAND]", Max: 2,
		Short: "explain a command",
		Long:  "Prints what a command does, its flags and examples of its use; without a\ncommand, the list of all.",
		Run: func(_ context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return overview(env.Stdout, env.commands)
			}
			c, name, rest, err := find(env.commands, args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return Usagef("help: unexpected argument %q", rest[0])
			}
			return explain(env.Stdout, c, name)
		},
	}
}

const about = "Twinhull builds two container images of one application from one project\n" +
	"file: a development image with every tool, and a production image with nothing\n" +
	"but what runs."

func overview(w io.Writer, table []*Command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nusage: twinhull COMMAND [FLAGS] [ARGUMENTS]\n\n", about)
	list(&b, table)
	fmt.Fprintf(&b, "\nFlags of every command:\n%s", flagUsages(new(globals).flags()))
	b.WriteString("\nExit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 could not decide.\n" +
		"`twinhull help COMMAND` explains a command.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func list(b *strings.Builder, table []*Command) {
	width := 0
	for _, name := range names(table) {
		width = max(width, len(name))
	}
	for _, c := range table {
		if !c.Hidden {
			fmt.Fprintf(b, "  %-*s  %s\n", width, c.Name, c.Short)
		}
	}
}

// usage is the command's synopsis.
func usage(c *Command, name string) string {
	s := "twinhull " + name
	switch {
	case c.Sub != nil:
		return s + " " + strings.Join(names(c.Sub), "|")
	case c.Flags != nil:
		s += " [FLAGS]"
	}
	return strings.TrimSpace(s + " " + c.Args)
}

func explain(w io.Writer, c *Command, name string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "twinhull %s: %s\n\nusage: %s\n", name, c.Short, usage(c, name))
	if c.Long != "" {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(c.Long))
	}
	if c.Sub != nil {
		b.WriteString("\n")
		list(&b, c.Sub)
	}
	if c.Flags != nil {
		fs := newFlagSet(c.Name)
		c.Flags(fs)
		fmt.Fprintf(&b, "\nFlags:\n%s", flagUsages(fs))
	}
	fmt.Fprintf(&b, "\nFlags of every command:\n%s", flagUsages(new(globals).flags()))
	if c.Examples != "" {
		fmt.Fprintf(&b, "\nExamples:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(c.Examples), "\n", "\n  "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func flagUsages(fs *pflag.FlagSet) string { return fs.FlagUsagesWrapped(80) }
