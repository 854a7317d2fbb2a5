package elfclosure

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"twinhull.dev/twinhull/internal/oci"
)

// TestReadAgrees reads the machine's own programs and libraries and compares
// with package debug/elf, which goes by section headers.
func TestReadAgrees(t *testing.T) {
	var names []string
	for _, pattern := range []string{"/bin/*", "/usr/lib/x86_64-linux-gnu/*.so*", "/usr/lib/aarch64-linux-gnu/*.so*"} {
		found, _ := filepath.Glob(pattern)
		names = append(names, found[:min(len(found), 200)]...)
	}
	read := 0
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		fi, err := f.Stat()
		if err != nil || !fi.Mode().IsRegular() {
			f.Close()
			continue
		}
		want, werr := elf.NewFile(f)
		if werr != nil {
			f.Close()
			continue
		}
		got, err := Read(f, fi.Size())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			f.Close()
			continue
		}
		needed, _ := want.DynString(elf.DT_NEEDED)
		if !slices.Equal(got.Needed, needed) {
			t.Errorf("%s: needs %q, debug/elf says %q", name, got.Needed, needed)
		}
		var defines []string
		defs, _ := want.DynamicVersions()
		for _, d := range defs {
			defines = append(defines, d.Name)
		}
		if !slices.Equal(got.Defines, defines) {
			t.Errorf("%s: defines %q, debug/elf says %q", name, got.Defines, defines)
		}
		needs, _ := want.DynamicVersionNeeds()
		for _, n := range needs {
			var w []string
			for _, d := range n.Needs {
				if d.Flags&elf.VER_FLG_WEAK == 0 {
					w = append(w, d.Dep)
				}
			}
			if !slices.Equal(got.Wants[n.Name], w) {
				t.Errorf("%s: wants %q of %s, debug/elf says %q", name, got.Wants[n.Name], n.Name, w)
			}
		}
		read++
		f.Close()
	}
	if read == 0 {
		t.Skip("this machine has no ELF files in the usual folders")
	}
}

func TestCheck(t *testing.T) {
	plat := oci.Platform{OS: "linux", Architecture: "amd64"}
	lib := func(p, soname string, defines ...string) Item {
		return Item{Path: p, File: &File{Type: elf.ET_DYN, Machine: elf.EM_X86_64, Class: elf.ELFCLASS64, SONAME: soname, Defines: defines}}
	}
	prog := func(p string, f File) Item {
		f.Type, f.Class = elf.ET_DYN, elf.ELFCLASS64
		if f.Machine == 0 {
			f.Machine = elf.EM_X86_64
		}
		return Item{Path: p, Executable: true, File: &f}
	}
	const ld = "/lib64/ld-linux-x86-64.so.2"
	tests := []struct {
		name    string
		items   []Item
		links   map[string]string
		folders []string
		want    []string
	}{
		{"complete", []Item{prog("app", File{Interp: ld, Needed: []string{"libc.so.6"}, Wants: map[string][]string{"libc.so.6": {"GLIBC_2.34"}}}),
			lib("usr/lib/x86_64-linux-gnu/libc.so.6", "libc.so.6", "GLIBC_2.34"), lib("usr/lib/ld", "")}, map[string]string{"lib64/ld-linux-x86-64.so.2": "usr/lib/ld"}, nil, nil},
		{"no interpreter", []Item{prog("app", File{Interp: ld})}, nil, nil, []string{"app interpreter " + ld}},
		{"no library", []Item{prog("app", File{Needed: []string{"libx.so"}})}, nil, nil, []string{"app library libx.so"}},
		{"no version", []Item{prog("app", File{Needed: []string{"liba.so"}, Wants: map[string][]string{"liba.so": {"V2"}}}), lib("lib/liba.so", "liba.so", "V1")}, nil, nil, []string{"app version V2"}},
		{"run path", []Item{prog("opt/x/bin/app", File{Needed: []string{"liba.so"}, RunPath: []string{"$ORIGIN/../lib"}}), lib("opt/x/lib/liba.so", "liba.so")}, nil, nil, nil},
		{"relative run path", []Item{prog("app", File{Needed: []string{"liba.so"}, RunPath: []string{"x"}}), lib("x/liba.so", "liba.so")}, nil, nil, []string{"app library liba.so"}},
		{"conf folder", []Item{prog("app", File{Needed: []string{"liba.so"}}), lib("opt/liba.so", "liba.so")}, nil, []string{"opt"}, nil},
		{"other machine", []Item{prog("app", File{Machine: elf.EM_AARCH64})}, nil, nil, []string{"app machine EM_AARCH64"}},
		{"loaded before", []Item{lib("lib/liba.so", "liba.so"), {Path: "jdk/libb.so", File: &File{Type: elf.ET_DYN, Machine: elf.EM_X86_64, Class: elf.ELFCLASS64, Needed: []string{"libjvm.so"}}}, lib("jdk/server/libjvm.so", "libjvm.so")}, nil, nil, []string{"jdk/libb.so library libjvm.so passed"}},
		{"library that is text", []Item{prog("app", File{Needed: []string{"/etc/motd"}})}, map[string]string{"etc/motd": "etc/motd"}, nil, []string{"app library /etc/motd"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := Set{Items: test.items, Folders: test.folders, Platform: plat, Resolve: func(p string) (string, bool) {
				p = filepath.Clean(p)
				if to, ok := test.links[p]; ok {
					return to, true
				}
				return p, slices.ContainsFunc(test.items, func(it Item) bool { return it.Path == p })
			}}
			var got []string
			for _, p := range s.Check() {
				line := p.Item.Path + " " + string(p.Kind) + " " + p.Name
				if p.Passed {
					line += " passed"
				}
				got = append(got, line)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestNoSections shows that a file without section headers is read all the
// same: the linker needs none.
func TestNoSections(t *testing.T) {
	exe, err := exec.LookPath("ls")
	if err != nil {
		t.Skip("no ls on this machine")
	}
	b, err := os.ReadFile(exe)
	if err != nil || len(b) < 64 || runtime.GOOS != "linux" {
		t.Skip("cannot read ls")
	}
	whole, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil || whole == nil {
		t.Skipf("ls is no ELF file here: %v", err)
	}
	clear(b[40:48]) // e_shoff
	clear(b[60:64]) // e_shnum, e_shstrndx
	bare, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(whole.Needed, bare.Needed) {
		t.Errorf("needs %q, without sections %q", whole.Needed, bare.Needed)
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"/bin/true", "/bin/ls"} {
		if b, err := os.ReadFile(name); err == nil && len(b) < 64<<10 {
			f.Add(b)
		}
	}
	f.Add([]byte(elf.ELFMAG + strings.Repeat("\x00", 60)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil && got != nil {
			t.Error("facts beside an error")
		}
	})
}
