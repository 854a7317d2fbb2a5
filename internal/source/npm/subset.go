package npm

import (
	"fmt"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// Subset returns what `npm ci` (dev) or `npm ci --omit=dev` installs from the
// lock on a platform with glibc, in the order of the tree.
//
// Optional packages for other systems are left out, with everything in their
// folders and what only they need (see ReadLock). npm may leave out a few more:
// optional packages whose engines range does not fit. A package
// that is for other systems and not optional is an error, as it is for npm.
func Subset(tree *project.NPMTree, dev bool, platform oci.Platform) ([]project.NPMPackage, error) {
	cpu := platform.Architecture
	if cpu == "amd64" {
		cpu = "x64" // Node's process.arch
	}
	var all []project.NPMPackage
	out := make(map[string]bool)
	for _, p := range tree.Packages {
		if p.Dev && !dev {
			continue
		}
		// The tree is sorted, so the folder around comes first. Between the
		// two may lie bundled folders, which are not in the tree.
		inside := false
		for l := around(p.Location); l != ""; l = around(l) {
			inside = inside || out[l]
		}
		if inside {
			out[p.Location] = true
			continue
		}
		if fits(platform.OS, p.OS) && fits(cpu, p.CPU) && fits("glibc", p.Libc) {
			all = append(all, p)
			continue
		}
		if !p.Optional {
			return nil, fmt.Errorf("%s: %s@%s does not support %s (os %s, cpu %s, libc %s) and is not optional: ask for another version, or drop the platform",
				tree.Lockfile, p.Name, p.Version, platform, list(p.OS), list(p.CPU), list(p.Libc))
		}
		out[p.Location] = true
	}
	return all, nil
}

func list(s []string) string {
	if len(s) == 0 {
		return "any"
	}
	return strings.Join(s, " ")
}

// fits is npm's rule for os, cpu and libc lists: none of the negated values,
// and one of the others if there are any.
func fits(value string, list []string) bool {
	if len(list) == 0 || len(list) == 1 && list[0] == "any" {
		return true
	}
	negated, match := 0, false
	for _, entry := range list {
		if not, ok := strings.CutPrefix(entry, "!"); ok {
			negated++
			if value == not {
				return false
			}
		} else {
			match = match || value == entry
		}
	}
	return match || negated == len(list)
}
