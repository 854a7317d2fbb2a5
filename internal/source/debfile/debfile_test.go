package debfile

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	uxz "github.com/ulikunitz/xz"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/filetree"
)

func TestOpen(t *testing.T) {
	odd := reg("./usr/bin/tool", "#!")
	odd.Mode, odd.Uid, odd.Gid, odd.Uname, odd.Gname = 0o6755, 1000, 1000, "man", "not-known"
	owned := dir("./var/mail/")
	owned.Mode, owned.Gname, owned.Gid = 0o2775, "mail", 4711
	p := mustOpen(t, t.TempDir(), deb{
		scripts: map[string]string{"conffiles": "/etc/hello\nremove-on-upgrade /etc/old\n", "triggers": "activate ldconfig\n"},
		contents: []tar.Header{
			dir("./"), dir("./etc/"), reg("./etc/hello", "hello"), reg("./etc/empty", ""), dir("./usr/"), dir("./usr/bin/"), odd,
			link(tar.TypeLink, "./usr/bin/twin", "./usr/bin/tool"), link(tar.TypeLink, "./usr/bin/third", "./usr/bin/twin"),
			link(tar.TypeSymlink, "./usr/bin/out", "../../../../etc/shadow"), link(tar.TypeLink, "./usr/bin/out2", "usr/bin/out"), owned,
		},
	})
	type row struct {
		Path, Type string
		Mode       int64
		UID, GID   int
		Link, Data string
	}
	want := []row{
		{"etc", "5", 0o755, 0, 0, "", ""},
		{"etc/hello", "0", 0o644, 0, 0, "", "hello"},
		{"etc/empty", "0", 0o644, 0, 0, "", ""},
		{"usr", "5", 0o755, 0, 0, "", ""},
		{"usr/bin", "5", 0o755, 0, 0, "", ""},
		{"usr/bin/tool", "0", 0o6755, 6, 1000, "", "#!"},
		{"usr/bin/twin", "1", 0o777, 0, 0, "usr/bin/tool", ""},
		{"usr/bin/third", "1", 0o777, 0, 0, "usr/bin/tool", ""},
		{"usr/bin/out", "2", 0o777, 0, 0, "../../../../etc/shadow", ""},
		{"usr/bin/out2", "2", 0o777, 0, 0, "../../../../etc/shadow", ""},
		{"var/mail", "5", 0o2775, 0, 8, "", ""},
	}
	var got []row
	for _, e := range p.Entries {
		r := row{e.Path, string(e.Type), e.Mode, e.UID, e.GID, e.Link, ""}
		if e.IsReg() {
			f, err := e.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(f)
			f.Close()
			r.Data = string(b)
			if digestOf(b) != e.Digest || e.Size != int64(len(b)) {
				t.Errorf("%s: digest %s, size %d of %q", e.Path, e.Digest, e.Size, b)
			}
		}
		if want := (filetree.Origin{Kind: filetree.FromPackage, Name: "hello", Version: "1.0-1", Arch: "amd64", Digest: p.Digest, Path: e.Path}); e.Origin != want {
			t.Errorf("%s: origin %+v, want %+v", e.Path, e.Origin, want)
		}
		got = append(got, r)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("entries (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]Conffile{{Path: "etc/hello", MD5: "5d41402abc4b2a76b9719d911017c592"}, {Path: "etc/old", Remove: true}}, p.Conffiles); d != "" {
		t.Errorf("conffiles (-want +got):\n%s", d)
	}
	// As dpkg makes them: every regular file that is not a conffile, by path.
	if want := "d41d8cd98f00b204e9800998ecf8427e  etc/empty\nad540a4cc5c410795131d4d8db7a6d91  usr/bin/tool\n"; string(p.MD5Sums) != want {
		t.Errorf("md5sums made:\n%s", p.MD5Sums)
	}
	if d := cmp.Diff([]Trigger{{"activate", "ldconfig"}}, p.Triggers); d != "" {
		t.Errorf("triggers (-want +got):\n%s", d)
	}
}

func TestCompressions(t *testing.T) {
	plain := makeTar(t, []tar.Header{dir("./"), reg("./a", strings.Repeat("words ", 100_000))})
	var x, z bytes.Buffer
	xw, _ := uxz.NewWriter(&x)
	xw.Write(plain)
	xw.Close()
	zw, _ := zstd.NewWriter(&z)
	zw.Write(plain)
	zw.Close()
	for suffix, data := range map[string][]byte{"": plain, ".gz": gz(plain), ".xz": x.Bytes(), ".zst": z.Bytes()} {
		p := mustOpen(t, t.TempDir(), deb{rawData: data, dataName: "data.tar" + suffix})
		got, err := os.ReadFile(p.DataFile)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("data.tar%s: %d other bytes, %v", suffix, len(got), err)
		}
		if len(data) > 100 && suffix != "" {
			cut := deb{rawData: data[:len(data)-20], dataName: "data.tar" + suffix}
			if _, err := openBytes(t, t.TempDir(), cut.bytes(t)); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("data.tar%s cut short: error %v", suffix, err)
			}
			bad := bytes.Clone(data)
			bad[len(bad)/2] ^= 0x10
			if _, err := openBytes(t, t.TempDir(), deb{rawData: bad, dataName: "data.tar" + suffix}.bytes(t)); err == nil {
				t.Errorf("data.tar%s damaged: accepted", suffix)
			}
		}
	}
}

func TestHostileData(t *testing.T) {
	pax := reg("./a", "a")
	pax.Format = tar.FormatPAX
	for _, tt := range []struct {
		name     string
		contents []tar.Header
		want     string
	}{
		{"climbs", []tar.Header{reg("./../etc/passwd", "x")}, "climbs out"},
		{"climbs in the middle", []tar.Header{reg("a/b/../../../x", "x")}, "climbs out"},
		{"newline in a path", []tar.Header{reg("./a\nb", "x")}, "newline"},
		{"long part", []tar.Header{reg("./"+strings.Repeat("x", 256), "x")}, "part of 256 bytes"},
		{"long path", []tar.Header{reg("./"+strings.Repeat("x/", 2100)+"y", "x")}, "bytes long"},
		{"character device", []tar.Header{{Typeflag: tar.TypeChar, Name: "./dev/null", Devmajor: 1, Devminor: 3}}, "device node"},
		{"block device", []tar.Header{{Typeflag: tar.TypeBlock, Name: "./dev/sda"}}, "device node"},
		{"pipe", []tar.Header{{Typeflag: tar.TypeFifo, Name: "./run/pipe"}}, "pipe"},
		{"hard link to nothing", []tar.Header{link(tar.TypeLink, "./a", "./b")}, "does not come before"},
		{"hard link to a later file", []tar.Header{link(tar.TypeLink, "./a", "./b"), reg("./b", "b")}, "does not come before"},
		{"hard link out", []tar.Header{link(tar.TypeLink, "./a", "../../etc/shadow")}, "climbs out"},
		{"hard link to a folder", []tar.Header{dir("./d/"), link(tar.TypeLink, "./a", "./d")}, "no file"},
		{"hard link to itself", []tar.Header{link(tar.TypeLink, "./a", "./a")}, "does not come before"},
		{"through a link", []tar.Header{link(tar.TypeSymlink, "./a", "/etc"), reg("./a/passwd", "x")}, "below a, which is not a folder"},
		{"through a link that comes later", []tar.Header{reg("./a/passwd", "x"), link(tar.TypeSymlink, "./a", "/etc")}, "below a, which is not a folder"},
		{"through a file, deep", []tar.Header{reg("./a", "x"), reg("./a/b/c/d", "x")}, "below a, which is not a folder"},
		{"twice", []tar.Header{reg("./a", "1"), reg("a", "2")}, "twice"},
		{"file over folder", []tar.Header{dir("./a/"), reg("./a", "2")}, "twice"},
		{"link over file", []tar.Header{reg("./a", "2"), link(tar.TypeSymlink, "./a", "/etc/passwd")}, "twice"},
		{"root as a link", []tar.Header{link(tar.TypeSymlink, "./", "/etc")}, "root of the tree"},
		{"link without target", []tar.Header{link(tar.TypeSymlink, "./a", "")}, "no path"},
		{"pax header", []tar.Header{pax}, "pax"},
		{"same folder twice is harmless", []tar.Header{dir("./a/"), dir("./a/")}, ""},
		{"absolute names are taken below the root", []tar.Header{dir("/a/"), reg("/a/b", "x")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := openBytes(t, t.TempDir(), deb{contents: tt.contents}.bytes(t))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestHostileArchive(t *testing.T) {
	good := deb{contents: []tar.Header{dir("./"), reg("./a", "x")}}
	control := string(gz(good.controlTar(t)))
	data := makeTar(t, good.contents)
	whole := ar("debian-binary", "2.0\n", "control.tar.gz", control, "data.tar", string(data))
	swap := func(old, new string) []byte { return bytes.Replace(whole, []byte(old), []byte(new), 1) }
	withControl := func(headers ...tar.Header) []byte {
		return ar("debian-binary", "2.0\n", "control.tar", string(makeTar(t, headers)), "data.tar", string(data))
	}
	withText := func(text string) []byte { return withControl(reg("./control", text)) }
	bomb := gz(make([]byte, ratioFloor+(64<<20)))
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"sound", whole, ""},
		{"members for others", ar("debian-binary", "2.0\n", "_early", "x", "control.tar.gz", control, "_mid", "odd", "data.tar", string(data), "_gpgorigin", "y"), ""},
		{"later minor format", ar("debian-binary", "2.7\nmore\n", "control.tar.gz", control, "data.tar", string(data)), ""},
		{"nothing", nil, "truncated"},
		{"not ar", []byte("PK\x03\x04 something else"), "not a Debian package"},
		{"no members", ar(), "no member debian-binary"},
		{"no control", ar("debian-binary", "2.0\n"), "no member control.tar"},
		{"no data", ar("debian-binary", "2.0\n", "control.tar.gz", control), "no member data.tar"},
		{"wrong order", ar("debian-binary", "2.0\n", "data.tar", string(data), "control.tar.gz", control), "unexpected member"},
		{"control twice", ar("debian-binary", "2.0\n", "control.tar.gz", control, "control.tar.gz", control, "data.tar", string(data)), "unexpected member"},
		{"data twice", ar("debian-binary", "2.0\n", "control.tar.gz", control, "data.tar", string(data), "data.tar", string(data)), "unexpected member"},
		{"unknown member", ar("debian-binary", "2.0\n", "control.tar.gz", control, "surprise", "", "data.tar", string(data)), "unexpected member"},
		{"old format", ar("debian-binary", "0.939\n", "control.tar.gz", control, "data.tar", string(data)), "package format"},
		{"format without line end", ar("debian-binary", "2.0", "control.tar.gz", control, "data.tar", string(data)), "package format"},
		{"format too long", ar("debian-binary", "2.0\n"+strings.Repeat("x", 2000), "control.tar.gz", control), "2004 bytes long"},
		{"unknown compression", ar("debian-binary", "2.0\n", "control.tar.lz4", control), "unknown compression"},
		{"wrong compression", ar("debian-binary", "2.0\n", "control.tar.xz", control), "damaged"},
		{"size not a number", swap(fmt.Sprintf("%-10d`", len(data)), "0x10      `"), "has length"},
		{"size negative", swap(fmt.Sprintf("%-10d`", len(data)), "-1        `"), "has length"},
		{"size missing", swap(fmt.Sprintf("%-10d`", len(data)), "          `"), "no length"},
		{"size too large", swap(fmt.Sprintf("%-10d`", len(data)), "9999999999`"), "truncated"},
		{"size too small", swap(fmt.Sprintf("%-10d`", len(data)), "512       `"), "truncated"},
		{"header mark", swap("4         `\n", "4         `x"), "header ends with"},
		{"name with a slash", ar("a/b", "x"), "member name"},
		{"name empty", ar("", "x"), "member name"},
		{"padding", bytes.Replace(ar("_x", "abc", "_y", ""), []byte("abc\n"), []byte("abcd"), 1), "padded with"},
		{"bytes after the last member", append(bytes.Clone(whole), "more"...), "truncated"},

		{"control missing", withControl(reg("./postinst", "x")), "no file named control"},
		{"control a link", withControl(link(tar.TypeSymlink, "./control", "/etc/passwd")), "not a plain file"},
		{"control in a folder", withControl(reg("./control", helloControl), reg("./a/b", "x")), "not a plain file"},
		{"control twice inside", withControl(reg("./control", helloControl), reg("control", helloControl)), "twice"},
		{"control file name", withControl(reg("./control", helloControl), reg("./a b", "x")), "no name for a control file"},
		{"control outside", withControl(reg("./../control", helloControl)), "climbs out"},
		{"two stanzas", withText(helloControl + "\nPackage: other\n"), "second stanza"},
		{"field twice", withText(helloControl + "version: 2\n"), "field version again, after line 2"},
		{"no name", withText("Version: 1\nArchitecture: all\n"), "no Debian package name"},
		{"name as a path", withText("Package: ../x\nVersion: 1\nArchitecture: all\n"), "no Debian package name"},
		{"version as a path", withText("Package: hello\nVersion: 1/2\nArchitecture: all\n"), "no Debian version"},
		{"architecture", withText("Package: hello\nVersion: 1\nArchitecture: a/b\n"), "none of Debian's"},
		{"conffiles relative", withControl(reg("./control", helloControl), reg("./conffiles", "etc/x\n")), "not an absolute path"},
		{"conffiles outside", withControl(reg("./control", helloControl), reg("./conffiles", "/../x\n")), "no path of a package"},
		{"triggers", withControl(reg("./control", helloControl), reg("./triggers", "explode now\n")), "unknown directive"},
		{"trigger name", withControl(reg("./control", helloControl), reg("./triggers", "interest ../../x\n")), "no trigger name"},
		{"trigger File", withControl(reg("./control", helloControl), reg("./triggers", "interest File\n")), "no trigger name"},
		{"control bomb", ar("debian-binary", "2.0\n", "control.tar.gz", string(bomb)), "bomb"},

		{"tar without end mark", deb{rawData: data[:len(data)-1024]}.bytes(t), "end mark"},
		{"tar with half an end mark", deb{rawData: data[:len(data)-512]}.bytes(t), "end mark"},
		{"tar cut in a file", deb{rawData: data[:1024+512+1]}.bytes(t), "truncated"},
		{"tar with more after it", deb{rawData: append(bytes.Clone(data), "x"...)}.bytes(t), "after its end mark"},
		{"tar with zeros after it", deb{rawData: append(bytes.Clone(data), make([]byte, 9000)...)}.bytes(t), ""},
		{"not tar", deb{rawData: bytes.Repeat([]byte("x"), 2048)}.bytes(t), "tar archive is damaged"},
		{"bomb", deb{rawData: gz(append(makeTar(t, []tar.Header{dir("./")}), make([]byte, ratioFloor+(64<<20))...)), dataName: "data.tar.gz"}.bytes(t), "bomb"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cache := t.TempDir()
			_, err := openBytes(t, cache, tt.b)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if tt.want != "" {
				noFiles(t, cache)
			}
		})
	}
}

// noFiles fails when anything but folders is below dir.
func noFiles(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("left behind: %s", p)
		}
		return nil
	})
}

func TestTruncatedEverywhere(t *testing.T) {
	b := deb{contents: []tar.Header{dir("./"), reg("./a", "x")}}.bytes(t)
	for n := 0; n < len(b); n += 7 {
		if _, err := unpack(bytes.NewReader(b[:n]), io.Discard); err == nil {
			t.Fatalf("cut at %d of %d: accepted", n, len(b))
		}
	}
}

func TestWrongDigest(t *testing.T) {
	cache := t.TempDir()
	name := filepath.Join(t.TempDir(), "x.deb")
	b := deb{contents: []tar.Header{dir("./")}}.bytes(t)
	want := digestOf(b)
	// Even where the wrong bytes are no package at all, they are first of all
	// the wrong bytes.
	for _, bad := range [][]byte{append(bytes.Clone(b), '\n'), b[:100], []byte("<html>")} {
		if err := os.WriteFile(name, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(context.Background(), cache, name, want); err == nil || !strings.Contains(err.Error(), "is wanted: fetch it again") {
			t.Errorf("error %v, want one about the digest", err)
		}
		noFiles(t, cache)
	}
	if _, err := Open(context.Background(), cache, name, "sha512:00"); err == nil {
		t.Error("a digest that is none is accepted")
	}
	if _, err := Open(context.Background(), "cache", name, want); err == nil {
		t.Error("a relative cache folder is accepted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, cache, name, want); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestDamagedCache(t *testing.T) {
	cache := t.TempDir()
	b := deb{contents: []tar.Header{dir("./"), reg("./a", "text")}}.bytes(t)
	first, err := openBytes(t, cache, b)
	if err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(filepath.Dir(first.DataFile), indexName)
	sound, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(sound)
	flipped[len(flipped)-3] ^= 1
	for name, damage := range map[string]func() error{
		"data cut":      func() error { return os.Truncate(first.DataFile, 1000) },
		"data gone":     func() error { return os.Remove(first.DataFile) },
		"index cut":     func() error { return os.Truncate(index, int64(len(sound)/2)) },
		"index empty":   func() error { return os.Truncate(index, 0) },
		"index gone":    func() error { return os.Remove(index) },
		"index flipped": func() error { return os.WriteFile(index, flipped, 0o644) },
		"other format": func() error {
			return os.WriteFile(index, bytes.Replace(sound, []byte("index 1"), []byte("index 0"), 1), 0o644)
		},
		"stale temporary": func() error {
			return os.WriteFile(filepath.Join(filepath.Dir(index), durable.TempPrefix+"X"), nil, 0o644)
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		again, err := openBytes(t, cache, b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(first, again); d != "" {
			t.Errorf("%s: differs after mending:\n%s", name, d)
		}
		r, err := again.Entries[0].Open()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, _ := io.ReadAll(r); string(got) != "text" {
			t.Errorf("%s: bytes %q after mending", name, got)
		}
		r.Close()
	}
	// A sound entry serves without the package.
	if _, err := Open(context.Background(), cache, "/nonexistent.deb", digestOf(b)); err != nil {
		t.Errorf("without the .deb: %v", err)
	}
}

func TestParallel(t *testing.T) {
	cache, debs := t.TempDir(), t.TempDir()
	var inputs []Input
	for i := range 12 {
		d := deb{
			control:  strings.Replace(helloControl, "hello", fmt.Sprintf("hello%d", i), 1),
			contents: []tar.Header{dir("./"), reg("./a", strings.Repeat("x", 50_000*(i%4)))},
		}
		b := d.bytes(t)
		name := filepath.Join(debs, fmt.Sprint(i))
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
		inputs = append(inputs, Input{name, digestOf(b)})
	}
	inputs = append(inputs, inputs[3])
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last, total int64
			pkgs, err := OpenAll(context.Background(), cache, inputs, 0, func(done, all int64) {
				if done < last || done > all {
					t.Errorf("progress from %d to %d of %d", last, done, all)
				}
				last, total = done, all
			})
			if err != nil {
				t.Error(err)
				return
			}
			if last != total || total == 0 {
				t.Errorf("progress ends at %d of %d", last, total)
			}
			for i, p := range pkgs {
				if want := fmt.Sprintf("hello%d", i); i < 12 && p.Name != want || p.Digest != inputs[i].Digest {
					t.Errorf("package %d is %s", i, p.Name)
				}
			}
		})
	}
	wg.Wait()
	inputs[5].Digest = digestOf([]byte("other"))
	if _, err := OpenAll(context.Background(), cache, inputs, 0, nil); err == nil || !strings.Contains(err.Error(), "fetch it again") {
		t.Errorf("one wrong digest among many: %v", err)
	}
}

func TestParseControl(t *testing.T) {
	s, err := ParseControl([]byte("\n# comment\nPackage:  hello \nEmpty:\nList:\n a\n# inside\n\tb \nLast: x"))
	if err != nil {
		t.Fatal(err)
	}
	want := Stanza{{"Package", "hello"}, {"Empty", ""}, {"List", "\n a\n\tb"}, {"Last", "x"}}
	if d := cmp.Diff(want, s); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if got, want := s.String(), "Package: hello\nEmpty:\nList:\n a\n\tb\nLast: x\n"; got != want {
		t.Errorf("rendered %q, want %q", got, want)
	}
	if s.Get("package") != "hello" || s.Get("none") != "" || !s.Has("EMPTY") || s.Has("none") {
		t.Error("look-up is wrong")
	}
	for in, want := range map[string]string{
		"":                 "no fields",
		"# only\n":         "no fields",
		" a: b\n":          "line 1 continues",
		"a: b\nnonsense\n": "line 2 is not",
		"a b: c\n":         "line 1 is not",
		": c\n":            "line 1 is not",
		"-a: c\n":          "line 1 is not",
		"a: b\nA: c\n":     "line 2 gives field A again, after line 1",
		"a: b\n\nc: d\n":   "line 3 begins a second stanza",
		"a: b\n \nc: d\n":  "line 3 begins a second stanza",
		"a: b\x00\n":       "NUL",
		"a: b\r\n":         "carriage return",
	} {
		if _, err := ParseControl([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", in, err, want)
		}
	}
}

// A context that has ended before anything began is an error, not packages that
// are missing.
func TestOpenAllInterrupted(t *testing.T) {
	b := deb{}.bytes(t)
	name := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := OpenAll(ctx, t.TempDir(), []Input{{name, digestOf(b)}}, 0, nil); !errors.Is(err, context.Canceled) || got != nil {
		t.Errorf("%v, %v", got, err)
	}
}
