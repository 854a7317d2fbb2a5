package server

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/trust"
)

// passwordVariable holds the password of the server's key.
const passwordVariable = "TWINHULL_KEY_PASSWORD"

// openKey opens the key that signs summaries. Without a configured one it is
// DATA/keys/server.key, made on the first start: encrypted with the password if
// there is one, and else as plain PKCS #8. Encryption with the empty password, as
// cosign does it, would keep nobody out and cost each start 64 MiB.
func openKey(ctx context.Context, c Config, getenv func(string) string) (signer trust.Signer, made bool, err error) {
	password := []byte(getenv(passwordVariable))
	if c.Release.PasswordFile != "" {
		b, err := os.ReadFile(c.Release.PasswordFile)
		if err != nil {
			return nil, false, fmt.Errorf("release.passwordFile: %w", err)
		}
		password = []byte(strings.TrimRight(string(b), "\r\n"))
	}
	path := c.Release.Key
	if trust.IsKMS(path) {
		signer, err = trust.OpenKMS(ctx, path)
		return signer, false, err
	}
	if path == "" {
		path = filepath.Join(c.Data, "keys", "server.key")
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			if err := makeKey(path, password); err != nil {
				return nil, false, fmt.Errorf("making the server's key: %w", err)
			}
			made = true
		}
	}
	path = strings.TrimPrefix(path, "file://")
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, false, fmt.Errorf("the server's key: %w", err)
	}
	if b, _ := pem.Decode(file); b != nil && b.Type == plainType {
		k, err := readPlain(b.Bytes)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", path, err)
		}
		return k, made, nil
	}
	k, err := trust.ReadKey(file, password)
	if errors.Is(err, trust.ErrPassword) {
		return nil, false, fmt.Errorf("%s: %w\nhint: the password is taken from release.passwordFile or %s", path, err, passwordVariable)
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, err)
	}
	return k, made, nil
}

// plainType is the PEM type of a private key that is not encrypted (RFC 7468, 10).
const plainType = "PRIVATE KEY"

// plainKey signs as trust.Key does, with a key that was not encrypted.
type plainKey struct{ private *ecdsa.PrivateKey }

func readPlain(der []byte) (plainKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return plainKey{}, err
	}
	e, ok := k.(*ecdsa.PrivateKey)
	if !ok || e.Curve != elliptic.P256() {
		return plainKey{}, fmt.Errorf("key of type %T: want ECDSA on P-256, or a key that twinhull key generate made", k)
	}
	return plainKey{e}, nil
}

func (k plainKey) PublicKey() crypto.PublicKey { return k.private.Public() }

func (k plainKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return ecdsa.SignASN1(rand.Reader, k.private, sum[:])
}

func makeKey(path string, password []byte) error {
	var private []byte
	var signer trust.Signer
	if len(password) > 0 {
		k, err := trust.Generate(trust.ECDSA)
		if err != nil {
			return err
		}
		if private, err = k.Encrypt(password); err != nil {
			return err
		}
		signer = k
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return err
		}
		private, signer = pem.EncodeToMemory(&pem.Block{Type: plainType, Bytes: der}), plainKey{k}
	}
	public, err := trust.PublicPEM(signer.PublicKey())
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// The public one first: a private key whose public one is missing would not be
	// made again.
	if err := durable.WriteFile(strings.TrimSuffix(path, ".key")+".pub", public, 0o644); err != nil {
		return err
	}
	return durable.WriteFile(path, private, 0o600)
}
