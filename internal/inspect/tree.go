package inspect

import (
	"archive/tar"
	"path"
	"slices"
	"strings"
)

// node is one path of the file system that the layers make.
type node struct {
	e        *entry // nil for a folder that no layer names
	layer    int32
	name     string
	children map[string]*node // of a folder
	parent   *node
}

func (n *node) isDir() bool { return n.e == nil || n.e.typ == tar.TypeDir }

func (n *node) isLink() bool { return n.e != nil && n.e.typ == tar.TypeSymlink }

// path is relative to the root, "" for the root itself.
func (n *node) path() string {
	if n.parent == nil {
		return ""
	}
	if n.parent.parent == nil {
		return n.name
	}
	return n.parent.path() + "/" + n.name
}

// tree stacks layers as a runtime does (image-spec layer.md "Applying", and
// what containerd's archive.Apply does where it is silent): the folders of an
// entry's name are followed through links of lower layers, a whiteout deletes
// what lower layers have, the last of several entries of one name counts.
type tree struct {
	root  *node
	marks []layerMark
}

func newTree() *tree { return &tree{root: &node{children: map[string]*node{}}} }

// maxLinks is how many symbolic links Linux follows (path_resolution(7)).
const maxLinks = 40

// maxDepth bounds how deep folders lie: path() recurses.
const maxDepth = 2048

// walk follows a path from the root. With last, a link that the path ends with
// is followed too. It returns nil when nothing is there. make makes the folders
// on the way (and replaces what is not a folder, as a runtime does).
func (t *tree) walk(p string, last, make bool) *node {
	at := t.root
	rest := strings.Split(p, "/")
	for steps := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at.parent != nil {
				at = at.parent
			}
			continue
		}
		next := at.children[part]
		if next != nil && next.isLink() && (last || len(rest) > 0) {
			if steps++; steps > maxLinks {
				return nil
			}
			if strings.HasPrefix(next.e.link, "/") {
				at = t.root
			}
			rest = append(strings.Split(next.e.link, "/"), rest...)
			if len(rest) > maxDepth {
				return nil
			}
			continue
		}
		if next == nil || len(rest) > 0 && !next.isDir() {
			if !make {
				return nil
			}
			if next != nil {
				t.remove(next)
			}
			next = &node{name: part, parent: at}
			t.put(at, next)
		}
		at = next
	}
	return at
}

func (t *tree) put(parent, n *node) {
	if parent.children == nil {
		parent.children = map[string]*node{}
	}
	parent.children[n.name] = n
}

// remove takes a node and what is below it out of the tree.
func (t *tree) remove(n *node) {
	if n.parent == nil {
		return
	}
	delete(n.parent.children, n.name)
	stack := []*node{n}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if n.e != nil {
			n.e.refs--
		}
		for _, c := range n.children {
			stack = append(stack, c)
		}
		n.children = nil
	}
}

// apply puts a layer on top. l's entries must stay where they are.
func (t *tree) apply(index int, l *layerScan) {
	// Whiteouts are about lower layers, wherever they stand in this one.
	for i := range l.entries {
		switch e := &l.entries[i]; e.typ {
		case typeWhiteout:
			if parent := t.walk(path.Dir("/"+e.path), true, false); parent != nil {
				if n := parent.children[path.Base(e.path)]; n != nil {
					t.remove(n)
				}
			}
		case typeOpaque:
			if n := t.walk(e.path, true, false); n != nil {
				for _, c := range n.children {
					t.remove(c)
				}
			}
		}
	}
	for i := range l.entries {
		e := &l.entries[i]
		if e.typ == typeWhiteout || e.typ == typeOpaque {
			continue
		}
		if strings.Count(e.path, "/") > maxDepth {
			t.marks = append(t.marks, layerMark{RuleHostile, e.path[:100] + "…", "folders lie deeper than is read"})
			continue
		}
		dir, base := path.Split(e.path)
		parent := t.walk(dir, true, true)
		if parent == nil || !parent.isDir() {
			t.marks = append(t.marks, layerMark{RuleHostile, e.path, "the folder of the entry is a link in a circle"})
			continue
		}
		old := parent.children[base]
		if e.typ == tar.TypeDir && old != nil && old.isDir() {
			if old.e != nil {
				old.e.refs--
			}
			e.refs++
			old.e, old.layer = e, int32(index)
			continue
		}
		put := e
		layer := int32(index)
		if e.typ == tar.TypeLink {
			target := t.walk(e.link, false, false)
			if target == nil || target.e == nil || target.isDir() {
				t.marks = append(t.marks, layerMark{RuleHostile, e.path, "a hard link to " + e.link + ", which is not there"})
				continue
			}
			if target == old {
				continue
			}
			put, layer = target.e, target.layer
		}
		put.refs++
		if old != nil {
			t.remove(old)
		}
		t.put(parent, &node{e: put, layer: layer, name: base, parent: parent})
	}
}

// resolve follows links as a process with this root would.
func (t *tree) resolve(p string) *node { return t.walk(strings.Trim(p, "/"), true, false) }

// each visits every named path in order. The order is that of the path's parts,
// so that what is in a folder follows it.
func (t *tree) each(see func(p string, n *node)) {
	var visit func(prefix string, n *node)
	visit = func(prefix string, n *node) {
		names := make([]string, 0, len(n.children))
		for name := range n.children {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			c := n.children[name]
			p := prefix + name
			see(p, c)
			if len(c.children) > 0 {
				visit(p+"/", c)
			}
		}
	}
	visit("", t.root)
}
