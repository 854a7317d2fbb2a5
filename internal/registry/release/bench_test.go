package release

import (
	"fmt"
	"testing"

	"twinhull.dev/twinhull/internal/inspect/corpus"
)

// BenchmarkRelease releases a candidate of 20 MiB that the gate has read, as a
// new version each time; everything but the network and a disk under the
// registry is in it, the audit log on a real disk too.
func BenchmarkRelease(b *testing.B) {
	w := newWorld(b)
	spec := corpus.Base()
	for i := range 200 {
		data := make([]byte, 100<<10)
		for j := range data {
			data[j] = byte(i*j>>3 ^ j)
		}
		spec.Layers = append(spec.Layers, corpus.Layer{Files: []corpus.File{{Name: fmt.Sprintf("app/data%d", i), Body: data}}})
		if len(spec.Layers) > 20 {
			last := &spec.Layers[len(spec.Layers)-2]
			last.Files = append(last.Files, spec.Layers[len(spec.Layers)-1].Files...)
			spec.Layers = spec.Layers[:len(spec.Layers)-1]
		}
	}
	y := w.candidate(spec)
	if _, err := w.s.Judge(b.Context(), JudgeRequest{Repository: app, Digest: y.image.Digest}); err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		n++
		w.release(y.image.Digest, fmt.Sprintf("1.0.%d", n))
	}
}
