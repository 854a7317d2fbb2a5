package build

import (
	"bytes"
	"slices"
	"strings"
)

// This file reads maintainer scripts as programs for the POSIX shell, far
// enough to say which commands could run on a fresh installation: with $1
// "configure" or "install" and $2 empty. Nothing is run. What it does not
// understand counts as something that could run, so that a mistake makes a
// report longer and never shorter.

// shellCommand is one simple command.
type shellCommand struct {
	words  []shellWord
	writes []shellWord // files that output is redirected to
	sure   bool        // it runs on every fresh installation
}

func (c shellCommand) name() string {
	if len(c.words) == 0 {
		return ""
	}
	return c.words[0].text
}

// args are the arguments that are no options.
func (c shellCommand) args() []shellWord {
	var out []shellWord
	for _, w := range c.words[min(1, len(c.words)):] {
		if !strings.HasPrefix(w.text, "-") {
			out = append(out, w)
		}
	}
	return out
}

// shellWord is a word after expansion, as far as its value is known.
type shellWord struct {
	text  string // the value, or what is written in the script
	known bool   // text is the value
}

// truth is what is known of a condition.
type truth int

const (
	unknown truth = iota
	yes
	no
)

func (t truth) not() truth {
	switch t {
	case yes:
		return no
	case no:
		return yes
	}
	return unknown
}

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

type shellToken struct {
	op   string // operator, or "" for a word
	word string // raw, with quotes
}

// maxScript bounds the scripts that are read; the longest in Debian have some
// 100 kB.
const maxScript = 1 << 20

// shellTokens takes a script apart. ok is false when quotes do not match.
func shellTokens(src []byte) (tokens []shellToken, ok bool) {
	src = bytes.ReplaceAll(src, []byte("\\\n"), []byte(" "))
	s := string(src)
	var heredocs []string // delimiters whose text begins after this line
	i := 0
	for i < len(s) {
		switch c := s[i]; {
		case c == '\n':
			i++
			tokens = append(tokens, shellToken{op: "\n"})
			for _, end := range heredocs {
				for i < len(s) {
					line, rest, _ := strings.Cut(s[i:], "\n")
					i = len(s) - len(rest)
					if strings.TrimLeft(line, "\t") == end {
						break
					}
				}
			}
			heredocs = nil
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			for i < len(s) && s[i] != '\n' {
				i++
			}
		case strings.IndexByte(";&|()<>", c) >= 0:
			op := s[i : i+1]
			for _, long := range []string{"<<-", "&&", "||", ";;", "<<", ">>", ">&", "<&", ">|", "<>"} {
				if strings.HasPrefix(s[i:], long) {
					op = long
					break
				}
			}
			i += len(op)
			tokens = append(tokens, shellToken{op: op})
			if op == "<<" || op == "<<-" {
				for i < len(s) && (s[i] == ' ' || s[i] == '\t') {
					i++
				}
				n, ok := wordEnd(s[i:])
				if !ok {
					return nil, false
				}
				heredocs = append(heredocs, strings.NewReplacer("'", "", `"`, "", `\`, "").Replace(s[i:i+n]))
				tokens = append(tokens, shellToken{word: s[i : i+n]})
				i += n
			}
		default:
			n, ok := wordEnd(s[i:])
			if !ok || n == 0 {
				return nil, false
			}
			tokens = append(tokens, shellToken{word: s[i : i+n]})
			i += n
		}
	}
	return append(tokens, shellToken{op: "\n"}), true
}

// wordEnd returns the length of the word that s begins with.
func wordEnd(s string) (int, bool) {
	i := 0
	for i < len(s) {
		switch c := s[i]; {
		case strings.IndexByte(" \t\r\n;&|()<>", c) >= 0:
			return i, true
		case c == '\\':
			i += 2
		case c == '\'':
			end := strings.IndexByte(s[i+1:], '\'')
			if end < 0 {
				return 0, false
			}
			i += end + 2
		case c == '"':
			n, ok := doubleQuoted(s[i+1:])
			if !ok {
				return 0, false
			}
			i += n + 1
		case c == '`':
			end := strings.IndexByte(s[i+1:], '`')
			if end < 0 {
				return 0, false
			}
			i += end + 2
		case c == '$' && i+1 < len(s) && (s[i+1] == '(' || s[i+1] == '{'):
			n, ok := nested(s[i+2:], s[i+1])
			if !ok {
				return 0, false
			}
			i += n + 2
		default:
			i++
		}
	}
	return min(i, len(s)), true
}

// doubleQuoted returns the length of what follows a double quote, with the one
// that ends it.
func doubleQuoted(s string) (int, bool) {
	for i := 0; i < len(s); {
		switch {
		case s[i] == '"':
			return i + 1, true
		case s[i] == '\\':
			i += 2
		case s[i] == '$' && i+1 < len(s) && (s[i+1] == '(' || s[i+1] == '{'):
			n, ok := nested(s[i+2:], s[i+1])
			if !ok {
				return 0, false
			}
			i += n + 2
		default:
			i++
		}
	}
	return 0, false
}

// nested returns the length of what follows an opening ( or {, with what
// closes it.
func nested(s string, open byte) (int, bool) {
	end := byte(')')
	if open == '{' {
		end = '}'
	}
	depth := 1
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == end:
			i++
			if depth--; depth == 0 {
				return i, true
			}
		case c == open && (open == '(' || i > 0 && s[i-1] == '$'):
			depth++
			i++
		case c == '\\':
			i += 2
		case c == '\'' && open == '(':
			j := strings.IndexByte(s[i+1:], '\'')
			if j < 0 {
				return 0, false
			}
			i += j + 2
		case c == '"':
			n, ok := doubleQuoted(s[i+1:])
			if !ok {
				return 0, false
			}
			i += n + 1
		default:
			i++
		}
	}
	return 0, false
}

// shellReader walks through a script.
type shellReader struct {
	tokens []shellToken
	at     int
	vars   map[string]shellWord
	funcs  map[string][2]int // tokens of the body
	calls  int               // depth of functions
	out    []shellCommand
	ended  bool // an exit that surely runs was passed
	bad    bool // not understood
	steps  int
}

// freshCommands lists the commands of a maintainer script that could run on a
// fresh installation. ok is false when the script is not understood.
func freshCommands(script []byte, action string) (cmds []shellCommand, ok bool) {
	if len(script) > maxScript {
		return nil, false
	}
	tokens, ok := shellTokens(script)
	if !ok {
		return nil, false
	}
	r := &shellReader{tokens: tokens, funcs: map[string][2]int{}, vars: map[string]shellWord{
		"1": {action, true}, "2": {"", true}, "#": {"1", true}, "@": {action, true}, "*": {action, true},
		"DPKG_ROOT": {"", true}, "DPKG_MAINTSCRIPT_NAME": {map[string]string{"install": "preinst"}[action] + map[string]string{"configure": "postinst"}[action], true},
	}}
	r.list(true, true)
	if r.at < len(r.tokens) {
		r.bad = true
	}
	return r.out, !r.bad
}

func (r *shellReader) peek() shellToken {
	if r.at >= len(r.tokens) {
		return shellToken{op: "end"}
	}
	return r.tokens[r.at]
}

func (r *shellReader) skip(ops ...string) {
	for slices.Contains(ops, r.peek().op) && r.peek().op != "" {
		r.at++
	}
}

// want passes a reserved word or operator.
func (r *shellReader) want(s string) {
	if t := r.peek(); t.word == s && t.op == "" || t.op == s {
		r.at++
		return
	}
	r.bad = true
}

// list reads commands until a reserved word or operator that ends a list.
// live: it may run; sure: it does.
func (r *shellReader) list(live, sure bool) truth {
	last := yes
	for !r.bad {
		if r.steps++; r.steps > 1<<18 {
			r.bad = true
		}
		r.skip("\n", ";", "&")
		t := r.peek()
		switch {
		case t.op == "end", t.op == ")", t.op == ";;":
			return last
		case t.op == "" && slices.Contains([]string{"then", "elif", "else", "fi", "do", "done", "esac", "}"}, t.word):
			return last
		}
		last = r.andOr(live, sure)
	}
	return unknown
}

func (r *shellReader) andOr(live, sure bool) truth {
	left := r.pipeline(live && !r.ended, sure)
	for !r.bad {
		switch r.peek().op {
		case "&&":
			r.at++
			r.skip("\n")
			right := r.pipeline(live && !r.ended && left != no, sure && left == yes)
			switch {
			case left == no || right == no && left == yes:
				left = no
			case left == yes:
				left = right
			case right == no:
				left = no
			default:
				left = unknown
			}
		case "||":
			r.at++
			r.skip("\n")
			right := r.pipeline(live && !r.ended && left != yes, sure && left == no)
			switch {
			case left == yes || right == yes:
				left = yes
			case left == no:
				left = right
			default:
				left = unknown
			}
		default:
			return left
		}
	}
	return unknown
}

func (r *shellReader) pipeline(live, sure bool) truth {
	negate := false
	for r.peek().word == "!" {
		r.at++
		negate = !negate
	}
	v := r.command(live, sure)
	for r.peek().op == "|" {
		r.at++
		r.skip("\n")
		r.command(live, sure)
		v = unknown
	}
	if negate {
		v = v.not()
	}
	return v
}

func (r *shellReader) command(live, sure bool) truth {
	t := r.peek()
	v := unknown
	switch {
	case t.op == "(":
		r.at++
		ended, vars := r.ended, cloneVars(r.vars)
		v = r.list(live, sure)
		r.ended, r.vars = ended, vars // a subshell's exit ends only itself
		r.want(")")
	case t.op != "":
		r.bad = true
		return unknown
	case t.word == "{":
		r.at++
		v = r.list(live, sure)
		r.want("}")
	case t.word == "if":
		v = r.ifCommand(live, sure)
	case t.word == "case":
		r.caseCommand(live, sure)
	case t.word == "while", t.word == "until":
		r.at++
		c := r.list(live, false)
		r.want("do")
		if t.word == "until" {
			c = c.not()
		}
		r.list(live && c != no, false)
		r.want("done")
	case t.word == "for":
		r.at += 2
		for r.at < len(r.tokens) && r.peek().word != "do" {
			r.at++
		}
		if r.at >= 2 && r.at < len(r.tokens) {
			delete(r.vars, r.tokens[r.at-1].word)
		}
		r.want("do")
		r.list(live, false)
		r.want("done")
	case t.word == "function":
		r.at++
		return r.command(live, sure)
	default:
		if r.at+2 < len(r.tokens) && r.tokens[r.at+1].op == "(" && r.tokens[r.at+2].op == ")" {
			r.at += 3
			r.skip("\n")
			from := r.at
			r.command(false, false)
			r.funcs[t.word] = [2]int{from, r.at}
			return yes
		}
		return r.simple(live, sure)
	}
	r.redirections(live, sure)
	return v
}

// redirections behind a compound command.
func (r *shellReader) redirections(live, sure bool) {
	for strings.ContainsAny(r.peek().op, "<>") {
		op := r.peek().op
		r.at++
		w := r.expand(r.peek().word)
		r.at++
		if live && (op == ">" || op == ">>" || op == ">|") && w.text != "/dev/null" {
			r.out = append(r.out, shellCommand{writes: []shellWord{w}, sure: sure})
		}
	}
}

func (r *shellReader) ifCommand(live, sure bool) truth {
	taken := no // whether an earlier branch was
	for !r.bad {
		r.at++ // if, elif
		may := live && taken != yes
		c := r.list(may, sure && taken == no)
		r.want("then")
		ended := r.ended
		r.list(may && c != no, sure && taken == no && c == yes)
		if c != yes || taken != no {
			r.ended = ended // whether it ends here is not known
		}
		switch {
		case c == yes:
			taken = yes // this branch, if none before
		case c == unknown && taken == no:
			taken = unknown
		}
		switch t := r.peek(); {
		case t.word == "elif":
			continue
		case t.word == "else":
			r.at++
			ended := r.ended
			r.list(live && taken != yes, sure && taken == no)
			if taken != no {
				r.ended = ended
			}
		}
		r.want("fi")
		return unknown
	}
	return unknown
}

func (r *shellReader) caseCommand(live, sure bool) {
	r.at++
	subject := r.expand(r.peek().word)
	r.at++
	r.skip("\n")
	r.want("in")
	matched := no
	for !r.bad {
		r.skip("\n")
		if r.peek().word == "esac" {
			r.at++
			return
		}
		if r.peek().op == "(" {
			r.at++
		}
		m := no
		for !r.bad && r.peek().op != ")" {
			t := r.peek()
			r.at++
			switch {
			case t.op == "|":
			case t.op != "":
				r.bad = true
			default:
				if one := matchCase(r.expand(t.word), subject); one == yes || m == no {
					m = one
				}
			}
		}
		r.want(")")
		ended := r.ended
		r.list(live && matched != yes && m != no, sure && matched == no && m == yes)
		if m != yes || matched != no {
			r.ended = ended
		}
		if matched != yes && m != no {
			matched = m
		}
		if r.peek().op == ";;" {
			r.at++
		}
	}
}

func matchCase(pattern, subject shellWord) truth {
	if pattern.text == "*" {
		return yes
	}
	if !pattern.known || !subject.known {
		return unknown
	}
	if strings.ContainsAny(pattern.text, "*?[") {
		if head, ok := strings.CutSuffix(pattern.text, "*"); ok && !strings.ContainsAny(head, "*?[") {
			return truthOf(strings.HasPrefix(subject.text, head))
		}
		return unknown
	}
	return truthOf(pattern.text == subject.text)
}

// simple reads a simple command: assignments, words and redirections.
func (r *shellReader) simple(live, sure bool) truth {
	var c shellCommand
	c.sure = sure
	v := yes
	for {
		t := r.peek()
		if t.op != "" && !strings.ContainsAny(t.op, "<>") {
			break
		}
		r.at++
		if t.op != "" {
			w := r.expand(r.peek().word)
			r.at++
			if t.op == ">" || t.op == ">>" || t.op == ">|" {
				c.writes = append(c.writes, w)
			}
			// The number of a descriptor before it is no argument.
			continue
		}
		if n := r.peek().op; len(t.word) == 1 && t.word[0] >= '0' && t.word[0] <= '9' && strings.ContainsAny(n, "<>") && n != "" && len(c.words) > 0 {
			continue
		}
		if name, value, ok := strings.Cut(t.word, "="); ok && len(c.words) == 0 && isName(name) {
			if live {
				w := r.expand(value)
				if old, had := r.vars[name]; !sure && had && old != w {
					w.known = false
				}
				r.vars[name] = w
			}
			v = unknown
			if r.vars[name].known {
				v = yes
			}
			continue
		}
		c.words = append(c.words, r.expand(t.word))
	}
	if !live || len(c.words) == 0 && len(c.writes) == 0 {
		return v
	}
	name := c.name()
	switch name {
	case "exit", "return":
		if sure && (name == "exit" || r.calls > 0) {
			r.ended = true
		}
		return unknown
	case "shift", "set":
		if name == "shift" || len(c.words) > 1 && !strings.HasPrefix(c.words[1].text, "-") {
			for _, n := range []string{"1", "2", "#", "@", "*"} {
				delete(r.vars, n)
			}
		}
		return yes
	case "local", "export", "readonly", "declare":
		for _, w := range c.words[1:] {
			if name, value, ok := strings.Cut(w.text, "="); ok && isName(name) {
				r.vars[name] = shellWord{value, w.known}
			}
		}
		return yes
	case "read", "getopts", "unset":
		for _, w := range c.words[1:] {
			delete(r.vars, w.text)
		}
		return unknown
	}
	if body, ok := r.funcs[name]; ok && r.calls < 8 {
		// The function's own arguments are not followed.
		at, vars := r.at, cloneVars(r.vars)
		for _, n := range []string{"1", "2", "#", "@", "*"} {
			delete(r.vars, n)
		}
		for i, w := range c.words[1:] {
			if i < 9 {
				r.vars[string(rune('1'+i))] = w
			}
		}
		r.at = body[0]
		r.calls++
		r.command(live, sure)
		r.calls--
		r.at, r.ended = at, false
		for _, n := range []string{"1", "2", "#", "@", "*"} {
			r.vars[n] = vars[n]
			if !vars[n].known {
				delete(r.vars, n)
			}
		}
		return unknown
	}
	r.out = append(r.out, c)
	return condition(c)
}

func cloneVars(m map[string]shellWord) map[string]shellWord {
	out := make(map[string]shellWord, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func isName(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// expand removes quotes and puts known variables in.
func (r *shellReader) expand(raw string) shellWord {
	var b strings.Builder
	known := true
	for i := 0; i < len(raw); {
		switch c := raw[i]; {
		case c == '\'':
			end := strings.IndexByte(raw[i+1:], '\'')
			if end < 0 {
				return shellWord{raw, false}
			}
			if strings.HasPrefix(raw, "\"") {
				b.WriteByte(c) // inside double quotes it is only a sign
				i++
				continue
			}
			b.WriteString(raw[i+1 : i+1+end])
			i += end + 2
		case c == '"':
			i++
		case c == '\\' && i+1 < len(raw):
			b.WriteByte(raw[i+1])
			i += 2
		case c == '`':
			return shellWord{raw, false}
		case c == '$' && i+1 < len(raw):
			name, n := "", 0
			rest := raw[i+1:]
			switch {
			case rest[0] == '{':
				end := strings.IndexByte(rest, '}')
				if end < 0 {
					return shellWord{raw, false}
				}
				name, n = strings.TrimSuffix(strings.TrimSuffix(rest[1:end], "-"), ":"), end+1
			case rest[0] >= '0' && rest[0] <= '9' || strings.IndexByte("#@*?$!-", rest[0]) >= 0:
				name, n = rest[:1], 1
			default:
				for n < len(rest) && isName(rest[:n+1]) {
					n++
				}
				name = rest[:n]
			}
			v, ok := r.vars[name]
			if n == 0 || !ok || !v.known {
				known = false
				b.WriteString(raw[i : i+1+n])
				i += 1 + n
				continue
			}
			b.WriteString(v.text)
			i += 1 + n
		default:
			b.WriteByte(c)
			i++
		}
	}
	if !known && strings.Contains(raw, "$(") {
		return shellWord{raw, false}
	}
	return shellWord{b.String(), known}
}

// condition says what a command returns, where that is known.
func condition(c shellCommand) truth {
	words := c.words
	switch c.name() {
	case "true", ":":
		return yes
	case "false":
		return no
	case "[":
		if n := len(words); n > 1 && words[n-1].text == "]" {
			return testExpression(words[1 : n-1])
		}
	case "test":
		return testExpression(words[1:])
	case "dpkg":
		if len(words) == 5 && words[1].text == "--compare-versions" && words[2].known && words[2].text == "" {
			// dpkg(1): an empty version is earlier than any other; with -nl,
			// later.
			switch words[3].text {
			case "lt", "le", "ne", "ge-nl", "gt-nl", "<<", "<=":
				return yes
			case "gt", "ge", "eq", "lt-nl", "le-nl", ">>", ">=", "=":
				return no
			}
		}
	}
	return unknown
}

func testExpression(w []shellWord) truth {
	for i := len(w) - 1; i > 0; i-- {
		if w[i].text == "-o" {
			a, b := testExpression(w[:i]), testExpression(w[i+1:])
			switch {
			case a == yes || b == yes:
				return yes
			case a == no && b == no:
				return no
			}
			return unknown
		}
	}
	for i := len(w) - 1; i > 0; i-- {
		if w[i].text == "-a" {
			a, b := testExpression(w[:i]), testExpression(w[i+1:])
			switch {
			case a == no || b == no:
				return no
			case a == yes && b == yes:
				return yes
			}
			return unknown
		}
	}
	if len(w) > 1 && w[0].text == "!" {
		return testExpression(w[1:]).not()
	}
	switch {
	case len(w) == 3 && w[0].known && w[2].known:
		switch w[1].text {
		case "=", "==":
			return truthOf(w[0].text == w[2].text)
		case "!=":
			return truthOf(w[0].text != w[2].text)
		}
	case len(w) == 2 && w[1].known:
		switch w[0].text {
		case "-n":
			return truthOf(w[1].text != "")
		case "-z":
			return truthOf(w[1].text == "")
		case "-d", "-e", "-x", "-f":
			if strings.HasPrefix(w[1].text, "/run/systemd") || strings.HasPrefix(w[1].text, "/usr/share/debconf") {
				return no // neither an init system nor debconf is at work
			}
		}
	case len(w) == 1 && w[0].known:
		return truthOf(w[0].text != "")
	}
	return unknown
}
