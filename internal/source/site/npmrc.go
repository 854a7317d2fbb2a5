package site

import (
	"encoding/base64"
	"path/filepath"
	"strings"
)

// npmSettings is what the npmrc files of the machine and the user say.
type npmSettings struct {
	registry, registryFrom string
	cafile                 string
	ca                     []string          // PEM blocks given inline
	scopes                 map[string]string // "@acme" → registry
	auth                   map[string]string // "//host/path/" → Authorization header
	proxy                  string            // https-proxy or proxy
}

// loadNPM reads npmrc files, the user's first: the first to say something wins.
// A project's .npmrc is not read: it belongs to the project.
func (s *Site) loadNPM() {
	s.npm.scopes = make(map[string]string)
	s.npm.auth = make(map[string]string)
	user := s.opts.Getenv("npm_config_userconfig")
	if user == "" && s.opts.Home != "" {
		user = filepath.Join(s.opts.Home, ".npmrc")
	}
	files := []string{user}
	if global := s.opts.Getenv("npm_config_globalconfig"); global != "" {
		files = append(files, global)
	}
	// A global npmrc is below npm's prefix, which depends on how it was
	// installed.
	for _, p := range []string{"/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc"} {
		files = append(files, s.path(p))
	}
	for _, p := range files {
		if p == "" {
			continue
		}
		if data, ok := s.readOwn(p); ok {
			s.npm.merge(p, parseNpmrc(string(data), s.opts.Getenv))
		}
	}
	if v := s.opts.Getenv("npm_config_cafile"); v != "" {
		s.npm.cafile = v
	}
}

func (n *npmSettings) merge(from string, rc []keyValue) {
	set := func(to *string, v string) {
		if *to == "" {
			*to = v
		}
	}
	users := make(map[string]string)
	passwords := make(map[string]string)
	auth := make(map[string]string)
	var ca []string
	for _, kv := range rc {
		switch k := kv.key; {
		case k == "registry":
			if n.registry == "" {
				n.registry, n.registryFrom = kv.value, from
			}
		case k == "cafile":
			set(&n.cafile, kv.value)
		case k == "ca" || k == "ca[]":
			ca = append(ca, strings.ReplaceAll(kv.value, `\n`, "\n"))
		case k == "https-proxy" || k == "proxy":
			if kv.value != "null" && kv.value != "false" {
				set(&n.proxy, kv.value)
			}
		case strings.HasPrefix(k, "@") && strings.HasSuffix(k, ":registry"):
			scope := strings.TrimSuffix(k, ":registry")
			if n.scopes[scope] == "" {
				n.scopes[scope] = kv.value
			}
		case strings.HasPrefix(k, "//"):
			i := strings.LastIndexByte(k, ':')
			if i < 0 {
				continue
			}
			where := strings.TrimRight(k[:i], "/") + "/"
			switch k[i+1:] {
			case "_authToken":
				auth[where] = "Bearer " + kv.value
			case "_auth":
				auth[where] = "Basic " + kv.value
			case "username":
				users[where] = kv.value
			case "_password": // base64 of the password
				if b, err := base64.StdEncoding.DecodeString(kv.value); err == nil {
					passwords[where] = string(b)
				}
			}
		}
	}
	for where, user := range users {
		if pw, ok := passwords[where]; ok && auth[where] == "" {
			auth[where] = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+pw))
		}
	}
	for where, header := range auth {
		if n.auth[where] == "" {
			n.auth[where] = header
		}
	}
	if n.ca == nil {
		n.ca = ca
	}
}

type keyValue struct{ key, value string }

// parseNpmrc reads an npmrc file: the ini format of npm's "ini" package as far
// as npm's own keys use it. Lines that it does not understand are skipped, as
// npm does.
func parseNpmrc(text string, getenv func(string) string) []keyValue {
	var out []keyValue
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if l == "" || l[0] == ';' || l[0] == '#' || l[0] == '[' {
			continue
		}
		key, value, ok := strings.Cut(l, "=")
		if !ok {
			continue
		}
		key = expand(unquote(strings.TrimSpace(key)), getenv)
		value = strings.TrimSpace(value)
		if !strings.HasPrefix(value, `"`) && !strings.HasPrefix(value, `'`) {
			// ";" and "#" begin a comment in an unquoted value.
			if i := strings.IndexAny(value, ";#"); i >= 0 {
				value = strings.TrimSpace(value[:i])
			}
		}
		if value = expand(unquote(value), getenv); key != "" && value != "" {
			out = append(out, keyValue{key, value})
		}
	}
	return out
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// expand replaces ${NAME} and ${NAME?}; an unset variable without the mark
// stays as it is written, as in npm.
func expand(s string, getenv func(string) string) string {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			break
		}
		end := strings.IndexByte(s[i:], '}')
		if end < 0 {
			break
		}
		name := s[i+2 : i+end]
		bare, optional := strings.CutSuffix(name, "?")
		b.WriteString(s[:i])
		if v := getenv(bare); v != "" || optional {
			b.WriteString(v)
		} else {
			b.WriteString(s[i : i+end+1])
		}
		s = s[i+end+1:]
	}
	b.WriteString(s)
	return b.String()
}
