package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func probeMain(args []string) {
	switch args[0] {
	case "true":
		os.Exit(0)
	case "hello":
		fmt.Println("hello", os.Getpid())
		os.Exit(3)
	}
}

func TestFirst(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	exe, _ := os.Executable()
	b, _ := os.ReadFile(exe)
	os.WriteFile(filepath.Join(lower, "p"), b, 0o755)
	var out bytes.Buffer
	r, err := Run(t.Context(), Spec{Lower: []string{lower}, Upper: upper, Args: []string{"/p", "hello"}, Stdout: &out, Stderr: &out, Env: []string{"X=1"}})
	t.Log(r, err, out.String())
}
