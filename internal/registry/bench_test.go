package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/files"
)

// BenchmarkCollect collects 100,000 manifests with three blobs of their own each
// from a registry on files, while somebody pushes, and reports how long pushes
// took meanwhile and before. The blobs' files are written without waiting for the
// disk, since only their deletion is measured.
func BenchmarkCollect(b *testing.B) {
	const manifests = 100_000
	for range b.N {
		b.StopTimer()
		ctx := context.Background()
		dir := b.TempDir()
		s, err := files.Open(dir, files.Options{})
		if err != nil {
			b.Fatal(err)
		}
		now := time.Now()
		began := now
		var mu sync.Mutex
		clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		pass := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
		log := &memoryLog{c: &crasher{}}
		r, err := New(ctx, s.Store(), Options{Log: log, Now: clock, Steady: func() time.Duration { return clock().Sub(began) }})
		if err != nil {
			b.Fatal(err)
		}
		fill(b, r, dir, manifests)

		w := &world{t: b, inner: s.Store(), c: log.c, log: log, r: r, now: now}
		push := func(stop <-chan struct{}) (took []time.Duration) {
			for i := 0; ; i++ {
				select {
				case <-stop:
					slices.Sort(took)
					return took
				case <-time.After(5 * time.Millisecond):
				}
				start := time.Now()
				if _, err := w.manifest("other/dev", ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Annotations: map[string]string{"n": fmt.Sprint(i, time.Now().UnixNano())}}, ocispec.MediaTypeImageIndex, "x"); err != nil {
					b.Error(err)
				}
				took = append(took, time.Since(start))
			}
		}
		alone := make(chan struct{})
		time.AfterFunc(3*time.Second, func() { close(alone) })
		quiet := push(alone)

		stop := make(chan struct{})
		done := make(chan []time.Duration)
		go func() { done <- push(stop) }()
		var sum Collected
		b.StartTimer()
		for _, d := range []time.Duration{8 * day, 25 * time.Hour} {
			pass(d)
			c, err := r.Collect(ctx, false)
			if err != nil {
				b.Fatal(err)
			}
			sum.Manifests, sum.Contents = sum.Manifests+c.Manifests, sum.Contents+c.Contents
		}
		b.StopTimer()
		close(stop)
		busy := <-done
		if sum.Manifests < manifests || sum.Contents < 3*manifests {
			b.Fatalf("collected %+v", sum)
		}
		for name, took := range map[string][]time.Duration{"alone": quiet, "collecting": busy} {
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "push-ms-p50-"+name)
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "push-ms-max-"+name)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// fill makes manifests with three blobs each, in one repository for a hundred.
func fill(b *testing.B, r *Registry, dir string, manifests int) {
	b.Helper()
	ctx := context.Background()
	for at := 0; at < manifests; at += 1000 {
		err := r.store.Records.Update(ctx, func(tx store.Transaction) error {
			for i := at; i < min(at+1000, manifests); i++ {
				repo := fmt.Sprintf("shop/app%d/dev", i/100)
				m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
				m.SchemaVersion = 2
				for j := range 3 {
					content := fmt.Appendf(nil, "%d %d", i, j)
					d := oci.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(content), Size: int64(len(content))}
					path := filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded()[:2])
					if err := os.MkdirAll(path, 0o755); err != nil {
						return err
					}
					if err := os.WriteFile(filepath.Join(path, d.Digest.Encoded()), content, 0o644); err != nil {
						return err
					}
					if err := r.linkBlob(tx, repo, d.Digest, d.Size); err != nil {
						return err
					}
					if m.Layers = append(m.Layers, d); j == 0 {
						m.Config, m.Layers = d, nil
					}
				}
				raw, err := json.Marshal(m)
				if err != nil {
					return err
				}
				d := digest.FromBytes(raw)
				doc, err := readManifest(m.MediaType, raw, d)
				if err != nil {
					return err
				}
				doc.Pushed, doc.By = r.opt.Now(), alice
				if _, err := r.addManifest(tx, repo, d, doc, raw, doc.Pushed); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
