package policy

import (
	"fmt"
	"strings"
)

// wholeSystem are packages of a complete system, by type: an image that has
// them was not made from a minimal base, whatever was deleted from it later.
var wholeSystem = map[string]string{
	"deb": "adduser apt base-passwd bash bsdutils coreutils dash debconf debianutils diffutils dpkg e2fsprogs findutils grep gzip hostname init-system-helpers login login.defs mount ncurses-bin passwd perl-base sed sysvinit-utils systemd tar util-linux",
	"apk": "alpine-base alpine-conf apk-tools bash busybox busybox-binsh coreutils openrc scanelf util-linux wolfi-base",
	"rpm": "bash coreutils coreutils-single dnf dnf5 findutils gawk grep microdnf passwd rpm sed shadow-utils systemd tar tdnf util-linux yum zypper",
}

var wholeSystemSet = func() map[string]bool {
	m := map[string]bool{}
	for kind, names := range wholeSystem {
		for n := range strings.FieldsSeq(names) {
			m[kind+"/"+n] = true
		}
	}
	return m
}()

func (j *judge) minimalBase() {
	b := j.policy.Base
	system := 0
	for i := range j.facts.Packages {
		p := &j.facts.Packages[i]
		if !systemTypes[p.Type] {
			continue
		}
		system++
		if wholeSystemSet[p.Type+"/"+p.Name] {
			j.add(Fail, Reason{Subject: p.Name, Path: p.Location, Package: p.PURL, Layer: p.Layer, Message: fmt.Sprintf("the package %s belongs to a whole system", p.Name)})
		}
	}
	if system > b.SystemPackages {
		j.failf("system packages", "it has %d system packages, the policy allows %d", system, b.SystemPackages)
	}
	if b.Size > 0 && j.facts.Unpacked > b.Size {
		j.failf("size", "its files have %d bytes, the policy allows %d", j.facts.Unpacked, b.Size)
	}
	j.whole()
	if j.res.Because == "" {
		j.because("%s, %d MiB", plural(system, "system package"), j.facts.Unpacked>>20)
	}
}
