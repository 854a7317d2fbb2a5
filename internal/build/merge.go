package build

import (
	"fmt"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/debfile"
)

// unpacked is a locked package with what it ships, in a merged /usr.
type unpacked struct {
	lock    project.Package
	deb     *debfile.Package
	entries []filetree.Entry
}

// mergePackages puts packages on top of each other as dpkg would: folders are
// shared and the first package's metadata stands (in the order given, which is
// the lock's); of two files at one path the one whose package declares that it
// Replaces the other wins; any other clash is refused, for dpkg would refuse
// it too.
func mergePackages(pkgs []unpacked) (*filetree.Tree, error) {
	t := filetree.NewTree()
	owner := map[string]*unpacked{}
	for i := range pkgs {
		p := &pkgs[i]
		for j := range p.entries {
			e := &p.entries[j]
			old := t.Get(e.Path)
			switch {
			case old == nil:
			case old.IsDir() && (e.IsDir() || e.IsLink()):
				continue // dpkg keeps a folder where a later package ships a link to one
			case old.IsLink() && e.IsDir():
				if to := t.Resolve(e.Path); to == nil || to.IsDir() {
					continue
				}
			case old.IsReg() && e.IsReg() && old.Digest == e.Digest && old.Mode == e.Mode:
				continue // Multi-Arch: same packages share identical files
			case old.IsLink() && e.IsLink() && old.Link == e.Link:
				continue
			case replaces(p, owner[e.Path]):
			case replaces(owner[e.Path], p):
				continue
			default:
				return nil, fmt.Errorf("packages %s and %s both ship /%s, and neither replaces the other: leave one of them out", owner[e.Path].lock.Name, p.lock.Name, e.Path)
			}
			t.Set(e)
			owner[e.Path] = p
		}
	}
	return t, nil
}

// replaces tells whether a's control file says that it replaces files of b.
func replaces(a, b *unpacked) bool {
	if a == nil || b == nil {
		return false
	}
	for rel := range strings.SplitSeq(a.deb.Control.Get("Replaces"), ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(rel), " ")
		name, _, _ = strings.Cut(name, ":")
		if name == b.lock.Name {
			return true
		}
	}
	return false
}
