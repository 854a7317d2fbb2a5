package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

// A decision changes production. It is made in three durable steps:
//
//  1. The intent: judged and complete, with all that the change needs. A crash
//     after it leaves nothing: the log does not have the entry, so that the next
//     start drops the intent.
//  2. The entry of the audit log. A crash after it leaves everything: the next
//     start finds the entry and makes the change.
//  3. The change, and with it the outcome by which the request can be repeated;
//     the intent goes in the same transaction.

// intent is a decision that is made and not done yet.
type intent struct {
	ID         string          `json:"id"`
	Kind       audit.Action    `json:"kind"`
	Production string          `json:"production"` // the repository it is about
	Request    string          `json:"request"`    // hash of what was asked
	At         time.Time       `json:"at"`
	From       uint64          `json:"from"` // how long the log was: the entry is not before
	Entry      audit.Entry     `json:"entry"`
	Plan       json.RawMessage `json:"plan"`
}

// outcome is what came of a request.
type outcome struct {
	Request string          `json:"request"`
	Entry   uint64          `json:"entry"`
	Result  json.RawMessage `json:"result"`
}

// pending tells whether a decision is on its way about the production repository
// that a repository belongs to.
func pending(tx store.Reader, repo string) (bool, error) {
	_, production := catalog.Of(repo)
	for rec, err := range tx.Scan([]byte{kIntent}, nil) {
		if err != nil {
			return false, err
		}
		var in intent
		if err := json.Unmarshal(rec.Value, &in); err != nil {
			return false, fmt.Errorf("%w: an intent: %v", store.ErrDamaged, err)
		}
		if in.Production == production {
			return true, nil
		}
	}
	return false, nil
}

// fingerprint names what was asked, so that a request id is not used for two
// things.
func fingerprint(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // orders are plain data
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// ValidRequestID accepts what a request may be called: 8 to 100 letters, digits,
// ".", "_" and "-".
func ValidRequestID(id string) bool {
	if len(id) < 8 || len(id) > 100 {
		return false
	}
	for _, c := range id {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// Done looks for the outcome of a request into result, a pointer. asked is the
// order, as it was given.
func (r *Registry) done(ctx context.Context, id, asked string, result any) (entry uint64, found bool, err error) {
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		o, ok, err := get[outcome](tx, key(kOutcome, id))
		if err != nil || !ok {
			return err
		}
		if o.Request != asked {
			return errorf(Conflict, "the request id %s was used for another request", id).because(RequestReused, "choose another one")
		}
		entry, found = o.Entry, true
		return json.Unmarshal(o.Result, result)
	})
	return entry, found, err
}

// decide makes a decision. prepare judges inside the transaction of the intent and
// returns the entry and the plan of the change. repeated tells that the request was
// done before.
func (r *Registry) decide(ctx context.Context, in intent, result any, prepare func(tx store.Reader, now time.Time) (audit.Entry, any, error)) (entry uint64, repeated bool, err error) {
	if r.opt.Log == nil {
		return 0, false, errorf(Unavailable, "this registry has no audit log, so that nothing can be decided").because("", "start it with one")
	}
	if !ValidRequestID(in.ID) {
		return 0, false, errorf(Unsupported, "%q is no request id: want 8 to 100 letters, digits, dots, dashes and underscores", clip(in.ID))
	}
	r.deciding.Lock()
	defer r.deciding.Unlock()
	if entry, found, err := r.done(ctx, in.ID, in.Request, result); err != nil || found {
		return entry, found, err
	}
	if err := r.finishPending(ctx, in.Production); err != nil {
		return 0, false, err
	}
	// It may have been this very request.
	if entry, found, err := r.done(ctx, in.ID, in.Request, result); err != nil || found {
		return entry, found, err
	}
	if in.From, err = r.opt.Log.Size(ctx); err != nil {
		return 0, false, &Error{Code: Unavailable, Message: "the audit log cannot be read", Err: err}
	}
	err = r.store.Records.Update(ctx, func(tx store.Transaction) error {
		if busy, err := pending(tx, in.Production); err != nil {
			return err
		} else if busy {
			return errorf(Conflict, "another decision about %s is under way", in.Production).because(Recovering, "repeat in a moment")
		}
		in.At = r.opt.Now()
		e, plan, err := prepare(tx, in.At)
		if err != nil {
			return err
		}
		e.Type, e.ID, e.Time, e.Action, e.Verdict = audit.EntryType, in.ID, audit.Timestamp(in.At), in.Kind, "allowed"
		// What the log would refuse must not become an intent: it could never be done,
		// and would be in the way of every other decision about the repository.
		if _, err := audit.Marshal(e); err != nil {
			return &Error{Code: Unsupported, Reason: NotLoggable, Message: "the audit log cannot hold the decision: " + err.Error(), Remedy: "give a shorter reason, without control characters"}
		}
		in.Entry = e
		if in.Plan, err = json.Marshal(plan); err != nil {
			return err
		}
		return put(tx, key(kIntent, in.ID), in)
	})
	if err != nil {
		return 0, false, err
	}
	// From here on the client may go: what was decided is done.
	if err := r.finish(context.WithoutCancel(ctx), in, false); err != nil {
		return 0, false, &Error{Code: Unavailable, Reason: Recovering, Message: "it was decided, and could not be finished yet",
			Remedy: "repeat with the same request id " + in.ID, Err: err}
	}
	entry, _, err = r.done(ctx, in.ID, in.Request, result)
	return entry, false, err
}

// finish brings an intent to its end. look asks the log first whether it has the
// entry: after an interruption nobody knows.
func (r *Registry) finish(ctx context.Context, in intent, look bool) error {
	var index uint64
	var found bool
	var err error
	if look {
		if index, found, err = r.opt.Log.Find(ctx, in.From, in.ID); err != nil {
			return err
		}
	}
	if !found {
		if index, err = r.opt.Log.Append(ctx, in.Entry); err != nil {
			return err
		}
	}
	return r.apply(ctx, in, index)
}

// finishPending finishes what an earlier request about a repository left.
func (r *Registry) finishPending(ctx context.Context, production string) error {
	all, err := r.intents(ctx)
	if err != nil {
		return err
	}
	for _, in := range all {
		if in.Production != production {
			continue
		}
		if err := r.finish(context.WithoutCancel(ctx), in, true); err != nil {
			return &Error{Code: Unavailable, Reason: Recovering, Message: "an earlier decision about " + production + " cannot be finished", Remedy: "see to the audit log, then repeat", Err: err}
		}
	}
	return nil
}

func (r *Registry) intents(ctx context.Context) (all []intent, err error) {
	err = r.store.Records.View(ctx, func(tx store.Reader) error {
		all = nil
		for rec, err := range tx.Scan([]byte{kIntent}, nil) {
			if err != nil {
				return err
			}
			var in intent
			if err := json.Unmarshal(rec.Value, &in); err != nil {
				return fmt.Errorf("%w: an intent: %v", store.ErrDamaged, err)
			}
			all = append(all, in)
		}
		return nil
	})
	return all, err
}

// recover finishes or drops what a crash left.
func (r *Registry) recover(ctx context.Context) error {
	all, err := r.intents(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	if r.opt.Log == nil && r.opt.Replicas {
		return nil // they are the business of the server that has the log, which may be at work
	}
	if r.opt.Log == nil {
		return errors.New("decisions were interrupted, and there is no audit log to ask about them")
	}
	for _, in := range all {
		index, found, err := r.opt.Log.Find(ctx, in.From, in.ID)
		if err != nil {
			return err
		}
		if found {
			r.opt.Logger.Info("finishing an interrupted decision", "id", in.ID, "kind", in.Kind, "repository", in.Production, "entry", index)
			err = r.apply(ctx, in, index)
		} else {
			r.opt.Logger.Info("dropping a decision that did not reach the audit log", "id", in.ID, "kind", in.Kind, "repository", in.Production)
			err = r.store.Records.Update(ctx, func(tx store.Transaction) error { return tx.Delete(key(kIntent, in.ID)) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// apply makes the change of an intent, in one transaction with its outcome.
func (r *Registry) apply(ctx context.Context, in intent, index uint64) error {
	change := r.changes()[in.Kind]
	if change == nil {
		return fmt.Errorf("%w: an intent of the unknown kind %q", store.ErrDamaged, in.Kind)
	}
	var after func(ctx context.Context) error
	err := r.store.Records.Update(ctx, func(tx store.Transaction) error {
		// Another server may have been quicker.
		if ok, err := has(tx, key(kIntent, in.ID)); err != nil || !ok {
			return err
		}
		result, then, err := change(tx, in, index)
		if err != nil {
			return err
		}
		after = then
		// What it attaches was committed long before: the entry of the log is between.
		all, err := attachments(in)
		if err != nil {
			return err
		}
		for _, a := range all {
			for _, b := range a.Blobs {
				if err := r.stillThere(ctx, b.Digest); err != nil {
					return err
				}
			}
		}
		raw, err := json.Marshal(result)
		if err != nil {
			return err
		}
		if err := put(tx, key(kOutcome, in.ID), outcome{in.Request, index, raw}); err != nil {
			return err
		}
		return tx.Delete(key(kIntent, in.ID))
	})
	if errors.Is(err, errDeleting) {
		// The bytes of an attachment are being deleted, or were: its upload is there to
		// put them again.
		if err := r.reattach(ctx, in); err != nil {
			return err
		}
		return r.apply(ctx, in, index)
	}
	if err != nil || after == nil {
		return err
	}
	// What is left is tidying, which a collection does otherwise.
	if err := after(ctx); err != nil {
		r.opt.Logger.Warn("tidying after a decision", "id", in.ID, "error", err)
	}
	return nil
}

// attachments are what a plan attaches; nil for one that attaches nothing.
func attachments(in intent) ([]attached, error) {
	var p struct {
		Attach []attached `json:"attach"`
	}
	if err := json.Unmarshal(in.Plan, &p); err != nil {
		return nil, fmt.Errorf("%w: a plan: %v", store.ErrDamaged, err)
	}
	return p.Attach, nil
}

// reattach makes the uploads of a plan's attachments content once more.
func (r *Registry) reattach(ctx context.Context, in intent) error {
	all, err := attachments(in)
	if err != nil {
		return err
	}
	for _, a := range all {
		for i, b := range a.Blobs {
			err := r.deleteContent(ctx, b.Digest)
			for errors.Is(err, errDeleting) {
				if err = pause(ctx, 100*time.Millisecond); err == nil {
					err = r.deleteContent(ctx, b.Digest)
				}
			}
			if err != nil {
				return err
			}
			if _, err := r.store.Uploads.Commit(ctx, a.Uploads[i], b.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}

// change makes one kind of change in a transaction. It returns the outcome and
// what is to be tidied afterwards, which may be nil.
type change func(tx store.Transaction, in intent, index uint64) (result any, after func(ctx context.Context) error, err error)

func (r *Registry) changes() map[audit.Action]change {
	return map[audit.Action]change{
		audit.Release:  r.applyRelease,
		audit.Revoke:   r.applyRevoke,
		audit.RollBack: r.applyRollBack,
		audit.Erase:    r.applyErase,
	}
}
