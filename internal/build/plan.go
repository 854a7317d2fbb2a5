package build

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/source/npm"
)

// Action is one piece of work of a plan.
type Action struct {
	ID     string   `json:"id"`              // "step:compile", "image:production/linux/amd64"
	What   string   `json:"what"`            // for people
	Needs  []string `json:"needs,omitempty"` // IDs
	Key    Key      `json:"key,omitempty"`   // empty when it depends on a result that is not there yet
	State  string   `json:"state"`           // "done", "to do", or "depends" on what runs before it
	Detail string   `json:"detail,omitempty"`
}

func stepID(name string, plat oci.Platform) string {
	if plat == (oci.Platform{}) {
		return "step:" + name
	}
	return "step:" + name + "/" + plat.String()
}

// stepIDs are the actions of a step that whatever is made for a platform needs.
func (w *work) stepIDs(name string, plat oci.Platform) []string {
	var ids []string
	for _, s := range w.steps {
		if s.Name != name {
			continue
		}
		for _, p := range w.stepPlatforms(s) {
			if p == (oci.Platform{}) || plat == (oci.Platform{}) || p == plat {
				ids = append(ids, stepID(name, p))
			}
		}
	}
	return ids
}

// maker is the step that has an output.
func (w *work) maker(output string) string {
	for _, s := range w.steps {
		for _, o := range s.Outputs {
			if o.Path == output {
				return s.Name
			}
		}
	}
	return ""
}

// Plan lists what a build of the zones would do, in order, and what of it is
// done already. It runs nothing and uses no network.
func (b *Builder) Plan(ctx context.Context, zones []oci.Zone) ([]Action, error) {
	w, err := b.work(zones)
	if err != nil {
		return nil, err
	}
	var out []Action
	add := func(a Action, done bool) {
		switch {
		case a.State != "":
		case done:
			a.State = "done"
		default:
			a.State = "to do"
		}
		out = append(out, a)
	}
	items, err := b.items(w)
	if err != nil {
		return nil, err
	}
	var bytes int64
	for _, it := range items {
		bytes += max(it.Size, 0)
	}
	what := "fetch what the lock names"
	if len(items) > 0 {
		what = fmt.Sprintf("fetch %d inputs (%.1f MB of packages)", len(items), float64(bytes)/1e6)
	}
	add(Action{ID: "fetch", What: what}, len(items) == 0)

	rootAction := func(r *root, id string) {
		_, ok := b.cache.folder("roots", r.key, nil)
		add(Action{ID: id, What: fmt.Sprintf("lay out and configure %d packages (%s)", len(r.pkgs), r.name), Needs: []string{"fetch"}, Key: r.key}, ok)
	}
	if w.tools != nil && len(w.steps) > 0 {
		rootAction(w.tools, "tree:"+w.tools.name)
	}
	stepNeeds := []string{}
	var records []StepRecord
	waiting := false
	if len(w.steps) > 0 {
		deps, err := b.stepDeps(w.tools)
		if err != nil {
			return nil, err
		}
		stepNeeds = append(stepNeeds, "tree:"+w.tools.name)
		for _, d := range deps {
			_, ok := b.cache.folder("deps", d.key, nil)
			add(Action{ID: "dependencies:" + d.name, What: "install " + d.name, Needs: []string{"fetch"}, Key: d.key}, ok)
			stepNeeds = append(stepNeeds, "dependencies:"+d.name)
		}
		needed := w.neededSteps()
		for _, s := range w.steps {
			if !needed[s.Name] {
				continue
			}
			for _, plat := range w.stepPlatforms(s) {
				a := Action{ID: stepID(s.Name, plat), What: fmt.Sprintf("run step %s", s.Name), Needs: append([]string{}, stepNeeds...), Detail: fmt.Sprintf("%q", s.Run)}
				if plat != (oci.Platform{}) {
					a.What += " for " + plat.String()
				}
				for _, after := range s.After {
					before, _, _ := strings.Cut(after, ":")
					a.Needs = append(a.Needs, w.stepIDs(before, plat)...)
				}
				if len(s.After) > 0 && waiting {
					a.State = "depends"
					add(a, false)
					continue
				}
				sw, err := b.prepareStep(s, plat, w.tools, deps, records)
				if err != nil {
					return nil, err
				}
				a.Key = sw.record.Key
				rec, ok := b.stepKnown(sw)
				add(a, ok)
				if ok {
					records = append(records, rec)
				} else {
					waiting = true
				}
			}
		}
	}
	for _, zone := range zones {
		spec := b.file.Spec(zone)
		for _, plat := range w.platforms(zone) {
			a := Action{ID: "image:" + string(zone) + "/" + plat.String(), What: fmt.Sprintf("assemble the %s image for %s", zone, plat), Needs: []string{"fetch"}}
			for _, name := range sortedKeys(spec.Artifacts) {
				step, _, ok := strings.Cut(name, ":")
				if !ok {
					step = w.maker(name)
				}
				for _, id := range w.stepIDs(step, plat) {
					if !slices.Contains(a.Needs, id) {
						a.Needs = append(a.Needs, id)
					}
				}
			}
			set := string(zone)
			pkgs, closure, err := b.closure(set, plat)
			if err != nil {
				return nil, err
			}
			a.Detail = fmt.Sprintf("%d packages", len(pkgs))
			if len(closure.Omitted) > 0 {
				a.Detail += fmt.Sprintf(", %d left out", len(closure.Omitted))
			}
			if n := spec.Dependencies.NPM; n != nil {
				if tree, err := b.npmTree(n); err == nil {
					if sub, err := npm.Subset(tree, n.Development, plat); err == nil {
						a.Detail += fmt.Sprintf(", %d npm packages", len(sub))
					}
				}
			}
			if zone == oci.Development {
				a.Needs = append(a.Needs, "tree:development")
				if w.development != w.tools || len(w.steps) == 0 {
					rootAction(w.development, "tree:development")
				}
			}
			if waiting && len(spec.Artifacts) > 0 {
				a.State = "depends"
				add(a, false)
				continue
			}
			key, err := b.imageKey(zone, plat, records, w)
			if err != nil {
				return nil, err
			}
			a.Key = key
			_, ok := b.known(key)
			add(a, ok)
		}
	}
	return out, b.source.save()
}
