package registry

import (
	"errors"
	"flag"
	"os"
	"testing"

	"pgregory.net/rapid"

	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/files"
	"twinhull.dev/twinhull/internal/registry/store/postgres"
	"twinhull.dev/twinhull/internal/registry/store/s3"
	"twinhull.dev/twinhull/internal/registry/store/storetest/outside"
)

// few makes rapid do so many runs of so many steps, as these stores take their
// time; what a caller asked for by flags stays.
func few(t *testing.T, checks, steps string) {
	t.Helper()
	asked := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { asked[f.Name] = true })
	for name, v := range map[string]string{"rapid.checks": checks, "rapid.steps": steps} {
		f := flag.Lookup(name)
		if f == nil {
			t.Fatalf("there is no flag -%s", name)
		}
		if asked[name] {
			continue
		}
		was := f.Value.String()
		if err := f.Value.Set(v); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Value.Set(was) })
	}
}

// TestNothingIsLostOrLeakedInFiles is the property over the store that servers have
// by default.
func TestNothingIsLostOrLeakedInFiles(t *testing.T) {
	few(t, "8", "15")
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		place, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		f, err := files.Open(place, files.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := errors.Join(f.Close(), os.RemoveAll(place)); err != nil {
				t.Error(err)
			}
		}()
		nothingIsLostOrLeaked(t, newWorldOver(t, f.Store()))
	})
}

// TestNothingIsLostOrLeakedByReplicas is the property over a database and a bucket,
// where each start is that of a replica.
func TestNothingIsLostOrLeakedByReplicas(t *testing.T) {
	few(t, "3", "12")
	db, bucket := outside.NewPostgres(t), outside.NewMinIO(t)
	// rapid.T is no testing.TB, and schemas are cheap.
	fresh := func() (schema, prefix string) { return db.NewSchema(t), bucket.NewPrefix() }
	rapid.Check(t, func(t *rapid.T) {
		schema, prefix := fresh()
		records, err := postgres.Open(t.Context(), db.Connect(schema))
		if err != nil {
			t.Fatal(err)
		}
		defer records.Close()
		b, err := s3.Open(t.Context(), s3.Options{Bucket: bucket.Bucket, Prefix: prefix, Endpoint: bucket.Endpoint, PathStyle: true, AccessKey: bucket.User, SecretKey: bucket.Password})
		if err != nil {
			t.Fatal(err)
		}
		var s store.Store = b.Store(records)
		w := newWorldOver(t, s)
		w.opt.Replicas = true
		w.start()
		nothingIsLostOrLeaked(t, w)
	})
}
