package progress

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// screen is a terminal that knows the two sequences that bars use.
type screen struct {
	mu    sync.Mutex
	lines []string // the last one is being written
	row   int
	raw   bytes.Buffer
}

var up = regexp.MustCompile(`^\x1b\[(\d+)A`)

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw.Write(p)
	rest := string(p)
	for rest != "" {
		if s.lines == nil {
			s.lines = []string{""}
		}
		if m := up.FindStringSubmatch(rest); m != nil {
			var n int
			fmt.Sscan(m[1], &n)
			s.row -= n
			rest = rest[len(m[0]):]
			continue
		}
		if after, ok := strings.CutPrefix(rest, "\x1b[J"); ok {
			s.lines = append(s.lines[:s.row], "")
			rest = after
			continue
		}
		switch rest[0] {
		case '\n':
			s.row++
			if s.row == len(s.lines) {
				s.lines = append(s.lines, "")
			}
		case '\r':
		default:
			s.lines[s.row] += rest[:1]
		}
		rest = rest[1:]
	}
	return len(p), nil
}

func (s *screen) text() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lines...)
}

func fixedClock() time.Time { return time.Unix(1000, 0) }

func size80() (int, int) { return 80, 24 }

func TestBarsAndLinesDoNotMix(t *testing.T) {
	s := &screen{}
	b := newBars(s, size80, fixedClock, time.Hour)
	one := b.Task("fetch index", 1000)
	two := b.Task("unpack", 0)
	b.Printf("warning: %s", "first")
	one.Add(500)
	b.Printf("second\nthird\n")
	two.Add(10)
	want := []string{
		"warning: first", "second", "third",
		"fetch index               [##########----------] 50 % of 1.0 kB",
		"unpack                    10 B",
		"",
	}
	b.mu.Lock()
	b.redraw("")
	b.mu.Unlock()
	if d := cmp.Diff(want, s.text()); d != "" {
		t.Errorf("screen (-want +got):\n%s", d)
	}
	one.Done(nil)
	two.Done(errors.New("no room\nmore"))
	two.Done(nil)
	want = []string{"warning: first", "second", "third", "fetch index: 500 B in 0.0 s", "unpack: failed after 0.0 s: no room", ""}
	if d := cmp.Diff(want, s.text()); d != "" {
		t.Errorf("screen at the end (-want +got):\n%s", d)
	}
}

func TestBarsFitTheTerminal(t *testing.T) {
	for _, width := range []int{1, 2, 10, 20, 59, 60, 200} {
		s := &screen{}
		b := newBars(s, func() (int, int) { return width, 6 }, fixedClock, time.Hour)
		var tasks []Task
		for i := range 30 {
			tasks = append(tasks, b.Task(fmt.Sprintf("a task with a rather long name, number %d", i), 1<<40))
		}
		b.Printf("x")
		lines := s.text()
		if len(lines) > 7 {
			t.Errorf("width %d: %d lines", width, len(lines))
		}
		for _, l := range lines {
			if n := len([]rune(strings.ToValidUTF8(l, "?"))); n > max(width, 2) {
				t.Errorf("width %d: %q has %d columns", width, l, n)
			}
		}
		for _, task := range tasks {
			task.Done(nil)
		}
	}
}

func TestTickerEnds(t *testing.T) {
	s := &screen{}
	b := newBars(s, size80, time.Now, time.Millisecond)
	for range 3 {
		task := b.Task("x", 0)
		time.Sleep(3 * time.Millisecond)
		task.Done(nil)
		deadline := time.Now().Add(5 * time.Second)
		for {
			b.mu.Lock()
			ticking := b.ticking
			b.mu.Unlock()
			if !ticking {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the ticker goes on without tasks")
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func TestPlain(t *testing.T) {
	s := &screen{}
	now := time.Unix(0, 0)
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	p := newPlain(s, clock, time.Hour)
	task := p.Task("fetch 2 files", 2_000_000)
	task.Add(1_500_000)
	mu.Lock()
	now = now.Add(90 * time.Second)
	mu.Unlock()
	p.Printf("note %d", 1)
	task.Done(nil)
	task.Done(errors.New("late"))
	want := "fetch 2 files (2.0 MB)\nnote 1\nfetch 2 files: 1.5 MB in 1m30s\n"
	if d := cmp.Diff(want, s.raw.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestPlainTicks(t *testing.T) {
	s := &screen{}
	p := newPlain(s, time.Now, time.Millisecond)
	task := p.Task("slow", 100)
	task.Add(25)
	deadline := time.Now().Add(5 * time.Second)
	for !strings.Contains(strings.Join(s.text(), "\n"), "slow: 25 % of 100 B") {
		if time.Now().After(deadline) {
			t.Fatalf("no line between: %q", s.text())
		}
		time.Sleep(time.Millisecond)
	}
	task.Done(nil)
	if strings.Contains(s.raw.String(), "\x1b") {
		t.Error("plain lines move the cursor")
	}
}

// TestHostileNames: what comes from outside must not speak to the terminal.
func TestHostileNames(t *testing.T) {
	for _, r := range []func(*screen) Reporter{
		func(s *screen) Reporter { return newBars(s, size80, fixedClock, time.Hour) },
		func(s *screen) Reporter { return newPlain(s, fixedClock, time.Hour) },
	} {
		s := &screen{}
		rep := r(s)
		task := rep.Task("a\x1b[2Jb\nfake: done\x07\u202e", 1)
		rep.Printf("c\x1b]0;title\x07 \x9b31m")
		task.Done(errors.New("d\x1b[1A\rover"))
		for _, bad := range []string{"\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e", "\nfake", "\rover"} {
			if strings.Contains(s.raw.String(), bad) {
				t.Errorf("%q reaches the terminal", bad)
			}
		}
	}
}

func TestConcurrent(t *testing.T) {
	for _, rep := range []Reporter{
		newBars(&screen{}, size80, time.Now, time.Millisecond), newPlain(&screen{}, time.Now, time.Millisecond), Discard,
	} {
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				task := rep.Task(fmt.Sprint(i), 100)
				for range 100 {
					task.Add(1)
				}
				rep.Printf("%d", i)
				task.Done(nil)
			})
		}
		wg.Wait()
	}
}

func TestNewChooses(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := New(f, false).(*plain); !ok {
		t.Error("a file is no terminal")
	}
	New(f, true).Printf("x")
	if st, _ := f.Stat(); st.Size() != 0 {
		t.Error("quiet speaks")
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 153_000_000: "153.0 MB", 999_960: "1.0 MB", -5: "-5 B"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}
