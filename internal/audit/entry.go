package audit

import (
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// EntryType is the version of the form of an Entry.
const EntryType = "https://twinhull.dev/audit/entry/v1"

// Action is what was decided.
type Action string

// The actions. A reader must accept others: later versions add some.
const (
	Release      Action = "release"       // a candidate became a version
	Revoke       Action = "revoke"        // a digest is not to be admitted from now on
	RollBack     Action = "roll-back"     // convenience tags were moved backwards by a signed order
	RefuseDelete Action = "refuse-delete" // somebody tried to delete or overwrite what is permanent
	RefuseWrite  Action = "refuse-write"  // somebody tried to get something into production by another way than a release
	Erase        Action = "erase"         // content was erased by two keys, for a legal reason; a tombstone stays
	Collect      Action = "collect"       // what nobody needs any more was deleted
	PolicyChange Action = "policy-change" // the server runs with another policy, trust policy or configuration
	KeyChange    Action = "key-change"    // the server signs with another key
	Diverge      Action = "diverge"       // a foreign registry has something else than was released to it
	Admit        Action = "admit"         // an image was admitted to a cluster or node, or was not
)

// The verdicts of an Entry.
const (
	Allowed = "allowed"
	Refused = "refused"
)

// Entry is one decision as the log keeps it, as canonical JSON (RFC 8785).
// Whatever is large is named by its digest.
type Entry struct {
	Type    string `json:"type"` // EntryType
	ID      string `json:"id"`   // of the request; whoever repeats a request repeats its ID
	Time    string `json:"time"` // RFC 3339, UTC, by the server's clock
	Action  Action `json:"action"`
	Actor   Actor  `json:"actor"`
	Object  Object `json:"object"`
	Verdict string `json:"verdict"` // "allowed" or "refused"

	Reasons  []string     `json:"reasons,omitempty"`  // of a refusal, or given by the actor
	Moves    []Move       `json:"moves,omitempty"`    // tags that the decision moves
	Digests  []oci.Digest `json:"digests,omitempty"`  // every manifest that the decision is about
	Claims   []oci.Digest `json:"claims,omitempty"`   // verified claims that it stands on
	Summary  oci.Digest   `json:"summary,omitempty"`  // the signed verification summary (its bundle)
	Policy   oci.Digest   `json:"policy,omitempty"`   // the policy in force
	Trust    oci.Digest   `json:"trust,omitempty"`    // the trust policy in force
	Database oci.Digest   `json:"database,omitempty"` // the vulnerability database that was asked

	Detail map[string]string `json:"detail,omitempty"` // what one action has besides
}

// Actor is who asked.
type Actor struct {
	Name   string `json:"name"`             // as authenticated: user, token name, OIDC subject; "server" for its own acts
	Method string `json:"method,omitempty"` // password, token, oidc, server
	Issuer string `json:"issuer,omitempty"` // of an OIDC token
}

// Object is what the decision is about.
type Object struct {
	Repository string     `json:"repository,omitempty"` // without a host; with one for a foreign registry
	Tag        string     `json:"tag,omitempty"`
	Digest     oci.Digest `json:"digest,omitempty"`
}

// Move is a tag that points elsewhere; From is "" for a new one, To for one that
// is gone because the only image that it could point to was erased.
type Move struct {
	Tag  string     `json:"tag"`
	From oci.Digest `json:"from,omitempty"`
	To   oci.Digest `json:"to,omitempty"`
}

// Timestamp writes a time as entries hold it.
func Timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
