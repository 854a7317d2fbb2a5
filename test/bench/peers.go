package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The versions that are measured, built from source when they are not there.
const (
	buildkitVersion = "v0.33.0"
	koVersion       = "v0.19.1"
)

// nodeWork is the Node application as the peers see it: base images as OCI
// layouts, the tarballs as npm's own cache, and the sources.
type nodeWork struct {
	bases     layout // tags development and production
	dev, prod string // their manifests' digests
	npm       string // folder that `npm ci --cache` takes
	sources   string // build context
	epoch     string // SOURCE_DATE_EPOCH of reproducible runs
}

// dockerfile is the same application in the peers' words: the same npm and
// tsc, with no network, over base images that hold what ours hold.
func dockerfile(dev, prod string) string {
	return `FROM ` + dev + ` AS build
WORKDIR /src
COPY package.json package-lock.json ./
RUN --mount=type=bind,from=npmcache,target=/npm,rw ["npm", "ci", "--offline", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", "/npm"]
COPY tsconfig.json tsconfig.build.json ./
COPY src src
RUN ["node", "node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"]

FROM ` + dev + ` AS modules
WORKDIR /src
COPY package.json package-lock.json ./
RUN --mount=type=bind,from=npmcache,target=/npm,rw ["npm", "ci", "--offline", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", "/npm"]

FROM ` + prod + `
WORKDIR /app
ENV NODE_ENV=production
COPY --from=modules /src/node_modules node_modules
COPY --from=build /src/dist dist
COPY package.json ./
USER 65532:65532
ENTRYPOINT ["/usr/bin/node"]
CMD ["dist/server.js"]
`
}

// built is what a peer made.
type built struct {
	outcome
	digest  string
	compile float64 // seconds of the tsc step, where the peer tells
}

// dockerfilePeer is a builder of Dockerfiles.
type dockerfilePeer interface {
	name() string
	// fresh forgets everything; the base images are files again.
	fresh(ctx context.Context) error
	// unpackBases makes the base images ready for use, and nothing else.
	unpackBases(ctx context.Context) error
	// build makes the production image. With reproducible set it is given
	// SOURCE_DATE_EPOCH and whatever the peer has for equal bits.
	build(ctx context.Context, reproducible, noCache bool) (built, error)
	close()
}

// goTool builds a program of a module into the peers' folder, unless it is
// there. `go install module@version` refuses modules with exclude directives,
// so a module of our own requires it.
func (b *bench) goTool(ctx context.Context, module, version string, packages ...string) error {
	missing := false
	for _, p := range packages {
		if _, err := os.Stat(filepath.Join(b.peers, filepath.Base(p)+"-"+version)); err != nil {
			missing = true
		}
	}
	if !missing {
		return nil
	}
	dir := b.path("build-" + filepath.Base(module))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	mod := fmt.Sprintf("module peers\n\ngo 1.26.0\n\nrequire %s %s\n", module, version)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		return err
	}
	for _, p := range packages {
		b.say("building %s %s (once; it is kept)", filepath.Base(p), version)
		cmd := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-o", filepath.Join(b.peers, filepath.Base(p)+"-"+version), p)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			return fmt.Errorf("go build %s: %w: %s", p, err, lines[len(lines)-1])
		}
	}
	return nil
}

func (b *bench) peer(name, version string) string {
	return filepath.Join(b.peers, name+"-"+version)
}

// buildkit runs a buildkitd of its own.
type buildkit struct {
	b      *bench
	work   *nodeWork
	daemon *exec.Cmd
	dir    string
	n      int
	snap   string
}

func (b *bench) newBuildkit(ctx context.Context, w *nodeWork) (*buildkit, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, errors.New("needs runc (Debian package runc)")
	}
	if err := b.goTool(ctx, "github.com/moby/buildkit", buildkitVersion, "github.com/moby/buildkit/cmd/buildctl", "github.com/moby/buildkit/cmd/buildkitd"); err != nil {
		return nil, err
	}
	k := &buildkit{b: b, work: w, snap: "overlayfs"}
	if err := os.MkdirAll(b.path("dockerfile"), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(b.path("dockerfile", "Dockerfile"), []byte(dockerfile("dev", "prod")), 0o644); err != nil {
		return nil, err
	}
	err := k.fresh(ctx)
	if err == nil {
		err = k.unpackBases(ctx)
	}
	if err != nil {
		k.snap = "native"
		b.say("BuildKit cannot use overlayfs here (%v); trying copies", err)
		if err = k.fresh(ctx); err == nil {
			err = k.unpackBases(ctx)
		}
	}
	if err != nil {
		k.close()
		return nil, err
	}
	b.results.Machine.Versions["BuildKit"] = buildkitVersion + ", snapshotter " + k.snap + ", " + firstLine("runc", "--version")
	return k, nil
}

func (k *buildkit) name() string { return "BuildKit" }

func (k *buildkit) socket() string { return "unix://" + filepath.Join(k.dir, "s") }

func (k *buildkit) fresh(ctx context.Context) error {
	k.close()
	if k.dir != "" {
		emptyTree(k.dir)
	}
	k.n++
	k.dir = k.b.path(fmt.Sprintf("bk%d", k.n))
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	// An empty configuration, so that the machine's own is not read.
	config := filepath.Join(k.dir, "buildkitd.toml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(k.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	k.daemon = exec.Command(k.b.peer("buildkitd", buildkitVersion), "--config", config, "--root", filepath.Join(k.dir, "root"), "--addr", k.socket(),
		"--oci-worker=true", "--containerd-worker=false", "--oci-worker-snapshotter="+k.snap, "--oci-worker-binary=runc", "--oci-worker-net=host", "--oci-worker-gc=false")
	k.daemon.Env = environment()
	k.daemon.Stdout, k.daemon.Stderr = log, log
	k.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is ours to pass on
	if err := k.daemon.Start(); err != nil {
		k.daemon = nil
		return err
	}
	for range 100 {
		if _, err := run(ctx, command{args: []string{k.b.peer("buildctl", buildkitVersion), "--addr", k.socket(), "debug", "workers"}}); err == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	text, _ := os.ReadFile(filepath.Join(k.dir, "log"))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("buildkitd does not answer: %s", lines[len(lines)-1])
}

func (k *buildkit) close() {
	if k.daemon != nil {
		k.daemon.Process.Signal(syscall.SIGTERM)
		ended := make(chan struct{})
		go func() { k.daemon.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			k.daemon.Process.Kill()
			<-ended
		}
		k.daemon = nil
	}
}

func (k *buildkit) bases() []string {
	return []string{"--oci-layout", "bases=" + string(k.work.bases),
		"--opt", "context:dev=oci-layout://bases@" + k.work.dev, "--opt", "context:prod=oci-layout://bases@" + k.work.prod,
		"--opt", "force-network-mode=none"}
}

func (k *buildkit) unpackBases(ctx context.Context) error {
	dir := filepath.Join(k.dir, "bases")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Two images that use a file of each base, which unpacks both.
	text := "FROM dev AS d\nRUN [\"node\", \"--version\"]\nFROM prod\nCOPY --from=d /etc/debian_version /x\nRUN [\"/usr/bin/node\", \"--version\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return err
	}
	args := []string{k.b.peer("buildctl", buildkitVersion), "--addr", k.socket(), "build", "--progress=plain", "--frontend", "dockerfile.v0",
		"--local", "context=" + dir, "--local", "dockerfile=" + dir}
	_, err := run(ctx, command{args: append(args, k.bases()...)})
	return err
}

func (k *buildkit) build(ctx context.Context, reproducible, noCache bool) (built, error) {
	var r built
	meta := filepath.Join(k.dir, "meta.json")
	output := "type=oci,tar=false,dest=" + filepath.Join(k.dir, "out")
	args := []string{k.b.peer("buildctl", buildkitVersion), "--addr", k.socket(), "build", "--progress=rawjson", "--frontend", "dockerfile.v0",
		"--local", "context=" + k.work.sources, "--local", "dockerfile=" + k.b.path("dockerfile"),
		"--local", "npmcache=" + k.work.npm, "--opt", "context:npmcache=local:npmcache", "--metadata-file", meta}
	args = append(args, k.bases()...)
	if reproducible {
		args = append(args, "--opt", "build-arg:SOURCE_DATE_EPOCH="+k.work.epoch)
		output += ",rewrite-timestamp=true"
	}
	if noCache {
		args = append(args, "--no-cache")
	}
	var err error
	if r.outcome, err = run(ctx, command{args: append(args, "--output", output)}); err != nil {
		return r, err
	}
	var m map[string]any
	if err := readJSON(meta, &m); err != nil {
		return r, err
	}
	r.digest, _ = m["containerimage.digest"].(string)
	r.compile = vertexSeconds(r.lines, "node_modules/typescript/bin/tsc")
	return r, nil
}

// vertexSeconds is how long the step whose name holds text took, by the
// builder's own clock; 0 when it was cached.
func vertexSeconds(lines []stamped, text string) float64 {
	var sum float64
	for _, l := range lines {
		var s struct {
			Vertexes []struct {
				Name               string
				Started, Completed *time.Time
				Cached             bool
			}
		}
		if json.Unmarshal([]byte(l.text), &s) != nil {
			continue
		}
		for _, v := range s.Vertexes {
			if v.Started != nil && v.Completed != nil && !v.Cached && strings.Contains(v.Name, text) {
				sum = v.Completed.Sub(*v.Started).Seconds()
			}
		}
	}
	return sum
}

// buildah is Debian's buildah with a storage folder of its own.
type buildah struct {
	b      *bench
	work   *nodeWork
	driver string
	dir    string
	n      int
}

func (b *bench) newBuildah(ctx context.Context, w *nodeWork) (*buildah, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root")
	}
	if _, err := exec.LookPath("buildah"); err != nil {
		return nil, errors.New("is not installed (Debian package buildah)")
	}
	h := &buildah{b: b, work: w}
	var err error
	for _, h.driver = range []string{"overlay", "vfs"} {
		if err = h.fresh(ctx); err != nil {
			continue
		}
		if err = h.unpackBases(ctx); err != nil {
			continue
		}
		if _, err = h.build(ctx, false, false); err == nil {
			b.results.Machine.Versions["buildah"] = firstLine("buildah", "--version") + ", storage " + h.driver
			return h, nil
		}
	}
	h.close()
	return nil, err
}

func (h *buildah) name() string { return "buildah" }

func (h *buildah) args(args ...string) []string {
	return append([]string{"buildah", "--root", filepath.Join(h.dir, "root"), "--runroot", filepath.Join(h.dir, "run"), "--storage-driver", h.driver}, args...)
}

func (h *buildah) fresh(ctx context.Context) error {
	h.close()
	if h.dir != "" {
		emptyTree(h.dir)
	}
	h.n++
	h.dir = h.b.path(fmt.Sprintf("bh%d", h.n))
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(h.dir, "Dockerfile"), []byte(dockerfile("localhost/dev", "localhost/prod")), 0o644)
}

func (h *buildah) close() {
	if h.dir == "" {
		return
	}
	// What it left mounted would keep its folder from being removed.
	exec.Command("buildah", h.args("rm", "--all")[1:]...).Run()
	for _, d := range []string{"root/overlay", "root/vfs"} {
		syscall.Unmount(filepath.Join(h.dir, d), syscall.MNT_DETACH)
	}
}

func (h *buildah) unpackBases(ctx context.Context) error {
	for _, x := range []struct{ tag, name string }{{"development", "localhost/dev"}, {"production", "localhost/prod"}} {
		o, err := run(ctx, command{args: h.args("pull", "--quiet", "oci:"+string(h.work.bases)+":"+x.tag)})
		if err != nil {
			return err
		}
		id := strings.TrimSpace(string(o.stdout))
		if _, err := run(ctx, command{args: h.args("tag", id, x.name)}); err != nil {
			return err
		}
	}
	return nil
}

// bases tells whether the base images are in its storage.
func (h *buildah) bases(ctx context.Context) bool {
	_, err := run(ctx, command{args: h.args("inspect", "--type", "image", "localhost/prod")})
	return err == nil
}

func (h *buildah) build(ctx context.Context, reproducible, noCache bool) (built, error) {
	var r built
	began := time.Now()
	if !h.bases(ctx) {
		if err := h.unpackBases(ctx); err != nil {
			return r, err
		}
	} else {
		began = time.Now()
	}
	id := filepath.Join(h.dir, "id")
	args := h.args("build", "--isolation", "oci", "--runtime", "runc", "--network", "none", "--layers", "--pull=never",
		"--build-context", "npmcache="+h.work.npm, "--iidfile", id, "-t", "localhost/bench", "-f", filepath.Join(h.dir, "Dockerfile"))
	if reproducible {
		args = append(args, "--timestamp", h.work.epoch)
	}
	if noCache {
		args = append(args, "--no-cache")
	}
	var err error
	if r.outcome, err = run(ctx, command{args: append(args, h.work.sources)}); err != nil {
		return r, err
	}
	r.seconds = time.Since(began).Seconds()
	d, err := os.ReadFile(id)
	r.digest = strings.TrimSpace(string(d))
	return r, err
}

// ko builds the Go service.
type ko struct {
	b    *bench
	base string // reference in the loopback registry
	dir  string // of the module
}

func (b *bench) newKo(ctx context.Context, base, dir string) (*ko, error) {
	if err := b.goTool(ctx, "github.com/google/ko", koVersion, "github.com/google/ko"); err != nil {
		return nil, err
	}
	// What the Dockerfile of the others says: the flags of our own step.
	config := "builds:\n- id: service\n  dir: .\n  main: .\n  flags: [-trimpath, -buildvcs=false]\n  ldflags: [-s, -w, -buildid=]\n"
	if err := os.WriteFile(filepath.Join(dir, ".ko.yaml"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	k := &ko{b: b, base: base, dir: dir}
	b.results.Machine.Versions["ko"] = koVersion
	// The modules come from the network once, before any clock starts.
	if _, err := run(ctx, command{dir: dir, env: []string{"GOTOOLCHAIN=local"}, args: []string{"go", "mod", "download"}}); err != nil {
		return nil, err
	}
	return k, nil
}

// build makes the image as an OCI layout with the Go build cache in cache.
func (k *ko) build(ctx context.Context, cache, arch string) (built, error) {
	var r built
	out := k.b.path("ko-out")
	env := []string{"GOCACHE=" + cache, "GOTOOLCHAIN=local", "GOPROXY=off", "KO_DOCKER_REPO=localhost/bench", "KO_DEFAULTBASEIMAGE=" + k.base, "KO_CONFIG_PATH=" + filepath.Join(k.dir, ".ko.yaml")}
	var err error
	r.outcome, err = run(ctx, command{dir: k.dir, env: env, args: []string{k.b.peer("ko", koVersion), "build", "--push=false", "--oci-layout-path=" + out, "--platform=linux/" + arch, "--sbom=none", "--bare", "."}})
	if err != nil {
		return r, err
	}
	s := strings.TrimSpace(string(r.stdout))
	if i := strings.LastIndex(s, "sha256:"); i >= 0 {
		r.digest = s[i:]
	}
	return r, nil
}
