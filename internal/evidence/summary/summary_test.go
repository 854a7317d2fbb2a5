package summary

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	vsa "github.com/in-toto/attestation/go/predicates/vsa/v1"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protojson"

	"twinhull.dev/twinhull/internal/oci"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func input() Input {
	return Input{Time: now, Repository: "registry.example/app", Policy: digest.FromString("policy"), Version: "1.0",
		Attestation: []oci.Digest{digest.FromString("b"), digest.FromString("a")}, Passed: true, Levels: []string{"SLSA_BUILD_LEVEL_2", "TWINHULL_HERMETIC"}}
}

func TestMake(t *testing.T) {
	p, err := Make(input())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var v vsa.VerificationSummary
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if v.ResourceUri != "oci://registry.example/app" || v.VerificationResult != "PASSED" || len(v.InputAttestations) != 2 {
		t.Errorf("in-toto reads %v", &v)
	}
	if _, err := Parse(b); err != nil {
		t.Error(err)
	}
	failed := input()
	failed.Passed = false
	if p, err := Make(failed); err != nil || p.VerificationResult != Failed || len(p.VerifiedLevels) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	for name, change := range map[string]func(*Input){
		"level 4":       func(i *Input) { i.Levels = []string{"SLSA_BUILD_LEVEL_4"} },
		"own SLSA_":     func(i *Input) { i.Levels = []string{"SLSA_HERMETIC"} },
		"no repository": func(i *Input) { i.Repository = "" },
		"no policy":     func(i *Input) { i.Policy = "" },
		"no time":       func(i *Input) { i.Time = time.Time{} },
		"bad claim":     func(i *Input) { i.Attestation = []oci.Digest{"sha256:x"} },
	} {
		in := input()
		change(&in)
		if p, err := Make(in); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestAccepts(t *testing.T) {
	good := Wanted{Verifiers: []string{VerifierID}, Repository: "registry.example/app", Policies: []oci.Digest{digest.FromString("policy")},
		MaxAge: time.Hour, Levels: []string{"SLSA_BUILD_LEVEL_2"}, Now: now.Add(time.Minute)}
	p, err := Make(input())
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Accepts(good); len(r) != 0 {
		t.Fatal(r)
	}
	for name, c := range map[string]struct {
		change func(*Predicate, *Wanted)
		want   string
	}{
		"failed":             {func(p *Predicate, _ *Wanted) { p.VerificationResult = Failed }, "FAILED"},
		"zero predicate":     {func(p *Predicate, _ *Wanted) { *p = Predicate{} }, "result"},
		"zero expectation":   {func(_ *Predicate, w *Wanted) { *w = Wanted{} }, "verifier"},
		"other verifier":     {func(p *Predicate, _ *Wanted) { p.Verifier.ID = "x" }, "verifier"},
		"other repository":   {func(p *Predicate, _ *Wanted) { p.ResourceURI += "/dev" }, "about"},
		"prefix of the name": {func(_ *Predicate, w *Wanted) { w.Repository = "registry.example/ap" }, "about"},
		"other policy":       {func(p *Predicate, _ *Wanted) { p.Policy.Digest = map[string]string{"sha256": "0"} }, "policy"},
		"too old":            {func(_ *Predicate, w *Wanted) { w.Now = now.Add(2 * time.Hour) }, "ago"},
		"from the future":    {func(_ *Predicate, w *Wanted) { w.Now = now.Add(-time.Hour) }, "future"},
		"level missing":      {func(p *Predicate, _ *Wanted) { p.VerifiedLevels = nil }, "level"},
	} {
		p, w := p, good
		c.change(&p, &w)
		if r := strings.Join(p.Accepts(w), "; "); !strings.Contains(r, c.want) {
			t.Errorf("%s: %q, want %q", name, r, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	p, err := Make(input())
	if err != nil {
		f.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"verificationResult":"PASSED"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err == nil && len(p.Accepts(Wanted{})) == 0 {
			t.Fatal("accepted by somebody who expects nothing")
		}
	})
}
