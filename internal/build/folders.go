package build

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// makeFolders makes folders below dir, each with its parents, with mode 0755
// whatever the caller's umask is: what runs in the sandbox can see it.
func makeFolders(dir string, rels ...string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, rel := range rels {
		if err := makeFoldersIn(root, rel); err != nil {
			return err
		}
	}
	return nil
}

func makeFoldersIn(root *os.Root, rel string) error {
	at := ""
	for part := range strings.SplitSeq(filepath.Clean(rel), "/") {
		if part == "." || part == "" {
			continue
		}
		at = filepath.Join(at, part)
		err := root.Mkdir(at, 0o755)
		switch {
		case err == nil:
			if err := root.Chmod(at, 0o755); err != nil {
				return err
			}
		case errors.Is(err, fs.ErrExist):
			if fi, err := root.Lstat(at); err != nil || !fi.IsDir() {
				return fmt.Errorf("%s is no folder", at)
			}
		default:
			return err
		}
	}
	return nil
}

// realFolder returns the folder rel below dir, which sandboxed programs could
// write to, and refuses when any part of it is a link or missing.
func realFolder(dir, rel string) (string, error) {
	at := dir
	for part := range strings.SplitSeq(filepath.Clean(rel), "/") {
		at = filepath.Join(at, part)
		fi, err := os.Lstat(at)
		if err != nil {
			return "", err
		}
		if !fi.IsDir() {
			return "", fmt.Errorf("/%s was replaced by something that is no folder", strings.TrimPrefix(at, dir+"/"))
		}
	}
	return at, nil
}
