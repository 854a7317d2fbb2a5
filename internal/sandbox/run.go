package sandbox

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Run runs the command of s to its end. It returns an error, an *Error, only
// when the command could not be run at all, or the context's cause when ctx
// ended first: then everything inside got SIGTERM and, after s.Grace, SIGKILL.
func Run(ctx context.Context, s Spec) (Result, error) {
	p, err := Start(ctx, s)
	if err != nil {
		return Result{}, err
	}
	return p.Wait()
}

// Process is a command that runs. Its methods may be used by several
// goroutines.
type Process struct {
	control  *net.UnixConn
	pid      int // of process 1, on the host
	forwards []net.Listener
	servers  []*http.Server
	limits   []string

	mu      sync.Mutex
	dials   map[int]chan dialled
	nextID  int
	ended   bool
	pty     *os.File
	timeout bool

	done   chan struct{} // closed when result and err are set
	result Result
	err    error
}

type dialled struct {
	f   *os.File
	err error
}

// Addr returns the host address on which the i-th Forward listens.
func (p *Process) Addr(i int) string { return p.forwards[i].Addr().String() }

// PID is the host's process id of the sandbox's process 1.
func (p *Process) PID() int { return p.pid }

// Wait waits for the end and returns what Run returns. Everything inside is
// dead then, and every byte that it wrote has been given to the writers.
func (p *Process) Wait() (Result, error) {
	<-p.done
	return p.result, p.err
}

// Signal sends a signal to the command. It does nothing after its end.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.tell(toInit{Kind: "signal", Sig: int(sig)})
}

// Stop asks everything inside to end, and ends it after the grace time.
func (p *Process) Stop() error {
	return p.tell(toInit{Kind: "signal", Sig: int(unix.SIGTERM), All: true})
}

func (p *Process) tell(m toInit) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := send(p.control, m, -1); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	return nil
}

// Start starts the command of s and returns once it runs. The sandbox ends
// with the command, with ctx, after s.Timeout, or with this process, whichever
// is first. The caller must call Wait.
func Start(ctx context.Context, s Spec) (*Process, error) {
	s, err := s.check()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	is, cleanup, err := prepare(s)
	if err != nil {
		return nil, err
	}
	p := &Process{dials: make(map[int]chan dialled), done: make(chan struct{})}
	for _, f := range s.Forward {
		l, err := net.Listen("tcp", f.Host)
		if err != nil {
			p.closeForwards()
			cleanup(nil)
			return nil, &Error{Stage: "listening on " + f.Host, Err: err}
		}
		p.forwards = append(p.forwards, l)
	}
	if err := p.start(ctx, s, is, cleanup); err != nil {
		p.closeForwards()
		return nil, err
	}
	return p, nil
}

func (p *Process) closeForwards() {
	for _, l := range p.forwards {
		l.Close()
	}
}

// prepare makes the scratch folders and turns a Spec into what process 1 gets.
// cleanup removes them, and the mount targets that were made in Root.
func prepare(s Spec) (*initSpec, func(made []string), error) {
	is := &initSpec{
		Lower: s.Lower, Upper: s.Upper, Root: s.Root, ReadOnly: s.ReadOnly, Args: s.Args, Env: s.Env, Dir: s.Dir,
		Hostname: s.Hostname, UID: s.UID, GID: s.GID, Groups: s.Groups, FakeOwners: s.FakeOwners, NoSync: s.NoSync,
		Randomize: s.Randomize, TTY: s.TTY, Network: s.Network, Limits: s.Limits, CallerIsRoot: os.Geteuid() == 0,
	}
	var scratch []string
	cleanup := func(made []string) {
		for _, d := range scratch {
			_ = RemoveAll(d)
		}
		if len(made) > 0 {
			if r, err := os.OpenRoot(s.Root); err == nil {
				for i := len(made) - 1; i >= 0; i-- {
					// An empty folder or file; anything else is not ours any more.
					if fi, err := r.Lstat(made[i]); err == nil && (fi.IsDir() || fi.Mode().IsRegular() && fi.Size() == 0) {
						_ = r.Remove(made[i])
					}
				}
				r.Close()
			}
		}
	}
	// Beside the upper folder: the work folder must be on its file system.
	beside := func(upper string) (string, error) {
		dir, name := os.TempDir(), "twinhull-"
		if upper != "" {
			dir, name = filepath.Dir(upper), "."+filepath.Base(upper)+".work-"
		}
		d, err := os.MkdirTemp(dir, name)
		if err != nil {
			return "", err
		}
		scratch = append(scratch, d)
		return d, os.Mkdir(filepath.Join(d, "work"), 0o700)
	}
	fail := func(err error) (*initSpec, func([]string), error) {
		cleanup(nil)
		return nil, nil, &Error{Stage: "making scratch folders", Err: err}
	}
	var err error
	if s.Root == "" {
		if is.Work, err = beside(s.Upper); err != nil {
			return fail(err)
		}
	}
	for _, m := range s.Mounts {
		im := initMount{Mount: m}
		if len(m.Lower) > 0 {
			d, err := beside(m.Upper)
			if err != nil {
				return fail(err)
			}
			im.Work = filepath.Join(d, "work")
			if m.Upper == "" && (!m.ReadOnly || len(m.Lower) == 1) {
				im.Upper = filepath.Join(d, "upper")
				if err := os.Mkdir(im.Upper, 0o755); err != nil {
					return fail(err)
				}
			}
		}
		is.Mounts = append(is.Mounts, im)
	}
	for _, v := range s.Serve {
		is.Ports = append(is.Ports, v.Port)
	}
	return is, cleanup, nil
}

// program names this program's own file for the new process. By path where it
// is the same file, because a path is looked up in the sandbox's copy of the
// mounts, which becomes read-only: what runs inside can then not write to the
// program through /proc, not even as its owner. /proc/self/exe is the fallback
// when the file has been replaced or removed since; then there is nothing left
// under that name to protect.
func program() (name string) {
	const self = "/proc/self/exe"
	p, err := os.Readlink(self)
	if err != nil {
		return self
	}
	var a, b unix.Stat_t
	if unix.Stat(self, &a) != nil || unix.Stat(p, &b) != nil || a.Dev != b.Dev || a.Ino != b.Ino {
		return self
	}
	return p
}

// command is this program re-executed in new namespaces.
func command(kind string, uid, gid int, flags uintptr) *exec.Cmd {
	cmd := &exec.Cmd{Path: program(), Args: []string{initName, kind}, Env: []string{"GOTRACEBACK=single", "GOMAXPROCS=4"}, Dir: "/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:      true,
		Cloneflags:  syscall.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if uid != 0 {
		// An exec by another user than 0 keeps only ambient capabilities.
		for c := 0; c <= lastCapability(); c++ {
			cmd.SysProcAttr.AmbientCaps = append(cmd.SysProcAttr.AmbientCaps, uintptr(c))
		}
	}
	return cmd
}

func (p *Process) start(ctx context.Context, s Spec, is *initSpec, cleanup func([]string)) (err error) {
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
			cleanup(nil)
		}
	}()
	flags := uintptr(syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP)
	if s.Network == None {
		flags |= syscall.CLONE_NEWNET
	}
	cmd := command("run", s.UID, s.GID, flags)
	group := newCgroup(s.Limits)
	if group != nil {
		undo = append(undo, func() { group.remove() })
		is.CgroupMemory, is.CgroupPIDs = group.memory, group.pids
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.dir.Fd())
	}

	control, theirs, err := socketPair()
	if err != nil {
		return &Error{Stage: "making a socket", Err: err}
	}
	undo = append(undo, func() { control.Close() })
	p.control = control
	specR, specW, err := os.Pipe()
	if err != nil {
		theirs.Close()
		return &Error{Stage: "making a pipe", Err: err}
	}
	cmd.ExtraFiles = []*os.File{theirs, specR}
	std, err := newStreams(s)
	if err != nil {
		theirs.Close()
		specR.Close()
		specW.Close()
		return &Error{Stage: "making a pipe", Err: err}
	}
	undo = append(undo, func() { std.closeChildEnds(); _ = std.wait() })
	cmd.Stdin, cmd.Stdout, cmd.Stderr = std.in, std.out, std.err

	// The parent-death signal is tied to the thread that forks, so one thread
	// is kept for it until the end.
	started, exited := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	err = <-started
	theirs.Close()
	specR.Close()
	std.closeChildEnds()
	if err != nil {
		specW.Close()
		return &Error{Stage: "making namespaces", Err: err, Remedy: namespaceRemedy(err)}
	}
	p.pid = cmd.Process.Pid
	undo = append(undo, func() { _ = cmd.Process.Kill(); <-exited })
	std.copy()
	go func() {
		_ = gob.NewEncoder(specW).Encode(is) // process 1 says if it came short
		specW.Close()
	}()

	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	listeners := map[int]net.Listener{}
	undo = append(undo, func() {
		for _, l := range listeners {
			l.Close()
		}
	})
	var made []string
	for running := false; !running; {
		var m fromInit
		f, err := receive(control, &m)
		if err != nil {
			stop()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &Error{Stage: "setting up", Err: errInitDied, Remedy: "its standard error may say more; a program that uses this package must call sandbox.Init first thing in main"}
		}
		switch m.Kind {
		case "error":
			stop()
			cleanup(m.Targets)
			e := &Error{Stage: m.Stage, Err: &remoteError{m.Err, unix.Errno(m.Errno)}, Remedy: m.Remedy}
			if e.Remedy == "" {
				e.Remedy = setupRemedy(unix.Errno(m.Errno))
			}
			return e
		case "listener":
			l, err := net.FileListener(f)
			f.Close()
			if err != nil {
				stop()
				return &Error{Stage: "taking a listener", Err: err}
			}
			listeners[m.ID] = l
		case "pty":
			p.pty = f
		case "started":
			running = true
			p.limits, made = m.Limits, m.Targets
		}
	}
	if !stop() && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.limits = append(group.report(), p.limits...)
	p.limits = append(p.limits, unenforced(s.Limits, is)...)

	for _, v := range s.Serve {
		srv := &http.Server{Handler: v.Handler, ReadHeaderTimeout: time.Minute}
		p.servers = append(p.servers, srv)
		go func() { _ = srv.Serve(listeners[v.Port]) }()
	}
	for i, l := range p.forwards {
		go p.forward(l, s.Forward[i].Port)
	}
	restore := p.joinTerminal(s)
	go p.supervise(ctx, s, exited, std, group, func() {
		restore()
		cleanup(made)
	})
	return nil
}

// remoteError is an error of process 1: its text, and its errno for errors.Is.
type remoteError struct {
	text  string
	errno unix.Errno
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// supervise waits for the end, enforcing the time limit, and cleans up.
func (p *Process) supervise(ctx context.Context, s Spec, exited <-chan error, std *streams, group *cgroup, cleanup func()) {
	defer close(p.done)
	var exit *fromInit
	messages := make(chan struct{})
	go func() {
		defer close(messages)
		for {
			var m fromInit
			f, err := receive(p.control, &m)
			if err != nil {
				return
			}
			switch m.Kind {
			case "conn":
				p.mu.Lock()
				c := p.dials[m.ID]
				delete(p.dials, m.ID)
				p.mu.Unlock()
				if c == nil {
					f.Close()
				} else if f == nil {
					c <- dialled{err: errors.New(m.Err)}
				} else {
					c <- dialled{f: f}
				}
			case "exit", "error":
				exit = &m
			default:
				f.Close()
			}
		}
	}()
	var deadline <-chan time.Time
	if s.Timeout > 0 {
		t := time.NewTimer(s.Timeout)
		defer t.Stop()
		deadline = t.C
	}
	begin := time.Now()
	var kill <-chan time.Time
	var cancelled error
	cancel := ctx.Done()
	for alive := true; alive; {
		select {
		case <-exited:
			alive = false
		case <-deadline:
			p.result.TimedOut, deadline = true, nil
			_ = p.Stop()
			kill = time.After(s.Grace)
		case <-cancel:
			cancelled, cancel = context.Cause(ctx), nil
			_ = p.Stop()
			kill = time.After(s.Grace)
		case <-kill:
			_ = unix.Kill(p.pid, unix.SIGKILL) // not yet waited for, so still ours
			kill = nil
		}
	}
	<-messages // all that process 1 had sent, then its end
	p.closeForwards()
	for _, srv := range p.servers {
		_ = srv.Close()
	}
	p.mu.Lock()
	p.ended = true
	for id, c := range p.dials {
		c <- dialled{err: net.ErrClosed}
		delete(p.dials, id)
	}
	p.mu.Unlock()
	p.control.Close()
	ioErr := std.wait()
	cleanup()

	r := &p.result
	r.Limits = p.limits
	r.Duration = time.Since(begin)
	if exit != nil && exit.Kind == "exit" {
		ws := syscall.WaitStatus(exit.Status)
		r.Duration, r.MaxRSS = time.Duration(exit.Nanos), exit.MaxRSS
		if ws.Signaled() {
			r.Signal, r.ExitCode = ws.Signal(), 128+int(ws.Signal())
		} else {
			r.ExitCode = ws.ExitStatus()
		}
	} else {
		r.Signal, r.ExitCode = syscall.SIGKILL, 128+int(syscall.SIGKILL)
	}
	if group != nil {
		group.read(r)
		group.remove()
	}
	switch {
	case cancelled != nil:
		p.err = cancelled
	case exit != nil && exit.Kind == "error":
		p.err = &Error{Stage: exit.Stage, Err: &remoteError{exit.Err, unix.Errno(exit.Errno)}, Remedy: exit.Remedy}
	case exit == nil && !r.TimedOut && !r.OOMKill:
		p.err = &Error{Stage: "waiting for the command", Err: errInitDied, Remedy: "it was killed from outside, or the machine ran out of memory"}
	case ioErr != nil:
		p.err = fmt.Errorf("sandbox: passing on the command's output: %w", ioErr)
	}
}

// forward passes each connection to l into the sandbox.
func (p *Process) forward(l net.Listener, port int) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			in, err := p.dial(port)
			if err != nil {
				return // as a refused connection ends
			}
			defer in.Close()
			both := make(chan struct{}, 2)
			pass := func(dst, src net.Conn) {
				_, _ = io.Copy(dst, src)
				if t, ok := dst.(*net.TCPConn); ok {
					_ = t.CloseWrite()
				}
				both <- struct{}{}
			}
			go pass(in, c)
			go pass(c, in)
			select {
			case <-both:
				select {
				case <-both:
				case <-p.done:
				}
			case <-p.done:
			}
		}()
	}
}

func (p *Process) dial(port int) (net.Conn, error) {
	c := make(chan dialled, 1)
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return nil, net.ErrClosed
	}
	p.nextID++
	id := p.nextID
	p.dials[id] = c
	p.mu.Unlock()
	if err := send(p.control, toInit{Kind: "dial", ID: id, Port: port}, -1); err != nil {
		p.mu.Lock()
		delete(p.dials, id)
		p.mu.Unlock()
		return nil, err
	}
	d := <-c
	if d.err != nil {
		return nil, d.err
	}
	defer d.f.Close()
	return net.FileConn(d.f)
}

// joinTerminal connects the sandbox's terminal with the caller's streams. When
// Stdin is a terminal it is switched to raw mode for the time of the run, and
// changes of its size are passed on.
func (p *Process) joinTerminal(s Spec) (restore func()) {
	if p.pty == nil {
		return func() {}
	}
	done := make(chan struct{})
	var undo []func()
	if f, ok := s.Stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		size := func() {
			if ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
				_ = unix.IoctlSetWinsize(int(p.pty.Fd()), unix.TIOCSWINSZ, ws)
			}
		}
		size()
		changes := make(chan os.Signal, 1)
		signal.Notify(changes, syscall.SIGWINCH)
		go func() {
			for {
				select {
				case <-changes:
					size()
				case <-done:
					return
				}
			}
		}()
		undo = append(undo, func() { signal.Stop(changes) })
		if state, err := term.MakeRaw(int(f.Fd())); err == nil {
			undo = append(undo, func() { _ = term.Restore(int(f.Fd()), state) })
		}
	}
	if s.Stdin != nil {
		go func() {
			_, _ = io.Copy(p.pty, s.Stdin)
			_, _ = p.pty.Write([]byte{4}) // control-D: a terminal has no other end of file
		}()
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		out := s.Stdout
		if out == nil {
			out = io.Discard
		}
		// Ends with EIO when the last process inside has closed its end.
		_, _ = io.Copy(out, p.pty)
	}()
	return func() {
		<-read
		close(done)
		for _, u := range undo {
			u()
		}
		p.pty.Close()
	}
}

// streams are the pipes to the command's standard input and outputs. The
// caller's own files never go inside: through /proc/self/fd a command could
// reopen them in other modes than they were given.
type streams struct {
	in, out, err *os.File // the child's ends
	copies       []func() error
	ours         []*os.File
	wg           sync.WaitGroup
	mu           sync.Mutex
	first        error
}

func newStreams(s Spec) (*streams, error) {
	st := &streams{}
	if s.TTY {
		return st, nil // os/exec opens /dev/null for all three
	}
	if s.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		st.in, st.ours = r, append(st.ours, w)
		go func() {
			_, _ = io.Copy(w, s.Stdin)
			w.Close()
		}()
	}
	output := func(dst io.Writer) (*os.File, error) {
		if dst == nil {
			return nil, nil
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		st.ours = append(st.ours, r)
		st.copies = append(st.copies, func() error {
			_, err := io.Copy(dst, r)
			if err != nil {
				// The command must not hang on a full pipe because its reader gave up.
				_, _ = io.Copy(io.Discard, r)
			}
			r.Close()
			return err
		})
		return w, nil
	}
	var err error
	if st.out, err = output(s.Stdout); err == nil {
		if s.Stderr != nil && sameWriter(s.Stdout, s.Stderr) {
			st.err = st.out
		} else {
			st.err, err = output(s.Stderr)
		}
	}
	if err != nil {
		st.abandon()
		return nil, err
	}
	return st, nil
}

func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }() // types that cannot be compared are not the same
	return a == b
}

func (s *streams) closeChildEnds() {
	for _, f := range []*os.File{s.in, s.out, s.err} {
		if f != nil {
			f.Close()
		}
	}
}

func (s *streams) copy() {
	for _, c := range s.copies {
		s.wg.Go(func() {
			if err := c(); err != nil {
				s.mu.Lock()
				s.first = errors.Join(s.first, err)
				s.mu.Unlock()
			}
		})
	}
}

// wait returns when all output has been passed on. All that could write to the
// pipes is dead by then.
func (s *streams) wait() error {
	s.wg.Wait()
	for _, f := range s.ours {
		f.Close() // for standard input: the copy ends at its next write
	}
	return s.first
}

func (s *streams) abandon() {
	s.closeChildEnds()
	for _, f := range s.ours {
		f.Close()
	}
}

// namespaceRemedy explains why namespaces could not be made.
func namespaceRemedy(err error) string {
	if f := checkUserNamespaces(); f != "" {
		return f
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "too many namespaces: as root, sysctl -w user.max_user_namespaces=15000"
	case errors.Is(err, unix.EPERM):
		return "the system does not let this user make namespaces: not from a chroot, and in a container only with a seccomp profile that allows clone and unshare (docker: --security-opt seccomp=unconfined); see twinhull doctor"
	case errors.Is(err, fs.ErrNotExist):
		return "the program's own file is gone: start it again"
	}
	return "see twinhull doctor"
}

func setupRemedy(e unix.Errno) string {
	if e == unix.EPERM || e == unix.EACCES {
		if f := checkUserNamespaces(); f != "" {
			return f
		}
	}
	if e == unix.ENOSYS {
		return "the kernel is too old: Linux 5.12 or newer is needed"
	}
	return ""
}

// checkUserNamespaces reads the switches that distributions have for user
// namespaces and returns how to set the one that is off.
func checkUserNamespaces() string {
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			return ""
		}
		return string(b[:max(0, len(b)-1)])
	}
	switch {
	case read("/proc/sys/user/max_user_namespaces") == "0":
		return "user namespaces are turned off: as root, sysctl -w user.max_user_namespaces=15000 (and in /etc/sysctl.d to keep it)"
	case os.Geteuid() != 0 && read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "user namespaces are turned off for ordinary users: as root, sysctl -w kernel.unprivileged_userns_clone=1 (and in /etc/sysctl.d to keep it)"
	case os.Geteuid() != 0 && read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		exe := program()
		return "AppArmor restricts user namespaces of ordinary users: as root, write an /etc/apparmor.d/twinhull with\n  abi <abi/4.0>,\n  include <tunables/global>\n  profile twinhull " + exe + " flags=(unconfined) { userns, }\nand run apparmor_parser -r /etc/apparmor.d/twinhull; or, for all programs, sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	}
	return ""
}
