// Package testresult reads what test tools leave (JUnit XML, lcov, Cobertura,
// Go cover profiles) and makes an in-toto test-result predicate of the totals.
//
// The readers take files that a step wrote, and a step runs code that nobody
// has reviewed: sizes, depths, counts and numbers are bounded, and what cannot
// be right is an error, never a zero or a hundred percent. The package neither
// runs tests nor decides how much coverage is enough.
package testresult

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/evidence/strictjson"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// Limits of the readers. A repository of a million lines stays below them.
const (
	maxReport = 64 << 20  // bytes of one file
	maxTests  = 2_000_000 // test cases of one file
	maxLines  = 5_000_000 // lines or blocks of one coverage file
	maxDepth  = 64        // of XML
	maxNames  = 100       // failed tests that are named
	maxName   = 300       // bytes of a test's name
)

// Tests are the totals of test cases. Tests is the sum of the other three.
type Tests struct {
	Tests   int `json:"tests"`
	Passed  int `json:"passed"`
	Failed  int `json:"failed"` // failures and errors
	Skipped int `json:"skipped"`

	FailedNames []string `json:"-"` // at most a hundred
}

func (t *Tests) add(u Tests) {
	t.Tests, t.Passed, t.Failed, t.Skipped = t.Tests+u.Tests, t.Passed+u.Passed, t.Failed+u.Failed, t.Skipped+u.Skipped
	t.FailedNames = append(t.FailedNames, u.FailedNames...)
	t.FailedNames = t.FailedNames[:min(len(t.FailedNames), maxNames)]
}

// Coverage counts what ran. Unit says what is counted: lcov and Cobertura count
// lines, Go counts statements.
type Coverage struct {
	Unit    string `json:"unit"` // "lines" or "statements"
	Covered int64  `json:"covered"`
	Total   int64  `json:"total"`
}

// Percent is from 0 to 100, rounded down to a hundredth, so that a threshold is
// never met by rounding. ok is false when nothing was measured: 0 of 0 is
// neither everything nor nothing.
func (c Coverage) Percent() (p float64, ok bool) {
	if c.Total <= 0 || c.Covered < 0 || c.Covered > c.Total {
		return 0, false
	}
	return math.Floor(float64(c.Covered)/float64(c.Total)*10_000) / 100, true
}

// The results of the specification that are written.
const (
	Passed = "PASSED"
	Failed = "FAILED"
)

// Predicate is the in-toto test-result predicate v0.1 with the totals as
// extension fields.
type Predicate struct {
	Result        string              `json:"result"`
	Configuration []evidence.Resource `json:"configuration"`         // step records and reports, by digest
	PassedTests   []string            `json:"passedTests,omitempty"` // of other tools; this one counts
	FailedTests   []string            `json:"failedTests,omitempty"`
	Tests         *Tests              `json:"twinhull_tests,omitempty"`    // nil: no report counts test cases
	Coverage      []Coverage          `json:"twinhull_coverage,omitempty"` // one for each unit
}

// ErrNone is matched when no step left a test report or coverage.
var ErrNone = errors.New("no test results")

// Make reads the reports that the steps declared as junit or coverage and
// returns the predicate. open gives the bytes of an output by their digest. A
// report that cannot be read is an error: leaving it out would make the rest
// look complete.
func Make(steps []build.StepRecord, open func(oci.Digest) (io.ReadCloser, error)) (Predicate, error) {
	var p Predicate
	var tests Tests
	coverage := map[string]*Coverage{}
	counted := false
	for _, s := range steps {
		byOutput := map[string]*Coverage{} // output → what its best format says
		var outputs []string
		used := false
		for _, o := range s.Outputs {
			if o.Link != "" || o.Kind != project.KindJUnit && o.Kind != project.KindCoverage {
				continue
			}
			where := fmt.Sprintf("step %s, output %s", s.Step, o.Path)
			data, err := read(open, o)
			if err != nil {
				return Predicate{}, fmt.Errorf("%s: %w", where, err)
			}
			res := evidence.Resource{Name: s.Step + ":" + o.Path, Digest: evidence.DigestSet(o.SHA256)}
			if o.Kind == project.KindJUnit {
				t, err := JUnit(bytes.NewReader(data))
				if err != nil {
					return Predicate{}, fmt.Errorf("%s: %w", where, err)
				}
				tests.add(t)
				counted, used = true, true
				p.Configuration = append(p.Configuration, res)
				continue
			}
			if _, seen := byOutput[o.Output]; !seen {
				byOutput[o.Output] = nil
				outputs = append(outputs, o.Output)
			}
			// A folder of coverage holds the same figures in several formats and
			// pages for people: the first format that can be read counts, in
			// the order of the paths.
			if byOutput[o.Output] != nil {
				continue
			}
			c, err := ReadCoverage(data)
			if errors.Is(err, errFormat) && o.Output != o.Path {
				continue
			}
			if err != nil {
				return Predicate{}, fmt.Errorf("%s: %w", where, err)
			}
			byOutput[o.Output] = &c
			used = true
			p.Configuration = append(p.Configuration, res)
		}
		for _, name := range outputs {
			c := byOutput[name]
			if c == nil {
				return Predicate{}, fmt.Errorf("step %s, output %s: no file of it is lcov, Cobertura or a Go cover profile", s.Step, name)
			}
			if coverage[c.Unit] == nil {
				coverage[c.Unit] = &Coverage{Unit: c.Unit}
			}
			coverage[c.Unit].Covered += c.Covered
			coverage[c.Unit].Total += c.Total
		}
		if used && s.Digest != "" {
			p.Configuration = append(p.Configuration, evidence.Resource{Name: "step:" + s.Step, Digest: evidence.DigestSet(s.Digest), MediaType: "application/vnd.twinhull.step.v1+json"})
		}
	}
	if len(p.Configuration) == 0 {
		return Predicate{}, fmt.Errorf("%w: no step declares an output of kind junit or coverage", ErrNone)
	}
	ran := false
	for _, unit := range []string{"lines", "statements"} {
		if c := coverage[unit]; c != nil {
			p.Coverage = append(p.Coverage, *c)
			ran = ran || c.Covered > 0
		}
	}
	if counted {
		p.Tests = &tests
		p.FailedTests = tests.FailedNames
	}
	// A step that fails ends the build, so measured coverage without a count
	// stands for tests that passed. Nothing at all stands for nothing.
	p.Result = Failed
	if counted && tests.Failed == 0 && tests.Passed > 0 || !counted && ran {
		p.Result = Passed
	}
	return p, nil
}

func read(open func(oci.Digest) (io.ReadCloser, error), o build.OutputFile) ([]byte, error) {
	if o.Size > maxReport {
		return nil, fmt.Errorf("%d bytes: at most %d are read", o.Size, maxReport)
	}
	if err := o.SHA256.Validate(); err != nil {
		return nil, err
	}
	r, err := open(o.SHA256)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(oci.VerifyReader(r, o.SHA256, o.Size))
}

// Parse reads a predicate, of this program or of another that makes test-result
// v0.1, and checks that its figures can be.
func Parse(predicate json.RawMessage) (Predicate, error) {
	var p Predicate
	if err := strictjson.UnmarshalOpen(predicate, &p); err != nil {
		return Predicate{}, fmt.Errorf("test result: %w", err)
	}
	if !slices.Contains([]string{Passed, "WARNED", Failed}, p.Result) {
		return Predicate{}, fmt.Errorf("test result: result %q", p.Result)
	}
	if t := p.Tests; t != nil && (t.Passed < 0 || t.Failed < 0 || t.Skipped < 0 || t.Tests != t.Passed+t.Failed+t.Skipped) {
		return Predicate{}, fmt.Errorf("test result: %d tests are not %d passed, %d failed and %d skipped", t.Tests, t.Passed, t.Failed, t.Skipped)
	}
	if p.Result == Passed && (p.Tests != nil && p.Tests.Failed > 0 || len(p.FailedTests) > 0) {
		return Predicate{}, fmt.Errorf("test result: passed, with failed tests")
	}
	seen := map[string]bool{}
	for _, c := range p.Coverage {
		if c.Total < 0 || c.Covered < 0 || c.Covered > c.Total || seen[c.Unit] || c.Unit != "lines" && c.Unit != "statements" {
			return Predicate{}, fmt.Errorf("test result: coverage of %d of %d %q", c.Covered, c.Total, c.Unit)
		}
		seen[c.Unit] = true
	}
	return p, nil
}

// Totals counts the tests. ok is false when the predicate neither counts nor
// names any.
func (p Predicate) Totals() (t Tests, ok bool) {
	if p.Tests != nil {
		return *p.Tests, true
	}
	passed, failed := len(p.PassedTests), len(p.FailedTests)
	return Tests{Tests: passed + failed, Passed: passed, Failed: failed}, passed+failed > 0
}

// Lacks says why the result does not prove that tests passed; "" when it does. A
// result of tools that count nothing (Go's cover profile) proves it by code that
// ran: a step whose tests fail ends the build.
func (p Predicate) Lacks() string {
	t, counted := p.Totals()
	switch {
	case t.Failed > 0:
		return fmt.Sprintf("%d of %d tests failed", t.Failed, t.Tests)
	case p.Result != Passed:
		return fmt.Sprintf("the result is %s", p.Result)
	case counted && t.Passed > 0:
		return ""
	case !counted && slices.ContainsFunc(p.Coverage, func(c Coverage) bool { percent, ok := c.Percent(); return ok && percent > 0 }):
		return ""
	}
	return "no test passed"
}

// errFormat is matched by coverage of no known format.
var errFormat = errors.New("neither lcov, nor Cobertura, nor a Go cover profile")

// ReadCoverage reads coverage of any of the three formats, which it tells by
// the first bytes.
func ReadCoverage(data []byte) (Coverage, error) {
	if len(data) > maxReport {
		return Coverage{}, fmt.Errorf("%d bytes: at most %d are read", len(data), maxReport)
	}
	head := strings.TrimLeft(strings.TrimPrefix(string(data[:min(len(data), 4096)]), "\ufeff"), " \t\r\n")
	switch {
	case strings.HasPrefix(head, "mode:"):
		return GoCover(bytes.NewReader(data))
	case strings.HasPrefix(head, "TN:"), strings.HasPrefix(head, "SF:"):
		return LCOV(bytes.NewReader(data))
	case strings.HasPrefix(head, "<") && bytes.Contains(data[:min(len(data), 4096)], []byte("<coverage")):
		return Cobertura(bytes.NewReader(data))
	}
	return Coverage{}, errFormat
}

// lines reads text line by line; a line of more than a megabyte is an error.
func lines(r io.Reader, fn func(n int, line string) error) error {
	s := bufio.NewScanner(io.LimitReader(r, maxReport+1))
	s.Buffer(make([]byte, 64<<10), 1<<20)
	n, size := 0, 0
	for s.Scan() {
		n++
		size += len(s.Bytes()) + 1
		if size > maxReport+1 {
			return fmt.Errorf("more than %d bytes", maxReport)
		}
		if err := fn(n, strings.TrimSuffix(s.Text(), "\r")); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return s.Err()
}
