package policy

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

// Custom is a rule that a policy adds: a CEL expression over the facts and
// claims that must be true.
type Custom struct {
	ID         string
	Title      string
	Expression string
	Message    string // what is told when it is false
	Why, Fix   string
	Severity   Severity
	Zones      []oci.Zone

	program cel.Program
}

func (c *Custom) applies(z oci.Zone) bool { return slices.Contains(c.Zones, z) }

func (c *Custom) rule() Rule {
	return Rule{ID: c.ID, Group: "policy", Title: c.Title, Proves: c.Expression, Why: c.Why, Fix: c.Fix, Severity: c.Severity, Waivable: true}
}

// maxCost bounds an expression, in CEL's own units. A pass over every package
// and finding of a large image takes some tens of thousands.
const maxCost = 1_000_000

// The claims as expressions see them.
type (
	celClaims struct {
		Signatures      []Source           `json:"signatures"`
		Provenance      []celProvenance    `json:"provenance"`
		SBOMs           []celSBOM          `json:"sboms"`
		Tests           []celTests         `json:"tests"`
		VEX             int                `json:"vex"` // documents
		Vulnerabilities []celVulnerability `json:"vulnerabilities"`
	}
	celProvenance struct {
		By                   string `json:"by"`
		Builder              string `json:"builder"`
		BuildType            string `json:"buildType"`
		Inputs               int    `json:"inputs"`
		Hermetic             bool   `json:"hermetic"`
		Parameterless        bool   `json:"parameterless"`
		DependenciesComplete bool   `json:"dependenciesComplete"`
		Reproduced           bool   `json:"reproduced"`
	}
	celSBOM struct {
		By       string `json:"by"`
		Format   string `json:"format"`
		Packages int    `json:"packages"`
	}
	celTests struct {
		By       string  `json:"by"`
		Tests    int     `json:"tests"`
		Passed   int     `json:"passed"`
		Failed   int     `json:"failed"`
		Skipped  int     `json:"skipped"`
		Coverage float64 `json:"coverage"` // percent, the lowest of all units; -1 when it was not measured
	}
	celVulnerability struct {
		ID       string   `json:"id"`
		Aliases  []string `json:"aliases"`
		Package  string   `json:"package"`
		Name     string   `json:"name"`
		Version  string   `json:"version"`
		Severity string   `json:"severity"`
		Score    float64  `json:"score"`
		Fixed    []string `json:"fixed"`
	}
)

// celEnvironment is made once: it is the same for every policy.
var celEnvironment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		// JSON's names, so that what `twinhull inspect --json` prints can be
		// written in an expression. What has none cannot be reached.
		ext.NativeTypes(ext.ParseStructTag("json"), reflect.TypeFor[inspect.Facts](), reflect.TypeFor[celClaims]()),
		cel.Variable("facts", cel.ObjectType("inspect.Facts")),
		cel.Variable("claims", cel.ObjectType("policy.celClaims")),
		cel.Variable("zone", cel.StringType),
		cel.Variable("repository", cel.StringType),
		cel.Variable("now", cel.TimestampType),
		ext.Strings(),
		cel.ParserExpressionSizeLimit(16<<10),
		cel.ParserRecursionLimit(64),
	)
})

// compile checks the expression's types.
func (c *Custom) compile() error {
	env, err := celEnvironment()
	if err != nil {
		return err
	}
	ast, issues := env.Compile(c.Expression)
	if issues != nil && issues.Err() != nil {
		e := issues.Errors()[0]
		return fmt.Errorf("line %d, column %d of the expression: %s", e.Location.Line(), e.Location.Column()+1, e.Message)
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return fmt.Errorf("the expression gives %s, want bool", cel.FormatCELType(ast.OutputType()))
	}
	c.program, err = env.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	return err
}

func (c *Custom) check(j *judge) {
	ok, err := c.run(j)
	switch {
	case err != nil:
		j.cannotTellf(c.ID, "the expression cannot be evaluated: %v", err)
	case !ok:
		j.failf(c.ID, "%s", c.Message)
	case !j.facts.Complete:
		j.outcome(CannotTell, "not every byte of the image was read: see %s", inspect.RuleUnreadable)
	}
}

func (c *Custom) run(j *judge) (ok bool, err error) {
	// A library that panics must not take the decision with it.
	defer func() {
		if r := recover(); r != nil {
			ok, err = false, fmt.Errorf("%v", r)
		}
	}()
	if c.program == nil {
		return false, fmt.Errorf("it was never compiled")
	}
	if j.vars == nil {
		j.vars = map[string]any{"facts": j.facts, "claims": j.claims(), "zone": string(j.in.Zone), "repository": j.in.Repository, "now": j.in.Now.UTC()}
	}
	out, _, err := c.program.Eval(j.vars)
	if err != nil {
		return false, err
	}
	b, isBool := out.(types.Bool)
	if !isBool {
		return false, fmt.Errorf("it gave %s", out.Type().TypeName())
	}
	return bool(b), nil
}

func (j *judge) claims() *celClaims {
	e := &j.in.Evidence
	c := &celClaims{Signatures: e.Signatures, VEX: len(e.VEX)}
	for _, p := range e.Provenance {
		c.Provenance = append(c.Provenance, celProvenance{p.By, p.Builder, p.BuildType, p.Inputs, p.Hermetic, p.Parameterless, p.DependenciesComplete, p.Reproduced})
	}
	for _, s := range e.SBOMs {
		c.SBOMs = append(c.SBOMs, celSBOM{s.By, s.Format, len(s.Packages)})
	}
	for _, t := range e.Tests {
		x := celTests{t.By, t.Tests, t.Passed, t.Failed, t.Skipped, -1}
		for _, m := range t.Coverage {
			if m.Measured && (x.Coverage < 0 || m.Percent < x.Coverage) {
				x.Coverage = m.Percent
			}
		}
		c.Tests = append(c.Tests, x)
	}
	for _, v := range j.known() {
		c.Vulnerabilities = append(c.Vulnerabilities, celVulnerability{v.ID, v.Aliases, v.Package, v.Name, v.Version, string(cmp.Or(v.Severity, "unknown")), v.Score, v.Fixed})
	}
	return c
}

// parseTime reads a date (its first moment, in UTC) or an RFC 3339 time.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
