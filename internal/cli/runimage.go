package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/sandbox"
	"twinhull.dev/twinhull/internal/source/deb"
	"twinhull.dev/twinhull/internal/source/site"
)

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func runCommand() *Command {
	var env []string
	var ports []string
	var network, entrypoint string
	var shell bool
	return &Command{
		Name: "run", Args: "IMAGE [-- ARGUMENT...]", Min: 1, Max: -1, Words: []string{"development", "production"},
		Short: "run an image here, without a container engine",
		Long: `Runs an image in the same sandbox that builds use, as an ordinary user.

A production image runs as it will in production: its numeric user, a read-only
root, and nothing writable but the paths that it declares. It gets a network of
its own; its ports are reachable on 127.0.0.1 of this machine. With --network
host it shares this machine's network, for an application that calls others.

A development image runs with this machine's network, the project's folder in
place of its working directory, and the reload command; --shell opens a shell
instead. apt and npm in it use the mirrors that this machine is configured for.

Arguments behind -- replace the image's command.`,
		Examples: "twinhull run production\ntwinhull run production --port 127.0.0.1:8080:3000\ntwinhull run development --shell\ntwinhull run oci:out:production -- dist/migrate.js",
		Flags: func(f *pflag.FlagSet) {
			f.StringArrayVarP(&env, "env", "e", nil, "set `NAME=VALUE`; may be repeated")
			f.StringArrayVarP(&ports, "port", "p", nil, "forward [`HOST:]PORT:INSIDE`; default: every port of the image, the same here")
			f.StringVar(&network, "network", "", "private or host; default: private for production, host for development")
			f.StringVar(&entrypoint, "entrypoint", "", "start this program instead of the image's")
			f.BoolVar(&shell, "shell", false, "open a shell (development images)")
		},
		Run: func(ctx context.Context, e *Env, args []string) error {
			img, _, err := openImage(ctx, e, args[0], oci.Platform{})
			if err != nil {
				return err
			}
			defer img.Close()
			r := &imageRun{env: e, img: img, arg: args[0]}
			if err := r.prepare(ctx, args[1:], env, ports, network, entrypoint, shell); err != nil {
				return err
			}
			return r.run(ctx)
		},
	}
}

// stopGrace is how long a program has to end after the first interrupt, as in a
// cluster. A second interrupt ends it at once.
const stopGrace = 30 * time.Second

// imageRun is an image on its way into a sandbox.
type imageRun struct {
	env  *Env
	img  *image.Image
	arg  string
	spec sandbox.Spec
	temp []string
}

func (r *imageRun) prepare(ctx context.Context, args, environment, ports []string, network, entrypoint string, shell bool) error {
	cfg := r.img.Config.Config
	zone, _ := r.img.Zone() // an image of another builder has none and runs as production would
	dev := zone == oci.Development
	if shell && !dev {
		return Usagef("--shell: %s is not a development image and has no shell", r.arg)
	}
	root, err := r.unpack(ctx)
	if err != nil {
		return err
	}
	s := &r.spec
	s.Stdin, s.Stdout, s.Stderr = r.env.Stdin, r.env.Stdout, r.env.Stderr
	s.TTY = isTerminal(r.env.Stdin) && dev
	s.Hostname = "twinhull"
	s.Grace = stopGrace
	if s.Dir = cfg.WorkingDir; s.Dir == "" {
		s.Dir = "/"
	}
	if s.UID, s.GID, err = numericUser(cfg.User); err != nil {
		return err
	}
	if s.Env, err = mergeEnv(cfg.Env, environment); err != nil {
		return err
	}
	switch {
	case shell:
		s.Args = []string{"/bin/bash"}
	case entrypoint != "":
		s.Args = append([]string{entrypoint}, args...)
	case len(args) > 0:
		s.Args = append(append([]string{}, cfg.Entrypoint...), args...)
	default:
		s.Args = append(append([]string{}, cfg.Entrypoint...), cfg.Cmd...)
	}
	if len(s.Args) == 0 {
		return Usagef("%s names no command: say what to run behind --", r.arg)
	}
	switch network {
	case "host":
		s.Network = sandbox.Host
	case "private":
	case "":
		if dev {
			s.Network = sandbox.Host
		}
	default:
		return Usagef("--network %s: want private or host", network)
	}
	if s.Network == sandbox.Host {
		if len(ports) > 0 {
			return Usagef("--port: with the host's network the program listens there itself")
		}
		for _, f := range []string{"/etc/resolv.conf", "/etc/hosts"} {
			if fileExists(f) {
				s.Mounts = append(s.Mounts, sandbox.Mount{Source: f, Target: f, ReadOnly: true})
			}
		}
	} else if err := r.forwards(ports, cfg.ExposedPorts); err != nil {
		return err
	}
	if dev {
		return r.development(root, cfg.WorkingDir, shell, args)
	}
	s.Lower, s.ReadOnly = []string{root}, true
	for _, w := range strings.Split(cfg.Labels["dev.twinhull.writable"], ",") {
		if w != "" {
			mode := uint32(0o755)
			if w == "/tmp" || w == "/var/tmp" {
				mode = 0o1777
			}
			s.Mounts = append(s.Mounts, sandbox.Mount{Target: w, Tmpfs: true, Mode: mode})
		}
	}
	return nil
}

// development mounts the project over the working directory, keeps the image's
// own node_modules, and gives the package managers this machine's mirrors.
func (r *imageRun) development(root, workdir string, shell bool, args []string) error {
	s := &r.spec
	tmp, err := os.MkdirTemp(filepath.Dir(root), "run-")
	if err != nil {
		return err
	}
	r.temp = append(r.temp, tmp)
	upper := filepath.Join(tmp, "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		return err
	}
	s.Lower, s.Upper = []string{root}, upper
	s.FakeOwners = s.UID == 0
	s.Mounts = append(s.Mounts, sandbox.Mount{Target: "/tmp", Tmpfs: true, Mode: 0o1777})
	path_, err := project.Find(r.env.Dir)
	if err != nil {
		return nil // an image without its project: as it is
	}
	file, err := project.Load(path_)
	if err != nil {
		return &Error{Code: Misused, Err: err}
	}
	if len(s.Args) > 0 && !shell && len(args) == 0 && len(file.Development.Reload) > 0 {
		s.Args = file.Development.Reload
	}
	if workdir != "" && workdir != "/" {
		s.Mounts = append(s.Mounts, sandbox.Mount{Source: filepath.Dir(path_), Target: workdir})
		if own := filepath.Join(root, workdir, "node_modules"); fileExists(own) {
			// The mount point must be there, as for any container engine; an
			// empty node_modules in the project is what git ignores anyway.
			if err := os.MkdirAll(filepath.Join(filepath.Dir(path_), "node_modules"), 0o755); err != nil {
				return err
			}
			modUpper := filepath.Join(tmp, "node_modules")
			if err := os.Mkdir(modUpper, 0o755); err != nil {
				return err
			}
			s.Mounts = append(s.Mounts, sandbox.Mount{Target: path.Join(workdir, "node_modules"), Lower: []string{own}, Upper: modUpper})
		}
	}
	st, err := site.Load(site.Options{Getenv: r.env.Getenv})
	if err != nil {
		return err
	}
	return r.mirrors(tmp, root, file, st)
}

// mirrors writes what is this machine's and never part of an image.
func (r *imageRun) mirrors(tmp, root string, file *project.File, st *site.Site) error {
	s := &r.spec
	give := func(name, content, target string) error {
		p := filepath.Join(tmp, name)
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			return err
		}
		s.Mounts = append(s.Mounts, sandbox.Mount{Source: p, Target: target, ReadOnly: true})
		return nil
	}
	if m, err := st.Debian(); err == nil {
		suites, err := deb.Suites(file.Development.Archive)
		if err != nil {
			return err
		}
		var b strings.Builder
		for _, suite := range suites {
			bases, err := m.For(suite.Name)
			if err != nil {
				continue
			}
			fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n", bases[0], suite.Name)
		}
		if err := give("sources", b.String(), "/etc/apt/sources.list.d/twinhull.sources"); err != nil {
			return err
		}
		// One user is mapped into the sandbox: apt cannot change to its own.
		if err := give("apt.conf", "APT::Sandbox::User \"root\";\n", "/etc/apt/apt.conf.d/99twinhull"); err != nil {
			return err
		}
	}
	if file.Development.Dependencies.NPM != nil {
		if u, err := st.NPM(); err == nil {
			s.Env = append(s.Env, "npm_config_registry="+u)
		}
	}
	if file.Development.Dependencies.Go != nil {
		// The locked modules are in the image; what is being added comes from
		// this machine's proxy.
		own := "file://" + build.GoModules
		if list, err := st.GoProxy(); err == nil && slices.Contains(s.Env, "GOPROXY="+own+",direct") {
			var err error
			if s.Env, err = mergeEnv(s.Env, []string{"GOPROXY=" + own + "," + strings.Join(list, ",")}); err != nil {
				return err
			}
		}
	}
	return r.authorities(root)
}

// authorities gives a development run the certificate authorities that this
// machine trusts: its mirrors and proxies may have certificates of its own
// organisation. They go into the run's own layer, so that updates of the
// package still work.
func (r *imageRun) authorities(root string) error {
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	from := r.env.Getenv("SSL_CERT_FILE")
	if from == "" {
		from = bundle
	}
	data, err := os.ReadFile(from)
	if err != nil || !fileExists(filepath.Join(root, bundle)) {
		return nil // nothing to give, or no one to give it to
	}
	to := filepath.Join(r.spec.Upper, bundle)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	for d := filepath.Dir(to); d != r.spec.Upper; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(to, 0o644); err != nil {
		return err
	}
	// node has authorities of its own.
	for _, kv := range r.spec.Env {
		if strings.HasPrefix(kv, "NODE_EXTRA_CA_CERTS=") {
			return nil
		}
	}
	r.spec.Env = append(r.spec.Env, "NODE_EXTRA_CA_CERTS="+bundle)
	return nil
}

// forwards opens the image's ports on this machine's loopback interface.
func (r *imageRun) forwards(ports []string, exposed map[string]struct{}) error {
	s := &r.spec
	if len(ports) == 0 {
		for p := range exposed {
			n, proto, _ := strings.Cut(p, "/")
			if proto == "" || proto == "tcp" {
				ports = append(ports, n+":"+n)
			}
		}
		sort.Strings(ports)
	}
	for _, p := range ports {
		i := strings.LastIndex(p, ":")
		if i < 0 {
			return Usagef("--port %s: want PORT:INSIDE or HOST:PORT:INSIDE", p)
		}
		inside, err := strconv.Atoi(p[i+1:])
		if err != nil || inside < 1 || inside > 65535 {
			return Usagef("--port %s: %s is not a port", p, p[i+1:])
		}
		host := p[:i]
		if !strings.Contains(host, ":") {
			host = net.JoinHostPort("127.0.0.1", host)
		}
		s.Forward = append(s.Forward, sandbox.Forward{Host: host, Port: inside})
	}
	return nil
}

// unpack lays the image out once; later runs find it.
func (r *imageRun) unpack(ctx context.Context) (string, error) {
	cache, err := r.env.CacheDir()
	if err != nil {
		return "", err
	}
	final := filepath.Join(cache, "images", imageID(r.img).Encoded())
	if fileExists(filepath.Join(final, "complete")) {
		return filepath.Join(final, "root"), nil
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(final), ".new-")
	if err != nil {
		return "", err
	}
	defer sandbox.RemoveAll(tmp)
	t := r.env.Progress.Task("unpacking "+r.arg, 0)
	err = image.Unpack(ctx, r.img, filepath.Join(tmp, "root"), image.UnpackOptions{})
	t.Done(err)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(filepath.Join(tmp, "root"), 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(tmp, "complete"), nil, 0o644); err != nil {
		return "", err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, final); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return filepath.Join(final, "root"), nil
}

func (r *imageRun) run(ctx context.Context) error {
	defer func() {
		for _, d := range r.temp {
			_ = sandbox.RemoveAll(d)
		}
	}()
	p, err := sandbox.Start(ctx, r.spec)
	if err != nil {
		return err
	}
	for i, f := range r.spec.Forward {
		r.env.Talkf("http://%s leads to port %d of the image", p.Addr(i), f.Port)
	}
	res, err := p.Wait()
	if err != nil && (ctx.Err() == nil || !errors.Is(err, context.Cause(ctx))) {
		return err
	}
	// Stopped by a signal, it is the program that says whether it ended well.
	return Status(res.ExitCode)
}

// numericUser reads the User of an image's configuration. Names would have to
// be looked up in the image, which a production image must not need.
func numericUser(s string) (uid, gid int, err error) {
	if s == "" {
		return 0, 0, nil
	}
	u, g, both := strings.Cut(s, ":")
	if uid, err = strconv.Atoi(u); err != nil || uid < 0 {
		return 0, 0, Refusedf("the image's user %q is a name: `twinhull run` takes numeric users only", s)
	}
	if !both {
		return uid, uid, nil
	}
	if gid, err = strconv.Atoi(g); err != nil || gid < 0 {
		return 0, 0, Refusedf("the image's group in %q is a name: `twinhull run` takes numeric groups only", s)
	}
	return uid, gid, nil
}

func mergeEnv(image, given []string) ([]string, error) {
	out := append([]string{}, image...)
	for _, kv := range given {
		k, _, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, Usagef("--env %s: want NAME=VALUE", kv)
		}
		kept := out[:0]
		for _, have := range out {
			if !strings.HasPrefix(have, k+"=") {
				kept = append(kept, have)
			}
		}
		out = append(kept, kv)
	}
	return out, nil
}
