// Package sandbox runs one command over one file tree without a network.
//
// It is what a build step, the configuration of a development tree and
// "twinhull run" stand on: a process tree in namespaces of its own (user,
// mount, pid, net, ipc, uts, cgroup) that sees an overlay of given folders, a
// masked /proc, a minimal /dev and the loopback device, and whose every chown
// is recorded instead of needing privileges. It needs no daemon, no external
// binary, no set-uid helper and no root, and behaves the same for root and for
// an ordinary user, so that the bits a step leaves do not depend on who ran it.
//
// It is not a container runtime: it knows no images, no lifecycle, no host
// networking beyond "shared" and "none", and it keeps nothing between runs.
// Which folders, mounts and limits a command gets is the caller's decision.
//
// # How a run goes
//
//  1. Start re-executes this program in new namespaces, maps one user and one
//     group id onto the caller's own, and sends the specification over a pipe.
//     Every program that uses the package calls Init first thing in main.
//  2. The copy, process 1 inside, opens all sources, mounts the overlay and
//     the rest, makes the old tree read-only, pivots and detaches it.
//  3. On one locked thread it drops capabilities, sets no_new_privs, installs
//     the system call filter and forks the command; its other threads answer
//     the calls that the filter hands over (see FakeOwners), reap orphans and
//     pass connections to the caller.
//  4. When the command ends, process 1 reports and exits, and the kernel kills
//     what is left in the pid namespace before Wait returns.
//
// # What it protects from
//
// A build script, compiler, maintainer script or dependency that is careless
// or hostile: it reaches no network and no host process, sees no file that is
// not in the specification, changes nothing that was not given as writable,
// keeps no file descriptor but 0, 1 and 2 (pipes, never the caller's own
// files), cannot outlive its run, and cannot push keystrokes into the
// caller's terminal.
//
// # What it does not protect from
//
// A hole in the kernel: the kernel is shared, and the sandboxed process has the
// caller's host identity, so what escapes has the caller's rights; whoever
// must run truly hostile code does it in a virtual machine. Exhaustion of the
// machine where no cgroup is delegated (Result.Limits says what was enforced).
// Side channels. A pathname socket in a folder that the caller mounts. What
// Network: Host allows. The clock, the kernel's version and the processor can
// be read inside. doc/sandbox.md holds the complete table.
package sandbox
