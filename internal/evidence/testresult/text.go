package testresult

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// LCOV reads a tracefile (geninfo(1), "FILES"). Lines are counted from DA
// records, a line that several records name once; LF and LH are believed only
// for a file without any.
func LCOV(r io.Reader) (Coverage, error) {
	type line struct {
		file string
		n    int64
	}
	hit := map[line]bool{}
	c := Coverage{Unit: "lines"}
	file, open, lines_ := "", false, 0
	var lf, lh int64
	sawFile := false
	err := lines(r, func(_ int, text string) error {
		key, value, _ := strings.Cut(strings.TrimSpace(text), ":")
		switch key {
		case "SF":
			if open {
				return errors.New("SF inside a record: end_of_record is missing")
			}
			file, open, lines_, lf, lh, sawFile = value, true, 0, -1, -1, true
			if file == "" {
				return errors.New("SF names no file")
			}
		case "DA":
			if !open {
				return errors.New("DA outside a record")
			}
			number, rest, ok := strings.Cut(value, ",")
			hits, _, _ := strings.Cut(rest, ",") // a checksum may follow
			if !ok {
				return errors.New("DA: want LINE,COUNT")
			}
			n, err := number64(number, 1<<31)
			if err != nil {
				return fmt.Errorf("DA: %w", err)
			}
			h, err := number64(hits, 1<<62)
			if err != nil {
				return fmt.Errorf("DA: %w", err)
			}
			k := line{file, n}
			hit[k] = hit[k] || h > 0
			if lines_++; len(hit) > maxLines {
				return fmt.Errorf("more than %d lines", maxLines)
			}
		case "LF", "LH":
			if !open {
				return fmt.Errorf("%s outside a record", key)
			}
			n, err := number64(value, maxLines)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			if key == "LF" {
				lf = n
			} else {
				lh = n
			}
		case "end_of_record":
			if !open {
				return errors.New("end_of_record outside a record")
			}
			open = false
			if lines_ == 0 && lf > 0 {
				if lh < 0 || lh > lf {
					return fmt.Errorf("LH %d of LF %d", lh, lf)
				}
				c.Total += lf
				c.Covered += lh
				if c.Total > maxLines {
					return fmt.Errorf("more than %d lines", maxLines)
				}
			}
		}
		return nil
	})
	switch {
	case err != nil:
	case open:
		err = errors.New("truncated: the last record has no end_of_record")
	case !sawFile:
		err = errors.New("no record")
	}
	if err != nil {
		return Coverage{}, fmt.Errorf("lcov: %w", err)
	}
	for _, yes := range hit {
		c.Total++
		if yes {
			c.Covered++
		}
	}
	return c, nil
}

// number64 reads a whole number from 0 to most. gcov has written negative
// counts; what they mean cannot be told.
func number64(s string, most int64) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%q: want a whole number from 0 to %d", clip(s), most)
	}
	return n, nil
}

// GoCover reads a profile that `go test -coverprofile` wrote. Blocks that
// several packages' tests list are counted once, as `go tool cover` does.
func GoCover(r io.Reader) (Coverage, error) {
	type block struct {
		where      string
		statements int64
	}
	hit := map[block]bool{}
	mode := ""
	err := lines(r, func(_ int, text string) error {
		if m, ok := strings.CutPrefix(text, "mode: "); ok {
			// Concatenated profiles repeat the line.
			if m != "set" && m != "count" && m != "atomic" || mode != "" && m != mode {
				return fmt.Errorf("mode %q", clip(m))
			}
			mode = m
			return nil
		}
		if strings.TrimSpace(text) == "" {
			return nil
		}
		if mode == "" {
			return errors.New(`want "mode: …" first`)
		}
		// FILE:LINE.COLUMN,LINE.COLUMN STATEMENTS COUNT; a file name may hold spaces.
		rest, counts, ok := cutLast(text, ' ')
		where, statements, ok2 := cutLast(rest, ' ')
		i := strings.LastIndexByte(where, ':')
		if !ok || !ok2 || i < 1 || !isRange(where[i+1:]) {
			return errors.New("want FILE:LINE.COLUMN,LINE.COLUMN STATEMENTS COUNT")
		}
		n, err := number64(statements, 1<<20)
		if err != nil {
			return err
		}
		c, err := number64(counts, 1<<62)
		if err != nil {
			return err
		}
		k := block{where, n}
		hit[k] = hit[k] || c > 0
		if len(hit) > maxLines {
			return fmt.Errorf("more than %d blocks", maxLines)
		}
		return nil
	})
	if err == nil && mode == "" {
		err = errors.New("empty")
	}
	if err != nil {
		return Coverage{}, fmt.Errorf("Go cover profile: %w", err)
	}
	c := Coverage{Unit: "statements"}
	for b, yes := range hit {
		c.Total += b.statements
		if yes {
			c.Covered += b.statements
		}
	}
	return c, nil
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// isRange tells "3.14,5.2".
func isRange(s string) bool {
	from, to, ok := strings.Cut(s, ",")
	if !ok {
		return false
	}
	for _, p := range []string{from, to} {
		line, column, ok := strings.Cut(p, ".")
		if !ok {
			return false
		}
		for _, n := range []string{line, column} {
			if _, err := number64(n, 1<<31); err != nil {
				return false
			}
		}
	}
	return true
}
