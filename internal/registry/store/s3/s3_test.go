package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/storetest"
	"twinhull.dev/twinhull/internal/registry/store/storetest/outside"
)

// of is a server's bucket.
func of(m outside.MinIO) Options {
	return Options{Bucket: m.Bucket, Endpoint: m.Endpoint, PathStyle: true, AccessKey: m.User, SecretKey: m.Password}
}

func open(t testing.TB, opt Options) store.Store {
	t.Helper()
	b, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return b.Store(nil)
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func begin(t testing.TB, s store.Store, parts ...[]byte) string {
	t.Helper()
	id, err := s.Uploads.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := int64(0)
	for _, p := range parts {
		if at, err = s.Uploads.Append(t.Context(), id, at, bytes.NewReader(p)); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

func judge(t testing.TB, s store.Store, d oci.Digest) {
	t.Helper()
	blob, err := s.Blobs.Open(t.Context(), d)
	if err != nil {
		t.Error(err)
		return
	}
	defer blob.Content.Close()
	v := d.Verifier()
	if n, err := io.Copy(v, blob.Content); err != nil || n != blob.Size || !v.Verified() {
		t.Errorf("%s: %d of %d bytes, %v, verified %t", d, n, blob.Size, err, v.Verified())
	}
}

func TestS3(t *testing.T) {
	m := outside.NewMinIO(t)
	fresh := func() Options {
		opt := of(m)
		opt.Prefix = m.NewPrefix()
		return opt
	}
	storetest.Run(t, func(t *testing.T) storetest.Place {
		opt := fresh()
		return storetest.Place{
			Replicas: true,
			Open: func(t *testing.T) storetest.Opened {
				return storetest.Opened{Store: open(t, opt), Close: func() error { return nil }}
			},
		}
	})

	// Parts of all sizes that matter to how content is composed, and whose replica
	// commits: the one that wrote them knows the digest, another one reads them.
	t.Run("Compose", func(t *testing.T) {
		opt := fresh()
		s, other := open(t, opt), open(t, opt)
		b := noise(2*PartSize + minCopied + 3<<20)
		for name, sizes := range map[string][]int{
			"one small":                {100},
			"one large":                {PartSize},
			"two small":                {100, 200},
			"small and large":          {100, PartSize},
			"large and small":          {PartSize, 100},
			"small between large":      {PartSize, 100, PartSize},
			"many small, large enough": {3 << 20, 3 << 20, 3 << 20, 3 << 20},
			"too small to copy":        {minCopied - 1, minCopied - 1},
			"just copied":              {minCopied, minCopied, 1},
			"over parts":               {2*PartSize + 17, 3},
		} {
			var parts [][]byte
			var all []byte
			for at, i := 0, 0; i < len(sizes); i++ {
				part := b[at : at+sizes[i]]
				if i == 0 {
					part = append([]byte(name), part[len(name):]...) // a content of its own
				}
				at += sizes[i]
				parts, all = append(parts, part), append(all, part...)
			}
			for _, committer := range []store.Store{other, s} {
				for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
					d := alg.FromBytes(all)
					id := begin(t, s, parts...)
					if n, err := committer.Uploads.Commit(t.Context(), id, d); err != nil || n != int64(len(all)) {
						t.Errorf("%s: %d, %v", name, n, err)
					}
					judge(t, s, d)
					if err := errors.Join(s.Uploads.Discard(t.Context(), id), s.Blobs.Delete(t.Context(), d)); err != nil {
						t.Error(err)
					}
				}
			}
		}
	})

	t.Run("URL", func(t *testing.T) {
		opt := fresh()
		s := open(t, opt)
		b := noise(10_000)
		d := digest.FromBytes(b)
		if _, err := s.Uploads.Commit(t.Context(), begin(t, s, b), d); err != nil {
			t.Fatal(err)
		}
		blob, err := s.Blobs.Open(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		defer blob.Content.Close()
		res, err := http.Get(blob.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(got, b) {
			t.Errorf("%s: %s, %d bytes, %v", blob.URL, res.Status, len(got), err)
		}
		if got := res.Header.Get("Content-Type"); got != contentType {
			t.Errorf("it has the type %q", got)
		}
		if !strings.Contains(blob.URL, "X-Amz-Expires=300") || strings.Contains(blob.URL, m.Password) {
			t.Errorf("%s does not expire soon, or tells too much", blob.URL)
		}
		for _, tc := range []struct {
			change func(*Options)
			want   string
		}{
			{func(o *Options) { o.NoURLs = true }, ""},
			{func(o *Options) { o.URLEndpoint = "https://downloads.example" }, "https://downloads.example/"},
			{func(o *Options) { o.URLLife = time.Minute }, opt.Endpoint},
		} {
			opt := opt
			tc.change(&opt)
			blob, err := open(t, opt).Blobs.Open(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(blob.URL, tc.want) || (blob.URL == "") != (tc.want == "") {
				t.Errorf("URL %q, want it to begin with %q", blob.URL, tc.want)
			}
			blob.Content.Close()
		}
	})

	t.Run("Refused", func(t *testing.T) {
		for name, tc := range map[string]struct {
			change func(*Options)
			want   string
		}{
			"no bucket":        {func(o *Options) { o.Bucket = "" }, "no bucket"},
			"missing bucket":   {func(o *Options) { o.Bucket = "other" }, "make the bucket first"},
			"prefix":           {func(o *Options) { o.Prefix = "x" }, "slash"},
			"endpoint":         {func(o *Options) { o.Endpoint = "127.0.0.1" }, "http://HOST"},
			"endpoint of URLs": {func(o *Options) { o.URLEndpoint = "ftp://x" }, "http://HOST"},
			"secret":           {func(o *Options) { o.SecretKey = "wrong" }, "SignatureDoesNotMatch"},
			"no credentials":   {func(o *Options) { o.AccessKey, o.SecretKey = "", "" }, "AWS_ACCESS_KEY_ID"},
			"unconditional": {func(o *Options) {
				o.Client = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
					// As a service that has never heard of the condition.
					r.Header.Del("If-None-Match")
					r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "if-none-match;", "", 1))
					if r.Method == http.MethodPut {
						return &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{"Etag": {`"x"`}}, Body: http.NoBody, Request: r}, nil
					}
					return http.DefaultTransport.RoundTrip(r)
				})}
			}, "If-None-Match"},
		} {
			opt := fresh()
			tc.change(&opt)
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			if _, err := Open(t.Context(), opt); err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: %v; want it to say %q", name, err, tc.want)
			}
		}
	})

	t.Run("CredentialsOfTheEnvironment", func(t *testing.T) {
		opt := fresh()
		opt.AccessKey, opt.SecretKey = "", ""
		t.Setenv("AWS_ACCESS_KEY_ID", m.User)
		t.Setenv("AWS_SECRET_ACCESS_KEY", m.Password)
		open(t, opt)
	})

	// The answer to a request is lost, so the library repeats it and meets what the
	// first one has made.
	t.Run("LostAnswer", func(t *testing.T) {
		var lost sync.Map
		opt := fresh()
		opt.Client = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			res, err := http.DefaultTransport.RoundTrip(r)
			if _, before := lost.LoadOrStore(r.Method+r.URL.Path, true); err == nil && r.Method == http.MethodPut && !before {
				res.Body.Close()
				return nil, errors.New("the connection was reset")
			}
			return res, err
		})}
		s := open(t, opt)
		b := noise(PartSize + 1000)
		d := digest.FromBytes(b)
		if _, err := s.Uploads.Commit(t.Context(), begin(t, s, b), d); err != nil {
			t.Error(err)
		}
		judge(t, s, d)
	})

	t.Run("EveryRequest", func(t *testing.T) { everyRequest(t, fresh) })
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// everyRequest ends a server before and after each request that it makes for a
// push: from there on no request of its comes through. What it has left is judged
// by another one.
func everyRequest(t *testing.T, fresh func() Options) {
	b := noise(2*PartSize + 1000)
	cut := 0
	for _, answered := range []bool{false, true} {
		for last := int64(1); ; last++ {
			opt := fresh()
			judging := open(t, opt)
			var n atomic.Int64 // requests after Open
			n.Store(-1000)
			dead := errors.New("the process has ended")
			opt.Client = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
				n := n.Add(1)
				if n > last || n == last && !answered {
					return nil, dead
				}
				res, err := http.DefaultTransport.RoundTrip(r)
				if n == last && err == nil {
					res.Body.Close()
					return nil, dead
				}
				return res, err
			})}
			d := digest.FromBytes(b)
			bucket, err := Open(t.Context(), opt)
			if err != nil {
				t.Fatal(err)
			}
			bucket.client = awss3.New(bucket.client.Options(), func(o *awss3.Options) { o.Retryer = aws.NopRetryer{} })
			n.Store(0)
			committed, err := push(t.Context(), bucket.Store(nil), b, d)
			if err == nil {
				break
			}
			cut++
			ctx := t.Context()
			pending := map[oci.Digest]bool{}
			for u, err := range judging.Uploads.Uploads(ctx) {
				if err != nil {
					t.Error(err)
				}
				pending[u.Committing] = true
			}
			found := 0
			for info, err := range judging.Blobs.List(ctx) {
				if err != nil {
					t.Error(err)
				}
				found++
				judge(t, judging, info.Digest)
				if !committed && !pending[info.Digest] {
					t.Errorf("nobody would ever find %s", info.Digest)
				}
			}
			if committed && found == 0 {
				t.Error("content that was acknowledged is lost")
			}
			// And the rest can be tidied up.
			for u := range judging.Uploads.Uploads(ctx) {
				if err := judging.Uploads.Discard(ctx, u.ID); err != nil {
					t.Error(err)
				}
			}
			for u := range judging.Uploads.Uploads(ctx) {
				t.Errorf("%+v stays", u)
			}
			if t.Failed() {
				t.Fatalf("ended at request %d, answered %t", last, answered)
			}
		}
	}
	if cut < 20 {
		t.Errorf("only %d requests", cut)
	}
	t.Logf("ended at %d places", cut)
}

func push(ctx context.Context, s store.Store, b []byte, d oci.Digest) (committed bool, err error) {
	id, err := s.Uploads.Create(ctx)
	if err != nil {
		return false, err
	}
	if _, err := s.Uploads.Append(ctx, id, 0, bytes.NewReader(b)); err != nil {
		return false, err
	}
	if _, err := s.Uploads.Commit(ctx, id, d); err != nil {
		return false, err
	}
	return true, s.Uploads.Discard(ctx, id)
}
