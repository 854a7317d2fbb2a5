package inspect

import (
	"archive/tar"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
)

// Difference is what two images have not in common.
type Difference struct {
	A               oci.Digest        `json:"a"`
	B               oci.Digest        `json:"b"`
	Size            [2]int64          `json:"size"`
	Unpacked        [2]int64          `json:"unpacked"`
	Config          []Changed         `json:"config,omitempty"`
	PackagesAdded   []PackageChange   `json:"packagesAdded,omitempty"`
	PackagesRemoved []PackageChange   `json:"packagesRemoved,omitempty"`
	PackagesChanged []PackageChange   `json:"packagesChanged,omitempty"`
	Findings        map[string][2]int `json:"findings,omitempty"` // by rule, those whose number differs
	FilesAdded      FileList          `json:"filesAdded"`
	FilesRemoved    FileList          `json:"filesRemoved"`
	FilesChanged    FileList          `json:"filesChanged"`
	FilesSame       int               `json:"filesSame"`
}

// Changed is a part of the configuration that differs.
type Changed struct {
	Name string `json:"name"`
	A    string `json:"a"`
	B    string `json:"b"`
}

// PackageChange is a package by type and name with its versions on both sides.
type PackageChange struct {
	Type string `json:"type"`
	Name string `json:"name"`
	A    string `json:"a,omitempty"`
	B    string `json:"b,omitempty"`
}

// FileList is a list that may be cut.
type FileList struct {
	Total int      `json:"total"`
	Bytes int64    `json:"bytes"` // of all of them; of changed files, in B
	Paths []string `json:"paths,omitempty"`
}

// Compare compares the facts of two images that were inspected with
// Options.Tree. limit bounds each list of paths; -1 means no bound. Times are
// not compared.
func Compare(a, b *Facts, limit int) *Difference {
	d := &Difference{A: a.Digest, B: b.Digest, Size: [2]int64{a.Size, b.Size}, Unpacked: [2]int64{a.Unpacked, b.Unpacked}}
	d.config(a, b)
	d.packages(a, b)
	count := map[string][2]int{}
	for i, f := range []*Facts{a, b} {
		for _, x := range f.Findings {
			n := count[x.Rule]
			n[i]++
			count[x.Rule] = n
		}
	}
	d.Findings = map[string][2]int{}
	for rule, n := range count {
		if n[0] != n[1] {
			d.Findings[rule] = n
		}
	}
	d.files(a.Tree, b.Tree, limit)
	return d
}

func (d *Difference) config(a, b *Facts) {
	x, y := &a.Config, &b.Config
	add := func(name, p, q string) {
		if p != q {
			d.Config = append(d.Config, Changed{name, p, q})
		}
	}
	add("zone", a.Zone.Label, b.Zone.Label)
	add("platform", a.Platform.String(), b.Platform.String())
	add("system", a.OS.Name, b.OS.Name)
	add("user", x.User, y.User)
	add("entry point", strings.Join(x.Entrypoint, " "), strings.Join(y.Entrypoint, " "))
	add("command", strings.Join(x.Cmd, " "), strings.Join(y.Cmd, " "))
	add("working directory", x.WorkingDir, y.WorkingDir)
	add("ports", strings.Join(x.Ports, " "), strings.Join(y.Ports, " "))
	add("stop signal", x.StopSignal, y.StopSignal)
	add("volumes", strings.Join(x.Volumes, " "), strings.Join(y.Volumes, " "))
	env := func(list []string) map[string]string {
		m := map[string]string{}
		for _, kv := range list {
			k, v, _ := strings.Cut(kv, "=")
			m[k] = v
		}
		return m
	}
	for _, set := range []struct {
		what string
		a, b map[string]string
	}{{"env ", env(x.Env), env(y.Env)}, {"label ", x.Labels, y.Labels}} {
		for _, k := range sortedUnion(set.a, set.b) {
			add(set.what+k, set.a[k], set.b[k])
		}
	}
}

func sortedUnion[V any](a, b map[string]V) []string {
	var keys []string
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func (d *Difference) packages(a, b *Facts) {
	versions := func(f *Facts) map[string][]string {
		m := map[string][]string{}
		for _, p := range f.Packages {
			k := p.Type + "\x00" + p.Name
			if !slices.Contains(m[k], p.Version) {
				m[k] = append(m[k], p.Version)
			}
		}
		return m
	}
	x, y := versions(a), versions(b)
	for _, k := range sortedUnion(x, y) {
		kind, name, _ := strings.Cut(k, "\x00")
		p, q := strings.Join(x[k], ", "), strings.Join(y[k], ", ")
		c := PackageChange{Type: kind, Name: name, A: p, B: q}
		switch {
		case p == "":
			d.PackagesAdded = append(d.PackagesAdded, c)
		case q == "":
			d.PackagesRemoved = append(d.PackagesRemoved, c)
		case p != q:
			d.PackagesChanged = append(d.PackagesChanged, c)
		}
	}
}

// files merges two lists that are sorted by path.
func (d *Difference) files(a, b []File, limit int) {
	put := func(l *FileList, f File) {
		l.Total++
		l.Bytes += f.Size
		if limit < 0 || len(l.Paths) < limit {
			l.Paths = append(l.Paths, f.Path)
		}
	}
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Path < b[0].Path:
			if a[0].Type != tar.TypeDir {
				put(&d.FilesRemoved, a[0])
			}
			a = a[1:]
		case len(a) == 0 || b[0].Path < a[0].Path:
			if b[0].Type != tar.TypeDir {
				put(&d.FilesAdded, b[0])
			}
			b = b[1:]
		default:
			x, y := a[0], b[0]
			x.Layer, y.Layer = 0, 0
			if x != y {
				put(&d.FilesChanged, y)
			} else if x.Type != tar.TypeDir {
				d.FilesSame++
			}
			a, b = a[1:], b[1:]
		}
	}
}
