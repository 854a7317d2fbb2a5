package sandbox

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// interpret runs a filter on one call, as the kernel would.
func interpret(t testing.TB, p bpf, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var data [64]byte
	binary.LittleEndian.PutUint32(data[0:], nr)
	binary.LittleEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[16+8*i:], a)
	}
	var a uint32
	for pc := 0; pc < len(p); pc++ {
		in := p[pc]
		branch := func(taken bool) {
			if taken {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = binary.LittleEndian.Uint32(data[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			branch(a == in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			branch(a >= in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			branch(a&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, in.Code)
		}
	}
	t.Fatal("the filter ran off its end")
	return 0
}

func TestFilter(t *testing.T) {
	const allow, ask = uint32(unix.SECCOMP_RET_ALLOW), uint32(unix.SECCOMP_RET_USER_NOTIF)
	plain, fake, fast := buildFilter(filterOptions{}), buildFilter(filterOptions{fakeOwners: true}), buildFilter(filterOptions{noSync: true})
	for _, c := range []struct {
		name string
		p    bpf
		nr   uintptr
		args []uint64
		want uint32
	}{
		{"read", plain, unix.SYS_READ, nil, allow},
		{"reboot", plain, unix.SYS_REBOOT, nil, errno(unix.EPERM)},
		{"clone3", plain, unix.SYS_CLONE3, nil, errno(unix.ENOSYS)},
		{"clone of a thread", plain, unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND}, allow},
		{"clone of a namespace", plain, unix.SYS_CLONE, []uint64{unix.CLONE_NEWNET | 17}, errno(unix.EPERM)},
		{"unshare of files", plain, unix.SYS_UNSHARE, []uint64{unix.CLONE_FILES | unix.CLONE_FS}, allow},
		{"unshare of time", plain, unix.SYS_UNSHARE, []uint64{unix.CLONE_NEWTIME}, errno(unix.EPERM)},
		{"inet socket", plain, unix.SYS_SOCKET, []uint64{unix.AF_INET, 1}, allow},
		{"netlink socket", plain, unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, 3}, allow},
		{"vsock", plain, unix.SYS_SOCKET, []uint64{unix.AF_VSOCK, 1}, errno(unix.EAFNOSUPPORT)},
		{"winsize", plain, unix.SYS_IOCTL, []uint64{0, unix.TIOCGWINSZ}, allow},
		{"tiocsti", plain, unix.SYS_IOCTL, []uint64{0, unix.TIOCSTI | 1<<40}, errno(unix.EPERM)},
		{"persona of gdb", plain, unix.SYS_PERSONALITY, []uint64{addrNoRandomize}, allow},
		{"mapping page zero", plain, unix.SYS_PERSONALITY, []uint64{0x100000}, errno(unix.EPERM)},
		{"fifo", plain, unix.SYS_MKNODAT, []uint64{0, 0, unix.S_IFIFO | 0o644}, allow},
		{"plain file by mknod", plain, unix.SYS_MKNODAT, []uint64{0, 0, 0o644}, allow},
		{"whiteout", plain, unix.SYS_MKNODAT, []uint64{0, 0, unix.S_IFCHR, 0}, errno(unix.EPERM)},
		{"getgroups", plain, unix.SYS_GETGROUPS, nil, ask},
		{"chown", plain, unix.SYS_FCHOWNAT, nil, allow},
		{"faked chown", fake, unix.SYS_FCHOWNAT, nil, ask},
		{"faked fchown", fake, unix.SYS_FCHOWN, nil, ask},
		{"setuid", plain, unix.SYS_SETUID, nil, allow},
		{"faked setuid", fake, unix.SYS_SETUID, nil, errno(0)},
		{"ptrace", plain, unix.SYS_PTRACE, nil, allow},
		{"fsync", plain, unix.SYS_FSYNC, nil, allow},
		{"faked fsync", fast, unix.SYS_FSYNC, nil, errno(0)},
	} {
		if got := interpret(t, c.p, auditArch, uint32(c.nr), c.args...); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	for _, r := range slices.Concat(alwaysRefused, archRefused) {
		if got := interpret(t, plain, auditArch, uint32(r.nr)); got != errno(r.errno) {
			t.Errorf("call %d: %#x", r.nr, got)
		}
	}
	if got := interpret(t, plain, unix.AUDIT_ARCH_I386, unix.SYS_READ); got != errno(unix.ENOSYS) {
		t.Errorf("a call of another architecture: %#x", got)
	}
	if len(fake) > 4096 {
		t.Errorf("%d instructions", len(fake))
	}
}

func TestOwnerRecord(t *testing.T) {
	for _, v := range []string{"", ":", "1", "1:", ":1", "01:1", "1:1 ", "-1:0", "+1:1", "4294967295:0", "0:4294967295", "4294967296:1", "1:2:3", "1:2\n"} {
		if u, g, err := ParseOwner([]byte(v)); err == nil {
			t.Errorf("%q was taken for %d:%d", v, u, g)
		}
	}
	if u, g, err := ParseOwner(FormatOwner(4294967294, 7)); err != nil || u != 4294967294 || g != 7 {
		t.Error(u, g, err)
	}
}

func FuzzParseOwner(f *testing.F) {
	f.Add([]byte("0:0"))
	f.Add([]byte("65534:100"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, g, err := ParseOwner(b); err == nil && string(FormatOwner(u, g)) != string(b) {
			t.Errorf("%q has two spellings", b)
		}
	})
}

func FuzzCapability(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x03\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xe8\x03\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := capabilityV2(b)
		if err == nil && (len(v) != 20 || v[3] != 2) {
			t.Errorf("%x became %x", b, v)
		}
	})
}

// Whatever links a tree holds, a target is resolved inside it.
func FuzzResolve(f *testing.F) {
	f.Add("/a/b/c", "../..", "/etc", "b/../../a")
	f.Add("/a/../a/x", "a", "/", "..")
	f.Fuzz(func(t *testing.T, target, one, two, three string) {
		dir := t.TempDir()
		if os.Mkdir(filepath.Join(dir, "a"), 0o755) != nil {
			t.Skip()
		}
		_ = os.Symlink(one, filepath.Join(dir, "l"))
		_ = os.Symlink(two, filepath.Join(dir, "a/b"))
		_ = os.Symlink(three, filepath.Join(dir, "a/c"))
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		p, exists, _, err := resolveIn(fd, target)
		if err != nil {
			return
		}
		if !filepath.IsAbs(p) || slices.Contains(strings.Split(p, "/"), "..") {
			t.Fatalf("%q resolved to %q", target, p)
		}
		if !exists {
			return
		}
		// The kernel, which cannot be talked out of the folder, agrees.
		k, err := openIn(fd, target)
		if err != nil {
			if !strings.Contains(target, "//") && !strings.HasSuffix(target, "/") {
				t.Logf("kernel: %v", err)
			}
			return
		}
		defer unix.Close(k)
		m, err := openIn(fd, p)
		if err != nil {
			t.Fatalf("%q resolved to %q: %v", target, p, err)
		}
		defer unix.Close(m)
		a, _ := identity(k)
		b, _ := identity(m)
		if a != b {
			t.Errorf("%q resolved to %q, which is another file", target, p)
		}
	})
}

func TestDoctor(t *testing.T) {
	dir := tempDir(t)
	found := map[string]Finding{}
	for _, f := range Doctor(t.Context(), filepath.Join(dir, "not/made/yet")) {
		t.Logf("%-40s %v %s %s", f.Name, f.OK, f.Detail, f.Remedy)
		found[f.Name] = f
		if !f.OK && f.Remedy == "" {
			t.Errorf("%s: no remedy", f.Name)
		}
		if f.Needed && !f.OK {
			t.Errorf("%s: %s", f.Name, f.Detail) // the other tests would have failed too
		}
	}
	if len(found) < 12 {
		t.Errorf("%d findings", len(found))
	}
	if e, _ := os.ReadDir(dir); len(e) != 0 {
		t.Errorf("left behind: %v", e)
	}
}

// A delegated hierarchy as plain files: what is read and written where. That
// the kernel obeys is its own business.
func TestCgroup(t *testing.T) {
	mount := tempDir(t)
	user := filepath.Join(mount, "user.slice", "app.slice")
	own := filepath.Join(user, "term.scope")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	for f, v := range map[string]string{
		filepath.Join(mount, "cgroup.subtree_control"): "cpu memory pids\n",
		filepath.Join(user, "cgroup.subtree_control"):  "memory pids\n",
		filepath.Join(user, "cgroup.procs"):            "",
		filepath.Join(own, "cgroup.subtree_control"):   "\n",
	} {
		if err := os.WriteFile(f, []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := Limits{MemoryBytes: 1 << 30, PIDs: 100}
	g := makeCgroup(mount, "/user.slice/app.slice/term.scope", l)
	if g == nil || filepath.Dir(g.path) != user {
		t.Fatalf("got %+v", g)
	}
	read := func(name string) string { b, _ := os.ReadFile(filepath.Join(g.path, name)); return string(b) }
	if read("memory.max") != "1073741824" || read("pids.max") != "132" || read("memory.swap.max") != "0" {
		t.Errorf("limits: %q %q %q", read("memory.max"), read("pids.max"), read("memory.swap.max"))
	}
	if !slices.Equal(g.report(), []string{"memory 1073741824: cgroup", "processes 100: cgroup"}) {
		t.Errorf("report: %q", g.report())
	}
	if err := os.WriteFile(filepath.Join(g.path, "memory.events"), []byte("low 0\noom 2\noom_kill 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var r Result
	if g.read(&r); !r.OOMKill {
		t.Error("the kill was not seen")
	}
	if mount, own := ownCgroup("/proc/self/mountinfo", "/proc/self/cgroup"); mount != "" && (!filepath.IsAbs(mount) || !filepath.IsAbs(own)) {
		t.Errorf("own group: %q %q", mount, own)
	}
}
