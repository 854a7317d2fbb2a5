package project

// What can only be judged when the whole file has been read: how its parts fit
// together. A check that builds on a part in which a mistake was already found
// is left out, so that one mistake is reported once.

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
)

func check(r *reader, f *File) {
	c := checker{r, f}
	c.tools()
	c.npm()
	outputs := c.outputs()
	c.steps(outputs)
	for _, zone := range []oci.Zone{oci.Development, oci.Production} {
		c.zone(zone, f.Spec(zone), outputs)
	}
	c.artifacts(outputs)
}

// Spec returns the specification of a zone. It panics on the zero Zone and on
// any other that oci.ParseZone would not return.
func (f *File) Spec(zone oci.Zone) *Spec {
	switch zone {
	case oci.Development:
		return &f.Development
	case oci.Production:
		return &f.Production
	}
	panic(fmt.Sprintf("no specification of zone %q", zone))
}

// Step returns the step of that name, or nil.
func (b *Build) Step(name string) *Step {
	for i := range b.Steps {
		if b.Steps[i].Name == name {
			return &b.Steps[i]
		}
	}
	return nil
}

type checker struct {
	*reader
	f *File
}

// report adds a problem at the place of the key.
func (c checker) report(key, message, hint string) {
	c.add(c.at[key], key, message, hint)
}

func (c checker) tools() {
	if c.under("build.tools") || c.under("development.packages") {
		return
	}
	var names []string
	for _, p := range c.f.Development.Packages {
		name, _ := PackageName(p)
		names = append(names, name)
	}
	for i, tool := range c.f.Build.Tools {
		if !slices.Contains(names, tool) {
			c.report(fmt.Sprintf("build.tools[%d]", i), didYouMean(fmt.Sprintf("%q is not in development.packages", shorten(tool)), tool, names),
				"steps run in the development image: add the package there, too")
		}
	}
}

func (c checker) npm() {
	dev, prod := c.f.Development.Dependencies.NPM, c.f.Production.Dependencies.NPM
	if prod == nil || c.under("development.dependencies") || c.under("production.dependencies") {
		return
	}
	const key = "production.dependencies.npm"
	switch {
	case dev == nil:
		c.report(key, "development.dependencies has no npm", "npm runs in the development image, and production's packages are a part of those: add npm: true there")
	case dev.Lockfile != prod.Lockfile:
		c.report(key, fmt.Sprintf("takes its packages from %q, but development from %q", prod.Lockfile, dev.Lockfile),
			"production's packages are a part of development's: name the same lock file in both")
	}
}

// produced is an output and the step that makes it.
type produced struct {
	step *Step
	Output
}

func (p produced) key() string { return join(join("build.steps", p.step.Name)+".outputs", p.Path) }

// outputs lists the outputs of all steps in byte order of their paths and
// checks that no two are the same or inside one another.
func (c checker) outputs() []produced {
	var all []produced
	steps := c.f.Build.Steps
	if len(steps) > maxSteps {
		c.report("build.steps", fmt.Sprintf("has %d steps: at most %d are allowed", len(steps), maxSteps), "")
		return nil
	}
	for i := range steps {
		s := &steps[i]
		if len(s.Outputs) > maxOutputs {
			c.report(join("build.steps", s.Name)+".outputs", fmt.Sprintf("has %d outputs: at most %d are allowed", len(s.Outputs), maxOutputs), "")
			return nil
		}
		for _, o := range s.Outputs {
			all = append(all, produced{s, o})
		}
	}
	// By parts, not by bytes: "a/b" comes before "a-b", so what is inside a
	// folder follows it at once.
	slices.SortStableFunc(all, func(a, b produced) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	outer := 0
	for i := 1; i < len(all); i++ {
		a, b := all[outer], all[i]
		if !inside(b.Path, a.Path) {
			outer = i
			continue
		}
		// Report at whichever comes later in the file.
		if before(c.at[b.key()], c.at[a.key()]) {
			a, b = b, a
		}
		switch {
		case a.Path == b.Path:
			c.report(b.key(), fmt.Sprintf("step %s has the output %q, too", a.step.Name, shorten(a.Path)), "let each step write to a path of its own")
		case inside(b.Path, a.Path):
			c.report(b.key(), fmt.Sprintf("lies in %q, an output of step %s", shorten(a.Path), a.step.Name), "outputs may not lie inside one another")
		default:
			c.report(b.key(), fmt.Sprintf("holds %q, an output of step %s", shorten(a.Path), a.step.Name), "outputs may not lie inside one another")
		}
	}
	return all
}

func before(a, b position) bool {
	return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column)) < 0
}

func (c checker) steps(outputs []produced) {
	names := make([]string, len(c.f.Build.Steps))
	for i, s := range c.f.Build.Steps {
		names[i] = s.Name
	}
	for i := range c.f.Build.Steps {
		s := &c.f.Build.Steps[i]
		key := join("build.steps", s.Name)
		if !c.under(key + ".after") {
			c.after(key, s, names)
		}
		if !c.under(key + ".inputs") {
			c.inputs(key, s, outputs)
		}
	}
	if !c.under("build.steps") {
		c.cycles()
	}
}

func (c checker) after(key string, s *Step, names []string) {
	for j, after := range s.After {
		here := fmt.Sprintf("%s.after[%d]", key, j)
		name, output, one := strings.Cut(after, ":")
		step := c.f.Build.Step(name)
		switch {
		case name == s.Name:
			c.report(here, "a step cannot come after itself", "")
		case step == nil:
			c.report(here, didYouMean(fmt.Sprintf("there is no step %q", shorten(name)), name, names), "")
		case one && !c.under(join("build.steps", name)+".outputs"):
			c.artifact(here, output, step.Outputs, "step "+name)
		}
	}
}

// artifact checks that the outputs hold the path as an artifact.
func (c checker) artifact(key, name string, outputs []Output, whose string) {
	var paths []string
	for _, o := range outputs {
		if o.Path == name {
			if o.Kind != KindArtifact {
				c.report(key, fmt.Sprintf("output %q of %s is of kind %s", shorten(name), whose, o.Kind), "only outputs of kind artifact are handed on")
			}
			return
		}
		paths = append(paths, o.Path)
	}
	message := didYouMean(fmt.Sprintf("%s has no output %q", whose, shorten(name)), name, paths)
	c.report(key, message, "what is handed on must be declared in the outputs of a step")
}

func (c checker) inputs(key string, s *Step, outputs []produced) {
	patterns, err := ParsePatterns(s.Inputs)
	if err != nil {
		c.report(key+".inputs", err.Error(), "") // each pattern was checked when it was read
		return
	}
	if len(patterns) > 0 && patterns[0].Exclude {
		c.report(key+".inputs[0]", "excludes from nothing", "the last pattern that matches a file decides: write exclusions after what they narrow")
	}
	for _, o := range outputs {
		if !patterns.Match(o.Path) && !patterns.MayContain(o.Path) {
			continue
		}
		switch {
		case o.step == s:
			c.report(key+".inputs", fmt.Sprintf("the output %q would be an input of the same step", shorten(o.Path)),
				fmt.Sprintf(`add "!%s"`, shorten(o.Path)))
		default:
			c.report(key+".inputs", fmt.Sprintf("%q is an output of step %s: what lies there in the project is left over from elsewhere", shorten(o.Path), o.step.Name),
				fmt.Sprintf(`add "!%s"; "after: [%s]" brings what the step made`, shorten(o.Path), o.step.Name))
		}
	}
}

// cycles finds steps that wait for one another.
func (c checker) cycles() {
	const (
		fresh = iota
		open
		done
	)
	state := map[string]int{}
	var trail []string
	var visit func(s *Step)
	visit = func(s *Step) {
		state[s.Name] = open
		trail = append(trail, s.Name)
		for j, after := range s.After {
			name, _, _ := strings.Cut(after, ":")
			switch state[name] {
			case open:
				circle := append(slices.Clone(trail[slices.Index(trail, name):]), name)
				c.report(fmt.Sprintf("%s.after[%d]", join("build.steps", s.Name), j),
					"steps wait for one another: "+strings.Join(circle, " after "), "")
			case fresh:
				visit(c.f.Build.Step(name))
			}
		}
		trail = trail[:len(trail)-1]
		state[s.Name] = done
	}
	for i := range c.f.Build.Steps {
		if s := &c.f.Build.Steps[i]; state[s.Name] == fresh {
			visit(s)
		}
	}
}

func (c checker) zone(zone oci.Zone, s *Spec, outputs []produced) {
	z := string(zone)
	for _, p := range s.Packages {
		if name, _ := PackageName(p); s.Exclude[name] != "" {
			c.report(join(z+".exclude", name), "is in packages, too", "remove it from one of the two")
		}
	}
	if s.Debugger != 0 && slices.Contains(s.Ports, s.Debugger) {
		c.report(z+".debugger", fmt.Sprintf("port %d is in ports, too", s.Debugger), "the debugger needs a port of its own")
	}
	if len(s.Ports) == 0 && !c.under(z+".ports") {
		for _, probe := range []string{"health", "ready"} {
			if _, ok := c.at[z+"."+probe]; ok && !c.under(z+"."+probe) {
				c.report(z+"."+probe, "there is no port to ask on", "add the application's port to ports")
			}
		}
	}
	if zone == oci.Production && len(s.Entrypoint) > 0 && isShell(s.Entrypoint[0]) {
		c.report(z+".entrypoint", fmt.Sprintf("%q is a shell or a script for one, and a production image holds no shell", shorten(s.Entrypoint[0])),
			"start the program itself")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		for _, o := range outputs {
			if inside(name, o.Path) || inside(o.Path, name) {
				hint := "name it in artifacts"
				if zone == oci.Development {
					hint = "the development image cannot hold what steps make"
				}
				c.report(join(z+".files", name), fmt.Sprintf("%q is an output of step %s, not a file of the project", shorten(o.Path), o.step.Name), hint)
			}
		}
	}
	c.destinations(z, s)
}

// placed is something that the project file puts into an image.
type placed struct {
	key, source, at string
}

// destinations checks that no two things are put at one place and that nothing
// is put where it would not be seen.
//
// One destination may lie inside another, as /app/package.json in /app: whether
// two folders bring the same path is seen when they are made, and refused then.
// What is certain to clash is refused here.
func (c checker) destinations(z string, s *Spec) {
	var all []placed
	for source, at := range s.Artifacts {
		all = append(all, placed{join(z+".artifacts", source), source, at})
	}
	for source, at := range s.Files {
		all = append(all, placed{join(z+".files", source), source, at})
	}
	slices.SortFunc(all, func(a, b placed) int {
		switch x, y := c.at[a.key], c.at[b.key]; {
		case before(x, y):
			return -1
		case before(y, x):
			return 1
		}
		return cmp.Compare(a.key, b.key)
	})
	modules := ""
	if npm := s.Dependencies.NPM; npm != nil && !c.under(z+".dependencies") {
		modules = path.Join(npm.Into, "node_modules")
	}
	if len(all) > maxOutputs*4 {
		c.report(z, fmt.Sprintf("places %d files: at most %d are allowed", len(all), maxOutputs*4), "place their folder")
		return
	}
	for i, p := range all {
		if modules != "" && inside(p.at, modules) {
			c.report(p.key, fmt.Sprintf("%s lies in %s, which holds the locked packages and nothing else", shorten(p.at), shorten(modules)), "choose another place")
		}
		if modules != "" && inside(modules, p.at) && isFileName(p.source) {
			c.report(p.key, fmt.Sprintf("%s is a file, but npm's packages go to %s", shorten(p.at), shorten(modules)), "choose another place")
		}
		for _, q := range all[:i] {
			switch {
			case p.at == q.at:
				c.report(p.key, fmt.Sprintf("%s is the place of %s, too", shorten(p.at), q.key), "choose another place for one of the two")
			case inside(p.at, q.at) && isFileName(q.source):
				c.report(p.key, fmt.Sprintf("%s lies in %s, which is the file %s", shorten(p.at), shorten(q.at), shorten(q.source)), "choose another place")
			case inside(q.at, p.at) && isFileName(p.source):
				c.report(p.key, fmt.Sprintf("%s is a file, but %s goes into it", shorten(p.at), q.key), "choose another place")
			}
		}
	}
	if c.under(z + ".writable") {
		return
	}
	for i, w := range s.Writable {
		here := fmt.Sprintf("%s.writable[%d]", z, i)
		const hint = "make a folder beside it writable: under a read-only root file system an empty one takes its place"
		hidden, more := "", 0
		for _, p := range all {
			if !inside(p.at, w) {
				continue
			}
			if hidden == "" {
				hidden = p.key
			} else {
				more++
			}
		}
		if more > 0 {
			hidden += fmt.Sprintf(" and %d more", more)
		}
		if hidden != "" {
			c.report(here, fmt.Sprintf("%s would hide %s", shorten(w), hidden), hint)
		}
		if modules != "" && (inside(modules, w) || inside(w, modules)) {
			c.report(here, fmt.Sprintf("%s would hide packages in %s", shorten(w), shorten(modules)), hint)
		}
	}
}

// isFileName tells whether a path names a file and no folder, as far as a name
// can: server.js does, conf.d and dist do not.
func isFileName(p string) bool {
	base := path.Base(p)
	ext := path.Ext(base)
	return len(ext) > 2 && ext != base
}

// artifacts resolves the names in production.artifacts to "step:output".
func (c checker) artifacts(outputs []produced) {
	if c.under("build") {
		return // a step that was not understood may well have made it
	}
	resolved := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.f.Production.Artifacts)) {
		key := join("production.artifacts", name)
		step, output, one := strings.Cut(name, ":")
		var names []string
		var found []produced
		var candidates []Output
		whose := "the build"
		if !one {
			step, output = "", name
		} else {
			whose = "step " + step
			if c.f.Build.Step(step) == nil {
				for _, s := range c.f.Build.Steps {
					names = append(names, s.Name)
				}
				c.report(key, didYouMean(fmt.Sprintf("there is no step %q", step), step, names), "")
				continue
			}
		}
		for _, o := range outputs {
			if one && o.step.Name != step {
				continue
			}
			candidates = append(candidates, o.Output)
			if o.Path == output {
				found = append(found, o)
			}
		}
		if len(found) > 1 {
			c.report(key, "more than one step has this output", "name the step, as in "+found[0].step.Name+":"+shorten(output))
			continue
		}
		c.artifact(key, output, candidates, whose)
		if len(found) == 1 {
			full := found[0].step.Name + ":" + output
			if _, ok := resolved[full]; ok {
				c.report(key, "names the same output as another key of artifacts", "keep one of the two")
			}
			resolved[full] = c.f.Production.Artifacts[name]
		}
	}
	if len(resolved) > 0 {
		c.f.Production.Artifacts = resolved
	}
}
