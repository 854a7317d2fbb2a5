package build

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"os"
	"path"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/mod/module"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// GoModules is where a development image keeps the project's locked Go modules,
// as a module proxy of files (https://go.dev/ref/mod#goproxy-protocol), so that
// go builds in it without a network.
const GoModules = "/usr/share/go-modules"

// goModuleEntries lays out the locked Go modules as a proxy of files.
func (b *Builder) goModuleEntries() ([]*filetree.Entry, error) {
	var out []*filetree.Entry
	for _, m := range b.lock.Go {
		escaped, err := module.EscapePath(m.Path)
		if err != nil {
			return nil, fmt.Errorf("locked Go module: %w", err)
		}
		version, err := module.EscapeVersion(m.Version)
		if err != nil {
			return nil, fmt.Errorf("locked Go module %s: %w", m.Path, err)
		}
		base := path.Join(GoModules[1:], escaped, "@v", version)
		add := func(suffix string, d oci.Digest) error {
			file := b.vault.Path(d)
			fi, err := os.Stat(file)
			if err != nil {
				return fmt.Errorf("Go module %s@%s: %w", m.Path, m.Version, err)
			}
			out = append(out, &filetree.Entry{
				Path: base + suffix, Type: tar.TypeReg, Mode: 0o644, ModTime: b.mtime(), Size: fi.Size(), Digest: d, Content: filetree.Content{File: file},
				Origin: filetree.Origin{Kind: filetree.FromModule, Name: m.Path, Version: m.Version, Digest: d, Path: version + suffix},
			})
			return nil
		}
		if err := add(".mod", m.Mod); err != nil {
			return nil, err
		}
		if m.Zip != "" {
			if err := add(".zip", m.Zip); err != nil {
				return nil, err
			}
		}
		if m.Info != "" {
			if err := add(".info", m.Info); err != nil {
				return nil, err
			}
			continue
		}
		// The go command needs the version of it and does without the time.
		info, err := json.Marshal(struct{ Version string }{m.Version})
		if err != nil {
			return nil, err
		}
		out = append(out, &filetree.Entry{
			Path: base + ".info", Type: tar.TypeReg, Mode: 0o644, ModTime: b.mtime(), Size: int64(len(info)),
			Digest: digest.FromBytes(info), Content: filetree.Content{Data: info},
			Origin: generatedOrigin("go", "version of module "+m.Path),
		})
	}
	return out, nil
}
