package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/durable"
)

// A running server has its folder locked, so what an operator does with the
// folder is asked of the server: over a socket in the folder, which only those
// reach who may read the server's keys anyway. There is no password and nothing
// of it on the network.
const socketName = "control.sock"

// errNoServer is when nobody answers at the socket.
var errNoServer = errors.New("no server runs on this folder")

// socketPath is a short path to the socket: the kernel takes no more than 107
// bytes, and folders are longer.
func socketPath(dir string) (path string, done func(), err error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName), func() { d.Close() }, nil
}

// listenControl opens the socket. The folder's lock is ours, so a socket that is
// there is left from a server that was killed.
func (s *Server) listenControl() (net.Listener, error) {
	path, done, err := socketPath(s.c.Data)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(filepath.Join(s.c.Data, socketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("the operator's socket: %w", err)
	}
	// Closing would remove the path that it was opened by, which is another
	// folder's then.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(filepath.Join(s.c.Data, socketName), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// The operator's requests and their answers.
type (
	backupRequest struct {
		Dir string `json:"dir"`
	}
	checkRequest struct {
		Shallow bool `json:"shallow,omitempty"`
		Mend    bool `json:"mend,omitempty"`
	}
	controlError struct {
		Error string `json:"error"`
	}
)

func (s *Server) controlHandler() http.Handler {
	m := http.NewServeMux()
	control(m, "backup", func(ctx context.Context, q backupRequest) (any, error) { return s.backup(ctx, q.Dir) })
	control(m, "check", func(ctx context.Context, q checkRequest) (any, error) {
		return s.check(ctx, CheckOptions{Shallow: q.Shallow, Mend: q.Mend})
	})
	return m
}

func control[T any](m *http.ServeMux, name string, do func(context.Context, T) (any, error)) {
	m.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		var q T
		err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&q)
		var out any
		if err == nil {
			out, err = do(r.Context(), q)
		}
		if err != nil {
			writeJSON(w, http.StatusInternalServerError, controlError{err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, out)
	})
}

// ask sends a request to the server that runs on the folder; errNoServer when
// none does.
func ask(ctx context.Context, data, name string, q, into any) error {
	path, done, err := socketPath(data)
	if errors.Is(err, fs.ErrNotExist) {
		return errNoServer
	}
	if err != nil {
		return err
	}
	defer done()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://server/"+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return errNoServer
	case err != nil:
		return fmt.Errorf("the server on %s: %w", data, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 256<<20))
	if err != nil {
		return fmt.Errorf("the server on %s: %w", data, err)
	}
	if resp.StatusCode != http.StatusOK {
		var e controlError
		if json.Unmarshal(answer, &e) != nil || e.Error == "" {
			e.Error = resp.Status
		}
		return errors.New(e.Error)
	}
	return json.Unmarshal(answer, into)
}

// oneAtATime keeps two back-ups or checks from running side by side.
func (s *Server) oneAtATime() (func(), error) {
	if !s.busy.TryLock() {
		return nil, errors.New("a back-up or check is running already: wait for it")
	}
	return s.busy.Unlock, nil
}

// syncTree makes everything that was copied below a folder durable.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("synchronise %s: %w", dir, err)
	}
	return durable.SyncDir(dir)
}
