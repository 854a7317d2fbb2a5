// Package distribution is the HTTP of a registry: the OCI distribution
// specification 1.1, with the few older Docker headers that clients still read.
//
// A request becomes a value (Parse, pure), the caller's judge decides about it
// before anything is read, and only then it is carried out, by a Registry that
// judges once more, by the rules of its catalogs. Nothing is decided here: no
// rule about catalogs (package registry), no user (package access).
//
// # Slow and vanishing clients
//
// A client that makes no progress for Limits.Stall loses its connection, a slow
// one does not; what was received of an upload stays, for the client to resume.
// The http.Server around the handler should therefore set ReadHeaderTimeout and
// IdleTimeout, but neither ReadTimeout nor WriteTimeout, which would end slow
// clients too. Whoever wraps the http.ResponseWriter must pass on io.ReaderFrom
// and Unwrap: without the first the kernel no longer sends files itself, without
// the second stalled clients stay.
package distribution
