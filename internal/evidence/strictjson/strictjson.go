// Package strictjson reads JSON that an attacker may have written and that
// several programs must understand alike.
//
// The standard decoder takes the last of two equal keys, matches keys whatever
// their case and ignores what it does not know; each of these lets two readers
// of one signed document see two different things. This package refuses all of
// it: I-JSON (RFC 7493) without duplicate names, names in their exact case, one
// value and nothing behind it, valid UTF-8, bounded depth and size. It knows no
// document type; those are in package evidence and its neighbours.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds nesting. SLSA provenance nests some ten deep, an SBOM less.
const maxDepth = 64

// MaxSize is the largest document that is read, in bytes, unless the caller
// asks for less.
const MaxSize = 16 << 20

// Check reports what is wrong with a document as a whole, or nil: its size, its
// encoding, duplicate names, depth, and bytes after its end.
func Check(data []byte) error { return walk(data, nil, false, MaxSize) }

// Unmarshal checks the document and decodes it into v, a pointer. Names that
// the type of v does not have are refused, as are names in another case. Parts
// of v that decode themselves (json.Unmarshaler, json.RawMessage, maps,
// interfaces) take any names, duplicates excepted.
func Unmarshal(data []byte, v any) error { return unmarshal(data, v, false, MaxSize) }

// UnmarshalOpen is Unmarshal for documents whose specification asks readers to
// ignore fields that they do not know (in-toto Statement v1, "Parsing rules").
// Names that differ from a known one in case only are still refused.
func UnmarshalOpen(data []byte, v any) error { return unmarshal(data, v, true, MaxSize) }

// UnmarshalLarge is UnmarshalOpen for documents of up to limit bytes.
func UnmarshalLarge(data []byte, v any, limit int) error { return unmarshal(data, v, true, limit) }

func unmarshal(data []byte, v any, open bool, limit int) error {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer {
		return errors.New("strictjson: want a pointer")
	}
	if err := walk(data, t.Elem(), open, limit); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func walk(data []byte, t reflect.Type, open bool, limit int) error {
	if len(data) > limit {
		return fmt.Errorf("%d bytes of JSON: at most %d are read", len(data), limit)
	}
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	// The standard scanner says first whether this is JSON at all; what follows
	// only has to find its way in a text that is.
	if !json.Valid(data) {
		return invalid(data)
	}
	w := walker{data: data, open: open, known: map[reflect.Type]*shape{}}
	w.space()
	return w.value(t, 0)
}

// invalid words what the standard decoder dislikes.
func invalid(data []byte) error {
	var v any
	d := json.NewDecoder(bytes.NewReader(data))
	err := d.Decode(&v)
	switch {
	case err == nil:
		return errors.New("more than one JSON value")
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

type walker struct {
	data  []byte // valid JSON
	at    int
	open  bool
	known map[reflect.Type]*shape
}

// shape is what a type lets an object be.
type shape struct {
	names map[string]reflect.Type // of a struct
	elem  reflect.Type            // of a map
	fixed bool                    // names are all that there may be
}

func (w *walker) space() {
	for w.at < len(w.data) {
		switch w.data[w.at] {
		case ' ', '\t', '\r', '\n':
			w.at++
		default:
			return
		}
	}
}

// value reads one value and compares it with the type that it will be decoded
// into; nil stands for any. It begins and ends where no space is.
func (w *walker) value(t reflect.Type, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested more than %d deep", maxDepth)
	}
	switch w.data[w.at] {
	case '{':
		return w.object(t, depth)
	case '[':
		t = deref(t)
		var elem reflect.Type
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			elem = t.Elem()
		}
		w.at++
		w.space()
		for w.data[w.at] != ']' {
			if err := w.value(elem, depth+1); err != nil {
				return inside(err, "[]")
			}
			w.comma()
		}
		w.at++
	case '"':
		w.text()
	default: // a number or a word
		for w.at < len(w.data) && !bytes.ContainsRune([]byte(" \t\r\n,]}"), rune(w.data[w.at])) {
			w.at++
		}
	}
	w.space()
	return nil
}

// comma passes what stands between two members.
func (w *walker) comma() {
	if w.data[w.at] == ',' {
		w.at++
		w.space()
	}
}

// text passes a string and returns it with its quotes.
func (w *walker) text() (raw []byte, escaped bool) {
	from := w.at
	for w.at++; w.data[w.at] != '"'; w.at++ {
		if w.data[w.at] == '\\' {
			escaped = true
			w.at++
		}
	}
	w.at++
	return w.data[from:w.at], escaped
}

func (w *walker) object(t reflect.Type, depth int) error {
	s := w.shape(deref(t))
	var few [12]string
	seen := few[:0]
	var many map[string]bool // of a large object
	w.at++
	w.space()
	for w.data[w.at] != '}' {
		raw, escaped := w.text()
		name := string(raw[1 : len(raw)-1])
		if escaped {
			if err := json.Unmarshal(raw, &name); err != nil {
				return err
			}
		}
		if many[name] || slices.Contains(seen, name) {
			return fault("duplicate name %q", clip(name))
		}
		switch {
		case many != nil:
			many[name] = true
		case len(seen) < cap(seen):
			seen = append(seen, name)
		default:
			many = map[string]bool{name: true}
			for _, n := range seen {
				many[n] = true
			}
		}
		next := s.elem
		if s.fixed {
			f, ok := s.names[name]
			if !ok {
				if err := w.unknown(s.names, name); err != nil {
					return err
				}
			}
			next = f
		}
		w.space()
		w.at++ // the colon
		w.space()
		if err := w.value(next, depth+1); err != nil {
			return inside(err, "."+clip(name))
		}
		w.comma()
	}
	w.at++
	w.space()
	return nil
}

func (w *walker) unknown(names map[string]reflect.Type, name string) error {
	for known := range names {
		if strings.EqualFold(known, name) {
			return fault("name %q, want %q", clip(name), known)
		}
	}
	if w.open {
		return nil
	}
	return fault("unknown name %q", clip(name))
}

// faultError is an error that learns its place on the way out.
type faultError struct{ at, what string }

func (e *faultError) Error() string {
	if e.at == "" {
		return "document: " + e.what
	}
	return strings.TrimPrefix(e.at, ".") + ": " + e.what
}

func fault(format string, a ...any) error { return &faultError{what: fmt.Sprintf(format, a...)} }

func inside(err error, step string) error {
	if f, ok := err.(*faultError); ok {
		f.at = step + f.at
	}
	return err
}

func clip(s string) string {
	const most = 60
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func deref(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

func (w *walker) shape(t reflect.Type) *shape {
	if s, ok := w.known[t]; ok {
		return s
	}
	s := &shape{}
	if t != nil && !reflect.PointerTo(t).Implements(jsonUnmarshaler) && !reflect.PointerTo(t).Implements(textUnmarshaler) {
		switch t.Kind() {
		case reflect.Map:
			s.elem = t.Elem()
		case reflect.Struct:
			s.names, s.fixed = map[string]reflect.Type{}, true
			addFields(s.names, t)
		}
	}
	w.known[t] = s
	return s
}

func addFields(names map[string]reflect.Type, t reflect.Type) {
	for f := range t.Fields() {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "" && deref(f.Type).Kind() == reflect.Struct:
			addFields(names, deref(f.Type))
		case !f.IsExported(), tag == "-":
		case tag != "":
			names[tag] = f.Type
		default:
			names[f.Name] = f.Type
		}
	}
}
