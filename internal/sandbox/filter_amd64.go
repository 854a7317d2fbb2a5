package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64
	sysMknod  = unix.SYS_MKNOD
)

// archRefused are calls that only this architecture has.
var archRefused = []refusal{
	{unix.SYS_IOPL, unix.EPERM}, {unix.SYS_IOPERM, unix.EPERM},
	{unix.SYS__SYSCTL, unix.ENOSYS}, {unix.SYS_USELIB, unix.ENOSYS}, {unix.SYS_CREATE_MODULE, unix.ENOSYS},
	{unix.SYS_GET_KERNEL_SYMS, unix.ENOSYS}, {unix.SYS_QUERY_MODULE, unix.ENOSYS},
}

// chownCalls are all ways to change an owner.
var chownCalls = []uintptr{unix.SYS_CHOWN, unix.SYS_LCHOWN, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT}

// legacyChown normalises the calls that only this architecture has.
func legacyChown(nr int32) (follow, ok bool) {
	switch nr {
	case unix.SYS_CHOWN:
		return true, true
	case unix.SYS_LCHOWN:
		return false, true
	}
	return false, false
}
