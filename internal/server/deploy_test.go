package server

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const deployDir = "../../deploy"

// TestDeployedConfigurations: what is shipped is read, and opens nothing.
func TestDeployedConfigurations(t *testing.T) {
	for _, file := range []string{"systemd/registry.yaml", "kubernetes/registry.yaml"} {
		data, err := os.ReadFile(filepath.Join(deployDir, file))
		if err != nil {
			t.Fatal(err)
		}
		c := Default()
		if err := ReadConfig(file, data, "/etc/twinhull", &c); err != nil {
			t.Error(err)
		}
		if err := c.Check(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if c.InsecurePlainHTTP || len(c.grants()) > 0 {
			t.Errorf("%s opens something", file)
		}
	}
}

func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func TestKustomizeBase(t *testing.T) {
	dir := filepath.Join(deployDir, "kubernetes")
	docs := map[string]any{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := yaml.UnmarshalWithOptions(data, &doc, yaml.Strict()); err != nil {
			t.Errorf("%s: %v", e.Name(), err)
		}
		docs[e.Name()] = doc
	}
	named := []string{"kustomization.yaml", "registry.yaml"}
	list, _ := at(docs["kustomization.yaml"], "resources").([]any)
	for _, r := range list {
		name, _ := r.(string)
		named = append(named, name)
		if at(docs[name], "kind") == nil || at(docs[name], "metadata", "name") == nil {
			t.Errorf("%s has no kind or name", name)
		}
	}
	for name := range docs {
		if !slices.Contains(named, name) {
			t.Errorf("%s is no resource of the kustomization", name)
		}
	}
	pod := at(docs["statefulset.yaml"], "spec", "template", "spec")
	container := at(pod, "containers", 0)
	for _, want := range []struct {
		in   any
		path []any
		is   any
	}{
		{docs["statefulset.yaml"], []any{"spec", "replicas"}, uint64(1)},
		{pod, []any{"securityContext", "runAsNonRoot"}, true},
		{pod, []any{"securityContext", "seccompProfile", "type"}, "RuntimeDefault"},
		{pod, []any{"automountServiceAccountToken"}, false},
		// Kustomize adds no selector here: {} would be every Pod of the namespace.
		{docs["networkpolicy.yaml"], []any{"spec", "podSelector", "matchLabels", "app.kubernetes.io/name"},
			at(docs["kustomization.yaml"], "labels", 0, "pairs", "app.kubernetes.io/name")},
		{container, []any{"securityContext", "readOnlyRootFilesystem"}, true},
		{container, []any{"securityContext", "allowPrivilegeEscalation"}, false},
		{container, []any{"securityContext", "capabilities", "drop", 0}, "ALL"},
		{container, []any{"readinessProbe", "httpGet", "path"}, "/readyz"},
		{container, []any{"livenessProbe", "httpGet", "path"}, "/healthz"},
	} {
		if got := at(want.in, want.path...); got != want.is {
			t.Errorf("%v is %v (%T), want %v", want.path, got, got, want.is)
		}
	}
	// Everything that the configuration names is mounted.
	var c Config
	data, err := os.ReadFile(filepath.Join(dir, "registry.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ReadConfig("registry.yaml", data, "/etc/twinhull", &c); err != nil {
		t.Fatal(err)
	}
	mounts, _ := at(container, "volumeMounts").([]any)
	for _, path := range []string{c.Data, c.TLS.Certificate, c.TLS.Key} {
		if !slices.ContainsFunc(mounts, func(m any) bool {
			at, _ := at(m, "mountPath").(string)
			return path == at || strings.HasPrefix(path, at+"/")
		}) {
			t.Errorf("%s is on no volume", path)
		}
	}
}

func TestSystemdUnit(t *testing.T) {
	unit := filepath.Join(deployDir, "systemd", "twinhull-registry.service")
	data, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=\n", "User=twinhull", "ExecReload=/bin/kill -HUP $MAINPID"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s", want)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here: the unit's words are not checked")
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
	var complaints []string
	for line := range strings.Lines(string(out)) {
		// The program and its user are where it is installed, not here.
		if strings.Contains(line, "twinhull-registry.service") && !strings.Contains(line, "is not executable") && !strings.Contains(line, "Failed to") {
			complaints = append(complaints, line)
		}
	}
	if len(complaints) > 0 {
		t.Errorf("%s%v", strings.Join(complaints, ""), err)
	}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Error(err)
	}
}
