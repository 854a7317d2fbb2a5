package project

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one problem of a project file or a lock, at its place.
type Error struct {
	File    string // as the caller named it
	Line    int    // from 1; 0 when the problem has no place, as a file that is too large
	Column  int    // from 1, in characters
	Key     string // dotted: "production.ports[1]"; "" for the file as a whole
	Message string // what is wrong
	Hint    string // what to do next; may be ""
}

// Error renders "twinhull.yaml:12:3: development.pakages: unknown key: did you
// mean "packages"?", followed by a line "hint: …" when there is a hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString("\n  hint: " + e.Hint)
	}
	return b.String()
}

// Errors is every problem of one file, sorted by position. It is never empty
// when returned as an error. errors.As finds the single *Error values.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single problems to errors.Is and errors.As.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, p := range e {
		all[i] = p
	}
	return all
}

// maxProblems bounds what a hostile or hopeless file can make us print.
const maxProblems = 50

// problems collects the problems of one file.
type problems struct {
	file string
	all  Errors
}

type position struct{ line, column int }

func (p *problems) add(at position, key, message, hint string) {
	p.all = append(p.all, &Error{File: p.file, Line: at.line, Column: at.column, Key: key, Message: message, Hint: hint})
}

// under tells whether a problem was found at the key or below it, so that a
// check that builds on the key can be left out instead of reporting the same
// mistake twice.
func (p *problems) under(key string) bool {
	for _, e := range p.all {
		if rest, ok := strings.CutPrefix(e.Key, key); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// err returns the problems sorted by position, or nil when there are none.
func (p *problems) err() error {
	if len(p.all) == 0 {
		return nil
	}
	slices.SortStableFunc(p.all, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Message, b.Message))
	})
	all := slices.CompactFunc(p.all, func(a, b *Error) bool { return *a == *b })
	if more := len(all) - maxProblems; more > 0 {
		last := all[maxProblems]
		all = append(all[:maxProblems:maxProblems], &Error{File: p.file, Line: last.Line, Column: last.Column,
			Message: fmt.Sprintf("%d more problems follow", more), Hint: "mend those above first"})
	}
	return all
}

// nearest returns the candidate that a reader would take got for, or "". A
// candidate is near when a third of its letters, at least one, would have to be
// changed, added, dropped or swapped.
func nearest(got string, candidates []string) string {
	best, bestDistance := "", 1<<30
	if len(got) > 64 {
		return ""
	}
	for _, c := range candidates {
		if len(c) > 64 {
			continue
		}
		d := distance(strings.ToLower(got), strings.ToLower(c))
		if d <= max(1, min(len(c), len(got))/3) && d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the optimal string alignment distance in bytes: the number of
// insertions, deletions, substitutions and swaps of neighbours.
func distance(a, b string) int {
	before := make([]int, len(b)+1)
	last := make([]int, len(b)+1)
	this := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		this[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			this[j] = min(last[j]+1, this[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				this[j] = min(this[j], before[j-2]+1)
			}
		}
		before, last, this = last, this, before
	}
	return last[len(b)]
}

// didYouMean ends a message with the nearest candidate, if there is one.
func didYouMean(message, got string, candidates []string) string {
	if n := nearest(got, candidates); n != "" {
		return fmt.Sprintf("%s: did you mean %q?", message, n)
	}
	return message
}

// list joins words as a sentence does: "a, b or c".
func list(words []string) string {
	switch len(words) {
	case 0:
		return "nothing"
	case 1:
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
