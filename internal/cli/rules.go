package cli

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/project"
)

func rulesCommand() *Command {
	var asJSON bool
	var file string
	var words []string
	for _, r := range policy.Rules() {
		words = append(words, r.ID+"\t"+r.Title)
	}
	return &Command{
		Name: "rules", Args: "[NAME]", Min: 0, Max: 1, Words: words,
		Short: "say what each rule proves, why, how to fix and how to waive",
		Long: `Without a name, lists the rules by which images are judged and what each does in
production and in development: "refuses", or "notes" when it only tells. With a
name, says what the rule proves, why it is there, how to meet it and how it may be
waived. --policy includes the rules that a policy adds and prints with --json what
the policy's digest is made of.`,
		Examples: "twinhull rules\ntwinhull rules shell\ntwinhull rules --json",
		Flags: func(f *pflag.FlagSet) {
			f.BoolVar(&asJSON, "json", false, "print as JSON")
			f.StringVar(&file, "policy", "", "policy `FILE` whose own rules are listed too")
		},
		Run: func(_ context.Context, env *Env, args []string) error {
			p, err := (&checkOptions{policy: file}).readPolicy(env)
			if err != nil {
				return err
			}
			all := p.Table()
			if len(args) == 1 {
				var names []string
				for _, r := range all {
					if r.ID == args[0] {
						if asJSON {
							return writeJSON(env, r)
						}
						return writeRule(env, r)
					}
					names = append(names, r.ID)
				}
				e := Usagef("no rule is called %q", args[0])
				if near := project.Nearest(args[0], names); near != "" {
					return e.WithHint("did you mean %q?", near)
				}
				return e.WithHint("`twinhull rules` lists them")
			}
			if asJSON {
				return writeJSON(env, all)
			}
			t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "RULE\tPRODUCTION\tDEVELOPMENT\tSEVERITY\tAN IMAGE THAT PASSES")
			for _, r := range all {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.ID, effectWord(r.Production), effectWord(r.Development), r.Severity, printable(r.Title))
			}
			return t.Flush()
		},
	}
}

func effectWord(e policy.Effect) string {
	if e == policy.Off {
		return "-"
	}
	return string(e)
}

func writeRule(env *Env, r policy.Rule) error {
	e := &errWriter{w: env.Stdout}
	fmt.Fprintf(e, "%s: %s\n", r.ID, printable(r.Title))
	fmt.Fprintf(e, "severity %s; production: %s; development: %s\n", r.Severity, effectWord(r.Production), effectWord(r.Development))
	for _, x := range []struct{ name, text string }{{"proves", r.Proves}, {"why", r.Why}, {"fix", r.Fix}, {"waive", r.Waive}} {
		if x.text == "" {
			continue
		}
		for n, line := range wrap(printable(x.text), 70) {
			fmt.Fprintf(e, "%-8s%s\n", []string{x.name, ""}[min(n, 1)], line)
		}
	}
	return e.err
}
