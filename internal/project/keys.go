package project

// The format of the project file, once. The table below drives the reader, its
// hints, the JSON Schema and the documentation, so that they cannot disagree.

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/oci"
)

// Names of the two files in a project's folder.
const (
	FileName = "twinhull.yaml"
	LockName = "twinhull.lock"
)

// Defaults of the project file, all of them; fill applies them.
const (
	DefaultPlatform    = "linux/amd64"
	DefaultWorkdir     = "/app"
	DefaultLockfile    = "package-lock.json"
	DefaultModule      = "go.mod"
	DefaultUser        = "nonroot" // name of a user given by number, and of production's
	DefaultUserID      = 65532     // production's; development's user is root
	DefaultTimeout     = 10 * time.Minute
	DefaultPlatformRun = "host" // Step.Platform
)

// archives that a zone may be made of.
var archives = []string{"debian/bookworm", "debian/trixie"}

// OutputKinds are the kinds of a step's output.
var OutputKinds = []string{KindArtifact, KindCoverage, KindJUnit, KindReport}

// Bounds that keep a hostile file from costing more than it weighs.
const (
	maxSteps    = 256
	maxOutputs  = 256
	maxPatterns = 1024
)

// KeyDoc is the documentation of one key.
type KeyDoc struct {
	Path     string // dotted; NAME stands for a name that the user chooses
	Type     string // "list of ports"
	Default  string // as it would be written, or a few words; "" for none
	Required bool
	Doc      string // one or more sentences
}

// Keys returns every key of the project file in the order of the format, each
// section before what is in it.
func Keys() []KeyDoc { return fileKind().keys }

// schema is a JSON Schema as a tree of maps.
type schema = map[string]any

// kind is how one sort of value is read, and how it is told.
type kind[V any] struct {
	word   string
	schema schema
	keys   []KeyDoc // of a section, with paths from the section
	read   func(r *reader, key string, v value, into *V)
}

// key is one key of a section that is read into a T.
type key[T any] struct {
	doc    KeyDoc // Path is the bare name
	keys   []KeyDoc
	schema schema
	read   func(r *reader, key string, v value, into *T)
	// refused says why a key that exists elsewhere is not allowed here.
	refused string
}

// bind makes a key whose value has the kind and belongs at the field.
func bind[T, V any](name string, k kind[V], field func(*T) *V, doc string) key[T] {
	return key[T]{
		doc: KeyDoc{Path: name, Type: k.word, Doc: doc}, keys: k.keys, schema: k.schema,
		read: func(r *reader, key string, v value, into *T) { k.read(r, key, v, field(into)) },
	}
}

func (k key[T]) must() key[T]              { k.doc.Required = true; return k }
func (k key[T]) or(standard string) key[T] { k.doc.Default = standard; return k }

func refuse[T any](name, reason string) key[T] {
	return key[T]{doc: KeyDoc{Path: name}, refused: reason}
}

// reader reads values into a File and collects problems.
type reader struct {
	*problems
	at   map[string]position // of the value of every dotted key that was read
	keys []KeyDoc            // of the whole format, to tell where a misplaced key belongs
}

func (r *reader) fail(key string, v value, message, hint string) {
	r.add(v.at, key, message, hint)
}

// want reports that something else was found. The word gets its article.
func (r *reader) want(key string, v value, word, hint string) {
	word = article(word)
	if v.kind == nullValue {
		r.fail(key, v, "has no value: want "+word, hint)
		return
	}
	r.fail(key, v, "want "+word+", found "+v.describe(), hint)
}

// article puts "a" or "an" before the name of a kind that needs one.
func article(word string) string {
	switch {
	case word == "text", strings.HasPrefix(word, "true"), strings.HasPrefix(word, "root,"):
		return word
	case strings.IndexByte("aeiouH", word[0]) >= 0 && !strings.HasPrefix(word, "user"):
		return "an " + word
	}
	return "a " + word
}

// section is a mapping with the given keys and no others.
func section[T any](word string, keys ...key[T]) kind[T] {
	properties, required := schema{}, []string{}
	k := kind[T]{word: word}
	var names []string
	for _, key := range keys {
		if key.refused != "" {
			continue
		}
		s := schema{"description": key.doc.Doc}
		for word, v := range key.schema {
			s[word] = v
		}
		properties[key.doc.Path] = s
		names = append(names, key.doc.Path)
		if key.doc.Required {
			required = append(required, key.doc.Path)
		}
		k.keys = append(k.keys, key.doc)
		for _, below := range key.keys {
			below.Path = key.doc.Path + "." + below.Path
			k.keys = append(k.keys, below)
		}
	}
	k.schema = schema{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		k.schema["required"] = required
	}
	k.read = func(r *reader, at string, v value, into *T) {
		if v.kind != mapValue {
			r.want(at, v, word, "keys here are "+strings.Join(names, ", "))
			return
		}
		seen := map[string]position{}
		for _, e := range v.entries {
			here := join(at, e.key)
			if !r.once(here, e, seen) {
				continue
			}
			i := slices.IndexFunc(keys, func(k key[T]) bool { return k.doc.Path == e.key })
			switch {
			case i < 0:
				r.unknown(here, e, names)
			case keys[i].refused != "":
				r.add(e.at, here, "is not allowed here: "+keys[i].refused, "")
			default:
				r.at[here] = e.value.at
				keys[i].read(r, here, e.value, into)
			}
		}
		for _, key := range keys {
			if _, ok := seen[key.doc.Path]; key.doc.Required && !ok {
				r.fail(at, v, fmt.Sprintf("lacks the key %q", key.doc.Path), key.doc.Path+": "+key.doc.Doc)
			}
		}
	}
	return k
}

// join makes a dotted key. A name that would be hard to read between dots is
// quoted: production.files["../a"].
func join(at, name string) string {
	plain := name != "" && name[0] != '.' && name[0] != '/' && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-/:+@", r)
	})
	name = shorten(name)
	switch {
	case !plain:
		return at + "[" + strconv.Quote(name) + "]"
	case at == "":
		return name
	}
	return at + "." + name
}

// once reports a key that was already seen.
func (r *reader) once(key string, e entry, seen map[string]position) bool {
	if first, ok := seen[e.key]; ok {
		r.add(e.at, key, fmt.Sprintf("is here twice: first on line %d", first.line), "keep one of the two")
		return false
	}
	seen[e.key] = e.at
	return true
}

func (r *reader) unknown(key string, e entry, names []string) {
	if near := nearest(e.key, names); near != "" {
		r.add(e.at, key, fmt.Sprintf("unknown key: did you mean %q?", near), "")
		return
	}
	hint := "keys here are " + strings.Join(names, ", ")
	var elsewhere []string
	for _, k := range r.keys {
		if parent, ok := strings.CutSuffix(k.Path, "."+e.key); ok && !slices.Contains(elsewhere, parent) {
			elsewhere = append(elsewhere, parent)
		}
	}
	if !slices.Contains(elsewhere, "NAME") && len(elsewhere) > 0 {
		hint = "it belongs in " + list(elsewhere)
	}
	r.add(e.at, key, "unknown key", hint)
}

// word is text that a rule accepts; unquoted numbers and booleans are refused.
func word(name, pattern string, check rule) kind[string] {
	s := schema{"type": "string"}
	if pattern != "" {
		s["pattern"] = pattern
	}
	return kind[string]{word: name, schema: s, read: func(r *reader, key string, v value, into *string) {
		if v.kind == numberValue || v.kind == boolValue {
			r.want(key, v, name, fmt.Sprintf("put it in quotes: %q", shorten(v.text)))
			return
		}
		if v.kind != textValue {
			r.want(key, v, name, "")
			return
		}
		if wrong, hint := check(v.text); wrong != "" {
			r.fail(key, v, wrong, hint)
			return
		}
		*into = v.text
	}}
}

// text is any scalar, as it is written: 1.10 stays 1.10.
func text(name string) kind[string] {
	return kind[string]{word: name, schema: schema{"type": []string{"string", "number", "boolean"}},
		read: func(r *reader, key string, v value, into *string) {
			switch v.kind {
			case textValue, numberValue, boolValue:
				if wrong, hint := checkText(v.text); wrong != "" {
					r.fail(key, v, wrong, hint)
					return
				}
				*into = v.text
			case nullValue:
				r.fail(key, v, "has no value", `write "" for an empty text`)
			default:
				r.want(key, v, name, "")
			}
		}}
}

// choice is one of a few words.
func choice(name string, words []string) kind[string] {
	k := word(name, "", func(s string) (string, string) {
		if !slices.Contains(words, s) {
			return didYouMean(fmt.Sprintf("unknown %s %q", name, shorten(s)), s, words), "known are " + strings.Join(words, ", ")
		}
		return "", ""
	})
	k.word = list(words)
	k.schema = schema{"enum": words}
	return k
}

func number(name string, least, most int) kind[int] {
	return kind[int]{word: name, schema: schema{"type": "integer", "minimum": least, "maximum": most},
		read: func(r *reader, key string, v value, into *int) {
			hint := fmt.Sprintf("a whole number from %d to %d", least, most)
			if v.kind != numberValue {
				if n, err := strconv.Atoi(v.text); v.kind == textValue && err == nil && strconv.Itoa(n) == v.text {
					hint = "write it without quotes"
				}
				r.want(key, v, name, hint)
				return
			}
			n, err := strconv.Atoi(v.text)
			if err != nil || n < least || n > most || strconv.Itoa(n) != v.text {
				r.fail(key, v, fmt.Sprintf("%s is not %s", shorten(v.text), article(name)), hint)
				return
			}
			*into = n
		}}
}

func boolean() kind[bool] {
	const name = "true or false"
	return kind[bool]{word: name, schema: schema{"type": "boolean"}, read: func(r *reader, key string, v value, into *bool) {
		if v.kind != boolValue || v.text != "true" && v.text != "false" {
			r.want(key, v, name, "write true or false, in small letters and without quotes")
			return
		}
		*into = v.text == "true"
	}}
}

// listOf is a list in which nothing may be twice, as same tells: two items are
// the same when their texts are. nil allows anything.
func listOf[V any](name string, item kind[V], most int, same func(V) string) kind[[]V] {
	s := schema{"type": "array", "items": item.schema}
	if same != nil {
		s["uniqueItems"] = true
	}
	if most > 0 {
		s["maxItems"] = most
	}
	return kind[[]V]{word: name, schema: s, read: func(r *reader, key string, v value, into *[]V) {
		if v.kind != listValue {
			hint := ""
			if v.kind != nullValue && v.kind != mapValue {
				hint = fmt.Sprintf("write a list: [%s]", shorten(v.text))
			}
			r.want(key, v, name, hint)
			return
		}
		if most > 0 && len(v.list) > most {
			r.fail(key, v, fmt.Sprintf("has %d items: at most %d are allowed", len(v.list), most), "")
			return
		}
		seen := map[string]bool{}
		all := make([]V, 0, len(v.list))
		for i, item1 := range v.list {
			here := fmt.Sprintf("%s[%d]", key, i)
			r.at[here] = item1.at
			var one V
			before := len(r.all)
			item.read(r, here, item1, &one)
			if len(r.all) > before {
				continue
			}
			if same != nil {
				s := same(one)
				if seen[s] {
					r.fail(here, item1, fmt.Sprintf("%s is here twice", shorten(s)), "keep one of the two")
					continue
				}
				seen[s] = true
			}
			all = append(all, one)
		}
		if len(all) > 0 {
			*into = all
		}
	}}
}

func itself(s string) string { return s }

// mapOf is a mapping whose keys the user chooses; put receives each pair.
// NAME stands for the key in the documentation.
func mapOf[V, M any](name, keyPattern string, check rule, item kind[V], put func(m *M, name string, v V)) kind[M] {
	s := schema{"type": "object", "additionalProperties": item.schema}
	if keyPattern != "" {
		s["propertyNames"] = schema{"pattern": keyPattern}
	}
	k := kind[M]{word: name, schema: s}
	for _, below := range item.keys {
		below.Path = "NAME." + below.Path
		k.keys = append(k.keys, below)
	}
	k.read = func(r *reader, at string, v value, into *M) {
		if v.kind != mapValue {
			r.want(at, v, name, "")
			return
		}
		seen := map[string]position{}
		for _, e := range v.entries {
			here := join(at, e.key)
			if !r.once(here, e, seen) {
				continue
			}
			if wrong, hint := check(e.key); wrong != "" {
				r.add(e.at, here, wrong, hint)
				continue
			}
			r.at[here] = e.value.at
			var one V
			before := len(r.all)
			item.read(r, here, e.value, &one)
			if len(r.all) == before || len(item.keys) > 0 {
				put(into, e.key, one) // of a section with a mistake, keep what was right
			}
		}
	}
	return k
}

func dict(name, keyPattern string, check rule, item kind[string]) kind[map[string]string] {
	return mapOf(name, keyPattern, check, item, func(m *map[string]string, name, v string) {
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[name] = v
	})
}

// arguments is a command as a list, the only form that needs no shell.
func arguments(why string) kind[[]string] {
	k := listOf("list of program and arguments", text("text"), 0, nil)
	k.schema = schema{"type": "array", "items": k.schema["items"], "minItems": 1}
	inner := k.read
	k.read = func(r *reader, key string, v value, into *[]string) {
		if v.kind == textValue {
			hint := "write a list"
			if words := strings.Fields(v.text); len(words) > 0 && !strings.ContainsAny(v.text, "\"'\\$`|&;<>(){}*?[],:#\n") {
				hint = "write a list: [" + shorten(strings.Join(words, ", ")) + "]"
			}
			r.want(key, v, k.word, hint+why)
			return
		}
		inner(r, key, v, into)
		r.program(key, v)
	}
	return k
}

// program checks the first word of an argument list.
func (r *reader) program(key string, v value) {
	if v.kind == listValue && (len(v.list) == 0 || v.list[0].kind == textValue && v.list[0].text == "") {
		r.fail(key, v, "names no program", "")
	}
}

// command is a list, or a text that a shell runs.
func command() kind[[]string] {
	k := arguments("")
	inner := k.read
	k.word = "list of program and arguments, or text for /bin/sh -ec"
	k.schema = schema{"anyOf": []any{schema{"type": "string", "minLength": 1}, k.schema}}
	k.read = func(r *reader, key string, v value, into *[]string) {
		if v.kind != textValue {
			inner(r, key, v, into)
			return
		}
		if wrong, hint := checkText(v.text); wrong != "" {
			r.fail(key, v, wrong, hint)
			return
		}
		if strings.TrimSpace(v.text) == "" {
			r.fail(key, v, "names no program", "")
			return
		}
		*into = []string{"/bin/sh", "-ec", v.text}
	}
	return k
}

func platform() kind[oci.Platform] {
	words := []string{"linux/amd64", "linux/arm64"}
	k := choice("platform", words)
	return kind[oci.Platform]{word: k.word, schema: k.schema, read: func(r *reader, key string, v value, into *oci.Platform) {
		var s string
		k.read(r, key, v, &s)
		if p, err := oci.ParsePlatform(s); err == nil {
			*into = p
		}
	}}
}

func timeout() kind[time.Duration] {
	const name = "length of time (90s, 10m, 1h30m)"
	return kind[time.Duration]{word: name, schema: schema{"type": "string", "pattern": timeoutPattern},
		read: func(r *reader, key string, v value, into *time.Duration) {
			if v.kind == numberValue {
				r.want(key, v, name, fmt.Sprintf("say the unit: %ss", shorten(v.text)))
				return
			}
			if v.kind != textValue {
				r.want(key, v, name, "")
				return
			}
			d, wrong, hint := parseTimeout(v.text)
			if wrong != "" {
				r.fail(key, v, wrong, hint)
				return
			}
			*into = d
		}}
}

// optional reads into a pointer: true or a mapping means yes, false means no.
func optional[T any](k kind[T], standard T) kind[*T] {
	return kind[*T]{
		word: "true, or a mapping", keys: k.keys,
		schema: schema{"anyOf": []any{schema{"type": "boolean"}, k.schema}},
		read: func(r *reader, key string, v value, into **T) {
			one := standard
			switch {
			case v.kind == boolValue && v.text == "true":
			case v.kind == boolValue && v.text == "false":
				return
			case v.kind == mapValue:
				k.read(r, key, v, &one)
			default:
				r.want(key, v, "true, or a mapping", "")
				return
			}
			*into = &one
		},
	}
}

// noID marks a user section whose id or gid was not given.
const noID = -1

func user(zone oci.Zone) kind[User] {
	least := 0
	if zone == oci.Production {
		least = 1
	}
	id, gid := number("user id", least, 65534), number("group id", least, 65534)
	if zone == oci.Production {
		id.word, gid.word = "id of a user that is not root", "id of a group that is not root"
	}
	s := section("mapping with name and id",
		bind("name", word("user name", accountPattern, checkAccount), func(u *User) *string { return &u.Name },
			"Name in /etc/passwd.").or(DefaultUser),
		bind("id", id, func(u *User) *int { return &u.ID }, "Numeric user id.").must(),
		bind("group", word("group name", accountPattern, checkAccount), func(u *User) *string { return &u.Group },
			"Name of the group in /etc/group.").or("the user's name"),
		bind("gid", gid, func(u *User) *int { return &u.GID }, "Numeric id of the group.").or("the user's id"),
		bind("groups", listOf("list of group ids", gid, 64, strconv.Itoa), func(u *User) *[]int { return &u.Groups },
			"Further groups of the user, by number."),
	)
	k := kind[User]{word: "number, or mapping", keys: s.keys,
		schema: schema{"anyOf": []any{id.schema, s.schema}}}
	if zone == oci.Development {
		k.word = "root, number, or mapping"
		k.schema = schema{"anyOf": []any{schema{"const": "root"}, id.schema, s.schema}}
	}
	k.read = func(r *reader, key string, v value, into *User) {
		u := User{GID: noID}
		before := len(r.all)
		switch v.kind {
		case mapValue:
			s.read(r, key, v, &u)
		case numberValue:
			if v.text == "0" && zone == oci.Production {
				r.rootRefused(key, v)
				return
			}
			id.read(r, key, v, &u.ID)
		case textValue:
			switch {
			case v.text == "root" && zone == oci.Production:
				r.rootRefused(key, v)
				return
			case v.text == "root":
				u.Name = "root"
			default:
				name := v.text
				if wrong, _ := checkAccount(name); wrong != "" {
					name = "app"
				}
				r.fail(key, v, fmt.Sprintf("%q is a name without a number, and an image's user is numeric", shorten(v.text)),
					fmt.Sprintf("write {name: %s, id: 10001}", name))
				return
			}
		default:
			r.want(key, v, "user", "write a number, or {name: app, id: 10001}")
			return
		}
		if len(r.all) > before {
			return
		}
		if u.Name == "" {
			u.Name = DefaultUser
			if u.ID == 0 {
				u.Name = "root"
			}
		}
		if (u.Name == "root") != (u.ID == 0) {
			r.fail(key, v, fmt.Sprintf("user %q cannot have the id %d: root is 0 and 0 is root", u.Name, u.ID), "")
			return
		}
		if u.Group == "" {
			u.Group = u.Name
		}
		if u.GID == noID {
			u.GID = u.ID
		}
		if (u.Group == "root") != (u.GID == 0) {
			r.fail(key, v, fmt.Sprintf("group %q cannot have the id %d: root is 0 and 0 is root", u.Group, u.GID), "name the group, or its id")
			return
		}
		*into = u
	}
	return k
}

func (r *reader) rootRefused(key string, v value) {
	r.fail(key, v, "a production image does not run as root", fmt.Sprintf("leave the key out for {name: %s, id: %d}, or choose an id from 1 to 65534", DefaultUser, DefaultUserID))
}

func dependencies(zone oci.Zone) kind[Dependencies] {
	npm := NPM{Lockfile: DefaultLockfile, Development: zone == oci.Development}
	dev := bind("development", boolean(), func(n *NPM) *bool { return &n.Development },
		"With devDependencies.").or(strconv.FormatBool(npm.Development))
	if zone == oci.Production {
		inner := dev.read
		dev.schema = schema{"const": false}
		dev.read = func(r *reader, key string, v value, into *NPM) {
			inner(r, key, v, into)
			if into.Development {
				into.Development = false
				r.fail(key, v, "a production image holds no development dependencies",
					"write false or leave the key out; what the application needs at run time belongs in dependencies of package.json")
			}
		}
	}
	keys := []key[Dependencies]{
		bind("npm", optional(section("mapping",
			bind("lockfile", word("project path", projectPattern, named("package-lock.json", "npm-shrinkwrap.json")), func(n *NPM) *string { return &n.Lockfile },
				"The package-lock.json (lockfileVersion 2 or 3); its package.json lies beside it.").or(DefaultLockfile),
			dev,
			bind("into", word("absolute path", imagePattern, checkDestination), func(n *NPM) *string { return &n.Into },
				"Folder of the image that receives node_modules.").or("workdir"),
		), npm), func(d *Dependencies) **NPM { return &d.NPM },
			"npm packages, exactly those of the project's package-lock.json."),
	}
	if zone == oci.Development {
		keys = append(keys, bind("go", optional(section("mapping",
			bind("module", word("project path", projectPattern, named("go.mod")), func(g *GoModules) *string { return &g.Module },
				"The go.mod; its go.sum lies beside it.").or(DefaultModule),
		), GoModules{Module: DefaultModule}), func(d *Dependencies) **GoModules { return &d.Go },
			"Go modules, exactly those of the project's go.sum. They are for steps; an image carries no module cache."))
	} else {
		keys = append(keys, refuse[Dependencies]("go", "Go modules are for steps, and an image carries no module cache; ask for them in development.dependencies"))
	}
	return section("mapping", keys...)
}

func spec(zone oci.Zone) kind[Spec] {
	production := zone == oci.Production
	var keys []key[Spec]
	add := func(k ...key[Spec]) { keys = append(keys, k...) }

	add(bind("archive", choice("archive", archives), func(s *Spec) *string { return &s.Archive },
		"The signed package archive that the image is made of.").must(),
		bind("packages", listOf("list of packages", word("package", packagePattern, checkPackage), 0, func(s string) string { n, _ := PackageName(s); return n }),
			func(s *Spec) *[]string { return &s.Packages },
			"Archive packages, each a name or name=version. What they depend on comes along."))
	if production {
		add(bind("exclude", dict("mapping of package to reason", `^`+packageName+`$`, checkPackageName, word("reason", `\S`, checkReason)),
			func(s *Spec) *map[string]string { return &s.Exclude },
			"Packages to leave out although something depends on them, each with the reason."))
	} else {
		add(refuse[Spec]("exclude", "the development image is a complete Debian, and dpkg configures no package whose dependencies are missing"))
	}
	if production {
		add(bind("keep", listOf("list of patterns", word("pattern", "", checkKeep), maxPatterns, itself), func(s *Spec) *[]string { return &s.Keep },
			"Paths of packages that stay although a production image leaves such things out (documentation, locales, headers, type declarations, ...): patterns as for inputs, of paths in the image without the leading slash."))
	} else {
		add(refuse[Spec]("keep", "nothing of a package is left out of the development image"))
	}
	add(bind("dependencies", dependencies(zone), func(s *Spec) *Dependencies { return &s.Dependencies },
		"Language dependencies, by the project's own lock files."))
	destination := word("absolute path", imagePattern, checkDestination)
	if production {
		add(bind("artifacts", dict("mapping of step output to absolute path", "", checkArtifact, destination),
			func(s *Spec) *map[string]string { return &s.Artifacts },
			"Outputs of steps and where they go: dist, or compile:dist to name the step. Only outputs of kind artifact can be placed."))
	} else {
		add(refuse[Spec]("artifacts", "steps run in the development image, so it cannot hold what they make"))
	}
	add(bind("files", dict("mapping of project path to absolute path", projectPattern, checkProjectPath, destination),
		func(s *Spec) *map[string]string { return &s.Files },
		"Files and folders of the project and where they go."),
		bind("environment", dict("mapping of names to values", variablePattern, checkVariable, text("value")),
			func(s *Spec) *map[string]string { return &s.Environment },
			"Environment variables. Numbers and truth values are taken as they are written."))
	if production {
		add(bind("user", user(zone), func(s *Spec) *User { return &s.User },
			"Who the image runs as: a numeric user that is not root.").or(fmt.Sprintf("{name: %s, id: %d}", DefaultUser, DefaultUserID)))
	} else {
		add(bind("user", user(zone), func(s *Spec) *User { return &s.User },
			"Who the image runs as.").or("root"))
	}
	if production {
		add(bind("workdir", word("absolute path", imagePattern, checkImagePath), func(s *Spec) *string { return &s.Workdir },
			"Working directory.").or(DefaultWorkdir))
	} else {
		add(bind("workdir", word("absolute path", imagePattern, checkDestination), func(s *Spec) *string { return &s.Workdir },
			"Working directory; the source is mounted here, and steps run here.").or(DefaultWorkdir))
	}
	why := ""
	if production {
		why = "; a production image holds no shell that could take a text apart"
	}
	entrypoint := bind("entrypoint", arguments(why), func(s *Spec) *[]string { return &s.Entrypoint },
		"The program that the image runs, with its first arguments.")
	if production {
		entrypoint = entrypoint.must()
	}
	port := number("TCP port", 1, 65535)
	add(entrypoint,
		bind("command", arguments(why), func(s *Spec) *[]string { return &s.Command },
			"Further arguments, which whoever starts the image may replace."),
		bind("ports", listOf("list of ports", port, 0, strconv.Itoa), func(s *Spec) *[]int { return &s.Ports },
			"TCP ports that the application listens on."),
		bind("writable", listOf("list of absolute paths", word("absolute path", imagePattern, checkWritable), 0, itself),
			func(s *Spec) *[]string { return &s.Writable },
			"Folders that stay writable when the root file system is read-only."),
		bind("health", word("HTTP path", `^/`, checkProbe), func(s *Spec) *string { return &s.Health },
			"HTTP path that answers as long as the application lives, on the first port."),
		bind("ready", word("HTTP path", `^/`, checkProbe), func(s *Spec) *string { return &s.Ready },
			"HTTP path that answers when the application can take requests, on the first port."),
		bind("labels", dict("mapping of names to values", "", checkLabel, text("value")), func(s *Spec) *map[string]string { return &s.Labels },
			"Labels of the image. Names that begin with dev.twinhull are Twinhull's own."))
	if production {
		add(refuse[Spec]("debugger", "a production image holds no debugger and opens no port for one; put it in development"),
			refuse[Spec]("reload", "a production image runs what was built and nothing else; put it in development"))
	} else {
		add(bind("debugger", port, func(s *Spec) *int { return &s.Debugger },
			"TCP port of the debugger."),
			bind("reload", arguments(""), func(s *Spec) *[]string { return &s.Reload },
				"Command of `twinhull run development`, with the source mounted at workdir.").or("entrypoint and command"))
	}
	return section("mapping", keys...)
}

// checkKeep is checkPattern for paths of an image.
func checkKeep(s string) (string, string) {
	if rest, ok := strings.CutPrefix(s, "/"); ok {
		return "begins with a slash", fmt.Sprintf("write %q", shorten(rest))
	}
	return checkPattern(s)
}

// checkArtifact only looks at the form; whether there is such an output is
// known when the whole file has been read.
func checkArtifact(s string) (string, string) {
	step, output, ok := strings.Cut(s, ":")
	if !ok {
		return checkProjectPath(s)
	}
	if wrong, hint := checkStepName(step); wrong != "" {
		return wrong, hint
	}
	return checkProjectPath(output)
}

func checkAfter(s string) (string, string) {
	if strings.ContainsRune(s, ':') {
		return checkArtifact(s)
	}
	return checkStepName(s)
}

func step() kind[Step] {
	return section("mapping",
		bind("run", command(), func(s *Step) *[]string { return &s.Run },
			"The command, run at development.workdir without a network.").must(),
		bind("inputs", listOf("list of patterns", word("pattern", "", checkPattern), maxPatterns, itself), func(s *Step) *[]string { return &s.Inputs },
			"The files of the project that the step sees, and no others: paths, folders, or patterns with *, ?, [a-z] and **; a leading ! excludes (in quotes). Patterns reach .git and node_modules only when these are written out."),
		bind("after", listOf("list of steps", word("step", "", checkAfter), maxSteps, itself), func(s *Step) *[]string { return &s.After },
			"Steps to run before; their artifacts lie at their paths. STEP:OUTPUT takes only that one."),
		bind("outputs", mapOf("mapping of project path to kind", projectPattern, checkOutput, choice("kind", OutputKinds), func(m *[]Output, name, kind string) {
			*m = append(*m, Output{Path: name, Kind: kind})
		}), func(s *Step) *[]Output { return &s.Outputs },
			"The files or folders that the step makes, each with its kind: artifact may be placed in the production image; coverage (lcov, Cobertura, Go) and junit are read as test results; report is kept."),
		bind("environment", dict("mapping of names to values", variablePattern, checkVariable, text("value")), func(s *Step) *map[string]string { return &s.Environment },
			"Added to the fixed environment of steps."),
		bind("timeout", timeout(), func(s *Step) *time.Duration { return &s.Timeout },
			"After this long the step is ended and has failed.").or("10m"),
		bind("platform", choice("platform", []string{"host", "each"}), func(s *Step) *string { return &s.Platform },
			"host: run once, for a result that serves every platform. each: run once for each platform, with TWINHULL_OS and TWINHULL_ARCH telling it which.").or(DefaultPlatformRun),
	)
}

func build() kind[Build] {
	return section("mapping",
		bind("tools", listOf("list of packages", word("package", `^`+packageName+`$`, checkTool), 0, itself), func(b *Build) *[]string { return &b.Tools },
			"Those packages of development.packages that steps may see, with what they depend on. A smaller set keeps steps independent of editors and debuggers.").or("all of development.packages"),
		bind("steps", mapOf("mapping of step names to steps", stepPattern, checkStepName, step(), func(m *[]Step, name string, s Step) {
			s.Name = name
			*m = append(*m, s)
		}), func(b *Build) *[]Step { return &b.Steps },
			"Commands that run in the development image without a network."),
	)
}

func checkTool(s string) (string, string) {
	if name, version, ok := strings.Cut(s, "="); ok && version != "" {
		return "a tool has no version of its own", "write " + shorten(name) + "; the version is that of development.packages"
	}
	return checkPackageName(s)
}

// fileKind is the format of the whole file.
func fileKind() kind[File] {
	return section("mapping",
		bind("name", word("repository name", namePattern, checkName), func(f *File) *string { return &f.Name },
			"Name of the application's repositories in a registry.").must(),
		bind("platforms", listOf("list of platforms", platform(), 0, oci.Platform.String), func(f *File) *[]oci.Platform { return &f.Platforms },
			"Platforms that images are made for.").or("["+DefaultPlatform+"]"),
		bind("development", spec(oci.Development), func(f *File) *Spec { return &f.Development },
			"The image with every tool: a complete Debian to work, build and debug in.").must(),
		bind("build", build(), func(f *File) *Build { return &f.Build },
			"The steps between the two images. Their declared artifacts are the only bytes that cross."),
		bind("production", spec(oci.Production), func(f *File) *Spec { return &f.Production },
			"The image that is deployed: only what runs. It inherits nothing from development.").must(),
	)
}
