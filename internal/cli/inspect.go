package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
)

func inspectCommand() *Command {
	var asJSON, all bool
	var platform string
	return &Command{
		Name: "inspect", Args: "IMAGE", Min: 1, Max: 1, Words: []string{"development", "production"},
		Short: "say what is in an image, by its bytes",
		Long: `Reads every layer of an image once and prints what is there: zone, user, entry
point, size by layer and by package, tools, and everything that a policy may
mind. Tools are known by what is inside files, whatever their names; files that
a higher layer deletes or replaces are read too, because everybody who pulls
the image has them.

It judges nothing. IMAGE need not be one that Twinhull built. Exits with 1 when
a layer could not be read to its end and verified.`,
		Examples: "twinhull inspect production\ntwinhull inspect oci:out:production --all\ntwinhull inspect docker-archive:image.tar --json",
		Flags: func(f *pflag.FlagSet) {
			f.BoolVar(&asJSON, "json", false, "print the facts as JSON")
			f.BoolVar(&all, "all", false, "print every finding and every package")
			f.StringVar(&platform, "platform", "", "of an image for several: linux/amd64 or linux/arm64 (default: linux/amd64)")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			f, err := inspectArgument(ctx, env, args[0], platform, inspect.Options{})
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(env, f)
			} else {
				err = writeFacts(env.Stdout, f, all)
			}
			if err == nil && !f.Complete {
				return Refusedf("the image could not be read completely: %s", strings.Join(f.Errors, "; "))
			}
			return err
		},
	}
}

// inspectArgument opens an IMAGE argument and reads it.
func inspectArgument(ctx context.Context, env *Env, arg, platform string, opt inspect.Options) (*inspect.Facts, error) {
	plat, err := optionalPlatform(platform)
	if err != nil {
		return nil, err
	}
	img, _, err := openImage(ctx, env, arg, plat)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	return inspectImage(ctx, env, arg, img, opt)
}

func inspectImage(ctx context.Context, env *Env, arg string, img *image.Image, opt inspect.Options) (*inspect.Facts, error) {
	var total int64
	for _, l := range img.Manifest.Layers {
		total += l.Size
	}
	t := env.Progress.Task("reading "+arg, total)
	opt.Passed = t.Add
	f, err := inspect.Inspect(ctx, img, opt)
	t.Done(err)
	return f, err
}

// toolRules are the findings that are tools, in the order in which they are
// told.
var toolRules = []string{inspect.RuleShell, inspect.RulePackageManager, inspect.RuleCompiler, inspect.RuleBuildTool, inspect.RuleDebugger, inspect.RuleNetworkClient, inspect.RuleEditor, inspect.RuleInterpreter}

// writeFacts prints facts for a person.
func writeFacts(w io.Writer, f *inspect.Facts, all bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(k, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", k, printable(fmt.Sprintf(format, args...)))
	}
	row("image", "%s", f.Digest)
	row("platform", "%s", f.Platform)
	switch {
	case f.Zone.Agree:
		row("zone", "%s", f.Zone.Label)
	case f.Zone.Label == "" && f.Zone.Annotation == "":
		row("zone", "none: not an image of Twinhull")
	default:
		row("zone", "in doubt: label %q, annotation %q, history %q", f.Zone.Label, f.Zone.Annotation, f.Zone.History)
	}
	if f.OS.Name != "" {
		row("system", "%s", f.OS.Name)
	}
	user := fmt.Sprintf("%d:%d", f.Config.UID, f.Config.GID)
	if f.Config.UID < 0 {
		user = f.Config.User + ", which /etc/passwd does not have"
	} else if f.Ready.PasswdName != "" {
		user += " (" + f.Ready.PasswdName + ")"
	}
	row("user", "%s", user)
	row("starts", "%s", strings.Join(append(slices.Clone(f.Config.Entrypoint), f.Config.Cmd...), " "))
	if f.Ready.Program != "" {
		program := f.Ready.Program
		if f.Ready.Runtime != "" {
			program += ", runs on " + f.Ready.Runtime
		}
		if f.Ready.Static {
			program += ", static"
		}
		row("program", "%s", program)
	}
	if len(f.Config.Ports) > 0 {
		row("ports", "%s", strings.Join(f.Config.Ports, " "))
	}
	if len(f.Config.Writable) > 0 {
		row("writable", "%s", strings.Join(f.Config.Writable, " "))
	}
	row("size", "%s in layers, %s in %d files", byteCount(f.Size), byteCount(f.Unpacked), f.Files)
	kinds := map[string]int{}
	for _, p := range f.Packages {
		kinds[p.Type]++
	}
	var counts []string
	for _, k := range []string{inspect.Deb, inspect.Apk, inspect.RPM, inspect.NPM, inspect.PyPI, inspect.Golang, inspect.Cargo, inspect.Gem, inspect.Composer, inspect.Maven} {
		if kinds[k] > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", kinds[k], k))
		}
	}
	row("packages", "%s", cmp.Or(strings.Join(counts, ", "), "none"))
	if err := t.Flush(); err != nil {
		return err
	}

	fmt.Fprintln(w, "\nlayers")
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, l := range f.Layers {
		hidden := ""
		if l.Hidden > 0 {
			hidden = fmt.Sprintf("(%s of it deleted or replaced above)", byteCount(l.Hidden))
		}
		created := l.Created
		if len(created) > 70 {
			created = created[:67] + "…"
		}
		fmt.Fprintf(t, "  %d\t%s\t%s\t%d files\t  %s\n", i, byteCount(l.Size), byteCount(l.Bytes), l.Files, printable(strings.TrimSpace(created+" "+hidden)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	writeLargest(w, f, all)

	found := map[string][]inspect.Finding{}
	for _, x := range f.Findings {
		found[x.Rule] = append(found[x.Rule], x)
	}
	var tools []string
	for _, rule := range toolRules {
		if list := found[rule]; len(list) > 0 {
			tools = append(tools, rule)
		}
	}
	fmt.Fprintln(w, "\ntools")
	if len(tools) == 0 {
		fmt.Fprintln(w, "  none: no shell, no package manager, no compiler, no debugger, no editor, no network client")
	}
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, rule := range tools {
		fmt.Fprintf(t, "  %s\t%s\n", rule, printable(subjects(found[rule])))
	}
	for _, r := range f.Runtimes {
		if r.Entrypoint {
			fmt.Fprintf(t, "  runs on\t%s (%s)\n", printable(r.Name), printable(r.Path))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}

	fmt.Fprintln(w, "\nfindings")
	if len(f.Findings) == 0 {
		fmt.Fprintln(w, "  none")
	}
	for _, rule := range inspect.Rules() {
		list := found[rule]
		if len(list) == 0 || !all && slices.Contains(toolRules, rule) && !hides(list) {
			continue // told above
		}
		shown := list
		if !all && len(shown) > 5 {
			shown = shown[:5]
		}
		for _, x := range shown {
			fmt.Fprintf(w, "  %s\n", printable(findingLine(x)))
		}
		if n := len(list) - len(shown); n > 0 {
			fmt.Fprintf(w, "  %s: %d more (--all)\n", rule, n)
		}
	}
	return nil
}

func hides(list []inspect.Finding) bool {
	return slices.ContainsFunc(list, func(f inspect.Finding) bool { return f.Hidden || f.Inside != "" })
}

// subjects names what was found, each once, with how many files.
func subjects(list []inspect.Finding) string {
	var names []string
	for _, f := range list {
		name := f.Subject
		if f.Hidden {
			name += " (in a lower layer)"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// findingLine tells one finding in a line.
func findingLine(f inspect.Finding) string {
	var b strings.Builder
	b.WriteString(f.Rule + ": ")
	if f.Subject != "" {
		b.WriteString(f.Subject)
	}
	if f.Path != "" {
		b.WriteString(" " + f.Path)
	}
	if f.Inside != "" {
		b.WriteString(" → " + f.Inside)
	}
	if f.Count > 1 {
		fmt.Fprintf(&b, " (%d files)", f.Count)
	}
	if f.Hidden {
		b.WriteString(" (deleted or replaced by a higher layer)")
	}
	for _, more := range []string{f.Detail, f.Evidence} {
		if more != "" {
			b.WriteString(": " + more)
			break
		}
	}
	return b.String()
}

// writeLargest prints the packages that take the most room.
func writeLargest(w io.Writer, f *inspect.Facts, all bool) {
	list := slices.Clone(f.Packages)
	slices.SortStableFunc(list, func(a, b inspect.Package) int { return cmp.Compare(b.Size, a.Size) })
	title := "\nlargest packages"
	if all {
		title = "\npackages"
	} else {
		list = slices.DeleteFunc(list, func(p inspect.Package) bool { return p.Size == 0 })
		list = list[:min(len(list), 8)]
	}
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(w, title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range list {
		size := ""
		if p.Size > 0 {
			size = byteCount(p.Size)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", p.Type, printable(p.Name), printable(p.Version), size, printable(path.Clean(p.Location)))
	}
	_ = t.Flush() // the next write fails as this one did
}

// byteCount writes a number of bytes for a person.
func byteCount(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
