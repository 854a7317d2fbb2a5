//go:build race

package vuln

// The race detector keeps several times the memory.
const raceEnabled = true
