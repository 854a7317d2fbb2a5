package project

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"

	"twinhull.dev/twinhull/internal/oci"
)

// Sets are the values of Closure.Set.
var Sets = []string{"development", "production", "tools"}

var (
	sha256RE      = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	sha512RE      = regexp.MustCompile(`^sha512:[0-9a-f]{128}$`)
	fingerprintRE = regexp.MustCompile(`^([0-9A-F]{40}|[0-9A-F]{64})$`)
	suiteRE       = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	sumRE         = regexp.MustCompile(`^h1:[A-Za-z0-9+/]{43}=$`)
	npmNameRE     = regexp.MustCompile(`^(@[^\s/@]+/)?[^\s/@]+$`)
)

// Check tells whether every field of the lock is valid and every list in the
// order that its type asks for. The error is Errors without line numbers.
func (l *Lock) Check() error {
	p := &problems{file: LockName}
	l.check(func(key, message string) { p.add(position{}, key, message, "") })
	return p.err()
}

func (l *Lock) check(report func(key, message string)) {
	c := lockChecker{l, report}
	if l.Version != LockVersion {
		report("version", fmt.Sprintf("want %d", LockVersion))
	}
	if l.Assembler < 1 {
		report("assembler", "want a version from 1")
	}
	c.digest("project", l.Project, sha256RE)
	c.time("asOf", l.AsOf)
	c.archives()
	c.packages()
	c.closures()
	c.npm()
	c.modules()
	c.tools()
}

type lockChecker struct {
	*Lock
	report func(key, message string)
}

func (c lockChecker) digest(key string, d oci.Digest, form *regexp.Regexp) {
	if !form.MatchString(string(d)) {
		algorithm, _, _ := strings.Cut(strings.TrimPrefix(form.String(), "^"), ":")
		c.report(key, fmt.Sprintf("%q is not a %s digest", shorten(string(d)), algorithm))
	}
}

func (c lockChecker) time(key string, t time.Time) {
	if t.Location() != time.UTC || t.Nanosecond() != 0 || t.Year() < 1970 || t.Year() > 9999 {
		c.report(key, "want a time in UTC and whole seconds, from 1970 to 9999")
	}
}

func (c lockChecker) text(key, s string) {
	if s == "" || hasControl(s) {
		c.report(key, "want one line of text")
	}
}

// relative checks an address below a root that is not ours.
func (c lockChecker) relative(key, s string) {
	if s == "" || s[0] == '/' || s != path.Clean(s) || s == "." || s == ".." || strings.HasPrefix(s, "../") ||
		hasControl(s) || strings.ContainsAny(s, `\?#`) || strings.Contains(s, "://") {
		c.report(key, fmt.Sprintf("%q is not a clean relative path", shorten(s)))
	}
}

func (c lockChecker) size(key string, n int64) {
	if n <= 0 {
		c.report(key, "want a size above 0")
	}
}

// order checks that a list is strictly ascending.
func order[T any](c lockChecker, key string, list []T, compare func(a, b T) int) {
	for i := 1; i < len(list); i++ {
		switch n := compare(list[i-1], list[i]); {
		case n == 0:
			c.report(fmt.Sprintf("%s[%d]", key, i), "is here twice")
		case n > 0:
			c.report(fmt.Sprintf("%s[%d]", key, i), "is out of order")
		}
	}
}

func (c lockChecker) archives() {
	order(c, "archives", c.Archives, func(a, b Archive) int {
		return slices.Compare([]string{a.Name, a.Suite}, []string{b.Name, b.Suite})
	})
	for i, a := range c.Archives {
		key := fmt.Sprintf("archives[%d].", i)
		if !slices.Contains(archives, a.Name) {
			c.report(key+"name", fmt.Sprintf("unknown archive %q", shorten(a.Name)))
		}
		if !suiteRE.MatchString(a.Suite) {
			c.report(key+"suite", fmt.Sprintf("%q is not a suite", shorten(a.Suite)))
		}
		c.digest(key+"inRelease", a.InRelease, sha256RE)
		if len(a.SignedBy) == 0 {
			c.report(key+"signedBy", "names no key")
		}
		order(c, key+"signedBy", a.SignedBy, strings.Compare)
		for j, s := range a.SignedBy {
			if !fingerprintRE.MatchString(s) {
				c.report(fmt.Sprintf("%ssignedBy[%d]", key, j), fmt.Sprintf("%q is not a key's fingerprint in upper-case hexadecimal", shorten(s)))
			}
		}
		c.time(key+"date", a.Date)
		if a.ValidUntil != nil {
			c.time(key+"validUntil", *a.ValidUntil)
		}
		order(c, key+"indexes", a.Indexes, func(a, b Index) int { return strings.Compare(a.Path, b.Path) })
		for j, x := range a.Indexes {
			key := fmt.Sprintf("%sindexes[%d].", key, j)
			c.relative(key+"path", x.Path)
			c.digest(key+"sha256", x.SHA256, sha256RE)
			c.size(key+"size", x.Size)
		}
	}
}

func (c lockChecker) packages() {
	suites := map[[2]string]bool{}
	for _, a := range c.Archives {
		suites[[2]string{a.Name, a.Suite}] = true
	}
	order(c, "packages", c.Packages, comparePackages)
	for i, p := range c.Packages {
		key := fmt.Sprintf("packages[%d].", i)
		for _, f := range []struct {
			name, value string
			form        *regexp.Regexp
		}{{"name", p.Name, packageRE}, {"version", p.Version, versionRE}, {"source", p.Source, packageRE}, {"sourceVersion", p.SourceVersion, versionRE}} {
			if !f.form.MatchString(f.value) {
				c.report(key+f.name, fmt.Sprintf("%q is not a Debian package's %s", shorten(f.value), f.name))
			}
		}
		switch p.Arch {
		case "all", "amd64", "arm64":
		default:
			c.report(key+"arch", fmt.Sprintf("unknown architecture %q", shorten(p.Arch)))
		}
		if !suites[[2]string{p.Archive, p.Suite}] {
			c.report(key+"suite", fmt.Sprintf("suite %q of %q is not in archives", shorten(p.Suite), shorten(p.Archive)))
		}
		c.relative(key+"path", p.Path)
		if !strings.HasSuffix(p.Path, ".deb") {
			c.report(key+"path", fmt.Sprintf("%q is not a .deb", shorten(p.Path)))
		}
		c.size(key+"size", p.Size)
		c.digest(key+"sha256", p.SHA256, sha256RE)
	}
}

func (c lockChecker) platform(key string, p oci.Platform) {
	if q, err := oci.ParsePlatform(p.String()); err != nil || q != p {
		c.report(key, fmt.Sprintf("unknown platform %q", shorten(p.String())))
	}
}

func (c lockChecker) closures() {
	arch := map[string]string{}
	for _, p := range c.Packages {
		arch[p.ID()] = p.Arch
	}
	order(c, "closures", c.Closures, compareClosures)
	for i, s := range c.Closures {
		key := fmt.Sprintf("closures[%d].", i)
		if !slices.Contains(Sets, s.Set) {
			c.report(key+"set", fmt.Sprintf("unknown set %q", shorten(s.Set)))
		}
		c.platform(key+"platform", s.Platform)
		order(c, key+"packages", s.Packages, strings.Compare)
		for j, id := range s.Packages {
			a, ok := arch[id]
			switch key := fmt.Sprintf("%spackages[%d]", key, j); {
			case !ok:
				c.report(key, fmt.Sprintf("%q is not in packages", shorten(id)))
			case a != "all" && a != s.Platform.Debian():
				c.report(key, fmt.Sprintf("%q is not for %s", shorten(id), s.Platform))
			}
		}
		if len(s.Omitted) > 0 && s.Set != "production" {
			c.report(key+"omitted", "only the production set omits packages")
		}
		order(c, key+"omitted", s.Omitted, compareOmitted)
		for j, o := range s.Omitted {
			key := fmt.Sprintf("%somitted[%d].", key, j)
			if !packageRE.MatchString(o.Name) {
				c.report(key+"name", fmt.Sprintf("%q is not a Debian package name", shorten(o.Name)))
			}
			c.text(key+"reason", o.Reason)
			c.text(key+"neededBy", o.Needed)
		}
	}
}

func (c lockChecker) npm() {
	order(c, "npm", c.NPM, func(a, b NPMTree) int { return strings.Compare(a.Lockfile, b.Lockfile) })
	for i, t := range c.NPM {
		key := fmt.Sprintf("npm[%d].", i)
		if wrong, _ := checkProjectPath(t.Lockfile); wrong != "" {
			c.report(key+"lockfile", wrong)
		}
		c.digest(key+"sha256", t.SHA256, sha256RE)
		order(c, key+"packages", t.Packages, func(a, b NPMPackage) int { return strings.Compare(a.Location, b.Location) })
		for j, p := range t.Packages {
			key := fmt.Sprintf("%spackages[%d].", key, j)
			c.relative(key+"location", p.Location)
			if !strings.Contains("/"+p.Location, "/node_modules/") {
				c.report(key+"location", fmt.Sprintf("%q is not in node_modules", shorten(p.Location)))
			}
			if !npmNameRE.MatchString(p.Name) || p.Name == "." || p.Name == ".." {
				c.report(key+"name", fmt.Sprintf("%q is not an npm package name", shorten(p.Name)))
			}
			c.text(key+"version", p.Version)
			c.digest(key+"integrity", p.Integrity, sha512RE)
			for _, f := range []struct {
				name  string
				words []string
			}{{"os", p.OS}, {"cpu", p.CPU}, {"libc", p.Libc}} {
				for k, w := range f.words {
					c.text(fmt.Sprintf("%s%s[%d]", key, f.name, k), w)
				}
			}
		}
	}
}

func (c lockChecker) modules() {
	order(c, "go", c.Go, compareModules)
	for i, m := range c.Go {
		key := fmt.Sprintf("go[%d].", i)
		if err := module.Check(m.Path, m.Version); err != nil {
			c.report(key+"path", fmt.Sprintf("is not a module version: %s", shorten(err.Error())))
		}
		c.sum(key+"modSum", m.ModSum)
		c.digest(key+"mod", m.Mod, sha256RE)
		if m.Sum != "" || m.Zip != "" {
			c.sum(key+"sum", m.Sum)
			c.digest(key+"zip", m.Zip, sha256RE)
		}
		if m.Info != "" {
			c.digest(key+"info", m.Info, sha256RE)
		}
	}
}

func (c lockChecker) sum(key, s string) {
	if !sumRE.MatchString(s) {
		c.report(key, fmt.Sprintf("%q is not a sum as go.sum has it", shorten(s)))
	}
}

func (c lockChecker) tools() {
	order(c, "tools", c.Tools, compareTools)
	for i, t := range c.Tools {
		key := fmt.Sprintf("tools[%d].", i)
		c.text(key+"name", t.Name)
		c.text(key+"version", t.Version)
		if t.Platform != (oci.Platform{}) {
			c.platform(key+"platform", t.Platform)
		}
		c.text(key+"pinnedBy", t.PinnedBy)
		c.relative(key+"path", t.Path)
		if !sha256RE.MatchString(string(t.Digest)) {
			c.digest(key+"digest", t.Digest, sha512RE)
		}
		if t.Size < 0 {
			c.report(key+"size", "want a size above 0")
		}
		if t.Sum != "" {
			c.sum(key+"sum", t.Sum)
		}
	}
}
