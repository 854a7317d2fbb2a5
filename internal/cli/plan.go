package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

func planCommand() *Command {
	var asJSON bool
	return &Command{
		Name: "plan", Args: "[development|production]", Max: 2, Words: []string{"development", "production"},
		Short: "print what each zone is, and what a build would do",
		Long: `Prints the effective specification of each zone, with every default filled in,
and the list of actions of a build: what each needs, whether it is done
already, and the beginning of the key that it is remembered by. Nothing is run
and nothing is fetched.`,
		Examples: "twinhull plan\ntwinhull plan production --json",
		Flags:    func(f *pflag.FlagSet) { f.BoolVar(&asJSON, "json", false, "print the actions as JSON") },
		Run: func(ctx context.Context, env *Env, args []string) error {
			zones, err := parseZones(args)
			if err != nil {
				return err
			}
			w, err := openWorkspace(env, true)
			if err != nil {
				return err
			}
			if !asJSON {
				for _, z := range zones {
					fmt.Fprintf(env.Stdout, "%s\n", w.file.EffectiveZone(z))
				}
			}
			b, err := w.builder(nil)
			if err != nil {
				return err
			}
			actions, err := b.Plan(ctx, zones)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(env, actions)
			}
			t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "STATE\tACTION\tKEY\tDETAIL")
			for _, a := range actions {
				key := string(a.Key)
				if len(key) > 12 {
					key = key[:12]
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", a.State, a.What, key, strings.TrimSpace(a.Detail))
			}
			return t.Flush()
		},
	}
}
