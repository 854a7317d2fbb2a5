// Package client is the other end of the release service's interface over HTTP.
//
// It uses the credentials that the other commands use for registries (the
// configuration of Docker or Podman) and, like them, speaks without TLS to a
// loopback address only, when the server there has no certificate. What the requests and answers mean is in package
// release.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/release"
)

// Client speaks to one server. Its methods return a *release.Problem for what the
// server refuses, ErrNoService when nothing there knows the interface, and other
// errors when it could not be reached.
type Client struct {
	host      string
	keys      authn.Keychain
	transport http.RoundTripper
	asked     sync.Once
	scheme    string // once asked
}

// ErrNoService is matched when the host is no server of this program: another
// registry.
var ErrNoService = errors.New("no release service there")

// Options says how to speak. The zero value is ready.
type Options struct {
	Keychain  authn.Keychain    // nil: the usual Docker configuration
	Transport http.RoundTripper // nil: http.DefaultTransport
}

// New makes a client of the server at a registry's host.
func New(host string, opt Options) (*Client, error) {
	ref, err := oci.ParseRef(host + "/x")
	if err != nil || ref.Host != host {
		return nil, fmt.Errorf("%q is no registry's host", host)
	}
	c := &Client{host: host, keys: opt.Keychain, transport: opt.Transport}
	if c.keys == nil {
		c.keys = authn.DefaultKeychain
	}
	if c.transport == nil {
		c.transport = http.DefaultTransport
	}
	return c, nil
}

// maxAnswer bounds an answer, in bytes: a verdict lists every reason of every
// image.
const maxAnswer = 64 << 20

func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	c.asked.Do(func() { c.scheme = image.RegistryScheme(ctx, c.host, c.transport) })
	u := c.scheme + "://" + c.host + release.Prefix + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "twinhull")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := c.authorize(req); err != nil {
		return err
	}
	// Credentials go nowhere else, and an answer comes from where it was asked.
	client := &http.Client{Transport: c.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, u, err)
	}
	if len(raw) > maxAnswer {
		return fmt.Errorf("%s %s: an answer of more than %d bytes", method, u, maxAnswer)
	}
	if res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(raw, out); err != nil {
			return fmt.Errorf("%s: %w: %w", u, ErrNoService, err)
		}
		return nil
	}
	p := &release.Problem{Status: res.StatusCode}
	if err := json.Unmarshal(raw, p); err != nil || p.Message == "" {
		if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests {
			return fmt.Errorf("%s answers %s", u, res.Status)
		}
		return fmt.Errorf("%s answers %s: %w", u, res.Status, ErrNoService)
	}
	return p
}

func (c *Client) authorize(req *http.Request) error {
	r, err := name.NewRegistry(c.host)
	if err != nil {
		return err
	}
	a, err := authn.Resolve(req.Context(), c.keys, r)
	if err != nil {
		return err
	}
	cfg, err := authn.Authorization(req.Context(), a)
	if err != nil {
		return err
	}
	switch {
	case cfg.RegistryToken != "":
		req.Header.Set("Authorization", "Bearer "+cfg.RegistryToken)
	case cfg.Username != "" || cfg.Password != "":
		req.SetBasicAuth(cfg.Username, cfg.Password)
	case cfg.Auth != "":
		req.Header.Set("Authorization", "Basic "+cfg.Auth)
	}
	return nil
}

// patience is how often what could not be decided is asked again with the same
// request id, and how long apart.
const (
	patience = 3
	pause    = 500 * time.Millisecond
)

// repeat asks again when the server said that it could not decide now, or when
// the connection broke: the request's id makes that safe.
func repeat(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if err == nil || n == patience || ctx.Err() != nil || errors.Is(err, ErrNoService) {
			return err
		}
		if p, ok := errors.AsType[*release.Problem](err); ok && p.Status != http.StatusServiceUnavailable {
			return err
		}
		select {
		case <-time.After(pause << n):
		case <-ctx.Done():
			return err
		}
	}
}

// Release releases. Request.ID must be set, so that it can be repeated.
func (c *Client) Release(ctx context.Context, q release.Request) (*release.Answer, error) {
	out := new(release.Answer)
	return out, repeat(ctx, func() error { return c.do(ctx, http.MethodPost, "release", nil, q, out) })
}

// Judge asks for the verdict.
func (c *Client) Judge(ctx context.Context, q release.JudgeRequest) (*gate.Results, error) {
	out := new(gate.Results)
	return out, c.do(ctx, http.MethodPost, "judge", nil, q, out)
}

// Revoke revokes.
func (c *Client) Revoke(ctx context.Context, q release.RevokeRequest) (*release.Revoked, error) {
	out := new(release.Revoked)
	return out, repeat(ctx, func() error { return c.do(ctx, http.MethodPost, "revoke", nil, q, out) })
}

// RollBack carries out a signed order.
func (c *Client) RollBack(ctx context.Context, q release.OrderRequest) (*release.Answer, error) {
	out := new(release.Answer)
	return out, repeat(ctx, func() error { return c.do(ctx, http.MethodPost, "rollback", nil, q, out) })
}

// Erase carries out two signed orders.
func (c *Client) Erase(ctx context.Context, q release.OrderRequest) (*release.Answer, error) {
	out := new(release.Answer)
	return out, repeat(ctx, func() error { return c.do(ctx, http.MethodPost, "erase", nil, q, out) })
}

// Pin pins or unpins.
func (c *Client) Pin(ctx context.Context, q release.PinRequest) error {
	return c.do(ctx, http.MethodPost, "pin", nil, q, new(release.PinRequest))
}

// Collect collects now, or tells what is due.
func (c *Client) Collect(ctx context.Context, dryRun bool) (*registry.Collected, error) {
	out := new(registry.Collected)
	return out, c.do(ctx, http.MethodPost, "collect", nil, release.CollectRequest{DryRun: dryRun}, out)
}

// Compare compares a foreign repository with the log.
func (c *Client) Compare(ctx context.Context, to string) (*release.Comparison, error) {
	out := new(release.Comparison)
	return out, c.do(ctx, http.MethodPost, "compare", nil, release.CompareRequest{To: to}, out)
}

// Server tells what is needed to verify what the server signs.
func (c *Client) Server(ctx context.Context) (*release.Server, error) {
	out := new(release.Server)
	return out, c.do(ctx, http.MethodGet, "server", nil, nil, out)
}

// Repositories lists those that may be pulled from.
func (c *Client) Repositories(ctx context.Context) ([]string, error) {
	var out struct {
		Repositories []string `json:"repositories"`
	}
	err := c.read(ctx, "repositories", nil, &out)
	return out.Repositories, err
}

func (c *Client) read(ctx context.Context, path string, query url.Values, out any) error {
	return c.do(ctx, http.MethodGet, path, query, nil, out)
}

// Versions lists what was released, the lowest version first.
func (c *Client) Versions(ctx context.Context, repository string) ([]registry.Released, error) {
	var out struct {
		Versions []registry.Released `json:"versions"`
	}
	err := c.read(ctx, "versions", url.Values{"repository": {repository}}, &out)
	return out.Versions, err
}

// Tags lists tags with where they point.
func (c *Client) Tags(ctx context.Context, repository string) ([]registry.Tag, error) {
	var out struct {
		Tags []registry.Tag `json:"tags"`
	}
	err := c.read(ctx, "tags", url.Values{"repository": {repository}}, &out)
	return out.Tags, err
}

// History lists where a tag pointed.
func (c *Client) History(ctx context.Context, repository, tag string) ([]registry.Event, error) {
	var out struct {
		Events []registry.Event `json:"events"`
	}
	err := c.read(ctx, "history", url.Values{"repository": {repository}, "tag": {tag}}, &out)
	return out.Events, err
}

// Why tells why something is kept and when it goes.
func (c *Client) Why(ctx context.Context, repository string, d oci.Digest) (*registry.Fate, error) {
	out := new(registry.Fate)
	return out, c.read(ctx, "why", url.Values{"repository": {repository}, "digest": {string(d)}}, out)
}
