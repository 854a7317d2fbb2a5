package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// OwnerXattr is the extended attribute in which the owner of a regular file or
// folder is recorded, as "uid:gid" in decimal. A file without it belongs to
// 0:0; so does a symbolic link, which cannot carry one.
const OwnerXattr = "user.twinhull.owner"

// DefaultHostname is what a command sees as its host name, everywhere.
const DefaultHostname = "twinhull"

// Network says which network the command sees.
type Network int

const (
	None Network = iota // its own, with a loopback device and nothing else
	Host                // the caller's: not a sandbox as far as the network goes
)

// Mount is one thing put into the tree. Exactly one of Source, Tmpfs and Lower
// says what. Mounts are made parents first; those of one depth in the order
// given. A symbolic link in Target is followed inside the tree and never out
// of it. A missing target is made in a layer that is thrown away, not in Upper
// and not in any folder of the host.
type Mount struct {
	Target   string // absolute path inside
	Source   string // absolute host path of a folder or file
	Tmpfs    bool   // an empty file system in memory, gone afterwards
	ReadOnly bool
	NoExec   bool

	SizeBytes int64  // of a tmpfs; 0 is the kernel's default, half of the memory
	Mode      uint32 // of a tmpfs's top folder; 0 is 0755

	Lower []string // an overlay of these host folders, topmost first
	Upper string   // what takes the overlay's changes; empty throws them away
}

// Service is an HTTP handler that the command reaches on 127.0.0.1:Port. The
// listener is made inside the sandbox; the handler runs in the calling process.
type Service struct {
	Port    int
	Handler http.Handler
}

// Forward is a host address whose connections arrive at 127.0.0.1:Port inside.
type Forward struct {
	Host string // "127.0.0.1:8080"; port 0 picks a free one, see Process.Addr
	Port int
}

// Limits bounds a run. Zero values are no limit. Where the caller's cgroup is
// delegated (version 2) memory and processes are bounded for the whole run;
// elsewhere by resource limits, which is weaker: Result.Limits says which.
type Limits struct {
	MemoryBytes int64 // cgroup memory.max without swap, else RLIMIT_DATA of each process
	PIDs        int64 // cgroup pids.max, else RLIMIT_NPROC (which the kernel does not apply when the caller is root)
	CPUs        int   // number of processors the command may run on and sees (affinity)
	FileBytes   int64 // largest file, RLIMIT_FSIZE
}

// Spec describes one run completely. The zero value is not runnable: Args and
// either Root or Lower are needed.
type Spec struct {
	Lower    []string // overlay: read-only host folders, topmost first
	Upper    string   // takes every change; must exist, on a file system with user xattrs. Not durable until the caller synchronises it
	Root     string   // instead of Lower and Upper: one host folder, used in place
	ReadOnly bool     // no change to the tree; needs no Upper
	Mounts   []Mount

	Args     []string // the command; Args[0] without a slash is looked up in Env's PATH inside the tree
	Env      []string // the complete environment; PATH and HOME are added when absent, nothing is inherited
	Dir      string   // working directory inside, "" is "/"; made when missing is not done
	Hostname string   // "" is DefaultHostname

	UID, GID int   // identity inside; on the host it is always the caller's
	Groups   []int // what getgroups reports; grants nothing

	FakeOwners bool // chown and the set-id calls succeed; chown is recorded in OwnerXattr. Needs UID 0
	NoSync     bool // fsync and its like succeed without doing anything: for results that are thrown away on a crash
	Randomize  bool // keep address space randomisation, which is off by default for the same bits

	Network Network
	Serve   []Service
	Forward []Forward

	Stdin          io.Reader // nil is /dev/null. A read under way when the command ends is abandoned
	Stdout, Stderr io.Writer // nil discards; the same writer gets both without interleaved writes
	TTY            bool      // give the command a terminal of its own, joined to Stdin and Stdout (Stderr is unused)

	Limits  Limits
	Timeout time.Duration // SIGTERM to everything after this; 0 is none
	Grace   time.Duration // from SIGTERM to SIGKILL; 0 is five seconds
}

// Result is how the command ended.
type Result struct {
	ExitCode int            // 0-255; 128+Signal when a signal ended it
	Signal   syscall.Signal // that ended it, or 0
	TimedOut bool           // Timeout passed, whatever the exit code
	Duration time.Duration  // from fork to exit of the command
	MaxRSS   int64          // bytes, of the largest process; not below the launcher's own few MiB
	OOMKill  bool           // the memory limit killed a process (cgroup only)
	Limits   []string       // what was enforced and by what means, and what could not be: "memory 1073741824: cgroup"
}

// Success tells whether the command ran to its end and returned 0.
func (r Result) Success() bool { return r.ExitCode == 0 && r.Signal == 0 && !r.TimedOut }

func (r Result) String() string {
	switch {
	case r.TimedOut:
		return fmt.Sprintf("timed out after %s", r.Duration.Round(time.Millisecond))
	case r.OOMKill && r.Signal == syscall.SIGKILL:
		return "killed: it used more memory than its limit"
	case r.Signal != 0:
		return fmt.Sprintf("ended by signal %d (%s)", int(r.Signal), r.Signal)
	}
	return fmt.Sprintf("exit status %d", r.ExitCode)
}

// Error says that a command could not be run at all: at which stage, why, and
// what to do about it.
type Error struct {
	Stage  string // what was being done: "mounting the overlay"
	Err    error
	Remedy string // what the machine lacks and how to give it; may be empty
}

func (e *Error) Error() string {
	s := "sandbox: " + e.Stage + ": " + e.Err.Error()
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// check refuses what cannot work and fills defaults into a copy.
func (s Spec) check() (Spec, error) {
	bad := func(format string, args ...any) (Spec, error) {
		return s, &Error{Stage: "reading the specification", Err: fmt.Errorf(format, args...)}
	}
	switch {
	case len(s.Args) == 0 || s.Args[0] == "":
		return bad("no command")
	case s.Root != "" && (len(s.Lower) > 0 || s.Upper != ""):
		return bad("both Root and Lower/Upper are given")
	case s.Root == "" && len(s.Lower) == 0:
		return bad("neither Root nor Lower is given")
	case s.Root == "" && s.Upper == "" && !s.ReadOnly:
		return bad("a writable overlay needs Upper")
	case s.ReadOnly && s.Upper != "":
		return bad("ReadOnly takes no Upper")
	case s.FakeOwners && s.UID != 0:
		return bad("FakeOwners needs user id 0 inside, not %d", s.UID)
	case s.UID < 0 || s.GID < 0 || int64(s.UID) > 1<<32-2 || int64(s.GID) > 1<<32-2:
		return bad("user id %d or group id %d is out of range", s.UID, s.GID)
	case s.Network != None && s.Network != Host:
		return bad("unknown network %d", s.Network)
	case s.Network == Host && (len(s.Serve) > 0 || len(s.Forward) > 0):
		return bad("Serve and Forward need a network of the sandbox's own")
	case len(s.Groups) > 65536:
		return bad("%d supplementary groups", len(s.Groups))
	}
	for _, v := range slices.Concat(s.Args, s.Env, []string{s.Dir, s.Hostname}) {
		if strings.ContainsRune(v, 0) {
			return bad("%q holds a NUL byte", v)
		}
	}
	if s.Hostname == "" {
		s.Hostname = DefaultHostname
	}
	if len(s.Hostname) > 64 {
		return bad("host name %q is longer than 64 bytes", s.Hostname)
	}
	if s.Dir == "" {
		s.Dir = "/"
	}
	if !path.IsAbs(s.Dir) {
		return bad("working directory %q is not absolute", s.Dir)
	}
	if s.Grace <= 0 {
		s.Grace = 5 * time.Second
	}
	var err error
	folder := func(p *string, what string) {
		if *p == "" || err != nil {
			return
		}
		var fi os.FileInfo
		if *p, err = filepath.Abs(*p); err == nil {
			if fi, err = os.Stat(*p); err == nil && !fi.IsDir() {
				err = fmt.Errorf("%s %s is not a folder", what, *p)
			}
			if *p == "/" {
				err = fmt.Errorf("%s: the machine's own root is no tree for a sandbox", what)
			}
		}
	}
	s.Lower = slices.Clone(s.Lower)
	for i := range s.Lower {
		folder(&s.Lower[i], "lower")
	}
	folder(&s.Upper, "upper")
	folder(&s.Root, "root")
	s.Mounts = slices.Clone(s.Mounts)
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" || strings.ContainsRune(m.Target, 0) {
			return bad("mount target %q is not an absolute path below /", m.Target)
		}
		m.Target = path.Clean(m.Target)
		for _, own := range []string{"/proc", "/dev"} {
			if m.Target == own || strings.HasPrefix(m.Target, own+"/") && !strings.HasPrefix(m.Target, "/dev/shm") {
				return bad("mount target %s is the sandbox's own", m.Target)
			}
		}
		kinds := 0
		for _, is := range []bool{m.Source != "", m.Tmpfs, len(m.Lower) > 0} {
			if is {
				kinds++
			}
		}
		if kinds != 1 {
			return bad("mount %s needs exactly one of Source, Tmpfs and Lower", m.Target)
		}
		if m.Upper != "" && len(m.Lower) == 0 {
			return bad("mount %s has an Upper without a Lower", m.Target)
		}
		if m.SizeBytes < 0 || m.Mode&^0o7777 != 0 {
			return bad("mount %s: size %d or mode %o is out of range", m.Target, m.SizeBytes, m.Mode)
		}
		if m.Source != "" && err == nil {
			if m.Source, err = filepath.Abs(m.Source); err == nil {
				_, err = os.Stat(m.Source)
			}
		}
		m.Lower = slices.Clone(m.Lower)
		for j := range m.Lower {
			folder(&m.Lower[j], "lower")
		}
		folder(&m.Upper, "upper")
	}
	if err != nil {
		return s, &Error{Stage: "reading the specification", Err: err}
	}
	slices.SortStableFunc(s.Mounts, func(a, b Mount) int {
		return strings.Count(a.Target, "/") - strings.Count(b.Target, "/")
	})
	seen := map[int]bool{}
	for _, v := range s.Serve {
		if v.Port < 1 || v.Port > 65535 || seen[v.Port] || v.Handler == nil {
			return bad("service port %d is out of range, given twice or without a handler", v.Port)
		}
		seen[v.Port] = true
	}
	for _, f := range s.Forward {
		if f.Port < 1 || f.Port > 65535 {
			return bad("forwarded port %d is out of range", f.Port)
		}
		if _, _, err := net.SplitHostPort(f.Host); err != nil {
			return bad("forward from %q: %v", f.Host, err)
		}
	}
	env := slices.Clone(s.Env)
	for _, d := range []string{"PATH=" + defaultPath, "HOME=/"} {
		name := d[:strings.IndexByte(d, '=')+1]
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name) }) {
			env = append(env, d)
		}
	}
	s.Env = env
	return s, nil
}

var errInitDied = errors.New("process 1 ended without a report")
