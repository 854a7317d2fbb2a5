package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/release"
)

// dock is a registry of the real program over a folder, with an example that was
// built for all tests, and keys.
type dock struct {
	t        *testing.T
	w        world
	dir      string // the project, with the registry's files beside it
	address  string
	name     string // HOST/NAME
	server   *exec.Cmd
	stderr   *bytes.Buffer
	dev      oci.Digest
	prod     oci.Digest // the index
	images   []oci.Digest
	commands context.Context
}

func newDock(t *testing.T, which string) *dock {
	t.Helper()
	e := example(t, which)
	d := &dock{t: t, dir: copyProject(t, e.dir), w: first(), commands: context.WithoutCancel(t.Context())}
	d.w.Env = map[string]string{"TWINHULL_KEY_PASSWORD": "pw", "DOCKER_CONFIG": d.dir}
	// The port must be the same after a restart: images are released for it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.address = l.Addr().String()
	l.Close()
	d.name = d.address + "/shop/" + which
	emptyDatabase(t, d.w, d.dir)
	for _, k := range []string{"build", "ops", "legal"} {
		d.w.ok(t, d.dir, "key", "generate", k)
	}
	d.write("trust.yaml", `version: 1
identities:
  build: {key: build.pub}
  ops: {key: ops.pub}
  legal: {key: legal.pub}
rules:
  - {identities: [build], claims: [signature, sbom, provenance, tests, origins], repositories: ["`+d.address+`/shop/*"]}
  - {identities: [ops, legal], claims: ["`+release.TypeRollBack+`", "`+release.TypeErase+`"], repositories: ["`+d.address+`/shop/*"]}
`)
	d.write("serve.yaml", `version: 1
listen: `+d.address+`
data: data
retention: {every: 0s}
access:
  grants:
    - {to: [anybody], may: [pull, "push:development", "push:candidate", "delete:development", "delete:candidate", pin, release, revoke, roll-back, erase, audit, operate], repositories: ["**"]}
release:
  trust: trust.yaml
  vulnerabilities: database
`)
	store, err := oci.OpenLayout(filepath.Join(d.dir, ".twinhull", "store"))
	if err != nil {
		t.Fatal(err)
	}
	for tag, to := range map[string]*oci.Digest{"development": &d.dev, "production": &d.prod} {
		desc, err := store.Tag(tag)
		if err != nil {
			t.Fatal(err)
		}
		*to = desc.Digest
		if tag == "production" {
			if err := store.Walk(desc, func(x oci.Descriptor) error {
				if oci.IsManifest(x.MediaType) {
					d.images = append(d.images, x.Digest)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return d
}

func (d *dock) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// start serves and waits until the server takes requests.
func (d *dock) start() {
	d.t.Helper()
	d.server, d.stderr = d.w.command(d.commands, d.dir, "serve", "--config", "serve.yaml"), new(bytes.Buffer)
	d.server.Stderr = d.stderr
	out, err := d.server.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.server.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = d.server.Process.Kill(); _, _ = d.server.Process.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "http://"+d.address+"\n" {
		d.t.Fatalf("the server says %q, %v\n%s", line, err, d.stderr)
	}
}

// stop ends the server as an operator does.
func (d *dock) stop() {
	d.t.Helper()
	if err := d.server.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	if err := d.server.Wait(); err != nil && d.server.ProcessState.ExitCode() != 128+int(syscall.SIGTERM) {
		d.t.Errorf("the server ended with %v\n%s", err, tail(d.stderr.String(), 3000))
	}
}

// kill ends it as a power failure does, but for what the kernel has not written.
func (d *dock) kill() {
	d.t.Helper()
	if err := d.server.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	_ = d.server.Wait()
}

func (d *dock) ok(args ...string) result {
	d.t.Helper()
	return d.w.ok(d.t, d.dir, append([]string{"-q"}, args...)...)
}

// refused wants exit code 1 and the words on one of the outputs.
func (d *dock) refused(words []string, args ...string) result {
	d.t.Helper()
	r := d.w.run(d.commands, d.dir, append([]string{"-q"}, args...)...)
	if r.code != 1 {
		d.t.Fatalf("not refused: %s", r)
	}
	for _, w := range words {
		if !strings.Contains(r.stdout+r.stderr, w) {
			d.t.Errorf("%q is not said: %s", w, r)
		}
	}
	return r
}

// request speaks the protocol; it returns the status and the reason of a refusal.
func (d *dock) request(method, path, mediaType string, body []byte) (int, string) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.commands, method, "http://"+d.address+"/v2/"+path, bytes.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	var out struct {
		Errors []struct {
			Detail struct {
				Reason registry.Reason `json:"reason"`
				Remedy string          `json:"remedy"`
				Entry  *uint64         `json:"entry"`
			} `json:"detail"`
		} `json:"errors"`
	}
	if json.Unmarshal(raw, &out) != nil || len(out.Errors) == 0 {
		return res.StatusCode, ""
	}
	return res.StatusCode, string(out.Errors[0].Detail.Reason)
}

// versions lists what was released.
func (d *dock) versions() (out []registry.Released) {
	d.t.Helper()
	if err := json.Unmarshal([]byte(d.ok("catalog", "versions", d.name, "--json").stdout), &out); err != nil {
		d.t.Fatal(err)
	}
	return out
}

// tag is where a tag of production points.
func (d *dock) tag(name string) oci.Digest {
	d.t.Helper()
	var out []registry.Tag
	if err := json.Unmarshal([]byte(d.ok("catalog", "tags", d.name, "--json").stdout), &out); err != nil {
		d.t.Fatal(err)
	}
	for _, t := range out {
		if t.Name == name {
			return t.Digest
		}
	}
	return ""
}

// entries reads the audit log from its files.
func (d *dock) entries() (out []audit.Entry) {
	d.t.Helper()
	keys, err := os.Open(filepath.Join(d.dir, "data", "log", "log.pub"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer keys.Close()
	all, err := audit.ReadKeys(keys)
	if err != nil {
		d.t.Fatal(err)
	}
	believed, err := audit.NewTrust(all, nil, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	rep, err := audit.Verify(d.commands, audit.Dir(filepath.Join(d.dir, "data", "log")), believed, audit.VerifyOptions{Each: func(r audit.Record) error {
		out = append(out, r.Entry)
		return r.Err
	}})
	if err != nil || len(rep.Problems) > 0 {
		d.t.Fatalf("the audit log: %+v, %v", rep, err)
	}
	return out
}

// TestRegistry releases an example through the real server, and knocks with its
// development image at every door.
func TestRegistry(t *testing.T) {
	d := newDock(t, "go-service")
	d.start()
	r := d.w.ok(t, d.dir, "publish", "--to", d.name, "--key", "build.key", "--tag", "feature-x")
	if !strings.Contains(r.stderr, "the gate allows the candidate") || !strings.Contains(r.stderr, "next: twinhull release "+d.name+"@"+string(d.prod)) {
		t.Errorf("%s", r)
	}
	image := d.name + "@" + string(d.prod)
	if r := d.ok("release", image, "1.0.0", "--request-id", "first-release"); !strings.Contains(r.stdout, "tags moved: 1.0, 1, latest") {
		t.Errorf("%s", r)
	}
	if r := d.ok("release", image, "1.0.0", "--request-id", "first-release"); !strings.Contains(r.stdout, "released before by this request") {
		t.Errorf("%s", r)
	}
	// Anybody can use it as any image, and believe the summary with the key alone.
	pub := filepath.Join("data", "keys", "server.pub")
	d.ok("verify", d.name+":1.0.0", "--key", pub, "--require", "summary,absence")
	if r := d.ok("catalog", "anchor", d.name+":1.0.0", "--key", pub); !strings.Contains(r.stdout, "\n— twinhull/") {
		t.Errorf("%s", r)
	} else {
		d.write("kept.checkpoint", r.stdout)
	}

	// The doors.
	repository := strings.TrimPrefix(d.name, d.address+"/")
	store, err := oci.OpenLayout(filepath.Join(d.dir, ".twinhull", "store"))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := store.Tag("development")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := store.ReadBlob(desc)
	if err != nil {
		t.Fatal(err)
	}
	before := len(d.entries())
	for _, c := range []struct {
		method, path string
		body         []byte
		status       int
		reason       registry.Reason
	}{
		{"POST", repository + "/blobs/uploads/", nil, 403, registry.ByReleaseOnly},
		{"PUT", repository + "/manifests/" + string(d.dev), raw, 403, registry.ByReleaseOnly},
		{"PUT", repository + "/manifests/1.0.1", raw, 403, registry.ByReleaseOnly},
		{"PUT", repository + "/manifests/latest", raw, 403, registry.ComputedTag},
		{"PUT", repository + "/candidate/manifests/latest", raw, 403, registry.CandidateByDigest},
		{"DELETE", repository + "/manifests/1.0.0", nil, 405, registry.PermanentVersion},
		{"DELETE", repository + "/manifests/latest", nil, 405, registry.PermanentVersion},
		{"DELETE", repository + "/manifests/" + string(d.prod), nil, 405, registry.PermanentVersion},
	} {
		mediaType := ""
		if c.body != nil {
			mediaType = desc.MediaType
		}
		if status, reason := d.request(c.method, c.path, mediaType, c.body); status != c.status || reason != string(c.reason) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, status, reason, c.status, c.reason)
		}
	}
	// As a candidate, with every byte there: only its zone stands in the way.
	if r := d.w.run(t.Context(), d.dir, "-q", "build", "development", "--output", d.name+"/candidate"); r.code == 0 {
		t.Errorf("the development image is a candidate: %s", r)
	}
	rel := d.refused([]string{"refused for production", "is in the development catalog", "recorded as entry"}, "release", d.name+"@"+string(d.dev), "1.0.1")
	for _, rule := range []string{policy.RuleZone, "shell", "compiler", "package-manager"} {
		if !strings.Contains(rel.stdout, "refused      "+rule+":") {
			t.Errorf("%s is not told:\n%s", rule, rel.stdout)
		}
	}
	j := d.w.run(t.Context(), d.dir, "-q", "release", d.name+"@"+string(d.dev), "1.0.1", "--output", "json")
	var p release.Problem
	if err := json.Unmarshal([]byte(j.stdout), &p); err != nil || j.code != 1 || p.Verdict == nil || p.Entry == nil {
		t.Fatalf("%v: %s", err, j)
	}
	checkDevelopmentVerdict(t, p.Verdict)
	d.refused([]string{"is released already"}, "release", d.name+"@"+string(d.images[0]), "1.0.0")
	for _, tag := range []string{"1.0.0", "1.0", "1", "latest"} {
		if got := d.tag(tag); got != d.prod {
			t.Errorf("%s points to %s", tag, got)
		}
	}
	if got := len(d.entries()); got < before+7 {
		t.Errorf("%d refusals are in the audit log", got-before)
	}

	// One of its images as the next version, back again, and no more.
	one := d.images[0]
	d.ok("release", d.name+"@"+string(one), "1.0.1")
	if d.tag("latest") != one {
		t.Error("latest is not the new version")
	}
	d.refused([]string{"the order is not followed"}, "rollback", d.name+":1.0.0", "--key", "build.key")
	d.ok("rollback", d.name+":1.0.0", "--key", "ops.key", "--reason", "it is slow")
	if d.tag("latest") != d.prod || d.tag("1.0.1") != one {
		t.Error("the roll-back")
	}
	d.ok("revoke", d.name+":1.0.1", "--reason", "it leaks")
	d.refused([]string{"FAILED"}, "verify", d.name+"@"+string(one), "--key", pub, "--require", "summary")
	d.refused([]string{"was revoked"}, "release", d.name+"@"+string(one), "1.0.2")
	d.ok("erase", d.name+"@"+string(d.prod), "--reason", "court order", "--key", "ops.key", "--order", "order.json")
	d.refused([]string{"two identities"}, "erase", "--key", "ops.key", "--order", "order.json")
	d.ok("erase", "--key", "legal.key", "--order", "order.json")
	if v := d.versions(); len(v) != 2 || !v[0].Erased || v[1].Revoked == nil {
		t.Errorf("%+v", v)
	}
	d.stop()
	d.ok("serve", "--config", "serve.yaml", "--check")
	d.ok("audit", "verify", "--log", "data/log", "--key", "data/log/log.pub", "--anchor", "kept.checkpoint")
	var actions []audit.Action
	for _, e := range d.entries() {
		if !slices.Contains(actions, e.Action) {
			actions = append(actions, e.Action)
		}
	}
	for _, a := range []audit.Action{audit.Release, audit.Revoke, audit.RollBack, audit.Erase, audit.RefuseDelete, audit.RefuseWrite} {
		if !slices.Contains(actions, a) {
			t.Errorf("no %s in the audit log: %q", a, actions)
		}
	}
}

func checkDevelopmentVerdict(t *testing.T, r *gate.Results) {
	t.Helper()
	if r.Allowed || len(r.Images) == 0 {
		t.Fatalf("allowed, or nothing: %+v", r)
	}
	for _, i := range r.Images {
		if bad := refusing(i.Verdict); !slices.Contains(bad, policy.RuleZone) || len(bad) < 8 {
			t.Errorf("refused by %q only", bad)
		}
	}
}

// TestReleaseCrash kills the server at random moments of releases. After a
// restart the request is repeated with its id: there is exactly one version, and
// one entry for it.
func TestReleaseCrash(t *testing.T) {
	d := newDock(t, "go-service")
	d.start()
	d.ok("publish", "--to", d.name, "--key", "build.key")
	image := d.name + "@" + string(d.prod)
	began := time.Now()
	d.ok("release", image, "0.1.0")
	usual := time.Since(began)
	var cut, done int
	for i := range 8 {
		version, id := fmt.Sprintf("1.0.%d", i), fmt.Sprintf("crash-%d-%d", i, os.Getpid())
		// What was read of the image is gone after a restart; reading it again is
		// most of the time, and what is cut should be the release.
		if i > 0 {
			d.w.run(t.Context(), d.dir, "-q", "release", image, version, "--dry-run")
		}
		ended := make(chan result, 1)
		go func() {
			ended <- d.w.run(d.commands, d.dir, "-q", "release", image, version, "--request-id", id)
		}()
		time.Sleep(time.Duration(rand.Int64N(int64(usual) + 1)))
		d.kill()
		r := <-ended
		if r.code == 0 {
			done++
		} else if r.code != 3 {
			t.Errorf("a broken connection is no verdict: %s", r)
		} else if cut++; !strings.Contains(r.stderr, "--request-id "+id) {
			t.Errorf("it does not say how to repeat: %s", r)
		}
		d.start()
		// Between the crash and now: nothing or everything.
		if r.code != 0 && d.tag(version) != "" && d.tag("latest") != d.tag(version) {
			t.Errorf("%s is half released", version)
		}
		d.ok("release", image, version, "--request-id", id)
		if d.tag(version) != d.prod || d.tag("latest") != d.prod {
			t.Errorf("%s is not released", version)
		}
		n := 0
		for _, v := range d.versions() {
			if v.Version == version {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d versions %s", n, version)
		}
	}
	d.stop()
	d.ok("serve", "--config", "serve.yaml", "--check")
	count := map[string]int{}
	for _, e := range d.entries() {
		if e.Action == audit.Release && e.Verdict == audit.Allowed {
			count[e.Object.Tag]++
		}
	}
	if len(count) != 9 {
		t.Errorf("%d versions are in the audit log: %v", len(count), count)
	}
	for v, n := range count {
		if n != 1 {
			t.Errorf("%s has %d entries", v, n)
		}
	}
	t.Logf("a release takes %s; of 8 kills %d came before the answer, %d behind it", usual.Round(time.Millisecond), cut, done)
}
