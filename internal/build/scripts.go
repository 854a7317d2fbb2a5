package build

import (
	"bufio"
	"bytes"
	"path"
	"sort"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
)

// Production images never run maintainer scripts. What those scripts would
// have done is either nothing (boilerplate), or in the effects table, or
// reported. This file decides which, by reading the scripts as text.

// handledScripts are the packages whose scripts were read by a person: what
// they do on a fresh installation is covered by an effect, or has no bearing
// on an image. The value says which.
var handledScripts = map[string]string{
	"base-files":               "folders and defaults: effect base",
	"base-passwd":              "users and groups: effect users",
	"ca-certificates":          "certificate bundle: effect certificates",
	"fontconfig-config":        "configuration links only; the packaged defaults stay",
	"libc6":                    "service restarts on upgrades only",
	"libpython3-stdlib":        "byte-compilation only",
	"libssl3":                  "service restarts on upgrades only",
	"libssl3t64":               "service restarts on upgrades only",
	"media-types":              "no effect on a fresh installation",
	"netbase":                  "conffile migration only",
	"openssl":                  "configuration migration only",
	"python3":                  "byte-compilation only",
	"python3-minimal":          "byte-compilation only",
	"python3.11":               "byte-compilation only",
	"python3.11-minimal":       "byte-compilation only",
	"python3.13":               "byte-compilation only",
	"python3.13-minimal":       "byte-compilation only",
	"libpython3.11-minimal":    "site configuration and byte-compilation only",
	"libpython3.13-minimal":    "site configuration and byte-compilation only",
	"tzdata":                   "local time: effect timezone",
	"tzdata-legacy":            "local time: effect timezone",
	"libgdk-pixbuf-2.0-0":      "loader cache; the packaged one stays",
	"node-undici":              "no effect on a fresh installation",
	"libpam-runtime":           "log-in configuration: nothing logs in",
	"libjs-sphinxdoc":          "documentation only",
	"default-jre-headless":     "alternatives: effect alternatives",
	"openjdk-17-jre-headless":  "alternatives and class-data sharing; the latter is an optimisation",
	"openjdk-21-jre-headless":  "alternatives and class-data sharing; the latter is an optimisation",
	"ca-certificates-java":     "trust store for Java is not made: mount one, or use the certificates bundle",
	"java-common":              "alternatives: effect alternatives",
	"ruby-rubygems":            "no effect on a fresh installation",
	"postgresql-client-common": "no effect on a fresh installation",
}

// alternative is one `update-alternatives --install` found in a script.
type alternative struct {
	link, name, path string // absolute link, name in /etc/alternatives, absolute target
	priority         int
	slaves           []alternative
	pkg              string
}

// readScript extracts what a postinst or preinst does that an image could
// need. It knows the boilerplate that Debian's helpers generate and calls to
// update-alternatives with literal arguments; rest holds every other line that
// does something.
func readScript(script []byte) (alts []alternative, rest []string) {
	joined := bytes.ReplaceAll(script, []byte("\\\n"), []byte(" "))
	sc := bufio.NewScanner(bytes.NewReader(joined))
	sc.Buffer(nil, 1<<20)
	generated := false
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		switch {
		case strings.HasPrefix(line, "# Automatically added by"):
			// Units and users made at boot time matter; the rest of the
			// helpers' output serves installed systems.
			generated = !strings.Contains(line, "dh_installsysusers") && !strings.Contains(line, "dh_sysuser")
			continue
		case strings.HasPrefix(line, "# End automatically added section"):
			generated = false
			continue
		case generated || line == "" || strings.HasPrefix(line, "#"):
			continue
		}
		if a, ok := parseAlternative(line); ok {
			alts = append(alts, a)
			continue
		}
		if !boilerplate(line) {
			rest = append(rest, line)
		}
	}
	if sc.Err() != nil {
		rest = append(rest, "(unreadable: "+sc.Err().Error()+")")
	}
	return alts, rest
}

// boilerplate lines steer a script without doing anything: when only they are
// left, the script does nothing.
func boilerplate(line string) bool {
	switch line {
	case "set -e", "set -eu", "set -u", "exit 0", "exit 0;", ":", "fi", "esac", ";;", "done", "then", "else", "do", "}", "{":
		return true
	}
	for _, p := range []string{
		"if [ \"$1\" =", "if [ \"$1\" !=", "if [ -n \"$2\"", "case \"$1\" in", "case \"${1}\" in", "case $1 in", "configure)", "configure|", "abort-", "triggered)", "upgrade", "install)", "install|", "*)",
		"echo \"postinst called with unknown", "echo \"preinst called with unknown", "exit 1", ". /usr/share/debconf/confmodule", "dpkg-maintscript-helper ", "ldconfig", "py3compile", "py3clean", "remove)", "reconfigure)",
	} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return false
}

// parseAlternative reads one call with literal arguments. Arguments that hold
// shell variables are not guessed at: the line then counts as one that matters.
func parseAlternative(line string) (alternative, bool) {
	if !strings.HasPrefix(line, "update-alternatives") || strings.ContainsAny(line, "$`|&;<>") {
		return alternative{}, false
	}
	words := strings.Fields(line)
	var a alternative
	for i := 1; i < len(words); i++ {
		switch {
		case words[i] == "--install" && i+4 < len(words):
			a.link, a.name, a.path = words[i+1], words[i+2], words[i+3]
			for _, c := range words[i+4] {
				if c < '0' || c > '9' || a.priority > 1<<20 {
					return alternative{}, false
				}
				a.priority = a.priority*10 + int(c-'0')
			}
			i += 4
		case words[i] == "--slave" && i+3 < len(words):
			a.slaves = append(a.slaves, alternative{link: words[i+1], name: words[i+2], path: words[i+3]})
			i += 3
		case words[i] == "--quiet" || words[i] == "--force":
		default:
			return alternative{}, false
		}
	}
	return a, a.link != "" && strings.HasPrefix(a.link, "/") && strings.HasPrefix(a.path, "/") && !strings.Contains(a.name, "/")
}

// chooseAlternatives keeps, for each name, the one that update-alternatives
// would: the highest priority, of equals the first in byte order of the path.
// Targets that the tree does not hold do not count.
func chooseAlternatives(t *filetree.Tree, all []alternative) []alternative {
	best := map[string]alternative{}
	for _, a := range all {
		if t.Resolve(a.path) == nil {
			continue
		}
		b, ok := best[a.name]
		if !ok || a.priority > b.priority || a.priority == b.priority && a.path < b.path {
			best[a.name] = a
		}
	}
	var out []alternative
	for _, a := range best {
		out = append(out, a)
		for _, s := range a.slaves {
			if t.Resolve(s.path) != nil {
				s.pkg = a.pkg
				out = append(out, s)
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

// scriptInterpreter returns the interpreter of a script's first line, "" when
// the bytes are not a script.
func scriptInterpreter(head []byte) string {
	if !bytes.HasPrefix(head, []byte("#!")) {
		return ""
	}
	line, _, _ := bytes.Cut(head[2:], []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) == 0 {
		return ""
	}
	if path.Base(f[0]) == "env" && len(f) > 1 {
		for _, a := range f[1:] {
			if !strings.HasPrefix(a, "-") && !strings.Contains(a, "=") {
				return a // a bare name: looked for along PATH
			}
		}
	}
	return f[0]
}
