package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// TestGate judges the examples as a release would: their production images,
// signed and attested, are allowed with a verification summary; their
// development images are refused for what they are.
//
// The vulnerability database of this test is recent and knows nothing: whether
// the examples' packages have known vulnerabilities is not shown here.
func TestGate(t *testing.T) {
	for _, name := range examples {
		t.Run(name, func(t *testing.T) {
			e := example(t, name)
			dir := copyProject(t, e.dir)
			w := first()
			w.Env = map[string]string{"TWINHULL_KEY_PASSWORD": "pw"}
			database := emptyDatabase(t, w, dir)
			repository := "registry.example/shop/" + name
			check := func(image string, more ...string) (result, gate.Results) {
				t.Helper()
				r := w.run(t.Context(), dir, append([]string{"-q", "check", image, "--repository", repository, "--vulnerabilities", database, "--output", "json"}, more...)...)
				var out gate.Results
				if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
					t.Fatalf("%v\n%s", err, r)
				}
				return r, out
			}

			// Unsigned, every rule is told, and the only reasons are the claims.
			r, out := check("production")
			if r.code != 1 || out.Allowed {
				t.Errorf("an image that nobody signed: %s", r)
			}
			for _, image := range out.Images {
				if n := len(image.Verdict.Rules); n != len(policy.Rules()) {
					t.Errorf("%d rules are told of %d", n, len(policy.Rules()))
				}
				want := []string{policy.RuleZone, policy.RuleSignature, policy.RuleProvenance, policy.RuleSBOM, policy.RuleExplained, policy.RuleTests, policy.RuleTestCoverage}
				if bad := refusing(image.Verdict); !slices.Equal(bad, want) {
					t.Errorf("%s: refused by %q, want %q\n%s", image.Platform, bad, want, told(image.Verdict))
				}
			}

			w.ok(t, dir, "key", "generate", "k")
			w.ok(t, dir, "sign", "production", "--key", "k.key")
			w.ok(t, dir, "attest", "production", "--key", "k.key")
			r, out = check("production", "--key", "k.pub", "--attest", "k.key")
			for _, image := range out.Images {
				if !image.Verdict.Allowed {
					t.Errorf("%s is refused:%s", image.Platform, told(image.Verdict))
				}
			}
			if r.code != 0 || !out.Allowed || len(out.Images) != 2 {
				t.Errorf("production: %d images, %s", len(out.Images), tail(r.stderr, 2000))
			}
			checkSummaries(t, dir, repository, out)

			// The development image, with everything that can be signed of it.
			w.ok(t, dir, "sign", "development", "--key", "k.key")
			w.ok(t, dir, "attest", "development", "--key", "k.key")
			r, out = check("development", "--zone", "production", "--key", "k.pub")
			if r.code != 1 || out.Allowed {
				t.Fatalf("development: %s", r)
			}
			for _, image := range out.Images {
				checkRefused(t, image.Verdict)
			}
			if r := w.run(t.Context(), dir, "-q", "check", "development"); r.code != 0 || !strings.HasPrefix(r.stdout, "allowed for development\n") {
				t.Errorf("the development image as such: %s", r)
			}
			// The text for a person tells what refuses first, on few lines.
			text := w.run(t.Context(), dir, "-q", "check", "development", "--zone", "production", "--key", "k.pub", "--repository", repository, "--vulnerabilities", database)
			if !strings.HasPrefix(text.stdout, "refused for production") || strings.Count(text.stdout, "\n") > 160 {
				t.Errorf("%d lines:\n%s", strings.Count(text.stdout, "\n"), text.stdout)
			}
		})
	}
}

func refusing(v policy.Verdict) (ids []string) {
	for _, r := range v.Rules {
		if r.Outcome.Refuses() {
			ids = append(ids, r.Rule)
		}
	}
	return ids
}

func told(v policy.Verdict) string {
	var b strings.Builder
	for _, r := range v.Rules {
		if r.Outcome.Refuses() {
			fmt.Fprintf(&b, "\n%s %s %s", r.Outcome, r.Rule, r.Because)
			for _, x := range r.Reasons[:min(len(r.Reasons), 10)] {
				b.WriteString("\n  " + x.Path + " " + x.Message)
			}
		}
	}
	return b.String()
}

// checkRefused wants the right reasons, each once and with a remedy.
func checkRefused(t *testing.T, v policy.Verdict) {
	t.Helper()
	bad := refusing(v)
	for _, id := range []string{policy.RuleZone, policy.RuleMinimalBase, "shell", "package-manager", "compiler", "debugger", "network-client", "editor", "root-user", "debug-flag"} {
		if !slices.Contains(bad, id) {
			t.Errorf("%s does not refuse the development image; these do: %q", id, bad)
		}
	}
	// What is true of it is not held against it.
	for _, id := range []string{policy.RuleSignature, policy.RuleSBOM, policy.RuleExplained, "hostile-layer", "inconsistent", "package-bytes", "no-entrypoint", "broken-entrypoint"} {
		if slices.Contains(bad, id) {
			t.Errorf("%s refuses the development image", id)
		}
	}
	type place struct{ rule, subject, path, pkg, message string }
	seen := map[place]bool{}
	for _, r := range v.Rules {
		if r.Outcome.Refuses() && r.Remedy == "" {
			t.Errorf("%s refuses without a remedy", r.Rule)
		}
		for _, x := range r.Reasons {
			p := place{r.Rule, x.Subject, x.Path, x.Package, x.Message}
			if seen[p] || x.Message == "" {
				t.Errorf("told twice, or nothing: %+v", p)
			}
			seen[p] = true
		}
	}
}

// checkSummaries opens the summaries as an admission controller would: of each
// image and of the index that the tag names.
func checkSummaries(t *testing.T, dir, repository string, out gate.Results) {
	t.Helper()
	store, err := oci.OpenLayout(filepath.Join(dir, ".twinhull", "store"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, "k.pub"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := trust.ReadPublic(pem)
	if err != nil {
		t.Fatal(err)
	}
	believed, err := trust.KeyPolicy(key)
	if err != nil {
		t.Fatal(err)
	}
	index, err := store.Tag("production")
	if err != nil {
		t.Fatal(err)
	}
	subjects := map[oci.Digest][]oci.Digest{index.Digest: nil}
	for _, image := range out.Images {
		subjects[image.Verdict.Image] = image.Claims
	}
	if len(subjects) != len(out.Images)+1 {
		t.Errorf("%d subjects of %d images", len(subjects), len(out.Images))
	}
	for subject, claims := range subjects {
		found, err := referrers.Claims(t.Context(), referrers.InLayout(store), subject)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range found {
			o, err := trust.Open(f.Bundle, subject, believed, repository, time.Now())
			if err != nil || o.Kind() != "summary" {
				continue
			}
			n++
			p, err := summary.Parse(o.Predicate())
			if err != nil {
				t.Fatal(err)
			}
			if no := p.Accepts(summary.Wanted{Verifiers: []string{summary.VerifierID}, Repository: repository, Policies: []oci.Digest{policy.Default().Digest()}, MaxAge: time.Hour,
				Levels: []string{"TWINHULL_DEPENDENCIES_COMPLETE", "TWINHULL_PARAMETERLESS"}, Now: time.Now()}); len(no) > 0 {
				t.Errorf("summary of %s: %q", subject, no)
			}
			if p.Accepts(summary.Wanted{Verifiers: []string{summary.VerifierID}, Repository: repository + "/dev", Now: time.Now()}) == nil {
				t.Errorf("summary of %s: accepted for the development repository", subject)
			}
			for _, c := range claims {
				if !slices.ContainsFunc(p.InputAttestations, func(d summary.Descriptor) bool { return d.Digest["sha256"] == c.Encoded() }) {
					t.Errorf("summary of %s does not list the claim %s", subject, c)
				}
			}
			// A signature, two bills of materials, provenance, tests, origins.
			if len(p.InputAttestations) < 6 {
				t.Errorf("summary of %s lists %d claims", subject, len(p.InputAttestations))
			}
		}
		if n != 1 {
			t.Errorf("%s has %d summaries", subject, n)
		}
	}
}

// copyProject links the store of an example into another folder, so that claims
// do not become part of what other tests compare.
func copyProject(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"twinhull.yaml", "twinhull.lock"} {
		if err := copyFile(filepath.Join(from, name), filepath.Join(dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	store := filepath.Join(from, ".twinhull", "store")
	err := filepath.WalkDir(store, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case filepath.Base(filepath.Dir(filepath.Dir(p))) == "blobs" && os.Link(p, to) == nil:
			return nil
		}
		return copyFile(p, to, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// emptyDatabase imports a record about a package that nobody has for each
// ecosystem of the examples.
func emptyDatabase(t *testing.T, w world, dir string) string {
	t.Helper()
	for folder, ecosystem := range map[string]string{"Debian": "Debian:13", "npm": "npm", "Go": "Go", "PyPI": "PyPI"} {
		record := fmt.Sprintf(`{"schema_version":"1.7.0","id":"TEST-%s-1","modified":%q,"affected":[{"package":{"ecosystem":%q,"name":"nobody-has-this"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}`,
			folder, time.Now().UTC().Format(time.RFC3339), ecosystem)
		file := filepath.Join(dir, "osv", folder, "TEST-"+folder+"-1.json")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(record), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.ok(t, dir, "vulndb", "import", "osv", "--vulnerabilities", "database")
	return "database"
}
