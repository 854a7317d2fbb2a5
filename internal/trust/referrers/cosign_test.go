package referrers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/sbom"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/trust"
)

// cosign finds the program that we must agree with. It takes minutes to build,
// so it is not a dependency; tools/prepare-tests or a person provides it.
func cosign(t *testing.T) func(args ...string) (string, error) {
	t.Helper()
	path := os.Getenv("TWINHULL_COSIGN")
	if path == "" {
		var err error
		if path, err = exec.LookPath("cosign"); err != nil {
			t.Skip("no cosign: `go install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3`, then set TWINHULL_COSIGN to it or put it on the PATH")
		}
	}
	home := t.TempDir()
	return func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Dir = home
		// Nothing here may need a network: a proxy that nobody serves would be
		// in the way of every attempt.
		cmd.Env = append(os.Environ(), "COSIGN_PASSWORD="+password, "HOME="+home, "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1", "COSIGN_YES=true")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
}

const password = "correct horse"

// someImage pushes an image to a registry of this test.
func someImage(t *testing.T, options ...registry.Option) (oci.Ref, oci.Descriptor, Place) {
	t.Helper()
	server := httptest.NewServer(registry.New(append(options, registry.Logger(quiet))...))
	t.Cleanup(server.Close)
	ref := oci.Ref{Kind: oci.RegistryRef, Host: strings.TrimPrefix(server.URL, "http://"), Name: "shop/app"}
	return pushImage(t, ref)
}

func pushImage(t *testing.T, ref oci.Ref) (oci.Ref, oci.Descriptor, Place) {
	t.Helper()
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	n, err := name.ParseReference(ref.String()+":1.0", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(n, img); err != nil {
		t.Fatal(err)
	}
	p, err := InRegistry(ref, RegistryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := descriptorOf(t, img)
	ref.Digest = d.Digest
	return ref, d, p
}

func descriptorOf(t *testing.T, img v1.Image) oci.Descriptor {
	t.Helper()
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	return oci.Descriptor{MediaType: string(m), Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

func attach(t *testing.T, p Place, k trust.Signer, subject oci.Descriptor, predicateType string, predicate any) []byte {
	t.Helper()
	s, err := evidence.New("shop/app", subject.Digest, predicateType, predicate)
	if err != nil {
		t.Fatal(err)
	}
	b, err := trust.Sign(t.Context(), s, k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(t.Context(), p, subject, b, predicateType, time.Now()); err != nil {
		t.Fatal(err)
	}
	return b
}

// keyFiles writes a key pair for cosign to read.
func keyFiles(t *testing.T, k *trust.Key) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	private, public = filepath.Join(dir, "k.key"), filepath.Join(dir, "k.pub")
	secret, err := k.Encrypt([]byte(password))
	if err != nil {
		t.Fatal(err)
	}
	shown, err := trust.PublicPEM(k.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(private, secret, 0o600), os.WriteFile(public, shown, 0o644)); err != nil {
		t.Fatal(err)
	}
	return private, public
}

func document(t *testing.T, subject oci.Descriptor) (spdx, cdx json.RawMessage) {
	t.Helper()
	d := sbom.Document{Name: "app", Image: subject.Digest, Created: time.Unix(1, 0), Packages: []sbom.Package{{Type: "npm", Name: "zod", Version: "3.23.8", PURL: evidence.NPMURL("zod", "3.23.8")}}}
	a, err := sbom.SPDX(d)
	if err != nil {
		t.Fatal(err)
	}
	b, err := sbom.CycloneDX(d)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// TestCosignAcceptsOurs: what we sign, `cosign verify` and `cosign
// verify-attestation` accept, and nothing else.
func TestCosignAcceptsOurs(t *testing.T) {
	run := cosign(t)
	for _, c := range []struct {
		name    string
		kind    trust.KeyType
		options []registry.Option
	}{
		{"ecdsa", trust.ECDSA, []registry.Option{registry.WithReferrersSupport(true)}},
		{"ed25519", trust.Ed25519, []registry.Option{registry.WithReferrersSupport(true)}},
		{"registry without referrers", trust.ECDSA, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			ref, subject, p := someImage(t, c.options...)
			k, err := trust.Generate(c.kind)
			if err != nil {
				t.Fatal(err)
			}
			_, public := keyFiles(t, k)
			other, err := trust.Generate(c.kind)
			if err != nil {
				t.Fatal(err)
			}
			_, wrong := keyFiles(t, other)
			verify := []string{"verify", "--key", public, "--insecure-ignore-tlog=true", "--private-infrastructure", ref.String()}
			if out, err := run(verify...); err == nil {
				t.Fatalf("an unsigned image was accepted: %s", out)
			}
			spdx, cdx := document(t, subject)
			attach(t, p, k, subject, evidence.TypeSignature, struct{}{})
			attach(t, p, k, subject, evidence.TypeSPDX, spdx)
			attach(t, p, k, subject, evidence.TypeCycloneDX, cdx)
			attach(t, p, k, subject, evidence.TypeProvenance, map[string]any{"buildDefinition": map[string]any{"buildType": "https://x.test/b"}, "runDetails": map[string]any{"builder": map[string]any{"id": "https://x.test/i"}}})
			attach(t, p, k, subject, evidence.TypeReference, evidence.Refer("sbom", evidence.MediaSPDX, digest.FromBytes(spdx)))
			attach(t, p, k, subject, evidence.TypeTests, map[string]any{"result": "PASSED", "configuration": []any{}})

			if out, err := run(verify...); err != nil {
				t.Fatalf("cosign verify: %v\n%s", err, out)
			}
			verify[2] = wrong
			if out, err := run(verify...); err == nil {
				t.Errorf("cosign verify with another key: %s", out)
			}
			for _, typ := range []string{"spdxjson", "cyclonedx", "slsaprovenance1", evidence.TypeReference, evidence.TypeTests} {
				args := []string{"verify-attestation", "--key", public, "--insecure-ignore-tlog=true", "--private-infrastructure", "--type", typ, ref.String()}
				out, err := run(args...)
				if err != nil {
					t.Errorf("cosign verify-attestation --type %s: %v\n%s", typ, err, out)
				}
				args[2] = wrong
				if out, err := run(args...); err == nil {
					t.Errorf("cosign verify-attestation --type %s with another key: %s", typ, out)
				}
			}
			if out, err := run("verify-attestation", "--key", public, "--insecure-ignore-tlog=true", "--private-infrastructure", "--type", "openvex", ref.String()); err == nil {
				t.Errorf("cosign found a claim that nobody made: %s", out)
			}
		})
	}
}

// TestWeAcceptCosigns: what cosign signs with our keys and its own, we open.
func TestWeAcceptCosigns(t *testing.T) {
	run := cosign(t)
	must := func(args ...string) {
		t.Helper()
		if out, err := run(args...); err != nil {
			t.Fatalf("cosign %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	for _, c := range []struct {
		name string
		kind trust.KeyType // "" for a key that cosign makes
	}{{"our ecdsa", trust.ECDSA}, {"our ed25519", trust.Ed25519}, {"cosign's own key", ""}} {
		t.Run(c.name, func(t *testing.T) {
			ref, subject, p := someImage(t, registry.WithReferrersSupport(true))
			var private, public string
			if c.kind != "" {
				k, err := trust.Generate(c.kind)
				if err != nil {
					t.Fatal(err)
				}
				private, public = keyFiles(t, k)
			} else {
				prefix := filepath.Join(t.TempDir(), "theirs")
				must("generate-key-pair", "--output-key-prefix", prefix)
				private, public = prefix+".key", prefix+".pub"
				file, err := os.ReadFile(private)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := trust.ReadKey(file, []byte(password)); err != nil {
					t.Errorf("cosign's private key: %v", err)
				}
			}
			file, err := os.ReadFile(public)
			if err != nil {
				t.Fatal(err)
			}
			pub, err := trust.ReadPublic(file)
			if err != nil {
				t.Fatal(err)
			}
			policy, err := trust.KeyPolicy(pub)
			if err != nil {
				t.Fatal(err)
			}
			spdx, _ := document(t, subject)
			doc := filepath.Join(t.TempDir(), "sbom.json")
			if err := os.WriteFile(doc, spdx, 0o644); err != nil {
				t.Fatal(err)
			}
			must("sign", "--key", private, "--tlog-upload=false", "--use-signing-config=false", ref.String())
			must("attest", "--key", private, "--tlog-upload=false", "--use-signing-config=false", "--type", "spdxjson", "--predicate", doc, ref.String())

			found, err := Claims(t.Context(), p, subject.Digest)
			if err != nil {
				t.Fatal(err)
			}
			kinds := map[evidence.Kind]bool{}
			for _, f := range found {
				if f.Err != nil {
					t.Error(f.Err)
					continue
				}
				o, err := trust.Open(f.Bundle, subject.Digest, policy, ref.Host+"/"+ref.Name, time.Now())
				if err != nil {
					t.Errorf("%s: %v\n%s", f.Says, err, f.Bundle)
					continue
				}
				kinds[o.Kind()] = true
				if o.PredicateType() != f.Says {
					t.Errorf("annotated %q, is %q", f.Says, o.PredicateType())
				}
				if _, err := trust.Open(f.Bundle, digest.FromString("other"), policy, "", time.Now()); !errors.Is(err, trust.ErrSubject) {
					t.Errorf("replayed: %v", err)
				}
			}
			if !kinds[evidence.Signature] || !kinds[evidence.SBOM] {
				t.Errorf("found %d, opened %v", len(found), kinds)
			}
		})
	}
}
