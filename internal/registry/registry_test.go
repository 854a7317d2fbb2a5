package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

const (
	production = "shop/app"
	candidate  = "shop/app/candidate"
	devel      = "shop/app/dev"
	day        = 24 * time.Hour
)

var prod = picture{zone: "production", layers: []string{"base", "app"}}

// TestProductionIsWrittenByReleasesOnly: every other door refuses, with a reason
// that a program can read, and the audit log knows.
func TestProductionIsWrittenByReleasesOnly(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	d := must[oci.Descriptor](t)(w.image(candidate, prod))
	must[Released](t)(w.release(production, d.Digest, "1.0.0"))
	content := must[Manifest](t)(w.r.Manifest(ctx, production, "1.0.0")).Content
	before := w.log.count(audit.RefuseWrite) + w.log.count(audit.RefuseDelete)
	putTag := func(tag string) error {
		_, err := w.r.PutManifest(ctx, Put{Repository: production, Tags: []string{tag}, MediaType: d.MediaType, Content: content, Actor: alice})
		return err
	}
	doors := []struct {
		name string
		err  error
		want Reason
	}{
		{"upload", func() error { _, err := w.r.StartUpload(ctx, production, alice); return err }(), ByReleaseOnly},
		{"mount", func() error { _, err := w.r.Mount(ctx, production, d.Digest, devel, alice); return err }(), ByReleaseOnly},
		{"manifest by digest", func() error {
			_, err := w.r.PutManifest(ctx, Put{Repository: production, Digest: d.Digest, MediaType: d.MediaType, Content: content, Actor: alice})
			return err
		}(), ByReleaseOnly},
		{"another version", putTag("1.0.1"), ByReleaseOnly},
		{"the same version", putTag("1.0.0"), ByReleaseOnly},
		{"latest", putTag("latest"), ComputedTag},
		{"1.0", putTag("1.0"), ComputedTag},
		{"any tag", putTag("nightly"), ByReleaseOnly},
		{"delete the version", w.r.DeleteTag(ctx, production, "1.0.0", alice), PermanentVersion},
		{"delete latest", w.r.DeleteTag(ctx, production, "latest", alice), PermanentVersion},
		{"delete the manifest", w.r.DeleteManifest(ctx, production, d.Digest, alice), PermanentVersion},
		{"delete a blob", w.r.DeleteBlob(ctx, production, d.Digest, alice), PermanentVersion},
		{"pin", w.r.Pin(ctx, production, "1.0.0", true, alice), RetentionClassFixed},
	}
	for _, x := range doors {
		if why(x.err) != x.want {
			t.Errorf("%s: %v, want %s", x.name, x.err, x.want)
		}
	}
	if n := w.log.count(audit.RefuseWrite) + w.log.count(audit.RefuseDelete) - before; n != len(doors)-1 {
		t.Errorf("%d refusals are in the log, want %d", n, len(doors)-1)
	}
	if e, ok := errors.AsType[*Error](doors[8].err); !ok || !e.Logged || w.log.entries[e.Entry].Object.Tag != "1.0.0" {
		t.Errorf("the refusal does not say where it is logged: %+v", e)
	}
	w.check()
}

func TestZones(t *testing.T) {
	for _, c := range []struct {
		name, repo string
		image      picture
		tags       []string
		want       Reason
	}{
		{"development", devel, picture{zone: "development"}, []string{"latest"}, ""},
		{"anybody's image", devel, picture{}, []string{"latest"}, ""},
		{"below development", devel + "/x", picture{}, []string{"a"}, ""},
		{"production in development", devel, prod, []string{"latest"}, WrongZone},
		{"production by label in development", devel, picture{label: "production"}, nil, WrongZone},
		{"candidate", candidate, prod, nil, ""},
		{"candidate with a tag", candidate, prod, []string{"1.0.0"}, CandidateByDigest},
		{"development as candidate", candidate, picture{zone: "development"}, nil, WrongZone},
		{"development by label as candidate", candidate, picture{zone: "production", label: "development"}, nil, WrongZone},
		{"no zone as candidate", candidate, picture{}, nil, WrongZone},
		{"label only as candidate", candidate, picture{label: "production"}, nil, WrongZone},
		{"a name that fits none", "dev", picture{zone: "development"}, []string{"latest"}, ByReleaseOnly},
		{"candidate below development", devel + "/candidate", picture{zone: "development"}, []string{"x"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := w.image(c.repo, c.image, c.tags...); why(err) != c.want || (c.want == "") != (err == nil) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			w.check()
		})
	}
}

func TestRelease(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	one := must[oci.Descriptor](t)(w.image(candidate, prod))
	claim := must[oci.Descriptor](t)(w.claim(candidate, one, "tested"))
	nested := must[oci.Descriptor](t)(w.claim(candidate, claim, "about the claim"))
	rel := must[Released](t)(w.release(production, one.Digest, "1.4.2"))
	if got := tagsOf(rel.Moves); !slices.Equal(got, []string{"1.4", "1", "latest"}) {
		t.Errorf("moved %v", got)
	}
	for _, ref := range []string{"1.4.2", "1.4", "1", "latest", string(one.Digest), string(claim.Digest), string(nested.Digest)} {
		if !w.has(production, ref) {
			t.Errorf("%s is not in production", ref)
		}
	}
	list, _, err := w.r.Referrers(ctx, production, one.Digest, "", Page{})
	if err != nil || len(list) != 2 { // the claim and the summary
		t.Errorf("%d referrers, %v", len(list), err)
	}

	two := must[oci.Descriptor](t)(w.image(candidate, picture{zone: "production", layers: []string{"two"}}))
	development := must[oci.Descriptor](t)(w.image(devel, picture{zone: "development"}, "latest"))
	if _, err := w.release(production, two.Digest, "1.4.2"); why(err) != VersionExists {
		t.Errorf("the same version again: %v", err)
	}
	if _, err := w.release(production, development.Digest, "2.0.0"); why(err) != WrongZone {
		t.Errorf("a development image: %v", err)
	}
	if _, err := w.release(production, one.Digest+"0", "2.0.0"); err == nil {
		t.Error("a digest that is none")
	}
	for _, bad := range []string{"1", "1.4", "v1.4.3", "latest", "1.4.3+build", "01.2.3", ""} {
		if _, err := w.release(production, two.Digest, bad); err == nil {
			t.Errorf("the version %q", bad)
		}
	}
	if _, err := w.release(devel, two.Digest, "2.0.0"); err == nil {
		t.Error("a release to development")
	}

	// Convenience tags never go backwards.
	for _, x := range []struct {
		version string
		moves   string
	}{{"1.3.9", "1.3"}, {"2.0.0-rc.1", ""}, {"1.4.3", "1.4 1 latest"}, {"0.9.0", "0.9 0"}, {"2.0.0", "2.0 2 latest"}, {"1.5.0", "1.5 1"}} {
		d := must[oci.Descriptor](t)(w.image(candidate, picture{zone: "production", layers: []string{x.version}}))
		rel := must[Released](t)(w.release(production, d.Digest, x.version))
		if got := strings.Join(tagsOf(rel.Moves), " "); got != x.moves {
			t.Errorf("%s moved %q, want %q", x.version, got, x.moves)
		}
	}
	all := must[[]Released](t)(w.r.Versions(ctx, production))
	var names []string
	for _, v := range all {
		names = append(names, v.Version)
	}
	if got := strings.Join(names, " "); got != "0.9.0 1.3.9 1.4.2 1.4.3 1.5.0 2.0.0-rc.1 2.0.0" {
		t.Errorf("versions: %s", got)
	}

	// The same digest again brings new claims and moves nothing.
	late := must[oci.Descriptor](t)(w.claim(candidate, one, "scanned again"))
	again := must[Released](t)(w.release(production, one.Digest, "1.4.2"))
	if !again.Again || len(again.Moves) > 0 || !w.has(production, string(late.Digest)) {
		t.Errorf("again: %+v", again)
	}
	w.check()
}

func TestReleaseIsRepeatable(t *testing.T) {
	w := newWorld(t)
	d := must[oci.Descriptor](t)(w.image(candidate, prod))
	o := ReleaseOrder{RequestID: "the-request", Repository: production, Digest: d.Digest, Version: "1.0.0", Entry: audit.Entry{Actor: alice}}
	first := must[Released](t)(w.r.Release(t.Context(), o))
	second := must[Released](t)(w.r.Release(t.Context(), o))
	if !second.Repeated || second.Entry != first.Entry || w.log.count(audit.Release) != 1 {
		t.Errorf("%+v, then %+v, %d entries", first, second, w.log.count(audit.Release))
	}
	o.Version = "1.0.1"
	if _, err := w.r.Release(t.Context(), o); why(err) != RequestReused {
		t.Errorf("another request with the same id: %v", err)
	}
	o.RequestID = "x"
	if _, err := w.r.Release(t.Context(), o); err == nil {
		t.Error("a request id of one letter")
	}
}

// TestAllReasonsAtOnce: whoever releases something with three faults is told three.
func TestAllReasonsAtOnce(t *testing.T) {
	w := newWorld(t)
	a := must[oci.Descriptor](t)(w.image(candidate, prod))
	b := must[oci.Descriptor](t)(w.image(candidate, picture{zone: "production", layers: []string{"b"}}))
	must[Released](t)(w.release(production, a.Digest, "1.0.0"))
	must[oci.Descriptor](t)(w.claim(candidate, b, "new"))
	_, err := w.r.Release(t.Context(), ReleaseOrder{RequestID: "all-reasons", Repository: production, Digest: b.Digest, Version: "1.0.0", Seen: []oci.Digest{}, Entry: audit.Entry{Actor: alice}})
	var got []Reason
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			got = append(got, why(e))
		}
	}
	if !slices.Equal(got, []Reason{VersionExists, CandidateChanged}) {
		t.Errorf("%v: %v", got, err)
	}
}

func TestRevokeRollBackErase(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	var ds []oci.Descriptor
	for _, v := range []string{"1.0.0", "1.1.0", "1.1.1"} {
		part := must[oci.Descriptor](t)(w.image(candidate, picture{zone: "production", layers: []string{"base", v}}))
		d := must[oci.Descriptor](t)(w.index(candidate, []oci.Descriptor{part}))
		must[Released](t)(w.release(production, d.Digest, v))
		ds = append(ds, d)
	}
	k, err := w.r.Revoke(ctx, RevokeOrder{RequestID: "revoke-it", Repository: production, Digest: ds[2].Digest, Reason: "CVE", Entry: audit.Entry{Actor: alice}})
	if err != nil || !slices.Equal(k.Versions, []string{"1.1.1"}) || !slices.Equal(k.Tags, []string{"1", "1.1", "latest"}) {
		t.Errorf("%+v, %v", k, err)
	}
	if !w.has(production, "1.1.1") {
		t.Error("a revoked version must stay")
	}
	part := must[[]oci.Digest](t)(func() ([]oci.Digest, error) {
		all, _, err := w.r.Closure(ctx, production, ds[2].Digest)
		return all, err
	}())
	for _, d := range part[:1] { // the image of the index
		if k, err := w.r.Revoked(ctx, production, d); err != nil || k == nil {
			t.Errorf("the image %s of a revoked index is not revoked: %v", d, err)
		}
	}
	if _, err := w.r.Revoke(ctx, RevokeOrder{RequestID: "revoke-again", Repository: production, Digest: ds[2].Digest, Reason: "CVE", Entry: audit.Entry{Actor: alice}}); why(err) != AlreadyRevoked {
		t.Errorf("revoked again: %v", err)
	}
	if _, err := w.release(production, ds[2].Digest, "1.1.2"); why(err) != AlreadyRevoked {
		t.Errorf("a revoked image released again: %v", err)
	}
	if _, err := w.r.RollBack(ctx, RollBackOrder{RequestID: "roll-back-0", Repository: production, Version: "1.1.1", Entry: audit.Entry{Actor: alice}}); why(err) != AlreadyRevoked {
		t.Errorf("a roll-back to a revoked version: %v", err)
	}
	rb := must[Released](t)(w.r.RollBack(ctx, RollBackOrder{RequestID: "roll-back-1", Repository: production, Version: "1.1.0", Reason: "1.1.1 is broken", Entry: audit.Entry{Actor: alice}}))
	if got := tagsOf(rb.Moves); !slices.Equal(got, []string{"1.1", "1", "latest"}) {
		t.Errorf("rolled back %v", got)
	}
	if tag := must[Tag](t)(w.r.TagOf(ctx, production, "latest")); tag.Digest != ds[1].Digest {
		t.Errorf("latest is %s", tag.Digest)
	}
	if _, err := w.r.RollBack(ctx, RollBackOrder{RequestID: "roll-back-2", Repository: production, Version: "1.0.0", Tags: []string{"1.1"}, Entry: audit.Entry{Actor: alice}}); err == nil {
		t.Error("1.1 was moved to 1.0.0")
	}
	w.check()

	before := w.contents()
	if _, err := w.r.Erase(ctx, EraseOrder{RequestID: "erase-it-1", Repository: production, Digest: ds[1].Digest, Reason: "court order", Keys: []string{"a", "a"}, Entry: audit.Entry{Actor: alice}}); why(err) != NeedsTwoKeys {
		t.Errorf("one key: %v", err)
	}
	if _, err := w.r.Erase(ctx, EraseOrder{RequestID: "erase-it-2", Repository: production, Digest: ds[1].Digest, Reason: "court order", Keys: []string{"a", "b"}, Entry: audit.Entry{Actor: alice}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.r.Manifest(ctx, production, "1.1.0"); why(err) != VersionErased {
		t.Errorf("the erased version: %v", err)
	}
	if _, err := w.release(production, ds[0].Digest, "1.1.0"); why(err) != VersionErased {
		t.Errorf("an erased number given again: %v", err)
	}
	if tag := must[Tag](t)(w.r.TagOf(ctx, production, "latest")); tag.Digest != ds[2].Digest {
		t.Errorf("latest is %s: the highest that is left is 1.1.1", tag.Digest)
	}
	w.check()
	// The candidate's copy goes with the candidate.
	w.pass(40 * day)
	w.collect()
	w.pass(2 * day)
	w.collect()
	if w.contents() >= before {
		t.Errorf("%d contents, %d before the erasure", w.contents(), before)
	}
	w.check()
}

// TestEraseLeavesOtherVersionsWhole: an image that is a version of its own stays
// when the index that has it too is erased.
func TestEraseLeavesOtherVersionsWhole(t *testing.T) {
	w := newWorld(t)
	part := must[oci.Descriptor](t)(w.image(candidate, prod))
	claim := must[oci.Descriptor](t)(w.claim(candidate, part, "tested"))
	other := must[oci.Descriptor](t)(w.image(candidate, picture{zone: "production", layers: []string{"base", "other"}}))
	index := must[oci.Descriptor](t)(w.index(candidate, []oci.Descriptor{part, other}))
	must[Released](t)(w.release(production, part.Digest, "1.0.0"))
	must[Released](t)(w.release(production, index.Digest, "1.1.0"))
	tomb := must[Tombstone](t)(w.r.Erase(t.Context(), EraseOrder{RequestID: "erase-index", Repository: production, Digest: index.Digest, Reason: "law", Keys: []string{"a", "b"}, Entry: audit.Entry{Actor: alice}}))
	if !slices.Contains(tomb.Stays, part.Digest) || !w.has(production, "1.0.0") || !w.has(production, string(claim.Digest)) || w.has(production, string(other.Digest)) {
		t.Errorf("%+v", tomb)
	}
	w.check()
}

// TestRetention: development goes after seven days, what is pinned, kept by its
// branch or part of something that stays does not.
func TestRetention(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	dev := func(name string) picture { return picture{zone: "development", layers: []string{"base", name}} }
	gone := must[oci.Descriptor](t)(w.image(devel, dev("gone"), "feature-x"))
	about := must[oci.Descriptor](t)(w.claim(devel, gone, "about gone"))
	kept := must[oci.Descriptor](t)(w.image(devel, dev("kept"), "main"))
	aboutKept := must[oci.Descriptor](t)(w.claim(devel, kept, "about kept"))
	pinned := must[oci.Descriptor](t)(w.image(devel, dev("pinned"), "feature-y"))
	part := must[oci.Descriptor](t)(w.image(devel, dev("part")))
	index := must[oci.Descriptor](t)(w.index(devel, []oci.Descriptor{part}, "feature-z"))
	cand := must[oci.Descriptor](t)(w.image(candidate, prod))
	if err := w.r.Pin(ctx, devel, "feature-y", true, alice); err != nil {
		t.Fatal(err)
	}
	must[oci.Descriptor](t)(w.blob(devel, []byte("a blob that nobody refers to")))

	w.pass(6 * day)
	w.collect()
	for _, ref := range []string{"feature-x", "main", "feature-y", "feature-z"} {
		if !w.has(devel, ref) {
			t.Errorf("%s went after six days", ref)
		}
	}
	// A push begins the week anew.
	must[oci.Descriptor](t)(w.index(devel, []oci.Descriptor{part}, "feature-z"))
	fate := must[Fate](t)(w.r.Why(ctx, devel, part.Digest))
	if fate.Goes == nil || !fate.Goes.Equal(w.now.Add(7*day)) {
		t.Errorf("the part of an index that was pushed just now: %+v", fate)
	}
	w.pass(day + time.Hour)
	if c := must[Collected](t)(w.r.Collect(ctx, true)); c.Tags != 1 || c.Manifests != 2 || !w.has(devel, "feature-x") {
		t.Errorf("dry run: %+v", c)
	}
	w.collect()
	for d, want := range map[oci.Digest]bool{gone.Digest: false, about.Digest: false, kept.Digest: true, aboutKept.Digest: true, pinned.Digest: true, part.Digest: true, index.Digest: true} {
		if got := w.has(devel, string(d)); got != want {
			t.Errorf("%s: kept %v, want %v", d, got, want)
		}
	}
	if w.log.count(audit.Collect) == 0 {
		t.Error("a collection that nobody can see")
	}
	w.check()
	if err := w.r.Pin(ctx, devel, "feature-y", false, alice); err != nil {
		t.Fatal(err)
	}
	w.pass(40 * day)
	w.collect()
	if w.has(devel, string(pinned.Digest)) || w.has(devel, "feature-z") || w.has(candidate, string(cand.Digest)) {
		t.Error("something stayed for ever")
	}
	w.pass(2 * day)
	w.collect()
	// main: config, two layers; its claim: {} and a text.
	if n := w.contents(); n != 5 {
		t.Errorf("%d contents are left, want 5", n)
	}
	if c := w.collect(); c.Looked != 0 {
		t.Errorf("a collection without garbage looked at %d things", c.Looked)
	}
	w.check()
}

// TestAnotherRetention: a shorter one holds for what was pushed before it.
func TestAnotherRetention(t *testing.T) {
	w := newWorld(t)
	must[oci.Descriptor](t)(w.image(devel, picture{}, "main"))
	must[oci.Descriptor](t)(w.image(devel, picture{layers: []string{"x"}}, "x"))
	w.pass(2 * day)
	w.opt.Retain = Retention{Development: day, Keep: []string{"release-*"}}
	w.start()
	w.check()
	w.collect()
	if w.has(devel, "main") || w.has(devel, "x") {
		t.Error("a tag stayed longer than a day")
	}
	w.check()
}

// TestWhatTheLogCannotHold: a decision that could never be logged is refused
// before anything is kept of it, and a collection of many long names goes on.
func TestWhatTheLogCannotHold(t *testing.T) {
	w := newWorld(t)
	d := must[oci.Descriptor](t)(w.image(candidate, prod))
	must[Released](t)(w.release(production, d.Digest, "1.0.0"))
	if _, err := w.r.Revoke(t.Context(), RevokeOrder{RequestID: "revoke-long", Repository: production, Digest: d.Digest, Reason: strings.Repeat("x", audit.MaxEntry), Entry: audit.Entry{Actor: alice}}); why(err) != NotLoggable {
		t.Errorf("a reason of 64 KiB: %v", err)
	}
	if _, err := w.r.Revoke(t.Context(), RevokeOrder{RequestID: "revoke-short", Repository: production, Digest: d.Digest, Reason: "x", Entry: audit.Entry{Actor: alice}}); err != nil {
		t.Errorf("the next decision: %v", err)
	}
	long := strings.Repeat("a", 200) + "/dev"
	for i := range 300 {
		must[oci.Descriptor](t)(w.index(long, nil, fmt.Sprintf("%0128d", i)))
	}
	w.pass(8 * day)
	if c := w.collect(); c.Tags != 300 {
		t.Errorf("%d tags went: %+v", c.Tags, c.Looked)
	}
	for _, e := range w.log.entries {
		if _, err := audit.Marshal(e); err != nil {
			t.Error(err)
		}
	}
	w.check()
}

// TestRefusalsAreBounded: one token cannot fill the audit log, and what is not
// logged is counted.
func TestRefusalsAreBounded(t *testing.T) {
	w := newWorld(t)
	for range 500 {
		if err := w.r.DeleteTag(t.Context(), production, "1.0.0", alice); why(err) != PermanentVersion {
			t.Fatal(err)
		}
	}
	if n := w.log.count(audit.RefuseDelete); n != refusalsAtOnce {
		t.Errorf("%d entries", n)
	}
	if err := w.r.DeleteTag(t.Context(), production, "1.0.0", audit.Actor{Name: "bob"}); err == nil || w.log.count(audit.RefuseDelete) != refusalsAtOnce+1 {
		t.Error("another actor's refusal is not logged")
	}
	w.pass(time.Minute)
	if err := w.r.DeleteTag(t.Context(), production, "1.0.0", alice); err == nil || w.log.entries[len(w.log.entries)-1].Detail["unlogged"] != "450" {
		t.Errorf("%+v", w.log.entries[len(w.log.entries)-1])
	}
}

func TestHistoryIsBounded(t *testing.T) {
	w := newWorld(t)
	a := must[oci.Descriptor](t)(w.image(devel, picture{layers: []string{"a"}}))
	for i := range mostEvents + 20 {
		if err := w.inner.Records.Update(t.Context(), func(tx store.Transaction) error {
			return w.r.remember(tx, devel, "x", Event{At: w.now.Add(time.Duration(i) * time.Second), To: a.Digest})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if h := must[[]Event](t)(w.r.History(t.Context(), devel, "x", 0)); len(h) != mostEvents {
		t.Errorf("%d events", len(h))
	}
}

func TestHistory(t *testing.T) {
	w := newWorld(t)
	a := must[oci.Descriptor](t)(w.image(devel, picture{layers: []string{"a"}}, "x"))
	b := must[oci.Descriptor](t)(w.image(devel, picture{layers: []string{"b"}}, "x"))
	if err := w.r.DeleteTag(t.Context(), devel, "x", alice); err != nil {
		t.Fatal(err)
	}
	h := must[[]Event](t)(w.r.History(t.Context(), devel, "x", 0))
	if len(h) != 3 || h[0].To != a.Digest || h[1].From != a.Digest || h[1].To != b.Digest || h[2].From != b.Digest || h[2].To != "" {
		t.Errorf("%+v", h)
	}
}

// TestClock: a clock that jumped deletes nothing.
func TestClock(t *testing.T) {
	w := newWorld(t)
	must[oci.Descriptor](t)(w.image(devel, picture{zone: "development"}, "x"))
	w.collect()
	for _, c := range []struct {
		name string
		jump time.Duration
	}{{"forwards", 30 * day}, {"backwards", -30 * day}} {
		t.Run(c.name, func(t *testing.T) {
			w.mu.Lock()
			w.now, w.began = w.now.Add(c.jump), w.began.Add(c.jump) // the steady clock knows nothing of it
			w.mu.Unlock()
			if _, err := w.r.Collect(t.Context(), false); err == nil {
				t.Error("collected by a clock that jumped")
			}
			w.mu.Lock()
			w.now, w.began = w.now.Add(-c.jump), w.began.Add(-c.jump)
			w.mu.Unlock()
		})
	}
	// After a restart far in the future nothing goes in the first hour.
	w.pass(30 * day)
	w.start()
	if _, err := w.r.Collect(t.Context(), false); err == nil {
		t.Error("collected at once after a month")
	}
	w.pass(61 * time.Minute)
	w.collect()
	if w.has(devel, "x") {
		t.Error("the tag stayed")
	}
}

func TestUploads(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := must[string](t)(w.r.StartUpload(ctx, devel, alice))
	if _, err := w.r.AppendUpload(ctx, "other/dev", id, 0, strings.NewReader("x")); why(err) != UploadGone {
		t.Errorf("an upload continued in another repository: %v", err)
	}
	if _, err := w.r.AppendUpload(ctx, devel, id+"x", 0, strings.NewReader("x")); why(err) != UploadGone {
		t.Errorf("a name that was made up: %v", err)
	}
	if n, err := w.r.AppendUpload(ctx, devel, id, 0, strings.NewReader("abc")); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	w.start() // it outlives the process
	if n, err := w.r.UploadStatus(ctx, devel, id); n != 3 || err != nil {
		t.Errorf("after a restart: %d, %v", n, err)
	}
	if _, err := w.r.AppendUpload(ctx, devel, id, 1, strings.NewReader("x")); err == nil {
		t.Error("a part out of order")
	}
	w.pass(25 * time.Hour)
	if c := w.collect(); c.Uploads != 1 {
		t.Errorf("%+v", c)
	}
	if _, err := w.r.UploadStatus(ctx, devel, id); why(err) != UploadGone {
		t.Errorf("an abandoned upload: %v", err)
	}
}

func TestManifestsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct{ media, content string }{
		"no JSON":            {"application/vnd.oci.image.manifest.v1+json", "x"},
		"two documents":      {"application/vnd.oci.image.index.v1+json", `{"manifests":[]}{}`},
		"no type":            {"", `{"manifests":[]}`},
		"another type":       {"application/vnd.oci.image.index.v1+json", `{"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`},
		"unknown type":       {"text/plain", `{}`},
		"both kinds":         {"application/vnd.oci.image.manifest.v1+json", `{"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"manifests":[]}`},
		"no config":          {"application/vnd.oci.image.manifest.v1+json", `{"layers":[]}`},
		"a digest of nobody": {"application/vnd.oci.image.index.v1+json", `{"manifests":[{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":0}]}`},
		"missing parts":      {"application/vnd.oci.image.index.v1+json", `{"manifests":[{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}`},
		"negative size":      {"application/vnd.oci.image.index.v1+json", `{"manifests":[{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":-2}]}`},
	} {
		if _, err := w.r.PutManifest(t.Context(), Put{Repository: devel, Tags: []string{"x"}, MediaType: c.media, Content: []byte(c.content), Actor: alice}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, repo := range []string{"", "A/dev", "a//dev", "a/../dev", "a/dev/", strings.Repeat("a", 300) + "/dev"} {
		if _, err := w.blob(repo, []byte("x")); err == nil {
			t.Errorf("the name %q", repo)
		}
	}
	w.check()
}

func FuzzReadManifest(f *testing.F) {
	f.Add("application/vnd.oci.image.index.v1+json", []byte(`{"manifests":[{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}`))
	f.Add("application/vnd.oci.image.manifest.v1+json", []byte(`{"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"subject":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}`))
	f.Fuzz(func(t *testing.T, media string, content []byte) {
		doc, err := readManifest(media, content, "sha256:0000000000000000000000000000000000000000000000000000000000000000")
		if err != nil {
			return
		}
		for _, c := range doc.Children {
			if ValidDigest(c) != nil {
				t.Fatalf("the child %q", c)
			}
		}
	})
}

// TestCheckFinds: what is broken on purpose is found, and what can be mended is.
func TestCheckFinds(t *testing.T) {
	for _, c := range []struct {
		name   string
		breaks func(w *world, tx store.Transaction, d oci.Descriptor) error
		kind   string
		mended bool
	}{
		{"a manifest's bytes changed", func(w *world, tx store.Transaction, d oci.Descriptor) error {
			return tx.Put(key(kContent, devel, string(d.Digest)), []byte(d.MediaType+"\x00{}"))
		}, DamagedManifest, false},
		{"a manifest is gone", func(w *world, tx store.Transaction, d oci.Descriptor) error {
			return errors.Join(tx.Delete(key(kContent, devel, string(d.Digest))), tx.Delete(key(kFacts, devel, string(d.Digest))))
		}, Dangling, false},
		{"a blob is not linked", func(w *world, tx store.Transaction, d oci.Descriptor) error {
			return tx.Delete(key(kBlob, devel, string(digest.FromString("a"))))
		}, Dangling, false},
		{"a blob is gone", func(w *world, tx store.Transaction, d oci.Descriptor) error {
			return w.inner.Blobs.Delete(context.Background(), digest.FromString("a"))
		}, DamagedBlob, false},
		{"an edge is gone", func(w *world, tx store.Transaction, d oci.Descriptor) error {
			return tx.Delete(key(kParent, devel, string(digest.FromString("a")), string(d.Digest)))
		}, Inconsistent, true},
		{"a tag is unknown to its manifest", func(w *world, tx store.Transaction, d oci.Descriptor) error {
			return tx.Delete(key(kTagged, devel, string(d.Digest), "x"))
		}, Inconsistent, true},
		{"a referrer is not listed", func(w *world, tx store.Transaction, d oci.Descriptor) error {
			names, err := keysOf(tx, key(kReferrer, devel, string(d.Digest), ""), 0)
			if err != nil {
				return err
			}
			return tx.Delete(key(kReferrer, devel, string(d.Digest), names[0]))
		}, Inconsistent, true},
		{"nothing is due", func(w *world, tx store.Transaction, d oci.Descriptor) error {
			for rec, err := range tx.Scan([]byte{kDue}, nil) {
				if err != nil {
					return err
				}
				defer tx.Delete(slices.Clone(rec.Key))
			}
			return nil
		}, Leak, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			ctx := t.Context()
			d := must[oci.Descriptor](t)(w.image(devel, picture{layers: []string{"a"}}, "x"))
			must[oci.Descriptor](t)(w.claim(devel, d, "text"))
			w.check()
			if err := w.inner.Records.Update(ctx, func(tx store.Transaction) error { return c.breaks(w, tx, d) }); err != nil {
				t.Fatal(err)
			}
			got := must[*Checked](t)(w.r.Check(ctx, CheckOptions{}))
			if !slices.ContainsFunc(got.Problems, func(p Problem) bool { return p.Kind == c.kind }) {
				t.Errorf("want %s, found %+v", c.kind, got.Problems)
			}
			must[*Checked](t)(w.r.Check(ctx, CheckOptions{Mend: true}))
			if left := must[*Checked](t)(w.r.Check(ctx, CheckOptions{})); (len(left.Problems) == 0) != c.mended {
				t.Errorf("after mending: %+v", left.Problems)
			}
		})
	}
}
