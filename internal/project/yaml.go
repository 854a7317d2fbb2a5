package project

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of a project file. A real one has some hundred tokens in a hundred
// lines. The YAML parser needs quadratic time for large mappings and recurses
// without a bound, so a hostile file must be stopped before it.
const (
	maxFileSize = 1 << 20
	maxTokens   = 20_000
	maxFlow     = 20  // [ and { inside one another
	maxIndent   = 100 // column of a nested key or list item
)

type valueKind int

const (
	nullValue valueKind = iota
	textValue
	numberValue // unquoted, and YAML takes it for a number
	boolValue   // unquoted true or false
	listValue
	mapValue
)

// value is what the strict reader sees of YAML: no anchors, no tags, no
// document markers, and scalars as they are written.
type value struct {
	kind    valueKind
	text    string // scalars: quotes and escapes resolved, otherwise as written
	list    []value
	entries []entry
	at      position
}

type entry struct {
	key   string
	at    position
	value value
}

// describe names what was found, for "want …, found …".
func (v value) describe() string {
	switch v.kind {
	case nullValue:
		return "nothing"
	case numberValue:
		return "the number " + shorten(v.text)
	case boolValue:
		return v.text
	case listValue:
		return "a list"
	case mapValue:
		return "a mapping"
	}
	return fmt.Sprintf("the text %q", shorten(v.text))
}

// shorten keeps a hostile value from filling the screen.
func shorten(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// readYAML reads one strict YAML document. On failure it reports to p and
// returns false.
func readYAML(p *problems, data []byte) (v value, ok bool) {
	if len(data) > maxFileSize {
		p.add(position{}, "", fmt.Sprintf("holds %d bytes: a project file may hold at most %d", len(data), maxFileSize), "")
		return v, false
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if !checkBytes(p, data) {
		return v, false
	}
	// The parser is a large piece of code that others wrote: should it panic, a
	// project file is refused instead of the program ended.
	defer func() {
		if r := recover(); r != nil {
			p.add(position{}, "", fmt.Sprintf("cannot be read as YAML: %v", r), "")
			v, ok = value{}, false
		}
	}()
	// Without the line feed the scanner loses a tag at the very end.
	tokens := lexer.Tokenize(string(data) + "\n")
	if !checkTokens(p, tokens) {
		return v, false
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		p.addSyntax(err, data)
		return v, false
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		hint := ""
		if filepath.Base(p.file) == FileName { // other files are read with this, too
			hint = "`twinhull init` writes a project file to begin with"
		}
		p.add(position{1, 1}, "", "is empty", hint)
		return v, false
	}
	c := converter{p: p, ok: true}
	v = c.node(file.Docs[0].Body)
	return v, c.ok
}

// checkBytes refuses what no editor writes on purpose.
func checkBytes(p *problems, data []byte) bool {
	at := position{1, 1}
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			p.add(at, "", fmt.Sprintf("byte 0x%02x is not UTF-8", data[i]), "save the file as UTF-8")
			return false
		case r == '\n':
			at = position{at.line + 1, 1}
			i += n
			continue
		case r == '\r' && i+1 < len(data) && data[i+1] == '\n', r == '\t':
		case r < 0x20 || r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, r == 0xfeff:
			p.add(at, "", fmt.Sprintf("character U+%04X is not allowed here", r), "")
			return false
		}
		at.column++
		i += n
	}
	return true
}

// checkTokens refuses the parts of YAML that this format leaves out, and
// nesting that the recursive parser could not bear.
func checkTokens(p *problems, tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		p.add(position{}, "", fmt.Sprintf("holds more than %d words and signs, too many for a project file", maxTokens), "")
		return false
	}
	ok := true
	fail := func(t *token.Token, message, hint string) {
		p.add(place(t), "", message, hint)
		ok = false
	}
	flow, content := 0, false
	for _, t := range tokens {
		switch t.Type {
		case token.CommentType:
			continue
		case token.AnchorType:
			fail(t, "YAML anchors (&) are not part of this format", `write the value out; text that begins with & goes into quotes`)
		case token.AliasType:
			if t.Prev != nil && t.Prev.Type == token.AliasType {
				continue // the second half of **/*.go
			}
			fail(t, "YAML aliases (*) are not part of this format", `a pattern or text that begins with * goes into quotes: "**/*.go"`)
		case token.MergeKeyType:
			fail(t, "YAML merge keys (<<) are not part of this format", "write the values out: the two zones inherit nothing")
		case token.TagType:
			fail(t, "YAML tags (!) are not part of this format", `an exclusion goes into quotes: "!dist"`)
		case token.DirectiveType:
			fail(t, "YAML directives (%) are not part of this format", "")
		case token.DocumentHeaderType:
			if content {
				fail(t, "a second YAML document begins here: a project file is one document", "")
			}
		case token.DocumentEndType:
			// Nothing may follow; a header after it is reported as a second document.
			content = true
			continue
		case token.SequenceStartType, token.MappingStartType:
			if flow++; flow > maxFlow {
				fail(t, "nested too deeply", "")
				return false
			}
		case token.SequenceEndType, token.MappingEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType, token.MappingKeyType:
			if flow == 0 && t.Position.Column > maxIndent {
				fail(t, "nested too deeply", "")
				return false
			}
		case token.MappingValueType:
			switch key := t.Prev; {
			case key == nil:
			case key.Position.Line != t.Position.Line:
				fail(t, "a key and its colon belong on one line", "")
			case flow > 0 && key.Type != token.DoubleQuoteType && key.Type != token.SingleQuoteType && adjoins(t, t.Next):
				// The scanner splits {compile:dist: x} after compile; YAML does not.
				rest, _, _ := strings.Cut(t.Next.Value, ": ")
				fail(key, "a colon without a space inside { } can be read in two ways",
					fmt.Sprintf("write a space after it, or quotes around the text: %q", shorten(key.Value+":"+rest)))
			}
			if flow == 0 && t.Prev != nil && t.Prev.Position.Column > maxIndent {
				fail(t, "nested too deeply", "")
				return false
			}
		case token.StringType:
			// The scanner takes these for plain text; YAML does not.
			if flow == 0 && t.Value != "" && strings.ContainsRune(",]}", rune(t.Value[0])) && t.Indicator == token.NotIndicator && !inBlock(t) {
				fail(t, fmt.Sprintf("%q has no beginning", t.Value[:1]), "text that begins with it goes into quotes")
			}
		}
		// Inside unquoted text the scanner drops a tab without a word, and takes
		// a line that is indented too little for the text's continuation.
		if written := strings.TrimSpace(t.Origin); t.Indicator == token.NotIndicator && !inBlock(t) {
			switch {
			case strings.Contains(written, "\n"):
				fail(t, "unquoted text goes on on the next line", "is that line a key without its colon? Long text goes behind >- or into quotes")
			case strings.Contains(written, "\t"):
				fail(t, "a tab inside unquoted text", `put the text in double quotes and write the tab as \t`)
			}
		}
		if t.Type != token.DocumentHeaderType {
			content = true
		}
	}
	return ok
}

// inBlock tells whether the token is the text of a block scalar (| or >).
func inBlock(t *token.Token) bool {
	return t.Prev != nil && (t.Prev.Type == token.LiteralType || t.Prev.Type == token.FoldedType)
}

// adjoins tells whether the token after a colon stands directly behind it and
// is not one that ends the value.
func adjoins(colon, next *token.Token) bool {
	if next == nil || next.Position.Line != colon.Position.Line || next.Position.Column != colon.Position.Column+1 {
		return false
	}
	switch next.Type {
	case token.CollectEntryType, token.MappingEndType, token.SequenceEndType:
		return false
	}
	return true
}

func place(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{}
	}
	return position{t.Position.Line, t.Position.Column}
}

// addSyntax turns the parser's complaint into one of ours.
func (p *problems) addSyntax(err error, data []byte) {
	at, message, hint := position{}, err.Error(), ""
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		message = syntax.GetMessage()
		at = place(syntax.GetToken())
	}
	message, _, _ = strings.Cut(message, "\n")
	if n := conflict(data); n > 0 {
		p.add(position{n, 1}, "", "holds an unresolved merge", "settle the conflict, then try again")
		return
	}
	line := ""
	if lines := bytes.Split(data, []byte("\n")); at.line > 0 && at.line <= len(lines) {
		line = string(lines[at.line-1])
	}
	switch indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]; {
	case strings.Contains(indent, "\t"):
		at.column = 1 + strings.IndexByte(indent, '\t')
		message, hint = "a tab indents this line: YAML knows only spaces", "replace each tab by two spaces"
	case strings.Contains(message, "non-map value"):
		message, hint = "this line is no key with a value", "is a colon missing?"
	case strings.Contains(message, "']' not found"):
		message = "the list that begins here has no ]"
	case strings.Contains(message, "end token '}'"):
		message = "the mapping that begins here has no }"
	case strings.Contains(message, "could not find end character"):
		message = "the text that begins here has no closing quote"
	case strings.Contains(message, "mapping value is not allowed"):
		hint = "a value that holds a colon and a space goes into quotes"
	case strings.Contains(message, "reserved character"):
		hint = "text that begins with it goes into quotes"
	}
	p.add(at, "", message, hint)
}

// conflict returns the line of the first mark that an unresolved merge leaves,
// or 0.
func conflict(data []byte) int {
	line := 1
	for l := range bytes.Lines(data) {
		if bytes.HasPrefix(l, []byte("<<<<<<< ")) {
			return line
		}
		line++
	}
	return 0
}

// converter turns the parser's nodes into values.
type converter struct {
	p  *problems
	ok bool
}

func (c *converter) fail(at position, message, hint string) {
	c.p.add(at, "", message, hint)
	c.ok = false
}

func (c *converter) node(n ast.Node) value {
	if n == nil {
		return value{}
	}
	t := n.GetToken()
	v := value{at: place(t)}
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.StringNode:
		v.kind, v.text = textValue, n.Value
	case *ast.LiteralNode:
		v.kind, v.text = textValue, n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		v.kind, v.text = numberValue, t.Value
	case *ast.BoolNode:
		v.kind, v.text = boolValue, t.Value
	case *ast.SequenceNode:
		v.kind = listValue
		for i, item := range n.Values {
			one := c.node(item)
			if !n.IsFlowStyle && i < len(n.Entries) {
				c.indented(place(n.Entries[i].Start), one, "item")
			}
			v.list = append(v.list, one)
		}
	case *ast.MappingNode:
		v.kind = mapValue
		for _, pair := range n.Values {
			v.entries = append(v.entries, c.pair(pair))
		}
		if !n.IsFlowStyle && len(v.entries) > 0 {
			v.at = v.entries[0].at // not the colon behind the first key
		}
	case *ast.MappingValueNode:
		v.kind = mapValue
		v.entries = []entry{c.pair(n)}
		v.at = v.entries[0].at
	default:
		c.fail(v.at, fmt.Sprintf("a YAML %s is not part of this format", n.Type()), "")
	}
	return v
}

// indented refuses a value that stands on a later line and not further right
// than what it belongs to. The parser takes some of these, YAML none.
func (c *converter) indented(at position, v value, what string) {
	if v.kind != nullValue && v.at.line > at.line && v.at.column <= at.column {
		c.fail(v.at, fmt.Sprintf("is not indented below its %s on line %d", what, at.line), "")
	}
}

func (c *converter) pair(n *ast.MappingValueNode) entry {
	t := n.Key.GetToken()
	e := entry{at: place(t)}
	switch key := n.Key.(type) {
	case *ast.StringNode:
		e.key = key.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		e.key = t.Value // as written: a key is text here
	default:
		c.fail(e.at, "a key must be plain or quoted text", "")
	}
	e.value = c.node(n.Value)
	if e.value.kind != listValue { // a list's dashes may stand below the first letter of its key
		c.indented(e.at, e.value, "key")
	}
	if e.value.at.line == 0 || e.value.kind == nullValue {
		e.value.at = e.at // an absent value has no place of its own
	}
	return e
}
