package distribution_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/distribution"
	"twinhull.dev/twinhull/internal/registry/distribution/conformance"
)

// client is a connection that asks for one thing again and again, cheaper than
// net/http's, so that what is measured is the server.
type client struct {
	c  net.Conn
	in *bufio.Reader
}

func dial(b *testing.B, srv *httptest.Server) *client {
	c, err := net.Dial("tcp", strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		b.Fatal(err)
	}
	return &client{c, bufio.NewReaderSize(c, 64<<10)}
}

// ask sends a request and reads the answer to its end.
func (c *client) ask(request []byte) error {
	if _, err := c.c.Write(request); err != nil {
		return err
	}
	length := int64(-1)
	for first := true; ; first = false {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("%q", line)
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64); err != nil {
				return err
			}
		}
		if len(line) <= 2 {
			break
		}
	}
	if length < 0 {
		return fmt.Errorf("no length")
	}
	// A blob is not copied to nowhere through the reader's buffer only.
	_, err := io.CopyN(io.Discard, c.in, length)
	return err
}

// perSecond asks for one path on several connections.
func perSecond(b *testing.B, srv *httptest.Server, path string) {
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: registry.example\r\nAccept: " + ocispec.MediaTypeImageManifest + "\r\nAuthorization: Basic dXNlcjpwYXNzd29yZA==\r\n\r\n")
	b.ReportAllocs()
	b.SetParallelism(5) // connections per processor
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		c := dial(b, srv)
		defer c.c.Close()
		for pb.Next() {
			if err := c.ask(request); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

// Manifests by tag, with a client of its own on the same processors.
func BenchmarkManifestByTag(b *testing.B) {
	for _, s := range stores {
		b.Run(s.name, func(b *testing.B) {
			r := newRegistry(b, s.open(b))
			srv := serve(b, distribution.Options{Registry: r, Observe: func(distribution.Observation) {}})
			x := conformance.Target{URL: srv.URL, Client: srv.Client()}
			blob := bytes.Repeat([]byte("x"), 100)
			d := digest.FromBytes(blob)
			x.Do(b, "POST", "/v2/team/app/dev/blobs/uploads/?digest="+d.String(), bytes.NewReader(blob))
			var layers []oci.Descriptor
			for range 8 {
				layers = append(layers, oci.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: 100})
			}
			m := conformance.Manifest(layers[0], layers, func(m *ocispec.Manifest) { m.Config.MediaType = "application/vnd.example.config" })
			if r := x.Do(b, "PUT", "/v2/team/app/dev/manifests/latest", bytes.NewReader(m), "Content-Type", ocispec.MediaTypeImageManifest); r.Status != 201 {
				b.Fatalf("%d %s", r.Status, r.Body)
			}
			perSecond(b, srv, "/v2/team/app/dev/manifests/latest")
		})
	}
}

// Blobs, beside the file server that net/http has.
func BenchmarkBlob(b *testing.B) {
	for _, size := range []int{1 << 20, 100 << 20} {
		data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		d := digest.FromBytes(data)
		b.Run(fmt.Sprintf("registry/%dMiB", size>>20), func(b *testing.B) {
			r := newRegistry(b, stores[1].open(b))
			id, err := r.StartUpload(b.Context(), "team/app/dev", audit.Actor{})
			if err != nil {
				b.Fatal(err)
			}
			if err := r.FinishUpload(b.Context(), id, registry.Finish{Repository: "team/app/dev", Digest: d, Last: bytes.NewReader(data)}, audit.Actor{}); err != nil {
				b.Fatal(err)
			}
			srv := serve(b, distribution.Options{Registry: r, Observe: func(distribution.Observation) {}})
			b.SetBytes(int64(size))
			perSecond(b, srv, "/v2/team/app/dev/blobs/"+d.String())
		})
		b.Run(fmt.Sprintf("file-server/%dMiB", size>>20), func(b *testing.B) {
			dir := b.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "blob"), data, 0o600); err != nil {
				b.Fatal(err)
			}
			srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
			defer srv.Close()
			b.SetBytes(int64(size))
			perSecond(b, srv, "/blob")
		})
	}
}
