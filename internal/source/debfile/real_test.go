package debfile

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// realPackages were chosen for what they hold: set-id files, conffiles, hard
// links, triggers, many small files, a big binary, Architecture: all,
// Multi-Arch: same, Pre-Depends, debconf templates.
var realPackages = []string{
	"base-files", "base-passwd", "bash", "ca-certificates", "coreutils", "dash", "debconf", "dpkg", "git",
	"libc-bin", "libc6", "login", "mount", "passwd", "perl-base", "sudo", "tzdata", "zlib1g",
}

// fetchReal downloads packages with the machine's own apt, or skips the test.
func fetchReal(t testing.TB, names ...string) []Input {
	t.Helper()
	if testing.Short() {
		t.Skip("downloads packages; not with -short")
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		t.Skip("no apt-get here: real packages are not compared")
	}
	dir := t.TempDir()
	if os.Getuid() == 0 {
		// apt drops to its own user for downloads, who must get here.
		os.Chmod(dir, 0o777)
	}
	cmd := exec.Command(apt, append([]string{"download", "-qq"}, names...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Skipf("apt-get download does not work here (%v: %s): real packages are not compared", err, lines[len(lines)-1])
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) != len(names) {
		t.Skipf("apt-get downloaded %d of %d packages: real packages are not compared", len(files), len(names))
	}
	inputs := make([]Input, len(files))
	for i, f := range files {
		inputs[i] = Input{Path: f, Digest: fileDigest(t, f)}
	}
	return inputs
}

func fileDigest(t testing.TB, name string) oci.Digest {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(b)
	return oci.Digest("sha256:" + hex.EncodeToString(s[:]))
}

func TestRealPackages(t *testing.T) {
	tool, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Skip("no dpkg-deb here to compare with")
	}
	inputs := fetchReal(t, realPackages...)
	cache := t.TempDir()
	pkgs, err := OpenAll(context.Background(), cache, inputs, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range pkgs {
		t.Run(p.Name, func(t *testing.T) { compareWithDpkgDeb(t, tool, inputs[i].Path, p) })
	}
	again, err := OpenAll(context.Background(), cache, inputs, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(pkgs, again); d != "" {
		t.Errorf("a second look differs (-first +second):\n%s", d)
	}
}

func compareWithDpkgDeb(t *testing.T, tool, deb string, p *Package) {
	run := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command(tool, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("dpkg-deb %v: %v", args, err)
		}
		return out
	}
	fsys := run("--fsys-tarfile", deb)
	data, err := os.ReadFile(p.DataFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(fsys, data) {
		t.Fatalf("data.tar is not what dpkg-deb --fsys-tarfile prints (%d and %d bytes)", len(data), len(fsys))
	}
	// The same paths, types, modes, sizes and link targets as dpkg-deb lists.
	var want []string
	for line := range strings.Lines(string(run("-c", deb))) {
		f := strings.Fields(strings.TrimSuffix(line, "\n"))
		name := strings.TrimSuffix(strings.TrimPrefix(strings.Join(f[5:], " "), "./"), "/")
		name = strings.Replace(name, " link to ./", " link to ", 1)
		if name == "" || name == "." {
			continue
		}
		size := f[2]
		if f[0][0] != '-' {
			size = "0"
		}
		want = append(want, f[0]+" "+size+" "+name)
	}
	var got []string
	for i := range p.Entries {
		e := &p.Entries[i]
		line := modeString(e) + " " + fmt.Sprint(e.Size) + " " + e.Path
		switch e.Type {
		case tar.TypeSymlink:
			line += " -> " + e.Link
		case tar.TypeLink:
			line += " link to " + e.Link
		}
		got = append(got, line)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("listing (-dpkg-deb +ours):\n%s", d)
	}
	// Every regular file's bytes and digest.
	tr := tar.NewReader(bytes.NewReader(fsys))
	byPath := map[string]*filetree.Entry{}
	for i := range p.Entries {
		byPath[p.Entries[i].Path] = &p.Entries[i]
	}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, _ := io.ReadAll(tr)
		name, _ := filetree.Clean(h.Name)
		e := byPath[name]
		sum := sha256.Sum256(b)
		if e.Digest != oci.Digest("sha256:"+hex.EncodeToString(sum[:])) {
			t.Errorf("%s: digest %s, want %x", name, e.Digest, sum)
		}
		r, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		ours, _ := io.ReadAll(r)
		r.Close()
		if !bytes.Equal(ours, b) {
			t.Errorf("%s: other bytes", name)
		}
		if e.Origin.Digest != p.Digest || e.Origin.Name != p.Name || e.Origin.Path != name {
			t.Errorf("%s: origin %+v", name, e.Origin)
		}
	}
	control := string(run("-I", deb, "control"))
	if got := p.Control.String(); got != control {
		t.Errorf("control (-dpkg-deb +ours):\n%s", cmp.Diff(control, got))
	}
	for _, m := range p.Members {
		if b := run("-I", deb, m.Name); !bytes.Equal(b, m.Data) {
			t.Errorf("control file %s: other bytes", m.Name)
		}
	}
}

func modeString(e *filetree.Entry) string {
	b := []byte("-rwxrwxrwx")
	for i := range 9 {
		if e.Mode&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	special := func(bit int64, at int, c byte) {
		if e.Mode&bit == 0 {
			return
		}
		if b[at] == '-' {
			c -= 'a' - 'A'
		}
		b[at] = c
	}
	special(0o4000, 3, 's')
	special(0o2000, 6, 's')
	special(0o1000, 9, 't')
	switch e.Type {
	case tar.TypeDir:
		b[0] = 'd'
	case tar.TypeSymlink:
		b[0] = 'l'
	case tar.TypeLink:
		b[0] = 'h'
	}
	return string(b)
}
