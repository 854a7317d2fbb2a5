package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

// The rows are made from the examples as they are, so the edits must hit.
func TestProjectFiles(t *testing.T) {
	read := func(example string) string {
		b, err := os.ReadFile(filepath.Join("../../examples", example, "twinhull.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	node, service := read("node-api"), read("go-service")
	if got := onePlatform("amd64")(node); !strings.Contains(got, "\nplatforms: [linux/amd64]\n") {
		t.Errorf("onePlatform left %q", got)
	}
	got := withoutTests(node)
	if strings.Contains(got, "\n    test:") || !strings.Contains(got, "\n    compile:") || !strings.Contains(got, "\nproduction:") {
		t.Errorf("withoutTests gives:\n%s", got)
	}
	for _, text := range []string{node, service} {
		got := baseOnly(text)
		_, production, ok := strings.Cut(got, "\nproduction:")
		if !ok || strings.Contains(got, "\nbuild:") {
			t.Errorf("baseOnly gives:\n%s", got)
		}
		for _, key := range []string{"artifacts:", "dependencies:", "files:"} {
			if strings.Contains(production, key) {
				t.Errorf("baseOnly left %s", key)
			}
		}
		if !strings.Contains(production, "packages:") || !strings.Contains(production, "entrypoint:") {
			t.Errorf("baseOnly took too much:\n%s", production)
		}
	}
}

func TestChangeLine(t *testing.T) {
	for _, file := range []string{"src/config.ts", "main.go"} {
		dir := t.TempDir()
		name := filepath.Join(dir, filepath.FromSlash(file))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("first\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for round := range 3 {
			if err := changeLine(dir, round); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if text := string(b); seen[text] || !strings.HasPrefix(text, "first\n") || strings.Count(text, "round") > 1 && round == 0 && file != "main.go" {
				t.Errorf("%s after round %d: %q", file, round, text)
			} else {
				seen[text] = true
			}
		}
	}
	if err := changeLine(t.TempDir(), 0); err == nil {
		t.Error("a folder without sources was changed")
	}
}

func TestStepSeconds(t *testing.T) {
	lines := []stamped{{0, "step compile"}, {5, "step compile: 5.0 s"}, {6.5, "step compile: 6.5 s"}, {7, "step test"}}
	if got := stepSeconds(lines, "compile"); got != 6.5 {
		t.Errorf("compile took %v", got)
	}
	each := []stamped{{1, "step compile-linux-amd64"}, {3, "step compile-linux-amd64: 2.0 s"}, {3, "step compile-linux-arm64"}, {4, "step compile-linux-arm64: 1.0 s"}}
	if got := stepSeconds(each, "compile"); got != 3 {
		t.Errorf("compile for two platforms took %v", got)
	}
	if got := stepSeconds(lines, "test"); got != 0 {
		t.Errorf("a step that did not end took %v", got)
	}
}

func TestVertexSeconds(t *testing.T) {
	at := time.Now().UTC().Format(time.RFC3339Nano)
	later := time.Now().UTC().Add(1500 * time.Millisecond).Format(time.RFC3339Nano)
	line := func(name string, cached bool) stamped {
		return stamped{text: fmt.Sprintf(`{"vertexes":[{"name":%q,"started":%q,"completed":%q,"cached":%v}]}`, name, at, later, cached)}
	}
	lines := []stamped{{text: "not json"}, line("[build 7/7] RUN tsc", false), line("[x] other", false)}
	if got := vertexSeconds(lines, "tsc"); got < 1.49 || got > 1.51 {
		t.Errorf("tsc took %v", got)
	}
	if got := vertexSeconds([]stamped{line("RUN tsc", true)}, "tsc"); got != 0 {
		t.Errorf("a cached step took %v", got)
	}
}

func TestVerdicts(t *testing.T) {
	var r Results
	row := (&Row{What: "x", Unit: "s", Ours: &Figure{Median: 0.5}, Peers: map[string]Figure{"a": {Median: 2}, "b": {Median: 5}}}).atMost(1, "s")
	r.add(row)
	if row.Ratio != 4 || row.Against != "a" || row.Met == nil || !*row.Met {
		t.Errorf("%+v", row)
	}
	slow := r.add((&Row{What: "y", Unit: "s", Ours: &Figure{Median: 2}}).atMost(1, "s"))
	if slow.Met == nil || *slow.Met {
		t.Error("a missed target counts as met")
	}
	none := r.add(&Row{What: "z", Unit: "s", Ours: &Figure{Median: 2}})
	if none.Met != nil {
		t.Error("a row without a target has a verdict")
	}
	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{"4.0x", "NO", "0.500 s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestRegistry(t *testing.T) {
	r, err := startRegistry(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	base := "http://" + r.addr
	do := func(method, url string, body []byte, want int) *http.Response {
		t.Helper()
		if strings.HasPrefix(url, "/") {
			url = base + url
		}
		q, err := http.NewRequest(method, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Fatalf("%s %s: %s, want %d", method, url, resp.Status, want)
		}
		return resp
	}
	data := []byte("a layer")
	digest := digestOf(data)
	do("HEAD", "/v2/a/blobs/"+digest, nil, 404)
	at := do("POST", "/v2/a/blobs/uploads/", nil, 202).Header.Get("Location")
	do("PATCH", at, data[:3], 202)
	do("PUT", at+"?digest="+digest, data[3:], 201)
	do("HEAD", "/v2/a/blobs/"+digest, nil, 200)
	do("HEAD", "/v2/b/blobs/"+digest, nil, 404)
	do("POST", "/v2/b/blobs/uploads/?from=a&mount="+digest, nil, 201)
	do("HEAD", "/v2/b/blobs/"+digest, nil, 200)
	if got := r.received.Load(); got != int64(len(data)) {
		t.Errorf("received %d bytes, want %d", got, len(data))
	}
	at = do("POST", "/v2/a/blobs/uploads/", nil, 202).Header.Get("Location")
	do("PUT", at+"?digest="+digestOf([]byte("another")), data, 400)
	do("PUT", "/v2/a/manifests/latest", []byte(`{"x":1}`), 201)
	resp, err := http.Get(base + "/v2/a/manifests/latest")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != `{"x":1}` {
		t.Errorf("manifest %q", b)
	}
}

// The client must speak the protocol: the small registry checks digests.
func TestPusher(t *testing.T) {
	reg, err := startRegistry(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer reg.close()
	p := &pusher{newClient(), "http://" + reg.addr}
	defer p.http.CloseIdleConnections()
	ctx := t.Context()
	from := newBlobs(1<<20, 1)
	layer := from.next()
	if other := from.next(); other.digest == layer.digest {
		t.Error("two blobs are the same")
	}
	if all, err := io.ReadAll(layer.reader()); err != nil || digestOf(all) != layer.digest || int64(len(all)) != layer.size() {
		t.Errorf("a blob of %d bytes says %d and %s, %v", len(all), layer.size(), layer.digest, err)
	}
	cfg := config(layer.digest, 1)
	for range 2 { // the second time everything is there
		if err := p.image(ctx, "a", "v1", layer, cfg); err != nil {
			t.Fatal(err)
		}
	}
	if got := reg.received.Load(); got != layer.size()+cfg.size() {
		t.Errorf("%d bytes were sent, want %d", got, layer.size()+cfg.size())
	}
	broken := *layer
	broken.digest = digestOf([]byte("another"))
	if err := p.blob(ctx, "a", &broken); err == nil {
		t.Error("a refused push counts")
	}
	var n atomic.Int64
	if err := p.pull(ctx, "/v2/a/manifests/missing", make([]byte, 100), &n); err == nil {
		t.Error("404 counts as a pull")
	}

	self := &running{base: p.base, cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
	w, err := self.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer w.c.Close()
	for range 2 { // on one connection
		status, size, err := w.get(request("/v2/a/manifests/v1", manifestType))
		if err != nil || status != http.StatusOK || size < 200 {
			t.Errorf("status %d, %d bytes, %v", status, size, err)
		}
	}
	if self.processor() == 0 || self.peak() == 0 {
		t.Error("a process without time and memory")
	}
}

func TestLoad(t *testing.T) {
	self := &running{cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
	var most, now atomic.Int64
	one := func(_ context.Context, _, _ int, bytes *atomic.Int64) error {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		bytes.Add(10)
		time.Sleep(time.Millisecond)
		return nil
	}
	l, err := count(t.Context(), self, 4, 20, one)
	if err != nil || l.done != 20 || l.bytes != 200 || most.Load() > 4 || l.seconds <= 0 || len(l.took) != 20 {
		t.Errorf("%+v, %v, %d at once", l, err, most.Load())
	}
	if l.quantile(0) > l.quantile(0.5) || l.quantile(0.5) > l.quantile(0.99) || l.quantile(1) < 1 {
		t.Errorf("quantiles %v", l.took)
	}
	if l, err = during(t.Context(), self, 2, 20*time.Millisecond, one); err != nil || l.done < 2 || l.seconds < 0.02 {
		t.Errorf("%+v, %v", l, err)
	}
	wrong := errors.New("wrong")
	for name, drive := range map[string]func(task) (load, error){
		"count":  func(f task) (load, error) { return count(t.Context(), self, 3, 1000, f) },
		"during": func(f task) (load, error) { return during(t.Context(), self, 3, time.Minute, f) },
	} {
		if _, err := drive(func(context.Context, int, int, *atomic.Int64) error { return wrong }); !errors.Is(err, wrong) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRegistryTable(t *testing.T) {
	var r Results
	r.add(&Row{What: "push", Unit: "MB/s", Table: "registry", Higher: true, Target: "> both", meets: ahead, Ours: &Figure{Median: 300},
		Peers: map[string]Figure{distributionName: {Median: 100}, olaregName: {Median: 400}, fileServerName: {Median: 9000}}})
	if row := r.Rows[0]; row.Ratio != 0.75 || row.Against != olaregName || *row.Met {
		t.Errorf("%+v", row)
	}
	var out bytes.Buffer
	r.print(&out)
	if text := out.String(); !strings.Contains(text, "OLAREG") || !strings.Contains(text, "0.75x") || !strings.Contains(text, "300 MB/s") || strings.Contains(text, "BUILDKIT") {
		t.Errorf("the table is:\n%s", text)
	}
	if got := turned([]int{1, 2, 3}, 4); got[0] != 2 || got[2] != 1 {
		t.Errorf("turned gives %v", got)
	}
	got := benchmarkFigures("goos: linux\nBenchmarkX-2   \t1\t 2500000000 ns/op\t 1.5 push-ms\nPASS\n")
	if got["ns/op"] != 2.5e9 || got["push-ms"] != 1.5 {
		t.Errorf("figures %v", got)
	}
}

func TestMemory(t *testing.T) {
	var m memory
	stop := m.watch(os.Getpid())
	hold := make([]byte, 32<<20)
	for i := range hold {
		hold[i] = 1
	}
	time.Sleep(300 * time.Millisecond)
	stop()
	if m.count == 0 || m.self < 32 || m.tree < 32 {
		t.Errorf("seen %d times: %v MiB alone, %v MiB together", m.count, m.self, m.tree)
	}
	hold[0]++
}
