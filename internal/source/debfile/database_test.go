package debfile

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/filetree"
)

func TestStatusStanza(t *testing.T) {
	control, err := ParseControl([]byte("Package: hello\nVersion: 1:2.0-1\nX-Odd: kept\nArchitecture: amd64\nMulti-Arch: same\n" +
		"Homepage: none\nDescription: greets\n long\n .\n text\nDepends: libc6\nSection: misc\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := &Package{Name: "hello", Version: "1:2.0-1", Arch: "amd64", Control: control, Conffiles: []Conffile{
		{Path: "etc/hello", MD5: "5d41402abc4b2a76b9719d911017c592"},
		{Path: "etc/gone", Remove: true},
		{Path: "etc/missing"},
	}}
	want := "Package: hello\nStatus: install ok unpacked\nSection: misc\nArchitecture: amd64\nMulti-Arch: same\nVersion: 1:2.0-1\n" +
		"Depends: libc6\nConffiles:\n /etc/hello 5d41402abc4b2a76b9719d911017c592\nDescription: greets\n long\n .\n text\nX-Odd: kept\nHomepage: none\n"
	if d := cmp.Diff(want, StatusStanza(p, Unpacked)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if p.InfoName() != "hello:amd64" || p.ID() != "hello_1:2.0-1_amd64" {
		t.Errorf("names %s, %s", p.InfoName(), p.ID())
	}
}

func TestDatabase(t *testing.T) {
	cache := t.TempDir()
	hello := mustOpen(t, cache, deb{
		control:  "Package: hello\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nMaintainer: x <x@example.org>\nDescription: x\n",
		scripts:  map[string]string{"postinst": "#!/bin/sh\n", "triggers": "interest-noawait /usr/share/hello\ninterest greet\nactivate ldconfig\n", "conffiles": "/etc/hello\n"},
		contents: []tar.Header{dir("./"), dir("./etc/"), reg("./etc/hello", "hello"), dir("./usr/"), reg("./usr/x", "x")},
	})
	world := mustOpen(t, cache, deb{
		control:  "Package: world\nVersion: 2\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n",
		scripts:  map[string]string{"md5sums": "made up  usr/y\n", "triggers": "interest greet\ninterest /usr/a # for a\n"},
		contents: []tar.Header{dir("./"), dir("./usr/"), reg("./usr/y", "y")},
	})
	got := map[string]string{}
	for _, e := range Database([]*Package{world, hello}, Installed) {
		if e.IsDir() {
			got[e.Path] = "folder"
			continue
		}
		got[e.Path] = modeString(&e) + " " + string(e.Content.Data)
		if e.Origin.Kind != filetree.FromGenerated || e.Size != int64(len(e.Content.Data)) || e.Digest == "" {
			t.Errorf("%s: incomplete entry %+v", e.Path, e)
		}
	}
	const d = "var/lib/dpkg/"
	want := map[string]string{
		"var/lib/dpkg": "folder", d + "alternatives": "folder", d + "info": "folder", d + "parts": "folder",
		d + "triggers": "folder", d + "updates": "folder",
		d + "available":                  "-rw-r--r-- ",
		d + "info/format":                "-rw-r--r-- 1\n",
		d + "info/hello:amd64.conffiles": "-rw-r--r-- /etc/hello\n",
		d + "info/hello:amd64.list":      "-rw-r--r-- /.\n/etc\n/etc/hello\n/usr\n/usr/x\n",
		d + "info/hello:amd64.md5sums":   "-rw-r--r-- 9dd4e461268c8034f5c8564e155c67a6  usr/x\n",
		d + "info/hello:amd64.postinst":  "-rwxr-xr-x #!/bin/sh\n",
		d + "info/hello:amd64.triggers":  "-rw-r--r-- interest-noawait /usr/share/hello\ninterest greet\nactivate ldconfig\n",
		d + "info/world.list":            "-rw-r--r-- /.\n/usr\n/usr/y\n",
		d + "info/world.md5sums":         "-rw-r--r-- made up  usr/y\n",
		d + "info/world.triggers":        "-rw-r--r-- interest greet\ninterest /usr/a # for a\n",
		d + "triggers/File":              "-rw-r--r-- /usr/a world\n/usr/share/hello hello:amd64/noawait\n",
		d + "triggers/Unincorp":          "-rw-r--r-- ",
		d + "triggers/greet":             "-rw-r--r-- hello:amd64\nworld\n",
		d + "status": "-rw-r--r-- Package: hello\nStatus: install ok installed\nMaintainer: x <x@example.org>\nArchitecture: amd64\nMulti-Arch: same\nVersion: 1\n" +
			"Conffiles:\n /etc/hello 5d41402abc4b2a76b9719d911017c592\nDescription: x\n\n" +
			"Package: world\nStatus: install ok installed\nMaintainer: x <x@example.org>\nArchitecture: all\nVersion: 2\nDescription: x\n\n",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestStatusD(t *testing.T) {
	p := mustOpen(t, t.TempDir(), deb{
		scripts: map[string]string{"md5sums": "00  bin/a\n11  usr/share/doc/b\n22  usr/lib/c\n"},
	})
	entries := StatusD(p, func(p string) bool { return p == "usr/bin/a" || p == "usr/lib/c" })
	if len(entries) != 2 || entries[0].Path != "var/lib/dpkg/status.d/hello" || entries[1].Path != "var/lib/dpkg/status.d/hello.md5sums" {
		t.Fatalf("entries %+v", entries)
	}
	if got, want := string(entries[0].Content.Data), p.Control.String(); got != want {
		t.Errorf("stanza %q, want %q", got, want)
	}
	if got, want := string(entries[1].Content.Data), "00  usr/bin/a\n22  usr/lib/c\n"; got != want {
		t.Errorf("md5sums %q, want %q", got, want)
	}
	if entries[0].Origin.Digest != p.Digest {
		t.Errorf("origin %+v does not name the package's bytes", entries[0].Origin)
	}
}

// TestRealDpkg gives a tree made of real packages our database and asks dpkg and
// apt what they think of it.
func TestRealDpkg(t *testing.T) {
	for _, tool := range []string{"dpkg", "apt-get"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s here to ask", tool)
		}
	}
	inputs := fetchReal(t, closure(t, "base-files", "base-passwd", "bash", "coreutils", "dash", "debconf", "debianutils", "diffutils",
		"dpkg", "findutils", "grep", "gzip", "hostname", "init-system-helpers", "libc-bin", "login", "mawk", "ncurses-base", "passwd", "perl-base", "sed", "sysvinit-utils", "tar", "util-linux")...)
	pkgs, err := OpenAll(context.Background(), t.TempDir(), inputs, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(pkgs, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	arch, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		t.Fatal(err)
	}
	entries := MergeLinks(strings.TrimSpace(string(arch)))
	linked := false
	var shipped []filetree.Entry
	for _, p := range pkgs {
		shipped = append(shipped, p.Entries...)
		for _, e := range p.Entries {
			linked = linked || e.Path == "bin" && e.IsLink()
		}
	}
	if linked {
		entries = nil
	}
	all, err := UsrMerge(append(entries, shipped...))
	if err != nil {
		t.Fatal(err)
	}
	lay(t, root, all)
	lay(t, root, Database(pkgs, Installed))

	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true",
			"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	if out := run("dpkg", "--root="+root, "--audit"); out != "" {
		t.Errorf("dpkg --audit finds fault:\n%s", out)
	}
	if out := run("dpkg", "--root="+root, "-V"); out != "" {
		t.Errorf("dpkg -V finds other bytes:\n%s", out)
	}
	if out := run("dpkg", "--root="+root, "-S", "/usr/share/doc/dash/copyright"); out != "dash: /usr/share/doc/dash/copyright\n" {
		t.Errorf("dpkg -S says %q", out)
	}
	if out := run("dpkg", "--root="+root, "-s", "dash"); !strings.Contains(out, "Status: install ok installed") {
		t.Errorf("dpkg -s says %q", out)
	}
	empty := t.TempDir()
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(empty, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run("apt-get", "check", "-o", "Dir::State::status="+filepath.Join(root, "var/lib/dpkg/status"),
		"-o", "Dir::State::Lists="+filepath.Join(empty, "lists"), "-o", "Dir::Cache="+filepath.Join(empty, "cache"), "-o", "Debug::NoLocking=1")

	if os.Getuid() != 0 {
		t.Log("dpkg --configure -a is not tried: only root may change to another root folder here")
		return
	}
	lay(t, root, Database(pkgs, Unpacked))
	// base-files' script needs the users that base-passwd's makes, but there is
	// no dependency to say so: every installer of Debian puts it first.
	run("dpkg", "--root="+root, "--force-depends", "--configure", "base-passwd")
	out := run("dpkg", "--root="+root, "--configure", "-a")
	if out := run("dpkg", "--root="+root, "--audit"); out != "" {
		t.Errorf("after dpkg --configure -a, dpkg --audit finds fault:\n%s", out)
	}
	if !strings.Contains(out, "Setting up dash") {
		t.Errorf("dpkg --configure -a did not configure dash:\n%s", out)
	}
	if s := run("dpkg", "--root="+root, "-l"); strings.Contains(s, "\niU") || !strings.Contains(s, "\nii") {
		t.Errorf("after dpkg --configure -a:\n%s", s)
	}
}

// closure asks the machine's apt for what an installation into an empty system
// would take.
func closure(t *testing.T, names ...string) []string {
	t.Helper()
	if testing.Short() {
		t.Skip("downloads packages; not with -short")
	}
	args := append([]string{"-s", "-qq", "-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=0",
		"-o", "Debug::NoLocking=1", "install"}, names...)
	out, err := exec.Command("apt-get", args...).Output()
	if err != nil {
		t.Skipf("apt-get -s install does not work here (%v): real packages are not tried", err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Inst" {
			all = append(all, f[1])
		}
	}
	return all
}

// lay writes entries below root, owners only as root.
func lay(t *testing.T, root string, entries []filetree.Entry) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range entries {
		e := &entries[i]
		at := filepath.Join(root, e.Path)
		must(os.MkdirAll(filepath.Join(root, path.Dir(e.Path)), 0o755))
		switch e.Type {
		case tar.TypeDir:
			must(os.MkdirAll(at, 0o755))
		case tar.TypeReg:
			r, err := e.Open()
			must(err)
			b, err := io.ReadAll(r)
			must(err)
			r.Close()
			must(os.WriteFile(at, b, 0o644))
		case tar.TypeSymlink:
			must(os.Symlink(e.Link, at))
			continue
		case tar.TypeLink:
			must(os.Link(filepath.Join(root, e.Link), at))
		}
		if os.Getuid() == 0 {
			must(os.Chown(at, e.UID, e.GID))
		}
		mode := os.FileMode(e.Mode & 0o777)
		for bit, m := range map[int64]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
			if e.Mode&bit != 0 {
				mode |= m
			}
		}
		if os.Getuid() != 0 {
			mode |= 0o700 // or the test could not read what it wrote
		}
		must(os.Chmod(at, mode))
	}
}

// The machine's own database, where it has one, is the model for ours.
func TestStatusOrderAsDpkg(t *testing.T) {
	b, err := os.ReadFile("/var/lib/dpkg/status")
	if err != nil {
		t.Skip("no dpkg database here to compare with")
	}
	n := 0
	for stanza := range bytes.SplitSeq(bytes.TrimSpace(b), []byte("\n\n")) {
		s, err := ParseControl(stanza)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, stanza)
		}
		// Blanks at a line's end are the one thing that is not kept.
		want := strings.ReplaceAll(string(stanza)+"\n", " \n", "\n")
		if got := strings.ReplaceAll(s.String(), " \n", "\n"); got != want {
			t.Errorf("rendered otherwise:\n%s", cmp.Diff(want, got))
		}
		last := -1
		for _, f := range s {
			at := slices.Index(statusOrder, f.Name)
			if at < 0 {
				at = len(statusOrder)
			}
			if at < last {
				t.Errorf("%s: field %s stands before its turn", s.Get("Package"), f.Name)
			}
			last = at
		}
		n++
	}
	if n == 0 {
		t.Skip("dpkg's database is empty here")
	}
}
