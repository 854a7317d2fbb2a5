package cli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/release"
	"twinhull.dev/twinhull/internal/registry/release/client"
)

func releaseCommand() *Command {
	o := new(releaseOptions)
	return &Command{
		Name: "release", Args: "HOST/NAME@DIGEST VERSION", Min: 2, Max: 2,
		Short: "make a candidate a version of production",
		Long: `Asks the server at HOST to release a candidate: its gate judges the image by the
server's own policy, trust policy and vulnerability database, the server signs the
verdict, and image and claims become VERSION in the production repository, all or
nothing. 1.4.2 takes the convenience tags 1.4, 1 and latest when it is the highest
version of each; a pre-release takes none.

A refusal is printed as ` + "`twinhull check`" + ` prints it, with every reason and its
remedy. A request has an id: when its answer was lost, the same command with
--request-id does it once and tells what came of it. --dry-run does everything but
the release.

With --to the release goes to another registry that the server is configured
for: the same gate, image and claims pushed there, the entry in this server's log.

Exits with 0 when the version is released, 1 when it is refused, and 3 when it
could not be decided, which is a refusal too.`,
		Examples: "twinhull release registry.example/shop/api@sha256:… 1.4.2\ntwinhull release registry.example/shop/api@sha256:… 1.4.2 --dry-run --all\ntwinhull release registry.example/shop/api@sha256:… 1.4.2 --to other.example/shop/api",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&o.id, "request-id", "", "`ID` of the request, to repeat it (default: a new one)")
			f.StringVar(&o.to, "to", "", "release to `HOST/NAME` in another registry")
			f.BoolVar(&o.dryRun, "dry-run", false, "do everything but the release")
			f.BoolVar(&o.notes, "notes", false, "print the release notes, in Markdown")
			f.StringVar(&o.check.output, "output", "text", "text or json")
			f.BoolVar(&o.check.all, "all", false, "print every reason and every rule of a refusal")
		},
		Run: func(ctx context.Context, env *Env, args []string) error { return o.run(ctx, env, args[0], args[1]) },
	}
}

type releaseOptions struct {
	id, to        string
	dryRun, notes bool
	check         checkOptions // how a verdict is printed
}

func (o *releaseOptions) run(ctx context.Context, env *Env, image, version string) error {
	if o.check.output != "text" && o.check.output != "json" {
		return Usagef("--output %q: want text or json", o.check.output)
	}
	ref, err := catalogRef(image)
	if err != nil {
		return err
	}
	if ref.Digest == "" {
		return Usagef("%s: a release names the candidate by its digest", image).WithHint("`twinhull publish` prints it: HOST/NAME@sha256:…")
	}
	if _, err := catalog.ParseVersion(version); err != nil {
		return Usagef("%w", err)
	}
	c, err := client.New(ref.Host, client.Options{})
	if err != nil {
		return err
	}
	q := release.Request{ID: o.id, Repository: ref.Name, Digest: ref.Digest, Version: version, To: o.to, DryRun: o.dryRun}
	if q.ID == "" {
		q.ID = release.NewID()
	}
	task := env.Progress.Task("releasing "+ref.Host+"/"+ref.Name+":"+version, 0)
	a, err := c.Release(ctx, q)
	task.Done(nil) // what was refused is told below
	if err != nil {
		return o.failed(env, err, q)
	}
	if o.check.output == "json" {
		return writeJSON(env, a)
	}
	switch {
	case a.DryRun:
		fmt.Fprintf(env.Stdout, "would release %s:%s  %s\n", a.Repository, a.Version, a.Digest)
	case a.Repeated:
		fmt.Fprintf(env.Stdout, "released before by this request  %s:%s  %s\n", a.Repository, a.Version, a.Digest)
	case a.Again:
		fmt.Fprintf(env.Stdout, "released already, claims added  %s:%s  %s\n", a.Repository, a.Version, a.Digest)
	default:
		fmt.Fprintf(env.Stdout, "released %s:%s  %s\n", a.Repository, a.Version, a.Digest)
	}
	writeMoves(env, a.Moves, version)
	if a.Entry != nil {
		env.Talkf("audit log entry %d", *a.Entry)
	}
	if o.notes && a.Notes != "" {
		fmt.Fprintf(env.Stdout, "\n%s", printable(a.Notes)+"\n")
	}
	return nil
}

func writeMoves(env *Env, moves []audit.Move, but string) {
	var tags []string
	for _, m := range moves {
		if m.Tag != but {
			tags = append(tags, m.Tag)
		}
	}
	if len(tags) > 0 {
		fmt.Fprintf(env.Stdout, "tags moved: %s\n", strings.Join(tags, ", "))
	}
}

// failed prints a refusal as check does and makes the exit code.
func (o *releaseOptions) failed(env *Env, err error, q release.Request) error {
	p, ok := errors.AsType[*release.Problem](err)
	if ok && p.Verdict != nil && !p.Verdict.Allowed {
		if o.check.output == "json" {
			if err := writeJSON(env, p); err != nil {
				return err
			}
		} else if err := o.check.print(env, judgedOf(p.Verdict)); err != nil {
			return err
		}
	}
	return serverError(err, fmt.Sprintf("repeat it with --request-id %s", q.ID))
}

// judgedOf makes of a verdict that came over the wire what check prints.
func judgedOf(r *gate.Results) (out []gate.Judged) {
	for _, i := range r.Images {
		f := &inspect.Facts{}
		if p, err := oci.ParsePlatform(i.Platform); err == nil {
			f.Platform = p
		}
		out = append(out, gate.Judged{Name: i.Name, Report: &gate.Report{Verdict: i.Verdict, Facts: f, Inputs: i.Claims, Rejected: i.Rejected}})
	}
	return out
}

// serverError makes of what a server answered an error of a command: a refusal,
// with every reason that no verdict has told, or "could not be decided". again
// says how the request is repeated; "" for one that needs no id.
func serverError(err error, again string) error {
	if errors.Is(err, client.ErrNoService) {
		return Undecidedf("%w", err).WithHint("HOST must be a server of this program: `twinhull serve`")
	}
	p, ok := errors.AsType[*release.Problem](err)
	if !ok {
		e := Undecidedf("%w", err)
		if errors.Is(err, syscall.ECONNREFUSED) {
			e = e.WithHint("nobody listens there: is the host and port what `twinhull serve` prints?")
			if again != "" {
				e.Hint += " If so, " + again
			}
			return e
		}
		if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
			return e // before a word was said; printError has the hint
		}
		if again != "" {
			return e.WithHint("what was decided is not known: %s", again)
		}
		return e
	}
	text := p.Message
	var hints []string
	for _, r := range p.Reasons {
		if r.Message != p.Message {
			text += "\n  - " + r.Message
		}
		if r.Remedy != "" && r.Reason != release.RefusedByGate && !slices.Contains(hints, r.Remedy) {
			hints = append(hints, r.Remedy)
		}
	}
	if p.Status == http.StatusUnauthorized {
		hints = []string{"sign in: `podman login HOST` or `docker login HOST`"}
	}
	if p.Entry != nil {
		text += fmt.Sprintf("\n  recorded as entry %d of the audit log", *p.Entry)
	}
	if !p.Refuses() && again != "" {
		hints = append(hints, again)
	}
	for _, h := range hints {
		text += "\nhint: " + strings.ReplaceAll(h, "\n", " ")
	}
	if p.Refuses() {
		return Refusedf("%s", text)
	}
	return Undecidedf("%s", text)
}

// catalogRef reads HOST/NAME[:TAG][@DIGEST] of any catalog and names the
// production repository that it belongs to.
func catalogRef(arg string) (oci.Ref, error) {
	ref, err := oci.ParseRef(arg)
	if err != nil || ref.Kind != oci.RegistryRef {
		return ref, Usagef("%q: want HOST/NAME with a :VERSION or an @DIGEST", arg)
	}
	_, ref.Name = catalog.Of(ref.Name)
	return ref, nil
}

func revokeCommand() *Command {
	var id, reason string
	var asJSON bool
	return &Command{
		Name: "revoke", Args: "HOST/NAME:VERSION", Min: 1, Max: 1,
		Short: "declare a released version not to be admitted any more",
		Long: `Marks what was released as not to be admitted from now on: the server signs a
verification summary that says FAILED and stores it beside the image, with an
entry in its audit log. The bytes stay, and so do the tags: ` + "`twinhull rollback`" + `
moves them. NAME@DIGEST names what is revoked by its digest.`,
		Examples: "twinhull revoke registry.example/shop/api:1.4.2 --reason 'CVE-2026-1234 is exploited'",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&reason, "reason", "", "`TEXT` that says why; it goes into the audit log")
			f.StringVar(&id, "request-id", "", "`ID` of the request, to repeat it (default: a new one)")
			f.BoolVar(&asJSON, "json", false, "print the result as JSON")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			ref, err := catalogRef(args[0])
			if err != nil {
				return err
			}
			if (ref.Tag == "") == (ref.Digest == "") {
				return Usagef("%s: name what is revoked, by its version or its digest", args[0])
			}
			if ref.Tag != "" && catalog.KindOf(ref.Tag) != catalog.VersionTag {
				return Usagef("%s is no version: what a moving tag points to may be another tomorrow", ref.Tag)
			}
			if strings.TrimSpace(reason) == "" {
				return Usagef("a revocation needs a reason").WithHint("--reason TEXT")
			}
			c, err := client.New(ref.Host, client.Options{})
			if err != nil {
				return err
			}
			q := release.RevokeRequest{ID: id, Repository: ref.Name, Version: ref.Tag, Digest: ref.Digest, Reason: reason}
			if q.ID == "" {
				q.ID = release.NewID()
			}
			out, err := c.Revoke(ctx, q)
			if err != nil {
				return serverError(err, "repeat it with --request-id "+q.ID)
			}
			if asJSON {
				return writeJSON(env, out)
			}
			fmt.Fprintf(env.Stdout, "revoked %s@%s\n", out.Repository, out.Digest)
			if len(out.Tags) > 0 {
				env.Talkf("these tags still point to it: %s; `twinhull rollback %s:VERSION --key KEY` moves them", strings.Join(out.Tags, ", "), out.Repository)
			}
			env.Talkf("audit log entry %d", out.Entry)
			return nil
		},
	}
}

func rollbackCommand() *Command {
	var key, reason string
	var tags []string
	var asJSON bool
	return &Command{
		Name: "rollback", Args: "HOST/NAME:VERSION", Min: 1, Max: 1,
		Short: "move convenience tags back to an older version",
		Long: `Signs an order that moves the convenience tags which VERSION competes for (1.4, 1
and latest for 1.4.2) to it, from where they point now, and sends it to the
server. The server follows it when its trust policy lets the key's identity make
claims of type ` + release.TypeRollBack + `
about the repository. They stay there until a version higher than all is
released.`,
		Examples: "twinhull rollback registry.example/shop/api:1.4.2 --key ops.key\ntwinhull rollback registry.example/shop/api:1.4.2 --key ops.key --tag latest",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&key, "key", "", "private key `FILE` that signs the order, or a key management service's reference")
			f.StringArrayVar(&tags, "tag", nil, "move only this `TAG`; may be repeated")
			f.StringVar(&reason, "reason", "", "`TEXT` that says why; it goes into the audit log")
			f.BoolVar(&asJSON, "json", false, "print the result as JSON")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			ref, err := catalogRef(args[0])
			if err != nil {
				return err
			}
			v, err := catalog.ParseVersion(ref.Tag)
			if err != nil || ref.Digest != "" {
				return Usagef("%s: want HOST/NAME:VERSION", args[0])
			}
			for _, t := range tags {
				if !slices.Contains(v.Tags(), t) {
					return Usagef("--tag %s: %s can have only %s", t, v, strings.Join(v.Tags(), ", "))
				}
			}
			if len(tags) == 0 {
				tags = v.Tags()
			}
			if len(tags) == 0 {
				return Usagef("%s is a pre-release, to which no convenience tag points", v)
			}
			signer, err := openSigner(ctx, env, key)
			if err != nil {
				return err
			}
			c, err := client.New(ref.Host, client.Options{})
			if err != nil {
				return err
			}
			there, err := c.Tags(ctx, ref.Name)
			if err != nil {
				return serverError(err, "")
			}
			at := map[string]oci.Digest{}
			for _, t := range there {
				at[t.Name] = t.Digest
			}
			to, ok := at[v.String()]
			if !ok {
				return Refusedf("%s/%s has no version %s", ref.Host, ref.Name, v).WithHint("`twinhull catalog versions %s/%s` lists what was released", ref.Host, ref.Name)
			}
			o := release.Order{ID: release.NewID(), Time: env.Now().UTC().Format(time.RFC3339), Repository: ref.Host + "/" + ref.Name, Version: v.String(), Reason: reason}
			for _, t := range tags {
				if from, ok := at[t]; ok && from != to {
					o.Moves = append(o.Moves, audit.Move{Tag: t, From: from, To: to})
				}
			}
			if len(o.Moves) == 0 {
				return Refusedf("%s point to %s already", strings.Join(tags, ", "), v)
			}
			bundle, err := release.SignOrder(ctx, signer, release.TypeRollBack, to, o)
			if err != nil {
				return err
			}
			a, err := c.RollBack(ctx, release.OrderRequest{Repository: ref.Name, Digest: to, Orders: []string{string(bundle)}})
			if err != nil {
				return serverError(err, "look where the tags are: twinhull catalog tags "+ref.Host+"/"+ref.Name)
			}
			if asJSON {
				return writeJSON(env, a)
			}
			fmt.Fprintf(env.Stdout, "rolled back %s to %s  %s\n", a.Repository, a.Version, a.Digest)
			writeMoves(env, a.Moves, "")
			if a.Entry != nil {
				env.Talkf("audit log entry %d", *a.Entry)
			}
			return nil
		},
	}
}

// eraseFile is an order to erase while it waits for its second signature.
type eraseFile struct {
	Version int           `json:"version"` // 1
	Digest  oci.Digest    `json:"digest"`
	Order   release.Order `json:"order"`
	Signed  []string      `json:"signed"` // bundles
}

func eraseCommand() *Command {
	var key, reason, file string
	return &Command{
		Name: "erase", Args: "[HOST/NAME@DIGEST]", Max: 1,
		Short: "order the erasure of a released image, with two keys",
		Long: `What is released is permanent, for administrators too. Where a law wants it gone
all the same, two people order it. The first names it and the reason, signs, and
gets the order in a file; the second signs the same order and sends it:

  twinhull erase HOST/NAME@DIGEST --reason TEXT --key first.key --order order.json
  twinhull erase --key 2.key --order o.json

The server follows it when its trust policy lets both keys' identities make claims
of type ` + release.TypeErase + ` about the
repository. The bytes go; a tombstone with the reason, the version's number and
the entries of the audit log stay.`,
		Examples: "twinhull erase registry.example/shop/api@sha256:… --reason R --key 1.key --order o.json\ntwinhull erase --key second.key --order order.json",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&key, "key", "", "private key `FILE` that signs the order, or a key management service's reference")
			f.StringVar(&file, "order", "", "`FILE` with the order: written by the first, sent by the second")
			f.StringVar(&reason, "reason", "", "`TEXT` that says why; it stays in the tombstone and the audit log")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			if file == "" {
				return Usagef("no file for the order").WithHint("--order FILE")
			}
			signer, err := openSigner(ctx, env, key)
			if err != nil {
				return err
			}
			path := env.Path(file)
			if len(args) == 0 {
				return sendErasure(ctx, env, path, func(o release.Order, d oci.Digest) ([]byte, error) {
					return release.SignOrder(ctx, signer, release.TypeErase, d, o)
				})
			}
			ref, err := catalogRef(args[0])
			if err != nil {
				return err
			}
			if ref.Digest == "" || ref.Tag != "" {
				return Usagef("%s: an erasure names the image by its digest", args[0])
			}
			if strings.TrimSpace(reason) == "" {
				return Usagef("an erasure needs a reason").WithHint("--reason TEXT")
			}
			if fileExists(path) {
				return Refusedf("%s is there already", path)
			}
			f := eraseFile{Version: 1, Digest: ref.Digest, Order: release.Order{ID: release.NewID(), Time: env.Now().UTC().Format(time.RFC3339), Repository: ref.Host + "/" + ref.Name, Reason: strings.TrimSpace(reason)}}
			bundle, err := release.SignOrder(ctx, signer, release.TypeErase, f.Digest, f.Order)
			if err != nil {
				return err
			}
			f.Signed = []string{string(bundle)}
			raw, err := json.MarshalIndent(f, "", "  ")
			if err != nil {
				return err
			}
			if err := durable.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
				return err
			}
			fmt.Fprintln(env.Stdout, path)
			env.Talkf("next, a second person: twinhull erase --key KEY --order %s", file)
			return nil
		},
	}
}

// sendErasure adds the second signature and sends the order.
func sendErasure(ctx context.Context, env *Env, path string, sign func(release.Order, oci.Digest) ([]byte, error)) error {
	raw, err := readLimited(path, 4<<20)
	if os.IsNotExist(err) {
		return Usagef("--order: %w", err).WithHint("the first signer writes it: name what is erased")
	}
	if err != nil {
		return err
	}
	var f eraseFile
	if err := strictjson.Unmarshal(raw, &f); err != nil {
		return Refusedf("%s: %w", path, err)
	}
	ref, err := oci.ParseRef(f.Order.Repository)
	if err != nil || f.Version != 1 || len(f.Signed) != 1 {
		return Refusedf("%s is no order with one signature", path)
	}
	env.Talkf("erase %s@%s\nreason: %s", f.Order.Repository, f.Digest, printable(f.Order.Reason))
	bundle, err := sign(f.Order, f.Digest)
	if err != nil {
		return err
	}
	c, err := client.New(ref.Host, client.Options{})
	if err != nil {
		return err
	}
	a, err := c.Erase(ctx, release.OrderRequest{Repository: ref.Name, Digest: f.Digest, Orders: []string{f.Signed[0], string(bundle)}})
	if err != nil {
		return serverError(err, "send it again: twinhull erase --key KEY --order "+path)
	}
	fmt.Fprintf(env.Stdout, "erased %s@%s\n", a.Repository, a.Digest)
	if a.Entry != nil {
		env.Talkf("audit log entry %d", *a.Entry)
	}
	return nil
}
