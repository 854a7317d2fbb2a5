package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Revocation says that a digest is not to be admitted any more. Its bytes stay.
type Revocation struct {
	Repository string      `json:"repository"`
	Digest     oci.Digest  `json:"digest"`
	At         time.Time   `json:"at"`
	By         audit.Actor `json:"by"`
	Reason     string      `json:"reason"`
	Entry      uint64      `json:"entry"`
	Versions   []string    `json:"versions,omitempty"` // that the digest was released as
	Tags       []string    `json:"tags,omitempty"`     // that point to it still: roll them back
	Repeated   bool        `json:"repeated,omitempty"`
}

// RevokeOrder asks to revoke what a version or digest of production is.
type RevokeOrder struct {
	RequestID  string
	Repository string
	Digest     oci.Digest
	Reason     string
	Attach     []Attachment // a signed summary that says FAILED
	Entry      audit.Entry
}

type revokePlan struct {
	Digest oci.Digest  `json:"digest"`
	Reason string      `json:"reason"`
	Attach []attached  `json:"attach,omitempty"`
	By     audit.Actor `json:"by"`
}

// Revoke marks a digest of a production repository, and the images of an index
// with it, as not to be admitted from now on. Tags stay where they are: moving one
// backwards is a roll-back, which is signed.
func (r *Registry) Revoke(ctx context.Context, o RevokeOrder) (Revocation, error) {
	if err := checkProduction(o.Repository); err != nil {
		return Revocation{}, err
	}
	if o.Reason == "" {
		return Revocation{}, errorf(Unsupported, "a revocation needs a reason")
	}
	asked := fingerprint([]string{"revoke", o.Repository, string(o.Digest)})
	var out Revocation
	if _, found, err := r.done(ctx, o.RequestID, asked, &out); err != nil || found {
		out.Repeated = found
		return out, err
	}
	attach, err := r.putAttachments(ctx, o.Attach)
	if err != nil {
		return Revocation{}, err
	}
	in := intent{ID: o.RequestID, Kind: audit.Revoke, Production: o.Repository, Request: asked}
	_, out.Repeated, err = r.decide(ctx, in, &out, func(tx store.Reader, _ time.Time) (audit.Entry, any, error) {
		e := o.Entry
		e.Object = audit.Object{Repository: o.Repository, Digest: o.Digest}
		e.Reasons = append([]string{o.Reason}, e.Reasons...)
		if ok, err := has(tx, key(kFacts, o.Repository, string(o.Digest))); err != nil {
			return e, nil, err
		} else if !ok {
			return e, nil, unknownManifest(o.Repository, string(o.Digest)).because(NotReleased, "see what there is: twinhull catalog versions "+o.Repository)
		}
		if k, ok, err := get[Revocation](tx, key(kRevoked, string(o.Digest), o.Repository)); err != nil {
			return e, nil, err
		} else if ok {
			return e, nil, errorf(Denied, "%s was revoked on %s: %s", o.Digest, k.At.Format(time.DateOnly), k.Reason).because(AlreadyRevoked, "")
		}
		all, err := below(tx, o.Repository, o.Digest)
		if err != nil {
			return e, nil, err
		}
		e.Digests = all
		return e, revokePlan{o.Digest, o.Reason, attach, o.Entry.Actor}, nil
	})
	return out, err
}

// below is a manifest and the manifests that an index lists, all the way down.
func below(tx store.Reader, repo string, d oci.Digest) (out []oci.Digest, err error) {
	out = []oci.Digest{d}
	for i := 0; i < len(out) && len(out) < maxClosure; i++ {
		f, _, err := get[facts](tx, key(kFacts, repo, string(out[i])))
		if err != nil {
			return nil, err
		}
		if !f.index() {
			continue
		}
		for _, c := range f.Children {
			if ok, err := has(tx, key(kFacts, repo, string(c))); err != nil {
				return nil, err
			} else if ok && !slices.Contains(out, c) {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

func (r *Registry) applyRevoke(tx store.Transaction, in intent, index uint64) (any, func(context.Context) error, error) {
	var p revokePlan
	if err := json.Unmarshal(in.Plan, &p); err != nil {
		return nil, nil, fmt.Errorf("%w: the plan of a revocation: %v", store.ErrDamaged, err)
	}
	out := Revocation{Repository: in.Production, Digest: p.Digest, At: in.At, By: p.By, Reason: p.Reason, Entry: index}
	all, err := below(tx, in.Production, p.Digest)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range all {
		x := out
		x.Digest = d
		if have, err := has(tx, key(kRevoked, string(d), in.Production)); err != nil {
			return nil, nil, err
		} else if !have {
			if err := put(tx, key(kRevoked, string(d), in.Production), x); err != nil {
				return nil, nil, err
			}
		}
	}
	if err := r.attach(tx, in.Production, p.Attach, p.By, in.At); err != nil {
		return nil, nil, err
	}
	if out.Versions, err = keysOf(tx, key(kReleased, in.Production, string(p.Digest), ""), 0); err != nil {
		return nil, nil, err
	}
	if out.Tags, err = keysOf(tx, key(kTagged, in.Production, string(p.Digest), ""), 0); err != nil {
		return nil, nil, err
	}
	out.Tags = slices.DeleteFunc(out.Tags, func(t string) bool { return catalog.KindOf(t) != catalog.ConvenienceTag })
	return out, r.discard(p.Attach), nil
}

// Revoked tells whether a digest is revoked in a repository, nil when not.
func (r *Registry) Revoked(ctx context.Context, repo string, d oci.Digest) (out *Revocation, err error) {
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		k, ok, err := get[Revocation](tx, key(kRevoked, string(d), repo))
		if out = nil; ok {
			out = &k
		}
		return err
	})
	return out, err
}

// RollBackOrder asks to move convenience tags to a version that is not the
// highest. That the order is signed is verified before.
type RollBackOrder struct {
	RequestID  string
	Repository string
	Version    string
	Tags       []string // none: all that the version competes for
	Reason     string
	Entry      audit.Entry
}

type rollBackPlan struct {
	Version   string       `json:"version"`
	Digest    oci.Digest   `json:"digest"`
	MediaType string       `json:"mediaType"`
	Moves     []audit.Move `json:"moves"`
	By        audit.Actor  `json:"by"`
}

// RollBack moves convenience tags of a production repository to a released
// version. They stay there until a version higher than all is released.
func (r *Registry) RollBack(ctx context.Context, o RollBackOrder) (Released, error) {
	if err := checkProduction(o.Repository); err != nil {
		return Released{}, err
	}
	v, err := catalog.ParseVersion(o.Version)
	if err != nil {
		return Released{}, errorf(TagInvalid, "%v", err)
	}
	tags := o.Tags
	if len(tags) == 0 {
		tags = v.Tags()
	}
	for _, t := range tags {
		if !slices.Contains(v.Tags(), t) {
			return Released{}, errorf(Unsupported, "%s cannot point to %s: a version may be reached by %v only", clip(t), o.Version, v.Tags())
		}
	}
	asked := fingerprint([]any{"roll-back", o.Repository, o.Version, tags})
	in := intent{ID: o.RequestID, Kind: audit.RollBack, Production: o.Repository, Request: asked}
	var out Released
	_, out.Repeated, err = r.decide(ctx, in, &out, func(tx store.Reader, _ time.Time) (audit.Entry, any, error) {
		e := o.Entry
		have, ok, err := get[Released](tx, key(kVersion, o.Repository, o.Version))
		if err != nil {
			return e, nil, err
		}
		if !ok || have.Erased {
			return e, nil, unknownManifest(o.Repository, o.Version).because(NotReleased, "see what there is: twinhull catalog versions "+o.Repository)
		}
		if revoked, err := has(tx, key(kRevoked, string(have.Digest), o.Repository)); err != nil {
			return e, nil, err
		} else if revoked {
			return e, nil, errorf(Denied, "%s %s was revoked", o.Repository, o.Version).because(AlreadyRevoked, "roll back to another version")
		}
		f, _, err := get[facts](tx, key(kFacts, o.Repository, string(have.Digest)))
		if err != nil {
			return e, nil, err
		}
		p := rollBackPlan{Version: o.Version, Digest: have.Digest, MediaType: f.MediaType, By: o.Entry.Actor}
		for _, tag := range tags {
			from, _, _, err := getTag(tx, o.Repository, tag)
			if err != nil {
				return e, nil, err
			}
			if from != have.Digest {
				p.Moves = append(p.Moves, audit.Move{Tag: tag, From: from, To: have.Digest})
			}
		}
		if len(p.Moves) == 0 {
			return e, nil, errorf(Conflict, "%v of %s point to %s already", tags, o.Repository, o.Version)
		}
		e.Object = audit.Object{Repository: o.Repository, Tag: o.Version, Digest: have.Digest}
		e.Moves, e.Digests = p.Moves, []oci.Digest{have.Digest}
		if o.Reason != "" {
			e.Reasons = append([]string{o.Reason}, e.Reasons...)
		}
		return e, p, nil
	})
	return out, err
}

func (r *Registry) applyRollBack(tx store.Transaction, in intent, index uint64) (any, func(context.Context) error, error) {
	var p rollBackPlan
	if err := json.Unmarshal(in.Plan, &p); err != nil {
		return nil, nil, fmt.Errorf("%w: the plan of a roll-back: %v", store.ErrDamaged, err)
	}
	for _, m := range p.Moves {
		if err := r.setVersionTag(tx, in.Production, m.Tag, p.Digest, p.MediaType, p.Version, p.By, in.At); err != nil {
			return nil, nil, err
		}
	}
	return Released{Repository: in.Production, Version: p.Version, Digest: p.Digest, At: in.At, By: p.By, Entry: index, RequestID: in.ID, Moves: p.Moves}, nil, nil
}

// EraseOrder asks to erase the bytes of a released image for a legal reason. That
// two believed keys signed the order is verified before; Keys are their names.
type EraseOrder struct {
	RequestID  string
	Repository string
	Digest     oci.Digest
	Reason     string
	Keys       []string
	Entry      audit.Entry
}

type erasePlan struct {
	Digest oci.Digest   `json:"digest"`
	All    []oci.Digest `json:"all"`
	Stays  []oci.Digest `json:"stays,omitempty"`
	Reason string       `json:"reason"`
	Moves  []audit.Move `json:"moves,omitempty"`
	By     audit.Actor  `json:"by"`
}

// Erase removes the bytes of an image, its parts and what is said about them from
// a production repository. The versions stay taken, a tombstone says why, and
// convenience tags go to the highest version that is left.
func (r *Registry) Erase(ctx context.Context, o EraseOrder) (Tombstone, error) {
	if err := checkProduction(o.Repository); err != nil {
		return Tombstone{}, err
	}
	keys := slices.Clone(o.Keys)
	slices.Sort(keys)
	if keys = slices.Compact(keys); len(keys) < 2 || slices.Contains(keys, "") {
		return Tombstone{}, errorf(Denied, "an erasure needs the signatures of two keys, and has those of %d", len(keys)).because(NeedsTwoKeys, "")
	}
	if o.Reason == "" {
		return Tombstone{}, errorf(Unsupported, "an erasure needs a reason")
	}
	asked := fingerprint([]string{"erase", o.Repository, string(o.Digest)})
	in := intent{ID: o.RequestID, Kind: audit.Erase, Production: o.Repository, Request: asked}
	var out Tombstone
	_, _, err := r.decide(ctx, in, &out, func(tx store.Reader, _ time.Time) (audit.Entry, any, error) {
		e := o.Entry
		if ok, err := has(tx, key(kFacts, o.Repository, string(o.Digest))); err != nil {
			return e, nil, err
		} else if !ok {
			return e, nil, unknownManifest(o.Repository, string(o.Digest))
		}
		parents, err := keysOf(tx, key(kParent, o.Repository, string(o.Digest), ""), 1)
		if err != nil {
			return e, nil, err
		}
		if len(parents) > 0 {
			return e, nil, errorf(Denied, "the index %s needs %s", parents[0], o.Digest).because(StillReferred, "erase the index, with all its images")
		}
		c, _, err := closure(tx, o.Repository, o.Digest)
		if err != nil {
			return e, nil, err
		}
		all, stays, err := erasable(tx, o.Repository, o.Digest, c.all)
		if err != nil {
			return e, nil, err
		}
		p := erasePlan{Digest: o.Digest, All: all, Stays: stays, Reason: o.Reason, By: o.Entry.Actor}
		if p.Moves, err = movesAway(tx, o.Repository, o.Digest); err != nil {
			return e, nil, err
		}
		e.Object = audit.Object{Repository: o.Repository, Digest: o.Digest}
		e.Moves, e.Digests = p.Moves, all[:min(len(all), mostBatch)]
		e.Reasons = append([]string{o.Reason}, e.Reasons...)
		if e.Detail == nil {
			e.Detail = map[string]string{}
		}
		for i, k := range keys {
			e.Detail["key"+strconv.Itoa(i+1)] = k
		}
		return e, p, nil
	})
	return out, err
}

// erasable divides what belongs to an image into what goes with it and what stays:
// what another version or an index outside of it has too, with all that belongs to
// that.
func erasable(tx store.Reader, repo string, root oci.Digest, all []oci.Digest) (goes, stays []oci.Digest, err error) {
	for _, d := range all {
		if d == root || slices.Contains(stays, d) {
			continue
		}
		names, err := keysOf(tx, key(kReleased, repo, string(d), ""), 0)
		if err != nil {
			return nil, nil, err
		}
		needed := false
		for _, v := range names {
			have, ok, err := get[Released](tx, key(kVersion, repo, v))
			if err != nil {
				return nil, nil, err
			}
			needed = needed || ok && !have.Erased
		}
		over, err := keysOf(tx, key(kParent, repo, string(d), ""), 0)
		if err != nil {
			return nil, nil, err
		}
		if !needed && !slices.ContainsFunc(over, func(p string) bool { return !slices.Contains(all, oci.Digest(p)) }) {
			continue
		}
		with, _, err := closure(tx, repo, d)
		if err != nil {
			return nil, nil, err
		}
		stays = append(stays, with.all...)
	}
	for _, d := range all {
		if !slices.Contains(stays, d) {
			goes = append(goes, d)
		}
	}
	return goes, stays, nil
}

// movesAway computes where the convenience tags go that point to a digest: to the
// highest version that is left, To "" when none is.
func movesAway(tx store.Reader, repo string, d oci.Digest) (out []audit.Move, err error) {
	tags, err := keysOf(tx, key(kTagged, repo, string(d), ""), 0)
	if err != nil {
		return nil, err
	}
	released, err := versions(tx, repo)
	if err != nil {
		return nil, err
	}
	digests := map[string]oci.Digest{}
	left := released[:0:0]
	for _, v := range released {
		have, _, err := get[Released](tx, key(kVersion, repo, v.String()))
		if err != nil {
			return nil, err
		}
		if digests[v.String()] = have.Digest; have.Digest != d {
			left = append(left, v)
		}
	}
	highest := catalog.Highest(left)
	for _, tag := range tags {
		if catalog.KindOf(tag) != catalog.ConvenienceTag {
			continue
		}
		m := audit.Move{Tag: tag, From: d}
		if v, ok := highest[tag]; ok {
			m.To = digests[v.String()]
		}
		out = append(out, m)
	}
	return out, nil
}

func (r *Registry) applyErase(tx store.Transaction, in intent, index uint64) (any, func(context.Context) error, error) {
	var p erasePlan
	if err := json.Unmarshal(in.Plan, &p); err != nil {
		return nil, nil, fmt.Errorf("%w: the plan of an erasure: %v", store.ErrDamaged, err)
	}
	repo := in.Production
	out := Tombstone{Digest: p.Digest, At: in.At, Reason: p.Reason, By: p.By, Entry: index, Stays: p.Stays}
	for _, m := range p.Moves {
		if m.To == "" {
			if err := tx.Delete(key(kTag, repo, m.Tag)); err != nil {
				return nil, nil, err
			}
			if err := tx.Delete(key(kTagged, repo, string(m.From), m.Tag)); err != nil {
				return nil, nil, err
			}
			if err := r.remember(tx, repo, m.Tag, Event{At: in.At, From: m.From, By: p.By}); err != nil {
				return nil, nil, err
			}
			continue
		}
		version, err := highestOf(tx, repo, m.To, m.Tag)
		if err != nil {
			return nil, nil, err
		}
		f, _, err := get[facts](tx, key(kFacts, repo, string(m.To)))
		if err != nil {
			return nil, nil, err
		}
		if err := r.setVersionTag(tx, repo, m.Tag, m.To, f.MediaType, version, p.By, in.At); err != nil {
			return nil, nil, err
		}
	}
	names, err := keysOf(tx, key(kReleased, repo, string(p.Digest), ""), 0)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range names {
		have, _, err := get[Released](tx, key(kVersion, repo, v))
		if err != nil {
			return nil, nil, err
		}
		have.Erased = true
		if err := put(tx, key(kVersion, repo, v), have); err != nil {
			return nil, nil, err
		}
	}
	var gone []oci.Digest
	for _, d := range p.All {
		f, ok, err := get[facts](tx, key(kFacts, repo, string(d)))
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			continue
		}
		t := out
		t.Digest, t.Stays = d, nil
		if err := put(tx, key(kTomb, repo, string(d)), t); err != nil {
			return nil, nil, err
		}
		for _, c := range f.Children {
			if err := tx.Delete(key(kParent, repo, string(c), string(d))); err != nil {
				return nil, nil, err
			}
		}
		if f.Subject != "" {
			if err := tx.Delete(key(kReferrer, repo, string(f.Subject), string(d))); err != nil {
				return nil, nil, err
			}
		}
		if err := tx.Delete(key(kContent, repo, string(d))); err != nil {
			return nil, nil, err
		}
		if err := tx.Delete(key(kFacts, repo, string(d))); err != nil {
			return nil, nil, err
		}
		for _, c := range f.Children {
			if linked, err := has(tx, key(kBlob, repo, string(c))); err != nil {
				return nil, nil, err
			} else if !linked {
				continue
			}
			if needed, err := anyOf(tx, key(kParent, repo, string(c), "")); err != nil {
				return nil, nil, err
			} else if needed {
				continue
			}
			last, err := unlinkBlob(tx, repo, c)
			if err != nil {
				return nil, nil, err
			}
			if last {
				gone = append(gone, c)
			}
		}
	}
	return out, func(ctx context.Context) error {
		if len(gone) == 0 {
			return nil
		}
		if err := r.deleteContent(ctx, gone...); err != nil && !errors.Is(err, errDeleting) {
			return err
		}
		return nil
	}, nil
}

// highestOf is the highest version that a digest was released as and that a
// convenience tag may point to.
func highestOf(tx store.Reader, repo string, d oci.Digest, tag string) (string, error) {
	names, err := keysOf(tx, key(kReleased, repo, string(d), ""), 0)
	if err != nil {
		return "", err
	}
	best := ""
	var high catalog.Version
	for _, n := range names {
		v, err := catalog.ParseVersion(n)
		if err != nil {
			return "", fmt.Errorf("%w: %v", store.ErrDamaged, err)
		}
		if slices.Contains(v.Tags(), tag) && (best == "" || v.Compare(high) > 0) {
			best, high = n, v
		}
	}
	if best == "" {
		return "", fmt.Errorf("%w: %s is no version for %s", store.ErrDamaged, d, tag)
	}
	return best, nil
}
