package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/evidence/vuln"
	"twinhull.dev/twinhull/internal/inspect"
)

func scanCommand() *Command {
	var o scanOptions
	return &Command{
		Name: "scan", Args: "IMAGE", Min: 1, Max: 1, Words: []string{"development", "production"},
		Short: "look for known vulnerabilities in an image",
		Long: `Reads the packages out of an image's bytes and looks each of them up in the
vulnerability database, without a network. IMAGE need not be one that Twinhull
built. One vulnerability with several names (GHSA and CVE) is told once.

"Nothing was found" is only said of data that is there and young enough: when an
ecosystem of the image is missing from the database, when its data is older than
--max-age, or when a version cannot be compared, the scan says what it could not
answer and exits with 3.

--report adds what another scanner said (JSON of grype or trivy, or SARIF).
--predicate writes the result as an in-toto vulnerability predicate, to be signed
with twinhull attest.`,
		Examples: "twinhull scan production\ntwinhull scan oci:out --fail-on high\ntwinhull scan production --predicate scan.json\ntwinhull attest production --type vulnerabilities --predicate scan.json --key release.key",
		Flags: func(f *pflag.FlagSet) {
			vulnFlag(f, &o.dir)
			maxAgeFlag(f, &o.maxAge)
			f.BoolVar(&o.asJSON, "json", false, "print the result as JSON")
			f.StringVar(&o.failOn, "fail-on", "", "exit with 1 when something of this `LEVEL` or above is found: low, medium, high, critical; an unknown level counts as any")
			f.StringArrayVar(&o.reports, "report", nil, "`FILE` of another scanner's report to add; may be repeated")
			f.StringVar(&o.predicate, "predicate", "", "write the result as an in-toto predicate to `FILE`")
			f.StringVar(&o.platform, "platform", "", "of an image for several: linux/amd64 or linux/arm64 (default: linux/amd64)")
		},
		Run: func(ctx context.Context, env *Env, args []string) error { return o.run(ctx, env, args[0]) },
	}
}

type scanOptions struct {
	dir, failOn, predicate, platform string
	maxAge                           ageValue
	asJSON                           bool
	reports                          []string
}

func (o *scanOptions) run(ctx context.Context, env *Env, arg string) error {
	var limit vuln.Level
	if o.failOn != "" {
		var err error
		if limit, err = vuln.ParseLevel(o.failOn); err != nil || limit == vuln.LevelUnknown || limit == vuln.LevelNone {
			return Usagef("--fail-on %s: want low, medium, high or critical", o.failOn)
		}
	}
	dir, err := vulnDir(env, o.dir)
	if err != nil {
		return err
	}
	// Before the image is read: without a database there is nothing to do.
	db, err := vuln.Open(dir)
	if err != nil {
		return &Error{Code: Undecided, Err: err}
	}
	defer db.Close()
	var reports []vuln.Report
	for _, path := range o.reports {
		data, err := readLimited(env.Path(path), vuln.MaxReport)
		if err != nil {
			return Usagef("--report: %w", err)
		}
		r, err := vuln.ParseReport(data)
		if err != nil {
			return Usagef("--report %s: %w", path, err)
		}
		reports = append(reports, r)
	}
	facts, err := inspectArgument(ctx, env, arg, o.platform, inspect.Options{})
	if err != nil {
		return err
	}
	if !facts.Complete {
		return Undecidedf("the image could not be read completely: %s", strings.Join(facts.Errors, "; "))
	}
	result, err := db.Match(ctx, facts.Packages, facts.OS, vuln.MatchOptions{Now: env.Now(), MaxAge: time.Duration(o.maxAge)})
	if err != nil {
		return &Error{Code: Undecided, Err: err}
	}
	if o.predicate != "" {
		// Only what this scan found: a report is somebody else's word, and is
		// signed by whoever gives it.
		if err := writePredicate(env, o.predicate, result); err != nil {
			return err
		}
	}
	for i, r := range reports {
		switch {
		case len(r.Images) == 0:
			env.Talkf("%s does not say which image it is about", o.reports[i])
		case !r.About(facts.Digest, facts.Config.Digest):
			return Refusedf("%s is about another image (%s)", o.reports[i], r.Images[0])
		}
		result.Findings = vuln.Merge(result.Findings, r.Findings)
	}
	if o.asJSON {
		err = writeJSON(env, result)
	} else {
		err = writeScan(env.Stdout, result)
	}
	if err != nil {
		return err
	}
	if limit != "" {
		if n := len(slices.DeleteFunc(slices.Clone(result.Findings), func(f vuln.Finding) bool { return !f.Severity.Level.AtLeast(limit) })); n > 0 {
			return Refusedf("%d findings are of level %s or above, or of unknown level", n, limit)
		}
	}
	if !result.Complete {
		return Undecidedf("not everything could be answered: that little was found means nothing")
	}
	return nil
}

func writePredicate(env *Env, path string, r vuln.Result) error {
	info, _ := debug.ReadBuildInfo()
	version := "devel"
	if info != nil {
		version = Version(info)
	}
	p, err := vuln.Make(r, version, env.Now())
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(env.Path(path), append(b, '\n'), os.FileMode(0o644))
}

// scanLine is a vulnerability in packages of one source and version.
type scanLine struct {
	vuln.Finding
	packages []string
}

// writeScan prints a result for a person: the worst first.
func writeScan(w io.Writer, r vuln.Result) error {
	var lines []*scanLine
	at := map[[5]string]*scanLine{}
	levels := map[vuln.Level]int{}
	for _, f := range r.Findings {
		key := [5]string{f.ID, f.Type, cmp.Or(f.Upstream, f.Package), f.Version, f.Source}
		if l := at[key]; l != nil {
			l.packages = append(l.packages, f.Package)
			continue
		}
		l := &scanLine{f, []string{f.Package}}
		at[key] = l
		lines = append(lines, l)
		levels[f.Severity.Level]++
	}
	order := []vuln.Level{vuln.LevelCritical, vuln.LevelHigh, vuln.LevelUnknown, vuln.LevelMedium, vuln.LevelLow, vuln.LevelNone}
	slices.SortStableFunc(lines, func(a, b *scanLine) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, a.Severity.Level), slices.Index(order, b.Severity.Level)),
			cmp.Compare(b.Severity.Score, a.Severity.Score), cmp.Compare(a.Package, b.Package), cmp.Compare(a.ID, b.ID))
	})
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(lines) > 0 {
		fmt.Fprintln(t, "VULNERABILITY\tLEVEL\tPACKAGE\tINSTALLED\tFIXED IN\tWHAT")
	}
	for _, l := range lines {
		level := string(l.Severity.Level)
		if l.Severity.Score > 0 {
			level += fmt.Sprintf(" %.1f", l.Severity.Score)
		}
		pkg := l.Package
		if n := len(l.packages); n > 1 {
			pkg = fmt.Sprintf("%s and %d more", pkg, n-1)
		}
		if l.Upstream != "" {
			pkg += " (" + l.Upstream + ")"
		}
		what := []rune(l.Summary)
		if len(what) > 60 {
			what = append(what[:57], '…')
		}
		if l.Source != vuln.SourceOSV {
			what = append([]rune("["+l.Source+"] "), what...)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(l.ID), level, printable(pkg), printable(l.Version), printable(cmp.Or(l.Fixed, "-")), printable(string(what)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(lines) > 0 {
		fmt.Fprintln(w)
	}
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, a := range r.Ecosystems {
		said := "not answered: " + a.Why
		if a.Answered {
			said = "answered, data of " + a.Newest.Format(time.DateOnly)
		}
		fmt.Fprintf(t, "%s\t%d packages\t%s\n", printable(a.Ecosystem), a.Packages, printable(said))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, u := range r.Undecided {
		fmt.Fprintf(w, "not decided: %s in %s %s: %s\n", printable(u.ID), printable(u.Package), printable(u.Version), printable(u.Why))
	}
	var parts []string
	for _, l := range order {
		if n := levels[l]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, l))
		}
	}
	switch {
	case len(lines) > 0:
		fmt.Fprintf(w, "%d found: %s\n", len(lines), strings.Join(parts, ", "))
	case r.Complete:
		fmt.Fprintln(w, "no known vulnerability")
	}
	return nil
}
