package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
)

// model is what a registry must have, as somebody remembers who was told of every
// success and of no failure.
type model struct {
	w        *world
	pushed   map[oci.Digest]time.Time // development manifests: when the last push was acknowledged
	about    map[oci.Digest]oci.Digest
	tags     map[string]oci.Digest // of development
	tagged   map[string]time.Time
	cands    map[oci.Digest]time.Time
	versions map[string]oci.Digest // acknowledged
	maybe    map[string]oci.Digest // asked for when the process died: all or nothing
	requests map[string]ReleaseOrder
	n        int
}

// crashes arms a crash for the next operation, sometimes.
func (m *model) crashes(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "crash") == 0 {
		m.w.c.arm(rapid.IntRange(1, 8).Draw(t, "at"), rapid.Bool().Draw(t, "after"))
	}
}

// survived tells whether the operation was acknowledged; after a crash the
// registry is opened again.
func (m *model) survived(t *rapid.T, err error) bool {
	dead := m.w.c.alive() != nil
	if err != nil && !dead && why(err) == "" {
		t.Fatalf("failed without a crash and without a reason: %v", err)
	}
	if dead {
		m.w.start()
	} else {
		m.w.c.arm(0, false)
	}
	return err == nil
}

func TestNothingIsLostOrLeaked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { nothingIsLostOrLeaked(t, newWorld(t)) })
}

func nothingIsLostOrLeaked(t *rapid.T, w *world) {
	m := &model{w: w, pushed: map[oci.Digest]time.Time{}, about: map[oci.Digest]oci.Digest{}, tags: map[string]oci.Digest{}, tagged: map[string]time.Time{},
		cands: map[oci.Digest]time.Time{}, versions: map[string]oci.Digest{}, maybe: map[string]oci.Digest{}, requests: map[string]ReleaseOrder{}}
	t.Repeat(map[string]func(*rapid.T){
		"push":    m.push,
		"claim":   m.claim,
		"stage":   m.stage,
		"release": m.release,
		"repeat":  m.repeat,
		"revoke":  m.revoke,
		"back":    m.back,
		"erase":   m.erase,
		"delete":  m.remove,
		"pass":    func(t *rapid.T) { m.w.pass(time.Duration(rapid.IntRange(1, 80).Draw(t, "hours")) * time.Hour) },
		"collect": m.collect,
		"upload":  m.upload,
		"":        m.holds,
	})
	m.end(t)
}

func (m *model) layers(t *rapid.T) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 1, 3, rapid.ID).Draw(t, "layers")
}

var devTags = []string{"latest", "main", "feature"}

func (m *model) push(t *rapid.T) {
	p, tag := picture{layers: m.layers(t)}, rapid.SampledFrom(devTags).Draw(t, "tag")
	m.crashes(t)
	d, err := m.w.image(devel, p, tag)
	m.forget(tag)
	if m.survived(t, err) {
		m.pushed[d.Digest], m.tags[tag], m.tagged[tag] = m.w.now, d.Digest, m.w.now
	}
}

// forget: after an operation that failed, a tag points to either.
func (m *model) forget(tag string) { delete(m.tags, tag); delete(m.tagged, tag) }

func (m *model) some(t *rapid.T, from map[oci.Digest]time.Time) (oci.Digest, bool) {
	var all []oci.Digest
	for d := range from {
		all = append(all, d)
	}
	if len(all) == 0 {
		return "", false
	}
	slices.Sort(all)
	return rapid.SampledFrom(all).Draw(t, "digest"), true
}

func (m *model) claim(t *rapid.T) {
	d, ok := m.some(t, m.pushed)
	if !ok {
		return
	}
	m.n++
	m.crashes(t)
	c, err := m.w.claim(devel, oci.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: d, Size: 1}, fmt.Sprint("claim ", m.n))
	if m.survived(t, err) {
		m.about[c.Digest] = d
		m.pushed[c.Digest] = m.w.now
	}
}

// stage pushes a candidate, alone or in an index, with a claim.
func (m *model) stage(t *rapid.T) {
	p := picture{zone: "production", layers: m.layers(t)}
	index := rapid.Bool().Draw(t, "index")
	m.n++
	m.crashes(t)
	d, err := m.w.image(candidate, p)
	if err == nil && index {
		d, err = m.w.index(candidate, []oci.Descriptor{d})
	}
	if err == nil {
		_, err = m.w.claim(candidate, d, fmt.Sprint("tested ", m.n))
	}
	if m.survived(t, err) {
		m.cands[d.Digest] = m.w.now
	}
}

func (m *model) order(repo string, d oci.Digest, version string) ReleaseOrder {
	m.n++
	return ReleaseOrder{RequestID: fmt.Sprintf("request-%05d", m.n), Repository: repo, Digest: d, Version: version, Entry: audit.Entry{Actor: alice}}
}

func (m *model) release(t *rapid.T) {
	d, ok := m.some(t, m.cands)
	if !ok {
		return
	}
	version := fmt.Sprintf("1.%d.%d", rapid.IntRange(0, 2).Draw(t, "minor"), rapid.IntRange(0, 3).Draw(t, "patch"))
	o := m.order(production, d, version)
	o.Attach = []Attachment{m.w.summary(production, d)}
	m.crashes(t)
	m.released(t, o)
}

func (m *model) released(t *rapid.T, o ReleaseOrder) {
	out, err := m.w.r.Release(context.Background(), o)
	dead := m.w.c.alive() != nil
	if m.survived(t, err) {
		if out.Repeated {
			return // it tells what was, which may have been erased since
		}
		if have, ok := m.versions[o.Version]; ok && have != o.Digest {
			t.Fatalf("%s was %s and was released as %s", o.Version, have, o.Digest)
		}
		m.versions[o.Version] = o.Digest
		delete(m.maybe, o.Version)
		return
	}
	if dead {
		m.requests[o.RequestID] = o
		if _, ok := m.versions[o.Version]; !ok {
			m.maybe[o.Version] = o.Digest
		}
	}
}

// repeat repeats a request that was cut off.
func (m *model) repeat(t *rapid.T) {
	var ids []string
	for id := range m.requests {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	o := m.requests[rapid.SampledFrom(ids).Draw(t, "id")]
	m.crashes(t)
	m.released(t, o)
}

func (m *model) version(t *rapid.T) (string, oci.Digest, bool) {
	var all []string
	for v := range m.versions {
		all = append(all, v)
	}
	if len(all) == 0 {
		return "", "", false
	}
	slices.Sort(all)
	v := rapid.SampledFrom(all).Draw(t, "version")
	return v, m.versions[v], true
}

func (m *model) revoke(t *rapid.T) {
	_, d, ok := m.version(t)
	if !ok {
		return
	}
	m.n++
	o := RevokeOrder{RequestID: fmt.Sprintf("request-%05d", m.n), Repository: production, Digest: d, Reason: "broken", Entry: audit.Entry{Actor: alice}}
	m.crashes(t)
	_, err := m.w.r.Revoke(context.Background(), o)
	if m.survived(t, err) {
		if k, err := m.w.r.Revoked(context.Background(), production, d); err != nil || k == nil {
			t.Fatalf("an acknowledged revocation is lost: %v", err)
		}
	}
}

func (m *model) back(t *rapid.T) {
	v, d, ok := m.version(t)
	if !ok {
		return
	}
	m.n++
	m.crashes(t)
	_, err := m.w.r.RollBack(context.Background(), RollBackOrder{RequestID: fmt.Sprintf("request-%05d", m.n), Repository: production, Version: v, Entry: audit.Entry{Actor: alice}})
	if e, ok := errors.AsType[*Error](err); ok && e.Code == Conflict {
		err = e.because(Recovering, "") // it points there already
	}
	if m.survived(t, err) {
		if tag, err := m.w.r.TagOf(context.Background(), production, "latest"); err != nil || tag.Digest != d {
			t.Fatalf("latest is %v after a roll-back to %s: %v", tag.Digest, v, err)
		}
	}
}

// erase is rare, and what it erases is forgotten by the model.
func (m *model) erase(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "really") > 0 {
		return
	}
	_, d, ok := m.version(t)
	if !ok {
		return
	}
	m.n++
	m.crashes(t)
	_, err := m.w.r.Erase(context.Background(), EraseOrder{RequestID: fmt.Sprintf("request-%05d", m.n), Repository: production, Digest: d, Reason: "law", Keys: []string{"a", "b"}, Entry: audit.Entry{Actor: alice}})
	ok = m.survived(t, err)
	for v, x := range m.versions {
		if x == d {
			delete(m.versions, v)
			m.maybe[v] = d
		}
	}
	for v, x := range m.maybe {
		if x == d && ok {
			delete(m.maybe, v)
		}
	}
	if ok && m.w.has(production, string(d)) {
		t.Fatalf("%s was erased and is there", d)
	}
}

// remove deletes a tag or a manifest of development.
func (m *model) remove(t *rapid.T) {
	ctx := context.Background()
	if rapid.Bool().Draw(t, "tag") {
		tag := rapid.SampledFrom(devTags).Draw(t, "which")
		m.crashes(t)
		err := m.w.r.DeleteTag(ctx, devel, tag, alice)
		if e, ok := errors.AsType[*Error](err); ok && e.Code == ManifestUnknown {
			err = nil
		}
		m.forget(tag)
		m.survived(t, err)
		return
	}
	d, ok := m.some(t, m.pushed)
	if !ok {
		return
	}
	m.crashes(t)
	err := m.w.r.DeleteManifest(ctx, devel, d, alice)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == ManifestUnknown {
		err = nil
	}
	delete(m.pushed, d)
	for tag, x := range m.tags {
		if x == d {
			m.forget(tag)
		}
	}
	for c, x := range m.about { // they go at the next collection
		if x == d {
			delete(m.about, c)
		}
	}
	m.survived(t, err)
}

func (m *model) collect(t *rapid.T) {
	m.crashes(t)
	_, err := m.w.r.Collect(context.Background(), false)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == Unavailable && m.w.c.alive() == nil {
		err = e.because(Recovering, "") // the hour after a start that is far from the last time seen
	}
	m.survived(t, err)
}

// upload leaves a blob that nothing refers to, or an upload that is cut off.
func (m *model) upload(t *rapid.T) {
	content := []byte(rapid.SampledFrom([]string{"a", "b", "loose"}).Draw(t, "content"))
	m.crashes(t)
	_, err := m.w.blob(devel, content)
	m.survived(t, err)
}

// holds: after every operation what was acknowledged is there, whole.
func (m *model) holds(t *rapid.T) {
	w, now := m.w, m.w.now
	c, err := w.r.Check(context.Background(), CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Problems {
		t.Fatalf("check: %s %s %s: %s", p.Kind, p.Repository, p.Name, p.Detail)
	}
	for d, at := range m.pushed {
		if at.Add(7 * day).After(now) {
			if !w.has(devel, string(d)) {
				t.Fatalf("development lost %s, pushed %s ago", d, now.Sub(at))
			}
		} else {
			delete(m.pushed, d) // it may go
		}
	}
	for tag, d := range m.tags {
		if tag != "main" && !m.tagged[tag].Add(7*day).After(now) {
			m.forget(tag)
			continue
		}
		if x, err := w.r.TagOf(context.Background(), devel, tag); err != nil || x.Digest != d {
			t.Fatalf("the tag %s is %s, want %s: %v", tag, x.Digest, d, err)
		}
	}
	for d, at := range m.cands {
		if at.Add(30 * day).After(now) {
			if !w.has(candidate, string(d)) {
				t.Fatalf("the candidate %s is lost", d)
			}
		} else {
			delete(m.cands, d)
		}
	}
	seen := map[string]oci.Digest{}
	all, err := w.r.Versions(context.Background(), production)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Erased {
			continue
		}
		seen[v.Version] = v.Digest
		// Nothing half-released: the version is there with all that belongs to it.
		if _, _, err := w.r.Closure(context.Background(), production, v.Digest); err != nil {
			t.Fatalf("%s is not whole: %v", v.Version, err)
		}
		if m.versions[v.Version] == "" && m.maybe[v.Version] == "" {
			t.Fatalf("%s was never asked for, or was erased", v.Version)
		}
		logged := slices.ContainsFunc(w.log.entries, func(e audit.Entry) bool {
			return e.Action == audit.Release && e.Object.Tag == v.Version && e.Object.Digest == v.Digest
		})
		if !logged {
			t.Fatalf("%s is released and the log does not know", v.Version)
		}
		if m.versions[v.Version] == "" {
			m.versions[v.Version] = v.Digest // it was done
			delete(m.maybe, v.Version)
		}
	}
	for v, d := range m.versions {
		if seen[v] != d {
			t.Fatalf("version %s is %q, want %s", v, seen[v], d)
		}
	}
}

// end: when everything that goes is gone, what is left is what is kept.
func (m *model) end(t *rapid.T) {
	w := m.w
	for range 4 {
		w.pass(40 * day)
		w.start()
		w.pass(2 * time.Hour)
		if _, err := w.r.Collect(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		w.pass(25 * time.Hour)
		if _, err := w.r.Collect(context.Background(), false); err != nil {
			t.Fatal(err)
		}
	}
	m.holds(t)
	kept := map[oci.Digest]bool{}
	for _, repo := range []string{production, devel} {
		refs := []string{"main"}
		if repo == production {
			refs = nil
			for v := range m.versions {
				refs = append(refs, v)
			}
		}
		for _, ref := range refs {
			x, err := w.r.Manifest(context.Background(), repo, ref)
			if err != nil {
				continue // main may never have been pushed
			}
			all, _, err := w.r.Closure(context.Background(), repo, x.Digest)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range all {
				c, err := w.r.Manifest(context.Background(), repo, string(d))
				if err != nil {
					t.Fatal(err)
				}
				doc, err := readManifest(c.MediaType, c.Content, d)
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range doc.blobs {
					kept[b.Digest] = true
				}
			}
		}
	}
	if n := w.contents(); n != len(kept) {
		t.Fatalf("%d blobs are in the store, %d are needed", n, len(kept))
	}
	for u, err := range w.inner.Uploads.Uploads(context.Background()) {
		t.Fatalf("the upload %s stayed, %v", u.ID, err)
	}
}
