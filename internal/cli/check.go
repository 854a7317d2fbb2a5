package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/vuln"
	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/trust"
)

func checkCommand() *Command {
	o := new(checkOptions)
	return &Command{
		Name: "check", Args: "IMAGE", Min: 1, Max: 1, Words: []string{"development", "production"},
		Short: "judge whether an image may go to production",
		Long: `Reads an image's bytes, opens the claims beside it by a trust policy, and decides:
every rule with its verdict, each reason once, with its remedy. Of an index all
images are judged, and all must be allowed.

The image is judged as what it says of itself, as production when it says nothing
clear; --zone production judges it as production whatever it says. --repository
says which repository it is for when it is not there yet. Nobody is believed but
whom --trust or --key names. --policy tunes thresholds, adds rules and grants
waivers. --attest signs the verdict, passed or failed, as a verification summary
(SLSA VSA) for the production repository, and the inspection as a claim, and
stores both beside the image.

Exits with 0 when the image is allowed, 1 when it is refused, and 3 when it could
not be judged, which is a refusal too.`,
		Examples: "twinhull check production\ntwinhull check registry.example/shop/app@sha256:… --zone production --trust trust.yaml\ntwinhull check production --repository a.example/b --trust trust.yaml --attest gate.key\ntwinhull check oci:out --output sarif",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&o.zone, "zone", "", "`ZONE` to judge for, development or production (default: what the image says of itself)")
			f.StringVar(&o.repository, "repository", "", "`HOST/NAME` that the image is judged for (default: where it is)")
			f.StringVar(&o.policy, "policy", "", "policy `FILE` (default: the built-in policy)")
			f.StringVar(&o.trust, "trust", "", "trust policy `FILE`: who may make which claims")
			f.StringVar(&o.key, "key", "", "public key `FILE`: believe this key and nobody else")
			vulnFlag(f, &o.database)
			f.StringVar(&o.platform, "platform", "", "of an index only the image for this platform (default: all)")
			f.StringVar(&o.attest, "attest", "", "sign the verdict and the inspection with this private `KEY` file, or a key management service's reference")
			f.StringVar(&o.verifier, "verifier", "", "`URI` that names the verifier in the summary (default: this program's gate)")
			f.StringVar(&o.output, "output", "text", "text, json, sarif or junit")
			f.BoolVar(&o.all, "all", false, "print every reason and every rule")
		},
		Run: func(ctx context.Context, env *Env, args []string) error { return o.run(ctx, env, args[0]) },
	}
}

type checkOptions struct {
	zone, repository, policy, trust, key, platform, database, attest, verifier, output string
	all                                                                                bool
}

func (o *checkOptions) run(ctx context.Context, env *Env, arg string) error {
	req := gate.Request{Now: env.Now(), Repository: o.repository}
	var err error
	if o.zone != "" {
		if req.Zone, err = oci.ParseZone(o.zone); err != nil {
			return Usagef("--zone: %w", err)
		}
	}
	if o.repository != "" {
		// A tag or a slash too many would be another repository for the rules.
		ref, err := oci.ParseRef(o.repository)
		if err != nil || ref.Kind != oci.RegistryRef || o.repository != ref.Host+"/"+ref.Name {
			return Usagef("--repository %q: want HOST/NAME, without a tag or digest", o.repository)
		}
	}
	if !slices.Contains([]string{"text", "json", "sarif", "junit"}, o.output) {
		return Usagef("--output %q: want text, json, sarif or junit", o.output)
	}
	plat, err := optionalPlatform(o.platform)
	if err != nil {
		return err
	}
	if req.Policy, err = o.readPolicy(env); err != nil {
		return err
	}
	if o.trust != "" || o.key != "" {
		if req.Trust, err = whomToBelieve(env, o.trust, o.key); err != nil {
			return err
		}
	}
	var signer trust.Signer
	if o.attest != "" {
		// Before the work: a wrong password should not cost it.
		if signer, err = openSigner(ctx, env, o.attest); err != nil {
			return err
		}
	}
	db, err := o.openDatabase(env)
	if err != nil {
		return undecided(err)
	}
	if db != nil {
		defer db.Close()
		req.Database = db
	}
	t, err := o.open(ctx, env, arg, plat)
	if err != nil {
		return undecided(err)
	}
	judged, err := t.judge(ctx, env, req)
	if err != nil {
		return undecided(err)
	}
	if err := o.print(env, judged); err != nil {
		return err
	}
	if signer != nil {
		if err := t.attest(ctx, env, signer, judged, o.verifier); err != nil {
			return err
		}
	}
	rules, reasons := 0, 0
	for _, j := range judged {
		if j.Report.Verdict.Allowed {
			continue
		}
		a, b := j.Report.Verdict.Refusals()
		rules, reasons = max(rules, a, 1), reasons+b
	}
	if rules > 0 {
		return Status(Failed)
	}
	return nil
}

func (o *checkOptions) readPolicy(env *Env) (*policy.Policy, error) {
	if o.policy == "" {
		return policy.Default(), nil
	}
	data, err := readLimited(env.Path(o.policy), policy.MaxFile)
	if err != nil {
		return nil, Usagef("--policy: %w", err)
	}
	p, err := policy.Read(o.policy, data)
	if err != nil {
		return nil, &Error{Code: Misused, Err: err}
	}
	return p, nil
}

// openDatabase opens the vulnerability database; nil when nobody named one and
// none was imported, which the verdict tells.
func (o *checkOptions) openDatabase(env *Env) (*vuln.DB, error) {
	dir, err := vulnDir(env, o.database)
	if err != nil {
		return nil, nil // no cache folder: nothing was imported
	}
	db, err := vuln.Open(dir)
	if errors.Is(err, vuln.ErrNoDatabase) && o.database == "" {
		return nil, nil
	}
	return db, err
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}

// target is what is judged: one image, or those of an index.
type target struct {
	name    string
	claimed *claimed     // nil for a docker-archive, which keeps no claims
	single  *image.Image // a docker-archive
	open    func(ctx context.Context, d oci.Descriptor) (*image.Image, error)
}

func (o *checkOptions) open(ctx context.Context, env *Env, arg string, plat oci.Platform) (*target, error) {
	t := &target{name: arg}
	if ref, err := oci.ParseRef(arg); err == nil && ref.Kind == oci.DockerArchiveRef {
		if o.attest != "" {
			return nil, Usagef("%s has no place for claims", arg).WithHint("judge the image in an OCI layout or in a registry")
		}
		t.single, _, err = openImage(ctx, env, arg, plat)
		return t, err
	}
	var err error
	if t.claimed, err = openClaimed(ctx, env, arg, o.repository, plat); err != nil {
		return nil, err
	}
	if t.claimed.strange {
		return nil, Refusedf("the index %s lists manifests that call themselves artifacts and that runtimes could take for images: they are not judged", t.claimed.root.Digest).
			WithHint("keep claims as referrers; judge one image by its digest")
	}
	t.open = func(ctx context.Context, d oci.Descriptor) (*image.Image, error) {
		if store := t.claimed.store; store != nil {
			return image.OpenDescriptor(store, d, image.OpenOptions{})
		}
		ref, err := oci.ParseRef(arg)
		if err != nil {
			return nil, err
		}
		ref.Tag, ref.Digest = "", d.Digest
		img, err := image.Open(ctx, ref, image.OpenOptions{})
		if err != nil {
			return nil, err
		}
		if img.Descriptor.Digest != d.Digest {
			// An index that is listed as an image leads to one of its images: the
			// others would be allowed unseen.
			img.Close()
			return nil, fmt.Errorf("what the registry has there is not the image, but leads to %s", img.Descriptor.Digest)
		}
		// What the index promises is held against the image, as in a layout.
		img.Descriptor.Platform, img.Descriptor.Annotations = d.Platform, d.Annotations
		return img, nil
	}
	return t, nil
}

// judge judges each image of the target.
func (t *target) judge(ctx context.Context, env *Env, req gate.Request) ([]gate.Judged, error) {
	one := func(img *image.Image, d oci.Descriptor, req gate.Request) (gate.Judged, error) {
		defer img.Close()
		var total int64
		for _, l := range img.Manifest.Layers {
			total += l.Size
		}
		task := env.Progress.Task("reading "+t.name, total)
		req.Image = img
		req.Inspect = inspect.Options{Passed: task.Add}
		r, err := gate.Judge(ctx, req)
		task.Done(err)
		return gate.Judged{Name: t.name, Report: r}, err
	}
	if t.single != nil {
		j, err := one(t.single, oci.Descriptor{}, req)
		return []gate.Judged{j}, err
	}
	c := t.claimed
	req.Place, req.Repository, req.Says = c.place, c.repository, c.says
	if oci.IsIndex(c.root.MediaType) {
		req.Index = c.root.Digest
	}
	var out []gate.Judged
	for _, d := range c.images {
		img, err := t.open(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Digest, err)
		}
		j, err := one(img, d, req)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Digest, err)
		}
		out = append(out, j)
	}
	return out, nil
}

// attest signs the verdicts and stores them beside the images; of an index, one
// about the index too: a tag leads to it, and clusters ask for what a tag led to.
func (t *target) attest(ctx context.Context, env *Env, signer trust.Signer, judged []gate.Judged, verifier string) error {
	version := "devel"
	if info, _ := debug.ReadBuildInfo(); info != nil {
		version = Version(info)
	}
	var all []*gate.Report
	put := func(d oci.Descriptor, r *gate.Report) error {
		s, err := r.Summary(verifier, version)
		if err != nil {
			return (&Error{Code: Misused, Err: err}).WithHint("a summary is about production: give --zone production and --repository HOST/NAME")
		}
		if _, err := t.claimed.put(ctx, env, d, signer, evidence.TypeSummary, s, nil); err != nil {
			return err
		}
		env.Talkf("%s  summary signed: %s", d.Digest, s.VerificationResult)
		return nil
	}
	for i, j := range judged {
		if j.Report.Verdict.Image != t.claimed.images[i].Digest {
			return Undecidedf("the verdict is about %s, not about %s", cmp.Or(j.Report.Verdict.Image, "no image"), t.claimed.images[i].Digest)
		}
		if err := put(t.claimed.images[i], j.Report); err != nil {
			return err
		}
		all = append(all, j.Report)
		a, err := j.Report.Absence(version, env.Now())
		if err != nil {
			env.Talkf("%s  inspection not signed: %v", j.Report.Verdict.Image, err)
			continue
		}
		if _, err := t.claimed.put(ctx, env, t.claimed.images[i], signer, evidence.TypeAbsence, a, nil); err != nil {
			return err
		}
		env.Talkf("%s  inspection signed", j.Report.Verdict.Image)
	}
	// An index of which only some images were judged is not judged.
	if root := t.claimed.root; oci.IsIndex(root.MediaType) && t.claimed.whole {
		return put(root, gate.Join(root.Digest, all))
	}
	return nil
}

func (o *checkOptions) print(env *Env, judged []gate.Judged) error {
	switch o.output {
	case "json":
		return writeJSON(env, gate.Document(judged))
	case "sarif":
		return gate.WriteSARIF(env.Stdout, judged)
	case "junit":
		return gate.WriteJUnit(env.Stdout, judged)
	}
	// Images for several platforms that are judged alike are told once.
	type told struct{ heads, body string }
	var all []told
	for _, j := range judged {
		var body strings.Builder
		if err := writeVerdict(&body, j, o.all); err != nil {
			return err
		}
		head := printable(fmt.Sprintf("%s  %s  %s", cmp.Or(j.Report.Verdict.Image, "?"), j.Report.Facts.Platform, j.Name)) + "\n"
		if i := slices.IndexFunc(all, func(t told) bool { return t.body == body.String() }); i >= 0 {
			all[i].heads += head
			continue
		}
		all = append(all, told{head, body.String()})
	}
	for i, t := range all {
		if i > 0 {
			fmt.Fprintln(env.Stdout)
		}
		first, rest, _ := strings.Cut(t.body, "\n")
		if _, err := fmt.Fprint(env.Stdout, first, "\n", t.heads, rest); err != nil {
			return err
		}
	}
	return nil
}

// writeVerdict prints a verdict for a person, what refuses first.
func writeVerdict(w io.Writer, j gate.Judged, all bool) error {
	v := j.Report.Verdict
	e := &errWriter{w: w}
	say := func(format string, args ...any) { fmt.Fprintln(e, printable(fmt.Sprintf(format, args...))) }
	word := "refused"
	if v.Allowed {
		word = "allowed"
	}
	where := ""
	if v.Repository != "" {
		where = " in " + v.Repository
	}
	say("%s for %s%s", word, v.Zone, where)
	if v.Allowed && v.Zone == oci.Development {
		say("as a development image only: nothing is said about production")
	}

	count := map[policy.Outcome]int{}
	var refused []policy.Result
	for _, r := range v.Rules {
		count[r.Outcome]++
		if r.Outcome.Refuses() {
			refused = append(refused, r)
		}
	}
	var parts []string
	for _, x := range []struct {
		o    policy.Outcome
		word string
	}{{policy.Fail, "refuse"}, {policy.CannotTell, "cannot tell"}, {policy.Waived, "waived"}, {policy.Noted, "noted"}, {policy.Pass, "pass"}, {policy.NotApplicable, "not applicable"}} {
		if n := count[x.o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, x.word))
		}
	}
	say("%d rules: %s", len(v.Rules), strings.Join(parts, ", "))

	for i := 0; i < len(refused); i++ {
		r := refused[i]
		say("")
		names := []string{r.Rule}
		if why := waitsFor(r); why != "" {
			// Rules that wait for another one are told together.
			for i+1 < len(refused) && waitsFor(refused[i+1]) == why {
				i++
				names = append(names, refused[i].Rule)
			}
			say("%-12s %s", outcomeWords[r.Outcome], strings.Join(names, ", "))
			say("  - %s", why)
			continue
		}
		say("%-12s %s: %s", outcomeWords[r.Outcome], r.Rule, lowerFirst(r.Title))
		writeReasons(say, r, all, func(o policy.Outcome) bool { return o.Refuses() })
		// Rules with the same remedy share it.
		for i+1 < len(refused) && refused[i+1].Remedy == r.Remedy && waitsFor(refused[i+1]) == "" {
			i++
			r = refused[i]
			say("%-12s %s: %s", outcomeWords[r.Outcome], r.Rule, lowerFirst(r.Title))
			writeReasons(say, r, all, func(o policy.Outcome) bool { return o.Refuses() })
		}
		if slices.ContainsFunc(r.Reasons, func(x policy.Reason) bool { return x.Outcome.Refuses() && x.Remedy == "" }) {
			for n, line := range wrap(r.Remedy, 76) {
				say("  %s%s", []string{"fix: ", "     "}[min(n, 1)], line)
			}
		}
	}
	for _, o := range []policy.Outcome{policy.Waived, policy.Noted} {
		first := true
		for _, r := range v.Rules {
			if !slices.ContainsFunc(r.Reasons, func(x policy.Reason) bool { return x.Outcome == o }) {
				continue
			}
			if first {
				say("")
			}
			first = false
			say("%-12s %s", outcomeWords[o], r.Rule)
			writeReasons(say, r, all, func(x policy.Outcome) bool { return x == o })
		}
	}
	for _, u := range v.Unused {
		say("")
		say("%-12s %s %s, of %s until %s, excuses nothing", "unused", u.Rule, u.Subject, u.Owner, u.Expires)
	}
	if all {
		say("")
		t := tabwriter.NewWriter(e, 0, 0, 2, ' ', 0)
		for _, r := range v.Rules {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", outcomeWords[r.Outcome], r.Rule, r.Title, printable(r.Because))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	} else if count[policy.Pass] > 0 {
		var names []string
		for _, r := range v.Rules {
			if r.Outcome == policy.Pass {
				names = append(names, r.Rule)
			}
		}
		say("")
		for n, line := range wrap(strings.Join(names, ", "), 70) {
			say("%-12s %s", []string{"pass", ""}[min(n, 1)], line)
		}
	}
	if n := len(j.Report.Rejected); n > 0 && all {
		say("")
		for _, r := range j.Report.Rejected {
			say("%-12s %s %s: %s", "not believed", r.Kind, r.Claim, r.Why)
		}
	}
	if !v.Allowed {
		say("")
		say("`twinhull rules NAME` explains a rule; --all prints every reason")
	}
	return e.err
}

// waitsFor is what a rule says that cannot tell because of another one; "" when
// it has reasons of its own.
func waitsFor(r policy.Result) string {
	switch {
	case !slices.ContainsFunc(r.Reasons, func(x policy.Reason) bool { return x.Outcome.Refuses() }):
		return r.Because // those that there are, are notes
	case len(r.Reasons) == 1 && r.Reasons[0].Subject == "" && strings.Contains(r.Reasons[0].Message, ": see "):
		return r.Reasons[0].Message
	}
	return ""
}

var outcomeWords = map[policy.Outcome]string{policy.Fail: "refused", policy.CannotTell: "cannot tell", policy.Waived: "waived", policy.Noted: "noted", policy.Pass: "pass", policy.NotApplicable: "not asked"}

// lowerFirst begins a title in the middle of a line; words in capitals stay.
func lowerFirst(s string) string {
	r := []rune(s)
	if len(r) < 2 || unicode.IsUpper(r[1]) {
		return s
	}
	r[0] = unicode.ToLower(r[0])
	return string(r)
}

// shownReasons is how many reasons of a rule are told without --all.
const shownReasons = 3

func writeReasons(say func(string, ...any), r policy.Result, all bool, want func(policy.Outcome) bool) {
	var list []policy.Reason
	for _, x := range r.Reasons {
		if want(x.Outcome) {
			list = append(list, x)
		}
	}
	more := len(list) - shownReasons
	if all || more == 1 { // "and 1 more" takes the line that it would
		more = 0
	}
	for i, x := range list {
		if more > 0 && i == shownReasons {
			break
		}
		text := reasonLine(x)
		if !all {
			text = shorten(text, 110)
		}
		say("  - %s", text)
		next := i+1 < len(list) && (more <= 0 || i+1 < shownReasons)
		if x.Remedy != "" && x.Outcome.Refuses() && !(next && list[i+1].Remedy == x.Remedy) {
			say("    fix: %s", x.Remedy)
		}
	}
	if more > 0 {
		say("  - and %d more", more)
	}
}

// reasonLine tells a reason with its place.
func reasonLine(x policy.Reason) string {
	text := x.Message
	if x.Path != "" && !strings.Contains(text, x.Path) {
		text = x.Path + ": " + text
	}
	if x.Count > 1 && !strings.Contains(text, fmt.Sprint(x.Count)) {
		text += fmt.Sprintf(" (%d files)", x.Count)
	}
	if w := x.Waiver; w != nil && x.Outcome == policy.Waived {
		text += fmt.Sprintf("; waived by %s until %s: %s", w.Owner, w.Expires, w.Reason)
	}
	return text
}

// shorten cuts a text at most letters.
func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// wrap breaks a text at spaces.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}

// errWriter keeps the first error of many writes.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(b []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.w.Write(b)
	e.err = errors.Join(e.err, err)
	return n, err
}
