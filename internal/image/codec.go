package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// Codec is how a layer is compressed. The compressors are libraries pinned in
// go.mod, not the standard library's, so that the bits do not change with the
// version of Go.
type Codec string

// The codecs.
const (
	Gzip    Codec = "gzip"    // read by everything
	Zstd    Codec = "zstd"    // faster and smaller; Docker 23, containerd 1.5, podman 3 and later
	EStargz Codec = "estargz" // gzip with an index, for lazy pulling; an ordinary gzip layer to everyone else
)

// ParseCodec accepts the three names; "" means Gzip.
func ParseCodec(s string) (Codec, error) {
	if s == "" {
		return Gzip, nil
	}
	c := Codec(s)
	return c, c.valid()
}

func (c Codec) valid() error {
	switch c {
	case Gzip, Zstd, EStargz:
		return nil
	}
	return fmt.Errorf("unknown layer compression %q: want gzip, zstd or estargz", string(c))
}

// MediaType is the OCI media type of a layer with this codec.
func (c Codec) MediaType() string {
	if c == Zstd {
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayerGzip
}

// Parameters of assembler 1. doc/images.md has the measurement behind gzipLevel.
const (
	gzipLevel = 3
	gzipBlock = 1 << 20 // bytes of input that are compressed on their own, with the 32 KiB before them as dictionary
	zstdLevel = zstd.SpeedDefault

	estargzChunk = 4 << 20 // bytes of a file that can be fetched on their own
)

// maxGzipWorkers bounds the blocks of one layer that are compressed at once; the
// number does not show in the bits. Each holds about 4 MiB.
const maxGzipWorkers = 8

// LayerBlob is a layer as it is in an image.
type LayerBlob struct {
	DiffID       oci.Digest `json:"diffID"` // SHA-256 of the uncompressed layer (image-spec config.md)
	Digest       oci.Digest `json:"digest"` // SHA-256 of the blob
	Size         int64      `json:"size"`   // bytes of the blob
	Uncompressed int64      `json:"uncompressed"`
	Codec        Codec      `json:"codec"`
	TOC          oci.Digest `json:"toc,omitempty"` // EStargz: of the index's JSON
}

// Descriptor returns the layer's entry in a manifest. An eStargz layer carries
// the annotations that let a runtime verify its index before it trusts it.
func (b LayerBlob) Descriptor() oci.Descriptor {
	d := oci.Descriptor{MediaType: b.Codec.MediaType(), Digest: b.Digest, Size: b.Size}
	if b.Codec == EStargz {
		d.Annotations = map[string]string{
			estargz.TOCJSONDigestAnnotation:         string(b.TOC),
			estargz.StoreUncompressedSizeAnnotation: strconv.FormatInt(b.Uncompressed, 10),
		}
	}
	return d
}

// counter is a writer that hashes and counts what it passes on.
type counter struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.h.Write(p[:n])
	c.n += int64(n)
	return n, err
}

func (c *counter) digest() oci.Digest { return digest.NewDigest(digest.SHA256, c.h) }

// assemble writes the layer of sorted entries to w: DiffID and Digest are
// computed in the same pass.
func assemble(w io.Writer, sorted []*filetree.Entry, codec Codec, contents *contentReader) (LayerBlob, error) {
	out := &counter{w: w, h: sha256.New()}
	blob := LayerBlob{Codec: codec}
	if codec == EStargz {
		if err := assembleEStargz(out, &blob, sorted, contents); err != nil {
			return LayerBlob{}, err
		}
		blob.Digest, blob.Size = out.digest(), out.n
		return blob, nil
	}
	z, err := newCompressor(out, codec)
	if err != nil {
		return LayerBlob{}, err
	}
	in := &counter{w: z, h: sha256.New()}
	err = writeTar(in, sorted, contents)
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return LayerBlob{}, err
	}
	blob.DiffID, blob.Uncompressed = in.digest(), in.n
	blob.Digest, blob.Size = out.digest(), out.n
	return blob, nil
}

// newCompressor returns the fixed compressor of a codec.
func newCompressor(w io.Writer, codec Codec) (io.WriteCloser, error) {
	switch codec {
	case Gzip:
		z, err := pgzip.NewWriterLevel(w, gzipLevel)
		if err != nil {
			return nil, err
		}
		z.ModTime = time.Unix(0, 0) // "no time stamp is available" (RFC 1952)
		if err := z.SetConcurrency(gzipBlock, min(runtime.GOMAXPROCS(0), maxGzipWorkers)); err != nil {
			return nil, err
		}
		return z, nil
	case Zstd:
		// One goroutine: how the encoder divides its work among several is not
		// promised to stay the same. Layers are written side by side instead.
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstdLevel), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	}
	return nil, codec.valid()
}

// assembleEStargz writes the layer in the eStargz form: every file is a gzip
// member of its own and an index follows.
//
// The tar stream is taken unchanged ("lossless"), with its end-of-archive
// blocks. So the index comes after the end of the archive: runtimes that know
// nothing of it do not unpack it, and the file tree is the one that was asked
// for, without a stargz.index.json that nothing explains. The landmark files
// that other tools add (.no.prefetch.landmark) would be such strangers too.
func assembleEStargz(out *counter, blob *LayerBlob, sorted []*filetree.Entry, contents *contentReader) error {
	for _, e := range sorted {
		if e.Path == estargz.TOCTarName {
			return pathError(e.Path, "is the name of eStargz's own index: choose gzip or zstd for this layer")
		}
	}
	gz := &stargzGzip{}
	sw := estargz.NewWriterWithCompressor(out, gz)
	sw.ChunkSize = estargzChunk
	pr, pw := io.Pipe()
	in := &counter{w: pw, h: sha256.New()}
	wrote := make(chan error, 1)
	go func() {
		err := writeTar(in, sorted, contents)
		pw.CloseWithError(err)
		wrote <- err
	}()
	err := sw.AppendTarLossLess(pr)
	if err != nil {
		pr.CloseWithError(errStopped)
	}
	// The library flattens errors to text, so the tar writer's own is told
	// first, unless it is only the echo of the library's.
	if werr := <-wrote; werr != nil && !errors.Is(werr, errStopped) {
		return werr
	}
	if err != nil {
		return fmt.Errorf("eStargz: %w", err)
	}
	toc, err := sw.Close()
	if err != nil {
		return fmt.Errorf("eStargz: %w", err)
	}
	blob.DiffID, blob.TOC = oci.Digest(sw.DiffID()), toc
	blob.Uncompressed = in.n + gz.tocSize
	return nil
}

// errStopped ends a tar writer whose reader has failed.
var errStopped = errors.New("reader stopped")

// stargzGzip is eStargz's gzip with our pinned compressor in place of the
// standard library's.
type stargzGzip struct {
	tocSize int64 // uncompressed bytes of the index's tar
	pool    sync.Pool
}

// pooledGzip gives its state back when it is closed: an eStargz layer makes a
// gzip member for every file, and a new state costs more than most files.
type pooledGzip struct {
	*gzip.Writer
	pool *sync.Pool
}

func (p *pooledGzip) Close() error {
	err := p.Writer.Close()
	p.pool.Put(p.Writer)
	return err
}

// Writer implements estargz.Compressor.
func (s *stargzGzip) Writer(w io.Writer) (estargz.WriteFlushCloser, error) {
	if z, ok := s.pool.Get().(*gzip.Writer); ok {
		z.Reset(w)
		return &pooledGzip{z, &s.pool}, nil
	}
	z, err := gzip.NewWriterLevel(w, gzipLevel)
	if err != nil {
		return nil, err
	}
	return &pooledGzip{z, &s.pool}, nil
}

// WriteTOCAndFooter implements estargz.Compressor: the index as a tar with one
// member in a gzip member of its own, then the 51-byte footer that says where
// it begins (eStargz specification, "Footer").
func (s *stargzGzip) WriteTOCAndFooter(w io.Writer, off int64, toc *estargz.JTOC, diffHash hash.Hash) (digest.Digest, error) {
	text, err := json.Marshal(toc)
	if err != nil {
		return "", err
	}
	z, err := gzip.NewWriterLevel(w, gzipLevel)
	if err != nil {
		return "", err
	}
	var gw io.Writer = z
	if diffHash != nil {
		gw = io.MultiWriter(z, diffHash)
	}
	entry := &filetree.Entry{Path: estargz.TOCTarName, Type: tar.TypeReg, Size: int64(len(text))}
	head, err := appendHeader(nil, entry)
	if err != nil {
		return "", err
	}
	for _, p := range [][]byte{head, text, zeros[:pad(entry.Size)], zeros[:2*tarBlock]} {
		if _, err := gw.Write(p); err != nil {
			return "", err
		}
		s.tocSize += int64(len(p))
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	field := fmt.Sprintf("%016xSTARGZ", off)
	extra := []byte{'S', 'G', 0, 0}
	binary.LittleEndian.PutUint16(extra[2:], uint16(len(field)))
	if _, err := w.Write(estargz.CreateGzipFooter(append(extra, field...))); err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:])), nil
}
