package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch         = unix.AUDIT_ARCH_AARCH64
	sysMknod  uintptr = 0 // only mknodat
)

// archRefused are calls that only this architecture has.
var archRefused []refusal

// chownCalls are all ways to change an owner.
var chownCalls = []uintptr{unix.SYS_FCHOWN, unix.SYS_FCHOWNAT}

// legacyChown: this architecture has no calls older than fchownat.
func legacyChown(int32) (follow, ok bool) { return false, false }
