package deb

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
)

// Keyring is the set of OpenPGP keys whose signatures are believed. The zero
// Keyring believes nobody.
type Keyring struct {
	keys openpgp.EntityList
}

// Len is the number of primary keys.
func (k Keyring) Len() int { return len(k.keys) }

// Fingerprints lists the primary keys in upper-case hex, sorted.
func (k Keyring) Fingerprints() []string {
	var out []string
	for _, e := range k.keys {
		out = append(out, fingerprint(e))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func fingerprint(e *openpgp.Entity) string {
	return strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint))
}

// LoadKeyring reads keyring files, binary or armored, as apt's Signed-By names
// them. A file that cannot be read or holds no key is an error.
func LoadKeyring(paths ...string) (Keyring, error) {
	var all Keyring
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return Keyring{}, fmt.Errorf("deb: keyring: %w", err)
		}
		k, err := ParseKeyring(data)
		if err != nil {
			return Keyring{}, fmt.Errorf("deb: keyring %s: %w", path, err)
		}
		all = all.Join(k)
	}
	if all.Len() == 0 {
		return Keyring{}, errors.New("deb: no keyring given: name the files that hold the archive's public keys")
	}
	return all, nil
}

// ParseKeyring reads public keys from the bytes of a keyring: one binary
// keyring, or one or more armored blocks.
func ParseKeyring(data []byte) (Keyring, error) {
	var all Keyring
	if !bytes.Contains(data, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")) {
		keys, err := openpgp.ReadKeyRing(bytes.NewReader(data))
		if err != nil {
			return Keyring{}, fmt.Errorf("neither binary nor armored OpenPGP keys: %w", err)
		}
		all.keys = keys
	} else {
		// The armor decoder reads ahead, so each block is cut out for it.
		for _, part := range bytes.SplitAfter(data, []byte("-----END PGP PUBLIC KEY BLOCK-----")) {
			if !bytes.Contains(part, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")) {
				continue // text after the last block
			}
			block, err := armor.Decode(bytes.NewReader(append(bytes.Clone(part), '\n')))
			if err != nil {
				return Keyring{}, fmt.Errorf("armored OpenPGP key: %w", err)
			}
			keys, err := openpgp.ReadKeyRing(block.Body)
			if err != nil {
				return Keyring{}, err
			}
			all.keys = append(all.keys, keys...)
		}
	}
	if all.Len() == 0 {
		return Keyring{}, errors.New("no OpenPGP public key in it")
	}
	return all, nil
}

// Join gives the keys of both keyrings.
func (k Keyring) Join(other Keyring) Keyring {
	return Keyring{append(slices.Clone(k.keys), other.keys...)}
}

// Release is what a verified InRelease file says of a suite. Nothing in it comes
// from outside the signed text.
type Release struct {
	Origin, Label string
	Suite         string // "stable", "oldstable-security"
	Codename      string // "trixie", "bookworm-security"
	Date          time.Time
	ValidUntil    *time.Time // nil when the release does not expire
	AcquireByHash bool       // indexes can be fetched by their hash
	Architectures []string
	Components    []string
	Files         map[string]File // index files by path relative to the suite's folder

	Digest   oci.Digest // SHA-256 of the InRelease file's bytes
	SignedBy []string   // primary keys whose signatures verified, upper-case hex, sorted
}

// File is one entry of a release's SHA256 list.
type File struct {
	SHA256 oci.Digest
	Size   int64
}

// MaxSkew is how far in the future a release's date or signature may lie: the
// clocks of mirror and machine differ, and no more.
const MaxSkew = 24 * time.Hour

// MaxInRelease bounds an InRelease file; Debian's are some 150 KB.
const MaxInRelease = 16 << 20

const (
	beginMessage   = "-----BEGIN PGP SIGNED MESSAGE-----\n"
	beginSignature = "\n-----BEGIN PGP SIGNATURE-----\n"
	endSignature   = "\n-----END PGP SIGNATURE-----\n"
)

// ExpiredError says that a release's Valid-Until has passed.
type ExpiredError struct {
	Codename        string
	ValidUntil, Now time.Time
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("deb: the release of %s was valid until %s and it is %s: the mirror is out of date or holds back updates; use another mirror, or say that an old state is wanted with --as-of %s",
		e.Codename, e.ValidUntil.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339), e.ValidUntil.UTC().Format(time.DateOnly))
}

// ParseInRelease verifies a clear-signed release file and reads it. At least one
// signature must be valid at the time now: made by a signing key of the keyring
// that is neither expired nor revoked, with SHA-256 or better. Signatures by
// keys that the keyring does not have are ignored, as archives sign with old
// and new keys at once; a signature by a known key that does not verify is an
// error even beside a valid one.
//
// The file must be exactly one signed message: text before or after it, a
// second message or a second signature block is refused, so that no reader can
// take unsigned text for signed.
//
// A release whose Valid-Until has passed is an *ExpiredError; one dated more
// than MaxSkew after now is refused.
func ParseInRelease(data []byte, keys Keyring, now time.Time) (*Release, error) {
	text, signers, err := verify(data, keys, now)
	if err != nil {
		return nil, err
	}
	r, err := parseRelease(text)
	if err != nil {
		return nil, fmt.Errorf("deb: the signed release file is malformed: %w", err)
	}
	r.SignedBy = signers
	r.Digest = digest.FromBytes(data)
	if r.Date.After(now.Add(MaxSkew)) {
		return nil, fmt.Errorf("deb: the release of %s is dated %s and it is %s here: set this machine's clock, or give a later --as-of", r.Codename, r.Date.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if r.ValidUntil != nil && now.After(*r.ValidUntil) {
		return nil, &ExpiredError{r.Codename, *r.ValidUntil, now}
	}
	return r, nil
}

// verify returns the signed text and the primary keys that signed it.
func verify(data []byte, keys Keyring, now time.Time) ([]byte, []string, error) {
	bad := func(format string, args ...any) ([]byte, []string, error) {
		return nil, nil, fmt.Errorf("deb: InRelease: "+format, args...)
	}
	if len(data) > MaxInRelease {
		return bad("larger than %d MiB", MaxInRelease>>20)
	}
	// The shape is checked before the library reads it, which is more lenient
	// than is wanted here.
	if !bytes.HasPrefix(data, []byte(beginMessage)) {
		return bad("not a clear-signed file: it must begin with %q (is this a mirror, or a page of a proxy?)", strings.TrimSpace(beginMessage))
	}
	if i := slices.IndexFunc(data, func(c byte) bool { return c < ' ' && c != '\n' && c != '\t' || c == 0x7f }); i >= 0 {
		return bad("control character %#02x at byte %d", data[i], i)
	}
	if bytes.Count(data, []byte("-----BEGIN PGP SIGNED MESSAGE")) != 1 ||
		bytes.Count(data, []byte("-----BEGIN PGP SIGNATURE")) != 1 ||
		bytes.Count(data, []byte("-----END PGP SIGNATURE")) != 1 {
		return bad("it must hold exactly one signed message with one signature block")
	}
	sigAt := bytes.Index(data, []byte(beginSignature))
	headerEnd := bytes.Index(data, []byte("\n\n"))
	if sigAt < 0 || headerEnd < 0 || headerEnd+2 > sigAt {
		return bad("the signed text is empty or its signature is missing")
	}
	end := bytes.Index(data, []byte(endSignature))
	if end < sigAt || end+len(endSignature) != len(data) {
		return bad("there is text after the signature")
	}
	for _, line := range bytes.Split(data[headerEnd+2:sigAt], []byte("\n")) {
		if len(line) > 0 && line[0] == '-' && !bytes.HasPrefix(line, []byte("- ")) {
			return bad("a line of the signed text begins with a hyphen that is not escaped (RFC 4880 section 7.1)")
		}
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return bad("the signed message cannot be read")
	}
	if len(rest) != 0 {
		return bad("there is text after the signature")
	}
	if block.ArmoredSignature.Type != openpgp.SignatureType {
		return bad("the signature block is of type %q", block.ArmoredSignature.Type)
	}

	var (
		signers []string
		refused []string // why signatures by known keys were not believed
		unknown []string
	)
	packets := packet.NewOpaqueReader(block.ArmoredSignature.Body)
	for n := 0; ; n++ {
		op, err := packets.Next()
		if err != nil {
			// The library does not tell the end from a truncation in all cases,
			// but a truncated packet cannot verify, and those before it did.
			break
		}
		if n == 32 {
			return bad("more than 32 signatures")
		}
		id, who, err := verifyOne(op, block.Bytes, keys, now)
		switch {
		case err == nil:
			signers = append(signers, who)
		case errors.Is(err, errUnknownKey):
			unknown = append(unknown, id)
		default:
			refused = append(refused, fmt.Sprintf("key %s: %v", id, err))
		}
	}
	// A broken signature by a known key means that the text was changed, or
	// that somebody pretends: do not go on because another one is fine. Expiry
	// and weak algorithms are different: the key did sign.
	for _, r := range refused {
		if strings.Contains(r, errBadSignature.Error()) {
			return bad("%s: the file was changed on its way; use another mirror", r)
		}
	}
	switch {
	case len(signers) > 0:
		slices.Sort(signers)
		return block.Plaintext, slices.Compact(signers), nil
	case len(refused) > 0:
		return bad("no signature can be believed: %s", strings.Join(refused, "; "))
	case len(unknown) > 0:
		return bad("it is signed by keys that the keyring does not have (%s); the keyring has %s: install the archive's newer keyring package or name its keyring", strings.Join(unknown, ", "), orNone(keys.Fingerprints()))
	}
	return bad("there is no signature in it")
}

func orNone(s []string) string {
	switch {
	case len(s) == 0:
		return "none"
	case len(s) > 4:
		return strings.Join(s[:4], ", ") + fmt.Sprintf(" and %d more", len(s)-4)
	}
	return strings.Join(s, ", ")
}

var (
	errUnknownKey   = errors.New("unknown key")
	errBadSignature = errors.New("the signature does not fit the text")
)

// verifyOne verifies one signature packet over the signed text. It returns the
// issuer's key id, and the primary fingerprint when the signature is believed.
func verifyOne(op *packet.OpaquePacket, signed []byte, keys Keyring, now time.Time) (id, signer string, err error) {
	const id0 = "(without an id)"
	p, err := op.Parse()
	if err != nil {
		return id0, "", errUnknownKey // of a kind that the library does not know
	}
	sig, ok := p.(*packet.Signature)
	if !ok || sig.IssuerKeyId == nil {
		return id0, "", errUnknownKey
	}
	id = fmt.Sprintf("%016X", *sig.IssuerKeyId)
	if len(keys.keys.KeysById(*sig.IssuerKeyId)) == 0 {
		return id, "", errUnknownKey
	}
	usable := keys.keys.KeysByIdUsage(*sig.IssuerKeyId, packet.KeyFlagSign)
	if len(usable) == 0 {
		return id, "", errors.New("the key may not sign")
	}
	switch sig.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA3_256, crypto.SHA3_512:
	default:
		return id, "", fmt.Errorf("the signature uses the weak hash %v; SHA-256 or better is wanted", sig.Hash)
	}
	if sig.SigType != packet.SigTypeText && sig.SigType != packet.SigTypeBinary {
		return id, "", errors.New("the signature is not one of a text")
	}
	if bits, err := usable[0].PublicKey.BitLength(); err == nil {
		switch usable[0].PublicKey.PubKeyAlgo {
		case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly, packet.PubKeyAlgoDSA:
			if bits < 2048 {
				return id, "", fmt.Errorf("the key has %d bits; at least 2048 are wanted", bits)
			}
		}
	}
	// A signature made moments ago by a machine whose clock is ahead is fine.
	at := now
	if sig.CreationTime.After(at) {
		if sig.CreationTime.After(at.Add(MaxSkew)) {
			return id, "", fmt.Errorf("the signature was made at %s and it is %s here: set this machine's clock, or give a later --as-of", sig.CreationTime.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
		}
		at = sig.CreationTime
	}
	var raw bytes.Buffer
	if err := op.Serialize(&raw); err != nil {
		return id, "", err
	}
	_, entity, err := openpgp.VerifyDetachedSignature(keys.keys, bytes.NewReader(signed), &raw, &packet.Config{Time: func() time.Time { return at }})
	switch {
	case entity == nil:
		return id, "", fmt.Errorf("%w (%v)", errBadSignature, err)
	case err != nil:
		return id, "", fmt.Errorf("%w at %s: install the archive's newer keyring package, or give an --as-of at which it was valid", err, at.UTC().Format(time.DateOnly))
	}
	return id, fingerprint(entity), nil
}

// parseRelease reads the signed text: one stanza.
func parseRelease(text []byte) (*Release, error) {
	r := &Release{Files: map[string]File{}}
	seen := map[string]bool{}
	var list bool // inside the SHA256 list
	for i, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		fail := func(format string, args ...any) (*Release, error) {
			return nil, fmt.Errorf("line %d: %s", i+1, fmt.Sprintf(format, args...))
		}
		if line == "" {
			return fail("an empty line: a release file is one stanza")
		}
		if line[0] == ' ' || line[0] == '\t' {
			if i == 0 {
				return fail("continuation line outside a field")
			}
			if !list {
				continue
			}
			f := strings.Fields(line)
			if len(f) != 3 {
				return fail("an entry of the SHA256 list must be a hash, a size and a path")
			}
			size, ok := parseSize(f[1])
			if !isSHA256(f[0]) || !ok || !cleanPath(f[2]) {
				return fail("%.120q is not an entry of a SHA256 list", line)
			}
			entry := File{digest.NewDigestFromEncoded(digest.SHA256, f[0]), size}
			if old, ok := r.Files[f[2]]; ok && old != entry {
				return fail("%s is listed twice with different hashes", f[2])
			}
			r.Files[f[2]] = entry
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return fail("neither a field nor a continuation: %.60q", line)
		}
		value = strings.TrimSpace(value)
		key := strings.ToLower(name)
		if seen[key] {
			return fail("field %s is given twice", name)
		}
		seen[key] = true
		list = key == "sha256"
		var err error
		switch key {
		case "origin":
			r.Origin = value
		case "label":
			r.Label = value
		case "suite":
			r.Suite = value
		case "codename":
			r.Codename = value
		case "date":
			r.Date, err = parseDate(value)
		case "valid-until":
			var t time.Time
			t, err = parseDate(value)
			r.ValidUntil = &t
		case "acquire-by-hash":
			err = yes(&r.AcquireByHash, value)
		case "architectures":
			r.Architectures = strings.Fields(value)
		case "components":
			r.Components = strings.Fields(value)
		}
		if err != nil {
			return fail("%s: %v", name, err)
		}
	}
	for _, f := range []string{"Codename", "Date", "SHA256"} {
		if !seen[strings.ToLower(f)] {
			return nil, fmt.Errorf("it has no field %s", f)
		}
	}
	return r, nil
}

// parseDate reads the one date format of release files, in UTC.
func parseDate(s string) (time.Time, error) {
	for _, layout := range []string{"Mon, 02 Jan 2006 15:04:05 UTC", "Mon, _2 Jan 2006 15:04:05 UTC", "Mon, 02 Jan 2006 15:04:05 +0000"} {
		if t, err := time.ParseInLocation(layout, s, time.UTC); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%.60q is not a date such as \"Sat, 12 Sep 2026 07:55:41 UTC\"", s)
}
