package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

// deletable refuses to delete in production, to administrators too.
func deletable(repo string) *Error {
	if class, _ := catalog.Of(repo); class == catalog.Production {
		return errorf(Denied, "what is released in %s stays: neither versions, manifests nor blobs are deleted", repo).
			because(PermanentVersion, "revoke a version that must not be used: twinhull revoke "+repo+":VERSION --reason WHY")
	}
	return nil
}

// DeleteTag deletes a tag of a development catalog (distribution specification,
// end-9). What it pointed to is kept as long as its own age keeps it.
func (r *Registry) DeleteTag(ctx context.Context, repo, tag string, a audit.Actor) error {
	if err := checkName(repo); err != nil {
		return err
	}
	if e := deletable(repo); e != nil {
		return r.refuse(ctx, e, audit.RefuseDelete, a, audit.Object{Repository: repo, Tag: tag})
	}
	return r.store.Records.Update(ctx, func(tx store.Transaction) error {
		if e := deletable(repo); e != nil {
			return e
		}
		if ok, err := r.removeTag(tx, repo, tag, a, r.opt.Now()); err != nil {
			return err
		} else if !ok {
			return unknownManifest(repo, tag)
		}
		return nil
	})
}

func (r *Registry) removeTag(tx store.Transaction, repo, tag string, a audit.Actor, now time.Time) (bool, error) {
	d, _, ok, err := getTag(tx, repo, tag)
	if err != nil || !ok {
		return false, err
	}
	if err := tx.Delete(key(kTag, repo, tag)); err != nil {
		return false, err
	}
	if err := r.untag(tx, repo, tag, d, now); err != nil {
		return false, err
	}
	return true, r.remember(tx, repo, tag, Event{At: now, From: d, By: a})
}

// DeleteManifest deletes a manifest and the tags that point to it (end-9). One
// that an index needs is refused.
func (r *Registry) DeleteManifest(ctx context.Context, repo string, d oci.Digest, a audit.Actor) error {
	if err := checkName(repo); err != nil {
		return err
	}
	if e := deletable(repo); e != nil {
		return r.refuse(ctx, e, audit.RefuseDelete, a, audit.Object{Repository: repo, Digest: d})
	}
	return r.store.Records.Update(ctx, func(tx store.Transaction) error {
		if e := deletable(repo); e != nil {
			return e
		}
		if ok, err := has(tx, key(kFacts, repo, string(d))); err != nil {
			return err
		} else if !ok {
			return unknownManifest(repo, string(d))
		}
		parents, err := keysOf(tx, key(kParent, repo, string(d), ""), 1)
		if err != nil {
			return err
		}
		if len(parents) > 0 {
			return errorf(Denied, "the index %s needs %s", parents[0], d).because(StillReferred, "delete the index first")
		}
		return r.removeManifest(tx, repo, d, a, r.opt.Now())
	})
}

// removeManifest removes a manifest, its tags and all that says that it refers to
// something, and has everything that it kept looked at.
func (r *Registry) removeManifest(tx store.Transaction, repo string, d oci.Digest, a audit.Actor, now time.Time) error {
	if busy, err := pending(tx, repo); err != nil {
		return err
	} else if busy {
		return errorf(Conflict, "a release from %s is under way", repo).because(Recovering, "repeat in a moment")
	}
	f, ok, err := get[facts](tx, key(kFacts, repo, string(d)))
	if err != nil || !ok {
		return err
	}
	tags, err := keysOf(tx, key(kTagged, repo, string(d), ""), 0)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if _, err := r.removeTag(tx, repo, tag, a, now); err != nil {
			return err
		}
	}
	for _, c := range f.Children {
		if err := tx.Delete(key(kParent, repo, string(c), string(d))); err != nil {
			return err
		}
		if err := r.released(tx, repo, c, now); err != nil {
			return err
		}
	}
	if f.Subject != "" {
		if err := tx.Delete(key(kReferrer, repo, string(f.Subject), string(d))); err != nil {
			return err
		}
	}
	referrers, err := keysOf(tx, key(kReferrer, repo, string(d), ""), 0)
	if err != nil {
		return err
	}
	for _, x := range referrers {
		if err := tx.Put(dueKey(now, dueManifest, repo, x), nil); err != nil {
			return err
		}
	}
	if err := tx.Delete(key(kContent, repo, string(d))); err != nil {
		return err
	}
	return tx.Delete(key(kFacts, repo, string(d)))
}

// released has a child looked at that a manifest does not refer to any more: a
// manifest now, a blob when it was without anybody for a while, so that a client
// that has just found it there can still refer to it.
func (r *Registry) released(tx store.Transaction, repo string, child oci.Digest, now time.Time) error {
	if ok, err := has(tx, key(kFacts, repo, string(child))); err != nil {
		return err
	} else if ok {
		if err := tx.Put(dueKey(now, dueManifest, repo, string(child)), nil); err != nil {
			return err
		}
	}
	l, ok, err := get[link](tx, key(kBlob, repo, string(child)))
	if err != nil || !ok {
		return err
	}
	if more, err := anyOf(tx, key(kParent, repo, string(child), "")); err != nil || more {
		return err
	}
	l.Free = now
	if err := put(tx, key(kBlob, repo, string(child)), l); err != nil {
		return err
	}
	return tx.Put(dueKey(now.Add(r.opt.Retain.Unreferenced), dueBlob, repo, string(child)), nil)
}

// DeleteBlob takes a blob from a repository (end-10). One that a manifest needs is
// refused.
func (r *Registry) DeleteBlob(ctx context.Context, repo string, d oci.Digest, a audit.Actor) error {
	if err := checkName(repo); err != nil {
		return err
	}
	if e := deletable(repo); e != nil {
		return r.refuse(ctx, e, audit.RefuseDelete, a, audit.Object{Repository: repo, Digest: d})
	}
	gone := false
	err := r.store.Records.Update(ctx, func(tx store.Transaction) error {
		if e := deletable(repo); e != nil {
			return e
		}
		if ok, err := has(tx, key(kBlob, repo, string(d))); err != nil {
			return err
		} else if !ok {
			return errorf(BlobUnknown, "%s has no blob %s", repo, clip(string(d)))
		}
		parents, err := keysOf(tx, key(kParent, repo, string(d), ""), 1)
		if err != nil {
			return err
		}
		if len(parents) > 0 {
			return errorf(Denied, "the manifest %s needs the blob", parents[0]).because(StillReferred, "delete the manifest first")
		}
		gone, err = unlinkBlob(tx, repo, d)
		return err
	})
	if err != nil || !gone {
		return err
	}
	// The link is gone; what is left of the bytes is deleted by a collection when
	// this fails.
	if err := r.deleteContent(ctx, d); err != nil {
		r.opt.Logger.Warn("a blob's bytes could not be deleted yet", "digest", d, "error", err)
	}
	return nil
}

// unlinkBlob takes a blob from a repository; gone tells that no other has it and
// that its bytes are marked for deletion.
func unlinkBlob(tx store.Transaction, repo string, d oci.Digest) (gone bool, err error) {
	if err := tx.Delete(key(kBlob, repo, string(d))); err != nil {
		return false, err
	}
	if err := tx.Delete(key(kHolder, string(d), repo)); err != nil {
		return false, err
	}
	if held, err := anyOf(tx, key(kHolder, string(d), "")); err != nil || held {
		return false, err
	}
	return true, tx.Put(key(kDeleting, string(d)), nil)
}

// claim says which server deletes a blob's bytes.
type claim struct {
	Owner string    `json:"owner"`
	At    time.Time `json:"at"`
}

// abandoned is how old a claim of another server is when it may be taken over. A
// deletion does not outlive it: it is given five minutes, and an object store
// refuses a request that was signed a quarter of an hour ago.
const abandoned = time.Hour

// deleteContent deletes the bytes of blobs that are marked for it. While the mark
// stands nobody can refer to them, so that nobody loses them: a push of the same
// bytes waits until the mark is gone, and puts them again. One server deletes a
// blob; errDeleting when it is another one.
func (r *Registry) deleteContent(ctx context.Context, ds ...oci.Digest) error {
	r.removing.Lock()
	defer r.removing.Unlock()
	var marked []oci.Digest
	others := false
	look := func(tx store.Reader, mine func(k []byte) error) error {
		marked, others = nil, false
		for _, d := range ds {
			k := key(kDeleting, string(d))
			raw, ok, err := tx.Get(k)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if held, err := anyOf(tx, key(kHolder, string(d), "")); err != nil {
				return err
			} else if held {
				return fmt.Errorf("%w: %s is marked for deletion and a repository has it", store.ErrDamaged, d)
			}
			if r.opt.Replicas && len(raw) > 0 {
				var c claim
				if err := json.Unmarshal(raw, &c); err != nil {
					return fmt.Errorf("%w: %v", store.ErrDamaged, err)
				}
				if c.Owner != r.owner && r.opt.Now().Sub(c.At) < abandoned {
					others = true
					continue
				}
			}
			if err := mine(k); err != nil {
				return err
			}
			marked = append(marked, d)
		}
		return nil
	}
	var err error
	if r.opt.Replicas {
		err = r.store.Records.Update(ctx, func(tx store.Transaction) error {
			return look(tx, func(k []byte) error { return put(tx, k, claim{r.owner, r.opt.Now()}) })
		})
	} else {
		err = r.store.Records.View(ctx, func(tx store.Reader) error { return look(tx, func([]byte) error { return nil }) })
	}
	if err != nil {
		return err
	}
	if len(marked) > 0 {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		if err := r.store.Blobs.Delete(ctx, marked...); err != nil {
			return err
		}
		if err := r.store.Records.Update(ctx, func(tx store.Transaction) error {
			for _, d := range marked {
				if err := tx.Delete(key(kDeleting, string(d))); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if others {
		return errDeleting
	}
	return nil
}
