package proc

import (
	"errors"
	"math"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// argumentBounds are those of execve(2): ARG_MAX.
const argumentBounds = "all arguments and variables together may hold 1 MiB"

// rssUnit is that of ru_maxrss in bytes (getrusage(2)).
const rssUnit = 1

// The states of a process (sys/proc.h).
const (
	stateStopped = 4
	stateZombie  = 5
)

// newPipe is one that no other child inherits. There is no pipe2.
func newPipe() (r, w int, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var fds [2]int
	if err = unix.Pipe(fds[:]); err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	return fds[0], fds[1], os.NewSyscallError("pipe", err)
}

// awaitEnd blocks until a child has ended, without reaping it, or, where that is asked for, was stopped. waitid(2) could do both, but
// returns for stopped children whether asked to or not.
func awaitEnd(pid int, stops bool) (stopped bool) {
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		stopped, err := awaitEvent(pid, stops)
		if err == nil {
			return stopped
		}
		time.Sleep(pause) // descriptors or memory ran out: they come back
	}
}

// awaitEvent is awaitEnd with one queue of events (kqueue(2)). What happened before the queue existed is looked for.
func awaitEvent(pid int, stops bool) (stopped bool, err error) {
	queue, err := unix.Kqueue()
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(queue) }()
	unix.CloseOnExec(queue)
	changes := make([]unix.Kevent_t, 1, 2)
	unix.SetKevent(&changes[0], pid, unix.EVFILT_PROC, unix.EV_ADD)
	changes[0].Fflags = unix.NOTE_EXIT
	if stops {
		changes = changes[:2]
		unix.SetKevent(&changes[1], int(unix.SIGCHLD), unix.EVFILT_SIGNAL, unix.EV_ADD)
	}
	if _, err := unix.Kevent(queue, changes, nil, nil); errors.Is(err, unix.ESRCH) { // a zombie
		return false, nil
	} else if err != nil && !errors.Is(err, unix.EINTR) { // the changes are made even so
		return false, err
	}
	for {
		switch state := stateOf(pid); {
		case state == stateZombie:
			return false, nil
		case stops && state == stateStopped:
			return true, nil
		}
		events := make([]unix.Kevent_t, 1)
		n, err := unix.Kevent(queue, nil, events, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, err
		case n == 1 && events[0].Filter == unix.EVFILT_PROC:
			return false, nil
		}
	}
}

// stateOf is a process's state; 0 when there is none.
func stateOf(pid int) int8 {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return 0
	}
	return info.Proc.P_stat
}

// stopSelf returns when attune goes on: the task is suspended on its way out of the system call.
func stopSelf() { _ = unix.Kill(unix.Getpid(), unix.SIGSTOP) }

// mostOf is what a limit can be raised to, whatever its hard limit is: setrlimit(2) refuses more.
func mostOf(resource int) uint64 {
	if resource == unix.RLIMIT_NOFILE {
		if files, err := unix.SysctlUint32("kern.maxfilesperproc"); err == nil {
			return uint64(files)
		}
	}
	return math.MaxUint64
}

// tasksOf counts the processes of a user, which RLIMIT_NPROC counts together.
func tasksOf(uid int) int64 {
	all, _ := unix.SysctlKinfoProcSlice("kern.proc.ruid", uid)
	return int64(len(all))
}

// processes are all that can be seen.
func processes() []process {
	infos, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil
	}
	all := make([]process, 0, len(infos))
	for _, info := range infos {
		p := process{pid: int(info.Proc.P_pid), parent: int(info.Eproc.Ppid), group: int(info.Eproc.Pgid), zombie: info.Proc.P_stat == stateZombie}
		p.session, _ = unix.Getsid(p.pid) // fails for a zombie, which is nobody's to end
		all = append(all, p)
	}
	return all
}
