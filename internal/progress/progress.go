// Package progress tells a person what is going on while it goes on: bars on a
// terminal, plain lines elsewhere, nothing when asked for quiet.
//
// It is talk, never a result: it writes to the stream it is given (standard
// error) and nothing reads it back. It is not a logger either: there are no
// levels, and failures are reported as errors by whoever meets them. All of it
// is safe for use by many goroutines at once.
package progress

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"
)

// Reporter is where work announces itself.
type Reporter interface {
	// Task begins a piece of work. name is a short phrase ("fetch 173
	// packages"); total is its size in bytes, or 0 when the size is unknown or
	// is not in bytes.
	Task(name string, total int64) Task

	// Printf writes one line beside the tasks. A newline is added.
	Printf(format string, args ...any)
}

// Task is one piece of work under way.
type Task interface {
	// Add counts n more bytes as done. A negative n takes bytes back, for a
	// transfer that has to begin again.
	Add(n int64)

	// Done ends the task; err says how it failed and is shown in short, as the
	// caller reports it in full. Only the first call counts.
	Done(err error)
}

// New returns the Reporter that fits w, which is standard error in every
// program: Discard when quiet, bars when w is a terminal that can move its
// cursor, plain lines otherwise.
func New(w *os.File, quiet bool) Reporter {
	switch {
	case quiet:
		return Discard
	case term.IsTerminal(int(w.Fd())) && os.Getenv("TERM") != "dumb":
		return newBars(w, func() (int, int) {
			width, height, err := term.GetSize(int(w.Fd()))
			if err != nil || width <= 0 || height <= 0 {
				return 80, 24
			}
			return width, height
		}, time.Now, 100*time.Millisecond)
	default:
		return newPlain(w, time.Now, 5*time.Second)
	}
}

// Discard is the Reporter that says nothing.
var Discard Reporter = quiet{}

type quiet struct{}

func (quiet) Task(string, int64) Task { return quietTask{} }
func (quiet) Printf(string, ...any)   {}

type quietTask struct{}

func (quietTask) Add(int64)  {}
func (quietTask) Done(error) {}

// line makes one printable line of a message: names come from packages, servers
// and archives, and must not be able to move the cursor or to fake a line.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimRight(s, "\r\n"))
}

// lines is line for messages that may have several lines.
func lines(format string, args []any) string {
	msg := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	parts := strings.Split(msg, "\n")
	for i := range parts {
		parts[i] = line(parts[i])
	}
	return strings.Join(parts, "\n") + "\n"
}

// size writes bytes for people: decimal units, as package archives and disks do.
func size(n int64) string {
	const units = "kMGTPE"
	if n < 0 {
		return "-" + size(-n)
	}
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1000, 0
	for v >= 999.95 && i < len(units)-1 {
		v /= 1000
		i++
	}
	return fmt.Sprintf("%.1f %cB", v, units[i])
}

// span writes a duration for people: tenths of seconds, then minutes.
func span(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// outcome is the last word on a task.
func outcome(name string, done int64, took time.Duration, err error) string {
	switch {
	case err != nil:
		first, _, _ := strings.Cut(err.Error(), "\n")
		return fmt.Sprintf("%s: failed after %s: %s", name, span(took), line(first))
	case done > 0:
		return fmt.Sprintf("%s: %s in %s", name, size(done), span(took))
	default:
		return fmt.Sprintf("%s: %s", name, span(took))
	}
}

// state says how far a task under way is.
func state(done, total int64, took time.Duration) string {
	var b strings.Builder
	switch {
	case total > 0:
		fmt.Fprintf(&b, "%d %% of %s", percent(done, total), size(total))
	case done > 0:
		b.WriteString(size(done))
	default:
		return span(took)
	}
	if took > time.Second && done > 0 {
		fmt.Fprintf(&b, ", %s/s", size(int64(float64(done)/took.Seconds())))
	}
	return b.String()
}

func percent(done, total int64) int64 {
	if done <= 0 || total <= 0 {
		return 0
	}
	return min(100, int64(float64(done)/float64(total)*100))
}
