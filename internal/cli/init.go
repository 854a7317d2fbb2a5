package cli

import (
	"context"
	"fmt"
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
# the artifacts that production names cross over.
name: NAME

development:
  archive: debian/trixie
  packages: [nodejs, bash, ca-certificates, curl, git, less, procps, strace, gdb, vim]
  dependencies:
    npm: {development: true}
  environment: {NODE_ENV: development}
  workdir: /app
  ports: [3000]
  debugger: 9229
  reload: [node, --watch, "--inspect=0.0.0.0:9229", dist/index.js]

build:
  tools: [nodejs]
  steps:
    compile:
      # what makes dist/ out of the sources; packages come from package-lock.json
      run: [npm, run, build]
      inputs: [src/**, package.json, "tsconfig*.json"]
      outputs: {dist: artifact}

production:
  archive: debian/trixie
  packages: [nodejs, ca-certificates, tzdata]
  exclude:
    node-corepack: downloads package managers; nothing here runs one
  dependencies:
    npm: {development: false}
  artifacts: {dist: /app/dist}
  files: {package.json: /app/package.json}
  environment: {NODE_ENV: production}
  user: {name: app, id: 65532}
  workdir: /app
  entrypoint: [/usr/bin/node]
  command: [dist/index.js]
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
