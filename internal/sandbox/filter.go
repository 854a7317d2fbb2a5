package sandbox

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system call filter. It refuses by list: what is not named is decided by
// the kernel, namespaces and missing capabilities as usual. A list of what is
// allowed would be stricter, but would break compilers and language runtimes of
// tomorrow in ways that depend on the machine's C library.
//
// ptrace stays: gdb and strace are part of a development image, the kernel
// checks each attachment, CAP_SYS_PTRACE is gone and process 1 is not
// dumpable, so only the command's own processes can be traced; and a filter
// holds for traced calls too (Linux 4.8).

// refused maps each refused system call to the error that it returns. EPERM is
// for what exists and is not allowed; ENOSYS for what programs probe and have
// another way for.
type refusal struct {
	nr    uintptr
	errno unix.Errno
}

// alwaysRefused is common to both architectures.
var alwaysRefused = []refusal{
	// Mounts: the tree is complete when the command starts.
	{unix.SYS_MOUNT, unix.EPERM}, {unix.SYS_UMOUNT2, unix.EPERM}, {unix.SYS_PIVOT_ROOT, unix.EPERM},
	{unix.SYS_MOVE_MOUNT, unix.EPERM}, {unix.SYS_OPEN_TREE, unix.EPERM}, {unix.SYS_FSOPEN, unix.EPERM},
	{unix.SYS_FSCONFIG, unix.EPERM}, {unix.SYS_FSMOUNT, unix.EPERM}, {unix.SYS_FSPICK, unix.EPERM},
	{unix.SYS_MOUNT_SETATTR, unix.EPERM}, {sysOpenTreeAttr, unix.EPERM},
	// Other namespaces.
	{unix.SYS_SETNS, unix.EPERM},
	// The running kernel and the machine.
	{unix.SYS_KEXEC_LOAD, unix.EPERM}, {unix.SYS_KEXEC_FILE_LOAD, unix.EPERM}, {unix.SYS_REBOOT, unix.EPERM},
	{unix.SYS_INIT_MODULE, unix.EPERM}, {unix.SYS_FINIT_MODULE, unix.EPERM}, {unix.SYS_DELETE_MODULE, unix.EPERM},
	{unix.SYS_SWAPON, unix.EPERM}, {unix.SYS_SWAPOFF, unix.EPERM}, {unix.SYS_ACCT, unix.EPERM},
	{unix.SYS_QUOTACTL, unix.EPERM}, {unix.SYS_QUOTACTL_FD, unix.EPERM}, {unix.SYS_SYSLOG, unix.EPERM},
	{unix.SYS_VHANGUP, unix.EPERM}, {unix.SYS_NFSSERVCTL, unix.ENOSYS},
	// The clock and the names, which every step must see alike.
	{unix.SYS_CLOCK_SETTIME, unix.EPERM}, {unix.SYS_SETTIMEOFDAY, unix.EPERM},
	{unix.SYS_SETHOSTNAME, unix.EPERM}, {unix.SYS_SETDOMAINNAME, unix.EPERM},
	// Kernel interfaces with a history of holes, which no build needs.
	{unix.SYS_BPF, unix.EPERM}, {unix.SYS_PERF_EVENT_OPEN, unix.EPERM}, {unix.SYS_USERFAULTFD, unix.EPERM},
	{unix.SYS_KEYCTL, unix.EPERM}, {unix.SYS_ADD_KEY, unix.EPERM}, {unix.SYS_REQUEST_KEY, unix.EPERM},
	{unix.SYS_FANOTIFY_INIT, unix.EPERM}, {unix.SYS_LOOKUP_DCOOKIE, unix.EPERM},
	// Files by handle reach past the tree.
	{unix.SYS_OPEN_BY_HANDLE_AT, unix.EPERM},
	// Rings of calls that the filter does not see.
	{unix.SYS_IO_URING_SETUP, unix.ENOSYS}, {unix.SYS_IO_URING_ENTER, unix.ENOSYS}, {unix.SYS_IO_URING_REGISTER, unix.ENOSYS},
	// Its flags are in memory and cannot be filtered; C libraries fall back to clone.
	{unix.SYS_CLONE3, unix.ENOSYS},
}

const (
	sysOpenTreeAttr = 467 // both architectures; not in x/sys yet
	addrNoRandomize = 0x0040000
	allNamespaces   = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME
	// clone's low byte is the exit signal, and CLONE_NEWTIME (0x80) is in it:
	// only unshare takes that flag.
	cloneNamespaces = allNamespaces &^ unix.CLONE_NEWTIME
)

type filterOptions struct {
	fakeOwners bool
	noSync     bool
}

// Offsets in struct seccomp_data, of the low halves on a little-endian machine.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

func arg(n int) uint32 { return uint32(offArgs + 8*n) }

// bpf is a filter under construction. Every rule is a test of the call's
// number that jumps over the rule's own body, so no label ever needs resolving
// and no jump comes near the limit of 255 instructions.
type bpf []unix.SockFilter

func (p *bpf) stmt(code uint16, k uint32) { *p = append(*p, unix.SockFilter{Code: code, K: k}) }
func (p *bpf) jump(code uint16, k uint32, jt, jf uint8) {
	*p = append(*p, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
}
func (p *bpf) ret(action uint32) { p.stmt(unix.BPF_RET|unix.BPF_K, action) }
func (p *bpf) load(off uint32)   { p.stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, off) }

// on adds a rule: body runs for the one call and must leave nothing to the next
// rule but an allowed call.
func (p *bpf) on(nr uintptr, body bpf) {
	p.jump(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, uint32(nr), 0, uint8(len(body)))
	*p = append(*p, body...)
}

func returns(action uint32) bpf {
	var p bpf
	p.ret(action)
	return p
}

func errno(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// whenAny returns action if any bit of mask is set in the argument.
func whenAny(n int, mask uint32, action uint32) bpf {
	var p bpf
	p.load(arg(n))
	p.jump(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, mask, 0, 1)
	p.ret(action)
	p.ret(unix.SECCOMP_RET_ALLOW)
	return p
}

// whenIn returns action if the argument's low half, masked, is one of values;
// inverted, if it is none of them.
func whenIn(n int, mask uint32, values []uint32, inverted bool, action uint32) bpf {
	hit, miss := action, uint32(unix.SECCOMP_RET_ALLOW)
	if inverted {
		hit, miss = miss, hit
	}
	var p bpf
	p.load(arg(n))
	p.stmt(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask)
	for i, v := range values {
		p.jump(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, v, uint8(len(values)-i), 0)
	}
	p.ret(miss)
	p.ret(hit)
	return p
}

// buildFilter assembles the filter for this machine's architecture. A call of
// any other architecture (32-bit calls, which have other numbers) is ENOSYS.
func buildFilter(o filterOptions) bpf {
	var p bpf
	p.load(offArch)
	p.jump(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, auditArch, 1, 0)
	p.ret(errno(unix.ENOSYS))
	p.load(offNr)
	if runtime.GOARCH == "amd64" {
		p.jump(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, 0x40000000, 0, 1) // x32
		p.ret(errno(unix.ENOSYS))
	}
	for _, list := range [][]refusal{alwaysRefused, archRefused} {
		for _, r := range list {
			p.on(r.nr, returns(errno(r.errno)))
		}
	}
	p.on(unix.SYS_CLONE, whenAny(0, cloneNamespaces, errno(unix.EPERM)))
	p.on(unix.SYS_UNSHARE, whenAny(0, allNamespaces, errno(unix.EPERM)))
	// AF_VSOCK reaches the hypervisor past every network namespace, AF_ALG and
	// the rest are kernel code that no build needs.
	p.on(unix.SYS_SOCKET, whenIn(0, ^uint32(0), []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET}, true, errno(unix.EAFNOSUPPORT)))
	// Typing into the terminal that one was given.
	p.on(unix.SYS_IOCTL, whenIn(1, ^uint32(0), []uint32{unix.TIOCSTI, 0x541c /* TIOCLINUX */}, false, errno(unix.EPERM)))
	// Linux, Linux without randomisation (gdb), 32 bits (setarch), a question.
	p.on(unix.SYS_PERSONALITY, whenIn(0, ^uint32(0), []uint32{0, 8, addrNoRandomize, 8 | addrNoRandomize, 0xffffffff}, true, errno(unix.EPERM)))
	// No device nodes. The kernel refuses all but 0:0, which in an overlay's
	// upper folder would be a whiteout that nobody deleted a file for.
	device := []uint32{unix.S_IFCHR, unix.S_IFBLK}
	p.on(unix.SYS_MKNODAT, whenIn(2, unix.S_IFMT, device, false, errno(unix.EPERM)))
	if sysMknod != 0 {
		p.on(sysMknod, whenIn(1, unix.S_IFMT, device, false, errno(unix.EPERM)))
	}
	p.on(unix.SYS_GETGROUPS, returns(unix.SECCOMP_RET_USER_NOTIF))
	if o.fakeOwners {
		for _, nr := range chownCalls {
			p.on(nr, returns(unix.SECCOMP_RET_USER_NOTIF))
		}
		// Errno 0 is success without the call.
		for _, nr := range []uintptr{
			unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID,
			unix.SYS_SETGROUPS, unix.SYS_SETFSUID, unix.SYS_SETFSGID,
		} {
			p.on(nr, returns(errno(0)))
		}
	}
	if o.noSync {
		for _, nr := range []uintptr{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_SYNC_FILE_RANGE} {
			p.on(nr, returns(errno(0)))
		}
	}
	p.ret(unix.SECCOMP_RET_ALLOW)
	return p
}

// installFilter puts the filter on the calling thread and returns the listener
// of the calls that it hands over.
func installFilter(o filterOptions) (int, error) {
	p := buildFilter(o)
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	install := func(flags uintptr) (int, unix.Errno) {
		fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
		return int(fd), e
	}
	// Without WAIT_KILLABLE_RECV (Linux 5.19) a signal restarts a call that is
	// being answered; the answers can be given twice.
	fd, e := install(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if e == unix.EINVAL {
		fd, e = install(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	}
	runtime.KeepAlive(p)
	if e != 0 {
		err := &stageError{stage: "installing the system call filter", err: e}
		if errors.Is(e, unix.EINVAL) {
			err.remedy = "the kernel lacks seccomp user notification: Linux 5.0 with CONFIG_SECCOMP_FILTER is needed"
		}
		if errors.Is(e, unix.EBUSY) {
			err.remedy = "this process already runs under a filter with a listener (a nested sandbox or container), and the kernel allows one"
		}
		return -1, err
	}
	return fd, nil
}
