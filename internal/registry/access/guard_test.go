package access

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/crypto/bcrypt"

	"twinhull.dev/twinhull/internal/registry"
)

var testNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func htpasswd(t testing.TB, pairs ...string) Users {
	t.Helper()
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		h, err := bcrypt.GenerateFromPassword([]byte(pairs[i+1]), minCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s:%s\n", pairs[i], h)
	}
	u, err := ReadUsers("users", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func request(headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "/v2/", nil)
	r.RemoteAddr = "192.0.2.7:1234"
	for _, h := range headers {
		r.Header.Add("Authorization", h)
	}
	return r
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func code(err error) registry.Code {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestIdentify(t *testing.T) {
	now := testNow
	g, err := New(Config{
		Users: htpasswd(t, "alice", "correct horse", "colon", "a:b"),
		Tokens: []Token{
			{Name: "ci", SHA256: sha256.Sum256([]byte("s3cret"))},
			{Name: "old", SHA256: sha256.Sum256([]byte("0ld")), Expires: testNow},
			{Name: "new", SHA256: sha256.Sum256([]byte("n3w")), Expires: testNow.Add(time.Second)},
		},
		Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		headers []string
		want    string // identity; "" for refused
	}{
		{"nothing", nil, "anonymous"},
		{"empty name and password", []string{basic("", "")}, "anonymous"},
		{"password", []string{basic("alice", "correct horse")}, "user:alice"},
		{"password again", []string{basic("alice", "correct horse")}, "user:alice"},
		{"password with a colon", []string{basic("colon", "a:b")}, "user:colon"},
		{"scheme in other case", []string{"bAsIc " + strings.TrimPrefix(basic("alice", "correct horse"), "Basic ")}, "user:alice"},
		{"wrong password", []string{basic("alice", "correct  horse")}, ""},
		{"password of another", []string{basic("colon", "correct horse")}, ""},
		{"unknown user", []string{basic("bob", "correct horse")}, ""},
		{"no password", []string{basic("alice", "")}, ""},
		{"no name", []string{basic("", "s3cret")}, ""},
		{"long password", []string{basic("alice", strings.Repeat("x", 2000))}, ""},
		{"bearer", []string{"Bearer s3cret"}, "token:ci"},
		{"bearer in other case", []string{"bearer  s3cret"}, "token:ci"},
		{"token as password", []string{basic("token", "s3cret")}, "token:ci"},
		{"token as password, other name", []string{basic("ci", "s3cret")}, ""},
		{"hash instead of the token", []string{fmt.Sprintf("Bearer %x", sha256.Sum256([]byte("s3cret")))}, ""},
		{"expired", []string{"Bearer 0ld"}, ""},
		{"not yet expired", []string{"Bearer n3w"}, "token:new"},
		{"unknown token", []string{"Bearer x"}, ""},
		{"empty token", []string{"Bearer "}, ""},
		{"a JWT and no issuer", []string{"Bearer a.b.c"}, ""},
		{"two headers", []string{"Bearer s3cret", basic("alice", "correct horse")}, ""},
		{"another scheme", []string{"Negotiate abc"}, ""},
		{"no base64", []string{"Basic !!!"}, ""},
		{"no colon", []string{"Basic " + base64.StdEncoding.EncodeToString([]byte("alice"))}, ""},
		{"empty header", []string{""}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := g.Identify(request(c.headers...))
			if c.want == "" {
				if code(err) != registry.Unauthorized || !id.Anonymous() {
					t.Errorf("got %v, %v", id, err)
				}
				return
			}
			if err != nil || id.String() != c.want {
				t.Errorf("got %v, %v", id, err)
			}
		})
	}
	now = now.Add(time.Minute)
	if _, err := g.Identify(request("Bearer n3w")); code(err) != registry.Unauthorized {
		t.Errorf("the token's time is over: %v", err)
	}
}

func TestPasswordsAreRememberedAndForgotten(t *testing.T) {
	now := testNow
	p, err := newPasswords(htpasswd(t, "alice", "a"), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	if p.remembered("alice", "a") {
		t.Error("before it was verified")
	}
	if err := p.verify(t.Context(), "alice", "a"); err != nil || !p.remembered("alice", "a") {
		t.Errorf("%v", err)
	}
	if err := p.verify(t.Context(), "alice", "b"); err != errPassword || p.remembered("alice", "b") {
		t.Errorf("a wrong one: %v", err)
	}
	if p.remembered("alic", "ea") {
		t.Error("name and password run together")
	}
	now = now.Add(rememberFor)
	if p.remembered("alice", "a") {
		t.Error("for ever")
	}
	p.verify(t.Context(), "alice", "a")
	p.users = htpasswd(t, "alice", "b")
	if p.remembered("alice", "a") {
		t.Error("after the password was changed")
	}
}

func TestUnknownUserCostsTheSame(t *testing.T) {
	p, err := newPasswords(htpasswd(t, "alice", "a"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := bcrypt.Cost(p.dummy)
	if want, _ := bcrypt.Cost(p.users["alice"]); err != nil || got != want {
		t.Errorf("an unknown user is compared at cost %d, a known one at %d", got, want)
	}
}

func TestTooManyPasswords(t *testing.T) {
	p, err := newPasswords(htpasswd(t, "alice", "a"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.verify(ctx, "alice", "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("waits although nobody asks any more: %v", err)
	}
	for range cap(p.queue) {
		p.queue <- struct{}{}
	}
	if err := p.verify(t.Context(), "alice", "a"); err != errBusy {
		t.Errorf("got %v", err)
	}
}

func TestGuessingIsSlowed(t *testing.T) {
	now := testNow
	g, err := New(Config{Users: htpasswd(t, "alice", "a"), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	g.failed = NewLimiter(failedPerSecond, 2)
	ask := func(password, from string) registry.Code {
		r := request(basic("alice", password))
		r.RemoteAddr = from
		_, err := g.Identify(r)
		return code(err)
	}
	const here, there = "192.0.2.1:1", "192.0.2.2:1"
	if c := ask("a", there); c != "" {
		t.Fatal(c)
	}
	for i, want := range []registry.Code{registry.Unauthorized, registry.Unauthorized, registry.TooManyRequests} {
		if c := ask("x", here); c != want {
			t.Errorf("guess %d: %s, want %s", i, c, want)
		}
	}
	// Not even the right one: whether it is would be an answer.
	if c := ask("b", here); c != registry.TooManyRequests {
		t.Error(c)
	}
	if c := ask("a", there); c != "" {
		t.Errorf("who knows the password, from elsewhere: %s", c)
	}
	now = now.Add(2 * time.Second)
	if c := ask("x", here); c != registry.Unauthorized {
		t.Error(c)
	}
}

func TestRateLimit(t *testing.T) {
	now := testNow
	g, err := New(Config{
		Requests: 1, Burst: 2, Now: func() time.Time { return now },
		Tokens: []Token{{Name: "a", SHA256: sha256.Sum256([]byte("a"))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(headers ...string) registry.Code {
		_, err := g.Identify(request(headers...))
		return code(err)
	}
	for i, want := range []registry.Code{"", "", registry.TooManyRequests} {
		if c := ask(); c != want {
			t.Errorf("request %d: %s", i, c)
		}
	}
	if c := ask("Bearer a"); c != "" {
		t.Errorf("somebody else: %s", c)
	}
	now = now.Add(time.Second)
	if c := ask(); c != "" {
		t.Errorf("a second later: %s", c)
	}
}

func TestLimiterIsBounded(t *testing.T) {
	l := NewLimiter(1, 1)
	for i := range 3 * maxLimited {
		l.Allow(fmt.Sprint(i), testNow)
	}
	if n := l.seen.Len(); n > maxLimited {
		t.Errorf("%d are remembered", n)
	}
}

func TestAddress(t *testing.T) {
	g, err := New(Config{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		remote    string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:5", nil, "192.0.2.1"},
		{"192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1"}, // says a stranger
		{"10.0.0.1:5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:5", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:5", []string{"1.1.1.1", "198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"10.0.0.1:5", []string{"nonsense"}, "10.0.0.1"},
		{"10.0.0.1:5", nil, "10.0.0.1"},
		{"[::ffff:10.0.0.1]:5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[2001:db8::1]:5", nil, "2001:db8::1"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		for _, f := range c.forwarded {
			r.Header.Add("X-Forwarded-For", f)
		}
		if got := g.Address(r).String(); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
	if got := Source(netip.MustParseAddr("2001:db8:1:2:3::4%eth0")); got != "2001:db8:1:2::/64" {
		t.Error(got)
	}
}

func TestReadUsersRefuses(t *testing.T) {
	hash := func(cost int) string {
		return fmt.Sprintf("$2y$%02d$", cost) + strings.Repeat("a", 53)
	}
	for file, want := range map[string]string{
		"alice":                             "users:1: want NAME:HASH",
		"# c\n\nalice:secret":               "users:3: user \"alice\": the hash is not bcrypt's",
		"alice:{SHA}W6ph5Mm5Pz8Gg":          "not bcrypt's",
		"alice:$apr1$abc$def":               "not bcrypt's",
		":" + hash(12):                      "want NAME:HASH",
		"a b:" + hash(12):                   "no user name",
		"token:" + hash(12):                 "is taken",
		"oidc:" + hash(12):                  "is taken",
		"a:" + hash(4):                      "has cost 4",
		"a:" + hash(31):                     "has cost 31",
		"a:" + hash(12) + "x":               "not bcrypt's",
		"a:" + hash(12) + "\na:" + hash(12): "second time",
	} {
		if _, err := ReadUsers("users", []byte(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", file, err, want)
		}
	}
	if u, err := ReadUsers("users", []byte("# c\r\n\r\na:"+hash(12)+"\r\n")); err != nil || len(u) != 1 {
		t.Errorf("%v, %v", u, err)
	}
}

func FuzzReadUsers(f *testing.F) {
	f.Add([]byte("a:$2y$12$" + strings.Repeat("a", 53)))
	f.Add([]byte("# comment\n\n:x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		users, err := ReadUsers("users", data)
		if err == nil && users[""] != nil {
			t.Error("a user without a name")
		}
	})
}

// issuing is an issuer's server.
type issuing struct {
	*httptest.Server
	keys  atomic.Pointer[jose.JSONWebKeySet]
	asked atomic.Int32
	down  atomic.Bool
	as    string // the issuer of the discovery document; "" for the server's URL
}

func newIssuing(t *testing.T) *issuing {
	s := &issuing{}
	s.keys.Store(&jose.JSONWebKeySet{})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if s.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			as := s.as
			if as == "" {
				as = s.URL
			}
			json.NewEncoder(w).Encode(map[string]string{"issuer": as, "jwks_uri": s.URL + "/keys"})
		case "/keys":
			json.NewEncoder(w).Encode(s.keys.Load())
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

type signingKey struct {
	id      string
	alg     jose.SignatureAlgorithm
	private any
}

func newKey(t testing.TB, id string, alg jose.SignatureAlgorithm) signingKey {
	t.Helper()
	var k any
	var err error
	switch alg {
	case jose.ES256:
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, k, err = ed25519.GenerateKey(rand.Reader)
	case jose.HS256:
		k = []byte(strings.Repeat("k", 32))
	default:
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{id, alg, k}
}

func (k signingKey) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.private.(crypto.Signer).Public(), KeyID: k.id, Use: "sig"}
}

func (k signingKey) sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: jose.JSONWebKey{Key: k.private, KeyID: k.id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestOIDC(t *testing.T) {
	server := newIssuing(t)
	es, rs, ed := newKey(t, "es", jose.ES256), newKey(t, "rs", jose.RS256), newKey(t, "ed", jose.EdDSA)
	ps, stranger := newKey(t, "ps", jose.PS256), newKey(t, "es", jose.ES256)
	server.keys.Store(&jose.JSONWebKeySet{Keys: []jose.JSONWebKey{es.public(), rs.public(), ed.public(), ps.public()}})
	now := testNow
	clock := func() time.Time { return now }
	g, err := New(Config{Now: clock, Issuers: []Issuer{{
		Name: "forge", URL: server.URL, Audiences: []string{"registry", "other"},
		Identities: []Claims{
			{Name: "main", Match: map[string]string{"sub": "repo:acme/app:ref:refs/heads/main"}},
			{Name: "tag", Match: map[string]string{"sub": "repo:acme/*", "ref_type": "tag", "groups": "admins", "protected": "true", "owner": "7"}},
		},
		Keys: &RemoteKeys{Issuer: server.URL, Now: clock},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	claims := func(change ...any) map[string]any {
		all := map[string]any{
			"iss": server.URL, "aud": "registry", "sub": "repo:acme/app:ref:refs/heads/main",
			"exp": now.Add(5 * time.Minute).Unix(), "iat": now.Unix(), "nbf": now.Unix(),
		}
		for i := 0; i < len(change); i += 2 {
			if all[change[i].(string)] = change[i+1]; change[i+1] == nil {
				delete(all, change[i].(string))
			}
		}
		return all
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.SplitN(es.sign(t, claims()), ".", 3)[1] + "."
	hmac := newKey(t, "es", jose.HS256)
	unnamed := es
	unnamed.id = ""
	for _, c := range []struct {
		name, token string
		want        string // names, joined; "" for refused
	}{
		{"ES256", es.sign(t, claims()), "oidc:forge/main"},
		{"RS256", rs.sign(t, claims()), "oidc:forge/main"},
		{"EdDSA", ed.sign(t, claims()), "oidc:forge/main"},
		{"without the key's name", unnamed.sign(t, claims()), "oidc:forge/main"},
		{"an algorithm that is not allowed", ps.sign(t, claims()), ""},
		{"no signature", none, ""},
		{"symmetric", hmac.sign(t, claims()), ""},
		{"the right key's name, another key", stranger.sign(t, claims()), ""},
		{"an unknown key's name", newKey(t, "xx", jose.ES256).sign(t, claims()), ""},
		{"another audience", es.sign(t, claims("aud", "sigstore")), ""},
		{"several audiences", es.sign(t, claims("aud", []string{"x", "other"})), "oidc:forge/main"},
		{"no audience", es.sign(t, claims("aud", nil)), ""},
		{"another issuer", es.sign(t, claims("iss", "https://evil.example")), ""},
		{"issuer with a slash more", es.sign(t, claims("iss", server.URL+"/")), ""},
		{"no issuer", es.sign(t, claims("iss", nil)), ""},
		{"another subject", es.sign(t, claims("sub", "repo:evil/app:ref:refs/heads/main")), ""},
		{"no subject", es.sign(t, claims("sub", nil)), ""},
		{"expired within the leeway", es.sign(t, claims("exp", now.Add(-20*time.Second).Unix())), "oidc:forge/main"},
		{"expired", es.sign(t, claims("exp", now.Add(-31*time.Second).Unix())), ""},
		{"never expires", es.sign(t, claims("exp", nil)), ""},
		{"not yet", es.sign(t, claims("nbf", now.Add(31*time.Second).Unix())), ""},
		{"issued in the future", es.sign(t, claims("iat", now.Add(31*time.Second).Unix())), ""},
		{"all claims", es.sign(t, claims("sub", "repo:acme/x", "ref_type", "tag", "groups", []string{"devs", "admins"}, "protected", true, "owner", 7)), "oidc:forge/tag"},
		{"one claim is missing", es.sign(t, claims("sub", "repo:acme/x", "ref_type", "tag", "groups", []string{"admins"}, "protected", true)), ""},
		{"one claim is another", es.sign(t, claims("sub", "repo:acme/x", "ref_type", "tag", "groups", []string{"devs"}, "protected", true, "owner", 7)), ""},
		{"two identities", es.sign(t, claims("ref_type", "tag", "groups", "admins", "protected", true, "owner", 7)), "oidc:forge/main oidc:forge/tag"},
		{"huge", es.sign(t, claims("x", strings.Repeat("x", maxToken))), ""},
		{"cut", es.sign(t, claims())[:100], ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, h := range []string{"Bearer " + c.token, basic("oidc", c.token)} {
				id, err := g.Identify(request(h))
				if c.want == "" {
					if code(err) != registry.Unauthorized {
						t.Errorf("%v, %v", id, err)
					}
					continue
				}
				if err != nil || strings.Join(id.subjects, " ") != c.want {
					t.Errorf("%v %q, %v", id, id.subjects, err)
				} else if id.Actor.Issuer != server.URL || id.Actor.Method != "oidc" || !strings.HasPrefix(id.Actor.Name, "repo:acme/") {
					t.Errorf("%+v", id.Actor)
				}
			}
		})
	}
	if n := server.asked.Load(); n > 4 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

func TestKeysRotateAndFail(t *testing.T) {
	server := newIssuing(t)
	now := testNow
	keys := &RemoteKeys{Issuer: server.URL, Now: func() time.Time { return now }}
	first, second := newKey(t, "1", jose.ES256), newKey(t, "2", jose.ES256)
	has := func(id string) bool {
		found, err := keys.Keys(t.Context(), id)
		return err == nil && len(found) == 1
	}
	if has("1") {
		t.Error("a set without keys")
	}
	server.keys.Store(&jose.JSONWebKeySet{Keys: []jose.JSONWebKey{first.public()}})
	if has("1") {
		t.Error("asked again at once")
	}
	now = now.Add(retryAfter)
	if !has("1") {
		t.Error("not asked again")
	}
	n := server.asked.Load()
	now = now.Add(retryAfter)
	server.keys.Store(&jose.JSONWebKeySet{Keys: []jose.JSONWebKey{second.public()}})
	for range 100 {
		has("junk")
	}
	if got := server.asked.Load() - n; got > 2 {
		t.Errorf("100 unknown names cost %d questions", got)
	}
	if has("1") || !has("2") {
		t.Error("the key was not replaced")
	}
	// A server that is down: what is here is used for a day, and then nothing.
	server.down.Store(true)
	now = now.Add(2 * time.Hour)
	if !has("2") {
		t.Error("forgotten after two hours")
	}
	now = now.Add(staleAfter)
	if has("2") {
		t.Error("still believed after a day")
	}
	server.down.Store(false)
	now = now.Add(retryAfter)
	if !has("2") {
		t.Error("not asked again")
	}
	// A clock that went back a year: asked again, not believed for a year.
	n = server.asked.Load()
	now = now.AddDate(-1, 0, 0)
	if !has("2") || server.asked.Load() == n {
		t.Error("the clock went back")
	}
}

func TestDiscoveryOfAnother(t *testing.T) {
	server := newIssuing(t)
	k := newKey(t, "1", jose.ES256)
	server.keys.Store(&jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.public()}})
	server.as = "https://other.example"
	keys := &RemoteKeys{Issuer: server.URL, Now: time.Now}
	if _, err := keys.Keys(t.Context(), "1"); err == nil || !strings.Contains(err.Error(), "other.example") {
		t.Errorf("%v", err)
	}
}

func TestReadKeys(t *testing.T) {
	good := newKey(t, "good", jose.ES256)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err) // a library that makes no weak keys
	}
	encode := func(keys ...any) []byte {
		b, err := json.Marshal(map[string]any{"keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	private := jose.JSONWebKey{Key: good.private, KeyID: "private"}
	symmetric := jose.JSONWebKey{Key: []byte("secret"), KeyID: "symmetric"}
	enc := good.public()
	enc.Use, enc.KeyID = "enc", "enc"
	set, err := ReadKeys(encode(good.public(), jose.JSONWebKey{Key: weak.Public(), KeyID: "weak"}, private, symmetric, enc, map[string]string{"kty": "future"}))
	if err != nil {
		t.Fatal(err)
	}
	if all, _ := set.Keys(t.Context(), ""); len(all) != 1 || all[0].KeyID != "good" {
		t.Errorf("%v", all)
	}
	for name, data := range map[string][]byte{
		"none":    encode(),
		"private": encode(private),
		"garbage": []byte("<html>"),
		"many":    encode(make([]any, maxKeys+1)...),
		"large":   make([]byte, maxKeySet+1),
	} {
		if _, err := ReadKeys(data); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestValidKeyURL(t *testing.T) {
	for u, want := range map[string]bool{
		"https://a.example/keys": true, "http://127.0.0.1:1/keys": true, "http://[::1]/k": true,
		"http://a.example/keys": false, "ftp://a.example": false, "file:///etc/passwd": false,
		"https://u:p@a.example": false, "": false, "https://": false,
	} {
		if err := ValidKeyURL(u); (err == nil) != want {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	keys := FixedKeys{}
	who := []Claims{{Name: "a", Match: map[string]string{"sub": "a"}}}
	good := Issuer{Name: "i", URL: "https://i.example", Audiences: []string{"a"}, Identities: who, Keys: keys}
	change := func(f func(*Issuer)) []Issuer { i := good; f(&i); return []Issuer{i} }
	token := sha256.Sum256([]byte("x"))
	for want, c := range map[string]Config{
		"no audience":            {Issuers: change(func(i *Issuer) { i.Audiences = nil })},
		"algorithm \"none\"":     {Issuers: change(func(i *Issuer) { i.Algorithms = []string{"none"} })},
		"algorithm \"HS256\"":    {Issuers: change(func(i *Issuer) { i.Algorithms = []string{"HS256"} })},
		"names nobody":           {Issuers: change(func(i *Issuer) { i.Identities = nil })},
		"is everybody":           {Issuers: change(func(i *Issuer) { i.Identities = []Claims{{Name: "a", Match: map[string]string{"sub": "**"}}} })},
		"identity b is every":    {Issuers: change(func(i *Issuer) { i.Identities = []Claims{{Name: "b"}} })},
		"two identities":         {Issuers: change(func(i *Issuer) { i.Identities = append(who, who...) })},
		"no keys":                {Issuers: change(func(i *Issuer) { i.Keys = nil })},
		"cannot name an issuer":  {Issuers: change(func(i *Issuer) { i.Name = "a/b" })},
		"have the URL":           {Issuers: []Issuer{good, good}},
		"two tokens":             {Tokens: []Token{{Name: "a", SHA256: token}, {Name: "a"}}},
		"are the same":           {Tokens: []Token{{Name: "a", SHA256: token}, {Name: "b", SHA256: token}}},
		"the hash is of nothing": {Tokens: []Token{{Name: "a", SHA256: sha256.Sum256(nil)}}},
		"is nobody":              {Grants: []Grant{{To: []string{"x"}, May: []Scope{{Pull, ""}}, Repositories: []string{"**"}}}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzBearer: whatever is sent as a token, nobody is let in.
func FuzzBearer(f *testing.F) {
	k := newKey(f, "1", jose.ES256)
	set := FixedKeys{jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.public()}}}
	g, err := New(Config{
		Now:    func() time.Time { return testNow },
		Tokens: []Token{{Name: "a", SHA256: sha256.Sum256([]byte("a long random token"))}},
		Issuers: []Issuer{{Name: "i", URL: "https://i.example", Audiences: []string{"a"}, Keys: set,
			Identities: []Claims{{Name: "a", Match: map[string]string{"sub": "a*"}}}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	other := newKey(f, "1", jose.ES256)
	f.Add("Bearer " + other.sign(f, map[string]any{"iss": "https://i.example", "aud": "a", "sub": "a", "exp": testNow.Unix() + 60}))
	f.Add(basic("token", "x"))
	f.Add("Bearer e30.e30.")
	f.Fuzz(func(t *testing.T, header string) {
		r := request(header)
		id, err := g.Identify(r)
		if err == nil && !id.Anonymous() {
			t.Errorf("%q is %s", header, id)
		}
	})
}
