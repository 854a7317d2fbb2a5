package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/access"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// What refusals say. Each client must show it to the person who runs it.
const (
	byRelease   = "is a production repository: only a release writes to it"
	computed    = "is computed from the released versions"
	byDigest    = "keeps production images by digest, without tags"
	wrongZone   = "the image says that it is of production"
	neverBe     = "the image says that it is of development"
	permanent   = "neither versions, manifests nor blobs are deleted"
	noCandidate = "does not say in both"
)

// served is the program as a server on a free port of this machine.
type served struct {
	t    *testing.T
	r    *running
	dir  string // configuration and data
	host string // 127.0.0.1:PORT
}

// open lets everybody do what anybody may be allowed; production is closed all
// the same.
const open = `
access:
  grants:
    - to: [anybody]
      may: [pull, "push:development", "push:candidate", "delete:development", "delete:candidate", release]
      repositories: ["**"]
`

// serve starts a server with a configuration of which listen and data are known.
func serve(t *testing.T, configuration string) *served {
	t.Helper()
	begin(t)
	s := &served{t: t, dir: t.TempDir()}
	text := "version: 1\nlisten: 127.0.0.1:0\ndata: data\n" + configuration
	if err := os.WriteFile(filepath.Join(s.dir, "registry.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	return s
}

func (s *served) start() {
	s.t.Helper()
	s.r = start(s.t, first().command(context.Background(), s.dir, "serve", "--config", "registry.yaml"))
	s.r.await(s.t, "serving", time.Minute, func() error {
		for line := range strings.Lines(s.r.said.String()) {
			if host, ok := strings.CutPrefix(line, "http://"); ok && strings.HasSuffix(host, "\n") {
				s.host = strings.TrimSpace(host)
				return nil
			}
		}
		return errors.New("no address yet")
	})
}

// check proves the store while the server runs, and again when it was stopped.
func (s *served) check() {
	s.t.Helper()
	for _, when := range []string{"while it runs", "after it was stopped"} {
		if when != "while it runs" {
			s.r.stop(s.t, time.Minute)
		}
		r := first().run(context.Background(), s.dir, "serve", "--config", "registry.yaml", "--check")
		if r.code != 0 || !strings.Contains(r.stdout, "\nclean\n") {
			s.t.Errorf("the store %s: %s", when, r)
		}
	}
}

// ask makes one request of the protocol.
func (s *served) ask(method, path string, header http.Header, body []byte) (*http.Response, []byte, error) {
	req, err := http.NewRequest(method, "http://"+s.host+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if header != nil {
		req.Header = header
	}
	res, err := plain.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, b, err
}

// plain keeps connections: these tests make tens of thousands of requests.
var plain = &http.Client{Timeout: time.Minute, Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 64}}

// at is the digest that a reference has on the server; "" when there is none.
func (s *served) at(repository, reference string) oci.Digest {
	s.t.Helper()
	res, _, err := s.ask(http.MethodHead, "/v2/"+repository+"/manifests/"+reference, nil, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	switch res.StatusCode {
	case http.StatusOK:
		return oci.Digest(res.Header.Get("Docker-Content-Digest"))
	case http.StatusNotFound:
		return ""
	}
	s.t.Fatalf("%s:%s: %s", repository, reference, res.Status)
	panic("unreachable")
}

// sample writes a layout with an image of random layers, which says the zone, if
// any, in label and annotation.
func sample(t *testing.T, zone oci.Zone, layers int, size int64) (dir string, img v1.Image) {
	t.Helper()
	var err error
	img = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for range layers {
		l, err := random.Layer(size, types.OCILayer)
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: types.OCILayer}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", runtime.GOARCH
	c.Config.Cmd = []string{"/nothing"}
	if zone != "" {
		c.Config.Labels = map[string]string{oci.ZoneKey: string(zone)}
	}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	if zone != "" {
		img = mutate.Annotations(img, map[string]string{oci.ZoneKey: string(zone)}).(v1.Image)
	}
	// podman makes a name of the path, and names are of lower case.
	parent, err := os.MkdirTemp("", "layout-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	dir = filepath.Join(parent, "layout")
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendImage(img, layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: "x"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, img
}

func digestOf(t *testing.T, x interface{ Digest() (v1.Hash, error) }) oci.Digest {
	t.Helper()
	h, err := x.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return oci.Digest(h.String())
}

// person runs clients as somebody with nothing in the home folder.
type person struct {
	t    *testing.T
	home string
	bare []string // storage options of podman
	env  []string
}

func newPerson(t *testing.T) *person {
	home := t.TempDir()
	// Some clients want the file that they are told of.
	if err := os.WriteFile(filepath.Join(home, "auth.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &person{t: t, home: home, env: append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR="+home, "XDG_CONFIG_HOME=", "DOCKER_CONFIG="+filepath.Join(home, "docker"),
		"REGISTRY_AUTH_FILE="+filepath.Join(home, "auth.json"), "COSIGN_PASSWORD=pw", "COSIGN_YES=true",
		// Nothing here may need a network.
		"HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=", "NO_PROXY=127.0.0.1")}
}

// need skips the test when a client is not installed.
func need(t *testing.T, clients ...string) {
	t.Helper()
	for _, c := range clients {
		if _, err := exec.LookPath(c); err != nil {
			t.Skipf("%s is not installed: tools/prepare-tests says how to get it", c)
		}
		switch {
		case (c == "podman" || c == "containerd") && os.Getuid() != 0:
			t.Skipf("%s runs here as root only", c)
		}
	}
}

func (p *person) command(args ...string) *exec.Cmd {
	if args[0] == "podman" {
		if p.bare == nil {
			// podman wants paths of at most 50 letters.
			dir, err := os.MkdirTemp("", "th-pod-")
			if err != nil {
				p.t.Fatal(err)
			}
			p.t.Cleanup(func() { _ = os.RemoveAll(dir) })
			p.bare = []string{"--storage-driver", "vfs", "--root", filepath.Join(dir, "r"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"), "--cgroup-manager", "cgroupfs"}
		}
		args = slices.Concat(args[:1], p.bare, args[1:])
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Dir = p.env, p.home
	return cmd
}

// do runs a client and returns its standard output.
func (p *person) do(args ...string) string {
	p.t.Helper()
	var out, said bytes.Buffer
	cmd := p.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, tail(out.String(), 2000), tail(said.String(), 4000))
	}
	return strings.TrimSpace(out.String())
}

// refused runs a client that must fail and must show why.
func (p *person) refused(why string, args ...string) {
	p.t.Helper()
	out, err := p.command(args...).CombinedOutput()
	switch {
	case err == nil:
		p.t.Errorf("%s: done\n%s", strings.Join(args, " "), tail(string(out), 2000))
	case !strings.Contains(string(out), why):
		p.t.Errorf("%s: the person does not learn that it %q\n%s", strings.Join(args, " "), why, tail(string(out), 4000))
	}
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// TestClients pushes, lists, pulls, copies, signs and deletes with the programs
// that people have, and knocks with each at the doors of production.
func TestClients(t *testing.T) {
	s := serve(t, open+"audit: {name: clients}\nretention: {every: 0s}\n")
	t.Run("crane", s.crane)
	t.Run("skopeo", s.skopeo)
	t.Run("podman", s.podman)
	t.Run("containerd", s.containerd)
	t.Run("cosign", s.cosign)
	s.check()
}

func (s *served) crane(t *testing.T) {
	need(t, "crane")
	p, repo := newPerson(t), "crane/app"
	at := s.host + "/" + repo
	dir, img := sample(t, oci.Development, 3, 50_000)
	want := digestOf(t, img)
	p.do("crane", "push", dir, at+"/dev:one")
	same(t, "pushed", s.at(repo+"/dev", "one"), want)
	p.do("crane", "pull", "--format", "oci", at+"/dev:one", "pulled")
	same(t, "pulled by tag", pulled(t, filepath.Join(p.home, "pulled")), want)
	p.do("crane", "pull", "--format", "oci", at+"/dev@"+string(want), "again")
	same(t, "pulled by digest", pulled(t, filepath.Join(p.home, "again")), want)
	p.do("crane", "validate", "--remote", at+"/dev:one")

	// An index of two images.
	other, second := sample(t, oci.Development, 1, 1000)
	p.do("crane", "push", other, at+"/dev:two")
	p.do("crane", "index", "append", "-m", at+"/dev:one", "-m", at+"/dev:two", "-t", at+"/dev:both", "--docker-empty-base=false")
	p.do("crane", "pull", "--format", "oci", at+"/dev:both", "both")
	same(t, "index", pulled(t, filepath.Join(p.home, "both")), s.at(repo+"/dev", "both"))
	same(t, "tags", p.do("crane", "ls", at+"/dev"), "both\none\ntwo")

	// Another repository gets it without a byte being sent.
	out, err := p.command("crane", "copy", at+"/dev:one", s.host+"/crane/copy/dev:one").CombinedOutput()
	if err != nil || strings.Count(string(out), "mounted blob") != 4 {
		t.Errorf("copy: want four mounted blobs: %v\n%s", err, out)
	}
	same(t, "copied", s.at("crane/copy/dev", "one"), want)

	p.do("crane", "delete", at+"/dev:two")
	same(t, "deleted tag", s.at(repo+"/dev", "two"), "")
	same(t, "what it pointed to", s.at(repo+"/dev", string(digestOf(t, second))), digestOf(t, second))
	p.do("crane", "delete", s.host+"/crane/copy/dev@"+string(want))
	same(t, "deleted image", s.at("crane/copy/dev", "one"), "")

	push := func(dir, to string) []string { return []string{"crane", "push", dir, s.host + "/" + to} }
	s.doors(t, p, repo, push)
	p.refused(permanent, "crane", "delete", at+":1.0.0")
	p.refused(permanent, "crane", "delete", at+"@"+string(want))
	p.refused(byRelease, "crane", "copy", at+"/dev:one", at+":latest")
	p.refused(byDigest, "crane", "tag", at+"/candidate@"+s.candidate(t, p, repo, push), "latest")
}

// doors knocks with images of every zone at what must stay shut. push is how the
// client pushes a layout to a repository under a tag.
func (s *served) doors(t *testing.T, p *person, repo string, push func(dir, to string) []string) {
	t.Helper()
	development, img := sample(t, oci.Development, 1, 1000)
	production, _ := sample(t, oci.Production, 1, 1000)
	for _, dir := range []string{development, production} {
		p.refused(byRelease, push(dir, repo+":1.0.0")...)
		p.refused(byRelease, push(dir, repo+":latest")...)
		p.refused(byDigest, push(dir, repo+"/candidate:1.0.0")...)
	}
	p.refused(wrongZone, push(production, repo+"/dev:latest")...)
	for _, r := range []string{repo, repo + "/candidate"} {
		for _, ref := range []string{"1.0.0", "latest", string(digestOf(t, img))} {
			same(t, r+" has "+ref, s.at(r, ref), "")
		}
	}
}

// candidate pushes a production image by digest, as clients can that push to one,
// and wants the development image refused.
func (s *served) candidate(t *testing.T, p *person, repo string, push func(dir, to string) []string) string {
	t.Helper()
	for zone, why := range map[oci.Zone]string{oci.Development: neverBe, "": noCandidate} {
		dir, img := sample(t, zone, 1, 1000)
		p.refused(why, push(dir, repo+"/candidate@"+string(digestOf(t, img)))...)
		same(t, "candidate", s.at(repo+"/candidate", string(digestOf(t, img))), "")
	}
	dir, img := sample(t, oci.Production, 1, 1000)
	d := digestOf(t, img)
	p.do(push(dir, repo+"/candidate@"+string(d))...)
	same(t, "candidate", s.at(repo+"/candidate", string(d)), d)
	return string(d)
}

// pulled is the digest of the one manifest of a layout.
func pulled(t *testing.T, dir string) oci.Digest {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("%s: %v", b, err)
	}
	return index.Manifests[0].Digest
}

func (s *served) skopeo(t *testing.T) {
	need(t, "skopeo")
	p, repo := newPerson(t), "skopeo/app"
	at := "docker://" + s.host + "/" + repo
	copy := func(args ...string) []string {
		return append([]string{"skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"}, args...)
	}
	push := func(dir, to string) []string { return copy("oci:"+dir+":x", "docker://"+s.host+"/"+to) }
	dir, img := sample(t, oci.Development, 3, 50_000)
	want := digestOf(t, img)
	p.do(push(dir, repo+"/dev:one")...)
	same(t, "pushed", s.at(repo+"/dev", "one"), want)
	p.do(copy(at+"/dev:one", "oci:pulled:x")...)
	same(t, "pulled by tag", pulled(t, filepath.Join(p.home, "pulled")), want)
	p.do(copy(at+"/dev@"+string(want), "oci:again:x")...)
	same(t, "pulled by digest", pulled(t, filepath.Join(p.home, "again")), want)
	same(t, "inspected", p.do("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", at+"/dev:one"), string(want))

	// An index with both its images, without the field mediaType: Debian 12's skopeo
	// drops that from what it copies, and refuses to when the digest must stay.
	both := ocispec.Index{Manifests: []ocispec.Descriptor{}}
	both.SchemaVersion = 2
	l, err := layout.Write(filepath.Join(p.home, "index"), empty.Index)
	for architecture, one := range map[string]v1.Image{"amd64": img, "arm64": oneMore(t)} {
		if err == nil {
			err = l.AppendImage(one)
		}
		raw, rawErr := one.RawManifest()
		if err = errors.Join(err, rawErr); err != nil {
			t.Fatal(err)
		}
		both.Manifests = append(both.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
			Platform: &ocispec.Platform{OS: "linux", Architecture: architecture}})
	}
	raw, err := json.Marshal(both)
	if err != nil {
		t.Fatal(err)
	}
	index := oci.Digest(digest.FromBytes(raw))
	top := fmt.Sprintf(`{"schemaVersion": 2, "manifests": [{"mediaType": %q, "digest": %q, "size": %d}]}`, ocispec.MediaTypeImageIndex, index, len(raw))
	if err := errors.Join(os.WriteFile(filepath.Join(p.home, "index", "blobs", "sha256", index.Encoded()), raw, 0o600), os.WriteFile(filepath.Join(p.home, "index", "index.json"), []byte(top), 0o600)); err != nil {
		t.Fatal(err)
	}
	p.do(copy("--all", "oci:index", at+"/dev:both")...)
	same(t, "index", s.at(repo+"/dev", "both"), index)
	p.do(copy("--all", at+"/dev:both", "oci:both:x")...)
	same(t, "pulled index", pulled(t, filepath.Join(p.home, "both")), index)
	var tags struct{ Tags []string }
	if err := json.Unmarshal([]byte(p.do("skopeo", "list-tags", "--tls-verify=false", at+"/dev")), &tags); err != nil || !slices.Equal(tags.Tags, []string{"both", "one"}) {
		t.Errorf("tags: %q, %v", tags.Tags, err)
	}

	// To another repository, and as Docker's own format.
	p.do(copy(at+"/dev:one", "docker://"+s.host+"/skopeo/copy/dev:one")...)
	same(t, "copied", s.at("skopeo/copy/dev", "one"), want)
	p.do("skopeo", "copy", "--format", "v2s2", "--src-tls-verify=false", "--dest-tls-verify=false", at+"/dev:one", at+"/dev:docker")
	p.do("skopeo", "copy", "--format", "v2s2", "--src-tls-verify=false", at+"/dev:docker", "dir:docker")

	p.do("skopeo", "delete", "--tls-verify=false", "docker://"+s.host+"/skopeo/copy/dev:one")
	same(t, "deleted", s.at("skopeo/copy/dev", "one"), "")

	s.doors(t, p, repo, push)
	s.candidate(t, p, repo, push)
}

func oneMore(t *testing.T) v1.Image {
	t.Helper()
	_, img := sample(t, oci.Development, 1, 1000)
	return img
}

func (s *served) podman(t *testing.T) {
	need(t, "podman")
	p, repo := newPerson(t), "podman/app"
	at := s.host + "/" + repo
	push := func(dir, to string) []string {
		return []string{"podman", "push", "-q", "--tls-verify=false", strings.TrimSpace(p.do("podman", "pull", "-q", "oci:"+dir+":x")), "docker://" + s.host + "/" + to}
	}
	dir, _ := sample(t, oci.Development, 3, 50_000)
	// podman compresses anew what it keeps unpacked: the digest is one of its own,
	// which it tells.
	p.do(append(push(dir, repo+"/dev:one"), "--digestfile", "said")...)
	said, err := os.ReadFile(filepath.Join(p.home, "said"))
	if err != nil {
		t.Fatal(err)
	}
	want := s.at(repo+"/dev", "one")
	same(t, "pushed", oci.Digest(said), want)
	id := p.do("podman", "images", "-q", "--no-trunc")
	p.do("podman", "rmi", "-a", "-f")
	same(t, "pulled by tag", "sha256:"+p.do("podman", "pull", "-q", "--tls-verify=false", at+"/dev:one"), id)
	same(t, "digest", p.do("podman", "inspect", "--format", "{{.Digest}}", at+"/dev:one"), string(want))
	p.do("podman", "rmi", "-a", "-f")
	same(t, "pulled by digest", "sha256:"+p.do("podman", "pull", "-q", "--tls-verify=false", at+"/dev@"+string(want)), id)

	p.do("podman", "push", "-q", "--tls-verify=false", "--format", "v2s2", "--digestfile", "said", strings.TrimPrefix(id, "sha256:"), "docker://"+at+"/dev:docker")
	p.do("podman", "manifest", "create", "list")
	p.do("podman", "manifest", "add", "--tls-verify=false", "list", "docker://"+at+"/dev:one")
	p.do("podman", "manifest", "push", "--tls-verify=false", "--all", "list", "docker://"+at+"/dev:both")
	if res, b, err := s.ask(http.MethodGet, "/v2/"+repo+"/dev/manifests/both", nil, nil); err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(b), `"manifests"`) {
		t.Errorf("index: %v\n%s", err, b)
	}
	if got := p.podmanTags(at + "/dev"); !slices.Equal(got, []string{"both", "docker", "one"}) {
		t.Errorf("tags: %q", got)
	}
	s.doors(t, p, repo, push)
}

// podmanTags lists tags as podman search does: a table, whose heading Debian 12's
// podman prints whatever it is asked for.
func (p *person) podmanTags(repository string) (tags []string) {
	p.t.Helper()
	for line := range strings.Lines(p.do("podman", "search", "--list-tags", "--limit", "100000", "--tls-verify=false", repository)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == repository {
			tags = append(tags, f[1])
		}
	}
	return tags
}

// engine is a containerd of this test's own.
type engine struct {
	p      *person
	socket string
}

func startContainerd(t *testing.T) *engine {
	t.Helper()
	need(t, "containerd", "ctr")
	if out, err := exec.Command("containerd", "--version").Output(); err != nil || !regexp.MustCompile(` v?2\.`).Match(out) {
		t.Skipf("containerd 2 is not installed, but %q: tools/prepare-tests says how to get it", out)
	}
	p := newPerson(t)
	// A socket's path has 107 letters at most; a test's folder may have more.
	dir, err := os.MkdirTemp("", "th-ctr-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e := &engine{p, filepath.Join(dir, "s")}
	// Of its own configuration only the places, and no more than images: what
	// runs containers wants more of a machine. Snapshots without a kernel's help.
	configuration := fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = %[3]q
[ttrpc]
  address = %[4]q
[plugins."io.containerd.transfer.v1.local"]
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/%[5]s"
    snapshotter = "native"
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), e.socket, filepath.Join(dir, "t"), runtime.GOARCH)
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, p.command("containerd", "--config", file))
	r.await(t, "containerd", time.Minute, func() error { return p.command("ctr", "--address", e.socket, "version").Run() })
	return e
}

func (e *engine) ctr(args ...string) []string {
	return append([]string{"ctr", "--address", e.socket}, args...)
}

// imported is the name that containerd knows a layout by.
const imported = "import.example/x"

func (e *engine) push(dir, to string, more ...string) []string {
	e.p.t.Helper()
	// ctr pushes what it has under a name; it reads a layout as a tar archive.
	archive := filepath.Join(e.p.t.TempDir(), "x.tar")
	e.p.do("tar", "-C", dir, "-cf", archive, ".")
	e.p.do(e.ctr("image", "import", "--local", "--no-unpack", "--base-name", imported, archive)...)
	return e.ctr(slices.Concat([]string{"image", "push", "--plain-http"}, more, []string{to, imported + ":x"})...)
}

func (s *served) containerd(t *testing.T) {
	e := startContainerd(t)
	p, repo := e.p, "containerd/app"
	at := s.host + "/" + repo
	dir, img := sample(t, oci.Development, 3, 50_000)
	want := digestOf(t, img)
	for _, way := range []string{"--local=false", "--local"} {
		tag := strings.Trim(strings.ReplaceAll(way, "=", "-"), "-")
		p.do(e.push(dir, at+"/dev:"+tag, way)...)
		same(t, "pushed", s.at(repo+"/dev", tag), want)
		for _, ref := range []string{at + "/dev:" + tag, at + "/dev@" + string(want)} {
			p.do(e.ctr("image", "rm", imported+":x", ref)...)
			p.do(e.ctr("content", "prune", "references")...)
			p.do(e.ctr("image", "pull", way, "--plain-http", "--snapshotter", "native", ref)...)
			if out := p.do(e.ctr("image", "ls", "name=="+ref)...); !strings.Contains(out, string(want)) {
				t.Errorf("pulled %s: %s", ref, out)
			}
			p.do(e.ctr("image", "check", "--snapshotter", "native", "name=="+ref)...)
		}
	}
	p.do(e.ctr("image", "push", "--plain-http", s.host+"/containerd/copy/dev:one", at+"/dev:local")...)
	same(t, "copied", s.at("containerd/copy/dev", "one"), want)
	s.doors(t, p, repo, func(dir, to string) []string { return e.push(dir, s.host+"/"+to) })
}

func (s *served) cosign(t *testing.T) {
	need(t, "cosign", "crane")
	p, repo := newPerson(t), "cosign/app"
	dir, img := sample(t, oci.Development, 1, 1000)
	d := digestOf(t, img)
	image := s.host + "/" + repo + "/dev@" + string(d)
	p.do("crane", "push", dir, s.host+"/"+repo+"/dev:one")
	p.do("cosign", "generate-key-pair")
	key := []string{"--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false"}
	verify := []string{"--key", "cosign.pub", "--insecure-ignore-tlog=true", "--private-infrastructure"}
	if err := os.WriteFile(filepath.Join(p.home, "predicate.json"), []byte(`{"result": "PASSED"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.refused("no signatures found", slices.Concat([]string{"cosign", "verify"}, verify, []string{image})...)
	p.do(slices.Concat([]string{"cosign", "sign"}, key, []string{image})...)
	p.do(slices.Concat([]string{"cosign", "verify"}, verify, []string{image})...)
	typ := []string{"--type", "https://example.test/claim/v1"}
	p.do(slices.Concat([]string{"cosign", "attest"}, key, typ, []string{"--predicate", "predicate.json", image})...)
	p.do(slices.Concat([]string{"cosign", "verify-attestation"}, verify, typ, []string{image})...)

	// By referrers: no tag of cosign's own is there.
	same(t, "tags", p.do("crane", "ls", s.host+"/"+repo+"/dev"), "one")
	var list ocispec.Index
	if _, b, err := s.ask(http.MethodGet, "/v2/"+repo+"/dev/referrers/"+string(d), nil, nil); err != nil || json.Unmarshal(b, &list) != nil || len(list.Manifests) != 2 {
		t.Errorf("referrers: %v\n%s", err, b)
	}
}

// TestClientsRelease pulls a released image with every client, as nobody in
// particular, and asks each to delete or replace it.
func TestClientsRelease(t *testing.T) {
	e := example(t, "go-service")
	dir := copyProject(t, e.dir)
	w := first()
	w.Env = map[string]string{"TWINHULL_KEY_PASSWORD": "pw"}
	emptyDatabase(t, w, dir)
	w.ok(t, dir, "key", "generate", "k")
	text := "version: 1\nidentities:\n  build: {key: k.pub}\nrules:\n  - identities: [build]\n    claims: [signature, sbom, provenance, tests, origins]\n    repositories: [\"127.0.0.1:*/**\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "trust.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t, open+fmt.Sprintf("release: {trust: %q, vulnerabilities: %q}\n", filepath.Join(dir, "trust.yaml"), filepath.Join(dir, "database")))
	repo := "shop/go-service"
	at := s.host + "/" + repo
	w.ok(t, dir, "publish", "--to", at, "--key", "k.key")
	store, err := oci.OpenLayout(filepath.Join(dir, ".twinhull", "store"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := store.Tag("production")
	if err != nil {
		t.Fatal(err)
	}
	w.ok(t, dir, "release", at+"@"+string(index.Digest), "1.0.0")
	want := index.Digest
	for _, tag := range []string{"1.0.0", "1.0", "1", "latest"} {
		same(t, tag, s.at(repo, tag), want)
	}
	var host oci.Digest
	for _, i := range e.report.Images {
		if i.Zone == oci.Production && i.Platform.Architecture == runtime.GOARCH {
			host = i.Manifest.Digest
		}
	}

	t.Run("crane", func(t *testing.T) {
		need(t, "crane")
		p := newPerson(t)
		same(t, "tags", p.do("crane", "ls", at), "1\n1.0\n1.0.0\nlatest")
		p.do("crane", "pull", "--format", "oci", at+":1.0.0", "pulled")
		same(t, "pulled", pulled(t, filepath.Join(p.home, "pulled")), want)
		p.do("crane", "validate", "--remote", at+"@"+string(want))
		p.refused(permanent, "crane", "delete", at+":1.0.0")
		p.refused(permanent, "crane", "delete", at+":latest")
		p.refused(permanent, "crane", "delete", at+"@"+string(want))
		// The very same image is no reason to move what only a release moves.
		p.refused("only a release", "crane", "tag", at+"@"+string(want), "2.0.0")
		p.refused(computed, "crane", "tag", at+"@"+string(want), "latest")
		for _, tag := range []string{"1.0.0", "latest"} {
			p.refused("DENIED", "crane", "copy", at+"/dev:latest", at+":"+tag)
		}
	})
	t.Run("skopeo", func(t *testing.T) {
		need(t, "skopeo")
		p := newPerson(t)
		p.do("skopeo", "copy", "--all", "--src-tls-verify=false", "docker://"+at+":1.0", "oci:all:x")
		p.do("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", "docker://"+at+"@"+string(host), "oci:pulled:x")
		same(t, "pulled", pulled(t, filepath.Join(p.home, "pulled")), host)
		same(t, "inspected", p.do("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+at+":1.0"), string(want))
		p.refused("405", "skopeo", "delete", "--tls-verify=false", "docker://"+at+":1.0.0")
		p.refused("405", "skopeo", "delete", "--tls-verify=false", "docker://"+at+"@"+string(want))
		p.refused("denied: ", "skopeo", "copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+at+"/dev:latest", "docker://"+at+":1.0.0")
	})
	t.Run("podman", func(t *testing.T) {
		need(t, "podman")
		p := newPerson(t)
		p.do("podman", "pull", "-q", "--tls-verify=false", at+":1")
		same(t, "pulled", p.do("podman", "inspect", "--format", `{{index .Config.Labels "dev.twinhull.zone"}}`, at+":1"), "production")
		p.do("podman", "pull", "-q", "--tls-verify=false", at+"@"+string(want))
		p.refused(byRelease, "podman", "push", "-q", "--tls-verify=false", at+":1", "docker://"+at+":1.0.1")
	})
	t.Run("containerd", func(t *testing.T) {
		c := startContainerd(t)
		for _, ref := range []string{at + ":latest", at + "@" + string(want)} {
			c.p.do(c.ctr("image", "pull", "--plain-http", "--snapshotter", "native", ref)...)
		}
		out := c.p.do(c.ctr("image", "ls", "name=="+at+":latest")...)
		if !strings.Contains(out, string(want)) {
			t.Errorf("pulled: %s", out)
		}
	})
	t.Run("cosign", func(t *testing.T) {
		need(t, "cosign")
		p := newPerson(t)
		verify := []string{"--key", filepath.Join(dir, "k.pub"), "--insecure-ignore-tlog=true", "--private-infrastructure"}
		p.do(slices.Concat([]string{"cosign", "verify"}, verify, []string{at + "@" + string(host)})...)
		p.do(slices.Concat([]string{"cosign", "verify-attestation", "--type", "slsaprovenance1"}, verify, []string{at + "@" + string(host)})...)
		// Whoever has a key signs nothing into production with it.
		p.do("cosign", "generate-key-pair")
		p.refused(byRelease, "cosign", "sign", "--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false", at+"@"+string(host))
	})
	for _, tag := range []string{"1.0.0", "1.0", "1", "latest"} {
		same(t, tag+" after all this", s.at(repo, tag), want)
	}
	same(t, "the image after all this", s.at(repo, string(want)), want)
	s.check()
}

// TestClientsSignIn signs in with each client: by password, by token, wrongly,
// and not at all.
func TestClientsSignIn(t *testing.T) {
	begin(t)
	users := filepath.Join(t.TempDir(), "users")
	var text strings.Builder
	for _, name := range []string{"ann", "bob"} {
		h, err := bcrypt.GenerateFromPassword([]byte(name+" knows"), 10)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s:%s\n", name, h)
	}
	if err := os.WriteFile(users, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	const token = "a token as a machine would make it, long and random"
	s := serve(t, fmt.Sprintf(`
access:
  users: %q
  tokens:
    ci: {sha256: "%x"}
  grants:
    - {to: [anybody], may: [pull], repositories: ["open/**"]}
    - {to: ["user:ann", "token:ci"], may: [pull, "push:development", "push:candidate", "delete:development"], repositories: ["shop/**", "open/**"]}
    - {to: ["user:bob"], may: [pull], repositories: ["shop/**"]}
`, users, sha256.Sum256([]byte(token))))
	const (
		annKnows = "ann knows"
		mayNot   = "user:bob may not push to shop/app/dev"
	)
	dir, img := sample(t, oci.Development, 1, 1000)
	want := digestOf(t, img)
	at, opened := s.host+"/shop/app/dev", s.host+"/open/app/dev"
	signed := func(t *testing.T, tag string, in string) {
		t.Helper()
		res, _, err := s.ask(http.MethodHead, "/v2/"+in+"/app/dev/manifests/"+tag, http.Header{"Authorization": {"Bearer " + token}}, nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s was not pushed: %v", tag, err)
		}
	}
	t.Run("crane", func(t *testing.T) {
		need(t, "crane")
		p := newPerson(t)
		p.refused("401 Unauthorized", "crane", "push", dir, at+":crane")
		p.do("crane", "auth", "login", s.host, "-u", "ann", "-p", "nobody knows") // which does not ask the server
		p.refused("401 Unauthorized", "crane", "push", dir, at+":crane")
		p.do("crane", "auth", "login", s.host, "-u", "bob", "-p", "bob knows")
		p.refused(mayNot, "crane", "push", dir, at+":crane")
		p.do("crane", "auth", "login", s.host, "-u", "ann", "-p", annKnows)
		p.do("crane", "push", dir, at+":crane")
		p.do("crane", "push", dir, opened+":crane")
		p.refused(byRelease, "crane", "push", dir, s.host+"/shop/app:1.0.0")
		p.do("crane", "auth", "login", s.host, "-u", "bob", "-p", "bob knows")
		same(t, "pulled by bob", p.do("crane", "digest", at+":crane"), string(want))
		p.refused("user:bob may not delete from shop/app/dev", "crane", "delete", at+":crane")
		p.do("crane", "auth", "login", s.host, "-u", access.TokenUser, "-p", token)
		p.do("crane", "push", dir, at+":crane-token")
		p.do("crane", "delete", at+":crane")
		p.do("crane", "auth", "logout", s.host)
		same(t, "pulled by nobody", p.do("crane", "digest", opened+":crane"), string(want))
		p.do("crane", "pull", opened+":crane", "x.tar")
		p.refused("sign in to pull from shop/app/dev", "crane", "manifest", at+":crane-token")
		signed(t, "crane-token", "shop")
	})
	t.Run("skopeo", func(t *testing.T) {
		need(t, "skopeo")
		p := newPerson(t)
		push := func(to string, more ...string) []string {
			return append(append([]string{"skopeo", "copy", "--dest-tls-verify=false"}, more...), "oci:"+dir+":x", "docker://"+to)
		}
		p.refused("unauthorized", push(at+":skopeo")...)
		p.refused("unauthorized", push(at+":skopeo", "--dest-creds", "ann:nobody knows")...)
		p.refused(mayNot, push(at+":skopeo", "--dest-creds", "bob:bob knows")...)
		p.do(push(at+":skopeo", "--dest-creds", "ann:"+annKnows)...)
		p.do(push(at+":skopeo-token", "--dest-creds", access.TokenUser+":"+token)...)
		p.do(push(opened+":skopeo", "--dest-creds", "ann:"+annKnows)...)
		p.do("skopeo", "copy", "--src-tls-verify=false", "--src-creds", "bob:bob knows", "docker://"+at+":skopeo", "dir:bob")
		p.do("skopeo", "copy", "--src-tls-verify=false", "docker://"+opened+":skopeo", "dir:nobody")
		p.do("skopeo", "login", "--tls-verify=false", "-u", "ann", "-p", annKnows, s.host)
		p.do(push(at + ":skopeo-login")...)
		p.refused(byRelease, push(s.host+"/shop/app:1.0.0")...)
		signed(t, "skopeo-login", "shop")
	})
	t.Run("podman", func(t *testing.T) {
		need(t, "podman")
		p := newPerson(t)
		id := p.do("podman", "pull", "-q", "oci:"+dir+":x")
		push := func(to string, more ...string) []string {
			return append(append([]string{"podman", "push", "-q", "--tls-verify=false"}, more...), id, "docker://"+to)
		}
		p.refused("unauthorized", push(at+":podman")...)
		p.refused("invalid username/password", "podman", "login", "--tls-verify=false", "-u", "ann", "-p", "nobody knows", s.host)
		p.do("podman", "login", "--tls-verify=false", "-u", "bob", "-p", "bob knows", s.host)
		p.refused(mayNot, push(at+":podman")...)
		p.do("podman", "login", "--tls-verify=false", "-u", "ann", "-p", annKnows, s.host)
		p.do(push(at + ":podman")...)
		p.do(push(opened + ":podman")...)
		p.do("podman", "login", "--tls-verify=false", "-u", access.TokenUser, "-p", token, s.host)
		p.do(push(at + ":podman-token")...)
		p.do("podman", "logout", s.host)
		p.do("podman", "pull", "-q", "--tls-verify=false", opened+":podman")
		p.refused("unauthorized", "podman", "pull", "-q", "--tls-verify=false", at+":podman")
		signed(t, "podman-token", "shop")
	})
	t.Run("containerd", func(t *testing.T) {
		c := startContainerd(t)
		p := c.p
		p.refused("authorization failed", c.push(dir, at+":ctr")...)
		p.refused("401", c.push(dir, at+":ctr", "--user", "ann:nobody knows")...)
		p.refused(mayNot, c.push(dir, at+":ctr", "--user", "bob:bob knows")...)
		p.do(c.push(dir, at+":ctr", "--user", "ann:"+annKnows)...)
		p.do(c.push(dir, at+":ctr-token", "--user", access.TokenUser+":"+token)...)
		p.do(c.push(dir, opened+":ctr", "--user", "ann:"+annKnows)...)
		p.do(c.ctr("image", "pull", "--plain-http", "--snapshotter", "native", "--user", "bob:bob knows", at+":ctr")...)
		p.do(c.ctr("image", "pull", "--plain-http", "--snapshotter", "native", opened+":ctr")...)
		p.refused("authorization failed", c.ctr("image", "pull", "--plain-http", "--snapshotter", "native", at+":ctr-token")...)
		signed(t, "ctr-token", "shop")
	})
	s.check()
}

// wire is a connection to a server that fails: it passes on so many bytes from a
// client, then stops and says so.
type wire struct {
	l     net.Listener
	to    string
	left  atomic.Int64  // bytes
	spent chan struct{} // closed when they are
	once  sync.Once
	cut   bool // breaks the connection then, once, and passes everything on afterwards
}

func newWire(t *testing.T, to string, bytes int64, cut bool) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{l: l, to: to, spent: make(chan struct{}), cut: cut}
	w.left.Store(bytes)
	var all sync.WaitGroup
	var mu sync.Mutex
	var connections []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range connections {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	all.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				continue
			}
			mu.Lock()
			connections = append(connections, a, b)
			mu.Unlock()
			all.Go(func() { w.pass(a, b) })
			all.Go(func() {
				_, _ = io.Copy(a, b)
				a.Close()
			})
		}
	})
	return w
}

// pass takes from the client. When it stops, nobody closes: as when a cable is
// pulled.
func (w *wire) pass(client, server net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 && w.left.Add(-int64(n)) < 0 {
			first := false
			w.once.Do(func() { first = true; close(w.spent) })
			if !w.cut {
				// The client that is killed now closes; then the server learns it.
				_, _ = io.Copy(io.Discard, client)
				server.Close()
				return
			}
			if first {
				client.(*net.TCPConn).SetLinger(0) // a reset
				client.Close()
				server.Close()
				return
			}
		}
		if n > 0 {
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			server.Close()
			return
		}
	}
}

// TestClientsInterrupted kills clients in the middle of a push and repeats it,
// breaks their connection, and lets several push the same at once.
func TestClientsInterrupted(t *testing.T) {
	s := serve(t, open)
	const size = 8 << 20
	t.Run("killed", func(t *testing.T) {
		for _, client := range []string{"podman", "skopeo", "crane"} {
			t.Run(client, func(t *testing.T) {
				need(t, client)
				p := newPerson(t)
				dir, _ := sample(t, oci.Development, 2, size)
				id := ""
				if client == "podman" {
					id = p.do("podman", "pull", "-q", "oci:"+dir+":x")
				}
				push := func(host string) []string {
					to := host + "/killed/" + client + "/dev:one"
					switch client {
					case "podman":
						return []string{"podman", "push", "-q", "--tls-verify=false", id, "docker://" + to}
					case "skopeo":
						return []string{"skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:" + dir + ":x", "docker://" + to}
					}
					return []string{"crane", "push", dir, to}
				}
				w := newWire(t, s.host, size/2, false)
				cmd := p.command(push(w.l.Addr().String())...)
				var said output
				cmd.Stdout, cmd.Stderr = &said, &said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				select {
				case <-w.spent:
				case err := <-ended:
					t.Fatalf("ended before half of it was sent: %v\n%s", err, said.String())
				case <-time.After(2 * time.Minute):
					t.Error("half of it was never sent")
				}
				_ = cmd.Process.Kill()
				<-ended
				same(t, "after the kill", s.at("killed/"+client+"/dev", "one"), "")
				p.do(push(s.host)...)
				if s.at("killed/"+client+"/dev", "one") == "" {
					t.Error("nothing was pushed")
				}
			})
		}
	})
	t.Run("cut", func(t *testing.T) {
		need(t, "crane")
		p := newPerson(t)
		dir, img := sample(t, oci.Development, 2, size)
		w := newWire(t, s.host, size/2, true)
		p.do("crane", "push", dir, w.l.Addr().String()+"/cut/app/dev:one") // it tries again by itself
		same(t, "pushed", s.at("cut/app/dev", "one"), digestOf(t, img))
		select {
		case <-w.spent:
		default:
			t.Error("the connection was never cut")
		}
	})
	t.Run("at once", func(t *testing.T) {
		need(t, "crane", "skopeo")
		dir, img := sample(t, oci.Development, 4, 2<<20)
		var all sync.WaitGroup
		errs := make(chan error, 8)
		for i := range 4 {
			for _, args := range [][]string{
				{"crane", "push", dir, fmt.Sprintf("%s/once/app/dev:crane-%d", s.host, i)},
				{"skopeo", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", "oci:" + dir + ":x", fmt.Sprintf("docker://%s/once/app/dev:skopeo-%d", s.host, i)},
			} {
				p := newPerson(t)
				all.Go(func() {
					if out, err := p.command(args...).CombinedOutput(); err != nil {
						errs <- fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
					}
				})
			}
		}
		all.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
		for i := range 4 {
			for _, client := range []string{"crane", "skopeo"} {
				same(t, client, s.at("once/app/dev", fmt.Sprintf("%s-%d", client, i)), digestOf(t, img))
			}
		}
	})
	s.check()
}

// TestClientsMany lists 10,000 tags and 1,000 referrers.
func TestClientsMany(t *testing.T) {
	s := serve(t, open)
	const tags, claims = 10_000, 1000
	p := newPerson(t)
	_, img := sample(t, oci.Development, 1, 100)
	d := digestOf(t, img)
	each := func(n int, do func(i int) error) {
		t.Helper()
		next, errs := atomic.Int64{}, make(chan error, 16)
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					if err := do(i); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		all.Wait()
		close(errs)
		for err := range errs {
			t.Fatal(err)
		}
	}
	put := func(reference, mediaType string, body []byte) error {
		res, b, err := s.ask(http.MethodPut, "/v2/many/app/dev/manifests/"+reference, http.Header{"Content-Type": {mediaType}}, body)
		if err == nil && res.StatusCode != http.StatusCreated {
			err = fmt.Errorf("%s: %s: %s", reference, res.Status, b)
		}
		return err
	}
	for _, blob := range blobs(t, img) {
		res, b, err := s.ask(http.MethodPost, "/v2/many/app/dev/blobs/uploads/?digest="+string(digest.FromBytes(blob)), http.Header{"Content-Type": {"application/octet-stream"}}, blob)
		if err != nil || res.StatusCode != http.StatusCreated {
			t.Fatalf("%v\n%s", err, b)
		}
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range tags {
		want = append(want, fmt.Sprintf("v%05d", i))
	}
	began := time.Now()
	each(tags, func(i int) error { return put(want[i], string(types.OCIManifestSchema1), raw) })
	t.Logf("%d tags in %.1f s", tags, time.Since(began).Seconds())
	t.Run("crane", func(t *testing.T) {
		need(t, "crane")
		if got := strings.Split(p.do("crane", "ls", s.host+"/many/app/dev"), "\n"); !slices.Equal(got, want) {
			t.Errorf("%d tags, or in another order", len(got))
		}
	})
	t.Run("skopeo", func(t *testing.T) {
		need(t, "skopeo")
		var got struct{ Tags []string }
		if err := json.Unmarshal([]byte(p.do("skopeo", "list-tags", "--tls-verify=false", "docker://"+s.host+"/many/app/dev")), &got); err != nil || !slices.Equal(got.Tags, want) {
			t.Errorf("%d tags, or in another order: %v", len(got.Tags), err)
		}
	})
	t.Run("podman", func(t *testing.T) {
		need(t, "podman")
		if got := newPersonOf(t, p).podmanTags(s.host + "/many/app/dev"); !slices.Equal(got, want) {
			t.Errorf("%d tags, or in another order", len(got))
		}
	})

	subject := ocispec.Descriptor{MediaType: string(types.OCIManifestSchema1), Digest: digest.Digest(d), Size: int64(len(raw))}
	nothing := ocispec.DescriptorEmptyJSON
	if res, b, err := s.ask(http.MethodPost, "/v2/many/app/dev/blobs/uploads/?digest="+nothing.Digest.String(), http.Header{"Content-Type": {"application/octet-stream"}}, nothing.Data); err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("%v\n%s", err, b)
	}
	began = time.Now()
	each(claims, func(i int) error {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.claim", Config: nothing, Layers: []ocispec.Descriptor{nothing}, Subject: &subject,
			Annotations: map[string]string{"n": fmt.Sprint(i)}}
		m.SchemaVersion = 2
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		return put(digest.FromBytes(b).String(), ocispec.MediaTypeImageManifest, b)
	})
	t.Logf("%d referrers in %.1f s", claims, time.Since(began).Seconds())
	place, err := referrers.InRegistry(oci.Ref{Kind: oci.RegistryRef, Host: s.host, Name: "many/app/dev"}, referrers.RegistryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := place.List(t.Context(), d)
	if err != nil || len(list) != claims {
		t.Errorf("%d referrers: %v", len(list), err)
	}
	t.Run("cosign", func(t *testing.T) {
		need(t, "cosign")
		// The claims are none of cosign's; it reads them all and finds no signature.
		p.refused("no signatures found", "cosign", "verify", "--key", cosignKey(p), "--insecure-ignore-tlog=true", "--private-infrastructure", s.host+"/many/app/dev@"+string(d))
	})
	s.check()
}

func newPersonOf(t *testing.T, p *person) *person {
	q := *p
	q.t = t
	return &q
}

func cosignKey(p *person) string {
	p.t.Helper()
	p.do("cosign", "generate-key-pair")
	return filepath.Join(p.home, "cosign.pub")
}

// blobs are the layers and the configuration of an image.
func blobs(t *testing.T, img v1.Image) (out [][]byte) {
	t.Helper()
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, config)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// TestClientsSlow has clients that stop sending, stop reading, or vanish. None
// keeps the server from others, from stopping, or from a clean store.
func TestClientsSlow(t *testing.T) {
	s := serve(t, open+"limits: {stall: 2s}\n")
	dir, img := sample(t, oci.Development, 1, 16<<20)
	if _, err := exec.LookPath("crane"); err == nil {
		newPerson(t).do("crane", "push", dir, s.host+"/slow/app/dev:one")
	} else {
		t.Skip("crane is not installed: tools/prepare-tests says how to get it")
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob := digestOf(t, layers[0])
	dial := func() *net.TCPConn {
		t.Helper()
		// A small buffer, so that who reads nothing is noticed. It must be small before
		// the connection is there: what is announced cannot be taken back.
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10) })
		}}
		c, err := d.Dial("tcp", s.host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}
	say := func(c net.Conn, format string, a ...any) {
		t.Helper()
		if _, err := fmt.Fprintf(c, format, a...); err != nil {
			t.Fatal(err)
		}
	}
	upload := fmt.Sprintf("POST /v2/slow/app/dev/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n", digest.FromString("never"))
	download := fmt.Sprintf("GET /v2/slow/app/dev/blobs/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", blob)
	var senders, readers []*net.TCPConn
	for range 20 {
		// Sends a little, then nothing.
		c := dial()
		say(c, "%s%s", upload, strings.Repeat("x", 1000))
		senders = append(senders, c)
		// Half a request, then nothing.
		say(dial(), "GET /v2/slow/app/dev/mani")
		// Asks for the blob and reads none of it.
		c = dial()
		say(c, "%s", download)
		readers = append(readers, c)
		// Vanish: in the middle of sending, and of receiving.
		c = dial()
		say(c, "%s%s", upload, strings.Repeat("x", 1000))
		_ = c.SetLinger(0)
		c.Close()
		c = dial()
		say(c, "%s", download)
		_, _ = io.CopyN(io.Discard, c, 100_000)
		_ = c.SetLinger(0)
		c.Close()
	}
	// Others are served meanwhile.
	q := newPerson(t)
	q.do("crane", "validate", "--remote", s.host+"/slow/app/dev:one")
	other, _ := sample(t, oci.Development, 1, 1<<20)
	q.do("crane", "push", other, s.host+"/slow/app/dev:two")
	// Those who stopped are given up.
	for i, c := range senders {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the connection of slow sender %d is still open", i)
		}
	}
	time.Sleep(4 * time.Second) // reading at once would make them move again
	for i, c := range readers {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) || n >= 16<<20 {
			t.Fatalf("slow reader %d was waited for: it got %d bytes in the end: %v", i, n, err)
		}
	}
	// One who is slow but moves is served: three seconds, which is longer than a
	// stall, with a part each half second.
	body := bytes.Repeat([]byte("y"), 6000)
	c := dial()
	say(c, "POST /v2/slow/app/dev/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", digest.FromBytes(body), len(body))
	for i := range 6 {
		time.Sleep(500 * time.Millisecond)
		if _, err := c.Write(body[i*1000 : (i+1)*1000]); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 201 ") {
		t.Errorf("a slow client that moves: %v\n%s", err, answer)
	}
	s.check()
}
