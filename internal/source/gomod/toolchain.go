package gomod

import (
	"archive/tar"
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/mod/module"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// toolchainVersion is the module version that a release has for a platform.
func toolchainVersion(release string, p oci.Platform) string {
	return "v0.0.1-go" + release + "." + p.OS + "-" + p.Architecture
}

// ResolveToolchain fetches the pinned Go release for a platform, puts its zip
// into the vault and returns it by hash. sums are the hashes that the
// project's go.sum has (Module.Toolchains): when the release is among them, the
// zip must have that hash. When it is not, the zip is trusted on this first
// lock and every later build must have the same bytes.
func ResolveToolchain(ctx context.Context, get Get, proxies Proxies, put Put, pin ToolchainPin, platform oci.Platform, sums map[string]string) (project.Tool, error) {
	v := module.Version{Path: toolchainModule, Version: toolchainVersion(pin.Version, platform)}
	at, err := address(v, "zip")
	if err != nil {
		return project.Tool{}, err
	}
	d, h1, size, err := lockZip(ctx, get, proxies, put, v, sums[v.Version])
	if err != nil {
		return project.Tool{}, fmt.Errorf("Go %s (%s): %w", pin.Version, pin.PinnedBy, err)
	}
	return project.Tool{
		Name: "go", Version: pin.Version, Platform: platform, PinnedBy: pin.PinnedBy,
		Path: at, Digest: d, Size: size, Sum: h1,
	}, nil
}

// UnpackToolchain lays a toolchain zip out as usr/local/go, with links to its
// commands in usr/local/bin. Contents are appended to keep and the entries
// refer to it as keepPath. A module zip has no modes, so the executable bits
// are those that the go command sets after a download (cmd/go/internal/toolchain:
// everything in bin and pkg/tool, and lib's go_*_*_exec), and as there each
// _go.mod is also written as go.mod.
func UnpackToolchain(tool project.Tool, zipPath string, keep io.Writer, keepPath string) ([]*filetree.Entry, error) {
	f, err := os.Open(zipPath)
	if err != nil {
		return nil, fmt.Errorf("toolchain go%s: %w", tool.Version, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("toolchain go%s: %w", tool.Version, err)
	}
	v := module.Version{Path: toolchainModule, Version: toolchainVersion(tool.Version, tool.Platform)}
	z, err := openZip(v, f, info.Size())
	if err != nil {
		return nil, err
	}
	const home = "usr/local/go"
	origin := filetree.Origin{Kind: filetree.FromModule, Name: toolchainModule, Version: v.Version, Digest: tool.Digest}
	tree := filetree.NewTree()
	folder := func(d string) {
		for ; d != "." && tree.Get(d) == nil; d = path.Dir(d) {
			tree.Set(&filetree.Entry{Path: d, Type: tar.TypeDir, Mode: 0o755, Origin: origin})
		}
	}
	folder("usr/local/bin")
	prefix := v.String() + "/"
	var at int64
	buf := make([]byte, 256<<10)
	for _, m := range z.File {
		rel := strings.TrimPrefix(m.Name, prefix)
		if strings.HasSuffix(rel, "/") {
			folder(home + "/" + strings.TrimSuffix(rel, "/"))
			continue
		}
		e := &filetree.Entry{Path: home + "/" + rel, Type: tar.TypeReg, Mode: toolchainMode(rel), Origin: origin}
		e.Origin.Path = m.Name
		if e.Digest, e.Size, err = copyMember(keep, m, buf); err != nil {
			return nil, fmt.Errorf("toolchain go%s: %s: %w", tool.Version, rel, err)
		}
		if e.Size > 0 {
			e.Content = filetree.Content{File: keepPath, Offset: at}
		}
		at += e.Size
		if tree.Get(e.Path) != nil {
			return nil, fmt.Errorf("toolchain go%s: %s is both a file and a folder", tool.Version, rel)
		}
		folder(path.Dir(e.Path))
		tree.Set(e)
		if path.Base(rel) == "_go.mod" {
			// Module zips may have no go.mod below their root.
			real := *e
			real.Path = path.Dir(e.Path) + "/go.mod"
			tree.Set(&real)
		}
	}
	if tree.Get(home+"/bin/go") == nil {
		return nil, fmt.Errorf("toolchain go%s has no bin/go", tool.Version)
	}
	for _, e := range tree.Sorted() {
		if parent := tree.Get(path.Dir(e.Path)); parent != nil && !parent.IsDir() {
			return nil, fmt.Errorf("toolchain go%s: %s is both a file and a folder", tool.Version, parent.Path)
		}
	}
	for _, command := range []string{"go", "gofmt"} {
		if tree.Get(home+"/bin/"+command) != nil {
			tree.Set(&filetree.Entry{
				Path: "usr/local/bin/" + command, Type: tar.TypeSymlink, Mode: 0o777, Link: "../go/bin/" + command,
				Origin: filetree.Origin{Kind: filetree.FromGenerated, Name: "go", Version: tool.Version, Note: "link to a command of the Go toolchain"},
			})
		}
	}
	return tree.Sorted(), nil
}

func toolchainMode(rel string) int64 {
	if strings.HasPrefix(rel, "bin/") || strings.HasPrefix(rel, "pkg/tool/") {
		return 0o755
	}
	if strings.HasPrefix(rel, "lib/") {
		if ok, _ := path.Match("go_?*_?*_exec", path.Base(rel)); ok {
			return 0o755
		}
	}
	return 0o644
}

func copyMember(w io.Writer, m *zip.File, buf []byte) (oci.Digest, int64, error) {
	r, err := m.Open()
	if err != nil {
		return "", 0, err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(w, h), r, buf)
	if err != nil {
		return "", 0, err
	}
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(h.Sum(nil))), n, nil
}
