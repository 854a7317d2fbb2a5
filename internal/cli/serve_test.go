package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/registry"
)

// command runs a command line of the program in a folder.
func command(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: time.Now, Dir: dir, Getenv: func(string) string { return "" }}
	code = Run(t.Context(), env, args)
	return code, out.String(), errs.String()
}

func TestServeUsage(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file("typo.yaml", "version: 1\nlisten: 127.0.0.1:0\nacces: {}\n")
	file("open.yaml", "version: 1\nlisten: 0.0.0.0:0\ndata: here\naccess: {anonymousDevelopment: true}\n")
	for _, c := range []struct {
		args string
		code int
		want string // in what is said
	}{
		{"serve", 2, "hint: --data DIR"},
		{"serve now", 2, `unexpected argument "now"`},
		{"serve --config missing.yaml", 2, "--config: open "},
		{"serve --config typo.yaml", 2, `typo.yaml:3:1: acces: unknown key: did you mean "access"?`},
		{"serve --config open.yaml", 2, "there is no TLS"},
		{"serve --data d --listen 5000", 2, `listen: "5000"`},
		{"serve --data d --listen :5000", 2, "--insecure-plain-http"},
		{"serve --data d --check --print-config", 2, "ask for one"},
		{"serve --data d --mend", 2, "go with --check"},
		{"serve --data d --check --mend --shallow", 2, "leave --shallow out"},
		{"serve --data d --json", 2, "--json goes with"},
		{"serve --data d --check", 3, "there is no registry in "},
		{"serve --data d --backup copy", 1, "there is no registry in "},
	} {
		code, stdout, stderr := command(t, dir, strings.Fields(c.args)...)
		if code != c.code || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("twinhull %s: code %d, %q, %q; want %d and %q", c.args, code, stdout, stderr, c.code, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "d")); err == nil {
		t.Error("a folder was made by a command that failed")
	}
	code, stdout, stderr := command(t, dir, "serve", "--config", "open.yaml", "--listen", "127.0.0.1:7", "--allow-anonymous-development=false", "--print-config")
	if code != 0 || !strings.Contains(stdout, "anonymousDevelopment: false\n") || !strings.Contains(stdout, "listen: \"127.0.0.1:7\"\n") ||
		!strings.Contains(stdout, "data: \""+filepath.Join(dir, "here")+"\"\n") {
		t.Errorf("code %d\n%s%s", code, stdout, stderr)
	}
}

// TestServeCheckBackup goes the operator's way: serve, check and back up while it
// serves, stop, check the copy.
func TestServeCheckBackup(t *testing.T) {
	dir := t.TempDir()
	r, w := io.Pipe()
	var said bytes.Buffer
	env := &Env{Stdin: strings.NewReader(""), Stdout: w, Stderr: &said, Now: time.Now, Dir: dir, Getenv: func(string) string { return "" }}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, env, []string{"serve", "--data", "registry", "--listen", "127.0.0.1:0", "--allow-anonymous-development"})
		w.Close()
	}()
	lines := bufio.NewScanner(r)
	if !lines.Scan() {
		t.Fatalf("code %d: %s", <-ended, said.String())
	}
	url := lines.Text()
	go io.Copy(io.Discard, r)
	resp, err := http.Post(url+"/v2/a/dev/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("an upload begins with %d", resp.StatusCode)
	}

	check := func(data string) {
		t.Helper()
		code, stdout, stderr := command(t, dir, "serve", "--data", data, "--check")
		if code != 0 || !strings.HasSuffix(stdout, "\nclean\n") {
			t.Errorf("--check of %s: code %d\n%s%s", data, code, stdout, stderr)
		}
		code, stdout, _ = command(t, dir, "serve", "--data", data, "--check", "--json")
		var got registry.Checked
		if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil {
			t.Errorf("--check --json of %s: code %d, %v\n%s", data, code, err, stdout)
		}
	}
	check("registry")
	if code, stdout, stderr := command(t, dir, "serve", "--data", "registry", "--backup", "copy"); code != 0 || stdout != filepath.Join(dir, "copy")+"\n" {
		t.Errorf("--backup: code %d, %s%s", code, stdout, stderr)
	}
	if code, _, stderr := command(t, dir, "serve", "--data", "registry", "--listen", "127.0.0.1:0"); code != 1 || !strings.Contains(stderr, "another server uses this folder") {
		t.Errorf("a second server: code %d, %s", code, stderr)
	}
	cancel(Interrupted{Signal: syscall.SIGTERM})
	if code := <-ended; code != 0 {
		t.Errorf("stopped with code %d: %s", code, said.String())
	}
	check("registry")
	check("copy")
	for _, want := range []string{
		"registry   " + url + "\n", "open       pull:development, push:development, delete:development in ** to everybody\n",
		"signs      for " + strings.TrimPrefix(url, "http://") + " with key ", "log        twinhull/", "releases   none: release.trust",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("not said: %q", want)
		}
	}
	if t.Failed() {
		t.Log(said.String())
	}
}

func TestWriteChecked(t *testing.T) {
	var b bytes.Buffer
	err := writeChecked(&b, &registry.Checked{Repositories: 1, Contents: 2, Bytes: 2048, Problems: []registry.Problem{
		{Kind: registry.DamagedBlob, Name: "sha256:aa", Detail: "the bytes \x1b[2J differ"},
		{Kind: registry.Orphan, Name: "sha256:bb", Detail: "nobody has it", Mend: "delete it"},
		{Kind: registry.Leak, Repository: "a/dev", Name: "x", Detail: "forgotten", Mend: "remember it", Mended: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"damaged-blob  sha256:aa\n    the bytes \ufffd[2J differ\n    cannot be mended from what is here\n",
		"orphan  sha256:bb\n    nobody has it\n    --mend would: delete it\n",
		"leak  a/dev x\n    forgotten\n    mended: remember it\n",
		"3 problems, 1 of them mended\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
