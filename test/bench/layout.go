package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// layout is an OCI image layout on disk, read independently of the program
// that is measured.
type layout string

type descriptor struct {
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

type manifest struct {
	Config descriptor   `json:"config"`
	Layers []descriptor `json:"layers"`
}

func (l layout) blob(digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return filepath.Join(string(l), "blobs", algorithm, hex)
}

// tag finds a manifest by the name that the layout gives it.
func (l layout) tag(name string) (string, error) {
	var idx struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := readJSON(filepath.Join(string(l), "index.json"), &idx); err != nil {
		return "", err
	}
	for _, d := range idx.Manifests {
		if d.Annotations["org.opencontainers.image.ref.name"] == name {
			return d.Digest, nil
		}
	}
	return "", fmt.Errorf("%s has no image %s", l, name)
}

func (l layout) manifest(digest string) (manifest, error) {
	var m manifest
	return m, readJSON(l.blob(digest), &m)
}

// only is the one image of a layout.
func (l layout) only() (string, error) {
	var idx struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := readJSON(filepath.Join(string(l), "index.json"), &idx); err != nil {
		return "", err
	}
	if len(idx.Manifests) != 1 {
		return "", fmt.Errorf("%s holds %d images", l, len(idx.Manifests))
	}
	return idx.Manifests[0].Digest, nil
}

// unpacked sums the sizes of the regular files of an image's layers.
func (l layout) unpacked(digest string) (int64, error) {
	m, err := l.manifest(digest)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, d := range m.Layers {
		n, err := l.layerSize(d.Digest)
		if err != nil {
			return 0, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		sum += n
	}
	return sum, nil
}

func (l layout) layerSize(digest string) (int64, error) {
	f, err := os.Open(l.blob(digest))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return 0, err
	}
	var sum int64
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			return sum, nil
		}
		if err != nil {
			return 0, err
		}
		if h.Typeflag == tar.TypeReg {
			sum += h.Size
		}
	}
}

func readJSON(name string, v any) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
