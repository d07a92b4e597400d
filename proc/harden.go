package proc

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Harden does what Run does before its first child: no core dumps, memory closed to other processes of the user (on Linux),
// inherited descriptors closed on exec. Call it before secrets are in memory.
func Harden() { harden() }

var (
	coreLimit unix.Rlimit // as attune found it
	coreKnown bool        // it was lowered
)

func forbidCores() {
	if unix.Getrlimit(unix.RLIMIT_CORE, &coreLimit) == nil && coreLimit.Cur > 0 {
		coreKnown = true
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: coreLimit.Max})
	}
}

// closeOnExecOneByOne keeps the descriptors that attune was started with, all in a directory of descriptors, from its children.
func closeOnExecOneByOne(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}
