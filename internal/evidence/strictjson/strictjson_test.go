package strictjson

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
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
		{"deep", strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "nested"},
		{"very deep", strings.Repeat("[", 100_000), "exceeded max depth"},
		{"many names", `{"map":{` + manyNames() + `"n7":{}}}`, `map: duplicate name "n7"`},
		{"spaces", " {\n\t\"name\" : \"a\\\"b\" , \"list\" : [ ] , \"any\" : [ 1 , true , null , { } , -1e5 ] } \n", ""},
		{"duplicate by surrogates", `{"any":{"\ud83d\ude00":1,"😀":2}}`, "duplicate"},
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

func manyNames() string {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, "\"n%d\":{},", i)
	}
	return b.String()
}

func BenchmarkUnmarshal(b *testing.B) {
	doc := []byte(`{"list":[` + strings.Repeat(`{"a":"some text of a usual length"},`, 20_000) + `{"a":""}]}`)
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		var v sample
		if err := Unmarshal(doc, &v); err != nil {
			b.Fatal(err)
		}
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

// duplicates is the same question asked of the standard library's tokens.
func duplicates(d *json.Decoder, depth int) (twice, deep bool) {
	tok, err := d.Token()
	if err != nil {
		return false, false
	}
	if depth > maxDepth {
		return false, true
	}
	seen := map[string]bool{}
	if tok != json.Delim('{') && tok != json.Delim('[') {
		return false, false
	}
	for d.More() {
		if tok == json.Delim('{') {
			name, err := d.Token()
			if err != nil {
				return twice, deep
			}
			twice = twice || seen[name.(string)]
			seen[name.(string)] = true
		}
		t, e := duplicates(d, depth+1)
		twice, deep = twice || t, deep || e
		if deep {
			return twice, deep
		}
	}
	_, _ = d.Token()
	return twice, deep
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{`{"a":{"b":1,"b":2}}`, `[{"a":1},{"a":"\u0061"}]`, `{"\u0061":1,"a":2}`, "{ \"a\" : [ ] }", `"\\"`, `{"":{},"\"":[]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := Check(data)
		if !json.Valid(data) || !utf8.Valid(data) {
			if err == nil {
				t.Fatal("accepted what is not JSON")
			}
			return
		}
		d := json.NewDecoder(strings.NewReader(string(data)))
		d.UseNumber()
		twice, deep := duplicates(d, 0)
		if want := twice || deep; want != (err != nil) {
			t.Fatalf("twice %v, deep %v: %v", twice, deep, err)
		}
	})
}
