package registry

import (
	"context"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

// betweenUploads does something after content was committed and before anybody
// refers to it, once.
type betweenUploads struct {
	uploads
	do func()
}

func (u *betweenUploads) Commit(ctx context.Context, id string, d oci.Digest) (int64, error) {
	n, err := u.uploads.Commit(ctx, id, d)
	if do := u.do; do != nil {
		u.do = nil
		do()
	}
	return n, err
}

// betweenLog does something once before an entry is appended.
type betweenLog struct {
	Log
	do func()
}

func (l *betweenLog) Append(ctx context.Context, e audit.Entry) (uint64, error) {
	if do := l.do; do != nil {
		l.do = nil
		do()
	}
	return l.Log.Append(ctx, e)
}

// TestDeletedBetweenCommitAndReference: the same bytes are taken out of another
// repository, and deleted to the end, after a push has committed them and before it
// refers to them.
func TestDeletedBetweenCommitAndReference(t *testing.T) {
	const other = "team/other/dev"
	t.Run("push", func(t *testing.T) {
		w := newWorld(t)
		d := must[oci.Descriptor](t)(w.blob(other, []byte("layer")))
		between := &betweenUploads{uploads: w.r.store.Uploads, do: func() {
			if err := w.r.DeleteBlob(t.Context(), other, d.Digest, alice); err != nil {
				t.Error(err)
			}
		}}
		w.r.store.Uploads = between
		must[oci.Descriptor](t)(w.blob(devel, []byte("layer")))
		if between.do != nil {
			t.Fatal("nothing came between")
		}
		b := must[*store.Blob](t)(w.r.Blob(t.Context(), devel, d.Digest))
		b.Content.Close()
		w.check()
	})
	t.Run("release", func(t *testing.T) {
		w := newWorld(t)
		d := must[oci.Descriptor](t)(w.image(candidate, picture{zone: "production", layers: []string{"layer"}}))
		// The summary's configuration, which half of all artifacts have.
		empty := must[oci.Descriptor](t)(w.blob(other, []byte("{}")))
		between := &betweenLog{Log: w.r.opt.Log, do: func() {
			if err := w.r.DeleteBlob(t.Context(), other, empty.Digest, alice); err != nil {
				t.Error(err)
			}
		}}
		w.r.opt.Log = between
		must[Released](t)(w.release(production, d.Digest, "1.0.0"))
		if between.do != nil {
			t.Fatal("nothing came between")
		}
		b := must[*store.Blob](t)(w.r.Blob(t.Context(), production, empty.Digest))
		b.Content.Close()
		w.check()
	})
}

// TestReplicaStartsDuringDecision: a server without the log starts while the one
// that has it is in the middle of a release, and leaves that alone.
func TestReplicaStartsDuringDecision(t *testing.T) {
	w := newWorld(t)
	d := must[oci.Descriptor](t)(w.image(candidate, picture{zone: "production", layers: []string{"layer"}}))
	between := &betweenLog{Log: w.r.opt.Log, do: func() {
		r, err := New(t.Context(), w.inner, Options{Replicas: true, Now: w.time, Steady: func() time.Duration { return 0 }})
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := r.Release(t.Context(), ReleaseOrder{RequestID: "request-other", Repository: production, Digest: d.Digest, Version: "2.0.0", Entry: audit.Entry{Actor: alice}}); err == nil {
			t.Error("a server without a log releases")
		}
		if _, err := New(t.Context(), w.inner, Options{Now: w.time}); err == nil {
			t.Error("a server that is alone starts without the log that its decisions are in")
		}
	}}
	w.r.opt.Log = between
	must[Released](t)(w.release(production, d.Digest, "1.0.0"))
	if !w.has(production, "1.0.0") {
		t.Error("the release is gone")
	}
	w.check()
}
