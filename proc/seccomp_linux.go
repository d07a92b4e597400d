//go:build !attune_portable

package proc

import (
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filter is a seccomp program: it denies what an action has no business with, and lets the rest pass (seccomp(2)).
// It is assembled here because it must refuse foreign ABIs, where a filter by system call name lets them through.
type filter []unix.SockFilter

// The offsets of struct seccomp_data (seccomp(2)); arguments are compared by their low 32 bits, which come first on the
// machines attune knows.
const (
	dataNumber   = 0
	dataArch     = 4
	dataArgument = 16
)

// newNamespaces are the flags of clone and unshare that make namespaces (clone(2)). CLONE_NEWTIME lies among the bits
// that clone uses for a signal, and is for unshare alone.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET

// denied fail with EPERM whatever their arguments.
var denied = []uint32{
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD, unix.SYS_PROCESS_MADVISE,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN,
	unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_SETNS,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME,
	unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_VHANGUP, unix.SYS_SYSLOG,
}

// filterSpec says what a filter protects beside the machine.
type filterSpec struct {
	// Protect are attune's pid, its process group, negative, and its threads, as far as they are known. Signals to them are
	// refused here even where Landlock does it: the thread that forks is in the child's domain.
	Protect   []int `json:",omitempty"`
	Signals   bool  `json:",omitempty"` // nothing else keeps signals from attune: refuse those to everybody as well
	Ask       bool  `json:",omitempty"` // signals to one process are decided by a warden: threads come and go
	NoNetwork bool  `json:",omitempty"` // no sockets but local ones
}

// itself are attune's process id, its process group, negative, and its threads, as they are now.
func itself() []int {
	ids := []int{os.Getpid(), -unix.Getpgrp()}
	if tasks, err := os.ReadDir("/proc/self/task"); err == nil {
		for _, task := range tasks {
			if id, err := strconv.Atoi(task.Name()); err == nil && id != ids[0] {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// assemble writes the program. Each block falls through to the next, so that no jump is long.
func (s filterSpec) assemble() filter {
	var f filter
	f.load(dataArch)
	f.unless(unix.BPF_JEQ, auditArch, unix.SECCOMP_RET_KILL_PROCESS)
	f.load(dataNumber)
	if foreignBit != 0 {
		f.when(unix.BPF_JGE, foreignBit, failWith(unix.ENOSYS))
	}
	for _, number := range append(denied, deniedHere...) {
		f.when(unix.BPF_JEQ, number, failWith(unix.EPERM))
	}
	// clone3 takes its flags where a filter cannot see them; libraries fall back to clone (clone(2)).
	f.when(unix.BPF_JEQ, unix.SYS_CLONE3, failWith(unix.ENOSYS))
	f.when(unix.BPF_JEQ, unix.SYS_PIDFD_SEND_SIGNAL, failWith(unix.ENOSYS)) // nor whom this is for; they fall back to kill
	f.argument(unix.SYS_CLONE, 0, unix.BPF_JSET, newNamespaces)
	f.argument(unix.SYS_UNSHARE, 0, unix.BPF_JSET, newNamespaces|unix.CLONE_NEWTIME)
	f.argument(unix.SYS_IOCTL, 1, unix.BPF_JEQ, unix.TIOCSTI) // types into the caller's terminal
	f.argument(unix.SYS_IOCTL, 1, unix.BPF_JEQ, unix.TIOCLINUX)
	f.others(unix.SYS_PRLIMIT64, 0) // of another process: attune's own limits could end it
	for _, number := range []uint32{unix.SYS_SCHED_SETSCHEDULER, unix.SYS_SCHED_SETATTR, unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETAFFINITY} {
		f.oneOf(number, 0, s.Protect)
	}
	f.oneOf(unix.SYS_SETPRIORITY, 1, s.Protect)
	f.argument(unix.SYS_SETPRIORITY, 0, unix.BPF_JEQ, unix.PRIO_USER)
	signals := s.Protect
	if s.Signals {
		signals = append([]int{-1}, signals...)
	}
	f.oneOf(unix.SYS_TGKILL, 0, signals) // never asked about: attune's own runtime signals its threads by it
	f.oneOf(unix.SYS_RT_TGSIGQUEUEINFO, 0, signals)
	for _, number := range []uint32{unix.SYS_KILL, unix.SYS_TKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_PIDFD_OPEN} {
		if s.Ask {
			f.load(dataNumber)
			f.when(unix.BPF_JEQ, number, unix.SECCOMP_RET_USER_NOTIF)
		} else {
			f.oneOf(number, 0, signals)
		}
	}
	if s.NoNetwork {
		f.load(dataNumber)
		f.jump(unix.BPF_JEQ, unix.SYS_SOCKET, 0, 3)
		f.load(dataArgument)
		f.unless(unix.BPF_JEQ, unix.AF_UNIX, failWith(unix.EACCES))
	}
	f.ret(unix.SECCOMP_RET_ALLOW)
	return f
}

func failWith(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }

func (f *filter) load(offset uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

func (f *filter) ret(value uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value})
}

func (f *filter) jump(op uint16, k uint32, yes, no uint8) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no})
}

// when returns value if what was loaded compares with k; unless, if it does not.
func (f *filter) when(op uint16, k, value uint32) { f.jump(op, k, 0, 1); f.ret(value) }

func (f *filter) unless(op uint16, k, value uint32) { f.jump(op, k, 1, 0); f.ret(value) }

// argument denies a system call whose argument compares with k.
func (f *filter) argument(number uint32, index uint32, op uint16, k uint32) {
	f.load(dataNumber)
	f.jump(unix.BPF_JEQ, number, 0, 3)
	f.load(dataArgument + 8*index)
	f.when(op, k, failWith(unix.EPERM))
}

// oneOf denies a system call whose argument is one of ids.
func (f *filter) oneOf(number uint32, index uint32, ids []int) {
	ids = ids[:min(len(ids), 120)] // what one jump reaches
	f.load(dataNumber)
	f.jump(unix.BPF_JEQ, number, 0, uint8(1+2*len(ids)))
	f.load(dataArgument + 8*index)
	for _, id := range ids {
		f.when(unix.BPF_JEQ, uint32(id), failWith(unix.EPERM))
	}
}

// others denies a system call whose argument is not zero: not the caller itself.
func (f *filter) others(number uint32, index uint32) {
	f.load(dataNumber)
	f.jump(unix.BPF_JEQ, number, 0, 3)
	f.load(dataArgument + 8*index)
	f.unless(unix.BPF_JEQ, 0, failWith(unix.EPERM))
}

// install binds the calling thread, and what it forks, alone. A filter that asks gives a descriptor for its warden, others -1.
func (f filter) install(ask bool) (listener int, err error) {
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	flags := uintptr(0)
	if ask {
		flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return -1, errno
	case ask:
		return int(fd), nil
	}
	return -1, nil
}
