package trust

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"twinhull.dev/twinhull/internal/oci"
)

// roots are the anchors of a Sigstore deployment, from a file: nothing here
// uses a network, and nothing updates them but the one who changes the file.
type roots struct {
	verifier *verify.Verifier
}

// readRoots reads a trusted root file. What the file names is demanded of every
// claim: an entry in its transparency log when it has one, a signed certificate
// timestamp when it has a certificate log; and always a time that somebody else
// than the signer vouches for, without which a short-lived certificate proves
// nothing.
func readRoots(data []byte) (_ *roots, err error) {
	defer func() {
		// The parser is large and others wrote it: should it panic, the file is
		// refused instead of the program ended.
		if r := recover(); r != nil {
			err = fmt.Errorf("trusted root: cannot be read: %v", r)
		}
	}()
	r, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	if len(r.FulcioCertificateAuthorities()) == 0 {
		return nil, errors.New("trusted root: names no certificate authority")
	}
	options := []verify.VerifierOption{verify.WithObserverTimestamps(1), verify.WithoutStatementPredicate()}
	switch logs, stamps := len(r.RekorLogs()), len(r.TimestampingAuthorities()); {
	case logs == 0 && stamps == 0:
		return nil, errors.New("trusted root: names neither a transparency log nor a timestamp authority: the time of a signature could not be told")
	case logs > 0:
		options = append(options, verify.WithTransparencyLog(1))
	}
	if len(r.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	v, err := verify.NewVerifier(r, options...)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	return &roots{v}, nil
}

// keylessResult is what a certificate proved.
type keylessResult struct {
	subject, issuer string
	signed          time.Time // the earliest time that somebody else vouches for
}

// verifyKeyless checks a bundle that parseBundle took: certificate chain, logs,
// times, signature, subject digest and identity.
func (id *identity) verifyKeyless(data []byte, subject oci.Digest) (_ keylessResult, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be verified: %v", r)
		}
	}()
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(data); err != nil {
		return keylessResult{}, err
	}
	raw, err := hex.DecodeString(subject.Encoded())
	if err != nil {
		return keylessResult{}, err
	}
	who, err := verify.NewShortCertificateIdentity(id.issuer, "", "", subjectRegexp(id.subject))
	if err != nil {
		return keylessResult{}, err
	}
	res, err := id.roots.verifier.Verify(b, verify.NewPolicy(verify.WithArtifactDigest(subject.Algorithm().String(), raw), verify.WithCertificateIdentity(who)))
	if err != nil {
		return keylessResult{}, err
	}
	if res.Signature == nil || res.Signature.Certificate == nil || len(res.VerifiedTimestamps) == 0 {
		return keylessResult{}, errors.New("verified neither a certificate nor a time")
	}
	out := keylessResult{subject: res.Signature.Certificate.SubjectAlternativeName, issuer: res.Signature.Certificate.Issuer}
	for _, t := range res.VerifiedTimestamps {
		if out.signed.IsZero() || t.Timestamp.Before(out.signed) {
			out.signed = t.Timestamp
		}
	}
	return out, nil
}

// subjectRegexp turns a pattern (* up to the next slash, ** anything) into an
// anchored regular expression.
func subjectRegexp(p string) string {
	var b strings.Builder
	b.WriteString("^")
	for p != "" {
		switch {
		case strings.HasPrefix(p, "**"):
			b.WriteString(".*")
			p = p[2:]
		case p[0] == '*':
			b.WriteString("[^/]*")
			p = p[1:]
		default:
			i := strings.IndexByte(p, '*')
			if i < 0 {
				i = len(p)
			}
			b.WriteString(regexp.QuoteMeta(p[:i]))
			p = p[i:]
		}
	}
	b.WriteString("$")
	return b.String()
}
