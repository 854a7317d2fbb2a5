// Package vex reads OpenVEX 0.2 documents and answers one question: does a
// statement, made about this very image and this very package, say that a
// vulnerability does not matter?
//
// It is stricter than the specification's own matching. There, a statement
// without subcomponents is about all of a product, and a product without a
// version about all versions; here such a statement silences nothing, because a
// reader cannot tell "checked" from "left out". Who may make statements is for
// package trust, what a silenced finding is worth for package policy. The types
// are our own, so that reading is strict; the tests compare them with
// github.com/openvex/go-vex.
package vex

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
)

// Status is what a statement says of a vulnerability.
type Status string

// The statuses of OpenVEX.
const (
	NotAffected        Status = "not_affected"
	Affected           Status = "affected"
	Fixed              Status = "fixed"
	UnderInvestigation Status = "under_investigation"
)

// weight orders statuses, the one that worries most first.
var weight = map[Status]int{Affected: 3, UnderInvestigation: 2, Fixed: 1, NotAffected: 0}

var justifications = []string{
	"component_not_present", "vulnerable_code_not_present", "vulnerable_code_not_in_execute_path",
	"vulnerable_code_cannot_be_controlled_by_adversary", "inline_mitigations_already_exist",
}

// Document is an OpenVEX document.
type Document struct {
	ID         string
	Author     string
	Timestamp  time.Time
	Statements []Statement
}

// Statement is one statement of a document.
type Statement struct {
	Document       string // its id
	Author         string
	Vulnerability  []string  // its name, id and aliases, upper case
	Time           time.Time // when it was last said
	Status         Status
	Justification  string // one of the five of the specification, or ""
	Impact, Action string
	Products       []Product
}

// Product is what a statement is about.
type Product struct {
	Component
	Subcomponents []Component
}

// Component is named in one way or several.
type Component struct {
	ID          string            `json:"@id"`
	Identifiers map[string]string `json:"identifiers"` // "purl", "cpe22", "cpe23"
	Hashes      map[string]string `json:"hashes"`      // "sha-256"
}

// names are all names of the component.
func (c Component) names() []string {
	var out []string
	for _, n := range []string{c.ID, c.Identifiers["purl"]} {
		if n != "" {
			out = append(out, n)
		}
	}
	return out
}

type wireComponent struct {
	Component
	Supplier string `json:"supplier"`
}

type wireProduct struct {
	wireComponent
	Subcomponents []wireComponent `json:"subcomponents"`
}

type wireStatement struct {
	ID            string `json:"@id"`
	Version       int    `json:"version"`
	Vulnerability struct {
		ID          string   `json:"@id"`
		Name        string   `json:"name"`
		Description string   `json:"description"`
		Aliases     []string `json:"aliases"`
	} `json:"vulnerability"`
	Timestamp       string        `json:"timestamp"`
	LastUpdated     string        `json:"last_updated"`
	Products        []wireProduct `json:"products"`
	Status          Status        `json:"status"`
	Supplier        string        `json:"supplier"`
	StatusNotes     string        `json:"status_notes"`
	Justification   string        `json:"justification"`
	ImpactStatement string        `json:"impact_statement"`
	ActionStatement string        `json:"action_statement"`
	ActionTime      string        `json:"action_statement_timestamp"`
}

type wireDocument struct {
	Context     string          `json:"@context"`
	ID          string          `json:"@id"`
	Author      string          `json:"author"`
	Role        string          `json:"role"`
	Timestamp   string          `json:"timestamp"`
	LastUpdated string          `json:"last_updated"`
	Version     json.RawMessage `json:"version"` // a number; older tools write text
	Tooling     string          `json:"tooling"`
	Supplier    string          `json:"supplier"`
	Statements  []wireStatement `json:"statements"`
}

// maxStatements bounds a document.
const maxStatements = 10_000

// Parse reads a document. A statement that the specification forbids makes the
// whole document an error: what its author meant cannot be told.
func Parse(data []byte) (Document, error) {
	var w wireDocument
	if err := strictjson.UnmarshalOpen(data, &w); err != nil {
		return Document{}, fmt.Errorf("OpenVEX: %w", err)
	}
	switch w.Context {
	case "https://openvex.dev/ns", "https://openvex.dev/ns/v0.2.0":
	default:
		return Document{}, fmt.Errorf("OpenVEX: @context %q, want https://openvex.dev/ns/v0.2.0", w.Context)
	}
	if w.ID == "" || w.Author == "" {
		return Document{}, fmt.Errorf("OpenVEX: a document needs @id and author")
	}
	if n := len(w.Statements); n == 0 || n > maxStatements {
		return Document{}, fmt.Errorf("OpenVEX: %d statements, want 1 to %d", n, maxStatements)
	}
	at, err := newest(time.Time{}, w.Timestamp)
	if err != nil || at.IsZero() {
		return Document{}, fmt.Errorf("OpenVEX: timestamp %q: want an RFC 3339 time", w.Timestamp)
	}
	d := Document{ID: w.ID, Author: w.Author, Timestamp: at}
	for i, s := range w.Statements {
		t, err := s.statement(d)
		if err != nil {
			return Document{}, fmt.Errorf("OpenVEX: statements[%d]: %w", i, err)
		}
		d.Statements = append(d.Statements, t)
	}
	return d, nil
}

func newest(t time.Time, texts ...string) (time.Time, error) {
	for _, s := range texts {
		if s == "" {
			continue
		}
		u, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return t, fmt.Errorf("time %q: want RFC 3339", s)
		}
		if u.After(t) {
			t = u
		}
	}
	return t, nil
}

func (w wireStatement) statement(d Document) (Statement, error) {
	s := Statement{Document: d.ID, Author: d.Author, Status: w.Status, Justification: w.Justification, Impact: w.ImpactStatement, Action: w.ActionStatement}
	if _, ok := weight[w.Status]; !ok {
		return s, fmt.Errorf("status %q", w.Status)
	}
	for _, n := range append([]string{w.Vulnerability.Name, w.Vulnerability.ID}, w.Vulnerability.Aliases...) {
		if n != "" {
			s.Vulnerability = append(s.Vulnerability, strings.ToUpper(n))
		}
	}
	if w.Vulnerability.Name == "" {
		return s, fmt.Errorf("no vulnerability name")
	}
	// A statement without a time of its own was said when the document was;
	// one with a time was not said later than its last update.
	var err error
	if s.Time, err = newest(time.Time{}, w.Timestamp, w.LastUpdated); err != nil {
		return s, err
	}
	if s.Time.IsZero() {
		s.Time = d.Timestamp
	}
	if w.Justification != "" && !slices.Contains(justifications, w.Justification) {
		return s, fmt.Errorf("justification %q, want one of %s", w.Justification, strings.Join(justifications, ", "))
	}
	switch {
	case w.Status == NotAffected && w.Justification == "" && w.ImpactStatement == "":
		return s, fmt.Errorf("not_affected without a justification")
	case w.Status != NotAffected && (w.Justification != "" || w.ImpactStatement != ""):
		return s, fmt.Errorf("%s with a justification: that is for not_affected", w.Status)
	case w.Status == Affected && w.ActionStatement == "":
		return s, fmt.Errorf("affected without an action_statement")
	}
	for _, p := range w.Products {
		q := Product{Component: p.Component}
		for _, c := range p.Subcomponents {
			q.Subcomponents = append(q.Subcomponents, c.Component)
		}
		s.Products = append(s.Products, q)
	}
	return s, nil
}

// Query is a finding: a vulnerability in a package of an image.
type Query struct {
	Vulnerability []string // its id and all aliases
	Image         oci.Digest
	Package       string // package URL as the bill of materials has it
	Now           time.Time
}

// Answer is what documents say of a finding.
type Answer struct {
	Said      bool // something is said about exactly this
	Silenced  bool // and it is that the finding does not matter
	Statement Statement
	Why       string // for people: why it does or does not silence
}

// Ask looks for the newest statement about exactly this vulnerability in this
// package of this image. Of several of one age the most worrying counts.
func Ask(docs []Document, q Query) Answer {
	var best *Statement
	unspecific := false
	for i := range docs {
		for j := range docs[i].Statements {
			s := &docs[i].Statements[j]
			if !s.names(q.Vulnerability) {
				continue
			}
			if q.Now.IsZero() || s.Time.After(q.Now.Add(5*time.Minute)) {
				continue // said in the future
			}
			match, vague := s.about(q)
			unspecific = unspecific || vague
			if match && (best == nil || s.Time.After(best.Time) || s.Time.Equal(best.Time) && weight[s.Status] > weight[best.Status]) {
				best = s
			}
		}
	}
	switch {
	case best == nil && unspecific:
		return Answer{Why: "a statement names the vulnerability but not exactly this image and package: products need the image's digest, and a subcomponent with the package's version"}
	case best == nil:
		return Answer{Why: "no statement is about this"}
	case best.Status == NotAffected && best.Justification == "":
		return Answer{Said: true, Statement: *best, Why: "not_affected needs a justification; an impact statement alone is prose"}
	case best.Status == NotAffected:
		return Answer{true, true, *best, best.Justification}
	case best.Status == Fixed:
		return Answer{true, true, *best, "fixed"}
	}
	return Answer{Said: true, Statement: *best, Why: "the statement says " + string(best.Status)}
}

func (s *Statement) names(ids []string) bool {
	return slices.ContainsFunc(ids, func(id string) bool { return id != "" && slices.Contains(s.Vulnerability, strings.ToUpper(id)) })
}

// about tells whether one of the products is the image and has the package as
// a subcomponent. vague: a product or subcomponent is missing a name that is
// exact enough.
func (s *Statement) about(q Query) (match, vague bool) {
	for _, p := range s.Products {
		if !p.isImage(q.Image) || len(p.Subcomponents) == 0 {
			vague = true
			continue
		}
		for _, c := range p.Subcomponents {
			if slices.ContainsFunc(c.names(), func(n string) bool { return SamePackage(n, q.Package) }) {
				return true, false
			}
		}
	}
	return false, vague || len(s.Products) == 0
}

// isImage tells whether the component names an image by its digest: as a
// package URL, as a bare digest, or by its hash.
func (c Component) isImage(d oci.Digest) bool {
	if d.Validate() != nil {
		return false
	}
	for _, n := range c.names() {
		if n == d.String() {
			return true
		}
		if p, ok := parsePURL(n); ok && p.kind == "oci" && p.version == d.String() {
			return true
		}
	}
	alg := strings.Replace(d.Algorithm().String(), "sha", "sha-", 1)
	return c.Hashes[alg] == d.Encoded()
}

// SamePackage tells whether a package URL of a statement names the package of
// a bill of materials: type, namespace, name and version are equal, and so is
// every qualifier that the statement gives. Without a version it names nothing.
func SamePackage(statement, pkg string) bool {
	s, ok := parsePURL(statement)
	p, ok2 := parsePURL(pkg)
	if !ok || !ok2 || s.version == "" || s.kind != p.kind || s.path != p.path || s.version != p.version {
		return false
	}
	for k, v := range s.qualifiers {
		if p.qualifiers[k] != v {
			return false
		}
	}
	return true
}

type purl struct {
	kind, path, version string
	qualifiers          map[string]string
}

// parsePURL reads a package URL (purl-spec, "How to parse a purl string").
func parsePURL(s string) (purl, bool) {
	rest, ok := strings.CutPrefix(s, "pkg:")
	if !ok || len(s) > 4096 {
		return purl{}, false
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	p := purl{qualifiers: map[string]string{}}
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		v, err := url.PathUnescape(v)
		if err != nil {
			return purl{}, false
		}
		if _, twice := p.qualifiers[strings.ToLower(k)]; twice {
			return purl{}, false
		}
		p.qualifiers[strings.ToLower(k)] = v
	}
	kind, rest, ok := strings.Cut(strings.TrimLeft(rest, "/"), "/")
	if !ok {
		return purl{}, false
	}
	p.kind = strings.ToLower(kind)
	if i := strings.LastIndexByte(rest, '@'); i > 0 {
		v, err := url.PathUnescape(rest[i+1:])
		if err != nil {
			return purl{}, false
		}
		p.version, rest = v, rest[:i]
	}
	path, err := url.PathUnescape(strings.Trim(rest, "/"))
	if err != nil || path == "" {
		return purl{}, false
	}
	switch p.kind {
	case "deb", "golang", "oci", "apk", "rpm", "pypi", "github", "composer", "npm":
		path = strings.ToLower(path)
	}
	if p.kind == "pypi" {
		path = strings.ReplaceAll(path, "_", "-")
	}
	p.path = path
	return p, true
}
