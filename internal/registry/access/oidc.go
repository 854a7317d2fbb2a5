package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"twinhull.dev/twinhull/internal/project"
)

// Issuer is somebody whose OIDC tokens are believed.
type Issuer struct {
	Name      string   // in grants: oidc:NAME/IDENTITY
	URL       string   // the iss claim, to the letter
	Audiences []string // of which the token must be for one; at least one

	// Algorithms that a signature may have; nil: RS256, ES256 and EdDSA. Symmetric
	// ones and "none" cannot be allowed.
	Algorithms []string

	// Identities are those whom its tokens can be about. A token is each of them
	// whose claims it has, and must be one.
	Identities []Claims

	// Keys gives the issuer's public keys.
	Keys KeySource
}

// Claims is an identity: what a token's claims must say. All must match.
type Claims struct {
	Name string

	// Match is a pattern for each claim (project.Wildcard: * stands for any
	// letters). Of a claim that is a list one element must match. At least one
	// pattern must be more than a *.
	Match map[string]string
}

// KeySource gives the keys that may have signed a token.
type KeySource interface {
	// Keys returns the keys with an identifier; all keys for "". It refreshes what
	// it has when the identifier is not known, within its bounds.
	Keys(ctx context.Context, id string) ([]jose.JSONWebKey, error)
}

// Leeway is how far the clocks of issuers may be from ours.
const Leeway = 30 * time.Second

// maxToken bounds a token in bytes; headers are bounded by the server besides.
const maxToken = 16 << 10

// Algorithms that can be allowed, the first three by default.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.ES256, jose.EdDSA,
	jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES384, jose.ES512,
}

// AlgorithmNames lists the algorithms that can be allowed.
func AlgorithmNames() (out []string) {
	for _, a := range algorithms {
		out = append(out, string(a))
	}
	return out
}

type issuer struct {
	Issuer
	algorithms []jose.SignatureAlgorithm
}

func newIssuer(i Issuer) (*issuer, error) {
	fail := func(format string, a ...any) (*issuer, error) {
		return nil, fmt.Errorf("issuer %s: %s", i.Name, fmt.Sprintf(format, a...))
	}
	out := &issuer{Issuer: i, algorithms: algorithms[:3]}
	switch {
	case i.Name == "" || strings.ContainsAny(i.Name, "/: "):
		return nil, fmt.Errorf("%q cannot name an issuer", i.Name)
	case i.URL == "":
		return fail("has no URL")
	case len(i.Audiences) == 0 || slices.Contains(i.Audiences, ""):
		return fail("has no audience: a token for another service would be taken")
	case len(i.Identities) == 0:
		return fail("names nobody")
	case i.Keys == nil:
		return fail("has no keys")
	}
	if i.Algorithms != nil {
		out.algorithms = nil
		for _, name := range i.Algorithms {
			if !slices.Contains(algorithms, jose.SignatureAlgorithm(name)) {
				return fail("algorithm %q: want one of %s", name, strings.Join(AlgorithmNames(), ", "))
			}
			out.algorithms = append(out.algorithms, jose.SignatureAlgorithm(name))
		}
	}
	names := map[string]bool{}
	for _, c := range i.Identities {
		if c.Name == "" || names[c.Name] {
			return fail("two identities are called %q", c.Name)
		}
		names[c.Name] = true
		tells := false
		for _, p := range c.Match {
			tells = tells || strings.Trim(p, "*") != ""
		}
		if !tells {
			return fail("identity %s is everybody: want a pattern that says more than *", c.Name)
		}
	}
	return out, nil
}

// errToken is what a client learns about a token that is not taken; what was
// wrong is for the server's log.
var errToken = errors.New("the token is not valid here")

// issuerOf reads the iss claim without believing it, to know whose keys to ask.
func issuerOf(token string) (string, error) {
	all := make([]jose.SignatureAlgorithm, len(algorithms))
	copy(all, algorithms)
	t, err := jwt.ParseSigned(token, all)
	if err != nil {
		return "", err
	}
	var c jwt.Claims
	if err := t.UnsafeClaimsWithoutVerification(&c); err != nil {
		return "", err
	}
	return c.Issuer, nil
}

// verify returns the subject and the names of the identities that the token is.
func (i *issuer) verify(ctx context.Context, token string, now time.Time) (subject string, names []string, err error) {
	t, err := jwt.ParseSigned(token, i.algorithms)
	if err != nil {
		return "", nil, err
	}
	if len(t.Headers) != 1 {
		return "", nil, errors.New("want one signature")
	}
	h := t.Headers[0]
	keys, err := i.Keys.Keys(ctx, h.KeyID)
	if err != nil {
		return "", nil, err
	}
	var std jwt.Claims
	var all map[string]any
	err = fmt.Errorf("no key of the issuer has the identifier %q", h.KeyID)
	for _, k := range keys {
		if k.Use == "enc" || k.Algorithm != "" && k.Algorithm != h.Algorithm {
			continue
		}
		if err = t.Claims(k.Key, &std, &all); err == nil {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	// The library skips what is not there: a token without an end is one for ever.
	if std.Expiry == nil {
		return "", nil, errors.New("the token does not say when it expires")
	}
	if std.Subject == "" {
		return "", nil, errors.New("the token has no subject")
	}
	if err := std.ValidateWithLeeway(jwt.Expected{Issuer: i.URL, AnyAudience: i.Audiences, Time: now}, Leeway); err != nil {
		return "", nil, err
	}
	for _, c := range i.Identities {
		if c.matches(all) {
			names = append(names, "oidc:"+i.Name+"/"+c.Name)
		}
	}
	if len(names) == 0 {
		return "", nil, fmt.Errorf("subject %q is none of the identities of issuer %s", std.Subject, i.Name)
	}
	return std.Subject, names, nil
}

func (c Claims) matches(all map[string]any) bool {
	for name, pattern := range c.Match {
		v, ok := all[name]
		if !ok || !claimMatches(pattern, v) {
			return false
		}
	}
	return len(c.Match) > 0
}

func claimMatches(pattern string, v any) bool {
	switch v := v.(type) {
	case string:
		return project.Wildcard(pattern, v)
	case bool:
		return pattern == strconv.FormatBool(v)
	case float64:
		return pattern == strconv.FormatFloat(v, 'f', -1, 64)
	case json.Number:
		return pattern == v.String()
	case []any:
		return slices.ContainsFunc(v, func(e any) bool {
			_, list := e.([]any)
			return !list && claimMatches(pattern, e)
		})
	}
	return false
}
