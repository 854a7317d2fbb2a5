package inspect

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"twinhull.dev/twinhull/internal/elfclosure"
	"twinhull.dev/twinhull/internal/oci"
)

// WritableLabel is the config label that names the paths that an image may
// write, separated by commas.
const WritableLabel = "dev.twinhull.writable"

const redacted = "[redacted]"

// config copies the configuration and the zone's marks. Secrets in it become
// findings and are replaced.
func (s *summary) config() {
	f, cfg := s.f, s.img.Config.Config
	c := &f.Config
	c.Digest = s.img.Manifest.Config.Digest
	c.User, c.WorkingDir, c.StopSignal = cfg.User, cfg.WorkingDir, cfg.StopSignal
	c.Entrypoint, c.Cmd = s.redactAll("entry point", cfg.Entrypoint), s.redactAll("command", cfg.Cmd)
	c.Ports = slices.Sorted(maps.Keys(cfg.ExposedPorts))
	c.Volumes = slices.Sorted(maps.Keys(cfg.Volumes))
	for _, w := range strings.Split(cfg.Labels[WritableLabel], ",") {
		if w = strings.TrimSpace(w); w != "" {
			c.Writable = append(c.Writable, w)
		}
	}
	for _, kv := range cfg.Env {
		c.Env = append(c.Env, s.redactVariable("environment", kv))
	}
	if len(cfg.Labels) > 0 {
		c.Labels = map[string]string{}
		for _, k := range slices.Sorted(maps.Keys(cfg.Labels)) {
			_, v, _ := strings.Cut(s.redactVariable("label", k+"="+cfg.Labels[k]), "=")
			c.Labels[k] = v
		}
	}
	// What Facts have no field for is read all the same.
	for _, k := range slices.Sorted(maps.Keys(s.img.Manifest.Annotations)) {
		s.redactVariable("annotations", k+"="+s.img.Manifest.Annotations[k])
	}
	for _, l := range s.img.Manifest.Layers {
		for _, k := range slices.Sorted(maps.Keys(l.Annotations)) {
			s.redactVariable("layer annotations", k+"="+l.Annotations[k])
		}
	}
	s.redact("author", s.img.Config.Author)
	s.docker = dockerConfig(s.img.RawConfig)
	s.redactAll("health check", s.docker.Healthcheck.Test)
	s.redactAll("ONBUILD", s.docker.OnBuild)
	s.redactAll("shell", s.docker.Shell)
	for _, h := range s.img.Config.History {
		c.History = append(c.History, s.redactHistory(h.CreatedBy))
		if h.Comment != "" {
			s.redactHistory(h.Comment)
		}
	}
	for i := range f.Layers {
		if f.Layers[i].Created != "" {
			f.Layers[i].Created = s.redactQuietly(f.Layers[i].Created)
		}
	}
	s.zone()
	c.UID, c.GID = s.user(cfg.User)
}

// dockerFields are what Docker's configuration has beyond OCI's.
type dockerFields struct {
	Healthcheck struct{ Test []string }
	OnBuild     []string
	Shell       []string
}

// dockerConfig reads them. The configuration has been parsed before; fields of
// another form are nobody's.
func dockerConfig(raw []byte) (d dockerFields) {
	var doc struct{ Config json.RawMessage }
	if json.Unmarshal(raw, &doc) == nil && len(doc.Config) > 0 {
		_ = json.Unmarshal(doc.Config, &d)
	}
	return d
}

func (s *summary) redactAll(where string, args []string) []string {
	var out []string
	for _, a := range args {
		out = append(out, s.redact(where, a))
	}
	return out
}

// redact looks for secrets by their form in a text of the configuration.
func (s *summary) redact(where, text string) string {
	found := scanText(s.rules, where, text)
	if len(found) == 0 {
		return text
	}
	for _, x := range found {
		s.add(Finding{Rule: RuleSecret, Subject: x.rule, Detail: "in the image's " + where, Evidence: x.evidence()})
	}
	return redacted
}

// redactVariable does so for NAME=VALUE, and knows names that call their value
// a secret.
func (s *summary) redactVariable(where, kv string) string {
	name, value, ok := strings.Cut(kv, "=")
	if !ok || value == "" {
		return kv
	}
	if name == oci.ZoneKey || name == WritableLabel {
		return kv
	}
	found := scanText(s.rules, where, kv)
	found = slices.DeleteFunc(found, func(x secret) bool { return x.generic && notSecretName.MatchString(name) })
	for _, x := range found {
		s.add(Finding{Rule: RuleSecret, Subject: x.rule, Detail: fmt.Sprintf("in the image's %s, %s", where, name), Evidence: x.evidence()})
	}
	if len(found) == 0 && secretVariable(name, value) {
		found = append(found, secret{})
		s.add(Finding{Rule: RuleSecret, Subject: where + " variable", Detail: fmt.Sprintf("in the image's %s, %s", where, name),
			Evidence: fmt.Sprintf("%d characters, fingerprint %s", len(value), fingerprint("env", value))})
	}
	if len(found) > 0 {
		return name + "=" + redacted
	}
	return kv
}

// historyVariable finds NAME=VALUE in a history entry: ENV, ARG and the
// arguments of a build that Docker writes before a RUN ("|1 NAME=value").
var historyVariable = regexp.MustCompile(`\b([A-Za-z_][A-Za-z0-9_]*)=("[^"]*"|'[^']*'|[^\s;&|]+)`)

func (s *summary) redactHistory(text string) string {
	out := text
	found := scanText(s.rules, "history", text)
	for _, x := range found {
		s.add(Finding{Rule: RuleSecret, Subject: x.rule, Detail: "in the image's history", Evidence: x.evidence()})
	}
	for _, m := range historyVariable.FindAllStringSubmatch(text, 100) {
		if len(found) == 0 && secretVariable(m[1], m[2]) {
			value := strings.Trim(m[2], `"'`)
			s.add(Finding{Rule: RuleSecret, Subject: "history variable", Detail: "in the image's history, " + m[1], Evidence: fmt.Sprintf("%d characters, fingerprint %s", len(value), fingerprint("env", value))})
			out = strings.ReplaceAll(out, m[0], m[1]+"="+redacted)
		}
	}
	if len(found) > 0 {
		return redacted
	}
	return out
}

func (s *summary) redactQuietly(text string) string {
	if len(scanText(s.rules, "history", text)) > 0 {
		return redacted
	}
	return historyVariable.ReplaceAllStringFunc(text, func(m string) string {
		if name, value, _ := strings.Cut(m, "="); secretVariable(name, value) {
			return name + "=" + redacted
		}
		return m
	})
}

var ownHistory = regexp.MustCompile(`^twinhull \d+: (\w+): `)

func (s *summary) zone() {
	z := &s.f.Zone
	z.Label = s.img.Config.Config.Labels[oci.ZoneKey]
	z.Annotation = s.img.Manifest.Annotations[oci.ZoneKey]
	for _, h := range s.img.Config.History {
		m := ownHistory.FindStringSubmatch(h.CreatedBy)
		switch {
		case m == nil:
		case z.History == "":
			z.History = m[1]
		case z.History != m[1]:
			z.History = "mixed"
		}
	}
	_, err := oci.ParseZone(z.Label)
	z.Agree = err == nil && (z.Annotation == z.Label || s.img.RawManifest == nil) && (z.History == "" || z.History == z.Label ||
		// A development image may share layers, never the other way round.
		z.History == "mixed" && z.Label == string(oci.Development))
	if !z.Agree && (z.Label != "" || z.Annotation != "") {
		s.add(Finding{Rule: RuleInconsistent, Subject: "zone", Detail: fmt.Sprintf("the label says %q, the annotation %q, the history %q", z.Label, z.Annotation, z.History)})
	}
	if n := len(s.img.Config.History); n > 0 {
		layers := 0
		for _, h := range s.img.Config.History {
			if !h.EmptyLayer {
				layers++
			}
		}
		if layers != len(s.img.Manifest.Layers) {
			s.add(Finding{Rule: RuleInconsistent, Subject: "history", Detail: fmt.Sprintf("the history tells of %d layers, the manifest of %d", layers, len(s.img.Manifest.Layers))})
		}
	}
	// An index may promise another platform than the configuration has.
	if p := s.img.Descriptor.Platform; p != nil && (p.OS != s.img.Config.OS || p.Architecture != s.img.Config.Architecture) {
		s.add(Finding{Rule: RuleInconsistent, Subject: "platform", Detail: fmt.Sprintf("the index says %s/%s, the configuration %s/%s", p.OS, p.Architecture, s.img.Config.OS, s.img.Config.Architecture)})
	}
}

type passwdEntry struct {
	name     string
	uid, gid int
	home     string
}

func (s *summary) passwd() []passwdEntry {
	var out []passwdEntry
	for line := range strings.Lines(string(s.keep("etc/passwd"))) {
		parts := strings.Split(strings.TrimSpace(line), ":")
		if len(parts) < 6 {
			continue
		}
		uid, err1 := strconv.Atoi(parts[2])
		gid, err2 := strconv.Atoi(parts[3])
		if err1 == nil && err2 == nil {
			out = append(out, passwdEntry{parts[0], uid, gid, parts[5]})
		}
	}
	return out
}

// user resolves a User of the configuration as runtimes do: names by the
// image's own files, no user means root.
func (s *summary) user(text string) (uid, gid int) {
	u, g, grouped := strings.Cut(text, ":")
	uid, gid = -1, -1
	if u == "" {
		uid, gid = 0, 0
	} else if n, err := strconv.Atoi(u); err == nil && n >= 0 {
		uid, gid = n, 0
	}
	for _, p := range s.passwd() {
		if uid == p.uid || uid < 0 && p.name == u {
			uid, gid = p.uid, p.gid
			s.f.Ready.PasswdName = p.name
			break
		}
	}
	if !grouped {
		return uid, gid
	}
	if n, err := strconv.Atoi(g); err == nil && n >= 0 {
		return uid, n
	}
	for line := range strings.Lines(string(s.keep("etc/group"))) {
		parts := strings.Split(strings.TrimSpace(line), ":")
		if len(parts) >= 3 && parts[0] == g {
			if n, err := strconv.Atoi(parts[2]); err == nil {
				return uid, n
			}
		}
	}
	return uid, -1
}

// debugVariables are environment variables that turn debugging on, with the
// values that do.
var debugVariables = []struct {
	name  string
	value *regexp.Regexp
	why   string
}{
	{"NODE_OPTIONS", regexp.MustCompile(`--(?:inspect|debug|inspect-brk|inspect-wait|prof|trace-|enable-source-maps|cpu-prof|heap-prof|require[= ]*ts-node|loader)`), "starts Node's debugger or profiler"},
	{"NODE_ENV", regexp.MustCompile(`^(?:dev.*|test.*)$`), "tells libraries that this is development"},
	{"NODE_INSPECT_RESUME_ON_START", regexp.MustCompile(`.`), "waits for a debugger"},
	{"DEBUG", regexp.MustCompile(`^(?:\*|1|true|yes|on|.*[:*].*|app.*|express.*)$`), "turns debugging output on"},
	{"NODE_DEBUG", regexp.MustCompile(`.`), "turns Node's debugging output on"},
	{"PYTHONBREAKPOINT", regexp.MustCompile(`^[^0]`), "names a debugger"},
	{"PYTHONINSPECT", regexp.MustCompile(`.`), "opens a prompt when the program ends"},
	{"PYTHONDEVMODE", regexp.MustCompile(`.`), "is Python's development mode"},
	{"PYTHONASYNCIODEBUG", regexp.MustCompile(`.`), "is asyncio's debug mode"},
	{"FLASK_DEBUG", regexp.MustCompile(`^(?:1|true|yes|on)$`), "opens a debugger in the browser"},
	{"FLASK_ENV", regexp.MustCompile(`^dev`), "opens a debugger in the browser"},
	{"DJANGO_DEBUG", regexp.MustCompile(`^(?:1|true|yes|on)$`), "shows settings on error pages"},
	{"RAILS_ENV", regexp.MustCompile(`^(?:dev|test)`), "tells Rails that this is development"},
	{"RACK_ENV", regexp.MustCompile(`^(?:dev|test)`), "tells Rack that this is development"},
	{"APP_ENV", regexp.MustCompile(`^(?:dev.*|local|test.*)$`), "tells the application that this is development"},
	{"APP_DEBUG", regexp.MustCompile(`^(?:1|true|yes|on)$`), "turns the application's debug mode on"},
	{"ASPNETCORE_ENVIRONMENT", regexp.MustCompile(`^Dev`), "shows exceptions to clients"},
	{"DOTNET_ENVIRONMENT", regexp.MustCompile(`^Dev`), "tells .NET that this is development"},
	{"SPRING_PROFILES_ACTIVE", regexp.MustCompile(`\b(?:dev|development|local)\b`), "activates development profiles"},
	{"GIN_MODE", regexp.MustCompile(`^debug$`), "is gin's debug mode"},
	{"GOTRACEBACK", regexp.MustCompile(`^(?:crash|wer)$`), "writes a core dump on a crash"},
	{"GODEBUG", regexp.MustCompile(`gctrace|schedtrace|allocfreetrace|http2debug`), "turns tracing on"},
	{"RUST_BACKTRACE", regexp.MustCompile(`^full$`), "shows whole backtraces"},
	{"LD_PRELOAD", regexp.MustCompile(`.`), "loads a library into every program"},
	{"LD_DEBUG", regexp.MustCompile(`.`), "traces the dynamic linker"},
	{"JAVA_TOOL_OPTIONS", javaDebug, "starts Java's debugger"},
	{"JAVA_OPTS", javaDebug, "starts Java's debugger"},
	{"_JAVA_OPTIONS", javaDebug, "starts Java's debugger"},
	{"JDK_JAVA_OPTIONS", javaDebug, "starts Java's debugger"},
	{"XDEBUG_MODE", regexp.MustCompile(`debug|develop|profile`), "starts Xdebug"},
	{"PERL5DB", regexp.MustCompile(`.`), "starts Perl's debugger"},
}

var javaDebug = regexp.MustCompile(`-agentlib:jdwp|-Xrunjdwp|-Xdebug|jmxremote`)

// debugArguments are arguments that turn debugging on.
var debugArguments = []struct {
	arg *regexp.Regexp
	why string
}{
	{regexp.MustCompile(`^--(?:inspect|inspect-brk|inspect-wait|inspect-port|debug-brk|debug-port)(?:=.*)?$`), "starts Node's debugger"},
	{regexp.MustCompile(`^(?:dlv|.*/dlv)$`), "runs under the debugger Delve"},
	{regexp.MustCompile(`^(?:gdb|gdbserver|lldb|lldb-server|strace|ltrace|valgrind|rr|perf|.*/(?:gdb|gdbserver|lldb|lldb-server|strace|ltrace|valgrind))$`), "runs under a debugger"},
	{javaDebug, "starts Java's debugger"},
	{regexp.MustCompile(`^(?:debugpy|pdb|ipdb|pudb)$`), "runs under a debugger of Python"},
	{regexp.MustCompile(`^(?:nodemon|ts-node|ts-node-dev|tsx|air|reflex|watchexec|.*/(?:nodemon|ts-node|tsx))$`), "is a tool of development that restarts on changes"},
	{regexp.MustCompile(`^--(?:reload|watch|hot|dev)$`), "restarts on changes"},
}

// settings judges the configuration itself.
func (s *summary) settings() {
	f, c := s.f, &s.f.Config
	cfg := s.img.Config.Config
	for _, kv := range cfg.Env {
		name, value, _ := strings.Cut(kv, "=")
		for _, d := range debugVariables {
			if d.name == name && d.value.MatchString(value) {
				s.add(Finding{Rule: RuleDebugFlag, Subject: name, Detail: fmt.Sprintf("%s=%s %s", name, s.shown(name, value), d.why)})
			}
		}
		if loggerPath.MatchString(name) && strings.HasPrefix(value, "/") && !s.isWritable(value) && !strings.HasPrefix(value, "/dev/") && !strings.HasPrefix(value, "/proc/") && c.UID != 0 && !s.holdsFiles(value) {
			s.add(Finding{Rule: RuleWritesOutside, Subject: name, Detail: fmt.Sprintf("%s=%s lies outside the paths that the image may write", name, s.shown(name, value))})
		}
	}
	args := slices.Concat(cfg.Entrypoint, cfg.Cmd, s.firstLine)
	for _, a := range args {
		for _, d := range debugArguments {
			for word := range strings.FieldsSeq(a) {
				if d.arg.MatchString(word) {
					s.add(Finding{Rule: RuleDebugFlag, Subject: word, Detail: fmt.Sprintf("the entry point or command has %s, which %s", word, d.why)})
					break
				}
			}
		}
	}
	for _, v := range c.Volumes {
		// Without the label the declaration of a volume is all there is.
		if _, labelled := cfg.Labels[WritableLabel]; labelled && !s.isWritable(v) {
			s.add(Finding{Rule: RuleWritesOutside, Subject: "volume", Detail: fmt.Sprintf("the image declares the volume %s, which is none of the paths in its label %s", v, WritableLabel)})
		}
	}
	if c.UID == 0 {
		detail := "the image runs as root"
		if cfg.User == "" {
			detail = "the image names no user, so that it runs as root"
		}
		s.add(Finding{Rule: RuleRootUser, Subject: cfg.User, Detail: detail})
	}
	if c.UID < 0 {
		s.add(Finding{Rule: RuleNoPasswd, Subject: cfg.User, Detail: fmt.Sprintf("the user %q is a name that the image's /etc/passwd does not have: no runtime can start it", cfg.User)})
	} else if f.Ready.PasswdName == "" {
		s.add(Finding{Rule: RuleNoPasswd, Subject: cfg.User, Detail: fmt.Sprintf("user %d has no entry in /etc/passwd; a program that asks for its home or its name gets an error", c.UID)})
	}
	if c.UID > 0 && !s.mayBind() {
		for _, p := range c.Ports {
			number, _, _ := strings.Cut(p, "/")
			if n, err := strconv.Atoi(number); err == nil && n > 0 && n < 1024 {
				s.add(Finding{Rule: RulePrivilegedPort, Subject: p, Detail: fmt.Sprintf("user %d cannot listen on port %d where ports below 1024 are privileged", c.UID, n)})
			}
		}
	}
	bundles := []string{"etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/ca-bundle.pem", "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "etc/ssl/cert.pem", "usr/lib/ssl/cert.pem", "etc/ca-certificates.crt"}
	for _, kv := range cfg.Env {
		if v, ok := strings.CutPrefix(kv, "SSL_CERT_FILE="); ok {
			bundles = append([]string{strings.Trim(v, "/")}, bundles...)
		}
	}
	for _, p := range bundles {
		if n := s.tree.resolve(p); n != nil && n.e != nil && n.e.typ == tar.TypeReg && n.e.size > 0 {
			f.Ready.CABundle = absolute(p)
			break
		}
	}
	if f.Ready.CABundle == "" {
		s.add(Finding{Rule: RuleNoCABundle, Detail: "no bundle of CA certificates: outgoing TLS connections fail unless the program brings its own"})
	}
	for _, p := range []string{"usr/share/zoneinfo/UTC", "usr/share/zoneinfo/Etc/UTC", "usr/share/zoneinfo/Europe/Berlin", "usr/local/go/lib/time/zoneinfo.zip"} {
		if n := s.tree.resolve(p); n != nil && n.e != nil {
			f.Ready.TimeZones = true
		}
	}
	if !f.Ready.TimeZones {
		s.add(Finding{Rule: RuleNoTimeZones, Detail: "no time zone data: local times of other zones than UTC cannot be told unless the program brings its own"})
	}
}

// shown is a value that may be told, secrets being findings of their own.
func (s *summary) shown(name, value string) string {
	for _, kv := range s.f.Config.Env {
		if n, v, _ := strings.Cut(kv, "="); n == name && v == redacted {
			return redacted
		}
	}
	if len(value) > 80 {
		return value[:80] + "…"
	}
	return value
}

var loggerPath = regexp.MustCompile(`(?i)^(?:.*_)?(?:LOG|LOGS|DATA|CACHE|TMP|TEMP|UPLOAD|UPLOADS|PID|STATE|SPOOL|STORAGE)(?:_?(?:DIR|PATH|FILE|FOLDER|DIRECTORY))$|^TMPDIR$`)

// holdsFiles tells a folder of the image that something lies in: a variable that
// names it names what is read.
func (s *summary) holdsFiles(p string) bool {
	n := s.tree.resolve(p)
	return n != nil && n.isDir() && len(n.children) > 0
}

func (s *summary) isWritable(p string) bool {
	p = path.Clean(p)
	for _, w := range s.f.Config.Writable {
		w = path.Clean(w)
		if p == w || strings.HasPrefix(p, w+"/") || w == "/" {
			return true
		}
	}
	return false
}

// mayBind tells whether the program has the capability to use privileged ports.
func (s *summary) mayBind() bool {
	n := s.tree.resolve(s.f.Ready.Program)
	return n != nil && n.e != nil && capabilityBits(n.e.caps)&(1<<capNetBindService) != 0
}

// wrappers start the program that follows their own arguments.
var wrappers = map[string]bool{"tini": true, "tini-static": true, "dumb-init": true, "catatonit": true, "docker-init": true, "gosu": true, "su-exec": true, "env": true, "nice": true, "exec": true, "setpriv": true, "chpst": true, "stdbuf": true, "timeout": true}

var shellNames = map[string]bool{"sh": true, "bash": true, "dash": true, "ash": true, "zsh": true, "ksh": true, "mksh": true, "fish": true, "busybox": true, "pwsh": true, "csh": true, "tcsh": true, "rbash": true}

var npmStarters = map[string]bool{"npm": true, "npx": true, "yarn": true, "yarnpkg": true, "pnpm": true, "pnpx": true, "corepack": true}

// program is what an argument names, as a runtime with the image's environment
// would find it.
func (s *summary) program(arg string) *node {
	if strings.Contains(arg, "/") {
		if !strings.HasPrefix(arg, "/") {
			arg = path.Join("/", s.img.Config.Config.WorkingDir, arg)
		}
		return s.file(arg)
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, kv := range s.img.Config.Config.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			search = v
		}
	}
	for dir := range strings.SplitSeq(search, ":") {
		if n := s.file(path.Join("/", dir, arg)); n != nil && n.e.mode&0o111 != 0 {
			return n
		}
	}
	return nil
}

func (s *summary) file(p string) *node {
	n := s.tree.resolve(p)
	if n == nil || n.e == nil || n.e.typ != tar.TypeReg {
		return nil
	}
	return n
}

func hasTool(n *node, rule string) (string, bool) {
	if n.e.c == nil {
		return "", false
	}
	for _, t := range n.e.c.tools {
		if t.rule == rule && t.inside == "" {
			return t.name, true
		}
	}
	return "", false
}

// readiness asks whether the image would run: its entry point, every program's
// libraries, every script's interpreter.
func (s *summary) readiness() {
	f, cfg := s.f, s.img.Config.Config
	args := slices.Concat(cfg.Entrypoint, cfg.Cmd)
	if len(args) == 0 {
		s.add(Finding{Rule: RuleNoEntrypoint, Detail: "the configuration names neither an entry point nor a command"})
	} else {
		s.entrypoint(args, 0)
	}
	// Docker's health check is not part of the OCI configuration, and runtimes
	// run it all the same.
	if t := s.docker.Healthcheck.Test; len(t) > 1 {
		switch t[0] {
		case "CMD-SHELL":
			s.add(Finding{Rule: RuleShellEntrypoint, Subject: "health check", Detail: "the health check is given to a shell"})
		case "CMD":
			if shellNames[path.Base(t[1])] {
				s.add(Finding{Rule: RuleShellEntrypoint, Subject: "health check", Detail: "the health check runs " + t[1]})
			}
		}
	}
	// Interpreters that the entry point does not run on.
	for i := range f.Runtimes {
		r := &f.Runtimes[i]
		if r.Name == f.Ready.Runtime {
			r.Entrypoint = true
			continue
		}
		evidence := ""
		if n := s.tree.resolve(r.Path); n != nil && n.e != nil && n.e.c != nil {
			for _, t := range n.e.c.tools {
				if t.rule == RuleInterpreter {
					evidence = t.evidence
				}
			}
		}
		if evidence == "" {
			evidence = "an executable of that name"
		}
		s.add(Finding{Rule: RuleInterpreter, Subject: r.Name, Path: r.Path, Layer: r.Layer, Evidence: evidence, Detail: "an interpreter that the entry point does not run on", Dependency: isDependency(strings.TrimPrefix(r.Path, "/"))})
	}
	for i := 0; i < len(f.Findings); i++ {
		name, ok := strings.CutPrefix(f.Findings[i].Detail, "runtime\x00")
		switch {
		case !ok:
		case name == f.Ready.Runtime: // an older version of it in a lower layer
			f.Findings = slices.Delete(f.Findings, i, i+1)
			i--
		default:
			f.Findings[i].Detail = "an interpreter that the entry point does not run on"
		}
	}
	s.closure()
	s.scripts()
}

// entrypoint follows the arguments to the program that runs.
func (s *summary) entrypoint(args []string, depth int) {
	f := s.f
	base := path.Base(args[0])
	n := s.program(args[0])
	if wrappers[base] && depth < 4 {
		rest := args[1:]
		for len(rest) > 0 && (strings.HasPrefix(rest[0], "-") || strings.Contains(rest[0], "=") && base == "env" || base == "gosu" && depth == 0 && len(rest) > 1 || base == "su-exec" && len(rest) > 1) {
			if rest[0] == "--" {
				rest = rest[1:]
				break
			}
			skip := base == "gosu" || base == "su-exec"
			rest = rest[1:]
			if skip {
				break
			}
		}
		if len(rest) > 0 {
			if n == nil {
				s.add(Finding{Rule: RuleBrokenEntrypoint, Subject: args[0], Detail: args[0] + " is not in the image"})
			}
			s.entrypoint(rest, depth+1)
			return
		}
	}
	missing := ""
	if n == nil {
		missing = "; " + args[0] + " is not in the image either"
	}
	switch {
	case shellNames[base]:
		detail := "the entry point starts the shell " + args[0]
		if len(args) > 1 && args[1] == "-c" {
			detail = "the entry point or command is in shell form: write it as a list of arguments"
		}
		s.add(Finding{Rule: RuleShellEntrypoint, Subject: base, Detail: detail + missing})
	case npmStarters[base]:
		s.add(Finding{Rule: RuleShellEntrypoint, Subject: base, Detail: base + " runs scripts in a shell: start the program itself" + missing})
	case strings.ContainsAny(args[0], " \t;|&$") && n == nil:
		s.add(Finding{Rule: RuleShellEntrypoint, Subject: args[0], Detail: "the entry point is a line for a shell: write it as a list of arguments"})
	case n == nil:
		s.add(Finding{Rule: RuleBrokenEntrypoint, Subject: args[0], Detail: args[0] + " is not in the image, or its links lead nowhere"})
	}
	if n == nil {
		return
	}
	f.Ready.Program = absolute(n.path())
	if n.e.mode&0o111 == 0 {
		s.add(Finding{Rule: RuleBrokenEntrypoint, Subject: args[0], Path: f.Ready.Program, Detail: "the program of the entry point is not executable"})
	}
	c := n.e.c
	if c == nil || c.elf == nil && c.interp == "" {
		s.add(Finding{Rule: RuleBrokenEntrypoint, Subject: args[0], Path: f.Ready.Program, Detail: "the program of the entry point is neither an ELF file nor a script"})
		return
	}
	if name, ok := hasTool(n, RuleShell); ok && !shellNames[base] && name != busyboxName && name != toyboxName {
		s.add(Finding{Rule: RuleShellEntrypoint, Subject: name, Path: f.Ready.Program, Detail: "the entry point starts a shell under another name"})
	}
	if c.interp != "" {
		f.Ready.Script = f.Ready.Program
		interp, rest := c.interp, strings.Fields(c.argv)
		s.firstLine = rest
		if path.Base(interp) == "env" {
			rest = slices.DeleteFunc(rest, func(a string) bool { return strings.HasPrefix(a, "-") })
			if s.file(interp) == nil {
				s.add(Finding{Rule: RuleBrokenEntrypoint, Subject: interp, Path: f.Ready.Program, Detail: "the script of the entry point asks for " + interp + ", which is not in the image"})
			}
			if len(rest) > 0 {
				interp, rest = rest[0], rest[1:]
			}
		}
		_ = rest
		n = s.program(interp)
		if shellNames[path.Base(interp)] {
			detail := "the entry point is a script for " + interp
			if n == nil {
				detail += ", which is not in the image either"
			}
			s.add(Finding{Rule: RuleShellEntrypoint, Subject: path.Base(interp), Path: f.Ready.Program, Layer: s.entryLayer(strings.TrimPrefix(f.Ready.Program, "/")), Detail: detail})
			if n == nil {
				return
			}
		}
		if n == nil {
			s.add(Finding{Rule: RuleBrokenEntrypoint, Subject: interp, Path: f.Ready.Script, Detail: "the script of the entry point needs " + interp + ", which is not in the image"})
			return
		}
		f.Ready.Program = absolute(n.path())
		args = append([]string{interp, f.Ready.Script}, args[1:]...)
	}
	if name, ok := hasTool(n, RuleInterpreter); ok {
		f.Ready.Runtime = interpreterFamily(name)
	} else if rule, name := toolByName(n.path()); rule == RuleInterpreter {
		f.Ready.Runtime = interpreterFamily(name)
	}
	f.Ready.Static = n.e.c != nil && n.e.c.static
	if f.Ready.Runtime != "" && f.Ready.Script == "" {
		s.script(args[1:])
	}
}

// script finds the file that an interpreter is told to run.
func (s *summary) script(args []string) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-m" || a == "-c" || a == "-e" || a == "--eval" || a == "-p":
			return // a module or the program itself
		case a == "-jar" && i+1 < len(args):
			a = args[i+1]
			i++
		case a == "-r" || a == "--require" || a == "--import" || a == "-cp" || a == "-classpath" || a == "-W" || a == "-X" || a == "-I":
			i++
			continue
		case strings.HasPrefix(a, "-"):
			continue
		}
		if s.f.Ready.Runtime == "java" && !strings.HasSuffix(a, ".jar") && !strings.HasSuffix(a, ".java") {
			return // the name of a class
		}
		p := a
		if !strings.HasPrefix(p, "/") {
			p = path.Join("/", s.img.Config.Config.WorkingDir, p)
		}
		for _, try := range []string{p, p + ".js", p + ".mjs", p + ".cjs", p + "/index.js", p + "/package.json", p + "/__main__.py"} {
			if n := s.file(try); n != nil {
				s.f.Ready.Script = absolute(n.path())
				if path.Ext(p) == ".sh" {
					s.add(Finding{Rule: RuleShellEntrypoint, Subject: path.Base(p), Path: s.f.Ready.Script, Detail: "the entry point is a shell script"})
				}
				return
			}
		}
		if s.f.Ready.Runtime == "node" || s.f.Ready.Runtime == "python" || strings.Contains(a, "/") || path.Ext(a) != "" {
			s.add(Finding{Rule: RuleBrokenEntrypoint, Subject: a, Path: absolute(p), Detail: "the file that " + s.f.Ready.Runtime + " is told to run is not in the image"})
		}
		return
	}
}

// closure asks for every ELF file whether the dynamic linker finds what it
// needs.
func (s *summary) closure() {
	f := s.f
	set := elfclosure.Set{Platform: f.Platform, Resolve: func(p string) (string, bool) {
		n := s.tree.resolve(p)
		if n == nil || n.e == nil {
			return "", false
		}
		if first, ok := s.names[n.e]; ok {
			return first, true
		}
		return n.path(), true
	}}
	var layers []oci.Digest
	for _, e := range s.files {
		if e.c.elf == nil {
			continue
		}
		if p := s.names[e]; isDependency(p) && isExample(p) {
			continue // files for a compiler's or debugger's tests
		}
		item := elfclosure.Item{Path: s.names[e], Executable: e.mode&0o111 != 0, File: e.c.elf}
		set.Items = append(set.Items, item)
		layers = append(layers, s.entryLayer(item.Path))
		if item.IsLibrary() {
			f.Ready.Libraries++
		} else {
			f.Ready.Programs++
		}
	}
	for _, e := range s.files {
		if p := s.names[e]; p == "etc/ld.so.conf" || strings.HasPrefix(p, "etc/ld.so.conf.d/") {
			for line := range strings.Lines(string(e.c.keep)) {
				line, _, _ = strings.Cut(line, "#")
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
					set.Folders = append(set.Folders, strings.Trim(path.Clean(line), "/"))
				}
			}
		}
	}
	for _, kv := range s.img.Config.Config.Env {
		if v, ok := strings.CutPrefix(kv, "LD_LIBRARY_PATH="); ok {
			for dir := range strings.SplitSeq(v, ":") {
				if strings.HasPrefix(dir, "/") {
					set.Folders = append([]string{strings.Trim(path.Clean(dir), "/")}, set.Folders...)
				}
			}
		}
	}
	// musl's own path (ldso/dynlink.c), when the image has musl.
	if s.tree.resolve("lib/ld-musl-x86_64.so.1") != nil || s.tree.resolve("lib/ld-musl-aarch64.so.1") != nil {
		set.Folders = append(set.Folders, "lib", "usr/local/lib", "usr/lib")
	}
	by := map[string]oci.Digest{}
	for i, it := range set.Items {
		by[it.Path] = layers[i]
	}
	// One finding for a program that cannot start, whatever it lacks and however
	// many libraries of it lack the same; one for a library that no program needs.
	grouped := map[string]int{}
	for _, p := range set.Check() {
		if p.Passed {
			continue
		}
		at := p.Item.Path
		rule := RuleUnresolvedLibrary
		if p.Program != "" {
			at, rule = p.Program, RuleUnresolvedProgram
		}
		detail := ""
		switch p.Kind {
		case elfclosure.WrongMachine:
			detail = fmt.Sprintf("it is for %s, but the image is for %s", p.Name, f.Platform)
		case elfclosure.NoInterp:
			detail = "its program interpreter " + p.Name + " is not in the image"
		case elfclosure.NoLibrary:
			detail = "it needs the library " + p.Name + ", which is not in the image"
		case elfclosure.NoVersion:
			detail = fmt.Sprintf("it needs version %s of %s, which /%s does not define", p.Name, p.Library, p.File)
		}
		if i, ok := grouped[at]; ok {
			w := &f.Findings[i]
			w.Count++
			if !strings.Contains(w.Detail+",", " "+p.Name+",") && len(w.Detail) < 500 {
				w.Detail += "; it lacks " + p.Name + ", too"
			}
			continue
		}
		switch {
		case p.Program != "" && absolute(p.Program) == f.Ready.Program:
			detail += "; the entry point cannot start"
		case p.Program != "" && p.Program != p.Item.Path:
			detail = "/" + p.Item.Path + " is loaded: " + detail
		}
		before := len(f.Findings)
		s.add(Finding{Rule: rule, Subject: p.Name, Path: absolute(at), Layer: by[at], Count: 1, Dependency: isDependency(at), Detail: detail})
		if len(f.Findings) > before && f.Findings[before].Subject == p.Name {
			grouped[at] = before
		}
	}
}

// scripts asks for every executable script whether its interpreter is there.
func (s *summary) scripts() {
	for _, e := range s.files {
		c, p := e.c, s.names[e]
		if c.interp == "" || e.mode&0o111 == 0 {
			continue
		}
		missing := ""
		interp := c.interp
		if s.file(interp) == nil {
			missing = interp
		} else if path.Base(interp) == "env" {
			for _, a := range strings.Fields(c.argv) {
				if strings.HasPrefix(a, "-") || strings.Contains(a, "=") {
					continue
				}
				if s.program(a) == nil {
					missing = a
				}
				break
			}
		}
		if missing == "" || absolute(p) == s.f.Ready.Script {
			continue // the entry point's has been told
		}
		// Libraries carry scripts along that nobody starts: what is not in a folder
		// of programs is not meant to be.
		if dir := path.Base(path.Dir(p)); isDependency(p) && (dir != "bin" && dir != "sbin" || strings.Contains(p, "/node_modules/") || strings.HasPrefix(p, "node_modules/")) {
			continue
		}
		w := Finding{Rule: RuleUnresolvedScript, Subject: missing, Path: absolute(p), Layer: s.entryLayer(p), Dependency: isDependency(p), Detail: "an executable script for " + missing + ", which is not in the image"}
		s.add(w)
	}
}
