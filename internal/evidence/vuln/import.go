package vuln

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
)

// maxUnpacked bounds the records of one source together. All of OSV has some
// tens of gigabytes.
const maxUnpacked = 64 << 30

// ImportOptions say what to make of the sources.
type ImportOptions struct {
	// Now is the time of the import. It is kept, and dates of records behind it
	// are not believed.
	Now time.Time

	// Ecosystems are what sources hold whole, by their OSV names, where their
	// records do not tell: a folder with records of several. Each source takes
	// those of them that it has records of.
	Ecosystems []string

	// AsOf dates the records of sources that have no dates at all; zero for
	// nothing. It is not used for others.
	AsOf time.Time

	// Passed, when not nil, is told how many bytes of the sources were read.
	Passed func(n int64)
}

// Import makes a database in dir, a folder that is made when it is not there,
// out of the sources in paths: zips as OSV publishes them ("npm/all.zip"),
// folders of records (ID.json), and folders of these. It replaces a database
// that is there once the new one is complete, and leaves it alone on error.
//
// One record that cannot be read fails the import, because it may be the one
// that matters. So do two sources of one ecosystem: which of them would be right
// cannot be told.
//
// Memory is bounded whatever the sources hold; the folder needs room for about
// twice the size of the database while it is being made.
func Import(ctx context.Context, dir string, paths []string, opt ImportOptions) (Status, error) {
	if opt.Now.IsZero() {
		return Status{}, errors.New("import of vulnerabilities: no time is given")
	}
	if !opt.AsOf.IsZero() && opt.AsOf.After(opt.Now) {
		return Status{}, fmt.Errorf("import of vulnerabilities: records as of %s, which is in the future", opt.AsOf.Format(time.RFC3339))
	}
	var places []place
	for _, p := range paths {
		found, err := find(p)
		if err != nil {
			return Status{}, err
		}
		places = append(places, found...)
	}
	if len(places) == 0 {
		return Status{}, errors.New("no vulnerability records: want all.zip of an ecosystem, or a folder of such zips or of records")
	}
	if len(places) > maxSources {
		return Status{}, fmt.Errorf("%d sources, more than %d", len(places), maxSources)
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return Status{}, err
	}
	unlock, err := durable.Lock(ctx, filepath.Join(dir, "lock"), nil)
	if err != nil {
		return Status{}, err
	}
	defer unlock()
	if err := durable.Sweep(dir, 24*time.Hour); err != nil {
		return Status{}, err
	}
	tmp, err := durable.TempDir(dir)
	if err != nil {
		return Status{}, err
	}
	defer os.RemoveAll(tmp)

	im := importer{opt: opt, spool: newSpool(tmp)}
	for i, p := range places {
		im.source = i
		im.seen = tally{}
		if err := im.read(ctx, p); err != nil {
			return Status{}, fmt.Errorf("%s: %w", p.path, err)
		}
		s, err := im.finishSource(p)
		if err != nil {
			return Status{}, fmt.Errorf("%s: %w", p.path, err)
		}
		im.sources = append(im.sources, s)
	}
	if err := im.disjoint(); err != nil {
		return Status{}, err
	}
	out, err := durable.Create(filepath.Join(dir, fileName), 0o644)
	if err != nil {
		return Status{}, err
	}
	defer out.Close()
	s, err := im.write(ctx, out)
	if err != nil {
		return Status{}, err
	}
	return s, out.Commit()
}

const maxSources = 10_000

// place is where one source is.
type place struct {
	path   string
	name   string // its last two elements
	folder bool   // of records, not a zip
}

// find lists the sources of an argument: the file itself, or what a folder and
// the folders in it hold.
func find(p string) ([]place, error) {
	fi, err := os.Stat(p)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		if !fi.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: neither a file nor a folder", p)
		}
		return []place{{p, lastTwo(p), false}}, nil
	}
	places, folders, err := list(p)
	if err != nil {
		return nil, err
	}
	for _, sub := range folders {
		more, _, err := list(sub)
		if err != nil {
			return nil, err
		}
		places = append(places, more...)
	}
	if len(places) == 0 {
		return nil, fmt.Errorf("%s: no zips and no records (ID.json) in it or in the folders in it", p)
	}
	return places, nil
}

func lastTwo(p string) string {
	if abs, err := filepath.Abs(p); err == nil {
		p = abs
	}
	return path.Join(filepath.Base(filepath.Dir(p)), filepath.Base(p))
}

func list(dir string) (places []place, folders []string, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	records := false
	for {
		// In parts: a folder of records has some hundred thousand.
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			switch full := filepath.Join(dir, e.Name()); {
			case durable.IsTemp(e.Name()):
			case e.IsDir():
				folders = append(folders, full)
			case strings.HasSuffix(e.Name(), ".zip"):
				places = append(places, place{full, lastTwo(full), false})
			case strings.HasSuffix(e.Name(), ".json"):
				records = true
			}
		}
		if len(folders)+len(places) > maxSources {
			return nil, nil, fmt.Errorf("%s: more than %d sources", dir, maxSources)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, err
		}
	}
	slices.Sort(folders)
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.path, b.path) })
	if records {
		places = append(places, place{dir, lastTwo(dir), true})
	}
	return places, folders, nil
}

// tally is what was seen of one source.
type tally struct {
	sum       oci.Digest
	records   int
	withdrawn int
	unpacked  int64
	newest    time.Time
	dated     bool
	all       []string       // full names of ecosystems that every record has
	bases     []string       // and without releases
	any       bool           // all and bases were set
	every     map[string]int // full names, with how many records
}

type importer struct {
	opt     ImportOptions
	spool   *spool
	source  int // number of the one that is read
	seen    tally
	sources []Source
	key     []byte
}

func (im *importer) read(ctx context.Context, p place) error {
	if p.folder {
		return im.readFolder(ctx, p.path)
	}
	f, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	// Hashed first, so that a file that changes meanwhile has another digest
	// than it is said to have, and no zip can choose what is hashed.
	h := sha256.New()
	if _, err := io.Copy(h, &counted{f, ctx, im.opt.Passed}); err != nil {
		return err
	}
	im.seen.sum = digest.NewDigest(digest.SHA256, h)
	return im.readZip(ctx, f, fi.Size())
}

// counted reads on until ctx ends and tells how much it read.
type counted struct {
	r      io.Reader
	ctx    context.Context
	passed func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	if c.passed != nil {
		c.passed(int64(n))
	}
	return n, err
}

func (im *importer) readZip(ctx context.Context, r io.ReaderAt, size int64) error {
	z, err := openZip(r, size)
	if err != nil {
		return err
	}
	var before int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := z.next(maxRecord)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if im.opt.Passed != nil {
			im.opt.Passed(z.end - before)
		}
		before = z.end
		id, err := recordName(m.name)
		if err != nil {
			return err
		}
		if err := im.record(id, m.data); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
}

// maxFolder bounds the records of a folder: their names are held.
const maxFolder = 500_000

func (im *importer) readFolder(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(maxFolder + 1)
	d.Close()
	if err != nil && err != io.EOF {
		return err
	}
	if len(names) > maxFolder {
		return fmt.Errorf("more than %d files: import the zip instead", maxFolder)
	}
	slices.Sort(names)
	whole := sha256.New()
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		id, err := recordName(name)
		if err != nil {
			return err
		}
		data, err := readSmall(root, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if im.opt.Passed != nil {
			im.opt.Passed(int64(len(data)))
		}
		fmt.Fprintf(whole, "%s  %s\n", digest.FromBytes(data), name)
		if err := im.record(id, data); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	im.seen.sum = digest.NewDigest(digest.SHA256, whole)
	return nil
}

func readSmall(root *os.Root, name string) ([]byte, error) {
	// A pipe would be waited for.
	fi, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", fs.ErrInvalid)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRecord+1))
}

// record adds one record. id is what its file's name says.
func (im *importer) record(id string, data []byte) error {
	t := &im.seen
	if t.unpacked += int64(len(data)); t.unpacked > maxUnpacked {
		return fmt.Errorf("more than %d GiB of records", maxUnpacked>>30)
	}
	r, err := parseRecord(data)
	if err != nil {
		return err
	}
	if r.id != id {
		return fmt.Errorf("holds the record %s", r.id)
	}
	// Two records of one id would leave open which one counts.
	if err := im.add("\x01", r.id, r.id, nil); err != nil {
		return err
	}
	if !r.modified.IsZero() {
		t.dated = true
		// A date that has not come yet would make old data look young for ever.
		if r.modified.After(t.newest) && !r.modified.After(im.opt.Now.Add(skew)) {
			t.newest = r.modified
		}
	}
	if r.withdrawn {
		t.withdrawn++
		return nil
	}
	t.records++
	t.ecosystems(r.ecosystems)
	written, most := 0, 1<<20+8*len(data)
	for _, l := range r.packages {
		value, err := json.Marshal(l.entry)
		if err != nil {
			return err
		}
		// Names that every package repeats must not make much out of little.
		if written += len(value); written > most {
			return fmt.Errorf("would take more than %d bytes in the database", most)
		}
		if err := im.add(l.ecosystem, l.name, r.id, value); err != nil {
			return err
		}
	}
	return nil
}

// skew is how far ahead another machine's clock may be.
const skew = 5 * time.Minute

func (im *importer) add(ecosystem, name, id string, value []byte) error {
	im.key = append(im.key[:0], ecosystem...)
	im.key = append(append(im.key, 0), name...)
	im.key = append(append(im.key, 0), id...)
	im.key = binary.BigEndian.AppendUint16(append(im.key, 0), uint16(im.source))
	return im.spool.add(im.key, value)
}

func base(ecosystem string) string {
	b, _, _ := strings.Cut(ecosystem, ":")
	return b
}

// maxEcosystems bounds the ecosystems with their releases of one source.
const maxEcosystems = 5000

func (t *tally) ecosystems(full []string) {
	if len(full) == 0 {
		return
	}
	var bases []string
	for _, e := range full {
		bases = append(bases, base(e))
	}
	slices.Sort(bases)
	bases = slices.Compact(bases)
	if !t.any {
		t.any, t.all, t.bases, t.every = true, slices.Clone(full), bases, map[string]int{}
	} else {
		t.all = slices.DeleteFunc(t.all, func(e string) bool { return !slices.Contains(full, e) })
		t.bases = slices.DeleteFunc(t.bases, func(e string) bool { return !slices.Contains(bases, e) })
	}
	for _, e := range full {
		if _, known := t.every[e]; known || len(t.every) < maxEcosystems {
			t.every[e]++
		}
	}
}

// finishSource decides what a source holds whole. OSV's zip of an ecosystem has
// every record that names a package of it, so the ecosystem is one that all
// records have in common. Records that name packages of other ecosystems too do
// not make the source whole for those: what they say of them is left out, and
// never counts as an answer.
func (im *importer) finishSource(p place) (Source, error) {
	t := im.seen
	s := Source{Name: p.name, SHA256: t.sum, Records: t.records, Withdrawn: t.withdrawn, Newest: t.newest}
	if t.records == 0 {
		return s, errors.New("holds no records")
	}
	if !t.dated && !im.opt.AsOf.IsZero() {
		s.Newest, s.Stated = im.opt.AsOf.UTC(), true
	}
	whole := t.all
	if len(whole) == 0 {
		whole = t.bases
	}
	hint := path.Base(path.Dir(p.name))
	if p.folder {
		hint = path.Base(p.name)
	} else if b := strings.TrimSuffix(path.Base(p.name), ".zip"); b != "all" {
		hint = b
	}
	distinct := func(list []string) int {
		var b []string
		for _, e := range list {
			if !slices.Contains(b, base(e)) {
				b = append(b, base(e))
			}
		}
		return len(b)
	}
	if distinct(whole) != 1 {
		var chosen []string
		for _, e := range im.opt.Ecosystems {
			if t.has(e) {
				chosen = append(chosen, e)
			}
		}
		switch {
		case len(chosen) > 0:
			whole = chosen
		case slices.ContainsFunc(whole, func(e string) bool { return e == hint }):
			whole = []string{hint}
		case len(whole) > 1:
			return s, fmt.Errorf("all its records name packages of %s, so it cannot be told of which it is the whole set\nhint: say which with --ecosystem NAME", strings.Join(whole, " and "))
		default:
			return s, fmt.Errorf("its records have no ecosystem in common, so it cannot be told which it holds whole\nhint: import all.zip of each ecosystem, or say which it holds whole with --ecosystem NAME")
		}
	}
	s.Ecosystems = slices.Sorted(slices.Values(whole))
	for e := range t.every {
		if base(e) != e && s.covers(e) {
			s.Releases = append(s.Releases, e)
		}
	}
	slices.Sort(s.Releases)
	return s, nil
}

func (t *tally) has(ecosystem string) bool {
	for e := range t.every {
		if e == ecosystem || base(e) == ecosystem {
			return true
		}
	}
	return false
}

// covers tells whether what the source says of an ecosystem is all there is.
func (s *Source) covers(ecosystem string) bool {
	return slices.Contains(s.Ecosystems, ecosystem) || slices.Contains(s.Ecosystems, base(ecosystem))
}

// disjoint refuses two sources of one ecosystem.
func (im *importer) disjoint() error {
	at := map[string]int{}
	for i, s := range im.sources {
		for _, e := range s.Ecosystems {
			for _, name := range []string{e, base(e)} {
				if j, twice := at[name]; twice && j != i && (name == e || slices.Contains(im.sources[j].Ecosystems, name)) {
					return fmt.Errorf("%s and %s both hold %s: import one of them", im.sources[j].Name, s.Name, name)
				}
			}
		}
		for _, e := range s.Ecosystems {
			at[e] = i
			// A release that is held already by another source.
			for j, other := range im.sources[:i] {
				for _, o := range other.Ecosystems {
					if base(o) == e {
						return fmt.Errorf("%s and %s both hold %s: import one of them", im.sources[j].Name, s.Name, o)
					}
				}
			}
		}
	}
	return nil
}

// write merges what was spooled into the file.
func (im *importer) write(ctx context.Context, out io.Writer) (Status, error) {
	f, err := newFileWriter(out)
	if err != nil {
		return Status{}, err
	}
	var last []byte
	n := 0
	for p, err := range im.spool.sorted() {
		if err != nil {
			return Status{}, err
		}
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return Status{}, ctx.Err()
		}
		source := int(binary.BigEndian.Uint16(p.key[len(p.key)-2:]))
		if slices.Equal(p.key, last) {
			return Status{}, fmt.Errorf("%s: the record %s is there twice", im.sources[source].Name, printableKey(p.key[2:2+idLength(p.key)]))
		}
		last = append(last[:0], p.key...)
		if p.key[0] == 1 {
			continue // the list of ids
		}
		key := p.key[:len(p.key)-2]
		ecosystem, _, _ := strings.Cut(string(key), "\x00")
		if !im.sources[source].covers(ecosystem) {
			continue
		}
		if err := f.add(key, p.value); err != nil {
			return Status{}, err
		}
	}
	s := Status{Imported: im.opt.Now.UTC().Truncate(time.Second), Sources: slices.Clone(im.sources)}
	slices.SortStableFunc(s.Sources, func(a, b Source) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), slices.Compare(a.Ecosystems, b.Ecosystems))
	})
	for _, x := range s.Sources {
		s.Records += x.Records
	}
	if err := f.endBlock(); err != nil {
		return Status{}, err
	}
	s.Packages = f.names
	sum, err := f.finish(s)
	s.Digest, s.Size = sum, f.at
	return s, err
}

// idLength is the length of the id in a key of the list of ids.
func idLength(key []byte) int {
	n := 0
	for 2+n < len(key) && key[2+n] != 0 {
		n++
	}
	return n
}
