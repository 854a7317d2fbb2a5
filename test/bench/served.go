package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// What is measured of registries.
const (
	servedRepo = "bench/app/dev" // a development catalog: the class that anybody may push to
	mib        = 1 << 20
	window     = 1500 * time.Millisecond // of a row that asks again and again
	imageLayer = 4 * mib
)

var (
	togethers = []int{1, 10, 100}
	blobSizes = []int{mib, 100 * mib}
)

// sample is one run of one server at one row.
type sample struct {
	load
	peak float64 // MiB
}

// bout lets servers take turns at a row.
type bout struct {
	id, what string
	unit     string                       // MB/s, /s, ms or MiB
	of       func(s sample) float64       // the figure
	tell     func(median []sample) string // beside it; may be nil
	got      map[string][]sample          // by product
	out      map[string]bool              // products that failed
	target   string
	meets    func(*Row) bool
	notes    []string
}

func newBout(id, what, unit string, of func(sample) float64) *bout {
	return &bout{id: id, what: what, unit: unit, of: of, got: map[string][]sample{}, out: map[string]bool{}}
}

// run takes one sample; a peer that fails is out of this row.
func (l *lab) sample(ctx context.Context, b *bout, p product, f func() (sample, error)) error {
	if b.out[p.name] {
		return nil
	}
	s, err := f()
	switch {
	case err == nil:
		b.got[p.name] = append(b.got[p.name], s)
		l.say("%s: %s %.1f %s", b.what, p.label(), b.of(s), b.unit)
	case p.name == "" || ctx.Err() != nil:
		return fmt.Errorf("%s: %w", b.what, err)
	default:
		first, _, _ := strings.Cut(err.Error(), "\n")
		l.say("%s: %s is out: %v", b.what, p.name, err)
		l.results.Skipped = append(l.results.Skipped, fmt.Sprintf("%s failed at %q: %s", p.name, b.what, first))
		b.out[p.name] = true
		delete(b.got, p.name)
	}
	return nil
}

// end makes the row.
func (l *lab) end(b *bout) *Row {
	row := &Row{ID: b.id, What: b.what, Unit: b.unit, Table: "registry", Higher: strings.HasSuffix(b.unit, "/s"), Peers: map[string]Figure{}, Target: b.target, meets: b.meets, Notes: b.notes}
	var processor, settled []string
	for _, name := range []string{"", distributionName, olaregName, fileServerName} {
		all := b.got[name]
		if len(all) == 0 {
			continue
		}
		f := Figure{}
		var p50, p99, cpu, durable []float64
		for _, s := range all {
			f.Runs = append(f.Runs, b.of(s))
			p50, p99 = append(p50, s.quantile(0.5)), append(p99, s.quantile(0.99))
			switch {
			case b.unit == "MB/s":
				cpu = append(cpu, s.processor/(float64(s.bytes)/1e9))
			case s.done > 0:
				cpu = append(cpu, s.processor/float64(s.done)*1e6)
			}
			durable = append(durable, float64(s.bytes)/1e6/(s.seconds+s.settled))
		}
		f.Median, f.P50, f.P99, f.CPU = median(f.Runs), median(p50), median(p99), median(cpu)
		label := product{name: name}.label()
		if b.unit == "MB/s" {
			processor = append(processor, fmt.Sprintf("%s %.2f", label, f.CPU))
			if all[0].settled > 0 {
				settled = append(settled, fmt.Sprintf("%s %.0f", label, median(durable)))
			}
		} else if b.unit == "/s" {
			processor = append(processor, fmt.Sprintf("%s %.0f", label, f.CPU))
		}
		if b.unit == "/s" {
			f.Detail = fmt.Sprintf("%.0f/s, p50 %.1f, p99 %.1f ms", f.Median, f.P50, f.P99)
		}
		if name == "" {
			row.Ours = &f
		} else {
			row.Peers[name] = f
		}
	}
	if len(settled) > 0 {
		row.Notes = append(row.Notes, "MB/s until the disk has all of it: "+strings.Join(settled, ", "))
	}
	switch {
	case len(processor) == 0:
	case b.unit == "MB/s":
		row.Notes = append(row.Notes, "processor seconds of the server for a GB: "+strings.Join(processor, ", "))
	default:
		row.Notes = append(row.Notes, "processor microseconds of the server for one: "+strings.Join(processor, ", "))
	}
	return l.results.add(row)
}

func (l *lab) wantsAny(ids ...string) bool {
	for _, id := range ids {
		if l.wants(id) {
			return true
		}
	}
	return false
}

func sizeName(n int) string {
	return fmt.Sprintf("%d MiB", n/mib)
}

// served measures ours beside other registries. Each is a process of its own over
// a folder of its own on the same disk, all are asked by the same client, in turns.
func (l *lab) served(ctx context.Context) error {
	var push, pull, small, all []string
	for _, size := range blobSizes {
		for _, n := range togethers {
			push = append(push, fmt.Sprintf("registry.push.%dMiB.%d", size/mib, n))
			pull = append(pull, fmt.Sprintf("registry.pull.%dMiB.%d", size/mib, n))
		}
	}
	for _, n := range togethers {
		small = append(small, fmt.Sprintf("registry.manifest.%d", n))
	}
	small = append(small, "registry.referrers.10", "registry.referrers.1000")
	images := []string{"registry.image.1", "registry.image.10"}
	standing := append(append([]string{"registry.memory"}, pull...), small...)
	all = append(append(append(all, push...), images...), standing...)
	if l.wantsAny(all...) {
		products := l.registries(ctx)
		for i := range products {
			l.results.Durability = append(l.results.Durability, products[i].label()+": "+durability[products[i].name])
		}
		if l.wantsAny(push...) {
			if err := l.servedPush(ctx, products); err != nil {
				return err
			}
		}
		if l.wantsAny(images...) {
			if err := l.servedImages(ctx, products); err != nil {
				return err
			}
		}
		if l.wantsAny(standing...) {
			if err := l.servedStanding(ctx, products); err != nil {
				return err
			}
		}
	}
	if err := l.servedRelease(ctx); err != nil {
		return err
	}
	return l.servedCollection(ctx)
}

// servedPush measures pushes of new blobs, from POST to the 201 of the PUT. Each
// round has new folders, since a full one is no fair start.
func (l *lab) servedPush(ctx context.Context, products []product) error {
	for _, size := range blobSizes {
		var bouts []*bout
		var sizes, workers, times []int
		for _, n := range togethers {
			id := fmt.Sprintf("registry.push.%dMiB.%d", size/mib, n)
			if !l.wants(id) {
				continue
			}
			each, count := size, max(4*n, 64)
			if size > mib {
				// So many bytes at the most, so that it is the server that is measured and
				// not how long a disk is patient.
				count = max(n, 4)
				each = min(size, int(l.pushBytes)/count/mib*mib)
			}
			b := newBout(id, fmt.Sprintf("push, %s, %d at once", sizeName(each), n), "MB/s", func(s sample) float64 { return s.megabytes() })
			b.target, b.meets = "> both", ahead
			if each != size {
				b.notes = append(b.notes, fmt.Sprintf("%d of %s: at most %.1f GB are pushed in a run (-push-bytes)", count, sizeName(each), float64(l.pushBytes)/1e9))
			}
			bouts, sizes, workers, times = append(bouts, b), append(sizes, each), append(workers, n), append(times, count)
		}
		if len(bouts) == 0 {
			continue
		}
		contents := map[int]*blobs{}
		for _, s := range append(sizes, 4096) {
			if contents[s] == nil {
				contents[s] = newBlobs(s, uint64(s/4096))
			}
		}
		for round := range l.slow {
			for _, p := range turned(products, round) {
				if err := l.pushRound(ctx, p, bouts, contents, sizes, workers, times); err != nil {
					return err
				}
			}
		}
		for _, b := range bouts {
			l.end(b)
		}
	}
	return nil
}

// turned begins each round with another one, since what came before has a say in
// what memory and disk are like.
func turned[T any](all []T, round int) []T {
	at := round % len(all)
	return append(slices.Clone(all[at:]), all[:at]...)
}

// touchMemory makes the machine have so much free memory that was used before. On
// a virtual machine the first use of a page costs ten times as much as the next
// one, and what is pushed goes to the page cache: without this, whoever comes after
// one that gave memory back is ahead by that alone.
func touchMemory(n int) error {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_POPULATE)
	if err != nil {
		return err
	}
	return syscall.Munmap(b)
}

func ahead(r *Row) bool { return len(r.Peers) == 0 || r.Ratio >= 1 }

func (l *lab) pushRound(ctx context.Context, p product, bouts []*bout, contents map[int]*blobs, sizes, workers, times []int) error {
	r, err := l.start(ctx, p)
	if err != nil {
		return err
	}
	defer r.stop()
	c := r.pusher()
	defer c.http.CloseIdleConnections()
	for i, b := range bouts {
		err := l.sample(ctx, b, p, func() (sample, error) {
			if err := c.warm(ctx, workers[i]); err != nil {
				return sample{}, err
			}
			if err := c.blob(ctx, servedRepo, contents[4096].next()); err != nil { // the repository exists
				return sample{}, err
			}
			settle()
			if err := touchMemory(sizes[i] * times[i]); err != nil {
				return sample{}, err
			}
			got, err := count(ctx, r, workers[i], times[i], func(ctx context.Context, _, _ int, bytes *atomic.Int64) error {
				next := contents[sizes[i]].next()
				if err := c.blob(ctx, servedRepo, next); err != nil {
					return err
				}
				bytes.Add(next.size())
				return nil
			})
			got.settled = settle().Seconds()
			return sample{load: got}, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type part struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

type imageManifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        part              `json:"config"`
	Layers        []part            `json:"layers"`
	Subject       *part             `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

func (m imageManifest) text() []byte {
	m.SchemaVersion, m.MediaType = 2, manifestType
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

// config is an image's configuration that no other has.
func config(layer string, n int64) *blob {
	b := &blob{tail: fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Labels":{"bench":"%d"}},"rootfs":{"type":"layers","diff_ids":[%q]}}`, n, layer)}
	b.digest = digestOf(b.tail)
	return b
}

// image pushes a whole image: each blob is asked for and pushed, then the
// manifest under a tag.
func (p *pusher) image(ctx context.Context, repo, tag string, layer, config *blob) error {
	for _, b := range []*blob{layer, config} {
		there, err := p.known(ctx, repo, b.digest)
		if err == nil && !there {
			err = p.blob(ctx, repo, b)
		}
		if err != nil {
			return err
		}
	}
	m := imageManifest{Config: part{configType, config.digest, config.size()}, Layers: []part{{layerType, layer.digest, layer.size()}}}
	return p.manifest(ctx, repo, tag, manifestType, m.text())
}

// servedImages measures pushes of images that are all new.
func (l *lab) servedImages(ctx context.Context, products []product) error {
	var bouts []*bout
	var workers []int
	for _, n := range []int{1, 10} {
		id := fmt.Sprintf("registry.image.%d", n)
		if !l.wants(id) {
			continue
		}
		b := newBout(id, fmt.Sprintf("push of an image (%s), %d at once", sizeName(imageLayer), n), "/s", func(s sample) float64 { return s.perSecond() })
		b.target, b.meets = "> both", ahead
		bouts, workers = append(bouts, b), append(workers, n)
	}
	layers := newBlobs(imageLayer, 77)
	for round := range l.slow {
		for _, p := range turned(products, round) {
			err := func() error {
				r, err := l.start(ctx, p)
				if err != nil {
					return err
				}
				defer r.stop()
				c := r.pusher()
				defer c.http.CloseIdleConnections()
				for i, b := range bouts {
					err := l.sample(ctx, b, p, func() (sample, error) {
						if err := c.warm(ctx, workers[i]); err != nil {
							return sample{}, err
						}
						settle()
						if err := touchMemory(imageLayer * (32 + 3*workers[i])); err != nil {
							return sample{}, err
						}
						got, err := count(ctx, r, workers[i], 32+3*workers[i], func(ctx context.Context, _, n int, bytes *atomic.Int64) error {
							layer := layers.next()
							if err := c.image(ctx, servedRepo, fmt.Sprintf("v%d", n), layer, config(layer.digest, layers.n.Load())); err != nil {
								return err
							}
							bytes.Add(layer.size())
							return nil
						})
						return sample{load: got}, err
					})
					if err != nil {
						return err
					}
				}
				return nil
			}()
			if err != nil {
				return err
			}
		}
	}
	for _, b := range bouts {
		l.end(b)
	}
	return nil
}

// stand is a server that has what it is asked for.
type stand struct {
	*running
	c       *pusher
	blobs   map[int][]string // paths by size
	tags    []string         // paths of manifests by tag
	subject map[int]string   // digests by the number of their referrers
}

const (
	smallBlobs = 16 // of 1 MiB
	largeBlobs = 3  // of 100 MiB
	manifests  = 16
)

// fill pushes all that is pulled later.
func (l *lab) fill(ctx context.Context, p product, contents map[int][]*blob) (*stand, error) {
	r, err := l.start(ctx, p)
	if err != nil {
		return nil, err
	}
	s := &stand{running: r, c: r.pusher(), blobs: map[int][]string{}, subject: map[int]string{}}
	err = func() error {
		for size, all := range contents {
			for _, b := range all {
				if err := s.c.blob(ctx, servedRepo, b); err != nil {
					return err
				}
				s.blobs[size] = append(s.blobs[size], "/v2/"+servedRepo+"/blobs/"+b.digest)
			}
		}
		// Manifests of eight layers, as images have; which blobs they are is nothing
		// to a manifest.
		all := contents[mib]
		for i := range manifests {
			cfg := config(all[0].digest, int64(i))
			if err := s.c.blob(ctx, servedRepo, cfg); err != nil {
				return err
			}
			m := imageManifest{Config: part{configType, cfg.digest, cfg.size()}}
			for _, b := range all[:8] {
				m.Layers = append(m.Layers, part{layerType, b.digest, b.size()})
			}
			tag := fmt.Sprintf("v1.%d", i)
			if err := s.c.manifest(ctx, servedRepo, tag, manifestType, m.text()); err != nil {
				return err
			}
			s.tags = append(s.tags, "/v2/"+servedRepo+"/manifests/"+tag)
			if i < 2 && p.name != distributionName {
				n := []int{10, 1000}[i]
				if !l.wants(fmt.Sprintf("registry.referrers.%d", n)) {
					continue
				}
				content := m.text()
				s.subject[n] = digestOf(content)
				if err := s.refer(ctx, part{manifestType, s.subject[n], int64(len(content))}, n); err != nil {
					return err
				}
			}
		}
		return nil
	}()
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// refer pushes referrers of a subject, as signatures are.
func (s *stand) refer(ctx context.Context, subject part, n int) error {
	empty := &blob{tail: []byte("{}"), digest: digestOf([]byte("{}"))}
	if err := s.c.blob(ctx, servedRepo, empty); err != nil {
		return err
	}
	nothing := part{"application/vnd.oci.empty.v1+json", empty.digest, 2}
	_, err := count(ctx, s.running, 8, n, func(ctx context.Context, _, i int, _ *atomic.Int64) error {
		m := imageManifest{ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Config: nothing, Layers: []part{nothing}, Subject: &subject,
			Annotations: map[string]string{"org.opencontainers.image.created": "2026-01-01T00:00:00Z", "dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1", "n": fmt.Sprint(i)}}
		content := m.text()
		return s.c.manifest(ctx, servedRepo, digestOf(content), manifestType, content)
	})
	return err
}

// servedStanding measures what is read, from servers that stay.
func (l *lab) servedStanding(ctx context.Context, products []product) error {
	contents := map[int][]*blob{}
	for size, n := range map[int]int{mib: smallBlobs, 100 * mib: largeBlobs} {
		from := newBlobs(size, uint64(size/mib+5))
		for range n {
			contents[size] = append(contents[size], from.next())
		}
	}
	var stands []*stand
	defer func() {
		for _, s := range stands {
			s.stop()
		}
	}()
	for _, p := range products {
		s, err := l.fill(ctx, p, contents)
		if err != nil {
			if p.name == "" {
				return err
			}
			first, _, _ := strings.Cut(err.Error(), "\n")
			l.results.Skipped = append(l.results.Skipped, fmt.Sprintf("%s could not be filled: %s", p.name, first))
			continue
		}
		stands = append(stands, s)
	}
	plain, err := l.plainFiles(ctx, contents)
	if err != nil {
		return err
	}
	settle()
	defer plain.stop()
	if err := l.pulls(ctx, append(stands, plain)); err != nil {
		return err
	}
	if err := l.manifests(ctx, stands); err != nil {
		return err
	}
	return l.referrers(ctx, stands)
}

// plainFiles is a file server over the same bytes.
func (l *lab) plainFiles(ctx context.Context, contents map[int][]*blob) (*stand, error) {
	dir := l.path("plain")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &stand{blobs: map[int][]string{}}
	for size, all := range contents {
		for _, b := range all {
			name := strings.ReplaceAll(b.digest, ":", "-")
			if err := os.WriteFile(filepath.Join(dir, name), append(append([]byte{}, b.head...), b.tail...), 0o644); err != nil {
				return nil, err
			}
			s.blobs[size] = append(s.blobs[size], "/"+name)
		}
	}
	var err error
	if s.running, err = l.start(ctx, fileServer(dir)); err != nil {
		return nil, err
	}
	s.c = s.running.pusher()
	return s, nil
}

func (l *lab) pulls(ctx context.Context, stands []*stand) error {
	memory := newBout("registry.memory", "peak memory, 100 pulls of 100 MiB at once", "MiB", func(s sample) float64 { return s.peak })
	memory.target, memory.meets = "<= 64 MiB", func(r *Row) bool { return r.Ours.Median <= 64 }
	for _, size := range blobSizes {
		for _, n := range togethers {
			id := fmt.Sprintf("registry.pull.%dMiB.%d", size/mib, n)
			peak := l.wants("registry.memory") && size > mib && n == 100
			if !l.wants(id) && !peak {
				continue
			}
			b := newBout(id, fmt.Sprintf("pull, %s, %d at once", sizeName(size), n), "MB/s", func(s sample) float64 { return s.megabytes() })
			b.target, b.meets = "> both", func(r *Row) bool {
				for _, name := range []string{distributionName, olaregName} {
					if f, ok := r.Peers[name]; ok && f.Median > r.Ours.Median {
						return false
					}
				}
				return true
			}
			if size > mib {
				both := b.meets
				b.target, b.meets = "> both, 90 % of files", func(r *Row) bool {
					return both(r) && r.Ours.Median >= 0.9*r.Peers[fileServerName].Median
				}
			}
			buffers := make([][]byte, n)
			for i := range buffers {
				buffers[i] = make([]byte, 256<<10)
			}
			for round := range l.slow {
				for _, s := range turned(stands, round) {
					err := l.sample(ctx, b, s.product, func() (sample, error) {
						if s.name != fileServerName {
							if err := s.c.warm(ctx, n); err != nil {
								return sample{}, err
							}
						}
						if err := s.forgetPeak(); err != nil {
							return sample{}, err
						}
						got, err := during(ctx, s.running, n, window, func(ctx context.Context, w, i int, bytes *atomic.Int64) error {
							return s.c.pull(ctx, s.blobs[size][i%len(s.blobs[size])], buffers[w], bytes)
						})
						out := sample{load: got, peak: s.peak()}
						if peak && err == nil && s.name != fileServerName {
							memory.got[s.name] = append(memory.got[s.name], out)
						}
						return out, err
					})
					s.c.http.CloseIdleConnections() // those that were cut off are gone as well
					if err != nil {
						return err
					}
				}
			}
			if l.wants(id) {
				row := l.end(b)
				if f, ok := row.Peers[fileServerName]; ok && row.Ours != nil {
					row.Notes = append(row.Notes, fmt.Sprintf("%.0f %% of what the file server of net/http reaches", 100*row.Ours.Median/f.Median))
				}
			}
		}
	}
	if l.wants(memory.id) {
		l.end(memory)
	}
	return nil
}

// ask asks for small things again and again, each worker on a connection of its
// own.
func (l *lab) ask(ctx context.Context, s *stand, workers int, requests [][]byte) (sample, error) {
	wires := make([]*wire, workers)
	defer func() {
		for _, w := range wires {
			if w != nil {
				w.c.Close()
			}
		}
	}()
	one := func(w int, i int, bytes *atomic.Int64) error {
		status, n, err := wires[w].get(requests[i%len(requests)])
		bytes.Add(n)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	}
	var ignored atomic.Int64
	for w := range wires {
		var err error
		if wires[w], err = s.dial(); err != nil {
			return sample{}, err
		}
		if err := one(w, w, &ignored); err != nil {
			return sample{}, err
		}
	}
	got, err := during(ctx, s.running, workers, window, func(_ context.Context, w, i int, bytes *atomic.Int64) error { return one(w, i, bytes) })
	return sample{load: got}, err
}

func (l *lab) manifests(ctx context.Context, stands []*stand) error {
	for _, n := range togethers {
		id := fmt.Sprintf("registry.manifest.%d", n)
		if !l.wants(id) {
			continue
		}
		b := newBout(id, fmt.Sprintf("manifest by tag, %d at once", n), "/s", func(s sample) float64 { return s.perSecond() })
		b.target, b.meets = "> both", ahead
		if n == 10 {
			b.target, b.meets = "> both, 10,000/s, p99 3 ms", func(r *Row) bool { return ahead(r) && r.Ours.Median >= 10_000 && r.Ours.P99 <= 3 }
		}
		for round := range l.slow {
			for _, s := range turned(stands, round) {
				var requests [][]byte
				for _, path := range s.tags {
					requests = append(requests, request(path, manifestType, "application/vnd.oci.image.index.v1+json"))
				}
				if err := l.sample(ctx, b, s.product, func() (sample, error) { return l.ask(ctx, s, n, requests) }); err != nil {
					return err
				}
			}
		}
		l.end(b)
	}
	return nil
}

func (l *lab) referrers(ctx context.Context, stands []*stand) error {
	for _, n := range []int{10, 1000} {
		id := fmt.Sprintf("registry.referrers.%d", n)
		if !l.wants(id) {
			continue
		}
		b := newBout(id, fmt.Sprintf("listing %d referrers, 10 at once", n), "/s", func(s sample) float64 { return s.perSecond() })
		b.target, b.meets = "> olareg", ahead
		b.notes = append(b.notes, "distribution has no referrers")
		for round := range l.slow {
			for _, s := range turned(stands, round) {
				if s.subject[n] == "" {
					continue
				}
				requests := [][]byte{request("/v2/"+servedRepo+"/referrers/"+s.subject[n], "application/vnd.oci.image.index.v1+json")}
				if err := l.sample(ctx, b, s.product, func() (sample, error) { return l.ask(ctx, s, 10, requests) }); err != nil {
					return err
				}
			}
		}
		l.end(b)
	}
	return nil
}

// servedCollection is package registry's own benchmark: it fills a store without
// waiting for the disk, which no client can, and needs a clock that jumps.
func (l *lab) servedCollection(ctx context.Context) error {
	id := "registry.collection"
	if !l.wants(id) || !l.long {
		return nil
	}
	program := l.path("registry.test")
	if err := l.compile(ctx, "./internal/registry", program); err != nil {
		return err
	}
	o, err := run(ctx, command{dir: l.scratch, env: []string{"TMPDIR=" + l.scratch}, args: []string{program, "-test.run=^$", "-test.bench=^BenchmarkCollect$", "-test.benchtime=1x", "-test.timeout=20m"}})
	if err != nil {
		return err
	}
	figures := benchmarkFigures(string(o.stdout))
	seconds := figures["ns/op"] / 1e9
	if seconds == 0 {
		return errors.New("BenchmarkCollect printed no time")
	}
	row := &Row{ID: id, What: "collection of 100,000 manifests, 300,000 blobs", Unit: "s", Table: "registry", Ours: &Figure{Median: seconds, Runs: []float64{seconds}}}
	row.Target, row.meets = "< 60 s, pushes < 50 ms", func(r *Row) bool { return r.Ours.Median < 60 && figures["push-ms-max-collecting"] < 50 }
	row.Notes = append(row.Notes, fmt.Sprintf("somebody pushes meanwhile, one manifest after the other: p50 %.1f ms and at most %.1f ms; before the collection p50 %.1f ms and at most %.1f ms",
		figures["push-ms-p50-collecting"], figures["push-ms-max-collecting"], figures["push-ms-p50-alone"], figures["push-ms-max-alone"]))
	l.results.add(row)
	return nil
}
