package registry

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

// writable refuses what may not be written by hand in the repository's catalog.
// It is asked inside each transaction that writes; a name that fits no catalog is
// production.
func writable(repo string, tags ...string) *Error {
	class, production := catalog.Of(repo)
	switch {
	case class == catalog.Production && slices.ContainsFunc(tags, func(t string) bool { return catalog.KindOf(t) == catalog.ConvenienceTag }):
		return errorf(Denied, "%s of %s is computed from the released versions", tags[0], repo).
			because(ComputedTag, "release a version: twinhull release "+production+"@DIGEST VERSION")
	case class == catalog.Production:
		return errorf(Denied, "%s is a production repository: only a release writes to it", repo).
			because(ByReleaseOnly, "push development images to "+production+"/dev, production images to "+production+"/candidate, and release those")
	case class == catalog.Candidate && len(tags) > 0:
		return errorf(Denied, "%s keeps production images by digest, without tags", repo).
			because(CandidateByDigest, "push by digest, and release it: twinhull release "+production+"@DIGEST VERSION")
	}
	return nil
}

// StartUpload begins an upload to a repository.
func (r *Registry) StartUpload(ctx context.Context, repo string, a audit.Actor) (string, error) {
	if err := checkName(repo); err != nil {
		return "", err
	}
	if err := writable(repo); err != nil {
		return "", r.refuse(ctx, err, audit.RefuseWrite, a, audit.Object{Repository: repo})
	}
	id, err := r.store.Uploads.Create(ctx)
	if err != nil {
		return "", err
	}
	return r.uploadName(repo, id), nil
}

// upload finds the store's upload by what the client was given, which holds for
// one repository only: whoever may push there may continue it.
func (r *Registry) upload(repo, name string) (string, error) {
	if id, ok := r.uploadID(repo, name); ok {
		return id, nil
	}
	return "", unknownUpload(nil)
}

func unknownUpload(err error) *Error {
	e := errorf(BlobUploadUnknown, "there is no such upload").because(UploadGone, "begin it anew")
	e.Err = err
	return e
}

func uploadError(err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrUnusableID):
		return unknownUpload(err)
	case errors.Is(err, store.ErrOffset):
		return &Error{Code: RangeInvalid, Message: "the part does not begin where the upload ends", Err: err}
	case errors.Is(err, store.ErrBusy):
		return &Error{Code: Conflict, Message: "another request writes this upload", Err: err}
	case errors.Is(err, store.ErrDigest):
		return &Error{Code: DigestInvalid, Message: "what was uploaded has another digest", Err: err}
	}
	return err
}

// AppendUpload adds a part that begins at offset at; -1 for where the upload is.
// It returns the upload's size, with an error too.
func (r *Registry) AppendUpload(ctx context.Context, repo, name string, at int64, in io.Reader) (int64, error) {
	id, err := r.upload(repo, name)
	if err != nil {
		return 0, err
	}
	if at < 0 {
		u, err := r.store.Uploads.Status(ctx, id)
		if err != nil {
			return 0, uploadError(err)
		}
		at = u.Size
	}
	n, err := r.store.Uploads.Append(ctx, id, at, in)
	return n, uploadError(err)
}

// UploadStatus is how many bytes an upload has.
func (r *Registry) UploadStatus(ctx context.Context, repo, name string) (int64, error) {
	id, err := r.upload(repo, name)
	if err != nil {
		return 0, err
	}
	u, err := r.store.Uploads.Status(ctx, id)
	return u.Size, uploadError(err)
}

// CancelUpload forgets an upload.
func (r *Registry) CancelUpload(ctx context.Context, repo, name string) error {
	id, err := r.upload(repo, name)
	if err != nil {
		return err
	}
	if _, err := r.store.Uploads.Status(ctx, id); err != nil {
		return uploadError(err)
	}
	return uploadError(r.store.Uploads.Discard(ctx, id))
}

// FinishUpload makes an upload a blob of the repository.
func (r *Registry) FinishUpload(ctx context.Context, name string, f Finish, a audit.Actor) error {
	id, err := r.upload(f.Repository, name)
	if err != nil {
		return err
	}
	if err := ValidDigest(f.Digest); err != nil {
		return errorf(DigestInvalid, "%q is no digest that can be used: %v", clip(string(f.Digest)), err)
	}
	if f.Last != nil {
		if _, err := r.AppendUpload(ctx, f.Repository, name, f.At, f.Last); err != nil {
			return err
		}
	}
	return uploadError(r.commit(ctx, id, f.Repository, f.Digest))
}

// commit makes an upload content, refers to it from a repository, and forgets the
// upload, in this order: after a crash the content is found through the upload.
func (r *Registry) commit(ctx context.Context, id, repo string, d oci.Digest) error {
	for {
		size, err := r.store.Uploads.Commit(ctx, id, d)
		if err != nil {
			return err
		}
		err = r.store.Records.Update(ctx, func(tx store.Transaction) error {
			if e := writable(repo); e != nil {
				return e
			}
			if err := r.linkBlob(tx, repo, d, size); err != nil {
				return err
			}
			return r.stillThere(ctx, d)
		})
		if errors.Is(err, errDeleting) {
			// The same bytes are just being deleted: they are gone in a moment, and
			// the upload is there to put them again.
			err := r.deleteContent(ctx, d)
			if errors.Is(err, errDeleting) { // by another server
				err = pause(ctx, 100*time.Millisecond)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := r.store.Uploads.Discard(ctx, id); err != nil {
			r.opt.Logger.Warn("an upload that is finished could not be removed", "upload", id, "error", err)
		}
		return nil
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// errDeleting: the blob's bytes are on their way out, or are gone.
var errDeleting = errors.New("the blob is being deleted")

// stillThere looks for bytes that were committed before the transaction it is called
// in: another deletion of the same bytes may have begun and ended since, and left no
// mark. Called when the transaction has seen none, its answer holds: a deletion that
// begins now is in conflict with the transaction, whose reference it must not see.
func (r *Registry) stillThere(ctx context.Context, d oci.Digest) error {
	_, err := r.store.Blobs.Size(ctx, d)
	if errors.Is(err, store.ErrNotFound) {
		return errDeleting
	}
	return err
}

// linkBlob says that a repository has a blob.
func (r *Registry) linkBlob(tx store.Transaction, repo string, d oci.Digest, size int64) error {
	if ok, err := has(tx, key(kDeleting, string(d))); err != nil {
		return err
	} else if ok {
		return errDeleting
	}
	now := r.opt.Now()
	if err := r.addRepo(tx, repo, now); err != nil {
		return err
	}
	if err := put(tx, key(kBlob, repo, string(d)), link{Size: size, Free: now}); err != nil {
		return err
	}
	if err := tx.Put(key(kHolder, string(d), repo), nil); err != nil {
		return err
	}
	return tx.Put(dueKey(now.Add(r.opt.Retain.Unreferenced), dueBlob, repo, string(d)), nil)
}

func (r *Registry) addRepo(tx store.Transaction, repo string, now time.Time) error {
	if ok, err := has(tx, key(kRepo, repo)); err != nil || ok {
		return err
	}
	return put(tx, key(kRepo, repo), struct {
		Created time.Time `json:"created"`
	}{now})
}

// Mount makes a blob of one repository one of another, without sending it
// (distribution specification, end-11). from "" means wherever it is known to be
// allowed: the repository itself. Not mounted means: upload it. Whether the actor
// may read from is the caller's question.
func (r *Registry) Mount(ctx context.Context, repo string, d oci.Digest, from string, a audit.Actor) (bool, error) {
	if err := checkName(repo); err != nil {
		return false, err
	}
	if err := ValidDigest(d); err != nil {
		return false, nil
	}
	if e := writable(repo); e != nil {
		return false, r.refuse(ctx, e, audit.RefuseWrite, a, audit.Object{Repository: repo, Digest: d})
	}
	if from == "" {
		from = repo
	}
	mounted := false
	err := r.store.Records.Update(ctx, func(tx store.Transaction) error {
		mounted = false
		l, ok, err := get[link](tx, key(kBlob, from, string(d)))
		if err != nil || !ok {
			return err
		}
		if err := r.linkBlob(tx, repo, d, l.Size); err != nil {
			return err
		}
		mounted = true
		return nil
	})
	if errors.Is(err, errDeleting) {
		return false, nil
	}
	return mounted, err
}

// PutManifest stores a manifest and points tags to it, in one transaction.
func (r *Registry) PutManifest(ctx context.Context, p Put) (Stored, error) {
	if err := checkName(p.Repository); err != nil {
		return Stored{}, err
	}
	for _, t := range p.Tags {
		if err := oci.ValidTag(t); err != nil {
			return Stored{}, errorf(TagInvalid, "%v", err)
		}
	}
	// Before the content is read: what may not be written is refused whatever it is.
	if e := writable(p.Repository, p.Tags...); e != nil {
		return Stored{}, r.refuse(ctx, e, audit.RefuseWrite, p.Actor, audit.Object{Repository: p.Repository, Tag: first(p.Tags), Digest: p.Digest})
	}
	if len(p.Content) > MaxManifest {
		return Stored{}, errorf(SizeInvalid, "the manifest is larger than %d bytes", MaxManifest).because(ManifestTooLarge, "")
	}
	d := p.Digest
	if d == "" {
		d = digest.FromBytes(p.Content)
	} else if err := ValidDigest(d); err != nil {
		return Stored{}, errorf(DigestInvalid, "%q is no digest that can be used: %v", clip(string(d)), err)
	} else if d.Algorithm().FromBytes(p.Content) != d {
		return Stored{}, errorf(DigestInvalid, "the manifest has another digest than %s", d)
	}
	if len(p.Content) > largeManifest {
		// A large one takes many times its size while it is read.
		select {
		case r.large <- struct{}{}:
			defer func() { <-r.large }()
		case <-ctx.Done():
			return Stored{}, ctx.Err()
		}
	}
	doc, err := readManifest(p.MediaType, p.Content, d)
	if err != nil {
		return Stored{}, err
	}
	if err := r.zone(ctx, p.Repository, doc); err != nil {
		if e, ok := errors.AsType[*Error](err); ok && e.Reason == WrongZone {
			return Stored{}, r.refuse(ctx, e, audit.RefuseWrite, p.Actor, audit.Object{Repository: p.Repository, Tag: first(p.Tags), Digest: d})
		}
		return Stored{}, err
	}
	out := Stored{Digest: d, Subject: doc.Subject}
	err = r.store.Records.Update(ctx, func(tx store.Transaction) (err error) {
		if e := writable(p.Repository, p.Tags...); e != nil {
			return e
		}
		if err := complete(tx, p.Repository, doc); err != nil {
			return err
		}
		now := r.opt.Now()
		doc.Pushed, doc.By = now, p.Actor
		if out.Existed, err = r.addManifest(tx, p.Repository, d, doc, p.Content, now); err != nil {
			return err
		}
		for _, tag := range p.Tags {
			if err := r.setTag(tx, p.Repository, tag, d, doc.MediaType, p.Actor, now); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// complete refuses a manifest that refers to what the repository does not have.
func complete(tx store.Reader, repo string, doc *document) error {
	// A few are told: whoever sends tens of thousands that are not there should not
	// keep others from writing while each is looked for.
	var missing []string
	const most = 10
	for _, b := range doc.blobs {
		if len(missing) == most {
			break
		}
		l, ok, err := get[link](tx, key(kBlob, repo, string(b.Digest)))
		if err != nil {
			return err
		}
		switch {
		case !ok:
			missing = append(missing, string(b.Digest))
		case l.Size != b.Size:
			return errorf(ManifestInvalid, "the manifest says that %s has %d bytes, it has %d", b.Digest, b.Size, l.Size)
		}
	}
	for _, m := range doc.manifests {
		if len(missing) == most {
			break
		}
		ok, err := has(tx, key(kFacts, repo, string(m.Digest)))
		if err != nil {
			return err
		}
		if !ok {
			missing = append(missing, string(m.Digest))
		}
	}
	if len(missing) > 0 {
		return errorf(ManifestBlobUnknown, "the manifest refers to what %s does not have: %s", repo, clip(strings.Join(missing, ", ")))
	}
	return nil
}

// addManifest stores a manifest with all that points to and from it.
func (r *Registry) addManifest(tx store.Transaction, repo string, d oci.Digest, doc *document, content []byte, now time.Time) (existed bool, err error) {
	if err := r.addRepo(tx, repo, now); err != nil {
		return false, err
	}
	have, existed, err := get[facts](tx, key(kFacts, repo, string(d)))
	if err != nil {
		return false, err
	}
	class, _ := catalog.Of(repo)
	if existed && class == catalog.Production {
		return true, nil // as it was released, the type that it is served with too
	}
	f := doc.facts
	if existed {
		f.Pinned = have.Pinned
	}
	if err := put(tx, key(kFacts, repo, string(d)), f); err != nil {
		return false, err
	}
	if class != catalog.Production {
		if err := tx.Put(dueKey(now.Add(r.retention(class)), dueManifest, repo, string(d)), nil); err != nil {
			return false, err
		}
	}
	if existed && have.MediaType == f.MediaType {
		return true, nil
	}
	if err := tx.Put(key(kContent, repo, string(d)), slices.Concat([]byte(doc.MediaType), []byte{0}, content)); err != nil {
		return false, err
	}
	for _, c := range doc.Children {
		if err := tx.Put(key(kParent, repo, string(c), string(d)), nil); err != nil {
			return false, err
		}
	}
	if doc.Subject != "" {
		return existed, put(tx, key(kReferrer, repo, string(doc.Subject), string(d)), doc.referrer)
	}
	return existed, nil
}

// setTag points a tag to a manifest that is there.
func (r *Registry) setTag(tx store.Transaction, repo, tag string, d oci.Digest, mediaType string, a audit.Actor, now time.Time) error {
	from, have, existed, err := getTag(tx, repo, tag)
	if err != nil {
		return err
	}
	rec := tagRecord{MediaType: mediaType, Pushed: now, By: a}
	if existed {
		rec.Pinned = have.Pinned
	}
	if err := putTag(tx, repo, tag, d, rec); err != nil {
		return err
	}
	class, _ := catalog.Of(repo)
	if class != catalog.Production {
		if at := r.tagExpires(repo, tag, rec); !at.IsZero() {
			if err := tx.Put(dueKey(at, dueTag, repo, tag), nil); err != nil {
				return err
			}
		}
	}
	if existed && from == d {
		return nil
	}
	if existed {
		if err := r.untag(tx, repo, tag, from, now); err != nil {
			return err
		}
	}
	if err := tx.Put(key(kTagged, repo, string(d), tag), nil); err != nil {
		return err
	}
	return r.remember(tx, repo, tag, Event{At: now, From: from, To: d, By: a})
}

// untag removes what says that a tag pointed to a manifest, and has the manifest
// looked at.
func (r *Registry) untag(tx store.Transaction, repo, tag string, from oci.Digest, now time.Time) error {
	if err := tx.Delete(key(kTagged, repo, string(from), tag)); err != nil {
		return err
	}
	if class, _ := catalog.Of(repo); class == catalog.Production {
		return nil
	}
	return tx.Put(dueKey(now, dueManifest, repo, string(from)), nil)
}

// mostEvents is how many events of a tag are kept outside of production, so that
// whoever moves a tag a million times does not fill the records.
const mostEvents = 1000

// remember adds to a tag's history. Two events of one moment have two keys.
func (r *Registry) remember(tx store.Transaction, repo, tag string, e Event) error {
	if class, _ := catalog.Of(repo); class != catalog.Production {
		n, _, err := get[int](tx, key(kEvents, repo, tag))
		if err != nil {
			return err
		}
		if n++; n > mostEvents {
			n = mostEvents
			var oldest []byte
			for rec, err := range tx.Scan(key(kHistory, repo, tag, ""), nil) {
				if err != nil {
					return err
				}
				oldest = slices.Clone(rec.Key)
				break
			}
			if err := tx.Delete(oldest); err != nil {
				return err
			}
		}
		if err := put(tx, key(kEvents, repo, tag), n); err != nil {
			return err
		}
	}
	for at := e.At; ; at = at.Add(1) {
		k := append(key(kHistory, repo, tag, ""), timeField(at)...)
		if ok, err := has(tx, k); err != nil {
			return err
		} else if !ok {
			return put(tx, k, e)
		}
	}
}

// zone refuses an image of one zone in the catalog of the other. An image is
// what a runtime could run; other manifests need not say a zone, and must not say
// the wrong one.
func (r *Registry) zone(ctx context.Context, repo string, doc *document) error {
	class, production := catalog.Of(repo)
	label := ""
	if doc.image != "" {
		content, err := r.small(ctx, repo, doc.image)
		if err != nil {
			return err
		}
		if label, err = configZone(content); err != nil {
			if class == catalog.Development {
				label = "" // tools test with configurations that say nothing
			} else {
				return errorf(ManifestInvalid, "the image's configuration cannot be read: %v", err)
			}
		}
	}
	says := func(z oci.Zone) bool { return label == string(z) || doc.annotation == string(z) }
	switch {
	case class == catalog.Development && says(oci.Production):
		return errorf(Denied, "the image says that it is of production, and %s is a development catalog", repo).
			because(WrongZone, "push it to "+production+"/candidate, by digest")
	case class == catalog.Candidate && says(oci.Development):
		return errorf(Denied, "the image says that it is of development: it can never be a candidate").
			because(WrongZone, "push it to "+production+"/dev, and build the production image for "+repo)
	case class == catalog.Candidate && doc.image != "" && (label != string(oci.Production) || doc.annotation != string(oci.Production)):
		return errorf(Denied, "the image does not say in both its configuration's label and its manifest's annotation %s that it is of production", oci.ZoneKey).
			because(WrongZone, "build it with twinhull build")
	}
	return nil
}

// small reads a blob of a repository that is not larger than a manifest may be.
func (r *Registry) small(ctx context.Context, repo string, d oci.Digest) ([]byte, error) {
	b, err := r.Blob(ctx, repo, d)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == BlobUnknown {
		return nil, errorf(ManifestBlobUnknown, "the manifest refers to what %s does not have: %s", repo, d)
	}
	if err != nil {
		return nil, err
	}
	defer b.Content.Close()
	if b.Size > MaxManifest {
		return nil, errorf(ManifestInvalid, "the image's configuration is larger than %d bytes", MaxManifest)
	}
	return io.ReadAll(io.LimitReader(b.Content, MaxManifest))
}
