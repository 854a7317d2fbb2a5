package server

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/registry/access"
)

const sample = `version: 1
listen: 0.0.0.0:443
metrics: 127.0.0.1:9090
hosts: [registry.example, "registry.example:5000"]
data: data
tls: {certificate: tls.crt, key: /etc/tls.key}
storage:
  postgres: {urlFile: database}
  s3:
    endpoint: https://objects.example
    bucket: images
    keyIDFile: id
    secretFile: secret
    pathStyle: true
audit:
  witnesses:
    here: {url: "https://witness.example/", key: "w+1+AAAA"}
  quorum: 1
access:
  users: users
  tokens:
    ci: {sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, expires: 2027-01-01}
  issuers:
    forge:
      url: https://forge.example
      audiences: [registry]
      algorithms: [ES256]
      identities:
        main: {sub: "repo:acme/*", protected: true, project: 7}
  grants:
    - to: [anybody]
      may: [pull:production]
      repositories: ["**"]
    - to: [token:ci, oidc:forge/main]
      may: [push:development, push:candidate]
      repositories: [shop/*]
  trustedProxies: [10.0.0.0/8, 192.0.2.1]
retention: {development: 3d, keep: [main, "release-*"], every: 0s}
release:
  trust: trust.yaml
  key: awskms:///alias/x
  foreign: [other.example]
limits: {requests: 50.5, burst: 100, blob: 10GiB, shutdown: 1m}
log: {format: json}
`

func sampleConfig() Config {
	c := Default()
	c.Listen, c.Metrics, c.Hosts, c.Data = "0.0.0.0:443", "127.0.0.1:9090", []string{"registry.example", "registry.example:5000"}, "/etc/th/data"
	c.TLS = TLS{"/etc/th/tls.crt", "/etc/tls.key"}
	c.Storage.Postgres.URLFile = "/etc/th/database"
	c.Storage.S3 = S3{Endpoint: "https://objects.example", Bucket: "images", KeyIDFile: "/etc/th/id", SecretFile: "/etc/th/secret", PathStyle: true}
	c.Audit = AuditLog{Witnesses: []Witness{{"here", "https://witness.example/", "w+1+AAAA"}}, Quorum: 1}
	c.Access.Users = "/etc/th/users"
	c.Access.Tokens = []access.Token{{Name: "ci", SHA256: sha256.Sum256([]byte("secret")), Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}}
	c.Access.Issuers = []Issuer{{Issuer: access.Issuer{Name: "forge", URL: "https://forge.example", Audiences: []string{"registry"}, Algorithms: []string{"ES256"},
		Identities: []access.Claims{{Name: "main", Match: map[string]string{"sub": "repo:acme/*", "protected": "true", "project": "7"}}}}}}
	c.Access.Grants = []access.Grant{
		{To: []string{"anybody"}, May: []access.Scope{{Verb: access.Pull, Catalog: "production"}}, Repositories: []string{"**"}},
		{To: []string{"token:ci", "oidc:forge/main"}, Repositories: []string{"shop/*"},
			May: []access.Scope{{Verb: access.Push, Catalog: "development"}, {Verb: access.Push, Catalog: "candidate"}}},
	}
	c.Access.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32")}
	c.Retention.Development, c.Retention.Keep, c.Retention.Every = 72*time.Hour, []string{"main", "release-*"}, 0
	c.Release = Release{Trust: "/etc/th/trust.yaml", Key: "awskms:///alias/x", Foreign: []string{"other.example"}}
	c.Limits.Requests, c.Limits.Burst, c.Limits.Blob, c.Limits.Shutdown = 50.5, 100, 10<<30, time.Minute
	c.Log.Format = "json"
	return c
}

var sameConfig = cmp.Options{cmpopts.EquateComparable(netip.Prefix{}), cmpopts.IgnoreFields(access.Issuer{}, "Keys")}

func TestReadConfig(t *testing.T) {
	got := Default()
	if err := ReadConfig("c.yaml", []byte(sample), "/etc/th", &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleConfig(), got, sameConfig); diff != "" {
		t.Error(diff)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
}

func TestPrintedConfigIsReadBack(t *testing.T) {
	plain := Default()
	plain.Data = "/d"
	for _, want := range []Config{sampleConfig(), plain} {
		var b bytes.Buffer
		if err := want.Print(&b); err != nil {
			t.Fatal(err)
		}
		var got Config
		if err := ReadConfig("printed", b.Bytes(), "/elsewhere", &got); err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		if diff := cmp.Diff(want, got, sameConfig); diff != "" {
			t.Errorf("%s\n%s", diff, b.String())
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"listen: a:1\n", "c.yaml:1:1: version: is missing"},
		{"version: 2\n", "c.yaml:1:10: version: want version: 1, found the number 2"},
		{"version: 1\nlisten: 5\n", "c.yaml:2:9: listen: want text, found the number 5"},
		{"version: 1\nlitsen: a:1\n", `c.yaml:2:1: litsen: unknown key: did you mean "listen"?`},
		{"version: 1\nport: a\n", "c.yaml:2:1: port: unknown key: want version, listen, metrics"},
		{"version: 1\ntls:\n  cert: a\n", "c.yaml:3:3: tls.cert: unknown key: want certificate, key"},
		{"version: 1\ntls.key: a\n", "c.yaml:2:1: tls.key: unknown key"},
		{"version: 1\ntls: a\n", `c.yaml:2:6: tls: want a mapping, found the text "a"`},
		{"version: 1\ntls: {key: a, key: b}\n", "second time"},
		{"version: 1\naccess: {tokens: {ci: {sha256: secret}}}\n", "c.yaml:2:32: access.tokens.ci.sha256: want the SHA-256"},
		{"version: 1\naccess: {tokens: {ci: {}}}\n", `access.tokens.ci: lacks the key "sha256"`},
		{"version: 1\naccess: {grants: [{to: [ci], may: [pull], repositories: [a]}]}\n", `access.grants[0].to: "ci" is nobody`},
		{"version: 1\naccess: {grants: [{to: [anybody], may: [push], repositories: [a]}]}\n", "access.grants[0].may[0]: \"push\": say where"},
		{"version: 1\naccess: {grants: [{to: [anybody], may: [pull], repositories: [a/dev]}]}\n", "access.grants[0]: repository pattern \"a/dev\": want the production repository"},
		{"version: 1\naccess: {grants: [{to: [anybody], may: [pull]}]}\n", `access.grants[0]: lacks the key "repositories"`},
		{"version: 1\naccess: {issuers: {f: {url: http://forge.example, audiences: [a], identities: {a: {sub: b}}}}}\n", "want https"},
		{"version: 1\naccess: {issuers: {f: {url: https://f.example, audiences: [a], algorithms: [HS256], identities: {a: {sub: b}}}}}\n", `unknown "HS256"`},
		{"version: 1\naccess: {issuers: {f: {url: https://f.example, identities: {a: {sub: b}}}}}\n", `lacks the key "audiences"`},
		{"version: 1\naccess: {trustedProxies: [proxy]}\n", "want a network"},
		{"version: 1\nretention: {development: 7}\n", "retention.development: want a time as 7d"},
		{"version: 1\nretention: {development: -7d}\n", "want a time as 7d"},
		{"version: 1\nlimits: {blob: 10GB}\n", "want a size as 10GiB"},
		{"version: 1\nlimits: {blob: 99999999999GiB}\n", "want a size as 10GiB"},
		{"version: 1\nlimits: {burst: 1.5}\n", "want a whole number"},
		{"version: 1\nlimits: {requests: .nan}\n", "want a number"},
		{"version: 1\ninsecurePlainHTTP: yes\n", "want true or false"},
		{"version: 1\nlisten: !!str a\n", "c.yaml:2"},
		{"", "c.yaml"},
	} {
		cfg := Default()
		err := ReadConfig("c.yaml", []byte(c.text), "/", &cfg)
		var all project.Errors
		if !errors.As(err, &all) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	var cfg Config
	if err := ReadConfig("c.yaml", make([]byte, MaxConfig+1), "/", &cfg); err == nil {
		t.Error("a huge file is read")
	}
}

func TestCheck(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"no folder":                    func(c *Config) { c.Data = "" },
		"want certificate and key":     func(c *Config) { c.TLS.Key = "" },
		"there is no TLS":              func(c *Config) { c.TLS = TLS{} },
		"listen: \"5000\"":             func(c *Config) { c.Listen = "5000" },
		"metrics: \"x\"":               func(c *Config) { c.Metrics = "x" },
		"hosts: \"https://a.example\"": func(c *Config) { c.Hosts = []string{"https://a.example"} },
		"urlFile or urlVariable":       func(c *Config) { c.Storage.Postgres.URLVariable = "X" },
		"bucket is missing":            func(c *Config) { c.Storage.S3.Bucket = "" },
		"want storage.s3 too":          func(c *Config) { c.Storage.S3 = S3{} },
		"or neither":                   func(c *Config) { c.Storage.S3.KeyIDFile = "" },
		"2 of 1 witnesses":             func(c *Config) { c.Audit.Quorum = 2 },
		"retention.candidate":          func(c *Config) { c.Retention.Candidate = 0 },
		"want a minute at least":       func(c *Config) { c.Retention.Unreferenced = time.Second },
		"want format":                  func(c *Config) { c.Log.Format = "xml" },
		"access: grant 3":              func(c *Config) { c.Access.Grants = append(c.Access.Grants, access.Grant{}) },
	} {
		c := sampleConfig()
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for addr, ok := range map[string]bool{
		"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "127.9.9.9:1": true,
		":5000": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "registry.example:1": false,
	} {
		c := Default()
		c.Data, c.Listen = "/d", addr
		if err := c.Check(); (err == nil) != ok {
			t.Errorf("%s without TLS: %v", addr, err)
		}
		if c.InsecurePlainHTTP = true; c.Check() != nil {
			t.Errorf("%s with --insecure-plain-http: %v", addr, c.Check())
		}
	}
}

// TestNothingIsOpenByDefault: a server that is told only where to keep things
// lets nobody do anything.
func TestNothingIsOpenByDefault(t *testing.T) {
	c := Default()
	c.Data = "/d"
	g, err := access.Compile(c.grants())
	if err != nil {
		t.Fatal(err)
	}
	verbs := []access.Verb{access.Pull, access.Push, access.Delete, access.Pin, access.Release, access.Revoke, access.RollBack, access.Erase, access.Audit, access.Operate}
	for _, v := range verbs {
		for _, repository := range []string{"", "a", "a/dev", "a/candidate"} {
			if g.Judge(access.Identity{}, v, repository) == nil {
				t.Errorf("%s %s", v, repository)
			}
		}
	}
	c.Access.AnonymousDevelopment = true
	if g, err = access.Compile(c.grants()); err != nil {
		t.Fatal(err)
	}
	for _, v := range verbs {
		for _, repository := range []string{"", "a", "a/dev", "a/candidate"} {
			open := repository == "a/dev" && (v == access.Pull || v == access.Push || v == access.Delete)
			if g.Allows(access.Identity{}, v, repository) != open {
				t.Errorf("with anonymous development: %s %q is open: %v", v, repository, !open)
			}
		}
	}
}

// TestGuide holds the operator's guide against the reader: every key is in it, and
// its example is read.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../../doc/registry.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Keys() {
		if !bytes.Contains(guide, []byte("`"+k[0]+"`")) {
			t.Errorf("doc/registry.md does not tell of %s", k[0])
		}
	}
	for _, s := range access.Scopes() {
		if !bytes.Contains(guide, []byte("`"+s+"`")) {
			t.Errorf("doc/registry.md does not tell of the scope %s", s)
		}
	}
	_, text, ok := bytes.Cut(guide, []byte("```yaml\n"))
	text, _, closed := bytes.Cut(text, []byte("```"))
	if !ok || !closed {
		t.Fatal("the guide has no example")
	}
	c := Default()
	if err := ReadConfig("doc/registry.md", text, "/etc/twinhull", &c); err != nil {
		t.Error(err)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
}

func FuzzReadConfig(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("version: 1\naccess: {grants: [{to: [anybody]}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := Default()
		if ReadConfig("c.yaml", data, "/etc", &c) != nil {
			return
		}
		var b bytes.Buffer
		if err := c.Print(&b); err != nil {
			t.Fatal(err)
		}
		var again Config
		if err := ReadConfig("again", b.Bytes(), "/etc", &again); err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
	})
}
