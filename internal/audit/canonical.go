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
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"twinhull.dev/twinhull/internal/evidence/strictjson"
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
// refused, so that one entry has one form. An entry of another type than
// EntryType matches ErrEntryType when it is canonical JSON.
func Parse(data []byte) (Entry, error) {
	if len(data) > MaxEntry {
		return Entry{}, fmt.Errorf("an audit entry of %d bytes: at most %d are kept", len(data), MaxEntry)
	}
	if err := strictjson.Check(data); err != nil {
		return Entry{}, fmt.Errorf("not an audit entry: %w", err)
	}
	var head struct {
		Type string `json:"type"`
	}
	// The standard decoder matches names in any case; what it finds so is
	// compared with the canonical form below.
	if err := json.Unmarshal(data, &head); err != nil || head.Type == "" {
		return Entry{}, errors.New("not an audit entry: it has no type")
	}
	if head.Type != EntryType {
		var v map[string]any
		if err := json.Unmarshal(data, &v); err != nil {
			return Entry{}, fmt.Errorf("not an audit entry: %w", err)
		}
		if again, err := appendCanonical(nil, v); err != nil || !bytes.Equal(again, data) {
			return Entry{}, errors.New("not an audit entry: not in canonical form (RFC 8785)")
		}
		return Entry{}, fmt.Errorf("%w: %q", ErrEntryType, head.Type)
	}
	var e Entry
	if err := strictjson.Unmarshal(data, &e); err != nil {
		return Entry{}, fmt.Errorf("not an audit entry: %w", err)
	}
	again, err := Marshal(e)
	if err != nil {
		return Entry{}, err
	}
	if !bytes.Equal(again, data) {
		return Entry{}, errors.New("not an audit entry: not in canonical form (RFC 8785)")
	}
	return e, nil
}

// Validate says what is wrong with an entry, or nil. Strings must be UTF-8,
// digests valid, the time RFC 3339 in UTC; ID, action, actor and verdict must be
// there.
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
		if err := d.Validate(); err != nil {
			return bad("digest %q: %v", d, err)
		}
	}
	var err error
	eachString(reflect.ValueOf(e), func(s string) string {
		if !utf8.ValidString(s) && err == nil {
			err = bad("%q is not UTF-8", s)
		}
		return s
	})
	return err
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

// canonical writes a value of strings, lists and objects as RFC 8785 does.
func canonical(v any) ([]byte, error) {
	// Field names, omitted fields and nesting as encoding/json has them; order
	// and escapes, where it differs from RFC 8785, are made below.
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		return nil, err
	}
	return appendCanonical(nil, tree)
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
	return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
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
