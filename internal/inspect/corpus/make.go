package corpus

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/ed25519"
	"crypto/md5"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Nothing here is a secret: everything is made of numbers that anybody can
// compute again. It has the form of one, which is what detectors look at.

// token is text that looks random.
func token(seed uint64, n int, alphabet string) string {
	r := rand.New(rand.NewPCG(seed, 20260102))
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

const (
	letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	capital = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	hexes   = "0123456789abcdef"
)

func githubToken() string { return "gh" + "p_" + token(1, 36, letters) }
func awsKey() string      { return "AK" + "IA" + token(2, 16, capital) }
func npmToken() string    { return "np" + "m_" + token(3, 36, letters) }
func slackToken() string {
	return "xo" + "xb-" + token(4, 12, "123456789") + "-" + token(5, 12, "123456789") + token(6, 24, letters)
}

// privateKey is a PKCS #8 key in PEM.
func privateKey(seed byte) []byte {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed, 7, 3, 1}, 8))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err) // an Ed25519 key can be marshalled
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIV" + "ATE KEY", Bytes: der})
}

// rsaLike has the form and length of an RSA key in PKCS #1.
func rsaLike() []byte {
	body := make([]byte, 1190)
	r := rand.New(rand.NewPCG(9, 9))
	for i := range body {
		body[i] = byte(r.Uint32())
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIV" + "ATE KEY", Bytes: body})
}

func tarball(name string, mode int64, body []byte) []byte {
	b, err := Tar([]File{{Name: "README", Body: []byte("hello\n")}, {Name: name, Mode: mode, Body: body}})
	if err != nil {
		panic(err) // to memory
	}
	return b
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b) // to memory
	_ = w.Close()
	return out.Bytes()
}

func zst(b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err) // no option is wrong
	}
	return w.EncodeAll(b, nil)
}

// utf16 is text as Windows writes it: little endian, with a mark.
func utf16(s string) []byte {
	b := []byte{0xff, 0xfe}
	for i := range len(s) {
		b = append(b, s[i], 0)
	}
	return b
}

// openSSHKey has the form of ssh-keygen's file.
func openSSHKey() []byte {
	body := append([]byte("openssh-key-v1\x00\x00\x00\x00\x04none"), token(40, 300, letters)...)
	return pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIV" + "ATE KEY", Bytes: body})
}

// rawTar is a stream with one file under a name that package tar would not
// write as it is.
func rawTar(name string, body []byte) []byte {
	var h [512]byte
	copy(h[0:100], name)
	copy(h[100:], "0000755\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", len(body)))
	copy(h[136:], "00000000000\x00")
	h[156] = tar.TypeReg
	copy(h[257:], "ustar\x0000")
	sum(&h)
	return slices.Concat(h[:], body, make([]byte, (512-len(body)%512)%512), make([]byte, 1024))
}

// sum fills in a header's checksum.
func sum(h *[512]byte) {
	copy(h[148:], "        ")
	n := 0
	for _, c := range h {
		n += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", n))
}

func xzip(b []byte) []byte {
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func zipped(name string, body []byte) []byte {
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	f, err := w.Create(name)
	if err != nil {
		panic(err)
	}
	_, _ = f.Write(body)
	_ = w.Close()
	return out.Bytes()
}

// encrypted marks the first member of a zip archive as encrypted.
func encrypted(b []byte) []byte {
	b = bytes.Clone(b)
	b[6] |= 1
	if i := bytes.Index(b, []byte("PK\x01\x02")); i >= 0 {
		b[i+8] |= 1
	}
	return b
}

// cpio writes one file in the "new" format.
func cpio(name string, body []byte) []byte {
	var b bytes.Buffer
	put := func(name string, mode int, body []byte) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 1, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, (4-(110+len(name)+1)%4)%4))
		b.Write(body)
		b.Write(make([]byte, (4-len(body)%4)%4))
	}
	put(name, 0o100755, body)
	put("TRAILER!!!", 0, nil)
	return b.Bytes()
}

// ar writes one member of an ar archive.
func ar(name string, body []byte) []byte {
	return fmt.Appendf(nil, "!<arch>\n%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", name, 0, 0, 0, 0o644, len(body), body)
}

// capability is security.capability with one permitted capability, as a PAX
// record.
func capability(number int) map[string]string {
	b := make([]byte, 20)
	b[0], b[3] = 1, 2 // VFS_CAP_REVISION_2, effective
	b[4+number/8] = 1 << (number % 8)
	return map[string]string{"SCHILY.xattr.security.capability": string(b)}
}

func md5hex(b []byte) string {
	h := md5.Sum(b)
	return hex.EncodeToString(h[:])
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// sparseTar is a stream with a file of holes: a gibibyte and more that nobody
// stored.
func sparseTar(size int64) []byte {
	// A GNU sparse header, old format (tar(5)): name, size and one empty region.
	var h [512]byte
	copy(h[0:], "app/holes")
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], "00000000000\x00")
	copy(h[136:], "00000000000\x00")
	h[156] = tar.TypeGNUSparse
	copy(h[257:], "ustar  \x00")
	copy(h[386:], fmt.Sprintf("%011o\x00", size)) // one region: at the end, empty
	copy(h[398:], "00000000000\x00")
	copy(h[483:], fmt.Sprintf("%011o\x00", size))
	sum(&h)
	return append(h[:], make([]byte, 1024)...)
}

func lines(s ...string) []byte { return []byte(strings.Join(s, "\n") + "\n") }
