package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/audit"
)

func auditWitness() *Command {
	var log logFlags
	var keys []string
	var state, keyFile, keyName, listen string
	var once bool
	return &Command{
		Name: "witness", Short: "cosign what a log says, and never two histories",
		Long: `Runs a witness (C2SP tlog-witness): it remembers the newest checkpoint of each log
that it watches (--key, the logs' verifier keys) and cosigns only what follows it.
Run it where those who run the registry cannot change its files, and tell them
its URL and verifier key, which it prints.

The first start makes a key (--name). Everything that the witness remembers is in
--state: keep it. A witness that has lost it must be replaced by one with another
key, because it would cosign a second history.

--once looks at one log (--registry or --log) by itself, cosigns its checkpoint into
the state folder, and prints it: an anchor for verify, without a server.

It speaks HTTP without TLS, because what goes over it is signed on both sides and
no secret.`,
		Examples: "twinhull audit witness --state w --name witness.example/w1 --key log.pub --listen :7420\ntwinhull audit witness --once --state w --name me --key log.pub --registry r.example",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&state, "state", "", "`DIR` for what the witness remembers")
			f.StringVar(&keyName, "name", "", "`NAME` of the witness's key when one is made: a host and path of yours, without spaces")
			f.StringVar(&keyFile, "witness-key", "", "`FILE` of the witness's private key (default: witness.key in the state folder)")
			f.StringArrayVar(&keys, "key", nil, "verifier `KEY` of a log to watch, or a file of such keys; may be repeated")
			f.StringVar(&listen, "listen", "127.0.0.1:7420", "`ADDRESS` to serve on")
			f.BoolVar(&once, "once", false, "look at one log, cosign and end")
			log.where(f)
		},
		Run: func(ctx context.Context, env *Env, _ []string) error {
			if state == "" {
				return Usagef("where does the witness remember? Give --state DIR")
			}
			if !once && (log.dir != "" || log.registry != "") {
				return Usagef("--log and --registry go with --once; a serving witness is asked by its logs")
			}
			watch, err := readKeys(env, "key", keys)
			if err != nil {
				return err
			}
			if len(watch) == 0 {
				return Usagef("whom does it watch? Give a log's verifier key with --key")
			}
			path := env.Path(keyFile)
			if keyFile == "" {
				path = filepath.Join(env.Path(state), "witness.key")
			}
			private, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				if keyName == "" {
					return Usagef("the witness has no key yet (%s): name it with --name, as in --name witness.example/w1", path)
				}
				if _, err := makeKey(path, keyName); err != nil {
					return err
				}
				private, err = os.ReadFile(path)
			}
			if err != nil {
				return Undecidedf("%w", err)
			}
			logger := slog.New(slog.NewTextHandler(env.Stderr, nil))
			w, err := audit.OpenWitness(audit.WitnessOptions{Dir: env.Path(state), Key: string(private), Logs: watch, Logger: logger})
			if err != nil {
				return Undecidedf("%w", err)
			}
			defer w.Close()
			if once {
				return lookOnce(ctx, env, w, &log, watch)
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return Undecidedf("%w", err)
			}
			env.Talkf("witness %s\nserves http://%s/add-checkpoint", w.Key(), l.Addr())
			s := &http.Server{
				Handler: w, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
				ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute,
				MaxHeaderBytes: 16 << 10,
			}
			done := make(chan error, 1)
			go func() { done <- s.Serve(l) }()
			select {
			case err := <-done:
				return Undecidedf("%w", err)
			case <-ctx.Done():
			}
			// What is being answered is answered; it is remembered already.
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return s.Shutdown(end)
		},
	}
}

func lookOnce(ctx context.Context, env *Env, w *audit.Witness, log *logFlags, watch []string) error {
	src, err := log.source(ctx, env)
	if err != nil {
		return err
	}
	t, err := audit.NewTrust(watch, nil, 0)
	if err != nil {
		return Usagef("--once looks at one log: %w", err)
	}
	raw, err := w.Look(ctx, t.Origin(), src)
	if err != nil {
		return logError(err)
	}
	env.Talkf("witness %s", w.Key())
	_, err = fmt.Fprint(env.Stdout, string(raw))
	return err
}
