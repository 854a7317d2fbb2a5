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
	// longest is the length of the longest pattern, bytes.
	longest int
}

// newMatcher builds the table. With fold, ASCII letters match in either case
// and the patterns must be lower case.
func newMatcher(patterns []string, fold bool) *matcher {
	m := &matcher{n: len(patterns)}
	classes := uint8(1) // 0 is every byte that no pattern has
	for _, p := range patterns {
		m.longest = max(m.longest, len(p))
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
	// Number the states so that a comparison tells the accepting ones, and those
	// near the root, where most bytes lead, lie together.
	number := make([]uint32, len(nodes))
	k := uint32(0)
	for _, accepting := range []bool{false, true} {
		if accepting {
			m.accept = k * m.stride
		}
		for _, i := range order {
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

// Pieces of a buffer are scanned side by side: each step of the table waits for
// the one before it, so that one lane alone leaves the processor idle.
const (
	lanes    = 4
	laneMin  = 2 << 10  // bytes; less is not worth the lanes
	laneMost = 32 << 10 // bytes
)

// scan feeds b from a state (0 at first) and returns the state after it. hit is
// called for each pattern that ends at b[end-1], in the order of end.
func (m *matcher) scan(state uint32, b []byte, hit func(pattern int32, end int)) uint32 {
	at := 0
	for len(b)-at >= lanes*laneMin {
		n := min((len(b)-at)/lanes, laneMost)
		state = m.scanLanes(state, b, at, n, hit)
		at += lanes * n
	}
	return m.scanOne(state, b, at, hit)
}

// scanOne is the plain form of scan, from b[at] on.
func (m *matcher) scanOne(state uint32, b []byte, at int, hit func(pattern int32, end int)) uint32 {
	next, accept, class := m.next, m.accept, &m.class
	for i, c := range b[at:] {
		state = next[state+uint32(class[c])]
		if state >= accept {
			m.tell(state, at+i+1, hit)
		}
	}
	return state
}

func (m *matcher) tell(state uint32, end int, hit func(pattern int32, end int)) {
	for _, p := range m.out[(state-m.accept)/m.stride] {
		hit(p, end)
	}
}

// scanLanes scans lanes pieces of n bytes from b[at] on.
func (m *matcher) scanLanes(s0 uint32, b []byte, at, n int, hit func(pattern int32, end int)) uint32 {
	next, accept, class := m.next, m.accept, &m.class
	// No state remembers more than the longest pattern, so that much before a
	// piece brings its lane into the state that it would have.
	warm := func(k int) (s uint32) {
		to := at + k*n
		for _, c := range b[max(to-m.longest, 0):to] {
			s = next[s+uint32(class[c])]
		}
		return s
	}
	s1, s2, s3 := warm(1), warm(2), warm(3)
	p0, p1, p2, p3 := b[at:at+n], b[at+n:at+2*n], b[at+2*n:at+3*n], b[at+3*n:at+4*n]
	// What later lanes find waits, so that hits are told in order.
	type found struct {
		state uint32
		i     int32
	}
	var room [lanes - 1][32]found
	late := [lanes - 1][]found{room[0][:0], room[1][:0], room[2][:0]}
	for i := range p0 {
		s0 = next[s0+uint32(class[p0[i]])]
		s1 = next[s1+uint32(class[p1[i]])]
		s2 = next[s2+uint32(class[p2[i]])]
		s3 = next[s3+uint32(class[p3[i]])]
		if s0 >= accept {
			m.tell(s0, at+i+1, hit)
		}
		if s1 >= accept {
			late[0] = append(late[0], found{s1, int32(i)})
		}
		if s2 >= accept {
			late[1] = append(late[1], found{s2, int32(i)})
		}
		if s3 >= accept {
			late[2] = append(late[2], found{s3, int32(i)})
		}
	}
	for k, list := range late {
		for _, f := range list {
			m.tell(f.state, at+(k+1)*n+int(f.i)+1, hit)
		}
	}
	return s3
}
