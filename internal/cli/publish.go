package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/release"
	"twinhull.dev/twinhull/internal/registry/release/client"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// registryVariable names the registry that images go to when nobody says.
const registryVariable = "TWINHULL_REGISTRY"

func publishCommand() *Command {
	o := new(publishOptions)
	return &Command{
		Name: "publish", Args: "[DIR]", Max: 1,
		Short: "push both images where they belong, with their claims",
		Long: `Pushes what ` + "`twinhull build`" + ` made, with everything that was signed about it: the
development image to NAME/dev, under the commit's hash, the branch and latest, and
the production image to NAME/candidate, by its digest. Nothing is pushed to NAME
itself: a release puts it there, and the command for it is printed.

With --key it signs both images first and makes all claims that the builder's
record gives, as ` + "`twinhull sign`" + ` and ` + "`twinhull attest`" + ` do. Then it asks the server
what its gate says of the candidate, so that a refusal is known before anybody
wants to release; other registries have no gate and are not asked.

Commit and branch come from git, when the project is in a checkout: a branch's
name loses what no tag can hold, and a commit with changes on top is called
HASH-dirty. --to says which registry and name; without it the variable
` + registryVariable + ` names the registry (HOST or HOST/PREFIX), and the project its name.`,
		Examples: "twinhull publish --to registry.example/shop/api --key release.key\nTWINHULL_REGISTRY=registry.example/shop twinhull publish --zone development",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&o.to, "to", "", "`HOST/NAME` of the production repository")
			f.StringVar(&o.key, "key", "", "sign first, with this private key `FILE` or a key management service's reference")
			f.StringVar(&o.zone, "zone", "", "publish only the image of this `ZONE`: development or production")
			f.StringArrayVar(&o.tags, "tag", nil, "further `TAG` of the development image; may be repeated")
			f.BoolVar(&o.unasked, "no-judge", false, "do not ask the server what its gate says")
			f.BoolVar(&o.asJSON, "json", false, "print the result as JSON")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) > 0 {
				e := *env
				e.Dir = env.Path(args[0])
				env = &e
			}
			return o.run(ctx, env)
		},
	}
}

type publishOptions struct {
	to, key, zone   string
	tags            []string
	unasked, asJSON bool
}

// published is what publish did, for --json.
type published struct {
	Zone       oci.Zone   `json:"zone"`
	Repository string     `json:"repository"`
	Digest     oci.Digest `json:"digest"`
	Tags       []string   `json:"tags,omitempty"`
	Claims     int        `json:"claims"` // manifests that refer to the image, its parts and its index
	Sent       int64      `json:"sent"`   // bytes
}

func (o *publishOptions) run(ctx context.Context, env *Env) error {
	var args []string
	if o.zone != "" {
		args = []string{o.zone}
	}
	zones, err := parseZones(args)
	if err != nil {
		return err
	}
	for _, t := range o.tags {
		if err := oci.ValidTag(t); err != nil {
			return Usagef("--tag: %w", err)
		}
	}
	file, err := project.Find(env.Dir)
	if err != nil {
		return &Error{Code: Misused, Err: err}
	}
	p, err := project.Load(file)
	if err != nil {
		return &Error{Code: Misused, Err: err}
	}
	to, err := o.destination(env, p.Name)
	if err != nil {
		return err
	}
	var signer trust.Signer
	if o.key != "" {
		if signer, err = openSigner(ctx, env, o.key); err != nil {
			return err
		}
	}
	var out []published
	for _, zone := range zones {
		c, err := openClaimed(ctx, env, string(zone), to.Host+"/"+to.Name, oci.Platform{})
		if err != nil {
			return err
		}
		if signer != nil {
			n, err := c.signAll(ctx, env, signer)
			if err != nil {
				return err
			}
			env.Talkf("%s  signed: %d new claims", c.root.Digest, n)
		}
		one, err := o.push(ctx, env, c, zone, to)
		if err != nil {
			return err
		}
		out = append(out, one)
	}
	if o.asJSON {
		if err := writeJSON(env, out); err != nil {
			return err
		}
	} else {
		t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
		for _, x := range out {
			what := x.Repository + "@" + string(x.Digest)
			if len(x.Tags) > 0 {
				what += "  " + strings.Join(x.Tags, " ")
			}
			fmt.Fprintf(t, "%s\t%s\n", x.Zone, what)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if i := slices.IndexFunc(out, func(x published) bool { return x.Zone == oci.Production }); i >= 0 {
		if !o.unasked {
			o.judge(ctx, env, to, out[i].Digest)
		}
		env.Talkf("next: twinhull release %s/%s@%s VERSION", to.Host, to.Name, out[i].Digest)
	}
	return nil
}

// destination is the production repository.
func (o *publishOptions) destination(env *Env, name string) (oci.Ref, error) {
	to, from := o.to, "--to"
	if to == "" {
		if to, from = env.Getenv(registryVariable), registryVariable; to == "" {
			return oci.Ref{}, Usagef("nobody says where to publish").WithHint("--to HOST/NAME, or set %s to HOST or HOST/PREFIX", registryVariable)
		}
		to = strings.TrimSuffix(to, "/") + "/" + name
	}
	ref, err := oci.ParseRef(to)
	if err != nil || ref.Kind != oci.RegistryRef || to != ref.Host+"/"+ref.Name {
		return ref, Usagef("%s: %q: want HOST/NAME, without a tag or digest", from, to)
	}
	if class, home := catalog.Of(ref.Name); class != catalog.Production {
		return ref, Usagef("%s: %s is a %s catalog", from, ref.Name, class).WithHint("name the production repository, %s/%s: development images and candidates go below it", ref.Host, home)
	}
	return ref, nil
}

// signAll signs the image with its index, and makes the claims that the builder's
// record gives; it returns how many are new.
func (c *claimed) signAll(ctx context.Context, env *Env, signer trust.Signer) (fresh int, _ error) {
	count := func(is bool, err error) error {
		if is {
			fresh++
		}
		return err
	}
	for _, s := range c.subjects() {
		if err := count(c.put(ctx, env, s, signer, evidence.TypeSignature, struct{}{}, nil)); err != nil {
			return fresh, err
		}
	}
	for _, d := range c.images {
		claims, err := c.known(ctx, env, d, nil, false)
		if err != nil {
			return fresh, err
		}
		for _, k := range claims {
			var doc *referrers.Blob
			if k.Document != nil {
				doc = &referrers.Blob{MediaType: k.MediaType, Data: k.Document}
			}
			if err := count(c.put(ctx, env, d, signer, k.PredicateType, k.Predicate, doc)); err != nil {
				return fresh, fmt.Errorf("%s: %w", k.Name, err)
			}
		}
	}
	return fresh, nil
}

// push sends one image and what refers to it. Claims go after the image, so that
// nothing refers to what is not there, and tags last.
func (o *publishOptions) push(ctx context.Context, env *Env, c *claimed, zone oci.Zone, to oci.Ref) (published, error) {
	ref := oci.Ref{Kind: oci.RegistryRef, Host: to.Host, Name: to.Name + "/candidate"}
	opt := image.PushOptions{Report: env.Progress}
	var tags []string
	if zone == oci.Development {
		ref.Name = to.Name + "/dev"
		tags = append(append(gitTags(ctx, env.Dir), o.tags...), catalog.Latest)
		slices.Sort(tags)
		tags = slices.Compact(tags)
	} else {
		opt.MountFrom = []string{to.Name + "/dev"}
	}
	out := published{Zone: zone, Repository: ref.Host + "/" + ref.Name, Digest: c.root.Digest, Tags: tags}
	send := func(d oci.Descriptor, ref oci.Ref) error {
		res, err := image.Push(ctx, c.store, d, ref, opt)
		out.Sent += res.Uploaded
		return err
	}
	if err := send(c.root, ref); err != nil {
		return out, err
	}
	opt.Report = nil // the rest is small
	for _, s := range c.subjects() {
		list, err := c.place.List(ctx, s.Digest)
		if err != nil {
			return out, err
		}
		for _, d := range list {
			if err := send(d, ref); err != nil {
				return out, err
			}
			out.Claims++
		}
	}
	for _, t := range tags {
		ref.Tag = t
		if err := send(c.root, ref); err != nil {
			return out, err
		}
	}
	env.Talkf("pushed %s to %s (%d claims and documents, %.1f MB sent)", zone, out.Repository, out.Claims, float64(out.Sent)/1e6)
	return out, nil
}

// judge tells what the server's gate says. That it cannot be asked stops nobody:
// the release asks again.
func (o *publishOptions) judge(ctx context.Context, env *Env, to oci.Ref, d oci.Digest) {
	c, err := client.New(to.Host, client.Options{})
	if err != nil {
		return
	}
	task := env.Progress.Task("the gate of "+to.Host+" reads the candidate", 0)
	res, err := c.Judge(ctx, release.JudgeRequest{Repository: to.Name, Digest: d})
	task.Done(nil)
	switch {
	case errors.Is(err, client.ErrNoService):
		env.Talkf("%s has no release service: `twinhull check` judges the image, and a server of this program releases it with --to", to.Host)
	case err != nil:
		text, _, _ := strings.Cut(printable(err.Error()), "\n")
		env.Talkf("the gate could not be asked: %s", text)
	case res.Allowed:
		env.Talkf("the gate allows the candidate")
	default:
		var rules []string
		for _, i := range res.Images {
			for _, r := range i.Verdict.Rules {
				if r.Outcome.Refuses() && !slices.Contains(rules, r.Rule) {
					rules = append(rules, r.Rule)
				}
			}
		}
		env.Talkf("the gate refuses the candidate as it is: %s", strings.Join(rules, ", "))
		env.Talkf("`twinhull release %s/%s@%s VERSION --dry-run` tells why", to.Host, to.Name, d)
	}
}

// gitTags are the tags that a checkout gives: the commit and the branch. None
// outside a checkout, or without git.
func gitTags(ctx context.Context, dir string) (tags []string) {
	git := func(args ...string) (string, bool) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err == nil
	}
	commit, ok := git("rev-parse", "--verify", "--quiet", "HEAD")
	if !ok || !commitRE.MatchString(commit) {
		return nil
	}
	if changes, ok := git("status", "--porcelain", "--untracked-files=no"); !ok || changes != "" {
		commit += "-dirty"
	}
	tags = append(tags, commit)
	if branch, ok := git("symbolic-ref", "--quiet", "--short", "HEAD"); ok {
		if t := branchTag(branch); t != "" {
			tags = append(tags, t)
		}
	}
	return tags
}

var commitRE = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

var notInTags = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// branchTag makes a tag of a branch's name: feature/x becomes feature-x. "" when
// nothing is left.
func branchTag(branch string) string {
	t := strings.TrimLeft(notInTags.ReplaceAllString(branch, "-"), ".-")
	t = strings.TrimRight(t[:min(len(t), 128)], "-")
	if oci.ValidTag(t) != nil {
		return ""
	}
	return t
}
