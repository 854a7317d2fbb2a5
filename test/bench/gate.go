package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Versions of the scanners that a gate is usually put together of.
const (
	syftVersion     = "v1.52.0"
	gitleaksVersion = "v8.30.1"
	scalibrVersion  = "v0.5.3"
)

const (
	floorName    = "the floor"
	scannersName = "syft, gitleaks, osv-scalibr"
)

// gate judges the node example's two images. Beside it run the floor, which is
// what no reader of an image can leave out (uncompressing every layer and both
// of its SHA-256, by the same library with as many goroutines), and three
// scanners one after the other, which find what twinhull check finds in one
// pass: packages, secrets, packages with what is known of them.
func (l *lab) gate(ctx context.Context) error {
	zones := []string{}
	for _, zone := range []string{"development", "production"} {
		if l.wants("gate." + zone) {
			zones = append(zones, zone)
		}
	}
	if len(zones) == 0 {
		return nil
	}
	floor := l.path("inspect.test")
	if err := l.compile(ctx, "./internal/inspect", floor); err != nil {
		return err
	}
	var scan *scanners
	if !l.alone {
		var err error
		if scan, err = l.newScanners(ctx); err != nil {
			first, _, _ := strings.Cut(err.Error(), "\n")
			l.results.Skipped = append(l.results.Skipped, scannersName+" are left out: "+first)
			l.say("%s are left out: %v", scannersName, err)
			scan = nil
		}
	}
	for _, zone := range zones {
		if err := l.gateOf(ctx, zone, floor, scan); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) gateOf(ctx context.Context, zone, floor string, scan *scanners) error {
	archive := l.path(zone + ".tar")
	_, r, err := l.node.build(ctx, l.warm(), zone, "--output", "docker-archive:"+archive)
	if err != nil {
		return err
	}
	digest := r.digest(zone)
	store := layout(filepath.Join(l.node.dir, ".twinhull", "store"))
	alone, err := store.alone(digest, l.path("alone-"+zone), zone)
	if err != nil {
		return err
	}
	m, err := alone.manifest(digest)
	if err != nil {
		return err
	}
	var packed int64
	for _, d := range m.Layers {
		packed += d.Size
	}
	unpacked, err := alone.unpacked(digest)
	if err != nil {
		return err
	}
	largest := 0.0
	got, err := l.race(ctx, "gate, "+zone, l.slow,
		contender{run: func(ctx context.Context, round int) (built, error) {
			o, err := run(ctx, l.node.command(l.warm(), "check", "--zone", "production", "--output", "json", "oci:"+string(alone)+":"+zone))
			// The image is unsigned, so it is refused (exit code 1); what counts is
			// that it was judged.
			if err != nil && json.Valid(o.stdout) && len(o.stdout) > 0 {
				err = nil
			}
			largest = max(largest, o.largest)
			return built{outcome: o}, err
		}},
		contender{name: floorName, run: func(ctx context.Context, round int) (built, error) {
			return benchmark(ctx, floor, "BenchmarkFloor", string(alone)+":"+zone)
		}})
	if err != nil {
		return err
	}
	if scan != nil { // once: they take a minute, and their figure is far away
		more, err := l.race(ctx, "gate, "+zone, 1, contender{name: scannersName, run: func(ctx context.Context, round int) (built, error) {
			return scan.run(ctx, l, alone, archive)
		}})
		if err != nil {
			return err
		}
		for name, runs := range more {
			got[name] = runs
		}
	}
	row := l.row("gate."+zone, fmt.Sprintf("gate: %s image of %.0f MB", zone, float64(unpacked)/1e6), got, whole)
	ours, least := row.Ours.Median, row.Peers[floorName].Median
	row.Target = "1.5 floors, 10x"
	row.meets = func(r *Row) bool {
		peer, ok := r.Peers[scannersName]
		return ours <= 1.5*least && (!ok || peer.Median >= 10*ours)
	}
	row.Notes = append(row.Notes, fmt.Sprintf("%.1f MB compressed in %d layers; uncompressing them and both SHA-256 take %.2f s: the gate takes %.2f times as long", float64(packed)/1e6, len(m.Layers), least, ours/least))
	if peer, ok := row.Peers[scannersName]; ok {
		row.Notes = append(row.Notes, fmt.Sprintf("%s, one after the other, once: %.1f s (%s), %.0f times as long", scannersName, peer.Median, scan.told, peer.Median/ours))
	}
	l.results.add(row)
	memory := (&Row{ID: "gate." + zone + ".memory", What: "gate: the same, peak memory", Unit: "MiB", Ours: &Figure{Median: largest, Runs: []float64{largest}}}).atMost(256, "MiB")
	l.results.add(memory)
	return nil
}

// alone makes a layout with one image of this one, as tag.
func (l layout) alone(digest, dir, tag string) (layout, error) {
	to := layout(dir)
	b, err := os.ReadFile(l.blob(digest))
	if err != nil {
		return "", err
	}
	var m struct {
		MediaType string `json:"mediaType"`
		manifest
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return "", err
	}
	for _, d := range append([]descriptor{m.Config, {Digest: digest}}, m.Layers...) {
		if err := os.MkdirAll(filepath.Dir(to.blob(d.Digest)), 0o755); err != nil {
			return "", err
		}
		if err := os.Link(l.blob(d.Digest), to.blob(d.Digest)); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	index := map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{
		"mediaType": m.MediaType, "digest": digest, "size": len(b), "annotations": map[string]string{"org.opencontainers.image.ref.name": tag},
	}}}
	text, err := json.Marshal(index)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return "", err
	}
	return to, os.WriteFile(filepath.Join(dir, "index.json"), text, 0o644)
}

// compile makes the test program of a package.
func (b *bench) compile(ctx context.Context, dir, program string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, dir)
	cmd.Dir = b.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go test -c %s: %w: %s", dir, err, bytes.TrimSpace(out))
	}
	return nil
}

// benchmarkFigures reads the last line of a benchmark's figures, by their units.
func benchmarkFigures(text string) map[string]float64 {
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if !strings.HasPrefix(line, "Benchmark") || len(f) < 4 {
			continue
		}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				out[f[i+1]] = v
			}
		}
	}
	return out
}

// benchmark runs one round of a benchmark of a test program over an image
// (DIR:TAG). Its time is the round's: starting the program does not count.
func benchmark(ctx context.Context, program, name, image string) (built, error) {
	o, err := run(ctx, command{dir: os.TempDir(), env: []string{"TWINHULL_BENCH_IMAGE=" + image}, args: []string{program, "-test.run=^$", "-test.bench=^" + name + "$", "-test.benchtime=1x"}})
	if err != nil {
		return built{outcome: o}, err
	}
	ns, ok := benchmarkFigures(string(o.stdout))["ns/op"]
	if !ok {
		return built{outcome: o}, fmt.Errorf("%s printed no time: %s", name, o.stdout)
	}
	o.seconds = ns / 1e9
	return built{outcome: o}, nil
}

// scanners are the three programs.
type scanners struct {
	home string
	told string // the seconds of each in the last run
}

func (l *lab) newScanners(ctx context.Context) (*scanners, error) {
	for _, t := range []struct{ module, version, program string }{
		{"github.com/anchore/syft", syftVersion, "github.com/anchore/syft/cmd/syft"},
		{"github.com/zricethezav/gitleaks/v8", gitleaksVersion, "github.com/zricethezav/gitleaks/v8"},
		{"github.com/google/osv-scalibr", scalibrVersion, "github.com/google/osv-scalibr/binary/scalibr"},
	} {
		if err := l.goTool(ctx, t.module, t.version, t.program); err != nil {
			return nil, err
		}
	}
	l.results.Machine.Versions["syft"], l.results.Machine.Versions["gitleaks"], l.results.Machine.Versions["osv-scalibr"] = syftVersion, gitleaksVersion, scalibrVersion
	s := &scanners{home: l.path("scanners")}
	return s, os.MkdirAll(s.home, 0o755)
}

// run runs them one after the other. gitleaks and osv-scalibr do not read a
// layout: gitleaks is given the layers as files, under names that let it see
// what they are, osv-scalibr the same image as a file for docker load.
func (s *scanners) run(ctx context.Context, l *lab, image layout, archive string) (built, error) {
	var all built
	var told []string
	digest, err := image.only()
	if err != nil {
		return all, err
	}
	m, err := image.manifest(digest)
	if err != nil {
		return all, err
	}
	layers := filepath.Join(string(image), "layers")
	if err := os.MkdirAll(layers, 0o755); err != nil {
		return all, err
	}
	for i, d := range m.Layers {
		if err := os.Link(image.blob(d.Digest), filepath.Join(layers, fmt.Sprintf("%d.tar.gz", i))); err != nil {
			return all, err
		}
	}
	result := func(name string) string { return filepath.Join(s.home, name) }
	env := []string{"HOME=" + s.home, "XDG_CACHE_HOME=" + s.home, "SYFT_CHECK_FOR_APP_UPDATE=false"}
	for _, c := range []struct {
		name, result string
		args         []string
	}{
		{"syft", result("syft.json"), []string{l.peer("syft", syftVersion), "scan", "-q", "-o", "json=" + result("syft.json"), "oci-dir:" + string(image)}},
		{"gitleaks", result("gitleaks.json"), []string{l.peer("v8", gitleaksVersion), "dir", "--no-banner", "--exit-code=0", "--max-archive-depth=3", "--report-path=" + result("gitleaks.json"), layers}},
		{"osv-scalibr", result("scalibr.textproto"), []string{l.peer("scalibr", scalibrVersion), "--image-tarball=" + archive, "--result=" + result("scalibr.textproto")}},
	} {
		o, err := run(ctx, command{dir: s.home, env: env, args: c.args})
		// osv-scalibr fails when it has written its result, over a file that it
		// has removed before.
		if info, serr := os.Stat(c.result); err != nil && (serr != nil || info.Size() == 0) {
			return all, err
		}
		all.seconds += o.seconds
		all.cpu += o.cpu
		all.largest = max(all.largest, o.largest)
		told = append(told, fmt.Sprintf("%s %.1f s with %.0f MiB", c.name, o.seconds, o.largest))
	}
	s.told = strings.Join(told, ", ")
	return all, nil
}
