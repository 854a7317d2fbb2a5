package npm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"
)

// Limits of a JSON document. The largest package-lock.json files of public
// monorepos are near 5 MB and six levels deep.
const (
	maxJSON      = 64 << 20 // bytes
	maxJSONDepth = 64       // nested objects and arrays
)

// object is a JSON object whose keys were each given once. Values are
// map-like objects, []any, string, json.Number, bool or nil.
type object map[string]any

// parseJSON reads one JSON object strictly: valid UTF-8, no duplicate key (two
// readers could believe different ones; encoding/json takes the last and some
// others the first), exact case, nothing behind the object. A byte order mark
// is skipped, as npm does.
func parseJSON(file string, data []byte) (object, error) {
	if len(data) > maxJSON {
		return nil, fmt.Errorf("%s is %d bytes: more than the %d that are read", file, len(data), maxJSON)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s is not valid UTF-8", file)
	}
	p := &jsonReader{dec: json.NewDecoder(bytes.NewReader(data)), data: data}
	p.dec.UseNumber()
	v, err := p.value("", 0)
	if err == nil {
		if _, more := p.dec.Token(); more != io.EOF {
			err = fmt.Errorf("something follows the JSON document")
		}
	}
	if err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("the JSON document ends too early")
		}
		return nil, fmt.Errorf("%s:%d: %w", file, p.line(), err)
	}
	o, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("%s: want a JSON object", file)
	}
	return o, nil
}

type jsonReader struct {
	dec  *json.Decoder
	data []byte
}

func (p *jsonReader) line() int {
	at := min(int(p.dec.InputOffset()), len(p.data))
	return 1 + bytes.Count(p.data[:at], []byte("\n"))
}

func (p *jsonReader) value(where string, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxJSONDepth)
	}
	t, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		o := make(object)
		for p.dec.More() {
			k, err := p.dec.Token()
			if err != nil {
				return nil, err
			}
			key := k.(string) // the decoder lets nothing else be a key
			if _, twice := o[key]; twice {
				return nil, fmt.Errorf("key %q is given twice in %s", key, place(where))
			}
			v, err := p.value(where+"/"+key, depth+1)
			if err != nil {
				return nil, err
			}
			o[key] = v
		}
		_, err := p.dec.Token()
		return o, err
	case json.Delim('['):
		a := []any{}
		for p.dec.More() {
			v, err := p.value(where+"[]", depth+1)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		_, err := p.dec.Token()
		return a, err
	}
	return t, nil
}

func place(where string) string {
	if where == "" {
		return "the document"
	}
	return where[1:]
}

// The accessors return the zero value for an absent or null key and an error
// for another type: a string where a boolean belongs is a damaged lock, and
// guessing would let it mean two things.

func (o object) str(key string) (string, error) {
	switch v := o[key].(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	}
	return "", fmt.Errorf("%q is not a string", key)
}

func (o object) boolean(key string) (bool, error) {
	switch v := o[key].(type) {
	case nil:
		return false, nil
	case bool:
		return v, nil
	}
	return false, fmt.Errorf("%q is not true or false", key)
}

func (o object) object(key string) (object, error) {
	switch v := o[key].(type) {
	case nil:
		return nil, nil
	case object:
		return v, nil
	}
	return nil, fmt.Errorf("%q is not an object", key)
}

// words reads a list of strings; npm also accepts one string for a list.
func (o object) words(key string) ([]string, error) {
	switch v := o[key].(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var all []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%q holds something that is not a string", key)
			}
			all = append(all, s)
		}
		return all, nil
	}
	return nil, fmt.Errorf("%q is not a list of strings", key)
}

// stringMap reads an object whose values are strings ("dependencies").
func (o object) stringMap(key string) (map[string]string, error) {
	m, err := o.object(key)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(m))
	for k := range m {
		s, ok := m[k].(string)
		if !ok {
			return nil, fmt.Errorf("%q of %q is not a string", k, key)
		}
		out[k] = s
	}
	return out, nil
}
