package image

import (
	"context"
	"net/http"

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
