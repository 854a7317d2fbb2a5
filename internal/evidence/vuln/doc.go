// Package vuln answers, without a network, which known vulnerabilities the
// packages of an image have.
//
// Import turns the files of an OSV database (one zip per ecosystem, as they are
// published) into one indexed file; Open reads it and DB.Match compares it with
// what package inspect found. ParseReport reads what another scanner said of
// the same image as a second opinion, and Make and Parse turn a Result into a
// claim and back.
//
// "No finding" is only worth something from data that is there, whole and
// young. So a Result says for each ecosystem of the image whether it could be
// answered, and everything that could not be told is listed, never left out:
// see Result.Complete, whose zero value refuses. What a finding is worth is for
// package policy, whether a VEX statement silences it for package vex.
package vuln
