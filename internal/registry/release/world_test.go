package release

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/origin"
	"twinhull.dev/twinhull/internal/evidence/provenance"
	"twinhull.dev/twinhull/internal/evidence/testresult"
	"twinhull.dev/twinhull/internal/evidence/vuln"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/store/memory"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

const (
	host = "registry.example"
	app  = "shop/app"
)

var (
	ann = audit.Actor{Name: "ann", Method: "password"}
	bot = audit.Actor{Name: "ci", Method: "token"}
)

// database knows one vulnerability of every package that is called "holey".
type database struct{}

func (database) Match(_ context.Context, packages []inspect.Package, _ inspect.OSRelease, opt vuln.MatchOptions) (vuln.Result, error) {
	res := vuln.Result{Complete: true, Ecosystems: []vuln.Answer{{Ecosystem: "npm", Packages: len(packages), Answered: true, Newest: opt.Now.Add(-time.Hour)}}}
	for _, p := range packages {
		if p.Name == "holey" {
			res.Findings = append(res.Findings, vuln.Finding{ID: "CVE-2026-0001", Package: p.Name, Version: p.Version, PURL: p.PURL, Severity: vuln.Severity{Level: vuln.LevelLow, Score: 2}})
		}
	}
	return res, nil
}

// world is a server without its HTTP: a registry in memory, a log in a folder,
// whom the server believes, and the service.
type world struct {
	t        testing.TB
	registry *registry.Registry
	log      *audit.Log
	dir      string     // of the log
	key      *trust.Key // of the builder
	server   *trust.Key
	ops      []*trust.Key // who may sign orders
	s        *Service
	mu       sync.Mutex
	during   func() // called once when rules are read: while a candidate is judged
}

func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), key: newKey(t), server: newKey(t), ops: []*trust.Key{newKey(t), newKey(t)}}
	var err error
	if w.log, err = audit.Open(w.dir, audit.Options{Installation: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.log.Close() })
	if w.registry, err = registry.New(t.Context(), memory.New(), registry.Options{Log: w.log}); err != nil {
		t.Fatal(err)
	}
	believed := w.trust()
	c := Config{Registry: w.registry, Log: w.log, Signer: w.server, Host: host, Checkpoint: w.log.Checkpoint, Entries: EntriesOf(w.log), Version: "test",
		Rules: func(context.Context) (Rules, error) {
			w.mu.Lock()
			f := w.during
			w.during = nil
			w.mu.Unlock()
			if f != nil {
				f()
			}
			return Rules{Trust: believed, Database: database{}, DatabaseDigest: digest.FromString("database")}, nil
		}}
	for _, f := range change {
		f(&c)
	}
	if w.s, err = New(c); err != nil {
		t.Fatal(err)
	}
	return w
}

func newKey(t testing.TB) *trust.Key {
	t.Helper()
	k, err := trust.Generate(trust.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// trust believes the builder about images, and two people about orders.
func (w *world) trust() *trust.Policy {
	w.t.Helper()
	keys := map[string]*trust.Key{"build.pub": w.key, "one.pub": w.ops[0], "two.pub": w.ops[1]}
	p, err := trust.ReadPolicy("trust.yaml", []byte(`version: 1
identities:
  builder: {key: build.pub}
  one: {key: one.pub}
  two: {key: two.pub}
  again: {key: one.pub}
rules:
  - {identities: [builder], claims: [signature, sbom, provenance, tests, origins, vex], repositories: ["`+host+`/**", "127.0.0.1:*/**"]}
  - {identities: [one, two], claims: ["`+TypeRollBack+`", "`+TypeErase+`"], repositories: ["`+host+`/shop/*"]}
`), func(name string) ([]byte, error) { return trust.PublicPEM(keys[name].PublicKey()) })
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// yard is a layout with an image and what is signed about it.
type yard struct {
	w     *world
	store *oci.Layout
	place referrers.Place
	image oci.Descriptor
	facts *inspect.Facts
}

func (w *world) build(spec corpus.Spec) *yard {
	w.t.Helper()
	y := &yard{w: w}
	var err error
	if y.store, err = corpus.Write(w.t.TempDir(), spec); err != nil {
		w.t.Fatal(err)
	}
	if y.image, err = y.store.Tag(corpus.Tag); err != nil {
		w.t.Fatal(err)
	}
	img, err := image.OpenDescriptor(y.store, y.image, image.OpenOptions{Platform: oci.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer img.Close()
	y.place = referrers.InLayout(y.store)
	if y.facts, err = inspect.Inspect(w.t.Context(), img, inspect.Options{Tree: true}); err != nil {
		w.t.Fatal(err)
	}
	return y
}

func (y *yard) claim(k trust.Signer, predicateType string, predicate any) oci.Descriptor {
	y.w.t.Helper()
	s, err := evidence.New("app", y.image.Digest, predicateType, predicate)
	if err != nil {
		y.w.t.Fatal(err)
	}
	b, err := trust.Sign(y.w.t.Context(), s, k)
	if err != nil {
		y.w.t.Fatal(err)
	}
	d, err := referrers.Attach(y.w.t.Context(), y.place, y.image, b, predicateType, time.Now())
	if err != nil {
		y.w.t.Fatal(err)
	}
	return d
}

const bill = `{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"app","packages":[{"SPDXID":"SPDXRef-a","name":"something","versionInfo":"1","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:npm/something@1"}]}]}`

// sign makes every claim that the default policy wants, but those left out.
func (y *yard) sign(without ...evidence.Kind) *yard {
	y.w.t.Helper()
	names := map[byte]string{'0': "file", '5': "folder", '2': "symlink", '1': "hardlink"}
	now := time.Now()
	o := build.Origins{Version: 1, Image: y.image.Digest, Name: "app", Zone: oci.Production, Platform: y.facts.Platform, AsOf: now.Add(-time.Hour), Project: digest.FromString("p"), Lock: digest.FromString("l")}
	for _, f := range y.facts.Tree {
		o.Paths = append(o.Paths, build.PathOrigin{Path: f.Path, Type: names[f.Type], Mode: fmt.Sprintf("%o", f.Mode), Size: f.Size, Link: f.Link, SHA256: f.SHA256,
			Origin: filetree.Origin{Kind: filetree.FromArtifact, Name: "build:dist", Digest: digest.FromString("step")}})
	}
	raw, err := json.Marshal(o)
	if err != nil {
		y.w.t.Fatal(err)
	}
	var bom struct {
		SPDXVersion string `json:"spdxVersion"`
		ID          string `json:"SPDXID"`
		Name        string `json:"name"`
		Packages    []any  `json:"packages"`
	}
	if err := json.Unmarshal([]byte(bill), &bom); err != nil {
		y.w.t.Fatal(err)
	}
	for i, p := range y.facts.Packages {
		bom.Packages = append(bom.Packages, map[string]any{"SPDXID": fmt.Sprintf("SPDXRef-p%d", i), "name": p.Name, "versionInfo": p.Version,
			"externalRefs": []any{map[string]string{"referenceType": "purl", "referenceLocator": p.PURL}}})
	}
	for _, c := range []struct {
		kind evidence.Kind
		typ  string
		p    any
	}{
		{evidence.Signature, evidence.TypeSignature, struct{}{}},
		{evidence.Provenance, evidence.TypeProvenance, provenance.Predicate{
			BuildDefinition: provenance.BuildDefinition{BuildType: provenance.BuildType, ExternalParameters: provenance.External{Zone: oci.Production},
				ResolvedDependencies: []evidence.Resource{{Name: "twinhull.lock", Digest: evidence.DigestSet(digest.FromString("l"))}}},
			RunDetails: provenance.RunDetails{Builder: provenance.Builder{ID: provenance.BuilderID}, Metadata: provenance.Metadata{Properties: provenance.Properties{Hermetic: true, Parameterless: true, DependenciesComplete: true}}},
		}},
		{evidence.SBOM, evidence.TypeSPDX, bom},
		{evidence.Tests, evidence.TypeTests, testresult.Predicate{Result: testresult.Passed, Configuration: []evidence.Resource{{Name: "junit.xml", Digest: evidence.DigestSet(digest.FromString("j"))}},
			Tests: &testresult.Tests{Tests: 3, Passed: 3}, Coverage: []testresult.Coverage{{Unit: "lines", Covered: 90, Total: 100}}}},
		{evidence.Origins, evidence.TypeReference, origin.Predicate(raw)},
	} {
		if slices.Contains(without, c.kind) {
			continue
		}
		if c.kind == evidence.Origins {
			if _, err := referrers.AttachDocument(y.w.t.Context(), y.place, y.image, referrers.Blob{MediaType: build.OriginsType, Data: raw}); err != nil {
				y.w.t.Fatal(err)
			}
		}
		y.claim(y.w.key, c.typ, c.p)
	}
	return y
}

// push puts the image, or another manifest of the layout, and what refers to the
// image into a repository of the registry.
func (y *yard) push(repository string, roots ...oci.Descriptor) {
	y.w.t.Helper()
	if len(roots) == 0 {
		roots = []oci.Descriptor{y.image}
	}
	list, err := y.place.List(y.w.t.Context(), y.image.Digest)
	if err != nil {
		y.w.t.Fatal(err)
	}
	for _, d := range append(roots, list...) {
		y.w.put(y.store, repository, d)
	}
}

// put puts a manifest with all it needs; parts before wholes.
func (w *world) put(from *oci.Layout, repository string, d oci.Descriptor) {
	w.t.Helper()
	ctx := w.t.Context()
	var manifests []oci.Descriptor
	err := from.Walk(d, func(d oci.Descriptor) error {
		if oci.IsManifest(d.MediaType) || oci.IsIndex(d.MediaType) {
			manifests = append(manifests, d)
			return nil
		}
		if _, err := w.registry.BlobSize(ctx, repository, d.Digest); err == nil {
			return nil
		}
		r, _, err := from.Blob(d.Digest)
		if err != nil {
			return err
		}
		defer r.Close()
		id, err := w.registry.StartUpload(ctx, repository, bot)
		if err != nil {
			return err
		}
		return w.registry.FinishUpload(ctx, id, registry.Finish{Repository: repository, Digest: d.Digest, Last: r, At: -1}, bot)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Reverse(manifests)
	for _, m := range manifests {
		raw, err := from.ReadBlob(m)
		if err == nil {
			_, err = w.registry.PutManifest(ctx, registry.Put{Repository: repository, Digest: m.Digest, MediaType: m.MediaType, Content: raw, Actor: bot})
		}
		if err != nil {
			w.t.Fatalf("%s in %s: %v", m.Digest, repository, err)
		}
	}
}

// candidate builds, signs and publishes an image.
func (w *world) candidate(spec corpus.Spec) *yard {
	w.t.Helper()
	y := w.build(spec).sign()
	y.push(app + "/candidate")
	return y
}

func (w *world) request(d oci.Digest, version string) Request {
	return Request{ID: NewID(), Repository: app, Digest: d, Version: version}
}

// release wants a release to succeed.
func (w *world) release(d oci.Digest, version string) *Answer {
	w.t.Helper()
	a, err := w.s.Release(w.t.Context(), w.request(d, version), ann)
	if err != nil {
		w.t.Fatalf("%v%s", err, told(err))
	}
	return a
}

// refused wants a Problem with all these reasons.
func (w *world) refused(err error, reasons ...registry.Reason) *Problem {
	w.t.Helper()
	if err == nil {
		w.t.Fatalf("not refused; want %q", reasons)
	}
	p := ProblemOf(err)
	var have []registry.Reason
	for _, r := range p.Reasons {
		have = append(have, r.Reason)
		if r.Message == "" {
			w.t.Errorf("reason %s says nothing", r.Reason)
		}
	}
	slices.Sort(have)
	slices.Sort(reasons)
	if !slices.Equal(have, reasons) {
		w.t.Errorf("refused for %q, want %q: %v", have, reasons, err)
	}
	if !p.Refuses() {
		w.t.Errorf("status %d is no refusal: %v", p.Status, err)
	}
	return p
}

func told(err error) string {
	p := ProblemOf(err)
	if p.Verdict == nil {
		return ""
	}
	var b strings.Builder
	for _, i := range p.Verdict.Images {
		for _, r := range i.Verdict.Rules {
			if r.Outcome.Refuses() {
				fmt.Fprintf(&b, "\n%s %s", r.Rule, r.Because)
				for _, x := range r.Reasons {
					b.WriteString("\n  " + x.Message)
				}
			}
		}
	}
	return b.String()
}

func refusing(r *gate.Results) (rules []string) {
	for _, i := range r.Images {
		for _, x := range i.Verdict.Rules {
			if x.Outcome.Refuses() && !slices.Contains(rules, x.Rule) {
				rules = append(rules, x.Rule)
			}
		}
	}
	return rules
}

// entries reads the whole log.
func (w *world) entries() (out []audit.Entry) {
	w.t.Helper()
	if err := EntriesOf(w.log)(w.t.Context(), 0, func(_ uint64, e audit.Entry) error { out = append(out, e); return nil }); err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) versions() (out []string) {
	w.t.Helper()
	all, err := w.registry.Versions(w.t.Context(), app)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range all {
		out = append(out, v.Version)
	}
	return out
}

func (w *world) tag(name string) oci.Digest {
	w.t.Helper()
	m, err := w.registry.Manifest(w.t.Context(), app, name)
	if unknown(err) {
		return ""
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return m.Digest
}

// handler is the service's interface where everybody may do everything that he
// names in a header.
func (w *world) handler() *httptest.Server {
	h := httptest.NewServer(Handler(w.s, func(r *http.Request, verb, repository string) (audit.Actor, error) {
		user, _, ok := r.BasicAuth()
		if !ok {
			return audit.Actor{}, &registry.Error{Code: registry.Unauthorized, Message: "sign in"}
		}
		if user != "root" && user != verb {
			return audit.Actor{}, &registry.Error{Code: registry.Denied, Message: user + " may not " + verb + " " + repository}
		}
		return audit.Actor{Name: user, Method: "password"}, nil
	}, `Basic realm="twinhull"`))
	w.t.Cleanup(h.Close)
	return h
}

func another(n int) corpus.Spec {
	return corpus.With(corpus.File{Name: fmt.Sprintf("app/data%d", n), Body: bytes.Repeat([]byte("x"), n+1)})
}
