package build

import (
	"bytes"
	"encoding/json"
	"io"
	"path"
	"strings"

	"twinhull.dev/twinhull/internal/filetree"
)

// moduleTests are folders of a JavaScript package that hold its own tests.
var moduleTests = map[string]bool{
	"test": true, "tests": true, "__tests__": true, "benchmark": true, "benchmarks": true, ".github": true, ".nyc_output": true,
}

// maxModuleFile bounds the files that are searched for the name of a folder; a
// longer one is taken to name it.
const maxModuleFile = 4 << 20

// trimModules leaves out of installed npm packages what nothing loads: type
// declarations, source maps, readme files, and folders of tests that neither
// the package's manifest nor its code names. The entries' paths are those of
// the image. left is told of each that goes.
func (t trimmer) trimModules(entries []*filetree.Entry, left func(reason string, e *filetree.Entry)) ([]*filetree.Entry, error) {
	type module struct {
		files []*filetree.Entry
		tests map[string]bool // folders of moduleTests that it has
	}
	modules := map[string]*module{}
	split := func(p string) (root, rel, inside string, ok bool) {
		i := strings.Index("/"+p, "/node_modules/")
		if i < 0 {
			return "", "", "", false
		}
		rel = p[i:]
		_, inside, n := splitModule(rel)
		return p[:i+n], rel, inside, true
	}
	for _, e := range entries {
		root, _, inside, ok := split(e.Path)
		if !ok {
			continue
		}
		m := modules[root]
		if m == nil {
			m = &module{tests: map[string]bool{}}
			modules[root] = m
		}
		first, _, below := strings.Cut(inside, "/")
		if below && moduleTests[first] {
			m.tests[first] = true
		} else if e.IsReg() {
			m.files = append(m.files, e)
		}
	}
	for root, m := range modules {
		for dir := range m.tests {
			named, err := namesFolder(root, m.files, dir)
			if err != nil {
				return nil, err
			}
			m.tests[dir] = !named
		}
	}
	var out []*filetree.Entry
	for _, e := range entries {
		root, rel, inside, ok := split(e.Path)
		why := ""
		if ok {
			why = nodeReason(rel, e.IsDir())
			if first, _, _ := strings.Cut(inside, "/"); why == "" && modules[root].tests[first] {
				why = reasonTests
			}
		}
		if why != "" && !t.kept(e.Path, e.IsDir()) {
			left(why, e)
			continue
		}
		out = append(out, e)
	}
	return out, nil
}

// namesFolder tells whether a package's manifest says that something in the
// folder is part of what it offers, or whether its code names the folder.
func namesFolder(root string, files []*filetree.Entry, dir string) (bool, error) {
	for _, e := range files {
		base := path.Base(e.Path)
		manifest := e.Path == root+"/package.json"
		code := strings.HasSuffix(base, ".js") || strings.HasSuffix(base, ".cjs") || strings.HasSuffix(base, ".mjs")
		if !manifest && !code {
			continue
		}
		if e.Size > maxModuleFile {
			return true, nil
		}
		rc, err := e.Open()
		if err != nil {
			return false, err
		}
		data, err := io.ReadAll(rc)
		rc.Close()
		if err != nil {
			return false, err
		}
		if manifest {
			var m map[string]json.RawMessage
			if json.Unmarshal(data, &m) != nil {
				return true, nil
			}
			for _, field := range []string{"main", "module", "browser", "exports", "imports", "bin"} {
				if v := m[field]; bytes.Contains(v, []byte(`"`+dir+`/`)) || bytes.Contains(v, []byte(`/`+dir+`/`)) || bytes.Contains(v, []byte(`"`+dir+`"`)) || bytes.Contains(v, []byte(`/`+dir+`"`)) {
					return true, nil
				}
			}
			continue
		}
		// ./test, ../test, ../../test, before a quote or a slash
		for rest := data; ; {
			i := bytes.Index(rest, []byte("./"+dir))
			if i < 0 {
				break
			}
			if rest = rest[i+2+len(dir):]; len(rest) > 0 && bytes.IndexByte([]byte("'\"`/"), rest[0]) >= 0 {
				return true, nil
			}
		}
	}
	return false, nil
}
