package testresult

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	tr "github.com/in-toto/attestation/go/predicates/test_result/v0"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protojson"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

const (
	junitGood = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="jest" tests="4" failures="0" errors="0">
 <testsuite name="a" tests="3" failures="0" errors="0" skipped="1" time="0.1">
  <testcase classname="a" name="one" time="0.0"/>
  <testcase classname="a" name="two"><system-out>&lt;failure/&gt; <![CDATA[<failure/>]]></system-out></testcase>
  <testcase classname="a" name="three"><skipped/></testcase>
 </testsuite>
 <testsuite name="b"><testcase name="four"/></testsuite>
</testsuites>`
	lcovGood      = "TN:\nSF:src/a.js\nFN:1,f\nDA:1,1\nDA:2,0\nDA:3,5,abc\nLF:3\nLH:2\nend_of_record\nSF:src/b.js\nLF:10\nLH:7\nend_of_record\n"
	coberturaGood = `<?xml version="1.0" ?>
<!DOCTYPE coverage SYSTEM "coverage-04.dtd">
<coverage version="7" lines-valid="99" lines-covered="98" line-rate="0.5">
<packages><package><classes><class filename="a.py"><methods><method><lines><line number="1" hits="9"/></lines></method></methods>
<lines><line number="1" hits="1"/><line number="2" hits="0"/><line number="2" hits="1"/><line number="3" hits="0"/></lines></class></classes></package></packages></coverage>`
	goGood = "mode: set\nx.test/a/a.go:3.14,5.2 2 1\nx.test/a/a.go:7.1,9.2 3 0\nx.test/a/a.go:7.1,9.2 3 1\nx.test/a/my file.go:1.1,2.2 5 0\n"
)

func TestJUnit(t *testing.T) {
	for _, c := range []struct {
		name, doc string
		want      Tests
		wrong     string
	}{
		{"good", junitGood, Tests{4, 3, 0, 1, nil}, ""},
		{"one suite", `<testsuite><testcase name="x"><failure>no</failure></testcase><testcase classname="k" name="y"><error/></testcase></testsuite>`, Tests{2, 0, 2, 0, []string{"x", "k y"}}, ""},
		{"failed and skipped", `<testsuite><testcase name="x"><skipped/><failure/></testcase></testsuite>`, Tests{1, 0, 1, 0, []string{"x"}}, ""},
		{"failed by its status", `<testsuite><testcase name="x" status="failed"/></testsuite>`, Tests{1, 0, 1, 0, []string{"x"}}, ""},
		{"broken suite", `<testsuites><testsuite errors="1" tests="0"/></testsuites>`, Tests{1, 0, 1, 0, []string{"(1 failures that suites report and no test case shows)"}}, ""},
		{"totals once", `<testsuites failures="1"><testsuite failures="1"><testcase name="x"><failure/></testcase></testsuite></testsuites>`, Tests{1, 0, 1, 0, []string{"x"}}, ""},
		{"empty suite", `<testsuites/>`, Tests{}, ""},
		{"deeper failure is output", `<testsuite><testcase name="x"><system-out><failure/></system-out></testcase></testsuite>`, Tests{1, 1, 0, 0, nil}, ""},
		{"other root", `<html/>`, Tests{}, "no JUnit"},
		{"no XML", `hello`, Tests{}, "no XML element"},
		{"empty", ``, Tests{}, "no XML element"},
		{"truncated", junitGood[:200], Tests{}, "EOF"},
		{"two documents", junitGood + junitGood, Tests{}, "second"},
		{"wrong nesting", `<testsuite><testcase name="x"></testsuite></testcase>`, Tests{}, "closes nothing"},
		{"entities", `<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><testsuite><testcase name="&b;"/></testsuite>`, Tests{}, "declarations"},
		{"unknown entity", `<testsuite><testcase name="&b;"/></testsuite>`, Tests{}, "entity"},
		{"outside file", `<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><testsuite/>`, Tests{}, "declarations"},
		{"NaN", `<testsuite failures="NaN"/>`, Tests{}, "whole number"},
		{"negative", `<testsuite failures="-1"/>`, Tests{}, "whole number"},
		{"overflow", `<testsuite failures="99999999999999999999"/>`, Tests{}, "whole number"},
		{"half a test", `<testsuite tests="1.5"/>`, Tests{}, "whole number"},
		{"deep", strings.Repeat("<testsuite>", 1000), Tests{}, "nested"},
		{"other encoding", `<?xml version="1.0" encoding="UTF-16"?><testsuite/>`, Tests{}, "UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := JUnit(strings.NewReader(c.doc))
			if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Fatalf("got %v, want %q", err, c.wrong)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCoverage(t *testing.T) {
	for _, c := range []struct {
		name, doc string
		want      Coverage
		percent   float64
		wrong     string
	}{
		{"lcov", lcovGood, Coverage{"lines", 9, 13}, 69.23, ""},
		{"lcov, a file twice", "SF:a\nDA:1,0\nend_of_record\nSF:a\nDA:1,2\nend_of_record\n", Coverage{"lines", 1, 1}, 100, ""},
		{"lcov, truncated", lcovGood[:len(lcovGood)-14], Coverage{}, 0, "truncated"},
		{"lcov, negative", "SF:a\nDA:1,-1\nend_of_record\n", Coverage{}, 0, "whole number"},
		{"lcov, NaN", "SF:a\nDA:1,NaN\nend_of_record\n", Coverage{}, 0, "whole number"},
		{"lcov, more hit than found", "SF:a\nLF:1\nLH:2\nend_of_record\n", Coverage{}, 0, "LH 2"},
		{"lcov, huge", "SF:a\nLF:99999999999\nLH:2\nend_of_record\n", Coverage{}, 0, "whole number"},
		{"lcov, record in a record", "SF:a\nSF:b\n", Coverage{}, 0, "end_of_record"},
		{"lcov, only a name", "TN:x\n", Coverage{}, 0, "no record"},
		{"Cobertura", coberturaGood, Coverage{"lines", 2, 3}, 66.66, ""},
		{"Cobertura, totals", `<coverage lines-valid="8" lines-covered="7"/>`, Coverage{"lines", 7, 8}, 87.5, ""},
		{"Cobertura, NaN", `<coverage line-rate="NaN" lines-valid="8" lines-covered="7"/>`, Coverage{}, 0, "line-rate"},
		{"Cobertura, infinite", `<coverage line-rate="+Inf"/>`, Coverage{}, 0, "line-rate"},
		{"Cobertura, too much", `<coverage lines-valid="7" lines-covered="8"/>`, Coverage{}, 0, "8 of 7"},
		{"Cobertura, bomb", `<!DOCTYPE coverage [<!ENTITY a "b">]><coverage/>`, Coverage{}, 0, "declarations"},
		{"Go", goGood, Coverage{"statements", 5, 10}, 50, ""},
		{"Go, Windows", strings.ReplaceAll(goGood, "\n", "\r\n"), Coverage{"statements", 5, 10}, 50, ""},
		{"Go, other mode", "mode: most\n", Coverage{}, 0, "mode"},
		{"Go, no range", "mode: set\na.go:1,2 3 4\n", Coverage{}, 0, "want FILE"},
		{"Go, negative", "mode: set\na.go:1.1,2.2 -3 4\n", Coverage{}, 0, "whole number"},
		{"nothing", "", Coverage{}, 0, "neither"},
		{"other", "PK\x03\x04", Coverage{}, 0, "neither"},
		{"a page", "<html></html>", Coverage{}, 0, "neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadCoverage([]byte(c.doc))
			if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Fatalf("got %v, want %q", err, c.wrong)
			}
			p, _ := got.Percent()
			if got != c.want || p != c.percent {
				t.Errorf("got %v, %v %%; want %v, %v %%", got, p, c.want, c.percent)
			}
		})
	}
	if _, ok := (Coverage{"lines", 0, 0}).Percent(); ok {
		t.Error("0 of 0 is a percentage")
	}
}

func TestHuge(t *testing.T) {
	const most = 1 << 16
	big := io.MultiReader(strings.NewReader("<testsuite><!--"), io.LimitReader(zeros{}, most), strings.NewReader("--></testsuite>"))
	if err := elements(big, most, func(int, xml.StartElement) error { return nil }, nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("huge XML: %v", err)
	}
	if _, err := ReadCoverage(make([]byte, maxReport+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("huge coverage: %v", err)
	}
	if _, err := GoCover(io.MultiReader(strings.NewReader("mode: set\n"), io.LimitReader(zeros{}, 2<<20))); !errors.Is(err, bufio.ErrTooLong) {
		t.Errorf("a long line: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

func TestMake(t *testing.T) {
	files := map[oci.Digest]string{}
	out := func(output, kind, path, doc string) build.OutputFile {
		d := digest.FromString(doc)
		files[d] = doc
		return build.OutputFile{Output: output, Kind: kind, Path: path, Size: int64(len(doc)), SHA256: d}
	}
	open := func(d oci.Digest) (io.ReadCloser, error) {
		if s, ok := files[d]; ok {
			return io.NopCloser(strings.NewReader(s)), nil
		}
		return nil, os.ErrNotExist
	}
	step := func(outs ...build.OutputFile) []build.StepRecord {
		return []build.StepRecord{{Step: "test", Digest: digest.FromString("record"), Outputs: outs}}
	}
	junit := out("junit.xml", project.KindJUnit, "junit.xml", junitGood)
	cover := out("coverage", project.KindCoverage, "coverage/lcov.info", lcovGood)
	page := out("coverage", project.KindCoverage, "coverage/index.html", "<html></html>")
	again := out("coverage", project.KindCoverage, "coverage/zz.xml", coberturaGood)

	p, err := Make(step(junit, page, cover, again, out("dist", project.KindArtifact, "dist/a.js", "x")), open)
	if err != nil {
		t.Fatal(err)
	}
	if p.Result != Passed || p.Tests.Passed != 3 || len(p.Coverage) != 1 || p.Coverage[0] != (Coverage{"lines", 9, 13}) || len(p.Configuration) != 3 {
		t.Errorf("%+v", p)
	}
	b, err := evidence.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, new(tr.TestResult)); err != nil {
		t.Errorf("in-toto does not read it: %v", err)
	}
	back, err := Parse(b)
	if err != nil || back.Tests.Tests != 4 {
		t.Errorf("%+v, %v", back, err)
	}

	if p, err := Make(step(out("c", project.KindCoverage, "c", goGood)), open); err != nil || p.Result != Passed || p.Tests != nil {
		t.Errorf("coverage alone: %+v, %v", p, err)
	}
	if p, err := Make(step(out("j", project.KindJUnit, "j", "<testsuites/>")), open); err != nil || p.Result != Failed {
		t.Errorf("no tests at all: %+v, %v", p, err)
	}
	for name, steps := range map[string][]build.StepRecord{
		"only pages": step(page),
		"broken":     step(out("j", project.KindJUnit, "j", "<html/>"), cover),
		"missing":    step(build.OutputFile{Output: "j", Kind: project.KindJUnit, Path: "j", SHA256: digest.FromString("gone")}),
		"other bytes": func() []build.StepRecord {
			files[digest.FromString("a")] = junitGood
			return step(build.OutputFile{Output: "j", Kind: project.KindJUnit, Path: "j", Size: int64(len(junitGood)), SHA256: digest.FromString("a")})
		}(),
		"nothing": step(),
	} {
		if p, err := Make(steps, open); err == nil {
			t.Errorf("%s: %+v", name, p)
		} else if errors.Is(err, ErrNone) != (name == "nothing") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRefusesLies(t *testing.T) {
	for _, bad := range []string{
		`{}`, `{"result":"passed"}`, `{"result":"PASSED","failedTests":["x"]}`,
		`{"result":"PASSED","twinhull_tests":{"tests":3,"passed":1,"failed":0,"skipped":0}}`,
		`{"result":"PASSED","twinhull_tests":{"tests":1,"passed":2,"failed":-1,"skipped":0}}`,
		`{"result":"PASSED","twinhull_coverage":[{"unit":"lines","covered":2,"total":1}]}`,
		`{"result":"PASSED","twinhull_coverage":[{"unit":"lines","covered":1,"total":1},{"unit":"lines","covered":1,"total":1}]}`,
		`{"result":"PASSED","result":"FAILED"}`, `{"Result":"PASSED"}`,
	} {
		if p, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", bad, p)
		}
	}
}

func TestLacks(t *testing.T) {
	for text, want := range map[string]string{
		`{"result":"PASSED","configuration":[],"twinhull_tests":{"tests":3,"passed":2,"failed":0,"skipped":1}}`:                                                              "",
		`{"result":"PASSED","configuration":[],"twinhull_tests":{"tests":3,"passed":0,"failed":0,"skipped":3}}`:                                                              "no test passed",
		`{"result":"PASSED","configuration":[],"twinhull_tests":{"tests":3,"passed":0,"failed":0,"skipped":3},"twinhull_coverage":[{"unit":"lines","covered":1,"total":2}]}`: "no test passed",
		`{"result":"FAILED","configuration":[],"twinhull_tests":{"tests":3,"passed":2,"failed":1,"skipped":0}}`:                                                              "1 of 3 tests failed",
		`{"result":"FAILED","configuration":[],"passedTests":["a"]}`:                                                                                                         "the result is FAILED",
		`{"result":"WARNED","configuration":[],"passedTests":["a"]}`:                                                                                                         "the result is WARNED",
		`{"result":"PASSED","configuration":[],"passedTests":["a"]}`:                                                                                                         "",
		`{"result":"PASSED","configuration":[]}`:                                                                                                                             "no test passed",
		`{"result":"PASSED","configuration":[],"twinhull_coverage":[{"unit":"lines","covered":0,"total":2}]}`:                                                                "no test passed",
		`{"result":"PASSED","configuration":[],"twinhull_coverage":[{"unit":"lines","covered":1,"total":2}]}`:                                                                "",
	} {
		p, err := Parse(json.RawMessage(text))
		if got := p.Lacks(); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
}

func fuzz(f *testing.F, seeds []string, read func([]byte) (covered, total int64, err error)) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, n, err := read(data)
		if err == nil && (c < 0 || n < 0 || c > n) {
			t.Fatalf("%d of %d", c, n)
		}
	})
}

func FuzzJUnit(f *testing.F) {
	fuzz(f, []string{junitGood, `<testsuite errors="1"/>`}, func(b []byte) (int64, int64, error) {
		r, err := JUnit(bytes.NewReader(b))
		if r.Passed+r.Failed+r.Skipped != r.Tests {
			panic("totals")
		}
		return int64(r.Passed), int64(r.Tests), err
	})
}

func coverage(read func(io.Reader) (Coverage, error)) func([]byte) (int64, int64, error) {
	return func(b []byte) (int64, int64, error) {
		c, err := read(bytes.NewReader(b))
		return c.Covered, c.Total, err
	}
}

func FuzzLCOV(f *testing.F)      { fuzz(f, []string{lcovGood}, coverage(LCOV)) }
func FuzzCobertura(f *testing.F) { fuzz(f, []string{coberturaGood}, coverage(Cobertura)) }
func FuzzGoCover(f *testing.F)   { fuzz(f, []string{goGood}, coverage(GoCover)) }
