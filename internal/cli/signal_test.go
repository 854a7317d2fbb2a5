package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const hangKey = "TWINHULL_TEST_HANG"

// TestMain lets the test binary be a program whose only command waits until it
// is interrupted, and with the argument "stubborn" for ever.
func TestMain(m *testing.M) {
	if os.Getenv(hangKey) == "" {
		os.Exit(m.Run())
	}
	os.Exit(process([]*Command{{
		Name: "hang", Args: "[stubborn]", Max: 1,
		Run: func(ctx context.Context, env *Env, args []string) error {
			fmt.Fprintln(env.Stdout, "working")
			<-ctx.Done()
			fmt.Fprintln(env.Stdout, "told to stop")
			if len(args) > 0 {
				select {}
			}
			return fmt.Errorf("hang: %w", ctx.Err())
		},
	}}))
}

func TestSignals(t *testing.T) {
	for _, c := range []struct {
		name    string
		args    []string
		signals []syscall.Signal
		code    int            // of a process that ended by itself
		killed  syscall.Signal // of one that a signal ended
	}{
		{"interrupt", nil, []syscall.Signal{syscall.SIGINT}, 130, 0},
		{"terminate", nil, []syscall.Signal{syscall.SIGTERM}, 143, 0},
		{"the second one ends it", []string{"stubborn"}, []syscall.Signal{syscall.SIGINT, syscall.SIGINT}, 0, syscall.SIGINT},
		{"terminate after interrupt", []string{"stubborn"}, []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}, 0, syscall.SIGTERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), exe, append([]string{"hang"}, c.args...)...)
			cmd.Env = append(os.Environ(), hangKey+"=1")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for _, s := range c.signals {
				if !lines.Scan() { // each signal after the line that says it is waited for
					t.Fatal("the program ended too early")
				}
				if err := cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			for lines.Scan() {
			}
			exit, ok := errors.AsType[*exec.ExitError](cmd.Wait())
			if !ok {
				t.Fatal("it ended without an error")
			}
			status := exit.Sys().(syscall.WaitStatus)
			if c.killed != 0 && (!status.Signaled() || status.Signal() != c.killed) {
				t.Errorf("ended by %v, want signal %v", exit, c.killed)
			}
			if c.killed == 0 && status.ExitStatus() != c.code {
				t.Errorf("ended by %v, want exit code %d", exit, c.code)
			}
		})
	}
}
