package deb

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // for a signature that must be refused
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/google/go-cmp/cmp"
)

// testNow is when everything in these tests happens.
var testNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// newKey makes a primary key with a signing subkey, as Debian's are. life is
// how long it is valid from a year before testNow; 0 for ever.
func newKey(t testing.TB, name string, life time.Duration) *openpgp.Entity {
	t.Helper()
	c := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: uint32(life / time.Second), Time: func() time.Time { return testNow.AddDate(-1, 0, 0) }}
	e, err := openpgp.NewEntity(name, "", name+"@example.org", c)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.AddSigningSubkey(c); err != nil {
		t.Fatal(err)
	}
	return e
}

func ringOf(t testing.TB, keys ...*openpgp.Entity) Keyring {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	ring, err := ParseKeyring(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// sign clear-signs text at a time with the signing subkeys of keys.
func sign1(t testing.TB, text string, at time.Time, hash crypto.Hash, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var private []*packet.PrivateKey
	for _, k := range keys {
		s, ok := k.SigningKey(testNow.AddDate(-1, 0, 1))
		if !ok {
			t.Fatal("the key cannot sign")
		}
		private = append(private, s.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, private, &packet.Config{DefaultHash: hash, Time: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// weaklySigned signs with SHA-1, which the library does not do of itself.
func weaklySigned(t testing.TB, text string, key *openpgp.Entity) []byte {
	t.Helper()
	s, _ := key.SigningKey(testNow)
	id := s.PublicKey.KeyId
	sig := &packet.Signature{Version: 4, SigType: packet.SigTypeText, PubKeyAlgo: s.PublicKey.PubKeyAlgo, Hash: crypto.SHA1, CreationTime: testNow, IssuerKeyId: &id}
	h := crypto.SHA1.New()
	h.Write([]byte(strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\r\n")))
	if err := sig.Sign(h, s.PrivateKey, &packet.Config{NonDeterministicSignaturesViaNotation: new(bool)}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.WriteString(beginMessage + "Hash: SHA1\n\n" + text)
	w, err := armor.Encode(&b, openpgp.SignatureType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sig.Serialize(w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	b.WriteByte('\n')
	return b.Bytes()
}

func signed(t testing.TB, text string, keys ...*openpgp.Entity) []byte {
	return sign1(t, text, testNow.Add(-time.Hour), crypto.SHA256, keys...)
}

const releaseText = `Origin: Debian
Suite: stable
Codename: trixie
Date: Sun, 22 Nov 2026 10:00:00 UTC
Valid-Until: Sun, 29 Nov 2026 10:00:00 UTC
Acquire-By-Hash: yes
Architectures: all amd64 arm64
Components: main contrib
Description: a test
MD5Sum:
 00000000000000000000000000000000 5 main/binary-amd64/Packages
SHA256:
 ` + hash0 + ` 5 main/binary-amd64/Packages
 ` + hash0 + `        7 main/binary-amd64/Packages.xz
`

func TestParseInRelease(t *testing.T) {
	a, b, stranger := newKey(t, "a", 0), newKey(t, "b", 0), newKey(t, "stranger", 0)
	ring := ringOf(t, a, b)
	r, err := ParseInRelease(signed(t, releaseText, a, stranger, b), ring, testNow)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ring.Fingerprints(), r.SignedBy); diff != "" || len(r.SignedBy) != 2 {
		t.Errorf("signed by:\n%s", diff)
	}
	if r.Codename != "trixie" || r.Suite != "stable" || !r.AcquireByHash || r.Date.Hour() != 10 || r.ValidUntil.Day() != 29 || len(r.Files) != 2 || r.Files["main/binary-amd64/Packages.xz"].Size != 7 {
		t.Errorf("%+v", r)
	}
	// Dash escapes are undone.
	if _, err := ParseInRelease(signed(t, strings.Replace(releaseText, "Description: a test", "Description: a test\n - x\n -----BEGIN", 1), a), ring, testNow); err != nil {
		t.Error(err)
	}
}

func TestParseInReleaseRefuses(t *testing.T) {
	a, stranger := newKey(t, "a", 0), newKey(t, "stranger", 0)
	old := newKey(t, "old", 24*time.Hour*100)
	ring := ringOf(t, a, old)
	revoked := newKey(t, "revoked", 0)
	good := signed(t, releaseText, a)
	byRevoked := signed(t, releaseText, revoked)
	if err := revoked.RevokeKey(packet.KeyCompromised, "", &packet.Config{Time: func() time.Time { return testNow.AddDate(0, -1, 0) }}); err != nil {
		t.Fatal(err)
	}
	ring = ring.Join(ringOf(t, revoked))
	replace := func(from, to string) []byte { return []byte(strings.Replace(string(good), from, to, 1)) }
	text := func(from, to string) []byte {
		return signed(t, strings.Replace(releaseText, from, to, 1), a)
	}
	tests := []struct {
		name string
		data []byte
		now  time.Time
		want string
	}{
		{"changed text", replace("stable", "stalbe"), testNow, "does not fit the text"},
		{"changed beside a good one", append(bytes.TrimSuffix(replace("stable", "stalbe"), []byte("\n")), '\n'), testNow, "the file was changed"},
		{"unknown key", signed(t, releaseText, stranger), testNow, "keys that the keyring does not have"},
		{"expired key", signed(t, releaseText, old), testNow, "key expired"},
		{"revoked key", byRevoked, testNow, "revoked"},
		{"weak hash", weaklySigned(t, releaseText, a), testNow, "weak hash SHA-1"},
		{"expired", good, testNow.AddDate(0, 0, 8), "--as-of 2026-11-29"},
		{"from the future", text("Date: Sun, 22", "Date: Tue, 24"), testNow, "set this machine's clock"},
		{"signed in the future", sign1(t, releaseText, testNow.AddDate(0, 0, 3), crypto.SHA256, a), testNow, "set this machine's clock"},
		{"text before", append([]byte("Codename: evil\n"), good...), testNow, "not a clear-signed file"},
		{"text after", append(bytes.Clone(good), "Codename: evil\n"...), testNow, "text after the signature"},
		{"two messages", append(bytes.Clone(good), good...), testNow, "exactly one signed message"},
		{"no signature", good[:bytes.Index(good, []byte("-----BEGIN PGP SIGNATURE"))], testNow, "exactly one signed message"},
		{"truncated", good[:len(good)-40], testNow, "exactly one signed message"},
		{"web page", []byte("<html>log in first</html>"), testNow, "page of a proxy"},
		{"empty", nil, testNow, "not a clear-signed file"},
		{"empty text", signed(t, "", a), testNow, "empty"},
		{"control characters", replace("stable", "sta\x00ble"), testNow, "control character"},
		{"carriage returns", bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")), testNow, "not a clear-signed file"},
		{"unescaped hyphen", replace("Description: a test", "-Description: a test"), testNow, "hyphen"},
		{"header", replace("Hash: SHA256", "Comment: x"), testNow, "cannot be read"},
		{"two stanzas", text("\nMD5Sum", "\n\nMD5Sum"), testNow, "empty line"},
		{"field twice", text("Suite: stable", "Suite: stable\nsuite: testing"), testNow, "given twice"},
		{"no codename", text("Codename: trixie\n", ""), testNow, "no field Codename"},
		{"no date", text("Date: Sun, 22 Nov 2026 10:00:00 UTC\n", ""), testNow, "no field Date"},
		{"date", text("22 Nov 2026 10:00:00 UTC", "22 Nov 2026 10:00:00 CET"), testNow, "is not a date"},
		{"path up", text("7 main/binary-amd64", "7 ../../binary-amd64"), testNow, "not an entry"},
		{"hash", text(hash0+"        7", hash0[:62]+"        7"), testNow, "not an entry"},
		{"entry twice", text("        7 main/binary-amd64/Packages.xz", " 7 main/binary-amd64/Packages"), testNow, "listed twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ParseInRelease(tt.data, ring, tt.now)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if r != nil {
				t.Error("a release came out")
			}
		})
	}
	var expired *ExpiredError
	if _, err := ParseInRelease(good, ring, testNow.AddDate(0, 0, 8)); !errors.As(err, &expired) {
		t.Errorf("%T", err)
	}
	// A key that was valid then is valid for --as-of then.
	then := testNow.AddDate(-1, 0, 50)
	atThen := sign1(t, strings.NewReplacer("22 Nov 2026", "01 Jan 2026", "29 Nov 2026", "20 Jan 2026").Replace(releaseText), then.AddDate(0, 0, -10), crypto.SHA256, old)
	if _, err := ParseInRelease(atThen, ring, then); err != nil {
		t.Errorf("as of %s: %v", then, err)
	}
	// An hour of skew is fine.
	if _, err := ParseInRelease(sign1(t, releaseText, testNow.Add(time.Hour), crypto.SHA256, a), ring, testNow); err != nil {
		t.Error(err)
	}
	if _, err := ParseInRelease(good, Keyring{}, testNow); err == nil {
		t.Error("the empty keyring believes it")
	}
}

func TestLoadKeyring(t *testing.T) {
	a, b := newKey(t, "a", 0), newKey(t, "b", 0)
	dir := t.TempDir()
	var binary bytes.Buffer
	if err := a.Serialize(&binary); err != nil {
		t.Fatal(err)
	}
	var armored bytes.Buffer
	w, err := armor.Encode(&armored, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Serialize(w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	armored.WriteByte('\n')
	files := map[string][]byte{"a.gpg": binary.Bytes(), "b.asc": armored.Bytes(), "empty": nil, "text": []byte("no key"), "two.asc": append(bytes.Clone(armored.Bytes()), armored.Bytes()...)}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ring, err := LoadKeyring(filepath.Join(dir, "a.gpg"), filepath.Join(dir, "b.asc"))
	if err != nil || len(ring.Fingerprints()) != 2 {
		t.Fatal(ring.Fingerprints(), err)
	}
	if ring, err := LoadKeyring(filepath.Join(dir, "two.asc")); err != nil || ring.Len() != 2 {
		t.Error(ring.Len(), err)
	}
	for _, name := range []string{"empty", "text", "absent"} {
		if _, err := LoadKeyring(filepath.Join(dir, "a.gpg"), filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := LoadKeyring(); err == nil {
		t.Error("no keyring is fine")
	}
}

func FuzzParseInRelease(f *testing.F) {
	a := newKey(f, "a", 0)
	ring := ringOf(f, a)
	good := signed(f, releaseText, a)
	f.Add(good)
	f.Add(append(good, good...))
	f.Add([]byte(beginMessage + "\n" + beginSignature + endSignature))
	f.Add([]byte(beginMessage + " \n" + "-----BEGIN PGP SIGNATURE-----\n\n" + endSignature))
	f.Add([]byte(strings.Replace(string(good), "Hash: SHA256\n", " \n", 1)))
	want, err := ParseInRelease(good, ring, testNow)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseInRelease(data, ring, testNow)
		if err != nil {
			return
		}
		// Nobody can sign but the key above, so only what it signed comes out.
		r.Digest = want.Digest
		if diff := cmp.Diff(want, r); diff != "" {
			t.Fatalf("another release was believed:\n%s", diff)
		}
	})
}

func FuzzParseRelease(f *testing.F) {
	f.Add([]byte(releaseText))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRelease(data)
		if err != nil {
			return
		}
		for p, file := range r.Files {
			if !cleanPath(p) || file.Size < 0 || file.SHA256.Validate() != nil {
				t.Fatalf("%q %+v", p, file)
			}
		}
	})
}
