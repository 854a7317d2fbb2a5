package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Attachment is a manifest to be stored with a decision, with the blobs that it
// refers to: a signed summary, release notes.
type Attachment struct {
	MediaType string
	Manifest  []byte
	Blobs     [][]byte
}

// ReleaseOrder asks to make a candidate a version. Who may and whether the image
// is good enough is decided before; that the version is free, the candidate
// complete and unchanged is decided here.
type ReleaseOrder struct {
	RequestID  string
	Repository string     // the production repository; the candidate is in Repository/candidate
	Digest     oci.Digest // of the image or index
	Version    string

	// Seen are all manifests that refer to the image, its parts or each other, as
	// they were when it was judged. When there are others now, the candidate has
	// changed.
	Seen []oci.Digest

	// Judged are the image or index and, of an index, the indexes and images in it
	// that were judged. The release is refused when others would come along. nil:
	// all that the index lists.
	Judged []oci.Digest

	Attach []Attachment
	Entry  audit.Entry // actor, claims, digests of what was in force; the rest is filled in
}

// Released is a version of a production repository.
type Released struct {
	Repository string       `json:"repository"`
	Version    string       `json:"version"`
	Digest     oci.Digest   `json:"digest"`
	At         time.Time    `json:"at"`
	By         audit.Actor  `json:"by"`
	Entry      uint64       `json:"entry"` // of the audit log
	RequestID  string       `json:"requestId"`
	Moves      []audit.Move `json:"moves,omitempty"`    // convenience tags
	Again      bool         `json:"again,omitempty"`    // it was released before with this digest; claims were added
	Repeated   bool         `json:"repeated,omitempty"` // the request was repeated
	Erased     bool         `json:"erased,omitempty"`
	Revoked    *Revocation  `json:"revoked,omitempty"`
}

// maxClosure bounds how many manifests one release may bring.
const maxClosure = 5000

// releasePlan is what applyRelease needs.
type releasePlan struct {
	Candidate string       `json:"candidate"`
	Closure   []oci.Digest `json:"closure"`
	Attach    []attached   `json:"attach,omitempty"`
	MediaType string       `json:"mediaType"`
	Version   string       `json:"version"`
	Digest    oci.Digest   `json:"digest"`
	Moves     []audit.Move `json:"moves,omitempty"`
	Again     bool         `json:"again,omitempty"`
	By        audit.Actor  `json:"by"`
}

// attached is an Attachment whose blobs are in the store.
type attached struct {
	MediaType string           `json:"mediaType"`
	Manifest  []byte           `json:"manifest"`
	Blobs     []oci.Descriptor `json:"blobs,omitempty"` // digest and size
	Uploads   []string         `json:"uploads,omitempty"`
}

func checkProduction(repo string) error {
	if err := checkName(repo); err != nil {
		return err
	}
	if class, production := catalog.Of(repo); class != catalog.Production {
		return errorf(Denied, "%s is a %s catalog: versions are of %s", repo, class, production).because(NotReleased, "")
	}
	return nil
}

// Release makes a candidate a version of production: everything that the image
// consists of and everything that is said about it becomes present there, the
// version's tag is written once, and the convenience tags that the version is the
// highest of move to it. A repeated request returns what the first one did.
func (r *Registry) Release(ctx context.Context, o ReleaseOrder) (Released, error) {
	if err := checkProduction(o.Repository); err != nil {
		return Released{}, err
	}
	v, err := catalog.ParseVersion(o.Version)
	if err != nil {
		return Released{}, errorf(TagInvalid, "%v", err)
	}
	if err := ValidDigest(o.Digest); err != nil {
		return Released{}, errorf(DigestInvalid, "%q is no digest that can be used: %v", clip(string(o.Digest)), err)
	}
	asked := fingerprint([]string{"release", o.Repository, string(o.Digest), o.Version})
	var out Released
	if _, found, err := r.done(ctx, o.RequestID, asked, &out); err != nil || found {
		out.Repeated = found
		return out, err
	}
	attach, err := r.putAttachments(ctx, o.Attach)
	if err != nil {
		return Released{}, err
	}
	in := intent{ID: o.RequestID, Kind: audit.Release, Production: o.Repository, Request: asked}
	_, repeated, err := r.decide(ctx, in, &out, func(tx store.Reader, now time.Time) (audit.Entry, any, error) {
		return r.planRelease(tx, o, v, attach)
	})
	out.Repeated = repeated
	return out, err
}

// RequestDone returns what a repeated release request did before; found is false
// when there was none.
func (r *Registry) RequestDone(ctx context.Context, o ReleaseOrder) (out Released, found bool, err error) {
	_, found, err = r.done(ctx, o.RequestID, fingerprint([]string{"release", o.Repository, string(o.Digest), o.Version}), &out)
	out.Repeated = found
	return out, found, err
}

func (r *Registry) planRelease(tx store.Reader, o ReleaseOrder, v catalog.Version, attach []attached) (audit.Entry, any, error) {
	e := o.Entry
	e.Object = audit.Object{Repository: o.Repository, Tag: o.Version, Digest: o.Digest}
	p := releasePlan{Candidate: o.Repository + "/candidate", Attach: attach, Version: o.Version, Digest: o.Digest, By: o.Entry.Actor}
	// Everything that is wrong is told at once.
	var wrong []error
	have, exists, err := get[Released](tx, key(kVersion, o.Repository, o.Version))
	switch {
	case err != nil:
		return e, nil, err
	case exists && have.Erased:
		wrong = append(wrong, errorf(Denied, "%s %s was erased, and its number is not given again", o.Repository, o.Version).because(VersionErased, "choose the next version"))
	case exists && have.Digest != o.Digest:
		wrong = append(wrong, errorf(Denied, "%s %s is released already, as %s", o.Repository, o.Version, have.Digest).because(VersionExists, "choose the next version"))
	case exists:
		p.Again = true
	}
	f, ok, err := get[facts](tx, key(kFacts, p.Candidate, string(o.Digest)))
	switch {
	case err != nil:
		return e, nil, err
	case !ok:
		wrong = append(wrong, notCandidate(tx, o))
	default:
		p.MediaType = f.MediaType
		closure, missing, err := closure(tx, p.Candidate, o.Digest)
		if err != nil {
			return e, nil, err
		}
		if len(missing) > 0 {
			wrong = append(wrong, errorf(Denied, "the candidate is not complete, there is no %s", clip(strings.Join(missing, ", "))).because(CandidateIncomplete, "publish it again"))
		}
		p.Closure = closure.all
		gone, err := ended(tx, o.Repository, closure.all)
		if err != nil {
			return e, nil, err
		}
		wrong = append(wrong, gone...)
		if other, err := notJudged(tx, p.Candidate, o, closure.all); err != nil {
			return e, nil, err
		} else if len(other) > 0 {
			wrong = append(wrong, errorf(Denied, "with the candidate would come what nobody judged: %s", clip(strings.Join(other, ", "))).
				because(NotJudged, "delete from "+p.Candidate+" what refers to the candidate and is an image or index itself; of an index, list only images that are judged"))
		}
		if o.Seen != nil {
			if changed := difference(closure.referrers, o.Seen); len(changed) > 0 {
				wrong = append(wrong, errorf(Conflict, "what is said about the candidate changed while it was judged: %s", clip(strings.Join(changed, ", "))).because(CandidateChanged, "repeat with another request id"))
			}
		}
	}
	if len(wrong) > 0 {
		return e, nil, errors.Join(wrong...)
	}
	if !p.Again {
		if p.Moves, err = moves(tx, o.Repository, v, o.Digest); err != nil {
			return e, nil, err
		}
		e.Moves = append([]audit.Move{{Tag: o.Version, To: o.Digest}}, p.Moves...)
	} else {
		e.Reasons = append(e.Reasons, "released before with this digest: claims that came since are added")
	}
	// Claims and the closure are named in full as long as an entry can hold them.
	if n := len(e.Claims); n > mostBatch {
		e.Claims = e.Claims[:mostBatch]
		e.Detail = maps.Clone(e.Detail)
		if e.Detail == nil {
			e.Detail = map[string]string{}
		}
		e.Detail["claims"] = strconv.Itoa(n)
	}
	most := min(mostBatch, mostNamed-len(e.Claims))
	e.Digests = []oci.Digest{o.Digest}
	for _, d := range p.Closure {
		if d != o.Digest && len(e.Digests) < most {
			e.Digests = append(e.Digests, d)
		}
	}
	return e, p, nil
}

// ended refuses what was revoked or erased in a production repository: it does not
// come back, under another version or in an index neither.
func ended(tx store.Reader, repo string, all []oci.Digest) (wrong []error, err error) {
	for _, d := range all {
		if revoked, err := has(tx, key(kRevoked, string(d), repo)); err != nil {
			return nil, err
		} else if revoked {
			wrong = append(wrong, errorf(Denied, "%s was revoked", d).because(AlreadyRevoked, "build and release another image"))
		}
		if erased, err := has(tx, key(kTomb, repo, string(d))); err != nil {
			return nil, err
		} else if erased {
			wrong = append(wrong, errorf(Denied, "%s was erased", d).because(VersionErased, "build and release another image"))
		}
		if len(wrong) >= 20 {
			break // the same answer for an index of hundreds
		}
	}
	return wrong, nil
}

// mostNamed is how many digests an entry of the audit log has room for, beside
// all else: 75 bytes each (audit.MaxEntry).
const mostNamed = 700

// notJudged finds the images and indexes among what belongs to a candidate that
// the order does not say were judged. What refers to a candidate is meant to say
// something about it; whoever may push could let another image do so, and it would
// be in production by its digest.
func notJudged(tx store.Reader, repo string, o ReleaseOrder, all []oci.Digest) (out []string, err error) {
	judged := o.Judged
	if judged == nil {
		if judged, err = below(tx, repo, o.Digest); err != nil {
			return nil, err
		}
	}
	for _, d := range all {
		if slices.Contains(judged, d) {
			continue
		}
		raw, ok, err := tx.Get(key(kContent, repo, string(d)))
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%w: the bytes of %s of %s are gone", store.ErrDamaged, d, repo)
		}
		media, content, _ := bytes.Cut(raw, []byte{0})
		if Runs(Manifest{Digest: d, MediaType: string(media), Content: content}) {
			out = append(out, string(d))
		}
	}
	return out, nil
}

// Runs tells whether a runtime could run a manifest: whether it is an image, an
// index that may list some, or cannot be read.
func Runs(m Manifest) bool {
	doc, err := readManifest(m.MediaType, m.Content, m.Digest)
	return err != nil || doc.image != "" || doc.index()
}

// notCandidate says what a digest is that is no candidate.
func notCandidate(tx store.Reader, o ReleaseOrder) error {
	for rec, err := range tx.Scan(key(kRepo, o.Repository+"/"), nil) {
		if err != nil {
			return err
		}
		repo := last(rec.Key)
		if class, _ := catalog.Of(repo); class != catalog.Development {
			continue
		}
		if ok, err := has(tx, key(kFacts, repo, string(o.Digest))); err != nil {
			return err
		} else if ok {
			return errorf(Denied, "%s is an image of the development catalog %s: it can never be released", o.Digest, repo).
				because(WrongZone, "release the production image of the same build: twinhull publish prints its digest")
		}
	}
	return errorf(ManifestUnknown, "%s/candidate has no %s", o.Repository, o.Digest).because(NotCandidate, "publish it first: twinhull publish")
}

// found is what belongs to a candidate.
type found struct {
	all       []oci.Digest // manifests: parts before what they are parts of, subjects before what refers to them
	referrers []oci.Digest // those among them that refer to something
}

// closure finds all that an image consists of and all that is said about it.
func closure(tx store.Reader, repo string, root oci.Digest) (out found, missing []string, err error) {
	seen := map[oci.Digest]bool{}
	var visit func(d oci.Digest) error
	visit = func(d oci.Digest) error {
		if seen[d] {
			return nil
		}
		if len(seen) >= maxClosure {
			return errorf(Denied, "more than %d manifests belong to the candidate", maxClosure).because(TooManyReferrers, "")
		}
		seen[d] = true
		f, ok, err := get[facts](tx, key(kFacts, repo, string(d)))
		if err != nil {
			return err
		}
		if !ok {
			missing = append(missing, string(d))
			return nil
		}
		for _, c := range f.Children {
			// An image's parts are blobs, even if their bytes are kept as a manifest
			// too: that is another thing, which nobody judged.
			if f.index() {
				if err := visit(c); err != nil {
					return err
				}
			} else if isBlob, err := has(tx, key(kBlob, repo, string(c))); err != nil {
				return err
			} else if !isBlob {
				missing = append(missing, string(c))
			}
		}
		out.all = append(out.all, d)
		names, err := keysOf(tx, key(kReferrer, repo, string(d), ""), maxClosure)
		if err != nil {
			return err
		}
		for _, x := range names {
			out.referrers = append(out.referrers, oci.Digest(x))
			if err := visit(oci.Digest(x)); err != nil {
				return err
			}
		}
		return nil
	}
	return out, missing, visit(root)
}

// Closure lists all manifests that belong to an image of a repository, and those
// among them that refer to others: what a ReleaseOrder must have Seen.
func (r *Registry) Closure(ctx context.Context, repo string, d oci.Digest) (all, referrers []oci.Digest, err error) {
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		c, missing, err := closure(tx, repo, d)
		if err == nil && len(missing) > 0 {
			err = errorf(ManifestUnknown, "%s has no %s", repo, clip(strings.Join(missing, ", "))).because(CandidateIncomplete, "publish it again")
		}
		all, referrers = c.all, c.referrers
		return err
	})
	return all, referrers, err
}

// difference lists what is in one and not in the other.
func difference(now, before []oci.Digest) (out []string) {
	for _, d := range now {
		if !slices.Contains(before, d) {
			out = append(out, string(d)+" came")
		}
	}
	for _, d := range before {
		if !slices.Contains(now, d) {
			out = append(out, string(d)+" went")
		}
	}
	return out
}

// versions reads the released versions of a repository that are not erased.
func versions(tx store.Reader, repo string) (out []catalog.Version, err error) {
	for rec, err := range tx.Scan(key(kVersion, repo, ""), nil) {
		if err != nil {
			return nil, err
		}
		var have Released
		if err := json.Unmarshal(rec.Value, &have); err != nil {
			return nil, fmt.Errorf("%w: a version of %s: %v", store.ErrDamaged, repo, err)
		}
		if have.Erased {
			continue
		}
		v, err := catalog.ParseVersion(have.Version)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", store.ErrDamaged, err)
		}
		out = append(out, v)
	}
	return out, nil
}

// moves computes which convenience tags a new version takes.
func moves(tx store.Reader, repo string, v catalog.Version, d oci.Digest) (out []audit.Move, err error) {
	released, err := versions(tx, repo)
	if err != nil {
		return nil, err
	}
	at, from := map[string]catalog.Version{}, map[string]oci.Digest{}
	for _, tag := range v.Tags() {
		d, t, ok, err := getTag(tx, repo, tag)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if at[tag], err = catalog.ParseVersion(t.Version); err != nil {
			return nil, fmt.Errorf("%w: the tag %s of %s: %v", store.ErrDamaged, tag, repo, err)
		}
		from[tag] = d
	}
	for _, tag := range catalog.Moves(v, released, at) {
		out = append(out, audit.Move{Tag: tag, From: from[tag], To: d})
	}
	return out, nil
}

// putAttachments makes attachments' blobs content. Their uploads stay until the
// decision is done, so that what is never decided is collected.
func (r *Registry) putAttachments(ctx context.Context, all []Attachment) (out []attached, err error) {
	for _, a := range all {
		x := attached{MediaType: a.MediaType, Manifest: a.Manifest}
		if _, err := readManifest(a.MediaType, a.Manifest, digest.FromBytes(a.Manifest)); err != nil {
			return nil, err
		}
		for _, b := range a.Blobs {
			id, err := r.store.Uploads.Create(ctx)
			if err != nil {
				return nil, err
			}
			if _, err := r.store.Uploads.Append(ctx, id, 0, bytes.NewReader(b)); err != nil {
				return nil, err
			}
			d := digest.FromBytes(b)
			if _, err := r.store.Uploads.Commit(ctx, id, d); err != nil {
				return nil, err
			}
			x.Blobs = append(x.Blobs, oci.Descriptor{Digest: d, Size: int64(len(b))})
			x.Uploads = append(x.Uploads, id)
		}
		out = append(out, x)
	}
	return out, nil
}

// attach stores attachments in a production repository.
func (r *Registry) attach(tx store.Transaction, repo string, all []attached, by audit.Actor, now time.Time) error {
	for _, a := range all {
		for _, b := range a.Blobs {
			if err := r.linkProduction(tx, repo, b.Digest, b.Size); err != nil {
				return err
			}
		}
		d := digest.FromBytes(a.Manifest)
		doc, err := readManifest(a.MediaType, a.Manifest, d)
		if err != nil {
			return err
		}
		if err := complete(tx, repo, doc); err != nil {
			return err
		}
		doc.Pushed, doc.By = now, by
		if _, err := r.addManifest(tx, repo, d, doc, a.Manifest, now); err != nil {
			return err
		}
	}
	return nil
}

// discard forgets the uploads of attachments.
func (r *Registry) discard(all []attached) func(ctx context.Context) error {
	return func(ctx context.Context) (err error) {
		for _, a := range all {
			for _, id := range a.Uploads {
				err = errors.Join(err, r.store.Uploads.Discard(ctx, id))
			}
		}
		return err
	}
}

// linkProduction links a blob for good; errDeleting when its bytes are on their
// way out (see reattach).
func (r *Registry) linkProduction(tx store.Transaction, repo string, d oci.Digest, size int64) error {
	if ok, err := has(tx, key(kDeleting, string(d))); err != nil {
		return err
	} else if ok {
		return errDeleting
	}
	if err := put(tx, key(kBlob, repo, string(d)), link{Size: size}); err != nil {
		return err
	}
	return tx.Put(key(kHolder, string(d), repo), nil)
}

func (r *Registry) applyRelease(tx store.Transaction, in intent, index uint64) (any, func(context.Context) error, error) {
	var p releasePlan
	if err := json.Unmarshal(in.Plan, &p); err != nil {
		return nil, nil, fmt.Errorf("%w: the plan of a release: %v", store.ErrDamaged, err)
	}
	repo := in.Production
	for _, d := range p.Closure {
		raw, ok, err := tx.Get(key(kContent, p.Candidate, string(d)))
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			return nil, nil, fmt.Errorf("%w: %s of %s is gone while it was being released", store.ErrDamaged, d, p.Candidate)
		}
		media, content, _ := bytes.Cut(raw, []byte{0})
		content = bytes.Clone(content)
		doc, err := readManifest(string(media), content, d)
		if err != nil {
			return nil, nil, err
		}
		for _, b := range doc.blobs {
			l, ok, err := get[link](tx, key(kBlob, p.Candidate, string(b.Digest)))
			if err != nil {
				return nil, nil, err
			}
			if !ok {
				return nil, nil, fmt.Errorf("%w: the blob %s of %s is gone while it was being released", store.ErrDamaged, b.Digest, p.Candidate)
			}
			if err := r.linkProduction(tx, repo, b.Digest, l.Size); err != nil {
				return nil, nil, err
			}
		}
		doc.Pushed, doc.By = in.At, p.By
		if _, err := r.addManifest(tx, repo, d, doc, content, in.At); err != nil {
			return nil, nil, err
		}
	}
	if err := r.attach(tx, repo, p.Attach, p.By, in.At); err != nil {
		return nil, nil, err
	}
	out := Released{Repository: repo, Version: p.Version, Digest: p.Digest, At: in.At, By: p.By, Entry: index, RequestID: in.ID, Moves: p.Moves, Again: p.Again}
	if p.Again {
		return out, r.discard(p.Attach), nil
	}
	if err := put(tx, key(kVersion, repo, p.Version), out); err != nil {
		return nil, nil, err
	}
	if err := tx.Put(key(kReleased, repo, string(p.Digest), p.Version), nil); err != nil {
		return nil, nil, err
	}
	for _, tag := range append([]string{p.Version}, tagsOf(p.Moves)...) {
		if err := r.setVersionTag(tx, repo, tag, p.Digest, p.MediaType, p.Version, p.By, in.At); err != nil {
			return nil, nil, err
		}
	}
	return out, r.discard(p.Attach), nil
}

func tagsOf(moves []audit.Move) (out []string) {
	for _, m := range moves {
		out = append(out, m.Tag)
	}
	return out
}

// setVersionTag points a tag of production to a version.
func (r *Registry) setVersionTag(tx store.Transaction, repo, tag string, d oci.Digest, mediaType, version string, by audit.Actor, now time.Time) error {
	if err := r.setTag(tx, repo, tag, d, mediaType, by, now); err != nil {
		return err
	}
	return putTag(tx, repo, tag, d, tagRecord{MediaType: mediaType, Pushed: now, By: by, Version: version})
}

// Versions lists the versions of a production repository, the lowest first.
func (r *Registry) Versions(ctx context.Context, repo string) (out []Released, err error) {
	if err := checkProduction(repo); err != nil {
		return nil, err
	}
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		out = nil
		for rec, err := range tx.Scan(key(kVersion, repo, ""), nil) {
			if err != nil {
				return err
			}
			var v Released
			if err := json.Unmarshal(rec.Value, &v); err != nil {
				return fmt.Errorf("%w: a version of %s: %v", store.ErrDamaged, repo, err)
			}
			if k, ok, err := get[Revocation](tx, key(kRevoked, string(v.Digest), repo)); err != nil {
				return err
			} else if ok {
				v.Revoked = &k
			}
			out = append(out, v)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b Released) int {
		v, _ := catalog.ParseVersion(a.Version)
		w, _ := catalog.ParseVersion(b.Version)
		return v.Compare(w)
	})
	return out, nil
}
