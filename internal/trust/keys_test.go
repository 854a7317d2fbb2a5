package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"twinhull.dev/twinhull/internal/evidence"
)

func TestKeyFiles(t *testing.T) {
	for _, kind := range []KeyType{ECDSA, Ed25519} {
		k := newKey(t, kind)
		file, err := k.Encrypt([]byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		back, err := ReadKey(file, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		if !back.PublicKey().(interface{ Equal(crypto.PublicKey) bool }).Equal(k.PublicKey()) {
			t.Error("another key came back")
		}
		if kind == ECDSA { // once: each password takes its time, by design
			if _, err := ReadKey(file, []byte("Secret")); !errors.Is(err, ErrPassword) {
				t.Errorf("wrong password: %v", err)
			}
		}
		public, err := ReadPublic([]byte(publicPEM(t, k)))
		if err != nil {
			t.Fatal(err)
		}
		sig, err := back.Sign(t.Context(), []byte("m"))
		if err != nil {
			t.Fatal(err)
		}
		if !verifySignature(public, []byte("m"), sig) || verifySignature(public, []byte("n"), sig) || verifySignature(newKey(t, kind).PublicKey(), []byte("m"), sig) {
			t.Error("signatures")
		}
		if verifySignature(public, []byte("m"), nil) || verifySignature(nil, []byte("m"), sig) {
			t.Error("nothing verifies")
		}
	}
}

func TestPrehashedEd25519(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512([]byte("m"))
	sig, err := private.Sign(rand.Reader, sum[:], crypto.SHA512)
	if err != nil {
		t.Fatal(err)
	}
	if !verifySignature(public, []byte("m"), sig) || verifySignature(public, sum[:], sig) {
		t.Error("Ed25519ph")
	}
}

func TestRefusedKeys(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]crypto.Signer{"P-384": p384, "RSA": weak} {
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPublic(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err == nil || !strings.Contains(err.Error(), "P-256") {
			t.Errorf("%s: %v", name, err)
		}
		if der, err = x509.MarshalPKCS8PrivateKey(k); err != nil {
			t.Fatal(err)
		}
		box, err := encrypted.Encrypt(der, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: box}), nil); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	good := publicPEM(t, newKey(t, ECDSA))
	for name, bad := range map[string]string{
		"two keys": good + good, "nothing": "", "rubbish": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"certificate": strings.ReplaceAll(good, "PUBLIC KEY", "CERTIFICATE"), "huge": strings.Repeat(" ", maxKeyFile+1),
	} {
		if _, err := ReadPublic([]byte(bad)); err == nil {
			t.Errorf("public key, %s: read", name)
		}
		if _, err := ReadKey([]byte(bad), nil); err == nil {
			t.Errorf("private key, %s: read", name)
		}
	}
	// Parameters of the key derivation that would take all memory.
	bomb := pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: []byte(`{"kdf":{"name":"scrypt","params":{"N":1073741824,"r":8,"p":1},"salt":"AAAA"},"cipher":{"name":"nacl/secretbox","nonce":"AAAA"},"ciphertext":"AAAA"}`)})
	if _, err := ReadKey(bomb, nil); !errors.Is(err, ErrPassword) {
		t.Errorf("scrypt bomb: %v", err)
	}
}

type lyingSigner struct{ *Key }

func (l lyingSigner) PublicKey() crypto.PublicKey {
	k, _ := Generate(ECDSA)
	return k.PublicKey()
}

func TestSignChecksItself(t *testing.T) {
	s, err := evidence.New("app", production, evidence.TypeSignature, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := Sign(t.Context(), s, lyingSigner{newKey(t, ECDSA)}); err == nil {
		t.Errorf("signed %s", b)
	}
	if b, err := Sign(t.Context(), []byte("{}"), newKey(t, ECDSA)); err == nil {
		t.Errorf("signed %s", b)
	}
	big, err := evidence.New("app", production, "https://example.test/big", map[string]string{"x": strings.Repeat("x", MaxBundle-1000)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(t.Context(), big, newKey(t, ECDSA)); err == nil || !strings.Contains(err.Error(), "refer") {
		t.Errorf("a claim that nobody could open: %v", err)
	}
}

// TestKMS drives a key management service through sigstore's plugin protocol: a
// program on the PATH, here a shell script that holds one fixed answer.
func TestKMS(t *testing.T) {
	if _, err := OpenKMS(t.Context(), "nosuchkms://key"); err == nil || !strings.Contains(err.Error(), "sigstore-kms-nosuchkms") {
		t.Errorf("missing plugin: %v", err)
	}
	for ref, want := range map[string]bool{"awskms:///alias/x": true, "k.key": false, "/a/b": false, "file:///a": false, "://": false} {
		if IsKMS(ref) != want {
			t.Errorf("IsKMS(%q) = %v", ref, !want)
		}
	}
	dir := t.TempDir()
	k := newKey(t, ECDSA)
	public := strings.ReplaceAll(b64([]byte(publicPEM(t, k))), "\n", "")
	// The signature is over other bytes: what is signed must fit the key, or
	// nothing is signed.
	script := "#!/bin/sh\ncat >/dev/null 2>&1 </dev/null\ncase \"$2\" in\n*publicKey*) echo '{\"publicKey\":{\"publicKeyPEM\":\"" + public + "\"}}';;\n*) echo '{\"signMessage\":{\"signature\":\"AAAA\"}}';;\nesac\n"
	if err := os.WriteFile(filepath.Join(dir, "sigstore-kms-testkms"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	s, err := OpenKMS(t.Context(), "testkms://key")
	if err != nil {
		t.Fatal(err)
	}
	if !k.PublicKey().(*ecdsa.PublicKey).Equal(s.PublicKey()) {
		t.Error("another public key")
	}
	statement, err := evidence.New("app", production, evidence.TypeSignature, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(t.Context(), statement, s); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("a service that signs other bytes: %v", err)
	}
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func FuzzReadKeys(f *testing.F) {
	k := newKey(f, ECDSA)
	f.Add([]byte(publicPEM(f, k)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := ReadPublic(data); err == nil {
			if _, err := KeyID(k); err != nil {
				t.Fatal("read a key that has no name")
			}
		}
	})
}
