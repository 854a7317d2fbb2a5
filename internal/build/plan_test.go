package build

import (
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/progress"
	"twinhull.dev/twinhull/internal/project"
)

func TestOrderSteps(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		names := []string{"a", "b", "c", "d", "e"}
		var steps []project.Step
		for i, n := range rapid.Permutation(names).Draw(r, "order") {
			s := project.Step{Name: n}
			for j := range names {
				// Only along the alphabet, so that there is no circle.
				if names[j] < n && rapid.Bool().Draw(r, "after") {
					s.After = append(s.After, names[j]+[]string{"", ":out"}[i%2])
				}
			}
			steps = append(steps, s)
		}
		at := map[string]int{}
		ordered := orderSteps(steps)
		for i, s := range ordered {
			at[s.Name] = i
			for _, a := range s.After {
				name, _, _ := strings.Cut(a, ":")
				if j, ok := at[name]; !ok || j >= i {
					r.Fatalf("%s comes before %s", s.Name, name)
				}
			}
		}
		if len(ordered) != len(names) {
			r.Fatalf("%d steps of %d", len(ordered), len(names))
		}
	})
	// Without need the file's order stays.
	steps := []project.Step{{Name: "z"}, {Name: "m", After: []string{"b"}}, {Name: "a"}, {Name: "b"}}
	var got []string
	for _, s := range orderSteps(steps) {
		got = append(got, s.Name)
	}
	if d := cmp.Diff([]string{"z", "b", "m", "a"}, got); d != "" {
		t.Error(d)
	}
}

func TestNeededSteps(t *testing.T) {
	b := &Builder{file: &project.File{}}
	out := func(p string) []project.Output { return []project.Output{{Path: p, Kind: project.KindArtifact}} }
	w := &work{b: b, steps: []project.Step{
		{Name: "gen", Outputs: out("gen")}, {Name: "compile", After: []string{"gen:gen"}, Outputs: out("dist")}, {Name: "docs", Outputs: out("docs")}, {Name: "test", After: []string{"compile"}},
	}}
	for _, c := range []struct {
		zones     []oci.Zone
		artifacts map[string]string
		want      map[string]bool
	}{
		{[]oci.Zone{oci.Production}, nil, map[string]bool{"gen": true, "compile": true, "docs": true, "test": true}},
		{[]oci.Zone{oci.Development, oci.Production}, nil, map[string]bool{"gen": true, "compile": true, "docs": true, "test": true}},
		{[]oci.Zone{oci.Development}, nil, map[string]bool{}},
		{[]oci.Zone{oci.Development}, map[string]string{"dist": "/x"}, map[string]bool{"gen": true, "compile": true}},
		{[]oci.Zone{oci.Development}, map[string]string{"docs:docs": "/x"}, map[string]bool{"docs": true}},
	} {
		w.zones, b.file.Development.Artifacts = c.zones, c.artifacts
		if d := cmp.Diff(c.want, w.neededSteps()); d != "" {
			t.Errorf("%v %v: %s", c.zones, c.artifacts, d)
		}
	}
}

func TestStepIDs(t *testing.T) {
	arm, amd := oci.Platform{OS: "linux", Architecture: "arm64"}, oci.Platform{OS: "linux", Architecture: "amd64"}
	w := &work{b: &Builder{file: &project.File{Platforms: []oci.Platform{amd, arm}}}, steps: []project.Step{{Name: "host", Platform: "host"}, {Name: "each", Platform: "each", Outputs: []project.Output{{Path: "bin"}}}}}
	for _, c := range []struct {
		name string
		plat oci.Platform
		want []string
	}{
		{"host", arm, []string{"step:host"}}, {"each", arm, []string{"step:each/linux/arm64"}},
		{"each", oci.Platform{}, []string{"step:each/linux/amd64", "step:each/linux/arm64"}}, {"none", arm, nil}, {w.maker("bin"), amd, []string{"step:each/linux/amd64"}},
	} {
		if d := cmp.Diff(c.want, w.stepIDs(c.name, c.plat)); d != "" {
			t.Errorf("%s %s: %s", c.name, c.plat, d)
		}
	}
}

// Any change in a description changes the key: every field of every struct that
// is in one, found by reflection, so that a field added later is covered too.
func TestKeys(t *testing.T) {
	for _, d := range []any{
		&rootDescription{}, &imageDescription{}, &StepRecord{}, &struct{ NPM []project.NPMPackage }{}, &struct{ Go []project.GoModule }{},
	} {
		base := reflect.New(reflect.TypeOf(d).Elem())
		fill(base.Elem(), 1)
		key := keyOf("k", 1, base.Interface())
		if keyOf("k", 1, base.Interface()) != key {
			t.Errorf("%T: two keys for one description", d)
		}
		if keyOf("k", 2, base.Interface()) == key || keyOf("j", 1, base.Interface()) == key {
			t.Errorf("%T: the version or the kind does not count", d)
		}
		leaves(base.Elem(), "", func(name string, v reflect.Value) {
			old := reflect.New(v.Type()).Elem()
			old.Set(v)
			fill(v, 2)
			if keyOf("k", 1, base.Interface()) == key {
				t.Errorf("%T: a change of %s does not change the key", d, name)
			}
			v.Set(old)
		})
		if keyOf("k", 1, base.Interface()) != key {
			t.Errorf("%T: the test did not put a value back", d)
		}
	}
}

// fill gives everything in v a value that n tells apart.
func fill(v reflect.Value, n int) {
	if v.Type().String() == "time.Time" {
		v.Set(reflect.ValueOf(day.AddDate(0, 0, n)))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.Repeat("s", n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Bool:
		v.SetBool(n%2 == 1)
	case reflect.Slice:
		s := reflect.MakeSlice(v.Type(), n, n)
		for i := range n {
			fill(s.Index(i), n)
		}
		v.Set(s)
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		for i := range n {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(k, i+1)
			fill(e, n)
			m.SetMapIndex(k, e)
		}
		v.Set(m)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		fill(p.Elem(), n)
		v.Set(p)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic("no value for " + v.Type().String())
	}
}

// leaves calls f with everything below v that holds no struct.
func leaves(v reflect.Value, name string, f func(string, reflect.Value)) {
	if v.Type().String() == "time.Time" {
		f(name, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" {
				leaves(v.Field(i), name+"."+v.Type().Field(i).Name, f)
			}
		}
	case reflect.Pointer:
		leaves(v.Elem(), name, f)
	case reflect.Slice:
		f(name, v)
		if v.Len() > 0 && v.Type().Elem().Kind() == reflect.Struct {
			leaves(v.Index(0), name+"[0]", f)
		}
	default:
		f(name, v)
	}
}

// What two builds of a step see differently gives them different keys, and what
// they do not see does not.
func TestStepKey(t *testing.T) {
	key := func(yaml string, files map[string]string) Key {
		t.Helper()
		all := demo()
		for k, v := range files {
			all[k] = v
		}
		if yaml != "" {
			all["twinhull.yaml"] = yaml
		}
		w := newWorld(t, nil, all)
		b, err := w.builder(nil)
		if err != nil {
			t.Fatal(err)
		}
		ws, err := b.work([]oci.Zone{oci.Production})
		if err != nil {
			t.Fatal(err)
		}
		sw, err := b.prepareStep(ws.steps[0], oci.Platform{}, ws.tools, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sw.record.Key
	}
	base := key("", nil)
	for name, same := range map[string]Key{
		"a file that is no input": key("", map[string]string{"other": "x"}),
		"production's ports":      key(projectFile("  workdir: /opt/app\n", "  workdir: /opt/app\n  ports: [80]\n"), nil),
		"another step":            key(projectFile("copy dist/a.txt seen", "copy dist/b.txt seen"), nil),
	} {
		if same != base {
			t.Errorf("%s changes the step's key", name)
		}
	}
	for name, other := range map[string]Key{
		"an input":    key("", map[string]string{"src/a.txt": "x"}),
		"a new input": key("", map[string]string{"src/new": ""}),
		"a link":      key("", map[string]string{"src/new": "-> a.txt"}),
		"the command": key(projectFile("program dist/run go", "program dist/run went"), nil),
		"an output":   key(projectFile("outputs: {dist: artifact}", "outputs: {dist: artifact, more: report}"), nil),
		"environment": key(projectFile("      inputs: [src/**]", "      environment: {A: b}\n      inputs: [src/**]"), nil),
		"the folder":  key(projectFile("  packages: [app-base]\nbuild", "  packages: [app-base]\n  workdir: /elsewhere\nbuild"), nil),
	} {
		if other == base {
			t.Errorf("%s does not change the step's key", name)
		}
	}
}

func TestStaleReasons(t *testing.T) {
	const goMod = "module example.org/x\n\ngo 1.24\n"
	yaml := strings.Replace(projectFile(), "  packages: [app-base]\nbuild", "  packages: [app-base]\n  dependencies: {go: true}\nbuild", 1)
	files := demo()
	files["twinhull.yaml"], files["go.mod"] = yaml, goMod
	w := newWorld(t, nil, files)
	l := w.lock()
	f := w.file()
	if got, err := Stale(f, l); err != nil || len(got) > 0 {
		t.Fatalf("%v %v", got, err)
	}
	w.write(map[string]string{"go.sum": "example.org/y v1.0.0 h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nexample.org/y v1.0.0/go.mod h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"})
	if got, err := Stale(f, l); err != nil || len(got) != 1 || !strings.Contains(got[0], "go.sum has changed") {
		t.Errorf("%v %v", got, err)
	}
	w.write(map[string]string{"go.mod": "-> /etc/passwd", "go.sum": ""})
	if got, err := Stale(f, l); err != nil || len(got) != 1 || !strings.Contains(got[0], "development.dependencies.go: go.mod") {
		t.Errorf("%v %v", got, err)
	}
	if _, err := Resolve(t.Context(), ResolveConfig{File: f, Vault: w.vault, Fetch: w.fetch, Site: w.site, Progress: progress.Discard, Now: day}); err == nil {
		t.Error("a go.mod outside of the project was read")
	}
}

// What a set demands and the archive cannot give is said with its names.
func TestResolveSets(t *testing.T) {
	w := newWorld(t, []pkg{{name: "needy", fields: "Depends: not-there (>= 2)\n", files: map[string]string{"usr/x": "x"}}}, demo())
	resolve := func() error {
		_, err := Resolve(t.Context(), ResolveConfig{File: w.file(), Vault: w.vault, Fetch: w.fetch, Site: w.site, Progress: progress.Discard, Now: day})
		return err
	}
	w.write(map[string]string{"twinhull.yaml": projectFile("packages: [app-base]", "packages: [app-base, needy]")})
	wantError(t, resolve(), "development on linux/"+runtime.GOARCH, "production on linux/"+runtime.GOARCH, "needy", "not-there")
	w.write(map[string]string{"twinhull.yaml": projectFile("packages: [app-base]", "packages: [app-bse]")})
	wantError(t, resolve(), "app-bse")
	// A tool that the development image does not have cannot be asked for.
	w.write(map[string]string{"twinhull.yaml": projectFile("build:\n", "build:\n  tools: [app-base]\n")})
	if err := resolve(); err != nil {
		t.Error(err)
	}
	l := w.lock()
	for i := range l.Closures {
		if l.Closures[i].Set == "development" {
			l.Closures[i].Packages = l.Closures[i].Packages[1:]
		}
	}
	wantError(t, checkTools(l, w.file()), "build.tools resolve to packages that the development image has not")
}
