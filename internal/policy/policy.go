package policy

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
)

// Policy is what tunes the table of rules. It is complete when made (Default,
// Read), is never changed afterwards and may be used by several goroutines at
// once.
type Policy struct {
	Name            string
	Coverage        float64 // percent of the code that tests must run, 0 to 100
	Vulnerabilities Vulnerabilities
	Provenance      Build
	Base            Base
	Rules           []Custom // in addition to the table
	Waivers         []Waiver

	digest oci.Digest
}

// Vulnerabilities says which known vulnerabilities refuse.
type Vulnerabilities struct {
	Refuse        Severity      // this severity and those above
	IgnoreUnrated bool          // do not refuse what nobody has rated
	DatabaseAge   time.Duration // how old the newest record of the database may be
}

// Build says what provenance must show.
type Build struct {
	Require  []string  // properties: Hermetic and the other constants
	Builders []Builder // none: any builder that whoever is believed names, which earns no SLSA build level
}

// Builder is a builder that is accepted, who may speak for it, and how far it is
// believed. Provenance says itself which builder it is of: without By whoever may
// sign provenance could name the best one.
type Builder struct {
	ID    string   // builder.id of the provenance; * stands for letters between slashes
	Level int      // SLSA build level that the summary may claim, 0 to 3
	By    []string // identities of the trust policy that may sign for it; none: nobody
}

// Base says what a minimal base is.
type Base struct {
	SystemPackages int   // packages of a distribution that an image may have
	Size           int64 // bytes of its files; 0: any
}

// Default is the policy of whoever has none of his own.
func Default() *Policy { return standard }

var standard = func() *Policy {
	p := defaults()
	p.digest = digest.FromBytes(p.Encode())
	return &p
}()

func defaults() Policy {
	return Policy{
		Name:     "default",
		Coverage: 80,
		// Feeds are published daily; a week leaves room for a mirror that is
		// filled at weekends.
		Vulnerabilities: Vulnerabilities{Refuse: High, DatabaseAge: 7 * 24 * time.Hour},
		Provenance:      Build{Require: []string{DependenciesComplete}},
		Base:            Base{SystemPackages: 100},
	}
}

// Digest names everything that decides: the policy with its defaults filled in,
// and the table of rules.
func (p *Policy) Digest() oci.Digest { return p.digest }

// Encode writes the policy with its defaults filled in, and what the table does
// in each zone, as JSON. Its bytes have the policy's Digest.
func (p *Policy) Encode() []byte {
	type rule struct {
		ID          string   `json:"id"`
		Production  Effect   `json:"production,omitempty"`
		Development Effect   `json:"development,omitempty"`
		Waivable    bool     `json:"waivable"`
		Findings    []string `json:"findings,omitempty"`
	}
	type builder struct {
		ID    string   `json:"id"`
		Level int      `json:"level"`
		By    []string `json:"by"`
	}
	type custom struct {
		ID         string     `json:"id"`
		Expression string     `json:"expression"`
		Zones      []oci.Zone `json:"zones"`
	}
	doc := struct {
		Type            string  `json:"type"`
		Version         int     `json:"version"`
		RulesVersion    int     `json:"rulesVersion"`
		Name            string  `json:"name"`
		Coverage        float64 `json:"coverage"`
		Vulnerabilities struct {
			Refuse        Severity `json:"refuse"`
			IgnoreUnrated bool     `json:"ignoreUnrated"`
			DatabaseAge   string   `json:"databaseAge"`
		} `json:"vulnerabilities"`
		Provenance struct {
			Require  []string  `json:"require"`
			Builders []builder `json:"builders"`
		} `json:"provenance"`
		Base struct {
			SystemPackages int   `json:"systemPackages"`
			Size           int64 `json:"size"`
		} `json:"base"`
		Table   []rule   `json:"table"`
		Rules   []custom `json:"rules"`
		Waivers []Waiver `json:"waivers"`
	}{Type: "https://twinhull.dev/policy/v1", Version: 1, RulesVersion: RulesVersion, Name: p.Name, Coverage: p.Coverage}
	doc.Vulnerabilities.Refuse = p.Vulnerabilities.Refuse
	doc.Vulnerabilities.IgnoreUnrated = p.Vulnerabilities.IgnoreUnrated
	doc.Vulnerabilities.DatabaseAge = p.Vulnerabilities.DatabaseAge.String()
	doc.Provenance.Require, doc.Provenance.Builders = append([]string{}, p.Provenance.Require...), []builder{}
	for _, b := range p.Provenance.Builders {
		doc.Provenance.Builders = append(doc.Provenance.Builders, builder(b))
	}
	doc.Base.SystemPackages, doc.Base.Size = p.Base.SystemPackages, p.Base.Size
	for _, r := range table {
		doc.Table = append(doc.Table, rule{r.ID, r.Production, r.Development, r.Waivable, r.Findings})
	}
	doc.Rules = []custom{}
	for _, c := range p.Rules {
		doc.Rules = append(doc.Rules, custom{c.ID, c.Expression, c.Zones})
	}
	doc.Waivers = append([]Waiver{}, p.Waivers...)
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic(err) // plain data
	}
	return append(b, '\n')
}

// builder finds the builder in the policy, as one that the identity may speak
// for. bound says that the policy has tied the two together: without a list
// every builder is accepted, and what it is called proves nothing. why is empty
// when the builder is accepted.
func (p *Policy) builder(id, identity string) (level int, bound bool, why string) {
	if len(p.Provenance.Builders) == 0 {
		return 0, false, ""
	}
	var may []string
	for _, b := range p.Provenance.Builders {
		if match, err := path.Match(b.ID, id); err != nil || !match || strings.ContainsAny(id, "\n") {
			continue
		}
		if identity != "" && slices.Contains(b.By, identity) {
			return b.Level, true, ""
		}
		for _, name := range b.By {
			if !slices.Contains(may, name) {
				may = append(may, name)
			}
		}
	}
	if may == nil {
		return 0, false, fmt.Sprintf("builder %q is not one that the policy names", id)
	}
	return 0, false, fmt.Sprintf("%s signed it, and may not speak for the builder %q: the policy names %s", identity, id, strings.Join(may, ", "))
}

// Table is the table of rules with those that the policy adds.
func (p *Policy) Table() []Rule {
	all := Rules()
	for i := range p.Rules {
		c := &p.Rules[i]
		r := c.rule()
		r.Waive = "A waiver in policy.yaml with rule: " + r.ID + ", subject: " + r.ID + ", and a reason, an owner and an expiry."
		for _, z := range c.Zones {
			switch z {
			case oci.Production:
				r.Production = Refuses
			case oci.Development:
				r.Development = Refuses
			}
		}
		all = append(all, r)
	}
	return all
}
