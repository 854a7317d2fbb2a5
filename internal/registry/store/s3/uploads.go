package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

// uploads is a bucket as store.Uploads.
type uploads struct{ *Bucket }

const (
	created    = "~created" // sorts behind the parts
	committing = "~committing"
)

func uploadName(id, name string) string { return "uploads/" + id + "/" + name }

func partName(id string, at int64) string { return uploadName(id, fmt.Sprintf("%020d", at)) }

// part is one object of an upload's bytes.
type part struct {
	at, size int64
	etag     string
}

// state is what the bucket says of an upload.
type state struct {
	id         string
	exists     bool
	committed  bool
	parts      []part // without a gap, from 0 on
	size       int64
	changed    time.Time
	everything []string // names of its objects, these two marks last
}

// add takes one object of the upload into account; they come in order.
func (s *state) add(o types.Object) {
	name := aws.ToString(o.Key)
	s.everything = append(s.everything, name)
	if t := aws.ToTime(o.LastModified); t.After(s.changed) {
		s.changed = t
	}
	switch last := name[strings.LastIndexByte(name, '/')+1:]; last {
	case created:
		s.exists = true
	case committing:
		s.committed = true
	default:
		// What does not continue the others is of a writer that was too late.
		if at, err := strconv.ParseInt(last, 10, 64); err == nil && len(last) == 20 && at == s.size {
			s.parts = append(s.parts, part{at, aws.ToInt64(o.Size), aws.ToString(o.ETag)})
			s.size += aws.ToInt64(o.Size)
		}
	}
}

// look asks the bucket for an upload.
func (u uploads) look(ctx context.Context, id string) (*state, error) {
	s := &state{id: id}
	for o, err := range u.list(ctx, uploadName(id, "")) {
		if err != nil {
			return nil, fmt.Errorf("upload %s: %w", id, err)
		}
		s.add(o)
	}
	if !s.exists {
		return nil, fmt.Errorf("upload %s: %w", id, store.ErrNotFound)
	}
	return s, nil
}

// committedAs reads the digest of an upload that was committed.
func (u uploads) committedAs(ctx context.Context, id string) (oci.Digest, error) {
	out, err := u.client.GetObject(ctx, &awss3.GetObjectInput{Bucket: &u.opt.Bucket, Key: u.key(uploadName(id, committing))})
	if err != nil {
		return "", fmt.Errorf("upload %s: %w", id, explain(err))
	}
	defer out.Body.Close()
	b, err := io.ReadAll(io.LimitReader(out.Body, 1000))
	if err != nil {
		return "", fmt.Errorf("upload %s: %w", id, err)
	}
	d := oci.Digest(b)
	if store.CheckDigest(d) != nil {
		return "", fmt.Errorf("upload %s: %w: it was committed as %.100q", id, store.ErrDamaged, b)
	}
	return d, nil
}

// working are the uploads that this process works on, or has worked on.
type working struct {
	mu  sync.Mutex
	all map[string]*upload
}

// upload is what this process knows of one: the digest of its first parts, as long
// as it wrote all of these itself.
type upload struct {
	busy  bool // guarded by working.mu; whoever set it owns the rest
	sum   hash.Hash
	parts []part
}

// Replicas discard what others have begun, so knowledge is forgotten at some size;
// content is then read again at Commit.
const maxKnown = 10_000

func (u uploads) work(id string) (_ *upload, done func(), err error) {
	if err := store.CheckID(id); err != nil {
		return nil, nil, err
	}
	w := &u.working
	w.mu.Lock()
	defer w.mu.Unlock()
	up := w.all[id]
	if up == nil {
		if len(w.all) >= maxKnown {
			for other, o := range w.all {
				if !o.busy {
					delete(w.all, other)
					break
				}
			}
		}
		up = &upload{sum: sha256.New()}
		w.all[id] = up
	}
	if up.busy {
		return nil, nil, fmt.Errorf("upload %s: %w", id, store.ErrBusy)
	}
	up.busy = true
	return up, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		up.busy = false
	}, nil
}

func (u uploads) forget(id string) {
	u.working.mu.Lock()
	defer u.working.mu.Unlock()
	delete(u.working.all, id)
}

// knows tells whether the digest is of these parts.
func (up *upload) knows(parts []part) bool { return up.sum != nil && slices.Equal(up.parts, parts) }

// Create implements store.Uploads.
func (u uploads) Create(ctx context.Context) (string, error) {
	id := store.NewID()
	if _, err := u.create(ctx, uploadName(id, created), nil); err != nil {
		return "", fmt.Errorf("upload: %w", err)
	}
	return id, nil
}

var buffers = sync.Pool{New: func() any { return new([PartSize]byte) }}

// Append implements store.Uploads.
func (u uploads) Append(ctx context.Context, id string, at int64, r io.Reader) (int64, error) {
	up, done, err := u.work(id)
	if err != nil {
		return 0, err
	}
	defer done()
	s, err := u.look(ctx, id)
	if err != nil {
		u.forget(id)
		return 0, err
	}
	if s.committed {
		return s.size, fmt.Errorf("upload %s: %w", id, store.ErrCommitted)
	}
	if at != s.size {
		return s.size, fmt.Errorf("upload %s has %d bytes, not %d: %w", id, s.size, at, store.ErrOffset)
	}
	if !up.knows(s.parts) {
		up.sum = nil
		if s.size == 0 {
			up.sum, up.parts = sha256.New(), s.parts
		}
	}
	buf := buffers.Get().(*[PartSize]byte)
	defer buffers.Put(buf)
	size, n := s.size, len(s.parts)
	for {
		m, readErr := fill(ctx, r, buf[:])
		if m > 0 {
			if n++; n > maxParts {
				return size, fmt.Errorf("upload %s: more than %d parts: send larger ones", id, maxParts)
			}
			// What was read is kept also when the client has gone, and with it its context.
			keep, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			etag, err := u.create(keep, partName(id, size), buf[:m])
			cancel()
			if errors.Is(err, errExists) {
				up.sum = nil
				return size, fmt.Errorf("upload %s: %w: another one has written at %d", id, store.ErrBusy, size)
			}
			if err != nil {
				up.sum = nil
				return size, fmt.Errorf("upload %s: %w", id, err)
			}
			if up.sum != nil {
				up.sum.Write(buf[:m])
				up.parts = append(slices.Clip(up.parts), part{size, int64(m), etag})
			}
			size += int64(m)
		}
		switch {
		case readErr == io.EOF:
			return size, nil
		case readErr != nil:
			return size, fmt.Errorf("upload %s: %w", id, readErr)
		}
	}
}

// fill reads until the buffer is full. io.ReadFull would make one error of a reader
// that ends early and of one that has ended.
func fill(ctx context.Context, r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err != nil {
			return n, err
		}
		if err := ctx.Err(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Status implements store.Uploads.
func (u uploads) Status(ctx context.Context, id string) (store.Upload, error) {
	if err := store.CheckID(id); err != nil {
		return store.Upload{}, err
	}
	s, err := u.look(ctx, id)
	if err != nil {
		return store.Upload{}, err
	}
	return u.tell(ctx, s)
}

func (u uploads) tell(ctx context.Context, s *state) (store.Upload, error) {
	up := store.Upload{ID: s.id, Size: s.size, Changed: s.changed}
	if s.committed {
		d, err := u.committedAs(ctx, s.id)
		if err != nil {
			return up, err
		}
		up.Committing = d
	}
	return up, nil
}

// Commit implements store.Uploads.
func (u uploads) Commit(ctx context.Context, id string, d oci.Digest) (int64, error) {
	up, done, err := u.work(id)
	if err != nil {
		return 0, err
	}
	defer done()
	s, err := u.look(ctx, id)
	if err != nil {
		u.forget(id)
		return 0, err
	}
	if err := store.CheckDigest(d); err != nil {
		return 0, fmt.Errorf("upload %s: %w", id, err)
	}
	if s.committed {
		if err := u.sameCommit(ctx, id, d); err != nil {
			return 0, err
		}
	}
	size, err := u.Size(ctx, d)
	there := err == nil && size == s.size
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	if s.committed && there {
		return s.size, nil
	}
	if err := u.verify(ctx, up, s, d); err != nil {
		return 0, fmt.Errorf("upload %s: %w", id, err)
	}
	if !s.committed {
		_, err := u.create(ctx, uploadName(id, committing), []byte(d))
		if errors.Is(err, errExists) {
			err = u.sameCommit(ctx, id, d) // another replica's
		}
		if err != nil {
			return 0, fmt.Errorf("upload %s: %w", id, err)
		}
		// It may have been deleted before it could be seen that this needs it.
		if there {
			size, err := u.Size(ctx, d)
			there = err == nil && size == s.size
		}
	}
	if !there {
		if err := u.compose(ctx, s, d); err != nil {
			return 0, fmt.Errorf("upload %s: %w", id, err)
		}
	}
	return s.size, nil
}

func (u uploads) sameCommit(ctx context.Context, id string, d oci.Digest) error {
	as, err := u.committedAs(ctx, id)
	if err != nil {
		return err
	}
	if as != d {
		return fmt.Errorf("upload %s as %s: %w", id, as, store.ErrCommitted)
	}
	return nil
}

func (u uploads) verify(ctx context.Context, up *upload, s *state, d oci.Digest) error {
	sum := up.sum
	if !up.knows(s.parts) || d.Algorithm() != digest.SHA256 {
		sum = d.Algorithm().Hash()
		for _, p := range s.parts {
			if err := u.get(ctx, partName(s.id, p.at), p, sum); err != nil {
				return err
			}
		}
	}
	if got := digest.NewDigest(d.Algorithm(), sum); got != d {
		return fmt.Errorf("%w: %s, not %s", store.ErrDigest, got, d)
	}
	return nil
}

// get reads a part.
func (u uploads) get(ctx context.Context, name string, p part, w io.Writer) error {
	out, err := u.client.GetObject(ctx, &awss3.GetObjectInput{Bucket: &u.opt.Bucket, Key: u.key(name)})
	if err != nil {
		return explain(err)
	}
	defer out.Body.Close()
	n, err := io.Copy(w, out.Body)
	if err == nil && n != p.size {
		err = fmt.Errorf("%s: %d bytes, want %d: %w", name, n, p.size, io.ErrUnexpectedEOF)
	}
	return err
}

// contentType is what clients get that follow a URL.
const contentType = "application/octet-stream"

// compose makes content of the parts. It appears at once, complete: each way is one
// request that makes the object.
func (u uploads) compose(ctx context.Context, s *state, d oci.Digest) error {
	to := u.key(blobName(d))
	source := func(p part) *string {
		return aws.String((&url.URL{Path: u.opt.Bucket + "/" + *u.key(partName(s.id, p.at))}).EscapedPath())
	}
	switch {
	case len(s.parts) == 1:
		_, err := u.client.CopyObject(ctx, &awss3.CopyObjectInput{
			Bucket: &u.opt.Bucket, Key: to, CopySource: source(s.parts[0]),
			ContentType: aws.String(contentType), MetadataDirective: types.MetadataDirectiveReplace,
		})
		return explain(err)
	case s.size <= PartSize: // many small parts, or none
		var buf bytes.Buffer
		for _, p := range s.parts {
			if err := u.get(ctx, partName(s.id, p.at), p, &buf); err != nil {
				return err
			}
		}
		_, err := u.client.PutObject(ctx, &awss3.PutObjectInput{
			Bucket: &u.opt.Bucket, Key: to, Body: bytes.NewReader(buf.Bytes()), ContentLength: aws.Int64(s.size), ContentType: aws.String(contentType),
		})
		return explain(err)
	}

	begun, err := u.client.CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{Bucket: &u.opt.Bucket, Key: to, ContentType: aws.String(contentType)})
	if err != nil {
		return explain(err)
	}
	finished := false
	defer func() {
		if !finished {
			abort, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			_, _ = u.client.AbortMultipartUpload(abort, &awss3.AbortMultipartUploadInput{Bucket: &u.opt.Bucket, Key: to, UploadId: begun.UploadId})
		}
	}()
	var parts []types.CompletedPart
	add := func(etag *string) {
		parts = append(parts, types.CompletedPart{ETag: etag, PartNumber: aws.Int32(int32(len(parts) + 1))})
	}
	var small bytes.Buffer // parts that are too small to be copied
	flush := func() error {
		out, err := u.client.UploadPart(ctx, &awss3.UploadPartInput{
			Bucket: &u.opt.Bucket, Key: to, UploadId: begun.UploadId, PartNumber: aws.Int32(int32(len(parts) + 1)),
			Body: bytes.NewReader(small.Bytes()), ContentLength: aws.Int64(int64(small.Len())),
		})
		if err != nil {
			return explain(err)
		}
		add(out.ETag)
		small.Reset()
		return nil
	}
	for _, p := range s.parts {
		if small.Len() == 0 && p.size >= minCopied {
			out, err := u.client.UploadPartCopy(ctx, &awss3.UploadPartCopyInput{
				Bucket: &u.opt.Bucket, Key: to, UploadId: begun.UploadId, PartNumber: aws.Int32(int32(len(parts) + 1)), CopySource: source(p),
			})
			if err != nil {
				return explain(err)
			}
			add(out.CopyPartResult.ETag)
			continue
		}
		if err := u.get(ctx, partName(s.id, p.at), p, &small); err != nil {
			return err
		}
		if small.Len() >= minCopied {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if small.Len() > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	_, err = u.client.CompleteMultipartUpload(ctx, &awss3.CompleteMultipartUploadInput{
		Bucket: &u.opt.Bucket, Key: to, UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	if err != nil {
		return explain(err)
	}
	finished = true
	return nil
}

// Discard implements store.Uploads.
func (u uploads) Discard(ctx context.Context, id string) error {
	if store.CheckID(id) != nil {
		return nil
	}
	_, done, err := u.work(id)
	if err != nil {
		return err
	}
	defer done()
	s := &state{id: id}
	for o, err := range u.list(ctx, uploadName(id, "")) {
		if err != nil {
			return fmt.Errorf("discard upload %s: %w", id, err)
		}
		s.add(o)
	}
	// The marks last, so that what a crash leaves is still an upload and is found.
	marks := func(name string) bool { return strings.HasSuffix(name, created) || strings.HasSuffix(name, committing) }
	for _, last := range []bool{false, true} {
		var names []string
		for _, name := range s.everything {
			if marks(name) == last {
				names = append(names, name)
			}
		}
		if err := u.remove(ctx, names...); err != nil {
			return fmt.Errorf("discard upload %s: %w", id, err)
		}
	}
	u.forget(id)
	return nil
}

// Uploads implements store.Uploads.
func (u uploads) Uploads(ctx context.Context) iter.Seq2[store.Upload, error] {
	return func(yield func(store.Upload, error) bool) {
		s := &state{}
		// finish gives the upload whose objects have all been seen.
		finish := func() bool {
			if s.id == "" {
				return true
			}
			// One without its mark has parts that came when it was being discarded; it
			// is told, so that it is discarded again.
			up, err := u.tell(ctx, s)
			if errors.Is(err, store.ErrNotFound) {
				return true // discarded meanwhile
			}
			return yield(up, err) && err == nil
		}
		for o, err := range u.list(ctx, "uploads/") {
			if err != nil {
				yield(store.Upload{}, fmt.Errorf("list uploads: %w", err))
				return
			}
			name := strings.Split(aws.ToString(o.Key), "/")
			if len(name) != 3 || store.CheckID(name[1]) != nil {
				continue // not ours
			}
			if name[1] != s.id {
				if !finish() {
					return
				}
				s = &state{id: name[1]}
			}
			s.add(o)
		}
		finish()
	}
}
