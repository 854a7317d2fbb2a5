package project

import (
	"bytes"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// Render writes the effective project file: every default filled in, nothing
// implied, in the order of the format. It is itself a project file that means
// the same, and the same File gives the same bytes.
func Render(w io.Writer, f *File) error {
	_, err := w.Write(f.Effective())
	return err
}

// Effective is what Render writes.
func (f *File) Effective() []byte {
	p := &printer{}
	p.pair(0, "name", quote(f.Name))
	platforms := make([]string, len(f.Platforms))
	for i, x := range f.Platforms {
		platforms[i] = x.String()
	}
	p.pair(0, "platforms", flow(platforms))
	p.WriteString("\n")
	p.spec(oci.Development, &f.Development)
	if len(f.Build.Tools) > 0 || len(f.Build.Steps) > 0 {
		p.WriteString("\n")
		p.build(&f.Build)
	}
	p.WriteString("\n")
	p.spec(oci.Production, &f.Production)
	return p.Bytes()
}

// EffectiveZone is the section of one zone alone, as Effective writes it.
func (f *File) EffectiveZone(zone oci.Zone) []byte {
	p := &printer{}
	p.spec(zone, f.Spec(zone))
	return p.Bytes()
}

type printer struct{ bytes.Buffer }

func (p *printer) pair(depth int, key, value string) {
	p.WriteString(strings.Repeat("  ", depth) + key + ":")
	if value != "" {
		p.WriteString(" " + value)
	}
	p.WriteString("\n")
}

func (p *printer) words(depth int, key string, list []string) {
	if len(list) > 0 {
		p.pair(depth, key, flow(list))
	}
}

func (p *printer) dict(depth int, key string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	p.pair(depth, key, "")
	for _, name := range slices.Sorted(maps.Keys(m)) {
		p.pair(depth+1, quote(name), quote(m[name]))
	}
}

func (p *printer) text(depth int, key, value string) {
	if value != "" {
		p.pair(depth, key, quote(value))
	}
}

func (p *printer) spec(zone oci.Zone, s *Spec) {
	p.pair(0, string(zone), "")
	p.pair(1, "archive", quote(s.Archive))
	p.words(1, "packages", s.Packages)
	p.dict(1, "exclude", s.Exclude)
	p.words(1, "keep", s.Keep)
	if npm, mod := s.Dependencies.NPM, s.Dependencies.Go; npm != nil || mod != nil {
		p.pair(1, "dependencies", "")
		if npm != nil {
			p.pair(2, "npm", "")
			p.pair(3, "lockfile", quote(npm.Lockfile))
			p.pair(3, "development", strconv.FormatBool(npm.Development))
			p.pair(3, "into", quote(npm.Into))
		}
		if mod != nil {
			p.pair(2, "go", "")
			p.pair(3, "module", quote(mod.Module))
		}
	}
	p.dict(1, "artifacts", s.Artifacts)
	p.dict(1, "files", s.Files)
	p.dict(1, "environment", s.Environment)
	u := s.User
	groups := ""
	if len(u.Groups) > 0 {
		groups = ", groups: " + numbers(u.Groups)
	}
	p.pair(1, "user", "{name: "+quote(u.Name)+", id: "+strconv.Itoa(u.ID)+", group: "+quote(u.Group)+", gid: "+strconv.Itoa(u.GID)+groups+"}")
	p.pair(1, "workdir", quote(s.Workdir))
	p.words(1, "entrypoint", s.Entrypoint)
	p.words(1, "command", s.Command)
	if len(s.Ports) > 0 {
		p.pair(1, "ports", numbers(s.Ports))
	}
	p.words(1, "writable", s.Writable)
	p.text(1, "health", s.Health)
	p.text(1, "ready", s.Ready)
	p.dict(1, "labels", s.Labels)
	if s.Debugger != 0 {
		p.pair(1, "debugger", strconv.Itoa(s.Debugger))
	}
	p.words(1, "reload", s.Reload)
}

func (p *printer) build(b *Build) {
	p.pair(0, "build", "")
	p.words(1, "tools", b.Tools)
	if len(b.Steps) == 0 {
		return
	}
	p.pair(1, "steps", "")
	for _, s := range b.Steps {
		p.pair(2, quote(s.Name), "")
		p.words(3, "run", s.Run)
		p.words(3, "inputs", s.Inputs)
		p.words(3, "after", s.After)
		if len(s.Outputs) > 0 {
			p.pair(3, "outputs", "")
			for _, o := range s.Outputs {
				p.pair(4, quote(o.Path), o.Kind)
			}
		}
		p.dict(3, "environment", s.Environment)
		p.pair(3, "timeout", duration(s.Timeout))
		p.pair(3, "platform", s.Platform)
	}
}

// duration leaves out what time.Duration.String says of nothing: 10m, not 10m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func flow(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func numbers(list []int) string {
	text := make([]string, len(list))
	for i, n := range list {
		text[i] = strconv.Itoa(n)
	}
	return "[" + strings.Join(text, ", ") + "]"
}

// plainText is what every YAML reader takes for text without quotes.
var plainText = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9/._+=-]*$`)

// words that YAML, in one version or another, takes for something else.
var notText = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null|nan|inf)$`)

// quote writes text so that every YAML reader gives it back.
func quote(s string) string {
	if plainText.MatchString(s) && !notText.MatchString(s) {
		return s
	}
	// YAML's double-quoted form knows JSON's escapes.
	return string(compact(s))
}
