package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/project"
)

func initCommand() *Command {
	var kind string
	return &Command{
		Name: "init", Short: "write a twinhull.yaml for the application in this folder",
		Long: `Writes a project file to begin with. What it says depends on what is in the
folder: package.json (node), go.mod (go) or Python files (python). Read it and
change what does not fit; twinhull plan shows what it comes to.`,
		Examples: "twinhull init\ntwinhull init --kind python",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&kind, "kind", "", "node, go or python; default: by what is in the folder")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			to := filepath.Join(env.Dir, "twinhull.yaml")
			if fileExists(to) {
				return Refusedf("%s is there already", to).WithHint("remove it first, or edit it")
			}
			if kind == "" {
				kind = detectKind(env.Dir)
			}
			text, ok := initTemplates[kind]
			if !ok {
				return Usagef("cannot tell what kind of application this is").WithHint("say it with --kind node, go or python")
			}
			if kind == "node" {
				text = nodeProject(env.Dir, text)
			}
			text = strings.ReplaceAll(text, "NAME", projectName(env.Dir))
			if _, err := project.Parse(to, []byte(text)); err != nil {
				return fmt.Errorf("the new project file is not valid (please report this): %w", err)
			}
			if err := durable.WriteFile(to, []byte(text), 0o644); err != nil {
				return err
			}
			env.Talkf("wrote %s for a %s application; next: `twinhull lock && twinhull build`", to, kind)
			return nil
		},
	}
}

// nodeProject fills in what depends on the application: how it is built, and
// what it starts.
func nodeProject(dir, text string) string {
	var p struct {
		Main            string            `json:"main"`
		Scripts         map[string]string `json:"scripts"`
		Dependencies    map[string]string `json:"dependencies"`
		DevDependencies map[string]string `json:"devDependencies"`
		PackageManager  string            `json:"packageManager"`
	}
	if b, err := os.ReadFile(filepath.Join(dir, "package.json")); err == nil {
		_ = json.Unmarshal(b, &p) // a damaged file is reported by `twinhull lock`; here it only means fewer hints
	}
	sources := "src"
	if !fileExists(filepath.Join(dir, "src")) {
		sources = ""
	}
	main := p.Main
	_, ts := p.DevDependencies["typescript"]
	if _, also := p.Dependencies["typescript"]; also {
		ts = true
	}
	inputs := "[package.json"
	for _, f := range []string{"tsconfig.json", "tsconfig.build.json"} {
		if fileExists(filepath.Join(dir, f)) {
			inputs += ", " + f
		}
	}
	if sources != "" {
		inputs += ", " + sources + "/**"
	} else {
		inputs += ", \"*.js\""
	}
	inputs += "]"
	var run string
	switch {
	case p.Scripts["build"] != "" && strings.HasPrefix(p.PackageManager, "npm@"):
		run = "[npm, run, build]"
	case ts && fileExists(filepath.Join(dir, "tsconfig.json")):
		run = "[node, node_modules/typescript/bin/tsc, -p, tsconfig.json]"
	}
	build, places := "", ""
	if run != "" {
		if main == "" {
			main = "dist/index.js"
		}
		build = "build:\n  tools: [nodejs]\n  steps:\n    compile:\n      run: " + run + "\n      inputs: " + inputs + "\n      outputs: {dist: artifact}\n\n"
		places = "  artifacts: {dist: /app/dist}\n  files: {package.json: /app/package.json}\n"
	} else {
		if main == "" {
			main = "index.js"
		}
		main = strings.TrimPrefix(main, "./")
		top, _, _ := strings.Cut(main, "/")
		places = "  files: {package.json: /app/package.json, " + top + ": /app/" + top + "}\n"
	}
	return strings.NewReplacer("BUILD", build, "PLACES", places, "MAIN", strings.TrimPrefix(main, "./")).Replace(text)
}

func detectKind(dir string) string {
	for _, k := range []struct{ file, kind string }{{"package.json", "node"}, {"go.mod", "go"}, {"pyproject.toml", "python"}, {"requirements.txt", "python"}} {
		if fileExists(filepath.Join(dir, k.file)) {
			return k.kind
		}
	}
	if m, _ := filepath.Glob(filepath.Join(dir, "*.py")); len(m) > 0 {
		return "python"
	}
	if m, _ := filepath.Glob(filepath.Join(dir, "*", "*.py")); len(m) > 0 {
		return "python"
	}
	return ""
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

func projectName(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	n := strings.Trim(notInName.ReplaceAllString(strings.ToLower(filepath.Base(dir)), "-"), "-")
	if n == "" {
		n = "app"
	}
	return n
}

// initTemplates are complete project files; a test parses each.
var initTemplates = map[string]string{
	"node": `# Two images of one application: neither zone inherits from the other, and only
# the artifacts and files that production names cross over.
name: NAME

development:
  archive: debian/trixie
  # npm itself is the version that packageManager in package.json pins
  packages: [nodejs, bash, ca-certificates, curl, git, less, procps, strace, gdb, vim]
  dependencies:
    npm: {development: true}
  environment: {NODE_ENV: development}
  workdir: /app
  ports: [3000]
  debugger: 9229
  reload: [node, --watch, "--inspect=0.0.0.0:9229", MAIN]

BUILDproduction:
  archive: debian/trixie
  packages: [nodejs, ca-certificates, tzdata]
  exclude:
    node-corepack: downloads package managers; nothing here runs one
  dependencies:
    npm: {development: false}
PLACES  environment: {NODE_ENV: production}
  user: {name: app, id: 65532}
  workdir: /app
  entrypoint: [/usr/bin/node]
  command: [MAIN]
  ports: [3000]
  writable: [/tmp]
`,
	"go": `# Two images of one application: neither zone inherits from the other, and only
# the artifacts that production names cross over.
name: NAME

development:
  archive: debian/trixie
  # the Go toolchain is the one that go.mod pins
  packages: [bash, ca-certificates, curl, delve, entr, gdb, git, less, procps, strace, vim, tzdata]
  dependencies:
    go: true
  workdir: /src
  ports: [8080]
  debugger: 2345
  reload: [go, run, .]

build:
  tools: [tzdata]
  steps:
    compile:
      run: [go, build, -o, bin/app, .]
      inputs: ["*.go", go.mod]
      environment: {CGO_ENABLED: "0"}
      outputs: {bin/app: artifact}

production:
  archive: debian/trixie
  packages: [ca-certificates, tzdata]
  artifacts: {bin/app: /usr/bin/app}
  user: {name: app, id: 65532}
  entrypoint: [/usr/bin/app]
  ports: [8080]
  writable: [/tmp]
`,
	"python": `# Two images of one application: neither zone inherits from the other, and only
# the artifacts and files that production names cross over.
name: NAME

development:
  archive: debian/trixie
  packages: [python3, python3-pytest, bash, ca-certificates, curl, git, less, procps, strace, gdb, vim]
  workdir: /app
  ports: [8000]
  reload: [python3, app.py]

build:
  tools: [python3]

production:
  archive: debian/trixie
  packages: [python3, ca-certificates, tzdata]
  files: {app.py: /app/app.py}
  user: {name: app, id: 65532}
  workdir: /app
  entrypoint: [/usr/bin/python3]
  command: [app.py]
  ports: [8000]
  writable: [/tmp]
`,
}
