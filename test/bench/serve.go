package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The registries that are measured beside ours, built from source when they are
// not there.
const (
	distributionVersion = "v3.1.2"
	olaregVersion       = "v0.2.2"
)

const (
	distributionName = "distribution"
	olaregName       = "olareg"
	fileServerName   = "file server"
)

// product is a registry that can be started: a program and how it is told where
// its folder and its port are.
type product struct {
	name    string // "" for Twinhull
	durable string // what has reached the disk when it answers 201, from its source
	command func(dir string, port int) ([]string, error)
}

// What each has on its disk when it acknowledges: for the peers, what the code of
// the version that is measured does.
var durability = map[string]string{
	"":               "blob: data, its folder and the folder of uploads synchronised, then the record (bbolt, two synchronisations, shared by those who wait); manifest: the record",
	distributionName: "blob: data, start time, hash state and link files synchronised, and the folders of the last three; not the blob's own folder after its rename, nor new folders",
	olaregName:       "nothing: no file and no folder is ever synchronised",
}

// registries are ours and the peers', as far as they can be had.
func (l *lab) registries(ctx context.Context) []product {
	all := []product{{command: func(dir string, port int) ([]string, error) {
		return []string{twinhullProgram, "serve", "--data", filepath.Join(dir, "data"), "--listen", loopback(port), "--allow-anonymous-development"}, nil
	}}}
	skip := func(name string, err error) {
		first, _, _ := strings.Cut(err.Error(), "\n")
		l.results.Skipped = append(l.results.Skipped, name+" is left out: "+first)
		l.say("%s is left out: %v", name, err)
	}
	if l.alone {
		return all
	}
	if err := l.goTool(ctx, "github.com/distribution/distribution/v3", distributionVersion, "github.com/distribution/distribution/v3/cmd/registry"); err != nil {
		skip(distributionName, err)
	} else {
		l.results.Machine.Versions[distributionName] = distributionVersion
		all = append(all, product{name: distributionName, command: func(dir string, port int) ([]string, error) {
			file := filepath.Join(dir, "config.yml")
			return []string{l.peer("registry", distributionVersion), "serve", file}, os.WriteFile(file, []byte(distributionConfig(filepath.Join(dir, "data"), port)), 0o644)
		}})
	}
	if err := l.goTool(ctx, "github.com/olareg/olareg", olaregVersion, "github.com/olareg/olareg/cmd/olareg"); err != nil {
		skip(olaregName, err)
	} else {
		l.results.Machine.Versions[olaregName] = olaregVersion
		all = append(all, product{name: olaregName, command: func(dir string, port int) ([]string, error) {
			data := filepath.Join(dir, "data")
			return []string{l.peer("olareg", olaregVersion), "serve", "--dir", data, "--addr", "127.0.0.1", "--port", strconv.Itoa(port)}, os.MkdirAll(data, 0o755)
		}})
	}
	for i := range all {
		all[i].durable = durability[all[i].name]
	}
	return all
}

// distributionConfig is the example that comes with it, without passwords, and
// without the line that it logs for each request: in its favour.
func distributionConfig(data string, port int) string {
	return `version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: ` + data + `
  tag:
    concurrencylimit: 8
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: ` + loopback(port) + `
  secret: a-secret-of-the-benchmark
  headers:
    X-Content-Type-Options: [nosniff]
`
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// fileServer is what the standard library serves files with, in a process of its
// own: as fast as a server in Go is without doing anything.
func fileServer(files string) product {
	return product{name: fileServerName, command: func(_ string, port int) ([]string, error) {
		self, err := os.Executable()
		return []string{self, "-serve-files", files, "-serve-files-at", loopback(port)}, err
	}}
}

// serveFiles is the other side of fileServer.
func serveFiles(dir, addr string) error {
	return (&http.Server{Addr: addr, Handler: http.FileServer(http.Dir(dir))}).ListenAndServe()
}

// running is a product that serves.
type running struct {
	product
	base string // http://127.0.0.1:PORT
	dir  string // everything that it writes
	cmd  *exec.Cmd
}

func (p product) label() string {
	if p.name == "" {
		return "twinhull"
	}
	return p.name
}

// start starts a registry over a new folder and waits until it answers. What it
// logs goes to a file, as it does by itself.
func (b *bench) start(ctx context.Context, p product) (*running, error) {
	b.caches++
	r := &running{product: p, dir: b.path(fmt.Sprintf("serve%d", b.caches))}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args, err := p.command(r.dir, port)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(r.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r.base = "http://" + loopback(port)
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.Dir, r.cmd.Env = r.dir, append(environment(), "OTEL_TRACES_EXPORTER=none")
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is ours to pass on
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for range 200 {
		resp, err := http.Get(r.base + "/v2/")
		if err == nil {
			resp.Body.Close()
			return r, nil
		}
		if ctx.Err() != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.end()
	text, _ := os.ReadFile(filepath.Join(r.dir, "log"))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return nil, errors.Join(ctx.Err(), fmt.Errorf("%s does not answer: %s", p.label(), lines[len(lines)-1]))
}

// end stops the process and leaves its folder.
func (r *running) end() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	ended := make(chan struct{})
	go func() { r.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		r.cmd.Process.Kill()
		<-ended
	}
}

// stop ends the process and gives back its space, all of it before the next
// clock starts. See emptyTree for why its files stay.
func (r *running) stop() {
	r.end()
	emptyTree(r.dir)
	syscall.Sync()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// processor is the processor seconds that the server has used so far.
func (r *running) processor() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name may hold spaces
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100 // USER_HZ
}

// forgetPeak makes the server's resident high-water mark what it has now.
func (r *running) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", r.cmd.Process.Pid), []byte("5"), 0)
}

// peak is the resident high-water mark in MiB.
func (r *running) peak() float64 {
	return field(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid), "VmHWM:") / 1024
}

// settle writes everything dirty out and says how long that took.
func settle() time.Duration {
	began := time.Now()
	syscall.Sync()
	return time.Since(began)
}

// A connection of our own for small requests: net/http's client needs more
// processor time for one than the servers do, and would be what is measured.
type wire struct {
	c  net.Conn
	in *bufio.Reader
}

func (r *running) dial() (*wire, error) {
	c, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
	if err != nil {
		return nil, err
	}
	return &wire{c, bufio.NewReaderSize(c, 64<<10)}, nil
}

// get sends a request that was written before and reads the whole answer.
func (w *wire) get(request []byte) (status int, n int64, err error) {
	if _, err := w.c.Write(request); err != nil {
		return 0, 0, err
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		return 0, 0, err
	}
	n, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, n, err
}

func request(path string, accept ...string) []byte {
	text := "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\n"
	for _, a := range accept {
		text += "Accept: " + a + "\r\n"
	}
	return []byte(text + "\r\n")
}
