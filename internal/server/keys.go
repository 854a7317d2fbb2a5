package server

import (
	"context"
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
// DATA/keys/server.key, made on the first start and encrypted with the password
// if there is one; else whoever can read the file can sign, which is whoever can
// read the server's folder.
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
	k, err := trust.ReadKey(file, password)
	if errors.Is(err, trust.ErrPassword) {
		return nil, false, fmt.Errorf("%s: %w\nhint: the password is taken from release.passwordFile or %s", path, err, passwordVariable)
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, err)
	}
	return k, made, nil
}

func makeKey(path string, password []byte) error {
	k, err := trust.Generate(trust.ECDSA)
	if err != nil {
		return err
	}
	private, err := k.Encrypt(password)
	if err != nil {
		return err
	}
	public, err := trust.PublicPEM(k.PublicKey())
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
