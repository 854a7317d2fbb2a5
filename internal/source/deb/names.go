package deb

import (
	"fmt"
	"strings"
)

// Suite is one suite of an archive name.
type Suite struct {
	Name     string // codename, as in dists/NAME: "trixie-security"
	Security bool   // served by the security archive's mirrors, not the main ones
}

// releases are the Debian releases that Twinhull's tables (effects of
// maintainer scripts, merged /usr, maintenance-only packages) are made for.
var releases = []string{"bookworm", "trixie"}

// Component is the only component taken. contrib and non-free-firmware are not:
// what a production image may be made of should not depend on a mirror's
// choice of licences, and nothing that Twinhull's tables know needs them.
const Component = "main"

// Suites gives the suites of an archive name: "debian/trixie" means trixie,
// trixie-updates and trixie-security. Their order decides between equal
// versions: the first has it.
func Suites(archive string) ([]Suite, error) {
	name, ok := strings.CutPrefix(archive, "debian/")
	for _, r := range releases {
		if ok && name == r {
			return []Suite{{Name: r}, {Name: r + "-updates"}, {Name: r + "-security", Security: true}}, nil
		}
	}
	return nil, fmt.Errorf("deb: unknown archive %q: want debian/%s", archive, strings.Join(releases, " or debian/"))
}

// IndexPath is the path of an architecture's package index in a suite's folder.
func IndexPath(arch string) string { return Component + "/binary-" + arch + "/Packages.xz" }
