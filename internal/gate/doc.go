// Package gate is the one door to a verdict: it gathers the claims beside an
// image, opens them by the trust policy, inspects the image's bytes, asks the
// vulnerability database and lets package policy decide.
//
// It believes nothing by itself. A claim that cannot be read, or that package
// trust does not open, is listed with its reason and counts as if it were not
// there; what stops the gate from looking at all is an error, which every caller
// must treat as a refusal. It decides nothing either: package policy does, from
// what this package hands it. Its verdict becomes a verification summary
// (Report.Summary), passed or failed, which somebody signs.
package gate
