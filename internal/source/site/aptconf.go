package site

import (
	"net/http"
	"net/url"
	"strings"
)

// loadAptConf reads the proxies of apt.conf(5). Commands that detect a proxy
// (Acquire::http::Proxy-Auto-Detect) are not run.
func (s *Site) loadAptConf() {
	s.apt.proxy = make(map[string]string)
	for _, p := range s.glob("/etc/apt/apt.conf.d/*", "/etc/apt/apt.conf") {
		if strings.HasPrefix(p[strings.LastIndexByte(p, '/')+1:], ".") {
			continue
		}
		data, ok := s.readOwn(p)
		if !ok {
			continue
		}
		for key, value := range parseAptConf(string(data)) {
			if strings.HasPrefix(key, "acquire::http") {
				s.apt.proxy[key] = value
			}
		}
	}
}

// aptProxy is the proxy for a request to a Debian mirror, nil for none.
func (s *Site) aptProxy(req *http.Request) *url.URL {
	v := s.config.Debian.Proxy
	if v == "" {
		host := strings.ToLower(req.URL.Hostname())
		for _, key := range []string{
			"acquire::" + req.URL.Scheme + "::proxy::" + host,
			"acquire::" + req.URL.Scheme + "::proxy",
			"acquire::http::proxy::" + host,
			"acquire::http::proxy", // also apt's default for https
		} {
			if v = s.apt.proxy[key]; v != "" {
				break
			}
		}
	}
	if v == "" || v == "none" || strings.EqualFold(v, "DIRECT") || checkURL(v) != nil {
		return nil
	}
	u, err := url.Parse(v)
	if err != nil {
		return nil
	}
	return u
}

// parseAptConf flattens apt.conf(5) to keys in lower case joined by "::" and
// their last values. It knows `A::B "v";`, `A { B "v"; };` and comments; what
// it does not know it skips.
func parseAptConf(text string) map[string]string {
	out := make(map[string]string)
	var scopes, words []string
	join := func(name string) string {
		return strings.ToLower(strings.Join(append(append([]string(nil), scopes...), name), "::"))
	}
	for tok := range aptTokens(text) {
		switch tok {
		case ";":
			if len(words) == 2 {
				out[join(words[0])] = words[1]
			}
			words = nil
		case "{":
			name := ""
			if len(words) > 0 {
				name = words[0]
			}
			scopes = append(scopes, name)
			words = nil
		case "}":
			if len(scopes) > 0 {
				scopes = scopes[:len(scopes)-1]
			}
			words = nil
		default:
			words = append(words, strings.TrimPrefix(tok, `"`))
		}
	}
	return out
}

// aptTokens yields `;`, `{`, `}`, bare words, and quoted words with the opening
// quote kept, so that a quoted ";" is not a separator.
func aptTokens(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := 0; i < len(text); {
			switch c := text[i]; {
			case c == ' ' || c == '\t' || c == '\r' || c == '\n':
				i++
			case strings.HasPrefix(text[i:], "/*"):
				end := strings.Index(text[i+2:], "*/")
				if end < 0 {
					return
				}
				i += 2 + end + 2
			case strings.HasPrefix(text[i:], "//") || c == '#':
				end := strings.IndexByte(text[i:], '\n')
				if end < 0 {
					return
				}
				i += end + 1
			case c == ';' || c == '{' || c == '}':
				if !yield(text[i : i+1]) {
					return
				}
				i++
			case c == '"':
				end := strings.IndexAny(text[i+1:], "\"\n")
				if end < 0 {
					return
				}
				if !yield(text[i : i+1+end]) {
					return
				}
				i += end + 2
			default:
				end := strings.IndexAny(text[i:], " \t\r\n;{}\"")
				if end < 0 {
					end = len(text) - i
				}
				if !yield(text[i : i+end]) {
					return
				}
				i += end
			}
		}
	}
}
