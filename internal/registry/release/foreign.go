package release

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/catalog"
)

// Foreign is which other registries may be released to. The zero Foreign is none.
type Foreign struct {
	Hosts     []string          // with their ports, as in HOST/NAME
	Keychain  authn.Keychain    // the server's credentials; nil: the usual Docker configuration
	Transport http.RoundTripper // nil: http.DefaultTransport
}

// Entries calls f for each entry of the audit log from an index on, in order,
// until f fails.
type Entries func(ctx context.Context, from uint64, f func(index uint64, e audit.Entry) error) error

// foreign checks a name of another registry.
func (s *Service) foreign(to string) (oci.Ref, error) {
	ref, err := oci.ParseRef(to)
	if err != nil || ref.Kind != oci.RegistryRef || to != ref.Host+"/"+ref.Name {
		return ref, bad("%q: want HOST/NAME, without a tag or digest", clip(to))
	}
	if ref.Host == s.c.Host {
		return ref, bad("%s is this registry", ref.Host).remedy("leave --to out")
	}
	if err := production(ref.Name); err != nil {
		return ref, err
	}
	if !slices.Contains(s.c.Foreign.Hosts, ref.Host) {
		return ref, problemf(http.StatusForbidden, registry.Denied, registry.UnknownForeign, "this server may not release to %s", ref.Host).
			remedy("the operator names it among the foreign registries of the configuration")
	}
	return ref, nil
}

// history is what the log says of a foreign repository.
type history struct {
	versions map[string]oci.Digest
	tags     map[string]oci.Digest   // versions and convenience tags
	digests  map[oci.Digest][]string // every manifest, by the versions that brought it
	ids      map[string]logged       // of releases
}

type logged struct {
	index uint64
	entry audit.Entry
}

func (s *Service) history(ctx context.Context, to string) (*history, error) {
	if s.c.Entries == nil {
		return nil, undecided(errors.New("the audit log cannot be read"))
	}
	h := &history{versions: map[string]oci.Digest{}, tags: map[string]oci.Digest{}, digests: map[oci.Digest][]string{}, ids: map[string]logged{}}
	err := s.c.Entries(ctx, 0, func(i uint64, e audit.Entry) error {
		if e.Action != audit.Release || e.Verdict != audit.Allowed || e.Object.Repository != to {
			return nil
		}
		h.ids[e.ID] = logged{i, e}
		h.versions[e.Object.Tag] = e.Object.Digest
		for _, m := range e.Moves {
			h.tags[m.Tag] = m.To
		}
		for _, d := range e.Digests {
			h.digests[d] = append(h.digests[d], e.Object.Tag)
		}
		return nil
	})
	return h, err
}

// moves are the tags that the version takes in a foreign repository, by what was
// released there before.
func (h *history) moves(v catalog.Version, d oci.Digest) []audit.Move {
	at := map[string]catalog.Version{}
	var released []catalog.Version
	for name, of := range h.versions {
		x, err := catalog.ParseVersion(name)
		if err != nil {
			continue
		}
		released = append(released, x)
		for tag, points := range h.tags {
			if points != of || catalog.KindOf(tag) != catalog.ConvenienceTag {
				continue
			}
			if now, ok := at[tag]; !ok || x.Compare(now) > 0 {
				at[tag] = x
			}
		}
	}
	out := []audit.Move{{Tag: v.String(), From: h.tags[v.String()], To: d}}
	for _, tag := range catalog.Moves(v, released, at) {
		out = append(out, audit.Move{Tag: tag, From: h.tags[tag], To: d})
	}
	return out
}

// maxDigests bounds what an entry of the audit log names. What is beyond is not
// looked for by Compare.
const maxDigests = 400

// keyed locks by name.
type keyed struct {
	mu    sync.Mutex
	locks map[string]chan struct{}
}

func (k *keyed) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		held, busy := k.locks[name]
		if !busy {
			if k.locks == nil {
				k.locks = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			k.locks[name] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.locks, name)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// releaseTo releases to a foreign registry: everything by digest first, which
// shows nothing to anybody, then the log entry, then the tags. After a crash
// before the entry nothing was released; after one behind it, the entry is found
// by the request's id and the tags are set.
func (s *Service) releaseTo(ctx context.Context, c checked, req Request, actor audit.Actor) (*Answer, error) {
	ref, err := s.foreign(req.To)
	if err != nil {
		return nil, withID(err, c.id)
	}
	unlock, err := s.sending.lock(ctx, req.To)
	if err != nil {
		return nil, withID(err, c.id)
	}
	defer unlock()
	h, err := s.history(ctx, req.To)
	if err != nil {
		return nil, withID(err, c.id)
	}
	out := &Answer{ID: c.id, Repository: req.To, Version: c.version.String(), Digest: c.digest}
	if was, ok := h.ids[c.id]; ok && !req.DryRun {
		if was.entry.Object.Digest != c.digest || was.entry.Object.Tag != c.version.String() {
			return nil, withID(reused(c.id), c.id)
		}
		if err := s.setTags(ctx, ref, was.entry.Moves); err != nil {
			return nil, withID(undecided(err), c.id)
		}
		out.Moves, out.Entry, out.Repeated = was.entry.Moves, &was.index, true
		return out, nil
	}
	j, err := s.judge(ctx, c.home, req.To, c.digest)
	if err != nil {
		return nil, s.refused(ctx, req, c, actor, nil, nil, err)
	}
	var versions []registry.Released
	for name, d := range h.versions {
		versions = append(versions, registry.Released{Version: name, Digest: d})
	}
	reasons := s.reasons(j, c, versions)
	// What a foreign registry has under the version's tag may be anybody's.
	there, err := s.tagThere(ctx, ref, c.version.String())
	if err != nil {
		return nil, withID(undecided(err), c.id)
	}
	if there != "" && there != c.digest && h.versions[c.version.String()] == "" {
		reasons = append(reasons, Reason{ForeignVersion, fmt.Sprintf("%s:%s is there already, with digest %s", req.To, c.version, there), "release under a new version"})
	}
	if len(reasons) > 0 {
		return nil, s.refused(ctx, req, c, actor, j, reasons, nil)
	}
	// Notes compare with what was released here; a foreign registry's images
	// would have to be fetched for it.
	w, err := s.write(ctx, j, c.version.String(), "", "")
	if err != nil {
		return nil, withID(err, c.id)
	}
	out.Summaries, out.Notes, out.Verdict = w.summaries, w.text, j.results()
	if req.DryRun {
		out.DryRun = true
		return out, nil
	}
	digests, err := s.send(ctx, j, w, ref)
	if err != nil {
		return nil, withID(undecided(fmt.Errorf("sending to %s: %w", req.To, err)), c.id)
	}
	// Claims that came while it was sent were not judged.
	if err := j.unchanged(ctx); err != nil {
		return nil, s.refused(ctx, req, c, actor, j, nil, err)
	}
	e := s.entry(j, c, actor, audit.Object{Repository: req.To, Tag: c.version.String(), Digest: c.digest}, w)
	e.Moves, e.Digests = h.moves(c.version, c.digest), digests[:min(len(digests), maxDigests)]
	i, err := s.c.Log.Append(ctx, e)
	if err != nil {
		return nil, withID(undecided(err), c.id)
	}
	out.Moves, out.Entry = e.Moves, &i
	if err := s.setTags(ctx, ref, e.Moves); err != nil {
		return nil, withID(undecided(fmt.Errorf("it is in the audit log and not tagged yet: %w", err)), c.id)
	}
	s.c.Logger.Info("released to a foreign registry", "to", req.To, "version", out.Version, "digest", c.digest, "by", actor.Name, "entry", i, "request", c.id)
	return out, nil
}

// unchanged refuses when claims came or went since they were judged.
func (j *judgement) unchanged(ctx context.Context) error {
	j.place.mu.Lock()
	subjects := slices.Collect(maps.Keys(j.place.seen))
	j.place.mu.Unlock()
	for _, d := range subjects {
		if _, err := j.place.List(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// send pushes image, index, their claims and what the release adds, all by
// digest, and returns the digests of the manifests.
func (s *Service) send(ctx context.Context, j *judgement, w *written, to oci.Ref) (digests []oci.Digest, _ error) {
	c := j.place.content
	opt := image.PushOptions{Keychain: s.c.Foreign.Keychain, Transport: s.c.Foreign.Transport}
	if _, err := image.Push(ctx, c, plain(j.images.Root), to, opt); err != nil {
		return nil, err
	}
	digests = append(digests, j.images.Root.Digest)
	for _, d := range j.images.Images {
		digests = append(digests, d.Digest)
	}
	digests = append(digests, j.images.Indexes...)
	j.place.mu.Lock()
	subjects := slices.Sorted(maps.Keys(j.place.seen))
	j.place.mu.Unlock()
	for _, subject := range subjects {
		list, err := j.place.List(ctx, subject)
		if err != nil {
			return nil, err
		}
		for _, d := range list {
			if _, err := image.Push(ctx, c, plain(d), to, opt); err != nil {
				return nil, err
			}
			digests = append(digests, d.Digest)
		}
	}
	repository, err := s.repository(to)
	if err != nil {
		return nil, err
	}
	options := s.remote(ctx)
	for _, a := range w.attach {
		for _, b := range a.Blobs {
			if err := remote.WriteLayer(repository, static.NewLayer(b, types.MediaType("application/octet-stream")), options...); err != nil {
				return nil, err
			}
		}
		d := digest.FromBytes(a.Manifest)
		if err := remote.Put(repository.Digest(string(d)), taggable{types.MediaType(a.MediaType), a.Manifest}, options...); err != nil {
			return nil, err
		}
		digests = append(digests, d)
	}
	// The images first: the list may be cut.
	seen := map[oci.Digest]bool{}
	return slices.DeleteFunc(digests, func(d oci.Digest) bool {
		again := seen[d]
		seen[d] = true
		return again
	}), nil
}

func (s *Service) repository(to oci.Ref) (name.Repository, error) {
	n, err := image.RegistryName(oci.Ref{Kind: oci.RegistryRef, Host: to.Host, Name: to.Name, Tag: "latest"})
	if err != nil {
		return name.Repository{}, err
	}
	return n.Context(), nil
}

func (s *Service) remote(ctx context.Context) []remote.Option {
	return image.RegistryOptions(ctx, s.c.Foreign.Keychain, s.c.Foreign.Transport)
}

// taggable is a manifest for the registry library.
type taggable struct {
	mediaType types.MediaType
	raw       []byte
}

func (t taggable) RawManifest() ([]byte, error)        { return t.raw, nil }
func (t taggable) MediaType() (types.MediaType, error) { return t.mediaType, nil }
func (t taggable) Digest() (v1.Hash, error)            { return v1.NewHash(string(digest.FromBytes(t.raw))) }
func (t taggable) Size() (int64, error)                { return int64(len(t.raw)), nil }

// tagThere is where a tag of a foreign registry points; "" when it is not there.
func (s *Service) tagThere(ctx context.Context, to oci.Ref, tag string) (oci.Digest, error) {
	repository, err := s.repository(to)
	if err != nil {
		return "", err
	}
	d, err := remote.Head(repository.Tag(tag), s.remote(ctx)...)
	switch {
	case notThere(err):
		return "", nil
	case err != nil:
		return "", err
	}
	return oci.Digest(d.Digest.String()), nil
}

func notThere(err error) bool {
	t, ok := errors.AsType[*transport.Error](err)
	return ok && t.StatusCode == http.StatusNotFound
}

// setTags points tags to what was sent, the version first.
func (s *Service) setTags(ctx context.Context, to oci.Ref, moves []audit.Move) error {
	repository, err := s.repository(to)
	if err != nil {
		return err
	}
	options := s.remote(ctx)
	for _, m := range moves {
		d, err := remote.Get(repository.Digest(string(m.To)), options...)
		if err != nil {
			return err
		}
		if digest.FromBytes(d.Manifest) != m.To {
			return fmt.Errorf("%s@%s: %w", repository, m.To, oci.ErrDamaged)
		}
		if err := remote.Put(repository.Tag(m.Tag), taggable{d.MediaType, d.Manifest}, options...); err != nil {
			return err
		}
	}
	return nil
}

// Divergence is one thing that a foreign registry has otherwise than the log.
type Divergence struct {
	Kind    string     `json:"kind"` // tag-moved, tag-deleted, manifest-deleted, foreign-tag
	Tag     string     `json:"tag,omitempty"`
	Logged  oci.Digest `json:"logged,omitempty"`
	There   oci.Digest `json:"there,omitempty"`
	Message string     `json:"message"`
}

// The kinds of Divergence.
const (
	TagMoved        = "tag-moved"
	TagDeleted      = "tag-deleted"
	ManifestDeleted = "manifest-deleted"
	ForeignTag      = "foreign-tag"
)

// Comparison is what came of comparing a foreign repository with the log.
type Comparison struct {
	Repository  string       `json:"repository"`
	Versions    int          `json:"versions"`  // that were released to it
	Manifests   int          `json:"manifests"` // that were looked for
	Divergences []Divergence `json:"divergences"`
	Entry       *uint64      `json:"entry,omitempty"` // of the audit log, when something diverges
}

// Compare looks at a foreign repository and tells what differs from what was
// released to it; a difference is logged, once for the same differences.
func (s *Service) Compare(ctx context.Context, to string, actor audit.Actor) (*Comparison, error) {
	ref, err := s.foreign(to)
	if err != nil {
		return nil, err
	}
	h, err := s.history(ctx, to)
	if err != nil {
		return nil, err
	}
	repository, err := s.repository(ref)
	if err != nil {
		return nil, err
	}
	options := s.remote(ctx)
	out := &Comparison{Repository: to, Versions: len(h.versions), Manifests: len(h.digests), Divergences: []Divergence{}}
	add := func(d Divergence) { out.Divergences = append(out.Divergences, d) }
	tags, err := remote.List(repository, options...)
	if err != nil && !notThere(err) {
		return nil, undecided(fmt.Errorf("tags of %s: %w", to, err))
	}
	for _, tag := range slices.Sorted(maps.Keys(h.tags)) {
		want := h.tags[tag]
		there, err := s.tagThere(ctx, ref, tag)
		switch {
		case err != nil:
			return nil, undecided(fmt.Errorf("%s:%s: %w", to, tag, err))
		case there == "":
			add(Divergence{TagDeleted, tag, want, "", fmt.Sprintf("tag %s is not there; %s was released", tag, want)})
		case there != want:
			add(Divergence{TagMoved, tag, want, there, fmt.Sprintf("tag %s points to %s; %s was released", tag, there, want)})
		}
	}
	for _, d := range slices.Sorted(maps.Keys(h.digests)) {
		_, err := remote.Head(repository.Digest(string(d)), options...)
		if notThere(err) {
			add(Divergence{ManifestDeleted, "", d, "", fmt.Sprintf("manifest %s of version %s is not there", d, strings.Join(h.digests[d], ", "))})
		} else if err != nil {
			return nil, undecided(fmt.Errorf("%s@%s: %w", to, d, err))
		}
	}
	slices.Sort(tags)
	for _, tag := range tags {
		// Registries without the referrers interface list referrers under a tag
		// made of the subject's digest.
		subject := oci.Digest(strings.Replace(tag, "-", ":", 1))
		if _, known := h.digests[subject]; known || h.tags[tag] != "" {
			continue
		}
		there, err := s.tagThere(ctx, ref, tag)
		if err != nil {
			return nil, undecided(fmt.Errorf("%s:%s: %w", to, tag, err))
		}
		add(Divergence{ForeignTag, tag, "", there, fmt.Sprintf("tag %s points to %s, which nobody released under it", clip(tag), cmp.Or(there, "nothing"))})
	}
	if len(out.Divergences) == 0 {
		return out, nil
	}
	var reasons []string
	for _, d := range out.Divergences[:min(len(out.Divergences), maxReasons)] {
		reasons = append(reasons, d.Kind+": "+d.Message)
	}
	if n := len(out.Divergences) - len(reasons); n > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", n))
	}
	all, err := json.Marshal(out.Divergences)
	if err != nil {
		return nil, err
	}
	id := "diverge-" + digest.FromString(to + "\n" + string(all)).Encoded()[:32]
	i, found, err := s.c.Log.Find(ctx, 0, id)
	if err == nil && !found {
		i, err = s.c.Log.Append(ctx, audit.Entry{Type: audit.EntryType, ID: id, Time: audit.Timestamp(s.c.Now()), Action: audit.Diverge, Actor: actor,
			Object: audit.Object{Repository: to}, Verdict: audit.Refused, Reasons: reasons})
	}
	if err != nil {
		return nil, undecided(err)
	}
	out.Entry = &i
	return out, nil
}

// EntriesOf reads the entries of the server's own log: those that a checkpoint
// covers, and the newest that none covers yet.
func EntriesOf(l *audit.Log) Entries {
	return func(ctx context.Context, from uint64, f func(uint64, audit.Entry) error) error {
		r := l.Reader()
		c, err := r.Checkpoint(ctx)
		if err != nil {
			return err
		}
		for rec, err := range r.Entries(ctx, c, from, c.Size) {
			if err != nil {
				return err
			}
			if rec.Err != nil {
				continue // of a later version of this program
			}
			if err := f(rec.Index, rec.Entry); err != nil {
				return err
			}
		}
		size, err := l.Size(ctx)
		if err != nil {
			return err
		}
		for i := max(from, c.Size); i < size; i++ {
			e, err := l.Entry(ctx, i)
			if err != nil {
				return err
			}
			if err := f(i, e); err != nil {
				return err
			}
		}
		return nil
	}
}
