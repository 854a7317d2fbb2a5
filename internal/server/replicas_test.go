package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/distribution/conformance"
	"twinhull.dev/twinhull/internal/registry/store/storetest/outside"
)

// serveVariable makes the test binary a server: the configuration file to run with.
const serveVariable = "TWINHULL_TEST_SERVE"

func TestMain(m *testing.M) {
	if path := os.Getenv(serveVariable); path != "" {
		if err := serveAlone(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serveAlone(path string) error {
	c, err := readConfig(path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return Run(ctx, c, Options{Stderr: os.Stderr, Listening: func(d Doors) { fmt.Println(d.URL) }})
}

func readConfig(path string) (Config, error) {
	c := Default()
	data, err := os.ReadFile(path)
	if err == nil {
		err = ReadConfig(path, data, filepath.Dir(path), &c)
	}
	return c, err
}

// replicas are two servers of one registry: the first has the log and runs in the test,
// the second is a process of its own, so that it can be killed.
type replicas struct {
	t      *testing.T
	dir    string
	s3     string // settings
	first  *Server
	url    [2]string
	second *exec.Cmd
	log    [2]*safeBuffer
	stop   func() error // the first
}

// ahead is how far the first one's clock is ahead: so much that what is kept for
// the least time that can be configured is due for it at once.
const ahead = 90 * time.Second

func newReplicas(t *testing.T) *replicas {
	p := &replicas{t: t, dir: t.TempDir()}
	db, bucket := outside.NewPostgres(t), outside.NewMinIO(t)
	p.write("database", db.Connect(db.NewSchema(t)))
	p.write("id", bucket.User)
	p.write("secret", bucket.Password+"\n")
	p.s3 = fmt.Sprintf("endpoint: %s, bucket: %s, prefix: %q, pathStyle: true, keyIDFile: id, secretFile: secret", bucket.Endpoint, bucket.Bucket, bucket.NewPrefix())
	for i := range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.url[i], p.log[i] = "http://"+l.Addr().String(), new(safeBuffer) // the same after a restart
		l.Close()
	}
	p.configure(true)
	p.startFirst()
	p.startSecond()
	return p
}

var names = [2]string{"first", "second"}

// configure says whether clients are sent to the bucket.
func (p *replicas) configure(redirect bool) {
	p.t.Helper()
	for i, name := range names {
		p.write(name+".yaml", fmt.Sprintf(`version: 1
listen: %s
data: %s
storage:
  postgres: {urlFile: database}
  s3: {%s, redirect: %t}
audit: {elsewhere: %t}
retention: {unreferenced: 1m, every: 0s}
log: {level: debug}
access:
  grants:
    - {to: [anybody], may: [pull, "push:development", "delete:development", "push:candidate", operate], repositories: ["**"]}
`, strings.TrimPrefix(p.url[i], "http://"), name, p.s3, redirect, i == 1))
	}
}

// restart ends both as an operator does and starts them again.
func (p *replicas) restart() {
	p.t.Helper()
	p.end(syscall.SIGTERM)
	if err := p.stop(); err != nil {
		p.t.Error(err)
	}
	p.startFirst()
	p.startSecond()
}

func (p *replicas) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *replicas) config(name string) Config {
	p.t.Helper()
	c, err := readConfig(filepath.Join(p.dir, name+".yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *replicas) options() Options {
	return Options{signer: testSigner(), Stderr: p.log[0], Now: func() time.Time { return time.Now().Add(ahead) }}
}

func (p *replicas) startFirst() {
	p.t.Helper()
	opt := p.options()
	ready := make(chan Doors, 1)
	opt.Listening = func(d Doors) { ready <- d }
	s, err := Open(p.t.Context(), p.config("first"), opt)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(s.Serve(ctx), s.Close()) }()
	p.first = s
	p.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	p.t.Cleanup(func() {
		if err := p.stop(); err != nil {
			p.t.Errorf("the first server ended with %v", err)
		}
	})
	<-ready
}

func (p *replicas) startSecond() {
	p.t.Helper()
	me, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(me)
	cmd.Env = append(os.Environ(), serveVariable+"="+filepath.Join(p.dir, "second.yaml"))
	cmd.Stderr = p.log[1]
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = cmd.Process.Kill(); _, _ = cmd.Process.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != p.url[1] {
		p.t.Fatalf("the second server does not start: %q, %v\n%s", line, err, p.log[1])
	}
	p.second = cmd
}

// end ends the second server and waits.
func (p *replicas) end(sig syscall.Signal) {
	p.t.Helper()
	if err := p.second.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
	if err := p.second.Wait(); err != nil && sig == syscall.SIGTERM {
		p.t.Errorf("the second server ended with %v\n%s", err, p.log[1])
	}
}

// ask sends a request to one of the servers and follows redirects, as clients do.
func (p *replicas) ask(server int, method, target, mediaType string, body []byte) (*http.Response, []byte, error) {
	base, err := url.Parse(p.url[server])
	if err != nil {
		return nil, nil, err
	}
	u, err := base.Parse(target)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequest(method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, b, err
}

// must is ask that has to be answered with a status.
func (p *replicas) must(status, server int, method, target, mediaType string, body []byte) (*http.Response, []byte) {
	p.t.Helper()
	res, b, err := p.ask(server, method, target, mediaType, body)
	if err != nil {
		p.t.Fatal(err)
	}
	if res.StatusCode != status {
		p.t.Fatalf("%s %s at %d: %s, want %d\n%.1000s", method, target, server, res.Status, status, b)
	}
	return res, b
}

// blob pushes content in one request.
func (p *replicas) blob(server int, repo string, content []byte) ocispec.Descriptor {
	p.t.Helper()
	d := digest.FromBytes(content)
	p.must(http.StatusCreated, server, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+string(d), octets, content)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(content))}
}

const octets = "application/octet-stream"

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// TestReplicas is a registry with two servers on one database and one bucket.
func TestReplicas(t *testing.T) {
	p := newReplicas(t)
	t.Run("PushAndPull", p.pushAndPull)
	t.Run("UploadChangesServer", p.uploadChangesServer)
	t.Run("Release", p.release)
	t.Run("Conformance", p.conformance)
	t.Run("Collection", p.collection)
	t.Run("Check", p.check)
}

func (p *replicas) pushAndPull(t *testing.T) {
	for from := range 2 {
		to, repo, content := 1-from, fmt.Sprintf("shop/pull%d/dev", from), noise(100_000, byte(from))
		config, layer := p.blob(from, repo, conformance.Empty), p.blob(from, repo, content)
		m := conformance.Manifest(config, []ocispec.Descriptor{layer}, nil)
		p.must(http.StatusCreated, from, "PUT", "/v2/"+repo+"/manifests/main", ocispec.MediaTypeImageManifest, m)
		for _, ref := range []string{"main", string(digest.FromBytes(m))} {
			if _, b := p.must(http.StatusOK, to, "GET", "/v2/"+repo+"/manifests/"+ref, "", nil); !bytes.Equal(b, m) {
				t.Errorf("%s: other bytes", ref)
			}
		}
		res, b := p.must(http.StatusOK, to, "GET", "/v2/"+repo+"/blobs/"+string(layer.Digest), "", nil)
		if !bytes.Equal(b, content) {
			t.Error("the blob has other bytes")
		}
		if q := res.Request.URL.Query(); q.Get("X-Amz-Signature") == "" || strings.HasPrefix(res.Request.URL.String(), p.url[to]) {
			t.Errorf("the blob came from %s and not from the bucket", res.Request.URL)
		}
	}
}

// uploadChangesServer: an upload goes on wherever its client asks next.
func (p *replicas) uploadChangesServer(t *testing.T) {
	const repo = "shop/upload/dev"
	content := noise(20<<20, 7) // over parts, and none of these ends where a request does
	d := digest.FromBytes(content)
	res, _ := p.must(http.StatusAccepted, 0, "POST", "/v2/"+repo+"/blobs/uploads/", "", nil)
	at := 0
	for i := range 4 {
		end := 9 << 20 >> i
		res, _ = p.must(http.StatusAccepted, 1-i%2, "PATCH", res.Header.Get("Location"), octets, content[:end])
		content, at = content[end:], at+end
		state, _ := p.must(http.StatusNoContent, i%2, "GET", res.Header.Get("Location"), "", nil)
		if got, want := state.Header.Get("Range"), "0-"+strconv.Itoa(at-1); got != want {
			t.Errorf("the other server says %s, want %s", got, want)
		}
	}
	p.must(http.StatusCreated, 1, "PUT", res.Header.Get("Location")+"?digest="+string(d), octets, content)
	for i := range 2 {
		if _, b := p.must(http.StatusOK, i, "GET", "/v2/"+repo+"/blobs/"+string(d), "", nil); digest.FromBytes(b) != d {
			t.Errorf("server %d: other bytes", i)
		}
	}
}

// release: pushed through the second, released at the first, pulled at the second,
// which itself decides nothing.
func (p *replicas) release(t *testing.T) {
	const repo = "shop/release"
	said := map[string]string{"dev.twinhull.zone": "production"}
	config := p.blob(1, repo+"/candidate", []byte(`{"architecture":"amd64","os":"linux","config":{"Labels":{"dev.twinhull.zone":"production"}},"rootfs":{"type":"layers","diff_ids":[]}}`))
	config.MediaType = ocispec.MediaTypeImageConfig
	layer := p.blob(1, repo+"/candidate", []byte("a layer"))
	m := conformance.Manifest(config, []ocispec.Descriptor{layer}, func(m *ocispec.Manifest) { m.Annotations = said })
	d := digest.FromBytes(m)
	p.must(http.StatusCreated, 1, "PUT", "/v2/"+repo+"/candidate/manifests/"+string(d), ocispec.MediaTypeImageManifest, m)
	p.must(http.StatusServiceUnavailable, 1, "POST", "/twinhull/v1/release", "application/json", []byte(`{"repository":"shop/release","digest":"`+string(d)+`","version":"1.0.0"}`))
	_, err := p.first.reg.Release(t.Context(), registry.ReleaseOrder{RequestID: "request-1", Repository: repo, Digest: d, Version: "1.0.0", Entry: audit.Entry{Actor: audit.Actor{Name: "releaser"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"1.0.0", "1.0", "1", "latest", string(d)} {
		if _, b := p.must(http.StatusOK, 1, "GET", "/v2/"+repo+"/manifests/"+ref, "", nil); !bytes.Equal(b, m) {
			t.Errorf("%s: other bytes", ref)
		}
	}
	p.must(http.StatusOK, 1, "GET", "/v2/"+repo+"/blobs/"+string(layer.Digest), "", nil)
	p.must(http.StatusForbidden, 1, "PUT", "/v2/"+repo+"/manifests/1.0.1", ocispec.MediaTypeImageManifest, m)
	p.must(http.StatusMethodNotAllowed, 1, "DELETE", "/v2/"+repo+"/manifests/1.0.0", "", nil)
}

// inTurn sends each request to the server whose turn it is.
type inTurn struct {
	p *replicas
	n atomic.Int64
}

func (r *inTurn) RoundTrip(q *http.Request) (*http.Response, error) {
	q = q.Clone(q.Context())
	q.URL.Host = strings.TrimPrefix(r.p.url[r.n.Add(1)%2], "http://")
	return http.DefaultTransport.RoundTrip(q)
}

// conformance asks for no redirects: what the bucket's service answers is its own.
func (p *replicas) conformance(t *testing.T) {
	if testing.Short() {
		t.Skip("the whole specification over two servers: -short leaves it to the run without the race detector")
	}
	p.configure(false)
	p.restart()
	conformance.Run(t, conformance.Target{
		URL: p.url[0], Client: &http.Client{Transport: &inTurn{p: p}},
		Repository: func(word string) string { return "conformance/" + word + "/dev" },
	})
	p.configure(true)
	p.restart()
}

// push pushes two blobs and a manifest. The error is errAgain when the server was
// not there or something went away between, as clients then push again.
func (p *replicas) push(server int, repo, tag string, manifest []byte, blobs ...[]byte) error {
	send := func(method, target, mediaType string, body []byte) error {
		res, b, err := p.ask(server, method, target, mediaType, body)
		if err != nil {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
		switch res.StatusCode {
		case http.StatusCreated:
			return nil
		case http.StatusNotFound, http.StatusBadRequest, http.StatusConflict: // the upload or a part of it is gone, or a blob of the manifest
			for _, c := range []registry.Code{registry.BlobUploadUnknown, registry.ManifestBlobUnknown, registry.Conflict, registry.DigestInvalid} {
				if bytes.Contains(b, []byte(c)) {
					return fmt.Errorf("%w: %.300s", errAgain, b)
				}
			}
		}
		return fmt.Errorf("%s %s: %s %.300s", method, target, res.Status, b)
	}
	for _, b := range blobs {
		if err := send("POST", "/v2/"+repo+"/blobs/uploads/?digest="+string(digest.FromBytes(b)), octets, b); err != nil {
			return err
		}
	}
	return send("PUT", "/v2/"+repo+"/manifests/"+tag, ocispec.MediaTypeImageManifest, manifest)
}

var errAgain = errors.New("push it again")

// collection: both servers take pushes of the same blobs into some repositories and
// delete half of the images again, the first deletes what nothing refers to without
// any patience, and the second is killed. What was acknowledged is there, and
// nothing is left over.
func (p *replicas) collection(t *testing.T) {
	rounds := 15
	if testing.Short() {
		rounds = 6
	}
	layers := [][]byte{[]byte("one"), noise(3000, 1), noise(200_000, 2)}
	config := ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: digest.FromBytes(conformance.Empty), Size: 2}
	type image struct{ manifest, layer []byte }
	var (
		mu    sync.Mutex
		kept  = map[string]image{} // by REPOSITORY/manifests/TAG
		again atomic.Int64
		done  atomic.Int64
	)
	const many = 4
	half := make(chan struct{})
	working, stop := context.WithCancel(t.Context())
	var collector, pushers sync.WaitGroup
	collections := 0
	collector.Go(func() {
		for ; working.Err() == nil; collections++ {
			if _, err := p.first.reg.Collect(context.WithoutCancel(working), false); err != nil {
				t.Errorf("collection: %v", err)
				return
			}
			select { // a push must come through now and then
			case <-working.Done():
			case <-time.After(30 * time.Millisecond):
			}
		}
	})
	for who := range many {
		pushers.Go(func() {
			for i := range rounds {
				repo, tag, layer := fmt.Sprintf("shop/collected%d/dev", i%3), fmt.Sprintf("t%d-%d", who, i), layers[(who+i)%len(layers)]
				l := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(layer), Size: int64(len(layer))}
				m := conformance.Manifest(config, []ocispec.Descriptor{l}, func(m *ocispec.Manifest) { m.Annotations = map[string]string{"tag": tag} })
				for try := 0; ; try++ {
					err := p.push((who+try)%2, repo, tag, m, conformance.Empty, layer)
					if err == nil {
						break
					}
					if !errors.Is(err, errAgain) || try > 1000 {
						t.Errorf("%s:%s could not be pushed: %v", repo, tag, err)
						return
					}
					again.Add(1)
				}
				if i%2 == 0 {
					mu.Lock()
					kept[repo+"/manifests/"+tag] = image{m, layer}
					mu.Unlock()
				} else {
					p.ask(who%2, "DELETE", "/v2/"+repo+"/manifests/"+string(digest.FromBytes(m)), "", nil) // may be in vain
				}
				if done.Add(1) == int64(many*rounds/2) {
					close(half)
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { pushers.Wait(); close(ended) }()
	select {
	case <-half:
		p.end(syscall.SIGKILL)
		time.Sleep(100 * time.Millisecond)
		p.startSecond()
	case <-ended:
		t.Error("the pushes ended before the half")
	}
	<-ended
	stop()
	collector.Wait()
	if t.Failed() {
		t.Logf("%s\n%s", p.log[0], p.log[1])
		return
	}
	for at, x := range kept {
		for i := range 2 {
			if _, b := p.must(http.StatusOK, i, "GET", "/v2/"+at, "", nil); !bytes.Equal(b, x.manifest) {
				t.Errorf("%s at %d: other bytes", at, i)
			}
		}
		repo, _, _ := strings.Cut(at, "/manifests/")
		for _, b := range [][]byte{x.layer, conformance.Empty} {
			if _, got := p.must(http.StatusOK, 1, "GET", "/v2/"+repo+"/blobs/"+string(digest.FromBytes(b)), "", nil); !bytes.Equal(got, b) {
				t.Errorf("the layer of %s has other bytes", at)
			}
		}
	}
	t.Logf("%d pushes, %d begun again, %d collections", done.Load(), again.Load(), collections)
}

// check: the store is clean, asked of either server and without any; and it is not
// when it is not.
func (p *replicas) check(t *testing.T) {
	clean := func(when string) {
		t.Helper()
		for _, name := range names {
			got, err := CheckStore(t.Context(), p.config(name), p.options(), CheckOptions{})
			if err != nil {
				t.Fatalf("%s, %s: %v", name, when, err)
			}
			for _, x := range got.Problems {
				t.Errorf("%s, %s: %s %s %s: %s", name, when, x.Kind, x.Repository, x.Name, x.Detail)
			}
			if got.Manifests == 0 || got.Contents == 0 || got.Uploads > 0 {
				t.Errorf("%s, %s: %+v", name, when, got)
			}
		}
	}
	for range 2 {
		if _, err := p.first.reg.Collect(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	clean("running")
	// Without the server that has the log, pushes and pulls go on.
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	p.blob(1, "shop/alone/dev", []byte("alone"))
	p.must(http.StatusOK, 1, "GET", "/v2/shop/release/manifests/1.0.0", "", nil)
	p.end(syscall.SIGTERM)
	clean("stopped")
	b, err := openBucket(t.Context(), p.config("first").Storage.S3)
	if err != nil {
		t.Fatal(err)
	}
	lost := digest.FromString("a layer") // of a version
	if err := b.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	got, err := CheckStore(t.Context(), p.config("second"), p.options(), CheckOptions{Shallow: true})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, x := range got.Problems {
		found = found || x.Kind == registry.DamagedBlob && x.Name == string(lost)
	}
	if !found {
		t.Errorf("a blob is missing in the bucket, and the check says %+v", got.Problems)
	}
}
