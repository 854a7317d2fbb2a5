package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/ulikunitz/xz"
)

// A mirror is a Debian archive of five small packages on a loopback server,
// signed with a key of its own, for scripts that must work offline. It has the
// shape of the real one and the same day for ever, so that what is built from it
// has the same digest for ever too. The script command "mirror" makes it fail.
type mirror struct {
	server *httptest.Server
	files  map[string][]byte // by path below the server's root

	mu      sync.Mutex
	fault   string        // "", 404, truncate, wrong, stall
	on      string        // part of the paths that it applies to
	stalled chan struct{} // closed when a request stalled
}

// archiveDay is when the archive was published, and so the time of every image.
var archiveDay = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

var archiveKey = sync.OnceValues(func() (*openpgp.Entity, error) {
	c := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return archiveDay.AddDate(-1, 0, 0) }}
	e, err := openpgp.NewEntity("archive", "", "archive@example.org", c)
	if err == nil {
		err = e.AddSigningSubkey(c)
	}
	return e, err
})

// debPackage is a package to be made.
type debPackage struct {
	name, version, arch, fields string
	files                       map[string]string // path to content; "-> TARGET" is a link
	programs                    map[string]string // path to what the program prints
}

func archivePackages(version, arch string) []debPackage {
	return []debPackage{
		{name: "base-files", version: "13", arch: arch, fields: "Essential: yes\n", files: map[string]string{
			"usr/lib/os-release": "NAME=\"Test\"\nID=debian\nVERSION_ID=\"13\"\n", "etc/os-release": "-> ../usr/lib/os-release", "bin": "-> usr/bin",
		}, programs: map[string]string{"usr/bin/true": ""}},
		{name: "apt", version: "3.0", arch: arch, files: map[string]string{"usr/share/doc/apt/copyright": "free\n"}},
		{name: "dash", version: "0.5", arch: arch, fields: "Essential: yes\n", programs: map[string]string{"usr/bin/dash": "a shell\n"}},
		{name: "hello", version: version, arch: arch, fields: "Depends: hello-data (>= 1.0), dash\n", files: map[string]string{
			"usr/share/doc/hello/copyright": "free\n", "usr/share/man/man1/hello.1": "a page\n",
		}, programs: map[string]string{"usr/bin/hello": "hello from " + arch + "\n"}},
		{name: "hello-data", version: "1.0", arch: "all", files: map[string]string{
			"usr/share/hello/greeting": "good day\n", "etc/hello.conf": "loud=no\n", "usr/share/hello/noise": noise(3 << 20),
		}},
	}
}

// noise is text that does not compress and is the same every time.
func noise(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// newMirror publishes the archive. dir takes the keyring.
func newMirror(dir string) (*mirror, error) {
	m := &mirror{files: map[string][]byte{}, stalled: make(chan struct{})}
	if err := m.publish("1.0-1", archiveDay); err != nil {
		return nil, err
	}
	key, err := archiveKey()
	if err != nil {
		return nil, err
	}
	var ring bytes.Buffer
	if err := key.Serialize(&ring); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "archive.gpg"), ring.Bytes(), 0o644); err != nil {
		return nil, err
	}
	m.server = httptest.NewServer(m)
	return m, nil
}

// publish puts hello in a version on the mirror, with indexes of a day. What
// was published before stays in the pool.
func (m *mirror) publish(version string, day time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	indexes := map[string]string{}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, p := range archivePackages(version, arch) {
			deb := p.bytes()
			pool := fmt.Sprintf("pool/main/%s/%s_%s_%s.deb", p.name, p.name, p.version, p.arch)
			m.files["debian/"+pool] = deb
			indexes[arch] += fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: x <x@example.org>\n%sFilename: %s\nSize: %d\nSHA256: %x\nDescription: for tests\n\n",
				p.name, p.version, p.arch, p.fields, pool, len(deb), sha256.Sum256(deb))
		}
	}
	for _, suite := range []struct{ base, name string }{{"debian", "trixie"}, {"debian", "trixie-updates"}, {"security", "trixie-security"}} {
		if err := m.publishSuite(suite.base+"/dists/"+suite.name+"/", suite.name, indexes, day); err != nil {
			return err
		}
		indexes = map[string]string{"amd64": "", "arm64": ""}
	}
	return nil
}

func (m *mirror) publishSuite(top, suite string, indexes map[string]string, day time.Time) error {
	text := fmt.Sprintf("Origin: Test\nSuite: stable\nCodename: %s\nDate: %s\nAcquire-By-Hash: yes\nArchitectures: amd64 arm64\nComponents: main\nSHA256:\n", suite, day.Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	for _, arch := range []string{"amd64", "arm64"} {
		var packed bytes.Buffer
		w, err := xz.NewWriter(&packed)
		if err != nil {
			return err
		}
		if _, err := w.Write([]byte(indexes[arch])); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		sum := sha256.Sum256(packed.Bytes())
		dir := "main/binary-" + arch + "/"
		text += fmt.Sprintf(" %x %d %sPackages\n %x %d %sPackages.xz\n", sha256.Sum256([]byte(indexes[arch])), len(indexes[arch]), dir, sum, packed.Len(), dir)
		m.files[top+dir+"Packages.xz"] = packed.Bytes()
		m.files[fmt.Sprintf("%s%sby-hash/SHA256/%x", top, dir, sum)] = packed.Bytes()
	}
	key, err := archiveKey()
	if err != nil {
		return err
	}
	signing, ok := key.SigningKey(archiveDay)
	if !ok {
		return fmt.Errorf("the key cannot sign")
	}
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, signing.PrivateKey, &packet.Config{Time: func() time.Time { return day }})
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte(text)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	m.files[top+"InRelease"] = append(signed.Bytes(), '\n')
	return nil
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	m.mu.Lock()
	data, ok := m.files[path]
	fault := m.fault
	if !strings.Contains(path, m.on) {
		fault = ""
	}
	stalled := m.stalled
	m.mu.Unlock()
	if !ok || fault == "404" {
		http.NotFound(w, r)
		return
	}
	switch fault {
	case "truncate": // the connection goes in the middle
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		panic(http.ErrAbortHandler)
	case "wrong": // a byte is another, the length is right
		data = bytes.Clone(data)
		data[len(data)/2] ^= 1
	case "stall": // half, and then nothing until the client goes away
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		w.(http.Flusher).Flush()
		m.mu.Lock()
		select {
		case <-stalled:
		default:
			close(stalled)
		}
		m.mu.Unlock()
		select {
		case <-r.Context().Done():
		case <-time.After(time.Minute):
		}
		return
	}
	http.ServeContent(w, r, path, time.Time{}, bytes.NewReader(data))
}

// mirrorCommand is the script command:
//
//	mirror                     all is well (again)
//	mirror FAULT PART          404, truncate, wrong or stall for paths with PART
//	mirror await               wait until a request stalled
//	mirror publish VERSION     another version of hello, with indexes of a later day
//	mirror older               the indexes of a day before
func mirrorCommand(ts *testscript.TestScript, neg bool, args []string) {
	m := ts.Value(mirrorKey{}).(*mirror)
	switch {
	case neg:
		ts.Fatalf("mirror cannot be negated")
	case len(args) == 1 && args[0] == "await":
		select {
		case <-m.stalled:
		case <-time.After(30 * time.Second):
			ts.Fatalf("no request stalled")
		}
	case len(args) == 1 && args[0] == "older":
		ts.Check(m.publish("1.0-1", archiveDay.AddDate(0, 0, -30)))
	case len(args) == 2 && args[0] == "publish":
		ts.Check(m.publish(args[1], archiveDay.AddDate(0, 1, 0)))
	case len(args) == 0 || len(args) == 2:
		m.mu.Lock()
		m.fault, m.on, m.stalled = "", "", make(chan struct{})
		if len(args) == 2 {
			m.fault, m.on = args[0], args[1]
		}
		m.mu.Unlock()
	default:
		ts.Fatalf("usage: mirror [FAULT PART | await | publish VERSION | older]")
	}
}

type mirrorKey struct{}

// bytes makes the package file: uncompressed members, so that its hash does
// not depend on a compressor.
func (p debPackage) bytes() []byte {
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: x <x@example.org>\n%sDescription: for tests\n", p.name, p.version, p.arch, p.fields)
	b := []byte("!<arch>\n")
	for _, member := range []struct {
		name string
		data []byte
	}{
		{"debian-binary", []byte("2.0\n")},
		{"control.tar", makeTar(map[string]string{"control": control}, nil, "")},
		{"data.tar", makeTar(p.files, p.programs, p.arch)},
	} {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", member.name, 0, 0, 0, 0o100644, len(member.data))
		b = append(b, member.data...)
		if len(member.data)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

func makeTar(files, programs map[string]string, arch string) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	write := func(h tar.Header, data []byte) {
		h.ModTime, h.Size, h.Format, h.Name = archiveDay.AddDate(0, -1, 0), int64(len(data)), tar.FormatGNU, "./"+h.Name
		if err := w.WriteHeader(&h); err != nil {
			panic(err) // to memory, of names that are given here
		}
		_, _ = w.Write(data)
	}
	made := map[string]bool{}
	parents := func(p string) {
		parts := strings.Split(p, "/")
		for i := 1; i < len(parts); i++ {
			if d := strings.Join(parts[:i], "/"); !made[d] {
				made[d] = true
				write(tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}, nil)
			}
		}
	}
	for _, p := range sortedKeys(files) {
		parents(p)
		if to, ok := strings.CutPrefix(files[p], "-> "); ok {
			write(tar.Header{Typeflag: tar.TypeSymlink, Name: p, Linkname: to, Mode: 0o777}, nil)
			continue
		}
		write(tar.Header{Typeflag: tar.TypeReg, Name: p, Mode: 0o644}, []byte(files[p]))
	}
	for _, p := range sortedKeys(programs) {
		parents(p)
		write(tar.Header{Typeflag: tar.TypeReg, Name: p, Mode: 0o755}, program(arch, programs[p]))
	}
	_ = w.Close()
	return out.Bytes()
}

// program makes a static executable that prints a text and ends: 64-bit ELF
// with one segment, write and exit by system calls.
func program(arch, text string) []byte {
	const header = 64 + 56
	var machine uint16
	var code []byte
	le := binary.LittleEndian
	switch arch {
	case "amd64":
		machine = 62
		code = append(code, 0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0) // mov eax,1 (write); mov edi,1
		code = append(code, 0x48, 0x8d, 0x35, 16, 0, 0, 0)      // lea rsi,[rip+16]: behind the code
		code = le.AppendUint32(append(code, 0xba), uint32(len(text)))
		code = append(code, 0x0f, 0x05, 0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05) // syscall; mov eax,60 (exit); xor edi,edi; syscall
	case "arm64":
		machine = 183
		for _, op := range []uint32{
			0xd2800020, 0x100000e1, 0xd2800002 | uint32(len(text))<<5, 0xd2800808, 0xd4000001, // x0=1; adr x1,+28; x2=len; x8=64 (write); svc
			0xd2800000, 0xd2800ba8, 0xd4000001, // x0=0; x8=93 (exit); svc
		} {
			code = le.AppendUint32(code, op)
		}
	default:
		return []byte("#!/usr/bin/true\n")
	}
	size := uint64(header + len(code) + len(text))
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	b = le.AppendUint16(b, 2) // executable
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, 0x400000+header) // entry
	b = le.AppendUint64(b, 64)              // program headers
	b = le.AppendUint64(b, 0)               // no sections
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 64, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // load
	b = le.AppendUint32(b, 5) // read, execute
	for _, v := range []uint64{0, 0x400000, 0x400000, size, size, 0x10000} {
		b = le.AppendUint64(b, v)
	}
	b = append(b, code...)
	return append(b, text...)
}
