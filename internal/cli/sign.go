package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/evidence"
)

func signCommand() *Command {
	var key, platform string
	return &Command{
		Name: "sign", Args: "IMAGE", Min: 1, Max: 1, Words: []string{"development", "production"},
		Short: "sign an image",
		Long: `Signs the digest of an image, and of the index that a tag names when it holds
several, and stores the signatures beside it: in the layout or the registry that
IMAGE names. ` + "`cosign verify`" + ` accepts them. A signature that is there already, by
the same key, is not made again.

A signature says "I approve of these bits" and nothing more; what they are is
said by the claims of ` + "`twinhull attest`" + `.`,
		Examples: "twinhull sign production --key release.key\ntwinhull sign registry.example/shop/app:1.0 --key awskms:///alias/release",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&key, "key", "", "private key `FILE`, or a key management service's reference")
			f.StringVar(&platform, "platform", "", "sign only the image for this platform")
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
			signer, err := openSigner(ctx, env, key)
			if err != nil {
				return err
			}
			subjects := c.subjects()
			if platform != "" {
				subjects = c.images
			}
			for _, s := range subjects {
				fresh, err := c.put(ctx, env, s, signer, evidence.TypeSignature, struct{}{}, nil)
				if err != nil {
					return err
				}
				fmt.Fprintf(env.Stdout, "%s  %s\n", s.Digest, made(fresh, "signed", "was signed already"))
			}
			return nil
		},
	}
}

func made(fresh bool, yes, no string) string {
	if fresh {
		return yes
	}
	return no
}
