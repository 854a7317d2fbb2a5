// Package outside starts the servers that a store can be kept in, PostgreSQL and
// MinIO, for one test each: with folders of their own, on this machine alone, and
// ended with the test. It is for tests only, and knows neither what is kept nor
// how.
//
// What is missing skips the test and says where to get it; with CI=true it fails.
package outside

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func skip(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what, "is missing; in CI nothing is skipped (tools/prepare-tests)")
	}
	t.Skip(what, "is missing (tools/prepare-tests gets it)")
}

// Postgres is a PostgreSQL server, reached through a socket in its folder.
type Postgres struct {
	bin, dir string
	as       *syscall.Credential // it refuses to run as root
	cmd      *exec.Cmd
	schemas  atomic.Int64
}

// NewPostgres makes a server and starts it.
func NewPostgres(t testing.TB) *Postgres {
	t.Helper()
	found, err := exec.LookPath("initdb")
	if err != nil {
		// Debian keeps the programs of each version apart, and none on PATH.
		all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
		if len(all) == 0 {
			skip(t, "PostgreSQL")
		}
		slices.SortFunc(all, func(a, b string) int { return version(a) - version(b) })
		found = all[len(all)-1]
	}
	s := &Postgres{bin: filepath.Dir(found)}
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
	s.Start(t)
	t.Cleanup(func() { s.Stop(syscall.SIGINT) })
	return s
}

func version(initdb string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
	return n
}

func (s *Postgres) data() string { return filepath.Join(s.dir, "data") }

func (s *Postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TZ=UTC", "LC_ALL=C"}
	// Should the test be killed, so is the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

// Start starts the server again after Stop, with further settings (NAME=VALUE).
func (s *Postgres) Start(t testing.TB, settings ...string) {
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
		conn, err := pgx.Connect(context.Background(), s.Connect(""))
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

// Stop ends the server by a signal and waits: SIGINT disconnects everybody,
// SIGQUIT is as a crash.
func (s *Postgres) Stop(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Connect is the connection string for a schema; "" for none and no pool.
func (s *Postgres) Connect(schema string) string {
	c := fmt.Sprintf("host=%s user=twinhull dbname=postgres", s.dir)
	if schema == "" {
		return c
	}
	return c + " pool_max_conns=12 search_path=" + schema
}

// Exec executes statements as the owner of everything.
func (s *Postgres) Exec(t testing.TB, sql string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.Connect(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}

// NewSchema makes a schema that nobody has used.
func (s *Postgres) NewSchema(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.schemas.Add(1))
	s.Exec(t, "CREATE SCHEMA "+name)
	return name
}
