package gate

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/origin"
	"twinhull.dev/twinhull/internal/evidence/provenance"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/evidence/testresult"
	"twinhull.dev/twinhull/internal/evidence/vuln"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const repository = "registry.example/shop/app"

// database answers everything: there is nothing in the images of these tests.
type database struct{ err error }

func (d database) Match(_ context.Context, packages []inspect.Package, _ inspect.OSRelease, opt vuln.MatchOptions) (vuln.Result, error) {
	if !opt.Now.Equal(now) || opt.MaxAge <= 0 {
		return vuln.Result{}, errors.New("asked without a time")
	}
	return vuln.Result{Complete: true, Ecosystems: []vuln.Answer{{Ecosystem: "npm", Packages: len(packages), Answered: true, Newest: now.Add(-time.Hour)}}}, d.err
}

// yard is a layout with one image and everything that is signed about it.
type yard struct {
	t      *testing.T
	store  *oci.Layout
	place  referrers.Place
	image  oci.Descriptor
	img    *image.Image
	facts  *inspect.Facts
	key    *trust.Key
	req    Request
	claims map[evidence.Kind][]byte // bundles of a full set, by kind
}

func newYard(t *testing.T, spec corpus.Spec) *yard {
	t.Helper()
	y := &yard{t: t, claims: map[evidence.Kind][]byte{}}
	var err error
	if y.store, err = corpus.Write(t.TempDir(), spec); err != nil {
		t.Fatal(err)
	}
	if y.image, err = y.store.Tag(corpus.Tag); err != nil {
		t.Fatal(err)
	}
	if y.img, err = image.OpenDescriptor(y.store, y.image, image.OpenOptions{Platform: oci.Platform{OS: "linux", Architecture: "amd64"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { y.img.Close() })
	y.place = referrers.InLayout(y.store)
	y.key = newKey(t)
	if y.facts, err = inspect.Inspect(t.Context(), y.img, inspect.Options{Tree: true}); err != nil {
		t.Fatal(err)
	}
	p, err := trust.KeyPolicy(y.key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	y.req = Request{Image: y.img, Place: y.place, Zone: oci.Production, Repository: repository, Now: now, Trust: p, Database: database{}}
	return y
}

func newKey(t *testing.T) *trust.Key {
	t.Helper()
	k, err := trust.Generate(trust.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (y *yard) sign(k trust.Signer, subject oci.Digest, predicateType string, predicate any) []byte {
	y.t.Helper()
	s, err := evidence.New("app", subject, predicateType, predicate)
	if err != nil {
		y.t.Fatal(err)
	}
	b, err := trust.Sign(y.t.Context(), s, k)
	if err != nil {
		y.t.Fatal(err)
	}
	return b
}

// origins explains every path of the image.
func (y *yard) origins(zone oci.Zone) []byte {
	names := map[byte]string{'0': "file", '5': "folder", '2': "symlink", '1': "hardlink"}
	o := build.Origins{Version: 1, Image: y.image.Digest, Name: "app", Zone: zone, Platform: y.facts.Platform, AsOf: now.Add(-time.Hour), Project: digest.FromString("p"), Lock: digest.FromString("l")}
	for _, f := range y.facts.Tree {
		o.Paths = append(o.Paths, build.PathOrigin{Path: f.Path, Type: names[f.Type], Mode: fmt.Sprintf("%o", f.Mode), Size: f.Size, Link: f.Link, SHA256: f.SHA256,
			Origin: filetree.Origin{Kind: filetree.FromArtifact, Name: "build:dist", Digest: digest.FromString("step")}})
	}
	raw, err := json.Marshal(o)
	if err != nil {
		y.t.Fatal(err)
	}
	return raw
}

func provenanceOf(zone oci.Zone) provenance.Predicate {
	return provenance.Predicate{
		BuildDefinition: provenance.BuildDefinition{BuildType: provenance.BuildType, ExternalParameters: provenance.External{Zone: zone},
			ResolvedDependencies: []evidence.Resource{{Name: "twinhull.lock", Digest: evidence.DigestSet(digest.FromString("l"))}}},
		RunDetails: provenance.RunDetails{Builder: provenance.Builder{ID: provenance.BuilderID}, Metadata: provenance.Metadata{Properties: provenance.Properties{Hermetic: true, Parameterless: true, DependenciesComplete: true}}},
	}
}

const bill = `{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"app","packages":[{"SPDXID":"SPDXRef-a","name":"something","versionInfo":"1","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:npm/something@1"}]}]}`

// full attaches a full set of claims, but those of the kinds that are left out.
func (y *yard) full(without ...evidence.Kind) {
	y.t.Helper()
	raw := y.origins(oci.Production)
	for _, c := range []struct {
		kind evidence.Kind
		typ  string
		p    any
	}{
		{evidence.Signature, evidence.TypeSignature, struct{}{}},
		{evidence.Provenance, evidence.TypeProvenance, provenanceOf(oci.Production)},
		{evidence.SBOM, evidence.TypeSPDX, json.RawMessage(bill)},
		{evidence.Tests, evidence.TypeTests, testresult.Predicate{Result: testresult.Passed, Configuration: []evidence.Resource{{Name: "junit.xml", Digest: evidence.DigestSet(digest.FromString("j"))}},
			Tests: &testresult.Tests{Tests: 3, Passed: 3}, Coverage: []testresult.Coverage{{Unit: "lines", Covered: 90, Total: 100}}}},
		{evidence.Origins, evidence.TypeReference, origin.Predicate(raw)},
	} {
		y.claims[c.kind] = y.sign(y.key, y.image.Digest, c.typ, c.p)
		if slices.Contains(without, c.kind) {
			continue
		}
		if c.kind == evidence.Origins {
			y.document(raw)
		}
		y.attach(y.claims[c.kind], c.typ)
	}
}

func (y *yard) document(raw []byte) {
	y.t.Helper()
	if _, err := referrers.AttachDocument(y.t.Context(), y.place, y.image, referrers.Blob{MediaType: build.OriginsType, Data: raw}); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) attach(bundle []byte, predicateType string) {
	y.t.Helper()
	if _, err := referrers.Attach(y.t.Context(), y.place, y.image, bundle, predicateType, now); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) judge() *Report {
	y.t.Helper()
	r, err := Judge(y.t.Context(), y.req)
	if err != nil {
		y.t.Fatal(err)
	}
	return r
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
			for _, x := range r.Reasons {
				b.WriteString("\n  " + x.Message)
			}
		}
	}
	return b.String()
}

func TestAllowed(t *testing.T) {
	y := newYard(t, corpus.Base())
	y.full()
	r := y.judge()
	if !r.Verdict.Allowed {
		t.Fatalf("refused:%s", told(r.Verdict))
	}
	if len(r.Inputs) != len(y.claims) || len(r.Rejected) != 0 {
		t.Errorf("%d inputs, want %d; rejected: %+v", len(r.Inputs), len(y.claims), r.Rejected)
	}
	for kind, b := range y.claims {
		if !slices.Contains(r.Inputs, digest.FromBytes(b)) {
			t.Errorf("the %s claim is not among the inputs", kind)
		}
	}
	p, err := r.Summary("", "1.0")
	if err != nil {
		t.Fatal(err)
	}
	if p.VerificationResult != summary.Passed || len(p.InputAttestations) != len(y.claims) || p.ResourceURI != "oci://"+repository {
		t.Errorf("%+v", p)
	}
	if p.Trust == nil || p.Trust.Digest["sha256"] != y.req.Trust.Digest().Encoded() {
		t.Errorf("the summary does not say whom it believed: %+v", p.Trust)
	}
	wanted := summary.Wanted{Verifiers: []string{summary.VerifierID}, Repository: repository, Policies: []oci.Digest{policy.Default().Digest()}, Levels: []string{"TWINHULL_HERMETIC"}, Now: now}
	if reasons := p.Accepts(wanted); len(reasons) > 0 {
		t.Errorf("not accepted: %q", reasons)
	}
	if slices.Contains(p.VerifiedLevels, "SLSA_BUILD_LEVEL_1") {
		t.Errorf("a level of a builder that nobody is bound to: %q", p.VerifiedLevels)
	}
	// It is no pass for the development repository, nor for any other.
	wanted.Repository += "/dev"
	if len(p.Accepts(wanted)) == 0 {
		t.Error("accepted for another repository")
	}
	// Its own summary, once attached, changes nothing.
	y.attach(y.sign(y.key, y.image.Digest, evidence.TypeSummary, p), evidence.TypeSummary)
	if again := y.judge(); !again.Verdict.Allowed || len(again.Inputs) != len(y.claims) {
		t.Errorf("with a summary: %d inputs%s", len(again.Inputs), told(again.Verdict))
	}
	a, err := r.Absence("1.0", now)
	if err != nil || !a.Absent(inspect.RuleShell) || a.Zone != oci.Production || len(a.Layers) != 2 {
		t.Errorf("%+v, %v", a, err)
	}
	y.attach(y.sign(y.key, y.image.Digest, evidence.TypeAbsence, a), evidence.TypeAbsence)
	if again := y.judge(); !again.Verdict.Allowed || len(again.Inputs) != len(y.claims)+1 {
		t.Errorf("with an inspection: %d inputs%s", len(again.Inputs), told(again.Verdict))
	}
}

// edited changes a bundle's JSON as text.
func edited(b []byte, old, new string) []byte {
	if !bytes.Contains(b, []byte(old)) {
		panic("nothing to edit: " + old)
	}
	return bytes.Replace(b, []byte(old), []byte(new), 1)
}

// raw signs any payload of any type, as somebody with the right key and another
// program could.
func (y *yard) raw(payloadType, payload string) []byte {
	y.t.Helper()
	sig, err := y.key.Sign(y.t.Context(), fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload))
	if err != nil {
		y.t.Fatal(err)
	}
	e := base64.StdEncoding
	return fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":{"publicKey":{}},"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
		trust.BundleType, e.EncodeToString([]byte(payload)), payloadType, e.EncodeToString(sig))
}

func (y *yard) statement(about oci.Digest, more string) string {
	return fmt.Sprintf(`{"_type":%q,"subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}%s}`, evidence.StatementV1, about.Encoded(), evidence.TypeSignature, more)
}

// TestHostileClaims: an image has every claim but a signature, and something
// that would be one if anybody believed it.
func TestHostileClaims(t *testing.T) {
	other := digest.FromString("development")
	sig := func(y *yard) []byte { return y.sign(y.key, y.image.Digest, evidence.TypeSignature, struct{}{}) }
	put := func(f func(y *yard) []byte) func(*yard) {
		return func(y *yard) { y.attach(f(y), evidence.TypeSignature) }
	}
	var cases = []struct {
		name, why string
		do        func(y *yard)
	}{
		{"of another image", "about", put(func(y *yard) []byte { return y.sign(y.key, other, evidence.TypeSignature, struct{}{}) })},
		{"by another key", "does not know", put(func(y *yard) []byte { return y.sign(newKey(t), y.image.Digest, evidence.TypeSignature, struct{}{}) })},
		{"truncated", "", put(func(y *yard) []byte { b := sig(y); return b[:len(b)/2] })},
		{"empty", "", put(func(y *yard) []byte { return []byte("{}") })},
		{"no JSON", "", put(func(y *yard) []byte { return []byte("\x00\x01") })},
		{"huge", "bytes", put(func(y *yard) []byte { return append(sig(y), bytes.Repeat([]byte(" "), trust.MaxBundle)...) })},
		{"deep", "", put(func(y *yard) []byte {
			return edited(sig(y), `{"mediaType"`, `{"x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`,"mediaType"`)
		})},
		{"key twice", "", put(func(y *yard) []byte { return edited(sig(y), `{"mediaType"`, `{"mediaType":"x","mediaType"`) })},
		{"key twice in other letters", "", put(func(y *yard) []byte { return edited(sig(y), `"dsseEnvelope"`, `"dsse_envelope":{},"dsseEnvelope"`) })},
		{"key twice in the statement", "", put(func(y *yard) []byte {
			return y.raw(evidence.PayloadType, y.statement(other, fmt.Sprintf(`,"subject":[{"digest":{"sha256":%q}}]`, y.image.Digest.Encoded())))
		})},
		{"two payloads", "", put(func(y *yard) []byte {
			return edited(sig(y), `"dsseEnvelope"`, `"messageSignature":{"signature":"AA=="},"dsseEnvelope"`)
		})},
		{"payload behind the end", "", put(func(y *yard) []byte { return append(sig(y), sig(y)...) })},
		{"two signatures", "", put(func(y *yard) []byte { return edited(sig(y), `"signatures":[`, `"signatures":[{"sig":"AAAA"},`) })},
		{"no signature", "", put(func(y *yard) []byte {
			b := sig(y)
			i := bytes.Index(b, []byte(`"signatures":[`))
			return append(slices.Clone(b[:i]), []byte(`"signatures":[]}}`)...)
		})},
		{"signature over other bytes", "did not sign these bytes", put(func(y *yard) []byte {
			e := base64.StdEncoding
			s, _ := evidence.New("app", y.image.Digest, evidence.TypeSignature, struct{}{})
			t, _ := evidence.New("app", other, evidence.TypeSignature, struct{}{})
			return edited(y.sign(y.key, other, evidence.TypeSignature, struct{}{}), e.EncodeToString(t), e.EncodeToString(s))
		})},
		{"another payload type", "", put(func(y *yard) []byte { return y.raw("application/json", y.statement(y.image.Digest, "")) })},
		{"another statement version", "", put(func(y *yard) []byte {
			return y.raw(evidence.PayloadType, strings.Replace(y.statement(y.image.Digest, ""), "Statement/v1", "Statement/v2", 1))
		})},
		{"bundle 0.1", "", put(func(y *yard) []byte { return edited(sig(y), "bundle.v0.3+json", "bundle+json;version=0.1") })},
		{"bundle 0.2", "", put(func(y *yard) []byte { return edited(sig(y), "bundle.v0.3+json", "bundle+json;version=0.2") })},
		{"bundle of tomorrow", "", put(func(y *yard) []byte { return edited(sig(y), "bundle.v0.3+json", "bundle.v0.4+json") })},
		{"unsigned hash in a field of its own", "", put(func(y *yard) []byte {
			return y.raw(evidence.PayloadType, strings.Replace(y.statement(other, ""), `"digest":{`, fmt.Sprintf(`"digest":{"sha512":"","SHA256":%q,`, y.image.Digest.Encoded()), 1))
		})},
		{"subject by name only", "", put(func(y *yard) []byte {
			return y.raw(evidence.PayloadType, fmt.Sprintf(`{"_type":%q,"subject":[{"name":%q}],"predicateType":%q,"predicate":{}}`, evidence.StatementV1, y.image.Digest, evidence.TypeSignature))
		})},
		{"identity expired", "believed until", func(y *yard) {
			y.attach(sig(y), evidence.TypeSignature)
			y.req.Trust = y.policy("    until: 2026-11-22", "[signature, sbom, provenance, tests, origins]", `"**"`)
		}},
		{"identity not yet", "believed since", func(y *yard) {
			y.attach(sig(y), evidence.TypeSignature)
			y.req.Trust = y.policy("    since: 2026-12-01", "[signature, sbom, provenance, tests, origins]", `"**"`)
		}},
		{"kind not allowed", "may not make signature claims", func(y *yard) {
			y.attach(sig(y), evidence.TypeSignature)
			y.req.Trust = y.policy("", "[sbom, provenance, tests, origins]", `"**"`)
		}},
		{"repository not allowed", "may not make", func(y *yard) {
			y.attach(sig(y), evidence.TypeSignature)
			y.req.Trust = y.policy("", "[signature, sbom, provenance, tests, origins]", "registry.example/shop/other")
		}},
		{"nobody is trusted", "nobody was named", func(y *yard) {
			y.attach(sig(y), evidence.TypeSignature)
			y.req.Trust = nil
		}},
		{"annotation lies about the kind", "", func(y *yard) {
			// A believed claim of another kind that calls itself a signature.
			y.attach(y.sign(y.key, y.image.Digest, "https://example.test/note/v1", struct{}{}), evidence.TypeSignature)
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, corpus.Base())
			y.full(evidence.Signature)
			c.do(y)
			r := y.judge()
			if r.Verdict.Allowed || !slices.Contains(refusing(r.Verdict), policy.RuleSignature) {
				t.Fatalf("allowed: %v; refused by %q", r.Verdict.Allowed, refusing(r.Verdict))
			}
			if c.name == "annotation lies about the kind" {
				return
			}
			i := slices.IndexFunc(r.Rejected, func(x policy.Rejected) bool { return x.Kind == "signature" })
			if i < 0 || !strings.Contains(r.Rejected[i].Why, c.why) {
				t.Errorf("rejected: %+v, want %q", r.Rejected, c.why)
			}
			if s, err := r.Summary("", ""); err != nil || s.VerificationResult != summary.Failed || len(s.Accepts(summary.Wanted{Verifiers: []string{summary.VerifierID}, Repository: repository, Now: now})) == 0 {
				t.Errorf("the summary of a refusal: %+v, %v", s, err)
			}
		})
	}
}

// policy trusts the yard's key with limits.
func (y *yard) policy(limit, kinds, repositories string) *trust.Policy {
	y.t.Helper()
	pem, err := trust.PublicPEM(y.key.PublicKey())
	if err != nil {
		y.t.Fatal(err)
	}
	p, err := trust.ReadPolicy("trust.yaml", fmt.Appendf(nil, "version: 1\nidentities:\n  release:\n    key: k.pub\n%s\nrules:\n  - {identities: [release], claims: %s, repositories: [%s]}\n", limit, kinds, repositories),
		func(string) ([]byte, error) { return pem, nil })
	if err != nil {
		y.t.Fatal(err)
	}
	return p
}

// TestReplayFromDevelopment: every claim about the development image, signed by
// the right key, beside the production image.
func TestReplayFromDevelopment(t *testing.T) {
	y := newYard(t, corpus.Base())
	y.full(evidence.Kinds()...)
	dev := digest.FromString("development image")
	for _, c := range map[evidence.Kind]struct {
		typ string
		p   any
	}{
		evidence.Signature: {evidence.TypeSignature, struct{}{}}, evidence.Provenance: {evidence.TypeProvenance, provenanceOf(oci.Production)},
		evidence.SBOM: {evidence.TypeSPDX, json.RawMessage(bill)},
	} {
		y.attach(y.sign(y.key, dev, c.typ, c.p), c.typ)
	}
	r := y.judge()
	if r.Verdict.Allowed || len(r.Inputs) != 0 || len(r.Rejected) != 3 {
		t.Errorf("inputs %v, rejected %+v", r.Inputs, r.Rejected)
	}
	// A claim that was made about this image, and says that it is of development.
	y = newYard(t, corpus.Base())
	y.full(evidence.Provenance)
	y.attach(y.sign(y.key, y.image.Digest, evidence.TypeProvenance, provenanceOf(oci.Development)), evidence.TypeProvenance)
	if r := y.judge(); r.Verdict.Allowed || !slices.Contains(refusing(r.Verdict), policy.RuleZone) {
		t.Errorf("refused by %q", refusing(r.Verdict))
	}
}

// TestUnreadableClaims: signed by the right key, and not to be read.
func TestUnreadableClaims(t *testing.T) {
	for _, c := range []struct {
		name, typ, predicate, rule string
		kind                       evidence.Kind
	}{
		{"provenance without a builder", evidence.TypeProvenance, `{"buildDefinition":{"buildType":"x"},"runDetails":{}}`, policy.RuleProvenance, evidence.Provenance},
		{"bill of another format", evidence.TypeSPDX, `{"spdxVersion":"SPDX-1.0"}`, policy.RuleSBOM, evidence.SBOM},
		{"bill that lists nothing", evidence.TypeCycloneDX, `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[]}`, policy.RuleSBOM, evidence.SBOM},
		{"more tests passed than there are", evidence.TypeTests, `{"result":"PASSED","configuration":[{"digest":{"sha256":"` + strings.Repeat("0", 64) + `"}}],"twinhull_tests":{"tests":1,"passed":5,"failed":0,"skipped":0}}`, policy.RuleTests, evidence.Tests},
		{"origins that are not there", evidence.TypeReference, string(must(json.Marshal(origin.Predicate([]byte("nowhere"))))), policy.RuleExplained, evidence.Origins},
		{"VEX of another format", evidence.TypeVEX, `{"@context":"https://openvex.dev/ns/v0.0.1"}`, policy.RuleVEX, ""},
		{"scan of nothing", evidence.TypeVulns, `{"scanner":{}}`, policy.RuleVulnerabilities, ""},
		{"inspection of nothing", evidence.TypeAbsence, `{}`, policy.RuleAbsence, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, corpus.Base())
			y.full(c.kind)
			y.attach(y.sign(y.key, y.image.Digest, c.typ, json.RawMessage(c.predicate)), c.typ)
			r := y.judge()
			if r.Verdict.Allowed || !slices.Contains(refusing(r.Verdict), c.rule) {
				t.Errorf("refused by %q, want %s", refusing(r.Verdict), c.rule)
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestOriginsOfAnotherImage: the document tells of other contents, or of another
// image.
func TestOriginsOfAnotherImage(t *testing.T) {
	for name, change := range map[string]func(o *build.Origins){
		"another image":  func(o *build.Origins) { o.Image = digest.FromString("x") },
		"other contents": func(o *build.Origins) { o.Paths[slices.IndexFunc(o.Paths, isFile)].SHA256 = digest.FromString("x") },
		"a path less":    func(o *build.Origins) { o.Paths = o.Paths[1:] },
		"no reason":      func(o *build.Origins) { o.Paths[0].Origin = filetree.Origin{} },
		"out of order":   func(o *build.Origins) { slices.Reverse(o.Paths) },
	} {
		y := newYard(t, corpus.Base())
		y.full(evidence.Origins)
		var o build.Origins
		if err := json.Unmarshal(y.origins(oci.Production), &o); err != nil {
			t.Fatal(err)
		}
		change(&o)
		raw := must(json.Marshal(o))
		y.document(raw)
		y.attach(y.sign(y.key, y.image.Digest, evidence.TypeReference, origin.Predicate(raw)), evidence.TypeReference)
		if r := y.judge(); r.Verdict.Allowed || !slices.Contains(refusing(r.Verdict), policy.RuleExplained) {
			t.Errorf("%s: refused by %q", name, refusing(r.Verdict))
		}
	}
}

func isFile(p build.PathOrigin) bool { return p.Type == "file" }

// TestDisagreement: manifests that disagree with their configuration, with every
// claim that one could want.
func TestDisagreement(t *testing.T) {
	for name, change := range map[string]func(s *corpus.Spec){
		"annotation": func(s *corpus.Spec) { s.Annotations[oci.ZoneKey] = "development" },
		"label":      func(s *corpus.Spec) { s.Config.Labels[oci.ZoneKey] = "development" },
		"both": func(s *corpus.Spec) {
			s.Annotations[oci.ZoneKey], s.Config.Labels[oci.ZoneKey] = "development", "development"
		},
		"neither": func(s *corpus.Spec) { delete(s.Annotations, oci.ZoneKey); delete(s.Config.Labels, oci.ZoneKey) },
		"history": func(s *corpus.Spec) { s.Layers[1].History = "twinhull 1: development: tools" },
		"extra shell": func(s *corpus.Spec) {
			s.Layers = append(s.Layers, corpus.Layer{Files: []corpus.File{{Name: "bin/sh", Mode: 0o755, Body: corpus.Program()}}})
		},
	} {
		s := corpus.Base()
		change(&s)
		y := newYard(t, s)
		y.full()
		if r := y.judge(); r.Verdict.Allowed {
			t.Errorf("%s: allowed", name)
		}
	}
}

// edit changes the text of the image's configuration and manifest, before
// anything is signed about it.
func (y *yard) edit(config, manifest func(string) string) {
	y.t.Helper()
	raw := string(y.img.RawManifest)
	old := y.img.Manifest.Config
	c := must(y.store.PutBytes(old.MediaType, []byte(config(string(y.img.RawConfig)))))
	raw = strings.NewReplacer(old.Digest.String(), c.Digest.String(), fmt.Sprintf(`"size":%d`, old.Size), fmt.Sprintf(`"size":%d`, c.Size)).Replace(raw)
	y.image = must(y.store.PutBytes(y.image.MediaType, []byte(manifest(raw))))
	y.img = must(image.OpenDescriptor(y.store, y.image, image.OpenOptions{}))
	y.facts = must(inspect.Inspect(y.t.Context(), y.img, inspect.Options{Tree: true}))
	y.req.Image = y.img
}

// TestTwoReadings: what a reader that knows names in one spelling only, or takes
// the first of two, would see as another image is refused, whoever signed it.
func TestTwoReadings(t *testing.T) {
	same := func(s string) string { return s }
	before := func(text string) func(string) string {
		return func(s string) string { return "{" + text + "," + s[1:] }
	}
	for name, c := range map[string]struct{ config, manifest func(string) string }{
		"layers twice":           {same, before(`"layers":[]`)},
		"layers in another case": {same, before(`"LAYERS":[]`)},
		"subject of two kinds":   {same, before(`"manifests":[]`)},
		"of schema 1 too":        {same, before(`"fsLayers":[]`)},
		"config twice":           {before(`"config":{"User":"0"}`), same},
		"config in another case": {before(`"Config":{"User":"0"}`), same},
		"a label twice": {func(s string) string {
			return strings.Replace(s, `"Labels":{`, `"Labels":{"dev.twinhull.zone":"development",`, 1)
		}, same},
	} {
		y := newYard(t, corpus.Base())
		y.edit(c.config, c.manifest)
		y.full()
		r := y.judge()
		if got := refusing(r.Verdict); !slices.Equal(got, []string{inspect.RuleInconsistent}) {
			t.Errorf("%s: refused by %q%s", name, got, told(r.Verdict))
		}
	}
	y := newYard(t, corpus.Base())
	y.edit(func(s string) string { return " " + s }, same)
	y.full()
	if r := y.judge(); !r.Verdict.Allowed {
		t.Errorf("an edit that changes nothing is refused:%s", told(r.Verdict))
	}
	y.req.Says = []string{"production", ""}
	if r := y.judge(); !r.Verdict.Allowed {
		t.Errorf("an index of production is refused:%s", told(r.Verdict))
	}
	y.req.Says = []string{"production", "development"}
	if r := y.judge(); !slices.Equal(refusing(r.Verdict), []string{inspect.RuleInconsistent}) {
		t.Errorf("an index of development: refused by %q", refusing(r.Verdict))
	}
}

// TestRepeatedClaims: a signed claim that strangers add again, in other bytes
// around the same statement, is read once.
func TestRepeatedClaims(t *testing.T) {
	y := newYard(t, corpus.Base())
	y.full()
	reads := 0
	y.place = counting{y.place, build.OriginsType, &reads}
	y.req.Place = y.place
	first := y.judge()
	once := reads
	for i := range 20 {
		y.attach(append(slices.Clone(y.claims[evidence.Origins]), strings.Repeat(" ", i)...), evidence.TypeReference)
		y.attach(append(slices.Clone(y.claims[evidence.Tests]), strings.Repeat(" ", i)...), evidence.TypeTests)
	}
	reads = 0
	r := y.judge()
	if !r.Verdict.Allowed || len(r.Inputs) != len(first.Inputs) || once == 0 || reads != once {
		t.Errorf("%d inputs, want %d; the document was read %d times, want %d%s", len(r.Inputs), len(first.Inputs), reads, once, told(r.Verdict))
	}
}

// counting counts how often blobs of a type are read.
type counting struct {
	referrers.Place
	mediaType string
	n         *int
}

func (c counting) Read(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	if d.MediaType == c.mediaType {
		*c.n++
	}
	return c.Place.Read(ctx, d, limit)
}

// TestLongWords: what strangers' claims say is cut in a report.
func TestLongWords(t *testing.T) {
	y := newYard(t, corpus.Base())
	y.full()
	y.attach(y.raw(strings.Repeat("x", 1<<20), "{}"), "https://"+strings.Repeat("y", 1<<20))
	r := y.judge()
	if len(r.Rejected) != 1 || len(r.Rejected[0].Why) > 1000 || len(r.Rejected[0].Kind) > 1000 || !r.Verdict.Allowed {
		t.Errorf("%d rejected, allowed %v", len(r.Rejected), r.Verdict.Allowed)
	}
}

// broken is a place that fails in one way.
type broken struct {
	referrers.Place
	list, read error
}

func (b broken) List(ctx context.Context, d oci.Digest) ([]oci.Descriptor, error) {
	if b.list != nil {
		return nil, b.list
	}
	return b.Place.List(ctx, d)
}

func (b broken) Read(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	if b.read != nil {
		return nil, b.read
	}
	return b.Place.Read(ctx, d, limit)
}

// TestCannotLook: what keeps the gate from looking is an error, and no verdict.
func TestCannotLook(t *testing.T) {
	y := newYard(t, corpus.Base())
	y.full()
	for name, change := range map[string]func(r *Request){
		"no image":      func(r *Request) { r.Image = nil },
		"no time":       func(r *Request) { r.Now = time.Time{} },
		"no list":       func(r *Request) { r.Place = broken{Place: y.place, list: errors.New("unreachable")} },
		"no database":   func(r *Request) { r.Database = database{errors.New("damaged")} },
		"no such index": func(r *Request) { r.Index = "sha256:nonsense" },
	} {
		req := y.req
		change(&req)
		if r, err := Judge(t.Context(), req); err == nil || r != nil {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := Judge(ctx, y.req); err == nil || r != nil {
		t.Errorf("cancelled: %+v, %v", r, err)
	}
	// Claims that cannot be read are seen, and not believed.
	req := y.req
	req.Place = broken{Place: y.place, read: errors.New("unreachable")}
	r, err := Judge(t.Context(), req)
	if err != nil || r.Verdict.Allowed || len(r.Rejected) != len(y.claims) {
		t.Errorf("%+v, %v", r, err)
	}
	// Without a database it is refused, and the rest is told all the same.
	req = y.req
	req.Database = nil
	if r, err := Judge(t.Context(), req); err != nil || !slices.Equal(refusing(r.Verdict), []string{policy.RuleVulnerabilities, policy.RuleVEX}) {
		t.Errorf("%v%s", err, told(r.Verdict))
	}
}

func TestSummary(t *testing.T) {
	y := newYard(t, corpus.Base())
	y.req.Zone, y.req.Repository = "", repository+"/candidate"
	y.full(evidence.Tests)
	r := y.judge()
	p, err := r.Summary("https://gate.example", "1.0")
	if err != nil || p.VerificationResult != summary.Failed || p.ResourceURI != "oci://"+repository || len(p.VerifiedLevels) != 0 || len(p.Reasons) == 0 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, change := range []func(v *policy.Verdict){
		func(v *policy.Verdict) { v.Zone = oci.Development },
		func(v *policy.Verdict) { v.Repository = "" },
	} {
		c := *r
		change(&c.Verdict)
		if _, err := c.Summary("", ""); !errors.Is(err, ErrNoSummary) {
			t.Errorf("%v", err)
		}
	}
	// Whatever a verdict claims, a development repository has no passed summary.
	c := *r
	c.Verdict.Allowed, c.Verdict.Repository = true, repository+"/dev"
	if p, err := c.Summary("", ""); err != nil || p.VerificationResult != summary.Failed {
		t.Errorf("%+v, %v", p, err)
	}

	// An index passes when all of its images do.
	good := &Report{Verdict: policy.Verdict{Allowed: true, Zone: oci.Production, Repository: repository, Time: now, Policy: policy.Default().Digest(), Levels: []string{"A", "B"}}, Inputs: []oci.Digest{digest.FromString("2")}}
	less := &Report{Verdict: good.Verdict, Inputs: []oci.Digest{digest.FromString("1"), digest.FromString("2")}}
	less.Verdict.Levels = []string{"B"}
	index := digest.FromString("index")
	if j := Join(index, []*Report{good, less}); !j.Verdict.Allowed || !slices.Equal(j.Verdict.Levels, []string{"B"}) || len(j.Inputs) != 2 || j.Verdict.Image != index {
		t.Errorf("%+v", j)
	}
	other := *good
	other.Verdict.Repository = "registry.example/else"
	for name, list := range map[string][]*Report{"none": nil, "one refused": {good, r}, "one of development": {good, {Verdict: policy.Verdict{Allowed: true, Zone: oci.Development}}}, "another repository": {good, &other}} {
		if Join(index, list).Verdict.Allowed {
			t.Errorf("%s: allowed", name)
		}
	}
}

func TestFormats(t *testing.T) {
	s := corpus.With(corpus.File{Name: "app/main.js.map", Body: []byte(`{"version":3}`)}, corpus.File{Name: "bin/sh", Mode: 0o755, Body: corpus.Program()})
	y := newYard(t, s)
	y.full(evidence.Signature)
	p, err := policy.Read("p", []byte("version: 1\nwaivers: [{rule: source-map, subject: /app*, reason: public, owner: web, expires: 2027-01-01}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	y.req.Policy = p
	all := []Judged{{Name: "x <&> \"y\"", Report: y.judge()}}

	var b bytes.Buffer
	if err := WriteSARIF(&b, all); err != nil {
		t.Fatal(err)
	}
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID       string
				RuleIndex    int
				Level        string
				Suppressions []any
				Locations    []struct {
					PhysicalLocation struct{ ArtifactLocation struct{ URI string } }
				}
			}
		}
	}
	if err := json.Unmarshal(b.Bytes(), &log); err != nil || log.Version != "2.1.0" || len(log.Runs) != 1 {
		t.Fatalf("%v\n%s", err, b.String())
	}
	levels := map[string]string{}
	for _, r := range log.Runs[0].Results {
		if log.Runs[0].Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID {
			t.Errorf("result of %s has the index of another rule", r.RuleID)
		}
		if len(r.Locations) != 1 || r.Locations[0].PhysicalLocation.ArtifactLocation.URI == "" {
			t.Errorf("%+v has no place", r)
		}
		levels[r.RuleID] = r.Level
		if (r.RuleID == inspect.RuleSourceMap) != (len(r.Suppressions) == 1) {
			t.Errorf("suppressions: %+v", r)
		}
	}
	if levels["shell"] != "error" || levels["signature"] != "error" || levels["source-map"] == "" {
		t.Errorf("%v", levels)
	}

	b.Reset()
	if err := WriteJUnit(&b, all); err != nil {
		t.Fatal(err)
	}
	var suites struct {
		Suites []struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Cases    []struct {
				Name    string    `xml:"name,attr"`
				Failure *struct{} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &suites); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	one := suites.Suites[0]
	if one.Tests != len(one.Cases) || one.Tests != len(all[0].Report.Verdict.Rules) || one.Failures < 2 {
		t.Errorf("%+v", one)
	}
	d := Document(all)
	if d.Allowed || len(d.Images) != 1 || Document(nil).Allowed {
		t.Errorf("%+v", d)
	}
}

// FuzzJudgeClaim puts any bytes beside an image as a signature.
// TestScanOfAnother: a complete scan stands in for a database, one of an image
// with other packages does not, although it is signed for this one.
func TestScanOfAnother(t *testing.T) {
	for packages, want := range map[int]bool{0: true, 3: false} { // the image has none
		y := newYard(t, corpus.Base())
		y.full()
		y.req.Database = nil
		p := must(vuln.Make(vuln.Result{Database: vuln.Status{Digest: digest.FromString("db"), Imported: now.Add(-time.Hour)}, Scanned: now.Add(-time.Hour), Complete: true,
			Ecosystems: []vuln.Answer{{Ecosystem: "npm", Packages: packages, Answered: true, Newest: now.Add(-time.Hour)}}}, "1", now))
		y.attach(y.sign(y.key, y.image.Digest, evidence.TypeVulns, p), evidence.TypeVulns)
		if r := y.judge(); r.Verdict.Allowed != want {
			t.Errorf("%d packages: allowed %v%s", packages, r.Verdict.Allowed, told(r.Verdict))
		}
	}
}

// TestNotesDoNotRefuse: a rule that refuses and has notes only says why.
func TestNotesDoNotRefuse(t *testing.T) {
	y := newYard(t, corpus.Base())
	r := y.judge()
	r.Verdict.Allowed = false
	r.Verdict.Rules = []policy.Result{{Rule: inspect.RuleSourceMap, Outcome: policy.CannotTell, Because: "not every byte was read", Reasons: []policy.Reason{{Outcome: policy.Noted, Message: "of a dependency"}}}}
	var b bytes.Buffer
	if err := WriteSARIF(&b, []Judged{{"app", r}}); err != nil || !strings.Contains(b.String(), `"level": "error"`) || !strings.Contains(b.String(), "not every byte was read") {
		t.Errorf("%v", err)
	}
	s, err := r.Summary("", "1")
	if err != nil || len(s.Reasons) != 1 || !strings.Contains(s.Reasons[0], "not every byte") {
		t.Errorf("%q, %v", s.Reasons, err)
	}
}

func FuzzJudgeClaim(f *testing.F) {
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{}},"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AA=="}]}}`))
	f.Add([]byte(`{}`))
	k, err := trust.Generate(trust.Ed25519)
	if err != nil {
		f.Fatal(err)
	}
	p, err := trust.KeyPolicy(k.PublicKey())
	if err != nil {
		f.Fatal(err)
	}
	subject := digest.FromString("image")
	f.Fuzz(func(t *testing.T, bundle []byte) {
		if o, err := trust.Open(bundle, subject, p, repository, now); err == nil || o.Valid() {
			t.Fatalf("opened without a signature: %q", bundle)
		}
	})
}
