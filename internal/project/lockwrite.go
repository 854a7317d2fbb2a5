package project

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
)

func digestOf(data []byte) oci.Digest { return digest.SHA256.FromBytes(data) }

// WriteLock sorts the lock (see Sort), checks it and writes it, complete or not
// at all.
func WriteLock(path string, l *Lock) error {
	l.Sort()
	if err := l.Check(); err != nil {
		return fmt.Errorf("the lock would not be valid: %w", err)
	}
	if err := durable.WriteFile(path, l.Encode(), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Encode writes the lock as JSON: the same Lock gives the same bytes, one
// package on each line so that a difference reads as a list of packages, and a
// newline at the end. It does not sort; see Sort.
func (l *Lock) Encode() []byte {
	var b bytes.Buffer
	encode(&b, reflect.ValueOf(*l), 0, true)
	b.WriteByte('\n')
	return b.Bytes()
}

// A lockField is one field of a type of the lock, as its JSON tag has it.
type lockField struct {
	index     int
	name      string
	omitEmpty bool // omitempty or omitzero: may be absent
	lines     bool // each item of the list on its own line
}

// lockFields derives names from the types, so that reader and writer know
// exactly the same fields.
func lockFields(t reflect.Type) []lockField {
	var all []lockField
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		all = append(all, lockField{
			index: i, name: name, omitEmpty: options != "",
			lines: f.Type.Kind() == reflect.Slice && (f.Type.Elem().Kind() == reflect.Struct || f.Tag.Get("lock") == "lines"),
		})
	}
	return all
}

// encode writes structs that hold lists of lines over several lines, and
// everything else compactly.
func encode(b *bytes.Buffer, v reflect.Value, depth int, top bool) {
	if v.Kind() != reflect.Struct || !top && !slices.ContainsFunc(lockFields(v.Type()), func(f lockField) bool { return f.lines }) {
		b.Write(compact(v.Interface()))
		return
	}
	indent := "\n" + strings.Repeat("  ", depth+1)
	b.WriteByte('{')
	first := true
	for _, f := range lockFields(v.Type()) {
		field := v.Field(f.index)
		if f.omitEmpty && (field.IsZero() || field.Kind() == reflect.Slice && field.Len() == 0) {
			continue
		}
		if !first {
			b.WriteByte(',')
		}
		first = false
		fmt.Fprintf(b, "%s%q: ", indent, f.name)
		switch {
		case field.Kind() == reflect.Slice && field.Len() == 0:
			b.WriteString("[]")
		case f.lines:
			b.WriteByte('[')
			for i := range field.Len() {
				if i > 0 {
					b.WriteByte(',')
				}
				b.WriteString(indent + "  ")
				encode(b, field.Index(i), depth+2, false)
			}
			b.WriteString(indent + "]")
		default:
			b.Write(compact(field.Interface()))
		}
	}
	b.WriteString(indent[:len(indent)-2] + "}")
}

// Sort brings every list of the lock into the order that Check asks for.
func (l *Lock) Sort() {
	slices.SortFunc(l.Archives, func(a, b Archive) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Suite, b.Suite))
	})
	for i := range l.Archives {
		slices.Sort(l.Archives[i].SignedBy)
		slices.SortFunc(l.Archives[i].Indexes, func(a, b Index) int { return cmp.Compare(a.Path, b.Path) })
	}
	slices.SortFunc(l.Closures, compareClosures)
	for i := range l.Closures {
		slices.Sort(l.Closures[i].Packages)
		slices.SortFunc(l.Closures[i].Omitted, compareOmitted)
	}
	slices.SortFunc(l.Packages, comparePackages)
	slices.SortFunc(l.NPM, func(a, b NPMTree) int { return cmp.Compare(a.Lockfile, b.Lockfile) })
	for i := range l.NPM {
		slices.SortFunc(l.NPM[i].Packages, func(a, b NPMPackage) int { return cmp.Compare(a.Location, b.Location) })
	}
	slices.SortFunc(l.Go, compareModules)
	slices.SortFunc(l.Tools, compareTools)
}

func compareClosures(a, b Closure) int {
	return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Platform.String(), b.Platform.String()))
}

func compareOmitted(a, b OmittedItem) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Needed, b.Needed))
}

func comparePackages(a, b Package) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Version, b.Version))
}

func compareModules(a, b GoModule) int {
	return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version))
}

func compareTools(a, b Tool) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Platform.String(), b.Platform.String()))
}
