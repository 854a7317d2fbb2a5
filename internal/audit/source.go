package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Source gives the files of a log by their paths in tlog-tiles: "checkpoint",
// "tile/0/000", "tile/entries/000.p/7". What it gives nobody believes yet.
type Source interface {
	// ReadFile returns a file of at most limit bytes. The error matches
	// fs.ErrNotExist when there is none; every other error means that nobody
	// knows.
	ReadFile(ctx context.Context, name string, limit int64) ([]byte, error)
}

// errTooLarge is a file that is larger than any that belongs there.
var errTooLarge = errors.New("larger than such a file can be")

// Dir is a log in a folder. The folder may have been written by anybody: links
// out of it are not followed and only regular files are read.
func Dir(dir string) Source { return folder(dir) }

type folder string

func (d folder) ReadFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// Without O_NONBLOCK a named pipe would hold the reader for ever.
	f, err := root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return readRegular(f, name, limit)
}

func readRegular(f fs.File, name string, limit int64) ([]byte, error) {
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	return readLimited(f, name, limit)
}

func readLimited(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w", name, errTooLarge)
	}
	return data, nil
}

// FS is a log in a file system, such as an archive of one.
func FS(fsys fs.FS) Source { return fsSource{fsys} }

type fsSource struct{ fs.FS }

func (s fsSource) ReadFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	return readRegular(f, name, limit)
}

// Remote is a log that a server offers below a URL prefix (tlog-tiles, "APIs").
// A nil client is one that waits thirty seconds for an answer.
func Remote(prefix *url.URL, client *http.Client) Source {
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second}
	}
	return &remote{prefix, client}
}

type remote struct {
	prefix *url.URL
	client *http.Client
}

func (r *remote) ReadFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	u := r.prefix.JoinPath(strings.Split(name, "/")...).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return readLimited(resp.Body, u, limit)
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("%s: %w", u, fs.ErrNotExist)
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("%s: the server answers %s: %w", u, resp.Status, fs.ErrPermission)
	}
	return nil, fmt.Errorf("%s: the server answers %s", u, resp.Status)
}
