package planner

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestOverlap(t *testing.T) {
	office := func(zone string) Person { return Person{Name: zone, Zone: zone, From: 9, To: 17} }
	for _, c := range []struct {
		name   string
		day    string
		people []Person
		want   string
	}{
		{"one person", "2026-01-14", []Person{office("UTC")}, "09:00-17:00"},
		{"winter", "2026-01-14", []Person{office("Europe/Paris"), office("America/New_York")}, "14:00-16:00"},
		{"summer in one country only", "2026-03-18", []Person{office("Europe/Paris"), office("America/New_York")}, "13:00-16:00"},
		{"a quarter of an hour", "2026-01-14", []Person{office("Asia/Kathmandu")}, "03:15-11:15"},
		{"a day that wraps", "2026-01-14", []Person{office("Pacific/Auckland")}, "00:00-04:00 20:00-24:00"},
		{"weekend", "2026-01-17", []Person{office("UTC")}, ""},
		{"Monday begins early in the east", "2026-01-18", []Person{office("Pacific/Auckland")}, "20:00-24:00"},
		{"nobody together", "2026-01-14", []Person{office("Asia/Tokyo"), office("America/New_York")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			day, err := time.Parse(time.DateOnly, c.day)
			if err != nil {
				t.Fatal(err)
			}
			slots, err := Overlap(day, c.people)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range slots {
				end := s.End.Format("15:04")
				if end == "00:00" {
					end = "24:00"
				}
				got = append(got, fmt.Sprintf("%s-%s", s.Start.Format("15:04"), end))
			}
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("got %q, want %q", g, c.want)
			}
		})
	}
}

func TestOverlapRefuses(t *testing.T) {
	for name, people := range map[string][]Person{
		"nobody":        nil,
		"a crowd":       make([]Person, MaxPeople+1),
		"negative hour": {{Zone: "UTC", From: -1, To: 5}},
		"25 hours":      {{Zone: "UTC", From: 0, To: 25}},
		"backwards":     {{Zone: "UTC", From: 17, To: 9}},
		"no zone":       {{From: 9, To: 17}},
		"local zone":    {{Zone: "Local", From: 9, To: 17}},
		"unknown zone":  {{Zone: "Europe/Nowhere", From: 9, To: 17}},
		"path":          {{Zone: "../../etc/passwd", From: 9, To: 17}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Overlap(time.Unix(0, 0), people); !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}
