package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/evidence/vuln"
)

func vulndbCommand() *Command {
	return &Command{
		Name: "vulndb", Short: "import known vulnerabilities and say how old they are",
		Long: `The vulnerability database answers twinhull scan and twinhull check without a
network. It is made from the files that OSV publishes, one zip per ecosystem,
which you fetch in whatever way your network allows.

It lies in the cache folder, or in the folder that --vulnerabilities or
TWINHULL_VULNERABILITIES names.`,
		Sub: []*Command{vulndbImport(), vulndbStatus()},
	}
}

// vulnFlag declares the flag that says where the database is.
func vulnFlag(f *pflag.FlagSet, dir *string) {
	f.StringVar(dir, "vulnerabilities", "", "`DIR` of the vulnerability database (default: TWINHULL_VULNERABILITIES, else in the cache folder)")
}

// vulnDir is the folder of the vulnerability database.
func vulnDir(env *Env, given string) (string, error) {
	for _, dir := range []string{given, env.Getenv("TWINHULL_VULNERABILITIES")} {
		if dir != "" {
			return env.Path(dir), nil
		}
	}
	cache, err := env.CacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "vulnerabilities"), nil
}

// ageValue is a flag for an age: Go's durations, and days ("7d").
type ageValue time.Duration

func (a *ageValue) String() string {
	if d := time.Duration(*a); d%(24*time.Hour) == 0 {
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	}
	return time.Duration(*a).String()
}

func (a *ageValue) Set(s string) error {
	var d time.Duration
	var err error
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var days int
		days, err = strconv.Atoi(n)
		d = time.Duration(min(days, 100_000)) * 24 * time.Hour
	} else {
		d, err = time.ParseDuration(s)
	}
	if err != nil || d <= 0 {
		return errors.New("want an age above zero: 7d, 36h")
	}
	*a = ageValue(d)
	return nil
}

func (a *ageValue) Type() string { return "AGE" }

// maxAgeFlag declares --max-age.
func maxAgeFlag(f *pflag.FlagSet, age *ageValue) {
	*age = ageValue(vuln.DefaultMaxAge)
	f.Var(age, "max-age", "`AGE` that the data of an ecosystem may have, by its newest record")
}

func vulndbImport() *Command {
	var dir, asOf string
	var opt vuln.ImportOptions
	return &Command{
		Name: "import", Args: "PATH...", Min: 1, Max: -1, Short: "make the database from files of OSV",
		Long: `Reads the sources and replaces the database once all of them were read. A PATH is
all.zip of an ecosystem, a folder of records (ID.json), or a folder that holds
such zips or folders (npm/all.zip, Debian/all.zip). The database holds what is
given now and nothing of what was imported before.

What a source holds whole follows from its records: the ecosystem that all of
them have in common. For a folder with records of several ecosystems,
--ecosystem says it. The date of the data is that of its newest record; --as-of
dates records that have no dates.

One record that cannot be read fails the import: it might be the one that
matters. The database that was there stays then.`,
		Examples: "twinhull vulndb import osv                 # with osv/npm/all.zip, osv/Debian/all.zip …\ntwinhull vulndb import go-vulndb/data/osv --as-of 2026-08-21",
		Flags: func(f *pflag.FlagSet) {
			vulnFlag(f, &dir)
			f.StringArrayVar(&opt.Ecosystems, "ecosystem", nil, "`NAME` of an ecosystem that a source holds whole, where its records do not tell; may be repeated")
			f.StringVar(&asOf, "as-of", "", "`DATE` of records that have no dates, as 2006-01-02")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			to, err := vulnDir(env, dir)
			if err != nil {
				return err
			}
			opt.Now = env.Now()
			if asOf != "" {
				if opt.AsOf, err = time.Parse(time.DateOnly, asOf); err != nil {
					return Usagef("--as-of %s: want a date like 2026-11-22", asOf)
				}
			}
			var paths []string
			for _, a := range args {
				paths = append(paths, env.Path(a))
			}
			t := env.Progress.Task("importing vulnerabilities", 0)
			opt.Passed = t.Add
			s, err := vuln.Import(ctx, to, paths, opt)
			t.Done(err)
			if err != nil {
				return err
			}
			return writeVulnStatus(env.Stdout, s, env.Now())
		},
	}
}

func vulndbStatus() *Command {
	var dir string
	var asJSON, verify bool
	var maxAge ageValue
	return &Command{
		Name: "status", Short: "say what the database holds and how old it is",
		Long: `Prints the ecosystems of the database with the number of their records and the
date of the newest. Exits with 1 when there is no database, when it is damaged,
or when the data of an ecosystem is older than --max-age or has no date.`,
		Examples: "twinhull vulndb status\ntwinhull vulndb status --max-age 36h --json",
		Flags: func(f *pflag.FlagSet) {
			vulnFlag(f, &dir)
			maxAgeFlag(f, &maxAge)
			f.BoolVar(&asJSON, "json", false, "print the status as JSON")
			f.BoolVar(&verify, "verify", false, "read the whole database and check every digest")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			from, err := vulnDir(env, dir)
			if err != nil {
				return err
			}
			db, err := vuln.Open(from)
			if err != nil {
				return err
			}
			defer db.Close()
			if verify {
				if err := db.Verify(ctx); err != nil {
					return err
				}
			}
			s := db.Status()
			if asJSON {
				err = writeJSON(env, s)
			} else {
				err = writeVulnStatus(env.Stdout, s, env.Now())
			}
			if err != nil {
				return err
			}
			var old []string
			for _, src := range s.Sources {
				if src.Newest.IsZero() || env.Now().Sub(src.Newest) > time.Duration(maxAge) {
					old = append(old, src.Ecosystems...)
				}
			}
			if len(old) > 0 {
				return Refusedf("too old, or without a date: %s; at most %s are allowed", strings.Join(old, ", "), maxAge.String()).
					WithHint("import newer data: twinhull vulndb import PATH")
			}
			return nil
		},
	}
}

func writeVulnStatus(w io.Writer, s vuln.Status, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "database\t%s\n", s.Digest)
	fmt.Fprintf(t, "imported\t%s\n", s.Imported.Format(time.RFC3339))
	fmt.Fprintf(t, "holds\t%d records about %d packages, %s\n", s.Records, s.Packages, byteCount(s.Size))
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ECOSYSTEM\tRECORDS\tNEWEST\tAGE\tSOURCE")
	for _, src := range s.Sources {
		newest, age := "no date", "cannot be told"
		if !src.Newest.IsZero() {
			newest = src.Newest.Format(time.DateOnly)
			age = fmt.Sprintf("%d days", max(0, int(now.Sub(src.Newest).Hours()/24)))
			if src.Stated {
				newest += " (stated)"
			}
		}
		name := strings.Join(src.Ecosystems, ", ")
		if n := len(src.Releases); n > 0 && len(src.Ecosystems) == 1 && src.Releases[0] != name {
			name += fmt.Sprintf(" (%d releases)", n)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", printable(name), src.Records, newest, age, printable(src.Name))
	}
	return t.Flush()
}
