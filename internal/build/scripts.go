package build

import (
	"archive/tar"
	"bytes"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
)

// Production images never run maintainer scripts. What those scripts would
// have done is either nothing (boilerplate), or in the effects table, or
// reported. This file decides which, by reading the scripts as text.

// A handled act of a package's scripts was read by a person: an effect covers
// it, or it has no bearing on an image. Only acts that begin as described are
// handled, so that a later version which does more is reported.
type handled struct {
	pkg  string   // a pattern of path.Match
	acts []string // how they begin
	why  string
}

var handledScripts = []handled{
	{"base-files", []string{"makes /", "changes the owner or mode of /", "links /var/", "links /usr/local/", "writes /etc/profile", "writes /etc/motd", "links a file that is known only when it runs (/$d)"},
		"effect base; the other folders are for people and mounts"},
	{"base-passwd", []string{"writes /etc/passwd", "writes /etc/group", "makes /etc/subuid", "makes /etc/subgid", "changes the owner or mode of /etc/sub", "runs nscd", "runs update-passwd", "runs /usr/sbin/update-passwd"},
		"effect users"},
	{"ca-certificates", []string{"makes a file that is known only when it runs ($(stat", "makes /usr/local/share/ca-certificates", "changes the owner or mode of /usr/local/share/ca-certificates", "writes /etc/ca-certificates.conf", "runs update-ca-certificates", "runs dpkg-trigger"},
		"effect certificates"},
	{"tzdata*", []string{"writes /etc/timezone", "links /etc/localtime", "writes /etc/localtime"}, "effect timezone"},
	{"libc-bin", []string{"writes /etc/nsswitch.conf"}, "effect nsswitch"},
	{"libc6", []string{"makes /usr/lib", "links /lib"}, "effect base"},
	{"netbase", []string{"writes /etc/hosts", "writes /etc/networks"}, "runtimes bring the names of hosts"},
	{"openssl", []string{"links /usr/lib/ssl"}, "effect certificates"},
	{"readline-common", []string{"writes /etc/inputrc"}, "for people at a terminal"},
	{"python3*", []string{"makes /etc/python3", "writes /etc/python3", "makes /var/lib/python", "makes /usr/local/lib/python3", "changes the owner or mode of /usr/local/lib/python3", "runs $hook ", "runs update-binfmts"},
		"folders for people; byte code is made when it is used"},
	{"libpython3*", []string{"writes /etc/python3", "makes /etc/python3", "makes /usr/local/lib/python3", "changes the owner or mode of /usr/local/lib/python3"},
		"folders for people; byte code is made when it is used"},
	{"debianutils", []string{"writes /etc/shells"}, "nobody logs in"},
	{"libpam-*", []string{"runs pam-auth-update", "makes /etc/security/opasswd", "makes /etc/environment"}, "nobody logs in"},
}

// handledAct tells whether an act of a package is in the table.
func handledAct(pkg, act string) bool {
	for _, h := range handledScripts {
		if ok, err := path.Match(h.pkg, pkg); !ok || err != nil {
			continue
		}
		for _, a := range h.acts {
			if strings.HasPrefix(act, a) {
				return true
			}
		}
	}
	return false
}

// tmpfilesActs says what systemd-tmpfiles would make of a package's tmpfiles.d
// (tmpfiles.d(5)) outside of the folders that are empty when a container
// starts.
func tmpfilesActs(files [][]byte) []string {
	var acts []string
	for _, f := range files {
		for line := range strings.Lines(string(f)) {
			w := strings.Fields(line)
			if len(w) < 2 || strings.HasPrefix(w[0], "#") {
				continue
			}
			switch w[0][0] {
			case 'd', 'D', 'f', 'F', 'L', 'C', 'p', 'v', 'q', 'Q', 'e':
				p := strings.Replace(w[1], "/var/run/", "/run/", 1)
				if matters(shellWord{p, true}) {
					acts = append(acts, "makes "+p+" (tmpfiles.d)")
				}
			}
		}
	}
	return acts
}

// sysusersActs says which users a package's sysusers.d (sysusers.d(5)) asks for.
func sysusersActs(files [][]byte) []string {
	var acts []string
	for _, f := range files {
		for line := range strings.Lines(string(f)) {
			w := strings.Fields(line)
			if len(w) < 2 {
				continue
			}
			switch w[0] {
			case "u", "u!":
				acts = append(acts, "creates the user "+w[1])
			case "g":
				acts = append(acts, "creates the group "+w[1])
			}
		}
	}
	return acts
}

const (
	actTmpfiles = "makes the folders of tmpfiles.d"
	actSysusers = "creates the users of sysusers.d"
)

// unhandled is what the scripts of a package would do that no effect covers,
// with the files that they hand to systemd's tools read in their place. file
// returns the bytes of the package's files below a folder.
func unhandled(pkg string, acts []string, files func(dir string) [][]byte) []string {
	var all []string
	for _, a := range acts {
		switch a {
		case actTmpfiles:
			all = append(all, tmpfilesActs(files("usr/lib/tmpfiles.d"))...)
		case actSysusers:
			all = append(all, sysusersActs(files("usr/lib/sysusers.d"))...)
		default:
			all = append(all, a)
		}
	}
	var out []string
	for _, a := range all {
		if !handledAct(pkg, a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// alternative is one `update-alternatives --install` found in a script.
type alternative struct {
	link, name, path string // absolute link, name in /etc/alternatives, absolute target
	priority         int
	slaves           []alternative
	pkg              string
}

// readScript says what a maintainer script would do on a fresh installation
// that an image could miss: the alternatives that it sets up, and acts, which
// no effect covers, in words. action is what dpkg calls the script with.
func readScript(script []byte, action string) (alts []alternative, acts []string) {
	if head, _, _ := bytes.Cut(script, []byte("\n")); !shellScript(head) {
		return nil, []string{"runs a program of its own (" + clip(string(bytes.TrimPrefix(head, []byte("#!"))), 40) + ")"}
	}
	cmds, ok := freshCommands(script, action)
	if !ok {
		return nil, []string{"does what could not be read"}
	}
	seen := map[string]bool{}
	for _, c := range cmds {
		a, isAlt, act := judge(c)
		if isAlt {
			alts = append(alts, a)
		}
		if act != "" && !seen[act] {
			seen[act] = true
			acts = append(acts, act)
		}
	}
	return alts, acts
}

func shellScript(head []byte) bool {
	i := scriptInterpreter(head)
	switch path.Base(i) {
	case "sh", "bash", "dash":
		return true
	}
	return false
}

// judge says what one command would have done: set up an alternative, or
// something in words; neither when an image cannot miss it.
func judge(c shellCommand) (a alternative, isAlt bool, act string) {
	args := c.args()
	for _, w := range c.writes {
		if matters(w) {
			act = "writes " + shown(w)
		}
	}
	paths := func(what string) {
		for _, w := range args {
			if matters(w) && act == "" {
				act = what + " " + shown(w)
			}
		}
	}
	last := func() string {
		if len(args) == 0 {
			return "someone"
		}
		return args[len(args)-1].text
	}
	switch name := path.Base(c.name()); name {
	case "update-alternatives":
		a, isAlt = parseAlternative(c)
		if !isAlt && has(c, "--install") {
			act = "sets up alternatives that are not known before it runs"
		}
	case "adduser", "useradd":
		act = "creates the user " + last()
	case "addgroup", "groupadd":
		act = "creates the group " + last()
	case "systemd-sysusers":
		act = actSysusers
	case "systemd-tmpfiles":
		act = actTmpfiles
	case "mkdir", "install":
		paths("makes")
	case "touch", "tee", "truncate", "mkfifo", "mknod":
		paths("makes")
	case "chown", "chgrp", "chmod":
		if len(args) > 1 {
			args = args[1:]
			paths("changes the owner or mode of")
		}
	case "ln", "cp", "mv", "ucf":
		if len(args) > 0 && matters(args[len(args)-1]) && !strings.Contains(c.name()+" "+joined(args), ".dpkg-") {
			act = map[string]string{"ln": "links ", "cp": "writes ", "mv": "writes ", "ucf": "writes "}[name] + shown(args[len(args)-1])
		}
	case "sed":
		if has(c, "-i") || has(c, "--in-place") {
			paths("changes")
		}
	case "setcap":
		act = "gives " + last() + " file capabilities"
	case "dpkg-divert":
		// What two packages both ship is refused when they are merged.
	case "dpkg-statoverride":
		if has(c, "--add") {
			act = "changes the owner or mode of " + last()
		}
	case "":
	default:
		compiles := strings.Contains(joined(c.words), "py_compile.py") || strings.Contains(joined(c.words), "compileall")
		if !compiles && joined(c.words) != "" && !slices.Contains(withoutTrace, name) && !strings.HasPrefix(name, "db_") {
			act = "runs " + clip(joined(c.words), 60)
		}
	}
	return a, isAlt, act
}

// withoutTrace are commands that change nothing that an image holds, or only
// what is made anew when it is used: questions, tests, services, caches, byte
// code, and the clearing away of what earlier versions left.
var withoutTrace = strings.Fields(`
	[ . test true false : echo printf exit return break continue shift set unset local export readonly umask trap cd pwd read
	command type hash which wait sleep kill
	cat grep egrep fgrep sed awk gawk mawk cut tr sort uniq head tail wc find ls stat readlink realpath basename dirname seq expr
	md5sum sha256sum diff cmp date uname id whoami getent hostname mktemp tempfile xargs env tput file
	rm rmdir unlink
	dpkg dpkg-query dpkg-trigger dpkg-maintscript-helper dpkg-vendor ischroot pidof pgrep
	debconf-communicate debconf-show ucfr ucfq
	invoke-rc.d update-rc.d service systemctl deb-systemd-helper deb-systemd-invoke udevadm update-initramfs update-grub depmod sysctl start-stop-daemon
	apparmor_parser restorecon selinuxenabled
	ldconfig py3compile py3clean pycompile pyclean pypy3compile pypyclean py3versions
	install-info update-info-dir mandb update-menus update-desktop-database update-mime update-icon-caches gtk-update-icon-cache
	update-inetd remove-shell add-shell update-shells emacs-package-install emacs-package-remove
	logger aa-enabled nscd telinit error warn log_msg gettext`)

func has(c shellCommand, option string) bool {
	for _, w := range c.words {
		if w.text == option || strings.HasPrefix(w.text, option+"=") {
			return true
		}
	}
	return false
}

func joined(words []shellWord) string {
	var out []string
	for _, w := range words {
		out = append(out, w.text)
	}
	return strings.Join(out, " ")
}

func shown(w shellWord) string {
	if w.known {
		return w.text
	}
	return "a file that is known only when it runs (" + clip(w.text, 40) + ")"
}

// matters tells whether a changed path could be missed: what production images
// leave out, or hold empty, could not.
func matters(w shellWord) bool {
	p := strings.TrimPrefix(w.text, "$DPKG_ROOT")
	if !strings.HasPrefix(p, "/") {
		return !w.known && !strings.HasPrefix(w.text, "-")
	}
	rel := usrMerged(strings.Trim(p, "/"))
	for _, d := range []string{"dev", "proc", "run", "sys", "tmp", "usr/local", "etc/apparmor.d", "var/run", "var/log", "var/tmp", "var/cache", "var/backups", "var/lib/dpkg", "var/lib/ucf", "var/lib/systemd", "root", "home"} {
		if rel == d || strings.HasPrefix(rel, d+"/") {
			return false
		}
	}
	if strings.Contains(p, ".dpkg-") {
		return false
	}
	return trimReason(&filetree.Entry{Path: rel, Type: tar.TypeReg}) == ""
}

// parseAlternative reads one call whose arguments are all known.
func parseAlternative(c shellCommand) (alternative, bool) {
	var a alternative
	w := c.words
	for _, one := range w {
		if !one.known {
			return a, false
		}
	}
	for i := 1; i < len(w); i++ {
		switch {
		case w[i].text == "--install" && i+4 < len(w):
			a.link, a.name, a.path = w[i+1].text, w[i+2].text, w[i+3].text
			n, err := strconv.Atoi(w[i+4].text)
			if err != nil || n < -1<<30 || n > 1<<30 {
				return alternative{}, false
			}
			a.priority = n
			i += 4
		case w[i].text == "--slave" && i+3 < len(w):
			s := alternative{link: w[i+1].text, name: w[i+2].text, path: w[i+3].text}
			if !s.valid() {
				return alternative{}, false
			}
			a.slaves = append(a.slaves, s)
			i += 3
		case w[i].text == "--quiet" || w[i].text == "--force" || w[i].text == "--verbose" || w[i].text == "--skip-auto":
		default:
			return alternative{}, false
		}
	}
	return a, a.valid()
}

func (a alternative) valid() bool {
	for _, p := range []string{a.link, a.path} {
		if !strings.HasPrefix(p, "/") || path.Clean(p) != p {
			return false
		}
	}
	return a.name != "" && a.name != "." && a.name != ".." && !strings.Contains(a.name, "/")
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
