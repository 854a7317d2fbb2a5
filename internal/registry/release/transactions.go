package release

import (
	"context"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
)

// Registry is where decisions are made and what they are about is kept:
// *registry.Registry. It is wide because the interface over HTTP shows all of it;
// a release needs the first five.
type Registry interface {
	Reader
	Closure(ctx context.Context, repository string, d oci.Digest) (all, referrers []oci.Digest, err error)
	RequestDone(ctx context.Context, o registry.ReleaseOrder) (registry.Released, bool, error)
	Versions(ctx context.Context, repository string) ([]registry.Released, error)
	Release(ctx context.Context, o registry.ReleaseOrder) (registry.Released, error)

	Revoke(ctx context.Context, o registry.RevokeOrder) (registry.Revocation, error)
	RollBack(ctx context.Context, o registry.RollBackOrder) (registry.Released, error)
	Erase(ctx context.Context, o registry.EraseOrder) (registry.Tombstone, error)

	TagOf(ctx context.Context, repository, tag string) (registry.Tag, error)
	Tags(ctx context.Context, repository string, p registry.Page) (tags []string, more bool, err error)
	Repositories(ctx context.Context, p registry.Page) (names []string, more bool, err error)
	History(ctx context.Context, repository, tag string, limit int) ([]registry.Event, error)
	Why(ctx context.Context, repository string, d oci.Digest) (registry.Fate, error)
	Pin(ctx context.Context, repository, ref string, on bool, a audit.Actor) error
	Collect(ctx context.Context, dryRun bool) (registry.Collected, error)
}

var _ Registry = (*registry.Registry)(nil)
