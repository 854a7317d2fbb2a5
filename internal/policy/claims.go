package policy

import (
	"archive/tar"
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

// missing tells that there is no believed claim of a kind, and what there is
// instead.
func (j *judge) missing(kind evidence.Kind, what string) {
	if !j.in.Evidence.Trusted {
		if kind == evidence.Signature {
			j.add(CannotTell, Reason{Message: "nobody was named who may be believed", Remedy: "name a trust policy (--trust FILE) or a public key (--key FILE); `twinhull sign` and `twinhull attest` make the claims"})
			return
		}
		j.outcome(CannotTell, "nobody was named who may be believed: see %s", RuleSignature)
		return
	}
	told := false
	for _, p := range j.in.Evidence.Problems {
		if p.Kind == string(kind) {
			told = true
			j.cannotTellf("", "a %s claim that %s signed cannot be read: %s", kind, p.By, p.Why)
		}
	}
	for _, r := range j.in.Evidence.Rejected {
		if r.Kind == string(kind) {
			told = true
			j.failf("", "a %s claim is there and not believed: %s", kind, r.Why)
		}
	}
	if !told {
		j.failf("", "there is no believed %s", what)
	}
}

// troubled refuses because of claims of a kind that are believed and cannot be
// read: they might say something that matters.
func (j *judge) troubled(kind evidence.Kind) {
	for _, p := range j.in.Evidence.Problems {
		if p.Kind == string(kind) {
			j.cannotTellf("", "a %s claim that %s signed cannot be read: %s", kind, p.By, p.Why)
		}
	}
}

func by[T any](list []T, source func(T) Source) string {
	var names []string
	for _, c := range list {
		if n := source(c).By; !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return "by " + strings.Join(names, ", ")
}

func (j *judge) signature() {
	list := j.in.Evidence.Signatures
	if len(list) == 0 {
		j.missing(evidence.Signature, "signature")
		return
	}
	j.because("%s", by(list, func(s Source) Source { return s }))
}

// Properties of a build that a policy may require.
const (
	Hermetic             = "hermetic"
	Parameterless        = "parameterless"
	DependenciesComplete = "dependencies-complete"
	Reproduced           = "reproduced"
)

func (p Provenance) earned(property string) bool {
	switch property {
	case Hermetic:
		return p.Hermetic
	case Parameterless:
		return p.Parameterless
	case DependenciesComplete:
		return p.DependenciesComplete
	case Reproduced:
		return p.Reproduced
	}
	return false
}

func (j *judge) provenance() {
	list := j.in.Evidence.Provenance
	if len(list) == 0 {
		j.missing(evidence.Provenance, "provenance")
		return
	}
	// One that has everything is enough; without, all of them tell what they lack.
	var lacking []Reason
	for _, p := range list {
		bad := j.lacks(p)
		if len(bad) == 0 {
			j.because("%s, %s, builder %s", by([]Provenance{p}, func(p Provenance) Source { return p.Source }), plural(p.Inputs, "input"), p.Builder)
			return
		}
		lacking = append(lacking, bad...)
	}
	j.res.Reasons = append(j.res.Reasons, lacking...)
}

func (j *judge) lacks(p Provenance) (out []Reason) {
	no := func(o Outcome, subject, format string, a ...any) {
		out = append(out, Reason{Outcome: o, Subject: subject, Message: fmt.Sprintf(format, a...)})
	}
	if _, _, why := j.policy.builder(p.Builder, p.By); why != "" {
		no(Fail, p.Builder, "%s", why)
	}
	if p.Inputs == 0 {
		no(Fail, "inputs", "it names no input")
	}
	if p.Unnamed > 0 {
		no(Fail, "inputs", "%s without a hash", plural(p.Unnamed, "input"))
	}
	for _, want := range j.policy.Provenance.Require {
		if p.earned(want) {
			continue
		}
		why := ""
		for _, m := range p.Missing {
			if strings.HasPrefix(m, strings.ReplaceAll(want, "-", " ")) {
				_, why, _ = strings.Cut(m, ": ")
			}
		}
		switch {
		case !p.Known:
			no(CannotTell, want, "builder %s does not say whether the build was %s", p.Builder, want)
		case why != "":
			no(Fail, want, "the build was not %s: %s", want, why)
		default:
			no(Fail, want, "the build was not %s", want)
		}
	}
	return out
}

// levels are what a summary may say was verified. Those that depend on which
// builder it was are earned only where the policy says who may speak for it.
func (j *judge) levels() []string {
	best := 0
	var out []string
	for _, p := range j.in.Evidence.Provenance {
		if len(j.lacks(p)) > 0 {
			continue
		}
		level, bound, _ := j.policy.builder(p.Builder, p.By)
		best = max(best, level)
		for _, x := range []struct {
			earned bool
			name   string
		}{{p.Hermetic, "TWINHULL_HERMETIC"}, {p.Parameterless, "TWINHULL_PARAMETERLESS"}, {p.DependenciesComplete, "TWINHULL_DEPENDENCIES_COMPLETE"}, {p.Reproduced && bound, "SLSA_BUILD_REPRODUCED"}} {
			if x.earned && !slices.Contains(out, x.name) {
				out = append(out, x.name)
			}
		}
	}
	out = append(out, fmt.Sprintf("SLSA_BUILD_LEVEL_%d", best))
	slices.Sort(out)
	return out
}

// purlKey names a package without qualifiers: type, path and version.
func purlKey(purl string) (key string, ok bool) {
	s, ok := strings.CutPrefix(purl, "pkg:")
	if !ok {
		return "", false
	}
	s, _, _ = strings.Cut(s, "#")
	s, _, _ = strings.Cut(s, "?")
	if strings.Contains(s, "%") {
		u, err := url.PathUnescape(s)
		if err != nil {
			return "", false
		}
		s = u
	}
	kind, rest, ok := strings.Cut(s, "/")
	if !ok {
		return "", false
	}
	at := strings.LastIndexByte(rest, '@')
	if at <= 0 {
		return "", false
	}
	path, version := rest[:at], rest[at+1:]
	switch kind = strings.ToLower(kind); kind {
	case "deb", "apk", "rpm":
		// The vendor is whoever built the document's guess: a copy of Debian's
		// package in another distribution has its own version.
		path = path[strings.LastIndexByte(path, '/')+1:]
	case "golang":
		path = strings.ToLower(path)
		if path == "toolchain" || path == "go" {
			path = "stdlib" // the library comes with the compiler
		}
		version = strings.TrimPrefix(strings.TrimPrefix(version, "v"), "go")
	case "pypi":
		path = strings.ReplaceAll(strings.ToLower(path), "_", "-")
	case "npm":
		path = strings.ToLower(path)
	}
	return kind + "/" + path + "@" + version, true
}

var systemTypes = map[string]bool{inspect.Deb: true, inspect.Apk: true, inspect.RPM: true}

func (j *judge) sbom() {
	list := j.in.Evidence.SBOMs
	if len(list) == 0 {
		j.missing(evidence.SBOM, "bill of materials")
		return
	}
	if !j.facts.Complete {
		j.outcome(CannotTell, "not every byte of the image was read: see %s", inspect.RuleUnreadable)
		return
	}
	good := ""
	var wrong [][]Reason
	for _, s := range list {
		bad := j.disagrees(s)
		if len(bad) == 0 {
			good = cmp.Or(good, fmt.Sprintf("%s %s, %s", s.Format, by([]SBOM{s}, func(s SBOM) Source { return s.Source }), plural(len(s.Packages), "package")))
			continue
		}
		wrong = append(wrong, bad)
	}
	for _, bad := range wrong {
		for _, r := range bad {
			if good != "" { // there is a complete one; the other is worth knowing
				r.Outcome = Noted
			}
			j.res.Reasons = append(j.res.Reasons, r)
		}
	}
	j.because("%s", good)
}

// maxListed bounds the reasons of a rule that compares lists: an image with
// another's documents would have a hundred thousand.
const maxListed = 50

func (j *judge) disagrees(s SBOM) (out []Reason) {
	listed, names := make(map[string]bool, len(s.Packages)), make(map[string]bool, len(s.Packages))
	for _, c := range s.Packages {
		names[c.Name] = true
		if k, ok := purlKey(c.PURL); ok {
			listed[k] = true
		}
	}
	there := make(map[string]bool, len(j.facts.Packages))
	more := 0
	no := func(r Reason) {
		if len(out) >= maxListed {
			more++
			return
		}
		r.Outcome = Fail
		out = append(out, r)
	}
	for i := range j.facts.Packages {
		p := &j.facts.Packages[i]
		k, ok := purlKey(p.PURL)
		there[k] = true
		if ok && listed[k] || j.own(p) || j.brought(p, names) {
			continue
		}
		no(Reason{Subject: p.Name + " " + p.Version, Path: p.Location, Package: p.PURL, Layer: p.Layer, Message: fmt.Sprintf("%s does not list %s %s (%s)", s.Format, p.Name, p.Version, p.Type)})
	}
	for _, c := range s.Packages {
		k, ok := purlKey(c.PURL)
		kind, _, _ := strings.Cut(k, "/")
		if ok && systemTypes[kind] && !there[k] {
			no(Reason{Subject: c.Name + " " + c.Version, Package: c.PURL, Message: fmt.Sprintf("%s lists %s %s, which is not in the image", s.Format, c.Name, c.Version)})
		}
	}
	if more > 0 {
		out = append(out, Reason{Outcome: Fail, Message: fmt.Sprintf("%s disagrees in %d more packages", s.Format, more)})
	}
	return out
}

// own tells the application itself, which is no package that somebody released.
func (j *judge) own(p *inspect.Package) bool {
	switch p.Type {
	case inspect.Golang:
		return p.Version == "(devel)" || p.Version == ""
	case inspect.NPM:
		return !strings.Contains(p.Location, "/node_modules/")
	}
	return false
}

// brought tells whether the file that names a package was brought by another
// package of the bill: Debian's python3-numpy holds the metadata of numpy, an
// npm tarball the packages that it bundles.
func (j *judge) brought(p *inspect.Package, names map[string]bool) bool {
	o, ok := j.pathOrigin(strings.TrimPrefix(p.Location, "/"))
	switch {
	case !ok || !names[o.Name]:
		return false
	case o.Kind == "package":
		return true
	}
	// A module that brings its own name is the package itself, which must be
	// listed with its version.
	return o.Kind == "module" && o.Name != p.Name
}

func (j *judge) pathOrigin(path string) (Path, bool) {
	if len(j.in.Evidence.Origins) == 0 {
		return Path{}, false
	}
	o := &j.in.Evidence.Origins[0]
	i, ok := slices.BinarySearchFunc(o.Paths, path, func(p Path, s string) int { return strings.Compare(p.Path, s) })
	if !ok {
		return Path{}, false
	}
	return o.Paths[i], true
}

// kindsOfOrigin are the reasons why a file may be in a production image. A
// source is one file that the project file names by its path (production.files),
// never a folder that was copied.
var kindsOfOrigin = map[string]bool{"package": true, "module": true, "artifact": true, "source": true, "generated": true}

var typeNames = map[byte]string{tar.TypeReg: "file", tar.TypeDir: "folder", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink"}

func (j *judge) explained() {
	list := j.in.Evidence.Origins
	switch {
	case len(list) == 0:
		j.missing(evidence.Origins, "origins document")
		return
	case !j.facts.Complete:
		j.outcome(CannotTell, "not every byte of the image was read: see %s", inspect.RuleUnreadable)
		return
	case j.facts.Tree == nil && j.facts.Files > 0:
		j.cannotTellf("", "the inspection did not keep the image's files")
		return
	}
	for _, o := range list {
		j.explain(o)
	}
	j.because("%s, %s", by(list, func(o Origins) Source { return o.Source }), plural(len(j.facts.Tree), "path"))
}

// explain merges the image's paths with the document's; both are sorted.
func (j *judge) explain(o Origins) {
	more := 0
	no := func(path, format string, a ...any) {
		if len(j.res.Reasons) >= maxListed {
			more++
			return
		}
		j.add(Fail, Reason{Subject: "/" + path, Path: "/" + path, Message: fmt.Sprintf(format, a...)})
	}
	have, told := j.facts.Tree, o.Paths
	for len(have) > 0 || len(told) > 0 {
		switch {
		case len(told) == 0 || len(have) > 0 && have[0].Path < told[0].Path:
			no(have[0].Path, "nothing explains why it is there")
			have = have[1:]
		case len(have) == 0 || told[0].Path < have[0].Path:
			no(told[0].Path, "the origins document explains it, and it is not in the image")
			told = told[1:]
		default:
			h, t := &have[0], &told[0]
			switch {
			case !kindsOfOrigin[t.Kind] || t.Name == "":
				no(h.Path, "its origin is %q, which is no reason to be in production", cmp.Or(t.Kind, "nothing"))
			case typeNames[h.Type] != t.Type:
				no(h.Path, "the origins document explains a %s, it is something else", t.Type)
			case h.Type == tar.TypeReg && (h.SHA256 == "" || h.SHA256 != t.SHA256):
				no(h.Path, "its contents are not those that are explained")
			case h.Type == tar.TypeLink && o.contents(t) != "" && h.SHA256 != o.contents(t):
				no(h.Path, "it is another name of %q, whose contents are not those that are explained", h.Link)
			case h.Type == tar.TypeSymlink && h.Link != t.Link:
				no(h.Path, "it leads to %q, the origins document explains one to %q", h.Link, t.Link)
			}
			have, told = have[1:], told[1:]
		}
	}
	if more > 0 {
		j.failf("", "%s more", plural(more, "path"))
	}
}

// contents are those of a file, or of the one that a hard link is another name
// of; "" when the document does not say.
func (o *Origins) contents(p *Path) oci.Digest {
	if p.SHA256 != "" {
		return p.SHA256
	}
	i, ok := slices.BinarySearchFunc(o.Paths, p.Link, func(p Path, s string) int { return strings.Compare(p.Path, s) })
	if !ok {
		return ""
	}
	return o.Paths[i].SHA256
}

// ran tells whether a test passed. Tools that count nothing (a Go cover profile)
// show it by code that ran: a step whose tests fail leaves no image.
func (t Tests) ran() bool {
	if t.Counted {
		return t.Passed > 0
	}
	return slices.ContainsFunc(t.Coverage, func(c Coverage) bool { return c.Measured && c.Percent > 0 })
}

func (j *judge) tests() {
	list := j.in.Evidence.Tests
	if len(list) == 0 {
		j.missing(evidence.Tests, "test result")
		return
	}
	j.troubled(evidence.Tests)
	run := 0
	for _, t := range list {
		switch {
		case t.Failed > 0:
			j.failf(t.By, "%d of %s failed", t.Failed, plural(t.Tests, "test"))
		case t.Result != "PASSED":
			j.failf(t.By, "the test result that %s signed says %q", t.By, t.Result)
		case !t.ran():
			j.failf(t.By, "the test result that %s signed has no test that passed", t.By)
		}
		run += t.Passed
	}
	j.because("%d passed, %s", run, by(list, func(t Tests) Source { return t.Source }))
}

func (j *judge) testCoverage() {
	list := j.in.Evidence.Tests
	if len(list) == 0 {
		// What is missing is told by tests; both are one claim.
		if !j.in.Evidence.Trusted {
			j.outcome(CannotTell, "nobody was named who may be believed: see %s", RuleSignature)
		} else {
			// A reason, and not only an outcome, so that it can be waived.
			j.cannotTellf("", "there is no believed test result: see %s", RuleTests)
		}
		return
	}
	measured := 0
	for _, t := range list {
		for _, c := range t.Coverage {
			if !c.Measured {
				continue
			}
			measured++
			if c.Percent < j.policy.Coverage {
				j.failf(c.Unit, "%.2f %% of %s are covered, the policy wants %g %%", c.Percent, cmp.Or(c.Unit, "lines"), j.policy.Coverage)
			}
			j.because("%.2f %% of %s, at least %g %% wanted", c.Percent, cmp.Or(c.Unit, "lines"), j.policy.Coverage)
		}
	}
	if measured == 0 {
		j.cannotTellf("", "no believed test result measured coverage")
	}
}

func (j *judge) absence() {
	list := j.in.Evidence.Absence
	j.troubled(evidence.Absence)
	if len(list) == 0 {
		if len(j.res.Reasons) == 0 {
			j.outcome(NotApplicable, "nobody else inspected it")
		}
		return
	}
	for _, a := range list {
		same := len(a.Layers) == len(j.facts.Layers)
		for i := 0; same && i < len(a.Layers); i++ {
			same = a.Layers[i] == j.facts.Layers[i].Digest
		}
		if !same {
			j.failf(a.By, "the inspection that %s signed read other layers", a.By)
			continue
		}
		for _, r := range j.table {
			if r.Effect(j.in.Zone) != Refuses {
				continue
			}
			for _, id := range r.Findings {
				if n := a.Found[id]; n > 0 && len(j.byRule[id]) == 0 {
					j.failf(id, "the inspection that %s signed found %s %d times, this one did not", a.By, id, n)
				}
			}
		}
	}
	j.because("%s", by(list, func(a Absence) Source { return a.Source }))
}
