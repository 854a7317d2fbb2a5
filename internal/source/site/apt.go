package site

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// source is one entry of apt's sources: what sources.list(5) calls a type with
// its URIs, suites, components and options, in either format.
type source struct {
	From       string // file:line
	Types      []string
	URIs       []string
	Suites     []string
	Components []string
	SignedBy   []string // paths; fingerprints are dropped
	InlineKey  string   // armoured key block
	Disabled   bool
}

// aptSettings is what apt's configuration says about Debian's archives.
type aptSettings struct {
	main, security         []string
	mainFrom, securityFrom string
	keyrings               []string
	inline                 []Key
	proxy                  map[string]string // apt.conf keys below Acquire::, lower case
}

func (s *Site) loadApt() {
	var sources []source
	for _, p := range s.glob("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list") {
		if data, ok := s.readOwn(p); ok {
			got, bad := parseSourcesList(p, string(data))
			sources = append(sources, got...)
			s.warnings = append(s.warnings, bad...)
		}
	}
	for _, p := range s.glob("/etc/apt/sources.list.d/*.sources") {
		if data, ok := s.readOwn(p); ok {
			got, bad := parseDeb822Sources(p, string(data))
			sources = append(sources, got...)
			s.warnings = append(s.warnings, bad...)
		}
	}
	main := pickDebian(sources)
	security := pickSecurity(sources)
	for _, e := range main {
		s.apt.main = s.addURIs(s.apt.main, e)
	}
	for _, e := range security {
		s.apt.security = s.addURIs(s.apt.security, e)
	}
	if len(s.apt.main) > 0 {
		s.apt.mainFrom = main[0].From
	}
	if len(s.apt.security) > 0 {
		s.apt.securityFrom = security[0].From
	}
	s.loadKeyrings(append(slices.Clone(main), security...))
	s.loadAptConf()
}

// glob lists files under the root in apt's order (by name).
func (s *Site) glob(patterns ...string) []string {
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(s.path(p))
		if err != nil {
			continue // the patterns above are well formed
		}
		all = append(all, found...)
	}
	return all
}

// readOwn reads one of the machine's files, warning when it is there but
// cannot be read.
func (s *Site) readOwn(p string) ([]byte, bool) {
	data, err := readFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		s.warn("%v", err)
		return nil, false
	}
	return data, true
}

// addURIs adds the mirrors of an entry that can be reached over HTTP.
func (s *Site) addURIs(to []string, e source) []string {
	for _, raw := range e.URIs {
		list := []string{raw}
		// Images of cloud providers name a file of mirrors, one per line with
		// metadata after a tab (apt-transport-mirror(1)).
		if rest, ok := strings.CutPrefix(raw, "mirror+file:"); ok {
			list = nil
			data, ok := s.readOwn(s.path("/" + strings.TrimLeft(rest, "/")))
			if !ok {
				continue
			}
			for l := range strings.Lines(string(data)) {
				u, _, _ := strings.Cut(strings.TrimSpace(l), "\t")
				if u != "" && !strings.HasPrefix(u, "#") {
					list = append(list, u)
				}
			}
		}
		for _, u := range list {
			if checkURL(u) != nil {
				continue // cdrom:, file:, tor+http: and others
			}
			if u = strings.TrimRight(u, "/"); !slices.Contains(to, u) {
				to = append(to, u)
			}
		}
	}
	return to
}

// codenames are Debian's releases and the names that move from one to the next.
var codenames = []string{
	"buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid",
	"oldoldstable", "oldstable", "stable", "testing", "unstable", "experimental",
}

// isMainSuite tells a suite of the main archive: a release or its -updates,
// -backports and the like.
func isMainSuite(suite string) bool {
	suite = strings.TrimSuffix(suite, "/")
	for _, c := range codenames {
		switch strings.TrimPrefix(suite, c) {
		case "", "-updates", "-backports", "-backports-sloppy", "-proposed-updates":
			return strings.HasPrefix(suite, c)
		}
	}
	return false
}

// isSecuritySuite tells a suite of the security archive.
func isSecuritySuite(suite string) bool {
	return strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates")
}

// isDebianSecurity is isSecuritySuite for Debian's own releases, as other
// distributions name their suites alike.
func isDebianSecurity(suite string) bool {
	suite = strings.TrimSuffix(suite, "/")
	for _, c := range codenames {
		if suite == c+"-security" || suite == c+"/updates" {
			return true
		}
	}
	return false
}

// usable keeps the entries that give packages of the component main.
func usable(sources []source, suite func(string) bool) []source {
	var out []source
	for _, e := range sources {
		if !e.Disabled && slices.Contains(e.Types, "deb") && slices.ContainsFunc(e.Suites, suite) &&
			slices.Contains(e.Components, "main") && len(e.URIs) > 0 {
			out = append(out, e)
		}
	}
	return out
}

// pickDebian finds the entries of Debian's main archive. Third parties publish
// under Debian's suite names too ("bookworm main" of a vendor's repository), so
// candidates are weighed by what only the archive has; only the best stay.
// A wrong pick fails later at the signature and cannot do more harm than that.
func pickDebian(sources []source) []source {
	candidates := usable(sources, isMainSuite)
	updates := make(map[string]bool) // base URIs that also serve "-updates"
	for _, e := range candidates {
		for _, suite := range e.Suites {
			if strings.HasSuffix(suite, "-updates") {
				for _, u := range e.URIs {
					updates[strings.TrimRight(u, "/")] = true
				}
			}
		}
	}
	return best(candidates, func(e source) int {
		score := keyringScore(e)
		for _, u := range e.URIs {
			if updates[strings.TrimRight(u, "/")] {
				score += 4
				break
			}
		}
		if lastElement(e.URIs[0]) == "debian" {
			score += 2
		}
		return score + componentScore(e)
	})
}

// pickSecurity finds the entries of Debian's security archive.
func pickSecurity(sources []source) []source {
	return best(usable(sources, isDebianSecurity), func(e source) int {
		return keyringScore(e) + componentScore(e)
	})
}

func keyringScore(e source) int {
	for _, p := range e.SignedBy {
		if strings.HasPrefix(path.Base(p), "debian-archive") {
			return 8
		}
	}
	return 0
}

func componentScore(e source) int {
	for _, c := range e.Components {
		switch c {
		case "contrib", "non-free", "non-free-firmware":
			return 1
		}
	}
	return 0
}

// best returns the entries with the highest score, in their order. One archive
// may take several entries, so all that share the best score or, when it is
// above zero, the first one's URIs belong to it.
func best(candidates []source, score func(source) int) []source {
	top := -1
	var out []source
	for _, e := range candidates {
		switch n := score(e); {
		case n > top:
			top, out = n, []source{e}
		case n == top && top > 0:
			out = append(out, e)
		}
	}
	return out
}

func lastElement(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return path.Base(strings.TrimRight(u.Path, "/"))
}

// loadKeyrings gathers the keyrings that may sign Debian: those that the
// sources name and Debian's own, which also knows the keys of releases that the
// machine does not use. Only when there are none, apt's trusted folder, first
// the files of Debian's name: every key in it may sign anything for apt.
func (s *Site) loadKeyrings(entries []source) {
	add := func(p string) {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && !slices.Contains(s.apt.keyrings, p) {
			s.apt.keyrings = append(s.apt.keyrings, p)
		}
	}
	for _, e := range entries {
		for _, p := range e.SignedBy {
			add(s.path(p))
		}
		if e.InlineKey != "" && !slices.ContainsFunc(s.apt.inline, func(k Key) bool { return string(k.Data) == e.InlineKey }) {
			s.apt.inline = append(s.apt.inline, Key{Name: e.From + " (Signed-By)", Data: []byte(e.InlineKey)})
		}
	}
	for _, p := range s.glob("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp", "/etc/apt/keyrings/debian-archive-keyring.*") {
		add(p)
	}
	if len(s.apt.keyrings)+len(s.apt.inline) > 0 {
		return
	}
	trusted := s.glob("/etc/apt/trusted.gpg.d/*.gpg", "/etc/apt/trusted.gpg.d/*.asc")
	for _, p := range trusted {
		if strings.HasPrefix(filepath.Base(p), "debian-archive") {
			add(p)
		}
	}
	if len(s.apt.keyrings) == 0 {
		for _, p := range trusted {
			add(p)
		}
	}
}

// parseSourcesList reads the one-line format of sources.list(5). Lines that are
// no entries come back as warnings.
func parseSourcesList(file, text string) (sources []source, warnings []string) {
	n := 0
	for l := range strings.Lines(text) {
		n++
		l, _, _ = strings.Cut(l, "#")
		l = strings.TrimSpace(l)
		if l == "" {
			continue
		}
		e, err := parseOneLine(l)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("%s:%d: %v", file, n, err))
			continue
		}
		e.From = fmt.Sprintf("%s:%d", file, n)
		sources = append(sources, e)
	}
	return sources, warnings
}

// parseOneLine reads `deb [ option=value … ] uri suite [component …]`.
func parseOneLine(l string) (source, error) {
	kind, rest := cutSpace(l)
	if kind != "deb" && kind != "deb-src" {
		return source{}, fmt.Errorf("not an entry: it begins with %q, want deb or deb-src", printable(kind))
	}
	e := source{Types: []string{kind}}
	if strings.HasPrefix(rest, "[") {
		options, after, ok := strings.Cut(rest[1:], "]")
		if !ok {
			return source{}, errors.New("options without a closing bracket")
		}
		rest = strings.TrimSpace(after)
		for _, o := range strings.Fields(options) {
			key, value, _ := strings.Cut(o, "=")
			// "signed-by+=" and "-=" change a default that is empty here.
			if strings.TrimRight(strings.ToLower(key), "+-") == "signed-by" {
				e.SignedBy = keyPaths(strings.Split(value, ","))
			}
		}
	}
	uri, rest := cutSpace(rest)
	suite, rest := cutSpace(rest)
	if uri == "" || suite == "" {
		return source{}, errors.New("not an entry: want a URI and a suite")
	}
	e.URIs, e.Suites, e.Components = []string{uri}, []string{suite}, strings.Fields(rest)
	return e, nil
}

func cutSpace(s string) (first, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// keyPaths keeps the paths among values of Signed-By, which may also be
// fingerprints of keys in the trusted folder.
func keyPaths(values []string) []string {
	var out []string
	for _, v := range values {
		if v = strings.TrimSpace(v); strings.HasPrefix(v, "/") {
			out = append(out, path.Clean(v))
		}
	}
	return out
}

// parseDeb822Sources reads the deb822 format of sources.list(5).
func parseDeb822Sources(file, text string) (sources []source, warnings []string) {
	fields := make(map[string][]string) // lower-case name → lines of the value
	var last string
	begin := 0
	flush := func() {
		if len(fields) > 0 {
			e, err := deb822Source(fields)
			if err != nil {
				warnings = append(warnings, fmt.Sprintf("%s:%d: %v", file, begin, err))
			} else {
				e.From = fmt.Sprintf("%s:%d", file, begin)
				sources = append(sources, e)
			}
		}
		clear(fields)
		last = ""
	}
	n := 0
	for l := range strings.Lines(text) {
		n++
		l = strings.TrimRight(l, " \t\r\n")
		switch {
		case strings.HasPrefix(l, "#"): // also between the lines of a value
		case l == "":
			flush()
		case l[0] == ' ' || l[0] == '\t':
			if last == "" {
				warnings = append(warnings, fmt.Sprintf("%s:%d: a continuation line without a field", file, n))
				continue
			}
			fields[last] = append(fields[last], strings.TrimSpace(l))
		default:
			key, value, ok := strings.Cut(l, ":")
			if !ok {
				warnings = append(warnings, fmt.Sprintf("%s:%d: not a field: want \"Name: value\"", file, n))
				last = ""
				continue
			}
			if len(fields) == 0 {
				begin = n
			}
			last = strings.ToLower(strings.TrimSpace(key))
			fields[last] = []string{strings.TrimSpace(value)}
		}
	}
	flush()
	return sources, warnings
}

func deb822Source(fields map[string][]string) (source, error) {
	words := func(name string) []string { return strings.Fields(strings.Join(fields[name], " ")) }
	e := source{Types: words("types"), URIs: words("uris"), Suites: words("suites"), Components: words("components")}
	if len(e.Types) == 0 || len(e.URIs) == 0 || len(e.Suites) == 0 {
		return source{}, errors.New("a stanza without Types, URIs or Suites")
	}
	if v := words("enabled"); len(v) > 0 {
		switch strings.ToLower(v[0]) {
		case "no", "false", "without", "off", "disable", "0": // apt-pkg StringToBool
			e.Disabled = true
		}
	}
	if lines := fields["signed-by"]; slices.Contains(lines, "-----BEGIN PGP PUBLIC KEY BLOCK-----") {
		var b strings.Builder
		for _, l := range lines {
			if l == "" {
				continue
			}
			if l == "." { // an empty line, as everywhere in deb822
				l = ""
			}
			b.WriteString(l + "\n")
		}
		e.InlineKey = b.String()
	} else {
		e.SignedBy = keyPaths(strings.Fields(strings.ReplaceAll(strings.Join(lines, " "), ",", " ")))
	}
	return e, nil
}

// printable shortens and cleans a word of a strange file for a message.
func printable(s string) string {
	if len(s) > 40 {
		s = s[:40]
	}
	return strings.ToValidUTF8(s, "?")
}
