package deb

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unsafe"
)

// Package is one stanza of a package index: the fields that Twinhull uses.
type Package struct {
	Name    string // valid by Policy 5.6.1
	Version string // valid by ParseVersion
	Arch    string // "all" or an architecture
	Section string
	Path    string // pool path relative to the archive's root; clean, never escapes it
	SHA256  string // 64 lower-case hex digits
	Size    int64  // bytes of the .deb, at least 1

	// Relationship fields as written; ParseRelations reads them. They are
	// parsed where they are used because a closure touches one stanza in a
	// hundred.
	PreDepends, Depends, Provides, Conflicts, Breaks, Replaces string

	// Recommends, Suggests and Enhances are not followed. They are kept because
	// the order in which apt meets names decides between equal providers.
	Recommends, Suggests, Enhances string

	// Set by NewUniverse.
	Archive string // "debian/trixie"
	Suite   string // "trixie-security"

	Line      int32 // of the stanza's first line in its index, from 1
	Priority  Priority
	MultiArch MultiArch
	Essential bool
	Protected bool // Protected (or its old name Important): yes

	source string // Source field as written, "" when absent
}

// Priority of a package; lower is more important, as in apt.
type Priority uint8

// Priorities (Policy 2.5). Unknown ones, and none at all, are least important.
const (
	Required Priority = 1 + iota
	Important
	Standard
	Optional
	Extra
	NoPriority
)

// MultiArch is the Multi-Arch field.
type MultiArch uint8

// Values of Multi-Arch.
const (
	MultiArchNo MultiArch = iota
	MultiArchSame
	MultiArchForeign
	MultiArchAllowed
)

// ID names the package as a lock's closure does: "name_version_arch".
func (p *Package) ID() string { return p.Name + "_" + p.Version + "_" + p.Arch }

// Source gives the name and version of the source package. Without a Source
// field they are the package's own.
func (p *Package) Source() (name, version string) {
	name, rest, ok := strings.Cut(p.source, " (")
	if name == "" {
		name = p.Name
	}
	if !ok {
		return name, p.Version
	}
	return name, strings.TrimSuffix(rest, ")")
}

// Fields of a stanza, as bits of what was seen.
const (
	fPackage = 1 << iota
	fVersion
	fArchitecture
	fEssential
	fProtected
	fImportant
	fPriority
	fMultiArch
	fPreDepends
	fDepends
	fProvides
	fConflicts
	fBreaks
	fReplaces
	fRecommends
	fSuggests
	fEnhances
	fSource
	fFilename
	fSize
	fSHA256
	fSection

	fNeeded = fPackage | fVersion | fArchitecture | fFilename | fSize | fSHA256
)

// field gives the bit of a field that is used, 0 for others. Field names are
// not case-sensitive (Policy 5.1), so after the exact spelling, which every
// archive uses, fold tries the others.
func field(name string) uint32 {
	switch name {
	case "Package":
		return fPackage
	case "Version":
		return fVersion
	case "Architecture":
		return fArchitecture
	case "Essential":
		return fEssential
	case "Protected":
		return fProtected
	case "Important":
		return fImportant
	case "Priority":
		return fPriority
	case "Multi-Arch":
		return fMultiArch
	case "Pre-Depends":
		return fPreDepends
	case "Depends":
		return fDepends
	case "Provides":
		return fProvides
	case "Conflicts":
		return fConflicts
	case "Breaks":
		return fBreaks
	case "Replaces":
		return fReplaces
	case "Recommends":
		return fRecommends
	case "Suggests":
		return fSuggests
	case "Enhances":
		return fEnhances
	case "Source":
		return fSource
	case "Filename":
		return fFilename
	case "Size":
		return fSize
	case "SHA256":
		return fSHA256
	case "Section":
		return fSection
	// The common ones that are not used, so that they do not reach fold.
	case "Description", "Maintainer", "Installed-Size", "Homepage", "MD5sum", "Description-md5", "Tag", "SHA1", "Built-Using":
		return 0
	}
	return fold(name)
}

var foldedFields = []string{"Package", "Version", "Architecture", "Essential", "Protected", "Important", "Priority", "Multi-Arch",
	"Pre-Depends", "Depends", "Provides", "Conflicts", "Breaks", "Replaces", "Recommends", "Suggests", "Enhances", "Source",
	"Filename", "Size", "SHA256", "Section"}

func fold(name string) uint32 {
	for _, f := range foldedFields {
		if len(f) == len(name) && strings.EqualFold(f, name) {
			return field(f)
		}
	}
	return 0
}

// ScanPackages reads a decompressed package index. It is strict about the
// fields that Package keeps: a stanza without a name, version, architecture,
// path, size or SHA-256, a field given twice, a value that is not what its
// field must be, or a line that is none, is an error that names the line.
//
// The result refers to data, which must not be changed afterwards.
func ScanPackages(data []byte) ([]Package, error) {
	// One stanza takes about 800 bytes in real indexes; the cap keeps a
	// hostile input from being answered with an allocation larger than itself.
	out := make([]Package, 0, len(data)/800+1)
	// Substrings of one string instead of 15 copies a stanza: an index of
	// 56 MB would otherwise be copied for the 100 stanzas that are used.
	text := unsafe.String(unsafe.SliceData(data), len(data))
	var (
		p     Package
		seen  uint32
		last  uint32 // field that a continuation line belongs to
		start int    // of the last field's value
		line  = int32(0)
		open  bool // the stanza has a field
	)
	fail := func(format string, args ...any) error {
		name := ""
		if p.Name != "" {
			name = " (package " + p.Name + ")"
		}
		return fmt.Errorf("deb: package index line %d%s: %s", line, name, fmt.Sprintf(format, args...))
	}
	for i := 0; i < len(text); {
		line++
		n := bytes.IndexByte(data[i:], '\n')
		end, next := i+n, i+n+1
		if n < 0 {
			end, next = len(text), len(text)
		}
		l := text[i:end]
		switch {
		case l == "":
			if open {
				if err := p.finish(seen); err != nil {
					return nil, fail("%v", err)
				}
				out = append(out, p)
				p, seen, last, open = Package{}, 0, 0, false
			}
		case l[0] == ' ' || l[0] == '\t':
			if !open {
				return nil, fail("continuation line outside a field")
			}
			if last != 0 {
				v, ok := p.folded(last)
				if !ok {
					return nil, fail("the value goes on over a second line, which this field does not allow")
				}
				*v = text[start:end]
			}
		default:
			colon := strings.IndexByte(l, ':')
			if colon <= 0 {
				return nil, fail("neither a field nor a continuation: %.60q", l)
			}
			if !open {
				open, p.Line = true, line
			}
			last = field(l[:colon])
			if last == 0 {
				break
			}
			if seen&last != 0 {
				return nil, fail("field %s is given twice", l[:colon])
			}
			seen |= last
			v := trim(l[colon+1:])
			start = i + colon + 1
			if err := p.set(last, v); err != nil {
				return nil, fail("%s: %v", l[:colon], err)
			}
		}
		i = next
	}
	if open {
		if err := p.finish(seen); err != nil {
			return nil, fail("%v", err)
		}
		out = append(out, p)
	}
	return out, nil
}

// trim cuts blanks and tabs off both ends. It is a third of the time of
// strings.Trim here, which is called a million times an index.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// folded gives the place of a field whose value may go on over several lines.
func (p *Package) folded(f uint32) (*string, bool) {
	switch f {
	case fPreDepends:
		return &p.PreDepends, true
	case fDepends:
		return &p.Depends, true
	case fProvides:
		return &p.Provides, true
	case fConflicts:
		return &p.Conflicts, true
	case fBreaks:
		return &p.Breaks, true
	case fReplaces:
		return &p.Replaces, true
	case fRecommends:
		return &p.Recommends, true
	case fSuggests:
		return &p.Suggests, true
	case fEnhances:
		return &p.Enhances, true
	}
	return nil, false
}

func (p *Package) set(f uint32, v string) error {
	if s, ok := p.folded(f); ok {
		*s = v
		return nil
	}
	switch f {
	case fPackage:
		if !validName(v) {
			return fmt.Errorf("%.80q is not a package name (Debian Policy 5.6.1)", v)
		}
		p.Name = v
	case fVersion:
		if _, err := ParseVersion(v); err != nil {
			return err
		}
		p.Version = v
	case fArchitecture:
		if v == "" {
			return errors.New("it is empty")
		}
		for i := 0; i < len(v); i++ {
			if !isArchByte(v[i]) {
				return fmt.Errorf("%.80q is not an architecture", v)
			}
		}
		p.Arch = v
	case fEssential:
		return yes(&p.Essential, v)
	case fProtected, fImportant:
		return yes(&p.Protected, v)
	case fPriority:
		switch v {
		case "required":
			p.Priority = Required
		case "important":
			p.Priority = Important
		case "standard":
			p.Priority = Standard
		case "optional":
			p.Priority = Optional
		case "extra":
			p.Priority = Extra
		default:
			p.Priority = NoPriority
		}
	case fMultiArch:
		switch v {
		case "no":
		case "same":
			p.MultiArch = MultiArchSame
		case "foreign":
			p.MultiArch = MultiArchForeign
		case "allowed":
			p.MultiArch = MultiArchAllowed
		default:
			return fmt.Errorf("%.80q is none of no, same, foreign, allowed", v)
		}
	case fSource:
		name, rest, ok := strings.Cut(v, " (")
		if !validName(name) || ok && !strings.HasSuffix(rest, ")") {
			return fmt.Errorf("%.80q is not \"name\" or \"name (version)\"", v)
		}
		if ok {
			if _, err := ParseVersion(rest[:len(rest)-1]); err != nil {
				return err
			}
		}
		p.source = v
	case fFilename:
		if !cleanPath(v) {
			return fmt.Errorf("%.120q is not a clean relative path", v)
		}
		p.Path = v
	case fSize:
		n, ok := parseSize(v)
		if !ok || n == 0 {
			return fmt.Errorf("%.40q is not a size in bytes", v)
		}
		p.Size = n
	case fSHA256:
		if !isSHA256(v) {
			return fmt.Errorf("%.80q is not a SHA-256 in 64 lower-case hex digits", v)
		}
		p.SHA256 = v
	case fSection:
		p.Section = v
	}
	return nil
}

func (p *Package) finish(seen uint32) error {
	if seen&fNeeded == fNeeded {
		if p.Priority == 0 {
			p.Priority = NoPriority
		}
		return nil
	}
	var missing []string
	for _, f := range foldedFields {
		if b := field(f); b&fNeeded != 0 && seen&b == 0 {
			missing = append(missing, f)
		}
	}
	return fmt.Errorf("the stanza that ends here has no %s", strings.Join(missing, ", "))
}

func yes(b *bool, v string) error {
	switch v {
	case "yes":
		*b = true
	case "no":
	default:
		return fmt.Errorf("%.40q is neither yes nor no", v)
	}
	return nil
}

// cleanPath accepts a relative slash path without empty, "." or ".." elements
// and of printable ASCII only: it becomes part of a URL and of a lock.
func cleanPath(s string) bool {
	if s == "" || len(s) > 1024 || s[0] == '/' || s[len(s)-1] == '/' {
		return false
	}
	from := 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '/' {
			switch s[from:i] {
			case "", ".", "..":
				return false
			}
			from = i + 1
			continue
		}
		if c := s[i]; c <= ' ' || c > '~' || c == '\\' || c == '?' || c == '#' {
			return false
		}
	}
	return true
}

func parseSize(s string) (int64, bool) {
	if s == "" || len(s) > 15 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

func isSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
