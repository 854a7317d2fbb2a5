// Package audit is the append-only log of decisions: a Merkle tree on files
// (tlog-tiles) whose signed checkpoints anybody can verify with the log's public
// key alone.
//
// It knows what an entry looks like, not when one is due: whoever decides
// appends, and acts only when the append has returned. It is not a database:
// what the registry must look up is in its own records.
//
// A [Log] writes; a [Reader] reads the files of a log through a [Source] (a
// folder or a server) and believes nothing that a signed checkpoint does not
// cover; [Verify] recomputes the whole tree; a [Witness] remembers what a log has
// signed, so that the log cannot take it back. The formats are those of C2SP:
// signed-note, tlog-checkpoint, tlog-tiles, tlog-proof, tlog-cosignature and
// tlog-witness.
//
// # The files of a log
//
//	checkpoint             the newest signed checkpoint (tlog-checkpoint)
//	tile/entries/…         entries, 256 to a file (tlog-tiles, "Log entries")
//	tile/0/…, tile/1/…     hashes of the tree (tlog-tiles, "Merkle Tree")
//	log.pub                the log's verifier keys, one to a line
//	log.key                the log's private key; not served, not for verifiers
//	log.old.key            the one before it, while both sign
//	lock, .state/…         the writer's own; never served
//
// # What a crash leaves
//
// The steps of an append are: the entries' bundle, the tiles, the state file
// (.state/treeState), each complete and synchronised before the next. The state
// file is the moment: before it the files beyond the recorded size mean nothing
// and are written over, from it on the entries are in the tree. Append returns
// after it. The signed checkpoint follows within [CheckpointInterval] or two, and
// is made from the state file after a restart when a crash came first.
package audit
