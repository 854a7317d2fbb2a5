package evidence

import (
	"strings"
	"testing"

	intoto "github.com/in-toto/attestation/go/v1"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protojson"
)

var subject = digest.FromString("image")

func statement(t testing.TB, predicateType string, predicate any) []byte {
	t.Helper()
	b, err := New("app", subject, predicateType, predicate)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReference compares what we write with in-toto's own reader.
func TestInToto(t *testing.T) {
	b := statement(t, TypeReference, Refer("sbom", MediaSPDX, digest.FromString("doc")))
	var s intoto.Statement
	if err := protojson.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if s.Subject[0].Digest["sha256"] != subject.Encoded() || s.Predicate.Fields["references"] == nil {
		t.Errorf("in-toto reads %v", &s)
	}
	if again := statement(t, TypeReference, Refer("sbom", MediaSPDX, digest.FromString("doc"))); string(again) != string(b) {
		t.Error("equal statements are not equal bytes")
	}
}

func TestParse(t *testing.T) {
	good := string(statement(t, TypeSignature, struct{}{}))
	hex := subject.Encoded()
	for _, c := range []struct{ name, old, new, wrong string }{
		{"as written", "", "", ""},
		{"older statement type", StatementV1, StatementV01, ""},
		{"unknown field", `"predicate":`, `"later":1,"predicate":`, ""},
		{"other type", StatementV1, "https://in-toto.io/Statement/v2", "has type"},
		{"duplicate subject", `"subject":`, `"subject":[],"subject":`, "duplicate"},
		{"duplicate predicate type", `"predicateType":`, `"predicateType":"x","predicateType":`, "duplicate"},
		{"duplicate in the predicate", `"predicate":{}`, `"predicate":{"a":1,"a":2}`, "duplicate"},
		{"other case", `"subject":`, `"Subject":`, "want \"subject\""},
		{"no predicate type", TypeSignature, "", "no predicateType"},
		{"upper-case digest", hex, strings.ToUpper(hex), "digest"},
		{"short digest", hex, hex[1:], "digest"},
		{"no digest", `"digest":{"sha256":"` + hex + `"}`, `"uri":"x"`, "no digest"},
		{"predicate is a list", `"predicate":{}`, `"predicate":[]`, "no JSON object"},
		{"predicate is text", `"predicate":{}`, `"predicate":"{}"`, "no JSON object"},
		{"two statements", "}]", "}] ", ""},
		{"trailing", good, good + good, "more than one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Parse([]byte(strings.Replace(good, c.old, c.new, 1)))
			if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Fatalf("got %v, want %q", err, c.wrong)
			}
			if err == nil && !s.About(subject) {
				t.Error("not about its subject")
			}
			if s.About(digest.FromString("other")) || s.About("") {
				t.Error("about something else")
			}
		})
	}
}

func TestNewRefusesBrokenPredicates(t *testing.T) {
	for _, p := range []any{map[string]any{"f": func() {}}, rawJSON(`{"a":1,"a":2}`), rawJSON(`[]`)} {
		if _, err := New("app", subject, TypeTests, p); err == nil {
			t.Errorf("%v became a statement", p)
		}
	}
	if _, err := New("app", "sha256:short", TypeTests, struct{}{}); err == nil {
		t.Error("a statement about no digest")
	}
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func TestKind(t *testing.T) {
	d := digest.FromString("doc")
	two := Refer("a", MediaSPDX, d)
	two.References = append(two.References, Refer("b", MediaOrigins, d).References...)
	for _, c := range []struct {
		predicateType string
		predicate     any
		want          Kind
	}{
		{TypeSignature, struct{}{}, Signature},
		{TypeCycloneDX, struct{}{}, SBOM},
		{TypeReference, Refer("a", MediaCycloneDX, d), SBOM},
		{TypeReference, Refer("a", MediaOrigins, d), Origins},
		{TypeReference, Refer("a", "text/plain", d), ""},
		{TypeReference, two, ""},
		{TypeReference, Reference{}, ""},
		{TypeReference, struct{}{}, ""},
		{"https://example.test/own", struct{}{}, "https://example.test/own"},
	} {
		s, err := Parse(statement(t, c.predicateType, c.predicate))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Kind()
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %v: %q, %v", c.predicateType, c.predicate, got, err)
		}
	}
	for _, bad := range []string{"", "sboms", "Signature", TypeReference} {
		if k, err := ParseKind(bad); err == nil {
			t.Errorf("%q is kind %q", bad, k)
		}
	}
	if k, _ := ParseKind(TypeSPDX); k != SBOM {
		t.Errorf("the SPDX type is %q", k)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(statement(f, TypeSignature, struct{}{}))
	f.Add(statement(f, TypeReference, Refer("sbom", MediaSPDX, digest.FromString("doc"))))
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"x","md5":"y"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		if s.About("") || len(s.Subject) == 0 {
			t.Fatal("read a statement about nothing")
		}
		_, _ = s.Kind()
		_, _ = s.Time()
	})
}
