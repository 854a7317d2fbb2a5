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

// composed is a finished file tree with what is worth saying about it.
type composed struct {
	tree    *filetree.Tree
	leftOut []LeftOut
	notes   []string
}

// packageTree lays out the packages of a production closure: unpacked only,
// trimmed, without set-id bits and without scripts that nothing could run.
func (b *Builder) packageTree(pkgs []unpacked) (*composed, error) {
	c := &composed{}
	left := map[string]*LeftOut{}
	out := func(reason string, e *filetree.Entry) {
		l := left[reason]
		if l == nil {
			l = &LeftOut{Reason: reason}
			left[reason] = l
		}
		if !e.IsDir() {
			l.Files++
			l.Bytes += e.Size
		}
	}
	kept := make([]unpacked, len(pkgs))
	for i, p := range pkgs {
		kept[i] = unpacked{lock: p.lock, deb: p.deb}
		for _, e := range p.entries {
			if reason, yes := trimmed(e.Path); yes {
				out(reason, &e)
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
	tree, err := mergePackages(kept)
	if err != nil {
		return nil, err
	}
	// A hard link whose first name was trimmed becomes the file itself.
	for i := range pkgs {
		for j := range pkgs[i].entries {
			e := &pkgs[i].entries[j]
			if l := tree.Get(e.Path); e.Type != tar.TypeLink || l == nil || l.Type != tar.TypeLink || tree.Get(l.Link) != nil {
				continue
			}
			for k := range pkgs[i].entries {
				if t := &pkgs[i].entries[k]; t.Path == e.Link {
					c := *t
					c.Path, c.Origin = e.Path, e.Origin
					tree.Set(&c)
				}
			}
		}
	}
	if err := dropScripts(tree, out); err != nil {
		return nil, err
	}
	dropEmpty(tree, func(e *filetree.Entry) bool {
		// Folders that packages ship empty on purpose stay, as long as they
		// are not the remains of something trimmed.
		for _, r := range trimRules {
			if strings.HasPrefix(r.under, e.Path+"/") || e.Path == r.under || strings.HasPrefix(e.Path, r.under+"/") {
				return false
			}
		}
		return true
	})
	for _, l := range left {
		c.leftOut = append(c.leftOut, *l)
	}
	sort.Slice(c.leftOut, func(i, j int) bool { return c.leftOut[i].Reason < c.leftOut[j].Reason })
	c.tree = tree
	return c, nil
}

// dropScripts removes programs of packages whose interpreter is not in the
// tree: nothing could run them, and they only tell an attacker what to bring.
func dropScripts(t *filetree.Tree, out func(string, *filetree.Entry)) error {
	bins := []string{"usr/bin", "usr/sbin", "usr/local/bin"}
	for _, e := range t.Sorted() {
		if !e.IsReg() || e.Mode&0o111 == 0 || e.Size < 3 {
			continue
		}
		rc, err := e.Open()
		if err != nil {
			return err
		}
		head := make([]byte, min(e.Size, 256))
		_, err = io.ReadFull(rc, head)
		rc.Close()
		if err != nil {
			return fmt.Errorf("/%s: %w", e.Path, err)
		}
		interp := scriptInterpreter(head)
		if interp == "" {
			continue
		}
		found := false
		if strings.HasPrefix(interp, "/") {
			found = t.Resolve(interp) != nil
		} else {
			for _, d := range bins {
				found = found || t.Resolve(d+"/"+interp) != nil
			}
		}
		if !found {
			t.Delete(e.Path)
			out("scripts whose interpreter is not in the image", e)
		}
	}
	// Links that led to what was left out lead nowhere now.
	for again := true; again; {
		again = false
		for _, e := range t.Sorted() {
			if e.IsLink() && inAny(e.Path, bins) && t.Resolve(e.Path) == nil && !strings.HasPrefix(e.Link, "/etc/alternatives/") {
				t.Delete(e.Path)
				out("scripts whose interpreter is not in the image", e)
				again = true
			}
		}
	}
	return nil
}

func inAny(p string, dirs []string) bool {
	for _, d := range dirs {
		if strings.HasPrefix(p, d+"/") {
			return true
		}
	}
	return false
}

// alternativesOf reads the packages' scripts: the alternatives that they set
// up, and notes about what no effect covers.
func alternativesOf(pkgs []unpacked) (alts []alternative, notes []string) {
	for _, p := range pkgs {
		var rest []string
		for _, name := range []string{"preinst", "postinst"} {
			script := p.deb.Member(name)
			if script == nil {
				continue
			}
			a, r := readScript(script)
			for i := range a {
				a[i].pkg = p.lock.Name
			}
			alts = append(alts, a...)
			rest = append(rest, r...)
		}
		if _, ok := handledScripts[p.lock.Name]; !ok && len(rest) > 0 {
			notes = append(notes, fmt.Sprintf("package %s has an installation script that was not run and that no effect covers (%q …): check that the image works without it", p.lock.Name, clip(rest[0], 60)))
		}
	}
	return alts, notes
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// compose puts a production tree together from everything that may be in it.
func (b *Builder) compose(ctx context.Context, plat oci.Platform, pkgs []unpacked, modules []*filetree.Entry, steps []StepRecord) (*composed, error) {
	s := &b.file.Production
	c, err := b.packageTree(pkgs)
	if err != nil {
		return nil, err
	}
	t := c.tree
	place := func(what string, entries []*filetree.Entry) error {
		for _, e := range entries {
			if old := t.Get(e.Path); old != nil && !(old.IsDir() && e.IsDir()) {
				return fmt.Errorf("%s would put /%s over what is there already (%s)", what, e.Path, originName(old))
			}
			if old := t.Get(e.Path); old == nil {
				t.Set(e)
			}
		}
		return nil
	}
	if err := place("production.dependencies", modules); err != nil {
		return nil, err
	}
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
	alts, notes := alternativesOf(pkgs)
	c.notes = append(c.notes, notes...)
	if err := productionEffects(t, s, plat, alts, b.mtime()); err != nil {
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
	if err := b.explainAll(t); err != nil {
		return nil, err
	}
	if err := checkELF(t, plat); err != nil {
		return nil, fmt.Errorf("the production image for %s would not run:\n%w", plat, err)
	}
	if err := checkEntrypoint(t, s); err != nil {
		return nil, err
	}
	return c, nil
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
	case !e.IsReg() || e.Mode&0o111 == 0:
		return fmt.Errorf("production.entrypoint: %s is not an executable file (%s)", argv[0], originName(e))
	}
	rc, err := e.Open()
	if err != nil {
		return err
	}
	defer rc.Close()
	head := make([]byte, min(e.Size, 256))
	if _, err := io.ReadFull(rc, head); err != nil {
		return err
	}
	if interp := scriptInterpreter(head); interp != "" {
		p := interp
		if !strings.HasPrefix(p, "/") {
			p = "/usr/bin/" + p
		}
		if t.Resolve(p) == nil {
			return fmt.Errorf("production.entrypoint: %s is a script for %s, which is not in the image: start the program itself, in exec form", argv[0], interp)
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
