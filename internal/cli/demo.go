package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/sandbox"
)

// demoExample is what `twinhull demo` shows when no project is named, and
// demoCalls are the requests that show that its application works.
const demoExample = "examples/node-api"

var demoCalls = []string{
	`POST /orders {"customer": "Ada", "lines": [{"sku": "BOOK-1", "quantity": 2, "unitCents": 1250}]}`,
	"GET /orders",
}

func demoCommand() *Command {
	var calls []string
	return &Command{
		Name: "demo", Args: "[PROJECT]", Max: 1,
		Short: "build, run, compare and release the images of an example",
		Long: `Copies a project into the cache folder, locks it anew, builds both images, runs
the production image on a free port of 127.0.0.1, calls its health and
readiness paths and the requests given with --call, and stops it. Then it reads
the files of both images and prints what each of them holds.

At last it serves a registry on a free port of 127.0.0.1, publishes both images,
releases the production one as 1.0.0, tries at every door to get the development
image into production, and verifies the server's audit log from its files. The
registry's folder is removed.

Without PROJECT it takes examples/node-api of the checkout that it is in.

The copy is locked anew because an archive drops superseded versions: a lock
that is some weeks old can be built from a vault, but not from a mirror.

Exits with 1 when the application does not answer, when it does not stop, when
the production image has a shell, a package manager or a compiler, or runs as
root, or when a door is open.`,
		Examples: "twinhull demo\ntwinhull demo . --call 'GET /version' --call 'POST /items {\"name\": \"a\"}'",
		Flags: func(f *pflag.FlagSet) {
			f.StringArrayVar(&calls, "call", nil, "call `\"METHOD PATH [JSON]\"` of the application; may be repeated")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			d := &demo{env: env, calls: calls}
			var err error
			if len(args) > 0 {
				d.source, err = project.Find(env.Path(args[0]))
			} else if d.source, err = findExample(env.Dir); err == nil && len(calls) == 0 {
				d.calls = demoCalls
			}
			if err != nil {
				return &Error{Code: Misused, Err: err}
			}
			return d.run(ctx)
		},
	}
}

// findExample finds the example in dir or in a folder above it.
func findExample(dir string) (string, error) {
	for at := dir; ; at = filepath.Dir(at) {
		name := filepath.Join(at, filepath.FromSlash(demoExample), project.FileName)
		if fileExists(name) {
			return name, nil
		}
		if at == filepath.Dir(at) {
			return "", Usagef("%s is not in %s or a folder above it", demoExample, dir).WithHint("name a project: twinhull demo PROJECT")
		}
	}
}

// demo is one showing.
type demo struct {
	env    *Env
	source string // the project file that is shown
	dir    string // the copy
	calls  []string
}

func (d *demo) run(ctx context.Context) error {
	cache, err := d.env.CacheDir()
	if err != nil {
		return err
	}
	from := filepath.Dir(d.source)
	sum := sha256.Sum256([]byte(from)) // two checkouts do not share a copy
	d.dir = filepath.Join(cache, "demo", fmt.Sprintf("%s-%x", filepath.Base(from), sum[:4]))
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	unlock, err := durable.Lock(ctx, d.dir+".lock", func() { d.env.Talkf("waiting for another demo of %s", from) })
	if err != nil {
		return err
	}
	defer unlock()
	if err := copyProject(from, d.dir); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	d.env.Talkf("%s, copied to %s", from, d.dir)

	for _, args := range [][]string{{"lock"}, {"build"}} {
		if err := d.command(ctx, args...); err != nil {
			return err
		}
	}
	env := *d.env
	env.Dir = d.dir
	plat := oci.Platform{OS: "linux", Architecture: runtime.GOARCH}
	var facts []*imageFacts
	var imgs []*image.Image
	for _, zone := range []string{"development", "production"} {
		img, _, err := openImage(ctx, &env, zone, plat)
		if err != nil {
			return err
		}
		defer img.Close()
		imgs = append(imgs, img)
	}
	called, err := d.serve(ctx, &env, imgs[1])
	if err != nil {
		return err
	}
	for i, img := range imgs {
		t := d.env.Progress.Task("reading the "+[]string{"development", "production"}[i]+" image", 0)
		f, err := readImageFacts(ctx, img)
		t.Done(err)
		if err != nil {
			return err
		}
		facts = append(facts, f)
	}
	facts[1].ReadOnlyRoot = called
	if err := writeComparison(d.env.Stdout, facts[0], facts[1]); err != nil {
		return err
	}
	var errs []error
	for _, kind := range []toolKind{shells, packageManagers, compilers} {
		if found := facts[1].Tools[kind]; len(found) > 0 {
			errs = append(errs, Refusedf("the production image has a %s: %s", kind, strings.Join(found, ", ")))
		}
	}
	if facts[1].Root {
		errs = append(errs, Refusedf("the production image runs as root"))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return d.registry(ctx)
}

// command runs another command in the copy, as it would be typed there.
func (d *demo) command(ctx context.Context, args ...string) error {
	d.env.Talkf("$ twinhull %s", strings.Join(args, " "))
	env := *d.env
	env.Dir = d.dir
	all := []string{"--cache-dir", d.env.cacheDir} // "" is as good as none
	if d.env.Quiet {
		all = append(all, "--quiet")
	}
	return dispatch(ctx, &env, append(all, args...))
}

// How long the application may take.
const (
	demoStart = 30 * time.Second // until it answers
	demoStop  = 20 * time.Second // until it has ended after SIGTERM
)

// serve runs the production image, calls it and stops it. It returns what is
// now known of running on a read-only root.
func (d *demo) serve(ctx context.Context, env *Env, img *image.Image) (string, error) {
	file, err := project.Load(filepath.Join(d.dir, project.FileName))
	if err != nil {
		return "", err
	}
	spec := &file.Production
	if len(spec.Ports) == 0 {
		return "not tried: no port", nil
	}
	r := &imageRun{env: env, img: img, arg: "production"}
	ports := []string{fmt.Sprintf("127.0.0.1:0:%d", spec.Ports[0])}
	if err := r.prepare(ctx, nil, nil, ports, "", "", false); err != nil {
		return "", err
	}
	defer func() {
		for _, dir := range r.temp {
			_ = sandbox.RemoveAll(dir)
		}
	}()
	var out lastOutput
	r.spec.Stdin, r.spec.Stdout, r.spec.Stderr, r.spec.Grace = nil, &out, &out, demoStop
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	p, err := sandbox.Start(ctx, r.spec)
	if err != nil {
		return "", err
	}
	d.env.Talkf("$ twinhull run production --port %s:%d", p.Addr(0), spec.Ports[0])
	ended := make(chan struct{})
	go func() { _, _ = p.Wait(); close(ended) }()
	fail := func(err error) (string, error) {
		cancel()
		<-ended
		return "", fmt.Errorf("%w\nthe last of its output:\n%s", err, out.text())
	}

	base := "http://" + p.Addr(0)
	first := "/"
	for _, path := range []string{spec.Health, spec.Ready} {
		if path != "" {
			first = path
			break
		}
	}
	if err := awaitAnswer(ctx, base+first, ended); err != nil {
		return fail(err)
	}
	d.env.Talkf("it answers after %.1f s", time.Since(began).Seconds())
	var calls []string
	for _, path := range []string{spec.Health, spec.Ready} {
		if path != "" {
			calls = append(calls, "GET "+path)
		}
	}
	for _, c := range append(calls, d.calls...) {
		line, err := call(ctx, base, c)
		if err != nil {
			return fail(err)
		}
		fmt.Fprintln(d.env.Stdout, line)
	}

	told := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return fail(err)
	}
	select {
	case <-ended:
	case <-time.After(demoStop):
		return fail(Refusedf("the application has not ended %s after SIGTERM", demoStop))
	}
	res, err := p.Wait()
	if err != nil {
		return "", err
	}
	d.env.Talkf("stopped by SIGTERM after %.1f s: %s", time.Since(told).Seconds(), res)
	if !r.spec.ReadOnly {
		return "no", nil
	}
	if len(spec.Writable) == 0 {
		return "runs on one; nothing writable", nil
	}
	return "runs on one; writable: " + strings.Join(spec.Writable, ", "), nil
}

// awaitAnswer waits until something answers at url, whatever it answers.
func awaitAnswer(ctx context.Context, url string, ended <-chan struct{}) error {
	deadline := time.Now().Add(demoStart)
	client := &http.Client{Timeout: 5 * time.Second}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if res, err := client.Do(req); err == nil {
			res.Body.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ended:
			return Refusedf("the application ended before it answered")
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return Refusedf("the application does not answer at %s after %s", url, demoStart)
		}
	}
}

// call makes one request ("METHOD PATH [JSON]") and returns a line about its
// answer. An answer that is not a success is an error.
func call(ctx context.Context, base, request string) (string, error) {
	method, rest, ok := strings.Cut(strings.TrimSpace(request), " ")
	path, body, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if !ok || !strings.HasPrefix(path, "/") {
		return "", Usagef("--call %q: want METHOD /PATH or METHOD /PATH JSON", request)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
	if err != nil {
		return "", Usagef("--call %q: %w", request, err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	text := strings.Join(strings.Fields(printable(string(answer))), " ")
	if len(text) > 100 {
		text = strings.ToValidUTF8(text[:100], "") + "…"
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return "", Refusedf("%s %s answers %s: %s", method, path, res.Status, text)
	}
	return fmt.Sprintf("%s %s  %d  %s", method, path, res.StatusCode, text), nil
}

// lastOutput keeps the last 4 KiB of what is written to it.
type lastOutput struct {
	mu  sync.Mutex
	buf []byte
}

func (o *lastOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = append(o.buf, p...)
	if n := len(o.buf) - 4<<10; n > 0 {
		o.buf = append(o.buf[:0], o.buf[n:]...)
	}
	return len(p), nil
}

func (o *lastOutput) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(bytes.ToValidUTF8(o.buf, nil))
}

// writeComparison prints two images side by side.
func writeComparison(w io.Writer, dev, prod *imageFacts) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(name string, value func(*imageFacts) string) {
		fmt.Fprintf(t, "%s\t%s\t%s\n", name, value(dev), value(prod))
	}
	fmt.Fprintln(t)
	row("", func(f *imageFacts) string { return strings.ToUpper(f.Zone) })
	row("zone label", func(f *imageFacts) string { return f.Zone })
	row("unpacked", func(f *imageFacts) string { return mib(f.Unpacked) })
	row("compressed", func(f *imageFacts) string { return mib(f.Compressed) })
	row("Debian packages", func(f *imageFacts) string { return fmt.Sprint(f.Packages) })
	if dev.NPM+prod.NPM > 0 {
		row("npm packages", func(f *imageFacts) string { return fmt.Sprint(f.NPM) })
	}
	row("files", func(f *imageFacts) string { return fmt.Sprint(f.Files) })
	row("set-id files", func(f *imageFacts) string { return fmt.Sprint(f.SetID) })
	for _, kind := range allKinds {
		row(string(kind), func(f *imageFacts) string { return some(f.Tools[kind]) })
	}
	row("user", func(f *imageFacts) string { return f.User })
	row("read-only root", func(f *imageFacts) string { return f.ReadOnlyRoot })
	if err := t.Flush(); err != nil {
		return err
	}
	has := map[oci.Digest]bool{}
	for _, l := range dev.Layers {
		has[l.Digest] = true
	}
	var shared int64
	n := 0
	for _, l := range prod.Layers {
		if has[l.Digest] {
			shared += l.Size
			n++
		}
	}
	_, err := fmt.Fprintf(w, "\n%d of the %d layers of production (%s of %s) are in the development image too.\n", n, len(prod.Layers), mib(shared), mib(prod.Compressed))
	return err
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// some lists as many names as fit into a column.
func some(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	out := names[0]
	for i, n := range names[1:] {
		if len(out)+len(n) > 30 {
			return fmt.Sprintf("%s and %d more", out, len(names)-i-1)
		}
		out += ", " + n
	}
	return out
}

// copyProject makes the folder to a copy of the project, without what belongs
// to one checkout. What was built for an earlier copy stays, so that a second
// showing is quick.
func copyProject(from, to string) error {
	skip := map[string]bool{".git": true, ".twinhull": true, "node_modules": true, "twinhull.lock": true}
	old, err := os.ReadDir(to)
	if err != nil {
		return err
	}
	for _, e := range old {
		if e.Name() != ".twinhull" {
			if err := os.RemoveAll(filepath.Join(to, e.Name())); err != nil {
				return err
			}
		}
	}
	return filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == from {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if skip[e.Name()] {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		target := filepath.Join(to, rel)
		info, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			return os.Mkdir(target, 0o755)
		case e.Type() == fs.ModeSymlink:
			link, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case e.Type().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			return os.WriteFile(target, data, 0o644|info.Mode().Perm()&0o111)
		}
		return nil // sockets and pipes are no part of a project
	})
}
