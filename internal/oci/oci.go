// Package oci holds the words that every other package shares: zones,
// platforms, image references, digests, descriptors and media types, and the
// reading and writing of OCI image layouts.
//
// It is the vocabulary, not the verbs: it knows nothing of packages, projects
// or policies, and imports nothing of Twinhull's but package durable. Types
// that the OCI image specification already defines are used as
// github.com/opencontainers/image-spec defines them and are not wrapped.
package oci

import (
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Digest is a content digest, "sha256:…" or "sha512:…".
type Digest = digest.Digest

// Descriptor is an OCI content descriptor (image-spec descriptor.md).
type Descriptor = ocispec.Descriptor

// Zone says on which side of the wall an image lives. An image carries its
// zone for life: in the config label and the manifest annotation ZoneKey, in
// its repository path and in its signed claims. The zero Zone is neither, and
// every decision treats it as "not production".
type Zone string

// The two zones.
const (
	Development Zone = "development"
	Production  Zone = "production"
)

// ZoneKey is the config label and the manifest annotation that hold the Zone.
const ZoneKey = "dev.twinhull.zone"

// ParseZone accepts exactly the two zone names.
func ParseZone(s string) (Zone, error) {
	switch z := Zone(s); z {
	case Development, Production:
		return z, nil
	}
	return "", fmt.Errorf("unknown zone %q: want development or production", s)
}

// Platform is an operating system and architecture in Go's spelling, as the
// OCI image specification asks ("linux/amd64", "linux/arm64").
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
}

// ParsePlatform reads "linux/amd64" or "linux/arm64"; a bare architecture
// means Linux.
func ParsePlatform(s string) (Platform, error) {
	os, arch, ok := strings.Cut(s, "/")
	if !ok {
		os, arch = "linux", s
	}
	if os != "linux" || (arch != "amd64" && arch != "arm64") {
		return Platform{}, fmt.Errorf("unknown platform %q: want linux/amd64 or linux/arm64", s)
	}
	return Platform{OS: os, Architecture: arch}, nil
}

func (p Platform) String() string { return p.OS + "/" + p.Architecture }

// Debian returns Debian's name of the architecture ("amd64", "arm64").
func (p Platform) Debian() string { return p.Architecture }
