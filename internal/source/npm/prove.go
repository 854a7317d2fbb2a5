package npm

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"path"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// Proof says of every installed path where it comes from. A path is in exactly
// one of the three.
type Proof struct {
	// Origins are the proved paths: FromModule when the bytes are those of a
	// locked tarball's member, FromGenerated for what npm itself makes.
	Origins map[string]filetree.Origin
	// Scripts are the paths that an install script may have made: the caller
	// traces them to the step that ran npm, or refuses them. The value names
	// the package, or the packages when the place does not tell.
	Scripts map[string]Made
	// Unexplained are the rest, sorted by path. Not empty means: refuse.
	Unexplained []Unexplained
	// Absent are the locations of packages that were asked for and are not
	// installed, without those that are optional.
	Absent []string
}

// Made is the nearest explanation of a path that an install script made.
type Made struct {
	By  string // "esbuild@0.25.0"
	Why string // "differs from …", "is not in the tarball of …"
}

// Unexplained is a path that nothing in the lock accounts for.
type Unexplained struct {
	Path   string
	Reason string // the nearest explanation
}

func (u Unexplained) String() string { return u.Path + ": " + u.Reason }

// HiddenLock is the record that npm leaves in node_modules. Its content names
// the registry that served the packages; see NormaliseHiddenLock.
const HiddenLock = "node_modules/.package-lock.json"

// maxCompared bounds how many differing files are compared byte by byte for
// their messages: that decompresses tarballs, and after the first screenful
// nobody reads on.
const maxCompared = 20

// Prove compares installed paths (relative to the folder that holds
// node_modules; nothing outside node_modules) with the tarballs of pkgs, the
// packages that were to be installed. A regular file is proved when its bytes
// are those of the locked tarball's file at the same place, with one exception
// that npm makes: the carriage return in the first line of a command's script.
// A file elsewhere in a package with install scripts is proved too when its
// bytes are some locked tarball's: scripts copy the platform's binary into
// place. Entries without a digest are given theirs. The error is about reading;
// what was found is in the Proof.
func Prove(ctx context.Context, table *Table, pkgs []project.NPMPackage, installed []*filetree.Entry) (*Proof, error) {
	p := &prover{
		table:    table,
		packages: make(map[string]*provedPackage, len(pkgs)),
		proof:    &Proof{Origins: make(map[string]filetree.Origin, len(installed)), Scripts: make(map[string]Made)},
	}
	if err := p.load(ctx, pkgs); err != nil {
		return nil, err
	}
	if err := hashAll(ctx, installed); err != nil {
		return nil, err
	}
	p.installed = make(map[string]*filetree.Entry, len(installed))
	for _, e := range installed {
		if p.installed[e.Path] != nil {
			return nil, fmt.Errorf("%s is listed twice", e.Path)
		}
		p.installed[e.Path] = e
	}
	var folders []*filetree.Entry
	var links []*filetree.Entry
	for _, path := range slices.Sorted(maps.Keys(p.installed)) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		switch e := p.installed[path]; e.Type {
		case tar.TypeDir:
			folders = append(folders, e)
		case tar.TypeSymlink:
			links = append(links, e)
		default:
			p.file(e)
		}
	}
	// Links and folders after files: they are explained by what they lead to.
	for _, e := range links {
		p.link(e)
	}
	p.folders(folders)
	for _, l := range slices.Sorted(maps.Keys(p.packages)) {
		q := p.packages[l]
		if p.installed[l] == nil && !q.seen && !q.Optional {
			p.proof.Absent = append(p.proof.Absent, l)
		}
	}
	sort.SliceStable(p.proof.Unexplained, func(i, j int) bool { return p.proof.Unexplained[i].Path < p.proof.Unexplained[j].Path })
	return p.proof, nil
}

type provedPackage struct {
	project.NPMPackage
	contents *Contents
	links    map[string]string
	commands map[string]bool
	seen     bool // a file of it is installed
}

func (q *provedPackage) id() string { return q.Name + "@" + q.Version }

func (q *provedPackage) origin(f FileSum) filetree.Origin {
	return filetree.Origin{Kind: filetree.FromModule, Name: q.Name, Version: q.Version, Digest: q.Integrity, Path: f.Member}
}

type member struct {
	q    *provedPackage
	path string
}

type prover struct {
	table     *Table
	packages  map[string]*provedPackage // by location
	scripted  []string                  // packages with install scripts
	proof     *Proof
	installed map[string]*filetree.Entry
	compared  int
	bySum     map[oci.Digest]member // made when first needed
}

// load reads every package's table, the processors sharing the work.
func (p *prover) load(ctx context.Context, pkgs []project.NPMPackage) error {
	all := make([]*provedPackage, len(pkgs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, n := range pkgs {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, err := p.table.Contents(n.Integrity)
			if err != nil {
				return fmt.Errorf("%s@%s: %w", n.Name, n.Version, err)
			}
			m, err := readManifest(c.Manifest)
			if err != nil {
				return fmt.Errorf("%s@%s: %w", n.Name, n.Version, err)
			}
			q := &provedPackage{NPMPackage: n, contents: c, links: m.links(c), commands: make(map[string]bool)}
			for _, f := range m.commands(c) {
				q.commands[f] = true
			}
			all[i] = q
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, q := range all {
		p.packages[q.Location] = q
		if q.Scripts {
			p.scripted = append(p.scripted, q.id())
		}
	}
	slices.Sort(p.scripted)
	p.scripted = slices.Compact(p.scripted)
	return nil
}

// hashAll gives every regular file its digest. Entries that have one keep it.
func hashAll(ctx context.Context, installed []*filetree.Entry) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			buf := make([]byte, 256<<10)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(installed) || ctx.Err() != nil {
					return ctx.Err()
				}
				e := installed[i]
				if !e.IsReg() || e.Digest != "" {
					continue
				}
				r, err := e.Open()
				if err != nil {
					return err
				}
				h := sha256.New()
				_, err = io.CopyBuffer(struct{ io.Writer }{h}, r, buf)
				r.Close()
				if err != nil {
					return fmt.Errorf("bytes of %s: %w", e.Path, err)
				}
				e.Digest = hexSum(h.Sum(nil))
			}
		})
	}
	return g.Wait()
}

// owner finds the locked package whose folder a path is in: the innermost
// one, so that a bundled package's files go to the tarball that carried them.
func (p *prover) owner(file string) (*provedPackage, string) {
	for l := file; l != "." && l != ""; l = path.Dir(l) {
		if q := p.packages[l]; q != nil {
			return q, strings.TrimPrefix(strings.TrimPrefix(file, l), "/")
		}
	}
	return nil, ""
}

func (p *prover) unexplained(path, format string, args ...any) {
	p.proof.Unexplained = append(p.proof.Unexplained, Unexplained{Path: path, Reason: fmt.Sprintf(format, args...)})
}

func (p *prover) file(e *filetree.Entry) {
	if e.Type == tar.TypeLink {
		// A hard link has the bytes of its first name; what holds for that
		// holds for this.
		target := p.installed[e.Link]
		if target == nil || !target.IsReg() {
			p.unexplained(e.Path, "is a hard link to %s, which is not installed", e.Link)
			return
		}
		same := *target
		same.Path = e.Path
		e = &same
	}
	if !e.IsReg() {
		p.unexplained(e.Path, "is neither file, folder nor link: no npm package holds such a thing")
		return
	}
	if e.Mode&0o6000 != 0 {
		p.unexplained(e.Path, "has a set-user-id or set-group-id bit (mode %04o), which npm never gives", e.Mode)
		return
	}
	if e.Path == HiddenLock {
		p.proof.Origins[e.Path] = filetree.Origin{Kind: filetree.FromGenerated, Name: "npm", Digest: e.Digest, Note: "npm's record of what it installed"}
		return
	}
	q, rel := p.owner(e.Path)
	if q == nil {
		p.homeless(e)
		return
	}
	f, ok := q.contents.Files[rel]
	if ok && f.SHA256 == e.Digest {
		q.seen = true
		p.proof.Origins[e.Path] = q.origin(f)
		return
	}
	if ok && f.Unix == e.Digest && f.Unix != "" && p.isCommand(q, rel) {
		q.seen = true
		o := q.origin(f)
		o.Note = "npm removed the carriage return from the command's first line"
		p.proof.Origins[e.Path] = o
		return
	}
	if q.Scripts {
		if m, ok := p.find(e); ok {
			o := m.q.origin(m.q.contents.Files[m.path])
			o.Note = "put in place by the install script of " + q.id()
			p.proof.Origins[e.Path] = o
			return
		}
		p.proof.Scripts[e.Path] = Made{By: q.id(), Why: p.nearest(e, q, rel, f, ok)}
		return
	}
	p.unexplained(e.Path, "%s", p.nearest(e, q, rel, f, ok))
}

// isCommand tells whether npm links the file as a command. Of a bundled
// package the manifest is not at hand, and any of its files may be one.
func (p *prover) isCommand(q *provedPackage, rel string) bool {
	return q.commands[rel] || strings.HasPrefix(rel, "node_modules/")
}

// homeless is a file in no locked package's folder.
func (p *prover) homeless(e *filetree.Entry) {
	parts := strings.SplitN(e.Path, "/", 3)
	if parts[0] != "node_modules" {
		p.unexplained(e.Path, "is outside node_modules")
		return
	}
	if len(parts) > 1 && strings.HasPrefix(parts[1], ".") && parts[1] != ".bin" && len(p.scripted) > 0 {
		// No package name begins with a dot; install scripts keep what they
		// generate in such folders (".prisma").
		if m, ok := p.find(e); ok {
			o := m.q.origin(m.q.contents.Files[m.path])
			o.Note = "copied by an install script"
			p.proof.Origins[e.Path] = o
			return
		}
		p.proof.Scripts[e.Path] = Made{By: strings.Join(p.scripted, ", "), Why: "is in no package's folder, and one of these has an install script"}
		return
	}
	if m, ok := p.find(e); ok {
		p.unexplained(e.Path, "no locked package of this set has this folder; its bytes are those of %s's %s", m.q.id(), m.path)
		return
	}
	p.unexplained(e.Path, "no locked package of this set has this folder")
}

// find looks for the bytes in all tarballs. Empty files are everywhere and
// prove nothing.
func (p *prover) find(e *filetree.Entry) (member, bool) {
	if e.Size == 0 {
		return member{}, false
	}
	if p.bySum == nil {
		p.bySum = make(map[oci.Digest]member)
		for _, l := range slices.Sorted(maps.Keys(p.packages)) {
			q := p.packages[l]
			for _, f := range slices.Sorted(maps.Keys(q.contents.Files)) {
				s := q.contents.Files[f].SHA256
				if _, ok := p.bySum[s]; !ok {
					p.bySum[s] = member{q, f}
				}
			}
		}
	}
	m, ok := p.bySum[e.Digest]
	return m, ok
}

// nearest says what is closest to a file that is not as its package has it.
func (p *prover) nearest(e *filetree.Entry, q *provedPackage, rel string, f FileSum, inTarball bool) string {
	if inTarball {
		return fmt.Sprintf("differs from %s's %s: %s", q.id(), rel, p.difference(e, q, f))
	}
	if m, ok := p.find(e); ok {
		return fmt.Sprintf("is not in the tarball of %s; its bytes are those of %s's %s", q.id(), m.q.id(), m.path)
	}
	return fmt.Sprintf("is not in the tarball of %s", q.id())
}

// difference tells how two files differ, for a message.
func (p *prover) difference(e *filetree.Entry, q *provedPackage, f FileSum) string {
	if e.Size != f.Size {
		return fmt.Sprintf("%d bytes instead of %d", e.Size, f.Size)
	}
	if p.compared++; p.compared > maxCompared {
		return "other bytes"
	}
	n, first, err := p.compare(e, q, f)
	switch {
	case err != nil:
		return "other bytes"
	case n == 1:
		return fmt.Sprintf("1 byte changed, at offset %d", first)
	}
	return fmt.Sprintf("%d bytes changed, the first at offset %d", n, first)
}

func (p *prover) compare(e *filetree.Entry, q *provedPackage, f FileSum) (n, first int64, err error) {
	tgz, err := p.table.vault.Open(q.Integrity)
	if err != nil {
		return 0, 0, err
	}
	defer tgz.Close()
	tr, err := tarReader(tgz)
	if err != nil {
		return 0, 0, err
	}
	for {
		h, err := tr.Next()
		if err != nil {
			return 0, 0, err
		}
		if h.Name == f.Member && h.Size == e.Size {
			break
		}
	}
	r, err := e.Open()
	if err != nil {
		return 0, 0, err
	}
	defer r.Close()
	a, b := make([]byte, 32<<10), make([]byte, 32<<10)
	for at := int64(0); ; {
		k, errA := io.ReadFull(tr, a)
		l, errB := io.ReadFull(r, b)
		if k != l {
			return 0, 0, io.ErrUnexpectedEOF
		}
		for i := range k {
			if a[i] != b[i] {
				if n == 0 {
					first = at + int64(i)
				}
				n++
			}
		}
		at += int64(k)
		if errA != nil || errB != nil {
			return n, first, nil
		}
	}
}

// link explains symbolic links: npm makes them in node_modules/.bin only.
func (p *prover) link(e *filetree.Entry) {
	bin, command := path.Split(e.Path)
	bin = strings.TrimSuffix(bin, "/")
	modules := path.Dir(bin)
	if path.Base(bin) != ".bin" || path.Base(modules) != "node_modules" {
		if q, _ := p.owner(e.Path); q != nil && q.Scripts {
			p.proof.Scripts[e.Path] = Made{By: q.id(), Why: "is a link to " + e.Link + ": npm unpacks none"}
			return
		}
		p.unexplained(e.Path, "is a link to %s: npm makes links in .bin folders only", e.Link)
		return
	}
	target := path.Join(bin, e.Link)
	if strings.HasPrefix(e.Link, "/") || !strings.HasPrefix(target, modules+"/") {
		p.unexplained(e.Path, "is a link to %s, out of the node_modules folder that it serves", e.Link)
		return
	}
	q, rel := p.owner(target)
	if q == nil {
		p.unexplained(e.Path, "is a link to %s, which no locked package of this set has", e.Link)
		return
	}
	if path.Dir(q.Location) == modules || path.Dir(path.Dir(q.Location)) == modules {
		if !strings.HasPrefix(rel, "node_modules/") && q.links[command] != rel {
			p.unexplained(e.Path, "is a link to %s, and %s has no command %q there", e.Link, q.id(), command)
			return
		}
	}
	if _, ok := p.proof.Origins[target]; !ok {
		if _, ok = p.proof.Scripts[target]; !ok {
			p.unexplained(e.Path, "is a link to %s, which is not installed or not explained", e.Link)
			return
		}
	}
	p.proof.Origins[e.Path] = filetree.Origin{Kind: filetree.FromGenerated, Name: "npm", Note: "link to a command of " + q.id()}
}

func has(sorted []string, s string) bool {
	_, ok := slices.BinarySearch(sorted, s)
	return ok
}

// folders explains folders by what the tarballs hold or what is in them.
func (p *prover) folders(all []*filetree.Entry) {
	below := make(map[string]bool) // folders with something explained in them
	byScript := make(map[string]Made)
	for f := range p.proof.Origins {
		for d := path.Dir(f); d != "." && !below[d]; d = path.Dir(d) {
			below[d] = true
		}
	}
	for _, f := range slices.Sorted(maps.Keys(p.proof.Scripts)) {
		for d := path.Dir(f); d != "."; d = path.Dir(d) {
			if _, ok := byScript[d]; ok {
				break
			}
			byScript[d] = p.proof.Scripts[f]
		}
	}
	for _, e := range all {
		q, rel := p.owner(e.Path)
		switch {
		case q != nil && (rel == "" || has(q.contents.Folders, rel)):
			p.proof.Origins[e.Path] = filetree.Origin{Kind: filetree.FromModule, Name: q.Name, Version: q.Version, Digest: q.Integrity}
		case below[e.Path] || e.Path == "node_modules":
			p.proof.Origins[e.Path] = filetree.Origin{Kind: filetree.FromGenerated, Name: "npm", Note: "folder around packages"}
		case byScript[e.Path] != Made{}:
			p.proof.Scripts[e.Path] = Made{By: byScript[e.Path].By, Why: "holds what an install script made"}
		case q != nil && q.Scripts:
			p.proof.Scripts[e.Path] = Made{By: q.id(), Why: "is not in the tarball"}
		case q != nil:
			p.unexplained(e.Path, "is a folder that %s does not have", q.id())
		default:
			p.unexplained(e.Path, "is a folder that no locked package of this set has")
		}
	}
}
