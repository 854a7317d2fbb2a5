package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/server"
)

func serveCommand() *Command {
	o := new(serveOptions)
	return &Command{
		Name: "serve", Short: "serve images: a registry that keeps the zones apart",
		Long: `Serves a registry over the folder DIR, which is made when it is not there: the
OCI distribution protocol, the release service, the audit log and metrics, in one
process. NAME/dev takes development images, NAME/candidate takes production images
by digest, and NAME gets what twinhull release puts there and nothing else.

Nothing is open by default. --config names the file that says who may do what, and
everything else: doc/registry.md has all of it, and --print-config writes it with
the values that are in force. Flags go before the file. Without TLS only addresses
of this machine are served, unless --insecure-plain-http says otherwise.

The address is printed on standard output once requests are taken, what is open and
which keys sign on standard error. SIGTERM lets requests end and stops; SIGHUP reads
access rules, users and certificates again.

--check proves the store in place of serving: every blob hashes, every reference
resolves, nothing is left over, and the audit log agrees. It asks a server that runs
on the folder, or opens it itself. It exits with 0 when all is well, with 1 when
something is wrong, and with 3 when it cannot tell. --mend repairs what can be
repaired without losing anything. --backup copies everything into a folder that can
be served itself; a running server goes on meanwhile.`,
		Examples: "twinhull serve --data registry --allow-anonymous-development\ntwinhull serve --config /etc/twinhull/registry.yaml\ntwinhull serve --config registry.yaml --print-config\ntwinhull serve --data registry --check\ntwinhull serve --data registry --backup /backup/registry",
		Flags: func(f *pflag.FlagSet) {
			o.flags = f
			f.StringVar(&o.config, "config", "", "configuration `FILE`")
			f.StringVar(&o.data, "data", "", "`DIR` of everything that is kept")
			f.StringVar(&o.listen, "listen", "", "`ADDRESS:PORT` to serve on (default 127.0.0.1:5000); port 0: any that is free")
			f.BoolVar(&o.open, "allow-anonymous-development", false, "let everybody pull from, push to and delete from development catalogs")
			f.BoolVar(&o.plain, "insecure-plain-http", false, "serve other machines without TLS: whoever is between reads passwords and changes images")
			f.BoolVar(&o.print, "print-config", false, "print the configuration that is in force, and end")
			f.BoolVar(&o.check, "check", false, "check the store, and end")
			f.BoolVar(&o.shallow, "shallow", false, "with --check: look for blobs without reading them")
			f.BoolVar(&o.mend, "mend", false, "with --check: repair what can be repaired")
			f.BoolVar(&o.json, "json", false, "with --check or --backup: print the result as JSON")
			f.StringVar(&o.backup, "backup", "", "copy everything to `DIR`, and end")
		},
		Run: func(ctx context.Context, env *Env, args []string) error { return o.run(ctx, env) },
	}
}

type serveOptions struct {
	flags                        *pflag.FlagSet
	config, data, listen, backup string
	open, plain, print           bool
	check, shallow, mend, json   bool
}

func (o *serveOptions) run(ctx context.Context, env *Env) error {
	modes := 0
	for _, on := range []bool{o.print, o.check, o.backup != ""} {
		if on {
			modes++
		}
	}
	switch {
	case modes > 1:
		return Usagef("--print-config, --check and --backup are three things: ask for one")
	case (o.shallow || o.mend) && !o.check:
		return Usagef("--shallow and --mend go with --check")
	case o.shallow && o.mend:
		return Usagef("--mend without reading would mend by halves: leave --shallow out")
	case o.json && !o.check && o.backup == "":
		return Usagef("--json goes with --check or --backup")
	}
	c, err := o.read(env)
	if err == nil {
		err = c.Check()
	}
	if err != nil {
		return &Error{Code: Misused, Err: err}
	}
	info, _ := debug.ReadBuildInfo()
	opt := server.Options{Version: Version(info), Getenv: env.Getenv, Stderr: env.Stderr, Now: env.Now}
	switch {
	case o.print:
		return c.Print(env.Stdout)
	case o.check:
		return o.runCheck(ctx, env, c, opt)
	case o.backup != "":
		return o.runBackup(ctx, env, c, opt)
	}
	opt.Reload = func() (server.Config, error) { return o.read(env) }
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	tell := make(chan struct{})
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		for {
			select {
			case <-stopped:
				return
			case <-again:
				select {
				case tell <- struct{}{}:
				case <-stopped:
					return
				}
			}
		}
	}()
	opt.Again = tell
	opt.Listening = func(d server.Doors) { printDoors(env, d) }
	return server.Run(ctx, c, opt)
}

// read makes the configuration of the defaults, the file and the flags, in that
// order.
func (o *serveOptions) read(env *Env) (server.Config, error) {
	c := server.Default()
	if o.config != "" {
		path := env.Path(o.config)
		data, err := readLimited(path, server.MaxConfig+1)
		if err != nil {
			return c, fmt.Errorf("--config: %w", err)
		}
		if err := server.ReadConfig(o.config, data, filepath.Dir(path), &c); err != nil {
			return c, err
		}
	}
	if o.data != "" {
		c.Data = env.Path(o.data)
	}
	if o.listen != "" {
		c.Listen = o.listen
	}
	// A flag that is given is meant, false too.
	if o.flags.Changed("allow-anonymous-development") {
		c.Access.AnonymousDevelopment = o.open
	}
	if o.flags.Changed("insecure-plain-http") {
		c.InsecurePlainHTTP = o.plain
	}
	return c, nil
}

// printDoors says where the server is and what is open.
func printDoors(env *Env, d server.Doors) {
	fmt.Fprintln(env.Stdout, d.URL)
	line := func(name, format string, a ...any) { env.Talkf("%-10s "+format, append([]any{name}, a...)...) }
	line("registry", "%s", d.URL)
	if d.PlainHTTP {
		line("warning", "others reach it without TLS: passwords and images can be read and changed on the way")
	}
	if d.Metrics != "" {
		line("metrics", "%s/metrics", d.Metrics)
	}
	for _, open := range d.Open {
		line("open", "%s", open)
	}
	if len(d.Open) == 0 {
		line("open", "nothing to strangers")
	}
	if d.Host != "" {
		line("signs", "for %s with key %s", d.Host, d.Key)
		if d.KeyMade {
			line("", "the key was made now: keys/server.pub in the data folder is what others believe")
		}
	}
	if d.LogKey != "" {
		line("log", "%s", d.LogKey)
	}
	if d.Releases != "" {
		line("releases", "none: %s", d.Releases)
	}
}

func (o *serveOptions) runCheck(ctx context.Context, env *Env, c server.Config, opt server.Options) error {
	opt.Stderr = nil
	task := env.Progress.Task("checking "+c.Data, 0)
	got, err := server.CheckStore(ctx, c, opt, server.CheckOptions{Shallow: o.shallow, Mend: o.mend, Passed: task.Add})
	task.Done(err)
	if err != nil {
		return undecided(err)
	}
	if o.json {
		err = writeJSON(env, got)
	} else {
		err = writeChecked(env.Stdout, got)
	}
	if err != nil {
		return err
	}
	for _, p := range got.Problems {
		if !p.Mended {
			return Status(Failed)
		}
	}
	return nil
}

func writeChecked(w io.Writer, c *registry.Checked) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "repositories\t%d\n", c.Repositories)
	fmt.Fprintf(t, "tags\t%d\n", c.Tags)
	fmt.Fprintf(t, "manifests\t%d\n", c.Manifests)
	fmt.Fprintf(t, "blobs\t%d, %s\n", c.Contents, byteCount(c.Bytes))
	fmt.Fprintf(t, "uploads\t%d\n", c.Uploads)
	if err := t.Flush(); err != nil {
		return err
	}
	if len(c.Problems) == 0 {
		_, err := fmt.Fprintln(w, "\nclean")
		return err
	}
	mended := 0
	fmt.Fprintln(w)
	for _, p := range c.Problems {
		where := strings.TrimSpace(p.Repository + " " + p.Name)
		fmt.Fprintf(w, "%s  %s\n    %s\n", p.Kind, printable(where), printable(p.Detail))
		switch {
		case p.Mended:
			mended++
			fmt.Fprintf(w, "    mended: %s\n", printable(p.Mend))
		case p.Mend != "":
			fmt.Fprintf(w, "    --mend would: %s\n", printable(p.Mend))
		default:
			fmt.Fprintln(w, "    cannot be mended from what is here")
		}
	}
	_, err := fmt.Fprintf(w, "\n%d problems, %d of them mended\n", len(c.Problems), mended)
	return err
}

func (o *serveOptions) runBackup(ctx context.Context, env *Env, c server.Config, opt server.Options) error {
	opt.Stderr = nil
	task := env.Progress.Task("backing up "+c.Data, 0)
	got, err := server.Backup(ctx, c, opt, env.Path(o.backup))
	task.Done(err)
	if err != nil {
		return err
	}
	if got.Partial != "" {
		env.Talkf("not all: %s", got.Partial)
	}
	if o.json {
		return writeJSON(env, got)
	}
	_, err = fmt.Fprintln(env.Stdout, got.Dir)
	return err
}
