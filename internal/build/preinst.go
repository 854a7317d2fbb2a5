package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/sandbox"
)

// preinstScript is a shell script that runs the preinst of every package.
func preinstScript(pkgs []unpacked) string {
	var script bytes.Buffer
	script.WriteString("set -e\n")
	for _, p := range pkgs {
		if p.deb.Member("preinst") == nil {
			continue
		}
		fmt.Fprintf(&script, "DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=%s DPKG_MAINTSCRIPT_ARCH=%s DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_RUNNING_VERSION=1.22 DPKG_ROOT= /var/lib/dpkg/info/%s.preinst install\n",
			p.lock.Name, p.lock.Arch, p.deb.InfoName())
	}
	return script.String()
}

// unpackOver takes out of an upper folder what preinst scripts did to files
// that packages ship. dpkg unpacks a package after its preinst, so what the
// archive holds wins; here the files are laid out before. Without this,
// python3-debugpy for one takes its own files for those of an earlier
// installation and removes them.
func unpackOver(ctx context.Context, upper string, shipped *filetree.Tree) error {
	root, err := os.OpenRoot(upper)
	if err != nil {
		return err
	}
	defer root.Close()
	var remove, show []string
	err = sandbox.Scan(ctx, upper, func(s sandbox.Entry) error {
		e := shipped.Get(s.Path)
		switch {
		case e == nil:
		case s.Whiteout || s.Type != tar.TypeDir:
			remove = append(remove, s.Path)
		case s.Opaque && e.IsDir():
			show = append(show, s.Path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range remove {
		if err := root.Remove(p); err != nil {
			return err
		}
	}
	for _, p := range show {
		f, err := root.Open(p)
		if err != nil {
			return err
		}
		err = unix.Fremovexattr(int(f.Fd()), "user.overlay.opaque")
		f.Close()
		if err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("%s: %w", filepath.Join(upper, p), err)
		}
	}
	return nil
}
