package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/release"
	"twinhull.dev/twinhull/internal/registry/release/client"
	"twinhull.dev/twinhull/internal/server"
)

// demoVersion is what the demo releases.
const demoVersion = "1.0.0"

// demoEcosystems are those of the example's packages. The database of the demo
// has one recent record for each, about a package that nobody has: feeds are not
// to be reached from everywhere.
var demoEcosystems = map[string]string{"Debian": "Debian:13", "Bookworm": "Debian:12", "npm": "npm", "Go": "Go", "PyPI": "PyPI"}

// demoServer is the configuration of the demo's server. For the seconds that it
// lives, whoever is on this machine may do what the demo does; to production
// nobody may write all the same.
const demoServer = `version: 1
listen: 127.0.0.1:0
data: data
retention: {every: 0s}
access:
  grants:
    - to: [anybody]
      may: [pull, "push:development", "push:candidate", "delete:development", "delete:candidate", release]
      repositories: ["**"]
release: {trust: trust.yaml, vulnerabilities: database}
log: {level: error}
`

// registry serves a registry on a free port, publishes both images, releases the
// production one, knocks with the development image at every door, and verifies
// the audit log from its files.
func (d *demo) registry(ctx context.Context) (err error) {
	dir := d.dir + ".registry"
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file, err := project.Load(filepath.Join(d.dir, project.FileName))
	if err != nil {
		return err
	}
	fmt.Fprintln(d.env.Stdout)

	// Whom the server believes, and a database that answers.
	key, database, feeds := filepath.Join(dir, "build"), filepath.Join(dir, "database"), filepath.Join(dir, "osv")
	if err := d.quietly(ctx, "key", "generate", "--no-password", key); err != nil {
		return err
	}
	text := "version: 1\nidentities:\n  build: {key: build.pub}\nrules:\n  - identities: [build]\n    claims: [signature, sbom, provenance, tests, origins]\n    repositories: [\"127.0.0.1:*/**\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "trust.yaml"), []byte(text), 0o644); err != nil {
		return err
	}
	for folder, ecosystem := range demoEcosystems {
		record := fmt.Sprintf(`{"schema_version":"1.7.0","id":"DEMO-%s-1","modified":%q,"affected":[{"package":{"ecosystem":%q,"name":"nobody-has-this"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}`,
			folder, d.env.Now().UTC().Format(time.RFC3339), ecosystem)
		name := filepath.Join(feeds, folder, "DEMO-"+folder+"-1.json")
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(record), 0o644); err != nil {
			return err
		}
	}
	if err := d.quietly(ctx, "vulndb", "import", feeds, "--vulnerabilities", database); err != nil {
		return err
	}
	d.env.Talkf("a database without a vulnerability stands in for a real one: `twinhull vulndb import` fills one")

	c := server.Default()
	if err := server.ReadConfig("demo", []byte(demoServer), dir, &c); err != nil {
		return err
	}
	info, _ := debug.ReadBuildInfo()
	version := "devel"
	if info != nil {
		version = Version(info)
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	doors, ended := make(chan server.Doors, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(serving, c, server.Options{Version: version, Getenv: d.env.Getenv, Stderr: d.env.Stderr, Now: d.env.Now, Listening: func(x server.Doors) { doors <- x }})
	}()
	var at server.Doors
	select {
	case at = <-doors:
	case err := <-ended:
		return cmp.Or(err, errors.New("the server ended at once"))
	}
	d.env.Talkf("$ twinhull serve --data DIR\n%s", at.URL)
	k := &knocking{d: d, base: at.URL, host: at.Host, name: "demo/" + file.Name}
	if err := k.run(ctx, key+".key"); err != nil {
		stop()
		<-ended
		return err
	}
	stop()
	if err := <-ended; err != nil {
		return fmt.Errorf("stopping the server: %w", err)
	}
	// The server is gone: files and key are all there is.
	anchor := filepath.Join(dir, "kept.checkpoint")
	if err := os.WriteFile(anchor, k.anchor, 0o644); err != nil {
		return err
	}
	fmt.Fprintln(d.env.Stdout)
	return d.command(ctx, "audit", "verify", "--log", filepath.Join(c.Data, "log"), "--key", at.LogKey, "--anchor", anchor)
}

// quietly runs a command whose result is of no interest.
func (d *demo) quietly(ctx context.Context, args ...string) error {
	env := *d.env
	env.Stdout, env.Quiet = io.Discard, true
	q := *d
	q.env = &env
	return q.command(ctx, args...)
}

// knocking is the development image at the doors of production.
type knocking struct {
	d                *demo
	base, host, name string
	anchor           []byte // the checkpoint in the release's summary
}

func (k *knocking) run(ctx context.Context, key string) error {
	env := *k.d.env
	env.Dir = k.d.dir
	where := k.host + "/" + k.name
	if err := k.d.command(ctx, "publish", "--to", where, "--key", key); err != nil {
		return err
	}
	dev, err := openClaimed(ctx, &env, "development", "", oci.Platform{})
	if err != nil {
		return err
	}
	prod, err := openClaimed(ctx, &env, "production", "", oci.Platform{})
	if err != nil {
		return err
	}
	if err := k.d.command(ctx, "release", fmt.Sprintf("%s@%s", where, prod.root.Digest), demoVersion); err != nil {
		return err
	}
	if k.anchor, err = anchorOf(ctx, &env, where+":"+demoVersion, nil); err != nil {
		return err
	}
	raw, err := dev.store.ReadBlob(dev.root)
	if err != nil {
		return err
	}

	fmt.Fprintf(k.d.env.Stdout, "\nThe development image at the doors of %s:\n", where)
	// The bytes are there already, in NAME/dev: only the rules stand in the way.
	manifests, candidates := "/v2/"+k.name+"/manifests/", "/v2/"+k.name+"/candidate/manifests/"
	digest := string(dev.root.Digest)
	for _, door := range []struct{ what, method, path string }{
		{"push a layer", http.MethodPost, "/v2/" + k.name + "/blobs/uploads/"},
		{"push it", http.MethodPut, manifests + digest},
		{"tag it as a version", http.MethodPut, manifests + "1.0.1"},
		{"tag it as latest", http.MethodPut, manifests + catalog.Latest},
		{"replace the release", http.MethodPut, manifests + demoVersion},
		{"tag a candidate", http.MethodPut, candidates + catalog.Latest},
		{"delete the version", http.MethodDelete, manifests + demoVersion},
		{"delete the image", http.MethodDelete, manifests + string(prod.root.Digest)},
	} {
		var body []byte
		if door.method == http.MethodPut {
			body = raw
		}
		if err := k.knock(ctx, door.what, door.method, door.path, dev.root.MediaType, body); err != nil {
			return err
		}
	}
	// As a candidate, with every byte that it needs.
	_, err = image.Push(ctx, dev.store, dev.root, oci.Ref{Kind: oci.RegistryRef, Host: k.host, Name: k.name + "/candidate"}, image.PushOptions{MountFrom: []string{k.name + "/dev"}})
	if err == nil {
		return Refusedf("the development image is a candidate")
	}
	k.told("push as a candidate", "refused", reasonIn(err))
	if err := k.release(ctx, dev.root.Digest); err != nil {
		return err
	}

	// And nothing has moved.
	c, err := client.New(k.host, client.Options{})
	if err != nil {
		return err
	}
	tags, err := c.Tags(ctx, k.name)
	if err != nil {
		return err
	}
	for _, t := range tags {
		if t.Digest != prod.root.Digest {
			return Refusedf("%s points to %s", t.Name, t.Digest)
		}
	}
	fmt.Fprintf(k.d.env.Stdout, "\n%d tags of %s point to the production image, as before.\n", len(tags), where)
	return nil
}

// knock makes one request of the protocol and wants a refusal.
func (k *knocking) knock(ctx context.Context, what, method, path, mediaType string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, k.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", mediaType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return err
	}
	if res.StatusCode < 400 || res.StatusCode > 499 {
		return Refusedf("%s: %s %s answers %s", what, method, path, res.Status)
	}
	var out struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	why := ""
	if json.Unmarshal(answer, &out) == nil && len(out.Errors) > 0 {
		why = out.Errors[0].Code + ", " + out.Errors[0].Message
	}
	k.told(what, fmt.Sprint(res.StatusCode), why)
	return nil
}

// reasonIn is what a registry said, without the request that it said it to.
func reasonIn(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, "unexpected status code"); i >= 0 {
		text = text[i:]
	}
	for _, code := range []string{"DENIED: ", "UNSUPPORTED: ", "MANIFEST_INVALID: "} {
		if i := strings.Index(text, code); i >= 0 {
			text = strings.Replace(text[i:], ": ", ", ", 1)
		}
	}
	text, _, _ = strings.Cut(text, "; map[")
	return text
}

func (k *knocking) told(what, answer, why string) {
	fmt.Fprintf(k.d.env.Stdout, "  %-22s %-8s %s\n", what, answer, shorten(strings.Join(strings.Fields(printable(why)), " "), 120))
}

// release asks for the release of the development image, which the gate refuses.
func (k *knocking) release(ctx context.Context, d oci.Digest) error {
	c, err := client.New(k.host, client.Options{})
	if err != nil {
		return err
	}
	_, err = c.Release(ctx, release.Request{ID: release.NewID(), Repository: k.name, Digest: d, Version: "1.0.1"})
	p, ok := errors.AsType[*release.Problem](err)
	if !ok || !p.Refuses() {
		return Refusedf("the development image was not refused: %v", err)
	}
	rules, reasons := 0, 0
	if p.Verdict != nil {
		for _, i := range p.Verdict.Images {
			a, b := i.Verdict.Refusals()
			rules, reasons = rules+a, reasons+b
		}
	}
	k.told("release it", fmt.Sprint(p.Status), fmt.Sprintf("%s: %d rules of the gate refuse it, for %d reasons", p.Reasons[0].Reason, rules, reasons))
	return nil
}
