package project

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxLockSize bounds what ReadLock takes, in bytes. A lock of a thousand
// packages has half a megabyte.
const maxLockSize = 64 << 20

const remakeLock = "`twinhull lock` makes it again"

// ReadLock reads and checks the lock at path. The error is Errors when the file
// could be read and something in it is wrong.
func ReadLock(path string) (*Lock, error) {
	data, err := readBounded(path, maxLockSize)
	if err != nil {
		return nil, err
	}
	return ParseLock(path, data)
}

// ParseLock reads and checks a lock; path is only for messages. Reading is
// strict, as for the project file: every key is known, is there once and,
// unless it may be left out, is there. A lock of a newer format is refused with
// a message that says so. The error is Errors: the first mistake of form, or
// every mistake of content.
func ParseLock(path string, data []byte) (*Lock, error) {
	p := &problems{file: path}
	if len(data) > maxLockSize {
		p.add(position{}, "", fmt.Sprintf("is larger than %d bytes", maxLockSize), remakeLock)
		return nil, p.err()
	}
	if !utf8.Valid(data) {
		at := 0
		for at < len(data) {
			r, n := utf8.DecodeRune(data[at:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			at += n
		}
		p.add(positionOf(data, at), "", fmt.Sprintf("byte 0x%02x is not UTF-8", data[at]), remakeLock)
		return nil, p.err()
	}
	if v, at, ok := lockVersion(data); ok && v != LockVersion {
		if v > LockVersion {
			p.add(positionOf(data, at), "version", fmt.Sprintf("made by a newer Twinhull (lock version %d, this program knows %d)", v, LockVersion),
				"update twinhull, or run `twinhull lock` to make it again")
		} else {
			p.add(positionOf(data, at), "version", fmt.Sprintf("there is no lock version %d", v), remakeLock)
		}
		return nil, p.err()
	}
	l := &Lock{}
	d := newLockDecoder(data, nil)
	if err := d.document(l); err != nil {
		var form *lockFormError
		if !errors.As(err, &form) {
			form = d.syntax(err)
		}
		p.add(positionOf(data, form.offset), form.key, form.message, form.hint)
		return nil, p.err()
	}
	found := map[string]string{} // key → first message
	var keys []string
	l.check(func(key, message string) {
		if _, ok := found[key]; !ok && len(keys) <= maxProblems {
			found[key] = message
			keys = append(keys, key)
		}
	})
	if len(keys) == 0 {
		return l, nil
	}
	// Places are looked up only now: a good lock needs none.
	d = newLockDecoder(data, map[string]int{})
	for _, key := range keys {
		d.places[key] = 0
	}
	_ = d.document(&Lock{}) // was read without a mistake before
	for _, key := range keys {
		p.add(positionOf(data, d.places[key]), key, found[key], remakeLock)
	}
	return nil, p.err()
}

// lockVersion finds the top-level version wherever it stands, and reads nothing
// else: of a newer format nothing else is known.
func lockVersion(data []byte) (version, offset int, ok bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return 0, 0, false
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return 0, 0, false
		}
		at := start(data, int(d.InputOffset()))
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return 0, 0, false
		}
		if key == "version" {
			n, err := strconv.Atoi(string(raw))
			return n, at, err == nil
		}
	}
	return 0, 0, false
}

// start skips what separates JSON values.
func start(data []byte, offset int) int {
	for offset < len(data) && strings.IndexByte(" \t\r\n,:", data[offset]) >= 0 {
		offset++
	}
	return offset
}

// positionOf turns a byte offset into line and column.
func positionOf(data []byte, offset int) position {
	offset = min(max(offset, 0), len(data))
	line := 1 + bytes.Count(data[:offset], []byte("\n"))
	begin := bytes.LastIndexByte(data[:offset], '\n') + 1
	return position{line, 1 + utf8.RuneCount(data[begin:offset])}
}

type lockFormError struct {
	offset             int
	key, message, hint string
}

func (e *lockFormError) Error() string { return e.message }

// lockDecoder reads JSON into the types of the lock. encoding/json itself would
// accept duplicate keys, keys in other letters, nulls and missing fields.
type lockDecoder struct {
	data     []byte
	json     *json.Decoder
	path     []any          // field names and list indexes down to the value being read
	places   map[string]int // when not nil: offsets of those keys are noted
	fieldsOf map[reflect.Type][]lockField
}

func newLockDecoder(data []byte, places map[string]int) *lockDecoder {
	d := &lockDecoder{data: data, json: json.NewDecoder(bytes.NewReader(data)), places: places, fieldsOf: map[reflect.Type][]lockField{}}
	d.json.UseNumber()
	return d
}

func (d *lockDecoder) key() string {
	var b strings.Builder
	for _, part := range d.path {
		switch part := part.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", part)
		case string:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(part)
		}
	}
	return b.String()
}

func (d *lockDecoder) fail(offset int, format string, args ...any) error {
	return &lockFormError{offset, d.key(), fmt.Sprintf(format, args...), remakeLock}
}

// syntax words an error of encoding/json.
func (d *lockDecoder) syntax(err error) *lockFormError {
	e := &lockFormError{offset: int(d.json.InputOffset()), key: d.key(), message: "is not JSON: " + err.Error(), hint: remakeLock}
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.offset, e.message = len(d.data), "ends in the middle"
		if len(bytes.TrimSpace(d.data)) == 0 {
			e.message = "is empty"
		}
	case errors.As(err, &syntax):
		e.offset = start(d.data, e.offset)
	}
	if n := conflict(d.data); n > 0 {
		e.offset, e.message, e.hint = bytes.Index(d.data, []byte("<<<<<<< ")), "holds an unresolved merge", "keep either side, then run `twinhull lock`"
	}
	return e
}

func (d *lockDecoder) document(l *Lock) error {
	if err := d.value(reflect.ValueOf(l).Elem()); err != nil {
		return err
	}
	at := start(d.data, int(d.json.InputOffset()))
	if _, err := d.json.Token(); !errors.Is(err, io.EOF) {
		return d.fail(at, "something follows the lock")
	}
	return nil
}

var timeType = reflect.TypeFor[time.Time]()

func (d *lockDecoder) value(v reflect.Value) error {
	at := start(d.data, int(d.json.InputOffset()))
	if d.places != nil {
		if key := d.key(); key != "" {
			if _, wanted := d.places[key]; wanted {
				d.places[key] = at
			}
		}
	}
	t, err := d.json.Token()
	if err != nil {
		return err
	}
	switch {
	case v.Type() == timeType, v.Type() == reflect.PointerTo(timeType):
		text, _ := t.(string)
		when, err := time.Parse(time.RFC3339, text)
		if err != nil || when.Format(time.RFC3339) != text || !strings.HasSuffix(text, "Z") {
			return d.fail(at, "want a time in UTC and whole seconds, as 2026-01-31T12:00:00Z")
		}
		if v.Kind() == reflect.Pointer {
			v.Set(reflect.ValueOf(&when))
		} else {
			v.Set(reflect.ValueOf(when))
		}
	case v.Kind() == reflect.String:
		s, ok := t.(string)
		if !ok {
			return d.fail(at, "want text")
		}
		v.SetString(s)
	case v.Kind() == reflect.Bool:
		b, ok := t.(bool)
		if !ok {
			return d.fail(at, "want true or false")
		}
		v.SetBool(b)
	case v.Kind() == reflect.Int, v.Kind() == reflect.Int64:
		n, ok := t.(json.Number)
		i, err := strconv.ParseInt(string(n), 10, 64)
		if !ok || err != nil {
			return d.fail(at, "want a whole number")
		}
		v.SetInt(i)
	case v.Kind() == reflect.Slice:
		if t != json.Delim('[') {
			return d.fail(at, "want a list")
		}
		return d.items(v)
	case v.Kind() == reflect.Struct:
		if t != json.Delim('{') {
			return d.fail(at, "want an object")
		}
		return d.fields(v, at)
	default:
		panic("no reader for " + v.Type().String()) // a new field type of Lock
	}
	return nil
}

// items reads a list; an empty one stays nil.
func (d *lockDecoder) items(v reflect.Value) error {
	depth := len(d.path)
	zero := reflect.Zero(v.Type().Elem())
	for i := 0; d.json.More(); i++ {
		d.path = append(d.path[:depth], i)
		v.Set(reflect.Append(v, zero))
		if err := d.value(v.Index(i)); err != nil {
			return err
		}
	}
	d.path = d.path[:depth]
	_, err := d.json.Token()
	return err
}

func (d *lockDecoder) fields(v reflect.Value, at int) error {
	depth := len(d.path)
	fields, ok := d.fieldsOf[v.Type()]
	if !ok {
		fields = lockFields(v.Type())
		d.fieldsOf[v.Type()] = fields
	}
	var seen uint64
	for d.json.More() {
		here := start(d.data, int(d.json.InputOffset()))
		t, err := d.json.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return d.fail(here, "want a key")
		}
		d.path = append(d.path[:depth], shorten(name))
		known := slices.IndexFunc(fields, func(f lockField) bool { return f.name == name })
		if known < 0 {
			names := make([]string, len(fields))
			for i, f := range fields {
				names[i] = f.name
			}
			return d.fail(here, "%s", didYouMean("unknown key", name, names))
		}
		if seen&(1<<known) != 0 {
			return d.fail(here, "is here twice")
		}
		seen |= 1 << known
		if err := d.value(v.Field(fields[known].index)); err != nil {
			return err
		}
	}
	d.path = d.path[:depth]
	if _, err := d.json.Token(); err != nil {
		return err
	}
	for i, f := range fields {
		if !f.omitEmpty && seen&(1<<i) == 0 {
			return d.fail(at, "lacks the key %q", f.name)
		}
	}
	return nil
}
