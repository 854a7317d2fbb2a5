package image

import (
	"context"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"twinhull.dev/twinhull/internal/oci"
)

// RegistryName is a reference in the form of the registry library, for packages
// that keep other things than images in a registry. A registry on a loopback
// address is spoken to without TLS.
func RegistryName(ref oci.Ref) (name.Reference, error) { return remoteName(ref) }

// RegistryOptions are the settings with which this program speaks to a
// registry: the same credentials, and no word without TLS to another machine.
// keys and transport may be nil.
func RegistryOptions(ctx context.Context, keys authn.Keychain, transport http.RoundTripper) []remote.Option {
	return remoteOptions(ctx, keys, transport)
}

// RegistryScheme is how the server at a host is spoken to, "https" or "http",
// for interfaces beside the distribution protocol. Another machine is spoken to
// by TLS only. This one is asked, without credentials: a server there may have a
// certificate or none. A nil transport is http.DefaultTransport.
func RegistryScheme(ctx context.Context, host string, transport http.RoundTripper) string {
	if !loopback(host) {
		return "https"
	}
	if transport == nil {
		transport = http.DefaultTransport
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v2/", nil)
	if err != nil {
		return "http"
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return "http" // nobody is there, which the request itself tells
	}
	res.Body.Close()
	if res.StatusCode == http.StatusBadRequest { // what servers of TLS answer to a word without it
		return "https"
	}
	return "http"
}
