package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/trust"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

// desk is a project with one built image and a key pair.
type desk struct {
	t     *testing.T
	dir   string
	store *oci.Layout
	image oci.Descriptor
	env   map[string]string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, dir: t.TempDir(), env: map[string]string{"TWINHULL_KEY_PASSWORD": "pw"}}
	d.env["TWINHULL_CACHE_DIR"] = filepath.Join(d.dir, "cache")
	var err error
	if d.store, err = oci.CreateLayout(filepath.Join(d.dir, ".twinhull", "store")); err != nil {
		t.Fatal(err)
	}
	cache, err := image.OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	asOf := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	res, err := (&image.Builder{Cache: cache, Store: d.store}).Build(t.Context(), image.Spec{
		Platform: oci.Platform{OS: "linux", Architecture: "amd64"}, Zone: oci.Production, Title: "shop", Created: asOf,
		Layers: []image.LayerSpec{{Name: "a", Entries: []*filetree.Entry{{Path: "a", Type: '0', Mode: 0o644, Size: 1, Content: filetree.Content{Data: []byte("a")}, Digest: digest.FromString("a")}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.image = res.Manifest
	if err := d.store.SetTag("production", res.Manifest); err != nil {
		t.Fatal(err)
	}
	lock := &project.Lock{Version: 1, Assembler: 1, Project: digest.FromString("asked"), AsOf: asOf}
	o := build.Origins{Version: 1, Image: res.Manifest.Digest, Name: "shop", Zone: oci.Production, AsOf: asOf, Project: lock.Project, Lock: digest.FromBytes(lock.Encode()),
		Platform: oci.Platform{OS: "linux", Architecture: "amd64"}, Packages: []project.Package{},
		Paths: []build.PathOrigin{{Path: "a", Type: "file", Mode: "644", Size: 1, SHA256: digest.FromString("a"), Origin: filetree.Origin{Kind: filetree.FromGenerated, Name: "x", Digest: digest.FromString("a")}}}}
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := referrers.AttachDocument(t.Context(), referrers.InLayout(d.store), res.Manifest, referrers.Blob{MediaType: build.OriginsType, Data: raw}); err != nil {
		t.Fatal(err)
	}
	d.write("twinhull.yaml", "")
	d.write("twinhull.lock", string(lock.Encode()))
	d.do(0, "key", "generate", "k")
	return d
}

func (d *desk) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// do runs a command line of the real table and wants an exit code.
func (d *desk) do(code int, args ...string) string {
	d.t.Helper()
	var out bytes.Buffer
	env := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Dir: d.dir, Now: func() time.Time { return time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC) },
		Getenv: func(n string) string { return d.env[n] }, commands: Commands()}
	if got := report(d.t.Context(), env, dispatch(d.t.Context(), env, args)); got != code {
		d.t.Errorf("%s: exit %d, want %d\n%s", strings.Join(args, " "), got, code, out.String())
	}
	return out.String()
}

func (d *desk) wants(text string, parts ...string) {
	d.t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			d.t.Errorf("%q is not in:\n%s", p, text)
		}
	}
}

// bundle stores a claim with a predicate that no command would sign.
func (d *desk) bundle(predicateType, predicate string) {
	d.t.Helper()
	statement, err := evidence.New("shop", d.image.Digest, predicateType, json.RawMessage(predicate))
	if err != nil {
		d.t.Fatal(err)
	}
	env := &Env{Dir: d.dir, Getenv: func(n string) string { return d.env[n] }}
	signer, err := openSigner(d.t.Context(), env, "k.key")
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := trust.Sign(d.t.Context(), statement, signer)
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := referrers.Attach(d.t.Context(), referrers.InLayout(d.store), d.image, b, predicateType, time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)); err != nil {
		d.t.Fatal(err)
	}
}

func TestClaims(t *testing.T) {
	d := newDesk(t)
	d.wants(d.do(1, "verify", "production", "--key", "k.pub"), "missing", "hint:")
	d.wants(d.do(0, "verify", "production", "--key", "k.pub", "--require", "none"), "CLAIM")
	d.wants(d.do(0, "sign", "production", "--key", "k.key"), string(d.image.Digest)+"  signed")
	d.wants(d.do(0, "sign", "production", "--key", "k.key"), "was signed already")
	d.wants(d.do(0, "attest", "production", "--key", "k.key"), "sbom (SPDX)", "sbom (CycloneDX)", "provenance", "origins")
	d.wants(d.do(0, "attest", "production", "--key", "k.key", "--type", "provenance"), "was signed already")
	out := d.do(0, "verify", "production", "--key", "k.pub", "--require", "signature,sbom", "--require", "provenance,origins")
	if strings.Count(out, "verified") != 5 || strings.Contains(out, "not believed") {
		t.Errorf("verify:\n%s", out)
	}
	// No test report: asked for by name it is missing, else nothing is said.
	d.wants(d.do(1, "attest", "production", "--key", "k.key", "--type", "tests"), "no test results")

	// Another key believes nothing of it.
	d.do(0, "key", "generate", "--type", "ed25519", "other")
	d.wants(d.do(1, "verify", "production", "--key", "other.pub"), "not believed: signed with key")

	// A trust policy narrows what is believed.
	d.write("trust.yaml", "version: 1\nidentities: {release: {key: k.pub}}\nrules:\n  - {identities: [release], claims: [signature], repositories: [registry.example/shop]}\n")
	d.wants(d.do(1, "verify", "production", "--trust", "trust.yaml"), "in no registry")
	d.wants(d.do(0, "verify", "production", "--trust", "trust.yaml", "--repository", "registry.example/shop"), "release", "may not make sbom claims")
	d.wants(d.do(1, "verify", "production", "--trust", "trust.yaml", "--repository", "registry.example/shop", "--require", "sbom"), "no believed claim of kind sbom")
	d.wants(d.do(1, "verify", "production", "--trust", "trust.yaml", "--repository", "registry.example/shop/dev"), "may not make signature claims about registry.example/shop/dev")

	var reports []verifyReport
	if err := json.Unmarshal([]byte(d.do(0, "verify", "production", "--key", "k.pub", "--output", "json")), &reports); err != nil {
		t.Fatal(err)
	}
	if len(reports) != 1 || !reports[0].Verified || len(reports[0].Claims) != 5 || reports[0].Claims[0].Claim != "signature" {
		t.Errorf("%+v", reports)
	}
}

func TestReplayedClaims(t *testing.T) {
	d := newDesk(t)
	d.do(0, "sign", "production", "--key", "k.key")
	p := referrers.InLayout(d.store)
	found, err := referrers.Claims(t.Context(), p, d.image.Digest)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	// The same bundle beside another image: as the development image's claims
	// would be copied to the production image.
	other, err := d.store.PutBytes(d.image.MediaType, append(readAll(t, d.store, d.image), '\n'))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.store.SetTag("other", other); err != nil {
		t.Fatal(err)
	}
	if _, err := referrers.Attach(t.Context(), p, other, found[0].Bundle, evidence.TypeSignature, time.Now()); err != nil {
		t.Fatal(err)
	}
	d.wants(d.do(1, "verify", "oci:.twinhull/store:other", "--key", "k.pub"), "not believed: the claim is about "+string(d.image.Digest))
}

func readAll(t *testing.T, l *oci.Layout, desc oci.Descriptor) []byte {
	t.Helper()
	b, err := l.ReadBlob(desc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOwnPredicates(t *testing.T) {
	d := newDesk(t)
	vexDoc := `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://x.test/1","author":"a","timestamp":"2026-11-01T00:00:00Z","version":1,"statements":[{"vulnerability":{"name":"CVE-1"},"status":"fixed","products":[{"@id":"` + string(d.image.Digest) + `"}]}]}`
	d.write("vex.json", vexDoc)
	d.write("bad.json", `{"@context":"x"}`)
	d.write("own.json", `{"hello":"world"}`)
	d.write("twice.json", `{"hello":1,"hello":2}`)
	d.write("list.json", `[]`)
	d.do(0, "attest", "production", "--key", "k.key", "--type", "vex", "--predicate", "vex.json")
	d.do(0, "attest", "production", "--key", "k.key", "--type", "https://example.test/own", "--predicate", "own.json")
	d.wants(d.do(0, "verify", "production", "--key", "k.pub", "--require", "vex,https://example.test/own"), "openvex", "example.test/own")
	for _, c := range []struct {
		code int
		args string
		want string
	}{
		{1, "--type vex --predicate bad.json", "@context"},
		{1, "--type sbom --predicate own.json", "CycloneDX"},
		{1, "--type https://example.test/own --predicate twice.json", "duplicate"},
		{1, "--type https://example.test/own --predicate list.json", "no JSON object"},
		{2, "--type nothing --predicate own.json", "unknown claim"},
		{2, "--type origins --predicate own.json", "URI"},
		{2, "--predicate own.json", "needs one --type"},
		{2, "--type nothing", "unknown claim"},
		{1, "--type vex", "knows nothing of kind vex"},
		{1, "--type provenance --predicate missing.json", "no such file"},
	} {
		d.wants(d.do(c.code, append([]string{"attest", "production", "--key", "k.key"}, strings.Fields(c.args)...)...), c.want)
	}
	d.env["TWINHULL_KEY_PASSWORD"] = "wrong"
	d.wants(d.do(1, "sign", "production", "--key", "k.key"), "password", "TWINHULL_KEY_PASSWORD")
	delete(d.env, "TWINHULL_KEY_PASSWORD")
	d.env["COSIGN_PASSWORD"] = "pw"
	d.do(0, "sign", "production", "--key", "k.key")
	delete(d.env, "COSIGN_PASSWORD")
	d.wants(d.do(2, "key", "generate", "third"), "--no-password")
	d.do(0, "key", "generate", "--no-password", "third")
	d.do(0, "sign", "production", "--key", "third.key")
	d.wants(d.do(1, "key", "generate", "--no-password", "third"), "is there already")
	fi, err := os.Stat(filepath.Join(d.dir, "third.key"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v", fi.Mode(), err)
	}
	for _, c := range []struct {
		code int
		args string
		want string
	}{
		{2, "sign production", "nobody would sign"},
		{2, "verify production", "nobody is believed by default"},
		{2, "verify production --key k.pub --trust trust.yaml", "either"},
		{2, "verify production --key k.pub --require nonsense", "unknown claim"},
		{2, "verify docker-archive:x.tar --key k.pub", "no claims"},
		{2, "verify production --key k.pub --output xml", "table or json"},
		{1, "verify development --key k.pub", "no development image"},
		{1, "sign production --key nokms://key", "sigstore-kms-nokms"},
		{3, "verify oci:nowhere --key k.pub", "no OCI image layout"},
		{1, "verify production --key k.key", "PUBLIC KEY"},
	} {
		d.wants(d.do(c.code, strings.Fields(c.args)...), c.want)
	}
}

// TestRequiredResults: a summary or a test result that is there and believed and
// says that the image is bad is no pass.
func TestRequiredResults(t *testing.T) {
	attest := func(d *desk, kind, text string) {
		t.Helper()
		d.write("p.json", text)
		d.do(0, "attest", "production", "--key", "k.key", "--type", kind, "--predicate", "p.json")
	}
	verdict := func(passed bool, day int, reasons ...string) string {
		t.Helper()
		p, err := summary.Make(summary.Input{Time: time.Date(2026, 11, day, 0, 0, 0, 0, time.UTC), Repository: "registry.example/shop", Policy: digest.FromString("policy"), Passed: passed, Reasons: reasons})
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	verify := func(d *desk, code int, kind string, more ...string) string {
		t.Helper()
		return d.do(code, append([]string{"verify", "production", "--key", "k.pub", "--require", kind}, more...)...)
	}
	d := newDesk(t)
	attest(d, "summary", verdict(false, 2, "shell: /bin/sh", "editor: vi"))
	d.wants(verify(d, 1, "summary"), "verified, FAILED for oci://registry.example/shop", "error: the summary claim that key signed: the verification result is FAILED: shell: /bin/sh (and 1 more)")
	d.wants(verify(d, 1, evidence.TypeSummary), "FAILED")
	d.wants(verify(d, 0, "none"), "verified, FAILED")
	// Judged again, the later verdict counts, whatever the order of storing.
	attest(d, "summary", verdict(true, 3))
	d.wants(verify(d, 0, "summary"), "verified, PASSED for oci://registry.example/shop")
	attest(d, "summary", verdict(true, 1))
	verify(d, 0, "summary")
	attest(d, "summary", verdict(false, 4))
	verify(d, 1, "summary")
	attest(d, "summary", verdict(true, 4))
	verify(d, 1, "summary") // of one moment: the worse one
	// What nobody is believed to have signed does not speak against it.
	d.do(0, "key", "generate", "stranger")
	attest(d, "summary", verdict(true, 5))
	d.write("p.json", verdict(false, 6))
	d.do(0, "attest", "production", "--key", "stranger.key", "--type", "summary", "--predicate", "p.json")
	verify(d, 0, "summary")

	d = newDesk(t)
	attest(d, "tests", `{"result":"PASSED","configuration":[],"twinhull_tests":{"tests":3,"passed":3,"failed":0,"skipped":0}}`)
	d.wants(verify(d, 0, "tests"), "verified, PASSED")
	attest(d, "tests", `{"result":"PASSED","configuration":[],"twinhull_tests":{"tests":3,"passed":0,"failed":0,"skipped":3}}`)
	d.wants(verify(d, 1, "tests"), "verified, PASSED, but no test passed", "error: the tests claim that key signed: no test passed")
	d = newDesk(t)
	attest(d, "tests", `{"result":"FAILED","configuration":[],"twinhull_tests":{"tests":3,"passed":2,"failed":1,"skipped":0}}`)
	d.wants(verify(d, 1, "tests,sbom"), "verified, FAILED", "1 of 3 tests failed; no believed claim of kind sbom")
	var reports []verifyReport
	text, _, _ := strings.Cut(verify(d, 1, "tests", "--output", "json"), "error:")
	if err := json.Unmarshal([]byte(text), &reports); err != nil {
		t.Fatal(err)
	}
	if len(reports) != 1 || reports[0].Verified || len(reports[0].Against) != 1 || reports[0].Claims[0].Result != "FAILED" {
		t.Errorf("%+v", reports)
	}
	// One that is believed and cannot be read is no pass either.
	d = newDesk(t)
	attest(d, "tests", `{"result":"PASSED","configuration":[],"passedTests":["a"]}`)
	verify(d, 0, "tests")
	d.bundle(evidence.TypeTests, `{"result":"FINE"}`)
	d.wants(verify(d, 1, "tests"), "the claim is signed, but it cannot be read")
}

// TestMissingDocument: a claim whose document is gone proves nothing.
func TestMissingDocument(t *testing.T) {
	d := newDesk(t)
	d.do(0, "attest", "production", "--key", "k.key", "--type", "origins")
	d.do(0, "verify", "production", "--key", "k.pub", "--require", "origins")
	o, err := build.ReadOrigins(d.store, d.image.Digest)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	path, err := d.store.BlobPath(digest.FromBytes(raw))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	d.wants(d.do(1, "verify", "production", "--key", "k.pub", "--require", "origins"), "its document cannot be read")
}
