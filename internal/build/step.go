package build

import (
	"archive/tar"
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
	"strings"
	"time"
	"unicode/utf8"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/sandbox"
)

// StepRecord is what is known of a step that ran: everything that it could
// see, by hash, and everything that it declared and left. Later claims
// (provenance, test results) are made from it.
type StepRecord struct {
	Step     string            `json:"step"`
	Key      Key               `json:"key"`
	Platform oci.Platform      `json:"platform,omitzero"` // zero when the result serves every platform
	Run      []string          `json:"run"`
	Workdir  string            `json:"workdir"`
	Env      map[string]string `json:"env"`
	Tree     Key               `json:"tree"`             // the root that it ran over
	Packages []oci.Digest      `json:"packages"`         // what that root was made from
	Deps     []oci.Digest      `json:"deps,omitempty"`   // language dependencies that were in place
	Inputs   []InputFile       `json:"inputs"`           // project files
	After    []OutputFile      `json:"after,omitempty"`  // artifacts of earlier steps
	Outputs  []OutputFile      `json:"outputs"`          // everything declared, in byte order of the paths
	Version  int               `json:"sandbox"`          // stepVersion
	Digest   oci.Digest        `json:"digest,omitempty"` // of this record without this field, in the vault
}

// OutputFile is one file of a declared output.
type OutputFile struct {
	Output string     `json:"output"` // the declared path
	Kind   string     `json:"kind"`
	Path   string     `json:"path"` // project path
	Exec   bool       `json:"exec,omitempty"`
	Link   string     `json:"link,omitempty"`
	Size   int64      `json:"size"`
	SHA256 oci.Digest `json:"sha256,omitempty"`
}

const stepVersion = 1

// stepWork is a step that is ready to run: its description is complete.
type stepWork struct {
	step   project.Step
	plat   oci.Platform // zero for "host"
	record StepRecord
	lowers []string // dependency folders above the root
}

// prepareStep completes the description of a step. after are the records of
// the steps that it follows.
func (b *Builder) prepareStep(s project.Step, plat oci.Platform, r *root, deps []depTree, after []StepRecord) (*stepWork, error) {
	w := &stepWork{step: s, plat: plat}
	inputs, err := b.source.match(s.Name, s.Inputs)
	if err != nil {
		return nil, err
	}
	w.record = StepRecord{
		Step: s.Name, Platform: plat, Run: s.Run, Workdir: b.stepDir(), Env: map[string]string{}, Tree: r.key,
		Inputs: inputs, Version: stepVersion,
	}
	for _, p := range r.pkgs {
		w.record.Packages = append(w.record.Packages, p.SHA256)
	}
	env := b.fixedEnvironment("/home/build")
	for _, d := range deps {
		w.record.Deps = append(w.record.Deps, d.digests...)
		w.lowers = append(w.lowers, d.lower)
		env = append(env, d.env...)
	}
	if plat != (oci.Platform{}) {
		env = append(env, "TWINHULL_OS="+plat.OS, "TWINHULL_ARCH="+plat.Architecture)
	}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		w.record.Env[k] = v
	}
	for k, v := range s.Environment {
		w.record.Env[k] = v
	}
	if err := w.addAfter(after); err != nil {
		return nil, err
	}
	w.record.Key = keyOf("step", stepVersion, struct {
		Record   StepRecord
		Outputs  []project.Output
		DepsKeys []string
	}{w.record, s.Outputs, depKeys(deps)})
	return w, nil
}

func depKeys(deps []depTree) []string {
	var out []string
	for _, d := range deps {
		out = append(out, string(d.key))
	}
	return out
}

// addAfter places the artifacts of earlier steps among the inputs.
func (w *stepWork) addAfter(after []StepRecord) error {
	from := map[string]string{} // path → the step that it comes from
	for _, a := range w.step.After {
		name, output, one := strings.Cut(a, ":")
		found := false
		for _, r := range after {
			if r.Step != name || (r.Platform != oci.Platform{} && w.plat != oci.Platform{} && r.Platform != w.plat) {
				continue
			}
			for _, o := range r.Outputs {
				if o.Kind != project.KindArtifact || one && o.Output != output {
					continue
				}
				found = true
				who := name
				if r.Platform != (oci.Platform{}) {
					who += " for " + r.Platform.String()
				}
				if before, ok := from[o.Path]; ok {
					if before == who {
						continue // asked for twice: the step, and one of its outputs
					}
					return fmt.Errorf("build.steps.%s.after: %s comes from %s and from %s: take one of them, or give the step `platform: each`", w.step.Name, o.Path, before, who)
				}
				from[o.Path] = who
				w.record.After = append(w.record.After, o)
			}
		}
		if one && !found {
			return fmt.Errorf("build.steps.%s.after: %s left no artifact", w.step.Name, a)
		}
	}
	return nil
}

// stepDir is the folder that a step sees the project in: the development
// image's working directory, so that paths in messages and debug information
// are those of the image that developers use.
func (b *Builder) stepDir() string {
	if d := b.file.Development.Workdir; d != "" && d != "/" {
		return d
	}
	return "/src"
}

// stepKnown returns the record of a step that ran before with everything the
// same, as long as its outputs are still kept.
func (b *Builder) stepKnown(w *stepWork) (StepRecord, bool) {
	var rec StepRecord
	ok := b.cache.record("steps", w.record.Key, &rec) && b.haveOutputs(rec)
	return rec, ok
}

// runStep runs a step over a realised root and keeps what it declared.
func (b *Builder) runStep(ctx context.Context, w *stepWork, r *root) (StepRecord, error) {
	var rec StepRecord
	tmp, done, err := b.cache.scratch("step")
	if err != nil {
		return rec, err
	}
	defer done()
	inputs, upper := filepath.Join(tmp, "inputs"), filepath.Join(tmp, "upper")
	dir := strings.TrimPrefix(b.stepDir(), "/")
	if err := makeFolders(tmp, "upper", path.Join("inputs", dir), "inputs/home/build"); err != nil {
		return rec, err
	}
	if err := b.placeInputs(filepath.Join(inputs, dir), w.record); err != nil {
		return rec, err
	}
	for _, o := range w.step.Outputs {
		if err := makeFolders(filepath.Join(inputs, dir), path.Dir(o.Path)); err != nil {
			return rec, fmt.Errorf("step %s: the folder of output %s: %w", w.step.Name, o.Path, err)
		}
	}
	log, err := b.openLog("step-" + w.name())
	if err != nil {
		return rec, err
	}
	defer log.Close()
	env := make([]string, 0, len(w.record.Env))
	for k, v := range w.record.Env {
		env = append(env, k+"="+v)
	}
	sort.Strings(env)
	lowers := append(append([]string{inputs}, w.lowers...), r.lowers...)
	mounts := []sandbox.Mount{
		{Target: "/tmp", Tmpfs: true, Mode: 0o1777},
		{Target: "/run", Tmpfs: true, Mode: 0o755},
	}
	mounts = append(mounts, b.stepCaches(w)...)
	spec := sandbox.Spec{
		Lower: lowers, Upper: upper, FakeOwners: true, NoSync: true,
		Args: w.step.Run, Env: env, Dir: b.stepDir(), Mounts: mounts,
		Serve: b.services(), Stdout: log, Stderr: log, Timeout: w.step.Timeout,
		Limits: sandbox.Limits{PIDs: 4096},
	}
	t := b.progress.Task("step "+w.name(), 0)
	res, err := sandbox.Run(ctx, spec)
	if err == nil && !res.Success() {
		err = log.failure("step "+w.name()+" ("+strings.Join(w.step.Run, " ")+")", res)
		if b.ShellOnFailure != nil && ctx.Err() == nil {
			t.Done(err)
			b.ShellOnFailure(ctx, spec)
			return rec, err
		}
	}
	t.Done(err)
	if err != nil {
		return rec, err
	}
	rec = w.record
	if rec.Outputs, err = b.collect(ctx, w, upper, inputs); err != nil {
		return rec, err
	}
	rec.Digest, err = b.vault.PutBytes(mustJSON(rec))
	if err != nil {
		return rec, err
	}
	return rec, b.cache.keep("steps", rec.Key, rec)
}

// name is the step with its platform, when it has one.
func (w *stepWork) name() string {
	if w.plat == (oci.Platform{}) {
		return w.step.Name
	}
	return w.step.Name + "-" + w.plat.OS + "-" + w.plat.Architecture
}

func (b *Builder) haveOutputs(rec StepRecord) bool {
	for _, o := range rec.Outputs {
		if o.Link == "" && !b.cache.hasFile(o.SHA256, o.Size) {
			return false
		}
	}
	return b.vault.Has(rec.Digest)
}

// placeInputs copies the declared files, and checks that they are still what
// was hashed. Nothing that it places, such as an artifact that is a link, can
// lead a later file out of dir.
func (b *Builder) placeInputs(dir string, rec StepRecord) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	from, err := b.source.open()
	if err != nil {
		return err
	}
	at := time.Unix(b.mtime(), 0)
	put := func(rel string, exec bool, link string, want oci.Digest, open func() (*os.File, error)) error {
		if err := makeFoldersIn(root, path.Dir(rel)); err != nil {
			return err
		}
		if link != "" {
			return root.Symlink(link, rel)
		}
		src, err := open()
		if err != nil {
			return err
		}
		defer src.Close()
		mode := fs.FileMode(0o644)
		if exec {
			mode = 0o755
		}
		to, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		defer to.Close()
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(to, h), src); err != nil {
			return err
		}
		if digest.NewDigest(digest.SHA256, h) != want {
			return errChanged
		}
		if err := to.Chmod(mode); err != nil { // whatever the caller's umask is
			return err
		}
		if err := to.Close(); err != nil {
			return err
		}
		return root.Chtimes(rel, at, at)
	}
	for _, in := range rec.Inputs {
		open := func() (*os.File, error) { return from.Open(in.Path) }
		if err := put(in.Path, in.Exec, in.Link, in.SHA256, open); err != nil {
			return fmt.Errorf("step %s: placing input %s: %w", rec.Step, in.Path, err)
		}
	}
	for _, o := range rec.After {
		open := func() (*os.File, error) { return os.Open(b.cache.filePath(o.SHA256)) }
		err := put(o.Path, o.Exec, o.Link, o.SHA256, open)
		if errors.Is(err, errChanged) {
			b.cache.heal(b.cache.filePath(o.SHA256), 0, o.Size, o.SHA256)
			return fmt.Errorf("step %s: the kept artifact %s was damaged and has been removed: build again", rec.Step, o.Path)
		}
		if err != nil {
			return fmt.Errorf("step %s: placing the artifact %s of an earlier step: %w", rec.Step, o.Path, err)
		}
	}
	return nil
}

var errChanged = errors.New("it changed while the build ran: build again")

// Bounds of what a step may leave, so that a runaway or hostile one fails with
// a message and does not fill the disk of whoever builds it.
const (
	maxOutputFiles = 200_000
	maxOutputBytes = 16 << 30
)

// collect stores the declared outputs and nothing else: what lies at their
// paths when the step has ended, whether the step wrote it (it is in upper) or
// left an input as it was (it is in lower, and upper does not hide it). A
// declared output that is not there fails the step.
//
// The step may have put anything into upper: no link in it is followed, so
// that nothing outside can be read through it.
func (b *Builder) collect(ctx context.Context, w *stepWork, upper, lower string) ([]OutputFile, error) {
	s := w.step
	work := strings.TrimPrefix(b.stepDir(), "/")
	outputOf := func(rel string) *project.Output {
		for i := range s.Outputs {
			if o := &s.Outputs[i]; rel == o.Path || strings.HasPrefix(rel, o.Path+"/") {
				return o
			}
		}
		return nil
	}
	// leads tells whether a folder of the image lies on the way to an output.
	leads := func(p string) bool {
		for _, o := range s.Outputs {
			if strings.HasPrefix(path.Join(work, o.Path)+"/", p+"/") {
				return true
			}
		}
		return false
	}
	var out []OutputFile
	var total int64
	add := func(f OutputFile, open func() (*os.File, error)) error {
		if len(out) >= maxOutputFiles {
			return fmt.Errorf("step %s: output %s has more than %d files: declare the folder that is needed and not all of it", s.Name, f.Output, maxOutputFiles)
		}
		if !utf8.ValidString(f.Path) || !utf8.ValidString(f.Link) {
			return fmt.Errorf("step %s: output %q has a name that is not UTF-8: name it otherwise", s.Name, f.Path)
		}
		if f.Link == "" {
			src, err := open()
			if err != nil {
				return fmt.Errorf("step %s: output %s: %w", s.Name, f.Path, err)
			}
			defer src.Close()
			if f.SHA256, f.Size, err = b.cache.putFile(src, maxOutputBytes-total); err != nil {
				return fmt.Errorf("step %s: keeping output %s (all outputs may have %d bytes): %w", s.Name, f.Path, int64(maxOutputBytes), err)
			}
			total += f.Size
		}
		out = append(out, f)
		return nil
	}
	gone := map[string]bool{}   // the path, with all that was below it, is not what lower has
	opaque := map[string]bool{} // nor is anything below it
	err := sandbox.Scan(ctx, upper, func(e sandbox.Entry) error {
		rel, inside := strings.CutPrefix(e.Path, work+"/")
		var o *project.Output
		if inside {
			o = outputOf(rel)
		}
		switch {
		case o == nil && !leads(e.Path):
			if e.Type == tar.TypeDir {
				return fs.SkipDir
			}
			return nil
		case e.Whiteout:
			gone[e.Path] = true
			return nil
		case e.Type == tar.TypeDir:
			opaque[e.Path] = e.Opaque
			return nil
		case o == nil:
			return fmt.Errorf("step %s put %s where the folder /%s should be: outputs must lie in folders, not behind links or files", s.Name, kindOf(e), e.Path)
		}
		gone[e.Path] = true
		f := OutputFile{Output: o.Path, Kind: o.Kind, Path: rel}
		switch e.Type {
		case tar.TypeSymlink:
			f.Link = e.Link
		case tar.TypeReg:
			f.Exec = e.Mode&0o111 != 0
		default:
			return fmt.Errorf("step %s: output %s is %s: only files, folders and links can be outputs", s.Name, rel, kindOf(e))
		}
		return add(f, e.Open)
	})
	if err != nil {
		return nil, err
	}
	hidden := func(rel string) bool {
		p := path.Join(work, rel)
		if _, folder := opaque[p]; folder || gone[p] {
			return true
		}
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if gone[d] || opaque[d] {
				return true
			}
		}
		return false
	}
	root, err := os.OpenRoot(filepath.Join(lower, work))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	unchanged := func(rel string, exec bool, link string) error {
		o := outputOf(rel)
		if o == nil || hidden(rel) {
			return nil
		}
		return add(OutputFile{Output: o.Path, Kind: o.Kind, Path: rel, Exec: exec, Link: link}, func() (*os.File, error) { return root.Open(rel) })
	}
	for _, in := range w.record.Inputs {
		if err := unchanged(in.Path, in.Exec, in.Link); err != nil {
			return nil, err
		}
	}
	for _, a := range w.record.After {
		if err := unchanged(a.Path, a.Exec, a.Link); err != nil {
			return nil, err
		}
	}
	left := map[string]bool{}
	for _, f := range out {
		left[f.Output] = true
	}
	for _, o := range s.Outputs {
		if left[o.Path] {
			continue
		}
		if _, isDir := opaque[path.Join(work, o.Path)]; isDir {
			return nil, fmt.Errorf("step %s ended well but its output folder %s is empty", s.Name, o.Path)
		}
		return nil, fmt.Errorf("step %s ended well but left no %s, which it declares as %s: check the command's output folder (the step ran in %s)", s.Name, o.Path, o.Kind, b.stepDir())
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

// kindOf names what is no file and no folder, for messages.
func kindOf(e sandbox.Entry) string {
	switch e.Type {
	case tar.TypeReg:
		return "a file"
	case tar.TypeDir:
		return "a folder"
	case tar.TypeSymlink:
		return "a link to " + e.Link
	case tar.TypeFifo:
		return "a pipe"
	case tar.TypeChar, tar.TypeBlock:
		return "a device"
	}
	return "a socket"
}

// artifactEntries places a step's output in an image: a file at to, or a
// folder's files below to.
func (b *Builder) artifactEntries(rec StepRecord, output, to string) []*filetree.Entry {
	var out []*filetree.Entry
	to = usrMerged(strings.TrimPrefix(to, "/"))
	for _, o := range rec.Outputs {
		if o.Output != output {
			continue
		}
		p := to
		if o.Path != o.Output {
			p = path.Join(to, strings.TrimPrefix(o.Path, o.Output+"/"))
		}
		e := &filetree.Entry{Path: p, Type: tar.TypeReg, Mode: 0o644, ModTime: b.mtime(), Size: o.Size, Digest: o.SHA256,
			Origin: filetree.Origin{Kind: filetree.FromArtifact, Name: rec.Step + ":" + output, Digest: rec.Digest, Path: o.Path}}
		if o.Exec {
			e.Mode = 0o755
		}
		if o.Link != "" {
			e.Type, e.Mode, e.Link, e.Size = tar.TypeSymlink, 0o777, o.Link, 0
		} else {
			e.Content.File = b.cache.filePath(o.SHA256)
		}
		out = append(out, e)
	}
	return out
}
