package site

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// login is one entry of a netrc file: curl's or apt's (apt_auth.conf(5)).
type login struct {
	scheme   string // "" for https
	host     string // with a port when the file gives one
	path     string // prefix, "" for all
	user, pw string
	fallback bool // "default"
}

func (s *Site) loadLogins() {
	netrc := s.opts.Getenv("NETRC")
	if netrc == "" && s.opts.Home != "" {
		netrc = filepath.Join(s.opts.Home, ".netrc")
	}
	files := []string{netrc}
	files = append(files, s.glob("/etc/apt/auth.conf", "/etc/apt/auth.conf.d/*.conf")...)
	for _, p := range files {
		if p == "" {
			continue
		}
		data, err := readFile(p)
		// apt's file is root's own; a user does without it.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			s.warn("%v", err)
			continue
		}
		s.logins = append(s.logins, parseNetrc(string(data))...)
	}
}

// parseNetrc reads the netrc format with apt's extensions: a machine may have a
// scheme and a path. Macros are skipped.
func parseNetrc(text string) []login {
	var all []login
	var cur *login
	// A macro lasts from "macdef" to the next empty line.
	var words []string
	macro := false
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if l == "" {
			macro = false
			continue
		}
		if macro || strings.HasPrefix(l, "#") {
			continue
		}
		for _, w := range strings.Fields(l) {
			if w == "macdef" {
				macro = true
				break
			}
			words = append(words, w)
		}
	}
	for i := 0; i < len(words); i++ {
		next := func() string {
			if i+1 < len(words) {
				i++
				return words[i]
			}
			return ""
		}
		switch words[i] {
		case "machine":
			all = append(all, login{})
			cur = &all[len(all)-1]
			m := next()
			if scheme, rest, ok := strings.Cut(m, "://"); ok {
				cur.scheme, m = strings.ToLower(scheme), rest
			}
			host, path, ok := strings.Cut(m, "/")
			if ok {
				cur.path = "/" + path
			}
			cur.host = strings.ToLower(host)
		case "default":
			all = append(all, login{fallback: true})
			cur = &all[len(all)-1]
		case "login":
			if v := next(); cur != nil {
				cur.user = v
			}
		case "password":
			if v := next(); cur != nil {
				cur.pw = v
			}
		case "account":
			next()
		}
	}
	return all
}

// Authorize adds the credentials that the site has for a request, if any: npm's
// by host and longest path, else netrc's. Credentials go over https only, over
// http just to this machine itself or where the configuration names an http
// address on purpose. A request that has credentials already keeps them.
func (s *Site) Authorize(req *http.Request) {
	if req.Header.Get("Authorization") != "" || req.URL.User != nil {
		return
	}
	if h := s.npmAuth(req.URL); h != "" {
		req.Header.Set("Authorization", h)
		return
	}
	for _, l := range s.logins {
		if l.matches(req.URL) && l.user != "" {
			req.SetBasicAuth(l.user, l.pw)
			return
		}
	}
}

func (s *Site) npmAuth(u *url.URL) string {
	if u.Scheme != "https" && !loopback(u) && !s.plainRegistry(u) {
		return ""
	}
	target := "//" + u.Host + strings.TrimRight(u.EscapedPath(), "/") + "/"
	found, header := "", ""
	for where, h := range s.npm.auth {
		if strings.HasPrefix(target, where) && len(where) > len(found) {
			found, header = where, h
		}
	}
	return header
}

// plainRegistry tells whether the user's own configuration sends npm to this
// host over http.
func (s *Site) plainRegistry(u *url.URL) bool {
	plain := func(raw string) bool {
		r, err := url.Parse(raw)
		return err == nil && r.Scheme == "http" && r.Host == u.Host
	}
	if plain(s.opts.Getenv("TWINHULL_NPM_REGISTRY")) || plain(s.config.NPM.Registry) || plain(s.npm.registry) {
		return true
	}
	for _, r := range s.npm.scopes {
		if plain(r) {
			return true
		}
	}
	return false
}

func (l login) matches(u *url.URL) bool {
	switch {
	case l.scheme != "" && l.scheme != u.Scheme:
		return false
	case l.scheme == "" && u.Scheme != "https" && !loopback(u):
		return false
	case l.fallback:
		// netrc's "default" would hand a password to every host there is.
		return false
	}
	host := strings.ToLower(u.Host)
	if !strings.Contains(l.host, ":") {
		host = strings.ToLower(u.Hostname())
	}
	prefix := strings.TrimRight(l.path, "/") + "/" // whole elements only
	return l.host == host && strings.HasPrefix(u.EscapedPath()+"/", prefix)
}

func loopback(u *url.URL) bool {
	host := u.Hostname()
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// RootCAs is the system's pool of certificate authorities together with those
// that NODE_EXTRA_CA_CERTS, npm's cafile and ca, and the config file name.
func (s *Site) RootCAs() (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("certificate authorities of this machine: %w", err)
	}
	files := slices.Clone([]string(s.config.CA))
	for _, p := range []string{s.opts.Getenv("NODE_EXTRA_CA_CERTS"), s.npm.cafile} {
		if p != "" {
			files = append(files, p)
		}
	}
	for i, p := range files {
		data, err := readFile(p)
		if err != nil {
			if i < len(s.config.CA) {
				return nil, fmt.Errorf("certificate authorities of %s: %w", s.ConfigPath(), err)
			}
			// Node and npm go on without such a file, and so does a site that
			// may not need it; a certificate that then fails says so itself.
			continue
		}
		if !pool.AppendCertsFromPEM(data) && i < len(s.config.CA) {
			return nil, fmt.Errorf("certificate authorities of %s: %s holds no PEM certificate", s.ConfigPath(), p)
		}
	}
	for _, pem := range s.npm.ca {
		pool.AppendCertsFromPEM([]byte(pem))
	}
	return pool, nil
}

// Client returns an HTTP client for the site's servers: its certificate
// authorities, proxies and credentials. Proxies come from the environment, for
// Debian's mirrors else from apt, for npm else from npmrc. Timeouts of whole
// requests are the caller's; connecting and waiting for the first byte are
// bounded here.
func (s *Site) Client() (*http.Client, error) {
	pool, err := s.RootCAs()
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:                 s.proxy,
		DialContext:           (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   20 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		// Inputs are addressed by the hash of the bytes as they are stored: a
		// transport that decompresses on the way would change them.
		DisableCompression: true,
	}
	return &http.Client{Transport: authorized{t, s}}, nil
}

type authorized struct {
	next http.RoundTripper
	site *Site
}

// RoundTrip adds credentials for this request's own host, so that a redirect
// elsewhere does not carry them along.
func (a authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context()) // a RoundTripper must not change its request
	a.site.Authorize(req)
	return a.next.RoundTrip(req)
}

func (s *Site) proxy(req *http.Request) (*url.URL, error) {
	if u, err := http.ProxyFromEnvironment(req); u != nil || err != nil {
		return u, err
	}
	if s.isDebian(req.URL) {
		return s.aptProxy(req), nil
	}
	if s.npm.proxy != "" && s.isNPM(req.URL) && checkURL(s.npm.proxy) == nil {
		return url.Parse(s.npm.proxy)
	}
	return nil, nil
}

func (s *Site) isDebian(u *url.URL) bool {
	m, err := s.Debian()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(append(slices.Clone(m.Main), m.Security...), func(base string) bool { return sameHost(base, u) })
}

func (s *Site) isNPM(u *url.URL) bool {
	registry, _, err := s.npmRegistry()
	if err == nil && sameHost(registry, u) {
		return true
	}
	for _, r := range s.npm.scopes {
		if sameHost(r, u) {
			return true
		}
	}
	return false
}

func sameHost(raw string, u *url.URL) bool {
	r, err := url.Parse(raw)
	return err == nil && r.Host == u.Host
}
