// Package durable writes files that are complete or absent after a crash.
//
// A write goes to a temporary file in the target's folder, is synchronised,
// renamed into place, and the folder is synchronised; so a reader sees the old
// file or the new one, and an acknowledged write survives a power cut. It also
// holds the advisory folder lock that keeps two processes from doing the same
// work at once. It is not a store: names and meaning belong to the caller.
package durable
