package distribution

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
)

// Kind is what a request asks for: one for each end-point of the specification
// ("Endpoints"; its identifiers stand beside them). The zero Kind is none.
type Kind int

// The kinds. GET and HEAD are the same kind (Request.Head tells them apart).
const (
	Base           Kind = iota + 1 // end-1   GET /v2/
	GetBlob                        // end-2   GET, HEAD /v2/NAME/blobs/DIGEST
	GetManifest                    // end-3   GET, HEAD /v2/NAME/manifests/REFERENCE
	StartUpload                    // end-4a  POST /v2/NAME/blobs/uploads/
	PushBlob                       // end-4b  POST /v2/NAME/blobs/uploads/?digest=DIGEST
	AppendUpload                   // end-5   PATCH /v2/NAME/blobs/uploads/ID
	FinishUpload                   // end-6   PUT /v2/NAME/blobs/uploads/ID?digest=DIGEST
	PutManifest                    // end-7   PUT /v2/NAME/manifests/REFERENCE
	ListTags                       // end-8   GET /v2/NAME/tags/list?n=INTEGER&last=TAG
	DeleteManifest                 // end-9   DELETE /v2/NAME/manifests/DIGEST
	DeleteTag                      // end-9   DELETE /v2/NAME/manifests/TAG
	DeleteBlob                     // end-10  DELETE /v2/NAME/blobs/DIGEST
	MountBlob                      // end-11  POST /v2/NAME/blobs/uploads/?mount=DIGEST&from=OTHER
	ListReferrers                  // end-12  GET /v2/NAME/referrers/DIGEST?artifactType=TYPE
	UploadStatus                   // end-13  GET /v2/NAME/blobs/uploads/ID
	CancelUpload                   // DELETE /v2/NAME/blobs/uploads/ID: every registry has it, the table has not
	ListCatalog                    // GET /v2/_catalog: of the older Docker interface, which clients still ask
)

// kinds names the kinds for metrics and logs, and groups them.
var kinds = [...]struct {
	name  string
	verb  Verb
	write bool
}{
	0:              {"none", 0, false},
	Base:           {"base", Ping, false},
	GetBlob:        {"get-blob", Read, false},
	GetManifest:    {"get-manifest", Read, false},
	StartUpload:    {"start-upload", Write, true},
	PushBlob:       {"push-blob", Write, true},
	AppendUpload:   {"append-upload", Write, true},
	FinishUpload:   {"finish-upload", Write, true},
	PutManifest:    {"put-manifest", Write, true},
	ListTags:       {"list-tags", Read, false},
	DeleteManifest: {"delete-manifest", Delete, true},
	DeleteTag:      {"delete-tag", Delete, true},
	DeleteBlob:     {"delete-blob", Delete, true},
	MountBlob:      {"mount-blob", Write, true},
	ListReferrers:  {"list-referrers", Read, false},
	UploadStatus:   {"upload-status", Write, false},
	CancelUpload:   {"cancel-upload", Write, true},
	ListCatalog:    {"list-catalog", List, false},
}

// String is a short name, the same for ever: metrics are labelled with it.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kinds) {
		return "none"
	}
	return kinds[k].name
}

// Verb is what the caller must be allowed to do.
func (k Kind) Verb() Verb {
	if k < 0 || int(k) >= len(kinds) {
		return 0
	}
	return kinds[k].verb
}

// Verb is what a request does to its repository, for whoever judges access. The
// zero Verb is none of them and should be refused.
type Verb int

// The verbs.
const (
	Ping   Verb = iota + 1 // asks whether this is a registry, and whether the credentials are good; names no repository
	List                   // lists repositories; names none
	Read                   // pulls
	Write                  // pushes, including everything about an upload
	Delete                 // deletes
)

func (v Verb) String() string {
	switch v {
	case Ping:
		return "ping"
	case List:
		return "list"
	case Read:
		return "read"
	case Write:
		return "write"
	case Delete:
		return "delete"
	}
	return "none"
}

// Request is a request of the specification as a value: complete and
// well-formed, judged by nobody yet. Which fields are set follows from Kind.
type Request struct {
	Kind       Kind
	Head       bool   // HEAD in place of GET: the answer has no body
	Repository string // a valid name; "" for Base and ListCatalog only

	// Tag or Digest is the reference of a manifest; one of them is set. Digest is
	// also the blob's, the subject's (ListReferrers), and what an upload should
	// have (PushBlob, FinishUpload) or what is to be mounted (MountBlob).
	Tag    string
	Digest oci.Digest

	// Tags are all the tags that a PutManifest writes: Tag, or those of the query
	// (?tag=, any number of times) when it is put by digest.
	Tags []string

	Upload string // identifier of the upload
	From   string // MountBlob: the repository to mount from; "" when the client does not say

	// Chunk is the part of the blob that the body holds (header Content-Range);
	// nil when the client does not say.
	Chunk *Chunk

	// Of listings.
	Page         registry.Page // Limit is 0 when the client set none, and negative when it asks for nothing
	ArtifactType string
}

// Chunk is a part of a blob: its first and its last byte, from 0.
type Chunk struct{ First, Last int64 }

// Size is how many bytes there are in the chunk: at least one.
func (c Chunk) Size() int64 { return c.Last - c.First + 1 }

// What the parts of a request may be long, in bytes.
const (
	maxName   = 255 // catalog.MaxName
	maxTag    = 128 // "Pulling manifests"
	maxUpload = 128
	maxQuery  = 4096
	maxLast   = 255
	maxType   = 255 // RFC 6838, 4.2: two names of at most 127
	maxTags   = 10  // tags of one PutManifest: the specification lets registries limit them
)

// errNoEndpoint is the answer to a path that is not in the specification.
var errNoEndpoint = &registry.Error{Code: codeNotFound, Message: "no end-point of the distribution specification has this path"}

// Parse reads a request. It uses nothing but its arguments and changes none of
// them. Its errors are *registry.Error and, for a path that is there for other
// methods, *MethodError.
//
// Paths are parsed from the right, since a repository's name may hold blobs,
// manifests, tags and uploads as components. They are never cleaned: what is
// not exactly a path of the specification is refused.
func Parse(method string, u *url.URL, header http.Header) (Request, error) {
	path := u.Path
	// RawPath is set only when the client encoded more than it had to. A colon may
	// be encoded in a digest; a slash in one component would make it two, after
	// somebody in front of us read it as one.
	if u.RawPath != "" && (strings.Contains(u.RawPath, "%2F") || strings.Contains(u.RawPath, "%2f")) {
		return Request{}, refuse(registry.NameInvalid, "the path holds an encoded slash")
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case path == "/v2" || ok && rest == "": // some clients forget the slash
		return base(method)
	case !ok:
		return Request{}, errNoEndpoint
	case rest == "_catalog":
		return listCatalog(method, u)
	}

	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return listTags(method, name, u)
	}
	if name, ok := strings.CutSuffix(rest, "/blobs/uploads/"); ok {
		return uploads(method, name, u)
	}
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return Request{}, errNoEndpoint
	}
	dir, last := rest[:i], rest[i+1:]
	if last == "" {
		return Request{}, errNoEndpoint
	}
	if name, ok := strings.CutSuffix(dir, "/manifests"); ok {
		return manifest(method, name, last, u)
	}
	if name, ok := strings.CutSuffix(dir, "/blobs/uploads"); ok {
		return upload(method, name, last, u, header)
	}
	if name, ok := strings.CutSuffix(dir, "/blobs"); ok {
		if last == "uploads" && method == http.MethodPost { // the slash at its end forgotten
			return uploads(method, name, u)
		}
		return blob(method, name, last)
	}
	if name, ok := strings.CutSuffix(dir, "/referrers"); ok {
		return referrers(method, name, last, u)
	}
	return Request{}, errNoEndpoint
}

// base is end-1: GET /v2/.
func base(method string) (Request, error) {
	head, ok := reads(method)
	if !ok {
		return Request{}, &MethodError{Allow: "GET, HEAD"}
	}
	return Request{Kind: Base, Head: head}, nil
}

// manifest is end-3, end-7 and end-9: /v2/NAME/manifests/REFERENCE.
func manifest(method, name, ref string, u *url.URL) (r Request, err error) {
	r.Repository = name
	if err := checkName(name); err != nil {
		return r, err
	}
	d, isDigest := parseDigest(ref)
	isTag := !isDigest && validTag(ref)
	switch method {
	case http.MethodGet, http.MethodHead:
		r.Kind, r.Head = GetManifest, method == http.MethodHead
		if !isDigest && !isTag {
			// "If the manifest is not found in the registry, the response code MUST be
			// 404": under such a reference there cannot be one.
			return r, &registry.Error{Code: registry.ManifestUnknown, Message: fmt.Sprintf("%s is neither a tag nor a digest", quote(ref))}
		}
	case http.MethodPut:
		r.Kind = PutManifest
	case http.MethodDelete:
		r.Kind = DeleteManifest
		if isTag {
			r.Kind = DeleteTag
		}
	default:
		return r, &MethodError{Allow: "GET, HEAD, PUT, DELETE"}
	}
	switch {
	case isDigest:
		r.Digest = d
	case isTag:
		r.Tag = ref
	default:
		return r, badReference(ref)
	}
	if r.Kind != PutManifest {
		return r, nil
	}
	if isTag {
		r.Tags = []string{ref}
	}
	q, err := query(u)
	if err != nil {
		return r, err
	}
	// A digest beside a tag asks for another algorithm than sha256.
	if s := q.Get("digest"); s != "" {
		if isDigest && s != ref {
			return r, refuse(registry.DigestInvalid, "the query and the path have different digests")
		}
		if r.Digest, err = needDigest(s, "the query"); err != nil {
			return r, err
		}
	}
	if tags := q["tag"]; len(tags) > 0 {
		if isTag {
			return r, refuse(registry.TagInvalid, "tags in the query need a digest in the path")
		}
		if len(tags) > maxTags {
			return r, refuse(registry.TagInvalid, fmt.Sprintf("%d tags at once: at most %d", len(tags), maxTags))
		}
		for _, t := range tags {
			if !validTag(t) {
				return r, badReference(t)
			}
		}
		r.Tags = tags
	}
	return r, nil
}

// blob is end-2 and end-10: /v2/NAME/blobs/DIGEST.
func blob(method, name, ref string) (r Request, err error) {
	r.Repository = name
	switch method {
	case http.MethodGet, http.MethodHead:
		r.Kind, r.Head = GetBlob, method == http.MethodHead
	case http.MethodDelete:
		r.Kind = DeleteBlob
	default:
		return r, &MethodError{Allow: "GET, HEAD, DELETE"}
	}
	if err := checkName(name); err != nil {
		return r, err
	}
	r.Digest, err = needDigest(ref, "the path")
	return r, err
}

// uploads is end-4 and end-11: POST /v2/NAME/blobs/uploads/.
func uploads(method, name string, u *url.URL) (r Request, err error) {
	r.Repository = name
	if method != http.MethodPost {
		return r, &MethodError{Allow: "POST"}
	}
	if err := checkName(name); err != nil {
		return r, err
	}
	q, err := query(u)
	if err != nil {
		return r, err
	}
	// The algorithm that a client announces needs no preparation here; one that
	// cannot be verified at the end is better refused before all is sent.
	if a := q.Get("digest-algorithm"); a != "" && a != digest.SHA256.String() && a != digest.SHA512.String() {
		return r, refuse(registry.DigestInvalid, "digest-algorithm "+quote(a)+": want sha256 or sha512")
	}
	switch {
	case q.Get("mount") != "":
		r.Kind = MountBlob
		if r.Digest, err = needDigest(q.Get("mount"), "mount"); err != nil {
			return r, err
		}
		// "From" may be absent: "Registries MAY … mount … from any repository"
		// ("Mounting a blob from another repository").
		if r.From = q.Get("from"); r.From != "" {
			if err := checkName(r.From); err != nil {
				return r, err
			}
		}
	case q.Has("digest"):
		r.Kind = PushBlob
		r.Digest, err = needDigest(q.Get("digest"), "the query")
	default:
		r.Kind = StartUpload
	}
	return r, err
}

// upload is end-5, end-6, end-13 and the cancellation of an upload:
// /v2/NAME/blobs/uploads/ID.
func upload(method, name, id string, u *url.URL, header http.Header) (r Request, err error) {
	r.Repository, r.Upload = name, id
	switch method {
	case http.MethodPatch:
		r.Kind = AppendUpload
	case http.MethodPut:
		r.Kind = FinishUpload
	case http.MethodGet, http.MethodHead:
		r.Kind, r.Head = UploadStatus, method == http.MethodHead
	case http.MethodDelete:
		r.Kind = CancelUpload
	default:
		return r, &MethodError{Allow: "GET, HEAD, PATCH, PUT, DELETE"}
	}
	if err := checkName(name); err != nil {
		return r, err
	}
	if !validUpload(id) {
		return r, &registry.Error{Code: registry.BlobUploadUnknown, Reason: registry.UploadGone, Message: "no upload has this identifier"}
	}
	if r.Kind != AppendUpload && r.Kind != FinishUpload {
		return r, nil
	}
	if r.Kind == FinishUpload {
		q, err := query(u)
		if err != nil {
			return r, err
		}
		if r.Digest, err = needDigest(q.Get("digest"), "the query"); err != nil {
			return r, err
		}
	}
	if s := header.Get("Content-Range"); s != "" {
		c, ok := parseChunk(s)
		if !ok {
			return r, refuse(registry.RangeInvalid, "Content-Range "+quote(s)+": want FIRST-LAST, the positions of the first and the last byte")
		}
		r.Chunk = &c
	}
	return r, nil
}

// listTags is end-8: GET /v2/NAME/tags/list.
func listTags(method, name string, u *url.URL) (r Request, err error) {
	r.Kind, r.Repository = ListTags, name
	var ok bool
	if r.Head, ok = reads(method); !ok {
		return r, &MethodError{Allow: "GET, HEAD"}
	}
	if err := checkName(name); err != nil {
		return r, err
	}
	r.Page, err = page(u)
	return r, err
}

// referrers is end-12: GET /v2/NAME/referrers/DIGEST. "If the request is
// invalid, such as a DIGEST with an invalid syntax, a 400 Bad Request MUST be
// returned."
func referrers(method, name, ref string, u *url.URL) (r Request, err error) {
	r.Kind, r.Repository = ListReferrers, name
	var ok bool
	if r.Head, ok = reads(method); !ok {
		return r, &MethodError{Allow: "GET, HEAD"}
	}
	if err := checkName(name); err != nil {
		return r, err
	}
	if r.Digest, err = needDigest(ref, "the path"); err != nil {
		return r, err
	}
	if u.RawQuery == "" {
		return r, nil
	}
	q, err := query(u)
	if err != nil {
		return r, err
	}
	if r.ArtifactType = q.Get("artifactType"); len(r.ArtifactType) > maxType || !printable(r.ArtifactType) {
		return r, refuse(codeBadRequest, "artifactType is no media type")
	}
	// The next page begins after a digest: our own Link header says so, and
	// clients must not read it.
	if s := q.Get("last"); s != "" {
		if _, err := needDigest(s, "last"); err != nil {
			return r, err
		}
		r.Page.After = s
	}
	return r, nil
}

// listCatalog is GET /v2/_catalog.
func listCatalog(method string, u *url.URL) (r Request, err error) {
	r.Kind = ListCatalog
	var ok bool
	if r.Head, ok = reads(method); !ok {
		return r, &MethodError{Allow: "GET, HEAD"}
	}
	r.Page, err = page(u)
	return r, err
}

// page reads n and last ("Listing Tags"). "When n is zero, this endpoint MUST
// return an empty list": a negative limit to the registry.
func page(u *url.URL) (p registry.Page, err error) {
	if u.RawQuery == "" {
		return p, nil
	}
	q, err := query(u)
	if err != nil {
		return p, err
	}
	if p.After = q.Get("last"); len(p.After) > maxLast || !printable(p.After) {
		return p, refuse(codePagination, "last is no name that was listed")
	}
	if s := q.Get("n"); s != "" {
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return p, refuse(codePagination, "n is "+quote(s)+": want a number from 0")
		}
		if p.Limit = int(n); n == 0 {
			p.Limit = -1
		}
	}
	return p, nil
}

func reads(method string) (head, ok bool) {
	return method == http.MethodHead, method == http.MethodGet || method == http.MethodHead
}

// query reads the query strictly: url.Values would drop what it cannot read.
func query(u *url.URL) (url.Values, error) {
	if u.RawQuery == "" {
		return nil, nil
	}
	if len(u.RawQuery) > maxQuery {
		return nil, refuse(codeBadRequest, fmt.Sprintf("the query has %d bytes: at most %d", len(u.RawQuery), maxQuery))
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, refuse(codeBadRequest, "the query cannot be read: "+err.Error())
	}
	return q, nil
}

func checkName(name string) error {
	if !validName(name) {
		return refuse(registry.NameInvalid, quote(name)+" is no repository name: want lower-case letters and digits, separated by . _ - or /, at most 255")
	}
	return nil
}

func needDigest(s, where string) (oci.Digest, error) {
	d, ok := parseDigest(s)
	switch {
	case ok:
		return d, nil
	case s == "":
		return "", refuse(registry.DigestInvalid, "no digest in "+where)
	}
	return "", refuse(registry.DigestInvalid, quote(s)+" in "+where+" is no digest: want sha256: or sha512: and the number in lower-case hexadecimal digits")
}

func badReference(ref string) error {
	if strings.Contains(ref, ":") {
		_, err := needDigest(ref, "the path")
		return err
	}
	return refuse(registry.TagInvalid, quote(ref)+" is no tag: want up to 128 letters, digits, dots, underscores and hyphens, beginning with a letter, a digit or an underscore")
}

// The grammars, by hand because every request passes them; a test holds them
// against the regular expressions of the specification.

// validName: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := 0; i < len(s); {
		if !lowerOrDigit(s[i]) {
			return false
		}
		for i < len(s) && lowerOrDigit(s[i]) {
			i++
		}
		if i == len(s) {
			return true
		}
		switch s[i] {
		case '.', '/':
			i++
		case '_':
			if i++; i < len(s) && s[i] == '_' {
				i++
			}
		case '-':
			for i < len(s) && s[i] == '-' {
				i++
			}
		default:
			return false
		}
	}
	return false // it ended with a separator
}

func lowerOrDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func wordByte(c byte) bool { return lowerOrDigit(c) || 'A' <= c && c <= 'Z' || c == '_' }

// validTag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
func validTag(s string) bool {
	if s == "" || len(s) > maxTag || !wordByte(s[0]) {
		return false
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !wordByte(c) && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// validUpload is what a registry's identifiers of uploads are made of, at most.
func validUpload(s string) bool {
	if s == "" || len(s) > maxUpload || s[0] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !wordByte(s[i]) && s[i] != '-' && s[i] != '.' {
			return false
		}
	}
	return true
}

// parseDigest accepts sha256 and sha512 with the right number of lower-case
// hexadecimal digits.
func parseDigest(s string) (oci.Digest, bool) {
	hex, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(hex) != 64 {
		if hex, ok = strings.CutPrefix(s, "sha512:"); !ok || len(hex) != 128 {
			return "", false
		}
	}
	for i := 0; i < len(hex); i++ {
		if c := hex[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return "", false
		}
	}
	return oci.Digest(s), true
}

// parseChunk reads Content-Range as the specification has it: FIRST-LAST, "it
// MUST match ^[0-9]+-[0-9]+$" ("Pushing a blob in chunks"); not as RFC 9110 has it.
func parseChunk(s string) (Chunk, bool) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		return Chunk{}, false
	}
	a, err1 := strconv.ParseUint(first, 10, 62)
	b, err2 := strconv.ParseUint(last, 10, 62)
	if err1 != nil || err2 != nil || a > b {
		return Chunk{}, false
	}
	return Chunk{First: int64(a), Last: int64(b)}, true
}

// printable tells whether there is no control character in it: such names are
// nowhere, and logs and keys should not meet them.
func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// quote is a stranger's text in a message: short, and without surprises.
func quote(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strconv.QuoteToASCII(s)
}
