package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
)

// An image that nobody judged must not come into production in the company of one
// that was.
func TestReleaseBringsNoOtherImage(t *testing.T) {
	const repo, from = "shop/api", "shop/api/candidate"
	prod := string(oci.Production)
	for name, other := range map[string]func(w *world, good oci.Descriptor) (oci.Descriptor, error){
		"image that refers to it": func(w *world, good oci.Descriptor) (oci.Descriptor, error) {
			return w.image(from, picture{zone: prod, layers: []string{"shell"}, subject: &good})
		},
		"index that refers to it": func(w *world, good oci.Descriptor) (oci.Descriptor, error) {
			bad, err := w.image(from, picture{zone: prod, layers: []string{"shell"}})
			if err != nil {
				return bad, err
			}
			m := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []oci.Descriptor{bad}, Subject: &good}
			m.SchemaVersion = 2
			_, err = w.manifest(from, m, m.MediaType)
			return bad, err
		},
		"image that refers to a claim": func(w *world, good oci.Descriptor) (oci.Descriptor, error) {
			c, err := w.claim(from, good, "fine")
			if err != nil {
				return c, err
			}
			return w.image(from, picture{zone: prod, layers: []string{"shell"}, subject: &c})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			good := must[oci.Descriptor](t)(w.image(from, picture{zone: prod, layers: []string{"program"}}))
			bad := must[oci.Descriptor](t)(other(w, good))
			if _, err := w.release(repo, good.Digest, "1.0.0"); why(err) != NotJudged {
				t.Errorf("released beside an image that nobody judged: %v", err)
			}
			if w.has(repo, string(bad.Digest)) {
				t.Error("an image that nobody judged is in production")
			}
			w.check()
		})
	}
}

// What an index lists was judged when the order says so.
func TestReleaseBringsJudgedImagesOnly(t *testing.T) {
	const repo, from = "shop/api", "shop/api/candidate"
	w := newWorld(t)
	a := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"a"}}))
	b := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"b"}}))
	x := must[oci.Descriptor](t)(w.index(from, []oci.Descriptor{a, b}))
	order := ReleaseOrder{RequestID: "request-judged", Repository: repo, Digest: x.Digest, Version: "1.0.0", Judged: []oci.Digest{x.Digest, a.Digest}, Entry: audit.Entry{Actor: alice}}
	if _, err := w.r.Release(context.Background(), order); why(err) != NotJudged {
		t.Fatalf("an image of the index was not judged: %v", err)
	}
	order.Judged = append(order.Judged, b.Digest)
	if _, err := w.r.Release(context.Background(), order); err != nil {
		t.Fatal(err)
	}
	w.check()
}

// The bytes of a layer may be a manifest too, which a release must not mistake
// for a part of the image.
func TestLayerThatIsManifest(t *testing.T) {
	const repo, from = "shop/api", "shop/api/candidate"
	w := newWorld(t)
	bad := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"shell"}}))
	m := must[Manifest](t)(w.r.Manifest(context.Background(), from, string(bad.Digest)))
	good := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"program"}}))
	must[oci.Descriptor](t)(w.claim(from, good, string(m.Content)))
	must[Released](t)(w.release(repo, good.Digest, "1.0.0"))
	if w.has(repo, string(bad.Digest)) {
		t.Error("an image that nobody judged is in production")
	}
	w.check()
}

// The bytes of a manifest in production keep the type under which they came.
func TestReleasedManifestKeepsType(t *testing.T) {
	const repo, from = "shop/api", "shop/api/candidate"
	w := newWorld(t)
	ctx := context.Background()
	p := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"program"}}))
	m := must[Manifest](t)(w.r.Manifest(ctx, from, string(p.Digest)))
	raw := bytes.Replace(m.Content, fmt.Appendf(nil, `"mediaType":%q,"config"`, ocispec.MediaTypeImageManifest), []byte(`"config"`), 1)
	d := digest.FromBytes(raw)
	if d == p.Digest {
		t.Fatal("the manifest still says its type")
	}
	put := func(media string) {
		t.Helper()
		must[Stored](t)(w.r.PutManifest(ctx, Put{Repository: from, MediaType: media, Content: raw, Actor: alice}))
	}
	put(ocispec.MediaTypeImageManifest)
	must[Released](t)(w.release(repo, d, "1.0.0"))
	put(dockerManifest)
	must[Released](t)(w.release(repo, d, "1.0.0"))
	if m := must[Manifest](t)(w.r.Manifest(ctx, repo, string(d))); m.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("what was released is served as %s now", m.MediaType)
	}
	w.check()
}

// What was revoked or erased does not come back: neither under another version nor
// as a part of an index.
func TestWhatEndedStaysSo(t *testing.T) {
	const repo, from = "shop/api", "shop/api/candidate"
	for name, end := range map[string]func(w *world, d oci.Digest) error{
		string(AlreadyRevoked): func(w *world, d oci.Digest) error {
			_, err := w.r.Revoke(context.Background(), RevokeOrder{RequestID: "request-end", Repository: repo, Digest: d, Reason: "a hole", Entry: audit.Entry{Actor: alice}})
			return err
		},
		string(VersionErased): func(w *world, d oci.Digest) error {
			_, err := w.r.Erase(context.Background(), EraseOrder{RequestID: "request-end", Repository: repo, Digest: d, Reason: "law", Keys: []string{"a", "b"}, Entry: audit.Entry{Actor: alice}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"a"}}))
			b := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"b"}}))
			x := must[oci.Descriptor](t)(w.index(from, []oci.Descriptor{a, b}))
			must[Released](t)(w.release(repo, a.Digest, "1.0.0"))
			if err := end(w, a.Digest); err != nil {
				t.Fatal(err)
			}
			was := w.has(repo, string(a.Digest))
			for version, d := range map[string]oci.Digest{"1.0.1": a.Digest, "1.1.0": x.Digest} {
				if _, err := w.release(repo, d, version); !strings.Contains(fmt.Sprint(reasonsOf(err)), name) {
					t.Errorf("%s: got %v", version, err)
				}
			}
			if w.has(repo, string(a.Digest)) != was {
				t.Error("it came back")
			}
			w.check()
		})
	}
}

// reasonsOf are the reasons of errors that were joined.
func reasonsOf(err error) (out []Reason) {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range all.Unwrap() {
			out = append(out, why(e))
		}
		return out
	}
	return []Reason{why(err)}
}

// An entry that the log would never take must not leave a decision that can
// never be finished.
func TestEntryTooLargeBlocksNothing(t *testing.T) {
	const repo, from = "shop/api", "shop/api/candidate"
	w := newWorld(t)
	p := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"program"}}))
	must[Released](t)(w.release(repo, p.Digest, "1.0.0"))
	order := RevokeOrder{RequestID: "request-large", Repository: repo, Digest: p.Digest, Reason: strings.Repeat("a", audit.MaxEntry), Entry: audit.Entry{Actor: alice}}
	_, err := w.r.Revoke(context.Background(), order)
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != Unsupported {
		t.Fatalf("got %v", err)
	}
	order.Reason = "a hole"
	must[Revocation](t)(w.r.Revoke(context.Background(), order))
	w.check()
}

// Many claims must not make an entry that the log would not take.
func TestEntryOfManyClaims(t *testing.T) {
	const repo, from = "shop/api", "shop/api/candidate"
	w := newWorld(t)
	p := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"program"}}))
	for i := range 450 {
		must[oci.Descriptor](t)(w.claim(from, p, fmt.Sprint(i)))
	}
	var claims []oci.Digest
	for i := range 2000 {
		claims = append(claims, digest.FromString(fmt.Sprint(i)))
	}
	must[Released](t)(w.r.Release(context.Background(), ReleaseOrder{RequestID: "request-claims", Repository: repo, Digest: p.Digest, Version: "1.0.0", Entry: audit.Entry{Actor: alice, Claims: claims}}))
	e := w.log.entries[len(w.log.entries)-1]
	if raw, err := audit.Marshal(e); err != nil || e.Action != audit.Release {
		t.Fatalf("%d bytes: %v", len(raw), err)
	}
	w.check()
}

// A decision that waits for the log for longer than uploads are kept must find
// what it attaches.
func TestAttachmentsOfWaitingDecisionAreKept(t *testing.T) {
	const repo, from = "shop/api", "shop/api/candidate"
	w := newWorld(t)
	p := must[oci.Descriptor](t)(w.image(from, picture{zone: string(oci.Production), layers: []string{"program"}}))
	order := ReleaseOrder{RequestID: "request-waits", Repository: repo, Digest: p.Digest, Version: "1.0.0", Attach: []Attachment{w.summary(repo, p.Digest)}, Entry: audit.Entry{Actor: alice}}
	log := w.r.opt.Log
	w.r.opt.Log = brokenLog{log}
	if _, err := w.r.Release(context.Background(), order); why(err) != Recovering {
		t.Fatalf("got %v", err)
	}
	w.r.opt.Log = log
	w.n++
	order.Attach = []Attachment{w.summary(repo, p.Digest)} // signed anew, at another time
	w.pass(3 * 24 * time.Hour)
	w.collect()
	order.Version = "1.0.1"
	order.RequestID = "request-later"
	must[Released](t)(w.r.Release(context.Background(), order))
	w.check()
}

// brokenLog takes nothing.
type brokenLog struct{ Log }

func (brokenLog) Append(context.Context, audit.Entry) (uint64, error) {
	return 0, errors.New("no space left")
}

// A small request must not take much memory.
func TestManifestOfManyEmptyDescriptors(t *testing.T) {
	for _, field := range []string{"layers", "manifests"} {
		raw := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","` + field + `":[{}` + strings.Repeat(",{}", MaxManifest/3-200) + `]}`)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := readManifest("", raw, digest.FromBytes(raw)); err == nil {
			t.Fatal("taken")
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
			t.Errorf("reading %d bytes of %s took %d bytes of memory", len(raw), field, n)
		}
	}
}

// An upload that somebody writes must not stop the collection of everything else.
func TestCollectPassesBusyUploads(t *testing.T) {
	const repo = "shop/api/dev"
	w := newWorld(t)
	ctx := context.Background()
	id := must[string](t)(w.r.StartUpload(ctx, repo, alice))
	for range 20 { // in whichever order they are looked at
		must[string](t)(w.r.StartUpload(ctx, repo, alice))
	}
	w.pass(48 * time.Hour)
	collected := false
	must[int64](t)(w.r.AppendUpload(ctx, repo, id, 0, readerFunc(func([]byte) (int, error) {
		if !collected {
			collected = true
			if c := w.collect(); c.Uploads != 20 {
				t.Errorf("%d uploads were collected", c.Uploads)
			}
		}
		return 0, io.EOF
	})))
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
