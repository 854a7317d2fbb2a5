package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"twinhull.dev/twinhull/internal/oci"
)

// MaxEntry is the largest entry in bytes: its length has sixteen bits
// (tlog-tiles, "Log entries").
const MaxEntry = 1<<16 - 1

// maxID is the longest ID of a request, in bytes.
const maxID = 256

// ErrEntryType is matched by entries of a type that this version does not know:
// a later version wrote them. They are part of the tree like all others.
var ErrEntryType = errors.New("an entry of a type that this version does not know")

// Marshal writes an entry as the log keeps it: canonical JSON (RFC 8785), so that
// equal entries are equal bytes whoever writes them. It refuses what Validate
// refuses and what is larger than MaxEntry.
func Marshal(e Entry) ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	data, err := canonical(e)
	if err != nil {
		return nil, err
	}
	if len(data) > MaxEntry {
		return nil, fmt.Errorf("an audit entry of %d bytes: at most %d are kept; name large evidence by its digest", len(data), MaxEntry)
	}
	return data, nil
}

// Parse reads an entry strictly: bytes that Marshal would not have written are
// refused, so that one entry has one form, and no two readers can see two things
// in it. An entry of another type than EntryType matches ErrEntryType when it is
// canonical JSON.
func Parse(data []byte) (Entry, error) {
	if len(data) > MaxEntry {
		return Entry{}, fmt.Errorf("an audit entry of %d bytes: at most %d are kept", len(data), MaxEntry)
	}
	// The standard decoder is generous (case, duplicates, unknown names, bytes
	// that are not UTF-8). Whatever it was generous about is not in what Marshal
	// makes of the result, which is compared byte for byte.
	var e Entry
	if err := json.Unmarshal(data, &e); err == nil && e.Type == EntryType {
		again, err := Marshal(e)
		if err != nil {
			return Entry{}, err
		}
		if !bytes.Equal(again, data) {
			return Entry{}, errors.New("not an audit entry: not in canonical form (RFC 8785), or with names that entries do not have")
		}
		return e, nil
	}
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		return Entry{}, fmt.Errorf("not an audit entry: %w", err)
	}
	if again, err := appendCanonical(nil, v); err != nil || !bytes.Equal(again, data) {
		return Entry{}, errors.New("not an audit entry: not in canonical form (RFC 8785)")
	}
	if t, _ := v["type"].(string); t != "" && t != EntryType {
		return Entry{}, fmt.Errorf("%w: %q", ErrEntryType, t)
	}
	return Entry{}, errors.New("not an audit entry: it has no type, or a field of another kind than its type says")
}

// Validate says what is wrong with an entry, or nil: digests must be valid, the
// time RFC 3339 in UTC; ID, action, actor and verdict must be there.
func (e Entry) Validate() error {
	bad := func(format string, a ...any) error { return fmt.Errorf("audit entry: "+format, a...) }
	if e.Type != EntryType {
		return bad("type %q, want %s", e.Type, EntryType)
	}
	if e.ID == "" || len(e.ID) > maxID || strings.ContainsFunc(e.ID, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return bad("id %q: want 1 to %d bytes of printable text", e.ID, maxID)
	}
	if t, err := time.Parse(time.RFC3339Nano, e.Time); err != nil || Timestamp(t) != e.Time {
		return bad("time %q: want RFC 3339 in UTC, as 2026-11-22T18:04:05.5Z", e.Time)
	}
	if e.Action == "" || strings.Trim(string(e.Action), "abcdefghijklmnopqrstuvwxyz-") != "" {
		return bad("action %q: want lower-case words", e.Action)
	}
	if e.Actor.Name == "" {
		return bad("no actor: say who asked, or \"server\"")
	}
	if e.Verdict != Allowed && e.Verdict != Refused {
		return bad("verdict %q: want %s or %s", e.Verdict, Allowed, Refused)
	}
	digests := append(slices.Clone(e.Digests), e.Claims...)
	for _, m := range e.Moves {
		if m.Tag == "" || m.From == "" && m.To == "" {
			return bad("a move without a tag or a digest")
		}
		for _, d := range []oci.Digest{m.From, m.To} {
			if d != "" {
				digests = append(digests, d)
			}
		}
	}
	if slices.Contains(digests, "") {
		return bad("an empty digest in a list")
	}
	digests = append(digests, e.Summary, e.Policy, e.Trust, e.Database, e.Object.Digest)
	for _, d := range digests {
		if d == "" {
			continue
		}
		if err := validDigest(d); err != nil {
			return bad("digest %q: %v", d, err)
		}
	}
	return nil
}

// validDigest is d.Validate without a regular expression for the usual kind.
func validDigest(d oci.Digest) error {
	if hex, ok := strings.CutPrefix(string(d), "sha256:"); ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == "" {
		return nil
	}
	return d.Validate()
}

// sanitize makes every string of an entry UTF-8: what is logged as refused may
// hold whatever somebody sent, and must be logged all the same.
func sanitize(e Entry) Entry {
	v := reflect.New(reflect.TypeOf(e))
	v.Elem().Set(reflect.ValueOf(e))
	clone := v.Interface().(*Entry)
	// Slices and maps are the caller's: copied before they are changed.
	clone.Reasons, clone.Moves = slices.Clone(e.Reasons), slices.Clone(e.Moves)
	clone.Digests, clone.Claims = slices.Clone(e.Digests), slices.Clone(e.Claims)
	clone.Detail = maps.Clone(e.Detail)
	eachString(v.Elem(), func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") })
	return *clone
}

// eachString visits every string of a value, by reflection so that a new field
// cannot be forgotten, and stores what visit returns where it differs.
func eachString(v reflect.Value, visit func(string) string) {
	switch v.Kind() {
	case reflect.String:
		if s := v.String(); v.CanSet() {
			if t := visit(s); t != s {
				v.SetString(t)
			}
		} else {
			visit(s)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			eachString(v.Field(i), visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachString(v.Index(i), visit)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			old := v.MapIndex(k)
			nk, nv := reflect.New(k.Type()).Elem(), reflect.New(old.Type()).Elem()
			nk.Set(k)
			nv.Set(old)
			eachString(nk, visit)
			eachString(nv, visit)
			if nk.String() != k.String() || nv.String() != old.String() {
				v.SetMapIndex(k, reflect.Value{})
				v.SetMapIndex(nk, nv)
			}
		}
	}
}

// canonical writes a value of strings, lists, objects and maps as RFC 8785 does,
// with the names that encoding/json gives its fields.
func canonical(v any) ([]byte, error) { return appendValue(nil, reflect.ValueOf(v)) }

func appendValue(b []byte, v reflect.Value) (_ []byte, err error) {
	switch v.Kind() {
	case reflect.String:
		return appendString(b, v.String())
	case reflect.Slice:
		b = append(b, '[')
		for i := range v.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, v.Index(i)); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case reflect.Struct:
		b = append(b, '{')
		first := true
		for _, f := range fieldsOf(v.Type()) {
			fv := v.Field(f.index)
			if f.omitEmpty && (fv.Kind() != reflect.Struct && fv.IsZero() || (fv.Kind() == reflect.Slice || fv.Kind() == reflect.Map) && fv.Len() == 0) {
				continue
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(append(append(b, '"'), f.name...), '"', ':')
			if b, err = appendValue(b, fv); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	case reflect.Map:
		b = append(b, '{')
		keys := make([]string, 0, v.Len())
		for _, k := range v.MapKeys() {
			keys = append(keys, k.String())
		}
		slices.SortFunc(keys, compareUTF16)
		for i, k := range keys {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendString(b, k); err != nil {
				return nil, err
			}
			b = append(b, ':')
			if b, err = appendValue(b, v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key()))); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	}
	return nil, fmt.Errorf("canonical JSON: a %v, which entries do not have", v.Type())
}

// field is a field of a struct under its name in JSON.
type field struct {
	name      string
	index     int
	omitEmpty bool
}

// shapes remembers the fields of types, in canonical order.
var shapes sync.Map // reflect.Type to []field

func fieldsOf(t reflect.Type) []field {
	if known, ok := shapes.Load(t); ok {
		return known.([]field)
	}
	var all []field
	for i := range t.NumField() {
		name, rest, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		all = append(all, field{name, i, rest == "omitempty"})
	}
	slices.SortFunc(all, func(a, b field) int { return compareUTF16(a.name, b.name) })
	shapes.Store(t, all)
	return all
}

// appendCanonical serialises by RFC 8785 3.2, without numbers: the log has none,
// because their canonical form is that of ECMAScript.
func appendCanonical(b []byte, v any) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		if v {
			return append(b, "true"...), nil
		}
		return append(b, "false"...), nil
	case string:
		return appendString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendCanonical(b, e); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.SortedFunc(maps.Keys(v), compareUTF16) {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendString(b, k); err != nil {
				return nil, err
			}
			b = append(b, ':')
			if b, err = appendCanonical(b, v[k]); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	}
	return nil, fmt.Errorf("canonical JSON: a %T, which entries do not have", v)
}

// compareUTF16 orders names by their UTF-16 code units (RFC 8785 3.2.3), which
// differs from the order of bytes above U+FFFF.
func compareUTF16(a, b string) int {
	if ascii(a) && ascii(b) {
		return strings.Compare(a, b)
	}
	return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// appendString escapes what RFC 8785 3.2.2.2 escapes and nothing else.
func appendString(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("canonical JSON: %q is not UTF-8", s)
	}
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\f':
			b = append(b, '\\', 'f')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			if c < 0x20 {
				b = fmt.Appendf(b, `\u%04x`, c)
			} else {
				b = append(b, c)
			}
		}
	}
	return append(b, '"'), nil
}
