package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
)

// benchTree is 64 MiB in 256 files that lie in one stored file, as package
// trees do.
func benchTree(b *testing.B) []*filetree.Entry {
	b.Helper()
	stored := filepath.Join(b.TempDir(), "stored")
	f, err := os.Create(stored)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	entries := []*filetree.Entry{folder("d")}
	const size = 256 << 10
	for i := range 256 {
		text := words(uint64(i), size)
		if _, err := io.WriteString(f, text); err != nil {
			b.Fatal(err)
		}
		e := file(fmt.Sprintf("d/%03d", i), text)
		e.Digest = digest.FromString(text)
		e.Content = filetree.Content{File: stored, Offset: int64(i) * size}
		entries = append(entries, e)
	}
	return entries
}

// BenchmarkLayer writes one layer; BenchmarkFloor is what any reader of it
// pays (gunzip and two SHA-256), the yardstick beside it.
func BenchmarkLayer(b *testing.B) {
	entries := benchTree(b)
	for _, codec := range []Codec{Gzip, Zstd, EStargz} {
		b.Run(string(codec), func(b *testing.B) {
			b.SetBytes(contentSize(entries))
			b.ReportAllocs()
			for b.Loop() {
				contents := newContentReader(context.Background(), nil)
				if _, err := assemble(io.Discard, entries, codec, contents); err != nil {
					b.Fatal(err)
				}
				contents.close()
			}
		})
	}
}

func BenchmarkFloor(b *testing.B) {
	entries := benchTree(b)
	var blob bytes.Buffer
	contents := newContentReader(context.Background(), nil)
	if _, err := assemble(&blob, entries, Gzip, contents); err != nil {
		b.Fatal(err)
	}
	contents.close()
	b.SetBytes(contentSize(entries))
	for b.Loop() {
		in, out := sha256.New(), sha256.New()
		z, err := gzip.NewReader(io.TeeReader(bytes.NewReader(blob.Bytes()), in))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(out, z); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKey is what an unchanged layer costs: 20,000 entries.
func BenchmarkKey(b *testing.B) {
	var entries []*filetree.Entry
	for i := range 20_000 {
		entries = append(entries, file(fmt.Sprintf("usr/share/some/folder/name/%05d", i), "x"))
	}
	for b.Loop() {
		if _, err := Key(entries, Gzip); err != nil {
			b.Fatal(err)
		}
	}
}
