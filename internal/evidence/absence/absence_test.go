package absence

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
)

func TestPredicate(t *testing.T) {
	d := digest.FromString("layer")
	in := Predicate{Inspector: Inspector{Name: "twinhull", Version: "1", Rules: 1}, Platform: "linux/amd64", Layers: []Layer{{d, d, 3}}, Files: 3,
		Rules: []Rule{{ID: "shell"}, {ID: "compiler", Found: 2, Hidden: 1, Examples: []string{"/b", "/a"}}}}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600))
	p, err := Make(in, now)
	if err != nil {
		t.Fatal(err)
	}
	if in.Rules[0].ID != "shell" || p.Rules[0].ID != "compiler" || p.Rules[0].Examples[0] != "/a" || p.Inspected != "2026-01-02T02:04:05Z" {
		t.Errorf("%+v", p)
	}
	if !p.Absent("shell") || p.Absent("compiler") || p.Absent("never-applied") || (Predicate{}).Absent("shell") {
		t.Error("absence")
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(b); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2]string{
		"no layers":      {`"layers":[{"digest":"` + string(d) + `","diffID":"` + string(d) + `","files":3}]`, `"layers":[]`},
		"negative":       {`"found":2`, `"found":-2`},
		"more hidden":    {`"hidden":1`, `"hidden":3`},
		"a rule twice":   {`"id":"shell"`, `"id":"compiler"`},
		"no time":        {"2026-01-02T02:04:05Z", "yesterday"},
		"duplicate name": {`"found":2`, `"found":2,"found":0`},
		"other case":     {`"rules":[`, `"Rules":[`},
		"broken digest":  {string(d), "sha256:0"},
	} {
		bad := strings.Replace(string(b), c[0], c[1], 1)
		if bad == string(b) {
			t.Fatalf("%s changes nothing", name)
		}
		if p, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if _, err := Make(Predicate{}, now); err == nil {
		t.Error("no inspection became a proof")
	}
}
