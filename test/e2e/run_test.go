package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// application is what the tests know of an example besides its name.
type application struct {
	port    int
	program string // that runs in production
	host    string // variable that says where to listen
	quick   string // variable that takes the wait out of shutting down

	// api is one call of the application's own interface.
	method, path, body string
	want               string // in the answer
}

var applications = map[string]application{
	"go-service": {
		port: 8080, program: "/usr/bin/service", quick: "DRAIN=0s", method: "POST", path: "/meetings",
		body: `{"day": "2026-01-14", "people": [{"name": "Ada", "zone": "Europe/Paris", "from": 9, "to": 17}, {"name": "Grace", "zone": "America/New_York", "from": 9, "to": 17}]}`,
		want: `"start":"2026-01-14T14:00:00Z"`,
	},
	"node-api": {
		port: 3000, program: "/usr/bin/node", quick: "DRAIN_MS=0", method: "POST", path: "/orders",
		body: `{"customer": "Ada", "lines": [{"sku": "BOOK-1", "quantity": 2, "unitCents": 1250}]}`, want: "BOOK-1",
	},
	"python-model": {
		port: 8000, program: "/usr/bin/python3", quick: "DRAIN_SECONDS=0", method: "POST", path: "/predict",
		body: `{"samples": [{"alcohol": 14.23, "malic_acid": 1.71, "ash": 2.43, "alcalinity_of_ash": 15.6, "magnesium": 127, "total_phenols": 2.8, "flavanoids": 3.06,
			"nonflavanoid_phenols": 0.28, "proanthocyanins": 2.29, "color_intensity": 5.64, "hue": 1.04, "od280_od315": 3.92, "proline": 1065}]}`,
		want: "predictions",
	},
}

// output collects what a process says, for reading while it runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// running is a process that serves.
type running struct {
	cmd  *exec.Cmd
	said output
	done chan struct{} // closed when it ended
}

func start(t *testing.T, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &r.said, &r.said
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // its code is asked for below
		close(r.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-r.done:
		case <-time.After(40 * time.Second):
			_ = cmd.Process.Kill()
			<-r.done
		}
	})
	return r
}

// stop sends SIGTERM and wants exit code 0 within the time.
func (r *running) stop(t *testing.T, within time.Duration) {
	t.Helper()
	began := time.Now()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("%v\n%s", err, tail(r.said.String(), 3000))
	}
	select {
	case <-r.done:
	case <-time.After(within):
		t.Fatalf("still running %v after SIGTERM\n%s", within, tail(r.said.String(), 3000))
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d after SIGTERM\n%s", code, tail(r.said.String(), 3000))
	}
	t.Logf("ended %.1f s after SIGTERM", time.Since(began).Seconds())
}

// await waits until try succeeds.
func (r *running) await(t *testing.T, what string, within time.Duration, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-r.done:
			t.Fatalf("ended before %s: %v\n%s", what, err, tail(r.said.String(), 4000))
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v\n%s", what, err, tail(r.said.String(), 4000))
		}
	}
}

var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}

func get(url string) (string, error) {
	res, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, res.Status, b)
	}
	return string(b), err
}

// talk asks for health and readiness and makes the application's own call.
func (a application) talk(t *testing.T, r *running, base string) {
	t.Helper()
	r.await(t, "being ready", time.Minute, func() error { _, err := get(base + "/ready"); return err })
	if body, err := get(base + "/health"); err != nil || !strings.Contains(body, "ok") {
		t.Errorf("/health: %q, %v", body, err)
	}
	req, err := http.NewRequest(a.method, base+a.path, strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode/100 != 2 || !strings.Contains(string(b), a.want) {
		t.Errorf("%s: %s: %s, %v", a.path, res.Status, b, err)
	}
}

var forwarded = regexp.MustCompile(`(http://127\.0\.0\.1:\d+) leads to port`)

// TestRunProduction runs the production images with twinhull run and looks at
// the processes from outside.
func TestRunProduction(t *testing.T) {
	for _, name := range examples {
		app := applications[name]
		e := example(t, name)
		users := map[string]world{"as it is": first()}
		if os.Getuid() == 0 {
			users["as an ordinary user"] = ordinary(t)
		}
		for _, user := range sortedKeys(users) {
			w := users[user]
			t.Run(name+" "+user, func(t *testing.T) {
				r := start(t, w.command(context.Background(), e.dir, "run", "production", "--port", fmt.Sprintf("127.0.0.1:0:%d", app.port)))
				var base string
				r.await(t, "the address", time.Minute, func() error {
					m := forwarded.FindStringSubmatch(r.said.String())
					if m == nil {
						return errors.New("not said yet")
					}
					base = m[1]
					return nil
				})
				app.talk(t, r, base)
				checkConfined(t, r.cmd.Process.Pid, app.program)
				r.stop(t, 20*time.Second)

				// Nothing in the image can be made to run a shell.
				for _, shell := range []string{"/bin/sh", "/bin/bash", "/usr/bin/dash", "/bin/busybox"} {
					if got := w.run(t.Context(), e.dir, "run", "production", "--entrypoint", shell, "--network", "host", "--", "-c", "exit 0"); got.code == 0 || !strings.Contains(got.stderr, "no such file") {
						t.Errorf("%s could be executed: %s", shell, got)
					}
				}
				writing := map[string]string{
					"node-api":     `for (const p of ["/x","/app/x","/etc/x","/usr/bin/x"]) try { require("fs").writeFileSync(p, ""); console.log("wrote", p) } catch (e) { console.log(e.code) }; require("fs").writeFileSync("/tmp/x", ""); console.log("uid", process.getuid(), process.getgid())`,
					"python-model": "import os\nfor p in ['/x','/app/x','/etc/x','/usr/bin/x']:\n try: open(p,'w'); print('wrote',p)\n except OSError as e: print('EROFS' if e.errno == 30 else e)\nprint('uid', os.getuid(), os.getgid())",
				}
				if code, ok := writing[name]; ok {
					flag := map[string]string{"node-api": "-e", "python-model": "-c"}[name]
					got := w.ok(t, e.dir, "run", "production", "--network", "host", "--entrypoint", app.program, "--", flag, code)
					if want := strings.Repeat("EROFS\n", 4) + "uid 65532 65532\n"; got.stdout != want {
						t.Errorf("writing in production: %q, want %q", got.stdout, want)
					}
				}
			})
		}
	}
}

// descendants lists the processes below pid.
func descendants(pid int) []int {
	children := map[int][]int{}
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it ended
		}
		// The name in parentheses may hold anything.
		i := bytes.LastIndexByte(b, ')')
		fields := strings.Fields(string(b[i+1:]))
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], id)
	}
	var out []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		out = append(out, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return out
}

// checkConfined finds the program below pid and looks at what it may do.
func checkConfined(t *testing.T, pid int, program string) {
	t.Helper()
	real := regexp.MustCompile(`^` + regexp.QuoteMeta(program) + `[0-9.]*$`) // python3 is a link to python3.13
	for _, p := range descendants(pid) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p))
		if err != nil || !real.MatchString(exe) {
			continue
		}
		read := func(name string) string {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p, name))
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		status := map[string]string{}
		for line := range strings.Lines(read("status")) {
			k, v, _ := strings.Cut(line, ":")
			status[k] = strings.TrimSpace(v)
		}
		if status["CapEff"] != "0000000000000000" || status["CapPrm"] != "0000000000000000" || status["NoNewPrivs"] != "1" || status["Seccomp"] != "2" {
			t.Errorf("capabilities %s %s, no new privileges %s, seccomp %s", status["CapEff"], status["CapPrm"], status["NoNewPrivs"], status["Seccomp"])
		}
		if ids := strings.Fields(read("uid_map")); len(ids) != 3 || ids[0] != "65532" || ids[2] != "1" {
			t.Errorf("user ids inside: %v", ids)
		}
		for line := range strings.Lines(read("mountinfo")) {
			if f := strings.Fields(line); f[4] == "/" && !strings.HasPrefix(f[5], "ro") {
				t.Errorf("the root is mounted %s", f[5])
			}
		}
		if devices := read("net/dev"); strings.Count(devices, "\n") != 3 || !strings.Contains(devices, "lo:") {
			t.Errorf("network devices:\n%s", devices)
		}
		if os.Getuid() == 0 {
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/usr/bin/x", p), nil, 0o755); !errors.Is(err, syscall.EROFS) {
				t.Errorf("writing to /usr/bin of the running image: %v", err)
			}
		}
		return
	}
	t.Errorf("no process of %s below %d", program, pid)
}

// podman runs images with Debian's podman as machines without a system manager
// allow it: storage of its own, no control groups of its own.
type podman struct {
	t    *testing.T
	args []string
}

func newPodman(t *testing.T) *podman {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("podman runs here as root only")
	}
	for _, tool := range []string{"podman", "runc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: apt-get install %s", tool, tool)
		}
	}
	dir, err := os.MkdirTemp(work.dir, "podman-")
	if err != nil {
		t.Fatal(err)
	}
	p := &podman{t, []string{"--storage-driver", "overlay", "--root", filepath.Join(dir, "r"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"), "--cgroup-manager", "cgroupfs", "--runtime", "runc"}}
	t.Cleanup(func() {
		_ = exec.Command("podman", append(p.args, "rm", "-fa", "-t", "0")...).Run()
		_ = os.RemoveAll(dir)
	})
	return p
}

func (p *podman) command(args ...string) *exec.Cmd {
	return exec.Command("podman", append(append([]string{}, p.args...), args...)...)
}

// load reads a docker archive and returns the image's name.
func (p *podman) load(file string) string {
	p.t.Helper()
	out, err := p.command("load", "-q", "-i", file).CombinedOutput()
	if err != nil {
		p.t.Fatalf("podman load: %v\n%s", err, out)
	}
	_, name, ok := strings.Cut(strings.TrimSpace(string(out)), "Loaded image: ")
	if !ok {
		p.t.Fatalf("podman load: %s", out)
	}
	return name
}

// limits keep runc from raising what this machine does not let it raise.
var podmanRun = []string{"run", "--rm", "--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestPodman runs the images with an ordinary container engine: production on
// a read-only root with nothing added, development as a shell.
func TestPodman(t *testing.T) {
	for _, name := range examples {
		app := applications[name]
		t.Run(name+" production", func(t *testing.T) {
			e := example(t, name)
			p := newPodman(t)
			file := filepath.Join(work.dir, name+".tar")
			defer os.Remove(file)
			first().ok(t, e.dir, "build", "production", "--output", "docker-archive:"+file)
			image := p.load(file)
			port := freePort(t)
			args := append(append([]string{}, podmanRun...), "--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--name", "x",
				"--env", "HOST=127.0.0.1", "--env", fmt.Sprintf("PORT=%d", port), "--env", app.quick)
			for _, w := range writable(t, e) {
				args = append(args, "--tmpfs", w)
			}
			r := start(t, p.command(append(args, image)...))
			app.talk(t, r, fmt.Sprintf("http://127.0.0.1:%d", port))
			if out, err := p.command("inspect", "--format", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}", "x").CombinedOutput(); strings.TrimSpace(string(out)) != "65532:65532 true" {
				t.Errorf("inspect: %s, %v", out, err)
			}
			if out, err := p.command("exec", "x", "/bin/sh", "-c", "exit 0").CombinedOutput(); err == nil {
				t.Errorf("a shell ran: %s", out)
			}
			if out, err := p.command("stop", "-t", "15", "x").CombinedOutput(); err != nil {
				t.Errorf("stop: %v\n%s", err, out)
			}
			<-r.done
			if code := r.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d\n%s", code, tail(r.said.String(), 3000))
			}
		})
	}
	t.Run("development", func(t *testing.T) {
		e := example(t, "go-service")
		p := newPodman(t)
		file := filepath.Join(work.dir, "dev.tar")
		defer os.Remove(file)
		first().ok(t, e.dir, "build", "development", "--output", "docker-archive:"+file)
		image := p.load(file)
		out, err := p.command(append(append([]string{}, podmanRun...), image, "bash", "-ec",
			"id -un; apt-get --version | head -1; dpkg --audit; apt-get check >/dev/null; go version; su -s /bin/sh nobody -c id; test -w /tmp && echo done")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, want := range []string{"root\n", "apt ", "go version go1.", "uid=65534(nobody)", "done\n"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
}

// writable lists the declared writable paths of a production image.
func writable(t *testing.T, e *made) []string {
	t.Helper()
	r := e.host(t, oci.Production)
	img, _ := openManifest(t, filepath.Join(e.dir, ".twinhull/store"), r.Manifest.Digest)
	defer img.Close()
	if l := img.Config.Config.Labels["dev.twinhull.writable"]; l != "" {
		return strings.Split(l, ",")
	}
	return nil
}
