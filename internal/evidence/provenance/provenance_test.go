package provenance

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protojson"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

func sum(s string) oci.Digest { return digest.FromString(s) }

func sample() Input {
	deb := func(name string) project.Package {
		return project.Package{Name: name, Version: "1", Arch: "amd64", Source: name, SourceVersion: "1", Archive: "debian/trixie", Suite: "trixie", Path: "pool/" + name, Size: 1, SHA256: sum(name)}
	}
	l := &project.Lock{Version: 1, Assembler: 1, Project: sum("asked"), AsOf: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		Archives: []project.Archive{{Name: "debian/trixie", Suite: "trixie", InRelease: sum("InRelease"), SignedBy: []string{"AB"}, Indexes: []project.Index{{Path: "main/binary-amd64/Packages.xz", SHA256: sum("index")}}}},
		Packages: []project.Package{deb("gcc"), deb("libc6"), deb("unused")},
		NPM: []project.NPMTree{{Lockfile: "package-lock.json", SHA256: sum("pl"), Packages: []project.NPMPackage{
			{Location: "node_modules/zod", Name: "zod", Version: "3", Integrity: digest.SHA512.FromString("zod")}}}},
		Tools: []project.Tool{{Name: "npm", Version: "11", Path: "npm/-/npm-11.tgz", Digest: digest.SHA512.FromString("npm")}},
	}
	o := &build.Origins{Version: 1, Image: sum("image"), Name: "shop", Zone: oci.Production, Platform: oci.Platform{OS: "linux", Architecture: "amd64"},
		AsOf: l.AsOf, Project: l.Project, Lock: digestOf(l), Packages: []project.Package{deb("libc6")},
		Steps: []build.StepRecord{
			{Step: "compile", Run: []string{"make"}, Workdir: "/work", Env: map[string]string{"A": "b"}, Tree: "t", Version: 1, Digest: sum("r1"),
				Packages: []oci.Digest{sum("gcc")}, Deps: []oci.Digest{digest.SHA512.FromString("zod")}, Inputs: []build.InputFile{{Path: "main.c", SHA256: sum("main.c")}},
				Outputs: []build.OutputFile{{Output: "dist", Kind: "artifact", Path: "dist/a", SHA256: sum("a")}}},
			{Step: "test", Run: []string{"make", "test"}, Version: 1, Digest: sum("r2"), Packages: []oci.Digest{sum("gcc")}, After: []build.OutputFile{{Path: "dist/a", SHA256: sum("a")}}},
		},
		Paths: []build.PathOrigin{
			{Path: "app/a", Type: "file", Origin: filetree.Origin{Kind: filetree.FromArtifact, Name: "compile:dist", Digest: sum("r1")}},
			{Path: "app/conf", Type: "file", Origin: filetree.Origin{Kind: filetree.FromSource, Name: "conf", Digest: sum("conf")}},
			{Path: "etc/passwd", Type: "file", Origin: filetree.Origin{Kind: filetree.FromGenerated, Name: "users", Digest: sum("users")}},
			{Path: "usr/lib/libc.so.6", Type: "file", Origin: filetree.Origin{Kind: filetree.FromPackage, Name: "libc6", Digest: sum("libc6")}},
		}}
	return Input{Origins: o, Lock: l, Layers: []string{image.Gzip.MediaType()}, Version: "1.0"}
}

func TestMake(t *testing.T) {
	p, err := Make(sample())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var v slsa.Provenance
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if err := v.Validate(); err != nil {
		t.Errorf("SLSA: %v", err)
	}
	got := map[string]bool{}
	for _, r := range v.BuildDefinition.ResolvedDependencies {
		got[r.Name] = true
	}
	for _, want := range []string{"gcc_1_amd64", "libc6_1_amd64", "zod@3", "npm@11", "InRelease", "main/binary-amd64/Packages.xz", "main.c", "conf", "package-lock.json", "twinhull.lock"} {
		if !got[want] {
			t.Errorf("%s is not among the inputs", want)
		}
	}
	if got["unused_1_amd64"] || len(got) != 10 {
		t.Errorf("inputs: %v", got)
	}
	q := p.RunDetails.Metadata.Properties
	if !q.Hermetic || !q.Parameterless || !q.DependenciesComplete || q.Reproduced || len(q.Missing) != 1 {
		t.Errorf("%+v", q)
	}
	again, err := Make(sample())
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := json.Marshal(again); string(c) != string(b) {
		t.Error("two runs differ")
	}
	if strings.Contains(string(b), "LEVEL") || strings.Contains(string(b), "level") {
		t.Error("provenance claims a level")
	}
	if _, err := Parse(b); err != nil {
		t.Error(err)
	}
	if a, err := ParseAny(b); err != nil || a.Builder != BuilderID || len(a.Dependencies) != 10 {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestProperties takes away what each property stands on.
func TestProperties(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Input)
		holds  func(Properties) bool
		says   string
	}{
		{"a step outside the sandbox", func(i *Input) { i.Origins.Steps[0].Version = 0 }, func(p Properties) bool { return p.Hermetic }, "did not run in the sandbox"},
		{"a compiler with a memory", func(i *Input) { i.Lock.Tools[0].Name = "go"; i.Origins.Lock = digestOf(i.Lock) }, func(p Properties) bool { return p.Hermetic }, "earlier runs"},
		{"another codec", func(i *Input) { i.Layers = []string{image.Zstd.MediaType()} }, func(p Properties) bool { return p.Parameterless }, "command line"},
		{"layers unknown", func(i *Input) { i.Layers = nil }, func(p Properties) bool { return p.Parameterless }, "not known"},
		{"a file of an unknown package", func(i *Input) { i.Origins.Paths[3].Origin.Digest = sum("x") }, func(p Properties) bool { return p.DependenciesComplete }, "/usr/lib/libc.so.6"},
		{"a file of an unknown step", func(i *Input) { i.Origins.Paths[0].Origin.Digest = sum("x") }, func(p Properties) bool { return p.DependenciesComplete }, "/app/a"},
		{"a file without an origin", func(i *Input) { i.Origins.Paths[2].Origin = filetree.Origin{} }, func(p Properties) bool { return p.DependenciesComplete }, "/etc/passwd"},
		{"a step with an unknown package", func(i *Input) { i.Origins.Steps[0].Packages = []oci.Digest{sum("x")} }, func(p Properties) bool { return p.DependenciesComplete }, "input of step compile"},
		{"an input of an earlier step that did not make it", func(i *Input) { i.Origins.Steps[1].After[0].SHA256 = sum("x") }, func(p Properties) bool { return p.DependenciesComplete }, "of an earlier step"},
		{"rebuilt otherwise", func(i *Input) { i.Rebuilds = []Rebuild{{"x", i.Origins.Lock, sum("x"), sum("c")}} }, func(p Properties) bool { return p.Reproduced }, "reproduced"},
		{"rebuilt from something else", func(i *Input) { i.Rebuilds = []Rebuild{{"x", sum("x"), i.Origins.Image, sum("c")}} }, func(p Properties) bool { return p.Reproduced }, "reproduced"},
		{"rebuilt by nobody", func(i *Input) { i.Rebuilds = []Rebuild{{"", i.Origins.Lock, i.Origins.Image, ""}} }, func(p Properties) bool { return p.Reproduced }, "reproduced"},
	} {
		in := sample()
		c.change(&in)
		p, err := Make(in)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		q := p.RunDetails.Metadata.Properties
		if c.holds(q) || !strings.Contains(strings.Join(q.Missing, "\n"), c.says) {
			t.Errorf("%s: %+v", c.name, q)
		}
	}
	in := sample()
	in.Rebuilds = []Rebuild{{"other", in.Origins.Lock, in.Origins.Image, sum("claim")}}
	if p, err := Make(in); err != nil || !p.RunDetails.Metadata.Properties.Reproduced {
		t.Errorf("reproduced: %+v, %v", p.RunDetails, err)
	}
	in = sample()
	in.Lock.Tools = nil
	if _, err := Make(in); err == nil {
		t.Error("provenance with another lock")
	}
}

func FuzzParse(f *testing.F) {
	p, err := Make(sample())
	if err != nil {
		f.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"buildDefinition":{"buildType":"x"},"runDetails":{"builder":{"id":"y:z"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := Parse(data); err == nil && (p.BuildDefinition.BuildType != BuildType || p.RunDetails.Builder.ID == "") {
			t.Fatal("read provenance without a builder")
		}
		if a, err := ParseAny(data); err == nil && a.Builder == "" {
			t.Fatal("read provenance without a builder")
		}
	})
}
