package policy

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

// TestTable wants every rule to say everything, and every finding that
// inspection can tell to be owned by exactly one rule.
func TestTable(t *testing.T) {
	owner := map[string]string{}
	ids := map[string]bool{}
	for _, r := range Rules() {
		if ids[r.ID] || !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(r.ID) {
			t.Errorf("rule %q stands twice or has another form of id", r.ID)
		}
		ids[r.ID] = true
		for _, text := range []string{r.Group, r.Title, r.Proves, r.Why, r.Fix, r.Waive, string(r.Severity)} {
			if text == "" {
				t.Errorf("%s says not everything: %+v", r.ID, r)
				break
			}
		}
		if r.Production == Off || r.check == nil {
			t.Errorf("%s is never applied", r.ID)
		}
		for _, f := range r.Findings {
			if owner[f] != "" {
				t.Errorf("finding %s is owned by %s and %s", f, owner[f], r.ID)
			}
			owner[f] = r.ID
		}
	}
	for _, f := range inspect.Rules() {
		if owner[f] == "" {
			t.Errorf("no rule owns the finding %s", f)
		}
		delete(owner, f)
	}
	for f, r := range owner {
		t.Errorf("%s owns %s, which inspection does not tell", r, f)
	}
	for _, id := range []string{RuleZone, RuleSignature, inspect.RuleUnreadable, inspect.RuleHostile, inspect.RuleInconsistent} {
		if r, ok := FindRule(id); !ok || r.Waivable {
			t.Errorf("%s can be waived", id)
		}
	}
	if r, _ := FindRule(RuleZone); r.Effect(oci.Development) != Refuses || r.Effect("") != Off {
		t.Error("the one rule of development is the zone")
	}
}

// TestGroups keeps rules of a group together: they are shown in this order.
func TestGroups(t *testing.T) {
	var seen []string
	for _, r := range Rules() {
		if n := len(seen); n == 0 || seen[n-1] != r.Group {
			if slices.Contains(seen, r.Group) {
				t.Errorf("group %s is told in two places", r.Group)
			}
			seen = append(seen, r.Group)
		}
	}
}

// TestDocumented: doc/gate.md names every rule, says which cannot be waived and
// has an example that is a policy.
func TestDocumented(t *testing.T) {
	data, err := os.ReadFile("../../doc/gate.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	for _, r := range Rules() {
		if !strings.Contains(page, "`"+r.ID+"`") {
			t.Errorf("doc/gate.md does not name %s", r.ID)
		}
	}
	_, cannot, _ := strings.Cut(page, "cannot be waived for every subject.")
	cannot, _, _ = strings.Cut(cannot, "cannot be waived at all")
	for _, r := range Rules() {
		if strings.Contains(cannot, "`"+r.ID+"`") == r.Waivable {
			t.Errorf("doc/gate.md and the table disagree on whether %s can be waived", r.ID)
		}
	}
	_, example, ok := strings.Cut(page, "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	p, err := Read("doc/gate.md", []byte(example))
	if !ok || err != nil || len(p.Rules) != 1 || len(p.Waivers) != 1 {
		t.Errorf("the example: %v", err)
	}
}
