package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Finding is one thing that the machine gives or lacks.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // false: the sandbox works without, with less
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // what to do, as a command where there is one
}

// minimum free space for a build, in bytes: two development trees and archives.
const enoughSpace = 4 << 30

// Doctor tries each thing that a sandbox needs, one by one, and says what the
// machine lacks and how to give it. dirs are the folders that trees will be
// kept in (the cache); without any, the temporary folder stands in. Every
// finding comes from doing the thing, not from reading a version number.
func Doctor(ctx context.Context, dirs ...string) []Finding {
	if len(dirs) == 0 {
		dirs = []string{os.TempDir()}
	}
	var out []Finding
	out = append(out, kernelFinding())
	ns, steps := probe(ctx)
	out = append(out, ns)
	out = append(out, steps...)
	for _, d := range dirs {
		out = append(out, folderFindings(ctx, d)...)
	}
	return append(out, cgroupFinding())
}

func kernelFinding() Finding {
	var u unix.Utsname
	f := Finding{Name: "kernel", Needed: true}
	if err := unix.Uname(&u); err != nil {
		f.Detail = err.Error()
		return f
	}
	f.Detail = fmt.Sprintf("Linux %s on %s", unix.ByteSliceToString(u.Release[:]), runtime.GOARCH)
	// mount_setattr is the newest call that the sandbox cannot do without.
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	if f.OK = err != unix.ENOSYS; !f.OK {
		f.Remedy = "Linux 5.12 or newer is needed"
	}
	return f
}

// probeStep is a trial in new namespaces.
type probeStep struct {
	Name   string
	Err    string
	Errno  int
	Remedy string
}

// probe starts a process in new namespaces, which tries the rest there.
func probe(ctx context.Context) (Finding, []Finding) {
	f := Finding{Name: "user namespaces", Needed: true, Detail: "user, mount, process, network, ipc, uts and cgroup namespaces can be made"}
	ours, theirs, err := socketPair()
	if err != nil {
		f.Detail = err.Error()
		return f, nil
	}
	defer ours.Close()
	cmd := command("probe", 0, 0, unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS|unix.CLONE_NEWCGROUP)
	cmd.SysProcAttr.Pdeathsig = 0
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		f.Detail, f.Remedy = err.Error(), namespaceRemedy(err)
		return f, nil
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	f.OK = true
	var out []Finding
	for {
		var s probeStep
		file, err := receive(ours, &s)
		file.Close()
		if err != nil {
			break
		}
		g := Finding{Name: s.Name, OK: s.Err == "", Needed: true, Detail: "works", Remedy: s.Remedy}
		if s.Err != "" {
			g.Detail = s.Err
			if g.Remedy == "" {
				g.Remedy = setupRemedy(unix.Errno(s.Errno))
			}
		}
		out = append(out, g)
	}
	_ = cmd.Wait()
	return f, out
}

// probeHelper is the main of the process in new namespaces.
func probeHelper(c *net.UnixConn) {
	try := func(name string, f func() error) {
		s := probeStep{Name: name}
		if err := f(); err != nil {
			s.Err, s.Errno = err.Error(), errnoOf(err)
			var st *stageError
			if errors.As(err, &st) {
				s.Remedy = st.remedy
			}
		}
		_ = send(c, s, -1)
	}
	try("mounts in the namespace", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") })
	try("loopback device", loopbackUp)
	try("tmpfs", func() error {
		fd, err := newTmpfs(0o755, 1<<20, 0)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	})
	try("terminals (devpts)", func() error {
		fd, err := devpts()
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	})
	try("/proc of its own", func() error {
		fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return err
		}
		if err := unix.FsconfigCreate(fs); err != nil {
			return procProblem(err)
		}
		if _, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0); err != nil {
			return procProblem(err)
		}
		return nil
	})
	try("devices", func() error {
		for _, n := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
			if _, err := unix.OpenTree(unix.AT_FDCWD, "/dev/"+n, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
				return fmt.Errorf("/dev/%s: %w", n, err)
			}
		}
		return nil
	})
	try("system call filter with notification", func() error {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // given away, with the filter
			err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
			if err == nil {
				_, err = installFilter(filterOptions{fakeOwners: true})
			}
			done <- err
		}()
		return <-done
	})
	os.Exit(0)
}

// folderFindings tries a folder as the place for trees.
func folderFindings(ctx context.Context, dir string) []Finding {
	name := func(what string) string { return what + " in " + dir }
	at := dir
	for { // the folder itself may not have been made yet
		if fi, err := os.Stat(at); err == nil && fi.IsDir() {
			break
		}
		at = filepath.Dir(at)
	}
	tmp, err := os.MkdirTemp(at, ".twinhull-doctor-")
	if err != nil {
		return []Finding{{Name: name("writing"), Needed: true, Detail: err.Error(), Remedy: "give another folder with --cache-dir"}}
	}
	defer RemoveAll(tmp)
	attrs := Finding{Name: name("user xattrs"), OK: true, Needed: true, Detail: "can be written and read"}
	b := make([]byte, 64)
	if err := unix.Setxattr(tmp, OwnerXattr, FormatOwner(1, 2), 0); err != nil {
		attrs.OK, attrs.Detail = false, err.Error()
	} else if n, err := unix.Getxattr(tmp, OwnerXattr, b); err != nil || string(b[:max(n, 0)]) != "1:2" {
		attrs.OK, attrs.Detail = false, fmt.Sprintf("written, but not read back: %v", err)
	}
	if !attrs.OK {
		attrs.Remedy = "put the cache (--cache-dir) on ext4, xfs, btrfs, or a tmpfs of Linux 6.6 or newer"
	}
	return []Finding{attrs, overlayFinding(ctx, name("overlay"), tmp), spaceFinding(name("disk space"), at)}
}

// overlayFinding runs a whole sandbox, whose command is this program.
func overlayFinding(ctx context.Context, name, tmp string) Finding {
	f := Finding{Name: name, OK: true, Needed: true, Detail: "a sandbox over an overlay starts"}
	var err error
	for _, d := range []string{"lower", "upper"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(tmp, d), 0o755))
	}
	if err == nil {
		// There is no program in the tree: everything is set up and then the
		// command is not found, which is the expected answer.
		_, err = Run(ctx, Spec{
			Lower: []string{filepath.Join(tmp, "lower")}, Upper: filepath.Join(tmp, "upper"), FakeOwners: true,
			Args: []string{"/nothing"}, Timeout: 30 * time.Second,
		})
		var e *Error
		if errors.As(err, &e) && e.Stage == "starting the command" {
			err = nil
		} else if err == nil {
			err = errors.New("a command that does not exist ran")
		}
		if e != nil {
			f.Remedy = e.Remedy
		}
	}
	if err != nil {
		f.OK, f.Detail = false, err.Error()
	} else {
		f.Remedy = ""
	}
	return f
}

func spaceFinding(name, dir string) Finding {
	f := Finding{Name: name}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		f.Detail = err.Error()
		return f
	}
	free := st.Bavail * uint64(st.Bsize)
	f.OK = free >= enoughSpace
	f.Detail = fmt.Sprintf("%.1f GiB free", float64(free)/(1<<30))
	if !f.OK {
		f.Remedy = fmt.Sprintf("free space or give another folder with --cache-dir: a build may need %d GiB", enoughSpace>>30)
	}
	return f
}

func cgroupFinding() Finding {
	f := Finding{Name: "cgroup delegation", OK: true, Detail: "memory and processes of a step can be bounded"}
	g := newCgroup(Limits{MemoryBytes: 1 << 30, PIDs: 1 << 10})
	if g != nil {
		if !g.memory || !g.pids {
			f.OK, f.Detail = false, "only part: "+strings.Join(g.report(), ", ")
		}
		g.remove()
	} else {
		f.OK, f.Detail = false, "no cgroup (version 2) with the memory and pids controllers is delegated to this user: limits are those of each process"
	}
	if !f.OK {
		f.Remedy = "run under systemd-run --user --scope -p Delegate=yes, or as root on a machine with the unified cgroup hierarchy"
	}
	return f
}
