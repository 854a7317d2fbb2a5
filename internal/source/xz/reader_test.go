package xz

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ulikunitz/xz"
	ulzma "github.com/ulikunitz/xz/lzma"
	xi2 "github.com/xi2/xz"
)

// text makes n bytes that compress like programs and documents do: words, long
// repeats at all distances, runs, and stretches of noise.
func text(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([][]byte, 300)
	for i := range words {
		w := make([]byte, 1+r.IntN(12))
		for j := range w {
			w[j] = byte('a' + r.IntN(26))
		}
		words[i] = w
	}
	out := make([]byte, 0, n+1<<16)
	for len(out) < n {
		switch r.IntN(40) {
		case 0:
			noise := make([]byte, r.IntN(3000))
			for i := range noise {
				noise[i] = byte(r.Uint32())
			}
			out = append(out, noise...)
		case 1:
			out = append(out, bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(1000))...)
		case 2:
			if len(out) > 0 {
				from := r.IntN(len(out))
				out = append(out, out[from:min(len(out), from+r.IntN(5000))]...)
			}
		default:
			out = append(out, words[r.IntN(len(words))]...)
			out = append(out, ' ')
		}
	}
	return out[:n]
}

func compress(t testing.TB, c xz.WriterConfig, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := c.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(plain)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decompress(b []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestReadsWhatOthersWrite(t *testing.T) {
	type test struct {
		name  string
		conf  xz.WriterConfig
		plain []byte
	}
	tests := []test{
		{"empty", xz.WriterConfig{}, nil},
		{"one byte", xz.WriterConfig{}, []byte("x")},
		{"noise", xz.WriterConfig{}, func() []byte {
			b := make([]byte, 300_000)
			r := rand.New(rand.NewPCG(5, 6))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			return b
		}()},
		{"run", xz.WriterConfig{}, bytes.Repeat([]byte{7}, 5<<20)},
		{"crc32", xz.WriterConfig{CheckSum: xz.CRC32}, text(200_000, 1)},
		{"crc64", xz.WriterConfig{CheckSum: xz.CRC64}, text(200_000, 2)},
		{"sha256", xz.WriterConfig{CheckSum: xz.SHA256}, text(200_000, 3)},
		{"no check", xz.WriterConfig{NoCheckSum: true}, text(200_000, 4)},
		{"blocks", xz.WriterConfig{BlockSize: 50_000}, text(1_000_000, 5)},
		{"small dictionary, sliding window", xz.WriterConfig{DictCap: 4096}, text(6<<20, 6)},
		{"dictionary larger than a slide", xz.WriterConfig{DictCap: 5 << 20}, text(17<<20, 7)},
	}
	for lc := 0; lc <= 4; lc++ {
		for lp := 0; lc+lp <= 4; lp++ {
			for _, pb := range []int{0, 2, 4} {
				tests = append(tests, test{fmt.Sprintf("lc%d lp%d pb%d", lc, lp, pb),
					xz.WriterConfig{Properties: &ulzma.Properties{LC: lc, LP: lp, PB: pb}}, text(60_000, uint64(lc*100+lp*10+pb))})
			}
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decompress(compress(t, tt.conf, tt.plain))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, tt.plain) {
				t.Fatalf("got %d other bytes, want %d", len(got), len(tt.plain))
			}
		})
	}
}

func TestCommandLineTool(t *testing.T) {
	tool, err := exec.LookPath("xz")
	if err != nil {
		t.Skip("no xz command here to compare with")
	}
	plain := text(3_000_000, 9)
	for _, args := range []string{
		"-0", "-6", "-9e", "-T2 --block-size=400000", "--check=sha256", "--check=none", "--check=crc32",
		"--lzma2=preset=6,lc=0,lp=3,pb=1", "--lzma2=dict=4096", "--lzma2=nice=5,mode=fast",
	} {
		t.Run(args, func(t *testing.T) {
			cmd := exec.Command(tool, append([]string{"-c"}, strings.Fields(args)...)...)
			cmd.Stdin = bytes.NewReader(plain)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			r, err := NewReader(iotest.HalfReader(bytes.NewReader(packed)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%d bytes and %v, want %d", len(got), err, len(plain))
			}
		})
	}
	for _, args := range []string{"--x86 --lzma2", "--delta=dist=4 --lzma2"} {
		cmd := exec.Command(tool, append([]string{"-c"}, strings.Fields(args)...)...)
		cmd.Stdin = bytes.NewReader(plain[:1000])
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Trim(strings.FieldsFunc(args, func(r rune) bool { return r == ' ' || r == '=' })[0], "-")
		if _, err := decompress(packed); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("xz %s: error %v, want one that names the filter %s", args, err, name)
		}
	}
}

func TestConcatenated(t *testing.T) {
	a, b := compress(t, xz.WriterConfig{}, []byte("first ")), compress(t, xz.WriterConfig{CheckSum: xz.SHA256}, []byte("second"))
	for pad, ok := range map[int]bool{0: true, 4: true, 8: true, 1: false, 6: false} {
		in := append(append(append([]byte(nil), a...), make([]byte, pad)...), b...)
		got, err := decompress(in)
		if ok != (err == nil) || ok && string(got) != "first second" {
			t.Errorf("padding of %d: %q, %v", pad, got, err)
		}
		in = append(append([]byte(nil), a...), make([]byte, pad)...)
		if got, err := decompress(in); ok != (err == nil) {
			t.Errorf("padding of %d at the end: %q, %v", pad, got, err)
		}
	}
	if _, err := decompress(append(append([]byte(nil), a...), "more"...)); err == nil {
		t.Error("bytes after the stream are accepted")
	}
}

func TestTruncated(t *testing.T) {
	packed := compress(t, xz.WriterConfig{BlockSize: 3000}, text(9000, 11))
	for n := range packed {
		_, err := decompress(packed[:n])
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d of %d: error %v, want io.ErrUnexpectedEOF", n, len(packed), err)
		}
	}
	failure := errors.New("disk on fire")
	r, err := NewReader(io.MultiReader(bytes.NewReader(packed[:200]), iotest.ErrReader(failure)))
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if !errors.Is(err, failure) {
		t.Errorf("error %v, want the input's own", err)
	}
}

// Every bit counts: with a check in the stream no damage goes unseen.
func TestDamaged(t *testing.T) {
	packed := compress(t, xz.WriterConfig{BlockSize: 1500}, text(3000, 12))
	for i := range packed {
		for bit := range 8 {
			bad := bytes.Clone(packed)
			bad[i] ^= 1 << bit
			if got, err := decompress(bad); err == nil {
				t.Fatalf("bit %d of byte %d of %d flipped: accepted, %d bytes", bit, i, len(packed), len(got))
			}
		}
	}
}

// container puts LZMA2 data into a stream whose headers, index and check are
// right, so that hostile data is not stopped at the door. dict is the
// dictionary property; plain are the bytes that the check and the index claim.
func container(data []byte, dict byte, plain []byte, check byte) []byte {
	le := binary.LittleEndian
	vli := func(b []byte, v int) []byte { return binary.AppendUvarint(b, uint64(v)) }
	flags := []byte{0, check}
	b := append([]byte(nil), streamMagic...)
	b = append(b, flags...)
	b = le.AppendUint32(b, crc32.ChecksumIEEE(flags))
	begin := len(b)
	h := []byte{2, 0, 0x21, 1, dict, 0, 0, 0}
	b = append(b, h...)
	b = le.AppendUint32(b, crc32.ChecksumIEEE(h))
	b = append(b, data...)
	unpadded := len(b) - begin
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	switch check {
	case 1:
		b = le.AppendUint32(b, crc32.ChecksumIEEE(plain))
		unpadded += 4
	case 4:
		b = le.AppendUint64(b, crc64.Checksum(plain, crc64.MakeTable(crc64.ECMA)))
		unpadded += 8
	case 10:
		s := sha256.Sum256(plain)
		b = append(b, s[:]...)
		unpadded += 32
	}
	index := vli([]byte{0}, 1)
	index = vli(index, unpadded)
	index = vli(index, len(plain))
	for len(index)%4 != 0 {
		index = append(index, 0)
	}
	index = le.AppendUint32(index, crc32.ChecksumIEEE(index))
	b = append(b, index...)
	f := le.AppendUint32(nil, uint32(len(index)/4-1))
	f = append(f, flags...)
	b = le.AppendUint32(b, crc32.ChecksumIEEE(f))
	b = append(b, f...)
	return append(b, 'Y', 'Z')
}

func TestChunks(t *testing.T) {
	abc := []byte("\x01\x00\x02abc")
	for _, tt := range []struct {
		name  string
		data  string
		dict  byte
		plain string
		want  string // part of the error
	}{
		{name: "uncompressed", data: string(abc) + "\x00", plain: "abc"},
		{name: "two dictionaries", data: string(abc) + string(abc) + "\x00", plain: "abcabc"},
		{name: "continued", data: string(abc) + "\x02\x00\x00d\x00", plain: "abcd"},
		{name: "empty", data: "\x00"},
		{name: "no dictionary reset", data: "\x02\x00\x02abc\x00", plain: "abc", want: "corrupt"},
		{name: "reserved control", data: "\x03\x00\x02abc\x00", plain: "abc", want: "corrupt"},
		{name: "no properties", data: string(abc) + "\xa0\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00", plain: "abcd", want: "corrupt"},
		{name: "bad properties", data: "\xe0\x00\x00\x00\x05\xff\x00\x00\x00\x00\x00\x00\x00", plain: "a", want: "corrupt"},
		{name: "lc and lp too large", data: "\xe0\x00\x00\x00\x05\x0e\x00\x00\x00\x00\x00\x00\x00", plain: "a", want: "corrupt"},
		{name: "chunk too short for the decoder", data: "\xe0\x00\x00\x00\x03\x5d\x00\x00\x00\x00\x00", plain: "a", want: "corrupt"},
		{name: "first byte not zero", data: "\xe0\x00\x00\x00\x05\x5d\x01\x00\x00\x00\x00\x00\x00", plain: "\x00", want: "corrupt"},
		{name: "match before any byte", data: "\xe0\x00\x08\x00\x07\x5d\x00\xff\xff\xff\xff\xff\xff\xff\x00", plain: "aaaaaaaaa", want: "corrupt"},
		{name: "wrong index", data: string(abc) + "\x00", plain: "abcd", want: "check"},
		{name: "largest dictionary allowed", data: string(abc) + "\x00", dict: 28, plain: "abc"},
		{name: "dictionary too large", data: string(abc) + "\x00", dict: 29, plain: "abc", want: "96 MiB, at most 64"},
		{name: "dictionary of 4 GiB", data: string(abc) + "\x00", dict: 40, plain: "abc", want: "at most 64"},
		{name: "dictionary unknown", data: string(abc) + "\x00", dict: 41, plain: "abc", want: "corrupt"},
		{name: "end missing", data: string(abc), plain: "abc", want: "xz: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decompress(container([]byte(tt.data), tt.dict, []byte(tt.plain), 4))
			switch {
			case tt.want == "" && (err != nil || string(got) != tt.plain):
				t.Errorf("got %q, %v, want %q", got, err, tt.plain)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %q, %v, want an error with %q", got, err, tt.want)
			}
		})
	}
}

// A claim of a huge dictionary or block must not cost memory before there is
// data to fill it.
func TestMemory(t *testing.T) {
	b := container([]byte("\x01\x00\x02abc\x00"), 28, []byte("abc"), 4)
	res := testing.Benchmark(func(b2 *testing.B) {
		b2.ReportAllocs()
		for b2.Loop() {
			decompress(b)
		}
	})
	if n := res.AllocedBytesPerOp(); n > 1<<20 {
		t.Errorf("reading three bytes allocates %d", n)
	}
}

// others are the decoders that ours must agree with.
func xi2Decode(b []byte) ([]byte, error) {
	r, err := xi2.NewReader(bytes.NewReader(b), MaxDict)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func ulikunitzDecode(b []byte) ([]byte, error) {
	r, err := xz.ReaderConfig{DictCap: 1 << 20}.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func agree(t *testing.T, b []byte) {
	ours, err := decompress(b)
	if err != nil {
		return
	}
	other, err := xi2Decode(b)
	if err != nil {
		t.Fatalf("accepted, but xi2 says: %v", err)
	}
	if !bytes.Equal(ours, other) {
		t.Fatalf("%d bytes, but xi2 gives %d others", len(ours), len(other))
	}
	if other, err := ulikunitzDecode(b); err == nil && !bytes.Equal(ours, other) {
		t.Fatalf("%d bytes, but ulikunitz gives %d others", len(ours), len(other))
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(nil))
	for _, c := range []xz.WriterConfig{{}, {CheckSum: xz.CRC32}, {NoCheckSum: true, BlockSize: 100}} {
		f.Add(compress(f, c, text(400, 20)))
	}
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, b) })
}

// FuzzLZMA2 puts the input where no checksum protects it.
func FuzzLZMA2(f *testing.F) {
	f.Add([]byte("\x01\x00\x02abc\x02\x00\x00d\x00"))
	for i, p := range []ulzma.Properties{{LC: 3, PB: 2}, {LP: 2, LC: 1}, {PB: 4, LC: 4}} {
		packed := compress(f, xz.WriterConfig{NoCheckSum: true, Properties: &p}, text(700*(i+1), 30))
		// Between the headers (24 bytes) and the index.
		size := int(binary.LittleEndian.Uint32(packed[len(packed)-8:])+1) * 4
		f.Add(packed[24 : len(packed)-12-size])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// The index wants the length of the plain bytes: the chunks tell it.
		n := 0
		for rest := data; len(rest) > 6 && rest[0] != 0; {
			c, plain, skip := rest[0], int(rest[1])<<8+int(rest[2])+1, 3
			if c >= 0x80 {
				plain += int(c&0x1f) << 16
				skip = 5 + int(rest[3])<<8 + int(rest[4]) + 1
				if c >= 0xc0 {
					skip++
				}
			} else {
				skip += plain
			}
			n += plain
			rest = rest[min(skip, len(rest)):]
		}
		if n > 8<<20 {
			t.Skip()
		}
		b := container(data, 8, make([]byte, n), 0)
		agree(t, b)
		// And the other way round: what xi2 accepts is not refused.
		if other, err := xi2Decode(b); err == nil && (len(data) == 0 || data[0] < 0x80) {
			if ours, err := decompress(b); err != nil || !bytes.Equal(ours, other) {
				t.Fatalf("xi2 gives %d bytes, ours %d and %v", len(other), len(ours), err)
			}
		}
	})
}

func BenchmarkReader(b *testing.B) {
	benchmark(b, compress(b, xz.WriterConfig{DictCap: 8 << 20}, text(8<<20, 40)))
}

// BenchmarkPackage decompresses the data of a real package of many binaries,
// fetched with the machine's own apt.
func BenchmarkPackage(b *testing.B) {
	dir := b.TempDir()
	cmd := exec.Command("sh", "-c", `chmod 777 . && apt-get download -qq git && ar p git_*.deb data.tar.xz`)
	cmd.Dir = dir
	packed, err := cmd.Output()
	if err != nil || !bytes.HasPrefix(packed, streamMagic) {
		b.Skipf("apt-get download or ar does not work here (%v)", err)
	}
	benchmark(b, packed)
}

func benchmark(b *testing.B, packed []byte) {
	plain, err := decompress(packed)
	if err != nil {
		b.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		decode func([]byte) (io.Reader, error)
	}{
		{"ours", func(p []byte) (io.Reader, error) { return NewReader(bytes.NewReader(p)) }},
		{"xi2", func(p []byte) (io.Reader, error) { return xi2.NewReader(bytes.NewReader(p), 0) }},
		{"ulikunitz", func(p []byte) (io.Reader, error) { return xz.NewReader(bytes.NewReader(p)) }},
		{"command", func(p []byte) (io.Reader, error) {
			cmd := exec.Command("xz", "-dcT1")
			cmd.Stdin = bytes.NewReader(p)
			r, w := io.Pipe()
			cmd.Stdout = w
			go func() { w.CloseWithError(cmd.Run()) }()
			return r, nil
		}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				r, err := tt.decode(packed)
				if err == nil {
					_, err = io.Copy(io.Discard, r)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
