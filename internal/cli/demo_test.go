package cli

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		program string
		kind    toolKind
		name    string
	}{
		{"bash", shells, "bash"},
		{"x86_64-linux-gnu-gcc-14", compilers, "gcc"},
		{"aarch64-linux-gnu-g++-14", compilers, "g++"},
		{"g++", compilers, "g++"},
		{"c89", compilers, "c89"},
		{"python3.13", interpreters, "python"},
		{"pip3", packageManagers, "pip"},
		{"pdb3.13", debuggers, "pdb"},
		{"vim.basic", editors, "vim.basic"},
		{"nodemon", "", ""},
		{"shasum", "", ""},
		{"7", "", ""},
		{"", "", ""},
		{"service", "", ""},
	} {
		if kind, name := kindOf(c.program); kind != c.kind || name != c.name {
			t.Errorf("%q is %q (%s), want %q (%s)", c.program, kind, name, c.kind, c.name)
		}
	}
	seen := map[string]toolKind{}
	for kind, list := range toolNames {
		for _, n := range strings.Fields(list) {
			if other, twice := seen[n]; twice {
				t.Errorf("%s is a %s and a %s", n, kind, other)
			}
			seen[n] = kind
		}
	}
	if len(allKinds) != len(toolNames) {
		t.Errorf("%d kinds are shown, %d have names", len(allKinds), len(toolNames))
	}
}

func TestNpmPackage(t *testing.T) {
	for p, want := range map[string]bool{
		"app/node_modules/express/package.json":            true,
		"app/node_modules/@scope/x/package.json":           true,
		"app/node_modules/a/node_modules/b/package.json":   true,
		"app/node_modules/a/test/package.json":             false,
		"app/node_modules/@scope/package.json":             false,
		"app/node_modules/.bin/package.json":               false,
		"app/package.json":                                 false,
		"app/node_modules/express/package.json.orig":       false,
		"app/node_modules/@scope/x/dist/esm/package.json":  false,
		"usr/lib/node_modules/npm/package.json":            true,
		"app/my_node_modules_copy/x/package.json":          false,
		"node_modules/x/package.json":                      true,
		"app/node_modules/x/node_modules/.y/package.json":  false,
		"app/node_modules/x/node_modules/y.z/package.json": true,
	} {
		if got := npmPackage.MatchString(p); got != want {
			t.Errorf("%s: %v, want %v", p, got, want)
		}
	}
}

func TestSome(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  string
	}{
		{nil, "none"},
		{[]string{"node"}, "node"},
		{[]string{"bash", "dash", "sh"}, "bash, dash, sh"},
		{strings.Fields("apt apt-get corepack dpkg npm npx pip"), "apt, apt-get, corepack, dpkg and 3 more"},
	} {
		if got := some(c.names); got != c.want {
			t.Errorf("%v: %q, want %q", c.names, got, c.want)
		}
	}
}

func TestFindExample(t *testing.T) {
	dir := t.TempDir()
	if _, err := findExample(dir); err == nil {
		t.Error("an example where there is none")
	}
	want := filepath.Join(dir, "examples", "node-api", "twinhull.yaml")
	if err := os.MkdirAll(filepath.Dir(want), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(want, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(dir, "internal", "cli")
	for _, at := range []string{dir, below} {
		if got, err := findExample(at); err != nil || got != want {
			t.Errorf("from %s: %s, %v", at, got, err)
		}
	}
}

func TestCopyProject(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	write := func(dir, name, text string, mode os.FileMode) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(from, "twinhull.yaml", "name: x\n", 0o600)
	write(from, "src/run", "#!/bin/sh\n", 0o755)
	write(from, "twinhull.lock", "of this checkout", 0o644)
	write(from, ".git/HEAD", "ref", 0o644)
	write(from, "node_modules/a/index.js", "1", 0o644)
	write(from, ".twinhull/store/index.json", "{}", 0o644)
	if err := os.Symlink("src/run", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	write(to, "src/gone", "of an earlier version", 0o644)
	write(to, "twinhull.lock", "of an earlier showing", 0o644)
	write(to, ".twinhull/store/index.json", "built before", 0o644)
	for range 2 { // over itself as well
		if err := copyProject(from, to); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		err := filepath.WalkDir(to, func(p string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			rel, _ := filepath.Rel(to, p)
			info, err := e.Info()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(p)
			got[rel] = info.Mode().Type().String() + map[bool]string{true: "x "}[info.Mode()&0o111 != 0 && e.Type().IsRegular()] + string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"twinhull.yaml": "----------name: x\n", "src/run": "----------x #!/bin/sh\n",
			"link": "L---------#!/bin/sh\n", ".twinhull/store/index.json": "----------built before",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestCall(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.Method == "POST" && r.URL.Path == "/items" && r.Header.Get("Content-Type") == "application/json":
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write(append([]byte("\x1b[31mgot\n "), body...))
		case r.URL.Path == "/health":
			_, _ = io.WriteString(w, "ok")
		default:
			http.Error(w, "no such thing", http.StatusNotFound)
		}
	}))
	defer s.Close()
	for _, c := range []struct{ request, want, err string }{
		{"GET /health", "GET /health  200  ok", ""},
		{`POST /items {"a": 1}`, "POST /items  201  \uFFFD[31mgot {\"a\": 1}", ""},
		{"GET /nothing", "", "404 Not Found: no such thing"},
		{"GET", "", "want METHOD /PATH"},
		{"GET health", "", "want METHOD /PATH"},
	} {
		got, err := call(t.Context(), s.URL, c.request)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v; want %q, %q", c.request, got, err, c.want, c.err)
		}
	}
}

func TestAwaitAnswerEnds(t *testing.T) {
	ended := make(chan struct{})
	close(ended)
	s := httptest.NewServer(nil)
	s.Close() // an address where nothing listens
	if err := awaitAnswer(t.Context(), s.URL, ended); err == nil || !strings.Contains(err.Error(), "ended before it answered") {
		t.Errorf("%v", err)
	}
}

func TestLastOutput(t *testing.T) {
	var o lastOutput
	for range 1000 {
		if n, err := io.WriteString(&o, "0123456789"); n != 10 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := o.text(); len(got) != 4<<10 || !strings.HasSuffix(got, "56789") {
		t.Errorf("%d bytes: …%s", len(got), got[len(got)-10:])
	}
}
