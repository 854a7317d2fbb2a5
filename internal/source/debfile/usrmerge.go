package debfile

import (
	"archive/tar"
	"fmt"
	"path"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
)

// mergedFolders are the folders at the root that a merged tree keeps in /usr,
// with a symbolic link in their place.
var mergedFolders = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// MergedPath returns where a path lies in a merged tree: "bin/ls" becomes
// "usr/bin/ls"; all others stay.
func MergedPath(p string) string {
	if merged(p) {
		return "usr/" + p
	}
	return p
}

// merged tells whether a path is one of the merged folders or lies in one.
func merged(p string) bool {
	top, _, _ := strings.Cut(p, "/")
	for _, m := range mergedFolders {
		if top == m {
			return true
		}
	}
	return false
}

// UsrMerge returns the entries as they lie in a merged tree: what a package
// ships below /bin, /sbin and the /lib folders moves below /usr. Debian 12 has
// packages that still ship such paths, and the links at the root come from the
// tool that makes the tree (MergeLinks); in Debian 13 base-files ships the
// links, which stay as they are. Nothing else is added.
//
// The entries may be one package's or those of many, in the order in which they
// are unpacked. A folder that thereby stands twice keeps its first entry, as
// dpkg leaves a folder alone that is already there. Where a package ships both
// /bin/x and a compatibility link /usr/bin/x to it (or the other way round) the
// file remains. Any other two entries for one path are an error.
//
// The text of a relative link that moved and climbs past its old top folder is
// rewritten to reach the same file from its new place; every other link keeps
// its text, since paths through the root's links still hold. Origin.Path keeps
// the path that the package ships.
func UsrMerge(entries []filetree.Entry) ([]filetree.Entry, error) {
	out := make([]filetree.Entry, 0, len(entries))
	at := make(map[string]int, len(entries))
	for _, e := range entries {
		old := e.Path
		// The root's own links: "bin -> usr/bin".
		if e.Type == tar.TypeSymlink && !strings.Contains(old, "/") && merged(old) {
			if to := strings.TrimPrefix(path.Clean("/"+e.Link), "/"); to != "usr/"+old {
				return nil, fmt.Errorf("package %s ships /%s as a link to %q, want usr/%s", e.Origin.Name, old, e.Link, old)
			}
		} else {
			e.Path = MergedPath(old)
		}
		switch e.Type {
		case tar.TypeLink:
			e.Link = MergedPath(e.Link)
		case tar.TypeSymlink:
			if e.Path != old {
				e.Link = mergedLink(old, e.Link)
			}
		}
		i, ok := at[e.Path]
		if !ok {
			at[e.Path] = len(out)
			out = append(out, e)
			continue
		}
		switch first := &out[i]; {
		case first.Type == tar.TypeDir && e.Type == tar.TypeDir:
		case linksTo(&e, e.Path):
			// A link to itself after the merge: the file is already there.
		case linksTo(first, first.Path):
			*first = e
		default:
			return nil, fmt.Errorf("after merging /usr, /%s is shipped twice: by %s as /%s and by %s as /%s",
				e.Path, first.Origin.Name, first.Origin.Path, e.Origin.Name, old)
		}
	}
	return out, nil
}

// linksTo tells whether e is a symbolic link that names the path p in a merged
// tree.
func linksTo(e *filetree.Entry, p string) bool {
	if e.Type != tar.TypeSymlink {
		return false
	}
	to := e.Link
	if !strings.HasPrefix(to, "/") {
		to = path.Join("/", path.Dir(e.Path), to)
	}
	return MergedPath(strings.TrimPrefix(path.Clean(to), "/")) == p
}

// mergedLink returns the text that a symbolic link shipped at old, in a merged
// folder, needs at its new place one folder deeper.
func mergedLink(old, text string) string {
	if strings.HasPrefix(text, "/") {
		return text
	}
	top, _, _ := strings.Cut(old, "/")
	to := strings.TrimPrefix(path.Join("/", path.Dir(old), text), "/")
	if to == top || strings.HasPrefix(to, top+"/") {
		return text
	}
	to = MergedPath(to)
	// Both ends are clean and relative to the root: drop what they share.
	from := strings.Split(path.Dir("usr/"+old), "/")
	parts := strings.Split(to, "/")
	for len(from) > 0 && len(parts) > 1 && from[0] == parts[0] {
		from, parts = from[1:], parts[1:]
	}
	return strings.TrimSuffix(strings.Repeat("../", len(from))+strings.Join(parts, "/"), "/")
}

// MergeLinks returns the links that a merged tree has at its root, and the
// folders that they name, for a tree whose packages do not ship them (Debian
// 12): bin, sbin and lib everywhere, and those of the other word sizes for
// which debootstrap makes them on that Debian architecture.
func MergeLinks(arch string) []filetree.Entry {
	names := []string{"bin", "lib", "sbin"}
	if arch == "amd64" {
		names = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}
	}
	origin := filetree.Origin{Kind: filetree.FromGenerated, Name: "usr-merge", Note: "link of a merged /usr"}
	out := []filetree.Entry{{Path: "usr", Type: tar.TypeDir, Mode: 0o755, Origin: origin}}
	for _, n := range names {
		out = append(out, filetree.Entry{Path: "usr/" + n, Type: tar.TypeDir, Mode: 0o755, Origin: origin})
	}
	for _, n := range names {
		out = append(out, filetree.Entry{Path: n, Type: tar.TypeSymlink, Mode: 0o777, Link: "usr/" + n, Origin: origin})
	}
	return out
}
