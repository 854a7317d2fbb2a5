package distribution

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Registry is what the handler serves: *registry.Registry. Errors that clients
// should understand are *registry.Error.
type Registry interface {
	Manifests
	Blobs
	Uploads
}

// Manifests are manifests, their tags, and lists of them.
type Manifests interface {
	Manifest(ctx context.Context, repo, ref string) (registry.Manifest, error)
	PutManifest(ctx context.Context, p registry.Put) (registry.Stored, error)
	DeleteManifest(ctx context.Context, repo string, d oci.Digest, a audit.Actor) error
	DeleteTag(ctx context.Context, repo, tag string, a audit.Actor) error
	Tags(ctx context.Context, repo string, p registry.Page) (names []string, more bool, err error)
	Repositories(ctx context.Context, p registry.Page) (names []string, more bool, err error)
	AppendReferrers(ctx context.Context, b []byte, repo string, subject oci.Digest, artifactType string, p registry.Page, most int) (list []byte, last oci.Digest, more bool, err error)
}

// Blobs are blobs of repositories.
type Blobs interface {
	Blob(ctx context.Context, repo string, d oci.Digest) (*store.Blob, error)
	BlobSize(ctx context.Context, repo string, d oci.Digest) (int64, error)
	DeleteBlob(ctx context.Context, repo string, d oci.Digest, a audit.Actor) error
	Mount(ctx context.Context, repo string, d oci.Digest, from string, a audit.Actor) (mounted bool, err error)
}

// Uploads are blobs that arrive.
type Uploads interface {
	StartUpload(ctx context.Context, repo string, a audit.Actor) (id string, err error)
	AppendUpload(ctx context.Context, repo, id string, at int64, r io.Reader) (size int64, err error)
	UploadStatus(ctx context.Context, repo, id string) (size int64, err error)
	FinishUpload(ctx context.Context, id string, f registry.Finish, a audit.Actor) error
	CancelUpload(ctx context.Context, repo, id string) error
}

// Options is how a handler behaves. Registry, Judge and Visible must be set:
// without a judge every request is refused, and without Visible no repository is
// listed or mounted from.
type Options struct {
	Registry Registry

	// Judge decides whether the request may be made and says who makes it. It is
	// asked before anything is read or done, with well-formed requests only; what
	// the caller needs is in Request.Kind.Verb, for Request.Repository. A mount
	// needs no more than a push: Visible is asked about where it is from. Refusals
	// are *Refusal or *registry.Error.
	Judge func(ctx context.Context, r *http.Request, q Request) (audit.Actor, error)

	// Visible tells whether the caller, whom Judge has let in, may read a
	// repository.
	Visible func(ctx context.Context, r *http.Request, repository string) bool

	Limits Limits

	Logger    *slog.Logger                 // nil: discards
	Observe   func(Observation)            // told of each request at its end; must be quick; nil: nobody counts
	RequestID func(r *http.Request) string // names a request in logs; nil: failed ones are given a random name
}

// Limits are what clients may do. The zero value is complete.
type Limits struct {
	Manifest int64         // largest manifest in bytes; 0: registry.MaxManifest, which is also the most
	Blob     int64         // largest blob in bytes; 0: no limit
	Page     int           // most names of one listing; 0: 10,000. A client follows the Link header for more
	Stall    time.Duration // how long a client may send or take nothing; 0: a minute; negative: for ever
}

// Observation is one request that has ended.
type Observation struct {
	Kind    Kind // 0: no well-formed request
	Status  int  // 0: the client went before there was one
	In, Out int64
	Took    time.Duration
}

type handler struct {
	opt Options
	log *slog.Logger

	listings sync.Pool // of *[]byte, in which listings of referrers are written
}

// New returns the handler of all paths below /v2/ and of /v2 itself. Its methods
// may be called by many at once.
func New(opt Options) http.Handler {
	l := &opt.Limits
	if l.Manifest <= 0 || l.Manifest > registry.MaxManifest {
		l.Manifest = registry.MaxManifest
	}
	if l.Page <= 0 {
		l.Page = 10_000
	}
	if l.Stall == 0 {
		l.Stall = time.Minute
	}
	h := &handler{opt: opt, log: opt.Logger}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	return h
}

// Headers that are the same in every answer. The slices are shared and must not
// be changed; Header.Set and Header.Add replace them.
var (
	apiVersion  = []string{"registry/2.0"} // older clients ask for it before anything else
	noSniff     = []string{"nosniff"}      // content of strangers is content, not a page of ours
	octetStream = []string{"application/octet-stream"}
	noLength    = []string{"0"}
)

func (h *handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &response{ResponseWriter: rw, stall: h.opt.Limits.Stall}
	hd := rw.Header()
	hd["Docker-Distribution-Api-Version"] = apiVersion
	hd["X-Content-Type-Options"] = noSniff

	var in *bodyReader
	if r.Body != nil && r.Body != http.NoBody {
		in = &bodyReader{r: r.Body, c: http.NewResponseController(rw), stall: w.stall, limit: -1}
	}
	var start time.Time
	if h.opt.Observe != nil {
		start = time.Now()
	}
	var kind Kind
	defer func() {
		w.finish()
		if in != nil {
			in.abandon()
		}
		if h.opt.Observe != nil {
			o := Observation{Kind: kind, Status: w.status, Out: w.written, Took: time.Since(start)}
			if in != nil {
				o.In = in.read
			}
			h.opt.Observe(o)
		}
	}()

	q, err := Parse(r.Method, r.URL, r.Header)
	if err != nil {
		h.fail(w, r, 0, err, true)
		return
	}
	kind = q.Kind
	if h.opt.Judge == nil {
		h.fail(w, r, kind, &registry.Error{Code: registry.Denied, Message: "nobody decides about access here"}, true)
		return
	}
	actor, err := h.opt.Judge(r.Context(), r, q)
	if err != nil {
		h.fail(w, r, kind, err, true)
		return
	}
	if err := h.serve(w, r, &q, actor, in); err != nil {
		h.fail(w, r, kind, err, false)
	}
}

func (h *handler) serve(w *response, r *http.Request, q *Request, a audit.Actor, in *bodyReader) error {
	switch q.Kind {
	case Base:
		return writeJSON(w, q, "application/json", []byte("{}"))
	case GetManifest:
		return h.getManifest(w, r, q)
	case GetBlob:
		return h.getBlob(w, r, q)
	case PutManifest:
		return h.putManifest(w, r, q, a, in)
	case StartUpload:
		return h.startUpload(w, r, q, a)
	case PushBlob:
		return h.pushBlob(w, r, q, a, in)
	case MountBlob:
		return h.mountBlob(w, r, q, a)
	case AppendUpload:
		return h.appendUpload(w, r, q, in)
	case FinishUpload:
		return h.finishUpload(w, r, q, a, in)
	case UploadStatus:
		return h.uploadStatus(w, r, q)
	case CancelUpload:
		if err := h.opt.Registry.CancelUpload(r.Context(), q.Repository, q.Upload); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	case ListTags:
		return h.listTags(w, r, q)
	case ListReferrers:
		return h.listReferrers(w, r, q)
	case ListCatalog:
		return h.listCatalog(w, r, q)
	case DeleteManifest:
		return accepted(w, h.opt.Registry.DeleteManifest(r.Context(), q.Repository, q.Digest, a))
	case DeleteTag:
		return accepted(w, h.opt.Registry.DeleteTag(r.Context(), q.Repository, q.Tag, a))
	case DeleteBlob:
		return accepted(w, h.opt.Registry.DeleteBlob(r.Context(), q.Repository, q.Digest, a))
	}
	return errNoEndpoint
}

// accepted ends a delete: "Upon success, the registry MUST respond with a 202
// Accepted code" (end-9, end-10).
func accepted(w *response, err error) error {
	if err != nil {
		return err
	}
	w.Header()["Content-Length"] = noLength
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// getManifest is end-3. "The Docker-Content-Digest header … MUST be the digest of
// the content."
func (h *handler) getManifest(w *response, r *http.Request, q *Request) error {
	ref := q.Tag
	if ref == "" {
		ref = string(q.Digest)
	}
	m, err := h.opt.Registry.Manifest(r.Context(), q.Repository, ref)
	if err != nil {
		return err
	}
	hd := w.Header()
	// One array for the values of all headers: this is the most frequent request.
	// The slices have no room, so that nothing can be appended into the next.
	v := [...]string{m.MediaType, string(m.Digest), `"` + string(m.Digest) + `"`, ""}
	hd["Content-Type"] = v[0:1:1]
	hd["Docker-Content-Digest"] = v[1:2:2]
	hd["Etag"] = v[2:3:3]
	if noneMatch(r.Header["If-None-Match"], v[2]) {
		delete(hd, "Content-Type") // RFC 9110, 15.4.5
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if !q.Head && r.Header["Range"] != nil {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.Content))
		return nil
	}
	v[3] = strconv.Itoa(len(m.Content))
	hd["Content-Length"] = v[3:4:4]
	w.WriteHeader(http.StatusOK)
	if !q.Head {
		w.Write(m.Content) // a client that has gone is nobody's failure
	}
	return nil
}

// noneMatch tells whether If-None-Match names the tag (RFC 9110, 13.1.2), by weak
// comparison.
func noneMatch(values []string, tag string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part == "*" || strings.TrimPrefix(part, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// putManifest is end-7.
func (h *handler) putManifest(w *response, r *http.Request, q *Request, a audit.Actor, in *bodyReader) error {
	limit := h.opt.Limits.Manifest
	over := &registry.Error{Code: registry.SizeInvalid, Reason: registry.ManifestTooLarge,
		Message: fmt.Sprintf("the manifest is larger than %d bytes", limit), Remedy: "keep large content in blobs and refer to it"}
	if r.ContentLength > limit {
		return over
	}
	var content []byte
	if in != nil {
		in.limit, in.over = limit, over
		var err error
		if content, err = readAll(in, r.ContentLength); err != nil {
			return h.received(r, err)
		}
	}
	// "Content-Type … SHOULD be the type specified in the manifest"; parameters say
	// nothing about a manifest.
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	stored, err := h.opt.Registry.PutManifest(r.Context(), registry.Put{
		Repository: q.Repository, Digest: q.Digest, Tags: q.Tags, MediaType: strings.ToLower(strings.TrimSpace(mediaType)), Content: content, Actor: a,
	})
	if err != nil {
		return err
	}
	hd := w.Header()
	hd.Set("Location", "/v2/"+q.Repository+"/manifests/"+string(stored.Digest))
	hd.Set("Docker-Content-Digest", string(stored.Digest))
	if stored.Subject != "" {
		hd.Set("OCI-Subject", string(stored.Subject)) // "Pushing Manifests with Subject": MUST
	}
	if q.Tag == "" {
		for _, t := range q.Tags {
			hd.Add("OCI-Tag", t) // tells the client that its tags were understood
		}
	}
	hd["Content-Length"] = noLength
	w.WriteHeader(http.StatusCreated)
	return nil
}

// readAll reads a body of a length that the client tells, or does not (-1).
func readAll(r io.Reader, length int64) ([]byte, error) {
	if length < 0 {
		return io.ReadAll(r)
	}
	b := make([]byte, 0, min(length, 64<<10)) // what was promised is not believed before it comes
	for int64(len(b)) < length {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):min(int64(cap(b)), length)])
		b = b[:len(b)+n]
		if err == io.EOF && int64(len(b)) < length {
			return b, io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return b, err
		}
	}
	// The end must be seen, or net/http takes the body for unread.
	if _, err := r.Read(make([]byte, 1)); err != nil && err != io.EOF {
		return b, err
	}
	return b, nil
}

// getBlob is end-2. Ranges are RFC 9110's ("A registry SHOULD support the Range
// request header"), of any form and any number.
func (h *handler) getBlob(w *response, r *http.Request, q *Request) error {
	hd := w.Header()
	if q.Head {
		size, err := h.opt.Registry.BlobSize(r.Context(), q.Repository, q.Digest)
		if err != nil {
			return err
		}
		blobHeaders(hd, q.Digest)
		if noneMatch(r.Header["If-None-Match"], hd["Etag"][0]) {
			delete(hd, "Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
		hd.Set("Accept-Ranges", "bytes")
		hd.Set("Content-Length", strconv.FormatInt(size, 10))
		w.WriteHeader(http.StatusOK)
		return nil
	}
	b, err := h.opt.Registry.Blob(r.Context(), q.Repository, q.Digest)
	if err != nil {
		return err
	}
	defer b.Content.Close()
	blobHeaders(hd, q.Digest)
	if b.URL != "" {
		// "A GET request … MAY be answered with a redirect": 307, which keeps the
		// method. The address is good for a short time and for whoever has it.
		delete(hd, "Content-Type")
		hd.Set("Cache-Control", "no-store")
		hd.Set("Location", b.URL)
		hd["Content-Length"] = noLength
		w.WriteHeader(http.StatusTemporaryRedirect)
		return nil
	}
	// ServeContent judges ranges and conditions (by the entity tag) and reaches
	// sendfile through response.ReadFrom. It refuses units other than bytes, which
	// a server MUST ignore (RFC 9110, 14.2).
	if s := r.Header.Get("Range"); s != "" && !strings.HasPrefix(s, "bytes=") {
		r.Header.Del("Range")
	}
	http.ServeContent(w, r, "", time.Time{}, b.Content)
	return nil
}

func blobHeaders(hd http.Header, d oci.Digest) {
	v := [...]string{string(d), `"` + string(d) + `"`}
	hd["Content-Type"] = octetStream
	hd["Docker-Content-Digest"] = v[0:1:1]
	hd["Etag"] = v[1:2:2]
}

// startUpload is end-4a.
func (h *handler) startUpload(w *response, r *http.Request, q *Request, a audit.Actor) error {
	id, err := h.opt.Registry.StartUpload(r.Context(), q.Repository, a)
	if err != nil {
		return err
	}
	uploadHeaders(w.Header(), q.Repository, id, 0)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// uploadHeaders tells how far an upload is. Of an empty one the specification's
// Range has no form; 0-0 is what clients know from other registries.
func uploadHeaders(hd http.Header, repo, id string, size int64) {
	hd.Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	hd.Set("Range", "0-"+strconv.FormatInt(max(0, size-1), 10))
	hd.Set("Docker-Upload-UUID", id) // not in the specification; Docker's clients log it
	hd["Content-Length"] = noLength
}

// pushBlob is end-4b, a whole blob in one request: an upload whose name nobody
// learns. What fails is not kept, since nobody could resume it.
func (h *handler) pushBlob(w *response, r *http.Request, q *Request, a audit.Actor, in *bodyReader) error {
	id, err := h.opt.Registry.StartUpload(r.Context(), q.Repository, a)
	if err != nil {
		return err
	}
	if err := h.finish(r, q, id, 0, a, in); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 10*time.Second)
		defer cancel()
		if err := h.opt.Registry.CancelUpload(ctx, q.Repository, id); err != nil {
			h.log.Debug("upload not cancelled", slog.Any("error", err)) // collected later
		}
		return err
	}
	created(w, q)
	return nil
}

// created ends a push: "The Location header MUST be … a pullable blob URL."
func created(w *response, q *Request) {
	hd := w.Header()
	hd.Set("Location", "/v2/"+q.Repository+"/blobs/"+string(q.Digest))
	hd.Set("Docker-Content-Digest", string(q.Digest))
	hd["Content-Length"] = noLength
	w.WriteHeader(http.StatusCreated)
}

// mountBlob is end-11: "If a registry does not support cross-repository mounting
// or is unable to mount the requested blob, it SHOULD return a 202" and begin an
// upload. So a repository that the caller may not read is as one without the
// blob, and nobody learns what is in it.
func (h *handler) mountBlob(w *response, r *http.Request, q *Request, a audit.Actor) error {
	// What is here already needs no other repository. Looking costs nothing; a mount
	// that finds nothing would be a transaction that is made durable.
	for _, from := range []string{q.Repository, q.From} {
		if from == "" || from != q.Repository && !h.visible(r, from) {
			continue
		}
		if _, err := h.opt.Registry.BlobSize(r.Context(), from, q.Digest); err != nil {
			continue
		}
		mounted, err := h.opt.Registry.Mount(r.Context(), q.Repository, q.Digest, from, a)
		if err != nil {
			return err
		}
		if mounted {
			created(w, q)
			return nil
		}
	}
	return h.startUpload(w, r, q, a)
}

func (h *handler) visible(r *http.Request, repo string) bool {
	return h.opt.Visible != nil && h.opt.Visible(r.Context(), r, repo)
}

// appendUpload is end-5: a chunk, or all that the client streams.
func (h *handler) appendUpload(w *response, r *http.Request, q *Request, in *bodyReader) error {
	at, err := h.bound(r, q, q.Upload, in)
	if err != nil {
		return err
	}
	size, err := h.opt.Registry.AppendUpload(r.Context(), q.Repository, q.Upload, at, reader(in))
	if err != nil {
		return h.howFar(w, r, q, h.received(r, err))
	}
	uploadHeaders(w.Header(), q.Repository, q.Upload, size)
	if in.short() { // what came is the upload's; the client hears how much
		return refuse(registry.SizeInvalid, fmt.Sprintf("%d bytes came of the %d that Content-Range says", in.read, in.want))
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// reader is the body, which may be absent.
func reader(in *bodyReader) io.Reader {
	if in == nil {
		return http.NoBody
	}
	return in
}

// bound says where the body belongs in the upload (-1: at its end) and limits it
// to what the client announced and may send.
func (h *handler) bound(r *http.Request, q *Request, id string, in *bodyReader) (at int64, err error) {
	at = -1
	limit := int64(-1)
	over := &registry.Error{}
	if c := q.Chunk; c != nil {
		at, limit = c.First, c.Size()
		if r.ContentLength >= 0 && r.ContentLength != limit {
			return 0, refuse(registry.SizeInvalid, fmt.Sprintf("Content-Range says %d bytes and Content-Length %d", limit, r.ContentLength))
		}
		over = refuse(registry.SizeInvalid, fmt.Sprintf("more than the %d bytes that Content-Range says", limit))
	}
	if most := h.opt.Limits.Blob; most > 0 {
		have := int64(0)
		if at >= 0 {
			have = at
		} else if have, err = h.opt.Registry.UploadStatus(r.Context(), q.Repository, id); err != nil {
			return 0, err
		}
		if left := max(0, most-have); limit < 0 || left < limit {
			limit, over = left, tooLarge(most)
		}
		if r.ContentLength > limit {
			return 0, over
		}
	}
	if in != nil {
		in.limit, in.over = limit, over
		if q.Chunk != nil {
			in.want = q.Chunk.Size()
		}
	}
	return at, nil
}

// blobTooLarge is not among the registry's reasons: the limit is this package's.
const blobTooLarge registry.Reason = "blob-too-large"

func tooLarge(most int64) *registry.Error {
	return &registry.Error{Code: registry.SizeInvalid, Reason: blobTooLarge, Message: fmt.Sprintf("the blob is larger than the %d bytes that this registry takes", most),
		Remedy: "make the layer smaller, or ask the registry's operator for a higher limit"}
}

// howFar adds to a refusal how far the upload is, so that the client can go on
// from there. A chunk out of order is 416 with it ("Pushing a blob in chunks").
func (h *handler) howFar(w *response, r *http.Request, q *Request, err error) error {
	e, ok := errors.AsType[*registry.Error](err)
	if !ok {
		return err
	}
	switch e.Code {
	case registry.RangeInvalid, registry.SizeInvalid, codeTimeout:
		if size, err := h.opt.Registry.UploadStatus(r.Context(), q.Repository, q.Upload); err == nil {
			uploadHeaders(w.Header(), q.Repository, q.Upload, size)
		}
	}
	return err
}

// received tells what became of a body that could not be read to its end.
func (h *handler) received(r *http.Request, err error) error {
	if errors.Is(err, errGone) || errors.Is(err, io.ErrUnexpectedEOF) {
		// Nobody is there to read the answer, but the log should not show it as ours.
		h.log.Debug("the client went before its body's end", slog.String("path", r.URL.Path), slog.Any("error", err))
		return &registry.Error{Code: registry.BlobUploadInvalid, Message: "the request ended before its body", Err: err}
	}
	return err
}

// finishUpload is end-6, with the last chunk or without.
func (h *handler) finishUpload(w *response, r *http.Request, q *Request, a audit.Actor, in *bodyReader) error {
	at, err := h.bound(r, q, q.Upload, in)
	if err != nil {
		return err
	}
	if err := h.finish(r, q, q.Upload, at, a, in); err != nil {
		return h.howFar(w, r, q, err)
	}
	created(w, q)
	return nil
}

// finish sends the body, if there is one, and ends the upload.
func (h *handler) finish(r *http.Request, q *Request, id string, at int64, a audit.Actor, in *bodyReader) error {
	f := registry.Finish{Repository: q.Repository, Digest: q.Digest, At: at}
	if in != nil {
		if q.Kind == PushBlob && h.opt.Limits.Blob > 0 {
			in.limit, in.over = h.opt.Limits.Blob, tooLarge(h.opt.Limits.Blob)
			if r.ContentLength > in.limit {
				return in.over
			}
		}
		f.Last = in
	}
	return h.received(r, h.opt.Registry.FinishUpload(r.Context(), id, f, a))
}

// uploadStatus is end-13.
func (h *handler) uploadStatus(w *response, r *http.Request, q *Request) error {
	size, err := h.opt.Registry.UploadStatus(r.Context(), q.Repository, q.Upload)
	if err != nil {
		return err
	}
	uploadHeaders(w.Header(), q.Repository, q.Upload, size)
	delete(w.Header(), "Content-Length") // RFC 9110, 8.6: none with 204
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// listTags is end-8.
func (h *handler) listTags(w *response, r *http.Request, q *Request) error {
	p := q.Page
	if p.Limit == 0 || p.Limit > h.opt.Limits.Page {
		p.Limit = h.opt.Limits.Page
	}
	tags, more, err := h.opt.Registry.Tags(r.Context(), q.Repository, p)
	if err != nil {
		return err
	}
	if tags == nil {
		tags = []string{} // a list, not null
	}
	b, err := json.Marshal(struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{q.Repository, tags})
	if err != nil {
		return err
	}
	if more && len(tags) > 0 {
		link(w.Header(), "/v2/"+q.Repository+"/tags/list", url.Values{"n": {strconv.Itoa(p.Limit)}, "last": {tags[len(tags)-1]}})
	}
	return writeJSON(w, q, "application/json", b)
}

// link says where the next page is (RFC 8288, which the specification knows as
// RFC 5988). The address is relative: how clients reach us only they know.
func link(hd http.Header, path string, q url.Values) {
	hd.Set("Link", "<"+path+"?"+q.Encode()+`>; rel="next"`)
}

// listCatalog lists the repositories that the caller may read. Those that it may
// not are not in it, nor in its Link header.
func (h *handler) listCatalog(w *response, r *http.Request, q *Request) error {
	limit := q.Page.Limit
	if limit == 0 || limit > h.opt.Limits.Page {
		limit = h.opt.Limits.Page
	}
	names, more := []string{}, false
	for after := q.Page.After; limit > 0; {
		batch, rest, err := h.opt.Registry.Repositories(r.Context(), registry.Page{After: after, Limit: 1000})
		if err != nil {
			return err
		}
		for _, n := range batch {
			if !h.visible(r, n) {
				continue
			}
			if len(names) == limit {
				more = true
				break
			}
			names = append(names, n)
		}
		if more || !rest || len(batch) == 0 {
			break
		}
		after = batch[len(batch)-1]
	}
	b, err := json.Marshal(struct {
		Repositories []string `json:"repositories"`
	}{names})
	if err != nil {
		return err
	}
	if more {
		link(w.Header(), "/v2/_catalog", url.Values{"n": {strconv.Itoa(limit)}, "last": {names[len(names)-1]}})
	}
	return writeJSON(w, q, "application/json", b)
}

// How large one page of referrers is: "Each response is an image index … and
// SHOULD NOT exceed the size limit of a manifest", 4 MiB.
const (
	referrersPage  = 1000
	referrersBytes = 4 << 20
)

// listReferrers is end-12. Nothing found is an empty list, for an unknown
// repository too ("MUST return a 200 OK … empty").
func (h *handler) listReferrers(w *response, r *http.Request, q *Request) error {
	const head = `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[`
	const tail = `]}`
	buf, ok := h.listings.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	defer func() {
		if cap(*buf) <= 1<<20 {
			h.listings.Put(buf)
		}
	}()
	b, last, more, err := h.opt.Registry.AppendReferrers(r.Context(), append((*buf)[:0], head...), q.Repository, q.Digest, q.ArtifactType,
		registry.Page{After: q.Page.After, Limit: min(referrersPage, h.opt.Limits.Page)}, referrersBytes-len(head)-len(tail))
	if e, ok := errors.AsType[*registry.Error](err); ok && (e.Code == registry.NameUnknown || e.Code == registry.ManifestUnknown) {
		b, more, err = append(b[:0], head...), false, nil
	}
	if err != nil {
		return err
	}
	b = append(b, tail...)
	*buf = b
	if q.ArtifactType != "" {
		// "If the query parameter filter is applied, the response MUST include …"
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if more && last != "" {
		v := url.Values{"last": {string(last)}}
		if q.ArtifactType != "" {
			v.Set("artifactType", q.ArtifactType)
		}
		link(w.Header(), "/v2/"+q.Repository+"/referrers/"+string(q.Digest), v)
	}
	return writeJSON(w, q, ocispec.MediaTypeImageIndex, b)
}

func writeJSON(w *response, q *Request, contentType string, b []byte) error {
	hd := w.Header()
	hd.Set("Content-Type", contentType)
	hd.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	if !q.Head {
		w.Write(b)
	}
	return nil
}
