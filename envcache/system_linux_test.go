package envcache

import (
	"testing"

	"runtime"
	"syscall"
	"unsafe"

	"github.com/stretchr/testify/require"

	"golang.org/x/sys/unix"
)

// denyFlock makes every flock(2) of this process fail, by a seccomp filter (seccomp(2), struct seccomp_data) on all its threads.
// The architecture is not looked at: the process makes only calls of its own.
func denyFlock(errno syscall.Errno) error {
	const number = 0 // offset of the system call's number in seccomp_data
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FLOCK, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // SECCOMP_FILTER_FLAG_TSYNC gives the filter, and the promise before it, to the other threads
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, err := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if err != 0 {
		return err
	}
	return nil
}

// mountMemory puts an empty file system of its own at dir until the test ends.
func mountMemory(t testing.TB, dir, options string) {
	t.Helper()
	require.NoError(t, unix.Mount("attune", dir, "tmpfs", 0, options))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// remountReadOnly makes what mountMemory mounted read-only.
func remountReadOnly(t testing.TB, dir string) {
	t.Helper()
	require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}

// bindReadOnly makes a directory read-only until the test ends.
func bindReadOnly(t testing.TB, dir string) {
	t.Helper()
	require.NoError(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	require.NoError(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}
