package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func env(pairs ...string) func(string) string {
	m := map[string]string{"HOST": "127.0.0.1", "PORT": "0", "DRAIN": "0s"}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return m[name] }
}

// serve runs the service; the first result is where it listens, stop tells it
// to stop and done gives what run returned.
func serve(t *testing.T, getenv func(string) string) (at string, stop context.CancelFunc, done <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	result := make(chan error, 1)
	go func() {
		result <- run(ctx, slog.New(slog.NewJSONHandler(w, nil)), getenv)
		w.Close()
	}()
	lines := bufio.NewScanner(r)
	if !lines.Scan() {
		t.Fatalf("no log line: %v", <-result)
	}
	var entry struct{ Msg, URL string }
	if err := json.Unmarshal(lines.Bytes(), &entry); err != nil || entry.Msg != "listening" {
		t.Fatalf("first log line %s: %v", lines.Bytes(), err)
	}
	go io.Copy(io.Discard, r)
	return entry.URL, cancel, result
}

func status(t *testing.T, address string) int {
	t.Helper()
	res, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

func TestStopsInOrder(t *testing.T) {
	at, stop, done := serve(t, env("DRAIN", "500ms"))
	if got := status(t, at+"/ready"); got != 200 {
		t.Fatalf("/ready: %d", got)
	}
	stop()
	deadline := time.Now().Add(400 * time.Millisecond)
	for status(t, at+"/ready") != 503 {
		if time.Now().After(deadline) {
			t.Fatal("/ready never turned 503 while draining")
		}
	}
	if got := status(t, at+"/health"); got != 200 {
		t.Errorf("/health while draining: %d", got)
	}
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if _, err := http.Get(at + "/health"); err == nil {
		t.Error("the port is still open")
	}
}

func TestCutsOffWhatDoesNotFinish(t *testing.T) {
	at, stop, done := serve(t, env("STOP", "50ms"))
	u, _ := url.Parse(at)
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// "100 Continue" says that the handler waits for the body.
	io.WriteString(conn, "POST /meetings HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("run: %v, want a deadline", err)
	}
}

func TestRefusesBadEnvironment(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	err := run(t.Context(), log, env("PORT", "http", "STOP", "soon", "REQUESTS_PER_SECOND", "0"))
	for _, want := range []string{"PORT: ", "STOP: ", "REQUESTS_PER_SECOND: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	if err := run(t.Context(), log, env("HOST", "256.0.0.1")); err == nil {
		t.Error("listening on 256.0.0.1 succeeded")
	}
}
