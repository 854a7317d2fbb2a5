package inspect_test

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/inspect/corpus"
	"twinhull.dev/twinhull/internal/oci"
)

// benchImage opens the image that the variable TWINHULL_BENCH_IMAGE names (a
// folder with an OCI layout and a tag, "DIR:TAG"), else one that is made up of
// the programs, texts and archives of the corpus.
func benchImage(b *testing.B) (*oci.Layout, *image.Image) {
	b.Helper()
	var l *oci.Layout
	tag := corpus.Tag
	if name := os.Getenv("TWINHULL_BENCH_IMAGE"); name != "" {
		dir, t, ok := strings.Cut(name, ":")
		if !ok {
			b.Fatal("TWINHULL_BENCH_IMAGE: want DIR:TAG")
		}
		var err error
		if l, err = oci.OpenLayout(dir); err != nil {
			b.Fatal(err)
		}
		tag = t
	} else {
		var files []corpus.File
		line := "export function render(token, options) { return options.secret ? token.trim() : template(options, 'x'); }\n"
		for i := range 3000 {
			body := append(fmt.Appendf(nil, "// %d\n", i), strings.Repeat(line, 1+i%200)...)
			files = append(files, corpus.File{Name: fmt.Sprintf("app/node_modules/m%d/index.js", i), Body: body})
		}
		for i := range 40 {
			texts := make([]string, 8000)
			for j := range texts {
				texts[j] = fmt.Sprintf("error %d of %d: cannot %s the thing", j, i, []string{"open", "read", "write", "apply"}[j%4])
			}
			files = append(files, corpus.File{Name: fmt.Sprintf("usr/bin/p%d", i), Mode: 0o755, Body: corpus.ELF(texts)})
		}
		var err error
		if l, err = corpus.Write(b.TempDir(), corpus.With(files...)); err != nil {
			b.Fatal(err)
		}
	}
	img, err := image.Open(b.Context(), oci.Ref{Kind: oci.LayoutRef, Path: l.Dir(), Tag: tag}, image.OpenOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { img.Close() })
	return l, img
}

// processor reports processor seconds for each round: where others work on the
// same machine, they compare better than the time on the wall.
func processor(b *testing.B) func() {
	used := func() float64 {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
	}
	before := used()
	return func() { b.ReportMetric((used()-before)/float64(b.N), "cpu-s/op") }
}

// BenchmarkInspect reads a whole image. Compare it with BenchmarkFloor.
func BenchmarkInspect(b *testing.B) {
	_, img := benchImage(b)
	var size int64
	for _, d := range img.Manifest.Layers {
		size += d.Size
	}
	b.SetBytes(size)
	b.ReportAllocs()
	defer processor(b)()
	for b.Loop() {
		f, err := inspect.Inspect(b.Context(), img, inspect.Options{})
		if err != nil || !f.Complete {
			b.Fatal(err, f.Errors)
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys)/(1<<20), "MiB-sys")
}

// BenchmarkFloor uncompresses the same layers and computes digest and DiffID,
// which nobody who reads an image can leave out, with as many goroutines.
func BenchmarkFloor(b *testing.B) {
	l, img := benchImage(b)
	layers := slices.Clone(img.Manifest.Layers)
	slices.SortFunc(layers, func(x, y oci.Descriptor) int { return cmp.Compare(y.Size, x.Size) })
	var size int64
	for _, d := range layers {
		size += d.Size
	}
	b.SetBytes(size)
	defer processor(b)()
	for b.Loop() {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range min(runtime.GOMAXPROCS(0), 4) {
			wg.Go(func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(layers) {
						return
					}
					if err := floor(l, layers[i]); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
}

func floor(l *oci.Layout, d oci.Descriptor) error {
	p, err := l.BlobPath(d.Digest)
	if err != nil {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	blob, diff := sha256.New(), sha256.New()
	in := io.TeeReader(f, blob)
	var r io.Reader
	if strings.HasSuffix(d.MediaType, "zstd") {
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		defer z.Close()
		r = z
	} else if r, err = gzip.NewReader(in); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ hash.Hash }{diff}, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if got := fmt.Sprintf("sha256:%x", blob.Sum(nil)); got != string(d.Digest) {
		return fmt.Errorf("layer %s has the digest %s", d.Digest, got)
	}
	return nil
}
