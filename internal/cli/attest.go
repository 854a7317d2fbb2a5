package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/known"
	"twinhull.dev/twinhull/internal/evidence/provenance"
	"twinhull.dev/twinhull/internal/evidence/sbom"
	"twinhull.dev/twinhull/internal/evidence/summary"
	"twinhull.dev/twinhull/internal/evidence/testresult"
	"twinhull.dev/twinhull/internal/evidence/vex"
	"twinhull.dev/twinhull/internal/evidence/vuln"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/vault"
	"twinhull.dev/twinhull/internal/trust/referrers"
)

func attestCommand() *Command {
	var key, platform, predicate string
	var types []string
	var inline bool
	return &Command{
		Name: "attest", Args: "IMAGE", Min: 1, Max: 1, Words: []string{"development", "production"},
		Short: "sign what is known of an image",
		Long: `Makes claims from what the builder recorded, signs them and stores them beside
the image: its bill of materials (SPDX and CycloneDX), SLSA provenance with every
input by hash, the totals of its tests and coverage, and the origin of every
file. Without --type all of them, for the images of all platforms. A claim that
is there already, by the same key, is not made again.

With --predicate the document is yours: a vex, an sbom of another tool, or any
predicate whose type is a URI. Documents of known types are checked first. A bill
of materials or a scan is about one image: of an index with several, --platform
says which.

Large documents are stored beside the claim, which signs their digest; --inline
signs them whole, for tools that look for the document itself.`,
		Examples: "twinhull attest production --key release.key\ntwinhull attest production --key release.key --type provenance\ntwinhull attest oci:out --key security.key --type vex --predicate app.openvex.json",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&key, "key", "", "private key `FILE`, or a key management service's reference")
			f.StringArrayVar(&types, "type", nil, "`TYPE` of claim: sbom, provenance, tests, origins; with --predicate also spdx, cyclonedx, vex, vulnerabilities or a URI; may be repeated")
			f.StringVar(&predicate, "predicate", "", "JSON `FILE` that holds the predicate")
			f.StringVar(&platform, "platform", "", "attest only the image for this platform")
			f.BoolVar(&inline, "inline", false, "sign bills of materials whole, whatever their size")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			plat, err := optionalPlatform(platform)
			if err != nil {
				return err
			}
			c, err := openClaimed(ctx, env, args[0], "", plat)
			if err != nil {
				return err
			}
			var given *known.Claim
			var kinds []evidence.Kind
			if predicate != "" {
				if len(types) != 1 {
					return Usagef("--predicate needs one --type that says what the document is")
				}
				if given, err = readPredicate(env.Path(predicate), types[0], inline); err != nil {
					return err
				}
			} else if kinds, err = splitKinds("type", types); err != nil {
				return err
			}
			if given != nil {
				if err := c.oneImage(*given); err != nil {
					return err
				}
			}
			signer, err := openSigner(ctx, env, key)
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
			defer t.Flush()
			for _, d := range c.images {
				claims := []known.Claim{}
				if given != nil {
					claims = append(claims, *given)
				} else if claims, err = c.known(ctx, env, d, kinds, inline); err != nil {
					return err
				}
				for _, k := range claims {
					var doc *referrers.Blob
					if k.Document != nil {
						doc = &referrers.Blob{MediaType: k.MediaType, Data: k.Document}
					}
					fresh, err := c.put(ctx, env, d, signer, k.PredicateType, k.Predicate, doc)
					if err != nil {
						return fmt.Errorf("%s: %w", k.Name, err)
					}
					how := made(fresh, "signed", "was signed already")
					if doc != nil {
						how += fmt.Sprintf(", document of %.1f MB beside it", float64(len(k.Document))/1e6)
					}
					fmt.Fprintf(t, "%s\t%s\t%s\n", d.Digest, k.Name, how)
				}
			}
			return nil
		},
	}
}

// oneImage refuses to sign a document that tells what is in one image as if it
// told of several: the packages of one platform are not those of another.
func (c *claimed) oneImage(given known.Claim) error {
	switch given.PredicateType {
	case evidence.TypeVulns, evidence.TypeSPDX, evidence.TypeCycloneDX, evidence.TypeReference:
	default:
		return nil
	}
	if len(c.images) < 2 {
		return nil
	}
	var names []string
	for _, d := range c.images {
		if p := d.Platform; p != nil {
			names = append(names, p.OS+"/"+p.Architecture)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	hint := "name the image by its own digest"
	if len(names) > 1 {
		hint = "--platform says which image it is about: " + strings.Join(names, ", ")
	}
	return Usagef("one document of type %s cannot be about the %d images of the index", given.Name, len(c.images)).WithHint("%s", hint)
}

// known makes the claims that the builder's record gives.
func (c *claimed) known(ctx context.Context, env *Env, d oci.Descriptor, kinds []evidence.Kind, inline bool) ([]known.Claim, error) {
	raw, o, err := c.rawOrigins(ctx, env, d.Digest)
	if err != nil {
		return nil, err
	}
	lock, err := lockOf(env, o)
	if err != nil {
		return nil, err
	}
	m, err := c.manifest(ctx, d)
	if err != nil {
		return nil, err
	}
	var layers []string
	for _, l := range m.Layers {
		layers = append(layers, l.MediaType)
	}
	cache, err := env.CacheDir()
	if err != nil {
		return nil, err
	}
	info, _ := debug.ReadBuildInfo()
	version := "devel"
	if info != nil {
		version = Version(info)
	}
	return known.Make(known.Input{Origins: o, Raw: raw, Lock: lock, Layers: layers, Version: version, Inline: inline,
		Output: func(f build.OutputFile) (io.ReadCloser, error) {
			r, err := build.OpenOutput(cache, f)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%s is no longer in the cache\nhint: `twinhull build --fresh-steps` runs the step again", f.Path)
			}
			return r, err
		}}, kinds)
}

// lockOf finds the lock that an image was built from: the vault keeps it, and
// the project's own may still be the same.
func lockOf(env *Env, o *build.Origins) (*project.Lock, error) {
	const most = 64 << 20
	var raw []byte
	if dir, err := env.CacheDir(); err == nil {
		if v, err := vault.Open(dir); err == nil {
			raw, _ = v.ReadFile(o.Lock, most)
		}
	}
	name := "the lock of the image"
	if raw == nil {
		if file, err := project.Find(env.Dir); err == nil {
			name = filepath.Join(filepath.Dir(file), "twinhull.lock")
			if b, err := os.ReadFile(name); err == nil && digest.FromBytes(b) == o.Lock {
				raw = b
			}
		}
	}
	if raw == nil {
		return nil, Refusedf("the lock %s that the image was built from is not on this machine", o.Lock).WithHint("attest where the image was built")
	}
	return project.ParseLock(name, raw)
}

// readPredicate reads a document that the user brings, and checks it when its
// type is known: a claim that no reader takes is worse than none.
func readPredicate(path, kind string, inline bool) (*known.Claim, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !json.Valid(data) {
		return nil, Refusedf("%s is not JSON", path)
	}
	c := &known.Claim{Name: kind, Predicate: json.RawMessage(bytes.TrimSpace(data))}
	mediaType := ""
	switch kind {
	case "spdx", "spdxjson", evidence.TypeSPDX:
		c.PredicateType, mediaType = evidence.TypeSPDX, evidence.MediaSPDX
	case "cyclonedx", evidence.TypeCycloneDX:
		c.PredicateType, mediaType = evidence.TypeCycloneDX, evidence.MediaCycloneDX
	case "sbom":
		c.PredicateType, mediaType = evidence.TypeSPDX, evidence.MediaSPDX
		if _, err := sbom.Read(mediaType, data); err != nil {
			c.PredicateType, mediaType = evidence.TypeCycloneDX, evidence.MediaCycloneDX
		}
	case "provenance", "slsaprovenance1", evidence.TypeProvenance:
		c.PredicateType = evidence.TypeProvenance
		_, err = provenance.ParseAny(data)
	case "tests", evidence.TypeTests:
		c.PredicateType = evidence.TypeTests
		_, err = testresult.Parse(data)
	case "vex", "openvex", evidence.TypeVEX:
		c.PredicateType = evidence.TypeVEX
		_, err = vex.Parse(data)
	case "vulnerabilities", evidence.TypeVulns:
		c.PredicateType = evidence.TypeVulns
		_, err = vuln.Parse(evidence.TypeVulns, data)
	case "summary", evidence.TypeSummary:
		c.PredicateType = evidence.TypeSummary
		_, err = summary.Parse(data)
	default:
		k, perr := evidence.ParseKind(kind)
		if perr != nil {
			return nil, Usagef("--type: %w", perr)
		}
		if k != evidence.Kind(kind) || !bytes.Contains([]byte(kind), []byte("://")) {
			return nil, Usagef("--type %s: name the predicate type as a URI", kind)
		}
		c.PredicateType = kind
	}
	if mediaType != "" {
		if _, err = sbom.Read(mediaType, data); err == nil && len(data) > known.InlineMost && !inline {
			c.PredicateType, c.MediaType, c.Document = evidence.TypeReference, mediaType, data
			c.Predicate = evidence.Refer(kind, mediaType, digest.FromBytes(data))
		}
	}
	if err != nil {
		return nil, Refusedf("%s: %w", path, err)
	}
	return c, nil
}
