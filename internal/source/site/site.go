// Package site knows where this machine gets things: mirrors of archives, the
// npm registry, the Go module proxies, the keys and certificates to check them
// by, and the credentials that they ask for.
//
// A site is never part of a project: a project's lock names paths and hashes,
// and any place that serves those bytes will do. So nothing here influences
// what is built, and no host name is built in: what neither the environment nor
// the user's config file nor the machine's own configuration names is absent,
// and asking for it is an error that says how to set it.
//
// Sources, the first that answers wins for each setting:
//
//  1. environment: TWINHULL_DEBIAN_MIRROR, TWINHULL_DEBIAN_SECURITY_MIRROR,
//     TWINHULL_DEBIAN_KEYRING, TWINHULL_NPM_REGISTRY, npm_config_registry,
//     TWINHULL_GOPROXY, GOPROXY;
//  2. the user's config file, $XDG_CONFIG_HOME/twinhull/config.yaml;
//  3. the machine: apt's sources, keyrings, proxy and auth files; npmrc files,
//     else npm itself; go itself.
//
// The package only reads configuration. It never opens a connection; Client
// gives what package fetch opens them with.
package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Options say where to read. The zero value is this machine and this user.
type Options struct {
	Root   string              // folder that stands for / in the machine's own files; "/" when empty
	Home   string              // the user's home; from the environment when empty
	Getenv func(string) string // os.Getenv when nil

	// Run runs a program and returns its standard output; os/exec when nil. A
	// program that is not installed is an error.
	Run func(ctx context.Context, name string, args ...string) (string, error)
}

// Site is where this machine gets things. It is safe for concurrent use.
type Site struct {
	opts     Options
	config   config
	apt      aptSettings
	npm      npmSettings
	logins   []login
	warnings []string

	npmOnce  sync.Once
	npmAsked string // what npm itself answered
	goOnce   sync.Once
	goAsked  string
}

// Load reads the site. A config file of the user's that is wrong is an error
// with line and column; files of the machine that cannot be understood are left
// out and told by Warnings, as apt and npm may know better.
func Load(opts Options) (*Site, error) {
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Getenv == nil {
		opts.Getenv = os.Getenv
	}
	if opts.Home == "" {
		opts.Home = opts.Getenv("HOME")
	}
	if opts.Run == nil {
		opts.Run = run
	}
	s := &Site{opts: opts}
	if path := s.ConfigPath(); path != "" {
		data, err := readFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("config file: %w", err)
		default:
			if s.config, err = parseConfig(path, data); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range []string{"TWINHULL_DEBIAN_MIRROR", "TWINHULL_DEBIAN_SECURITY_MIRROR", "TWINHULL_NPM_REGISTRY"} {
		if v := opts.Getenv(name); v != "" {
			if err := checkURL(v); err != nil {
				return nil, fmt.Errorf("environment variable %s: %w", name, err)
			}
		}
	}
	s.loadApt()
	s.loadNPM()
	s.loadLogins()
	return s, nil
}

// Warnings tells which of the machine's files were left out and why.
func (s *Site) Warnings() []string { return s.warnings }

func (s *Site) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// path places an absolute path of the machine under the root.
func (s *Site) path(p string) string { return filepath.Join(s.opts.Root, p) }

// ConfigPath is the user's config file, "" when the user has no home.
func (s *Site) ConfigPath() string {
	dir := s.opts.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		if s.opts.Home == "" {
			return ""
		}
		dir = filepath.Join(s.opts.Home, ".config")
	}
	return filepath.Join(dir, "twinhull", "config.yaml")
}

// howTo ends an error about a setting that nothing gives.
func (s *Site) howTo(key, env, more string) string {
	at := s.ConfigPath()
	if at == "" {
		at = "the config file"
	}
	return fmt.Sprintf("set %s, or %s in %s%s", env, key, at, more)
}

// Mirror is where a Debian archive is served. The base URIs have no trailing
// slash; "dists" and "pool" are below each. All suites of the archive are under
// the same base, whatever suites the machine itself uses.
type Mirror struct {
	Main         []string // to be tried in order; at least one
	MainFrom     string   // what named them
	Security     []string // to be tried in order; may be empty
	SecurityFrom string

	howToSecurity string
}

// For returns the base URIs that serve a suite: the security archive for
// "…-security", the main one for all others.
func (m Mirror) For(suite string) ([]string, error) {
	if !isSecuritySuite(suite) {
		return m.Main, nil
	}
	if len(m.Security) == 0 {
		return nil, fmt.Errorf("no mirror of Debian's security archive is known, which serves %s: %s", suite, m.howToSecurity)
	}
	return m.Security, nil
}

// Debian returns the mirrors of Debian's archives.
func (s *Site) Debian() (Mirror, error) {
	m := Mirror{howToSecurity: s.howTo("debian.security", "TWINHULL_DEBIAN_SECURITY_MIRROR", ", or add the suite to apt's sources")}
	m.Main, m.MainFrom = s.mirror("TWINHULL_DEBIAN_MIRROR", s.config.Debian.Mirror, s.apt.main, s.apt.mainFrom)
	m.Security, m.SecurityFrom = s.mirror("TWINHULL_DEBIAN_SECURITY_MIRROR", s.config.Debian.Security, s.apt.security, s.apt.securityFrom)
	if len(m.Main) == 0 {
		return Mirror{}, fmt.Errorf("no mirror of Debian's archive is known: %s%s",
			s.howTo("debian.mirror", "TWINHULL_DEBIAN_MIRROR", " (apt's sources name none)"), s.hints())
	}
	return m, nil
}

func (s *Site) mirror(env string, configured, apt []string, aptFrom string) (uris []string, from string) {
	if v := s.opts.Getenv(env); v != "" {
		return []string{strings.TrimRight(v, "/")}, env
	}
	if len(configured) > 0 {
		for _, u := range configured {
			uris = append(uris, strings.TrimRight(u, "/"))
		}
		return uris, s.ConfigPath()
	}
	return apt, aptFrom
}

// hints are warnings as the end of an error.
func (s *Site) hints() string {
	if len(s.warnings) == 0 {
		return ""
	}
	return "; " + strings.Join(s.warnings, "; ")
}

// Key is one keyring: OpenPGP keys in binary or armoured form.
type Key struct {
	Name string // a path, or the source that holds it inline
	Data []byte
}

// maxKeyring bounds a keyring; Debian's own is some 60 KB.
const maxKeyring = 8 << 20

// Keyring returns the paths of the keyrings that may sign Debian's archives:
// those that the environment or the config file names; else what apt's Debian
// sources are Signed-By together with Debian's own keyring; else apt's trusted
// folder. Keys that a source holds inline have no path: Keys returns them too.
func (s *Site) Keyring() ([]string, error) {
	if v := s.opts.Getenv("TWINHULL_DEBIAN_KEYRING"); v != "" {
		return filepath.SplitList(v), nil
	}
	if len(s.config.Debian.Keyring) > 0 {
		return s.config.Debian.Keyring, nil
	}
	if len(s.apt.keyrings) > 0 {
		return s.apt.keyrings, nil
	}
	return nil, fmt.Errorf("no keyring of Debian's archive is known: install the package debian-archive-keyring, or %s",
		s.howTo("debian.keyring", "TWINHULL_DEBIAN_KEYRING", ""))
}

// Keys returns the keyrings of Keyring with their bytes, and inline keys. A
// keyring that was named but cannot be read is an error.
func (s *Site) Keys() ([]Key, error) {
	var keys []Key
	paths, err := s.Keyring()
	if s.opts.Getenv("TWINHULL_DEBIAN_KEYRING") == "" && len(s.config.Debian.Keyring) == 0 {
		keys = append(keys, s.apt.inline...)
	}
	if err != nil && len(keys) == 0 {
		return nil, err
	}
	for _, p := range paths {
		data, err := readLimited(p, maxKeyring)
		if err != nil {
			return nil, fmt.Errorf("keyring: %w", err)
		}
		keys = append(keys, Key{Name: p, Data: data})
	}
	return keys, nil
}

// NPM returns the npm registry's URL without a trailing slash.
func (s *Site) NPM() (string, error) {
	u, _, err := s.npmRegistry()
	return u, err
}

func (s *Site) npmRegistry() (registry, from string, err error) {
	for _, name := range []string{"TWINHULL_NPM_REGISTRY", "npm_config_registry", "NPM_CONFIG_REGISTRY"} {
		if v := s.opts.Getenv(name); v != "" {
			return s.checkedRegistry(v, "environment variable "+name)
		}
	}
	if v := s.config.NPM.Registry; v != "" {
		return s.checkedRegistry(v, s.ConfigPath())
	}
	if s.npm.registry != "" {
		return s.checkedRegistry(s.npm.registry, s.npm.registryFrom)
	}
	s.npmOnce.Do(func() { s.npmAsked = s.ask("npm", "config", "get", "registry") })
	if s.npmAsked != "" && s.npmAsked != "undefined" {
		return s.checkedRegistry(s.npmAsked, "npm config get registry")
	}
	return "", "", fmt.Errorf("no npm registry is known: %s",
		s.howTo("npm.registry", "TWINHULL_NPM_REGISTRY or npm_config_registry", ", or registry= in ~/.npmrc"))
}

func (s *Site) checkedRegistry(v, from string) (string, string, error) {
	if err := checkURL(v); err != nil {
		return "", "", fmt.Errorf("npm registry of %s: %w", from, err)
	}
	return strings.TrimRight(v, "/"), from, nil
}

// NPMFor returns the registry that serves a package: the one of its scope
// ("@acme:registry=" in an npmrc file) when there is one, else NPM's.
func (s *Site) NPMFor(name string) (string, error) {
	if scope, _, ok := strings.Cut(name, "/"); ok && strings.HasPrefix(scope, "@") {
		if v := s.npm.scopes[scope]; v != "" {
			u, _, err := s.checkedRegistry(v, scope+":registry")
			return u, err
		}
	}
	return s.NPM()
}

// GoProxy returns the URLs of the Go module proxies in order, without trailing
// slashes. "direct" is left out: a version control system is not a proxy and
// what it gives is not addressed by hash.
func (s *Site) GoProxy() ([]string, error) {
	list, from := s.goProxyList()
	if list == "" {
		return nil, fmt.Errorf("no Go module proxy is known: %s", s.howTo("go.proxy", "TWINHULL_GOPROXY or GOPROXY", ""))
	}
	var urls []string
	for _, u := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '|' }) {
		u = strings.TrimSpace(u)
		if u == "off" {
			break // cmd/go looks no further either
		}
		if u == "" || u == "direct" {
			continue
		}
		if err := checkURL(u); err != nil {
			return nil, fmt.Errorf("Go module proxy of %s: %w", from, err)
		}
		urls = append(urls, strings.TrimRight(u, "/"))
	}
	if len(urls) == 0 {
		return nil, fmt.Errorf("%s names no Go module proxy (%q): %s", from, list, s.howTo("go.proxy", "TWINHULL_GOPROXY", ""))
	}
	return urls, nil
}

func (s *Site) goProxyList() (list, from string) {
	for _, name := range []string{"TWINHULL_GOPROXY", "GOPROXY"} {
		if v := s.opts.Getenv(name); v != "" {
			return v, "environment variable " + name
		}
	}
	if v := s.config.Go.Proxy; v != "" {
		return v, s.ConfigPath()
	}
	s.goOnce.Do(func() { s.goAsked = s.ask("go", "env", "GOPROXY") })
	return s.goAsked, "go env GOPROXY"
}

// Setting is one line of what a site is, for people. Value is redacted.
type Setting struct {
	Name, Value, From string
}

// Settings lists what was found and where. Absent settings have an empty Value
// and in From what to do about it.
func (s *Site) Settings() []Setting {
	var all []Setting
	add := func(name string, values []string, from string, err error) {
		if err != nil {
			all = append(all, Setting{Name: name, From: err.Error()})
			return
		}
		for _, v := range values {
			all = append(all, Setting{name, Redact(v), from})
		}
	}
	m, err := s.Debian()
	add("debian.mirror", m.Main, m.MainFrom, err)
	if err == nil {
		_, err := m.For("stable-security")
		add("debian.security", m.Security, m.SecurityFrom, err)
	}
	keys, err := s.Keys()
	var names []string
	for _, k := range keys {
		names = append(names, k.Name)
	}
	add("debian.keyring", names, "", err)
	registry, from, err := s.npmRegistry()
	add("npm.registry", []string{registry}, from, err)
	proxies, err := s.GoProxy()
	_, from = s.goProxyList()
	add("go.proxy", proxies, from, err)
	return all
}

// ask returns what an installed program answers, "" when it does not.
func (s *Site) ask(name string, args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := s.opts.Run(ctx, name, args...)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	// Asked outside the working folder: a project's own .npmrc or go.mod is
	// not a word about this machine.
	cmd.Dir = os.TempDir()
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	return string(out), err
}

// checkURL accepts http and https URLs with a host. The error is redacted.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		// url.Parse repeats its input, which may hold a password.
		return errors.New("not a URL")
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%s: want an http or https URL", Redact(raw))
	}
	return nil
}

// Redact returns a URL without what may be secret in it: user, password, query
// and fragment. What is not a URL comes back as a placeholder when it could
// hold a password.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		if strings.ContainsAny(raw, "@?") {
			return "(a malformed URL)"
		}
		return raw
	}
	if u.User != nil {
		u.User = url.User("…")
	}
	if u.RawQuery != "" {
		u.RawQuery = "…"
	}
	u.Fragment, u.RawFragment = "", ""
	return strings.ReplaceAll(u.String(), "%E2%80%A6", "…")
}

// maxConfig bounds a configuration file.
const maxConfig = 4 << 20

func readFile(path string) ([]byte, error) { return readLimited(path, maxConfig) }

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, limit)
	}
	return data, nil
}
