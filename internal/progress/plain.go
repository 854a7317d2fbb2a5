package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// plain writes a line when a task begins, a line when it ends, and a line every
// few seconds between, for logs and pipes.
type plain struct {
	mu    sync.Mutex
	w     io.Writer
	now   func() time.Time
	every time.Duration
}

func newPlain(w io.Writer, now func() time.Time, every time.Duration) *plain {
	return &plain{w: w, now: now, every: every}
}

func (p *plain) Printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	io.WriteString(p.w, lines(format, args))
}

func (p *plain) Task(name string, total int64) Task {
	t := &plainTask{p: p, name: line(name), total: total, began: p.now(), stop: make(chan struct{})}
	if total > 0 {
		p.Printf("%s (%s)", t.name, size(total))
	} else {
		p.Printf("%s", t.name)
	}
	go t.tick()
	return t
}

type plainTask struct {
	p     *plain
	name  string
	total int64
	began time.Time
	stop  chan struct{}

	mu    sync.Mutex
	done  int64
	ended bool
}

// tick ends at Done; every task is ended by whoever began it.
func (t *plainTask) tick() {
	ticker := time.NewTicker(t.p.every)
	defer ticker.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-ticker.C:
			t.mu.Lock()
			if !t.ended {
				t.p.Printf("%s: %s", t.name, state(t.done, t.total, t.p.now().Sub(t.began)))
			}
			t.mu.Unlock()
		}
	}
}

func (t *plainTask) Add(n int64) {
	t.mu.Lock()
	t.done += n
	t.mu.Unlock()
}

func (t *plainTask) Done(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	t.ended = true
	close(t.stop)
	t.p.Printf("%s", fmt.Sprint(outcome(t.name, t.done, t.p.now().Sub(t.began), err)))
}
