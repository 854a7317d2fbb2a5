package access

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/registry"
)

// The user names with which a client that can send only a user name and a
// password says that the password is a token.
const (
	TokenUser = "token"
	OIDCUser  = "oidc"
)

// Token is a static bearer token, known by its hash alone. It must be random: 32
// bytes of a random source, in any printable form.
type Token struct {
	Name    string // in grants: token:NAME
	SHA256  [32]byte
	Expires time.Time // zero: never
}

// Config is whom a Guard knows. It is complete before New and is not changed
// afterwards.
type Config struct {
	Users   Users
	Tokens  []Token
	Issuers []Issuer
	Grants  []Grant

	// Requests and Burst bound how often an identity, or an address without one,
	// may ask: so many requests a second, and so many at once. 0: no limit.
	Requests float64
	Burst    int

	// Proxies are the addresses whose X-Forwarded-For header is believed.
	Proxies []netip.Prefix

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // told why credentials were not taken; nil: nobody
}

// Guard knows who asks and what they may do. It may be used by many at once.
type Guard struct {
	grants    Grants
	tokens    map[[32]byte]Token
	passwords *passwords
	issuers   map[string]*issuer
	asked     *Limiter // requests
	failed    *Limiter // wrong passwords, by address
	proxies   []netip.Prefix
	now       func() time.Time
	log       *slog.Logger
}

// Wrong passwords from one address: so many at once, then one every two seconds.
const (
	failedPerSecond = 0.5
	failedBurst     = 20
)

// New checks the configuration and makes a Guard of it.
func New(c Config) (*Guard, error) {
	g := &Guard{
		tokens: map[[32]byte]Token{}, issuers: map[string]*issuer{},
		asked: NewLimiter(c.Requests, c.Burst), failed: NewLimiter(failedPerSecond, failedBurst),
		proxies: c.Proxies, now: c.Now, log: c.Logger,
	}
	if g.now == nil {
		g.now = time.Now
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if g.grants, err = Compile(c.Grants); err != nil {
		return nil, err
	}
	if g.passwords, err = newPasswords(c.Users, g.now); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, t := range c.Tokens {
		if t.Name == "" || names[t.Name] {
			return nil, fmt.Errorf("two tokens are called %q", t.Name)
		}
		names[t.Name] = true
		if other, twice := g.tokens[t.SHA256]; twice {
			return nil, fmt.Errorf("tokens %s and %s are the same", other.Name, t.Name)
		}
		if t.SHA256 == sha256.Sum256(nil) || t.SHA256 == ([32]byte{}) {
			return nil, fmt.Errorf("token %s: the hash is of nothing", t.Name)
		}
		g.tokens[t.SHA256] = t
	}
	for _, i := range c.Issuers {
		one, err := newIssuer(i)
		if err != nil {
			return nil, err
		}
		if g.issuers[i.URL] != nil {
			return nil, fmt.Errorf("two issuers have the URL %s", i.URL)
		}
		for _, other := range g.issuers {
			if other.Name == i.Name {
				return nil, fmt.Errorf("two issuers are called %s", i.Name)
			}
		}
		g.issuers[i.URL] = one
	}
	return g, nil
}

// Judge is Grants.Judge for the configured grants.
func (g *Guard) Judge(id Identity, v Verb, repository string) error {
	return g.grants.Judge(id, v, repository)
}

// Reads is Grants.Reads for the configured grants.
func (g *Guard) Reads(id Identity) bool { return g.grants.Reads(id) }

// Knows tells whether there is anybody who could sign in.
func (g *Guard) Knows() bool {
	return len(g.passwords.users)+len(g.tokens)+len(g.issuers) > 0
}

// Identify says who sent the request, from its Authorization header and address.
// Credentials that are wrong are an error, never nobody in particular: a client
// that sends some believes that they count. The error is a *registry.Error with
// Unauthorized or TooManyRequests.
func (g *Guard) Identify(r *http.Request) (Identity, error) {
	from := Source(g.Address(r))
	id, err := g.identify(r.Context(), r.Header.Values("Authorization"), from)
	if err != nil {
		return Identity{}, err
	}
	who := from
	if !id.Anonymous() {
		who = id.String() + " " + id.Actor.Issuer
	}
	if !g.asked.Allow(who, g.now()) {
		return Identity{}, &registry.Error{Code: registry.TooManyRequests, Message: "too many requests", Remedy: "wait a second and go on"}
	}
	return id, nil
}

// Address is where the request came from: the last address before the trusted
// proxies.
func (g *Guard) Address(r *http.Request) netip.Addr {
	at := parseAddress(r.RemoteAddr)
	var hops []string
	for _, h := range r.Header.Values("X-Forwarded-For") {
		hops = append(hops, strings.Split(h, ",")...)
	}
	// From the right: each proxy appends whom it heard from; what is left of the
	// last trusted one was written by a stranger.
	for i := len(hops) - 1; i >= 0 && g.trusted(at); i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = a.Unmap()
	}
	return at
}

func (g *Guard) trusted(a netip.Addr) bool {
	for _, p := range g.proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func parseAddress(s string) netip.Addr {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	a, _ := netip.ParseAddr(s) // the zero address for a socket that has none
	return a.Unmap()
}

func unauthorized(why error) error {
	return &registry.Error{Code: registry.Unauthorized, Message: why.Error(), Remedy: "sign in again, or send no credentials"}
}

func (g *Guard) identify(ctx context.Context, headers []string, from string) (Identity, error) {
	if len(headers) == 0 {
		return Identity{}, nil
	}
	if len(headers) > 1 {
		return Identity{}, unauthorized(errors.New("want one Authorization header"))
	}
	scheme, rest, _ := strings.Cut(headers[0], " ")
	rest = strings.TrimLeft(rest, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return g.bearer(ctx, rest, from)
	case strings.EqualFold(scheme, "Basic"):
		raw, err := base64.StdEncoding.DecodeString(rest)
		user, password, ok := strings.Cut(string(raw), ":")
		if err != nil || !ok {
			return Identity{}, unauthorized(errors.New("the Authorization header cannot be read"))
		}
		switch {
		case user == "" && password == "":
			return Identity{}, nil // how some clients say that they have none
		case user == TokenUser, user == OIDCUser:
			return g.bearer(ctx, password, from)
		}
		return g.password(ctx, user, password, from)
	}
	return Identity{}, unauthorized(fmt.Errorf("cannot sign in with %.20q: want Basic or Bearer", scheme))
}

func (g *Guard) password(ctx context.Context, user, password, from string) (Identity, error) {
	ok := g.passwords.remembered(user, password)
	if !ok {
		if !g.failed.Left(from, g.now()) {
			return Identity{}, &registry.Error{Code: registry.TooManyRequests, Message: "too many wrong passwords from " + from, Remedy: "wait a few seconds"}
		}
		switch err := g.passwords.verify(ctx, user, password); {
		case errors.Is(err, errPassword):
			g.failed.Allow(from, g.now())
			g.log.WarnContext(ctx, "sign-in refused", "method", "password", "user", clip(user), "from", from)
			return Identity{}, unauthorized(err)
		case errors.Is(err, errBusy):
			return Identity{}, &registry.Error{Code: registry.TooManyRequests, Message: err.Error()}
		case err != nil:
			return Identity{}, err
		}
	}
	return Identity{Actor: audit.Actor{Name: user, Method: "password"}, subjects: []string{"user:" + user}}, nil
}

func (g *Guard) bearer(ctx context.Context, token, from string) (Identity, error) {
	refuse := func(why error) (Identity, error) {
		g.log.WarnContext(ctx, "sign-in refused", "method", "token", "reason", why.Error(), "from", from)
		return Identity{}, unauthorized(errToken)
	}
	if len(token) > maxToken {
		return refuse(fmt.Errorf("%d bytes", len(token)))
	}
	// The hash of a random token may be looked up: to learn from the time it takes
	// one would have to find a token with a chosen hash.
	if t, ok := g.tokens[sha256.Sum256([]byte(token))]; ok {
		if !t.Expires.IsZero() && !g.now().Before(t.Expires) {
			return refuse(fmt.Errorf("token %s has expired", t.Name))
		}
		return Identity{Actor: audit.Actor{Name: t.Name, Method: "token"}, subjects: []string{"token:" + t.Name}}, nil
	}
	if len(g.issuers) == 0 || strings.Count(token, ".") != 2 {
		return refuse(errors.New("unknown token"))
	}
	iss, err := issuerOf(token)
	if err != nil {
		return refuse(err)
	}
	i := g.issuers[iss]
	if i == nil {
		return refuse(fmt.Errorf("nobody believes the issuer %q", clip(iss)))
	}
	subject, names, err := i.verify(ctx, token, g.now())
	if err != nil {
		return refuse(err)
	}
	return Identity{Actor: audit.Actor{Name: subject, Method: "oidc", Issuer: iss}, subjects: names}, nil
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
