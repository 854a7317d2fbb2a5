// Package s3 keeps a registry's content, and what is arriving of it, in a bucket of
// Amazon S3 or of a server that speaks its protocol, so that several servers can be
// replicas of one registry. Records are package postgres's.
//
//	PREFIXblobs/sha256/ab/abcdef…                  content
//	PREFIXuploads/ID/~created                      an upload; empty
//	PREFIXuploads/ID/00000000000008388608          its bytes from that offset on
//	PREFIXuploads/ID/~committing                   the digest it was committed as
//
// A part is an object that is only ever created, on the condition that there is none
// (If-None-Match), so of two writers of one offset one is refused, wherever they
// are, and any replica may go on with an upload. A bucket that ignores the condition
// is refused by Open. Nothing else may write below the prefix. Rules of the bucket
// that delete or archive objects must not apply to it, but one that aborts incomplete
// multipart uploads after a day should: a crash may leave such, and nothing lists them.
//
// # Durability
//
// What the service has confirmed is its to keep. Append keeps whole parts as they
// fill up and the rest when its reader ends, so what it has acknowledged is there;
// of an Append that is interrupted by the end of the process up to PartSize is lost.
// Commit confirms content after ~committing, so that what a crash leaves without a
// record is found through its upload.
package s3

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

// PartSize is the size of the parts in which content arrives, in bytes; each Append
// has one of them in memory. At 10,000 parts an upload can have 80 GiB.
const PartSize = 8 << 20

const (
	minCopied = 5 << 20 // the least part of a multipart upload but the last (S3, "Multipart upload limits")
	maxParts  = 10_000

	deletedAtOnce = 1000 // DeleteObjects takes no more

	// How long a download that was begun with a URL may wait to begin.
	defaultURLLife = 5 * time.Minute
)

// Options say which bucket. Bucket is required.
type Options struct {
	Bucket   string
	Prefix   string // begins every key; "" or something that ends with "/"
	Region   string // "": us-east-1
	Endpoint string // URL of the service; "": Amazon's of the region

	// PathStyle puts the bucket into the path and not the host name, as most servers
	// but Amazon's need it.
	PathStyle bool

	// AccessKey and SecretKey are static credentials, SessionToken goes with temporary
	// ones. All empty: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of
	// the environment, read at every request.
	AccessKey, SecretKey, SessionToken string

	// URLEndpoint is how clients reach the service, if not as Endpoint. URLs are signed
	// for it.
	URLEndpoint string
	URLLife     time.Duration // 0: five minutes
	NoURLs      bool          // clients cannot reach the service: content goes through the server

	Client *http.Client // nil: the library's
}

// Bucket is content and uploads of one bucket.
type Bucket struct {
	opt     Options
	client  *awss3.Client
	presign *awss3.PresignClient // nil: no URLs
	working working
}

var (
	_ store.Blobs   = (*Bucket)(nil)
	_ store.Uploads = uploads{}
)

// Open looks whether the bucket is there and does what the package needs of it.
func Open(ctx context.Context, opt Options) (*Bucket, error) {
	if opt.Bucket == "" {
		return nil, errors.New("no bucket is given")
	}
	if opt.Prefix != "" && (!strings.HasSuffix(opt.Prefix, "/") || strings.HasPrefix(opt.Prefix, "/")) {
		return nil, fmt.Errorf("prefix %q: want one that ends with a slash, and begins with none", opt.Prefix)
	}
	opt.Region = cmp.Or(opt.Region, "us-east-1")
	opt.URLLife = cmp.Or(opt.URLLife, defaultURLLife)
	o := awss3.Options{
		Region:       opt.Region,
		UsePathStyle: opt.PathStyle,
		Credentials:  aws.CredentialsProviderFunc(opt.credentials),
		// Content is verified against its digest by whoever reads it, and a checksum
		// cannot be verified over a range.
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	}
	if opt.Client != nil {
		o.HTTPClient = opt.Client
	}
	if opt.Endpoint != "" {
		if err := checkEndpoint(opt.Endpoint); err != nil {
			return nil, err
		}
		o.BaseEndpoint = &opt.Endpoint
	}
	b := &Bucket{opt: opt, client: awss3.New(o)}
	if !opt.NoURLs {
		signer := b.client
		if opt.URLEndpoint != "" {
			if err := checkEndpoint(opt.URLEndpoint); err != nil {
				return nil, err
			}
			o.BaseEndpoint = &opt.URLEndpoint
			signer = awss3.New(o)
		}
		b.presign = awss3.NewPresignClient(signer)
	}
	b.working.all = map[string]*upload{}
	if err := b.probe(ctx); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", opt.Bucket, err)
	}
	return b, nil
}

func checkEndpoint(s string) error {
	u, err := url.Parse(s)
	if err == nil && (u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		err = errors.New("want https://HOST or http://HOST")
	}
	if err != nil {
		return fmt.Errorf("endpoint %q: %w", s, err)
	}
	return nil
}

func (opt Options) credentials(context.Context) (aws.Credentials, error) {
	c := aws.Credentials{AccessKeyID: opt.AccessKey, SecretAccessKey: opt.SecretKey, SessionToken: opt.SessionToken, Source: "configuration"}
	if c.AccessKeyID == "" && c.SecretAccessKey == "" {
		c = aws.Credentials{
			AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
			SessionToken: os.Getenv("AWS_SESSION_TOKEN"), Source: "environment",
			// The library keeps what does not expire for ever.
			CanExpire: true, Expires: time.Now().Add(time.Minute),
		}
	}
	if c.AccessKeyID == "" || c.SecretAccessKey == "" {
		return aws.Credentials{}, errors.New("no credentials: give an access key and a secret key, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	return c, nil
}

// probe writes an object twice, the second time in vain. A service that does not
// know the condition would let two writers of one upload both win.
func (b *Bucket) probe(ctx context.Context) error {
	key := "probe/" + store.NewID()
	if _, err := b.create(ctx, key, nil); err != nil {
		return err
	}
	_, err := b.create(ctx, key, nil)
	if deleteErr := b.remove(ctx, key); deleteErr != nil {
		return deleteErr
	}
	if !errors.Is(err, errExists) {
		return fmt.Errorf("it overwrites an object in spite of If-None-Match (%v): use a service that knows conditional writes", err)
	}
	return nil
}

// Store is the bucket as package registry needs it, with records from elsewhere.
func (b *Bucket) Store(r store.Records) store.Store {
	return store.Store{Records: r, Blobs: b, Uploads: uploads{b}}
}

// errExists is what create says of a key that there is.
var errExists = errors.New("there is one already")

func (b *Bucket) key(name string) *string { return aws.String(b.opt.Prefix + name) }

// create makes an object, unless there is one.
func (b *Bucket) create(ctx context.Context, name string, body []byte) (etag string, err error) {
	writer := store.NewID()
	out, err := b.client.PutObject(ctx, &awss3.PutObjectInput{
		Bucket: &b.opt.Bucket, Key: b.key(name), Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))),
		IfNoneMatch: aws.String("*"), Metadata: map[string]string{"writer": writer},
	})
	if err == nil {
		return aws.ToString(out.ETag), nil
	}
	// The library repeats a request whose answer was lost: then it is our own object
	// that is in the way. And a service that refuses a large body may close the
	// connection so early that its answer is lost.
	head, headErr := b.client.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: &b.opt.Bucket, Key: b.key(name)})
	switch {
	case headErr == nil && head.Metadata["writer"] == writer:
		return aws.ToString(head.ETag), nil
	case headErr == nil, status(err) == http.StatusPreconditionFailed, status(err) == http.StatusConflict:
		return "", fmt.Errorf("%w: %w", errExists, err)
	}
	return "", explain(err)
}

func (b *Bucket) remove(ctx context.Context, names ...string) error {
	for all := range slices.Chunk(names, deletedAtOnce) {
		ids := make([]types.ObjectIdentifier, len(all))
		for i, name := range all {
			ids[i].Key = b.key(name)
		}
		out, err := b.client.DeleteObjects(ctx, &awss3.DeleteObjectsInput{
			Bucket: &b.opt.Bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)},
		})
		if err != nil {
			return explain(err)
		}
		for _, e := range out.Errors {
			if code := aws.ToString(e.Code); code != "NoSuchKey" {
				return fmt.Errorf("delete %s: %s: %s", aws.ToString(e.Key), code, aws.ToString(e.Message))
			}
		}
	}
	return nil
}

// list goes through the objects whose names begin with prefix, in order. Names are
// without the bucket's own prefix.
func (b *Bucket) list(ctx context.Context, prefix string) iter.Seq2[types.Object, error] {
	return func(yield func(types.Object, error) bool) {
		pages := awss3.NewListObjectsV2Paginator(b.client, &awss3.ListObjectsV2Input{Bucket: &b.opt.Bucket, Prefix: b.key(prefix)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(types.Object{}, explain(err))
				return
			}
			for _, o := range page.Contents {
				o.Key = aws.String(strings.TrimPrefix(aws.ToString(o.Key), b.opt.Prefix))
				if !yield(o, nil) {
					return
				}
			}
		}
	}
}

// status is the HTTP status that an error tells; 0: none.
func status(err error) int {
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return re.HTTPStatusCode()
	}
	return 0
}

// explain adds which of the store's errors an error of the service is.
func explain(err error) error {
	if err == nil {
		return nil
	}
	code := ""
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		code = e.ErrorCode()
	}
	switch {
	case code == "NoSuchBucket":
		return fmt.Errorf("%w: make the bucket first", err) // which is not content that is missing
	case status(err) == http.StatusNotFound:
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	case status(err) == http.StatusInsufficientStorage, code == "XMinioStorageFull", code == "QuotaExceeded":
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}

func blobName(d oci.Digest) string {
	return "blobs/" + string(d.Algorithm()) + "/" + d.Encoded()[:2] + "/" + d.Encoded()
}

// Open implements store.Blobs.
func (b *Bucket) Open(ctx context.Context, d oci.Digest) (*store.Blob, error) {
	size, err := b.Size(ctx, d)
	if err != nil {
		return nil, err
	}
	blob := &store.Blob{Size: size, Content: &reader{ctx: ctx, b: b, name: blobName(d), size: size}}
	if b.presign != nil {
		signed, err := b.presign.PresignGetObject(ctx, &awss3.GetObjectInput{Bucket: &b.opt.Bucket, Key: b.key(blobName(d))}, awss3.WithPresignExpires(b.opt.URLLife))
		if err != nil {
			return nil, fmt.Errorf("content %s: sign a URL: %w", d, err)
		}
		blob.URL = signed.URL
	}
	return blob, nil
}

// Size implements store.Blobs.
func (b *Bucket) Size(ctx context.Context, d oci.Digest) (int64, error) {
	if err := store.CheckDigest(d); err != nil {
		return 0, fmt.Errorf("content: %w: %w", store.ErrNotFound, err)
	}
	out, err := b.client.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: &b.opt.Bucket, Key: b.key(blobName(d))})
	if err != nil {
		return 0, fmt.Errorf("content %s: %w", d, explain(err))
	}
	return aws.ToInt64(out.ContentLength), nil
}

// Delete implements store.Blobs.
func (b *Bucket) Delete(ctx context.Context, ds ...oci.Digest) error {
	var names []string
	for _, d := range ds {
		if store.CheckDigest(d) == nil { // of the others there is nothing
			names = append(names, blobName(d))
		}
	}
	if err := b.remove(ctx, names...); err != nil {
		return fmt.Errorf("delete content: %w", err)
	}
	return nil
}

// List implements store.Blobs.
func (b *Bucket) List(ctx context.Context) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		for o, err := range b.list(ctx, "blobs/") {
			if err != nil {
				yield(store.Info{}, fmt.Errorf("list content: %w", err))
				return
			}
			name := strings.Split(aws.ToString(o.Key), "/")
			if len(name) != 4 {
				continue // not ours
			}
			d := digest.NewDigestFromEncoded(digest.Algorithm(name[1]), name[3])
			if store.CheckDigest(d) != nil || blobName(d) != aws.ToString(o.Key) {
				continue
			}
			if !yield(store.Info{Digest: d, Size: aws.ToInt64(o.Size), Stored: aws.ToTime(o.LastModified)}, nil) {
				return
			}
		}
	}
}

// reader reads an object from where it was sought to, asking for it when it is
// first read there.
type reader struct {
	ctx  context.Context // of Open: reading is a part of the same request
	b    *Bucket
	name string
	size int64
	at   int64
	body io.ReadCloser // from at on; nil: not asked for
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.at >= r.size {
		return 0, io.EOF
	}
	if r.body == nil {
		out, err := r.b.client.GetObject(r.ctx, &awss3.GetObjectInput{
			Bucket: &r.b.opt.Bucket, Key: r.b.key(r.name), Range: aws.String(fmt.Sprintf("bytes=%d-", r.at)),
		})
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", r.name, explain(err))
		}
		r.body = out.Body
	}
	n, err := r.body.Read(p)
	r.at += int64(n)
	if err == io.EOF && r.at < r.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return r.at, fmt.Errorf("seek to %d: before the start", offset)
	}
	if offset != r.at {
		_ = r.Close()
		r.at = offset
	}
	return offset, nil
}

func (r *reader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
