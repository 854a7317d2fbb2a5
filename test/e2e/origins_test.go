package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/filetree"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/source/vault"
)

// TestOrigins compares every image with the document that explains it: each
// path of the layers has exactly one origin that says the same of it, the
// document names nothing else, and what proves an origin is in the vault. Nothing
// that was made here tells of the machine or the day. The command answers for a
// sample.
func TestOrigins(t *testing.T) {
	for _, name := range examples {
		t.Run(name, func(t *testing.T) {
			e := example(t, name)
			v, err := vault.Open(first().Cache)
			if err != nil {
				t.Fatal(err)
			}
			for _, image := range e.report.Images {
				t.Run(string(image.Zone)+" "+image.Platform.Architecture, func(t *testing.T) {
					checkOrigins(t, e, v, image)
				})
			}
			sample := map[string]string{
				"/etc/passwd":                        "from +Twinhull itself",
				"/etc/ssl/certs/ca-certificates.crt": "from +Twinhull itself",
				"/usr/share/zoneinfo/Europe/Paris":   "from +package tzdata",
				"/lib/os-release":                    "from +package base-files",
			}
			switch name {
			case "node-api":
				sample["/app/dist/server.js"] = "step +compile: node node_modules/typescript/bin/tsc"
				sample["/app/package.json"] = "from +the project's file package.json"
				sample["/app/node_modules/express/index.js"] = "from +express@"
				sample["/usr/bin/node"] = "lock entry +nodejs_"
			case "go-service":
				sample["/usr/bin/service"] = "step +compile: "
			case "python-model":
				sample["/app/model.json"] = "step +train: python3 -m training.train"
				sample["/app/winemodel/serve.py"] = "from +the project's file winemodel/serve.py"
				sample["/usr/bin/python3"] = "package python3"
			}
			for _, p := range sortedKeys(sample) {
				r := first().run(t.Context(), e.dir, "explain", "production", p)
				if r.code != 0 || !regexp.MustCompile(`(?m)^`+sample[p]+`|`+sample[p]).MatchString(r.stdout) || strings.Contains(r.stdout, "not in this machine's vault") {
					t.Errorf("want %q: %s", sample[p], r)
				}
				if n := strings.Count(r.stdout, "\n"); n > 40 {
					t.Errorf("%s: an answer of %d lines is not one screen", p, n)
				}
			}
			for _, p := range []string{"/bin/sh", "/usr/bin/dpkg", "/usr/bin/apt", "/usr/bin/perl", "/usr/bin/npm", "/usr/bin/pip", "/nothing"} {
				if r := first().run(t.Context(), e.dir, "explain", "production", p); r.code != 1 || !strings.Contains(r.stdout, "is not in the image\nwhy ") {
					t.Errorf("want an absence that is explained: %s", r)
				}
			}
		})
	}
}

var originTypes = map[byte]string{tar.TypeReg: "file", tar.TypeDir: "folder", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink"}

func checkOrigins(t *testing.T, e *made, v *vault.Vault, image build.ImageReport) {
	img, o := openManifest(t, filepath.Join(e.dir, ".twinhull/store"), image.Manifest.Digest)
	defer img.Close()
	explained := map[string]build.PathOrigin{}
	for _, p := range o.Paths {
		if _, twice := explained[p.Path]; twice {
			t.Errorf("/%s has two origins", p.Path)
		}
		explained[p.Path] = p
	}
	faults := 0
	fault := func(format string, args ...any) {
		if faults++; faults <= 20 {
			t.Errorf(format, args...)
		}
	}
	// Files that scripts and steps made; what packages ship is theirs.
	made := func(p string) bool {
		k := explained[p].Origin.Kind
		return k == filetree.FromGenerated || k == filetree.FromArtifact
	}
	left := traces(t, o.AsOf)
	seen := map[string]tarEntry{}
	for n := range img.Manifest.Layers {
		for _, entry := range readLayer(t, img, n, made) {
			p := path.Clean(entry.header.Name)
			for what, text := range left {
				if bytes.Contains(entry.content, []byte(text)) {
					fault("/%s holds the %s: %q", p, what, text)
				}
			}
			entry.content = nil
			if strings.HasPrefix(path.Base(p), ".wh.") {
				fault("layer %d deletes /%s", n, p)
			}
			seen[p] = entry
			if entry.header.ModTime.After(o.AsOf) {
				fault("/%s is of %s, later than the lock's %s", p, entry.header.ModTime.UTC().Format(time.RFC3339), o.AsOf)
			}
			if entry.header.Uname != "" || entry.header.Gname != "" {
				fault("/%s names its owner %s:%s", p, entry.header.Uname, entry.header.Gname)
			}
		}
	}
	for _, p := range sortedKeys(seen) {
		h := seen[p].header
		x, ok := explained[p]
		if !ok {
			fault("/%s has no origin", p)
			continue
		}
		mode, _ := strconv.ParseInt(x.Mode, 8, 64)
		if originTypes[h.Typeflag] != x.Type || h.Mode != mode && h.Typeflag != tar.TypeSymlink || h.Uid != x.UID || h.Gid != x.GID || h.Linkname != x.Link && h.Typeflag != tar.TypeReg {
			fault("/%s is %c %o %d:%d %q in the layer, %s %s %d:%d %q in the document", p, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, x.Type, x.Mode, x.UID, x.GID, x.Link)
		}
		if h.Typeflag == tar.TypeReg && (h.Size != x.Size || "sha256:"+seen[p].sha256 != string(x.SHA256)) {
			fault("/%s has %d bytes, %s, in the layer, %d, %s in the document", p, h.Size, seen[p].sha256, x.Size, x.SHA256)
		}
	}
	kinds := map[string]int{}
	known := map[oci.Digest]bool{}
	packages, steps := map[string]bool{}, map[oci.Digest]bool{}
	for _, q := range o.Packages {
		packages[q.Name+" "+q.Version] = true
	}
	for _, s := range o.Steps {
		steps[s.Digest] = true
	}
	for n, p := range sortedKeys(explained) {
		x := explained[p]
		if _, ok := seen[p]; !ok {
			fault("the document explains /%s, which no layer has", p)
		}
		kinds[fmt.Sprint(x.Origin.Kind)]++
		if x.Origin.Digest == "" {
			fault("/%s (%s %s) has an origin without a digest", p, x.Origin.Kind, x.Origin.Name)
			continue
		}
		has, asked := known[x.Origin.Digest]
		if !asked {
			has = v.Has(x.Origin.Digest)
			known[x.Origin.Digest] = has
		}
		if !has {
			fault("/%s (%s %s): %s is not in the vault", p, x.Origin.Kind, x.Origin.Name, x.Origin.Digest)
		}
		switch x.Origin.Kind {
		case filetree.FromPackage:
			if !packages[x.Origin.Name+" "+x.Origin.Version] {
				fault("/%s: the document lacks package %s %s", p, x.Origin.Name, x.Origin.Version)
			}
		case filetree.FromArtifact:
			if !steps[x.Origin.Digest] {
				fault("/%s: the document lacks the step of %s", p, x.Origin.Name)
			}
		}
		// The answer itself searches the whole document each time.
		if n%97 == 0 {
			if r := build.Explain(o, "/"+p, v.Has); r.Found == nil || r.Found.Path != p || !r.InVault {
				fault("/%s is not explained", p)
			}
		}
	}
	if faults > 20 {
		t.Errorf("… and %d more", faults-20)
	}
	if o.Zone != image.Zone || img.Config.Config.Labels[oci.ZoneKey] != string(image.Zone) || img.Manifest.Annotations[oci.ZoneKey] != string(image.Zone) {
		t.Errorf("zone %s in the document, %s in the label, %s in the annotation, want %s", o.Zone, img.Config.Config.Labels[oci.ZoneKey], img.Manifest.Annotations[oci.ZoneKey], image.Zone)
	}
	t.Logf("%d paths, origins %v", len(seen), kinds)
}

// TestProductionHoldsNothingElse looks for what must not be in production by
// name; proofs by content are the gate's.
func TestProductionHoldsNothingElse(t *testing.T) {
	forbidden := regexp.MustCompile(`^(usr/)?s?bin/(sh|bash|dash|zsh|ash|busybox|apt.*|dpkg.*|perl|npm|npx|yarn|pip.*|gcc.*|g\+\+|cc|ld|make|gdb|strace|curl|wget|git|nc.*|vim?|nano|su|sudo|login|mount)$|^usr/(include|share/(man|info|locale))/.|\.(deb|pyc)$|^usr/lib/.*\.a$|node_modules/(typescript|jest|nodemon)/`)
	limit := map[string]float64{"go-service": 12, "node-api": 115, "python-model": 160} // MiB
	for _, name := range examples {
		t.Run(name, func(t *testing.T) {
			e := example(t, name)
			for _, r := range e.report.Images {
				if r.Zone != oci.Production {
					continue
				}
				img, o := openManifest(t, filepath.Join(e.dir, ".twinhull/store"), r.Manifest.Digest)
				defer img.Close()
				for _, p := range o.Paths {
					mode, _ := strconv.ParseInt(p.Mode, 8, 64)
					// Copyright notices stay: licences ask for them.
					notice := regexp.MustCompile(`/(copyright|NOTICE[^/]*)$`).MatchString(p.Path)
					if p.Type != "folder" && forbidden.MatchString(p.Path) || p.Type == "file" && strings.HasPrefix(p.Path, "usr/share/doc/") && !notice {
						t.Errorf("%s: /%s (%s %s)", r.Platform, p.Path, p.Origin.Kind, p.Origin.Name)
					}
					if mode&0o6000 != 0 && p.Type == "file" {
						t.Errorf("%s: /%s has set-id bits: %s", r.Platform, p.Path, p.Mode)
					}
				}
				size := float64(r.Unpacked) / (1 << 20)
				t.Logf("%s: %.1f MiB, %d packages, %d paths", r.Platform, size, r.Packages, r.Files)
				if size > limit[name] {
					t.Errorf("%s: %.1f MiB, at most %.0f wanted", r.Platform, size, limit[name])
				}
			}
		})
	}
}

// traces are what the machine, the user and the day could leave in images.
func traces(t *testing.T, asOf time.Time) map[string]string {
	t.Helper()
	out := map[string]string{"working folder": filepath.Base(work.dir)}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if len(host) > 6 && host != "localhost" {
		out["host name"] = host
	}
	// The lock's own day is allowed.
	if now := time.Now().UTC(); now.Sub(asOf) > 24*time.Hour {
		for _, format := range []string{time.DateOnly, "Mon Jan _2 15", "Jan _2, 2006"} {
			out["date, as "+format] = now.Format(format)
		}
	}
	return out
}
