package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	launchVariable = "TWINHULL_E2E_LAUNCH" // the JSON of a world: enter it and run the program
	clockVariable  = "TWINHULL_E2E_CLOCK"  // be the program, with a clock that is off by so much
)

// world is an environment that the program runs in. The zero values leave
// things as they are.
type world struct {
	Cache   string
	Home    string
	Temp    string
	Host    string // another host name, in a namespace of its own
	Umask   *int
	CPU     *int          // the only processor to run on
	User    int           // user and group to become; root only
	Clock   time.Duration // how far the program's clock is off
	Env     map[string]string
	Cleared bool // inherit no environment but PATH

	Args []string // set by command
}

// command prepares a run of the program.
func (w world) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	env := os.Environ()
	if w.Cleared {
		env = []string{"PATH=" + os.Getenv("PATH")}
	}
	env = append(env, "TWINHULL_CACHE_DIR="+w.Cache)
	if w.Home != "" {
		env = append(env, "HOME="+w.Home, "XDG_CACHE_HOME=", "XDG_CONFIG_HOME=")
	}
	if w.Temp != "" {
		env = append(env, "TMPDIR="+w.Temp)
	}
	for k, v := range w.Env {
		env = append(env, k+"="+v)
	}
	program := work.exe
	if w.Clock != 0 {
		program, env = work.self, append(env, clockVariable+"="+w.Clock.String())
	}
	var cmd *exec.Cmd
	if w.Host == "" && w.Umask == nil && w.CPU == nil && w.User == 0 {
		cmd = exec.CommandContext(ctx, program, args...)
	} else {
		w.Args = append([]string{program}, args...)
		text, err := json.Marshal(w)
		if err != nil {
			panic(err) // plain data
		}
		cmd = exec.CommandContext(ctx, work.self)
		env = append(env, launchVariable+"="+string(text))
		if w.Host != "" {
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
			if id := os.Getuid(); id != 0 {
				cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
				cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}}
				cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
				cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
			}
		}
	}
	cmd.Dir, cmd.Env = dir, env
	return cmd
}

// launch enters a world and becomes the program. It does not return.
func launch(text string) {
	fail := func(what string, err error) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "launching: %s: %v\n", what, err)
			os.Exit(99)
		}
	}
	var w world
	fail("reading the world", json.Unmarshal([]byte(text), &w))
	runtime.LockOSThread() // affinity belongs to a thread; exec keeps the caller's
	if w.Host != "" {
		fail("setting the host name", unix.Sethostname([]byte(w.Host)))
		if os.Getuid() != 0 {
			fail("dropping privileges", unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		}
	}
	if w.CPU != nil {
		var set unix.CPUSet
		set.Set(*w.CPU)
		fail("choosing a processor", unix.SchedSetaffinity(0, &set))
	}
	if w.Umask != nil {
		unix.Umask(*w.Umask)
	}
	if w.User != 0 {
		fail("becoming another user", syscall.Setgroups(nil))
		fail("becoming another user", syscall.Setgid(w.User))
		fail("becoming another user", syscall.Setuid(w.User))
	}
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, launchVariable+"=") {
			env = append(env, kv)
		}
	}
	fail("starting "+filepath.Base(w.Args[0]), unix.Exec(w.Args[0], w.Args, env))
}
