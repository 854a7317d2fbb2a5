package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/registry"
)

// releaseByHand releases an artifact as the release service would, without a gate.
func releaseByHand(ctx context.Context, s *Server, repository, text, version string) error {
	m, _ := artifact(text)
	d := digest.FromBytes(m)
	_, err := s.reg.Release(ctx, registry.ReleaseOrder{RequestID: "request-" + version, Repository: repository, Digest: d, Version: version,
		Entry: audit.Entry{ID: "request-" + version, Action: audit.Release, Verdict: audit.Allowed, Actor: audit.Actor{Name: "test"}, Object: audit.Object{Repository: repository, Tag: version, Digest: d}}})
	return err
}

// TestBackupOfARunningServer backs up while images are pushed, deleted, collected
// and released, serves the copy, and checks it.
func TestBackupOfARunningServer(t *testing.T) {
	c := withRoles(config(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := Open(ctx, c, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ready := make(chan Doors, 1)
	s.opt.Listening = func(d Doors) { ready <- d }
	go func() { ended <- s.Serve(ctx) }()
	r := &running{t: t, log: &safeBuffer{}, doors: <-ready}

	var load sync.WaitGroup
	var stop atomic.Bool
	var pushed, released atomic.Int64
	for w := range 2 {
		load.Go(func() {
			for i := 0; !stop.Load(); i++ {
				text := fmt.Sprintf("image %d of worker %d", i, w)
				repository := fmt.Sprintf("load/w%d", w)
				if code := r.push(repository+"/dev", fmt.Sprintf("t%d", i%5), "secret-developer", text); code != 201 {
					t.Errorf("push under load: %d", code)
					return
				}
				pushed.Add(1)
				if i%3 == 0 {
					r.do("DELETE", fmt.Sprintf("/v2/%s/dev/manifests/t%d", repository, (i+1)%5), "secret-developer", "", nil)
				}
			}
		})
	}
	load.Go(func() {
		for i := 0; !stop.Load(); i++ {
			text, version := fmt.Sprintf("release %d", i), fmt.Sprintf("1.0.%d", i)
			if code := r.push("load/app/candidate", "", "secret-builder", text); code != 201 {
				t.Errorf("push of a candidate under load: %d", code)
				return
			}
			if err := releaseByHand(ctx, s, "load/app", text, version); err != nil {
				t.Errorf("release under load: %v", err)
				return
			}
			released.Add(1)
			if _, err := s.reg.Collect(ctx, false); err != nil {
				t.Errorf("collection under load: %v", err)
			}
		}
	})
	for pushed.Load() < 10 || released.Load() < 3 {
		if t.Failed() {
			break
		}
	}
	if err := os.Mkdir(filepath.Join(c.Data, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Data, "keys", "server.key"), []byte("a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "copy")
	for range 2 { // the later ones go on where the first left
		before := released.Load()
		got, err := Backup(ctx, c, testOptions(), dir)
		if err != nil {
			t.Fatal(err)
		}
		restored := c
		restored.Data = filepath.Join(t.TempDir(), "restored")
		if err := os.CopyFS(restored.Data, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(restored.Data, "backup.json"))
		checked, err := CheckStore(ctx, restored, testOptions(), CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(checked.Problems) > 0 {
			b, _ := json.MarshalIndent(checked.Problems, "", "  ")
			t.Errorf("the copy is not clean: %s", b)
		}
		if checked.Manifests == 0 || got.Entries == 0 {
			t.Errorf("the copy holds nothing: %+v %+v", checked, got)
		}
		// What was acknowledged before it began is in it.
		rs, err := Open(ctx, restored, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		versions, err := rs.reg.Versions(ctx, "load/app")
		if err != nil || int64(len(versions)) < before {
			t.Errorf("%d versions, and %d were released before: %v", len(versions), before, err)
		}
		if rs.doors.LogKey != s.doors.LogKey {
			t.Error("the copy's log signs with another key")
		}
		if fi, err := os.Stat(filepath.Join(dir, "keys", "server.key")); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("the server's key: %v, %v", fi, err)
		}
		if err := rs.Close(); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	load.Wait()
	if got, err := CheckStore(ctx, c, testOptions(), CheckOptions{}); err != nil || len(got.Problems) > 0 {
		t.Errorf("a check of the running server: %+v, %v", got, err)
	}
	cancel()
	if err := errors.Join(<-ended, s.Close()); err != nil {
		t.Error(err)
	}
	// And without a server.
	ctx = t.Context()
	if got, err := CheckStore(ctx, c, testOptions(), CheckOptions{}); err != nil || len(got.Problems) > 0 {
		t.Errorf("a check without a server: %+v, %v", got, err)
	}
	if _, err := Backup(ctx, c, testOptions(), dir); err != nil {
		t.Errorf("a back-up without a server: %v", err)
	}
}

func TestBackupRefusesItsOwnFolder(t *testing.T) {
	c := config(t)
	s, err := Open(t.Context(), c, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(c.Data, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{c.Data, filepath.Join(c.Data, "store"), filepath.Join(c.Data, "x", "y"), filepath.Dir(c.Data), "relative", link} {
		if _, err := s.backup(t.Context(), dir); err == nil {
			t.Errorf("backs up into %s", dir)
		}
	}
}

func TestCheckFindsAnOlderStoreAndAnOlderLog(t *testing.T) {
	c := withRoles(config(t))
	s, err := Open(t.Context(), c, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan Doors, 1)
	s.opt.Listening = func(d Doors) { ready <- d }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	r := &running{t: t, log: &safeBuffer{}, doors: <-ready}
	release := func(text, version string) {
		t.Helper()
		if code := r.push("shop/api/candidate", "", "secret-builder", text); code != 201 {
			t.Fatal(code)
		}
		if err := releaseByHand(ctx, s, "shop/api", text, version); err != nil {
			t.Fatal(err)
		}
	}
	copies := t.TempDir()
	release("one", "1.0.0")
	if _, err := s.backup(ctx, filepath.Join(copies, "old")); err != nil {
		t.Fatal(err)
	}
	release("two", "1.0.1")
	if _, err := s.backup(ctx, filepath.Join(copies, "new")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := errors.Join(<-ended, s.Close()); err != nil {
		t.Fatal(err)
	}
	mixed := func(store, log string) Config {
		m := c
		m.Data = t.TempDir()
		for name, from := range map[string]string{"store": store, "log": log} {
			if err := os.CopyFS(filepath.Join(m.Data, name), os.DirFS(filepath.Join(copies, from, name))); err != nil {
				t.Fatal(err)
			}
		}
		return m
	}
	for _, x := range []struct{ store, log, kind, name string }{
		{"old", "new", MissingDecision, "1.0.1"},
		{"new", "old", UnloggedDecision, "1.0.1"},
		{"new", "new", "", ""},
	} {
		got, err := CheckStore(t.Context(), mixed(x.store, x.log), testOptions(), CheckOptions{})
		if err != nil {
			t.Fatalf("%s store, %s log: %v", x.store, x.log, err)
		}
		var found []string
		for _, p := range got.Problems {
			found = append(found, p.Kind+" "+p.Name)
		}
		if text := strings.Join(found, "\n"); text != strings.TrimSpace(x.kind+" "+x.name) {
			t.Errorf("%s store, %s log: %s", x.store, x.log, text)
		}
	}
}

func TestCheckMakesNothing(t *testing.T) {
	c := config(t)
	if _, err := CheckStore(t.Context(), c, testOptions(), CheckOptions{}); err == nil || !strings.Contains(err.Error(), "there is no registry") {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(c.Data); err != nil || len(left) > 0 {
		t.Errorf("%v is there, %v", left, err)
	}
	c.Data = filepath.Join(c.Data, "missing")
	if _, err := CheckStore(t.Context(), c, testOptions(), CheckOptions{}); err == nil {
		t.Error("a folder that is not there is checked")
	}
}

func TestCheckFindsDamage(t *testing.T) {
	c := config(t)
	c.Access.AnonymousDevelopment = true
	r := start(t, c, testOptions())
	if code := r.push("a/dev", "main", "", "to be damaged"); code != 201 {
		t.Fatal(code)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("to be damaged")
	path := filepath.Join(c.Data, "store", "blobs", "sha256", d.Encoded()[:2], d.Encoded())
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("to be repaired"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := CheckStore(t.Context(), c, testOptions(), CheckOptions{})
	if err != nil || len(got.Problems) == 0 || got.Problems[0].Kind != registry.DamagedBlob {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Backup(t.Context(), c, testOptions(), filepath.Join(t.TempDir(), "copy")); err == nil {
		t.Error("damage is backed up as if it were well")
	}
}
