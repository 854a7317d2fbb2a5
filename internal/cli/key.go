package cli

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/trust"
)

// The variables that hold a private key's password. The second is cosign's.
const (
	passwordVariable       = "TWINHULL_KEY_PASSWORD"
	passwordVariableCosign = "COSIGN_PASSWORD"
)

func keyCommand() *Command {
	return &Command{
		Name: "key", Short: "make keys that sign claims",
		Long: `Keys are files as cosign keeps them: the private one is encrypted with a
password, and either program reads the other's.`,
		Sub: []*Command{keyGenerate()},
	}
}

func keyGenerate() *Command {
	var kind string
	var open bool
	return &Command{
		Name: "generate", Args: "PREFIX", Min: 1, Max: 1, Short: "make a key pair",
		Long: `Writes PREFIX.key, the private key, encrypted, and PREFIX.pub, the public one
that goes into trust policies. The password is taken from ` + passwordVariable + `
or ` + passwordVariableCosign + `, else it is asked for. Files that are there are not replaced.`,
		Examples: "twinhull key generate release\ntwinhull key generate --type ed25519 keys/gate",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&kind, "type", string(trust.ECDSA), "`TYPE` of the key: ecdsa (P-256) or ed25519")
			f.BoolVar(&open, "no-password", false, "encrypt with the empty password: whoever has the file can sign")
		},
		Run: func(_ context.Context, env *Env, args []string) error {
			t, err := trust.ParseKeyType(kind)
			if err != nil {
				return Usagef("--type: %w", err)
			}
			prefix := env.Path(args[0])
			private, public := prefix+".key", prefix+".pub"
			for _, p := range []string{private, public} {
				if _, err := os.Lstat(p); err == nil {
					return Refusedf("%s is there already", p).WithHint("choose another name: a key that is replaced can sign nothing any more, and what it signed may still be needed")
				} else if !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			var password []byte
			if !open {
				if password, err = newPassword(env); err != nil {
					return err
				}
			}
			key, err := trust.Generate(t)
			if err != nil {
				return err
			}
			secret, err := key.Encrypt(password)
			if err != nil {
				return err
			}
			shown, err := trust.PublicPEM(key.PublicKey())
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(private), 0o755); err != nil {
				return err
			}
			if err := durable.WriteFile(private, secret, 0o600); err != nil {
				return err
			}
			if err := durable.WriteFile(public, shown, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(env.Stdout, "%s\n%s\n", private, public)
			return nil
		},
	}
}

// passwordFromEnvironment returns the password of the two variables.
func passwordFromEnvironment(env *Env) (string, bool) {
	for _, name := range []string{passwordVariable, passwordVariableCosign} {
		if p := env.Getenv(name); p != "" {
			return p, true
		}
	}
	return "", false
}

func newPassword(env *Env) ([]byte, error) {
	if p, ok := passwordFromEnvironment(env); ok {
		return []byte(p), nil
	}
	first, err := askPassword(env, "password for the new key: ")
	if err != nil {
		return nil, err
	}
	again, err := askPassword(env, "the same again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, again) {
		return nil, Refusedf("the two passwords differ; nothing was written")
	}
	return first, nil
}

func askPassword(env *Env, prompt string) ([]byte, error) {
	f, ok := env.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, Usagef("the key needs a password, and there is no terminal to ask at").
			WithHint("set %s, or pass --no-password for a key without one", passwordVariable)
	}
	fmt.Fprint(env.Stderr, prompt)
	p, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(env.Stderr)
	return p, err
}

// openSigner opens what --key names: a file of ours or cosign's, or a key of a
// key management service.
func openSigner(ctx context.Context, env *Env, ref string) (trust.Signer, error) {
	if ref == "" {
		return nil, Usagef("no key: nobody would sign").WithHint("--key FILE.key; `twinhull key generate NAME` makes one")
	}
	if trust.IsKMS(ref) {
		return trust.OpenKMS(ctx, ref)
	}
	file, err := os.ReadFile(env.Path(strings.TrimPrefix(ref, "file://")))
	if err != nil {
		return nil, err
	}
	if p, ok := passwordFromEnvironment(env); ok {
		k, err := trust.ReadKey(file, []byte(p))
		return signerOf(k, err, ref)
	}
	// A key without a password is tried before anybody is asked.
	k, err := trust.ReadKey(file, nil)
	if !errors.Is(err, trust.ErrPassword) || !isTerminal(env.Stdin) {
		return signerOf(k, err, ref)
	}
	p, err := askPassword(env, "password of "+ref+": ")
	if err != nil {
		return nil, err
	}
	k, err = trust.ReadKey(file, p)
	return signerOf(k, err, ref)
}

func signerOf(k *trust.Key, err error, ref string) (trust.Signer, error) {
	if errors.Is(err, trust.ErrPassword) {
		return nil, Refusedf("%s: %w", ref, err).WithHint("the password is taken from %s or %s", passwordVariable, passwordVariableCosign)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	return k, nil
}

// readPublicKey reads a public key file.
func readPublicKey(env *Env, path string) (crypto.PublicKey, error) {
	b, err := os.ReadFile(env.Path(path))
	if err != nil {
		return nil, err
	}
	k, err := trust.ReadPublic(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}
