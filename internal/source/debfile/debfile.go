// Package debfile turns the bytes of a Debian binary package (deb(5)) into
// file entries, control data and the records that dpkg keeps of an installed
// package.
//
// A package is decompressed once: its data archive lies uncompressed in a
// cache folder named by the package's SHA-256, beside an index of what is in
// it, and every later use is a look at the index. Nothing is ever unpacked to
// paths that an archive names, no link is followed and no maintainer script is
// run: what a package says about paths stays data.
//
// It does not fetch packages or choose them (see package deb), and it does not
// decide which of their files an image gets (see package build).
package debfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// Package is one binary package, complete: what its control member says, the
// other control files, and every path that it ships.
type Package struct {
	Name    string     // Package field
	Version string     // Version field
	Arch    string     // Architecture field: a Debian architecture or "all"
	Digest  oci.Digest // SHA-256 of the .deb
	Control Stanza     // the control file

	// Members are the other control files in archive order: maintainer
	// scripts, conffiles, md5sums, triggers, shlibs, symbols, templates.
	Members []Member
	// Conffiles are the paths of the conffiles member, in its order.
	Conffiles []Conffile
	// Triggers are the directives of the triggers member, in its order.
	Triggers []Trigger
	// MD5Sums is the md5sums member. When the package has none it is made from
	// the data as dpkg does: every regular file that is not a conffile.
	MD5Sums []byte

	// Entries are the paths that the package ships, in archive order, without
	// the root itself. They are as shipped: see UsrMerge for a merged tree.
	Entries []filetree.Entry
	// DataFile is the uncompressed data archive that Entries point into.
	DataFile string
	// DataSize is its length in bytes.
	DataSize int64
}

// Member is one control file.
type Member struct {
	Name string // "postinst", "conffiles", …
	Mode int64  // permission bits as archived
	Data []byte
}

// Conffile is one line of the conffiles member.
type Conffile struct {
	Path   string // relative, like filetree.Entry.Path
	MD5    string // hex, of the bytes shipped; empty when the package ships no regular file there
	Remove bool   // "remove-on-upgrade": the package no longer ships the file
}

// Trigger is one directive of the triggers member (deb-triggers(5)).
type Trigger struct {
	Directive string // "interest", "interest-noawait", "activate", …
	Name      string // a trigger name, or an absolute path for a file trigger
}

// Member returns the bytes of a control file, or nil when there is none.
func (p *Package) Member(name string) []byte {
	for i := range p.Members {
		if p.Members[i].Name == name {
			return p.Members[i].Data
		}
	}
	return nil
}

// ID is the package's name as a lock spells it: "name_version_arch".
func (p *Package) ID() string { return p.Name + "_" + p.Version + "_" + p.Arch }

// InfoName is how dpkg spells the package where a name alone may be ambiguous:
// "name:arch" for packages that are Multi-Arch: same, else "name".
func (p *Package) InfoName() string {
	if p.Control.Get("Multi-Arch") == "same" {
		return p.Name + ":" + p.Arch
	}
	return p.Name
}

// dataName and indexName are the two files of a cache entry.
const (
	dataName  = "data.tar"
	indexName = "index"
)

// Open returns the package in the file debPath, whose SHA-256 must be digest.
// The uncompressed data archive and the index are taken from
// cacheDir/debs/<hex>/ when they are there and sound, else made there; two
// processes may do so at once. cacheDir must be absolute.
//
// An error names the file and says what is wrong with it; nothing is left in
// the cache then. A digest that does not match is reported in preference to
// whatever else the wrong bytes broke.
func Open(ctx context.Context, cacheDir, debPath string, digest oci.Digest) (*Package, error) {
	return open(ctx, cacheDir, debPath, digest, nil, nil)
}

// processors bounds how many packages are decompressed at once; taking and
// giving back a place is sending to it and receiving from it. A nil value
// bounds nothing.
type processors chan struct{}

func (p processors) take(ctx context.Context) error {
	if p == nil {
		return nil
	}
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p processors) give() {
	if p != nil {
		<-p
	}
}

func open(ctx context.Context, cacheDir, debPath string, digest oci.Digest, procs processors, read func(n int)) (*Package, error) {
	if !filepath.IsAbs(cacheDir) {
		return nil, fmt.Errorf("package cache: folder %q is not an absolute path", cacheDir)
	}
	if err := digest.Validate(); err != nil || digest.Algorithm() != "sha256" {
		return nil, fmt.Errorf("package %s: digest %q is not a SHA-256 digest", debPath, digest)
	}
	dir := filepath.Join(cacheDir, "debs", digest.Encoded())
	// An entry that cannot be read is made again: the .deb is the truth, the
	// cache only saves work.
	if p, err := load(dir, digest); err == nil {
		return p, nil
	}
	if err := convert(ctx, dir, debPath, digest, procs, read); err != nil {
		return nil, err
	}
	p, err := load(dir, digest)
	if err != nil {
		return nil, fmt.Errorf("package cache: the entry of %s, just written, cannot be read back: %w", debPath, err)
	}
	return p, nil
}

// convert makes the cache entry of a package in folder dir: first the data
// archive, then the index, each complete or absent. An entry without an index
// is none, so a crash between the two costs only the work. Two processes that
// make the same entry replace each other's files by equal ones, which disturbs
// no reader; a damaged entry is mended in the same way.
func convert(ctx context.Context, dir, debPath string, digest oci.Digest, procs processors, read func(n int)) error {
	f, err := os.Open(debPath)
	if err != nil {
		return fmt.Errorf("package: %w", err)
	}
	defer f.Close()
	if err := procs.take(ctx); err != nil {
		return err
	}
	held := true
	release := func() {
		if held {
			held = false
			procs.give()
		}
	}
	defer release()

	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("package cache: %w", err)
	}
	data, err := durable.Create(filepath.Join(dir, dataName), 0o666)
	if err != nil {
		return fmt.Errorf("package cache: %w", err)
	}
	defer data.Close()
	src := &source{ctx: ctx, r: f, hash: sha256.New(), read: read}
	c, err := unpack(src, data)
	// Read on to the end whatever happened, so that wrong bytes are called
	// wrong bytes and not by one of their symptoms.
	io.Copy(io.Discard, src)
	if src.err != io.EOF {
		return fmt.Errorf("package %s: %w", debPath, src.err)
	}
	if got := hex.EncodeToString(src.hash.Sum(nil)); got != digest.Encoded() {
		return fmt.Errorf("package %s has SHA-256 %s, but %s is wanted: fetch it again", debPath, got, digest.Encoded())
	}
	if err != nil {
		return fmt.Errorf("package %s: %w", debPath, err)
	}
	// Waiting for the disk needs no processor.
	release()
	if err := data.Commit(); err != nil {
		return fmt.Errorf("package cache: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, indexName), c.encode(), 0o666); err != nil {
		return fmt.Errorf("package cache: %w", err)
	}
	return nil
}

// source reads the .deb, hashes what it reads and ends when the context does.
type source struct {
	ctx  context.Context
	r    io.Reader
	hash hash.Hash
	read func(n int)
	err  error // the first error, io.EOF included
}

func (s *source) Read(b []byte) (int, error) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(b)
	s.hash.Write(b[:n])
	if s.read != nil {
		s.read(n)
	}
	s.err = err
	return n, err
}

// Input is one package for OpenAll.
type Input struct {
	Path   string     // of the .deb
	Digest oci.Digest // its SHA-256
}

// OpenAll is Open for many packages with the given number of processors (0: all
// that there are), the largest first so that none is left to run alone at the end. The result
// has the order of the inputs. progress, when not nil, is called with the bytes
// of all .deb files done so far and in total; calls do not overlap. The first
// error ends the work.
func OpenAll(ctx context.Context, cacheDir string, inputs []Input, parallel int, progress func(done, total int64)) ([]*Package, error) {
	type job struct {
		Input
		size int64
		at   []int
	}
	jobs := make(map[oci.Digest]*job, len(inputs))
	var order []*job
	var total int64
	for i, in := range inputs {
		j := jobs[in.Digest]
		if j == nil {
			j = &job{Input: in}
			// A missing file is Open's to report: its cache entry may do.
			if fi, err := os.Stat(in.Path); err == nil {
				j.size = fi.Size()
			}
			total += j.size
			jobs[in.Digest] = j
			order = append(order, j)
		}
		j.at = append(j.at, i)
	}
	sort.SliceStable(order, func(a, b int) bool { return order[a].size > order[b].size })

	var mu sync.Mutex
	var done int64
	add := func(n int64) {
		if progress == nil || n == 0 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		done += n
		progress(done, total)
	}
	out := make([]*Package, len(inputs))
	// A few more than there are processors wait for the disk meanwhile.
	if parallel <= 0 {
		parallel = runtime.GOMAXPROCS(0)
	}
	procs := make(processors, parallel)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(procs) + 8)
	for _, j := range order {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			var seen int64
			p, err := open(gctx, cacheDir, j.Path, j.Digest, procs, func(n int) {
				seen += int64(n)
				add(int64(n))
			})
			if err != nil {
				return err
			}
			add(j.size - seen)
			for _, i := range j.at {
				out[i] = p
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	// Nothing fails when the context ends before anything has begun.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return out, nil
}
