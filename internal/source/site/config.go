package site

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// config is the user's config file. Every key is optional.
type config struct {
	Debian struct {
		Mirror   stringList `yaml:"mirror"`   // base URIs of the main archive
		Security stringList `yaml:"security"` // base URIs of the security archive
		Keyring  stringList `yaml:"keyring"`  // absolute paths
		Proxy    string     `yaml:"proxy"`    // HTTP proxy for both archives; "none" for none
	} `yaml:"debian"`
	NPM struct {
		Registry string `yaml:"registry"`
	} `yaml:"npm"`
	Go struct {
		Proxy string `yaml:"proxy"` // as GOPROXY
	} `yaml:"go"`
	CA stringList `yaml:"ca"` // PEM files of further certificate authorities
}

// stringList is one string or a list of them.
type stringList []string

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (l *stringList) UnmarshalYAML(decode func(any) error) error {
	var one string
	if err := decode(&one); err == nil {
		*l = []string{one}
		return nil
	}
	var many []string
	if err := decode(&many); err != nil {
		return err
	}
	*l = many
	return nil
}

// parseConfig reads the user's config file strictly.
func parseConfig(path string, data []byte) (config, error) {
	// Tags, anchors and aliases have no use in this file, and the decoder
	// panics on a tag without a value.
	for _, t := range lexer.Tokenize(string(data)) {
		switch t.Type {
		case token.TagType, token.AnchorType, token.AliasType, token.MergeKeyType:
			return config{}, fmt.Errorf("%s:%d:%d: YAML tags, anchors and aliases are not used here", path, t.Position.Line, t.Position.Column)
		}
	}
	var c config
	err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&c)
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: an empty file
		return config{}, configError(path, err)
	}
	for key, urls := range map[string][]string{"debian.mirror": c.Debian.Mirror, "debian.security": c.Debian.Security} {
		for _, u := range urls {
			if err := checkURL(u); err != nil {
				return config{}, fmt.Errorf("%s: %s: %w", path, key, err)
			}
		}
	}
	if v := c.NPM.Registry; v != "" {
		if err := checkURL(v); err != nil {
			return config{}, fmt.Errorf("%s: npm.registry: %w", path, err)
		}
	}
	if v := c.Debian.Proxy; v != "" && v != "none" {
		if err := checkURL(v); err != nil {
			return config{}, fmt.Errorf("%s: debian.proxy: %w", path, err)
		}
	}
	for key, files := range map[string][]string{"debian.keyring": c.Debian.Keyring, "ca": c.CA} {
		for _, f := range files {
			if !filepath.IsAbs(f) {
				return config{}, fmt.Errorf("%s: %s: %q: want an absolute path", path, key, f)
			}
		}
	}
	return c, nil
}

// configError places an error. The parser's own rendering quotes the lines
// around it, which may hold credentials, and is not used.
func configError(path string, err error) error {
	var e yaml.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: not a valid config file", path)
	}
	hint := ""
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) {
		hint = "; known keys are debian (mirror, security, keyring, proxy), npm (registry), go (proxy), ca"
	}
	if t := e.GetToken(); t != nil && t.Position != nil {
		return fmt.Errorf("%s:%d:%d: %s%s", path, t.Position.Line, t.Position.Column, e.GetMessage(), hint)
	}
	return fmt.Errorf("%s: %s%s", path, e.GetMessage(), hint)
}
