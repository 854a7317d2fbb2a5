package deb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	"github.com/ulikunitz/xz"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// memory is an archive's mirrors and a vault in one map each: the in-memory
// twin of packages fetch and vault.
type memory struct {
	mu    sync.Mutex
	files map[string][]byte // by URL
	vault map[oci.Digest][]byte
	asked []string
}

func (m *memory) Get(ctx context.Context, url string, limit int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, url)
	data, ok := m.files[url]
	if !ok {
		return nil, fmt.Errorf("%s: 404", url)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: longer than %d", url, limit)
	}
	return data, nil
}

// Blob believes the mirror, which a downloader must not: what it returns is
// verified by its caller all the same.
func (m *memory) Blob(ctx context.Context, d oci.Digest, size int64, urls []string) ([]byte, error) {
	if data, err := m.ReadFile(d, size); err == nil {
		return data, nil
	}
	var errs []error
	for _, u := range urls {
		data, err := m.Get(ctx, u, 1<<30)
		if err == nil {
			m.mu.Lock()
			m.vault[d] = data
			m.mu.Unlock()
			return data, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (m *memory) ReadFile(d oci.Digest, limit int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.vault[d]
	if !ok {
		return nil, fmt.Errorf("%s: %w", d, fs.ErrNotExist)
	}
	return data, nil
}

func (m *memory) PutBytes(data []byte) (oci.Digest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := digest.FromBytes(data)
	m.vault[d] = data
	return d, nil
}

func compress(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const testMirror, testSecurity = "http://main.invalid/debian", "http://security.invalid/debian-security"

// publish puts a signed suite on a mirror. change edits the release text before
// it is signed.
func (m *memory) publish(t testing.TB, base, suite string, key *openpgp.Entity, indexes map[string]string, change func(string) string) {
	t.Helper()
	var list strings.Builder
	for _, arch := range []string{"amd64", "arm64"} {
		text, ok := indexes[arch]
		if !ok {
			continue
		}
		packed := compress(t, text)
		dir := base + "/dists/" + suite + "/main/binary-" + arch + "/"
		fmt.Fprintf(&list, " %x %d main/binary-%s/Packages\n", sha256.Sum256([]byte(text)), len(text), arch)
		fmt.Fprintf(&list, " %x %d main/binary-%s/Packages.xz\n", sha256.Sum256(packed), len(packed), arch)
		m.files[fmt.Sprintf("%sby-hash/SHA256/%x", dir, sha256.Sum256(packed))] = packed
		m.files[dir+"Packages.xz"] = packed
	}
	text := "Codename: " + suite + "\nDate: Sun, 22 Nov 2026 10:00:00 UTC\nValid-Until: Sun, 29 Nov 2026 10:00:00 UTC\nAcquire-By-Hash: yes\nArchitectures: amd64 arm64\nComponents: main\nSHA256:\n" + list.String()
	if change != nil {
		text = change(text)
	}
	m.files[base+"/dists/"+suite+"/InRelease"] = signed(t, text, key)
}

// testArchive publishes trixie with its three suites for both architectures.
func testArchive(t testing.TB, key *openpgp.Entity) (*memory, Config) {
	t.Helper()
	m := &memory{files: map[string][]byte{}, vault: map[oci.Digest][]byte{}}
	both := func(s string) map[string]string {
		return map[string]string{"amd64": s, "arm64": strings.ReplaceAll(s, "amd64", "arm64")}
	}
	m.publish(t, testMirror, "trixie", key, both(stanza("aa", "1", "Depends: bb", "Source: src (1-1)")+stanza("bb", "1")), nil)
	m.publish(t, testMirror, "trixie-updates", key, both(""), nil)
	m.publish(t, testSecurity, "trixie-security", key, both(stanza("bb", "1+deb13u1")), nil)
	return m, Config{
		Archive: "debian/trixie", Architectures: []string{"arm64", "amd64"}, Main: []string{testMirror + "/"}, Security: []string{testSecurity},
		Keyring: ringOf(t, key), Now: testNow, Downloader: m, Vault: m,
	}
}

func TestFetch(t *testing.T) {
	key := newKey(t, "a", 0)
	m, c := testArchive(t, key)
	snap, err := Fetch(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		u := snap.Universes[arch]
		req := Request{Packages: []string{"aa"}}
		sol, err := Resolve(u, req)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(u, sol, req); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"aa=1", "bb=1+deb13u1"}, names(sol)); diff != "" {
			t.Error(diff)
		}
		want := project.Package{Name: "aa", Version: "1", Arch: arch, Source: "src", SourceVersion: "1-1", Archive: "debian/trixie", Suite: "trixie",
			Path: "pool/main/x/aa/aa_1_" + arch + ".deb", Size: 1000, SHA256: "sha256:" + hash0}
		if diff := cmp.Diff(want, LockPackage(sol.Packages[0])); diff != "" {
			t.Error(diff)
		}
		if sol.Packages[1].Suite != "trixie-security" {
			t.Error(sol.Packages[1].Suite)
		}
	}
	var suites []string
	for _, a := range snap.Archives {
		suites = append(suites, a.Suite)
		if len(a.Indexes) != 2 || a.Indexes[0].Path != "main/binary-amd64/Packages.xz" || len(a.SignedBy) != 1 || m.vault[a.InRelease] == nil || m.vault[a.Indexes[1].SHA256] == nil {
			t.Errorf("%+v", a)
		}
	}
	if diff := cmp.Diff([]string{"trixie", "trixie-security", "trixie-updates"}, suites); diff != "" {
		t.Error(diff)
	}
	for _, u := range m.asked {
		if strings.HasSuffix(u, "Packages.xz") {
			t.Errorf("%s was asked for although the index is there by its hash", u)
		}
	}

	// From the vault alone, long after the releases expired.
	m.files = nil
	again, err := Restore(m, c.Keyring, snap.Archives)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(snap.Archives, again.Archives); diff != "" {
		t.Error(diff)
	}
	if again.Universes["arm64"].Len() != 2 || !again.AsOf.Equal(snap.AsOf) {
		t.Error("the restored snapshot is another one")
	}

	// A lock that was tampered with, or a vault that lacks something.
	for name, change := range map[string]func(a []project.Archive) []project.Archive{
		"other index":   func(a []project.Archive) []project.Archive { a[0].Indexes[0].SHA256 = "sha256:" + hash0; return a },
		"other release": func(a []project.Archive) []project.Archive { a[0].InRelease = a[1].InRelease; return a },
		"absent":        func(a []project.Archive) []project.Archive { a[0].InRelease = "sha256:" + hash0; return a },
		"suite missing": func(a []project.Archive) []project.Archive { return a[1:] },
		"no records":    func(a []project.Archive) []project.Archive { return nil },
		"odd index":     func(a []project.Archive) []project.Archive { a[0].Indexes[0].Path = "x/y"; return a },
	} {
		var records []project.Archive
		for _, a := range snap.Archives {
			a.Indexes = append([]project.Index(nil), a.Indexes...)
			records = append(records, a)
		}
		if _, err := Restore(m, c.Keyring, change(records)); err == nil {
			t.Errorf("%s: restored", name)
		}
	}
	if _, err := Restore(m, ringOf(t, newKey(t, "other", 0)), snap.Archives); err == nil {
		t.Error("restored with a keyring that does not have the key")
	}
}

func TestFetchRefuses(t *testing.T) {
	key, other := newKey(t, "a", 0), newKey(t, "other", 0)
	dir := testMirror + "/dists/trixie/main/binary-amd64/"
	byHash := func(m *memory) string {
		for u := range m.files {
			if strings.HasPrefix(u, dir+"by-hash/") {
				return u
			}
		}
		t.Fatal("no by-hash file")
		return ""
	}
	amd64 := func(s string) map[string]string { return map[string]string{"amd64": s} }
	tests := []struct {
		name   string
		change func(m *memory, c *Config)
		want   string // "" for success
	}{
		{"by-hash missing", func(m *memory, c *Config) { delete(m.files, byHash(m)) }, ""},
		{"first mirror dead", func(m *memory, c *Config) { c.Main = []string{"http://dead.invalid", testMirror} }, ""},
		{"first mirror signed by another", func(m *memory, c *Config) {
			m.publish(t, "http://evil.invalid", "trixie", other, amd64(stanza("aa", "9")), nil)
			c.Main = []string{"http://evil.invalid", testMirror}
		}, ""},
		{"no by-hash", func(m *memory, c *Config) {
			m.publish(t, testMirror, "trixie", key, amd64(stanza("aa", "1")), func(s string) string { return strings.Replace(s, "Acquire-By-Hash: yes\n", "", 1) })
			for u := range m.files {
				if strings.HasPrefix(u, dir+"by-hash/") {
					delete(m.files, u)
				}
			}
		}, ""},
		{"wrong content", func(m *memory, c *Config) { m.files[byHash(m)] = compress(t, stanza("aa", "9")) }, "the signed release says"},
		{"truncated index", func(m *memory, c *Config) { u := byHash(m); m.files[u] = m.files[u][:50] }, "it has 50 bytes, the signed release says"},
		{"index gone", func(m *memory, c *Config) { delete(m.files, byHash(m)); delete(m.files, dir+"Packages.xz") }, "package index main/binary-amd64/Packages.xz of trixie"},
		{"other suite", func(m *memory, c *Config) {
			m.files[testMirror+"/dists/trixie/InRelease"] = m.files[testMirror+"/dists/trixie-updates/InRelease"]
		}, `serves the release of "trixie-updates" where "trixie" should be`},
		{"unknown signer", func(m *memory, c *Config) { c.Keyring = ringOf(t, other) }, "keyring does not have"},
		{"expired", func(m *memory, c *Config) { c.Now = testNow.AddDate(0, 1, 0) }, "was valid until"},
		{"no such architecture", func(m *memory, c *Config) { c.Architectures = []string{"riscv64"} }, "has no main/binary-riscv64/Packages.xz"},
		{"no architecture", func(m *memory, c *Config) { c.Architectures = nil }, "no architecture"},
		{"no security mirror", func(m *memory, c *Config) { c.Security = nil }, "no mirror of the security archive"},
		{"archive", func(m *memory, c *Config) { c.Archive = "debian/sid" }, "want debian/bookworm or debian/trixie"},
		{"signed garbage", func(m *memory, c *Config) {
			m.publish(t, testMirror, "trixie", key, amd64("Package: aa\n"), nil)
		}, "line 1 (package aa): the stanza that ends here has no Version"},
		{"stanza twice", func(m *memory, c *Config) {
			m.publish(t, testMirror, "trixie", key, amd64(stanza("aa", "1")+stanza("aa", "1")), nil)
		}, "listed twice"},
		{"wrong plain hash", func(m *memory, c *Config) {
			text := stanza("aa", "1")
			m.publish(t, testMirror, "trixie", key, amd64(text), func(s string) string {
				return strings.Replace(s, fmt.Sprintf("%x", sha256.Sum256([]byte(text))), hash0, 1)
			})
		}, "decompressed: its hash is"},
		{"bomb", func(m *memory, c *Config) {
			text := stanza("aa", "1", "Description: "+strings.Repeat("x", 1<<20))
			m.publish(t, testMirror, "trixie", key, amd64(text), func(s string) string {
				return strings.Replace(s, fmt.Sprintf("%d main/binary-amd64/Packages\n", len(text)), "10 main/binary-amd64/Packages\n", 1)
			})
		}, "more than the 10 bytes"},
		{"index said to be huge", func(m *memory, c *Config) {
			m.publish(t, testMirror, "trixie", key, nil, func(s string) string {
				return s + " " + hash0 + " 99999999999 main/binary-amd64/Packages.xz\n"
			})
		}, "at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, c := testArchive(t, key)
			c.Architectures = []string{"amd64"}
			tt.change(m, &c)
			snap, err := Fetch(context.Background(), c)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if p := snap.Universes["amd64"].Candidate("aa"); p == nil || p.Version != "1" {
					t.Errorf("%+v", p)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if snap != nil {
				t.Error("a snapshot came out")
			}
		})
	}
}

func TestCheckRollback(t *testing.T) {
	locked := []project.Archive{{Name: "debian/trixie", Suite: "trixie", Date: testNow}, {Name: "debian/trixie", Suite: "gone", Date: testNow}}
	newer := []project.Archive{{Name: "debian/trixie", Suite: "trixie", Date: testNow.AddDate(0, 0, 1)}, {Name: "debian/trixie", Suite: "new"}}
	if err := CheckRollback(locked, newer); err != nil {
		t.Error(err)
	}
	if err := CheckRollback(locked, locked); err != nil {
		t.Error(err)
	}
	var back *RollbackError
	if err := CheckRollback(newer, locked); !errors.As(err, &back) || back.Suite != "trixie" {
		t.Errorf("%v", err)
	}
}
