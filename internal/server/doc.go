// Package server is `twinhull serve`: the configuration, the wiring of the
// registry, the release service and the audit log to one address, and what every
// server needs around them: TLS, limits, logs, metrics, health, back-up and an
// orderly end.
//
// It decides nothing that concerns an image. Rules are in package registry and
// its subpackages; this package only brings them together, by hand, in Open.
package server
