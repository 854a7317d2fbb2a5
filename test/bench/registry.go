package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
)

// registry is a small registry on the loopback interface that counts the bytes
// that it is sent. It has what a push and a pull need (distribution-spec 1.1,
// "Push" and "Pull", mounts among them) and nothing else.
type registry struct {
	dir       string
	server    *http.Server
	addr      string
	received  atomic.Int64 // bytes of blobs
	mu        sync.Mutex
	blobs     map[string]bool   // "repository@digest"
	manifests map[string][]byte // "repository@digest" and "repository:tag"
	types     map[string]string // media types, by digest
}

func startRegistry(dir string) (*registry, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &registry{dir: dir, addr: l.Addr().String(), blobs: map[string]bool{}, manifests: map[string][]byte{}, types: map[string]string{}}
	r.server = &http.Server{Handler: r}
	go r.server.Serve(l)
	return r, nil
}

// serve offers an image without its application as name:latest: the base that
// ko puts its own layer on.
func (r *registry) serve(name string, from layout, digest string) error {
	var m, config map[string]any
	if err := readJSON(from.blob(digest), &m); err != nil {
		return err
	}
	desc, _ := m["config"].(map[string]any)
	configDigest, _ := desc["digest"].(string)
	if err := readJSON(from.blob(configDigest), &config); err != nil {
		return err
	}
	layers, _ := m["layers"].([]any)
	history, _ := config["history"].([]any)
	rootfs, _ := config["rootfs"].(map[string]any)
	ids, _ := rootfs["diff_ids"].([]any)
	if len(layers) != len(history) || len(layers) != len(ids) {
		return fmt.Errorf("%s: %d layers, %d lines of history, %d diff ids", digest, len(layers), len(history), len(ids))
	}
	var keptLayers, keptHistory, keptIDs []any
	for i := range layers {
		line, _ := history[i].(map[string]any)
		if what, _ := line["created_by"].(string); strings.Contains(what, "application") {
			continue
		}
		keptLayers, keptHistory, keptIDs = append(keptLayers, layers[i]), append(keptHistory, history[i]), append(keptIDs, ids[i])
		l, _ := layers[i].(map[string]any)
		d, _ := l["digest"].(string)
		if err := copyFile(from.blob(d), r.file(d)); err != nil {
			return err
		}
		r.blobs[name+"@"+d] = true
	}
	m["layers"], config["history"], rootfs["diff_ids"] = keptLayers, keptHistory, keptIDs
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	d := digestOf(text)
	if err := os.WriteFile(r.file(d), text, 0o644); err != nil {
		return err
	}
	r.blobs[name+"@"+d] = true
	desc["digest"], desc["size"] = d, len(text)
	if text, err = json.Marshal(m); err != nil {
		return err
	}
	d = digestOf(text)
	r.manifests[name+":latest"], r.manifests[name+"@"+d] = text, text
	r.types[d], _ = m["mediaType"].(string)
	return nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (r *registry) close() { r.server.Close() }

func (r *registry) file(digest string) string {
	return filepath.Join(r.dir, strings.ReplaceAll(filepath.Base(digest), ":", "-"))
}

func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	p, ok := strings.CutPrefix(q.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, q)
		return
	}
	if p == "" {
		return
	}
	if name, id, ok := strings.Cut(p, "/blobs/uploads/"); ok {
		r.upload(w, q, name, id)
	} else if name, digest, ok := strings.Cut(p, "/blobs/"); ok {
		r.mu.Lock()
		known := r.blobs[name+"@"+digest]
		r.mu.Unlock()
		if !known {
			http.NotFound(w, q)
			return
		}
		w.Header().Set("Docker-Content-Digest", digest)
		http.ServeFile(w, q, r.file(digest))
	} else if name, ref, ok := strings.Cut(p, "/manifests/"); ok {
		r.manifest(w, q, name, ref)
	} else {
		http.NotFound(w, q)
	}
}

func (r *registry) upload(w http.ResponseWriter, q *http.Request, name, id string) {
	digest := q.URL.Query().Get("digest")
	switch q.Method {
	case http.MethodPost:
		if m := q.URL.Query().Get("mount"); m != "" {
			r.mu.Lock()
			have := r.blobs[q.URL.Query().Get("from")+"@"+m]
			if have {
				r.blobs[name+"@"+m] = true
			}
			r.mu.Unlock()
			if have {
				w.Header().Set("Location", "/v2/"+name+"/blobs/"+m)
				w.WriteHeader(http.StatusCreated)
				return
			}
		}
		id = rand.Text()
		w.Header().Set("Location", "/v2/"+name+"/blobs/uploads/"+id)
		if digest == "" {
			w.WriteHeader(http.StatusAccepted)
			return
		}
	case http.MethodPatch, http.MethodPut:
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	temp := filepath.Join(r.dir, "upload-"+filepath.Base(id))
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer f.Close()
	n, err := io.Copy(f, q.Body)
	r.received.Add(n)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if q.Method == http.MethodPatch {
		w.Header().Set("Location", q.URL.Path)
		if fi, err := f.Stat(); err == nil {
			w.Header().Set("Range", fmt.Sprintf("0-%d", fi.Size()-1))
		}
		w.WriteHeader(http.StatusAccepted)
		return
	}
	h := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err == nil {
		_, err = io.Copy(h, f)
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		http.Error(w, "the bytes are "+got, http.StatusBadRequest)
		return
	}
	if err := os.Rename(temp, r.file(digest)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	r.mu.Lock()
	r.blobs[name+"@"+digest] = true
	r.mu.Unlock()
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Location", "/v2/"+name+"/blobs/"+digest)
	w.WriteHeader(http.StatusCreated)
}

func (r *registry) manifest(w http.ResponseWriter, q *http.Request, name, ref string) {
	key := name + ":" + ref
	if strings.HasPrefix(ref, "sha256:") {
		key = name + "@" + ref
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch q.Method {
	case http.MethodPut:
		b, err := io.ReadAll(io.LimitReader(q.Body, 8<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		digest := digestOf(b)
		r.manifests[key], r.manifests[name+"@"+digest] = b, b
		r.types[digest] = q.Header.Get("Content-Type")
		w.Header().Set("Docker-Content-Digest", digest)
		w.Header().Set("Location", "/v2/"+name+"/manifests/"+digest)
		w.WriteHeader(http.StatusCreated)
	case http.MethodGet, http.MethodHead:
		b, ok := r.manifests[key]
		if !ok {
			http.NotFound(w, q)
			return
		}
		digest := digestOf(b)
		w.Header().Set("Content-Type", r.types[digest])
		w.Header().Set("Docker-Content-Digest", digest)
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		if q.Method == http.MethodGet {
			w.Write(b)
		}
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}
