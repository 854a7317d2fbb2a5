// Package corpus makes images for tests: bad ones with one defect each, most of
// them hiding it, and clean ones that look suspicious. Each names the rule that
// it breaks, so that a test of inspection, policy or gate can ask whether it was
// caught for the right reason.
//
// Nothing of it is part of the program, and it holds no foreign bytes: tools
// come from this machine or, through its own archive configuration, from its
// Debian archive (Tools), keys and tokens are made up when they are needed.
package corpus

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
)

// File is one entry of a layer. The zero Type is a regular file.
type File struct {
	Name  string
	Type  byte
	Mode  int64 // 0: 0644, 0755 for folders
	UID   int
	GID   int
	Body  []byte
	Link  string
	PAX   map[string]string
	Major int64
	Minor int64
}

// Layer is one layer of a Spec.
type Layer struct {
	Files     []File
	Raw       []byte // the whole tar stream, instead of Files
	Behind    []byte // put behind the tar stream's end
	MediaType string // "": gzip
	Blob      []byte // the stored bytes, instead of what compressing gives
	History   string // "": "corpus"
}

// Spec is an image to be written.
type Spec struct {
	Layers      []Layer
	Config      ocispec.ImageConfig
	Healthcheck []string
	Annotations map[string]string
	History     []ocispec.History // instead of one entry for each layer
	Platform    ocispec.Platform
	// Change, which may be nil, is the last to touch what is written.
	Change func(m *ocispec.Manifest, c *ocispec.Image)
	// Spoil, which may be nil, is called with the finished layout.
	Spoil func(l *oci.Layout, m ocispec.Manifest) error
}

// Case is one image of the corpus.
type Case struct {
	Name  string
	Rule  string // an inspect.Rule constant that it must break; "" for a clean image
	Hides string // how the defect hides, "" when it does not
	// OpenFails says that the image must not even open.
	OpenFails bool
	// Spec makes the image. It may fail with ErrNoTool where a tool cannot be
	// had; tests skip then.
	Spec func(t *Tools) (Spec, error)
}

// Tag is the tag that Write gives the image.
const Tag = "image"

// Write stores the image in a new layout in dir and tags it.
func Write(dir string, s Spec) (*oci.Layout, error) {
	l, err := oci.CreateLayout(dir)
	if err != nil {
		return nil, err
	}
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cfg := ocispec.Image{Created: &when, Config: s.Config, Platform: s.Platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Annotations: s.Annotations, Layers: []oci.Descriptor{}}
	for i, layer := range s.Layers {
		stream := layer.Raw
		if stream == nil {
			if stream, err = Tar(layer.Files); err != nil {
				return nil, fmt.Errorf("layer %d: %w", i, err)
			}
		}
		stream = append(stream, layer.Behind...)
		media := layer.MediaType
		if media == "" {
			media = ocispec.MediaTypeImageLayerGzip
		}
		blob := layer.Blob
		if blob == nil {
			if blob, err = compress(media, stream); err != nil {
				return nil, err
			}
		}
		desc, err := l.PutBytes(media, blob)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, desc)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(stream))
		text := layer.History
		if text == "" {
			text = "corpus"
		}
		cfg.History = append(cfg.History, ocispec.History{Created: &when, CreatedBy: text})
	}
	if s.History != nil {
		cfg.History = s.History
	}
	if s.Change != nil {
		s.Change(&m, &cfg)
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	if s.Healthcheck != nil {
		var all map[string]any
		if err := json.Unmarshal(text, &all); err != nil {
			return nil, err
		}
		all["config"].(map[string]any)["Healthcheck"] = map[string]any{"Test": s.Healthcheck}
		if text, err = json.Marshal(all); err != nil {
			return nil, err
		}
	}
	if m.Config, err = l.PutBytes(ocispec.MediaTypeImageConfig, text); err != nil {
		return nil, err
	}
	if text, err = json.Marshal(m); err != nil {
		return nil, err
	}
	desc, err := l.PutBytes(ocispec.MediaTypeImageManifest, text)
	if err != nil {
		return nil, err
	}
	if err := l.SetTag(Tag, desc); err != nil {
		return nil, err
	}
	if s.Spoil != nil {
		return l, s.Spoil(l, m)
	}
	return l, nil
}

// Open opens an image that Write stored.
func Open(ctx context.Context, l *oci.Layout) (*image.Image, error) {
	return image.Open(ctx, oci.Ref{Kind: oci.LayoutRef, Path: l.Dir(), Tag: Tag}, image.OpenOptions{})
}

func compress(media string, b []byte) ([]byte, error) {
	var out bytes.Buffer
	var w io.WriteCloser
	switch media {
	case ocispec.MediaTypeImageLayerGzip, oci.MediaTypeDockerLayer:
		w = gzip.NewWriter(&out)
	case ocispec.MediaTypeImageLayerZstd:
		z, err := zstd.NewWriter(&out)
		if err != nil {
			return nil, err
		}
		w = z
	default:
		return b, nil
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Tar writes files as a tar stream, in their order, with whatever names they
// have.
func Tar(files []File) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Typeflag: f.Type, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Size: int64(len(f.Body)), Linkname: f.Link, Devmajor: f.Major, Devminor: f.Minor, PAXRecords: f.PAX, Format: tar.FormatPAX}
		if f.Type == 0 {
			h.Typeflag = tar.TypeReg
		}
		if f.Mode == 0 {
			h.Mode = 0o644
			if f.Type == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		if _, err := w.Write(f.Body); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Base is a small production image that breaks no rule: a static program, a
// user, certificates, time zones. Cases add their defect to it.
func Base() Spec {
	return Spec{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Layers: []Layer{{Files: []File{
			Dir("etc"), {Name: "etc/passwd", Body: []byte("root:x:0:0:root:/root:/sbin/nologin\napp:x:65532:65532:app:/nonexistent:/sbin/nologin\n")},
			{Name: "etc/group", Body: []byte("root:x:0:\napp:x:65532:\n")},
			{Name: "etc/os-release", Body: []byte("ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n")},
			Dir("etc/ssl"), Dir("etc/ssl/certs"), {Name: "etc/ssl/certs/ca-certificates.crt", Body: []byte(certificate)},
			Dir("usr"), Dir("usr/share"), Dir("usr/share/zoneinfo"), {Name: "usr/share/zoneinfo/UTC", Body: []byte("TZif2\x00\x00\x00\x00")},
			{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777},
		}}, {Files: []File{Dir("app"), {Name: "app/server", Mode: 0o755, Body: Program()}}}},
		Config: ocispec.ImageConfig{User: "65532:65532", Entrypoint: []string{"/app/server"}, WorkingDir: "/app", Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			Labels: map[string]string{oci.ZoneKey: string(oci.Production), "dev.twinhull.writable": "/tmp"}},
		Annotations: map[string]string{oci.ZoneKey: string(oci.Production)},
	}
}

// With adds a layer of files to the base.
func With(files ...File) Spec {
	s := Base()
	s.Layers = append(s.Layers, Layer{Files: files})
	return s
}

// Dir is a folder.
func Dir(name string) File { return File{Name: name, Type: tar.TypeDir, Mode: 0o755} }

// Link is a symbolic link.
func Link(name, to string) File {
	return File{Name: name, Type: tar.TypeSymlink, Link: to, Mode: 0o777}
}

// Whiteout deletes a path of lower layers.
func Whiteout(dir, base string) File { return File{Name: dir + "/.wh." + base} }

// certificate has the shape of a certificate and is none.
const certificate = `-----BEGIN CERTIFICATE-----
MIIBszCCAVmgAwIBAgIUQm9ndXMgY2VydGlmaWNhdGUgZm9yIHRlc3RzMAoGCCqG
SM49BAMCMBgxFjAUBgNVBAMMDXR3aW5odWxsIHRlc3QwHhcNMjYwMTAxMDAwMDAw
-----END CERTIFICATE-----
`
