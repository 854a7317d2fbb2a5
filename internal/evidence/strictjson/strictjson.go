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
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	w := walker{d, open}
	if err := w.value(t, 0, ""); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

type walker struct {
	d    *json.Decoder
	open bool
}

// value reads one value and compares it with the type that it will be decoded
// into; nil stands for any.
func (w walker) value(t reflect.Type, depth int, at string) error {
	if depth > maxDepth {
		return fmt.Errorf("nested more than %d deep", maxDepth)
	}
	tok, err := w.d.Token()
	if err != nil {
		return err
	}
	t = deref(t)
	switch tok {
	case json.Delim('{'):
		names, elem, known := fieldsOf(t)
		seen := map[string]bool{}
		for w.d.More() {
			tok, err := w.d.Token()
			if err != nil {
				return err
			}
			name := tok.(string) // the decoder allows nothing else here
			if seen[name] {
				return fmt.Errorf("%s: duplicate name %q", place(at), clip(name))
			}
			seen[name] = true
			next := elem
			if known {
				f, ok := names[name]
				if !ok {
					if err := w.unknown(names, name, at); err != nil {
						return err
					}
				}
				next = f
			}
			if err := w.value(next, depth+1, at+"."+clip(name)); err != nil {
				return err
			}
		}
	case json.Delim('['):
		var elem reflect.Type
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			elem = t.Elem()
		}
		for w.d.More() {
			if err := w.value(elem, depth+1, at+"[]"); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = w.d.Token() // the closing bracket
	return err
}

func (w walker) unknown(names map[string]reflect.Type, name, at string) error {
	for known := range names {
		if strings.EqualFold(known, name) {
			return fmt.Errorf("%s: name %q, want %q", place(at), clip(name), known)
		}
	}
	if w.open {
		return nil
	}
	return fmt.Errorf("%s: unknown name %q", place(at), clip(name))
}

func place(at string) string {
	if at == "" {
		return "document"
	}
	return strings.TrimPrefix(at, ".")
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

// fieldsOf returns the names of a struct, or the element type of a map. known
// is false when any name will do.
func fieldsOf(t reflect.Type) (names map[string]reflect.Type, elem reflect.Type, known bool) {
	if t == nil || reflect.PointerTo(t).Implements(jsonUnmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler) {
		return nil, nil, false
	}
	switch t.Kind() {
	case reflect.Map:
		return nil, t.Elem(), false
	case reflect.Struct:
		names = map[string]reflect.Type{}
		addFields(names, t)
		return names, nil, true
	}
	return nil, nil, false
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
