package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

func auditCommand() *Command {
	return &Command{
		Name: "audit", Short: "read, prove and verify the log of decisions",
		Long: `Every release, revocation, roll-back, refused deletion, collection and change of
policy or key is an entry of the registry's audit log before it takes effect. The
log is a Merkle tree on files: what it has signed it cannot change, shorten or
tell differently to somebody else without being found out.

The log is read from a registry (--registry HOST) or from its folder (--log DIR).
What is read is compared with the signed checkpoint; verify recomputes all of it.
--key says whose log it must be. Without it the key is taken from the log itself,
which shows that the log is whole, and not whose it is.`,
		Sub: []*Command{auditList(), auditShow(), auditProve(), auditVerify(), auditWitness(), auditKey()},
	}
}

// logPath is where a registry serves its log.
const logPath = "/twinhull/v1/log/"

// logFlags are where a log is and who is believed.
type logFlags struct {
	dir, registry string
	keys          []string
	witnesses     []string
	quorum        int
}

func (l *logFlags) where(f *pflag.FlagSet) {
	f.StringVar(&l.dir, "log", "", "`DIR` of the log")
	f.StringVar(&l.registry, "registry", "", "`HOST` of the registry that serves the log, or the log's URL")
}

func (l *logFlags) trust(f *pflag.FlagSet) {
	f.StringArrayVar(&l.keys, "key", nil, "verifier `KEY` of the log, or a file of such keys (default: the one that the log itself gives); may be repeated")
	f.StringArrayVar(&l.witnesses, "witness-key", nil, "verifier `KEY` of a witness, or a file of such keys; may be repeated")
	f.IntVar(&l.quorum, "quorum", 0, "`N` of the witnesses must have signed a checkpoint before it counts")
}

func (l *logFlags) all(f *pflag.FlagSet) {
	l.where(f)
	l.trust(f)
}

// source opens the log.
func (l *logFlags) source(ctx context.Context, env *Env) (audit.Source, error) {
	switch {
	case (l.dir == "") == (l.registry == ""):
		return nil, Usagef("which log? Give either --log DIR or --registry HOST")
	case l.dir != "":
		return audit.Dir(env.Path(l.dir)), nil
	}
	u, err := logURL(ctx, l.registry)
	if err != nil {
		return nil, Usagef("--registry %s: %w", l.registry, err)
	}
	return audit.Remote(u, &http.Client{Timeout: time.Minute, Transport: &signedIn{host: u.Host}}), nil
}

// logURL is where a log is: a host stands for the registry's log on it, by TLS
// unless it is a server of this machine that has none; a URL for itself.
func logURL(ctx context.Context, registry string) (*url.URL, error) {
	if strings.Contains(registry, "://") {
		u, err := url.Parse(registry)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.User != nil {
			return nil, errors.New("want HOST or https://HOST/PATH")
		}
		if u.Scheme == "http" && !onThisMachine(u.Hostname()) {
			return nil, errors.New("without TLS only on this machine")
		}
		return u, nil
	}
	u, err := url.Parse("https://" + registry)
	if err != nil || u.Host != registry {
		return nil, errors.New("want HOST or https://HOST/PATH")
	}
	u.Scheme = image.RegistryScheme(ctx, registry, nil)
	u.Path = logPath
	return u, nil
}

func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// signedIn adds the credentials that the user has for a registry, as docker
// login stores them.
type signedIn struct{ host string }

func (s *signedIn) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == s.host { // not where it redirects to
		if reg, err := name.NewRegistry(s.host); err == nil {
			if auth, err := authn.Resolve(r.Context(), authn.DefaultKeychain, reg); err == nil && auth != authn.Anonymous {
				c, err := authn.Authorization(r.Context(), auth)
				if err != nil {
					return nil, err
				}
				r = r.Clone(r.Context())
				switch {
				case c.RegistryToken != "":
					r.Header.Set("Authorization", "Bearer "+c.RegistryToken)
				case c.Username != "" || c.Password != "":
					r.SetBasicAuth(c.Username, c.Password)
				}
			}
		}
	}
	return http.DefaultTransport.RoundTrip(r)
}

// whom reads the keys. Without --key it takes the log's own, and says so.
func (l *logFlags) whom(ctx context.Context, env *Env, src audit.Source) (*audit.Trust, error) {
	keys, err := readKeys(env, "key", l.keys)
	if err != nil {
		return nil, err
	}
	witnesses, err := readKeys(env, "witness-key", l.witnesses)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		if src == nil {
			return nil, Usagef("whose log? Give --key")
		}
		file := "log.pub"
		if l.dir == "" {
			file = "key"
		}
		raw, err := src.ReadFile(ctx, file, 1<<20)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, Undecidedf("there is no log here: %w", err).WithHint("--log is the folder that holds checkpoint and tile; a log that is served without its key needs --key")
		}
		if err == nil {
			keys, err = audit.ReadKeys(strings.NewReader(string(raw)))
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, Undecidedf("the log's own key: %w", err).WithHint("%s", needsAudit)
		}
		if err != nil {
			return nil, Undecidedf("the log's own key: %w", err).WithHint("give the log's verifier key with --key")
		}
		env.Talkf("believing the key that the log itself gives: this shows whether the log is whole, not whose it is (--key)")
	}
	t, err := audit.NewTrust(keys, witnesses, l.quorum)
	if err != nil {
		return nil, Usagef("%w", err)
	}
	return t, nil
}

// needsAudit is what to do when a registry does not show its log.
const needsAudit = "sign in (`podman login HOST` or `docker login HOST`) as somebody with the grant audit in repositories [\"**\"]"

// readKeys reads what a flag names: verifier keys, or files of them.
func readKeys(env *Env, flag string, given []string) ([]string, error) {
	var all []string
	for _, g := range given {
		// NAME+HASH+KEY; a file could be called so, but none is.
		if strings.Count(g, "+") >= 2 && !fileExists(env.Path(g)) {
			all = append(all, g)
			continue
		}
		f, err := os.Open(env.Path(g))
		if err != nil {
			return nil, Usagef("--%s: %w", flag, err)
		}
		keys, err := audit.ReadKeys(f)
		f.Close()
		if err != nil {
			return nil, Usagef("--%s %s: %w", flag, g, err)
		}
		all = append(all, keys...)
	}
	return all, nil
}

// openLog opens a log for reading by its newest checkpoint.
func (l *logFlags) openLog(ctx context.Context, env *Env) (*audit.Reader, *audit.Checkpoint, error) {
	src, err := l.source(ctx, env)
	if err != nil {
		return nil, nil, err
	}
	trust, err := l.whom(ctx, env, src)
	if err != nil {
		return nil, nil, err
	}
	r := audit.NewReader(src, trust)
	c, err := r.Checkpoint(ctx)
	if err != nil {
		return nil, nil, logError(err)
	}
	return r, c, nil
}

// logError makes an error of reading a log one with the right exit code: damage
// and foreign signatures are a clear no, anything else nobody knows.
func logError(err error) error {
	if _, typed := errors.AsType[*Error](err); typed || err == nil {
		return err
	}
	_, damage := audit.Damage(err)
	switch {
	case damage:
		return Refusedf("%w", err).WithHint("`twinhull audit verify` tells all that is wrong with the log")
	case errors.Is(err, audit.ErrUnsigned):
		return Refusedf("%w", err).WithHint("the log is another one, its key was replaced, or somebody made it up: compare the keys (`twinhull audit key`)")
	case errors.Is(err, audit.ErrQuorum):
		return Refusedf("%w", err).WithHint("the witnesses may be behind or unreachable; ask again, and ask their operators")
	}
	return Undecidedf("%w", err)
}

// logEntry is an entry as list and show print it.
type logEntry struct {
	Index uint64          `json:"index"`
	Entry json.RawMessage `json:"entry"`
}

func auditList() *Command {
	var log logFlags
	var actions []string
	var repository, since, verdict, output string
	var last int
	return &Command{
		Name: "list", Short: "list entries of the log",
		Long: `Prints the newest entries that match, oldest first. Each is verified to stand at
its place in the tree that the newest checkpoint signs.

--since takes a date (2026-11-22), a time (2026-11-22T18:00:00Z) or an age (7d,
36h); it goes by the times in the entries, which are the server's clock.`,
		Examples: "twinhull audit list --registry registry.example --action release --since 7d\ntwinhull audit list --log /var/lib/twinhull/log --repository 'team/*' --output json",
		Flags: func(f *pflag.FlagSet) {
			log.all(f)
			f.StringArrayVar(&actions, "action", nil, "only this `ACTION`: release, revoke, roll-back, refuse-delete, refuse-write, erase, collect, policy-change, key-change, diverge, admit; may be repeated")
			f.StringVar(&repository, "repository", "", "only `NAME`, in which * stands for any letters")
			f.StringVar(&verdict, "verdict", "", "only allowed or only refused")
			f.StringVar(&since, "since", "", "only what is not older than a `DATE`, time or age")
			f.IntVar(&last, "last", 100, "at most the newest `N` that match; 0 for all")
			f.StringVar(&output, "output", "table", "table or json")
		},
		Run: func(ctx context.Context, env *Env, _ []string) error {
			if output != "table" && output != "json" {
				return Usagef("--output %q: want table or json", output)
			}
			if last < 0 {
				return Usagef("--last %d: want a number of entries, or 0 for all", last)
			}
			if verdict != "" && verdict != audit.Allowed && verdict != audit.Refused {
				return Usagef("--verdict %q: want %s or %s", verdict, audit.Allowed, audit.Refused)
			}
			after, err := parseSince(since, env.Now())
			if err != nil {
				return err
			}
			match := func(e audit.Entry) bool {
				if len(actions) > 0 && !slices.Contains(actions, string(e.Action)) ||
					verdict != "" && e.Verdict != verdict ||
					repository != "" && !project.Wildcard(repository, e.Object.Repository) {
					return false
				}
				t, err := time.Parse(time.RFC3339Nano, e.Time)
				return after.IsZero() || err != nil || !t.Before(after)
			}
			r, c, err := log.openLog(ctx, env)
			if err != nil {
				return err
			}
			records, err := newest(ctx, r, c, last, func(rec audit.Record) bool {
				// What a later version wrote is shown, lest it be overlooked.
				return rec.Err != nil || match(rec.Entry)
			})
			if err != nil {
				return logError(err)
			}
			if output == "json" {
				all := []logEntry{}
				for _, rec := range records {
					all = append(all, logEntry{rec.Index, rec.Raw})
				}
				return writeJSON(env, all)
			}
			printEntries(env, records)
			if last > 0 && len(records) == last && uint64(last) < c.Size {
				env.Talkf("the newest %d that match, of %d entries (--last 0 for all)", last, c.Size)
			}
			return nil
		},
	}
}

// newest returns the newest n records that match, 0 for all, oldest first.
func newest(ctx context.Context, r *audit.Reader, c *audit.Checkpoint, n int, match func(audit.Record) bool) ([]audit.Record, error) {
	const step = 256 // a bundle
	var found []audit.Record
	for end := c.Size; end > 0 && (n == 0 || len(found) < n); {
		from := (end - 1) / step * step
		var part []audit.Record
		for rec, err := range r.Entries(ctx, c, from, end) {
			if err != nil {
				return nil, err
			}
			if match(rec) {
				part = append(part, rec)
			}
		}
		found = append(part, found...)
		end = from
	}
	if n > 0 && len(found) > n {
		found = found[len(found)-n:]
	}
	return found, nil
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	var age ageValue
	if err := age.Set(s); err != nil {
		return time.Time{}, Usagef("--since %q: want a date (2026-11-22), a time (2026-11-22T18:00:00Z) or an age (7d, 36h)", s)
	}
	return now.Add(-time.Duration(age)), nil
}

func printEntries(env *Env, records []audit.Record) {
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INDEX\tTIME\tACTION\tVERDICT\tOBJECT\tACTOR")
	for _, rec := range records {
		e := rec.Entry
		if rec.Err != nil {
			fmt.Fprintf(w, "%d\t-\t-\t-\t%s\t-\n", rec.Index, cell(rec.Err.Error()))
			continue
		}
		at := e.Time
		if t, err := time.Parse(time.RFC3339Nano, e.Time); err == nil {
			at = t.UTC().Format("2006-01-02 15:04:05Z")
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", rec.Index, at, e.Action, e.Verdict, cell(objectName(e.Object)), cell(e.Actor.Name))
	}
	w.Flush()
}

// objectName is NAME:TAG@sha256:… with a digest that is long enough to be told.
func objectName(o audit.Object) string {
	s := o.Repository
	if o.Tag != "" {
		s += ":" + o.Tag
	}
	if o.Digest != "" {
		d := string(o.Digest)
		if i := strings.IndexByte(d, ':'); len(d) > i+13 {
			d = d[:i+13]
		}
		s += "@" + d
	}
	if s == "" {
		return "-"
	}
	return s
}

// cell is text that stays in its cell of a table, whatever somebody has sent.
func cell(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' {
			return ' '
		}
		return r
	}, printable(s))
}

func parseIndex(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, Usagef("%q: want the index of an entry, as `twinhull audit list` prints it", s)
	}
	return n, nil
}

func auditShow() *Command {
	var log logFlags
	var raw bool
	return &Command{
		Name: "show", Args: "INDEX", Min: 1, Max: 1, Short: "print one entry of the log",
		Long: `Prints an entry as JSON, verified to stand at its place in the tree that the
newest checkpoint signs. --raw prints the very bytes that the tree holds.`,
		Examples: "twinhull audit show 17 --registry registry.example\ntwinhull audit show 17 --log /var/lib/twinhull/log --raw > entry.json",
		Flags: func(f *pflag.FlagSet) {
			log.all(f)
			f.BoolVar(&raw, "raw", false, "print the canonical bytes, without a line end")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			index, err := parseIndex(args[0])
			if err != nil {
				return err
			}
			r, c, err := log.openLog(ctx, env)
			if err != nil {
				return err
			}
			if index >= c.Size {
				return Refusedf("the log has %d entries, so there is no entry %d", c.Size, index)
			}
			rec, err := r.Entry(ctx, c, index)
			if err != nil {
				return logError(err)
			}
			if raw {
				_, err := env.Stdout.Write(rec.Raw)
				return err
			}
			return writeJSON(env, logEntry{index, rec.Raw})
		},
	}
}

func auditProve() *Command {
	var log logFlags
	var file string
	return &Command{
		Name: "prove", Args: "INDEX|DIGEST", Min: 1, Max: 1, Short: "write a proof that an entry is in the log",
		Long: `Writes one file (C2SP tlog-proof) that holds the entry, its path in the tree and
the signed checkpoint with the witnesses' signatures. Whoever has the log's key
verifies it without a network: twinhull audit verify --proof FILE --key KEY.

A DIGEST stands for the newest entry that allowed something with it as its object
(its release, or its revocation since), else for the newest refusal.`,
		Examples: "twinhull audit prove 17 --registry registry.example -o release.tlog-proof\ntwinhull audit prove sha256:… --log /var/lib/twinhull/log -o release.tlog-proof",
		Flags: func(f *pflag.FlagSet) {
			log.all(f)
			f.StringVarP(&file, "output", "o", "", "`FILE` to write (default: INDEX.tlog-proof)")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			r, c, err := log.openLog(ctx, env)
			if err != nil {
				return err
			}
			var index uint64
			if strings.Contains(args[0], ":") {
				d := oci.Digest(args[0])
				if err := d.Validate(); err != nil {
					return Usagef("%q: %w", args[0], err)
				}
				// Anybody can add refusals: a deletion that was tried does not stand
				// for the release.
				about := func(rec audit.Record) bool { return rec.Err == nil && rec.Entry.Object.Digest == d }
				found, err := newest(ctx, r, c, 1, func(rec audit.Record) bool { return about(rec) && rec.Entry.Verdict == audit.Allowed })
				if err == nil && len(found) == 0 {
					found, err = newest(ctx, r, c, 1, about)
				}
				if err != nil {
					return logError(err)
				}
				if len(found) == 0 {
					return Refusedf("no entry is about %s", d).WithHint("`twinhull audit list --last 0 --output json` has all that an entry names")
				}
				index = found[0].Index
			} else if index, err = parseIndex(args[0]); err != nil {
				return err
			}
			if index >= c.Size {
				return Refusedf("the log has %d entries, so there is no entry %d", c.Size, index)
			}
			p, err := r.Prove(ctx, index)
			if err != nil {
				return logError(err)
			}
			path := file
			if path == "" {
				path = fmt.Sprintf("%d.tlog-proof", index)
			}
			if err := audit.WriteProof(env.Path(path), p); err != nil {
				return err
			}
			env.Talkf("%s proves entry %d by a checkpoint of %d entries", path, index, c.Size)
			return nil
		},
	}
}

func auditKey() *Command {
	var log logFlags
	var fresh string
	return &Command{
		Name: "key", Short: "print the log's verifier keys",
		Long: `Prints the keys that verify the log's checkpoints, the current one first, as C2SP
signed-note writes them. Give them to those who verify by another way than the
log itself.

--new makes another private key of the same name, for a change of keys, and prints
its verifier key. The log goes on with it when the server is started with it; see
doc/audit.md.`,
		Examples: "twinhull audit key --log /var/lib/twinhull/log > log.pub\ntwinhull audit key --log /var/lib/twinhull/log --new next.key",
		Flags: func(f *pflag.FlagSet) {
			log.where(f)
			f.StringVar(&fresh, "new", "", "`FILE` for another private key; it must not be there yet")
		},
		Run: func(ctx context.Context, env *Env, _ []string) error {
			src, err := log.source(ctx, env)
			if err != nil {
				return err
			}
			file := "log.pub"
			if log.dir == "" {
				file = "key"
			}
			raw, err := src.ReadFile(ctx, file, 1<<20)
			if err != nil {
				return Undecidedf("%w", err).WithHint("a log has a key once a server has opened it (`twinhull serve`)")
			}
			keys, err := audit.ReadKeys(strings.NewReader(string(raw)))
			if err != nil {
				return Undecidedf("%w", err)
			}
			if fresh == "" {
				_, err := io.WriteString(env.Stdout, strings.Join(keys, "\n")+"\n")
				return err
			}
			t, err := audit.NewTrust(keys, nil, 0)
			if err != nil {
				return Undecidedf("%w", err)
			}
			verifier, err := makeKey(env.Path(fresh), t.Origin())
			if err != nil {
				return err
			}
			_, err = io.WriteString(env.Stdout, verifier+"\n")
			return err
		},
	}
}

// makeKey writes a private key and returns its verifier key.
func makeKey(path, name string) (string, error) {
	if _, err := os.Lstat(path); err == nil {
		return "", Refusedf("%s is there already", path).WithHint("choose another name: what a replaced key has signed may still be needed")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	private, verifier, err := audit.GenerateKey(name)
	if err != nil {
		return "", Usagef("%w", err)
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return verifier, durable.WriteFile(path, []byte(private+"\n"), 0o600)
}
