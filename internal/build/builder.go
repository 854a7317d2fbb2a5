// Package build turns a project file and its lock into images: it plans the
// work as data, does what was not done before, and records for every byte why
// it is there.
//
// The flow is that of the design: packages become a configured development
// tree, steps run over it without a network, and the production image is put
// together from locked packages, declared artifacts and generated files, and
// nothing else. Everything repeatable is named by the hash of its complete
// description (Key) and looked up before it is done.
//
// It does not judge images: whether one may go to production is decided by
// others, from what this package records. It resolves a project into its lock
// (Resolve), because resolving and building must agree on what is asked.
package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/progress"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/sandbox"
	"twinhull.dev/twinhull/internal/source/debfile"
	"twinhull.dev/twinhull/internal/source/fetch"
	"twinhull.dev/twinhull/internal/source/site"
	"twinhull.dev/twinhull/internal/source/vault"
)

// Config is everything that a Builder needs. Every field is required unless it
// says otherwise.
type Config struct {
	File     *project.File
	Lock     *project.Lock
	Vault    *vault.Vault
	Fetch    Fetcher           // brings missing inputs into the vault
	Site     *site.Site        // where this machine gets inputs; read only when something is missing
	CacheDir string            // absolute; what was made, by key
	Progress progress.Reporter // talk
	Now      time.Time         // only for deciding what is fresh; never reaches an image
	Log      io.Writer         // optional: receives the output of steps as it comes

	// Codec compresses the layers; image.Gzip when empty.
	Codec image.Codec

	// FreshSteps runs every step again, also one that ran before with the same
	// inputs, and every compiler without what it kept from earlier runs. A step
	// that then leaves other artifacts is told of.
	FreshSteps bool

	// ShellOnFailure, when set, is called with the sandbox of a step that
	// failed, before its files are removed.
	ShellOnFailure func(context.Context, sandbox.Spec)
}

// Fetcher brings inputs into the vault.
type Fetcher interface {
	Fetch(ctx context.Context, items []fetch.Item) error
}

// Builder builds the images of one project, once. Make it with New.
type Builder struct {
	Config
	file     *project.File
	lock     *project.Lock
	vault    *vault.Vault
	progress progress.Reporter
	cache    cache
	source   *source
	dir      string // the project's folder
	opened   map[string]*debfile.Package
	extra    []StepRecord // steps that the dependencies of the image at work needed: install scripts
	fresh    map[Key]bool // steps that FreshSteps has run already
	binaries map[oci.Digest]*elfFacts
	layers   *image.Cache // opened by Build
	ahead    *ahead       // of the build that runs; nil for none
	parallel int          // processors that packages are unpacked with; 0: all
}

// New checks that the lock fits the project and returns a builder.
func New(c Config) (*Builder, error) {
	b := &Builder{
		Config: c, file: c.File, lock: c.Lock, vault: c.Vault, progress: c.Progress,
		cache: newCache(c.CacheDir), dir: filepath.Dir(c.File.Path), opened: map[string]*debfile.Package{}, fresh: map[Key]bool{}, binaries: map[oci.Digest]*elfFacts{},
	}
	if err := checkState(b.dir); err != nil {
		return nil, err
	}
	b.source = openSource(b.dir, c.Now)
	if err := b.fits(); err != nil {
		return nil, err
	}
	return b, nil
}

// checkState refuses a state folder that leads elsewhere: a project from a
// stranger may bring one, and what a build writes there must stay there.
func checkState(dir string) error {
	for _, p := range []string{stateDir, stateDir + "/store", stateDir + "/store/blobs", stateDir + "/store/blobs/sha256", stateDir + "/logs", stateDir + "/reports"} {
		fi, err := os.Lstat(filepath.Join(dir, p))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("the project's folder for results: %w", err)
		case !fi.IsDir():
			return fmt.Errorf("%s in %s is not a folder of its own (a link, or a file), so that results would be written elsewhere: remove it; Twinhull makes it anew", p, dir)
		}
	}
	return nil
}

// mtime is the latest time that any file of an image carries, and the images'
// creation time: the lock's date, in Unix seconds.
func (b *Builder) mtime() int64 { return b.lock.AsOf.Unix() }

// closure returns the locked packages of a set on a platform.
func (b *Builder) closure(set string, plat oci.Platform) ([]project.Package, *project.Closure, error) {
	byID := map[string]project.Package{}
	for _, p := range b.lock.Packages {
		byID[p.ID()] = p
	}
	for i := range b.lock.Closures {
		c := &b.lock.Closures[i]
		if c.Set != set || c.Platform != plat {
			continue
		}
		var out []project.Package
		for _, id := range c.Packages {
			p, ok := byID[id]
			if !ok {
				return nil, nil, fmt.Errorf("the lock's closure %s on %s names %s, which it does not describe: run `twinhull lock`", set, plat, id)
			}
			out = append(out, p)
		}
		return out, c, nil
	}
	return nil, nil, fmt.Errorf("the lock has no %s closure for %s: run `twinhull lock`", set, plat)
}

// open unpacks packages into the cache, as far as they are not there, and
// returns what each ships in a merged /usr.
func (b *Builder) open(ctx context.Context, pkgs []project.Package) ([]unpacked, error) {
	var inputs []debfile.Input
	var missing []int
	out := make([]unpacked, len(pkgs))
	for i, p := range pkgs {
		out[i].lock = p
		if d := b.opened[p.ID()]; d != nil {
			out[i].deb = d
			continue
		}
		inputs = append(inputs, debfile.Input{Path: b.vault.Path(p.SHA256), Digest: p.SHA256})
		missing = append(missing, i)
	}
	if len(inputs) > 0 {
		t := b.progress.Task(fmt.Sprintf("unpacking %d packages", len(inputs)), 0)
		got, err := debfile.OpenAll(ctx, b.CacheDir, inputs, b.parallel, nil)
		t.Done(err)
		if err != nil {
			return nil, err
		}
		for k, i := range missing {
			out[i].deb = got[k]
			b.opened[pkgs[i].ID()] = got[k]
		}
	}
	for i := range out {
		p, d := out[i].lock, out[i].deb
		if d.Name != p.Name || d.Version != p.Version || d.Arch != p.Arch {
			return nil, fmt.Errorf("the package at %s says that it is %s, but the lock says %s: run `twinhull lock`", p.Path, d.ID(), p.ID())
		}
		entries, err := debfile.UsrMerge(d.Entries)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", p.ID(), err)
		}
		out[i].entries = entries
	}
	return out, nil
}

func debs(pkgs []unpacked) []*debfile.Package {
	out := make([]*debfile.Package, len(pkgs))
	for i := range pkgs {
		out[i] = pkgs[i].deb
	}
	return out
}

func mustJSON(v any) []byte {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		panic("build: " + err.Error()) // plain data
	}
	return append(b, '\n')
}

// Report is what a build made.
type Report struct {
	Images []ImageReport `json:"images"`
	Steps  []StepRecord  `json:"steps,omitempty"`
}

// ImageReport describes one image.
type ImageReport struct {
	Zone      oci.Zone              `json:"zone"`
	Platform  oci.Platform          `json:"platform"`
	Manifest  oci.Descriptor        `json:"manifest"`
	Origins   oci.Digest            `json:"origins"`
	Cached    bool                  `json:"cached"`
	Files     int                   `json:"files"`
	Unpacked  int64                 `json:"unpacked"` // bytes of all regular files
	Packages  int                   `json:"packages"`
	Notes     []string              `json:"notes,omitempty"`
	LeftOut   []LeftOut             `json:"leftOut,omitempty"`
	Omissions []project.OmittedItem `json:"omitted,omitempty"`
}

// LeftOut counts what a rule kept out of production.
type LeftOut struct {
	Reason string `json:"reason"`
	Files  int    `json:"files"`
	Bytes  int64  `json:"bytes"`
}
