package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/fetch"
	"twinhull.dev/twinhull/internal/source/site"
	"twinhull.dev/twinhull/internal/source/vault"
)

// workspace is a project with the machine's cache and configuration: what most
// commands begin with.
type workspace struct {
	env   *Env
	file  *project.File
	vault *vault.Vault
	cache string
	site  *site.Site
	fetch *fetch.Fetcher
}

// openWorkspace finds the project from the working folder upwards.
func openWorkspace(env *Env, offline bool) (*workspace, error) {
	path, err := project.Find(env.Dir)
	if err != nil {
		return nil, &Error{Code: Misused, Err: err}
	}
	w := &workspace{env: env}
	if w.file, err = project.Load(path); err != nil {
		return nil, &Error{Code: Misused, Err: err}
	}
	if err := w.openCache(offline); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *workspace) openCache(offline bool) error {
	var err error
	if w.cache, err = w.env.CacheDir(); err != nil {
		return err
	}
	if w.vault, err = vault.Open(w.cache); err != nil {
		return err
	}
	if w.site, err = site.Load(site.Options{Getenv: w.env.Getenv}); err != nil {
		return err
	}
	client, err := w.site.Client()
	if err != nil {
		return err
	}
	w.fetch = fetch.New(fetch.Config{Vault: w.vault, Client: client, Reporter: w.env.Progress, Offline: offline})
	return nil
}

func (w *workspace) dir() string      { return filepath.Dir(w.file.Path) }
func (w *workspace) lockPath() string { return filepath.Join(w.dir(), "twinhull.lock") }

// lock reads the lock, which must be there.
func (w *workspace) lock() (*project.Lock, error) {
	l, err := project.ReadLock(w.lockPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Refusedf("the project has no twinhull.lock").WithHint("`twinhull lock` makes it; commit it beside twinhull.yaml")
	}
	return l, err
}

func (w *workspace) builder(change func(*build.Config)) (*build.Builder, error) {
	l, err := w.lock()
	if err != nil {
		return nil, err
	}
	c := build.Config{
		File: w.file, Lock: l, Vault: w.vault, Fetch: w.fetch, Site: w.site, CacheDir: w.cache,
		Progress: w.env.Progress, Now: w.env.Now(), Codec: image.Gzip,
	}
	if change != nil {
		change(&c)
	}
	return build.New(c)
}

// storeDir is where the project's images are.
func (w *workspace) storeDir() string { return filepath.Join(w.dir(), ".twinhull", "store") }

// parseZones reads zone arguments; none means both, development first.
func parseZones(args []string) ([]oci.Zone, error) {
	if len(args) == 0 {
		return []oci.Zone{oci.Development, oci.Production}, nil
	}
	var zones []oci.Zone
	seen := map[oci.Zone]bool{}
	for _, a := range args {
		z, err := oci.ParseZone(a)
		if err != nil {
			return nil, Usagef("%w", err)
		}
		if !seen[z] {
			seen[z] = true
			zones = append(zones, z)
		}
	}
	return zones, nil
}

// openImage opens an IMAGE argument: a reference, or the bare name of a zone
// for what the project's own store has.
func openImage(ctx context.Context, env *Env, arg string, plat oci.Platform) (*image.Image, *oci.Layout, error) {
	if _, err := oci.ParseZone(arg); err == nil {
		path, err := project.Find(env.Dir)
		if err != nil {
			return nil, nil, &Error{Code: Misused, Err: err}
		}
		dir := filepath.Join(filepath.Dir(path), ".twinhull", "store")
		store, err := oci.OpenLayout(dir)
		if err != nil {
			return nil, nil, Refusedf("the project has no %s image yet", arg).WithHint("`twinhull build %s` makes it", arg)
		}
		desc, err := store.Tag(arg)
		if err != nil {
			return nil, nil, Refusedf("the project has no %s image yet", arg).WithHint("`twinhull build %s` makes it", arg)
		}
		img, err := image.OpenDescriptor(store, desc, image.OpenOptions{Platform: plat})
		return img, store, err
	}
	ref, err := oci.ParseRef(arg)
	if err != nil {
		return nil, nil, Usagef("%w", err).WithHint("an IMAGE is `development`, `production`, oci:DIR[:TAG], docker-archive:FILE or HOST/NAME[:TAG]")
	}
	if ref.Path != "" {
		ref.Path = env.Path(ref.Path)
	}
	img, err := image.Open(ctx, ref, image.OpenOptions{Platform: plat})
	if err != nil {
		return nil, nil, err
	}
	var store *oci.Layout
	if ref.Kind == oci.LayoutRef {
		if store, err = oci.OpenLayout(ref.Path); err != nil {
			return nil, nil, err
		}
	}
	return img, store, nil
}

// imageID names what an image holds: the digest of its manifest, or of its
// configuration where there is no manifest (docker archives). Both name all of
// its layers.
func imageID(img *image.Image) oci.Digest {
	if d := img.Descriptor.Digest; d != "" {
		return d
	}
	return digest.FromBytes(img.RawConfig)
}

// writeJSON writes a result as indented JSON.
func writeJSON(env *Env, v any) error {
	e := json.NewEncoder(env.Stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
