package project

import "fmt"

// YAMLKind says what a YAML value is.
type YAMLKind int

// The kinds. Only quoted text is sure to be YAMLText: 1.0 is a number.
const (
	YAMLNull   = YAMLKind(nullValue)
	YAMLText   = YAMLKind(textValue)
	YAMLNumber = YAMLKind(numberValue)
	YAMLBool   = YAMLKind(boolValue)
	YAMLList   = YAMLKind(listValue)
	YAMLMap    = YAMLKind(mapValue)
)

// YAML is one value of a strict YAML document, with its place: what the other
// files of this program that people write (trust and gate policies) are read
// from, so that all of them take the same YAML and report mistakes alike.
type YAML struct {
	Kind    YAMLKind
	Text    string // scalars, as written; quotes and escapes resolved
	List    []YAML
	Entries []YAMLEntry // in the order of the file; keys differ
	Line    int         // from 1
	Column  int         // from 1, in characters
}

// YAMLEntry is one entry of a mapping.
type YAMLEntry struct {
	Key          string
	Line, Column int
	Value        YAML
}

// ReadYAML reads one document of the strict YAML that project files are written
// in: no anchors, tags or merge keys, nothing twice, bounded. name is for
// messages. The error is Errors.
func ReadYAML(name string, data []byte) (YAML, error) {
	p := &problems{file: name}
	v, ok := readYAML(p, data)
	y := v.export(p)
	if err := p.err(); err != nil {
		return YAML{}, err
	}
	if !ok {
		return YAML{}, Errors{{File: name, Message: "cannot be read as YAML"}}
	}
	return y, nil
}

func (v value) export(p *problems) YAML {
	y := YAML{Kind: YAMLKind(v.kind), Text: v.text, Line: v.at.line, Column: v.at.column}
	for _, item := range v.list {
		y.List = append(y.List, item.export(p))
	}
	seen := map[string]position{}
	for _, e := range v.entries {
		if first, twice := seen[e.key]; twice {
			p.add(e.at, "", fmt.Sprintf("key %q is here for the second time; the first is on line %d", shorten(e.key), first.line), "keep one of the two")
			continue
		}
		seen[e.key] = e.at
		y.Entries = append(y.Entries, YAMLEntry{e.key, e.at.line, e.at.column, e.value.export(p)})
	}
	return y
}

// Describe names what was found, for "want …, found …".
func (y YAML) Describe() string { return value{kind: valueKind(y.Kind), text: y.Text}.describe() }

// Nearest returns the candidate that a reader would take got for, or "".
func Nearest(got string, candidates []string) string { return nearest(got, candidates) }
