package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/debfile"
	"twinhull.dev/twinhull/internal/source/vault"
)

// productionVersion is part of every production image's key: raise it when the
// composition below, the effects or the trimming change what is in an image.
const productionVersion = 2

// composed is a file tree with what is worth saying about it.
type composed struct {
	tree    *filetree.Tree
	notes   []string
	left    map[string]*LeftOut // by reason
	touched map[string]bool     // folders that something was left out of
}

func newComposed() *composed {
	return &composed{left: map[string]*LeftOut{}, touched: map[string]bool{}}
}

// leaveOut counts a path that is not in the image, and why.
func (c *composed) leaveOut(reason string, e *filetree.Entry) {
	for d := e.Path; d != "."; d = path.Dir(d) {
		c.touched[d] = true
	}
	if e.IsDir() {
		return
	}
	l := c.left[reason]
	if l == nil {
		l = &LeftOut{Reason: reason}
		c.left[reason] = l
	}
	l.Files++
	l.Bytes += e.Size
}

// leftOut is what was left out, in byte order of the reasons.
func (c *composed) leftOut() []LeftOut {
	var out []LeftOut
	for _, reason := range sortedKeys(c.left) {
		out = append(out, *c.left[reason])
	}
	return out
}

// packageTree lays out the packages of a production closure: unpacked only,
// trimmed, without set-id bits and without scripts that nothing could run.
func (b *Builder) packageTree(pkgs []unpacked, trim trimmer) (*composed, error) {
	c := newComposed()
	kept := make([]unpacked, len(pkgs))
	for i, p := range pkgs {
		kept[i] = unpacked{lock: p.lock, deb: p.deb}
		for _, e := range p.entries {
			if reason := trim.reason(&e); reason != "" {
				c.leaveOut(reason, &e)
				continue
			}
			if e.Mode&0o6000 != 0 && !e.IsDir() {
				e.Mode &^= 0o6000
				c.notes = append(c.notes, fmt.Sprintf("set-id bits of /%s (%s) are cleared", e.Path, p.lock.Name))
			}
			e.ModTime = min(e.ModTime, b.mtime())
			kept[i].entries = append(kept[i].entries, e)
		}
	}
	var err error
	if c.tree, err = mergePackages(kept); err != nil {
		return nil, err
	}
	wholeLinks(c.tree, pkgs)
	if err := dropScripts(c, trim); err != nil {
		return nil, err
	}
	// Links between folders of documentation, whose target is not there.
	for _, e := range c.tree.Sorted() {
		if e.IsLink() && path.Dir(e.Path) == "usr/share/doc" && c.tree.Resolve(e.Path) == nil {
			c.tree.Delete(e.Path)
			c.leaveOut(reasonDocs, e)
		}
	}
	// Folders that packages ship empty on purpose stay, as long as they are
	// not the remains of something left out.
	dropEmpty(c.tree, func(e *filetree.Entry) bool {
		if c.touched[e.Path] {
			return false
		}
		return e.Path != "usr/share/doc" && !strings.HasPrefix(e.Path, "usr/share/doc/")
	})
	return c, nil
}

// wholeLinks makes hard links whose first name was left out into the file
// itself: the first of them, in byte order, and links to it.
func wholeLinks(t *filetree.Tree, pkgs []unpacked) {
	for i := range pkgs {
		var first map[string]*filetree.Entry // by path, of this package; made when needed
		moved := map[string]string{}         // first name → its new name
		for _, e := range sortedEntries(pkgs[i].entries) {
			l := t.Get(e.Path)
			if e.Type != tar.TypeLink || l == nil || l.Type != tar.TypeLink || l.Origin.Name != e.Origin.Name || t.Get(l.Link) != nil {
				continue
			}
			c := *l
			if to, ok := moved[l.Link]; ok {
				c.Link = to
				t.Set(&c)
				continue
			}
			if first == nil {
				first = map[string]*filetree.Entry{}
				for j := range pkgs[i].entries {
					first[pkgs[i].entries[j].Path] = &pkgs[i].entries[j]
				}
			}
			if was := first[l.Link]; was != nil && was.IsReg() {
				moved[l.Link] = e.Path
				c.Type, c.Link, c.Size, c.Digest, c.Content, c.Mode = was.Type, "", was.Size, was.Digest, was.Content, was.Mode&^0o6000
				t.Set(&c)
			}
		}
	}
}

func sortedEntries(entries []filetree.Entry) []*filetree.Entry {
	out := make([]*filetree.Entry, len(entries))
	for i := range entries {
		out[i] = &entries[i]
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}

// programFolders are where files are for running and nothing else.
var programFolders = []string{"usr/bin", "usr/sbin", "usr/libexec", "usr/games", "usr/local/bin", "usr/local/sbin", "etc"}

// scriptOnly are interpreters whose scripts nothing loads in another way, as
// Python does with executable modules.
var scriptOnly = map[string]bool{"sh": true, "bash": true, "dash": true, "ksh": true, "zsh": true, "csh": true, "tcsh": true, "perl": true, "awk": true, "gawk": true, "mawk": true, "sed": true, "make": true, "tclsh": true, "wish": true, "debconf": true}

// dropScripts removes programs of packages whose interpreter is not in the
// tree: nothing could run them, and they only tell an attacker what to bring.
func dropScripts(c *composed, trim trimmer) error {
	t := c.tree
	interpreters := map[string]string{} // by path of the script
	for _, e := range t.Sorted() {
		if !e.IsReg() || e.Mode&0o111 == 0 || e.Size < 3 || trim.kept(e.Path, false) {
			continue
		}
		interp, err := interpreterOf(e)
		if err != nil {
			return err
		}
		if interp != "" && (inAny(e.Path, programFolders) || scriptOnly[path.Base(interp)]) {
			interpreters[e.Path] = interp
		}
	}
	// A script may run under another script: again until nothing goes.
	gone := map[string]bool{}
	for again := true; again; {
		again = false
		for _, p := range sortedKeys(interpreters) {
			if !gone[p] && !runs(t, interpreters[p]) {
				gone[p] = true
				c.leaveOut(reasonScripts, t.Get(p))
				t.Delete(p)
				again = true
			}
		}
		if !again {
			break
		}
		// Further names of what was left out, and links that led to it.
		for _, e := range t.Sorted() {
			hard := e.Type == tar.TypeLink && gone[e.Link]
			if hard || e.IsLink() && inAny(e.Path, programFolders) && leadsTo(t, e, gone) {
				gone[e.Path] = true
				c.leaveOut(reasonScripts, e)
				t.Delete(e.Path)
			}
		}
	}
	return nil
}

// leadsTo tells whether a link leads to one of the paths, through any number of
// others.
func leadsTo(t *filetree.Tree, e *filetree.Entry, paths map[string]bool) bool {
	for range 40 {
		to := e.Link
		if !strings.HasPrefix(to, "/") {
			to = path.Join(path.Dir(e.Path), to)
		}
		to = usrMerged(strings.TrimPrefix(path.Clean("/"+to), "/"))
		if paths[to] {
			return true
		}
		if e = t.Get(to); e == nil || !e.IsLink() {
			return false
		}
	}
	return false
}

// runs tells whether an interpreter, a path or a name to be looked for along
// PATH, is in the tree.
func runs(t *filetree.Tree, interp string) bool {
	if strings.HasPrefix(interp, "/") {
		e := t.Resolve(interp)
		return e != nil && e.IsReg()
	}
	for _, d := range []string{"usr/local/bin", "usr/bin", "usr/sbin"} {
		if e := t.Resolve(d + "/" + interp); e != nil && e.IsReg() {
			return true
		}
	}
	return false
}

// interpreterOf is the interpreter that a script's first line names, "" for
// what is no script.
func interpreterOf(e *filetree.Entry) (string, error) {
	rc, err := e.Open()
	if err != nil {
		return "", err
	}
	defer rc.Close()
	head := make([]byte, min(e.Size, 256))
	if _, err = io.ReadFull(rc, head); err != nil {
		return "", fmt.Errorf("/%s (%s): %w", e.Path, originName(e), err)
	}
	return scriptInterpreter(head), nil
}

func inAny(p string, dirs []string) bool {
	for _, d := range dirs {
		if strings.HasPrefix(p, d+"/") {
			return true
		}
	}
	return false
}

// dropSpare removes what only serves files that the image does not hold:
// libraries that nothing is linked with, and character set converters when
// nothing converts character sets.
func dropSpare(c *composed, trim trimmer, all binaries) {
	needed := map[string]bool{}
	iconv := false
	for p, f := range all {
		for _, n := range f.Needed {
			if l, ok := spare("usr/lib/" + n); ok {
				if own, _ := spare(p); own != l {
					needed[l] = true
				}
			}
		}
		iconv = iconv || f.iconv && !ownCharset(f.SONAME)
	}
	for _, e := range c.tree.Sorted() {
		if e.Origin.Kind != filetree.FromPackage || trim.kept(e.Path, e.IsDir()) {
			continue
		}
		reason := ""
		if l, ok := spare(e.Path); ok && !needed[l] {
			reason = reasonSpare
		}
		if !iconv && matchBelow("usr/lib/*/gconv", e.Path) {
			reason = reasonConverters
		}
		if reason != "" {
			c.tree.Delete(e.Path)
			c.leaveOut(reason, e)
			delete(all, e.Path)
		}
	}
}

// alternativesOf reads the packages' scripts: the alternatives that they set
// up, and a note for each package whose script does what no effect covers.
func alternativesOf(pkgs []unpacked) (alts []alternative, notes []string) {
	for _, p := range pkgs {
		var acts []string
		for _, m := range []struct{ name, action string }{{"preinst", "install"}, {"postinst", "configure"}} {
			script := p.deb.Member(m.name)
			if script == nil {
				continue
			}
			a, more := readScript(script, m.action)
			for i := range a {
				a[i].pkg = p.lock.Name
			}
			alts = append(alts, a...)
			acts = append(acts, more...)
		}
		if acts = unhandled(p.lock.Name, acts, p.filesIn); len(acts) == 0 {
			continue
		}
		const most = 3
		what := strings.Join(acts[:min(most, len(acts))], "; ")
		if n := len(acts) - most; n > 0 {
			what += fmt.Sprintf("; and %d more", n)
		}
		notes = append(notes, fmt.Sprintf("package %s: its installation script, which does not run in production, %s. See that the image works without it; production.user, production.writable and production.files can stand in", p.lock.Name, what))
	}
	return alts, notes
}

// filesIn returns the bytes of the small files that a package ships directly
// in a folder.
func (p unpacked) filesIn(dir string) [][]byte {
	var out [][]byte
	for i := range p.entries {
		e := &p.entries[i]
		if path.Dir(e.Path) != dir || !e.IsReg() || e.Size > 1<<16 {
			continue
		}
		if b, err := readEntry(e); err == nil {
			out = append(out, b)
		}
	}
	return out
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// ownCharset tells of libraries that name iconv_open and do not ask for foreign
// character sets: libc defines it; libstdc++ has an extension that programs
// would have to instantiate; the others convert from the locale's character
// set, which is UTF-8 or ASCII in an image without locales.
func ownCharset(soname string) bool {
	for _, l := range []string{"libc.so", "libstdc++.so", "libunistring.so", "libidn2.so", "libpsl.so"} {
		if strings.HasPrefix(soname, l) {
			return true
		}
	}
	return false
}

// sharedTree is what a production image surely holds of its packages: what the
// layers that both images share are planned from.
func (b *Builder) sharedTree(pkgs []unpacked) (*composed, error) {
	trim, err := newTrimmer(b.file.Production.Keep)
	if err != nil {
		return nil, err
	}
	c, err := b.packageTree(pkgs, trim)
	if err != nil {
		return nil, err
	}
	all, err := readBinaries(c.tree, b.binaries)
	if err != nil {
		return nil, err
	}
	dropSpare(c, trim, all)
	return c, nil
}

// compose puts a production tree together from everything that may be in it.
func (b *Builder) compose(ctx context.Context, plat oci.Platform, pkgs []unpacked, modules []*filetree.Entry, steps []StepRecord) (*composed, error) {
	s := &b.file.Production
	trim, err := newTrimmer(s.Keep)
	if err != nil {
		return nil, err
	}
	c, err := b.packageTree(pkgs, trim)
	if err != nil {
		return nil, err
	}
	t := c.tree
	place := func(what string, entries []*filetree.Entry) error {
		for _, e := range entries {
			old := t.Get(e.Path)
			if old == nil {
				t.Set(e)
			} else if !old.IsDir() || !e.IsDir() {
				return fmt.Errorf("%s would put /%s (%s) over what is there already (%s): choose another place", what, e.Path, originName(e), originName(old))
			}
		}
		return nil
	}
	if modules, err = trim.trimModules(modules, c.leaveOut); err != nil {
		return nil, err
	}
	if err := place("production.dependencies", modules); err != nil {
		return nil, err
	}
	dropEmpty(t, func(e *filetree.Entry) bool { return e.Origin.Kind != filetree.FromModule || !c.touched[e.Path] })
	for _, name := range sortedKeys(s.Artifacts) {
		rec, output, err := findArtifact(steps, name, plat)
		if err != nil {
			return nil, fmt.Errorf("production.artifacts.%s: %w", name, err)
		}
		if err := place("production.artifacts."+name, b.artifactEntries(rec, output, s.Artifacts[name])); err != nil {
			return nil, err
		}
	}
	files, err := b.projectFiles(ctx, s.Files)
	if err != nil {
		return nil, fmt.Errorf("production.files: %w", err)
	}
	if err := place("production.files", files); err != nil {
		return nil, err
	}
	all, err := readBinaries(t, b.binaries)
	if err != nil {
		return nil, fmt.Errorf("the production image for %s would not run:\n%w", plat, err)
	}
	dropSpare(c, trim, all)
	for _, p := range s.Keep {
		if one, err := newTrimmer([]string{p}); err == nil && !strings.HasPrefix(p, "!") && !one.matchesAny(t) {
			c.notes = append(c.notes, fmt.Sprintf("production.keep: %q names nothing in the image for %s", p, plat))
		}
	}
	alts, notes := alternativesOf(pkgs)
	c.notes = append(c.notes, notes...)
	if err := productionEffects(t, s, plat, alts, all, b.mtime()); err != nil {
		return nil, err
	}
	for _, p := range pkgs {
		name := p.lock.Name
		own := debfile.StatusD(p.deb, func(rel string) bool {
			e := t.Get(usrMerged(rel))
			return e != nil && e.Origin.Kind == filetree.FromPackage && e.Origin.Name == name
		})
		for i := range own {
			e := &own[i]
			if t.Get(e.Path) != nil && e.IsDir() {
				continue
			}
			e.ModTime = b.mtime()
			e.Origin = generatedOrigin("package database", "distroless form of "+p.lock.ID())
			t.Set(e)
		}
	}
	if err := addParents(t, b.mtime()); err != nil {
		return nil, err
	}
	if err := b.keepGenerated(ctx, t); err != nil {
		return nil, err
	}
	if err := b.explainAll(t); err != nil {
		return nil, err
	}
	if err := checkLinks(t, s); err != nil {
		return nil, err
	}
	notes, err = checkELF(t, plat, all)
	if err != nil {
		return nil, fmt.Errorf("the production image for %s would not run:\n%w", plat, err)
	}
	c.notes = append(c.notes, notes...)
	return c, checkEntrypoint(t, s)
}

// checkLinks refuses symbolic links of the project, of steps and of language
// dependencies that lead nowhere in the image: what a container puts at such a
// place would decide what they mean. Links into folders that are there to be
// filled when the image runs are the exception.
func checkLinks(t *filetree.Tree, s *project.Spec) error {
	var errs []error
	filled := append([]string{"/dev", "/proc", "/run", "/sys", "/tmp", "/var/tmp", "/var/run"}, s.Writable...)
	for _, e := range t.Sorted() {
		switch e.Origin.Kind {
		case filetree.FromArtifact, filetree.FromSource, filetree.FromModule:
		default:
			continue
		}
		if !e.IsLink() || t.Resolve(e.Path) != nil {
			continue
		}
		to := e.Link
		if !strings.HasPrefix(to, "/") {
			to = path.Join("/", path.Dir(e.Path), to)
		}
		to = path.Clean(to)
		ok := false
		for _, d := range filled {
			ok = ok || to == d || strings.HasPrefix(to, d+"/")
		}
		if !ok {
			errs = append(errs, fmt.Errorf("/%s (%s) is a link to %s, which is not in the image: bring its target, or leave the link out", e.Path, originName(e), e.Link))
		}
	}
	return errors.Join(errs...)
}

// projectFiles places files of the project.
func (b *Builder) projectFiles(ctx context.Context, files map[string]string) ([]*filetree.Entry, error) {
	var out []*filetree.Entry
	for _, from := range sortedKeys(files) {
		to := usrMerged(strings.TrimPrefix(files[from], "/"))
		in, err := b.source.tree(from)
		if err != nil {
			return nil, err
		}
		for _, f := range in {
			p := to
			if f.Path != from {
				p = path.Join(to, strings.TrimPrefix(f.Path, from+"/"))
			}
			e := &filetree.Entry{Path: p, Type: tar.TypeReg, Mode: 0o644, ModTime: b.mtime(),
				Origin: filetree.Origin{Kind: filetree.FromSource, Name: f.Path, Path: f.Path}}
			if f.Exec {
				e.Mode = 0o755
			}
			if f.Link != "" {
				e.Type, e.Mode, e.Link = tar.TypeSymlink, 0o777, f.Link
				e.Origin.Note = "link of the project"
				if e.Origin.Digest, err = b.vault.PutBytes([]byte(f.Link)); err != nil {
					return nil, err
				}
				out = append(out, e)
				continue
			}
			// The bytes go into the vault: the project may change, and the
			// image's origin must stay checkable.
			if err := b.keepSource(ctx, f); err != nil {
				return nil, err
			}
			e.Origin.Digest = f.SHA256
			e.Size, e.Digest, e.Content.File = f.Size, f.SHA256, b.vault.Path(f.SHA256)
			out = append(out, e)
		}
	}
	return out, nil
}

// keepSource stores a file of the project in the vault.
func (b *Builder) keepSource(ctx context.Context, f InputFile) error {
	root, err := b.source.open()
	if err != nil {
		return err
	}
	src, err := root.Open(filepath.FromSlash(f.Path))
	if err != nil {
		return err
	}
	defer src.Close()
	err = b.vault.Put(ctx, f.SHA256, f.Size, src)
	if wrong := (*vault.MismatchError)(nil); errors.As(err, &wrong) {
		return fmt.Errorf("%s: %w", f.Path, errChanged)
	}
	return err
}

// findArtifact finds the step output that a zone's artifacts name.
func findArtifact(steps []StepRecord, name string, plat oci.Platform) (StepRecord, string, error) {
	step, output, qualified := strings.Cut(name, ":")
	if !qualified {
		step, output = "", name
	}
	for _, r := range steps {
		if step != "" && r.Step != step || r.Platform != (oci.Platform{}) && r.Platform != plat {
			continue
		}
		for _, o := range r.Outputs {
			if o.Output == output && o.Kind == project.KindArtifact {
				return r, output, nil
			}
		}
	}
	return StepRecord{}, "", errors.New("no step left it")
}

// explainAll proves that every path has exactly one origin with a hash. Files
// that Twinhull made get the hash of their own bytes, kept in the vault; its
// folders and links the hash of their description.
func (b *Builder) explainAll(t *filetree.Tree) error {
	var errs []error
	recipe := map[string]oci.Digest{}
	for _, e := range t.Sorted() {
		if e.Origin.Kind == filetree.FromGenerated && e.Origin.Digest == "" {
			if e.IsReg() {
				rc, err := e.Open()
				if err != nil {
					return err
				}
				data, err := io.ReadAll(rc)
				rc.Close()
				if err != nil {
					return err
				}
				if e.Origin.Digest, err = b.vault.PutBytes(data); err != nil {
					return err
				}
			} else {
				key := e.Origin.Name
				d, ok := recipe[key]
				if !ok {
					var err error
					if d, err = b.vault.PutBytes(mustJSON(generatedRecipe{Effect: key, Version: productionVersion, Project: b.lock.Project})); err != nil {
						return err
					}
					recipe[key] = d
				}
				e.Origin.Digest = d
			}
		}
		if err := checkOrigin(e); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("files without an explanation cannot be in a production image:\n%w", errors.Join(errs...))
	}
	return nil
}

// generatedRecipe is what a generated folder or link is traced to.
type generatedRecipe struct {
	Effect  string     `json:"effect"`
	Version int        `json:"version"`
	Project oci.Digest `json:"project"`
}

func checkOrigin(e *filetree.Entry) error {
	o := e.Origin
	switch o.Kind {
	case filetree.FromPackage, filetree.FromModule, filetree.FromArtifact, filetree.FromSource, filetree.FromGenerated:
		if o.Name == "" || o.Digest.Validate() != nil {
			return fmt.Errorf("/%s: comes from %s %s, but nothing in the vault proves it", e.Path, o.Kind, o.Name)
		}
		return nil
	}
	return fmt.Errorf("/%s: is from no locked package, no declared artifact and no file that Twinhull makes", e.Path)
}

// checkEntrypoint proves that what the image starts is there and can start.
func checkEntrypoint(t *filetree.Tree, s *project.Spec) error {
	argv := append(append([]string{}, s.Entrypoint...), s.Command...)
	if len(argv) == 0 {
		return nil
	}
	name := argv[0]
	var e *filetree.Entry
	if strings.Contains(name, "/") {
		if !strings.HasPrefix(name, "/") {
			name = path.Join(s.Workdir, name)
		}
		e = t.Resolve(name)
	} else {
		for _, d := range []string{"usr/local/bin", "usr/bin", "usr/sbin"} {
			if e = t.Resolve(d + "/" + name); e != nil {
				break
			}
		}
	}
	switch {
	case e == nil:
		return fmt.Errorf("production.entrypoint: %s is not in the image: name a program that a package or an artifact brings", argv[0])
	case e.IsDir():
		return fmt.Errorf("production.entrypoint: %s is a folder (%s): name the program in it", argv[0], originName(e))
	case !e.IsReg() || e.Mode&0o111 == 0:
		return fmt.Errorf("production.entrypoint: %s is not an executable file (%s): name a program, or give the file its x bit", argv[0], originName(e))
	}
	if e.Size >= 2 {
		interp, err := interpreterOf(e)
		if err != nil {
			return err
		}
		if interp != "" && !runs(t, interp) {
			return fmt.Errorf("production.entrypoint: %s is a script for %s, which is not in the image: start the program itself, in exec form", argv[0], interp)
		}
	}
	return checkScriptArgument(t, s, path.Base(e.Path), argv[1:])
}

// checkScriptArgument proves that the file which an interpreter is told to run
// is there, as far as that is certain from the arguments.
func checkScriptArgument(t *filetree.Tree, s *project.Spec, program string, args []string) error {
	if len(args) == 0 || args[0] == "" || strings.HasPrefix(args[0], "-") {
		return nil
	}
	var tries []string
	switch {
	case program == "node" || program == "nodejs":
		if args[0] == "inspect" {
			return nil
		}
		tries = []string{"", ".js", ".cjs", ".mjs", ".json", ".node", "/index.js", "/package.json"}
	case strings.HasPrefix(program, "python3"):
		tries = []string{"", "/__main__.py"}
	default:
		return nil
	}
	p := args[0]
	if !strings.HasPrefix(p, "/") {
		p = path.Join("/", s.Workdir, p)
	}
	for _, w := range s.Writable {
		if strings.HasPrefix(p, w+"/") {
			return nil // brought by a volume
		}
	}
	for _, end := range tries {
		if e := t.Resolve(p + end); e != nil && (end != "" || !e.IsDir()) {
			return nil
		}
	}
	return fmt.Errorf("production.command: %s would run %s, which is not in the image: bring it with production.artifacts or production.files", program, p)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
