package inspect

// matcher finds many strings in one pass (Aho and Corasick, 1975), as a table:
// one step for each byte whatever the strings. It is immutable and shared by
// all goroutines; the state between two calls belongs to the caller, so that a
// stream can be fed in pieces.
type matcher struct {
	class  [256]uint8 // byte → column
	stride uint32     // columns of a row, a power of two
	next   []uint32   // row*stride + column → row*stride; rows from accept on have outputs
	accept uint32     // row offset of the first accepting state
	out    [][]int32  // outputs of the accepting states, from accept on
	n      int        // how many patterns
}

// newMatcher builds the table. With fold, ASCII letters match in either case
// and the patterns must be lower case.
func newMatcher(patterns []string, fold bool) *matcher {
	m := &matcher{n: len(patterns)}
	classes := uint8(1) // 0 is every byte that no pattern has
	for _, p := range patterns {
		for i := range len(p) {
			if m.class[p[i]] == 0 {
				m.class[p[i]] = classes
				classes++
			}
		}
	}
	if fold {
		for c := byte('A'); c <= 'Z'; c++ {
			m.class[c] = m.class[c+'a'-'A']
		}
	}
	m.stride = 1
	for m.stride < uint32(classes) {
		m.stride *= 2
	}
	// The trie, then failure links breadth first.
	type node struct {
		next [][2]int32 // class, node
		fail int32
		out  []int32
	}
	nodes := []node{{}}
	child := func(n int32, c uint8) int32 {
		for _, e := range nodes[n].next {
			if e[0] == int32(c) {
				return e[1]
			}
		}
		return -1
	}
	for id, p := range patterns {
		at := int32(0)
		for i := range len(p) {
			c := m.class[p[i]]
			to := child(at, c)
			if to < 0 {
				to = int32(len(nodes))
				nodes = append(nodes, node{})
				nodes[at].next = append(nodes[at].next, [2]int32{int32(c), to})
			}
			at = to
		}
		nodes[at].out = append(nodes[at].out, int32(id))
	}
	order := []int32{0}
	full := make([]int32, len(nodes)*int(m.stride)) // node*stride + class → node
	for i := 0; i < len(order); i++ {
		n := order[i]
		row := full[int(n)*int(m.stride):][:m.stride]
		if n != 0 {
			copy(row, full[int(nodes[n].fail)*int(m.stride):][:m.stride])
		}
		for _, e := range nodes[n].next {
			if n != 0 {
				f := row[e[0]] // where the failure link goes on
				nodes[e[1]].fail = f
				nodes[e[1]].out = append(nodes[e[1]].out, nodes[f].out...)
			}
			row[e[0]] = e[1]
			order = append(order, e[1])
		}
	}
	// Number the states so that a comparison tells the accepting ones.
	number := make([]uint32, len(nodes))
	k := uint32(0)
	for _, accepting := range []bool{false, true} {
		if accepting {
			m.accept = k * m.stride
		}
		for i := range nodes {
			if (len(nodes[i].out) > 0) == accepting {
				number[i] = k
				k++
				if accepting {
					m.out = append(m.out, nodes[i].out)
				}
			}
		}
	}
	m.next = make([]uint32, len(full))
	for n := range nodes {
		for c := range m.stride {
			m.next[number[n]*m.stride+c] = number[full[uint32(n)*m.stride+c]] * m.stride
		}
	}
	return m
}

// scan feeds b from a state (0 at first) and returns the state after it. hit is
// called for each pattern that ends at b[end-1].
func (m *matcher) scan(state uint32, b []byte, hit func(pattern int32, end int)) uint32 {
	next, accept, class := m.next, m.accept, &m.class
	for i, c := range b {
		state = next[state+uint32(class[c])]
		if state >= accept {
			for _, p := range m.out[(state-accept)/m.stride] {
				hit(p, i+1)
			}
		}
	}
	return state
}
