package build

import (
	"path"
	"strings"
)

// A trimRule leaves paths of packages out of a production image. Nothing is
// left out silently: the build's report counts what each rule removed.
type trimRule struct {
	under  string // folder whose content goes, without a leading slash
	except string // a base name that stays
	reason string
}

// trimRules are the paths that serve reading, translating, installing or
// administering a system, none of which happens in production. Copyright
// notices stay: the licences ask for them.
var trimRules = []trimRule{
	{"usr/share/doc", "copyright", "documentation"},
	{"usr/share/man", "", "manuals"},
	{"usr/share/info", "", "manuals"},
	{"usr/share/doc-base", "", "documentation"},
	{"usr/share/gtk-doc", "", "documentation"},
	{"usr/share/locale", "", "locales"},
	{"usr/share/i18n", "", "locales"},
	{"usr/share/lintian", "", "package checks"},
	{"usr/share/linda", "", "package checks"},
	{"usr/share/bug", "", "bug reporting"},
	{"usr/share/reportbug", "", "bug reporting"},
	{"usr/share/apport", "", "bug reporting"},
	{"usr/share/base-files", "", "templates for maintainer scripts"},
	{"usr/share/debianutils", "", "templates for maintainer scripts"},
	{"usr/share/bash-completion", "", "shell completion"},
	{"usr/share/zsh", "", "shell completion"},
	{"usr/share/fish", "", "shell completion"},
	{"etc/bash_completion.d", "", "shell completion"},
	{"etc/profile.d", "", "shell start-up"},
	{"etc/skel", "", "shell start-up"},
	{"etc/update-motd.d", "", "log-in messages"},
	{"etc/cron.d", "", "system services"},
	{"etc/cron.daily", "", "system services"},
	{"etc/cron.weekly", "", "system services"},
	{"etc/cron.monthly", "", "system services"},
	{"etc/init.d", "", "system services"},
	{"etc/logrotate.d", "", "system services"},
	{"etc/apt", "", "package manager configuration"},
	{"etc/kernel", "", "kernel installation"},
	{"etc/debconf.conf", "", "package manager configuration"},
	{"etc/dpkg", "", "package manager configuration"},
	{"usr/lib/dpkg", "", "package manager configuration"},
	{"usr/lib/systemd", "", "system services"},
	{"usr/lib/init", "", "system services"},
	{"usr/lib/tmpfiles.d", "", "system services"},
	{"usr/share/gdb", "", "debugger scripts"},
	{"usr/share/gcc", "", "debugger scripts"},
	{"usr/include", "", "compiler headers"},
	{"usr/share/pkgconfig", "", "compiler metadata"},
	{"usr/share/aclocal", "", "compiler metadata"},
	{"usr/share/debhelper", "", "packaging tools"},
	{"usr/share/perl5/Debian", "", "packaging tools"},
	{"usr/share/menu", "", "desktop"},
	{"usr/share/applications", "", "desktop"},
	{"usr/share/pixmaps", "", "desktop"},
	{"usr/share/icons", "", "desktop"},
	{"var/cache", "", "caches"},
	{"var/lib/dpkg", "", "package database: written anew in the distroless form"},
	{"usr/share/python3/runtime.d", "", "byte-compilation hooks"},
	{"usr/share/python3/debpython", "", "byte-compilation hooks"},
}

// trimmed says whether a package's path is left out of production, and why.
func trimmed(p string) (reason string, yes bool) {
	for _, r := range trimRules {
		if p == r.under || strings.HasPrefix(p, r.under+"/") {
			if r.except != "" && (path.Base(p) == r.except || p == r.under || path.Dir(p) == r.under && !strings.Contains(path.Base(p), ".")) {
				// The folders that lead to an excepted file stay; empty ones
				// are dropped when the tree is complete.
				return "", false
			}
			return r.reason, true
		}
	}
	switch {
	case strings.HasSuffix(p, ".a") && strings.HasPrefix(p, "usr/lib/"):
		return "static libraries", true
	case strings.Contains(p, "/pkgconfig/") || strings.HasSuffix(p, "/pkgconfig"):
		return "compiler metadata", true
	case strings.HasSuffix(p, "/__pycache__") || strings.Contains(p, "/__pycache__/"):
		return "caches", true
	}
	return "", false
}
