package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/oci"
)

var (
	production  = digest.FromString("production")
	development = digest.FromString("development")
	now         = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

const repository = "registry.example/shop/app"

func newKey(t testing.TB, kind KeyType) *Key {
	t.Helper()
	k, err := Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func publicPEM(t testing.TB, k *Key) string {
	t.Helper()
	b, err := PublicPEM(k.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func signed(t testing.TB, k Signer, subject oci.Digest, predicateType string, predicate any) []byte {
	t.Helper()
	s, err := evidence.New("app", subject, predicateType, predicate)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Sign(t.Context(), s, k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func summaryAt(t testing.TB, at time.Time) summary.Predicate {
	t.Helper()
	p, err := summary.Make(summary.Input{Time: at, Repository: repository, Policy: digest.FromString("policy"), Passed: true})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// policyFor lets gate make summaries for an hour, and release sign and list.
func policyFor(t testing.TB, release, gate *Key, more string) *Policy {
	t.Helper()
	text := fmt.Sprintf(`version: 1
identities:
  release:
    key: release.pub
%s
  gate:
    key: |
%s
rules:
  - identities: [release]
    claims: [signature, sbom]
    repositories: [registry.example/shop/*]
  - identities: [gate]
    claims: [summary]
    repositories: [registry.example/**]
    maxAge: 1h
`, more, indent(publicPEM(t, gate)))
	p, err := ReadPolicy("trust.yaml", []byte(text), func(string) ([]byte, error) { return []byte(publicPEM(t, release)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func indent(s string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n      ")
}

func TestOpen(t *testing.T) {
	for _, kind := range []KeyType{ECDSA, Ed25519} {
		release, gate := newKey(t, kind), newKey(t, kind)
		p := policyFor(t, release, gate, "")
		b := signed(t, release, production, evidence.TypeSignature, struct{}{})
		o, err := Open(b, production, p, repository, now)
		if err != nil {
			t.Fatal(err)
		}
		if !o.Valid() || o.Kind() != evidence.Signature || o.Identity() != "release" || o.Subject() != production || o.Digest() != digest.FromBytes(b) || string(o.Predicate()) != "{}" {
			t.Errorf("%+v", o)
		}
		if _, err := Open(signed(t, gate, production, evidence.TypeSummary, summaryAt(t, now.Add(-time.Minute))), production, p, repository, now); err != nil {
			t.Errorf("summary: %v", err)
		}
	}
	var zero Opened
	if zero.Valid() || zero.Kind() != "" || zero.Predicate() != nil {
		t.Error("the zero Opened says something")
	}
}

// rewrite changes the bundle's JSON and keeps the signature.
func rewrite(t *testing.T, b []byte, change func(map[string]any)) []byte {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	change(v)
	out, err := evidence.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func replace(t *testing.T, b []byte, old, new string) []byte {
	t.Helper()
	out := bytes.Replace(b, []byte(old), []byte(new), 1)
	if bytes.Equal(out, b) {
		t.Fatalf("%q is not in %s", old, b)
	}
	return out
}

func envelopeOf(v map[string]any) map[string]any { return v["dsseEnvelope"].(map[string]any) }

// TestHostileClaims: none of these is believed, and each for its own reason.
func TestHostileClaims(t *testing.T) {
	release, gate, mallory := newKey(t, ECDSA), newKey(t, Ed25519), newKey(t, ECDSA)
	p := policyFor(t, release, gate, "")
	good := signed(t, release, production, evidence.TypeSignature, struct{}{})
	payloadOf := func(b []byte) []byte {
		e, err := parseBundle(b)
		if err != nil {
			t.Fatal(err)
		}
		return e.payload
	}
	// sign anything that Sign would refuse.
	raw := func(k *Key, payload string, payloadType string) []byte {
		sig, err := k.Sign(t.Context(), pae(payloadType, []byte(payload)))
		if err != nil {
			t.Fatal(err)
		}
		id, _ := KeyID(k.PublicKey())
		b, _ := evidence.Encode(wireBundle{MediaType: BundleType, VerificationMaterial: wireMaterial{PublicKey: &wireHint{id}},
			DSSEEnvelope: &wireEnvelope{base64.StdEncoding.EncodeToString([]byte(payload)), payloadType, []wireSignature{{Sig: base64.StdEncoding.EncodeToString(sig)}}}})
		return b
	}
	statement := string(payloadOf(good))
	forged := base64.StdEncoding.EncodeToString([]byte(strings.ReplaceAll(statement, production.Encoded(), development.Encoded())))
	summaryNow := signed(t, gate, production, evidence.TypeSummary, summaryAt(t, now))

	for _, c := range []struct {
		name       string
		bundle     []byte
		subject    oci.Digest
		repository string
		now        time.Time
		reason     error
		says       string
	}{
		{"nothing", nil, "", "", now, ErrForm, "EOF"},
		{"no bundle", []byte(`[]`), "", "", now, ErrForm, ""},
		{"truncated", good[:len(good)/2], "", "", now, ErrForm, "EOF"},
		{"one byte short", good[:len(good)-1], "", "", now, ErrForm, "EOF"},
		{"huge", append(append([]byte{}, good...), bytes.Repeat([]byte(" "), MaxBundle)...), "", "", now, ErrForm, "at most"},
		{"deep", []byte(`{"mediaType":"` + BundleType + `","verificationMaterial":{"tlogEntries":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}}`), "", "", now, ErrForm, "nested"},
		{"two bundles", append(append([]byte{}, good...), good...), "", "", now, ErrForm, "more than one"},
		{"not UTF-8", replace(t, good, "payloadType", "payloadTyp\xff"), "", "", now, ErrForm, "UTF-8"},

		{"wrong digest", good, digest.FromString("other"), "", now, ErrSubject, "is about"},
		{"replayed from the development image", signed(t, release, development, evidence.TypeSignature, struct{}{}), production, "", now, ErrSubject, "is about"},
		{"no digest to compare with", good, "sha256:0", "", now, ErrSubject, "no image"},
		{"same hex, other algorithm", good, oci.Digest("sha512:" + production.Encoded() + production.Encoded()), "", now, ErrSubject, ""},

		{"unknown key", signed(t, mallory, production, evidence.TypeSignature, struct{}{}), "", "", now, ErrSignature, "does not know"},
		{"unknown key, hint of a known one", rewrite(t, signed(t, mallory, production, evidence.TypeSignature, struct{}{}), func(v map[string]any) {
			id, _ := KeyID(release.PublicKey())
			v["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"hint": id}}
		}), "", "", now, ErrSignature, "did not sign"},
		{"payload changed", rewrite(t, good, func(v map[string]any) { envelopeOf(v)["payload"] = forged }), development, "", now, ErrSignature, "did not sign"},
		{"signature over other bytes", rewrite(t, good, func(v map[string]any) {
			var other map[string]any
			_ = json.Unmarshal(signed(t, release, development, evidence.TypeSignature, struct{}{}), &other)
			envelopeOf(v)["signatures"] = envelopeOf(other)["signatures"]
		}), "", "", now, ErrSignature, "did not sign"},
		{"signature over the payload without its envelope", func() []byte {
			sig, _ := release.Sign(t.Context(), []byte(statement))
			return rewrite(t, good, func(v map[string]any) {
				envelopeOf(v)["signatures"] = []any{map[string]any{"sig": base64.StdEncoding.EncodeToString(sig)}}
			})
		}(), "", "", now, ErrSignature, "did not sign"},
		{"a certificate nobody asked for", rewrite(t, good, func(v map[string]any) {
			v["verificationMaterial"] = map[string]any{"certificate": map[string]any{"rawBytes": "AAAA"}}
		}), "", "", now, ErrSignature, "names no issuer"},

		{"no signature", rewrite(t, good, func(v map[string]any) { envelopeOf(v)["signatures"] = []any{} }), "", "", now, ErrForm, "exactly one"},
		{"two signatures", rewrite(t, good, func(v map[string]any) {
			s := envelopeOf(v)["signatures"].([]any)
			envelopeOf(v)["signatures"] = append(s, s[0])
		}), "", "", now, ErrForm, "exactly one"},
		{"empty signature", rewrite(t, good, func(v map[string]any) { envelopeOf(v)["signatures"] = []any{map[string]any{"sig": ""}} }), "", "", now, ErrForm, "signature"},
		{"a second payload", replace(t, good, `"payload":`, `"payload":"`+forged+`","payload":`), "", "", now, ErrForm, `duplicate name "payload"`},
		{"a second payload behind", replace(t, good, `"payloadType":`, `"payload":"`+forged+`","payloadType":`), "", "", now, ErrForm, `duplicate name "payload"`},
		{"a second payload in another case", replace(t, good, `"payload":`, `"Payload":"`+forged+`","payload":`), "", "", now, ErrForm, "Payload"},
		{"a second payload by escape", replace(t, good, `"payload":`, `"\u0070ayload":"`+forged+`","payload":`), "", "", now, ErrForm, "duplicate"},
		{"protobuf's other spelling", replace(t, good, `"payloadType":`, `"payload_type":"x","payloadType":`), "", "", now, ErrForm, "unknown name"},
		{"envelope and bare signature", replace(t, good, `"dsseEnvelope":`, `"messageSignature":{"signature":"AAAA"},"dsseEnvelope":`), "", "", now, ErrForm, "bare signature"},
		{"key and certificate", replace(t, good, `"publicKey":`, `"certificate":{"rawBytes":"AAAA"},"publicKey":`), "", "", now, ErrForm, "either"},
		{"neither", rewrite(t, good, func(v map[string]any) { v["verificationMaterial"] = map[string]any{} }), "", "", now, ErrForm, "either"},
		{"base64 with a tail", rewrite(t, good, func(v map[string]any) { envelopeOf(v)["payload"] = envelopeOf(v)["payload"].(string) + "\n" }), "", "", now, ErrForm, "base64"},

		{"format 0.1", replace(t, good, "bundle.v0.3+json", "bundle+json;version=0.1"), "", "", now, ErrForm, "only"},
		{"format 0.2", replace(t, good, "bundle.v0.3+json", "bundle+json;version=0.2"), "", "", now, ErrForm, "only"},
		{"format 0.3, older spelling", replace(t, good, "bundle.v0.3+json", "bundle+json;version=0.3"), "", "", now, ErrForm, "only"},
		{"format 0.4", replace(t, good, "v0.3", "v0.4"), "", "", now, ErrForm, "only"},
		{"format twice", replace(t, good, `"mediaType":`, `"mediaType":"x","mediaType":`), "", "", now, ErrForm, "duplicate"},
		{"certificate chain of older formats", replace(t, good, `"publicKey":`, `"x509CertificateChain":{},"publicKey":`), "", "", now, ErrForm, "chain"},
		{"bare DSSE envelope of cosign 2", []byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[]}`), "", "", now, ErrForm, "media type"},

		{"other payload type", raw(release, statement, "text/plain"), "", "", now, ErrForm, "payload type"},
		{"payload type in another case", raw(release, statement, "application/vnd.in-toto+JSON"), "", "", now, ErrForm, "payload type"},
		{"signed rubbish", raw(release, "rubbish", evidence.PayloadType), "", "", now, ErrForm, "statement"},
		{"signed duplicate subjects", raw(release, strings.Replace(statement, `"subject":`, `"subject":[{"digest":{"sha256":"`+development.Encoded()+`"}}],"subject":`, 1), evidence.PayloadType), "", "", now, ErrForm, "duplicate"},
		{"signed other statement type", raw(release, strings.Replace(statement, evidence.StatementV1, "https://in-toto.io/Statement/v0.0", 1), evidence.PayloadType), "", "", now, ErrForm, "type"},
		{"reference of no known kind", signed(t, release, production, evidence.TypeReference, evidence.Refer("x", "text/plain", production)), "", "", now, ErrForm, "knows nothing"},

		{"right key, other claim", signed(t, release, production, evidence.TypeSummary, summaryAt(t, now)), "", "", now, ErrNotAllowed, "may not make summary"},
		{"summary by way of a reference", signed(t, gate, production, evidence.TypeReference, evidence.Refer("x", evidence.MediaSPDX, production)), "", "", now, ErrNotAllowed, "may not make sbom"},
		{"own predicate type", signed(t, release, production, "https://example.test/own", struct{}{}), "", "", now, ErrNotAllowed, "may not"},
		{"other repository", good, "", "registry.example/other/app", now, ErrNotAllowed, "about registry.example/other/app"},
		{"other host", good, "", "registry.example.evil/shop/app", now, ErrNotAllowed, "about"},
		{"deeper repository", good, "", "registry.example/shop/app/dev", now, ErrNotAllowed, "about"},
		{"no repository", good, "", "-", now, ErrNotAllowed, "in no registry"},

		{"expired", signed(t, gate, production, evidence.TypeSummary, summaryAt(t, now.Add(-2*time.Hour))), "", "", now, ErrTime, "ago"},
		{"expired since", summaryNow, "", "", now.Add(2 * time.Hour), ErrTime, "ago"},
		{"from the future", signed(t, gate, production, evidence.TypeSummary, summaryAt(t, now.Add(time.Hour))), "", "", now, ErrTime, "future"},
		{"no clock", good, "", "", time.Time{}, ErrTime, "not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.subject == "" {
				c.subject = production
			}
			switch c.repository {
			case "":
				c.repository = repository
			case "-":
				c.repository = ""
			}
			o, err := Open(c.bundle, c.subject, p, c.repository, c.now)
			if !errors.Is(err, c.reason) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v: %q", err, c.reason, c.says)
			}
			if o.Valid() || o.Kind() != "" || o.Predicate() != nil {
				t.Errorf("refused, and yet opened: %+v", o)
			}
		})
	}
	for name, p := range map[string]*Policy{"no policy": nil, "zero policy": {}} {
		if o, err := Open(good, production, p, repository, now); !errors.Is(err, ErrSignature) || o.Valid() {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
	}
	// And what the hostile ones were made from is believed.
	for _, b := range [][]byte{good, summaryNow} {
		if _, err := Open(b, production, p, repository, now); err != nil {
			t.Error(err)
		}
	}
}

func TestIdentityTimes(t *testing.T) {
	release, gate := newKey(t, ECDSA), newKey(t, ECDSA)
	b := signed(t, release, production, evidence.TypeSignature, struct{}{})
	for _, c := range []struct {
		more string
		ok   bool
	}{
		{"    until: 2026-11-23", true}, {"    until: 2026-11-22", false}, {"    until: 2026-11-22T12:00:01Z", true},
		{"    since: 2026-11-22", true}, {"    since: 2026-11-23", false},
	} {
		_, err := Open(b, production, policyFor(t, release, gate, c.more), repository, now)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrTime) {
			t.Errorf("%s: %v", c.more, err)
		}
	}
}

// TestTwoNames: a key under two names may do what either may.
func TestTwoNames(t *testing.T) {
	k := newKey(t, ECDSA)
	text := "version: 1\nidentities:\n  a: {key: k}\n  b: {key: k}\nrules:\n" +
		"  - {identities: [a], claims: [sbom], repositories: [\"**\"]}\n  - {identities: [b], claims: [signature], repositories: [\"**\"]}\n"
	p, err := ReadPolicy("t", []byte(text), func(string) ([]byte, error) { return []byte(publicPEM(t, k)), nil })
	if err != nil {
		t.Fatal(err)
	}
	o, err := Open(signed(t, k, production, evidence.TypeSignature, struct{}{}), production, p, "", now)
	if err != nil || o.Identity() != "b" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestPolicyErrors(t *testing.T) {
	k := newKey(t, ECDSA)
	good := "version: 1\nidentities:\n  a:\n    key: a.pub\nrules:\n  - identities: [a]\n    claims: [signature]\n    repositories: [h.example/x]\n"
	read := func(name string) ([]byte, error) {
		switch name {
		case "a.pub":
			return []byte(publicPEM(t, k)), nil
		case "roots.json":
			return []byte("{}"), nil
		}
		return nil, os.ErrNotExist
	}
	if _, err := ReadPolicy("trust.yaml", []byte(good), read); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"unknown key", "claims:", "clams:", `trust.yaml:7:5: rules[0].clams: unknown key: did you mean "claims"?`},
		{"missing key", "    claims: [signature]\n", "", "trust.yaml:6:5: rules[0]: claims is missing"},
		{"unknown claim", "[signature]", "[signatures]", "trust.yaml:7:14: rules[0].claims: unknown claim"},
		{"unknown identity", "[a]", "[b]", `trust.yaml:6:18: rules[0].identities: no identity is called "b"`},
		{"no such file", "a.pub", "b.pub", "trust.yaml:4:10: identities.a.key: file does not exist"},
		{"a key twice", "version: 1", "version: 1\nversion: 1", "trust.yaml:2:1: key \"version\" is here for the second time"},
		{"other version", "version: 1", "version: 2", "trust.yaml:1:10: version: want version: 1"},
		{"tag in a pattern", "h.example/x", "h.example/x@sha256", "trust.yaml:8:20: rules[0].repositories: repository pattern"},
		{"half a double star", "h.example/x", "h.example/x**", "repository pattern"},
		{"empty list", "[signature]", "[]", "want a list of at least one"},
		{"no rules", good[strings.Index(good, "rules:"):], "rules: []\n", "nothing is believed"},
		{"half an identity", "key: a.pub", "issuer: https://i.example", "want key, or issuer, subject and roots together"},
		{"two identities in one", "key: a.pub", "key: a.pub\n    issuer: https://i.example", "is either a key, or"},
		{"everybody", "key: a.pub", "issuer: https://i.example\n    subject: \"**\"\n    roots: roots.json", "is everybody"},
		{"empty roots", "key: a.pub", "issuer: https://i.example\n    subject: x\n    roots: roots.json", "trusted root"},
		{"bad date", "key: a.pub", "key: a.pub\n    until: soon", "want a date"},
		{"times crossed", "key: a.pub", "key: a.pub\n    since: 2027-01-01\n    until: 2026-01-01", "is not after since"},
		{"bad age", "[signature]", "[signature]\n    maxAge: never", "want a duration"},
		{"negative age", "[signature]", "[signature]\n    maxAge: -1h", "want a duration"},
		{"anchor", "key: a.pub", "key: &x a.pub", "anchors"},
		{"private key", "a.pub", "|\n      -----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n      AAAA\n      -----END ENCRYPTED SIGSTORE PRIVATE KEY-----", `want "PUBLIC KEY"`},
		{"not a mapping", good, "hello\n", "want a mapping"},
		{"empty", good, "", "is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := ReadPolicy("trust.yaml", []byte(strings.Replace(good, c.old, c.new, 1)), read)
			if err == nil || !strings.Contains(err.Error(), c.want) || p != nil {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestLoadPolicy(t *testing.T) {
	dir := t.TempDir()
	k := newKey(t, Ed25519)
	for name, text := range map[string]string{
		"k.pub":      publicPEM(t, k),
		"trust.yaml": "version: 1\nidentities: {a: {key: k.pub}}\nrules: [{identities: [a], claims: [signature], repositories: [\"**\"]}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := LoadPolicy(filepath.Join(dir, "trust.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	first := p.Digest()
	if err := os.WriteFile(filepath.Join(dir, "k.pub"), []byte(publicPEM(t, newKey(t, Ed25519))), 0o644); err != nil {
		t.Fatal(err)
	}
	if p, err = LoadPolicy(filepath.Join(dir, "trust.yaml")); err != nil || p.Digest() == first {
		t.Errorf("another key, the same policy: %v", err)
	}
	if _, err := LoadPolicy(dir); err == nil {
		t.Error("a folder was read")
	}
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, repository string
		want                bool
	}{
		{"h.example/a", "h.example/a", true}, {"h.example/a", "h.example/ab", false}, {"h.example/*", "h.example/a", true},
		{"h.example/*", "h.example/a/b", false}, {"h.example/**", "h.example/a/b", true}, {"h.example/**", "h.example", true},
		{"h.example/**/dev", "h.example/a/b/dev", true}, {"h.example/**/dev", "h.example/a/b/devs", false}, {"**", "", true}, {"*", "", false},
		{"h.example/a*c", "h.example/abc", true}, {"h.example/a*c", "h.example/ac", true}, {"h.example/a*c", "h.example/acd", false},
		{"h.example/a*b*c", "h.example/a1b2c", true}, {"h.example/a*a", "h.example/a", false}, {"h.*/a", "h.example/a", true}, {"h.*/a", "h.example:5000/a", true},
	} {
		p, err := parsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.matches(c.repository); got != c.want {
			t.Errorf("%q matches %q: %v", c.pattern, c.repository, got)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := newKey(f, ECDSA)
	p, err := KeyPolicy(k.PublicKey())
	if err != nil {
		f.Fatal(err)
	}
	good := signed(f, k, production, evidence.TypeSignature, struct{}{})
	f.Add(good)
	f.Add([]byte(`{"mediaType":"` + BundleType + `","verificationMaterial":{"certificate":{"rawBytes":"AAAA"}},"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := Open(data, production, p, "", now)
		if err != nil {
			if o.Valid() {
				t.Fatal("refused and opened")
			}
			return
		}
		// Only the signed statement may come out, however the bundle around it
		// is written.
		if string(o.Predicate()) != "{}" || o.PredicateType() != evidence.TypeSignature {
			t.Fatalf("opened %q", data)
		}
	})
}

func FuzzReadPolicy(f *testing.F) {
	k := publicPEM(f, newKey(f, ECDSA))
	f.Add([]byte("version: 1\nidentities: {a: {key: k}}\nrules: [{identities: [a], claims: [signature], repositories: [\"**\"], maxAge: 1h}]\n"))
	f.Add([]byte("version: 1\nidentities:\n  a:\n    issuer: x\n    subject: y\n    roots: z\nrules: []\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadPolicy("trust.yaml", data, func(string) ([]byte, error) { return []byte(k), nil })
		if err == nil && (len(p.identities) == 0 || len(p.rules) == 0 || p.Digest() == "") {
			t.Fatalf("read a policy without anything in it: %q", data)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	k := newKey(b, ECDSA)
	p, err := KeyPolicy(k.PublicKey())
	if err != nil {
		b.Fatal(err)
	}
	for name, size := range map[string]int{"signature": 0, "150 KB": 150_000} {
		b.Run(name, func(b *testing.B) {
			bundle := signed(b, k, production, evidence.TypeSignature, map[string]string{"x": strings.Repeat("x", size)})
			for b.Loop() {
				if _, err := Open(bundle, production, p, "", now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
