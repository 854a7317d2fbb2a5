package sandbox

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Init must be the first call of main, and of TestMain in packages whose tests
// run sandboxes. In a process that Start, Scan or Doctor made by re-executing
// this program it does that process's work and never returns; in any other it
// does nothing.
func Init() {
	if len(os.Args) != 2 || os.Args[0] != initName {
		return
	}
	// Whatever else the caller's parents left open must not reach the command.
	// Go's own descriptors are closed on exec already.
	_ = unix.CloseRange(3, ^uint(0)>>1&0x7fffffff, unix.CLOSE_RANGE_CLOEXEC)
	control, err := unixConn(os.NewFile(3, "control"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "this is a part of twinhull that is not meant to be started by hand")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "run":
		i := &initProcess{control: control}
		i.main()
	case "scan":
		scanHelper(control)
	case "probe":
		probeHelper(control)
	}
	os.Exit(2)
}

// initProcess is process 1 of a sandbox.
type initProcess struct {
	control *net.UnixConn
	spec    initSpec

	mu    sync.Mutex
	child int // process id of the command, 0 before it is forked

	null int      // /dev/null
	made []string // mount targets made in Root

	lastPID *os.File // /proc/sys/kernel/ns_last_pid, opened while it is writable; nil where the kernel has none
}

// stageError is what went wrong where, before the caller sees it.
type stageError struct {
	stage  string
	err    error
	remedy string
}

func (e *stageError) Error() string { return e.stage + ": " + e.err.Error() }

func stage(name string, err error) error {
	if err == nil {
		return nil
	}
	var s *stageError
	if errors.As(err, &s) {
		return err
	}
	return &stageError{stage: name, err: err}
}

func (i *initProcess) fail(err error) {
	m := fromInit{Kind: "error", Err: err.Error(), Errno: errnoOf(err), Targets: i.made}
	var s *stageError
	if errors.As(err, &s) {
		m.Stage, m.Err, m.Remedy = s.stage, s.err.Error(), s.remedy
	}
	_ = send(i.control, m, -1)
	os.Exit(1)
}

func (i *initProcess) main() {
	in := os.NewFile(4, "specification")
	if err := gob.NewDecoder(in).Decode(&i.spec); err != nil {
		i.fail(stage("reading the specification", err))
	}
	in.Close()
	// Handlers for all signals that Go would otherwise leave as inherited: an
	// exec sets a handled signal back to its default, but keeps an ignored one,
	// and the command would behave differently under nohup.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1,
		syscall.SIGUSR2, syscall.SIGPIPE, syscall.SIGALRM, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT)
	go func() {
		for s := range signals {
			switch s {
			case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2:
				i.signal(int(s.(syscall.Signal)), false)
			}
		}
	}()
	if err := i.setup(); err != nil {
		i.fail(err)
	}
	go i.listen()
	if err := i.run(); err != nil {
		i.fail(err)
	}
	os.Exit(0)
}

// listen obeys the caller. The caller's death closes its end, and with process
// 1 everything else ends, whatever the state of the parent-death signal.
func (i *initProcess) listen() {
	for {
		var m toInit
		f, err := receive(i.control, &m)
		if f != nil {
			f.Close()
		}
		if err != nil {
			os.Exit(128 + int(syscall.SIGKILL))
		}
		switch m.Kind {
		case "signal":
			i.signal(m.Sig, m.All)
		case "dial":
			go i.dial(m.ID, m.Port)
		}
	}
}

func (i *initProcess) signal(sig int, all bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.child == 0 {
		return
	}
	target := i.child
	if all {
		target = -1
	}
	_ = unix.Kill(target, syscall.Signal(sig))
}

func (i *initProcess) dial(id, port int) {
	c, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
	if err != nil {
		_ = send(i.control, fromInit{Kind: "conn", ID: id, Err: err.Error()}, -1)
		return
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		_ = send(i.control, fromInit{Kind: "conn", ID: id, Err: err.Error()}, -1)
		return
	}
	defer f.Close()
	_ = send(i.control, fromInit{Kind: "conn", ID: id}, int(f.Fd()))
}

func (i *initProcess) setup() error {
	s := &i.spec
	unix.Umask(0)
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return stage("setting the host name", err)
	}
	_ = unix.Setdomainname([]byte("(none)"))
	if s.Network == None {
		if err := loopbackUp(); err != nil {
			return stage("bringing up the loopback device", err)
		}
	}
	if err := i.mounts(); err != nil {
		return err
	}
	for _, port := range s.Ports {
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return stage("listening inside", err)
		}
		f, err := l.(*net.TCPListener).File()
		if err == nil {
			err = send(i.control, fromInit{Kind: "listener", ID: port}, int(f.Fd()))
			f.Close()
		}
		l.Close()
		if err != nil {
			return stage("handing out a listener", err)
		}
	}
	// From here on nothing of this process can be read or traced by a process
	// with the same user id: not its memory, root, descriptors or program file.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return stage("hiding process 1", err)
	}
	unix.Umask(0o022)
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// lookPath finds the program as execvp would, inside the tree (which is "/" by
// now), and tells the two failures apart that execve reports alike.
func lookPath(arg string, env []string, dir string) (string, error) {
	if strings.Contains(arg, "/") {
		if !path.IsAbs(arg) {
			arg = path.Join(dir, arg)
		}
		return arg, nil
	}
	list := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			list = v // the last one counts, as in a shell that is given both
		}
	}
	for _, d := range strings.Split(list, ":") {
		if !path.IsAbs(d) {
			continue // a relative entry would depend on the working directory
		}
		p := path.Join(d, arg)
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: not found in PATH=%s of the tree", arg, list)
}

func execProblem(name, dir string, err error) error {
	var st unix.Stat_t
	switch {
	case unix.Stat(dir, &st) != nil:
		return fmt.Errorf("working directory %s: %w", dir, fs.ErrNotExist)
	case errors.Is(err, unix.ENOENT) && unix.Stat(name, &st) == nil:
		return fmt.Errorf("%s: its interpreter or dynamic loader is not in the tree: %w", name, err)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%s: not a program of this machine's architecture (%s): %w", name, runtime.GOARCH, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// run forks the command and waits for it, reaping whatever else is orphaned.
func (i *initProcess) run() error {
	type forked struct {
		pid    int
		limits []string
		err    error
	}
	started := make(chan forked)
	done := make(chan struct{})
	defer close(done)
	begin := time.Now()
	go func() {
		// Never unlocked: the thread is given away with its filter, its missing
		// capabilities and its personality. The runtime does not clone threads
		// from a locked one, so no other thread inherits them.
		runtime.LockOSThread()
		pid, limits, err := i.fork()
		started <- forked{pid, limits, err}
		<-done
	}()
	f := <-started
	if f.err != nil {
		return f.err
	}
	i.mu.Lock()
	i.child = f.pid
	i.mu.Unlock()
	// The command's pipes are its own now: a copy here would keep them open
	// when it closes them.
	for fd := range 3 {
		_ = unix.Dup3(i.null, fd, unix.O_CLOEXEC)
	}
	if err := send(i.control, fromInit{Kind: "started", PID: f.pid, Limits: f.limits, Targets: i.made}, -1); err != nil {
		return err
	}
	for {
		var ws syscall.WaitStatus
		var ru syscall.Rusage
		pid, err := syscall.Wait4(-1, &ws, 0, &ru)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return stage("waiting for the command", err)
		}
		if pid != f.pid || !ws.Exited() && !ws.Signaled() {
			continue
		}
		// Returning ends process 1, and the kernel kills all others of the
		// namespace before the caller's wait is over.
		return send(i.control, fromInit{
			Kind: "exit", PID: pid, Status: int(ws), MaxRSS: ru.Maxrss * 1024, Nanos: int64(time.Since(begin)),
		}, -1)
	}
}

// fork runs on the locked thread that is given away.
func (i *initProcess) fork() (int, []string, error) {
	s := &i.spec
	name, err := lookPath(s.Args[0], s.Env, s.Dir)
	if err != nil {
		return 0, nil, &stageError{stage: "starting the command", err: err}
	}
	attr := &syscall.ProcAttr{Dir: s.Dir, Env: s.Env, Sys: &syscall.SysProcAttr{Setsid: true}}
	if s.TTY {
		tty, err := i.terminal()
		if err != nil {
			return 0, nil, stage("opening a terminal", err)
		}
		defer tty.Close()
		attr.Files = []uintptr{tty.Fd(), tty.Fd(), tty.Fd()}
		attr.Sys.Setctty, attr.Sys.Ctty = true, 0
	} else {
		attr.Files = []uintptr{0, 1, 2}
	}
	restore, limits, err := i.limit()
	if err != nil {
		return 0, nil, stage("setting limits", err)
	}
	// Process ids end up in the names of temporary files: the command begins at
	// 100 whatever number of threads this process has used. Best effort, for
	// kernels with checkpoint support, and the last step that needs privileges.
	if i.lastPID != nil {
		_, _ = unix.Write(int(i.lastPID.Fd()), []byte("99"))
		i.lastPID.Close()
	}
	if err := dropPrivileges(s.UID == 0); err != nil {
		return 0, nil, stage("dropping capabilities", err)
	}
	var persona uintptr
	if !s.Randomize {
		persona = addrNoRandomize
	}
	if _, _, e := unix.RawSyscall(unix.SYS_PERSONALITY, persona, 0, 0); e != 0 {
		return 0, nil, stage("setting the personality", e)
	}
	listener, err := installFilter(filterOptions{fakeOwners: s.FakeOwners, noSync: s.NoSync})
	if err != nil {
		return 0, nil, err
	}
	pid, err := syscall.ForkExec(name, s.Args, attr)
	if err != nil {
		return 0, nil, &stageError{stage: "starting the command", err: execProblem(name, s.Dir, err)}
	}
	restore(pid)
	// Only now, because a new thread would have taken the process id. A call
	// that the command makes meanwhile waits.
	n := &notifier{listener: listener, groups: s.Groups}
	go n.serve()
	return pid, limits, nil
}
