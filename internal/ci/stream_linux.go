package ci

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ancestorsMax bounds the way up the tree of processes.
const ancestorsMax = 64

// Captured tells whether stdout leads elsewhere than to the job's log, as in `attune-run … | jq` and $(attune-run …). Both look like a
// job's own pipe. But a shell around them has the job's stderr too, and another stdout: the outermost process that shares this one's
// stderr is asked. Where that cannot be seen, nothing is taken for captured.
func Captured() bool {
	stderr, stdout := link("self", 2), link("self", 1)
	if stderr == "" || stderr == stdout {
		return false
	}
	outermost := stdout
	pid := os.Getppid()
	for range ancestorsMax {
		if pid <= 0 || link(strconv.Itoa(pid), 2) != stderr {
			break
		}
		outermost = link(strconv.Itoa(pid), 1)
		pid = parent(pid)
	}
	return outermost != "" && outermost != stdout
}

func link(pid string, fd int) string {
	target, _ := os.Readlink(fmt.Sprintf("/proc/%s/fd/%d", pid, fd))
	return target
}

// parent is the fourth field of /proc/PID/stat, the second behind the name's closing parenthesis (proc_pid_stat(5)).
func parent(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}
