// Package access says who asks a registry and what they may do.
//
// Who is a Guard's answer (Identify): a user of an htpasswd file, the holder of
// a static bearer token, a workload with an OIDC token of a configured issuer,
// or nobody in particular. What is the answer of Judge: a pure function of the
// identity, a verb, a repository and the configured grants, which refuses what
// no grant allows. It speaks no HTTP but for reading a request's credentials,
// and it does not know the rules of the catalogs: what it lets through package
// registry may still refuse, to everybody.
package access

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/catalog"
)

// Challenge is the WWW-Authenticate header of a 401 answer. It names Basic
// only: a Bearer challenge would send clients to a token service, and there is
// none. Bearer tokens are taken all the same.
const Challenge = `Basic realm="twinhull", charset="UTF-8"`

// Verb is what somebody wants to do.
type Verb string

// The verbs. Pull, Push and Delete are granted for each catalog; Audit and
// Operate are about the server as a whole and are asked with no repository.
const (
	Pull     Verb = "pull"      // read manifests, blobs, tags, referrers
	Push     Verb = "push"      // write manifests, blobs, tags
	Delete   Verb = "delete"    // delete manifests, blobs, tags
	Pin      Verb = "pin"       // keep a tag or manifest from collection
	Release  Verb = "release"   // make a candidate a version
	Revoke   Verb = "revoke"    // declare a version not to be admitted any more
	RollBack Verb = "roll-back" // move convenience tags backwards
	Erase    Verb = "erase"     // erase for a legal reason; wants two signatures besides
	Audit    Verb = "audit"     // read the audit log
	Operate  Verb = "operate"   // collect, check, back up
)

// scopes is every scope that a grant may name: all that can be granted.
// Writing to production is not among them.
var scopes = func() map[Scope]bool {
	all := map[Scope]bool{}
	for _, c := range []string{"production", "candidate", "development"} {
		all[Scope{Pull, c}] = true
		if c != "production" {
			all[Scope{Push, c}], all[Scope{Delete, c}] = true, true
		}
	}
	for _, v := range []Verb{Pull, Pin, Release, Revoke, RollBack, Erase, Audit, Operate} {
		all[Scope{v, ""}] = true
	}
	return all
}()

// Scope is a verb and the catalog that it is granted for: "push:development".
// The zero Scope is nothing.
type Scope struct {
	Verb    Verb
	Catalog string // "": all, for pull; not asked, for the verbs that have none
}

func (s Scope) String() string {
	if s.Catalog == "" {
		return string(s.Verb)
	}
	return string(s.Verb) + ":" + s.Catalog
}

// ParseScope reads a scope and refuses those that cannot be granted.
func ParseScope(text string) (Scope, error) {
	verb, class, _ := strings.Cut(text, ":")
	s := Scope{Verb(verb), class}
	if scopes[s] && s.String() == text {
		return s, nil
	}
	switch {
	case s.Verb == Push && class == "", s.Verb == Delete && class == "":
		return Scope{}, fmt.Errorf("%q: say where, %s:development or %s:candidate", text, verb, verb)
	case s.Verb == Push && class == "production":
		return Scope{}, fmt.Errorf("%q cannot be granted: an image gets into production by a release only", text)
	case s.Verb == Delete && class == "production":
		return Scope{}, fmt.Errorf("%q cannot be granted: nothing is deleted from production", text)
	}
	if near := project.Nearest(text, Scopes()); near != "" {
		return Scope{}, fmt.Errorf("unknown scope %q: did you mean %q?", text, near)
	}
	return Scope{}, fmt.Errorf("unknown scope %q: want %s", text, strings.Join(Scopes(), ", "))
}

// Scopes lists all scopes, sorted.
func Scopes() []string {
	var all []string
	for s := range scopes {
		all = append(all, s.String())
	}
	slices.Sort(all)
	return all
}

// Grant allows some subjects some things in some repositories.
type Grant struct {
	// To is whom: "anybody" (with credentials or without), "authenticated",
	// "user:NAME", "token:NAME", "oidc:ISSUER/NAME". There are no wildcards: a
	// name that is added later gets nothing by accident.
	To []string

	May []Scope

	// Repositories are patterns of production repositories: "shop/api" stands for
	// shop/api, shop/api/candidate and shop/api/dev, and the scope says which of
	// them. * stands for letters of one part between slashes, ** for any parts.
	// The verbs of the whole server want "**".
	Repositories []string
}

// Anybody and Authenticated are the two subjects that are no names.
const (
	Anybody       = "anybody"
	Authenticated = "authenticated"
)

// Identity is who asks, as far as it was proved. The zero Identity is nobody in
// particular.
type Identity struct {
	Actor audit.Actor // Name "" for nobody in particular

	// subjects are what grants may name it as.
	subjects []string
}

// Anonymous tells whether nobody in particular asks.
func (id Identity) Anonymous() bool { return len(id.subjects) == 0 }

func (id Identity) String() string {
	if id.Anonymous() {
		return "anonymous"
	}
	if id.Actor.Method == "password" {
		return "user:" + id.Actor.Name // as grants name it
	}
	return cmp.Or(id.Actor.Method, "?") + ":" + id.Actor.Name
}

// Who is the identity as audit entries name it.
func (id Identity) Who() audit.Actor {
	if id.Anonymous() {
		return audit.Actor{Name: "anonymous"}
	}
	return id.Actor
}

func (id Identity) isAmong(to []string) bool {
	for _, t := range to {
		switch {
		case t == Anybody, t == Authenticated && !id.Anonymous(), slices.Contains(id.subjects, t):
			return true
		}
	}
	return false
}

// Grants is what is allowed, compiled. The zero Grants allow nothing.
type Grants struct{ all []grant }

type grant struct {
	to           []string
	may          []Scope
	repositories []pattern
}

// Compile checks grants.
func Compile(all []Grant) (Grants, error) {
	var out Grants
	for i, g := range all {
		c := grant{to: g.To, may: g.May}
		if len(g.To) == 0 || len(g.May) == 0 || len(g.Repositories) == 0 {
			return Grants{}, fmt.Errorf("grant %d: lacks whom, what or where", i+1)
		}
		for _, t := range g.To {
			if err := ValidSubject(t); err != nil {
				return Grants{}, fmt.Errorf("grant %d: %w", i+1, err)
			}
		}
		for _, s := range g.May {
			if !scopes[s] {
				return Grants{}, fmt.Errorf("grant %d: %q cannot be granted", i+1, s)
			}
		}
		for _, s := range g.Repositories {
			p, err := parsePattern(s)
			if err != nil {
				return Grants{}, fmt.Errorf("grant %d: %w", i+1, err)
			}
			c.repositories = append(c.repositories, p)
		}
		out.all = append(out.all, c)
	}
	return out, nil
}

// ValidSubject checks the form of whom a grant is to.
func ValidSubject(s string) error {
	kind, name, named := strings.Cut(s, ":")
	switch {
	case s == Anybody, s == Authenticated:
		return nil
	case named && name != "" && (kind == "user" || kind == "token"):
		return nil
	case named && kind == "oidc":
		if issuer, who, ok := strings.Cut(name, "/"); ok && issuer != "" && who != "" {
			return nil
		}
	}
	return fmt.Errorf("%q is nobody: want anybody, authenticated, user:NAME, token:NAME or oidc:ISSUER/NAME", s)
}

// Allows tells whether a grant lets the identity do it. Whoever may push to a
// catalog may pull from it: a push begins by looking what is there.
func (g Grants) Allows(id Identity, v Verb, repository string) bool {
	class, home := catalog.Of(repository)
	serverWide := v == Audit || v == Operate
	if serverWide != (repository == "") || repository != "" && !catalog.ValidName(repository) {
		return false
	}
	for _, one := range g.all {
		if !id.isAmong(one.to) {
			continue
		}
		may := slices.ContainsFunc(one.may, func(s Scope) bool {
			switch {
			case s.Verb == v:
				return s.Catalog == "" || s.Catalog == class.String()
			case v == Pull && s.Verb == Push:
				return s.Catalog == class.String()
			}
			return false
		})
		if !may {
			continue
		}
		if slices.ContainsFunc(one.repositories, func(p pattern) bool {
			if serverWide {
				return len(p) == 1 && p[0] == "**"
			}
			return p.matches(home)
		}) {
			return true
		}
	}
	return false
}

// Reads tells whether there is anything that the identity may pull.
func (g Grants) Reads(id Identity) bool {
	return slices.ContainsFunc(g.all, func(one grant) bool {
		return id.isAmong(one.to) && slices.ContainsFunc(one.may, func(s Scope) bool { return s.Verb == Pull || s.Verb == Push })
	})
}

// Judge returns nil when the identity may do it, else a *registry.Error:
// Unauthorized for nobody in particular, who may sign in, Denied for others.
//
// There is no grant for pushing to or deleting from production. Who may change
// anything of the same project is let through to the rule that refuses everybody
// (package registry), so that its reason reaches the client and the refusal the
// audit log. Nobody else gets so far: strangers cannot fill the log.
func (g Grants) Judge(id Identity, v Verb, repository string) error {
	if g.Allows(id, v, repository) {
		return nil
	}
	if class, home := catalog.Of(repository); class == catalog.Production && (v == Push || v == Delete) && g.changes(id, home) {
		return nil
	}
	what := string(v)
	switch v {
	case Audit:
		what = "read the audit log"
	case Operate:
		what = "operate the server"
	case Pull:
		what = "pull from " + cmp.Or(repository, "any repository")
	case Push:
		what = "push to " + repository
	case Delete:
		what = "delete from " + repository
	default:
		what += " in " + repository
	}
	if id.Anonymous() {
		return &registry.Error{Code: registry.Unauthorized, Message: "sign in to " + what,
			Remedy: "send a user name and password, or a token"}
	}
	return &registry.Error{Code: registry.Denied, Message: fmt.Sprintf("%s may not %s", id, what),
		Remedy: fmt.Sprintf("ask the operator for the scope %s", g.wanted(v, repository))}
}

// changes tells whether the identity may change anything of a project.
func (g Grants) changes(id Identity, home string) bool {
	for _, v := range []Verb{Push, Delete} {
		for _, below := range []string{"/dev", "/candidate"} {
			if g.Allows(id, v, home+below) {
				return true
			}
		}
	}
	for _, v := range []Verb{Release, Revoke, RollBack, Erase} {
		if g.Allows(id, v, home) {
			return true
		}
	}
	return false
}

// wanted is the scope that would have allowed it.
func (g Grants) wanted(v Verb, repository string) Scope {
	class, _ := catalog.Of(repository)
	switch s := (Scope{v, class.String()}); {
	case scopes[s]:
		return s
	case v == Push || v == Delete: // of production: the way that there is
		return Scope{Verb: Release}
	}
	return Scope{Verb: v}
}

// pattern is a repository pattern, cut at its slashes.
type pattern []string

func parsePattern(s string) (pattern, error) {
	p := pattern(strings.Split(s, "/"))
	for _, part := range p {
		plain := strings.ReplaceAll(part, "*", "x")
		if part == "" || part != "**" && (strings.Contains(part, "**") || !catalog.ValidName(plain)) {
			return nil, fmt.Errorf("repository pattern %q: want a name without a host, tag or digest, with * for letters of one part and ** for any parts", s)
		}
	}
	// A pattern that ends in a catalog's own part would match nothing, since
	// patterns are of projects, and a grant that never applies surprises later.
	if class, home := catalog.Of(strings.ReplaceAll(s, "*", "x")); class != catalog.Production {
		return nil, fmt.Errorf("repository pattern %q: want the production repository, %q; the scope says which catalog", s, strings.Join(p[:strings.Count(home, "/")+1], "/"))
	}
	return p, nil
}

func (p pattern) matches(repository string) bool {
	return project.WildcardParts(p, strings.Split(repository, "/"))
}
