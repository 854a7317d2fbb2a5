package xz

import "errors"

//go:generate go run gen.go

const (
	inSize    = 1 << 17 // room for a chunk's input and what may be read past it
	inMask    = inSize - 1
	copySlack = 16 // bytes that a match copy may write past its end
)

var errCorrupt = errors.New("xz: compressed data is corrupt")

// lzma is the state that LZMA2 keeps between chunks: probabilities, the last
// four distances and the kind of the last symbols.
type lzma struct {
	isMatch     [256]uint16 // by state<<4 | position state
	isRep0Long  [256]uint16 // likewise
	isRep       [16]uint16  // by state
	isRep0      [16]uint16
	isRep1      [16]uint16
	isRep2      [16]uint16
	distSlot    [4][64]uint16
	distSpecial [128]uint16
	distAlign   [16]uint16
	lens        lengths
	repLens     lengths
	literal     [16][0x300]uint16

	state                  uint32
	rep0, rep1, rep2, rep3 uint32 // distances less one
	lc                     uint32
	lpMask, pbMask         uint32
	dict                   uint32 // bytes that a match may reach back
	start                  int    // where in the window the dictionary began
}

type lengths struct {
	choice, choice2 uint16
	low, mid        [16][8]uint16 // by position state
	high            [256]uint16
}

var reverse4 = [16]uint8{0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15}

func fill(p []uint16) {
	for i := range p {
		p[i] = 1024
	}
}

func (l *lengths) reset() {
	l.choice, l.choice2 = 1024, 1024
	for i := range l.low {
		fill(l.low[i][:])
		fill(l.mid[i][:])
	}
	fill(l.high[:])
}

// reset forgets everything that was learnt.
func (d *lzma) reset() {
	fill(d.isMatch[:])
	fill(d.isRep0Long[:])
	fill(d.isRep[:])
	fill(d.isRep0[:])
	fill(d.isRep1[:])
	fill(d.isRep2[:])
	for i := range d.distSlot {
		fill(d.distSlot[i][:])
	}
	fill(d.distSpecial[:])
	fill(d.distAlign[:])
	d.lens.reset()
	d.repLens.reset()
	for i := range d.literal {
		fill(d.literal[i][:])
	}
	d.state, d.rep0, d.rep1, d.rep2, d.rep3 = 0, 0, 0, 0, 0
}

// setProps takes the properties byte (lc, lp and pb) of a chunk.
func (d *lzma) setProps(b byte) error {
	if b > (4*5+4)*9+8 {
		return errCorrupt
	}
	lc, lp, pb := uint32(b%9), uint32(b/9%5), uint32(b/45)
	if lc+lp > 4 {
		return errCorrupt
	}
	d.lc, d.lpMask, d.pbMask = lc, 1<<lp-1, 1<<pb-1
	return nil
}
