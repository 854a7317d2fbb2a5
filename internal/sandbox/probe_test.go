package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probes are what runs inside.
var probes map[string]func(args []string) error

func init() { // a literal would refer to itself
	probes = map[string]func([]string) error{
		"true":           func([]string) error { return nil },
		"exit":           func(a []string) error { n, _ := strconv.Atoi(a[0]); os.Exit(n); return nil },
		"kill":           func(a []string) error { n, _ := strconv.Atoi(a[0]); signal.Reset(); return killSelf(n) },
		"flood":          probeFlood,
		"cat":            func([]string) error { _, err := io.Copy(os.Stdout, os.Stdin); return err },
		"id":             probeIdentity,
		"proc":           probeProc,
		"net":            probeNet,
		"get":            probeGet,
		"listen":         probeListen,
		"write":          probeWrite,
		"stat":           probeStat,
		"calls":          probeCalls,
		"sleep":          probeSleep,
		"spawn":          probeSpawn,
		"orphans":        probeOrphans,
		"bomb":           probeBomb,
		"tree":           probeTree,
		"owners":         probeOwners,
		"tty":            probeTTY,
		"alloc":          probeAlloc,
		"cpus":           func([]string) error { fmt.Println(runtime.NumCPU()); return nil },
		"parent":         probeParent,
		"own-program":    func([]string) error { fmt.Println(unix.Chmod("/proc/self/exe", 0o755)); return nil },
		"chowns":         probeChowns,
		"trace":          probeTrace,
		"orphans-middle": func([]string) error { return child("true").Start() },
	}
}

func killSelf(n int) error {
	_ = unix.Kill(os.Getpid(), syscall.Signal(n))
	time.Sleep(10 * time.Second)
	return errors.New("still alive")
}

func probeFlood(a []string) error {
	n, _ := strconv.Atoi(a[0])
	block := strings.Repeat("x", 1<<16)
	for i := 0; i < n; i += len(block) {
		os.Stdout.WriteString(block)
		os.Stderr.WriteString(block)
	}
	return nil
}

func status(key string) string {
	b, _ := os.ReadFile("/proc/thread-self/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func probeIdentity([]string) error {
	host, _ := os.Hostname()
	cwd, _ := os.Getwd()
	groups, err := os.Getgroups()
	env := os.Environ()
	sort.Strings(env)
	um := unix.Umask(0)
	persona, _, _ := unix.Syscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	var open []string
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, f := range fds {
		to, err := os.Readlink("/proc/self/fd/" + f.Name())
		if err == nil && !strings.Contains(to, "eventpoll") && !strings.Contains(to, "eventfd") && !strings.HasPrefix(to, "/proc/") {
			open = append(open, f.Name())
		}
	}
	var nofile unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_CORE, &nofile)
	sid, _ := unix.Getsid(0)
	fmt.Printf("host=%s cwd=%s uid=%d gid=%d groups=%v %v umask=%03o pid=%d ppid=%d sid=%d persona=%x fds=%v core=%d nnp=%s seccomp=%s caps=%s bnd=%s\n",
		host, cwd, os.Getuid(), os.Getgid(), groups, err, um, os.Getpid(), os.Getppid(), sid, persona, open, nofile.Max,
		status("NoNewPrivs"), status("Seccomp"), status("CapEff"), status("CapBnd"))
	fmt.Printf("env=%q\n", env)
	return nil
}

func probeProc([]string) error {
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	for _, f := range maskedFiles {
		if b, err := readSome("/proc/" + f); err == nil && len(b) > 0 {
			say("/proc/%s can be read: %.20q", f, b)
		}
	}
	for _, f := range maskedFolders {
		if e, _ := os.ReadDir("/proc/" + f); len(e) > 0 {
			say("/proc/%s shows %v", f, e)
		}
	}
	for _, f := range []string{"/proc/sys/kernel/hostname", "/proc/sys/vm/swappiness", "/proc/sysrq-trigger", "/proc/sys/kernel/ns_last_pid"} {
		if err := os.WriteFile(f, []byte("1"), 0); err == nil {
			say("%s can be written", f)
		} else if !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPERM) {
			say("%s: %v", f, err)
		}
	}
	for _, f := range []string{"root", "cwd", "exe"} {
		if to, err := os.Readlink("/proc/1/" + f); err == nil {
			say("/proc/1/%s leads to %s", f, to)
		}
	}
	for _, f := range []string{"/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/1/root/etc/passwd"} {
		if b, err := readSome(f); err == nil {
			say("%s can be read: %.20q", f, b)
		}
	}
	for fd := range 256 {
		if f, err := os.OpenFile(fmt.Sprintf("/proc/1/fd/%d", fd), unix.O_PATH, 0); err == nil {
			say("descriptor %d of process 1 can be opened", fd)
			f.Close()
		}
	}
	if f, err := os.OpenFile("/proc/1/exe", os.O_WRONLY, 0); err == nil {
		say("/proc/1/exe can be opened for writing")
		f.Close()
	}
	// Processes: this one and process 1 only.
	e, _ := os.ReadDir("/proc")
	for _, d := range e {
		if pid, err := strconv.Atoi(d.Name()); err == nil && pid != 1 && pid != os.Getpid() {
			say("process %d is visible", pid)
		}
	}
	for _, pid := range []string{"1", "self"} {
		if b, _ := os.ReadFile("/proc/" + pid + "/mountinfo"); strings.Contains(string(b), "twinhull-test") {
			say("mountinfo shows paths of the host: %s", b)
		}
	}
	if b, _ := os.ReadFile("/proc/self/mounts"); strings.Count(string(b), "ext4")+strings.Count(string(b), "xfs") > 0 {
		say("the host's file system is still mounted: %s", b)
	}
	for _, n := range []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/shm", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		if _, err := os.Lstat(n); err != nil {
			say("%v", err)
		}
	}
	if e, _ := os.ReadDir("/dev"); len(e) != 13 {
		say("/dev holds %v", e)
	}
	if err := os.WriteFile("/dev/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
		say("writing to /dev: %v", err)
	}
	if err := os.WriteFile("/dev/shm/x", nil, 0o600); err != nil {
		say("writing to /dev/shm: %v", err)
	}
	if err := os.WriteFile("/dev/null", []byte("x"), 0); err != nil {
		say("writing to /dev/null: %v", err)
	}
	if e, _ := os.ReadDir("/sys"); len(e) > 0 {
		say("/sys holds %v", e)
	}
	if len(bad) > 0 {
		return errors.New(strings.Join(bad, "\n"))
	}
	return nil
}

func readSome(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 64)
	_ = f.SetReadDeadline(time.Now().Add(time.Second))
	n, err := f.Read(b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

func probeNet(a []string) error {
	ifs, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range ifs {
		fmt.Println("interface", i.Name, i.Flags&net.FlagUp != 0)
	}
	for _, addr := range a {
		network := "tcp"
		if strings.HasPrefix(addr, "@") {
			network = "unix"
		}
		c, err := net.DialTimeout(network, addr, 2*time.Second)
		fmt.Println("dial", addr, err == nil)
		if err == nil {
			c.Close()
		}
	}
	return nil
}

func probeGet(a []string) error {
	for _, u := range a {
		r, err := http.Get(u)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		fmt.Printf("%s %s %v\n", r.Status, b, err)
	}
	return nil
}

func probeListen(a []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+a[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "inside %s", r.URL.Path)
	}))
}

func probeWrite(a []string) error {
	for _, p := range a {
		err := os.WriteFile(p, []byte("written inside"), 0o644)
		var e syscall.Errno
		errors.As(err, &e)
		fmt.Println(p, int(e))
	}
	return nil
}

func probeStat(a []string) error {
	for _, p := range a {
		fi, err := os.Stat(p)
		if err != nil {
			fmt.Println(p, "none")
			continue
		}
		b, _ := os.ReadFile(p)
		fmt.Println(p, fi.Mode(), string(b))
	}
	return nil
}

func probeCalls([]string) error {
	z := [512]byte{}
	p := uintptr(unsafe.Pointer(&z[0]))
	var bad []string
	expect := func(name string, want syscall.Errno, nr uintptr, args ...uintptr) {
		var a [6]uintptr
		copy(a[:], args)
		_, _, e := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if e != want {
			bad = append(bad, fmt.Sprintf("%s: got %d (%v), want %d (%v)", name, int(e), e, int(want), want))
		}
	}
	for i, list := range [][]refusal{alwaysRefused, archRefused} {
		for _, r := range list {
			if r.nr == unix.SYS_REBOOT {
				continue // proved by the interpreter in filter_test.go; not worth the risk
			}
			expect(fmt.Sprintf("list %d call %d", i, r.nr), r.errno, r.nr, p, p, p, p, p)
		}
	}
	expect("unshare user", unix.EPERM, unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	expect("unshare mount", unix.EPERM, unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	expect("clone user", unix.EPERM, unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD))
	expect("socket vsock", unix.EAFNOSUPPORT, unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM)
	expect("socket alg", unix.EAFNOSUPPORT, unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)
	expect("tiocsti", unix.EPERM, unix.SYS_IOCTL, 0, unix.TIOCSTI, p)
	expect("tiocsti with high bits", unix.EPERM, unix.SYS_IOCTL, 0, unix.TIOCSTI|1<<32, p)
	expect("personality", unix.EPERM, unix.SYS_PERSONALITY, 0x0400000)
	dev := []byte("/dev-node\x00")
	d := uintptr(unsafe.Pointer(&dev[0]))
	at := ^uintptr(99)
	expect("mknodat char", unix.EPERM, unix.SYS_MKNODAT, at, d, unix.S_IFCHR|0o600, 0)
	expect("mknodat block", unix.EPERM, unix.SYS_MKNODAT, at, d, unix.S_IFBLK|0o600, 0x700)
	expect("mknodat fifo", 0, unix.SYS_MKNODAT, at, d, unix.S_IFIFO|0o600, 0)
	if sysMknod != 0 {
		expect("mknod char", unix.EPERM, sysMknod, d, unix.S_IFCHR|0o600, 0)
		expect("x32 getpid", unix.ENOSYS, 0x40000000|unix.SYS_GETPID)
	}
	runtime.KeepAlive(dev)
	runtime.KeepAlive(&z)
	if len(bad) > 0 {
		return errors.New(strings.Join(bad, "\n"))
	}
	return nil
}

func probeSleep(a []string) error {
	if slices.Contains(a, "stubborn") {
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	}
	if slices.Contains(a, "polite") {
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		fmt.Println("asked to end")
		os.Exit(7)
	}
	fmt.Println("ready")
	time.Sleep(time.Hour)
	return nil
}

func child(probe string, args ...string) *exec.Cmd {
	c := exec.Command("/probe", args...)
	c.Env = append(os.Environ(), probeVariable+"="+probe)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c
}

// probeSpawn leaves a stubborn process behind that holds the output open.
func probeSpawn([]string) error {
	c := child("sleep", "stubborn")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return c.Start()
}

// probeOrphans leaves processes to process 1 and checks that none stays a zombie.
func probeOrphans([]string) error {
	for range 5 {
		if err := child("orphans-middle").Run(); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		zombies := 0
		e, _ := os.ReadDir("/proc")
		for _, d := range e {
			if _, err := strconv.Atoi(d.Name()); err != nil {
				continue
			}
			b, _ := os.ReadFile("/proc/" + d.Name() + "/stat")
			if i := strings.LastIndexByte(string(b), ')'); i > 0 && strings.HasPrefix(string(b[i:]), ") Z") {
				zombies++
			}
		}
		if zombies == 0 {
			fmt.Println("no zombies")
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d zombies", zombies)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func probeBomb([]string) error {
	n := 0
	for range 80 {
		if err := child("sleep").Start(); err != nil {
			fmt.Println("stopped:", err)
			break
		}
		n++
	}
	fmt.Println("started", n)
	return nil
}

func probeTree([]string) error {
	do := []error{
		os.Remove("/gone"), os.RemoveAll("/emptied"), os.Mkdir("/emptied", 0o755),
		os.WriteFile("/emptied/new", []byte("n"), 0o644),
		os.WriteFile("/setuid", []byte("s"), 0o755), os.Chmod("/setuid", 0o4755|os.ModeSetuid),
		unix.Chmod("/setuid", 0o6755),
		os.WriteFile("/a", []byte("linked"), 0o644), os.Link("/a", "/b"), os.Symlink("a", "/c"),
		unix.Mkfifo("/pipe", 0o600),
		os.MkdirAll("/closed/inner", 0o755), os.WriteFile("/closed/inner/file", []byte("f"), 0o600),
		unix.Chmod("/closed/inner/file", 0), unix.Chmod("/closed/inner", 0), unix.Chmod("/closed", 0o111),
		os.Mkdir("/sticky", 0o755), unix.Chmod("/sticky", 0o1777),
	}
	return errors.Join(do...)
}

func probeOwners(a []string) error {
	var bad []string
	check := func(what string, err error) {
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", what, err))
		}
	}
	file := func(name string) string {
		check(name, os.WriteFile(name, []byte("x"), 0o755))
		return name
	}
	check("chown", os.Chown(file("/f1"), 33, 44))
	check("chown uid only", os.Chown(file("/f2"), 33, -1))
	check("chown gid only", os.Chown("/f2", -1, 45))
	check("chown back", os.Chown(file("/f3"), 5, 5))
	check("chown back", os.Chown("/f3", 0, 0))
	f, err := os.Open(file("/f4"))
	check("open", err)
	check("fchown", f.Chown(6, 7))
	check("fchown by proc", os.Chown(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), 8, 7))
	check("mkdir", os.MkdirAll("/d/e", 0o755))
	check("chown folder", os.Chown("/d", 100, 100))
	d, err := os.Open("/d")
	check("open", err)
	check("fchownat", unix.Fchownat(int(d.Fd()), "e", 101, 102, 0))
	file("/d/f5")
	check("symlink", os.Symlink("d/f5", "/link"))
	check("lchown", os.Lchown("/link", 9, 9))
	check("chown by link", os.Chown("/link", 10, 11))
	check("fchownat empty path", unix.Fchownat(int(f.Fd()), "", 12, 13, unix.AT_EMPTY_PATH))
	check("chdir", os.Chdir("/d"))
	check("relative", os.Chown("../f1", 34, -1))
	check("chdir", os.Chdir("/"))
	// Owners of an existing file of the lower layer are kept in part.
	check("lower", os.Chown("/shipped", -1, 77))
	// Set-id bits go, as with any chown; a folder keeps its.
	check("chmod", unix.Chmod(file("/f6"), 0o6755))
	check("chown set-id", os.Chown("/f6", 1, 1))
	check("chmod", unix.Chmod("/d/e", 0o2775))
	check("chown set-gid folder", os.Chown("/d/e", 101, 103))
	check("chmod", unix.Chmod(file("/f7"), 0o6755))
	check("chown of nothing", os.Chown("/f7", -1, -1))
	// Errors are those of Linux.
	if err := os.Chown("/missing", 1, 1); !errors.Is(err, unix.ENOENT) {
		bad = append(bad, fmt.Sprintf("missing: %v", err))
	}
	if err := os.Chown("/f1/x", 1, 1); !errors.Is(err, unix.ENOTDIR) {
		bad = append(bad, fmt.Sprintf("below a file: %v", err))
	}
	if err := unix.Fchown(99, 1, 1); !errors.Is(err, unix.EBADF) {
		bad = append(bad, fmt.Sprintf("bad descriptor: %v", err))
	}
	if err := os.Chown("/"+strings.Repeat("x/", 4000), 1, 1); !errors.Is(err, unix.ENAMETOOLONG) {
		bad = append(bad, fmt.Sprintf("long: %v", err))
	}
	if err := unix.Fchownat(unix.AT_FDCWD, "", 1, 1, 0); !errors.Is(err, unix.ENOENT) {
		bad = append(bad, fmt.Sprintf("empty: %v", err))
	}
	if err := os.Chown("/readonly/file", 1, 1); !errors.Is(err, unix.EROFS) {
		bad = append(bad, fmt.Sprintf("read-only: %v", err))
	}
	if _, _, e := unix.Syscall(unix.SYS_FCHOWNAT, ^uintptr(99), 1, 0); e != unix.EFAULT {
		bad = append(bad, fmt.Sprintf("bad pointer: %v", e))
	}
	// Inside a root of one's own, names mean what they mean there.
	file("/jail-secret")
	check("mkdir", os.MkdirAll("/jail/sub", 0o755))
	file("/jail/jail-secret")
	check("symlink", os.Symlink("/jail-secret", "/jail/sub/out"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		check("unshare", unix.Unshare(unix.CLONE_FS))
		check("chroot", unix.Chroot("/jail"))
		check("chdir", unix.Chdir("/sub"))
		check("chown in chroot", unix.Chown("out", 50, 50))
		check("chown above chroot", unix.Chown("../../../jail-secret", 51, -1))
	}()
	<-done
	// The set-id calls pretend.
	for name, nr := range map[string]uintptr{"setuid": unix.SYS_SETUID, "setgid": unix.SYS_SETGID, "setgroups": unix.SYS_SETGROUPS, "setresuid": unix.SYS_SETRESUID} {
		if _, _, e := unix.RawSyscall(nr, 0, 0, 0); e != 0 {
			bad = append(bad, name+": "+e.Error())
		}
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETUID, 1234, 0, 0); e != 0 || os.Getuid() != 0 {
		bad = append(bad, "setuid 1234: "+e.Error())
	}
	check("setcap", setcap(file("/capable")))
	if len(bad) > 0 {
		return errors.New(strings.Join(bad, "\n"))
	}
	return nil
}

// setcap gives a file cap_net_bind_service+ep, in the form that the tool writes.
func setcap(name string) error {
	v2 := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return unix.Setxattr(name, "security.capability", v2, 0)
}

func probeTTY(a []string) error {
	name, err := os.Readlink("/proc/self/fd/0")
	fg, err2 := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	sid, _ := unix.Getsid(0)
	t, err3 := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	fmt.Printf("tty %s %v foreground %v %v session %v %v\n", name, err, fg == unix.Getpgrp(), err2, sid == os.Getpid(), err3)
	if err3 == nil {
		t.Close()
	}
	// Job control: another group takes the terminal and gives it back.
	signal.Ignore(syscall.SIGTTOU)
	c := exec.Command("/probe")
	c.Env = append(os.Environ(), probeVariable+"=true")
	c.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: 0}
	fmt.Println("job", c.Run(), unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp()))
	if len(a) > 0 {
		b := make([]byte, 100)
		n, err := os.Stdin.Read(b)
		fmt.Printf("read %q %v\n", b[:n], err)
	}
	return nil
}

func probeAlloc([]string) error {
	for i := range 64 {
		b, err := unix.Mmap(-1, 0, 16<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			fmt.Println("stopped after", i*16, "MiB:", err)
			return nil
		}
		_ = b
	}
	fmt.Println("took 1 GiB")
	return nil
}

// probeParent runs outside: it starts a sandbox and waits to be killed.
func probeParent(a []string) error {
	p, err := Start(context.Background(), Spec{
		Lower: []string{a[0]}, Upper: a[1], Args: []string{"/probe", "stubborn"},
		Env: []string{probeVariable + "=sleep", "LD_LIBRARY_PATH=/lib"}, Stdout: os.Stdout,
	})
	if err != nil {
		return err
	}
	fmt.Println("pid", p.PID())
	_, err = p.Wait()
	return err
}

func probeTrace([]string) error {
	runtime.LockOSThread()
	if err := unix.PtraceAttach(1); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("attaching to process 1: %v", err)
	}
	local := []unix.Iovec{{Base: new(byte), Len: 1}}
	if _, err := unix.ProcessVMReadv(1, local, []unix.RemoteIovec{{Base: 4096, Len: 1}}, 0); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("reading process 1: %v", err)
	}
	c := child("sleep")
	if err := c.Start(); err != nil {
		return err
	}
	if err := unix.PtraceAttach(c.Process.Pid); err != nil {
		return fmt.Errorf("attaching to an own child: %v", err)
	}
	return nil
}

func probeChowns(a []string) error {
	n, _ := strconv.Atoi(a[0])
	if err := os.WriteFile("/f", nil, 0o644); err != nil {
		return err
	}
	for i := range n {
		if err := unix.Chown("/f", 1+i%100, 1); err != nil {
			return err
		}
	}
	return nil
}
