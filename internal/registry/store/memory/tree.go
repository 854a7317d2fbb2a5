package memory

import (
	"bytes"
	"hash/maphash"
)

// node is the root of a treap: keys are in order from left to right, and weights
// grow towards the root. Weights are hashes of the keys, so the tree is as deep as
// a random one whatever the order of the changes. Nodes are never changed; a
// change copies the nodes from the root to where it happens.
type node struct {
	key, value  []byte
	weight      uint64
	left, right *node
}

// seed is chosen anew by each process, so nobody can choose keys that make the tree deep.
var seed = maphash.MakeSeed()

func weigh(key []byte) uint64 { return maphash.Bytes(seed, key) }

func (n *node) find(key []byte) *node {
	for n != nil {
		switch c := bytes.Compare(key, n.key); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n
		}
	}
	return nil
}

// with copies a node with other children.
func (n *node) with(left, right *node) *node {
	return &node{n.key, n.value, n.weight, left, right}
}

// split gives what is below key and what is above it; key itself is dropped.
func (n *node) split(key []byte) (below, above *node) {
	if n == nil {
		return nil, nil
	}
	switch c := bytes.Compare(key, n.key); {
	case c < 0:
		below, above = n.left.split(key)
		return below, n.with(above, n.right)
	case c > 0:
		below, above = n.right.split(key)
		return n.with(n.left, below), above
	}
	return n.left, n.right
}

// join puts b, all of whose keys are greater, behind a.
func join(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.weight >= b.weight:
		return a.with(a.left, join(a.right, b))
	}
	return b.with(join(a, b.left), b.right)
}

// put adds fresh, or replaces what has its key.
func (n *node) put(fresh *node) *node {
	if n == nil {
		return fresh
	}
	switch c := bytes.Compare(fresh.key, n.key); {
	case c == 0:
		return fresh.with(n.left, n.right)
	case n.weight < fresh.weight:
		// Equal keys weigh the same, so fresh's key is nowhere below n.
		below, above := n.split(fresh.key)
		return fresh.with(below, above)
	case c < 0:
		return n.with(n.left.put(fresh), n.right)
	}
	return n.with(n.left, n.right.put(fresh))
}

// remove takes a key away that is there.
func (n *node) remove(key []byte) *node {
	switch c := bytes.Compare(key, n.key); {
	case c < 0:
		return n.with(n.left.remove(key), n.right)
	case c > 0:
		return n.with(n.left, n.right.remove(key))
	}
	return join(n.left, n.right)
}

// scan calls f with the nodes whose keys begin with prefix and are greater than
// after (nil: all), in order, until f says false. It returns whether to go on.
func (n *node) scan(prefix, after []byte, f func(*node) bool) bool {
	if n == nil {
		return true
	}
	// How n's key lies to the range: what is before it is only on its right.
	starts := bytes.HasPrefix(n.key, prefix)
	behind := !starts && bytes.Compare(n.key, prefix) > 0
	before := !starts && !behind || after != nil && bytes.Compare(n.key, after) <= 0
	if !before && !n.left.scan(prefix, after, f) {
		return false
	}
	if starts && !before && !f(n) {
		return false
	}
	return behind || n.right.scan(prefix, after, f)
}
