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

// WildcardParts reports whether the parts of a name, such as those of a repository
// between its slashes, are what the pattern's parts say: ** stands for any number of
// parts, none included, and * within a part for letters of it.
func WildcardParts(pattern, parts []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for i := range len(parts) + 1 {
				if WildcardParts(pattern[1:], parts[i:]) {
					return true
				}
			}
			return false
		}
		if len(parts) == 0 || !Wildcard(pattern[0], parts[0]) {
			return false
		}
		pattern, parts = pattern[1:], parts[1:]
	}
	return len(parts) == 0
}
