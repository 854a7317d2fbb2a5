package npm

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// unpackedVersion is part of a kept tarball's folder name: raise it when the
// layout of tarballs changes.
const unpackedVersion = "1"

// unpackedTarball is what is kept of a tarball beside its bytes.
type unpackedTarball struct {
	Entries  []*filetree.Entry `json:"entries"` // relative to the package's folder
	Contents *Contents         `json:"contents"`
}

// Install lays out packages as `npm ci --ignore-scripts` does, without running
// npm: every package's files in its folder, and the command links of each
// node_modules/.bin. npm's own record (HiddenLock) is left out, because it
// names the registry that was used. The entries, in byte order, are relative
// to the folder that holds node_modules; their bytes lie uncompressed below
// cacheDir, one folder a tarball. Install scripts are the caller's business:
// see project.NPMPackage.Scripts.
//
// A test compares the result with the real npm's.
func Install(ctx context.Context, vault Vault, cacheDir string, pkgs []project.NPMPackage, mtime int64) ([]*filetree.Entry, error) {
	all := make([]*unpackedTarball, len(pkgs))
	byDigest := map[oci.Digest]*unpackedTarball{}
	var distinct []oci.Digest
	for _, p := range pkgs {
		if _, ok := byDigest[p.Integrity]; !ok {
			byDigest[p.Integrity] = nil
			distinct = append(distinct, p.Integrity)
		}
	}
	results := make([]*unpackedTarball, len(distinct))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.NumCPU()))
	for i, d := range distinct {
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			u, err := openTarball(vault, cacheDir, d)
			results[i] = u
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, d := range distinct {
		byDigest[d] = results[i]
	}
	tree := filetree.NewTree()
	folder := func(p string) {
		for ; p != "." && tree.Get(p) == nil; p = path.Dir(p) {
			tree.Set(&filetree.Entry{Path: p, Type: tar.TypeDir, Mode: 0o755, ModTime: mtime,
				Origin: filetree.Origin{Kind: filetree.FromGenerated, Name: "npm", Note: "folder of node_modules"}})
		}
	}
	for i, p := range pkgs {
		u := byDigest[p.Integrity]
		all[i] = u
		folder(p.Location)
		for _, e := range u.Entries {
			c := *e
			c.Path, c.ModTime = p.Location+"/"+e.Path, mtime
			c.Origin = filetree.Origin{Kind: filetree.FromModule, Name: p.Name, Version: p.Version, Digest: p.Integrity}
			if c.IsReg() {
				c.Origin.Path = u.Contents.Files[e.Path].Member
			}
			if tree.Get(c.Path) != nil && c.IsDir() {
				continue
			}
			tree.Set(&c)
		}
	}
	// Commands: a package's own come into the .bin of the node_modules that
	// holds it, and where two want one name the first location keeps it.
	for i, p := range pkgs {
		m, err := readManifest(all[i].Contents.Manifest)
		if err != nil {
			return nil, fmt.Errorf("%s@%s: %w", p.Name, p.Version, err)
		}
		links := m.links(all[i].Contents)
		at := p.Location[:strings.LastIndex(p.Location, "node_modules/")+len("node_modules")]
		for _, name := range slices.Sorted(maps.Keys(links)) {
			target := links[name]
			e := tree.Get(p.Location + "/" + target)
			if e == nil || !e.IsReg() {
				continue // npm, too, makes no link to what is not there
			}
			if err := makeCommand(e, all[i].Contents.Files[target]); err != nil {
				return nil, fmt.Errorf("%s@%s: %w", p.Name, p.Version, err)
			}
			link := at + "/.bin/" + name
			if tree.Get(link) != nil {
				continue
			}
			folder(at + "/.bin")
			tree.Set(&filetree.Entry{Path: link, Type: tar.TypeSymlink, Mode: 0o777, ModTime: mtime,
				Link:   "../" + strings.TrimPrefix(p.Location+"/"+target, at+"/"),
				Origin: filetree.Origin{Kind: filetree.FromGenerated, Name: "npm", Note: "command " + name + " of " + p.Name + "@" + p.Version}})
		}
	}
	return tree.Sorted(), nil
}

// makeCommand makes a file runnable as npm does: execute bits, and no carriage
// return in the first line.
func makeCommand(e *filetree.Entry, sum FileSum) error {
	e.Mode |= 0o111
	if sum.Unix == "" || e.Digest == sum.Unix {
		return nil
	}
	rc, err := e.Open()
	if err != nil {
		return err
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		return err
	}
	if i := strings.Index(string(data), "\r\n"); i >= 0 {
		data = append(data[:i], data[i+1:]...)
	}
	if int64(len(data)) != sum.UnixSize {
		return fmt.Errorf("%s: the first line's carriage return could not be removed", e.Path)
	}
	e.Content = filetree.Content{Data: data}
	e.Size, e.Digest = sum.UnixSize, sum.Unix
	return nil
}

// openTarball returns a tarball's entries with their bytes in the cache,
// unpacking it when it is not there.
func openTarball(vault Vault, cacheDir string, d oci.Digest) (*unpackedTarball, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("tarball %q: %w", d, err)
	}
	dir := filepath.Join(cacheDir, "tarballs", d.Encoded()[:64]+".v"+unpackedVersion)
	if u, err := loadTarball(dir); err == nil {
		return u, nil
	}
	if err := durable.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	src, err := vault.Open(d)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	data, err := os.OpenFile(filepath.Join(tmp, "data"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	w := bufio.NewWriterSize(data, 1<<18)
	entries, contents, err := Unpack(src, Limits{}, w, filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.Flush(), data.Close()); err != nil {
		return nil, err
	}
	u := &unpackedTarball{Entries: entries, Contents: contents}
	index, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tmp, "index.json"), index, 0o644); err != nil {
		return nil, err
	}
	// What is here can be unpacked again, and every file's digest is checked
	// when it is used: a crash costs time only, so nothing is synchronised.
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	} else if err != nil {
		if u, err := loadTarball(dir); err == nil {
			return u, nil // another process was faster
		}
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		if err := os.Rename(tmp, dir); err != nil {
			return nil, err
		}
	}
	return u, nil
}

func loadTarball(dir string) (*unpackedTarball, error) {
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	var u unpackedTarball
	if err := json.Unmarshal(b, &u); err != nil {
		return nil, err
	}
	fi, err := os.Stat(filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	var end int64
	for _, e := range u.Entries {
		if e.Size > 0 {
			end = max(end, e.Content.Offset+e.Size)
			e.Content.File = filepath.Join(dir, "data") // the cache may have been moved
		}
	}
	if u.Contents == nil || fi.Size() != end {
		return nil, errors.New("incomplete")
	}
	return &u, nil
}
