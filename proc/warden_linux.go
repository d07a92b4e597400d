//go:build !attune_portable

package proc

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A warden decides about signals where no Landlock keeps them from attune: a filter sees numbers, and attune's threads, each of
// which a signal to the process may be sent through, come and go (seccomp_unotify(2)). Process ids are values, not pointers, so
// what was decided about is what the kernel then does.

// notification and decision are struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type decision struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// guard answers for listener until every process under the filter has ended. The processes it guards are given by their pids.
func guard(listener int, guarded ...int) {
	defer func() { _ = unix.Close(listener) }()
	for {
		poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) || poll[0].Revents&unix.POLLIN == 0 && poll[0].Revents != 0 {
			return
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // whoever asked is gone
		}
		d := decision{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if forbidden(int(int32(n.args[0])), guarded) {
			d.flags, d.err = 0, -int32(unix.EPERM)
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&d)))
	}
}

// forbidden is a target that is, or includes, a guarded process: by any of its threads, its group, or everybody.
func forbidden(target int, guarded []int) bool {
	if target == -1 {
		return true
	}
	for _, pid := range guarded {
		if group, err := unix.Getpgid(pid); err == nil && target == -group && target < 0 {
			return true
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(target)); err == nil && target > 0 {
			return true
		}
	}
	return false
}

// canAsk tells whether a filter may have a warden: not where another one is asked already.
var canAsk = sync.OnceValue(func() bool {
	return onScratchThread(func() error {
		_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		var f filter
		f.ret(unix.SECCOMP_RET_ALLOW)
		listener, err := f.install(true)
		if err == nil {
			_ = unix.Close(listener)
		}
		return err
	})
})
