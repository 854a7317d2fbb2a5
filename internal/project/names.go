package project

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// A rule judges one text. It returns "" or what is wrong, and a hint.
type rule func(s string) (wrong, hint string)

// The patterns are also published in the JSON Schema, so they stay within what
// both Go and ECMA-262 understand.
const (
	// A path component as the OCI distribution specification has it.
	namePattern     = `^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`
	stepPattern     = `^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`
	variablePattern = `^[A-Za-z_][A-Za-z0-9_]*$`
	accountPattern  = `^[a-z_][a-z0-9_-]{0,31}$` // as useradd(8) and Debian's adduser take it
	// Debian Policy 5.6.1 and 5.6.12.
	packageName    = `[a-z0-9][a-z0-9+.-]+`
	packageVersion = `([0-9]+:)?[0-9][A-Za-z0-9.+~:-]*`
	packagePattern = `^` + packageName + `(=` + packageVersion + `)?$`
	imagePattern   = `^/`
	projectPattern = `^[^/]`
	timeoutPattern = `^([0-9]+(\.[0-9]+)?(ms|h|m|s))+$`
)

var (
	nameRE     = regexp.MustCompile(namePattern)
	stepRE     = regexp.MustCompile(stepPattern)
	variableRE = regexp.MustCompile(variablePattern)
	accountRE  = regexp.MustCompile(accountPattern)
	packageRE  = regexp.MustCompile(`^` + packageName + `$`)
	versionRE  = regexp.MustCompile(`^` + packageVersion + `$`)
)

// ownFolder holds Twinhull's store inside a project; nothing of it is source.
const ownFolder = ".twinhull"

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

func checkName(s string) (string, string) {
	switch last := path.Base(s); {
	case len(s) > 200:
		return "is longer than 200 letters", ""
	case !nameRE.MatchString(s):
		return fmt.Sprintf("%q is not a repository name", shorten(s)), "lower-case letters and digits, separated by . _ - or /"
	case last == "dev" || last == "candidate":
		return fmt.Sprintf("the last part may not be %q", last), "NAME/dev and NAME/candidate are the catalogs of the development and the candidate images"
	}
	return "", ""
}

func checkStepName(s string) (string, string) {
	if !stepRE.MatchString(s) {
		return fmt.Sprintf("%q is not a step name", shorten(s)), "lower-case letters, digits, _ and -, at most 63"
	}
	return "", ""
}

func checkVariable(s string) (string, string) {
	if !variableRE.MatchString(s) {
		return fmt.Sprintf("%q is not the name of an environment variable", shorten(s)), "letters, digits and _, not beginning with a digit"
	}
	return "", ""
}

func checkAccount(s string) (string, string) {
	if !accountRE.MatchString(s) {
		return fmt.Sprintf("%q is not a user or group name", shorten(s)), "lower-case letters, digits, _ and -, beginning with a letter, at most 32"
	}
	return "", ""
}

// PackageName returns the name of an entry of Spec.Packages ("name" or
// "name=version") and the version, "" when any will do.
func PackageName(entry string) (name, version string) {
	name, version, _ = strings.Cut(entry, "=")
	return name, version
}

func checkPackage(s string) (string, string) {
	name, version, pinned := strings.Cut(s, "=")
	if bare, arch, ok := strings.Cut(name, ":"); ok && packageRE.MatchString(bare) {
		return fmt.Sprintf("%q names an architecture (%s)", shorten(s), shorten(arch)), "the image's platform decides it: write " + shorten(bare)
	}
	if wrong, hint := checkPackageName(name); wrong != "" {
		return wrong, hint
	}
	if pinned && !versionRE.MatchString(version) {
		return fmt.Sprintf("%q is not a Debian version", shorten(version)), "write name=version with the version exactly as the archive has it, as in nodejs=20.19.2+dfsg-1"
	}
	return "", ""
}

func checkPackageName(s string) (string, string) {
	if !packageRE.MatchString(s) {
		return fmt.Sprintf("%q is not a Debian package name", shorten(s)), "at least two lower-case letters, digits, + - or ."
	}
	return "", ""
}

func checkReason(s string) (string, string) {
	if strings.TrimSpace(s) == "" {
		return "has no reason", "say in a few words why the image works without it"
	}
	if hasControl(s) {
		return "the reason must be one line of plain text", ""
	}
	return "", ""
}

func checkText(s string) (string, string) {
	if strings.ContainsRune(s, 0) {
		return "holds a NUL character", ""
	}
	return "", ""
}

// checkImagePath accepts a clean absolute path, the root included.
func checkImagePath(s string) (string, string) {
	switch {
	case s == "":
		return "is an empty path", ""
	case hasControl(s):
		return "holds a control character", ""
	case s[0] != '/':
		return fmt.Sprintf("%q is not an absolute path", shorten(s)), fmt.Sprintf("write %q", shorten(path.Clean("/"+s)))
	case s != path.Clean(s):
		return fmt.Sprintf("%q is not a clean path", shorten(s)), fmt.Sprintf("write %q", shorten(path.Clean(s)))
	case len(s) > 4095:
		return "is longer than 4095 bytes", ""
	}
	return "", ""
}

// Folders that a running system or its packages own whole. Something may be
// placed inside those of the first list, but not in their stead.
var (
	systemFolders = []string{"/", "/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr",
		"/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share", "/var", "/var/lib"}
	closedFolders = []string{"/dev", "/proc", "/sys", "/var/lib/dpkg"}
)

// checkDestination accepts where files may be placed.
func checkDestination(s string) (string, string) {
	if wrong, hint := checkImagePath(s); wrong != "" {
		return wrong, hint
	}
	if slices.Contains(systemFolders, s) {
		return fmt.Sprintf("%q belongs to the system", s), "choose a folder of the application's own, as /app"
	}
	for _, f := range closedFolders {
		if inside(s, f) {
			return fmt.Sprintf("%q is in %s, which belongs to the system", shorten(s), f), "choose a folder of the application's own, as /app"
		}
	}
	return "", ""
}

// checkWritable accepts folders whose being writable lets nobody change
// programs, libraries or configuration.
func checkWritable(s string) (string, string) {
	if wrong, hint := checkImagePath(s); wrong != "" {
		return wrong, hint
	}
	const hint = "make a folder of the application's own writable, as /tmp or /var/lib/app"
	if s == "/" || s == "/var" || s == "/var/lib" {
		return fmt.Sprintf("%q may not be writable: it holds what the system is made of", s), hint
	}
	for _, f := range []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr", "/var/lib/dpkg"} {
		if inside(s, f) {
			return fmt.Sprintf("%q may not be writable: %s belongs to the system", shorten(s), f), hint
		}
	}
	return "", ""
}

// checkProjectPath accepts a clean relative path that stays in the project.
func checkProjectPath(s string) (string, string) {
	switch {
	case s == "":
		return "is an empty path", ""
	case hasControl(s):
		return "holds a control character", ""
	case strings.ContainsRune(s, '\\'):
		return fmt.Sprintf("%q holds a backslash", shorten(s)), "folders are separated by /"
	case s[0] == '/':
		return fmt.Sprintf("%q is absolute", shorten(s)), "write the path from the project's folder"
	case slices.Contains(strings.Split(s, "/"), ".."):
		return fmt.Sprintf("%q leaves the project", shorten(s)), "only what lies in the project's folder can be used"
	case s == "." || s == "./":
		return "is the whole project", "name the files or folders"
	case s != path.Clean(s):
		return fmt.Sprintf("%q is not a clean path", shorten(s)), fmt.Sprintf("write %q", shorten(path.Clean(s)))
	case inside(s, ownFolder):
		return fmt.Sprintf("%q is in %s, Twinhull's own folder", shorten(s), ownFolder), ""
	case strings.ContainsAny(s, "*?[]"):
		return fmt.Sprintf("%q is a pattern", shorten(s)), "only the inputs of a step take patterns: name the file or folder"
	case len(s) > 4095:
		return "is longer than 4095 bytes", ""
	}
	return "", ""
}

func checkOutput(s string) (string, string) {
	if wrong, hint := checkProjectPath(s); wrong != "" {
		return wrong, hint
	}
	switch {
	case strings.ContainsRune(s, ':'):
		return fmt.Sprintf("%q holds a colon", shorten(s)), `a colon separates step and output in "compile:dist"`
	case inside(s, ".git"), s == FileName, s == LockName:
		return fmt.Sprintf("a step may not write %q", shorten(s)), ""
	}
	return "", ""
}

// named lets only files with one of the names pass.
func named(names ...string) rule {
	return func(s string) (string, string) {
		if wrong, hint := checkProjectPath(s); wrong != "" {
			return wrong, hint
		}
		if !slices.Contains(names, path.Base(s)) {
			return fmt.Sprintf("%q is not a %s", shorten(s), list(names)), ""
		}
		return "", ""
	}
}

func checkProbe(s string) (string, string) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return fmt.Sprintf("%q is not an HTTP path", shorten(s)), fmt.Sprintf("write %q", shorten("/"+s))
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }):
		return fmt.Sprintf("%q is not an HTTP path", shorten(s)), "percent-encode what is not a plain ASCII letter, digit or sign"
	}
	return "", ""
}

func checkLabel(s string) (string, string) {
	switch {
	case s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || unicode.IsSpace(r) || unicode.IsControl(r) }):
		return fmt.Sprintf("%q is not a label name", shorten(s)), "as in org.opencontainers.image.source"
	case s == "dev.twinhull" || strings.HasPrefix(s, "dev.twinhull."):
		return fmt.Sprintf("%q is set by Twinhull alone", shorten(s)), "labels that begin with dev.twinhull say what an image is: nobody else may"
	}
	return "", ""
}

const maxTimeout = 24 * time.Hour

func parseTimeout(s string) (d time.Duration, wrong, hint string) {
	const form = "write 90s, 10m or 1h30m"
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, fmt.Sprintf("%q is not a length of time", shorten(s)), form
	case d < time.Millisecond:
		return 0, "must be at least 1ms", form
	case d > maxTimeout:
		return 0, "must be at most 24h", form
	}
	return d, "", ""
}

// inside tells whether p is the folder or lies below it. Both are clean and of
// the same sort.
func inside(p, folder string) bool {
	return p == folder || folder == "/" && strings.HasPrefix(p, "/") || strings.HasPrefix(p, folder+"/")
}

// isShell recognises a program that is never in a production image.
func isShell(program string) bool {
	switch base := path.Base(program); base {
	case "sh", "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "tcsh", "zsh":
		return true
	default:
		return strings.HasSuffix(base, ".sh")
	}
}
