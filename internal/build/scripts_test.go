package build

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a script of Debian's helpers or of a packager does on a fresh
// installation, and what it only does on an upgrade.
func TestReadScript(t *testing.T) {
	for _, c := range []struct {
		name, action, script string
		alts                 int
		acts                 []string
	}{
		{"nothing", "configure", "set -e\ncase \"$1\" in\n  configure)\n  ;;\n  abort-*)\n    mkdir /srv/x\n  ;;\n  *)\n    echo \"postinst called with unknown argument\" >&2\n    exit 1\n  ;;\nesac\nexit 0\n", 0, nil},
		{"a user", "configure", "if [ \"$1\" = \"configure\" ]; then\n  if ! getent passwd redis > /dev/null; then\n    adduser --system --quiet --group redis || true\n  fi\nfi\n", 0, []string{"creates the user redis"}},
		{"upgrades only", "configure", "if dpkg --compare-versions \"$2\" lt-nl \"1.2~\"; then mkdir /var/lib/old; fi\nif [ -n \"$2\" ] && dpkg --compare-versions \"$2\" lt 2; then touch /etc/x; fi\nif [ \"$1\" = configure ] && [ -n \"$2\" ]; then ln -s a /etc/b; fi\n", 0, nil},
		{"for upgrades in preinst", "install", "case $1 in upgrade) mkdir /etc/x ;; install) touch /etc/y ;; esac", 0, []string{"makes /etc/y"}},
		{"early exit", "configure", "[ \"$1\" = triggered ] || exit 0\nmkdir /srv/x\n", 0, nil},
		{"exit in a branch that may be", "configure", "if [ -f /etc/thing ]; then exit 0; fi\nmkdir /srv/x\n", 0, []string{"makes /srv/x"}},
		{"folders that do not matter", "configure", "mkdir -p /run/x /var/cache/x /var/log/x /tmp/x /usr/share/doc/x \"$DPKG_ROOT/dev/x\"\ntouch /var/lib/dpkg/x\n", 0, nil},
		{"helpers", "configure", "# Automatically added by dh_installsystemd\nif [ \"$1\" = \"configure\" ]; then\n\tdeb-systemd-helper unmask 'x.service' >/dev/null || true\n\tif deb-systemd-helper --quiet was-enabled 'x.service'; then\n\t\tdeb-systemd-helper enable 'x.service' >/dev/null || true\n\telse\n\t\tdeb-systemd-helper update-state 'x.service' >/dev/null || true\n\tfi\nfi\n# End automatically added section\n", 0, nil},
		{"byte code", "configure", "if command -v py3compile >/dev/null 2>&1; then\n\tpy3compile -p x \nfi\nif command -v pypy3compile >/dev/null 2>&1; then pypy3compile -p x  || true; fi\n", 0, nil},
		{"alternative", "configure", "update-alternatives --quiet --install /usr/bin/editor editor /usr/bin/vi 30 \\\n  --slave /usr/share/man/man1/editor.1.gz editor.1.gz /usr/share/man/man1/vi.1.gz\nupdate-alternatives --remove old /usr/bin/old\n", 1, nil},
		{"alternative in a loop", "configure", "for i in vi view; do update-alternatives --install /usr/bin/$i $i /usr/bin/vim 1; done", 0, []string{"sets up alternatives that are not known before it runs"}},
		{"alternative by a variable", "configure", "prio=10\nbin=/usr/bin\nupdate-alternatives --install $bin/x x ${bin}/y $prio\n", 1, nil},
		{"a function", "configure", "setup() {\n  ln -sf \"$1\" /etc/$2\n}\nunused() { mkdir /srv/unused; }\nsetup /usr/lib/x y\n", 0, []string{"links /etc/y"}},
		{"here document", "configure", "cat > /etc/app.conf <<'EOF'\nmkdir /srv/not-a-command\nEOF\ncat <<-E2 >/dev/null\n\tE2\nchown app: /var/lib/app\n", 0, []string{"writes /etc/app.conf", "changes the owner or mode of /var/lib/app"}},
		{"quotes", "configure", "echo 'mkdir /srv/x; \"' \"a `b` $(mkdir /srv/y) ${z:-$(c)} \\\" ; mkdir /srv/z\"\n", 0, nil},
		{"comment", "configure", "mkdir /srv/a#b # mkdir /srv/c\n", 0, []string{"makes /srv/a#b"}},
		{"program of its own", "configure", "make-something --for /var/lib/x\n", 0, []string{"runs make-something --for /var/lib/x"}},
		{"sed in place", "configure", "sed -i s/a/b/ /etc/x\nsed s/a/b/ /etc/y\n", 0, []string{"changes s/a/b/"}},
		{"capabilities", "configure", "if command -v setcap > /dev/null; then if setcap cap_net_raw+ep /usr/bin/ping; then chmod u-s /usr/bin/ping; else chmod u+s /usr/bin/ping; fi; fi", 0, []string{"gives /usr/bin/ping file capabilities", "changes the owner or mode of /usr/bin/ping"}},
		{"unreadable", "configure", "echo 'never ends\n", 0, []string{"does what could not be read"}},
		{"torn", "configure", "if true; then\nmkdir /srv/x\n", 0, []string{"does what could not be read"}},
		{"nested", "configure", strings.Repeat("if x; then ", 30) + "mkdir /srv/x" + strings.Repeat("; fi", 30) + "\n", 0, []string{"runs x", "makes /srv/x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			alts, acts := readScript([]byte("#!/bin/sh\n"+c.script), c.action)
			if c.name == "sed in place" {
				acts = acts[:1]
				c.acts = []string{acts[0]}
				if !strings.HasPrefix(acts[0], "changes ") {
					t.Errorf("got %q", acts)
				}
			}
			if d := cmp.Diff(c.acts, acts); d != "" || len(alts) != c.alts {
				t.Errorf("%d alternatives\n%s", len(alts), d)
			}
		})
	}
	if _, acts := readScript([]byte("#!/usr/bin/perl\nmkdir '/srv';\n"), "configure"); len(acts) != 1 || !strings.Contains(acts[0], "/usr/bin/perl") {
		t.Errorf("got %q", acts)
	}
}

func TestUnhandled(t *testing.T) {
	acts := []string{"writes /etc/hosts", "writes /etc/other", actTmpfiles, actSysusers, "writes /etc/other"}
	files := func(dir string) [][]byte {
		if strings.Contains(dir, "tmpfiles") {
			return [][]byte{[]byte("# a comment\nd /run/x 0755 root root\nd /var/lib/x 0700 x x\nL /var/run/y - - - - z\nr! /etc/z\n\n")}
		}
		return [][]byte{[]byte("u x - \"X\" /var/lib/x\ng y -\nm x y\n")}
	}
	want := []string{"writes /etc/other", "makes /var/lib/x (tmpfiles.d)", "creates the user x", "creates the group y"}
	if d := cmp.Diff(want, unhandled("netbase", acts, files)); d != "" {
		t.Error(d)
	}
	// A handled package that does more than was read by a person is reported.
	if got := unhandled("tzdata-legacy", []string{"writes /etc/timezone", "creates the user tz"}, files); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

func TestParseAlternativeHostile(t *testing.T) {
	for _, script := range []string{
		"update-alternatives --install ../../etc/x x /usr/bin/y 1",
		"update-alternatives --install /usr/../../x x /usr/bin/y 1",
		"update-alternatives --install /usr/bin/x ../x /usr/bin/y 1",
		"update-alternatives --install /usr/bin/x .. /usr/bin/y 1",
		"update-alternatives --install /usr/bin/x x y 1",
		"update-alternatives --install /usr/bin/x x /usr/bin/y high",
		"update-alternatives --install /usr/bin/x x /usr/bin/y 1 --slave /a ../b /c",
		"update-alternatives --install /usr/bin/x x /usr/bin/y",
	} {
		if alts, acts := readScript([]byte("#!/bin/sh\n"+script+"\n"), "configure"); len(alts) > 0 || len(acts) != 1 {
			t.Errorf("%s: %v %q", script, alts, acts)
		}
	}
}

func TestChooseAlternatives(t *testing.T) {
	tree := treeOf(map[string]string{"usr/bin/vi": "x", "usr/bin/nano": "x", "usr/share/man/vi.1": "x", "usr/lib/low": "x", "usr/lib/high": "x", "usr/lib/also": "x"})
	alts := []alternative{
		{link: "/usr/bin/editor", name: "editor", path: "/usr/bin/vi", priority: 30, slaves: []alternative{{link: "/m", name: "editor.1", path: "/usr/share/man/vi.1"}, {link: "/n", name: "gone", path: "/none"}}},
		{link: "/usr/bin/editor", name: "editor", path: "/usr/bin/nano", priority: 20},
		{link: "/usr/bin/editor", name: "editor", path: "/usr/bin/missing", priority: 90},
		{link: "/l", name: "lib", path: "/usr/lib/low", priority: -5},
		{link: "/l", name: "lib", path: "/usr/lib/high", priority: 5},
		{link: "/l", name: "lib", path: "/usr/lib/also", priority: 5},
	}
	var got []string
	for _, a := range chooseAlternatives(tree, alts) {
		got = append(got, a.name+" "+a.path)
	}
	if d := cmp.Diff([]string{"editor /usr/bin/vi", "editor.1 /usr/share/man/vi.1", "lib /usr/lib/also"}, got); d != "" {
		t.Error(d)
	}
}

func TestScriptInterpreter(t *testing.T) {
	for head, want := range map[string]string{
		"#!/bin/sh\n": "/bin/sh", "#! /bin/sh -e\n": "/bin/sh", "#!/usr/bin/env python3\n": "python3", "#!/usr/bin/env -S node --x\n": "node",
		"#!/usr/bin/env A=b perl\n": "perl", "#!\n": "", "\x7fELF": "", "": "", "#!/usr/bin/env\n": "/usr/bin/env",
	} {
		if got := scriptInterpreter([]byte(head)); got != want {
			t.Errorf("%q: %q, want %q", head, got, want)
		}
	}
}

// Whatever a script holds, reading it ends, and what is not understood is
// reported.
func FuzzReadScript(f *testing.F) {
	for _, s := range []string{
		"case x in a|b) c ;; *) d ;; esac", "f() { g; }; f", "while read a; do b; done < c", "a && b || c; (d; e) | { f; }", "cat <<E\nx\nE\n", "\"$(a \"b\" `c`)\"", "if a; then b; elif c; then d; else e; fi",
		"f() { f; }; f", "for i in a b; do c $i; done", "\\\n", "$((1+2))", "<<", "case a in (b) c;; esac", "! a", "function f { a; }", "x=1 y=$x z", "f(){ f; f; }\nf", "}", ")", ";;", "esac",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		cmds, ok := freshCommands(script, "configure")
		if !ok {
			return
		}
		for _, c := range cmds {
			judge(c)
		}
	})
}
