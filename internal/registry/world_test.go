package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/memory"
)

// errCrash is what a process that died answers.
var errCrash = errors.New("crash")

// crasher counts durable steps and dies at one of them: before the step, or after
// it and before anybody learns of it.
type crasher struct {
	mu    sync.Mutex
	steps int
	at    int  // dies at this step; 0: never
	after bool // the step is made
	dead  bool
}

func (c *crasher) arm(at int, after bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.steps, c.at, c.after, c.dead = 0, at, after, false
}

// step makes a durable step.
func (c *crasher) step(do func() error) error {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return errCrash
	}
	c.steps++
	dies := c.steps == c.at
	if dies {
		c.dead = true
	}
	c.mu.Unlock()
	if dies && !c.after {
		return errCrash
	}
	err := do()
	if dies {
		return errCrash
	}
	return err
}

func (c *crasher) alive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return errCrash
	}
	return nil
}

type crashRecords struct {
	store.Records
	c *crasher
}

func (r crashRecords) View(ctx context.Context, f func(store.Reader) error) error {
	if err := r.c.alive(); err != nil {
		return err
	}
	return r.Records.View(ctx, f)
}

func (r crashRecords) Update(ctx context.Context, f func(store.Transaction) error) error {
	return r.c.step(func() error { return r.Records.Update(ctx, f) })
}

type crashBlobs struct {
	store.Blobs
	c *crasher
}

func (b crashBlobs) Delete(ctx context.Context, ds ...oci.Digest) error {
	// Each content is a step of its own: some may be gone and others not.
	for _, d := range ds {
		if err := b.c.step(func() error { return b.Blobs.Delete(ctx, d) }); err != nil {
			return err
		}
	}
	return nil
}

type uploads = store.Uploads // embedded under a name that is no method's

type crashUploads struct {
	uploads
	c *crasher
}

func (u crashUploads) Append(ctx context.Context, id string, at int64, r io.Reader) (n int64, err error) {
	err = u.c.step(func() error { n, err = u.uploads.Append(ctx, id, at, r); return err })
	return n, err
}

func (u crashUploads) Commit(ctx context.Context, id string, d oci.Digest) (n int64, err error) {
	err = u.c.step(func() error { n, err = u.uploads.Commit(ctx, id, d); return err })
	return n, err
}

func (u crashUploads) Discard(ctx context.Context, id string) error {
	return u.c.step(func() error { return u.uploads.Discard(ctx, id) })
}

// memoryLog is an audit log in memory.
type memoryLog struct {
	mu      sync.Mutex
	entries []audit.Entry
	c       *crasher
}

func (l *memoryLog) Append(_ context.Context, e audit.Entry) (i uint64, err error) {
	err = l.c.step(func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		i = uint64(len(l.entries))
		l.entries = append(l.entries, e)
		return nil
	})
	return i, err
}

func (l *memoryLog) Size(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.entries)), l.c.alive()
}

func (l *memoryLog) Find(_ context.Context, from uint64, id string) (uint64, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := from; i < uint64(len(l.entries)); i++ {
		if l.entries[i].ID == id {
			return i, true, l.c.alive()
		}
	}
	return 0, false, l.c.alive()
}

// count counts the entries of an action.
func (l *memoryLog) count(a audit.Action) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if e.Action == a {
			n++
		}
	}
	return n
}

// failer is a test, or a run of a property.
type failer interface {
	Helper()
	Fatal(args ...any)
	Errorf(format string, args ...any)
}

// world is a registry whose time and death are in the test's hands.
type world struct {
	t     failer
	inner store.Store
	c     *crasher
	log   *memoryLog
	r     *Registry
	mu    sync.Mutex
	now   time.Time
	began time.Time
	opt   Options
	n     int
}

func newWorld(t failer) *world { return newWorldOver(t, memory.New()) }

// newWorldOver makes a world over an empty store.
func newWorldOver(t failer, s store.Store) *world {
	w := &world{t: t, inner: s, c: &crasher{}, now: time.Now().UTC()}
	w.log = &memoryLog{c: w.c}
	w.start()
	return w
}

// start opens the registry, as after a restart.
func (w *world) start() {
	w.c.arm(0, false)
	w.began = w.now
	opt := w.opt
	opt.Log, opt.Now = w.log, w.time
	opt.Steady = func() time.Duration { return w.time().Sub(w.began) }
	r, err := New(context.Background(), store.Store{Records: crashRecords{w.inner.Records, w.c}, Blobs: crashBlobs{w.inner.Blobs, w.c}, Uploads: crashUploads{w.inner.Uploads, w.c}}, opt)
	if err != nil {
		w.t.Fatal(err)
	}
	w.r = r
}

func (w *world) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

var alice = audit.Actor{Name: "alice", Method: "test"}

// blob pushes a blob.
func (w *world) blob(repo string, content []byte) (oci.Descriptor, error) {
	ctx := context.Background()
	d := oci.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(content), Size: int64(len(content))}
	id, err := w.r.StartUpload(ctx, repo, alice)
	if err != nil {
		return d, err
	}
	return d, w.r.FinishUpload(ctx, id, Finish{Repository: repo, Digest: d.Digest, Last: bytes.NewReader(content), At: 0}, alice)
}

// picture describes an image to push.
type picture struct {
	zone    string // in label and annotation
	label   string // when it is another
	layers  []string
	subject *oci.Descriptor
}

// image pushes an image with its blobs.
func (w *world) image(repo string, p picture, tags ...string) (oci.Descriptor, error) {
	label := p.label
	if label == "" {
		label = p.zone
	}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Labels":{%q:%q}},"history":[{"comment":%q}]}`, oci.ZoneKey, label, strings.Join(p.layers, ","))
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{}, Subject: p.subject}
	m.SchemaVersion = 2
	if p.zone != "" {
		m.Annotations[oci.ZoneKey] = p.zone
	}
	var err error
	if m.Config, err = w.blob(repo, config); err != nil {
		return m.Config, err
	}
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	for _, l := range p.layers {
		d, err := w.blob(repo, []byte(l))
		if err != nil {
			return d, err
		}
		d.MediaType = ocispec.MediaTypeImageLayer
		m.Layers = append(m.Layers, d)
	}
	return w.manifest(repo, m, m.MediaType, tags...)
}

// claim pushes a referrer.
func (w *world) claim(repo string, subject oci.Descriptor, text string) (oci.Descriptor, error) {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x-claim", Subject: &subject}
	m.SchemaVersion = 2
	var err error
	if m.Config, err = w.blob(repo, []byte("{}")); err != nil {
		return m.Config, err
	}
	m.Config.MediaType = ocispec.MediaTypeEmptyJSON
	l, err := w.blob(repo, []byte(text))
	if err != nil {
		return l, err
	}
	m.Layers = []oci.Descriptor{l}
	return w.manifest(repo, m, m.MediaType)
}

func (w *world) index(repo string, parts []oci.Descriptor, tags ...string) (oci.Descriptor, error) {
	m := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: parts}
	m.SchemaVersion = 2
	return w.manifest(repo, m, m.MediaType, tags...)
}

func (w *world) manifest(repo string, m any, media string, tags ...string) (oci.Descriptor, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return oci.Descriptor{}, err
	}
	d := oci.Descriptor{MediaType: media, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	_, err = w.r.PutManifest(context.Background(), Put{Repository: repo, Tags: tags, MediaType: media, Content: raw, Actor: alice})
	return d, err
}

func (w *world) release(repo string, d oci.Digest, version string) (Released, error) {
	w.n++
	return w.r.Release(context.Background(), ReleaseOrder{RequestID: fmt.Sprintf("request-%05d", w.n), Repository: repo, Digest: d, Version: version,
		Attach: []Attachment{w.summary(repo, d)}, Entry: audit.Entry{Actor: alice}})
}

// summary is an attachment about a candidate.
func (w *world) summary(repo string, d oci.Digest) Attachment {
	text := fmt.Appendf(nil, "summary %d", w.n)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x-summary", Config: ocispec.DescriptorEmptyJSON,
		Layers:  []oci.Descriptor{{MediaType: "text/plain", Digest: digest.FromBytes(text), Size: int64(len(text))}},
		Subject: &oci.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 1}}
	m.SchemaVersion = 2
	raw, err := json.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	return Attachment{MediaType: m.MediaType, Manifest: raw, Blobs: [][]byte{[]byte("{}"), text}}
}

// check fails when the store is not clean.
func (w *world) check() {
	w.t.Helper()
	c, err := w.r.Check(context.Background(), CheckOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range c.Problems {
		w.t.Errorf("check: %s %s %s: %s", p.Kind, p.Repository, p.Name, p.Detail)
	}
}

func (w *world) collect() Collected {
	w.t.Helper()
	c, err := w.r.Collect(context.Background(), false)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// contents counts what is stored.
func (w *world) contents() (n int) {
	for _, err := range w.inner.Blobs.List(context.Background()) {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

func (w *world) has(repo, ref string) bool {
	w.t.Helper()
	m, err := w.r.Manifest(context.Background(), repo, ref)
	if err == nil {
		return len(m.Content) > 0
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != ManifestUnknown {
		w.t.Fatal(err)
	}
	return false
}

// why is the reason of an error.
func why(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
