package project

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write what the tests want to see")

func files(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return names
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// golden compares got with the file, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestBad(t *testing.T) {
	for _, name := range files(t, "testdata/bad/*.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			f, err := Parse(FileName, read(t, name))
			if err == nil || f != nil {
				t.Fatalf("Parse = %v, %v: want an error and no file", f, err)
			}
			var all Errors
			if !errors.As(err, &all) {
				t.Fatalf("error is a %T", err)
			}
			for i := 1; i < len(all); i++ {
				if before(position{all[i].Line, all[i].Column}, position{all[i-1].Line, all[i-1].Column}) {
					t.Errorf("problem %d comes before problem %d", i, i-1)
				}
			}
			golden(t, strings.TrimSuffix(name, ".yaml")+".want", []byte(err.Error()+"\n"))
		})
	}
}

func TestGood(t *testing.T) {
	for _, name := range files(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			f, err := Load(name)
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := Render(&b, f); err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(name, ".yaml")+".effective", b.Bytes())
			again, err := Parse(f.Path, b.Bytes())
			if err != nil {
				t.Fatalf("the effective file is not valid: %v", err)
			}
			if diff := cmp.Diff(f, again); diff != "" {
				t.Errorf("the effective file means something else:\n%s", diff)
			}
			if f.Asked() != again.Asked() {
				t.Error("the effective file asks for something else")
			}
		})
	}
}

// The examples of the repository are good project files, too.
func TestExamples(t *testing.T) {
	names, _ := filepath.Glob("../../examples/*/" + FileName)
	if len(names) == 0 {
		t.Skip("no examples in this checkout")
	}
	for _, name := range names {
		if _, err := Load(name); err != nil {
			t.Error(err)
		}
	}
}

func TestDefaults(t *testing.T) {
	f, err := Load("testdata/good/small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Path: "testdata/good/small.yaml", Name: "acme/tools/hello", Platforms: f.Platforms,
		Development: Spec{Archive: "debian/bookworm", User: User{Name: "root", Group: "root"}, Workdir: "/app"},
		Production: Spec{Archive: "debian/bookworm", User: User{"nonroot", 65532, "nonroot", 65532, nil}, Workdir: "/app",
			Entrypoint: []string{"/app/hello"}},
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
	if len(f.Platforms) != 1 || f.Platforms[0].String() != "linux/amd64" {
		t.Errorf("platforms = %v", f.Platforms)
	}
}

func TestValues(t *testing.T) {
	f, err := Load("testdata/good/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	wantEnv := map[string]string{"VERSION": "1.10", "NO_COLOR": "true", "MODE": "0o17", "EMPTY": "", "QUOTED": "it's",
		"ESCAPED": "tab\there é", "LONG": "one two"}
	if diff := cmp.Diff(wantEnv, f.Development.Environment); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(User{"dev", 1000, "staff", 50, []int{4, 27}}, f.Development.User); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&NPM{"web/package-lock.json", true, "/src/web"}, f.Development.Dependencies.NPM); diff != "" {
		t.Error(diff)
	}
	if f.Production.Dependencies.NPM.Development {
		t.Error("production has development dependencies")
	}
	wantStep := Step{Name: "binary", Run: []string{"/bin/sh", "-ec", "go build -o out/server ./server\necho \"done: yes\"\n"},
		Inputs:      []string{"server", "!server/**/*_test.go", "web/[a-m]*/**", "!web/dist"},
		Outputs:     []Output{{"out.txt", KindReport}, {"out/server", KindArtifact}},
		Environment: map[string]string{"CGO_ENABLED": "0"}, Timeout: 90 * time.Minute, Platform: "each"}
	if diff := cmp.Diff(wantStep, *f.Build.Step("binary")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"binary:out/server": "/app/server", "web:web/dist": "/app"}, f.Production.Artifacts); diff != "" {
		t.Error(diff)
	}
}

func TestAsked(t *testing.T) {
	data := string(read(t, "testdata/good/node-api.yaml"))
	parse := func(data string) *File {
		t.Helper()
		f, err := Parse(FileName, []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	base := parse(data).Asked()
	for _, c := range []struct {
		old, new string
		stale    bool
	}{
		{"name: node-api", "name: other", false},
		{"name: node-api", "name: node-api\nplatforms: [linux/amd64]", false},
		{"name: node-api", "name: node-api\nplatforms: [linux/amd64, linux/arm64]", true},
		{"archive: debian/trixie", "archive: debian/bookworm", true},
		{"[bash, curl, git, gdb, nodejs]", "[nodejs, bash, curl, gdb, git]", false},
		{"[bash, curl, git, gdb, nodejs]", "[bash, curl, git, nodejs]", true},
		{"curl, git", "curl=1.0, git", true},
		{"tools: [nodejs]", "tools: [nodejs, git]", true},
		{"  tools: [nodejs]\n", "", true},
		{"nothing runs it", "nobody runs it", true},
		{"node-corepack:", "corepack:", true},
		{"npm: {development: true}", "npm: true", false},
		{"npm: {development: true}", "npm: {development: false}", true},
		{"npm: {development: true}", "npm: {into: /elsewhere}", false},
		{"npm: {development: true}", "npm: true\n    go: true", true},
		{"timeout: 2m", "timeout: 3m", false},
		{"run: npx jest --coverage", "run: npx jest", false},
		{"NODE_ENV: production", "NODE_ENV: prod", false},
		{"https://example.com/x", "https://example.com/y", false},
		{"command: [dist/server.js]", "command: [dist/main.js]", false},
		{"id: 65532", "id: 65533", false},
	} {
		changed := strings.Replace(data, c.old, c.new, 1)
		if changed == data {
			t.Fatalf("%q is not in the file", c.old)
		}
		if got := parse(changed).Asked() != base; got != c.stale {
			t.Errorf("%q → %q: lock stale = %v, want %v", c.old, c.new, got, c.stale)
		}
	}
}

func TestLimits(t *testing.T) {
	for name, data := range map[string]string{
		"large":       strings.Repeat("#", maxFileSize+1),
		"many keys":   strings.Repeat("a: b\n", 100_000),
		"many items":  "a: [" + strings.Repeat("b,", 200_000) + "]",
		"many flows":  strings.Repeat("[", 500_000),
		"many dashes": strings.Repeat("- ", 500_000),
		"many ?":      strings.Repeat("? ", 500_000),
		"many tags":   strings.Repeat("!a ", 300_000),
		"unknown":     strings.Repeat("aaaaaaaaaaaaaaaaaaaaaaaa: b\nb: c\n", 3_000),
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := Parse(FileName, []byte(data))
			if err == nil {
				t.Fatal("accepted")
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("took %v", took)
			}
			if len(err.Error()) > 50_000 {
				t.Errorf("%d bytes of error", len(err.Error()))
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); err == nil {
		t.Error("a folder was loaded")
	}
	if _, err := Load(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	name := filepath.Join(dir, FileName)
	if err := os.WriteFile(name, make([]byte, maxFileSize+10), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(name); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("large file: %v", err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(deep); !errors.Is(err, ErrNoProject) || !strings.Contains(err.Error(), "twinhull init") {
		t.Errorf("no project: %v", err)
	}
	want := filepath.Join(dir, FileName)
	if err := os.WriteFile(want, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{dir, deep} {
		if got, err := Find(from); got != want || err != nil {
			t.Errorf("Find(%s) = %s, %v", from, got, err)
		}
	}
	if err := os.Mkdir(filepath.Join(deep, FileName), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(deep); err == nil || errors.Is(err, ErrNoProject) {
		t.Errorf("a folder of that name: %s, %v", got, err)
	}
}

// The one place that says what a file holds is current.
func TestDocumentation(t *testing.T) {
	const name = "../../doc/project-file.md"
	const begin, end = "<!-- keys: begin (go test ./internal/project -run Documentation -update) -->\n", "\n<!-- keys: end -->"
	data := string(read(t, name))
	head, rest, ok := strings.Cut(data, begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks its marks", name)
	}
	golden(t, name, []byte(head+begin+string(KeysMarkdown())+end+tail))
	for _, k := range Keys() {
		if k.Doc == "" || k.Type == "" {
			t.Errorf("%s is not documented", k.Path)
		}
	}
	// The example on the page is a good project file.
	_, example, _ := strings.Cut(data, "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	if _, err := Parse(FileName, []byte(example)); err != nil {
		t.Errorf("the example of %s: %v", name, err)
	}
}

// asJSON turns a value into what encoding/json would have read.
func asJSON(v value) any {
	switch v.kind {
	case textValue:
		return v.text
	case boolValue:
		return v.text == "true"
	case numberValue:
		var n any
		d := json.NewDecoder(strings.NewReader(v.text))
		d.UseNumber()
		if d.Decode(&n) != nil {
			return json.Number("0.5") // hexadecimal and the like: a number, and no integer
		}
		return n
	case listValue:
		all := []any{}
		for _, x := range v.list {
			all = append(all, asJSON(x))
		}
		return all
	case mapValue:
		all := map[string]any{}
		for _, e := range v.entries {
			all[e.key] = asJSON(e.value)
		}
		return all
	}
	return nil
}

// What the reader accepts the schema accepts; what is wrong in form it refuses.
func TestSchema(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	valid := func(name string) (string, bool) {
		p := &problems{}
		v, ok := readYAML(p, read(t, name))
		if !ok {
			return "", false
		}
		return validate(s, asJSON(v), ""), true
	}
	for _, name := range files(t, "testdata/good/*.yaml") {
		if wrong, ok := valid(name); !ok || wrong != "" {
			t.Errorf("%s: the schema refuses it: %s", name, wrong)
		}
	}
	for _, name := range []string{"unknown-keys", "missing", "missing-sections", "wrong-types", "nulls", "names", "archives", "platforms", "packages", "ports",
		"production-only-what-runs", "development-only", "user-root", "user-zero", "user-zero-map", "user-name", "user-no-id", "entrypoint-text",
		"entrypoint-empty", "environment", "health", "steps", "image-paths", "exclude", "npm", "scalar", "list"} {
		if wrong, ok := valid("testdata/bad/" + name + ".yaml"); ok && wrong == "" {
			t.Errorf("%s: the schema accepts it", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		for _, name := range files(f, pattern) {
			f.Add(read(f, name))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(FileName, data)
		if err != nil {
			var all Errors
			if file != nil || !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("Parse = %v, %T", file, err)
			}
			return
		}
		out := file.Effective()
		again, err := Parse(FileName, out)
		if err != nil {
			t.Fatalf("the effective file is not valid: %v\n%s", err, out)
		}
		if diff := cmp.Diff(file, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("the effective file means something else:\n%s\n%s", diff, out)
		}
		if file.Asked() != again.Asked() {
			t.Fatal("the effective file asks for something else")
		}
	})
}
