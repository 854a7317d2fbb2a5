package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/storetest"
)

// server is a PostgreSQL of its own, reached through a socket in its folder.
type server struct {
	bin, dir string
	as       *syscall.Credential // it refuses to run as root
	cmd      *exec.Cmd
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why, "; in CI nothing is skipped (tools/prepare-tests)")
	}
	t.Skip(why, " (tools/prepare-tests gets it)")
}

// newServer makes a server and starts it; it ends with the test.
func newServer(t testing.TB) *server {
	t.Helper()
	found, err := exec.LookPath("initdb")
	if err != nil {
		// Debian keeps the programs of each version apart, and none on PATH.
		all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
		if len(all) == 0 {
			skip(t, "PostgreSQL is missing")
		}
		slices.SortFunc(all, func(a, b string) int {
			return version(a) - version(b)
		})
		found = all[len(all)-1]
	}
	s := &server{bin: filepath.Dir(found)}
	// Not t.TempDir, whose parents another user may not enter; and the path of a
	// socket must be short.
	if s.dir, err = os.MkdirTemp("", "twinhull-pg-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	if os.Getuid() == 0 {
		u, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(s.dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	cmd := s.command("initdb", "-D", s.data(), "--no-locale", "-E", "UTF8", "-A", "trust", "-U", "twinhull", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.start(t)
	t.Cleanup(func() { s.stop(syscall.SIGINT) })
	return s
}

func version(initdb string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
	return n
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }

func (s *server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TZ=UTC", "LC_ALL=C"}
	// Should the test be killed, so is the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

func (s *server) start(t testing.TB, settings ...string) {
	t.Helper()
	args := []string{"-D", s.data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "max_connections=50"}
	for _, one := range settings {
		args = append(args, "-c", one)
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd = s.command("postgres", args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := pgx.Connect(context.Background(), s.connect(""))
		if err == nil {
			_ = conn.Close(context.Background())
			return
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(log.Name())
			t.Fatalf("PostgreSQL does not start: %v\n%s", err, b)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *server) stop(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	_ = s.cmd.Wait()
	s.cmd = nil
}

// connect is how a schema is reached.
func (s *server) connect(schema string) string {
	c := fmt.Sprintf("host=%s user=twinhull dbname=postgres pool_max_conns=12", s.dir)
	if schema == "" {
		return strings.TrimSuffix(c, " pool_max_conns=12")
	}
	return c + " search_path=" + schema
}

func (s *server) exec(t testing.TB, sql string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.connect(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}

var schemas atomic.Int64

func (s *server) newSchema(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", schemas.Add(1))
	s.exec(t, "CREATE SCHEMA "+name)
	return name
}

func (s *server) open(t testing.TB, schema string) store.Records {
	t.Helper()
	r, err := Open(t.Context(), s.connect(schema))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestPostgres(t *testing.T) {
	s := newServer(t)
	storetest.Run(t, func(t *testing.T) storetest.Place {
		schema := s.newSchema(t)
		return storetest.Place{
			Replicas: true,
			Open: func(t *testing.T) storetest.Opened {
				r := s.open(t, schema)
				return storetest.Opened{Store: store.Store{Records: r}, Close: r.Close}
			},
		}
	})

	t.Run("ReplicasStartTogether", func(t *testing.T) {
		schema := s.newSchema(t)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				r, err := Open(t.Context(), s.connect(schema))
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
		schema := s.newSchema(t)
		_ = s.open(t, schema).Close()
		s.exec(t, fmt.Sprintf("CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA %[1]s TO plain; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %[1]s TO plain", schema))
		r, err := Open(t.Context(), strings.Replace(s.connect(schema), "user=twinhull", "user=plain", 1))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := put(t.Context(), r, "a", "1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("OtherFormat", func(t *testing.T) {
		schema := s.newSchema(t)
		_ = s.open(t, schema).Close()
		s.exec(t, "UPDATE "+schema+".twinhull_about SET format = 'twinhull records 9'")
		if _, err := Open(t.Context(), s.connect(schema)); err == nil || !strings.Contains(err.Error(), "twinhull records 9") {
			t.Errorf("Open: %v; want its format told", err)
		}
	})
	t.Run("ReadOnly", func(t *testing.T) {
		schema := s.newSchema(t)
		_ = s.open(t, schema).Close()
		r, err := Open(t.Context(), s.connect(schema)+" default_transaction_read_only=on")
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
		schema := s.newSchema(t)
		r, err := Open(t.Context(), s.connect(schema)+" synchronous_commit=off")
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
		r := s.open(t, s.newSchema(t))
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
		r := s.open(t, s.newSchema(t))
		_ = r.Close()
		if err := put(t.Context(), r, "a", "1"); !errors.Is(err, store.ErrClosed) {
			t.Errorf("Update: %v; want ErrClosed", err)
		}
	})
	// The last ones: they stop the server.
	t.Run("ServerCrashes", func(t *testing.T) {
		schema := s.newSchema(t)
		r := s.open(t, schema)
		done := 0
		for ; done < 50; done++ {
			if err := put(t.Context(), r, fmt.Sprintf("k%02d", done), "v"); err != nil {
				t.Fatal(err)
			}
		}
		s.stop(syscall.SIGQUIT) // at once; the next start recovers
		if err := put(t.Context(), r, "lost", "v"); err == nil {
			t.Error("Update without a server succeeds")
		}
		s.start(t)
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
		s.stop(syscall.SIGINT)
		s.start(t, "fsync=off")
		if _, err := Open(t.Context(), s.connect("public")); err == nil || !strings.Contains(err.Error(), "fsync") {
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
