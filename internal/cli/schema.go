package cli

import (
	"context"

	"twinhull.dev/twinhull/internal/project"
)

func schemaCommand() *Command {
	return &Command{
		Name: "schema", Short: "print the JSON Schema of twinhull.yaml, for editors",
		Long:     "Prints the JSON Schema (draft 2020-12) of the project file.",
		Examples: "twinhull schema > twinhull.schema.json",
		Run: func(ctx context.Context, env *Env, args []string) error {
			_, err := env.Stdout.Write(project.Schema())
			return err
		},
	}
}
