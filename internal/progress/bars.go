package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// bars keeps one line for each task under way at the bottom of a terminal and
// redraws them in place. Finished tasks and Printf lines scroll away above.
//
// Everything is written in one Write per change, under one lock: erase the
// bars, write the lines that stay, draw the bars again. So a line never lands
// inside a bar.
type bars struct {
	w     io.Writer
	size  func() (width, height int)
	now   func() time.Time
	every time.Duration

	mu      sync.Mutex
	tasks   []*barTask // under way, in the order they began
	drawn   int        // lines of bars on the screen
	ticking bool
}

// maxBars bounds the lines in motion: more of them tell nobody anything.
const maxBars = 8

func newBars(w io.Writer, size func() (int, int), now func() time.Time, every time.Duration) *bars {
	return &bars{w: w, size: size, now: now, every: every}
}

func (b *bars) Printf(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.redraw(lines(format, args))
}

func (b *bars) Task(name string, total int64) Task {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := &barTask{b: b, name: line(name), total: total, began: b.now()}
	b.tasks = append(b.tasks, t)
	if !b.ticking {
		b.ticking = true
		go b.tick()
	}
	return t
}

// tick redraws while there are tasks and then ends, so that an idle Reporter
// holds no goroutine and needs no Close.
func (b *bars) tick() {
	ticker := time.NewTicker(b.every)
	defer ticker.Stop()
	for range ticker.C {
		b.mu.Lock()
		if len(b.tasks) == 0 {
			b.ticking = false
			b.mu.Unlock()
			return
		}
		b.redraw("")
		b.mu.Unlock()
	}
}

// redraw writes the lines that stay and the bars below them. b.mu is held.
func (b *bars) redraw(stay string) {
	var out strings.Builder
	if b.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA\r\x1b[J", b.drawn) // up to the first bar, erase all below
	}
	out.WriteString(stay)
	width, height := b.size()
	room := max(1, min(maxBars, height-2))
	show := b.tasks
	if len(show) > room {
		show = show[:room]
	}
	for _, t := range show {
		out.WriteString(t.bar(width-1, b.now()))
		out.WriteByte('\n')
	}
	b.drawn = len(show)
	if more := len(b.tasks) - len(show); more > 0 {
		out.WriteString(fit(fmt.Sprintf("… and %d more", more), width-1))
		out.WriteByte('\n')
		b.drawn++
	}
	if out.Len() > 0 {
		io.WriteString(b.w, out.String())
	}
}

type barTask struct {
	b     *bars
	name  string
	total int64
	began time.Time
	done  int64 // guarded by b.mu, as is ended
	ended bool
}

func (t *barTask) Add(n int64) {
	t.b.mu.Lock()
	t.done += n
	t.b.mu.Unlock()
}

func (t *barTask) Done(err error) {
	b := t.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.ended {
		return
	}
	t.ended = true
	for i, other := range b.tasks {
		if other == t {
			b.tasks = append(b.tasks[:i:i], b.tasks[i+1:]...)
			break
		}
	}
	b.redraw(outcome(t.name, t.done, b.now().Sub(t.began), err) + "\n")
}

// bar is the task's line: name, bar, state, no longer than width columns.
func (t *barTask) bar(width int, now time.Time) string {
	tail := state(t.done, t.total, now.Sub(t.began))
	const barWidth, tailWidth = 20, 30
	// Columns depend on the terminal only, so that bars stand below each other.
	column := min(40, width-tailWidth-barWidth-4)
	if column < 16 {
		return fit(t.name+" "+tail, width)
	}
	middle := " "
	if t.total > 0 {
		full := int(percent(t.done, t.total) * barWidth / 100)
		middle = " [" + strings.Repeat("#", full) + strings.Repeat("-", barWidth-full) + "] "
	}
	name := fit(t.name, column)
	return fit(name+strings.Repeat(" ", column-utf8.RuneCountInString(name))+middle+tail, width)
}

// fit cuts s to at most width characters. Wide characters may still wrap; names
// of packages and steps have none.
func fit(s string, width int) string {
	if width <= 0 {
		return ""
	}
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}
