package project

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"twinhull.dev/twinhull/internal/oci"
)

// askedVersion changes when the meaning of the document below does, so that
// locks made with the old meaning are stale.
const askedVersion = 1

// asked is what a lock depends on. Field order is the canonical order.
type asked struct {
	Version     int       `json:"version"`
	Platforms   []string  `json:"platforms"` // sorted
	Tools       []string  `json:"tools"`     // sorted
	Development askedZone `json:"development"`
	Production  askedZone `json:"production"`
}

type askedZone struct {
	Archive  string            `json:"archive"`
	Packages []string          `json:"packages"` // sorted
	Exclude  map[string]string `json:"exclude"`  // with reasons: the lock repeats them
	NPM      *askedNPM         `json:"npm"`
	Go       string            `json:"go"` // path of go.mod
}

type askedNPM struct {
	Lockfile    string `json:"lockfile"`
	Development bool   `json:"development"`
}

// Asked is the SHA-256 of a canonical JSON document of everything in the
// project file that influences how it is resolved into a lock: platforms,
// tools, and for each zone the archive, the packages, the exclusions with their
// reasons, and which language dependencies. The order in which a list is
// written does not count, nor whether a default is written out.
//
// Name, artifacts, files, where node_modules goes, environment, user, commands,
// ports, labels and steps are left out: changing them leaves a lock as good as
// it was. The content of package-lock.json and go.sum is not in it either; the
// lock holds the hash of those itself.
func (f *File) Asked() oci.Digest {
	zone := func(s *Spec) askedZone {
		z := askedZone{Archive: s.Archive, Packages: sorted(s.Packages), Exclude: s.Exclude}
		if z.Exclude == nil {
			z.Exclude = map[string]string{}
		}
		if npm := s.Dependencies.NPM; npm != nil {
			z.NPM = &askedNPM{Lockfile: npm.Lockfile, Development: npm.Development}
		}
		if mod := s.Dependencies.Go; mod != nil {
			z.Go = mod.Module
		}
		return z
	}
	a := asked{Version: askedVersion, Tools: sorted(f.Build.Tools), Development: zone(&f.Development), Production: zone(&f.Production)}
	platforms := make([]string, len(f.Platforms))
	for i, p := range f.Platforms {
		platforms[i] = p.String()
	}
	a.Platforms = sorted(platforms)
	return digestOf(compact(a))
}

func sorted(list []string) []string {
	list = append([]string{}, list...) // never nil: [] and absent are the same
	slices.Sort(list)
	return list
}

// compact encodes without spaces, with map keys sorted and text left readable.
func compact(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // only for types that JSON has no word for
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
