package debfile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"twinhull.dev/twinhull/internal/oci"
)

const helloControl = "Package: hello\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: greets\n"

// deb describes a package to be made. A header's PAXRecords["data"] holds the
// content of a regular file, so that one list says it all.
type deb struct {
	control  string
	scripts  map[string]string
	contents []tar.Header
	rawData  []byte // instead of contents: the data member, compressed as dataName says
	dataName string // default data.tar
}

func dir(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, Uname: "root", Gname: "root"}
}

func reg(name, data string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), Uname: "root", Gname: "root",
		PAXRecords: map[string]string{"data": data}}
}

func link(kind byte, name, to string) tar.Header {
	return tar.Header{Typeflag: kind, Name: name, Linkname: to, Mode: 0o777}
}

func makeTar(t testing.TB, headers []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		data := h.PAXRecords["data"]
		h.PAXRecords = nil
		if h.Format == tar.FormatUnknown {
			h.Format = tar.FormatGNU
		}
		if h.Format == tar.FormatPAX {
			h.PAXRecords = map[string]string{"VENDOR.key": "value"}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(data))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// ar makes an archive of name, data, name, data, …
func ar(members ...string) []byte {
	b := []byte(arMagic)
	for i := 0; i < len(members); i += 2 {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", members[i], 0, 0, 0, 0o100644, len(members[i+1]))
		b = append(b, members[i+1]...)
		if len(members[i+1])%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

func (d deb) controlTar(t testing.TB) []byte {
	if d.control == "" {
		d.control = helloControl
	}
	headers := []tar.Header{dir("./"), reg("./control", d.control)}
	for _, name := range []string{"conffiles", "md5sums", "postinst", "triggers"} {
		if s, ok := d.scripts[name]; ok {
			headers = append(headers, reg("./"+name, s))
		}
	}
	return makeTar(t, headers)
}

func (d deb) bytes(t testing.TB) []byte {
	t.Helper()
	data := d.rawData
	if data == nil {
		data = makeTar(t, d.contents)
	}
	if d.dataName == "" {
		d.dataName = "data.tar"
	}
	return ar("debian-binary", "2.0\n", "control.tar.gz", string(gz(d.controlTar(t))), d.dataName, string(data))
}

func digestOf(b []byte) oci.Digest {
	s := sha256.Sum256(b)
	return oci.Digest("sha256:" + hex.EncodeToString(s[:]))
}

// openBytes writes a package to a file and opens it.
func openBytes(t testing.TB, cache string, b []byte) (*Package, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return Open(context.Background(), cache, name, digestOf(b))
}

func mustOpen(t testing.TB, cache string, d deb) *Package {
	t.Helper()
	p, err := openBytes(t, cache, d.bytes(t))
	if err != nil {
		t.Fatal(err)
	}
	return p
}
