// Command tiny stands for every program of the test archive. As sh it runs the lines of
// its script: the commands below, or programs. As anything else it does nothing.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	if base := filepath.Base(os.Args[0]); base != "sh" && base != "dash" || len(os.Args) < 2 {
		return
	}
	script := os.Args[len(os.Args)-1]
	if !strings.HasPrefix(os.Args[1], "-") { // a script's file
		b, err := os.ReadFile(os.Args[1])
		check(err)
		_, script, _ = strings.Cut(string(b), "\n")
	}
	for line := range strings.Lines(script) {
		if w := strings.Fields(line); len(w) > 0 {
			run(w)
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "tiny:", err)
		os.Exit(1)
	}
}

func run(w []string) {
	for len(w) > 0 && strings.Contains(w[0], "=") && !strings.HasPrefix(w[0], "/") {
		w = w[1:]
	}
	if len(w) == 0 {
		return
	}
	switch w[0] {
	case "set", "dpkg", "true", "#":
	case "write": // PATH TEXT...
		check(os.MkdirAll(filepath.Dir(w[1]), 0o755))
		check(os.WriteFile(w[1], []byte(strings.Join(w[2:], " ")+"\n"), 0o644))
	case "program": // PATH TEXT...
		check(os.WriteFile(w[1], []byte(strings.Join(w[2:], " ")+"\n"), 0o755))
		check(os.Chmod(w[1], 0o755))
	case "copy":
		b, err := os.ReadFile(w[1])
		check(err)
		check(os.MkdirAll(filepath.Dir(w[2]), 0o755))
		check(os.WriteFile(w[2], b, 0o644))
	case "link":
		check(os.MkdirAll(filepath.Dir(w[2]), 0o755))
		check(os.Symlink(w[1], w[2]))
	case "mkdir":
		check(os.MkdirAll(w[1], 0o755))
	case "remove":
		check(os.RemoveAll(w[1]))
	case "pipe":
		check(syscall.Mkfifo(w[1], 0o644))
	case "time": // PATH: the clock, which no two runs share
		check(os.WriteFile(w[1], []byte(fmt.Sprintln(time.Now().UnixNano())), 0o644))
	case "mode": // PATH: permissions of its folder and of /
		a, err := os.Stat(filepath.Dir(w[1]))
		check(err)
		b, err := os.Stat("/")
		check(err)
		check(os.WriteFile(w[1], []byte(fmt.Sprintln(a.Mode(), b.Mode())), 0o644))
	case "say":
		fmt.Println(strings.Join(w[1:], " "))
	case "fail":
		fmt.Println(strings.Join(w[1:], " "))
		os.Exit(3)
	case "sleep":
		time.Sleep(time.Minute)
	case "net":
		_, err := net.DialTimeout("tcp", w[1], time.Second)
		fmt.Println("network:", err)
		if err == nil {
			os.Exit(1)
		}
	default:
		c := exec.Command(w[0], w[1:]...)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		check(c.Run())
	}
}
