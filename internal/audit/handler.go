package audit

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"twinhull.dev/twinhull/internal/durable"
)

// Handler serves the log in a folder to readers, as tlog-tiles lays it out:
// /checkpoint, /tile/… and /key, which has the log's verifier keys (log.pub) and
// proves nothing: a reader should have the key from elsewhere. Mount it below a
// prefix with http.StripPrefix. It reads only, and only files of the tree: no
// request reaches another file of the folder.
func Handler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the log is read only", http.StatusMethodNotAllowed)
			return
		}
		path := strings.TrimPrefix(r.URL.Path, "/")
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		switch path {
		case "checkpoint":
			h.Set("Content-Type", "text/plain; charset=utf-8")
			h.Set("Cache-Control", "no-cache")
		case "key":
			path = publicFile
			h.Set("Content-Type", "text/plain; charset=utf-8")
			h.Set("Cache-Control", "no-cache")
		default:
			if _, _, _, ok := parseTile(path); !ok {
				http.NotFound(w, r)
				return
			}
			h.Set("Content-Type", "application/octet-stream")
			// Entries name people: caches that many share do not keep them.
			h.Set("Cache-Control", "private, max-age=31536000, immutable")
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			unavailable(w)
			return
		}
		defer root.Close()
		f, err := root.OpenFile(filepath.FromSlash(path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			h.Del("Cache-Control") // a tile that is missing may come
			if errors.Is(err, fs.ErrNotExist) {
				http.NotFound(w, r)
				return
			}
			unavailable(w)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			h.Del("Cache-Control")
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", info.ModTime(), f)
	})
}

func unavailable(w http.ResponseWriter) {
	w.Header().Del("Cache-Control")
	http.Error(w, "the log cannot be read now", http.StatusServiceUnavailable)
}

// WriteProof writes a proof file that is complete or absent.
func WriteProof(path string, p *Proof) error { return durable.WriteFile(path, p.Marshal(), 0o644) }
