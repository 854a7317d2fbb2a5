package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/release"
	"twinhull.dev/twinhull/internal/registry/release/client"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

func catalogCommand() *Command {
	return &Command{
		Name: "catalog", Short: "look at a server's catalogs, and keep or collect things",
		Long: `A server of this program keeps each project in three catalogs: NAME/dev for
development images, NAME/candidate for production images that are not released
yet, and NAME, which is permanent.`,
		Sub: []*Command{catalogList(), catalogVersions(), catalogTags(), catalogHistory(), catalogWhy(), catalogPin(true), catalogPin(false), catalogCollect(), catalogCompare(), catalogAnchor()},
	}
}

// repositoryArg reads HOST/NAME[:TAG][@DIGEST] as it is, in whatever catalog.
func repositoryArg(arg string) (oci.Ref, *client.Client, error) {
	ref, err := oci.ParseRef(arg)
	if err != nil || ref.Kind != oci.RegistryRef {
		return ref, nil, Usagef("%q: want HOST/NAME", arg)
	}
	c, err := client.New(ref.Host, client.Options{})
	return ref, c, err
}

// hostArg reads HOST.
func hostArg(arg string) (*client.Client, error) {
	c, err := client.New(arg, client.Options{})
	if err != nil {
		return nil, Usagef("%w", err)
	}
	return c, nil
}

func jsonFlag(asJSON *bool) func(*pflag.FlagSet) {
	return func(f *pflag.FlagSet) { f.BoolVar(asJSON, "json", false, "print the result as JSON") }
}

func catalogList() *Command {
	var asJSON bool
	return &Command{
		Name: "list", Args: "HOST", Min: 1, Max: 1, Short: "list the repositories of a server, with their catalogs",
		Long: "Lists the repositories that you may pull from.", Examples: "twinhull catalog list registry.example", Flags: jsonFlag(&asJSON),
		Run: func(ctx context.Context, env *Env, args []string) error {
			c, err := hostArg(args[0])
			if err != nil {
				return err
			}
			all, err := c.Repositories(ctx)
			if err != nil {
				return serverError(err, "")
			}
			if asJSON {
				return writeJSON(env, all)
			}
			t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
			for _, r := range all {
				class, _ := catalog.Of(r)
				fmt.Fprintf(t, "%s\t%s\n", printable(r), class)
			}
			return t.Flush()
		},
	}
}

func catalogVersions() *Command {
	var asJSON bool
	return &Command{
		Name: "versions", Args: "HOST/NAME", Min: 1, Max: 1, Short: "list what was released, and what was revoked",
		Long: "Lists the versions of a production repository, the lowest first.", Examples: "twinhull catalog versions registry.example/shop/api", Flags: jsonFlag(&asJSON),
		Run: func(ctx context.Context, env *Env, args []string) error {
			ref, c, err := repositoryArg(args[0])
			if err != nil {
				return err
			}
			all, err := c.Versions(ctx, ref.Name)
			if err != nil {
				return serverError(err, "")
			}
			if asJSON {
				return writeJSON(env, all)
			}
			if len(all) == 0 {
				env.Talkf("nothing was released in %s", ref)
				return nil
			}
			t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "VERSION\tDIGEST\tRELEASED\tBY\tENTRY\t")
			for _, v := range all {
				note := ""
				switch {
				case v.Erased:
					note = "erased"
				case v.Revoked != nil:
					note = "revoked: " + shorten(v.Revoked.Reason, 60)
				}
				fmt.Fprintln(t, printable(fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%s", v.Version, v.Digest, v.At.UTC().Format(time.DateTime), v.By.Name, v.Entry, note)))
			}
			return t.Flush()
		},
	}
}

func catalogTags() *Command {
	var asJSON bool
	return &Command{
		Name: "tags", Args: "HOST/NAME", Min: 1, Max: 1, Short: "list tags, where they point and when they go",
		Long:     "Lists the tags of one repository: NAME for production, NAME/dev for development.",
		Examples: "twinhull catalog tags registry.example/shop/api/dev", Flags: jsonFlag(&asJSON),
		Run: func(ctx context.Context, env *Env, args []string) error {
			ref, c, err := repositoryArg(args[0])
			if err != nil {
				return err
			}
			all, err := c.Tags(ctx, ref.Name)
			if err != nil {
				return serverError(err, "")
			}
			if asJSON {
				return writeJSON(env, all)
			}
			t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "TAG\tDIGEST\tPUSHED\tBY\tGOES\t")
			for _, x := range all {
				goes, note := "stays", ""
				if x.Expires != nil {
					goes = x.Expires.UTC().Format(time.DateTime)
				}
				if x.Pinned {
					note = "pinned"
				}
				if x.Revoked {
					note = strings.TrimSpace(note + " revoked")
				}
				fmt.Fprintln(t, printable(fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", x.Name, x.Digest, x.Pushed.UTC().Format(time.DateTime), x.By.Name, goes, note)))
			}
			return t.Flush()
		},
	}
}

func catalogHistory() *Command {
	var asJSON bool
	return &Command{
		Name: "history", Args: "HOST/NAME:TAG", Min: 1, Max: 1, Short: "tell where a tag pointed, and who moved it",
		Long: "Lists the moves of a tag, the newest last.", Examples: "twinhull catalog history registry.example/shop/api:latest", Flags: jsonFlag(&asJSON),
		Run: func(ctx context.Context, env *Env, args []string) error {
			ref, c, err := repositoryArg(args[0])
			if err != nil {
				return err
			}
			if ref.Tag == "" {
				return Usagef("%s: want HOST/NAME:TAG", args[0])
			}
			all, err := c.History(ctx, ref.Name, ref.Tag)
			if err != nil {
				return serverError(err, "")
			}
			if asJSON {
				return writeJSON(env, all)
			}
			t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
			for _, e := range all {
				to := string(e.To)
				if to == "" {
					to = "deleted"
				}
				fmt.Fprintln(t, printable(fmt.Sprintf("%s\t%s\t%s", e.At.UTC().Format(time.DateTime), to, e.By.Name)))
			}
			return t.Flush()
		},
	}
}

func catalogWhy() *Command {
	var asJSON bool
	return &Command{
		Name: "why", Args: "HOST/NAME@DIGEST", Min: 1, Max: 1, Short: "tell why something is kept and when it goes",
		Long:     "Lists everything that keeps a manifest or a blob of a repository, and since when\nnothing does.",
		Examples: "twinhull catalog why registry.example/shop/api/dev@sha256:…", Flags: jsonFlag(&asJSON),
		Run: func(ctx context.Context, env *Env, args []string) error {
			ref, c, err := repositoryArg(args[0])
			if err != nil {
				return err
			}
			if ref.Digest == "" {
				return Usagef("%s: want HOST/NAME@DIGEST", args[0]).WithHint("`twinhull catalog tags HOST/NAME` and `catalog versions` show digests")
			}
			f, err := c.Why(ctx, ref.Name, ref.Digest)
			if err != nil {
				return serverError(err, "")
			}
			if asJSON {
				return writeJSON(env, f)
			}
			fmt.Fprintf(env.Stdout, "%s %s\n", printable(f.Kind), f.Digest)
			for _, k := range f.Kept {
				until := ""
				if k.Until != nil {
					until = ", until " + k.Until.UTC().Format(time.DateTime)
				}
				fmt.Fprintln(env.Stdout, printable("  kept: "+k.Why+until))
			}
			if f.Goes == nil {
				fmt.Fprintln(env.Stdout, "it stays, as things are")
			} else {
				fmt.Fprintf(env.Stdout, "it goes after %s\n", f.Goes.UTC().Format(time.DateTime))
			}
			return nil
		},
	}
}

func catalogPin(on bool) *Command {
	name, short, long := "pin", "keep a tag or a manifest until it is unpinned", "Keeps a tag, or what a digest names, of a development or candidate catalog from\nbeing collected. In production nothing ever goes."
	if !on {
		name, short, long = "unpin", "let go what was pinned", "Lets go what was pinned: it is collected when its time is over."
	}
	return &Command{
		Name: name, Args: "HOST/NAME:TAG", Min: 1, Max: 1, Short: short, Long: long,
		Examples: "twinhull catalog " + name + " registry.example/shop/api/dev:feature-x",
		Run: func(ctx context.Context, env *Env, args []string) error {
			ref, c, err := repositoryArg(args[0])
			if err != nil {
				return err
			}
			what := ref.Tag
			if ref.Digest != "" {
				what = string(ref.Digest)
			}
			if what == "" || ref.Tag != "" && ref.Digest != "" {
				return Usagef("%s: want HOST/NAME:TAG or HOST/NAME@DIGEST", args[0])
			}
			if err := c.Pin(ctx, release.PinRequest{Repository: ref.Name, Reference: what, Pinned: on}); err != nil {
				return serverError(err, "")
			}
			fmt.Fprintf(env.Stdout, "%sned %s\n", name, args[0])
			return nil
		},
	}
}

func catalogCollect() *Command {
	var asJSON, dryRun bool
	return &Command{
		Name: "collect", Args: "HOST", Min: 1, Max: 1, Short: "delete what nobody needs any more",
		Long: "Collects now, as the server does by itself from time to time. With --dry-run it\ntells what is due and deletes nothing.", Examples: "twinhull catalog collect registry.example --dry-run",
		Flags: func(f *pflag.FlagSet) {
			jsonFlag(&asJSON)(f)
			f.BoolVar(&dryRun, "dry-run", false, "tell what is due and delete nothing")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			c, err := hostArg(args[0])
			if err != nil {
				return err
			}
			x, err := c.Collect(ctx, dryRun)
			if err != nil {
				return serverError(err, "")
			}
			if asJSON {
				return writeJSON(env, x)
			}
			for _, r := range x.Removed {
				fmt.Fprintln(env.Stdout, printable(strings.TrimSpace(r.Kind+"  "+r.Repository+"  "+r.Name)))
			}
			env.Talkf("%s %d tags, %d manifests, %d blobs of repositories, %d uploads", made(!dryRun, "deleted", "due:"), x.Tags, x.Manifests, x.Blobs, x.Uploads)
			return nil
		},
	}
}

func catalogCompare() *Command {
	var asJSON bool
	return &Command{
		Name: "compare", Args: "HOST FOREIGN/NAME", Min: 2, Max: 2, Short: "compare another registry with what was released to it",
		Long: `Lets the server at HOST look at a repository of another registry and compares it
with the releases to it in its audit log: tags that were moved or deleted,
manifests that are gone, tags that nobody released. What such a registry cannot
prevent is found so, and recorded in the log.

Exits with 1 when something differs, and with 3 when nothing was released to it.`,
		Examples: "twinhull catalog compare registry.example other.example/shop/api", Flags: jsonFlag(&asJSON),
		Run: func(ctx context.Context, env *Env, args []string) error {
			c, err := hostArg(args[0])
			if err != nil {
				return err
			}
			x, err := c.Compare(ctx, args[1])
			if err != nil {
				return serverError(err, "")
			}
			if asJSON {
				if err := writeJSON(env, x); err != nil {
					return err
				}
			} else {
				for _, d := range x.Divergences {
					fmt.Fprintln(env.Stdout, printable(d.Kind+"  "+d.Message))
				}
			}
			if len(x.Divergences) > 0 {
				return Refusedf("%s differs from the audit log in %d things", x.Repository, len(x.Divergences))
			}
			if x.Versions == 0 {
				return Undecidedf("nothing was released to %s from here: there is nothing to compare it with", x.Repository)
			}
			env.Talkf("%s is as it was released: %d versions, %d manifests", x.Repository, x.Versions, x.Manifests)
			return nil
		},
	}
}

func catalogAnchor() *Command {
	var key, policy string
	return &Command{
		Name: "anchor", Args: "HOST/NAME:VERSION", Min: 1, Max: 1, Short: "print the audit log's checkpoint that a release holds",
		Long: `Prints the signed checkpoint of the server's audit log in the verification summary
of a release: what the log was then. Kept elsewhere, it is an anchor for
` + "`twinhull audit verify`" + `: the log cannot take back what it covers. The summary is
believed by --key or --trust; without them by the key that the server names now,
which says nothing against the server itself.`,
		Examples: "twinhull catalog anchor registry.example/shop/api:1.4.2 --key server.pub > kept.checkpoint\ntwinhull audit verify --registry registry.example --anchor kept.checkpoint",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&policy, "trust", "", "trust policy `FILE`: who may make summaries")
			f.StringVar(&key, "key", "", "public key `FILE` of the server")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			var believed *trust.Policy
			if policy != "" || key != "" {
				var err error
				if believed, err = whomToBelieve(env, policy, key); err != nil {
					return err
				}
			}
			raw, err := anchorOf(ctx, env, args[0], believed)
			if err != nil {
				return err
			}
			_, err = env.Stdout.Write(raw)
			return err
		},
	}
}

// anchorOf is the checkpoint in the newest believed summary of an image. A nil
// policy believes the key that the server names.
func anchorOf(ctx context.Context, env *Env, arg string, believed *trust.Policy) ([]byte, error) {
	c, err := openClaimed(ctx, env, arg, "", oci.Platform{})
	if err != nil {
		return nil, undecided(err)
	}
	if !c.remote {
		return nil, Usagef("%s: want HOST/NAME:VERSION", arg)
	}
	if believed == nil {
		_, from, err := repositoryArg(arg)
		if err != nil {
			return nil, err
		}
		s, err := from.Server(ctx)
		if err != nil {
			return nil, serverError(err, "")
		}
		k, err := trust.ReadPublic([]byte(s.PublicKey))
		if err != nil {
			return nil, err
		}
		if believed, err = trust.KeyPolicy(k); err != nil {
			return nil, err
		}
	}
	found, err := referrers.Claims(ctx, c.place, c.root.Digest)
	if err != nil {
		return nil, undecided(err)
	}
	var newest summary.Predicate
	for _, f := range found {
		if f.Err != nil {
			continue
		}
		o, err := trust.Open(f.Bundle, c.root.Digest, believed, c.repository, env.Now())
		if err != nil || o.Kind() != evidence.Summary {
			continue
		}
		if p, err := summary.Parse(o.Predicate()); err == nil && p.Log != nil && p.TimeVerified >= newest.TimeVerified {
			newest = p
		}
	}
	if newest.Log == nil {
		return nil, Refusedf("no believed summary of %s holds a checkpoint", arg)
	}
	return []byte(newest.Log.Checkpoint), nil
}
