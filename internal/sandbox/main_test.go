package sandbox

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Init()
	if len(os.Args) > 1 && os.Getenv("X") != "" {
		probeMain(os.Args[1:])
	}
	os.Exit(m.Run())
}
