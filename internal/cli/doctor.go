package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/sandbox"
	"twinhull.dev/twinhull/internal/source/site"
)

func doctorCommand() *Command {
	var asJSON bool
	return &Command{
		Name: "doctor", Short: "say what this machine lacks, and how to give it",
		Long: `Tries what builds need of the kernel (namespaces, overlays, attributes, system
call filters) and looks up where packages and dependencies would come from.
What is "missing" is needed, and the command then exits with 1; what a project
may do "without" costs something that the line names.`,
		Examples: "twinhull doctor",
		Flags:    func(f *pflag.FlagSet) { f.BoolVar(&asJSON, "json", false, "print the findings as JSON") },
		Run: func(ctx context.Context, env *Env, args []string) error {
			dir, err := env.CacheDir()
			if err != nil {
				return err
			}
			findings := sandbox.Doctor(ctx, dir)
			s, err := site.Load(site.Options{Getenv: env.Getenv})
			if err != nil {
				return err
			}
			add := func(name string, needed bool, err error, detail string) {
				f := sandbox.Finding{Name: name, OK: err == nil, Needed: needed, Detail: detail}
				if err != nil {
					f.Detail = "not known"
					f.Remedy = err.Error()
				}
				findings = append(findings, f)
			}
			m, err := s.Debian()
			add("Debian mirror", true, err, "from "+m.MainFrom)
			_, err = s.Keyring()
			add("Debian keyring", true, err, "found")
			_, err = s.NPM()
			add("npm registry", false, err, "found")
			_, err = s.GoProxy()
			add("Go module proxy", false, err, "found")
			if asJSON {
				if err := writeJSON(env, findings); err != nil {
					return err
				}
			}
			missing := 0
			for _, f := range findings {
				mark := "ok     "
				switch {
				case !f.OK && f.Needed:
					mark = "missing"
					missing++
				case !f.OK:
					mark = "without"
				}
				if asJSON {
					continue
				}
				fmt.Fprintf(env.Stdout, "%s  %s: %s\n", mark, f.Name, f.Detail)
				if !f.OK && f.Remedy != "" {
					fmt.Fprintf(env.Stdout, "         remedy: %s\n", f.Remedy)
				}
			}
			if missing > 0 {
				return Status(Failed)
			}
			return nil
		},
	}
}
