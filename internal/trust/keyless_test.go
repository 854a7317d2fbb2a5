package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"google.golang.org/protobuf/encoding/protojson"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/oci"
)

const (
	ciIssuer  = "https://token.example"
	ciSubject = "https://forge.example/acme/app/.ci/release.yml@refs/tags/v1.0.0"
)

// rootsFile writes the trusted root of a made-up Sigstore deployment.
func rootsFile(t *testing.T, s *ca.VirtualSigstore) []byte {
	t.Helper()
	logs := s.RekorLogs()
	for id, l := range logs { // the testing authority writes the id in hexadecimal where bytes belong
		raw, err := hex.DecodeString(id)
		if err != nil {
			t.Fatal(err)
		}
		l.ID = raw
	}
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, s.FulcioCertificateAuthorities(), nil, s.TimestampingAuthorities(), logs)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keyless makes a bundle as `cosign attest` without a key would have written it.
func keyless(t *testing.T, s *ca.VirtualSigstore, subject oci.Digest, who, issuer string) []byte {
	t.Helper()
	statement, err := evidence.New("app", subject, evidence.TypeSignature, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.AttestAtTime(who, issuer, statement, time.Now().Add(5*time.Minute), true)
	if err != nil {
		t.Fatal(err)
	}
	content, err := e.VerificationContent()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := e.SignatureContent()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := e.TlogEntries()
	if err != nil {
		t.Fatal(err)
	}
	stamps, err := e.Timestamps()
	if err != nil {
		t.Fatal(err)
	}
	material := &protobundle.VerificationMaterial{
		Content:                   &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: content.Certificate().Raw}},
		TimestampVerificationData: &protobundle.TimestampVerificationData{},
	}
	for _, e := range entries {
		tle := e.TransparencyLogEntry()
		if tle.KindVersion == nil { // the testing authority leaves it out
			tle.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
		}
		material.TlogEntries = append(material.TlogEntries, tle)
	}
	for _, s := range stamps {
		material.TimestampVerificationData.Rfc3161Timestamps = append(material.TimestampVerificationData.Rfc3161Timestamps, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: s})
	}
	env := signature.EnvelopeContent().RawEnvelope()
	payload, err := env.DecodeB64Payload()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(env.Signatures[0].Sig)
	if err != nil {
		t.Fatal(err)
	}
	b, err := protojson.Marshal(&protobundle.Bundle{MediaType: BundleType, VerificationMaterial: material, Content: &protobundle.Bundle_DsseEnvelope{
		DsseEnvelope: &protodsse.Envelope{Payload: payload, PayloadType: env.PayloadType, Signatures: []*protodsse.Signature{{Sig: sig}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keylessPolicy(t *testing.T, s *ca.VirtualSigstore, subject, more string) *Policy {
	t.Helper()
	text := fmt.Sprintf("version: 1\nidentities:\n  ci:\n    issuer: %s\n    subject: %q\n    roots: roots.json\n%srules:\n  - {identities: [ci], claims: [signature], repositories: [\"**\"], maxAge: 2h}\n", ciIssuer, subject, more)
	p, err := ReadPolicy("trust.yaml", []byte(text), func(string) ([]byte, error) { return rootsFile(t, s), nil })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKeyless(t *testing.T) {
	s, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	other, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	const pattern = "https://forge.example/acme/app/.ci/release.yml@refs/tags/*"
	good := keyless(t, s, production, ciSubject, ciIssuer)
	edit := func(change func(map[string]any)) []byte {
		var v map[string]any
		if err := json.Unmarshal(good, &v); err != nil {
			t.Fatal(err)
		}
		change(v)
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	material := func(v map[string]any) map[string]any { return v["verificationMaterial"].(map[string]any) }

	o, err := Open(good, production, keylessPolicy(t, s, pattern, ""), "", now)
	if err != nil {
		t.Fatal(err)
	}
	when, dated := o.Signed()
	if o.Identity() != "ci" || o.Signer() != ciSubject+" ("+ciIssuer+")" || !dated || now.Sub(when).Abs() > time.Hour {
		t.Errorf("%+v", o)
	}
	for _, c := range []struct {
		name    string
		bundle  []byte
		policy  *Policy
		subject oci.Digest
		now     time.Time
		reason  error
	}{
		{"other image", keyless(t, s, development, ciSubject, ciIssuer), keylessPolicy(t, s, pattern, ""), production, now, ErrSignature},
		{"other subject", keyless(t, s, production, "https://forge.example/mallory/app/.ci/release.yml@refs/tags/v1", ciIssuer), keylessPolicy(t, s, pattern, ""), production, now, ErrSignature},
		{"subject with a longer end", good, keylessPolicy(t, s, "https://forge.example/acme/app/.ci/release.yml", ""), production, now, ErrSignature},
		{"a dot is a dot", keyless(t, s, production, strings.Replace(ciSubject, "release.yml", "releaseXyml", 1), ciIssuer), keylessPolicy(t, s, pattern, ""), production, now, ErrSignature},
		{"other issuer", keyless(t, s, production, ciSubject, "https://token.evil.example"), keylessPolicy(t, s, pattern, ""), production, now, ErrSignature},
		{"other deployment", good, keylessPolicy(t, other, pattern, ""), production, now, ErrSignature},
		{"no log entry", edit(func(v map[string]any) { delete(material(v), "tlogEntries") }), keylessPolicy(t, s, pattern, ""), production, now, ErrSignature},
		{"rubbish log entry", edit(func(v map[string]any) { material(v)["tlogEntries"] = []any{map[string]any{"logIndex": "x"}} }), keylessPolicy(t, s, pattern, ""), production, now, ErrSignature},
		{"log entry of another claim", edit(func(v map[string]any) {
			var w map[string]any
			_ = json.Unmarshal(keyless(t, s, development, ciSubject, ciIssuer), &w)
			material(v)["tlogEntries"] = material(w)["tlogEntries"]
		}), keylessPolicy(t, s, pattern, ""), production, now, ErrSignature},
		{"changed payload", bytes.Replace(good, []byte(`"payload":"ey`), []byte(`"payload":"ez`), 1), keylessPolicy(t, s, pattern, ""), production, now, ErrSignature},
		{"key policy", good, policyFor(t, newKey(t, ECDSA), newKey(t, ECDSA), ""), production, now, ErrSignature},
		{"expired", good, keylessPolicy(t, s, pattern, ""), production, now.Add(24 * time.Hour), ErrTime},
		{"from the future", good, keylessPolicy(t, s, pattern, ""), production, now.Add(-24 * time.Hour), ErrTime},
		{"identity ended before", good, keylessPolicy(t, s, pattern, "    until: 2020-01-01\n"), production, now, ErrTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			if o, err := Open(c.bundle, c.subject, c.policy, "", c.now); !errors.Is(err, c.reason) || o.Valid() {
				t.Errorf("got %v, want %v", err, c.reason)
			}
		})
	}
}

func TestRootsWithoutTime(t *testing.T) {
	s, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]func() (*root.TrustedRoot, error){
		"no authority": func() (*root.TrustedRoot, error) {
			return root.NewTrustedRoot(root.TrustedRootMediaType01, nil, nil, s.TimestampingAuthorities(), s.RekorLogs())
		},
		"no time": func() (*root.TrustedRoot, error) {
			return root.NewTrustedRoot(root.TrustedRootMediaType01, s.FulcioCertificateAuthorities(), nil, nil, nil)
		},
	} {
		tr, err := r()
		if err != nil {
			t.Fatal(err)
		}
		b, err := tr.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readRoots(b); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
}

func FuzzReadRoots(f *testing.F) {
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := readRoots(data); err == nil && r.verifier == nil {
			t.Fatal("roots without a verifier")
		}
	})
}
