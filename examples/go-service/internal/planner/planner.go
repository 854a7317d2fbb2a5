// Package planner finds the hours of a day at which people in several time
// zones are all at work. It is pure arithmetic on times: it serves nothing and
// reads no clock.
package planner

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Limits of one request.
const (
	MaxPeople = 50
	step      = 15 * time.Minute // every civil offset in use is a multiple of it
)

// Person is one who takes part.
type Person struct {
	Name string `json:"name"`
	Zone string `json:"zone"` // IANA name, "Europe/Paris"
	From int    `json:"from"` // first working hour, local, 0-23
	To   int    `json:"to"`   // first hour off, local, 1-24, later than From
}

// Slot is a stretch of time at which everyone works.
type Slot struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// ErrInvalid is wrapped by every error that the caller's input caused.
var ErrInvalid = errors.New("invalid meeting")

type worker struct {
	Person
	loc *time.Location
}

// Overlap returns the slots of the UTC day of the given date at which all
// people work, in order and as long as possible; none is not an error.
func Overlap(day time.Time, people []Person) ([]Slot, error) {
	workers, err := resolve(people)
	if err != nil {
		return nil, err
	}
	year, month, date := day.UTC().Date()
	begin := time.Date(year, month, date, 0, 0, 0, 0, time.UTC)
	end := begin.AddDate(0, 0, 1)

	slots := []Slot{}
	for t := begin; t.Before(end); t = t.Add(step) {
		if slices.ContainsFunc(workers, func(w worker) bool { return !w.works(t) }) {
			continue
		}
		if n := len(slots); n > 0 && slots[n-1].End.Equal(t) {
			slots[n-1].End = t.Add(step)
		} else {
			slots = append(slots, Slot{Start: t, End: t.Add(step)})
		}
	}
	return slots, nil
}

// works says whether the person works at t: on a weekday, within the hours.
func (w worker) works(t time.Time) bool {
	local := t.In(w.loc)
	switch local.Weekday() {
	case time.Saturday, time.Sunday:
		return false
	}
	return w.From <= local.Hour() && local.Hour() < w.To
}

// Zone is time.LoadLocation without "Local" and the empty name, which would
// mean whatever the machine is set to.
func Zone(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, fmt.Errorf("%w: want an IANA time zone such as Europe/Paris, not %q", ErrInvalid, name)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%w: unknown time zone %q", ErrInvalid, name)
	}
	return loc, nil
}

func resolve(people []Person) ([]worker, error) {
	if len(people) == 0 || len(people) > MaxPeople {
		return nil, fmt.Errorf("%w: want 1 to %d people, not %d", ErrInvalid, MaxPeople, len(people))
	}
	workers := make([]worker, 0, len(people))
	for _, p := range people {
		if p.From < 0 || p.To > 24 || p.From >= p.To {
			return nil, fmt.Errorf("%w: %s works from %d to %d: want 0 <= from < to <= 24", ErrInvalid, p.Name, p.From, p.To)
		}
		loc, err := Zone(p.Zone)
		if err != nil {
			return nil, err
		}
		workers = append(workers, worker{p, loc})
	}
	return workers, nil
}
