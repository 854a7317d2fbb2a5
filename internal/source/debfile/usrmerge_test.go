package debfile

import (
	"archive/tar"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/filetree"
)

func TestUsrMerge(t *testing.T) {
	e := func(kind byte, path string, link ...string) filetree.Entry {
		return filetree.Entry{Type: kind, Path: path, Link: strings.Join(link, ""), Origin: filetree.Origin{Name: "p", Path: path}}
	}
	const d, f, s, h = tar.TypeDir, tar.TypeReg, tar.TypeSymlink, tar.TypeLink
	for _, tt := range []struct {
		name string
		in   []filetree.Entry
		want []string // "path" or "path -> link"
		err  string
	}{
		{name: "moved and merged",
			in:   []filetree.Entry{e(d, "bin"), e(f, "bin/sh"), e(d, "usr"), e(d, "usr/bin"), e(f, "usr/bin/vi"), e(d, "lib64"), e(f, "lib64/ld.so"), e(f, "binary"), e(f, "etc/bin")},
			want: []string{"usr/bin", "usr/bin/sh", "usr", "usr/bin/vi", "usr/lib64", "usr/lib64/ld.so", "binary", "etc/bin"}},
		{name: "the root's links stay",
			in:   []filetree.Entry{e(s, "bin", "usr/bin"), e(s, "lib", "/usr/lib"), e(d, "usr/bin")},
			want: []string{"bin -> usr/bin", "lib -> /usr/lib", "usr/bin"}},
		{name: "a root link that leads elsewhere", in: []filetree.Entry{e(s, "bin", "../tmp")}, err: "want usr/bin"},
		{name: "links within their folder keep their text",
			in:   []filetree.Entry{e(s, "bin/sh", "dash"), e(s, "lib/a/x.so", "../b/x.so"), e(s, "bin/abs", "/lib/x")},
			want: []string{"usr/bin/sh -> dash", "usr/lib/a/x.so -> ../b/x.so", "usr/bin/abs -> /lib/x"}},
		{name: "links that climb out are mended",
			in: []filetree.Entry{e(s, "bin/awk", "../etc/alternatives/awk"), e(s, "lib/a/x.so", "../../usr/lib/a/y.so"),
				e(s, "sbin/x", "../bin/x"), e(s, "lib/a/up", "../../lib64/z"), e(s, "bin/root", "..")},
			want: []string{"usr/bin/awk -> ../../etc/alternatives/awk", "usr/lib/a/x.so -> y.so",
				"usr/sbin/x -> ../bin/x", "usr/lib/a/up -> ../../lib64/z", "usr/bin/root -> ../.."}},
		{name: "links from elsewhere keep their text",
			in:   []filetree.Entry{e(s, "usr/lib/x.so", "../../lib/x.so.1"), e(s, "etc/sh", "../bin/sh")},
			want: []string{"usr/lib/x.so -> ../../lib/x.so.1", "etc/sh -> ../bin/sh"}},
		{name: "hard links follow", in: []filetree.Entry{e(f, "bin/a"), e(h, "bin/b", "bin/a")}, want: []string{"usr/bin/a", "usr/bin/b -> usr/bin/a"}},
		{name: "compatibility link after", in: []filetree.Entry{e(f, "bin/x"), e(s, "usr/bin/x", "/bin/x")}, want: []string{"usr/bin/x"}},
		{name: "compatibility link before", in: []filetree.Entry{e(s, "bin/x", "../usr/bin/x"), e(f, "usr/bin/x")}, want: []string{"usr/bin/x"}},
		{name: "conflict", in: []filetree.Entry{e(f, "bin/x"), e(f, "usr/bin/x")}, err: "shipped twice: by p as /bin/x and by p as /usr/bin/x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := UsrMerge(tt.in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range out {
				line := e.Path
				if e.Link != "" {
					line += " -> " + e.Link
				}
				got = append(got, line)
				if e.Origin.Path == "" || MergedPath(e.Origin.Path) != e.Path && e.Origin.Path != e.Path {
					t.Errorf("%s: origin path %q", e.Path, e.Origin.Path)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			// What is merged stays as it is.
			again, err := UsrMerge(out)
			if err != nil || cmp.Diff(out, again) != "" {
				t.Errorf("merging twice differs: %v\n%s", err, cmp.Diff(out, again))
			}
		})
	}
}

func TestMergeLinks(t *testing.T) {
	for arch, want := range map[string]string{
		"amd64": "usr usr/bin usr/lib usr/lib32 usr/lib64 usr/libx32 usr/sbin bin lib lib32 lib64 libx32 sbin",
		"arm64": "usr usr/bin usr/lib usr/sbin bin lib sbin",
	} {
		var got []string
		for _, e := range MergeLinks(arch) {
			got = append(got, e.Path)
			if e.IsLink() && e.Link != "usr/"+e.Path {
				t.Errorf("%s -> %s", e.Path, e.Link)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s, want %s", arch, s, want)
		}
	}
}
