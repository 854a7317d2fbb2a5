package files

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/registry/store"
)

// latencies measures f, called by several at once, and reports the median and
// the 99th percentile.
func latencies(b *testing.B, par int, f func(i int)) {
	b.Helper()
	took := make([]time.Duration, b.N)
	next := make(chan int, b.N)
	for i := range b.N {
		next <- i
	}
	close(next)
	b.ResetTimer()
	var wg sync.WaitGroup
	for range par {
		wg.Go(func() {
			for i := range next {
				start := time.Now()
				f(i)
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// different gives contents of 1 MiB, and their digests, which are made before
// anything is measured.
func different(b *testing.B) func(i int) (io.Reader, digest.Digest) {
	base := make([]byte, 1<<20)
	_, _ = rand.Read(base)
	content := func(i int) io.Reader {
		head := fmt.Appendf(nil, "%020d", i)
		return io.MultiReader(bytes.NewReader(head), bytes.NewReader(base[len(head):]))
	}
	digests := make([]digest.Digest, b.N)
	for i := range digests {
		digests[i], _ = digest.FromReader(content(i))
	}
	return func(i int) (io.Reader, digest.Digest) { return content(i), digests[i] }
}

func BenchmarkOpenFresh(b *testing.B) {
	for b.Loop() {
		s, err := Open(b.TempDir(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		_ = s.Close()
	}
}

// BenchmarkPush is Create, Append of 1 MiB, Commit, an Update that refers to it,
// Discard: what a registry does for one monolithic push.
func BenchmarkPush(b *testing.B) {
	for _, par := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(par), func(b *testing.B) {
			s := openFiles(b, b.TempDir()).Store()
			make1 := different(b)
			ctx := context.Background()
			b.SetBytes(1 << 20)
			latencies(b, par, func(i int) {
				c, d := make1(i)
				push(b, s, c, d)
				if err := s.Records.Update(ctx, func(tx store.Transaction) error {
					return tx.Put([]byte("blob/"+string(d)), []byte(`{"size":1048576}`))
				}); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

func push(b *testing.B, s store.Store, c io.Reader, d digest.Digest) {
	ctx := context.Background()
	id, err := s.Uploads.Create(ctx)
	if err != nil {
		b.Error(err)
		return
	}
	if _, err := s.Uploads.Append(ctx, id, 0, c); err != nil {
		b.Error(err)
	}
	if _, err := s.Uploads.Commit(ctx, id, d); err != nil {
		b.Error(err)
	}
	if err := s.Uploads.Discard(ctx, id); err != nil {
		b.Error(err)
	}
}

// BenchmarkCommit is Commit alone, of 1 MiB that has just been appended.
func BenchmarkCommit(b *testing.B) {
	for _, par := range []int{1, 10} {
		b.Run(fmt.Sprint(par), func(b *testing.B) {
			s := openFiles(b, b.TempDir()).Store()
			make1 := different(b)
			ctx := context.Background()
			b.SetBytes(1 << 20)
			took := make([]time.Duration, b.N)
			latencies(b, par, func(i int) {
				c, d := make1(i)
				id, err := s.Uploads.Create(ctx)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Uploads.Append(ctx, id, 0, c); err != nil {
					b.Error(err)
				}
				start := time.Now()
				if _, err := s.Uploads.Commit(ctx, id, d); err != nil {
					b.Error(err)
				}
				took[i] = time.Since(start)
				if err := s.Uploads.Discard(ctx, id); err != nil {
					b.Error(err)
				}
			})
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "commit-p50-µs")
		})
	}
}

// BenchmarkFloor writes 1 MiB into a new file and synchronises it, and nothing else:
// no store can be durable sooner.
func BenchmarkFloor(b *testing.B) {
	for _, par := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(par), func(b *testing.B) {
			dir := b.TempDir()
			make1 := different(b)
			b.SetBytes(1 << 20)
			latencies(b, par, func(i int) {
				c, _ := make1(i)
				f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
				if err != nil {
					b.Error(err)
					return
				}
				defer f.Close()
				if _, err := io.Copy(f, c); err != nil {
					b.Error(err)
				}
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// BenchmarkLargeUpload is 100 MiB in one Append, and Commit.
func BenchmarkLargeUpload(b *testing.B) {
	s := openFiles(b, b.TempDir()).Store()
	c := make([]byte, 100<<20)
	_, _ = rand.Read(c)
	b.SetBytes(100 << 20)
	i := 0
	for b.Loop() {
		b.StopTimer()
		copy(c, fmt.Sprint(i))
		i++
		d := digest.FromBytes(c)
		b.StartTimer()
		push(b, s, bytes.NewReader(c), d)
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, par := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(par), func(b *testing.B) {
			r := openFiles(b, b.TempDir()).Store().Records
			value := bytes.Repeat([]byte("v"), 500)
			latencies(b, par, func(i int) {
				if err := r.Update(context.Background(), func(tx store.Transaction) error {
					return tx.Put(fmt.Appendf(nil, "key/%016x", uint64(i)*0x9e3779b97f4a7c15), value)
				}); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// BenchmarkView reads two records, as a manifest by its tag does.
func BenchmarkView(b *testing.B) {
	r := openFiles(b, b.TempDir()).Store().Records
	ctx := context.Background()
	const n = 100_000
	for i := 0; i < n; i += 1000 {
		if err := r.Update(ctx, func(tx store.Transaction) error {
			for j := range 1000 {
				if err := tx.Put(fmt.Appendf(nil, "key/%08d", i+j), make([]byte, 500)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := r.View(ctx, func(tx store.Reader) error {
				for _, k := range []int{i * 7919 % n, i * 104729 % n} {
					if _, ok, err := tx.Get(fmt.Appendf(nil, "key/%08d", k)); err != nil || !ok {
						return fmt.Errorf("%d: %t, %w", k, ok, err)
					}
				}
				return nil
			}); err != nil {
				b.Error(err)
			}
		}
	})
}
