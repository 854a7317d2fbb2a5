package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/durable"
)

func manCommand() *Command {
	return &Command{
		Name: "man", Args: "DIR", Min: 1, Max: 1,
		Short:    "write the manual pages into a folder",
		Long:     "Writes twinhull.1 and a page for each command. The folder is made when it is\nmissing; pages that are there are replaced.",
		Examples: "twinhull man ~/.local/share/man/man1",
		Run: func(_ context.Context, env *Env, args []string) error {
			dir := env.Path(args[0])
			if err := os.MkdirAll(dir, 0o777); err != nil {
				return err
			}
			info, _ := debug.ReadBuildInfo()
			for _, p := range manPages(env.commands, Version(info)) {
				if err := durable.WriteFile(filepath.Join(dir, p.name), []byte(p.text), 0o666); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

type manPage struct{ name, text string }

// manPages are the pages of a table, the same bytes for the same version: they
// bear no date.
func manPages(table []*Command, version string) []manPage {
	var all []manPage
	main := newRoff("twinhull", version, "two container images of one application")
	main.section("SYNOPSIS")
	main.line(".B twinhull")
	main.text("COMMAND [FLAGS] [ARGUMENTS]")
	main.section("DESCRIPTION")
	main.paragraphs(about)
	main.section("COMMANDS")
	for _, c := range table {
		if !c.Hidden {
			main.line(".TP")
			main.line(".BR " + roffEscape("twinhull-"+c.Name) + " (1)")
			main.text(c.Short)
			all = append(all, manCommandPages(c, c.Name, version)...)
		}
	}
	main.flags("OPTIONS", new(globals).flags())
	main.exit()
	main.section("ENVIRONMENT")
	main.line(".TP")
	main.line(".B TWINHULL_CACHE_DIR")
	main.text("Folder of everything that can be fetched or made again; --cache-dir goes before it.")
	main.section("FILES")
	main.line(".TP")
	main.line(".I twinhull.yaml")
	main.text("What is asked: the project file.")
	main.line(".TP")
	main.line(".I twinhull.lock")
	main.text("Every input by hash, written by twinhull lock.")
	return append([]manPage{{"twinhull.1", main.String()}}, all...)
}

func manCommandPages(c *Command, name, version string) []manPage {
	dashed := "twinhull-" + strings.ReplaceAll(name, " ", "-")
	r := newRoff(dashed, version, c.Short)
	r.section("SYNOPSIS")
	r.text(usage(c, name))
	if c.Long != "" {
		r.section("DESCRIPTION")
		r.paragraphs(c.Long)
	}
	var below []manPage
	if c.Sub != nil {
		r.section("COMMANDS")
		for _, s := range c.Sub {
			if !s.Hidden {
				r.line(".TP")
				r.line(".BR " + roffEscape(dashed+"-"+s.Name) + " (1)")
				r.text(s.Short)
				below = append(below, manCommandPages(s, name+" "+s.Name, version)...)
			}
		}
	}
	if c.Flags != nil {
		fs := newFlagSet(c.Name)
		c.Flags(fs)
		r.flags("OPTIONS", fs)
	}
	r.flags("OPTIONS OF EVERY COMMAND", new(globals).flags())
	if c.Examples != "" {
		r.section("EXAMPLES")
		r.line(".nf")
		r.text(strings.TrimSpace(c.Examples))
		r.line(".fi")
	}
	r.exit()
	r.section("SEE ALSO")
	r.line(".BR twinhull (1)")
	return append([]manPage{{dashed + ".1", r.String()}}, below...)
}

// roff writes man(7) macros.
type roff struct{ strings.Builder }

func newRoff(name, version, short string) *roff {
	r := new(roff)
	r.line(fmt.Sprintf(`.TH "%s" 1 "" "twinhull %s" "Twinhull"`, roffEscape(strings.ToUpper(name)), roffEscape(version)))
	r.section("NAME")
	r.line(roffEscape(name) + ` \- ` + roffEscape(short))
	return r
}

func (r *roff) line(s string)       { r.WriteString(s + "\n") }
func (r *roff) section(name string) { r.line(".SH " + name) }

// text writes lines as they are, none of which can be a request.
func (r *roff) text(s string) {
	for line := range strings.SplitSeq(s, "\n") {
		line = roffEscape(line)
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line
		}
		r.line(line)
	}
}

// paragraphs fills text; an indented paragraph is kept as it is.
func (r *roff) paragraphs(s string) {
	for i, p := range strings.Split(strings.TrimSpace(s), "\n\n") {
		if i > 0 {
			r.line(".PP")
		}
		if strings.HasPrefix(p, " ") {
			r.line(".nf")
			r.text(p)
			r.line(".fi")
		} else {
			r.text(p)
		}
	}
}

func (r *roff) flags(title string, fs *pflag.FlagSet) {
	r.section(title)
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, meaning := pflag.UnquoteUsage(f)
		r.line(".TP")
		s := `\fB` + roffEscape("--"+f.Name) + `\fR`
		if f.Shorthand != "" {
			s = `\fB` + roffEscape("-"+f.Shorthand) + `\fR, ` + s
		}
		if value != "" {
			s += ` \fI` + roffEscape(value) + `\fR`
		}
		r.line(s)
		r.text(meaning)
	})
}

func (r *roff) exit() {
	r.section("EXIT STATUS")
	r.text("0 done, 1 refused or failed, 2 wrong usage, 3 could not decide.")
}

var roffEscaper = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `"`, `\(dq`, `'`, `\(aq`, "`", `\(ga`, `~`, `\(ti`, `^`, `\(ha`)

func roffEscape(s string) string { return roffEscaper.Replace(s) }
