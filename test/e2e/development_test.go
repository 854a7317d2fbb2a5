package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tools are what the development image of the node example must start.
const developmentScript = `
set -e
say() { echo "== $*"; }
say audit; dpkg --audit
say verify; dpkg -V || true
say check; apt-get check >/dev/null && echo ok
say tools
for t in "gdb --version" "strace --version" "ltrace --version" "tcpdump --version" "perf --version" "dig -v" "nc -h" "vim --version" "nano --version" \
         "curl --version" "wget --version" "git --version" "less --version" "ssh -V" "make --version" "g++ --version" "python3 --version" "ps --version" "npx --version"; do
	if ! $t >/tmp/out 2>&1; then echo "FAILED $t"; cat /tmp/out; fi
done
say compiler
cat >/tmp/a.c <<'C'
#include <stdio.h>
int main(void) { puts("compiled"); return 0; }
C
gcc -Wall -g -o /tmp/a /tmp/a.c && /tmp/a
say debugger; gdb -q -batch -ex 'break main' -ex run -ex bt /tmp/a 2>&1 | grep -o '#0  *main'
say trace; strace -f -e trace=write /tmp/a 2>&1 | grep -o 'write(1, "compiled' || echo "no trace"
say npm; npm --version
say node; node -p '1+1'
say whoami; id -un; pwd
say apt
apt-get -qq update && apt-get -qq install -y --no-install-recommends hello >/tmp/apt.log 2>&1 || { cat /tmp/apt.log; exit 1; }
hello
dpkg --audit
say end
`

// TestDevelopment works in the development image of the node example as a
// developer would.
func TestDevelopment(t *testing.T) {
	e := example(t, "node-api")
	users := map[string]world{"as it is": first()}
	if os.Getuid() == 0 {
		users["as an ordinary user"] = ordinary(t)
	}
	for _, user := range sortedKeys(users) {
		t.Run(user, func(t *testing.T) {
			dir := e.dir
			w := users[user]
			if w.User != 0 {
				dir = projectOf(t, e, w, "dev-as-user")
			}
			got := w.ok(t, dir, "run", "development", "--", "bash", "-c", developmentScript)
			parts := map[string]string{}
			for section := range strings.SplitSeq(got.stdout, "== ") {
				name, text, _ := strings.Cut(section, "\n")
				parts[name] = strings.TrimSpace(text)
			}
			want := map[string]string{
				"audit": "", "check": "ok", "tools": "", "compiler": "compiled", "node": "2", "whoami": "root\n/app",
				"npm": pinnedNPM(t, dir), "apt": "Hello, world!", "end": "", "trace": `write(1, "compiled`,
			}
			for _, k := range sortedKeys(want) {
				if text, ok := parts[k]; !ok || text != want[k] {
					t.Errorf("%s: %q, want %q", k, text, want[k])
				}
			}
			if !strings.HasPrefix(parts["debugger"], "#0") {
				t.Errorf("gdb: %q", parts["debugger"])
			}
			for line := range strings.Lines(parts["verify"]) {
				t.Errorf("dpkg -V: %s", line)
			}
			if t.Failed() {
				t.Log(got)
			}
		})
	}
}

// ordinary is an ordinary user with a cache that starts with the first
// environment's inputs.
func ordinary(t *testing.T) world {
	t.Helper()
	home := filepath.Join(work.dir, "runner")
	w := world{Cache: filepath.Join(home, "cache"), Home: home, User: ordinaryUser}
	for _, d := range []string{home, w.Cache} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d, ordinaryUser, ordinaryUser); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// projectOf gives another user a checkout of an example with the images that
// were built.
func projectOf(t *testing.T, e *made, w world, name string) string {
	t.Helper()
	dir := filepath.Join(w.Home, name)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := checkout(filepath.Base(e.dir), dir); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(filepath.Join(e.dir, "twinhull.lock"), filepath.Join(dir, "twinhull.lock"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, ".twinhull"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(e.dir, ".twinhull", "store"), filepath.Join(dir, ".twinhull", "store")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, w.User, w.User)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func pinnedNPM(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "package.json"))
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ PackageManager string }
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	v := strings.TrimPrefix(p.PackageManager, "npm@")
	v, _, _ = strings.Cut(v, "+")
	if v == "" {
		t.Fatal("package.json pins no npm")
	}
	return v
}

// TestReload starts the reload command, changes a source file and waits for
// the new answer; the debugger's port answers.
func TestReload(t *testing.T) {
	changes := map[string]struct{ file, old, new, path, want string }{
		"node-api":     {"src/app.ts", "res.json({ status: 'ok' })", "res.json({ status: 'changed' })", "/health", "changed"},
		"go-service":   {"internal/api/api.go", `status{"ok"}`, `status{"changed"}`, "/health", "changed"},
		"python-model": {"winemodel/serve.py", `{"status": "ok"}`, `{"status": "changed"}`, "/health", "changed"},
	}
	debugger := map[string]int{"node-api": 9229, "go-service": 2345, "python-model": 5678}
	for _, name := range examples {
		t.Run(name, func(t *testing.T) {
			e := example(t, name)
			app, change := applications[name], changes[name]
			if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", debugger[name])); err != nil {
				t.Skipf("the debugger's port is in use on this machine: %v", err)
			} else {
				l.Close()
			}
			dir := filepath.Join(work.dir, "reload", name)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := checkout(name, dir); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(dir, ".twinhull"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(e.dir, ".twinhull/store"), filepath.Join(dir, ".twinhull/store")); err != nil {
				t.Fatal(err)
			}
			port := freePort(t)
			base := fmt.Sprintf("http://127.0.0.1:%d", port)
			args := []string{"run", "development", "--env", "HOST=127.0.0.1", "--env", fmt.Sprintf("PORT=%d", port)}
			w := first()
			w.Env = map[string]string{"TWINHULL_GOPROXY": "http://127.0.0.1:1"} // locked modules are in the image
			r := start(t, w.command(context.Background(), dir, args...))
			app.talk(t, r, base)
			r.await(t, "the debugger", 20*time.Second, func() error {
				c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", debugger[name]), time.Second)
				if err == nil {
					c.Close()
				}
				return err
			})
			if name == "node-api" {
				if body, err := get("http://127.0.0.1:9229/json/version"); err != nil || !strings.Contains(body, "node.js/") {
					t.Errorf("the debugger says %q, %v", body, err)
				}
			}
			file := filepath.Join(dir, change.file)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(text), change.old, change.new, 1)
			if changed == string(text) {
				t.Fatalf("%s does not say %q", change.file, change.old)
			}
			began := time.Now()
			if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			r.await(t, "the changed answer", time.Minute, func() error {
				body, err := get(base + change.path)
				if err == nil && !strings.Contains(body, change.want) {
					err = fmt.Errorf("still %q", body)
				}
				return err
			})
			t.Logf("the change answered after %.1f s", time.Since(began).Seconds())
			left, err := filepath.Glob(filepath.Join(first().Cache, "images", "*", "run-*"))
			if err != nil || len(left) == 0 {
				t.Errorf("what a run changes should be in the cache while it runs: %v, %v", left, err)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(first().Cache, "images", "*", "run-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
