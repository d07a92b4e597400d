//go:build !attune_portable

package proc

import "golang.org/x/sys/unix"

const (
	auditArch  = unix.AUDIT_ARCH_AARCH64
	foreignBit = 0 // 32-bit programs have an architecture of their own
)

var deniedHere []uint32
