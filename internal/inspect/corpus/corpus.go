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
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/inspect"
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
	DockerSave  bool // Case.Store writes a file as docker save does, which has no manifest
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

// Expectation is one finding that inspecting a case must give: no more and no
// fewer than a case's expectations are right.
type Expectation struct {
	Rule    string
	Subject string
	Path    string // "" when it is in the configuration
	Inside  string // path inside the archive at Path
	Layer   int    // index of the layer; -1 when the finding names none
	Hidden  bool
}

// expected are the findings of every bad image, and of clean ones what nobody
// need refuse, in lines of seven fields
// between tabs: case, rule, subject, path, path inside an archive, layer,
// "hidden"; "-" is an empty field. The tests of package inspect write it
// (go test -run TestBadImages -update) and compare with it.
//
//go:embed expected.txt
var expected string

// Expected returns the findings that inspecting the case must give: none for an
// image that does not open, and hardly any for a clean one.
func (c Case) Expected() ([]Expectation, error) {
	var list []Expectation
	for line := range strings.Lines(expected) {
		name, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok || name != c.Name {
			continue
		}
		f := strings.Split(rest, "\t")
		if len(f) != 6 {
			return nil, fmt.Errorf("expected.txt: case %s has %d fields", c.Name, len(f))
		}
		for i := range f {
			if f[i] == "-" {
				f[i] = ""
			}
		}
		layer, err := strconv.Atoi(f[4])
		if err != nil {
			return nil, fmt.Errorf("expected.txt: case %s: layer: %w", c.Name, err)
		}
		list = append(list, Expectation{f[0], f[1], f[2], f[3], layer, f[5] != ""})
	}
	return list, nil
}

// Rules returns the ids of all rules that inspecting the case must name, sorted:
// Case.Rule and what the same defect breaks besides.
func (c Case) Rules() ([]string, error) {
	list, err := c.Expected()
	var ids []string
	for _, e := range list {
		ids = append(ids, e.Rule)
	}
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// Expectations turns what was found into the form of expected.txt.
func Expectations(f *inspect.Facts) []Expectation {
	var list []Expectation
	for _, x := range f.Findings {
		layer := slices.IndexFunc(f.Layers, func(l inspect.Layer) bool { return l.Digest == x.Layer })
		list = append(list, Expectation{x.Rule, x.Subject, x.Path, x.Inside, layer, x.Hidden})
	}
	slices.SortFunc(list, func(a, b Expectation) int { return strings.Compare(a.line(), b.line()) })
	return list
}

func (e Expectation) line() string {
	field := func(s string) string {
		if s == "" {
			return "-"
		}
		return strings.Map(func(r rune) rune {
			if r < ' ' {
				return ' '
			}
			return r
		}, s)
	}
	hidden := ""
	if e.Hidden {
		hidden = "hidden"
	}
	return strings.Join([]string{field(e.Rule), field(e.Subject), field(e.Path), field(e.Inside), strconv.Itoa(e.Layer), field(hidden)}, "\t")
}

// Lines is the part of expected.txt that is about the case.
func Lines(name string, list []Expectation) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteString(name + "\t" + e.line() + "\n")
	}
	return b.String()
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

// Store writes the case's image in dir and says where it is: an OCI layout, or
// a file as docker save writes it. It fails with ErrNoTool where a program of
// the image cannot be had.
func (c Case) Store(dir string, t *Tools) (oci.Ref, error) {
	s, err := c.Spec(t)
	if err != nil {
		return oci.Ref{}, err
	}
	l, err := Write(filepath.Join(dir, "layout"), s)
	if err != nil {
		return oci.Ref{}, err
	}
	if !s.DockerSave {
		return oci.Ref{Kind: oci.LayoutRef, Path: l.Dir(), Tag: Tag}, nil
	}
	file := filepath.Join(dir, "image.tar")
	return oci.Ref{Kind: oci.DockerArchiveRef, Path: file}, dockerSave(file, l)
}

// dockerSave writes the image of a layout as docker save does: uncompressed
// layers in folders, a configuration, manifest.json.
func dockerSave(file string, l *oci.Layout) error {
	desc, err := l.Tag(Tag)
	if err != nil {
		return err
	}
	img, err := image.OpenDescriptor(l, desc, image.OpenOptions{Platform: oci.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		return err
	}
	defer img.Close()
	config := img.Manifest.Config.Digest.Encoded() + ".json"
	files := []File{{Name: config, Body: img.RawConfig}}
	item := map[string]any{"Config": config, "RepoTags": []string{"example/app:latest"}}
	var layers []string
	for i := range img.Manifest.Layers {
		r, err := img.OpenLayer(context.Background(), i, image.Limits{})
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		name := img.Config.RootFS.DiffIDs[i].Encoded() + "/layer.tar"
		layers = append(layers, name)
		files = append(files, File{Name: name, Body: b})
	}
	item["Layers"] = layers
	manifest, err := json.Marshal([]any{item})
	if err != nil {
		return err
	}
	b, err := Tar(append(files, File{Name: "manifest.json", Body: manifest}))
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
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
