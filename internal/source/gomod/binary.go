package gomod

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/module"

	"twinhull.dev/twinhull/internal/project"
)

// Binary is what a Go program says of itself (debug/buildinfo).
type Binary struct {
	GoVersion string             // "go1.24.3"
	Main      string             // path of the main package
	Modules   []project.GoModule // the locked modules that it was linked from, sorted
}

// ReadBinary reads the build information of a Go program and finds each of its
// modules in the lock. Modules that are folders of the project (the main one,
// and those replaced by a folder) are source and not listed. The error joins
// everything that does not fit: a module that is not locked, or one whose hash
// differs.
func ReadBinary(path string, modules []project.GoModule) (*Binary, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s is not a Go program with build information: %w; build it with modules and without -ldflags that strip it", path, err)
	}
	b := &Binary{GoVersion: info.GoVersion, Main: info.Path}
	locked := make(map[module.Version]project.GoModule, len(modules))
	for _, m := range modules {
		locked[module.Version{Path: m.Path, Version: m.Version}] = m
	}
	var wrong []error
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		if d.Version == "" || d.Version == "(devel)" {
			continue
		}
		v := module.Version{Path: d.Path, Version: d.Version}
		m, ok := locked[v]
		switch {
		case !ok:
			wrong = append(wrong, fmt.Errorf("it holds %s, which is not in the lock", v))
		case m.Sum == "":
			wrong = append(wrong, fmt.Errorf("it holds %s, of which the lock has only the go.mod", v))
		case d.Sum != "" && d.Sum != m.Sum:
			wrong = append(wrong, fmt.Errorf("it holds %s with the hash %s, but the lock says %s", v, d.Sum, m.Sum))
		default:
			b.Modules = append(b.Modules, m)
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("%s does not fit the lock: %w", path, errors.Join(wrong...))
	}
	slices.SortFunc(b.Modules, func(a, c project.GoModule) int {
		return compareVersions(module.Version{Path: a.Path, Version: a.Version}, module.Version{Path: c.Path, Version: c.Version})
	})
	return b, nil
}

// CheckBinary is ReadBinary for the verdict only.
func CheckBinary(path string, modules []project.GoModule) error {
	_, err := ReadBinary(path, modules)
	return err
}
