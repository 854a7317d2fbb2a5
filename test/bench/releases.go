package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// releases is how many versions of one candidate are released.
const releases = 12

var publishedDigest = regexp.MustCompile(`twinhull release \S+@(sha256:[0-9a-f]{64})`)

// servedRelease measures the release of a candidate that its gate lets through,
// over HTTP: the node example's production image with all its claims, once as the
// server meets it for the first time, then as further versions.
func (l *lab) servedRelease(ctx context.Context) error {
	id := "registry.release"
	if !l.wants(id) {
		return nil
	}
	dir := l.path("release")
	key := filepath.Join(dir, "build")
	if err := l.believed(ctx, dir, key); err != nil {
		return err
	}
	r, err := l.start(ctx, product{command: func(data string, port int) ([]string, error) {
		file := filepath.Join(dir, "registry.yaml")
		text := fmt.Sprintf(`version: 1
listen: %q
data: %q
access:
  grants:
    - to: [anybody]
      may: [pull, push:development, push:candidate, release]
      repositories: ["**"]
retention:
  every: 0s
release:
  trust: %q
  vulnerabilities: %q
`, loopback(port), filepath.Join(data, "data"), filepath.Join(dir, "trust.yaml"), filepath.Join(dir, "database"))
		return []string{twinhullProgram, "serve", "--config", file}, os.WriteFile(file, []byte(text), 0o644)
	}})
	if err != nil {
		return err
	}
	defer r.stop()
	if _, _, err := l.node.build(ctx, l.warm()); err != nil {
		return err
	}
	const name = "bench/released"
	o, err := run(ctx, l.node.command(l.warm(), "publish", "--to", strings.TrimPrefix(r.base, "http://")+"/"+name, "--key", key+".key"))
	if err != nil {
		return err
	}
	text := string(o.stdout)
	for _, line := range o.lines {
		text += line.text + "\n"
	}
	m := publishedDigest.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("publish says no command for the release:\n%s", text)
	}
	var took []float64
	for i := range releases {
		seconds, err := r.release(ctx, name, m[1], fmt.Sprintf("1.0.%d", i))
		if err != nil {
			return err
		}
		l.say("release: %.0f ms", seconds*1000)
		took = append(took, seconds*1000)
	}
	first := took[0]
	row := &Row{ID: id, What: "release of a candidate of the node example", Unit: "ms", Table: "registry", Ours: &Figure{Median: median(took[1:]), Runs: took[1:]}}
	row.Target, row.meets = "< 200 ms", func(r *Row) bool { return r.Ours.Median < 200 && first < 200 }
	row.Notes = append(row.Notes, fmt.Sprintf("over HTTP, to the answer: gate, summary signed, image and claims present in production, tags, log entry durable; the first release took %.0f ms, further versions of the same image %.0f ms (median of %d). publish has the gate judge the candidate, which reads its layers; what it found is kept by digest", first, row.Ours.Median, len(took)-1))
	l.results.add(row)
	return nil
}

// believed makes what a server must know to release: whose claims count, and a
// database of vulnerabilities, with nothing in it that the image has.
func (l *lab) believed(ctx context.Context, dir, key string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for folder, ecosystem := range map[string]string{"Debian": "Debian:13", "Bookworm": "Debian:12", "npm": "npm", "Go": "Go", "PyPI": "PyPI"} {
		record := fmt.Sprintf(`{"schema_version":"1.7.0","id":"BENCH-%s-1","modified":%q,"affected":[{"package":{"ecosystem":%q,"name":"nobody-has-this"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}`,
			folder, time.Now().UTC().Format(time.RFC3339), ecosystem)
		at := filepath.Join(dir, "feeds", folder)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(at, "BENCH-"+folder+"-1.json"), []byte(record), 0o644); err != nil {
			return err
		}
	}
	trust := "version: 1\nidentities:\n  build: {key: build.pub}\nrules:\n  - identities: [build]\n    claims: [signature, sbom, provenance, tests, origins]\n    repositories: [\"127.0.0.1:*/**\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "trust.yaml"), []byte(trust), 0o644); err != nil {
		return err
	}
	if _, err := l.node.twinhull(ctx, l.warm(), "key", "generate", "--no-password", key); err != nil {
		return err
	}
	_, err := l.node.twinhull(ctx, l.warm(), "vulndb", "import", filepath.Join(dir, "feeds"), "--vulnerabilities", filepath.Join(dir, "database"))
	return err
}

// release asks for one and says how long the answer took, in seconds.
func (r *running) release(ctx context.Context, repository, digest, version string) (float64, error) {
	body, err := json.Marshal(map[string]string{"repository": repository, "digest": digest, "version": version})
	if err != nil {
		return 0, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/twinhull/v1/release", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	q.Header.Set("Content-Type", "application/json")
	began := time.Now()
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	seconds := time.Since(began).Seconds()
	if err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("release of %s: %s: %.2000s", version, resp.Status, text)
	}
	return seconds, err
}
