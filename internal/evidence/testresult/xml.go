package testresult

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// elements walks the elements of an XML document of at most most bytes. encoding/xml expands the five
// predefined entities and nothing else, so entities cannot multiply; a document
// type that declares something is refused all the same, because a reader that
// honours it would see another document.
func elements(r io.Reader, most int64, start func(depth int, e xml.StartElement) error, end func(depth int, name string) error) error {
	limited := &io.LimitedReader{R: r, N: most + 1}
	d := xml.NewDecoder(limited)
	d.CharsetReader = func(charset string, in io.Reader) (io.Reader, error) {
		switch strings.ToLower(charset) {
		case "utf-8", "us-ascii", "ascii":
			return in, nil
		}
		return nil, fmt.Errorf("encoding %q: want UTF-8", charset)
	}
	depth, any, ended := 0, false, false
	var names []string // of the open elements
	for {
		tok, err := d.RawToken()
		if limited.N <= 0 {
			return fmt.Errorf("more than %d bytes", most)
		}
		if err == io.EOF {
			switch {
			case depth > 0:
				return io.ErrUnexpectedEOF
			case !any:
				return errors.New("no XML element")
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch t := tok.(type) {
		case xml.Directive:
			if strings.ContainsAny(string(t), "[") {
				return errors.New("a document type with declarations of its own is not read")
			}
		case xml.StartElement:
			if ended {
				return errors.New("a second document begins")
			}
			if depth++; depth > maxDepth {
				return fmt.Errorf("nested more than %d deep", maxDepth)
			}
			any = true
			names = append(names[:depth-1], t.Name.Local)
			if err := start(depth, t); err != nil {
				return err
			}
		case xml.EndElement:
			if depth == 0 || names[depth-1] != t.Name.Local {
				return fmt.Errorf("</%s> closes nothing", clip(t.Name.Local))
			}
			if end != nil {
				if err := end(depth, t.Name.Local); err != nil {
					return err
				}
			}
			if depth--; depth == 0 {
				ended = true
			}
		}
	}
}

func attr(e xml.StartElement, name string) (string, bool) {
	for _, a := range e.Attr {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value, true
		}
	}
	return "", false
}

// count reads a number that counts things. Absent is zero.
func count(e xml.StartElement, name string, most int64) (int64, error) {
	s, ok := attr(e, name)
	if !ok || s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("<%s %s=%q>: want a whole number from 0 to %d", clip(e.Name.Local), name, clip(s), most)
	}
	return n, nil
}

func clip(s string) string {
	if len(s) > maxName {
		return strings.ToValidUTF8(s[:maxName], "") + "…"
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// JUnit reads a report in JUnit's XML. Test cases are counted where they stand;
// where the totals of a suite admit to more failures than its cases show (a
// suite that broke before its first case), the larger number holds.
func JUnit(r io.Reader) (Tests, error) {
	type suite struct{ declared, failed int64 }
	var t Tests
	var suites []suite // open ones, outermost first
	var total suite
	inCase, failed, skipped, caseDepth := false, false, false, 0
	name := ""
	sawSuite := false
	err := elements(r, maxReport, func(depth int, e xml.StartElement) error {
		if depth == 1 && e.Name.Local != "testsuites" && e.Name.Local != "testsuite" {
			return fmt.Errorf("<%s> is no JUnit report: want <testsuites> or <testsuite>", clip(e.Name.Local))
		}
		switch {
		case inCase:
			if depth != caseDepth+1 {
				return nil // output of the test may hold anything
			}
			switch e.Name.Local {
			case "failure", "error":
				failed = true
			case "skipped":
				skipped = true
			}
		case e.Name.Local == "testsuite" || e.Name.Local == "testsuites":
			sawSuite = true
			var s suite
			for _, n := range []string{"failures", "errors"} {
				v, err := count(e, n, maxTests)
				if err != nil {
					return err
				}
				s.declared += v
			}
			for _, n := range []string{"tests", "skipped", "disabled"} {
				if _, err := count(e, n, maxTests); err != nil {
					return err
				}
			}
			suites = append(suites, s)
		case e.Name.Local == "testcase":
			if len(suites) == 0 {
				return errors.New("<testcase> outside a suite")
			}
			if t.Tests++; t.Tests > maxTests {
				return fmt.Errorf("more than %d test cases", maxTests)
			}
			inCase, failed, skipped, caseDepth = true, false, false, depth
			class, _ := attr(e, "classname")
			if name, _ = attr(e, "name"); class != "" && class != name {
				name = class + " " + name
			}
			if s, _ := attr(e, "status"); s == "failed" || s == "error" {
				failed = true
			}
		}
		return nil
	}, func(depth int, closed string) error {
		switch {
		case inCase && depth == caseDepth:
			inCase = false
			switch {
			case failed:
				t.Failed++
				suites[len(suites)-1].failed++
				if len(t.FailedNames) < maxNames {
					t.FailedNames = append(t.FailedNames, clip(name))
				}
			case skipped:
				t.Skipped++
			default:
				t.Passed++
			}
		case !inCase && (closed == "testsuite" || closed == "testsuites"):
			s := suites[len(suites)-1]
			suites = suites[:len(suites)-1]
			// Totals include those of inner suites, which were added below.
			worst := max(s.declared, s.failed)
			if len(suites) > 0 {
				suites[len(suites)-1].failed += worst
			} else {
				total.failed += worst
			}
		}
		return nil
	})
	if err != nil {
		return Tests{}, fmt.Errorf("JUnit: %w", err)
	}
	if !sawSuite {
		return Tests{}, errors.New("JUnit: no test suite")
	}
	if more := int(total.failed) - t.Failed; more > 0 {
		if t.Tests+more > maxTests {
			return Tests{}, fmt.Errorf("JUnit: more than %d tests", maxTests)
		}
		t.Failed += more
		t.Tests += more
		t.FailedNames = append(t.FailedNames, fmt.Sprintf("(%d failures that suites report and no test case shows)", more))
		t.FailedNames = t.FailedNames[:min(len(t.FailedNames), maxNames)]
	}
	return t, nil
}

// Cobertura reads a Cobertura report. Lines are counted; the totals of the root
// are taken only when no line is listed.
func Cobertura(r io.Reader) (Coverage, error) {
	type line struct {
		file string
		n    int64
	}
	hit := map[line]bool{}
	var rootCovered, rootValid int64
	var path []string
	file := ""
	err := elements(r, maxReport, func(depth int, e xml.StartElement) error {
		path = append(path[:depth-1], e.Name.Local)
		if depth == 1 {
			if e.Name.Local != "coverage" {
				return fmt.Errorf("<%s> is no Cobertura report: want <coverage>", clip(e.Name.Local))
			}
			if s, ok := attr(e, "line-rate"); ok {
				// ParseFloat reads NaN and Inf; both fail the comparison.
				if f, err := strconv.ParseFloat(s, 64); err != nil || !(f >= 0 && f <= 1) {
					return fmt.Errorf("line-rate=%q: want a number from 0 to 1", clip(s))
				}
			}
			var err error
			if rootCovered, err = count(e, "lines-covered", maxLines); err != nil {
				return err
			}
			rootValid, err = count(e, "lines-valid", maxLines)
			return err
		}
		switch e.Name.Local {
		case "class":
			file, _ = attr(e, "filename")
			if len(file) > 4096 {
				return errors.New("a file name of more than 4096 bytes")
			}
		case "line":
			// Methods list their lines again: only those of the class count.
			if depth < 3 || path[depth-2] != "lines" || path[depth-3] != "class" {
				return nil
			}
			n, err := count(e, "number", 1<<31)
			if err != nil {
				return err
			}
			hits, err := count(e, "hits", 1<<62)
			if err != nil {
				return err
			}
			k := line{file, n}
			hit[k] = hit[k] || hits > 0
			if len(hit) > maxLines {
				return fmt.Errorf("more than %d lines", maxLines)
			}
		}
		return nil
	}, nil)
	if err != nil {
		return Coverage{}, fmt.Errorf("Cobertura: %w", err)
	}
	c := Coverage{Unit: "lines", Covered: rootCovered, Total: rootValid}
	if len(hit) > 0 {
		c = Coverage{Unit: "lines", Total: int64(len(hit))}
		for _, yes := range hit {
			if yes {
				c.Covered++
			}
		}
	}
	if c.Covered > c.Total {
		return Coverage{}, fmt.Errorf("Cobertura: %d of %d lines covered", c.Covered, c.Total)
	}
	return c, nil
}
