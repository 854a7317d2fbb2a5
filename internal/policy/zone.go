package policy

import (
	"fmt"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
)

// Catalog tells which catalog a repository belongs to, HOST/NAME without a tag:
// the zone, and the production repository that images of it are released to. It is
// package catalog's answer, for names with a host.
func Catalog(repository string) (zone oci.Zone, production string) {
	host, name, ok := strings.Cut(repository, "/")
	if !ok {
		return oci.Production, repository
	}
	class, production := catalog.Of(name)
	return class.Zone(), host + "/" + production
}

// zone asks the four places: label, annotation, repository path, signed claims.
func (j *judge) zone() {
	z, want := j.facts.Zone, j.in.Zone
	said := func(place, what, says string) {
		switch {
		case says == string(want):
		case says == "":
			j.failf(place, "the %s does not say that it is a %s image", what, want)
		default:
			j.failf(place, "the %s says %q, the image is judged for %s", what, says, want)
		}
	}
	said("label", "configuration's label "+oci.ZoneKey, z.Label)
	if j.noManifest() {
		// A docker-archive has nowhere to say it. For development the label is
		// enough; for production a place that cannot be asked refuses.
		if want == oci.Production {
			j.add(CannotTell, Reason{Subject: "annotation", Message: "a docker-archive has no manifest, so that its annotation cannot be asked",
				Remedy: "judge the image where it is pushed, or in an OCI layout"})
		}
	} else {
		said("annotation", "manifest's annotation "+oci.ZoneKey, z.Annotation)
	}

	repository := "the repository"
	switch of, _ := Catalog(j.in.Repository); {
	case j.in.Repository == "" && want == oci.Production:
		j.add(CannotTell, Reason{Subject: "repository", Message: "nobody says which repository the image is for",
			Remedy: "say so: `twinhull check IMAGE --repository HOST/NAME`"})
	case j.in.Repository == "":
	case of != want:
		j.add(Fail, Reason{Subject: "repository", Message: fmt.Sprintf("%s is a repository for %s images", j.in.Repository, of),
			Remedy: "development images are in HOST/NAME/dev, production images in HOST/NAME"})
	default:
		repository = j.in.Repository
	}

	claims := 0
	claim := func(kind string, s Source, says oci.Zone) {
		switch {
		case says == "":
		case says == want:
			claims++
		default:
			j.failf("claims", "the %s that %s signed says %q, the image is judged for %s", kind, s.By, says, want)
		}
	}
	e := j.in.Evidence
	for _, c := range e.Provenance {
		claim("provenance", c.Source, c.Zone)
	}
	for _, c := range e.Origins {
		claim("origins document", c.Source, c.Zone)
	}
	for _, c := range e.Absence {
		claim("inspection", c.Source, c.Zone)
	}
	told := slices.ContainsFunc(j.res.Reasons, func(r Reason) bool { return r.Subject == "claims" })
	if claims == 0 && want == oci.Production && !told {
		j.add(CannotTell, Reason{Subject: "claims", Message: "no believed claim says which zone it is of",
			Remedy: "attest provenance or origins where it was built; of an image of another builder an inspection: `twinhull check IMAGE --attest KEY`"})
	}
	if len(j.res.Reasons) == 0 {
		places := []string{"label"}
		if !j.noManifest() {
			places = append(places, "annotation")
		}
		if j.in.Repository != "" {
			places = append(places, repository)
		}
		if claims > 0 {
			places = append(places, plural(claims, "claim"))
		}
		j.because("%s", strings.Join(places, ", "))
	}
}

// noManifest tells a docker-archive: inspection names it by its configuration.
func (j *judge) noManifest() bool {
	return j.facts.Config.Digest == "" || j.facts.Digest == j.facts.Config.Digest
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
