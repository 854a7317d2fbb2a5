package debfile

import (
	"bytes"
	"fmt"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
)

// Field is one field of a control stanza. Value is what follows the colon
// without the blanks around it; continuation lines follow as written, each
// after a newline and with its leading blank.
type Field struct {
	Name  string
	Value string
}

// Stanza is a control stanza (deb822(5)): fields in the order in which they
// stand, none twice.
type Stanza []Field

// Get returns a field's value, or "" when there is none. Names are compared
// without regard to case, as deb822(5) asks.
func (s Stanza) Get(name string) string {
	for i := range s {
		if strings.EqualFold(s[i].Name, name) {
			return s[i].Value
		}
	}
	return ""
}

// Has tells whether the field is there.
func (s Stanza) Has(name string) bool {
	for i := range s {
		if strings.EqualFold(s[i].Name, name) {
			return true
		}
	}
	return false
}

// String renders the stanza, each field ended by a newline.
func (s Stanza) String() string {
	var b strings.Builder
	for _, f := range s {
		writeField(&b, f)
	}
	return b.String()
}

func writeField(b *strings.Builder, f Field) {
	b.WriteString(f.Name)
	b.WriteByte(':')
	if f.Value != "" && f.Value[0] != '\n' {
		b.WriteByte(' ')
	}
	b.WriteString(f.Value)
	b.WriteByte('\n')
}

// ParseControl reads exactly one stanza: fields with continuation lines,
// comment lines (dropped), empty lines around it. A field that stands twice, a
// second stanza or a line that is neither is an error with its line number.
func ParseControl(b []byte) (Stanza, error) {
	var s Stanza
	seen := make(map[string]int)
	ended := false
	line := 0
	for len(b) > 0 {
		line++
		text, rest, _ := bytes.Cut(b, []byte("\n"))
		b = rest
		if i := bytes.IndexByte(text, 0); i >= 0 {
			return nil, fmt.Errorf("control line %d holds a NUL byte", line)
		}
		if i := bytes.IndexByte(text, '\r'); i >= 0 {
			return nil, fmt.Errorf("control line %d holds a carriage return", line)
		}
		switch {
		case len(bytes.TrimRight(text, " \t")) == 0:
			// A line of blanks only ends a stanza too (deb822(5)).
			ended = len(s) > 0
			continue
		case text[0] == '#':
			continue
		case ended:
			return nil, fmt.Errorf("control line %d begins a second stanza", line)
		case text[0] == ' ' || text[0] == '\t':
			if len(s) == 0 {
				return nil, fmt.Errorf("control line %d continues a field, but there is none before it", line)
			}
			s[len(s)-1].Value += "\n" + string(bytes.TrimRight(text, " \t"))
			continue
		}
		name, value, ok := bytes.Cut(text, []byte(":"))
		if !ok || !fieldName(name) {
			return nil, fmt.Errorf("control line %d is not \"Name: value\": %.80q", line, text)
		}
		key := strings.ToLower(string(name))
		if first := seen[key]; first > 0 {
			return nil, fmt.Errorf("control line %d gives field %s again, after line %d", line, name, first)
		}
		seen[key] = line
		s = append(s, Field{Name: string(name), Value: string(bytes.Trim(value, " \t"))})
	}
	if len(s) == 0 {
		return nil, fmt.Errorf("control file holds no fields")
	}
	return s, nil
}

func fieldName(b []byte) bool {
	if len(b) == 0 || b[0] == '-' || b[0] == '#' {
		return false
	}
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// identity checks the three fields that name a package. They become file names
// and lines of dpkg's database, so nothing outside Debian's own alphabets
// (policy 5.6.1, 5.6.8, 5.6.12) passes.
func identity(s Stanza) (name, version, arch string, err error) {
	name, version, arch = s.Get("Package"), s.Get("Version"), s.Get("Architecture")
	const lower, digit = "abcdefghijklmnopqrstuvwxyz", "0123456789"
	const upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	switch {
	case len(name) < 2 || len(name) > 200 || !only(name[:1], lower+digit) || !only(name, lower+digit+"+-."):
		return "", "", "", fmt.Errorf("control file names the package %.80q, which is no Debian package name", name)
	case version == "" || len(version) > 200 || !only(version, lower+upper+digit+".+-:~"):
		return "", "", "", fmt.Errorf("control file of %s gives version %.80q, which is no Debian version", name, version)
	case arch == "" || len(arch) > 64 || !only(arch, lower+digit+"-"):
		return "", "", "", fmt.Errorf("control file of %s gives architecture %.80q, which is none of Debian's", name, arch)
	}
	return name, version, arch, nil
}

func only(s, set string) bool {
	for i := range len(s) {
		if strings.IndexByte(set, s[i]) < 0 {
			return false
		}
	}
	return true
}

// parseConffiles reads the conffiles member: one absolute path on a line,
// "remove-on-upgrade" before those that the package no longer ships.
func parseConffiles(b []byte) ([]Conffile, error) {
	var out []Conffile
	for text := range strings.Lines(string(b)) {
		text = strings.TrimRight(text, " \t\r\n")
		if text == "" {
			continue
		}
		var c Conffile
		if rest, ok := strings.CutPrefix(text, "remove-on-upgrade "); ok {
			c.Remove, text = true, strings.TrimLeft(rest, " ")
		}
		if !strings.HasPrefix(text, "/") {
			return nil, fmt.Errorf("conffiles names %.80q, which is not an absolute path", text)
		}
		p, err := filetree.Clean(text)
		if err != nil || p == "" {
			return nil, fmt.Errorf("conffiles names %.80q, which is no path of a package", text)
		}
		c.Path = p
		out = append(out, c)
	}
	return out, nil
}

// parseTriggers reads the triggers member: "directive name" lines and comments
// (deb-triggers(5)).
func parseTriggers(b []byte) ([]Trigger, error) {
	var out []Trigger
	for text := range strings.Lines(string(b)) {
		text, _, _ = strings.Cut(text, "#")
		words := strings.Fields(text)
		if len(words) == 0 {
			continue
		}
		if len(words) != 2 {
			return nil, fmt.Errorf("triggers holds %.80q, want a directive and a name", text)
		}
		switch words[0] {
		case "interest", "interest-await", "interest-noawait", "activate", "activate-await", "activate-noawait":
		default:
			return nil, fmt.Errorf("triggers holds the unknown directive %.80q", words[0])
		}
		// The name becomes a file name below /var/lib/dpkg/triggers.
		name := words[1]
		if strings.HasPrefix(name, "/") {
			if p, err := filetree.Clean(name); err != nil || p == "" {
				return nil, fmt.Errorf("triggers names the path %.80q, which is none", name)
			}
		} else if len(name) > 200 || name == "File" || name == "Unincorp" || name == "Lock" ||
			strings.HasPrefix(name, ".") || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' }) {
			return nil, fmt.Errorf("triggers names the trigger %.80q, which is no trigger name", name)
		}
		out = append(out, Trigger{Directive: words[0], Name: name})
	}
	return out, nil
}
