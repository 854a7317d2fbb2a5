package deb

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

const hash0 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// stanza writes an index stanza; fields are "Name: value" lines that are added
// or, when the field is one of the defaults, replace it.
func stanza(name, version string, fields ...string) string {
	all := []string{"Package: " + name, "Version: " + version, "Architecture: amd64",
		"Filename: pool/main/x/" + name + "/" + name + "_1_amd64.deb", "Size: 1000", "SHA256: " + hash0}
	for _, f := range fields {
		key, _, _ := strings.Cut(f, ":")
		replaced := false
		for i := range all {
			if strings.HasPrefix(all[i], key+":") {
				all[i], replaced = f, true
			}
		}
		if !replaced {
			all = append(all, f)
		}
	}
	return strings.Join(all, "\n") + "\n\n"
}

func TestScanPackages(t *testing.T) {
	text := stanza("aa", "1:1.0-1", "Essential: yes", "Priority: required", "Multi-Arch: allowed", "Source: src (2.0)", "Section: admin",
		"Depends: bb (>= 1),\n cc |\n dd", "Description: short\n long, Depends: not a field\n .", "Provides: vv (= 1)") +
		"\n\n" + stanza("bb", "2", "Architecture: all", "Installed-Size: 1", "Multi-Arch: foreign")
	got, err := ScanPackages([]byte(strings.TrimSuffix(text, "\n\n")))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 {
		t.Fatalf("%d packages", len(got))
	}
	a, b := got[0], got[1]
	if a.Name != "aa" || a.Version != "1:1.0-1" || !a.Essential || a.Priority != Required || a.MultiArch != MultiArchAllowed || a.Section != "admin" || a.Size != 1000 || a.Line != 1 {
		t.Errorf("%+v", a)
	}
	if g, err := ParseRelations(a.Depends); err != nil || len(g) != 2 || len(g[1]) != 2 {
		t.Errorf("folded Depends %q: %v %v", a.Depends, g, err)
	}
	if n, v := a.Source(); n != "src" || v != "2.0" {
		t.Errorf("source %s %s", n, v)
	}
	if n, v := b.Source(); n != "bb" || v != "2" {
		t.Errorf("source %s %s", n, v)
	}
	if b.Arch != "all" || b.Priority != NoPriority || b.MultiArch != MultiArchForeign || b.ID() != "bb_2_all" {
		t.Errorf("%+v", b)
	}
}

func TestScanPackagesRefuses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"truncated", stanza("aa", "1") + "Package: bb\nVersion: 1\n", "line 9 (package bb): the stanza that ends here has no Architecture, Filename, Size, SHA256"},
		{"field twice", stanza("aa", "1", "X: y\nVersion: 2"), "line 8 (package aa): field Version is given twice"},
		{"other spelling", stanza("aa", "1", "depends: bb\nDepends: cc"), "field Depends is given twice"},
		{"no field", "Package aa\n", "line 1: neither a field"},
		{"stray continuation", " x\n", "line 1: continuation line outside"},
		{"continued name", "Package: aa\n bb\n", "does not allow"},
		{"name", stanza("a/b", "1"), "not a package name"},
		{"version", stanza("aa", "one"), "does not begin with a digit"},
		{"architecture", stanza("aa", "1", "Architecture: ../x"), "not an architecture"},
		{"path up", stanza("aa", "1", "Filename: pool/../../x"), "not a clean relative path"},
		{"path absolute", stanza("aa", "1", "Filename: /etc/passwd"), "not a clean relative path"},
		{"path query", stanza("aa", "1", "Filename: pool/x?y"), "not a clean relative path"},
		{"size", stanza("aa", "1", "Size: -1"), "not a size"},
		{"size zero", stanza("aa", "1", "Size: 0"), "not a size"},
		{"size huge", stanza("aa", "1", "Size: 99999999999999999999"), "not a size"},
		{"hash", stanza("aa", "1", "SHA256: "+strings.ToUpper(hash0)), "not a SHA-256"},
		{"hash short", stanza("aa", "1", "SHA256: 00"), "not a SHA-256"},
		{"multi-arch", stanza("aa", "1", "Multi-Arch: maybe"), "none of no, same"},
		{"essential", stanza("aa", "1", "Essential: perhaps"), "neither yes nor no"},
		{"source", stanza("aa", "1", "Source: s (x"), "not \"name\""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ScanPackages([]byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	huge := stanza("aa", "1", "Description: "+strings.Repeat("x", 8<<20), "Depends: "+strings.Repeat("aa, ", 1<<20)+"aa")
	if ps, err := ScanPackages([]byte(huge)); err != nil || len(ps) != 1 {
		t.Errorf("huge fields: %d %v", len(ps), err)
	}
}

func TestNewUniverseRefuses(t *testing.T) {
	scan := func(s string) []Package {
		ps, err := ScanPackages([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return ps
	}
	tests := []struct{ name, in, want string }{
		{"twice", stanza("aa", "1") + stanza("aa", "1"), "listed twice (first in line 1)"},
		{"architecture", stanza("aa", "1", "Architecture: arm64"), "is for arm64, but the index is of amd64"},
		{"provides", stanza("aa", "1", "Provides: bb (>= 1)"), "is not a name or name (= version)"},
		{"provides syntax", stanza("aa", "1", "Provides: ,"), "Provides"},
	}
	for _, tt := range tests {
		if _, err := NewUniverse("amd64", Index{"debian/trixie", "trixie", scan(tt.in)}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	// The same package in two suites is one package, of the first.
	u, err := NewUniverse("amd64", Index{"debian/trixie", "trixie", scan(stanza("aa", "1"))}, Index{"debian/trixie", "trixie-security", scan(stanza("aa", "1") + stanza("aa", "2"))})
	if err != nil {
		t.Fatal(err)
	}
	if v := u.Versions("aa"); len(v) != 2 || v[0].Version != "2" || v[0].Suite != "trixie-security" || v[1].Suite != "trixie" {
		t.Errorf("%v", v)
	}
}

func FuzzScanPackages(f *testing.F) {
	f.Add([]byte(stanza("aa", "1", "Depends: bb, cc |\n dd", "Description: x\n y")))
	f.Add([]byte("Package: aa\n"))
	f.Add([]byte(" \n\n:\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ps, err := ScanPackages(bytes.Clone(data))
		if err != nil {
			return
		}
		for i := range ps {
			p := &ps[i]
			if !validName(p.Name) || !cleanPath(p.Path) || !isSHA256(p.SHA256) || p.Size <= 0 || p.Arch == "" {
				t.Fatalf("%+v", p)
			}
			if _, err := ParseVersion(p.Version); err != nil {
				t.Fatal(err)
			}
			LockPackage(p)
			p.Arch = "amd64"
		}
		u, err := NewUniverse("amd64", Index{"debian/trixie", "trixie", ps})
		if err != nil {
			return
		}
		for i := range ps {
			req := Request{Packages: []string{ps[i].Name}}
			if sol, err := Resolve(u, req); err == nil {
				if err := Check(u, sol, req); err != nil {
					t.Fatal(err)
				}
			}
			if i > 20 {
				break
			}
		}
	})
}

// BenchmarkScanPackages reads an index of the size and shape of Debian's main.
func BenchmarkScanPackages(b *testing.B) {
	var buf bytes.Buffer
	for i := range 63000 {
		name := fmt.Sprintf("libpackage%d-dev", i)
		buf.WriteString(stanza(name, fmt.Sprintf("1.%d.2-3+b%d", i, i%4), "Source: package", "Installed-Size: 123",
			"Maintainer: Some Team <some-team@lists.example.org>",
			"Depends: libc6 (>= 2.36), libgcc-s1 (>= 3.0), libpackage1 (= 1.0-1), libstdc++6 (>= 5), perl:any | awk, zlib1g (>= 1:1.2.0)",
			"Description: a package of an index of the usual size", "Multi-Arch: same", "Homepage: https://example.org/package/",
			"Description-md5: 0123456789abcdef0123456789abcdef", "Section: libdevel", "Priority: optional",
			"Tag: devel::library, role::devel-lib,\n implemented-in::c, devel::lang:c, interface::x11,\n works-with::image, use::gameplaying",
			"MD5sum: 0123456789abcdef0123456789abcdef"))
	}
	b.SetBytes(int64(buf.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if ps, err := ScanPackages(buf.Bytes()); err != nil || len(ps) != 63000 {
			b.Fatal(len(ps), err)
		}
	}
}
