package build

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strconv"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// The effects stand in for maintainer scripts in production: each makes, from
// what the tree holds, the files that a script would have made. They are pure:
// the same tree and specification give the same files.

// generator makes entries whose origin is Twinhull itself. What packages bring
// it replaces; what the project puts at the same place is a conflict.
type generator struct {
	tree  *filetree.Tree
	mtime int64
	clash *[]error // receives conflicts; nil where the tree has no file of the project
}

func (g generator) set(e *filetree.Entry) {
	old := g.tree.Get(e.Path)
	if g.clash != nil && old != nil && !(old.IsDir() && e.IsDir()) {
		switch old.Origin.Kind {
		case filetree.FromArtifact, filetree.FromSource, filetree.FromModule:
			*g.clash = append(*g.clash, fmt.Errorf("/%s is brought by the project (%s), but Twinhull makes it, too (effect %s: %s): choose another place", e.Path, originName(old), e.Origin.Name, e.Origin.Note))
			return
		}
	}
	g.tree.Set(e)
}

func (g generator) file(p string, mode int64, data []byte, effect, note string) {
	g.set(&filetree.Entry{
		Path: p, Type: tar.TypeReg, Mode: mode, ModTime: g.mtime, Size: int64(len(data)),
		Digest: digest.FromBytes(data), Content: filetree.Content{Data: data},
		Origin: generatedOrigin(effect, note),
	})
}

func (g generator) dir(p string, mode int64, uid, gid int, effect, note string) {
	g.set(&filetree.Entry{
		Path: p, Type: tar.TypeDir, Mode: mode, UID: uid, GID: gid, ModTime: g.mtime,
		Origin: generatedOrigin(effect, note),
	})
}

func (g generator) symlink(p, target, effect, note string) {
	g.set(&filetree.Entry{
		Path: p, Type: tar.TypeSymlink, Mode: 0o777, ModTime: g.mtime, Link: target,
		Origin: generatedOrigin(effect, note),
	})
}

// generatedOrigin names the effect; the digest is filled in when the build's
// record, which every generated file is traced to, is known.
func generatedOrigin(effect, note string) filetree.Origin {
	return filetree.Origin{Kind: filetree.FromGenerated, Name: effect, Note: note}
}

// mergedFolders are the top-level folders that Debian merges into /usr.
var mergedFolders = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// usrMergeLinks adds the links of a merged /usr that no package brought.
func usrMergeLinks(g generator) {
	for _, d := range mergedFolders {
		if g.tree.Get(d) == nil && hasFolder(g.tree, "usr/"+d) {
			g.symlink(d, "usr/"+d, "base", "merged /usr")
		}
	}
}

func hasFolder(t *filetree.Tree, p string) bool {
	e := t.Get(p)
	return e != nil && e.IsDir()
}

// productionEffects completes a production tree.
func productionEffects(t *filetree.Tree, s *project.Spec, p oci.Platform, alts []alternative, all binaries, mtime int64) error {
	var clashes []error
	g := generator{t, mtime, &clashes}
	usrMergeLinks(g)
	for _, d := range []struct {
		path string
		mode int64
	}{{"dev", 0o755}, {"etc", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755}, {"tmp", 0o1777}, {"var", 0o755}, {"var/tmp", 0o1777}} {
		if t.Get(d.path) == nil {
			g.dir(d.path, d.mode, 0, 0, "base", "folder that runtimes mount over or programs expect")
		}
	}
	if t.Get("var/run") == nil {
		g.symlink("var/run", "/run", "base", "compatibility link, as base-files makes it")
	}
	users(g, s)
	if t.Get("etc/nsswitch.conf") == nil {
		g.file("etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"), "nsswitch", "name look-ups by files and DNS")
	}
	if err := certificates(g); err != nil {
		return err
	}
	if t.Resolve("usr/share/zoneinfo/Etc/UTC") != nil && t.Get("etc/localtime") == nil {
		g.symlink("etc/localtime", "/usr/share/zoneinfo/Etc/UTC", "timezone", "production runs in UTC")
		g.file("etc/timezone", 0o644, []byte("Etc/UTC\n"), "timezone", "production runs in UTC")
	}
	for _, a := range chooseAlternatives(t, alts) {
		note := "alternative " + a.name + " of package " + a.pkg
		g.symlink("etc/alternatives/"+a.name, a.path, "alternatives", note)
		link := usrMerged(strings.TrimPrefix(a.link, "/"))
		if t.Get(link) == nil {
			g.symlink(link, "/etc/alternatives/"+a.name, "alternatives", note)
		}
	}
	if libs := cacheLibraries(t, p, all); len(libs) > 0 {
		g.file("etc/ld.so.cache", 0o644, ldCache(libs, p), "library cache", "libraries in the folders of ld.so.conf.d, which the linker finds only through it")
	}
	if w := strings.TrimPrefix(s.Workdir, "/"); w != "" && t.Resolve(w) == nil {
		at, err := landing(t, w)
		if err != nil {
			return fmt.Errorf("production.workdir: %s: %w", s.Workdir, err)
		}
		// On a read-only root no runtime can make it.
		g.dir(at, 0o755, 0, 0, "workdir", "the working directory")
	}
	for _, w := range s.Writable {
		at, err := landing(t, strings.TrimPrefix(w, "/"))
		if err != nil {
			return fmt.Errorf("production.writable: %s: %w", w, err)
		}
		if e := t.Get(at); e != nil && !e.IsDir() {
			return fmt.Errorf("production.writable: %s is not a folder in the image (%s): name a folder", w, originName(e))
		}
		mode, uid, gid := int64(0o755), s.User.ID, s.User.GID
		if at == "tmp" || at == "var/tmp" {
			mode, uid, gid = 0o1777, 0, 0
		}
		g.dir(at, mode, uid, gid, "writable", "declared writable path: mount a volume or tmpfs here")
	}
	return errors.Join(clashes...)
}

// landing is where a path really lies in the tree: links of the image that it
// leads through are followed, what is not there is taken as a folder to be made.
func landing(t *filetree.Tree, p string) (string, error) {
	at := ""
	rest := strings.Split(p, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at = path.Dir(at); at == "." {
				at = ""
			}
			continue
		}
		next := path.Join(at, part)
		e := t.Get(next)
		if e == nil || !e.IsLink() {
			if e != nil && !e.IsDir() && len(rest) > 0 {
				return "", fmt.Errorf("/%s (%s) is no folder", next, originName(e))
			}
			at = next
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("/%s (%s) is a link that leads in a circle", next, originName(e))
		}
		if strings.HasPrefix(e.Link, "/") {
			at = ""
		}
		rest = append(strings.Split(e.Link, "/"), rest...)
	}
	if at == "" {
		return "", errors.New("is the root itself")
	}
	return at, nil
}

// usrMerged rewrites a path that begins with a merged folder.
func usrMerged(p string) string {
	first, _, _ := strings.Cut(p, "/")
	for _, d := range mergedFolders {
		if first == d && p != d {
			return "usr/" + p
		}
	}
	return p
}

// users writes the accounts that the image needs and no others: root, so that
// id 0 has a name, the project's user, and nobody.
func users(g generator, s *project.Spec) {
	type line struct {
		id   int
		text string
	}
	passwd := []line{{0, "root:x:0:0:root:/root:/usr/sbin/nologin\n"}}
	group := []line{{0, "root:x:0:\n"}}
	u := s.User
	// Unless the project gives the names to others.
	if u.Name != "nobody" || u.ID == 65534 {
		passwd = append(passwd, line{65534, "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"})
	}
	if u.Group != "nogroup" || u.GID == 65534 {
		group = append(group, line{65534, "nogroup:x:65534:\n"})
	}
	if u.ID != 0 && u.ID != 65534 {
		passwd = append(passwd, line{u.ID, fmt.Sprintf("%s:x:%d:%d::/nonexistent:/usr/sbin/nologin\n", u.Name, u.ID, u.GID)})
	}
	if u.GID != 0 && u.GID != 65534 {
		name := u.Group
		if name == "" {
			name = u.Name
		}
		group = append(group, line{u.GID, fmt.Sprintf("%s:x:%d:\n", name, u.GID)})
	}
	for _, id := range u.Groups {
		if id != 0 && id != 65534 && id != u.GID {
			group = append(group, line{id, fmt.Sprintf("group%d:x:%d:%s\n", id, id, u.Name)})
		}
	}
	join := func(lines []line) []byte {
		sort.SliceStable(lines, func(i, j int) bool { return lines[i].id < lines[j].id })
		var b bytes.Buffer
		for _, l := range lines {
			b.WriteString(l.text)
		}
		return b.Bytes()
	}
	g.file("etc/passwd", 0o644, join(passwd), "users", "production.user "+strconv.Itoa(u.ID))
	g.file("etc/group", 0o644, join(group), "users", "production.user "+strconv.Itoa(u.ID))
}

// certificates concatenates the certificates of package ca-certificates, and
// those that the project puts beside them in /usr/local, in byte order of their
// names as update-ca-certificates does, into the bundle that every TLS library
// of Debian looks for.
func certificates(g generator) error {
	var bundle bytes.Buffer
	for _, from := range []string{"usr/share/ca-certificates/mozilla/", "usr/local/share/ca-certificates/"} {
		for _, e := range g.tree.Sorted() {
			if !e.IsReg() || !strings.HasPrefix(e.Path, from) || !strings.HasSuffix(e.Path, ".crt") {
				continue
			}
			rc, err := e.Open()
			if err != nil {
				return err
			}
			b, err := io.ReadAll(io.LimitReader(rc, 1<<20))
			rc.Close()
			if err != nil {
				return fmt.Errorf("certificate /%s: %w", e.Path, err)
			}
			if !bytes.Contains(b, []byte("-----BEGIN CERTIFICATE-----")) {
				return fmt.Errorf("certificate /%s (%s) is not PEM: convert it, or leave it out", e.Path, originName(e))
			}
			bundle.Write(bytes.TrimRight(b, "\n"))
			bundle.WriteByte('\n')
		}
	}
	if bundle.Len() == 0 {
		return nil
	}
	g.file("etc/ssl/certs/ca-certificates.crt", 0o644, bundle.Bytes(), "certificates", "all certificates of package ca-certificates")
	// OpenSSL's compiled-in default is /usr/lib/ssl/cert.pem; package openssl,
	// which is a tool and left out, would have brought the link.
	for _, l := range [][2]string{{"usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"}, {"usr/lib/ssl/certs", "/etc/ssl/certs"}} {
		if g.tree.Get(l[0]) == nil {
			g.symlink(l[0], l[1], "certificates", "OpenSSL's default place")
		}
	}
	return nil
}

// addParents gives every path the folders that lead to it.
func addParents(t *filetree.Tree, mtime int64) error {
	g := generator{tree: t, mtime: mtime}
	for _, e := range t.Sorted() {
		for d := path.Dir(e.Path); d != "."; d = path.Dir(d) {
			parent := t.Get(d)
			if parent == nil {
				g.dir(d, 0o755, 0, 0, "folders", "leads to declared files")
				continue
			}
			if !parent.IsDir() {
				return fmt.Errorf("/%s (%s) lies below /%s, which is not a folder (%s)", e.Path, originName(e), d, originName(parent))
			}
			break
		}
	}
	return nil
}

// dropEmpty removes package folders that nothing is left in, from the deepest
// up, so that what was left out leaves no trace.
func dropEmpty(t *filetree.Tree, keep func(*filetree.Entry) bool) {
	used := map[string]bool{}
	all := t.Sorted()
	for i := len(all) - 1; i >= 0; i-- {
		e := all[i]
		if e.IsDir() && !used[e.Path] && !keep(e) {
			t.Delete(e.Path)
			continue
		}
		used[path.Dir(e.Path)] = true
	}
}
