// Package policy decides whether an image may go where somebody wants it to
// go: from the facts of its bytes, the claims that were opened, the zone that is
// asked for and the time, to a Verdict with every reason.
//
// It is pure: no network, no disk, no clock. Equal inputs give equal verdicts.
// It refuses by default: the zero Verdict refuses, a rule that cannot tell
// refuses, and so does a rule that fails to run. It reads no image (package
// inspect does), opens no claim (package trust does) and gathers nothing
// (package gate does).
//
// Where to look: rules.go is the table of rules with the texts that people
// read; evaluate.go goes through it; contents.go, zone.go, claims.go and
// vulnerabilities.go hold the rules that ask more than whether something was
// found; read.go reads policy.yaml, cel.go runs the rules that it adds and
// waivers.go what it excuses.
package policy
