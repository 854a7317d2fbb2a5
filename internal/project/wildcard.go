package project

import "strings"

// Wildcard reports whether s is what pattern says, in which * stands for any
// letters, none included, and every other letter for itself. The policy files
// name identities and subjects so; files of the project have [Patterns], which
// know folders.
func Wildcard(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}
