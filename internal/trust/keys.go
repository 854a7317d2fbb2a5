// Package trust decides whom to believe: it signs statements, and it turns
// signed bytes into claims that may be believed, or into an error.
//
// An Opened claim can only come from Open, which checks form, signature,
// identity, subject, kind, repository and time before it returns anything;
// nothing outside this package can make one out of bytes. What a claim says is
// in package evidence and its neighbours; whether what it says is enough is for
// package policy; where claims are kept is in package referrers below.
package trust

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// KeyType is a kind of signing key.
type KeyType string

// The key types. Others are refused for signing and for verifying: each more is
// another way to be wrong.
const (
	ECDSA   KeyType = "ecdsa" // P-256 with SHA-256, what cosign makes by default
	Ed25519 KeyType = "ed25519"
)

// ParseKeyType accepts the two names.
func ParseKeyType(s string) (KeyType, error) {
	switch t := KeyType(s); t {
	case ECDSA, Ed25519:
		return t, nil
	}
	return "", fmt.Errorf("key type %q: want %s or %s", s, ECDSA, Ed25519)
}

// Signer makes signatures. A key file (Key) is one, a key management service
// (OpenKMS) another.
type Signer interface {
	// PublicKey is an *ecdsa.PublicKey on P-256 or an ed25519.PublicKey.
	PublicKey() crypto.PublicKey
	// Sign returns a signature over the message itself: ASN.1 over its SHA-256
	// for ECDSA, RFC 8032 for Ed25519.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// Key is a private key in memory.
type Key struct{ private crypto.Signer }

// Generate makes a key.
func Generate(t KeyType) (*Key, error) {
	switch t {
	case ECDSA:
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return &Key{k}, nil
	case Ed25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return &Key{k}, nil
	}
	return nil, fmt.Errorf("key type %q: want %s or %s", t, ECDSA, Ed25519)
}

// PublicKey implements Signer.
func (k *Key) PublicKey() crypto.PublicKey { return k.private.Public() }

// Sign implements Signer.
func (k *Key) Sign(_ context.Context, message []byte) ([]byte, error) {
	if _, ok := k.private.(ed25519.PrivateKey); ok {
		return k.private.Sign(rand.Reader, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// PEM block types of private keys. cosign 1 wrote the older name.
const (
	pemPrivate      = "ENCRYPTED SIGSTORE PRIVATE KEY"
	pemPrivateOlder = "ENCRYPTED COSIGN PRIVATE KEY"
	pemPublic       = "PUBLIC KEY"
)

// maxKeyFile bounds a key file, in bytes.
const maxKeyFile = 64 << 10

// Encrypt returns the private key as cosign keeps one: PKCS #8, encrypted with
// secretbox under a key that scrypt makes of the password, in PEM. An empty
// password is allowed, as cosign allows it.
func (k *Key) Encrypt(password []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	box, err := encrypted.Encrypt(der, password)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: box}), nil
}

// ErrPassword is matched when a private key cannot be decrypted.
var ErrPassword = errors.New("the password is wrong or the file is damaged")

// ReadKey reads a private key file of ours or of cosign's.
func ReadKey(file []byte, password []byte) (*Key, error) {
	if len(file) > maxKeyFile {
		return nil, fmt.Errorf("private key: %d bytes: at most %d are read", len(file), maxKeyFile)
	}
	block, rest := pem.Decode(file)
	switch {
	case block == nil:
		return nil, errors.New("private key: no PEM block")
	case len(pemRest(rest)) > 0:
		return nil, errors.New("private key: more than one PEM block")
	case block.Type == "PRIVATE KEY" || block.Type == "EC PRIVATE KEY":
		return nil, errors.New("private key: the file is not encrypted\nhint: `cosign import-key-pair` makes an encrypted one of it")
	case block.Type != pemPrivate && block.Type != pemPrivateOlder:
		return nil, fmt.Errorf("private key: PEM block %q, want %q", block.Type, pemPrivate)
	}
	der, err := encrypted.Decrypt(block.Bytes, password)
	if err != nil {
		return nil, fmt.Errorf("private key: %w (%v)", ErrPassword, err)
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key: %T cannot sign", k)
	}
	if err := checkPublic(s.Public()); err != nil {
		return nil, err
	}
	return &Key{s}, nil
}

func pemRest(b []byte) []byte {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil
	}
	return b
}

func checkPublic(k crypto.PublicKey) error {
	switch k := k.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
		return fmt.Errorf("key on curve %s: want P-256 or Ed25519", k.Curve.Params().Name)
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return nil
		}
	}
	return fmt.Errorf("key of type %T: want ECDSA on P-256 or Ed25519", k)
}

// PublicPEM encodes a public key (PKIX in PEM).
func PublicPEM(k crypto.PublicKey) ([]byte, error) {
	if err := checkPublic(k); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}), nil
}

// ReadPublic reads a public key file: one PEM block, ECDSA P-256 or Ed25519.
func ReadPublic(file []byte) (crypto.PublicKey, error) {
	if len(file) > maxKeyFile {
		return nil, fmt.Errorf("public key: %d bytes: at most %d are read", len(file), maxKeyFile)
	}
	block, rest := pem.Decode(file)
	switch {
	case block == nil:
		return nil, errors.New("public key: no PEM block")
	case len(pemRest(rest)) > 0:
		return nil, errors.New("public key: more than one PEM block")
	case block.Type != pemPublic:
		return nil, fmt.Errorf("public key: PEM block %q, want %q", block.Type, pemPublic)
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if err := checkPublic(k); err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return k, nil
}

// KeyID names a public key: base64 of the SHA-256 of its PKIX form, as the
// hint of a Sigstore bundle has it.
func KeyID(k crypto.PublicKey) (string, error) {
	if err := checkPublic(k); err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

// verifySignature checks a signature over a message. Of Ed25519 both variants
// are taken: cosign signs some things with the prehashed one (Ed25519ph), which
// is a separate scheme with a separate prefix, so that neither stands for the
// other.
func verifySignature(k crypto.PublicKey, message, sig []byte) bool {
	switch k := k.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return false
		}
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return false
		}
		if ed25519.Verify(k, message, sig) {
			return true
		}
		sum := sha512.Sum512(message)
		return ed25519.VerifyWithOptions(k, sum[:], sig, &ed25519.Options{Hash: crypto.SHA512}) == nil
	}
	return false
}
