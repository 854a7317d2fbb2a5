package trust

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// Policy says which identity may make which claim about which repositories.
// The zero Policy believes nobody. A Policy is never changed after it was read
// and may be used by several goroutines at once.
type Policy struct {
	identities []*identity
	rules      []rule
	digest     oci.Digest
}

// identity is somebody who may sign, in one of two ways.
type identity struct {
	name         string
	since, until time.Time // zero: no limit

	key   crypto.PublicKey // a key, or
	keyID string

	issuer, subject string // a certificate of a public key infrastructure
	roots           *roots
}

type rule struct {
	identities   []string
	kinds        []evidence.Kind
	repositories []pattern
	maxAge       time.Duration // 0: no limit
}

// KeyPolicy believes one key, for every claim about every repository: what
// somebody means who verifies with a key and no policy.
func KeyPolicy(public crypto.PublicKey) (*Policy, error) {
	id, err := KeyID(public)
	if err != nil {
		return nil, err
	}
	return &Policy{
		identities: []*identity{{name: "key", key: public, keyID: id}},
		rules:      []rule{{identities: []string{"key"}, repositories: []pattern{{"**"}}}},
		digest:     digest.FromString("twinhull trust policy: key " + id),
	}, nil
}

// Digest names the policy with everything that it stands on: its text, and the
// keys and roots that the text names.
func (p *Policy) Digest() oci.Digest { return p.digest }

// LoadPolicy reads a trust policy file. Keys and roots that it names by path
// are beside it.
func LoadPolicy(path string) (*Policy, error) {
	data, err := readFile(path, maxPolicy)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	return ReadPolicy(path, data, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return readFile(name, maxRoots)
	})
}

// Limits of the files, in bytes.
const (
	maxPolicy = 1 << 20
	maxRoots  = 4 << 20
)

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}

// ReadPolicy reads a trust policy:
//
//	version: 1
//	identities:
//	  release:
//	    key: release.pub          # a path, or the PEM itself behind |
//	    until: 2027-01-01         # and since; both optional
//	  ci:
//	    issuer: https://token.example
//	    subject: https://forge.example/acme/app/.ci/release.yml@refs/tags/*
//	    roots: trusted_root.json  # Sigstore's trusted root file
//	rules:
//	  - identities: [release]
//	    claims: [signature, sbom, provenance]
//	    repositories: [registry.example/app, registry.example/team/**]
//	    maxAge: 720h              # optional, for claims that say when they were made
//
// Unknown keys, and names that nothing defines, are errors with their place. In
// patterns * stands for letters of one part between slashes, ** for any parts.
// read gives the content of a file that is named; name is for messages.
func ReadPolicy(name string, data []byte, read func(path string) ([]byte, error)) (*Policy, error) {
	doc, err := project.ReadYAML(name, data)
	if err != nil {
		return nil, err
	}
	r := &reader{file: name, read: read, sum: sha256.New()}
	r.sum.Write(data)
	p := r.policy(doc)
	if len(r.errs) > 0 {
		return nil, r.errs
	}
	p.digest = digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(r.sum.Sum(nil)))
	return p, nil
}

// reader collects every mistake of a file.
type reader struct {
	file string
	read func(string) ([]byte, error)
	sum  interface {
		io.Writer
		Sum([]byte) []byte
	}
	errs project.Errors
}

func (r *reader) fail(at project.YAML, key, format string, a ...any) {
	message, hint, _ := strings.Cut(fmt.Sprintf(format, a...), "\nhint: ")
	r.errs = append(r.errs, &project.Error{File: r.file, Line: at.Line, Column: at.Column, Key: key, Message: message, Hint: hint})
}

// fields returns the entries of a mapping by key; unknown ones are mistakes.
func (r *reader) fields(v project.YAML, key string, known ...string) map[string]project.YAML {
	if v.Kind != project.YAMLMap {
		r.fail(v, key, "want a mapping, found %s", v.Describe())
		return nil
	}
	out := map[string]project.YAML{}
	for _, e := range v.Entries {
		if !slices.Contains(known, e.Key) {
			at := project.YAML{Line: e.Line, Column: e.Column}
			if near := project.Nearest(e.Key, known); near != "" {
				r.fail(at, join(key, e.Key), "unknown key: did you mean %q?", near)
			} else {
				r.fail(at, join(key, e.Key), "unknown key: want %s", strings.Join(known, ", "))
			}
			continue
		}
		out[e.Key] = e.Value
	}
	return out
}

func join(key, name string) string { return strings.TrimPrefix(key+"."+name, ".") }

func (r *reader) text(v project.YAML, key string) string {
	if v.Kind != project.YAMLText || strings.TrimSpace(v.Text) == "" {
		r.fail(v, key, "want text, found %s", v.Describe())
		return ""
	}
	return v.Text
}

func (r *reader) texts(v project.YAML, key string) (out []string, at []project.YAML) {
	if v.Kind != project.YAMLList || len(v.List) == 0 {
		r.fail(v, key, "want a list of at least one, found %s", v.Describe())
		return nil, nil
	}
	for i, item := range v.List {
		if s := r.text(item, fmt.Sprintf("%s[%d]", key, i)); s != "" {
			out, at = append(out, s), append(at, item)
		}
	}
	return out, at
}

func (r *reader) policy(doc project.YAML) *Policy {
	p := &Policy{}
	top := r.fields(doc, "", "version", "identities", "rules")
	if top == nil {
		return p
	}
	if v, ok := top["version"]; !ok || v.Text != "1" {
		r.fail(v, "version", "want version: 1")
	}
	var names []string
	switch ids := top["identities"]; {
	case ids.Kind != project.YAMLMap || len(ids.Entries) == 0:
		r.fail(ids, "identities", "want a mapping of names to identities: nobody else is believed")
	default:
		for _, e := range ids.Entries {
			names = append(names, e.Key)
			if id := r.identity(e.Key, e.Value); id != nil {
				p.identities = append(p.identities, id)
			}
		}
	}
	switch rules := top["rules"]; {
	case rules.Kind != project.YAMLList || len(rules.List) == 0:
		r.fail(rules, "rules", "want a list of rules: without one nothing is believed")
	default:
		for i, v := range rules.List {
			p.rules = append(p.rules, r.rule(v, fmt.Sprintf("rules[%d]", i), names))
		}
	}
	return p
}

func (r *reader) identity(name string, v project.YAML) *identity {
	key := join("identities", name)
	f := r.fields(v, key, "key", "issuer", "subject", "roots", "since", "until")
	if f == nil {
		return nil
	}
	id := &identity{name: name}
	for _, d := range []struct {
		name string
		to   *time.Time
	}{{"since", &id.since}, {"until", &id.until}} {
		if v, ok := f[d.name]; ok {
			*d.to = r.date(v, key+"."+d.name)
		}
	}
	if !id.since.IsZero() && !id.until.IsZero() && !id.since.Before(id.until) {
		r.fail(f["until"], key+".until", "is not after since")
	}
	k, isKey := f["key"]
	_, i := f["issuer"]
	_, s := f["subject"]
	_, t := f["roots"]
	switch {
	case isKey && (i || s || t):
		r.fail(v, key, "is either a key, or issuer, subject and roots")
	case isKey:
		r.key(id, k, key+".key")
	case i && s && t:
		id.issuer = r.text(f["issuer"], key+".issuer")
		id.subject = r.text(f["subject"], key+".subject")
		if id.subject != "" && strings.Trim(id.subject, "*/") == "" {
			r.fail(f["subject"], key+".subject", "%q is everybody: name somebody", id.subject)
		}
		if data, ok := r.open(f["roots"], key+".roots"); ok {
			var err error
			if id.roots, err = readRoots(data); err != nil {
				r.fail(f["roots"], key+".roots", "%v", err)
			}
		}
	default:
		r.fail(v, key, "want key, or issuer, subject and roots together")
	}
	return id
}

func (r *reader) key(id *identity, v project.YAML, key string) {
	data := []byte(v.Text)
	if !strings.Contains(v.Text, "-----BEGIN") {
		var ok bool
		if data, ok = r.open(v, key); !ok {
			return
		}
	}
	var err error
	if id.key, err = ReadPublic(data); err == nil {
		id.keyID, err = KeyID(id.key)
	}
	if err != nil {
		r.fail(v, key, "%v", err)
	}
}

func (r *reader) open(v project.YAML, key string) ([]byte, bool) {
	path := r.text(v, key)
	if path == "" {
		return nil, false
	}
	data, err := r.read(path)
	if err != nil {
		r.fail(v, key, "%v", err)
		return nil, false
	}
	fmt.Fprintf(r.sum, "\x00%d\x00", len(data))
	r.sum.Write(data)
	return data, true
}

// date reads 2027-01-31 (its first moment, in UTC) or an RFC 3339 time.
func (r *reader) date(v project.YAML, key string) time.Time {
	if v.Kind == project.YAMLText || v.Kind == project.YAMLNumber {
		for _, layout := range []string{time.DateOnly, time.RFC3339} {
			if t, err := time.Parse(layout, v.Text); err == nil {
				return t
			}
		}
	}
	r.fail(v, key, "want a date as 2027-01-31 or a time as 2027-01-31T12:00:00Z, found %s", v.Describe())
	return time.Time{}
}

func (r *reader) rule(v project.YAML, key string, names []string) (out rule) {
	f := r.fields(v, key, "identities", "claims", "repositories", "maxAge")
	if f == nil {
		return out
	}
	for _, must := range []string{"identities", "claims", "repositories"} {
		if _, ok := f[must]; !ok {
			r.fail(v, key, "%s is missing", must)
		}
	}
	if v, ok := f["identities"]; ok {
		ids, at := r.texts(v, key+".identities")
		for i, id := range ids {
			if !slices.Contains(names, id) {
				hint := ""
				if near := project.Nearest(id, names); near != "" {
					hint = fmt.Sprintf(": did you mean %q?", near)
				}
				r.fail(at[i], key+".identities", "no identity is called %q%s", id, hint)
			}
		}
		out.identities = ids
	}
	if v, ok := f["claims"]; ok {
		kinds, at := r.texts(v, key+".claims")
		for i, s := range kinds {
			k, err := evidence.ParseKind(s)
			if err != nil {
				r.fail(at[i], key+".claims", "%v", err)
			}
			out.kinds = append(out.kinds, k)
		}
	}
	if v, ok := f["repositories"]; ok {
		patterns, at := r.texts(v, key+".repositories")
		for i, s := range patterns {
			p, err := parsePattern(s)
			if err != nil {
				r.fail(at[i], key+".repositories", "%v", err)
			}
			out.repositories = append(out.repositories, p)
		}
	}
	if v, ok := f["maxAge"]; ok {
		d, err := time.ParseDuration(v.Text)
		if v.Kind != project.YAMLText || err != nil || d <= 0 {
			r.fail(v, key+".maxAge", "want a duration as 720h, found %s", v.Describe())
		}
		out.maxAge = d
	}
	return out
}

// pattern is a repository pattern, cut at its slashes.
type pattern []string

func parsePattern(s string) (pattern, error) {
	p := pattern(strings.Split(s, "/"))
	for _, part := range p {
		if part == "" || part != "**" && strings.Contains(part, "**") || strings.ContainsAny(part, "?[]{}@ ") {
			return nil, fmt.Errorf("repository pattern %q: want HOST/NAME, with * for letters of one part and ** for any parts; no tag, no digest", s)
		}
	}
	return p, nil
}

// matches compares the pattern with HOST/NAME. The empty repository, of an
// image that is in no registry, has no parts: only ** alone matches it.
func (p pattern) matches(repository string) bool {
	var parts []string
	if repository != "" {
		parts = strings.Split(repository, "/")
	}
	return project.WildcardParts(p, parts)
}
