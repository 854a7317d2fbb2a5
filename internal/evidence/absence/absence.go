// Package absence is the claim that an image was read to its last byte and what
// was not found in it: no shell, no package manager, no secret.
//
// It is plain data. Package inspect reads the image and package policy names
// the rules; this package only fixes the form in which their result is signed,
// so that a claim outlives both.
package absence

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
)

// Predicate is the inspection of one image, summed up.
type Predicate struct {
	Inspector Inspector `json:"inspector"`
	Inspected string    `json:"inspected"` // when, RFC 3339
	Zone      oci.Zone  `json:"zone"`      // that the image says it is in; may be empty
	Platform  string    `json:"platform"`
	Layers    []Layer   `json:"layers"` // bottom first; all that there are
	Files     int       `json:"files"`
	Bytes     int64     `json:"bytes"` // of all files, unpacked
	Rules     []Rule    `json:"rules"` // every rule that was applied, by id
}

// Inspector is the program that read the image.
type Inspector struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Rules   int    `json:"rules"` // version of the set of rules
}

// Layer is one layer that was read whole: both digests were verified.
type Layer struct {
	Digest oci.Digest `json:"digest"`
	DiffID oci.Digest `json:"diffID"`
	Files  int        `json:"files"`
}

// Rule says how often a rule found what it looks for. A rule that is not listed
// was not applied, which is no absence.
type Rule struct {
	ID       string   `json:"id"`
	Found    int      `json:"found"`              // visible and hidden
	Hidden   int      `json:"hidden,omitempty"`   // deleted or shadowed in a higher layer
	Examples []string `json:"examples,omitempty"` // paths, at most MaxExamples
}

// MaxExamples bounds Rule.Examples; the rest is in the inspection itself.
const MaxExamples = 10

// Make completes a predicate: rules in one order, examples cut. It fails on an
// inspection that is not whole.
func Make(p Predicate, when time.Time) (Predicate, error) {
	p.Inspected = when.UTC().Format(time.RFC3339)
	p.Rules = slices.Clone(p.Rules)
	slices.SortFunc(p.Rules, func(a, b Rule) int { return cmp.Compare(a.ID, b.ID) })
	for i := range p.Rules {
		r := &p.Rules[i]
		r.Examples = slices.Clone(r.Examples)
		slices.Sort(r.Examples)
		r.Examples = r.Examples[:min(len(r.Examples), MaxExamples)]
	}
	return p, p.check()
}

// Absent tells whether the rule was applied and found nothing, hidden things
// included.
func (p Predicate) Absent(rule string) bool {
	i := slices.IndexFunc(p.Rules, func(r Rule) bool { return r.ID == rule })
	return i >= 0 && p.Rules[i].Found == 0 && p.Rules[i].Hidden == 0
}

func (p Predicate) check() error {
	if _, err := time.Parse(time.RFC3339, p.Inspected); err != nil {
		return fmt.Errorf("absence: inspected at %q: want an RFC 3339 time", p.Inspected)
	}
	if p.Inspector.Name == "" || len(p.Layers) == 0 || len(p.Rules) == 0 || p.Files < 0 || p.Bytes < 0 {
		return fmt.Errorf("absence: no whole inspection: want an inspector, layers and rules")
	}
	seen := map[string]bool{}
	for _, r := range p.Rules {
		if r.ID == "" || seen[r.ID] || r.Found < 0 || r.Hidden < 0 || r.Hidden > r.Found {
			return fmt.Errorf("absence: rule %q: found %d, %d of them hidden, or listed twice", r.ID, r.Found, r.Hidden)
		}
		seen[r.ID] = true
	}
	for i, l := range p.Layers {
		if l.Digest.Validate() != nil || l.DiffID.Validate() != nil {
			return fmt.Errorf("absence: layers[%d]: digest %q, DiffID %q", i, l.Digest, l.DiffID)
		}
	}
	return nil
}

// Parse reads and checks a predicate.
func Parse(predicate json.RawMessage) (Predicate, error) {
	var p Predicate
	if err := strictjson.UnmarshalOpen(predicate, &p); err != nil {
		return Predicate{}, fmt.Errorf("absence: %w", err)
	}
	if err := p.check(); err != nil {
		return Predicate{}, err
	}
	return p, nil
}
