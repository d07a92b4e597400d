//go:build !attune_portable

package proc

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the other process of asAnother could do.
const (
	readEnviron = 1 << iota
	openedMemory
	sentSignal
)

// asAnother attempts, as another process under the calling thread's restrictions, to read and to signal attune.
func (s song) asAnother() (memory, signal string) {
	path := func(file string) *byte {
		return unsafe.SliceData(append([]byte(fmt.Sprintf("/proc/%d/%s", s.Attune[0], file)), 0))
	}
	environ, mem := path("environ"), path("mem")
	ids := s.threads()
	var all, before [1]uint64
	all[0] = ^uint64(0)
	// No signal handler of Go may run in the copy.
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&before)), 8, 0, 0)
	pid, errno := forkToAttempt(environ, mem, &ids[0], len(ids))
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&before)), 0, 8, 0, 0)
	var status unix.WaitStatus
	if errno != 0 {
		return errno.Error(), errno.Error()
	}
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if !status.Exited() {
		return "the canary died", "the canary died"
	}
	if status.ExitStatus()&(readEnviron|openedMemory) != 0 {
		memory = "attune's environment or memory could be read"
	}
	if status.ExitStatus()&sentSignal != 0 {
		signal = "attune could be signalled"
	}
	return memory, signal
}

// forkToAttempt forks without a new program. Behind the clone there is one thread and no Go runtime: nothing but system calls.
//
//go:nosplit
//go:norace
func forkToAttempt(environ, mem *byte, ids *int, n int) (pid int, errno unix.Errno) {
	const open, atCwd = unix.O_RDONLY | unix.O_CLOEXEC, ^uintptr(99) // AT_FDCWD is -100
	child, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if child != 0 || errno != 0 {
		return int(child), errno
	}
	done := uintptr(0)
	var b [1]byte
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, atCwd, uintptr(unsafe.Pointer(environ)), open, 0, 0, 0)
	if errno == 0 {
		if got, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&b)), 1); errno == 0 && got == 1 {
			done |= readEnviron
		}
	}
	if _, _, errno = unix.RawSyscall6(unix.SYS_OPENAT, atCwd, uintptr(unsafe.Pointer(mem)), open, 0, 0, 0); errno == 0 {
		done |= openedMemory
	}
	for i := range n {
		id := *(*int)(unsafe.Add(unsafe.Pointer(ids), uintptr(i)*unsafe.Sizeof(*ids)))
		if _, _, errno = unix.RawSyscall(unix.SYS_KILL, uintptr(id), 0, 0); errno == 0 {
			done |= sentSignal
		}
		if id > 0 {
			if _, _, errno = unix.RawSyscall(unix.SYS_TGKILL, uintptr(*ids), uintptr(id), 0); errno == 0 {
				done |= sentSignal
			}
		}
	}
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, done, 0, 0)
	}
}
