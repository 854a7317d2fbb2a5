// Package twinhull holds no code: its tests keep the shape of the module, which
// package may import which, which are pure, and that each says what it is.
package twinhull

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "twinhull.dev/twinhull/"

// room is one package and those of ours that it may import.
type room struct {
	name string
	may  string // names of rooms above it in the list
	why  string // it stands where it does
}

// order is the import order: a room may import only what its line names, and a
// line may name only rooms above it. It follows the flow of the work (asked,
// exists, made, met), so that a change reaches downwards and never back. A new
// import is a decision: change the line, and its reason with it.
var order = []room{
	{"internal/durable", "", "complete or absent: every package that writes stands on it, and it knows no format"},
	{"internal/progress", "", "talk for a person: anything may report, and it reads nothing back"},
	{"internal/oci", "durable", "the words of images, which all others share"},
	{"internal/filetree", "oci", "file trees as data, so that those who make them need not know those who write them"},
	{"internal/project", "oci durable", "what is asked, and the lock: knows no archive, so that reading a project needs none"},

	{"internal/source/site", "", "this machine's mirrors: the only place that knows a server's name, apart from all that is locked"},
	{"internal/source/xz", "", "a codec: bytes to bytes"},
	{"internal/source/vault", "oci durable progress", "bytes by digest: knows neither where they come from nor what they are"},
	{"internal/source/fetch", "oci durable progress source/site source/vault", "the only way from the network to the vault"},
	{"internal/source/debfile", "oci durable filetree source/xz", "one package file: what is in it, not where it is from or who needs it"},
	{"internal/source/deb", "oci durable progress project source/site source/fetch source/vault source/xz", "archives and resolution: by indexes, never by opening a package"},
	{"internal/source/npm", "oci durable filetree progress project source/site source/fetch source/vault", "npm's locked dependencies; does not know the other languages"},
	{"internal/source/gomod", "oci durable filetree progress project source/site source/fetch source/vault", "Go's locked dependencies; does not know the other languages"},

	{"internal/sandbox", "", "one command over one tree: knows no image and no package, so that it can be judged alone"},
	{"internal/image", "oci durable filetree progress", "trees to images: knows no package and runs nothing, so that equal trees give equal bits"},
	{"internal/elfclosure", "oci", "one question about ELF files, asked of trees that are made and of images of anybody"},
	{"internal/build", "oci durable filetree progress project source/site source/fetch source/vault source/xz source/debfile source/deb source/npm source/gomod sandbox image elfclosure", "the plan and its run: the one place where sources, sandbox and images meet"},

	{"internal/inspect", "oci image elfclosure", "facts from an image's bytes: knows no project, so that anybody's image can be read, and judges nothing"},
	{"internal/inspect/corpus", "oci image inspect", "bad and clean images for tests, by the rule that each breaks"},

	{"internal/evidence/strictjson", "", "JSON that two programs cannot read in two ways: knows no document"},
	{"internal/evidence", "oci evidence/strictjson", "statements and what they are about: text, which proves nothing"},
	{"internal/evidence/vex", "oci evidence/strictjson", "one question about somebody's statement"},
	{"internal/evidence/vuln/version", "source/deb", "the order of versions: knows no vulnerability; Debian's is where Debian is"},
	{"internal/evidence/vuln", "oci durable inspect evidence evidence/strictjson evidence/vuln/version", "known vulnerabilities of what was inspected: finds, and judges nothing"},
	{"internal/evidence/absence", "oci evidence/strictjson", "the form of a proof; who reads images and who judges stand beside it"},
	{"internal/evidence/summary", "oci evidence evidence/strictjson", "the form of a verdict; the gate gives it"},
	{"internal/evidence/origin", "oci build evidence", "why each file is there, as a claim"},
	{"internal/evidence/provenance", "oci filetree project image build evidence evidence/strictjson", "the builder's record as SLSA provenance"},
	{"internal/evidence/sbom", "oci filetree project build evidence evidence/strictjson", "the builder's record as bills of materials"},
	{"internal/evidence/testresult", "oci project build evidence evidence/strictjson", "what test tools left, as totals"},
	{"internal/evidence/known", "oci project build evidence evidence/origin evidence/provenance evidence/sbom evidence/testresult", "all that the builder can claim, in one place"},
	{"internal/trust", "oci project evidence evidence/strictjson", "the only way from bytes to a claim: knows no registry, so that where a claim was found cannot matter"},
	{"internal/trust/referrers", "oci image build evidence trust", "where claims are kept; what it finds nobody believes yet"},

	{"internal/registry/catalog", "oci", "names, versions and where they belong: words that decisions use, and nothing that is kept"},
	{"internal/policy", "oci project inspect evidence evidence/vex registry/catalog", "the decision: facts and claims as plain data, so that who gathers them cannot matter"},
	{"internal/gate", "oci project image build inspect evidence evidence/strictjson evidence/absence evidence/origin evidence/provenance evidence/sbom evidence/summary evidence/testresult evidence/vex evidence/vuln trust trust/referrers policy", "gathers, opens and asks: the one door to a verdict"},

	{"internal/audit", "oci durable evidence/strictjson", "the log: what an entry is, not when one is due"},
	{"internal/registry/store", "oci", "records and bytes: knows no repository, so that every rule is written once above it"},
	{"internal/registry/store/memory", "oci registry/store", "a store"},
	{"internal/registry/store/overlay", "registry/store", "writes before they are made: a part of the stores of records"},
	{"internal/registry/store/files", "oci durable registry/store registry/store/overlay", "a store"},
	{"internal/registry/store/postgres", "registry/store registry/store/overlay", "a store of records"},
	{"internal/registry/store/s3", "oci registry/store", "a store of bytes"},
	{"internal/registry/store/storetest", "oci registry/store", "what every store must do"},
	{"internal/registry/store/storetest/outside", "", "servers for tests: knows no store"},
	{"internal/registry", "oci project audit registry/catalog registry/store", "the rules of what is kept: knows no protocol, no user and no gate"},
	{"internal/registry/access", "project audit registry/catalog registry", "who may do what: pure but for its edges, knows no protocol's routes"},
	{"internal/registry/distribution", "oci audit registry/catalog registry/store registry", "one protocol over the registry: reads requests, decides nothing"},
	{"internal/registry/distribution/conformance", "oci", "the specification as tests of any registry: knows an address only"},
	{"internal/registry/release", "oci durable image inspect evidence evidence/strictjson evidence/summary evidence/vuln trust trust/referrers policy gate audit registry/catalog registry/store registry", "the gate in front of production: judges, signs, and asks the registry to do it"},
	{"internal/registry/release/client", "oci image gate audit registry/catalog registry registry/release", "the other end of the release service's requests"},
	{"internal/server", "oci durable project evidence/vuln trust policy audit registry/catalog registry/store registry/store/memory registry/store/files registry/store/postgres registry/store/s3 registry registry/access registry/distribution registry/release", "wiring of the registry's server, by hand in one place"},

	{"internal/cli", "oci durable filetree progress project source/site source/fetch source/vault source/debfile source/deb source/npm source/gomod sandbox image build inspect evidence evidence/strictjson evidence/known evidence/provenance evidence/sbom evidence/summary evidence/testresult evidence/vex evidence/vuln trust trust/referrers policy gate audit registry/catalog registry registry/release registry/release/client server", "wiring for a person at a terminal"},
	{"cmd/twinhull", "sandbox cli", "main: the sandbox's own processes first, then the command line"},
}

// pure are the packages whose answers depend on their arguments alone: no
// network, no disk, no clock, no chance. The files named after them are their
// edges, where a caller that wants the disk finds it.
var pure = []struct{ name, edges, why string }{
	{"internal/oci", "layout.go", "the words are used in decisions"},
	{"internal/project", "read.go lockread.go lockwrite.go", "parsing and checking must not depend on where they run"},
	{"internal/source/xz", "", "a codec"},
	{"internal/source/deb", "release.go fetch.go", "the same indexes must always resolve to the same set"},
	{"internal/evidence/strictjson", "", "a reader of bytes"},
	{"internal/evidence", "", "a statement depends on what it says"},
	{"internal/evidence/vex", "", "whether a finding is silenced depends on documents and time given"},
	{"internal/evidence/vuln/version", "", "versions compare alike everywhere"},
	{"internal/evidence/vuln", "import.go spool.go db.go zip.go", "what is found depends on the database, the packages and the time given"},
	{"internal/evidence/absence", "", "data"},
	{"internal/evidence/summary", "", "whether a summary is accepted depends on what is expected, time included"},
	{"internal/evidence/provenance", "", "equal builds have equal provenance"},
	{"internal/evidence/sbom", "", "equal images have equal bills of materials"},
	{"internal/evidence/testresult", "", "totals of what is given"},
	{"internal/registry/catalog", "", "where a tag points depends on the versions alone"},
	{"internal/policy", "", "a verdict depends on what it is given, time included"},
}

// timeless are the packages that decide bits: no clock and no chance anywhere in
// them, because either would end in an image.
var timeless = []string{
	"internal/oci", "internal/filetree", "internal/project", "internal/source/xz", "internal/source/debfile",
	"internal/source/deb", "internal/source/npm", "internal/source/gomod", "internal/image", "internal/build",
}

type goPackage struct {
	Dir, ImportPath, Name string
	GoFiles, Imports      []string
}

func (p goPackage) room() string { return strings.TrimPrefix(p.ImportPath, module) }

// packages are ours, as the go command lists them; folders that hold only tests
// are left out.
func packages(t *testing.T) []goPackage {
	t.Helper()
	// -e: a package that does not compile is for its own tests to tell.
	out, err := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=Dir,ImportPath,Name,GoFiles,Imports", "./...").Output()
	if err != nil {
		exit, _ := errors.AsType[*exec.ExitError](err)
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			all = append(all, p)
		}
	}
}

func TestImportOrder(t *testing.T) {
	may := map[string][]string{}
	for _, r := range order {
		if _, twice := may[r.name]; twice {
			t.Errorf("%s stands twice in the order", r.name)
		}
		if r.why == "" {
			t.Errorf("%s stands in the order without a reason", r.name)
		}
		allowed := []string{}
		for _, name := range strings.Fields(r.may) {
			name = "internal/" + name
			if _, above := may[name]; !above {
				t.Errorf("the order lets %s import %s, which is not above it", r.name, name)
			}
			allowed = append(allowed, name)
		}
		may[r.name] = allowed
	}
	for _, p := range packages(t) {
		allowed, known := may[p.room()]
		if !known {
			t.Errorf("%s is not in the order: give it a line in deps_test.go, with a reason", p.room())
		}
		for _, wrong := range wrongImports(p, allowed) {
			t.Errorf("%s imports %s, which its line in deps_test.go does not name", p.room(), wrong)
		}
	}
}

func wrongImports(p goPackage, allowed []string) (wrong []string) {
	for _, imported := range p.Imports {
		if name, ours := strings.CutPrefix(imported, module); ours && !slices.Contains(allowed, name) {
			wrong = append(wrong, name)
		}
	}
	return wrong
}

func TestPurity(t *testing.T) {
	all := map[string]goPackage{}
	for _, p := range packages(t) {
		all[p.room()] = p
	}
	for _, rule := range pure {
		p, ok := all[rule.name]
		if !ok {
			t.Errorf("%s is said to be pure and does not exist", rule.name)
		}
		edges := strings.Fields(rule.edges)
		for _, e := range edges {
			if !slices.Contains(p.GoFiles, e) {
				t.Errorf("%s has no file %s, which is said to be its edge", rule.name, e)
			}
		}
		for _, file := range p.GoFiles {
			if !slices.Contains(edges, file) {
				for _, fault := range impurities(t, filepath.Join(p.Dir, file), nil, touchesWorld) {
					t.Errorf("%s is pure (%s), but %s", rule.name, rule.why, fault)
				}
			}
		}
	}
	for _, name := range timeless {
		p, ok := all[name]
		if !ok {
			t.Errorf("%s is said to be timeless and does not exist", name)
		}
		for _, file := range p.GoFiles {
			for _, fault := range impurities(t, filepath.Join(p.Dir, file), nil, chance) {
				t.Errorf("%s decides bits, but %s", name, fault)
			}
		}
	}
}

func chance(imported string) bool {
	return imported == "crypto/rand" || strings.HasPrefix(imported, "math/rand")
}

func touchesWorld(imported string) bool {
	switch {
	case chance(imported), imported == "os", imported == "net", imported == "syscall", imported == "runtime":
		return true
	case imported == module+"internal/durable", strings.HasPrefix(imported, "golang.org/x/sys/"):
		return true
	case imported == "net/url": // only text
		return false
	}
	return strings.HasPrefix(imported, "os/") || strings.HasPrefix(imported, "net/")
}

// impurities says what a file imports that bad refuses, and where it reads the
// clock. src is as in parser.ParseFile.
func impurities(t *testing.T, file string, src any, bad func(imported string) bool) (faults []string) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	at := func(p token.Pos) string {
		return fmt.Sprintf("%s:%d", filepath.Base(file), set.Position(p).Line)
	}
	clock := ""
	for _, i := range f.Imports {
		imported, _ := strconv.Unquote(i.Path.Value)
		if bad(imported) {
			faults = append(faults, at(i.Pos())+" imports "+imported)
		}
		if imported == "time" {
			clock = "time"
			if i.Name != nil {
				clock = i.Name.Name
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && clock != "" && x.Name == clock {
			switch s.Sel.Name {
			case "Now", "Since", "Until", "Local", "LoadLocation":
				faults = append(faults, at(s.Pos())+" uses time."+s.Sel.Name)
			}
		}
		return true
	})
	return faults
}

// TestRulesBite breaks each rule on purpose.
func TestRulesBite(t *testing.T) {
	p := goPackage{ImportPath: module + "internal/project", Imports: []string{"fmt", module + "internal/oci", module + "internal/build"}}
	if got := wrongImports(p, []string{"internal/oci"}); !slices.Equal(got, []string{"internal/build"}) {
		t.Errorf("wrong imports: %q", got)
	}
	const src = `package p
import (
	"net/url"
	"os"
	clock "time"
)
var _ = clock.Now
var _ = clock.UTC
var _ url.URL
var _ os.File
`
	want := []string{"p.go:4 imports os", "p.go:7 uses time.Now"}
	if got := impurities(t, "p.go", src, touchesWorld); !slices.Equal(got, want) {
		t.Errorf("impurities: %q, want %q", got, want)
	}
	if got := impurities(t, "p.go", src, chance); !slices.Equal(got, want[1:]) {
		t.Errorf("timeless: %q, want %q", got, want[1:])
	}
}
