package cli

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

func versionCommand() *Command {
	return &Command{
		Name:  "version",
		Short: "print the version of this program",
		Long: "Prints the version, the source revision where it is known, and the Go release\n" +
			"that compiled the program.",
		Examples: "twinhull version",
		Run: func(_ context.Context, env *Env, _ []string) error {
			return printVersion(env.Stdout)
		},
	}
}

func printVersion(w io.Writer) error {
	info, _ := debug.ReadBuildInfo()
	_, err := fmt.Fprintf(w, "twinhull %s (%s, %s/%s)\n", Version(info), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// Version is the module's version as the Go toolchain recorded it, or "devel"
// with the revision, "+dirty" when files had changed.
func Version(info *debug.BuildInfo) string {
	if info == nil {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = "-" + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	return "devel" + revision + dirty
}
