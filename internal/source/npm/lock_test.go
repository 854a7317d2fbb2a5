package npm

import (
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// sri is the integrity of some bytes.
func sri(data string) string {
	h := sha512.Sum512([]byte(data))
	return "sha512-" + base64.StdEncoding.EncodeToString(h[:])
}

func sriDigest(t testing.TB, data string) oci.Digest {
	d, err := ParseIntegrity(sri(data))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// lockOf makes a lock of a root entry and further entries.
func lockOf(root string, entries ...string) []byte {
	return fmt.Appendf(nil, `{"name":"t","lockfileVersion":3,"packages":{"":%s%s}}`, root, strings.Join(append([]string{""}, entries...), ","))
}

func entry(location, version, more string) string {
	if more != "" {
		more = "," + more
	}
	return fmt.Sprintf(`"%s":{"version":"%s","integrity":"%s"%s}`, location, version, sri(location), more)
}

func TestReadLock(t *testing.T) {
	pj := `{"name":"t","dependencies":{"a":"^1.0.0","alias":"npm:real@2"},"devDependencies":{"@s/d":"*"},"optionalDependencies":{"o":"1"}}`
	data := lockOf(pj,
		entry("node_modules/a", "1.2.3", `"bin":{"a":"cli.js"},"hasInstallScript":true,"resolved":"https://elsewhere.example/a/-/a-1.2.3.tgz"`),
		entry("node_modules/a/node_modules/b", "2.0.0", `"inBundle":true`),
		entry("node_modules/alias", "2.1.0", `"name":"real"`),
		entry("node_modules/@s/d", "0.1.0-rc.1", `"dev":true`),
		entry("node_modules/@s/d/node_modules/x", "3.0.0", `"devOptional":true`),
		entry("node_modules/o", "1.0.0", `"optional":true,"os":["!win32"],"cpu":["x64","arm64"],"libc":"glibc"`),
	)
	tree, err := ReadLock("app/package-lock.json", data, []byte(pj))
	if err != nil {
		t.Fatal(err)
	}
	want := []project.NPMPackage{
		{Location: "node_modules/@s/d", Name: "@s/d", Version: "0.1.0-rc.1", Integrity: sriDigest(t, "node_modules/@s/d"), Dev: true},
		{Location: "node_modules/@s/d/node_modules/x", Name: "x", Version: "3.0.0", Integrity: sriDigest(t, "node_modules/@s/d/node_modules/x"), Optional: true},
		{Location: "node_modules/a", Name: "a", Version: "1.2.3", Integrity: sriDigest(t, "node_modules/a"), Scripts: true},
		{Location: "node_modules/alias", Name: "real", Version: "2.1.0", Integrity: sriDigest(t, "node_modules/alias")},
		{Location: "node_modules/o", Name: "o", Version: "1.0.0", Integrity: sriDigest(t, "node_modules/o"), Optional: true, OS: []string{"!win32"}, CPU: []string{"x64", "arm64"}, Libc: []string{"glibc"}},
	}
	if d := cmp.Diff(want, tree.Packages); d != "" {
		t.Error(d)
	}
	r, err := Resolved("package-lock.json", data)
	if err != nil || len(r) != 1 || r["a@1.2.3"] == "" {
		t.Errorf("Resolved: %v, %v", r, err)
	}
	without, err := WithoutResolved("package-lock.json", data)
	if err != nil || strings.Contains(string(without), "elsewhere") {
		t.Errorf("WithoutResolved: %s, %v", without, err)
	}
	again, err := ReadLock("app/package-lock.json", without, []byte(pj))
	if err != nil || cmp.Diff(tree.Packages, again.Packages) != "" {
		t.Errorf("the lock without addresses reads differently: %v", err)
	}
}

func TestReadLockRefuses(t *testing.T) {
	const pj = `{"dependencies":{"a":"1"}}`
	ok := entry("node_modules/a", "1.0.0", "")
	for _, c := range []struct {
		name, pj, lock, want string
	}{
		{"not JSON", pj, "{", "ends too early"},
		{"trailing", pj, string(lockOf(pj, ok)) + "{}", "follows the JSON document"},
		{"array", pj, "[]", "want a JSON object"},
		{"version 1", pj, `{"lockfileVersion":1}`, "npm 7 or newer"},
		{"version 4", pj, `{"lockfileVersion":4}`, "2 and 3"},
		{"no version", pj, `{}`, "not a package-lock.json"},
		{"no root", pj, `{"lockfileVersion":3,"packages":{}}`, `packages[""]`},
		{"duplicate package", pj, string(lockOf(pj, ok, ok)), `"node_modules/a" is given twice`},
		{"duplicate key", pj, string(lockOf(pj, entry("node_modules/a", "1.0.0", `"version":"2.0.0"`))), `"version" is given twice`},
		{"wrong type", pj, string(lockOf(pj, entry("node_modules/a", "1.0.0", `"dev":"true"`))), `"dev" is not true or false`},
		{"sha1", pj, string(lockOf(pj, `"node_modules/a":{"version":"1.0.0","integrity":"sha1-qUGzfGWC5MhWRm6Wgsh3Sp7xzZE="}`)), "only a sha1 integrity"},
		{"none", pj, string(lockOf(pj, `"node_modules/a":{"version":"1.0.0"}`)), "has no integrity"},
		{"short sha512", pj, string(lockOf(pj, `"node_modules/a":{"version":"1.0.0","integrity":"sha512-AAAA"}`)), "damaged"},
		{"git", pj, string(lockOf(pj, entry("node_modules/a", "1.0.0", `"resolved":"git+ssh://git@host/a.git#0123"`))), `packages["node_modules/a"] comes from "git+ssh`},
		{"file", pj, string(lockOf(pj, entry("node_modules/a", "1.0.0", `"resolved":"file:../a.tgz"`))), "publish it"},
		{"link", pj, string(lockOf(pj, `"node_modules/a":{"resolved":"packages/a","link":true}`)), `is a link to "packages/a"`},
		{"workspace folder", pj, string(lockOf(pj, ok, `"packages/a":{"version":"1.0.0"}`)), "not a folder of node_modules"},
		{"workspaces", `{"workspaces":["x"]}`, string(lockOf(`{}`)), "has workspaces"},
		{"climbs", pj, string(lockOf(pj, ok, entry("node_modules/../x", "1.0.0", ""))), "no package name"},
		{"climbs scoped", pj, string(lockOf(pj, ok, entry("node_modules/@s/..", "1.0.0", ""))), "no package name"},
		{"dot bin", pj, string(lockOf(pj, ok, entry("node_modules/.bin", "1.0.0", ""))), "no package name"},
		{"evil name", pj, string(lockOf(pj, ok, entry("node_modules/x", "1.0.0", `"name":"../../x"`))), "no package name"},
		{"evil version", pj, string(lockOf(pj, entry("node_modules/a", "1.0.0/../../x", ""))), "not a semantic version"},
		{"extraneous", pj, string(lockOf(pj, ok, entry("node_modules/x", "1.0.0", `"extraneous":true`))), "extraneous"},
		{"orphan bundle", pj, string(lockOf(pj, ok, entry("node_modules/x", "1.0.0", `"inBundle":true`))), "no package around it"},
		{"one version, two hashes", pj, string(lockOf(pj, ok, entry("node_modules/b/node_modules/a", "1.0.0", ""))), "two different integrities"},
		{"stale range", `{"dependencies":{"a":"2"}}`, string(lockOf(pj, ok)), `is stale: run npm install (package.json's dependencies ask for a "2", the lock was made for "1")`},
		{"stale added", `{"dependencies":{"a":"1","b":"1"}}`, string(lockOf(pj, ok)), "b of package.json's dependencies is not in it"},
		{"stale removed", `{}`, string(lockOf(pj, ok)), "a is no longer in package.json's dependencies"},
		{"stale moved", `{"devDependencies":{"a":"1"}}`, string(lockOf(pj, ok)), "stale"},
		{"not installed", pj, string(lockOf(pj)), "a of package.json is not in it"},
		{"asked by git", `{"dependencies":{"a":"github:u/r"}}`, string(lockOf(`{"dependencies":{"a":"github:u/r"}}`, ok)), "only registry packages"},
		{"asked by folder", `{"dependencies":{"a":"u/r"}}`, string(lockOf(`{"dependencies":{"a":"u/r"}}`, ok)), "folder or a repository"},
		{"deep", pj, strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "nested deeper"},
		{"utf-8", pj, "{\"\xff\":1}", "UTF-8"},
		{"package.json duplicate", `{"dependencies":{"a":"1","a":"2"}}`, string(lockOf(pj, ok)), `package.json:1: key "a" is given twice`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadLock("package-lock.json", []byte(c.lock), []byte(c.pj))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestOptionalWins(t *testing.T) {
	pj := `{"dependencies":{"a":"1"},"optionalDependencies":{"a":"1"}}`
	lock := lockOf(`{"optionalDependencies":{"a":"1"}}`, entry("node_modules/a", "1.0.0", `"optional":true`))
	if _, err := ReadLock("package-lock.json", lock, []byte(pj)); err != nil {
		t.Error(err)
	}
}

func TestSubset(t *testing.T) {
	pj := `{"dependencies":{"a":"1","c":"1"},"devDependencies":{"d":"1"}}`
	data := lockOf(pj,
		entry("node_modules/a", "1.0.0", `"optionalDependencies":{"x64":"1","arm":"1","mac":"1","musl":"1","wasm":"1"}`),
		entry("node_modules/c", "1.0.0", `"dependencies":{"shared":"1"}`),
		entry("node_modules/d", "1.0.0", `"dev":true`),
		entry("node_modules/x64", "1.0.0", `"optional":true,"os":["linux"],"cpu":["x64"],"libc":["glibc"]`),
		entry("node_modules/arm", "1.0.0", `"optional":true,"os":["linux"],"cpu":["arm64"]`),
		entry("node_modules/mac", "1.0.0", `"optional":true,"os":["darwin"]`),
		entry("node_modules/mac/node_modules/inner", "1.0.0", `"optional":true`),
		entry("node_modules/musl", "1.0.0", `"optional":true,"libc":["musl"]`),
		entry("node_modules/wasm", "1.0.0", `"optional":true,"cpu":["wasm32"],"dependencies":{"runtime":"1","shared":"1"}`),
		entry("node_modules/runtime", "1.0.0", `"optional":true,"dependencies":{"tslib":"1"}`),
		entry("node_modules/tslib", "1.0.0", `"optional":true`),
		entry("node_modules/shared", "1.0.0", ""),
	)
	tree, err := ReadLock("package-lock.json", data, []byte(pj))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dev      bool
		platform string
		want     string
	}{
		{false, "linux/amd64", "a c shared x64"},
		{true, "linux/amd64", "a c d shared x64"},
		{false, "linux/arm64", "a arm c shared"},
	} {
		platform, _ := oci.ParsePlatform(c.platform)
		got, err := Subset(tree, c.dev, platform)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range got {
			names = append(names, p.Name)
		}
		if s := strings.Join(names, " "); s != c.want {
			t.Errorf("Subset(%v, %s) = %s, want %s", c.dev, c.platform, s, c.want)
		}
	}
	tree.Packages = append(tree.Packages, project.NPMPackage{Location: "node_modules/win", Name: "win", Version: "1.0.0", OS: []string{"win32"}})
	if _, err := Subset(tree, false, oci.Platform{OS: "linux", Architecture: "amd64"}); err == nil || !strings.Contains(err.Error(), "win@1.0.0 does not support") {
		t.Errorf("a package that cannot be installed: %v", err)
	}
}

func TestTarballAddresses(t *testing.T) {
	for _, c := range []struct{ name, version, want string }{
		{"express", "4.19.2", "http://r.example/npm/express/-/express-4.19.2.tgz"},
		{"@types/node", "20.1.0", "http://r.example/npm/@types/node/-/node-20.1.0.tgz"},
		{"x", "1.0.0+build", "http://r.example/npm/x/-/x-1.0.0.tgz"},
	} {
		if got := TarballURL("http://r.example/npm/", c.name, c.version); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	if got := documentURL("http://r.example", "@types/node", "1.0.0"); got != "http://r.example/@types%2Fnode/1.0.0" {
		t.Error(got)
	}
	p := project.NPMPackage{Name: "a", Version: "1.0.0", Integrity: sriDigest(t, "a")}
	items, err := Items(func(string) (string, error) { return "http://r.example", nil }, []project.NPMPackage{p, p}, map[string]string{"a@1.0.0": "https://other.example/a.tgz"})
	if err != nil || len(items) != 1 || len(items[0].URLs) != 2 {
		t.Errorf("%v, %v", items, err)
	}
}

func FuzzReadLock(f *testing.F) {
	f.Add([]byte(`{"lockfileVersion":3,"packages":{"":{}}}`), []byte(`{}`))
	f.Add(lockOf(`{"dependencies":{"a":"1"}}`, entry("node_modules/a", "1.0.0", "")), []byte(`{"dependencies":{"a":"1"}}`))
	f.Add(lockOf(`{}`, entry("node_modules/@s/d/node_modules/x", "1.0.0", `"optional":true,"os":["linux"]`), entry("node_modules/o", "1.0.0", `"inBundle":true`)), []byte(`{}`))
	f.Fuzz(func(t *testing.T, lock, pj []byte) {
		tree, err := ReadLock("package-lock.json", lock, pj)
		if err != nil {
			return
		}
		for _, p := range tree.Packages {
			if strings.Contains(p.Location, "..") && strings.Contains("/"+p.Location+"/", "/../") || p.Integrity.Validate() != nil || p.Version == "" {
				t.Errorf("accepted %+v", p)
			}
			if Integrity(p.Integrity) == "" {
				t.Errorf("no integrity of %+v", p)
			}
		}
		if _, err := Subset(tree, true, oci.Platform{OS: "linux", Architecture: "amd64"}); err == nil {
			without, err := WithoutResolved("package-lock.json", lock)
			if err != nil {
				t.Fatal(err)
			}
			again, err := ReadLock("package-lock.json", without, pj)
			if err != nil {
				t.Fatalf("without addresses: %v", err)
			}
			if d := cmp.Diff(tree.Packages, again.Packages); d != "" {
				t.Error(d)
			}
		}
	})
}

func FuzzPinnedTools(f *testing.F) {
	f.Add([]byte(`{"packageManager":"npm@10.9.2+sha512.00","engines":{"node":">=18 <23 || ^24"},"devEngines":{"runtime":[{"name":"node","version":"1 - 2"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		pins, err := PinnedTools(data)
		if err != nil {
			return
		}
		if !json.Valid(data) && !strings.HasPrefix(string(data), "\xef\xbb\xbf") {
			t.Error("accepted what is not JSON")
		}
		for _, p := range pins {
			_ = p.Check("20.0.0")
		}
	})
}
