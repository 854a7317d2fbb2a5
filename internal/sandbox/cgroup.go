package sandbox

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cgroup is a control group of version 2 made for one run. Version 1 is not
// supported: its hierarchies cannot be delegated safely.
type cgroup struct {
	path         string
	dir          *os.File
	memory, pids bool
	limits       Limits
}

// newCgroup makes a group below the nearest ancestor that was delegated to the
// caller and has the needed controllers, or returns nil: then the limits fall
// to resource limits. A limit that cannot be had is reported, not fatal.
func newCgroup(l Limits) *cgroup {
	if l.MemoryBytes <= 0 && l.PIDs <= 0 {
		return nil
	}
	mount, own := ownCgroup("/proc/self/mountinfo", "/proc/self/cgroup")
	if mount == "" {
		return nil
	}
	return makeCgroup(mount, own, l)
}

// makeCgroup tries the group own and its ancestors up to the mount point.
func makeCgroup(mount, own string, l Limits) *cgroup {
	var want []string
	if l.MemoryBytes > 0 {
		want = append(want, "memory")
	}
	if l.PIDs > 0 {
		want = append(want, "pids")
	}
	for at := filepath.Join(mount, own); strings.HasPrefix(at, mount); at = filepath.Dir(at) {
		b, err := os.ReadFile(filepath.Join(at, "cgroup.subtree_control"))
		if err != nil {
			continue
		}
		have := strings.Fields(string(b))
		if !slices.ContainsFunc(want, func(w string) bool { return slices.Contains(have, w) }) {
			continue // no process may live in a group that hands controllers on, so none can be turned on here
		}
		p, err := os.MkdirTemp(at, "twinhull-")
		if err != nil {
			continue // not delegated
		}
		g := &cgroup{path: p, limits: l}
		set := func(name, value string) bool {
			return os.WriteFile(filepath.Join(p, name), []byte(value), 0o644) == nil
		}
		if l.MemoryBytes > 0 && set("memory.max", strconv.FormatInt(l.MemoryBytes, 10)) {
			g.memory = true
			set("memory.swap.max", "0")
			set("memory.oom.group", "0")
		}
		if l.PIDs > 0 {
			// Process 1 and its threads count too.
			g.pids = set("pids.max", strconv.FormatInt(l.PIDs+initThreads, 10))
		}
		// Moving a process in needs the right to write to the common ancestor:
		// without it clone into the group fails with EACCES.
		if !g.memory && !g.pids || !writable(filepath.Join(commonAncestor(at, filepath.Join(mount, own)), "cgroup.procs")) {
			os.Remove(p)
			continue
		}
		if g.dir, err = os.Open(p); err != nil {
			os.Remove(p)
			continue
		}
		return g
	}
	return nil
}

// initThreads is how many tasks process 1 may need for itself.
const initThreads = 32

func writable(name string) bool {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// commonAncestor is the deepest folder that is above both, or one of them.
func commonAncestor(a, b string) string {
	for !(b == a || strings.HasPrefix(b, a+"/")) {
		a = filepath.Dir(a)
	}
	return a
}

// ownCgroup returns where version 2 is mounted and this process's path in it.
func ownCgroup(mountinfo, self string) (mount, own string) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return "", ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		pre, post, ok := strings.Cut(sc.Text(), " - ")
		if fields := strings.Fields(pre); ok && strings.HasPrefix(post, "cgroup2 ") && len(fields) > 4 {
			mount = fields[4]
			break
		}
	}
	b, err := os.ReadFile(self)
	if err != nil || mount == "" {
		return "", ""
	}
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::/"); ok && !strings.HasPrefix(p, "../") {
			return mount, "/" + p
		}
	}
	return "", ""
}

func (g *cgroup) report() []string {
	var out []string
	if g == nil {
		return nil
	}
	if g.memory {
		out = append(out, fmt.Sprintf("memory %d: cgroup", g.limits.MemoryBytes))
	}
	if g.pids {
		out = append(out, fmt.Sprintf("processes %d: cgroup", g.limits.PIDs))
	}
	return out
}

// read takes what the group counted into the result.
func (g *cgroup) read(r *Result) {
	b, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok && n != "0" {
			r.OOMKill = true
		}
	}
}

// remove deletes the group. Its processes are dead, but the kernel may need a
// moment to notice.
func (g *cgroup) remove() {
	g.dir.Close()
	for range 50 {
		if err := os.Remove(g.path); err == nil || os.IsNotExist(err) {
			return
		} else if _, ok := err.(*fs.PathError); !ok {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// unenforced says which limits the machine gives no means for.
func unenforced(l Limits, is *initSpec) []string {
	if l.PIDs > 0 && !is.CgroupPIDs && is.CallerIsRoot {
		return []string{fmt.Sprintf("processes %d: NOT enforced: no cgroup is delegated, and the kernel exempts root from RLIMIT_NPROC", l.PIDs)}
	}
	return nil
}
