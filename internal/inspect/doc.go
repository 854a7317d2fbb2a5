// Package inspect reads an image's bytes once and says what is in it.
//
// The layers stream through many detectors at the same time: tools known by
// what is inside them whatever they are called, secrets, packages, ELF files,
// leftovers, permissions. Then the layers are stacked as a runtime would stack
// them, and what was found is told of the final file system, and of what lower
// layers still carry although nobody can see it (Finding.Hidden).
//
// It judges nothing: package policy decides what may go where. It believes
// nothing: an image may be made to fill memory, to climb out of its root or to
// look empty, and whatever cannot be read is a Finding of RuleUnreadable and
// leaves Facts.Complete false, never silence. It writes nothing to disk, and
// its memory is bounded whatever the image's size.
//
// Where to look: layer.go reads a layer, file.go one file, tree.go stacks;
// tools.go, secret.go, packages.go, leftovers.go and config.go are the
// detectors. The package corpus beside it makes bad images for tests.
package inspect
