package debfile

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sort"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
)

// States for StatusStanza and Database, as dpkg's Status field spells them.
const (
	// Unpacked: the files are there, the package waits for `dpkg --configure`.
	Unpacked = "install ok unpacked"
	// Installed: nothing is left to do.
	Installed = "install ok installed"
)

// statusOrder is the order in which dpkg writes the fields that it knows
// (dpkg's lib/dpkg/parse.c, fieldinfos). All others follow in the order of the
// control file. Fields that only an archive's index has, such as Filename, do
// not occur in a package.
var statusOrder = []string{
	"Package", "Essential", "Protected", "Status", "Priority", "Section", "Installed-Size", "Origin",
	"Maintainer", "Bugs", "Architecture", "Multi-Arch", "Source", "Version", "Config-Version", "Replaces",
	"Provides", "Depends", "Pre-Depends", "Recommends", "Suggests", "Breaks", "Conflicts", "Enhances",
	"Conffiles", "Description",
}

// StatusStanza is the package's stanza in /var/lib/dpkg/status, without the
// empty line after it. state is one of the constants above.
//
// Conffiles carry the MD5 of the bytes shipped in either state. dpkg itself
// writes "newconffile" for an unpacked package, whose conffiles still lie beside
// their place as *.dpkg-new; a tree made from Entries has them in place, and
// `dpkg --configure` leaves a conffile without such a twin as it is.
func StatusStanza(p *Package, state string) string {
	values := make(map[string]Field, len(p.Control)+2)
	for _, f := range p.Control {
		values[strings.ToLower(f.Name)] = f
	}
	values["status"] = Field{"Status", state}
	delete(values, "conffiles")
	var conf strings.Builder
	for _, c := range p.Conffiles {
		if c.MD5 != "" && !c.Remove {
			fmt.Fprintf(&conf, "\n /%s %s", c.Path, c.MD5)
		}
	}
	if conf.Len() > 0 {
		values["conffiles"] = Field{"Conffiles", conf.String()}
	}
	var b strings.Builder
	for _, name := range statusOrder {
		key := strings.ToLower(name)
		if f, ok := values[key]; ok {
			writeField(&b, f)
			delete(values, key)
		}
	}
	for _, f := range p.Control {
		if f, ok := values[strings.ToLower(f.Name)]; ok {
			writeField(&b, f)
		}
	}
	return b.String()
}

// ListFile is the package's file list, /var/lib/dpkg/info/<InfoName>.list: one
// absolute path on a line, the root as "/.".
func ListFile(p *Package) []byte {
	var b strings.Builder
	b.WriteString("/.\n")
	for i := range p.Entries {
		b.WriteByte('/')
		b.WriteString(p.Entries[i].Path)
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

// Database returns /var/lib/dpkg of a tree that holds exactly these packages,
// all in the same state: status, info, triggers and the empty folders and files
// that dpkg expects. The paths in it are those that the packages ship; in a
// merged tree dpkg reaches them through the root's links, as it does on any
// Debian system.
//
// The entries are sorted by path, belong to root and have the time 0. No
// trigger is left pending: configuring a package that is interested in one does
// everything that the trigger would.
func Database(pkgs []*Package, state string) []filetree.Entry {
	sorted := append([]*Package(nil), pkgs...)
	sort.SliceStable(sorted, func(i, j int) bool {
		if sorted[i].Name != sorted[j].Name {
			return sorted[i].Name < sorted[j].Name
		}
		return sorted[i].Arch < sorted[j].Arch
	})
	d := newRecords("dpkg database", "record of the packages in this tree")
	d.folder("var/lib/dpkg")
	for _, n := range []string{"alternatives", "info", "parts", "triggers", "updates"} {
		d.folder("var/lib/dpkg/" + n)
	}
	d.file("var/lib/dpkg/info/format", 0o644, []byte("1\n"))
	d.file("var/lib/dpkg/available", 0o644, nil)
	d.file("var/lib/dpkg/triggers/Unincorp", 0o644, nil)

	var status strings.Builder
	var paths []string
	named := make(map[string][]string)
	for _, p := range sorted {
		status.WriteString(StatusStanza(p, state))
		status.WriteByte('\n')
		info := "var/lib/dpkg/info/" + p.InfoName() + "."
		d.file(info+"list", 0o644, ListFile(p))
		d.file(info+"md5sums", 0o644, p.MD5Sums)
		for _, m := range p.Members {
			mode := int64(0o644)
			switch m.Name {
			case "md5sums", "list":
				// The first is written above; the second is dpkg's own name.
				continue
			case "preinst", "postinst", "prerm", "postrm", "config":
				mode = 0o755
			}
			d.file(info+m.Name, mode, m.Data)
		}
		for _, t := range p.Triggers {
			option, ok := strings.CutPrefix(t.Directive, "interest")
			if !ok {
				continue
			}
			line := p.InfoName()
			if option == "-noawait" {
				line += "/noawait"
			}
			if strings.HasPrefix(t.Name, "/") {
				paths = append(paths, t.Name+" "+line+"\n")
			} else {
				named[t.Name] = append(named[t.Name], line+"\n")
			}
		}
	}
	d.file("var/lib/dpkg/status", 0o644, []byte(status.String()))
	sort.Strings(paths)
	d.file("var/lib/dpkg/triggers/File", 0o644, []byte(strings.Join(paths, "")))
	for name, lines := range named {
		d.file("var/lib/dpkg/triggers/"+name, 0o644, []byte(strings.Join(lines, "")))
	}
	return d.sorted()
}

// StatusD returns the package's record in the form of images without dpkg:
// /var/lib/dpkg/status.d/NAME with the control stanza and NAME.md5sums with the
// checksums of the files for which keep answers true. keep is asked for the
// path as shipped and, when that is not kept, for its place in a merged tree;
// the list has the path that is kept.
//
// The entries belong to root and have the time 0.
func StatusD(p *Package, keep func(path string) bool) []filetree.Entry {
	d := newRecords("package record", "says that files of "+p.ID()+" are in this image")
	var sums strings.Builder
	for line := range strings.Lines(string(p.MD5Sums)) {
		sum, name, ok := strings.Cut(strings.TrimRight(line, "\n"), "  ")
		if !ok {
			continue
		}
		name = strings.TrimPrefix(name, "./")
		if !keep(name) {
			if name = MergedPath(name); !keep(name) {
				continue
			}
		}
		sums.WriteString(sum + "  " + name + "\n")
	}
	d.file("var/lib/dpkg/status.d/"+p.Name, 0o644, []byte(p.Control.String()))
	d.file("var/lib/dpkg/status.d/"+p.Name+".md5sums", 0o644, []byte(sums.String()))
	for i := range d.entries {
		o := &d.entries[i].Origin
		o.Version, o.Arch, o.Digest = p.Version, p.Arch, p.Digest
	}
	return d.sorted()
}

// records gathers generated entries.
type records struct {
	origin  filetree.Origin
	entries []filetree.Entry
}

func newRecords(name, note string) *records {
	return &records{origin: filetree.Origin{Kind: filetree.FromGenerated, Name: name, Note: note}}
}

func (r *records) folder(p string) {
	r.entries = append(r.entries, filetree.Entry{Path: p, Type: tar.TypeDir, Mode: 0o755, Origin: r.origin})
}

func (r *records) file(p string, mode int64, data []byte) {
	sum := sha256.Sum256(data)
	r.entries = append(r.entries, filetree.Entry{
		Path: p, Type: tar.TypeReg, Mode: mode, Size: int64(len(data)),
		Digest:  oci.Digest("sha256:" + hex.EncodeToString(sum[:])),
		Content: filetree.Content{Data: data}, Origin: r.origin,
	})
}

func (r *records) sorted() []filetree.Entry {
	sort.Slice(r.entries, func(i, j int) bool { return r.entries[i].Path < r.entries[j].Path })
	return r.entries
}
