package trust

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
)

// BundleType is the media type of the only bundle format that is written and
// read (sigstore protobuf-specs, sigstore_bundle.proto, version 0.3).
const BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// MaxBundle is the largest bundle that is read, in bytes.
const MaxBundle = strictjson.MaxSize

// The bundle as JSON. Only the names of this spelling are taken: protobuf's
// JSON mapping would also take snake_case ones, and two readers could then see
// two bundles.
type wireBundle struct {
	MediaType            string          `json:"mediaType"`
	VerificationMaterial wireMaterial    `json:"verificationMaterial"`
	DSSEEnvelope         *wireEnvelope   `json:"dsseEnvelope,omitempty"`
	MessageSignature     json.RawMessage `json:"messageSignature,omitempty"`
}

type wireMaterial struct {
	PublicKey   *wireHint        `json:"publicKey,omitempty"`
	Certificate *wireCertificate `json:"certificate,omitempty"`
	Chain       json.RawMessage  `json:"x509CertificateChain,omitempty"`
	TlogEntries json.RawMessage  `json:"tlogEntries,omitempty"`
	Timestamps  json.RawMessage  `json:"timestampVerificationData,omitempty"`
}

type wireHint struct {
	Hint string `json:"hint,omitempty"`
}

type wireCertificate struct {
	RawBytes string `json:"rawBytes"`
}

type wireEnvelope struct {
	Payload     string          `json:"payload"`
	PayloadType string          `json:"payloadType"`
	Signatures  []wireSignature `json:"signatures"`
}

type wireSignature struct {
	Sig   string `json:"sig"`
	KeyID string `json:"keyid,omitempty"`
}

// pae is what a DSSE signature is over (DSSE v1.0.2, "Pre-Authentication
// Encoding").
func pae(payloadType string, payload []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload))
	b.Write(payload)
	return b.Bytes()
}

// Sign returns a bundle over a statement (evidence.New). The signature is
// checked with the public key before it is returned: a service that signs with
// another key than it names must not leave claims that nobody can open.
func Sign(ctx context.Context, statement []byte, s Signer) ([]byte, error) {
	if _, err := evidence.Parse(statement); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	id, err := KeyID(s.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	message := pae(evidence.PayloadType, statement)
	sig, err := s.Sign(ctx, message)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if !verifySignature(s.PublicKey(), message, sig) {
		return nil, errors.New("sign: the signature does not fit the public key")
	}
	b, err := evidence.Encode(wireBundle{
		MediaType:            BundleType,
		VerificationMaterial: wireMaterial{PublicKey: &wireHint{id}},
		DSSEEnvelope: &wireEnvelope{
			Payload: base64.StdEncoding.EncodeToString(statement), PayloadType: evidence.PayloadType,
			Signatures: []wireSignature{{Sig: base64.StdEncoding.EncodeToString(sig)}},
		},
	})
	if err != nil {
		return nil, err
	}
	if len(b) > MaxBundle {
		return nil, fmt.Errorf("sign: the claim has %d bytes, at most %d are read: refer to the document instead of including it", len(b), MaxBundle)
	}
	return b, nil
}

// envelope is a bundle whose form is right and whose signature nobody has
// checked. It never leaves the package.
type envelope struct {
	payload     []byte
	message     []byte // what the signature is over
	sig         []byte
	hint        string
	certificate bool // signed with a certificate instead of a named key
}

// parseBundle reads a bundle and checks everything that needs no key.
func parseBundle(data []byte) (*envelope, error) {
	if len(data) > MaxBundle {
		return nil, fmt.Errorf("bundle of %d bytes: at most %d are read", len(data), MaxBundle)
	}
	var w wireBundle
	err := strictjson.Unmarshal(data, &w)
	if err != nil {
		// What another version calls unknown or missing is best called another
		// version.
		var head struct {
			MediaType string `json:"mediaType"`
		}
		if strictjson.UnmarshalOpen(data, &head) == nil && head.MediaType != BundleType {
			w.MediaType, err = head.MediaType, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if w.MediaType != BundleType {
		return nil, fmt.Errorf("bundle has media type %q: only %q is read", clip(w.MediaType), BundleType)
	}
	switch m := w.VerificationMaterial; {
	case len(w.MessageSignature) > 0:
		return nil, errors.New("bundle holds a bare signature, want a DSSE envelope and nothing else")
	case w.DSSEEnvelope == nil:
		return nil, errors.New("bundle holds no DSSE envelope")
	case len(m.Chain) > 0:
		return nil, errors.New("bundle holds a certificate chain, which version 0.3 does not allow")
	case (m.PublicKey == nil) == (m.Certificate == nil):
		return nil, errors.New("bundle must name either a public key or a certificate")
	}
	e := w.DSSEEnvelope
	if e.PayloadType != evidence.PayloadType {
		return nil, fmt.Errorf("payload type %q, want %q", clip(e.PayloadType), evidence.PayloadType)
	}
	if len(e.Signatures) != 1 {
		return nil, fmt.Errorf("%d signatures, want exactly one", len(e.Signatures))
	}
	payload, err := decode64(e.Payload)
	if err != nil || len(payload) == 0 {
		return nil, fmt.Errorf("payload is not base64: %v", err)
	}
	sig, err := decode64(e.Signatures[0].Sig)
	if err != nil || len(sig) == 0 {
		return nil, fmt.Errorf("signature is not base64: %v", err)
	}
	out := &envelope{payload: payload, message: pae(e.PayloadType, payload), sig: sig, certificate: w.VerificationMaterial.Certificate != nil}
	if k := w.VerificationMaterial.PublicKey; k != nil {
		out.hint = k.Hint
	}
	return out, nil
}

// decode64 takes canonical standard base64 only: one text for the same bytes.
func decode64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil && base64.StdEncoding.EncodeToString(b) != s {
		err = errors.New("not in canonical form")
	}
	return b, err
}
