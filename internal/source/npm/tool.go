package npm

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// Pin is what a package.json demands of a tool: an exact version or a range.
type Pin struct {
	Tool       string     // "node", "npm", "pnpm" or "yarn"
	Version    string     // exact; "" when the pin is a range
	Constraint string     // node-semver range; "" when the pin is exact
	Hash       oci.Digest // of the tarball, sha512; "" when the pin has none
	PinnedBy   string     // "package.json packageManager"
}

// Check tells whether a tool of this version (Debian's or npm's writing)
// fulfils the pin. The error names the place, both versions and the remedy.
func (p Pin) Check(version string) error {
	constraint := p.Constraint
	if constraint == "" {
		constraint = p.Version
	}
	if err := CheckEngine(constraint, version); err != nil {
		remedy := fmt.Sprintf("change the range, or take %s from a suite that has it", p.Tool)
		if p.Tool != "node" {
			remedy = fmt.Sprintf("pin an exact version in packageManager (%q), which is then installed from the registry", p.Tool+"@…")
		}
		return fmt.Errorf("%s asks for another %s: %w; %s", p.PinnedBy, p.Tool, err, remedy)
	}
	return nil
}

var packageManager = regexp.MustCompile(`^([a-z]+)@([^+]+)(?:\+(.*))?$`)

// PinnedTools reads the tool pins of a package.json: packageManager (exact, as
// Corepack reads it), engines.node and engines.npm, and devEngines' runtime
// and packageManager. The exact pin comes first, then ranges in that order.
func PinnedTools(packageJSON []byte) ([]Pin, error) {
	const file = "package.json"
	doc, err := parseJSON(file, packageJSON)
	if err != nil {
		return nil, err
	}
	var pins []Pin
	pm, err := doc.str("packageManager")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if pm != "" {
		p, err := readPackageManager(pm)
		if err != nil {
			return nil, fmt.Errorf("%s: packageManager %q: %w", file, pm, err)
		}
		pins = append(pins, p)
	}
	addRange := func(tool, constraint, place string) error {
		if _, err := inRange(constraint, semver.New(1, 0, 0, "", "")); err != nil {
			return fmt.Errorf("%s: %s: %w", file, place, err)
		}
		pins = append(pins, Pin{Tool: tool, Constraint: constraint, PinnedBy: file + " " + place})
		return nil
	}
	engines, err := doc.object("engines")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, tool := range []string{"node", "npm"} {
		c, err := engines.str(tool)
		if err != nil {
			return nil, fmt.Errorf("%s: engines: %w", file, err)
		}
		if c != "" {
			if err := addRange(tool, c, "engines."+tool); err != nil {
				return nil, err
			}
		}
	}
	dev, err := doc.object("devEngines")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, key := range []string{"runtime", "packageManager"} {
		var each []any
		switch v := dev[key].(type) {
		case nil:
		case []any:
			each = v
		default:
			each = []any{v}
		}
		// Several entries are alternatives; those of tools that the project
		// does not use say nothing here.
		for _, e := range each {
			o, ok := e.(object)
			if !ok {
				return nil, fmt.Errorf("%s: devEngines.%s is not an object", file, key)
			}
			name, err := o.str("name")
			if err != nil {
				return nil, fmt.Errorf("%s: devEngines.%s: %w", file, key, err)
			}
			c, err := o.str("version")
			if err != nil {
				return nil, fmt.Errorf("%s: devEngines.%s: %w", file, key, err)
			}
			if c != "" && (name == "node" || name == "npm") {
				if err := addRange(name, c, "devEngines."+key); err != nil {
					return nil, err
				}
			}
		}
	}
	return pins, nil
}

func readPackageManager(s string) (Pin, error) {
	m := packageManager.FindStringSubmatch(s)
	if m == nil {
		return Pin{}, fmt.Errorf("want a name and an exact version, such as %q", "npm@10.9.2")
	}
	p := Pin{Tool: m[1], Version: m[2], PinnedBy: "package.json packageManager"}
	if p.Tool != "npm" && p.Tool != "pnpm" && p.Tool != "yarn" {
		return Pin{}, fmt.Errorf("unknown tool %q: want npm, pnpm or yarn", p.Tool)
	}
	v, err := semver.StrictNewVersion(p.Version)
	if err != nil {
		return Pin{}, fmt.Errorf("%q is not an exact version; want one such as %q", p.Version, p.Tool+"@10.9.2")
	}
	if p.Tool == "yarn" && v.Major() > 1 {
		return Pin{}, fmt.Errorf("yarn %d is not a registry package of that name: use yarn 1, or npm", v.Major())
	}
	if m[3] != "" {
		algorithm, hash, _ := strings.Cut(m[3], ".")
		raw, err := hex.DecodeString(hash)
		if algorithm != "sha512" {
			return Pin{}, fmt.Errorf("its hash is %s, and a registry vouches for sha512 only: remove the hash behind the + or give the sha512", algorithm)
		}
		if err != nil || len(raw) != 64 {
			return Pin{}, fmt.Errorf("its sha512 is damaged: want 128 hexadecimal digits")
		}
		p.Hash = digest.NewDigestFromEncoded(digest.SHA512, strings.ToLower(hash))
	}
	return p, nil
}

// Get downloads a small document; fetch.Fetcher.Get is one, with a limit.
type Get func(ctx context.Context, url string) ([]byte, error)

// ResolveTool looks an exact pin up in the registry and returns the tool by
// hash. Registries publish no tarball sizes, so Size is 0. A pin that has a
// hash is only resolved to that hash.
func ResolveTool(ctx context.Context, get Get, registry string, pin Pin) (project.Tool, error) {
	if pin.Version == "" {
		return project.Tool{}, fmt.Errorf("%s gives a range for %s, not a version", pin.PinnedBy, pin.Tool)
	}
	id := pin.Tool + "@" + pin.Version
	address := documentURL(registry, pin.Tool, pin.Version)
	data, err := get(ctx, address)
	if err != nil {
		return project.Tool{}, fmt.Errorf("%s of %s: the registry gives no document for it; is the version right? %w", id, pin.PinnedBy, err)
	}
	doc, err := parseJSON(address, data)
	if err != nil {
		return project.Tool{}, err
	}
	name, _ := doc.str("name")
	version, _ := doc.str("version")
	if name != pin.Tool || version != pin.Version {
		return project.Tool{}, fmt.Errorf("%s answers for %s@%s instead of %s", address, name, version, id)
	}
	dist, err := doc.object("dist")
	if err != nil {
		return project.Tool{}, fmt.Errorf("%s: %w", address, err)
	}
	integrity, err := dist.str("integrity")
	if err != nil {
		return project.Tool{}, fmt.Errorf("%s: dist: %w", address, err)
	}
	d, err := ParseIntegrity(integrity)
	if err != nil {
		return project.Tool{}, fmt.Errorf("%s %w", id, err)
	}
	if pin.Hash != "" && pin.Hash != d {
		return project.Tool{}, fmt.Errorf("%s pins %s with the hash %s, but the registry has %s: correct the pin, or find out why they differ", pin.PinnedBy, id, pin.Hash, d)
	}
	return project.Tool{
		Name: pin.Tool, Version: pin.Version, PinnedBy: pin.PinnedBy,
		Path: TarballPath(pin.Tool, pin.Version), Digest: d,
	}, nil
}

// ToolTree is a tool's tarball as `npm install --global` places it below
// /usr/local: lib/node_modules/NAME and links in bin. The paths of the entries
// are relative to the root of an image; contents are appended to keep and
// refer to keepPath (see Unpack). Every entry has its origin.
func ToolTree(tool project.Tool, tarball io.Reader, keep io.Writer, keepPath string) ([]*filetree.Entry, error) {
	entries, c, err := Unpack(tarball, Limits{}, keep, keepPath)
	if err != nil {
		return nil, fmt.Errorf("%s@%s: %w", tool.Name, tool.Version, err)
	}
	m, err := readManifest(c.Manifest)
	if err != nil {
		return nil, fmt.Errorf("%s@%s: %w", tool.Name, tool.Version, err)
	}
	if m.Name != tool.Name || m.Version != tool.Version {
		return nil, fmt.Errorf("the tarball of %s@%s says that it is %s@%s", tool.Name, tool.Version, m.Name, m.Version)
	}
	origin := filetree.Origin{Kind: filetree.FromModule, Name: tool.Name, Version: tool.Version, Digest: tool.Digest}
	home := "usr/local/lib/node_modules/" + tool.Name
	tree := filetree.NewTree()
	for d := home; d != "."; d = path.Dir(d) {
		tree.Set(&filetree.Entry{Path: d, Type: tar.TypeDir, Mode: 0o755, Origin: origin})
	}
	tree.Set(&filetree.Entry{Path: "usr/local/bin", Type: tar.TypeDir, Mode: 0o755, Origin: origin})
	for _, e := range entries {
		e.Origin = origin
		if f, ok := c.Files[e.Path]; ok {
			e.Origin.Path = f.Member
		}
		e.Path = home + "/" + e.Path
		tree.Set(e)
	}
	links := m.links(c)
	for _, command := range slices.Sorted(maps.Keys(links)) {
		if _, ok := c.Files[links[command]]; !ok {
			return nil, fmt.Errorf("%s@%s: its command %q is the file %s, which the tarball lacks", tool.Name, tool.Version, command, links[command])
		}
		tree.Set(&filetree.Entry{
			Path: "usr/local/bin/" + command, Type: tar.TypeSymlink, Mode: 0o777,
			Link:   "../lib/node_modules/" + tool.Name + "/" + links[command],
			Origin: filetree.Origin{Kind: filetree.FromGenerated, Name: tool.Name, Version: tool.Version, Note: "link to a command of " + tool.Name + "@" + tool.Version},
		})
	}
	return tree.Sorted(), nil
}

// NormaliseHiddenLock removes from node_modules/.package-lock.json the
// addresses that packages were served from, the one thing in it that depends
// on the machine: npm writes the loopback registry's port there. Everything
// else follows from the lock. The result is JSON with sorted keys.
func NormaliseHiddenLock(data []byte) ([]byte, error) {
	doc, err := parseJSON(HiddenLock, data)
	if err != nil {
		return nil, err
	}
	pkgs, err := doc.object("packages")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", HiddenLock, err)
	}
	for _, v := range pkgs {
		if e, ok := v.(object); ok {
			delete(e, "resolved")
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("%s: %w", HiddenLock, err)
	}
	return b.Bytes(), nil
}

// Environment is what npm needs to install from the mirror at an address
// ("http://127.0.0.1:4873") and to write the same files every time: no audit
// and no other request, a cache and a home of the step's own, and no addresses
// in the hidden lock. cache is an absolute folder that is thrown away.
func Environment(address, cache string) map[string]string {
	return map[string]string{
		"npm_config_registry":                        address,
		"npm_config_cache":                           cache,
		"npm_config_audit":                           "false",
		"npm_config_fund":                            "false",
		"npm_config_update_notifier":                 "false",
		"npm_config_omit_lockfile_registry_resolved": "true",
		"npm_config_logs_max":                        "0",
		"npm_config_progress":                        "false",
		"npm_config_color":                           "false",
	}
}
