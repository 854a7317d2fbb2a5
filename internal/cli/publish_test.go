package cli

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
	"twinhull.dev/twinhull/internal/registry/release"
	"twinhull.dev/twinhull/internal/registry/release/client"
	"twinhull.dev/twinhull/internal/server"
)

func TestBranchTag(t *testing.T) {
	for branch, want := range map[string]string{
		"main": "main", "feature/x": "feature-x", "-.x": "x", "a b~^c": "a-b-c", "ü": "", "...": "", "release/1.2": "release-1.2",
		strings.Repeat("a", 200): strings.Repeat("a", 128), "_x": "_x", "x/": "x", "a//b": "a-b",
	} {
		got := branchTag(branch)
		if got != want {
			t.Errorf("%q: %q, want %q", branch, got, want)
		}
		if got != "" && oci.ValidTag(got) != nil {
			t.Errorf("%q: %q is no tag", branch, got)
		}
	}
}

func TestGitTags(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	if tags := gitTags(t.Context(), dir); tags != nil {
		t.Errorf("outside a checkout: %q", tags)
	}
	git := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=x", "-c", "user.email=x@example.test", "-c", "commit.gpgsign=false"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "feature/one")
	if tags := gitTags(t.Context(), dir); tags != nil {
		t.Errorf("without a commit: %q", tags)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a")
	git("add", "file")
	git("commit", "-q", "-m", "first")
	commit := git("rev-parse", "HEAD")
	if tags := gitTags(t.Context(), dir); !slices.Equal(tags, []string{commit, "feature-one"}) {
		t.Errorf("%q", tags)
	}
	write("b")
	if tags := gitTags(t.Context(), dir); !slices.Equal(tags, []string{commit + "-dirty", "feature-one"}) {
		t.Errorf("with changes: %q", tags)
	}
	git("commit", "-q", "-a", "-m", "second")
	git("checkout", "-q", "--detach")
	if tags := gitTags(t.Context(), dir); !slices.Equal(tags, []string{git("rev-parse", "HEAD")}) {
		t.Errorf("detached: %q", tags)
	}
}

// TestPublish pushes to a registry that is not ours: it has no gate to ask.
func TestPublish(t *testing.T) {
	d := newDesk(t)
	d.write("twinhull.yaml", "name: shop/app\ndevelopment:\n  archive: debian/trixie\nproduction:\n  archive: debian/trixie\n  entrypoint: [/a]\n")
	s := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	out := d.do(0, "publish", "--zone", "production", "--to", host+"/shop/app", "--json")
	var all []published
	if err := json.Unmarshal([]byte(out[strings.Index(out, "["):strings.LastIndex(out, "]")+1]), &all); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(all) != 1 || all[0].Repository != host+"/shop/app/candidate" || all[0].Digest != d.image.Digest || len(all[0].Tags) != 0 {
		t.Errorf("%+v", all)
	}
	d.wants(d.do(2, "publish", "--to", host+"/shop/app/dev"), "is a development catalog")
	d.wants(d.do(2, "publish", "--to", host+"/shop/app:1"), "want HOST/NAME")
	d.wants(d.do(2, "publish"), "nobody says where to publish", registryVariable)
	d.wants(d.do(2, "publish", "--to", host+"/shop/app", "--tag", "a/b"), "tag")
	d.wants(d.do(1, "publish", "--to", host+"/shop/app", "--zone", "development"), "no development image")
}

// TestReleaseCommand: what the server answers becomes exit codes and words.
func TestReleaseCommand(t *testing.T) {
	d := newDesk(t)
	var answer func(w http.ResponseWriter, r *http.Request)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	image := host + "/shop/app@" + string(d.image.Digest)
	problem := func(status int, p *release.Problem) {
		answer = func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			if err := json.NewEncoder(w).Encode(p); err != nil {
				t.Error(err)
			}
		}
	}
	entry := uint64(7)
	refused := &release.Problem{Code: "DENIED", Message: "it is not released", Entry: &entry,
		Reasons: []release.Reason{{Reason: "version-exists", Message: "version 1.0.0 is there", Remedy: "take the next"}, {Reason: release.RefusedByGate, Message: "the gate refuses", Remedy: "see above"}},
		Verdict: &gate.Results{Version: 1, Images: []gate.Result{{Name: image, Platform: "linux/amd64", Verdict: policy.Verdict{Image: d.image.Digest, Zone: oci.Production, Repository: host + "/shop/app",
			Rules: []policy.Result{{Rule: "shell", Title: "No shell", Outcome: policy.Fail, Remedy: "leave it out", Reasons: []policy.Reason{{Outcome: policy.Fail, Message: "bash is there"}}}}}}}}}
	problem(422, refused)
	d.wants(d.do(1, "release", image, "1.0.0"), "refused for production in "+host+"/shop/app", "refused      shell: no shell", "  - bash is there", "  fix: leave it out",
		"error: it is not released", "  - version 1.0.0 is there", "recorded as entry 7", "hint: take the next")
	d.wants(d.do(1, "release", image, "1.0.0", "--output", "json"), `"reason": "version-exists"`, `"rule": "shell"`)
	problem(503, &release.Problem{Code: "UNAVAILABLE", Message: "not now", Reasons: []release.Reason{{Reason: release.CannotDecide, Message: "not now", Remedy: "repeat"}}})
	d.wants(d.do(3, "release", image, "1.0.0", "--request-id", "request-one"), "error: not now", "hint: repeat it with --request-id request-one")
	answer = func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
	d.wants(d.do(3, "release", image, "1.0.0"), "no release service there")
	answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusFound)
	}
	d.wants(d.do(3, "release", image, "1.0.0"), "no release service there")
	asked := release.Request{}
	answer = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" { // whether it has TLS
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(release.Answer{ID: asked.ID, Repository: host + "/shop/app", Version: asked.Version, Digest: asked.Digest, Entry: &entry, Notes: "# notes\n"})
	}
	d.wants(d.do(0, "release", strings.Replace(image, "app@", "app/candidate@", 1), "1.0.0", "--notes"), "released "+host+"/shop/app:1.0.0", "audit log entry 7", "# notes")
	if asked.Repository != "shop/app" || asked.Digest != d.image.Digest || asked.ID == "" {
		t.Errorf("%+v", asked)
	}
	for _, args := range [][]string{
		{"release", host + "/shop/app:1", "1.0.0"}, {"release", image, "latest"}, {"release", image, "v1.0.0"}, {"release", "oci:x", "1.0.0"}, {"release", image, "1.0.0", "--output", "sarif"},
		{"revoke", host + "/shop/app:latest", "--reason", "x"}, {"revoke", host + "/shop/app:1.0.0"}, {"revoke", host + "/shop/app"},
		{"rollback", host + "/shop/app:latest", "--key", "k"}, {"rollback", host + "/shop/app:1.2.3", "--tag", "2", "--key", "k"}, {"rollback", host + "/shop/app:1.2.3-rc.1", "--key", "k"},
		{"erase", image}, {"catalog", "why", host + "/shop/app"}, {"catalog", "pin", host + "/shop/app"}, {"catalog", "history", host + "/shop/app"}, {"catalog", "list", "not a host"},
	} {
		d.do(2, args...)
	}
}

func TestServerError(t *testing.T) {
	e, ok := errors.AsType[*Error](serverError(errors.New("connection refused"), "again"))
	if !ok || e.Code != Undecided || !strings.Contains(e.Hint, "again") {
		t.Errorf("%+v", e)
	}
	if e, ok := errors.AsType[*Error](serverError(client.ErrNoService, "")); !ok || e.Code != Undecided {
		t.Errorf("%+v", e)
	}
}

// TestDemoServer reads the configuration that the demo serves by.
func TestDemoServer(t *testing.T) {
	c := server.Default()
	if err := server.ReadConfig("demo", []byte(demoServer), t.TempDir(), &c); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
}

func TestReasonIn(t *testing.T) {
	for text, want := range map[string]string{
		"push to x: PUT http://x/v2/: DENIED: it is not; map[a:b]":                    "DENIED, it is not",
		"push to x: HEAD http://x/v2/: unexpected status code 403 Forbidden (HEAD …)": "unexpected status code 403 Forbidden (HEAD …)",
	} {
		if got := reasonIn(errors.New(text)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
