package sandbox

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// openFiles is the limit on open files, soft and hard, in every sandbox whose
// caller is allowed that many. Programs read it and size tables by it.
const openFiles = 65536

// limit sets the resource limits of the command. Those that would also bind
// this process (and could end it at the worst time) are lowered for the moment
// of the fork only; the returned function gives them back and makes them hard
// for the forked process.
func (i *initProcess) limit() (restore func(pid int), report []string, err error) {
	l := i.spec.Limits
	set := func(res int, soft, hard uint64) error {
		var old unix.Rlimit
		if err := unix.Prlimit(0, res, nil, &old); err != nil {
			return err
		}
		// syscall's own function, so that the runtime does not set the number
		// of files back in the child.
		return syscall.Setrlimit(res, &syscall.Rlimit{Cur: min(soft, old.Max), Max: min(hard, old.Max)})
	}
	const inf = unix.RLIM_INFINITY
	for _, v := range []struct {
		res        int
		soft, hard uint64
	}{
		{unix.RLIMIT_CORE, 0, 0},
		{unix.RLIMIT_NOFILE, openFiles, openFiles},
		{unix.RLIMIT_STACK, 8 << 20, inf},
		{unix.RLIMIT_MEMLOCK, 64 << 10, inf},
	} {
		if err := set(v.res, v.soft, v.hard); err != nil {
			return nil, nil, err
		}
	}
	type later struct {
		res   int
		value uint64
		old   unix.Rlimit
	}
	var lowered []later
	lower := func(res int, value int64) error {
		v := later{res: res, value: uint64(value)}
		if err := unix.Prlimit(0, res, nil, &v.old); err != nil {
			return err
		}
		v.value = min(v.value, v.old.Max)
		if err := unix.Prlimit(0, res, &unix.Rlimit{Cur: v.value, Max: v.old.Max}, nil); err != nil {
			return err
		}
		lowered = append(lowered, v)
		return nil
	}
	if l.MemoryBytes > 0 && !i.spec.CgroupMemory {
		if err := lower(unix.RLIMIT_DATA, l.MemoryBytes); err != nil {
			return nil, nil, err
		}
		report = append(report, fmt.Sprintf("memory %d: RLIMIT_DATA, of each process", l.MemoryBytes))
	}
	if l.PIDs > 0 && !i.spec.CgroupPIDs && !i.spec.CallerIsRoot {
		if err := lower(unix.RLIMIT_NPROC, l.PIDs+initThreads); err != nil {
			return nil, nil, err
		}
		report = append(report, fmt.Sprintf("processes %d: RLIMIT_NPROC", l.PIDs))
	}
	if l.FileBytes > 0 {
		if err := lower(unix.RLIMIT_FSIZE, l.FileBytes); err != nil {
			return nil, nil, err
		}
		report = append(report, fmt.Sprintf("file size %d: RLIMIT_FSIZE", l.FileBytes))
	}
	if l.CPUs > 0 {
		// The affinity of this thread, which the command inherits.
		var have, want unix.CPUSet
		if err := unix.SchedGetaffinity(0, &have); err != nil {
			return nil, nil, err
		}
		n := 0
		for c := 0; c < len(have)*64 && n < l.CPUs; c++ {
			if have.IsSet(c) {
				want.Set(c)
				n++
			}
		}
		if err := unix.SchedSetaffinity(0, &want); err != nil {
			return nil, nil, err
		}
		report = append(report, fmt.Sprintf("processors %d: affinity", n))
	}
	return func(pid int) {
		for _, v := range lowered {
			_ = unix.Prlimit(pid, v.res, &unix.Rlimit{Cur: v.value, Max: v.value}, nil)
			_ = unix.Prlimit(0, v.res, &v.old, nil)
		}
	}, report, nil
}
