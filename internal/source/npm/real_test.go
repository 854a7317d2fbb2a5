package npm_test

import (
	"archive/tar"
	"context"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/fetch"
	"twinhull.dev/twinhull/internal/source/npm"
	"twinhull.dev/twinhull/internal/source/site"
	"twinhull.dev/twinhull/internal/source/vault"
)

// packageJSON asks for a plain tree (express), a scope, an alias, commands, an
// install script with packages for each platform (esbuild) and bundled
// dependencies (npm itself).
const packageJSON = `{
  "name": "real", "version": "1.0.0",
  "dependencies": {"express": "4.21.2", "@hapi/hoek": "11.0.7", "odd": "npm:is-odd@3.0.1", "esbuild": "0.25.0"},
  "devDependencies": {"npm": "10.9.2", "mkdirp": "3.0.1"}
}`

// TestRealNPM installs real packages from the mirror with npm 9, 10 and the
// machine's own, and proves every file.
func TestRealNPM(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the npm registry")
	}
	machine, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is not installed: apt-get install npm")
	}
	s, err := site.Load(site.Options{})
	if err != nil {
		t.Skip("no site configuration: ", err)
	}
	registry, err := s.NPM()
	if err != nil {
		t.Skip("no npm registry is configured: ", err)
	}
	client, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	work := t.TempDir()
	v, err := vault.Open(filepath.Join(work, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	fetcher := fetch.New(fetch.Config{Vault: v, Client: client})

	// The lock, as a developer makes it.
	app := filepath.Join(work, "app")
	write(t, filepath.Join(app, "package.json"), packageJSON)
	cmd := exec.CommandContext(ctx, machine, "install", "--package-lock-only", "--no-audit", "--no-fund")
	cmd.Dir = app
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("npm cannot reach its registry: %v\n%s", err, out)
	}
	lock, err := os.ReadFile(filepath.Join(app, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := npm.ReadLock("package-lock.json", lock, []byte(packageJSON))
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := npm.Resolved("package-lock.json", lock)
	if err != nil {
		t.Fatal(err)
	}
	platform := oci.Platform{OS: "linux", Architecture: runtime.GOARCH}
	all, err := npm.Subset(tree, true, platform)
	if err != nil {
		t.Fatal(err)
	}
	production, err := npm.Subset(tree, false, platform)
	if err != nil {
		t.Fatal(err)
	}
	if len(production) >= len(all) || len(all) >= len(tree.Packages) {
		t.Errorf("%d packages in the lock, %d for development, %d for production", len(tree.Packages), len(all), len(production))
	}

	// Tools as a project pins them.
	var tools []project.Tool
	for _, pin := range []string{"npm@9.9.4", "npm@10.9.2"} {
		pins, err := npm.PinnedTools(fmt.Appendf(nil, `{"packageManager":%q}`, pin))
		if err != nil {
			t.Fatal(err)
		}
		tool, err := npm.ResolveTool(ctx, func(ctx context.Context, url string) ([]byte, error) { return fetcher.Get(ctx, url, 1<<20) }, registry, pins[0])
		if err != nil {
			t.Fatal(err)
		}
		tools = append(tools, tool)
	}
	items, err := npm.Items(s.NPMFor, all, resolved)
	if err != nil {
		t.Fatal(err)
	}
	if err := fetcher.Fetch(ctx, append(items, npm.ToolItems(registry, tools)...)); err != nil {
		t.Fatal(err)
	}

	runners := map[string][]string{"the machine's": {machine}}
	for _, tool := range tools {
		runners[tool.Version] = []string{"node", filepath.Join(install(t, v, tool, filepath.Join(work, "tool-"+tool.Version)), "usr/local/lib/node_modules/npm/bin/npm-cli.js")}
	}
	bare, err := npm.WithoutResolved("package-lock.json", lock)
	if err != nil {
		t.Fatal(err)
	}
	tables := filepath.Join(work, "tables")
	for name, runner := range runners {
		for _, set := range []struct {
			zone string
			pkgs []project.NPMPackage
			args []string
		}{{"development", all, nil}, {"production", production, []string{"--omit=dev"}}} {
			if name == "9.9.4" && set.zone == "development" {
				continue // what differs between the zones is npm's bundle, and time is dear
			}
			t.Run(name+"/"+set.zone, func(t *testing.T) {
				table := npm.NewTable(v, tables)
				mirror := npm.NewMirror(table, set.pkgs, tools)
				srv := httptest.NewServer(mirror)
				defer srv.Close()
				dir := t.TempDir()
				write(t, filepath.Join(dir, "app/package.json"), packageJSON)
				write(t, filepath.Join(dir, "app/package-lock.json"), string(bare))
				args := append(runner[1:len(runner):len(runner)], "ci")
				cmd := exec.CommandContext(ctx, runner[0], append(args, set.args...)...)
				cmd.Dir = filepath.Join(dir, "app")
				// Nothing of the machine's: its npmrc names other registries.
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
				for k, val := range npm.Environment(srv.URL, filepath.Join(dir, "cache")) {
					cmd.Env = append(cmd.Env, k+"="+val)
				}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("npm ci: %v\n%s\nrefused: %v", err, out, mirror.Record().Refused)
				}
				installed := walk(t, cmd.Dir)
				start := time.Now()
				proof, err := npm.Prove(ctx, table, set.pkgs, installed)
				if err != nil {
					t.Fatal(err)
				}
				took := time.Since(start)
				for i, u := range proof.Unexplained {
					if i < 20 {
						t.Errorf("unexplained: %s", u)
					}
				}
				for _, a := range proof.Absent {
					t.Errorf("absent: %s", a)
				}
				for p, m := range proof.Scripts {
					t.Logf("by a script: %s: %+v", p, m)
				}
				rec := mirror.Record()
				t.Logf("%d paths of %d packages proved in %v; %d tarballs served; refused: %v", len(installed), len(set.pkgs), took, len(rec.Served), rec.Refused)
				if len(installed) < 500 {
					t.Errorf("only %d paths were installed", len(installed))
				}
				if hidden, err := os.ReadFile(filepath.Join(cmd.Dir, npm.HiddenLock)); err != nil || strings.Contains(string(hidden), srv.URL) {
					t.Errorf("the hidden lock names the mirror, or cannot be read: %v", err)
				}
				// Laying the packages out without npm gives the same tree, but
				// for what install scripts change.
				laid, err := npm.Install(ctx, v, filepath.Join(work, "unpacked"), set.pkgs, 0)
				if err != nil {
					t.Fatal(err)
				}
				byNPM, byUs := make(map[string]string), make(map[string]string)
				for _, e := range installed {
					// Install makes no links to commands of bundled packages: the
					// lock does not list these.
					bundled := strings.HasPrefix(e.Path, "node_modules/npm/node_modules/") && strings.Contains(e.Path, "/.bin")
					if e.Path != npm.HiddenLock && !bundled && !strings.Contains(proof.Origins[e.Path].Note, "install script") {
						byNPM[e.Path] = describe(e)
					}
				}
				for _, e := range laid {
					if _, ok := byNPM[e.Path]; ok || !strings.Contains(proof.Origins[e.Path].Note, "install script") {
						byUs[e.Path] = describe(e)
					}
				}
				if d := cmp.Diff(byNPM, byUs); d != "" {
					t.Errorf("npm's tree (-) and ours (+):\n%.4000s", d)
				}
				// What npm installs is what Subset says: it serves no more, and
				// nothing that was expected is missing.
				if want := distinct(set.pkgs); len(rec.Served) != want {
					t.Errorf("%d tarballs were served, Subset has %d", len(rec.Served), want)
				}
			})
		}
	}
}

// describe is what an image keeps of an entry; the mode of a link is nobody's.
func describe(e *filetree.Entry) string {
	if e.IsLink() {
		return "link " + e.Link
	}
	return fmt.Sprintf("%c %04o %s", e.Type, e.Mode, e.Digest)
}

func distinct(pkgs []project.NPMPackage) int {
	seen := make(map[string]bool)
	for _, p := range pkgs {
		seen[p.Name+"@"+p.Version] = true
	}
	return len(seen)
}

func write(t *testing.T, name, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

// install puts a tool's tree on disk.
func install(t *testing.T, v *vault.Vault, tool project.Tool, root string) string {
	t.Helper()
	f, err := v.Open(tool.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	keep, err := os.Create(root + ".data")
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	entries, err := npm.ToolTree(tool, f, keep, root+".data")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		p := filepath.Join(root, e.Path)
		switch e.Type {
		case tar.TypeDir:
			err = os.MkdirAll(p, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(e.Link, p)
		default:
			data := make([]byte, e.Size)
			if e.Size > 0 {
				_, err = keep.ReadAt(data, e.Content.Offset)
			}
			if err == nil {
				err = os.WriteFile(p, data, fs.FileMode(e.Mode))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// walk lists what is installed in dir/node_modules.
func walk(t *testing.T, dir string) []*filetree.Entry {
	t.Helper()
	var all []*filetree.Entry
	err := filepath.WalkDir(filepath.Join(dir, "node_modules"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := &filetree.Entry{Path: rel, Mode: int64(info.Mode().Perm())}
		switch {
		case d.IsDir():
			e.Type = tar.TypeDir
		case info.Mode()&fs.ModeSymlink != 0:
			e.Type = tar.TypeSymlink
			e.Link, err = os.Readlink(p)
		default:
			e.Type, e.Size, e.Content.File = tar.TypeReg, info.Size(), p
		}
		all = append(all, e)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
