package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

func unknownManifest(repo, ref string) *Error {
	return errorf(ManifestUnknown, "%s has no manifest %s", repo, clip(ref))
}

func checkName(repo string) error {
	if !catalog.ValidName(repo) {
		return errorf(NameInvalid, "%q is no repository's name", clip(repo))
	}
	return nil
}

// Manifest returns a manifest by tag or digest. An erased one is unknown, with
// its tombstone's reason.
func (r *Registry) Manifest(ctx context.Context, repo, ref string) (Manifest, error) {
	var m Manifest
	err := r.store.Records.View(ctx, func(tx store.Reader) error {
		d := oci.Digest(ref)
		if !strings.ContainsRune(ref, ':') {
			raw, ok, err := tx.Get(key(kTag, repo, ref))
			if err != nil {
				return err
			}
			if !ok {
				return unknownManifest(repo, ref)
			}
			i := bytes.IndexByte(raw, 0)
			if i < 0 {
				return store.ErrDamaged
			}
			d = oci.Digest(raw[:i])
		}
		raw, ok, err := tx.Get(key(kContent, repo, string(d)))
		if err != nil {
			return err
		}
		if !ok {
			if t, ok, err := get[Tombstone](tx, key(kTomb, repo, string(d))); err != nil {
				return err
			} else if ok {
				return unknownManifest(repo, ref).because(VersionErased, "erased on "+t.At.Format("2006-01-02")+": "+t.Reason)
			}
			return unknownManifest(repo, ref)
		}
		media, content, _ := bytes.Cut(raw, []byte{0})
		m = Manifest{Digest: d, MediaType: string(media), Content: bytes.Clone(content)}
		return nil
	})
	return m, err
}

// Blob opens a blob of a repository.
func (r *Registry) Blob(ctx context.Context, repo string, d oci.Digest) (*store.Blob, error) {
	if _, err := r.BlobSize(ctx, repo, d); err != nil {
		return nil, err
	}
	b, err := r.store.Blobs.Open(ctx, d)
	if errors.Is(err, store.ErrNotFound) {
		// Linked and not there: between a deletion and its link, or damaged.
		return nil, &Error{Code: BlobUnknown, Message: "the blob is not in the store", Err: err}
	}
	return b, err
}

// BlobSize is the size of a blob of a repository in bytes.
func (r *Registry) BlobSize(ctx context.Context, repo string, d oci.Digest) (int64, error) {
	var l link
	err := r.store.Records.View(ctx, func(tx store.Reader) (err error) {
		var ok bool
		if l, ok, err = get[link](tx, key(kBlob, repo, string(d))); err == nil && !ok {
			err = errorf(BlobUnknown, "%s has no blob %s", repo, clip(string(d)))
		}
		return err
	})
	return l.Size, err
}

// list collects the last fields of keys in order, one more than asked to know
// whether there are more.
func (r *Registry) list(ctx context.Context, prefix []byte, p Page) (names []string, more bool, err error) {
	if p.Limit < 0 {
		return nil, false, nil
	}
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		names, more = nil, false
		var after []byte
		if p.After != "" {
			after = append(slices.Clone(prefix), p.After...)
		}
		for rec, err := range tx.Scan(prefix, after) {
			if err != nil {
				return err
			}
			if p.Limit > 0 && len(names) == p.Limit {
				more = true
				return nil
			}
			names = append(names, string(rec.Key[len(prefix):]))
		}
		return nil
	})
	return names, more, err
}

// Tags lists a repository's tags in bytewise order.
func (r *Registry) Tags(ctx context.Context, repo string, p Page) ([]string, bool, error) {
	if err := r.known(ctx, repo); err != nil {
		return nil, false, err
	}
	return r.list(ctx, key(kTag, repo, ""), p)
}

// known refuses repositories that nothing was ever pushed to.
func (r *Registry) known(ctx context.Context, repo string) error {
	return r.store.Records.View(ctx, func(tx store.Reader) error {
		if ok, err := has(tx, key(kRepo, repo)); err != nil || ok {
			return err
		}
		return errorf(NameUnknown, "there is no repository %s", clip(repo))
	})
}

// Repositories lists all repositories in bytewise order.
func (r *Registry) Repositories(ctx context.Context, p Page) ([]string, bool, error) {
	return r.list(ctx, []byte{kRepo}, p)
}

// Referrers lists the manifests whose subject is the digest, in the order of
// their digests; of one artifact type when it is not "". A subject or repository
// that is unknown has none (distribution specification, "Listing Referrers").
func (r *Registry) Referrers(ctx context.Context, repo string, subject oci.Digest, artifactType string, p Page) (list []oci.Descriptor, more bool, err error) {
	prefix := key(kReferrer, repo, string(subject), "")
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		list, more = nil, false
		var after []byte
		if p.After != "" {
			after = append(slices.Clone(prefix), p.After...)
		}
		for rec, err := range tx.Scan(prefix, after) {
			if err != nil {
				return err
			}
			var d oci.Descriptor
			if err := json.Unmarshal(rec.Value, &d); err != nil {
				return errors.Join(store.ErrDamaged, err)
			}
			if artifactType != "" && d.ArtifactType != artifactType {
				continue
			}
			if p.Limit > 0 && len(list) == p.Limit {
				more = true
				return nil
			}
			list = append(list, d)
		}
		return nil
	})
	return list, more, err
}

// AppendReferrers is Referrers for a listing that goes out as it is kept: it appends
// the descriptors to b as the elements of a JSON array, at most p.Limit of them and,
// but for the first, at most so many bytes. last is the digest of the last one.
func (r *Registry) AppendReferrers(ctx context.Context, b []byte, repo string, subject oci.Digest, artifactType string, p Page, most int) (_ []byte, last oci.Digest, more bool, err error) {
	prefix := key(kReferrer, repo, string(subject), "")
	// What a descriptor of the type has in it; whether it is the type is asked then.
	wanted, err := json.Marshal(artifactType)
	if err != nil {
		return b, "", false, err
	}
	began := len(b)
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		b, last, more = b[:began], "", false
		var after []byte
		if p.After != "" {
			after = append(slices.Clone(prefix), p.After...)
		}
		n := 0
		var end []byte // key of the last one
		for rec, err := range tx.Scan(prefix, after) {
			if err != nil {
				return err
			}
			if artifactType != "" {
				if !bytes.Contains(rec.Value, wanted) {
					continue
				}
				var d oci.Descriptor
				if err := json.Unmarshal(rec.Value, &d); err != nil {
					return errors.Join(store.ErrDamaged, err)
				}
				if d.ArtifactType != artifactType {
					continue
				}
			}
			if p.Limit > 0 && n == p.Limit || n > 0 && len(b)-began+1+len(rec.Value) > most {
				more = true
				break
			}
			if n > 0 {
				b = append(b, ',')
			}
			b = append(b, rec.Value...)
			end = append(end[:0], rec.Key[len(prefix):]...)
			n++
		}
		last = oci.Digest(end)
		return nil
	})
	return b, last, more, err
}

// TagOf tells where a tag points and when it goes.
func (r *Registry) TagOf(ctx context.Context, repo, tag string) (Tag, error) {
	var out Tag
	err := r.store.Records.View(ctx, func(tx store.Reader) error {
		d, t, ok, err := getTag(tx, repo, tag)
		if err != nil {
			return err
		}
		if !ok {
			return unknownManifest(repo, tag)
		}
		out = Tag{Name: tag, Digest: d, MediaType: t.MediaType, Pushed: t.Pushed, By: t.By, Pinned: t.Pinned != nil}
		if at := r.tagExpires(repo, tag, t); !at.IsZero() {
			out.Expires = &at
		}
		out.Revoked, err = anyOf(tx, key(kRevoked, string(d), ""))
		return err
	})
	return out, err
}

// History lists where a tag pointed, the newest last, at most the newest limit
// (0: all).
func (r *Registry) History(ctx context.Context, repo, tag string, limit int) (out []Event, err error) {
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		out = nil
		for rec, err := range tx.Scan(key(kHistory, repo, tag, ""), nil) {
			if err != nil {
				return err
			}
			var e Event
			if err := json.Unmarshal(rec.Value, &e); err != nil {
				return errors.Join(store.ErrDamaged, err)
			}
			if out = append(out, e); limit > 0 && len(out) > limit {
				out = out[1:]
			}
		}
		return nil
	})
	return out, err
}
