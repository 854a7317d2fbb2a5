package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// twinhullProgram is the program that is measured.
var twinhullProgram string

// project is an example that Twinhull builds, perhaps changed, with a lock.
type project struct {
	dir    string
	inputs map[string]bool // hexadecimal digests that the lock names
}

// newProject copies an example, changes its project file, locks it and builds
// it once, which brings every input into the shared vault. It is the only part
// of the benchmark that needs a network.
func (b *bench) newProject(ctx context.Context, name, example string, change func(string) string) (*project, error) {
	p := &project{dir: b.path("projects", name)}
	if err := copyTree(filepath.Join(b.root, "examples", example), p.dir, ".twinhull", "node_modules", "dist", "coverage", "bin", "junit.xml", "twinhull.lock", "__pycache__"); err != nil {
		return nil, err
	}
	file := filepath.Join(p.dir, "twinhull.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, []byte(change(string(text))), 0o644); err != nil {
		return nil, err
	}
	b.say("locking and fetching %s", name)
	if _, err := p.twinhull(ctx, b.warm(), "lock"); err != nil {
		return nil, fmt.Errorf("%w\nthe benchmark locks the examples itself and needs a network for that, once", err)
	}
	if _, err := p.twinhull(ctx, b.warm(), "build"); err != nil {
		return nil, err
	}
	lock, err := os.ReadFile(filepath.Join(p.dir, "twinhull.lock"))
	if err != nil {
		return nil, err
	}
	p.inputs = map[string]bool{}
	for _, m := range inputDigest.FindAllSubmatch(lock, -1) {
		p.inputs[string(m[1])] = true
	}
	return p, nil
}

var inputDigest = regexp.MustCompile(`\b(?:sha256|sha512):([0-9a-f]{128}|[0-9a-f]{64})\b`)

// warm is the cache folder whose vault holds every input of every project.
func (b *bench) warm() string { return b.path("warm") }

func (p *project) twinhull(ctx context.Context, cache string, args ...string) (outcome, error) {
	return run(ctx, p.command(cache, args...))
}

func (p *project) command(cache string, args ...string) command {
	return command{dir: p.dir, env: []string{"TWINHULL_CACHE_DIR=" + cache}, args: append([]string{twinhullProgram}, args...)}
}

// What a cache holds before a build that is timed.
type state int

const (
	inputs   state = iota // the vault, with what the lock names and nothing else
	unpacked              // and those inputs unpacked
	tree                  // and the configured tree that steps run over, and node_modules
)

// cacheAt makes a cache in a state. It is given a folder of its own, and the
// project has no images afterwards. See emptyTree for why nothing large is
// removed before a clock starts.
func (b *bench) cacheAt(ctx context.Context, p *project, s state, zone string) (string, error) {
	b.caches++
	dir := b.path(fmt.Sprintf("cache%d", b.caches))
	if err := removeAll(filepath.Join(p.dir, ".twinhull")); err != nil {
		return "", err
	}
	if err := b.linkVault(p, dir); err != nil {
		return "", err
	}
	switch s {
	case unpacked:
		for _, sub := range []string{"debs", "tarballs", "tools"} {
			from := filepath.Join(b.warm(), sub)
			if _, err := os.Stat(from); err != nil {
				continue
			}
			if err := linkTree(from, filepath.Join(dir, sub)); err != nil {
				return "", err
			}
		}
	case tree:
		// Built once, then taken back to what a base image is to others: the
		// few files of the images, layers and records go.
		if _, err := p.twinhull(ctx, dir, "build", zone, "--offline"); err != nil {
			return "", err
		}
		for _, made := range []string{filepath.Join(p.dir, ".twinhull"), filepath.Join(dir, "images"), filepath.Join(dir, "layers"), filepath.Join(dir, "files"), filepath.Join(dir, "records", "images"), filepath.Join(dir, "records", "steps")} {
			if err := removeAll(made); err != nil {
				return "", err
			}
		}
	}
	return dir, nil
}

// linkVault gives a cache the inputs of a project. Whatever else the shared
// vault holds was made by a build and must be made again.
func (b *bench) linkVault(p *project, dir string) error {
	for _, algorithm := range []string{"sha256", "sha512"} {
		files, err := filepath.Glob(filepath.Join(b.warm(), "vault", algorithm, "??", "*"))
		if err != nil {
			return err
		}
		for _, f := range files {
			if !p.inputs[filepath.Base(f)] {
				continue
			}
			to := filepath.Join(dir, "vault", algorithm, filepath.Base(filepath.Dir(f)), filepath.Base(f))
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			if err := os.Link(f, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// report is what `twinhull build --json` prints, as far as it is used here.
type report struct {
	Images []struct {
		Zone     string `json:"zone"`
		Platform struct{ Architecture string }
		Manifest struct {
			Digest string `json:"digest"`
			Size   int64  `json:"size"`
		} `json:"manifest"`
		Files    int   `json:"files"`
		Unpacked int64 `json:"unpacked"`
		Packages int   `json:"packages"`
		Cached   bool  `json:"cached"`
	} `json:"images"`
}

// build runs an offline build and reads its report.
func (p *project) build(ctx context.Context, cache string, args ...string) (outcome, report, error) {
	var r report
	o, err := p.twinhull(ctx, cache, append([]string{"build", "--offline", "--json"}, args...)...)
	if err != nil {
		return o, r, err
	}
	if err := json.Unmarshal(o.stdout, &r); err != nil {
		return o, r, fmt.Errorf("twinhull build --json: %w", err)
	}
	return o, r, nil
}

func (r report) digest(zone string) string {
	var all []string
	for _, i := range r.Images {
		if i.Zone == zone {
			all = append(all, i.Manifest.Digest)
		}
	}
	return strings.Join(all, " ")
}

// stepSeconds is how long a step took, by the lines that the program prints
// when it begins and ends one; 0 when it did not run. A step that runs for each
// platform has the platform behind its name.
func stepSeconds(lines []stamped, step string) float64 {
	began, ended := map[string]float64{}, map[string]float64{}
	for _, l := range lines {
		text, ok := strings.CutPrefix(l.text, "step ")
		if !ok {
			continue
		}
		name, _, ending := strings.Cut(text, ": ")
		if name != step && !strings.HasPrefix(name, step+"-linux-") {
			continue
		}
		if ending {
			ended[name] = l.at
		} else {
			began[name] = l.at
		}
	}
	var sum float64
	for name, at := range ended {
		if from, ok := began[name]; ok {
			sum += at - from
		}
	}
	return sum
}

// onePlatform reduces a project file to this machine's platform: the peers
// build one, too.
func onePlatform(arch string) func(string) string {
	line := regexp.MustCompile(`(?m)^platforms:.*$`)
	return func(text string) string { return line.ReplaceAllString(text, "platforms: [linux/"+arch+"]") }
}

// withoutBlock removes a key and everything indented below it.
func withoutBlock(text, key string) string {
	var out strings.Builder
	skip := -1
	for line := range strings.Lines(text) {
		trimmed := strings.TrimLeft(line, " ")
		indent := len(line) - len(trimmed)
		if skip >= 0 && (strings.TrimSpace(line) == "" || indent > skip) {
			continue
		}
		skip = -1
		if strings.HasPrefix(trimmed, key+":") {
			skip = indent
			continue
		}
		out.WriteString(line)
	}
	return out.String()
}

// withoutTests drops the step that runs the tests: the peers' Dockerfile
// compiles and nothing more.
func withoutTests(text string) string {
	head, rest, ok := strings.Cut(text, "\nbuild:")
	if !ok {
		return text
	}
	return head + "\nbuild:" + withoutBlock(rest, "test")
}

// baseOnly leaves nothing in the production image but its packages: the
// runtime base that the peers put the application on. The entry point stays,
// for a project file must have one.
func baseOnly(text string) string {
	head, production, ok := strings.Cut(text, "\nproduction:")
	if !ok {
		return text
	}
	for _, key := range []string{"dependencies", "artifacts", "files", "command", "workdir", "writable", "health", "ready", "ports"} {
		production = withoutBlock(production, key)
	}
	head, _, _ = strings.Cut(head, "\nbuild:")
	return head + "\nproduction:" + production
}

// changeLine changes one line of a project's source to something that it has
// never been, so that no cache can know it.
func changeLine(dir string, round int) error {
	for _, c := range []struct{ file, line string }{
		{"src/config.ts", "export const benchRound = 'round %d';\n"},
		{"main.go", "//go:noinline\nfunc benchRound() string { return \"round %d\" }\n\nfunc init() {\n\tif benchRound() == \"\" {\n\t\tpanic(benchRound())\n\t}\n}\n"},
	} {
		name := filepath.Join(dir, filepath.FromSlash(c.file))
		b, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		const mark = "\n// the benchmark's line\n"
		text, _, _ := strings.Cut(string(b), mark)
		return os.WriteFile(name, []byte(text+mark+fmt.Sprintf(c.line, round)), 0o644)
	}
	return fmt.Errorf("%s has no source file that the benchmark knows", dir)
}
