//go:build ignore

// This program writes decode.go from decode.go.tmpl. One step of the range
// decoder is a dozen lines on local variables that are needed in some fifty
// places; the compiler inlines nothing of that size, so it is expanded here.
//
// There are two forms of a step. The one with a jump is faster where the
// processor can predict the bit. The arithmetic one serves bits that are close
// to noise: the low bits of distances, and literals after a match.
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"log"
	"os"
	"strings"
	"text/template"
)

const normalise = `if rng < 1<<24 {
	rng <<= 8
	code = code<<8 | uint32(in[ip&inMask])
	ip++
}
`

// head begins a decision with the probability at the address prob.
func head(prob string) string {
	return fmt.Sprintf("prob = %s\n%sp = uint32(*prob)\nbound = (rng >> 11) * p\n", prob, normalise)
}

// What follows a decision for either bit.
const (
	zero = "rng = bound\n*prob = uint16(p + (2048-p)>>5)\n"
	one  = "rng -= bound\ncode -= bound\n*prob = uint16(p - p>>5)\n"
)

// step decodes one bit of a tree into sym.
func step(prob string) string {
	return head(prob) + "if code < bound {\n" + zero + "sym <<= 1\n} else {\n" + one + "sym = sym<<1 | 1\n}\n"
}

// smooth is step without a jump. mask is all ones for a zero bit. The constant
// is 31-2048: (2048-p)>>5 rounded as -((p+31-2048)>>5).
func smooth(prob string) string {
	return head(prob) + `diff = uint64(code) - uint64(bound)
mask = uint32(diff >> 32)
*prob = uint16(p - (p+mask&0xfffff81f)>>5)
rng -= bound
rng += (bound - rng) & mask
code = uint32(diff) + bound&mask
sym = sym<<1 + 1 + mask
`
}

// matchedStep is smooth for a literal after a match: as long as its bits are
// those of the byte at the last distance, they choose among other
// probabilities.
func matchedStep() string {
	return "match <<= 1\nbit = match & offset\n" + smooth("&lit[offset+bit+sym]") + "offset &= bit ^ mask\n"
}

func main() {
	t := template.Must(template.New("decode.go.tmpl").Funcs(template.FuncMap{
		"norm":    func() string { return normalise },
		"head":    head,
		"zero":    func() string { return zero },
		"one":     func() string { return one },
		"step":    step,
		"smooth":  smooth,
		"matched": matchedStep,
		"rep":     func(n int, s string) string { return strings.Repeat(s, n) },
	}).ParseFiles("decode.go.tmpl"))
	var b bytes.Buffer
	if err := t.Execute(&b, nil); err != nil {
		log.Fatal(err)
	}
	src, err := format.Source(b.Bytes())
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("decode.go", src, 0o644); err != nil {
		log.Fatal(err)
	}
}
