// Package provenance makes SLSA provenance v1 from what the builder recorded:
// the origins document, the step records in it and the lock.
//
// Every input is named by its hash, and the properties of the build are
// computed from the records, each by itself; the package does not claim a level
// (there is no "level 4" in SLSA v1, and which build level holds depends on who
// keeps the key and where the build ran, which the records cannot know). It
// reads no clock: equal builds give equal provenance.
package provenance

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// BuildType says how the parameters are to be read: doc/claims.md.
const BuildType = "https://twinhull.dev/build/v1"

// BuilderID is the builder when it runs under its user's own account. Whoever
// runs builds as a service, with a key that steps cannot reach, has an id of
// its own.
const BuilderID = "https://twinhull.dev/builder/local/v1"

// Predicate is the SLSA provenance v1 predicate (slsa.dev/spec/v1.1/provenance).
type Predicate struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is what was asked for and with what.
type BuildDefinition struct {
	BuildType            string              `json:"buildType"`
	ExternalParameters   External            `json:"externalParameters"`
	InternalParameters   Internal            `json:"internalParameters"`
	ResolvedDependencies []evidence.Resource `json:"resolvedDependencies"`
}

// External is what the one who asked for the build controls: the project file
// and its lock, by digest, and which image of it. Nothing else can be given.
type External struct {
	Project  string            `json:"project"`
	Zone     oci.Zone          `json:"zone"`
	Platform string            `json:"platform"`
	Asked    map[string]string `json:"asked"` // digest of what the project file asks of the lock
	Lock     map[string]string `json:"lock"`  // digest of the lock's bytes
}

// Internal is what the builder chose.
type Internal struct {
	Assembler int      `json:"assembler"`
	AsOf      string   `json:"asOf"`   // creation time of the image, from the lock
	Layers    []string `json:"layers"` // media types of the layers
	Steps     []Step   `json:"steps,omitempty"`
}

// Step is a command that ran. Its record, with every file that it could see
// and left, is a byproduct.
type Step struct {
	Name     string            `json:"name"`
	Platform string            `json:"platform,omitempty"`
	Run      []string          `json:"run"`
	Workdir  string            `json:"workdir"`
	Env      map[string]string `json:"env,omitempty"`
	Tree     string            `json:"tree"` // key of the root that it ran over
	Sandbox  int               `json:"sandbox"`
	Record   map[string]string `json:"record"`
}

// RunDetails is how the build went.
type RunDetails struct {
	Builder    Builder             `json:"builder"`
	Metadata   Metadata            `json:"metadata"`
	Byproducts []evidence.Resource `json:"byproducts,omitempty"`
}

// Builder is who built.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// Metadata holds no times unless the caller gave one: provenance of the same
// build is the same bytes.
type Metadata struct {
	InvocationID string     `json:"invocationId,omitempty"`
	FinishedOn   string     `json:"finishedOn,omitempty"` // RFC 3339
	Properties   Properties `json:"twinhull_properties"`  // an extension field, named as SLSA asks
}

// Properties are the clauses of SLSA v0.1 level 4 that a builder can earn, each
// by itself. False means "not shown"; Missing says why.
type Properties struct {
	Hermetic             bool     `json:"hermetic"`             // steps had no network and saw declared inputs only
	Parameterless        bool     `json:"parameterless"`        // nothing but project file and lock decided the bits
	DependenciesComplete bool     `json:"dependenciesComplete"` // every byte of the image leads to a named input, a step or a generator
	Reproduced           bool     `json:"reproduced"`           // somebody else's build of the same inputs had the same digest
	Missing              []string `json:"missing,omitempty"`
}

// Rebuild is a second build of the same inputs, by another builder or on
// another machine.
type Rebuild struct {
	By     string     // the identity that claims it
	Lock   oci.Digest // what it built from
	Digest oci.Digest // of the image that it got
	Claim  oci.Digest // the claim that says so, opened by package trust
}

// Input is everything that Make needs.
type Input struct {
	Origins  *build.Origins
	Lock     *project.Lock // the lock that Origins.Lock names
	Layers   []string      // media types of the image's layers, bottom first
	Builder  string        // BuilderID when empty
	Version  string        // of this program
	Rebuilds []Rebuild     // opened claims of others; none shows nothing
}

// Make returns the predicate. It fails when the lock is not the one that the
// origins name: provenance of other inputs would be a lie.
func Make(in Input) (Predicate, error) {
	o := in.Origins
	if got := digestOf(in.Lock); got != o.Lock {
		return Predicate{}, fmt.Errorf("provenance: the lock has digest %s, the image was built from %s", got, o.Lock)
	}
	p := Predicate{BuildDefinition: BuildDefinition{
		BuildType: BuildType,
		ExternalParameters: External{Project: o.Name, Zone: o.Zone, Platform: o.Platform.String(),
			Asked: evidence.DigestSet(o.Project), Lock: evidence.DigestSet(o.Lock)},
		InternalParameters: Internal{Assembler: in.Lock.Assembler, AsOf: o.AsOf.UTC().Format(time.RFC3339), Layers: in.Layers},
	}}
	id := in.Builder
	if id == "" {
		id = BuilderID
	}
	p.RunDetails.Builder.ID = id
	if in.Version != "" {
		p.RunDetails.Builder.Version = map[string]string{"twinhull": in.Version}
	}
	for _, s := range o.Steps {
		step := Step{Name: s.Step, Run: s.Run, Workdir: s.Workdir, Env: s.Env, Tree: string(s.Tree), Sandbox: s.Version}
		if s.Platform != (oci.Platform{}) {
			step.Platform = s.Platform.String()
		}
		if s.Digest != "" {
			step.Record = evidence.DigestSet(s.Digest)
			p.RunDetails.Byproducts = append(p.RunDetails.Byproducts, evidence.Resource{Name: "step:" + s.Step, Digest: step.Record, MediaType: "application/vnd.twinhull.step.v1+json"})
		}
		p.BuildDefinition.InternalParameters.Steps = append(p.BuildDefinition.InternalParameters.Steps, step)
	}
	inputs := collect(o, in.Lock)
	p.BuildDefinition.ResolvedDependencies = inputs.sorted()
	p.RunDetails.Metadata.Properties = properties(in, inputs)
	return p, nil
}

func digestOf(l *project.Lock) oci.Digest { return digest.FromBytes(l.Encode()) }

// inputs are resources by what they are and their digest.
type inputs struct {
	byKey  map[string]evidence.Resource
	digest map[oci.Digest]bool
}

func (i *inputs) add(r evidence.Resource, d oci.Digest) {
	if d == "" {
		return
	}
	r.Digest = evidence.DigestSet(d)
	i.byKey[r.URI+"\x00"+r.Name+"\x00"+d.String()] = r
	i.digest[d] = true
}

func (i *inputs) sorted() []evidence.Resource {
	keys := make([]string, 0, len(i.byKey))
	for k := range i.byKey {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]evidence.Resource, len(keys))
	for n, k := range keys {
		out[n] = i.byKey[k]
	}
	return out
}

// collect names every input of the image: what the origins say was used, with
// the names that the lock has for it. All of what resolution stood on (indexes,
// releases, tools) is included too, because it decided what was used.
func collect(o *build.Origins, l *project.Lock) *inputs {
	in := &inputs{map[string]evidence.Resource{}, map[oci.Digest]bool{}}
	used := map[oci.Digest]bool{}
	for _, p := range o.Packages {
		used[p.SHA256] = true
	}
	for _, s := range o.Steps {
		for _, d := range slices.Concat(s.Packages, s.Deps) {
			used[d] = true
		}
		for _, f := range s.Inputs {
			in.add(evidence.Resource{Name: f.Path, URI: "file:" + f.Path}, f.SHA256)
		}
	}
	for _, p := range o.Paths {
		switch p.Origin.Kind {
		case filetree.FromPackage, filetree.FromModule:
			used[p.Origin.Digest] = true
		case filetree.FromSource:
			in.add(evidence.Resource{Name: p.Origin.Name, URI: "file:" + p.Origin.Name}, p.Origin.Digest)
		}
	}
	for _, p := range l.Packages {
		if used[p.SHA256] {
			in.add(evidence.Resource{Name: p.ID(), URI: evidence.DebURL(p.Archive, p.Suite, p.Name, p.Version, p.Arch)}, p.SHA256)
		}
	}
	for _, t := range l.NPM {
		in.add(evidence.Resource{Name: t.Lockfile, URI: "file:" + t.Lockfile}, t.SHA256)
		for _, p := range t.Packages {
			if used[p.Integrity] {
				in.add(evidence.Resource{Name: p.Name + "@" + p.Version, URI: evidence.NPMURL(p.Name, p.Version)}, p.Integrity)
			}
		}
	}
	for _, m := range l.Go {
		if !used[m.Zip] && !used[m.Mod] && !used[m.Info] {
			continue
		}
		uri := evidence.GoURL(m.Path, m.Version)
		in.add(evidence.Resource{Name: m.Path + "@" + m.Version + " zip", URI: uri}, m.Zip)
		in.add(evidence.Resource{Name: m.Path + "@" + m.Version + " mod", URI: uri}, m.Mod)
		in.add(evidence.Resource{Name: m.Path + "@" + m.Version + " info", URI: uri}, m.Info)
	}
	for _, t := range l.Tools {
		in.add(evidence.Resource{Name: t.Name + "@" + t.Version, URI: "tool:" + t.Path}, t.Digest)
	}
	for _, a := range l.Archives {
		in.add(evidence.Resource{Name: "InRelease", URI: "archive:" + a.Name + "/" + a.Suite, Annotations: map[string]any{"signedBy": a.SignedBy}}, a.InRelease)
		for _, x := range a.Indexes {
			in.add(evidence.Resource{Name: x.Path, URI: "archive:" + a.Name + "/" + a.Suite + "/" + path.Dir(x.Path)}, x.SHA256)
		}
	}
	in.add(evidence.Resource{Name: "twinhull.lock", URI: "file:twinhull.lock"}, o.Lock)
	return in
}

// properties earns each property or says what is missing.
func properties(in Input, known *inputs) Properties {
	p := Properties{Hermetic: true, Parameterless: true, DependenciesComplete: true}
	miss := func(to *bool, format string, a ...any) {
		*to = false
		p.Missing = append(p.Missing, fmt.Sprintf(format, a...))
	}
	o := in.Origins
	for _, s := range o.Steps {
		if s.Version < 1 {
			miss(&p.Hermetic, "hermetic: step %s did not run in the sandbox", s.Step)
		}
	}
	// Go's build cache is kept between runs of a project. Its entries are named
	// by the hash of their inputs, which an earlier step could have lied about;
	// the record does not say whether it was there.
	if len(o.Steps) > 0 && (len(in.Lock.Go) > 0 || slices.ContainsFunc(in.Lock.Tools, func(t project.Tool) bool { return t.Name == "go" })) {
		miss(&p.Hermetic, "hermetic: the compiler may have used what it kept from earlier runs")
	}
	for _, m := range in.Layers {
		if m != image.Gzip.MediaType() {
			miss(&p.Parameterless, "parameterless: layers of type %s were asked for on the command line", m)
			break
		}
	}
	if len(in.Layers) == 0 {
		miss(&p.Parameterless, "parameterless: the layers are not known")
	}
	steps := map[oci.Digest]bool{}
	made := map[oci.Digest]bool{}
	lost := 0
	var first string
	incomplete := func(what string) {
		if lost++; lost == 1 {
			first = what
		}
	}
	for _, s := range o.Steps {
		steps[s.Digest] = true
		for _, f := range s.Outputs {
			made[f.SHA256] = true
		}
	}
	for _, s := range o.Steps {
		for _, d := range slices.Concat(s.Packages, s.Deps) {
			if !known.digest[d] {
				incomplete("an input of step " + s.Step + ", " + d.String())
			}
		}
		for _, f := range s.After {
			if f.Link == "" && !made[f.SHA256] {
				incomplete("what step " + s.Step + " had of an earlier step, " + f.Path)
			}
		}
	}
	for _, q := range o.Packages {
		if !known.digest[q.SHA256] {
			incomplete("package " + q.ID())
		}
	}
	for _, f := range o.Paths {
		ok := false
		switch f.Origin.Kind {
		case filetree.FromPackage, filetree.FromModule, filetree.FromSource:
			ok = known.digest[f.Origin.Digest]
		case filetree.FromArtifact:
			ok = f.Origin.Digest != "" && steps[f.Origin.Digest]
		case filetree.FromGenerated:
			ok = f.Origin.Name != ""
		}
		if !ok {
			incomplete("/" + f.Path)
		}
	}
	if lost > 0 {
		miss(&p.DependenciesComplete, "dependencies complete: %d things lead to no named input, the first is %s", lost, first)
	}
	for _, r := range in.Rebuilds {
		if r.Digest == o.Image && r.Lock == o.Lock && r.By != "" && r.Claim != "" {
			p.Reproduced = true
		}
	}
	if !p.Reproduced {
		miss(&p.Reproduced, "reproduced: no other builder's claim of the same digest was given")
	}
	return p
}

// Parse reads a predicate that this package made. Provenance of another build
// type has other parameters and is refused here; ParseAny reads what all have.
func Parse(predicate json.RawMessage) (Predicate, error) {
	var p Predicate
	if err := strictjson.UnmarshalOpen(predicate, &p); err != nil {
		return Predicate{}, fmt.Errorf("provenance: %w", err)
	}
	if p.BuildDefinition.BuildType != BuildType {
		return Predicate{}, fmt.Errorf("provenance: build type %q, want %q", p.BuildDefinition.BuildType, BuildType)
	}
	if p.RunDetails.Builder.ID == "" {
		return Predicate{}, fmt.Errorf("provenance: no builder id")
	}
	return p, nil
}

// Any is what every SLSA provenance v1 has.
type Any struct {
	BuildType    string
	Builder      string
	Dependencies []evidence.Resource
}

// ParseAny reads provenance of any build type.
func ParseAny(predicate json.RawMessage) (Any, error) {
	var p struct {
		BuildDefinition struct {
			BuildType            string              `json:"buildType"`
			ExternalParameters   json.RawMessage     `json:"externalParameters"`
			InternalParameters   json.RawMessage     `json:"internalParameters"`
			ResolvedDependencies []evidence.Resource `json:"resolvedDependencies"`
		} `json:"buildDefinition"`
		RunDetails struct {
			Builder struct {
				ID string `json:"id"`
			} `json:"builder"`
		} `json:"runDetails"`
	}
	if err := strictjson.UnmarshalOpen(predicate, &p); err != nil {
		return Any{}, fmt.Errorf("provenance: %w", err)
	}
	if p.BuildDefinition.BuildType == "" || p.RunDetails.Builder.ID == "" || !strings.Contains(p.RunDetails.Builder.ID, ":") {
		return Any{}, fmt.Errorf("provenance: no buildType or no builder id")
	}
	return Any{p.BuildDefinition.BuildType, p.RunDetails.Builder.ID, p.BuildDefinition.ResolvedDependencies}, nil
}
