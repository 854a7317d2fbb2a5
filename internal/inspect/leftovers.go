package inspect

import (
	"path"
	"regexp"
	"strings"
)

// Leftovers are files that building leaves and running does not need. They are
// known by where they lie and what they are called, which is what makes them
// leftovers; those that hide under another name (a git repository, a Debian
// package, a core dump) are known by their contents in file.go.

// isDependency tells whether a path lies in an installed dependency or in a
// distribution's part of the file system, not in the application.
func isDependency(p string) bool {
	for _, prefix := range []string{"usr/lib/", "usr/lib64/", "usr/libexec/", "usr/share/", "usr/include/", "usr/src/linux", "lib/", "lib64/", "usr/bin/", "usr/sbin/", "bin/", "sbin/", "usr/local/go/", "usr/local/lib/python", "usr/local/lib/ruby", "usr/local/share/man/", "usr/local/include/node/", "opt/java/", "opt/jdk", "etc/ssl/", "var/lib/dpkg/", "var/lib/rpm/", "lib/apk/"} {
		if strings.HasPrefix(p, prefix) {
			return true
		}
	}
	for part := range strings.SplitSeq(p, "/") {
		switch part {
		case "node_modules", "site-packages", "dist-packages", "bower_components", ".cargo", ".rustup", "_cacache", ".m2", ".gradle":
			return true
		}
	}
	return strings.Contains("/"+p, "/go/pkg/mod/") || strings.Contains("/"+p, "/gems/") || dependencyVendor.MatchString(p) ||
		strings.Contains(p, "/lib/python3")
}

var dependencyVendor = regexp.MustCompile(`(?:^|/)vendor/(?:bundle|ruby|composer|github\.com|golang\.org|google\.golang\.org|gopkg\.in|k8s\.io|[a-z0-9_.-]+/[a-z0-9_.-]+/(?:src|lib|composer\.json))(?:/|$)`)

// isExample tells whether a path of a dependency lies among its tests, examples
// or documentation, which are full of keys that open nothing.
func isExample(p string) bool {
	lower := strings.ToLower(p)
	for part := range strings.SplitSeq(lower, "/") {
		switch part {
		case "test", "tests", "testdata", "testing", "__tests__", "spec", "specs", "fixture", "fixtures", "example", "examples", "sample", "samples", "demo", "demos", "doc", "docs", "man", "mock", "mocks":
			return true
		}
	}
	base := path.Base(lower)
	return strings.HasSuffix(base, "_test.go") || strings.Contains(base, ".test.") || strings.Contains(base, ".spec.") || strings.HasSuffix(base, ".md") || strings.HasSuffix(base, ".rst") || strings.HasPrefix(base, "test_") || strings.HasPrefix(base, "readme")
}

// leftover is what a path is left over from. folder is where to draw findings
// together: the path itself, or a folder above it.
type leftover struct {
	rule, subject, folder string
}

// caches are folders that package managers keep for themselves: part of a path
// between slashes, and what it belongs to.
var caches = func() (list []cache) {
	for _, c := range cacheFolders {
		list = append(list, cache{c.folder, c.subject, "/" + c.folder + "/"})
	}
	return list
}()

type cache struct{ folder, subject, slashed string }

var cacheFolders = []struct{ folder, subject string }{
	{"_cacache", "npm cache"}, {".npm/_logs", "npm logs"}, {".cache/pip", "pip cache"}, {".cache/yarn", "yarn cache"}, {".yarn/cache", "yarn cache"}, {".cache/pnpm", "pnpm cache"}, {".pnpm-store", "pnpm store"}, {".local/share/pnpm/store", "pnpm store"},
	{".cache/go-build", "go build cache"}, {"go/pkg/mod/cache", "go module cache"}, {".cargo/registry", "cargo registry"}, {".cargo/git", "cargo registry"}, {".composer/cache", "composer cache"}, {".cache/composer", "composer cache"},
	{".m2/repository", "maven repository"}, {".gradle/caches", "gradle cache"}, {".gem/specs", "gem cache"}, {".bundle/cache", "bundler cache"}, {".cache/uv", "uv cache"}, {".cache/pypoetry", "poetry cache"}, {".conda/pkgs", "conda cache"}, {".cache/corepack", "corepack cache"}, {".cache/node/corepack", "corepack cache"}, {".node-gyp", "node-gyp cache"}, {".cache/node-gyp", "node-gyp cache"},
	{"var/lib/apt/lists", "apt lists"}, {"var/cache/apt", "apt cache"}, {"var/cache/apk", "apk cache"}, {"etc/apk/cache", "apk cache"}, {"var/cache/dnf", "dnf cache"}, {"var/cache/yum", "yum cache"}, {"var/cache/zypp", "zypper cache"}, {"var/cache/pacman", "pacman cache"}, {"var/cache/debconf", "debconf cache"},
}

var lockFiles = map[string]bool{
	"package-lock.json": true, "npm-shrinkwrap.json": true, "yarn.lock": true, "pnpm-lock.yaml": true, "bun.lockb": true, "bun.lock": true, "deno.lock": true, "poetry.lock": true, "Pipfile.lock": true, "uv.lock": true, "pdm.lock": true,
	"Cargo.lock": true, "composer.lock": true, "go.sum": true, "gradle.lockfile": true, "mix.lock": true, "Package.resolved": true, "packages.lock.json": true, "twinhull.lock": true,
}

var buildLogs = regexp.MustCompile(`^(?:(?:npm-debug|yarn-debug|yarn-error|pnpm-debug|lerna-debug)\.log.*|hs_err_pid.*\.log)$`)

// buildLog tells what compilers, package managers and their configuration write
// down.
func buildLog(base string) bool {
	switch base {
	case "config.log", "config.status", "CMakeCache.txt", "CMakeError.log", "CMakeOutput.log", "build.log", ".ninja_log", ".ninja_deps", "pip-log.txt", "gem_make.out", "mkmf.log":
		return true
	}
	return strings.HasSuffix(base, ".tsbuildinfo") || strings.Contains(base, ".log") && buildLogs.MatchString(base)
}

// backup tells what editors and patch leave behind.
func backup(base string) bool {
	switch path.Ext(base) {
	case ".swp", ".swo", ".orig", ".rej", ".bak", ".save":
		return true
	}
	switch base {
	case ".DS_Store", "Thumbs.db":
		return true
	}
	return strings.HasSuffix(base, "~") || strings.HasSuffix(base, ".old.js") || strings.HasPrefix(base, ".#") || len(base) > 1 && strings.HasPrefix(base, "#") && strings.HasSuffix(base, "#")
}

var testFolders = map[string]bool{"test": true, "tests": true, "__tests__": true, "spec": true, "specs": true, "e2e": true, "cypress": true, "testdata": true, "__mocks__": true, "__snapshots__": true}

var testFile = regexp.MustCompile(`(?:\.(?:test|spec)\.[cm]?[jt]sx?|_test\.go|_spec\.rb|^test_.*\.py|.*_test\.py|^conftest\.py)$`)

// codeSuffixes are of files that a folder of tests is told by.
var codeSuffixes = map[string]bool{
	".js": true, ".cjs": true, ".mjs": true, ".jsx": true, ".cjsx": true, ".mjsx": true, ".ts": true, ".tsx": true, ".py": true, ".go": true, ".rb": true, ".php": true, ".java": true,
	".kt": true, ".rs": true, ".snap": true, ".feature": true, ".json": true, ".yaml": true, ".yml": true,
}

// leftoverOf judges a regular file by its path (relative).
func leftoverOf(p string, text bool) (leftover, bool) {
	base := path.Base(p)
	slashed := "/" + p
	// Most files are none of these: what the names of the folders have in common
	// is asked first.
	dotted := strings.Contains(slashed, "/.")
	if dotted || strings.Contains(slashed, "cache") || strings.HasPrefix(p, "var/") {
		for _, c := range caches {
			if i := strings.Index(slashed, c.slashed); i >= 0 && (!strings.HasPrefix(c.folder, "var/") && !strings.HasPrefix(c.folder, "etc/") || i == 0) {
				if base == "lock" || strings.HasSuffix(p, "/.keep") {
					return leftover{}, false
				}
				return leftover{RulePackageCache, c.subject, p[:i+len(c.folder)]}, true
			}
		}
	}
	if dotted {
		for _, dir := range []string{".git", ".svn", ".hg", ".bzr"} {
			if i := strings.Index(slashed, "/"+dir+"/"); i >= 0 {
				return leftover{RuleVCS, dir, p[:i+len(dir)]}, true
			}
		}
		if base == ".git" || base == ".gitmodules" {
			return leftover{RuleVCS, base, p}, true
		}
		for _, dir := range []string{".vscode", ".idea"} {
			if i := strings.Index(slashed, "/"+dir+"/"); i >= 0 {
				return leftover{RuleBackup, "editor settings", p[:i+len(dir)]}, true
			}
		}
	}
	for _, dir := range []string{".nyc_output", "htmlcov", "lcov-report"} {
		if i := strings.Index(slashed, "/"+dir+"/"); i >= 0 {
			return leftover{RuleCoverage, "coverage", p[:i+len(dir)]}, true
		}
	}
	switch base {
	case "lcov.info", "coverage-final.json", "clover.xml", ".coverage", "coverage.xml", "coverage.out", "cover.out", "jacoco.exec", "cobertura-coverage.xml", "coverage-summary.json":
		return leftover{RuleCoverage, base, p}, true
	}
	if strings.HasSuffix(base, ".gcda") || strings.HasSuffix(base, ".gcno") || strings.HasSuffix(base, ".profraw") {
		return leftover{RuleCoverage, path.Ext(base), path.Dir(p)}, true
	}
	if base == "CMakeFiles" || strings.Contains(slashed, "/CMakeFiles/") || buildLog(base) {
		return leftover{RuleBuildLog, base, p}, true
	}
	if lockFiles[base] {
		return leftover{RuleLockFile, base, p}, true
	}
	if backup(base) && !strings.HasPrefix(p, "etc/") && !strings.HasPrefix(p, "var/lib/dpkg/") {
		return leftover{RuleBackup, base, p}, true
	}
	if strings.HasSuffix(base, ".map") && (strings.HasSuffix(base, ".js.map") || strings.HasSuffix(base, ".css.map") || strings.HasSuffix(base, ".mjs.map") || strings.HasSuffix(base, ".cjs.map") || strings.HasSuffix(base, ".ts.map")) {
		return leftover{RuleSourceMap, "source map", path.Dir(p)}, true
	}
	if base == "tsconfig.json" || text && (strings.HasSuffix(base, ".ts") || strings.HasSuffix(base, ".tsx") || strings.HasSuffix(base, ".mts") || strings.HasSuffix(base, ".cts")) && !strings.HasSuffix(base, ".d.ts") && !strings.HasSuffix(base, ".d.mts") && !strings.HasSuffix(base, ".d.cts") {
		return leftover{RuleTypeScript, "TypeScript", path.Dir(p)}, true
	}
	if (strings.Contains(base, "test") || strings.Contains(base, "spec")) && testFile.MatchString(base) {
		return leftover{RuleTestFiles, "tests", path.Dir(p)}, true
	}
	if codeSuffixes[path.Ext(base)] {
		for i, part := range strings.Split(path.Dir(p), "/") {
			if testFolders[part] {
				return leftover{RuleTestFiles, "tests", strings.Join(strings.Split(p, "/")[:i+1], "/")}, true
			}
		}
	}
	if strings.HasPrefix(p, "usr/include/") || strings.HasPrefix(p, "usr/local/include/") || strings.HasPrefix(p, "usr/lib/gcc/") && strings.HasSuffix(base, ".h") {
		return leftover{RuleHeaders, "C headers", firstParts(p, 2)}, true
	}
	return leftover{}, false
}

// envFile tells whether a file is of the kind that holds a developer's
// environment.
func envFile(p string) bool {
	base := path.Base(p)
	if base != ".env" && !strings.HasPrefix(base, ".env.") && base != ".envrc" && !strings.HasSuffix(base, ".env") {
		return false
	}
	for _, s := range []string{"example", "sample", "template", "dist", "defaults"} {
		if strings.Contains(base, s) {
			return false
		}
	}
	return true
}

func firstParts(p string, n int) string {
	parts := strings.SplitN(p, "/", n+1)
	return strings.Join(parts[:min(n, len(parts))], "/")
}
