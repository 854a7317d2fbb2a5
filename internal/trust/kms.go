package trust

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// IsKMS tells whether a key reference names a key of a key management service
// ("awskms://…", "hashivault://…") and not a file.
func IsKMS(ref string) bool {
	scheme, _, ok := strings.Cut(ref, "://")
	return ok && scheme != "" && scheme != "file"
}

// OpenKMS opens a key that never leaves a key management service. The providers
// are sigstore's, as separate programs: "awskms://…" is served by a program
// sigstore-kms-awskms on the PATH (sigstore's KMS plugin protocol v1). Linked in,
// the four providers would add some 600 packages, and each release of a cloud's
// library, to a program that must be trusted whole.
func OpenKMS(ctx context.Context, ref string) (Signer, error) {
	k, err := kms.Get(ctx, ref, crypto.SHA256)
	if err != nil {
		scheme, _, _ := strings.Cut(ref, "://")
		if _, missing := errors.AsType[*kms.ProviderNotFoundError](err); missing {
			return nil, fmt.Errorf("key %s: no program sigstore-kms-%s on the PATH\nhint: install sigstore's KMS plugin for it", ref, scheme)
		}
		return nil, fmt.Errorf("key %s: %w", ref, err)
	}
	public, err := k.PublicKey(options.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", ref, err)
	}
	if err := checkPublic(public); err != nil {
		return nil, fmt.Errorf("key %s: %w", ref, err)
	}
	return kmsSigner{ref, k, public}, nil
}

type kmsSigner struct {
	ref    string
	k      kms.SignerVerifier
	public crypto.PublicKey
}

func (s kmsSigner) PublicKey() crypto.PublicKey { return s.public }

func (s kmsSigner) Sign(ctx context.Context, message []byte) ([]byte, error) {
	sig, err := s.k.SignMessage(bytes.NewReader(message), options.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", s.ref, err)
	}
	return sig, nil
}
