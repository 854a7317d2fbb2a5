package deb

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/source/fetch"
	"twinhull.dev/twinhull/internal/source/site"
	"twinhull.dev/twinhull/internal/source/vault"
)

// recorder serves again over loopback what it fetched, so that apt reads the
// same bytes even when the mirror is updated between the two.
type recorder struct {
	*fetch.Fetcher
	mu     sync.Mutex
	served map[string][]byte // by path on the loopback server
}

func (r *recorder) keep(rawURL string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u, _ := url.Parse(rawURL)
	if i := strings.Index(u.Path, "/dists/"); i >= 0 {
		r.served[u.Path[i:]] = data
	}
}

func (r *recorder) Get(ctx context.Context, u string, limit int64) ([]byte, error) {
	data, err := r.Fetcher.Get(ctx, u, limit)
	if err == nil {
		r.keep(u, data)
	}
	return data, err
}

func (r *recorder) Blob(ctx context.Context, d oci.Digest, size int64, urls []string) ([]byte, error) {
	data, err := r.Fetcher.Blob(ctx, d, size, urls)
	if err == nil {
		for _, u := range urls {
			r.keep(u, data)
		}
	}
	return data, err
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	data, ok := r.served[strings.TrimPrefix(req.URL.Path, "/debian")]
	r.mu.Unlock()
	if !ok {
		http.NotFound(w, req)
		return
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
}

// realArchive fetches an archive from the machine's own mirror, or skips.
func realArchive(t testing.TB, archive string, arches ...string) (*Snapshot, *recorder, []site.Key, *vault.Vault) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: -short, and this test needs a Debian mirror")
	}
	s, err := site.Load(site.Options{})
	if err != nil {
		t.Skipf("skipped: this machine's configuration cannot be read: %v", err)
	}
	mirror, err := s.Debian()
	if err != nil {
		t.Skipf("skipped: no Debian mirror: %v", err)
	}
	keys, err := s.Keys()
	if err != nil {
		t.Skipf("skipped: no keyring of Debian's archive: %v", err)
	}
	var ring Keyring
	for _, k := range keys {
		one, err := ParseKeyring(k.Data)
		if err != nil {
			t.Fatalf("keyring %s: %v", k.Name, err)
		}
		ring = ring.Join(one)
	}
	client, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	r := &recorder{Fetcher: fetch.New(fetch.Config{Vault: v, Client: client, Retries: 1}), served: map[string][]byte{}}
	if _, _, err := r.GetFirst(ctx, []string{mirror.Main[0] + "/dists/" + strings.TrimPrefix(archive, "debian/") + "/InRelease"}, MaxInRelease); err != nil {
		t.Skipf("skipped: the Debian mirror cannot be reached: %v", err)
	}
	snap, err := Fetch(ctx, Config{
		Archive: archive, Architectures: arches, Main: mirror.Main, Security: mirror.Security,
		Keyring: ring, Now: time.Now(), Downloader: r, Vault: v,
	})
	if err != nil {
		t.Fatal(err)
	}
	return snap, r, keys, v
}

// aptRoot is an apt of its own: no package installed, sources only from the
// recorder, nothing read from or written to the machine's state.
func aptRoot(t *testing.T, r *recorder, keys []site.Key, suites []Suite) (run func(args ...string) (string, error)) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("skipped: there is no apt-get on this machine")
	}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	root := t.TempDir()
	for _, d := range []string{"etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d", "state/lists/partial", "cache/archives/partial", "log"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, k := range keys {
		ext := "gpg"
		if bytes.HasPrefix(k.Data, []byte("-----BEGIN")) {
			ext = "asc"
		}
		write(fmt.Sprintf("etc/trusted.gpg.d/%d.%s", i, ext), string(k.Data))
	}
	var sources strings.Builder
	for _, s := range suites {
		fmt.Fprintf(&sources, "deb %s/debian %s main\n", server.URL, s.Name)
	}
	write("etc/sources.list", sources.String())
	write("status", "")
	write("apt.conf", fmt.Sprintf(`Dir "%[1]s/"; Dir::Etc "%[1]s/etc/"; Dir::State "%[1]s/state/"; Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache/"; Dir::Log "%[1]s/log/"; Dir::Etc::sourcelist "%[1]s/etc/sources.list";
APT::Architecture "amd64"; APT::Architectures { "amd64"; }; APT::Immediate-Configure "false"; APT::Install-Recommends "false";
APT::Sandbox::User ""; Acquire::Languages "none"; Acquire::http::Proxy "DIRECT";
`, root))
	return func(args ...string) (string, error) {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(root, "apt.conf"), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// aptSets are resolved by apt and by Resolve; the results must be equal,
// package by package and version by version. No difference is allowed here:
// alternatives and virtual packages are chosen as apt chooses them.
func aptSets(archive string, u *Universe) [][]string {
	sets := [][]string{
		{"nodejs"}, {"ca-certificates", "tzdata", "nodejs"}, {"build-essential"},
		{"curl", "wget", "git", "vim", "nano", "build-essential", "gdb", "strace", "ltrace", "netcat-openbsd", "bind9-dnsutils", "tcpdump", "linux-perf"},
		{"golang-go"}, {"default-jre-headless"}, {"python3-sklearn"}, {"ffmpeg"}, {"postgresql"}, {"nginx"}, {"apache2"}, {"php-cli"},
		{"cargo"}, {"openssh-server"}, {"systemd-sysv"}, {"chromium"}, {"default-mta"}, {"npm"}, {"xfce4"}, {"devscripts"}, {"mailutils"},
		u.Essential(),
	}
	if archive == "debian/bookworm" {
		return append(sets, []string{"python3.11-venv", "libjpeg-dev"}, []string{"openjdk-17-jdk-headless", "maven"})
	}
	return append(sets, []string{"python3.13-venv", "libjpeg-dev"}, []string{"openjdk-21-jdk-headless", "maven"})
}

var inst = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) `)

func TestLikeApt(t *testing.T) {
	for _, archive := range []string{"debian/bookworm", "debian/trixie"} {
		t.Run(archive, func(t *testing.T) {
			t.Parallel()
			snap, r, keys, v := realArchive(t, archive, "amd64")
			suites, _ := Suites(archive)
			apt := aptRoot(t, r, keys, suites)
			if out, err := apt("update"); err != nil || strings.Contains(out, "\nE:") || strings.Contains(out, "\nW:") {
				t.Fatalf("apt-get update: %v\n%s", err, out)
			}
			u := snap.Universes["amd64"]
			for _, set := range aptSets(archive, u) {
				out, err := apt(append([]string{"-s", "install", "--no-install-recommends"}, set...)...)
				if err != nil {
					t.Errorf("apt-get install %v: %v\n%s", set, err, out)
					continue
				}
				var want []string
				for _, m := range inst.FindAllStringSubmatch(out, -1) {
					want = append(want, m[1]+"="+m[2])
				}
				slices.Sort(want)
				if len(want) < len(set) {
					t.Errorf("apt-get install %v would install %v only:\n%s", set, want, out)
				}
				req := Request{Packages: set}
				sol, err := Resolve(u, req)
				if err != nil {
					t.Errorf("%v: %v", set, err)
					continue
				}
				if diff := cmp.Diff(want, names(sol)); diff != "" {
					t.Errorf("%v: apt and Resolve differ (-apt +Resolve):\n%s", set, diff)
				}
				if err := Check(u, sol, req); err != nil {
					t.Errorf("%v: %v", set, err)
				}
			}
			// The vault alone gives the same snapshot back.
			var ring Keyring
			for _, k := range keys {
				one, _ := ParseKeyring(k.Data)
				ring = ring.Join(one)
			}
			again, err := Restore(v, ring, snap.Archives)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(snap.Archives, again.Archives); diff != "" {
				t.Errorf("Restore gives other records:\n%s", diff)
			}
		})
	}
}

func names(s *Solution) []string {
	var out []string
	for _, p := range s.Packages {
		out = append(out, p.Name+"="+p.Version)
	}
	slices.Sort(out)
	return out
}
