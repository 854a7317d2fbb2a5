package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notifier answers the system calls that the filter hands over: getgroups,
// whose true answer depends on who started the run, and with FakeOwners the
// chown family.
//
// The answer never trusts what it looked at twice: it opens the file itself
// and acts on that descriptor. After everything that was read through
// /proc/PID it asks the kernel whether the call is still waiting, because
// otherwise the id could have been taken by another process. What a hostile
// program can win by racing is a record on another file that it could have
// changed anyway: process 1 has no more power over files than the command.
type notifier struct {
	listener int
	groups   []int
	rootFD   int
	rootID   [2]uint64
}

// struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type notificationAnswer struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

func ioctl(fd int, req uint, p unsafe.Pointer) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(p))
	return e
}

func (n *notifier) serve() {
	// A thread with a root and working folder of its own, which it moves to
	// those of the caller of chown when that has changed its root.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox: unshare:", err)
		os.Exit(1)
	}
	var err error
	if n.rootFD, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		n.rootID, err = identity(n.rootFD)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox: open /:", err)
		os.Exit(1)
	}
	for {
		var req notification
		switch e := ioctl(n.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&req)); e {
		case 0:
		case unix.EINTR, unix.ENOENT: // a signal here, or there
			continue
		default:
			return
		}
		val, e := n.answer(&req)
		resp := notificationAnswer{id: req.id, val: val, error: -int32(e)}
		_ = ioctl(n.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&resp))
	}
}

func (n *notifier) valid(req *notification) bool {
	id := req.id
	return ioctl(n.listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == 0
}

func (n *notifier) answer(req *notification) (int64, unix.Errno) {
	if req.nr == unix.SYS_GETGROUPS {
		return n.getgroups(req)
	}
	var dirfd, flags, pathArg, owner int
	follow, legacy := legacyChown(req.nr)
	switch {
	case legacy:
		dirfd, pathArg, owner = unix.AT_FDCWD, 0, 1
		if !follow {
			flags = unix.AT_SYMLINK_NOFOLLOW
		}
	case req.nr == unix.SYS_FCHOWN:
		dirfd, pathArg, owner = int(int32(req.args[0])), -1, 1
	case req.nr == unix.SYS_FCHOWNAT:
		dirfd, pathArg, owner, flags = int(int32(req.args[0])), 1, 2, int(int32(req.args[4]))
	default:
		return 0, unix.ENOSYS
	}
	if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return 0, unix.EINVAL
	}
	name := ""
	if pathArg >= 0 {
		var e unix.Errno
		if name, e = readString(int(req.pid), uintptr(req.args[pathArg])); e != 0 {
			return 0, e
		}
		if name == "" && flags&unix.AT_EMPTY_PATH == 0 {
			return 0, unix.ENOENT
		}
	}
	fd, e := n.open(req, dirfd, name, flags&unix.AT_SYMLINK_NOFOLLOW == 0)
	if e != 0 {
		return 0, e
	}
	defer unix.Close(fd)
	if !n.valid(req) {
		return 0, unix.EINTR
	}
	return 0, chown(fd, uint32(req.args[owner]), uint32(req.args[owner+1]))
}

// chown does what the kernel does for a privileged caller, except that the
// owner goes into the extended attribute.
func chown(fd int, uid, gid uint32) unix.Errno {
	// The real call with no ids: it checks that the file may be changed, clears
	// set-id bits and file capabilities as any chown does, and copies the file
	// up in an overlay.
	const nobody = ^uint32(0)
	if err := unix.Fchownat(fd, "", -1, -1, unix.AT_EMPTY_PATH); err != nil {
		return toErrno(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return toErrno(err)
	}
	if k := st.Mode & unix.S_IFMT; k != unix.S_IFREG && k != unix.S_IFDIR {
		return 0 // cannot carry a record
	}
	p := fdPath(fd)
	had, haveUID, haveGID := readOwner(p)
	if uid != nobody {
		haveUID = uid
	}
	if gid != nobody {
		haveGID = gid
	}
	var err error
	switch {
	case haveUID == 0 && haveGID == 0:
		if had {
			err = unix.Removexattr(p, OwnerXattr)
		}
	default:
		err = unix.Setxattr(p, OwnerXattr, FormatOwner(int(haveUID), int(haveGID)), 0)
	}
	if err == unix.EOPNOTSUPP {
		return 0 // a file system without user attributes, as tmpfs was: nothing is kept there
	}
	return toErrno(err)
}

// FormatOwner is the value of OwnerXattr.
func FormatOwner(uid, gid int) []byte {
	return []byte(strconv.Itoa(uid) + ":" + strconv.Itoa(gid))
}

// ParseOwner reads a value of OwnerXattr.
func ParseOwner(b []byte) (uid, gid int, err error) {
	u, g, ok := strings.Cut(string(b), ":")
	if ok {
		var un, gn uint64
		if un, err = strconv.ParseUint(u, 10, 32); err == nil {
			gn, err = strconv.ParseUint(g, 10, 32)
		}
		uid, gid = int(un), int(gn)
		if err == nil && bytes.Equal(FormatOwner(uid, gid), b) && un != 1<<32-1 && gn != 1<<32-1 {
			return uid, gid, nil
		}
	}
	return 0, 0, fmt.Errorf("owner record %.40q is not uid:gid", b)
}

func readOwner(p string) (had bool, uid, gid uint32) {
	var b [32]byte
	n, err := unix.Getxattr(p, OwnerXattr, b[:])
	if err != nil {
		return false, 0, 0
	}
	u, g, err := ParseOwner(b[:n])
	if err != nil {
		return true, 0, 0 // written by something else: replaced
	}
	return true, uint32(u), uint32(g)
}

// open opens what a path means to the process that waits.
func (n *notifier) open(req *notification, dirfd int, name string, follow bool) (int, unix.Errno) {
	proc := "/proc/" + strconv.Itoa(int(req.pid))
	if name == "" || !strings.HasPrefix(name, "/") {
		base := proc + "/cwd"
		if dirfd != unix.AT_FDCWD {
			if dirfd < 0 {
				return -1, unix.EBADF
			}
			base = proc + "/fd/" + strconv.Itoa(dirfd)
		}
		// O_PATH on the magic link opens the very file, of any type.
		fd, err := unix.Open(base, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			if err == unix.ENOENT {
				return -1, unix.EBADF
			}
			return -1, toErrno(err)
		}
		if name == "" {
			return fd, 0
		}
		defer unix.Close(fd)
		return n.openAt(proc, fd, name, follow)
	}
	// /proc/self is this process here. dev/fd and friends lead there by links.
	for _, alias := range [][2]string{
		{"/proc/self/", proc + "/"}, {"/proc/thread-self/", proc + "/"}, {"/dev/fd/", proc + "/fd/"},
		{"/dev/stdin", proc + "/fd/0"}, {"/dev/stdout", proc + "/fd/1"}, {"/dev/stderr", proc + "/fd/2"},
	} {
		if rest, ok := strings.CutPrefix(name, alias[0]); ok && (strings.HasSuffix(alias[0], "/") || rest == "") {
			name = alias[1] + rest
			break
		}
	}
	return n.openAt(proc, unix.AT_FDCWD, name, follow)
}

func (n *notifier) openAt(proc string, base int, name string, follow bool) (int, unix.Errno) {
	root, err := unix.Open(proc+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, toErrno(err)
	}
	defer unix.Close(root)
	id, err := identity(root)
	if err != nil {
		return -1, toErrno(err)
	}
	if id != n.rootID {
		if err := enter(root); err != nil {
			return -1, toErrno(err)
		}
		defer func() {
			if err := enter(n.rootFD); err != nil {
				os.Exit(1) // nothing after this would mean what it says
			}
		}()
	}
	flags := unix.O_PATH | unix.O_CLOEXEC
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat(base, name, flags, 0)
	if err != nil {
		return -1, toErrno(err)
	}
	return fd, 0
}

func enter(root int) error {
	if err := unix.Fchdir(root); err != nil {
		return err
	}
	return unix.Chroot(".")
}

func identity(fd int) ([2]uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return [2]uint64{uint64(st.Dev), st.Ino}, err
}

func (n *notifier) getgroups(req *notification) (int64, unix.Errno) {
	size := int32(req.args[0])
	switch {
	case size < 0:
		return 0, unix.EINVAL
	case size == 0 || len(n.groups) == 0:
		return int64(len(n.groups)), 0
	case int(size) < len(n.groups):
		return 0, unix.EINVAL
	}
	out := make([]uint32, len(n.groups))
	for i, g := range n.groups {
		out[i] = uint32(g)
	}
	local := []unix.Iovec{{Base: (*byte)(unsafe.Pointer(&out[0]))}}
	local[0].SetLen(4 * len(out))
	remote := []unix.RemoteIovec{{Base: uintptr(req.args[1]), Len: 4 * len(out)}}
	if !n.valid(req) {
		return 0, unix.EINTR
	}
	if _, err := unix.ProcessVMWritev(int(req.pid), local, remote, 0); err != nil {
		return 0, toErrno(err)
	}
	return int64(len(n.groups)), 0
}

// readString reads a C string, page by page so that one that ends just before
// unmapped memory is read whole.
func readString(pid int, addr uintptr) (string, unix.Errno) {
	page := uintptr(os.Getpagesize())
	var out []byte
	for len(out) < unix.PathMax {
		n := page - addr%page
		b := make([]byte, n)
		local := []unix.Iovec{{Base: &b[0]}}
		local[0].SetLen(int(n))
		got, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: addr, Len: int(n)}}, 0)
		if err != nil {
			return "", toErrno(err)
		}
		if i := bytes.IndexByte(b[:got], 0); i >= 0 {
			out = append(out, b[:i]...)
			if len(out) >= unix.PathMax {
				break
			}
			return string(out), 0
		}
		if got == 0 {
			return "", unix.EFAULT
		}
		out = append(out, b[:got]...)
		addr += uintptr(got)
	}
	return "", unix.ENAMETOOLONG
}

func toErrno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return unix.EIO
}
