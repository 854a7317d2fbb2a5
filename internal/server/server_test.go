package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/access"
	"twinhull.dev/twinhull/internal/trust"
)

// running is a server that a test talks to.
type running struct {
	t     *testing.T
	doors Doors
	log   *safeBuffer
	stop  func() error // and waits
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// testSigner is a key that costs nothing to open.
var testSigner = sync.OnceValue(func() *trust.Key {
	k, err := trust.Generate(trust.ECDSA)
	if err != nil {
		panic(err)
	}
	return k
})

func testOptions() Options { return Options{signer: testSigner()} }

func start(t *testing.T, c Config, opt Options) *running {
	t.Helper()
	opt.signer = testSigner()
	r := &running{t: t, log: &safeBuffer{}}
	opt.Stderr = r.log
	opt.Getenv = func(string) string { return "" }
	ready := make(chan Doors, 1)
	opt.Listening = func(d Doors) { ready <- d }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c, opt) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the server ended with %v\n%s", err, r.log)
		}
	})
	select {
	case r.doors = <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("the server did not start: %v\n%s", err, r.log)
	}
	return r
}

func config(t *testing.T) Config {
	c := Default()
	c.Data, c.Listen, c.Log.Level = t.TempDir(), "127.0.0.1:0", "debug"
	c.Retention.Every = 0
	return c
}

// do sends one request and returns the status, the body and the header.
func (r *running) do(method, path, token, contentType string, body []byte) (int, string, http.Header) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.doors.URL+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// pushBlob uploads a blob in one request and returns the status.
func (r *running) pushBlob(repository, token string, content []byte) int {
	r.t.Helper()
	code, _, _ := r.do("POST", "/v2/"+repository+"/blobs/uploads/?digest="+string(digest.FromBytes(content)), token, "application/octet-stream", content)
	return code
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// artifact is a manifest that every catalog but production takes: it refers to
// one blob, which it returns too.
func artifact(text string) (manifest, blob []byte) {
	blob = []byte(text)
	manifest, _ = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "artifactType": "application/vnd.example.note",
		"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest.FromString("{}"), "size": 2},
		"layers": []any{map[string]any{"mediaType": "text/plain", "digest": digest.FromBytes(blob), "size": len(blob)}},
	})
	return manifest, blob
}

// push pushes an artifact under a tag, or by its digest for "", and returns the
// status of the first thing that was refused, or of the last.
func (r *running) push(repository, tag, token, text string) int {
	r.t.Helper()
	m, blob := artifact(text)
	for _, b := range [][]byte{blob, []byte("{}")} {
		if code := r.pushBlob(repository, token, b); code != http.StatusCreated {
			return code
		}
	}
	if tag == "" {
		tag = string(digest.FromBytes(m))
	}
	code, _, _ := r.do("PUT", "/v2/"+repository+"/manifests/"+tag, token, manifestType, m)
	return code
}

func TestServe(t *testing.T) {
	c := config(t)
	c.Access.AnonymousDevelopment = true
	r := start(t, c, Options{})
	if code := r.push("shop/api/dev", "main", "", "hello"); code != http.StatusCreated {
		t.Fatalf("push: %d\n%s", code, r.log)
	}
	m, blob := artifact("hello")
	if code, body, _ := r.do("GET", "/v2/shop/api/dev/manifests/main", "", "", nil); code != 200 || body != string(m) {
		t.Errorf("pull: %d %s", code, body)
	}
	if code, body, _ := r.do("GET", "/v2/shop/api/dev/blobs/"+string(digest.FromBytes(blob)), "", "", nil); code != 200 || body != "hello" {
		t.Errorf("pull of a blob: %d %s", code, body)
	}
	// The other doors are closed, and production says why.
	if code := r.push("shop/api/candidate", "", "", "hello"); code != http.StatusUnauthorized {
		t.Errorf("a candidate by a stranger: %d", code)
	}
	code, body, _ := r.do("PUT", "/v2/shop/api/manifests/1.0.0", "", manifestType, m)
	if code != http.StatusForbidden || !strings.Contains(body, string(registry.ByReleaseOnly)) {
		t.Errorf("production by hand: %d %s", code, body)
	}
	if code, _, _ := r.do("GET", "/v2/", "", "", nil); code != 200 {
		t.Errorf("ping where nobody can sign in: %d", code)
	}
	if code, body, _ := r.do("GET", "/v2/_catalog", "", "", nil); code != 200 || !strings.Contains(body, "shop/api/dev") {
		t.Errorf("catalog: %d %s", code, body)
	}
	if code, body, _ := r.do("GET", "/healthz", "", "", nil); code != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %s", code, body)
	}
	if code, body, _ := r.do("GET", "/readyz", "", "", nil); code != 200 {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, _, h := r.do("GET", "/metrics", "", "", nil); code != 401 || h.Get("WWW-Authenticate") != access.Challenge {
		t.Errorf("metrics for strangers: %d %v", code, h)
	}
	if code, body, _ := r.do("GET", "/twinhull/v1/key", "", "", nil); code != 200 || !strings.HasPrefix(body, "-----BEGIN PUBLIC KEY-----") {
		t.Errorf("key: %d %s", code, body)
	}
	if code, _, _ := r.do("GET", "/twinhull/v1/log/checkpoint", "", "", nil); code != 401 {
		t.Errorf("the log for strangers: %d", code)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	// All of it is there after a restart.
	r = start(t, c, Options{})
	if code, body, _ := r.do("GET", "/v2/shop/api/dev/manifests/main", "", "", nil); code != 200 || body != string(m) {
		t.Errorf("after a restart: %d %s", code, body)
	}
}

func TestNothingIsServedByDefault(t *testing.T) {
	r := start(t, config(t), Options{})
	for _, repository := range []string{"a/dev", "a/candidate", "a"} {
		if code := r.push(repository, "x", "", "hello"); code != http.StatusUnauthorized {
			t.Errorf("push to %s: %d", repository, code)
		}
		if code, _, _ := r.do("GET", "/v2/"+repository+"/tags/list", "", "", nil); code != http.StatusUnauthorized {
			t.Errorf("pull from %s: %d", repository, code)
		}
	}
	if len(r.doors.Open) > 0 {
		t.Errorf("open: %q", r.doors.Open)
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	c := config(t)
	start(t, c, Options{})
	if _, err := Open(t.Context(), c, testOptions()); err == nil || !strings.Contains(err.Error(), "another server uses this folder") {
		t.Errorf("%v", err)
	}
}

// roles are the tokens that doc/threat-model.md has lines for.
var roles = map[string][]string{
	"reader":    {"pull"},
	"developer": {"push:development", "delete:development"},
	"builder":   {"push:candidate"},
	"releaser":  {"release", "roll-back"},
	"revoker":   {"revoke"},
	"eraser":    {"erase"},
	"operator":  {"operate", "audit", "pin"},
}

func withRoles(c Config) Config {
	for name, may := range roles {
		c.Access.Tokens = append(c.Access.Tokens, access.Token{Name: name, SHA256: sha256.Sum256([]byte("secret-" + name))})
		g := access.Grant{To: []string{"token:" + name}, Repositories: []string{"**"}}
		for _, m := range may {
			s, err := access.ParseScope(m)
			if err != nil {
				panic(err)
			}
			g.May = append(g.May, s)
		}
		c.Access.Grants = append(c.Access.Grants, g)
	}
	return c
}

// TestStolenCredentials is the table of doc/threat-model.md against a running
// server: what each token can do, and that it can do nothing else.
func TestStolenCredentials(t *testing.T) {
	r := start(t, withRoles(config(t)), Options{})
	// Something to read, to delete and to release.
	if code := r.push("shop/api/dev", "main", "secret-developer", "hello"); code != 201 {
		t.Fatal(code)
	}
	if code := r.push("shop/api/candidate", "", "secret-builder", "hello"); code != 201 {
		t.Fatal(code)
	}
	m, blob := artifact("hello")
	d := string(digest.FromBytes(m))
	const none = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
	post := func(path, body string) func(token string) (int, string) {
		return func(token string) (int, string) {
			code, text, _ := r.do("POST", "/twinhull/v1/"+path, token, "application/json", []byte(body))
			return code, text
		}
	}
	v2 := func(method, path string, body []byte) func(token string) (int, string) {
		return func(token string) (int, string) {
			code, text, _ := r.do(method, path, token, manifestType, body)
			return code, text
		}
	}
	acts := []struct {
		name string
		do   func(token string) (int, string)
		who  []string // are let in; the rest is refused with 401 or 403
		then []int    // what those who are let in get: the rules go on refusing
	}{
		{"read development", v2("GET", "/v2/shop/api/dev/manifests/main", nil), []string{"reader", "developer"}, []int{200}},
		{"read candidates", v2("GET", "/v2/shop/api/candidate/manifests/"+d, nil), []string{"reader", "builder"}, []int{200}},
		{"read production", v2("GET", "/v2/shop/api/tags/list", nil), []string{"reader"}, []int{404}},
		{"write development", v2("PUT", "/v2/shop/api/dev/manifests/main", m), []string{"developer"}, []int{201}},
		{"write a blob of development", v2("POST", "/v2/shop/api/dev/blobs/uploads/?digest="+string(digest.FromBytes(blob)), blob), []string{"developer"}, []int{201}},
		{"write a candidate", v2("PUT", "/v2/shop/api/candidate/manifests/"+d, m), []string{"builder"}, []int{201}},
		{"tag a candidate", v2("PUT", "/v2/shop/api/candidate/manifests/1.0.0", m), []string{"builder"}, []int{403}},
		{"write production", v2("PUT", "/v2/shop/api/manifests/1.0.0", m), []string{"developer", "builder", "releaser", "revoker", "eraser"}, []int{403}},
		{"upload to production", v2("POST", "/v2/shop/api/blobs/uploads/", nil), []string{"developer", "builder", "releaser", "revoker", "eraser"}, []int{403}},
		{"delete in production", v2("DELETE", "/v2/shop/api/manifests/"+d, nil), []string{"developer", "builder", "releaser", "revoker", "eraser"}, []int{405}},
		{"delete a candidate", v2("DELETE", "/v2/shop/api/candidate/manifests/"+none, nil), nil, nil},
		{"delete in development", v2("DELETE", "/v2/shop/api/dev/manifests/gone", nil), []string{"developer"}, []int{404}},
		{"release", post("release", `{"repository":"shop/api","digest":"`+none+`","version":"1.0.0"}`), []string{"releaser"}, []int{404, 422}},
		{"revoke", post("revoke", `{"repository":"shop/api","digest":"`+none+`","reason":"stolen"}`), []string{"revoker"}, []int{400, 404, 409, 422}},
		{"roll back", post("rollback", `{"repository":"shop/api","orders":[]}`), []string{"releaser"}, []int{400, 403, 422}},
		{"erase", post("erase", `{"repository":"shop/api","orders":[]}`), []string{"eraser"}, []int{400, 403, 422}},
		{"pin", post("pin", `{"repository":"shop/api/dev","reference":"main","pinned":true}`), []string{"operator"}, []int{200}},
		{"collect", post("collect", `{"dryRun":true}`), []string{"operator"}, []int{200}},
		{"read the audit log", v2("GET", "/twinhull/v1/log/checkpoint", nil), []string{"operator"}, []int{200}},
		{"read metrics", v2("GET", "/metrics", nil), []string{"operator"}, []int{200}},
	}
	for _, act := range acts {
		for name := range roles {
			code, body := act.do("secret-" + name)
			if slices.Contains(act.who, name) {
				if !slices.Contains(act.then, code) {
					t.Errorf("%s: %s: %d %s, want %d", act.name, name, code, body, act.then)
				}
				continue
			}
			if code != http.StatusForbidden || strings.Contains(body, string(registry.ByReleaseOnly)) {
				t.Errorf("%s: %s is not refused by access: %d %s", act.name, name, code, body)
			}
		}
		for _, nobody := range []string{"", "secret-nobody"} {
			if code, body := act.do(nobody); code != http.StatusUnauthorized {
				t.Errorf("%s: with token %q: %d %s", act.name, nobody, code, body)
			}
		}
	}
	// Nothing of all this got anything into production.
	if code, body, _ := r.do("GET", "/v2/shop/api/tags/list", "secret-reader", "", nil); code != 404 {
		t.Errorf("production has something: %d %s", code, body)
	}
	if code, _, h := r.do("GET", "/v2/", "", "", nil); code != 401 || h.Get("WWW-Authenticate") != access.Challenge {
		t.Errorf("ping: %d", code)
	}
	if code, _, _ := r.do("GET", "/v2/", "secret-reader", "", nil); code != 200 {
		t.Errorf("ping with a token: %d", code)
	}
	for name := range roles {
		if strings.Contains(r.log.String(), "secret-"+name) {
			t.Errorf("the token of %s is in the log", name)
		}
	}
	if !strings.Contains(r.log.String(), "token:releaser") {
		t.Error("the log does not say who asked")
	}
}

func TestWhatRunsIsInTheLog(t *testing.T) {
	c := config(t)
	entries := func() (out []audit.Entry) {
		s, err := Open(t.Context(), c, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.entries(t.Context(), 0, func(_ uint64, e audit.Entry) error { out = append(out, e); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	count := func(all []audit.Entry) (n int) {
		for _, e := range all {
			if (e.Action == audit.PolicyChange || e.Action == audit.KeyChange) && e.Detail["use"] != "log" {
				n++
			}
		}
		return n
	}
	c.Listen = "127.0.0.1:0"
	first := count(entries())
	if first < 3 {
		t.Errorf("the first start tells of %d things", first)
	}
	// The port changes with every start of this test, and so does what the log is
	// told of the configuration: nothing else may.
	c.Hosts = []string{"registry.example"}
	before := count(entries())
	if again := count(entries()); again-before > 1 {
		t.Errorf("a start without a change tells %d things", again-before)
	}
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte("version: 1\nname: strict\ncoverage: 95\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Release.Policy = policy
	all := entries()
	last := all[len(all)-1]
	if last.Action != audit.PolicyChange || last.Policy == "" || last.Detail["policyBefore"] == "" {
		t.Errorf("after another policy: %+v", last)
	}
	if err := os.Remove(filepath.Join(c.Data, "keys", "server.key")); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range entries() {
		found = found || e.Action == audit.KeyChange && e.Detail["keyBefore"] != ""
	}
	if !found {
		t.Error("another key is not in the log")
	}
}

func TestServerKey(t *testing.T) {
	env := func(password string) func(string) string {
		return func(name string) string {
			if name == passwordVariable {
				return password
			}
			return ""
		}
	}
	for _, password := range []string{"", "secret"} {
		c := config(t)
		first, made, err := openKey(t.Context(), c, env(password))
		if err != nil || !made {
			t.Fatalf("made %v, %v", made, err)
		}
		again, made, err := openKey(t.Context(), c, env(password))
		if err != nil || made {
			t.Fatalf("opened again: made %v, %v", made, err)
		}
		a, _ := trust.KeyID(first.PublicKey())
		if b, _ := trust.KeyID(again.PublicKey()); a != b {
			t.Error("another key")
		}
		path := filepath.Join(c.Data, "keys", "server.key")
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", fi, err)
		}
		sig, err := again.Sign(t.Context(), []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte("message"))
		shown, err := os.ReadFile(filepath.Join(c.Data, "keys", "server.pub"))
		if err != nil {
			t.Fatal(err)
		}
		public, err := trust.ReadPublic(shown)
		if err != nil || !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), sum[:], sig) {
			t.Errorf("server.pub does not verify: %v", err)
		}
		if password != "" {
			if _, _, err := openKey(t.Context(), c, env("")); err == nil {
				t.Error("opened without its password")
			}
		}
	}
}

func TestRulesAreReadAgain(t *testing.T) {
	c := config(t)
	c.Release.Policy = filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(c.Release.Policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("version: 1\ncoverage: 90\n")
	s, err := Open(t.Context(), c, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	one, err := s.rules.now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	size, _ := s.audit.Size(t.Context())
	write("version: 1\ncoverage: 91\n")
	two, err := s.rules.now(t.Context())
	if err != nil || one.Policy.Digest() == two.Policy.Digest() {
		t.Errorf("the policy was not read again: %v", err)
	}
	if n, _ := s.audit.Size(t.Context()); n != size+1 {
		t.Errorf("the log has %d entries more", n-size)
	}
	write("version: 1\ncoverage: many\n")
	if _, err := s.rules.now(t.Context()); err == nil {
		t.Error("judged by a policy that cannot be read")
	}
}

func TestAccessIsReadAgain(t *testing.T) {
	c := config(t)
	c.Access.AnonymousDevelopment = true
	next := c
	var mu sync.Mutex
	again := make(chan struct{})
	r := start(t, c, Options{Again: again, Reload: func() (Config, error) {
		mu.Lock()
		defer mu.Unlock()
		return next, nil
	}})
	if code := r.push("a/dev", "x", "", "hello"); code != 201 {
		t.Fatal(code)
	}
	mu.Lock()
	next.Access.AnonymousDevelopment = false
	mu.Unlock()
	again <- struct{}{}
	again <- struct{}{} // the first has been dealt with when the second is taken
	if code := r.push("a/dev", "x", "", "hello"); code != 401 {
		t.Errorf("after the door was closed: %d", code)
	}
	mu.Lock()
	next.Listen = "nonsense"
	next.Access.AnonymousDevelopment = true
	mu.Unlock()
	again <- struct{}{}
	again <- struct{}{}
	if code := r.push("a/dev", "x", "", "hello"); code != 401 {
		t.Errorf("a configuration that cannot be was used: %d", code)
	}
}

func TestUsersAreReadAgain(t *testing.T) {
	c := config(t)
	c.Access.Users = filepath.Join(t.TempDir(), "users")
	// bcrypt of "a", cost 10
	line := "alice:$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy\n"
	if err := os.WriteFile(c.Access.Users, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), c, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	had := s.guard.Load()
	s.refresh()
	if s.guard.Load() != had {
		t.Error("read again without a change")
	}
	if err := os.WriteFile(c.Access.Users, []byte("alice:plain\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.refresh()
	if s.guard.Load() != had {
		t.Error("a broken file is used")
	}
	if err := os.WriteFile(c.Access.Users, []byte("# nobody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.refresh()
	if s.guard.Load() == had || s.guard.Load().Knows() {
		t.Error("not read again")
	}
}

// pair writes a self-signed certificate for 127.0.0.1.
func pair(t *testing.T, files TLS, name string, expires time.Time) *x509.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: expires,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{files.Certificate: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestTLS(t *testing.T) {
	c := config(t)
	dir := t.TempDir()
	c.TLS = TLS{filepath.Join(dir, "crt"), filepath.Join(dir, "key")}
	first := pair(t, c.TLS, "first", time.Now().Add(time.Hour))
	r := start(t, c, Options{})
	if !strings.HasPrefix(r.doors.URL, "https://") {
		t.Fatal(r.doors.URL)
	}
	ask := func(root *x509.Certificate, max uint16) error {
		pool := x509.NewCertPool()
		pool.AddCert(root)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MaxVersion: max}}}
		defer client.CloseIdleConnections()
		resp, err := client.Get(r.doors.URL + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := ask(first, 0); err != nil {
		t.Error(err)
	}
	if err := ask(first, tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	if resp, err := http.Get("http://" + strings.TrimPrefix(r.doors.URL, "https://") + "/healthz"); err == nil {
		resp.Body.Close()
		if resp.StatusCode == 200 {
			t.Error("plain HTTP is answered")
		}
	}
}

func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	files := TLS{filepath.Join(dir, "crt"), filepath.Join(dir, "key")}
	pair(t, files, "first", time.Now().Add(time.Hour))
	var log bytes.Buffer
	c, err := newCertificate(files, slog.New(slog.NewTextHandler(&log, nil)), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	serves := func() string { return c.have.Load().Leaf.Subject.CommonName }
	c.refresh()
	if serves() != "first" || log.Len() > 0 {
		t.Errorf("%s\n%s", serves(), &log)
	}
	// The certificate without its key yet: the old one stays, and the next look
	// finds both.
	second := TLS{filepath.Join(dir, "crt2"), filepath.Join(dir, "key2")}
	pair(t, second, "second", time.Now().Add(time.Hour))
	if err := os.Rename(second.Certificate, files.Certificate); err != nil {
		t.Fatal(err)
	}
	c.refresh()
	if serves() != "first" || !strings.Contains(log.String(), "the old one stays") {
		t.Errorf("half of a pair: %s\n%s", serves(), &log)
	}
	if err := os.Rename(second.Key, files.Key); err != nil {
		t.Fatal(err)
	}
	c.refresh()
	if serves() != "second" {
		t.Errorf("%s\n%s", serves(), &log)
	}
	pair(t, files, "expired", time.Now().Add(-time.Hour))
	c.refresh()
	if serves() != "second" {
		t.Error("an expired certificate is used")
	}
	os.Remove(files.Key)
	c.refresh()
	if serves() != "second" {
		t.Error("the certificate is gone with its file")
	}
	if _, err := newCertificate(files, slog.New(slog.DiscardHandler), time.Now); err == nil {
		t.Error("a server starts without its key")
	}
}

func TestMetrics(t *testing.T) {
	c := withRoles(config(t))
	c.Metrics = "127.0.0.1:0"
	r := start(t, c, Options{Version: "1.2.3"})
	if code := r.push("a/dev", "x", "secret-developer", "hello"); code != 201 {
		t.Fatal(code)
	}
	r.do("DELETE", "/v2/a/manifests/latest", "secret-developer", "", nil)
	r.do("BREW", "/v2/", "", "", nil)
	text := metricsOf(t, r)
	for _, want := range []string{
		`twinhull_requests_total{code="201",method="PUT",route="put-manifest"} 1`,
		`twinhull_requests_total{code="405",method="DELETE",route="delete-tag"} 1`,
		`method="other"`,
		`twinhull_received_bytes_total{route="push-blob"} 7`,
		`twinhull_request_seconds_count{route="push-blob"} 2`,
		`twinhull_decisions_total{action="refuse-delete",verdict="refused"} 1`,
		`twinhull_build_info{version="1.2.3"} 1`,
		"twinhull_audit_entries ", "twinhull_disk_free_bytes ", "twinhull_requests_active ", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	if code, _, _ := r.do("GET", "/metrics", "secret-operator", "", nil); code != 200 {
		t.Errorf("metrics for the operator: %d", code)
	}
}

// TestShutdown: a request that runs when the server is told to stop ends well.
func TestShutdown(t *testing.T) {
	c := config(t)
	c.Access.AnonymousDevelopment, c.Metrics = true, "127.0.0.1:0"
	r := start(t, c, Options{})
	pr, pw := io.Pipe()
	content := []byte("a slow upload")
	req, err := http.NewRequest("POST", r.doors.URL+"/v2/a/dev/blobs/uploads/?digest="+string(digest.FromBytes(content)), pr)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(content))
	req.Header.Set("Content-Type", "application/octet-stream")
	answer := make(chan int, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			answer <- 0
			return
		}
		resp.Body.Close()
		answer <- resp.StatusCode
	}()
	pw.Write(content[:5]) // returns when the transport has it
	// The server has it when it counts a request.
	for !strings.Contains(metricsOf(t, r), "twinhull_requests_active 1") {
		time.Sleep(time.Millisecond)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	for {
		if conn, err := net.Dial("tcp", strings.TrimPrefix(r.doors.URL, "http://")); err != nil {
			break // it does not listen any more
		} else {
			conn.Close()
		}
		time.Sleep(time.Millisecond)
	}
	pw.Write(content[5:])
	pw.Close()
	if code := <-answer; code != 201 {
		t.Errorf("the upload ended with %d", code)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func metricsOf(t *testing.T, r *running) string {
	t.Helper()
	resp, err := http.Get(r.doors.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReadyTellsWhatFails(t *testing.T) {
	c := config(t)
	s, err := Open(t.Context(), c, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.ready.now = func() time.Time { return now }
	ask := func() (int, string) {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
		return w.Code, w.Body.String()
	}
	if code, body := ask(); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if code, _ := ask(); code != 200 {
		t.Error("asked again at once")
	}
	now = now.Add(probeEvery)
	if code, body := ask(); code != 503 || !strings.Contains(body, `"store":"failed`) {
		t.Errorf("with a closed store: %d %s", code, body)
	}
}

// TestFilesReachTheConnection: whatever is around the answer, a file is handed to
// the connection as a file.
func TestFilesReachTheConnection(t *testing.T) {
	w := &takesFiles{ResponseRecorder: httptest.NewRecorder()}
	o := &seen{ResponseWriter: w}
	f, err := os.Open("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := io.Copy(struct{ io.Writer }{o}, f)
	_ = n
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := o.ReadFrom(f); err != nil || w.took != f {
		t.Errorf("the connection was given %T, %v", w.took, err)
	}
	if o.out == 0 || o.status != 200 {
		t.Errorf("%d bytes, status %d", o.out, o.status)
	}
	if http.NewResponseController(o).Flush() != nil {
		t.Error("the connection cannot be reached")
	}
}

type takesFiles struct {
	*httptest.ResponseRecorder
	took io.Reader
}

func (w *takesFiles) ReadFrom(r io.Reader) (int64, error) {
	w.took = r
	return io.Copy(struct{ io.Writer }{w.ResponseRecorder}, r)
}

func TestCrossSiteRequestsAreRefused(t *testing.T) {
	c := config(t)
	c.Access.AnonymousDevelopment = true
	r := start(t, c, Options{})
	req, _ := http.NewRequest("POST", r.doors.URL+"/v2/a/dev/blobs/uploads/", nil)
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("%d", resp.StatusCode)
	}
}
