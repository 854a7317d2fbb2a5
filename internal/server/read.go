package server

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/registry/access"
)

// MaxConfig is the largest configuration file, in bytes.
const MaxConfig = 1 << 20

// A key is one key of the configuration file: how it is read, shown and told.
// The table below drives the reader, --print-config and a test that compares it
// with the operator's guide.
type key struct {
	path string // dotted
	doc  string
	read func(r *reader, v project.YAML, key string)
	show func(c *Config) string // as YAML, behind "key: "; "" when nothing is set
}

func keys(c *Config) []key {
	return []key{
		text("listen", "ADDRESS:PORT to serve on", &c.Listen),
		text("metrics", "ADDRESS:PORT of metrics and health besides, without access control", &c.Metrics),
		texts("hosts", "public names; the first is in every signed summary", &c.Hosts),
		path("data", "folder of everything that is kept", &c.Data),
		flag("insecurePlainHTTP", "serve others without TLS", &c.InsecurePlainHTTP),

		path("tls.certificate", "PEM file: the certificate and those that lead to a root", &c.TLS.Certificate),
		path("tls.key", "PEM file of its private key", &c.TLS.Key),

		path("storage.postgres.urlFile", "file with the connection string of the database for the records", &c.Storage.Postgres.URLFile),
		text("storage.postgres.urlVariable", "environment variable with it", &c.Storage.Postgres.URLVariable),
		text("storage.s3.endpoint", "URL of the object storage for the blobs", &c.Storage.S3.Endpoint),
		text("storage.s3.region", "its region", &c.Storage.S3.Region),
		text("storage.s3.bucket", "the bucket", &c.Storage.S3.Bucket),
		text("storage.s3.prefix", "before every key in it", &c.Storage.S3.Prefix),
		path("storage.s3.keyIDFile", "file with the access key's identifier", &c.Storage.S3.KeyIDFile),
		path("storage.s3.secretFile", "file with its secret", &c.Storage.S3.SecretFile),
		flag("storage.s3.pathStyle", "the bucket is in the path, not in the host name", &c.Storage.S3.PathStyle),
		flag("storage.s3.redirect", "clients fetch blobs from the bucket themselves", &c.Storage.S3.Redirect),
		text("storage.s3.urlEndpoint", "how clients reach it, if not as endpoint", &c.Storage.S3.URLEndpoint),

		path("audit.dir", "folder of the audit log; default: log in data", &c.Audit.Dir),
		text("audit.name", "name of this installation in a new log's origin, for ever; default: one is invented", &c.Audit.Name),
		custom("audit.witnesses", "who signs checkpoints: name: {url, key}", &c.Audit.Witnesses, readWitnesses, showWitnesses),
		whole("audit.quorum", "how many witnesses must have signed before a checkpoint is published", 0, 64, &c.Audit.Quorum),
		paths("audit.anchors", "files of checkpoints that are known from elsewhere: the log must cover them", &c.Audit.Anchors),
		flag("audit.elsewhere", "another server of the same database and bucket has the log and releases", &c.Audit.Elsewhere),

		flag("access.anonymousDevelopment", "everybody may pull from, push to and delete from development catalogs", &c.Access.AnonymousDevelopment),
		path("access.users", "htpasswd file, bcrypt only", &c.Access.Users),
		custom("access.tokens", "static tokens by their hash: name: {sha256, expires}", &c.Access.Tokens, readTokens, showTokens),
		custom("access.issuers", "OIDC issuers: name: {url, audiences, identities, keysFile or keysURL, algorithms}", &c.Access.Issuers, readIssuers, showIssuers),
		custom("access.grants", "a list of {to, may, repositories}", &c.Access.Grants, readGrants, showGrants),
		custom("access.trustedProxies", "networks whose X-Forwarded-For header is believed", &c.Access.Proxies, readPrefixes, showPrefixes),

		age("retention.development", "images of NAME/dev, after the last push", &c.Retention.Development),
		age("retention.candidate", "images of NAME/candidate, after the push", &c.Retention.Candidate),
		age("retention.unreferenced", "blobs without a manifest, uploads that nobody continues", &c.Retention.Unreferenced),
		texts("retention.keep", "patterns of development tags that are kept", &c.Retention.Keep),
		age("retention.every", "between two collections; 0s: none by itself", &c.Retention.Every),

		path("release.policy", "policy file; default: the built-in policy", &c.Release.Policy),
		path("release.trust", "trust policy file; without one nothing is released", &c.Release.Trust),
		path("release.vulnerabilities", "folder of the vulnerability database; without one nothing is released", &c.Release.Vulnerabilities),
		keyRef("release.key", "private key file or key management reference; default: one that is made in data", &c.Release.Key),
		path("release.passwordFile", "file with the key's password; default: TWINHULL_KEY_PASSWORD", &c.Release.PasswordFile),
		texts("release.foreign", "hosts of other registries that releases may go to", &c.Release.Foreign),

		number("limits.requests", "requests a second of one identity or address; 0: no limit", 0, 1e9, &c.Limits.Requests),
		whole("limits.burst", "how many of them at once", 0, 1<<30, &c.Limits.Burst),
		size("limits.blob", "largest blob; 0: no limit", &c.Limits.Blob),
		age("limits.stall", "without a byte from or to a client, before it is given up", &c.Limits.Stall),
		age("limits.shutdown", "for requests that run when the server is told to stop", &c.Limits.Shutdown),

		text("log.format", "text or json", &c.Log.Format),
		text("log.level", "debug, info, warn or error", &c.Log.Level),
	}
}

// Keys lists the keys of the configuration file and what each means.
func Keys() (out [][2]string) {
	var c Config
	for _, k := range keys(&c) {
		out = append(out, [2]string{k.path, k.doc})
	}
	return out
}

// ReadConfig reads a configuration file over c: what the file does not say stays.
// Paths in it are relative to dir. name is for messages; the error is
// project.Errors, every mistake at its place.
func ReadConfig(name string, data []byte, dir string, c *Config) error {
	if len(data) > MaxConfig {
		return project.Errors{{File: name, Message: fmt.Sprintf("a configuration has at most %d bytes", MaxConfig)}}
	}
	doc, err := project.ReadYAML(name, data)
	if err != nil {
		return err
	}
	r := &reader{file: name, dir: dir}
	all := keys(c)
	top := append([]key{{path: "version"}}, all...)
	versioned := false
	var walk func(v project.YAML, prefix string)
	walk = func(v project.YAML, prefix string) {
		if v.Kind != project.YAMLMap {
			r.fail(v, strings.TrimSuffix(prefix, "."), "want a mapping, found %s", v.Describe())
			return
		}
		for _, e := range v.Entries {
			at := prefix + e.Key
			if at == "version" {
				versioned = true
				if e.Value.Kind != project.YAMLNumber || e.Value.Text != "1" {
					r.fail(e.Value, at, "want version: 1, found %s", e.Value.Describe())
				}
				continue
			}
			i := slices.IndexFunc(all, func(k key) bool { return k.path == at })
			section := slices.ContainsFunc(all, func(k key) bool { return strings.HasPrefix(k.path, at+".") })
			switch {
			case strings.Contains(e.Key, ".") || i < 0 && !section:
				r.unknown(e, at, siblings(top, prefix))
			case section:
				walk(e.Value, at+".")
			default:
				all[i].read(r, e.Value, at)
			}
		}
	}
	walk(doc, "")
	if !versioned {
		r.fail(doc, "version", "is missing: want version: 1")
	}
	if len(r.errs) > 0 {
		return r.errs
	}
	return nil
}

// siblings are the names that may stand behind a prefix.
func siblings(all []key, prefix string) (out []string) {
	for _, k := range all {
		if rest, ok := strings.CutPrefix(k.path, prefix); ok {
			name, _, _ := strings.Cut(rest, ".")
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// Print writes the configuration as a file that ReadConfig reads, every key with
// what it means; those that say nothing are remarks.
func (c Config) Print(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString("version: 1\n")
	var open []string
	for _, k := range keys(&c) {
		parts := strings.Split(k.path, ".")
		sections := parts[:len(parts)-1]
		for i, s := range sections {
			if i >= len(open) || open[i] != s {
				open = open[:min(i, len(open))]
				fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", i), s)
				open = append(open, s)
			}
		}
		open = open[:len(sections)]
		indent := strings.Repeat("  ", len(sections))
		name := parts[len(parts)-1]
		fmt.Fprintf(&b, "%s# %s\n", indent, k.doc)
		switch v := k.show(&c); {
		case v == "":
			fmt.Fprintf(&b, "%s# %s:\n", indent, name)
		case strings.HasPrefix(v, "\n"):
			fmt.Fprintf(&b, "%s%s:%s\n", indent, name, strings.ReplaceAll(v, "\n", "\n"+indent+"  "))
		default:
			fmt.Fprintf(&b, "%s%s: %s\n", indent, name, v)
		}
	}
	_, err := w.Write(dropEmpty(b.Bytes()))
	return err
}

// dropEmpty makes remarks of sections that hold only remarks: a key without a
// value would not be read again.
func dropEmpty(text []byte) []byte {
	lines := strings.SplitAfter(string(text), "\n")
	indent := func(s string) int { return len(s) - len(strings.TrimLeft(s, " ")) }
	for i := len(lines) - 1; i >= 0; i-- {
		l := strings.TrimSuffix(lines[i], "\n")
		if !strings.HasSuffix(l, ":") || strings.HasPrefix(strings.TrimLeft(l, " "), "#") {
			continue
		}
		said := false
		for _, below := range lines[i+1:] {
			if indent(below) <= indent(l) {
				break
			}
			said = said || !strings.HasPrefix(strings.TrimLeft(below, " "), "#")
		}
		if !said {
			n := indent(l)
			lines[i] = l[:n] + "# " + l[n:] + "\n"
		}
	}
	return []byte(strings.Join(lines, ""))
}

// quote writes a scalar so that it is read back as text.
func quote(s string) string { return strconv.Quote(s) }

type reader struct {
	file, dir string
	errs      project.Errors
}

func (r *reader) fail(at project.YAML, key, format string, a ...any) {
	r.errs = append(r.errs, &project.Error{File: r.file, Line: at.Line, Column: at.Column, Key: key, Message: fmt.Sprintf(format, a...)})
}

func (r *reader) unknown(e project.YAMLEntry, key string, names []string) {
	at := project.YAML{Line: e.Line, Column: e.Column}
	if near := project.Nearest(e.Key, names); near != "" {
		r.fail(at, key, "unknown key: did you mean %q?", near)
		return
	}
	r.fail(at, key, "unknown key: want %s", strings.Join(names, ", "))
}

func (r *reader) text(v project.YAML, key string) string {
	if v.Kind != project.YAMLText || strings.TrimSpace(v.Text) == "" {
		r.fail(v, key, "want text, found %s", v.Describe())
		return ""
	}
	return strings.TrimSpace(v.Text)
}

func (r *reader) list(v project.YAML, key string) []project.YAML {
	if v.Kind != project.YAMLList {
		r.fail(v, key, "want a list, found %s", v.Describe())
		return nil
	}
	return v.List
}

func (r *reader) texts(v project.YAML, key string) (out []string) {
	for i, item := range r.list(v, key) {
		if s := r.text(item, fmt.Sprintf("%s[%d]", key, i)); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// named goes through a mapping of names that the user chose.
func (r *reader) named(v project.YAML, key string, each func(name string, v project.YAML, key string)) {
	if v.Kind != project.YAMLMap {
		r.fail(v, key, "want a mapping of names, found %s", v.Describe())
		return
	}
	for _, e := range v.Entries {
		each(e.Key, e.Value, key+"."+e.Key)
	}
}

// fields returns the entries of a mapping by key; others are mistakes.
func (r *reader) fields(v project.YAML, key string, known ...string) map[string]project.YAML {
	out := map[string]project.YAML{}
	if v.Kind != project.YAMLMap {
		r.fail(v, key, "want a mapping with %s, found %s", strings.Join(known, ", "), v.Describe())
		return out
	}
	for _, e := range v.Entries {
		if !slices.Contains(known, e.Key) {
			r.unknown(e, key+"."+e.Key, known)
			continue
		}
		out[e.Key] = e.Value
	}
	return out
}

// must returns an entry that has to be there.
func (r *reader) must(f map[string]project.YAML, v project.YAML, key, name string) (project.YAML, bool) {
	e, ok := f[name]
	if !ok {
		r.fail(v, key, "lacks the key %q", name)
	}
	return e, ok
}

func (r *reader) resolve(s string) string {
	if s == "" || filepath.IsAbs(s) {
		return s
	}
	return filepath.Join(r.dir, s)
}

func text(name, doc string, to *string) key {
	return key{name, doc,
		func(r *reader, v project.YAML, key string) { *to = r.text(v, key) },
		func(*Config) string {
			if *to == "" {
				return ""
			}
			return quote(*to)
		}}
}

func path(name, doc string, to *string) key {
	k := text(name, doc, to)
	k.read = func(r *reader, v project.YAML, key string) { *to = r.resolve(r.text(v, key)) }
	return k
}

func paths(name, doc string, to *[]string) key {
	k := texts(name, doc, to)
	k.read = func(r *reader, v project.YAML, key string) {
		*to = r.texts(v, key)
		for i, s := range *to {
			(*to)[i] = r.resolve(s)
		}
	}
	return k
}

// keyRef is a path or a reference with a scheme.
func keyRef(name, doc string, to *string) key {
	k := text(name, doc, to)
	k.read = func(r *reader, v project.YAML, key string) {
		if *to = r.text(v, key); !strings.Contains(*to, "://") {
			*to = r.resolve(*to)
		}
	}
	return k
}

func texts(name, doc string, to *[]string) key {
	return key{name, doc,
		func(r *reader, v project.YAML, key string) { *to = r.texts(v, key) },
		func(*Config) string { return showTexts(*to) }}
}

func showTexts(all []string) string {
	if len(all) == 0 {
		return ""
	}
	q := make([]string, len(all))
	for i, s := range all {
		q[i] = quote(s)
	}
	return "[" + strings.Join(q, ", ") + "]"
}

func flag(name, doc string, to *bool) key {
	return key{name, doc,
		func(r *reader, v project.YAML, key string) {
			if v.Kind != project.YAMLBool {
				r.fail(v, key, "want true or false, found %s", v.Describe())
			}
			*to = v.Text == "true"
		},
		func(*Config) string { return strconv.FormatBool(*to) }}
}

func number(name, doc string, least, most float64, to *float64) key {
	return key{name, doc,
		func(r *reader, v project.YAML, key string) {
			n, err := strconv.ParseFloat(v.Text, 64)
			if v.Kind != project.YAMLNumber || err != nil || !(n >= least && n <= most) {
				r.fail(v, key, "want a number from %g to %g, found %s", least, most, v.Describe())
				return
			}
			*to = n
		},
		func(*Config) string { return strconv.FormatFloat(*to, 'f', -1, 64) }}
}

func whole(name, doc string, least, most int, to *int) key {
	return key{name, doc,
		func(r *reader, v project.YAML, key string) {
			n, err := strconv.Atoi(v.Text)
			if v.Kind != project.YAMLNumber || err != nil || n < least || n > most {
				r.fail(v, key, "want a whole number from %d to %d, found %s", least, most, v.Describe())
				return
			}
			*to = n
		},
		func(*Config) string { return strconv.Itoa(*to) }}
}

// size is a number of bytes, with KiB, MiB, GiB or TiB behind it.
func size(name, doc string, to *int64) key {
	return key{name, doc,
		func(r *reader, v project.YAML, key string) {
			digits, shift := v.Text, 0
			for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
				if n, ok := strings.CutSuffix(v.Text, unit); ok {
					digits, shift = strings.TrimSpace(n), 10*(i+1)
				}
			}
			n, err := strconv.ParseInt(digits, 10, 64)
			if v.Kind != project.YAMLNumber && v.Kind != project.YAMLText || err != nil || n < 0 || n > 1<<62>>shift {
				r.fail(v, key, "want a size as 10GiB, found %s", v.Describe())
				return
			}
			*to = n << shift
		},
		func(*Config) string { return strconv.FormatInt(*to, 10) }}
}

// age is a duration; days are written 7d.
func age(name, doc string, to *time.Duration) key {
	return key{name, doc,
		func(r *reader, v project.YAML, key string) {
			d, err := parseAge(v.Text)
			if v.Kind != project.YAMLText || err != nil {
				r.fail(v, key, "want a time as 7d, 36h or 30s, found %s", v.Describe())
				return
			}
			*to = d
		},
		func(*Config) string { return showAge(*to) }}
}

const day = 24 * time.Hour

func parseAge(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		days, err := strconv.Atoi(n)
		if err != nil || days < 0 || days > 36500 {
			return 0, fmt.Errorf("%q is no number of days", s)
		}
		return time.Duration(days) * day, nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = fmt.Errorf("%q is less than nothing", s)
	}
	return d, err
}

func showAge(d time.Duration) string {
	if d > 0 && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	return d.String()
}

func custom[T any](name, doc string, to *[]T, read func(*reader, project.YAML, string) []T, show func([]T) string) key {
	return key{name, doc,
		func(r *reader, v project.YAML, key string) { *to = read(r, v, key) },
		func(*Config) string {
			if len(*to) == 0 {
				return ""
			}
			return show(*to)
		}}
}

func readWitnesses(r *reader, v project.YAML, key string) (out []Witness) {
	r.named(v, key, func(name string, v project.YAML, key string) {
		f := r.fields(v, key, "url", "key")
		w := Witness{Name: name}
		if u, ok := r.must(f, v, key, "url"); ok {
			w.URL = r.text(u, key+".url")
		}
		if k, ok := r.must(f, v, key, "key"); ok {
			w.Key = r.text(k, key+".key")
		}
		out = append(out, w)
	})
	return out
}

func showWitnesses(all []Witness) string {
	var b strings.Builder
	for _, w := range all {
		fmt.Fprintf(&b, "\n%s: {url: %s, key: %s}", quote(w.Name), quote(w.URL), quote(w.Key))
	}
	return b.String()
}

func readTokens(r *reader, v project.YAML, key string) (out []access.Token) {
	r.named(v, key, func(name string, v project.YAML, key string) {
		f := r.fields(v, key, "sha256", "expires")
		t := access.Token{Name: name}
		if h, ok := r.must(f, v, key, "sha256"); ok {
			// Unquoted it may look like a number; its text is what counts.
			raw, err := hex.DecodeString(h.Text)
			if err != nil || len(raw) != len(t.SHA256) {
				r.fail(h, key+".sha256", "want the SHA-256 of the token, 64 hexadecimal digits: never the token itself")
			}
			copy(t.SHA256[:], raw)
		}
		if e, ok := f["expires"]; ok {
			t.Expires = r.date(e, key+".expires")
		}
		out = append(out, t)
	})
	return out
}

// date reads 2027-01-31 (its first moment, in UTC) or an RFC 3339 time.
func (r *reader) date(v project.YAML, key string) time.Time {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, v.Text); err == nil {
			return t
		}
	}
	r.fail(v, key, "want a date as 2027-01-31 or a time as 2027-01-31T12:00:00Z, found %s", v.Describe())
	return time.Time{}
}

func showTokens(all []access.Token) string {
	var b strings.Builder
	for _, t := range all {
		fmt.Fprintf(&b, "\n%s: {sha256: \"%x\"", quote(t.Name), t.SHA256)
		if !t.Expires.IsZero() {
			fmt.Fprintf(&b, ", expires: %s", quote(t.Expires.UTC().Format(time.RFC3339)))
		}
		b.WriteString("}")
	}
	return b.String()
}

func readIssuers(r *reader, v project.YAML, key string) (out []Issuer) {
	r.named(v, key, func(name string, v project.YAML, key string) {
		f := r.fields(v, key, "url", "audiences", "identities", "algorithms", "keysFile", "keysURL")
		i := Issuer{Issuer: access.Issuer{Name: name}}
		if u, ok := r.must(f, v, key, "url"); ok {
			i.URL = r.text(u, key+".url")
			if err := access.ValidKeyURL(i.URL); err != nil {
				r.fail(u, key+".url", "%v", err)
			}
		}
		if a, ok := r.must(f, v, key, "audiences"); ok {
			i.Audiences = r.texts(a, key+".audiences")
		}
		if ids, ok := r.must(f, v, key, "identities"); ok {
			r.named(ids, key+".identities", func(name string, v project.YAML, key string) {
				c := access.Claims{Name: name, Match: map[string]string{}}
				r.named(v, key, func(claim string, v project.YAML, key string) {
					switch v.Kind {
					case project.YAMLText, project.YAMLNumber, project.YAMLBool:
						c.Match[claim] = v.Text
					default:
						r.fail(v, key, "want a pattern, found %s", v.Describe())
					}
				})
				i.Identities = append(i.Identities, c)
			})
		}
		if a, ok := f["algorithms"]; ok {
			i.Algorithms = r.texts(a, key+".algorithms")
			for _, name := range i.Algorithms {
				if !slices.Contains(access.AlgorithmNames(), name) {
					r.fail(a, key+".algorithms", "unknown %q: want %s", name, strings.Join(access.AlgorithmNames(), ", "))
				}
			}
		}
		file, isFile := f["keysFile"]
		at, isURL := f["keysURL"]
		switch {
		case isFile && isURL:
			r.fail(at, key+".keysURL", "is besides keysFile: keep one of the two")
		case isFile:
			i.KeysFile = r.resolve(r.text(file, key+".keysFile"))
		case isURL:
			i.KeysURL = r.text(at, key+".keysURL")
			if err := access.ValidKeyURL(i.KeysURL); err != nil {
				r.fail(at, key+".keysURL", "%v", err)
			}
		}
		out = append(out, i)
	})
	return out
}

func showIssuers(all []Issuer) string {
	var b strings.Builder
	for _, i := range all {
		fmt.Fprintf(&b, "\n%s:\n  url: %s\n  audiences: %s", quote(i.Name), quote(i.URL), showTexts(i.Audiences))
		if i.Algorithms != nil {
			fmt.Fprintf(&b, "\n  algorithms: %s", showTexts(i.Algorithms))
		}
		if i.KeysFile != "" {
			fmt.Fprintf(&b, "\n  keysFile: %s", quote(i.KeysFile))
		}
		if i.KeysURL != "" {
			fmt.Fprintf(&b, "\n  keysURL: %s", quote(i.KeysURL))
		}
		b.WriteString("\n  identities:")
		for _, c := range i.Identities {
			fmt.Fprintf(&b, "\n    %s:", quote(c.Name))
			var names []string
			for n := range c.Match {
				names = append(names, n)
			}
			slices.Sort(names)
			for _, n := range names {
				fmt.Fprintf(&b, "\n      %s: %s", quote(n), quote(c.Match[n]))
			}
		}
	}
	return b.String()
}

func readGrants(r *reader, v project.YAML, key string) (out []access.Grant) {
	for n, v := range r.list(v, key) {
		key := fmt.Sprintf("%s[%d]", key, n)
		f := r.fields(v, key, "to", "may", "repositories")
		var g access.Grant
		if to, ok := r.must(f, v, key, "to"); ok {
			g.To = r.texts(to, key+".to")
			for _, s := range g.To {
				if err := access.ValidSubject(s); err != nil {
					r.fail(to, key+".to", "%v", err)
				}
			}
		}
		if may, ok := r.must(f, v, key, "may"); ok {
			for i, item := range r.list(may, key+".may") {
				at := fmt.Sprintf("%s.may[%d]", key, i)
				s, err := access.ParseScope(r.text(item, at))
				if err != nil {
					r.fail(item, at, "%v", err)
				}
				g.May = append(g.May, s)
			}
		}
		if where, ok := r.must(f, v, key, "repositories"); ok {
			g.Repositories = r.texts(where, key+".repositories")
		}
		if len(r.errs) == 0 {
			if _, err := access.Compile([]access.Grant{g}); err != nil {
				_, why, _ := strings.Cut(err.Error(), ": ")
				r.fail(v, key, "%s", why)
			}
		}
		out = append(out, g)
	}
	return out
}

func showGrants(all []access.Grant) string {
	var b strings.Builder
	for _, g := range all {
		var may []string
		for _, s := range g.May {
			may = append(may, s.String())
		}
		fmt.Fprintf(&b, "\n- to: %s\n  may: %s\n  repositories: %s", showTexts(g.To), showTexts(may), showTexts(g.Repositories))
	}
	return b.String()
}

func readPrefixes(r *reader, v project.YAML, key string) (out []netip.Prefix) {
	for i, item := range r.list(v, key) {
		key := fmt.Sprintf("%s[%d]", key, i)
		s := r.text(item, key)
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				r.fail(item, key, "want a network as 10.0.0.0/8 or an address, found %s", item.Describe())
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out
}

func showPrefixes(all []netip.Prefix) string {
	var s []string
	for _, p := range all {
		s = append(s, p.String())
	}
	return showTexts(s)
}
