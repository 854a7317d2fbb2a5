package registry

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

// The records. Fields of a key are separated by a zero byte, which no name, tag,
// digest or request id contains.
//
//	R repo                     repository
//	m repo digest              facts of a manifest
//	c repo digest              media type, zero byte, the manifest's bytes
//	t repo tag                 digest, zero byte, tag
//	q repo digest tag          the tag points to the manifest
//	s repo subject digest      descriptor of a referrer
//	p repo child digest        the manifest refers to the child, a blob or manifest
//	b repo digest              the repository has the blob
//	u digest repo              the same, by blob
//	x digest                   the blob's bytes are being deleted
//	d time kind repo name      when to look again whether something is still needed
//	h repo tag time            where a tag pointed
//	n repo tag                 how many of these are kept, outside of production
//	v repo version             a released version
//	w repo digest version      the same, by digest: a manifest may be several versions
//	k digest repo              the digest is revoked
//	z repo digest              tombstone of an erased manifest
//	i id                       an intent: decided, not done yet
//	o id                       what came of a request
//	g name                     one of a kind: the secret of uploads, the newest time seen
const (
	kRepo     = 'R'
	kFacts    = 'm'
	kContent  = 'c'
	kTag      = 't'
	kTagged   = 'q'
	kReferrer = 's'
	kParent   = 'p'
	kBlob     = 'b'
	kHolder   = 'u'
	kDeleting = 'x'
	kDue      = 'd'
	kHistory  = 'h'
	kEvents   = 'n'
	kVersion  = 'v'
	kReleased = 'w'
	kRevoked  = 'k'
	kTomb     = 'z'
	kIntent   = 'i'
	kOutcome  = 'o'
	kGlobal   = 'g'
)

// key joins a kind and fields. A last field "" makes the prefix of all keys that
// begin with the others.
func key(kind byte, fields ...string) []byte {
	n := 1
	for _, f := range fields {
		n += len(f) + 1
	}
	out := make([]byte, 0, n)
	out = append(out, kind)
	for i, f := range fields {
		if i > 0 {
			out = append(out, 0)
		}
		out = append(out, f...)
	}
	return out
}

// fields splits a key.
func fields(k []byte) []string { return strings.Split(string(k[1:]), "\x00") }

// last is the last field of a key.
func last(k []byte) string { return string(k[1+strings.LastIndexByte(string(k[1:]), 0)+1:]) }

// What is looked at again.
const (
	dueManifest = "m"
	dueBlob     = "b"
	dueTag      = "t"
)

// timeField writes a time so that later ones are greater. It has no zero bytes to
// escape because it is of a fixed size and stands alone or last.
func timeField(t time.Time) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(max(t.UnixNano(), 0)))
	return string(b[:])
}

func readTime(s string) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64([]byte(s)))).UTC()
}

func dueKey(at time.Time, kind, repo, name string) []byte {
	return append([]byte{kDue}, timeField(at)+kind+repo+"\x00"+name...)
}

func readDue(k []byte) (at time.Time, kind, repo, name string, ok bool) {
	if len(k) < 1+8+1 {
		return
	}
	repo, name, ok = strings.Cut(string(k[10:]), "\x00")
	return readTime(string(k[1:9])), string(k[9:10]), repo, name, ok
}

// facts is what is known of a manifest without reading it.
type facts struct {
	MediaType string       `json:"mediaType"`
	Size      int64        `json:"size"`
	Children  []oci.Digest `json:"children,omitempty"` // blobs and manifests that it refers to
	Subject   oci.Digest   `json:"subject,omitempty"`
	Pushed    time.Time    `json:"pushed"` // last
	By        audit.Actor  `json:"by"`
	Pinned    *pin         `json:"pinned,omitempty"`
}

// index tells whether it lists manifests; others refer to blobs.
func (f facts) index() bool {
	return f.MediaType == ocispec.MediaTypeImageIndex || f.MediaType == dockerList
}

type pin struct {
	By audit.Actor `json:"by"`
	At time.Time   `json:"at"`
}

// tagRecord follows the digest in a tag's record.
type tagRecord struct {
	MediaType string      `json:"mediaType"`
	Pushed    time.Time   `json:"pushed"`
	By        audit.Actor `json:"by"`
	Pinned    *pin        `json:"pinned,omitempty"`
	Version   string      `json:"version,omitempty"` // in production: the version that it points to
}

// link says that a repository has a blob.
type link struct {
	Size int64     `json:"size"`
	Free time.Time `json:"free"` // since when no manifest refers to it, when none does
}

// Event is one line of a tag's history.
type Event struct {
	At   time.Time   `json:"at"`
	From oci.Digest  `json:"from,omitempty"`
	To   oci.Digest  `json:"to,omitempty"` // "": deleted
	By   audit.Actor `json:"by"`
}

// get reads a record.
func get[T any](tx store.Reader, k []byte) (v T, ok bool, err error) {
	raw, ok, err := tx.Get(k)
	if err != nil || !ok {
		return v, false, err
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, false, fmt.Errorf("%w: record %q: %v", store.ErrDamaged, k, err)
	}
	return v, true, nil
}

func put(tx store.Transaction, k []byte, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Put(k, raw)
}

func has(tx store.Reader, k []byte) (bool, error) {
	_, ok, err := tx.Get(k)
	return ok, err
}

// anyOf tells whether there is a record with the prefix.
func anyOf(tx store.Reader, prefix []byte) (found bool, err error) {
	for _, err := range tx.Scan(prefix, nil) {
		return err == nil, err
	}
	return false, nil
}

// keysOf collects the last fields of at most limit keys (0: all) with the prefix.
func keysOf(tx store.Reader, prefix []byte, limit int) (out []string, err error) {
	for r, err := range tx.Scan(prefix, nil) {
		if err != nil {
			return nil, err
		}
		out = append(out, last(r.Key))
		if limit > 0 && len(out) == limit {
			break
		}
	}
	return out, nil
}

func readTag(raw []byte) (oci.Digest, tagRecord, error) {
	d, rest, ok := strings.Cut(string(raw), "\x00")
	var t tagRecord
	if !ok {
		return "", t, fmt.Errorf("%w: a tag's record", store.ErrDamaged)
	}
	if err := json.Unmarshal([]byte(rest), &t); err != nil {
		return "", t, fmt.Errorf("%w: a tag's record: %v", store.ErrDamaged, err)
	}
	return oci.Digest(d), t, nil
}

func getTag(tx store.Reader, repo, tag string) (oci.Digest, tagRecord, bool, error) {
	raw, ok, err := tx.Get(key(kTag, repo, tag))
	if err != nil || !ok {
		return "", tagRecord{}, false, err
	}
	d, t, err := readTag(raw)
	return d, t, err == nil, err
}

func putTag(tx store.Transaction, repo, tag string, d oci.Digest, t tagRecord) error {
	raw, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return tx.Put(key(kTag, repo, tag), append([]byte(string(d)+"\x00"), raw...))
}
