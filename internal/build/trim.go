package build

import (
	"fmt"
	"path"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/project"
)

// A trimRule leaves a folder of packages out of a production image. Nothing is
// left out silently: the build's report counts what each reason removed, and
// production.keep brings paths back.
type trimRule struct {
	under  string // without a leading slash
	reason string
}

// Reasons that more than one rule has.
const (
	reasonDocs    = "documentation"
	reasonTypes   = "type declarations and other TypeScript, which run time has no use for"
	reasonMaps    = "source maps"
	reasonTests   = "tests and benchmarks"
	reasonScripts = "scripts whose interpreter is not in the image"
	// iconv(3) has UTF-8, UTF-16, UTF-32, UCS-2, UCS-4, UTF-7 and ASCII built
	// in; for every other it loads a converter.
	reasonConverters = "character set converters; UTF-8, UTF-16 and ASCII are built in and nothing in the image asks for others"
	reasonSpare      = "libraries that nothing in the image is linked with"
)

// trimRules are the paths that serve reading, translating, installing or
// administering a system, none of which happens in production.
var trimRules = []trimRule{
	{"usr/share/doc", reasonDocs}, // but see trimmer.reason
	{"usr/share/man", "manuals"},
	{"usr/share/info", "manuals"},
	{"usr/share/doc-base", reasonDocs},
	{"usr/share/gtk-doc", reasonDocs},
	{"usr/share/locale", "locales"},
	{"usr/share/i18n", "locales"},
	{"usr/share/lintian", "package checks"},
	{"usr/share/linda", "package checks"},
	{"usr/share/bug", "bug reporting"},
	{"usr/share/reportbug", "bug reporting"},
	{"usr/share/apport", "bug reporting"},
	{"usr/share/base-files", "templates for maintainer scripts"},
	{"usr/share/debianutils", "templates for maintainer scripts"},
	{"usr/share/bash-completion", "shell completion"},
	{"usr/share/zsh", "shell completion"},
	{"usr/share/fish", "shell completion"},
	{"etc/bash_completion.d", "shell completion"},
	{"etc/profile.d", "shell start-up"},
	{"etc/skel", "shell start-up"},
	{"etc/update-motd.d", "log-in messages"},
	{"etc/cron.d", "system services"},
	{"etc/cron.daily", "system services"},
	{"etc/cron.weekly", "system services"},
	{"etc/cron.monthly", "system services"},
	{"etc/init.d", "system services"},
	{"etc/logrotate.d", "system services"},
	{"etc/apt", "package manager configuration"},
	{"etc/kernel", "kernel installation"},
	{"etc/debconf.conf", "package manager configuration"},
	{"etc/dpkg", "package manager configuration"},
	{"usr/lib/dpkg", "package manager configuration"},
	{"usr/lib/systemd", "system services"},
	{"usr/lib/init", "system services"},
	{"usr/lib/tmpfiles.d", "system services"},
	{"usr/share/gdb", "debugger scripts"},
	{"usr/share/gcc", "debugger scripts"},
	{"usr/include", "compiler headers"},
	{"usr/share/pkgconfig", "compiler metadata"},
	{"usr/share/aclocal", "compiler metadata"},
	{"usr/share/debhelper", "packaging tools"},
	{"usr/share/perl5/Debian", "packaging tools"},
	{"usr/share/menu", "desktop"},
	{"usr/share/applications", "desktop"},
	{"usr/share/pixmaps", "desktop"},
	{"usr/share/icons", "desktop"},
	{"var/cache", "caches"},
	{"var/lib/dpkg", "package database: written anew in the distroless form"},
	{"usr/share/python3/runtime.d", "byte-compilation hooks"},
	{"usr/share/python3/debpython", "byte-compilation hooks"},
}

// trimPatterns are the same for paths that hold a version or an architecture,
// in the syntax of path.Match; each stands for what is below, too.
var trimPatterns = []trimRule{
	{"usr/lib/python3.*/test", reasonTests},
	{"usr/lib/python3.*/idlelib", "desktop"},
	{"usr/lib/python3.*/turtledemo", "desktop"},
	{"usr/lib/python3.*/pydoc_data", reasonDocs},
	{"usr/lib/python3.*/lib-dynload/_test*.so", reasonTests},
	{"usr/lib/python3.*/lib-dynload/_ctypes_test*.so", reasonTests},
	{"usr/lib/python3.*/lib-dynload/_xxtestfuzz*.so", reasonTests},
	{"usr/lib/python3.*/lib-dynload/xxlimited*.so", reasonTests},
}

// spareLibraries are shared libraries that come with others in one package and
// that programs only ever use by being linked with them, or that serve
// debugging. They go when no file of the image names them.
var spareLibraries = []string{
	"libicutu", "libicuio", "libicutest", // beside libicuuc and libicui18n
	"libmvec", "libBrokenLocale", // beside libc and libm
	"libthread_db", "libpcprofile", "libmemusage", "libc_malloc_debug", // loaded by debuggers and profilers
}

// A trimmer decides what of packages stays out of production. The zero trimmer
// keeps nothing back.
type trimmer struct {
	keep project.Patterns // production.keep
}

func newTrimmer(keep []string) (trimmer, error) {
	p, err := project.ParsePatterns(keep)
	if err != nil {
		return trimmer{}, fmt.Errorf("production.keep: %w", err)
	}
	return trimmer{p}, nil
}

// kept tells whether production.keep asks for a path, or for something that
// may be below a folder.
func (t trimmer) kept(p string, folder bool) bool {
	return len(t.keep) > 0 && (t.keep.Match(p) || folder && t.keep.MayContain(p))
}

// reason says why a path of a package is left out, "" when it stays. A folder
// may stay although all that is in it goes: dropEmpty takes it then.
func (t trimmer) reason(e *filetree.Entry) string {
	why := trimReason(e)
	if why != "" && t.kept(e.Path, e.IsDir()) {
		return ""
	}
	return why
}

func trimReason(e *filetree.Entry) string {
	p := e.Path
	if rest, ok := strings.CutPrefix(p, "usr/share/doc/"); ok {
		// Copyright notices stay: the licences ask for them. Many packages
		// have a link to the folder of another of the same source.
		base := path.Base(p)
		if e.IsDir() || e.IsLink() && !strings.Contains(rest, "/") || base == "copyright" || strings.HasPrefix(base, "NOTICE") {
			return ""
		}
		return reasonDocs
	}
	if p == "usr/share/doc" {
		return ""
	}
	for _, r := range trimRules {
		if p == r.under || strings.HasPrefix(p, r.under+"/") {
			return r.reason
		}
	}
	for _, r := range trimPatterns {
		if matchBelow(r.under, p) {
			return r.reason
		}
	}
	switch {
	case strings.HasPrefix(p, "usr/share/nodejs/"):
		return nodeReason(strings.TrimPrefix(p, "usr/share/nodejs/"), e.IsDir())
	case strings.HasSuffix(p, ".a") && strings.HasPrefix(p, "usr/lib/"):
		return "static libraries"
	case strings.HasSuffix(p, ".pyi") && strings.HasPrefix(p, "usr/lib/python3"):
		return "type declarations"
	case strings.Contains(p, "/pkgconfig/") || strings.HasSuffix(p, "/pkgconfig"):
		return "compiler metadata"
	case strings.HasSuffix(p, "/__pycache__") || strings.Contains(p, "/__pycache__/"):
		return "caches"
	}
	return ""
}

// matchBelow matches a pattern of path.Match against a path or what leads to it.
func matchBelow(pattern, p string) bool {
	n := strings.Count(pattern, "/") + 1
	parts := strings.SplitN(p, "/", n+1)
	if len(parts) < n {
		return false
	}
	ok, err := path.Match(pattern, strings.Join(parts[:n], "/"))
	return ok && err == nil
}

// nodeReason is trimReason for a path below a folder of JavaScript packages.
func nodeReason(rel string, folder bool) string {
	name, inside, _ := splitModule(rel)
	switch {
	case strings.HasPrefix(name, "@types/"):
		return reasonTypes
	case folder || name == "typescript": // the compiler reads its own declarations
		return ""
	}
	base := strings.ToLower(path.Base(inside))
	for _, ext := range []string{".ts", ".mts", ".cts", ".tsx"} {
		if strings.HasSuffix(base, ext) {
			return reasonTypes
		}
	}
	for _, ext := range []string{".js.map", ".mjs.map", ".cjs.map", ".css.map", ".ts.map", ".mts.map", ".cts.map"} {
		if strings.HasSuffix(base, ext) {
			return reasonMaps
		}
	}
	if strings.Contains(inside, "/") {
		return ""
	}
	stem, ext, _ := strings.Cut(base, ".")
	switch ext {
	case "", "md", "markdown", "rst", "txt":
		switch stem {
		case "readme", "changelog", "changes", "history", "contributing", "security", "code_of_conduct", "upgrading", "migration", "governance":
			return reasonDocs
		}
	}
	return ""
}

// splitModule takes a path below a folder of JavaScript packages apart: the
// package's name, with its scope, and the path inside it. root is the length
// of the prefix that is the package's own folder. Of packages inside packages
// the innermost counts.
func splitModule(rel string) (name, inside string, root int) {
	at := 0
	if i := strings.LastIndex("/"+rel, "/node_modules/"); i >= 0 {
		at = i + len("node_modules/")
	}
	rest := rel[at:]
	n := 1
	if strings.HasPrefix(rest, "@") {
		n = 2
	}
	end := 0
	for range n {
		i := strings.IndexByte(rest[end:], '/')
		if i < 0 {
			return rest, "", len(rel)
		}
		end += i + 1
	}
	return rest[:end-1], rest[end:], at + end - 1
}

// spare tells whether a path is a library of spareLibraries, and which.
func spare(p string) (string, bool) {
	if !strings.HasPrefix(p, "usr/lib/") {
		return "", false
	}
	base := path.Base(p)
	for _, l := range spareLibraries {
		if strings.HasPrefix(base, l+".so") {
			return l, true
		}
	}
	return "", false
}

// matchesAny tells whether a path of the tree is among those to keep.
func (t trimmer) matchesAny(tree *filetree.Tree) bool {
	for _, e := range tree.Sorted() {
		if t.keep.Match(e.Path) {
			return true
		}
	}
	return false
}
