package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// Downloader gets bytes from mirrors. It need not be trusted: what it returns
// is believed only after a signature or a hash has been verified here.
type Downloader interface {
	// Get returns what is at url, at most limit bytes, fresh: a cache between
	// must not answer without asking.
	Get(ctx context.Context, url string, limit int64) ([]byte, error)

	// Blob returns the bytes with this digest and size, from the vault or else
	// from the first of urls that has them, and keeps them in the vault.
	Blob(ctx context.Context, d oci.Digest, size int64, urls []string) ([]byte, error)
}

// Vault keeps verified release files and gives locked inputs back.
type Vault interface {
	// ReadFile returns the bytes of d, of which there are at most limit. When
	// the vault does not hold them the error matches fs.ErrNotExist.
	ReadFile(d oci.Digest, limit int64) ([]byte, error)

	// PutBytes keeps data under its SHA-256.
	PutBytes(data []byte) (oci.Digest, error)
}

// Config says what Fetch fetches. Every field is needed.
type Config struct {
	Archive       string   // "debian/trixie"
	Architectures []string // "amd64", "arm64"; at least one

	// Main and Security are base URLs of mirrors, without a trailing slash, in
	// order of preference: "dists" and "pool" are below them.
	Main, Security []string

	Keyring Keyring
	Now     time.Time // the time at which signatures and dates are judged: --as-of, or the clock

	Downloader Downloader
	Vault      Vault // receives the InRelease files; Downloader.Blob keeps the indexes
}

// Snapshot is the state of an archive at one time: what can be installed, and
// the records by which a lock names that state.
type Snapshot struct {
	Universes map[string]*Universe // by architecture
	Archives  []project.Archive    // sorted by suite
	AsOf      time.Time            // newest date of the releases
}

// MaxIndex bounds a decompressed package index; Debian's main is 57 MB.
const MaxIndex = 512 << 20

// Fetch downloads and verifies the release files and package indexes of an
// archive. A mirror that fails or serves a release that cannot be believed is
// passed over for the next; the error joins what was wrong with each.
func Fetch(ctx context.Context, c Config) (*Snapshot, error) {
	suites, err := Suites(c.Archive)
	if err != nil {
		return nil, err
	}
	if len(c.Architectures) == 0 {
		return nil, errors.New("deb: no architecture asked for")
	}
	b := builder{archive: c.Archive, architectures: sorted(c.Architectures), suites: suites}
	b.init()
	g, ctx := errgroup.WithContext(ctx)
	for i, suite := range suites {
		g.Go(func() error {
			mirrors, kind := c.Main, "archive"
			if suite.Security {
				mirrors, kind = c.Security, "security archive"
			}
			if len(mirrors) == 0 {
				return fmt.Errorf("deb: no mirror of the %s is known for %s: name one in the machine's apt sources or the user's configuration", kind, suite.Name)
			}
			r, raw, err := c.release(ctx, suite.Name, mirrors)
			if err != nil {
				return err
			}
			kept, err := c.Vault.PutBytes(raw)
			if err != nil {
				return fmt.Errorf("deb: keep InRelease of %s: %w", suite.Name, err)
			}
			if kept != r.Digest {
				return fmt.Errorf("deb: InRelease of %s was kept as %s instead of %s", suite.Name, kept, r.Digest)
			}
			for k, arch := range b.architectures {
				g.Go(func() error {
					ix, data, err := c.index(ctx, r, suite.Name, arch, mirrors)
					if err != nil {
						return err
					}
					return b.add(i, k, r, ix, data)
				})
			}
			b.releases[i] = r
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return b.snapshot()
}

// release gets a suite's InRelease from the first mirror that serves a
// believable one.
func (c Config) release(ctx context.Context, suite string, mirrors []string) (*Release, []byte, error) {
	var errs []error
	for _, m := range mirrors {
		url := strings.TrimRight(m, "/") + "/dists/" + suite + "/InRelease"
		data, err := c.Downloader.Get(ctx, url, MaxInRelease)
		if err == nil {
			var r *Release
			if r, err = openRelease(data, suite, c.Keyring, c.Now); err == nil {
				return r, data, nil
			}
		}
		errs = append(errs, fmt.Errorf("%s: %w", url, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, nil, fmt.Errorf("deb: no mirror serves a release of %s that can be believed: %w", suite, errors.Join(errs...))
}

// openRelease verifies an InRelease file and that it is of the suite asked for:
// the signature of another suite's file would verify too.
func openRelease(data []byte, suite string, keys Keyring, now time.Time) (*Release, error) {
	r, err := ParseInRelease(data, keys, now)
	if err != nil {
		return nil, err
	}
	if r.Codename != suite {
		return nil, fmt.Errorf("deb: the mirror serves the release of %q where %q should be", r.Codename, suite)
	}
	return r, nil
}

func (c Config) index(ctx context.Context, r *Release, suite, arch string, mirrors []string) (project.Index, []byte, error) {
	path := IndexPath(arch)
	f, err := r.indexFile(arch)
	if err != nil {
		return project.Index{}, nil, err
	}
	var hashed, plain []string
	for _, m := range mirrors {
		base := strings.TrimRight(m, "/") + "/dists/" + suite + "/"
		if r.AcquireByHash {
			// By hash first: while a mirror is being updated, the plain path may
			// already hold the next index.
			dir := path[:strings.LastIndexByte(path, '/')]
			hashed = append(hashed, base+dir+"/by-hash/SHA256/"+f.SHA256.Encoded())
		}
		plain = append(plain, base+path)
	}
	data, err := c.Downloader.Blob(ctx, f.SHA256, f.Size, append(hashed, plain...))
	if err != nil {
		return project.Index{}, nil, fmt.Errorf("deb: package index %s of %s: %w", path, suite, err)
	}
	if err := verifyBytes(data, f); err != nil {
		return project.Index{}, nil, fmt.Errorf("deb: package index %s of %s: %w", path, suite, err)
	}
	return project.Index{Path: path, SHA256: f.SHA256, Size: f.Size}, data, nil
}

// indexFile finds the compressed index of an architecture in the release.
func (r *Release) indexFile(arch string) (File, error) {
	f, ok := r.Files[IndexPath(arch)]
	if !ok {
		return File{}, fmt.Errorf("deb: the release of %s has no %s; its architectures are %s and its components %s", r.Codename, IndexPath(arch), strings.Join(r.Architectures, ", "), strings.Join(r.Components, ", "))
	}
	if f.Size > MaxIndex {
		return File{}, fmt.Errorf("deb: %s of %s is said to have %d bytes; at most %d are read", IndexPath(arch), r.Codename, f.Size, MaxIndex)
	}
	return f, nil
}

func verifyBytes(data []byte, f File) error {
	if int64(len(data)) != f.Size {
		return fmt.Errorf("it has %d bytes, the signed release says %d: use another mirror", len(data), f.Size)
	}
	if got := digest.FromBytes(data); got != f.SHA256 {
		return fmt.Errorf("its hash is %s, the signed release says %s: use another mirror", got, f.SHA256)
	}
	return nil
}

// Restore rebuilds a snapshot from the vault alone, by the records that a lock
// holds: for a resolution without a network, and years later. Signatures are
// verified again, at the newest date of the records: what was valid when it was
// locked stays usable. It gives the same records back or fails.
func Restore(vault Vault, keys Keyring, records []project.Archive) (*Snapshot, error) {
	if len(records) == 0 {
		return nil, errors.New("deb: the lock names no archive: run `twinhull lock` with a network")
	}
	b := builder{archive: records[0].Name}
	var asOf time.Time
	arches := map[string]bool{}
	for _, a := range records {
		if a.Name != b.archive {
			return nil, fmt.Errorf("deb: records of %s and %s at once", b.archive, a.Name)
		}
		if a.Date.After(asOf) {
			asOf = a.Date
		}
		for _, ix := range a.Indexes {
			arch := strings.TrimSuffix(strings.TrimPrefix(ix.Path, Component+"/binary-"), "/Packages.xz")
			if ix.Path != IndexPath(arch) {
				return nil, fmt.Errorf("deb: the lock names an index %q of %s, which is none", ix.Path, a.Suite)
			}
			arches[arch] = true
		}
	}
	suites, err := Suites(b.archive)
	if err != nil {
		return nil, err
	}
	b.suites = suites
	for arch := range arches {
		b.architectures = append(b.architectures, arch)
	}
	b.architectures = sorted(b.architectures)
	b.init()
	var g errgroup.Group
	for i, suite := range suites {
		at := slices.IndexFunc(records, func(a project.Archive) bool { return a.Suite == suite.Name })
		if at < 0 || len(records) != len(suites) {
			return nil, fmt.Errorf("deb: the lock's records of %s are not its suites: run `twinhull lock` with a network", b.archive)
		}
		a := records[at]
		raw, err := vault.ReadFile(a.InRelease, MaxInRelease)
		if err != nil {
			return nil, fmt.Errorf("deb: InRelease of %s: %w", suite.Name, err)
		}
		if digest.FromBytes(raw) != a.InRelease {
			return nil, fmt.Errorf("deb: InRelease of %s in the vault is not %s: run `twinhull vault verify`", suite.Name, a.InRelease)
		}
		r, err := openRelease(raw, suite.Name, keys, restoreTime(a, asOf))
		if err != nil {
			return nil, err
		}
		b.releases[i] = r
		for k, arch := range b.architectures {
			f, err := r.indexFile(arch)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(a.Indexes, project.Index{Path: IndexPath(arch), SHA256: f.SHA256, Size: f.Size}) {
				return nil, fmt.Errorf("deb: the lock's record of %s for %s is not what its signed release says: run `twinhull lock`", suite.Name, arch)
			}
			g.Go(func() error {
				data, err := vault.ReadFile(f.SHA256, f.Size)
				if err == nil {
					err = verifyBytes(data, f)
				}
				if err != nil {
					return fmt.Errorf("deb: package index of %s for %s: %w", suite.Name, arch, err)
				}
				return b.add(i, k, r, project.Index{Path: IndexPath(arch), SHA256: f.SHA256, Size: f.Size}, data)
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return b.snapshot()
}

// restoreTime is when a recorded release is judged: the newest date of its
// snapshot, at which all of them were accepted together, but not after the
// release's own end. A suite can be a little older than the newest one.
func restoreTime(a project.Archive, asOf time.Time) time.Time {
	if a.ValidUntil != nil && asOf.After(*a.ValidUntil) {
		return *a.ValidUntil
	}
	return asOf
}

// builder gathers what goroutines read, each in its own place.
type builder struct {
	archive       string
	architectures []string
	suites        []Suite
	releases      []*Release
	packages      [][][]Package     // by suite and architecture
	indexes       [][]project.Index // likewise
}

func (b *builder) init() {
	b.releases = make([]*Release, len(b.suites))
	b.packages = make([][][]Package, len(b.suites))
	b.indexes = make([][]project.Index, len(b.suites))
	for i := range b.suites {
		b.packages[i] = make([][]Package, len(b.architectures))
		b.indexes[i] = make([]project.Index, len(b.architectures))
	}
}

// add decompresses and scans one verified index.
func (b *builder) add(suite, arch int, r *Release, ix project.Index, data []byte) error {
	limit := int64(MaxIndex)
	// The release lists the decompressed index too: its size is the exact bound.
	plain, listed := r.Files[strings.TrimSuffix(ix.Path, ".xz")]
	if listed {
		limit = min(limit, plain.Size)
	}
	text, err := decompress(data, limit)
	if err != nil {
		return fmt.Errorf("deb: package index %s of %s: %w", ix.Path, r.Codename, err)
	}
	if listed {
		if err := verifyBytes(text, plain); err != nil {
			return fmt.Errorf("deb: package index %s of %s, decompressed: %w", ix.Path, r.Codename, err)
		}
	}
	packages, err := ScanPackages(text)
	if err != nil {
		return fmt.Errorf("%w (index %s of %s)", err, ix.Path, r.Codename)
	}
	b.packages[suite][arch], b.indexes[suite][arch] = packages, ix
	return nil
}

func (b *builder) snapshot() (*Snapshot, error) {
	s := &Snapshot{Universes: map[string]*Universe{}}
	for k, arch := range b.architectures {
		var indexes []Index
		for i, suite := range b.suites {
			indexes = append(indexes, Index{Archive: b.archive, Suite: suite.Name, Packages: b.packages[i][k]})
		}
		u, err := NewUniverse(arch, indexes...)
		if err != nil {
			return nil, err
		}
		s.Universes[arch] = u
	}
	for i, suite := range b.suites {
		r := b.releases[i]
		s.Archives = append(s.Archives, project.Archive{
			Name: b.archive, Suite: suite.Name, InRelease: r.Digest, SignedBy: r.SignedBy,
			Date: r.Date, ValidUntil: r.ValidUntil, Indexes: b.indexes[i],
		})
		if r.Date.After(s.AsOf) {
			s.AsOf = r.Date
		}
	}
	slices.SortFunc(s.Archives, func(a, b project.Archive) int { return strings.Compare(a.Suite, b.Suite) })
	return s, nil
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

// RollbackError says that a mirror serves an older release than the one that
// is locked: its copy is out of date, or somebody replays an old state.
type RollbackError struct {
	Suite          string
	Locked, Served time.Time
}

func (e *RollbackError) Error() string {
	return fmt.Sprintf("deb: the mirror serves %s of %s, but the lock already has %s: use another mirror, or give --as-of %s when the older state is wanted",
		e.Suite, e.Served.UTC().Format(time.RFC3339), e.Locked.UTC().Format(time.RFC3339), e.Served.UTC().Format(time.DateOnly))
}

// CheckRollback compares the records of a lock with freshly fetched ones and
// returns a *RollbackError when a suite went back in time. Suites that the lock
// does not have are not judged.
func CheckRollback(locked, fetched []project.Archive) error {
	for _, f := range fetched {
		for _, l := range locked {
			if l.Name == f.Name && l.Suite == f.Suite && f.Date.Before(l.Date) {
				return &RollbackError{f.Suite, l.Date, f.Date}
			}
		}
	}
	return nil
}

// LockPackage gives the lock's record of a package.
func LockPackage(p *Package) project.Package {
	source, version := p.Source()
	return project.Package{
		Name: p.Name, Version: p.Version, Arch: p.Arch, Source: source, SourceVersion: version,
		Archive: p.Archive, Suite: p.Suite, Path: p.Path, Size: p.Size,
		SHA256: digest.NewDigestFromEncoded(digest.SHA256, p.SHA256),
	}
}

// LockOmissions gives the lock's record of a solution's omissions, in order.
func LockOmissions(s *Solution) []project.OmittedItem {
	var out []project.OmittedItem
	for _, o := range s.Omitted {
		out = append(out, project.OmittedItem{Name: o.Name, Reason: o.Reason, Needed: o.NeededBy})
	}
	return out
}

// readAtMost reads all of r, at most limit bytes; more is an error.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("it decompresses to more than the %d bytes that are allowed", limit)
	}
	return b.Bytes(), nil
}
