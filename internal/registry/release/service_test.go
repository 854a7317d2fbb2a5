package release

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// summaries opens what the server signed about a digest of production.
func (w *world) summaries(subject oci.Digest) (out []summary.Predicate) {
	w.t.Helper()
	p, err := trust.KeyPolicy(w.server.PublicKey())
	if err != nil {
		w.t.Fatal(err)
	}
	found, err := referrers.Claims(w.t.Context(), &place{content: content{w.t.Context(), w.registry, app}, seen: map[oci.Digest][]oci.Digest{}}, subject)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range found {
		o, err := trust.Open(f.Bundle, subject, p, host+"/"+app, time.Now())
		if err != nil || o.Kind() != evidence.Summary {
			continue
		}
		s, err := summary.Parse(o.Predicate())
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func TestRelease(t *testing.T) {
	w := newWorld(t)
	y := w.candidate(corpus.Base())
	a := w.release(y.image.Digest, "1.4.2")
	if a.Repeated || a.Entry == nil || a.Repository != host+"/"+app || a.Version != "1.4.2" || len(a.Summaries) != 1 {
		t.Errorf("%+v", a)
	}
	for _, tag := range []string{"1.4.2", "1.4", "1", "latest"} {
		if w.tag(tag) != y.image.Digest {
			t.Errorf("%s points to %q", tag, w.tag(tag))
		}
	}
	// The summary is what whoever admits images asks for.
	all := w.summaries(y.image.Digest)
	if len(all) != 1 {
		t.Fatalf("%d summaries", len(all))
	}
	s := all[0]
	if no := s.Accepts(summary.Wanted{Verifiers: []string{summary.VerifierID}, Repository: host + "/" + app, Policies: []oci.Digest{policy.Default().Digest()}, MaxAge: time.Hour, Now: time.Now()}); len(no) > 0 {
		t.Errorf("not accepted: %q", no)
	}
	if s.Accepts(summary.Wanted{Verifiers: []string{summary.VerifierID}, Repository: host + "/" + app + "/dev", Now: time.Now()}) == nil {
		t.Error("accepted for development")
	}
	if len(s.InputAttestations) != 5 {
		t.Errorf("%d inputs", len(s.InputAttestations))
	}
	// It anchors the log: a log that is cut below it is found out.
	if s.Log == nil {
		t.Fatal("no checkpoint in the summary")
	}
	if _, err := w.log.Await(t.Context(), *a.Entry); err != nil {
		t.Fatal(err)
	}
	believed, err := audit.NewTrust(w.log.Keys(), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := audit.Verify(t.Context(), audit.Dir(w.dir), believed, audit.VerifyOptions{Anchors: []audit.Anchor{{Name: "summary", Raw: []byte(s.Log.Checkpoint)}}})
	if err != nil || len(rep.Problems) > 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	e := w.entries()[*a.Entry]
	if e.Action != audit.Release || e.Actor != ann || e.Verdict != audit.Allowed || e.Object.Digest != y.image.Digest || e.Object.Tag != "1.4.2" || len(e.Claims) != 5 ||
		e.Summary != a.Summaries[0] || e.Policy != policy.Default().Digest() || e.Trust == "" || e.Database == "" || e.Detail["notes"] == "" || e.Detail["checkpoint"] != string(digest.FromString(s.Log.Checkpoint)) {
		t.Errorf("%+v", e)
	}
	if len(e.Moves) != 4 || !slices.Contains(e.Digests, y.image.Digest) {
		t.Errorf("%+v", e)
	}
	// All referrers of the candidate came along, with what the server added: a
	// summary, an inspection, notes.
	before, _, err := w.registry.Referrers(t.Context(), app+"/candidate", y.image.Digest, "", registry.Page{})
	if err != nil {
		t.Fatal(err)
	}
	after, _, err := w.registry.Referrers(t.Context(), app, y.image.Digest, "", registry.Page{})
	if err != nil || len(after) != len(before)+3 {
		t.Errorf("%d referrers of the candidate, %d of the version, %v", len(before), len(after), err)
	}
	notes := slices.IndexFunc(after, func(d oci.Descriptor) bool { return d.ArtifactType == NotesType })
	if notes < 0 || !strings.Contains(a.Notes, "# registry.example/shop/app 1.4.2") || !strings.Contains(a.Notes, "The first release of its line.") {
		t.Errorf("notes: %s", a.Notes)
	}
}

// TestReleaseIndex releases an index: every image and the index itself get a
// summary.
func TestReleaseIndex(t *testing.T) {
	w := newWorld(t)
	y := w.build(corpus.Base()).sign()
	index := y.index(`{}`, map[string]string{oci.ZoneKey: string(oci.Production)})
	y.push(app+"/candidate", index)
	a := w.release(index.Digest, "2.0.0")
	if len(a.Summaries) != 2 || w.tag("2.0.0") != index.Digest {
		t.Errorf("%+v", a)
	}
	for _, d := range []oci.Digest{index.Digest, y.image.Digest} {
		if all := w.summaries(d); len(all) != 1 || all[0].VerificationResult != summary.Passed {
			t.Errorf("%s: %+v", d, all)
		}
	}
	// An index that says another zone than its image is refused.
	liar := y.index(`{}`, map[string]string{oci.ZoneKey: string(oci.Development)})
	raw, err := y.store.ReadBlob(liar)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.registry.PutManifest(t.Context(), registry.Put{Repository: app + "/candidate", Digest: liar.Digest, MediaType: liar.MediaType, Content: raw, Actor: bot})
	if err == nil {
		_, err = w.s.Release(t.Context(), w.request(liar.Digest, "2.0.1"), ann)
		w.refused(err, RefusedByGate)
	}
}

// index makes an index of the yard's image.
func (y *yard) index(_ string, annotations map[string]string) oci.Descriptor {
	y.w.t.Helper()
	d := y.image
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	raw, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []oci.Descriptor{d}, Annotations: annotations})
	if err != nil {
		y.w.t.Fatal(err)
	}
	out, err := y.store.PutBytes(ocispec.MediaTypeImageIndex, raw)
	if err != nil {
		y.w.t.Fatal(err)
	}
	return out
}

// TestRefusals: each reason, and all of them at once.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	good := w.candidate(corpus.Base())
	w.release(good.image.Digest, "1.0.0")
	size := len(w.entries())
	logged := func(p *Problem, n int) {
		t.Helper()
		all := w.entries()
		if p.Entry == nil || len(all) != size+1 {
			t.Fatalf("the refusal is not in the log: %+v, %d entries more", p, len(all)-size)
		}
		size = len(all)
		e := all[*p.Entry]
		if e.Action != audit.Release || e.Verdict != audit.Refused || e.Actor != ann || len(e.Reasons) < n {
			t.Errorf("%+v", e)
		}
	}
	ask := func(d oci.Digest, version string) error {
		_, err := w.s.Release(t.Context(), w.request(d, version), ann)
		return err
	}

	t.Run("development digest", func(t *testing.T) {
		dev := corpus.With(corpus.File{Name: "bin/sh", Mode: 0o755, Body: corpus.Program()})
		dev.Config.Labels = map[string]string{oci.ZoneKey: string(oci.Development)}
		dev.Annotations = map[string]string{oci.ZoneKey: string(oci.Development)}
		y := w.build(dev).sign()
		y.push(app + "/dev")
		p := w.refused(ask(y.image.Digest, "1.0.0"), NotACandidate, registry.VersionExists, RefusedByGate)
		if rules := refusing(p.Verdict); !slices.Contains(rules, policy.RuleZone) || !slices.Contains(rules, "shell") {
			t.Errorf("refused by %q", rules)
		}
		logged(p, 5)
	})
	t.Run("nowhere", func(t *testing.T) {
		p := w.refused(ask(digest.FromString("nothing"), "1.0.1"), NotACandidate)
		if p.Status != 404 {
			t.Errorf("status %d", p.Status)
		}
		logged(p, 1)
	})
	t.Run("version exists", func(t *testing.T) {
		y := w.candidate(another(1))
		p := w.refused(ask(y.image.Digest, "1.0.0"), registry.VersionExists)
		if p.Status != 409 || !p.Verdict.Allowed {
			t.Errorf("%+v", p)
		}
		logged(p, 1)
	})
	for _, kind := range []evidence.Kind{evidence.Signature, evidence.Provenance, evidence.SBOM, evidence.Tests, evidence.Origins} {
		t.Run("without "+string(kind), func(t *testing.T) {
			y := w.build(another(10 + len(kind))).sign(kind)
			y.push(app + "/candidate")
			logged(w.refused(ask(y.image.Digest, "1.0.1"), RefusedByGate), 1)
		})
	}
	t.Run("foreign claims", func(t *testing.T) {
		y := w.build(another(2)).sign(evidence.Signature)
		y.claim(newKey(t), evidence.TypeSignature, struct{}{})
		y.push(app + "/candidate")
		p := w.refused(ask(y.image.Digest, "1.0.1"), RefusedByGate)
		if n := len(p.Verdict.Images[0].Rejected); n != 1 || !slices.Contains(refusing(p.Verdict), policy.RuleSignature) {
			t.Errorf("%d not believed; refused by %q", n, refusing(p.Verdict))
		}
		logged(p, 1)
	})
	t.Run("without zone marks", func(t *testing.T) {
		// The registry takes no image without marks as a candidate; were it there
		// all the same, the gate refuses it.
		s := another(3)
		s.Annotations, s.Config.Labels = nil, nil
		y := w.build(s).sign()
		y.push(app + "/dev/x")
		w.s.c.Registry = elsewhere{w.registry, app + "/candidate", app + "/dev/x"}
		defer func() { w.s.c.Registry = w.registry }()
		p := w.refused(ask(y.image.Digest, "1.0.1"), RefusedByGate)
		if rules := refusing(p.Verdict); !slices.Contains(rules, policy.RuleZone) {
			t.Errorf("refused by %q", rules)
		}
		logged(p, 1)
	})
	t.Run("claim came while it was judged", func(t *testing.T) {
		y := w.candidate(another(4))
		// A failing test result, which the gate did not see.
		late := y.claim(w.key, evidence.TypeTests, struct {
			Result string `json:"result"`
		}{"FAILED"})
		w.mu.Lock()
		w.during = nil
		w.mu.Unlock()
		w.s.c.Registry = &hooked{Registry: w.registry, before: func() { w.put(y.store, app+"/candidate", late) }}
		defer func() { w.s.c.Registry = w.registry }()
		p := w.refused(ask(y.image.Digest, "1.0.1"), registry.CandidateChanged)
		if p.Status != 409 {
			t.Errorf("status %d", p.Status)
		}
	})
	if got := w.versions(); !slices.Equal(got, []string{"1.0.0"}) {
		t.Errorf("versions: %q", got)
	}
	for _, bad := range []Request{
		{Repository: app + "/dev", Digest: good.image.Digest, Version: "1.0.1"},
		{Repository: app + "/candidate", Digest: good.image.Digest, Version: "1.0.1"},
		{Repository: "Shop", Digest: good.image.Digest, Version: "1.0.1"},
		{Repository: app, Digest: "sha256:12", Version: "1.0.1"},
		{Repository: app, Digest: good.image.Digest, Version: "latest"},
		{Repository: app, Digest: good.image.Digest, Version: "v1.0.1"},
		{Repository: app, Digest: good.image.Digest, Version: "1.0.1", ID: "a b"},
	} {
		_, err := w.s.Release(t.Context(), bad, ann)
		if p := w.refused(err, BadRequest); p.Status != 400 {
			t.Errorf("%+v: status %d", bad, p.Status)
		}
	}
}

// elsewhere shows one repository under another's name.
type elsewhere struct {
	*registry.Registry
	name, real string
}

func (e elsewhere) of(name string) string {
	if name == e.name {
		return e.real
	}
	return name
}

func (e elsewhere) Manifest(ctx context.Context, repository, ref string) (registry.Manifest, error) {
	return e.Registry.Manifest(ctx, e.of(repository), ref)
}

func (e elsewhere) Blob(ctx context.Context, repository string, d oci.Digest) (*store.Blob, error) {
	return e.Registry.Blob(ctx, e.of(repository), d)
}

func (e elsewhere) Referrers(ctx context.Context, repository string, subject oci.Digest, t string, p registry.Page) ([]oci.Descriptor, bool, error) {
	return e.Registry.Referrers(ctx, e.of(repository), subject, t, p)
}

func (e elsewhere) Closure(ctx context.Context, repository string, d oci.Digest) (a, b []oci.Digest, err error) {
	return e.Registry.Closure(ctx, e.of(repository), d)
}

// hooked does something between the judgement and the order.
type hooked struct {
	Registry
	before func()
	after  error // of the first order, which was carried out
}

func (h *hooked) Release(ctx context.Context, o registry.ReleaseOrder) (registry.Released, error) {
	if h.before != nil {
		h.before()
	}
	out, err := h.Registry.Release(ctx, o)
	if h.after != nil && err == nil {
		out, err, h.after = registry.Released{}, h.after, nil
	}
	return out, err
}

// TestRepeated: a request whose answer was lost.
func TestRepeated(t *testing.T) {
	w := newWorld(t)
	y := w.candidate(corpus.Base())
	w.s.c.Registry = &hooked{Registry: w.registry, after: errors.New("the connection broke")}
	req := w.request(y.image.Digest, "1.0.0")
	if _, err := w.s.Release(t.Context(), req, ann); err == nil || ProblemOf(err).Refuses() {
		t.Fatalf("%v", err)
	}
	n := len(w.entries())
	a, err := w.s.Release(t.Context(), req, ann)
	if err != nil || !a.Repeated || a.Digest != y.image.Digest || a.Entry == nil || len(w.entries()) != n || len(w.summaries(y.image.Digest)) != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	// The same id for something else.
	req.Version = "1.0.1"
	_, err = w.s.Release(t.Context(), req, ann)
	w.refused(err, registry.RequestReused)

	// The same version and digest again, under another id, is no new release: it
	// brings what was signed since.
	late := y.claim(w.key, "https://example.test/note/v1", struct{}{})
	w.put(y.store, app+"/candidate", late)
	if a := w.release(y.image.Digest, "1.0.0"); !a.Again || len(a.Moves) != 0 {
		t.Errorf("%+v", a)
	}
	if got := w.versions(); !slices.Equal(got, []string{"1.0.0"}) {
		t.Errorf("versions: %q", got)
	}
	if _, err := w.registry.Manifest(t.Context(), app, string(late.Digest)); err != nil {
		t.Errorf("the late claim is not in production: %v", err)
	}
}

// TestTogether: many requests at once have one effect for each version.
func TestTogether(t *testing.T) {
	w := newWorld(t)
	y, z := w.candidate(corpus.Base()), w.candidate(another(1))
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[oci.Digest]int{}
	same := w.request(y.image.Digest, "2.0.0")
	repeated := 0
	for i := range 8 {
		wg.Go(func() {
			d := []oci.Digest{y.image.Digest, z.image.Digest}[i%2]
			_, err := w.s.Release(context.Background(), w.request(d, "1.0.0"), ann)
			a, serr := w.s.Release(context.Background(), same, ann)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won[d]++
			}
			if serr != nil {
				t.Error(serr)
			} else if a.Repeated {
				repeated++
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || repeated != 7 {
		t.Errorf("won: %v, repeated %d", won, repeated)
	}
	if got := w.versions(); !slices.Equal(got, []string{"1.0.0", "2.0.0"}) {
		t.Errorf("versions: %q", got)
	}
}

// TestDryRun changes nothing, and remembers what it read.
func TestDryRun(t *testing.T) {
	w := newWorld(t)
	y := w.candidate(corpus.Base())
	req := w.request(y.image.Digest, "1.0.0")
	req.DryRun = true
	n := len(w.entries())
	a, err := w.s.Release(t.Context(), req, ann)
	if err != nil || !a.DryRun || a.Entry != nil || len(w.entries()) != n || len(w.versions()) != 0 {
		t.Errorf("%+v, %v", a, err)
	}
	if len(w.s.known.list) != 1 {
		t.Errorf("%d images are remembered", len(w.s.known.list))
	}
	bad := w.build(another(1))
	bad.push(app + "/candidate")
	req.Digest = bad.image.Digest
	_, err = w.s.Release(t.Context(), req, ann)
	if p := w.refused(err, RefusedByGate); p.Entry != nil || len(w.entries()) != n {
		t.Error("a dry run is in the audit log")
	}
	res, err := w.s.Judge(t.Context(), JudgeRequest{Repository: app + "/candidate", Digest: y.image.Digest})
	if err != nil || !res.Allowed {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestUndecided: what the server needs is not there, which is no verdict.
func TestUndecided(t *testing.T) {
	w := newWorld(t)
	y := w.candidate(corpus.Base())
	rules := w.s.c.Rules
	w.s.c.Rules = func(context.Context) (Rules, error) { return Rules{}, errors.New("the disk is gone") }
	_, err := w.s.Release(t.Context(), w.request(y.image.Digest, "1.0.0"), ann)
	p := ProblemOf(err)
	if p.Refuses() || p.Code != registry.Unavailable || strings.Contains(p.Message, "disk") {
		t.Errorf("%+v", p)
	}
	w.s.c.Rules = func(ctx context.Context) (Rules, error) {
		r, err := rules(ctx)
		r.Database = nil
		return r, err
	}
	// Without a database the gate refuses: nobody knows what the image has.
	_, err = w.s.Release(t.Context(), w.request(y.image.Digest, "1.0.0"), ann)
	w.refused(err, RefusedByGate)
	if len(w.versions()) != 0 {
		t.Error("released")
	}
}

func TestNotes(t *testing.T) {
	pkg := func(name, version string) corpus.File {
		return corpus.File{Name: "app/node_modules/" + name + "/package.json", Body: []byte(`{"name":"` + name + `","version":"` + version + `","license":"MIT"}`)}
	}
	spec := func(files ...corpus.File) corpus.Spec {
		s := corpus.With(append([]corpus.File{corpus.Dir("app/node_modules")}, files...)...)
		return s
	}
	w := newWorld(t)
	old := w.candidate(spec(pkg("holey", "1.0.0"), pkg("left", "1.1.0"), pkg("both", "2.0.0")))
	w.release(old.image.Digest, "1.0.0")
	s := spec(pkg("both", "2.1.0"), pkg("new|er`", "3.0.0"))
	s.Config.Env = append(s.Config.Env, "MODE=fast")
	next := w.candidate(s)
	a := w.release(next.image.Digest, "1.1.0")
	for _, want := range []string{"Compared with 1.0.0", "| npm both | 2.0.0 | 2.1.0 |", "| npm left | 1.1.0 |  |", "| env MODE |  | fast |", "fixed: CVE-2026-0001 in holey 1.0.0 (low)", "1 fixed, 0 new, 0 in both"} {
		if !strings.Contains(a.Notes, want) {
			t.Errorf("the notes lack %q", want)
		}
	}
	if t.Failed() {
		t.Log(a.Notes)
	}
	// A patch of the old line is compared with that, not with the newest.
	patch := w.candidate(spec(pkg("holey", "1.0.1")))
	if a := w.release(patch.image.Digest, "1.0.1"); !strings.Contains(a.Notes, "Compared with 1.0.0") || !strings.Contains(a.Notes, "0 fixed, 0 new, 1 in both") {
		t.Error(a.Notes)
	}
	if w.tag("latest") != next.image.Digest || w.tag("1.0") != patch.image.Digest {
		t.Error("the tags")
	}
	if got := text("a|b`c\n# d"); got != "a\\|b\\`c\uFFFD\\# d" {
		t.Errorf("%q", got)
	}
}

// TestKnownFacts: images are read once, and not more are remembered than allowed.
func TestKnownFacts(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.KnownPaths = 40 })
	for i := range 4 {
		y := w.candidate(another(i))
		if _, err := w.s.Judge(t.Context(), JudgeRequest{Repository: app, Digest: y.image.Digest}); err != nil {
			t.Fatal(err)
		}
	}
	if k := &w.s.known; k.paths > 40 || len(k.list) == 0 || len(k.reading) != 0 {
		t.Errorf("%d paths of %d images, %d being read", k.paths, len(k.list), len(k.reading))
	}
}
