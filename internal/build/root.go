package build

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/sandbox"
	"twinhull.dev/twinhull/internal/source/debfile"
)

// A root is a development file tree on disk: packages laid out and then
// configured by the real dpkg in the sandbox. Steps run over it and the
// development image is made from it. Its key is known before it is made, so
// that a build with nothing to do never opens a package.
type root struct {
	key    Key
	name   string // "development" or "tools", for people
	plat   oci.Platform
	pkgs   []project.Package // in the lock's order
	tools  []project.Tool
	base   *root // a root whose shipped files this one lies on top of, or nil
	lowers []string

	// Set by realise.
	unpacked []unpacked
	shipped  *filetree.Tree // what packages, tools and Twinhull put there before configuration
	changed  []upperEntry   // what configuration changed
}

// rootVersion is part of every root's key: raise it when the code below makes
// other bytes from the same packages.
const rootVersion = 2

type rootDescription struct {
	Packages []oci.Digest `json:"packages"`
	Tools    []oci.Digest `json:"tools"`
	AsOf     int64        `json:"asOf"`
	Base     Key          `json:"base,omitempty"`
}

// describeRoot names a root. lowers are its overlay folders, topmost first:
// what configuration changed, then what packages ship.
func (b *Builder) describeRoot(name string, plat oci.Platform, pkgs []project.Package, tools []project.Tool, base *root) *root {
	d := rootDescription{AsOf: b.mtime()}
	for _, p := range pkgs {
		d.Packages = append(d.Packages, p.SHA256)
	}
	for _, t := range tools {
		d.Tools = append(d.Tools, t.Digest)
	}
	if base != nil {
		d.Base = base.key
	}
	r := &root{key: keyOf("root", rootVersion, d), name: name, plat: plat, pkgs: pkgs, tools: tools, base: base}
	dir := b.cache.folderPath("roots", r.key)
	r.lowers = []string{filepath.Join(dir, "upper"), b.cache.folderPath("trees", r.key)}
	if base != nil {
		r.lowers = append(r.lowers, base.lowers[len(base.lowers)-1])
	}
	return r
}

// upperEntry is a path that configuration made, changed or deleted.
type upperEntry struct {
	filetree.Entry
	Deleted bool `json:"deleted,omitempty"` // the path, with all below it, is gone
	Opaque  bool `json:"opaque,omitempty"`  // a folder that hides what packages ship in it
}

// layOut computes what packages and tools ship, before configuration.
func (b *Builder) layOut(ctx context.Context, r *root) error {
	if r.shipped != nil {
		return nil
	}
	if r.base != nil {
		if err := b.layOut(ctx, r.base); err != nil {
			return err
		}
	}
	var err error
	if r.unpacked, err = b.open(ctx, r.pkgs); err != nil {
		return err
	}
	tree, err := mergePackages(r.unpacked)
	if err != nil {
		return err
	}
	for _, t := range r.tools {
		entries, err := b.toolEntries(ctx, t)
		if err != nil {
			return err
		}
		for _, e := range entries {
			tree.Set(e)
		}
	}
	g := generator{tree: tree, mtime: b.mtime()}
	usrMergeLinks(g)
	for _, d := range []struct {
		path string
		mode int64
	}{{"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755}, {"tmp", 0o1777}, {"root", 0o700}, {"usr/local/bin", 0o755}} {
		if tree.Get(d.path) == nil {
			g.dir(d.path, d.mode, 0, 0, "base", "folder that every system has")
		}
	}
	if tree.Get("usr/bin/sh") == nil && tree.Get("usr/bin/dash") != nil {
		g.symlink("usr/bin/sh", "dash", "base", "the shell that maintainer scripts run under")
	}
	database := debfile.Database(debs(r.unpacked), "install ok unpacked")
	for i := range database {
		e := &database[i]
		e.ModTime = b.mtime()
		if e.IsDir() && tree.Get(e.Path) != nil {
			continue
		}
		tree.Set(e)
	}
	if err := addParents(tree, b.mtime()); err != nil {
		return err
	}
	r.shipped = tree
	return nil
}

// realise makes the root on disk, or finds it.
func (b *Builder) realise(ctx context.Context, r *root) error {
	if r.changed != nil {
		return nil
	}
	var record rootRecord
	use := func(dir string) {
		for i := range record.Changed {
			if e := &record.Changed[i]; e.Content.File != "" {
				e.Content.File = filepath.Join(dir, "upper", e.Path)
			}
		}
		r.changed = append([]upperEntry{}, record.Changed...)
	}
	if dir, ok := b.haveRoot(r, &record); ok {
		use(dir)
		return nil
	}
	unlock, err := b.cache.lock(ctx, "roots", r.key, func() { b.progress.Printf("waiting for another build that makes the same tree") })
	if err != nil {
		return err
	}
	defer unlock()
	if dir, ok := b.haveRoot(r, &record); ok {
		use(dir)
		return nil
	}
	for _, t := range []*root{r.base, r} {
		if t != nil {
			if err := b.lay(ctx, t); err != nil {
				return err
			}
		}
	}
	if err := b.layOut(ctx, r); err != nil {
		return err
	}
	tmp, done, err := b.cache.scratch("root")
	if err != nil {
		return err
	}
	defer done()
	if err := makeFolders(tmp, "upper"); err != nil {
		return err
	}
	b.workAhead(r)
	t := b.progress.Task(fmt.Sprintf("configuring %d packages (%s)", len(r.pkgs), r.name), 0)
	err = b.configure(ctx, r.name, r.lowers[1:], filepath.Join(tmp, "upper"), r.shipped, r.unpacked)
	t.Done(err)
	if err != nil {
		return err
	}
	if record.Changed, err = b.readUpper(ctx, filepath.Join(tmp, "upper")); err != nil {
		return fmt.Errorf("reading what the packages of %s configured: %w", r.name, err)
	}
	if err := b.cache.keepFolder("roots", r.key, tmp, record); err != nil {
		return err
	}
	use(b.cache.folderPath("roots", r.key))
	return nil
}

// haveRoot tells whether a root is kept, with all folders that it lies on.
func (b *Builder) haveRoot(r *root, record *rootRecord) (string, bool) {
	for _, t := range []*root{r.base, r} {
		if t != nil {
			if _, ok := b.cache.folder("trees", t.key, nil); !ok {
				return "", false
			}
		}
	}
	return b.cache.folder("roots", r.key, record)
}

// lay writes what packages and tools ship to disk, not configured: the lower
// folder of a root, and of roots that lie on it.
func (b *Builder) lay(ctx context.Context, r *root) error {
	if _, ok := b.cache.folder("trees", r.key, nil); ok {
		return nil
	}
	unlock, err := b.cache.lock(ctx, "trees", r.key, func() { b.progress.Printf("waiting for another build that lays out the same tree") })
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := b.cache.folder("trees", r.key, nil); ok {
		return nil
	}
	if err := b.layOut(ctx, r); err != nil {
		return err
	}
	tmp, done, err := b.cache.scratch("tree")
	if err != nil {
		return err
	}
	defer done()
	t := b.progress.Task(fmt.Sprintf("laying out %d packages (%s)", len(r.pkgs), r.name), 0)
	err = materialise(ctx, tmp, below(r.shipped, r.base))
	t.Done(err)
	if err != nil {
		return fmt.Errorf("laying out the packages of %s: %w", r.name, err)
	}
	return b.cache.keepFolder("trees", r.key, tmp, nil)
}

// rootRecord is what is kept beside a root's folder.
type rootRecord struct{ Changed []upperEntry }

// below lists the entries that the base's folder does not already hold
// identically, with the folders that lead to them.
func below(t *filetree.Tree, base *root) []*filetree.Entry {
	all := t.Sorted()
	if base == nil {
		return all
	}
	need := map[string]bool{}
	for _, e := range all {
		old := base.shipped.Get(e.Path)
		if e.IsDir() && old != nil && old.IsDir() {
			continue
		}
		if old != nil && sameOnDisk(old, e) {
			continue
		}
		need[e.Path] = true
		if e.Type == tar.TypeLink {
			need[e.Link] = true // a hard link needs its target in the same folder
		}
		for d := path.Dir(e.Path); d != "." && !need[d]; d = path.Dir(d) {
			need[d] = true
		}
	}
	var out []*filetree.Entry
	for _, e := range all {
		if need[e.Path] {
			out = append(out, e)
		}
	}
	return out
}

func sameOnDisk(a, b *filetree.Entry) bool {
	return a.Type == b.Type && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.ModTime == b.ModTime &&
		a.Size == b.Size && a.Digest == b.Digest && a.Link == b.Link
}

// fixedEnvironment is what every sandboxed command sees, whatever machine it
// runs on.
func (b *Builder) fixedEnvironment(home string) []string {
	return []string{
		"HOME=" + home,
		"LANG=C.UTF-8",
		"LC_ALL=C.UTF-8",
		"LOGNAME=root",
		"PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(b.mtime(), 10),
		"TERM=dumb",
		"TZ=UTC",
		"USER=root",
	}
}

// configure runs the preinst scripts and then the real dpkg over the tree.
func (b *Builder) configure(ctx context.Context, name string, lowers []string, upper string, shipped *filetree.Tree, pkgs []unpacked) error {
	var script bytes.Buffer
	script.WriteString("set -e\n")
	// The order in which debootstrap brings up a system: accounts, folders,
	// the C library, and then whatever dpkg's own ordering says.
	for _, first := range []string{"base-passwd", "base-files", "libc6"} {
		for _, p := range pkgs {
			if p.lock.Name == first {
				fmt.Fprintf(&script, "dpkg --force-depends --force-unsafe-io --configure %s\n", p.deb.InfoName())
			}
		}
	}
	script.WriteString("dpkg --force-unsafe-io --force-confdef --force-confold --configure -a\n")
	policy := filepath.Join(upper, "usr/sbin/policy-rc.d")
	if err := makeFolders(upper, "usr/sbin"); err != nil {
		return err
	}
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(policy, 0o755); err != nil {
		return err
	}
	env := append(b.fixedEnvironment("/root"), "DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true", "DPKG_FRONTEND_LOCKED=", "PYTHONHASHSEED=0")
	log, err := b.openLog("configure-" + name)
	if err != nil {
		return err
	}
	defer log.Close()
	run := func(what, script string) error {
		res, err := sandbox.Run(ctx, sandbox.Spec{
			Lower: lowers, Upper: upper, FakeOwners: true, NoSync: true,
			Args: []string{"/bin/sh", "-c", script}, Env: env, Dir: "/",
			Mounts:  []sandbox.Mount{{Target: "/tmp", Tmpfs: true, Mode: 0o1777}, {Target: "/run", Tmpfs: true, Mode: 0o755}},
			Stdout:  log,
			Stderr:  log,
			Timeout: 30 * time.Minute,
		})
		if err != nil {
			return err
		}
		if !res.Success() {
			return log.failure(what+" the packages of "+name, res)
		}
		return nil
	}
	if err := run("preparing", preinstScript(pkgs)); err != nil {
		return err
	}
	if err := unpackOver(ctx, upper, shipped); err != nil {
		return err
	}
	if err := run("configuring", script.String()); err != nil {
		return err
	}
	// A script may have moved its folder; what is then left is none of ours.
	if _, err := realFolder(upper, "usr/sbin"); err != nil {
		return nil
	}
	if err := os.Remove(policy); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// noise is what configuration leaves that serves the machine it ran on, or
// records when it ran. Each is a source of difference between two builds.
func noise(p string, dir bool) bool {
	switch p {
	case "var/cache/ldconfig/aux-cache", "etc/machine-id", "etc/.pwd.lock", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
		"var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend", "var/lib/dpkg/triggers/Lock", "var/lib/dpkg/status-old", "var/lib/dpkg/diversions-old", "var/lib/dpkg/statoverride-old",
		"var/lib/dpkg/available-old", "var/cache/debconf/config.dat-old", "var/cache/debconf/templates.dat-old", "var/cache/debconf/passwords.dat-old", "etc/ld.so.cache~", "root/.bash_history", "root/.viminfo",
		"etc/resolv.conf", "etc/hostname", "etc/hosts", "etc/mtab", "usr/sbin/policy-rc.d", "var/lib/systemd/catalog/database", "var/lib/systemd/random-seed":
		return true
	}
	for _, d := range []string{"tmp", "run", "dev", "proc", "sys", "var/tmp"} {
		if strings.HasPrefix(p, d+"/") {
			return true
		}
	}
	for _, d := range []string{"var/log", "var/cache/apt", "var/lib/apt/lists", "root/.cache", "var/lib/dpkg/updates", "var/cache/man"} {
		if !dir && strings.HasPrefix(p, d+"/") {
			return true
		}
	}
	return false
}

// readUpper reads what configuration changed, as it would be seen by root in
// an image: recorded owners, times no later than the lock's date.
func (b *Builder) readUpper(ctx context.Context, dir string) ([]upperEntry, error) {
	var out []upperEntry
	type ino struct{ dev, ino uint64 }
	first := map[ino]string{}
	err := sandbox.Scan(ctx, dir, func(s sandbox.Entry) error {
		if noise(s.Path, s.Type == tar.TypeDir) {
			return nil
		}
		e := upperEntry{Deleted: s.Whiteout, Opaque: s.Opaque}
		e.Entry = filetree.Entry{
			Path: s.Path, Type: s.Type, Mode: s.Mode, UID: s.UID, GID: s.GID, Link: s.Link, Xattrs: s.Xattrs,
			ModTime: min(s.ModTime, b.mtime()), Origin: generatedOrigin("configure", "made or changed by the packages' own scripts"),
		}
		if s.Path == "etc/shadow" || s.Path == "etc/gshadow" {
			// The shadow tools write a new file and give it the owner that
			// stat reported, which the sandbox does not fake. Debian's is
			// root:shadow, whose id is the same on every system.
			e.UID, e.GID = 0, shadowGroup
		}
		switch s.Type {
		case tar.TypeReg:
			if s.Links > 1 {
				id := ino{s.Dev, s.Inode}
				if to, ok := first[id]; ok {
					e.Type, e.Link = tar.TypeLink, to
					break
				}
				first[id] = s.Path
			}
			f, err := s.Open()
			if err != nil {
				return err
			}
			defer f.Close()
			if data, changed, err := normalise(s.Path, f, b.lock.AsOf); err != nil {
				return err
			} else if changed {
				e.Size, e.Digest, e.Content.Data = int64(len(data)), digest.FromBytes(data), data
				break
			}
			if s.Mode&0o400 == 0 && s.Size <= maxHeld {
				// Its owner may not read it, and whoever builds need not be
				// root: the bytes are taken now.
				data, err := io.ReadAll(f)
				if err != nil {
					return err
				}
				e.Size, e.Digest, e.Content.Data = int64(len(data)), digest.FromBytes(data), data
				break
			}
			if e.Digest, e.Size, err = hashOf(f); err != nil {
				return fmt.Errorf("/%s: %w", s.Path, err)
			}
			e.Content.File = filepath.Join(dir, s.Path)
		case tar.TypeDir, tar.TypeSymlink:
		default:
			if !e.Deleted {
				return nil // sockets and pipes of scripts: nothing in an image
			}
		}
		out = append(out, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

// shadowGroup is Debian's group shadow (base-passwd, a static id).
const shadowGroup = 42

// normalise rewrites files in which configuration records the day it ran.
func normalise(p string, f io.Reader, asOf time.Time) ([]byte, bool, error) {
	if p != "etc/shadow" {
		return nil, false, nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxHeld))
	if err != nil {
		return nil, false, err
	}
	day := strconv.FormatInt(asOf.Unix()/86400, 10)
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		f := strings.Split(line, ":")
		if len(f) > 2 && f[2] != "" {
			f[2] = day
		}
		out.WriteString(strings.Join(f, ":"))
	}
	return []byte(out.String()), true, nil
}

// maxHeld bounds a file of a configured tree that is held in memory.
const maxHeld = 1 << 20

func hashOf(r io.Reader) (oci.Digest, int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return "", 0, err
	}
	return digest.NewDigest(digest.SHA256, h), n, nil
}

// applyUpper changes a tree as an overlay's upper folder does: what was deleted
// or replaced there is gone, with all that was below it, and what was made is
// there. merge, when not nil, decides about an entry that t holds already.
func applyUpper(t *filetree.Tree, changed []upperEntry, merge func(old *filetree.Entry, u *upperEntry) bool) {
	gone, opaque, made := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i := range changed {
		u := &changed[i]
		made[u.Path] = !u.Deleted
		gone[u.Path] = u.Deleted || !u.IsDir()
		opaque[u.Path] = u.Opaque
	}
	for _, e := range t.Sorted() {
		hidden := gone[e.Path]
		for d := path.Dir(e.Path); d != "." && !hidden; d = path.Dir(d) {
			hidden = gone[d] || opaque[d]
		}
		if hidden && !made[e.Path] { // what was made anew is merged below
			t.Delete(e.Path)
		}
	}
	for i := range changed {
		u := &changed[i]
		if u.Deleted {
			continue
		}
		if old := t.Get(u.Path); old != nil && merge != nil && !merge(old, u) {
			continue
		}
		t.Set(&u.Entry)
	}
}

// tree is the root as an image holds it: what packages ship, with what
// configuration changed applied.
func (r *root) tree() *filetree.Tree {
	t := filetree.NewTree()
	for _, e := range r.shipped.Sorted() {
		t.Set(e)
	}
	applyUpper(t, r.changed, func(old *filetree.Entry, u *upperEntry) bool {
		// Configuration changed what is inside a folder: it keeps its place
		// among the shipped ones unless its own metadata changed.
		return !(u.IsDir() && old.IsDir() && old.Mode == u.Mode && old.UID == u.UID && old.GID == u.GID)
	})
	// A hard link of a package whose first name was replaced points at other
	// bytes in a layer than it did on disk; make it a file of its own.
	for _, e := range t.Sorted() {
		if e.Type != tar.TypeLink {
			continue
		}
		if s := r.shipped.Get(e.Link); s != nil && t.Get(e.Link) != s && s.IsReg() {
			c := *s
			c.Path, c.Type, c.Link, c.Origin = e.Path, tar.TypeReg, "", e.Origin
			t.Set(&c)
		}
	}
	for _, e := range t.Sorted() {
		if noise(e.Path, e.IsDir()) {
			t.Delete(e.Path)
		}
	}
	return t
}
