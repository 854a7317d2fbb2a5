// Package catalog holds the rules of the three catalogs: which one a repository
// belongs to, which tags may be written there and by whom, where convenience
// tags point, and how long something is kept.
//
// It is pure: names, versions and times in, answers out. What it cannot classify
// is production, where nothing may be written or deleted.
package catalog

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"

	"twinhull.dev/twinhull/internal/oci"
)

// Class is the catalog that a repository belongs to. The zero Class is
// Production, the strictest.
type Class int

// The three catalogs.
const (
	Production  Class = iota // NAME: written by releases only, permanent
	Candidate                // NAME/candidate: production images by digest, not released yet
	Development              // NAME/dev and below: moving tags, deleted after a week
)

func (c Class) String() string {
	switch c {
	case Development:
		return "development"
	case Candidate:
		return "candidate"
	}
	return "production"
}

// Zone is the zone of the images in the catalog.
func (c Class) Zone() oci.Zone {
	if c == Development {
		return oci.Development
	}
	return oci.Production
}

// The path components that make a class.
const (
	devComponent       = "dev"
	candidateComponent = "candidate"
)

// Of is the class of a repository, a name without a host, and the production
// repository that it belongs to. NAME/dev and all that is below it is
// development, whatever it ends with.
func Of(repository string) (class Class, production string) {
	parts := strings.Split(repository, "/")
	// Not the first part: a project may be called so.
	if i := slices.Index(parts[1:], devComponent) + 1; i > 0 {
		return Development, strings.Join(parts[:i], "/")
	}
	if n := len(parts) - 1; n > 0 && parts[n] == candidateComponent {
		return Candidate, strings.Join(parts[:n], "/")
	}
	return Production, repository
}

// name is a repository's name (distribution specification, "Pulling manifests").
var name = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)

// MaxName is the longest repository name: clients allow 255 bytes with the host.
const MaxName = 255

// ValidName tells whether it is a repository's name.
func ValidName(s string) bool { return len(s) <= MaxName && name.MatchString(s) }

// TagKind is what a tag is in a production repository.
type TagKind int

// The kinds of tags.
const (
	OtherTag       TagKind = iota // none of the others: never in production
	VersionTag                    // 1.4.2, 2.0.0-rc.1: written once
	ConvenienceTag                // 1.4, 1, latest: computed
)

// Latest is the convenience tag of the highest version.
const Latest = "latest"

var convenience = regexp.MustCompile(`^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))?$`)

// KindOf tells what a tag is.
func KindOf(tag string) TagKind {
	if tag == Latest || convenience.MatchString(tag) {
		return ConvenienceTag
	}
	if _, err := ParseVersion(tag); err == nil {
		return VersionTag
	}
	return OtherTag
}

// Version is a semantic version (semver.org 2.0.0) that a tag can say: without
// build metadata, since a tag has no "+".
type Version struct{ v *semver.Version }

// ParseVersion accepts exactly MAJOR.MINOR.PATCH with an optional pre-release,
// without a leading "v".
func ParseVersion(s string) (Version, error) {
	v, err := semver.StrictNewVersion(s)
	if err != nil || v.Original() != v.String() {
		return Version{}, fmt.Errorf("%q is no semantic version: want MAJOR.MINOR.PATCH such as 1.4.2 or 2.0.0-rc.1", clip(s))
	}
	if v.Metadata() != "" {
		return Version{}, fmt.Errorf("%q has build metadata, which no tag can hold: leave out what follows the +", clip(s))
	}
	if err := oci.ValidTag(s); err != nil {
		return Version{}, err
	}
	return Version{v}, nil
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

func (v Version) String() string {
	if v.v == nil {
		return ""
	}
	return v.v.Original()
}

// Compare orders versions (semver.org, 11).
func (v Version) Compare(w Version) int { return v.v.Compare(w.v) }

// Prerelease tells whether it is a pre-release, which moves no convenience tag.
func (v Version) Prerelease() bool { return v.v.Prerelease() != "" }

// Tags are the convenience tags that the version competes for: 1.4, 1 and latest
// for 1.4.2; none for a pre-release.
func (v Version) Tags() []string {
	if v.Prerelease() {
		return nil
	}
	return []string{
		strconv.FormatUint(v.v.Major(), 10) + "." + strconv.FormatUint(v.v.Minor(), 10),
		strconv.FormatUint(v.v.Major(), 10),
		Latest,
	}
}

// Highest is the version that each convenience tag points to when nobody rolled
// back: the highest released one that competes for it.
func Highest(released []Version) map[string]Version {
	out := map[string]Version{}
	for _, v := range released {
		for _, tag := range v.Tags() {
			if have, ok := out[tag]; !ok || v.Compare(have) > 0 {
				out[tag] = v
			}
		}
	}
	return out
}

// Moves are the convenience tags that a new version takes over, in the order of
// Tags. at is what each points to now, after roll-backs too. A tag that was
// rolled back is taken by a version that is higher than the one it points to and
// higher than all released ones that compete for it: a patch of an old line does
// not undo a roll-back by accident.
func Moves(v Version, released []Version, at map[string]Version) (tags []string) {
	highest := Highest(released)
	for _, tag := range v.Tags() {
		if h, ok := highest[tag]; ok && v.Compare(h) <= 0 {
			continue
		}
		if now, ok := at[tag]; ok && v.Compare(now) <= 0 {
			continue
		}
		tags = append(tags, tag)
	}
	return tags
}

// SortVersions sorts ascending.
func SortVersions(vs []Version) {
	slices.SortFunc(vs, func(a, b Version) int { return cmp.Or(a.Compare(b), cmp.Compare(a.String(), b.String())) })
}
