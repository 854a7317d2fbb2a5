package sandbox

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// terminal makes a pseudo-terminal in the sandbox's own /dev/pts, hands its
// master to the caller and returns the end that the command gets. The caller's
// own terminal never comes inside: nothing there can read what is typed into
// other programs or push characters back, tty(1) names a device that exists,
// and the session is the sandbox's own, so job control works.
func (i *initProcess) terminal() (*os.File, error) {
	master, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	n, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	tty, err := unix.Open("/dev/pts/"+strconv.Itoa(int(n)), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(tty), "terminal")
	if err := send(i.control, fromInit{Kind: "pty"}, master); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
