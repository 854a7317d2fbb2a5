package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
)

// auditFixture is a log of six entries, closed, and its key.
func auditFixture(t *testing.T) (dir, key string, early []byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "log")
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	l, err := audit.Open(dir, audit.Options{Installation: "cli", Now: func() time.Time { now = now.Add(12 * time.Hour); return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	digest := func(c string) oci.Digest { return oci.Digest("sha256:" + strings.Repeat(c, 64)) }
	for i, e := range []audit.Entry{
		{Action: audit.Release, Verdict: audit.Allowed, Object: audit.Object{Repository: "team/app", Tag: "1.0.0", Digest: digest("a")}},
		{Action: audit.RefuseDelete, Verdict: audit.Refused, Object: audit.Object{Repository: "team/app", Tag: "1.0.0"}, Reasons: []string{"permanent"}},
		{Action: audit.Release, Verdict: audit.Allowed, Object: audit.Object{Repository: "team/app", Tag: "1.1.0", Digest: digest("b")}},
		{Action: audit.RefuseWrite, Verdict: audit.Refused, Object: audit.Object{Repository: "other", Tag: "x\x1b[2J\ty"}},
		{Action: audit.Revoke, Verdict: audit.Allowed, Object: audit.Object{Repository: "team/app", Digest: digest("a")}},
		{Action: audit.Collect, Verdict: audit.Allowed},
	} {
		e.ID, e.Actor = fmt.Sprint("request-", i), audit.Actor{Name: "ci"}
		at, err := l.Append(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := l.Await(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			early = raw
		}
	}
	return dir, l.Keys()[0], early
}

// auditRun runs `twinhull audit …` in a folder.
func auditRun(ctx context.Context, dir string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	env := &Env{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Dir: dir, Getenv: func(string) string { return "" },
		Now: func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) },
	}
	code = Run(ctx, env, append([]string{"--directory", dir, "audit"}, args...))
	return code, out.String(), errs.String()
}

func TestAudit(t *testing.T) {
	log, key, early := auditFixture(t)
	work := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(work, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log.pub", []byte("# the registry's\n"+key+"\n"))
	write("early", early)
	statement, err := json.Marshal(map[string]any{"predicate": map[string]any{"twinhull_log": map[string]any{"origin": "twinhull/cli/audit", "checkpoint": string(early)}}})
	if err != nil {
		t.Fatal(err)
	}
	write("summary.json", statement)
	bundle, err := json.Marshal(map[string]any{"dsseEnvelope": map[string]any{"payload": statement}})
	if err != nil {
		t.Fatal(err)
	}
	write("summary.bundle", bundle)
	server := httptest.NewServer(http.StripPrefix("/twinhull/v1/log", audit.Handler(log)))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")

	// Changed copies.
	changed := func(change func(dir string) error) string {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "log")
		if err := os.CopyFS(dir, os.DirFS(log)); err != nil {
			t.Fatal(err)
		}
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	altered := changed(func(dir string) error {
		name := filepath.Join(dir, "tile/entries/000.p/6")
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(name, bytes.Replace(b, []byte("request-1"), []byte("request-7"), 1), 0o600)
	})
	rolledBack := changed(func(dir string) error { return os.WriteFile(filepath.Join(dir, "checkpoint"), early, 0o600) })
	private, other, err := audit.GenerateKey(audit.Origin("cli"))
	if err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		args   string
		code   int
		stdout string // a regular expression
		stderr string
	}{
		{"list --log LOG --key log.pub", 0, `(?s)^INDEX +TIME.*\n0 +2026-11-21 00:00:00Z +release +allowed +team/app:1.0.0@sha256:aaaaaaaaaaaa +ci\n.*\n3 .*other:x.\[2J y +ci\n.*\n5 .*collect +allowed +- +ci\n$`, `^$`},
		{"list --registry HOST", 0, `^INDEX`, `not whose it is`},
		{"list --registry http://HOST/twinhull/v1/log --key KEY", 0, `^INDEX`, `^$`},
		{"list --log LOG --key KEY --action release --action revoke --last 2", 0, `^INDEX[^\n]*\n2 [^\n]*\n4 [^\n]*\n$`, `the newest 2 that match`},
		{"list --log LOG --key KEY --repository team/*  --verdict refused", 0, `^INDEX[^\n]*\n1 [^\n]*\n$`, ``},
		{"list --log LOG --key KEY --since 1d", 0, `^INDEX[^\n]*\n3 [^\n]*\n4 [^\n]*\n5 [^\n]*\n$`, ``},
		{"list --log LOG --key KEY --since 2026-11-23T00:00:00Z", 0, `^INDEX[^\n]*\n4 [^\n]*\n5 [^\n]*\n$`, ``},
		{"list --log LOG --key KEY --since soon", 2, `^$`, `want a date`},
		{"list --log LOG --key KEY --output json --action collect", 0, `(?s)"index": 5,\n.*"request-5"`, ``},
		{"list", 2, ``, `which log`},
		{"list --log LOG --registry HOST", 2, ``, `which log`},
		{"list --log nowhere", 3, ``, `there is no log here`},
		{"list --log LOG --key OTHER", 1, ``, `not signed by a key of this log`},
		{"list --log ALTERED --key KEY", 1, `^$`, `not what the checkpoint of 6 entries covers`},
		{"list --registry registry.example:bad", 2, ``, `want HOST`},
		{"list --registry http://registry.example/log", 2, ``, `without TLS`},
		{"list --log LOG --key KEY --quorum 1", 2, ``, `a quorum of 1 of 0`},
		{"show 2 --log LOG --key KEY", 0, `(?s)"index": 2.*"tag": "1.1.0"`, `^$`},
		{"show 2 --log LOG --key KEY --raw", 0, `^\{"action":"release",.*\}$`, `^$`},
		{"show 6 --log LOG --key KEY", 1, ``, `has 6 entries`},
		{"show x --log LOG --key KEY", 2, ``, `index`},
		{"prove 2 --log LOG --key KEY", 0, `^$`, `2.tlog-proof proves entry 2 by a checkpoint of 6`},
		{"prove sha256:" + strings.Repeat("a", 64) + " --registry HOST --key KEY -o revoked", 0, `^$`, `revoked proves entry 4`},
		{"prove sha256:" + strings.Repeat("f", 64) + " --registry HOST --key KEY", 1, `^$`, `no entry is about`},
		{"prove sha256:ff --registry HOST --key KEY", 2, ``, ``},
		{"verify --proof revoked --key KEY", 0, `(?s)revoke .*proved: entry 4 of twinhull/cli/audit, by a checkpoint of 6 entries\n$`, `^$`},
		{"verify --proof revoked --key KEY --entry early", 1, ``, `another entry`},
		{"verify --proof revoked --key OTHER", 1, ``, `not signed`},
		{"verify --proof revoked", 2, ``, `whose log`},
		{"verify --proof early --key KEY", 1, ``, `not a proof`},
		{"verify --proof missing --key KEY", 3, ``, `missing`},
		{"verify --proof revoked --key KEY --log LOG", 2, ``, `by itself`},
		{"verify --log LOG --key KEY --anchor early --keep kept", 0, `^whole: twinhull/cli/audit, 6 entries, root [0-9a-f]{64}, as 1 anchor has it\n$`, ``},
		{"verify --registry HOST --key KEY --anchor kept", 0, `^whole: .*as 1 anchor has it`, ``},
		{"verify --log LOG --key KEY --anchor summary.json --anchor summary.bundle", 0, `as 2 anchors have it`, ``},
		{"verify --log LOG --key KEY --output json", 0, `"problems": \[\]`, `newer entries were cut off`},
		{"verify --log ALTERED --key KEY", 1, `(?s)altered: tile/entries/000.p/6: entries 1 are not those that were logged\n.*NOT WHOLE`, `1 problem\n`},
		{"verify --log ALTERED --key KEY --output json", 1, `"kind": "altered"`, ``},
		{"verify --log ROLLED --key KEY", 0, `^whole: .* 3 entries, .* and 3 that no checkpoint covers yet`, `cut off`},
		{"verify --log ROLLED --key KEY --anchor kept", 1, `truncated: checkpoint`, `not whole`},
		{"verify --log LOG --key KEY --anchor log.pub", 3, ``, `log.pub`},
		{"verify --log LOG --key KEY --consistent-with early --keep newer", 0, `^consistent: the 6 entries of twinhull/cli/audit begin with the 3 of early\n$`, `^$`},
		{"verify --log ROLLED --key KEY --consistent-with kept", 1, ``, `truncated`},
		{"verify --log LOG --key OTHER", 1, `unsigned: checkpoint`, ``},
		{"verify --log LOG --key PRIVATE", 2, ``, ``},
		{"verify --entry early --log LOG", 2, ``, `goes with --proof`},
		{"key --log LOG", 0, `^twinhull/cli/audit\+[0-9a-f]{8}\+\S+\n$`, `^$`},
		{"key --registry HOST", 0, `^twinhull/cli/audit\+`, `^$`},
		{"key --log LOG --new next.key", 0, `^twinhull/cli/audit\+`, `^$`},
		{"key --log LOG --new next.key", 1, `^$`, `there already`},
		{"witness --once --state w --key KEY --log LOG", 2, ``, `--name`},
		{"witness --once --state w --name laptop --key KEY --log LOG", 0, `(?s)^twinhull/cli/audit\n6\n.*— laptop `, `witness laptop\+`},
		{"witness --once --state w --key KEY --registry HOST", 0, `(?s)^twinhull/cli/audit\n6\n`, ``},
		{"witness --once --state w --key KEY --log ROLLED", 1, `^$`, `this witness has cosigned 6`},
		{"witness --state w --key KEY --log LOG", 2, ``, `--once`},
		{"witness --key KEY", 2, ``, `--state`},
		{"witness --state w", 2, ``, `--key`},
	} {
		args := strings.Fields(strings.NewReplacer("LOG", log, "HOST", host, "KEY", key, "OTHER", other, "ALTERED", altered, "ROLLED", rolledBack, "PRIVATE", private).Replace(c.args))
		code, stdout, stderr := auditRun(t.Context(), work, args...)
		if code != c.code || !regexp.MustCompile(c.stdout).MatchString(stdout) || !regexp.MustCompile(c.stderr).MatchString(stderr) {
			t.Errorf("audit %s: exit %d\n%s%s", c.args, code, stdout, stderr)
		}
		if code != 0 && !strings.Contains(stderr, "error: ") {
			t.Errorf("audit %s: no error message", c.args)
		}
		if strings.ContainsRune(stdout, '\x1b') {
			t.Errorf("audit %s: moves the cursor", c.args)
		}
	}
	// What is kept is a checkpoint; raw bytes prove what they say.
	_, raw, _ := auditRun(t.Context(), work, "show", "4", "--log", log, "--key", key, "--raw")
	write("entry.json", []byte(raw))
	if code, _, stderr := auditRun(t.Context(), work, "verify", "--proof", "revoked", "--key", key, "--entry", "entry.json"); code != 0 {
		t.Error(stderr)
	}
	var entry audit.Entry
	if err := json.Unmarshal([]byte(raw), &entry); err != nil || entry.Action != audit.Revoke {
		t.Errorf("%+v, %v", entry, err)
	}
}

// TestAuditWitnessServes runs the witness as a process would and lets a log use it.
func TestAuditWitnessServes(t *testing.T) {
	private, public, err := audit.GenerateKey(audit.Origin("w"))
	if err != nil {
		t.Fatal(err)
	}
	work, log := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(log, "log.key"), []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	said := &watchedWriter{lines: make(chan string, 16)}
	env := &Env{Stdin: strings.NewReader(""), Stdout: new(bytes.Buffer), Stderr: said, Dir: work, Getenv: func(string) string { return "" }, Now: time.Now}
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, env, []string{"--directory", work, "audit", "witness", "--state", "w", "--name", "w.example", "--key", public, "--listen", "127.0.0.1:0"})
	}()
	text := <-said.lines
	m := regexp.MustCompile(`(?s)witness (\S+)\nserves (http://127\.0\.0\.1:\d+)/add-checkpoint`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("it says %q", text)
	}
	l, err := audit.Open(log, audit.Options{Witnesses: []audit.WitnessServer{{URL: m[2], Key: m[1]}}, Quorum: 1})
	if err != nil {
		t.Fatal(err)
	}
	i, err := l.Append(ctx, audit.Entry{ID: "1", Action: audit.Collect, Verdict: audit.Allowed, Actor: audit.Actor{Name: "server"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Await(ctx, i); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if code, stdout, stderr := auditRun(ctx, work, "verify", "--log", log, "--key", public, "--witness-key", m[1], "--quorum", "1"); code != 0 || !strings.Contains(stdout, "cosigned by w.example") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("the witness exits %d: %s", code, said.String())
	}
}

// watchedWriter passes on the first lines that are written to it.
type watchedWriter struct {
	lines chan string
	mu    sync.Mutex
	all   bytes.Buffer
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.lines <- string(p):
	default:
	}
	return w.all.Write(p)
}

func (w *watchedWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}
