package cli

import (
	"context"
	"errors"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/vault"

	"path/filepath"
)

func explainCommand() *Command {
	var asJSON bool
	var platform string
	return &Command{
		Name: "explain", Args: "IMAGE PATH", Min: 2, Max: 2, Words: []string{"development", "production"},
		Short: "say why a file is in an image",
		Long: `Answers for one path: which package, artifact, dependency or effect it comes
from, which lock entry that is, which step made it from which source files, and
whether the bytes that prove it are in the vault. For a path that is not in the
image it says why not, as near as can be told.

IMAGE is development or production for the project's own, or a reference to a
layout that came with its origins. Exits with 1 when the path is not there.`,
		Examples: "twinhull explain production /usr/bin/node\ntwinhull explain oci:out:production /app/dist/server.js",
		Flags: func(f *pflag.FlagSet) {
			f.BoolVar(&asJSON, "json", false, "print the answer as JSON")
			f.StringVar(&platform, "platform", "", "of an image for several: linux/amd64 or linux/arm64 (default: this machine's)")
		},
		Run: func(ctx context.Context, env *Env, args []string) error {
			plat, err := optionalPlatform(platform)
			if err != nil {
				return err
			}
			img, store, err := openImage(ctx, env, args[0], plat)
			if err != nil {
				return err
			}
			defer img.Close()
			o, err := findOrigins(env, store, img)
			if err != nil {
				return err
			}
			have := func(oci.Digest) bool { return false }
			if dir, err := env.CacheDir(); err == nil {
				if v, err := vault.Open(dir); err == nil {
					have = v.Has
				}
			}
			x := build.Explain(o, args[1], have)
			if asJSON {
				if err := writeJSON(env, x); err != nil {
					return err
				}
			} else {
				x.Write(env.Stdout)
			}
			if x.Found == nil {
				return Status(Failed)
			}
			return nil
		},
	}
}

func optionalPlatform(s string) (oci.Platform, error) {
	if s == "" {
		return oci.Platform{}, nil
	}
	p, err := oci.ParsePlatform(s)
	if err != nil {
		return p, Usagef("--platform: %w", err)
	}
	return p, nil
}

// findOrigins looks beside the image first and then in the project's store: a
// docker archive carries no referrers, but may be of an image that was built
// here.
func findOrigins(env *Env, store *oci.Layout, img *image.Image) (*build.Origins, error) {
	d := img.Descriptor.Digest
	if store != nil {
		o, err := build.ReadOrigins(store, d)
		if err == nil || !errors.Is(err, build.ErrNoOrigins) {
			return o, err
		}
	}
	if path, err := project.Find(env.Dir); err == nil {
		if own, err := oci.OpenLayout(filepath.Join(filepath.Dir(path), ".twinhull", "store")); err == nil {
			if d == "" {
				d = manifestOf(own, imageID(img))
			}
			if d != "" {
				if o, err := build.ReadOrigins(own, d); err == nil {
					return o, nil
				}
			}
		}
	}
	return nil, Undecidedf("nothing explains %s: it came without its origins", imageID(img)).WithHint("take the image from the project's store, or from an OCI layout that `twinhull build --output` wrote")
}

// manifestOf finds the explained image of a layout that has this
// configuration; "" when there is none.
func manifestOf(store *oci.Layout, config oci.Digest) oci.Digest {
	all, err := build.AllOrigins(store)
	if err != nil {
		return ""
	}
	for _, o := range all {
		n, err := store.Stat(o.Image)
		if err != nil {
			continue
		}
		raw, err := store.ReadBlob(oci.Descriptor{Digest: o.Image, Size: n})
		if err != nil {
			continue
		}
		if m, err := oci.ParseManifest(raw); err == nil && m.Config.Digest == config {
			return o.Image
		}
	}
	return ""
}
