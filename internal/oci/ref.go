package oci

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// RefKind says where an image is.
type RefKind int

// The three places. The zero RefKind is none of them.
const (
	RegistryRef      RefKind = iota + 1 // host/name[:tag][@digest]
	LayoutRef                           // oci:DIR[:TAG]
	DockerArchiveRef                    // docker-archive:FILE[:TAG]
)

// Ref is a parsed image reference. Which fields are set depends on Kind:
// Path is a folder or file of this machine (LayoutRef, DockerArchiveRef); Host
// and Name belong to a RegistryRef. Tag and Digest may be empty; ParseRef never
// invents a default tag.
type Ref struct {
	Kind   RefKind
	Path   string // folder of a layout, file of an archive; as the user wrote it
	Host   string // registry host with its port
	Name   string // repository on the host
	Tag    string
	Digest Digest // RegistryRef only
}

// Prefixes of the references that name a path of this machine.
const (
	layoutPrefix        = "oci:"
	dockerArchivePrefix = "docker-archive:"
)

// Grammar of distribution-spec v1.1, "Pulling manifests". A tag is at most 128
// characters, a repository name at most 255.
var (
	tagRE  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	nameRE = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	hostRE = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
	// dockerTagRE is a name with a tag as it stands in an archive's manifest.json.
	dockerTagRE = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9._/:\[\]-]{0,254}:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

// ValidTag reports an error that says what a tag must look like, or nil.
func ValidTag(tag string) error {
	if !tagRE.MatchString(tag) {
		return fmt.Errorf("tag %q: want up to 128 letters, digits, dots, underscores and hyphens, beginning with a letter, a digit or an underscore", tag)
	}
	return nil
}

// ParseRef reads an image reference:
//
//	oci:DIR[:TAG]              an OCI image layout
//	docker-archive:FILE[:TAG]  a file as `docker save` writes it; TAG is NAME:TAG or TAG
//	HOST/NAME[:TAG][@DIGEST]   a repository of a registry
//
// A registry reference must name its host: there is no default registry, so
// that an image never goes to a place that nobody wrote down.
func ParseRef(s string) (Ref, error) {
	fail := func(format string, a ...any) (Ref, error) {
		return Ref{}, fmt.Errorf("image reference %q: %s", s, fmt.Sprintf(format, a...))
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fail("holds a control character")
	}
	if rest, ok := strings.CutPrefix(s, layoutPrefix); ok {
		dir, tag := cutTag(rest)
		if dir == "" {
			return fail("names no folder; want oci:DIR or oci:DIR:TAG")
		}
		if tag != "" {
			if err := ValidTag(tag); err != nil {
				return fail("%v", err)
			}
		}
		return Ref{Kind: LayoutRef, Path: dir, Tag: tag}, nil
	}
	if rest, ok := strings.CutPrefix(s, dockerArchivePrefix); ok {
		// FILE:NAME:TAG is what skopeo and podman write, FILE:TAG is ours. The
		// path ends at the first colon that follows its last folder, unless
		// the repository name itself has folders: then at the first colon.
		file, tag := cutDockerTag(rest)
		if file == "" {
			return fail("names no file; want docker-archive:FILE or docker-archive:FILE:TAG")
		}
		if tag != "" && !tagRE.MatchString(tag) && !dockerTagRE.MatchString(tag) {
			return fail("tag %q: want TAG or NAME:TAG", tag)
		}
		return Ref{Kind: DockerArchiveRef, Path: file, Tag: tag}, nil
	}
	ref := Ref{Kind: RegistryRef}
	rest := s
	if before, d, ok := strings.Cut(rest, "@"); ok {
		ref.Digest, rest = Digest(d), before
		if err := checkDigest(ref.Digest); err != nil {
			return fail("%v", err)
		}
	}
	host, name, ok := strings.Cut(rest, "/")
	if !ok || !(strings.ContainsAny(host, ".:") || host == "localhost") {
		return fail("names no registry; want HOST/NAME:TAG (as in registry.example/app:1.0), oci:DIR or docker-archive:FILE")
	}
	if !hostRE.MatchString(host) {
		return fail("%q is no registry host", host)
	}
	if i := strings.LastIndexByte(name, ':'); i >= 0 {
		name, ref.Tag = name[:i], name[i+1:]
		if err := ValidTag(ref.Tag); err != nil {
			return fail("%v", err)
		}
	}
	if len(name) > 255 || !nameRE.MatchString(name) {
		return fail("%q is no repository name: want lower-case letters and digits, separated by . _ - or /, at most 255", name)
	}
	ref.Host, ref.Name = host, name
	return ref, nil
}

// cutTag splits PATH[:TAG]; a colon before the last slash belongs to the path.
func cutTag(s string) (path, tag string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.LastIndexByte(s, '/') > i {
		return s, ""
	}
	return s[:i], s[i+1:]
}

func cutDockerTag(s string) (path, tag string) {
	path, tag = cutTag(s)
	if tag == "" {
		return s, ""
	}
	if i := strings.IndexByte(path, ':'); i > 0 {
		return path[:i], s[i+1:]
	}
	return path, tag
}

// String returns the reference in the form that ParseRef reads.
func (r Ref) String() string {
	switch r.Kind {
	case LayoutRef, DockerArchiveRef:
		s := layoutPrefix + r.Path
		if r.Kind == DockerArchiveRef {
			s = dockerArchivePrefix + r.Path
		}
		if r.Tag != "" {
			s += ":" + r.Tag
		}
		return s
	case RegistryRef:
		s := r.Host + "/" + r.Name
		if r.Tag != "" {
			s += ":" + r.Tag
		}
		if r.Digest != "" {
			s += "@" + string(r.Digest)
		}
		return s
	}
	return "(no reference)"
}

// errNoTag is the base of a look-up that found nothing.
var errNoTag = errors.New("no such tag")
