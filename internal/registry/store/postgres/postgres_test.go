package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/storetest"
	"twinhull.dev/twinhull/internal/registry/store/storetest/outside"
)

// server is a PostgreSQL of its own.
type server struct{ *outside.Postgres }

func (s server) open(t testing.TB, schema string) store.Records {
	t.Helper()
	r, err := Open(t.Context(), s.Connect(schema))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestPostgres(t *testing.T) {
	s := server{outside.NewPostgres(t)}
	storetest.Run(t, func(t *testing.T) storetest.Place {
		schema := s.NewSchema(t)
		return storetest.Place{
			Replicas: true,
			Open: func(t *testing.T) storetest.Opened {
				r := s.open(t, schema)
				return storetest.Opened{Store: store.Store{Records: r}, Close: r.Close}
			},
		}
	})

	t.Run("ReplicasStartTogether", func(t *testing.T) {
		schema := s.NewSchema(t)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				r, err := Open(t.Context(), s.Connect(schema))
				if err != nil {
					t.Error(err)
					return
				}
				_ = r.Close()
			})
		}
		wg.Wait()
	})
	t.Run("RoleWithoutCreate", func(t *testing.T) {
		schema := s.NewSchema(t)
		_ = s.open(t, schema).Close()
		s.Exec(t, fmt.Sprintf("CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA %[1]s TO plain; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %[1]s TO plain", schema))
		r, err := Open(t.Context(), strings.Replace(s.Connect(schema), "user=twinhull", "user=plain", 1))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := put(t.Context(), r, "a", "1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("OtherFormat", func(t *testing.T) {
		schema := s.NewSchema(t)
		_ = s.open(t, schema).Close()
		s.Exec(t, "UPDATE "+schema+".twinhull_about SET format = 'twinhull records 9'")
		if _, err := Open(t.Context(), s.Connect(schema)); err == nil || !strings.Contains(err.Error(), "twinhull records 9") {
			t.Errorf("Open: %v; want its format told", err)
		}
	})
	t.Run("ReadOnly", func(t *testing.T) {
		schema := s.NewSchema(t)
		_ = s.open(t, schema).Close()
		r, err := Open(t.Context(), s.Connect(schema)+" default_transaction_read_only=on")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := put(t.Context(), r, "a", "1"); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("Update: %v; want ErrReadOnly", err)
		}
		if _, err := get(t.Context(), r, "a"); err != nil {
			t.Errorf("View: %v", err)
		}
	})
	t.Run("SynchronousCommit", func(t *testing.T) {
		schema := s.NewSchema(t)
		r, err := Open(t.Context(), s.Connect(schema)+" synchronous_commit=off")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var got string
		if err := r.(*records).pool.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&got); err != nil || got != "on" {
			t.Errorf("synchronous_commit is %q, %v", got, err)
		}
	})
	t.Run("ManyBytesInPages", func(t *testing.T) {
		r := s.open(t, s.NewSchema(t))
		want := 0
		for i := range 5 {
			err := r.Update(t.Context(), func(tx store.Transaction) error {
				for j := range 10 {
					if err := tx.Put(fmt.Appendf(nil, "k%02d", 10*i+j), bytes.Repeat([]byte{byte(j)}, 1<<20)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		err := r.View(t.Context(), func(tx store.Reader) error {
			for rec, err := range tx.Scan([]byte("k"), nil) {
				if err != nil {
					return err
				}
				if string(rec.Key) != fmt.Sprintf("k%02d", want) || len(rec.Value) != 1<<20 {
					t.Fatalf("%q with %d bytes, want k%02d", rec.Key, len(rec.Value), want)
				}
				want++
			}
			return nil
		})
		if err != nil || want != 50 {
			t.Errorf("%d records, %v", want, err)
		}
	})
	t.Run("Closed", func(t *testing.T) {
		r := s.open(t, s.NewSchema(t))
		_ = r.Close()
		if err := put(t.Context(), r, "a", "1"); !errors.Is(err, store.ErrClosed) {
			t.Errorf("Update: %v; want ErrClosed", err)
		}
	})
	// The last ones: they stop the server.
	t.Run("ServerCrashes", func(t *testing.T) {
		schema := s.NewSchema(t)
		r := s.open(t, schema)
		done := 0
		for ; done < 50; done++ {
			if err := put(t.Context(), r, fmt.Sprintf("k%02d", done), "v"); err != nil {
				t.Fatal(err)
			}
		}
		s.Stop(syscall.SIGQUIT) // at once; the next start recovers
		if err := put(t.Context(), r, "lost", "v"); err == nil {
			t.Error("Update without a server succeeds")
		}
		s.Start(t)
		for i := range done {
			v, err := get(t.Context(), r, fmt.Sprintf("k%02d", i))
			if err != nil || v != "v" {
				t.Fatalf("record %d: %q, %v", i, v, err)
			}
		}
		if err := put(t.Context(), r, "after", "v"); err != nil {
			t.Errorf("Update once the server is there again: %v", err)
		}
	})
	t.Run("FsyncOff", func(t *testing.T) {
		s.Stop(syscall.SIGINT)
		s.Start(t, "fsync=off")
		if _, err := Open(t.Context(), s.Connect("public")); err == nil || !strings.Contains(err.Error(), "fsync") {
			t.Errorf("Open: %v; want it refused", err)
		}
	})
}

func put(ctx context.Context, r store.Records, key, value string) error {
	return r.Update(ctx, func(tx store.Transaction) error { return tx.Put([]byte(key), []byte(value)) })
}

func get(ctx context.Context, r store.Records, key string) (value string, err error) {
	err = r.View(ctx, func(tx store.Reader) error {
		v, _, err := tx.Get([]byte(key))
		value = string(v)
		return err
	})
	return value, err
}

func TestBehind(t *testing.T) {
	for _, tc := range [][2]string{{"", ""}, {"a", "b"}, {"a\xff", "b"}, {"\xff", ""}, {"\xff\xff", ""}, {"a\x00", "a\x01"}, {"\xfe\xff\xff", "\xff"}} {
		if got := behind([]byte(tc[0])); string(got) != tc[1] {
			t.Errorf("behind %q is %q, want %q", tc[0], got, tc[1])
		}
	}
}
