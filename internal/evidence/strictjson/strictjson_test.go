package strictjson

import (
	"encoding/json"
	"strings"
	"testing"
)

type inner struct {
	A string `json:"a"`
}

type sample struct {
	inner
	Name string            `json:"name"`
	List []inner           `json:"list"`
	Map  map[string]inner  `json:"map"`
	Raw  json.RawMessage   `json:"raw"`
	Any  any               `json:"any"`
	Ptr  *inner            `json:"ptr"`
	Free map[string]string `json:"free"`
}

func TestUnmarshal(t *testing.T) {
	for _, c := range []struct{ name, doc, wrong string }{
		{"good", `{"a":"x","name":"n","list":[{"a":"1"}],"map":{"k":{"a":"2"}},"raw":{"x":[1]},"any":{"Name":1},"ptr":{"a":"3"},"free":{"A":"","a":""}}`, ""},
		{"null", `null`, ""},
		{"duplicate", `{"name":"a","name":"b"}`, `duplicate name "name"`},
		{"duplicate by escape", `{"name":"a","na\u006de":"b"}`, `duplicate name "name"`},
		{"duplicate deep in raw", `{"raw":{"x":[{"y":1,"y":2}]}}`, `raw.x[]: duplicate name "y"`},
		{"duplicate in any", `{"any":{"y":1,"y":2}}`, "duplicate"},
		{"duplicate in a map", `{"map":{"y":{},"y":{}}}`, "duplicate"},
		{"unknown", `{"nome":"a"}`, `unknown name "nome"`},
		{"unknown in a list", `{"list":[{"b":1}]}`, `list[]: unknown name "b"`},
		{"unknown in a map", `{"map":{"k":{"b":1}}}`, `map.k: unknown name "b"`},
		{"other case", `{"Name":"a"}`, `want "name"`},
		{"other case behind a pointer", `{"ptr":{"A":"a"}}`, `want "a"`},
		{"two values", `{} {}`, "more than one"},
		{"rubbish behind", `{}x`, "more than one"},
		{"truncated", `{"name":"a"`, "unexpected EOF"},
		{"empty", ``, "unexpected EOF"},
		{"not a number", `{"any":NaN}`, "invalid character"},
		{"comment", `{/**/}`, "invalid character"},
		{"not UTF-8", "{\"name\":\"\xff\"}", "UTF-8"},
		{"deep", strings.Repeat("[", 100_000), "nested"},
		{"huge", `"` + strings.Repeat("a", MaxSize) + `"`, "at most"},
		{"wrong type", `{"name":1}`, "cannot unmarshal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v sample
			err := Unmarshal([]byte(c.doc), &v)
			if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("got %v, want %q", err, c.wrong)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	var v sample
	if err := UnmarshalOpen([]byte(`{"name":"x","later":{"a":1}}`), &v); err != nil || v.Name != "x" {
		t.Error(v, err)
	}
	for _, bad := range []string{`{"later":1,"later":2}`, `{"NAME":"x"}`} {
		if UnmarshalOpen([]byte(bad), &v) == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{`{"name":"a","list":[{"a":"b"}]}`, `{"a":"b","A":1}`, `[[[]]]`, `{"map":{"":{"a":""}}}`, `{"any":1e999}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v sample
		if Unmarshal(data, &v) != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatal("read what is not JSON")
		}
		// What is read twice must say the same in canonical form.
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var w sample
		if err := json.Unmarshal(b, &w); err != nil {
			t.Fatal(err)
		}
	})
}
