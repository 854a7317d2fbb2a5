package access

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// Bounds of what an issuer's server may send and how often it is asked.
const (
	maxKeySet    = 1 << 20          // bytes
	maxKeys      = 100              // in a set
	refreshAfter = time.Hour        // so that a key that was taken back is forgotten
	staleAfter   = 24 * time.Hour   // without an answer all this time nobody is believed
	retryAfter   = 15 * time.Second // at the least between two questions, whatever tokens name
	fetchTimeout = 10 * time.Second
)

// FixedKeys are keys that were read once, from a file.
type FixedKeys struct{ set jose.JSONWebKeySet }

// ReadKeys reads a JSON Web Key Set (RFC 7517). Keys that no token may be
// verified with are left out; none left is an error.
func ReadKeys(data []byte) (FixedKeys, error) {
	if len(data) > maxKeySet {
		return FixedKeys{}, fmt.Errorf("key set: %d bytes: at most %d are read", len(data), maxKeySet)
	}
	// Each key by itself: a set may hold kinds of keys that the library does not
	// know, which must not make the others unusable (RFC 7517, 5).
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return FixedKeys{}, fmt.Errorf("key set: %w", err)
	}
	if len(raw.Keys) > maxKeys {
		return FixedKeys{}, fmt.Errorf("key set: %d keys: at most %d are read", len(raw.Keys), maxKeys)
	}
	var out FixedKeys
	for _, r := range raw.Keys {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(r); err != nil || !k.Valid() || !k.IsPublic() || k.Use == "enc" {
			continue // a private or symmetric key in a public set is nobody's to trust
		}
		if r, ok := k.Key.(*rsa.PublicKey); ok && r.N.BitLen() < 2048 {
			continue
		}
		out.set.Keys = append(out.set.Keys, k)
	}
	if len(out.set.Keys) == 0 {
		return FixedKeys{}, errors.New("key set: no public key that can verify a token")
	}
	return out, nil
}

// Keys implements KeySource.
func (f FixedKeys) Keys(_ context.Context, id string) ([]jose.JSONWebKey, error) {
	if id == "" {
		return f.set.Keys, nil
	}
	return f.set.Key(id), nil
}

// RemoteKeys are keys that a server has: of the issuer's discovery document
// (OpenID Connect Discovery 1.0, 4), or of a URL.
//
// The set is asked for when the first token comes, again each hour, and when a
// token names a key that is not in it, at most every 15 seconds. When the server
// does not answer, the keys that are here are used for a day, then none.
type RemoteKeys struct {
	Issuer string       // for discovery
	URL    string       // of the set; "" to discover it
	Client *http.Client // nil: one that refuses redirects to other hosts
	Now    func() time.Time

	fetching sync.Mutex // one question at a time
	mu       sync.Mutex
	have     FixedKeys
	fetched  time.Time // when have came
	asked    time.Time // when the server was last asked
	err      error     // what it answered
}

// ValidKeyURL refuses what could be read or changed on the way: plain HTTP but
// for this machine.
func ValidKeyURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil:
		return fmt.Errorf("%q is no URL of a server", s)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http":
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.IsLoopback() {
			return nil
		}
		return fmt.Errorf("%q: want https: whoever is on the way could put in keys of his own", s)
	}
	return fmt.Errorf("%q: want https", s)
}

// Keys implements KeySource.
func (r *RemoteKeys) Keys(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	if found, fresh := r.look(id); fresh {
		return found, nil
	}
	r.fetching.Lock()
	defer r.fetching.Unlock()
	found, fresh := r.look(id) // whoever was before us may have brought it
	if fresh {
		return found, nil
	}
	r.mu.Lock()
	now := r.Now()
	// A clock that went back must not stop us from asking.
	mayAsk := now.Sub(r.asked) >= retryAfter || now.Before(r.asked)
	err := r.err
	if mayAsk {
		r.asked = now
	}
	r.mu.Unlock()
	if mayAsk {
		// Not the request's context: a client that goes away must not leave the
		// others with a failure.
		fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		var set FixedKeys
		set, err = r.fetch(fctx)
		cancel()
		r.mu.Lock()
		r.err = err
		if err == nil {
			r.have, r.fetched = set, now
		}
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if age := now.Sub(r.fetched); r.fetched.IsZero() || age > staleAfter || age < -staleAfter {
		if err == nil {
			err = errors.New("no answer yet")
		}
		return nil, fmt.Errorf("the keys of issuer %s: %w", r.Issuer, err)
	}
	return r.have.Keys(ctx, id)
}

// look returns what is here and whether that will do.
func (r *RemoteKeys) look(id string) ([]jose.JSONWebKey, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	age := r.Now().Sub(r.fetched)
	if r.fetched.IsZero() || age > refreshAfter || age < -Leeway {
		return nil, false
	}
	found, _ := r.have.Keys(context.Background(), id)
	return found, len(found) > 0
}

func (r *RemoteKeys) fetch(ctx context.Context) (FixedKeys, error) {
	from := r.URL
	if from == "" {
		data, err := r.get(ctx, strings.TrimSuffix(r.Issuer, "/")+"/.well-known/openid-configuration")
		if err != nil {
			return FixedKeys{}, err
		}
		var doc struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(data, &doc); err != nil {
			return FixedKeys{}, fmt.Errorf("discovery document: %w", err)
		}
		if doc.Issuer != r.Issuer { // Discovery, 4.3
			return FixedKeys{}, fmt.Errorf("the discovery document is of issuer %q", doc.Issuer)
		}
		from = doc.Keys
	}
	data, err := r.get(ctx, from)
	if err != nil {
		return FixedKeys{}, err
	}
	return ReadKeys(data)
}

func (r *RemoteKeys) get(ctx context.Context, from string) ([]byte, error) {
	if err := ValidKeyURL(from); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	client := r.Client
	if client == nil {
		client = keyClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", from, resp.Status)
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && t == "text/html" {
		return nil, fmt.Errorf("%s answers with a web page", from)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet+1))
	if err == nil && len(b) > maxKeySet {
		err = fmt.Errorf("%s answers with more than %d bytes", from, maxKeySet)
	}
	return b, err
}

// keyClient follows no redirect to another host: whom we ask is configured.
var keyClient = &http.Client{
	Timeout: fetchTimeout,
	Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: fetchTimeout}).DialContext,
		TLSHandshakeTimeout:    fetchTimeout,
		ResponseHeaderTimeout:  fetchTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        time.Minute,
		MaxIdleConns:           4,
		ForceAttemptHTTP2:      true,
	},
	CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > 5 || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
			return errors.New("the server sends us elsewhere")
		}
		return nil
	},
}
