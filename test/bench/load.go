package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// load is what came of asking a server by many at once.
type load struct {
	seconds   float64
	done      int
	bytes     int64
	processor float64         // seconds of the server's
	took      []time.Duration // of each, in order of length; those that came to their end
	settled   float64         // seconds until the disk had all of it, after the last answer
}

func (l load) perSecond() float64 { return float64(l.done) / l.seconds }
func (l load) megabytes() float64 { return float64(l.bytes) / 1e6 / l.seconds }

// quantile is in milliseconds.
func (l load) quantile(q float64) float64 {
	if len(l.took) == 0 {
		return 0
	}
	return float64(l.took[min(len(l.took)-1, int(q*float64(len(l.took))))].Microseconds()) / 1000
}

// task is one thing to do: the number of it, by which worker. bytes counts what
// was moved, also of a task that does not come to its end.
type task func(ctx context.Context, worker, n int, bytes *atomic.Int64) error

// count does a task so many times.
func count(ctx context.Context, r *running, workers, times int, do task) (load, error) {
	return drive(ctx, r, min(workers, times), times, 0, do)
}

// during does a task for a while; what is under way at its end counts by the
// bytes that it has moved.
func during(ctx context.Context, r *running, workers int, d time.Duration, do task) (load, error) {
	return drive(ctx, r, workers, 0, d, do)
}

func drive(ctx context.Context, r *running, workers, times int, d time.Duration, do task) (load, error) {
	var (
		next  atomic.Int64
		bytes atomic.Int64
		mu    sync.Mutex
		out   load
		errs  []error
		wg    sync.WaitGroup
	)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	over := make(chan struct{})
	begin := make(chan struct{})
	for w := range workers {
		wg.Go(func() {
			var took []time.Duration
			var err error
			<-begin
			for err == nil {
				select {
				case <-over:
				default:
					n := int(next.Add(1)) - 1
					if times > 0 && n >= times || ctx.Err() != nil {
						break
					}
					at := time.Now()
					if err = do(ctx, w, n, &bytes); err == nil {
						took = append(took, time.Since(at))
					}
					continue
				}
				break
			}
			mu.Lock()
			defer mu.Unlock()
			select {
			case <-over:
				err = nil // it was cut off by us
			default:
			}
			if err != nil {
				errs = append(errs, err)
				stop()
			}
			out.took = append(out.took, took...)
		})
	}
	before := r.processor()
	began := time.Now()
	close(begin)
	if d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		mu.Lock()
		if len(errs) == 0 {
			close(over)
		}
		out.seconds, out.bytes = time.Since(began).Seconds(), bytes.Load()
		mu.Unlock()
		stop()
		wg.Wait()
	} else {
		wg.Wait()
		out.seconds, out.bytes = time.Since(began).Seconds(), bytes.Load()
	}
	out.processor = r.processor() - before
	out.done = len(out.took)
	slices.Sort(out.took)
	return out, errors.Join(errs...)
}

// newClient is net/http's, with as many connections kept as there are workers and
// buffers that do not make the client the narrow place.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 256, MaxConnsPerHost: 256, DisableCompression: true,
			WriteBufferSize: 256 << 10, ReadBufferSize: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// warm opens the connections that so many workers need.
func (p *pusher) warm(ctx context.Context, workers int) error {
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for i := range workers {
		wg.Go(func() {
			_, _, errs[i] = p.do(ctx, http.MethodGet, "/v2/", nil, 0, nil, http.StatusOK)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// pusher speaks the distribution protocol as common clients do.
type pusher struct {
	http *http.Client
	base string
}

func (r *running) pusher() *pusher { return &pusher{newClient(), r.base} }

// do makes a request and drains its answer, which must have the status.
func (p *pusher) do(ctx context.Context, method, at string, body io.Reader, size int64, header http.Header, want ...int) (http.Header, int, error) {
	if at != "" && at[0] == '/' {
		at = p.base + at
	}
	q, err := http.NewRequestWithContext(ctx, method, at, body)
	if err != nil {
		return nil, 0, err
	}
	for name, v := range header {
		q.Header[name] = v
	}
	if body != nil {
		q.ContentLength = size
	}
	resp, err := p.http.Do(q)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		return nil, 0, err
	}
	if !slices.Contains(want, resp.StatusCode) {
		return nil, resp.StatusCode, fmt.Errorf("%s %s: %s, want %d: %.300s", method, q.URL.Path, resp.Status, want[0], text)
	}
	return resp.Header, resp.StatusCode, nil
}

var octets = http.Header{"Content-Type": {"application/octet-stream"}}

// blob pushes one as Docker, Podman and crane do: POST, PATCH with the bytes, PUT
// with the digest (end-4a, end-5, end-6).
func (p *pusher) blob(ctx context.Context, repo string, b *blob) error {
	h, _, err := p.do(ctx, http.MethodPost, "/v2/"+repo+"/blobs/uploads/", nil, 0, nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	h, _, err = p.do(ctx, http.MethodPatch, h.Get("Location"), b.reader(), b.size(), octets, http.StatusAccepted, http.StatusNoContent)
	if err != nil {
		return err
	}
	at := h.Get("Location")
	u, err := url.Parse(at)
	if err != nil {
		return err
	}
	q := u.Query()
	q.Set("digest", b.digest)
	u.RawQuery = q.Encode()
	_, _, err = p.do(ctx, http.MethodPut, u.String(), http.NoBody, 0, octets, http.StatusCreated)
	return err
}

// manifest pushes one under a tag or its digest.
func (p *pusher) manifest(ctx context.Context, repo, reference, mediaType string, content []byte) error {
	_, _, err := p.do(ctx, http.MethodPut, "/v2/"+repo+"/manifests/"+reference, bytes.NewReader(content), int64(len(content)), http.Header{"Content-Type": {mediaType}}, http.StatusCreated)
	return err
}

// known asks whether a blob is there, as clients do before they push it.
func (p *pusher) known(ctx context.Context, repo, digest string) (bool, error) {
	_, status, err := p.do(ctx, http.MethodHead, "/v2/"+repo+"/blobs/"+digest, nil, 0, nil, http.StatusOK, http.StatusNotFound)
	return status == http.StatusOK, err
}

// pull reads a path to its end with a buffer of the worker's, and counts.
func (p *pusher) pull(ctx context.Context, path string, buf []byte, bytes *atomic.Int64) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path, nil)
	if err != nil {
		return err
	}
	resp, err := p.http.Do(q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	var sum int64
	for {
		n, err := resp.Body.Read(buf)
		bytes.Add(int64(n))
		sum += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if resp.ContentLength >= 0 && sum != resp.ContentLength {
		return fmt.Errorf("GET %s: %d bytes of %d", path, sum, resp.ContentLength)
	}
	return nil
}

// blob is content that no server has seen: bytes that all blobs of its size begin
// with, and its own last ones. So its digest costs nothing while a clock runs,
// and memory is needed once.
type blob struct {
	head   []byte
	tail   []byte
	digest string
}

func (b *blob) size() int64 { return int64(len(b.head) + len(b.tail)) }

func (b *blob) reader() io.Reader {
	return io.MultiReader(bytes.NewReader(b.head), bytes.NewReader(b.tail))
}

// blobs makes blobs of one size.
type blobs struct {
	head []byte
	sum  hash.Cloner // of head
	n    atomic.Int64
}

const tailSize = 64

// newBlobs makes bytes that do not compress. The same seed gives the same ones.
func newBlobs(size int, seed uint64) *blobs {
	b := &blobs{head: make([]byte, size-tailSize)}
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	source.Read(b.head)
	h := sha256.New()
	h.Write(b.head)
	b.sum = h.(hash.Cloner)
	return b
}

// next is one that was not there before.
func (b *blobs) next() *blob {
	out := &blob{head: b.head, tail: fmt.Appendf(nil, "%0*d", tailSize, b.n.Add(1))}
	h, err := b.sum.Clone()
	if err != nil {
		panic(err) // crypto/sha256's does not fail
	}
	h.Write(out.tail)
	out.digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	return out
}
