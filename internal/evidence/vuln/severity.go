package vuln

import (
	"math"
	"strconv"
	"strings"
)

// levelOf is the level of a base score (CVSS v3.1, section 5). A score of v2
// gets the level of v3 too, which is never lower than its own scale.
func levelOf(score float64) Level {
	switch {
	case !(score >= 0 && score <= 10):
		return LevelUnknown
	case score == 0:
		return LevelNone
	case score < 4:
		return LevelLow
	case score < 7:
		return LevelMedium
	case score < 9:
		return LevelHigh
	}
	return LevelCritical
}

// levelWord reads the words that databases and scanners use for a level.
func levelWord(word string) Level {
	switch strings.ToLower(strings.TrimSpace(word)) {
	case "none", "informational", "info":
		return LevelNone
	// Debian's "unimportant" and other scanners' "negligible": somebody thought
	// that it does not matter here, not that nothing is there.
	case "low", "unimportant", "negligible":
		return LevelLow
	case "medium", "moderate":
		return LevelMedium
	case "high", "important":
		return LevelHigh
	case "critical":
		return LevelCritical
	}
	return LevelUnknown
}

// ofVector reads a CVSS vector. Of version 4, whose score comes from a table of
// expert judgements, only the vector is kept. A vector that breaks the rules of
// its version says nothing.
func ofVector(vector string) Severity {
	unknown := Severity{Level: LevelUnknown}
	if len(vector) > 256 {
		return unknown
	}
	version := "CVSS:2.0"
	rest := strings.Trim(vector, "()")
	if head, tail, ok := strings.Cut(vector, "/"); ok && strings.HasPrefix(head, "CVSS:") {
		version, rest = head, tail
	}
	metrics := map[string]string{}
	for part := range strings.SplitSeq(rest, "/") {
		name, value, ok := strings.Cut(part, ":")
		if !ok || metrics[name] != "" || name == "" || value == "" {
			return unknown
		}
		metrics[name] = value
	}
	switch version {
	case "CVSS:2.0":
		if score, ok := scoreV2(metrics); ok {
			return Severity{Level: levelOf(score), Score: score, Vector: vector, Method: "CVSS_V2"}
		}
	case "CVSS:3.0", "CVSS:3.1":
		if score, ok := scoreV3(metrics); ok {
			return Severity{Level: levelOf(score), Score: score, Vector: vector, Method: "CVSS_V3"}
		}
	case "CVSS:4.0":
		return Severity{Level: LevelUnknown, Vector: vector}
	}
	return unknown
}

// take removes a metric and gives the weight of its value.
func take(metrics map[string]string, name string, weights map[string]float64) (float64, bool) {
	w, ok := weights[metrics[name]]
	delete(metrics, name)
	return w, ok
}

// onlyThese tells whether nothing but metrics of the other groups is left.
func onlyThese(metrics map[string]string, names string) bool {
	for name := range metrics {
		if !strings.Contains(names, " "+name+" ") {
			return false
		}
	}
	return true
}

// scoreV3 is the base score (CVSS v3.1, section 7.1). Temporal and environmental
// metrics are somebody's view of a moment and a place, and are not counted.
func scoreV3(m map[string]string) (float64, bool) {
	scope := m["S"]
	delete(m, "S")
	if scope != "U" && scope != "C" {
		return 0, false
	}
	privileges := map[string]float64{"N": 0.85, "L": 0.62, "H": 0.27}
	if scope == "C" {
		privileges = map[string]float64{"N": 0.85, "L": 0.68, "H": 0.5}
	}
	impact := map[string]float64{"H": 0.56, "L": 0.22, "N": 0}
	av, ok1 := take(m, "AV", map[string]float64{"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2})
	ac, ok2 := take(m, "AC", map[string]float64{"L": 0.77, "H": 0.44})
	pr, ok3 := take(m, "PR", privileges)
	ui, ok4 := take(m, "UI", map[string]float64{"N": 0.85, "R": 0.62})
	c, ok5 := take(m, "C", impact)
	i, ok6 := take(m, "I", impact)
	a, ok7 := take(m, "A", impact)
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7) || !onlyThese(m, " E RL RC CR IR AR MAV MAC MPR MUI MS MC MI MA ") {
		return 0, false
	}
	iss := 1 - (1-c)*(1-i)*(1-a)
	total := 6.42 * iss
	if scope == "C" {
		total = 7.52*(iss-0.029) - 3.25*math.Pow(iss-0.02, 15)
	}
	if total <= 0 {
		return 0, true
	}
	score := total + 8.22*av*ac*pr*ui
	if scope == "C" {
		score *= 1.08
	}
	return roundUp(min(score, 10)), true
}

// roundUp is "Roundup" of CVSS v3.1, appendix A.
func roundUp(x float64) float64 {
	n := int(math.Round(x * 100000))
	if n%10000 == 0 {
		return float64(n/10000) / 10
	}
	return float64(n/10000+1) / 10
}

// scoreV2 is the base score (CVSS v2, section 3.2.1).
func scoreV2(m map[string]string) (float64, bool) {
	impact := map[string]float64{"N": 0, "P": 0.275, "C": 0.660}
	av, ok1 := take(m, "AV", map[string]float64{"L": 0.395, "A": 0.646, "N": 1})
	ac, ok2 := take(m, "AC", map[string]float64{"H": 0.35, "M": 0.61, "L": 0.71})
	au, ok3 := take(m, "Au", map[string]float64{"M": 0.45, "S": 0.56, "N": 0.704})
	c, ok4 := take(m, "C", impact)
	i, ok5 := take(m, "I", impact)
	a, ok6 := take(m, "A", impact)
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) || !onlyThese(m, " E RL RC CDP TD CR IR AR ") {
		return 0, false
	}
	total := 10.41 * (1 - (1-c)*(1-i)*(1-a))
	if total == 0 {
		return 0, true
	}
	score := (0.6*total + 0.4*20*av*ac*au - 1.5) * 1.176
	return math.Round(score*10) / 10, true
}

// worse returns the more worrying of two severities of one vulnerability. What
// is known counts more than what is not: LevelUnknown says only that one of two
// databases gave no severity.
func worse(a, b Severity) Severity {
	switch {
	case b.Level.rank() > a.Level.rank(), b.Level.rank() == a.Level.rank() && b.Score > a.Score:
		a, b = b, a
	}
	if a.Vector == "" && a.Level.rank() == b.Level.rank() && a.Score == 0 {
		a.Vector = b.Vector
	}
	return a
}

// parseScore reads a number that a report gives as a score.
func parseScore(s string) (float64, bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	return f, err == nil && f >= 0 && f <= 10
}
