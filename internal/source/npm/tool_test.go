package npm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"twinhull.dev/twinhull/internal/project"
)

func TestCheckEngine(t *testing.T) {
	for _, c := range []struct {
		constraint, version string
		ok                  bool
	}{
		{">=18", "18.20.4+dfsg-1~deb12u1", true},
		{">=18.0.0 <19", "1:18.20.4~dfsg-2", true},
		{"^20.11.0 || >=22", "20.19.2+dfsg-1", true},
		{"^20.11.0 || >=22", "21.0.0", false},
		{"18.x", "18.0.0", true},
		{"18 - 20", "20.99.1", true},
		{"18 - 20", "21.0.0", false},
		{"~9.2", "9.2.0~ds1-1", true},
		{"~9.2", "9.3.0", false},
		{">= 9.0.0", "9.2.0~ds1-1", true},
		{"*", "1.0.0", true},
		{"", "1.0.0", true},
		{"^0.2.3", "0.2.9", true},
		{"^0.2.3", "0.3.0", false},
		{">=20", "20.0.0~rc1-1", true}, // npm's check includes prereleases; ">=20" begins at 20.0.0-0
		{">=20.0.0", "20.0.0~rc1-1", false},
		{"v18", "18.1.0", true},
	} {
		err := CheckEngine(c.constraint, c.version)
		if (err == nil) != c.ok {
			t.Errorf("CheckEngine(%q, %q) = %v, want ok %v", c.constraint, c.version, err, c.ok)
		}
	}
	for _, bad := range []string{">=18, <20", "!=18", "latest", "^", "18 || nonsense", strings.Repeat("1", 30)} {
		if err := CheckEngine(bad, "18.0.0"); err == nil {
			t.Errorf("CheckEngine(%q) accepts", bad)
		}
	}
	if err := CheckEngine("*", "not a version"); err == nil {
		t.Error("a version that cannot be read must not fit")
	}
}

// TestEngineOracle compares the ranges with node-semver, which the machine's
// npm carries.
func TestEngineOracle(t *testing.T) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is not installed: apt-get install npm")
	}
	npm, _ = filepath.EvalSymlinks(npm)
	lib := filepath.Join(filepath.Dir(npm), "..", "node_modules", "semver")
	if _, err := os.Stat(lib); err != nil {
		if lib = "/usr/share/nodejs/semver"; !exists(lib) {
			t.Skip("npm's semver library is not where it is looked for")
		}
	}
	operators := []string{"", "=", "<", "<=", ">", ">=", "^", "~", "~> ", ">= "}
	bodies := []string{"1", "1.x", "1.2", "1.2.x", "1.2.3", "1.2.3-rc.1", "0", "0.2", "0.2.3", "0.0.3", "0.0", "0.0.0", "*", "x", "1.*", "1.2.3-0", "v1.2.3"}
	var ranges []string
	for _, o := range operators {
		for _, b := range bodies {
			ranges = append(ranges, o+b)
		}
	}
	for _, a := range bodies {
		for _, b := range bodies {
			ranges = append(ranges, a+" - "+b, ">="+a+" <"+b, "^"+a+" || ~"+b)
		}
	}
	ranges = append(ranges, "", "||", " 1.2.3 ", "1.2.3+b", "> 1 < 3", "1||2", "1.2.3 - ", "a", "1.2.3.4", "^1.2.3 ^1.3", "<0.0.0-0", "= 1.2.3")
	versions := []string{"0.0.0", "0.0.3", "0.0.4", "0.1.0", "0.2.3", "0.2.4", "0.3.0", "1.0.0", "1.2.2", "1.2.3", "1.2.3-rc.1", "1.2.3-alpha", "1.2.4", "1.2.9", "1.3.0", "1.3.0-rc.1", "2.0.0-rc.1", "2.0.0", "3.1.4", "0.0.0-1", "1.0.0-0", "0.2.3-rc.1", "0.0.3-0", "1.2.0-rc.1", "0.2.0-0"}
	in, _ := json.Marshal(map[string]any{"ranges": ranges, "versions": versions})
	cmd := exec.Command("node", "-e", `
const semver = require(process.argv[1])
const {ranges, versions} = JSON.parse(require('fs').readFileSync(0, 'utf8'))
console.log(JSON.stringify(ranges.map(r => semver.validRange(r) === null ? null : versions.map(v => semver.satisfies(v, r, {includePrerelease: true})))))
`, lib)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("node does not run: %v", err)
	}
	var want [][]bool
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	for i, r := range ranges {
		for j, s := range versions {
			v, err := semver.StrictNewVersion(s)
			if err != nil {
				t.Fatal(err)
			}
			got, err := inRange(r, v)
			if want[i] == nil {
				if err == nil {
					t.Errorf("%q is no range for npm, but is read", r)
				}
				break
			}
			if err != nil {
				t.Errorf("%q: %v", r, err)
				break
			}
			if got != want[i][j] {
				t.Errorf("%s in %q: %v, npm says %v", s, r, got, want[i][j])
			}
		}
	}
	t.Logf("%d ranges × %d versions compared", len(ranges), len(versions))
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

func TestPinnedTools(t *testing.T) {
	hash := strings.Repeat("ab", 64)
	pins, err := PinnedTools([]byte(`{"packageManager":"npm@10.9.2+sha512.` + hash + `","engines":{"node":">=20","npm":"^10"},"devEngines":{"runtime":{"name":"node","version":"^20"},"packageManager":[{"name":"pnpm","version":"9"},{"name":"npm","version":"10.x"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range pins {
		got = append(got, p.Tool+" "+p.Version+p.Constraint+" "+p.PinnedBy)
	}
	want := "npm 10.9.2 package.json packageManager|node >=20 package.json engines.node|npm ^10 package.json engines.npm|node ^20 package.json devEngines.runtime|npm 10.x package.json devEngines.packageManager"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	if pins[0].Hash.String() != "sha512:"+hash {
		t.Error(pins[0].Hash)
	}
	if err := pins[1].Check("18.20.4+dfsg-1"); err == nil || !strings.Contains(err.Error(), "engines.node") || !strings.Contains(err.Error(), "18.20.4") {
		t.Errorf("tool skew: %v", err)
	}
	for in, want := range map[string]string{
		`{"packageManager":"npm@^10"}`:              "exact version",
		`{"packageManager":"bun@1.0.0"}`:            "unknown tool",
		`{"packageManager":"yarn@4.1.0"}`:           "yarn 4",
		`{"packageManager":"npm@10.0.0+sha1.abcd"}`: "sha512 only",
		`{"packageManager":"npm@10.0.0+sha512.ab"}`: "128 hexadecimal",
		`{"packageManager":7}`:                      "not a string",
		`{"engines":{"node":"twenty"}}`:             "engines.node",
		`{"engines":{"node":">=18","node":">=20"}}`: "twice",
	} {
		if _, err := PinnedTools([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

func TestResolveTool(t *testing.T) {
	doc := func(name, version, integrity string) Get {
		return func(_ context.Context, url string) ([]byte, error) {
			if url != "http://r.example/npm/10.9.2" {
				return nil, fmt.Errorf("no such address: %s", url)
			}
			return fmt.Appendf(nil, `{"name":%q,"version":%q,"dist":{"integrity":%q}}`, name, version, integrity), nil
		}
	}
	pin := Pin{Tool: "npm", Version: "10.9.2", PinnedBy: "package.json packageManager"}
	tool, err := ResolveTool(t.Context(), doc("npm", "10.9.2", sri("x")), "http://r.example/", pin)
	if err != nil {
		t.Fatal(err)
	}
	if tool != (project.Tool{Name: "npm", Version: "10.9.2", PinnedBy: pin.PinnedBy, Path: "npm/-/npm-10.9.2.tgz", Digest: sriDigest(t, "x")}) {
		t.Errorf("%+v", tool)
	}
	pin.Hash = sriDigest(t, "other")
	for name, c := range map[string]struct {
		get  Get
		want string
	}{
		"other hash":    {doc("npm", "10.9.2", sri("x")), "find out why they differ"},
		"other version": {doc("npm", "10.9.3", sri("x")), "instead of"},
		"sha1":          {doc("npm", "10.9.2", "sha1-qUGzfGWC5MhWRm6Wgsh3Sp7xzZE="), "sha512 is required"},
	} {
		if _, err := ResolveTool(t.Context(), c.get, "http://r.example", pin); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCheckEngine(f *testing.F) {
	for _, s := range []string{">=18 <20", "^1.2.3-rc.1 || ~2", "1 - 2.x", "v = 1"} {
		f.Add(s, "18.20.4+dfsg-1~deb12u1")
	}
	f.Fuzz(func(t *testing.T, constraint, version string) { _ = CheckEngine(constraint, version) })
}
