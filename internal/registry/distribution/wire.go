package distribution

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"time"

	"twinhull.dev/twinhull/internal/registry"
)

// errGone is what reading a body or writing an answer fails with when the client
// has gone.
var errGone = errors.New("the client has gone")

// sendChunk is how many bytes of a file are sent before the deadline is renewed:
// few enough for a slow client, which needs 18 kB/s with the default stall of a
// minute; so many that renewing costs nothing.
const sendChunk = 1 << 20

// response counts what is answered and keeps the client moving. It hides nothing
// of the http.ResponseWriter that matters: files still go out by sendfile, which
// needs io.ReaderFrom.
type response struct {
	http.ResponseWriter
	status  int
	written int64
	stall   time.Duration
	renewed time.Time // when the write deadline was set; zero: there is none
}

func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// small answers fit the buffers of net/http and the socket, and need no deadline.
const small = 2048

func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if len(b) > small {
		w.renew()
	}
	n, err := w.ResponseWriter.Write(b)
	w.written += int64(n)
	return n, err
}

// ReadFrom sends a file in chunks, each with its deadline. Other content goes
// through Write.
func (w *response) ReadFrom(src io.Reader) (sent int64, err error) {
	// sendfile is reached only through one io.LimitedReader around an *os.File
	// (package internal/poll), so that of the caller is opened.
	lr, ok := src.(*io.LimitedReader)
	if !ok {
		lr = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	rf, ok := w.ResponseWriter.(io.ReaderFrom)
	if _, file := lr.R.(*os.File); !ok || !file {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	for lr.N > 0 {
		w.renew()
		part := io.LimitedReader{R: lr.R, N: min(sendChunk, lr.N)}
		want := part.N
		n, err := rf.ReadFrom(&part)
		sent += n
		lr.N -= n
		w.written += n
		if err != nil || n < want { // an error, or the file's end
			return sent, err
		}
	}
	return sent, nil
}

// renew gives the client another while to take what is sent.
func (w *response) renew() {
	if w.stall <= 0 {
		return
	}
	now := time.Now()
	if now.Sub(w.renewed) < w.stall/8 {
		return
	}
	// Writers without deadlines (in tests) are not slow.
	if http.NewResponseController(w.ResponseWriter).SetWriteDeadline(now.Add(w.stall)) == nil {
		w.renewed = now
	}
}

// finish takes the deadline away: the connection may be used again, and net/http
// sets none itself. What is buffered goes out before.
func (w *response) finish() {
	if w.renewed.IsZero() {
		return
	}
	c := http.NewResponseController(w.ResponseWriter)
	if w.status != 0 {
		c.Flush()
	}
	c.SetWriteDeadline(time.Time{})
}

// request body

// bodyReader is the body of a request that must keep coming and must not be
// longer than it may.
type bodyReader struct {
	r       io.Reader
	c       *http.ResponseController
	stall   time.Duration
	renewed time.Time

	read  int64
	limit int64 // how many bytes may come; -1: any number
	over  *registry.Error
	want  int64 // how many must come; 0: the client did not say
	err   error // why it ended; io.EOF: well
}

// short tells that fewer bytes came than the client announced.
func (b *bodyReader) short() bool { return b != nil && b.want > 0 && b.read < b.want }

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.limit >= 0 && int64(len(p)) > b.limit-b.read+1 {
		p = p[:b.limit-b.read+1] // one byte more tells that it is too long
	}
	b.renew()
	n, err := b.r.Read(p)
	b.read += int64(n)
	if b.limit >= 0 && b.read > b.limit {
		n -= int(b.read - b.limit)
		b.read = b.limit
		b.err = b.over
		return n, b.err
	}
	var timeout net.Error
	switch {
	case err == nil:
	case err == io.EOF:
		b.err = io.EOF
		// A deadline that stays would end the request while its end is waited for:
		// net/http goes on reading, to notice that the client goes.
		b.c.SetReadDeadline(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		b.err = &registry.Error{Code: codeTimeout, Err: err,
			Message: fmt.Sprintf("nothing came for %s", b.stall),
			Remedy:  "ask for the status of the upload (GET) and send the rest; what came before is kept"}
	default:
		b.err = fmt.Errorf("%w: %w", errGone, err)
	}
	return n, b.err
}

func (b *bodyReader) renew() {
	if b.stall <= 0 {
		return
	}
	if now := time.Now(); now.Sub(b.renewed) >= b.stall/8 {
		if b.c.SetReadDeadline(now.Add(b.stall)) == nil {
			b.renewed = now
		}
	}
}

// abandon is for the end of the request: net/http reads what is left of a body,
// up to a limit of its own, and would wait for it for ever.
func (b *bodyReader) abandon() {
	if b.err != io.EOF && b.stall > 0 {
		b.c.SetReadDeadline(time.Now().Add(min(b.stall, 5*time.Second)))
	}
}
