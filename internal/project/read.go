package project

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"twinhull.dev/twinhull/internal/oci"
)

// ErrNoProject is found in the error of Find when there is no project file.
var ErrNoProject = errors.New("no " + FileName)

// Find returns the path of the nearest project file, in dir or in a folder
// above it. The error wraps ErrNoProject when there is none and says how to
// make one.
func Find(dir string) (string, error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", FileName, err)
	}
	for at := start; ; {
		name := filepath.Join(at, FileName)
		switch info, err := os.Stat(name); {
		case err == nil && info.Mode().IsRegular():
			return name, nil
		case err == nil:
			return "", fmt.Errorf("%s is not a regular file", name)
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("find %s: %w", FileName, err)
		}
		up := filepath.Dir(at)
		if up == at {
			return "", fmt.Errorf("%w in %s or any folder above it\n  hint: `twinhull init` writes one to begin with", ErrNoProject, start)
		}
		at = up
	}
}

// Load reads and checks the project file at path. The error is Errors when the
// file could be read and something in it is wrong.
func Load(path string) (*File, error) {
	data, err := readBounded(path, maxFileSize)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// readBounded reads a regular file, one byte further than the limit when it is
// larger, so that the parser reports it.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// Parse reads and checks a project file. The path is kept in File.Path and
// named in errors; nothing is read from it. The File that is returned is
// complete: every default is filled in. The error is Errors: every problem at
// once, sorted by position.
func Parse(path string, data []byte) (*File, error) {
	r := &reader{problems: &problems{file: path}, at: map[string]position{}}
	v, ok := readYAML(r.problems, data)
	if !ok {
		return nil, r.err()
	}
	f := &File{Path: path}
	k := fileKind()
	r.keys = k.keys
	k.read(r, "", v, f)
	f.fill()
	check(r, f)
	if err := r.err(); err != nil {
		return nil, err
	}
	return f, nil
}

// fill puts the defaults where the file says nothing. Two are not here: npm's
// and go's fields, which depend on their section being there at all (see
// dependencies), and parts of a given user (see user).
func (f *File) fill() {
	if len(f.Platforms) == 0 {
		p, _ := oci.ParsePlatform(DefaultPlatform)
		f.Platforms = []oci.Platform{p}
	}
	for _, s := range []*Spec{&f.Development, &f.Production} {
		s.Workdir = cmp.Or(s.Workdir, DefaultWorkdir)
		if s.Dependencies.NPM != nil {
			s.Dependencies.NPM.Into = cmp.Or(s.Dependencies.NPM.Into, s.Workdir)
		}
	}
	if f.Development.User.Name == "" {
		f.Development.User = User{Name: "root", Group: "root"}
	}
	if f.Production.User.Name == "" {
		f.Production.User = User{Name: DefaultUser, ID: DefaultUserID, Group: DefaultUser, GID: DefaultUserID}
	}
	for i := range f.Build.Steps {
		s := &f.Build.Steps[i]
		s.Timeout = cmp.Or(s.Timeout, DefaultTimeout)
		s.Platform = cmp.Or(s.Platform, DefaultPlatformRun)
		slices.SortFunc(s.Outputs, func(a, b Output) int { return cmp.Compare(a.Path, b.Path) })
	}
}
