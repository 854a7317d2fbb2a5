package registry

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Removed is something that a collection deleted, or would.
type Removed struct {
	Kind       string `json:"kind"` // manifest, tag, blob, upload
	Repository string `json:"repository,omitempty"`
	Name       string `json:"name"` // digest, tag or upload
	Bytes      int64  `json:"bytes,omitempty"`
}

// Collected is what a collection did.
type Collected struct {
	DryRun    bool      `json:"dryRun,omitempty"`
	Looked    int       `json:"looked"` // things that were due
	Tags      int       `json:"tags"`
	Manifests int       `json:"manifests"`
	Blobs     int       `json:"blobs"` // taken from a repository
	Contents  int       `json:"contents"`
	Uploads   int       `json:"uploads"`
	Removed   []Removed `json:"removed,omitempty"` // the first thousand
}

// maxRemoved bounds the list of what was removed.
const maxRemoved = 1000

func (c *Collected) add(x Removed) {
	switch x.Kind {
	case "tag":
		c.Tags++
	case "manifest":
		c.Manifests++
	case "blob":
		c.Blobs++
	case "upload":
		c.Uploads++
	}
	if len(c.Removed) < maxRemoved {
		c.Removed = append(c.Removed, x)
	}
}

// Bounds of one transaction of a collection: it is kept short, because pushes wait
// for it.
const (
	leastBatch = 16
	mostBatch  = 200
	batchTime  = 12 * time.Millisecond

	mostGone    = 10_000   // contents whose deletion is handed over at once
	mostDeleted = 2000     // and of these, in one step
	mostLogged  = 48 << 10 // bytes of names in one entry of the audit log
)

// item is something whose time to be looked at has come.
type item struct {
	key              []byte
	kind, repo, name string
}

// Collect deletes what nobody needs any more. It looks only at what is due: at
// what something has happened to that may have left it without a need, so that
// its work is in proportion to the garbage, not to what is kept. It goes in short
// transactions and may be interrupted at any point. With dryRun it tells what is
// due and changes nothing; what goes because something else went is not in that.
func (r *Registry) Collect(ctx context.Context, dryRun bool) (Collected, error) {
	out := Collected{DryRun: dryRun}
	now := r.opt.Now().Round(0) // without the steady reading, which would hide a jump
	if err := r.clock(ctx, now); err != nil {
		return out, err
	}
	after := []byte(nil)
	w := r.wiper(ctx)
	defer w.end() // also when something else fails: it deletes only what is marked
	for batch := leastBatch; ; {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		items, err := r.due(ctx, now, after, batch)
		if err != nil || len(items) == 0 {
			if err != nil {
				return out, err
			}
			break
		}
		out.Looked += len(items)
		if dryRun {
			after = items[len(items)-1].key
			if err := r.store.Records.View(ctx, func(tx store.Reader) error {
				for _, it := range items {
					x, _, err := r.garbage(tx, it, now)
					if err != nil {
						return err
					}
					if x != nil {
						out.add(*x)
					}
				}
				return nil
			}); err != nil {
				return out, err
			}
			continue
		}
		took, freed, err := r.collect(ctx, items, now, &out)
		if err != nil {
			return out, err
		}
		if err := w.add(freed); err != nil {
			return out, err
		}
		switch {
		case took > 2*batchTime:
			batch = max(batch/2, leastBatch)
		case took < batchTime:
			batch = min(batch*2, mostBatch)
		}
	}
	contents, err := w.end()
	out.Contents += contents
	if err != nil {
		return out, err
	}
	if err := r.abandonedUploads(ctx, now, dryRun, &out); err != nil {
		return out, err
	}
	if dryRun {
		return out, nil
	}
	n, err := r.deleteMarked(ctx)
	out.Contents += n
	if err != nil && !errors.Is(err, errDeleting) {
		return out, err
	}
	return out, r.store.Records.Update(ctx, func(tx store.Transaction) error {
		return put(tx, key(kGlobal, "clock"), now)
	})
}

// due returns things whose time has come.
func (r *Registry) due(ctx context.Context, now time.Time, after []byte, limit int) (out []item, err error) {
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		out = nil
		for rec, err := range tx.Scan([]byte{kDue}, after) {
			if err != nil {
				return err
			}
			at, kind, repo, name, ok := readDue(rec.Key)
			if !ok {
				return fmt.Errorf("%w: record %q", store.ErrDamaged, rec.Key)
			}
			if at.After(now) || len(out) == limit {
				return nil
			}
			out = append(out, item{slices.Clone(rec.Key), kind, repo, name})
		}
		return nil
	})
	return out, err
}

// garbage decides about one item: what is to be removed, nil when it is kept; and
// when to look again, the zero time for not before something happens to it.
func (r *Registry) garbage(tx store.Reader, it item, now time.Time) (*Removed, time.Time, error) {
	keep := func(why []reason, k *keeper) (time.Time, bool) {
		again, kept := time.Time{}, false
		for _, x := range why {
			if !k.holds(x) {
				continue
			}
			if x.until.IsZero() {
				return time.Time{}, true
			}
			if kept = true; x.until.After(again) {
				again = x.until
			}
		}
		return again, kept
	}
	k := r.keeper(tx, it.repo, now, false)
	if busy, err := pending(tx, it.repo); err != nil || busy {
		return nil, now.Add(time.Minute), err // a decision about it is on its way
	}
	x := &Removed{Kind: "manifest", Repository: it.repo, Name: it.name}
	switch it.kind {
	case dueManifest:
		f, ok, err := get[facts](tx, key(kFacts, it.repo, it.name))
		if err != nil || !ok {
			return nil, time.Time{}, err
		}
		why, err := k.manifest(oci.Digest(it.name))
		if err != nil {
			return nil, time.Time{}, err
		}
		if again, kept := keep(why, k); kept {
			return nil, again, nil
		}
		x.Bytes = f.Size
	case dueBlob:
		x.Kind = "blob"
		why, ok, err := k.blob(oci.Digest(it.name))
		if err != nil || !ok {
			return nil, time.Time{}, err
		}
		if again, kept := keep(why, k); kept {
			return nil, again, nil
		}
		l, _, err := get[link](tx, key(kBlob, it.repo, it.name))
		if err != nil {
			return nil, time.Time{}, err
		}
		x.Bytes = l.Size
	case dueTag:
		x.Kind = "tag"
		_, t, ok, err := getTag(tx, it.repo, it.name)
		if err != nil || !ok || k.class == catalog.Production {
			return nil, time.Time{}, err
		}
		if again := r.tagExpires(it.repo, it.name, t); again.IsZero() || again.After(now) {
			return nil, again, nil
		}
	default:
		return nil, time.Time{}, fmt.Errorf("%w: something due of the kind %q", store.ErrDamaged, it.kind)
	}
	return x, time.Time{}, nil
}

// server is who acts when nobody asked.
var server = audit.Actor{Name: "server", Method: "server"}

// collect decides about items, tells the audit log, and removes what is still
// garbage in the transaction that removes it. It returns how long others may have
// waited for that transaction, and contents whose bytes are to be deleted.
func (r *Registry) collect(ctx context.Context, items []item, now time.Time, out *Collected) (took time.Duration, gone []oci.Digest, err error) {
	var going []Removed
	if err := r.store.Records.View(ctx, func(tx store.Reader) error {
		going = nil
		size := 0
		for i, it := range items {
			if it.kind == dueBlob {
				continue // the log is told of manifests and tags
			}
			x, _, err := r.garbage(tx, it, now)
			if err != nil {
				return err
			}
			if x == nil {
				continue
			}
			// An entry of the log has its limit; what does not fit is for the next batch.
			if size += len(x.Repository) + len(x.Name) + 16; size > mostLogged {
				items = items[:i]
				break
			}
			going = append(going, *x)
		}
		return nil
	}); err != nil {
		return 0, nil, err
	}
	if len(going) > 0 && r.opt.Log != nil {
		e := audit.Entry{Type: audit.EntryType, ID: rand.Text(), Time: audit.Timestamp(now), Action: audit.Collect, Actor: server, Verdict: "allowed",
			Detail: map[string]string{"items": strconv.Itoa(len(going))}}
		for _, x := range going {
			if x.Kind == "manifest" {
				e.Digests = append(e.Digests, oci.Digest(x.Name))
			} else {
				e.Reasons = append(e.Reasons, "tag "+x.Repository+":"+x.Name)
			}
		}
		if _, err := r.opt.Log.Append(ctx, e); err != nil {
			return 0, nil, &Error{Code: Unavailable, Message: "nothing is deleted that the audit log does not know", Err: err}
		}
	}
	var removed []Removed
	began := time.Now()
	err = r.store.Records.Update(ctx, func(tx store.Transaction) error {
		removed, gone = nil, nil
		for _, it := range items {
			if err := tx.Delete(it.key); err != nil {
				return err
			}
			x, again, err := r.garbage(tx, it, now)
			if err != nil {
				return err
			}
			if x == nil {
				if !again.IsZero() {
					if err := tx.Put(dueKey(again, it.kind, it.repo, it.name), nil); err != nil {
						return err
					}
				}
				continue
			}
			if x.Kind != "blob" && !slices.Contains(going, *x) && r.opt.Log != nil {
				// It became garbage since the log was told: next time.
				if err := tx.Put(dueKey(now.Add(time.Second), it.kind, it.repo, it.name), nil); err != nil {
					return err
				}
				continue
			}
			switch x.Kind {
			case "manifest":
				var tags []string // that have expired with it
				if tags, err = keysOf(tx, key(kTagged, it.repo, it.name, ""), 0); err != nil {
					return err
				}
				for _, tag := range tags {
					removed = append(removed, Removed{Kind: "tag", Repository: it.repo, Name: tag})
				}
				err = r.removeManifest(tx, it.repo, oci.Digest(it.name), server, now)
			case "tag":
				_, err = r.removeTag(tx, it.repo, it.name, server, now)
			case "blob":
				var last bool
				if last, err = unlinkBlob(tx, it.repo, oci.Digest(it.name)); last {
					gone = append(gone, oci.Digest(it.name))
				}
			}
			if err != nil {
				return err
			}
			removed = append(removed, *x)
		}
		return nil
	})
	took = time.Since(began) // with the writing, which others wait for too
	if err != nil {
		return took, nil, err
	}
	var sum int64
	for _, x := range removed {
		out.add(x)
		sum += x.Bytes
	}
	if r.opt.Metrics != nil && len(removed) > 0 {
		r.opt.Metrics.Collected("records", len(removed), sum)
	}
	return took, gone, nil
}

// wiper deletes the bytes of contents that nobody has any more: beside the work on
// the records once there are many, because both mostly wait for the disk.
type wiper struct {
	r    *Registry
	ctx  context.Context
	gone []oci.Digest
	work chan []oci.Digest // nil: nothing was handed over
	done chan struct{}

	// When done, or before there is work: how many were deleted, and what failed.
	n      int
	err    error
	failed atomic.Bool
}

func (r *Registry) wiper(ctx context.Context) *wiper { return &wiper{r: r, ctx: ctx} }

// add has contents deleted, sooner or later.
func (w *wiper) add(ds []oci.Digest) error {
	if w.gone = append(w.gone, ds...); len(w.gone) < mostGone {
		return nil
	}
	if w.failed.Load() {
		_, err := w.end()
		return err
	}
	if w.work == nil {
		w.work, w.done = make(chan []oci.Digest), make(chan struct{})
		go func() {
			defer close(w.done)
			for ds := range w.work {
				w.wipe(ds)
			}
		}()
	}
	w.work <- w.gone // waits for the deletion of those before, so that few are marked
	w.gone = nil
	return nil
}

// end deletes what is left and tells how many were deleted. A second call does
// nothing.
func (w *wiper) end() (int, error) {
	if w.work != nil {
		close(w.work)
		<-w.done
		w.work = nil
	}
	w.wipe(w.gone)
	w.gone = nil
	return w.n, w.err
}

// wipe deletes contents with similar digests together: they lie in few folders, and
// share the synchronising of these.
func (w *wiper) wipe(ds []oci.Digest) {
	slices.Sort(ds)
	for ds := range slices.Chunk(ds, mostDeleted) {
		if w.err != nil {
			return // their marks stay
		}
		if err := w.r.deleteContent(w.ctx, ds...); err != nil && !errors.Is(err, errDeleting) {
			w.err = err
			w.failed.Store(true)
			return
		}
		w.n += len(ds)
	}
}

// deleteMarked deletes contents whose mark an earlier run left.
func (r *Registry) deleteMarked(ctx context.Context) (int, error) {
	total := 0
	after := []byte(nil)
	for {
		var ds []oci.Digest
		err := r.store.Records.View(ctx, func(tx store.Reader) error {
			ds = nil
			for rec, err := range tx.Scan([]byte{kDeleting}, after) {
				if err != nil {
					return err
				}
				if ds = append(ds, oci.Digest(last(rec.Key))); len(ds) == mostBatch {
					break
				}
			}
			return nil
		})
		if err != nil || len(ds) == 0 {
			return total, err
		}
		if err := r.deleteContent(ctx, ds...); err != nil && !errors.Is(err, errDeleting) {
			return total, err
		}
		total += len(ds)
		after = key(kDeleting, string(ds[len(ds)-1]))
	}
}

// abandonedUploads discards uploads that nobody continued, with the content that
// they had become when nothing refers to it.
func (r *Registry) abandonedUploads(ctx context.Context, now time.Time, dryRun bool, out *Collected) error {
	// A decision that waits for the audit log needs what it attaches, however long.
	waiting, err := r.intents(ctx)
	if err != nil {
		return err
	}
	needed := map[string]bool{}
	for _, in := range waiting {
		all, err := attachments(in)
		if err != nil {
			return err
		}
		for _, a := range all {
			for _, id := range a.Uploads {
				needed[id] = true
			}
		}
	}
	for u, err := range r.store.Uploads.Uploads(ctx) {
		if err != nil {
			return err
		}
		if needed[u.ID] || u.Changed.Add(r.opt.Retain.Unreferenced).After(now) {
			continue
		}
		x := Removed{Kind: "upload", Name: u.ID, Bytes: u.Size}
		if dryRun {
			out.add(x)
			continue
		}
		if u.Committing != "" {
			if err := r.orphan(ctx, u.Committing); err != nil {
				return err
			}
		}
		switch err := r.store.Uploads.Discard(ctx, u.ID); {
		case errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrNotFound):
			continue // somebody continues it, or has ended it: it must not stop the rest
		case err != nil:
			return err
		}
		out.add(x)
	}
	return nil
}

// orphan deletes content that no repository has.
func (r *Registry) orphan(ctx context.Context, d oci.Digest) error {
	err := r.store.Records.Update(ctx, func(tx store.Transaction) error {
		if held, err := anyOf(tx, key(kHolder, string(d), "")); err != nil || held {
			return err
		}
		if ok, err := has(tx, key(kDeleting, string(d))); err != nil || ok {
			return err
		}
		return tx.Put(key(kDeleting, string(d)), nil)
	})
	if err != nil {
		return err
	}
	if err := r.deleteContent(ctx, d); err != nil && !errors.Is(err, errDeleting) {
		return err
	}
	return nil
}

// clock refuses to collect by a clock that cannot be believed: one that runs
// otherwise than the machine's steady one, that is behind what was seen before, or
// that is, just after the start, far ahead of it.
func (r *Registry) clock(ctx context.Context, now time.Time) error {
	refuse := func(format string, a ...any) error {
		return errorf(Unavailable, "nothing is collected: "+format, a...).because("", "set the clock; when it is right, restart the server")
	}
	steady := r.opt.Steady()
	if off := now.Sub(r.began) - steady; off.Abs() > max(5*time.Minute, steady/50) {
		return refuse("the clock jumped by %s since the start", off.Round(time.Second))
	}
	var seen time.Time
	err := r.store.Records.View(ctx, func(tx store.Reader) error {
		raw, ok, err := tx.Get(key(kGlobal, "clock"))
		if err != nil || !ok {
			return err
		}
		return json.Unmarshal(raw, &seen)
	})
	if err != nil {
		return err
	}
	if now.Before(seen.Add(-5 * time.Minute)) {
		return refuse("the clock says %s and said %s before", now.UTC().Format(time.RFC3339), seen.UTC().Format(time.RFC3339))
	}
	if !seen.IsZero() && r.began.Sub(seen) > r.opt.Retain.Development && steady < time.Hour {
		return refuse("the last time that was seen is %s ago; it begins an hour after the start", r.began.Sub(seen).Round(time.Hour))
	}
	return nil
}

// Pin keeps a tag or a manifest of a development or candidate catalog until it is
// unpinned. ref is a tag or a digest.
func (r *Registry) Pin(ctx context.Context, repo, ref string, on bool, a audit.Actor) error {
	if class, _ := catalog.Of(repo); class == catalog.Production {
		return errorf(Unsupported, "nothing in %s ever goes: there is nothing to pin", repo).because(RetentionClassFixed, "")
	}
	return r.store.Records.Update(ctx, func(tx store.Transaction) error {
		now := r.opt.Now()
		p := &pin{By: a, At: now}
		if !on {
			p = nil
		}
		if d := oci.Digest(ref); d.Validate() == nil {
			f, ok, err := get[facts](tx, key(kFacts, repo, ref))
			if err != nil {
				return err
			}
			if !ok {
				return unknownManifest(repo, ref)
			}
			f.Pinned = p
			if err := put(tx, key(kFacts, repo, ref), f); err != nil {
				return err
			}
			return tx.Put(dueKey(now, dueManifest, repo, ref), nil)
		}
		d, t, ok, err := getTag(tx, repo, ref)
		if err != nil {
			return err
		}
		if !ok {
			return unknownManifest(repo, ref)
		}
		t.Pinned = p
		if err := putTag(tx, repo, ref, d, t); err != nil {
			return err
		}
		if err := tx.Put(dueKey(now, dueTag, repo, ref), nil); err != nil {
			return err
		}
		return tx.Put(dueKey(now, dueManifest, repo, string(d)), nil)
	})
}
