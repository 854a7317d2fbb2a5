package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// source is a mount prepared before anything of the host is covered.
type source struct {
	fd  int // detached mount, -1 for an overlay (made in place)
	dir bool
}

// mounts builds the tree of the sandbox and makes it this process's root.
//
// The order matters. Sources are opened first, because the new root is mounted
// over a folder of the host and could cover them. The old tree is made
// read-only as a whole before it is detached, so that a descriptor or a
// program file that still leads there cannot be written through.
func (i *initProcess) mounts() error {
	s := &i.spec
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return stage("making the mounts private", err)
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return stage("opening /dev/null", err)
	}
	i.null = null
	var sources []source
	for _, m := range s.Mounts {
		src, err := m.open()
		if err != nil {
			return stage("opening the mount for "+m.Target, err)
		}
		sources = append(sources, src)
	}
	devices := map[string]int{}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/dev/"+name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return stage("opening /dev/"+name, err)
		}
		devices[name] = fd
	}

	var root int
	if s.Root != "" {
		root, err = i.bindRoot()
	} else {
		root, err = i.overlayRoot(sources)
	}
	if err != nil {
		return err
	}
	if err := i.proc(root); err != nil {
		return err
	}
	if err := i.dev(root, devices); err != nil {
		return err
	}
	for n, m := range s.Mounts {
		if err := i.place(root, m, sources[n]); err != nil {
			return stage("mounting "+m.Target, err)
		}
	}
	return i.pivot(root)
}

func (m *initMount) open() (source, error) {
	switch {
	case m.Tmpfs:
		mode := m.Mode
		if mode == 0 {
			mode = 0o755
		}
		fd, err := newTmpfs(mode, m.SizeBytes, m.attrs())
		return source{fd, true}, err
	case len(m.Lower) > 0:
		fd, err := overlayFS(m.Lower, m.Upper, m.Work)
		if err == nil {
			err = setAttrs(fd, m.attrs(), false)
		}
		return source{fd, true}, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return source{}, fmt.Errorf("%s: %w", m.Source, err)
	}
	if err := setAttrs(fd, m.attrs(), true); err != nil {
		return source{}, fmt.Errorf("%s: %w", m.Source, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return source{}, err
	}
	return source{fd, st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

func (m *initMount) attrs() int {
	a := unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID
	if m.ReadOnly {
		a |= unix.MOUNT_ATTR_RDONLY
	}
	if m.NoExec {
		a |= unix.MOUNT_ATTR_NOEXEC
	}
	return a
}

func setAttrs(fd, attrs int, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: uint64(attrs)})
}

func newTmpfs(mode uint32, size int64, attrs int) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", fmt.Sprintf("%o", mode)); err != nil {
		return -1, err
	}
	if size > 0 {
		if err := unix.FsconfigSetString(fs, "size", strconv.FormatInt(size, 10)); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
}

// overlayFS makes an overlay and returns it as a detached mount. Folders are
// named by descriptor: no character of a path can then be mistaken for option
// syntax, any number of layers fits the page that the kernel allows, and
// /proc/mounts inside shows no path of the host.
func overlayFS(lower []string, upper, work string) (int, error) {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	open := func(p string) (string, error) {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("%s: %w", p, err)
		}
		fds = append(fds, fd)
		return fdPath(fd), nil
	}
	var names []string
	for _, l := range lower {
		n, err := open(l)
		if err != nil {
			return -1, err
		}
		names = append(names, n)
	}
	// userxattr: overlay's own marks as user.overlay.*, the only ones that a
	// user namespace may write. index, metacopy and redirect_dir are set so
	// that the result does not hang on the kernel's build; without redirects a
	// rename of a lower folder answers EXDEV and programs copy.
	opts := "userxattr,index=off,xino=auto,lowerdir=" + strings.Join(names, ":")
	if upper != "" {
		u, err := open(upper)
		if err != nil {
			return -1, err
		}
		w, err := open(work)
		if err != nil {
			return -1, err
		}
		// volatile: no synchronisation of Upper; the work folder is new each
		// time, so the mark that a crash leaves there stands in nobody's way.
		opts += ",upperdir=" + u + ",workdir=" + w + ",volatile"
	}
	if len(opts) >= os.Getpagesize() {
		return -1, fmt.Errorf("%d layers are too many for one overlay", len(lower))
	}
	// mount(2) and not fsconfig(2), whose values end at 256 bytes. It needs a
	// place: the lowest layer's folder, from which the mount is lifted at once.
	at := lower[len(lower)-1]
	if err := unix.Mount("overlay", at, "overlay", unix.MS_NODEV, opts); err != nil {
		return -1, overlayProblem(err, upper)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		return -1, err
	}
	return fd, nil
}

func overlayProblem(err error, upper string) error {
	e := &stageError{stage: "mounting the overlay", err: err}
	var st unix.Statfs_t
	kind := ""
	if upper != "" && unix.Statfs(upper, &st) == nil {
		switch st.Type {
		case unix.OVERLAYFS_SUPER_MAGIC:
			kind = "it is on an overlay itself, as in a container's own file system"
		case unix.NFS_SUPER_MAGIC:
			kind = "it is on NFS"
		case unix.TMPFS_MAGIC:
			kind = "it is on a tmpfs, which holds user xattrs from Linux 6.6 on only"
		case unix.FUSE_SUPER_MAGIC:
			kind = "it is on FUSE"
		}
	}
	switch {
	case kind != "":
		e.remedy = upper + " cannot be the upper folder: " + kind + "; put the cache (--cache-dir) on ext4, xfs or btrfs, in a container on a volume"
	case errors.Is(err, unix.EPERM):
		e.remedy = "overlay in a user namespace needs Linux 5.11; see twinhull doctor"
	case errors.Is(err, unix.ENODEV):
		e.remedy = "the kernel has no overlay file system: as root, modprobe overlay"
	}
	return e
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// bindRoot mounts Root over itself.
func (i *initProcess) bindRoot() (int, error) {
	s := &i.spec
	fd, err := unix.OpenTree(unix.AT_FDCWD, s.Root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, stage("opening the root folder", err)
	}
	attrs := unix.MOUNT_ATTR_NODEV
	if err := attach(fd, unix.AT_FDCWD, s.Root); err != nil {
		return -1, stage("mounting the root folder", err)
	}
	for _, t := range i.targets() {
		if err := i.makeTarget(fd, t.path, t.dir, true); err != nil {
			return -1, stage("making the mount target "+t.path, err)
		}
	}
	if s.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if err := setAttrs(fd, attrs, true); err != nil {
		return -1, stage("mounting the root folder", err)
	}
	return fd, nil
}

func attach(mnt, dir int, target string) error {
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH
	if target == "" {
		flags |= unix.MOVE_MOUNT_T_EMPTY_PATH
	}
	return unix.MoveMount(mnt, "", dir, target, flags)
}

type target struct {
	path string
	dir  bool
}

// targets lists what must exist in the root's own tree: the sandbox's folders
// and the targets of mounts that are not inside another mount.
func (i *initProcess) targets() []target {
	t := []target{{"/proc", true}, {"/dev", true}}
	for _, m := range i.spec.Mounts {
		inside := strings.HasPrefix(m.Target, "/dev/")
		for _, o := range i.spec.Mounts {
			if strings.HasPrefix(m.Target, o.Target+"/") {
				inside = true
			}
		}
		if inside {
			continue
		}
		dir := true
		if m.Source != "" {
			var st unix.Stat_t
			dir = unix.Stat(m.Source, &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR
		}
		t = append(t, target{m.Target, dir})
	}
	return t
}

// overlayRoot mounts the layers. Targets that they lack come from a skeleton,
// the lowest layer of all: a folder in which only those targets exist. So a
// missing /work neither appears in Upper nor changes the mode of an existing
// parent, and vanishes with the run.
func (i *initProcess) overlayRoot([]source) (int, error) {
	s := &i.spec
	at := s.Lower[0]
	view := append([]string(nil), s.Lower...)
	if s.Upper != "" {
		view = append([]string{s.Upper}, view...)
	}
	var fd int
	var err error
	if len(view) == 1 {
		fd, err = unix.Open(view[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	} else {
		fd, err = overlayFS(view, "", "")
	}
	if err != nil {
		return -1, stage("mounting the overlay", err)
	}
	missing, err := missingTargets(fd, i.targets())
	unix.Close(fd)
	if err != nil {
		return -1, err
	}
	layers := s.Lower
	if len(missing) > 0 || s.Upper == "" && len(layers) == 1 {
		skeleton, err := i.skeleton(missing)
		if err != nil {
			return -1, stage("making mount targets", err)
		}
		layers = append(append([]string(nil), layers...), skeleton)
	}
	work := ""
	if s.Upper != "" {
		work = filepath.Join(s.Work, "work")
	}
	fd, err = overlayFS(layers, s.Upper, work)
	if err != nil {
		return -1, stage("mounting the overlay", err)
	}
	if err := attach(fd, unix.AT_FDCWD, at); err != nil {
		return -1, stage("mounting the overlay", err)
	}
	attrs := unix.MOUNT_ATTR_NODEV
	if s.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if err := setAttrs(fd, attrs, false); err != nil {
		return -1, stage("mounting the overlay", err)
	}
	return fd, nil
}

// skeleton makes the missing targets in the scratch folder, or on a tmpfs when
// there is none.
func (i *initProcess) skeleton(missing []target) (string, error) {
	dir := filepath.Join(i.spec.Work, "skeleton")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, t := range missing {
		p := filepath.Join(dir, t.path)
		parent := p
		if !t.dir {
			parent = filepath.Dir(p)
		}
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return "", err
		}
		if !t.dir {
			f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return "", err
			}
			f.Close()
		}
	}
	return dir, nil
}

// missingTargets follows each target inside the tree at root, symbolic links
// included, and returns those that do not exist, by the path that they have
// once links are resolved.
func missingTargets(root int, targets []target) ([]target, error) {
	var missing []target
	for _, t := range targets {
		p, exists, dir, err := resolveIn(root, t.path)
		if err != nil {
			return nil, stage("mount target "+t.path, err)
		}
		if !exists {
			missing = append(missing, target{p, t.dir})
		} else if dir != t.dir {
			return nil, stage("mount target "+t.path, fmt.Errorf("a folder and a file cannot be mounted on each other"))
		}
	}
	return missing, nil
}

// resolveIn resolves an absolute path inside the tree at root, where ".." and
// absolute links end at root. The last component is followed too.
func resolveIn(root int, name string) (resolved string, exists, dir bool, err error) {
	rest := strings.Split(strings.Trim(name, "/"), "/")
	cur := "/"
	gone, isDir := false, true
	for links := 0; len(rest) > 0; {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			cur, gone, isDir = path.Dir(cur), false, true
			continue
		}
		next := path.Join(cur, c)
		if gone {
			cur = next
			continue
		}
		var st unix.Stat_t
		err := unix.Fstatat(root, "."+next, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			cur, gone = next, true
			continue
		}
		if err != nil {
			return "", false, false, fmt.Errorf("%s: %w", next, err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			if links++; links > 40 {
				return "", false, false, fmt.Errorf("%s: %w", next, unix.ELOOP)
			}
			b := make([]byte, 4096)
			n, err := unix.Readlinkat(root, "."+next, b)
			if err != nil {
				return "", false, false, err
			}
			to := string(b[:n])
			if path.IsAbs(to) {
				cur = "/"
			}
			rest = append(strings.Split(to, "/"), rest...)
			continue
		case unix.S_IFDIR:
			isDir = true
		default:
			isDir = false
			for _, r := range rest {
				if r != "" && r != "." {
					return "", false, false, fmt.Errorf("%s: %w", next, unix.ENOTDIR)
				}
			}
		}
		cur = next
	}
	return cur, !gone, isDir, nil
}

// makeTarget makes a missing target in a tree that is mounted already. In Root
// each made path is remembered, to be removed after the run.
func (i *initProcess) makeTarget(root int, name string, dir, remember bool) error {
	p, exists, isDir, err := resolveIn(root, name)
	if err != nil {
		return err
	}
	if exists {
		if isDir != dir {
			return errors.New("a folder and a file cannot be mounted on each other")
		}
		return nil
	}
	parts := strings.Split(strings.Trim(p, "/"), "/")
	cur := ""
	for n, c := range parts {
		parent, err := openIn(root, "/"+cur)
		if err != nil {
			return err
		}
		last := n == len(parts)-1
		if last && !dir {
			var fd int
			if fd, err = unix.Openat(parent, c, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o644); err == nil {
				unix.Close(fd)
			}
		} else {
			err = unix.Mkdirat(parent, c, 0o755)
		}
		unix.Close(parent)
		cur = path.Join(cur, c)
		if err == unix.EEXIST && !last {
			continue
		}
		if err != nil {
			return fmt.Errorf("/%s: %w", cur, err)
		}
		if remember {
			i.made = append(i.made, cur)
		}
	}
	return nil
}

// openIn opens a path below root as O_PATH; the kernel keeps it inside.
func openIn(root int, name string) (int, error) {
	return unix.Openat2(root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// place attaches one mount.
func (i *initProcess) place(root int, m initMount, src source) error {
	at, err := openIn(root, m.Target)
	if errors.Is(err, unix.ENOENT) {
		// Inside another mount. Making it there is harmless where the mount's
		// changes are thrown away or were asked for; a folder of the host is
		// not ours to add to.
		ok := strings.HasPrefix(m.Target, "/dev/")
		for _, o := range i.spec.Mounts {
			if strings.HasPrefix(m.Target, o.Target+"/") {
				ok = (o.Tmpfs || len(o.Lower) > 0) && !o.ReadOnly
			}
		}
		if !ok {
			return fmt.Errorf("the target does not exist in what is mounted around it: %w", err)
		}
		if err := i.makeTarget(root, m.Target, src.dir, false); err != nil {
			return err
		}
		at, err = openIn(root, m.Target)
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	defer unix.Close(src.fd)
	return attach(src.fd, at, "")
}

// maskedFiles and maskedFolders of /proc tell about, or reach into, the whole
// machine; readOnlyProc is where a write would change it.
var (
	maskedFiles   = []string{"kcore", "keys", "key-users", "timer_list", "sched_debug", "latency_stats", "kmsg", "kpagecount", "kpageflags", "kpagecgroup", "sysrq-trigger", "kallsyms", "cmdline", "vmallocinfo", "slabinfo"}
	maskedFolders = []string{"acpi", "scsi", "firmware", "driver", "dynamic_debug"}
	readOnlyProc  = []string{"sys", "bus", "fs", "irq", "tty", "mtrr"}
)

func (i *initProcess) proc(root int) error {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return stage("mounting /proc", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return procProblem(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return procProblem(err)
	}
	at, err := openIn(root, "/proc")
	if err != nil {
		return stage("mounting /proc", err)
	}
	defer unix.Close(at)
	if err := attach(fd, at, ""); err != nil {
		return procProblem(err)
	}
	// Kept open past the masking: see fork.
	if f, err := unix.Openat(fd, "sys/kernel/ns_last_pid", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
		i.lastPID = os.NewFile(uintptr(f), "ns_last_pid")
	}
	mask := func(name string, open func() (int, error)) error {
		t, err := unix.Openat(fd, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err == unix.ENOENT {
			return nil // not in this kernel
		}
		if err != nil {
			return err
		}
		defer unix.Close(t)
		m, err := open()
		if err != nil {
			return err
		}
		defer unix.Close(m)
		return attach(m, t, "")
	}
	for _, name := range maskedFiles {
		err := mask(name, func() (int, error) {
			m, err := unix.OpenTree(unix.AT_FDCWD, "/dev/null", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err == nil {
				err = setAttrs(m, unix.MOUNT_ATTR_RDONLY, false)
			}
			return m, err
		})
		if err != nil {
			return stage("masking /proc/"+name, err)
		}
	}
	for _, name := range maskedFolders {
		err := mask(name, func() (int, error) {
			return newTmpfs(0o555, 4096, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
		})
		if err != nil {
			return stage("masking /proc/"+name, err)
		}
	}
	for _, name := range readOnlyProc {
		err := mask(name, func() (int, error) {
			m, err := unix.OpenTree(fd, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
			if err == nil {
				err = setAttrs(m, unix.MOUNT_ATTR_RDONLY, true)
			}
			return m, err
		})
		if err != nil {
			return stage("making /proc/"+name+" read-only", err)
		}
	}
	return nil
}

func procProblem(err error) error {
	e := &stageError{stage: "mounting /proc", err: err}
	if errors.Is(err, unix.EPERM) {
		e.remedy = "this process runs in a container whose own /proc is masked, and the kernel does not let a nested one see more; start the outer container with --security-opt systempaths=unconfined (docker) or --security-opt unmask=ALL (podman), procMount: Unmasked (Kubernetes)"
	}
	return e
}

// dev mounts a tmpfs with the few devices that every program expects. The
// folder itself is read-only: what a script leaves in /dev would be lost.
func (i *initProcess) dev(root int, devices map[string]int) error {
	fd, err := newTmpfs(0o755, 64<<10, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return stage("mounting /dev", err)
	}
	at, err := openIn(root, "/dev")
	if err != nil {
		return stage("mounting /dev", err)
	}
	defer unix.Close(at)
	if err := attach(fd, at, ""); err != nil {
		return stage("mounting /dev", err)
	}
	for name, d := range devices {
		f, err := unix.Openat(fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o666)
		if err != nil {
			return stage("making /dev/"+name, err)
		}
		unix.Close(f)
		t, err := unix.Openat(fd, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return stage("making /dev/"+name, err)
		}
		err = attach(d, t, "")
		unix.Close(t)
		unix.Close(d)
		if err != nil {
			return stage("making /dev/"+name, err)
		}
	}
	for _, l := range [][2]string{
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
	} {
		if err := unix.Symlinkat(l[0], fd, l[1]); err != nil {
			return stage("making /dev/"+l[1], err)
		}
	}
	for _, d := range []string{"pts", "shm"} {
		if err := unix.Mkdirat(fd, d, 0o755); err != nil {
			return stage("making /dev/"+d, err)
		}
	}
	pts, err := devpts()
	if err != nil {
		return stage("mounting /dev/pts", err)
	}
	defer unix.Close(pts)
	if err := attach(pts, fd, "pts"); err != nil {
		return stage("mounting /dev/pts", err)
	}
	shm, err := newTmpfs(0o1777, 0, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return stage("mounting /dev/shm", err)
	}
	defer unix.Close(shm)
	if err := attach(shm, fd, "shm"); err != nil {
		return stage("mounting /dev/shm", err)
	}
	return stage("mounting /dev", setAttrs(fd, unix.MOUNT_ATTR_RDONLY, false))
}

func devpts() (int, error) {
	fs, err := unix.Fsopen("devpts", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	// No gid=5: that group is not mapped here.
	for _, o := range [][2]string{{"ptmxmode", "0666"}, {"mode", "0620"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigSetFlag(fs, "newinstance"); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
}

// pivot makes root the root and lets the old tree go.
func (i *initProcess) pivot(root int) error {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return stage("opening the old root", err)
	}
	defer unix.Close(old)
	defer unix.Close(root)
	if err := unix.Fchdir(root); err != nil {
		return stage("entering the tree", err)
	}
	// The old root ends up on top of the new one, and is peeled off: no folder
	// for it is needed inside.
	if err := unix.PivotRoot(".", "."); err != nil {
		e := &stageError{stage: "changing the root", err: err}
		if errors.Is(err, unix.EINVAL) {
			e.remedy = "this machine's root is an initial ram file system, which cannot be left; run in a container or chroot-free system with a real root"
		}
		return e
	}
	if err := unix.Fchdir(old); err != nil {
		return stage("changing the root", err)
	}
	if err := setAttrs(old, unix.MOUNT_ATTR_RDONLY, true); err != nil {
		return stage("making the old tree read-only", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return stage("detaching the old tree", err)
	}
	return stage("entering the tree", unix.Chdir("/"))
}
