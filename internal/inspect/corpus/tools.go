package corpus

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// ErrNoTool is matched when a real program cannot be had here.
var ErrNoTool = errors.New("not to be had on this machine")

// packages are the Debian packages of tools, and where the tool lies in them.
var packages = map[string]struct{ name, path string }{
	"bash": {"bash", "bash"}, "dash": {"dash", "dash"}, "zsh": {"zsh", "zsh"}, "mksh-static": {"mksh", "x86_64-linux-musl/bin/mksh"}, "fish": {"fish", "fish"}, "tcsh": {"tcsh", "tcsh"}, "yash": {"yash", "yash"}, "ksh": {"ksh93u+m", "ksh93"}, "toybox": {"toybox", "toybox"}, "busybox-static": {"busybox-static", "busybox"},
	"apt-get": {"apt", "apt-get"}, "dpkg": {"dpkg", "dpkg"}, "rpm": {"rpm", "rpm"},
	"gcc": {"gcc-12", "x86_64-linux-gnu-gcc-12"}, "as": {"binutils-x86-64-linux-gnu", "x86_64-linux-gnu-as"}, "ld": {"binutils-x86-64-linux-gnu", "x86_64-linux-gnu-ld.bfd"}, "tcc": {"tcc", "tcc"}, "make": {"make", "make"}, "ninja": {"ninja-build", "ninja"},
	"gdb": {"gdb", "gdb"}, "gdbserver": {"gdbserver", "gdbserver"}, "strace": {"strace", "strace"}, "ltrace": {"ltrace", "ltrace"}, "valgrind": {"valgrind", "valgrind.bin"}, "rr": {"rr", "rr"}, "bpftrace": {"bpftrace", "bpftrace"},
	"curl": {"curl", "curl"}, "wget": {"wget", "wget"}, "nc": {"netcat-openbsd", "nc.openbsd"}, "socat": {"socat", "socat"}, "ssh": {"openssh-client", "ssh"}, "dig": {"bind9-dnsutils", "dig"}, "tcpdump": {"tcpdump", "tcpdump"}, "git": {"git", "git"}, "rsync": {"rsync", "rsync"}, "telnet": {"inetutils-telnet", "inetutils-telnet"}, "ncat": {"ncat", "ncat"}, "nmap": {"nmap", "nmap"},
	"vim": {"vim-tiny", "vim.tiny"}, "nano": {"nano", "nano"}, "ed": {"ed", "ed"},
	"perl": {"perl-base", "perl"}, "mawk": {"mawk", "mawk"}, "gawk": {"gawk", "gawk"}, "lua": {"lua5.4", "lua5.4"}, "python": {"python3.11-minimal", "python3.11"}, "php": {"php8.2-cli", "php8.2"}, "nginx": {"nginx", "nginx"}, "redis": {"redis-server", "redis-check-rdb"},
}

// Tools finds real programs: this machine's own, else from its Debian archive
// by apt-get, which needs no root to download. The zero value is not ready.
type Tools struct {
	dir  string
	mu   sync.Mutex
	have map[string][]byte
	fail map[string]error
}

// NewTools returns Tools that keep what they download in dir.
func NewTools(dir string) *Tools {
	return &Tools{dir: dir, have: map[string][]byte{}, fail: map[string]error{}}
}

// Dir is the folder of what was downloaded.
func (t *Tools) Dir() string { return t.dir }

// Unlinked returns a program of the table above as Unlinked makes it.
func (t *Tools) Unlinked(name string) ([]byte, error) {
	b, err := t.Program(name)
	return Unlinked(b), err
}

// Program returns the bytes of a program of the table above.
func (t *Tools) Program(name string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b, ok := t.have[name]; ok {
		return b, nil
	}
	if err, ok := t.fail[name]; ok {
		return nil, err
	}
	b, err := t.program(name)
	if err != nil {
		err = fmt.Errorf("%s: %w (%v)", name, ErrNoTool, err)
		t.fail[name] = err
		return nil, err
	}
	t.have[name] = b
	return b, nil
}

func (t *Tools) program(name string) ([]byte, error) {
	if runtime.GOARCH != "amd64" {
		return nil, errors.New("the corpus is for amd64")
	}
	p, ok := packages[name]
	if !ok {
		return nil, errors.New("no tool of the corpus")
	}
	// The machine's own, when it is an ELF file and not something else behind
	// that name.
	if !strings.Contains(p.path, "/") && !strings.HasSuffix(name, "-static") {
		for _, try := range []string{p.path, name} {
			file, err := exec.LookPath(try)
			if err != nil {
				continue
			}
			if file, err = filepath.EvalSymlinks(file); err != nil {
				continue
			}
			b, err := os.ReadFile(file)
			if err == nil && bytes.HasPrefix(b, []byte(elf.ELFMAG)) && !strings.HasPrefix(filepath.Base(file), "busybox") {
				return b, nil
			}
		}
	}
	return t.download(p.name, p.path)
}

// download takes a file out of a package of the machine's Debian archive.
func (t *Tools) download(pkg, suffix string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	found, _ := filepath.Glob(filepath.Join(t.dir, pkg+"_*.deb"))
	if len(found) == 0 {
		apt := exec.CommandContext(ctx, "apt-get", "-qq", "-o", "APT::Sandbox::User=", "download", pkg)
		apt.Dir = t.dir
		if out, err := apt.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("apt-get download: %w: %s", err, bytes.TrimSpace(out))
		}
		if found, _ = filepath.Glob(filepath.Join(t.dir, pkg+"_*.deb")); len(found) == 0 {
			return nil, errors.New("apt-get downloaded nothing")
		}
	}
	out, err := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", found[0]).Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-deb: %w", err)
	}
	r := tar.NewReader(bytes.NewReader(out))
	for {
		h, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("%s is not in package %s: %w", suffix, pkg, err)
		}
		if h.Typeflag == tar.TypeReg && strings.HasSuffix(path.Clean(h.Name), "/"+suffix) {
			b, err := io.ReadAll(r)
			if err != nil || bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
				return b, err
			}
			// Another file of that name: settings, a script of an init system.
		}
	}
}

// Closure returns a dynamic program of this machine with everything that the
// dynamic linker needs to start it, as files of an image.
func (t *Tools) Closure(program, name string) ([]File, error) {
	file, err := exec.LookPath(program)
	if err != nil || runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("%s: %w", program, ErrNoTool)
	}
	if file, err = filepath.EvalSymlinks(file); err != nil {
		return nil, err
	}
	return closure(file, nil, name)
}

// ProgramClosure does so for a program of the table above.
func (t *Tools) ProgramClosure(program, name string) ([]File, error) {
	b, err := t.Program(program)
	if err != nil {
		return nil, err
	}
	return closure(program, b, name)
}

// closure reads the program from file when body is nil.
func closure(file string, body []byte, name string) ([]File, error) {
	seen := map[string]bool{}
	var files []File
	var add func(from, to string) error
	add = func(from, to string) error {
		if seen[to] {
			return nil
		}
		seen[to] = true
		b := body
		body = nil
		if b == nil {
			var err error
			if b, err = os.ReadFile(from); err != nil {
				return fmt.Errorf("%s: %w: %v", from, ErrNoTool, err)
			}
		}
		files = append(files, File{Name: to, Mode: 0o755, Body: b})
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			return fmt.Errorf("%s: %w: %v", from, ErrNoTool, err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				i, _ := io.ReadAll(p.Open())
				interp := string(bytes.TrimRight(i, "\x00"))
				if err := add(interp, strings.TrimPrefix(interp, "/")); err != nil {
					return err
				}
			}
		}
		libs, _ := f.ImportedLibraries()
		own := map[string]string{} // of $ORIGIN: folder on this machine → in the image
		for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
			list, _ := f.DynString(tag)
			for _, dirs := range list {
				for dir := range strings.SplitSeq(dirs, ":") {
					if rest, ok := strings.CutPrefix(dir, "$ORIGIN"); ok {
						own[path.Join(path.Dir(from), rest)] = path.Join(path.Dir(to), rest)
					}
				}
			}
		}
		for _, lib := range libs {
			place := ""
			for here, there := range own {
				if _, err := os.Stat(here + "/" + lib); err == nil {
					if err := add(here+"/"+lib, there+"/"+lib); err != nil {
						return err
					}
					place = here
				}
			}
			if place != "" {
				continue
			}
			for _, dir := range []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
				if _, err := os.Stat(dir + "/" + lib); err == nil {
					place = dir
					break
				}
			}
			if place == "" {
				return fmt.Errorf("%s: %w", lib, ErrNoTool)
			}
			if err := add(place+"/"+lib, "usr/lib/x86_64-linux-gnu/"+lib); err != nil {
				return err
			}
		}
		return nil
	}
	return files, add(file, name)
}

// GoProgram builds a program of Go whose build information says that it is the
// given main package.
func (t *Tools) GoProgram(mainPackage string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := "go:" + mainPackage
	if b, ok := t.have[key]; ok {
		return b, nil
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		return nil, fmt.Errorf("go: %w", ErrNoTool)
	}
	dir, err := os.MkdirTemp(t.dir, "go-")
	if err != nil {
		return nil, err
	}
	for name, text := range map[string]string{"go.mod": "module " + mainPackage + "\n\ngo 1.20\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(tool, "build", "-trimpath", "-o", "out", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=linux", "GOARCH=amd64", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w (%v: %s)", ErrNoTool, err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "out"))
	if err == nil {
		t.have[key] = b
	}
	return b, err
}
