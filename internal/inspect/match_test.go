package inspect

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestMatcher(t *testing.T) {
	patterns := []string{"he", "she", "his", "hers", "\x00sh\x00", "aaa", "aa"}
	m := newMatcher(patterns, false)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		text := make([]byte, rng.IntN(200))
		for i := range text {
			text[i] = "hersia\x00x"[rng.IntN(8)]
		}
		var want []int
		for i := range text {
			for id, p := range patterns {
				if bytes.HasSuffix(text[:i+1], []byte(p)) {
					want = append(want, i*100+id)
				}
			}
		}
		var got []int
		state, base := uint32(0), 0
		for rest := text; len(rest) > 0; { // in pieces
			n := 1 + rng.IntN(len(rest))
			state = m.scan(state, rest[:n], func(p int32, end int) { got = append(got, (base+end-1)*100+int(p)) })
			rest, base = rest[n:], base+n
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%q: got %v, want %v", text, got, want)
		}
	}
}

// TestMatcherLanes compares lanes with the plain form, in order.
func TestMatcherLanes(t *testing.T) {
	m := newMatcher([]string{"he", "she", "his", "hers", "\x00sh\x00", "aaa", "aa", "hersheheaaashehisxs"}, false)
	rng := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{lanes*laneMin - 1, lanes * laneMin, lanes*laneMin + 3, lanes * laneMost, 3*lanes*laneMost + 17} {
		text := make([]byte, n)
		for i := range text {
			text[i] = "hersia\x00x"[rng.IntN(8)]
		}
		for range 30 { // across the borders of lanes, wherever they are
			copy(text[rng.IntN(n-30):], "hersheheaaashehisxs")
			copy(text[(n/lanes)*rng.IntN(lanes)+n/lanes-rng.IntN(20)-1:], "hersheheaaashehisxs")
		}
		type hit struct {
			p   int32
			end int
		}
		var got, want []hit
		s := m.scan(0, text[:7], func(p int32, end int) { got = append(got, hit{p, end}) })
		s = m.scan(s, text[7:], func(p int32, end int) { got = append(got, hit{p, end + 7}) })
		w := m.scanOne(0, text, 0, func(p int32, end int) { want = append(want, hit{p, end}) })
		if s != w || !slices.Equal(got, want) {
			t.Fatalf("%d bytes: %d hits and state %d, want %d hits and state %d", n, len(got), s, len(want), w)
		}
	}
}

func TestMatcherFolds(t *testing.T) {
	m := newMatcher([]string{"token", "-----begin"}, true)
	var got []int32
	m.scan(0, []byte("x-ToKeN -----BEGIN"), func(p int32, _ int) { got = append(got, p) })
	if !slices.Equal(got, []int32{0, 1}) {
		t.Errorf("got %v", got)
	}
}

func BenchmarkMatcher(b *testing.B) {
	m := toolMatcher()
	text := []byte(strings.Repeat("The quick brown fox, usage: of it [options] file\x00ELF\x7f\x01\x02", 1<<14))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		m.scan(0, text, func(int32, int) {})
	}
}
