package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"sort"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
)

// PlanOptions tunes Plan. The zero value is ready.
type PlanOptions struct {
	// Source names the source package of a package's origin ("glibc" for
	// libc6), so that packages that change together share a layer. nil: the
	// package's own name.
	Source func(filetree.Origin) string
	// Codec of every layer; Gzip when empty.
	Codec Codec
}

// How package files are divided. Sizes are unpacked bytes.
//
// The numbers weigh four things against each other: a registry transfers and a
// runtime unpacks whole layers (many are good: less changes at once), each
// layer costs a round trip (few are good), layers are compressed in parallel,
// and Docker stacks at most 127.
var (
	productionSizes = grouping{maxAlone: 8, minAlone: 1 << 20, perRest: 8 << 20, maxRest: 2}
	developSizes    = grouping{maxAlone: 12, minAlone: 24 << 20, perRest: 48 << 20, maxRest: 8}
)

// grouping: sources of at least minAlone bytes get a layer of their own, the
// maxAlone largest of them; the rest is spread over a power of two of layers,
// at most maxRest, about perRest bytes each.
type grouping struct {
	maxAlone          int
	minAlone, perRest int64
	maxRest           int
}

// Plan divides two trees into layers, bottom first.
//
// The production layers depend on the production tree alone: nothing that is
// asked of the development image can change a digest of the other. The
// development image then reuses, whole, every production layer whose entries
// its own tree holds identically, and puts everything else above. No layer
// hides a file of a lower one, so there are no whiteouts.
//
// A folder is an exception to "identically": folders of the same path with
// another mode, owner or time do not prevent the sharing; a layer above states
// the development tree's own header again.
//
// Plan is pure. Stacking the layers of an image gives exactly its tree, with
// folders that an entry lies in but the tree lacks made up as WithParents does.
func Plan(production, development []*filetree.Entry, opt PlanOptions) (prod, dev []LayerSpec, err error) {
	if prod, err = PlanProduction(production, opt); err != nil {
		return nil, nil, fmt.Errorf("production image: %w", err)
	}
	if dev, err = PlanDevelopment(development, prod, opt); err != nil {
		return nil, nil, fmt.Errorf("development image: %w", err)
	}
	return prod, dev, nil
}

// PlanProduction is the production half of Plan.
func PlanProduction(tree []*filetree.Entry, opt PlanOptions) ([]LayerSpec, error) {
	byPath, err := indexTree(tree)
	if err != nil {
		return nil, err
	}
	return plan(tree, byPath, productionSizes, opt)
}

// PlanDevelopment is the development half of Plan; shared are the layers of
// the production image.
func PlanDevelopment(tree []*filetree.Entry, shared []LayerSpec, opt PlanOptions) ([]LayerSpec, error) {
	byPath, err := indexTree(tree)
	if err != nil {
		return nil, err
	}
	var layers []LayerSpec
	covered := make(map[string]*filetree.Entry) // what the shared layers leave at each path
	for _, l := range shared {
		if !holdsAll(byPath, l.Entries) {
			continue
		}
		layers = append(layers, l)
		for _, e := range l.Entries {
			covered[e.Path] = e
		}
	}
	var rest []*filetree.Entry
	taken := make(map[string]bool)
	linked := make(map[string]bool) // targets of hard links whose group must be said again
	for _, e := range tree {
		c := covered[e.Path]
		if c != nil && same(c, e) {
			continue
		}
		rest = append(rest, e)
		taken[e.Path] = true
		if e.Type == tar.TypeLink {
			linked[e.Link] = true
		}
		if e.IsReg() {
			linked[e.Path] = true
		}
	}
	// All names of one file must be in one layer. A name that only the
	// development tree has brings the others with it, a second time.
	for _, e := range tree {
		if !taken[e.Path] && (linked[e.Path] || e.Type == tar.TypeLink && linked[e.Link]) {
			rest = append(rest, e)
			taken[e.Path] = true
		}
	}
	own, err := plan(rest, byPath, developSizes, opt)
	if err != nil {
		return nil, err
	}
	return append(layers, own...), nil
}

// indexTree checks a whole tree: order's rules, and that every parent is a
// directory.
func indexTree(tree []*filetree.Entry) (*filetree.Tree, error) {
	if _, err := order(tree); err != nil {
		return nil, err
	}
	t := filetree.NewTree()
	for _, e := range tree {
		t.Set(e)
	}
	for _, e := range tree {
		for p := path.Dir(e.Path); p != "."; p = path.Dir(p) {
			if up := t.Get(p); up != nil {
				if !up.IsDir() {
					return nil, pathError(e.Path, "lies below %q, which is no directory", p)
				}
				break // the rest of the way was or will be checked from there
			}
		}
	}
	return t, nil
}

// holdsAll reports whether the tree has every entry identically, folders aside.
func holdsAll(tree *filetree.Tree, entries []*filetree.Entry) bool {
	for _, e := range entries {
		own := tree.Get(e.Path)
		if own == nil || !(own.IsDir() && e.IsDir()) && !same(own, e) {
			return false
		}
	}
	return true
}

// same reports whether two entries give the same member of a layer. Contents
// are equal when their digests are; without digests only bytes in memory or the
// same place in the same file are known to be equal.
func same(a, b *filetree.Entry) bool {
	if a == b {
		return true
	}
	if a.Path != b.Path || a.Type != b.Type || a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID ||
		a.ModTime != b.ModTime || a.Size != b.Size || a.Link != b.Link ||
		a.DevMajor != b.DevMajor || a.DevMinor != b.DevMinor || !maps.Equal(a.Xattrs, b.Xattrs) {
		return false
	}
	if !a.IsReg() || a.Size == 0 {
		return true
	}
	if a.Digest != "" && b.Digest != "" {
		return a.Digest == b.Digest
	}
	return a.Content.File == b.Content.File && a.Content.Offset == b.Content.Offset && bytes.Equal(a.Content.Data, b.Content.Data)
}

// A class is a kind of layers, bottom first: what changes least is lowest, so
// that a change of the application leaves every layer below it alone.
type class int

const (
	packages      class = iota // package files outside etc and var
	packageConfig              // package files in etc and var: the ones that configuration changes
	modules                    // language dependencies
	generated                  // made by Twinhull: accounts, package database, certificates, caches
	application                // artifacts and files of the project
	classes
)

func classOf(e *filetree.Entry) class {
	switch e.Origin.Kind {
	case filetree.FromPackage:
		// Setting up a package in the development image changes files here.
		// In a layer of their own they do not spoil the sharing of the rest.
		if top, _, _ := strings.Cut(e.Path, "/"); top == "etc" || top == "var" {
			return packageConfig
		}
		return packages
	case filetree.FromModule:
		return modules
	case filetree.FromGenerated:
		return generated
	}
	return application
}

// plan divides entries, whose folders are found in tree, into layers.
func plan(entries []*filetree.Entry, tree *filetree.Tree, g grouping, opt PlanOptions) ([]LayerSpec, error) {
	source := opt.Source
	if source == nil {
		source = func(o filetree.Origin) string { return o.Name }
	}
	byClass := make([][]*filetree.Entry, classes)
	bySource := make(map[string][]*filetree.Entry)
	for _, e := range entries {
		// A hard link goes where its target goes.
		why := e
		if e.Type == tar.TypeLink {
			why = tree.Get(e.Link)
		}
		c := classOf(why)
		byClass[c] = append(byClass[c], e)
		if c == packages {
			s := source(why.Origin)
			bySource[s] = append(bySource[s], e)
		}
	}
	var layers []LayerSpec
	add := func(name, comment string, entries []*filetree.Entry) error {
		if len(entries) == 0 {
			return nil
		}
		entries, err := WithParents(entries, tree)
		if err != nil {
			return err
		}
		sort.Slice(entries, func(i, j int) bool { return entries[i].Path < entries[j].Path })
		layers = append(layers, LayerSpec{Name: name, Comment: comment, Entries: entries, Codec: opt.Codec})
		return nil
	}
	for _, grp := range g.divide(bySource) {
		if err := add(grp.name, "debian packages: "+list(grp.sources), grp.entries); err != nil {
			return nil, err
		}
	}
	for _, l := range []struct {
		class         class
		name, comment string
	}{
		{packageConfig, "package configuration", "debian packages: configuration and state"},
		{modules, "dependencies", "dependencies: " + list(names(byClass[modules]))},
		{generated, "generated", "generated: " + list(names(byClass[generated]))},
		{application, "application", "application: " + list(names(byClass[application]))},
	} {
		if err := add(l.name, l.comment, byClass[l.class]); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

type sourceGroup struct {
	name    string
	sources []string
	entries []*filetree.Entry
}

// divide groups sources. Which group a small source falls into depends on its
// name only, so that another version of it, or another package beside it,
// changes one layer and not the borders of all of them.
func (g grouping) divide(bySource map[string][]*filetree.Entry) []sourceGroup {
	type sized struct {
		name string
		size int64
	}
	var all []sized
	for name, entries := range bySource {
		all = append(all, sized{name, contentSize(entries)})
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].size != all[j].size {
			return all[i].size > all[j].size
		}
		return all[i].name < all[j].name
	})
	var alone, rest []string
	restSize := int64(0)
	for _, s := range all {
		if len(alone) < g.maxAlone && s.size >= g.minAlone {
			alone = append(alone, s.name)
			continue
		}
		rest = append(rest, s.name)
		restSize += s.size
	}
	sort.Strings(alone)
	sort.Strings(rest)
	var out []sourceGroup
	for _, name := range alone {
		out = append(out, sourceGroup{name: name, sources: []string{name}, entries: bySource[name]})
	}
	bins := 1
	for bins < g.maxRest && int64(bins)*g.perRest < restSize {
		bins *= 2
	}
	groups := make([]sourceGroup, bins)
	for _, name := range rest {
		sum := sha256.Sum256([]byte(name))
		grp := &groups[int(sum[0])%bins]
		grp.sources = append(grp.sources, name)
		grp.entries = append(grp.entries, bySource[name]...)
	}
	n := 0
	for _, grp := range groups {
		if len(grp.entries) > 0 {
			n++
			grp.name = fmt.Sprintf("packages %d", n)
			out = append(out, grp)
		}
	}
	return out
}

// names returns the distinct origins of entries, sorted.
func names(entries []*filetree.Entry) []string {
	seen := make(map[string]bool)
	var out []string
	for _, e := range entries {
		if n := e.Origin.Name; n != "" && !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	sort.Strings(out)
	return out
}

// list joins names for a history entry, which people read: a few of them.
func list(names []string) string {
	const most = 12
	if len(names) == 0 {
		return "files"
	}
	if len(names) > most {
		return strings.Join(names[:most], " ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, " ")
}
