package version

import (
	"cmp"
	"slices"
	"strings"
)

// mavenList is a Maven version: components that are numbers, words or lists of
// the same (POM reference, "Version Order Specification"; the words and the
// nesting are those of Maven's ComparableVersion, which is what resolves).
type mavenList struct{ items []mavenItem }

// mavenItem is a number, a word (word true), or a list (list not nil).
type mavenItem struct {
	number string // without leading zeros: "" is 0
	text   string // lower case, aliases resolved
	word   bool
	list   *mavenList
}

// maxMavenDepth bounds the nesting, and with it the work of a comparison.
const maxMavenDepth = 64

// mavenWords are the words with a place of their own; every other word is later
// than all of them.
var mavenWords = []string{"alpha", "beta", "milestone", "rc", "snapshot", "", "sp"}

const mavenRelease = 5 // index of ""

func maven(text string) (*mavenList, error) {
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, bad("Maven", text)
	}
	s := strings.ToLower(text)
	root := &mavenList{}
	list := root
	stack := []*mavenList{root}
	nest := func() {
		l := &mavenList{}
		list.items = append(list.items, mavenItem{list: l})
		list = l
		stack = append(stack, l)
	}
	start, digits := 0, false
	add := func(end int, followed bool) {
		part := s[start:end]
		switch {
		case part == "":
			list.items = append(list.items, mavenItem{})
		case digits:
			list.items = append(list.items, mavenItem{number: strings.TrimLeft(part, "0")})
		default:
			list.items = append(list.items, mavenItem{word: true, text: mavenWord(part, followed)})
		}
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.':
			add(i, false)
			start = i + 1
		case c == '-':
			add(i, false)
			start = i + 1
			if len(list.items) > 0 {
				nest()
			}
		case '0' <= c && c <= '9':
			if !digits && i > start {
				// "1.0.X1" is the same as "1.0-X1".
				if len(list.items) > 0 {
					nest()
				}
				add(i, true)
				start = i
				nest()
			}
			digits = true
		default:
			if digits && i > start {
				add(i, false)
				start = i
				nest()
			}
			digits = false
		}
		if c == '.' || c == '-' {
			digits = false
		}
	}
	if len(s) > start {
		if !digits && len(list.items) > 0 {
			nest()
		}
		add(len(s), false)
	}
	if len(stack) > maxMavenDepth {
		return nil, bad("Maven", text)
	}
	for _, l := range slices.Backward(stack) {
		l.normalize()
	}
	return root, nil
}

// mavenWord resolves the words that mean another: one letter stands for a word
// only when a digit follows.
func mavenWord(s string, followed bool) string {
	if followed {
		switch s {
		case "a":
			return "alpha"
		case "b":
			return "beta"
		case "m":
			return "milestone"
		}
	}
	switch s {
	case "cr":
		return "rc"
	case "ga", "final", "release":
		return ""
	}
	return s
}

// normalize takes out what says nothing: zeros and releases at the end, and
// before a word or a list that begins with one.
func (l *mavenList) normalize() {
	for i := len(l.items) - 1; i >= 0; i-- {
		if !l.items[i].null() {
			continue
		}
		if i == len(l.items)-1 || l.items[i+1].word {
			l.items = slices.Delete(l.items, i, i+1)
			continue
		}
		if n := l.items[i+1].list; n != nil && len(n.items) > 0 && n.items[0].word {
			l.items = slices.Delete(l.items, i, i+1)
		}
	}
}

func (i mavenItem) null() bool {
	if i.list != nil {
		return len(i.list.items) == 0
	}
	return i.number == "" && i.text == ""
}

// qualifier is a word's place; words without one are equal in it and then
// compared as text.
func qualifier(word string) int {
	if i := slices.Index(mavenWords, word); i >= 0 {
		return i
	}
	return len(mavenWords)
}

// compareNothing compares the item with the end of the other version.
func (i mavenItem) compareNothing() int {
	switch {
	case i.list != nil:
		for _, x := range i.list.items {
			if c := x.compareNothing(); c != 0 {
				return c
			}
		}
		return 0
	case i.word:
		return cmp.Compare(qualifier(i.text), mavenRelease)
	}
	return compareNumbers(i.number, "")
}

// kind orders items of different kinds: 1.any < 1-1 < 1.1.
func (i mavenItem) kind() int {
	switch {
	case i.list != nil:
		return 1
	case i.word:
		return 0
	}
	return 2
}

func (a mavenItem) compare(b mavenItem) int {
	if c := cmp.Compare(a.kind(), b.kind()); c != 0 {
		return c
	}
	switch {
	case a.list != nil:
		return a.list.compare(b.list)
	case a.word:
		if c := cmp.Compare(qualifier(a.text), qualifier(b.text)); c != 0 {
			return c
		}
		return strings.Compare(a.text, b.text)
	}
	return compareNumbers(a.number, b.number)
}

func (a *mavenList) compare(b *mavenList) int {
	for i := range max(len(a.items), len(b.items)) {
		c := 0
		switch {
		case i >= len(a.items):
			c = -b.items[i].compareNothing()
		case i >= len(b.items):
			c = a.items[i].compareNothing()
		default:
			c = a.items[i].compare(b.items[i])
		}
		if c != 0 {
			return c
		}
	}
	return 0
}
