package proc

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is what the system says of one.
type process struct {
	pid, parent, group, session int
	zombie                      bool
}

// restMax is when a process that cannot die, in an uninterruptible system call for one, is given up.
const restMax = 10 * time.Second

// descendants are the processes below pid as they are now, for signals that may miss some.
func descendants(pid int) []process {
	byParent := map[int][]process{}
	for _, p := range processes() {
		byParent[p.parent] = append(byParent[p.parent], p)
	}
	var below []process
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		for _, p := range byParent[queue[0]] {
			below = append(below, p)
			queue = append(queue, p.pid)
		}
	}
	return below
}

// signalStrays reaches the descendants of a leader that left its process group.
func signalStrays(leader int, sig syscall.Signal) {
	for _, p := range descendants(leader) {
		if p.group != leader {
			_ = unix.Kill(p.pid, sig)
		}
	}
}
