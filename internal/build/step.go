package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

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
	for _, a := range w.step.After {
		name, output, one := strings.Cut(a, ":")
		found := false
		for _, r := range after {
			if r.Step != name || (r.Platform != oci.Platform{} && r.Platform != w.plat) {
				continue
			}
			for _, o := range r.Outputs {
				if o.Kind == project.KindArtifact && (!one || o.Output == output) {
					w.record.After = append(w.record.After, o)
					found = true
				}
			}
		}
		if !found {
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
	tmp, err := b.cache.scratch("step")
	if err != nil {
		return rec, err
	}
	defer sandbox.RemoveAll(tmp)
	inputs, upper := filepath.Join(tmp, "inputs"), filepath.Join(tmp, "upper")
	dir := strings.TrimPrefix(b.stepDir(), "/")
	for _, d := range []string{filepath.Join(inputs, dir), filepath.Join(inputs, "home/build"), upper} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return rec, err
		}
	}
	if err := b.placeInputs(filepath.Join(inputs, dir), w.record); err != nil {
		return rec, err
	}
	for _, o := range w.step.Outputs {
		if err := os.MkdirAll(filepath.Join(inputs, dir, filepath.FromSlash(path.Dir(o.Path))), 0o755); err != nil {
			return rec, err
		}
	}
	log, err := b.openLog("step-" + w.step.Name)
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
	t := b.progress.Task("step "+w.step.Name, 0)
	res, err := sandbox.Run(ctx, spec)
	if err == nil && (res.ExitCode != 0 || res.TimedOut) {
		err = log.failure("step "+w.step.Name+" ("+strings.Join(w.step.Run, " ")+")", res)
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
	if rec.Outputs, err = b.collect(ctx, w.step, filepath.Join(upper, dir)); err != nil {
		return rec, err
	}
	rec.Digest, err = b.vault.PutBytes(mustJSON(rec))
	if err != nil {
		return rec, err
	}
	return rec, b.cache.keep("steps", rec.Key, rec)
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
// was hashed.
func (b *Builder) placeInputs(dir string, rec StepRecord) error {
	put := func(rel string, exec bool, link string, want oci.Digest, from string) error {
		to := filepath.Join(dir, filepath.FromSlash(rel))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if link != "" {
			return os.Symlink(link, to)
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if digest.FromBytes(data) != want {
			return fmt.Errorf("%s changed while the build ran: build again", rel)
		}
		mode := fs.FileMode(0o644)
		if exec {
			mode = 0o755
		}
		if err := os.WriteFile(to, data, mode); err != nil {
			return err
		}
		if err := os.Chmod(to, mode); err != nil { // whatever the caller's umask is
			return err
		}
		at := time.Unix(b.mtime(), 0)
		return os.Chtimes(to, at, at)
	}
	for _, in := range rec.Inputs {
		if err := put(in.Path, in.Exec, in.Link, in.SHA256, filepath.Join(b.source.dir, filepath.FromSlash(in.Path))); err != nil {
			return err
		}
	}
	for _, o := range rec.After {
		from := ""
		if o.Link == "" {
			from = b.cache.filePath(o.SHA256)
		}
		if err := put(o.Path, o.Exec, o.Link, o.SHA256, from); err != nil {
			return err
		}
	}
	return nil
}

// collect stores the declared outputs and nothing else. A declared output that
// is not there fails the step.
func (b *Builder) collect(ctx context.Context, s project.Step, dir string) ([]OutputFile, error) {
	var out []OutputFile
	for _, o := range s.Outputs {
		at := filepath.Join(dir, filepath.FromSlash(o.Path))
		fi, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("step %s ended well but left no %s, which it declares as %s: check the command's output folder", s.Name, o.Path, o.Kind)
		}
		if err != nil {
			return nil, err
		}
		before := len(out)
		add := func(full, rel string, fi fs.FileInfo) error {
			f := OutputFile{Output: o.Path, Kind: o.Kind, Path: rel, Exec: fi.Mode()&0o111 != 0}
			switch {
			case fi.Mode()&fs.ModeSymlink != 0:
				target, err := os.Readlink(full)
				if err != nil {
					return err
				}
				f.Link, f.Exec = target, false
			case fi.Mode().IsRegular():
				if f.SHA256, f.Size, err = b.cache.putFile(full); err != nil {
					return err
				}
			default:
				return fmt.Errorf("step %s: output %s is a device, pipe or socket", s.Name, rel)
			}
			out = append(out, f)
			return nil
		}
		if !fi.IsDir() {
			if err := add(at, o.Path, fi); err != nil {
				return nil, err
			}
			continue
		}
		err = filepath.WalkDir(at, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			if fi.Mode()&fs.ModeCharDevice != 0 { // an overlay whiteout: the step deleted an input
				return nil
			}
			return add(p, filepath.ToSlash(rel), fi)
		})
		if err != nil {
			return nil, err
		}
		if len(out) == before {
			return nil, fmt.Errorf("step %s ended well but its output folder %s is empty", s.Name, o.Path)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
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
