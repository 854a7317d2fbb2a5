// Package registry is what a registry keeps and the rules by which it changes:
// manifests, tags, referrers and blobs in three catalogs, releases, retention
// and collection.
//
// Every change is judged inside the transaction that makes it, by the class of
// its repository (package catalog), so that no way of asking goes around a rule.
// It speaks no HTTP (package distribution does), knows no users but by name
// (package access knows them) and judges no image (package release asks the
// gate). Where records and content are kept is package store's.
//
// # Durability
//
// What a method has returned without an error is durable. Decisions that the
// audit log must know (Release, Revoke, RollBack, Erase, collections of manifests)
// are made in three steps: an intent is recorded, the log has the entry, the
// change is made and the intent removed. New finishes what a crash left between
// the second and the third, and drops what never came to the second.
package registry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
)

// MaxManifest is the largest manifest, in bytes. Registries should take 4 MiB
// (distribution specification, "Pushing Manifests").
const MaxManifest = 4 << 20

// Manifests above largeManifest bytes are read a few at a time: they cost many
// times their size in memory.
const (
	largeManifest = 256 << 10
	largeAtOnce   = 2
)

// Code is what kind of refusal an Error is, in the words of the distribution
// specification ("Error Codes").
type Code string

// The codes.
const (
	BlobUnknown         Code = "BLOB_UNKNOWN"
	BlobUploadInvalid   Code = "BLOB_UPLOAD_INVALID"
	BlobUploadUnknown   Code = "BLOB_UPLOAD_UNKNOWN"
	DigestInvalid       Code = "DIGEST_INVALID"
	ManifestBlobUnknown Code = "MANIFEST_BLOB_UNKNOWN"
	ManifestInvalid     Code = "MANIFEST_INVALID"
	ManifestUnknown     Code = "MANIFEST_UNKNOWN"
	NameInvalid         Code = "NAME_INVALID"
	NameUnknown         Code = "NAME_UNKNOWN"
	SizeInvalid         Code = "SIZE_INVALID"
	RangeInvalid        Code = "RANGE_INVALID" // not in the specification's table: an upload's part out of order
	TagInvalid          Code = "TAG_INVALID"   // not in the table either
	Unauthorized        Code = "UNAUTHORIZED"
	Denied              Code = "DENIED"
	Unsupported         Code = "UNSUPPORTED"
	TooManyRequests     Code = "TOOMANYREQUESTS"
	Conflict            Code = "CONFLICT"    // somebody else was quicker; look and repeat
	Unavailable         Code = "UNAVAILABLE" // cannot be decided now; repeat with the same request id
)

// Reason is why a rule refused, for programs. It is stable.
type Reason string

// The reasons.
const (
	ByReleaseOnly       Reason = "production-by-release-only"  // writing to production by hand
	PermanentVersion    Reason = "production-is-permanent"     // deleting or overwriting what is in production
	ComputedTag         Reason = "convenience-tag-is-computed" // 1.4, 1 and latest of production
	CandidateByDigest   Reason = "candidate-by-digest"         // a tag in NAME/candidate
	WrongZone           Reason = "wrong-zone"                  // an image of one zone pushed to the catalog of the other
	VersionExists       Reason = "version-exists"              // released before, with another digest
	VersionErased       Reason = "version-erased"              // a tombstone is there
	CandidateChanged    Reason = "candidate-changed"           // claims came or went while it was judged
	CandidateIncomplete Reason = "candidate-incomplete"        // something that the candidate refers to is not there
	NotCandidate        Reason = "not-a-candidate"             // NAME/candidate does not have the digest
	NotReleased         Reason = "not-released"                // no version of production
	AlreadyRevoked      Reason = "already-revoked"
	StillReferred       Reason = "still-referred-to"           // deleting a blob or manifest that others need
	RequestReused       Reason = "request-id-used-for-another" // the same request id with another content
	NeedsTwoKeys        Reason = "needs-two-keys"              // erasure with fewer than two believed signatures
	RetentionClassFixed Reason = "retention-is-configured"     // pinning where nothing is ever collected
	TooManyReferrers    Reason = "too-many-referrers"
	ManifestTooLarge    Reason = "manifest-too-large"
	UploadGone          Reason = "upload-unknown"
	NotLoggable         Reason = "not-loggable"                  // the audit log could not hold the decision
	NotJudged           Reason = "not-judged"                    // an image would come into production that nobody judged
	Recovering          Reason = "recovering-from-interruption"  // an intent is not finished yet
	UnknownForeign      Reason = "foreign-registry-unconfigured" // release to a registry that the server may not write
)

// Error is a refusal or a failure that the client should understand. Errors of
// other types are the server's own and are shown to no client.
type Error struct {
	Code    Code
	Reason  Reason // "" when no rule of ours refused
	Message string // one sentence, for a person
	Remedy  string // what to do instead; "" for nothing useful
	Entry   uint64 // index of the entry of the audit log that records the refusal, when Logged
	Logged  bool
	Err     error // what lies below; not shown to clients
}

func (e *Error) Error() string {
	s := e.Message
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

func errorf(c Code, format string, a ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, a...)}
}

func (e *Error) because(r Reason, remedy string) *Error {
	e.Reason, e.Remedy = r, remedy
	return e
}

// Log is where decisions go before they take effect: package audit's log.
type Log interface {
	// Append returns when the entry is durable.
	Append(ctx context.Context, e audit.Entry) (index uint64, err error)
	// Size is how many entries there are.
	Size(ctx context.Context) (uint64, error)
	// Find looks for the entry with an ID among those from an index on.
	Find(ctx context.Context, from uint64, id string) (index uint64, found bool, err error)
}

// Options is how a registry behaves. The zero value is complete but for Log.
type Options struct {
	Log     Log              // nil: nothing that must be logged can be done
	Now     func() time.Time // nil: time.Now
	Logger  *slog.Logger     // nil: discards
	Retain  Retention
	Metrics Metrics // nil: nobody counts

	// Steady is how long the registry has run by a clock that does not jump; nil:
	// the machine's.
	Steady func() time.Duration

	// Replicas says that other servers may work on the same store. Then a blob's
	// bytes are deleted by the server that claimed them only.
	Replicas bool
}

// Retention is how long what is not permanent is kept. Zero durations mean the
// defaults.
type Retention struct {
	Development  time.Duration // after the last push; 0: seven days
	Candidate    time.Duration // after the push; 0: thirty days
	Unreferenced time.Duration // blobs and manifests that nothing refers to, and uploads nobody continues; 0: a day
	Keep         []string      // patterns (project.Wildcard) of development tags that are kept; nil: main
}

// Metrics is told what happens; its methods must be quick.
type Metrics interface {
	Collected(kind string, items int, bytes int64)
}

// Manifest is a stored manifest.
type Manifest struct {
	Digest    oci.Digest
	MediaType string
	Content   []byte
}

// Put is what a client wants stored as a manifest.
type Put struct {
	Repository string
	Digest     oci.Digest // as the client gave it; "" when it gave a tag
	Tags       []string   // to point to it, may be none
	MediaType  string     // of the Content-Type header; "" when there was none
	Content    []byte
	Actor      audit.Actor
}

// Stored tells what a Put has done.
type Stored struct {
	Digest  oci.Digest
	Subject oci.Digest // of a manifest that has one: the OCI-Subject header
	Existed bool       // the manifest was there before
}

// Tag is where a tag points.
type Tag struct {
	Name      string      `json:"name"`
	Digest    oci.Digest  `json:"digest"`
	MediaType string      `json:"mediaType"`
	Pushed    time.Time   `json:"pushed"` // when it was last written, to the same digest too
	By        audit.Actor `json:"by"`
	Pinned    bool        `json:"pinned,omitempty"` // kept until it is unpinned
	Expires   *time.Time  `json:"expires,omitempty"`
	Revoked   bool        `json:"revoked,omitempty"` // what it points to is
}

// Page asks for a part of a listing.
type Page struct {
	After string // the last name that the client has; "" from the first
	Limit int    // 0: as many as there are; negative: none
}

// Finish is how a client ends an upload.
type Finish struct {
	Repository string
	Digest     oci.Digest
	Last       io.Reader // the last part; nil for none
	At         int64     // where Last begins; -1: where the upload is
}
