// Command twinhull builds, from one project file, a development image with
// every tool and a production image with nothing but what runs. The commands
// are in package cli.
package main

import (
	"os"

	"twinhull.dev/twinhull/internal/cli"
	"twinhull.dev/twinhull/internal/sandbox"
)

func main() {
	sandbox.Init() // first: in a sandbox's own process it does not return
	os.Exit(cli.Main())
}
