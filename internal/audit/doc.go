// Package audit is the append-only log of decisions: a Merkle tree on files
// (tlog-tiles) whose signed checkpoints anybody can verify with the log's public
// key alone.
//
// It knows what an entry looks like, not when one is due: whoever decides
// appends, and acts only when the append has returned. It is not a database:
// what the registry must look up is in its own records.
package audit
