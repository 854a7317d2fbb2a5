package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// ErrNoOrigins is matched when nothing explains an image: it was not built
// here, or it came without its referrers.
var ErrNoOrigins = errors.New("no origins document")

// maxOrigins bounds an origins document; one of a development image with
// 60,000 paths has some 20 MB.
const maxOrigins = 256 << 20

// ReadOrigins finds the document that explains an image of a layout. The
// digest in the document must be the image's own.
func ReadOrigins(store *oci.Layout, manifest oci.Digest) (*Origins, error) {
	desc, err := store.Tag(ReferrersTag(manifest))
	if err != nil {
		return nil, fmt.Errorf("%w for %s", ErrNoOrigins, manifest)
	}
	raw, err := store.ReadBlob(desc)
	if err != nil {
		return nil, err
	}
	idx, err := oci.ParseIndex(raw)
	if err != nil {
		return nil, err
	}
	for _, d := range idx.Manifests {
		if d.ArtifactType != OriginsType {
			continue
		}
		raw, err := store.ReadBlob(d)
		if err != nil {
			return nil, err
		}
		m, err := oci.ParseManifest(raw)
		if err != nil {
			return nil, err
		}
		if m.Subject == nil || m.Subject.Digest != manifest || len(m.Layers) != 1 {
			return nil, fmt.Errorf("the origins of %s are about another image", manifest)
		}
		rc, size, err := store.Blob(m.Layers[0].Digest)
		if err != nil {
			return nil, err
		}
		defer rc.Close()
		if size > maxOrigins {
			return nil, fmt.Errorf("the origins of %s are larger than %d bytes", manifest, int64(maxOrigins))
		}
		raw, err = io.ReadAll(oci.VerifyReader(rc, m.Layers[0].Digest, size))
		if err != nil {
			return nil, err
		}
		return ParseOrigins(raw, manifest)
	}
	return nil, fmt.Errorf("%w for %s", ErrNoOrigins, manifest)
}

// AllOrigins reads every origins document of a layout.
func AllOrigins(store *oci.Layout) ([]*Origins, error) {
	idx, err := store.Index()
	if err != nil {
		return nil, err
	}
	var out []*Origins
	for _, d := range idx.Manifests {
		hex, ok := strings.CutPrefix(d.Annotations[ocispec.AnnotationRefName], "sha256-")
		if !ok {
			continue
		}
		o, err := ReadOrigins(store, digest.NewDigestFromEncoded(digest.SHA256, hex))
		if errors.Is(err, ErrNoOrigins) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// ParseOrigins reads an origins document about an image.
func ParseOrigins(raw []byte, manifest oci.Digest) (*Origins, error) {
	var o Origins
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("origins document: %w", err)
	}
	if o.Version != 1 {
		return nil, fmt.Errorf("origins document has version %d, this program knows 1: update twinhull", o.Version)
	}
	if o.Image != manifest {
		return nil, fmt.Errorf("the origins document is about %s, not about %s", o.Image, manifest)
	}
	return &o, nil
}

// Explanation answers why a path is, or is not, in an image.
type Explanation struct {
	Path    string        `json:"path"`              // as asked, absolute
	Through []string      `json:"through,omitempty"` // symbolic links that led to the file
	Found   *PathOrigin   `json:"found,omitempty"`
	Package *packageFacts `json:"package,omitempty"`
	Step    *StepRecord   `json:"step,omitempty"`
	InVault bool          `json:"inVault"`
	Absent  string        `json:"absent,omitempty"` // why there is nothing, as near as can be told
	Remedy  string        `json:"remedy,omitempty"` // what would bring it, when that is known
	Near    []string      `json:"near,omitempty"`   // paths that come closest
	origins *Origins
}

type packageFacts struct {
	ID            string     `json:"id"`
	Source        string     `json:"source"`
	SourceVersion string     `json:"sourceVersion"`
	Suite         string     `json:"suite"`
	Pool          string     `json:"pool"`
	SHA256        oci.Digest `json:"sha256"`
}

// Explain answers for one path of an image. inVault tells whether bytes are
// still kept.
func Explain(o *Origins, p string, inVault func(oci.Digest) bool) *Explanation {
	x := &Explanation{Path: path.Join("/", p), origins: o}
	byPath := map[string]*PathOrigin{}
	t := filetree.NewTree()
	for i := range o.Paths {
		po := &o.Paths[i]
		byPath[po.Path] = po
		e := &filetree.Entry{Path: po.Path, Link: po.Link, Type: '5'}
		switch po.Type {
		case "symlink":
			e.Type = '2'
		case "file", "hardlink":
			e.Type = '0'
		}
		t.Set(e)
	}
	rel := strings.TrimPrefix(x.Path, "/")
	found := byPath[rel]
	if found == nil {
		if e := t.Resolve(rel); e != nil {
			found = byPath[e.Path]
			x.Through = []string{x.Path}
		}
	}
	if found == nil {
		x.absent(o, t, rel)
		return x
	}
	x.Found = found
	x.InVault = found.Origin.Digest != "" && inVault(found.Origin.Digest)
	switch found.Origin.Kind {
	case filetree.FromPackage:
		for _, q := range o.Packages {
			if q.Name == found.Origin.Name && q.Version == found.Origin.Version {
				x.Package = &packageFacts{q.ID(), q.Source, q.SourceVersion, q.Suite, q.Path, q.SHA256}
			}
		}
	case filetree.FromArtifact:
		for i := range o.Steps {
			if o.Steps[i].Digest == found.Origin.Digest {
				x.Step = &o.Steps[i]
			}
		}
	}
	return x
}

// program is a tool that people look for in images, the package that has it in
// Debian, and why production images do without it.
type program struct{ pkg, why string }

const (
	noShell    = "a production image holds no shell: nothing in it runs scripts, and an intruder finds none"
	noPackager = "a production image holds no package manager: it is replaced, never changed"
	noCompiler = "a production image holds no compiler: what runs was built in a step"
	noDebugger = "a production image holds no debugger: debug in the development image, or join one to the running container"
	noTool     = "a production image holds what its packages and artifacts need to run, and no tools to work in it"
	noLogin    = "nobody logs into a production image"
)

// programs answers for what is asked most. For everything else the origins of
// the development image know the package.
var programs = func() map[string]program {
	m := map[string]program{}
	add := func(pkg, why string, names ...string) {
		for _, n := range names {
			m[n] = program{pkg, why}
		}
	}
	add("dash", noShell, "sh", "dash")
	add("bash", noShell, "bash", "rbash")
	add("zsh", noShell, "zsh")
	add("ksh", noShell, "ksh")
	add("busybox", noShell, "ash", "busybox")
	add("apt", noPackager, "apt", "apt-get", "apt-cache")
	add("dpkg", noPackager, "dpkg", "dpkg-deb", "dpkg-query")
	add("npm", noPackager, "npm", "npx")
	add("yarnpkg", noPackager, "yarn", "yarnpkg")
	add("python3-pip", noPackager, "pip", "pip3")
	add("gcc", noCompiler, "gcc", "cc")
	add("g++", noCompiler, "g++", "c++")
	add("make", noCompiler, "make")
	add("golang-go", noCompiler, "go", "gofmt")
	add("binutils", noCompiler, "ld", "as", "objdump", "readelf", "nm", "strings")
	add("gdb", noDebugger, "gdb", "gdbserver")
	add("strace", noDebugger, "strace")
	add("ltrace", noDebugger, "ltrace")
	add("linux-perf", noDebugger, "perf")
	add("tcpdump", noDebugger, "tcpdump")
	add("coreutils", noTool, "ls", "cat", "cp", "mv", "rm", "mkdir", "chmod", "chown", "ln", "id", "whoami", "env", "sleep", "head", "tail", "wc", "sort", "date", "df", "du", "touch", "test", "true", "false", "echo", "base64", "sha256sum", "stat")
	add("grep", noTool, "grep", "egrep", "fgrep")
	add("sed", noTool, "sed")
	add("mawk", noTool, "awk", "mawk")
	add("findutils", noTool, "find", "xargs")
	add("tar", noTool, "tar")
	add("gzip", noTool, "gzip", "gunzip", "zcat")
	add("procps", noTool, "ps", "top", "free", "kill", "pgrep", "pkill")
	add("util-linux", noTool, "mount", "umount", "lsblk", "nsenter", "unshare")
	add("iproute2", noTool, "ip", "ss")
	add("iputils-ping", noTool, "ping")
	add("bind9-dnsutils", noTool, "dig", "nslookup", "host")
	add("netcat-openbsd", noTool, "nc", "netcat")
	add("curl", noTool, "curl")
	add("wget", noTool, "wget")
	add("openssh-client", noTool, "ssh", "scp")
	add("git", noTool, "git")
	add("vim", noTool, "vi", "vim")
	add("nano", noTool, "nano")
	add("less", noTool, "less")
	add("perl-base", "a production image holds Perl only when a package that is asked for is written in it", "perl")
	add("openssl", "programs use OpenSSL's libraries; its command line is a tool", "openssl")
	add("libc-bin", noTool, "ldconfig", "ldd", "getent", "iconv", "locale")
	add("passwd", noLogin, "passwd", "useradd", "chpasswd", "shadow", "gshadow")
	add("login", noLogin, "login", "su")
	add("sudo", noLogin, "sudo")
	return m
}()

// absent says why a path is not in the image.
func (x *Explanation) absent(o *Origins, t *filetree.Tree, rel string) {
	x.Absent = "nothing that the project file names brings it"
	base := path.Base(rel)
	for _, e := range t.Sorted() {
		if len(x.Near) < 5 && path.Base(e.Path) == base {
			x.Near = append(x.Near, "/"+e.Path)
		}
	}
	if o.Zone != oci.Production {
		return
	}
	merged := usrMerged(rel)
	tool, known := programs[base]
	known = known && (rel == base || inAny(merged, programFolders))
	omitted := func(name string) bool {
		for _, om := range o.Omitted {
			if om.Name == name {
				x.Absent = fmt.Sprintf("package %s is left out of production: %s (%s depends on it)", om.Name, om.Reason, om.Needed)
				return true
			}
		}
		return false
	}
	bring := func(pkg string) {
		x.Remedy = fmt.Sprintf("package %s would bring it: add it to production.packages if the application itself runs it", pkg)
	}
	keep := func() {
		x.Remedy = fmt.Sprintf("production.keep: [%q] keeps it", merged)
	}
	switch reason := x.trimmed(o, t, merged); {
	case known:
		if omitted(tool.pkg) {
			x.Absent += "; " + tool.why
		} else {
			x.Absent = tool.why
		}
		if base != "shadow" && base != "gshadow" { // accounts, and no program
			bring(tool.pkg)
		}
	case reason != "":
		x.Absent = "left out of production: " + reason
		keep()
	case omitted(base):
		bring(base)
	default:
		// A folder or data file of an omitted package mostly bears its name.
		for part := range strings.SplitSeq(rel, "/") {
			if len(part) > 2 && omitted(part) {
				bring(part)
				return
			}
		}
		for d := path.Dir(rel); d != "."; d = path.Dir(d) {
			if e := t.Resolve(d); e != nil {
				x.Absent += fmt.Sprintf("; the folder /%s is there", e.Path)
				break
			}
		}
		x.Remedy = "`twinhull explain development " + x.Path + "` tells which package has it in the development image, if any"
	}
}

// trimmed says which rule of trimming would have left a path out.
func (x *Explanation) trimmed(o *Origins, t *filetree.Tree, p string) string {
	trim, err := newTrimmer(o.Kept)
	if err != nil || trim.kept(p, false) {
		return ""
	}
	e := &filetree.Entry{Path: p, Type: '0'}
	if reason := trimReason(e); reason != "" {
		return reason
	}
	if _, ok := spare(p); ok {
		return reasonSpare
	}
	if matchBelow("usr/lib/*/gconv", p) {
		return reasonConverters
	}
	if i := strings.Index("/"+p, "/node_modules/"); i >= 0 {
		_, inside, n := splitModule(p[i:])
		if t.Get(p[:i+n]) == nil {
			return "" // the package itself is not there
		}
		first, _, _ := strings.Cut(inside, "/")
		if reason := nodeReason(p[i:], false); reason != "" {
			return reason
		} else if moduleTests[first] {
			return reasonTests
		}
	}
	return ""
}

// Write prints the answer for people, in one screen.
func (x *Explanation) Write(w io.Writer) {
	o := x.origins
	row := func(k, format string, a ...any) { fmt.Fprintf(w, "%-11s %s\n", k, fmt.Sprintf(format, a...)) }
	if x.Found == nil {
		fmt.Fprintf(w, "%s is not in the image\n", x.Path)
		row("why", "%s", x.Absent)
		if x.Remedy != "" {
			row("remedy", "%s", x.Remedy)
		}
		for _, n := range x.Near {
			row("near", "%s", n)
		}
		row("image", "%s %s, %s %s", o.Name, o.Image, o.Zone, o.Platform)
		return
	}
	f := x.Found
	fmt.Fprintf(w, "%s\n", x.Path)
	if len(x.Through) > 0 {
		row("leads to", "/%s", f.Path)
	}
	switch f.Type {
	case "file":
		row("file", "%d bytes, mode %s, owner %d:%d, %s", f.Size, f.Mode, f.UID, f.GID, f.SHA256)
	case "symlink", "hardlink":
		row(f.Type, "to %s", f.Link)
	default:
		row(f.Type, "mode %s, owner %d:%d", f.Mode, f.UID, f.GID)
	}
	kept := "in the vault"
	if !x.InVault {
		kept = "not in this machine's vault"
	}
	switch f.Origin.Kind {
	case filetree.FromPackage:
		row("from", "package %s %s (%s)", f.Origin.Name, f.Origin.Version, f.Origin.Arch)
		if p := x.Package; p != nil {
			row("source", "%s %s", p.Source, p.SourceVersion)
			row("lock entry", "%s in %s, %s", p.ID, p.Suite, p.Pool)
		}
		row("bytes", "%s, %s", f.Origin.Digest, kept)
	case filetree.FromModule:
		row("from", "%s@%s, member %s", f.Origin.Name, f.Origin.Version, f.Origin.Path)
		row("bytes", "%s, %s", f.Origin.Digest, kept)
	case filetree.FromSource:
		row("from", "the project's file %s", f.Origin.Name)
		row("bytes", "%s, %s", f.Origin.Digest, kept)
	case filetree.FromArtifact:
		row("from", "artifact %s, output file %s", f.Origin.Name, f.Origin.Path)
		if f.Origin.Note != "" {
			row("", "%s", f.Origin.Note)
		}
		if s := x.Step; s != nil {
			row("step", "%s: %s", s.Step, strings.Join(s.Run, " "))
			row("ran over", "%d packages, tree %s", len(s.Packages), clip(string(s.Tree), 12))
			if len(s.Deps) > 0 {
				row("with", "%d locked dependencies", len(s.Deps))
			}
			for i, in := range s.Inputs {
				if i == 12 {
					row("", "… and %d more", len(s.Inputs)-i)
					break
				}
				k := ""
				if i == 0 {
					k = "read"
				}
				row(k, "%s %s", in.Path, clip(strings.TrimPrefix(string(in.SHA256), "sha256:"), 12))
			}
		}
		row("record", "%s, %s", f.Origin.Digest, kept)
	case filetree.FromGenerated:
		row("from", "Twinhull itself: effect %s", f.Origin.Name)
		row("because", "%s", f.Origin.Note)
		row("bytes", "%s, %s", f.Origin.Digest, kept)
	}
	row("image", "%s %s, %s %s", o.Name, o.Image, o.Zone, o.Platform)
	row("lock", "%s as of %s", clip(strings.TrimPrefix(string(o.Lock), "sha256:"), 12), o.AsOf.Format("2006-01-02"))
}
