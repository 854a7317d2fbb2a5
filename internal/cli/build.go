package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/sandbox"
)

func buildCommand() *Command {
	var outputs []string
	var codec string
	var offline, shell, verbose, fresh, asJSON bool
	return &Command{
		Name: "build", Args: "[development|production]", Max: 2, Words: []string{"development", "production"},
		Short: "make the images",
		Long: `Makes both images of the project, or the zone that is named, from the lock:
fetches what is missing into the vault, configures the development tree, runs
the steps without a network, and puts the images together. What was made before
from the same inputs is not made again. The images go to the project's own
store, .twinhull/store, an OCI layout with the tags development and production.

Each --output sends the result elsewhere too:
  oci:DIR[:TAG]              an OCI layout; without TAG the zone is the tag
  docker-archive:FILE[:TAG]  a file for docker load or podman load (one zone)
  HOST/NAME[:TAG]            a registry: NAME for production, NAME/dev for development`,
		Examples: "twinhull build\ntwinhull build production --output oci:out\ntwinhull build --output localhost:5000/shop/api",
		Flags: func(f *pflag.FlagSet) {
			f.StringArrayVarP(&outputs, "output", "o", nil, "also write to `DESTINATION`; may be repeated")
			f.StringVar(&codec, "compress", string(image.Gzip), "compression of the layers: gzip, zstd or estargz")
			f.BoolVar(&offline, "offline", false, "use the vault only")
			f.BoolVar(&shell, "shell-on-failure", false, "open a shell in the sandbox of a step that fails")
			f.BoolVarP(&verbose, "verbose", "v", false, "show the output of steps as it comes")
			f.BoolVar(&fresh, "fresh-steps", false, "run compilers without what they kept from earlier runs")
			f.BoolVar(&asJSON, "json", false, "print the result as JSON")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			zones, err := parseZones(args)
			if err != nil {
				return err
			}
			c, err := image.ParseCodec(codec)
			if err != nil {
				return Usagef("--compress: %w", err)
			}
			dests, err := parseOutputs(env, outputs, zones)
			if err != nil {
				return err
			}
			w, err := openWorkspace(env, offline)
			if err != nil {
				return err
			}
			b, err := w.builder(func(cfg *build.Config) {
				cfg.Codec, cfg.FreshSteps = c, fresh
				if verbose {
					cfg.Log = env.Stderr
				}
				if shell {
					cfg.ShellOnFailure = func(ctx context.Context, s sandbox.Spec) { failureShell(ctx, env, s) }
				}
			})
			if err != nil {
				return err
			}
			rep, err := b.Build(ctx, zones)
			if err != nil {
				return err
			}
			for _, d := range dests {
				if err := d.deliver(ctx, env, b.StoreDir(), zones); err != nil {
					return err
				}
			}
			if asJSON {
				return writeJSON(env, rep)
			}
			return writeReport(env, rep)
		},
	}
}

func writeReport(env *Env, rep *build.Report) error {
	notes := map[string]bool{}
	for _, i := range rep.Images {
		if i.Cached {
			continue
		}
		for _, n := range i.Notes {
			if !notes[n] {
				notes[n] = true
				env.Talkf("note: %s", n)
			}
		}
	}
	t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ZONE\tPLATFORM\tDIGEST\tPACKAGES\tFILES\tUNPACKED\t")
	for _, i := range rep.Images {
		state := ""
		if i.Cached {
			state = "unchanged"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%.1f MiB\t%s\n", i.Zone, i.Platform, i.Manifest.Digest, i.Packages, i.Files, float64(i.Unpacked)/(1<<20), state)
	}
	return t.Flush()
}

// destination is one --output.
type destination struct {
	text string
	ref  oci.Ref
}

func parseOutputs(env *Env, outputs []string, zones []oci.Zone) ([]destination, error) {
	var out []destination
	for _, o := range outputs {
		ref, err := oci.ParseRef(o)
		if err != nil {
			return nil, Usagef("--output %s: %w", o, err)
		}
		if ref.Path != "" {
			ref.Path = env.Path(ref.Path)
		}
		if ref.Digest != "" {
			return nil, Usagef("--output %s: the digest follows from the build and cannot be chosen", o)
		}
		if ref.Kind == oci.DockerArchiveRef && len(zones) > 1 {
			return nil, Usagef("--output %s: a docker archive holds one zone", o).WithHint("name the zone: twinhull build production --output %s", o)
		}
		if ref.Kind == oci.LayoutRef && ref.Tag != "" && len(zones) > 1 {
			return nil, Usagef("--output %s: both zones cannot have one tag", o).WithHint("leave the tag out, or name the zone")
		}
		out = append(out, destination{o, ref})
	}
	return out, nil
}

func (d destination) deliver(ctx context.Context, env *Env, storeDir string, zones []oci.Zone) error {
	store, err := oci.OpenLayout(storeDir)
	if err != nil {
		return err
	}
	for _, zone := range zones {
		desc, err := store.Tag(string(zone))
		if err != nil {
			return err
		}
		ref := d.ref
		switch ref.Kind {
		case oci.LayoutRef:
			tag := ref.Tag
			if tag == "" {
				tag = string(zone)
			}
			if err := image.CopyLayout(ctx, store, desc, ref.Path, tag); err != nil {
				return fmt.Errorf("--output %s: %w", d.text, err)
			}
			if err := copyReferrers(ctx, store, desc, ref.Path); err != nil {
				return fmt.Errorf("--output %s: %w", d.text, err)
			}
		case oci.DockerArchiveRef:
			img, err := image.OpenDescriptor(store, desc, image.OpenOptions{})
			if err != nil {
				return err
			}
			tag := ref.Tag
			if tag == "" {
				tag = img.Config.Config.Labels["org.opencontainers.image.title"] + ":" + string(zone)
				if strings.HasPrefix(tag, ":") {
					tag = "twinhull" + tag
				}
			}
			if err := image.WriteDockerArchive(ctx, img, ref.Path, []string{tag}); err != nil {
				return fmt.Errorf("--output %s: %w", d.text, err)
			}
		case oci.RegistryRef:
			opt := image.PushOptions{Report: env.Progress}
			if zone == oci.Development {
				// The zones live in separate catalogs.
				if path.Base(ref.Name) != "dev" {
					ref.Name += "/dev"
				}
			} else {
				if path.Base(ref.Name) == "dev" {
					return Refusedf("--output %s: a production image does not go to a development repository", d.text)
				}
				opt.MountFrom = []string{ref.Name + "/dev"}
			}
			if ref.Tag == "" {
				ref.Tag = "latest"
			}
			res, err := image.Push(ctx, store, desc, ref, opt)
			if err != nil {
				return fmt.Errorf("--output %s: %w", d.text, err)
			}
			env.Talkf("pushed %s to %s (%.1f MB sent)", zone, ref, float64(res.Uploaded)/1e6)
			if err := pushReferrers(ctx, store, desc, ref, opt); err != nil {
				return fmt.Errorf("--output %s: %w", d.text, err)
			}
		}
	}
	return nil
}

// manifests lists the image manifests that desc is or holds.
func manifests(store *oci.Layout, desc oci.Descriptor) ([]oci.Descriptor, error) {
	var out []oci.Descriptor
	err := store.Walk(desc, func(d oci.Descriptor) error {
		if oci.IsManifest(d.MediaType) {
			out = append(out, d)
		}
		return nil
	})
	return out, err
}

// copyReferrers takes the documents that explain an image along.
func copyReferrers(ctx context.Context, store *oci.Layout, desc oci.Descriptor, dir string) error {
	all, err := manifests(store, desc)
	if err != nil {
		return err
	}
	for _, m := range all {
		tag := build.ReferrersTag(m.Digest)
		idx, err := store.Tag(tag)
		if err != nil {
			continue
		}
		if err := image.CopyLayout(ctx, store, idx, dir, tag); err != nil {
			return err
		}
	}
	return nil
}

// pushReferrers sends them as manifests with a subject, which is what a
// registry's referrers interface lists (distribution-spec, "Listing Referrers").
func pushReferrers(ctx context.Context, store *oci.Layout, desc oci.Descriptor, ref oci.Ref, opt image.PushOptions) error {
	all, err := manifests(store, desc)
	if err != nil {
		return err
	}
	for _, m := range all {
		idx, err := store.Tag(build.ReferrersTag(m.Digest))
		if err != nil {
			continue
		}
		raw, err := store.ReadBlob(idx)
		if err != nil {
			return err
		}
		list, err := oci.ParseIndex(raw)
		if err != nil {
			return err
		}
		to := ref
		to.Tag = ""
		for _, d := range list.Manifests {
			if _, err := image.Push(ctx, store, d, to, opt); err != nil {
				return err
			}
		}
	}
	return nil
}

// failureShell drops into the sandbox of a step that failed.
func failureShell(ctx context.Context, env *Env, s sandbox.Spec) {
	fmt.Fprintf(env.Stderr, "a shell where the step failed; its command was: %s\n", strings.Join(s.Args, " "))
	s.Args = []string{"/bin/sh", "-i"}
	s.Env = append(s.Env, "PS1=(failed step) $ ")
	s.Timeout = 0
	s.Stdin, s.Stdout, s.Stderr, s.TTY = env.Stdin, env.Stderr, env.Stderr, isTerminal(env.Stdin)
	if _, err := sandbox.Run(ctx, s); err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintf(env.Stderr, "the shell could not be started: %v\n", err)
	}
}
