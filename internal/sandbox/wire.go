package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The two ends of a run are the same program, so the messages need no version.
// The specification goes over a pipe, because it may be large; everything else
// over a sequenced-packet socket, one message a packet, with at most one file
// descriptor beside it. Nothing that the sandboxed command controls is parsed
// by the caller: process 1 is the only writer and the command cannot reach it.

const initName = "twinhull-sandbox-init"

// initSpec is what process 1 needs to know of a Spec.
type initSpec struct {
	Lower    []string
	Upper    string
	Work     string // scratch folder on Upper's file system: overlay work folder and skeleton
	Root     string
	ReadOnly bool
	Mounts   []initMount

	Args, Env     []string
	Dir, Hostname string
	UID, GID      int
	Groups        []int

	FakeOwners, NoSync, Randomize, TTY bool

	Network Network
	Ports   []int
	Limits  Limits
	// Which limits cgroups already hold, so that no weaker one is set.
	CgroupMemory, CgroupPIDs bool
	CallerIsRoot             bool // RLIMIT_NPROC does not bind

	ExeDev, ExeIno uint64 // identity of the caller's program file
}

type initMount struct {
	Mount
	Work string
}

// fromInit is a message of process 1.
type fromInit struct {
	Kind string // "listener", "pty", "started", "exit", "error", "conn"
	ID   int    // of "conn" and "listener"
	Err  string

	// of "error"
	Stage, Remedy string
	Errno         int

	// of "started" and "exit"
	PID     int
	Status  int
	MaxRSS  int64
	Nanos   int64
	Limits  []string
	Targets []string // made in Root and to be removed, deepest last
}

// toInit is a message of the caller.
type toInit struct {
	Kind string // "signal", "dial", "winsize"
	ID   int
	Sig  int
	All  bool
	Port int
}

func send(c *net.UnixConn, m any, fd int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// receive reads one message. The file is nil when none came along.
func receive(c *net.UnixConn, m any) (*os.File, error) {
	b, oob := make([]byte, 128<<10), make([]byte, unix.CmsgSpace(4))
	n, on, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("the other side hung up")
	}
	var f *os.File
	if on > 0 {
		cms, err := unix.ParseSocketControlMessage(oob[:on])
		if err != nil {
			return nil, err
		}
		for i := range cms {
			fds, err := unix.ParseUnixRights(&cms[i])
			if err != nil {
				return nil, err
			}
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				if f != nil {
					f.Close()
				}
				f = os.NewFile(uintptr(fd), "received")
			}
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		f.Close()
		return nil, errors.New("message too long")
	}
	if err := json.Unmarshal(b[:n], m); err != nil {
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("message %.40q: %w", b[:n], err)
	}
	return f, nil
}

// socketPair returns two connected ends, both closed on exec.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	a, b := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	c, err := unixConn(a)
	if err != nil {
		b.Close()
		return nil, nil, err
	}
	return c, b, nil
}

// unixConn turns a file into a connection and closes the file.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a unix socket")
	}
	return u, nil
}

func errnoOf(err error) int {
	var e syscall.Errno
	if errors.As(err, &e) {
		return int(e)
	}
	return 0
}
