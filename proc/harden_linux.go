//go:build !attune_portable

package proc

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

var hardenOnce sync.Once

// harden prepares attune itself, once, before its first child: orphans come to attune, its memory is closed to
// other processes, nobody dumps core, and descriptors attune was started with stay with it. What a
// kernel or a sandbox refuses is left as it is.
func harden() {
	hardenOnce.Do(func() {
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		forbidCores()
		if os.Getpid() == 1 {
			go reapStrays()
		}
		if unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC) != nil { // kernels before 5.11
			closeOnExecOneByOne("/proc/self/fd")
		}
	})
}

// restoreCoreLimit gives a child of the host profile the limit attune was started with.
func restoreCoreLimit(pid int) {
	if coreKnown {
		_ = unix.Prlimit(pid, unix.RLIMIT_CORE, &coreLimit, nil)
	}
}
