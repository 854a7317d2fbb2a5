package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// Origin is the name of an installation's log: the first line of its
// checkpoints and the name of its keys.
func Origin(installation string) string { return "twinhull/" + installation + "/audit" }

// GenerateKey makes an Ed25519 key pair in the forms of C2SP signed-note: the
// private one ("PRIVATE+KEY+NAME+…") and the verifier's ("NAME+…"). A name has
// neither spaces nor a plus sign.
func GenerateKey(name string) (private, verifier string, err error) {
	if err := checkName(name); err != nil {
		return "", "", err
	}
	return note.GenerateKey(rand.Reader, name)
}

func checkName(name string) error {
	if name == "" || len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '+' || r >= 0x7f }) {
		return fmt.Errorf("key name %q: want 1 to 255 ASCII characters without spaces and plus signs", name)
	}
	return nil
}

// signer is a private key as it was read, with what verifies it.
type signer struct {
	note.Signer
	text     string // the private key
	verifier string // C2SP verifier key
}

// parseSigner reads a private key of an Ed25519 note.
func parseSigner(text string) (*signer, error) {
	text = strings.TrimSpace(text)
	s, err := note.NewSigner(text)
	if err != nil {
		return nil, errors.New("not a private key of C2SP signed-note (PRIVATE+KEY+NAME+HASH+KEY)")
	}
	// note.NewSigner has checked the form: five parts, of which the last may hold
	// plus signs.
	parts := strings.SplitN(text, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, errors.New("not an Ed25519 private key of C2SP signed-note")
	}
	public := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	v, err := note.NewEd25519VerifierKey(s.Name(), public)
	if err != nil {
		return nil, err
	}
	return &signer{s, text, v}, nil
}

// Trust is whom a reader of a log believes.
type Trust struct {
	// Log are the log's keys. Every checkpoint must be signed by one of them;
	// there are several while a key is being replaced. All have one name, which
	// is the log's origin.
	Log []note.Verifier
	// Witnesses are keys of those who cosign.
	Witnesses []note.Verifier
	// Quorum is how many of the witnesses must have signed a checkpoint before
	// it counts; 0 believes the log alone.
	Quorum int
}

// NewTrust reads verifier keys as `twinhull audit key` prints them: NAME+HASH+KEY
// of an Ed25519 key for the log, of an Ed25519 or cosignature key for witnesses.
func NewTrust(log, witnesses []string, quorum int) (*Trust, error) {
	t := &Trust{Quorum: quorum}
	for _, k := range log {
		v, err := note.NewVerifier(strings.TrimSpace(k))
		// note reads the hash in any case; a key has one form.
		if err != nil || !strings.HasPrefix(strings.TrimSpace(k), fmt.Sprintf("%s+%08x+", v.Name(), v.KeyHash())) {
			return nil, fmt.Errorf("log key %q: not a verifier key of C2SP signed-note (NAME+HASH+KEY)", k)
		}
		if len(t.Log) > 0 && v.Name() != t.Log[0].Name() {
			return nil, fmt.Errorf("keys of two logs: %s and %s", t.Log[0].Name(), v.Name())
		}
		t.Log = append(t.Log, v)
	}
	for _, k := range witnesses {
		v, err := parseWitnessKey(k)
		if err != nil {
			return nil, err
		}
		t.Witnesses = append(t.Witnesses, v)
	}
	return t, t.check()
}

func (t *Trust) check() error {
	if t == nil || len(t.Log) == 0 {
		return errors.New("no key of the log: nobody is believed by default")
	}
	for _, v := range t.Log {
		if v.Name() != t.Log[0].Name() {
			return fmt.Errorf("keys of two logs: %s and %s", t.Log[0].Name(), v.Name())
		}
	}
	if t.Quorum < 0 || t.Quorum > len(t.Witnesses) {
		return fmt.Errorf("a quorum of %d of %d witnesses", t.Quorum, len(t.Witnesses))
	}
	return nil
}

// Origin is the name of the log that is believed.
func (t *Trust) Origin() string { return t.Log[0].Name() }

func parseWitnessKey(k string) (v note.Verifier, err error) {
	k = strings.TrimSpace(k)
	bad := fmt.Errorf("witness key %q: not a verifier key of an Ed25519 cosigner (NAME+HASH+KEY)", k)
	// The name is all up to the first plus sign; the hash is compared, which
	// formats/note leaves out.
	name, rest, _ := strings.Cut(k, "+")
	hash, key64, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.Strict().DecodeString(key64)
	if err != nil || len(key) != 1+ed25519.PublicKeySize || checkName(name) != nil {
		return nil, bad
	}
	if v, err = fnote.NewVerifierForCosignatureV1(k); err != nil {
		return nil, bad
	}
	switch key[0] {
	case 1: // an Ed25519 key: its cosignatures have another hash
		if _, err := note.NewVerifier(k); err != nil {
			return nil, bad
		}
	case 4: // cosignature/v1
		if fmt.Sprintf("%08x", v.KeyHash()) != hash {
			return nil, bad
		}
	default:
		return nil, bad
	}
	return v, nil
}

// ReadKeys reads a file of verifier keys, one to a line; empty lines and those
// that begin with # are passed over.
func ReadKeys(r io.Reader) ([]string, error) {
	const most = 1 << 20
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if len(data) > most {
		return nil, errors.New("a key file of more than 1 MiB")
	}
	var keys []string
	for line := range strings.SplitSeq(string(data), "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	for _, k := range keys {
		if strings.HasPrefix(k, "PRIVATE+KEY+") {
			return nil, errors.New("this is a private key: give the public one (log.pub)")
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no verifier key in it")
	}
	return keys, nil
}
