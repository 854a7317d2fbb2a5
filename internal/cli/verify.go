package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/evidence/testresult"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// claimRow is a claim as verify shows it.
type claimRow struct {
	Claim    string     `json:"claim"` // kind; of a claim that is not believed, what it says it is
	Type     string     `json:"predicateType,omitempty"`
	Media    []string   `json:"documents,omitempty"` // media types of the documents that it refers to
	By       string     `json:"by,omitempty"`        // name in the trust policy
	Signer   string     `json:"signer,omitempty"`    // key or certificate
	Signed   *time.Time `json:"signed,omitempty"`
	About    oci.Digest `json:"about"`
	Verified bool       `json:"verified"`
	Why      string     `json:"why,omitempty"` // why not
	Digest   oci.Digest `json:"digest"`        // of the claim's manifest

	// What a test result or a verification summary says, in its own words:
	// PASSED, FAILED, WARNED. Resource is what a summary is about.
	Result   string `json:"result,omitempty"`
	Resource string `json:"resource,omitempty"`

	lacks string    // why it does not say that all is well
	made  time.Time // of a summary
}

type verifyReport struct {
	Image    oci.Digest      `json:"image"`
	Platform string          `json:"platform,omitempty"`
	Verified bool            `json:"verified"`
	Missing  []evidence.Kind `json:"missing,omitempty"`
	Against  []string        `json:"against,omitempty"` // what required claims say against the image
	Claims   []claimRow      `json:"claims"`
}

func verifyCommand() *Command {
	var policyFile, key, platform, repository, output string
	var require []string
	return &Command{
		Name: "verify", Args: "IMAGE", Min: 1, Max: 1, Words: []string{"development", "production"},
		Short: "show the claims about an image and whom they are believed of",
		Long: `Lists the claims that are stored beside an image: what each is about, who signed
it, and whether it is verified or why it is not. A trust policy (--trust) says
which identity may make which claim about which repositories; --key believes one
key for everything. Nothing else is believed, and nothing is fetched but the
claims themselves.

For an index a claim about the index counts for each of its images: it names
them by digest. --repository says for which repository an image is judged that is
not in one yet.

Exits with 1 when a claim that --require names is missing or not verified. Of a
test result and a summary it wants that they passed, too: every believed test
result must have a test that passed and none that failed, and the latest believed
summary must say PASSED. Other kinds are not read: ` + "`twinhull check`" + ` judges what
they say.
Claims that are not believed and not required do not matter: whoever may push may
put some there.`,
		Examples: "twinhull verify production --key release.pub\ntwinhull verify production --trust trust.yaml --require sbom,provenance",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&policyFile, "trust", "", "trust policy `FILE`")
			f.StringVar(&key, "key", "", "public key `FILE`: believe this key and nobody else")
			f.StringArrayVar(&require, "require", []string{"signature"}, "`CLAIMS` that must be there and verified, separated by commas: signature, sbom, provenance, tests, origins, absence, vulnerabilities, vex, summary, a predicate type's URI, or none")
			f.StringVar(&platform, "platform", "", "of an index only the image for this platform (default: all)")
			f.StringVar(&repository, "repository", "", "`HOST/NAME` for which the image is judged (default: where it is)")
			f.StringVar(&output, "output", "table", "table or json")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			plat, err := optionalPlatform(platform)
			if err != nil {
				return err
			}
			if output != "table" && output != "json" {
				return Usagef("--output %q: want table or json", output)
			}
			must, err := splitKinds("require", require)
			if err != nil {
				return err
			}
			policy, err := whomToBelieve(env, policyFile, key)
			if err != nil {
				return err
			}
			c, err := openClaimed(ctx, env, args[0], repository, plat)
			if err != nil {
				return undecided(err)
			}
			reports, err := c.verify(ctx, policy, must, env.Now())
			if err != nil {
				return undecided(err)
			}
			if output == "json" {
				if err := writeJSON(env, reports); err != nil {
					return err
				}
			} else {
				printClaims(env, reports)
			}
			var missing, against []string
			for _, r := range reports {
				for _, why := range r.Against {
					if !slices.Contains(against, why) {
						against = append(against, why)
					}
				}
				for _, k := range r.Missing {
					if !slices.Contains(missing, string(k)) {
						missing = append(missing, string(k))
					}
				}
			}
			if len(against) > 0 {
				why := strings.Join(against, "; ")
				if len(missing) > 0 {
					why += "; no believed claim of kind " + strings.Join(missing, ", ")
				}
				return Refusedf("%s", why).WithHint("`twinhull check` tells what is wrong with the image")
			}
			if len(missing) > 0 {
				return Refusedf("no believed claim of kind %s", strings.Join(missing, ", ")).
					WithHint("`twinhull sign` and `twinhull attest` make claims; --require says which must be there")
			}
			return nil
		},
	}
}

func whomToBelieve(env *Env, policyFile, key string) (*trust.Policy, error) {
	switch {
	case (policyFile == "") == (key == ""):
		return nil, Usagef("want either --trust FILE or --key FILE: nobody is believed by default")
	case key != "":
		k, err := readPublicKey(env, key)
		if err != nil {
			return nil, err
		}
		return trust.KeyPolicy(k)
	}
	p, err := trust.LoadPolicy(env.Path(policyFile))
	if os.IsNotExist(err) {
		return nil, Usagef("--trust: %w", err)
	}
	return p, err
}

// verify opens all claims about each image, and about the index around it.
func (c *claimed) verify(ctx context.Context, p *trust.Policy, must []evidence.Kind, now time.Time) ([]verifyReport, error) {
	var shared []claimRow
	if oci.IsIndex(c.root.MediaType) {
		rows, err := c.rows(ctx, c.root.Digest, p, now)
		if err != nil {
			return nil, err
		}
		shared = rows
	}
	var out []verifyReport
	for _, d := range c.images {
		rows, err := c.rows(ctx, d.Digest, p, now)
		if err != nil {
			return nil, err
		}
		r := verifyReport{Image: d.Digest, Claims: append(rows, shared...)}
		if d.Platform != nil {
			r.Platform = d.Platform.OS + "/" + d.Platform.Architecture
		}
		for _, k := range must {
			if !slices.ContainsFunc(r.Claims, func(row claimRow) bool { return row.Verified && row.Claim == string(k) }) {
				r.Missing = append(r.Missing, k)
			}
			r.Against = append(r.Against, r.against(k)...)
		}
		r.Verified = len(r.Missing)+len(r.Against) == 0
		out = append(out, r)
	}
	return out, nil
}

// against lists what believed claims of a kind say against the image. A test
// result has no time: each of them counts. Of summaries the latest does, the
// image's own before one about the index around it.
func (r *verifyReport) against(k evidence.Kind) (why []string) {
	var last *claimRow
	for i := range r.Claims {
		row := &r.Claims[i]
		switch {
		case row.Claim != string(k) || row.lacks == "" && !row.Verified:
		case row.By == "":
		case k == evidence.Tests && row.lacks != "", k == evidence.Summary && row.made.IsZero():
			why = append(why, fmt.Sprintf("the %s claim that %s signed: %s", k, row.By, row.lacks))
		case k == evidence.Summary && (last == nil || row.after(last, r.Image)):
			last = row
		}
	}
	if last != nil && last.lacks != "" {
		why = append(why, fmt.Sprintf("the %s claim that %s signed: %s", k, last.By, last.lacks))
	}
	return why
}

// after tells whether a summary counts more than another. Of two of one moment
// about the same, the one that failed does.
func (row *claimRow) after(other *claimRow, image oci.Digest) bool {
	switch {
	case !row.made.Equal(other.made):
		return row.made.After(other.made)
	case row.About != other.About:
		return row.About == image
	}
	return row.lacks != ""
}

// read fills what a claim says that is more than being there.
func (row *claimRow) read(o trust.Opened) error {
	switch o.Kind() {
	case evidence.Tests:
		p, err := testresult.Parse(o.Predicate())
		if err != nil {
			return err
		}
		row.Result, row.lacks = p.Result, p.Lacks()
	case evidence.Summary:
		p, err := summary.Parse(o.Predicate())
		if err != nil {
			return err
		}
		row.Result, row.Resource = p.VerificationResult, p.ResourceURI
		if row.made, err = time.Parse(time.RFC3339, p.TimeVerified); err != nil {
			return err
		}
		if p.VerificationResult != summary.Passed {
			row.lacks = "the verification result is " + p.VerificationResult
			if len(p.Reasons) > 0 {
				row.lacks += ": " + clipped(p.Reasons[0])
				if n := len(p.Reasons) - 1; n > 0 {
					row.lacks += fmt.Sprintf(" (and %d more)", n)
				}
			}
		}
	}
	return nil
}

// clipped makes a text of a claim fit for one line.
func clipped(s string) string {
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return printable(s)
}

func (c *claimed) rows(ctx context.Context, subject oci.Digest, p *trust.Policy, now time.Time) ([]claimRow, error) {
	found, err := referrers.Claims(ctx, c.place, subject)
	if err != nil {
		return nil, err
	}
	rows := []claimRow{}
	for _, f := range found {
		row := claimRow{Type: f.Says, About: subject, Digest: f.Manifest.Digest, Claim: "?"}
		if k, err := evidence.ParseKind(f.Says); err == nil {
			row.Claim = string(k)
		}
		if f.Err != nil {
			row.Why = f.Err.Error()
			rows = append(rows, row)
			continue
		}
		o, err := trust.Open(f.Bundle, subject, p, c.repository, now)
		if err != nil {
			row.Why = err.Error()
			rows = append(rows, row)
			continue
		}
		row.Claim, row.Type, row.By, row.Signer, row.Verified = string(o.Kind()), o.PredicateType(), o.Identity(), o.Signer(), true
		if t, ok := o.Signed(); ok {
			row.Signed = &t
		}
		if o.PredicateType() == evidence.TypeReference {
			// A claim about a document that is not there is worth nothing.
			if row.Media, err = c.documents(ctx, subject, o); err != nil {
				row.Verified, row.Why = false, err.Error()
			}
		}
		if err := row.read(o); err != nil {
			// It may speak against the image: that it cannot be read is no pass.
			row.lacks = "it cannot be read: " + clipped(err.Error())
			row.Verified, row.Why, row.made = false, "the claim is signed, but "+row.lacks, time.Time{}
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b claimRow) int {
		return cmp.Or(cmp.Compare(rank(a.Claim), rank(b.Claim)), cmp.Compare(a.Type, b.Type), cmp.Compare(a.By, b.By), cmp.Compare(a.Digest, b.Digest))
	})
	return rows, nil
}

func rank(kind string) int {
	i := slices.Index(evidence.Kinds(), evidence.Kind(kind))
	if i < 0 {
		return len(evidence.Kinds())
	}
	return i
}

// documents reads what a claim refers to and returns the media types.
func (c *claimed) documents(ctx context.Context, subject oci.Digest, o trust.Opened) (media []string, _ error) {
	r, err := evidence.ParseReference(o.Predicate())
	if err != nil {
		return nil, err
	}
	for _, ref := range r.References {
		media = append(media, ref.MediaType)
		if _, err := referrers.Document(ctx, c.place, subject, ref); err != nil {
			return media, fmt.Errorf("the claim is signed, but its document cannot be read: %w", err)
		}
	}
	return media, nil
}

func printClaims(env *Env, reports []verifyReport) {
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(env.Stdout)
		}
		fmt.Fprintf(env.Stdout, "%s %s\n", r.Image, r.Platform)
		t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "CLAIM\tBY\tVERDICT\tTYPE")
		for _, row := range r.Claims {
			verdict := "verified"
			if !row.Verified {
				verdict = "not believed: " + row.Why
			} else if row.About != r.Image {
				verdict = "verified, about the index"
			}
			if row.Verified && row.Result != "" {
				verdict += ", " + row.Result
				if row.lacks != "" && row.Result == testresult.Passed {
					verdict += ", but " + row.lacks
				}
				if row.Resource != "" {
					verdict += " for " + row.Resource
				}
			}
			what := row.Type
			if len(row.Media) > 0 {
				what = strings.Join(row.Media, ", ")
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", printable(row.Claim), printable(cmp.Or(row.By, "-")), printable(verdict), printable(what))
		}
		for _, k := range r.Missing {
			fmt.Fprintf(t, "%s\t-\tmissing\t\n", k)
		}
		t.Flush()
	}
}
