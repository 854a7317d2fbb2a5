package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/google/go-cmp/cmp"
)

func full(t testing.TB) []byte {
	t.Helper()
	e := sample("request 1")
	e.Type, e.Time = EntryType, "2026-11-22T18:04:05.5Z"
	data, err := Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestCanonical(t *testing.T) {
	data := full(t)
	// By the reference implementation of RFC 8785, from what encoding/json writes:
	// no field is missing, also in entries that lack most.
	all := sample("request 1")
	all.Type, all.Time = EntryType, "2026-11-22T18:04:05.5Z"
	eachField(t, reflect.ValueOf(all), "entry")
	few := Entry{Type: EntryType, ID: "x", Time: all.Time, Action: Collect, Verdict: Refused, Actor: Actor{Name: "n"}, Reasons: []string{}, Detail: map[string]string{}}
	for _, e := range []Entry{all, few} {
		plain, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		want, err := jsoncanonicalizer.Transform(plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(got)); d != "" {
			t.Error(d)
		}
	}
	if strings.Contains(string(data), `\u003c`) || strings.Contains(string(data), `\u2028`) {
		t.Errorf("escaped more than RFC 8785 does: %s", data)
	}
	// Names by UTF-16: the emoji is a pair of surrogates, which sort before U+FB33.
	if emoji, hebrew := bytes.Index(data, []byte("😀\":")), bytes.Index(data, []byte("\ufb33")); emoji < 0 || hebrew < emoji {
		t.Errorf("order of names: %s", data)
	}
	e, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Marshal(e)
	if err != nil || !bytes.Equal(again, data) {
		t.Errorf("%s, %v", again, err)
	}
}

// eachField wants the sample to have everything that an entry can have.
func eachField(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	switch {
	case v.IsZero():
		t.Errorf("the sample has no %s", path)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			eachField(t, v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	case v.Kind() == reflect.Slice:
		eachField(t, v.Index(0), path+"[0]")
	}
}

func TestParseRefuses(t *testing.T) {
	data := string(full(t))
	for what, text := range map[string]string{
		"nothing":          "",
		"two values":       data + data,
		"a space":          strings.Replace(data, `{"action"`, `{ "action"`, 1),
		"a line end":       data + "\n",
		"another order":    `{"type":"` + EntryType + `",` + strings.TrimSuffix(data[1:], `,"type":"`+EntryType+`","verdict":"allowed"}`) + `,"verdict":"allowed"}`,
		"an unknown name":  strings.Replace(data, `{"action"`, `{"a":"b","action"`, 1),
		"another case":     strings.Replace(data, `"action"`, `"Action"`, 1),
		"twice":            strings.Replace(data, `{"action":"release"`, `{"action":"release","action":"release"`, 1),
		"an escape":        strings.Replace(data, `"release"`, `"r\u0065lease"`, 1),
		"an empty list":    strings.Replace(data, `"digests":["sha256:`+strings.Repeat("a", 64)+`"]`, `"digests":[]`, 1),
		"null":             strings.Replace(data, `"verdict":"allowed"`, `"verdict":null`, 1),
		"a number":         strings.Replace(data, `"verdict":"allowed"`, `"verdict":1`, 1),
		"no type":          `{"id":"x"}`,
		"another type bad": `{"type":"x", "a":1}`,
		"numbers":          `{"a":1,"type":"x"}`,
		"large":            `{"type":"` + strings.Repeat("x", MaxEntry) + `"}`,
		"not UTF-8":        strings.Replace(data, "release", "rel\xffase", 1),
	} {
		if _, err := Parse([]byte(text)); err == nil || errors.Is(err, ErrEntryType) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Parse([]byte(`{"a":["b",null,true],"type":"later"}`)); !errors.Is(err, ErrEntryType) {
		t.Errorf("a later type: %v", err)
	}
}

// FuzzString holds the escapes against the reference.
func FuzzString(f *testing.F) {
	f.Add("a\"\\\b\t\n\f\r\x00\x1f\x7f\u2028<>&😀")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := appendString(nil, s)
		if !utf8.ValidString(s) {
			if err == nil {
				t.Fatal("not UTF-8, and taken")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal(got, &back); err != nil || back != s {
			t.Fatalf("%q: %s, %v", s, got, err)
		}
		if s == "\ufffe" || s == "\uffff" || strings.ContainsAny(s, "\ufffe\uffff") {
			return
		}
		in, _ := json.Marshal([]string{s})
		want, err := jsoncanonicalizer.Transform(in)
		if err != nil {
			t.Skip() // the reference refuses some that are allowed
		}
		if string(want) != "["+string(got)+"]" {
			t.Fatalf("%q: %s, the reference has %s", s, got, want)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(full(f))
	f.Add([]byte(`{"a":["b",null,true],"type":"later"}`))
	f.Add([]byte(`{"type":"` + EntryType + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data)
		if err != nil {
			return
		}
		again, err := Marshal(e)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%s: %s, %v", data, again, err)
		}
	})
}
